//! `mma`, `ldmatrix` and `movmatrix`.

use super::rare::rare;
use super::{Decoded, Decoder, Operand};
use crate::mma::MmaShape;
use crate::names::Register;
use crate::narrow::Format;
use crate::op::{Mma, R, Rare};
use crate::report::Error;

impl Decoder<'_, '_> {
    pub(super) fn tensor(&mut self, parts: &[&str]) -> Decoded {
        match parts {
            ["mma", "sync", "aligned", size, "row", "col", "f32", a, b, "f32"] if a == b => self.mma(size, a),
            ["ldmatrix", "sync", "aligned", "m8n8", count, "shared" | "shared::cta", "b16"] => {
                self.load_matrix(count, false)
            }
            ["ldmatrix", "sync", "aligned", "m8n8", count, "trans", "shared" | "shared::cta", "b16"] => {
                self.load_matrix(count, true)
            }
            ["movmatrix", "sync", "aligned", "m8n8", "trans", "b16"] => {
                rare(Rare::MoveMatrix { d: self.dr(0)?, a: self.r(1)? })
            }
            _ => Ok(None),
        }
    }

    fn mma(&mut self, size: &str, ty: &str) -> Decoded {
        let (format, depth) = match (size, ty) {
            ("m16n8k16", "bf16") => (Format::Bf16, 16),
            ("m16n8k8", "bf16") => (Format::Bf16, 8),
            ("m16n8k16", "f16") => (Format::F16, 16),
            ("m16n8k8", "f16") => (Format::F16, 8),
            ("m16n8k8", "tf32") => (Format::Tf32, 8),
            ("m16n8k4", "tf32") => (Format::Tf32, 4),
            _ => return Ok(None),
        };
        let shape = MmaShape { format, depth };
        let d = self.fragment(0, 4, true)?;
        let a = self.fragment(1, shape.a_registers(), false)?;
        let [b0, b1, ..] = self.fragment(2, shape.b_registers(), false)?;
        rare(Rare::Mma(Mma { shape, d, a, b: [b0, b1], c: self.fragment(3, 4, false)? }))
    }

    fn load_matrix(&mut self, count: &str, transpose: bool) -> Decoded {
        let count = match count {
            "x1" => 1,
            "x2" => 2,
            "x4" => 4,
            _ => return Ok(None),
        };
        let slots = self.fragment(0, count, true)?;
        rare(Rare::LoadMatrix { slots, count: count as u32, transpose, address: self.address(1)? })
    }

    /// The registers of a fragment, of which there must be exactly so many; the rest of the four repeat the last.
    fn fragment(&mut self, index: usize, count: usize, written: bool) -> Result<[R; 4], Error> {
        let statement = self.statement;
        let list = match statement.operands.get(index) {
            Some(Operand::Vector(list)) => &list[..],
            Some(single) => std::slice::from_ref(single),
            None => &[],
        };
        if list.len() != count {
            return self.missing(index, &format!("{count} registers"));
        }
        let mut slots = [0; 4];
        for i in 0..4 {
            let operand = &list[i.min(count - 1)];
            let found = match (self.target(Some(operand)), written) {
                (Some(Register::R(slot)), _) => Some(slot),
                (_, true) => None,
                (_, false) => self.source32(Some(operand)),
            };
            match found {
                Some(slot) => slots[i] = slot,
                None => return self.missing(index, "registers of 32 bits"),
            }
        }
        Ok(slots)
    }
}
