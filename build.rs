//! Joins the kernels into texts that the library embeds: those of `kernels/`, and those of `kernels/persistent/`,
//! `kernels/sequence/` and `kernels/tf32/`, which are compiled for one model each. Never calls a CUDA compiler: this builds anywhere.
//!
//! Order: the common `.cuh` files, then the `.cu` files, each group by name. Before each stands a `#line` mark, so that
//! what a compiler says names the file and line in `kernels/`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    // Without the feature nothing reads the text.
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let kernels = Path::new("kernels");
        let write = |name: &str, text: String| fs::write(out.join(name), text).expect("cannot write to OUT_DIR");
        write("kernels.cu", joined(kernels));
        for unit in ["persistent", "sequence"] {
            write(&format!("{unit}.cu"), marked(kernels, "common.cuh") + &joined(&kernels.join(unit)));
        }
        // Blocks of a cluster reach each other as those of the sequence kernels do.
        let (tf32, peers) = (kernels.join("tf32"), marked(&kernels.join("sequence"), "peers.cuh"));
        write("tf32.cu", marked(kernels, "common.cuh") + &of_kind(&tf32, "cuh") + &peers + &of_kind(&tf32, "cu"));
    }
}

/// All kernels of `folder`, one after the other.
fn joined(folder: &Path) -> String {
    of_kind(folder, "cuh") + &of_kind(folder, "cu")
}

/// Those of one extension.
fn of_kind(folder: &Path, extension: &str) -> String {
    files(folder, extension).iter().map(|file| marked(folder, file)).collect()
}

/// Names of the files of `folder` with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("cannot list kernels/").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == extension));
    files.sort();
    let name = |file: &PathBuf| file.file_name()?.to_str().map(String::from);
    files.iter().map(|file| name(file).expect("kernel files have plain names")).collect()
}

/// A file with its mark. Line ends are made one kind, so that the text's hash is the same on every system.
fn marked(folder: &Path, file: &str) -> String {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let text = text.replace("\r\n", "\n");
    format!("#line 1 \"{}/{file}\"\n{}\n", folder.to_str().expect("plain names").replace('\\', "/"), text.trim_end())
}
