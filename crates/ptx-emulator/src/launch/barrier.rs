//! The barriers of a block, which has sixteen.

use super::Launch;
use crate::exec::{Arrival, Asked, LANES, Warp, lanes};
use crate::op::Tally;
use crate::order::Clock;
use crate::report::{Error, Finding, Kind};

/// All barriers of a block.
pub(super) type Barriers = [Barrier; 16];

/// A barrier of the block.
#[derive(Default)]
pub(super) struct Barrier {
    /// Threads that have arrived, and that it takes.
    arrived: u32,
    expected: u32,
    past: Clock,
    fenced: Clock,
    /// Threads that say yes, and that were asked.
    ayes: u32,
    asked: u32,
}

impl Launch<'_> {
    /// Lanes arrive at a barrier; the last ones let all go on, each with the others' work in its past.
    ///
    /// Clocks are those of whole warps: lanes that arrive alone bring their warp's past along, and their warp learns of
    /// the others' when they leave.
    pub(super) fn arrive(
        &mut self,
        barriers: &mut Barriers,
        index: usize,
        arrival: Arrival,
        threads: u32,
    ) -> Result<(), Finding> {
        let Arrival { id, count, wait, aligned, lanes } = arrival;
        let warp = &mut self.warps[index];
        let whole = threads.next_multiple_of(LANES as u32);
        let expected = count.unwrap_or(whole);
        let bad = |detail| Err(Finding { kind: Kind::BadOperand, lane: lanes.trailing_zeros(), detail });
        let Some(barrier) = barriers.get_mut(id as usize) else {
            return bad(format!("there is no barrier {id}"));
        };
        if expected == 0 || expected % LANES as u32 != 0 || expected > whole {
            return bad(format!("a count of {expected} threads in a block of {threads}"));
        }
        if barrier.arrived > 0 && barrier.expected != expected {
            return bad(format!("{expected} threads expected here, {} by another warp", barrier.expected));
        }
        barrier.expected = expected;
        barrier.arrived += if aligned { LANES as u32 } else { arriving(lanes, warp.index, threads) };
        if let Some(asked) = warp.tallies.iter().find(|asked| asked.id == id && asked.lanes == lanes) {
            barrier.ayes += asked.ayes.count_ones();
            barrier.asked += lanes.count_ones();
        }
        barrier.past.join(&warp.order.past);
        barrier.fenced.join(&warp.order.fenced);
        if !aligned {
            warp.order.tick_apart(&mut self.machine.history);
        } else if !wait {
            warp.order.meet(&mut self.machine.history);
        }
        if wait {
            warp.waits.push((id, lanes));
            warp.asleep |= lanes;
        }
        if barrier.arrived >= barrier.expected {
            let done = std::mem::take(barrier);
            self.release(self.rank(index), id, &done);
        }
        Ok(())
    }

    /// The warps of a block that wait at a barrier go on.
    fn release(&mut self, rank: usize, id: u32, done: &Barrier) {
        // When the barrier knows of all that every warp has done, numbers below the next one need no clock any more.
        let all = self.warps.iter().zip(&done.past.own).all(|(warp, tick)| warp.order.now() == *tick);
        let floor = (all && self.machine.floors).then(|| self.machine.history.next());
        let per_block = self.machine.warps_per_block as usize;
        for warp in &mut self.warps[rank * per_block..][..per_block] {
            let lanes = warp.waits.iter().filter(|wait| wait.0 == id).fold(0, |lanes, wait| lanes | wait.1);
            if lanes != 0 {
                warp.waits.retain(|wait| wait.0 != id);
                tell(warp, id, done);
                warp.asleep &= !lanes;
                // Lanes that have exited keep nobody waiting, and what they did is over.
                let lanes = lanes | !warp.alive;
                warp.order.leave_barrier(&mut self.machine.history, &done.past, &done.fenced, (floor, lanes));
            }
        }
    }

    /// No warp can run: the block has ended, or those that are left wait in vain.
    pub(super) fn rest(&self, barriers: &[Barriers]) -> Result<(), Error> {
        let warps = || self.warps.iter().enumerate();
        let waits = || warps().flat_map(|(index, warp)| warp.waits.iter().map(move |wait| (index, wait)));
        let Some((first, &(id, lanes))) = waits().next() else { return Ok(()) };
        let rank = self.rank(first);
        let barrier = &barriers[rank][id as usize];
        let others_wait = waits().any(|(index, wait)| wait.0 != id || self.rank(index) != rank)
            || self.warps.iter().any(|warp| warp.blocked != 0);
        let (kind, why) = if others_wait {
            (Kind::Deadlock, "the others wait elsewhere")
        } else {
            (Kind::DivergentBarrier, "the others have exited")
        };
        let detail = format!("{} of {} threads at barrier {id}, {why}", barrier.arrived, barrier.expected);
        Err(self.report(Finding { kind, lane: lanes.trailing_zeros(), detail }, first))
    }
}

/// Gives the lanes that asked for it the tally of a barrier.
fn tell(warp: &mut Warp, id: u32, done: &Barrier) {
    let (told, others) = std::mem::take(&mut warp.tallies).into_iter().partition(|asked| asked.id == id);
    warp.tallies = others;
    let told: Vec<Asked> = told;
    for Asked { lanes: mask, tally, .. } in told {
        let all = |holds| if holds { u32::MAX } else { 0 };
        match tally {
            Tally::Count(d) => lanes(mask).for_each(|lane| warp.r[d as usize][lane] = done.ayes),
            Tally::All(d) => warp.set_pred(d, mask, all(done.ayes == done.asked)),
            Tally::Any(d) => warp.set_pred(d, mask, all(done.ayes > 0)),
        }
    }
}

/// How many threads arrive: the lanes, and with a block's last thread those that fill its warp up.
fn arriving(lanes: u32, warp: usize, threads: u32) -> u32 {
    let end = (warp as u32 + 1) * LANES as u32;
    let last = (threads - 1) % LANES as u32;
    lanes.count_ones() + if end > threads && lanes >> last & 1 == 1 { end - threads } else { 0 }
}
