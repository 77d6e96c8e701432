//! One step of Adam, as [`crate::optimizer::Adam`] defines it.

use super::Real;
use crate::optimizer::Adam;

/// Updates `parameters`, `m` and `v` from `gradient` (all of one length) for step `t`, counted from 1.
pub fn step<F: Real>(adam: &Adam, t: u64, gradient: &[F], parameters: &mut [F], m: &mut [F], v: &mut [F]) {
    let squared_norm: F = gradient.iter().map(|&g| g * g).sum();
    let clip = match adam.grad_clip {
        Some(_) => F::of(adam.clip_factor(squared_norm.to_f64().expect("a float is an f64")).into()),
        None => F::one(),
    };
    let (step_size, kept) = (F::of(adam.step_size(t)), F::of(adam.kept(t)));
    let (beta1, rest1) = (F::of(adam.beta1), F::of(1.0 - adam.beta1));
    let (beta2, rest2) = (F::of(adam.beta2), F::of(1.0 - adam.beta2));
    for (((&g, p), m), v) in gradient.iter().zip(parameters).zip(m).zip(v) {
        let g = g * clip;
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * g * g;
        *p = *p * kept - step_size * *m / (v.sqrt() + F::of(adam.epsilon));
    }
}
