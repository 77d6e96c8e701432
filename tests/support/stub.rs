//! `tests/stub/libcuda.rs`, compiled, in the place of NVIDIA's driver: a GPU that makes every call and computes nothing.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// The folder with it, for `LD_LIBRARY_PATH`; STUB_CUDA says what kind of driver it is.
pub static FOLDER: LazyLock<String> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stub-driver");
    fs::create_dir_all(&folder).unwrap();
    let compiled = folder.join(format!("{}.so", std::process::id()));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "cuda", "-C", "panic=abort"]);
    command.args(["-C", "opt-level=1", "-C", "strip=symbols", "-D", "warnings", "-o"]).arg(&compiled);
    let output = command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stub/libcuda.rs")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Both names that the library is looked for under. Another run of tests may be using the last one.
    let also = compiled.with_extension("also");
    fs::copy(&compiled, &also).unwrap();
    fs::rename(also, folder.join("libcuda.so")).unwrap();
    fs::rename(compiled, folder.join("libcuda.so.1")).unwrap();
    folder.to_str().unwrap().to_owned()
});
