//! The bank of 64-bit registers, which remembers what the addresses in it look like.
//!
//! Most loads of a loop differ only in the constant that they add to one register. How its lanes are spaced is found out at
//! the first one, and forgotten when the register is written.

use std::ops::{Index, IndexMut};

use crate::exec::LANES;

/// Half the lanes of a warp.
pub(crate) const HALF: usize = LANES / 2;

/// How a register's lanes follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// All evenly spaced: the first lane's value, and the step from lane to lane.
    Even(u64, u64),
    /// Each half for itself.
    Halves([(u64, u64); 2]),
    Uneven,
}

/// Registers of 64 bits per lane.
#[derive(Clone, Debug)]
pub(crate) struct Wide {
    lanes: Vec<[u64; LANES]>,
    /// Some registers' patterns, each at the place that its number leads to.
    seen: [(usize, Pattern); SEEN],
}

const SEEN: usize = 8;
const NOTHING: (usize, Pattern) = (usize::MAX, Pattern::Uneven);

impl Wide {
    pub fn new(count: usize) -> Wide {
        Wide { lanes: vec![[0; LANES]; count], seen: [NOTHING; SEEN] }
    }

    /// Writes all registers.
    pub fn fill(&mut self, value: [u64; LANES]) {
        self.lanes.fill(value);
        self.seen = [NOTHING; SEEN];
    }

    /// How a register's lanes follow each other.
    #[inline(always)]
    pub fn pattern(&mut self, slot: usize) -> Pattern {
        let (seen, pattern) = self.seen[slot % SEEN];
        if seen == slot {
            return pattern;
        }
        let pattern = pattern_of(&self.lanes[slot]);
        self.seen[slot % SEEN] = (slot, pattern);
        pattern
    }
}

impl Index<usize> for Wide {
    type Output = [u64; LANES];

    #[inline(always)]
    fn index(&self, slot: usize) -> &[u64; LANES] {
        &self.lanes[slot]
    }
}

impl IndexMut<usize> for Wide {
    #[inline(always)]
    fn index_mut(&mut self, slot: usize) -> &mut [u64; LANES] {
        let seen = &mut self.seen[slot % SEEN];
        if seen.0 == slot {
            *seen = NOTHING;
        }
        &mut self.lanes[slot]
    }
}

#[inline(always)]
fn pattern_of(lanes: &[u64; LANES]) -> Pattern {
    let (Some(low), Some(high)) = (half(lanes, 0), half(lanes, HALF)) else { return Pattern::Uneven };
    let follows = low.0.wrapping_add(low.1.wrapping_mul(HALF as u64)) == high.0;
    if follows && low.1 == high.1 { Pattern::Even(low.0, low.1) } else { Pattern::Halves([low, high]) }
}

/// The first value and the step of the half that starts at a lane, if it is evenly spaced.
#[inline(always)]
fn half(lanes: &[u64; LANES], first: usize) -> Option<(u64, u64)> {
    let lanes: &[u64; HALF] = lanes[first..].first_chunk()?;
    let step = lanes[1].wrapping_sub(lanes[0]);
    // What is expected of four lanes, and four lanes later: sums, as vectors have no product of this size.
    let ramp = [0, step, step << 1, (step << 1).wrapping_add(step)].map(|rise| lanes[0].wrapping_add(rise));
    let mut differs = [0; 4];
    for (n, lanes) in lanes.chunks_exact(4).enumerate() {
        let rise = (step << 2).wrapping_mul(n as u64);
        for (i, lane) in lanes.iter().enumerate() {
            differs[i] |= lane.wrapping_sub(rise) ^ ramp[i];
        }
    }
    (differs == [0; 4]).then_some((lanes[0], step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(value: impl Fn(u64) -> u64) -> [u64; LANES] {
        std::array::from_fn(|lane| value(lane as u64))
    }

    #[test]
    fn patterns_are_seen_and_forgotten_with_the_next_write() {
        let mut wide = Wide::new(10);
        for (value, expected) in [
            (lanes(|_| 7), Pattern::Even(7, 0)),
            (lanes(|lane| 100 + 68 * lane), Pattern::Even(100, 68)),
            (lanes(|lane| 9u64.wrapping_sub(lane)), Pattern::Even(9, u64::MAX)),
            (lanes(|lane| 4 * (lane % 16)), Pattern::Halves([(0, 4), (0, 4)])),
            (lanes(|lane| lane / 16), Pattern::Halves([(0, 0), (1, 0)])),
            (lanes(|lane| lane / 8), Pattern::Uneven),
            (lanes(|lane| lane ^ 1), Pattern::Uneven),
        ] {
            wide[1] = value;
            assert_eq!((wide.pattern(1), wide.pattern(1)), (expected, expected));
            // Another register at the same place of the memory does not disturb it.
            wide[9] = lanes(|_| 3);
            assert_eq!(wide.pattern(9), Pattern::Even(3, 0));
            assert_eq!(wide.pattern(1), expected);
            // One lane out of line at a time.
            for lane in 0..LANES {
                wide[1] = value;
                wide[1][lane] ^= 0x1_0000;
                assert_eq!(wide.pattern(1), Pattern::Uneven, "lane {lane} of {expected:?}");
            }
        }
        wide.fill([5; LANES]);
        assert_eq!(wide.pattern(1), Pattern::Even(5, 0));
    }
}
