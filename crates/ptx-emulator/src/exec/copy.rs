//! Copies from global to shared memory that go on beside the thread (`cp.async`).
//!
//! A copy is done when the thread that started it waits for its group, not before: until then what it copies to is marked
//! as under way, so that every access there, by whatever thread, is a race. From the wait on it counts as a write of the
//! waiting thread, which other threads may read after a barrier, as with any write. That the source stays as it is
//! is seen at the wait, by comparing it with what it was.

use super::{Found, LANES, Machine, Warp, find, lanes};
use crate::access::{Spot, addresses};
use crate::op::{CopyAsync, Space};
use crate::report::Kind;
use crate::shadow::{IN_FLIGHT, Run, Touch};

/// A warp's copies that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    /// For each lane how many groups it has closed.
    closed: [u32; LANES],
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    lane: usize,
    /// The lane's group, counted from 0.
    group: u32,
    /// Byte of shared memory.
    to: usize,
    from: Option<Spot>,
    /// What stood at the source, then zeros.
    bytes: Vec<u8>,
    /// How many bytes come from the source.
    copied: usize,
}

/// Which of its copies a lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Those of all closed groups but so many of the newest.
    Groups(u32),
    /// All, also those of the open group.
    All,
}

impl Copies {
    /// At the start of a block: nothing is under way. Gives the places in shared memory that were left marked.
    pub fn clear(&mut self) -> impl Iterator<Item = (usize, usize)> {
        self.closed = [0; LANES];
        std::mem::take(&mut self.pending).into_iter().map(|copy| (copy.to, copy.bytes.len()))
    }
}

impl Machine<'_> {
    pub(super) fn start_copies(&mut self, warp: &mut Warp, copy: &CopyAsync, active: u32) -> Found<()> {
        let CopyAsync { to, from, bytes, copied } = *copy;
        let (to, from) = (addresses(warp, to), addresses(warp, from));
        for lane in lanes(active) {
            let wanted = copied.map_or(bytes, |slot| warp.r[slot as usize][lane] as usize);
            if wanted > bytes {
                return find(Kind::BadOperand, lane, format!("{wanted} bytes of the source for a copy of {bytes}"));
            }
            let source = match wanted {
                0 => None,
                _ => Some(self.place(lane, (Space::Global, from[lane]), bytes)?),
            };
            let mut data = vec![0; bytes];
            if let Some(spot) = source {
                self.sanitize(warp, spot, &Run::single(lane as u32, spot.start, wanted), Touch::Read)?;
                data[..wanted].copy_from_slice(&self.bytes(spot)[spot.start..spot.start + wanted]);
            }
            let target = self.check(warp, lane, (Space::Shared, to[lane]), bytes, Touch::Write)?.start;
            if self.sanitize {
                self.shared_shadow.set(target, bytes, IN_FLIGHT);
            }
            let group = warp.copies.closed[lane];
            let pending = Pending { lane, group, to: target, from: source, bytes: data, copied: wanted };
            warp.copies.pending.push(pending);
        }
        Ok(())
    }

    pub(super) fn close_group(&mut self, warp: &mut Warp, active: u32) {
        lanes(active).for_each(|lane| warp.copies.closed[lane] += 1);
    }

    pub(super) fn wait_for_copies(&mut self, warp: &mut Warp, until: Until, active: u32) -> Found<()> {
        let closed = warp.copies.closed;
        let waits = |copy: &Pending| {
            active >> copy.lane & 1 == 1
                && match until {
                    Until::Groups(left) => copy.group < closed[copy.lane].saturating_sub(left),
                    Until::All => true,
                }
        };
        let (done, rest) = std::mem::take(&mut warp.copies.pending).into_iter().partition(waits);
        warp.copies.pending = rest;
        let done: Vec<Pending> = done;
        for copy in done {
            self.finish_copy(warp, &copy)?;
        }
        Ok(())
    }

    fn finish_copy(&mut self, warp: &mut Warp, copy: &Pending) -> Found<()> {
        let Pending { lane, to, from, ref bytes, copied, .. } = *copy;
        if let Some(spot) = from
            && self.sanitize
            && self.bytes(spot)[spot.start..spot.start + copied] != bytes[..copied]
        {
            let whose = self.memory_name(spot);
            let detail = format!("{copied} bytes at {} of {whose} have changed while they were copied", spot.start);
            return find(Kind::Race, lane, detail);
        }
        self.shared[to..to + bytes.len()].copy_from_slice(bytes);
        if self.sanitize {
            let stamp = warp.order.stamp_of(&mut self.history, 1 << lane);
            self.shared_shadow.set(to, bytes.len(), stamp);
        }
        Ok(())
    }
}
