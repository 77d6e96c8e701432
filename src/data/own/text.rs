//! Tables of text: CSV, TSV and the UCR archive's `.tsv`. A line is a sequence, one of its columns the label. A sequence that
//! is shorter than others has empty cells at its end (the archive writes NaN there), or a line that ends early.

use super::raw::{Labels, Raw, padded, quoted};
use super::{CUT, plain_name, read_text};
use crate::data::Values;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr;

/// Names of a column that is taken for the label.
const LABEL_NAMES: [&str; 4] = ["label", "class", "y", "target"];

/// The column that holds the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelColumn {
    /// By its name in the first line.
    Name(String),
    /// By its number, from 1.
    Number(usize),
}

impl FromStr for LabelColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) => Err("give the column's name, or its number counted from 1".into()),
            Ok(number) => Ok(Self::Number(number)),
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

/// How the columns of a line are to be understood.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The label's column: without it, the one with a name such as `label`, else the last.
    pub label: Option<LabelColumn>,
    /// Steps of a sequence.
    pub steps: Option<usize>,
    /// Inputs of a step.
    pub inputs: Option<usize>,
    /// Whether a file without a label column is good too; `steps` and `inputs` tell then which it is.
    pub unlabelled: bool,
    /// Whether sequences of more or fewer than `steps` are good too.
    pub any_length: bool,
}

/// Whether the name is one of the UCR archive's, whose label comes first.
fn is_ucr(path: &Path) -> bool {
    let name = plain_name(path);
    let stem = name.file_stem().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
    name.extension().is_some_and(|ending| ending == "tsv") && (stem.ends_with("_TRAIN") || stem.ends_with("_TEST"))
}

/// Reads a table.
pub fn read(path: &Path, layout: &Layout) -> Result<Raw> {
    let text = read_text(path)?;
    let fail = |found: String, remedy: &str| Error::data(path, found, remedy);
    let mut lines =
        text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim().is_empty());
    let Some(first) = lines.next() else {
        return Err(fail("has no lines but empty ones".into(), "give a line for each sequence"));
    };
    let separator = separator(path, first.1);
    let cells = |number: usize, line| {
        let unclosed = |found| fail(format!("line {number}: {found}"), "write a quote within quotes twice");
        split(line, separator).map_err(unclosed)
    };
    let head: Vec<String> = cells(first.0, first.1)?.into_iter().map(Cow::into_owned).collect();
    let mut widest = head.len();
    for (number, line) in lines.clone() {
        widest = widest.max(cells(number, line)?.len());
    }
    let (header, label) = label_place(path, &head, widest, layout)?;
    // A label that is the last of the first line's stands there in all of them; before it, any line may end early.
    let label_is_last = label == Some(head.len() - 1) && !matches!(layout.label, Some(LabelColumn::Number(_)));
    let columns = if header || label_is_last { head.len() } else { widest };
    let (_, i) = cut(path, columns - usize::from(label.is_some()), layout)?;
    let pads_with_nan = is_ucr(path);
    let is_padding = |cell: &str| cell.is_empty() || pads_with_nan && cell.eq_ignore_ascii_case("nan");
    let (mut values, mut lengths) = (Vec::new(), Vec::new());
    let mut labels = Labels::default();
    let mut numbers = Vec::new();
    let rest = std::iter::once(first).filter(|_| !header).chain(lines);
    for (number, line) in rest {
        let cells = cells(number, line)?;
        if cells.len() > columns || label.is_some_and(|label| label >= cells.len()) {
            let found = format!("line {number} has {} columns, line {} has {columns}", cells.len(), first.0);
            return Err(fail(
                found,
                "give every line as many; a shorter sequence has empty cells at the end of its numbers",
            ));
        }
        let is_last = |&(column, cell): &(usize, &Cow<'_, str>)| label != Some(column) && !is_padding(cell.trim());
        let Some(end) = cells.iter().enumerate().rfind(is_last).map(|(column, _)| column + 1) else {
            return Err(fail(format!("line {number} has no number"), "leave it out"));
        };
        let from = values.len();
        for (column, cell) in cells.iter().enumerate() {
            if label != Some(column) && column >= end {
                continue;
            }
            let place = || {
                let name = if header { format!(" ({})", quoted(&head[column])) } else { String::new() };
                format!("line {number}, column {}{name}", column + 1)
            };
            if label == Some(column) {
                labels
                    .push_checked(cell)
                    .map_err(|found| fail(format!("{}: the label {found}", place()), "give every sequence a class"))?;
                continue;
            }
            let cell = cell.trim();
            match cell.parse::<f64>() {
                Ok(value) => values.push(value as f32),
                Err(_) if cell.is_empty() => {
                    return Err(fail(format!("{} is empty", place()), "fill it in, or leave the line out"));
                }
                Err(_) => {
                    let remedy = match cell.contains(',') && cell.replace(',', ".").parse::<f64>().is_ok() {
                        true => "write decimals with a point",
                        false => "give a number, or name the label's column with --label-column",
                    };
                    return Err(fail(format!("{} is {}, not a number", place(), quoted(cell)), remedy));
                }
            }
        }
        let count = values.len() - from;
        if !count.is_multiple_of(i) {
            let found = format!("line {number} has {count} numbers, which do not make whole steps of {i} inputs");
            return Err(fail(found, "fill in what is missing, or leave the line out"));
        }
        lengths.push((count / i) as u32);
        numbers.push(number);
    }
    if numbers.is_empty() {
        return Err(fail("has a line of names and no sequence".into(), "give a line for each sequence"));
    }
    let labels = label.map(|_| labels);
    let (values, t, lengths) = padded(values, lengths, i).map_err(|found| fail(found, CUT))?;
    Ok(Raw { file: path.to_owned(), t, i, values: Values::F32(values), lengths, labels, lines: Some(numbers) })
}

