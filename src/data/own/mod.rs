//! People's own sequences: NumPy's `.npz` and `.npy`, CSV and TSV, the UCR/UEA archive's `.tsv` and `.ts`, safetensors.
//!
//! A reader gives sequences of one length and their classes' names; here they are told apart into training, validation and
//! test, and normalised. What a model has to know of that later is [`OwnData`], which its checkpoint keeps.

mod array;
mod raw;
mod text;
mod ts;
mod zip;

pub(crate) use array::half;
pub use text::LabelColumn;

use super::idx::unreadable;
use super::{Dataset, Sequences, Split, Values};
use crate::error::{Error, Result};
use rand::Rng;
use raw::{Labels, Raw, quoted, sort_names};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use text::Layout;

/// What a byte is multiplied by.
pub(crate) const BYTE_SCALE: f32 = 1.0 / 255.0;
/// Larger files are refused.
const MAX_BYTES: u64 = 2 << 30;
/// The name of such a data set, in a configuration and in reports.
pub const NAME: &str = "own";
/// What can be read, for messages.
const FORMS: &str = "give a .npz, .csv, .tsv, .ts or .safetensors file, or a folder with x.npy and y.npy";

/// How numbers are brought to one scale before a model sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Not at all; bytes are divided by 255.
    None,
    /// Each input by its mean and standard deviation over the training sequences.
    Feature,
    /// Each input by its mean and standard deviation within the sequence.
    Sequence,
}

/// The same with what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Normalization {
    /// Numbers as they are; bytes divided by 255.
    None,
    /// Each input by its mean and standard deviation over the training sequences.
    Feature {
        /// `[I]`
        mean: Vec<f32>,
        /// `[I]`; 1 for an input that never changes.
        deviation: Vec<f32>,
    },
    /// Each input by its mean and standard deviation within the sequence.
    Sequence,
}

impl Normalization {
    fn kind(&self) -> Normalize {
        match self {
            Self::None => Normalize::None,
            Self::Feature { .. } => Normalize::Feature,
            Self::Sequence => Normalize::Sequence,
        }
    }
}

/// Shares of the sequences for training, validation and test, as `80/10/10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares(pub [u32; 3]);

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shares: Option<Vec<u32>> = text.split('/').map(|share| share.trim().parse().ok()).collect();
        match shares.as_deref() {
            Some(&[train, validation, test])
                if [train, validation, test].iter().all(|n| (1..=1_000_000).contains(n)) =>
            {
                Ok(Self([train, validation, test]))
            }
            _ => Err("give the shares for training, validation and test, such as 80/10/10".into()),
        }
    }
}

/// What a model has to know of the data it was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnData {
    /// Names of the classes, in the order of their numbers.
    pub class_names: Vec<String>,
    /// How numbers were brought to one scale.
    pub normalization: Normalization,
    /// How the sequences were told apart.
    pub split: Shares,
    /// Seed of that.
    pub split_seed: u64,
    /// Whether the file's numbers were bytes, and were divided by 255 before anything else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bytes: bool,
}

impl OwnData {
    /// Makes sure that it is for a model of `i` inputs and `k` classes; the error says what is wrong.
    pub(crate) fn check(&self, i: usize, k: usize) -> Result<(), String> {
        if self.class_names.len() != k {
            return Err(format!("it names {} classes, the model has {k}", self.class_names.len()));
        }
        let Normalization::Feature { mean, deviation } = &self.normalization else { return Ok(()) };
        let good = deviation.iter().all(|v| v.is_finite() && *v > 0.0) && mean.iter().all(|v| v.is_finite());
        if !good || mean.len() != i || deviation.len() != i {
            return Err(format!("its normalization is not one of {i} inputs"));
        }
        Ok(())
    }
}

