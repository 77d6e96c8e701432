//! People's own data: files of every form, made by the real programs (`own_data/make.py` made them), and broken ones.

mod support;

use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::own::{self, Normalize, Options};
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use fused_lstm::engine::Engine;
use fused_lstm::train::{Plan, Unwatched, train};
use serde_json::json;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{Folder, run};

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
        other => panic!("{other:?}"),
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
fn a_batch_is_of_all_sequences_where_there_are_fewer_than_usual() {
    let folder = Folder::new();
    let train = format!("train --data {} --inputs 2 --hidden 4 --steps 2 --device cpu", made("waves.csv").display());
    folder.run_plain(&format!("{train} --quiet --save @model")).succeeds();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path("model/config.json")).unwrap()).unwrap();
    assert_eq!((&config["batch_size"], &config["train_sequences"]), (&30.into(), &30.into()));
    let parts = ["--batch-size 31", "the training data has only 30 sequences"];
    folder.run_plain(&format!("{train} --batch-size 31")).fails_in_one_line(2, &parts);
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

/// All sequences with their lengths and classes, sorted; the numbers beyond a length are left out.
fn ragged(data: &Dataset) -> Vec<(Vec<f32>, String)> {
    let mut all = Vec::new();
    for part in [&data.train, &data.validation, &data.test] {
        let class = |n: usize| data.class_name(part.labels()[n] as usize);
        all.extend((0..part.len()).map(|n| (part.numbers(n).into_owned(), class(n))));
        assert!(floats(part).iter().all(|v| v.is_finite()), "what stands beyond an end is gone");
    }
    all.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    all
}

/// The same of what make.py wrote, of as many inputs as wanted.
fn ragged_truth(inputs: usize) -> Vec<(Vec<f32>, String)> {
    let text = fs::read_to_string(made("lengths.csv")).unwrap();
    let mut all: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| {
            let (numbers, label) = line.rsplit_once(',').unwrap();
            let numbers = numbers.trim_end_matches(',').split(',').map(|v| v.parse().unwrap());
            (numbers.step_by(3 - inputs).collect::<Vec<f32>>(), label.to_owned())
        })
        .collect();
    all.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    all
}

#[test]
fn sequences_of_different_lengths_are_read_in_every_form() {
    let truth = ragged_truth(2);
    assert!((3..=8).all(|steps| truth.iter().any(|(numbers, _)| numbers.len() == 2 * steps)), "all lengths");
    let test = Some(made("Lengths_TEST.ts"));
    let first = Some("1".parse().unwrap());
    for (file, options) in [
        ("lengths.csv", Options { inputs: Some(2), ..plain() }),
        ("lengths.csv", Options { steps: Some(8), ..plain() }),
        ("lengths_first.tsv.gz", Options { inputs: Some(2), label_column: first, ..plain() }),
        ("lengths.npz", plain()),
        ("lengths_pair", plain()),
        ("lengths.safetensors", plain()),
        ("Lengths_TRAIN.ts", Options { test, ..plain() }),
        ("lengths_archive", plain()),
    ] {
        let data = load(file, &options);
        let inputs = if file == "lengths_archive" { 1 } else { 2 };
        assert_eq!((data.train.t(), data.train.i(), data.classes), (8, inputs, 3), "{file}");
        assert!(data.has_lengths() && data.own.as_ref().unwrap().any_length, "{file}");
        assert!(data.description.contains("3 to 8 steps of "), "{}", data.description);
        let number = |name: &str| ["sine", "square", "saw"].iter().position(|n| *n == name).unwrap().to_string();
        let have = ragged(&data);
        assert_eq!(have.len(), 36, "{file}");
        for ((have, label), (want, name)) in have.iter().zip(ragged_truth(inputs)) {
            assert_eq!(*have, want, "{file}");
            assert!(*label == name || *label == number(&name), "{file}: {label} {name}");
        }
    }
    let pair = load("lengths_pair", &plain());
    assert_eq!(pair.test.len(), 12);
    let whole = load("waves.csv", &Options { inputs: Some(2), ..plain() });
    assert!(!whole.has_lengths() && !whole.own.unwrap().any_length);
}

#[test]
fn lines_end_early_where_no_label_follows() {
    let folder = Folder::new();
    let file = folder.path("d.csv");
    let lines: String = (0..9).map(|k| format!("c{}{}\n", k % 2, ",7".repeat(1 + k % 3))).collect();
    fs::write(&file, &lines).unwrap();
    let options = Options { label_column: Some("1".parse().unwrap()), ..plain() };
    let data = own::load(&file, &options, None).unwrap();
    let mut lengths: Vec<_> = ragged(&data).iter().map(|(numbers, _)| numbers.len()).collect();
    lengths.sort_unstable();
    assert_eq!((data.train.t(), lengths), (3, vec![1, 1, 1, 2, 2, 2, 3, 3, 3]));
    // Cells that are empty in all lines are no steps.
    fs::write(&file, (0..9).map(|k| format!("1,2,,,c{}\n", k % 2)).collect::<String>()).unwrap();
    let data = own::load(&file, &plain(), None).unwrap();
    assert_eq!((data.train.t(), data.has_lengths()), (2, false));
    // A test file may have other lengths, if there are any.
    let test = folder.path("test.csv");
    fs::write(&test, "1,2,3,4,c0\n1,2,,,c1\n").unwrap();
    let data = own::load(&file, &Options { test: Some(test.clone()), ..plain() }, None).unwrap();
    assert_eq!((data.train.t(), data.train.lengths().unwrap()[0], data.test.lengths()), (4, 2, Some(&[4, 2][..])));
    fs::write(&test, "1,2,3,4,c0\n1,2,3,4,c1\n").unwrap();
    let error = own::load(&file, &Options { test: Some(test), ..plain() }, None).unwrap_err().to_string();
    assert!(error.contains("test sequences of 4 steps of 1 inputs"), "{error}");
}

#[test]
fn statistics_are_of_the_steps_that_there_are() {
    for normalize in [Normalize::Feature, Normalize::Sequence] {
        let bare = load("lengths.npz", &plain());
        let seen = load("lengths.npz", &Options { normalize: Some(normalize), ..plain() });
        let of = |data: &Dataset, n: usize, input: usize| -> Vec<f64> {
            data.train.numbers(n).iter().skip(input).step_by(2).map(|&v| v.into()).collect()
        };
        let sequences = bare.train.len();
        for input in 0..2 {
            let all: Vec<f64> = (0..sequences).flat_map(|n| of(&bare, n, input)).collect();
            for n in 0..sequences {
                let by = if normalize == Normalize::Feature { all.clone() } else { of(&bare, n, input) };
                let mean = by.iter().sum::<f64>() / by.len() as f64;
                let deviation = (by.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / by.len() as f64).sqrt();
                for (raw, seen) in of(&bare, n, input).iter().zip(of(&seen, n, input)) {
                    assert!(((raw - mean) / deviation - seen).abs() < 1e-5, "{normalize:?} {n} {input}");
                }
            }
        }
    }
}

