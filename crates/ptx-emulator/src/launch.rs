//! Starts a kernel: checks the launch, runs cluster after cluster (mostly of one block each), lets warps take turns.

mod barrier;
mod start;

use barrier::Barriers;
use start::{reset, set_addresses, unfold};

use crate::cpu;
use crate::exec::{Cluster, Copies, LANES, Machine, Mbarriers, Stop, Warp, waits_in_vain};
use crate::memory::Memory;
use crate::op::{Op, Rare};
use crate::order::{HALF, History, Order, Released, SEGMENT};
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
    /// Blocks of a cluster (x, y, z). A kernel that prescribes its clusters may be launched with one block each, which
    /// stands for "as prescribed".
    pub cluster: [u32; 3],
    /// Whether it may start before the launches before it have ended (programmatic dependent launch). Then each of its threads
    /// must do `griddepcontrol.wait`, and before that may touch nothing that those launches have touched, one of the two
    /// writing: all of them back to the last one that was not dependent itself.
    pub dependent: bool,
}

impl Default for Shape {
    /// One thread.
    fn default() -> Shape {
        Shape { grid: [1; 3], block: [1; 3], dynamic_shared: 0, cluster: [1; 3], dependent: false }
    }
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
        let extent = cluster_shape(kernel, shape)?;
        let shape = &Shape { cluster: extent, ..*shape };
        let together = extent.iter().product::<u32>() as usize;
        let globals = self.globals.place(memory);
        let shared = (kernel.shared + shape.dynamic_shared) as usize;
        let warps = threads.div_ceil(LANES as u32) as usize;
        let forget = memory.next_stamp > HALF;
        if forget {
            memory.next_stamp = SEGMENT;
        }
        if options.sanitize {
            memory.buffers.iter_mut().for_each(|buffer| buffer.shadow.start_launch(forget));
        }
        if forget || !shape.dependent {
            memory.overlap = memory.next_stamp;
        }
        let history = History::new(memory.next_stamp, memory.overlap);
        let shadow = |rank: usize| {
            let shadow = SharedShadow::new(if options.sanitize { shared } else { 0 }, warps);
            if together == 1 { shadow } else { shadow.in_cluster((rank * warps) as u32) }
        };
        let machine = Machine {
            kernel,
            memory,
            params,
            shared: vec![0xff; shared],
            shared_shadow: shadow(0),
            sanitize: options.sanitize,
            history,
            released: Released::default(),
            first_block: 1,
            cluster: Cluster::new(together, shared, shadow),
            mbarriers: Mbarriers::new(),
            warps_per_block: warps as u32,
            floors: !kernel.code.iter().any(|instruction| stores_beside(&instruction.op)),
            steps: 0,
            lane_steps: 0,
        };
        let warps = new_warps(kernel, warps, together);
        let random = Random(options.seed);
        let mut launch = Launch { module: self, shape, options, machine, warps, random, globals, current: 0 };
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

/// The blocks of a cluster: what the kernel prescribes, or else what the launch asks for.
fn cluster_shape(kernel: &Kernel, shape: &Shape) -> Result<[u32; 3], Error> {
    let name = &kernel.name;
    let extent = match kernel.cluster {
        Some(extent) if shape.cluster != [1; 3] && shape.cluster != extent => {
            let asked = shape.cluster;
            return Err(Error::Launch(format!("{name} prescribes clusters of {extent:?} blocks, not of {asked:?}")));
        }
        Some(extent) => extent,
        None => shape.cluster,
    };
    let blocks = extent.iter().try_fold(1u32, |product, size| product.checked_mul(*size));
    if !blocks.is_some_and(|blocks| (1..=16).contains(&blocks)) {
        return Err(Error::Launch(format!("{name}: a cluster of {extent:?} blocks, at most 16 can be")));
    }
    if (0..3).any(|axis| !shape.grid[axis].is_multiple_of(extent[axis])) {
        let grid = shape.grid;
        return Err(Error::Launch(format!(
            "{name}: a grid of {grid:?} blocks is no multiple of clusters of {extent:?}"
        )));
    }
    Ok(extent)
}

/// Whether it is a store that goes on beside its warp.
fn stores_beside(op: &Op) -> bool {
    matches!(op, Op::Rare(rare) if matches!(**rare, Rare::StoreAsync { .. }))
}

/// The warps of all blocks that run side by side.
fn new_warps(kernel: &Kernel, per_block: usize, blocks: usize) -> Vec<Warp> {
    let count = per_block * blocks;
    let bank = &kernel.registers;
    let exact = kernel.code.iter().any(|instruction| match instruction.op {
        Op::Barrier { aligned, .. } => !aligned,
        Op::WarpBarrier { mask } => !bank.constants32.contains(&(mask, u32::MAX)),
        _ => false,
    });
    let new = |number| Warp {
        index: number % per_block,
        r: vec![[0; LANES]; bank.r as usize],
        d: Wide::new(bank.d as usize),
        p: vec![0; bank.p as usize],
        pc: [0; LANES],
        alive: 0,
        unwaited: 0,
        blocked: 0,
        waits: Vec::new(),
        tallies: Vec::new(),
        asleep: 0,
        order: Order::new(number, count, exact),
        local: vec![0xff; kernel.local as usize * LANES],
        local_written: vec![false; kernel.local as usize * LANES],
        copies: Copies::default(),
        sent: 0,
        arrived: None,
        asking: false,
        slices: 0,
    };
    (0..count).map(new).collect()
}

/// Rounds in which every warp that can run only asks whether it may go on, after which none is taken to get on ever.
const MOST_IDLE: u32 = 1_000;

/// Slices after which a warp that has asked once is taken to do something else: no loop around a question is as long.
const OTHER_WORK: u32 = 64;

/// Whether a warp has got on, as far as its stop tells.
fn has_moved(warp: &mut Warp, stop: &Stop) -> bool {
    match stop {
        Stop::Asleep => false,
        Stop::Yield => {
            warp.slices = 0;
            false
        }
        Stop::Slice => {
            warp.slices += 1;
            !warp.asking || warp.slices > OTHER_WORK
        }
        Stop::Done | Stop::Barrier(_) => true,
    }
}

struct Launch<'a> {
    module: &'a Module,
    shape: &'a Shape,
    options: &'a Options,
    machine: Machine<'a>,
    warps: Vec<Warp>,
    random: Random,
    /// Addresses of the module's variables.
    globals: Vec<u64>,
    /// The number of the cluster that runs.
    current: u32,
}

