//! A batch through any model, forward and backward: several layers, two directions, no input layer, every pool, sequences of
//! different lengths, dropout and label smoothing. [`super::forward`] and [`super::backward`] do the tutorial's model with
//! fewer launches.
//!
//! All that is kept of a cell's steps is in its reading order: see `kernels/layers.cu`.

use super::device::{Buffer, Device, Part};
use super::gather::{DeviceSequences, Gather, gather};
use super::layers::{self, LeaveOut, Pooled};
use super::linear::{Form, Product, Split, column_sums, product, split_product, sum_parts};
use super::lstm::{BackwardStep, Ends, ForwardStep, backward_step, forward_step};
use super::softmax_xent::{self, SoftmaxXent};
use super::weights::{Weights, joined};
use crate::engine::Trace;
use crate::error::Result;
use crate::model::{InputLayer, Model};
use crate::shape::{Cell as Tensors, Dims};

/// What a model computes of up to `capacity` sequences, B at a time.
pub struct Stack<D: Device> {
    model: Model,
    capacity: usize,
    /// `[B]`
    labels: Buffer<D, u32>,
    /// Steps of each sequence, `[B]`, where sequences have lengths.
    lengths: Buffer<D, u32>,
    /// Layer after layer, the forward direction first.
    cells: Vec<Cell<D>>,
    /// What the head reads, `[B,D·H]`.
    pooled: Buffer<D, f32>,
    /// `[B,K]`
    logits: Buffer<D, f32>,
    /// Training loss of each sequence, or its cross-entropy where it is scored, `[B]`.
    loss: Buffer<D, f32>,
    /// Class of each one's largest logit, `[B]`.
    predicted: Buffer<D, u32>,
    /// What backward needs.
    back: Option<Box<Back<D>>>,
}

/// One layer in one direction; J is what it reads, and 1.
struct Cell<D: Device> {
    /// J - 1
    inputs: usize,
    /// Whether the input layer is folded into its weights.
    is_folded: bool,
    reversed: bool,
    /// Input weights, folded or not, and under them the bias, `[J,G]`.
    fold: Buffer<D, f32>,
    /// `[T,B,J]`
    x: Buffer<D, f32>,
    /// After their activation, `[T,B,G]`, or `[B,G]` of the last step only.
    gates: Buffer<D, f32>,
    /// Cell states, `[T+1,B,H]`. The first one ends where the room for one of `capacity` sequences ends, so that it is zero
    /// whatever B is.
    c: Buffer<D, f32>,
    /// Hidden states, likewise.
    h: Buffer<D, f32>,
}

/// What backward computes of a batch.
struct Back<D: Device> {
    /// `[B,K]`
    dlogits: Buffer<D, f32>,
    /// `[B,D·H]`
    d_pooled: Buffer<D, f32>,
    /// Of each direction of the layer at hand.
    directions: Vec<Direction<D>>,
    /// Gradient by a cell's input weights and bias, `[J,G]`.
    d_fold: Buffer<D, f32>,
    /// Gradient by the input layer, of each direction, `[D,I+1,P]`.
    d_input: Buffer<D, f32>,
    /// Parts of split products.
    parts: Buffer<D, f32>,
    /// Gradient of the mean loss, laid out as the flat parameters.
    gradient: Buffer<D, f32>,
}

struct Direction<D: Device> {
    /// Gradient by the hidden states, as others than the next step read them, `[T,B,H]`.
    dh: Buffer<D, f32>,
    /// Gradient by the cell state, `[B,H]`, on its way from step to step.
    dc: Buffer<D, f32>,
    /// Gradient by the gates before their activation, `[T,B,G]`.
    da: Buffer<D, f32>,
    /// Gradient by what a cell above the first layer reads, `[T,B,D·H]`.
    dx: Buffer<D, f32>,
}

impl<D: Device> Cell<D> {
    fn new(device: &D, model: &Model, n: usize, capacity: usize, trains: bool) -> Result<Self> {
        let (Dims { t, i, h, .. }, g) = (model.dims, model.dims.g());
        let layer = n / model.directions();
        let inputs = if layer == 0 { i } else { model.width() };
        let cells = capacity * h;
        let mut cell = Self {
            inputs,
            is_folded: layer == 0 && model.input_layer == InputLayer::Linear,
            reversed: n % model.directions() == 1,
            fold: Buffer::new(device, "folded weights", (inputs + 1) * g)?,
            x: Buffer::new(device, "x", t * capacity * (inputs + 1))?,
            gates: Buffer::new(device, "gates", if trains { t * capacity * g } else { capacity * g })?,
            c: Buffer::new(device, "c", (t + 1) * cells)?,
            h: Buffer::new(device, "h", (t + 1) * cells)?,
        };
        cell.c.zero(device, cells)?;
        cell.h.zero(device, cells)?;
        Ok(cell)
    }
}

