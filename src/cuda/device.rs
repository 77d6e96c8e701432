//! The seam between the host loop and a GPU: memory, launches, and work that is recorded once and replayed.
//!
//! Two devices stand behind it: the driver of a real GPU, and the emulator that runs the same kernels' PTX with no GPU. So
//! launch shapes and the order of arguments are tested wherever the tests run.

use super::specialized::Specialized;
use crate::error::Result;
use bytemuck::Pod;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::rc::Rc;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Address of memory on the device; 0 is null.
    Address(u64),
    /// `int`
    I32(i32),
    /// `float`
    F32(f32),
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch<'a> {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Blocks (x, y, z).
    pub grid: [u32; 3],
    /// Threads of a block (x, y, z).
    pub block: [u32; 3],
    /// Blocks of a cluster (x, y, z); all 1 where there are no clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Whether it may start before the launches before it have ended (programmatic dependent launch), where the device can: the
    /// kernel itself waits for them.
    pub dependent: bool,
    /// Arguments, in the order of the kernel's contract.
    pub args: &'a [Arg],
}

/// What a plan must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compute capability: (9, 0) of `sm_90`.
    pub capability: (u32, u32),
    /// Shared memory that a block can have, in bytes.
    pub shared: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
}

/// The oldest compute capability with dependent launches: Hopper. The kernels wait from there on.
const OLDEST_WITH_DEPENDENT_LAUNCHES: (u32, u32) = (9, 0);

impl Limits {
    /// Whether launches may overlap, see [`Launch::dependent`].
    pub fn has_dependent_launches(&self) -> bool {
        self.capability >= OLDEST_WITH_DEPENDENT_LAUNCHES
    }
}

/// A GPU, real or emulated. Everything that it is told to do is done in that order, later than the call returns.
pub trait Device {
    /// Memory on the device; dropping it gives it back.
    type Memory;
    /// Launches, recorded to be replayed.
    type Graph;

    /// One line for the user: what device this is.
    fn name(&self) -> String;

    /// What it has in common with all devices that are as fast, by its name.
    fn kind(&self) -> String {
        self.name()
    }

    /// Its limits.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn limits(&self) -> Result<Limits>;

    /// Makes kernels ready that are compiled for one model; those of the same unit that were loaded before are forgotten.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Device`] if there is nothing to compile them with; [`crate::Error::Failed`] if they are rejected.
    fn load(&mut self, kernels: &Specialized) -> Result<()>;

    /// Bytes that can still be allocated; none where nobody knows.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn free_bytes(&self) -> Result<Option<u64>>;

