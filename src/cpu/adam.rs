//! One step of Adam over the flat parameters, vector after vector.

use super::simd::{Isa, Kernel, Simd};
use crate::engine::State;
use crate::optimizer::Adam;
use rayon::prelude::*;

/// Parameters that a thread takes at a time; also the terms that a partial sum of the norm has.
const PART: usize = 4096;

/// Updates `state` from `gradient` and counts the step.
pub fn step(isa: Isa, adam: &Adam, gradient: &[f32], state: &mut State) {
    state.step += 1;
    let clip = match adam.grad_clip {
        Some(_) => adam.clip_factor(squared_norm(gradient)),
        None => 1.0,
    };
    let numbers = Numbers {
        clip,
        beta1: adam.beta1 as f32,
        rest1: (1.0 - adam.beta1) as f32,
        beta2: adam.beta2 as f32,
        rest2: (1.0 - adam.beta2) as f32,
        step_size: adam.step_size(state.step) as f32,
        kept: adam.kept(state.step) as f32,
        epsilon: adam.epsilon as f32,
    };
    let parts = (gradient.par_chunks(PART), state.parameters.par_chunks_mut(PART))
        .into_par_iter()
        .zip((state.m.par_chunks_mut(PART), state.v.par_chunks_mut(PART)));
    parts.for_each(|((gradient, parameters), (m, v))| isa.run(Update { numbers, gradient, parameters, m, v }));
}

/// Squared 2-norm in double precision; parts of fixed size, so the same bits with any number of threads.
fn squared_norm(gradient: &[f32]) -> f64 {
    let parts: Vec<f64> =
        gradient.par_chunks(PART).map(|part| part.iter().map(|&g| f64::from(g) * f64::from(g)).sum()).collect();
    parts.iter().sum()
}

#[derive(Clone, Copy)]
struct Numbers {
    clip: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    /// What the decay leaves of a parameter.
    kept: f32,
    epsilon: f32,
}

struct Update<'a> {
    numbers: Numbers,
    gradient: &'a [f32],
    parameters: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = S::LANES;
        let whole = self.gradient.len() / n * n;
        for k in (0..whole).step_by(n) {
            let (p, m, v) = (&mut self.parameters[k..], &mut self.m[k..], &mut self.v[k..]);
            update(s, self.numbers, &self.gradient[k..], p, m, v);
        }
        // The last few go through vectors too, for the same rounding.
        let tail = self.gradient.len() - whole;
        if tail > 0 {
            let padded = |from: &[f32]| {
                let mut vector = [0.0; 16];
                vector[..tail].copy_from_slice(&from[whole..]);
                vector
            };
            let g = padded(self.gradient);
            let (mut p, mut m, mut v) = (padded(self.parameters), padded(self.m), padded(self.v));
            update(s, self.numbers, &g, &mut p, &mut m, &mut v);
            self.parameters[whole..].copy_from_slice(&p[..tail]);
            self.m[whole..].copy_from_slice(&m[..tail]);
            self.v[whole..].copy_from_slice(&v[..tail]);
        }
    }
}

#[inline(always)]
fn update<S: Simd>(s: S, numbers: Numbers, gradient: &[f32], parameters: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let g = s.mul(s.load(gradient), s.splat(numbers.clip));
    let m_now = s.fma(s.splat(numbers.rest1), g, s.mul(s.splat(numbers.beta1), s.load(m)));
    let v_now = s.fma(s.mul(s.splat(numbers.rest2), g), g, s.mul(s.splat(numbers.beta2), s.load(v)));
    let step = s.div(m_now, s.add(s.sqrt(v_now), s.splat(numbers.epsilon)));
    s.store(m, m_now);
    s.store(v, v_now);
    let kept = s.mul(s.splat(numbers.kept), s.load(parameters));
    s.store(parameters, s.fnma(s.splat(numbers.step_size), step, kept));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::tensor_file::TensorFile;
    use std::path::Path;

    /// Runs the 1,000 steps of the golden case with `step`, which updates a state from a gradient, and compares after
    /// 1, 2, 10 and 1,000 of them.
    fn golden(name: &str, mut step: impl FnMut(&[f32], &mut State)) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adam_only.safetensors");
        let file = TensorFile::read(&path, 1 << 20).unwrap();
        let before = file.f32("p", &[257]).unwrap();
        let gradients = file.f32("g", &[10, 257]).unwrap();
        let mut state = State::new(before.to_vec());
        let mut worst = [0.0f64; 3];
        for t in 1..=1000 {
            step(&gradients[(t - 1) % 10 * 257..][..257], &mut state);
            if ![1, 2, 10, 1000].contains(&t) {
                continue;
            }
            let expected = |tensor: &str| file.f32(&format!("after{t}.{tensor}"), &[257]).unwrap();
            for (k, (&got, &wanted)) in state.parameters.iter().zip(expected("p")).enumerate() {
                // Of the way gone, but at least of one step; and the last place of the parameter itself.
                let way = f64::from(wanted - before[k]).abs().max(0.001);
                let error = (f64::from(got) - f64::from(wanted)).abs() - f64::from(wanted.abs()) * 1e-7 * t as f64;
                worst[0] = worst[0].max(error / way);
            }
            for (n, (got, wanted)) in [(&state.m, expected("m")), (&state.v, expected("v"))].into_iter().enumerate() {
                for (&got, &wanted) in got.iter().zip(wanted) {
                    // Each number by its own size, from 1e-40 to 1e36; subnormal ones have no more than their last place.
                    let error = (f64::from(got) - f64::from(wanted)).abs() - 1.5e-45 * t as f64;
                    worst[n + 1] = worst[n + 1].max(error / f64::from(wanted.abs()).max(1e-300));
                }
            }
        }
        println!("{name}: parameters {:.1e}, m {:.1e}, v {:.1e}", worst[0], worst[1], worst[2]);
        assert!(worst[0] < 1e-3 && worst[1] < 1e-4 && worst[2] < 1e-4, "{name}: {worst:?}");
    }

    #[test]
    fn a_thousand_golden_steps() {
        let adam = Adam::default();
        for isa in Isa::available() {
            golden(isa.name(), |gradient, state| step(isa, &adam, gradient, state));
        }
    }

    #[test]
    fn a_thousand_golden_steps_of_the_reference() {
        let adam = Adam::default();
        golden("reference in f32", |gradient, state| {
            state.step += 1;
            let State { parameters, m, v, step } = state;
            reference::adam::step(&adam, *step, gradient, parameters, m, v);
        });
    }
}
