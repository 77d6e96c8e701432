//! The probes of a GPU (`kernels/probes/micro.cu`), on the emulator: that each makes the steps that it says, that the emulator
//! finds nothing wrong, and that cycles become the right figures. Times mean nothing there.
//!
//! The probes are compiled by NVRTC; where there is none, tests say that they are skipped, and fail if `REQUIRE_NVRTC` is set.

mod support;

use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::micro::{self, Bench, Effort, Machine, Micro, Probe, STEPS};
use fused_lstm::cuda::nvrtc::Target;
use fused_lstm::cuda::{kept, resources, sources};
use std::sync::OnceLock;
use support::{nvrtc, run};

/// The probes for clusters and all else, once for all tests; none without a compiler.
fn ptx() -> Option<&'static str> {
    static PTX: OnceLock<Option<String>> = OnceLock::new();
    PTX.get_or_init(|| Some(micro::ptx(&nvrtc()?, 90).unwrap())).as_deref()
}

/// What a probe left: its clocks, and what its threads kept.
fn results(ptx: &str, probe: Probe, rounds: u32) -> (Vec<u64>, Vec<u32>) {
    let device = Emulated::new(ptx, Default::default()).unwrap();
    let bench = Bench::new(&device, probe).unwrap();
    bench.launch(rounds).unwrap_or_else(|error| panic!("{probe:?}: {error}"));
    bench.results().unwrap()
}

fn floats(kept: &[u32]) -> Vec<f64> {
    kept.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect()
}

// ---- compiling ----

#[test]
fn every_probe_compiles_for_its_architectures_without_spills() {
    let Some(nvrtc) = nvrtc() else { return };
    for (architecture, count) in [(75, 15), (80, 21), (90, 26), (120, 26)] {
        let cubin = nvrtc.compile(micro::SOURCE, "micro.cu", &Target::Cubin(format!("sm_{architecture}"))).unwrap();
        let ptx = micro::ptx(&nvrtc, architecture).unwrap();
        let table = resources::table(&cubin.log, &ptx);
        let compiled: Vec<_> = table.iter().map(|kernel| kernel.name.as_str()).collect();
        let mut names = micro::kernels(architecture);
        names.sort();
        assert_eq!((&compiled, names.len()), (&names, count), "sm_{architecture}");
        for kernel in table {
            assert_eq!((kernel.spill_stores, kernel.spill_loads, kernel.stack), (0, 0, 0), "{architecture} {kernel:?}");
            assert!(kernel.threads > 0 && kernel.registers > 0, "not read: {kernel:?}");
            let of_block = kernel.threads / 32 * (kernel.registers * 32).next_multiple_of(256);
            assert!(of_block <= 64 * 1024, "{architecture}: {kernel:?}");
            // Two blocks of the timed probes on each multiprocessor.
            let timed = ["fma_8", "mma_bf16_4", "mma_tf32_4"].contains(&kernel.name.as_str());
            assert!(!timed || of_block <= 32 * 1024, "{architecture}: {kernel:?}");
        }
    }
}

#[test]
fn drivers_older_than_the_compiler_are_given_ptx_that_they_know() {
    let Some(nvrtc) = nvrtc() else { return };
    for (architecture, target, version) in
        [(75, "sm_75", kept::ISA), (80, "sm_80", kept::ISA), (89, "sm_80", kept::ISA), (90, "sm_90", "7.8")]
    {
        let ptx = micro::ptx(&nvrtc, architecture).unwrap();
        let lines = |start: &str| ptx.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
        assert_eq!(lines(".version"), [format!(".version {version}")]);
        assert_eq!(lines(".target"), [format!(".target {target}")]);
    }
}

