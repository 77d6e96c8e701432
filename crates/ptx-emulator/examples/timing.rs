//! How long a warp instruction takes, with all checks and without: runs the LSTM kernels of a PTX text, several times each,
//! and prints the fastest run.
//!
//! `cargo run -p ptx-emulator --example timing -- kernels.ptx [runs]`, on the text that
//! `cargo run --features cuda -- kernels --emit DIR` writes. The dev profile is meant: it is that of the tests.

use std::error::Error;
use std::time::Instant;

use ptx_emulator::{Arg, Memory, Module, Options, Shape, Stats};

/// An argument: a buffer of so many numbers, filled or never written; no buffer; or a size.
enum Is {
    Filled(usize),
    Fresh(usize),
    Null,
    Size(usize),
    Number(f32),
}

use Is::{Filled, Fresh, Null, Number, Size};

/// Numbers between -1 and 1 that look random.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Timing {
    module: Module,
    runs: u32,
}

impl Timing {
    fn kernel(&self, name: &str, grid: [u32; 3], block: [u32; 3], arguments: &[Is]) -> Result<(), Box<dyn Error>> {
        let mut memory = Memory::new();
        let mut argument = |is: &Is| match is {
            Filled(count) => Arg::U64(memory.alloc_f32("filled", &numbers(*count))),
            Fresh(count) => Arg::U64(memory.alloc("fresh", count * 4)),
            Null => Arg::U64(0),
            Size(size) => Arg::S32(*size as i32),
            Number(number) => Arg::F32(*number),
        };
        let args: Vec<Arg> = arguments.iter().map(&mut argument).collect();
        let shape = Shape { grid, block, ..Shape::default() };
        for (sanitize, checks) in [(true, "all checks"), (false, "bounds only")] {
            let options = Options { sanitize, ..Options::default() };
            let (mut best, mut stats) = (f64::INFINITY, Stats::default());
            for _ in 0..self.runs {
                let start = Instant::now();
                stats = self.module.launch(name, &shape, &args, &mut memory, &options)?;
                best = best.min(start.elapsed().as_secs_f64());
            }
            let count = stats.warp_instructions;
            println!("{name}, {checks}: {count} warp instructions, {:.1} ns each", best / count as f64 * 1e9);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: timing kernels.ptx [runs]")?;
    let runs = arguments.next().map_or(Ok(30), |runs| runs.parse())?;
    let timing = Timing { module: Module::parse(&std::fs::read_to_string(path)?)?, runs };

    let (b, j, h) = (16, 29, 128);
    let g = 4 * h;
    let (rows, cells) = (Filled(b * h), || Fresh(b * h));
    let (x, fold, w_h, c_prev) = (Filled(b * j), Filled(j * g), Filled(h * g), Filled(b * h));
    let sizes = [Size(b), Size(j), Size(h), Number(1.0)];
    let forward = [x, fold, rows, w_h, c_prev, Fresh(b * g), cells(), cells()];
    let forward: Vec<Is> = forward.into_iter().chain(sizes).collect();
    timing.kernel("lstm_forward_step", [1, 4, 1], [32, 8, 1], &forward)?;

    let (da_next, gates, state) = (Filled(b * g), Filled(b * g), || Filled(b * h));
    let w_h = Filled(h * g);
    let backward = [da_next, Null, w_h, gates, state(), state(), state(), Fresh(b * g), Size(b), Size(h)];
    timing.kernel("lstm_backward_step", [1, 4, 1], [32, 8, 1], &backward)?;

    let (m, n, k) = (29, 512, 448);
    let product = [Filled(k * m), Filled(k * n), Null, Size(0), Fresh(m * n), Size(m), Size(n), Size(k), Size(k)];
    timing.kernel("product_tn", [1, 8, 1], [128, 1, 1], &product)
}
