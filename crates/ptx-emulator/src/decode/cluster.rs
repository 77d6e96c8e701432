//! Clusters: barriers, addresses of other blocks, `mbarrier` and `st.async`.

use super::rare::rare;
use super::{Decoded, Decoder, Operand, type_size};
use crate::op::{Access, D, Mbarrier, Phase, Rare, Slot, Space};
use crate::report::Error;

impl Decoder<'_, '_> {
    /// `barrier.cluster.arrive` and `.wait`. The unaligned forms are met by whole warps all the same.
    pub(super) fn cluster_barrier(&mut self, parts: &[&str]) -> Decoded {
        match parts[2..] {
            ["arrive"] | ["arrive", "aligned"] | ["arrive", "release"] | ["arrive", "release", "aligned"] => {
                rare(Rare::ClusterArrive { relaxed: false })
            }
            ["arrive", "relaxed"] | ["arrive", "relaxed", "aligned"] => rare(Rare::ClusterArrive { relaxed: true }),
            ["wait"] | ["wait", "aligned"] | ["wait", "acquire"] | ["wait", "acquire", "aligned"] => {
                rare(Rare::ClusterWait)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn cluster_address(&mut self, parts: &[&str]) -> Decoded {
        match parts {
            ["mapa", "u32"] | ["mapa", "shared::cluster", "u32"] => {
                rare(Rare::MapAddress { d: Slot::R(self.dr(0)?), a: Slot::R(self.r(1)?), rank: self.r(2)? })
            }
            ["mapa", "u64"] | ["mapa", "shared::cluster", "u64"] => {
                rare(Rare::MapAddress { d: Slot::D(self.dd(0)?), a: Slot::D(self.d(1)?), rank: self.r(2)? })
            }
            ["getctarank", "u32"] | ["getctarank", "shared::cluster", "u32"] => {
                rare(Rare::RankOf { d: self.dr(0)?, a: Slot::R(self.r(1)?) })
            }
            ["getctarank", "u64"] | ["getctarank", "shared::cluster", "u64"] => {
                rare(Rare::RankOf { d: self.dr(0)?, a: Slot::D(self.d(1)?) })
            }
            _ => Ok(None),
        }
    }

    pub(super) fn mbarrier(&mut self, parts: &[&str]) -> Decoded {
        let [_, op, qualifiers @ .., "b64"] = parts else { return Ok(None) };
        let (mut space, mut relaxed, mut parity, mut expects) = (Space::Generic, false, false, false);
        for qualifier in qualifiers {
            match (*qualifier, *op) {
                ("shared" | "shared::cta", _) => space = Space::Shared,
                ("shared::cluster", "arrive" | "expect_tx") => space = Space::Cluster,
                ("release", "arrive") | ("acquire", "test_wait" | "try_wait") | ("cta" | "cluster", _) => {}
                ("relaxed", "arrive" | "expect_tx" | "test_wait" | "try_wait") => relaxed = true,
                ("parity", "test_wait" | "try_wait") => parity = true,
                ("expect_tx", "arrive") => expects = true,
                _ => return Ok(None),
            }
        }
        let (op, at) = match *op {
            "init" => (Mbarrier::Init { count: self.r(1)? }, 0),
            "inval" => (Mbarrier::Invalidate, 0),
            "expect_tx" => (Mbarrier::Expect { bytes: self.r(1)? }, 0),
            "arrive" => {
                // The state may be left out, or dropped by an underscore.
                let at = usize::from(!matches!(self.statement.operands.first(), Some(Operand::Address(..))));
                let state = if at == 1 { self.state()? } else { None };
                let last = if self.count() > at + 1 { Some(self.r(at + 1)?) } else { None };
                let (count, bytes) = if expects { (None, last) } else { (last, None) };
                if expects && bytes.is_none() {
                    return self.missing(at + 1, "a count of bytes");
                }
                (Mbarrier::Arrive { count, bytes, relaxed, state }, at)
            }
            "test_wait" | "try_wait" => {
                let phase = if parity { Phase::Parity(self.r(2)?) } else { Phase::State(self.d(2)?) };
                (Mbarrier::Test { d: self.dp(0)?, phase, relaxed }, 1)
            }
            _ => return Ok(None),
        };
        rare(Rare::Mbarrier { op, space, address: self.address(at)? })
    }

    fn state(&mut self) -> Result<Option<D>, Error> {
        match self.statement.operands.first() {
            Some(Operand::Word { word: "_", .. }) => Ok(None),
            _ => Ok(Some(self.dd(0)?)),
        }
    }

    pub(super) fn store_async(&mut self, parts: &[&str]) -> Decoded {
        let (wanted, ty) = match parts[2..] {
            ["shared::cluster", "mbarrier::complete_tx::bytes", ty] => (1, ty),
            ["shared::cluster", "mbarrier::complete_tx::bytes", "v2", ty] => (2, ty),
            ["shared::cluster", "mbarrier::complete_tx::bytes", "v4", ty] => (4, ty),
            ["weak", "shared::cluster", "mbarrier::complete_tx::bytes", ty] => (1, ty),
            ["weak", "shared::cluster", "mbarrier::complete_tx::bytes", "v2", ty] => (2, ty),
            ["weak", "shared::cluster", "mbarrier::complete_tx::bytes", "v4", ty] => (4, ty),
            _ => return Ok(None),
        };
        let Some(size @ (4 | 8)) = type_size(ty) else { return Ok(None) };
        let (slots, count) = self.elements(1, size as u8, false)?;
        if count != wanted {
            return self.missing(1, &format!("{wanted} registers"));
        }
        let (address, barrier) = (self.address(0)?, self.address(2)?);
        let access = Access { space: Space::Cluster, size: size as u8, signed: false, count, slots, address };
        rare(Rare::StoreAsync { access, barrier })
    }
}
