//! Models to and from other programs: PyTorch's and Keras' tensors in safetensors files, and whole ONNX graphs.
//!
//! All of them have the forget bias in the gates' bias, so it is added there on the way out; what comes in has a
//! [forget bias](Model::forget_bias) of 0. Nothing else of a parameter changes but its place.

mod keras;
pub mod onnx;
mod pytorch;

use crate::checkpoint;
use crate::config::Config;
use crate::data::own::half;
use crate::error::{Error, Result};
use crate::model::{InputLayer, Model};
use crate::shape::{Cell, Dims, GATES, Linear, Tensors, gate};
use crate::tensor_file::{Tensor, TensorFile, read_limited};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// Largest file: a header, and as many parameters as there can be, of eight bytes each.
const MAX_BYTES: u64 = Dims::MAX_PARAMETERS as u64 * 8 + (1 << 20);
const REMEDY: &str = "give the state of one LSTM with linear layers around it, as docs/interchange.md has it";

/// How another program names its tensors and lays them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The state dict of nn.Linear, nn.LSTM and nn.Linear, in a safetensors file
    Pytorch,
    /// The weights of Dense, LSTM (or Bidirectional) and Dense layers by their paths, in a safetensors file
    Keras,
}

/// What a file of another program tells of a model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// As the tensors are. What they do not tell is as `config` tells, else T is 1, the last state is read, and there is no
    /// dropout.
    pub model: Model,
    /// Flat parameters.
    pub parameters: Vec<f32>,
    /// How it was trained, if this program exported the file; with that model.
    pub config: Option<Config>,
}

/// Names in a file of what one tensor here is made of: the sum of those; none for zeros.
type Names = Vec<String>;

/// What a format finds in a file: by their names, before any shape is looked at.
struct Found {
    /// In the order of [`Tensors::cells`].
    cells: Vec<Cell<Names>>,
    directions: usize,
    /// Other layers that have a matrix.
    linears: Vec<Linear<Names>>,
}

impl Format {
    /// Whether a tensor of this shape is a matrix that has its outputs first there, and its inputs first here.
    fn turns(self, shape: &[usize]) -> bool {
        self == Self::Pytorch && shape.len() == 2
    }

    /// A tensor's shape in the file, from that of ours, or the other way round.
    fn turned(self, shape: &[usize]) -> Vec<usize> {
        let mut turned = shape.to_vec();
        if self.turns(shape) {
            turned.reverse();
        }
        turned
    }
}

/// The tensors of a model of `config` with these flat parameters, by the names that `format` has for them. They also tell
/// the configuration, for [`import`].
pub fn export(config: &Config, parameters: &[f32], format: Format) -> TensorFile {
    let layout = config.model.layout();
    let parameters = with_forget_bias(&config.model, parameters);
    let names = match format {
        Format::Pytorch => pytorch::names(&config.model),
        Format::Keras => keras::names(&config.model),
    };
    let mut tensors = BTreeMap::new();
    let values = layout.view(&parameters).into_vec();
    for ((names, shape), values) in names.into_vec().into_iter().zip(layout.shapes().into_vec()).zip(values) {
        let turned = format.turned(&shape);
        let values = if format.turns(&shape) { transposed(values, shape[0]) } else { values.to_vec() };
        // The first holds everything; what is added to it is zero.
        let zeros = Tensor::f32(&turned, vec![0.0; values.len()]);
        tensors.extend(names[1..].iter().map(|name| (name.clone(), zeros.clone())));
        tensors.insert(names[0].clone(), Tensor::f32(&turned, values));
    }
    TensorFile { tensors, metadata: checkpoint::metadata(&checkpoint::ConfigFile::new(config)) }
}

