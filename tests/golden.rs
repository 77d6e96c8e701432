//! The golden fixtures: numbers computed in float64 by an independent NumPy implementation (tests/golden/README.md).

use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::engine::Engine;
use fused_lstm::fixture::Fixture;
use fused_lstm::reference::{ReferenceEngine, Style};
use std::path::{Path, PathBuf};

const CASES: [&str; 7] = ["b128", "b130_h64", "h64", "odd_small", "t1", "t100", "zero_x"];

/// Every golden case, the one with real digits too where FUSED_LSTM_GOLDEN names its folder.
fn fixtures() -> Vec<PathBuf> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = CASES.iter().map(|case| kept.join(format!("{case}.safetensors"))).collect();
    match std::env::var_os("FUSED_LSTM_GOLDEN") {
        Some(folder) => paths.push(Path::new(&folder).join("seed_b128.safetensors")),
        None => println!("skipped: the case with real digits (set FUSED_LSTM_GOLDEN to its folder)"),
    }
    paths
}

fn check(make: impl Fn(&Fixture) -> Box<dyn Engine>) {
    for path in fixtures() {
        let fixture = Fixture::read(&path).unwrap();
        let mut engine = make(&fixture);
        let computed = fixture.compute(engine.as_mut()).unwrap();
        let comparisons = fixture.compare(&computed, engine.precision()).unwrap();
        assert!(comparisons.len() >= 31, "{}: only {} comparisons", path.display(), comparisons.len());
        let bad: Vec<_> = comparisons.iter().filter(|c| !c.holds()).collect();
        assert!(bad.is_empty(), "{}: {bad:#?}", path.display());
    }
}

#[test]
fn reference_in_f64() {
    check(|f| Box::new(ReferenceEngine::<f64>::new(f.model, f.adam, f.dataset())));
}

#[test]
fn reference_in_f32() {
    check(|f| Box::new(ReferenceEngine::<f32>::new(f.model, f.adam, f.dataset())));
}

#[test]
fn cpu_engine_with_every_kind_of_vectors() {
    for isa in Isa::available() {
        check(|f| Box::new(CpuEngine::with_isa(f.model, f.adam, f.dataset(), 2, isa).unwrap()));
    }
}

/// Against what the tests of f32 expect too: the exact numbers, within the bounds of products in bf16.
#[test]
fn products_in_bf16() {
    check(|f| Box::new(ReferenceEngine::<f64>::new(f.model, f.adam, f.dataset()).rounding_to_bf16(Style::Cpu)));
    match Isa::bf16() {
        Some(isa) => check(|f| Box::new(CpuEngine::with_isa(f.model, f.adam, f.dataset(), 2, isa).unwrap())),
        None => println!("skipped: this processor has no AVX512-BF16"),
    }
}
