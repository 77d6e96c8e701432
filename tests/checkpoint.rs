//! Checkpoints: what is saved is what was trained, whatever kills, stops or hinders the run; and what is no checkpoint is
//! refused in one line.

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::engine::{Model, State};
use fused_lstm::error::Error;
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use rand::RngExt;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FILES: [&str; 3] = ["model.safetensors", "state.safetensors", "config.json"];
/// Training images of the tiny data set, those for validation left out: no multiple of the batch size.
const TRAIN: u64 = 55;
const BATCH: u64 = 8;

/// A folder with tiny data in MNIST's form, and room for checkpoints beside it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        for (part, n) in [("train", 60), ("t10k", 24)] {
            let pixels: Vec<u8> = (0..n * 9u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            // What is to be learned: how bright the first pixel is.
            let labels: Vec<u8> = pixels.chunks(9).map(|image| image[0] / 26).collect();
            fs::write(data.join(format!("{part}-images-idx3-ubyte")), idx(&[n, 3, 3], &pixels)).unwrap();
            fs::write(data.join(format!("{part}-labels-idx1-ubyte")), idx(&[n], &labels)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, quiet, on the tiny data.
    fn program(&self, command: &str, args: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_fused-lstm"));
        program.args([command, "--threads", "1", "--progress", "none"]).args(args);
        program.current_dir(self.dir.path()).env("FUSED_LSTM_DATA_DIR", self.path("data"));
        program.env("FUSED_LSTM_DEVICE", "cpu");
        program
    }

    /// A new training of a tiny model.
    fn training(&self, args: &[&str]) -> Command {
        let mut program = self.program("train", &["--hidden", "16", "--batch-size", "8", "--seed", "3"]);
        program.args(args);
        program
    }

    fn train(&self, args: &[&str]) {
        succeeds(&mut self.training(args));
    }

    fn resume(&self, args: &[&str]) {
        succeeds(&mut self.program("train", args));
    }

    fn files(&self, folder: &str) -> [Vec<u8>; 3] {
        FILES.map(|file| fs::read(self.path(folder).join(file)).unwrap())
    }

    fn load(&self, folder: &str) -> Checkpoint {
        Checkpoint::load(&self.path(folder)).unwrap()
    }

    /// Names of everything in a folder, in order.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn idx(sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(content);
    bytes
}

fn succeeds(program: &mut Command) -> String {
    let output = program.output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asserts that the program ended with `code` and one line that says each of `words`; gives the line.
fn refused(output: &Output, code: i32, words: &[&str]) -> String {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert!(line.starts_with("error: ") && line.trim_end().lines().count() == 1, "{line}");
    assert!(line.split_once("; ").is_some_and(|(_, remedy)| remedy.len() > 10), "no remedy: {line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    line
}

fn fails(program: &mut Command, code: i32, words: &[&str]) -> String {
    refused(&program.output().unwrap(), code, words)
}

/// A checkpoint as a program would make it, with numbers that are all different.
fn checkpoint(dims: Dims, seed: u64) -> Checkpoint {
    let model = Model::new(dims);
    let count = model.layout().len();
    let numbers = |scale: f32| (0..count).map(|at| (at as f32 + 0.1) * scale).collect();
    let state = State {
        parameters: init::parameters(&Model::new(dims), Init::Tutorial, seed),
        m: numbers(-1e-3),
        v: numbers(1e-30),
        step: 5,
    };
    let adam = Adam { grad_clip: Some(2.5), learning_rate: 0.1 + 0.2, ..Adam::default() };
    let (init, data) = (Init::Xavier, "mnist".into());
    Checkpoint {
        config: Config { model, adam, init, seed, batch_size: 7, data, train_sequences: 100, own: None },
        state,
    }
}

const DIMS: Dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 6 };

// ---- what is in the files

#[test]
fn what_is_loaded_is_what_was_saved() {
    let place = Place::new();
    let mut saved = checkpoint(DIMS, 1);
    saved.state.parameters[0] = -0.0;
    saved.state.parameters[1] = f32::MIN_POSITIVE / 2.0;
    saved.state.parameters[2] = f32::MAX;
    saved.save(&place.path("a")).unwrap();
    let loaded = place.load("a");
    assert_eq!(loaded, saved);
    let bits = |state: &State| state.parameters.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&loaded.state), bits(&saved.state), "-0.0 equals 0.0, its bits do not");
    let (config, parameters) = Checkpoint::load_model(&place.path("a")).unwrap();
    assert_eq!((config, parameters), (saved.config, saved.state.parameters));
}

