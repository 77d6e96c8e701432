//! Products on tensor cores, compiled by NVRTC 13.0 (`--gpu-architecture=compute_80 -lineinfo`) from the source beside them,
//! right and with one bug each.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Report, Shape};

const TENSOR: &str = include_str!("fixtures/tensor.ptx");

/// Small whole numbers, so that every sum is exact in whatever order.
fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 - 128.0
    };
    (0..count).map(|_| next()).collect()
}

fn expected(a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let sum = |i: usize| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum();
    (0..m * n).map(sum).collect()
}

fn product_bf16(ptx: &str, [m, n, k]: [usize; 3], options: &Options) -> Result<Vec<f32>, Error> {
    let mut memory = Memory::new();
    let mut halves = |name: &str, values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect();
        let address = memory.alloc(name, bytes.len());
        memory.write(address, &bytes).unwrap();
        address
    };
    let (a, b) = (halves("a", &numbers(m * k, 1)), halves("b", &numbers(k * n, 2)));
    let c = memory.alloc("c", m * n * 4);
    let shape = Shape { grid: [n as u32 / 32, m as u32 / 32, 1], block: [128, 1, 1], ..Shape::default() };
    let size = |n: usize| Arg::S32(n as i32);
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), size(m), size(n), size(k)];
    Module::parse(ptx)?.launch("product_bf16", &shape, &args, &mut memory, options)?;
    memory.read_f32(c, m * n)
}

#[test]
fn a_product_in_bf16_is_exact_under_every_schedule() {
    for sizes in [[32, 32, 16], [64, 32, 48], [32, 64, 64]] {
        let [m, n, k] = sizes;
        let expected = expected(&numbers(m * k, 1), &numbers(k * n, 2), sizes);
        for seed in [0, 1, 2] {
            let got = product_bf16(TENSOR, sizes, &Options { seed, ..Options::default() }).unwrap();
            assert_eq!(got, expected, "{sizes:?}, seed {seed}");
        }
    }
}

#[test]
fn a_product_in_tf32_is_exact() {
    let [m, n, k] = [32, 16, 24];
    let (left, right) = (numbers(m * k, 3), numbers(k * n, 4));
    let mut memory = Memory::new();
    let (a, b) = (memory.alloc_f32("a", &left), memory.alloc_f32("b", &right));
    let c = memory.alloc("c", m * n * 4);
    let shape = Shape { grid: [n as u32 / 8, m as u32 / 16, 1], block: [32, 1, 1], ..Shape::default() };
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), Arg::S32(m as i32), Arg::S32(n as i32), Arg::S32(k as i32)];
    let module = Module::parse(TENSOR).unwrap();
    module.launch("product_tf32", &shape, &args, &mut memory, &Options::default()).unwrap();
    assert_eq!(memory.read_f32(c, m * n).unwrap(), expected(&left, &right, [m, n, k]));
}

/// The n-th occurrence of a text replaced.
#[track_caller]
fn with(text: &str, number: usize, new: &str) -> String {
    let (at, _) = TENSOR.match_indices(text).nth(number).expect("the text is there");
    format!("{}{new}{}", &TENSOR[..at], &TENSOR[at + text.len()..])
}

/// The bug is reported under every schedule, as one of some kinds, at a line of the source between two.
#[track_caller]
fn caught(ptx: &str, kinds: &[Kind], lines: std::ops::RangeInclusive<u32>) -> Report {
    let mut last = None;
    for seed in [9, 1, 0] {
        match product_bf16(ptx, [32, 32, 48], &Options { seed, ..Options::default() }) {
            Err(Error::Kernel(report)) => {
                assert!(kinds.contains(&report.kind) && lines.contains(&report.line), "seed {seed}: {report}");
                assert_eq!(report.file.as_deref(), Some("tensor.cu"));
                last = Some(*report);
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    last.unwrap()
}

#[test]
fn waits_and_barriers_that_are_missing_are_reported() {
    let race = &[Kind::Race][..];
    // The load before which the wait is missing.
    caught(&with("cp.async.wait_group 1;", 0, ""), race, 44..=48);
    caught(&with("cp.async.wait_group 1;", 0, "cp.async.wait_group 2;"), race, 44..=48);
    caught(&with("cp.async.wait_group 0;", 0, ""), race, 44..=48);
    // A group that is never closed is never waited for.
    caught(&with("cp.async.commit_group;", 1, ""), race, 44..=48);
    // Without the first barrier a warp reads what others copy; without the second, copies overtake its reads.
    caught(&with("bar.sync \t0;", 0, ""), &[Kind::Race, Kind::Uninitialised], 7..=48);
    caught(&with("bar.sync \t0;", 1, ""), race, 7..=48);
}

#[test]
fn fragments_that_are_loaded_wrongly_are_reported() {
    let report = caught(&with("[%r54];", 0, "[%r54+8];"), &[Kind::Misaligned], 44..=48);
    assert!(report.opcode.starts_with("ldmatrix"), "{report}");
    let half = "{ .reg .pred half; .reg .b32 lane; mov.u32 lane, %laneid; setp.lt.u32 half, lane, 16; @half mma.sync";
    let broken = with("mma.sync", 0, half);
    let at = broken.find(half).unwrap() + half.len();
    let end = at + broken[at..].find(';').unwrap() + 1;
    let broken = format!("{} }}{}", &broken[..end], &broken[end..]);
    let report = caught(&broken, &[Kind::DivergentWarp], 52..=52);
    assert!(report.opcode.starts_with("mma.sync"), "{report}");
}

#[test]
fn fragments_that_are_swapped_give_wrong_numbers() {
    let sizes = [32, 32, 32];
    let right = expected(&numbers(32 * 32, 1), &numbers(32 * 32, 2), sizes);
    for (text, new) in [
        ("{%r50, %r51, %r52, %r53}, {%r55", "{%r50, %r52, %r51, %r53}, {%r55"),
        ("{%r55, %r56}", "{%r56, %r55}"),
        ("m8n8.x4.trans.shared", "m8n8.x4.shared"),
        ("{%f68, %f67, %f66, %f65};", "{%f67, %f68, %f66, %f65};"),
    ] {
        let got = product_bf16(&with(text, 0, new), sizes, &Options::default()).unwrap();
        assert_ne!(got, right, "{new}");
    }
}
