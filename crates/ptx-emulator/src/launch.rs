//! Starts a kernel: checks the launch, runs block after block, lets the warps of a block take turns.

use crate::cpu;
use crate::exec::{Arrival, LANES, Machine, Stop, Warp};
use crate::memory::Memory;
use crate::op::Op;
use crate::order::{Clock, HALF, History, Order, Released, SEGMENT};
use crate::parse::{Kernel, Module};
use crate::registers::Wide;
use crate::report::{Error, Finding, Kind, Report};
use crate::shadow::SharedShadow;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A whole number of 32 bits.
    U32(u32),
    /// A whole number of 32 bits with a sign.
    S32(i32),
    /// A number of 32 bits.
    F32(f32),
    /// A whole number of 64 bits, or the address of a buffer.
    U64(u64),
    /// A number of 64 bits.
    F64(f64),
}

impl Arg {
    fn bytes(self) -> Vec<u8> {
        match self {
            Arg::U32(value) => value.to_le_bytes().to_vec(),
            Arg::S32(value) => value.to_le_bytes().to_vec(),
            Arg::F32(value) => value.to_le_bytes().to_vec(),
            Arg::U64(value) => value.to_le_bytes().to_vec(),
            Arg::F64(value) => value.to_le_bytes().to_vec(),
        }
    }
}

/// How a launch is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The order of blocks and warps: 0 runs them in turn, any other number shuffles them. A right kernel gives the
    /// same bits under every schedule.
    pub seed: u64,
    /// Whether races and uninitialised reads are looked for. Bounds and alignment always are.
    pub sanitize: bool,
    /// The most instructions that all warps together may run.
    pub max_steps: u64,
    /// The most bytes of shared memory that a block may have.
    pub max_shared: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { seed: 0, sanitize: true, max_steps: 1 << 32, max_shared: 227 * 1024 }
    }
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions, counted once per warp.
    pub warp_instructions: u64,
    /// Instructions, counted once per lane that ran them.
    pub lane_instructions: u64,
}

/// The shape of a launch: blocks, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks (x, y, z).
    pub grid: [u32; 3],
    /// Threads of a block (x, y, z).
    pub block: [u32; 3],
    /// Bytes of shared memory for the `extern` array.
    pub dynamic_shared: u32,
}

/// A barrier of the block.
#[derive(Default)]
struct Barrier {
    /// Threads that have arrived, and that it takes.
    arrived: u32,
    expected: u32,
    past: Clock,
    fenced: Clock,
}