#[test]
fn gzip_files_are_read_and_broken_ones_refused() {
    let pack = |bytes: &[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let folder = Folder::new();
    let csv = fs::read(made("waves.csv")).unwrap();
    let options = Options { inputs: Some(2), ..plain() };
    let contents_of = |name: &str, bytes: &[u8]| {
        fs::write(folder.path(name), bytes).unwrap();
        contents(&own::load(&folder.path(name), &options, None).unwrap())
    };
    assert_eq!(contents_of("waves.csv.gz", &pack(&csv)), truth());
    // Two parts, one after the other, as `cat` makes them.
    let parts = [pack(&csv[..1000]), pack(&csv[1000..])].concat();
    assert_eq!(contents_of("waves.csv.GZ", &parts), truth());
    for name in ["Waves_TRAIN.ts", "f64.npz", "f32.safetensors", "archive/Waves_TRAIN.tsv"] {
        let bytes = fs::read(made(name)).unwrap();
        let packed = format!("{}.gz", name.trim_start_matches("archive/"));
        assert_eq!(contents_of(&packed, &pack(&bytes)), contents(&load(name, &plain())), "{name}");
    }
    let good = pack(&csv);
    let refused = |content: &[u8], parts: &[&str]| refused(&folder, "d.csv.gz", content, parts);
    refused(&good[..good.len() / 2], &["gzip data ends early, after ", "good copy"]);
    refused(&good[..good.len() - 3], &["gzip data ends early"]);
    refused(&good[..4], &["gzip data ends early, after 0 bytes"]);
    let mut bad = good.clone();
    let end = bad.len();
    bad[end - 8] ^= 1;
    refused(&bad, &["gzip data is corrupt after 4736 bytes"]);
    refused(&[&good[..], b"more of it, no gzip"].concat(), &["gzip data is corrupt after 4736 bytes"]);
    refused(&pack(b""), &["is empty (0 bytes, packed by gzip)"]);
    refused(&pack(b"1,2,x\n1,two,y\n"), &["line 2, column 2 is \"two\""]);
    refused(b"", &["is empty (0 bytes)"]);
}

// ---- broken files ----

/// Trains on a file and expects one line that names it, with exit code 3.
#[track_caller]
fn refused(folder: &Folder, name: &str, content: &[u8], parts: &[&str]) {
    let file = folder.path(name);
    fs::write(&file, content).unwrap();
    refused_path(&file, &[], parts);
}

#[track_caller]
fn refused_path(file: &Path, flags: &[&str], parts: &[&str]) {
    let mut args =
        vec!["train", "--data", file.to_str().unwrap(), "--hidden", "4", "--batch-size", "2", "--steps", "1"];
    args.extend(flags);
    let all: Vec<_> = [file.to_str().unwrap()].iter().chain(parts).copied().collect();
    run(&args).fails_in_one_line(3, &all);
}

/// An `.npy` file of form 1.
fn npy(descr: &str, shape: &str, payload: &[u8]) -> Vec<u8> {
    raw_npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), payload)
}

fn raw_npy(header: &str, payload: &[u8]) -> Vec<u8> {
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(payload);
    file
}

/// A stored zip file of these entries.
fn zip(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut fields = vec![0; 4];
        fields.extend([0; 4]);
        fields.extend(crc.sum().to_le_bytes());
        fields.extend((content.len() as u32).to_le_bytes());
        fields.extend((content.len() as u32).to_le_bytes());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0");
        directory.extend(&fields[2..]);
        directory.extend([0; 10]);
        directory.extend((file.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(b"PK\x03\x04\x14\0\0\0");
        file.extend(&fields[2..]);
        file.extend(name.as_bytes());
        file.extend(content);
    }
    let (at, count) = (file.len() as u32, entries.len() as u16);
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0; 2]);
    file
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Good arrays: 6 sequences of 2 steps of 1 input, two classes.
fn good_x() -> Vec<u8> {
    npy("<f4", "(6, 2, 1)", &f32s(&[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]))
}

fn good_y() -> Vec<u8> {
    npy("|u1", "(6,)", &[0, 1, 0, 1, 0, 1])
}

#[test]
fn broken_npz_files() {
    let folder = Folder::new();
    let refused = |content: &[u8], parts: &[&str]| refused(&folder, "d.npz", content, parts);
    let pair = |x: Vec<u8>, y: Vec<u8>| zip(&[("x.npy", x), ("y.npy", y)]);
    let good = pair(good_x(), good_y());
    fs::write(folder.path("d.npz"), &good).unwrap();
    assert!(own::load(&folder.path("d.npz"), &plain(), None).is_ok());

    refused(b"", &["is empty (0 bytes)"]);
    refused(b"hello", &["no zip file", "numpy.savez"]);
    refused(&good[..good.len() - 30], &["ends early", "directory"]);
    let mut bad = good.clone();
    let at = bad.len() - 6;
    bad[at..at + 4].copy_from_slice(&[9, 0, 0, 0]);
    refused(&bad, &["directory is broken at entry 0"]);
    let mut bad = good.clone();
    let number = bad.windows(8).position(|w| *w == f32s(&[4., 5.])[..]).unwrap();
    bad[number] ^= 1;
    refused(&bad, &["entry x.npy", "checksum"]);
    // The directory's first entry claims almost 4 GB.
    let mut bad = good.clone();
    let entry = bad.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bad[entry + 20..entry + 28].copy_from_slice(&[0xf0, 0xff, 0xff, 0xff, 0xf0, 0xff, 0xff, 0xff]);
    refused(&bad, &["entry x.npy", "claims 4294967280", "than the file has left"]);
    let mut bad = good.clone();
    bad[entry + 24..entry + 28].copy_from_slice(&[0, 0, 0, 0x70]);
    refused(&bad, &["entry x.npy", "claims 1879048192 bytes", "more than can be"]);
    let mut bad = good.clone();
    bad[entry + 10] = 12;
    refused(&bad, &["entry x.npy", "packed by method 12"]);
    let mut bad = good.clone();
    bad[entry + 10] = 8;
    refused(&bad, &["entry x.npy"]);
    let mut bad = good;
    bad[entry + 8] = 1;
    refused(&bad, &["entry x.npy", "encrypted"]);
    refused(&zip(&[("y.npy", good_y())]), &["neither x nor x_train", "name the arrays x and y"]);
    refused(&zip(&[("x.npy", good_x())]), &["has x but no y", "class of each sequence"]);
    refused(&pair(good_x(), npy("|u1", "(5,)", &[0; 5])), &["y has 5 labels for 6 sequences"]);
    refused(&pair(good_x(), npy("<f4", "(6,)", &f32s(&[0.; 6]))), &["y is of type float32", "integers"]);
    refused(&pair(good_x(), npy("|u1", "(6, 2)", &[0; 12])), &["y has the shape [6, 2]"]);
    refused(&pair(good_x(), npy("|u1", "(6,)", &[3; 6])), &["one class only, \"3\""]);
    refused(&pair(npy("<f4", "(12,)", &f32s(&[0.; 12])), good_y()), &["x has the shape [12]"]);
    refused(&pair(npy("<f4", "(6, 0, 1)", &[]), good_y()), &["x has the shape [6, 0, 1]", "nothing in it"]);
    let nan = npy("<f4", "(6, 2, 1)", &f32s(&[0., 1., 2., 3., 4., f32::NAN, 6., 7., 8., 9., 10., 11.]));
    refused(&pair(nan, good_y()), &["sequence 2, step 1, input 0 (counted from 0) is NaN", "fill it in"]);
    let large: Vec<u8> = (0..12).flat_map(|k| if k == 3 { 1e300_f64 } else { 0.0 }.to_le_bytes()).collect();
    refused(&pair(npy("<f8", "(6, 2, 1)", &large), good_y()), &["sequence 1, step 1", "infinite"]);
    refused(&pair(npy("<U1", "(6, 2, 1)", &[0; 48]), good_y()), &["x is of type text", "float32"]);

    let refused = |lengths: Vec<u8>, parts: &[&str]| {
        refused(&zip(&[("x.npy", good_x()), ("y.npy", good_y()), ("lengths.npy", lengths)]), parts);
    };
    let remedy = "the number of steps of each sequence";
    refused(npy("|u1", "(6,)", &[1, 2, 2, 0, 1, 2]), &["lengths is 0 for sequence 3", "1 to 2 are good", remedy]);
    refused(npy("|u1", "(6,)", &[1, 2, 3, 1, 1, 2]), &["lengths is 3 for sequence 2", "1 to 2 are good"]);
    refused(npy("|i1", "(6,)", &[1, 2, 2, 1, 0xff, 2]), &["lengths is -1 for sequence 4"]);
    refused(npy("<u8", "(6,)", &[0xff; 48]), &["lengths is 18446744073709551615 for sequence 0"]);
    refused(npy("|u1", "(5,)", &[1; 5]), &["lengths has the shape [5]", "each of 6 sequences", remedy]);
    refused(npy("|u1", "(6, 2)", &[1; 12]), &["lengths has the shape [6, 2]"]);
    refused(npy("<f4", "(6,)", &f32s(&[1.; 6])), &["lengths is of type float32; integers are good"]);
    refused(npy("|b1", "(6,)", &[1; 6]), &["lengths is of type bool"]);
    refused(npy("|u1", "(6,)", &[1; 7]), &["entry lengths.npy", "holds 7 bytes"]);
    // Beyond a sequence's end anything may stand; before it nothing may.
    let nan = |lengths: &[u8; 6]| {
        let x = npy("<f4", "(6, 2, 1)", &f32s(&[0., 1., 2., f32::NAN, 4., 5., 6., 7., 8., 9., 10., 11.]));
        zip(&[("x.npy", x), ("y.npy", good_y()), ("lengths.npy", npy("|u1", "(6,)", lengths))])
    };
    let file = folder.path("d.npz");
    fs::write(&file, nan(&[2, 1, 2, 2, 2, 2])).unwrap();
    let data = own::load(&file, &Options::default(), None).unwrap();
    assert!([&data.train, &data.validation, &data.test].iter().all(|part| floats(part).iter().all(|v| v.is_finite())));
    fs::write(&file, nan(&[1, 2, 2, 2, 2, 2])).unwrap();
    refused_path(&file, &[], &["sequence 1, step 1, input 0", "is NaN"]);
}

