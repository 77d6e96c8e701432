//! Barriers in shared memory (`mbarrier`), and stores that such a barrier announces (`st.async`).
//!
//! A phase is over when all expected arrivals and all announced bytes have come. Who sees that by a test has then in its
//! past what is in the past of those who arrived. What `st.async` stores is under way until the phase that it counts for is
//! over: an access before is a race, and so is one by a thread that has learnt of it by no test, however much else it knows.
//! That is why such a store has a clock of its own, beside that of its warp.
//!
//! The completion of an `st.async` releases what the storing thread did before it, as the manual gives it `.release`.

use std::collections::HashMap;

use super::{Flow, Found, Machine, Warp, find, lanes};
use crate::access::{Spot, addresses};
use crate::op::{Access, Address, Mbarrier, Phase, Slot, Space};
use crate::order::{Clock, Stamp};
use crate::report::Kind;
use crate::shadow::{IN_FLIGHT, Run, Touch};

/// All barriers of a cluster: by rank of the block and byte of its shared memory.
pub(crate) type Mbarriers = HashMap<(usize, usize), State>;

/// A barrier in shared memory.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Arrivals that a phase takes, and that are still to come.
    expected: u32,
    pending: u32,
    /// Bytes that are announced and have not come; negative when they came first.
    bytes: i64,
    /// Phases that are over.
    phase: u64,
    gathering: Clock,
    done: Clock,
    stores: Vec<Store>,
    /// Who made it: all others must have learnt of that before they use it.
    made: Stamp,
}

/// A store that is under way.
#[derive(Debug)]
struct Store {
    to: Spot,
    bytes: Vec<u8>,
    stamp: Stamp,
}

impl State {
    /// Ends the phase if all have come, and gives the stores that are then done.
    fn complete(&mut self) -> Vec<Store> {
        if self.pending > 0 || self.bytes != 0 {
            return Vec::new();
        }
        self.phase += 1;
        self.pending = self.expected;
        self.done.join(&std::mem::take(&mut self.gathering));
        std::mem::take(&mut self.stores)
    }
}

