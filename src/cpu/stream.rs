//! Sequences that are still coming: the states of many streams between two of their steps.
//!
//! A step runs all streams through one layer after the other, a panel of units at a time, so that each weight is read once.
//! Every sum takes its terms in the order of a whole sequence, so the bits are those of [`super::CpuEngine`].

use super::chunk::{Activated, activate, product};
use super::head;
use super::simd::{Isa, Kernel, Simd};
use super::sizes::{Sizes, Stack};
use super::tile::{Left, Right, Rows, Sums, multiply, wide, zeros};
use super::weights::{CellWeights, Weights};
use crate::model::{Model, Pool};
use crate::shape::GATES;

/// States of M streams and the weights that they share.
pub struct Running {
    isa: Isa,
    stack: Stack,
    weights: Weights,
    /// Of each layer.
    layers: Vec<Layer>,
    /// Sums or largest values of the last layer's hidden states, `[M,H]`; empty where the last state is read.
    pub pooled: Vec<f32>,
    /// Steps that each stream has seen, `[M]`.
    pub steps: Vec<u64>,
    /// What the head reads, `[M,H]`, padded.
    head: Vec<f32>,
    /// `[M,K]`, padded.
    logits: Vec<f32>,
    /// `[M,K]`
    pub probabilities: Vec<f32>,
}

/// A layer of M streams.
struct Layer {
    /// Inputs and a one behind each stream's, `[M,I+1]`.
    x: Vec<f32>,
    /// Hidden state, `[M,H]`, padded.
    h: Vec<f32>,
    /// Where the next one is written; the two take turns.
    h_after: Vec<f32>,
    /// Cell state, `[M,H]`, padded.
    c: Vec<f32>,
}

impl Running {
    /// `count` streams before their first step, of a `model` that reads in one direction.
    pub fn new(model: &Model, parameters: &[f32], count: usize, isa: Isa) -> Self {
        let stack = Stack::new(*model, isa.lanes());
        let mut weights = Weights::new(stack.clone(), isa.precision());
        weights.pack_forward(isa, parameters);
        let zeros = |n: usize| vec![0.0; count * n];
        let layer = |sizes: &Sizes| {
            let (x, h) = (vec![1.0; count * sizes.inputs], zeros(sizes.hidden));
            Layer { x, h_after: h.clone(), c: h.clone(), h }
        };
        Self {
            isa,
            layers: stack.cells.iter().map(layer).collect(),
            pooled: if model.pool == Pool::Last { Vec::new() } else { zeros(model.dims.h) },
            steps: vec![0; count],
            head: zeros(stack.pooled),
            logits: zeros(stack.classes),
            probabilities: zeros(model.dims.k),
            weights,
            stack,
        }
    }

    /// About what each stream takes, beside the weights.
    pub fn bytes_of_a_stream(model: &Model) -> usize {
        let of_layer = |layer| model.layer_inputs(layer) + 4 * model.dims.h;
        let layers: usize = (0..model.layers).map(of_layer).sum();
        size_of::<f32>() * (layers + model.dims.h + 2 * model.dims.k)
    }

    /// What is computed.
    pub fn model(&self) -> &Model {
        &self.stack.model
    }

    /// The inputs of the next step of each stream, to be filled, `[I]` each.
    pub fn inputs(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let inputs = self.stack.cells[0].inputs;
        self.layers[0].x.chunks_exact_mut(inputs).map(move |x| &mut x[..inputs - 1])
    }

    /// One step of all streams, to their `probabilities`. Allocates nothing.
    pub fn step(&mut self) {
        self.isa.run(Step(self));
    }

    /// Hidden and cell state of a stream in each layer, `[H]` both.
    pub fn states(&self, stream: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.layers.iter().zip(&self.stack.cells).map(move |(layer, sizes)| {
            let at = stream * sizes.hidden..stream * sizes.hidden + sizes.dims.h;
            (&layer.h[at.clone()], &layer.c[at])
        })
    }

    /// The same, to be written.
    pub fn states_mut(&mut self, stream: usize) -> impl Iterator<Item = (&mut [f32], &mut [f32])> {
        self.layers.iter_mut().zip(&self.stack.cells).map(move |(layer, sizes)| {
            let at = stream * sizes.hidden..stream * sizes.hidden + sizes.dims.h;
            (&mut layer.h[at.clone()], &mut layer.c[at])
        })
    }

