//! Fixtures: one batch, the parameters to run it from, and what every engine must make of it.
//!
//! A fixture is a safetensors file with `x [B,T,I]`, `labels [B]` and the parameters `param.w_in [I,P]`,
//! `param.b_in [P]`, `param.lstm_kernel [P+H,4H]`, `param.lstm_bias [4H]`, `param.w_out [H,K]`, `param.b_out [K]`, whose
//! gates stand in TensorFlow's order i, j, f, o. Expected tensors are named `out.*`, `grad.*`, `after1.*` and
//! `after10.*`; the metadata may set `forget_bias`, `lr`, `beta1`, `beta2` and `eps`.

use crate::data::{Dataset, Sequences, Values};
use crate::engine::{Engine, Model, State};
use crate::error::{Error, Result};
use crate::optimizer::Adam;
use crate::precision::Precision;
use crate::reference::softmax_xent::arg_max;
use crate::shape::{Dims, GATES, Linear, Tensors};
use crate::tensor_file::{Numbers, Tensor, TensorFile};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Largest file read as a fixture: 4 GiB.
const MAX_BYTES: u64 = 1 << 32;

const REMEDY: &str = "give a fixture as `fused-lstm verify --help` describes it";

/// A batch, parameters and what is expected of them.
pub struct Fixture {
    file: TensorFile,
    /// Sizes and forget bias.
    pub model: Model,
    /// The optimizer of the expected updates.
    pub adam: Adam,
    /// The batch.
    pub batch: Sequences,
    /// Flat parameters to run from.
    pub parameters: Vec<f32>,
}

/// How far one computed tensor is from the expected one.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Name of the tensor, such as `grad.w_in`.
    pub name: String,
    /// How the error is measured: `max` relative to the largest value, `l2` of the update in 2-norms, `far` the share
    /// of entries more than a tenth of the learning rate away.
    pub measure: &'static str,
    /// The error.
    pub error: f64,
    /// Largest error that passes.
    pub bound: f64,
}

impl Comparison {
    /// True if the error is within the bound; never for NaN.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

/// Largest errors of a good implementation.
struct Bounds {
    loss: f64,
    correct: f64,
    output: f64,
    gradient: f64,
    /// After 1 and after 10 steps.
    update: [f64; 2],
    far: f64,
    losses10: f64,
}

impl Bounds {
    /// Ten times what PyTorch gives with factors of this precision, or less.
    fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self {
                loss: 2e-6,
                correct: 0.0,
                output: 5e-6,
                gradient: 2e-5,
                update: [2e-3; 2],
                far: 1e-3,
                losses10: 2e-5,
            },
            Precision::Tf32 => Self {
                loss: 2e-3,
                correct: 0.1,
                output: 5e-3,
                gradient: 6e-3,
                update: [0.2, 0.15],
                far: 0.05,
                losses10: 5e-3,
            },
            Precision::Bf16 => Self {
                loss: 1e-2,
                correct: 0.1,
                output: 4e-2,
                gradient: 5e-2,
                update: [0.3, 0.25],
                far: 0.35,
                losses10: 2e-2,
            },
        }
    }
}