/// What the user says about the data.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A file of test sequences; the others are then for training and validation only.
    pub test: Option<PathBuf>,
    /// The column of a table that holds the label.
    pub label_column: Option<LabelColumn>,
    /// Steps of a sequence in a table.
    pub steps: Option<usize>,
    /// Inputs of a step in a table.
    pub inputs: Option<usize>,
    /// Shares of training, validation and test [default: 80/10/10].
    pub split: Option<Shares>,
    /// Seed of the choice.
    pub split_seed: Option<u64>,
    /// Normalisation [default: by feature, and none for bytes].
    pub normalize: Option<Normalize>,
    /// Reads data with faults too, so that [`Inspection`] can tell them.
    pub lenient: bool,
}

/// The form of a file or folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Npz,
    Npy,
    NpyFolder,
    ArchiveFolder,
    Text,
    Ts,
    Safetensors,
}

fn form(path: &Path) -> Option<Form> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if path.is_dir() {
        let archive = || archive_files(path, "_TRAIN").is_some();
        return match array::is_npy_folder(path) {
            true => Some(Form::NpyFolder),
            false => archive().then_some(Form::ArchiveFolder),
        };
    }
    match ending.as_str() {
        "npz" => Some(Form::Npz),
        "npy" => Some(Form::Npy),
        "csv" | "tsv" => Some(Form::Text),
        "ts" => Some(Form::Ts),
        "safetensors" => Some(Form::Safetensors),
        _ => None,
    }
}

/// Whether `path` is a file or folder for [`load`], by its ending or what is in it.
pub fn is_own(path: &Path) -> bool {
    form(path).is_some() || path.is_file()
}

/// Whether [`read_for`] reads a file, by its ending.
pub fn is_own_file(path: &Path) -> bool {
    form(path).is_some()
}

/// The archive's file in a folder whose name ends with `part`; `.ts` before `.tsv`.
fn archive_files(folder: &Path, part: &str) -> Option<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let of = |ending: &str| {
        let name = format!("{part}.{ending}");
        files.iter().find(|file| file.to_string_lossy().ends_with(&name)).cloned()
    };
    of("ts").or_else(|| of("tsv"))
}

/// All bytes of a file, whose size is looked at first.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let about = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !about.is_file() {
        return Err(Error::data(path, "is not a regular file", FORMS));
    }
    if about.len() == 0 {
        return Err(Error::data(path, "is empty (0 bytes)", "give a file with sequences in it"));
    }
    if about.len() > MAX_BYTES {
        let found = format!("has {} bytes, more than the {MAX_BYTES} that are read", about.len());
        return Err(Error::data(path, found, "give fewer sequences"));
    }
    fs::read(path).map_err(|error| unreadable(path, &error))
}

/// The text of a file.
fn read_text(path: &Path) -> Result<String> {
    let bytes = read_file(path)?;
    let remedy = "save it as UTF-8 text";
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::data(path, "is text in UTF-16", remedy));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::data(path, format!("line {line} is not text (byte {good} of the file)"), remedy)
    })?;
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        return Err(Error::data(path, format!("line {line} holds a zero byte: this is no text file"), remedy));
    }
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads a file or folder: its sequences, and its test sequences if it tells them apart.
fn read(path: &Path, layout: &Layout) -> Result<(Raw, Option<Raw>)> {
    if !path.exists() {
        return Err(Error::data(path, "does not exist", "check the name"));
    }
    let labelled = !layout.unlabelled;
    match form(path) {
        Some(Form::Npz) => array::read_npz(path, labelled),
        Some(Form::Npy) if labelled => {
            Err(Error::data(path, "is one array, without labels", "name the folder that holds x.npy and y.npy"))
        }
        Some(Form::Npy) => array::read_x(path),
        Some(Form::NpyFolder) => array::read_folder(path, labelled),
        Some(Form::Safetensors) => array::read_safetensors(path, labelled),
        Some(Form::Text) => Ok((text::read(path, layout)?, None)),
        Some(Form::Ts) => Ok((ts::read(path, labelled)?, None)),
        Some(Form::ArchiveFolder) => {
            let part = |name| archive_files(path, name).map(|file| Ok(read(&file, layout)?.0)).transpose();
            let train = part("_TRAIN")?.ok_or_else(|| Error::data(path, "has no _TRAIN file", FORMS))?;
            Ok((train, part("_TEST")?))
        }
        None => Err(Error::data(path, "is of no form that is known by its ending", FORMS)),
    }
}

