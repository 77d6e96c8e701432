//! Trainings of one size side by side, on the emulator, which checks every access of theirs on the way: each gives to the bit what
//! it gives alone, whatever its neighbours do.

mod support;

use fused_lstm::config::Config;
use fused_lstm::cuda::device::Limits;
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::{CudaEngine, kept, side_by_side};
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use fused_lstm::engine::{Engine, Model, Scores, State, StepMetrics};
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::Precision;
use fused_lstm::shape::Dims;
use fused_lstm::train::{self, Plan, Unwatched};
use fused_lstm::{Error, Result};
use ptx_emulator::Options;
use std::sync::Arc;
use support::models::{dataset, dataset_of};

/// Without clusters, with room for all sizes here, and with many multiprocessors: weight gradients in several parts.
const MANY: Limits = Limits { capability: (8, 0), shared: 227 * 1024, multiprocessors: 132 };
/// One multiprocessor for each of three models: several tiles to a block, and weight gradients in one part.
const FEW: Limits = Limits { multiprocessors: 3, ..MANY };
/// With clusters.
const CLUSTERS: Limits = Limits { capability: (9, 0), ..MANY };

fn emulated(seed: u64, limits: Limits) -> Emulated {
    let mut device = Emulated::new(kept::ptx(), Options { seed, ..Options::default() }).unwrap();
    device.set_limits(limits);
    device
}

/// What is trained: sizes, data, and how much of the device there is.
struct Job {
    model: Model,
    batch: usize,
    data: Arc<Dataset>,
    limits: Limits,
}

/// One of the models.
#[derive(Clone, Copy)]
struct Settings {
    seed: u64,
    learning_rate: f64,
    /// Steps of each call.
    calls: &'static [usize],
}

impl Settings {
    fn adam(&self) -> Adam {
        Adam { learning_rate: self.learning_rate, ..Adam::default() }
    }
}

/// All that can be seen of a training.
#[derive(Debug, PartialEq)]
struct Seen {
    metrics: Vec<StepMetrics>,
    between: Vec<Scores>,
    state: State,
    probabilities: Vec<f32>,
}

/// Trains a model by the calls of its settings, and looks at it after each.
fn work(engine: &mut dyn Engine, job: &Job, settings: &Settings) -> Result<Seen> {
    let n = job.data.train.len();
    engine.set_state(&State::new(init::parameters(&job.model, Init::Xavier, settings.seed)))?;
    let (mut metrics, mut between, mut next) = (Vec::new(), Vec::new(), settings.seed as usize);
    for steps in settings.calls {
        let rows: Vec<u32> = (next..next + steps * job.batch).map(|k| (k * 7 % n) as u32).collect();
        next += rows.len();
        metrics.extend(engine.train_steps(&rows, job.batch)?);
        between.push(engine.evaluate(Split::Test, &[0, 1])?);
    }
    Ok(Seen { metrics, between, state: engine.state()?, probabilities: engine.predict(&job.data.train)? })
}

fn alone(job: &Job, settings: &Settings) -> Seen {
    let (device, data) = (emulated(0, job.limits), job.data.clone());
    let mut engine = CudaEngine::with_precision(device, job.model, settings.adam(), data, Precision::Bf16).unwrap();
    work(&mut engine, job, settings).unwrap()
}

fn engine_of(device: Emulated, job: &Job, adams: &[Adam]) -> CudaEngine<Emulated> {
    let engine = CudaEngine::with_precision(device, job.model, adams[0], job.data.clone(), Precision::Bf16).unwrap();
    engine.with_models(adams, job.batch).unwrap()
}

fn together(job: &Job, all: &[Settings], schedule: u64) -> Vec<Seen> {
    let adams: Vec<_> = all.iter().map(Settings::adam).collect();
    let mut engine = engine_of(emulated(schedule, job.limits), job, &adams);
    assert_eq!((engine.models(), engine.alone()), (all.len(), None));
    let trainings = all.iter().map(|settings| |engine: &mut dyn Engine| work(engine, job, settings).unwrap());
    side_by_side::train(&mut engine, trainings.collect())
}

