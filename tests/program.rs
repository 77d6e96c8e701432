//! What the device runs: compiled by NVRTC, taken from the cache, or kept in the program. Needs no GPU.
//!
//! Needs NVRTC (see `fused_lstm::cuda::find`). Where there is none, the tests say that they are skipped, and fail if
//! `REQUIRE_NVRTC` is set. What holds without it is tested in `src/cuda/program.rs` and `src/cuda/cache.rs`.

mod support;

use fused_lstm::Error;
use fused_lstm::cuda::cache::Cache;
use fused_lstm::cuda::find;
use fused_lstm::cuda::program::{Code, Origin, Places, Program};
use fused_lstm::cuda::sources;
use sha2::{Digest, Sha256};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use support::{nvrtc, waited_so_far};
use tempfile::TempDir;

/// Compiles at once, unlike the kernels.
const SMALL: &str = "extern \"C\" __global__ void small(float* x) { x[threadIdx.x] = 1.0f; }\n";

/// A process of its own says this of the program that it loaded.
const SAYS: &str = "loaded: ";

fn load(source: &str, cache: Option<&Cache>, architecture: &str) -> fused_lstm::Result<Program> {
    Program::load_from(&Places { source, search: &find::search(), cache }, architecture)
}

fn is_compiled(program: &Program) -> bool {
    matches!(program.origin, Origin::Compiled { seconds } if seconds > 0.0)
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// The only file of `folder`.
#[track_caller]
fn only_file(folder: &Path) -> PathBuf {
    let names = names(folder);
    assert_eq!(names.len(), 1, "{names:?}");
    folder.join(&names[0])
}

#[test]
fn the_second_load_takes_what_the_first_has_compiled() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let cache = Cache::new(folder.path().join("kernels"));
    let first = load(SMALL, Some(&cache), "sm_90").unwrap();
    assert!(is_compiled(&first) && first.notes.is_empty(), "{first:?}");
    assert!(matches!(&first.code, Code::Cubin(cubin) if cubin.starts_with(b"\x7fELF")));
    let second = load(SMALL, Some(&cache), "sm_90").unwrap();
    assert_eq!(second, Program { origin: Origin::Cache, ..first.clone() });
    assert!(second.compiler.starts_with("NVRTC 1"), "{}", second.compiler);

    for (source, architecture) in [(SMALL, "sm_80"), (&format!("{SMALL} "), "sm_90")] {
        let other = load(source, Some(&cache), architecture).unwrap();
        assert!(is_compiled(&other), "{architecture} {source:?}");
    }
    assert_eq!(names(&folder.path().join("kernels")).len(), 3);
}

#[test]
fn without_a_cache_it_compiles_anew_and_keeps_nothing() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let with = |word| Process::start(folder.path(), "sm_90", word).end();
    assert!(with("anew").origin.starts_with("Compiled"));
    assert_eq!(names(folder.path()), [""; 0], "nothing is kept");
    assert!(with("cache").origin.starts_with("Compiled"));
    let file = only_file(&folder.path().join("kernels"));
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    assert!(with("anew").origin.starts_with("Compiled"), "nothing is read");
    assert_eq!(fs::metadata(only_file(&folder.path().join("kernels"))).unwrap().modified().unwrap(), before);
    assert_eq!(with("cache").origin, "Cache");
}

#[test]
fn a_broken_entry_is_compiled_anew_without_a_word() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let cache = Cache::new(folder.path());
    let first = load(SMALL, Some(&cache), "sm_90").unwrap();
    let file = only_file(folder.path());
    let good = fs::read(&file).unwrap();
    let mut changed = good.clone();
    changed[good.len() / 2] ^= 1;
    for bad in [&good[..good.len() / 2], &changed, b"", b"somebody else's"] {
        fs::write(&file, bad).unwrap();
        let again = load(SMALL, Some(&cache), "sm_90").unwrap();
        assert!(is_compiled(&again) && again.notes.is_empty(), "{again:?}");
        assert_eq!(again.code, first.code);
        assert!(fs::read(&file).unwrap() == good, "the entry is whole again");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_a_note_and_no_error() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let program = load(SMALL, Some(&Cache::new(&file)), "sm_90").unwrap();
    assert!(is_compiled(&program));
    let [note] = &program.notes[..] else { panic!("{:?}", program.notes) };
    assert!(note.contains(file.to_str().unwrap()) && note.contains("not kept"), "{note}");
}

#[test]
fn a_mistake_in_the_kernels_is_an_error_with_the_log_and_is_not_kept() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let wrong = sources::KERNELS.replacen("constexpr int GATES = 4;", "constexpr int GATES = four;", 1);
    for _ in 0..2 {
        let error = load(&wrong, Some(&Cache::new(folder.path())), "sm_90").unwrap_err();
        assert!(matches!(&error, Error::Failed(log) if log.contains("kernels/lstm.cu(") && log.contains("four")));
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn an_architecture_that_nvrtc_does_not_know_gets_the_kept_kernels() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let program = load(sources::KERNELS, Some(&Cache::new(folder.path())), "sm_999").unwrap();
    assert!(program.origin == Origin::Kept && matches!(program.code, Code::Ptx(_)), "{:?}", program.origin);
    let [note] = &program.notes[..] else { panic!("{:?}", program.notes) };
    assert!(note.contains("does not compile for sm_999") && note.contains("kept"), "{note}");
    assert_eq!(names(folder.path()), [""; 0]);
    let error = load(sources::KERNELS, None, "sm_20").unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("sm_75 and newer"), "{error}");
}

