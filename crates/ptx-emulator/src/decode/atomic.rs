//! Atomics, and loads and stores with an order of their own.

use super::rare::rare;
use super::{Decoded, Decoder, Operand, type_size};
use crate::narrow::Format;
use crate::op::{Access, Atomic, Op, Rare, Slot, Space};
use crate::report::Error;

impl Decoder<'_, '_> {
    pub(super) fn atomic(&mut self, parts: &[&str]) -> Decoded {
        let wants_old = parts[0] == "atom";
        let [_, qualifiers @ .., name, ty] = parts else { return Ok(None) };
        let (qualifiers, name) = match (qualifiers, *name) {
            ([qualifiers @ .., name], "noftz") => (qualifiers, *name),
            (qualifiers, name) => (qualifiers, name),
        };
        let (mut space, mut releases) = (Space::Generic, false);
        for qualifier in qualifiers {
            match *qualifier {
                "global" => space = Space::Global,
                "shared" | "shared::cta" => space = Space::Shared,
                "shared::cluster" => space = Space::Cluster,
                // Every atomic learns of what was released at its place, so that acquiring needs nothing more.
                "cluster" | "relaxed" | "acquire" | "gpu" | "cta" | "sys" => {}
                "release" | "acq_rel" => releases = true,
                _ => return Ok(None),
            }
        }
        let op = match (name, *ty) {
            ("add", "u32" | "s32" | "u64") => Atomic::Add,
            ("add", "f32") => Atomic::AddFloat,
            ("add", "f64") => Atomic::AddDouble,
            ("add", "f16x2") => Atomic::AddPair(Format::F16),
            ("add", "bf16x2") => Atomic::AddPair(Format::Bf16),
            ("min", "s32" | "s64") => Atomic::MinSigned,
            ("min", "u32" | "u64") => Atomic::MinUnsigned,
            ("max", "s32" | "s64") => Atomic::MaxSigned,
            ("max", "u32" | "u64") => Atomic::MaxUnsigned,
            ("and", "b32" | "b64") => Atomic::And,
            ("or", "b32" | "b64") => Atomic::Or,
            ("xor", "b32" | "b64") => Atomic::Xor,
            ("inc", "u32") => Atomic::Inc,
            ("dec", "u32") => Atomic::Dec,
            ("exch", "b32" | "b64") if wants_old => Atomic::Exchange,
            ("cas", "b32" | "b64") if wants_old => Atomic::CompareExchange,
            _ => return Ok(None),
        };
        let size = type_size(ty).unwrap_or(4) as u8;
        let wide = size == 8;
        let first = usize::from(wants_old);
        let value = |decoder: &mut Self, index| {
            Ok::<_, Error>(if wide { Slot::D(decoder.d(index)?) } else { Slot::R(decoder.r(index)?) })
        };
        let operand = value(self, first + 1)?;
        let swap = if op == Atomic::CompareExchange { value(self, first + 2)? } else { operand };
        let ignored = matches!(self.statement.operands.first(), Some(Operand::Word { word: "_", .. }));
        let wants_old = wants_old && !ignored;
        let old = if wants_old { self.any_target(0)? } else { operand };
        let access = Access { space, size, signed: false, count: 1, slots: [old; 4], address: self.address(first)? };
        let atomic = Op::Atomic { op, access: Box::new(access), operand, swap, wants_old };
        if releases { rare(Rare::Release(atomic)) } else { Ok(Some(atomic)) }
    }

    /// `ld.acquire`, `st.release` and their relaxed forms: atomics that change nothing, or take the value as it is. What
    /// they access must hold something, also before such a store.
    pub(super) fn strong(&mut self, parts: &[&str]) -> Decoded {
        let [name, order, qualifiers @ .., ty] = parts else { return Ok(None) };
        let load = *name == "ld";
        let releases = match (*order, load) {
            ("relaxed", _) | ("acquire", true) => false,
            ("release", false) => true,
            _ => return Ok(None),
        };
        let mut space = Space::Generic;
        for qualifier in qualifiers {
            match *qualifier {
                "global" => space = Space::Global,
                "shared" | "shared::cta" => space = Space::Shared,
                "shared::cluster" => space = Space::Cluster,
                "cta" | "cluster" | "gpu" | "sys" => {}
                _ => return Ok(None),
            }
        }
        let Some(size @ (4 | 8)) = type_size(ty) else { return Ok(None) };
        let (place, value) = if load { (1, 0) } else { (0, 1) };
        let operand = match (load, size) {
            (true, 8) => Slot::D(self.names.constant64(0)),
            (true, _) => Slot::R(self.names.constant32(0)),
            (false, 8) => Slot::D(self.d(value)?),
            (false, _) => Slot::R(self.r(value)?),
        };
        let op = if load { Atomic::Or } else { Atomic::Exchange };
        let old = if load { self.any_target(0)? } else { operand };
        let address = self.address(place)?;
        let access = Access { space, size: size as u8, signed: false, count: 1, slots: [old; 4], address };
        let atomic = Op::Atomic { op, access: Box::new(access), operand, swap: operand, wants_old: load };
        if releases { rare(Rare::Release(atomic)) } else { Ok(Some(atomic)) }
    }
}