impl<D: Device> Back<D> {
    fn new(device: &D, model: &Model, batch: usize) -> Result<Self> {
        let (Dims { t, i, p, h, k, .. }, g, width) = (model.dims, model.dims.g(), model.width());
        let steps = t * batch;
        let above = if model.layers > 1 { width } else { 0 };
        let widest = above.max(i) + 1;
        let products = [(widest, g, steps), (i + 1, g, steps), (h, g, steps), (width, k, batch)];
        let parts = products.map(|(m, n, k)| Split::new(m, n, k).parts * m * n);
        let direction = |_| {
            Ok(Direction {
                dh: Buffer::new(device, "dh", steps * h)?,
                dc: Buffer::new(device, "dc", batch * h)?,
                da: Buffer::new(device, "da", steps * g)?,
                dx: Buffer::new(device, "d inputs", (steps * above).max(1))?,
            })
        };
        Ok(Self {
            dlogits: Buffer::new(device, "dlogits", batch * k)?,
            d_pooled: Buffer::new(device, "d pooled", batch * width)?,
            directions: (0..model.directions()).map(direction).collect::<Result<_>>()?,
            d_fold: Buffer::new(device, "d_fold", widest * g)?,
            d_input: Buffer::new(device, "d input layer", model.directions() * (i + 1) * p)?,
            parts: Buffer::new(device, "parts", parts.into_iter().max().unwrap_or(1))?,
            gradient: Buffer::new(device, "gradient", model.layout().len())?,
        })
    }
}