#[test]
fn probes_are_no_part_of_the_kernels_and_each_has_its_contract() {
    for name in micro::kernels(u32::MAX) {
        assert!(!sources::names().contains(&name) && !sources::KERNELS.contains(&format!("{name}(")), "{name}");
        // In the contract a number of chains or of blocks is N.
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let told = if stem.ends_with('_') { format!("{stem}N") } else { name.to_owned() };
        let told = |line: &str| line.starts_with("// ") && line.contains(&told) && line.contains(':');
        assert!(micro::SOURCE.lines().any(told), "{name} has no contract");
    }
    assert!(micro::SOURCE.contains(&format!("constexpr int STEPS = {STEPS};")));
    assert!(!micro::SOURCE.contains("#include"));
}

// ---- what the probes do ----

/// The probe of 64 threads after so many rounds, for every architecture that has it.
fn kept_by(kernel: &'static str, rounds: u32) -> Option<Vec<u32>> {
    Some(results(ptx()?, Probe::block(kernel, 64), rounds).1)
}

/// The start of chain `c` of a thread.
fn start(from: f64, c: usize, thread: usize) -> f64 {
    from + (c * 32 + thread % 32) as f64 / 128.0
}

#[test]
fn chains_of_arithmetic_make_16_steps_a_round() {
    let close = |kernel: &str, got: f64, expected: f64| {
        assert!((got / expected - 1.0).abs() < 1e-5, "{kernel}: {got} for {expected}");
    };
    for (kernel, from, chains, step) in [
        ("fma_1", 1.0, 1, (|x| 0.5 * x + 0.25) as fn(f64) -> f64),
        ("fma_8", 1.0, 8, |x| 0.5 * x + 0.25),
        ("rcp_1", 0.5, 1, |x| 1.0 / x),
        ("rcp_4", 0.5, 4, |x| 1.0 / x),
    ] {
        for rounds in [0, 1, 3] {
            let Some(kept) = kept_by(kernel, rounds) else { return };
            for (thread, got) in floats(&kept).into_iter().enumerate() {
                let end = |c| (0..rounds * STEPS).fold(start(from, c, thread), |x, _| step(x));
                close(kernel, got, (0..chains).map(end).sum());
            }
        }
    }
    // These come to an end after a few steps, or are near as their instruction is.
    for (kernel, chains) in [("tanh_1", 1), ("tanh_4", 4)] {
        let Some(kept) = kept_by(kernel, 2) else { return };
        for (thread, got) in floats(&kept).into_iter().enumerate() {
            let end = |c| (0..2 * STEPS).fold(start(0.5, c, thread), |x, _| x.tanh());
            let expected: f64 = (0..chains).map(end).sum();
            assert!((got / expected - 1.0).abs() < 1e-2, "{kernel}: {got} for {expected}");
        }
    }
    for kernel in ["ex2_1", "ex2_4"] {
        let Some(kept) = kept_by(kernel, 1) else { return };
        assert!(floats(&kept).iter().all(|x| *x == f64::INFINITY), "{kernel}: {kept:?}");
    }
}

#[test]
fn chains_of_products_add_the_same_product_16_times_a_round() {
    for (kernel, chains, summands) in [
        ("mma_bf16_1", 1, 16.0),
        ("mma_bf16_2", 2, 16.0),
        ("mma_bf16_4", 4, 16.0),
        ("mma_tf32_1", 1, 8.0),
        ("mma_tf32_2", 2, 8.0),
        ("mma_tf32_4", 4, 8.0),
    ] {
        let Some(begun) = kept_by(kernel, 0) else { return };
        let begun = floats(&begun);
        let ended = |rounds| floats(&kept_by(kernel, rounds).unwrap());
        let (one, three) = (ended(1), ended(3));
        for thread in 0..begun.len() {
            assert_eq!(begun[thread], f64::from(4 * (0..chains).sum::<i32>()), "{kernel}");
            let gained = one[thread] - begun[thread];
            // Four sums in each chain, of factors between 1 and 2.
            let product = gained / (4.0 * f64::from(chains) * f64::from(STEPS) * summands);
            assert!(product > 1.0 && product < 4.0, "{kernel}: {product}");
            let ratio = (three[thread] - begun[thread]) / gained;
            assert!((ratio - 3.0).abs() < 1e-4, "{kernel}: {ratio}");
        }
    }
}

