//! Latencies and rates of one GPU, by the probes of `kernels/probes/micro.cu`: what the design of kernels depends on, and no
//! manual tells. [`super::profile`] says where the time of an iteration goes; this says what could be had.
//!
//! Nothing here is used in training. The probes are compiled by NVRTC when they are asked for.

#![allow(unsafe_code)]

use super::device::{Buffer, Device, Launch, int};
use super::nvrtc::{Nvrtc, Target};
use super::{kept, profile};
use crate::Result;
use serde::Serialize;
use std::time::Instant;

/// The probes' text; no part of [`super::sources::KERNELS`].
pub const SOURCE: &str = include_str!("../../kernels/probes/micro.cu");

/// Steps of a chain in a round: `STEPS` of the text.
pub const STEPS: u32 = 16;
const WARP: u32 = 32;
/// A multiprocessor has four parts, each with its own warps, tensor core and special functions.
const PARTS: u32 = 4;
/// Bytes that a warp is given by a load of 16 bytes a lane.
const BYTES_OF_LOAD: u32 = 16 * WARP;
/// Operations of a warp in one m16n8k16; an m16n8k8 has half as many.
const OPERATIONS_OF_MMA: u32 = 2 * 16 * 8 * 16;

/// Architectures that tensor cores with bf16 and TF32, and clusters, begin with.
const MMA_FROM: u32 = 80;
const CLUSTERS_FROM: u32 = 90;
const DEPENDENT_FROM: u32 = 90;

/// Every probe, with the architecture that it begins with.
const KERNELS: [(&str, u32); 26] = [
    ("fma_1", 0),
    ("fma_8", 0),
    ("ex2_1", 0),
    ("ex2_4", 0),
    ("rcp_1", 0),
    ("rcp_4", 0),
    ("tanh_1", 0),
    ("tanh_4", 0),
    ("mma_bf16_1", MMA_FROM),
    ("mma_bf16_2", MMA_FROM),
    ("mma_bf16_4", MMA_FROM),
    ("mma_tf32_1", MMA_FROM),
    ("mma_tf32_2", MMA_FROM),
    ("mma_tf32_4", MMA_FROM),
    ("shared_chase", 0),
    ("shared_rate", 0),
    ("matrix_chase", 0),
    ("matrix_rate", 0),
    ("block_barrier", 0),
    ("named_barrier", 0),
    ("cluster_barrier", CLUSTERS_FROM),
    ("cluster_chase", CLUSTERS_FROM),
    ("cluster_exchange_2", CLUSTERS_FROM),
    ("cluster_exchange_4", CLUSTERS_FROM),
    ("empty", 0),
    ("dependent", DEPENDENT_FROM),
];

/// Names of the probes that GPUs of this architecture can run; 90 stands for `sm_90`.
pub fn kernels(architecture: u32) -> Vec<&'static str> {
    KERNELS.into_iter().filter(|(_, from)| architecture >= *from).map(|(name, _)| name).collect()
}

/// The probes as PTX that the driver of a GPU of this architecture translates.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`].
pub fn ptx(nvrtc: &Nvrtc, architecture: u32) -> Result<String> {
    // Clusters came with version 7.8. As with the kept kernels, a driver older than NVRTC takes nothing younger.
    let (target, version) = match architecture {
        CLUSTERS_FROM.. => ("compute_90", "7.8"),
        MMA_FROM.. => ("compute_80", kept::ISA),
        _ => ("compute_75", kept::ISA),
    };
    let compiled = nvrtc.compile(SOURCE, "micro.cu", &Target::Ptx(target.into()))?;
    let text = String::from_utf8_lossy(&compiled.code).into_owned();
    let line = |line: &str| match line.starts_with(".version ") {
        true => format!(".version {version}"),
        false => line.to_owned(),
    };
    Ok(text.lines().map(line).collect::<Vec<_>>().join("\n"))
}

/// What must be known of the GPU.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// 90 of `sm_90`.
    pub architecture: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
}

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of a probe that counts cycles on one multiprocessor.
    pub rounds: u32,
    /// Rounds of a probe that is timed.
    pub timed_rounds: u32,
    /// Launches in the smaller and the larger of two graphs.
    pub nodes: [usize; 2],
    /// Times that each thing is done; the fastest counts.
    pub turns: usize,
    /// Numbers to copy, and the size of the product: see [`profile::ceilings`].
    pub copied: usize,
    /// Rows, columns and summands of a product.
    pub product: usize,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// None where the device's clock gave no figure.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// The question of the kernels' design that it answers.
    pub decides: &'static str,
}

