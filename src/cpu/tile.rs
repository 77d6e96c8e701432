//! The microkernel: a small block of a matrix product whose sums stay in registers.
//!
//! Every product of the engine is made of these blocks. Each sum takes its terms in rising order of k, whatever the
//! block's height, so the bits do not depend on how rows are cut into blocks.
#![allow(unsafe_code)]

use super::simd::{Kernel, Pair, Simd};

/// What the factors of a product hold: an f32 for each k, or a [`Pair`] for every two.
pub trait Factor: Copy {
    /// Zero only if the number or both are.
    fn bits(self) -> u32;
    /// All lanes `self`.
    fn splat<S: Simd>(self, s: S) -> S::V;
    /// `sum + x · v`
    fn add<S: Simd>(s: S, x: S::V, v: S::V, sum: S::V) -> S::V;
}

impl Factor for f32 {
    #[inline(always)]
    fn bits(self) -> u32 {
        self.to_bits() << 1
    }
    #[inline(always)]
    fn splat<S: Simd>(self, s: S) -> S::V {
        s.splat(self)
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, x: S::V, v: S::V, sum: S::V) -> S::V {
        s.fma(x, v, sum)
    }
}

impl Factor for Pair {
    #[inline(always)]
    fn bits(self) -> u32 {
        self.0
    }
    #[inline(always)]
    fn splat<S: Simd>(self, s: S) -> S::V {
        s.splat_pair(self)
    }
    #[inline(always)]
    fn add<S: Simd>(s: S, x: S::V, v: S::V, sum: S::V) -> S::V {
        s.dot(x, v, sum)
    }
}

/// The left factor of a product: element (row, k) is `values[row · row_stride + k · k_stride]`.
#[derive(Clone, Copy)]
pub struct Left<'a, E = f32> {
    /// The numbers, from element (0, 0) on.
    pub values: &'a [E],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance along k.
    pub k_stride: usize,
}

impl<'a, E> Left<'a, E> {
    /// A row-major matrix.
    pub fn rows(values: &'a [E], row_stride: usize) -> Self {
        Self { values, row_stride, k_stride: 1 }
    }

    /// The transpose of a row-major matrix.
    pub fn columns(values: &'a [E], k_stride: usize) -> Self {
        Self { values, row_stride: 1, k_stride }
    }

    /// The same without its first rows.
    pub fn skip_rows(self, row: usize) -> Self {
        Self { values: &self.values[row * self.row_stride..], ..self }
    }
}

/// The right factor of a product: row k begins at `values[k · stride]`, and vectors follow each other in it.
#[derive(Clone, Copy)]
pub struct Right<'a, E = f32> {
    /// The numbers, from row 0 on.
    pub values: &'a [E],
    /// Distance between rows.
    pub stride: usize,
}

/// `MR` rows of `NV` vectors of sums.
pub type Sums<S, const MR: usize, const NV: usize> = [[<S as Simd>::V; NV]; MR];

/// Sums that start at zero.
#[inline(always)]
pub fn zeros<S: Simd, const MR: usize, const NV: usize>(s: S) -> Sums<S, MR, NV> {
    [[s.splat(0.0); NV]; MR]
}

/// `sums += left [MR, depth] · right [depth, NV·L]`
#[inline(always)]
pub fn multiply<S: Simd, E: Factor, const MR: usize, const NV: usize>(
    s: S,
    sums: &mut Sums<S, MR, NV>,
    depth: usize,
    left: Left<E>,
    right: Right<E>,
) {
    check::<S, E, MR, NV>(depth, left, right);
    let mut acc = *sums;
    for k in 0..depth {
        // SAFETY: `check` has seen that both factors have `depth` elements along k.
        unsafe { multiply_one(s, &mut acc, k, left, right) };
    }
    *sums = acc;
}

/// The same with the terms at `places` only; the others are known to be zero.
#[inline(always)]
pub fn multiply_at<S: Simd, E: Factor, const MR: usize, const NV: usize>(
    s: S,
    sums: &mut Sums<S, MR, NV>,
    places: &Places,
    left: Left<E>,
    right: Right<E>,
) {
    check::<S, E, MR, NV>(places.depth, left, right);
    let mut acc = *sums;
    for &k in &places.rising {
        // SAFETY: `check` has seen that both factors have `depth` elements along k; all places are below it.
        unsafe { multiply_one(s, &mut acc, k as usize, left, right) };
    }
    *sums = acc;
}