impl Launch<'_> {
    fn run(&mut self, blocks: u32, threads: u32) -> Result<Stats, Error> {
        let mut order: Vec<u32> = (0..blocks / self.blocks() as u32).collect();
        if self.options.seed != 0 {
            self.random.shuffle(&mut order);
        }
        for (number, cluster) in order.into_iter().enumerate() {
            self.start_cluster(number as u32, cluster, threads);
            self.run_cluster(threads)?;
            self.machine.clear_mbarriers();
        }
        Ok(Stats { warp_instructions: self.machine.steps, lane_instructions: self.machine.lane_steps })
    }

    /// How many blocks run side by side.
    fn blocks(&self) -> usize {
        self.machine.cluster.peers.len()
    }

    /// The coordinates of the running cluster's block of a rank.
    fn place(&self, rank: usize) -> [u32; 3] {
        let (grid, extent) = (self.shape.grid, self.shape.cluster);
        let across = [grid[0] / extent[0], grid[1] / extent[1]];
        let cluster =
            [self.current % across[0], self.current / across[0] % across[1], self.current / across[0] / across[1]];
        let within = unfold(rank as u32, extent);
        std::array::from_fn(|axis| cluster[axis] * extent[axis] + within[axis])
    }

    /// Makes all ready for a cluster, the `number`th that runs.
    fn start_cluster(&mut self, number: u32, cluster: u32, threads: u32) {
        self.current = cluster;
        let per_block = self.machine.warps_per_block;
        self.machine.shared.fill(0xff);
        self.machine.cluster.start(per_block, threads);
        let block_start = self.machine.history.next();
        for rank in 0..self.blocks() {
            self.machine.enter(rank);
            let at = self.place(rank);
            for warp in &mut self.warps[rank * per_block as usize..][..per_block as usize] {
                for (start, bytes) in warp.copies.clear() {
                    self.machine.shared_shadow.set(start, bytes, 0);
                }
                reset(warp, self.machine.kernel, self.shape, at, threads);
                set_addresses(warp, self.machine.kernel, &self.globals);
                let block = self.machine.first_block + number;
                warp.order.start(&mut self.machine.history, block, block_start, warp.alive);
            }
        }
    }

    fn run_cluster(&mut self, threads: u32) -> Result<(), Error> {
        let mut barriers: Vec<Barriers> = (0..self.blocks()).map(|_| Default::default()).collect();
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        let mut idle = 0;
        loop {
            if self.options.seed != 0 {
                self.random.shuffle(&mut order);
            }
            let (mut ran, mut moved) = (false, false);
            for &index in &order {
                if self.warps[index].alive & !self.warps[index].asleep == 0 {
                    continue;
                }
                let stop =
                    self.run_warp(&mut barriers, index, threads).map_err(|finding| self.report(finding, index))?;
                ran |= !matches!(stop, Stop::Asleep);
                moved |= has_moved(&mut self.warps[index], &stop);
            }
            if !ran {
                return self.rest(&barriers);
            }
            idle = if moved { 0 } else { idle + 1 };
            if idle > MOST_IDLE {
                let awake = |warp: &Warp| warp.alive & !warp.asleep != 0;
                let index = self.warps.iter().position(awake).unwrap_or(0);
                return Err(self.report(waits_in_vain(&self.warps[index]), index));
            }
        }
    }

    /// Lets a warp run until it must wait, or others have their turn.
    fn run_warp(&mut self, barriers: &mut [Barriers], index: usize, threads: u32) -> Result<Stop, Finding> {
        let rank = self.rank(index);
        self.machine.enter(rank);
        let slice = if self.options.seed == 0 { 4096 } else { self.random.slice() };
        let stop = cpu::run(&mut self.machine, &mut self.warps[index], slice)?;
        if let Stop::Barrier(arrival) = stop {
            self.arrive(&mut barriers[rank], index, arrival, threads).inspect_err(|finding| {
                // The report names the barrier, which the lane has just passed.
                self.warps[index].pc[finding.lane as usize] -= 1;
            })?;
        }
        let warp = &self.warps[index];
        if warp.alive == 0 {
            self.machine.leave(warp)?;
        }
        if self.machine.steps > self.options.max_steps {
            let detail = format!("after {} warp instructions", self.machine.steps);
            return Err(first_lane(warp, Kind::StepLimit, detail));
        }
        if self.machine.history.exhausted() {
            let detail = "more barriers and fences than the sanitizer can tell apart".to_string();
            return Err(first_lane(warp, Kind::StepLimit, detail));
        }
        Ok(stop)
    }

    /// The rank of a warp's block in its cluster.
    fn rank(&self, index: usize) -> usize {
        index / self.machine.warps_per_block as usize
    }

    fn report(&self, finding: Finding, index: usize) -> Error {
        let warp = &self.warps[index];
        let kernel = self.machine.kernel;
        // A warp that waits at a barrier already points behind it.
        let past = warp.asleep >> finding.lane & 1 == 1;
        let pc = warp.at(finding.lane).saturating_sub(u32::from(past)) as usize;
        let instruction = &kernel.places[pc.min(kernel.places.len() - 1)];
        let thread = warp.index as u32 * LANES as u32 + finding.lane;
        Error::Kernel(Box::new(Report {
            kind: finding.kind,
            kernel: kernel.name.clone(),
            file: self.module.files.get(&instruction.file).cloned(),
            line: instruction.line,
            opcode: kernel.opcodes[instruction.name as usize].clone(),
            block: self.place(self.rank(index)),
            thread: unfold(thread, self.shape.block),
            detail: finding.detail,
        }))
    }
}

/// A finding laid to a warp's first living lane.
fn first_lane(warp: &Warp, kind: Kind, detail: String) -> Finding {
    Finding { kind, lane: warp.alive.trailing_zeros() % LANES as u32, detail }
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
        let shape = Shape { grid: [2, 1, 1], ..Shape::default() };
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
