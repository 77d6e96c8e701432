//! Runs warps: 32 lanes with a program counter each, of which those at the lowest one run together.

mod rare;

use crate::decode::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::memory::{Memory, locate};
use crate::narrow;
use crate::op::*;
use crate::parse::Kernel;
use crate::report::{Finding, Kind};
use crate::shadow::{BlockOrder, MANY, Observer, Shadow, Stamp, Touch};
use crate::value;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
const ALL: u32 = u32::MAX;

/// The state of a warp.
pub(crate) struct Warp {
    pub index: usize,
    pub r: Vec<[u32; LANES]>,
    pub d: Vec<[u64; LANES]>,
    pub p: Vec<u32>,
    pub pc: [u32; LANES],
    /// Lanes that have not exited.
    pub alive: u32,
    /// Lanes that wait at their instruction until others of the warp arrive there.
    pub blocked: u32,
    /// The barrier at which the warp waits.
    pub waits: Option<u32>,
    /// For each warp of the block, up to which tick its work is in this one's past.
    pub clock: Vec<u32>,
    /// The clock at the last fence.
    pub fenced: Vec<u32>,
    /// Local memory, thread by thread.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
}

/// What a launch shares among its warps.
pub(crate) struct Machine<'a> {
    pub kernel: &'a Kernel,
    pub memory: &'a mut Memory,
    pub params: Vec<u8>,
    pub shared: Vec<u8>,
    pub shared_shadow: Shadow,
    pub sanitize: bool,
    pub order: BlockOrder,
    /// Number of the launch's first block, and of the one that runs.
    pub first_block: u32,
    pub block: u32,
    pub steps: u64,
    pub lane_steps: u64,
}

/// Why a warp stopped running.
pub(crate) enum Stop {
    /// Its slice of steps is over.
    Slice,
    /// All its lanes have exited.
    Done,
    /// It reached a barrier of the block: number, count of threads, whether it waits there.
    Barrier { id: u32, count: Option<u32>, wait: bool },
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
    Barrier {
        id: u32,
        count: Option<u32>,
        wait: bool,
    },
}

type Found<T> = Result<T, Finding>;

fn find<T>(kind: Kind, lane: usize, detail: String) -> Found<T> {
    Err(Finding { kind, lane: lane as u32, detail })
}

/// The numbers of the lanes of a mask.
fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// Sets `out` lane by lane where the mask is set; without a test per lane where all are.
#[inline(always)]
fn fill<T: Copy>(out: &mut [T; LANES], mask: u32, value: impl Fn(usize) -> T) {
    if mask == ALL {
        for (lane, out) in out.iter_mut().enumerate() {
            *out = value(lane);
        }
    } else {
        for lane in lanes(mask) {
            out[lane] = value(lane);
        }
    }
}

impl Warp {
    fn pred(&self, pred: Pred) -> u32 {
        let mask = self.p[pred.slot as usize];
        if pred.negate { !mask } else { mask }
    }

    fn set_pred(&mut self, slot: P, mask: u32, value: u32) {
        let old = &mut self.p[slot as usize];
        *old = (*old & !mask) | (value & mask);
    }

    fn get(&self, slot: Slot, lane: usize) -> u64 {
        match slot {
            Slot::R(r) => u64::from(self.r[r as usize][lane]),
            Slot::D(d) => self.d[d as usize][lane],
        }
    }

    fn set(&mut self, slot: Slot, lane: usize, value: u64) {
        match slot {
            Slot::R(r) => self.r[r as usize][lane] = value as u32,
            Slot::D(d) => self.d[d as usize][lane] = value,
        }
    }

    #[inline(always)]
    fn map1(&mut self, d: R, a: R, mask: u32, f: impl Fn(u32) -> u32) {
        let a = self.r[a as usize];
        fill(&mut self.r[d as usize], mask, |lane| f(a[lane]));
    }

