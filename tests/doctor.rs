//! `fused-lstm doctor`: one line for each check, whatever is broken on the machine.

mod support;

use serde_json::Value;
use std::fs;
use support::{Folder, Run, program, write_data};

/// Checks that are there on every machine, in their order, with the features that tests are built with.
const ALWAYS: [&str; 9] =
    ["build", "cpu", "cpu self-test", "data", "nvrtc", "cache", "kept kernels", "driver", "emulated GPU"];

/// A machine of its own: an empty cache, no data, no NVRTC.
struct Machine(Folder);

impl Machine {
    fn new() -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.path("no-nvrtc")).unwrap();
        Self(folder)
    }

    /// Runs the doctor with those variables beside the machine's own; a value with `@` is a path in its folder.
    fn doctor(&self, flags: &[&str], variables: &[(&str, &str)]) -> Run {
        let mut command = program();
        command.arg("doctor").args(flags);
        command.env("FUSED_LSTM_CACHE", self.0.path("cache")).env("FUSED_LSTM_NVRTC", self.0.path("no-nvrtc"));
        for (name, value) in variables {
            command.env(name, value.strip_prefix('@').map_or_else(|| value.into(), |name| self.0.path(name)));
        }
        Run::new(command.output().unwrap())
    }
}

/// The only line of that check, told by its status.
#[track_caller]
fn line<'a>(run: &'a Run, status: &str, name: &str) -> &'a str {
    let start = format!("{status}  {name:<15} ");
    let lines: Vec<_> = run.out.lines().filter(|line| line.starts_with(&start)).collect();
    assert_eq!(lines.len(), 1, "{start:?} in {run:#?}");
    lines[0]
}

#[track_caller]
fn holds(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
}

fn has_gpu(run: &Run) -> bool {
    run.out.contains("compute capability")
}

#[test]
fn every_check_has_a_line_and_nothing_fails_on_a_bare_machine() {
    let machine = Machine::new();
    let run = machine.doctor(&[], &[]).succeeds();
    let lines: Vec<_> = run.out.lines().collect();
    let (checks, end) = lines.split_at(lines.len() - 2);
    for line in checks {
        assert!(["PASS  ", "WARN  ", "FAIL  "].iter().any(|status| line.starts_with(status)), "{line:?}");
        assert!(line.starts_with("PASS") || line.contains("; "), "what to do is told: {line:?}");
    }
    assert_eq!(end[0], "");
    holds(end[1], &["passed", "0 failed", " s"]);
    let names: Vec<_> = checks.iter().map(|line| line[6..21].trim_end()).collect();
    let mut places = ALWAYS.iter().map(|name| names.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name}")));
    assert!(places.clone().is_sorted(), "{names:?}");
    assert_eq!(places.next(), Some(0));
    holds(line(&run, "PASS", "build"), &[env!("CARGO_PKG_VERSION"), "cuda, emulator"]);
    holds(line(&run, "PASS", "cpu"), &["thread"]);
    for self_test in ["cpu self-test", "emulated GPU"] {
        holds(line(&run, "PASS", self_test), &["logits", "gradients", "losses", "parameters", "e-"]);
    }
    holds(line(&run, "PASS", "kept kernels"), &["PTX 7.2", "compute_75", "NVRTC 13.0"]);
    if !has_gpu(&run) {
        holds(line(&run, "WARN", "gpu"), &["--device cpu"]);
    }
}

