//! Joins the kernels into one text that the library embeds. Never calls a CUDA compiler: this builds anywhere.
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
        fs::write(out.join("kernels.cu"), joined(Path::new("kernels"))).expect("cannot write to OUT_DIR");
    }
}

/// All kernels of `folder`, one after the other.
fn joined(folder: &Path) -> String {
    ["cuh", "cu"].into_iter().flat_map(|extension| files(folder, extension)).map(|file| marked(&file)).collect()
}

/// The files of `folder` with this extension, by name.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("cannot list kernels/").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

/// A file with its mark. Line ends are made one kind, so that the text's hash is the same on every system.
fn marked(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
    let name = file.file_name().and_then(|name| name.to_str()).expect("kernel files have plain names");
    let text = text.replace("\r\n", "\n");
    format!("#line 1 \"kernels/{name}\"\n{}\n", text.trim_end())
}