/// All figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Micro {
    /// One for each thing measured.
    pub rows: Vec<Row>,
    /// What this GPU cannot do, and what it refused, a line each.
    pub left_out: Vec<String>,
}

impl Micro {
    fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, decides: &'static str) {
        // Nothing takes no time: a clock that stood still has told nothing.
        let value = Some(value).filter(|value| value.is_finite() && *value > 0.0);
        self.rows.push(Row { name: name.into(), value, unit, decides });
    }
}

// ---- arithmetic ----

/// From the first warp's beginning to the last one's end, in the block that took longest; of the [blocks, warps, 2] clocks
/// of a launch. Clocks of different blocks may be of different multiprocessors, and are not compared.
pub fn span(clocks: &[u64], warps: usize) -> u64 {
    let of_block = |block: &[u64]| {
        let began = block.iter().step_by(2).min().copied().unwrap_or(0);
        let ended = block.iter().skip(1).step_by(2).max().copied().unwrap_or(0);
        ended.saturating_sub(began)
    };
    clocks.chunks(2 * warps.max(1)).map(of_block).max().unwrap_or(0)
}

/// Cycles of one step of a chain.
pub fn latency(cycles: u64, rounds: u32) -> f64 {
    cycles as f64 / f64::from(rounds * STEPS)
}

/// Cycles that a part of a multiprocessor takes for one instruction, where each of the block's warps, spread over the four
/// parts, makes `chains` of them in a step.
pub fn cycles_of_part(cycles: u64, rounds: u32, chains: u32, warps: u32) -> f64 {
    cycles as f64 * f64::from(PARTS) / f64::from(rounds * STEPS * chains * warps)
}

/// How many of something a multiprocessor makes in a cycle, where each of the block's warps makes `of_warp` in a step.
pub fn per_cycle(cycles: u64, rounds: u32, of_warp: u32, warps: u32) -> f64 {
    f64::from(rounds * STEPS) * f64::from(of_warp) * f64::from(warps) / cycles as f64
}

/// Operations in a second of a whole GPU, in units of 10^12, where each warp makes `of_warp` in a step.
pub fn tera_operations(warps: u64, rounds: u32, of_warp: u32, seconds: f64) -> f64 {
    warps as f64 * f64::from(rounds) * f64::from(STEPS) * f64::from(of_warp) / seconds / 1e12
}

/// What one more of them takes, given the time of few and of many: what does not depend on their number falls out.
pub fn slope(counts: [usize; 2], times: [f64; 2]) -> f64 {
    (times[1] - times[0]) / (counts[1] as f64 - counts[0] as f64)
}

// ---- running a probe ----

/// A launch of a probe, `empty` and `dependent` apart.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name.
    pub kernel: &'static str,
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block, a multiple of 32.
    pub threads: u32,
    /// Blocks of a cluster; 1 where there are none.
    pub cluster: u32,
}

impl Probe {
    /// One block.
    pub fn block(kernel: &'static str, threads: u32) -> Self {
        Self { kernel, blocks: 1, threads, cluster: 1 }
    }

    /// One cluster of blocks of 256 threads.
    pub fn cluster(kernel: &'static str, blocks: u32) -> Self {
        Self { kernel, blocks, threads: 256, cluster: blocks }
    }

    fn warps(&self) -> u32 {
        self.threads / WARP
    }
}

/// A probe with room for what it writes.
pub struct Bench<'a, D: Device> {
    device: &'a D,
    probe: Probe,
    clocks: Buffer<D, u64>,
    kept: Buffer<D, u32>,
}