#[test]
fn the_model_file_holds_the_named_tensors() {
    let place = Place::new();
    let saved = checkpoint(DIMS, 1);
    saved.save(&place.path("a")).unwrap();
    let [model, state, _] = place.files("a");
    let model = SafeTensors::deserialize(&model).unwrap();
    let expected: [(&str, &[usize]); 7] = [
        ("w_in", &[3, 4]),
        ("b_in", &[4]),
        ("w_x", &[4, 20]),
        ("w_h", &[5, 20]),
        ("b", &[20]),
        ("w_out", &[5, 6]),
        ("b_out", &[6]),
    ];
    assert_eq!(model.names().len(), expected.len());
    let layout = Model::new(DIMS).layout();
    let values = layout.view(&saved.state.parameters).into_vec();
    for ((name, shape), values) in expected.into_iter().zip(values) {
        let tensor = model.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, shape), "{name}");
        assert_eq!(tensor.data(), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(), "{name}");
    }
    let state = SafeTensors::deserialize(&state).unwrap();
    assert_eq!(state.names().len(), 2 * expected.len());
    for (name, shape) in expected {
        for prefix in ["m", "v"] {
            assert_eq!(state.tensor(&format!("{prefix}.{name}")).unwrap().shape(), shape);
        }
    }
}

#[test]
fn the_same_run_writes_the_same_bytes() {
    let place = Place::new();
    place.train(&["--steps", "12", "--save", "a"]);
    place.train(&["--steps", "12", "--save", "b", "--save-every", "5", "--log-every", "3", "--eval-every", "4"]);
    assert_eq!(place.files("a"), place.files("b"));
    assert_eq!(place.names("a"), ["config.json", "model.safetensors", "state.safetensors"]);
    assert_eq!(place.names("."), ["a", "b", "data"], "nothing lies about beside the checkpoints");
    place.train(&["--steps", "12", "--save", "c", "--lr", "0.002"]);
    assert_ne!(place.files("a"), place.files("c"));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let place = Place::new();
    let mut seen: Option<([Vec<u8>; 3], Value)> = None;
    for threads in ["1", "2", "3", "8"] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_fused-lstm"));
        run.args(["train", "--device", "cpu", "--threads", threads, "--hidden", "33", "--batch-size", "53"]);
        run.args(["--steps", "9", "--save", threads, "--quiet"]).current_dir(place.dir.path());
        succeeds(run.env("FUSED_LSTM_DATA_DIR", "data"));
        let mut eval = Command::new(env!("CARGO_BIN_EXE_fused-lstm"));
        eval.args(["eval", "--device", "cpu", "--threads", threads, "--model", threads, "--json"]);
        eval.args(["--split", "train"]).current_dir(place.dir.path());
        let mut scores: Value = serde_json::from_str(&succeeds(eval.env("FUSED_LSTM_DATA_DIR", "data"))).unwrap();
        for key in ["seconds", "device"] {
            assert!(scores.as_object_mut().unwrap().remove(key).is_some());
        }
        let now = (place.files(threads), scores);
        assert!(*seen.get_or_insert_with(|| now.clone()) == now, "{threads} threads");
    }
}

// ---- going on

#[test]
fn a_resumed_run_ends_with_the_bits_of_the_uninterrupted_one() {
    let place = Place::new();
    // Step 7 takes the last 7 images of the first epoch and 1 of the second.
    const { assert!(6 * BATCH < TRAIN && 7 * BATCH > TRAIN) };
    for (name, clip) in [("plain", &[][..]), ("clipped", &["--grad-clip", "0.05"])] {
        place.train(&[&["--steps", "23", "--save", name], clip].concat());
        let whole = place.files(name);
        for cut in ["1", "6", "7", "13", "20", "22"] {
            let folder = format!("{name}-{cut}");
            place.train(&[&["--steps", cut, "--save", &folder, "--log-every", "5"], clip].concat());
            assert_ne!(place.files(&folder), whole);
            place.resume(&["--resume", &folder, "--steps", "23", "--log-every", "4"]);
            assert!(place.files(&folder) == whole, "{name}, cut after step {cut}");
        }
    }
    assert_ne!(place.files("plain")[0], place.files("clipped")[0], "the clip has done something");
}

#[test]
fn a_resumed_run_can_save_elsewhere() {
    let place = Place::new();
    place.train(&["--steps", "9", "--save", "whole"]);
    place.train(&["--steps", "4", "--save", "a"]);
    let before = place.files("a");
    place.resume(&["--resume", "a", "--save", "b/c", "--steps", "9"]);
    assert_eq!(place.files("a"), before);
    assert_eq!(place.files("b/c"), place.files("whole"));
    // Even if there is nothing left to do.
    place.resume(&["--resume", "a", "--save", "d", "--steps", "4"]);
    assert_eq!(place.files("d"), before);
}

