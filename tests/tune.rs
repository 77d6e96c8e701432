//! Plans with the same bits, of which the fastest is to be found: on the emulator, with a clock that says what the test wants.

mod support;

use fused_lstm::Result;
use fused_lstm::cuda::CudaEngine;
use fused_lstm::cuda::cache::Cache;
use fused_lstm::cuda::device::{Device, Launch, Limits};
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::kept;
use fused_lstm::cuda::plan::Family;
use fused_lstm::cuda::specialized::Specialized;
use fused_lstm::cuda::tune::{Effort, Tuning};
use fused_lstm::engine::{Engine, Model, Scores, State, StepMetrics};
use fused_lstm::error::Error;
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::Precision;
use fused_lstm::shape::Dims;
use fused_lstm::{cuda::side_by_side, data::Split};
use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use support::models::{dataset, start};

/// Without clusters: few plans.
const LIMITS: Limits = Limits { capability: (8, 0), shared: 163 * 1024, multiprocessors: 108 };
const DIMS: Dims = Dims { t: 3, i: 5, p: 4, h: 9, k: 3 };
/// Two tiles.
const BATCH: usize = 13;

/// Divisions by the rules, and the only other one that the device takes.
const BF16: [&str; 2] = ["tiles 1, cluster 1", "tiles 2, cluster 1"];
const F32: [&str; 2] = ["rows 1, lanes 4, cluster 1", "rows 2, lanes 4, cluster 1"];

/// Milliseconds of an iteration by kernels of a division; others cannot be had.
type Clock = &'static [(&'static str, f32)];

/// The second division is the faster one, and the slower one.
const SECOND: Clock = &[(BF16[0], 40.0), (BF16[1], 20.0), (F32[0], 40.0), (F32[1], 20.0)];
const FIRST: Clock = &[(BF16[0], 40.0), (BF16[1], 50.0), (F32[0], 40.0), (F32[1], 50.0)];

/// An emulated device whose time is that of a clock.
struct Clocked {
    device: Emulated,
    clock: Clock,
    loaded: String,
    /// Launches of an iteration of these kernels, and of all that was replayed.
    of_one: Cell<usize>,
    replayed: Cell<usize>,
    /// Divisions that were timed, each as often as time was taken.
    timed: Rc<RefCell<Vec<String>>>,
}

impl Clocked {
    fn new(clock: Clock) -> Self {
        let mut device = Emulated::new(kept::ptx(), Default::default()).unwrap();
        device.set_limits(LIMITS);
        Self {
            device,
            clock,
            loaded: String::new(),
            of_one: Cell::new(0),
            replayed: Cell::new(0),
            timed: Rc::default(),
        }
    }
}

impl Device for Clocked {
    type Memory = <Emulated as Device>::Memory;
    type Graph = <Emulated as Device>::Graph;

    fn name(&self) -> String {
        self.device.name()
    }

    fn limits(&self) -> Result<Limits> {
        self.device.limits()
    }

    fn load(&mut self, kernels: &Specialized) -> Result<()> {
        let division = match *kernels {
            Specialized::Persistent(variant) => Family::Persistent(variant).division(),
            Specialized::Sequence(variant) => Family::Sequence(variant).division(),
            Specialized::Tf32(variant) => Family::Tf32(variant).division(),
        };
        if !self.clock.iter().any(|(of, _)| *of == division) {
            let (found, remedy) = ("the clock has none".into(), "none".into());
            return Err(Error::Device { device: division, found, remedy });
        }
        self.loaded = division;
        self.of_one.set(0);
        self.device.load(kernels)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.device.free_bytes()
    }

    fn allocate(&self, name: &'static str, bytes: usize) -> Result<Self::Memory> {
        self.device.allocate(name, bytes)
    }

    fn address(&self, memory: &Self::Memory) -> u64 {
        self.device.address(memory)
    }

    fn upload(&self, memory: &mut Self::Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.device.upload(memory, offset, bytes)
    }

    fn zero(&self, memory: &mut Self::Memory, offset: usize, bytes: usize) -> Result<()> {
        self.device.zero(memory, offset, bytes)
    }

    fn download(&self, memory: &Self::Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.device.download(memory, offset, bytes)
    }

    #[allow(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.device.launch(launch) }
    }

    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Self::Graph> {
        let graph = self.device.capture(work)?;
        // One iteration is recorded before several.
        if self.of_one.get() == 0 {
            self.of_one.set(graph.len());
        }
        Ok(graph)
    }

    fn launches(&self, graph: &Self::Graph) -> Result<usize> {
        Ok(graph.len())
    }

    fn replay(&self, graph: &Self::Graph) -> Result<()> {
        self.replayed.set(self.replayed.get() + graph.len());
        self.device.replay(graph)
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        let before = self.replayed.get();
        work()?;
        self.timed.borrow_mut().push(self.loaded.clone());
        let (_, each) = self.clock.iter().find(|(of, _)| *of == self.loaded).expect("it was loaded");
        Ok(each * ((self.replayed.get() - before) / self.of_one.get()) as f32)
    }
}

