//! The programs in `examples`, run as they are.

#[allow(dead_code)]
#[path = "../examples/fine_tune.rs"]
mod fine_tune;
#[allow(dead_code)]
#[path = "../examples/own_csv.rs"]
mod own_csv;
#[allow(dead_code)]
#[path = "../examples/stream.rs"]
mod stream;

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::interchange::{self, Format};
use std::fs;
use std::path::Path;

/// The first sequence of the made-up waves, a sine.
const SINE: [[f32; 2]; 8] = [
    [-2.8772, 51.4127],
    [1.6301, 50.7653],
    [2.1607, 49.3403],
    [-2.6543, 49.5024],
    [-1.0204, 50.9247],
    [2.9862, 50.001],
    [-0.3744, 49.0194],
    [-2.7745, 49.121],
];

/// One after the other, for each goes on with what the one before has left.
#[test]
fn a_csv_is_learned_a_stream_of_its_steps_is_told_and_the_model_is_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let waves = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/own_data/waves.csv");
    let accuracy = own_csv::run(&waves, &model).unwrap();
    assert!(accuracy > 0.6, "{accuracy}");
    let told = stream::run(&model, &SINE).unwrap();
    // The classes are in the order of their names: saw, sine, square.
    assert_eq!((told.len(), told[7].0), (8, 1), "{told:?}");
    assert!(told[7].1 > told[0].1 && told[7].1 > 0.7, "{told:?}");

    // A state dict as PyTorch writes it: names and tensors, and no word of how the model was trained.
    let Checkpoint { config, state } = Checkpoint::load(&model).unwrap();
    let mut file = interchange::export(&config, &state.parameters, Format::Pytorch);
    file.metadata.clear();
    let [pytorch, tuned, again] =
        ["pytorch.safetensors", "tuned.safetensors", "again"].map(|name| folder.path().join(name));
    fs::write(&pytorch, file.to_bytes()).unwrap();
    let [before, after] = fine_tune::run(&pytorch, &waves, &again, &tuned).unwrap();
    assert!(before > 0.6 && after >= before, "{before} {after}");
    let checkpoint = Checkpoint::load(&again).unwrap();
    assert_eq!(checkpoint.state.step, 100);
    // The same model in both, and another than before.
    let in_both = interchange::import(&tuned, Format::Pytorch).unwrap().parameters;
    assert_eq!(in_both, interchange_parameters(&checkpoint));
    assert_ne!(in_both, interchange_parameters(&Checkpoint { config, state }));
}

/// Parameters as another program has them.
fn interchange_parameters(checkpoint: &Checkpoint) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let exported = interchange::export(&checkpoint.config, &checkpoint.state.parameters, Format::Pytorch);
    fs::write(&file, exported.to_bytes()).unwrap();
    interchange::import(&file, Format::Pytorch).unwrap().parameters
}
