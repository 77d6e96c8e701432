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
    /// What each step takes off every parameter, as a share of it for a learning rate of 1, before its update: decoupled from
    /// the gradients (Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weight_decay: f64,
    /// How the learning rate goes on.
    #[serde(default, skip_serializing_if = "Schedule::is_constant")]
    pub schedule: Schedule,
}

/// The share of the learning rate that each step has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// All of it.
    #[default]
    Constant,
    /// A straight line from 0 up to all of it at step `warm_up`, then half a cosine down to 0 after step `steps` (Loshchilov
    /// and Hutter 2017, "SGDR", equation 5, without restarts). No warm-up if that is 0.
    Cosine {
        /// Steps of the line.
        warm_up: u64,
        /// Steps in all; later ones change nothing.
        steps: u64,
    },
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Schedule {
    fn is_constant(&self) -> bool {
        *self == Self::Constant
    }

    /// The share that step `t`, counted from 1, has.
    pub fn share(&self, t: u64) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Cosine { warm_up, .. } if t <= warm_up => t as f64 / warm_up as f64,
            Self::Cosine { steps, .. } if t > steps => 0.0,
            Self::Cosine { warm_up, steps } => {
                let done = (t - warm_up - 1) as f64 / (steps - warm_up) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            learning_rate: 0.001,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            grad_clip: None,
            weight_decay: 0.0,
            schedule: Schedule::Constant,
        }
    }
}

impl Adam {
    /// Checks that the learning rate and the clip are positive numbers, and that the decay leaves something.
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
        // Each step takes lr · decay of a parameter: all of it or more makes no sense.
        if !(self.weight_decay >= 0.0 && self.weight_decay * self.learning_rate < 1.0) {
            return Err(Error::usage(
                format!("--weight-decay {}", self.weight_decay),
                "it is not from 0 to below 1 / learning rate",
                "give one such as 0.01",
            ));
        }
        if let Schedule::Cosine { warm_up, steps } = self.schedule
            && warm_up >= steps
        {
            return Err(Error::usage(
                format!("--warmup-steps {warm_up}"),
                format!("there are only {steps} steps in all"),
                "give fewer",
            ));
        }
        Ok(())
    }

    /// The learning rate of step `t` (from 1), as scheduled.
    pub fn rate(&self, t: u64) -> f64 {
        self.learning_rate * self.schedule.share(t)
    }

    /// The step size of step `t` (from 1), worked out in double precision.
    pub fn step_size(&self, t: u64) -> f64 {
        let rate = self.rate(t);
        let t = t as f64;
        rate * (1.0 - self.beta2.powf(t)).sqrt() / (1.0 - self.beta1.powf(t))
    }

    /// What the decay leaves of a parameter at step `t` (from 1): what it is multiplied by before the update.
    pub fn kept(&self, t: u64) -> f64 {
        1.0 - self.rate(t) * self.weight_decay
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
        for weight_decay in [f64::NAN, -0.1, 1000.0, f64::INFINITY] {
            assert!(Adam { weight_decay, ..Adam::default() }.check().is_err());
        }
        let schedule = Schedule::Cosine { warm_up: 7, steps: 7 };
        assert!(Adam { schedule, ..Adam::default() }.check().is_err());
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let schedule = Schedule::Cosine { warm_up: 4, steps: 12 };
        let shares = [(1, 0.25), (4, 1.0), (5, 1.0), (9, 0.5), (13, 0.0), (1000, 0.0)];
        for (t, share) in shares {
            assert!((schedule.share(t) - share).abs() < 1e-12, "step {t}: {}", schedule.share(t));
        }
        assert!((Schedule::Cosine { warm_up: 0, steps: 2 }.share(2) - 0.5).abs() < 1e-12);
        let adam = Adam { weight_decay: 0.1, learning_rate: 0.5, schedule, ..Adam::default() };
        assert!((adam.kept(1) - (1.0 - 0.25 * 0.5 * 0.1)).abs() < 1e-12);
        assert_eq!(Adam::default().kept(1), 1.0);
    }
}
