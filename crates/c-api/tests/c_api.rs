//! The C interface: what it gives against the Rust library, what it refuses, its header, and the examples in C and Python.

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::own::{self, Normalization, Options, OwnData};
use fused_lstm::data::{BYTE_SCALE, Dataset, Sequences, Values};
use fused_lstm::engine::Engine;
use fused_lstm::model::{Model, Pool};
use fused_lstm_c::*;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A model for the made-up waves, not trained, in a checkpoint, with the waves as their file has them.
struct Bed {
    folder: TempDir,
    config: Config,
    data: Arc<Dataset>,
    /// `[N,T,I]`
    x: Vec<f32>,
}

impl Bed {
    fn new(change: impl FnOnce(Model) -> Model) -> Self {
        let options = Options { inputs: Some(2), ..Options::default() };
        let file = root().join("tests/own_data/waves.csv");
        let data = Arc::new(own::load(&file, &options, None).unwrap());
        let config = Config::new(&data, 9);
        let config = Config { model: change(config.model), ..config };
        let folder = TempDir::new().unwrap();
        let checkpoint = Checkpoint { config: config.clone(), state: config.initial_state() };
        checkpoint.save(&folder.path().join("model")).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let numbers = |line: &str| line.split(',').take(16).map(|n| n.parse().unwrap()).collect::<Vec<f32>>();
        let x = text.lines().skip(1).take(5).flat_map(numbers).collect();
        Self { folder, config, data, x }
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn load(&self) -> *mut FusedLstmModel {
        let folder = CString::new(self.model().to_str().unwrap()).unwrap();
        // SAFETY: a string.
        unsafe { fused_lstm_load(folder.as_ptr(), 1) }
    }

    /// `[N,K]` from the Rust library, of the first `lengths` steps of each.
    fn expected(&self, lengths: &[u32]) -> Vec<f32> {
        let mut engine = CpuEngine::new(self.config.model, self.config.adam, self.data.clone(), 1).unwrap();
        engine.set_state(&self.config.initial_state()).unwrap();
        let sequences = Sequences::new(8, 2, Values::F32(self.x.clone()), vec![0; lengths.len()]);
        let own = self.config.own.as_ref().unwrap();
        engine.predict(&own.apply(sequences.with_lengths(lengths.to_vec()))).unwrap()
    }
}

fn last_error() -> String {
    // SAFETY: the library's own string, of the last call in this thread.
    unsafe { CStr::from_ptr(fused_lstm_last_error()) }.to_str().unwrap().to_owned()
}

#[test]
fn batches_and_streams_give_what_the_rust_library_gives() {
    let bed = Bed::new(|model| Model { layers: 2, pool: Pool::Mean, ..model });
    let model = bed.load();
    assert!(!model.is_null(), "{}", last_error());
    let mut sizes = FusedLstmSizes { steps: 0, inputs: 0, classes: 0 };
    let mut got = [0.0; 15];
    // SAFETY: pointers to as many numbers as the functions ask for, and to what the library has made.
    unsafe {
        assert_eq!(fused_lstm_sizes(model, &mut sizes), 0);
        assert_eq!(sizes, FusedLstmSizes { steps: 8, inputs: 2, classes: 3 });
        let names = [0, 1, 2].map(|class| CStr::from_ptr(fused_lstm_class_name(model, class)).to_str().unwrap());
        assert_eq!(names, ["saw", "sine", "square"]);

        assert_eq!(fused_lstm_predict(model, bed.x.as_ptr(), null(), 5, got.as_mut_ptr()), 0);
        assert_eq!(got[..], bed.expected(&[8; 5]));
        let lengths = [1, 8, 3, 5, 2];
        assert_eq!(fused_lstm_predict(model, bed.x.as_ptr(), lengths.as_ptr(), 5, got.as_mut_ptr()), 0);
        assert_eq!(got[..], bed.expected(&lengths));
        assert_eq!(fused_lstm_predict(model, null(), null(), 0, null_mut()), 0, "no sequences");

        let streams = fused_lstm_streams_new(model, 5);
        // Streams live on without their model.
        fused_lstm_free(model);
        for _ in 0..2 {
            for t in 0..8 {
                let step: Vec<f32> = bed.x.chunks(16).flat_map(|x| &x[2 * t..2 * t + 2]).copied().collect();
                assert_eq!(fused_lstm_streams_push(streams, step.as_ptr(), got.as_mut_ptr()), 0);
                assert_eq!(got[..], bed.expected(&[t as u32 + 1; 5]), "step {t}");
            }
            (0..5).for_each(|stream| assert_eq!(fused_lstm_streams_reset(streams, stream), 0));
        }
        fused_lstm_streams_free(streams);
        fused_lstm_free(null_mut());
        fused_lstm_streams_free(null_mut());
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let bed = Bed::new(|model| model);
    let both = Bed::new(|model| Model { bidirectional: true, ..model });
    let (model, both) = (bed.load(), both.load());
    let refused = |code: i32, expected: i32, parts: &[&str]| {
        let error = last_error();
        assert_eq!(code, expected, "{error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} in {error:?}"));
    };
    let code = |is_null: bool| i32::from(is_null);
    let mut got = [7.0f32; 15];
    // SAFETY: pointers that are null, or to as many numbers as the functions ask for.
    unsafe {
        refused(code(fused_lstm_load(null(), 0).is_null()), 1, &["folder", "null"]);
        refused(code(fused_lstm_load(c"nowhere/model".as_ptr(), 0).is_null()), 1, &["nowhere/model", "no such folder"]);
        refused(code(fused_lstm_load(c"\xff".as_ptr(), 0).is_null()), 1, &["UTF-8"]);
        refused(fused_lstm_sizes(null(), null_mut()), 2, &["model", "null"]);
        refused(fused_lstm_sizes(model, null_mut()), 2, &["sizes", "null"]);
        refused(code(fused_lstm_class_name(model, 3).is_null()), 1, &["class 3", "there are 3"]);
        refused(code(fused_lstm_class_name(null(), 0).is_null()), 1, &["model"]);

        let (x, out) = (bed.x.as_ptr(), got.as_mut_ptr());
        refused(fused_lstm_predict(null(), x, null(), 5, out), 2, &["model"]);
        refused(fused_lstm_predict(model, null(), null(), 5, out), 2, &["x: the pointer is null"]);
        refused(fused_lstm_predict(model, x, null(), 5, null_mut()), 2, &["probabilities"]);
        refused(fused_lstm_predict(model, x, null(), usize::MAX, out), 2, &["more than memory can hold"]);
        refused(fused_lstm_predict(model, x, [8, 9].as_ptr(), 2, out), 2, &["lengths[1] = 9", "1 to 8"]);
        refused(fused_lstm_predict(model, x, [0].as_ptr(), 1, out), 2, &["lengths[0] = 0"]);
        let mut holed = bed.x.clone();
        holed[16 + 2 * 3 + 1] = f32::NAN;
        refused(fused_lstm_predict(model, holed.as_ptr(), null(), 5, out), 2, &["x[1][3][1] = NaN"]);
        // What lies behind a sequence's end is not looked at.
        assert_eq!(fused_lstm_predict(model, holed.as_ptr(), [8, 3, 8, 8, 8].as_ptr(), 5, out), 0);
        got = [7.0; 15];

        refused(code(fused_lstm_streams_new(null(), 1).is_null()), 1, &["model"]);
        refused(code(fused_lstm_streams_new(model, 0).is_null()), 1, &["0 streams"]);
        refused(
            code(fused_lstm_streams_new(model, usize::MAX).is_null()),
            1,
            &["streams", "more memory than there is"],
        );
        refused(code(fused_lstm_streams_new(both, 1).is_null()), 1, &["both directions"]);
        let streams = fused_lstm_streams_new(model, 2);
        let out = got.as_mut_ptr();
        refused(fused_lstm_streams_push(null_mut(), x, out), 2, &["streams"]);
        refused(fused_lstm_streams_push(streams, null(), out), 2, &["x: the pointer is null"]);
        refused(fused_lstm_streams_push(streams, x, null_mut()), 2, &["probabilities"]);
        refused(fused_lstm_streams_push(streams, [0.0, 1.0, f32::INFINITY, 0.0].as_ptr(), out), 2, &["x[1][0] = inf"]);
        refused(fused_lstm_streams_reset(streams, 2), 2, &["stream 2", "there are 2"]);
        refused(fused_lstm_streams_reset(null_mut(), 0), 2, &["streams"]);
        assert_eq!(got, [7.0; 15], "nothing is written where something is refused");
        // Nothing of what was refused has been a step.
        let mut expected = [0.0; 15];
        assert_eq!(fused_lstm_predict(model, x, [1, 1].as_ptr(), 2, expected.as_mut_ptr()), 0);
        let step = [bed.x[0], bed.x[1], bed.x[16], bed.x[17]];
        assert_eq!(fused_lstm_streams_push(streams, step.as_ptr(), got.as_mut_ptr()), 0);
        assert_eq!(got[..6], expected[..6]);
        fused_lstm_streams_free(streams);
        fused_lstm_free(model);
        fused_lstm_free(both);
    }
}

#[test]
fn bytes_come_as_they_stand_in_the_data() {
    let bed = Bed::new(|model| model);
    let own = OwnData { bytes: true, normalization: Normalization::None, ..bed.config.own.clone().unwrap() };
    let config = Config { own: Some(own), ..bed.config.clone() };
    Checkpoint { config: config.clone(), state: config.initial_state() }.save(&bed.model()).unwrap();
    let bytes: Vec<u8> = (0..5 * 16).map(|k| (k * 37 % 256) as u8).collect();
    let numbers: Vec<f32> = bytes.iter().map(|&byte| byte.into()).collect();
    let mut engine = CpuEngine::new(config.model, config.adam, bed.data.clone(), 1).unwrap();
    engine.set_state(&config.initial_state()).unwrap();
    let expected = engine.predict(&Sequences::new(8, 2, Values::U8 { bytes, scale: BYTE_SCALE }, vec![0; 5])).unwrap();
    let (model, mut got) = (bed.load(), [0.0; 15]);
    // SAFETY: pointers to as many numbers as the functions ask for, and to what the library has made.
    unsafe {
        assert_eq!(fused_lstm_predict(model, numbers.as_ptr(), null(), 5, got.as_mut_ptr()), 0, "{}", last_error());
        assert_eq!(got[..], expected);
        let streams = fused_lstm_streams_new(model, 5);
        for t in 0..8 {
            let step: Vec<f32> = numbers.chunks(16).flat_map(|x| &x[2 * t..2 * t + 2]).copied().collect();
            assert_eq!(fused_lstm_streams_push(streams, step.as_ptr(), got.as_mut_ptr()), 0);
        }
        assert_eq!(got[..], expected);
        fused_lstm_streams_free(streams);
        fused_lstm_free(model);
    }
}

// ---- the header ----

fn header_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include/fused_lstm.h")
}

