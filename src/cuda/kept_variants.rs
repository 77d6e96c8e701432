//! PTX of some variants of the kernels that are compiled for one model, for tests: they run it in the emulator and so need nothing
//! but Rust.
//!
//! It is kept in the repository, packed, a file for each unit, under the hash of the text that it was made of. Other variants are
//! compiled.

use super::kept;
use super::nvrtc::{Nvrtc, Target};
use super::sequence_variant::SequenceVariant;
use super::sources;
use super::specialized::Specialized;
use super::tf32_variant::Tf32Variant;
use super::variant::{Division, Variant, groups_of};
use crate::precision::Activations;
use crate::{Error, Result};
use flate2::read::GzDecoder;
use std::io::Read;

/// The kept file of one unit of kernels.
pub struct KeptVariants {
    /// The file, from the repository's root.
    pub path: &'static str,
    packed: &'static [u8],
    /// The unit's text, without the sizes of a variant.
    source: &'static str,
    variants: fn() -> Vec<Specialized>,
}

/// Of `kernels/persistent/`.
pub const PERSISTENT: KeptVariants = KeptVariants {
    path: "kernels/persistent/kept.ptx.gz",
    packed: include_bytes!("../../kernels/persistent/kept.ptx.gz"),
    source: sources::PERSISTENT,
    variants: || persistent().map(Specialized::from).collect(),
};

/// Of `kernels/sequence/`.
pub const SEQUENCE: KeptVariants = KeptVariants {
    path: "kernels/sequence/kept.ptx.gz",
    packed: include_bytes!("../../kernels/sequence/kept.ptx.gz"),
    source: sources::SEQUENCE,
    variants: || sequence().map(Specialized::from).collect(),
};

/// Of `kernels/tf32/`.
pub const TF32: KeptVariants = KeptVariants {
    path: "kernels/tf32/kept.ptx.gz",
    packed: include_bytes!("../../kernels/tf32/kept.ptx.gz"),
    source: sources::TF32,
    variants: || tf32().map(Specialized::from).collect(),
};

/// All of them.
pub const ALL: [KeptVariants; 3] = [PERSISTENT, SEQUENCE, TF32];

/// The persistent kernels that are kept: sizes of each kind in one block, and each way of dividing the work at one small size.
pub fn persistent() -> impl Iterator<Item = Variant> {
    let plain = |units, inputs| {
        let (activations, groups, division) = (Activations::Accurate, groups_of(units), Division::ONE);
        Variant { units, inputs, forward_shared: 0, backward_shared: 0, chains: 2, groups, activations, division }
    };
    let divided = |tiles, cluster, variant: Variant| {
        let (groups, division) = (groups_of(variant.units / cluster), Division { tiles, cluster });
        Variant { groups, division, ..variant }
    };
    [
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
    ]
    .into_iter()
}

/// The sequence kernels that are kept: units, cluster, lanes, rows that train and that score, places forward, backward and where scores
/// are wanted in shared memory.
pub fn sequence() -> impl Iterator<Item = SequenceVariant> {
    let sizes: [[usize; 8]; 10] = [
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
    sizes.into_iter().map(|[units, cluster, lanes, rows, score_rows, forward_shared, backward_shared, score_shared]| {
        SequenceVariant { units, cluster, lanes, rows, score_rows, forward_shared, backward_shared, score_shared }
    })
}

/// The TF32 kernels that are kept: units, cluster, groups of a warp, places forward and backward in shared memory.
pub fn tf32() -> impl Iterator<Item = Tf32Variant> {
    let sizes: [[usize; 5]; 11] = [
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
    sizes.into_iter().map(|[units, cluster, groups, forward_shared, backward_shared]| Tf32Variant {
        units,
        cluster,
        groups,
        forward_shared,
        backward_shared,
    })
}

/// What the line before a variant's PTX begins with.
const MARK: &str = "//// variant ";

/// The line before a variant's PTX: the sizes that its text begins with.
fn mark(kernels: &Specialized) -> String {
    let source = kernels.source();
    let sizes: Vec<&str> = source.lines().map_while(|line| line.strip_prefix("#define VARIANT_")).collect();
    format!("{MARK}{}\n", sizes.join(", "))
}

/// The oldest architecture with all that there is in a variant; of the persistent kernels the first with dependent launches.
fn architecture(kernels: &Specialized) -> &'static str {
    match kernels {
        Specialized::Sequence(SequenceVariant { cluster: 1, .. }) => "compute_75",
        Specialized::Tf32(Tf32Variant { cluster: 1, .. }) => "compute_80",
        _ => "compute_90",
    }
}

impl KeptVariants {
    fn of(kernels: &Specialized) -> Self {
        match kernels {
            Specialized::Persistent(_) => PERSISTENT,
            Specialized::Sequence(_) => SEQUENCE,
            Specialized::Tf32(_) => TF32,
        }
    }

    fn first_line(&self) -> String {
        format!("// Sources, SHA-256: {}\n", sources::hash_of(self.source))
    }

    /// The kept text, unpacked.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the file is broken.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        let read = GzDecoder::new(self.packed).read_to_string(&mut text);
        read.map(|_| text).map_err(|error| Error::Failed(format!("{}: {error}", self.path)))
    }

    /// What the file should hold, unpacked, made afresh.
    ///
    /// # Errors
    ///
    /// Those of [`Nvrtc::compile`].
    pub fn make(&self, nvrtc: &Nvrtc) -> Result<String> {
        let mut text = self.first_line();
        for kernels in (self.variants)() {
            text += &mark(&kernels);
            text += &make_one(nvrtc, &kernels, &kernels.source())?;
            text.push('\n');
        }
        Ok(text)
    }
}

/// PTX of a variant: what is kept, if it is of these kernels, else what NVRTC makes.
///
/// # Errors
///
/// [`Error::Device`] if it is not kept and there is no NVRTC.
pub fn ptx(kernels: &Specialized) -> Result<String> {
    let kept = KeptVariants::of(kernels);
    let (text, mark) = (kept.text()?, mark(kernels));
    let found = text.starts_with(&kept.first_line()).then(|| text.split_once(&mark)).flatten();
    match found {
        Some((_, rest)) => Ok(rest.split(MARK).next().unwrap_or_default().to_owned()),
        None => make_one(&Nvrtc::open()?, kernels, &kernels.source()),
    }
}

/// PTX of `source`, the text of a variant or that text with a change.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`].
pub fn make_one(nvrtc: &Nvrtc, kernels: &Specialized, source: &str) -> Result<String> {
    let compiled = nvrtc.compile(source, "variant.cu", &Target::Ptx(architecture(kernels).into()))?;
    kept::lowered(&String::from_utf8_lossy(&compiled.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_ptx_is_of_these_kernels() {
        for kept in ALL {
            let (path, text) = (kept.path, kept.text().unwrap());
            assert!(
                text.starts_with(&kept.first_line()),
                "{path} is stale: renew it (needs NVRTC) with\n{}",
                kept::RENEW
            );
            for kernels in (kept.variants)() {
                assert!(text.contains(&mark(&kernels)), "{kernels:?}");
            }
        }
    }
}