/// Reads a safetensors file with tensors of `format`, of 16, 32 or 64-bit floats.
///
/// # Errors
///
/// [`Error::Checkpoint`] that names the file, and the tensor with what was found and expected.
pub fn import(path: &Path, format: Format) -> Result<Imported> {
    let read = read_limited(File::open(path), MAX_BYTES).and_then(|bytes| parse(&bytes, format));
    read.map_err(|found| Error::checkpoint(path, found, REMEDY))
}

fn parse(bytes: &[u8], format: Format) -> Result<Imported, String> {
    let broken = |e: safetensors::SafeTensorError| format!("not a whole safetensors file ({e})");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let names: BTreeSet<&str> = file.names().into_iter().collect();
    let found = match format {
        Format::Pytorch => pytorch::find(&names),
        Format::Keras => keras::find(&names),
    };
    let (model, names) = found.and_then(|found| arrange(&file, format, found))?;
    let mut parameters = Vec::with_capacity(model.layout().len());
    for (names, shape) in names.into_vec().iter().zip(model.layout().shapes().into_vec()) {
        parameters.extend(sum(&file, format, names, &shape)?);
    }
    let config = header.metadata().as_ref().and_then(|metadata| metadata.get(checkpoint::METADATA));
    let config = config.map(|text| told(text, model).map_err(|found| format!("its metadata: {found}"))).transpose()?;
    Ok(Imported { model: config.as_ref().map_or(model, |config| config.model), parameters, config })
}

/// The configuration that an exported file tells, for a model of these tensors.
fn told(text: &str, model: Model) -> Result<Config, String> {
    let mut config = checkpoint::parse_config(text.as_bytes())?;
    let Dims { t, .. } = config.model.dims;
    if config.model.layout() != (Model { dims: Dims { t, ..model.dims }, ..model }).layout() {
        return Err("the configuration is of a model of other sizes than the tensors".into());
    }
    config.model.forget_bias = model.forget_bias;
    Ok(config)
}

/// The model that tensors of these shapes are for, and which of them is what.
fn arrange(file: &SafeTensors, format: Format, found: Found) -> Result<(Model, Tensors<Names>), String> {
    let Found { cells, directions, linears } = found;
    let [h, g] = sizes(file, format, &cells[0].w_h[0])?;
    if g != GATES * h {
        let name = &cells[0].w_h[0];
        let kind = match g.checked_div(h) {
            Some(3) if g == 3 * h => ", as a GRU's is: only an LSTM can be read",
            Some(1) if g == h => ", as a plain RNN's is: only an LSTM can be read",
            _ => "",
        };
        let (is, expected) = (format.turned(&[h, g]), format.turned(&[h, GATES * h]));
        return Err(format!("tensor {name} is {is:?}, not {expected:?}{kind}"));
    }
    let [p, _] = sizes(file, format, &cells[0].w_x[0])?;
    let (input, output) = ends(file, format, linears, p, directions * h)?;
    let i = input.as_ref().map_or(Ok(p), |input| sizes(file, format, &input.w[0]).map(|[i, _]| i))?;
    let [_, k] = sizes(file, format, &output.w[0])?;
    let model = Model {
        forget_bias: 0.0,
        layers: cells.len() / directions,
        bidirectional: directions == 2,
        input_layer: if input.is_some() { InputLayer::Linear } else { InputLayer::None },
        ..Model::new(Dims { t: 1, i, p, h, k })
    };
    model.check().map_err(|error| match error {
        // These remedies are for flags.
        Error::Usage { argument, found, .. } => format!("{argument}: {found}"),
        other => other.to_string(),
    })?;
    Ok((model, Tensors { input, cells, output }))
}