/// What stands between the cells: a tab, or what the first line has most of.
fn separator(path: &Path, first: &str) -> char {
    if plain_name(path).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv")) {
        return '\t';
    }
    // With semicolons in it, commas are decimal ones.
    *[';', '\t'].iter().find(|&&c| first.contains(c)).unwrap_or(&',')
}

/// The cells of a line.
fn split(line: &str, separator: char) -> Result<Vec<Cow<'_, str>>, String> {
    if !line.contains('"') {
        return Ok(line.split(separator).map(Cow::Borrowed).collect());
    }
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let trimmed = rest.trim_start_matches(' ');
        if let Some(inner) = trimmed.strip_prefix('"') {
            let mut cell = String::new();
            let mut characters = inner.char_indices().peekable();
            let end = loop {
                match characters.next() {
                    None => return Err(format!("the quote of cell {} is not closed", cells.len() + 1)),
                    // Two quotes stand for one.
                    Some((_, '"')) if characters.peek().is_some_and(|&(_, c)| c == '"') => {
                        cell.push('"');
                        characters.next();
                    }
                    Some((at, '"')) => break at + 1,
                    Some((_, c)) => cell.push(c),
                }
            };
            cells.push(Cow::Owned(cell));
            let after = inner[end..].trim_start_matches(' ');
            match after.strip_prefix(separator) {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(cells),
                None => return Err(format!("there is text after the quote of cell {}", cells.len())),
            }
        } else if let Some((cell, next)) = rest.split_once(separator) {
            cells.push(Cow::Borrowed(cell));
            rest = next;
        } else {
            cells.push(Cow::Borrowed(rest));
            return Ok(cells);
        }
    }
}

