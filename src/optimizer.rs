//! What the optimizer is told; each engine has its own update over the flat parameters.

use crate::error::{Error, Result};

/// Adam as TensorFlow 1 writes it: with step size `lr · sqrt(1 - β2^t) / (1 - β1^t)`,
/// `θ -= step_size · m / (sqrt(v) + ε)`. (The form after section 2 of Kingma and Ba, arXiv 1412.6980; PyTorch's ε stands
/// elsewhere.)
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Learning rate, `lr`.
    pub learning_rate: f64,
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root, so that it never is zero.
    pub epsilon: f64,
    /// Gradients whose 2-norm over all parameters is larger are scaled down to it.
    pub grad_clip: Option<f32>,
}

impl Default for Adam {
    fn default() -> Self {
        Self { learning_rate: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, grad_clip: None }
    }
}

impl Adam {
    /// Checks that the learning rate and the clip are positive numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] that names the flag.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.learning_rate) {
            return Err(Error::usage(
                format!("--lr {}", self.learning_rate),
                "the learning rate is not a positive number",
                "give one such as 0.001",
            ));
        }
        if let Some(clip) = self.grad_clip
            && !positive(clip.into())
        {
            return Err(Error::usage(
                format!("--grad-clip {clip}"),
                "the largest gradient norm is not a positive number",
                "give one such as 5",
            ));
        }
        Ok(())
    }

    /// The step size of step `t` (from 1), worked out in double precision.
    pub fn step_size(&self, t: u64) -> f64 {
        let t = t as f64;
        self.learning_rate * (1.0 - self.beta2.powf(t)).sqrt() / (1.0 - self.beta1.powf(t))
    }

    /// What gradients of this squared 2-norm are multiplied by.
    pub fn clip_factor(&self, squared_norm: f64) -> f32 {
        match self.grad_clip {
            Some(clip) => (f64::from(clip) / squared_norm.sqrt().max(clip.into())) as f32,
            None => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_size_follows_the_formula() {
        let adam = Adam::default();
        // sqrt(1 - 0.999) / (1 - 0.9) and, after many steps, 1.
        assert!((adam.step_size(1) - 0.001 * 0.001f64.sqrt() / 0.1).abs() < 1e-12);
        assert!((adam.step_size(100_000) - 0.001).abs() < 1e-12);
    }

    #[test]
    fn clipping_only_ever_shrinks() {
        let adam = Adam { grad_clip: Some(2.0), ..Adam::default() };
        assert_eq!(adam.clip_factor(16.0), 0.5);
        assert_eq!(adam.clip_factor(1.0), 1.0);
        assert_eq!(Adam::default().clip_factor(1e9), 1.0);
    }

    #[test]
    fn nonsense_is_refused() {
        for learning_rate in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
            assert_eq!(Adam { learning_rate, ..Adam::default() }.check().unwrap_err().exit_code(), 2);
        }
        assert!(Adam { grad_clip: Some(0.0), ..Adam::default() }.check().is_err());
    }
}
