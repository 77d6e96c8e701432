//! The CUDA engine on NVIDIA's driver, as far as that can be seen without a GPU: which calls are made, and what becomes of
//! every one that fails. The driver is `tests/stub/libcuda.rs`, in the place of the real one.
#![cfg(target_os = "linux")]

mod support;

use fused_lstm::Result;
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::cuda::cache::{Cache, Entry, Key};
use fused_lstm::cuda::device::{Arg, Buffer, Device, Launch, Limits};
use fused_lstm::cuda::driver::{self, Driver};
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::nvrtc::{Nvrtc, Target};
use fused_lstm::cuda::specialized::Specialized;
use fused_lstm::cuda::{CudaEngine, find, kept, sources};
use fused_lstm::data::Dataset;
use fused_lstm::dropout::Dropout;
use fused_lstm::engine::{Engine, Model};
use fused_lstm::init::{self, Init};
use fused_lstm::model::Pool;
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use support::{Folder, Run, TRAIN, models, program, stub};

/// Both names that the library is looked for under, so that no real one is found.
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// A machine with a driver, and with no NVRTC.
struct Machine {
    folder: Folder,
}

impl Machine {
    /// With the stand-in.
    fn new() -> Self {
        let machine = Self::bare();
        let stub = Path::new(&*stub::FOLDER);
        NAMES.iter().for_each(|name| symlink(stub.join(name), machine.folder.path("driver").join(name)).unwrap());
        machine
    }

    /// With this as the driver's library.
    fn with_library(bytes: &[u8]) -> Self {
        let machine = Self::bare();
        NAMES.iter().for_each(|name| fs::write(machine.folder.path("driver").join(name), bytes).unwrap());
        machine
    }

    /// With no library.
    fn bare() -> Self {
        let folder = Folder::with_data();
        fs::create_dir(folder.path("driver")).unwrap();
        fs::create_dir(folder.path("nvrtc")).unwrap();
        Self { folder }
    }

    /// Has `command` run with a stand-in of this kind, see its `Settings`.
    fn set(&self, command: &mut Command, kind: &str) {
        let _ = fs::remove_file(self.log());
        command.env("LD_LIBRARY_PATH", self.folder.path("driver")).env("STUB_CUDA", kind);
        command.env("STUB_CUDA_LOG", self.log()).env("FUSED_LSTM_NVRTC", self.folder.path("nvrtc"));
        command.env("FUSED_LSTM_CACHE", self.folder.path("cache"));
    }

    fn log(&self) -> PathBuf {
        self.folder.path("calls")
    }

    fn calls(&self) -> Calls {
        Calls(fs::read_to_string(self.log()).unwrap_or_default().lines().map(str::to_owned).collect())
    }

    fn run(&self, kind: &str, command: &str) -> Run {
        let mut program = program();
        self.set(&mut program, kind);
        Run::new(program.args(self.folder.args(command)).output().unwrap())
    }

    /// Trains a small model, with no word but results, errors and notes.
    fn train(&self, kind: &str, more: &str) -> Run {
        let batch = if more.contains("--batch-size") { "" } else { "--batch-size 40" };
        self.run(kind, &format!("train --hidden 12 {batch} --data-dir @data --offline --progress none {more}"))
    }

    /// Has the test `name` of this file run in a process of its own, with the stand-in. Whether this is that process.
    fn is_within(name: &str) -> bool {
        Self::is_within_each(name, &[""])
    }

    /// The same in a process for each kind of stand-in.
    fn is_within_each(name: &str, kinds: &[&str]) -> bool {
        const WITHIN: &str = "STUB_CUDA_WITHIN";
        if std::env::var_os(WITHIN).is_some() {
            return true;
        }
        let machine = Self::new();
        for kind in kinds {
            let mut command = Command::new(std::env::current_exe().unwrap());
            machine.set(command.args(["--exact", name, "--nocapture"]).env(WITHIN, "1"), kind);
            let output = command.output().unwrap();
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && out.contains("1 passed"), "{kind}: {out}\n{err}");
        }
        false
    }
}

/// What a driver was called for, in order.
struct Calls(Vec<String>);

impl Calls {
    /// What these calls were about.
    fn of<'a>(&'a self, call: &'a str) -> impl Iterator<Item = &'a str> {
        let made = self.0.iter().map(|line| line.split_once(' ').unwrap_or((line, "")));
        made.filter(move |(name, _)| *name == call).map(|(_, about)| about)
    }

    fn count(&self, call: &str) -> usize {
        self.of(call).count()
    }

    /// What these launches were, without their arguments.
    fn shapes<'a>(&'a self, call: &'a str) -> Vec<&'a str> {
        self.of(call).map(|about| about.split_once(" address:").unwrap().0).collect()
    }

