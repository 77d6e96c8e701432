//! Random kernels against a race detector that is as plain as can be: a vector clock for every thread, and a list of all
//! accesses to every byte. The emulator must refuse the same instruction as it does, or none.

use std::collections::HashMap;
use std::fmt::Write;

use ptx_emulator::{Arg, Error, Memory, Module, Options, Shape};

const WARPS: usize = 3;
const THREADS: usize = 32 * WARPS;
const BLOCKS: usize = 2;
/// Words of shared memory, and of the global buffer.
const WORDS: u32 = 128;
/// Of a lane that is switched off.
const OFF: u32 = 1 << 31;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(bound)) as u32
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Whether it is shared memory, whether it is a write, whether it is of single bytes, and each thread's word.
    Access {
        shared: bool,
        write: bool,
        bytes: bool,
        words: Vec<u32>,
    },
    Barrier,
    /// The mask of the lanes of each half-warp.
    WarpBarrier([u32; 2]),
}

/// Each thread's word: in the patterns that the emulator knows, and in none; or those of an earlier access.
fn words(random: &mut Random, earlier: &[u32]) -> Vec<u32> {
    let (pattern, base, step) = (random.below(9), random.below(WORDS), 1 + random.below(3));
    let permutation = random.below(32);
    let mut words: Vec<u32> = (0..THREADS as u32)
        .map(|thread| match pattern {
            0 => base,
            1 => base + thread / 32,
            2 => base + thread,
            3 => base + thread / 16,
            4 => base + thread % 16,
            5 => base + thread * step,
            6 => thread ^ permutation,
            7 => thread,
            _ => random.below(WORDS),
        })
        .map(|word| word % WORDS)
        .collect();
    if random.below(3) == 0 {
        words = earlier.to_vec();
    }
    let (first, count) = (random.below(THREADS as u32) as usize, random.below(8) as usize);
    match random.below(6) {
        // One warp, one lane, all but some lanes, half a warp.
        0 => words.iter_mut().enumerate().filter(|(n, _)| n / 32 != first / 32).for_each(|(_, word)| *word = OFF),
        1 => words.iter_mut().enumerate().filter(|(n, _)| *n != first).for_each(|(_, word)| *word = OFF),
        2 => words.iter_mut().enumerate().filter(|(n, _)| n % 32 < count).for_each(|(_, word)| *word = OFF),
        3 => words.iter_mut().enumerate().filter(|(n, _)| n / 16 != first / 16).for_each(|(_, word)| *word = OFF),
        _ => {}
    }
    words
}

fn program(random: &mut Random) -> Vec<Op> {
    let partial = random.below(2) == 0;
    let bytes = random.below(6) == 0;
    // Shared memory is filled first, so that not every program ends with an uninitialised read.
    let mut ops = Vec::new();
    for start in [0, THREADS as u32] {
        let words = (0..THREADS as u32).map(|t| if start + t < WORDS { start + t } else { OFF }).collect();
        ops.push(Op::Access { shared: true, write: true, bytes: false, words });
    }
    ops.push(Op::Barrier);
    let mut earlier = vec![0; THREADS];
    for _ in 0..3 + random.below(12) {
        ops.push(match random.below(10) {
            0 | 1 => Op::Barrier,
            2 => Op::WarpBarrier([u32::MAX; 2]),
            3 if partial => Op::WarpBarrier([0xffff, 0xffff_0000]),
            kind => {
                let words = words(random, &earlier);
                earlier.clone_from(&words);
                let bytes = bytes && random.below(3) == 0;
                Op::Access { shared: random.below(3) > 0, write: kind == 4, bytes, words }
            }
        });
    }
    ops
}

