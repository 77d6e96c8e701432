//! Sequences that stay in their file: converted and brought to scale as they are asked for.

use super::Normalization;
use super::array::Array;
use crate::data::BYTE_SCALE;
use std::fmt;
use std::sync::Arc;

/// Sequences of an array in a mapped file.
#[derive(Clone)]
pub struct Mapped {
    array: Arc<Array>,
    /// Steps and inputs of each sequence there.
    t: usize,
    i: usize,
    /// Steps that each sequence has room for.
    room: usize,
    /// Which of the array's sequences these are.
    rows: Vec<u32>,
    normalization: Arc<Normalization>,
}

impl Mapped {
    /// All sequences of an array `[N,T,I]`.
    pub(super) fn new(array: Array, (n, t, i): (usize, usize, usize)) -> Self {
        let rows = (0..n as u32).collect();
        Self { array: Arc::new(array), t, i, room: t, rows, normalization: Arc::new(Normalization::None) }
    }

    /// Numbers of all sequences, with the steps that they have room for.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.room * self.i
    }

    /// Whether bytes stand in the file, which are multiplied by 1/255.
    pub(crate) fn is_bytes(&self) -> bool {
        self.array.is_bytes()
    }

    /// Whether the model sees bytes as they are but for their scale.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn is_plain(&self) -> bool {
        self.is_bytes() && *self.normalization == Normalization::None
    }

    /// The bytes `[length,I]` of sequence `n`.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn bytes(&self, n: usize, length: usize) -> &[u8] {
        self.array.bytes(self.rows[n] as usize * self.t * self.i, length * self.i)
    }

    /// The first `count` numbers of sequence `n`, whole steps, as the model sees them.
    pub(crate) fn numbers(&self, n: usize, count: usize) -> Vec<f32> {
        let mut numbers = self.array.numbers(self.rows[n] as usize * self.t * self.i, count);
        if self.is_bytes() {
            numbers.iter_mut().for_each(|value| *value *= BYTE_SCALE);
        }
        self.normalization.apply(self.i, &mut numbers);
        numbers
    }

    /// Those of these places.
    pub(crate) fn select(&self, places: &[u32]) -> Self {
        let rows = places.iter().map(|&place| self.rows[place as usize]).collect();
        let Self { array, t, i, room, normalization, .. } = self;
        Self { array: array.clone(), t: *t, i: *i, room: *room, rows, normalization: normalization.clone() }
    }

    /// The same with room for `room` steps.
    pub(super) fn with_room(&self, room: usize) -> Self {
        Self { room, ..self.clone() }
    }

    pub(super) fn with_normalization(&self, normalization: Normalization) -> Self {
        Self { normalization: Arc::new(normalization), ..self.clone() }
    }
}

impl PartialEq for Mapped {
    /// Whether they are the same sequences of the same array.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.array, &other.array)
            && (self.room, &self.rows, &self.normalization) == (other.room, &other.rows, &other.normalization)
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mapped sequences of {} steps of {} inputs", self.rows.len(), self.room, self.i)
    }
}

#[cfg(test)]
mod tests {
    use crate::data::own::{Normalize, Options, load};
    use std::path::Path;

    #[test]
    fn brought_into_memory_they_are_what_is_read_there() {
        for file in ["f64.npz", "lengths.npz", "pair"] {
            for normalize in [Normalize::None, Normalize::Feature] {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/own_data").join(file);
                let options = Options { normalize: Some(normalize), ..Options::default() };
                let in_memory = load(&path, &options, None).unwrap();
                let mapped = load(&path, &Options { read_whole: Some(0), ..options }, None).unwrap();
                assert_eq!(*mapped.train.in_memory().unwrap(), *in_memory.train.values(), "{file}");
                assert_ne!(mapped.train.values(), in_memory.train.values());
                assert_eq!(mapped.train, mapped.train.slice(0, mapped.train.len()));
            }
        }
    }
}
