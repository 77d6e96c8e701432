//! People's own sequences: NumPy's `.npz` and `.npy`, CSV and TSV, the UCR/UEA archive's `.tsv` and `.ts`, safetensors.
//!
//! A reader gives sequences, padded to the longest, and their classes' names; here they are told apart into training,
//! validation and test, and normalised. Every file may be packed by gzip; large arrays stay in theirs, as [`Mapped`]. What a
//! model has to know of the data later is [`OwnData`], which its checkpoint keeps.

mod array;
mod bytes;
mod inspection;
mod mapped;
mod raw;
mod text;
mod ts;
mod zip;

pub(crate) use array::half;
pub use inspection::{InputRange, Inspection, inspect};
pub use mapped::Mapped;
pub use text::LabelColumn;

use super::idx::unreadable;
use super::{Dataset, Sequences, Values};
use crate::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use rand::Rng;
use raw::{Labels, Raw, quoted, sort_names};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use text::Layout;

/// Larger files of text and packed ones are refused.
const MAX_BYTES: u64 = 2 << 30;
/// Larger files of arrays are not read into memory but mapped.
const READ_WHOLE: u64 = 1 << 30;
/// The name of such a data set, in a configuration and in reports.
pub const NAME: &str = "own";
/// What to do about sequences too long to be padded.
const CUT: &str = "cut the longest ones";
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
    /// Whether its sequences differed in length; then the model reads sequences of any length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_length: bool,
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
    /// Files of arrays with more bytes stay on the disk, mapped into memory [default: 1 GiB].
    pub read_whole: Option<u64>,
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
    let ending = plain_name(path).extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
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

/// The name of a file without the ending of gzip.
fn plain_name(path: &Path) -> PathBuf {
    match path.extension() {
        Some(ending) if ending.eq_ignore_ascii_case("gz") => path.with_extension(""),
        _ => path.to_owned(),
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
        files.iter().find(|file| plain_name(file).to_string_lossy().ends_with(&name)).cloned()
    };
    of("ts").or_else(|| of("tsv"))
}

/// All bytes of a file, whose size is looked at first; unpacked, if it is packed by gzip.
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
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
    if bytes.starts_with(&bytes::GZIP) { unpacked(path, &bytes) } else { Ok(bytes) }
}