impl Fixture {
    /// Reads a fixture.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] that says what is missing or of the wrong shape.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |found: String| Error::data(path, found, REMEDY);
        Self::from_file(TensorFile::read(path, MAX_BYTES).map_err(fail)?).map_err(fail)
    }

    fn from_file(file: TensorFile) -> Result<Self, String> {
        let [n, t, i] = file.shape("x")?;
        let [_, p] = file.shape("param.w_in")?;
        let [_, g] = file.shape("param.lstm_kernel")?;
        let [_, k] = file.shape("param.w_out")?;
        let dims = Dims { t, i, p, h: g / GATES, k };
        Model::new(dims).check().map_err(|e| e.to_string())?;
        if n == 0 {
            return Err("x has no rows".into());
        }
        let number = |name: &str, default: f64| match file.metadata.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("metadata {name} is {text:?}, not a number")),
        };
        let standard = Adam::default();
        let adam = Adam {
            learning_rate: number("lr", standard.learning_rate)?,
            beta1: number("beta1", standard.beta1)?,
            beta2: number("beta2", standard.beta2)?,
            epsilon: number("eps", standard.epsilon)?,
            ..standard
        };
        let model = Model { forget_bias: number("forget_bias", 1.0)? as f32, ..Model::new(dims) };
        let numbers = [adam.learning_rate, adam.beta1, adam.beta2, adam.epsilon, model.forget_bias.into()];
        if !numbers.iter().all(|n: &f64| n.is_finite()) {
            return Err("a number in the metadata is NaN or infinite".into());
        }
        let parameters = parameters(&file, "param", dims)?;
        let labels = match &file.tensors.get("labels").ok_or("tensor labels is missing")?.numbers {
            Numbers::I32(labels) if labels.len() == n => labels.clone(),
            _ => return Err(format!("tensor labels is not [{n}] of I32")),
        };
        if let Some(label) = labels.iter().find(|&&label| label < 0 || label as usize >= k) {
            return Err(format!("a label is {label}, but there are {k} classes"));
        }
        let x = file.f32("x", &[n, t, i])?.to_vec();
        if x.iter().chain(&parameters).any(|v| !v.is_finite()) {
            return Err("x or a parameter holds NaN or an infinite number".into());
        }
        let batch = Sequences::new(t, i, Values::F32(x), labels.into_iter().map(|l| l as u32).collect());
        Ok(Self { file, model, adam, batch, parameters })
    }

    /// A data set whose training split is the batch, for an engine that is to run this fixture.
    pub fn dataset(&self) -> Arc<Dataset> {
        let nothing = self.batch.slice(0, 0);
        Arc::new(Dataset {
            description: "fixture".into(),
            name: "fixture",
            classes: self.model.dims.k,
            train: self.batch.clone(),
            validation: nothing.clone(),
            test: nothing,
            own: None,
        })
    }

    /// Runs the batch on `engine`, which must have this fixture's model, optimizer and data set: every tensor that a
    /// fixture can expect, by name.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    pub fn compute(&self, engine: &mut dyn Engine) -> Result<BTreeMap<String, Tensor>> {
        let Dims { t, i, h, k, .. } = self.model.dims;
        let n = self.batch.len();
        engine.set_state(&State::new(self.parameters.clone()))?;
        let trace = engine.trace(&self.batch)?;
        let right = |(logits, &label): (&[f32], &u32)| arg_max(logits) == label;
        let correct = trace.logits.chunks_exact(k).zip(self.batch.labels()).filter(|&pair| right(pair)).count();
        let mean = trace.loss.iter().map(|&l| f64::from(l)).sum::<f64>() / n as f64;
        let mut computed = BTreeMap::from([
            ("out.logits".to_owned(), Tensor::f32(&[n, k], trace.logits)),
            ("out.h_T".to_owned(), Tensor::f32(&[n, h], trace.h_last)),
            ("out.c_T".to_owned(), Tensor::f32(&[n, h], trace.c_last)),
            ("out.loss".to_owned(), Tensor::f32(&[1], vec![mean as f32])),
            ("out.loss_per_sample".to_owned(), Tensor::f32(&[n], trace.loss)),
            ("out.correct".to_owned(), Tensor::i32(&[1], vec![correct as i32])),
            ("grad.x".to_owned(), Tensor::f32(&[n, t, i], trace.dx)),
        ]);
        computed.extend(named("grad", &self.model, &trace.gradient));
        let rows: Vec<u32> = (0..n as u32).collect();
        let mut losses = Vec::new();
        for step in 1..=10 {
            losses.push(engine.train_steps(&rows, n)?[0].loss);
            if step == 1 || step == 10 {
                computed.extend(named(&format!("after{step}"), &self.model, &engine.state()?.parameters));
            }
        }
        computed.insert("out.losses10".into(), Tensor::f32(&[10], losses));
        Ok(computed)
    }

    /// Compares `computed` with every expected tensor of the fixture, by the bounds of a good implementation whose products have
    /// this precision.
    ///
    /// # Errors
    ///
    /// If the fixture expects a tensor that no engine computes, or one of another shape.
    pub fn compare(
        &self,
        computed: &BTreeMap<String, Tensor>,
        precision: Precision,
    ) -> Result<Vec<Comparison>, String> {
        let mut comparisons = Vec::new();
        for (name, expected) in &self.file.tensors {
            if !["out.", "grad.", "after1.", "after10."].iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let got = computed.get(name).ok_or_else(|| format!("{name} is not a tensor that can be computed"))?;
            if got.shape != expected.shape {
                return Err(format!("{name} is {:?} in the file, but {:?} for these sizes", expected.shape, got.shape));
            }
            comparisons.extend(self.compare_one(name, &values(got), &values(expected), &Bounds::of(precision)));
        }
        Ok(comparisons)
    }

    fn compare_one(&self, name: &str, got: &[f64], expected: &[f64], bounds: &Bounds) -> Vec<Comparison> {
        let comparison = |measure, error, bound| Comparison { name: name.to_owned(), measure, error, bound };
        if let Some((after, tensor)) = name.split_once('.').filter(|(kind, _)| kind.starts_with("after")) {
            let before = values(&self.file.tensors[&format!("param.{tensor}")]);
            let update = |after: &[f64]| after.iter().zip(&before).map(|(a, b)| a - b).collect::<Vec<_>>();
            let (got, expected) = (update(got), update(expected));
            let far = self.adam.learning_rate / 10.0;
            let far = got.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > far).count();
            return vec![
                comparison("l2", relative_l2(&got, &expected), bounds.update[usize::from(after != "after1")]),
                comparison("far", far as f64 / got.len() as f64, bounds.far),
            ];
        }
        let bound = match name {
            "out.loss" => bounds.loss,
            "out.correct" => bounds.correct,
            "out.losses10" => bounds.losses10,
            _ if name.starts_with("out.") => bounds.output,
            _ => bounds.gradient,
        };
        vec![comparison("max", relative_max(got, expected), bound)]
    }

    /// The file `--dump` writes: the inputs and all that was computed.
    pub fn dump(&self, computed: BTreeMap<String, Tensor>) -> TensorFile {
        let is_input = |name: &str| name == "x" || name == "labels" || name.starts_with("param.");
        let inputs = self.file.tensors.iter().filter(|(name, _)| is_input(name));
        let mut tensors: BTreeMap<_, _> = inputs.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        tensors.extend(computed);
        TensorFile { tensors, metadata: self.file.metadata.clone() }
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match &tensor.numbers {
        Numbers::F32(values) => values.iter().map(|&v| v.into()).collect(),
        Numbers::I32(values) => values.iter().map(|&v| v.into()).collect(),
    }
}

