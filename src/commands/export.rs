//! `fused-lstm export`: a checkpoint's model for other programs.

use super::output::line;
use super::progress::note;
use crate::cli::{ExportArgs, ExportFormat};
use fused_lstm::interchange::{self, Format, onnx};
use fused_lstm::tensor_file::write_whole;
use fused_lstm::{Error, Result};

/// Runs the command.
pub fn run(args: &ExportArgs) -> Result<()> {
    if args.lengths && args.format != ExportFormat::Onnx {
        let found = "only a graph has inputs, and this format is of tensors";
        return Err(Error::usage("--lengths", found, "leave it out, or give --format onnx"));
    }
    let (config, parameters) = super::load_parameters(&args.model)?;
    let tensors = |format| interchange::export(&config, &parameters, format).to_bytes();
    let (bytes, what) = match args.format {
        ExportFormat::Pytorch => (tensors(Format::Pytorch), "a state dict of PyTorch, in safetensors".into()),
        ExportFormat::Keras => (tensors(Format::Keras), "weights for Keras, in safetensors".into()),
        ExportFormat::Onnx => {
            let inputs = if args.lengths { "input, lengths" } else { "input" };
            let what = format!("ONNX, operators of version {}: {inputs} to logits, probabilities", onnx::OPSET);
            (onnx::export(&config, &parameters, args.lengths)?, what)
        }
    };
    write_whole(&args.out, &bytes, "choose another place with --out")?;
    line(&format!("exported    {}: {what}", args.out.display()))?;
    if args.format == ExportFormat::Onnx && !args.lengths && super::reads_any_length(&config) {
        let text =
            "the model was trained on sequences of different lengths; with --lengths the graph takes them in one batch";
        note(text);
    }
    Ok(())
}
