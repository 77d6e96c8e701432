//! `scripts/compare_pytorch_gpu.py` as far as it goes without PyTorch: its flags, the order of its cells, its table. Needs
//! python3; where there is none, the tests say that they are skipped. And `scripts/release-archive`.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// The script with these flags; none without Python.
fn script(flags: &[&str]) -> Option<Output> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/compare_pytorch_gpu.py");
    match Command::new("python3").arg(file).args(flags).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: python3: {error}");
            None
        }
    }
}

fn listed(flags: &[&str]) -> Option<Vec<String>> {
    let output = script(&[&["--list"], flags].concat())?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect())
}

#[test]
fn the_matrix_is_whole_and_begins_with_what_is_quick() {
    let Some(cells) = listed(&[]) else { return };
    assert_eq!(cells.len(), 2 * 4 * 4 * 3 * 3);
    assert_eq!(cells[..2], ["step-128-128-f32-eager", "step-128-128-f32-graph"]);
    let first_compiled = cells.iter().position(|cell| cell.ends_with("compile")).unwrap();
    assert_eq!(first_compiled, 192, "what is compiled comes last");
    assert_eq!(cells.last().unwrap(), "infer-65536-1024-bf16-compile");
    let few = listed(&["--what", "infer", "--batch", "7,3", "--hidden", "5", "--precision", "tf32", "--mode", "graph"]);
    assert_eq!(few.unwrap(), ["infer-7-5-tf32-graph", "infer-3-5-tf32-graph"]);
}

#[test]
fn wrong_flags_are_refused() {
    for flags in [["--mode", "loop"], ["--precision", "f32,f16"], ["--batch", "0"], ["--hidden", "x"]] {
        let Some(output) = script(&flags) else { return };
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(flags[0]), "{flags:?}: {error}");
    }
}

/// The table of these figures: (precision, mode, milliseconds), all of one size.
fn table(figures: &[(&str, &str, f64)], skipped: &Value) -> Option<Vec<Vec<String>>> {
    let row = |(precision, mode, ms): &(&str, &str, f64)| json!({"what": "step", "batch": 8, "hidden": 4, "precision": precision, "mode": mode, "ms": ms});
    let rows: Vec<_> = figures.iter().map(row).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.json");
    std::fs::write(&file, json!({"device": "a GPU", "rows": rows, "skipped": skipped}).to_string()).unwrap();
    let output = script(&["--render", file.to_str().unwrap()])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
    Some(text.lines().map(cells).collect())
}

#[test]
fn a_ratio_is_made_only_within_a_precision() {
    let figures = [
        ("f32", "fused-lstm", 2.0),
        ("f32", "eager", 8.0),
        ("f32", "graph", 5.0),
        ("tf32", "graph", 1.0),
        ("bf16", "fused-lstm", 0.5),
    ];
    let Some(table) = table(&figures, &json!([])) else { return };
    let rows: Vec<_> = table[4..].iter().map(|row| row[4..row.len() - 1].join(" ")).collect();
    assert_eq!(rows, ["f32 2.0000 8.0000 5.0000  2.50", "tf32   1.0000  ", "bf16 0.5000    "]);
    assert_eq!(table[2].len(), table[4].len(), "{table:?}");
}

#[test]
fn what_was_not_measured_is_named_under_its_reason() {
    let skipped = json!([
        {"cell": "a", "why": "no time left"},
        {"cell": "b", "why": "out of memory"},
        {"cell": "c", "why": "no time left"},
    ]);
    let Some(table) = table(&[], &skipped) else { return };
    let lines: Vec<_> = table.iter().filter(|line| line[0].starts_with("Not measured")).map(|line| &line[0]).collect();
    assert_eq!(lines, ["Not measured, no time left: a, c", "Not measured, out of memory: b"]);
}

// ---- release-archive ----

#[cfg(target_os = "linux")]
mod release {
    use super::*;
    use std::fs;

    fn archive(arguments: &[&Path]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/release-archive");
        Command::new("bash").arg(script).args(arguments).output().unwrap()
    }

    #[test]
    fn an_archive_holds_the_program_and_all_that_belongs_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_fused-lstm"));
        let output = archive(&[folder.path(), program]);
        assert!(output.status.success(), "{output:?}");
        let file = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        let start = format!("{}/fused-lstm-{}-", folder.path().display(), env!("CARGO_PKG_VERSION"));
        assert!(file.starts_with(&start) && file.ends_with(".tar.gz"), "{file}");
        let unpacked = Command::new("tar").args(["-xzf", &file, "-C"]).arg(folder.path()).status().unwrap();
        assert!(unpacked.success());
        let root = Path::new(file.strip_suffix(".tar.gz").unwrap());

        let told = |arguments: &[&str]| Command::new(root.join("fused-lstm")).args(arguments).output().unwrap().stdout;
        assert_eq!(told(&["--version"]), format!("fused-lstm {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let completions = fs::read(root.join(format!("completions/fused-lstm.{shell}"))).unwrap();
            assert!(completions == told(&["completions", shell]) && completions.len() > 1000, "{shell}");
        }
        for page in ["fused-lstm.1", "fused-lstm-train.1", "fused-lstm-data-info.1"] {
            assert!(fs::read_to_string(root.join("man").join(page)).unwrap().contains(".TH "), "{page}");
        }
        for name in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "docs/interchange.md"] {
            assert!(root.join(name).is_file(), "{name}");
        }
        // Made again it is the same, byte for byte.
        let first = fs::read(&file).unwrap();
        assert!(archive(&[folder.path(), program]).status.success());
        assert!(fs::read(&file).unwrap() == first);
    }

    #[test]
    fn a_program_that_is_not_there_is_told_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let output = archive(&[folder.path(), Path::new("no/such/program")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("no/such/program"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let output = archive(&[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stdout).contains("scripts/release-archive FOLDER [PROGRAM]"));
    }
}
