//! Products of matrices whose values are spread over the lanes of a warp, and the layouts of those fragments.
//!
//! The layouts are those of the PTX ISA, sections "Matrix Fragments for mma.m16n8k4", "..m16n8k8" and "..m16n8k16" of
//! "Warp-level matrix instructions". They are told with a lane's group, `lane / 4`, and its number in the group,
//! `lane % 4`. Of all shapes here m is 16 and n is 8.
//!
//! Hardware does not say in which order it adds, nor how it rounds in between. Here every product is exact (a product of
//! two of these formats has at most 22 bits), c and the products are added in f64 in the order of k, and the sum is
//! rounded once, to the nearest f32. So a result is right to about one rounding, and never depends on the schedule.

use crate::narrow::{Format, widen};
use crate::value::bits;

/// Lanes of a warp.
const LANES: usize = 32;
/// Rows and columns of the result.
const ROWS: usize = 16;
const COLUMNS: usize = 8;

/// A value of every lane.
pub(crate) type Lanes = [u32; LANES];

/// Format and depth (k) of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmaShape {
    pub format: Format,
    pub depth: usize,
}

impl MmaShape {
    /// Values in a register of 32 bits.
    fn packed(self) -> usize {
        if self.format == Format::Tf32 { 1 } else { 2 }
    }

    /// Registers of a lane's fragment of the left matrix.
    pub fn a_registers(self) -> usize {
        ROWS * self.depth / LANES / self.packed()
    }

    /// Registers of a lane's fragment of the right matrix.
    pub fn b_registers(self) -> usize {
        COLUMNS * self.depth / LANES / self.packed()
    }

    /// The product plus `c`. The fragments are read in a loop for each format, chosen before it.
    pub fn product(self, a: &[Lanes], b: &[Lanes], c: &[Lanes; 4]) -> [Lanes; 4] {
        let half = |format, register: u32, place| widen(format, register >> (16 * place) & 0xffff);
        match self.format {
            Format::Bf16 => self.sum::<2>(a, b, c, |register, place| half(Format::Bf16, register, place)),
            Format::F16 => self.sum::<2>(a, b, c, |register, place| half(Format::F16, register, place)),
            Format::Tf32 => self.sum::<1>(a, b, c, |register, _| widen(Format::Tf32, register)),
        }
    }

    /// `PACKED` are the values in a register, and `value` gives the n-th of them.
    #[inline(always)]
    fn sum<const PACKED: usize>(
        self,
        a: &[Lanes],
        b: &[Lanes],
        c: &[Lanes; 4],
        value: impl Fn(u32, usize) -> f64 + Copy,
    ) -> [Lanes; 4] {
        let (a, b) = (left::<PACKED>(a, value), right::<PACKED>(b, value));
        let mut sums = [[0f64; COLUMNS]; ROWS];
        for_each_place(|register, lane, row, column| {
            sums[row][column] = f64::from(f32::from_bits(c[register][lane]));
        });
        for (row, a) in sums.iter_mut().zip(&a) {
            // All columns of a row together, in vector registers.
            let mut sum = *row;
            for (a, b) in a.iter().zip(&b).take(self.depth) {
                sum = std::array::from_fn(|column| sum[column] + a * b[column]);
            }
            *row = sum;
        }
        let mut result = [[0; LANES]; 4];
        for_each_place(|register, lane, row, column| result[register][lane] = bits(sums[row][column] as f32));
        result
    }
}

/// The k of the first value in a register that covers the given part of the depth: a part has four lanes' registers.
#[inline(always)]
fn first_k<const PACKED: usize>(lane: usize, part: usize) -> usize {
    (lane % 4 + 4 * part) * PACKED
}

/// The left matrix: row by row. Registers alternate between the rows `group` and `group + 8`, then the next part of k.
#[inline(always)]
fn left<const PACKED: usize>(fragment: &[Lanes], value: impl Fn(u32, usize) -> f64) -> [[f64; 16]; ROWS] {
    let mut matrix = [[0.0; 16]; ROWS];
    for (register, lanes) in fragment.iter().enumerate() {
        for (lane, bits) in lanes.iter().enumerate() {
            for place in 0..PACKED {
                let k = first_k::<PACKED>(lane, register / 2) + place;
                matrix[lane / 4 + register % 2 * 8][k] = value(*bits, place);
            }
        }
    }
    matrix
}

/// The right matrix: for each k its columns. A lane's column is its group, its registers are the parts of k.
#[inline(always)]
fn right<const PACKED: usize>(fragment: &[Lanes], value: impl Fn(u32, usize) -> f64) -> [[f64; COLUMNS]; 16] {
    let mut matrix = [[0.0; COLUMNS]; 16];
    for (register, lanes) in fragment.iter().enumerate() {
        for (lane, bits) in lanes.iter().enumerate() {
            for place in 0..PACKED {
                matrix[first_k::<PACKED>(lane, register) + place][lane / 4] = value(*bits, place);
            }
        }
    }
    matrix
}

/// Visits the places of the result: register i of a lane is row `group + 8 * (i / 2)`, column `2 * (lane % 4) + i % 2`.
#[inline(always)]
fn for_each_place(mut visit: impl FnMut(usize, usize, usize, usize)) {
    for register in 0..4 {
        for lane in 0..LANES {
            visit(register, lane, lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
        }
    }
}

/// The fragment of a matrix of 8 rows of 8 values of 16 bits: a lane has the values `2 * (lane % 4)` and the next of the
/// row `lane / 4`, or of the column `lane / 4` when transposed (PTX ISA, "ldmatrix").
pub(crate) fn fragment(rows: &[[u16; 8]; 8], transpose: bool) -> Lanes {
    std::array::from_fn(|lane| {
        let (line, place) = (lane / 4, lane % 4 * 2);
        let pair = if transpose {
            [rows[place][line], rows[place + 1][line]]
        } else {
            [rows[line][place], rows[line][place + 1]]
        };
        u32::from(pair[0]) | u32::from(pair[1]) << 16
    })
}

/// The fragment of the transposed matrix (PTX ISA, "movmatrix").
pub(crate) fn transposed(lanes: &Lanes) -> Lanes {
    let rows = std::array::from_fn(|row| {
        std::array::from_fn(|column| (lanes[row * 4 + column / 2] >> (column % 2 * 16)) as u16)
    });
    fragment(&rows, true)
}