/// The PTX of a program: each operation on a source line of its own, the words from a table.
fn text(ops: &[Op]) -> String {
    let mut body = String::from(
        ".version 9.0 .target sm_75 .address_size 64
.file 1 \"random.cu\"
.visible .entry random(.param .u64 pg, .param .u64 pt) {
.reg .pred %p<3>; .reg .b32 %r<8>; .reg .b64 %rd<9>;
.shared .align 8 .b8 s[512];
ld.param.u64 %rd1, [pg]; ld.param.u64 %rd2, [pt]; mov.u64 %rd3, s;
mov.u32 %r1, %tid.x; mul.wide.u32 %rd4, %r1, 4; add.s64 %rd2, %rd2, %rd4; and.b32 %r5, %r1, 16; setp.eq.u32 %p2, %r5, 0;
",
    );
    for (n, op) in ops.iter().enumerate() {
        let _ = match op {
            Op::Barrier => writeln!(body, ".loc 1 {} 0\nbar.sync 0;", n + 1),
            Op::WarpBarrier([u32::MAX, _]) => writeln!(body, ".loc 1 {} 0\nbar.warp.sync -1;", n + 1),
            Op::WarpBarrier([low, high]) => {
                writeln!(body, ".loc 1 {} 0\nselp.b32 %r6, {low}, {high}, %p2; bar.warp.sync %r6;", n + 1)
            }
            Op::Access { shared, write, bytes, .. } => {
                let (space, base) = if *shared { ("shared", "%rd3") } else { ("global", "%rd1") };
                let size = if *bytes { "u8" } else { "u32" };
                let access = match write {
                    true => format!("st.{space}.{size} [%rd6+4], %r1;"),
                    false => format!("ld.{space}.{size} %r3, [%rd6+4];"),
                };
                writeln!(
                    body,
                    ".loc 1 {} 0\nld.global.u32 %r2, [%rd2+{}]; setp.lt.u32 %p1, %r2, {OFF};
                     mul.wide.u32 %rd5, %r2, 4; add.s64 %rd6, {base}, %rd5; add.s64 %rd6, %rd6, -4; @%p1 {access}",
                    n + 1,
                    n * THREADS * 4
                )
            }
        };
    }
    body + "ret; }"
}

/// The number of the operation that the emulator refuses.
fn emulated(ops: &[Op], options: &Options) -> Option<usize> {
    let mut memory = Memory::new();
    let g = memory.alloc_f32("g", &[0.0; WORDS as usize]);
    let table: Vec<u8> = ops
        .iter()
        .flat_map(|op| match op {
            Op::Access { words, .. } => words.clone(),
            _ => vec![OFF; THREADS],
        })
        .flat_map(u32::to_le_bytes)
        .collect();
    let at = memory.alloc("table", table.len());
    memory.write(at, &table).unwrap();
    let shape = Shape { grid: [BLOCKS as u32, 1, 1], block: [THREADS as u32, 1, 1], ..Shape::default() };
    let module = Module::parse(&text(ops)).unwrap();
    match module.launch("random", &shape, &[Arg::U64(g), Arg::U64(at)], &mut memory, options) {
        Ok(_) => None,
        Err(Error::Kernel(report)) => Some(report.line as usize - 1),
        Err(error) => panic!("{error}"),
    }
}

/// An access that was: thread (of all blocks), its time, whether it wrote.
type Past = (usize, u32, bool);

#[derive(Default)]
struct Detector {
    clocks: Vec<Vec<u32>>,
    /// By space and block (0 for global memory) and byte.
    accesses: HashMap<(bool, usize, u32), Vec<Past>>,
}

impl Detector {
    /// Whether a thread's access to a byte is right.
    fn access(&mut self, place: (bool, usize, u32), thread: usize, write: bool) -> bool {
        let clocks = &self.clocks;
        let past = self.accesses.entry(place).or_default();
        let race = |other: &Past| {
            let ordered = other.0 == thread || clocks[thread][other.0] >= other.1;
            (write || other.2) && !ordered
        };
        let uninitialised = place.0 && !write && !past.iter().any(|other| other.2);
        let fine = !past.iter().any(race) && !uninitialised;
        past.push((thread, clocks[thread][thread], write));
        fine
    }

    /// These threads meet.
    fn meet(&mut self, threads: &[usize]) {
        let mut joined = vec![0; self.clocks.len()];
        for thread in threads {
            joined.iter_mut().zip(&self.clocks[*thread]).for_each(|(into, tick)| *into = (*into).max(*tick));
        }
        for thread in threads {
            self.clocks[*thread].clone_from(&joined);
            self.clocks[*thread][*thread] += 1;
        }
    }

    /// Runs one warp up to the next barrier of the block; gives the operation that is wrong.
    fn warp(&mut self, ops: &[Op], mut at: usize, first: usize) -> Result<usize, usize> {
        while let Some(op) = ops.get(at) {
            match op {
                Op::Barrier => break,
                Op::WarpBarrier(masks) => {
                    for mask in &masks[..if masks[0] == masks[1] { 1 } else { 2 }] {
                        let lanes: Vec<usize> = (0..32).filter(|lane| mask >> lane & 1 == 1).collect();
                        self.meet(&lanes.iter().map(|lane| first + lane).collect::<Vec<_>>());
                    }
                }
                Op::Access { shared, write, bytes, words } => {
                    let block = if *shared { first / THREADS } else { 0 };
                    for thread in (first..first + 32).filter(|thread| words[thread % THREADS] != OFF) {
                        let start = 4 * words[thread % THREADS];
                        let end = start + if *bytes { 1 } else { 4 };
                        // All bytes are noted, so that the next lane sees them.
                        let fine = (start..end)
                            .fold(true, |fine, byte| self.access((*shared, block, byte), thread, *write) & fine);
                        if !fine {
                            return Err(at);
                        }
                    }
                }
            }
            at += 1;
        }
        Ok(at)
    }
}

/// The number of the operation that is wrong: blocks one after another, warps in turn from barrier to barrier.
fn expected(ops: &[Op]) -> Option<usize> {
    let all = THREADS * BLOCKS;
    let clocks = (0..all).map(|thread| (0..all).map(|other| u32::from(other == thread)).collect()).collect();
    let mut detector = Detector { clocks, ..Detector::default() };
    for block in 0..BLOCKS {
        let mut at = 0;
        while at < ops.len() {
            let mut end = at;
            for warp in 0..WARPS {
                match detector.warp(ops, at, block * THREADS + 32 * warp) {
                    Ok(stop) => end = stop,
                    Err(wrong) => return Some(wrong),
                }
            }
            detector.meet(&(block * THREADS..(block + 1) * THREADS).collect::<Vec<_>>());
            at = end + 1;
        }
    }
    None
}

#[test]
fn random_programs_are_refused_where_a_plain_detector_refuses_them() {
    let (mut clean, mut late) = (0, 0);
    for seed in 0..1500 {
        let ops = program(&mut Random(seed));
        let (found, expected) = (emulated(&ops, &Options::default()), expected(&ops));
        assert_eq!(found, expected, "seed {seed}: {ops:?}");
        // In another order another operation may be the first that is wrong, but a right program stays right.
        let shuffled = Options { seed: seed + 1, ..Options::default() };
        assert_eq!(emulated(&ops, &shuffled).is_some(), expected.is_some(), "seed {seed}, shuffled: {ops:?}");
        clean += usize::from(expected.is_none());
        late += usize::from(expected.is_some_and(|at| at > 6));
        assert_eq!(emulated(&ops, &Options { sanitize: false, ..shuffled }), None, "seed {seed}");
    }
    // The programs are of all sorts: right ones, and such in which the bug comes after a while.
    assert!(clean > 100 && late > 100, "{clean} right, {late} wrong after a while");
}