impl<'a, D: Device> Bench<'a, D> {
    /// Makes the room.
    ///
    /// # Errors
    ///
    /// If the device has none.
    ///
    /// # Panics
    ///
    /// If the block is none that every probe takes, or the cluster is none of its blocks.
    pub fn new(device: &'a D, probe: Probe) -> Result<Self> {
        let Probe { blocks, threads, cluster, .. } = probe;
        let most = if probe.kernel.ends_with("_barrier") { 1024 } else { 512 };
        assert!(threads > 0 && threads <= most && threads.is_multiple_of(2 * WARP) || threads == WARP, "{probe:?}");
        assert!(blocks > 0 && cluster > 0 && blocks.is_multiple_of(cluster), "{probe:?}");
        let clocks = Buffer::new(device, "clocks", (2 * blocks * probe.warps()) as usize)?;
        let kept = Buffer::new(device, "results of a probe", (blocks * threads) as usize)?;
        Ok(Self { device, probe, clocks, kept })
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn launch(&self, rounds: u32) -> Result<()> {
        let Probe { kernel, blocks, threads, cluster } = self.probe;
        let args =
            [self.clocks.all().arg(self.clocks.len()), self.kept.all().arg(self.kept.len()), int(rounds as usize)];
        let launch = Launch {
            kernel,
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            cluster: [cluster, 1, 1],
            shared: 0,
            dependent: false,
            args: &args,
        };
        // SAFETY: the arguments are those of the contract, and the buffers have room for all blocks, warps and threads; the
        // block's size was checked in `new`.
        unsafe { self.device.launch(&launch) }
    }

    /// What the last launch left in `clocks` and in `kept`.
    ///
    /// # Errors
    ///
    /// If it failed.
    pub fn results(&self) -> Result<(Vec<u64>, Vec<u32>)> {
        Ok((self.clocks.download(self.device, self.clocks.len())?, self.kept.download(self.device, self.kept.len())?))
    }

    /// Cycles of the fastest turn.
    fn cycles(&self, effort: &Effort) -> Result<u64> {
        let mut best = u64::MAX;
        // One turn more: the first brings the code to the multiprocessor.
        for _ in 0..=effort.turns {
            self.launch(effort.rounds)?;
            let (clocks, _) = self.results()?;
            best = best.min(span(&clocks, self.probe.warps() as usize));
        }
        Ok(best)
    }

    /// Seconds of the fastest turn.
    fn seconds(&self, rounds: u32, turns: usize) -> Result<f64> {
        self.launch(rounds)?;
        let times = (0..turns.max(1)).map(|_| self.device.time(&mut || self.launch(rounds)));
        Ok(f64::from(times.collect::<Result<Vec<_>>>()?.into_iter().fold(f32::INFINITY, f32::min)) / 1e3)
    }
}

fn cycles<D: Device>(device: &D, effort: &Effort, probe: Probe) -> Result<u64> {
    Bench::new(device, probe)?.cycles(effort)
}

// ---- what is measured ----

/// Measures all that the GPU can do.
///
/// # Errors
///
/// If the device fails. A cluster that it refuses is left out.
pub fn measure<D: Device>(device: &D, machine: &Machine, effort: &Effort) -> Result<Micro> {
    let mut micro = Micro::default();
    clock(device, effort, &mut micro)?;
    if machine.architecture >= MMA_FROM {
        tensor_cores(device, effort, &mut micro)?;
    } else {
        micro.left_out.push(format!("mma.sync in bf16 and TF32: from sm_{MMA_FROM} on"));
    }
    special_functions(device, effort, &mut micro)?;
    shared_memory(device, effort, &mut micro)?;
    barriers(device, effort, &mut micro)?;
    if machine.architecture >= CLUSTERS_FROM {
        clusters(device, effort, &mut micro);
    } else {
        micro.left_out.push(format!("clusters and their shared memory: from sm_{CLUSTERS_FROM} on"));
    }
    launches(device, machine, effort, &mut micro)?;
    copies(device, effort, &mut micro)?;
    ceilings(device, machine, effort, &mut micro)?;
    Ok(micro)
}

/// How fast the clock runs that all cycles are of.
fn clock<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) -> Result<()> {
    let bench = Bench::new(device, Probe::block("fma_1", WARP))?;
    // Long beside the launch.
    let rounds = effort.timed_rounds.saturating_mul(8);
    let seconds = bench.seconds(rounds, effort.turns)?;
    let ticks = span(&bench.results()?.0, 1);
    micro.add("clock, one warp at work", ticks as f64 / seconds / 1e9, "GHz", "turns cycles into time");
    Ok(())
}

fn tensor_cores<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) -> Result<()> {
    const CHAINS: [[(u32, &str); 3]; 2] = [
        [(1, "mma_bf16_1"), (2, "mma_bf16_2"), (4, "mma_bf16_4")],
        [(1, "mma_tf32_1"), (2, "mma_tf32_2"), (4, "mma_tf32_4")],
    ];
    for (name, chains) in ["mma m16n8k16 bf16", "mma m16n8k8 tf32"].into_iter().zip(CHAINS) {
        let alone = cycles(device, effort, Probe::block(chains[0].1, WARP))?;
        micro.add(
            format!("{name}, latency"),
            latency(alone, effort.rounds),
            "cycles",
            "the time of a step of the recurrence that no number of warps hides",
        );
        for (count, kernel) in chains {
            for warps in [1, 2, 4] {
                let taken = cycles(device, effort, Probe::block(kernel, PARTS * warps * WARP))?;
                micro.add(
                    format!("{name}, warps a part {warps}, chains {count}"),
                    cycles_of_part(taken, effort.rounds, count, PARTS * warps),
                    "cycles/instruction",
                    "warps and accumulators that keep a tensor core busy",
                );
            }
        }
    }
    Ok(())
}