    #[inline(always)]
    fn map2(&mut self, d: R, a: R, b: R, mask: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.r[a as usize], self.r[b as usize]);
        fill(&mut self.r[d as usize], mask, |lane| f(a[lane], b[lane]));
    }

    #[inline(always)]
    fn map3(&mut self, d: R, a: R, b: R, c: R, mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.r[a as usize], self.r[b as usize], self.r[c as usize]);
        fill(&mut self.r[d as usize], mask, |lane| f(a[lane], b[lane], c[lane]));
    }

    #[inline(always)]
    fn wide2(&mut self, d: D, a: D, b: D, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.d[a as usize], self.d[b as usize]);
        fill(&mut self.d[d as usize], mask, |lane| f(a[lane], b[lane]));
    }

    fn addresses(&self, address: Address) -> [u64; LANES] {
        let offset = address.offset as u64;
        match address.base {
            // Addresses of 32 bits are those of shared memory and stay in 32 bits.
            Slot::R(r) => self.r[r as usize].map(|base| u64::from(base.wrapping_add(offset as u32))),
            Slot::D(d) => self.d[d as usize].map(|base| base.wrapping_add(offset)),
        }
    }

    /// The lanes that run next, where they are, and the lowest program counter of the others.
    fn select(&self) -> Option<(u32, u32, u32)> {
        let pc = lanes(self.alive & !self.blocked).map(|lane| self.pc[lane]).min()?;
        let mask = lanes(self.alive).filter(|lane| self.pc[*lane] == pc).fold(0, |mask, lane| mask | 1 << lane);
        let limit = lanes(self.alive & !mask).map(|lane| self.pc[lane]).min().unwrap_or(u32::MAX);
        Some((pc, mask, limit))
    }

    fn place(&mut self, mask: u32, pc: u32) {
        lanes(mask).for_each(|lane| self.pc[lane] = pc);
    }

    /// The program counter of a lane.
    pub fn at(&self, lane: u32) -> u32 {
        self.pc[lane as usize]
    }
}

