//! PTX of some variants of the TF32 kernels, for tests: they run it in the emulator and so need nothing but Rust.
//!
//! It is kept in the repository, packed, under the hash of the text that it was made of. Other variants are compiled.

use super::kept;
use super::kept_variants::unpacked;
use super::nvrtc::{Nvrtc, Target};
use super::sources;
use super::tf32_variant::Tf32Variant;
use crate::Result;

/// The file, from the repository's root.
pub const PATH: &str = "kernels/tf32/kept.ptx.gz";

const PACKED: &[u8] = include_bytes!("../../kernels/tf32/kept.ptx.gz");

/// Sizes of the variants that are kept: units, cluster, groups of a warp, places forward and backward in shared memory.
const SIZES: [[usize; 5]; 11] = [
    // As they are chosen for small models and batches.
    [16, 1, 1, 0, 0],
    [32, 1, 1, 0, 0],
    [48, 1, 1, 0, 0],
    [64, 1, 1, 0, 0],
    [128, 4, 1, 0, 0],
    // Of everything something else.
    [32, 1, 2, 0, 0],
    [48, 1, 2, 7, 11],
    [32, 2, 1, 3, 2],
    [64, 4, 1, 5, 7],
    [64, 2, 2, 9, 4],
    [128, 8, 2, 1, 0],
];

/// All variants that are kept.
pub fn variants() -> impl Iterator<Item = Tf32Variant> {
    SIZES.into_iter().map(|[units, cluster, groups, forward_shared, backward_shared]| Tf32Variant {
        units,
        cluster,
        groups,
        forward_shared,
        backward_shared,
    })
}

/// The line before a variant's PTX.
fn mark(variant: &Tf32Variant) -> String {
    format!("//// {variant:?}\n")
}

fn first_line() -> String {
    format!("// TF32 kernels. Sources, SHA-256: {}\n", sources::hash_of(sources::TF32))
}

/// The kept text, unpacked.
///
/// # Errors
///
/// [`crate::Error::Failed`] if the file is broken.
pub fn text() -> Result<String> {
    unpacked(PACKED, PATH)
}

/// Whether the kept PTX was made of the kernels in this program.
///
/// # Errors
///
/// [`crate::Error::Failed`] if the file is broken.
pub fn is_current() -> Result<bool> {
    Ok(text()?.starts_with(&first_line()))
}

/// PTX of a variant: what is kept, if it is of these kernels, else what NVRTC makes.
///
/// # Errors
///
/// [`crate::Error::Device`] if it is not kept and there is no NVRTC.
pub fn ptx(variant: &Tf32Variant) -> Result<String> {
    let (text, mark) = (text()?, mark(variant));
    let kept = text.starts_with(&first_line()).then(|| text.split_once(&mark)).flatten();
    match kept {
        Some((_, rest)) => Ok(rest.split("//// ").next().unwrap_or_default().to_owned()),
        None => make_one(&Nvrtc::open()?, variant, &variant.source()),
    }
}

/// PTX of `source`, the text of a variant or that text with a change.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`].
pub fn make_one(nvrtc: &Nvrtc, variant: &Tf32Variant, source: &str) -> Result<String> {
    // The oldest architectures with what it needs.
    let architecture = if variant.cluster > 1 { "compute_90" } else { "compute_80" };
    let compiled = nvrtc.compile(source, "variant.cu", &Target::Ptx(architecture.into()))?;
    kept::lowered(&String::from_utf8_lossy(&compiled.code))
}

/// What the file should hold, unpacked, made afresh.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`].
pub fn make(nvrtc: &Nvrtc) -> Result<String> {
    let mut text = first_line();
    for variant in variants() {
        text += &mark(&variant);
        text += &make_one(nvrtc, &variant, &variant.source())?;
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
        for variant in variants() {
            assert!(text.contains(&mark(&variant)), "{variant:?}");
        }
    }
}
