//! What a launch has to do at least: bytes that it must move and operations that it must make, out of its arguments.
//!
//! **Bytes**: every input is read once and every output written once, wherever they lie. A kernel whose tiles read an input
//! more than once moves more than that through its caches; one whose inputs are in a cache moves less through memory.
//!
//! **Operations**: of f32 numbers, as the kernel's text has them: an addition, multiplication, division, comparison, root,
//! exponential, logarithm or tanh is one, a fused multiply-add two, a sigmoid three (exponential, addition, division). Whole
//! numbers and what a warp adds up among its lanes are not counted.

use super::device::{Arg, Launch};
use super::tiles::COLUMN_SUM_GROUPS;
use crate::shape::GATES;
use std::iter::Sum;
use std::ops::Add;

/// Bytes and operations, as this module counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: u64,
    /// Operations of f32 numbers.
    pub operations: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, operations: self.operations + other.operations }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

/// Bytes of a number: all are 32 bits but the pixels.
const NUMBER: u64 = 4;

const G: u64 = GATES as u64;

/// A launch's arguments, by their places in the kernel's contract.
struct Args<'a> {
    args: &'a [Arg],
    grid: [u32; 3],
}

impl Args<'_> {
    /// The size at that place.
    ///
    /// # Panics
    ///
    /// If there is none: this file and the kernel's launcher have parted.
    fn size(&self, place: usize) -> u64 {
        match self.args.get(place) {
            Some(Arg::I32(size)) => u64::try_from(*size).expect("sizes are not negative"),
            other => panic!("argument {place} is {other:?} and not a size"),
        }
    }

    /// 1 if the tensor at that place is given, 0 if it is null.
    ///
    /// # Panics
    ///
    /// If there is no address: this file and the kernel's launcher have parted.
    fn given(&self, place: usize) -> u64 {
        match self.args.get(place) {
            Some(Arg::Address(address)) => u64::from(*address != 0),
            other => panic!("argument {place} is {other:?} and not an address"),
        }
    }
}

/// What `launch` has to do; none for a kernel that this file does not know.
pub fn cost(launch: &Launch<'_>) -> Option<Cost> {
    let args = &Args { args: launch.args, grid: launch.grid };
    Some(match launch.kernel {
        "adam" => adam(args),
        "squared_norm_parts" => squared_norm_parts(args),
        "clip_factor" => clip_factor(args),
        "advance" => advance(),
        "gather_bytes" => gather(args, 1),
        "gather_floats" => gather(args, NUMBER),
        "product_nn" | "product_nt" | "product_tn" => product(args),
        "sum_parts" => sum_parts(args),
        "column_sums" => column_sums(args),
        "lstm_forward_step" => lstm_forward_step(args),
        "lstm_backward_step" => lstm_backward_step(args),
        "sequence_pack" => sequence_pack(args),
        "sequence_forward" => sequence_forward(args, true),
        "sequence_score" => sequence_forward(args, false),
        "sequence_backward" => sequence_backward(args),
        "softmax_xent" => softmax_xent(args),
        "softmax" => softmax(args),
        "batch_metrics" => batch_metrics(args),
        _ => return None,
    })
}

fn numbers(count: u64, operations: u64) -> Cost {
    Cost { bytes: NUMBER * count, operations }
}

/// Reads gradient, θ, m, v, one step size, the turn and the clip factor if there is one; writes θ, m, v. A parameter takes 3
/// operations for m, 4 for v and 5 for the update, and 1 more where gradients are clipped.
fn adam(args: &Args<'_>) -> Cost {
    let (n, clip) = (args.size(7), args.given(3));
    numbers(7 * n + 2 + clip, (12 + clip) * n)
}

/// Reads the gradient, writes a part for each block.
fn squared_norm_parts(args: &Args<'_>) -> Cost {
    let n = args.size(2);
    numbers(n + u64::from(args.grid[0]), 2 * n)
}

/// Reads the parts, writes the factor: a sum, then a root, a comparison and a division.
fn clip_factor(args: &Args<'_>) -> Cost {
    let parts = args.size(2);
    numbers(parts + 1, parts + 3)
}

/// Reads and writes the turn.
fn advance() -> Cost {
    numbers(2, 0)
}

/// Reads `bytes` for each input, a row number for each sequence, the turn, and labels if they are wanted; writes x, a 1
/// after each step's inputs, and the batch's labels. An input takes 1 operation.
fn gather(args: &Args<'_>, bytes: u64) -> Cost {
    let (b, t, i, labels) = (args.size(6), args.size(7), args.size(8), args.given(1));
    let read = Cost { bytes: b * t * i * bytes, operations: b * t * i };
    read + numbers(b + 1 + 2 * labels * b + t * b * (i + 1), 0)
}

/// Reads both matrices, and the bias if there is one; writes all S parts of the result.
fn product(args: &Args<'_>) -> Cost {
    let (m, n, k, parts) = (args.size(5), args.size(6), args.size(7), u64::from(args.grid[2]));
    let (bias, biased_rows) = (args.given(2), m - args.size(3));
    numbers(m * k + k * n + parts * m * n + bias * n, 2 * m * n * k + bias * biased_rows * n)
}

