//! Launches `kernels/gather.cu`: brings the sequences of a batch, by index, into the layout the LSTM reads.

#![allow(unsafe_code)]

use super::device::{Arg, Buffer, Device, Launch, Part, arg_or_null, int, tiles};
use super::tiles::GATHER_THREADS;
use crate::data::{Sequences, Values};
use crate::error::Result;

/// Sequences `[N,T,I]` and their labels `[N]` on the device.
pub struct DeviceSequences<D: Device> {
    values: DeviceValues<D>,
    labels: Buffer<D, u32>,
    /// `[N]`; none where all have T steps.
    lengths: Option<Buffer<D, u32>>,
    n: usize,
    t: usize,
    i: usize,
}

enum DeviceValues<D: Device> {
    Bytes { bytes: Buffer<D, u8>, scale: f32 },
    Floats(Buffer<D, f32>),
}

impl<D: Device> DeviceSequences<D> {
    /// Copies `sequences` to the device. There must be at least one.
    ///
    /// # Errors
    ///
    /// If the device fails, or has no more memory.
    pub fn new(device: &D, sequences: &Sequences) -> Result<Self> {
        let values = match &*sequences.in_memory()? {
            Values::U8 { bytes, scale } => {
                DeviceValues::Bytes { bytes: Buffer::from_slice(device, "sequences", bytes)?, scale: *scale }
            }
            Values::F32(values) => DeviceValues::Floats(Buffer::from_slice(device, "sequences", values)?),
            Values::Mapped(_) => unreachable!("they were brought into memory"),
        };
        let labels = Buffer::from_slice(device, "labels", sequences.labels())?;
        let lengths = sequences.lengths().map(|lengths| Buffer::from_slice(device, "lengths", lengths)).transpose()?;
        Ok(Self { values, labels, lengths, n: sequences.len(), t: sequences.t(), i: sequences.i() })
    }

    /// What a value is multiplied by before the model sees it.
    pub(super) fn scale(&self) -> f32 {
        match &self.values {
            DeviceValues::Bytes { scale, .. } => *scale,
            DeviceValues::Floats(_) => 1.0,
        }
    }

    /// Bytes and floats, of which one is null, and labels, for a kernel that reads sequences of `t` steps of `i` values.
    pub(super) fn args(&self, t: usize, i: usize) -> [Arg; 3] {
        let (count, null) = (self.n * t * i, Arg::Address(0));
        let labels = self.labels.all().arg(self.n);
        match &self.values {
            DeviceValues::Bytes { bytes, .. } => [bytes.all().arg(count), null, labels],
            DeviceValues::Floats(floats) => [null, floats.all().arg(count), labels],
        }
    }

    /// Whether sequences differ in length.
    pub fn has_lengths(&self) -> bool {
        self.lengths.is_some()
    }

    /// Number of sequences, N.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
}

/// Bytes that `sequences` take on a device.
pub fn bytes(sequences: &Sequences) -> u64 {
    let values = match sequences.values() {
        Values::U8 { bytes, .. } => bytes.len(),
        Values::F32(values) => size_of_val(values.as_slice()),
        Values::Mapped(mapped) => mapped.len() * if mapped.is_plain() { 1 } else { size_of::<f32>() },
    };
    let lengths = sequences.lengths().map_or(0, size_of_val);
    (values + size_of_val(sequences.labels()) + lengths) as u64
}

/// Which rows of the sequences make a batch of `b`, and where they go.
pub struct Gather<'a> {
    /// Indices of the batches of S steps, `[S,B]`; all below N, which the caller has checked.
    pub rows: Part<'a, u32>,
    /// Which of the S batches, `[1]`.
    pub turn: Part<'a, u32>,
    /// The inputs, and a 1 after each step's, `[T,B,I+1]`.
    pub x: Part<'a, f32>,
    /// `[B]`; left out where labels play no part.
    pub labels: Option<Part<'a, u32>>,
    /// Steps of each sequence, `[B]`, written where sequences have lengths.
    pub lengths: Option<Part<'a, u32>>,
    /// Whether a cell reads the last step first: `x` is in its order.
    pub reversed: bool,
    /// B
    pub b: usize,
}

/// Gathers a batch out of `sequences`.
///
/// # Errors
///
/// If the device fails.
pub fn gather<D: Device>(device: &D, sequences: &DeviceSequences<D>, batch: &Gather<'_>) -> Result<()> {
    let DeviceSequences { values, labels, lengths, n, t, i } = sequences;
    let Gather { rows, turn, x, labels: batch_labels, lengths: batch_lengths, reversed, b } = *batch;
    let count = t * b * (i + 1);
    let (kernel, values, scale) = match values {
        DeviceValues::Bytes { bytes, scale } => ("gather_bytes", bytes.all().arg(n * t * i), *scale),
        DeviceValues::Floats(floats) => ("gather_floats", floats.all().arg(n * t * i), 1.0),
    };
    let labels = batch_labels.map(|_| labels.all());
    assert!(rows.len() >= b, "a batch is {b} rows");
    let args = [
        values,
        arg_or_null(labels, *n),
        rows.arg(b),
        turn.arg(1),
        x.arg(count),
        arg_or_null(batch_labels, b),
        int(b),
        int(*t),
        int(*i),
        Arg::F32(scale),
        arg_or_null(lengths.as_ref().map(Buffer::all), *n),
        arg_or_null(batch_lengths.filter(|_| lengths.is_some()), b),
        int(usize::from(reversed)),
    ];
    let grid = [tiles(count, GATHER_THREADS), 1, 1];
    let launch = Launch {
        kernel,
        grid,
        block: [GATHER_THREADS, 1, 1],
        cluster: [1; 3],
        shared: 0,
        dependent: false,
        args: &args,
    };
    // SAFETY: every length was checked against the sizes given, above; the rows are below N and the turn below S by this
    // function's and the engine's contract.
    unsafe { device.launch(&launch) }
}