impl<D: Device> Stack<D> {
    /// Buffers for up to `capacity` sequences; one that `trains` takes batches of that size alone.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn new(device: &D, model: &Model, capacity: usize, trains: bool) -> Result<Self> {
        let cells = model.layers * model.directions();
        Ok(Self {
            model: *model,
            capacity,
            labels: Buffer::new(device, "batch labels", capacity)?,
            lengths: Buffer::new(device, "batch lengths", capacity)?,
            cells: (0..cells).map(|n| Cell::new(device, model, n, capacity, trains)).collect::<Result<_>>()?,
            pooled: Buffer::new(device, "pooled", capacity * model.width())?,
            logits: Buffer::new(device, "logits", capacity * model.dims.k)?,
            loss: Buffer::new(device, "loss", capacity)?,
            predicted: Buffer::new(device, "predicted", capacity)?,
            back: trains.then(|| Back::new(device, model, capacity).map(Box::new)).transpose()?,
        })
    }

    /// Most sequences of a batch.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Class of each sequence, `[B]`.
    pub fn labels(&self) -> Part<'_, u32> {
        self.labels.all()
    }

    /// Loss of each sequence, `[B]`.
    pub fn loss(&self) -> &Buffer<D, f32> {
        &self.loss
    }

    /// Predicted class of each sequence, `[B]`.
    pub fn predicted(&self) -> &Buffer<D, u32> {
        &self.predicted
    }

    /// `[B,K]`
    pub fn logits(&self) -> &Buffer<D, f32> {
        &self.logits
    }

    /// Gradient of the mean loss, laid out as the flat parameters.
    ///
    /// # Panics
    ///
    /// If it does not train.
    pub fn gradient(&self) -> &Buffer<D, f32> {
        &self.back().gradient
    }

    fn back(&self) -> &Back<D> {
        self.back.as_deref().expect("there is room for backward")
    }

    fn sizes(&self, batch: usize) -> layers::Sizes {
        layers::Sizes { t: self.model.dims.t, batch, hidden: self.model.dims.h }
    }

    /// A state's slots `first` to before `end`, `[·,B,H]`.
    fn states<'a>(&self, buffer: &'a Buffer<D, f32>, batch: usize, first: usize, end: usize) -> Part<'a, f32> {
        let h = self.model.dims.h;
        let start = (self.capacity - batch) * h;
        buffer.part(start + first * batch * h..start + end * batch * h)
    }

    /// All of a cell's hidden states, `[T+1,B,H]`.
    fn h(&self, n: usize, batch: usize) -> Part<'_, f32> {
        self.states(&self.cells[n].h, batch, 0, self.model.dims.t + 1)
    }

    /// Gates `[B,G]` at a place of the reading order.
    fn gates<'a>(&self, cell: &'a Cell<D>, place: usize, batch: usize) -> Part<'a, f32> {
        let len = batch * self.model.dims.g();
        let place = if self.back.is_some() { place } else { 0 };
        cell.gates.part(place * len..(place + 1) * len)
    }

    /// Which sequences end before the step at a place of the reading order.
    fn ends(&self, cell: &Cell<D>, place: usize, batch: usize, has_lengths: bool) -> Ends<'_> {
        let t = if cell.reversed { self.model.dims.t - 1 - place } else { place };
        has_lengths.then(|| (self.lengths.first(batch), t))
    }

    /// The cells of `layer` by their numbers.
    fn cells_of(&self, layer: usize) -> std::ops::Range<usize> {
        let directions = self.model.directions();
        layer * directions..(layer + 1) * directions
    }

    /// What the head reads of cell `n`, one of the last layer.
    fn pooled_of(&self, n: usize, batch: usize, has_lengths: bool) -> Pooled<'_> {
        Pooled {
            sizes: self.sizes(batch),
            h: self.h(n, batch),
            lengths: has_lengths.then(|| self.lengths.first(batch)),
            pooled: self.pooled.first(batch * self.model.width()),
            directions: self.model.directions(),
            reversed: self.cells[n].reversed,
            kind: self.model.pool,
        }
    }

    /// Brings the weights into the form that steps read.
    fn fold(&self, device: &D, weights: &Weights<D>) -> Result<()> {
        let (p, g) = (self.model.dims.p, self.model.dims.g());
        for (cell, tensors) in self.cells.iter().zip(weights.tensors().cells) {
            let Tensors { w_x, b, .. } = tensors;
            let (inputs, len) = (cell.inputs, cell.inputs * g);
            if cell.is_folded {
                let (a, bias, c) = (weights.input_layer(), Some((b, inputs)), cell.fold.all());
                product(device, &Product { form: Form::Nn, a, b: w_x, bias, c, m: inputs + 1, n: g, k: p })?;
            } else {
                sum_parts(device, w_x, cell.fold.first(len), len, 1)?;
                sum_parts(device, b, cell.fold.part(len..len + g), g, 1)?;
            }
        }
        Ok(())
    }

    /// From the sequences `rows[turn]` to their logits.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn run(
        &self,
        device: &D,
        weights: &Weights<D>,
        sequences: &DeviceSequences<D>,
        (rows, turn): (Part<'_, u32>, Part<'_, u32>),
        leave_out: Option<LeaveOut<'_>>,
        batch: usize,
    ) -> Result<()> {
        self.fold(device, weights)?;
        let Dims { t, h: hidden, k, .. } = self.model.dims;
        let (tensors, has_lengths) = (weights.tensors(), sequences.has_lengths());
        for layer in 0..self.model.layers {
            for n in self.cells_of(layer) {
                let cell = &self.cells[n];
                let inputs = cell.inputs + 1;
                let x = cell.x.first(t * batch * inputs);
                if layer == 0 {
                    let (labels, lengths) = (Some(self.labels.first(batch)), Some(self.lengths.first(batch)));
                    let batch = Gather { rows, turn, x, labels, lengths, reversed: cell.reversed, b: batch };
                    gather(device, sequences, &batch)?;
                } else {
                    let mut below = self.cells_of(layer - 1).map(|n| self.h(n, batch));
                    let below = (below.next().expect("a layer has a direction"), below.next());
                    let place = (layer - 1, cell.reversed);
                    layers::layer_inputs(device, self.sizes(batch), below, leave_out, place, x)?;
                }
                for place in 0..t {
                    let step = ForwardStep {
                        x: cell.x.part(place * batch * inputs..(place + 1) * batch * inputs),
                        fold: cell.fold.all(),
                        w_h: tensors.cells[n].w_h,
                        h_prev: self.states(&cell.h, batch, place, place + 1),
                        c_prev: self.states(&cell.c, batch, place, place + 1),
                        gates: self.gates(cell, place, batch),
                        c: self.states(&cell.c, batch, place + 1, place + 2),
                        h: self.states(&cell.h, batch, place + 1, place + 2),
                        batch,
                        inputs,
                        hidden,
                        forget_bias: self.model.forget_bias,
                        ends: self.ends(cell, place, batch, has_lengths),
                    };
                    forward_step(device, &step)?;
                }
            }
        }
        for n in self.cells_of(self.model.layers - 1) {
            layers::pool(device, &self.pooled_of(n, batch, has_lengths))?;
        }
        let width = self.model.width();
        let (a, bias, c) =
            (self.pooled.first(batch * width), Some((tensors.output.b, 0)), self.logits.first(batch * k));
        product(device, &Product { form: Form::Nn, a, b: tensors.output.w, bias, c, m: batch, n: k, k: width })
    }

    /// From logits to classes and to the losses: those of training with their gradient where there is room for it, else
    /// cross-entropies.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn score(&self, device: &D, batch: usize) -> Result<()> {
        let k = self.model.dims.k;
        let scored = SoftmaxXent {
            logits: self.logits.first(batch * k),
            labels: self.labels.first(batch),
            loss: self.loss.first(batch),
            predicted: self.predicted.first(batch),
            dlogits: self.back.as_ref().map(|back| back.dlogits.first(batch * k)),
            batch,
            classes: k,
            smoothing: if self.back.is_some() { self.model.label_smoothing } else { 0.0 },
        };
        softmax_xent::softmax_xent(device, &scored)
    }

    /// From the gradient by the logits to that by all parameters, of a full batch that ran and was scored.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn backward(
        &self,
        device: &D,
        weights: &Weights<D>,
        has_lengths: bool,
        leave_out: Option<LeaveOut<'_>>,
    ) -> Result<()> {
        let (back, batch, width, k) = (self.back(), self.capacity, self.model.width(), self.model.dims.k);
        let (tensors, ranges) = (weights.tensors(), weights.ranges());
        let (dlogits, d_pooled) = (back.dlogits.all(), back.d_pooled.all());
        let (b, c) = (tensors.output.w, d_pooled);
        product(device, &Product { form: Form::Nt, a: dlogits, b, bias: None, c, m: batch, n: width, k })?;
        let (a, c) = (self.pooled.all(), back.gradient.part(ranges.output.w.clone()));
        let of_head = Product { form: Form::Tn, a, b: dlogits, bias: None, c, m: width, n: k, k: batch };
        split_product(device, &of_head, back.parts.all())?;
        column_sums(device, dlogits, back.gradient.part(ranges.output.b.clone()), batch, k)?;

        for (n, direction) in self.cells_of(self.model.layers - 1).zip(&back.directions) {
            layers::unpool(device, &self.pooled_of(n, batch, has_lengths), d_pooled, direction.dh.all())?;
        }
        for layer in (0..self.model.layers).rev() {
            for (n, direction) in self.cells_of(layer).zip(&back.directions) {
                self.steps_back(device, weights, n, direction, has_lengths)?;
                self.weight_gradients(device, weights, n, direction)?;
                if layer > 0 {
                    let (a, b, c) = (direction.da.all(), tensors.cells[n].w_x, direction.dx.all());
                    let (m, k) = (self.model.dims.t * batch, self.model.dims.g());
                    product(device, &Product { form: Form::Nt, a, b, bias: None, c, m, n: width, k })?;
                }
            }
            if layer > 0 {
                let dx = (back.directions[0].dx.all(), back.directions.get(1).map(|direction| direction.dx.all()));
                for (n, direction) in self.cells_of(layer - 1).zip(&back.directions) {
                    let (place, dh) = ((layer - 1, self.cells[n].reversed), direction.dh.all());
                    layers::layer_gradients(device, self.sizes(batch), dx, leave_out, place, dh)?;
                }
            }
        }
        if let Some(input) = &ranges.input {
            let c = back.gradient.part(joined(&input.w, &input.b));
            sum_parts(device, back.d_input.all(), c, c.len(), self.model.directions())?;
        }
        Ok(())
    }

    /// A cell's steps, backward.
    fn steps_back(
        &self,
        device: &D,
        weights: &Weights<D>,
        n: usize,
        direction: &Direction<D>,
        has_lengths: bool,
    ) -> Result<()> {
        let (Dims { t, h: hidden, .. }, g, batch) = (self.model.dims, self.model.dims.g(), self.capacity);
        let (cell, w_h) = (&self.cells[n], weights.tensors().cells[n].w_h);
        let da = |place: usize| direction.da.part(place * batch * g..(place + 1) * batch * g);
        for place in (0..t).rev() {
            let step = BackwardStep {
                later: (place + 1 < t).then(|| da(place + 1)),
                outside: Some(direction.dh.part(place * batch * hidden..(place + 1) * batch * hidden)),
                w_h,
                gates: self.gates(cell, place, batch),
                c_prev: self.states(&cell.c, batch, place, place + 1),
                c: self.states(&cell.c, batch, place + 1, place + 2),
                dc: direction.dc.all(),
                da: da(place),
                batch,
                hidden,
                ends: self.ends(cell, place, batch, has_lengths),
            };
            backward_step(device, &step)?;
        }
        Ok(())
    }

    /// Gradients by a cell's parameters, and its part of that by the input layer.
    fn weight_gradients(&self, device: &D, weights: &Weights<D>, n: usize, direction: &Direction<D>) -> Result<()> {
        let (Dims { t, i, p, h, .. }, g, batch) = (self.model.dims, self.model.dims.g(), self.capacity);
        let (back, cell, ranges) = (self.back(), &self.cells[n], &weights.ranges().cells[n]);
        let (b, k, rows) = (direction.da.all(), t * batch, cell.inputs + 1);
        let part = |range: &std::ops::Range<usize>| back.gradient.part(range.clone());
        let (a, c) = (self.states(&cell.h, batch, 0, t), part(&ranges.w_h));
        split_product(device, &Product { form: Form::Tn, a, b, bias: None, c, m: h, n: g, k }, back.parts.all())?;
        let d_fold = back.d_fold.first(rows * g);
        let of_fold = Product { form: Form::Tn, a: cell.x.all(), b, bias: None, c: d_fold, m: rows, n: g, k };
        split_product(device, &of_fold, back.parts.all())?;
        sum_parts(device, back.d_fold.part(cell.inputs * g..rows * g), part(&ranges.b), g, 1)?;
        let c = part(&ranges.w_x);
        if !cell.is_folded {
            return sum_parts(device, d_fold, c, cell.inputs * g, 1);
        }
        let (a, w_x) = (weights.input_layer(), weights.tensors().cells[n].w_x);
        product(device, &Product { form: Form::Tn, a, b: d_fold, bias: None, c, m: p, n: g, k: rows })?;
        let len = (i + 1) * p;
        let c = back.d_input.part(n * len..(n + 1) * len);
        product(device, &Product { form: Form::Nt, a: d_fold, b: w_x, bias: None, c, m: rows, n: p, k: g })
    }

    /// Everything that can be seen of a full batch of `sequences`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn trace(
        &self,
        device: &D,
        weights: &Weights<D>,
        sequences: &DeviceSequences<D>,
        rows_and_turn: (Part<'_, u32>, Part<'_, u32>),
        leave_out: Option<LeaveOut<'_>>,
    ) -> Result<Trace> {
        self.run(device, weights, sequences, rows_and_turn, leave_out, self.capacity)?;
        self.score(device, self.capacity)?;
        self.backward(device, weights, sequences.has_lengths(), leave_out)?;
        let (h_last, c_last) = self.download_last(device)?;
        Ok(Trace {
            logits: self.logits.download(device, self.logits.len())?,
            h_last,
            c_last,
            loss: self.loss.download(device, self.capacity)?,
            gradient: self.gradient().download(device, self.model.layout().len())?,
            dx: self.inputs(device)?,
        })
    }

    /// Gradient of the mean loss by the inputs, `[B,T,I]`, of a full batch that went backward.
    fn inputs(&self, device: &D) -> Result<Vec<f32>> {
        let (Dims { t, i, .. }, g, batch) = (self.model.dims, self.model.dims.g(), self.capacity);
        let mut sum = vec![0.0; batch * t * i];
        for (cell, direction) in self.cells.iter().zip(&self.back().directions) {
            let dx = Buffer::new(device, "dx", t * batch * i)?;
            let (a, b, c, m) = (direction.da.all(), cell.fold.all(), dx.all(), t * batch);
            product(device, &Product { form: Form::Nt, a, b, bias: None, c, m, n: i, k: g })?;
            for (row, dx) in dx.download(device, t * batch * i)?.chunks_exact(i).enumerate() {
                let (place, b) = (row / batch, row % batch);
                let t = b * t + if cell.reversed { t - 1 - place } else { place };
                sum[t * i..(t + 1) * i].iter_mut().zip(dx).for_each(|(sum, d)| *sum += d);
            }
        }
        Ok(sum)
    }

    /// State that each direction of the last layer ends with, of a full batch: h and c, `[B,D·H]` each.
    fn download_last(&self, device: &D) -> Result<(Vec<f32>, Vec<f32>)> {
        let (Dims { t, h, .. }, batch, width) = (self.model.dims, self.capacity, self.model.width());
        let of = |state: fn(&Cell<D>) -> &Buffer<D, f32>| -> Result<Vec<f32>> {
            let mut last = vec![0.0; batch * width];
            for (d, n) in self.cells_of(self.model.layers - 1).enumerate() {
                let all = state(&self.cells[n]).download(device, (t + 1) * batch * h)?;
                for (b, from) in all[t * batch * h..].chunks_exact(h).enumerate() {
                    last[b * width + d * h..][..h].copy_from_slice(from);
                }
            }
            Ok(last)
        };
        Ok((of(|cell| &cell.h)?, of(|cell| &cell.c)?))
    }
}