fn header() -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(own.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new().with_config(config).with_src(own.join("src/lib.rs")).generate().unwrap();
    let mut text = Vec::new();
    made.write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_of_this_source() {
    let kept = fs::read_to_string(header_file()).unwrap();
    assert_eq!(kept, header(), "renew it with `cargo test -p fused-lstm-c -- --ignored renew`");
}

#[test]
#[ignore = "writes the header anew"]
fn renew() {
    fs::write(header_file(), header()).unwrap();
}

// ---- the examples ----

/// The folder with the libraries that this test was linked beside.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Runs `command` with `input` and gives its output.
fn output(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(output.stderr));
    text(output.stdout)
}

/// The numbers behind the first `words` words of each line that begins with `what`.
fn numbers(output: &str, what: &str, words: usize) -> Vec<f32> {
    let lines = output.lines().filter(|line| line.split(' ').next() == Some(what));
    lines.flat_map(|line| line.split(' ').skip(words).map(|n| n.parse::<f32>().unwrap())).collect()
}

#[cfg(unix)]
#[test]
fn the_example_in_c() {
    let bed = Bed::new(|model| Model { pool: Pool::Max, ..model });
    let program = bed.folder.path().join("predict");
    let (include, example) = (header_file(), root().join("examples/c/predict.c"));
    let mut compile = Command::new("cc");
    compile.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"]).arg(&program).arg(example);
    compile.arg("-I").arg(include.parent().unwrap()).arg("-L").arg(libraries()).arg("-lfused_lstm_c");
    output(&mut compile, "");
    let text: String = bed.x.iter().map(|x| format!("{x} ")).collect();
    let mut run = Command::new(program);
    run.arg(bed.model()).env("LD_LIBRARY_PATH", libraries()).env("DYLD_LIBRARY_PATH", libraries());
    let out = output(&mut run, &text);
    assert_eq!(numbers(&out, "whole", 2), bed.expected(&[8; 5]));
    let steps = numbers(&out, "step", 2);
    for t in 0..8 {
        let got: Vec<f32> = steps.chunks(8 * 3).flat_map(|steps| &steps[3 * t..3 * t + 3]).copied().collect();
        assert_eq!(got, bed.expected(&[t as u32 + 1; 5]), "step {t}");
    }
    assert!(out.ends_with("class 0 saw\nclass 1 sine\nclass 2 square\n"), "{out}");
}

