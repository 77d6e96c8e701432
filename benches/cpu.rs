//! The CPU engine: whole training iterations, evaluation, and the microkernel alone, for every kind of vectors that this
//! processor has.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fused_lstm::cpu::{CpuEngine, Isa, peak};
use fused_lstm::data::{Split, synthetic};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use std::sync::Arc;
use std::time::Duration;

const DIMS: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
const BATCH: usize = 128;

fn engine(isa: Isa, threads: usize) -> CpuEngine {
    let data = Arc::new(synthetic::digits(0, 10 * BATCH, 0, 1000));
    let model = Model::new(DIMS);
    let mut engine = CpuEngine::with_isa(model, Adam::default(), data, threads, isa).expect("threads");
    engine
        .set_state(&State::new(init::parameters(&Model::new(DIMS), Init::Tutorial, 0)))
        .expect("a state of this model");
    engine
}

fn cpu(criterion: &mut Criterion) {
    let rows: Vec<u32> = (0..10 * BATCH as u32).collect();
    for isa in Isa::available().into_iter().chain(Isa::bf16()) {
        let mut group = criterion.benchmark_group(isa.name());
        for threads in [1, 0] {
            let mut engine = engine(isa, threads);
            let name = format!("{} threads", engine.threads());
            group.throughput(Throughput::Elements(BATCH as u64));
            let mut batches = rows.chunks_exact(BATCH).cycle();
            group.bench_function(format!("step, {name}"), |b| {
                b.iter(|| engine.train_steps(batches.next().expect("a cycle"), BATCH).expect("a step"));
            });
            group.throughput(Throughput::Elements(1000));
            group.bench_function(format!("infer, {name}"), |b| {
                b.iter(|| engine.evaluate(Split::Test, &rows[..1000]).expect("scores"));
            });
        }
        group.finish();
        println!("{}: microkernel alone {:.1} GFLOP/s on one core", isa.name(), peak::microkernel(isa, 1000) / 1e9);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = cpu
}
criterion_main!(benches);
