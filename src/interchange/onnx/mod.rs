//! ONNX: the whole of a model as one graph, from the numbers of a user's file to the probabilities of the classes.
//!
//! | value | type | shape |
//! | --- | --- | --- |
//! | `input` | float | `[batch, steps, I]`, any batch and any number of steps; what stands in the data, not normalised |
//! | `lengths` | int32 | `[batch]`, if it was asked for: the steps that count of each sequence |
//! | `logits`, `probabilities` | float | `[batch, K]` |

mod message;

use super::{transposed, with_forget_bias};
use crate::config::Config;
use crate::data::own::Normalization;
use crate::error::{Error, Result};
use crate::model::{Model, Pool};
use crate::shape::{Cell, Linear, gate};
use message::{
    Attribute, Dimension, Entry, Graph, Node, OperatorSet, Shape, Size, Tensor, TensorType, Type, ValueInfo,
};
use message::{attribute, element};
use prost::Message;

/// Version of the file's form. With [`OPSET`] it is that of ONNX 1.12, of June 2022.
const IR_VERSION: i64 = 8;
/// Version of the operators.
pub const OPSET: i64 = 17;
/// ONNX's order of the gates.
const GATE_ORDER: [usize; 4] = [gate::I, gate::O, gate::F, gate::G];
/// A protobuf message holds no more, and there is more in it than parameters.
const MAX_PARAMETERS: usize = (1 << 29) - (1 << 20);

/// The bytes of an ONNX file for a model of `config` with these flat parameters. With `lengths` it has an input of this name.
///
/// # Errors
///
/// [`Error::Usage`] if the model is larger than such a file can be.
pub fn export(config: &Config, parameters: &[f32], lengths: bool) -> Result<Vec<u8>> {
    if parameters.len() > MAX_PARAMETERS {
        let found = format!("the model has {} parameters, and such a file holds 2 GB", parameters.len());
        return Err(Error::usage("--format onnx", found, "export it as pytorch or keras"));
    }
    let mut graph = Builder::default();
    let class_names = config.own.as_ref().map(|own| Entry {
        key: "class_names".into(),
        value: serde_json::to_string(&own.class_names).expect("text can be written"),
    });
    graph.model(config, &with_forget_bias(&config.model, parameters), lengths);
    let model = message::Model {
        ir_version: IR_VERSION,
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph.finish(&config.model, lengths)),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: class_names.into_iter().collect(),
    };
    Ok(model.encode_to_vec())
}

/// What a node is told beside its inputs.
enum Setting<'a> {
    Number(&'a str, i64),
    Numbers(&'a str, &'a [i64]),
    Text(&'a str, &'a str),
}
use Setting::{Number, Numbers, Text};

/// Steps that count.
struct Mask {
    /// Whether a step counts, `[batch, steps, 1]`.
    counts: String,
    /// How many of a sequence do, `[batch, 1]`, float.
    number: String,
}

/// A graph, value by value; each is named after the operator that makes it.
#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
}

impl Builder {
    fn model(&mut self, config: &Config, parameters: &[f32], lengths: bool) {
        let model = &config.model;
        let tensors = model.layout().view(parameters);
        let mask = lengths.then(|| self.mask());
        let mut x = self.prepared(config, mask.as_ref());
        if let Some(linear) = tensors.input {
            x = self.linear("input", &x, linear, model.dims.p, None);
        }
        // The operator LSTM has the steps first.
        x = self.node("Transpose", &[&x], &[Numbers("perm", &[1, 0, 2])]);
        let mut end = String::new();
        for (layer, cells) in tensors.cells.chunks_exact(model.directions()).enumerate() {
            let (outputs, last) = self.lstm(model, layer, &x, cells, lengths);
            let next_steps_first = layer + 1 < model.layers;
            // [steps, D, batch, H] to [steps, batch, D·H], or with the batch first.
            let order: &[i64] = if next_steps_first { &[0, 2, 1, 3] } else { &[2, 0, 1, 3] };
            if next_steps_first || model.pool != Pool::Last {
                x = self.node("Transpose", &[&outputs], &[Numbers("perm", order)]);
                x = self.joined(&x, &[0, 0, -1]);
            }
            end = last;
        }
        let pooled = match model.pool {
            Pool::Last => {
                // [D, batch, H] to [batch, D·H].
                let turned = self.node("Transpose", &[&end], &[Numbers("perm", &[1, 0, 2])]);
                self.joined(&turned, &[0, -1])
            }
            Pool::Mean => self.mean(&x, mask.as_ref(), 0),
            Pool::Max => {
                let x = self.filled(&x, mask.as_ref(), f32::MIN);
                self.reduce("ReduceMax", &x, 0)
            }
        };
        self.linear("output", &pooled, tensors.output, model.dims.k, Some("logits"));
        self.named("Softmax", &["logits"], &["probabilities"], &[Number("axis", -1)]);
    }

