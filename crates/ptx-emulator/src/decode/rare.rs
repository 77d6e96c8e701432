//! Forms that are seldom met, and fit no family.

use super::{Decoded, Decoder, Operand};
use crate::op::{Atomic, Op, R, Rare, Slot};

impl Decoder<'_, '_> {
    /// `set`: like `setp`, but with a number as its result; the result's type stands before the sources'.
    pub(super) fn set(&mut self, parts: &[&str]) -> Decoded {
        let ftz = parts.contains(&"ftz");
        let mut plain: Vec<&str> = parts[1..].iter().copied().filter(|part| *part != "ftz").collect();
        if plain.len() < 3 {
            return Ok(None);
        }
        let one = match plain.remove(plain.len() - 2) {
            "u32" | "s32" => u32::MAX,
            "f32" => 1f32.to_bits(),
            _ => return Ok(None),
        };
        let Some(compare) = self.comparison(&plain, ftz, 1)? else { return Ok(None) };
        rare(Rare::Set { compare, d: self.dr(0)?, one })
    }

    pub(super) fn count64(&mut self, leading: bool) -> Decoded {
        rare(Rare::Count64 { leading, d: self.dr(0)?, a: self.d(1)? })
    }

    pub(super) fn find_bit(&mut self, from_top: bool, ty: &str) -> Decoded {
        let a = match ty {
            "u32" | "s32" => Slot::R(self.r(1)?),
            "u64" | "s64" => Slot::D(self.d(1)?),
            _ => return Ok(None),
        };
        rare(Rare::FindBit { signed: ty.starts_with('s'), from_top, d: self.dr(0)?, a })
    }

    pub(super) fn insert64(&mut self) -> Decoded {
        let (d, a, b) = (self.dd(0)?, self.d(1)?, self.d(2)?);
        rare(Rare::Insert64 { d, a, b, position: self.r(3)?, length: self.r(4)? })
    }

    pub(super) fn extract64(&mut self, signed: bool) -> Decoded {
        let (d, a) = (self.dd(0)?, self.d(1)?);
        rare(Rare::Extract64 { signed, d, a, position: self.r(2)?, length: self.r(3)? })
    }

    /// `redux` and `match.any`.
    pub(super) fn across(&mut self, parts: &[&str]) -> Decoded {
        let how = match parts {
            ["match", "any", "sync", "b32"] => {
                return rare(Rare::Match { d: self.dr(0)?, a: Slot::R(self.r(1)?), mask: self.r(2)? });
            }
            ["match", "any", "sync", "b64"] => {
                return rare(Rare::Match { d: self.dr(0)?, a: Slot::D(self.d(1)?), mask: self.r(2)? });
            }
            ["redux", "sync", "add", "u32" | "s32"] => Atomic::Add,
            ["redux", "sync", "min", "u32"] => Atomic::MinUnsigned,
            ["redux", "sync", "min", "s32"] => Atomic::MinSigned,
            ["redux", "sync", "max", "u32"] => Atomic::MaxUnsigned,
            ["redux", "sync", "max", "s32"] => Atomic::MaxSigned,
            ["redux", "sync", "and", "b32"] => Atomic::And,
            ["redux", "sync", "or", "b32"] => Atomic::Or,
            ["redux", "sync", "xor", "b32"] => Atomic::Xor,
            _ => return Ok(None),
        };
        rare(Rare::Reduce { how, d: self.dr(0)?, a: self.r(1)?, mask: self.r(2)? })
    }

    pub(super) fn pack64(&mut self, quarters: &[Operand<'_>]) -> Decoded {
        let mut slots = [0; 4];
        for (slot, quarter) in slots.iter_mut().zip(quarters) {
            match self.source32(Some(quarter)) {
                Some(found) => *slot = found,
                None => return self.missing(1, "four registers of 16 bits"),
            }
        }
        rare(Rare::Pack64 { d: self.dd(0)?, quarters: slots })
    }

    pub(super) fn unpack64(&mut self, quarters: &[Operand<'_>]) -> Decoded {
        let (low, high) = quarters.split_at(2);
        let ((first, second), (third, fourth)) = (self.halves(low)?, self.halves(high)?);
        let quarters: [Option<R>; 4] = [first, second, third, fourth];
        rare(Rare::Unpack64 { quarters, a: self.d(1)? })
    }
}

pub(super) fn rare(op: Rare) -> Decoded {
    Ok(Some(Op::Rare(Box::new(op))))
}
