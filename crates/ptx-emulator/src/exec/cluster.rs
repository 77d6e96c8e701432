//! Clusters: blocks that run side by side, meet at a barrier of their own, and access each other's shared memory.
//!
//! To the sanitizer a cluster is what a block is otherwise: its warps have a clock each, numbered through, and other
//! clusters are not ordered at all. Each block's shared memory has its own shadow. The memory of the block that runs is at
//! hand in the machine, those of the others are parked here.
//!
//! An address of the cluster's window is an offset in a block's shared memory with the block's rank plus one above 24 bits;
//! without those bits it is in the block that uses it, since the window of a block is part of that of its cluster.

use super::{Flow, Found, Machine, Warp, find, lanes};
use crate::op::{R, Slot};
use crate::order::{Clock, Stamp};
use crate::report::{Finding, Kind};
use crate::shadow::SharedShadow;

/// Bits of an offset within a block's shared memory.
const OFFSET_BITS: u32 = 24;

/// The blocks that run side by side.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// The block that runs.
    pub rank: usize,
    pub peers: Vec<Peer>,
    barrier: ClusterBarrier,
    /// Threads of the cluster that have not exited, and that there were at the start.
    living: u32,
    threads: u32,
}

/// A block of the cluster.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Shared memory and its shadow, but for those of the block that runs.
    pub shared: Vec<u8>,
    pub shadow: SharedShadow,
    /// Warps that have not exited.
    warps: u32,
    /// What is in the past of its exit.
    past: Clock,
    /// Warps of other blocks that have accessed its shared memory, and at which tick of theirs they last did.
    visitors: Vec<(u32, u32)>,
}

#[derive(Debug, Default)]
struct ClusterBarrier {
    /// How often it was completed.
    generation: u64,
    /// Living threads that have arrived.
    arrived: u32,
    gathering: Meeting,
    done: Meeting,
}

/// What those who meet know together.
#[derive(Debug, Default)]
struct Meeting {
    past: Clock,
    fenced: Clock,
    /// The first segment after somebody's arrival: what is below is in the past of all.
    floor: Option<Stamp>,
    /// Somebody has arrived without releasing what is in its past.
    relaxed: bool,
}

impl Cluster {
    pub fn new(blocks: usize, shared: usize, shadow: impl Fn(usize) -> SharedShadow) -> Cluster {
        let peer = |rank| Peer {
            // The first block's memory is at hand.
            shared: if rank == 0 { Vec::new() } else { vec![0xff; shared] },
            shadow: if rank == 0 { SharedShadow::new(0, 0) } else { shadow(rank) },
            warps: 0,
            past: Clock::default(),
            visitors: Vec::new(),
        };
        Cluster { peers: (0..blocks).map(peer).collect(), ..Cluster::default() }
    }

    /// Before the blocks start, of so many warps and threads each.
    pub fn start(&mut self, warps: u32, threads: u32) {
        self.barrier = ClusterBarrier::default();
        self.threads = threads * self.peers.len() as u32;
        self.living = self.threads;
        for (rank, peer) in self.peers.iter_mut().enumerate() {
            if rank != self.rank {
                peer.shared.fill(0xff);
            }
            (peer.warps, peer.past) = (warps, Clock::default());
            peer.visitors.clear();
        }
    }

    /// The block of a cluster address, and the offset in its shared memory. `None` is the block that uses the address.
    pub fn split(&self, address: u64) -> (Option<usize>, u64) {
        let rank = (address >> OFFSET_BITS) as usize;
        let offset = address & ((1 << OFFSET_BITS) - 1);
        match rank.checked_sub(1) {
            Some(rank) if rank != self.rank => (Some(rank), offset),
            _ => (None, offset),
        }
    }

    /// Whether all of a block's threads have exited.
    pub fn is_gone(&self, rank: usize) -> bool {
        self.peers[rank].warps == 0
    }

    /// A warp accesses the shared memory of another block at this tick. `warp` may stand for what goes on beside it.
    pub fn visit(&mut self, rank: usize, warp: u32, tick: u32) {
        let visitors = &mut self.peers[rank].visitors;
        match visitors.iter_mut().find(|visitor| visitor.0 == warp) {
            Some(visitor) => visitor.1 = visitor.1.max(tick),
            None => visitors.push((warp, tick)),
        }
    }

    /// Lanes of a warp exit.
    #[inline(never)]
    pub fn exit(&mut self, warp: &Warp, gone: u32) {
        self.living -= gone.count_ones();
        if warp.arrived.is_some() {
            self.barrier.arrived -= gone.count_ones();
        }
        // Nobody waits any longer for those who have gone.
        self.barrier.complete(self.living);
    }
}

impl ClusterBarrier {
    fn complete(&mut self, living: u32) {
        if self.arrived >= living && living > 0 {
            self.generation += 1;
            self.arrived = 0;
            self.done = std::mem::take(&mut self.gathering);
        }
    }
}

