//! Which kernels train a model on a GPU, and why.

use super::device::Limits;
use super::variant::{TILE_ROWS, Variant};
use crate::error::{Error, Result};
use crate::precision::{Activations, Precision};
use crate::shape::Dims;

/// The oldest compute capability with the persistent kernels' instructions: Ampere.
const OLDEST: (u32, u32) = (8, 0);
/// Steps after which a cell state might leave the range of f16, in which it is saved: it grows by 1 a step at most.
const MOST_STEPS: usize = 1 << 15;
/// Numbers of 4 bytes of one buffer; each holds two of the numbers that kernels count in 31 bits.
const MOST_WORDS: usize = (1 << 30) - 256;

/// Families of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A launch for each time step, in f32: any size, any GPU.
    PerStep,
    /// All steps in one launch, matrix products in bf16, a block for each 8 sequences.
    Persistent(Variant),
}

/// The kernels that were chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which they are.
    pub family: Family,
    /// Why, in one line for the user.
    pub reason: String,
}

impl Plan {
    /// Chooses kernels for batches of `batch` sequences. Where the model asks for more than the persistent kernels can do,
    /// the others, which are more accurate, take their place.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a precision that no kernels have.
    pub fn new(dims: Dims, batch: usize, precision: Precision, limits: &Limits) -> Result<Self> {
        match precision {
            Precision::F32 => Ok(Self::per_step("f32 was asked for".into())),
            Precision::Bf16 => Ok(Self::persistent(dims, batch, limits).unwrap_or_else(Self::per_step)),
            Precision::Tf32 => Err(Error::usage(
                "precision tf32",
                "there are no kernels for it on GPUs yet",
                "choose f32, which is more accurate, or bf16, which is faster",
            )),
        }
    }

    /// The same with activations of another form, where the kernels have it.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        if let Family::Persistent(variant) = &mut self.family {
            variant.activations = activations;
        }
        self
    }

    /// The kernels of one launch a step, and why they were chosen.
    pub(super) fn per_step(why: String) -> Self {
        Self { family: Family::PerStep, reason: format!("one launch a step, in f32: {why}") }
    }

    fn persistent(dims: Dims, batch: usize, limits: &Limits) -> Result<Self, String> {
        let Limits { capability, .. } = *limits;
        if capability < OLDEST {
            let ((major, minor), (oldest, zero)) = (capability, OLDEST);
            return Err(format!("bf16 needs compute capability {oldest}.{zero}, and this GPU has {major}.{minor}"));
        }
        if dims.t > MOST_STEPS {
            return Err(format!("{} steps are more than the {MOST_STEPS} of the bf16 kernels", dims.t));
        }
        let variant = Variant::new(dims, limits)?;
        let tiles = batch.div_ceil(TILE_ROWS);
        let [hx, da] = variant.step_words();
        let words = (dims.t + 1).checked_mul(tiles).and_then(|n| n.checked_mul(hx.max(da)));
        if words.is_none_or(|words| words > MOST_WORDS) {
            return Err(format!("a batch of {batch} sequences is more than the bf16 kernels count"));
        }
        let Variant { forward_shared, backward_shared, .. } = variant;
        let weights = match forward_shared + backward_shared {
            0 => "weights in registers",
            _ => "weights in registers and shared memory",
        };
        let blocks = if tiles == 1 { "1 block".into() } else { format!("{tiles} blocks") };
        let reason = format!("all steps in one launch, in bf16: {blocks} of {} threads, {weights}", variant.threads());
        Ok(Self { family: Family::Persistent(variant), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUTORIAL: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
    const H100: Limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 };
    const RTX4090: Limits = Limits { capability: (8, 9), shared: 99 * 1024, multiprocessors: 128 };

    fn reason(dims: Dims, batch: usize, precision: Precision, limits: &Limits) -> String {
        let Plan { family, reason } = Plan::new(dims, batch, precision, limits).unwrap();
        assert_eq!(family == Family::PerStep, reason.starts_with("one launch a step, in f32: "), "{reason}");
        assert_eq!(reason.lines().count(), 1);
        reason
    }

    #[test]
    fn the_tutorials_model_is_trained_in_one_launch_with_all_weights_in_registers() {
        for limits in [H100, RTX4090] {
            let plan = Plan::new(TUTORIAL, 128, Precision::Bf16, &limits).unwrap();
            let variant = Variant {
                units: 128,
                inputs: 32,
                forward_shared: 0,
                backward_shared: 0,
                chains: 2,
                activations: Activations::Accurate,
            };
            assert_eq!(plan.family, Family::Persistent(variant));
            assert!(plan.reason.ends_with("16 blocks of 256 threads, weights in registers"), "{}", plan.reason);
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let of = |dims, limits: &Limits| reason(dims, 128, Precision::Bf16, limits);
        assert!(of(Dims { h: 192, ..TUTORIAL }, &H100).ends_with("registers and shared memory"));
        assert!(of(Dims { h: 192, ..TUTORIAL }, &RTX4090).contains("192 hidden units, 28 inputs and 10 classes take"));
        assert!(of(Dims { i: 784, ..TUTORIAL }, &H100).contains("784 inputs and 10 classes take"));
        assert!(of(Dims { i: 784, h: 16, ..TUTORIAL }, &H100).ends_with("registers and shared memory"));
        assert!(of(Dims { h: 1024, ..TUTORIAL }, &H100).contains("1024 hidden units"));
        assert!(of(Dims { k: 1 << 13, ..TUTORIAL }, &H100).contains("8192 classes take"));
        assert!(of(Dims { t: 40_000, ..TUTORIAL }, &H100).contains("40000 steps"));
        assert!(of(TUTORIAL, &Limits { capability: (7, 5), ..H100 }).contains("needs compute capability 8.0"));
        assert!(reason(TUTORIAL, 1 << 40, Precision::Bf16, &H100).contains("is more than the bf16 kernels count"));
        assert!(reason(TUTORIAL, 128, Precision::F32, &H100).contains("f32 was asked for"));
        assert!(of(Dims { k: 1024, ..TUTORIAL }, &H100).contains("in bf16"));
    }

    #[test]
    fn tf32_is_refused() {
        let error = Plan::new(TUTORIAL, 128, Precision::Tf32, &H100).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("precision tf32"), "{error}");
    }
}