    /// How often each call was made.
    fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for line in &self.0 {
            *counts.entry(line.split(' ').next().unwrap()).or_default() += 1;
        }
        counts
    }

    /// Bytes of the copies or allocations, in order.
    fn bytes<'a>(&'a self, call: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.of(call).map(|about| about.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Launches of the graphs that were recorded or replayed, in order.
    fn launches<'a>(&'a self, call: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.of(call).map(|about| about.strip_suffix(" launches").unwrap().parse().unwrap())
    }

    /// Everything was given back, as far as nothing failed on the way.
    #[track_caller]
    fn are_closed(&self) {
        for (open, close) in [
            ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
            ("cuStreamCreate", "cuStreamDestroy_v2"),
            ("cuModuleLoadData", "cuModuleUnload"),
            ("cuMemAllocAsync", "cuMemFreeAsync"),
            ("cuMemAlloc_v2", "cuMemFree_v2"),
            ("cuEventCreate", "cuEventDestroy_v2"),
            ("cuStreamEndCapture", "cuGraphDestroy"),
            ("cuGraphInstantiateWithFlags", "cuGraphExecDestroy"),
        ] {
            let succeeded = |call| self.of(call).filter(|about| !about.contains("= ")).count();
            assert_eq!(succeeded(open), succeeded(close), "{open}, {close}: {:#?}", self.0);
        }
    }
}

// ---- a driver or GPU that cannot be used ----

/// Asked for, that is an error of one line; with `auto` the processor does the work, and one line says why.
#[track_caller]
fn cannot_be_used(machine: &Machine, kind: &str, parts: &[&str]) {
    // There is no data either: that is not worth a word where there is no device.
    let run = machine.run(kind, "train --device cuda --data mnist --data-dir @nowhere --offline --save @model");
    run.fails_in_one_line(4, &[&["--device cuda:0: "], parts].concat());
    assert!(!machine.folder.path("model").exists(), "{kind}");
    machine.calls().are_closed();
    let run = machine.train(kind, "--device auto --steps 1 --json").succeeds();
    assert!(run.err.starts_with("note: no GPU is used: ") && run.err.lines().count() == 1, "{run:#?}");
    assert!(run.event("start")["device"].as_str().unwrap().starts_with("cpu"), "{run:#?}");
    // The line says why, as the error does, and needs no remedy: what comes before that is in both.
    assert!(run.err.contains(parts[0]), "no {:?} in {run:#?}", parts[0]);
}