fn job([batch, t, i, p, h, k]: [usize; 6], bytes: bool, limits: Limits) -> Job {
    let dims = Dims { t, i, p, h, k };
    let n = batch + 5;
    let bytes = bytes.then(|| (0..n * dims.sequence_len()).map(|k| (k * 37 % 256) as u8).collect());
    let data = match bytes {
        Some(bytes) => {
            let labels = (0..n).map(|k| (k % dims.k) as u32).collect();
            dataset_of(Sequences::new(t, i, Values::U8 { bytes, scale: 1.0 / 255.0 }, labels), k)
        }
        None => dataset(dims, n),
    };
    Job { model: Model { forget_bias: 0.7, ..Model::new(dims) }, batch, data, limits }
}

static THREE: [Settings; 3] = [
    Settings { seed: 5, learning_rate: 0.001, calls: &[1, 3, 2] },
    Settings { seed: 0, learning_rate: 0.03, calls: &[2, 2, 2] },
    Settings { seed: 11, learning_rate: 0.01, calls: &[6] },
];

#[test]
fn each_gives_to_the_bit_what_it_gives_alone() {
    for (sizes, bytes, limits) in [
        ([1, 1, 1, 1, 1, 2], false, MANY),
        ([13, 5, 20, 9, 30, 10], true, MANY),
        ([17, 5, 20, 33, 50, 35], true, FEW),
        ([11, 2, 28, 8, 128, 10], false, CLUSTERS),
        // Two blocks of rows in the product of the weight gradients; weights partly in shared memory.
        ([11, 2, 20, 8, 180, 10], false, MANY),
    ] {
        let job = job(sizes, bytes, limits);
        let expected = THREE.map(|settings| alone(&job, &settings));
        assert!(expected[0].state.parameters != expected[2].state.parameters, "they differ");
        for schedule in [0, 12345] {
            assert!(together(&job, &THREE, schedule) == expected, "{sizes:?}, schedule {schedule}");
        }
    }
}

#[test]
fn who_ends_early_leaves_and_the_others_go_on() {
    let job = job([6, 3, 20, 9, 30, 10], false, MANY);
    let early = [
        Settings { calls: &[1], ..THREE[0] },
        Settings { calls: &[], ..THREE[1] },
        Settings { calls: &[70, 1], ..THREE[2] },
        Settings { calls: &[2, 3, 1], ..THREE[0] },
    ];
    let expected = early.map(|settings| alone(&job, &settings));
    assert!(together(&job, &early, 0) == expected);
}

/// By the program's own loop, which asks for as many steps as it likes: a training that diverges says so and stops no other.
#[test]
fn one_that_diverges_stops_no_other() {
    let job = job([6, 3, 20, 9, 30, 10], false, MANY);
    let config = |seed, learning_rate| {
        let mut config = Config::new(&job.data, job.model.dims.h);
        (config.model, config.batch_size, config.seed) = (job.model, job.batch, seed);
        config.adam.learning_rate = learning_rate;
        config
    };
    let configs = [config(1, 0.01), config(2, 1e38), config(3, 0.003)];
    let work = |engine: &mut dyn Engine, config: &Config| {
        engine.set_state(&config.initial_state())?;
        train::train(engine, &job.data, config, &Plan { log_every: 7, ..Plan::new(30) }, &mut Unwatched)?;
        engine.state()
    };
    let alone = |config: &Config| {
        let (device, data) = (emulated(0, MANY), job.data.clone());
        work(&mut CudaEngine::with_precision(device, job.model, config.adam, data, Precision::Bf16).unwrap(), config)
    };
    let mut engine = engine_of(emulated(0, MANY), &job, &configs.each_ref().map(|config| config.adam));
    let trainings = configs.iter().map(|config| |engine: &mut dyn Engine| work(engine, config));
    let got = side_by_side::train(&mut engine, trainings.collect());
    for (config, got) in configs.iter().zip(got) {
        match (got, alone(config)) {
            (Ok(got), Ok(expected)) => assert!(got == expected && config.adam.learning_rate < 1.0),
            (Err(got), Err(expected)) => {
                assert!(matches!(got, Error::Diverged { .. }) && got.to_string() == expected.to_string(), "{got}");
            }
            (got, expected) => panic!("{got:?} and alone {expected:?}"),
        }
    }
}

