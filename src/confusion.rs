//! How often each class was taken for each other.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Counts of what sequences are and what they were taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Confusion {
    /// `[K][K]`: the label's row, the prediction's column.
    pub counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// Counts sequences with these `labels` that were taken for `predicted`; all are below `classes`.
    pub fn new(classes: usize, labels: &[u32], predicted: &[u32]) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (&label, &predicted) in labels.iter().zip(predicted) {
            counts[label as usize][predicted as usize] += 1;
        }
        Self { counts }
    }

    /// The numbers of all classes.
    pub fn classes(&self) -> Range<usize> {
        0..self.counts.len()
    }

    /// Sequences of class `k`.
    pub fn of_class(&self, k: usize) -> u64 {
        self.counts[k].iter().sum()
    }

    /// Share of the predictions of class `k` that are right; none if there are none.
    pub fn precision(&self, k: usize) -> Option<f64> {
        ratio(self.counts[k][k], self.counts.iter().map(|row| row[k]).sum())
    }

    /// Share of class `k` that is found; none if there is none.
    pub fn recall(&self, k: usize) -> Option<f64> {
        ratio(self.counts[k][k], self.of_class(k))
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::Confusion;

    #[test]
    fn precision_and_recall() {
        let confusion = Confusion::new(3, &[0, 0, 1, 1, 1], &[0, 1, 1, 1, 0]);
        assert_eq!(confusion.counts, vec![vec![1, 1, 0], vec![1, 2, 0], vec![0, 0, 0]]);
        assert_eq!((confusion.precision(0), confusion.recall(0)), (Some(0.5), Some(0.5)));
        assert_eq!((confusion.precision(1), confusion.recall(1)), (Some(2.0 / 3.0), Some(2.0 / 3.0)));
        assert_eq!((confusion.precision(2), confusion.recall(2)), (None, None));
        assert_eq!(confusion.classes().map(|k| confusion.of_class(k)).collect::<Vec<_>>(), [2, 3, 0]);
    }
}
