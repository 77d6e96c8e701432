//! Runs warps: 32 lanes with a program counter each, of which those at the lowest one run together.

mod cluster;
mod copy;
mod mbarrier;
mod rare;

pub(crate) use cluster::{Cluster, waits_in_vain};
pub(crate) use copy::{Copies, Until};
pub(crate) use mbarrier::Mbarriers;

use crate::access::value_of;
use crate::compute::{compute, shuffle};
use crate::memory::Memory;
use crate::op::*;
use crate::order::{History, Order, Released};
use crate::parse::Kernel;
use crate::registers::Wide;
use crate::report::{Finding, Kind};
use crate::shadow::SharedShadow;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// The mask of all lanes.
pub(crate) const ALL: u32 = u32::MAX;

/// The state of a warp.
pub(crate) struct Warp {
    pub index: usize,
    pub r: Vec<[u32; LANES]>,
    pub d: Wide,
    pub p: Vec<u32>,
    pub pc: [u32; LANES],
    /// Lanes that have not exited.
    pub alive: u32,
    /// Lanes that have not waited for the launches before this one, and must.
    pub unwaited: u32,
    /// Lanes that wait at their instruction until others of the warp arrive there.
    pub blocked: u32,
    /// The barriers at which lanes wait, and those lanes.
    pub waits: Vec<(u32, u32)>,
    /// What it has asked barriers to tell.
    pub tallies: Vec<Asked>,
    /// The lanes that wait at some barrier.
    pub asleep: u32,
    /// What is in its past.
    pub order: Order,
    /// Local memory, thread by thread.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    /// Copies that go on beside it.
    pub copies: Copies,
    /// Stores beside it that it has started.
    pub sent: u32,
    /// The phase of the cluster's barrier for which it has arrived, until it has waited.
    pub arrived: Option<u64>,
    /// It has asked in vain whether it may go on, and has not been let on since; and how many slices ago that was.
    pub asking: bool,
    pub slices: u32,
}

/// What a launch shares among its warps.
pub(crate) struct Machine<'a> {
    pub kernel: &'a Kernel,
    pub memory: &'a mut Memory,
    pub params: Vec<u8>,
    pub shared: Vec<u8>,
    pub shared_shadow: SharedShadow,
    pub sanitize: bool,
    pub history: History,
    pub released: Released,
    /// Number of the launch's first block.
    pub first_block: u32,
    /// The blocks that run side by side, and the barriers in their shared memory.
    pub cluster: Cluster,
    pub mbarriers: Mbarriers,
    pub warps_per_block: u32,
    /// Whether barriers may settle everything below a number (see `Order::floor`): not where stores go on beside warps,
    /// of which a barrier says nothing.
    pub floors: bool,
    pub steps: u64,
    pub lane_steps: u64,
}

/// Why a warp stopped running.
pub(crate) enum Stop {
    /// Its slice of steps is over.
    Slice,
    /// All its lanes have exited.
    Done,
    /// Lanes of it reached a barrier of the block.
    Barrier(Arrival),
    /// All lanes that are left wait at barriers.
    Asleep,
    /// It waits for what only others can bring about, and asks again when it runs next.
    Yield,
}

/// Lanes that a barrier will tell how many threads say yes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The barrier's number.
    pub id: u32,
    pub lanes: u32,
    /// Those of the lanes that say yes.
    pub ayes: u32,
    pub tally: Tally,
}

/// Lanes that reach a barrier of the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub id: u32,
    /// The count of threads; all when absent.
    pub count: Option<u32>,
    /// Whether they wait there.
    pub wait: bool,
    /// Whether they stand for their whole warp.
    pub aligned: bool,
    pub lanes: u32,
}

/// Where the running lanes go after an instruction.
enum Flow {
    Next,
    Jump(u32),
    /// These lanes jump, the others go on.
    Split(u32, u32),
    /// These lanes exit, the others go on.
    Exit(u32),
    /// The lanes wait for others of their warp.
    Block,
    Barrier(Arrival),
    /// Let others run, and then go on, or do the instruction again.
    Yield,
    Retry,
}

pub(crate) type Found<T> = Result<T, Finding>;

pub(crate) fn find<T>(kind: Kind, lane: usize, detail: String) -> Found<T> {
    Err(Finding { kind, lane: lane as u32, detail })
}

/// A later launch, which waits for this one alone, would not know that those before it have ended.
#[cold]
fn leaves_early(lanes: u32) -> Found<Flow> {
    let detail =
        format!("lanes {lanes:#010x} exit without griddepcontrol.wait, in a launch that may overlap earlier ones");
    find(Kind::Unwaited, lanes.trailing_zeros() as usize, detail)
}

/// The numbers of the lanes of a mask.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// A lane's value in a register, of either bank.
pub(crate) trait Value: Copy {
    /// `new` where the lowest bit of `bit` is set, else `old`: by masking, which the compiler makes vector instructions of.
    fn choose(bit: u32, new: Self, old: Self) -> Self;
}

impl Value for u32 {
    #[inline(always)]
    fn choose(bit: u32, new: u32, old: u32) -> u32 {
        let mask = (bit & 1).wrapping_neg();
        (new & mask) | (old & !mask)
    }
}

