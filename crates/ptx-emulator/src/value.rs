//! Arithmetic on single values, as the PTX manual defines it.

use crate::narrow::{self, Arithmetic, Narrow};
use crate::op::*;

/// The NaN that f32 instructions give.
const NAN: u32 = 0x7fff_ffff;

#[inline(always)]
fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// The bits of a result: every NaN becomes the one that the hardware gives.
#[inline(always)]
pub(crate) fn bits(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

/// Subnormal numbers become a zero of their sign.
#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// `flush` where `ftz` is set.
fn flush_if(ftz: bool, bits: u32) -> u32 {
    if ftz { flush(bits) } else { bits }
}

/// Between 0 and 1; NaN becomes 0.
pub(crate) fn saturate(bits: u32) -> u32 {
    let value = float(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// The product-sum with one rounding, to nearest.
///
/// A product of two f32 is exact in f64, and so is nearly always the rounding of the sum from f64 to f32. Only where
/// the sum in f64 falls exactly between two f32, or below the smallest normal one, could two roundings differ from one.
///
/// Where the processor has the instruction (`FUSED`), it is taken; there a call into the C library would be slow.
#[inline(always)]
pub(crate) fn fma<const FUSED: bool>(a: u32, b: u32, c: u32) -> u32 {
    if FUSED {
        return bits(float(a).mul_add(float(b), float(c)));
    }
    let sum = f64::from(float(a)) * f64::from(float(b)) + f64::from(float(c));
    let between = sum.to_bits() & 0x1fff_ffff == 0x1000_0000;
    if between || (sum.abs() < f64::from(f32::MIN_POSITIVE) && sum != 0.0) {
        return bits(float(a).mul_add(float(b), float(c)));
    }
    bits(sum as f32)
}

/// The product-sum rounded in a direction: the sum in f64 and what its rounding left over decide about one step.
pub(crate) fn fma_directed(round: Rounding, a: u32, b: u32, c: u32) -> u32 {
    let (product, addend) = (f64::from(float(a)) * f64::from(float(b)), f64::from(float(c)));
    let sum = product + addend;
    if !sum.is_finite() || round == Rounding::Nearest {
        return fma::<false>(a, b, c);
    }
    let back = sum - product;
    let rest = (product - (sum - back)) + (addend - back);
    if sum == 0.0 && rest == 0.0 {
        // An exact zero of opposite signs is -0 only when rounding down.
        let negative = product.is_sign_negative() && addend.is_sign_negative()
            || (round == Rounding::Down && product.is_sign_negative() != addend.is_sign_negative());
        return if negative { 1 << 31 } else { 0 };
    }
    let nearest = sum as f32;
    let error = if nearest.is_infinite() { -sum } else { (sum - f64::from(nearest)) + rest };
    let positive = nearest > 0.0 || (nearest == 0.0 && error > 0.0);
    let down = round == Rounding::Down || (round == Rounding::Zero && positive);
    let up = round == Rounding::Up || (round == Rounding::Zero && !positive);
    let result = match error {
        e if e < 0.0 && down => nearest.next_down(),
        e if e > 0.0 && up => nearest.next_up(),
        _ => nearest,
    };
    bits(if result == 0.0 && sum < 0.0 { -0.0 } else { result })
}

/// Instructions with one 32-bit source.
pub(crate) fn un32(op: Un32, ftz: bool, a: u32) -> u32 {
    let x = float(flush_if(ftz, a));
    let approx = |value: f64| flush_if(ftz, bits(value as f32));
    match op {
        Un32::Not => !a,
        Un32::Not16 => !a & 0xffff,
        Un32::NegInt => a.wrapping_neg(),
        Un32::Neg16 => a.wrapping_neg() & 0xffff,
        Un32::Abs16 => u32::from((a as i16).unsigned_abs()),
        Un32::AbsInt => (a as i32).wrapping_abs() as u32,
        Un32::NegFloat => flush_if(ftz, a) ^ 1 << 31,
        Un32::AbsFloat => flush_if(ftz, a) & !(1 << 31),
        Un32::Sqrt => flush_if(ftz, bits(x.sqrt())),
        Un32::Reciprocal => flush_if(ftz, bits(1.0 / x)),
        // The approximations treat subnormal sources as zero; in f64 they are then within their documented error.
        Un32::RsqrtApprox => approx(1.0 / f64::from(float(flush_if(ftz, a))).sqrt()),
        Un32::Exp2Approx => approx(f64::from(x).exp2()),
        Un32::Log2Approx => approx(f64::from(x).log2()),
        Un32::TanhApprox => approx(f64::from(x).tanh()),
        Un32::SinApprox => approx(f64::from(x).sin()),
        Un32::CosApprox => approx(f64::from(x).cos()),
        Un32::PopCount => a.count_ones(),
        Un32::LeadingZeros => a.leading_zeros(),
        Un32::ReverseBits => a.reverse_bits(),
    }
}

/// The smaller of two numbers: a NaN loses against a number, and -0 is below +0.
fn min_float(a: u32, b: u32) -> u32 {
    let (x, y) = (float(a), float(b));
    if x.is_nan() {
        return bits(y);
    }
    if x < y || y.is_nan() || (x == y && x.is_sign_negative()) { a } else { b }
}

/// The larger of two numbers: a NaN loses against a number, and +0 is above -0.
fn max_float(a: u32, b: u32) -> u32 {
    let (x, y) = (float(a), float(b));
    if x.is_nan() {
        return bits(y);
    }
    if x > y || y.is_nan() || (x == y && x.is_sign_positive()) { a } else { b }
}

/// Instructions with two 32-bit sources. Division by zero gives all ones, the remainder then the dividend.
#[inline(always)]
pub(crate) fn bin32(op: Bin32, a: u32, b: u32) -> u32 {
    let (x, y) = (a as i32, b as i32);
    match op {
        Bin32::AddInt => a.wrapping_add(b),
        Bin32::SubInt => a.wrapping_sub(b),
        Bin32::MulLow => a.wrapping_mul(b),
        Bin32::MulHighSigned => ((i64::from(x) * i64::from(y)) >> 32) as u32,
        Bin32::MulHighUnsigned => ((u64::from(a) * u64::from(b)) >> 32) as u32,
        Bin32::DivSigned => {
            if b == 0 {
                u32::MAX
            } else {
                x.wrapping_div(y) as u32
            }
        }
        Bin32::DivUnsigned => a.checked_div(b).unwrap_or(u32::MAX),
        Bin32::RemSigned => {
            if b == 0 {
                a
            } else {
                x.wrapping_rem(y) as u32
            }
        }
        Bin32::RemUnsigned => a.checked_rem(b).unwrap_or(a),
        Bin32::MinSigned => x.min(y) as u32,
        Bin32::MaxSigned => x.max(y) as u32,
        Bin32::MinUnsigned => a.min(b),
        Bin32::MaxUnsigned => a.max(b),
        Bin32::And => a & b,
        Bin32::Or => a | b,
        Bin32::Xor => a ^ b,
        Bin32::Shl => a.checked_shl(b).unwrap_or(0),
        Bin32::ShrSigned => (x >> b.min(31)) as u32,
        Bin32::ShrUnsigned => a.checked_shr(b).unwrap_or(0),
        Bin32::Add16 => a.wrapping_add(b) & 0xffff,
        Bin32::Sub16 => a.wrapping_sub(b) & 0xffff,
        Bin32::MulLow16 => a.wrapping_mul(b) & 0xffff,
        Bin32::DivSigned16 => bin32(Bin32::DivSigned, a as i16 as u32, b as i16 as u32) & 0xffff,
        Bin32::RemSigned16 => bin32(Bin32::RemSigned, a as i16 as u32, b as i16 as u32) & 0xffff,
        Bin32::MinSigned16 => i32::from((a as i16).min(b as i16)) as u32 & 0xffff,
        Bin32::MaxSigned16 => i32::from((a as i16).max(b as i16)) as u32 & 0xffff,
        Bin32::Shl16 => a.checked_shl(b).unwrap_or(0) & 0xffff,
        Bin32::ShrSigned16 => (i32::from(a as i16) >> b.min(15)) as u32 & 0xffff,
        Bin32::ShrUnsigned16 => (a & 0xffff).checked_shr(b).unwrap_or(0),
        Bin32::AddFloat => bits(float(a) + float(b)),
        Bin32::SubFloat => bits(float(a) - float(b)),
        Bin32::MulFloat => bits(float(a) * float(b)),
        Bin32::DivFloat => bits(float(a) / float(b)),
        Bin32::MinFloat => min_float(a, b),
        Bin32::MinFloatOrNan if float(a).is_nan() || float(b).is_nan() => NAN,
        Bin32::MinFloatOrNan => min_float(a, b),
        Bin32::MaxFloat => max_float(a, b),
        // The sign is that of the first source, the size that of the second.
        Bin32::CopySign => (a & 1 << 31) | (b & !(1 << 31)),
    }
}

/// Instructions with two 64-bit sources.
#[inline(always)]
pub(crate) fn bin64(op: Bin64, a: u64, b: u64) -> u64 {
    let (x, y) = (a as i64, b as i64);
    let (p, q) = (f64::from_bits(a), f64::from_bits(b));
    match op {
        Bin64::AddInt => a.wrapping_add(b),
        Bin64::SubInt => a.wrapping_sub(b),
        Bin64::MulLow => a.wrapping_mul(b),
        Bin64::MulHighSigned => ((i128::from(x) * i128::from(y)) >> 64) as u64,
        Bin64::MulHighUnsigned => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        Bin64::DivSigned => {
            if b == 0 {
                u64::MAX
            } else {
                x.wrapping_div(y) as u64
            }
        }
        Bin64::DivUnsigned => a.checked_div(b).unwrap_or(u64::MAX),
        Bin64::RemSigned => {
            if b == 0 {
                a
            } else {
                x.wrapping_rem(y) as u64
            }
        }
        Bin64::RemUnsigned => a.checked_rem(b).unwrap_or(a),
        Bin64::MinSigned => x.min(y) as u64,
        Bin64::MaxSigned => x.max(y) as u64,
        Bin64::MinUnsigned => a.min(b),
        Bin64::MaxUnsigned => a.max(b),
        Bin64::And => a & b,
        Bin64::Or => a | b,
        Bin64::Xor => a ^ b,
        Bin64::AddFloat => (p + q).to_bits(),
        Bin64::SubFloat => (p - q).to_bits(),
        Bin64::MulFloat => (p * q).to_bits(),
        Bin64::DivFloat => (p / q).to_bits(),
        Bin64::MinFloat => p.min(q).to_bits(),
        Bin64::MaxFloat => p.max(q).to_bits(),
    }
}

/// Instructions with one 64-bit source.
pub(crate) fn un64(op: Un64, a: u64) -> u64 {
    match op {
        Un64::Not => !a,
        Un64::ReverseBits => a.reverse_bits(),
        Un64::NegInt => a.wrapping_neg(),
        Un64::AbsInt => (a as i64).wrapping_abs() as u64,
        Un64::NegFloat => a ^ 1 << 63,
        Un64::AbsFloat => a & !(1 << 63),
        Un64::Sqrt => f64::from_bits(a).sqrt().to_bits(),
        Un64::Reciprocal => (1.0 / f64::from_bits(a)).to_bits(),
    }
}

/// Shifts of 64 bits.
#[inline(always)]
pub(crate) fn shift64(op: Shift, a: u64, b: u32) -> u64 {
    match op {
        Shift::Left => a.checked_shl(b).unwrap_or(0),
        Shift::RightSigned => ((a as i64) >> b.min(63)) as u64,
        Shift::RightUnsigned => a.checked_shr(b).unwrap_or(0),
    }
}

/// Instructions with three 32-bit sources.
#[inline(always)]
pub(crate) fn tern32(op: Tern32, a: u32, b: u32, c: u32) -> u32 {
    match op {
        Tern32::MadLow => a.wrapping_mul(b).wrapping_add(c),
        Tern32::MadHighSigned => bin32(Bin32::MulHighSigned, a, b).wrapping_add(c),
        Tern32::MadHighUnsigned => bin32(Bin32::MulHighUnsigned, a, b).wrapping_add(c),
        Tern32::ExtractSigned => extract(true, a, b, c),
        Tern32::ExtractUnsigned => extract(false, a, b, c),
        Tern32::Permute => permute(a, b, c),
        Tern32::FunnelLeftWrap => ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32,
        Tern32::FunnelRightWrap => ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32,
        Tern32::FunnelLeftClamp => ((u64::from(b) << 32 | u64::from(a)) << c.min(32) >> 32) as u32,
        Tern32::FunnelRightClamp => ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32,
        Tern32::MadLow16 => a.wrapping_mul(b).wrapping_add(c) & 0xffff,
        Tern32::DotBytes { a_signed, b_signed } => dot_bytes(a_signed, b_signed, a, b).wrapping_add(c),
        Tern32::Logic3(table) => logic3(table, a, b, c),
    }
}

/// The sum of the products of four bytes each.
fn dot_bytes(a_signed: bool, b_signed: bool, a: u32, b: u32) -> u32 {
    let byte = |signed: bool, value: u8| if signed { i32::from(value as i8) } else { i32::from(value) };
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
    products.map(|(a, b)| byte(a_signed, a) * byte(b_signed, b)).sum::<i32>() as u32
}

/// `length` bits from `position` on, of which only the low byte counts each.
fn extract(signed: bool, a: u32, position: u32, length: u32) -> u32 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let value = if signed { i64::from(a as i32) } else { i64::from(a) };
    let shifted = value >> position.min(63);
    let kept = length.min(32);
    if !signed {
        return (shifted as u64 & ((1 << kept) - 1)) as u32;
    }
    // The sign is that of the last extracted bit, or of the whole where the field reaches past its end.
    if position + length > 32 { shifted as u32 } else { ((shifted << (64 - kept)) >> (64 - kept)) as u32 }
}

/// The low bits of `a` put into `b` at a position.
pub(crate) fn insert(a: u32, b: u32, position: u32, length: u32) -> u32 {
    let (position, length) = (position & 255, (length & 255).min(32));
    if position > 31 {
        return b;
    }
    let mask = (((1u64 << length) - 1) << position) as u32;
    (b & !mask) | (a << position & mask)
}

/// The same with 64 bits.
pub(crate) fn insert64(a: u64, b: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 255, (length & 255).min(64));
    if position > 63 {
        return b;
    }
    let mask = ((((1u128 << length) - 1) << position) & u128::from(u64::MAX)) as u64;
    (b & !mask) | (a << position & mask)
}

/// `length` bits of 64 from `position` on.
pub(crate) fn extract64(signed: bool, a: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let value = if signed { i128::from(a as i64) } else { i128::from(a) };
    let shifted = value >> position.min(127);
    let unused = 128 - length.min(64);
    // A field that reaches past the end is filled with the sign of the whole, which the wide value has there.
    if signed { ((shifted << unused) >> unused) as u64 } else { (((shifted as u128) << unused) >> unused) as u64 }
}

/// The highest bit of `bits` bits that is set, or, in a negative number, that is not; all ones when there is none.
pub(crate) fn find_bit(signed: bool, from_top: bool, bits: u32, a: u64) -> u32 {
    let negative = signed && a >> (bits - 1) & 1 == 1;
    let value = if negative { !a & (u64::MAX >> (64 - bits)) } else { a };
    match value.checked_ilog2() {
        None => u32::MAX,
        Some(found) => {
            if from_top {
                bits - 1 - found
            } else {
                found
            }
        }
    }
}

/// Four bytes chosen from the eight of `a` and `b`; the high bit of a choice repeats that byte's sign.
fn permute(a: u32, b: u32, choice: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |result, i| {
        let chosen = choice >> (4 * i);
        let byte = (bytes >> (8 * (chosen & 7))) as u8;
        let byte = if chosen & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        result | u32::from(byte) << (8 * i)
    })
}