#[test]
fn chases_go_on_by_one_element_a_step() {
    for rounds in [0, 1, 5] {
        let Some(kept) = kept_by("shared_chase", rounds) else { return };
        let word = |thread: u32| (thread % 32 + 33 * rounds * STEPS) % 1024;
        assert_eq!(kept, (0..64).map(word).collect::<Vec<_>>());
        for cluster in [2, 4] {
            let (_, kept) = results(ptx().unwrap(), Probe::cluster("cluster_chase", cluster), rounds);
            assert_eq!(kept, (0..256 * cluster).map(word).collect::<Vec<_>>());
        }
    }
    for rounds in [1, 5] {
        let Some(kept) = kept_by("matrix_chase", rounds) else { return };
        assert_eq!(kept, vec![9 * rounds * STEPS % 64; 64]);
    }
}

#[test]
fn loads_give_every_word_once_in_two_rounds() {
    const WORDS_OF_ROUND: u32 = STEPS * 32 * 4;
    for rounds in [1, 2, 3] {
        // A half of the words, then the other.
        let half = |round: u32| (round % 2) * WORDS_OF_ROUND..(round % 2 + 1) * WORDS_OF_ROUND;
        let Some(kept) = kept_by("shared_rate", rounds) else { return };
        let of_lane = |lane: u32| (0..rounds).flat_map(half).filter(|n| n / 4 % 32 == lane).sum::<u32>();
        assert_eq!(kept, (0..64).map(|thread| of_lane(thread % 32)).collect::<Vec<_>>());
        let kept = kept_by("matrix_rate", rounds).unwrap();
        // Of a matrix of eight rows, a lane is given word lane % 4 of row lane / 4.
        let of_lane = |lane: u32| (0..rounds).flat_map(half).filter(|n| n % 32 == lane).sum::<u32>();
        assert_eq!(kept, (0..64).map(|thread| of_lane(thread % 32)).collect::<Vec<_>>());
    }
}

#[test]
fn barriers_are_met_by_whole_blocks_and_clusters() {
    for (kernel, threads) in
        [("block_barrier", 256), ("block_barrier", 512), ("named_barrier", 512), ("named_barrier", 1024)]
    {
        let Some(ptx) = ptx() else { return };
        let of_step = if kernel == "named_barrier" { threads / 2 } else { 1 };
        assert_eq!(results(ptx, Probe::block(kernel, threads), 2).1, vec![2 * STEPS * of_step; threads as usize]);
    }
    for cluster in [2, 4] {
        let kept = results(ptx().unwrap(), Probe::cluster("cluster_barrier", cluster), 2).1;
        assert_eq!(kept, vec![2 * STEPS; 256 * cluster as usize]);
    }
}

#[test]
fn an_exchange_brings_the_word_of_the_next_block() {
    for (kernel, blocks) in [("cluster_exchange_2", 2), ("cluster_exchange_4", 4)] {
        let Some(ptx) = ptx() else { return };
        let (_, kept) = results(ptx, Probe::cluster(kernel, blocks), 1);
        assert_eq!(kept, (0..256 * blocks).map(|n| (n % 256 + 1) << STEPS).collect::<Vec<_>>(), "{kernel}");
    }
}

#[test]
fn every_warp_writes_when_it_began_and_ended() {
    let Some(ptx) = ptx() else { return };
    for probe in [Probe::block("fma_1", 96 + 32), Probe { blocks: 3, ..Probe::block("shared_rate", 64) }] {
        let (clocks, _) = results(ptx, probe, 2);
        assert_eq!(clocks.len() as u32, 2 * probe.blocks * probe.threads / 32);
        assert!(clocks.chunks(2).all(|of_warp| of_warp[0] < of_warp[1]), "{clocks:?}");
    }
}

// ---- arithmetic, worked out by hand ----

#[track_caller]
fn near(got: f64, expected: f64) {
    assert!((got / expected - 1.0).abs() < 1e-12, "{got} for {expected}");
}

