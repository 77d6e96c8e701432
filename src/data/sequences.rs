//! Labelled sequences in memory and their split into training, validation and test.

use super::own::OwnData;

/// Input numbers, row-major `[N,T,I]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Bytes; the model sees `byte as f32 * scale`. Images stay bytes up to the device.
    U8 {
        /// `[N,T,I]`
        bytes: Vec<u8>,
        /// What a byte is multiplied by; `1.0 / 255.0` for pixels.
        scale: f32,
    },
    /// Numbers as they are, `[N,T,I]`.
    F32(Vec<f32>),
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::U8 { bytes, .. } => bytes.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// `N` sequences of `T` steps of `I` numbers, each with a class number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequences {
    t: usize,
    i: usize,
    values: Values,
    labels: Vec<u32>,
}

impl Sequences {
    /// Sequences from their values `[N,T,I]` and class numbers `[N]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit: `values` must hold `labels.len() * t * i` numbers.
    pub fn new(t: usize, i: usize, values: Values, labels: Vec<u32>) -> Self {
        assert_eq!(values.len(), labels.len() * t * i, "values do not have the shape [N,T,I]");
        Self { t, i, values, labels }
    }

    /// Number of sequences, N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Steps of each sequence, T.
    pub fn t(&self) -> usize {
        self.t
    }

    /// Inputs of each step, I.
    pub fn i(&self) -> usize {
        self.i
    }

    /// All inputs, `[N,T,I]`.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Class numbers, `[N]`.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The sequences from `start` to before `end`, copied.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the sequences.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        let (from, to) = (start * self.t * self.i, end * self.t * self.i);
        let values = match &self.values {
            Values::U8 { bytes, scale } => Values::U8 { bytes: bytes[from..to].to_vec(), scale: *scale },
            Values::F32(values) => Values::F32(values[from..to].to_vec()),
        };
        Self { t: self.t, i: self.i, values, labels: self.labels[start..end].to_vec() }
    }
}

/// One of the three parts of a [`Dataset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What the model learns from.
    Train,
    /// Held back from training, to choose by.
    Validation,
    /// Held back from everything, to report on.
    Test,
}

/// Sequences of one shape in three parts.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// One line for the user: what this is and where it came from.
    pub description: String,
    /// Short name: `mnist` or `synthetic` as in `--data`, or `own`.
    pub name: &'static str,
    /// Number of classes, K; every label is smaller.
    pub classes: usize,
    /// What the model learns from.
    pub train: Sequences,
    /// Held back from training, to choose by.
    pub validation: Sequences,
    /// Held back from everything, to report on.
    pub test: Sequences,
    /// Names of the classes and more, of data that is the user's own.
    pub own: Option<OwnData>,
}

impl Dataset {
    /// The name of a class: the user's, else its number.
    pub fn class_name(&self, class: usize) -> String {
        self.own.as_ref().map_or_else(|| class.to_string(), |own| own.class_names[class].clone())
    }

    /// What the user calls a sequence of it.
    pub fn noun(&self) -> &'static str {
        if self.own.is_some() { "sequences" } else { "images" }
    }

    /// The part named `split`.
    pub fn split(&self, split: Split) -> &Sequences {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }
}