#[test]
fn what_would_be_another_run_is_refused() {
    let place = Place::new();
    place.train(&["--steps", "4", "--save", "a", "--lr", "0.002"]);
    let before = place.files("a");
    let resume = |args: &[&str]| place.program("train", &[&["--resume", "a", "--steps", "6"], args].concat());
    for (flags, words) in [
        (["--hidden", "17"], ["hidden 16", "hidden 17"]),
        (["--seed", "4"], ["seed 3", "seed 4"]),
        (["--batch-size", "9"], ["batch 8", "batch 9"]),
        (["--init", "xavier"], ["init tutorial", "init xavier"]),
        (["--forget-bias", "0.5"], ["forget bias 1", "forget bias 0.5"]),
    ] {
        fails(&mut resume(&flags), 5, &[&words[..], &["leave the flags out"]].concat());
    }
    // Other data of the same form.
    fs::create_dir(place.path("other")).unwrap();
    for (part, n) in [("train", 48), ("t10k", 4)] {
        let pixels = vec![9; n as usize * 9];
        fs::write(place.path(&format!("other/{part}-images-idx3-ubyte")), idx(&[n, 3, 3], &pixels)).unwrap();
        fs::write(place.path(&format!("other/{part}-labels-idx1-ubyte")), idx(&[n], &vec![1; n as usize])).unwrap();
    }
    let other = place.path("other");
    fails(resume(&[]).env("FUSED_LSTM_DATA_DIR", other), 5, &["55 sequences", "44 sequences"]);

    fails(&mut place.program("train", &["--resume", "a", "--steps", "3"]), 2, &["--steps 3", "done 4 already"]);
    assert_eq!(place.files("a"), before, "nothing of all this has touched the checkpoint");

    // The learning rate may change, and is kept.
    succeeds(&mut resume(&["--lr", "0.005"]));
    assert_eq!(place.load("a").config.adam.learning_rate, 0.005);
    place.resume(&["--resume", "a", "--steps", "7"]);
    let resumed = place.load("a");
    assert_eq!((resumed.config.adam.learning_rate, resumed.state.step), (0.005, 7));
}

// ---- kills

/// What a run of the tiny model holds after each of `steps` steps.
fn states(place: &Place, steps: u64) -> Vec<State> {
    use fused_lstm::{cpu::CpuEngine, data::batches::Order, data::mnist, engine::Engine};
    place.train(&["--steps", "1", "--save", "first"]);
    let config = place.load("first").config;
    fs::remove_dir_all(place.path("first")).unwrap();
    let data = std::sync::Arc::new(mnist::load(&place.path("data")).unwrap());
    let mut engine = CpuEngine::new(config.model, config.adam, data, 1).unwrap();
    engine.set_state(&State::new(init::parameters(&config.model, config.init, config.seed))).unwrap();
    let mut order = Order::new(TRAIN as usize, config.seed);
    let step = |step| {
        engine.train_steps(&order.rows(step * BATCH, BATCH as usize), BATCH as usize).unwrap();
        engine.state().unwrap()
    };
    (0..steps).map(step).collect()
}