/// Whether the first line names the columns, and which one is the label's, if there is one.
fn label_place(path: &Path, head: &[String], widest: usize, layout: &Layout) -> Result<(bool, Option<usize>)> {
    let is_number = |cell: &str| cell.trim().parse::<f64>().is_ok();
    let named = head.iter().position(|cell| LABEL_NAMES.iter().any(|name| cell.trim().eq_ignore_ascii_case(name)));
    let last = head.len() - 1;
    let found = match &layout.label {
        Some(LabelColumn::Name(name)) => match head.iter().position(|cell| cell.trim() == name) {
            Some(place) => return Ok((true, Some(place))),
            None => Err((format!("--label-column {name}"), "no column has this name in its first line".to_owned())),
        },
        Some(LabelColumn::Number(number)) if *number > widest => {
            Err((format!("--label-column {number}"), format!("its lines have {widest} columns")))
        }
        Some(LabelColumn::Number(number)) => Ok(number - 1),
        None if is_ucr(path) => Ok(0),
        None => Ok(named.unwrap_or(last)),
    };
    let none = layout.unlabelled
        && match layout.steps.zip(layout.inputs) {
            // A model tells how many numbers there are; where they are all, there is no label.
            Some((t, i)) if t * i == widest => true,
            // Whole steps and one cell more have a label.
            Some((_, i)) if layout.any_length && i > 1 => widest.is_multiple_of(i),
            Some((t, _)) if layout.any_length && layout.label.is_none() && named.is_none() && !is_ucr(path) => {
                let last_is_number = is_number(&head[last]);
                if last_is_number && widest != t + 1 {
                    let found = format!(
                        "its lines have {widest} numbers, and the model reads sequences of any length: the last may be a label"
                    );
                    let remedy = format!(
                        "name the label's column with --label-column; without labels, end a line with empty cells to have {t}"
                    );
                    return Err(Error::data(path, found, remedy));
                }
                false
            }
            _ => false,
        };
    let label = match found {
        _ if none => None,
        Ok(place) => Some(place),
        Err((flag, found)) => return Err(Error::data(path, format!("{flag}: {found}"), "name a column that is there")),
    };
    // Names of columns are no numbers, none of them.
    let header = named.is_some() && layout.label.is_none()
        || head.iter().enumerate().all(|(at, cell)| Some(at) == label || (!is_number(cell) && !cell.trim().is_empty()))
            && head.len() > 1;
    Ok((header, label))
}

/// Steps and inputs of lines with `wide` numbers.
fn cut(path: &Path, wide: usize, layout: &Layout) -> Result<(usize, usize)> {
    if wide == 0 {
        return Err(Error::data(path, "has one column only, the label's", "give the numbers of a sequence beside it"));
    }
    let refuse = |flag: String, n: usize| {
        let found = format!("its lines have {wide} numbers, which {flag} does not cut evenly");
        Error::data(path, found, format!("give numbers that multiply to {wide} (not {n})"))
    };
    match (layout.steps, layout.inputs) {
        (None, None) => Ok((wide, 1)),
        (Some(t), None) if wide.is_multiple_of(t) => Ok((t, wide / t)),
        (Some(t), None) => Err(refuse(format!("--steps-per-sequence {t}"), t)),
        (None, Some(i)) if wide.is_multiple_of(i) => Ok((wide / i, i)),
        (None, Some(i)) => Err(refuse(format!("--inputs {i}"), i)),
        (Some(t), Some(i)) if t * i == wide => Ok((t, i)),
        (Some(_), Some(i)) if layout.any_length && wide.is_multiple_of(i) => Ok((wide / i, i)),
        (Some(t), Some(i)) if layout.unlabelled => Err(Error::data(
            path,
            match layout.any_length {
                true => format!("its lines have {wide} numbers, the model reads steps of {i}"),
                false => format!("its lines have {wide} numbers, the model reads {t} steps of {i}"),
            },
            "give sequences as those that the model was trained on",
        )),
        (Some(t), Some(i)) => Err(refuse(format!("{t} steps of {i} inputs"), t * i)),
    }
}
