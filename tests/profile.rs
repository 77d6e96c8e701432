//! The profile of an iteration, on the emulator: that every launch is seen, with the bytes and operations that were counted
//! by hand, and that watching changes no bit. Times mean nothing there.

mod support;

use fused_lstm::cuda::cost::Cost;
use fused_lstm::cuda::device::{Device, Limits};
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::profile::{self, Job, Row};
use fused_lstm::cuda::profiled::{Profiled, Timed};
use fused_lstm::cuda::{CudaEngine, kept};
use fused_lstm::dropout::Dropout;
use fused_lstm::engine::{Engine, Model};
use fused_lstm::model::Pool;
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::{Activations, Precision};
use fused_lstm::shape::Dims;
use std::time::Duration;
use support::models::{dataset, dataset_of, padded, start};
use support::run;

const DIMS: Dims = Dims { t: 2, i: 3, p: 4, h: 5, k: 6 };
const MODEL: Model = Model::new(DIMS);

/// With too little shared memory for the kernels that run all steps in one launch: here it is those of one step.
fn emulated() -> Emulated {
    let mut device = Emulated::new(kept::ptx(), Default::default()).unwrap();
    device.set_limits(Limits { shared: 0, ..device.limits().unwrap() });
    device
}

fn engine<D: Device>(device: D, adam: Adam, sequences: usize) -> CudaEngine<D> {
    let mut engine = CudaEngine::new(device, MODEL, adam, dataset(DIMS, sequences)).unwrap();
    engine.set_state(&start(DIMS)).unwrap();
    engine
}

/// The launches of one iteration on a batch of that size.
fn watched(adam: Adam, batch: usize) -> Vec<Timed> {
    let mut engine = engine(Profiled::new(emulated()), adam, batch);
    let rows: Vec<u32> = (0..batch as u32).collect();
    engine.device().watch();
    engine.train_steps(&rows, batch).unwrap();
    engine.device().seen()
}

/// Launches, bytes and operations of a kernel.
fn of(launches: &[Timed], kernel: &str) -> (usize, u64, u64) {
    let launches: Vec<_> = launches.iter().filter(|timed| timed.kernel == kernel).collect();
    let Cost { bytes, operations } = launches.iter().map(|timed| timed.cost.expect("every kernel has a cost")).sum();
    (launches.len(), bytes, operations)
}

/// B 2, T 2, I 3, J 4, P 4, H 5, G 20, K 6, and so 10 cells in a step.
#[test]
fn an_iteration_has_the_launches_bytes_and_operations_counted_by_hand() {
    let seen = watched(Adam::default(), 2);
    let n = MODEL.layout().len() as u64;
    assert_eq!(n, 3 * 4 + 4 + 4 * 20 + 5 * 20 + 20 + 5 * 6 + 6);
    // Inputs 12 in, 16 out with the ones; 2 rows, 1 turn, 2 labels in and out.
    assert_eq!(of(&seen, "gather_floats"), (1, 4 * (12 + 16 + 2 + 1 + 4), 12));
    // The fold [4,4]·[4,20] with the bias in one row, the head [2,5]·[5,6] with the bias in both.
    let (fold, head) = (16 + 80 + 80 + 20, 10 + 30 + 12 + 6);
    assert_eq!(of(&seen, "product_nn"), (2, 4 * (fold + head), 2 * 320 + 20 + 2 * 60 + 12));
    // dh = [2,6]·[6,5] and the input layer's gradient [4,20]·[20,4].
    assert_eq!(of(&seen, "product_nt"), (2, 4 * (12 + 30 + 10 + 80 + 80 + 16), 2 * 60 + 2 * 320));
    // dW_out [5,2]·[2,6], dW_h [5,4]·[4,20], the fold's [4,4]·[4,20], dW_x [4,4]·[4,20].
    let bytes = (10 + 12 + 30) + (20 + 80 + 100) + (16 + 80 + 80) + (16 + 80 + 80);
    assert_eq!(of(&seen, "product_tn"), (4, 4 * bytes, 2 * (60 + 400 + 320 + 320)));
    assert_eq!(of(&seen, "sum_parts"), (1, 4 * 40, 20), "the bias's gradient, a copy of 20");
    assert_eq!(of(&seen, "column_sums"), (1, 4 * (12 + 6), 12 + 8 * 6));
    // x 8, weights 80 + 100, four times 10 cells, gates 40; twice.
    assert_eq!(of(&seen, "lstm_forward_step"), (2, 2 * 4 * (8 + 180 + 40 + 40), 2 * (2 * 2 * 180 + 16 * 10)));
    // The last step: dh 10, gates 40, c twice 10, dc 10, da 40. The one before: da 40 and weights 100, dc read too.
    let bytes = (10 + 40 + 20 + 10 + 40) + (40 + 100 + 40 + 20 + 20 + 40);
    assert_eq!(of(&seen, "lstm_backward_step"), (2, 4 * bytes, 2 * 23 * 10 + 2 * 10 * 20));
    assert_eq!(of(&seen, "softmax_xent"), (1, 4 * (24 + 6), 9 * 12 + 6));
    assert_eq!(of(&seen, "batch_metrics"), (1, 4 * 9, 3));
    assert_eq!(of(&seen, "adam"), (1, 4 * (7 * n + 2), 12 * n));
    assert_eq!(of(&seen, "advance"), (1, 8, 0));
    assert_eq!(seen.len(), 19, "{seen:?}");
    assert!(seen.iter().all(|timed| timed.milliseconds > 0.0));
}

