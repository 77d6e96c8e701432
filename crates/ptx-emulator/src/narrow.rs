//! Floating point of 16 bits, and tf32.
//!
//! Values are computed in f64 and rounded once. A sum whose exact value does not fit an f64 is rounded to odd first (the
//! last bit is set where something was lost), after which rounding to a format of at most 25 bits is right to the bit.

use crate::op::Rounding;
use crate::value::bits;

/// A floating-point format narrower than f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// 5 bits of exponent, 10 of fraction.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// The upper 19 bits of an f32; it lives in a register of 32 bits, whose lower 13 bits count for nothing.
    Tf32,
}

/// What is computed from 16-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    Neg,
    Abs,
}

/// How a wider value becomes a narrow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub to: Format,
    pub ties: Ties,
    /// Negative numbers become zero.
    pub relu: bool,
}

/// What happens to a value between two numbers of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ties {
    Even,
    Away,
    /// Always towards zero, so that there are no ties.
    Zero,
}

/// An instruction on 16-bit values, for one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrow {
    /// One f32 into the low half, or into all 32 bits for tf32.
    Cut(Cut),
    /// Two f32: the first becomes the high half, the second the low one.
    CutPair(Cut),
    /// To f32, which is exact.
    Widen(Format),
    /// Arithmetic on the low half, or on both.
    Compute { op: Arithmetic, format: Format, pair: bool },
}

impl Format {
    /// Bits of the significand with its leading one, and the least exponent of a normal number.
    fn shape(self) -> (i32, i32) {
        match self {
            Format::F16 => (11, -14),
            Format::Bf16 => (8, -126),
            Format::Tf32 => (11, -126),
        }
    }

    /// The bits of infinity.
    fn infinity(self) -> u32 {
        match self {
            Format::F16 => 0x7c00,
            Format::Bf16 => 0x7f80,
            Format::Tf32 => 0xff << 10,
        }
    }

    /// The place of the sign bit.
    fn sign(self) -> u32 {
        if self == Format::Tf32 { 18 } else { 15 }
    }
}

/// The value of a narrow number, which an f64 holds exactly. Of tf32 the register's lower 13 bits are cut off.
#[inline(always)]
pub(crate) fn widen(format: Format, register: u32) -> f64 {
    match format {
        Format::Bf16 => f64::from(f32::from_bits(register << 16)),
        Format::Tf32 => f64::from(f32::from_bits(register & !0x1fff)),
        Format::F16 => {
            let (fraction, sign) = (u64::from(register & 0x3ff), u64::from(register >> 15 & 1) << 63);
            let size = match register >> 10 & 31 {
                // Subnormal numbers are multiples of 2^-24.
                0 => (fraction as f64 * (1.0 / 16_777_216.0)).to_bits(),
                31 if fraction == 0 => f64::INFINITY.to_bits(),
                31 => f64::NAN.to_bits(),
                exponent => (u64::from(exponent) + 1023 - 15) << 52 | fraction << 42,
            };
            f64::from_bits(sign | size)
        }
    }
}

/// The bits of the narrow number that a value is rounded to, as its register holds them.
pub(crate) fn cut(how: Cut, value: f64) -> u32 {
    let format = how.to;
    let value = if how.relu && value < 0.0 { 0.0 } else { value };
    let magnitude = round(how, value.abs());
    let sign = u32::from(value.is_sign_negative() && !value.is_nan()) << format.sign();
    (sign | magnitude) << if format == Format::Tf32 { 13 } else { 0 }
}

/// The bits of a number without its sign.
fn round(how: Cut, size: f64) -> u32 {
    let (precision, least) = how.to.shape();
    let infinity = how.to.infinity();
    if size.is_nan() {
        // All ones below the sign.
        return (1 << how.to.sign()) - 1;
    }
    if size.is_infinite() || size == 0.0 {
        return if size == 0.0 { 0 } else { infinity };
    }
    // The sources are never subnormal in f64.
    let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(least);
    let steps = size * 2f64.powi(precision - 1 - exponent);
    let steps = match how.ties {
        Ties::Even => steps.round_ties_even(),
        Ties::Away => steps.round(),
        Ties::Zero => steps.trunc(),
    } as u32;
    // Subnormal numbers have the exponent field 0, the least normal ones 1. A carry moves on to the next exponent.
    let found = (((exponent - least) as u32) << (precision - 1)) + steps;
    match how.ties {
        _ if found < infinity => found,
        Ties::Zero => infinity - 1,
        _ => infinity,
    }
}

/// A sum rounded to odd.
fn odd_sum(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let back = sum - a;
    let lost = (a - (sum - back)) + (b - back);
    if !sum.is_finite() || lost == 0.0 || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if (lost > 0.0) == (sum > 0.0) { f64::from_bits(sum.to_bits() + 1) } else { f64::from_bits(sum.to_bits() - 1) }
}

/// The instruction's result in one lane.
pub(crate) fn apply(op: Narrow, a: u32, b: u32, c: u32) -> u32 {
    let float = |register| f64::from(f32::from_bits(register));
    match op {
        Narrow::Cut(how) => cut(how, float(a)),
        Narrow::CutPair(how) => cut(how, float(a)) << 16 | cut(how, float(b)),
        Narrow::Widen(format) => bits(widen(format, a) as f32),
        Narrow::Compute { op, format, pair } => {
            let low = compute(op, format, [a, b, c].map(|x| x & 0xffff));
            if pair { low | compute(op, format, [a, b, c].map(|x| x >> 16)) << 16 } else { low }
        }
    }
}

fn compute(op: Arithmetic, format: Format, sources: [u32; 3]) -> u32 {
    let [a, b, c] = sources.map(|source| widen(format, source));
    let value = match op {
        Arithmetic::Add => odd_sum(a, b),
        Arithmetic::Sub => odd_sum(a, -b),
        Arithmetic::Mul => a * b,
        Arithmetic::Fma => odd_sum(a * b, c),
        Arithmetic::Min => smaller(a, b),
        Arithmetic::Max => -smaller(-a, -b),
        // These two are done on the bits, and keep a NaN's.
        Arithmetic::Neg => return sources[0] ^ 0x8000,
        Arithmetic::Abs => return sources[0] & 0x7fff,
    };
    cut(Cut { to: format, ties: Ties::Even, relu: false }, value)
}

/// A NaN loses against a number, and -0 is below +0.
fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b < a || (a == b && b.is_sign_negative()) { b } else { a }
}

/// The rounding that an instruction names, as far as narrow formats have it.
pub(crate) fn ties(round: Rounding) -> Option<Ties> {
    match round {
        Rounding::Nearest => Some(Ties::Even),
        Rounding::Zero => Some(Ties::Zero),
        Rounding::Down | Rounding::Up => None,
    }
}