impl Machine<'_> {
    /// Runs a warp for so many steps, or until it must wait.
    pub fn run(&mut self, warp: &mut Warp, slice: u64) -> Found<Stop> {
        let end = self.steps.saturating_add(slice);
        while warp.alive != 0 {
            let Some((mut pc, mut mask, limit)) = warp.select() else { return self.stuck(warp) };
            warp.blocked &= !mask;
            loop {
                let flow = match self.step(warp, pc, mask) {
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
                    Flow::Barrier { id, count, wait } => {
                        warp.place(mask, pc + 1);
                        return Ok(Stop::Barrier { id, count, wait });
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
        let barrier = matches!(self.kernel.code[pc as usize].op, Op::Barrier { .. });
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

    #[inline]
    fn step(&mut self, warp: &mut Warp, pc: u32, mask: u32) -> Found<Flow> {
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
            Op::Exit => return Ok(Flow::Exit(active)),
            Op::Barrier { id, count, wait } => {
                if !self.gathered(warp, warp.alive, active, mask, Kind::DivergentBarrier)? {
                    return Ok(Flow::Block);
                }
                let lane = active.trailing_zeros() as usize;
                let count = count.map(|count| warp.r[count as usize][lane]);
                return Ok(Flow::Barrier { id: warp.r[*id as usize][lane], count, wait: *wait });
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
            Op::LoadParam { size, signed, slots, count, offset } => {
                for (i, slot) in slots[..*count as usize].iter().enumerate() {
                    let start = *offset as usize + i * *size as usize;
                    let Some(bytes) = self.params.get(start..start + *size as usize) else {
                        return find(Kind::OutOfBounds, 0, format!("the parameters end before byte {start}"));
                    };
                    let value = value_of(bytes, *signed);
                    lanes(active).for_each(|lane| warp.set(*slot, lane, value));
                }
            }
            Op::WarpBarrier { .. } => warp.clock[warp.index] += 1,
            Op::Fence => {
                warp.fenced.clone_from(&warp.clock);
                warp.clock[warp.index] += 1;
            }
            Op::Rare(op) => return self.rare(warp, op, active, mask),
            op => compute(warp, op, active)?,
        }
        Ok(Flow::Next)
    }

    fn stamp(&self, warp: &Warp, lane: u16) -> Stamp {
        Stamp { block: self.block, clock: warp.clock[warp.index], warp: warp.index as u16, lane }
    }

    /// Checks an access of a lane, and gives the buffer and the place in it.
    #[inline(always)]
    fn check(&mut self, warp: &Warp, lane: usize, access: &Aim, touch: Touch, stamp: Stamp) -> Found<(usize, usize)> {
        let Aim { space, address, bytes } = *access;
        if address & (bytes as u64 - 1) != 0 {
            return find(Kind::Misaligned, lane, format!("{bytes} bytes at address {address:#x}"));
        }
        let (number, offset) = if space == Space::Global { locate(address) } else { (0, address as i64) };
        let length = match space {
            Space::Global => self.memory.buffers.get(number).map_or(0, |buffer| buffer.data.len()),
            Space::Shared => self.shared.len(),
            _ => self.kernel.local as usize,
        };
        if offset < 0 || (offset as u64).saturating_add(bytes as u64) > length as u64 {
            let whose = self.memory_name(space, number);
            return find(Kind::OutOfBounds, lane, format!("{bytes} bytes at {offset} of {whose}, which has {length}"));
        }
        let start = offset as usize;
        if self.sanitize {
            self.sanitize(warp, lane, (space, number, start), bytes, touch, stamp)?;
        }
        Ok((number, start))
    }

    fn memory_name(&self, space: Space, number: usize) -> String {
        match (space, self.memory.buffers.get(number)) {
            (Space::Shared, _) => "shared memory".to_string(),
            (Space::Global, Some(buffer)) => buffer.name.clone(),
            (Space::Global, None) => "no buffer".to_string(),
            _ => "local memory".to_string(),
        }
    }

    #[inline(always)]
    fn sanitize(
        &mut self,
        warp: &Warp,
        lane: usize,
        (space, number, start): (Space, usize, usize),
        bytes: usize,
        touch: Touch,
        stamp: Stamp,
    ) -> Found<()> {
        let end = start + bytes;
        let reads = touch != Touch::Write;
        let (uninitialised, shadow, launch) = match space {
            Space::Global => {
                let buffer = &mut self.memory.buffers[number];
                let uninitialised = reads && buffer.written[start..end].iter().any(|written| !written);
                (uninitialised, &mut buffer.shadow, self.first_block)
            }
            Space::Shared => {
                let uninitialised = reads && self.shared_shadow.unwritten(start, bytes, self.block);
                (uninitialised, &mut self.shared_shadow, self.block)
            }
            _ => {
                let base = lane * self.kernel.local as usize;
                let unwritten = warp.local_written[base + start..base + end].iter().any(|written| !written);
                if reads && unwritten {
                    return find(Kind::Uninitialised, lane, format!("{bytes} bytes at {start} of local memory"));
                }
                return Ok(());
            }
        };
        if uninitialised {
            let whose = self.memory_name(space, number);
            return find(Kind::Uninitialised, lane, format!("{bytes} bytes at {start} of {whose}"));
        }
        let who = Observer { stamp, clock: &warp.clock, launch, order: &self.order };
        if let Err((other, before)) = shadow.touch(start, bytes, touch, &who) {
            let whose = self.memory_name(space, number);
            let other = describe(other, self.block, self.first_block);
            let detail = format!(
                "{} {bytes} bytes at {start} of {whose}, unordered with a {} by {other}",
                did(touch),
                name(before)
            );
            return find(Kind::Race, lane, detail);
        }
        Ok(())
    }

    fn load(&mut self, warp: &mut Warp, access: &Access, active: u32) -> Found<()> {
        let addresses = warp.addresses(access.address);
        let bytes = (access.size * access.count) as usize;
        let first = active.trailing_zeros() as usize;
        let same = lanes(active).all(|lane| addresses[lane] == addresses[first]) && access.space != Space::Local;
        if same && active.count_ones() > 1 {
            // All lanes read one place: one check and one read serve them all.
            let aim = Aim::new(access.space, addresses[first], bytes);
            if aim.space != Space::Local {
                let (number, start) = self.check(warp, first, &aim, Touch::Read, self.stamp(warp, MANY as u16))?;
                let data = self.data(warp, aim.space, number, first);
                let values = read_elements(data, start, access);
                for lane in lanes(active) {
                    set_elements(warp, lane, access, &values);
                }
                return Ok(());
            }
        }
        for lane in lanes(active) {
            let aim = Aim::new(access.space, addresses[lane], bytes);
            let (number, start) = self.check(warp, lane, &aim, Touch::Read, self.stamp(warp, lane as u16))?;
            let data = self.data(warp, aim.space, number, lane);
            let values = read_elements(data, start, access);
            set_elements(warp, lane, access, &values);
        }
        Ok(())
    }

    #[inline(always)]
    fn data<'m>(&'m self, warp: &'m Warp, space: Space, number: usize, lane: usize) -> &'m [u8] {
        match space {
            Space::Global => &self.memory.buffers[number].data,
            Space::Shared => &self.shared,
            _ => &warp.local[lane * self.kernel.local as usize..],
        }
    }

    fn store(&mut self, warp: &mut Warp, access: &Access, active: u32) -> Found<()> {
        let addresses = warp.addresses(access.address);
        let bytes = (access.size * access.count) as usize;
        for lane in lanes(active) {
            let aim = Aim::new(access.space, addresses[lane], bytes);
            let (number, start) = self.check(warp, lane, &aim, Touch::Write, self.stamp(warp, lane as u16))?;
            for (i, slot) in access.slots[..access.count as usize].iter().enumerate() {
                let value = warp.get(*slot, lane);
                self.put(
                    warp,
                    lane,
                    (aim.space, number, start + i * access.size as usize),
                    access.size as usize,
                    value,
                );
            }
        }
        Ok(())
    }

    /// Writes a checked element.
    #[inline(always)]
    fn put(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (space, number, start): (Space, usize, usize),
        size: usize,
        value: u64,
    ) {
        let bytes = &value.to_le_bytes()[..size];
        match space {
            Space::Global => {
                let buffer = &mut self.memory.buffers[number];
                buffer.data[start..start + size].copy_from_slice(bytes);
                buffer.written[start..start + size].fill(true);
            }
            Space::Shared => self.shared[start..start + size].copy_from_slice(bytes),
            _ => {
                let start = lane * self.kernel.local as usize + start;
                warp.local[start..start + size].copy_from_slice(bytes);
                warp.local_written[start..start + size].fill(true);
            }
        }
    }

    /// Checks and reads some bytes of shared or global memory, for a lane or for [`MANY`].
    fn peek(
        &mut self,
        warp: &Warp,
        lane: usize,
        space: Space,
        address: u64,
        bytes: usize,
        reader: u32,
    ) -> Found<Vec<u8>> {
        let aim = Aim::new(space, address, bytes);
        let (number, start) = self.check(warp, lane, &aim, Touch::Read, self.stamp(warp, reader as u16))?;
        Ok(self.data(warp, aim.space, number, lane)[start..start + bytes].to_vec())
    }

    /// One lane after the other: their order is the lanes'.
    #[allow(clippy::too_many_arguments)]
    fn atomic(
        &mut self,
        warp: &mut Warp,
        op: Atomic,
        access: &Access,
        operand: Slot,
        swap: Slot,
        wants_old: bool,
        active: u32,
    ) -> Found<()> {
        let addresses = warp.addresses(access.address);
        let size = access.size as usize;
        for lane in lanes(active) {
            let aim = Aim::new(access.space, addresses[lane], size);
            let (number, start) = self.check(warp, lane, &aim, Touch::Atomic, self.stamp(warp, lane as u16))?;
            let old = read_elements(self.data(warp, aim.space, number, lane), start, access)[0];
            let new = value::atomic(op, access.size, old, warp.get(operand, lane), warp.get(swap, lane));
            self.put(warp, lane, (aim.space, number, start), size, new);
            if wants_old {
                warp.set(access.slots[0], lane, old);
            }
            if self.sanitize && aim.space == Space::Global {
                self.order.atomic(aim.address, self.block, &warp.fenced);
            }
        }
        Ok(())
    }
}

/// One lane's access: where, and how many bytes.
#[derive(Clone, Copy)]
struct Aim {
    space: Space,
    address: u64,
    bytes: usize,
}

impl Aim {
    /// A generic address says by its top bits which memory it means.
    #[inline(always)]
    fn new(space: Space, address: u64, bytes: usize) -> Aim {
        let (space, address) = match space {
            Space::Generic => match address & (SHARED_WINDOW | LOCAL_WINDOW) {
                SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
                LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
                _ => (Space::Global, address),
            },
            named => (named, address),
        };
        Aim { space, address, bytes }
    }
}

fn did(touch: Touch) -> &'static str {
    match touch {
        Touch::Read => "reads",
        Touch::Write => "writes",
        Touch::Atomic => "updates",
    }
}

fn name(touch: Touch) -> &'static str {
    match touch {
        Touch::Read => "read",
        Touch::Write => "write",
        Touch::Atomic => "atomic",
    }
}

fn describe(other: Stamp, block: u32, first: u32) -> String {
    if other.block != block {
        return match other.block.checked_sub(first) {
            Some(number) => format!("the {number}th block that ran"),
            None => "another block".to_string(),
        };
    }
    let warp = usize::from(other.warp) * LANES;
    if u32::from(other.lane) == MANY {
        return format!("several of the threads {warp} to {} of the block", warp + LANES - 1);
    }
    format!("thread {} of the block", warp + usize::from(other.lane))
}

/// The number in some bytes, extended by its sign or by zeros.
#[inline(always)]
fn value_of(bytes: &[u8], signed: bool) -> u64 {
    match (bytes, signed) {
        ([a], false) => u64::from(*a),
        ([a], true) => i64::from(*a as i8) as u64,
        ([a, b], false) => u64::from(u16::from_le_bytes([*a, *b])),
        ([a, b], true) => i64::from(i16::from_le_bytes([*a, *b])) as u64,
        ([a, b, c, d], false) => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        ([a, b, c, d], true) => i64::from(i32::from_le_bytes([*a, *b, *c, *d])) as u64,
        _ => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    }
}

#[inline(always)]
fn read_elements(data: &[u8], start: usize, access: &Access) -> [u64; 4] {
    let size = access.size as usize;
    let mut values = [0; 4];
    for (i, value) in values[..access.count as usize].iter_mut().enumerate() {
        let at = start + i * size;
        *value = value_of(&data[at..at + size], access.signed);
    }
    values
}

#[inline(always)]
fn set_elements(warp: &mut Warp, lane: usize, access: &Access, values: &[u64; 4]) {
    for (slot, value) in access.slots[..access.count as usize].iter().zip(values) {
        warp.set(*slot, lane, *value);
    }
}

/// Everything that stays within the warp's registers.
fn compute(warp: &mut Warp, op: &Op, active: u32) -> Found<()> {
    match *op {
        Op::Mov32 { d, a } => warp.map1(d, a, active, |a| a),
        Op::Mov64 { d, a } => warp.wide2(d, a, a, active, |a, _| a),
        Op::MovPred { d, a } => warp.set_pred(d, active, warp.pred(a)),
        Op::Un32 { op, ftz, d, a } => warp.map1(d, a, active, |a| value::un32(op, ftz, a)),
        Op::Un64 { op, d, a } => warp.wide2(d, a, a, active, |a, _| value::un64(op, a)),
        Op::Bin32 { op, ftz: false, d, a, b } => binary(warp, op, d, a, b, active),
        Op::Bin32 { op, d, a, b, .. } => {
            warp.map2(d, a, b, active, |a, b| value::flush(value::bin32(op, value::flush(a), value::flush(b))))
        }
        Op::Bin64 { op, d, a, b } => warp.wide2(d, a, b, active, |a, b| value::bin64(op, a, b)),
        Op::Shift64 { op, d, a, b } => {
            let (a, b) = (warp.d[a as usize], warp.r[b as usize]);
            fill(&mut warp.d[d as usize], active, |lane| value::shift64(op, a[lane], b[lane]));
        }
        Op::Tern32 { op: Tern32::MadLow, d, a, b, c } => {
            warp.map3(d, a, b, c, active, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
        }
        Op::Tern32 { op, d, a, b, c } => warp.map3(d, a, b, c, active, |a, b, c| value::tern32(op, a, b, c)),
        Op::MadLow64 { d, a, b, c } => {
            let c = warp.d[c as usize];
            let (a, b) = (warp.d[a as usize], warp.d[b as usize]);
            fill(&mut warp.d[d as usize], active, |lane| a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]));
        }
        Op::Fma32 { ftz: false, saturate: false, d, a, b, c } => warp.map3(d, a, b, c, active, value::fma),
        Op::Fma32 { ftz, saturate, d, a, b, c } => warp.map3(d, a, b, c, active, |a, b, c| {
            let flush = |bits| if ftz { value::flush(bits) } else { bits };
            let result = flush(value::fma(flush(a), flush(b), flush(c)));
            if saturate { value::saturate(result) } else { result }
        }),
        Op::Directed { round, d, a, b, c } => {
            warp.map3(d, a, b, c, active, |a, b, c| value::fma_directed(round, a, b, c));
        }
        Op::Fma64 { d, a, b, c } => {
            let [a, b, c] = [a, b, c].map(|slot| warp.d[slot as usize].map(f64::from_bits));
            fill(&mut warp.d[d as usize], active, |lane| a[lane].mul_add(b[lane], c[lane]).to_bits());
        }
        Op::MulWide { signed, d, a, b } => {
            let (a, b) = (warp.r[a as usize], warp.r[b as usize]);
            fill(&mut warp.d[d as usize], active, |lane| mul_wide(signed, a[lane], b[lane]));
        }
        Op::MadWide { signed, d, a, b, c } => {
            let (a, b, c) = (warp.r[a as usize], warp.r[b as usize], warp.d[c as usize]);
            fill(&mut warp.d[d as usize], active, |lane| mul_wide(signed, a[lane], b[lane]).wrapping_add(c[lane]));
        }
        Op::MulWide16 { signed, d, a, b } => warp.map2(d, a, b, active, |a, b| {
            if signed { (i32::from(a as i16) * i32::from(b as i16)) as u32 } else { (a & 0xffff) * (b & 0xffff) }
        }),
        Op::InsertBits { d, a, b, position, length } => {
            let [a, b, position, length] = [a, b, position, length].map(|slot| warp.r[slot as usize]);
            fill(&mut warp.r[d as usize], active, |lane| value::insert(a[lane], b[lane], position[lane], length[lane]));
        }
        Op::Window { d, a, add } => {
            lanes(active).for_each(|lane| warp.set(d, lane, warp.get(a, lane).wrapping_add(add)));
        }
        Op::Narrow { op, d, a, b, c } => warp.map3(d, a, b, c, active, |a, b, c| narrow::apply(op, a, b, c)),
        Op::Convert { how, d, a } => {
            lanes(active).for_each(|lane| warp.set(d, lane, value::convert(how, warp.get(a, lane))));
        }
        Op::Compare { .. } => compare(warp, op, active),
        Op::Select32 { d, a, b, p } => {
            let chosen = warp.pred(p);
            let (a, b) = (warp.r[a as usize], warp.r[b as usize]);
            fill(&mut warp.r[d as usize], active, |lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
        }
        Op::Select64 { d, a, b, p } => {
            let chosen = warp.pred(p);
            let (a, b) = (warp.d[a as usize], warp.d[b as usize]);
            fill(&mut warp.d[d as usize], active, |lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
        }
        Op::PredLogic { op, d, a, b } => warp.set_pred(d, active, logic(op, warp.pred(a), warp.pred(b))),
        Op::Pack { .. } | Op::Unpack { .. } | Op::Pack16 { .. } | Op::Unpack16 { .. } => pack(warp, op, active),
        Op::Shuffle { .. } => return shuffle(warp, op, active),
        Op::Vote { .. } => vote(warp, op, active),
        Op::ActiveMask { d } => fill(&mut warp.r[d as usize], active, |_| active),
        // Control and memory are done before; a no-op does nothing.
        _ => {}
    }
    Ok(())
}

/// The most frequent operations get a loop of their own, which the compiler can make of vector instructions.
fn binary(warp: &mut Warp, op: Bin32, d: R, a: R, b: R, active: u32) {
    match op {
        Bin32::AddInt => warp.map2(d, a, b, active, u32::wrapping_add),
        Bin32::SubInt => warp.map2(d, a, b, active, u32::wrapping_sub),
        Bin32::And => warp.map2(d, a, b, active, |a, b| a & b),
        Bin32::AddFloat => warp.map2(d, a, b, active, |a, b| value::bin32(Bin32::AddFloat, a, b)),
        Bin32::SubFloat => warp.map2(d, a, b, active, |a, b| value::bin32(Bin32::SubFloat, a, b)),
        Bin32::MulFloat => warp.map2(d, a, b, active, |a, b| value::bin32(Bin32::MulFloat, a, b)),
        op => warp.map2(d, a, b, active, |a, b| value::bin32(op, a, b)),
    }
}

fn mul_wide(signed: bool, a: u32, b: u32) -> u64 {
    if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) }
}

fn logic(op: Logic, a: u32, b: u32) -> u32 {
    match op {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

fn compare(warp: &mut Warp, op: &Op, active: u32) {
    let Op::Compare { how, ty, ftz, d, other, a, b, with } = *op else { return };
    let mut result = 0;
    match (ty, a, b) {
        (Type::S32, Slot::R(a), Slot::R(b)) => {
            let (a, b) = (&warp.r[a as usize], &warp.r[b as usize]);
            for lane in 0..LANES {
                result |= u32::from(value::ordered(how, Some((a[lane] as i32).cmp(&(b[lane] as i32))))) << lane;
            }
        }
        _ => {
            for lane in lanes(active) {
                let holds = value::compare(how, ty, ftz, warp.get(a, lane), warp.get(b, lane));
                result |= u32::from(holds) << lane;
            }
        }
    }
    let combine = |mask| with.map_or(mask, |(op, pred)| logic(op, mask, warp.pred(pred)));
    let (first, second) = (combine(result), combine(!result));
    warp.set_pred(d, active, first);
    if let Some(other) = other {
        warp.set_pred(other, active, second);
    }
}

fn pack(warp: &mut Warp, op: &Op, active: u32) {
    for lane in lanes(active) {
        match *op {
            Op::Pack { d, low, high } => {
                let halves = (warp.r[low as usize][lane], warp.r[high as usize][lane]);
                warp.d[d as usize][lane] = u64::from(halves.0) | u64::from(halves.1) << 32;
            }
            Op::Pack16 { d, low, high } => {
                let halves = (warp.r[low as usize][lane], warp.r[high as usize][lane]);
                warp.r[d as usize][lane] = (halves.0 & 0xffff) | halves.1 << 16;
            }
            Op::Unpack { low, high, a } => {
                let value = warp.d[a as usize][lane];
                low.into_iter().for_each(|slot| warp.r[slot as usize][lane] = value as u32);
                high.into_iter().for_each(|slot| warp.r[slot as usize][lane] = (value >> 32) as u32);
            }
            Op::Unpack16 { low, high, a } => {
                let value = warp.r[a as usize][lane];
                low.into_iter().for_each(|slot| warp.r[slot as usize][lane] = value & 0xffff);
                high.into_iter().for_each(|slot| warp.r[slot as usize][lane] = value >> 16);
            }
            _ => {}
        }
    }
}

/// The source lane as the PTX manual computes it, from the distance `b` and the clamp and segment mask in `c`.
fn shuffle(warp: &mut Warp, op: &Op, active: u32) -> Found<()> {
    let Op::Shuffle { how, d, valid, a, b, c, mask } = *op else { return Ok(()) };
    let [values, distances, clamps, masks] = [a, b, c, mask].map(|slot| warp.r[slot as usize]);
    let mut inside = 0u32;
    for lane in lanes(active) {
        let (me, distance) = (lane as u32, distances[lane] & 31);
        let (clamp, segment) = (clamps[lane] & 31, clamps[lane] >> 8 & 31);
        let last = (me & segment) | (clamp & !segment);
        let (source, holds) = match how {
            Shuffle::Up => (me.wrapping_sub(distance), me as i32 - distance as i32 >= last as i32),
            Shuffle::Down => (me + distance, me + distance <= last),
            Shuffle::Butterfly => (me ^ distance, me ^ distance <= last),
            Shuffle::Index => {
                let source = (me & segment) | (distance & !segment);
                (source, source <= last)
            }
        };
        let source = if holds { source } else { me };
        if masks[lane] >> source & 1 == 0 {
            return find(Kind::DivergentWarp, lane, format!("reads lane {source}, which does not take part"));
        }
        inside |= u32::from(holds) << lane;
        warp.r[d as usize][lane] = values[source as usize];
    }
    if let Some(valid) = valid {
        warp.set_pred(valid, active, inside);
    }
    Ok(())
}

fn vote(warp: &mut Warp, op: &Op, active: u32) {
    let Op::Vote { how, d, a, mask } = *op else { return };
    let (votes, masks) = (warp.pred(a), warp.r[mask as usize]);
    for lane in lanes(active) {
        let of = masks[lane];
        let holds = match how {
            Vote::Any => votes & of != 0,
            Vote::All => votes & of == of,
            Vote::Uniform => votes & of == of || votes & of == 0,
            Vote::Ballot(d) => {
                warp.r[d as usize][lane] = votes & of;
                continue;
            }
        };
        warp.set_pred(d, 1 << lane, if holds { ALL } else { 0 });
    }
}