#[test]
fn clipping_and_split_products_are_seen() {
    let seen = watched(Adam { grad_clip: Some(1.0), ..Adam::default() }, 70);
    let n = MODEL.layout().len() as u64;
    assert_eq!(of(&seen, "squared_norm_parts"), (1, 4 * (n + 1), 2 * n));
    assert_eq!(of(&seen, "clip_factor"), (1, 8, 4));
    assert_eq!(of(&seen, "adam"), (1, 4 * (7 * n + 3), 13 * n));
    // 140 summands of two weight gradients are cut in two parts each: W_h's [5,20] and the fold's [4,20].
    let cut = (5 * 140 + 140 * 20 + 2 * 100) + (4 * 140 + 140 * 20 + 2 * 80);
    let bytes = (5 * 70 + 70 * 6 + 30) + cut + (16 + 80 + 80);
    assert_eq!(of(&seen, "product_tn"), (4, 4 * bytes, 2 * (5 * 6 * 70 + 100 * 140 + 80 * 140 + 4 * 4 * 20)));
    assert_eq!(of(&seen, "sum_parts"), (3, 4 * (3 * 100 + 3 * 80 + 40), 200 + 160 + 20));
}

#[test]
fn watching_changes_no_bit_and_ends() {
    let rows: Vec<u32> = (0..12).collect();
    let mut plain = engine(emulated(), Adam::default(), 12);
    let mut profiled = engine(Profiled::new(emulated()), Adam::default(), 12);
    let mut ahead = engine(Profiled::running_ahead(emulated()).unwrap(), Adam::default(), 12);
    let expected = plain.train_steps(&rows, 4).unwrap();
    profiled.device().watch();
    assert_eq!(profiled.train_steps(&rows, 4).unwrap(), expected);
    assert_eq!(profiled.device().seen().len(), 3 * 19);
    ahead.device().watch();
    assert_eq!(ahead.train_steps(&rows[..4], 4).unwrap(), expected[..1]);
    let seen = ahead.device().seen();
    assert_eq!(seen.len(), 19, "what goes before a launch is no launch of the iteration");
    assert_eq!(profiled.state().unwrap(), plain.state().unwrap());
    profiled.train_steps(&rows, 4).unwrap();
    plain.train_steps(&rows, 4).unwrap();
    assert_eq!(profiled.device().seen(), [], "nobody watched");
    assert_eq!(profiled.state().unwrap(), plain.state().unwrap(), "a recording is replayed as ever");
    // What is not replayed is seen as well.
    profiled.device().watch();
    profiled.predict(&dataset(DIMS, 3).train).unwrap();
    let seen = profiled.device().seen();
    assert_eq!((of(&seen, "softmax").0, of(&seen, "lstm_forward_step").0), (1, 2), "{seen:?}");
}

/// Every launch of a larger model has a cost: a training with two layers of two directions, dropout and lengths.
#[test]
fn a_larger_model_has_its_launches_counted() {
    let dropout = Some(Dropout { rate: 0.5, seed: 1 });
    let model = Model { layers: 2, bidirectional: true, pool: Pool::Max, dropout, ..MODEL };
    let (data, device) = (dataset_of(padded(DIMS, 5), DIMS.k), Emulated::new(kept::ptx(), Default::default()).unwrap());
    let job = Job { model, data, ..job(Precision::Bf16) };
    let profile = profile::profile(Profiled::new(device), &job, None).unwrap();
    assert_eq!(profile.precision, Precision::F32);
    let reason = "one launch a step, in f32, as no other kernels know this: 2 layers, two directions, the maximum over \
                  the steps, dropout 0.5, sequences of different lengths";
    assert_eq!(profile.plan, reason);
    let row = |kernel: &str| profile.rows.iter().find(|row| row.kernel == kernel).expect("it is launched");
    for kernel in ["layer_inputs", "layer_gradients", "pool", "unpool"] {
        assert_eq!(row(kernel).launches, 2, "{kernel}");
    }
    assert_eq!((row("lstm_forward_step").launches, row("lstm_backward_step").launches), (8, 8));
    assert!(profile.rows.iter().all(|row| row.bytes > Some(0) && row.operations.is_some()), "{profile:?}");
    // T 2, B 2, H 5: states of two directions in, and out with a 1 behind each of four rows; twice.
    assert_eq!(row("layer_inputs").bytes, Some(2 * 4 * (40 + 40 + 4)));
}