#[test]
fn broken_npy_files() {
    let folder = Folder::new();
    fs::create_dir(folder.path("pair")).unwrap();
    let pair = folder.path("pair");
    let write = |x: &[u8], y: &[u8]| {
        fs::write(pair.join("x.npy"), x).unwrap();
        fs::write(pair.join("y.npy"), y).unwrap();
    };
    let refused = |x: &[u8], parts: &[&str]| {
        write(x, &good_y());
        refused_path(&pair, &[], &[&["x.npy"], parts].concat());
    };
    write(&good_x(), &good_y());
    assert!(own::load(&pair, &plain(), None).is_ok());
    refused_path(&pair.join("x.npy"), &[], &["one array, without labels", "name the folder"]);

    refused(b"", &["is empty"]);
    refused(b"\x93NUMPX\x01\0", &["does not begin as an .npy file"]);
    refused(b"\x93NUMPY\x01\0\xff", &["ends within its header"]);
    refused(b"\x93NUMPY\x01\0\xff\xff{'descr'", &["ends within its header"]);
    refused(b"\x93NUMPY\x09\0\x01\x01{}", &["version 9"]);
    refused(b"\x93NUMPY\x02\0\xff\xff\xff\xff{}", &["ends within its header"]);
    refused(&raw_npy("{'fortran_order': False, 'shape': (6, 2, 1)}", &[]), &["has no descr"]);
    refused(&raw_npy("{'descr': '<f4', 'fortran_order': False}", &[]), &["has no shape"]);
    refused(&raw_npy("{'descr': '<f4', 'shape': (6, 2, 1)}", &[]), &["has no fortran_order"]);
    refused(&raw_npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", &[]), &["structured array"]);
    refused(&npy("|O", "(6,)", &[0; 48]), &["Python objects", "unequal lengths"]);
    refused(&npy("<c8", "(6, 2, 1)", &[0; 96]), &["type \"<c8\""]);
    refused(&npy("<f4", "(6, -2, 1)", &[0; 48]), &["\"-2\" as a size"]);
    refused(&npy("<f4", "(6, 2, 1)", &[0; 44]), &["holds 44 bytes", "[6, 2, 1] needs 48"]);
    refused(&npy("<f4", "(6, 2, 1)", &[0; 52]), &["holds 52 bytes", "needs 48"]);
    // Headers that ask for far more than there is memory.
    refused(&npy("<f4", "(4000000000, 1000, 1)", &[0; 48]), &["holds 48 bytes", "needs 16000000000000"]);
    refused(&npy("<f4", "(4294967296, 4294967296, 16)", &[0; 48]), &["holds 48 bytes", "more than can be"]);
    write(&good_x(), &npy("<U2", "(6,)", &[0xff; 48]));
    refused_path(&pair, &[], &["y.npy", "label 0 (counted from 0) is not text"]);
    write(&good_x(), &npy("|S2", "(6,)", b"a\0b\0a\0b\0\0\0a\0"));
    refused_path(&pair, &[], &["y.npy", "label 4 (counted from 0) is empty"]);
    fs::remove_file(pair.join("y.npy")).unwrap();
    refused_path(&pair, &[], &["has x but no y"]);
}

#[test]
fn broken_tables() {
    let folder = Folder::new();
    let refused = |content: &str, parts: &[&str]| refused(&folder, "d.csv", content.as_bytes(), parts);
    refused("\n \n", &["no lines but empty ones"]);
    refused("a,b,label\n", &["no sequence"]);
    refused("a\nb\nc\n", &["one column only"]);
    refused("a,b,label\n1,2,x\n1,x\n", &["line 3 has 2 columns, line 1 has 3", "a shorter sequence has empty cells"]);
    refused("a,b,label\n1,2,x\n1,2,3,x\n", &["line 3 has 4 columns, line 1 has 3"]);
    refused("1,2,x\n1,2,3,y\n", &["line 2 has 4 columns, line 1 has 3"]);
    refused("a,b,label\n1,2,x\n,,y\n", &["line 3 has no number", "leave it out"]);
    refused("a,b,label\n1,2,x\n\n1,two,y\n", &["line 4, column 2 (\"b\") is \"two\", not a number", "--label-column"]);
    refused("a,b,c,label\n1,2,3,x\n1,,3,y\n", &["line 3, column 2 (\"b\") is empty", "fill it in"]);
    refused("1,2,x\n1,2,\n", &["line 2, column 3: the label is empty"]);
    refused("1;2,5;x\n1;2;y\n", &["line 1, column 2 is \"2,5\"", "decimals with a point"]);
    refused("1,2,x\n1,nan,y\n1,2,x\n", &["sequence 1 (line 2), step 1, input 0", "is NaN"]);
    refused("1,2,x\n1,2,y\n1,inf,x\n", &["sequence 2 (line 3), step 1, input 0", "is infinite"]);
    refused("1,2,\"x\n1,2,y\n", &["line 1: the quote of cell 3 is not closed"]);
    refused("1,2,x\n1,2,\"y\"z\n", &["line 2: there is text after the quote of cell 3"]);
    refused("1,2,x\n1,2,x\n3,4,x\n", &["one class only, \"x\""]);
    refused("1,2,x\n3,4,y\n", &["has 2 sequences, too few"]);
    let many: String = (0..30).map(|k| format!("1,2,{k}.5\n")).collect();
    refused(&many, &["30 different labels for 30 sequences", "--label-column"]);
    refused(&format!("1,2,{}\n", "x".repeat(300)), &["line 1, column 3: the label is \"xxx", "too long"]);
    let file = folder.path("d.csv");
    for (content, parts) in [
        (&b"1,2,x\n1,\xff,y\n"[..], &["line 2 is not text (byte 8 of the file)", "UTF-8"][..]),
        (b"1,2,x\n\0,2,y\n", &["line 2 holds a zero byte"]),
        (b"\xff\xfe1\0,\0", &["UTF-16", "UTF-8"]),
    ] {
        fs::write(&file, content).unwrap();
        refused_path(&file, &[], parts);
    }
    fs::write(&file, "a,b,c,label\n1,2,3,x\n1,2,3,y\n").unwrap();
    refused_path(&file, &["--inputs", "2"], &["have 3 numbers", "--inputs 2 does not cut evenly"]);
    fs::write(folder.path("part.csv"), "1,2,3,4,x\n1,2,3,,y\n").unwrap();
    let parts = ["line 2 has 3 numbers", "whole steps of 2 inputs", "fill in what is missing"];
    refused_path(&folder.path("part.csv"), &["--inputs", "2"], &parts);
    refused_path(&file, &["--steps-per-sequence", "2"], &["--steps-per-sequence 2 does not cut evenly"]);
    refused_path(&file, &["--steps-per-sequence", "2", "--inputs", "2"], &["2 steps of 2 inputs"]);
    refused_path(&file, &["--label-column", "kind"], &["--label-column kind", "no column has this name"]);
    refused_path(&file, &["--label-column", "5"], &["--label-column 5", "have 4 columns"]);
    refused_path(&folder.path("missing.csv"), &[], &["does not exist"]);
    fs::write(folder.path("d.xlsx"), "PK").unwrap();
    refused_path(&folder.path("d.xlsx"), &[], &["no form that is known by its ending", ".csv"]);
}

#[test]
fn broken_ts_files() {
    let folder = Folder::new();
    let raw = |content: &str, parts: &[&str]| refused(&folder, "d.ts", content.as_bytes(), parts);
    let refused = |lines: &str, parts: &[&str]| raw(&format!("@classLabel true a b\n@data\n{lines}"), parts);
    raw("# nothing\n", &["has no @data line", "value:class"]);
    raw("1,2:a\n", &["line 1 is \"1,2:a\" before any @data line"]);
    raw("@classLabel false\n@data\n1,2\n", &["does not say @classLabel true"]);
    raw("@timeStamps true\n@classLabel true a\n@data\n", &["line 1: it has time stamps"]);
    raw(
        "@equalLength false\n@classLabel true a b\n@data\n1:2,3:a\n",
        &["line 4, dimension 1 has 2 steps", "dimension 0 has 1"],
    );
    raw("@equalLength false\n@classLabel true a b\n@data\n1,2:a\n:b\n", &["line 5, dimension 0, step 0", "is missing"]);
    raw("@targetLabel true\n@data\n", &["line 1", "regression"]);
    refused("", &["no sequence after @data"]);
    refused("1,2,3\n", &["line 3 has no colon before a class"]);
    refused("1,2:\n", &["line 3: the class is empty"]);
    refused("1,2:3,4:a\n1,2:b\n", &["line 4 has 1 dimensions, line 3 has 2"]);
    refused("1,2:3,4:a\n1,2:3:b\n", &["line 4, dimension 1 has 1 steps, its dimension 0 has 2", "as many steps"]);
    refused("1,2:a\n1,2,3:b\n", &["line 4 has 3 steps, line 3 has 2", "@equalLength false"]);
    refused("1,2:a\n1,x:b\n", &["line 4, dimension 0, step 1", "is \"x\", not a number"]);
    refused("1,2:a\n1,?:b\n", &["line 4, dimension 0, step 1", "is missing", "fill it in"]);
    refused("1,2:a\n1,2:b\n1,NaN:a\n", &["sequence 2 (line 5), step 1, input 0", "is NaN"]);
    // A line that would make room for as many numbers as its steps times its dimensions.
    let wide = format!("{}:{}:a\n", vec!["1"; 200_000].join(","), vec!["1"; 200_000].join(":"));
    refused(&wide, &["line 3, dimension 1 has 1 steps, its dimension 0 has 200000"]);
}

#[test]
fn broken_safetensors_files() {
    let folder = Folder::new();
    let refused = |content: &[u8], parts: &[&str]| refused(&folder, "d.safetensors", content, parts);
    let file =
        |header: &str, payload: &[u8]| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), payload].concat();
    let x = r#""x":{"dtype":"F32","shape":[6,2,1],"data_offsets":[0,48]}"#;
    let labels =
        |shape: &str, end: u32| format!(r#""labels":{{"dtype":"U8","shape":{shape},"data_offsets":[48,{end}]}}"#);
    let whole =
        |x: &str, y: &str, n: usize| file(&format!("{{{x},{y}}}"), &[&[0; 48][..], &[0, 1, 0, 1, 0, 1][..n]].concat());
    let good = whole(x, &labels("[6]", 54), 6);
    fs::write(folder.path("d.safetensors"), &good).unwrap();
    assert!(own::load(&folder.path("d.safetensors"), &plain(), None).is_ok());

    refused(b"", &["is empty"]);
    refused(b"abc", &["not a whole safetensors file"]);
    refused(&good[..good.len() - 1], &["not a whole safetensors file"]);
    refused(&[&good[..], b"x"].concat(), &["not a whole safetensors file"]);
    refused(&[&[0xff; 8][..], b"{}"].concat(), &["not a whole safetensors file"]);
    refused(&file("{", &[]), &["not a whole safetensors file"]);
    refused(&file(&format!("{{{x}}}"), &[0; 48]), &["has x but no labels"]);
    refused(&file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, &[0]), &["neither x nor x_train"]);
    refused(&whole(x, &labels("[5]", 53), 5), &["labels has 5 labels for 6 sequences"]);
    refused(&whole(x, &labels("[3,2]", 54), 6), &["labels has the shape [3, 2]"]);
    refused(
        &whole(&x.replace("F32", "I32").replace("[6,2,1]", "[12]"), &labels("[6]", 54), 6),
        &["x has the shape [12]"],
    );
    refused(
        &whole(&x.replace("F32", "C64").replace("[6,2,1]", "[6,1,1]"), &labels("[6]", 54), 6),
        &["x is of type C64"],
    );
    refused(&whole(&x.replace("[6,2,1]", "[6,2,1000000]"), &labels("[6]", 54), 6), &["not a whole safetensors file"]);
    let mut nan = good;
    let at = nan.len() - 54 + 20;
    nan[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&nan, &["sequence 2, step 1, input 0", "is NaN"]);
}

