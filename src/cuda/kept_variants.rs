//! PTX of some variants of the persistent kernels, for tests: they run it in the emulator and so need nothing but Rust.
//!
//! It is kept in the repository, packed, under the hash of the text that it was made of. Other variants are compiled.

use super::kept;
use super::nvrtc::{Nvrtc, Target};
use super::sources;
use super::variant::{Division, Variant, groups_of};
use crate::precision::Activations;
use crate::{Error, Result};
use flate2::read::GzDecoder;
use std::io::Read;

/// The file, from the repository's root.
pub const PATH: &str = "kernels/persistent/kept.ptx.gz";

/// What they are compiled for: the first architecture with all that there is in them, clusters and dependent launches included.
const ARCHITECTURE: &str = "compute_90";

const PACKED: &[u8] = include_bytes!("../../kernels/persistent/kept.ptx.gz");

/// A variant of these units and inputs, padded, with all weights in registers.
const fn plain(units: usize, inputs: usize) -> Variant {
    let activations = Activations::Accurate;
    let (groups, division) = (groups_of(units), Division::ONE);
    Variant { units, inputs, forward_shared: 0, backward_shared: 0, chains: 2, groups, activations, division }
}

const fn divided(tiles: usize, cluster: usize, variant: Variant) -> Variant {
    Variant { groups: groups_of(variant.units / cluster), division: Division { tiles, cluster }, ..variant }
}

/// All variants that are kept: sizes of each kind in one block, and each way of dividing the work at one small size.
pub const VARIANTS: [Variant; 11] = [
    plain(16, 16),
    divided(2, 1, plain(16, 16)),
    plain(32, 32),
    plain(48, 48),
    plain(64, 32),
    plain(128, 32),
    Variant { activations: Activations::Fast, ..plain(128, 32) },
    divided(4, 1, plain(64, 32)),
    divided(1, 4, plain(128, 32)),
    divided(2, 4, plain(64, 32)),
    Variant { forward_shared: 8, backward_shared: 16, chains: 1, ..plain(192, 32) },
];

/// The line before a variant's PTX.
fn mark(variant: &Variant) -> String {
    let values: Vec<String> = variant.constants().iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!("//// variant {}\n", values.join(", "))
}

fn first_line() -> String {
    format!("// Persistent kernels. Sources, SHA-256: {}\n", sources::hash_of(sources::PERSISTENT))
}

/// The kept text, unpacked.
///
/// # Errors
///
/// [`Error::Failed`] if the file is broken.
pub fn text() -> Result<String> {
    unpacked(PACKED, PATH)
}

/// The text of a packed file.
pub(super) fn unpacked(packed: &[u8], path: &str) -> Result<String> {
    let mut text = String::new();
    let read = GzDecoder::new(packed).read_to_string(&mut text);
    read.map(|_| text).map_err(|error| Error::Failed(format!("{path}: {error}")))
}

/// Whether the kept PTX was made of the kernels in this program.
///
/// # Errors
///
/// [`Error::Failed`] if the file is broken.
pub fn is_current() -> Result<bool> {
    Ok(text()?.starts_with(&first_line()))
}

/// PTX of a variant: what is kept, if it is of these kernels, else what NVRTC makes.
///
/// # Errors
///
/// [`Error::Device`] if it is not kept and there is no NVRTC.
pub fn ptx(variant: &Variant) -> Result<String> {
    let (text, mark) = (text()?, mark(variant));
    let kept = text.starts_with(&first_line()).then(|| text.split_once(&mark)).flatten();
    match kept {
        Some((_, rest)) => Ok(rest.split("//// variant").next().unwrap_or_default().to_owned()),
        None => make_one(&Nvrtc::open()?, &variant.source()),
    }
}

/// PTX of a variant's text, or of a changed one.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`].
pub fn make_one(nvrtc: &Nvrtc, source: &str) -> Result<String> {
    let compiled = nvrtc.compile(source, "variant.cu", &Target::Ptx(ARCHITECTURE.into()))?;
    kept::lowered(&String::from_utf8_lossy(&compiled.code))
}

/// What the file should hold, unpacked, made afresh.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`].
pub fn make(nvrtc: &Nvrtc) -> Result<String> {
    let mut text = first_line();
    for variant in &VARIANTS {
        text += &mark(variant);
        text += &make_one(nvrtc, &variant.source())?;
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_ptx_is_of_these_kernels() {
        assert!(is_current().unwrap(), "{PATH} is stale: renew it (needs NVRTC) with\n{}", kept::RENEW);
        let text = text().unwrap();
        for variant in &VARIANTS {
            assert!(text.contains(&mark(variant)), "{variant:?}");
        }
    }
}