    /// What the model reads, of what the user gives.
    fn prepared(&mut self, config: &Config, mask: Option<&Mask>) -> String {
        let mut x = "input".to_owned();
        if config.input_scale() != 1.0 {
            let scale = self.float("input_scale", &[], &[config.input_scale()]);
            x = self.node("Mul", &[&x, &scale], &[]);
        }
        match config.own.as_ref().map_or(&Normalization::None, |own| &own.normalization) {
            Normalization::None => x,
            Normalization::Feature { mean, deviation } => {
                let inputs = [mean.len() as i64];
                let (mean, deviation) =
                    (self.float("mean", &inputs, mean), self.float("deviation", &inputs, deviation));
                let centred = self.node("Sub", &[&x, &mean], &[]);
                self.node("Div", &[&centred, &deviation], &[])
            }
            Normalization::Sequence => self.normalized(&x, mask),
        }
    }

    /// Each input by its mean and standard deviation over the steps. They are measured above the smallest number, so that what
    /// never changes is zero to the bit, and has no deviation to be divided by. The mean itself is rounded to a float, as where
    /// the model was trained.
    fn normalized(&mut self, x: &str, mask: Option<&Mask>) -> String {
        let high = self.filled(x, mask, f32::MAX);
        let low = self.reduce("ReduceMin", &high, 1);
        let above = self.node("Sub", &[x, &low], &[]);
        let mean = self.mean(&above, mask, 1);
        let centred = self.node("Sub", &[&above, &mean], &[]);
        let squared = self.node("Mul", &[&centred, &centred], &[]);
        let variance = self.mean(&squared, mask, 1);
        let deviation = self.node("Sqrt", &[&variance], &[]);
        let (zero, one) = (self.float("zero", &[], &[0.0]), self.float("one", &[], &[1.0]));
        let constant = self.node("Equal", &[&deviation, &zero], &[]);
        let divisor = self.node("Where", &[&constant, &one, &deviation], &[]);
        let mean = self.node("Add", &[&low, &mean], &[]);
        let centred = self.node("Sub", &[x, &mean], &[]);
        self.node("Div", &[&centred, &divisor], &[])
    }

    /// Of the input `lengths`.
    fn mask(&mut self) -> Mask {
        let shape = self.node("Shape", &["input"], &[]);
        let (zero, one) = (self.whole("from", &[], &[0]), self.whole("by", &[], &[1]));
        let steps = self.node("Gather", &[&shape, &one], &[]);
        let step = self.node("Range", &[&zero, &steps, &one], &[]);
        let long = self.node("Cast", &["lengths"], &[Number("to", element::INT64.into())]);
        let last = self.whole("last_axis", &[1], &[-1]);
        let each = self.node("Unsqueeze", &[&long, &last], &[]);
        let counts = self.node("Less", &[&step, &each], &[]);
        let counts = self.node("Unsqueeze", &[&counts, &last], &[]);
        let number = self.node("Cast", &[&each], &[Number("to", element::FLOAT.into())]);
        Mask { counts, number }
    }

    /// `x [batch, steps, ·]` with `value` in steps that do not count.
    fn filled(&mut self, x: &str, mask: Option<&Mask>, value: f32) -> String {
        let Some(mask) = mask else { return x.to_owned() };
        let value = self.float("fill", &[], &[value]);
        self.node("Where", &[&mask.counts, x, &value], &[])
    }

    /// The mean over the steps that count of `x [batch, steps, ·]`; with `keep` 1 it has that axis still.
    fn mean(&mut self, x: &str, mask: Option<&Mask>, keep: i64) -> String {
        let Some(mask) = mask else { return self.reduce("ReduceMean", x, keep) };
        let counted = self.filled(x, Some(mask), 0.0);
        let steps = self.whole("steps_axis", &[1], &[1]);
        let sum = self.node("ReduceSum", &[&counted, &steps], &[Number("keepdims", keep)]);
        let number = match keep {
            0 => mask.number.clone(),
            _ => self.node("Unsqueeze", &[&mask.number, &steps], &[]),
        };
        self.node("Div", &[&sum, &number], &[])
    }

    fn reduce(&mut self, operator: &str, x: &str, keep: i64) -> String {
        self.node(operator, &[x], &[Numbers("axes", &[1]), Number("keepdims", keep)])
    }