// ---- files that stay on the disk ----

/// The same, but mapped, however small the file is.
fn mapped(options: &Options) -> Options {
    Options { read_whole: Some(0), ..options.clone() }
}

#[test]
fn mapped_files_give_the_same_numbers_to_the_bit() {
    let bits = |data: &Dataset| {
        let of = |part: &Sequences| {
            let numbers = (0..part.len()).map(|n| part.numbers(n).iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            (numbers.collect::<Vec<_>>(), part.labels().to_vec(), part.lengths().map(<[u32]>::to_vec))
        };
        [of(&data.train), of(&data.validation), of(&data.test)]
    };
    let is_mapped = |data: &Dataset| matches!(data.train.values(), Values::Mapped(_));
    for normalize in [Normalize::None, Normalize::Feature, Normalize::Sequence] {
        let options = Options { normalize: Some(normalize), ..Options::default() };
        for file in ["f64.npz", "f16.npz", "lengths.npz", "pair", "f32.safetensors", "lengths.safetensors"] {
            let (in_memory, mapped) = (load(file, &options), load(file, &mapped(&options)));
            assert!(is_mapped(&mapped) && !is_mapped(&in_memory), "{file}");
            assert_eq!(bits(&mapped), bits(&in_memory), "{file} {normalize:?}");
            assert_eq!(mapped.own, in_memory.own, "{file}");
            let rows = mapped.train.select(&[3, 1]);
            assert_eq!((rows.numbers(0), rows.labels()[1]), (mapped.train.numbers(3), mapped.train.labels()[1]));
        }
        // What is packed has to be unpacked into memory.
        for file in ["f32.npz", "big_endian_fortran.npz", "lengths_pair"] {
            let (in_memory, other) = (load(file, &options), load(file, &mapped(&options)));
            assert!(!is_mapped(&other) && bits(&other) == bits(&in_memory), "{file}");
        }
    }
    let folder = Folder::new();
    let bytes = npy("|u1", "(6, 2, 1)", &[0, 9, 200, 3, 4, 5, 6, 7, 8, 255, 10, 11]);
    fs::write(folder.path("d.npz"), zip(&[("x.npy", bytes), ("y.npy", good_y())])).unwrap();
    let of = |options: &Options| own::load(&folder.path("d.npz"), options, None).unwrap();
    let data = of(&mapped(&Options::default()));
    assert!(is_mapped(&data) && data.train.values().is_bytes());
    assert_eq!(bits(&data), bits(&of(&Options::default())), "bytes are divided by 255");
    let big = npy(">i2", "(6, 2, 1)", &(0..12).flat_map(|v: i16| (v - 5).to_be_bytes()).collect::<Vec<_>>());
    fs::write(folder.path("d.npz"), zip(&[("x.npy", big), ("y.npy", good_y())])).unwrap();
    assert_eq!(bits(&of(&mapped(&plain()))), bits(&of(&plain())), "big-endian integers");
}

#[test]
fn training_on_mapped_files_gives_the_same_bits() {
    let trained = |options: &Options, file: &str| {
        let data = Arc::new(load(file, options));
        let config = Config { batch_size: 7, ..Config::new(&data, 5) };
        let mut engine = CpuEngine::new(config.model, config.adam, data.clone(), 1).unwrap();
        engine.set_state(&config.initial_state()).unwrap();
        train(&mut engine, &data, &config, &Plan::new(6), &mut Unwatched).unwrap();
        let scores = engine.evaluate(Split::Test, &[0, 2]).unwrap();
        (engine.state().unwrap().parameters, scores.loss)
    };
    for file in ["f64.npz", "lengths.npz"] {
        let options = Options::default();
        assert_eq!(trained(&mapped(&options), file), trained(&options, file), "{file}");
    }
}

#[test]
fn broken_mapped_files() {
    let folder = Folder::new();
    let file = folder.path("d.npz");
    let fails = |content: &[u8], part: &str| {
        fs::write(&file, content).unwrap();
        let error = own::load(&file, &mapped(&plain()), None).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with(file.to_str().unwrap()) && error.contains(part), "no {part:?} in {error:?}");
    };
    let good = zip(&[("x.npy", good_x()), ("y.npy", good_y())]);
    let number = good.windows(8).position(|w| *w == f32s(&[4., 5.])[..]).unwrap();
    let mut bad = good.clone();
    bad[number] ^= 1;
    fails(&bad, "entry x.npy does not have its checksum");
    fails(&good[..good.len() - 30], "ends early");
    fails(b"PK", "ends early");
    let nan = npy("<f4", "(6, 2, 1)", &f32s(&[0., 1., 2., 3., 4., f32::NAN, 6., 7., 8., 9., 10., 11.]));
    fails(&zip(&[("x.npy", nan), ("y.npy", good_y())]), "sequence 2, step 1, input 0 (counted from 0) is NaN");
    let x = raw_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (6, 2, 1)}", &[0; 48]);
    fails(&zip(&[("x.npy", x), ("y.npy", good_y())]), "column-major order, and too large");
    fails(&zip(&[("x.npy", npy("<U1", "(6, 2, 1)", &[0; 48])), ("y.npy", good_y())]), "x is of type text");
    fails(&zip(&[("x.npy", npy("<f4", "(6, 2, 1)", &[0; 44])), ("y.npy", good_y())]), "holds 44 bytes");
    fails(&zip(&[("x.npy", good_x()), ("y.npy", npy("|u1", "(5,)", &[0; 5]))]), "y has 5 labels for 6");
}