#[test]
fn cycles_become_latencies_and_rates() {
    // One block of two warps, from 100 to 340; then a second block, slower, on another multiprocessor's clock.
    assert_eq!(micro::span(&[110, 340, 100, 330], 2), 240);
    assert_eq!(micro::span(&[110, 340, 100, 330, 5, 10, 7, 305], 2), 300);
    assert_eq!((micro::span(&[], 1), micro::span(&[9, 3], 1)), (0, 0), "a clock that tells nothing");
    // 64 rounds are 1,024 steps.
    near(micro::latency(33_792, 64), 33.0);
    // 16 warps are 4 in a part; 2 chains of each: 8,192 instructions in a part.
    near(micro::cycles_of_part(65_536, 64, 2, 16), 8.0);
    near(micro::cycles_of_part(33_792, 64, 1, 4), 33.0);
    // 8 warps that load 512 bytes in each of 1,024 steps, in 32,768 cycles.
    near(micro::per_cycle(32_768, 64, 512, 8), 128.0);
    // 4,224 warps, 65,536 steps, 4 products of 4,096 operations, in 7.5 ms.
    near(micro::tera_operations(4_224, 4_096, 16_384, 7.5e-3), 604.731_395_276_8);
    // 100 launches in 250 us, 1,100 in 1,750 us.
    near(micro::slope([100, 1100], [250e-6, 1750e-6]), 1.5e-6);
}

// ---- all of it ----

const LITTLE: Effort = Effort { rounds: 1, timed_rounds: 1, nodes: [2, 5], turns: 1, copied: 100, product: 17 };

/// Kernels and probes on one emulated device.
fn measured(architecture: u32) -> Option<Micro> {
    let probes = micro::ptx(&nvrtc()?, architecture).unwrap();
    // One module: the head of the first is that of both.
    let body = kept::ptx().split_once(".address_size 64").unwrap().1;
    let body = body.split("\n\t.section").next().unwrap();
    let kernels = body
        .split(".visible .entry ")
        .skip(1)
        .filter(|text| ["sum_parts(", "product_nn("].iter().any(|name| text.starts_with(name)));
    let kernels: String = kernels.map(|text| format!(".visible .entry {text}")).collect();
    let kernels: Vec<_> = kernels.lines().filter(|line| !line.trim_start().starts_with(".loc")).collect();
    let probes: Vec<_> = probes.lines().filter(|line| !line.trim_start().starts_with(".loc")).collect();
    let text = format!("{}\n{}\n", probes.join("\n"), kernels.join("\n"));
    let device = Emulated::new(&text, Default::default()).unwrap();
    Some(micro::measure(&device, &Machine { architecture, multiprocessors: 2 }, &LITTLE).unwrap())
}

#[test]
fn all_of_it_runs_on_the_emulator_and_older_gpus_leave_out_what_they_lack() {
    for (architecture, rows, left_out) in
        [(75, 30, &["mma.sync", "clusters"][..]), (80, 52, &["clusters"]), (90, 60, &[]), (120, 60, &[])]
    {
        let Some(micro) = measured(architecture) else { return };
        assert_eq!(micro.rows.len(), rows, "{architecture}: {micro:#?}");
        assert_eq!(micro.left_out.len(), left_out.len(), "{micro:#?}");
        assert!(micro.left_out.iter().zip(left_out).all(|(line, part)| line.contains(part)), "{micro:#?}");
        let mut names: Vec<_> = micro.rows.iter().map(|row| &row.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows, "each has a name of its own");
        for row in &micro.rows {
            assert!(!row.unit.is_empty() && row.decides.len() > 10, "{row:?}");
            // What is timed may be nothing there; what the emulator counts is not.
            let counted = ["cycles", "cycles/instruction", "results/cycle", "bytes/cycle"].contains(&row.unit);
            assert!(!counted || row.value.is_some_and(|value| value > 0.0), "{row:?}");
        }
    }
}

