//! Streams: after each step what the whole engine gives for the steps so far, whatever the model, the number of streams and
//! the vectors.

mod support;

use fused_lstm::config::Config;
use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::data::own::{Normalization, OwnData, Shares};
use fused_lstm::data::{Sequences, Values};
use fused_lstm::engine::Engine;
use fused_lstm::model::{Model, Pool};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use fused_lstm::stream::{Stream, Streams};
use support::models::{dataset_of, larger, number, sequences, start_of};

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
    Some(OwnData { class_names: vec![String::new(); 3], normalization, split: Shares([8, 1, 1]), split_seed: 0 })
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
