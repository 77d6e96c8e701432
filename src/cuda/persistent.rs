//! Launches `kernels/persistent/`: a batch from its sequences to the gradient of all parameters, in few launches.
//!
//! Four launches are a training iteration. One does all steps forward and backward, a block for each 8 sequences; the second the
//! weight gradients, one product over all steps and sequences in parts; the third adds the parts, unfolds the input layer's
//! gradients, updates all parameters and leaves recurrent weights as operands of the next iteration; the fourth folds the input
//! layer again. Where the gradient itself is wanted, to be clipped or looked at, it takes the launches of [`super::backward`].

#![allow(unsafe_code)]

use super::device::{Arg, Buffer, Device, Launch, Limits, Part, arg_or_null, int, tiles};
use super::gather::DeviceSequences;
use super::linear::{Form, Product, product, sum_parts};
use super::tiles::{
    FOLD_COLUMNS, FOLD_THREADS, GRADIENT_COLUMNS, GRADIENT_THREADS, PACK_THREADS, PARTS_THREADS, STAGE_TILES,
    UNPACK_THREADS, UPDATE_THREADS,
};
use super::variant::{TILE_ROWS, Variant};
use super::weights::{Weights, joined};
use crate::error::Result;
use crate::model::Model;
use crate::optimizer::Adam;
use crate::shape::{Dims, Linear};

/// Kernels that wait for the launches before them themselves: see `follow_launches` in `kernels/persistent/tensor.cuh`.
const DEPENDENT: [&str; 4] = ["persistent_lstm", "persistent_weight_gradient", "persistent_update", "persistent_fold"];
/// Most numbers in all parts of the weight gradients together.
const MOST_NUMBERS: usize = 16 << 20;

/// What a batch of `batch` sequences, B, needs and leaves, besides parameters, of each of the models that train side by side, M.
/// The shapes below are those of one model; each buffer holds all models, one after the other.
pub struct Persistent<D: Device> {
    dims: Dims,
    variant: Variant,
    batch: usize,
    /// M
    models: usize,
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
    /// Blocks of the weight gradients' product that are done, for each of its columns of blocks; zero between launches.
    counters: Buffer<D, u32>,
    /// Gradient by the folded weights and, as its last row, by the bias, `[J,G]`.
    d_fold: Buffer<D, f32>,
    /// Gradient of the mean loss, laid out as the flat parameters; only of a model that trains alone.
    gradient: Buffer<D, f32>,
}

/// What an update needs besides parameters and gradient, and where it leaves the batch's metrics.
pub struct Step<'a> {
    /// The optimizer, whose clipping is not done.
    pub adam: &'a Adam,
    /// [`Adam::step_size`] of S steps of M models, `[S,M]`.
    pub step_sizes: Part<'a, f32>,
    /// Which of the S steps this is, `[1]`.
    pub turn: Part<'a, u32>,
    /// `[S,M]`
    pub mean_loss: Part<'a, f32>,
    /// `[S,M]`
    pub correct: Part<'a, u32>,
}

/// Where the state after the last step goes, h and c of the first model `[B,H]` each, if it is wanted.
pub type Last<'a> = Option<(Part<'a, f32>, Part<'a, f32>)>;