/// Which of the linear layers stands before an LSTM that reads `inputs` numbers, and which after it, where there are
/// `outputs`: by their names `input` and `output`, else by what fits.
fn ends(
    file: &SafeTensors,
    format: Format,
    mut linears: Vec<Linear<Names>>,
    inputs: usize,
    outputs: usize,
) -> Result<(Option<Linear<Names>>, Linear<Names>), String> {
    let name = |linear: &Linear<Names>| linear.w[0].clone();
    let all = |linears: &[Linear<Names>]| linears.iter().map(name).collect::<Vec<_>>().join(", ");
    if linears.len() > 2 {
        return Err(format!("there are {} linear layers, not one or two: {}", linears.len(), all(&linears)));
    }
    let called = |linear: &Linear<Names>, word: &str| name(linear).rsplit(['.', '/']).nth(1) == Some(word);
    let Some(last) = linears.pop() else { return Err("there is no linear layer after the LSTM".into()) };
    let Some(first) = linears.pop() else {
        return match called(&last, "input") {
            true => Err(format!("there is no linear layer after the LSTM, only {}", name(&last))),
            false => Ok((None, last)),
        };
    };
    if called(&first, "input") || called(&last, "output") {
        return Ok((Some(first), last));
    }
    if called(&last, "input") || called(&first, "output") {
        return Ok((Some(last), first));
    }
    let [a, b] = [sizes(file, format, &name(&first))?, sizes(file, format, &name(&last))?];
    let fit = |before: [usize; 2], after: [usize; 2]| before[1] == inputs && after[0] == outputs;
    match (fit(a, b), fit(b, a)) {
        (true, false) => Ok((Some(first), last)),
        (false, true) => Ok((Some(last), first)),
        (both, _) => {
            let pair = format!("{} {:?} and {} {:?}", name(&first), format.turned(&a), name(&last), format.turned(&b));
            let found = format!("an LSTM that reads {inputs} numbers and gives {outputs}");
            Err(match both {
                true => format!("{pair} both fit before and after {found}: name them input and output"),
                false => format!("{pair} do not fit before and after {found}"),
            })
        }
    }
}

fn tensor<'a>(file: &'a SafeTensors, name: &str) -> Result<TensorView<'a>, String> {
    file.tensor(name).map_err(|_| format!("tensor {name} is missing"))
}

/// Inputs and outputs of the matrix `name`.
fn sizes(file: &SafeTensors, format: Format, name: &str) -> Result<[usize; 2], String> {
    let view = tensor(file, name)?;
    match format.turned(view.shape())[..] {
        [inputs, outputs] if inputs * outputs > 0 => Ok([inputs, outputs]),
        _ => Err(format!("tensor {name} is {:?}: not a matrix", view.shape())),
    }
}

/// The sum of the tensors of these names, in our layout, whose shape is to be `shape` here.
fn sum(file: &SafeTensors, format: Format, names: &[String], shape: &[usize]) -> Result<Vec<f32>, String> {
    let expected = format.turned(shape);
    let mut sum = vec![0.0; shape.iter().product()];
    for name in names {
        let view = tensor(file, name)?;
        if view.shape() != expected {
            return Err(format!("tensor {name} is {:?}, not {expected:?}", view.shape()));
        }
        let values = floats(&view).map_err(|found| format!("tensor {name} {found}"))?;
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        if !sum.iter().all(|v| v.is_finite()) {
            return Err(format!("tensor {name} holds numbers that are NaN, infinite, or too large for 32 bits"));
        }
    }
    Ok(if format.turns(shape) { transposed(&sum, shape[1]) } else { sum })
}

fn floats(view: &TensorView) -> Result<Vec<f32>, String> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| half(u16::from_le_bytes(b))).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|&[a, b]| f32::from_le_bytes([0, 0, a, b])).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        other => return Err(format!("is of type {other}, not F16, BF16, F32 or F64")),
    })
}

/// Flat parameters whose gates' biases hold the forget bias.
fn with_forget_bias(model: &Model, parameters: &[f32]) -> Vec<f32> {
    let mut parameters = parameters.to_vec();
    for Cell { b, .. } in model.layout().view_mut(&mut parameters).cells {
        b[gate::F * model.dims.h..][..model.dims.h].iter_mut().for_each(|b| *b += model.forget_bias);
    }
    parameters
}

/// The transpose of a matrix with so many rows.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}
