//! Launches `kernels/persistent/`: a batch from its sequences to the gradient of all parameters, in few launches.
//!
//! One kernel does all steps forward and backward, a block for each 8 sequences; then the weight gradients are one product over
//! all steps and sequences, whose parts are added in a fixed order. The input layer's gradients are unfolded from that as in
//! [`super::backward`].

#![allow(unsafe_code)]

use super::device::{Arg, Buffer, Device, Launch, Limits, Part, arg_or_null, int, tiles};
use super::gather::DeviceSequences;
use super::linear::{Form, Product, product, sum_parts};
use super::tiles::{GRADIENT_COLUMNS, GRADIENT_THREADS, PACK_THREADS, PARTS_THREADS, STAGE_TILES, UNPACK_THREADS};
use super::variant::{TILE_ROWS, Variant};
use super::weights::{Weights, joined};
use crate::error::Result;
use crate::shape::{Dims, ParamLayout, Tensors};

/// The kernel that takes dynamic shared memory.
pub(super) const DYNAMIC_SHARED: &str = "persistent_lstm";

/// Most numbers in all parts of the weight gradients together.
const MOST_NUMBERS: usize = 16 << 20;

/// What a batch of `batch` sequences, B, needs and leaves, besides parameters.
pub struct Persistent<D: Device> {
    dims: Dims,
    variant: Variant,
    batch: usize,
    /// Parts of the weight gradients' product, S.
    parts_count: usize,
    /// Operand tiles of the weights, in words of 4 bytes.
    forward_weights: Buffer<D, u32>,
    /// Likewise.
    backward_weights: Buffer<D, u32>,
    /// h and x of all steps, in bf16.
    hx: Buffer<D, u32>,
    /// Gradient by the gates before their activation, in bf16.
    da: Buffer<D, u32>,
    /// Gates of all steps, in f16.
    saved_gates: Buffer<D, u32>,
    /// Cells of all steps, in f16.
    saved_cells: Buffer<D, u32>,
    /// `[B,K]`
    logits: Buffer<D, f32>,
    /// `[B]`
    loss: Buffer<D, f32>,
    /// `[B]`
    predicted: Buffer<D, u32>,
    /// Class of each sequence, `[B]`.
    labels: Buffer<D, u32>,
    /// Each tile's part of the gradient of the head, `[tiles][(H+1)·K]`.
    head_parts: Buffer<D, f32>,
    /// Parts of the weight gradients.
    parts: Buffer<D, f32>,
    /// Gradient by the folded weights and, as its last row, by the bias, `[J,G]`.
    d_fold: Buffer<D, f32>,
    /// Gradient of the mean loss, laid out as the flat parameters.
    gradient: Buffer<D, f32>,
}

/// Where the state after the last step goes, h and c `[B,H]` each, if it is wanted.
pub type Last<'a> = Option<(Part<'a, f32>, Part<'a, f32>)>;