// ---- in processes of their own ----

/// A process that loads the kernels as [`Program::load`] does.
struct Process(Child);

/// What it says.
struct Loaded {
    origin: String,
    /// From before the load to after it.
    seconds: f64,
    /// Of these, spent waiting for a core that other processes had.
    waited: f64,
    code_hash: String,
    /// Whether NVRTC's library was opened, where the system tells.
    opened: Option<bool>,
}

impl Process {
    /// With its cache in `folder`; `word` is `cache` or `anew`.
    fn start(folder: &Path, architecture: &str, word: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "process", "--nocapture"]).stdout(Stdio::piped());
        command.env("FUSED_LSTM_CACHE", folder).env("TEST_LOAD", format!("{architecture} {word}"));
        Self(command.spawn().unwrap())
    }

    #[track_caller]
    fn end(self) -> Loaded {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        let words = text.split_once(SAYS).expect("it says what it loaded").1.lines().next().unwrap();
        let [origin, seconds, waited, code_hash, opened] = words.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{words}")
        };
        Loaded {
            origin: origin.into(),
            seconds: seconds.parse().unwrap(),
            waited: waited.parse().unwrap(),
            code_hash: code_hash.into(),
            opened: opened.parse().ok(),
        }
    }
}

#[test]
#[ignore = "the others run it, in a process of its own"]
fn process() {
    let Ok(words) = env::var("TEST_LOAD") else { return };
    let (architecture, word) = words.split_once(' ').unwrap();
    let (started, waited) = (Instant::now(), waited_so_far());
    let program = Program::load(architecture, word == "cache").unwrap();
    let (seconds, waited) = (started.elapsed().as_secs_f64(), waited_so_far() - waited);
    let origin = format!("{:?}", program.origin).replace(' ', "");
    let Code::Cubin(cubin) = program.code else { panic!("{:?}", program.notes) };
    let hash: String = Sha256::digest(cubin).iter().map(|byte| format!("{byte:02x}")).collect();
    let opened = fs::read_to_string("/proc/self/maps").map(|maps| maps.contains("libnvrtc").to_string());
    println!("{SAYS}{origin} {seconds} {waited} {hash} {}", opened.unwrap_or("unknown".into()));
}

#[test]
fn processes_that_start_at_once_all_get_the_same_and_leave_one_entry() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let entries = folder.path().join("kernels");
    for round in ["no entry", "a broken entry"] {
        let processes: Vec<_> = (0..4).map(|_| Process::start(folder.path(), "sm_90", "cache")).collect();
        let loaded: Vec<_> = processes.into_iter().map(Process::end).collect();
        assert!(loaded.iter().any(|loaded| loaded.origin.starts_with("Compiled")), "{round}");
        assert!(loaded.iter().all(|other| other.code_hash == loaded[0].code_hash), "{round}");
        let file = only_file(&entries);
        let next = Process::start(folder.path(), "sm_90", "cache").end();
        assert_eq!((next.origin.as_str(), &next.code_hash), ("Cache", &loaded[0].code_hash), "{round}");
        fs::write(&file, "broken").unwrap();
    }
}

#[test]
fn a_warm_start_does_not_open_nvrtc() {
    if nvrtc().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let cold = Process::start(folder.path(), "sm_90", "cache").end();
    let warm = Process::start(folder.path(), "sm_90", "cache").end();
    assert!(cold.opened != Some(false) && warm.opened != Some(true), "{:?} {:?}", cold.opened, warm.opened);
}

/// The release build's limits, for the best of a few turns, without what it waited for other processes to leave a core.
#[test]
fn a_cold_start_takes_seconds_and_a_warm_one_milliseconds() {
    if cfg!(debug_assertions) {
        println!("skipped: a debug build's speed means nothing");
        return;
    }
    if nvrtc().is_none() {
        return;
    }
    for architecture in ["sm_75", "sm_90", "sm_120"] {
        let folders: Vec<_> = (0..5).map(|_| TempDir::new().unwrap()).collect();
        for (origin, most) in [("Compiled", 2.5), ("Cache", 0.05)] {
            let loaded = folders.iter().map(|folder| Process::start(folder.path(), architecture, "cache").end());
            let loaded: Vec<_> = loaded.collect();
            assert!(loaded.iter().all(|loaded| loaded.origin.starts_with(origin)), "{architecture}");
            let sorted = |seconds: &dyn Fn(&Loaded) -> f64| {
                let mut sorted: Vec<_> = loaded.iter().map(seconds).collect();
                sorted.sort_by(f64::total_cmp);
                sorted
            };
            let (whole, own) = (sorted(&|l| l.seconds), sorted(&|l| l.seconds - l.waited));
            println!("{architecture} {origin}: median {:.4} s, {:.4} s of them its own", whole[2], own[2]);
            assert!(own[0] < most, "{architecture} {origin}: {own:?} s");
        }
    }
}