#[inline(always)]
fn check<S: Simd, E: Factor, const MR: usize, const NV: usize>(depth: usize, left: Left<E>, right: Right<E>) {
    const { assert!(size_of::<E>() == size_of::<f32>(), "a lane of a vector") };
    let last = depth.saturating_sub(1) * right.stride + NV * S::LANES;
    assert!(depth == 0 || right.values.len() >= last, "the right factor is shorter than its depth");
    let last = (MR - 1) * left.row_stride + depth.saturating_sub(1) * left.k_stride;
    assert!(depth == 0 || left.values.len() > last, "the left factor is shorter than its rows and depth");
}

/// Adds the terms of one k.
///
/// # Safety
///
/// `left` must have `MR` rows with an element k, and `right` a row k of `NV` vectors.
#[inline(always)]
unsafe fn multiply_one<S: Simd, E: Factor, const MR: usize, const NV: usize>(
    s: S,
    acc: &mut Sums<S, MR, NV>,
    k: usize,
    left: Left<E>,
    right: Right<E>,
) {
    // SAFETY: the caller has promised an element k of row r.
    let number = |r: usize| unsafe { *left.values.get_unchecked(r * left.row_stride + k * left.k_stride) }.splat(s);
    // SAFETY: the caller has promised a row k of NV vectors; `check` has seen that an element is a lane.
    let vector = |j: usize| unsafe { s.load_at(right.values.as_ptr().add(k * right.stride + j * S::LANES).cast()) };
    // The shorter side is held while the longer one passes, so that 3 x 4 fits in 16 registers.
    if MR < NV {
        let mut held = [s.splat(0.0); MR];
        held.iter_mut().enumerate().for_each(|(r, x)| *x = number(r));
        for j in 0..NV {
            let v = vector(j);
            for (sums, x) in acc.iter_mut().zip(held) {
                sums[j] = E::add(s, x, v, sums[j]);
            }
        }
    } else {
        let mut held = [s.splat(0.0); NV];
        held.iter_mut().enumerate().for_each(|(j, v)| *v = vector(j));
        for (r, sums) in acc.iter_mut().enumerate() {
            let x = number(r);
            for (sum, v) in sums.iter_mut().zip(held) {
                *sum = E::add(s, x, v, *sum);
            }
        }
    }
}

/// The places along k at which a block of a left factor is not zero. Most of an image is empty, and terms that are zero
/// change no sum, so they are left out.
#[derive(Clone, Default)]
pub struct Places {
    depth: usize,
    /// All below `depth`.
    rising: Vec<u32>,
}

impl Places {
    /// The places at which any of the first `MR` rows of `left` is not zero, up to `depth`.
    #[inline(always)]
    fn find<E: Factor, const MR: usize>(&mut self, left: Left<E>, depth: usize) {
        self.depth = depth;
        self.rising.resize(depth, 0);
        let mut found = 0;
        for k in 0..depth {
            let column = &left.values[k * left.k_stride..][..(MR - 1) * left.row_stride + 1];
            let bits = (0..MR).fold(0, |bits, r| bits | column[r * left.row_stride].bits());
            // Without a branch, which would be mispredicted at every edge of a stroke.
            self.rising[found] = k as u32;
            found += usize::from(bits != 0);
        }
        self.rising.truncate(found);
    }
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

/// Finds the places of every block of rows of `left`.
pub struct FindPlaces<'a, E = f32> {
    /// `[rows, depth]`
    pub left: Left<'a, E>,
    /// Places to look at.
    pub depth: usize,
    /// Of a block, at the index of its first row.
    pub places: &'a mut [Places],
}

impl<E: Factor> Rows for FindPlaces<'_, E> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, _: S, first: usize) {
        self.places[first].find::<E, MR>(self.left.skip_rows(first), self.depth);
    }
}

/// A plain product, `out (+)= left · right`, for [`wide`] (`NV` 4) or [`narrow`].
pub struct Product<'a, const NV: usize, E = f32> {
    /// `[rows, depth]`
    pub left: Left<'a, E>,
    /// Length of the sums.
    pub depth: usize,
    /// `[depth, NV·L]`
    pub right: Right<'a, E>,
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

impl<const NV: usize, E: Factor> Rows for Product<'_, NV, E> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let mut sums = zeros::<S, MR, NV>(s);
        multiply(s, &mut sums, self.depth, self.left.skip_rows(first), self.right);
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