/// `FUSED_LSTM_PYTHON` names a Python that has NumPy; with `REQUIRE_PYTHON_PEERS` there must be one.
#[test]
fn the_example_in_python() {
    let Some(python) = std::env::var_os("FUSED_LSTM_PYTHON") else {
        assert!(std::env::var_os("REQUIRE_PYTHON_PEERS").is_none(), "FUSED_LSTM_PYTHON names no Python");
        return println!("skipped: FUSED_LSTM_PYTHON names no Python with NumPy");
    };
    let bed = Bed::new(|model| model);
    let file = bed.folder.path().join("x.npy");
    let make =
        "import sys, numpy; numpy.save(sys.argv[1], numpy.array(sys.stdin.read().split(), 'f4').reshape(5, 8, 2))";
    let text: String = bed.x.iter().map(|x| format!("{x} ")).collect();
    output(Command::new(&python).arg("-c").arg(make).arg(&file), &text);
    let name = if cfg!(target_os = "macos") { "libfused_lstm_c.dylib" } else { "libfused_lstm_c.so" };
    let example = root().join("examples/python/predict.py");
    let mut run = Command::new(&python);
    let out = output(run.arg(&example).arg(libraries().join(name)).arg(bed.model()).arg(&file), "");
    assert_eq!(numbers(&out, "whole", 2), bed.expected(&[8; 5]));
    let steps: Vec<f32> = (0..8).flat_map(|t| bed.expected(&[t + 1; 5])).collect();
    assert_eq!(numbers(&out, "step", 3), steps);
    assert!(out.ends_with("classes saw sine square\n"), "{out}");

    // An error of the library is told as one of Python's.
    let mut run = Command::new(&python);
    let run = run.arg(&example).arg(libraries().join(name)).arg("nowhere").arg(&file).output().unwrap();
    let error = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && error.starts_with("error: nowhere: there is no such folder"), "{error}");
}
