//! The programs in `examples`, run as they are.

#[allow(dead_code)]
#[path = "../examples/own_csv.rs"]
mod own_csv;
#[allow(dead_code)]
#[path = "../examples/stream.rs"]
mod stream;

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

#[test]
fn a_csv_is_learned_and_a_stream_of_its_steps_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let waves = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/own_data/waves.csv");
    let accuracy = own_csv::run(&waves, &model).unwrap();
    assert!(accuracy > 0.6, "{accuracy}");
    let told = stream::run(&model, &SINE).unwrap();
    // The classes are in the order of their names: saw, sine, square.
    assert_eq!((told.len(), told[7].0), (8, 1), "{told:?}");
    assert!(told[7].1 > told[0].1 && told[7].1 > 0.7, "{told:?}");
}
