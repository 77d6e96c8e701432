//! How fast the emulator runs a training iteration with all its checks. In the profile of `cargo test`, which is what it
//! is for.

mod support;

use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::{CudaEngine, kept};
use fused_lstm::data::{Sequences, Values};
use fused_lstm::engine::{Engine, Model};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use std::time::Instant;
use support::models::{dataset_of, start};
use support::waited_so_far;

/// Seconds that an iteration may take at B = 16, T = 28, H = 128, on one core, other processes' time not counted.
const LIMIT: f64 = 0.5;

#[test]
fn an_iteration_takes_less_than_half_a_second() {
    let dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
    let bytes = (0..16 * 28 * 28).map(|k| (k * 37 % 256) as u8).collect();
    let images = Sequences::new(28, 28, Values::U8 { bytes, scale: 1.0 / 255.0 }, (0..16).map(|k| k % 10).collect());
    let device = Emulated::new(kept::ptx(), Default::default()).unwrap();
    let model = Model::new(dims);
    let mut engine = CudaEngine::new(device, model, Adam::default(), dataset_of(images, 10)).unwrap();
    engine.set_state(&start(dims)).unwrap();
    let rows: Vec<u32> = (0..16).collect();
    let mut times = Vec::new();
    for _ in 0..5 {
        let (before, waited, started) = (engine.device().warp_instructions(), waited_so_far(), Instant::now());
        engine.train_steps(&rows, 16).unwrap();
        let seconds = started.elapsed().as_secs_f64() - (waited_so_far() - waited);
        let count = engine.device().warp_instructions() - before;
        println!("{seconds:.3} s, {count} warp instructions, {:.1} ns each", seconds * 1e9 / count as f64);
        times.push(seconds);
    }
    let best = times.into_iter().fold(f64::INFINITY, f64::min);
    assert!(best < LIMIT, "{best:.2} s is over {LIMIT} s");
}
