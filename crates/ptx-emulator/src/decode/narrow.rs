//! Forms of `cvt`, `add`, `mul`, `fma` and the like with values of 16 bits.

use super::{Decoded, Decoder, rounding};
use crate::narrow::{Arithmetic, Cut, Format, Narrow, Ties, ties};
use crate::op::Op;

/// The format of a type of 16 bits, and whether the type is a pair of them.
fn narrow(ty: &str) -> Option<(Format, bool)> {
    Some(match ty {
        "f16" => (Format::F16, false),
        "bf16" => (Format::Bf16, false),
        "f16x2" => (Format::F16, true),
        "bf16x2" => (Format::Bf16, true),
        _ => return None,
    })
}

impl Decoder<'_, '_> {
    /// Conversions to and from 16 bits, and to tf32; `None` for all others.
    pub(super) fn convert_narrow(&mut self, parts: &[&str]) -> Decoded {
        match parts[1..] {
            ["f32", from] | ["ftz", "f32", from] => match narrow(from) {
                Some((format, false)) => self.narrow(Narrow::Widen(format), 1),
                _ => Ok(None),
            },
            ["rna", "tf32", "f32"] => self.narrow(Narrow::Cut(plain(Format::Tf32, Ties::Away)), 1),
            [mode, "tf32", "f32"] => match rounding(mode).and_then(ties) {
                Some(ties) => self.narrow(Narrow::Cut(plain(Format::Tf32, ties)), 1),
                None => Ok(None),
            },
            [mode, to, "f32"] => self.cut(mode, false, to),
            [mode, "relu", to, "f32"] => self.cut(mode, true, to),
            _ => Ok(None),
        }
    }

    fn cut(&mut self, mode: &str, relu: bool, to: &str) -> Decoded {
        let (Some(ties), Some((to, pair))) = (rounding(mode).and_then(ties), narrow(to)) else { return Ok(None) };
        let how = Cut { to, ties, relu };
        if pair { self.narrow(Narrow::CutPair(how), 2) } else { self.narrow(Narrow::Cut(how), 1) }
    }

    /// Arithmetic of 16 bits.
    pub(super) fn narrow_arithmetic(&mut self, parts: &[&str]) -> Decoded {
        let (name, ty) = match parts {
            [name @ ("add" | "sub" | "mul" | "min" | "max" | "neg" | "abs"), ty] => (*name, *ty),
            [name @ ("add" | "sub" | "mul" | "fma"), "rn", ty] => (*name, *ty),
            _ => return Ok(None),
        };
        let (op, sources) = match name {
            "add" => (Arithmetic::Add, 2),
            "sub" => (Arithmetic::Sub, 2),
            "mul" => (Arithmetic::Mul, 2),
            "fma" => (Arithmetic::Fma, 3),
            "min" => (Arithmetic::Min, 2),
            "max" => (Arithmetic::Max, 2),
            "neg" => (Arithmetic::Neg, 1),
            _ => (Arithmetic::Abs, 1),
        };
        let Some((format, pair)) = narrow(ty) else { return Ok(None) };
        self.narrow(Narrow::Compute { op, format, pair }, sources)
    }

    fn narrow(&mut self, op: Narrow, sources: usize) -> Decoded {
        let (d, a) = (self.dr(0)?, self.r(1)?);
        let b = if sources > 1 { self.r(2)? } else { a };
        let c = if sources > 2 { self.r(3)? } else { a };
        Ok(Some(Op::Narrow { op, d, a, b, c }))
    }
}

fn plain(to: Format, ties: Ties) -> Cut {
    Cut { to, ties, relu: false }
}
