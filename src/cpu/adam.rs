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
    s.store(parameters, s.fnma(s.splat(numbers.step_size), step, s.load(parameters)));
}
