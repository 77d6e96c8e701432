//! How long a warp instruction takes, with all checks: runs the LSTM kernels of a PTX text, several times each.
//!
//! `cargo run -p ptx-emulator --example timing -- kernels.ptx [runs]`, on the text that
//! `cargo run --features cuda -- kernels --emit DIR` writes.

use std::error::Error;
use std::time::Instant;

use ptx_emulator::{Arg, Memory, Module, Options, Shape, Stats};

/// Numbers between -1 and 1 that look random.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Bench {
    module: Module,
    runs: u32,
}

impl Bench {
    /// Runs a kernel with buffers of so many numbers, the inputs filled, and prints the fastest run.
    fn kernel(
        &self,
        name: &str,
        (grid, block): ([u32; 3], [u32; 3]),
        buffers: &[(&str, usize, bool)],
        rest: &[Arg],
    ) -> Result<(), Box<dyn Error>> {
        let mut memory = Memory::new();
        let mut args = Vec::new();
        for (name, count, input) in buffers {
            let address = if *input { memory.alloc_f32(name, &numbers(*count)) } else { memory.alloc(name, count * 4) };
            args.push(Arg::U64(if *count == 0 { 0 } else { address }));
        }
        args.extend_from_slice(rest);
        let shape = Shape { grid, block, ..Shape::default() };
        for sanitize in [true, false] {
            let options = Options { sanitize, ..Options::default() };
            let (mut best, mut stats) = (f64::INFINITY, Stats::default());
            for _ in 0..self.runs {
                let start = Instant::now();
                stats = self.module.launch(name, &shape, &args, &mut memory, &options)?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            let (count, checks) = (stats.warp_instructions, if sanitize { "all checks" } else { "bounds only" });
            println!("{name}, {checks}: {count} warp instructions, {:.1} ns each", best / count as f64 * 1e9);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: timing kernels.ptx [runs]")?;
    let runs = arguments.next().map_or(Ok(5), |runs| runs.parse())?;
    let bench = Bench { module: Module::parse(&std::fs::read_to_string(path)?)?, runs };
    let (b, j, h) = (16, 29, 128);
    let g = 4 * h;
    let sizes = |sizes: &[usize]| sizes.iter().map(|size| Arg::S32(*size as i32)).collect::<Vec<_>>();
    let shape = ([1, 4, 1], [32, 8, 1]);
    let buffers = [
        ("x", b * j, true),
        ("fold", j * g, true),
        ("h_prev", b * h, true),
        ("w_h", h * g, true),
        ("c_prev", b * h, true),
        ("gates", b * g, false),
        ("c", b * h, false),
        ("h", b * h, false),
    ];
    bench.kernel("lstm_forward_step", shape, &buffers, &[sizes(&[b, j, h]), vec![Arg::F32(1.0)]].concat())?;
    let buffers = [
        ("da_next", b * g, true),
        ("dh_last", 0, true),
        ("w_h", h * g, true),
        ("gates", b * g, true),
        ("c_prev", b * h, true),
        ("c", b * h, true),
        ("dc", b * h, true),
        ("da", b * g, false),
    ];
    bench.kernel("lstm_backward_step", shape, &buffers, &sizes(&[b, h]))?;
    let (m, n, k) = (29, 512, 448);
    let mut memory = Memory::new();
    let a = memory.alloc_f32("a", &numbers(k * m));
    let with = memory.alloc_f32("b", &numbers(k * n));
    let c = memory.alloc("c", m * n * 4);
    let args = [
        Arg::U64(a),
        Arg::U64(with),
        Arg::U64(0),
        Arg::S32(0),
        Arg::U64(c),
        Arg::S32(m as i32),
        Arg::S32(n as i32),
        Arg::S32(k as i32),
        Arg::S32(k as i32),
    ];
    let shape = Shape { grid: [1, 8, 1], block: [128, 1, 1], ..Shape::default() };
    for sanitize in [true, false] {
        let options = Options { sanitize, ..Options::default() };
        let (mut best, mut stats) = (f64::INFINITY, Stats::default());
        for _ in 0..runs {
            let start = Instant::now();
            stats = bench.module.launch("product_tn", &shape, &args, &mut memory, &options)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        let (count, checks) = (stats.warp_instructions, if sanitize { "all checks" } else { "bounds only" });
        println!("product_tn, {checks}: {count} warp instructions, {:.1} ns each", best / count as f64 * 1e9);
    }
    Ok(())
}