impl Value for u64 {
    #[inline(always)]
    fn choose(bit: u32, new: u64, old: u64) -> u64 {
        let mask = u64::from(bit & 1).wrapping_neg();
        (new & mask) | (old & !mask)
    }
}

/// Takes `new` where the mask is set.
#[inline(always)]
pub(crate) fn blend<T: Value>(out: &mut [T; LANES], new: &[T; LANES], mask: u32) {
    if mask == ALL {
        *out = *new;
    } else {
        for lane in 0..LANES {
            out[lane] = T::choose(mask >> lane, new[lane], out[lane]);
        }
    }
}

impl Warp {
    #[inline(always)]
    pub fn pred(&self, pred: Pred) -> u32 {
        let mask = self.p[pred.slot as usize];
        if pred.negate { !mask } else { mask }
    }

    #[inline(always)]
    pub fn set_pred(&mut self, slot: P, mask: u32, value: u32) {
        let old = &mut self.p[slot as usize];
        *old = (*old & !mask) | (value & mask);
    }

    #[inline(always)]
    pub fn get(&self, slot: Slot, lane: usize) -> u64 {
        match slot {
            Slot::R(r) => u64::from(self.r[r as usize][lane]),
            Slot::D(d) => self.d[d as usize][lane],
        }
    }

    #[inline(always)]
    pub fn set(&mut self, slot: Slot, lane: usize, value: u64) {
        match slot {
            Slot::R(r) => self.r[r as usize][lane] = value as u32,
            Slot::D(d) => self.d[d as usize][lane] = value,
        }
    }

    /// The lowest program counter of some lanes.
    #[inline(always)]
    fn lowest(&self, mask: u32) -> u32 {
        (0..LANES).fold(u32::MAX, |lowest, lane| lowest.min(u32::choose(mask >> lane, self.pc[lane], u32::MAX)))
    }

    /// The lanes that run next, where they are, and the lowest program counter of the others.
    #[inline(always)]
    fn select(&self) -> Option<(u32, u32, u32)> {
        let awake = self.alive & !self.asleep;
        if awake & !self.blocked == 0 {
            return None;
        }
        let pc = self.lowest(awake & !self.blocked);
        let here = (0..LANES).fold(0, |mask, lane| mask | if self.pc[lane] == pc { 1 << lane } else { 0 });
        Some((pc, here & awake, self.lowest(awake & !here)))
    }

    #[inline(always)]
    fn place(&mut self, mask: u32, pc: u32) {
        blend(&mut self.pc, &[pc; LANES], mask);
    }

    /// The program counter of a lane.
    pub fn at(&self, lane: u32) -> u32 {
        self.pc[lane as usize]
    }
}

