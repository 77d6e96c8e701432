//! What is computed, apart from the parameters.

use crate::dropout::Dropout;
use crate::error::{Error, Result};
use crate::shape::{Dims, ParamLayout};
use serde::{Deserialize, Serialize};

/// A stack of LSTM layers behind a linear input layer or none, pooled over the steps, and a linear output layer.
///
/// Whatever the tutorial's model lacks is left out of its serialized form, so that its checkpoints stay as they were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Sizes. Without an input layer P = I.
    pub dims: Dims,
    /// Added to the forget gate before its sigmoid; no parameter.
    pub forget_bias: f32,
    /// LSTM layers, one upon the other, L.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub layers: usize,
    /// Whether each layer reads the sequence in both directions, each with H units of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bidirectional: bool,
    /// What stands before the first LSTM layer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub input_layer: InputLayer,
    /// What the output layer reads of the last LSTM layer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pool: Pool,
    /// What is left out between two LSTM layers while training.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: Option<Dropout>,
    /// Share ε of the training loss's target that is spread over all classes (Szegedy et al. 2016, section 7). Scores do
    /// without it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label_smoothing: f32,
}

/// What stands before the first LSTM layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputLayer {
    /// `x · w_in + b_in`, of width P, without an activation.
    #[default]
    Linear,
    /// Nothing: the first LSTM layer reads the inputs themselves.
    None,
}

