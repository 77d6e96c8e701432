//! The oracle: the model in plain loops, for f32 and f64, with nothing folded, fused or reordered.
//!
//! Every layer keeps to the formulas of its own file; what another engine does cleverly is compared with this.

pub mod adam;
pub mod linear;
pub mod lstm;
pub mod pool;
pub mod rounded;
pub mod softmax_xent;

mod engine;
mod model;

pub use engine::ReferenceEngine;
pub use lstm::Steps;
pub use model::{Batch, Gradients, forward_backward, inputs};
pub use rounded::Style;

/// A number that the reference computes with: `f32` or `f64`.
pub trait Real: num_traits::Float + num_traits::NumAssign + std::iter::Sum + Send + Sync + 'static {
    /// The nearest number of this type.
    fn of(value: f64) -> Self;
    /// The nearest f32.
    fn single(self) -> f32;
    /// The nearest bf16 of the nearest f32.
    fn bf16(self) -> Self {
        let x = self.single();
        // Half of the last place that stays is added; of two equally near ones the even one is taken.
        let bits = x.to_bits();
        let rounded = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
        if x.is_finite() { Self::of(f32::from_bits(rounded).into()) } else { self }
    }
    /// The nearest TF32 of the nearest f32, as `cvt.rna.tf32.f32` rounds: of two equally near ones that away from zero.
    fn tf32(self) -> Self {
        let x = self.single();
        // Half of the last place that stays is added to the magnitude.
        let rounded = x.to_bits().wrapping_add(0x1000) & 0xffff_e000;
        if x.is_finite() { Self::of(f32::from_bits(rounded).into()) } else { self }
    }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn single(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn single(self) -> f32 {
        self as f32
    }
}
