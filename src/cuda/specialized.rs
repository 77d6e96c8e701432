//! Kernels that are compiled for one model: which they are, and their text.

use super::sequence::Launches;
use super::sequence_variant::SequenceVariant;
use super::sources;
use super::tf32_variant::Tf32Variant;
use super::variant::Variant;

/// A unit of kernels, and the sizes that are fixed when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Specialized {
    /// `kernels/persistent/`
    Persistent(Variant),
    /// `kernels/sequence/`
    Sequence(SequenceVariant),
    /// `kernels/tf32/`
    Tf32(Tf32Variant),
}

impl Specialized {
    /// What the unit is called: its folder, and what the names of its kernels begin with.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Persistent(_) => "persistent",
            Self::Sequence(_) => "sequence",
            Self::Tf32(_) => "tf32",
        }
    }

    /// The kernels' text with its sizes.
    pub fn source(&self) -> String {
        match self {
            Self::Persistent(variant) => variant.source(),
            Self::Sequence(variant) => variant.source(),
            Self::Tf32(variant) => variant.source(),
        }
    }

    /// How their launches go, if they are kernels that run all steps in the place of those of one step.
    pub fn launches(self) -> Option<Launches> {
        match self {
            Self::Persistent(_) => None,
            Self::Sequence(variant) => Some(variant.into()),
            Self::Tf32(variant) => Some(variant.into()),
        }
    }

    /// Names of the kernels, in the order of the text.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Persistent(_) => sources::persistent_names(),
            Self::Sequence(_) => sources::sequence_names(),
            Self::Tf32(_) => sources::tf32_names(),
        }
    }
}

impl From<Variant> for Specialized {
    fn from(variant: Variant) -> Self {
        Self::Persistent(variant)
    }
}

impl From<SequenceVariant> for Specialized {
    fn from(variant: SequenceVariant) -> Self {
        Self::Sequence(variant)
    }
}

impl From<Tf32Variant> for Specialized {
    fn from(variant: Tf32Variant) -> Self {
        Self::Tf32(variant)
    }
}