impl<D: Device> Persistent<D> {
    /// Buffers for a batch of each of `models`; the device must have loaded `variant`.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(
        device: &D,
        model: &Model,
        variant: Variant,
        (batch, models): (usize, usize),
        limits: &Limits,
    ) -> Result<Self> {
        let dims = model.dims;
        let row_tiles = batch.div_ceil(TILE_ROWS);
        let [hx, da] = variant.step_words();
        let saved = row_tiles * dims.t * variant.saved();
        let parts_count = parts_count(&variant, dims.t * row_tiles, limits.multiprocessors as usize);
        let columns = tiles(variant.gate_rows(), GRADIENT_COLUMNS) as usize;
        let mut counters = Buffer::new(device, "counters", models * columns)?;
        counters.zero(device, counters.len())?;
        let f32s = |name, len: usize| Buffer::new(device, name, models * len);
        let u32s = |name, len: usize| Buffer::new(device, name, models * len);
        Ok(Self {
            dims,
            variant,
            batch,
            models,
            parts_count,
            forward_weights: u32s("forward weights", variant.forward_words())?,
            backward_weights: u32s("backward weights", variant.backward_words())?,
            hx: u32s("hx", (dims.t + 1) * row_tiles * hx)?,
            da: u32s("da", dims.t * row_tiles * da)?,
            saved_gates: u32s("saved gates", saved * 4)?,
            saved_cells: u32s("saved cells", saved * 2)?,
            logits: f32s("logits", batch * dims.k)?,
            loss: f32s("loss", batch)?,
            predicted: u32s("predicted", batch)?,
            labels: u32s("batch labels", batch)?,
            head_parts: f32s("head parts", row_tiles * (dims.h + 1) * dims.k)?,
            parts: f32s("parts", parts_count * variant.gradient_rows() * variant.gate_rows())?,
            counters,
            d_fold: f32s("d_fold", (dims.i + 1) * dims.g())?,
            gradient: Buffer::new(device, "gradient", model.layout().len())?,
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

    /// Makes the weights ready as operands: whoever changed them, before the next batch.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn pack(&self, device: &D, weights: &[Weights<D>], sequences: &DeviceSequences<D>) -> Result<()> {
        self.pack_recurrent(device, weights)?;
        self.fold(device, weights, sequences, None)
    }

    /// From the sequences `rows[turn]` to losses, classes, and the gradient in parts. The weights must be packed.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run(
        &self,
        device: &D,
        weights: &[Weights<D>],
        sequences: &DeviceSequences<D>,
        rows_and_turn: (Part<'_, u32>, Part<'_, u32>),
        last: Last<'_>,
    ) -> Result<()> {
        self.steps(device, weights, sequences, rows_and_turn, last)?;
        self.weight_gradients(device, sequences.scale())
    }

    /// From the gradient in parts to [`Persistent::gradient`], of a model that trains alone.
    ///
    /// # Errors
    ///
    /// If the device fails.
    ///
    /// # Panics
    ///
    /// If there are more models.
    pub fn add_gradient(&self, device: &D, weights: &[Weights<D>]) -> Result<()> {
        let weights = self.only(weights);
        self.recurrent_weights(device, weights)?;
        self.head(device, weights)?;
        self.input_weights(device, weights)
    }

    /// From the gradient in parts to the next parameters, and to recurrent weights as operands; the batch's metrics.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn update(&self, device: &D, weights: &[Weights<D>], step: &Step<'_>) -> Result<()> {
        let weights = self.first(weights);
        let (Dims { i, p, h, k, .. }, n, models) = (self.dims, weights.parameters.len(), self.models);
        let (g, head, ranges) = (self.dims.g(), (h + 1) * k, weights.ranges());
        let Step { adam, step_sizes, turn, mean_loss, correct } = *step;
        let args = [
            self.parts.all().arg(self.parts.len()),
            self.d_fold.all().arg(models * (i + 1) * g),
            self.head_parts.all().arg(models * self.row_tiles() * head),
            self.loss.all().arg(models * self.batch),
            self.predicted.all().arg(models * self.batch),
            self.labels.all().arg(models * self.batch),
            step_sizes.arg(models),
            turn.arg(1),
            weights.parameters.all().arg(n),
            weights.m.all().arg(n),
            weights.v.all().arg(n),
            self.forward_weights.all().arg(self.forward_weights.len()),
            self.backward_weights.all().arg(self.backward_weights.len()),
            mean_loss.arg(models),
            correct.arg(models),
            int(self.parts_count),
            int(self.row_tiles()),
            int(self.batch),
            int(i),
            int(p),
            int(h),
            int(k),
            int(weights.input_range().start),
            int(ranges.cells[0].w_x.start),
            int(ranges.cells[0].w_h.start),
            int(ranges.cells[0].b.start),
            int(ranges.output.w.start),
            int(n),
            Arg::F32(adam.beta1 as f32),
            Arg::F32((1.0 - adam.beta1) as f32),
            Arg::F32(adam.beta2 as f32),
            Arg::F32((1.0 - adam.beta2) as f32),
            Arg::F32(adam.epsilon as f32),
        ];
        let blocks = (h + p) as u32 + tiles(g + head, UPDATE_THREADS) + 1;
        launch(device, "persistent_update", [blocks, models as u32, 1], UPDATE_THREADS, &args)
    }

    /// Recurrent weights as operands.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn pack_recurrent(&self, device: &D, weights: &[Weights<D>]) -> Result<()> {
        let (first, backward) = (self.first(weights), Some(&self.backward_weights));
        pack_recurrent(device, (first, self.models), &self.variant, &self.forward_weights, backward)
    }

    /// Input weights, with the input layer folded into them, as operands, of which x's take the scale of bytes. Adds 1 to a
    /// turn: it is the last launch of an iteration.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn fold(
        &self,
        device: &D,
        weights: &[Weights<D>],
        sequences: &DeviceSequences<D>,
        turn: Option<Part<'_, u32>>,
    ) -> Result<()> {
        let (first, scale) = (self.first(weights), sequences.scale());
        fold(device, (first, self.models), &self.variant, &self.forward_weights, scale, turn)
    }

    /// All steps forward, the head, and all steps backward.
    fn steps(
        &self,
        device: &D,
        weights: &[Weights<D>],
        sequences: &DeviceSequences<D>,
        (rows, turn): (Part<'_, u32>, Part<'_, u32>),
        last: Last<'_>,
    ) -> Result<()> {
        let (Dims { t, i, h, k, .. }, batch, weights) = (self.dims, self.batch, self.first(weights));
        let Linear { w: w_out, b: b_out } = weights.tensors().output;
        let all_rows = self.models * batch;
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
            rows.arg(all_rows),
            turn.arg(1),
            all(&self.hx),
            all(&self.da),
            all(&self.saved_gates),
            all(&self.saved_cells),
            self.logits.all().arg(all_rows * k),
            self.loss.all().arg(all_rows),
            self.predicted.all().arg(all_rows),
            self.labels.all().arg(all_rows),
            self.head_parts.all().arg(self.models * self.row_tiles() * (h + 1) * k),
            arg_or_null(last.map(|(h_last, _)| h_last), batch * h),
            arg_or_null(last.map(|(_, c_last)| c_last), batch * h),
            int(batch),
            int(t),
            int(i),
            int(h),
            int(k),
            int(weights.parameters.len()),
        ];
        launch_divided(device, "persistent_lstm", &self.variant, (batch, k, self.models), &args)
    }

    /// The weights of the first model, which those of the others follow.
    fn first<'a>(&self, weights: &'a [Weights<D>]) -> &'a Weights<D> {
        assert_eq!(weights.len(), self.models, "weights of each model");
        assert!(weights.windows(2).all(|two| two[1].follows(&two[0])), "one after the other");
        &weights[0]
    }

    /// The weights of a model that trains alone.
    fn only<'a>(&self, weights: &'a [Weights<D>]) -> &'a Weights<D> {
        assert_eq!(self.models, 1, "models that train side by side are updated where their gradients are made");
        self.first(weights)
    }

    fn row_tiles(&self) -> usize {
        self.batch.div_ceil(TILE_ROWS)
    }

    /// Gradients of W_h and of the folded weights, the first in parts.
    fn weight_gradients(&self, device: &D, scale: f32) -> Result<()> {
        let (Dims { i, h, .. }, variant) = (self.dims, &self.variant);
        let args = [
            self.hx.all().arg(self.hx.len()),
            self.da.all().arg(self.da.len()),
            self.parts.all().arg(self.parts.len()),
            self.d_fold.all().arg(self.models * (i + 1) * self.dims.g()),
            self.counters.all().arg(self.counters.len()),
            int(self.dims.t * self.row_tiles()),
            int((self.dims.t + 1) * self.row_tiles()),
            int(i),
            int(h),
            Arg::F32(scale),
        ];
        let rows = self.models * variant.gradient_row_blocks();
        let grid = [(self.counters.len() / self.models) as u32, rows as u32, self.parts_count as u32];
        launch(device, "persistent_weight_gradient", grid, GRADIENT_THREADS, &args)
    }

    /// Gradient of W_h: the sum of its parts.
    fn recurrent_weights(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let (h, count) = (self.dims.h, self.dims.h * self.dims.g());
        let gradient = self.gradient.part(weights.ranges().cells[0].w_h.clone()).arg(count);
        let args = [self.parts.all().arg(self.parts.len()), gradient, int(self.parts_count), int(h)];
        launch(device, "persistent_sum", [tiles(count, PARTS_THREADS), 1, 1], PARTS_THREADS, &args)
    }

    /// Gradient of the head: the sum of the tiles' parts.
    fn head(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let Linear { w, b } = &weights.ranges().output;
        let gradient = self.gradient.part(joined(w, b));
        sum_parts(device, self.head_parts.all(), gradient, gradient.len(), self.row_tiles())
    }

    /// Gradients of the layers that were folded.
    fn input_weights(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let (Dims { i, p, .. }, g) = (self.dims, self.dims.g());
        let (ranges, d_fold, m) = (&weights.ranges().cells[0], self.d_fold.all(), i + 1);
        let (a, c) = (weights.input_layer(), self.gradient.part(ranges.w_x.clone()));
        product(device, &Product { form: Form::Tn, a, b: d_fold, bias: None, c, m: p, n: g, k: m })?;
        let w_x = weights.tensors().cells[0].w_x;
        let c = self.gradient.part(weights.input_range());
        product(device, &Product { form: Form::Nt, a: d_fold, b: w_x, bias: None, c, m, n: p, k: g })?;
        sum_parts(device, self.d_fold.part(i * g..m * g), self.gradient.part(ranges.b.clone()), g, 1)
    }

    /// Gradient of the mean loss by the inputs, into `dx` `[T·B,I]`, of a model that trains alone; `da` `[T·B,G]` is scratch.
    ///
    /// # Errors
    ///
    /// If the device fails.
    ///
    /// # Panics
    ///
    /// If there are more models.
    pub fn inputs(&self, device: &D, weights: &[Weights<D>], da: Part<'_, f32>, dx: Part<'_, f32>) -> Result<()> {
        let weights = self.only(weights);
        let (Dims { t, i, h, .. }, batch, g) = (self.dims, self.batch, self.dims.g());
        let count = t * batch * g;
        let args = [self.da.all().arg(self.da.len()), da.arg(count), int(batch), int(t), int(h)];
        launch(device, "persistent_unpack", [tiles(count, UNPACK_THREADS), 1, 1], UNPACK_THREADS, &args)?;
        let (b, m) = (weights.fold(), t * batch);
        product(device, &Product { form: Form::Nt, a: da, b, bias: None, c: dx, m, n: i, k: g })
    }
}