/// Writes at a place of a file; what was never written takes no room on the disk.
fn write_at(file: &mut fs::File, at: u64, bytes: &[u8]) {
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

const MIB: u64 = 1 << 20;

#[test]
fn arrays_of_more_than_4_gib_stay_on_the_disk() {
    let folder = Folder::new();
    // 1024 steps of 1024 bytes each.
    let n = 5 * 1024;
    let header = npy("|u1", &format!("({n}, 1024, 1024)"), &[]);
    let mut x = fs::File::create(folder.path("x.npy")).unwrap();
    write_at(&mut x, 0, &header);
    x.set_len(header.len() as u64 + n * MIB).unwrap();
    for sequence in [0, 4097] {
        write_at(&mut x, header.len() as u64 + sequence * MIB + 2 * 1024 + 3, &[255, sequence as u8]);
    }
    let y: Vec<u8> = (0..n).map(|sequence| u8::from(sequence == 0) + 2 * u8::from(sequence == 4097)).collect();
    fs::write(folder.path("y.npy"), npy("|u1", &format!("({n},)"), &y)).unwrap();
    let data = own::load(&folder.path(""), &Options::default(), None).unwrap();
    assert_eq!((data.train.t(), data.train.i(), data.classes), (1024, 1024, 3));
    let parts = [&data.train, &data.validation, &data.test];
    assert_eq!(parts.iter().map(|part| part.len() as u64).sum::<u64>(), n);
    for (class, second) in [(1, 0.0), (2, 1.0 / 255.0)] {
        let place = |part: &&Sequences| {
            part.labels().iter().position(|&label| label == class).map(|n| part.numbers(n).into_owned())
        };
        let numbers = parts.iter().find_map(place).unwrap();
        assert_eq!(numbers[2 * 1024 + 3..][..2], [1.0, second]);
        assert_eq!(numbers.iter().filter(|&&v| v != 0.0).count(), class as usize);
    }
}

#[test]
fn safetensors_of_more_than_2_gib_stay_on_the_disk() {
    let folder = Folder::new();
    let (n, path) = (2100_u64, folder.path("d.safetensors"));
    let mut file = fs::File::create(&path).unwrap();
    let tensor = |name: &str, shape: String, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"U8","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let labels = tensor("labels", format!("[{n}]"), 0, n);
    let header = format!("{{{labels},{}}}", tensor("x", format!("[{n},1024,1024]"), n, n + n * MIB));
    write_at(&mut file, 0, &(header.len() as u64).to_le_bytes());
    write_at(&mut file, 8, header.as_bytes());
    let start = 8 + header.len() as u64;
    write_at(&mut file, start + n - 1, &[1]);
    write_at(&mut file, start + n + n * MIB - 1, &[51]);
    let data = own::load(&path, &plain(), None).unwrap();
    let last = data.train.labels().iter().position(|&label| label == 1).unwrap();
    let numbers = data.train.numbers(last);
    assert_eq!((numbers.len() as u64, numbers.iter().sum::<f32>()), (MIB, 51.0 * (1.0 / 255.0)));
}

/// An `.npz` of more than 4 GiB as NumPy writes it: sizes that do not fit stand in the extra fields of the directory, its
/// place in a record of its own. `n` sequences of a MiB, all zeros but the last byte.
fn large_npz(path: &Path, n: u64) {
    let mut file = fs::File::create(path).unwrap();
    let local = |name: &str, size: u64| {
        let sizes = [size.to_le_bytes(), size.to_le_bytes()].concat();
        let lengths = [name.len() as u8, 0, 20, 0];
        [
            b"PK\x03\x04\x2d\0\0\0\0\0\0\0\x21\0\0\0\0\0",
            &[0xff; 8][..],
            &lengths,
            name.as_bytes(),
            b"\x01\0\x10\0",
            &sizes,
        ]
        .concat()
    };
    let header = npy("|u1", &format!("({n}, 1024, 1024)"), &[]);
    let size = header.len() as u64 + n * MIB;
    let labels = npy("|u1", &format!("({n},)"), &(0..n).map(|k| u8::from(k == n - 1)).collect::<Vec<_>>());
    let first = [local("x.npy", size), header.clone()].concat();
    write_at(&mut file, 0, &first);
    let second_at = first.len() as u64 + n * MIB;
    write_at(&mut file, second_at - 1, &[51]);
    let second = [local("y.npy", labels.len() as u64), labels.clone()].concat();
    write_at(&mut file, second_at, &second);
    let sum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc
    };
    // Put together from that of a MiB of zeros.
    let (mut crc, zeros) = (sum(&header), sum(&vec![0; MIB as usize]));
    (1..n).for_each(|_| crc.combine(&zeros));
    crc.combine(&sum(&[vec![0; MIB as usize - 1], vec![51]].concat()));
    let mut end = Vec::new();
    let entries = [("x.npy", crc.sum(), size, 0), ("y.npy", sum(&labels).sum(), labels.len() as u64, second_at)];
    for (name, crc, size, at) in entries {
        let is_large = |v: &u64| *v >= 0xffff_ffff;
        let large: Vec<u8> = [size, size, at].into_iter().filter(is_large).flat_map(u64::to_le_bytes).collect();
        let short = |v: u64| u32::try_from(v).unwrap_or(u32::MAX).to_le_bytes();
        end.extend(b"PK\x01\x02\x2d\x03\x2d\0\0\0\0\0\0\0\x21\0");
        [crc.to_le_bytes(), short(size), short(size)].iter().for_each(|field| end.extend(field));
        end.extend([name.len() as u8, 0, large.len() as u8 + 4, 0]);
        end.extend([0; 10]);
        end.extend(short(at));
        end.extend(name.as_bytes());
        end.extend([1, 0, large.len() as u8, 0]);
        end.extend(large);
    }
    let (at, length) = (second_at + second.len() as u64, end.len() as u64);
    end.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
    [2, 2, length, at].iter().for_each(|v: &u64| end.extend(v.to_le_bytes()));
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend((at + length).to_le_bytes());
    end.extend(b"\x01\0\0\0PK\x05\x06\0\0\0\0\x02\0\x02\0");
    end.extend((length as u32).to_le_bytes());
    end.extend(b"\xff\xff\xff\xff\0\0");
    write_at(&mut file, at, &end);
}

