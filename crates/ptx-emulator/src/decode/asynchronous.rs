//! `cp.async` and its groups.

use super::rare::rare;
use super::{Decoded, Decoder};
use crate::exec::Until;
use crate::op::{CopyAsync, Rare};

impl Decoder<'_, '_> {
    pub(super) fn copy(&mut self, parts: &[&str]) -> Decoded {
        match parts[2..] {
            ["commit_group"] => rare(Rare::CloseGroup),
            ["wait_all"] => rare(Rare::WaitForCopies(Until::All)),
            ["wait_group"] => match self.statement.operands.first().and_then(|operand| self.constant(operand)) {
                Some(left) => rare(Rare::WaitForCopies(Until::Groups(left as u32))),
                None => self.missing(0, "a number"),
            },
            [level @ ("ca" | "cg"), "shared" | "shared::cta", "global"] => self.start_copy(level),
            [level @ ("ca" | "cg"), "shared" | "shared::cta", "global", "L2::64B" | "L2::128B" | "L2::256B"] => {
                self.start_copy(level)
            }
            _ => Ok(None),
        }
    }

    fn start_copy(&mut self, level: &str) -> Decoded {
        let bytes = match self.statement.operands.get(2).and_then(|operand| self.constant(operand)) {
            Some(16) => 16,
            Some(bytes @ (4 | 8)) if level == "ca" => bytes as usize,
            _ => return self.missing(2, "4, 8 or 16 (with .cg 16)"),
        };
        let (to, from) = (self.address(0)?, self.address(1)?);
        let copied = if self.count() > 3 { Some(self.r(3)?) } else { None };
        rare(Rare::CopyAsync(CopyAsync { to, from, bytes, copied }))
    }
}