    /// `x` in another shape, where 0 stands for a size as it was, -1 for what is left.
    fn joined(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.whole("shape", &[shape.len() as i64], shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// `x · w + b`, as `output` if that has to have a name.
    fn linear(&mut self, layer: &str, x: &str, of: Linear<&[f32]>, width: usize, output: Option<&str>) -> String {
        let sizes = [(of.w.len() / width) as i64, width as i64];
        let w = self.float(&format!("{layer}.w"), &sizes, of.w);
        let b = self.float(&format!("{layer}.b"), &sizes[1..], of.b);
        let product = self.node("MatMul", &[x, &w], &[]);
        match output {
            None => self.node("Add", &[&product, &b], &[]),
            Some(output) => {
                self.named("Add", &[&product, &b], &[output], &[]);
                output.to_owned()
            }
        }
    }

    /// Outputs of all steps `[steps, D, batch, H]`, and those that each direction ends with `[D, batch, H]`.
    fn lstm(
        &mut self,
        model: &Model,
        layer: usize,
        x: &str,
        cells: &[Cell<&[f32]>],
        lengths: bool,
    ) -> (String, String) {
        let (m, h) = (model.layer_inputs(layer), model.dims.h);
        let [d, g] = [model.directions(), model.dims.g()].map(|size| size as i64);
        // Rows of a transposed matrix, or numbers of a bias, gate by gate.
        let ordered =
            |values: &[f32], width: usize| GATE_ORDER.map(|gate| &values[gate * h * width..][..h * width]).concat();
        let matrix = |values: &[f32], inputs: usize| ordered(&transposed(values, inputs), inputs);
        let all = |of: &dyn Fn(&Cell<&[f32]>) -> Vec<f32>| cells.iter().flat_map(of).collect::<Vec<_>>();
        let name = |what: &str| format!("lstm{layer}.{what}");
        let w = self.float(&name("W"), &[d, g, m as i64], &all(&|cell| matrix(cell.w_x, m)));
        let r = self.float(&name("R"), &[d, g, h as i64], &all(&|cell| matrix(cell.w_h, h)));
        // There are two biases, as in PyTorch.
        let biases = |cell: &Cell<&[f32]>| [ordered(cell.b, 1), vec![0.0; cell.b.len()]].concat();
        let b = self.float(&name("B"), &[d, 2 * g], &all(&biases));
        let (outputs, last) = (name("Y"), name("Y_h"));
        let direction = if model.bidirectional { "bidirectional" } else { "forward" };
        let settings = [Number("hidden_size", h as i64), Text("direction", direction)];
        let lengths = if lengths { "lengths" } else { "" };
        self.named("LSTM", &[x, &w, &r, &b, lengths], &[&outputs, &last], &settings);
        (outputs, last)
    }

    /// Adds a node; gives the name of what it makes.
    fn node(&mut self, operator: &str, inputs: &[&str], settings: &[Setting]) -> String {
        let output = format!("{operator}_{}", self.nodes.len());
        self.named(operator, inputs, &[&output], settings);
        output
    }

    fn named(&mut self, operator: &str, inputs: &[&str], outputs: &[&str], settings: &[Setting]) {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let attribute = |setting: &Setting| match *setting {
            Number(name, i) => Attribute { i: Some(i), ..attribute_of(name, attribute::INT) },
            Numbers(name, ints) => Attribute { ints: ints.to_vec(), ..attribute_of(name, attribute::INTS) },
            Text(name, s) => Attribute { s: Some(s.into()), ..attribute_of(name, attribute::STRING) },
        };
        self.nodes.push(Node {
            input: texts(inputs),
            output: texts(outputs),
            name: format!("{operator}_{}", self.nodes.len()),
            op_type: operator.to_owned(),
            attribute: settings.iter().map(attribute).collect(),
        });
    }

    fn float(&mut self, name: &str, sizes: &[i64], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, element::FLOAT, sizes, bytes)
    }

    fn whole(&mut self, name: &str, sizes: &[i64], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, element::INT64, sizes, bytes)
    }

    /// Adds a tensor; gives its name, with a number if another one is called that.
    fn initializer(&mut self, name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> String {
        let taken = self.initializers.iter().any(|tensor| tensor.name == name);
        let name = if taken { format!("{name}_{}", self.initializers.len()) } else { name.to_owned() };
        self.initializers.push(Tensor { dims: dims.to_vec(), data_type, name: name.clone(), raw_data });
        name
    }

    fn finish(self, model: &Model, lengths: bool) -> Graph {
        let value = |name: &str, elem_type, sizes: &[Size]| {
            let dim = sizes.iter().map(|size| Dimension { size: Some(size.clone()) }).collect();
            let tensor_type = Some(TensorType { elem_type, shape: Some(Shape { dim }) });
            ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
        };
        let any = |name: &str| Size::Param(name.to_owned());
        let [inputs, classes] = [model.dims.i, model.dims.k].map(|size| Size::Value(size as i64));
        let mut input = vec![value("input", element::FLOAT, &[any("batch"), any("steps"), inputs])];
        input.extend(lengths.then(|| value("lengths", element::INT32, &[any("batch")])));
        let scores = [any("batch"), classes];
        let output = ["logits", "probabilities"].map(|name| value(name, element::FLOAT, &scores)).into();
        Graph { node: self.nodes, name: env!("CARGO_PKG_NAME").into(), initializer: self.initializers, input, output }
    }
}

fn attribute_of(name: &str, r#type: i32) -> Attribute {
    Attribute { name: name.to_owned(), r#type, ..Attribute::default() }
}
