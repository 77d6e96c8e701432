//! Streams: after each step what the whole engine gives for the steps so far, whatever the model, the number of streams and
//! the vectors.

mod support;

use fused_lstm::config::Config;
use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::data::own::{Normalization, OwnData, Shares};
use fused_lstm::data::{BYTE_SCALE, Sequences, Values};
use fused_lstm::engine::Engine;
use fused_lstm::model::{Model, Pool};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use fused_lstm::stream::{Stream, Streams};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::models::{dataset_of, larger, number, sequences, start_of};
use support::{Folder, Run, program};

fn config(model: Model) -> Config {
    let data = dataset_of(sequences(model.dims, 1), model.dims.k);
    Config { model, ..Config::new(&data, model.dims.h) }
}

/// The models that can be streamed, with a number of streams each: every pool, with layers and without, with an input layer
/// and without.
fn models() -> Vec<(Model, usize)> {
    let small = Model::new(Dims { t: 6, i: 5, p: 7, h: 21, k: 3 });
    let mut models = vec![(small, 1), (Model::new(Dims { t: 4, i: 28, p: 16, h: 128, k: 10 }), 1)];
    models.extend([Pool::Mean, Pool::Max].map(|pool| (Model { pool, layers: 2, ..small }, 13)));
    models.extend(larger().into_iter().map(|(model, sequences)| (model, sequences.len())));
    models.retain(|(model, _)| !model.bidirectional);
    models
}

/// `[N,K]` of the first `steps` of sequences `x [N,T,I]`.
fn predicted(engine: &mut CpuEngine, x: &[f32], count: usize, steps: usize) -> Vec<f32> {
    let dims = engine.model().dims;
    let sequences = Sequences::new(dims.t, dims.i, Values::F32(x.to_vec()), vec![0; count]);
    engine.predict(&sequences.with_lengths(vec![steps as u32; count])).unwrap()
}

/// The inputs of step `t` of each of `x [N,T,I]`.
fn step(x: &[f32], dims: Dims, t: usize) -> Vec<f32> {
    x.chunks_exact(dims.sequence_len()).flat_map(|x| &x[t * dims.i..(t + 1) * dims.i]).copied().collect()
}

#[test]
fn a_stream_gives_the_bits_of_predict_for_every_prefix() {
    let mut pools = Vec::new();
    for (model, count) in models() {
        let (dims, state) = (model.dims, start_of(&model));
        pools.push(model.pool);
        let x: Vec<f32> = (0..count * dims.sequence_len()).map(number).collect();
        for isa in Isa::available() {
            let data = dataset_of(sequences(dims, 1), dims.k);
            let mut engine = CpuEngine::with_isa(model, Adam::default(), data, 1, isa).unwrap();
            engine.set_state(&state).unwrap();
            let mut streams = Streams::with_isa(&config(model), &state.parameters, count, isa).unwrap();
            // The second time after a reset of what the first one has left.
            for time in 0..2 {
                for t in 0..dims.t {
                    let got = streams.push(&step(&x, dims, t));
                    let expected = predicted(&mut engine, &x, count, t + 1);
                    assert_eq!(got, expected, "{model:?}, {count} streams, {}, step {t}, time {time}", isa.name());
                    assert!(got.iter().all(|p| p.is_finite() && *p > 0.0));
                }
                (0..count).for_each(|stream| streams.reset(stream));
            }
        }
    }
    assert!([Pool::Last, Pool::Mean, Pool::Max].iter().all(|pool| pools.contains(pool)));
}