fn logic3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |result, i| {
        let pick = |set: u8, value: u32| if i & set != 0 { value } else { !value };
        result | pick(4, a) & pick(2, b) & pick(1, c)
    })
}

/// The comparison of two values of a type.
#[inline(always)]
pub(crate) fn compare(how: Compare, ty: Type, ftz: bool, a: u64, b: u64) -> bool {
    use std::cmp::Ordering;
    let order: Option<Ordering> = match ty {
        Type::F32 => float(flush_if(ftz, a as u32)).partial_cmp(&float(flush_if(ftz, b as u32))),
        Type::F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        Type::U16 => Some((a as u16).cmp(&(b as u16))),
        Type::S16 => Some((a as i16).cmp(&(b as i16))),
        Type::S32 => Some((a as i32).cmp(&(b as i32))),
        Type::S64 => Some((a as i64).cmp(&(b as i64))),
        _ => Some(a.cmp(&b)),
    };
    ordered(how, order)
}

/// What a comparison says of an ordering; `None` is "one of them is NaN".
#[inline(always)]
pub(crate) fn ordered(how: Compare, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match how {
        Compare::Eq => order == Some(Equal),
        Compare::Ne => matches!(order, Some(Less | Greater)),
        Compare::Lt => order == Some(Less),
        Compare::Le => matches!(order, Some(Less | Equal)),
        Compare::Gt => order == Some(Greater),
        Compare::Ge => matches!(order, Some(Greater | Equal)),
        Compare::EqOr => matches!(order, None | Some(Equal)),
        Compare::NeOr => order != Some(Equal),
        Compare::LtOr => matches!(order, None | Some(Less)),
        Compare::LeOr => order != Some(Greater),
        Compare::GtOr => matches!(order, None | Some(Greater)),
        Compare::GeOr => order != Some(Less),
        Compare::BothNumbers => order.is_some(),
        Compare::AnyNan => order.is_none(),
    }
}