#[test]
fn as_many_train_at_once_as_fit() {
    let job = job([13, 5, 20, 9, 30, 10], false, MANY);
    let adams = [0.001, 0.003, 0.01, 0.03, 0.1].map(|learning_rate| Adam { learning_rate, ..Adam::default() });
    let with_room = |free| {
        let device = emulated(0, MANY);
        device.set_free_bytes(free);
        engine_of(device, &job, &adams)
    };
    let by_room: Vec<(u64, usize)> = (0..9).map(|n| n * 500_000).map(|free| (free, with_room(free).models())).collect();
    assert!(by_room.is_sorted_by_key(|(_, models)| *models), "{by_room:?}");
    assert!((by_room[0].1, by_room[8].1) == (1, 5), "{by_room:?}");
    // What was said to fit does.
    let (free, models) = *by_room.iter().find(|(_, models)| (2..5).contains(models)).expect("some fit");
    let mut engine = with_room(free);
    assert_eq!((engine.models(), engine.alone()), (models, None));
    engine.prepare(job.batch).unwrap();
}

#[test]
fn what_cannot_train_side_by_side_trains_alone_and_says_why() {
    let job = job([13, 5, 20, 9, 30, 10], false, MANY);
    let of = |adam: Adam, precision, device| {
        let engine = CudaEngine::with_precision(device, job.model, adam, job.data.clone(), precision).unwrap();
        let engine = engine.with_models(&[adam; 4], job.batch).unwrap();
        (engine.models(), engine.alone().unwrap_or_default())
    };
    let clipped = Adam { grad_clip: Some(1.0), ..Adam::default() };
    assert_eq!(of(clipped, Precision::Bf16, emulated(0, MANY)), (1, "gradients are clipped".into()));
    let decaying = Adam { weight_decay: 0.1, ..Adam::default() };
    assert_eq!(of(decaying, Precision::Bf16, emulated(0, MANY)), (1, "weights decay".into()));
    let (models, why) = of(Adam::default(), Precision::F32, emulated(0, MANY));
    assert!(models == 1 && why.contains("in f32: "), "{why}");
    // Too little of it for any kernels that are compiled for a model.
    let old = emulated(0, Limits { capability: (7, 5), shared: 0, multiprocessors: 40 });
    let (models, why) = of(Adam::default(), Precision::Bf16, old);
    assert!(models == 1 && why.contains("compute capability 8.0"), "{why}");
    assert_eq!(of(Adam::default(), Precision::Bf16, emulated(0, MANY)), (4, String::new()));
}

#[test]
fn an_iteration_of_all_models_is_four_launches() {
    let job = job([13, 5, 20, 9, 30, 10], false, MANY);
    let mut engine = engine_of(emulated(0, MANY), &job, &THREE.map(|settings| settings.adam()));
    let rows: Vec<u32> = (0..13).collect();
    let launches = |engine: &mut CudaEngine<Emulated>, steps: usize| {
        let before = engine.device().launches();
        engine.train_side_by_side(&[&rows.repeat(steps)[..]; 3], 13).unwrap();
        engine.device().launches() - before
    };
    // The first call packs the weights, in two launches.
    assert_eq!([1, 1, 5].map(|steps| launches(&mut engine, steps)), [6, 4, 20]);
}

/// A device that fails fails for all that wait, and none waits for ever.
#[test]
fn every_training_is_told_that_the_device_failed() {
    let job = job([13, 5, 20, 9, 30, 10], false, MANY);
    let mut engine = engine_of(emulated(0, MANY), &job, &THREE.map(|settings| settings.adam()));
    engine.device().set_free_bytes(0);
    let trainings = THREE.iter().map(|settings| |engine: &mut dyn Engine| work(engine, &job, settings).unwrap_err());
    for error in side_by_side::train(&mut engine, trainings.collect()) {
        assert!(error.to_string().contains("the GPU has room for 0.0 MB"), "{error}");
    }
}

#[test]
#[should_panic = "one of the trainings"]
fn a_panic_of_one_comes_out_when_the_others_have_ended() {
    let job = job([6, 3, 20, 9, 30, 10], false, MANY);
    let mut engine = engine_of(emulated(0, MANY), &job, &THREE.map(|settings| settings.adam()));
    let training = |settings: &'static Settings| {
        let job = &job;
        move |engine: &mut dyn Engine| {
            assert!(settings.seed != 0, "one of the trainings");
            work(engine, job, settings).unwrap();
        }
    };
    side_by_side::train(&mut engine, THREE.iter().map(training).collect());
}
