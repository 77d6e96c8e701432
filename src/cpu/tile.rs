//! The microkernel: a small block of a matrix product whose sums stay in registers.
//!
//! Every product of the engine is made of these blocks. Each sum takes its terms in rising order of k, whatever the
//! block's height, so the bits do not depend on how rows are cut into blocks.
#![allow(unsafe_code)]

use super::simd::{Kernel, Simd};

/// The left factor of a product: element (row, k) is `values[row · row_stride + k · k_stride]`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// The numbers, from element (0, 0) on.
    pub values: &'a [f32],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance along k.
    pub k_stride: usize,
}

impl<'a> Left<'a> {
    /// A row-major matrix.
    pub fn rows(values: &'a [f32], row_stride: usize) -> Self {
        Self { values, row_stride, k_stride: 1 }
    }

    /// The transpose of a row-major matrix.
    pub fn columns(values: &'a [f32], k_stride: usize) -> Self {
        Self { values, row_stride: 1, k_stride }
    }

    /// The same from `row` on.
    pub fn from_row(self, row: usize) -> Self {
        Self { values: &self.values[row * self.row_stride..], ..self }
    }
}

/// `MR` rows of `NV` vectors of sums.
pub type Sums<S, const MR: usize, const NV: usize> = [[<S as Simd>::V; NV]; MR];

/// Sums that start at zero.
#[inline(always)]
pub fn zeros<S: Simd, const MR: usize, const NV: usize>(s: S) -> Sums<S, MR, NV> {
    [[s.splat(0.0); NV]; MR]
}

/// `sums += left [MR, depth] · right [depth, NV·L]`, where `right` is packed: row after row without gaps.
#[inline(always)]
pub fn multiply<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    sums: &mut Sums<S, MR, NV>,
    depth: usize,
    left: Left,
    right: &[f32],
) {
    if depth == 0 {
        return;
    }
    let width = NV * S::LANES;
    assert!(right.len() >= depth * width, "the right factor is shorter than its depth");
    let last = (MR - 1) * left.row_stride + (depth - 1) * left.k_stride;
    assert!(left.values.len() > last, "the left factor is shorter than its rows and depth");
    let mut a = left.values.as_ptr();
    let mut b = right.as_ptr();
    let mut acc = *sums;
    for _ in 0..depth {
        // SAFETY: a + r · row_stride is at most element `last` of `left`.
        let number = |r: usize| s.splat(unsafe { *a.add(r * left.row_stride) });
        // SAFETY: b is at row k of `right`, which has `depth` rows of `width` numbers.
        let vector = |j: usize| unsafe { s.load_at(b.add(j * S::LANES)) };
        // The shorter side is held and the longer one passes, so that 3 x 4 fits in 16 registers.
        if MR < NV {
            let mut held = [s.splat(0.0); MR];
            held.iter_mut().enumerate().for_each(|(r, x)| *x = number(r));
            for j in 0..NV {
                let v = vector(j);
                for r in 0..MR {
                    acc[r][j] = s.fma(held[r], v, acc[r][j]);
                }
            }
        } else {
            let mut held = [s.splat(0.0); NV];
            held.iter_mut().enumerate().for_each(|(j, v)| *v = vector(j));
            for (r, sums) in acc.iter_mut().enumerate() {
                let x = number(r);
                for (sum, v) in sums.iter_mut().zip(held) {
                    *sum = s.fma(x, v, *sum);
                }
            }
        }
        // Past the last row these addresses are computed but not used.
        a = a.wrapping_add(left.k_stride);
        b = b.wrapping_add(width);
    }
    *sums = acc;
}

/// Work on blocks of rows, for any number of rows at compile time.
pub trait Rows {
    /// The rows from `first` to before `first + MR`; to be `#[inline(always)]`.
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize);
}

/// Runs `work` on all `rows`, in blocks for sums four vectors wide.
#[inline(always)]
pub fn wide<S: Simd>(s: S, rows: usize, work: &mut impl Rows) {
    s.call(Blocks::<_, true> { rows, work });
}

/// Runs `work` on all `rows`, in blocks for sums at most two vectors wide.
#[inline(always)]
pub fn narrow<S: Simd>(s: S, rows: usize, work: &mut impl Rows) {
    s.call(Blocks::<_, false> { rows, work });
}

/// Cuts rows into as few blocks as registers allow, of heights as equal as can be.
struct Blocks<'a, W, const WIDE: bool> {
    rows: usize,
    work: &'a mut W,
}

impl<W: Rows, const WIDE: bool> Kernel for Blocks<'_, W, WIDE> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, work } = self;
        let count = rows.div_ceil(if WIDE { S::WIDE_ROWS } else { S::NARROW_ROWS });
        let mut first = 0;
        for block in 1..=count {
            let end = rows * block / count;
            // Heights that these vectors never have are not compiled for them.
            macro_rules! by_height {
                ($($n:literal)*) => {
                    match end - first {
                        $($n => if $n <= const { if WIDE { S::WIDE_ROWS } else { S::NARROW_ROWS } } {
                            work.run::<S, $n>(s, first);
                        },)*
                        _ => unreachable!("no block is higher than registers allow"),
                    }
                };
            }
            by_height!(1 2 3 4 5 6 7 8 9 10 11 12);
            first = end;
        }
    }
}

/// A plain product, `out (+)= left · right`, for [`wide`] (`NV` 4) or [`narrow`].
pub struct Product<'a, const NV: usize> {
    /// `[rows, depth]`
    pub left: Left<'a>,
    /// Length of the sums.
    pub depth: usize,
    /// `[depth, NV·L]`, packed.
    pub right: &'a [f32],
    /// Where the sums go.
    pub out: &'a mut [f32],
    /// Distance between rows of `out`.
    pub row_stride: usize,
    /// Distance between the vectors of a row; L where they follow each other.
    pub vector_stride: usize,
    /// How many lanes of each vector are written; L but where `out` ends within a vector.
    pub lanes: [usize; NV],
    /// Add to what is there instead of replacing it.
    pub add: bool,
}

impl<const NV: usize> Rows for Product<'_, NV> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let mut sums = zeros::<S, MR, NV>(s);
        multiply(s, &mut sums, self.depth, self.left.from_row(first), self.right);
        for (r, sums) in sums.into_iter().enumerate() {
            for (j, mut sum) in sums.into_iter().enumerate() {
                let to = &mut self.out[(first + r) * self.row_stride + j * self.vector_stride..];
                if self.lanes[j] == S::LANES {
                    if self.add {
                        sum = s.add(s.load(to), sum);
                    }
                    s.store(to, sum);
                } else {
                    store_part(s, &mut to[..self.lanes[j]], sum, self.add);
                }
            }
        }
    }
}

/// Stores the first lanes of `sum`, as many as `to` holds.
#[inline(always)]
fn store_part<S: Simd>(s: S, to: &mut [f32], sum: S::V, add: bool) {
    let mut lanes = [0.0; 16];
    s.store(&mut lanes, sum);
    for (to, lane) in to.iter_mut().zip(lanes) {
        *to = if add { *to + lane } else { lane };
    }
}