#[test]
fn an_npz_of_more_than_4_gib_stays_on_the_disk() {
    let folder = Folder::new();
    let path = folder.path("d.npz");
    large_npz(&path, 4097);
    let data = own::load(&path, &plain(), None).unwrap();
    let last = data.train.labels().iter().position(|&label| label == 1).unwrap();
    let numbers = data.train.numbers(last);
    assert_eq!((numbers.len() as u64, numbers.iter().sum::<f32>()), (MIB, 51.0 * (1.0 / 255.0)));
    // Broken before the numbers are looked at.
    let length = fs::metadata(&path).unwrap().len();
    let fails = |at: u64, byte: u8, part: &str| {
        let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut before = [0];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut before).unwrap();
        write_at(&mut file, at, &[byte]);
        let error = own::load(&path, &plain(), None).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(part), "no {part:?} in {error:?}");
        write_at(&mut file, at, &before);
    };
    let (locator, record) = (length - 22 - 20, length - 22 - 20 - 56);
    fails(locator, 0, "broken zip64 directory");
    fails(record, 0, "broken zip64 directory");
    fails(record + 48, 0xff, "directory is broken at entry 0");
    fails(record + 55, 0xff, "directory is broken at entry 0");
}

// ---- splits and normalisation ----

/// 60 sequences of class a, 20 of b, 5 of c; the only number of each is its place in the file.
fn numbered(folder: &Folder) -> PathBuf {
    let file = folder.path("numbered.csv");
    let class = |k: u32| {
        if k % 17 == 3 {
            "c"
        } else if k.is_multiple_of(4) {
            "b"
        } else {
            "a"
        }
    };
    let lines: String = (0..85).map(|k| format!("{k},{}\n", class(k))).collect();
    fs::write(&file, lines).unwrap();
    file
}

fn parts(data: &Dataset) -> [Vec<u32>; 3] {
    [&data.train, &data.validation, &data.test].map(|part| floats(part).iter().map(|&v| v as u32).collect())
}

#[test]
fn a_split_takes_of_each_class_its_share_and_is_the_same_every_time() {
    let folder = Folder::new();
    let file = numbered(&folder);
    let load = |split: &str, seed| {
        let options = Options { split: Some(split.parse().unwrap()), split_seed: Some(seed), ..plain() };
        own::load(&file, &options, None).unwrap()
    };
    let data = load("80/10/10", 0);
    let mut all = parts(&data).concat();
    all.sort_unstable();
    assert_eq!(all, (0..85).collect::<Vec<_>>(), "every sequence is in one part");
    let of_class = |part: &Sequences| [0, 1, 2].map(|k| part.labels().iter().filter(|&&label| label == k).count());
    let whole = [59, 21, 5];
    let (validation, test) = (of_class(&data.validation), of_class(&data.test));
    assert_eq!((validation, test), ([6, 2, 1], [6, 2, 1]));
    assert_eq!(of_class(&data.train), [0, 1, 2].map(|k| whole[k] - validation[k] - test[k]));

    assert_eq!(parts(&load("80/10/10", 0)), parts(&data));
    assert_eq!(parts(&own::load(&file, &plain(), None).unwrap()), parts(&data), "it is the default");
    assert_ne!(parts(&load("80/10/10", 1)), parts(&data));
    // The choice is fixed for good: whoever evaluates with a later version must get the sequences held back here.
    assert_eq!(parts(&data)[2], TESTED);
    let half = load("50/25/25", 0);
    assert_eq!(of_class(&half.test), [15, 5, 1]);
    let with_test = Options { test: Some(file.clone()), ..plain() };
    let data = own::load(&file, &with_test, None).unwrap();
    assert_eq!((data.test.len(), data.train.len() + data.validation.len()), (85, 85));
}

/// The sequences that split seed 0 holds back for the test.
const TESTED: [u32; 9] = [5, 9, 13, 16, 37, 65, 69, 74, 80];

#[test]
fn numbers_are_brought_to_one_scale() {
    let bare = load("f64.npz", &plain());
    let by_feature = load("f64.npz", &Options::default());
    let (train, seen) = (floats(&bare.train), floats(&by_feature.train));
    for input in 0..2 {
        let column = |values: &[f32]| values.iter().skip(input).step_by(2).map(|&v| f64::from(v)).collect::<Vec<_>>();
        let moments = |values: &[f64]| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
        };
        let (mean, deviation) = moments(&column(train));
        let (zero, one) = moments(&column(seen));
        assert!(zero.abs() < 1e-5 && (one - 1.0).abs() < 1e-6, "{zero} {one}");
        // The test sequences by the training sequences' numbers, not by their own.
        for (raw, seen) in column(floats(&bare.test)).iter().zip(column(floats(&by_feature.test))) {
            assert!(((raw - mean) / deviation - seen).abs() < 1e-5);
        }
    }
    let by_sequence = load("f64.npz", &Options { normalize: Some(Normalize::Sequence), ..Options::default() });
    for sequence in floats(&by_sequence.test).chunks_exact(16) {
        for input in 0..2 {
            let column: Vec<f64> = sequence.iter().skip(input).step_by(2).map(|&v| f64::from(v)).collect();
            let (mean, square) = (column.iter().sum::<f64>() / 8.0, column.iter().map(|v| v * v).sum::<f64>() / 8.0);
            assert!(mean.abs() < 1e-5 && (square - 1.0).abs() < 1e-5, "{mean} {square}");
        }
    }
    let bytes = load("keras.npz", &Options { normalize: Some(Normalize::Feature), ..Options::default() });
    assert!(
        (floats(&bytes.train).iter().sum::<f32>() / bytes.train.len() as f32).abs() < 1e-3,
        "bytes too, if asked for"
    );
}