/// All that can be seen of a training.
#[derive(Debug, PartialEq)]
struct Seen {
    metrics: Vec<StepMetrics>,
    state: State,
    scores: Scores,
    probabilities: Vec<f32>,
}

/// A training in the middle of its way, so that Adam has something to remember.
fn train(engine: &mut dyn Engine) -> Seen {
    let data = dataset(DIMS, 30);
    let mut state = start(DIMS);
    state.m = state.parameters.iter().map(|w| w * 0.01).collect();
    state.v = state.parameters.iter().map(|w| w * w * 0.01).collect();
    state.step = 5;
    engine.set_state(&state).unwrap();
    let rows: Vec<u32> = (0..3 * BATCH as u32).map(|k| k * 7 % 30).collect();
    let before = engine.evaluate(Split::Train, &rows[..9]).unwrap();
    engine.prepare(BATCH).unwrap();
    assert_eq!(engine.state().unwrap(), state, "to prepare is not to train");
    assert_eq!(engine.evaluate(Split::Train, &rows[..9]).unwrap(), before);
    let metrics = engine.train_steps(&rows, BATCH).unwrap();
    let scores = engine.evaluate(Split::Train, &rows[..20]).unwrap();
    Seen { metrics, state: engine.state().unwrap(), scores, probabilities: engine.predict(&data.train).unwrap() }
}

fn engine(precision: Precision, clock: Clock, tuning: Option<Tuning>) -> CudaEngine<Clocked> {
    let (model, data) = (Model { forget_bias: 0.7, ..Model::new(DIMS) }, dataset(DIMS, 30));
    let engine = CudaEngine::with_precision(Clocked::new(clock), model, Adam::default(), data, precision).unwrap();
    match tuning {
        Some(tuning) => engine.with_tuning(tuning),
        None => engine,
    }
}

/// What a training shows, its division and why, and divisions that were timed, each once.
struct Tuned {
    seen: Seen,
    division: String,
    reason: String,
    timed: Vec<String>,
}

fn tuned(precision: Precision, clock: Clock, tuning: Option<Tuning>) -> Tuned {
    let mut engine = engine(precision, clock, tuning);
    let timed = engine.device().timed.clone();
    let seen = train(&mut engine);
    let plan = engine.plan().unwrap().clone();
    assert!(Engine::device(&engine).contains(&plan.reason));
    let mut timed = timed.take();
    timed.dedup();
    Tuned { seen, division: plan.family.division(), reason: plan.reason, timed }
}

fn in_folder(effort: Effort, folder: &Path) -> Option<Tuning> {
    Some(Tuning::new(effort, Some(Cache::new(folder))))
}

#[test]
fn the_fastest_plan_trains_with_the_bits_of_the_others() {
    for (precision, divisions) in [(Precision::Bf16, BF16), (Precision::F32, F32)] {
        let plain = tuned(precision, SECOND, None);
        assert_eq!((&plain.division[..], plain.timed.len()), (divisions[0], 0));
        assert!(!plain.reason.contains("tuned"), "{}", plain.reason);
        for (clock, chosen) in [(SECOND, 1), (FIRST, 0)] {
            let tuned = tuned(precision, clock, Some(Tuning::new(Effort::Always, None)));
            assert_eq!(tuned.division, divisions[chosen]);
            assert_eq!(tuned.timed, divisions);
            assert!(tuned.reason.ends_with("; tuned: the fastest of 2 plans that were timed"), "{}", tuned.reason);
            assert!(tuned.seen == plain.seen, "{precision} {chosen}");
        }
    }
}

