//! The kernels as they are given to the compiler.

use sha2::{Digest, Sha256};

/// All files of `kernels/` in a fixed order, each after a `#line` mark with its name; joined by `build.rs`.
pub const KERNELS: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.cu"));

/// The persistent kernels, likewise: `common.cuh`, then all files of `kernels/persistent/`. A [`super::variant::Variant`] puts
/// its sizes before it.
pub const PERSISTENT: &str = include_str!(concat!(env!("OUT_DIR"), "/persistent.cu"));

/// The sequence kernels, likewise; a [`super::sequence_variant::SequenceVariant`] puts its sizes before it.
pub const SEQUENCE: &str = include_str!(concat!(env!("OUT_DIR"), "/sequence.cu"));

/// The TF32 kernels, likewise; a [`super::tf32_variant::Tf32Variant`] puts its sizes before it.
pub const TF32: &str = include_str!(concat!(env!("OUT_DIR"), "/tf32.cu"));

/// The text's SHA-256, in hexadecimal: what was compiled from the same text may be kept under it.
pub fn hash() -> String {
    hash_of(KERNELS)
}

/// The SHA-256 of a text, in hexadecimal.
pub fn hash_of(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names of the kernels, in the order of the text.
pub fn names() -> Vec<&'static str> {
    names_in(KERNELS)
}

/// Names of the persistent kernels, in the order of their text.
pub fn persistent_names() -> Vec<&'static str> {
    names_in(PERSISTENT)
}

/// Names of the sequence kernels, in the order of their text.
pub fn sequence_names() -> Vec<&'static str> {
    names_in(SEQUENCE)
}

/// Names of the TF32 kernels, in the order of their text.
pub fn tf32_names() -> Vec<&'static str> {
    names_in(TF32)
}

fn names_in(text: &'static str) -> Vec<&'static str> {
    text.split("\nKERNEL(").skip(1).filter_map(name_after_bounds).collect()
}

/// `adam` of `ADAM_THREADS)\nadam(const float* …`.
fn name_after_bounds(text: &str) -> Option<&str> {
    let (_, after) = text.split_once(')')?;
    let (name, _) = after.split_once('(')?;
    Some(name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_in_order_under_their_names() {
        let marks: Vec<_> = KERNELS.lines().filter(|line| line.starts_with("#line")).collect();
        let files = ["common.cuh", "adam.cu", "gather.cu", "layers.cu", "linear.cu", "lstm.cu", "softmax_xent.cu"];
        assert_eq!(marks, files.map(|file| format!("#line 1 \"kernels/{file}\"")));
        let first: Vec<_> = PERSISTENT.lines().filter(|line| line.starts_with("#line")).take(3).collect();
        let files = ["common.cuh", "persistent/layout.cuh", "persistent/tensor.cuh"];
        assert_eq!(first, files.map(|file| format!("#line 1 \"kernels/{file}\"")));
    }

    #[test]
    fn the_text_holds_to_the_rules_of_the_house() {
        for forbidden in ["#include", "__expf", "__fdividef", "\r"] {
            let texts = [KERNELS, PERSISTENT, SEQUENCE, TF32];
            assert!(texts.iter().all(|text| !text.contains(forbidden)), "{forbidden}");
        }
        // Blocks that are done are counted; nothing else is.
        assert!([KERNELS, SEQUENCE, TF32].iter().all(|text| !text.contains("atomic")));
        assert_eq!(PERSISTENT.matches("atomic").collect::<Vec<_>>().len(), 2, "a comment, and one count");
        assert_eq!(hash().len(), 64);
    }

    #[test]
    fn every_kernel_is_in_the_index() {
        let index = include_str!("../../kernels/README.md");
        let names = names();
        assert!(
            names.len() > 10 && names.contains(&"lstm_forward_step") && names.contains(&"column_sums"),
            "{names:?}"
        );
        assert!(persistent_names().len() > 3, "{:?}", persistent_names());
        for name in names.into_iter().chain(persistent_names()).chain(sequence_names()).chain(tf32_names()) {
            assert!(index.contains(&format!("| `{name}` |")), "kernels/README.md does not tell of {name}");
        }
    }
}
