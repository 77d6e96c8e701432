//! Speed, memory and start-up, held against the machine's own ceiling in the same run so that a slow or busy machine
//! does not matter. Meant for the release build: `cargo test --release --test speed`; a debug build skips it.

use fused_lstm::cpu::{CpuEngine, Isa, peak};
use fused_lstm::data::{Dataset, synthetic};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIMS: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
const BATCH: usize = 128;

fn skipped() -> bool {
    if cfg!(debug_assertions) {
        println!("skipped: a debug build's speed means nothing");
    }
    cfg!(debug_assertions)
}

fn engine(data: &Arc<Dataset>, threads: usize, isa: Isa) -> CpuEngine {
    let model = Model::new(DIMS);
    let mut engine = CpuEngine::with_isa(model, Adam::default(), data.clone(), threads, isa).unwrap();
    engine.set_state(&State::new(init::parameters(&Model::new(DIMS), Init::Tutorial, 0))).unwrap();
    engine
}

/// One thread, so that another busy core does not count; the best of turns with the microkernel.
#[test]
fn an_iteration_reaches_three_quarters_of_the_microkernel() {
    if skipped() {
        return;
    }
    let data = Arc::new(synthetic::digits(0, 1280, 0, 0));
    let mut engine = engine(&data, 1, Isa::best());
    let rows: Vec<u32> = (0..1280).collect();
    let (mut ceiling, mut fastest) = (0.0f64, Duration::MAX);
    for _ in 0..20 {
        ceiling = ceiling.max(peak::microkernel(Isa::best(), 20));
        for rows in rows.chunks_exact(BATCH) {
            let started = Instant::now();
            engine.train_steps(rows, BATCH).unwrap();
            fastest = fastest.min(started.elapsed());
        }
    }
    let speed = peak::step_operations(DIMS, BATCH) / fastest.as_secs_f64();
    let share = speed / ceiling;
    println!(
        "{}: iteration {:.2} ms = {:.0} GFLOP/s, microkernel {:.0} GFLOP/s: {:.0} %",
        Isa::best().name(),
        fastest.as_secs_f64() * 1e3,
        speed / 1e9,
        ceiling / 1e9,
        share * 100.0
    );
    assert!(share >= 0.75, "an iteration reaches {share:.2} of the microkernel");
}

/// One thread, the best of turns.
#[test]
fn products_in_bf16_are_faster() {
    if skipped() {
        return;
    }
    let Some(isa) = Isa::bf16() else { return println!("skipped: this processor has no AVX512-BF16") };
    let data = Arc::new(synthetic::digits(0, 1280, 0, 0));
    let rows: Vec<u32> = (0..1280).collect();
    let mut engines = [engine(&data, 1, Isa::best()), engine(&data, 1, isa)];
    let mut fastest = [Duration::MAX; 2];
    for rows in rows.chunks_exact(BATCH).cycle().take(100) {
        for (engine, fastest) in engines.iter_mut().zip(&mut fastest) {
            let started = Instant::now();
            engine.train_steps(rows, BATCH).unwrap();
            *fastest = started.elapsed().min(*fastest);
        }
    }
    let ratio = fastest[0].as_secs_f64() / fastest[1].as_secs_f64();
    println!("iteration: f32 {:.2?}, bf16 {:.2?}: {ratio:.2} times as fast", fastest[0], fastest[1]);
    // 1.7 without anything beside.
    assert!(ratio >= 1.4, "{ratio:.2}");
}

/// A run of the program: time to its first step and the most memory seen.
struct Run {
    first_step: Duration,
    peak_kib: u64,
}

fn run(steps: &str) -> Run {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fused-lstm"))
        .args(["train", "--device", "cpu", "--json", "--data", "synthetic", "--log-every", "1", "--steps", steps])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut first_step, mut peak_kib) = (None, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "step" {
            first_step.get_or_insert_with(|| started.elapsed());
            // The high-water mark grows with the run; the last reading counts.
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let mark =
                text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
            peak_kib = mark.unwrap_or(peak_kib);
        }
    }
    assert!(child.wait().unwrap().success());
    Run { first_step: first_step.unwrap(), peak_kib }
}

#[test]
fn the_program_starts_at_once_and_stays_small() {
    if skipped() {
        return;
    }
    let runs: Vec<Run> = (0..5).map(|_| run("20")).collect();
    let first_step = runs.iter().map(|run| run.first_step).min().unwrap();
    let peak = runs.iter().map(|run| run.peak_kib).max().unwrap();
    println!("first step after {:.2} s, at most {} MB", first_step.as_secs_f64(), peak * 1024 / 1_000_000);
    // Drawing 70,000 synthetic digits is in it; reading MNIST takes less.
    assert!(first_step < Duration::from_millis(500), "the first step came after {first_step:?}");
    if cfg!(target_os = "linux") {
        assert!(peak > 50_000 && peak * 1024 < 300_000_000, "{peak} KiB");
    }
}

#[test]
fn a_whole_job_takes_little_more_than_its_steps() {
    if skipped() {
        return;
    }
    // Reported every 20 steps, as by default.
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_fused-lstm"))
        .args(["train", "--device", "cpu", "--json", "--data", "synthetic"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let whole = started.elapsed().as_secs_f64();
    let text = String::from_utf8(output.stdout).unwrap();
    let done: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let steps = done["train_seconds"].as_f64().unwrap();
    println!("1,000 steps {steps:.2} s, whole process {whole:.2} s: {:.2} times", whole / steps);
    assert!(whole <= 1.25 * steps, "{whole:.2} s for {steps:.2} s of steps");
}

#[test]
fn the_doctor_takes_less_than_three_seconds() {
    if skipped() {
        return;
    }
    // A cache of its own, where nothing is kept from earlier, and NVRTC where this machine has one.
    let cache = tempfile::tempdir().unwrap();
    let doctor = |_| {
        let started = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fused-lstm"));
        let output = command.arg("doctor").env("FUSED_LSTM_CACHE", cache.path()).env_remove("FUSED_LSTM_DATA_DIR");
        let output = output.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        (started.elapsed(), text)
    };
    // The best of three: the machine may be busy.
    let (fastest, text) = (0..3).map(doctor).min_by_key(|(took, _)| *took).unwrap();
    println!("doctor {:.2} s\n{text}", fastest.as_secs_f64());
    // A GPU takes what it takes to start.
    assert!(text.contains("compute capability") || fastest < Duration::from_secs(3), "{fastest:?}");
}