/// Reads all parts, writes their sum.
fn sum_parts(args: &Args<'_>) -> Cost {
    let (n, parts) = (args.size(2), args.size(3));
    numbers((parts + 1) * n, parts * n)
}

/// Reads the matrix, writes a sum for each column; each is added up from the sums of some groups of rows.
fn column_sums(args: &Args<'_>) -> Cost {
    let (m, n) = (args.size(2), args.size(3));
    numbers(m * n + n, m * n + u64::from(COLUMN_SUM_GROUPS) * n)
}

/// Reads x, both weights, h and c before the step; writes gates, c and h. Beside the products a cell takes 16 operations:
/// three sigmoids of 3, two tanh, the forget bias 1, c 3 and h 1.
fn lstm_forward_step(args: &Args<'_>) -> Cost {
    let (b, j, h) = (args.size(8), args.size(9), args.size(10));
    let (weights, cells) = ((j + h) * G * h, b * h);
    numbers(b * j + weights + (4 + G) * cells, 2 * b * weights + 16 * cells)
}

/// Reads the gradient by h, either from da of the step after and the recurrent weights or, at the last step, as it is; gates,
/// c before and after, and dc but at the last step. Writes da and dc. Beside the product a cell takes 23 operations: tanh 1,
/// dc 5, each gate 4, and dc for the step before 1.
fn lstm_backward_step(args: &Args<'_>) -> Cost {
    let (b, h, later) = (args.size(8), args.size(9), args.given(0));
    let cells = b * h;
    let dh = if later == 1 { G * cells + G * h * h } else { cells };
    numbers(dh + (G + 2 + later) * cells + (G + 1) * cells, 2 * later * cells * G * h + 23 * cells)
}

/// Reads the recurrent weights, writes them twice; padding is not counted.
fn sequence_pack(args: &Args<'_>) -> Cost {
    let h = args.size(3);
    numbers(3 * G * h * h, 0)
}

/// Reads the weights, the products of the inputs, h and c before the first step; writes h and c, and gates if all steps are
/// kept. A cell takes what it takes in `lstm_forward_step`, and 4 operations that add the products of the inputs.
fn sequence_forward(args: &Args<'_>, keeps_all: bool) -> Cost {
    let (b, t, h) = (args.size(6), args.size(7), args.size(8));
    let (weights, cells) = (G * h * h, b * h);
    let written = if keeps_all { (G + 2) * t * cells } else { 2 * cells };
    numbers(weights + G * t * cells + 2 * cells + written, t * (2 * b * weights + 20 * cells))
}

/// Reads the weights, gates of all steps, c before and after them and dh of the last; writes da. A cell takes what it takes in
/// `lstm_backward_step`.
fn sequence_backward(args: &Args<'_>) -> Cost {
    let (b, t, h) = (args.size(5), args.size(6), args.size(7));
    let (weights, cells) = (G * h * h, b * h);
    numbers(weights + (2 * G * t + (t + 1) + 1) * cells, 2 * (t - 1) * b * weights + 23 * t * cells)
}

/// Reads logits and labels; writes loss, class and, if it is wanted, the gradient. A logit takes 4 operations (comparison,
/// difference, exponential, sum) and 5 for its gradient, a row 3 for its loss.
fn softmax_xent(args: &Args<'_>) -> Cost {
    let (b, k, gradient) = (args.size(5), args.size(6), args.given(4));
    numbers((1 + gradient) * b * k + 3 * b, (4 + 5 * gradient) * b * k + 3 * b)
}

/// Reads logits, writes probabilities. A logit takes 7 operations: 4 as above, then difference, exponential, division.
fn softmax(args: &Args<'_>) -> Cost {
    let count = args.size(2) * args.size(3);
    numbers(2 * count, 7 * count)
}