/// Recurrent weights of some models, the first of which is given, as operands of products forward, and backward where that is wanted.
pub(super) fn pack_recurrent<D: Device>(
    device: &D,
    (weights, models): (&Weights<D>, usize),
    variant: &Variant,
    forward: &Buffer<D, u32>,
    backward: Option<&Buffer<D, u32>>,
) -> Result<()> {
    let Dims { h, .. } = weights.model().dims;
    let args = [
        weights.tensors().cells[0].w_h.arg(h * weights.model().dims.g()),
        forward.all().arg(models * variant.forward_words()),
        arg_or_null(backward.map(Buffer::all), models * variant.backward_words()),
        int(h),
        int(weights.parameters.len()),
    ];
    let count = variant.units * variant.gate_rows();
    let grid = [tiles(count, PACK_THREADS), models as u32, 1];
    launch(device, "persistent_pack", grid, PACK_THREADS, &args)
}

/// Folded input weights and biases of some models, likewise, as operands, of which x's take the scale of bytes; adds 1 to a turn.
pub(super) fn fold<D: Device>(
    device: &D,
    (weights, models): (&Weights<D>, usize),
    variant: &Variant,
    forward: &Buffer<D, u32>,
    scale: f32,
    turn: Option<Part<'_, u32>>,
) -> Result<()> {
    let dims = weights.model().dims;
    let (Dims { i, p, h, .. }, g) = (dims, dims.g());
    let args = [
        weights.input_layer().arg((i + 1) * p),
        weights.tensors().cells[0].w_x.arg(p * g),
        weights.tensors().cells[0].b.arg(g),
        arg_or_null(turn, 1),
        forward.all().arg(models * variant.forward_words()),
        int(i),
        int(p),
        int(h),
        int(weights.parameters.len()),
        Arg::F32(scale),
        Arg::F32(weights.model().forget_bias),
    ];
    let blocks = tiles(variant.gate_rows(), FOLD_COLUMNS);
    launch(device, "persistent_fold", [blocks, models as u32, 1], FOLD_THREADS, &args)
}

