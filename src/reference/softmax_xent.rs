//! Softmax and cross-entropy of one row of logits.

use super::Real;

/// Probabilities `[K]` of `logits [K]`.
pub fn softmax<F: Real>(logits: &[F]) -> Vec<F> {
    let max = logits.iter().copied().fold(F::neg_infinity(), F::max);
    let exps: Vec<F> = logits.iter().map(|&l| (l - max).exp()).collect();
    let sum: F = exps.iter().copied().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// Cross-entropy of `logits [K]` in nats, against a target of which `smoothing` is spread over all classes and the rest is
/// class `label`: `log Σ exp(l) - (1 - ε) · l[label] - ε/K · Σ l`.
pub fn loss<F: Real>(logits: &[F], label: usize, smoothing: F) -> F {
    let max = logits.iter().copied().fold(F::neg_infinity(), F::max);
    let sum: F = logits.iter().map(|&l| (l - max).exp()).sum();
    let spread = logits.iter().copied().sum::<F>() / F::of(logits.len() as f64);
    // Without smoothing no sum of all, which may overflow, plays a part.
    let target =
        if smoothing.is_zero() { logits[label] } else { (F::one() - smoothing) * logits[label] + smoothing * spread };
    sum.ln() + max - target
}

/// Gradient `[K]` of the loss by the logits, times `scale` (1/B for the mean over a batch).
pub fn backward<F: Real>(logits: &[F], label: usize, smoothing: F, scale: F) -> Vec<F> {
    let mut d = softmax(logits);
    let spread = smoothing / F::of(logits.len() as f64);
    d[label] -= F::one() - smoothing;
    d.into_iter().map(|v| (v - spread) * scale).collect()
}

/// Class of the largest logit; of equal ones the first.
pub fn arg_max<F: Real>(logits: &[F]) -> u32 {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = class;
        }
    }
    best as u32
}