/// What the output layer reads of the last LSTM layer's hidden states, a vector of D·H numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The state that each direction ends with: after the last step, and backwards after the first
    #[default]
    Last,
    /// The mean over the steps of the sequence
    Mean,
    /// The largest of each unit over the steps of the sequence
    Max,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Model {
    /// Largest number of layers.
    pub const MAX_LAYERS: usize = 64;

    /// The tutorial's model of these sizes: one layer, one direction, behind a linear input layer, of which the last state
    /// is read; forget bias 1.
    pub const fn new(dims: Dims) -> Self {
        Self {
            dims,
            forget_bias: 1.0,
            layers: 1,
            bidirectional: false,
            input_layer: InputLayer::Linear,
            pool: Pool::Last,
            dropout: None,
            label_smoothing: 0.0,
        }
    }

    /// Where the parameters lie.
    pub fn layout(&self) -> ParamLayout {
        ParamLayout::new(self.dims, self.input_layer == InputLayer::Linear, self.layers, self.directions())
    }

    /// Directions of each layer, D: 1 or 2.
    pub fn directions(&self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// Width of a layer's output, D·H.
    pub fn width(&self) -> usize {
        self.directions() * self.dims.h
    }

    /// Numbers that each step of `layer` reads: P, or what the layer below gives.
    pub fn layer_inputs(&self, layer: usize) -> usize {
        if layer == 0 { self.dims.p } else { self.width() }
    }

    /// What there is beyond the tutorial's model, for engines and kernels that are made for that one alone; none if it is
    /// that.
    pub fn extras(&self) -> Option<String> {
        let extras = [
            (self.layers > 1).then(|| format!("{} layers", self.layers)),
            self.bidirectional.then(|| "two directions".into()),
            (self.input_layer == InputLayer::None).then(|| "no input layer".into()),
            match self.pool {
                Pool::Last => None,
                Pool::Mean => Some("the mean over the steps".into()),
                Pool::Max => Some("the maximum over the steps".into()),
            },
            self.dropout.map(|Dropout { rate, .. }| format!("dropout {rate}")),
            (self.label_smoothing > 0.0).then(|| "label smoothing".into()),
        ];
        let extras: Vec<String> = extras.into_iter().flatten().collect();
        (!extras.is_empty()).then(|| extras.join(", "))
    }

    /// Checks every size and share, and that the parameters can be counted in 31 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] that names the size or the flag.
    pub fn check(&self) -> Result<()> {
        let Self { dims, layers, dropout, label_smoothing, .. } = *self;
        dims.check()?;
        let usage = |what: String, found: &str, remedy: &str| Err(Error::usage(what, found, remedy));
        if layers == 0 || layers > Self::MAX_LAYERS {
            let found = format!("a model has 1 to {} layers", Self::MAX_LAYERS);
            return usage(format!("--layers {layers}"), &found, "give such a number");
        }
        if self.input_layer == InputLayer::None && dims.p != dims.i {
            return usage(
                format!("P {} I {}", dims.p, dims.i),
                "without an input layer both are the same",
                "set P to I",
            );
        }
        if !self.forget_bias.is_finite() {
            let what = format!("--forget-bias {}", self.forget_bias);
            return usage(what, "the forget bias is not a finite number", "give one such as 1.0");
        }
        if let Some(Dropout { rate, .. }) = dropout {
            if !(rate > 0.0 && rate < 1.0) {
                return usage(format!("--dropout {rate}"), "it is not a share between 0 and 1", "give one such as 0.2");
            }
            if layers == 1 {
                let found = "it lies between layers, and there is only one";
                return usage(format!("--dropout {rate}"), found, "give --layers 2 or more, or leave it out");
            }
        }
        if !(0.0..1.0).contains(&label_smoothing) {
            let what = format!("--label-smoothing {label_smoothing}");
            return usage(what, "it is not a share from 0 to below 1", "give one such as 0.1");
        }
        self.layout().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUTORIAL: Model = Model::new(Dims { t: 28, i: 28, p: 128, h: 128, k: 10 });

    #[test]
    fn the_tutorials_model_is_written_as_ever() {
        let text = serde_json::to_string(&TUTORIAL).unwrap();
        assert_eq!(text, r#"{"dims":{"t":28,"i":28,"p":128,"h":128,"k":10},"forget_bias":1.0}"#);
        assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), TUTORIAL);
        assert_eq!(TUTORIAL.extras(), None);
    }

    #[test]
    fn a_larger_model_comes_back_as_it_was() {
        let model = Model {
            layers: 3,
            bidirectional: true,
            input_layer: InputLayer::None,
            pool: Pool::Max,
            dropout: Some(Dropout { rate: 0.25, seed: u64::MAX }),
            label_smoothing: 0.1,
            dims: Dims { p: 28, ..TUTORIAL.dims },
            ..TUTORIAL
        };
        model.check().unwrap();
        let text = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), model);
        let extras = model.extras().unwrap();
        assert_eq!(
            extras,
            "3 layers, two directions, no input layer, the maximum over the steps, dropout 0.25, label smoothing"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let dropout = |rate| Some(Dropout { rate, seed: 0 });
        let bad = [
            (Model { layers: 0, ..TUTORIAL }, "--layers 0"),
            (Model { layers: 65, ..TUTORIAL }, "--layers 65"),
            (Model { input_layer: InputLayer::None, ..TUTORIAL }, "P 128 I 28"),
            (Model { forget_bias: f32::NAN, ..TUTORIAL }, "--forget-bias NaN"),
            (Model { layers: 2, dropout: dropout(1.0), ..TUTORIAL }, "--dropout 1"),
            (Model { layers: 2, dropout: dropout(f32::NAN), ..TUTORIAL }, "--dropout NaN"),
            (Model { dropout: dropout(0.5), ..TUTORIAL }, "there is only one"),
            (Model { label_smoothing: 1.0, ..TUTORIAL }, "--label-smoothing 1"),
            (Model { label_smoothing: -0.1, ..TUTORIAL }, "--label-smoothing -0.1"),
            (Model { dims: Dims { h: 0, ..TUTORIAL.dims }, ..TUTORIAL }, "size H = 0"),
            (Model { dims: Dims { h: 1 << 16, ..TUTORIAL.dims }, ..TUTORIAL }, "parameters, more than"),
            (Model { dims: Dims { h: 1 << 13, ..TUTORIAL.dims }, layers: 9, ..TUTORIAL }, "parameters, more than"),
        ];
        for (model, part) in bad {
            let error = model.check().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{part:?} in {error}");
        }
    }
}
