//! People's own data: files of every form, made by the real programs (`own_data/make.py` made them), and broken ones.

mod support;

use fused_lstm::data::own::{self, Normalize, Options};
use fused_lstm::data::{Dataset, Sequences, Values};
use std::fs;
use std::path::{Path, PathBuf};
use support::Folder;

fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/own_data").join(name)
}

fn plain() -> Options {
    Options { normalize: Some(Normalize::None), ..Options::default() }
}

fn load(name: &str, options: &Options) -> Dataset {
    own::load(&made(name), options, None).unwrap_or_else(|e| panic!("{e}"))
}

fn names(data: &Dataset) -> Vec<&str> {
    data.own.as_ref().unwrap().class_names.iter().map(String::as_str).collect()
}

fn floats(sequences: &Sequences) -> &[f32] {
    match sequences.values() {
        Values::F32(values) => values,
        Values::U8 { .. } => panic!("bytes"),
    }
}

/// All sequences, sorted, each with the name of its class.
fn contents(data: &Dataset) -> Vec<(Vec<f32>, String)> {
    let mut all = Vec::new();
    for part in [&data.train, &data.validation, &data.test] {
        let rows = floats(part).chunks_exact(part.t() * part.i());
        all.extend(rows.zip(part.labels()).map(|(row, &label)| (row.to_vec(), data.class_name(label as usize))));
    }
    all.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    all
}

/// What make.py wrote, as its CSV has it.
fn truth() -> Vec<(Vec<f32>, String)> {
    let text = fs::read_to_string(made("waves.csv")).unwrap();
    let mut all: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| {
            let (numbers, label) = line.rsplit_once(',').unwrap();
            (numbers.split(',').map(|v| v.parse().unwrap()).collect::<Vec<f32>>(), label.to_owned())
        })
        .collect();
    all.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    all
}

// ---- good files ----

#[test]
fn every_form_gives_the_same_sequences() {
    let truth = truth();
    let options = Options { inputs: Some(2), ..plain() };
    for (file, classes) in [
        ("waves.csv", ["saw", "sine", "square"]),
        ("f64.npz", ["saw", "sine", "square"]),
        ("f32.npz", ["0", "1", "2"]),
        ("f16.npz", ["0", "1", "2"]),
        ("big_endian_fortran.npz", ["0", "1", "2"]),
        ("pair", ["-1", "0", "1"]),
        ("f32.safetensors", ["0", "1", "2"]),
    ] {
        let data = load(file, &options);
        assert_eq!((data.name, data.classes, data.train.t(), data.train.i()), ("own", 3, 8, 2), "{file}");
        assert_eq!(names(&data), classes, "{file}");
        let number = |name: &str| ["sine", "square", "saw"].iter().position(|n| *n == name).unwrap();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= if file == "f16.npz" { b.abs() / 2048.0 } else { 0.0 };
        let contents = contents(&data);
        for want in &truth {
            let have = contents.iter().find(|have| have.0.iter().zip(&want.0).all(close));
            let have = have.unwrap_or_else(|| panic!("{file}: {want:?} is missing"));
            let label = match classes[0] {
                "saw" => want.1.clone(),
                "-1" => (number(&want.1) as i32 - 1).to_string(),
                _ => number(&want.1).to_string(),
            };
            assert_eq!(have.1, label, "{file}");
        }
    }
}

#[test]
fn keras_names_tell_the_test_sequences_and_bytes_stay_bytes() {
    let data = load("keras.npz", &Options::default());
    let Values::U8 { scale, bytes } = data.train.values() else { panic!("not bytes") };
    assert_eq!((*scale, bytes.len()), (1.0 / 255.0, data.train.len() * 16));
    assert_eq!((data.train.len() + data.validation.len(), data.test.len()), (24, 12));
    assert_eq!(data.test.labels(), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn the_archives_files_are_read() {
    let truth = truth();
    let one = load("archive", &plain());
    assert_eq!((one.train.t(), one.train.i(), names(&one)), (8, 1, vec!["-1", "0", "1"]));
    let test = Options { test: Some(made("Waves_TEST.ts")), ..plain() };
    let two = load("Waves_TRAIN.ts", &test);
    assert_eq!((two.train.t(), two.train.i(), names(&two)), (8, 2, vec!["saw", "sine", "square"]));
    assert_eq!((one.test.len(), two.test.len()), (12, 12));
    assert_eq!(contents(&two), truth);
    let first = |row: &[f32]| row.iter().step_by(2).copied().collect::<Vec<_>>();
    let mut values: Vec<_> = truth.iter().map(|(row, _)| first(row)).collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(contents(&one).into_iter().map(|(row, _)| row).collect::<Vec<_>>(), values);
}

#[test]
fn a_table_is_cut_into_steps_and_the_label_can_be_anywhere() {
    let folder = Folder::new();
    let file = folder.path("data.csv");
    let cells = |label: &str, k: usize| format!("{k},1.5,{label},-2,3e1,{k},0");
    let lines: Vec<_> =
        (0..9).map(|k| cells(["b", "a\"x", "1.0"][k % 3], k).replace("a\"x", "\"a\"\"x, y\"")).collect();
    fs::write(&file, format!("\u{feff}{}\n\n", lines.join("\r\n"))).unwrap();
    let load = |options: Options| own::load(&file, &options, None).unwrap();
    let options = Options { label_column: Some("3".parse().unwrap()), steps: Some(3), ..plain() };
    let data = load(options.clone());
    assert_eq!((data.train.t(), data.train.i(), names(&data)), (3, 2, vec!["1", "a\"x, y", "b"]));
    assert_eq!(contents(&data)[4], (vec![4.0, 1.5, -2.0, 30.0, 4.0, 0.0], "a\"x, y".into()));
    let data = load(Options { steps: None, ..options.clone() });
    assert_eq!((data.train.t(), data.train.i()), (6, 1), "one input a step");

    // With a line of names; then the label needs no number.
    fs::write(&file, format!("a,b,Class,c,d,e,f\n{}", lines.join("\n"))).unwrap();
    assert_eq!(names(&load(plain())), ["1", "a\"x, y", "b"]);
    let rows = "1,2,3\n2,4,3\n3,5,4\n1,3,4\n2,2,4\n3,1,3\n".repeat(3);
    fs::write(&file, format!("k,x,kind of it\n{rows}")).unwrap();
    assert_eq!(names(&load(plain())), ["3", "4"], "the last column is the label's");
    let data = load(Options { label_column: Some("k".parse().unwrap()), ..plain() });
    assert_eq!((names(&data), data.train.t()), (vec!["1", "2", "3"], 2));
}
