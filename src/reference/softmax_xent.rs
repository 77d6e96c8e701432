//! Softmax and cross-entropy of one row of logits.

use super::Real;

/// Probabilities `[K]` of `logits [K]`.
pub fn softmax<F: Real>(logits: &[F]) -> Vec<F> {
    let max = logits.iter().copied().fold(F::neg_infinity(), F::max);
    let exps: Vec<F> = logits.iter().map(|&l| (l - max).exp()).collect();
    let sum: F = exps.iter().copied().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// Cross-entropy of `logits [K]` against class `label`, in nats: `log Σ exp(l) - l[label]`.
pub fn loss<F: Real>(logits: &[F], label: usize) -> F {
    let max = logits.iter().copied().fold(F::neg_infinity(), F::max);
    let sum: F = logits.iter().map(|&l| (l - max).exp()).sum();
    sum.ln() + max - logits[label]
}

/// Gradient `[K]` of the loss by the logits, times `scale` (1/B for the mean over a batch).
pub fn backward<F: Real>(logits: &[F], label: usize, scale: F) -> Vec<F> {
    let mut d = softmax(logits);
    d[label] -= F::one();
    d.into_iter().map(|v| v * scale).collect()
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