#[test]
fn a_state_goes_on_in_another_stream() {
    for (model, _) in models() {
        let (dims, parameters) = (model.dims, start_of(&model).parameters);
        let x = |t: usize| (0..dims.i).map(|i| number(t * dims.i + i)).collect::<Vec<_>>();
        let mut alone = Stream::new(&config(model), &parameters).unwrap();
        let mut many = Streams::new(&config(model), &parameters, 3).unwrap();
        let fresh = alone.state();
        for t in 0..4 {
            alone.push(&x(t));
            many.push(&[x(t + 90), x(t + 50), x(t + 70)].concat());
        }
        let (state, others) = (alone.state(), [many.state(0), many.state(2)]);
        assert_eq!((fresh.steps, state.steps), (0, 4));
        many.set_state(1, &state).unwrap();
        assert_eq!([many.state(0), many.state(2)], others, "the others stay as they were");
        for t in 4..7 {
            let expected = alone.push(&x(t)).to_vec();
            let got = many.push(&[x(t + 90), x(t), x(t + 70)].concat());
            assert_eq!(got[dims.k..2 * dims.k], expected, "{model:?}");
        }
        assert_eq!(many.state(1), alone.state());
        let others = [many.state(0), many.state(2)];
        many.reset(1);
        alone.reset();
        assert_eq!((many.state(1), alone.state()), (fresh.clone(), fresh));
        assert_eq!([many.state(0), many.state(2)], others);
    }
}

#[test]
fn a_push_allocates_nothing() {
    for (model, count) in models() {
        let mut streams = Streams::new(&config(model), &start_of(&model).parameters, count).unwrap();
        let x: Vec<f32> = (0..count * model.dims.i).map(number).collect();
        let allocations = allocation_counter::measure(|| {
            for _ in 0..5 {
                std::hint::black_box(streams.push(&x));
            }
            streams.reset(0);
        });
        assert_eq!(allocations.count_total, 0, "{model:?}");
    }
}

fn own(normalization: Normalization) -> Option<OwnData> {
    Some(OwnData {
        class_names: vec![String::new(); 3],
        normalization,
        split: Shares([8, 1, 1]),
        split_seed: 0,
        any_length: false,
        bytes: false,
    })
}

#[test]
fn inputs_are_brought_to_the_models_scale() {
    let model = Model::new(Dims { t: 2, i: 2, p: 3, h: 4, k: 3 });
    let parameters = start_of(&model).parameters;
    let by_feature = Normalization::Feature { mean: vec![10.0, -2.0], deviation: vec![4.0, 0.5] };
    let scaled = Config { own: own(by_feature), ..config(model) };
    let mut scaled = Stream::new(&scaled, &parameters).unwrap();
    let mut plain = Stream::new(&Config { own: own(Normalization::None), ..config(model) }, &parameters).unwrap();
    assert_eq!(scaled.push(&[12.0, -1.0]), plain.push(&[0.5, 2.0]));
    assert_ne!(scaled.push(&[0.5, 2.0]), plain.push(&[0.5, 2.0]));

    // Bytes come as they stand in the data, whether that is the user's own or of digits.
    let step = [204.0, 51.0];
    plain.reset();
    let expected = plain.push(&step.map(|byte| byte * BYTE_SCALE)).to_vec();
    let bytes = |own: Option<OwnData>| own.map(|own| OwnData { bytes: true, ..own });
    let of_bytes = Config { own: bytes(own(Normalization::None)), ..config(model) };
    let of_digits = Config { data: "mnist".into(), ..config(model) };
    for config in [of_bytes, of_digits] {
        assert_eq!(Stream::new(&config, &parameters).unwrap().push(&step), expected, "{config:?}");
    }
    // They are divided by 255 before they are normalized.
    let by_feature = Normalization::Feature { mean: vec![0.5, 0.25], deviation: vec![0.125, 2.0] };
    let scaled = Config { own: bytes(own(by_feature)), ..config(model) };
    plain.reset();
    let normal = [(204.0 * BYTE_SCALE - 0.5) / 0.125, (51.0 * BYTE_SCALE - 0.25) / 2.0];
    let expected = plain.push(&normal).to_vec();
    assert_eq!(Stream::new(&scaled, &parameters).unwrap().push(&step), expected);
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let model = Model::new(Dims { t: 2, i: 2, p: 3, h: 4, k: 3 });
    let both = Model { bidirectional: true, ..model };
    let refused = |config: Config, count: usize, parts: &[&str]| {
        let error = Streams::new(&config, &start_of(&config.model).parameters, count).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        parts.iter().for_each(|part| assert!(error.to_string().contains(part), "{part:?} in {error}"));
    };
    refused(config(both), 1, &["both directions", "--bidirectional"]);
    refused(
        Config { own: own(Normalization::Sequence), ..config(model) },
        1,
        &["all their steps", "--normalize feature"],
    );
    refused(config(model), 0, &["0 streams"]);
    refused(config(model), usize::MAX, &["streams", "more memory than there is"]);
    if let Some(bf16) = Isa::bf16() {
        assert!(Streams::with_isa(&config(model), &start_of(&model).parameters, 1, bf16).is_err());
    }
    let parameters = start_of(&model).parameters;
    let mut stream = Stream::new(&config(model), &parameters).unwrap();
    let mean = Stream::new(&config(Model { pool: Pool::Mean, ..model }), &parameters).unwrap();
    let before = stream.state();
    let error = stream.set_state(&mean.state()).unwrap_err().to_string();
    assert!(error.contains("[4, 4, 4]") && error.contains("[4, 4, 0]"), "{error}");
    assert_eq!(stream.state(), before);
}

