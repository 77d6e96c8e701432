//! In which numbers an engine computes its matrix products.

use std::fmt;

/// Precision of the operands of matrix products. Sums, cell states, losses, parameters and the optimizer's state are f32 in
/// any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits.
    #[default]
    F32,
    /// 11 bits, with the range of f32; only GPUs have it, for the products with the recurrent weights. The others are f32.
    Tf32,
    /// 8 bits, with the range of f32.
    Bf16,
}

/// How the LSTM's sigmoid and tanh are computed where products are in bf16 on a GPU; everything else has only the accurate
/// form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Errors below 3e-7 of their range.
    #[default]
    Accurate,
    /// By the GPU's own `tanh.approx`: errors up to 5e-4, and fewer instructions.
    Fast,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}