impl Machine<'_> {
    /// A lane accesses the shared memory of another block, which must be known to have started.
    pub fn visit(&mut self, warp: &Warp, rank: usize, lane: u32) -> Found<()> {
        let per_block = self.warps_per_block as usize;
        let theirs = warp.order.past.own.get(rank * per_block..(rank + 1) * per_block).unwrap_or_default();
        if theirs.iter().all(|tick| *tick == 0) {
            let detail =
                format!("block {rank} of the cluster may not have started: no barrier of the cluster came before");
            return find(Kind::BlockAbsent, lane as usize, detail);
        }
        self.cluster.visit(rank, warp.order.warp, warp.order.now());
        Ok(())
    }

    /// Puts the shared memory of a block at hand.
    pub fn enter(&mut self, rank: usize) {
        let old = self.cluster.rank;
        if rank != old {
            for at in [old, rank] {
                std::mem::swap(&mut self.shared, &mut self.cluster.peers[at].shared);
                std::mem::swap(&mut self.shared_shadow, &mut self.cluster.peers[at].shadow);
            }
            self.cluster.rank = rank;
        }
    }

    /// A warp of the running block has exited. With the last one its shared memory is gone, so that nothing may be unsettled
    /// there: each access by another block must be in the past of the exit, by a barrier of the cluster after it.
    pub fn leave(&mut self, warp: &Warp) -> Found<()> {
        let rank = self.cluster.rank;
        let peer = &mut self.cluster.peers[rank];
        peer.warps -= 1;
        peer.past.join(&warp.order.past);
        if peer.warps > 0 || !self.sanitize {
            return Ok(());
        }
        let past = &peer.past.own;
        let known = |visitor: &&(u32, u32)| past.get(visitor.0 as usize).is_some_and(|tick| *tick >= visitor.1);
        let unknown = peer.visitors.iter().find(|visitor| !known(visitor)).copied();
        match unknown {
            None => Ok(()),
            Some((visitor, _)) => {
                let (first, block) = self.threads_of(visitor);
                let detail = format!(
                    "one of the threads {first} to {} of {block} may access its shared memory later: no barrier of the \
                     cluster is in between",
                    first + 31
                );
                find(Kind::BlockAbsent, 0, detail)
            }
        }
    }

    /// The first thread of a warp of the cluster, and what a report calls its block.
    pub fn threads_of(&self, warp: u32) -> (u32, String) {
        let per_block = self.warps_per_block;
        let warp = warp % (per_block * self.cluster.peers.len() as u32);
        let block = match self.cluster.peers.len() {
            1 => "the block".to_string(),
            _ => format!("block {} of the cluster", warp / per_block),
        };
        (warp % per_block * 32, block)
    }

    pub(super) fn map_address(&self, warp: &mut Warp, (d, a, rank): (Slot, Slot, R), active: u32) -> Found<()> {
        for lane in lanes(active) {
            let rank = u64::from(warp.r[rank as usize][lane]);
            if rank >= self.cluster.peers.len() as u64 {
                let blocks = self.cluster.peers.len();
                return find(Kind::BadOperand, lane, format!("rank {rank} in a cluster of {blocks} blocks"));
            }
            let window = ((1u64 << OFFSET_BITS) - 1) | !0u64 << 32;
            let address = warp.get(a, lane) & window | (rank + 1) << OFFSET_BITS;
            warp.set(d, lane, address);
        }
        Ok(())
    }

    pub(super) fn rank_of(&self, warp: &mut Warp, d: R, a: Slot, active: u32) {
        for lane in lanes(active) {
            let (rank, _) = self.cluster.split(warp.get(a, lane) & u64::from(u32::MAX));
            warp.r[d as usize][lane] = rank.unwrap_or(self.cluster.rank) as u32;
        }
    }

    pub(super) fn cluster_arrive(&mut self, warp: &mut Warp, relaxed: bool, active: u32) -> Found<()> {
        let barrier = &mut self.cluster.barrier;
        if warp.arrived.is_some() {
            let lane = active.trailing_zeros() as usize;
            return find(Kind::BadOperand, lane, "arrives again without having waited".to_string());
        }
        warp.arrived = Some(barrier.generation);
        barrier.arrived += active.count_ones();
        let meeting = &mut barrier.gathering;
        if !relaxed {
            meeting.past.join(&warp.order.past);
            meeting.fenced.join(&warp.order.fenced);
        }
        meeting.relaxed |= relaxed;
        warp.order.tick_apart(&mut self.history);
        let floor = meeting.floor.unwrap_or(warp.order.stamp);
        meeting.floor = Some(floor.min(warp.order.stamp));
        barrier.complete(self.cluster.living);
        Ok(())
    }

    pub(super) fn cluster_wait(&mut self, warp: &mut Warp, active: u32) -> Found<Flow> {
        let barrier = &self.cluster.barrier;
        let Some(generation) = warp.arrived else {
            let lane = active.trailing_zeros() as usize;
            return find(Kind::BadOperand, lane, "waits without having arrived".to_string());
        };
        if barrier.generation == generation {
            return Ok(Flow::Retry);
        }
        let Meeting { past, fenced, floor, relaxed } = &barrier.done;
        let all = !relaxed && self.floors && self.cluster.living == self.cluster.threads;
        (warp.arrived, warp.asking) = (None, false);
        warp.order.leave_barrier(&mut self.history, past, fenced, (floor.filter(|_| all), u32::MAX));
        Ok(Flow::Next)
    }
}

/// The report when everybody who is left waits in vain.
pub(crate) fn waits_in_vain(warp: &Warp) -> Finding {
    let detail = "every thread that is left waits for others".to_string();
    Finding { kind: Kind::Deadlock, lane: warp.alive.trailing_zeros() % 32, detail }
}