#[test]
fn the_command_is_for_gpus() {
    run(&["bench", "micro", "--device", "cpu"]).fails_in_one_line(2, &["--device cpu", "--device cuda", "bench step"]);
    run(&["bench", "micro"]).fails_in_one_line(2, &["--device cpu"]);
    if fused_lstm::cuda::driver::gpus().is_err() {
        run(&["bench", "micro", "--device", "cuda", "--json"]).fails_in_one_line(4, &["cuda:0"]);
        run(&["bench", "micro", "--device", "cuda:1"]).fails_in_one_line(4, &["cuda:1"]);
        run(&["bench", "micro", "--device", "auto"]).fails_in_one_line(4, &["cuda:0"]);
    }
}

/// On a driver by whose clock everything takes 0.25 ms, and whose kernels write nothing: `tests/stub/libcuda.rs`.
#[cfg(target_os = "linux")]
mod command {
    use crate::support::{Run, program, stub};

    fn bench(flags: &[&str], stub: &str) -> Run {
        let mut command = program();
        command.args(["bench", "micro", "--device", "cuda", "--no-cache"]).args(flags);
        command.env("LD_LIBRARY_PATH", &*stub::FOLDER).env("STUB_CUDA", format!("free=64000000 {stub}"));
        Run::new(command.output().unwrap())
    }

    #[test]
    fn as_json_it_tells_each_figure_with_unit_and_purpose() {
        if crate::nvrtc().is_none() {
            return;
        }
        let run = bench(&["--json"], "").succeeds();
        let [result] = &run.json()[..] else { panic!("one object: {run:#?}") };
        assert_eq!(result["peer"], "fused-lstm-micro");
        assert!(result["device"].as_str().is_some_and(|device| device.starts_with("cuda:0, ")), "{result}");
        let rows = result["rows"].as_array().unwrap();
        assert_eq!((rows.len(), &result["left_out"]), (60, &serde_json::json!([])));
        let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        // An eighth of the memory is read and written in 0.25 ms; 1,100 launches take as long.
        let copy = of("copy by sum_parts, read and written");
        assert_eq!((copy["value"].as_f64().unwrap().round(), &copy["unit"]), (64.0, &"GB/s".into()));
        let launch = of("launch without a graph, one after the other");
        assert!((launch["value"].as_f64().unwrap() - 250.0 / 1100.0).abs() < 1e-9, "{launch}");
        // No clock was written: nothing has a latency or a rate.
        for name in ["mma m16n8k16 bf16, latency", "ex2.approx, rate", "mma m16n8k8 tf32, warps a part 4, chains 2"] {
            assert_eq!(of(name)["value"], serde_json::Value::Null);
        }
        assert!(rows.iter().all(|row| row["decides"].is_string() && row["unit"].is_string()));
    }

    #[test]
    fn as_text_it_is_a_table_and_tells_what_an_older_gpu_lacks() {
        if crate::nvrtc().is_none() {
            return;
        }
        let out = bench(&[], "capability=75").succeeds().out;
        assert!(out.starts_with("micro: cuda:0, ") && out.lines().nth(2).unwrap().starts_with("what "), "{out}");
        let of = |start: &str| out.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!((of("mma "), of("left out: "), of("tanh.approx, ")), (0, 2, 2), "{out}");
        let rate = out.lines().find(|line| line.starts_with("ex2.approx, rate")).unwrap();
        assert_eq!(rate.split_whitespace().collect::<Vec<_>>()[2..], ["none", "results/cycle", "\""], "{out}");
    }

    #[test]
    fn a_cluster_that_the_gpu_refuses_is_left_out() {
        if crate::nvrtc().is_none() {
            return;
        }
        let run = bench(&["--json"], "cuLaunchKernelEx@1=701").succeeds();
        let result = &run.json()[0];
        assert_eq!((result["rows"].as_array().unwrap().len(), result["left_out"].as_array().unwrap().len()), (52, 8));
        let told = result["left_out"][0].as_str().unwrap();
        assert!(told.contains("2 blocks") && told.contains("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"), "{told}");
    }
}