#[test]
#[should_panic(expected = "a step is [M,I]")]
fn a_step_has_the_models_inputs() {
    let model = Model::new(Dims { t: 2, i: 2, p: 3, h: 4, k: 3 });
    Streams::new(&config(model), &start_of(&model).parameters, 2).unwrap().push(&[0.0; 2]);
}

// ---- predict --stream ----

/// A folder with `model`, trained on the made-up waves, with more `flags`.
fn trained(flags: &str) -> Folder {
    let folder = Folder::new();
    let csv = waves().display().to_string();
    let sizes = "--inputs 2 --hidden 8 --batch-size 12 --steps 60 --quiet";
    folder.run_plain(&format!("train --data {csv} {sizes} --save @model {flags}")).succeeds();
    folder
}

fn waves() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/own_data/waves.csv")
}

/// The numbers of each sequence of the waves, step by step, as their file has them.
fn waves_by_step() -> Vec<Vec<[String; 2]>> {
    let text = fs::read_to_string(waves()).unwrap();
    let sequence = |line: &str| {
        let numbers: Vec<_> = line.split(',').take(16).map(str::to_owned).collect();
        numbers.chunks(2).map(|step| [step[0].clone(), step[1].clone()]).collect()
    };
    text.lines().skip(1).map(sequence).collect()
}