/// Loads the data in `path`. `trained` is what a model that is to run on it knows: its classes' names, its normalisation and
/// its split are taken then.
///
/// # Errors
///
/// [`Error::Data`] that names the file, the place in it, what was found and what to do; [`Error::Usage`] for options that do
/// not go with the data or with the model.
pub fn load(path: &Path, options: &Options, trained: Option<&OwnData>) -> Result<Dataset> {
    let layout =
        Layout { label: options.label_column.clone(), steps: options.steps, inputs: options.inputs, unlabelled: false };
    let (raw, own_test) = read(path, &layout)?;
    let test = match &options.test {
        None => own_test,
        Some(file) => Some(read(file, &layout)?.0),
    };
    check_pair(&raw, test.as_ref())?;
    if !options.lenient {
        raw.check_finite()?;
        test.as_ref().map_or(Ok(()), Raw::check_finite)?;
    }
    let class_names = match trained {
        Some(own) => own.class_names.clone(),
        None => class_names(&raw, test.as_ref(), options.lenient)?,
    };
    let labels = numbers(&raw, &class_names)?;
    let test_labels = test.as_ref().map(|test| numbers(test, &class_names)).transpose()?;

    let shares = options.split.or(trained.map(|own| own.split)).unwrap_or(Shares([80, 10, 10]));
    let split_seed = options.split_seed.or(trained.map(|own| own.split_seed)).unwrap_or(0);
    let [train_rows, validation_rows, test_rows] =
        split(&labels, class_names.len(), shares, split_seed, test.is_none());
    let empty = train_rows.is_empty() || validation_rows.is_empty() || (test.is_none() && test_rows.is_empty());
    if empty && !options.lenient {
        let found = format!("has {} sequences, too few for training, validation and test", labels.len());
        return Err(Error::data(path, found, "give more, at least 3 of some class, or a file of test sequences"));
    }
    let train = take(&raw, &labels, &train_rows);
    let validation = take(&raw, &labels, &validation_rows);
    let test = match test.zip(test_labels) {
        Some((test, labels)) => take(&test, &labels, &(0..labels.len()).collect::<Vec<_>>()),
        None => take(&raw, &labels, &test_rows),
    };
    let kind = options.normalize.unwrap_or(match (trained, &raw.values) {
        (Some(own), _) => own.normalization.kind(),
        (None, Values::U8 { .. }) => Normalize::None,
        (None, Values::F32(_)) => Normalize::Feature,
    });
    let bytes = matches!(raw.values, Values::U8 { .. });
    drop(raw);
    let normalization = match trained {
        Some(own) if own.normalization.kind() == kind => own.normalization.clone(),
        Some(own) => {
            let found = format!("the model was trained with {:?}", own.normalization.kind()).to_lowercase();
            let flag = format!("--normalize {kind:?}").to_lowercase();
            return Err(Error::usage(flag, found, "leave the flag out"));
        }
        None => measure(&train, kind),
    };
    let own = OwnData { class_names, normalization, split: shares, split_seed, bytes };
    let [train, validation, test] = [train, validation, test].map(|part| own.apply(part));
    let description = format!(
        "{}: {} to train, {} to validate, {} to test, {} steps of {} inputs, {} classes",
        path.display(),
        train.len(),
        validation.len(),
        test.len(),
        train.t(),
        train.i(),
        own.class_names.len()
    );
    let classes = own.class_names.len();
    Ok(Dataset { description, name: NAME, classes, train, validation, test, own: Some(own) })
}

