//! Global memory: buffers with addresses far apart, so that an address that left its buffer meets no other one.

use std::collections::HashMap;

use crate::order::{SEGMENT, Stamp};
use crate::report::Error;
use crate::shadow::GlobalShadow;

/// The distance of two buffers' addresses, as a power of two.
const SPACING: u32 = 40;

/// A buffer's bytes and what the sanitizer knows of them.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub name: String,
    pub data: Vec<u8>,
    /// Whether each byte was ever written.
    pub written: Vec<bool>,
    pub shadow: GlobalShadow,
}

/// The memory of the emulated device.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) buffers: Vec<Buffer>,
    /// The first stamp of the next launch: they go on from launch to launch, so that nothing need be cleared.
    pub(crate) next_stamp: Stamp,
    /// The first stamp of the last launch that was not dependent: launches from there on may overlap a dependent one.
    pub(crate) overlap: Stamp,
    /// Where the variables of a module are, by the module's number.
    pub(crate) modules: HashMap<u64, Vec<u64>>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { buffers: Vec::new(), next_stamp: SEGMENT, overlap: SEGMENT, modules: HashMap::new() }
    }
}

/// Where an address of global memory points: a buffer, and how far from its start (even when that is outside).
pub(crate) fn locate(address: u64) -> (usize, i64) {
    // Half a spacing below a buffer still belongs to it, so that a negative index is laid to the right one.
    let half = 1u64 << (SPACING - 1);
    let number = (address.wrapping_add(half) >> SPACING) as usize;
    (number.wrapping_sub(1), address.wrapping_sub((number as u64) << SPACING) as i64)
}

impl Memory {
    /// An empty memory.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Makes a buffer whose bytes count as never written, and gives its address. Its name is for reports.
    pub fn alloc(&mut self, name: &str, bytes: usize) -> u64 {
        // Never zero: a kernel that relies on zeros must be seen. The pattern is a NaN in f32.
        let (data, written) = (vec![0xff; bytes], vec![false; bytes]);
        self.buffers.push(Buffer { name: name.to_string(), data, written, shadow: GlobalShadow::new(bytes) });
        (self.buffers.len() as u64) << SPACING
    }

    /// Gives a buffer back: every later access to it is out of bounds. An address that is no buffer's start is ignored.
    pub fn free(&mut self, address: u64) {
        if let (number, 0) = locate(address)
            && let Some(buffer) = self.buffers.get_mut(number)
        {
            let name = format!("{} (freed)", buffer.name);
            *buffer = Buffer { name, data: Vec::new(), written: Vec::new(), shadow: GlobalShadow::new(0) };
        }
    }

    fn part(&mut self, address: u64, bytes: usize) -> Result<(&mut Buffer, usize), Error> {
        let (number, offset) = locate(address);
        let Some(buffer) = self.buffers.get_mut(number) else {
            return Err(Error::Memory(format!("address {address:#x} is in no buffer")));
        };
        let start = usize::try_from(offset).ok().filter(|start| start.saturating_add(bytes) <= buffer.data.len());
        match start {
            Some(start) => Ok((buffer, start)),
            None => Err(Error::Memory(format!(
                "{bytes} bytes at {offset} do not fit {} of {} bytes",
                buffer.name,
                buffer.data.len()
            ))),
        }
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when they do not lie in one buffer.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let (buffer, start) = self.part(address, bytes.len())?;
        buffer.data[start..start + bytes.len()].copy_from_slice(bytes);
        buffer.written[start..start + bytes.len()].fill(true);
        Ok(())
    }

    /// Reads bytes to the host. What was never written reads as `0xff`.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when they do not lie in one buffer.
    pub fn read(&mut self, address: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        let (buffer, start) = self.part(address, bytes)?;
        Ok(buffer.data[start..start + bytes].to_vec())
    }

    /// Makes bytes count as never written again.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when they do not lie in one buffer.
    pub fn poison(&mut self, address: u64, bytes: usize) -> Result<(), Error> {
        let (buffer, start) = self.part(address, bytes)?;
        buffer.data[start..start + bytes].fill(0xff);
        buffer.written[start..start + bytes].fill(false);
        Ok(())
    }

    /// A new buffer that holds these numbers.
    pub fn alloc_f32(&mut self, name: &str, values: &[f32]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let address = self.alloc(name, bytes.len());
        if let Some(buffer) = self.buffers.last_mut() {
            buffer.data = bytes;
            buffer.written.fill(true);
        }
        address
    }

    /// Reads numbers to the host.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when they do not lie in one buffer.
    pub fn read_f32(&mut self, address: u64, count: usize) -> Result<Vec<f32>, Error> {
        let bytes = self.read(address, count.saturating_mul(4))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Whether every byte was written, by the host or by a kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when they do not lie in one buffer.
    pub fn is_written(&mut self, address: u64, bytes: usize) -> Result<bool, Error> {
        let (buffer, start) = self.part(address, bytes)?;
        Ok(buffer.written[start..start + bytes].iter().all(|written| *written))
    }
}