#[test]
fn a_driver_or_gpu_that_cannot_be_used() {
    let machine = Machine::new();
    for (kind, parts) in [
        ("devices=0", &["the driver is there, but it knows no GPU; ", "nvidia-smi"][..]),
        ("version=11030", &["the driver is for CUDA 11.3, too old; ", "install one for CUDA 11.4", "--device cpu"]),
        ("capability=70", &["Stub GPU 0 has compute capability 7.0, too old; ", "7.5 or newer"]),
        ("cuInit@1=803", &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (system has", "restart the machine"]),
        ("cuInit@1=999", &["cannot start the driver: code 999 (which the driver does not explain)"]),
        ("cuDriverGetVersion@1=999", &["cannot ask for the version"]),
        ("cuDevicePrimaryCtxRetain@1=46", &["cannot start the GPU: CUDA_ERROR_DEVICE_UNAVAILABLE", "wait until"]),
        ("cuStreamCreate@1=2", &["cannot start a stream: CUDA_ERROR_OUT_OF_MEMORY", "free the GPU's memory"]),
        ("cuModuleLoadData@1=2", &["cannot load the kernels: CUDA_ERROR_OUT_OF_MEMORY", "free the GPU's memory"]),
        (
            "ptx=222",
            &["the NVIDIA driver, for CUDA 13.0, does not take the kernels as PTX 7.2", "_PTX_VERSION", "nvrtc"],
        ),
        ("cuModuleGetFunction@2=500", &["cannot find kernel ", "CUDA_ERROR_NOT_FOUND"]),
    ] {
        // The fallback's line has no remedy after the semicolon.
        let parts: Vec<&str> = parts.iter().map(|part| part.trim_end_matches("; ")).collect();
        cannot_be_used(&machine, kind, &parts);
    }
}

#[test]
fn a_library_that_is_not_there() {
    // With a driver installed it would be found.
    if driver::version().is_err_and(|error| error.to_string().contains("libcuda was not found")) {
        cannot_be_used(&Machine::bare(), "", &["there is no NVIDIA driver: libcuda was not found", "--device cpu"]);
    } else {
        println!("skipped: there is a driver");
    }
}

#[test]
fn a_file_that_is_not_a_library() {
    // The empty one is what a container has that was started without the GPU.
    for bytes in [&b""[..], b"not a library", &[0x7f; 5000]] {
        let machine = Machine::with_library(bytes);
        cannot_be_used(&machine, "", &["the NVIDIA driver cannot be opened: ", "/driver/libcuda.so.1: "]);
    }
}

/// The stand-in under a name for which `call` cannot be found in it.
fn stub_without(call: &str) -> Vec<u8> {
    let mut bytes = fs::read(Path::new(&*stub::FOLDER).join(NAMES[0])).unwrap();
    let name = [b"\0", call.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|&at| bytes[at..].starts_with(&name)).collect();
    assert!(!places.is_empty(), "the stand-in has no {call}");
    places.into_iter().for_each(|at| bytes[at + 1..at + 3].copy_from_slice(b"xx"));
    bytes
}

#[test]
fn a_driver_that_lacks_a_call() {
    for call in driver::CALLS {
        let machine = Machine::with_library(&stub_without(call));
        let run = machine.run("", "bench step --device cuda");
        run.fails_in_one_line(4, &[&format!("the driver has no {call}:"), "CUDA 11.4 or newer", "--device cpu"]);
    }
    // Where both are true, the version says more.
    let machine = Machine::with_library(&stub_without("cuGraphInstantiateWithFlags"));
    let run = machine.run("version=11030", "bench step --device cuda");
    run.fails_in_one_line(4, &["the driver is for CUDA 11.3, too old"]);
}

#[test]
fn commands_name_their_own_flags() {
    let machine = Machine::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t1.safetensors");
    let run = machine.run("devices=0", &format!("verify --engine cuda {}", fixture.display()));
    run.fails_in_one_line(4, &["--engine cuda: the driver is there", "use --engine cpu"]);
    let run = machine.run("devices=0", "bench infer --device cuda");
    run.fails_in_one_line(4, &["--device cuda:0: the driver is there", "use --device cpu"]);
    // It runs, though nothing is computed.
    let run = machine.run("", &format!("verify --engine cuda {}", fixture.display()));
    assert!(run.out.contains("cuda:0, Stub GPU 0, sm_90"), "{run:#?}");
    run.ends_with_error(1, &["outside of the bounds"]);
    machine.calls().are_closed();
}

#[test]
fn one_of_several_gpus() {
    let machine = Machine::new();
    let run = machine.train("devices=2", "--device cuda:1 --steps 1 --json").succeeds();
    let told = run.event("start")["device"].as_str().unwrap().to_owned();
    let expected =
        "cuda:1, Stub GPU 1, sm_90; one launch a step, in f32: the sequence kernels: they are compiled for each model";
    assert!(told.starts_with(expected), "{told}");
    let calls = machine.calls();
    assert_eq!(calls.of("cuDevicePrimaryCtxRetain").collect::<Vec<_>>(), ["1"]);
    calls.are_closed();
    let refused = ["--device cuda:2", "no such GPU: the driver knows 2", "choose one of cuda:0 to cuda:1"];
    machine.train("devices=2", "--device cuda:2").fails_in_one_line(4, &refused);
    machine.train("", "--device cuda:1").fails_in_one_line(4, &["the driver knows 1", "choose cuda:0"]);
}

#[test]
fn machine_code_is_compiled_beside_a_driver_and_kept() {
    if let Err(error) = Nvrtc::open() {
        assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "REQUIRE_NVRTC is set, but: {error}");
        println!("skipped: {error}");
        return;
    }
    let machine = Machine::new();
    // NVRTC calls the driver too, if there is one.
    let run = |more: &str| {
        let mut program = program();
        machine.set(&mut program, "");
        match std::env::var_os(find::VARIABLE) {
            Some(place) => program.env(find::VARIABLE, place),
            None => program.env_remove(find::VARIABLE),
        };
        program.args(machine.folder.args(&format!("bench step --device cuda --seconds 0.01 --hidden 4 --json {more}")));
        let run = Run::new(program.output().unwrap()).succeeds();
        assert_eq!(run.err, "");
        machine.calls().are_closed();
        let loaded = machine.calls().of("cuModuleLoadData").filter(|what| *what == "cubin").count();
        let result: serde_json::Value = serde_json::from_str(&run.out).unwrap();
        let told = result["device"].as_str().unwrap().rsplit("; ").next().unwrap().to_owned();
        (support::names(&machine.folder.path("cache").join("kernels")).len(), loaded, told)
    };
    fs::create_dir_all(machine.folder.path("cache").join("kernels")).unwrap();
    // All kernels, and those that are compiled for the model.
    let not = |kept: usize| (kept, 2, "not tuned, as was asked for".to_owned());
    assert_eq!(run("--no-cache --no-tune"), not(0));
    assert_eq!([run("--no-tune"), run("--no-tune")], [not(2), not(2)]);
    // Those of four other plans, which take as long on this driver, so that the first is taken and loaded again; and what was found.
    let told = "tuned: the fastest of 5 plans that were timed";
    assert_eq!(run(""), (7, 7, told.to_owned()));
    // The next start knows.
    assert_eq!(run(""), (7, 2, told.to_owned()));
    assert_eq!(run("--no-tune"), not(7));
}

#[test]
fn machine_code_that_is_refused_makes_place_for_the_kept_kernels() {
    let machine = Machine::new();
    // A compiler that cannot be opened, and what it made before.
    let nvrtc = machine.folder.path("nvrtc");
    fs::write(nvrtc.join("libnvrtc.so.13"), "not a library").unwrap();
    let key = Key::new(sources::KERNELS, &Target::Cubin("sm_90".into()), &find::named(&nvrtc).identity());
    let entry = Entry { cubin: b"\x7fELF and so on".to_vec(), compiler: "NVRTC 13.0".into() };
    Cache::new(machine.folder.path("cache").join("kernels")).put(&key, &entry).unwrap();

    let run = machine.train("", "--device cuda --steps 1 --json").succeeds();
    assert_eq!(run.err, "");
    assert_eq!(machine.calls().of("cuModuleLoadData").collect::<Vec<_>>(), ["cubin"]);

    let run = machine.train("cubin=209", "--device cuda --steps 1 --json").succeeds();
    for part in
        ["machine code of NVRTC 13.0", "CUDA_ERROR_NO_BINARY_FOR_GPU", "the kernels kept in the program are used"]
    {
        assert!(run.err.lines().count() == 1 && run.err.contains(part), "{run:#?}");
    }
    assert_eq!(machine.calls().of("cuModuleLoadData").collect::<Vec<_>>(), ["= 209", "ptx"]);

    let parts = [
        "the NVIDIA driver, for CUDA 12.4, does not take the machine code of NVRTC 13.0: ",
        "_NO_BINARY_FOR_GPU",
        "CUDA 13",
    ];
    cannot_be_used(&machine, "version=12040 cubin=209 ptx=222", &parts);
}

/// All of them are trained, scored and asked by the commands; `--precision bf16` is told why it is f32.
#[test]
fn larger_models_go_to_the_gpu() {
    let machine = Machine::new();
    let larger = "--layers 2 --bidirectional --dropout 0.2 --input-layer none --pool mean --label-smoothing 0.1";
    let flags = format!("--device cuda {larger} --weight-decay 0.01 --schedule cosine --steps 2");
    for precision in ["f32", "bf16"] {
        let command = format!("{flags} --precision {precision} --save @larger-{precision} --eval-every 1 --json");
        let run = machine.train("", &command).succeeds();
        let told = run.event("start")["device"].as_str().unwrap().to_owned();
        let reason = "one launch a step, in f32, as no other kernels know this: 2 layers, two directions, no input layer, \
                      the mean over the steps, dropout 0.2, label smoothing";
        assert!(told.ends_with(reason), "{told}");
        machine.calls().are_closed();
    }
    machine.run("", "eval --model @larger-f32 --device cuda --data-dir @data --offline --progress none").succeeds();
    machine.run("", "predict --model @larger-f32 --device cuda @data/t10k-images-idx3-ubyte --row 1").succeeds();
    machine.train("", "--device cuda --resume @larger-f32 --steps 3 --schedule constant").succeeds();
    let sweep =
        format!("sweep --hidden 6 --batch-size 40 {flags} --seed 1,2 --out @sweep.json --data-dir @data --offline");
    let run = machine.run("", &sweep).succeeds();
    assert!(run.out.contains("one training at a time (one launch a step, in f32, as no other kernels"), "{run:#?}");
    let parts = ["batch size 40", "choose a smaller model, or --device cpu"];
    machine.train("free=1000000", "--device cuda --steps 1 --layers 3").ends_with_error(2, &parts);
    machine.calls().are_closed();
}

// ---- what goes wrong on the way ----

/// The run fails with one line; what is saved, if that is done before, is whole.
#[track_caller]
fn fails_on_the_way(machine: &Machine, kind: &str, more: &str, code: i32, parts: &[&str]) -> Run {
    let run = machine.train(kind, &format!("--device cuda --save @model {more}")).ends_with_error(code, parts);
    let model = machine.folder.path("model");
    if model.exists() && !support::names(&model).is_empty() {
        Checkpoint::load(&model).unwrap();
        assert!(run.out.contains("0.0000"), "it was saved before the end: {run:#?}");
        fs::remove_dir_all(model).unwrap();
    }
    run
}

#[test]
fn no_more_memory() {
    let machine = Machine::new();
    machine.train("", "--device cuda --steps 2").succeeds();
    let allocations = machine.calls().count("cuMemAllocAsync");
    assert!(allocations > 30, "{allocations}");
    for nth in 1..=allocations {
        let kind = format!("cuMemAllocAsync@{nth}=2");
        let parts = ["cuda:0: cannot allocate ", " MB for ", "CUDA_ERROR_OUT_OF_MEMORY", "smaller batch or model"];
        fails_on_the_way(&machine, &kind, "--steps 2", 4, &parts);
        machine.calls().are_closed();
    }
}

#[test]
fn a_batch_without_room() {
    let machine = Machine::new();
    let (kind, flags) = ("free=3000000", "--steps 1 --batch-size");
    let parts = ["batch size 220: the GPU has room for ", " MB of buffers", "the largest batch that fits is "];
    let run = fails_on_the_way(&machine, kind, &format!("{flags} 220"), 2, &parts);
    assert!(run.out.is_empty() && !machine.folder.path("model").exists(), "it is refused before anything is done");
    machine.calls().are_closed();
    let nested = machine.train(kind, &format!("--device cuda {flags} 220 --save @over/model"));
    nested.fails(2, &parts);
    assert!(!machine.folder.path("over").exists(), "nor are folders above it made");
    let largest: usize = run.err.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((2..219).contains(&largest), "{run:#?}");
    fails_on_the_way(&machine, kind, &format!("{flags} {}", largest + 1), 2, &[&format!("fits is {largest}")]);
    // All of it fits, with the evaluation.
    machine.train(kind, &format!("--device cuda {flags} {largest}")).succeeds();
    fails_on_the_way(&machine, "free=400000", "--steps 1", 2, &["choose a smaller model, or --device cpu"]);
}

#[test]
fn launches_and_work_that_fail() {
    let machine = Machine::new();
    for (kind, parts) in [
        ("cuLaunchKernel@1=701", &["cuda:0: cannot launch ", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "--device cpu"][..]),
        ("cuGraphLaunch@3=719", &["cuda:0: cannot replay launches: CUDA_ERROR_LAUNCH_FAILED (unspecified"]),
        // A bug in a kernel is seen when the work is waited for, and from then on at every call.
        ("cuStreamSynchronize@9=700", &["cuda:0: cannot finish its work: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal"]),
        ("cuMemcpyDtoHAsync_v2@5=700", &["cuda:0: cannot copy from the GPU: CUDA_ERROR_ILLEGAL_ADDRESS"]),
        ("cuGraphInstantiateWithFlags@1=2", &["cuda:0: cannot record launches: CUDA_ERROR_OUT_OF_MEMORY"]),
    ] {
        fails_on_the_way(&machine, kind, "--steps 20", 4, parts);
        let run = machine.train(kind, "--device auto --steps 20");
        run.ends_with_error(4, parts);
    }
    // Buffers of ten scores make place for those of twenty; what goes wrong there is told by the next call.
    let parts = ["cuda:0: cannot ", "CUDA_ERROR_INVALID_VALUE (invalid argument)"];
    fails_on_the_way(&machine, "cuMemFreeAsync@1=1", "--steps 1 --batch-size 10", 4, &parts);
}

/// Calls that only give something back: where they fail at the end of a run there is nothing more to tell.
const CLOSING: [&str; 8] = [
    "cuDevicePrimaryCtxRelease_v2",
    "cuEventDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
];

#[test]
fn every_call_may_fail() {
    let machine = Machine::new();
    for pools in ["pools=1", "pools=0"] {
        let flags = "--device cuda --steps 3 --eval-every 1 --save @model";
        machine.train(pools, flags).succeeds();
        let calls = machine.calls();
        calls.are_closed();
        let made = calls.counts();
        for (call, &count) in &made {
            assert!(driver::CALLS.contains(call), "{call} is made, and nobody looks whether it is there");
            for nth in BTreeSet::from([1, 2.min(count), count.div_ceil(2), count]) {
                let _ = fs::remove_dir_all(machine.folder.path("model"));
                let run = machine.train(&format!("{pools} {call}@{nth}=999"), flags);
                if run.code == 0 {
                    let closes = CLOSING.contains(call) || (nth > 1 && call.starts_with("cuCtx")) || nth == count;
                    assert!(closes && !run.err.contains("error"), "{call} {nth}: {run:#?}");
                    Checkpoint::load(&machine.folder.path("model")).unwrap();
                } else {
                    run.ends_with_error(4, &["cuda", "code 999 (which"]);
                }
            }
        }
        let alloc = |pools| if pools == "pools=1" { "cuMemAllocAsync" } else { "cuMemAlloc_v2" };
        assert!(made.contains_key(alloc(pools)) && made.len() > 30, "{made:?}");
    }
}

// ---- what a training does ----

#[test]
fn the_calls_of_a_training() {
    let machine = Machine::new();
    let train = |steps: usize| {
        machine
            .train("", &format!("--device cuda --steps {steps} --log-every {steps} --eval-every {} --json", steps / 2))
            .succeeds();
        let calls = machine.calls();
        calls.are_closed();
        assert!(!calls.0.iter().any(|call| call.starts_with("cuEvent")), "events are tracked: {:#?}", calls.counts());
        // One iteration, four and sixteen are recorded; together they are replayed as often as there are steps.
        let recorded: Vec<usize> = calls.launches("cuStreamEndCapture").collect();
        assert_eq!(recorded, [1, 4, 16].map(|iterations| iterations * recorded[0]));
        assert_eq!(calls.launches("cuGraphLaunch").sum::<usize>(), steps * recorded[0]);
        for (call, count) in [("cuGraphUpload", 3), ("cuStreamCreate", 1), ("cuModuleLoadData", 1)] {
            assert_eq!(calls.count(call), count, "{call}");
        }
        // Each split goes up once, as bytes.
        let (validation, test) = (support::VALIDATION, support::TEST);
        for images in [TRAIN - validation, validation, test] {
            let copies = calls.bytes("cuMemcpyHtoDAsync_v2").filter(|bytes| *bytes == images * 28 * 28);
            assert_eq!(copies.count(), 1, "{images} images");
        }
        // Before some steps are asked for, the device's turn is cleared; and that of scoring when it is made room for, for
        // validation images and again for the larger batch.
        let asked = calls.bytes("cuMemsetD8Async").filter(|bytes| *bytes == 4).count() - 2;
        assert!((1..=steps).contains(&asked));
        // Scored are the log's batch, the validation images twice on the way, and two splits at the end.
        let scored = 1 + 2 + 2;
        // Losses and counts of the steps; losses and classes of what is scored; the state at the start.
        assert_eq!(calls.count("cuMemcpyDtoHAsync_v2"), 2 * asked + 2 * scored + 3, "{:#?}", calls.counts());
        // The model at the start, of zeros, and its state; labels beside the images; rows and step sizes of steps; rows
        // of what is scored.
        assert_eq!(calls.count("cuMemcpyHtoDAsync_v2"), 2 * 3 + 3 * 2 + 2 * asked + scored, "{:#?}", calls.counts());
        calls
    };
    let (short, long) = (train(20), train(40));
    for call in ["cuMemAllocAsync", "cuLaunchKernel", "cuMemGetInfo_v2"] {
        assert_eq!(short.count(call), long.count(call), "{call}: it does not grow with the steps");
    }
    assert!(short.count("cuLaunchKernel") > 20 && short.count("cuMemAllocAsync") < 80, "{:#?}", short.counts());
}

/// Iterations of the replays when so many steps are trained at once, of sequences of `t` steps.
fn iterations_of_replays(t: usize, steps: usize) -> Vec<usize> {
    let dims = Dims { t, i: 2, p: 3, h: 4, k: 2 };
    let before = fs::read_to_string(std::env::var_os("STUB_CUDA_LOG").unwrap()).unwrap_or_default().lines().count();
    let spy = Spy { device: Driver::open(0, false).unwrap(), seen: Rc::default() };
    let mut engine = CudaEngine::new(spy, Model::new(dims), Adam::default(), models::dataset(dims, 3)).unwrap();
    engine.set_state(&models::start(dims)).unwrap();
    engine.train_steps(&vec![1; steps * 2], 2).unwrap();
    let log = fs::read_to_string(std::env::var_os("STUB_CUDA_LOG").unwrap()).unwrap();
    let calls = Calls(log.lines().skip(before).map(str::to_owned).collect());
    let of_one = calls.launches("cuStreamEndCapture").next().unwrap();
    let replayed: Vec<usize> = calls.launches("cuGraphLaunch").collect();
    let recorded = calls.launches("cuStreamEndCapture");
    assert_eq!(recorded.max().unwrap(), of_one * engine.iterations_of_a_replay());
    replayed.into_iter().map(|launches| launches / of_one).collect()
}

#[test]
fn many_iterations_are_one_replay() {
    if !Machine::is_within("many_iterations_are_one_replay") {
        return;
    }
    assert_eq!(iterations_of_replays(3, 1), [1]);
    assert_eq!(iterations_of_replays(3, 20), [16, 4]);
    // 64 steps have their rows on the device at once.
    assert_eq!(iterations_of_replays(3, 75), [16, 16, 16, 16, 4, 4, 1, 1, 1]);
    // Two launches for each of 200 steps: sixteen iterations would be too many.
    assert_eq!(iterations_of_replays(200, 20), [4; 5]);
    assert_eq!(iterations_of_replays(600, 2), [1; 2]);
}

#[test]
fn copies_bring_back_what_was_there() {
    let machine = Machine::new();
    machine.train("", "--device cuda --steps 4 --seed 5 --save @model").succeeds();
    let Checkpoint { config, state } = Checkpoint::load(&machine.folder.path("model")).unwrap();
    // No kernel has run.
    assert!(state.parameters == init::parameters(&config.model, Init::Tutorial, 5));
    assert!(state.step == 4 && state.m.iter().chain(&state.v).all(|&number| number == 0.0));
    // And from a checkpoint, to another command.
    machine.train("", "--device cuda --steps 6 --resume @model").succeeds();
    let resumed = Checkpoint::load(&machine.folder.path("model")).unwrap();
    assert!(resumed.state.parameters == state.parameters && resumed.state.step == 6);
    machine.run("", "eval --model @model --device cuda --data-dir @data --offline").succeeds();
    machine.calls().are_closed();
}

// ---- what the driver is given ----

/// An argument, with the allocation that an address is in: its number, its name, and how far from its start.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    Place(usize, &'static str, u64),
    Other(Arg),
}