/// Makes sure that two files can be parts of one data set.
fn check_pair(raw: &Raw, test: Option<&Raw>) -> Result<()> {
    let Some(test) = test else { return Ok(()) };
    if (test.t, test.i) != (raw.t, raw.i) {
        let found = format!(
            "has test sequences of {} steps of {} inputs, {} has {} of {}",
            test.t,
            test.i,
            raw.file.display(),
            raw.t,
            raw.i
        );
        return Err(Error::data(&test.file, found, "give test sequences of the same sizes"));
    }
    let is_bytes = |raw: &Raw| matches!(raw.values, Values::U8 { .. });
    if is_bytes(raw) != is_bytes(test) {
        let found = "has numbers of another type than the training sequences (bytes and other numbers)";
        return Err(Error::data(&test.file, found, "save both as the same type"));
    }
    Ok(())
}

fn labels(raw: &Raw) -> Result<&Labels> {
    raw.labels.as_ref().ok_or_else(|| Error::data(&raw.file, "has no labels", "add the class of each sequence"))
}

/// The names of all classes, in their order.
fn class_names(raw: &Raw, test: Option<&Raw>, lenient: bool) -> Result<Vec<String>> {
    let train = labels(raw)?;
    let mut names = train.names.clone();
    if let Some(test) = test {
        names.extend(labels(test)?.names.clone());
    }
    sort_names(&mut names);
    names.dedup();
    let (n, k) = (train.indices.len(), train.names.len());
    if lenient {
        return Ok(names);
    }
    if names.len() == 1 {
        let found = format!("has one class only, {}", quoted(&names[0]));
        return Err(Error::data(&raw.file, found, "give sequences of two classes or more"));
    }
    if n >= 20 && 2 * k > n {
        let found =
            format!("has {k} different labels for {n} sequences: {}, {}, …", quoted(&names[0]), quoted(&names[1]));
        return Err(Error::data(&raw.file, found, "name the label's column with --label-column, or give classes"));
    }
    Ok(names)
}

/// The class number of each sequence.
fn numbers(raw: &Raw, names: &[String]) -> Result<Vec<u32>> {
    let labels = labels(raw)?;
    let place = |name: &String| names.iter().position(|known| known == name).map(|place| place as u32);
    let places: Vec<Option<u32>> = labels.names.iter().map(place).collect();
    let number = |(sequence, &index): (usize, &u32)| {
        places[index as usize].ok_or_else(|| {
            let name = quoted(&labels.names[index as usize]);
            let known = names.iter().take(5).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            let more = if names.len() > 5 { ", …" } else { "" };
            let found = format!("{} is of class {name}; the model knows {known}{more}", raw.place(sequence));
            Error::data(&raw.file, found, "leave it out, or train with it")
        })
    };
    labels.indices.iter().enumerate().map(number).collect()
}

/// Rows for training, validation and test: of each class its share, chosen by the seed. With files of their own for the
/// test, there are none for it here.
fn split(labels: &[u32], classes: usize, shares: Shares, seed: u64, with_test: bool) -> [Vec<usize>; 3] {
    let mut by_class = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        by_class[label as usize].push(row);
    }
    let Shares([train, validation, test]) = shares;
    let test = if with_test { test } else { 0 };
    let sum = u64::from(train) + u64::from(validation) + u64::from(test);
    let mut parts = [const { Vec::new() }; 3];
    for (class, mut rows) in by_class.into_iter().enumerate() {
        let n = rows.len();
        // Made of the generator's words here, so that the choice stays the same when a library's shuffle changes.
        let mut words = crate::init::generator(seed, class as u64);
        for last in (1..n).rev() {
            let other = (u64::from(words.next_u32()) * (last as u64 + 1)) >> 32;
            rows.swap(last, other as usize);
        }
        // Rounded, but at least one where there are enough, and never the last one for training.
        let count = |share: u32, left: usize| match share {
            0 => 0,
            _ => (((n as u64 * u64::from(share) + sum / 2) / sum) as usize).max(1).min(left),
        };
        let tests = count(test, n.saturating_sub(1));
        let validations = count(validation, n.saturating_sub(1 + tests));
        parts[2].extend_from_slice(&rows[..tests]);
        parts[1].extend_from_slice(&rows[tests..tests + validations]);
        parts[0].extend_from_slice(&rows[tests + validations..]);
    }
    parts.iter_mut().for_each(|rows| rows.sort_unstable());
    parts
}

