//! All kernels, compiled for one architecture.

use super::nvrtc::{Nvrtc, Target};
use super::resources::{self, Occupancy, Resources};
use super::sources;
use super::specialized::Specialized;
use crate::{Error, Result};

/// Name that the compiler gives to text before the first `#line` mark; there is none.
pub(super) const UNIT: &str = "kernels.cu";

/// What the compiler made of all kernels.
#[derive(Clone, Debug)]
pub struct Kernels {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// The same as PTX.
    pub ptx: String,
    /// What each kernel takes, by name.
    pub resources: Vec<Resources>,
    number: u32,
}

impl Kernels {
    /// Compiles the embedded kernels for `architecture`, such as `sm_90`. Needs no GPU.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for an architecture that this NVRTC does not know; those of [`Nvrtc::compile`].
    pub fn compile(nvrtc: &Nvrtc, architecture: &str) -> Result<Self> {
        Self::compile_text(nvrtc, sources::KERNELS, architecture)
    }

    /// The same of kernels that are compiled for one model.
    ///
    /// # Errors
    ///
    /// As [`Kernels::compile`].
    pub fn compile_specialized(nvrtc: &Nvrtc, kernels: &Specialized, architecture: &str) -> Result<Self> {
        Self::compile_text(nvrtc, &kernels.source(), architecture)
    }

    fn compile_text(nvrtc: &Nvrtc, text: &str, architecture: &str) -> Result<Self> {
        let number = known(nvrtc, architecture)?;
        let cubin = nvrtc.compile(text, UNIT, &Target::Cubin(architecture.into()))?;
        let virtual_architecture = architecture.replacen("sm_", "compute_", 1);
        let ptx = nvrtc.compile(text, UNIT, &Target::Ptx(virtual_architecture))?;
        let ptx = String::from_utf8_lossy(&ptx.code).into_owned();
        let resources = resources::table(&cubin.log, &ptx);
        Ok(Self { cubin: cubin.code, ptx, resources, number })
    }

    /// Occupancy of one of the kernels, where the limits of the architecture are known.
    pub fn occupancy(&self, kernel: &Resources) -> Option<Occupancy> {
        resources::occupancy(kernel, self.number)
    }
}

/// The number of an architecture (90 of `sm_90` and `sm_90a`) that this NVRTC compiles for.
fn known(nvrtc: &Nvrtc, architecture: &str) -> Result<u32> {
    let known = nvrtc.architectures()?;
    number(architecture).filter(|number| known.contains(number)).ok_or_else(|| {
        let (major, minor) = nvrtc.version();
        let names: Vec<_> = known.iter().map(|number| format!("sm_{number}")).collect();
        let found = format!("NVRTC {major}.{minor} does not compile for it");
        Error::usage(format!("--arch {architecture}"), found, format!("choose one of {}", names.join(", ")))
    })
}

/// 90 of `sm_90` and `sm_90a`; none where the name has not that form.
pub(super) fn number(architecture: &str) -> Option<u32> {
    architecture.strip_prefix("sm_")?.trim_end_matches(['a', 'f']).parse().ok()
}