fn job(precision: Precision) -> Job {
    let (data, activations) = (dataset(DIMS, 5), Activations::default());
    Job { model: MODEL, data, batch: 2, precision, activations, each: Duration::ZERO }
}

/// The four launches of the persistent kernels, with what each has to do, and the plan that chose them.
#[test]
fn a_profile_in_bf16_is_of_the_persistent_kernels() {
    let device = Emulated::new(kept::ptx(), Default::default()).unwrap();
    let profile = profile::profile(Profiled::new(device), &job(Precision::Bf16), None).unwrap();
    assert_eq!(profile.precision, Precision::Bf16);
    assert!(profile.plan.starts_with("all steps in one launch, in bf16: "), "{}", profile.plan);
    let mut kernels: Vec<_> = profile.rows.iter().map(|row| (row.kernel, row.launches)).collect();
    kernels.sort_unstable();
    let names = ["fold", "lstm", "update", "weight_gradient"];
    assert_eq!(kernels, names.map(|name| (&*format!("persistent_{name}").leak(), 1)));
    assert!(profile.rows.iter().all(|row| row.bytes > Some(0) && row.operations > Some(0)), "{profile:?}");
    // One part, for a batch of two steps is too small for more: its W_h [5,20]; d_fold [4,20]; the head [6,6]; two rows; m, v.
    let update = profile.rows.iter().find(|row| row.kernel == "persistent_update").unwrap();
    let n = MODEL.layout().len() as u64;
    assert_eq!(update.bytes, Some(4 * (100 + 80 + 36 + 6 * n + 6 + 4) + 2 * 200));
}

#[test]
fn a_profile_has_a_row_for_each_kernel() {
    let device = Profiled::new(emulated());
    let job = job(Precision::F32);
    let profile = profile::profile(device, &job, None).unwrap();
    assert_eq!(profile.precision, Precision::F32);
    assert!(profile.plan.starts_with("one launch a step, in f32: "), "{}", profile.plan);
    assert_eq!(profile.rows.len(), 12);
    assert_eq!(profile.rows.iter().map(|row| row.launches).sum::<usize>(), 19);
    assert!(profile.rows.is_sorted_by(|a, b| a.milliseconds >= b.milliseconds), "the longest first");
    assert!((profile.iterations, profile.replayed_milliseconds > 0.0) == (3, true), "{profile:?}");
    let sum: f64 = profile.rows.iter().map(|row| row.milliseconds).sum();
    assert!((sum - profile.launches_milliseconds).abs() < 1e-9);
    let adam = profile.rows.iter().find(|row| row.kernel == "adam").unwrap();
    let n = MODEL.layout().len() as u64;
    assert!(matches!(adam, Row { launches: 1, bytes: Some(bytes), .. } if *bytes == 4 * (7 * n + 2)), "{adam:?}");
}

#[test]
fn ceilings_are_what_a_copy_and_a_product_take() {
    let ceilings = profile::ceilings(&emulated(), 1000, 33).unwrap();
    assert_eq!((ceilings.copied_bytes, ceilings.product), (4000, 33));
    // The same work in the same time: 8,000 bytes, and 2·33³ operations.
    for rate in [ceilings.bytes_per_second / 8000.0, ceilings.operations_per_second / 71874.0] {
        assert!(rate > 1.0 && rate < 1e7, "{ceilings:?}");
    }
}

#[test]
fn the_command_is_for_gpus() {
    run(&["profile", "--device", "cpu"]).fails_in_one_line(2, &["--device cpu", "--device cuda", "cargo bench"]);
    run(&["profile"]).fails_in_one_line(2, &["--device cpu"]);
    run(&["profile", "--hidden", "0"]).fails_in_one_line(2, &["--hidden", "from 1"]);
    run(&["profile", "--device", "cuda", "--hidden", "1000000"]).fails_in_one_line(2, &["--hidden 1000000"]);
    run(&["profile", "--device", "cuda", "--activations", "fast"])
        .fails_in_one_line(2, &["--activations fast", "bf16"]);
    if fused_lstm::cuda::driver::gpus().is_err() {
        run(&["profile", "--device", "cuda", "--json"]).fails_in_one_line(4, &["cuda:0"]);
        run(&["profile", "--device", "auto"]).fails_in_one_line(4, &["cuda:0"]);
    }
}

