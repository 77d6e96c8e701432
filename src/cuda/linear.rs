//! Launches `kernels/linear.cu`: matrix products, split where there are many summands, and sums of columns.

#![allow(unsafe_code)]

use super::device::{Arg, Device, Launch, Part, arg_or_null, int, tiles};
use super::tiles::{
    COLUMN_SUM_COLUMNS, COLUMN_SUM_GROUPS, PRODUCT_COLUMNS, PRODUCT_DEPTH, PRODUCT_ROWS, PRODUCT_THREADS, SUM_THREADS,
};
use crate::error::Result;

/// Fewest summands of a part of a product that is split.
const LEAST_CHUNK: usize = 128;
/// Most parts of a product.
const MOST_PARTS: usize = 64;
/// Most numbers in all parts of a product together, if there is more than one.
const MOST_NUMBERS: usize = 16 << 20;

/// Which of the two matrices lies transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// a `[M,K]`, b `[K,N]`
    Nn,
    /// a `[M,K]`, b `[N,K]`
    Nt,
    /// a `[K,M]`, b `[K,N]`
    Tn,
}

impl Form {
    fn kernel(self) -> &'static str {
        match self {
            Self::Nn => "product_nn",
            Self::Nt => "product_nt",
            Self::Tn => "product_tn",
        }
    }
}

/// A product c `[M,N]` of two matrices with K summands, row-major and dense.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// How a and b lie.
    pub form: Form,
    /// a, M·K numbers.
    pub a: Part<'a, f32>,
    /// b, K·N numbers.
    pub b: Part<'a, f32>,
    /// A bias `[N]`, and the first row of c that it is added to.
    pub bias: Option<(Part<'a, f32>, usize)>,
    /// c, M·N numbers.
    pub c: Part<'a, f32>,
    /// M
    pub m: usize,
    /// N
    pub n: usize,
    /// K
    pub k: usize,
}

/// How a product's K summands are cut; depends on its sizes alone, for it is part of the order of its sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Summands of each part but the last.
    pub chunk: usize,
    /// Number of parts, S.
    pub parts: usize,
}

impl Split {
    /// The cut for a product of those sizes.
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        let most = MOST_PARTS.min(MOST_NUMBERS / (m * n).max(1)).max(1);
        let chunk = k.div_ceil(most).max(LEAST_CHUNK).next_multiple_of(PRODUCT_DEPTH as usize);
        let parts = k.div_ceil(chunk);
        Self { chunk: if parts == 1 { k } else { chunk }, parts }
    }
}

/// Computes c in one part.
///
/// # Errors
///
/// If the device fails.
pub fn product<D: Device>(device: &D, product: &Product<'_>) -> Result<()> {
    launch_parts(device, product, Split { chunk: product.k, parts: 1 })
}

/// Computes c in the parts of [`Split::new`], which go to `parts` `[S,M,N]` if there are several, and are added up.
///
/// # Errors
///
/// If the device fails.
///
/// # Panics
///
/// If there is a bias: it would be added to every part.
pub fn split_product<D: Device>(device: &D, product: &Product<'_>, parts: Part<'_, f32>) -> Result<()> {
    assert!(product.bias.is_none(), "a split product has no bias");
    let Product { m, n, k, c, .. } = *product;
    let split = Split::new(m, n, k);
    if split.parts == 1 {
        return launch_parts(device, product, split);
    }
    launch_parts(device, &Product { c: parts, ..*product }, split)?;
    sum_parts(device, parts, c, m * n, split.parts)
}

fn launch_parts<D: Device>(device: &D, product: &Product<'_>, split: Split) -> Result<()> {
    let Product { form, a, b, bias, c, m, n, k } = *product;
    let args = [
        a.arg(m * k),
        b.arg(k * n),
        arg_or_null(bias.map(|(bias, _)| bias), n),
        int(bias.map_or(0, |(_, from)| from)),
        c.arg(split.parts * m * n),
        int(m),
        int(n),
        int(k),
        int(split.chunk),
    ];
    let launch = Launch {
        kernel: form.kernel(),
        grid: [tiles(m, PRODUCT_ROWS), tiles(n, PRODUCT_COLUMNS), split.parts as u32],
        block: [PRODUCT_THREADS, 1, 1],
        cluster: [1; 3],
        shared: 0,
        dependent: false,
        args: &args,
    };
    // SAFETY: `arg` has checked the length of each matrix against M, N, K and the number of parts.
    unsafe { device.launch(&launch) }
}

/// c `[n]` = the sum of `count` parts `[count,n]`; of one part, a copy.
///
/// # Errors
///
/// If the device fails.
pub fn sum_parts<D: Device>(device: &D, parts: Part<'_, f32>, c: Part<'_, f32>, n: usize, count: usize) -> Result<()> {
    let args: [Arg; 4] = [parts.arg(count * n), c.arg(n), int(n), int(count)];
    let launch = Launch {
        kernel: "sum_parts",
        grid: [tiles(n, SUM_THREADS), 1, 1],
        block: [SUM_THREADS, 1, 1],
        cluster: [1; 3],
        shared: 0,
        dependent: false,
        args: &args,
    };
    // SAFETY: `arg` has checked both lengths.
    unsafe { device.launch(&launch) }
}

/// c `[N]` = the sums of the columns of a `[M,N]`.
///
/// # Errors
///
/// If the device fails.
pub fn column_sums<D: Device>(device: &D, a: Part<'_, f32>, c: Part<'_, f32>, m: usize, n: usize) -> Result<()> {
    let args = [a.arg(m * n), c.arg(n), int(m), int(n)];
    let launch = Launch {
        kernel: "column_sums",
        grid: [tiles(n, COLUMN_SUM_COLUMNS), 1, 1],
        block: [COLUMN_SUM_COLUMNS, COLUMN_SUM_GROUPS, 1],
        cluster: [1; 3],
        shared: 0,
        dependent: false,
        args: &args,
    };
    // SAFETY: `arg` has checked both lengths.
    unsafe { device.launch(&launch) }
}
