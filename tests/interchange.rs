//! Models that go to other programs and come from them.
//!
//! What PyTorch, Keras and ONNX Runtime make of the files is for `tests/interchange/peers.py` to compare; `FUSED_LSTM_PYTHON` names
//! the Python that has them. Where there is none, those tests say that they are skipped; where `REQUIRE_PYTHON_PEERS` is set they
//! fail.

mod support;

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::own::{self, Normalization, Normalize, OwnData, Shares};
use fused_lstm::data::{Dataset, Sequences, Values, synthetic};
use fused_lstm::engine::{Engine, State};
use fused_lstm::init::{self, Init};
use fused_lstm::model::{InputLayer, Model, Pool};
use fused_lstm::reference::ReferenceEngine;
use fused_lstm::shape::{Dims, Linear, Tensors};
use fused_lstm::tensor_file::{Tensor, TensorFile};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::models::{check, dataset_of, larger, number};
use support::{Folder, Run};

/// Relative to the largest value; f32 against f64, or against another program's f32.
const BOUND: f64 = 1e-5;

/// The Python that has the other programs; none where none is named and none is required.
fn peers() -> Option<PathBuf> {
    let python = std::env::var_os("FUSED_LSTM_PYTHON").map(PathBuf::from);
    if python.is_none() {
        assert!(
            std::env::var_os("REQUIRE_PYTHON_PEERS").is_none(),
            "REQUIRE_PYTHON_PEERS is set, but not FUSED_LSTM_PYTHON"
        );
        println!("skipped: FUSED_LSTM_PYTHON names no Python that has PyTorch, Keras and ONNX Runtime");
    }
    python
}

/// Runs `peers.py`.
fn ask(python: &Path, what: &str, folder: &Path) {
    let script = here("tests/interchange/peers.py");
    let output = Command::new(python).arg(script).arg(what).arg(folder).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}\n{err}");
    println!("{out}");
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Parameters of which none is zero, the forget bias's neither.
fn parameters(model: &Model) -> Vec<f32> {
    let mut flat = init::parameters(model, Init::Xavier, 3);
    flat.iter_mut().enumerate().for_each(|(k, v)| *v += 0.2 * number(k) + 0.01);
    flat
}

fn save(folder: &Folder, name: &str, config: &Config) -> Vec<f32> {
    let parameters = parameters(&config.model);
    let state = State::new(parameters.clone());
    Checkpoint { config: config.clone(), state }.save(&folder.path(name)).unwrap();
    parameters
}

/// Why no file of these tests is mapped.
const SMALL: &str = "only large files are mapped";

fn floats(values: &Values) -> Vec<f32> {
    match values {
        Values::F32(values) => values.clone(),
        Values::U8 { bytes, scale } => bytes.iter().map(|&byte| f32::from(byte) * scale).collect(),
        Values::Mapped(_) => unreachable!("{SMALL}"),
    }
}

/// Exports the checkpoint in `folder/name/model` in all forms, beside what `peers.py check` is to hold them against: what the
/// reference makes of `prepared`, which is what is made of `raw`.
fn export_and_expect(folder: &Folder, name: &str, raw: &[f32], prepared: &Sequences) {
    let (config, parameters) = Checkpoint::load_model(&folder.path(&format!("{name}/model"))).unwrap();
    let (n, Dims { t, i, p, h, k }) = (prepared.len(), config.model.dims);
    // Nothing is dropped but while training, which is what a trace is of.
    let model = Model { dropout: None, ..config.model };
    let mut engine = ReferenceEngine::<f64>::new(model, config.adam, dataset_of(prepared.clone(), k));
    engine.set_state(&State::new(parameters)).unwrap();
    let mut tensors = BTreeMap::from([
        ("raw".to_owned(), Tensor::f32(&[n, t, i], raw.to_vec())),
        ("prepared".to_owned(), Tensor::f32(&[n, t, i], floats(prepared.values()))),
        ("logits".to_owned(), Tensor::f32(&[n, k], engine.trace(prepared).unwrap().logits)),
        ("probabilities".to_owned(), Tensor::f32(&[n, k], engine.predict(prepared).unwrap())),
    ]);
    if let Some(lengths) = prepared.lengths() {
        let lengths = lengths.iter().map(|&length| length as i32).collect();
        tensors.insert("lengths".to_owned(), Tensor::i32(&[n], lengths));
    }
    let file = TensorFile { tensors, metadata: BTreeMap::new() };
    file.write(&folder.path(&format!("{name}/expected.safetensors")), "").unwrap();
    let Model { layers, bidirectional, input_layer, pool, .. } = config.model;
    let width = (input_layer == InputLayer::Linear).then_some(p);
    let sizes = json!({ "inputs": i, "width": width, "hidden": h, "classes": k, "layers": layers, "bidirectional": bidirectional, "pool": pool });
    fs::write(folder.path(&format!("{name}/model.json")), sizes.to_string()).unwrap();
    let lengths = if prepared.lengths().is_some() { "--lengths" } else { "" };
    for (format, file, more) in
        [("pytorch", "pytorch.safetensors", ""), ("keras", "keras.safetensors", ""), ("onnx", "model.onnx", lengths)]
    {
        let flags = format!("export --model @{name}/model --format {format} --out @{name}/{file} {more}");
        folder.run_plain(&flags).succeeds();
    }
}

