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

    /// The k of the first value in a register that covers the given part of the depth: a part has four lanes' registers.
    fn k(self, lane: usize, part: usize) -> usize {
        (lane % 4 + 4 * part) * self.packed()
    }

    fn value(self, register: u32, place: usize) -> f64 {
        widen(self.format, if self.packed() == 2 { register >> (16 * place) & 0xffff } else { register })
    }

    /// The left matrix: row by row. Registers alternate between the rows `group` and `group + 8`, then the next part of k.
    fn left(self, fragment: &[Lanes]) -> [[f64; 16]; ROWS] {
        let mut matrix = [[0.0; 16]; ROWS];
        for (register, lanes) in fragment.iter().enumerate() {
            for (lane, value) in lanes.iter().enumerate() {
                let row = lane / 4 + register % 2 * 8;
                for place in 0..self.packed() {
                    matrix[row][self.k(lane, register / 2) + place] = self.value(*value, place);
                }
            }
        }
        matrix
    }

    /// The right matrix: column by column. A lane's column is its group, its registers are the parts of k.
    fn right(self, fragment: &[Lanes]) -> [[f64; 16]; COLUMNS] {
        let mut matrix = [[0.0; 16]; COLUMNS];
        for (register, lanes) in fragment.iter().enumerate() {
            for (lane, value) in lanes.iter().enumerate() {
                for place in 0..self.packed() {
                    matrix[lane / 4][self.k(lane, register) + place] = self.value(*value, place);
                }
            }
        }
        matrix
    }

    /// The product plus `c`. Of `c` and the result, register i of a lane is row `group + 8 * (i / 2)`, column
    /// `2 * (lane % 4) + i % 2`.
    pub fn product(self, a: &[Lanes], b: &[Lanes], c: &[Lanes; 4]) -> [Lanes; 4] {
        let (a, b) = (self.left(a), self.right(b));
        std::array::from_fn(|register| {
            std::array::from_fn(|lane| {
                let row = &a[lane / 4 + register / 2 * 8];
                let column = &b[lane % 4 * 2 + register % 2];
                let start = f64::from(f32::from_bits(c[register][lane]));
                bits((0..self.depth).fold(start, |sum, k| sum + row[k] * column[k]) as f32)
            })
        })
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
