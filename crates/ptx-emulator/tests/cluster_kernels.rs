//! Kernels of a cluster, compiled by NVRTC 13.0 (`--gpu-architecture=compute_90 -lineinfo`) from the source beside them,
//! right and with one bug each.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Shape};

const CLUSTER: &str = include_str!("fixtures/cluster.ptx");
const SIZE: usize = 256;

fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / 8_388_608.0 - 1.0) / 8.0
    };
    (0..count).map(|_| next()).collect()
}

fn expected(steps: usize) -> Vec<f32> {
    let (w, mut x) = (numbers(SIZE * SIZE, 1), numbers(SIZE, 2));
    for _ in 0..steps {
        let product = |row: usize| (0..SIZE).fold(0f32, |sum, i| w[row * SIZE + i].mul_add(x[i], sum));
        // The emulator's `tanh.approx` is computed in f64.
        x = (0..SIZE).map(|row| f64::from(product(row)).tanh() as f32).collect();
    }
    x
}

fn launch(ptx: &str, kernel: &str, steps: i32, seed: u64) -> Result<Vec<f32>, Error> {
    let mut memory = Memory::new();
    let (w, x) = (memory.alloc_f32("w", &numbers(SIZE * SIZE, 1)), memory.alloc_f32("x", &numbers(SIZE, 2)));
    let out = memory.alloc("out", 4 * SIZE);
    let shape = Shape { grid: [4, 1, 1], block: [64, 1, 1], ..Shape::default() };
    let args = [Arg::U64(w), Arg::U64(x), Arg::U64(out), Arg::S32(steps)];
    Module::parse(ptx)?.launch(kernel, &shape, &args, &mut memory, &Options { seed, ..Options::default() })?;
    memory.read_f32(out, SIZE)
}

#[test]
fn four_blocks_step_together_under_every_schedule() {
    for kernel in ["steps", "steps_async"] {
        for steps in [0, 1, 5] {
            for seed in [0, 1, 2] {
                let got = launch(CLUSTER, kernel, steps, seed).unwrap_or_else(|error| panic!("{kernel}: {error}"));
                assert_eq!(got, expected(steps as usize), "{kernel}, {steps} steps, seed {seed}");
            }
        }
    }
}

#[test]
fn the_launch_may_name_the_prescribed_cluster_and_no_other() {
    let module = Module::parse(CLUSTER).unwrap();
    let shape = Shape { grid: [4, 1, 1], block: [64, 1, 1], cluster: [2, 1, 1], ..Shape::default() };
    let args = [Arg::U64(0), Arg::U64(0), Arg::U64(0), Arg::S32(1)];
    match module.launch("steps", &shape, &args, &mut Memory::new(), &Options::default()) {
        Err(Error::Launch(message)) => assert!(message.contains("prescribes clusters of [4, 1, 1]"), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// The n-th occurrence of a text after a kernel's name replaced.
#[track_caller]
fn with(kernel: &str, text: &str, number: usize, new: &str) -> String {
    let start = CLUSTER.find(&format!(".entry {kernel}(")).unwrap();
    let (at, _) = CLUSTER[start..].match_indices(text).nth(number).expect("the text is there");
    format!("{}{new}{}", &CLUSTER[..start + at], &CLUSTER[start + at + text.len()..])
}

#[track_caller]
fn caught(ptx: &str, kernel: &str, kinds: &[Kind]) {
    for seed in [0, 1, 2] {
        match launch(ptx, kernel, 3, seed) {
            Err(Error::Kernel(report)) => {
                assert!(kinds.contains(&report.kind), "seed {seed}: {report}");
                assert_eq!(report.file.as_deref(), Some("cluster.cu"), "{report}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

const ARRIVE: &str = "barrier.cluster.arrive.release.aligned;";
const WAIT: &str = "barrier.cluster.wait.acquire.aligned;";

/// Both halves of the n-th barrier of the cluster replaced by something.
fn barrier(kernel: &str, number: usize, new: &str) -> String {
    let without = with(kernel, ARRIVE, number, new);
    let start = without.find(&format!(".entry {kernel}(")).unwrap();
    let (at, _) = without[start..].match_indices(WAIT).nth(number).unwrap();
    format!("{}{}", &without[..start + at], &without[start + at + WAIT.len()..])
}

#[test]
fn bugs_of_the_barriers_are_reported() {
    // Before the first barrier the others may not have started.
    caught(&barrier("steps", 0, "bar.sync 0;"), "steps", &[Kind::BlockAbsent]);
    caught(&barrier("steps", 0, ""), "steps", &[Kind::BlockAbsent, Kind::Race, Kind::Uninitialised]);
    for new in ["", "bar.sync 0;"] {
        caught(&barrier("steps", 1, new), "steps", &[Kind::Race, Kind::Uninitialised, Kind::BlockAbsent]);
    }
    caught(&with("steps", ARRIVE, 1, "barrier.cluster.arrive.relaxed.aligned;"), "steps", &[Kind::Race]);
    // Arriving without waiting ends at the next arrival, if not before.
    caught(&with("steps", WAIT, 1, ""), "steps", &[Kind::Race, Kind::BadOperand, Kind::Uninitialised]);
    caught(&with("steps", ARRIVE, 1, ""), "steps", &[Kind::BadOperand]);
}

#[test]
fn bugs_of_stores_beside_the_threads_are_reported() {
    let kernel = "steps_async";
    // Sent before all threads of the block have read what is overwritten by the answer.
    caught(&with(kernel, "bar.sync", 0, "// bar.sync"), kernel, &[Kind::Race]);
    // Nobody waits, or for the phase before.
    let wait = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p,";
    caught(
        &with(kernel, wait, 0, "setp.eq.u32 p, 0, 0; // "),
        kernel,
        &[Kind::Race, Kind::BadOperand, Kind::Uninitialised],
    );
    let at = with(kernel, wait, 0, "mbarrier.test_wait.parity.relaxed.cluster.shared::cta.b64 p,");
    caught(&at, kernel, &[Kind::Race]);
    // Fewer bytes are announced than come, or more.
    for announced in ["512", "1028"] {
        let ptx = with(kernel, "[%r45], %r49;", 0, &format!("[%r45], {announced};"));
        caught(
            &ptx.replace("[%r48], %r49;", &format!("[%r48], {announced};")),
            kernel,
            &[Kind::Race, Kind::Deadlock, Kind::Uninitialised],
        );
    }
    caught(&barrier(kernel, 0, "bar.sync 0;"), kernel, &[Kind::BlockAbsent]);
    // The last barrier is not needed: every block has waited for all that is sent to it.
    for seed in [0, 1, 2] {
        assert_eq!(launch(&barrier(kernel, 1, ""), kernel, 3, seed).unwrap(), expected(3));
    }
}