/// Configurations with data of each kind of normalisation, and the raw numbers of their test split.
fn normalized(folder: &Folder) -> Vec<(String, Config, Vec<f32>, Sequences)> {
    let digits = synthetic::digits(5, 30, 20, 20);
    let Values::U8 { bytes, .. } = digits.test.values() else { panic!("digits are bytes") };
    let raw = bytes.iter().map(|&byte| byte.into()).collect();
    let mut cases = vec![("digits".to_owned(), Config::new(&digits, 12), raw, digits.test.clone())];
    // Far from zero, of a small range, and one input that never changes.
    let (n, t, i) = (12, 9, 3);
    let value = |at: usize| if at % i == 1 { 0.1 } else { 1000.0 + number(at) * (1 + at % i) as f32 };
    let numbers: Vec<f32> = (0..n * t * i).map(value).collect();
    let labels = (0..n as i32).map(|n| n % 2).collect();
    let tensors = [("x", Tensor::f32(&[n, t, i], numbers)), ("labels", Tensor::i32(&[n], labels))];
    let far = TensorFile { tensors: tensors.map(|(name, x)| (name.to_owned(), x)).into(), ..TensorFile::default() };
    far.write(&folder.path("far.safetensors"), "").unwrap();
    let bytes: Vec<u8> = (0..n * t * i).map(|at| (at * 37 % 256) as u8).collect();
    let labels: Vec<u8> = (0..n).map(|n| (n % 3) as u8).collect();
    let views = [
        ("x", TensorView::new(Dtype::U8, vec![n, t, i], &bytes).unwrap()),
        ("labels", TensorView::new(Dtype::U8, vec![n], &labels).unwrap()),
    ];
    fs::write(folder.path("bytes.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    for (name, normalize) in [
        ("far", Normalize::Feature),
        ("far", Normalize::Sequence),
        ("far", Normalize::None),
        ("bytes", Normalize::None),
        ("bytes", Normalize::Feature),
        ("bytes", Normalize::Sequence),
    ] {
        let path = folder.path(&format!("{name}.safetensors"));
        let data =
            own::load(&path, &own::Options { normalize: Some(normalize), ..own::Options::default() }, None).unwrap();
        let config = Config::new(&data, 8);
        let read = |own| own::read_for(&path, None, (t, i), own).unwrap().sequences;
        let raw = match read(None).values() {
            Values::U8 { bytes, .. } => bytes.iter().map(|&byte| byte.into()).collect(),
            Values::F32(values) => values.clone(),
            Values::Mapped(_) => unreachable!("{SMALL}"),
        };
        cases.push((format!("{name}_{normalize:?}"), config, raw, read(data.own.as_ref())));
    }
    cases
}

#[test]
fn exported_models_give_the_same_in_pytorch_keras_and_onnx_runtime() {
    let Some(python) = peers() else { return };
    let folder = Folder::new();
    let cases = larger().into_iter().enumerate().map(|(n, (model, batch))| {
        let data = Dataset { classes: model.dims.k, ..(*dataset_of(batch.clone(), model.dims.k)).clone() };
        (format!("model{n:02}"), Config { model, ..Config::new(&data, 1) }, floats(batch.values()), batch)
    });
    for (name, config, raw, prepared) in cases.chain(normalized(&folder)) {
        save(&folder, &format!("{name}/model"), &config);
        export_and_expect(&folder, &name, &raw, &prepared);
    }
    ask(&python, "check", &folder.path(""));
}

#[test]
fn models_of_pytorchs_come_in_and_go_back() {
    let Some(python) = peers() else { return };
    let folder = Folder::new();
    ask(&python, "make", &folder.path("made"));
    for name in support::names(&folder.path("made")) {
        let place = format!("made/{name}");
        let about: Value =
            serde_json::from_slice(&fs::read(folder.path(&format!("{place}/model.json"))).unwrap()).unwrap();
        let data = folder.text(&format!("{place}/data.safetensors"));
        let pool = about["pool"].as_str().unwrap();
        let import = format!("import @{place}/theirs.safetensors --format pytorch --normalize none --pool {pool}");
        folder.run_plain(&format!("{import} --data {data} --save @{place}/model")).succeeds();
        let (config, parameters) = Checkpoint::load_model(&folder.path(&format!("{place}/model"))).unwrap();
        let (t, i, k) = (config.model.dims.t, config.model.dims.i, config.model.dims.k);
        let sequences = own::read_for(Path::new(&data), None, (t, i), config.own.as_ref()).unwrap().sequences;
        let theirs = TensorFile::read(&folder.path(&format!("{place}/theirs_gives.safetensors")), 1 << 20).unwrap();
        let mut engine = CpuEngine::new(config.model, config.adam, dataset_of(sequences.clone(), k), 1).unwrap();
        engine.set_state(&State::new(parameters)).unwrap();
        let shape = [sequences.len(), k];
        let expected = theirs.f32("probabilities", &shape).unwrap();
        check(&format!("{name}: probabilities"), &engine.predict(&sequences).unwrap(), expected, BOUND, false);
        // Then back, where PyTorch is to give what it gave itself.
        export_and_expect(&folder, &place, &floats(sequences.values()), &sequences);
        let path = folder.path(&format!("{place}/expected.safetensors"));
        let mut file = TensorFile::read(&path, 1 << 20).unwrap();
        file.tensors.extend(theirs.tensors);
        file.write(&path, "").unwrap();
    }
    ask(&python, "check", &folder.path("made"));
}

/// The examples of a document, in their order: lines that begin with `fused-lstm` are run by this program, and blocks of Python
/// by the other; a block after them shows lines of what they wrote.
fn run_examples(python: &Path, folder: &Folder, text: &str) -> usize {
    let (mut said, mut shown) = (String::new(), 0);
    for block in text.split("\n```").skip(1).step_by(2) {
        let (language, body) = block.split_once('\n').unwrap();
        let mut run = |mut command: Command| {
            let output = command.current_dir(folder.path("")).output().unwrap();
            let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
            assert!(output.status.success(), "{command:?}: {out}\n{err}");
            said.push_str(&out);
        };
        if language == "python" {
            let mut command = Command::new(python);
            command.args(["-c", body]);
            run(command);
        } else if body.starts_with("fused-lstm") {
            for line in body.replace("\\\n", " ").lines() {
                let mut command = support::program();
                command.args(line.split_whitespace().skip(1));
                run(command);
            }
        } else {
            for line in body.lines().filter(|line| line.trim() != "...") {
                assert!(said.lines().any(|said| said == line), "{line:?} is not in what was written:\n{said}");
                shown += 1;
            }
            said.clear();
        }
    }
    shown
}

#[test]
fn the_documents_examples_work() {
    let Some(python) = peers() else { return };
    let readme = fs::read_to_string(here("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Into other programs, and back\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let document = fs::read_to_string(here("docs/interchange.md")).unwrap();
    let folder = Folder::new();
    fs::create_dir_all(folder.path("tests/own_data")).unwrap();
    for name in ["waves.csv", "unlabelled.csv"] {
        let name = format!("tests/own_data/{name}");
        fs::copy(here(&name), folder.path(&name)).unwrap();
    }
    // The document goes on with the model of the section.
    let shown = [section, &document].map(|text| run_examples(&python, &folder, text));
    assert!(shown[0] >= 3 && shown[1] >= 3, "{shown:?}");
}

/// A small model of each kind, with data of the user's own.
fn small_models(folder: &Folder) -> Vec<(&'static str, Config)> {
    let data = here("tests/own_data/waves.csv");
    let options = own::Options { inputs: Some(2), ..own::Options::default() };
    let data = own::load(&data, &options, None).unwrap();
    // As many hidden units as classes: a matrix that is square is turned over too.
    let plain = Config { batch_size: 12, ..Config::new(&data, 3) };
    let dims = plain.model.dims;
    let none = Model { input_layer: InputLayer::None, dims: Dims { p: dims.i, ..dims }, ..plain.model };
    let both = Model { layers: 2, bidirectional: true, pool: Pool::Max, forget_bias: 0.5, ..plain.model };
    let models = [("plain", plain.model), ("none", none), ("both", both)];
    let cases = models.map(|(name, model)| (name, Config { model, ..plain.clone() }));
    cases.iter().for_each(|(name, config)| drop(save(folder, name, config)));
    cases.into()
}

#[test]
fn a_round_trip_changes_nothing_but_where_the_forget_bias_is() {
    let folder = Folder::new();
    let waves = here("tests/own_data/waves.csv").to_str().unwrap().to_owned();
    for (name, config) in small_models(&folder) {
        for format in ["pytorch", "keras"] {
            let (file, back) = (format!("@{name}.{format}"), format!("@{name}-{format}"));
            folder.run_plain(&format!("export --model @{name} --format {format} --out {file}")).succeeds();
            folder.run_plain(&format!("import {file} --format {format} --save {back}")).succeeds();
            let checkpoint = Checkpoint::load(&folder.path(&back[1..])).unwrap();
            let model = Model { forget_bias: 0.0, ..config.model };
            assert_eq!(checkpoint.config, Config { model, ..config.clone() });
            let (mut expected, layout, h) = (parameters(&config.model), model.layout(), model.dims.h);
            for cell in layout.view_mut(&mut expected).cells {
                cell.b[h..2 * h].iter_mut().for_each(|b| *b += config.model.forget_bias);
            }
            assert_eq!(checkpoint.state, State::new(expected), "{name} {format}");

            let probabilities = |model: &str| {
                let run = folder.run_plain(&format!("predict --model @{model} {waves} --json")).succeeds();
                let top = |event: &Value| {
                    event["top"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|top| top["probability"].as_f64().unwrap() as f32)
                        .collect::<Vec<_>>()
                };
                run.events("prediction").iter().flat_map(top).collect::<Vec<_>>()
            };
            check("probabilities", &probabilities(&back[1..]), &probabilities(name), BOUND, false);
            folder.run_plain(&format!("eval --model {back} --data {waves}")).succeeds();
            let resume = format!("train --resume {back} --steps 2 --data {waves} --save @resumed");
            folder.run_plain(&resume).succeeds();
            assert_eq!(Checkpoint::load(&folder.path("resumed")).unwrap().state.step, 2);
            fs::remove_dir_all(folder.path("resumed")).unwrap();
        }
    }
}

#[test]
fn gates_and_matrices_stand_where_the_formats_have_them() {
    let folder = Folder::new();
    let cases = small_models(&folder);
    let (_, config) = cases.iter().find(|(name, _)| *name == "both").unwrap();
    let (model, flat) = (config.model, parameters(&config.model));
    let Dims { p, h, k, .. } = model.dims;
    let Tensors { cells, output: Linear { w: w_out, .. }, .. } = model.layout().view(&flat);
    let read = |format: &str| {
        folder.run_plain(&format!("export --model @both --format {format} --out @both.{format}")).succeeds();
        TensorFile::read(&folder.path(&format!("both.{format}")), 1 << 20).unwrap()
    };
    let (pytorch, keras) = (read("pytorch"), read("keras"));
    let names = |file: &TensorFile| file.tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&pytorch).len(), 4 + 4 * 4);
    let torch = |name: &str, shape: &[usize]| pytorch.f32(name, shape).unwrap();
    // Cells: the first layer forward and backward, then the second.
    let backward = torch("lstm.weight_hh_l0_reverse", &[4 * h, h]);
    let upper = torch("lstm.weight_ih_l1", &[4 * h, 2 * h]);
    let bias = torch("lstm.bias_ih_l1_reverse", &[4 * h]);
    let kernel = keras.f32("bidirectional_1/forward_lstm_1/lstm_cell/kernel", &[2 * h, 4 * h]).unwrap();
    for (gate, unit, from) in [(0, 0, 1), (1, 2, 0), (2, 1, 2), (3, 2, 1)] {
        let column = gate * h + unit;
        assert_eq!(backward[column * h + from], cells[1].w_h[from * 4 * h + column]);
        assert_eq!(upper[column * 2 * h + h + from], cells[2].w_x[(h + from) * 4 * h + column]);
        assert_eq!(kernel[(h + from) * 4 * h + column], cells[2].w_x[(h + from) * 4 * h + column]);
        assert_eq!(bias[column], cells[3].b[column] + if gate == 1 { 0.5 } else { 0.0 });
    }
    assert!(torch("lstm.bias_hh_l1_reverse", &[4 * h]).iter().all(|&v| v == 0.0));
    assert_eq!(torch("output.weight", &[k, 2 * h])[1], w_out[k]);
    assert_eq!(keras.f32("output/kernel", &[2 * h, k]).unwrap(), w_out);
    assert_eq!(keras.f32("bidirectional/backward_lstm/lstm_cell/recurrent_kernel", &[h, 4 * h]).unwrap(), cells[1].w_h);
    assert!(keras.f32("bidirectional/forward_lstm/lstm_cell/kernel", &[p, 4 * h]).is_ok());

    folder.run_plain("export --model @plain --format pytorch --out @plain.pytorch").succeeds();
    let plain = TensorFile::read(&folder.path("plain.pytorch"), 1 << 20).unwrap();
    let (_, config) = cases.iter().find(|(name, _)| *name == "plain").unwrap();
    let flat = parameters(&config.model);
    let w = config.model.layout().view(&flat).output.w;
    let square: Vec<f32> = (0..9).map(|at| w[at % 3 * 3 + at / 3]).collect();
    assert_eq!(plain.f32("output.weight", &[3, 3]).unwrap(), square);

    // ONNX's second layer: both directions, gates i, o, f, c, each a row for every unit.
    folder.run_plain("export --model @both --format onnx --out @both.onnx").succeeds();
    let onnx = fs::read(folder.path("both.onnx")).unwrap();
    let row = |w: &[f32], column: usize| (0..h).map(|from| w[from * 4 * h + column]).collect::<Vec<_>>();
    let gates = |w: &[f32]| (0..4 * h).flat_map(|at| row(w, [0, 3, 1, 2][at / h] * h + at % h)).collect::<Vec<_>>();
    let r: Vec<u8> = [cells[2].w_h, cells[3].w_h].into_iter().flat_map(gates).flat_map(f32::to_le_bytes).collect();
    assert!(onnx.windows(r.len()).any(|bytes| bytes == r));
}

/// Names, shapes and one value for all, of a file of PyTorch's that can be read: I 2, P 4, H 3, K 3.
fn good() -> Vec<(&'static str, Vec<usize>, f32)> {
    vec![
        ("input.weight", vec![4, 2], 0.1),
        ("input.bias", vec![4], 0.1),
        ("lstm.weight_ih_l0", vec![12, 4], 0.1),
        ("lstm.weight_hh_l0", vec![12, 3], 0.1),
        ("lstm.bias_ih_l0", vec![12], 0.1),
        ("lstm.bias_hh_l0", vec![12], 0.1),
        ("output.weight", vec![3, 3], 0.1),
        ("output.bias", vec![3], 0.1),
    ]
}

fn file_of(tensors: &[(&str, Vec<usize>, f32)]) -> TensorFile {
    let tensor = |(name, shape, value): &(&str, Vec<usize>, f32)| {
        ((*name).to_owned(), Tensor::f32(shape, vec![*value; shape.iter().product()]))
    };
    TensorFile { tensors: tensors.iter().map(tensor).collect(), metadata: BTreeMap::new() }
}

const IMPORT: &str = "import @file.safetensors --format pytorch --inputs 2 --save @model --data";

fn import(folder: &Folder, bytes: &[u8]) -> Run {
    fs::write(folder.path("file.safetensors"), bytes).unwrap();
    folder.run_plain(&format!("{IMPORT} {}", here("tests/own_data/waves.csv").display()))
}

#[test]
fn broken_files_get_one_error_each() {
    let folder = Folder::new();
    import(&folder, &file_of(&good()).to_bytes()).succeeds();
    fs::remove_dir_all(folder.path("model")).unwrap();
    let without = |name: &str| good().into_iter().filter(|(other, ..)| *other != name).collect::<Vec<_>>();
    let with =
        |name: &'static str, shape: &[usize], value| [without(name), vec![(name, shape.to_vec(), value)]].concat();
    let renamed = |from: &str, to: &'static str| {
        let name = |(name, shape, value): (&'static str, _, _)| (if name == from { to } else { name }, shape, value);
        good().into_iter().map(name).collect::<Vec<_>>()
    };
    let gru = || [with("lstm.weight_hh_l0", &[9, 3], 0.1)].concat();
    let broken: Vec<(Vec<u8>, Vec<&str>)> = [
        (without("lstm.weight_ih_l0"), vec!["there is no LSTM", "weight_ih_l0"]),
        (with("decoder.weight_ih_l0", &[12, 4], 0.1), vec!["more than one LSTM", "decoder.", "lstm."]),
        (gru(), vec!["lstm.weight_hh_l0 is [9, 3], not [12, 3]", "GRU"]),
        (with("lstm.weight_hh_l0", &[3, 3], 0.1), vec!["[3, 3], not [12, 3]", "plain RNN"]),
        (with("lstm.weight_hh_l0", &[13, 3], 0.1), vec!["[13, 3], not [12, 3]"]),
        (with("lstm.weight_hr_l0", &[2, 3], 0.1), vec!["lstm.weight_hr_l0", "proj_size"]),
        (without("lstm.weight_hh_l0"), vec!["lstm.weight_hh_l0 is missing"]),
        (without("lstm.bias_hh_l0"), vec!["lstm.bias_hh_l0 is missing"]),
        (with("lstm.weight_hh_l0", &[36], 0.1), vec!["lstm.weight_hh_l0 is [36]: not a matrix"]),
        (with("lstm.weight_ih_l0", &[11, 4], 0.1), vec!["lstm.weight_ih_l0 is [11, 4], not [12, 4]"]),
        (with("lstm.bias_ih_l0", &[4], 0.1), vec!["lstm.bias_ih_l0 is [4], not [12]"]),
        (with("input.weight", &[5, 2], 0.1), vec!["input.weight is [5, 2], not [4, 2]"]),
        (with("output.weight", &[3, 4], 0.1), vec!["output.weight is [3, 4], not [3, 3]"]),
        (with("lstm.weight_ih_l0", &[12, 4], f32::NAN), vec!["lstm.weight_ih_l0 holds numbers that are NaN"]),
        (with("output.bias", &[3], f32::INFINITY), vec!["output.bias holds numbers that are NaN, infinite"]),
        (with("middle.weight", &[4, 4], 0.1), vec!["3 linear layers", "input.weight, middle.weight, output.weight"]),
        (with("norm.running_mean", &[4], 0.1), vec!["norm.running_mean belongs to no layer"]),
        (with("lstm.weight_ih_l1_reverse", &[12, 3], 0.1), vec!["lstm.weight_ih_l1_reverse belongs to no layer"]),
        (with("lstm.weight_ih_l1", &[12, 3], 0.1), vec!["lstm.weight_hh_l1 is missing"]),
        (with("lstm.weight_hh_l0", &[0, 0], 0.1), vec!["lstm.weight_hh_l0 is [0, 0]: not a matrix"]),
        (renamed("output.weight", "out"), vec!["out belongs to no layer"]),
        (
            good().into_iter().filter(|(name, ..)| !name.contains("put.")).collect(),
            vec!["no linear layer after the LSTM"],
        ),
        (
            good().into_iter().filter(|(name, ..)| !name.starts_with("out")).collect(),
            vec!["no linear layer after the LSTM", "input.weight"],
        ),
    ]
    .into_iter()
    .map(|(tensors, parts)| (file_of(&tensors).to_bytes(), parts))
    .collect();
    let whole = file_of(&good()).to_bytes();
    let bytes = [
        (b"PK\x03\x04 a pickle in a zip".to_vec(), vec!["not a whole safetensors file"]),
        (whole[..whole.len() - 5].to_vec(), vec!["not a whole safetensors file"]),
        (Vec::new(), vec!["not a whole safetensors file"]),
        (typed(Dtype::I64, &[0; 96]), vec!["output.weight", "I64, not F16, BF16, F32 or F64"]),
        (typed(Dtype::F64, &1e300_f64.to_le_bytes().repeat(9)), vec!["output.weight", "too large for 32 bits"]),
    ];
    assert!(broken.len() + bytes.len() > 10);
    for (bytes, parts) in broken.into_iter().chain(bytes) {
        let parts = [&["file.safetensors: "], &parts[..]].concat();
        import(&folder, &bytes).fails_in_one_line(5, &parts);
        assert!(!folder.path("model").exists(), "{parts:?}");
    }
    fs::remove_file(folder.path("file.safetensors")).unwrap();
    folder.run_plain(&format!("{IMPORT} @no.csv")).fails_in_one_line(5, &["there is no such file"]);
    fs::create_dir(folder.path("file.safetensors")).unwrap();
    folder.run_plain(&format!("{IMPORT} @no.csv")).fails_in_one_line(5, &["it is a folder, not a file"]);
}

/// The good file, with `output.weight` of this type.
fn typed(dtype: Dtype, data: &[u8]) -> Vec<u8> {
    let floats: Vec<_> = good().into_iter().filter(|(name, ..)| *name != "output.weight").collect();
    let bytes: Vec<Vec<u8>> =
        floats.iter().map(|(_, shape, value)| value.to_le_bytes().repeat(shape.iter().product())).collect();
    let views = floats
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let size = if dtype == Dtype::F16 || dtype == Dtype::BF16 { 2 } else { 8 };
    let odd = TensorView::new(dtype, vec![3, 3], &data[..9 * size]).unwrap();
    safetensors::serialize(views.chain([("output.weight", odd)]), None).unwrap()
}

#[test]
fn tensors_of_every_type_of_floats_are_read() {
    // 1.5 in each.
    let types = [
        (Dtype::F16, 0x3e00_u16.to_le_bytes().to_vec()),
        (Dtype::BF16, 0x3fc0_u16.to_le_bytes().to_vec()),
        (Dtype::F64, 1.5_f64.to_le_bytes().to_vec()),
    ];
    for (dtype, number) in types {
        let folder = Folder::new();
        import(&folder, &typed(dtype, &number.repeat(9))).succeeds();
        let (config, flat) = Checkpoint::load_model(&folder.path("model")).unwrap();
        let Tensors { cells, output, .. } = config.model.layout().view(&flat);
        assert_eq!(output.w, [1.5; 9]);
        assert_eq!(cells[0].b, [0.2; 12], "the sum of two biases");
    }
}

#[test]
fn linear_layers_are_told_apart_by_name_or_by_what_fits() {
    let folder = Folder::new();
    let renamed = |tensors: Vec<(&str, Vec<usize>, f32)>, names: [&str; 2]| {
        let name = |name: &str| name.replace("input", names[0]).replace("output", names[1]);
        let tensors: Vec<_> = tensors.into_iter().map(|(n, shape, value)| (name(n), shape, value)).collect();
        file_of(&tensors.iter().map(|(n, shape, value)| (n.as_str(), shape.clone(), *value)).collect::<Vec<_>>())
    };
    import(&folder, &renamed(good(), ["z", "a"]).to_bytes()).succeeds();
    let (config, _) = Checkpoint::load_model(&folder.path("model")).unwrap();
    assert_eq!(config.model.dims, Dims { t: 8, i: 2, p: 4, h: 3, k: 3 });
    fs::remove_dir_all(folder.path("model")).unwrap();

    // Both layers 3 x 3 around an LSTM of 3 and 3.
    let square: Vec<_> = good()
        .into_iter()
        .map(|(name, shape, value)| match name {
            "input.weight" => (name, vec![3, 3], value),
            "input.bias" => (name, vec![3], value),
            "lstm.weight_ih_l0" => (name, vec![12, 3], value),
            _ => (name, shape, value),
        })
        .collect();
    let parts = ["a.weight [3, 3]", "z.weight [3, 3]", "name them input and output"];
    import(&folder, &renamed(square, ["z", "a"]).to_bytes()).fails_in_one_line(5, &parts);
    let wide: Vec<_> = good()
        .into_iter()
        .map(|(name, shape, value)| (name, if name == "output.weight" { vec![3, 7] } else { shape }, value))
        .collect();
    let parts = ["a.weight [3, 7] and z.weight [4, 2] do not fit", "reads 4 numbers and gives 3"];
    import(&folder, &renamed(wide, ["z", "a"]).to_bytes()).fails_in_one_line(5, &parts);
}

#[test]
fn kerass_paths_are_put_in_order() {
    let folder = Folder::new();
    let mut tensors = vec![("dense/kernel", vec![4, 3], 0.5), ("dense/bias", vec![3], 0.0)];
    // Ten before two, if they were ordered as text.
    for (layer, inputs, value) in [("net/lstm_2/lstm_cell", 2, 0.1), ("net/lstm_10/lstm_cell", 4, 0.2)] {
        for (what, shape) in [("kernel", vec![inputs, 16]), ("recurrent_kernel", vec![4, 16]), ("bias", vec![16])] {
            tensors.push((format!("{layer}/{what}").leak(), shape, value));
        }
    }
    let run = |tensors: &[(&str, Vec<usize>, f32)]| {
        let _ = fs::remove_dir_all(folder.path("model"));
        fs::write(folder.path("file.safetensors"), file_of(tensors).to_bytes()).unwrap();
        let waves = here("tests/own_data/waves.csv");
        let flags =
            format!("import @file.safetensors --format keras --inputs 2 --save @model --data {}", waves.display());
        folder.run_plain(&flags)
    };
    run(&tensors).succeeds();
    let (config, flat) = Checkpoint::load_model(&folder.path("model")).unwrap();
    assert_eq!((config.model.layers, config.model.input_layer), (2, InputLayer::None));
    let cells = config.model.layout().view(&flat).cells;
    assert_eq!((cells[0].w_h[0], cells[1].w_h[0]), (0.1, 0.2));

    let renamed = |from: &str, to: &str| -> Vec<_> {
        tensors.iter().map(|(name, shape, value)| (&*name.replace(from, to).leak(), shape.clone(), *value)).collect()
    };
    run(&renamed("recurrent_kernel", "recurrent")).fails_in_one_line(5, &["there is no LSTM", "recurrent_kernel"]);
    run(&renamed("lstm_10", "backward_lstm_10")).fails_in_one_line(5, &["reads in one direction", "net/lstm_2"]);
    run(&renamed("dense/bias", "dense/gamma")).fails_in_one_line(5, &["dense/gamma belongs to no layer"]);
    let gru: Vec<_> = tensors
        .iter()
        .map(|(name, shape, value)| (*name, shape.iter().map(|&n| if n == 16 { 12 } else { n }).collect(), *value))
        .collect();
    run(&gru).fails_in_one_line(5, &["recurrent_kernel is [4, 12], not [4, 16]", "GRU"]);
}

#[test]
fn wrong_usage_is_told() {
    let folder = Folder::new();
    small_models(&folder);
    let waves = here("tests/own_data/waves.csv").display().to_string();
    let run = |command: &str| folder.run_plain(command);
    run("export --model @plain --format pytorch --out @x --lengths")
        .fails_in_one_line(2, &["--lengths", "--format onnx"]);
    // Whoever leaves out lengths that the data had is told.
    let mut padded = Checkpoint::load(&folder.path("plain")).unwrap();
    assert_eq!(run("export --model @plain --format onnx --out @told").succeeds().err, "");
    let names = (0..padded.config.model.dims.k).map(|k| k.to_string()).collect();
    padded.config.own = Some(OwnData {
        class_names: names,
        normalization: Normalization::None,
        split: Shares([8, 1, 1]),
        split_seed: 0,
        any_length: true,
        bytes: false,
    });
    padded.save(&folder.path("padded")).unwrap();
    let export = "export --model @padded --format onnx --out @told";
    let said = run(export).succeeds().err;
    assert!(said.contains("sequences of different lengths; with --lengths") && said.lines().count() == 1, "{said}");
    assert_eq!(run(&format!("{export} --lengths")).succeeds().err, "");
    fs::remove_file(folder.path("told")).unwrap();
    run("export --model @nowhere --format onnx --out @x").fails_in_one_line(5, &["there is no such folder"]);
    run("export --model @plain --format onnx --out @no/x").fails_in_one_line(1, &["cannot write", "--out"]);
    run("export --model @plain --format hdf5 --out @x").fails_as_misuse(&["hdf5"]);
    assert!(!folder.path("x").exists());

    fs::write(folder.path("file"), file_of(&good()).to_bytes()).unwrap();
    let import = "import @file --format pytorch --save @new";
    run(import).fails_in_one_line(2, &["--data", "does not tell what sequences the model reads"]);
    run("import @file --format onnx --save @new").fails_as_misuse(&["onnx"]);
    run(&format!("{import} --data {waves} --inputs 1")).fails(5, &["for 16 steps of 2 inputs", "16 of 1"]);
    run(&format!("{import} --data {waves} --inputs 2 --batch-size 100")).fails(2, &["--batch-size 100", "only 30"]);
    run(&format!("{import} --data @nothing.csv")).fails(3, &["does not exist"]);
    run("export --model @plain --format pytorch --out @told").succeeds();
    let told = "import @told --format pytorch --save @new";
    run(&format!("{told} --normalize none")).fails_in_one_line(2, &["--normalize", "name one with --data"]);
    run(&format!("{told} --batch-size 0")).fails_in_one_line(2, &["--batch-size"]);
    run("import @told --format keras --save @new").fails_in_one_line(5, &["there is no LSTM"]);
    run("import @told --format pytorch --save @told").fails_in_one_line(2, &["--save", "not a folder"]);

    // A configuration that is not of the tensors beside it.
    let mut file = TensorFile::read(&folder.path("told"), 1 << 20).unwrap();
    let other = file_of(&good());
    (file.tensors, _) = (other.tensors, other.metadata);
    fs::write(folder.path("told"), file.to_bytes()).unwrap();
    run(told).fails_in_one_line(5, &["metadata", "of a model of other sizes than the tensors"]);
    assert!(!folder.path("new").exists());
    run(&format!("{import} --data {waves} --inputs 2 --pool mean --batch-size 7")).succeeds();
    let Config { model, batch_size, .. } = Checkpoint::load_model(&folder.path("new")).unwrap().0;
    assert_eq!((model.pool, batch_size, model.dims.t), (Pool::Mean, 7, 8));
}
