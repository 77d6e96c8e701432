//! A device that only counts how much memory it is asked for: what does not fit is known before anything is allocated.

use super::device::{Device, Launch, Limits};
use super::specialized::Specialized;
use crate::error::Result;
use std::cell::Cell;

/// Counts bytes, and does nothing else.
#[derive(Debug, Default)]
pub struct Estimate {
    bytes: Cell<u64>,
}

/// Real devices hand out memory in portions of about so many bytes.
const PORTION: u64 = 512;

impl Estimate {
    /// Bytes that `allocate` asks for.
    ///
    /// # Errors
    ///
    /// Those of `allocate`.
    pub fn of<T>(allocate: impl FnOnce(&Self) -> Result<T>) -> Result<u64> {
        let device = Self::default();
        allocate(&device)?;
        Ok(device.bytes.get())
    }
}

impl Device for Estimate {
    type Memory = ();
    type Graph = ();

    fn name(&self) -> String {
        "an estimate".into()
    }

    fn limits(&self) -> Result<Limits> {
        Ok(Limits { capability: (0, 0), shared: 0, multiprocessors: 1 })
    }

    fn load(&mut self, _: &Specialized) -> Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn allocate(&self, _: &'static str, bytes: usize) -> Result<()> {
        self.bytes.set(self.bytes.get() + (bytes as u64).next_multiple_of(PORTION));
        Ok(())
    }

    fn address(&self, (): &()) -> u64 {
        0
    }

    fn upload(&self, (): &mut (), _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn zero(&self, (): &mut (), _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn download(&self, (): &(), _: usize, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    #[allow(unsafe_code)]
    unsafe fn launch(&self, _: &Launch<'_>) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn launches(&self, (): &()) -> Result<usize> {
        Ok(0)
    }

    fn replay(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn time(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        Ok(0.0)
    }
}
