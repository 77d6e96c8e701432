//! Labelled sequences in memory and their split into training, validation and test.

use super::own::{Mapped, OwnData};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// What a byte is multiplied by, so that the model sees numbers from 0 to 1.
pub const BYTE_SCALE: f32 = 1.0 / 255.0;

/// Input numbers, row-major `[N,T,I]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Bytes; the model sees `byte as f32 * scale`. Images stay bytes up to the device.
    U8 {
        /// `[N,T,I]`
        bytes: Vec<u8>,
        /// What a byte is multiplied by; [`BYTE_SCALE`] for pixels.
        scale: f32,
    },
    /// Numbers as they are, `[N,T,I]`.
    F32(Vec<f32>),
    /// Numbers that stay in a file, as [`Sequences::numbers`] tells them.
    Mapped(Mapped),
}

impl Values {
    /// Whether they are bytes, which the model sees multiplied by a scale.
    pub fn is_bytes(&self) -> bool {
        match self {
            Self::U8 { .. } => true,
            Self::F32(_) => false,
            Self::Mapped(mapped) => mapped.is_bytes(),
        }
    }

    /// The first `count` numbers of sequence `n` as the model sees them, where each has room for `width`.
    pub(crate) fn numbers(&self, n: usize, width: usize, count: usize) -> Cow<'_, [f32]> {
        let span = n * width..n * width + count;
        match self {
            Self::U8 { bytes, scale } => bytes[span].iter().map(|&byte| f32::from(byte) * scale).collect(),
            Self::F32(values) => Cow::Borrowed(&values[span]),
            Self::Mapped(mapped) => Cow::Owned(mapped.numbers(n, count)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::U8 { bytes, .. } => bytes.len(),
            Self::F32(values) => values.len(),
            Self::Mapped(mapped) => mapped.len(),
        }
    }
}

/// `N` sequences of up to `T` steps of `I` numbers, each with a class number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequences {
    t: usize,
    i: usize,
    values: Values,
    labels: Vec<u32>,
    /// Steps of each sequence, `[N]`; none where all have T.
    lengths: Option<Vec<u32>>,
}

impl Sequences {
    /// Sequences from their values `[N,T,I]` and class numbers `[N]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit: `values` must hold `labels.len() * t * i` numbers.
    pub fn new(t: usize, i: usize, values: Values, labels: Vec<u32>) -> Self {
        assert_eq!(values.len(), labels.len() * t * i, "values do not have the shape [N,T,I]");
        Self { t, i, values, labels, lengths: None }
    }

    /// The same sequences, of which each has no more than its first `lengths[n]` steps. What stands in the others is read by
    /// nobody.
    ///
    /// # Panics
    ///
    /// If there is not one length for each sequence, or one is not from 1 to T.
    pub fn with_lengths(self, lengths: Vec<u32>) -> Self {
        assert_eq!(lengths.len(), self.len(), "a length for each sequence");
        assert!(lengths.iter().all(|&n| n >= 1 && n as usize <= self.t), "lengths go from 1 to T");
        Self { lengths: Some(lengths), ..self }
    }

    /// Number of sequences, N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Steps of the longest sequence that there is room for, T.
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

    /// Steps of each sequence, `[N]`; none where all have T.
    pub fn lengths(&self) -> Option<&[u32]> {
        self.lengths.as_deref()
    }

    /// Steps of sequence `n`.
    pub fn length(&self, n: usize) -> usize {
        self.lengths.as_ref().map_or(self.t, |lengths| lengths[n] as usize)
    }

    /// The numbers of sequence `n` as the model sees them, `[length,I]`.
    pub fn numbers(&self, n: usize) -> Cow<'_, [f32]> {
        self.values.numbers(n, self.t * self.i, self.length(n) * self.i)
    }

    /// All inputs `[N,T,I]` in memory, if they stay in a file.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if there is not as much memory.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn in_memory(&self) -> Result<Cow<'_, Values>> {
        fn room<V>(count: usize) -> Result<Vec<V>> {
            let mut room = Vec::new();
            let too_large = |_| {
                let bytes = count as f64 * size_of::<V>() as f64;
                Error::Failed(format!(
                    "the sequences need {:.1} GB of memory, more than there is; give fewer",
                    bytes / 1e9
                ))
            };
            room.try_reserve_exact(count).map_err(too_large).map(|()| room)
        }
        let Values::Mapped(mapped) = &self.values else { return Ok(Cow::Borrowed(&self.values)) };
        let width = self.t * self.i;
        if mapped.is_plain() {
            let mut bytes = room(mapped.len())?;
            for n in 0..self.len() {
                bytes.extend_from_slice(mapped.bytes(n, self.length(n)));
                bytes.resize((n + 1) * width, 0);
            }
            return Ok(Cow::Owned(Values::U8 { bytes, scale: BYTE_SCALE }));
        }
        let mut values = room(mapped.len())?;
        for n in 0..self.len() {
            values.extend_from_slice(&self.numbers(n));
            values.resize((n + 1) * width, 0.0);
        }
        Ok(Cow::Owned(Values::F32(values)))
    }

    /// The sequences of these rows, copied unless they stay in a file.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn select(&self, rows: &[u32]) -> Self {
        fn gather<V: Copy>(values: &[V], width: usize, rows: &[u32]) -> Vec<V> {
            let mut taken = Vec::with_capacity(rows.len() * width);
            rows.iter().for_each(|&row| taken.extend_from_slice(&values[row as usize * width..][..width]));
            taken
        }
        let width = self.t * self.i;
        let values = match &self.values {
            Values::U8 { bytes, scale } => Values::U8 { bytes: gather(bytes, width, rows), scale: *scale },
            Values::F32(values) => Values::F32(gather(values, width, rows)),
            Values::Mapped(mapped) => Values::Mapped(mapped.select(rows)),
        };
        let of = |all: &Vec<u32>| rows.iter().map(|&row| all[row as usize]).collect();
        Self { t: self.t, i: self.i, values, labels: of(&self.labels), lengths: self.lengths.as_ref().map(of) }
    }

    /// The same labels and lengths with other values `[N,T,I]`.
    pub(crate) fn with_values(self, values: Values) -> Self {
        assert_eq!(values.len(), self.values.len(), "values do not have the shape [N,T,I]");
        Self { values, ..self }
    }

    /// The sequences from `start` to before `end`, copied.
    ///
    /// # Panics
    ///
    /// If the range does not lie within the sequences.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        self.select(&(start as u32..end as u32).collect::<Vec<_>>())
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

    /// Whether sequences differ in length.
    pub fn has_lengths(&self) -> bool {
        [&self.train, &self.validation, &self.test].iter().any(|part| part.lengths.is_some())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_its_lengths() {
        let sequences = Sequences::new(3, 1, Values::F32(vec![0.0; 12]), vec![0; 4]);
        assert_eq!((sequences.lengths(), sequences.length(2)), (None, 3));
        let sequences = sequences.with_lengths(vec![1, 2, 3, 1]);
        assert_eq!(sequences.slice(1, 3).lengths(), Some(&[2, 3][..]));
        assert_eq!(sequences.length(1), 2);
    }

    #[test]
    #[should_panic(expected = "lengths go from 1 to T")]
    fn no_sequence_is_longer_than_the_room_for_it() {
        let _ = Sequences::new(3, 1, Values::F32(vec![0.0; 6]), vec![0; 2]).with_lengths(vec![3, 4]);
    }
}