fn special_functions<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) -> Result<()> {
    const DECIDES: &str = "which form of sigmoid and tanh the gates can afford";
    let of = [("fma", "fma_1", "fma_8", 8), ("ex2.approx", "ex2_1", "ex2_4", 4), ("rcp.approx", "rcp_1", "rcp_4", 4)];
    for (name, one, many, chains) in of.into_iter().chain([("tanh.approx", "tanh_1", "tanh_4", 4)]) {
        let alone = cycles(device, effort, Probe::block(one, WARP))?;
        micro.add(format!("{name}, latency"), latency(alone, effort.rounds), "cycles", DECIDES);
        let warps = 16;
        let taken = cycles(device, effort, Probe::block(many, warps * WARP))?;
        let rate = per_cycle(taken, effort.rounds, chains * WARP, warps);
        micro.add(format!("{name}, rate"), rate, "results/cycle", DECIDES);
    }
    Ok(())
}

fn shared_memory<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) -> Result<()> {
    const DECIDES: &str = "whether operands of a step come from shared memory in time, or must stay in registers";
    for (name, chase, rate) in
        [("ld.shared", "shared_chase", "shared_rate"), ("ldmatrix.x4", "matrix_chase", "matrix_rate")]
    {
        let alone = cycles(device, effort, Probe::block(chase, WARP))?;
        micro.add(format!("{name}, latency"), latency(alone, effort.rounds), "cycles", DECIDES);
        for warps in [4, 8, 16] {
            let taken = cycles(device, effort, Probe::block(rate, warps * WARP))?;
            let rate = per_cycle(taken, effort.rounds, BYTES_OF_LOAD, warps);
            micro.add(format!("{name} of 16 bytes a lane, {warps} warps"), rate, "bytes/cycle", DECIDES);
        }
    }
    Ok(())
}

fn barriers<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) -> Result<()> {
    for warps in [8, 16] {
        let taken = cycles(device, effort, Probe::block("block_barrier", warps * WARP))?;
        micro.add(
            format!("__syncthreads, {warps} warps"),
            latency(taken, effort.rounds),
            "cycles",
            "warps of a block that walks through all steps",
        );
        let taken = cycles(device, effort, Probe::block("named_barrier", 2 * warps * WARP))?;
        micro.add(
            format!("named barrier, 2 groups of {warps} warps"),
            latency(taken, effort.rounds),
            "cycles",
            "whether two groups of sequences can share a block",
        );
    }
    Ok(())
}

fn clusters<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) {
    const DECIDES: &str = "whether blocks can share a step of the recurrence";
    for (blocks, exchange) in [(2, "cluster_exchange_2"), (4, "cluster_exchange_4")] {
        for (name, kernel) in [
            ("cluster barrier", "cluster_barrier"),
            ("load from the next block", "cluster_chase"),
            ("store to all blocks, barrier, load", exchange),
        ] {
            match cycles(device, effort, Probe::cluster(kernel, blocks)) {
                Ok(taken) => {
                    let name = format!("{name}, {blocks} blocks");
                    micro.add(name, latency(taken, effort.rounds), "cycles", DECIDES);
                }
                Err(error) => micro.left_out.push(format!("{name}, {blocks} blocks: {error}")),
            }
        }
    }
}

