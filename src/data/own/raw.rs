//! What a reader gives: sequences of one length as they stand in the file, and the labels' text.

use crate::data::Values;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// Sequences as they stand in a file.
pub struct Raw {
    /// The file.
    pub file: PathBuf,
    /// Steps of each sequence.
    pub t: usize,
    /// Inputs of each step.
    pub i: usize,
    /// `[N,T,I]`
    pub values: Values,
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

    /// A sequence for the user: `sequence 4 (line 6)`.
    pub fn place(&self, sequence: usize) -> String {
        match &self.lines {
            Some(lines) => format!("sequence {sequence} (line {})", lines[sequence]),
            None => format!("sequence {sequence}"),
        }
    }

    /// Where the first number that is NaN or infinite stands, and what it is.
    pub fn not_finite(&self) -> Option<String> {
        let Values::F32(values) = &self.values else { return None };
        let at = values.iter().position(|v| !v.is_finite())?;
        let (sequence, step, input) = (at / (self.t * self.i), at / self.i % self.t, at % self.i);
        let what = if values[at].is_nan() { "NaN" } else { "infinite (or too large for 32 bits)" };
        Some(format!("{}, step {step}, input {input} (counted from 0) is {what}", self.place(sequence)))
    }

    /// Makes sure that all numbers are finite.
    pub fn check_finite(&self) -> Result<()> {
        match self.not_finite() {
            None => Ok(()),
            Some(found) => Err(Error::data(&self.file, found, "fill it in, or leave the sequence out")),
        }
    }
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
