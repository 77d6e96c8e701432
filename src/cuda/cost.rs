//! What a launch has to do at least: bytes that it must move and operations that it must make, out of its arguments.
//!
//! **Bytes**: every input is read once and every output written once, wherever they lie. A kernel whose tiles read an input
//! more than once moves more than that through its caches; one whose inputs are in a cache moves less through memory.
//!
//! **Operations**: of f32 numbers, as the kernel's text has them: an addition, multiplication, division, comparison, root,
//! exponential, logarithm or tanh is one, a fused multiply-add two, a sigmoid three (exponential, addition, division). Whole
//! numbers and what a warp adds up among its lanes are not counted, nor are lengths, label smoothing and decay.
//!
//! The persistent kernels move padded tensors, as they lie; of operations, those of the padding are not counted. Each formula is of
//! one model, and a launch of several does it for each.

use super::device::{Arg, Launch};
use super::tiles::COLUMN_SUM_GROUPS;
use super::variant::{self, TILE_ROWS};
use crate::shape::GATES;
use std::iter::Sum;
use std::ops::{Add, Mul};

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

impl Mul<Cost> for u64 {
    type Output = Cost;

    fn mul(self, Cost { bytes, operations }: Cost) -> Cost {
        Cost { bytes: self * bytes, operations: self * operations }
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
        "layer_inputs" => layer_inputs(args),
        "layer_gradients" => layer_gradients(args),
        "pool" => pool(args),
        "unpool" => unpool(args),
        "sum_parts" => sum_parts(args),
        "column_sums" => column_sums(args),
        "lstm_forward_step" => lstm_forward_step(args),
        "lstm_backward_step" => lstm_backward_step(args),
        "sequence_pack" | "tf32_pack" => sequence_pack(args),
        "sequence_forward" | "tf32_forward" => sequence_forward(args, true),
        "sequence_score" | "tf32_score" => sequence_forward(args, false),
        "sequence_backward" | "tf32_backward" => sequence_backward(args),
        "softmax_xent" => softmax_xent(args),
        "softmax" => softmax(args),
        "batch_metrics" => batch_metrics(args),
        "persistent_lstm" => persistent_lstm(args),
        "persistent_forward" => persistent_forward(args),
        "persistent_pack" => persistent_pack(args),
        "persistent_fold" => persistent_fold(args),
        "persistent_unpack" => persistent_unpack(args),
        "persistent_weight_gradient" => persistent_weight_gradient(args),
        "persistent_sum" => persistent_sum(args),
        "persistent_update" => persistent_update(args),
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

/// Reads the states of each direction below, writes them with a 1 behind each step's; of dropout a product each.
fn layer_inputs(args: &Args<'_>) -> Cost {
    let (rows, h, directions) = (args.size(5) * args.size(6), args.size(7), 1 + args.given(1));
    numbers(rows * (2 * directions * h + 1), args.given(2) * rows * directions * h)
}

/// Reads the gradient by what each cell above reads, the columns of this cell; writes their sum. Of dropout a product each.
fn layer_gradients(args: &Args<'_>) -> Cost {
    let (count, above) = (args.size(5) * args.size(6) * args.size(7), args.given(1));
    numbers((2 + above) * count, (above + args.given(2)) * count)
}

/// Reads states, of the last step or, as many as there may be, of all; writes one of each unit. Of all a state takes 1
/// operation.
fn pool(args: &Args<'_>) -> Cost {
    let (t, cells) = (args.size(3), args.size(4) * args.size(5));
    let steps = if args.size(9) == 0 { 1 } else { t };
    numbers((steps + 1) * cells + args.given(1) * args.size(4), if steps == 1 { 0 } else { t * cells })
}

/// Reads the gradient by what the head reads and, for a maximum, that itself and all states; writes a number for each state.
fn unpool(args: &Args<'_>) -> Cost {
    let (t, cells, of_largest) = (args.size(5), args.size(6) * args.size(7), u64::from(args.size(11) == 2));
    let read = (1 + of_largest * (1 + t)) * cells + args.given(1) * args.size(6);
    numbers(read + t * cells, of_largest * t * cells)
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

/// Reads the gradient by h from da of the step after and the recurrent weights, and what comes from outside; gates,
/// c before and after, and dc but at the last step. Writes da and dc. Beside the product a cell takes 23 operations: tanh 1,
/// dc 5, each gate 4, and dc for the step before 1.
fn lstm_backward_step(args: &Args<'_>) -> Cost {
    let (b, h, later) = (args.size(8), args.size(9), args.given(0));
    let cells = b * h;
    let dh = if later == 1 { G * cells + G * h * h + args.given(1) * cells } else { cells };
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

/// Bytes of a bf16 or f16.
const NARROW: u64 = 2;
/// Rows of a tile.
const ROWS: u64 = TILE_ROWS as u64;

/// Units and inputs as the persistent kernels pad them.
fn padded(h: u64, i: u64) -> [u64; 2] {
    variant::padded(h as usize, i as usize).map(|size| size as u64)
}

fn narrow(count: u64) -> Cost {
    Cost { bytes: NARROW * count, operations: 0 }
}

/// Sequences of `b` rows out of a data set that is bytes or floats, their row numbers, labels and the turn.
fn batch(args: &Args<'_>, bytes: usize, b: u64, numbers_of_row: u64) -> Cost {
    let width = if args.given(bytes) == 1 { 1 } else { NUMBER };
    Cost { bytes: b * numbers_of_row * width, operations: 0 } + numbers(2 * b + 1, 0)
}

/// Forward through all steps, the head and the loss, as the persistent kernels compute them: products with [x, bias parts, h], a cell
/// 15 operations (three sigmoids of 3, two tanh, c 3, h 1), then as in [`softmax_xent`].
fn forward_operations(b: u64, t: u64, i: u64, h: u64, k: u64) -> u64 {
    let cells = b * t * h;
    2 * cells * G * (i + 3 + h) + 15 * cells + 2 * b * k * h + b * k + 9 * b * k + 3 * b
}

/// Reads both weights, the head and the batch; writes hx, da, logits, three numbers for each row and the head's gradient in parts; the
/// saved gates and cells, 12 bytes a cell, are written and read. Backward a cell takes 22 operations, 15 for its factors and 7 for
/// its gradients, beside the products; the first step has none.
fn persistent_lstm(args: &Args<'_>) -> Cost {
    let (b, t, i, h, k) = (args.size(20), args.size(21), args.size(22), args.size(23), args.size(24));
    let ([units, inputs], tiles) = (padded(h, i), b.div_ceil(ROWS));
    let weights = narrow((2 * units + inputs) * G * units) + numbers((h + 1) * k, 0);
    let hx = narrow(tiles * ROWS * (t * (units + inputs) + units));
    let da = narrow(tiles * ROWS * t * G * units);
    let saved = narrow(2 * tiles * ROWS * t * (G + 2) * units);
    let head = numbers(b * k + 3 * b + tiles * (h + 1) * k, 2 * b * (h + 1) * k);
    let last = numbers(2 * args.given(18) * b * h, 0);
    let cells = b * t * h;
    let backward = 2 * b * (t - 1) * G * h * h + 22 * cells + 2 * b * h * k;
    let operations = Cost { bytes: 0, operations: forward_operations(b, t, i, h, k) + backward };
    u64::from(args.grid[1]) * (weights + batch(args, 4, b, t * i) + hx + da + saved + head + last + operations)
}

/// Reads forward weights, the head and the batch; x is written and read; writes logits, losses and classes.
fn persistent_forward(args: &Args<'_>) -> Cost {
    let (b, t, i, h, k) = (args.size(12), args.size(13), args.size(14), args.size(15), args.size(16));
    let ([units, inputs], tiles) = (padded(h, i), b.div_ceil(ROWS));
    let weights = narrow((units + inputs) * G * units) + numbers((h + 1) * k, 0);
    let operations = forward_operations(b, t, i, h, k) - 5 * b * k;
    let results = numbers(b * k + 2 * b, operations);
    weights + batch(args, 3, b, t * i) + narrow(2 * tiles * ROWS * t * inputs) + results
}

/// Reads W_h, writes it as operands.
fn persistent_pack(args: &Args<'_>) -> Cost {
    let h = args.size(3);
    let [units, _] = padded(h, 0);
    u64::from(args.grid[1]) * (numbers(G * h * h, 0) + narrow((1 + args.given(2)) * G * units * units))
}

/// Reads the input layer, W_x and the bias, and the turn if it is given, which it writes; writes operands. Beside the product, the sum
/// of its four chains is 3 operations, the scale 1 for each input, and a bias 5.
fn persistent_fold(args: &Args<'_>) -> Cost {
    let (i, p, h, j) = (args.size(5), args.size(6), args.size(7), args.size(5) + 1);
    let ([units, inputs], g) = (padded(h, i), G * h);
    let read = numbers(j * p + p * g + g, 2 * j * p * g + 3 * j * g + i * g + 5 * g);
    u64::from(args.grid[1]) * (read + narrow(inputs * G * units)) + numbers(2 * args.given(3), 0)
}

/// Reads da, writes it in f32.
fn persistent_unpack(args: &Args<'_>) -> Cost {
    let (b, t, g) = (args.size(2), args.size(3), G * args.size(4));
    narrow(b * t * g) + numbers(b * t * g, 0)
}

/// Reads hx and da, writes all parts and a count for each column of blocks; reads the parts of x and the bias again and writes their sum,
/// of x with its scale.
fn persistent_weight_gradient(args: &Args<'_>) -> Cost {
    let (tiles, i, h) = (args.size(5), args.size(7), args.size(8));
    let ([units, inputs], g, parts) = (padded(h, i), G * h, u64::from(args.grid[2]));
    let rows = units + inputs;
    let models = u64::from(args.grid[1]) / variant::gradient_row_blocks(rows as usize) as u64;
    let operands = narrow(tiles * ROWS * (rows + G * units));
    let product = numbers(parts * rows * G * units, 2 * tiles * ROWS * (h + i + 1) * g);
    let sums = numbers((parts + 1) * (i + 1) * g, parts * (i + 1) * g + i * g);
    models * (operands + product + sums + numbers(2 * u64::from(args.grid[0]), 0))
}

/// Reads the parts of W_h's gradient, writes their sum.
fn persistent_sum(args: &Args<'_>) -> Cost {
    let (parts, h) = (args.size(2), args.size(3));
    numbers((parts + 1) * G * h * h, parts * G * h * h)
}

/// Reads the parts of W_h's and of the head's gradients, d_fold, loss, class and label of each row, step size and turn, and parameters,
/// m and v, which it writes; writes W_h as operands, and two numbers. Operations are those of the sums, of two products with d_fold,
/// of [`adam`] and of [`batch_metrics`].
fn persistent_update(args: &Args<'_>) -> Cost {
    let (parts, tiles, b, i) = (args.size(15), args.size(16), args.size(17), args.size(18));
    let (p, h, k, n) = (args.size(19), args.size(20), args.size(21), args.size(27));
    let (g, j, head) = (G * h, i + 1, (h + 1) * k);
    let sums = numbers(parts * h * g + j * g + tiles * head, parts * h * g + tiles * head + 4 * j * p * g);
    let updates = numbers(6 * n + 3 * b + 4, 12 * n + b + 1);
    u64::from(args.grid[1]) * (sums + updates + narrow(2 * h * g))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources;

    const NULL: Arg = Arg::Address(0);
    const GIVEN: Arg = Arg::Address(4096);

    fn of(kernel: &'static str, grid: [u32; 3], args: &[Arg]) -> (u64, u64) {
        let launch = Launch { kernel, grid, block: [1; 3], cluster: [1; 3], shared: 0, dependent: false, args };
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
        // T 3, B 2, H 4: 24 states of each direction.
        let between = |kernel, null: &[usize]| of(kernel, one, &args(5, null, &[3, 2, 4]));
        assert_eq!(between("layer_inputs", &[1, 2]), (4 * (24 + 24 + 6), 0));
        assert_eq!(between("layer_inputs", &[]), (4 * (48 + 48 + 6), 48));
        assert_eq!(between("layer_gradients", &[1, 2]), (4 * 48, 0));
        assert_eq!(between("layer_gradients", &[]), (4 * 72, 48));
        assert_eq!(of("pool", one, &args(3, &[1], &[3, 2, 4, 4, 0, 0, 0])), (4 * 16, 0));
        assert_eq!(of("pool", one, &args(3, &[], &[3, 2, 4, 4, 0, 0, 1])), (4 * (24 + 8 + 2), 24));
        assert_eq!(of("unpool", one, &args(5, &[1], &[3, 2, 4, 4, 0, 0, 0])), (4 * (8 + 24), 0));
        assert_eq!(of("unpool", one, &args(5, &[], &[3, 2, 4, 4, 0, 0, 2])), (4 * (8 + 8 + 24 + 2 + 24), 24));
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

    /// Likewise: B 9, so two tiles, T 2, I 3, H 5, K 6, so padded 16 units and 16 inputs, G 20 and padded 64.
    #[test]
    fn costs_of_the_persistent_kernels_are_those_counted_by_hand() {
        let lstm =
            |models, null: &[usize]| of("persistent_lstm", [2, models, 1], &args(20, null, &[9, 2, 3, 5, 6, 1000]));
        // Weights 32 and 16 rows of 64 columns, head 36; 9 rows of 6 bytes, row numbers, labels, turn; hx of 16 rows: 2 steps of 32
        // and one of 16; da; gates and cells, written and read; logits, loss, class, label, and the head's parts.
        let bytes = 2 * (48 * 64)
            + 4 * 36
            + 9 * 6
            + 4 * 19
            + 2 * 16 * (2 * 32 + 16)
            + 2 * 16 * 2 * 64
            + 2 * 2 * 16 * 2 * 6 * 16
            + 4 * (54 + 27 + 2 * 36);
        // 90 cells: products with 3 inputs, 3 bias parts, 5 units; head and loss of 54 logits. Back: one step's product; 22 for each
        // cell; dW_out and db_out, dh_T.
        let forward = 2 * 90 * 4 * 11 + 15 * 90 + 2 * 54 * 5 + 54 + 9 * 54 + 27;
        let backward = 2 * 9 * 20 * 5 + 22 * 90 + 2 * 9 * 36 + 2 * 9 * 30;
        assert_eq!(lstm(1, &[5, 18, 19]), (bytes, forward + backward));
        assert_eq!(lstm(3, &[5, 18, 19]), (3 * bytes, 3 * (forward + backward)));
        // Numbers in place of bytes; h_T and c_T.
        assert_eq!(lstm(1, &[4]).0, bytes + 9 * 6 * 3 + 4 * 2 * 45);
        let scoring = of("persistent_forward", [2, 1, 1], &args(12, &[4], &[9, 2, 3, 5, 6]));
        let bytes = 2 * 32 * 64 + 4 * 36 + 9 * 6 + 4 * 19 + 2 * 2 * 16 * 2 * 16 + 4 * (54 + 18);
        assert_eq!(scoring, (bytes, forward - 5 * 54));
        assert_eq!(of("persistent_pack", [4, 2, 1], &args(3, &[], &[5, 1000])), (2 * (4 * 100 + 2 * 2 * 16 * 64), 0));
        assert_eq!(of("persistent_pack", [4, 1, 1], &args(3, &[2], &[5, 1000])), (4 * 100 + 2 * 16 * 64, 0));
        // P 4, J 4.
        let mut fold = args(4, &[], &[]);
        fold.extend([GIVEN].into_iter().chain([3, 4, 5, 1000].map(Arg::I32)));
        let operations = 2 * 4 * 4 * 20 + 3 * 80 + 60 + 100;
        assert_eq!(of("persistent_fold", [8, 1, 1], &fold), (4 * (16 + 80 + 20 + 2) + 2 * 16 * 64, operations));
        assert_eq!(of("persistent_unpack", [1; 3], &args(2, &[], &[9, 2, 5])), (6 * 9 * 2 * 20, 0));
        // 4 tiles of two steps; S 3. 2 models, of one block of rows each.
        let gradient = of("persistent_weight_gradient", [1, 2, 3], &args(5, &[], &[4, 6, 3, 5]));
        let bytes = 2 * 32 * (32 + 64) + 4 * 3 * 32 * 64 + 4 * 4 * 4 * 20 + 8;
        assert_eq!(gradient, (2 * bytes, 2 * (2 * 32 * 9 * 20 + 3 * 80 + 60)));
        assert_eq!(of("persistent_sum", [1; 3], &args(2, &[], &[3, 5])), (4 * 4 * 100, 300));
        // S 3, 2 tiles, B 9, I 3, P 4, H 5, K 6, five places, n 1000.
        let update = of("persistent_update", [9, 1, 1], &args(15, &[], &[3, 2, 9, 3, 4, 5, 6, 0, 0, 0, 0, 0, 1000]));
        let bytes = 4 * (300 + 80 + 72 + 6000 + 27 + 4) + 2 * 200;
        assert_eq!(update, (bytes, 300 + 72 + 4 * 4 * 4 * 20 + 12_000 + 10));
    }

    #[test]
    fn every_kernel_has_a_formula() {
        let file = include_str!("cost.rs");
        let specialized = [sources::persistent_names(), sources::sequence_names(), sources::tf32_names()].concat();
        for kernel in sources::names().into_iter().chain(specialized) {
            assert!(file.contains(&format!("\"{kernel}\" ")), "no formula for {kernel} in src/cuda/cost.rs");
        }
        let launch = Launch {
            kernel: "no such",
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            shared: 0,
            dependent: false,
            args: &[],
        };
        assert_eq!(cost(&launch), None);
    }
}