impl Machine<'_> {
    /// Runs a warp for so many steps, or until it must wait.
    ///
    /// `FUSED` says that a fused product-sum is an instruction of the processor, and no call.
    #[inline(always)]
    pub fn run<const FUSED: bool>(&mut self, warp: &mut Warp, slice: u64) -> Found<Stop> {
        let end = self.steps.saturating_add(slice);
        while warp.alive != 0 {
            let Some((mut pc, mut mask, limit)) = warp.select() else {
                return if warp.asleep == 0 { self.stuck(warp) } else { Ok(Stop::Asleep) };
            };
            warp.blocked &= !mask;
            loop {
                let flow = match self.step::<FUSED>(warp, pc, mask) {
                    Ok(flow) => flow,
                    Err(finding) => {
                        // The report names the instruction of its lane.
                        warp.place(mask, pc);
                        return Err(finding);
                    }
                };
                match flow {
                    Flow::Next => pc += 1,
                    Flow::Jump(target) => pc = target,
                    Flow::Split(taken, target) => {
                        warp.place(mask & !taken, pc + 1);
                        warp.place(taken, target);
                        break;
                    }
                    Flow::Exit(gone) => {
                        self.cluster.exit(warp, gone);
                        warp.place(gone, pc);
                        warp.alive &= !gone;
                        mask &= !gone;
                        pc += 1;
                        if mask == 0 {
                            break;
                        }
                    }
                    Flow::Block => {
                        warp.place(mask, pc);
                        warp.blocked |= mask;
                        break;
                    }
                    Flow::Barrier(arrival) => {
                        warp.place(mask, pc + 1);
                        return Ok(Stop::Barrier(arrival));
                    }
                    Flow::Yield | Flow::Retry => {
                        warp.asking = true;
                        warp.place(mask, pc + u32::from(matches!(flow, Flow::Yield)));
                        return Ok(Stop::Yield);
                    }
                }
                if pc >= limit || self.steps >= end {
                    warp.place(mask, pc);
                    break;
                }
            }
            if self.steps >= end && warp.alive != 0 {
                return Ok(Stop::Slice);
            }
        }
        Ok(Stop::Done)
    }

    /// All lanes that are left wait for lanes that will not come.
    fn stuck(&self, warp: &Warp) -> Found<Stop> {
        let lane = warp.blocked.trailing_zeros() as usize;
        let pc = warp.pc[lane];
        let here = lanes(warp.blocked).filter(|l| warp.pc[*l] == pc).fold(0u32, |mask, l| mask | 1 << l);
        let barrier = match &self.kernel.code[pc as usize].op {
            Op::Barrier { .. } => true,
            Op::Rare(rare) => matches!(**rare, Rare::ClusterArrive { .. } | Rare::ClusterWait),
            _ => false,
        };
        let kind = if barrier { Kind::DivergentBarrier } else { Kind::DivergentWarp };
        find(kind, lane, format!("only lanes {here:#010x} arrive, the others wait elsewhere or have exited"))
    }

    /// Whether the lanes `need` all are here (`active`, of which `mask` is at this instruction).
    fn gathered(&self, warp: &Warp, need: u32, active: u32, mask: u32, kind: Kind) -> Found<bool> {
        let missing = need & !active;
        let never = missing & (mask | !warp.alive);
        if never != 0 {
            let lane = active.trailing_zeros() as usize;
            return find(
                kind,
                lane,
                format!("lanes {never:#010x} do not take part: they are switched off or have exited"),
            );
        }
        Ok(missing == 0)
    }

    /// The same for instructions with a mask of lanes, which may differ from lane to lane.
    fn gathered_by_mask(&self, warp: &Warp, slot: R, active: u32, mask: u32) -> Found<bool> {
        let masks = &warp.r[slot as usize];
        let mut need = 0;
        for lane in lanes(active) {
            if masks[lane] >> lane & 1 == 0 {
                return find(
                    Kind::DivergentWarp,
                    lane,
                    format!("the mask {:#010x} lacks the lane itself", masks[lane]),
                );
            }
            need |= masks[lane];
        }
        self.gathered(warp, need, active, mask, Kind::DivergentWarp)
    }

    #[inline(always)]
    fn step<const FUSED: bool>(&mut self, warp: &mut Warp, pc: u32, mask: u32) -> Found<Flow> {
        let kernel = self.kernel;
        let instruction = &kernel.code[pc as usize];
        self.steps += 1;
        let active = match instruction.guard {
            Some(guard) => mask & warp.pred(guard),
            None => mask,
        };
        self.lane_steps += u64::from(active.count_ones());
        if active == 0 {
            return Ok(Flow::Next);
        }
        match &instruction.op {
            Op::Branch(target) if active == mask => return Ok(Flow::Jump(*target)),
            Op::Branch(target) => return Ok(Flow::Split(active, *target)),
            Op::Exit if active & warp.unwaited != 0 => return leaves_early(active & warp.unwaited),
            Op::Exit => return Ok(Flow::Exit(active)),
            Op::Barrier { id, count, wait, aligned } => {
                if *aligned && !self.gathered(warp, warp.alive, active, mask, Kind::DivergentBarrier)? {
                    return Ok(Flow::Block);
                }
                let (wait, aligned, lane) = (*wait, *aligned, active.trailing_zeros() as usize);
                let count = count.map(|count| warp.r[count as usize][lane]);
                return Ok(Flow::Barrier(Arrival {
                    id: warp.r[*id as usize][lane],
                    count,
                    wait,
                    aligned,
                    lanes: active,
                }));
            }
            Op::WarpBarrier { mask: slot } | Op::Shuffle { mask: slot, .. } | Op::Vote { mask: slot, .. }
                if !self.gathered_by_mask(warp, *slot, active, mask)? =>
            {
                return Ok(Flow::Block);
            }
            Op::Load(access) => self.load(warp, access, active)?,
            Op::Store(access) => self.store(warp, access, active)?,
            Op::Atomic { op, access, operand, swap, wants_old } => {
                self.atomic(warp, *op, access, *operand, *swap, *wants_old, active)?;
            }
            Op::LoadParam { .. } => self.load_param(warp, &instruction.op, active)?,
            Op::WarpBarrier { mask: slot } => {
                // Groups of lanes may meet at one instruction, each with a mask of its own.
                let mut rest = active;
                while rest != 0 {
                    let mask = warp.r[*slot as usize][rest.trailing_zeros() as usize];
                    warp.order.meet_some(&mut self.history, mask);
                    rest &= !mask;
                }
            }
            Op::Shuffle { .. } => shuffle(warp, &instruction.op, active)?,
            Op::Fence => warp.order.fence(&mut self.history),
            Op::Rare(op) => return self.rare(warp, op, active, mask),
            op => compute::<FUSED>(warp, op, active),
        }
        Ok(Flow::Next)
    }

    #[inline(never)]
    fn load_param(&self, warp: &mut Warp, op: &Op, active: u32) -> Found<()> {
        let Op::LoadParam { size, signed, slots, count, offset } = *op else { return Ok(()) };
        for (i, slot) in slots[..count as usize].iter().enumerate() {
            let start = offset as usize + i * size as usize;
            let Some(bytes) = self.params.get(start..start + size as usize) else {
                return find(Kind::OutOfBounds, 0, format!("the parameters end before byte {start}"));
            };
            let value = value_of(bytes, signed);
            lanes(active).for_each(|lane| warp.set(*slot, lane, value));
        }
        Ok(())
    }
}