/// The content of a gzip file, of one or several parts.
fn unpacked(path: &Path, packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(packed).take(MAX_BYTES + 1).read_to_end(&mut bytes);
    let broken = |found: String| Error::data(path, found, "replace it by a good copy");
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            broken(format!("its gzip data ends early, after {} bytes of content", bytes.len()))
        }
        _ => broken(format!("its gzip data is corrupt after {} bytes of content ({error})", bytes.len())),
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        let found = format!("unpacks to more than the {MAX_BYTES} bytes that are read");
        return Err(Error::data(path, found, "give fewer sequences"));
    }
    if bytes.is_empty() {
        return Err(Error::data(path, "is empty (0 bytes, packed by gzip)", "give a file with sequences in it"));
    }
    Ok(bytes)
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
fn read(path: &Path, layout: &Layout, most: u64) -> Result<(Raw, Option<Raw>)> {
    if !path.exists() {
        return Err(Error::data(path, "does not exist", "check the name"));
    }
    let labelled = !layout.unlabelled;
    match form(path) {
        Some(Form::Npz) => array::read_npz(path, labelled, most),
        Some(Form::Npy) if labelled => {
            Err(Error::data(path, "is one array, without labels", "name the folder that holds x.npy and y.npy"))
        }
        Some(Form::Npy) => array::read_x(path, most),
        Some(Form::NpyFolder) => array::read_folder(path, labelled, most),
        Some(Form::Safetensors) => array::read_safetensors(path, labelled, most),
        Some(Form::Text) => Ok((text::read(path, layout)?, None)),
        Some(Form::Ts) => Ok((ts::read(path, labelled)?, None)),
        Some(Form::ArchiveFolder) => {
            let part = |name| archive_files(path, name).map(|file| Ok(read(&file, layout, most)?.0)).transpose();
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
    load_with(path, options, trained, &mut Err)
}

/// The same; `fault` is told what is wrong with data that can be looked at all the same, and returns an error to end there.
fn load_with(
    path: &Path,
    options: &Options,
    trained: Option<&OwnData>,
    fault: &mut dyn FnMut(Error) -> Result<()>,
) -> Result<Dataset> {
    let layout = Layout {
        label: options.label_column.clone(),
        steps: options.steps,
        inputs: options.inputs,
        unlabelled: false,
        any_length: false,
    };
    let most = options.read_whole.unwrap_or(READ_WHOLE);
    let (mut raw, own_test) = read(path, &layout, most)?;
    let mut test = match &options.test {
        None => own_test,
        Some(file) => Some(read(file, &layout, most)?.0),
    };
    check_pair(&raw, test.as_ref())?;
    if let Some(test) = &mut test {
        let t = raw.t.max(test.t);
        raw.pad(t);
        test.pad(t);
    }
    let parts = || std::iter::once(&raw).chain(&test);
    if trained.is_some_and(|own| !own.any_length) {
        parts().try_for_each(|part| check_whole(part, part.t))?;
    }
    let any_length = trained.map_or_else(|| parts().any(|part| part.lengths.is_some()), |own| own.any_length);
    parts().try_for_each(|part| part.check_finite().or_else(&mut *fault))?;
    let class_names = match trained {
        Some(own) => own.class_names.clone(),
        None => class_names(&raw, test.as_ref(), fault)?,
    };
    let labels = numbers(&raw, &class_names)?;
    let test_labels = test.as_ref().map(|test| numbers(test, &class_names)).transpose()?;

    let shares = options.split.or(trained.map(|own| own.split)).unwrap_or(Shares([80, 10, 10]));
    let split_seed = options.split_seed.or(trained.map(|own| own.split_seed)).unwrap_or(0);
    let [train_rows, validation_rows, test_rows] =
        split(&labels, class_names.len(), shares, split_seed, test.is_none());
    let empty = train_rows.is_empty() || validation_rows.is_empty() || (test.is_none() && test_rows.is_empty());
    if empty {
        let found = format!("has {} sequences, too few for training, validation and test", labels.len());
        fault(Error::data(path, found, "give more, at least 3 of some class, or a file of test sequences"))?;
    }
    let whole = raw.into_sequences(labels);
    let [train, validation] = [train_rows, validation_rows].map(|rows| whole.select(&rows));
    let test = match test.zip(test_labels) {
        Some((test, labels)) => test.into_sequences(labels),
        None => whole.select(&test_rows),
    };
    let kind = options.normalize.unwrap_or(match trained {
        Some(own) => own.normalization.kind(),
        None if whole.values().is_bytes() => Normalize::None,
        None => Normalize::Feature,
    });
    let bytes = whole.values().is_bytes();
    drop(whole);
    let normalization = match trained {
        Some(own) if own.normalization.kind() == kind => own.normalization.clone(),
        Some(own) => {
            let found = format!("the model was trained with {:?}", own.normalization.kind()).to_lowercase();
            let flag = format!("--normalize {kind:?}").to_lowercase();
            return Err(Error::usage(flag, found, "leave the flag out"));
        }
        None => measure(&train, kind),
    };
    let own = OwnData { class_names, normalization, split: shares, split_seed, any_length, bytes };
    let [train, validation, test] = [train, validation, test].map(|part| own.apply(part));
    let parts = [&train, &validation, &test];
    let shortest = parts.iter().flat_map(|part| part.lengths()).flatten().min();
    let steps = shortest.map_or_else(|| train.t().to_string(), |shortest| format!("{shortest} to {}", train.t()));
    let description = format!(
        "{}: {} to train, {} to validate, {} to test, {steps} steps of {} inputs, {} classes",
        path.display(),
        train.len(),
        validation.len(),
        test.len(),
        train.i(),
        own.class_names.len()
    );
    let classes = own.class_names.len();
    Ok(Dataset { description, name: NAME, classes, train, validation, test, own: Some(own) })
}

/// Makes sure that two files can be parts of one data set.
fn check_pair(raw: &Raw, test: Option<&Raw>) -> Result<()> {
    let Some(test) = test else { return Ok(()) };
    let differ = raw.lengths.is_some() || test.lengths.is_some();
    if test.i != raw.i || (test.t != raw.t && !differ) {
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
    if raw.values.is_bytes() != test.values.is_bytes() {
        let found = "has numbers of another type than the training sequences (bytes and other numbers)";
        return Err(Error::data(&test.file, found, "save both as the same type"));
    }
    Ok(())
}

/// Makes sure that all sequences have `t` steps, for a model that was trained on such.
fn check_whole(raw: &Raw, t: usize) -> Result<()> {
    let Some(short) = (0..raw.len()).find(|&n| raw.length(n) != t) else { return Ok(()) };
    let found = format!("{} has {} steps, the model reads {t} of each", raw.place(short), raw.length(short));
    Err(Error::data(&raw.file, found, "give whole sequences, or train with ones of different lengths"))
}

fn labels(raw: &Raw) -> Result<&Labels> {
    raw.labels.as_ref().ok_or_else(|| Error::data(&raw.file, "has no labels", "add the class of each sequence"))
}

/// The names of all classes, in their order.
fn class_names(raw: &Raw, test: Option<&Raw>, fault: &mut dyn FnMut(Error) -> Result<()>) -> Result<Vec<String>> {
    let train = labels(raw)?;
    let mut names = train.names.clone();
    if let Some(test) = test {
        names.extend(labels(test)?.names.clone());
    }
    sort_names(&mut names);
    names.dedup();
    let (n, k) = (train.indices.len(), train.names.len());
    if names.len() == 1 {
        let found = format!("has one class only, {}", quoted(&names[0]));
        fault(Error::data(&raw.file, found, "give sequences of two classes or more"))?;
    }
    if n >= 20 && 2 * k > n {
        let found =
            format!("has {k} different labels for {n} sequences: {}, {}, …", quoted(&names[0]), quoted(&names[1]));
        fault(Error::data(&raw.file, found, "name the label's column with --label-column, or give classes"))?;
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
fn split(labels: &[u32], classes: usize, shares: Shares, seed: u64, with_test: bool) -> [Vec<u32>; 3] {
    let mut by_class = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        by_class[label as usize].push(row as u32);
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

/// Mean and standard deviation of each input over all steps of `sequences`, which are `[length,I]`; 1 where all are the same,
/// and where there are none.
fn moments<'a, S>(i: usize, sequences: impl Fn() -> S) -> (Vec<f32>, Vec<f32>)
where
    S: Iterator<Item = Cow<'a, [f32]>>,
{
    let mut sums = vec![0.0_f64; i];
    let mut first: Vec<f32> = Vec::new();
    let mut constant = vec![true; i];
    let mut n = 0_u64;
    for sequence in sequences() {
        for step in sequence.chunks_exact(i) {
            if first.is_empty() {
                first = step.to_vec();
            }
            n += 1;
            for (input, &value) in step.iter().enumerate() {
                sums[input] += f64::from(value);
                constant[input] &= value == first[input];
            }
        }
    }
    if n == 0 {
        return (vec![0.0; i], vec![1.0; i]);
    }
    let mean: Vec<f64> = sums.iter().map(|sum| sum / n as f64).collect();
    let mut squares = vec![0.0_f64; i];
    for sequence in sequences() {
        for step in sequence.chunks_exact(i) {
            for ((square, &value), mean) in squares.iter_mut().zip(step).zip(&mean) {
                *square += (f64::from(value) - mean) * (f64::from(value) - mean);
            }
        }
    }
    let of_input = |input: usize| {
        let deviation = (squares[input] / n as f64).sqrt() as f32;
        // Where all are the same, the mean of them is to be it to the bit, too.
        if constant[input] || deviation == 0.0 { (first[input], 1.0) } else { (mean[input] as f32, deviation) }
    };
    (0..i).map(of_input).unzip()
}

fn measure(train: &Sequences, kind: Normalize) -> Normalization {
    match kind {
        Normalize::None => Normalization::None,
        Normalize::Sequence => Normalization::Sequence,
        Normalize::Feature => {
            let (mean, deviation) = moments(train.i(), || (0..train.len()).map(|n| train.numbers(n)));
            Normalization::Feature { mean, deviation }
        }
    }
}

/// Brings the steps `[length,I]` to a mean and a standard deviation of each input.
pub(crate) fn scale(steps: &mut [f32], mean: &[f32], deviation: &[f32]) {
    for step in steps.chunks_exact_mut(mean.len()) {
        for ((value, &mean), &deviation) in step.iter_mut().zip(mean).zip(deviation) {
            *value = ((f64::from(*value) - f64::from(mean)) / f64::from(deviation)) as f32;
        }
    }
}

impl Normalization {
    /// Brings the steps `[length,I]` of a sequence to the scale that the model sees.
    fn apply(&self, i: usize, steps: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Feature { mean, deviation } => scale(steps, mean, deviation),
            Self::Sequence => {
                let (mean, deviation) = moments(i, || std::iter::once(Cow::Borrowed(&*steps)));
                scale(steps, &mean, &deviation);
            }
        }
    }
}

impl OwnData {
    /// Sequences as the model sees them, from those of a file; of each only the steps that it has are looked at.
    pub fn apply(&self, sequences: Sequences) -> Sequences {
        let (t, i) = (sequences.t(), sequences.i());
        if self.normalization == Normalization::None {
            return sequences;
        }
        if let Values::Mapped(mapped) = sequences.values() {
            let mapped = mapped.with_normalization(self.normalization.clone());
            return sequences.with_values(Values::Mapped(mapped));
        }
        let mut values = Vec::with_capacity(sequences.len() * t * i);
        for n in 0..sequences.len() {
            let from = values.len();
            values.extend_from_slice(&sequences.numbers(n));
            self.normalization.apply(i, &mut values[from..]);
            values.resize(from + t * i, 0.0);
        }
        sequences.with_values(Values::F32(values))
    }
}

/// Sequences to classify, and where each stands in its file.
pub struct Unlabelled {
    /// As the model sees them.
    pub sequences: Sequences,
    /// The line of each, in a file that has lines.
    pub lines: Option<Vec<usize>>,
}

/// Reads sequences for a model of `t` steps of `i` inputs, or of any number of steps if it was trained so; labels may be
/// there and are not looked at.
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
    let any_length = trained.is_some_and(|own| own.any_length);
    let layout = Layout { label: label_column.cloned(), steps: Some(t), inputs: Some(i), unlabelled: true, any_length };
    let (mut raw, _) = read(path, &layout, READ_WHOLE)?;
    raw.check_finite()?;
    if raw.i != i || (raw.t != t && !any_length) {
        let steps = if any_length { "steps".into() } else { t.to_string() };
        let found = format!("has sequences of {} steps of {} inputs, the model reads {steps} of {i}", raw.t, raw.i);
        return Err(Error::data(path, found, "give sequences as those that the model was trained on"));
    }
    if !any_length {
        check_whole(&raw, t)?;
    }
    let lines = raw.lines.take();
    let n = raw.len();
    let sequences = raw.into_sequences(vec![0; n]);
    Ok(Unlabelled {
        sequences: match trained {
            Some(own) => own.apply(sequences),
            None => sequences,
        },
        lines,
    })
}
