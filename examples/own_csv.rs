//! Trains on a CSV of one's own, tells how good the model is, and saves it.
//!
//!     cargo run --release --example own_csv -- tests/own_data/waves.csv model

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::own::{self, Options, Shares};
use fused_lstm::data::{Dataset, Split};
use fused_lstm::engine::Engine;
use fused_lstm::train::{Plan, Unwatched, evaluate, train};
use std::path::Path;
use std::sync::Arc;

/// Trains on `file`, whose steps have two inputs, and saves the model in `folder`; gives the accuracy on the test sequences.
pub fn run(file: &Path, folder: &Path) -> fused_lstm::Result<f64> {
    let options = Options { inputs: Some(2), split: Some(Shares([60, 20, 20])), ..Options::default() };
    let data: Arc<Dataset> = Arc::new(own::load(file, &options, None)?);
    let config = Config { batch_size: 12, ..Config::new(&data, 16) }; // 16 hidden units
    let mut engine = CpuEngine::new(config.model, config.adam, data.clone(), 0)?;
    engine.set_state(&config.initial_state())?;
    train(&mut engine, &data, &config, &Plan::new(300), &mut Unwatched)?;

    let test = evaluate(&mut engine, &data, Split::Test)?;
    Checkpoint { config, state: engine.state()? }.save(folder)?;
    Ok(test.accuracy)
}

fn main() -> fused_lstm::Result<()> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [file, folder] = &paths[..] else {
        eprintln!("usage: own_csv FILE.csv FOLDER");
        std::process::exit(2);
    };
    let accuracy = run(Path::new(file), Path::new(folder))?;
    println!("{:.1} % of the test sequences are classified right; the model is in {folder}", 100.0 * accuracy);
    Ok(())
}