/// A stream of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// How many steps a warp may run: short slices as often as long ones, so that small kernels are well mixed, and
    /// large ones mostly keep one warp's registers in the processor's nearest cache.
    fn slice(&mut self) -> u64 {
        let bound = 1 << self.below(14);
        1 + self.below(bound)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

impl Module {
    /// Runs a kernel to its end.
    ///
    /// # Errors
    ///
    /// [`Error::Launch`] when it cannot start, [`Error::Kernel`] with a report at the first bug found. What the kernel
    /// wrote before stays written.
    pub fn launch(
        &self,
        kernel: &str,
        shape: &Shape,
        args: &[Arg],
        memory: &mut Memory,
        options: &Options,
    ) -> Result<Stats, Error> {
        let Some(kernel) = self.kernel(kernel) else {
            return Err(Error::Launch(format!("there is no kernel {kernel}")));
        };
        let params = gather(kernel, args)?;
        let (blocks, threads) = check_shape(kernel, shape, options)?;
        let shared = (kernel.shared + shape.dynamic_shared) as usize;
        let warps = threads.div_ceil(LANES as u32) as usize;
        let forget = memory.next_stamp > HALF;
        if forget {
            memory.next_stamp = SEGMENT;
        }
        if options.sanitize {
            memory.buffers.iter_mut().for_each(|buffer| buffer.shadow.start_launch(forget));
        }
        let history = History::new(memory.next_stamp);
        let machine = Machine {
            kernel,
            memory,
            params,
            shared: vec![0xff; shared],
            shared_shadow: SharedShadow::new(if options.sanitize { shared } else { 0 }, warps),
            sanitize: options.sanitize,
            history,
            released: Released::default(),
            first_block: 1,
            steps: 0,
            lane_steps: 0,
        };
        let warps = new_warps(kernel, warps);
        let mut launch = Launch { module: self, shape, options, machine, warps, random: Random(options.seed) };
        let result = launch.run(blocks, threads);
        launch.machine.memory.next_stamp = launch.machine.history.next();
        result
    }
}

/// The parameter block of a kernel.
fn gather(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u8>, Error> {
    if args.len() != kernel.params.len() {
        let (name, wants) = (&kernel.name, kernel.params.len());
        return Err(Error::Launch(format!("{name} takes {wants} arguments, not {}", args.len())));
    }
    let mut bytes = vec![0; kernel.params.last().map_or(0, |p| (p.offset + p.size) as usize)];
    for (param, arg) in kernel.params.iter().zip(args) {
        let value = arg.bytes();
        if value.len() != param.size as usize {
            let (name, size) = (&param.name, param.size);
            return Err(Error::Launch(format!("{name} has {size} bytes, the argument {arg:?} has {}", value.len())));
        }
        bytes[param.offset as usize..][..value.len()].copy_from_slice(&value);
    }
    Ok(bytes)
}

/// The number of blocks and of threads per block.
fn check_shape(kernel: &Kernel, shape: &Shape, options: &Options) -> Result<(u32, u32), Error> {
    let product = |sizes: [u32; 3]| sizes.iter().try_fold(1u32, |product, size| product.checked_mul(*size));
    let name = &kernel.name;
    let Some(blocks) = product(shape.grid).filter(|blocks| *blocks > 0) else {
        return Err(Error::Launch(format!("{name}: a grid of {:?} blocks", shape.grid)));
    };
    let most = kernel.max_threads.unwrap_or(1024).min(1024);
    let Some(threads) = product(shape.block).filter(|threads| (1..=most).contains(threads)) else {
        return Err(Error::Launch(format!("{name}: {:?} threads per block, at most {most} can be", shape.block)));
    };
    let shared = kernel.shared.saturating_add(shape.dynamic_shared);
    if shared > options.max_shared {
        let most = options.max_shared;
        return Err(Error::Launch(format!("{name}: {shared} bytes of shared memory, at most {most} can be")));
    }
    Ok((blocks, threads))
}

fn new_warps(kernel: &Kernel, count: usize) -> Vec<Warp> {
    let bank = &kernel.registers;
    let exact = kernel.code.iter().any(|instruction| match instruction.op {
        Op::Barrier { aligned, .. } => !aligned,
        Op::WarpBarrier { mask } => !bank.constants32.contains(&(mask, u32::MAX)),
        _ => false,
    });
    let new = |index| Warp {
        index,
        r: vec![[0; LANES]; bank.r as usize],
        d: Wide::new(bank.d as usize),
        p: vec![0; bank.p as usize],
        pc: [0; LANES],
        alive: 0,
        blocked: 0,
        waits: Vec::new(),
        asleep: 0,
        order: Order::new(index, count, exact),
        local: vec![0xff; kernel.local as usize * LANES],
        local_written: vec![false; kernel.local as usize * LANES],
    };
    (0..count).map(new).collect()
}

struct Launch<'a> {
    module: &'a Module,
    shape: &'a Shape,
    options: &'a Options,
    machine: Machine<'a>,
    warps: Vec<Warp>,
    random: Random,
}

impl Launch<'_> {
    fn run(&mut self, blocks: u32, threads: u32) -> Result<Stats, Error> {
        let mut order: Vec<u32> = (0..blocks).collect();
        if self.options.seed != 0 {
            self.random.shuffle(&mut order);
        }
        for (number, block) in order.into_iter().enumerate() {
            let [x, y, _] = self.shape.grid;
            let at = [block % x, block / x % y, block / x / y];
            self.machine.shared.fill(0xff);
            let block_start = self.machine.history.next();
            for warp in &mut self.warps {
                reset(warp, self.machine.kernel, self.shape, at, threads);
                let block = self.machine.first_block + number as u32;
                warp.order.start(&mut self.machine.history, block, block_start, warp.alive);
            }
            self.run_block(at, threads)?;
        }
        Ok(Stats { warp_instructions: self.machine.steps, lane_instructions: self.machine.lane_steps })
    }

    fn run_block(&mut self, at: [u32; 3], threads: u32) -> Result<(), Error> {
        let mut barriers: [Barrier; 16] = Default::default();
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        loop {
            if self.options.seed != 0 {
                self.random.shuffle(&mut order);
            }
            let mut ran = false;
            for &index in &order {
                if self.warps[index].alive & !self.warps[index].asleep == 0 {
                    continue;
                }
                let slice = if self.options.seed == 0 { 4096 } else { self.random.slice() };
                let stop = match cpu::run(&mut self.machine, &mut self.warps[index], slice) {
                    Ok(stop) => stop,
                    Err(finding) => return Err(self.report(finding, index, at)),
                };
                ran |= !matches!(stop, Stop::Asleep);
                if let Stop::Barrier(arrival) = stop {
                    self.arrive(&mut barriers, index, arrival, threads)
                        .map_err(|finding| self.report(finding, index, at))?;
                }
                if self.machine.steps > self.options.max_steps {
                    let detail = format!("after {} warp instructions", self.machine.steps);
                    return Err(self.report(first_lane(&self.warps[index], Kind::StepLimit, detail), index, at));
                }
                if self.machine.history.exhausted() {
                    let detail = "more barriers and fences than the sanitizer can tell apart".to_string();
                    return Err(self.report(first_lane(&self.warps[index], Kind::StepLimit, detail), index, at));
                }
            }
            if !ran {
                return self.rest(&barriers, at);
            }
        }
    }

    /// Lanes arrive at a barrier; the last ones let all go on, each with the others' work in its past.
    ///
    /// Clocks are those of whole warps: lanes that arrive alone bring their warp's past along, and their warp learns of
    /// the others' when they leave.
    fn arrive(
        &mut self,
        barriers: &mut [Barrier; 16],
        index: usize,
        arrival: Arrival,
        threads: u32,
    ) -> Result<(), Finding> {
        let Arrival { id, count, wait, aligned, lanes } = arrival;
        let warp = &mut self.warps[index];
        let whole = threads.next_multiple_of(LANES as u32);
        let expected = count.unwrap_or(whole);
        let bad = |detail| {
            // The report names the barrier, which the lane has just passed.
            Err(Finding { kind: Kind::BadOperand, lane: lanes.trailing_zeros(), detail })
        };
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
        barrier.arrived += if aligned { LANES as u32 } else { arriving(lanes, index, threads) };
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
            self.release(id, &done);
        }
        Ok(())
    }

    /// The warps that wait at a barrier go on.
    fn release(&mut self, id: u32, done: &Barrier) {
        // When the barrier knows of all that every warp has done, numbers below the next one need no clock any more.
        let all = self.warps.iter().zip(&done.past.own).all(|(warp, tick)| warp.order.past.own[warp.index] == *tick);
        let floor = all.then(|| self.machine.history.next());
        for warp in &mut self.warps {
            let lanes = warp.waits.iter().filter(|wait| wait.0 == id).fold(0, |lanes, wait| lanes | wait.1);
            if lanes != 0 {
                warp.waits.retain(|wait| wait.0 != id);
                warp.asleep &= !lanes;
                // Lanes that have exited keep nobody waiting, and what they did is over.
                let lanes = lanes | !warp.alive;
                warp.order.leave_barrier(&mut self.machine.history, &done.past, &done.fenced, (floor, lanes));
            }
        }
    }

    /// No warp can run: the block has ended, or those that are left wait in vain.
    fn rest(&self, barriers: &[Barrier; 16], at: [u32; 3]) -> Result<(), Error> {
        let waits = || self.warps.iter().flat_map(|warp| warp.waits.iter().map(move |wait| (warp, wait)));
        let Some((first, &(id, lanes))) = waits().next() else { return Ok(()) };
        let barrier = &barriers[id as usize];
        let others_wait = waits().any(|(_, wait)| wait.0 != id) || self.warps.iter().any(|warp| warp.blocked != 0);
        let (kind, why) = if others_wait {
            (Kind::Deadlock, "the others wait elsewhere")
        } else {
            (Kind::DivergentBarrier, "the others have exited")
        };
        let detail = format!("{} of {} threads at barrier {id}, {why}", barrier.arrived, barrier.expected);
        Err(self.report(Finding { kind, lane: lanes.trailing_zeros(), detail }, first.index, at))
    }

    fn report(&self, finding: Finding, index: usize, block: [u32; 3]) -> Error {
        let warp = &self.warps[index];
        let kernel = self.machine.kernel;
        // A warp that waits at a barrier already points behind it.
        let past = warp.asleep >> finding.lane & 1 == 1 || finding.kind == Kind::BadOperand;
        let pc = warp.at(finding.lane).saturating_sub(u32::from(past)) as usize;
        let instruction = &kernel.places[pc.min(kernel.places.len() - 1)];
        let [x, y, _] = self.shape.block;
        let thread = index as u32 * LANES as u32 + finding.lane;
        Error::Kernel(Box::new(Report {
            kind: finding.kind,
            kernel: kernel.name.clone(),
            file: self.module.files.get(&instruction.file).cloned(),
            line: instruction.line,
            opcode: kernel.opcodes[instruction.name as usize].clone(),
            block,
            thread: [thread % x, thread / x % y, thread / x / y],
            detail: finding.detail,
        }))
    }
}