impl<D: Device> Persistent<D> {
    /// Buffers for a batch; the device must have loaded `variant`.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, dims: Dims, variant: Variant, batch: usize, limits: &Limits) -> Result<Self> {
        let row_tiles = batch.div_ceil(TILE_ROWS);
        let [hx, da] = variant.step_words();
        let saved = row_tiles * dims.t * variant.saved();
        let parts_count = parts_count(&variant, dims.t * row_tiles, limits.multiprocessors as usize);
        let threads = variant.threads();
        Ok(Self {
            dims,
            variant,
            batch,
            parts_count,
            forward_weights: Buffer::new(device, "forward weights", variant.forward_tiles() * threads * 16)?,
            backward_weights: Buffer::new(device, "backward weights", variant.backward_tiles() * threads * 4)?,
            hx: Buffer::new(device, "hx", (dims.t + 1) * row_tiles * hx)?,
            da: Buffer::new(device, "da", dims.t * row_tiles * da)?,
            saved_gates: Buffer::new(device, "saved gates", saved * 4)?,
            saved_cells: Buffer::new(device, "saved cells", saved * 2)?,
            logits: Buffer::new(device, "logits", batch * dims.k)?,
            loss: Buffer::new(device, "loss", batch)?,
            predicted: Buffer::new(device, "predicted", batch)?,
            labels: Buffer::new(device, "batch labels", batch)?,
            head_parts: Buffer::new(device, "head parts", row_tiles * (dims.h + 1) * dims.k)?,
            parts: Buffer::new(device, "parts", parts_count * variant.gradient_rows() * variant.gate_rows())?,
            d_fold: Buffer::new(device, "d_fold", (dims.i + 1) * dims.g())?,
            gradient: Buffer::new(device, "gradient", ParamLayout::new(dims).len())?,
        })
    }

    /// `[B,K]`
    pub fn logits(&self) -> &Buffer<D, f32> {
        &self.logits
    }

    /// Loss of each sequence, `[B]`.
    pub fn loss(&self) -> &Buffer<D, f32> {
        &self.loss
    }

    /// Predicted class of each sequence, `[B]`.
    pub fn predicted(&self) -> &Buffer<D, u32> {
        &self.predicted
    }

    /// Class of each sequence, `[B]`.
    pub fn labels(&self) -> &Buffer<D, u32> {
        &self.labels
    }

    /// Gradient of the mean loss, laid out as the flat parameters.
    pub fn gradient(&self) -> &Buffer<D, f32> {
        &self.gradient
    }

    /// From the sequences `rows[turn]` to the gradient; `fold` of the weights must be that of their parameters.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run(
        &self,
        device: &D,
        weights: &Weights<D>,
        sequences: &DeviceSequences<D>,
        rows_and_turn: (Part<'_, u32>, Part<'_, u32>),
        last: Last<'_>,
    ) -> Result<()> {
        self.pack(device, weights, sequences.scale())?;
        self.steps(device, weights, sequences, rows_and_turn, last)?;
        self.weight_gradients(device, weights, sequences.scale())?;
        self.head(device, weights)?;
        self.input_weights(device, weights)
    }

    /// Weights as operands, of which x's take the scale of bytes.
    fn pack(&self, device: &D, weights: &Weights<D>, scale: f32) -> Result<()> {
        let Dims { i, h, .. } = self.dims;
        let fragments = (4 * self.variant.forward_tiles() + self.variant.backward_tiles()) * self.variant.threads();
        let args = [
            weights.fold().arg((i + 1) * self.dims.g()),
            weights.tensors().w_h.arg(h * self.dims.g()),
            self.forward_weights.all().arg(self.forward_weights.len()),
            self.backward_weights.all().arg(self.backward_weights.len()),
            int(i),
            int(h),
            Arg::F32(scale),
            Arg::F32(weights.model().forget_bias),
        ];
        let grid = [tiles(fragments, PACK_THREADS), 1, 1];
        let kernel = "persistent_pack";
        let launch = Launch { kernel, grid, block: [PACK_THREADS, 1, 1], cluster: [1; 3], shared: 0, args: &args };
        // SAFETY: the weights' buffers were made for this variant, which fits the model; `arg` has checked the others.
        unsafe { device.launch(&launch) }
    }

    /// All steps forward, the head, and all steps backward.
    fn steps(
        &self,
        device: &D,
        weights: &Weights<D>,
        sequences: &DeviceSequences<D>,
        (rows, turn): (Part<'_, u32>, Part<'_, u32>),
        last: Last<'_>,
    ) -> Result<()> {
        let (Dims { t, i, h, k, .. }, batch) = (self.dims, self.batch);
        let Tensors { w_out, b_out, .. } = weights.tensors();
        assert!(rows.len() >= batch, "a batch is {batch} rows");
        let [bytes, floats, labels] = sequences.args(t, i);
        let all = |buffer: &Buffer<D, u32>| buffer.all().arg(buffer.len());
        let args = [
            all(&self.forward_weights),
            all(&self.backward_weights),
            w_out.arg(h * k),
            b_out.arg(k),
            bytes,
            floats,
            labels,
            rows.arg(batch),
            turn.arg(1),
            all(&self.hx),
            all(&self.da),
            all(&self.saved_gates),
            all(&self.saved_cells),
            self.logits.all().arg(batch * k),
            self.loss.all().arg(batch),
            self.predicted.all().arg(batch),
            self.labels.all().arg(batch),
            self.head_parts.all().arg(self.row_tiles() * (h + 1) * k),
            arg_or_null(last.map(|(h_last, _)| h_last), batch * h),
            arg_or_null(last.map(|(_, c_last)| c_last), batch * h),
            int(batch),
            int(t),
            int(i),
            int(h),
            int(k),
        ];
        let (grid, block) = ([self.row_tiles() as u32, 1, 1], [self.variant.threads() as u32, 1, 1]);
        let shared = self.variant.shared_bytes(k) as u32;
        let launch = Launch { kernel: DYNAMIC_SHARED, grid, block, cluster: [1; 3], shared, args: &args };
        // SAFETY: the buffers were made for this variant and batch, and `arg` has checked the others; the rows are below N and
        // the turn below S by the engine's contract.
        unsafe { device.launch(&launch) }
    }

    fn row_tiles(&self) -> usize {
        self.batch.div_ceil(TILE_ROWS)
    }

    /// Gradients of W_h and of the folded weights.
    fn weight_gradients(&self, device: &D, weights: &Weights<D>, scale: f32) -> Result<()> {
        let (Dims { i, h, .. }, variant, g) = (self.dims, &self.variant, self.dims.g());
        let (count, parts) = (self.dims.t * self.row_tiles(), self.parts.all().arg(self.parts.len()));
        let args = [self.hx.all().arg(self.hx.len()), self.da.all().arg(self.da.len()), parts, int(count)];
        let columns = tiles(variant.gate_rows(), GRADIENT_COLUMNS);
        let rows = variant.gradient_rows().div_ceil(variant.gradient_block_rows()) as u32;
        let launch = Launch {
            kernel: "persistent_weight_gradient",
            grid: [columns, rows, self.parts_count as u32],
            block: [GRADIENT_THREADS, 1, 1],
            cluster: [1; 3],
            shared: 0,
            args: &args,
        };
        // SAFETY: the buffers were made for this variant and batch, and S for so many tiles.
        unsafe { device.launch(&launch) }?;
        let args = [
            parts,
            self.gradient.part(weights.ranges().w_h.clone()).arg(h * g),
            self.d_fold.all().arg((i + 1) * g),
            int(self.parts_count),
            int(i),
            int(h),
            Arg::F32(scale),
        ];
        let (kernel, grid) = ("persistent_sum", [tiles((h + i + 1) * g, PARTS_THREADS), 1, 1]);
        let launch = Launch { kernel, grid, block: [PARTS_THREADS, 1, 1], cluster: [1; 3], shared: 0, args: &args };
        // SAFETY: likewise, and `arg` has checked the results.
        unsafe { device.launch(&launch) }
    }

    /// Gradient of the head: the sum of the tiles' parts.
    fn head(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let ranges = weights.ranges();
        let gradient = self.gradient.part(joined(&ranges.w_out, &ranges.b_out));
        sum_parts(device, self.head_parts.all(), gradient, gradient.len(), self.row_tiles())
    }

    /// Gradients of the layers that were folded.
    fn input_weights(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let (Dims { i, p, .. }, g) = (self.dims, self.dims.g());
        let (ranges, d_fold, m) = (weights.ranges(), self.d_fold.all(), i + 1);
        let (a, c) = (weights.input_layer(), self.gradient.part(ranges.w_x.clone()));
        product(device, &Product { form: Form::Tn, a, b: d_fold, bias: None, c, m: p, n: g, k: m })?;
        let Tensors { w_x, .. } = weights.tensors();
        let c = self.gradient.part(joined(&ranges.w_in, &ranges.b_in));
        product(device, &Product { form: Form::Nt, a: d_fold, b: w_x, bias: None, c, m, n: p, k: g })?;
        sum_parts(device, self.d_fold.part(i * g..m * g), self.gradient.part(ranges.b.clone()), g, 1)
    }

    /// Gradient of the mean loss by the inputs, into `dx` `[T·B,I]`; `da` `[T·B,G]` is scratch.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn inputs(&self, device: &D, weights: &Weights<D>, da: Part<'_, f32>, dx: Part<'_, f32>) -> Result<()> {
        let (Dims { t, i, h, .. }, batch, g) = (self.dims, self.batch, self.dims.g());
        let count = t * batch * g;
        let args = [self.da.all().arg(self.da.len()), da.arg(count), int(batch), int(t), int(h)];
        let (kernel, grid) = ("persistent_unpack", [tiles(count, UNPACK_THREADS), 1, 1]);
        let launch = Launch { kernel, grid, block: [UNPACK_THREADS, 1, 1], cluster: [1; 3], shared: 0, args: &args };
        // SAFETY: the buffer of da was made for this variant and batch, and `arg` has checked the result.
        unsafe { device.launch(&launch) }?;
        let (b, m) = (weights.fold(), t * batch);
        product(device, &Product { form: Form::Nt, a: da, b, bias: None, c: dx, m, n: i, k: g })
    }
}

/// Parts of the weight gradients' product over `count` tiles: so many that every multiprocessor has a block.
fn parts_count(variant: &Variant, count: usize, multiprocessors: usize) -> usize {
    let rows = variant.gradient_rows().div_ceil(variant.gradient_block_rows());
    let blocks = rows * tiles(variant.gate_rows(), GRADIENT_COLUMNS) as usize;
    let most = (MOST_NUMBERS / (variant.gradient_rows() * variant.gate_rows())).max(1);
    (multiprocessors / blocks).clamp(1, count.div_ceil(STAGE_TILES as usize).min(most))
}
