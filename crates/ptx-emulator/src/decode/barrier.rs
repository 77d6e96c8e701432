//! Barriers of the block and of the warp.

use super::rare::rare;
use super::{Decoded, Decoder};
use crate::op::{Op, Rare, Tally};

impl Decoder<'_, '_> {
    pub(super) fn barrier(&mut self, parts: &[&str]) -> Decoded {
        let (wait, aligned) = match parts[..] {
            ["bar", "warp", "sync"] => return Ok(Some(Op::WarpBarrier { mask: self.r(0)? })),
            ["bar", "sync"] | ["bar", "cta", "sync"] => (true, true),
            ["barrier", "sync"] | ["barrier", "cta", "sync"] => (true, false),
            ["barrier", "sync", "aligned"] | ["barrier", "cta", "sync", "aligned"] => (true, true),
            ["bar", "arrive"] | ["bar", "cta", "arrive"] => (false, true),
            ["barrier", "arrive"] | ["barrier", "cta", "arrive"] => (false, false),
            ["barrier", "arrive", "aligned"] | ["barrier", "cta", "arrive", "aligned"] => (false, true),
            _ => return Ok(None),
        };
        let count = if self.count() > 1 { Some(self.r(1)?) } else { None };
        if !wait && count.is_none() {
            return self.error("a count of threads is missing");
        }
        Ok(Some(Op::Barrier { id: self.r(0)?, count, wait, aligned }))
    }

    /// `bar.red` and `barrier.red`: a barrier that counts the threads whose predicate holds.
    pub(super) fn barrier_reduce(&mut self, parts: &[&str]) -> Decoded {
        let plain: Vec<&str> = parts.iter().copied().filter(|part| *part != "cta" && *part != "aligned").collect();
        let d = match plain[1..] {
            ["red", "popc", "u32"] => Tally::Count(self.dr(0)?),
            ["red", "and", "pred"] => Tally::All(self.dp(0)?),
            ["red", "or", "pred"] => Tally::Any(self.dp(0)?),
            _ => return Ok(None),
        };
        let (count, source) = if self.count() > 3 { (Some(self.r(2)?), 3) } else { (None, 2) };
        let aligned = plain[0] == "bar" || parts.contains(&"aligned");
        rare(Rare::BarrierTally { d, id: self.r(1)?, count, source: self.p(source)?, aligned })
    }
}