/// How many threads arrive: the lanes, and with a block's last thread those that fill its warp up.
fn arriving(lanes: u32, warp: usize, threads: u32) -> u32 {
    let end = (warp as u32 + 1) * LANES as u32;
    let last = (threads - 1) % LANES as u32;
    lanes.count_ones() + if end > threads && lanes >> last & 1 == 1 { end - threads } else { 0 }
}

/// A finding laid to a warp's first living lane.
fn first_lane(warp: &Warp, kind: Kind, detail: String) -> Finding {
    Finding { kind, lane: warp.alive.trailing_zeros() % LANES as u32, detail }
}

/// A warp as it is at the start of its block.
fn reset(warp: &mut Warp, kernel: &Kernel, shape: &Shape, at: [u32; 3], threads: u32) {
    let start = (warp.index * LANES) as u32;
    let count = (threads - start).min(LANES as u32);
    warp.alive = u32::MAX >> (LANES as u32 - count);
    (warp.pc, warp.blocked, warp.asleep) = ([0; LANES], 0, 0);
    warp.waits.clear();
    warp.local.fill(0xff);
    warp.local_written.fill(false);
    // Registers start as nonsense, so that none is zero by accident.
    warp.r.fill([u32::MAX; LANES]);
    warp.d.fill([u64::MAX; LANES]);
    warp.p.fill(0xaaaa_aaaa);
    let bank = &kernel.registers;
    bank.constants32.iter().for_each(|(slot, value)| warp.r[*slot as usize] = [*value; LANES]);
    bank.constants64.iter().for_each(|(slot, value)| warp.d[*slot as usize] = [*value; LANES]);
    bank.constants_pred.iter().for_each(|(slot, value)| warp.p[*slot as usize] = if *value { u32::MAX } else { 0 });
    for (slot, name) in &bank.special {
        warp.r[*slot as usize] = std::array::from_fn(|lane| special(name, shape, at, start, lane as u32));
    }
}

