//! Runs the program, on data of the tests' own making, with no network.

#![allow(dead_code)]

pub mod models;
pub mod sequence;
#[cfg(target_os = "linux")]
pub mod stub;

use fused_lstm::cuda::nvrtc::Nvrtc;
use fused_lstm::data::{Sequences, Values, synthetic};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Images in the folder of [`Folder::with_data`]: a twelfth of the first are for validation.
pub const TRAIN: usize = 240;
pub const VALIDATION: usize = 20;
pub const TEST: usize = 40;

/// A temporary folder, and paths in it as text.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A folder with a small data set in `data`.
    pub fn with_data() -> Self {
        let folder = Self::new();
        write_data(&folder.0.path().join("data"));
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Everything in it, sorted.
    pub fn names(&self) -> Vec<String> {
        names(self.0.path())
    }

    /// Runs `command`, separated by spaces, where `@` opens a path in this folder, with `--data-dir` at the data.
    pub fn run(&self, command: &str) -> Run {
        run(&self.args(&format!("{command} --data-dir @data")))
    }

    /// The same without `--data-dir`.
    pub fn run_plain(&self, command: &str) -> Run {
        run(&self.args(command))
    }

    pub fn args(&self, command: &str) -> Vec<String> {
        let arg = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.text(name),
            None => word.to_owned(),
        };
        command.split_whitespace().map(arg).collect()
    }

    /// Trains a small model for `steps` into `model`.
    pub fn train(&self, steps: u32) -> Run {
        let run = self.run(&format!("train --hidden 12 --batch-size 40 --steps {steps} --save @model --json"));
        run.succeeds()
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes [`TRAIN`] and [`TEST`] synthetic digits as MNIST's four files.
pub fn write_data(folder: &Path) {
    let digits = synthetic::digits(7, TRAIN, 0, TEST);
    fs::create_dir_all(folder).unwrap();
    for (part, sequences) in [("train", &digits.train), ("t10k", &digits.test)] {
        fs::write(folder.join(format!("{part}-images-idx3-ubyte")), image_file(sequences)).unwrap();
        fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), label_file(sequences.labels())).unwrap();
    }
}

fn image_file(sequences: &Sequences) -> Vec<u8> {
    let Values::U8 { bytes, .. } = sequences.values() else { panic!("digits are bytes") };
    idx_file(&[sequences.len(), sequences.t(), sequences.i()], bytes)
}

fn label_file(labels: &[u32]) -> Vec<u8> {
    idx_file(&[labels.len()], &labels.iter().map(|&label| label as u8).collect::<Vec<_>>())
}

pub fn idx_file(sizes: &[usize], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    file.extend(sizes.iter().flat_map(|&size| (size as u32).to_be_bytes()));
    file.extend(bytes);
    file
}

/// The program, with no cache, no settings of the user's, and nothing to read.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fused-lstm"));
    command.env("FUSED_LSTM_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("there-is-no-cache"));
    command.env_remove("FUSED_LSTM_DATA_DIR").env_remove("NO_COLOR").env_remove("RUST_BACKTRACE");
    command.env_remove("CLICOLOR_FORCE").stdin(Stdio::null());
    // The same output on every machine: whether there is a GPU is for the tests of GPUs.
    command.env("FUSED_LSTM_DEVICE", "cpu");
    command.env("CUDA_VISIBLE_DEVICES", "-1");
    command
}

pub fn run(args: &[impl AsRef<std::ffi::OsStr>]) -> Run {
    Run::new(program().args(args).output().unwrap())
}

/// What a run of the program gave. Whatever it was, it neither panicked nor wrote escape codes.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let run = Self {
            code: output.status.code().unwrap_or_else(|| panic!("ended by a signal: {:?}", output.status)),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        for bad in ["panicked", "backtrace", "\u{1b}", "unwrap"] {
            assert!(!run.err.contains(bad) && !run.out.contains(bad), "{bad:?} in {run:#?}");
        }
        run
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        assert!(!self.err.contains("error"), "{self:#?}");
        self
    }

    /// Fails with `code` and one line that holds all of `parts`, and prints no result.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.out, "", "{self:#?}");
        self.ends_with_error(code, parts)
    }

    /// Fails with `code` and one line that holds all of `parts`; results may have come before.
    #[track_caller]
    pub fn ends_with_error(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        let errors: Vec<_> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:#?}");
        assert_eq!(self.err.lines().last(), Some(errors[0]), "the error is the last word: {self:#?}");
        assert!(errors[0].len() < 400 && !errors[0].contains(": :"), "{self:#?}");
        for part in parts {
            assert!(errors[0].contains(part), "no {part:?} in {self:#?}");
        }
        self
    }

    /// Fails with nothing on standard error but the error.
    #[track_caller]
    pub fn fails_in_one_line(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.err.lines().count(), 1, "{self:#?}");
        self.fails(code, parts)
    }

    /// Is refused as wrong usage by the parser, whose message may have several lines.
    #[track_caller]
    pub fn fails_as_misuse(self, parts: &[&str]) -> Self {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{self:#?}");
        assert!(self.err.starts_with("error: "), "{self:#?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:#?}");
        }
        self
    }

    /// Every line of the output as JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }

    /// The events of this name.
    #[track_caller]
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.json().into_iter().filter(|event| event["event"] == name).collect()
    }

    /// The only event of this name.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        let mut events = self.events(name);
        assert_eq!(events.len(), 1, "{name}: {self:#?}");
        events.remove(0)
    }
}

/// Seconds that this thread was ready to run and did not, for want of a free core; 0 where the system does not tell.
pub fn waited_so_far() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').nth(1).and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// The compiler; none where there is none and none is required.
pub fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::open() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "REQUIRE_NVRTC is set, but: {error}");
            println!("skipped: {error}");
            None
        }
    }
}
