//! A device around a device: does what it is told, and while it watches it times every launch on its own. So the engine
//! itself is what is profiled, with no second list of its launches.

#![allow(unsafe_code)]

use super::cost::{Cost, cost};
use super::device::{Arg, Buffer, Device, Launch, Limits};
use super::linear::{Form, Product, product};
use super::specialized::Specialized;
use crate::error::Result;
use std::cell::{Cell, RefCell};

/// One launch, timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// The kernel.
    pub kernel: &'static str,
    /// What it had to do; none for a kernel that [`cost`] does not know.
    pub cost: Option<Cost>,
    /// Milliseconds on the device.
    pub milliseconds: f32,
}

/// A launch that was recorded.
struct Recorded {
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    shared: u32,
    dependent: bool,
    args: Vec<Arg>,
}

impl Recorded {
    fn of(launch: &Launch<'_>) -> Self {
        let Launch { kernel, grid, block, cluster, shared, dependent, args } = *launch;
        Self { kernel, grid, block, cluster, shared, dependent, args: args.to_vec() }
    }

    fn launch(&self) -> Launch<'_> {
        let Self { kernel, grid, block, cluster, shared, dependent, ref args } = *self;
        Launch { kernel, grid, block, cluster, shared, dependent, args }
    }
}

/// Launches that were recorded, here and on the device.
pub struct Recording<G> {
    launches: Vec<Recorded>,
    graph: G,
}

/// Summands of the product that goes before a timed launch.
const LEAD_SUMMANDS: usize = 1 << 12;
const LEAD_ROWS: usize = 32;
const LEAD_COLUMNS: usize = 64;

/// A product of one block, long and small: while the device computes it, the launch to be timed and both marks around it
/// arrive, so that the time between the marks has no waiting for this program in it. It needs 1.6 MB, so it leaves
/// most of what a GPU has in its cache.
struct Lead<D: Device> {
    a: Buffer<D, f32>,
    b: Buffer<D, f32>,
    c: Buffer<D, f32>,
}

impl<D: Device> Lead<D> {
    fn new(device: &D) -> Result<Self> {
        let (a, b, c) = (LEAD_ROWS * LEAD_SUMMANDS, LEAD_SUMMANDS * LEAD_COLUMNS, LEAD_ROWS * LEAD_COLUMNS);
        let mut lead = Self {
            a: Buffer::new(device, "lead a", a)?,
            b: Buffer::new(device, "lead b", b)?,
            c: Buffer::new(device, "lead c", c)?,
        };
        lead.a.zero(device, a)?;
        lead.b.zero(device, b)?;
        Ok(lead)
    }

    fn run(&self, device: &D) -> Result<()> {
        let (a, b, c) = (self.a.all(), self.b.all(), self.c.all());
        let (m, n, k) = (LEAD_ROWS, LEAD_COLUMNS, LEAD_SUMMANDS);
        product(device, &Product { form: Form::Nn, a, b, bias: None, c, m, n, k })
    }
}

/// A device that can be watched.
pub struct Profiled<D: Device> {
    device: D,
    lead: Option<Lead<D>>,
    watches: Cell<bool>,
    seen: RefCell<Vec<Timed>>,
    recording: RefCell<Option<Vec<Recorded>>>,
}

impl<D: Device> Profiled<D> {
    /// Around `device`. Nothing is watched until [`Profiled::watch`].
    pub fn new(device: D) -> Self {
        Self { device, lead: None, watches: Cell::new(false), seen: RefCell::default(), recording: RefCell::default() }
    }

    /// The same, for a device that runs beside this program: times then have no waiting for the program in them.
    ///
    /// # Errors
    ///
    /// If the device has no more memory.
    pub fn running_ahead(device: D) -> Result<Self> {
        let lead = Some(Lead::new(&device)?);
        Ok(Self { lead, ..Self::new(device) })
    }

    /// The device inside.
    pub fn inner(&self) -> &D {
        &self.device
    }

    /// From now on every launch is timed; what is replayed is launched one by one.
    pub fn watch(&self) {
        self.watches.set(true);
    }

    /// Watches no more, and gives what was seen.
    pub fn seen(&self) -> Vec<Timed> {
        self.watches.set(false);
        self.seen.take()
    }

    /// # Safety
    ///
    /// As [`Device::launch`].
    unsafe fn time_launch(&self, launch: &Launch<'_>) -> Result<()> {
        if let Some(lead) = &self.lead {
            lead.run(&self.device)?;
        }
        // Of its own time no launch before it takes a part.
        let alone = Launch { dependent: false, ..launch.clone() };
        // SAFETY: the caller's word.
        let milliseconds = self.device.time(&mut || unsafe { self.device.launch(&alone) })?;
        self.seen.borrow_mut().push(Timed { kernel: launch.kernel, cost: cost(launch), milliseconds });
        Ok(())
    }
}

impl<D: Device> Device for Profiled<D> {
    type Memory = D::Memory;
    type Graph = Recording<D::Graph>;

    fn name(&self) -> String {
        self.device.name()
    }

    fn kind(&self) -> String {
        self.device.kind()
    }

    fn limits(&self) -> Result<Limits> {
        self.device.limits()
    }

    fn load(&mut self, kernels: &Specialized) -> Result<()> {
        self.device.load(kernels)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.device.free_bytes()
    }

    fn allocate(&self, name: &'static str, bytes: usize) -> Result<D::Memory> {
        self.device.allocate(name, bytes)
    }

    fn address(&self, memory: &D::Memory) -> u64 {
        self.device.address(memory)
    }

    fn upload(&self, memory: &mut D::Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.device.upload(memory, offset, bytes)
    }

    fn zero(&self, memory: &mut D::Memory, offset: usize, bytes: usize) -> Result<()> {
        self.device.zero(memory, offset, bytes)
    }

    fn download(&self, memory: &D::Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.device.download(memory, offset, bytes)
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if let Some(recording) = &mut *self.recording.borrow_mut() {
            recording.push(Recorded::of(launch));
        } else if self.watches.get() {
            // SAFETY: the caller's word.
            return unsafe { self.time_launch(launch) };
        }
        // SAFETY: the caller's word.
        unsafe { self.device.launch(launch) }
    }

    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Self::Graph> {
        self.recording.replace(Some(Vec::new()));
        let graph = self.device.capture(work);
        let launches = self.recording.take().unwrap_or_default();
        Ok(Recording { launches, graph: graph? })
    }

    fn launches(&self, recording: &Self::Graph) -> Result<usize> {
        self.device.launches(&recording.graph)
    }

    fn replay(&self, recording: &Self::Graph) -> Result<()> {
        if !self.watches.get() {
            return self.device.replay(&recording.graph);
        }
        // SAFETY: whoever recorded the launches gave the word for as long as they are replayed.
        recording.launches.iter().try_for_each(|recorded| unsafe { self.time_launch(&recorded.launch()) })
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        self.device.time(work)
    }
}