/// On a driver by whose clock everything takes 0.25 ms: `tests/stub/libcuda.rs`.
#[cfg(target_os = "linux")]
mod command {
    use crate::support::{Run, program, stub};

    /// Little memory, so that little is copied.
    const FREE: u64 = 64_000_000;
    const SIZES: [&str; 8] = ["--batch-size", "2", "--hidden", "5", "--inputs", "3", "--steps-per-sequence", "2"];

    fn profile(flags: &[&str]) -> Run {
        let mut command = program();
        command.args(["profile", "--device", "cuda"]).args(SIZES).args(flags).env("FUSED_LSTM_NVRTC", "/nowhere");
        command.env("LD_LIBRARY_PATH", &*stub::FOLDER).env("STUB_CUDA", format!("free={FREE}"));
        Run::new(command.output().unwrap()).succeeds()
    }

    #[test]
    fn as_json_it_tells_every_kernel_and_both_ceilings() {
        let run = profile(&["--json"]);
        let [result] = &run.json()[..] else { panic!("one object: {run:#?}") };
        assert_eq!(
            (&result["B"], &result["T"], &result["I"], &result["H"]),
            (&2.into(), &2.into(), &3.into(), &5.into())
        );
        assert!(result["device"].as_str().is_some_and(|device| device.starts_with("cuda:0, ")), "{result}");
        let near = |value: &serde_json::Value, expected: f64| {
            assert!((value.as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{value} for {expected}");
        };
        let kernels = result["kernels"].as_array().unwrap();
        let launches = kernels.iter().map(|row| row["launches"].as_u64().unwrap()).sum::<u64>();
        assert_eq!((kernels.len(), launches), (12, 19));
        near(&result["launches_ms"], 19.0 * 0.25);
        assert!(result["replayed_ms"].as_f64().unwrap() > 0.0 && result["iterations_of_a_replay"] == 16);
        // An eighth of the memory is copied, and read and written.
        let (copied, product) = (FREE / 8, 512.0f64);
        assert_eq!(result["ceilings"]["copied_bytes"], copied);
        near(&result["ceilings"]["bytes_per_second"], 2.0 * copied as f64 / 0.25e-3);
        near(&result["ceilings"]["operations_per_second"], 2.0 * product.powi(3) / 0.25e-3);
        let tn = kernels.iter().find(|row| row["kernel"] == "product_tn").unwrap();
        // Four products: dW_out [5,2]·[2,10], dW_h [5,4]·[4,20], the fold's [4,4]·[4,20], dW_x [5,4]·[4,20].
        let bytes = 4 * ((10 + 20 + 50) + (20 + 80 + 100) + (16 + 80 + 80) + (20 + 80 + 100));
        let operations = 2 * (100 + 400 + 320 + 400);
        assert_eq!((&tn["launches"], &tn["bytes"], &tn["operations"]), (&4.into(), &bytes.into(), &operations.into()));
        near(&tn["ms"], 1.0);
        near(&tn["share"], 4.0 / 19.0);
        near(&tn["share_of_copy_bandwidth"], f64::from(bytes) / 4.0 / (2.0 * copied as f64));
        near(&tn["share_of_product_rate"], f64::from(operations) / 4.0 / (2.0 * product.powi(3)));
    }

    /// There is no compiler, so f32 is what can be profiled, and the plan says why.
    #[test]
    fn a_plan_that_fell_back_says_why() {
        let run = profile(&["--json", "--precision", "bf16"]);
        let result = &run.json()[0];
        assert_eq!(result["dtype"], "fp32");
        let plan = result["plan"].as_str().unwrap();
        assert!(
            plan.starts_with("one launch a step, in f32: ") && plan.contains("there is no NVRTC in /nowhere"),
            "{plan}"
        );
    }

    #[test]
    fn as_text_it_is_a_table_with_what_it_means() {
        let run = profile(&[]);
        let lines: Vec<_> = run.out.lines().collect();
        assert!(lines[0].starts_with("profile: B 2, T 2, I 3, H 5, f32; cuda:0, "), "{run:#?}");
        assert!(lines[1].starts_with("kernels: one launch a step, in f32: "), "{run:#?}");
        let rows: Vec<_> = lines[4..16].iter().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(rows[0][..5], ["product_tn", "4", "1000.0", "21.1", "%"], "{run:#?}");
        assert!(rows.iter().all(|row| row.len() == 11 || row.len() == 10), "{run:#?}");
        let rest = lines[16..].join("\n");
        for part in
            ["4750.0 us launch by launch", "us replayed, up to 16 in one graph and 64 in a call", "GB/s", "GFLOP/s"]
        {
            assert!(rest.contains(part), "no {part:?} in {rest}");
        }
        assert!(
            lines.last().unwrap().ends_with("Time is measured launch by launch, so gaps in a graph are not in it.")
        );
    }
}