/// Runs `command` with `input`.
fn run_with(folder: &Folder, command: &str, input: &[u8]) -> Run {
    let mut child = program();
    child.args(folder.args(command)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // On its own, for the program writes while it reads; where it ends early, the rest is read by nobody.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let run = Run::new(child.wait_with_output().unwrap());
    writer.join().unwrap();
    run
}

#[test]
fn the_last_step_of_a_sequence_gives_what_predict_gives() {
    for flags in ["", "--pool mean --layers 2 --normalize none", "--input-layer none --pool max"] {
        let folder = trained(flags);
        // Every separator, ends of lines of either kind, and more than one empty line.
        let with_separators = |(n, sequence): (usize, Vec<[String; 2]>)| {
            let (between, end) = [(",", "\n"), (" ", "\r\n"), ("\t", "\n"), (" , ", "\r\n")][n % 4];
            let steps: String = sequence.iter().map(|step| step.join(between) + end).collect();
            steps + &end.repeat(1 + n % 2)
        };
        let text: String = waves_by_step().into_iter().enumerate().map(with_separators).collect();
        let predicted = folder.run_plain(&format!("predict --model @model --json {}", waves().display())).succeeds();
        let run = run_with(&folder, "predict --model @model --stream --json", text.as_bytes()).succeeds();
        let (steps, predicted) = (run.events("prediction"), predicted.events("prediction"));
        assert_eq!((steps.len(), predicted.len()), (36 * 8, 36));
        for (n, (steps, predicted)) in steps.chunks(8).zip(&predicted).enumerate() {
            assert_eq!((&steps[7]["class"], &steps[7]["top"]), (&predicted["class"], &predicted["top"]), "{flags} {n}");
            let all = steps.iter().enumerate().all(|(t, step)| step["sequence"] == n && step["step"] == t + 1);
            assert!(all, "{steps:#?}");
            let probabilities: Vec<f64> =
                steps[7]["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
            assert!(probabilities.len() == 3 && (probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5);
        }
        assert_eq!((&steps[0]["line"], &steps[8]["line"]), (&1.into(), &10.into()));
        let first = run_with(&folder, "predict --model @model --stream", text.as_bytes()).succeeds();
        let best = steps[0]["class"].as_str().unwrap();
        assert!(first.out.starts_with(&format!("sequence 0 step 1: {best} (")), "{}", &first.out[..80]);
        assert_eq!(first.out.lines().count(), 36 * 8);
    }
}

#[test]
fn each_step_is_answered_before_the_next_comes() {
    let folder = trained("");
    let mut command = program();
    command.args(folder.args("predict --model @model --stream")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for step in 1..4 {
        writeln!(input, "0.5 {step}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with(&format!("sequence 0 step {step}: ")), "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_bad_line_is_told_by_its_number() {
    let folder = trained("");
    let bad: [(&[u8], &str); 8] = [
        (b"1 2\n3\n", "line 2: it has 1 number;"),
        (b"1 2 3", "line 1: it has 3 numbers;"),
        (b"\n1 2\n\n1 x\n", "line 4: number 2, \"x\", is no number;"),
        (b"1,,2\n", "line 1: number 2 is missing;"),
        (b"1,2,\n", "line 1: number 3 is missing;"),
        (b"1 nan\n", "line 1: number 2, \"nan\", is not a finite f32;"),
        (b"1e39 1\n", "line 1: number 1, \"1e39\", is not a finite f32;"),
        (b"1 \xff\n", "line 1: it is no text (UTF-8);"),
    ];
    for (input, part) in bad {
        let run = run_with(&folder, "predict --model @model --stream", input);
        assert_eq!((run.code, run.err.lines().count()), (3, 1), "{run:#?}");
        let parts = ["error: standard input: ", part, "; give 2 numbers, separated by commas, spaces or tabs"];
        assert!(parts.iter().all(|part| run.err.contains(part)), "{part}: {run:#?}");
    }
    assert_eq!(run_with(&folder, "predict --model @model --stream", b"").succeeds().out, "");
}

#[test]
fn a_reader_that_goes_away_ends_a_stream_quietly() {
    let folder = trained("");
    let mut command = program();
    command.args(folder.args("predict --model @model --stream")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _ = child.stdin.take().unwrap().write_all(&b"1 2\n".repeat(1000));
    let run = child.wait_with_output().unwrap();
    assert_eq!((run.status.code(), run.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn flags_and_models_that_cannot_stream() {
    let folder = trained("--bidirectional");
    folder.run_plain("predict --model @model --stream").fails_in_one_line(5, &["both directions", "--bidirectional"]);
    folder
        .run_plain("predict --model @model --stream --device cuda")
        .fails_in_one_line(2, &["--device cuda", "processor"]);
    folder.run_plain("predict --model @nowhere --stream").fails_in_one_line(5, &["nowhere"]);
    for more in ["file.csv", "--row 1", "--label-column x", "--threads 2", "--precision bf16"] {
        folder.run_plain(&format!("predict --model @model --stream {more}")).fails_as_misuse(&["--stream"]);
    }
    let folder = trained("--normalize sequence");
    folder
        .run_plain("predict --model @model --stream")
        .fails_in_one_line(5, &["all their steps", "--normalize feature"]);
}