/// Launches a kernel whose blocks have no dynamic shared memory.
pub(super) fn launch<D: Device>(
    device: &D,
    kernel: &'static str,
    grid: [u32; 3],
    threads: u32,
    args: &[Arg],
) -> Result<()> {
    start(device, kernel, (grid, [threads, 1, 1], [1; 3]), 0, args)
}

/// Launches a kernel whose blocks own the tiles of a batch, of that many sequences and classes, of some models, as the variant divides them.
pub(super) fn launch_divided<D: Device>(
    device: &D,
    kernel: &'static str,
    variant: &Variant,
    (batch, classes, models): (usize, usize, usize),
    args: &[Arg],
) -> Result<()> {
    let (grid, block) = ([variant.blocks(batch) as u32, models as u32, 1], [variant.threads() as u32, 1, 1]);
    let (cluster, shared) = ([variant.division.cluster as u32, 1, 1], variant.shared_bytes(classes) as u32);
    start(device, kernel, (grid, block, cluster), shared, args)
}

fn start<D: Device>(
    device: &D,
    kernel: &'static str,
    (grid, block, cluster): ([u32; 3], [u32; 3], [u32; 3]),
    shared: u32,
    args: &[Arg],
) -> Result<()> {
    let launch = Launch { kernel, grid, block, cluster, shared, dependent: DEPENDENT.contains(&kernel), args };
    // SAFETY: all buffers were made for this variant and batch, and `arg` has checked them and the others against the sizes
    // given; the rows are below N and the turn below S by the engine's contract.
    unsafe { device.launch(&launch) }
}

/// Parts of the weight gradients' product over `count` tiles: so many that every multiprocessor has a block.
fn parts_count(variant: &Variant, count: usize, multiprocessors: usize) -> usize {
    let blocks = variant.gradient_row_blocks() * tiles(variant.gate_rows(), GRADIENT_COLUMNS) as usize;
    let most = (MOST_NUMBERS / (variant.gradient_rows() * variant.gate_rows())).max(1);
    (multiprocessors / blocks).clamp(1, count.div_ceil(STAGE_TILES as usize).min(most))
}
