//! What a reader gives: sequences as they stand in the file, padded to the longest, and the labels' text.

use crate::data::{Sequences, Values};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// Sequences as they stand in a file.
pub struct Raw {
    /// The file.
    pub file: PathBuf,
    /// Steps of the longest sequence.
    pub t: usize,
    /// Inputs of each step.
    pub i: usize,
    /// `[N,T,I]`
    pub values: Values,
    /// Steps of each sequence, `[N]`; none where all have T.
    pub lengths: Option<Vec<u32>>,
    /// The class of each sequence.
    pub labels: Option<Labels>,
    /// The line of each sequence, in a file that has lines.
    pub lines: Option<Vec<usize>>,
}

impl Raw {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.values.len() / (self.t * self.i)
    }

    /// Steps of sequence `n`.
    pub fn length(&self, n: usize) -> usize {
        self.lengths.as_ref().map_or(self.t, |lengths| lengths[n] as usize)
    }

    /// Makes room for `t` steps, at least as many as there are.
    pub fn pad(&mut self, t: usize) {
        if t == self.t {
            return;
        }
        let (n, width, room) = (self.len(), self.t * self.i, t * self.i);
        self.lengths.get_or_insert_with(|| vec![self.t as u32; n]);
        self.values = match &self.values {
            Values::U8 { bytes, scale } => Values::U8 { bytes: spread(bytes, width, room, 0), scale: *scale },
            Values::F32(values) => Values::F32(spread(values, width, room, 0.0)),
            Values::Mapped(mapped) => Values::Mapped(mapped.with_room(t)),
        };
        self.t = t;
    }

    /// A sequence for the user: `sequence 4 (line 6)`.
    pub fn place(&self, sequence: usize) -> String {
        match &self.lines {
            Some(lines) => format!("sequence {sequence} (line {})", lines[sequence]),
            None => format!("sequence {sequence}"),
        }
    }

    /// The sequences with their class numbers `[N]`.
    pub fn into_sequences(self, labels: Vec<u32>) -> Sequences {
        let sequences = Sequences::new(self.t, self.i, self.values, labels);
        match self.lengths {
            Some(lengths) => sequences.with_lengths(lengths),
            None => sequences,
        }
    }

    /// Makes sure that all numbers are finite.
    pub fn check_finite(&self) -> Result<()> {
        if self.values.is_bytes() {
            return Ok(());
        }
        let (mut first, mut count) = (None, 0_u64);
        for sequence in 0..self.len() {
            let steps = self.values.numbers(sequence, self.t * self.i, self.length(sequence) * self.i);
            for (at, value) in steps.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
                count += 1;
                first = first.or(Some((sequence, at / self.i, at % self.i, *value)));
            }
        }
        let Some((sequence, step, input, value)) = first else { return Ok(()) };
        let what = if value.is_nan() { "NaN" } else { "infinite (or too large for 32 bits)" };
        let more = match count {
            1 => String::new(),
            _ => format!(" (and {} more are not finite)", count - 1),
        };
        let found = format!("{}, step {step}, input {input} (counted from 0) is {what}{more}", self.place(sequence));
        Err(Error::data(&self.file, found, "fill it in, or leave the sequence out"))
    }
}

/// Rows of `width` values, each followed by as much of `padding` as makes it `room` wide.
fn spread<V: Copy>(values: &[V], width: usize, room: usize, padding: V) -> Vec<V> {
    let mut all = Vec::with_capacity(values.len() / width * room);
    for row in values.chunks_exact(width) {
        all.extend_from_slice(row);
        all.resize(all.len() + room - width, padding);
    }
    all
}

/// Values `[N,T,I]`, T, and the lengths where they differ.
type Padded = (Vec<f32>, usize, Option<Vec<u32>>);

/// Sequences `[length,I]` that follow one another, padded with zeros. The error says what was found.
///
/// # Panics
///
/// If there are no lengths.
pub fn padded(values: Vec<f32>, lengths: Vec<u32>, i: usize) -> Result<Padded, String> {
    let longest = *lengths.iter().max().expect("a sequence");
    let t = longest as usize;
    if lengths.iter().all(|&length| length == longest) {
        return Ok((values, t, None));
    }
    let mut all = Vec::new();
    let room = lengths.len().checked_mul(t * i);
    if room.is_none_or(|room| all.try_reserve_exact(room).is_err()) {
        let n = lengths.len();
        return Err(format!(
            "has {n} sequences, which all need room for the {t} steps of the longest: too much memory"
        ));
    }
    let mut rest = &values[..];
    for &length in &lengths {
        let (sequence, after) = rest.split_at(length as usize * i);
        all.extend_from_slice(sequence);
        all.resize(all.len() + (t - length as usize) * i, 0.0);
        rest = after;
    }
    Ok((all, t, Some(lengths)))
}

/// Labels as text, each different one kept once.
#[derive(Default)]
pub struct Labels {
    /// The different labels in the order of their appearance.
    pub names: Vec<String>,
    /// The place in `names` of each sequence's label.
    pub indices: Vec<u32>,
    places: HashMap<String, u32>,
}

/// More characters in a label are taken for a mistake.
const MAX_LABEL: usize = 200;

impl Labels {
    /// Takes the label of the next sequence.
    pub fn push(&mut self, text: &str) {
        let place = match self.places.get(text) {
            Some(&place) => place,
            None => {
                let place = self.names.len() as u32;
                self.names.push(text.to_owned());
                self.places.insert(text.to_owned(), place);
                place
            }
        };
        self.indices.push(place);
    }

    /// The same for a label that somebody typed; the error says what is wrong with it.
    pub fn push_checked(&mut self, text: &str) -> Result<(), String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".into());
        }
        if text.chars().count() > MAX_LABEL || text.chars().any(char::is_control) {
            return Err(format!("is {}, which is too long or not plain text", quoted(text)));
        }
        // `1.0` and `1.0000000e+00`, as some programs write the number 1, are the class 1.
        let number = text.contains(['.', 'e', 'E']).then(|| text.parse::<f64>().ok()).flatten();
        match number.filter(|v| v.fract() == 0.0 && v.abs() < 9e15) {
            Some(whole) => self.push(&(whole as i64).to_string()),
            None => self.push(text),
        }
        Ok(())
    }
}

/// Sorts class names: by value if all are whole numbers, else as text.
pub fn sort_names(names: &mut [String]) {
    if names.iter().all(|name| name.parse::<i128>().is_ok()) {
        names.sort_by_key(|name| name.parse::<i128>().ok());
    } else {
        names.sort();
    }
}

/// Text from a file, short enough for a message.
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(24).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