/// The range of a whole type, and whether it is signed.
fn range(ty: Type) -> (i128, i128) {
    match ty {
        Type::U8 => (0, u8::MAX.into()),
        Type::U16 => (0, u16::MAX.into()),
        Type::U32 => (0, u32::MAX.into()),
        Type::U64 => (0, u64::MAX.into()),
        Type::S8 => (i8::MIN.into(), i8::MAX.into()),
        Type::S16 => (i16::MIN.into(), i16::MAX.into()),
        Type::S32 => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}

/// A whole number of a type, from a register's bits.
fn whole_value(ty: Type, bits: u64) -> i128 {
    match ty {
        Type::U8 => (bits as u8).into(),
        Type::U16 => (bits as u16).into(),
        Type::U32 => (bits as u32).into(),
        Type::U64 => bits.into(),
        Type::S8 => (bits as i8).into(),
        Type::S16 => (bits as i16).into(),
        Type::S32 => (bits as i32).into(),
        _ => (bits as i64).into(),
    }
}

fn round_whole(round: Rounding, x: f64) -> f64 {
    match round {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// A conversion, from a register's bits to a register's bits.
pub(crate) fn convert(how: Convert, bits_in: u64) -> u64 {
    let value = match how.from {
        Type::F32 => f64::from(float(flush_if(how.ftz, bits_in as u32))),
        Type::F64 => f64::from_bits(bits_in),
        from => return from_whole(how, whole_value(from, bits_in)),
    };
    match how.to {
        Type::F32 | Type::F64 => {
            let rounded = if how.whole { round_whole(how.round, value) } else { value };
            float_result(how, rounded)
        }
        to => {
            // Out of range is the nearest end of the range. NaN is 0 in 32 bits and less, the top bit alone in 64.
            let (low, high) = range(to);
            if value.is_nan() {
                return if matches!(to, Type::U64 | Type::S64) { 1 << 63 } else { 0 };
            }
            register(to, (round_whole(how.round, value) as i128).clamp(low, high))
        }
    }
}

fn from_whole(how: Convert, value: i128) -> u64 {
    match how.to {
        Type::F32 => float_bits(how, value as f32),
        Type::F64 => (value as f64).to_bits(),
        to => {
            let (low, high) = range(to);
            register(to, if how.saturate { value.clamp(low, high) } else { value })
        }
    }
}

fn float_result(how: Convert, value: f64) -> u64 {
    if how.to == Type::F32 {
        return float_bits(how, value as f32);
    }
    let value = if how.saturate { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    value.to_bits()
}

fn float_bits(how: Convert, value: f32) -> u64 {
    let result = flush_if(how.ftz, bits(value));
    u64::from(if how.saturate { saturate(result) } else { result })
}

/// A whole number as its register holds it: 16 bits zero-extended, 8-bit signed values extended to 16.
fn register(ty: Type, value: i128) -> u64 {
    match ty {
        Type::U8 => u64::from(value as u8),
        Type::S8 => u64::from(i32::from(value as i8) as u32),
        Type::U16 | Type::S16 => u64::from(value as u16),
        Type::U32 | Type::S32 => u64::from(value as u32),
        _ => value as u64,
    }
}

/// What an atomic leaves in memory.
pub(crate) fn atomic(op: Atomic, size: u32, old: u64, operand: u64, swap: u64) -> u64 {
    let signed = |bits: u64| if size == 8 { bits as i64 } else { i64::from(bits as u32 as i32) };
    match op {
        Atomic::Add => old.wrapping_add(operand),
        Atomic::AddDouble => bin64(Bin64::AddFloat, old, operand),
        Atomic::AddPair(format) => {
            let add = Narrow::Compute { op: Arithmetic::Add, format, pair: true };
            narrow::apply(add, old as u32, operand as u32, 0).into()
        }
        Atomic::AddFloat => bits(float(old as u32) + float(operand as u32)).into(),
        Atomic::MinSigned => signed(old).min(signed(operand)) as u64,
        Atomic::MaxSigned => signed(old).max(signed(operand)) as u64,
        Atomic::MinUnsigned => old.min(operand),
        Atomic::MaxUnsigned => old.max(operand),
        Atomic::And => old & operand,
        Atomic::Or => old | operand,
        Atomic::Xor => old ^ operand,
        Atomic::Inc => {
            if old >= operand {
                0
            } else {
                old + 1
            }
        }
        Atomic::Dec => {
            if old == 0 || old > operand {
                operand
            } else {
                old - 1
            }
        }
        Atomic::Exchange => operand,
        Atomic::CompareExchange => {
            if old == operand {
                swap
            } else {
                old
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zeros, the smallest and largest numbers of each sort, ties, infinities, NaN.
    const SPECIAL: [u32; 14] = [
        0,
        1,
        2,
        0x007f_ffff,
        0x0080_0000,
        0x0080_0001,
        0x3f80_0000,
        0x3f80_0001,
        0x3f7f_ffff,
        0x3380_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0x7fff_ffff,
    ];

    fn check(a: u32, b: u32, c: u32) {
        let expected = bits(float(a).mul_add(float(b), float(c)));
        assert_eq!(fma::<true>(a, b, c), expected, "{a:#x} {b:#x} {c:#x}");
        assert_eq!(fma::<false>(a, b, c), expected, "{a:#x} {b:#x} {c:#x}, without the instruction");
    }

    #[test]
    fn a_product_sum_is_rounded_once_with_and_without_the_instruction() {
        let special = || SPECIAL.iter().flat_map(|bits| [*bits, bits | 1 << 31]);
        for (a, b) in special().flat_map(|a| special().map(move |b| (a, b))) {
            special().for_each(|c| check(a, b, c));
        }
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for _ in 0..200_000 {
            let (a, b, c) = (next(), next(), next());
            check(a, b, c);
            // Addends near the product: they cancel, or lie a few bits above or below it.
            let product = (float(a) * float(b)).to_bits() ^ 1 << 31;
            check(a, b, product.wrapping_add(c % 3).wrapping_sub(1));
            check(a, b, product.wrapping_add((c % 50) << 23));
            check(a, b, product.wrapping_sub((c % 50) << 23));
        }
    }
}
