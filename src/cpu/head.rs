//! Softmax cross-entropy of a row of logits: loss, gradient and the predicted class in one pass.

/// Cross-entropy in nats of `logits [K]` against a target of which `smoothing` is spread over all classes and the rest is
/// class `label`, and the class of the largest logit (of equal ones the first). Where `gradient` is given, it gets
/// `(softmax - target) · scale`.
pub fn softmax_xent(logits: &[f32], label: usize, smoothing: f32, gradient: Option<(&mut [f32], f32)>) -> (f32, u32) {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = class;
        }
    }
    let max = logits[best];
    let sum: f32 = logits.iter().map(|&l| (l - max).exp()).sum();
    let spread = smoothing / logits.len() as f32;
    if let Some((gradient, scale)) = gradient {
        for (d, &l) in gradient.iter_mut().zip(logits) {
            *d = ((l - max).exp() / sum - spread) * scale;
        }
        gradient[label] -= (1.0 - smoothing) * scale;
    }
    let loss = if smoothing > 0.0 {
        let below: f32 = logits.iter().map(|&l| max - l).sum();
        sum.ln() + (1.0 - smoothing) * (max - logits[label]) + spread * below
    } else {
        sum.ln() + max - logits[label]
    };
    (loss, best as u32)
}

/// Turns `logits [K]` into probabilities.
pub fn softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|l| *l = (*l - max).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|l| *l /= sum);
}