    /// What the head reads after this step.
    #[inline(always)]
    fn pool(&mut self) {
        let Self { stack, layers, pooled, steps, head, .. } = self;
        let (h, hidden) = (stack.model.dims.h, stack.cells[0].hidden);
        let last = &layers[layers.len() - 1].h;
        let rows = head.chunks_exact_mut(stack.pooled).zip(last.chunks_exact(hidden)).zip(steps);
        for (stream, ((head, state), steps)) in rows.enumerate() {
            let (head, state) = (&mut head[..h], &state[..h]);
            match stack.model.pool {
                Pool::Last => head.copy_from_slice(state),
                Pool::Mean => {
                    let sums = &mut pooled[stream * h..][..h];
                    sums.iter_mut().zip(state).for_each(|(sum, h)| *sum += h);
                    let steps = (*steps + 1) as f32;
                    head.iter_mut().zip(sums).for_each(|(head, sum)| *head = *sum / steps);
                }
                Pool::Max => {
                    let largest = &mut pooled[stream * h..][..h];
                    if *steps == 0 {
                        largest.copy_from_slice(state);
                    }
                    largest.iter_mut().zip(state).for_each(|(max, &h)| *max = if h > *max { h } else { *max });
                    head.copy_from_slice(largest);
                }
            }
            *steps += 1;
        }
    }
}

struct Step<'a>(&'a mut Running);

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let running = self.0;
        let rows = running.steps.len();
        for n in 0..running.layers.len() {
            let (sizes, weights) = (running.stack.cells[n], &running.weights.cells[n]);
            let (below, above) = running.layers.split_at_mut(n);
            let layer = &mut above[0];
            if let Some(below) = below.last() {
                let rows = layer.x.chunks_exact_mut(sizes.inputs).zip(below.h.chunks_exact(sizes.hidden));
                rows.for_each(|(x, h)| x[..sizes.dims.i].copy_from_slice(&h[..sizes.dims.i]));
            }
            for u in 0..sizes.panels {
                wide(s, rows, &mut Panel { sizes, weights, u, layer });
            }
            std::mem::swap(&mut layer.h, &mut layer.h_after);
        }
        running.pool();
        let Running { stack, weights, head, logits, probabilities, .. } = running;
        let (classes, k) = (stack.classes, stack.model.dims.k);
        logits.chunks_exact_mut(classes).for_each(|row| row.copy_from_slice(&weights.head_bias));
        for (column, vectors, strip) in weights.head.iter() {
            let (out, left) = (&mut logits[column..], Left::rows(head, stack.pooled));
            product(s, rows, left, stack.model.width(), (vectors, strip), out, classes, true);
        }
        for (row, logits) in probabilities.chunks_exact_mut(k).zip(logits.chunks_exact(classes)) {
            row.copy_from_slice(&logits[..k]);
            head::softmax(row);
        }
    }
}

/// One step of a layer for a panel of units.
struct Panel<'a> {
    sizes: Sizes,
    weights: &'a CellWeights,
    u: usize,
    layer: &'a mut Layer,
}

impl Rows for Panel<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(&mut self, s: S, first: usize) {
        let Sizes { dims, inputs, panel, depth, hidden, .. } = self.sizes;
        let Layer { x, h, h_after, c } = &mut *self.layer;
        let weights = &self.weights.forward[self.u * depth * panel..][..depth * panel];
        let (recurrent, input) = weights.split_at(dims.h * panel);
        let right = |values| Right { values, stride: panel };
        let mut sums: Sums<S, MR, GATES> = zeros(s);
        multiply(s, &mut sums, dims.h, Left::rows(&h[first * hidden..], hidden), right(recurrent));
        multiply(s, &mut sums, inputs, Left::rows(&x[first * inputs..], inputs), right(input));
        for (r, a) in sums.into_iter().enumerate() {
            let at = (first + r) * hidden + self.u * S::LANES;
            let Activated { c: c_now, h: h_now, .. } = activate(s, a, s.load(&c[at..]));
            s.store(&mut c[at..], c_now);
            s.store(&mut h_after[at..], h_now);
        }
    }
}