fn launches<D: Device>(device: &D, machine: &Machine, effort: &Effort, micro: &mut Micro) -> Result<()> {
    let launch = |kernel: &'static str, blocks: u32, threads: u32| {
        let (grid, block, dependent) = ([blocks, 1, 1], [threads, 1, 1], kernel == "dependent");
        let launch = Launch { kernel, grid, block, cluster: [1; 3], shared: 0, dependent, args: &[] };
        // SAFETY: it touches nothing.
        unsafe { device.launch(&launch) }
    };
    let empty = |blocks: u32, threads: u32| launch("empty", blocks, threads);
    let gap = |kernel: &'static str, blocks: u32, threads: u32| -> Result<f64> {
        let mut times = [0.0; 2];
        for (nodes, time) in effort.nodes.into_iter().zip(&mut times) {
            let graph = device.capture(&mut || (0..nodes).try_for_each(|_| launch(kernel, blocks, threads)))?;
            *time = fastest(device, effort, &mut || device.replay(&graph))?;
        }
        Ok(slope(effort.nodes, times))
    };
    for (size, blocks, threads) in [("1 warp", 1, WARP), ("all multiprocessors", machine.multiprocessors, 256)] {
        let name = format!("graph node, empty, {size}");
        micro.add(name, gap("empty", blocks, threads)? * 1e6, "us", "how many kernels an iteration may have");
        if machine.architecture < DEPENDENT_FROM {
            continue;
        }
        let name = format!("graph node, dependent, {size}");
        match gap("dependent", blocks, threads) {
            Ok(gap) => {
                micro.add(name, gap * 1e6, "us", "whether a launch should start before the one before it has ended")
            }
            Err(error) => micro.left_out.push(format!("{name}: {error}")),
        }
    }
    let count = effort.nodes[1].max(1);
    let many = &mut || (0..count).try_for_each(|_| empty(1, WARP));
    let back_to_back = fastest(device, effort, many)? / count as f64;
    micro.add("launch without a graph, one after the other", back_to_back * 1e6, "us", "what a graph saves");
    let waited = on_host(device, effort, &mut || empty(1, WARP))?;
    micro.add("launch and wait, on the host", waited * 1e6, "us", "how many iterations one recording should hold");
    Ok(())
}

fn copies<D: Device>(device: &D, effort: &Effort, micro: &mut Micro) -> Result<()> {
    const SMALL: usize = 1024;
    let mut buffer = Buffer::<D, u32>::new(device, "a small copy", SMALL)?;
    let numbers = vec![1; SMALL];
    let up = on_host(device, effort, &mut || buffer.upload(device, &numbers))?;
    micro.add("4 KB to the device and wait, on the host", up * 1e6, "us", "whether rows go up with each iteration");
    let down = on_host(device, effort, &mut || buffer.download(device, 1).map(drop))?;
    micro.add("4 bytes from the device, on the host", down * 1e6, "us", "how often a loss may be looked at");
    Ok(())
}

fn ceilings<D: Device>(device: &D, machine: &Machine, effort: &Effort, micro: &mut Micro) -> Result<()> {
    let kernels = profile::ceilings(device, effort.copied, effort.product)?;
    micro.add(
        "copy by sum_parts, read and written",
        kernels.bytes_per_second / 1e9,
        "GB/s",
        "the least time of all that goes through memory",
    );
    micro.add(
        "product f32 by product_nn",
        kernels.operations_per_second / 1e12,
        "TFLOP/s",
        "what is left to gain in f32 products",
    );
    let of = [
        ("f32 by fma, operands in registers", "fma_8", 8 * 2 * WARP, 0),
        ("tf32 by mma, operands in registers", "mma_tf32_4", 4 * OPERATIONS_OF_MMA / 2, MMA_FROM),
        ("bf16 by mma, operands in registers", "mma_bf16_4", 4 * OPERATIONS_OF_MMA, MMA_FROM),
    ];
    for (name, kernel, of_warp, from) in of {
        if machine.architecture < from {
            continue;
        }
        // Two blocks of 16 warps on each multiprocessor.
        let probe = Probe { kernel, blocks: 2 * machine.multiprocessors, threads: 512, cluster: 1 };
        let seconds = Bench::new(device, probe)?.seconds(effort.timed_rounds, effort.turns)?;
        let warps = u64::from(probe.blocks) * u64::from(probe.warps());
        let rate = tera_operations(warps, effort.timed_rounds, of_warp, seconds);
        micro.add(name, rate, "TFLOP/s", "the least time of all products, and what another precision could gain");
    }
    Ok(())
}

/// Seconds of the device, of the fastest turn.
fn fastest<D: Device>(device: &D, effort: &Effort, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let times: Vec<f32> = (0..effort.turns.max(1)).map(|_| device.time(work)).collect::<Result<_>>()?;
    Ok(f64::from(times.into_iter().fold(f32::INFINITY, f32::min)) / 1e3)
}

/// Seconds on the host until `work` is done, of the fastest turn.
fn on_host<D: Device>(device: &D, effort: &Effort, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..=effort.turns {
        device.synchronize()?;
        let started = Instant::now();
        work()?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}