#[test]
fn an_input_that_never_changes_becomes_zero() {
    let folder = Folder::new();
    let lines: String = (0..12).map(|k| format!("0.1,{k},{}\n", k % 2)).collect();
    fs::write(folder.path("d.csv"), lines).unwrap();
    for normalize in [Normalize::Feature, Normalize::Sequence] {
        let options = Options { inputs: Some(2), normalize: Some(normalize), ..Options::default() };
        let data = own::load(&folder.path("d.csv"), &options, None).unwrap();
        assert!(floats(&data.train).iter().step_by(2).all(|&v| v == 0.0));
        assert!(floats(&data.train).iter().all(|v| v.is_finite()));
    }
}

// ---- the program ----

const SMALL: &str = "--hidden 8 --batch-size 8 --log-every 100";

fn waves(rest: &str) -> String {
    format!("--data {} --inputs 2 {rest}", made("waves.csv").display())
}

#[test]
fn train_eval_predict_and_resume_know_the_classes_and_the_scale() {
    let folder = Folder::new();
    let options = "--normalize sequence --split 60/20/20 --split-seed 4";
    let whole = waves(&format!("{SMALL} {options} --steps 60"));
    let done = folder.run_plain(&format!("train {whole} --save @whole --json")).succeeds().event("done");
    let half = waves(&format!("{SMALL} {options} --steps 30"));
    folder.run_plain(&format!("train {half} --save @half")).succeeds();
    // Going on needs the file only: steps and inputs, scale, split and seed are the checkpoint's.
    let known = format!("--data {}", made("waves.csv").display());
    let went_on = format!("train {known} --resume @half --steps 60 --log-every 100 --json");
    let resumed = folder.run_plain(&went_on).succeeds().event("done");
    for key in ["test_loss", "validation_loss", "test_accuracy"] {
        assert_eq!(resumed[key], done[key], "{key}");
    }
    let model = |name| fs::read(folder.path(name)).unwrap();
    assert_eq!(model("half/model.safetensors"), model("whole/model.safetensors"), "the same bits");

    let eval = folder.run_plain(&format!("eval --model @whole {known} --json")).succeeds().event("eval");
    assert_eq!((&eval["loss"], &eval["accuracy"]), (&done["test_loss"], &done["test_accuracy"]));
    assert_eq!(eval["class_names"], json!(["saw", "sine", "square"]));
    let text = folder.run_plain(&format!("eval --model @whole {}", waves(""))).succeeds().out;
    assert!(text.contains("class     saw   sine square   precision    recall\n   saw "), "{text}");
    assert!(text.ends_with(" (6 sequences)\n"), "{text}");

    // Every sequence, by what eval says of them all.
    let csv = made("waves.csv").display().to_string();
    let predicted = folder.run_plain(&format!("predict --model @whole --json {csv}")).succeeds().events("prediction");
    assert_eq!((predicted.len(), &predicted[3]["line"], &predicted[3]["sequence"]), (36, &5.into(), &3.into()));
    let right = truth_in_order().iter().zip(&predicted).filter(|(label, p)| p["class"] == label.as_str()).count();
    let all: f64 = ["train", "validation", "test"]
        .iter()
        .map(|split| {
            let run = folder.run_plain(&format!("eval --model @whole {} --split {split} --json", waves("")));
            let eval = run.succeeds().event("eval");
            eval["accuracy"].as_f64().unwrap() * eval["images"].as_f64().unwrap()
        })
        .sum();
    assert_eq!(right as f64, all.round());
    // Other forms and a file without labels give the same.
    for file in ["unlabelled.csv", "f64.npz", "pair", "pair/x.npy"] {
        let file = made(file).display().to_string();
        let other = folder.run_plain(&format!("predict --model @whole --json {file}")).succeeds().events("prediction");
        let top = |all: &[serde_json::Value]| all.iter().map(|p| p["top"].clone()).collect::<Vec<_>>();
        assert_eq!(top(&other), top(&predicted), "{file}");
    }
    let text = folder.run_plain(&format!("predict --model @whole {csv}")).succeeds().out;
    let (place, answer) = text.lines().next().unwrap().split_once(": ").unwrap();
    assert_eq!(place, format!("{csv} line 2"));
    assert!(answer.starts_with(predicted[0]["class"].as_str().unwrap()) && answer.ends_with(" %)"), "{answer}");
}

fn truth_in_order() -> Vec<String> {
    let text = fs::read_to_string(made("waves.csv")).unwrap();
    text.lines().skip(1).map(|line| line.rsplit_once(',').unwrap().1.to_owned()).collect()
}

#[test]
fn a_model_of_different_lengths_reads_any_and_another_only_its_own() {
    let folder = Folder::new();
    let csv = made("lengths.csv").display().to_string();
    let train = format!("train --data {csv} --inputs 2 --split 60/20/20 {SMALL} --steps 30");
    let done = folder.run_plain(&format!("{train} --save @model --json")).succeeds().event("done");
    // Padding changes nothing: the same data in a file of 8 steps and no more says the same.
    for file in [csv, made("lengths.npz").display().to_string()] {
        let eval = folder.run_plain(&format!("eval --model @model --data {file} --json")).succeeds().event("eval");
        assert_eq!((&eval["loss"], &eval["images"]), (&done["test_loss"], &6.into()), "{file}");
    }
    // A run's report of it.
    folder.run_plain(&format!("{train} --run @run")).succeeds();
    let top = |run: support::Run| run.events("prediction").iter().map(|p| p["top"].clone()).collect::<Vec<_>>();
    let predict = |file: &str| top(folder.run_plain(&format!("predict --model @model --json {file}")).succeeds());
    let all = predict(&made("lengths.npz").display().to_string());
    assert_eq!(all.len(), 36);
    assert_eq!(predict(&made("lengths.csv").display().to_string()), all);
    // Of no more than 5 steps, then of 9, which no training sequence had.
    let text = fs::read_to_string(made("lengths.csv")).unwrap();
    let cells = |line: &str| line.split(',').take(16).map(str::to_owned).collect::<Vec<_>>();
    let first = cells(text.lines().nth(1).unwrap());
    fs::write(folder.path("short.csv"), format!("{}\n", first[..10].join(","))).unwrap();
    assert_eq!(predict("@short.csv"), all[..1]);
    let long = format!("{},1,50\n{}\n", cells(text.lines().nth(5).unwrap()).join(","), first[..10].join(","));
    fs::write(folder.path("long.csv"), long).unwrap();
    assert_eq!(predict("@long.csv")[1], all[0]);
    fs::write(folder.path("three.csv"), "1,2,3\n1,2,3\n").unwrap();
    assert_eq!(predict("@three.csv").len(), 2, "2 numbers and a label");
    let eval = folder.run_plain("eval --model @model --data @three.csv");
    eval.fails_in_one_line(3, &["three.csv", "is of class \"3\"", "the model knows"]);
    let eval = format!("eval --model @model --data {} --json", made("waves.csv").display());
    assert_eq!(folder.run_plain(&eval).succeeds().event("eval")["images"], 6, "all of one length");

    // With one input, the number of cells does not tell whether the last is a label.
    let archive = made("lengths_archive").display().to_string();
    folder.run_plain(&format!("train --data {archive} {SMALL} --steps 2 --save @one")).succeeds();
    fs::write(folder.path("d.csv"), "1,2,3,4\n1,2,3,0\n").unwrap();
    let parts = ["d.csv", "lines have 4 numbers", "may be a label", "--label-column", "to have 8"];
    folder.run_plain("predict --model @one @d.csv").fails_in_one_line(3, &parts);
    folder.run_plain("predict --model @one @d.csv --label-column 4").succeeds();
    fs::write(folder.path("d.csv"), "1,2,3,4,,,,\n1,2,3,0\n").unwrap();
    folder.run_plain("predict --model @one @d.csv").succeeds();

    // A model of whole sequences reads no shorter ones.
    folder.run_plain(&format!("train {} {SMALL} --steps 2 --save @whole", waves(""))).succeeds();
    let parts = ["lengths.csv", "sequence 0 (line 2) has 5 steps, the model reads 8 of each", "different lengths"];
    for command in ["eval --model @whole --data", "predict --model @whole"] {
        let command = format!("{command} {}", made("lengths.csv").display());
        folder.run_plain(&command).fails_in_one_line(3, &parts);
    }
    let resume = format!("train --resume @whole --data {} --steps 4", made("lengths.csv").display());
    folder.run_plain(&resume).fails_in_one_line(3, &parts);
}