/// Largest difference over the largest expected value; where nothing but zeros is expected, nothing else passes.
/// NaN in `got` gives NaN.
pub fn relative_max(got: &[f64], expected: &[f64]) -> f64 {
    let difference = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, nan_max);
    ratio(difference, expected.iter().map(|v| v.abs()).fold(0.0, nan_max))
}

fn relative_l2(got: &[f64], expected: &[f64]) -> f64 {
    let difference = got.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    ratio(difference.sqrt(), expected.iter().map(|v| v * v).sum::<f64>().sqrt())
}

fn ratio(difference: f64, size: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / size }
}

fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Flat parameters (or gradients) from the tensors `prefix.*` of a fixture.
fn parameters(file: &TensorFile, prefix: &str, dims: Dims) -> Result<Vec<f32>, String> {
    let Dims { i, p, h, k, .. } = dims;
    let g = dims.g();
    let tensor = |name: &str, shape: &[usize]| file.f32(&format!("{prefix}.{name}"), shape);
    let mut flat = tensor("w_in", &[i, p])?.to_vec();
    flat.extend(tensor("b_in", &[p])?);
    flat.extend(exchange_gates(tensor("lstm_kernel", &[p + h, g])?, h));
    flat.extend(exchange_gates(tensor("lstm_bias", &[g])?, h));
    flat.extend(tensor("w_out", &[h, k])?);
    flat.extend(tensor("b_out", &[k])?);
    Ok(flat)
}

/// The tensors `prefix.*` of a fixture from flat parameters (or gradients).
fn named(prefix: &str, model: &Model, flat: &[f32]) -> Vec<(String, Tensor)> {
    let Dims { i, p, h, k, .. } = model.dims;
    let Tensors { input: Some(Linear { w: w_in, b: b_in }), cells, output: Linear { w: w_out, b: b_out } } =
        model.layout().view(flat)
    else {
        unreachable!("a fixture's model has an input layer")
    };
    let kernel = exchange_gates(&[cells[0].w_x, cells[0].w_h].concat(), h);
    [
        ("w_in", Tensor::f32(&[i, p], w_in.to_vec())),
        ("b_in", Tensor::f32(&[p], b_in.to_vec())),
        ("lstm_kernel", Tensor::f32(&[p + h, GATES * h], kernel)),
        ("lstm_bias", Tensor::f32(&[GATES * h], exchange_gates(cells[0].b, h))),
        ("w_out", Tensor::f32(&[h, k], w_out.to_vec())),
        ("b_out", Tensor::f32(&[k], b_out.to_vec())),
    ]
    .map(|(name, tensor)| (format!("{prefix}.{name}"), tensor))
    .to_vec()
}

/// Between this crate's gate order i, f, g, o and TensorFlow's i, j, f, o (its j is our g), for rows of width 4H: the
/// two middle gates change places, in either direction.
fn exchange_gates(rows: &[f32], h: usize) -> Vec<f32> {
    let mut rows = rows.to_vec();
    for row in rows.chunks_exact_mut(GATES * h) {
        let (before, after) = row.split_at_mut(2 * h);
        before[h..].swap_with_slice(&mut after[..h]);
    }
    rows
}
