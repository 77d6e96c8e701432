//! Softmax cross-entropy of a row of logits: loss, gradient and the predicted class in one pass.

/// Cross-entropy in nats of `logits [K]` against class `label`, and the class of the largest logit (of equal ones the
/// first). Where `gradient` is given, it gets `(softmax - onehot) · scale`.
pub fn softmax_xent(logits: &[f32], label: usize, gradient: Option<(&mut [f32], f32)>) -> (f32, u32) {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = class;
        }
    }
    let max = logits[best];
    let sum: f32 = logits.iter().map(|&l| (l - max).exp()).sum();
    if let Some((gradient, scale)) = gradient {
        for (d, &l) in gradient.iter_mut().zip(logits) {
            *d = (l - max).exp() / sum * scale;
        }
        gradient[label] -= scale;
    }
    (sum.ln() + max - logits[label], best as u32)
}

/// Turns `logits [K]` into probabilities.
pub fn softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|l| *l = (*l - max).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|l| *l /= sum);
}