type Shape = ([u32; 3], [u32; 3], [u32; 3], u32);

/// What a device was told to do.
#[derive(Default)]
struct Seen {
    allocations: Vec<(&'static str, u64, usize)>,
    launches: Vec<(&'static str, Shape, Vec<Given>)>,
    /// As the stand-in writes them down.
    lines: Vec<String>,
}

/// Writes down what a device is told to do.
struct Spy<D> {
    device: D,
    seen: Rc<RefCell<Seen>>,
}

impl<D: Device> Device for Spy<D> {
    type Memory = D::Memory;
    type Graph = D::Graph;

    fn name(&self) -> String {
        self.device.name()
    }

    /// With too little shared memory for kernels that are compiled for one model: there may be no compiler.
    fn limits(&self) -> Result<Limits> {
        Ok(Limits { shared: 0, ..self.device.limits()? })
    }

    fn load(&mut self, kernels: &Specialized) -> Result<()> {
        self.device.load(kernels)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.device.free_bytes()
    }

    fn allocate(&self, name: &'static str, bytes: usize) -> Result<D::Memory> {
        let memory = self.device.allocate(name, bytes)?;
        self.seen.borrow_mut().allocations.push((name, self.device.address(&memory), bytes));
        Ok(memory)
    }

    fn address(&self, memory: &D::Memory) -> u64 {
        self.device.address(memory)
    }

    fn upload(&self, memory: &mut D::Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.device.upload(memory, offset, bytes)
    }

    fn zero(&self, memory: &mut D::Memory, offset: usize, bytes: usize) -> Result<()> {
        self.device.zero(memory, offset, bytes)
    }

    fn download(&self, memory: &D::Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.device.download(memory, offset, bytes)
    }

    #[allow(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Launch { kernel, grid, block, cluster, shared, args, .. } = *launch;
        let mut seen = self.seen.borrow_mut();
        let given = |arg: &Arg| match *arg {
            Arg::Address(address) if address != 0 => {
                // The last one, for memory that was given back may be given out again.
                let holds = |(_, start, bytes): &(_, u64, usize)| (*start..start + *bytes as u64).contains(&address);
                let index = seen.allocations.iter().rposition(holds).expect("it is in memory");
                let (name, start, _) = seen.allocations[index];
                Given::Place(index, name, address - start)
            }
            other => Given::Other(other),
        };
        let given = args.iter().map(given).collect();
        let word = |arg: &Arg| match arg {
            Arg::Address(address) => format!(" address:{address:x}"),
            Arg::I32(value) => format!(" u32:{value:x}"),
            Arg::F32(value) => format!(" f32:{:x}", value.to_bits()),
        };
        let ([x, y, z], [bx, by, bz]) = (grid, block);
        let words: String = args.iter().map(word).collect();
        seen.lines.push(format!("{kernel} {x},{y},{z} {bx},{by},{bz} {shared}{words}"));
        seen.launches.push((kernel, (grid, block, cluster, shared), given));
        // SAFETY: the caller's word.
        unsafe { self.device.launch(launch) }
    }

    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<D::Graph> {
        self.device.capture(work)
    }

    fn launches(&self, graph: &D::Graph) -> Result<usize> {
        self.device.launches(graph)
    }

    fn replay(&self, graph: &D::Graph) -> Result<()> {
        self.device.replay(graph)
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        self.device.time(work)
    }
}

/// What a device is told by engines that train, score, predict and trace: the tutorial's model, and one with everything beyond it.
fn seen<D: Device>(open: impl Fn() -> D) -> Seen {
    let dims = Dims { t: 3, i: 5, p: 9, h: 37, k: 10 };
    let plain = Model::new(dims);
    let dropout = Some(Dropout { rate: 0.25, seed: 3 });
    let larger = Model { layers: 2, bidirectional: true, pool: Pool::Mean, dropout, label_smoothing: 0.1, ..plain };
    let adam = Adam { grad_clip: Some(0.1), ..Adam::default() };
    let decaying = Adam { weight_decay: 0.1, ..adam };
    let padded = models::dataset_of(models::padded(dims, 35), dims.k);
    let mut seen = seen_of(open(), plain, adam, models::dataset(dims, 35));
    let of_larger = seen_of(open(), larger, decaying, padded);
    seen.launches.extend(of_larger.launches);
    seen.allocations.extend(of_larger.allocations);
    seen.lines.extend(of_larger.lines);
    seen
}

fn seen_of<D: Device>(device: D, model: Model, adam: Adam, data: Arc<Dataset>) -> Seen {
    let seen = Rc::<RefCell<Seen>>::default();
    let spy = Spy { device, seen: seen.clone() };
    let mut engine = CudaEngine::new(spy, model, adam, data.clone()).unwrap();
    engine.set_state(&models::start_of(&model)).unwrap();
    let rows: Vec<u32> = (0..35).collect();
    engine.train_steps(&[&rows[..33], &rows[2..]].concat(), 33).unwrap();
    engine.evaluate(fused_lstm::data::Split::Test, &rows[..17]).unwrap();
    engine.predict(&data.train).unwrap();
    engine.trace(&data.train.slice(3, 20)).unwrap();
    drop(engine);
    Rc::into_inner(seen).unwrap().into_inner()
}

#[test]
fn the_driver_is_given_what_the_emulator_runs() {
    if !Machine::is_within("the_driver_is_given_what_the_emulator_runs") {
        return;
    }
    let emulated = seen(|| Emulated::new(kept::ptx(), Default::default()).unwrap());
    let real = seen(|| Driver::open(0, false).unwrap());
    assert!(real.launches.len() > 40, "{}", real.launches.len());
    assert_eq!(real.launches, emulated.launches);
    let kernels: BTreeSet<_> = real.launches.iter().map(|launch| launch.0).collect();
    let missing: Vec<_> = sources::names().into_iter().filter(|name| !kernels.contains(name)).collect();
    assert_eq!(missing, ["gather_bytes"], "kernels that were not launched");
    // The driver gets it in the same order and size.
    let log = fs::read_to_string(std::env::var_os("STUB_CUDA_LOG").unwrap()).unwrap();
    let calls = Calls(log.lines().map(str::to_owned).collect());
    assert_eq!(calls.of("cuLaunchKernel").collect::<Vec<_>>(), real.lines);
    assert!(calls.bytes("cuMemAllocAsync").eq(real.allocations.iter().map(|(_, _, bytes)| *bytes)));
    calls.are_closed();
}

#[test]
fn time_is_taken_between_two_events() {
    if !Machine::is_within("time_is_taken_between_two_events") {
        return;
    }
    let device = Driver::open(0, false).unwrap();
    assert_eq!(device.time(&mut || device.synchronize()).unwrap(), 0.25);
    drop(device);
    let log = fs::read_to_string(std::env::var_os("STUB_CUDA_LOG").unwrap()).unwrap();
    let calls = Calls(log.lines().map(str::to_owned).collect());
    // With a clock, unlike those that only keep order.
    assert_eq!(calls.of("cuEventCreate").collect::<Vec<_>>(), ["flags 0", "flags 0"]);
    assert_eq!((calls.count("cuEventRecord"), calls.count("cuEventElapsedTime")), (2, 1));
    assert!(calls.counts().keys().all(|call| driver::CALLS.contains(call)));
    calls.are_closed();
}

#[test]
#[allow(unsafe_code)]
fn clusters_and_much_shared_memory_are_asked_for() {
    if !Machine::is_within("clusters_and_much_shared_memory_are_asked_for") {
        return;
    }
    {
        let device = Driver::open(0, false).unwrap();
        let turn = Buffer::from_slice(&device, "turn", &[0u32]).unwrap();
        let args = [Arg::Address(turn.all().address())];
        let (grid, block, cluster) = ([8, 2, 1], [1, 1, 1], [4, 2, 1]);
        let launch = Launch { kernel: "advance", grid, block, cluster, shared: 100_000, dependent: false, args: &args };
        // SAFETY: nothing runs on the stand-in.
        unsafe { device.launch(&launch) }.unwrap();
        // SAFETY: likewise.
        unsafe { device.launch(&Launch { cluster: [1; 3], shared: 48 * 1024, ..launch }) }.unwrap();
    }
    let log = fs::read_to_string(std::env::var_os("STUB_CUDA_LOG").unwrap()).unwrap();
    let calls = Calls(log.lines().map(str::to_owned).collect());
    // 8 is CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 4 is CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION.
    assert_eq!(calls.of("cuFuncSetAttribute").collect::<Vec<_>>(), ["advance 8 100000"]);
    assert_eq!(calls.shapes("cuLaunchKernelEx"), ["advance 8,2,1 1,1,1 100000 4=4,2,1"]);
    assert_eq!(calls.count("cuLaunchKernel"), 1);
    calls.are_closed();
}

#[test]
#[allow(unsafe_code)]
fn dependent_launches_are_asked_for_where_gpu_and_driver_have_them() {
    let kinds = ["", "capability=120", "version=12030", "capability=89", "version=12020"];
    if !Machine::is_within_each("dependent_launches_are_asked_for_where_gpu_and_driver_have_them", &kinds) {
        return;
    }
    {
        let device = Driver::open(0, false).unwrap();
        let turn = Buffer::from_slice(&device, "turn", &[0u32]).unwrap();
        let args = [Arg::Address(turn.all().address())];
        let one = [1; 3];
        let launch = Launch {
            kernel: "advance",
            grid: [4, 1, 1],
            block: one,
            cluster: one,
            shared: 0,
            dependent: true,
            args: &args,
        };
        let record = || {
            // SAFETY: nothing runs on the stand-in.
            unsafe { device.launch(&launch) }?;
            // SAFETY: likewise.
            unsafe { device.launch(&Launch { cluster: [2, 1, 1], ..launch.clone() }) }?;
            // SAFETY: likewise.
            unsafe { device.launch(&Launch { dependent: false, ..launch.clone() }) }
        };
        let graph = device.capture(&mut { record }).unwrap();
        assert_eq!(device.launches(&graph).unwrap(), 3);
    }
    let log = fs::read_to_string(std::env::var_os("STUB_CUDA_LOG").unwrap()).unwrap();
    let calls = Calls(log.lines().map(str::to_owned).collect());
    let kind = std::env::var("STUB_CUDA").unwrap();
    // 6 is CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
    let expected = match &*kind {
        "capability=89" | "version=12020" => vec!["advance 4,1,1 1,1,1 0 4=2,1,1"],
        _ => vec!["advance 4,1,1 1,1,1 0 6=1,0,0", "advance 4,1,1 1,1,1 0 4=2,1,1 6=1,0,0"],
    };
    assert_eq!(calls.shapes("cuLaunchKernelEx"), expected, "{kind}");
    assert_eq!(calls.count("cuLaunchKernel"), 3 - expected.len(), "{kind}");
    calls.are_closed();
}
