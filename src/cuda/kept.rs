//! The kernels' PTX that is kept in the repository and in the program: for machines that have a driver and no NVRTC, and
//! for tests, which run it in the emulator and so need nothing but Rust.
//!
//! Its `.version` is lowered to [`ISA`]. NVRTC 13.0 writes 9.0, which drivers older than its own refuse to translate,
//! although the kernels use nothing that new. The youngest thing in them is the line information of inlined functions.
//! That was checked by assembling the lowered PTX with nvJitLink 13.0.88 (`nvJitLinkAddData` as PTX, `nvJitLinkComplete`),
//! which needs no GPU: it gives cubins for `sm_75`, `80`, `86`, `87`, `89`, `90`, `100`, `103`, `110`, `120` and `121`, for `sm_75`,
//! `90`, `100` and `120` with the same machine code as with 9.0 (the others were not compared). Check it again where kernels
//! come to use newer instructions.

use super::kernels;
use super::nvrtc::{Nvrtc, Target};
use super::sources;
use crate::{Error, Result};

/// The file, from the repository's root.
pub const PATH: &str = "kernels/kernels.compute_75.ptx";

/// The command that makes the file afresh.
pub const RENEW: &str = "cargo test --features cuda --test kernels -- --ignored renew";

/// The oldest architecture that the kernels are for. A driver translates its PTX for that one and for any newer.
pub const ARCHITECTURE: &str = "compute_75";

/// Version of PTX in the file: that of CUDA 11.2, so that drivers from 460 on translate it.
pub const ISA: &str = "7.2";

const PTX: &str = include_str!("../../kernels/kernels.compute_75.ptx");

const SOURCES: &str = "// Sources, SHA-256: ";
const OPTIONS: &str = "// Options: ";

/// The kept PTX, under a comment that says what it was made of. Only good where [`is_current`].
pub fn ptx() -> &'static str {
    PTX
}

/// Whether the kept PTX was made of the kernels in this program, with the options that are in use.
pub fn is_current() -> bool {
    let value = |name| PTX.lines().find_map(|line| line.strip_prefix(name));
    value(SOURCES) == Some(sources::hash().as_str()) && value(OPTIONS) == Some(target().options().join(" ").as_str())
}

/// What the file should hold, made afresh.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`]; [`Error::Failed`] if the compiler's PTX has not the form that is known.
pub fn make(nvrtc: &Nvrtc) -> Result<String> {
    let compiled = nvrtc.compile(sources::KERNELS, kernels::UNIT, &target())?;
    let made = lowered(&String::from_utf8_lossy(&compiled.code))?;
    let (hash, options) = (sources::hash(), target().options().join(" "));
    Ok(format!(
        "// The kernels of this folder, for machines with no NVRTC and for tests. Made, not written; renew it with\n\
         // {RENEW}\n\
         {SOURCES}{hash}\n\
         {OPTIONS}{options}\n\
         // The compiler's version of PTX is lowered and folders are cut off: see src/cuda/kept.rs.\n\
         {made}\n"
    ))
}

/// The compiler's whole version in its PTX: `13.0.88`.
pub fn compiler(ptx: &str) -> Option<&str> {
    ptx.lines()
        .find_map(|line| line.strip_prefix("// Cuda compilation tools, ")?.rsplit_once(", V"))
        .map(|found| found.1)
}

fn target() -> Target {
    Target::Ptx(ARCHITECTURE.into())
}

/// PTX with the lower version, and with files named from the repository's root: the compiler puts the folder that it was
/// run in before their names.
pub(super) fn lowered(ptx: &str) -> Result<String> {
    let versions = ptx.lines().filter(|line| is_version(line)).count();
    if versions != 1 {
        return Err(Error::Failed(format!("the compiler's PTX has {versions} lines with .version, not 1")));
    }
    let line = |line: &str| if is_version(line) { format!(".version {ISA}") } else { without_folder(line) };
    Ok(ptx.trim_end().lines().map(line).collect::<Vec<_>>().join("\n"))
}

fn is_version(line: &str) -> bool {
    line.starts_with(".version ")
}

/// `.file 1 "kernels/adam.cu"` of `.file 1 "/some/folder/kernels/adam.cu"`; any other line as it is.
fn without_folder(line: &str) -> String {
    let own = line.trim_start().starts_with(".file").then(|| line.split_once('"').zip(line.rfind("kernels/")));
    match own.flatten() {
        Some(((before, _), start)) => format!("{before}\"{}", &line[start..]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_ptx_is_of_these_kernels() {
        assert!(is_current(), "{PATH} is not of the kernels as they are now: renew it (needs NVRTC) with\n{RENEW}");
        for name in sources::names() {
            assert!(ptx().contains(&format!(".visible .entry {name}(")), "{PATH} has no {name}");
        }
    }

    #[test]
    fn versions_are_lowered_and_folders_cut_off() {
        let made = "// Cuda compilation tools, release 13.0, V13.0.88\n.version 9.0\n\t.file\t1 \"/a/kernels/b/kernels/c.cu\"\n\n";
        let kept = "// Cuda compilation tools, release 13.0, V13.0.88\n.version 7.2\n\t.file\t1 \"kernels/c.cu\"";
        assert_eq!(lowered(made).unwrap(), kept);
        assert_eq!(compiler(made), Some("13.0.88"));
        assert!(lowered("// no version\n").unwrap_err().to_string().contains("0 lines"));
    }
}
