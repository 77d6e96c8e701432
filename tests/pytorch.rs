//! Models beyond the tutorial's against PyTorch: its layers, packed sequences, loss, AdamW and schedulers, in float64
//! (scripts/make_pytorch_fixtures.py).

mod support;

use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::{CudaEngine, kept};
use fused_lstm::data::{Sequences, Values};
use fused_lstm::engine::{Engine, State};
use fused_lstm::model::Model;
use fused_lstm::optimizer::Adam;
use fused_lstm::reference::ReferenceEngine;
use fused_lstm::tensor_file::{Numbers, TensorFile};
use std::path::Path;
use support::models::{check, dataset_of};

const CASES: [&str; 4] = ["two_layers_last", "two_layers_mean", "two_layers_max", "three_layers"];

/// Largest error relative to a tensor's largest value, about 10 times the worst seen (in brackets).
struct Bounds {
    output: f64,
    gradient: f64,
    /// Parameters after ten steps, and the losses on the way.
    trained: f64,
}

/// What is in the files, and what engines give out, is rounded to f32. (2.0e-8, 3.1e-8, 1.5e-7)
const EXACT: Bounds = Bounds { output: 2e-7, gradient: 3e-7, trained: 1e-6 };
/// As the tests of parity.
const F32: Bounds = Bounds { output: 5e-6, gradient: 2e-5, trained: 2e-5 };

fn file(case: &str) -> TensorFile {
    let name = format!("tests/golden/pytorch/{case}.safetensors");
    TensorFile::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name), 1 << 20).unwrap()
}

fn whole_numbers(file: &TensorFile, name: &str) -> Vec<u32> {
    let Numbers::I32(numbers) = &file.tensors[name].numbers else { panic!("{name} holds whole numbers") };
    numbers.iter().map(|&n| n.try_into().unwrap()).collect()
}

fn compare(bounds: &Bounds, make: impl Fn(Model, Adam, &Sequences) -> Box<dyn Engine>) {
    for case in CASES {
        let file = file(case);
        let model: Model = serde_json::from_str(&file.metadata["model"]).unwrap();
        let adam: Adam = serde_json::from_str(&file.metadata["adam"]).unwrap();
        model.check().unwrap();
        let (labels, dims) = (whole_numbers(&file, "labels"), model.dims);
        let n = labels.len();
        let floats = |name: &str, shape: &[usize]| file.f32(name, shape).unwrap().to_vec();
        let x = Values::F32(floats("x", &[n, dims.t, dims.i]));
        let batch = Sequences::new(dims.t, dims.i, x, labels).with_lengths(whole_numbers(&file, "lengths"));
        let layout = model.layout();
        let tensors: Vec<_> = layout.names().into_vec().into_iter().zip(layout.shapes().into_vec()).collect();
        let flat = |prefix: &str| -> Vec<f32> {
            tensors.iter().flat_map(|(name, shape)| floats(&format!("{prefix}.{name}"), shape)).collect()
        };
        let mut engine = make(model, adam, &batch);
        engine.set_state(&State::new(flat("param"))).unwrap();
        let trace = engine.trace(&batch).unwrap();
        let compare = |name: &str, got: &[f32], expected: &[f32], bound| {
            check(&format!("{}, {case} {name}", engine_name(bounds)), got, expected, bound, false);
        };
        let width = model.width();
        compare("logits", &trace.logits, &floats("out.logits", &[n, dims.k]), bounds.output);
        compare("h", &trace.h_last, &floats("out.h_last", &[n, width]), bounds.output);
        compare("c", &trace.c_last, &floats("out.c_last", &[n, width]), bounds.output);
        compare("loss", &trace.loss, &floats("out.loss", &[n]), bounds.output);
        compare("dx", &trace.dx, &floats("grad.x", &[n, dims.t, dims.i]), bounds.gradient);
        let rows: Vec<u32> = (0..10 * n as u32).map(|k| k % n as u32).collect();
        let losses: Vec<f32> = engine.train_steps(&rows, n).unwrap().iter().map(|metrics| metrics.loss).collect();
        let (after, gradient, trained) = (flat("after10"), flat("grad"), engine.state().unwrap().parameters);
        for ((name, _), range) in tensors.iter().zip(layout.ranges().into_vec()) {
            let part = |all: &[f32]| all[range.clone()].to_vec();
            compare(&format!("gradient of {name}"), &part(&trace.gradient), &part(&gradient), bounds.gradient);
            compare(&format!("trained {name}"), &part(&trained), &part(&after), bounds.trained);
        }
        compare("losses", &losses, &floats("out.losses10", &[10]), bounds.trained);
    }
}

fn engine_name(bounds: &Bounds) -> &'static str {
    if bounds.output == EXACT.output { "f64" } else { "f32" }
}

#[test]
fn reference_in_f64() {
    compare(&EXACT, |model, adam, batch| {
        Box::new(ReferenceEngine::<f64>::new(model, adam, dataset_of(batch.clone(), model.dims.k)))
    });
}

#[test]
fn cpu_engine_with_every_kind_of_vectors() {
    for isa in Isa::available() {
        compare(&F32, |model, adam, batch| {
            let data = dataset_of(batch.clone(), model.dims.k);
            Box::new(CpuEngine::with_isa(model, adam, data, 2, isa).unwrap())
        });
    }
}

#[test]
fn cuda_engine_on_the_emulator() {
    compare(&F32, |model, adam, batch| {
        let device = Emulated::new(kept::ptx(), Default::default()).unwrap();
        Box::new(CudaEngine::new(device, model, adam, dataset_of(batch.clone(), model.dims.k)).unwrap())
    });
}