#[test]
fn what_was_found_is_used_by_the_next_start_which_times_nothing() {
    for (precision, divisions) in [(Precision::Bf16, BF16), (Precision::F32, F32)] {
        let folder = tempfile::tempdir().unwrap();
        let first = tuned(precision, SECOND, in_folder(Effort::Always, folder.path()));
        assert_eq!((&first.division[..], first.timed.len()), (divisions[1], 2));
        // Whatever a clock would say now.
        for effort in [Effort::Known, Effort::Iterations(1), Effort::Always] {
            let next = tuned(precision, FIRST, in_folder(effort, folder.path()));
            assert_eq!((&next.division[..], next.timed.len(), &next.reason), (divisions[1], 0, &first.reason));
            assert!(next.seen == first.seen);
        }
        let none = tuned(precision, SECOND, in_folder(Effort::None, folder.path()));
        assert_eq!((&none.division[..], none.timed.len()), (divisions[0], 0));
        assert!(none.reason.ends_with("; not tuned, as was asked for"), "{}", none.reason);
        // A file that is cut short is none.
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        let known = tuned(precision, FIRST, in_folder(Effort::Known, folder.path()));
        assert_eq!((&known.division[..], known.timed.len()), (divisions[0], 0));
        assert!(known.reason.ends_with("; not tuned: plans were not timed here yet"), "{}", known.reason);
        let again = tuned(precision, SECOND, in_folder(Effort::Always, folder.path()));
        assert_eq!((&again.division[..], again.timed.len()), (divisions[1], 2));
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn a_short_training_is_not_worth_it() {
    let plain = tuned(Precision::Bf16, SECOND, None);
    let short = tuned(Precision::Bf16, SECOND, Some(Tuning::new(Effort::Iterations(1000), None)));
    assert_eq!((&short.division[..], &short.timed[..]), (BF16[0], &[BF16[0].to_owned()][..]));
    assert!(short.reason.ends_with("; not tuned: 1000 iterations take less than 60 s"), "{}", short.reason);
    assert!(short.seen == plain.seen);
    let long = tuned(Precision::Bf16, SECOND, Some(Tuning::new(Effort::Iterations(2000), None)));
    assert_eq!((&long.division[..], long.timed.len()), (BF16[1], 2));
    assert!(long.seen == plain.seen);
}

#[test]
fn a_plan_that_the_device_refuses_is_left_out() {
    let only: Clock = &[(BF16[0], 40.0)];
    let tuned = tuned(Precision::Bf16, only, Some(Tuning::new(Effort::Always, None)));
    assert_eq!((&tuned.division[..], &tuned.timed[..]), (BF16[0], &[BF16[0].to_owned()][..]));
    assert!(tuned.reason.ends_with("; tuned: no other plan can be used here"), "{}", tuned.reason);
}

#[test]
fn where_there_is_one_plan_nothing_is_timed() {
    let (model, data) = (Model::new(DIMS), dataset(DIMS, 8));
    let device = Clocked::new(SECOND);
    let timed = device.timed.clone();
    let made = CudaEngine::with_precision(device, model, Adam::default(), data, Precision::Bf16).unwrap();
    let mut engine = made.with_tuning(Tuning::new(Effort::Always, None));
    engine.prepare(8).unwrap();
    let reason = &engine.plan().unwrap().reason;
    assert!(reason.ends_with("; not tuned: there is no other plan") && timed.borrow().is_empty(), "{reason}");
}

#[test]
fn models_side_by_side_are_tuned_together_and_keep_their_bits() {
    let alone = tuned(Precision::Bf16, SECOND, None);
    let mut engine = engine(Precision::Bf16, SECOND, Some(Tuning::new(Effort::Always, None)));
    engine = engine.with_models(&[Adam::default(); 2], BATCH).unwrap();
    assert_eq!(engine.models(), 2);
    let seen = side_by_side::train(&mut engine, vec![|engine: &mut dyn Engine| train(engine), train]);
    assert_eq!(engine.plan().unwrap().family.division(), BF16[1]);
    assert!(seen.iter().all(|seen| *seen == alone.seen));
}

/// Kernels that are divided for large batches have as many sequences to score.
#[test]
fn as_many_sequences_are_scored_at_a_time_as_are_trained() {
    let dims = Dims { t: 1, i: 1, p: 1, h: 1, k: 2 };
    let n = 1030;
    let mut device = Emulated::new(kept::ptx(), Default::default()).unwrap();
    device.set_limits(LIMITS);
    let (adam, data) = (Adam::default(), dataset(dims, n));
    let mut engine = CudaEngine::with_precision(device, Model::new(dims), adam, data.clone(), Precision::Bf16).unwrap();
    engine.set_state(&start(dims)).unwrap();
    let rows: Vec<u32> = (0..n as u32).collect();
    let mut scored = || {
        let before = engine.device().launches();
        let scores = engine.evaluate(Split::Train, &rows).unwrap();
        let predicted = engine.predict(&data.train).unwrap();
        engine.prepare(n).unwrap();
        (scores, predicted, engine.device().launches() - before)
    };
    let (first, second) = (scored(), scored());
    assert!(first.0 == second.0 && first.1 == second.1);
    // The weights are packed and folded once for each; two pieces, and two of probabilities; then one of each.
    assert_eq!((first.2, second.2), (2 + 2 + 2 * 2, 2 + 1 + 2));
}
