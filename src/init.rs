//! Initial parameters: seeded, one random stream per tensor, so that they do not depend on device or threads.

use crate::model::Model;
use crate::shape::{Cell, Linear};
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
mod stream {
    pub const INPUT: u64 = 0;
    pub const OUTPUT: u64 = 3;

    /// Those of a cell's `w_x` and `w_h`. All cells but the first are far from the data order's.
    pub fn cell(n: usize) -> [u64; 2] {
        let first = if n == 0 { 1 } else { (1 << 63) + 2 * n as u64 };
        [first, first + 1]
    }
}

/// The generator of one purpose: same seed, same stream, same numbers, on every machine.
pub fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Flat initial parameters of `model`.
pub fn parameters(model: &Model, init: Init, seed: u64) -> Vec<f32> {
    let layout = model.layout();
    let mut flat = vec![0.0f32; layout.len()];
    let glorot = |rows: usize, columns: usize| (6.0 / (rows + columns) as f32).sqrt();
    let fill = |tensor: &mut [f32], limit: Option<f32>, stream: u64| {
        let rng = &mut generator(seed, stream);
        match limit {
            Some(limit) => uniform(tensor, limit, rng),
            None => tensor.iter_mut().for_each(|v| *v = StandardNormal.sample(rng)),
        }
    };
    let layer = |rows, columns| match init {
        Init::Tutorial => None,
        Init::Xavier => Some(glorot(rows, columns)),
    };
    let (dims, tensors) = (model.dims, layout.view_mut(&mut flat));
    if let Some(Linear { w, b }) = tensors.input {
        fill(w, layer(dims.i, dims.p), stream::INPUT);
        b.fill(LAYER_BIAS);
    }
    for (n, Cell { w_x, w_h, .. }) in tensors.cells.into_iter().enumerate() {
        // The two halves of the LSTM kernel share its limit.
        let kernel = Some(glorot(model.layer_inputs(n / model.directions()) + dims.h, dims.g()));
        let [x, h] = stream::cell(n);
        fill(w_x, kernel, x);
        fill(w_h, kernel, h);
    }
    let Linear { w, b } = tensors.output;
    fill(w, layer(model.width(), dims.k), stream::OUTPUT);
    b.fill(LAYER_BIAS);
    flat
}

fn uniform(tensor: &mut [f32], limit: f32, rng: &mut impl Rng) {
    let distribution = Uniform::new_inclusive(-limit, limit).expect("limits are finite and ordered");
    tensor.iter_mut().for_each(|v| *v = distribution.sample(rng));
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::shape::{Dims, Tensors};

    const MODEL: Model = Model::new(Dims { t: 28, i: 28, p: 128, h: 128, k: 10 });

    fn moments(tensor: &[f32]) -> (f64, f64) {
        let n = tensor.len() as f64;
        let mean = tensor.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, (tensor.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn tensors_have_the_tutorials_distributions() {
        let flat = parameters(&MODEL, Init::Tutorial, 0);
        let Tensors { input: Some(input), cells, output } = MODEL.layout().view(&flat) else { unreachable!() };
        let (mean, deviation) = moments(input.w);
        assert!(mean.abs() < 0.06 && (deviation - 1.0).abs() < 0.05, "{mean} {deviation}");
        let limit = (6.0f32 / 768.0).sqrt();
        for tensor in [cells[0].w_x, cells[0].w_h] {
            let (mean, deviation) = moments(tensor);
            // A uniform distribution's standard deviation is its limit over the root of 3.
            assert!(mean.abs() < 1e-3 && (deviation / f64::from(limit / 3f32.sqrt()) - 1.0).abs() < 0.02);
            assert!(tensor.iter().all(|v| v.abs() <= limit));
        }
        assert!(cells[0].b.iter().all(|&v| v == 0.0));
        assert!(input.b.iter().chain(output.b).all(|&v| v == 0.1));
    }

    #[test]
    fn xavier_bounds_the_layers() {
        let flat = parameters(&MODEL, Init::Xavier, 3);
        let Tensors { input: Some(input), output, .. } = MODEL.layout().view(&flat) else { unreachable!() };
        assert!(input.w.iter().all(|v| v.abs() <= (6.0f32 / 156.0).sqrt()));
        assert!(output.w.iter().any(|v| v.abs() > 0.1));
    }

    #[test]
    fn seeds_and_tensors_have_their_own_numbers() {
        let (a, b) = (parameters(&MODEL, Init::Tutorial, 1), parameters(&MODEL, Init::Tutorial, 2));
        assert_eq!(a, parameters(&MODEL, Init::Tutorial, 1));
        assert_ne!(a, b);
        let tensors = MODEL.layout().view(&a);
        assert_ne!(tensors.cells[0].w_x[..64], tensors.cells[0].w_h[..64]);
        // A wider output layer leaves the other tensors as they were, and so do more layers.
        let wide = parameters(&Model { dims: Dims { k: 11, ..MODEL.dims }, ..MODEL }, Init::Tutorial, 1);
        assert_eq!(a[..100_000], wide[..100_000]);
        let deep = Model { layers: 2, bidirectional: true, ..MODEL };
        let flat = parameters(&deep, Init::Tutorial, 1);
        let deeper = deep.layout().view(&flat).cells;
        assert_eq!(deeper[0], tensors.cells[0]);
        assert_ne!(deeper[0].w_h[..64], deeper[1].w_h[..64]);
        assert_ne!(deeper[1].w_h[..64], deeper[2].w_h[..64]);
    }
}
