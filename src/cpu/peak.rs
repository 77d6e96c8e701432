//! What the microkernel alone reaches: the ceiling that an iteration's speed is held against.

use super::simd::{Isa, Kernel, Pair, Simd};
use super::tile::{Factor, Left, Product, Right, narrow};
use crate::precision::Precision;
use std::time::Instant;

/// A product of the default model's size, small enough for the first-level cache.
const DEPTH: usize = 156;
const ROWS: usize = 48;

/// Floating-point operations per second of one core on the microkernel alone, the best of `rounds` (each about 0.2 ms).
pub fn microkernel(isa: Isa, rounds: usize) -> f64 {
    match isa.precision() {
        Precision::Bf16 => 2.0 * with(isa, rounds, Pair::new(0.5, 0.5), Pair::new(0.25, 0.25)),
        _ => with(isa, rounds, 0.5, 0.25),
    }
}

fn with<E: Factor>(isa: Isa, rounds: usize, left: E, right: E) -> f64 {
    let lanes = isa.lanes();
    let left = vec![left; ROWS * DEPTH];
    let right = vec![right; DEPTH * 2 * lanes];
    let mut out = vec![0.0; ROWS * 2 * lanes];
    /// Products in a round.
    const TIMES: usize = 32;
    let operations = (2 * TIMES * ROWS * DEPTH * 2 * lanes) as f64;
    let round = |_| {
        let started = Instant::now();
        for _ in 0..TIMES {
            isa.run(Peak { left: &left, right: &right, out: std::hint::black_box(&mut out) });
        }
        operations / started.elapsed().as_secs_f64()
    };
    (0..rounds).map(round).fold(0.0, f64::max)
}

/// The sum of `numbers`, whose order is that of eight vectors side by side; a rest is left out. It does hardly more than read
/// them: the floor that a step of a stream, which reads all weights, is held against.
pub fn sum(isa: Isa, numbers: &[f32]) -> f32 {
    isa.run(Sum(numbers))
}

/// Multiply-adds of one training iteration, counted as two operations each, with the input layer folded and the first
/// step's zero state left out: forward and backward of `batch` sequences. Fold, unfold and head are not counted.
pub fn step_operations(dims: crate::shape::Dims, batch: usize) -> f64 {
    let (recurrent, input) = (dims.h * dims.g(), dims.i * dims.g());
    // The recurrent weights are used forward, backward and for their gradient; the inputs have no gradient.
    2.0 * batch as f64 * (3 * (dims.t - 1) * recurrent + 2 * dims.t * input) as f64
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 8];
        for numbers in self.0.chunks_exact(8 * S::LANES) {
            for (sum, numbers) in sums.iter_mut().zip(numbers.chunks_exact(S::LANES)) {
                *sum = s.add(*sum, s.load(numbers));
            }
        }
        let mut lanes = [0.0; 16];
        s.store(&mut lanes, sums.into_iter().fold(s.splat(0.0), |all, sum| s.add(all, sum)));
        lanes.iter().sum()
    }
}

struct Peak<'a, E> {
    left: &'a [E],
    right: &'a [E],
    out: &'a mut [f32],
}

impl<E: Factor> Kernel for Peak<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let mut product = Product {
            left: Left::rows(self.left, DEPTH),
            depth: DEPTH,
            right: Right { values: self.right, stride: width },
            out: self.out,
            row_stride: width,
            vector_stride: S::LANES,
            lanes: [S::LANES; 2],
            add: false,
        };
        narrow(s, ROWS, &mut product);
    }
}