#[test]
fn two_hundred_kills_lose_nothing() {
    const STEPS: u64 = 300;
    let place = Place::new();
    let states = states(&place, STEPS);
    let steps = STEPS.to_string();
    let started = Instant::now();
    place.train(&["--steps", &steps, "--save", "whole", "--save-every", "1"]);
    let life = started.elapsed().min(Duration::from_millis(220));
    let whole = place.files("whole");

    let mut random = init::generator(9, 0);
    let (mut kills, mut starts, mut in_saving, mut in_moving, mut ends) = (0, 0, 0, 0, 0);
    while kills < 200 {
        starts += 1;
        assert!(starts < 2000, "the program ends before it can be killed");
        let begin = if place.path("a").exists() { "--resume" } else { "--save" };
        let mut program = match begin {
            "--save" => place.training(&["--save", "a"]),
            _ => place.program("train", &["--resume", "a"]),
        };
        program.args(["--steps", &steps, "--save-every", "1", "--quiet"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut run = program.spawn().unwrap();
        std::thread::sleep(life.mul_f64(random.random()));
        run.kill().unwrap();
        let output = run.wait_with_output().unwrap();
        if let Some(code) = output.status.code() {
            assert_eq!(code, 0, "{}", String::from_utf8_lossy(&output.stderr));
        } else {
            kills += 1;
        }
        if !place.path("a").exists() {
            continue;
        }
        let names = place.names("a");
        in_saving += u32::from(names.iter().any(|name| name.starts_with(".saving-")));
        in_moving += u32::from(names.iter().any(|name| name == ".saved"));
        let saved = place.load("a").state;
        assert!(saved == states[saved.step as usize - 1], "step {} is not as it was", saved.step);
        if kills % 20 == 0 {
            succeeds(&mut place.program("eval", &["--model", "a"]));
        }
        if saved.step == STEPS && output.status.success() {
            assert!(place.files("a") == whole);
            assert_eq!(place.names("a").len(), 3, "what the kills had left is cleared away");
            fs::remove_dir_all(place.path("a")).unwrap();
            ends += 1;
        }
    }
    println!(
        "{kills} kills in {starts} runs: {in_saving} in writing, {in_moving} in moving; {ends} runs came to their end"
    );
    assert!(in_saving >= 10, "the kills hardly ever met the program at saving: {in_saving} of {kills}");
    if place.path("a").exists() {
        place.resume(&["--resume", "a", "--steps", &steps]);
        assert!(place.files("a") == whole);
    }
    assert_eq!(place.names(".").iter().filter(|name| name.starts_with('.')).count(), 0);
}

/// Every state that a kill can leave between the moment that makes a new checkpoint valid and its last file's arrival.
#[test]
fn a_kill_while_the_files_move_leaves_the_new_checkpoint() {
    let place = Place::new();
    place.train(&["--steps", "9", "--save", "whole"]);
    place.train(&["--steps", "3", "--save", "old"]);
    place.train(&["--steps", "5", "--save", "new"]);
    let (old, new) = (place.files("old"), place.files("new"));
    // In whatever order they moved: two runs may have moved them at once.
    for moved in 0..8 {
        let lay_out = |folder: &str| {
            fs::create_dir_all(place.path(folder).join(".saved")).unwrap();
            fs::create_dir_all(place.path(folder).join(".saving-1")).unwrap();
            fs::write(place.path(folder).join(".saving-1/model.safetensors"), "half").unwrap();
            for (n, file) in FILES.into_iter().enumerate() {
                let done = moved >> n & 1 == 1;
                fs::write(place.path(folder).join(file), if done { &new[n] } else { &old[n] }).unwrap();
                if !done {
                    fs::write(place.path(folder).join(".saved").join(file), &new[n]).unwrap();
                }
            }
        };
        let folder = format!("left-{moved}");
        lay_out(&folder);
        let left = place.names(&folder);
        assert_eq!(place.load(&folder), place.load("new"), "{moved:03b}");
        let score = |model: &str| succeeds(&mut place.program("eval", &["--model", model, "--quiet"]));
        assert_eq!(score(&folder), score("new"));
        assert_eq!(place.names(&folder), left, "reading changes nothing");
        place.resume(&["--resume", &folder, "--steps", "9"]);
        assert_eq!(place.files(&folder), place.files("whole"));
        assert_eq!(place.names(&folder).len(), 3);

        lay_out(&folder);
        Checkpoint::prepare(&place.path(&folder)).unwrap();
        assert_eq!(place.files(&folder), new);
        assert_eq!(place.names(&folder).len(), 3);

        lay_out(&folder);
        place.load("old").save(&place.path(&folder)).unwrap();
        assert_eq!(place.files(&folder), old);
    }
}

#[test]
fn what_a_kill_before_the_first_checkpoint_left_is_cleared_away() {
    let place = Place::new();
    for left in [".a.saving-1", ".a.saving-77"] {
        fs::create_dir(place.path(left)).unwrap();
        fs::write(place.path(left).join("model.safetensors"), "half").unwrap();
    }
    fs::create_dir(place.path(".b.saving-1")).unwrap();
    place.train(&["--steps", "1", "--save", "a/"]);
    assert_eq!(place.names("."), [".b.saving-1", "a", "data"]);
}

#[test]
fn a_checkpoint_can_be_read_at_any_time_of_a_run() {
    let place = Place::new();
    let states = states(&place, 300);
    let mut program = place.training(&["--steps", "300", "--save", "a", "--save-every", "1", "--quiet"]);
    let mut run = program.stdout(Stdio::null()).spawn().unwrap();
    let (mut reads, mut mixed) = (0, 0);
    while run.try_wait().unwrap().is_none() {
        match Checkpoint::load(&place.path("a")) {
            Ok(read) => assert!(read.state == states[read.state.step as usize - 1]),
            Err(e) if reads == 0 => assert!(e.to_string().contains("no such folder"), "{e}"),
            // Two saves overtook two looks: it is told, and nothing wrong is read.
            Err(e) => {
                assert!(e.to_string().contains("does not belong"), "{e}");
                mixed += 1;
            }
        }
        reads += u32::from(place.path("a").exists());
        Checkpoint::load_model(&place.path("a")).map_or_else(|e| assert!(reads == 0, "{e}"), drop);
    }
    println!("{reads} reads, {mixed} of them between two saves");
    assert!(mixed * 5 <= reads);
}

/// It makes no sense, but must not make a checkpoint of both.
#[test]
fn two_runs_that_save_to_one_folder_do_not_mix_their_files() {
    let place = Place::new();
    place.train(&["--steps", "1", "--save", "a"]);
    for _ in 0..3 {
        let start = |lr| {
            let mut program =
                place.program("train", &["--resume", "a", "--lr", lr, "--steps", "1000", "--save-every", "1"]);
            program.arg("--quiet").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let runs = ["0.001", "0.002"].map(start);
        std::thread::sleep(Duration::from_millis(300));
        for mut run in runs {
            run.kill().unwrap();
            let output = run.wait_with_output().unwrap();
            // One may have given up, but with a word about it.
            if output.status.code().is_some() {
                refused(&output, 1, &["choose another folder"]);
            }
        }
        place.load("a");
    }
}

// ---- where it is saved

#[test]
fn other_files_stay_and_others_folders_are_refused() {
    let place = Place::new();
    fs::create_dir_all(place.path("notes/deep")).unwrap();
    fs::write(place.path("notes/todo.txt"), "important").unwrap();
    let words = ["--save notes", "holds other files and no checkpoint", "choose"];
    fails(&mut place.training(&["--steps", "1", "--save", "notes"]), 2, &words);
    assert_eq!(place.names("notes"), ["deep", "todo.txt"]);

    // A model of another program that happens to have the same file names.
    fs::create_dir(place.path("foreign")).unwrap();
    fs::write(place.path("foreign/config.json"), r#"{"hidden_size": 768}"#).unwrap();
    fs::write(place.path("foreign/model.safetensors"), "theirs").unwrap();
    fails(&mut place.training(&["--steps", "1", "--save", "foreign"]), 2, &["--save foreign"]);
    assert_eq!(fs::read(place.path("foreign/model.safetensors")).unwrap(), b"theirs");

    place.train(&["--steps", "2", "--save", "a"]);
    fs::write(place.path("a/todo.txt"), "important").unwrap();
    fs::create_dir(place.path("a/deep")).unwrap();
    place.resume(&["--resume", "a", "--steps", "6", "--save-every", "1"]);
    assert_eq!(place.names("a"), ["config.json", "deep", "model.safetensors", "state.safetensors", "todo.txt"]);
    assert_eq!(fs::read(place.path("a/todo.txt")).unwrap(), b"important");
    assert_eq!(place.load("a").state.step, 6);
}

#[test]
fn any_name_of_a_folder_will_do() {
    let place = Place::new();
    place.train(&["--steps", "2", "--save", "whole"]);
    let absolute = place.path("absolute");
    fs::create_dir(place.path("empty")).unwrap();
    for folder in ["slash/", "./dot/.", "deep/er/est", "empty", "up/../up/it", "a b\u{e9}", absolute.to_str().unwrap()]
    {
        place.train(&["--steps", "1", "--save", folder]);
        place.resume(&["--resume", folder, "--steps", "2"]);
        assert!(place.files(folder) == place.files("whole"), "{folder}");
        assert_eq!(place.names(folder).len(), 3, "{folder}");
    }
    // The folder that the user stands in.
    let here = place.path("here");
    fs::create_dir(&here).unwrap();
    let mut run = place.training(&["--steps", "2", "--save", ".", "--save-every", "1"]);
    succeeds(run.current_dir(&here));
    assert_eq!(place.files("here"), place.files("whole"));
    fails(&mut place.training(&["--steps", "1", "--save", "missing/.."]), 2, &["--save missing/..", "no such folder"]);
    assert_eq!(Checkpoint::prepare("".as_ref()).unwrap_err().exit_code(), 2);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_stays_a_link() {
    let place = Place::new();
    fs::create_dir(place.path("big-disk")).unwrap();
    std::os::unix::fs::symlink("big-disk", place.path("link")).unwrap();
    place.train(&["--steps", "3", "--save", "link", "--save-every", "1"]);
    assert!(place.path("link").symlink_metadata().unwrap().is_symlink());
    assert_eq!(place.names("big-disk").len(), 3);
    assert_eq!(place.load("link").state.step, 3);
    std::os::unix::fs::symlink("nowhere", place.path("dangling")).unwrap();
    fails(&mut place.training(&["--steps", "1", "--save", "dangling"]), 2, &["--save dangling", "not a folder"]);
    assert_eq!(place.names("."), ["big-disk", "dangling", "data", "link"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_told_before_training() {
    let place = Place::new();
    fs::write(place.path("file"), "important").unwrap();
    fails(&mut place.training(&["--save", "file"]), 2, &["--save file", "not a folder", "choose"]);
    fails(&mut place.training(&["--save", "file/a"]), 1, &["file/.a.saving-", "cannot create the folder", "choose"]);
    assert_eq!(fs::read(place.path("file")).unwrap(), b"important");
    if cfg!(target_os = "linux") {
        fails(&mut place.training(&["--save", "/proc/a"]), 1, &["/proc/.a.saving-", "cannot create the folder"]);
    }
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_told_before_training() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.train(&["--steps", "1", "--save", "a"]);
    let before = place.files("a");
    let allow = |mode| fs::set_permissions(place.path("a"), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o555);
    if fs::write(place.path("a/probe"), "").is_ok() {
        println!("skipped: this user may write to read-only folders");
        return;
    }
    fails(&mut place.program("train", &["--resume", "a", "--steps", "2"]), 1, &["a/.saving-", "cannot create"]);
    fails(&mut place.training(&["--save", "a/b", "--steps", "2"]), 1, &["a/.b.saving-", "cannot create"]);
    succeeds(&mut place.program("eval", &["--model", "a"]));
    assert_eq!(place.files("a"), before);
    allow(0o755);
}

/// A limit of the size of files makes writing fail in the middle, as a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let place = Place::new();
    place.train(&["--steps", "3", "--save", "a"]);
    let before = place.files("a");
    let limited = |blocks: &str, program: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f $0; exec \"$@\"", blocks]).arg(program.get_program());
        shell
            .args(program.get_args())
            .current_dir(place.dir.path())
            .envs([("FUSED_LSTM_DATA_DIR", "data"), ("FUSED_LSTM_DEVICE", "cpu")])
            .output()
            .unwrap()
    };
    let mut said = String::new();
    // Blocks are 512 bytes or 1024; the model has about 10 kB and the state 20.
    for blocks in ["3", "6", "13", "26"] {
        let output = limited(blocks, &place.program("train", &["--resume", "a", "--steps", "4", "--save", "a"]));
        if blocks == "26" && output.status.success() {
            break;
        }
        said += &refused(&output, 1, &["a/.saving-", ".safetensors: cannot write: File too large", "free some space"]);
        assert_eq!(place.files("a"), before);
        assert_eq!(place.names("a").len(), 3, "nothing half-written stays");
    }
    assert!(said.contains("model.safetensors") && said.contains("state.safetensors"), "{said}");
    let output = limited("13", &place.training(&["--save", "b", "--steps", "4"]));
    refused(&output, 1, &["./.b.saving-", "File too large"]);
    assert_eq!(place.names("."), ["a", "data"]);
    // Not even the smallest file fits: told before training.
    refused(&limited("0", &place.training(&["--save", "b"])), 1, &["config.json: cannot write: File too large"]);
    assert_eq!(place.names("."), ["a", "data"]);
}

// ---- stopping

#[cfg(unix)]
mod stopped {
    use super::*;

    fn signal(name: &str, run: &Child) {
        assert!(Command::new("kill").args(["-s", name, &run.id().to_string()]).status().unwrap().success());
    }

    /// Starts a run without end, and waits until it has trained for a while.
    fn endless(program: &mut Command) -> (Child, BufReader<std::process::ChildStdout>) {
        program.args(["--steps", "100000000", "--log-every", "1", "--json"]);
        let mut run = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(run.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("\"step\":11") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended");
        }
        (run, out)
    }

    /// Reads the rest, so that the run is not held up, and waits for its end.
    fn end(run: Child, mut out: BufReader<std::process::ChildStdout>) -> Output {
        std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        run.wait_with_output().unwrap()
    }

    #[test]
    fn a_signal_saves_and_the_run_can_go_on() {
        let place = Place::new();
        for name in ["INT", "TERM"] {
            let (run, out) = endless(&mut place.training(&["--save", name]));
            signal(name, &run);
            let line = refused(&end(run, out), 130, &["interrupted after step", &format!("--resume {name}")]);
            let step = place.load(name).state.step;
            assert!(step >= 11 && line.contains(&format!("after step {step};")), "{line}");
            let steps = (step + 5).to_string();
            place.train(&["--steps", &steps, "--save", &format!("whole-{name}")]);
            place.resume(&["--resume", name, "--steps", &steps]);
            assert_eq!(place.files(name), place.files(&format!("whole-{name}")));
        }
    }

    #[test]
    fn without_a_folder_it_says_that_nothing_was_saved() {
        let place = Place::new();
        let (run, out) = endless(&mut place.training(&[]));
        signal("INT", &run);
        refused(&end(run, out), 130, &["nothing was saved", "--save"]);
        assert_eq!(place.names("."), ["data"]);
    }

    #[test]
    fn a_second_signal_ends_it_at_once() {
        let place = Place::new();
        let (mut run, out) = endless(&mut place.training(&["--save", "a", "--save-every", "1"]));
        // Nobody reads its output any more: once the pipe is full, it hangs and cannot see the first signal.
        let mut step = 0;
        while place.load("a").state.step != step {
            step = place.load("a").state.step;
            std::thread::sleep(Duration::from_millis(400));
        }
        signal("INT", &run);
        std::thread::sleep(Duration::from_millis(300));
        assert!(run.try_wait().unwrap().is_none(), "the first signal alone does not end it");
        signal("INT", &run);
        let sent = Instant::now();
        while run.try_wait().unwrap().is_none() && sent.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Without a reader it ends, if nothing else has ended it.
        drop(out);
        assert_eq!(run.wait().unwrap().code(), Some(130));
        assert_eq!(place.load("a").state.step, step);
    }
}

// ---- divergence

#[test]
fn a_run_that_diverges_keeps_the_last_good_checkpoint() {
    let place = Place::new();
    place.train(&["--steps", "6", "--save", "good"]);
    let number = |line: &str, before: &str| -> u64 {
        let rest = line.split(before).nth(1).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    for every in ["1", "7", "500"] {
        let args = ["--resume", "good", "--save", every, "--lr", "1e37", "--steps", "500", "--save-every", every];
        place.resume(&["--resume", "good", "--save", every, "--steps", "6"]);
        let words = ["the loss became", "smaller --lr", &format!("in {every} is kept")];
        let line = fails(&mut place.program("train", &args), 6, &words);
        let (bad, kept) = (number(&line, "at step "), number(&line, "the checkpoint of step "));
        assert!((7..=27).contains(&bad) && (6..bad).contains(&kept), "{line}");
        let State { parameters, m, v, step } = place.load(every).state;
        assert_eq!(step, kept);
        assert!([parameters, m, v].concat().iter().all(|number| number.is_finite()));
        succeeds(&mut place.program("eval", &["--model", every]));
    }
    assert_eq!(place.files("500"), place.files("good"));
    // From the start: there is no good checkpoint, and no other.
    let line = fails(&mut place.training(&["--lr", "1e38", "--save", "b", "--save-every", "1"]), 6, &["smaller --lr"]);
    assert!(!line.contains("kept") && !place.path("b").exists(), "{line}");
}

// ---- what is no checkpoint

/// A file's bytes changed, and what the message must say.
type Damage = (&'static str, &'static str, Box<dyn Fn(Vec<u8>) -> Option<Vec<u8>>>, &'static str);

fn damage(
    file: &'static str,
    what: &'static str,
    change: impl Fn(Vec<u8>) -> Option<Vec<u8>> + 'static,
    says: &'static str,
) -> Damage {
    (file, what, Box::new(change), says)
}

/// Replaces text in a safetensors file's header, or in all of a text file, keeping its length.
fn replaced(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Option<Vec<u8>> {
    assert_eq!(from.len(), to.len());
    move |mut bytes| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("the text is there");
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        Some(bytes)
    }
}

/// Sets a value of `config.json`.
fn configured(pointer: &'static str, value: Value) -> impl Fn(Vec<u8>) -> Option<Vec<u8>> {
    move |bytes| {
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        *config.pointer_mut(pointer).expect("the key is there") = value.clone();
        Some(serde_json::to_vec(&config).unwrap())
    }
}

fn damages() -> Vec<Damage> {
    let [model, state, config] = FILES;
    let mut damages = Vec::new();
    for file in FILES {
        damages.push(damage(file, "missing", |_| None, "there is no such file"));
        for (what, part) in [("empty", 0.0), ("a third", 0.3), ("nearly all", 0.99)] {
            let cut = move |bytes: Vec<u8>| Some(bytes[..(bytes.len() as f64 * part) as usize].to_vec());
            damages.push(damage(file, what, cut, if file == config { "not a configuration" } else { "not a whole" }));
        }
        damages.push(damage(file, "far too long", |_| Some(vec![b' '; 8 << 20]), "longer than the"));
        damages.push(damage(file, "not text", |_| Some(vec![0xff; 4000]), "not a"));
    }
    for file in [model, state] {
        for length in [1, 7, 8, 9, 100] {
            damages.push(damage(file, "cut off in the header", move |b| Some(b[..length].to_vec()), "not a whole"));
        }
        for length in [u64::MAX, u64::MAX - 7, 1 << 40, 99_999_999, 0, 3] {
            let lie = move |mut bytes: Vec<u8>| {
                bytes[..8].copy_from_slice(&length.to_le_bytes());
                Some(bytes)
            };
            damages.push(damage(file, "a header length that is a lie", lie, "not a whole"));
        }
        damages.push(damage(file, "trailing bytes", |b| Some([b, vec![0; 4]].concat()), "not a whole"));
        damages.push(damage(file, "wrong type", replaced("\"F32\"", "\"I32\""), "of I32, not [64] of F32"));
        damages.push(damage(file, "unread type", replaced("\"F32\"", "\"U32\""), "is of type U32"));
        damages.push(damage(file, "hostile shape", replaced("[16,10]", "[9e9,1]"), "not a whole"));
        let not_a_number = |mut bytes: Vec<u8>| {
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
            Some(bytes)
        };
        damages.push(damage(file, "a NaN", not_a_number, "NaN or infinite"));
    }
    damages.extend([
        damage(model, "other name", replaced("\"b_out\"", "\"b_oud\""), "tensor b_out is missing"),
        damage(model, "wrong shape", replaced("[16,10]", "[10,16]"), "tensor w_out is [10, 16]"),
        damage(state, "other name", replaced("\"m.b_out\"", "\"q.b_out\""), "tensor m.b_out is missing"),
        damage(state, "other step", replaced("\\\"step\\\":4", "\\\"step\\\":5"), "does not belong to the config.json"),
        damage(state, "other seed", replaced("\\\"seed\\\":3", "\\\"seed\\\":4"), "does not belong to the config.json"),
        damage(state, "no step", replaced("\\\"step\\\":4", "\\\"stop\\\":4"), "does not tell the step"),
        damage(config, "garbage", |_| Some(b"{\"format\": 1, garbage".to_vec()), "not a configuration"),
        damage(config, "a list", |_| Some(b"[1, 2]".to_vec()), "not a configuration"),
        damage(config, "deep", |_| Some(vec![b'['; 100_000]), "not a configuration"),
        damage(config, "form", |_| Some(b"{\"format\": 3, \"net\": 1}".to_vec()), "form 3 is none of the forms 1 to 2"),
        damage(
            config,
            "sizes of 2^60",
            configured("/model/dims/h", (1u64 << 60).into()),
            "size H = 1152921504606846976",
        ),
        damage(config, "too many", configured("/model/dims/h", (1u64 << 18).into()), "parameters, more than"),
        damage(config, "none", configured("/model/dims/k", 0.into()), "size K = 0"),
        damage(config, "negative", configured("/model/dims/k", (-1).into()), "not a configuration"),
        damage(config, "batch", configured("/batch_size", 0.into()), "a size is zero"),
        damage(config, "no data", configured("/train_sequences", 0.into()), "a size is zero"),
        damage(config, "rate", configured("/adam/learning_rate", (-1).into()), "--lr -1"),
        damage(config, "decay", configured("/adam/beta1", 2.into()), "beta1"),
        damage(config, "no number", configured("/model/forget_bias", Value::Null), "not a configuration"),
        damage(
            config,
            "layers",
            configured(
                "/model",
                json!({ "dims": { "t": 3, "i": 3, "p": 16, "h": 16, "k": 10 }, "forget_bias": 1.0, "layers": 0 }),
            ),
            "--layers 0",
        ),
        damage(
            config,
            "pool",
            configured(
                "/model",
                json!({ "dims": { "t": 3, "i": 3, "p": 16, "h": 16, "k": 10 }, "forget_bias": 1.0, "pool": "median" }),
            ),
            "not a configuration",
        ),
    ]);
    damages
}

#[test]
fn unusable_checkpoints_are_refused_in_one_line() {
    let place = Place::new();
    place.train(&["--steps", "4", "--save", "good"]);
    let good = place.files("good");
    fs::create_dir(place.path("bad")).unwrap();
    for (file, what, change, says) in damages() {
        for (name, bytes) in FILES.iter().zip(&good) {
            fs::write(place.path("bad").join(name), bytes).unwrap();
        }
        let n = FILES.iter().position(|name| *name == file).unwrap();
        match change(good[n].clone()) {
            Some(bytes) => fs::write(place.path("bad").join(file), bytes).unwrap(),
            None => fs::remove_file(place.path("bad").join(file)).unwrap(),
        }
        let words = [&format!("bad/{file}: ") as &str, says, "give a folder that --save wrote"];
        println!("{file}, {what}");
        fails(&mut place.program("train", &["--resume", "bad", "--steps", "6"]), 5, &words);
        if file != "state.safetensors" {
            fails(&mut place.program("eval", &["--model", "bad"]), 5, &words);
        }
    }
    for missing in ["nowhere", "good/config.json"] {
        let words = [missing, "there is no such folder", "give a folder that --save wrote"];
        fails(&mut place.program("eval", &["--model", missing]), 5, &words);
        fails(&mut place.program("train", &["--resume", missing]), 5, &words);
    }
    assert_eq!(place.files("good"), good);
}

/// A `config.json` that speaks of two thousand million parameters must not make room for them.
#[cfg(target_os = "linux")]
#[test]
fn sizes_from_a_file_are_not_believed() {
    let place = Place::new();
    place.train(&["--steps", "1", "--save", "a"]);
    for dims in [[1, 1, 1, 23_000, 1], [1, 1 << 20, 2_040, 2, 1], [1 << 20, 1, 1, 1, 1 << 20]] {
        let mut config: Value = serde_json::from_slice(&place.files("a")[2]).unwrap();
        for (name, size) in ["t", "i", "p", "h", "k"].into_iter().zip(dims) {
            config["model"]["dims"][name] = size.into();
        }
        fs::write(place.path("a/config.json"), config.to_string()).unwrap();
        let program = place.program("eval", &["--model", "a"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 1000000; exec \"$@\"", "sh"]).arg(program.get_program()).args(program.get_args());
        shell.current_dir(place.dir.path()).env("FUSED_LSTM_DATA_DIR", "data");
        fails(&mut shell, 5, &["a/model.safetensors", "tensor"]);
    }
}

#[test]
fn files_of_two_checkpoints_are_not_taken_for_one() {
    let place = Place::new();
    place.train(&["--steps", "4", "--save", "a"]);
    let mix = |file: &str, with: &str, says: &str| {
        fs::create_dir_all(place.path("mixed")).unwrap();
        for name in FILES {
            fs::copy(place.path(if name == file { with } else { "a" }).join(name), place.path("mixed").join(name))
                .unwrap();
        }
        let error = Checkpoint::load(&place.path("mixed")).unwrap_err();
        assert!(
            matches!(error, Error::Checkpoint { .. }) && error.to_string().contains(says),
            "{file} {with}: {error}"
        );
        fails(&mut place.program("train", &["--resume", "mixed", "--steps", "6"]), 5, &[says]);
    };
    // The same run a step later, the same run with another learning rate, other seeds and sizes.
    for (name, steps, flags) in [
        ("later", "5", ["--hidden", "16"]),
        ("faster", "4", ["--lr", "0.01"]),
        ("seed", "4", ["--seed", "4"]),
        ("wide", "4", ["--hidden", "17"]),
        ("batch", "4", ["--batch-size", "9"]),
    ] {
        let mut args = vec!["--steps", steps, "--save", name];
        for standard in [["--hidden", "16"], ["--batch-size", "8"], ["--seed", "3"]] {
            args.extend(if standard[0] == flags[0] { flags } else { standard });
        }
        args.extend(if name == "faster" { &flags[..] } else { &[] });
        succeeds(&mut place.program("train", &args));
    }
    for with in ["later", "faster", "seed"] {
        mix("model.safetensors", with, "state.safetensors: it does not belong to the model.safetensors");
    }
    for with in ["later", "faster"] {
        mix("state.safetensors", with, "state.safetensors: it does not belong to the model.safetensors");
    }
    mix("state.safetensors", "seed", "state.safetensors: it does not belong to the config.json");
    mix("model.safetensors", "wide", "model.safetensors: tensor w_in is [3, 17]");
    mix("state.safetensors", "wide", "state.safetensors: it does not belong to the model.safetensors");
    mix("config.json", "wide", "model.safetensors: tensor w_in is [3, 16]");
    mix("config.json", "seed", "state.safetensors: it does not belong to the config.json");
    mix("config.json", "batch", "state.safetensors: it does not belong to the config.json");
}