#[test]
fn as_json_it_is_one_object() {
    let run = Machine::new().doctor(&["--json"], &[]).succeeds();
    assert_eq!(run.out.lines().count(), 1, "{run:#?}");
    let event = run.event("doctor");
    assert_eq!((&event["ok"], &event["version"]), (&Value::Bool(true), &Value::from(env!("CARGO_PKG_VERSION"))));
    assert!(event["seconds"].as_f64().unwrap() > 0.0);
    let checks = event["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert!(ALWAYS.iter().all(|name| names.contains(name)), "{names:?}");
    for check in checks {
        let passed = check["status"] == "pass";
        assert!(passed || check["status"] == "warn", "{check}");
        assert!(check["found"].as_str().is_some_and(|found| found.len() > 3), "{check}");
        assert_eq!(check["remedy"].is_null(), passed, "{check}");
    }
}

#[test]
fn as_json_a_failure_is_told_too() {
    let run = Machine::new().doctor(&["--json"], &[("FUSED_LSTM_DATA_DIR", "@nowhere")]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.err.starts_with("error: does not work: data;") && run.err.lines().count() == 1, "{run:#?}");
    let event = run.event("doctor");
    assert_eq!(event["ok"], false);
    let failed: Vec<_> = event["checks"].as_array().unwrap().iter().filter(|check| check["status"] == "fail").collect();
    assert!(failed.len() == 1 && failed[0]["name"] == "data", "{failed:?}");
}

#[test]
fn nvrtc_that_is_missing_is_a_warning() {
    let machine = Machine::new();
    let run = machine.doctor(&[], &[]).succeeds();
    holds(line(&run, "WARN", "nvrtc"), &["no-nvrtc", "pip install nvidia-cuda-nvrtc", "FUSED_LSTM_NVRTC"]);
    let run = machine.doctor(&[], &[("FUSED_LSTM_NVRTC", "@not-even-a-folder")]).succeeds();
    holds(line(&run, "WARN", "nvrtc"), &["not-even-a-folder", "pip install"]);
}

#[test]
fn nvrtc_that_is_broken_fails() {
    let machine = Machine::new();
    fs::create_dir(machine.0.path("broken")).unwrap();
    for bytes in [&b"not a library"[..], b"", b"\x7fELF\x02\x01\x01"] {
        fs::write(machine.0.path("broken/libnvrtc.so.13"), bytes).unwrap();
        for named in ["@broken", "@broken/libnvrtc.so.13"] {
            let run = machine.doctor(&[], &[("FUSED_LSTM_NVRTC", named)]);
            holds(line(&run, "FAIL", "nvrtc"), &["broken/libnvrtc.so.13", "pip install"]);
            run.ends_with_error(1, &["nvrtc"]);
        }
    }
}

#[test]
fn nvrtc_that_is_there_passes() {
    // Where this machine has one; the machine of the other tests has none.
    use fused_lstm::cuda::nvrtc::Nvrtc;
    let Ok(nvrtc) = Nvrtc::open() else {
        assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "REQUIRE_NVRTC is set, but there is no NVRTC");
        return println!("skipped: there is no NVRTC");
    };
    let path = nvrtc.path().to_str().unwrap();
    let run = Machine::new().doctor(&[], &[("FUSED_LSTM_NVRTC", path)]).succeeds();
    let (major, minor) = nvrtc.version();
    holds(line(&run, "PASS", "nvrtc"), &[path, &format!("{major}.{minor} from"), "a kernel in"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let machine = Machine::new();
    fs::write(machine.0.path("file"), "in the way").unwrap();
    for place in ["@file", "@file/below"] {
        let run = machine.doctor(&[], &[("FUSED_LSTM_CACHE", place)]).succeeds();
        holds(line(&run, "WARN", "cache"), &["file", "cannot create the folder", "FUSED_LSTM_CACHE"]);
        holds(line(&run, "WARN", "data"), &["file", "fused-lstm data fetch"]);
    }
    // The folder is there and takes no file; the system's own folder of processes is such a one.
    if cfg!(target_os = "linux") {
        fs::create_dir(machine.0.path("full")).unwrap();
        std::os::unix::fs::symlink("/proc/self/task", machine.0.path("full/kernels")).unwrap();
        let run = machine.doctor(&[], &[("FUSED_LSTM_CACHE", "@full")]).succeeds();
        holds(line(&run, "WARN", "cache"), &["full/kernels", "cannot write into the folder", "FUSED_LSTM_CACHE"]);
    }
}

#[test]
fn a_cache_that_can_be_written_stays_as_it_is() {
    let machine = Machine::new();
    fs::create_dir_all(machine.0.path("cache/kernels")).unwrap();
    fs::write(machine.0.path("cache/kernels/sm_90-0.cubin"), [0; 1234]).unwrap();
    let run = machine.doctor(&[], &[]).succeeds();
    if !has_gpu(&run) {
        holds(line(&run, "PASS", "cache"), &["cache/kernels, 1 entry of 1,234 bytes"]);
        assert_eq!(support::names(&machine.0.path("cache/kernels")), ["sm_90-0.cubin"]);
    }
}

#[test]
fn data_in_the_named_folder_passes_and_broken_data_fails() {
    let machine = Machine::new();
    write_data(&machine.0.path("data"));
    let named = [("FUSED_LSTM_DATA_DIR", "@data")];
    let run = machine.doctor(&[], &named).succeeds();
    holds(line(&run, "PASS", "data"), &["220 to train", "20 to validate", "40 to test"]);
    let labels = machine.0.path("data/train-labels-idx1-ubyte");
    let bytes = fs::read(&labels).unwrap();
    for bad in [&bytes[..100], b"", b"what?"] {
        fs::write(&labels, bad).unwrap();
        let run = machine.doctor(&[], &named);
        holds(line(&run, "FAIL", "data"), &["train-labels-idx1-ubyte", "; "]);
        run.ends_with_error(1, &["does not work: data;"]);
    }
    fs::remove_file(&labels).unwrap();
    let run = machine.doctor(&[], &named);
    holds(line(&run, "FAIL", "data"), &["train-labels", "four MNIST files"]);
    run.ends_with_error(1, &["data"]);
    let run = machine.doctor(&[], &[("FUSED_LSTM_DATA_DIR", "@nowhere")]);
    holds(line(&run, "FAIL", "data"), &["nowhere", "does not exist"]);
    run.ends_with_error(1, &["data"]);
}

#[test]
fn no_data_is_a_warning_with_a_way_to_get_it() {
    let machine = Machine::new();
    let run = machine.doctor(&[], &[]).succeeds();
    holds(line(&run, "WARN", "data"), &["no MNIST", "cache/mnist", "synthetic", "fused-lstm data fetch"]);
    // What is broken in the cache is fetched anew by training.
    write_data(&machine.0.path("cache/mnist"));
    let run = machine.doctor(&[], &[]).succeeds();
    holds(line(&run, "PASS", "data"), &["cache/mnist", "220 to train"]);
    fs::write(machine.0.path("cache/mnist/t10k-images-idx3-ubyte"), "short").unwrap();
    let run = machine.doctor(&[], &[]).succeeds();
    holds(line(&run, "WARN", "data"), &["t10k-images-idx3-ubyte", "fused-lstm data fetch"]);
}

/// A line `n` of made-up numbers and its class.
fn table(rows: usize, cell: impl Fn(usize, usize) -> String) -> String {
    (0..rows).map(|n| format!("{},{},{}\n", cell(n, 0), cell(n, 1), ["up", "down"][n % 2])).collect()
}

#[test]
fn data_of_ones_own_is_looked_at_as_data_info_does() {
    let machine = Machine::new();
    let write = |name: &str, text: String| fs::write(machine.0.path(name), text).unwrap();
    write("good.csv", table(40, |n, at| (n * (at + 3) % 41).to_string()));
    write("flat.csv", table(40, |n, at| if at == 1 { "5".into() } else { (n * 7 % 41).to_string() }));
    write("holed.csv", table(40, |n, at| if (n, at) == (3, 1) { "nan".into() } else { (n * 7 % 41).to_string() }));
    let doctor = |name: &str| {
        let path = machine.0.path(name);
        machine.doctor(&["--data", path.to_str().unwrap(), "--inputs", "2"], &[])
    };
    holds(line(&doctor("good.csv").succeeds(), "PASS", "data"), &["good.csv: 32 to train", "2 classes"]);
    let run = doctor("flat.csv").succeeds();
    holds(line(&run, "WARN", "data"), &["inputs that never change: 1", "fused-lstm data info --data"]);
    let run = doctor("holed.csv");
    holds(line(&run, "FAIL", "data"), &["holed.csv", "line 4", "fused-lstm data info --data"]);
    run.ends_with_error(1, &["does not work: data;"]);
    let run = doctor("nowhere.csv");
    holds(line(&run, "FAIL", "data"), &["nowhere.csv"]);
    run.ends_with_error(1, &["does not work: data;"]);
}

#[test]
fn a_model_is_checked_with_its_data() {
    let machine = Machine::new();
    let waves = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/own_data/waves.csv");
    let train = format!("train --data {waves} --inputs 2 --hidden 6 --batch-size 12 --steps 3 --quiet --save @model");
    machine.0.run_plain(&train).succeeds();
    let model = machine.0.path("model");
    let model = model.to_str().unwrap();
    let doctor = |more: &[&str]| machine.doctor(&[&["--model", model], more].concat(), &[]);
    let own = ["--data", waves];
    for flags in [&[][..], &own] {
        let run = doctor(flags).succeeds();
        let parts = ["351 parameters, a linear layer and an LSTM", "8 steps of 2 inputs, 3 classes", "3 steps on own"];
        holds(line(&run, "PASS", "model"), &parts);
    }
    // Data of other sequences, and of classes that it does not know.
    for (text, part) in [
        (table(30, |n, _| n.to_string()).replace("down", "saw").replace("up", "sine"), "the model is for 8 steps of 2"),
        (table(30, |n, _| n.to_string()), "is of class \"up\""),
    ] {
        fs::write(machine.0.path("other.csv"), text).unwrap();
        let other = machine.0.path("other.csv");
        let run = doctor(&["--data", other.to_str().unwrap(), "--inputs", "2"]);
        holds(line(&run, "FAIL", "model"), &[part]);
        run.ends_with_error(1, &["model"]);
    }
    // A number that is none, in a whole file; half a file; no folder.
    let file = machine.0.path("model/model.safetensors");
    let whole = fs::read(&file).unwrap();
    let mut spoiled = whole.clone();
    let end = spoiled.len();
    spoiled[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (bytes, parts) in [(&spoiled[..], &["model"][..]), (&whole[..end / 2], &["model.safetensors", "not a whole"])] {
        fs::write(&file, bytes).unwrap();
        let run = doctor(&[]);
        holds(line(&run, "FAIL", "model"), parts);
        run.ends_with_error(1, &["does not work: model;"]);
    }
    let run = machine.doctor(&["--model", "no/such/folder"], &[]);
    holds(line(&run, "FAIL", "model"), &["no/such/folder", "there is no such folder"]);
    run.ends_with_error(1, &["does not work: model;"]);
}

#[test]
fn several_failures_are_all_named() {
    let machine = Machine::new();
    fs::write(machine.0.path("libnvrtc.so"), "broken").unwrap();
    let run = machine.doctor(&[], &[("FUSED_LSTM_NVRTC", "@libnvrtc.so"), ("FUSED_LSTM_DATA_DIR", "@nowhere")]);
    holds(run.out.lines().last().unwrap(), &["2 failed"]);
    run.ends_with_error(1, &["does not work: data, nvrtc;"]);
}

/// On a driver that makes every call and computes nothing: `tests/stub/libcuda.rs`.
#[cfg(target_os = "linux")]
mod driver {
    use super::*;
    use crate::support::stub;

    /// Runs the doctor on a driver of that kind, and gives the machine back.
    fn doctor(kind: &str) -> (Machine, Run) {
        let machine = Machine::new();
        let run = machine.doctor(&[], &[("LD_LIBRARY_PATH", &stub::FOLDER), ("STUB_CUDA", kind)]);
        (machine, run)
    }

    #[test]
    fn one_that_is_too_old_fails() {
        let (_, run) = doctor("version=10020");
        holds(line(&run, "FAIL", "driver"), &["for CUDA 10.2", "too old", "11.4 or newer"]);
        holds(line(&run, "WARN", "gpu"), &["without a driver", "--device cpu"]);
        run.ends_with_error(1, &["does not work: driver;"]);
    }

    #[test]
    fn one_that_cannot_be_opened_is_a_warning() {
        let machine = Machine::new();
        // As containers have it that were given no GPU.
        fs::create_dir(machine.0.path("driver")).unwrap();
        ["libcuda.so", "libcuda.so.1"]
            .iter()
            .for_each(|name| fs::write(machine.0.path("driver").join(name), "").unwrap());
        let run = machine.doctor(&[], &[("LD_LIBRARY_PATH", "@driver")]).succeeds();
        holds(line(&run, "WARN", "driver"), &["cannot be opened", "install NVIDIA's driver"]);
    }

    #[test]
    fn one_that_knows_no_gpu_is_a_warning() {
        let (_, run) = doctor("version=12040 devices=0");
        let run = run.succeeds();
        holds(line(&run, "PASS", "driver"), &["for CUDA 12.4, ", &stub::FOLDER, "libcuda.so"]);
        holds(line(&run, "WARN", "gpu"), &["knows no GPU", "nvidia-smi"]);
    }

    #[test]
    fn one_that_cannot_be_started_fails() {
        // The library and the kernel's module have different versions.
        let (_, run) = doctor("cuInit@1=803");
        line(&run, "PASS", "driver");
        holds(line(&run, "FAIL", "gpu"), &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart the machine"]);
        run.ends_with_error(1, &["does not work: gpu;"]);
    }

    #[test]
    fn a_gpu_that_computes_nothing_fails() {
        let (machine, run) = doctor("devices=2");
        for n in ["0", "1"] {
            holds(
                line(&run, "PASS", &format!("gpu {n}")),
                &["compute capability 9.0", "multiprocessors", " GiB of memory"],
            );
            let kernels = line(&run, "WARN", &format!("kernels {n}"));
            holds(kernels, &["for sm_90", "kept in the program", "no NVRTC in", "see the lines of nvrtc and cache"]);
            holds(line(&run, "FAIL", &format!("gpu {n} self-test")), &["gradients 1e0", "do not trust this device"]);
            // What would train, and why not what was asked for.
            holds(line(&run, "WARN", &format!("gpu {n} tf32")), &["one launch a step, in f32", "there is no NVRTC in"]);
            holds(line(&run, "WARN", &format!("gpu {n} bf16")), &["one launch a step, in f32", "there is no NVRTC in"]);
        }
        assert_eq!(support::names(&machine.0.path("cache/kernels")), [""; 0], "there is nothing to keep");
        run.ends_with_error(1, &["does not work: gpu 0 self-test, gpu 1 self-test;"]);
    }

    #[test]
    fn a_gpu_that_is_too_old_is_a_warning() {
        let (_, run) = doctor("capability=70");
        let run = run.succeeds();
        holds(line(&run, "WARN", "gpu 0"), &["compute capability 7.0", "too old", "--device cpu"]);
        assert!(!run.out.contains("kernels 0") && !run.out.contains("gpu 0 self-test"), "{run:#?}");
    }

    #[test]
    fn a_gpu_that_cannot_be_opened_fails() {
        let (_, run) = doctor("cuDevicePrimaryCtxRetain@1=46");
        line(&run, "PASS", "gpu 0");
        holds(line(&run, "FAIL", "kernels 0"), &["CUDA_ERROR_DEVICE_UNAVAILABLE", "wait until the other program"]);
        run.ends_with_error(1, &["does not work: kernels 0;"]);
    }
}
