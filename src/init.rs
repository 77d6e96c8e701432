//! Initial parameters: seeded, one random stream per tensor, so that they do not depend on device or threads.

use crate::shape::{Dims, ParamLayout};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

/// How the input and the output layer start. The LSTM kernel is Glorot-uniform and its bias zero in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// As the tutorial: weights from N(0,1), biases 0.1.
    #[default]
    Tutorial,
    /// Glorot-uniform weights (Glorot and Bengio 2010, equation 16), biases 0.1.
    Xavier,
}

/// A bias of the input and output layers, as in the tutorial.
const LAYER_BIAS: f32 = 0.1;

/// Streams of the seed's generator; the data order takes others.
const STREAMS: std::ops::Range<u64> = 0..7;

/// The generator of one purpose: same seed, same stream, same numbers, on every machine.
pub fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Flat initial parameters for `dims`.
pub fn parameters(dims: Dims, init: Init, seed: u64) -> Vec<f32> {
    let layout = ParamLayout::new(dims);
    let mut flat = vec![0.0f32; layout.len()];
    let glorot = |rows: usize, columns: usize| (6.0 / (rows + columns) as f32).sqrt();
    // The two halves of the LSTM kernel [P+H,4H] share its limit.
    let kernel = glorot(dims.p + dims.h, dims.g());
    let mut streams = STREAMS.map(|stream| generator(seed, stream));
    let mut fill = |tensor: &mut [f32], limit: Option<f32>| {
        let rng = &mut streams.next().expect("one stream for each tensor");
        match limit {
            Some(limit) => uniform(tensor, limit, rng),
            None => tensor.iter_mut().for_each(|v| *v = StandardNormal.sample(rng)),
        }
    };
    let tensors = layout.view_mut(&mut flat);
    let layer = |rows, columns| match init {
        Init::Tutorial => None,
        Init::Xavier => Some(glorot(rows, columns)),
    };
    fill(tensors.w_in, layer(dims.i, dims.p));
    fill(tensors.w_x, Some(kernel));
    fill(tensors.w_h, Some(kernel));
    fill(tensors.w_out, layer(dims.h, dims.k));
    tensors.b_in.fill(LAYER_BIAS);
    tensors.b_out.fill(LAYER_BIAS);
    flat
}

fn uniform(tensor: &mut [f32], limit: f32, rng: &mut impl Rng) {
    let distribution = Uniform::new_inclusive(-limit, limit).expect("limits are finite and ordered");
    tensor.iter_mut().for_each(|v| *v = distribution.sample(rng));
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };

    fn moments(tensor: &[f32]) -> (f64, f64) {
        let n = tensor.len() as f64;
        let mean = tensor.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, (tensor.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn tensors_have_the_tutorials_distributions() {
        let flat = parameters(DIMS, Init::Tutorial, 0);
        let tensors = ParamLayout::new(DIMS).view(&flat);
        let (mean, deviation) = moments(tensors.w_in);
        assert!(mean.abs() < 0.06 && (deviation - 1.0).abs() < 0.05, "{mean} {deviation}");
        let limit = (6.0f32 / 768.0).sqrt();
        for tensor in [tensors.w_x, tensors.w_h] {
            let (mean, deviation) = moments(tensor);
            // A uniform distribution's standard deviation is its limit over the root of 3.
            assert!(mean.abs() < 1e-3 && (deviation / f64::from(limit / 3f32.sqrt()) - 1.0).abs() < 0.02);
            assert!(tensor.iter().all(|v| v.abs() <= limit));
        }
        assert!(tensors.b.iter().all(|&v| v == 0.0));
        assert!(tensors.b_in.iter().chain(tensors.b_out).all(|&v| v == 0.1));
    }

    #[test]
    fn xavier_bounds_the_layers() {
        let flat = parameters(DIMS, Init::Xavier, 3);
        let tensors = ParamLayout::new(DIMS).view(&flat);
        assert!(tensors.w_in.iter().all(|v| v.abs() <= (6.0f32 / 156.0).sqrt()));
        assert!(tensors.w_out.iter().any(|v| v.abs() > 0.1));
    }

    #[test]
    fn seeds_and_tensors_have_their_own_numbers() {
        let (a, b) = (parameters(DIMS, Init::Tutorial, 1), parameters(DIMS, Init::Tutorial, 2));
        assert_eq!(a, parameters(DIMS, Init::Tutorial, 1));
        assert_ne!(a, b);
        let tensors = ParamLayout::new(DIMS).view(&a);
        assert_ne!(tensors.w_x[..64], tensors.w_h[..64]);
        // A wider output layer leaves the other tensors as they were.
        let wide = parameters(Dims { k: 11, ..DIMS }, Init::Tutorial, 1);
        assert_eq!(a[..100_000], wide[..100_000]);
    }
}
