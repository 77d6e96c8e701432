//! Dropout between layers: which outputs are left out is a function of the seed, the training step, the layer, the row of
//! the batch, the time step and the unit, and of nothing else. So it does not depend on threads, on how a batch is cut, or
//! on the device, and a backward pass asks again instead of keeping a mask.
//!
//! The function is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3), a
//! counter-based generator: four words for each counter and key.

use serde::{Deserialize, Serialize};

/// What is left out between two layers in training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropout {
    /// Probability that an output is left out, between 0 and 1. The others are divided by 1 - rate.
    pub rate: f32,
    /// Seed of the choice.
    pub seed: u64,
}

/// The choice of one training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Key of the generator.
    pub key: [u32; 2],
    /// Outputs whose word is below it are left out.
    pub threshold: u32,
    /// What the others are multiplied by.
    pub scale: f32,
}

impl Dropout {
    /// The choice of training step `step`, counted from 1.
    pub fn mask(&self, step: u64) -> Mask {
        let halves = |n: u64| [n as u32, (n >> 32) as u32];
        let [low, high] = halves(step);
        let [a, b, ..] = philox([low, high, 0, 0], halves(self.seed));
        Mask {
            key: [a, b],
            // Exact: a share of 2^32 in double precision, below 2^32 since the rate is below 1 in single precision.
            threshold: (f64::from(self.rate) * 4_294_967_296.0) as u32,
            scale: 1.0 / (1.0 - self.rate),
        }
    }
}

impl Mask {
    /// What the outputs of units `4·quad` to `4·quad + 3` of `layer` are multiplied by, for a row of the batch at time step
    /// `t`; units are counted over both directions.
    #[inline]
    pub fn factors(&self, layer: usize, row: usize, t: usize, quad: usize) -> [f32; 4] {
        let words = philox([quad as u32, t as u32, row as u32, layer as u32], self.key);
        words.map(|word| if word < self.threshold { 0.0 } else { self.scale })
    }
}

/// Philox4x32-10.
#[inline]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let product = |factor: u32, word: u32| u64::from(factor) * u64::from(word);
        let (first, second) = (product(0xD251_1F53, counter[0]), product(0xCD9E_8D57, counter[2]));
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three known answers that its authors give for it.
    #[test]
    fn philox_gives_the_known_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn a_share_is_left_out_and_the_mean_stays() {
        for rate in [0.1f32, 0.5, 0.9] {
            let mask = Dropout { rate, seed: 3 }.mask(17);
            let factors: Vec<f32> = (0..40_000).flat_map(|n| mask.factors(1, n % 40, n / 40, 5)).collect();
            let n = factors.len() as f64;
            let left_out = factors.iter().filter(|&&f| f == 0.0).count() as f64 / n;
            // Five standard deviations of the share.
            let bound = 5.0 * (f64::from(rate) * (1.0 - f64::from(rate)) / n).sqrt();
            assert!((left_out - f64::from(rate)).abs() < bound, "{left_out} of {rate}");
            let mean = factors.iter().map(|&f| f64::from(f)).sum::<f64>() / n;
            assert!((mean - 1.0).abs() < bound / (1.0 - f64::from(rate)), "{mean} at {rate}");
        }
    }

    #[test]
    fn everything_that_names_an_output_makes_another_choice() {
        let choice = |seed, step, layer, row, t| -> Vec<f32> {
            let mask = Dropout { rate: 0.5, seed }.mask(step);
            (0..16).flat_map(|quad| mask.factors(layer, row, t, quad)).collect()
        };
        let first = choice(1, 1, 0, 0, 0);
        assert_eq!(first, choice(1, 1, 0, 0, 0));
        for other in
            [(2, 1, 0, 0, 0), (1, 2, 0, 0, 0), (1, 1 << 32, 0, 0, 0), (1, 1, 1, 0, 0), (1, 1, 0, 1, 0), (1, 1, 0, 0, 1)]
        {
            let (seed, step, layer, row, t) = other;
            assert_ne!(choice(seed, step, layer, row, t), first, "{other:?}");
        }
    }
}
