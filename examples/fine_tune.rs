//! Goes on training a PyTorch model on a CSV of one's own, and saves it for both worlds.
//!
//!     cargo run --release --example fine_tune -- pytorch.safetensors tests/own_data/waves.csv model tuned.safetensors
//!
//! The first file holds the state dict of nn.Linear, nn.LSTM and nn.Linear, as `safetensors.torch.save_file` writes it; the
//! last one will, for `load_state_dict`. docs/interchange.md tells how both sides name the tensors.

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::own::{self, Options};
use fused_lstm::data::{Dataset, Split};
use fused_lstm::engine::{Engine, State};
use fused_lstm::interchange::{self, Format};
use fused_lstm::tensor_file::write_whole;
use fused_lstm::train::{Plan, Unwatched, evaluate, train};
use std::path::Path;
use std::sync::Arc;

/// Trains the model in `pytorch` on `file`, whose steps have two inputs, saves it as a checkpoint in `folder` and as a state dict
/// in `tuned`; gives the accuracy on the test sequences before and after.
pub fn run(pytorch: &Path, file: &Path, folder: &Path, tuned: &Path) -> fused_lstm::Result<[f64; 2]> {
    let options = Options { inputs: Some(2), ..Options::default() };
    let data: Arc<Dataset> = Arc::new(own::load(file, &options, None)?);
    let imported = interchange::import(pytorch, Format::Pytorch)?;
    let mut config = Config { batch_size: 12, ..Config::new(&data, imported.model.dims.h) };
    config.model = imported.model; // its layers; how long sequences are, the data tells
    config.model.dims.t = data.train.t();
    config.adam.learning_rate = 3e-4; // smaller than for a model that knows nothing yet

    let mut engine = CpuEngine::new(config.model, config.adam, data.clone(), 0)?;
    engine.set_state(&State::new(imported.parameters))?;
    let before = evaluate(&mut engine, &data, Split::Test)?.accuracy;
    train(&mut engine, &data, &config, &Plan::new(100), &mut Unwatched)?;
    let after = evaluate(&mut engine, &data, Split::Test)?.accuracy;

    let state = engine.state()?;
    write_whole(
        tuned,
        &interchange::export(&config, &state.parameters, Format::Pytorch).to_bytes(),
        "choose another file",
    )?;
    Checkpoint { config, state }.save(folder)?;
    Ok([before, after])
}

fn main() -> fused_lstm::Result<()> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [pytorch, file, folder, tuned] = &paths[..] else {
        eprintln!("usage: fine_tune PYTORCH.safetensors FILE.csv FOLDER TUNED.safetensors");
        std::process::exit(2);
    };
    let [before, after] = run(pytorch.as_ref(), file.as_ref(), folder.as_ref(), tuned.as_ref())?;
    println!("{:.1} % of the test sequences are classified right, before {:.1} %", 100.0 * after, 100.0 * before);
    println!("the model is in {folder}, and for PyTorch in {tuned}");
    Ok(())
}
