//! A step of one stream of the tutorial's sizes, beside the time that reading its weights from the cache takes: all of them
//! are needed for every step, so no step can be faster.

use criterion::{Criterion, criterion_group, criterion_main};
use fused_lstm::config::Config;
use fused_lstm::cpu::{Isa, peak};
use fused_lstm::data::synthetic;
use fused_lstm::shape::Dims;
use fused_lstm::stream::Streams;
use std::hint::black_box;
use std::time::{Duration, Instant};

const DIMS: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
/// Rounds that take turns, and what is timed together in each.
const ROUNDS: usize = 301;
const TIMES: u32 = 50;

/// Time of each call, over [`TIMES`] of them.
fn timed(mut work: impl FnMut()) -> Duration {
    let started = Instant::now();
    (0..TIMES).for_each(|_| work());
    started.elapsed() / TIMES
}

/// The tenth of the fastest, and the median.
fn tenth_and_median(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort();
    [times[times.len() / 10], times[times.len() / 2]]
}

fn stream(criterion: &mut Criterion) {
    let config = Config::new(&synthetic::digits(0, 1, 1, 1), DIMS.h);
    let parameters = config.initial_state().parameters;
    let x: Vec<f32> = (0..DIMS.i).map(|i| 1.0 / (1 + i) as f32).collect();
    // With the input layer folded: recurrent and input weights, bias, head.
    let weights = vec![0.5; (DIMS.h + DIMS.i + 1) * DIMS.g() + (DIMS.h + 1) * DIMS.k];
    for isa in Isa::available() {
        let mut streams = Streams::with_isa(&config, &parameters, 1, isa).expect("a stream");
        let mut push = || {
            black_box(streams.push(black_box(&x)));
        };
        let read = || {
            black_box(peak::sum(isa, black_box(&weights)));
        };
        let mut group = criterion.benchmark_group(isa.name());
        group.bench_function("push, one stream", |b| b.iter(&mut push));
        group.bench_function("reading its weights", |b| b.iter(read));
        group.finish();
        let (pushes, reads) = (0..ROUNDS).map(|_| (timed(&mut push), timed(read))).unzip();
        let ([push_tenth, push], [read_tenth, read]) = (tenth_and_median(pushes), tenth_and_median(reads));
        println!(
            "{}, in turns: push {push:.2?}, reading {read:.2?}, {:.2} times (medians); {push_tenth:.2?}, {read_tenth:.2?}, {:.2} times (fastest tenth)",
            isa.name(),
            push.as_secs_f64() / read.as_secs_f64(),
            push_tenth.as_secs_f64() / read_tenth.as_secs_f64(),
        );
    }
    let isa = Isa::best();
    let mut group = criterion.benchmark_group(format!("{}, push", isa.name()));
    for count in [4, 16, 64] {
        let mut streams = Streams::with_isa(&config, &parameters, count, isa).expect("streams");
        let x = x.repeat(count);
        group.throughput(criterion::Throughput::Elements(count as u64));
        group.bench_function(format!("{count} streams"), |b| b.iter(|| black_box(streams.push(black_box(&x)))[0]));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = stream
}
criterion_main!(benches);