/// Reads loss, class and label of each row and the turn, writes two numbers: a sum and a division.
fn batch_metrics(args: &Args<'_>) -> Cost {
    let b = args.size(6);
    numbers(3 * b + 3, b + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources;

    const NULL: Arg = Arg::Address(0);
    const GIVEN: Arg = Arg::Address(4096);

    fn of(kernel: &'static str, grid: [u32; 3], args: &[Arg]) -> (u64, u64) {
        let launch = Launch { kernel, grid, block: [1; 3], cluster: [1; 3], shared: 0, args };
        let cost = cost(&launch).unwrap();
        (cost.bytes, cost.operations)
    }

    /// As many tensors, the `null` ones null, and then sizes.
    fn args(tensors: usize, null: &[usize], sizes: &[i32]) -> Vec<Arg> {
        let tensor = |n| if null.contains(&n) { NULL } else { GIVEN };
        (0..tensors).map(tensor).chain(sizes.iter().map(|&size| Arg::I32(size))).collect()
    }

    /// Counted by hand, from the kernels' text.
    #[test]
    fn costs_are_those_counted_by_hand() {
        let one = [1; 3];
        // 10 parameters: 7 passes over them and two numbers.
        assert_eq!(of("adam", one, &args(7, &[3], &[10])), (4 * 72, 120));
        assert_eq!(of("adam", one, &args(7, &[], &[10])), (4 * 73, 130));
        assert_eq!(of("squared_norm_parts", [3, 1, 1], &args(2, &[], &[100])), (4 * 103, 200));
        assert_eq!(of("clip_factor", one, &args(2, &[], &[3])), (16, 6));
        assert_eq!(of("advance", one, &args(1, &[], &[])), (8, 0));
        // B 2, T 3, I 4: 24 inputs in, 30 out; 2 rows, 1 turn, 2 labels in and out.
        assert_eq!(of("gather_bytes", one, &args(6, &[], &[2, 3, 4])), (24 + 4 * (2 + 1 + 4 + 30), 24));
        assert_eq!(of("gather_bytes", one, &args(6, &[1, 5], &[2, 3, 4])), (24 + 4 * (2 + 1 + 30), 24));
        assert_eq!(of("gather_floats", one, &args(6, &[], &[2, 3, 4])), (4 * (24 + 2 + 1 + 4 + 30), 24));
        // M 2, N 3, K 5, no bias; then one that is added to the second row alone; then in two parts.
        let product = |null: &[usize], from| {
            let mut args = args(3, null, &[from]);
            args.extend([GIVEN].into_iter().chain([2, 3, 5, 5].map(Arg::I32)));
            args
        };
        for kernel in ["product_nn", "product_nt", "product_tn"] {
            assert_eq!(of(kernel, one, &product(&[2], 0)), (4 * (10 + 15 + 6), 60));
            assert_eq!(of(kernel, one, &product(&[], 1)), (4 * (10 + 15 + 6 + 3), 63));
            assert_eq!(of(kernel, [1, 1, 2], &product(&[2], 0)), (4 * (10 + 15 + 12), 60));
        }
        assert_eq!(of("sum_parts", one, &args(2, &[], &[7, 3])), (4 * (21 + 7), 21));
        // 5 rows of 4 columns, and 8 sums of each column.
        assert_eq!(of("column_sums", one, &args(2, &[], &[5, 4])), (4 * (20 + 4), 20 + 32));
        // B 2, J 3, H 4, so G 16: x 6, weights 48 and 64, four times 8 cells, gates 32.
        let forward = of("lstm_forward_step", one, &args(8, &[], &[2, 3, 4]));
        assert_eq!(forward, (4 * (6 + 48 + 64 + 32 + 32), 2 * 2 * (48 + 64) + 16 * 8));
        // B 2, H 4: da 32 and weights 64 in; gates 32, c twice 8, dc 8; da 32 and dc 8 out.
        let later = of("lstm_backward_step", one, &args(8, &[1], &[2, 4]));
        assert_eq!(later, (4 * (32 + 64 + 32 + 16 + 8 + 32 + 8), 2 * 2 * 16 * 4 + 23 * 8));
        let last = of("lstm_backward_step", one, &args(8, &[0], &[2, 4]));
        assert_eq!(last, (4 * (8 + 32 + 16 + 32 + 8), 23 * 8));
        // H 4: 64 weights. B 2, T 3: 24 cells and 96 gates in all steps, 8 cells of one.
        assert_eq!(of("sequence_pack", one, &args(3, &[], &[4])), (4 * 192, 0));
        let forward = |kernel| of(kernel, one, &args(6, &[], &[2, 3, 4]));
        assert_eq!(forward("sequence_forward"), (4 * (64 + 96 + 16 + 96 + 48), 3 * (2 * 2 * 64) + 20 * 24));
        assert_eq!(forward("sequence_score"), (4 * (64 + 96 + 16 + 16), 3 * (2 * 2 * 64) + 20 * 24));
        let backward = of("sequence_backward", one, &args(5, &[], &[2, 3, 4]));
        assert_eq!(backward, (4 * (64 + 192 + 32 + 8), 2 * (2 * 2 * 64) + 23 * 24));
        assert_eq!(of("softmax_xent", one, &args(5, &[], &[3, 10])), (4 * (60 + 9), 270 + 9));
        assert_eq!(of("softmax_xent", one, &args(5, &[4], &[3, 10])), (4 * (30 + 9), 120 + 9));
        assert_eq!(of("softmax", one, &args(2, &[], &[3, 10])), (240, 210));
        assert_eq!(of("batch_metrics", one, &args(6, &[], &[9])), (4 * 30, 10));
    }

    #[test]
    fn every_kernel_has_a_formula() {
        let file = include_str!("cost.rs");
        for kernel in sources::names().into_iter().chain(sources::sequence_names()) {
            assert!(file.contains(&format!("\"{kernel}\" ")), "no formula for {kernel} in src/cuda/cost.rs");
        }
        let launch = Launch { kernel: "no such", grid: [1; 3], block: [1; 3], cluster: [1; 3], shared: 0, args: &[] };
        assert_eq!(cost(&launch), None);
    }
}
