//! The order in which training sequences are taken: a fresh shuffle each epoch, batch after batch, as TensorFlow's
//! `next_batch`. An epoch's last few sequences are completed to a batch with the first of the next epoch.

use crate::init::generator;
use rand::seq::SliceRandom;

/// The seed's random streams from this one on shuffle epochs; the ones before make initial parameters.
const FIRST_EPOCH_STREAM: u64 = 16;

/// An order that is a function of the seed and the place in it alone, so that training can go on from any step.
pub struct Order {
    n: usize,
    seed: u64,
    /// The epoch shuffled last, and its order.
    epoch: Option<u64>,
    shuffled: Vec<u32>,
}

impl Order {
    /// The order of `n` sequences (at least 1) for `seed`.
    pub fn new(n: usize, seed: u64) -> Self {
        Self { n, seed, epoch: None, shuffled: Vec::new() }
    }

    /// The `count` indices from place `start` on, counted over all epochs.
    pub fn rows(&mut self, start: u64, count: usize) -> Vec<u32> {
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let place = start + rows.len() as u64;
            self.shuffle(place / self.n as u64);
            let first = (place % self.n as u64) as usize;
            let taken = (count - rows.len()).min(self.n - first);
            rows.extend_from_slice(&self.shuffled[first..first + taken]);
        }
        rows
    }

    fn shuffle(&mut self, epoch: u64) {
        if self.epoch != Some(epoch) {
            self.shuffled = (0..self.n as u32).collect();
            self.shuffled.shuffle(&mut generator(self.seed, FIRST_EPOCH_STREAM + epoch));
            self.epoch = Some(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_takes_every_sequence_once_in_another_order() {
        let mut order = Order::new(100, 7);
        let (first, second) = (order.rows(0, 100), order.rows(100, 100));
        for epoch in [&first, &second] {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_ne!(first, Order::new(100, 8).rows(0, 100));
    }

    #[test]
    fn any_place_can_be_asked_for_at_any_time() {
        let mut whole = Order::new(10, 1);
        let all = whole.rows(0, 64);
        let mut pieces = Order::new(10, 1);
        assert_eq!(pieces.rows(31, 33), all[31..]);
        assert_eq!(pieces.rows(0, 31), all[..31]);
        assert_eq!(pieces.rows(8, 4), all[8..12], "a batch across two epochs");
    }
}
