//! Kernels that are compiled for one model: which they are, and their text.

use super::sequence_variant::SequenceVariant;
use super::sources;
use super::variant::Variant;

/// A unit of kernels, and the sizes that are fixed when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Specialized {
    /// `kernels/persistent/`
    Persistent(Variant),
    /// `kernels/sequence/`
    Sequence(SequenceVariant),
}

impl Specialized {
    /// What the unit is called: its folder, and what the names of its kernels begin with.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Persistent(_) => "persistent",
            Self::Sequence(_) => "sequence",
        }
    }

    /// The kernels' text with its sizes.
    pub fn source(&self) -> String {
        match self {
            Self::Persistent(variant) => variant.source(),
            Self::Sequence(variant) => variant.source(),
        }
    }

    /// Names of the kernels, in the order of the text.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Persistent(_) => sources::persistent_names(),
            Self::Sequence(_) => sources::sequence_names(),
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