    /// `bytes` of memory, not set to anything; `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Device`] if there is no more.
    fn allocate(&self, name: &'static str, bytes: usize) -> Result<Self::Memory>;

    /// Where the memory lies.
    fn address(&self, memory: &Self::Memory) -> u64;

    /// Copies bytes to the device, `offset` bytes after the start of `memory`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn upload(&self, memory: &mut Self::Memory, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Sets `bytes` to zero, `offset` bytes after the start of `memory`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn zero(&self, memory: &mut Self::Memory, offset: usize, bytes: usize) -> Result<()>;

    /// Waits for all work, then copies bytes from the device.
    ///
    /// # Errors
    ///
    /// If the device, or anything it was told to do before, fails.
    fn download(&self, memory: &Self::Memory, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Starts a kernel, or records the start.
    ///
    /// # Safety
    ///
    /// Shape and arguments must be what the contract at the head of the kernel's file asks for, and the memory behind the
    /// addresses must stay allocated until the device has done the work, and for as long as it is replayed.
    ///
    /// # Errors
    ///
    /// If the device fails.
    #[allow(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// Waits until all work is done.
    ///
    /// # Errors
    ///
    /// If any of that work failed.
    fn synchronize(&self) -> Result<()>;

    /// Records the launches that `work` makes, instead of running them.
    ///
    /// # Errors
    ///
    /// Those of `work`, and if the device fails.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Self::Graph>;

    /// How many launches were recorded.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn launches(&self, graph: &Self::Graph) -> Result<usize>;

    /// Runs what was recorded.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;

    /// Time that the device takes for the launches of `work`, in milliseconds.
    ///
    /// # Errors
    ///
    /// Those of `work`, and if the device fails.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32>;
}

/// `len` values on a device.
pub struct Buffer<D: Device, T> {
    /// Shared by the buffers that were made of one.
    memory: Rc<RefCell<D::Memory>>,
    /// Bytes from the start of that memory.
    offset: usize,
    address: u64,
    len: usize,
    values: PhantomData<T>,
}

impl<D: Device, T: Pod> Buffer<D, T> {
    /// Room for `len` values, not set to anything.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Device`] if there is no more memory.
    pub fn new(device: &D, name: &'static str, len: usize) -> Result<Self> {
        let memory = device.allocate(name, len * size_of::<T>())?;
        let address = device.address(&memory);
        Ok(Self { memory: Rc::new(RefCell::new(memory)), offset: 0, address, len, values: PhantomData })
    }

    /// The same memory as `count` buffers of one length, one after the other.
    ///
    /// # Panics
    ///
    /// If the values cannot be shared out evenly.
    pub fn split(self, count: usize) -> Vec<Self> {
        assert!(count > 0 && self.len.is_multiple_of(count), "{} values in {count} parts", self.len);
        let (len, bytes) = (self.len / count, self.len / count * size_of::<T>());
        let part = |n: usize| Self {
            memory: self.memory.clone(),
            offset: self.offset + n * bytes,
            address: self.address + (n * bytes) as u64,
            len,
            values: PhantomData,
        };
        (0..count).map(part).collect()
    }

    /// Whether this buffer begins where the other one, split from the same, ends.
    pub fn follows(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.memory, &other.memory) && self.offset == other.offset + other.len * size_of::<T>()
    }

    /// A copy of `values` on the device.
    ///
    /// # Errors
    ///
    /// If the device fails, or has no more memory.
    pub fn from_slice(device: &D, name: &'static str, values: &[T]) -> Result<Self> {
        let mut buffer = Self::new(device, name, values.len())?;
        buffer.upload(device, values)?;
        Ok(buffer)
    }

    /// Copies `values` to the start of the buffer.
    ///
    /// # Errors
    ///
    /// If the device fails.
    ///
    /// # Panics
    ///
    /// If the buffer has less room.
    pub fn upload(&mut self, device: &D, values: &[T]) -> Result<()> {
        assert!(values.len() <= self.len, "{} values into a buffer of {}", values.len(), self.len);
        device.upload(&mut self.memory.borrow_mut(), self.offset, bytemuck::cast_slice(values))
    }

    /// Sets the first `len` values to zero.
    ///
    /// # Errors
    ///
    /// If the device fails.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer.
    pub fn zero(&mut self, device: &D, len: usize) -> Result<()> {
        assert!(len <= self.len, "{len} values of a buffer of {}", self.len);
        device.zero(&mut self.memory.borrow_mut(), self.offset, len * size_of::<T>())
    }

    /// The first `len` values, once all work is done.
    ///
    /// # Errors
    ///
    /// If the device, or anything it was told to do before, fails.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer.
    pub fn download(&self, device: &D, len: usize) -> Result<Vec<T>> {
        self.download_part(device, 0..len)
    }

    /// Those values, once all work is done.
    ///
    /// # Errors
    ///
    /// If the device, or anything it was told to do before, fails.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer.
    pub fn download_part(&self, device: &D, range: Range<usize>) -> Result<Vec<T>> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a buffer of {}", self.len);
        let mut values = vec![T::zeroed(); range.len()];
        let offset = self.offset + range.start * size_of::<T>();
        device.download(&self.memory.borrow(), offset, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, as an argument.
    pub fn all(&self) -> Part<'_, T> {
        self.part(0..self.len)
    }

    /// The first `len` values, as an argument.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer.
    pub fn first(&self, len: usize) -> Part<'_, T> {
        self.part(0..len)
    }

    /// Those values, as an argument.
    ///
    /// # Panics
    ///
    /// If the buffer has fewer.
    pub fn part(&self, range: Range<usize>) -> Part<'_, T> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of a buffer of {}", self.len);
        Part { address: self.address + (range.start * size_of::<T>()) as u64, len: range.len(), buffer: PhantomData }
    }
}

/// A part of a [`Buffer`], as kernels take it.
#[derive(Debug)]
pub struct Part<'a, T> {
    address: u64,
    len: usize,
    buffer: PhantomData<&'a T>,
}

impl<T> Clone for Part<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<'_, T> {}

impl<T> Part<'_, T> {
    /// Number of values.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Where it begins on the device.
    pub fn address(self) -> u64 {
        self.address
    }

    /// The argument, for a kernel that touches `len` values.
    ///
    /// # Panics
    ///
    /// If there are fewer: the kernel would leave the buffer.
    pub(super) fn arg(self, len: usize) -> Arg {
        assert!(len <= self.len, "the kernel touches {len} values of {}", self.len);
        Arg::Address(self.address)
    }
}

/// The argument for a part that may be left out.
pub(super) fn arg_or_null<T>(part: Option<Part<'_, T>>, len: usize) -> Arg {
    part.map_or(Arg::Address(0), |part| part.arg(len))
}

/// A size or offset as `int`.
///
/// # Panics
///
/// If it has more than 31 bits; [`super::limits`] refuses such sizes before.
pub(super) fn int(size: usize) -> Arg {
    Arg::I32(i32::try_from(size).expect("sizes of kernels have 31 bits"))
}

/// How many `tile`s cover `size`, as a size of a grid.
///
/// # Panics
///
/// If the number has more than 31 bits.
pub(super) fn tiles(size: usize, tile: u32) -> u32 {
    let count = size.div_ceil(tile as usize);
    u32::try_from(count).ok().filter(|count| *count < 1 << 31).expect("grids have 31 bits")
}