/// The value of a special register in a lane.
fn special(name: &str, shape: &Shape, at: [u32; 3], start: u32, lane: u32) -> u32 {
    let thread = start + lane;
    let [x, y, _] = shape.block;
    let tid = [thread % x, thread / x % y, thread / x / y];
    let axis = match name.as_bytes().last() {
        Some(b'y') => 1,
        Some(b'z') => 2,
        _ => 0,
    };
    match name.split('.').next().unwrap_or(name) {
        "%tid" => tid[axis],
        "%ntid" => shape.block[axis],
        "%ctaid" => at[axis],
        "%nctaid" => shape.grid[axis],
        "%laneid" => lane,
        "%warpid" => start / LANES as u32,
        "%lanemask_eq" => 1 << lane,
        "%lanemask_lt" => (1 << lane) - 1,
        "%lanemask_le" => u32::MAX >> (31 - lane),
        "%lanemask_gt" => !(u32::MAX >> (31 - lane)),
        _ => !((1 << lane) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 9.0
.visible .entry own(.param .u64 p) {
.reg .b32 %r<2>; .reg .b64 %rd<4>; ld.param.u64 %rd1, [p]; mov.u32 %r1, %ctaid.x;
mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r1; ret; }
.visible .entry same(.param .u64 p) {
.reg .b64 %rd<2>; ld.param.u64 %rd1, [p]; st.global.u32 [%rd1], 0; ret; }";

    #[test]
    fn when_stamps_run_out_the_next_launch_starts_anew() {
        let module = Module::parse(TEXT).unwrap();
        let mut memory = Memory::new();
        let address = memory.alloc("buffer", 8);
        let shape = Shape { grid: [2, 1, 1], block: [1, 1, 1], dynamic_shared: 0 };
        let launch = |memory: &mut Memory, kernel: &str| {
            module.launch(kernel, &shape, &[Arg::U64(address)], memory, &Options::default())
        };
        memory.next_stamp = HALF;
        launch(&mut memory, "own").unwrap();
        assert!(memory.next_stamp > HALF);
        // What stands in the shadow now would be far in the future of a launch that began with the first stamp.
        launch(&mut memory, "own").unwrap();
        assert!(memory.next_stamp < HALF);
        assert!(matches!(launch(&mut memory, "same"), Err(Error::Kernel(report)) if report.kind == Kind::Race));
    }
}
