//! What there is to know of people's own data before anybody trains on it.

use super::raw::quoted;
use super::{Normalize, Options, load_with};
use crate::data::{BYTE_SCALE, Dataset, Sequences, Split};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

/// A class that has so many times fewer training sequences than the largest one is worth a word.
const IMBALANCE: usize = 20;

/// The finite numbers of one input, of all sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputRange {
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// Their mean.
    pub mean: f64,
}

/// Data as it stands in its file, and what is to be said of it.
pub struct Inspection {
    /// The data without normalisation.
    pub data: Dataset,
    /// Of each input, `[I]`; none for one without a finite number. Bytes are told as they are, from 0 to 255.
    pub inputs: Vec<Option<InputRange>>,
    /// Steps of the shortest sequence, of the middle one, and of the longest.
    pub lengths: [usize; 3],
    /// Why it cannot be trained on, a line each.
    pub faults: Vec<String>,
    /// What is doubtful, a line each.
    pub warnings: Vec<String>,
}

/// Looks at the data in `path`, with faults or without.
///
/// # Errors
///
/// As [`load`](super::load), for data that cannot be looked at.
pub fn inspect(path: &Path, options: &Options) -> Result<Inspection> {
    let options = Options { normalize: Some(Normalize::None), ..options.clone() };
    let mut faults = Vec::new();
    let mut keep = |error: Error| {
        faults.push(error.to_string());
        Ok(())
    };
    let data = load_with(path, &options, None, &mut keep)?;
    let parts = SPLITS.map(|(_, split)| data.split(split));
    let inputs = inputs(&parts, data.train.i());
    let mut warnings = Vec::new();
    constant(&inputs, &mut warnings);
    classes(&data, &mut warnings);
    twice(&data, &mut warnings);
    let mut lengths: Vec<usize> = parts.iter().flat_map(|part| (0..part.len()).map(|n| part.length(n))).collect();
    lengths.sort_unstable();
    let lengths = [0, lengths.len() / 2, lengths.len() - 1].map(|at| lengths[at]);
    Ok(Inspection { data, inputs, lengths, faults, warnings })
}

const SPLITS: [(&str, Split); 3] =
    [("training", Split::Train), ("validation", Split::Validation), ("test", Split::Test)];

fn inputs(parts: &[&Sequences], i: usize) -> Vec<Option<InputRange>> {
    struct Seen {
        min: f32,
        max: f32,
        sum: f64,
        n: u64,
    }
    let mut seen: Vec<Seen> =
        (0..i).map(|_| Seen { min: f32::INFINITY, max: f32::NEG_INFINITY, sum: 0.0, n: 0 }).collect();
    for part in parts {
        // Bytes are told as they stand in the file.
        let bytes = part.values().is_bytes();
        let unscaled = |value: f32| if bytes { (value / BYTE_SCALE).round() } else { value };
        for n in 0..part.len() {
            for step in part.numbers(n).chunks_exact(i) {
                for (seen, value) in seen.iter_mut().zip(step).filter(|(_, value)| value.is_finite()) {
                    let value = unscaled(*value);
                    (seen.min, seen.max) = (seen.min.min(value), seen.max.max(value));
                    (seen.sum, seen.n) = (seen.sum + f64::from(value), seen.n + 1);
                }
            }
        }
    }
    let range =
        |seen: Seen| (seen.n > 0).then(|| InputRange { min: seen.min, max: seen.max, mean: seen.sum / seen.n as f64 });
    seen.into_iter().map(range).collect()
}

fn constant(inputs: &[Option<InputRange>], warnings: &mut Vec<String>) {
    let constant = |range: &Option<InputRange>| range.is_some_and(|range| range.min == range.max);
    let constant: Vec<_> =
        (0..inputs.len()).filter(|&input| constant(&inputs[input])).map(|input| input.to_string()).collect();
    if !constant.is_empty() {
        warnings.push(format!("inputs that never change: {} (counted from 0)", few(&constant)));
    }
}

fn classes(data: &Dataset, warnings: &mut Vec<String>) {
    let name = |class: usize| quoted(&data.class_name(class));
    for (part, split) in SPLITS {
        let counts = counts(data, split);
        let missing: Vec<_> = (0..data.classes).filter(|&class| counts[class] == 0).map(name).collect();
        if !missing.is_empty() && !data.split(split).is_empty() {
            warnings.push(format!("the {part} split has no sequence of class {}", few(&missing)));
        }
    }
    let counts = counts(data, Split::Train);
    let Some(largest) = (0..data.classes).max_by_key(|&class| counts[class]) else { return };
    let is_rare = |class: &usize| counts[*class] > 0 && counts[*class] * IMBALANCE <= counts[largest];
    let rare: Vec<_> =
        (0..data.classes).filter(is_rare).map(|class| format!("{} ({})", name(class), counts[class])).collect();
    if !rare.is_empty() {
        let (largest, n) = (name(largest), counts[largest]);
        warnings.push(format!("the training split has {n} sequences of class {largest}, and few of {}", few(&rare)));
    }
}

/// Sequences that are in the training split and in another one: what is said of the model there would be too good.
fn twice(data: &Dataset, warnings: &mut Vec<String>) {
    let hash = |numbers: &[f32]| {
        let mut hasher = DefaultHasher::new();
        numbers.iter().for_each(|value| hasher.write_u32(value.to_bits()));
        hasher.finish()
    };
    let mut known: HashMap<u64, Vec<usize>> = HashMap::new();
    for n in 0..data.train.len() {
        known.entry(hash(&data.train.numbers(n))).or_default().push(n);
    }
    for (part, split) in &SPLITS[1..] {
        let part_of = data.split(*split);
        let is_known = |&n: &usize| {
            let numbers = part_of.numbers(n);
            let same = |&of_train: &usize| data.train.numbers(of_train) == numbers;
            known.get(&hash(&numbers)).is_some_and(|all| all.iter().any(same))
        };
        let count = (0..part_of.len()).filter(is_known).count();
        if count > 0 {
            let n = part_of.len();
            warnings.push(format!("{count} of the {n} sequences of the {part} split are in the training split, too"));
        }
    }
}

fn counts(data: &Dataset, split: Split) -> Vec<usize> {
    let mut counts = vec![0; data.classes];
    data.split(split).labels().iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

/// The first of many, for a line.
fn few(all: &[String]) -> String {
    let more = if all.len() > 8 { format!(" and {} more", all.len() - 8) } else { String::new() };
    format!("{}{more}", all[..all.len().min(8)].join(", "))
}
