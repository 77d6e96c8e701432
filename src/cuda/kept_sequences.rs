//! PTX of some variants of the sequence kernels, for tests: they run it in the emulator and so need nothing but Rust.
//!
//! It is kept in the repository, packed, under the hash of the text that it was made of. Other variants are compiled.

use super::kept;
use super::kept_variants::unpacked;
use super::nvrtc::{Nvrtc, Target};
use super::sequence_variant::SequenceVariant;
use super::sources;
use crate::Result;

/// The file, from the repository's root.
pub const PATH: &str = "kernels/sequence/kept.ptx.gz";

const PACKED: &[u8] = include_bytes!("../../kernels/sequence/kept.ptx.gz");

/// Sizes of the variants that are kept: units, cluster, lanes, rows that train and that score, places forward, backward and
/// where scores are wanted in shared memory.
const SIZES: [[usize; 8]; 10] = [
    // As they are chosen for small models and batches.
    [16, 1, 4, 1, 4, 0, 0, 0],
    [32, 1, 4, 1, 4, 0, 0, 0],
    [48, 1, 4, 1, 4, 0, 0, 0],
    [64, 1, 4, 1, 4, 0, 0, 0],
    // The same as one of those, with other rows.
    [16, 1, 4, 2, 4, 0, 0, 0],
    // Of everything something else.
    [32, 1, 2, 2, 4, 5, 3, 10],
    [48, 1, 4, 4, 2, 7, 2, 3],
    [32, 2, 2, 4, 1, 4, 6, 1],
    [64, 4, 2, 1, 2, 0, 1, 2],
    [128, 8, 4, 2, 2, 1, 2, 0],
];

/// All variants that are kept.
pub fn variants() -> impl Iterator<Item = SequenceVariant> {
    SIZES.into_iter().map(|[units, cluster, lanes, rows, score_rows, forward_shared, backward_shared, score_shared]| {
        SequenceVariant { units, cluster, lanes, rows, score_rows, forward_shared, backward_shared, score_shared }
    })
}

/// The line before a variant's PTX.
fn mark(variant: &SequenceVariant) -> String {
    format!("//// {variant:?}\n")
}

fn first_line() -> String {
    format!("// Sequence kernels. Sources, SHA-256: {}\n", sources::hash_of(sources::SEQUENCE))
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
pub fn ptx(variant: &SequenceVariant) -> Result<String> {
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
pub fn make_one(nvrtc: &Nvrtc, variant: &SequenceVariant, source: &str) -> Result<String> {
    // The oldest architectures with what it needs.
    let architecture = if variant.cluster > 1 { "compute_90" } else { "compute_75" };
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