/// The sequences of these rows.
fn take(raw: &Raw, labels: &[u32], rows: &[usize]) -> Sequences {
    fn gather<V: Copy>(values: &[V], width: usize, rows: &[usize]) -> Vec<V> {
        let mut taken = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            taken.extend_from_slice(&values[row * width..(row + 1) * width]);
        }
        taken
    }
    let width = raw.t * raw.i;
    let values = match &raw.values {
        Values::U8 { bytes, scale } => Values::U8 { bytes: gather(bytes, width, rows), scale: *scale },
        Values::F32(values) => Values::F32(gather(values, width, rows)),
    };
    Sequences::new(raw.t, raw.i, values, rows.iter().map(|&row| labels[row]).collect())
}

/// The numbers of sequences as a model without normalisation sees them.
fn floats(values: &Values) -> Vec<f32> {
    match values {
        Values::U8 { bytes, scale } => bytes.iter().map(|&byte| f32::from(byte) * scale).collect(),
        Values::F32(values) => values.clone(),
    }
}

/// Mean and standard deviation of every `stride`th number; 1 where all are the same.
fn moments(values: &[f32], stride: usize) -> (f32, f32) {
    let each = || values.iter().step_by(stride).map(|&v| f64::from(v));
    let n = values.len().div_ceil(stride) as f64;
    let mean = each().sum::<f64>() / n;
    let deviation = (each().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt() as f32;
    let constant = each().all(|v| v == f64::from(values[0]));
    // Where all are the same, the mean of them is to be it to the bit, too.
    if constant || deviation == 0.0 { (values[0], 1.0) } else { (mean as f32, deviation) }
}

fn measure(train: &Sequences, kind: Normalize) -> Normalization {
    match kind {
        Normalize::None => Normalization::None,
        Normalize::Sequence => Normalization::Sequence,
        Normalize::Feature => {
            let (values, i) = (floats(train.values()), train.i());
            if values.is_empty() {
                return Normalization::Feature { mean: vec![0.0; i], deviation: vec![1.0; i] };
            }
            let (mean, deviation) = (0..i).map(|input| moments(&values[input..], i)).unzip();
            Normalization::Feature { mean, deviation }
        }
    }
}

fn scaled(value: f32, mean: f32, deviation: f32) -> f32 {
    ((f64::from(value) - f64::from(mean)) / f64::from(deviation)) as f32
}

impl OwnData {
    /// Sequences as the model sees them, from those of the file.
    fn apply(&self, sequences: Sequences) -> Sequences {
        let (t, i) = (sequences.t(), sequences.i());
        if self.normalization == Normalization::None {
            return sequences;
        }
        let mut values = floats(sequences.values());
        match &self.normalization {
            Normalization::None => {}
            Normalization::Feature { mean, deviation } => {
                for step in values.chunks_exact_mut(i) {
                    for ((value, &mean), &deviation) in step.iter_mut().zip(mean).zip(deviation) {
                        *value = scaled(*value, mean, deviation);
                    }
                }
            }
            Normalization::Sequence => {
                for sequence in values.chunks_exact_mut(t * i) {
                    for input in 0..i {
                        let (mean, deviation) = moments(&sequence[input..], i);
                        sequence[input..].iter_mut().step_by(i).for_each(|v| *v = scaled(*v, mean, deviation));
                    }
                }
            }
        }
        Sequences::new(t, i, Values::F32(values), sequences.labels().to_vec())
    }
}

/// Sequences to classify, and where each stands in its file.
pub struct Unlabelled {
    /// As the model sees them.
    pub sequences: Sequences,
    /// The line of each, in a file that has lines.
    pub lines: Option<Vec<usize>>,
}

/// Reads sequences for a model of `t` steps of `i` inputs; labels may be there and are not looked at.
///
/// # Errors
///
/// As [`load`], and [`Error::Data`] for sequences of other sizes.
pub fn read_for(
    path: &Path,
    label_column: Option<&LabelColumn>,
    (t, i): (usize, usize),
    trained: Option<&OwnData>,
) -> Result<Unlabelled> {
    let layout = Layout { label: label_column.cloned(), steps: Some(t), inputs: Some(i), unlabelled: true };
    let (raw, _) = read(path, &layout)?;
    raw.check_finite()?;
    if (raw.t, raw.i) != (t, i) {
        let found = format!("has sequences of {} steps of {} inputs, the model reads {t} of {i}", raw.t, raw.i);
        return Err(Error::data(path, found, "give sequences as those that the model was trained on"));
    }
    let n = raw.len();
    let sequences = take(&raw, &vec![0; n], &(0..n).collect::<Vec<_>>());
    Ok(Unlabelled { sequences: trained.map_or(sequences.clone(), |own| own.apply(sequences)), lines: raw.lines })
}

/// What there is to know of data before training.
pub struct Inspection {
    /// Smallest and largest of the finite numbers of all splits, and their mean.
    pub range: Option<[f64; 3]>,
    /// What is wrong or doubtful, a line each.
    pub problems: Vec<String>,
}

impl Inspection {
    /// Looks at data that was loaded without normalisation.
    pub fn of(data: &Dataset) -> Self {
        let splits = [("training", Split::Train), ("validation", Split::Validation), ("test", Split::Test)];
        let (mut low, mut high, mut sum, mut n) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0_u64);
        let mut problems = Vec::new();
        for (name, split) in splits {
            let part = data.split(split);
            let mut bad = None;
            let mut count = 0;
            let mut see = |at: usize, value: f64| {
                if value.is_finite() {
                    (low, high, sum, n) = (low.min(value), high.max(value), sum + value, n + 1);
                } else {
                    count += 1;
                    bad = bad.or(Some(at));
                }
            };
            match part.values() {
                Values::U8 { bytes, .. } => bytes.iter().enumerate().for_each(|(at, &v)| see(at, v.into())),
                Values::F32(values) => values.iter().enumerate().for_each(|(at, &v)| see(at, v.into())),
            }
            if let Some(at) = bad {
                let (sequence, step, input) = (at / (part.t() * part.i()), at / part.i() % part.t(), at % part.i());
                problems.push(format!(
                    "{count} numbers of the {name} split are NaN or infinite, the first in its sequence {sequence}, step {step}, input {input} (counted from 0)"
                ));
            }
            let mut counts = vec![0_usize; data.classes];
            part.labels().iter().for_each(|&label| counts[label as usize] += 1);
            let missing: Vec<_> = (0..data.classes)
                .filter(|&class| counts[class] == 0)
                .map(|class| quoted(&data.class_name(class)))
                .collect();
            if part.is_empty() {
                problems.push(format!("the {name} split is empty"));
            } else if !missing.is_empty() {
                problems.push(format!("the {name} split has no sequence of class {}", few(&missing)));
            }
        }
        if data.classes == 1 {
            problems.push("there is one class only".into());
        }
        let (values, i) = (floats(data.train.values()), data.train.i());
        let constant = |&input: &usize| {
            let mut numbers = values.iter().skip(input).step_by(i);
            let first = numbers.next();
            first.is_some() && numbers.all(|v| Some(v) == first)
        };
        let constant: Vec<_> = (0..i).filter(constant).map(|input| input.to_string()).collect();
        if !constant.is_empty() {
            problems.push(format!("inputs that never change: {} (counted from 0)", few(&constant)));
        }
        Self { range: (n > 0).then(|| [low, high, sum / n as f64]), problems }
    }
}

/// The first of many, for a line.
fn few(all: &[String]) -> String {
    let more = if all.len() > 8 { format!(" and {} more", all.len() - 8) } else { String::new() };
    format!("{}{more}", all[..all.len().min(8)].join(", "))
}