impl Machine<'_> {
    /// Forgets all barriers at the end of a cluster, and the marks of stores that were still under way.
    pub fn clear_mbarriers(&mut self) {
        for (_, state) in std::mem::take(&mut self.mbarriers) {
            for store in state.stores {
                self.set_stamp(store.to, store.bytes.len(), 0);
            }
        }
    }

    pub(super) fn mbarrier(
        &mut self,
        warp: &mut Warp,
        op: &Mbarrier,
        (space, address): (Space, Address),
        active: u32,
    ) -> Found<Flow> {
        let addresses = addresses(warp, address);
        let (mut moved, mut passed) = (false, false);
        for lane in lanes(active) {
            let at = (space, addresses[lane]);
            match *op {
                Mbarrier::Init { count } => {
                    let key = self.mbarrier_key(warp, lane, at, Touch::Write)?;
                    let expected = warp.r[count as usize][lane];
                    if expected == 0 || expected >= 1 << 20 {
                        return find(Kind::BadOperand, lane, format!("a count of {expected}"));
                    }
                    let made = warp.order.stamp_of(&mut self.history, 1 << lane);
                    self.mbarriers.insert(key, State { expected, pending: expected, made, ..State::default() });
                }
                Mbarrier::Invalidate => {
                    let key = self.mbarrier_key(warp, lane, at, Touch::Write)?;
                    self.mbarriers.remove(&key);
                }
                Mbarrier::Arrive { count, bytes, relaxed, state } => {
                    let key = self.mbarrier_key(warp, lane, at, Touch::Atomic)?;
                    let count = count.map_or(1, |slot| warp.r[slot as usize][lane]);
                    let bytes = bytes.map_or(0, |slot| warp.r[slot as usize][lane]);
                    let phase = self.arrive_at(warp, lane, key, (count, bytes, relaxed))?;
                    state.into_iter().for_each(|slot| warp.d[slot as usize][lane] = phase);
                    moved = true;
                }
                Mbarrier::Expect { bytes } => {
                    let key = self.mbarrier_key(warp, lane, at, Touch::Atomic)?;
                    let bytes = warp.r[bytes as usize][lane];
                    self.state(lane, key)?.bytes += i64::from(bytes);
                    moved = true;
                }
                Mbarrier::Test { d, phase, relaxed } => {
                    let key = self.mbarrier_key(warp, lane, at, Touch::Atomic)?;
                    let over = match phase {
                        Phase::Parity(slot) => {
                            u64::from(warp.r[slot as usize][lane] & 1) != self.state(lane, key)?.phase & 1
                        }
                        Phase::State(slot) => warp.d[slot as usize][lane] < self.state(lane, key)?.phase,
                    };
                    warp.set_pred(d, 1 << lane, if over { u32::MAX } else { 0 });
                    passed |= over;
                    if over
                        && !relaxed
                        && let Some(state) = self.mbarriers.get(&key)
                    {
                        warp.order.learn(&mut self.history, &state.done);
                    }
                }
            }
        }
        warp.asking &= !passed;
        if moved {
            // What follows is not part of what was released.
            warp.order.tick_apart(&mut self.history);
        }
        Ok(if matches!(op, Mbarrier::Test { .. }) && !passed { Flow::Yield } else { Flow::Next })
    }

    /// The barrier that a lane means, by an address that is checked like that of any access.
    fn mbarrier_key(&mut self, warp: &mut Warp, lane: usize, at: (Space, u64), touch: Touch) -> Found<(usize, usize)> {
        let spot = self.check(warp, lane, at, 8, touch)?;
        let key = match spot.space {
            Space::Shared => (self.cluster.rank, spot.start),
            Space::Cluster => (spot.number, spot.start),
            _ => return find(Kind::BadOperand, lane, "an mbarrier outside shared memory".to_string()),
        };
        if self.sanitize
            && let Some(state) = self.mbarriers.get(&key)
            && !warp.order.ordered(&self.history, state.made, 1 << lane)
        {
            let (first, block) = self.threads_of(self.history.segment(state.made).warp);
            let detail = format!(
                "uses the mbarrier at {} before it is known that warp {} of {block} has made it",
                key.1,
                first / 32
            );
            return find(Kind::Race, lane, detail);
        }
        Ok(key)
    }

    fn state(&mut self, lane: usize, key: (usize, usize)) -> Found<&mut State> {
        match self.mbarriers.get_mut(&key) {
            Some(state) => Ok(state),
            None => find(Kind::BadOperand, lane, format!("no mbarrier was made at {} of shared memory", key.1)),
        }
    }

    /// Gives the phase that the arrival counts for.
    fn arrive_at(
        &mut self,
        warp: &Warp,
        lane: usize,
        key: (usize, usize),
        (count, bytes, relaxed): (u32, u32, bool),
    ) -> Found<u64> {
        let state = self.state(lane, key)?;
        if count == 0 || count > state.pending {
            let detail = format!("{count} arrivals, where {} are still to come", state.pending);
            return find(Kind::BadOperand, lane, detail);
        }
        let phase = state.phase;
        state.pending -= count;
        state.bytes += i64::from(bytes);
        if !relaxed {
            state.gathering.join(&warp.order.past);
        }
        let done = state.complete();
        self.finish_stores(done);
        Ok(phase)
    }

    /// `st.async`: stores into a block of the cluster, and counts its bytes for a barrier there.
    pub(super) fn store_async(&mut self, warp: &mut Warp, access: &Access, barrier: Address, active: u32) -> Found<()> {
        let (to, barriers) = (addresses(warp, access.address), addresses(warp, barrier));
        let (size, bytes) = (access.size as usize, access.size as usize * access.count as usize);
        for lane in lanes(active) {
            let spot = self.place(lane, (Space::Cluster, to[lane]), bytes)?;
            let key = self.mbarrier_key(warp, lane, (Space::Cluster, barriers[lane]), Touch::Atomic)?;
            let rank = if spot.space == Space::Cluster { spot.number } else { self.cluster.rank };
            if rank != key.0 {
                return find(Kind::BadOperand, lane, "the mbarrier is in another block than the data".to_string());
            }
            self.sanitize(warp, spot, &Run::single(lane as u32, spot.start, bytes), Touch::Write)?;
            self.set_stamp(spot, bytes, IN_FLIGHT);
            warp.sent += 1;
            let (warps, tick) = (self.warps_per_block * self.cluster.peers.len() as u32, warp.sent);
            let beside = warps + warp.order.warp;
            if spot.space == Space::Cluster {
                self.cluster.visit(rank, beside, tick);
            }
            let stamp = warp.order.stamp_beside(&mut self.history, (beside, tick), lane as u32);
            let data = access.slots[..access.count as usize].iter();
            let data = data.flat_map(|slot: &Slot| warp.get(*slot, lane).to_le_bytes()[..size].to_vec()).collect();
            let spot = Spot { space: Space::Cluster, number: rank, ..spot };
            let state = self.state(lane, key)?;
            state.bytes -= bytes as i64;
            state.gathering.join(&warp.order.past);
            state.gathering.note(beside, tick);
            state.stores.push(Store { to: spot, bytes: data, stamp });
            let done = state.complete();
            self.finish_stores(done);
        }
        warp.order.tick_apart(&mut self.history);
        Ok(())
    }

    fn finish_stores(&mut self, done: Vec<Store>) {
        for Store { to, bytes, stamp } in done {
            let shared = if to.number == self.cluster.rank {
                &mut self.shared
            } else {
                &mut self.cluster.peers[to.number].shared
            };
            shared[to.start..to.start + bytes.len()].copy_from_slice(&bytes);
            self.set_stamp(to, bytes.len(), stamp);
        }
    }

    /// Makes a checked write's stamp that of some bytes of a block of the cluster.
    fn set_stamp(&mut self, spot: Spot, bytes: usize, stamp: Stamp) {
        if !self.sanitize {
            return;
        }
        let own = spot.space == Space::Shared || spot.number == self.cluster.rank;
        let shadow = if own { &mut self.shared_shadow } else { &mut self.cluster.peers[spot.number].shadow };
        shadow.set(spot.start, bytes, stamp);
    }
}
