//! Forms that are seldom met, and fit no family.

use super::{Decoded, Decoder, Operand};
use crate::op::{Op, R, Rare};

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
