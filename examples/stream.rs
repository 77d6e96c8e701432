//! Classifies a sequence while it is still coming, with the model that the example `own_csv` saves.
//!
//!     cargo run --release --example stream -- model

use fused_lstm::stream::Stream;
use std::path::Path;

/// Pushes `steps` one by one; gives the likeliest class and its probability after each.
pub fn run(folder: &Path, steps: &[[f32; 2]]) -> fused_lstm::Result<Vec<(usize, f32)>> {
    let mut stream = Stream::load(folder)?;
    let mut found = Vec::new();
    for step in steps {
        let probabilities = stream.push(step); // numbers as in the CSV: the model knows its normalisation
        let best = probabilities.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        found.extend(best);
    }
    Ok(found)
}

fn main() -> fused_lstm::Result<()> {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: stream FOLDER");
        std::process::exit(2);
    };
    let steps =
        [[-2.9, 51.9], [3.0, 51.0], [3.1, 49.0], [-2.9, 49.0], [-3.0, 51.0], [3.0, 50.0], [-2.9, 49.0], [-3.0, 50.0]];
    for (step, (class, probability)) in run(Path::new(&folder), &steps)?.into_iter().enumerate() {
        println!("after step {}: class {class} ({:.1} %)", step + 1, 100.0 * probability);
    }
    Ok(())
}