#[test]
fn what_does_not_go_with_a_model_is_refused() {
    let folder = Folder::new();
    folder.run_plain(&format!("train {} {SMALL} --steps 2 --save @model", waves(""))).succeeds();
    folder.run_plain("eval --model @model").fails_in_one_line(2, &["--data", "does not name", "name the file"]);
    let resume = format!("train --resume @model {}", waves("--normalize none"));
    folder.run_plain(&resume).fails_in_one_line(2, &["--normalize none", "trained with feature"]);
    let other = format!("train --resume @model {}", waves("--split-seed 3"));
    folder.run_plain(&other).fails_in_one_line(5, &["it was made with"]);
    fs::write(folder.path("d.csv"), "1,2,bow\n".repeat(3)).unwrap();
    let parts = ["d.csv", "sequence 0 (line 1) is of class \"bow\"", "the model knows \"saw\", \"sine\", \"square\""];
    folder.run_plain("eval --model @model --data @d.csv").fails_in_one_line(3, &parts);
    let parts = ["d.csv", "have 2 numbers", "the model reads 8 steps of 2"];
    folder.run_plain("predict --model @model @d.csv").fails_in_one_line(3, &parts);
    let parts = ["Waves_TRAIN.tsv", "have 8 numbers", "the model reads 8 steps of 2"];
    folder.run_plain(&format!("predict --model @model {}", made("archive").display())).fails_in_one_line(3, &parts);
    let one = made("archive").display().to_string();
    folder.run_plain(&format!("train --data {one} {SMALL} --steps 2 --save @one")).succeeds();
    let other = format!("predict --model @one {}", made("f64.npz").display());
    let parts = ["f64.npz", "8 steps of 2 inputs", "the model reads 8 of 1"];
    folder.run_plain(&other).fails_in_one_line(3, &parts);
    folder.run_plain("predict --model @one @picture.png").fails_in_one_line(3, &["picture.png", "no file of such"]);
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path("model/config.json")).unwrap()).unwrap();
    config["own"]["class_names"] = json!(["a"]);
    fs::write(folder.path("model/config.json"), config.to_string()).unwrap();
    folder.run_plain(&format!("eval --model @model {}", waves(""))).fails_in_one_line(5, &["names 1 classes", "has 3"]);
}

#[test]
fn flags_for_own_files_are_refused_without_one() {
    let folder = Folder::new();
    for flag in ["--inputs 2", "--steps-per-sequence 2", "--split 8/1/1", "--split-seed 1", "--normalize none"] {
        let parts = [flag.split(' ').next().unwrap(), "files of your own", "--data"];
        folder.run_plain(&format!("train --data synthetic {flag}")).fails_in_one_line(2, &parts);
    }
    folder.run_plain("train --split 80/20").fails_in_one_line(2, &["--split", "80/20", "80/10/10"]);
    folder.run_plain("train --split 0/1/1").fails_in_one_line(2, &["--split", "0/1/1"]);
    folder.run_plain("train --label-column 0").fails_in_one_line(2, &["--label-column", "counted from 1"]);
}

#[test]
fn info_tells_shapes_counts_ranges_and_problems() {
    let folder = Folder::new();
    let good = folder.run_plain(&format!("data info {} --json", waves(""))).succeeds().event("data");
    assert_eq!((&good["steps_per_sequence"], &good["inputs"], &good["classes"]), (&8.into(), &2.into(), &3.into()));
    assert_eq!(good["splits"]["train"]["class_counts"], json!([["saw", 10], ["sine", 10], ["square", 10]]));
    assert_eq!((&good["problems"], &good["warnings"]), (&json!([]), &json!([])));
    let close = |value: &serde_json::Value, to: f64| (value.as_f64().unwrap() - to).abs() < 1e-4;
    assert!(close(&good["min"], -3.0809) && close(&good["max"], 52.0413), "{good}");
    assert!(close(&good["ranges"][0]["min"], -3.0809) && close(&good["ranges"][1]["max"], 52.0413), "{good}");
    let values: Vec<f64> = truth().iter().flat_map(|(row, _)| row.iter().step_by(2)).map(|&v| v.into()).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    assert!((good["ranges"][0]["mean"].as_f64().unwrap() - mean).abs() < 1e-9, "{good}");
    assert_eq!(good["lengths"], json!({ "min": 8, "median": 8, "max": 8 }));
    let bytes = folder.run_plain(&format!("data info --data {}", made("keras.npz").display())).succeeds();
    assert!(bytes.out.contains("bytes       from 0 to 255\ninput 0     from 0 to 255, mean "), "{bytes:#?}");

    let ragged = format!("data info --data {} --inputs 2", made("lengths.csv").display());
    let mut lengths: Vec<_> = ragged_truth(2).iter().map(|(numbers, _)| numbers.len() / 2).collect();
    lengths.sort_unstable();
    let told = format!("lengths     from 3 to 8 steps, median {}\n", lengths[18]);
    let run = folder.run_plain(&ragged).succeeds();
    assert!(run.out.contains(&told) && run.out.ends_with("no problem found\n"), "{run:#?}");

    let lines = "1,7,x\n2,7,x\nnan,7,x\n3,7,x\n4,inf,x\n5,7,rare\n";
    fs::write(folder.path("bad.csv"), lines).unwrap();
    let run = folder.run_plain("data info --data @bad.csv --inputs 2").ends_with_error(3, &["it cannot be trained on"]);
    for part in [
        "4 to train, 1 to validate, 1 to test",
        "1 steps of 2 inputs, 2 classes",
        "numbers     from 1 to 7\n",
        "input 0     from 1 to 5, mean 3.0000\n",
        "bad.csv: sequence 2 (line 3), step 0, input 0 (counted from 0) is NaN (and 1 more are not finite)",
        "warning     the test split has no sequence of class \"rare\"",
        "warning     the validation split has no sequence of class \"rare\"",
        "warning     inputs that never change: 1 (counted from 0)",
    ] {
        assert!(run.out.contains(part), "no {part:?} in {run:#?}");
    }
    fs::write(folder.path("one.csv"), "1,2,x\n".repeat(5)).unwrap();
    let run = folder.run_plain("data info --data @one.csv --json").ends_with_error(3, &["one.csv", "problem"]);
    let told = run.event("data");
    assert!(told["problems"][0].as_str().unwrap().contains("has one class only, \"x\""), "{told}");
    assert!(told["warnings"][0].as_str().unwrap().contains("1 of the 1 sequences of the validation split"), "{told}");
    let rare: String =
        (0..103).map(|k| format!("{k},{},{}\n", k % 10, if k < 100 { "common" } else { "rare" })).collect();
    fs::write(folder.path("rare.csv"), rare).unwrap();
    let run = folder.run_plain("data info --data @rare.csv").succeeds();
    let told = "warning     the training split has 80 sequences of class \"common\", and few of \"rare\" (1)\n";
    assert!(run.out.contains(told), "{run:#?}");
    folder.run_plain("data info --data @none.csv").fails_in_one_line(3, &["none.csv", "does not exist"]);
}
