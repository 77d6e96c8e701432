//! The UCR/UEA archive's `.ts` files: a header of lines with `@`, then a line for each sequence. Its dimensions are
//! separated by colons, their steps by commas; the class comes last.

use super::raw::{Labels, Raw, padded, quoted};
use super::{CUT, read_text};
use crate::data::Values;
use crate::error::{Error, Result};
use std::path::Path;

const REMEDY: &str =
    "write it as the archive's files are: @classLabel true and @data, then value,value:value,value:class";

/// Reads a `.ts` file. Without `labelled`, it may be one of no classes.
pub fn read(path: &Path, labelled: bool) -> Result<Raw> {
    let text = read_text(path)?;
    let fail = |found: String, remedy: &str| Error::data(path, found, remedy);
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));

    let (mut has_labels, mut unequal) = (false, false);
    loop {
        let Some((number, line)) = lines.next() else {
            return Err(fail("has no @data line".into(), REMEDY));
        };
        let Some(tag) = line.strip_prefix('@') else {
            return Err(fail(format!("line {number} is {} before any @data line", quoted(line)), REMEDY));
        };
        let mut words = tag.split_whitespace();
        let name = words.next().unwrap_or_default().to_ascii_lowercase();
        let value = words.next().unwrap_or_default().to_ascii_lowercase();
        match (name.as_str(), value.as_str()) {
            ("data", _) => break,
            ("timestamps", "true") => {
                return Err(fail(
                    format!("line {number}: it has time stamps, which are not read"),
                    "save it without them",
                ));
            }
            ("equallength", value) => unequal = value == "false",
            ("targetlabel", "true") => {
                return Err(fail(
                    format!("line {number}: it is for regression, not classes"),
                    "give one with @classLabel",
                ));
            }
            ("classlabel", value) => has_labels = value == "true",
            _ => {}
        }
    }
    if labelled && !has_labels {
        return Err(fail("does not say @classLabel true: it has no classes".into(), "give a file with classes"));
    }

    let (mut values, mut labels, mut numbers) = (Vec::new(), Labels::default(), Vec::new());
    let mut lengths = Vec::new();
    // Of the first line: its number, steps and dimensions.
    let mut sizes: Option<(usize, usize, usize)> = None;
    for (number, line) in lines {
        let mut dimensions: Vec<&str> = line.split(':').collect();
        if has_labels {
            let label = dimensions.pop().unwrap_or_default();
            if dimensions.is_empty() {
                return Err(fail(format!("line {number} has no colon before a class"), REMEDY));
            }
            labels.push_checked(label).map_err(|found| fail(format!("line {number}: the class {found}"), REMEDY))?;
        }
        let i = dimensions.len();
        let t = dimensions[0].split(',').count();
        let (first, usual, inputs) = *sizes.get_or_insert((number, t, i));
        if i != inputs {
            let found = format!("line {number} has {i} dimensions, line {first} has {inputs}");
            return Err(fail(found, "give every sequence as many"));
        }
        if t != usual && !unequal {
            let found = format!("line {number} has {t} steps, line {first} has {usual}");
            return Err(fail(found, "say @equalLength false in its header, if lengths are to differ"));
        }
        // All counts hold before there is room made for the numbers.
        for (input, dimension) in dimensions.iter().enumerate() {
            let count = dimension.split(',').count();
            if count != t {
                let found = format!("line {number}, dimension {input} has {count} steps, its dimension 0 has {t}");
                return Err(fail(found, "give all dimensions of a sequence as many steps"));
            }
        }
        let from = values.len();
        values.resize(from + t * inputs, 0.0);
        lengths.push(t as u32);
        for (input, dimension) in dimensions.iter().enumerate() {
            for (step, cell) in dimension.split(',').enumerate() {
                let cell = cell.trim();
                values[from + step * inputs + input] = cell.parse::<f64>().map(|value| value as f32).map_err(|_| {
                    let place = format!("line {number}, dimension {input}, step {step} (counted from 0)");
                    match cell {
                        "?" | "" => fail(format!("{place} is missing"), "fill it in, or leave the sequence out"),
                        _ => fail(format!("{place} is {}, not a number", quoted(cell)), REMEDY),
                    }
                })?;
            }
        }
        numbers.push(number);
    }
    let Some((_, _, i)) = sizes else {
        return Err(fail("has no sequence after @data".into(), REMEDY));
    };
    let labels = has_labels.then_some(labels);
    let (values, t, lengths) = padded(values, lengths, i).map_err(|found| fail(found, CUT))?;
    Ok(Raw { file: path.to_owned(), t, i, values: Values::F32(values), lengths, labels, lines: Some(numbers) })
}
