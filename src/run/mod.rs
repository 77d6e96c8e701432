//! The folder that a training leaves, complete enough to look into it later and to go on from it.
//!
//! | file | what |
//! | --- | --- |
//! | `config.json` | [`Settings`]: everything that, with the data, decides the run |
//! | `environment.json` | [`Environment`]: what it ran on |
//! | `metrics.jsonl` | a [`Row`] for each start, report and evaluation, and one for the end |
//! | `events.out.tfevents.…` | the same numbers for TensorBoard, a file for each start |
//! | `last`, `best` | checkpoints: where the run goes on, and the one of the lowest validation loss |
//! | `evaluation.json` | [`Findings`]: what the model gets right and wrong on the test split |
//! | `report.html` | all of it to look at |
//!
//! `metrics.jsonl` and the event files are appended to by whole lines and records; every other file is replaced as a whole. So
//! the folder of a run that was killed can be read, and `last` is where it goes on.

mod environment;
mod event_file;
mod findings;

pub use environment::Environment;
pub use findings::{Findings, Mistake, Sample, Unfolding, View};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::tensor_file::write_whole;
use crate::train::{EvalReport, Keep, StepReport};
use event_file::EventFile;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const CONFIG_FILE: &str = "config.json";
const ENVIRONMENT_FILE: &str = "environment.json";
const METRICS_FILE: &str = "metrics.jsonl";
const EVALUATION_FILE: &str = "evaluation.json";
/// Name of the report in the folder.
pub const REPORT_FILE: &str = "report.html";
/// Name of the folder with the last checkpoint.
pub const LAST: &str = "last";
/// Name of the folder with the best checkpoint.
pub const BEST: &str = "best";

/// Version of the folder's form.
const FORMAT: u32 = 1;
const REMEDY: &str = "give a folder that `train --run` wrote";
const ELSEWHERE: &str = "free some space or choose another folder with --run";

/// Everything that, with the data, decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Model, optimizer, seed and batches.
    pub config: Config,
    /// Steps in all.
    pub steps: u64,
    /// Precision of the operands of matrix products.
    pub precision: Precision,
    /// Steps between two reports.
    pub log_every: u64,
    /// Steps between two evaluations of the validation split.
    pub eval_every: u64,
    /// Steps between two checkpoints.
    pub save_every: u64,
    /// The data in one line, and where it came from.
    pub data: String,
}

/// `config.json`. Its first key is another than that of a checkpoint's `config.json`, so that nobody takes one for the other.
#[derive(Serialize, Deserialize)]
struct ConfigFile {
    run_format: u32,
    #[serde(flatten)]
    settings: Settings,
}

/// A line of `metrics.jsonl`. `time` is in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Row {
    /// The run starts, or goes on, after `step`; rows of later steps that stand before this one count no more.
    Start {
        /// When.
        time: f64,
        /// Steps done before.
        step: u64,
        /// Version of the program.
        version: String,
        /// The engine's device.
        device: String,
    },
    /// A report on the last batch.
    Step {
        /// When.
        time: f64,
        /// What was reported.
        #[serde(flatten)]
        report: StepReport,
    },
    /// An evaluation of the validation split.
    Eval {
        /// When.
        time: f64,
        /// Steps done.
        step: u64,
        /// How good the model was.
        #[serde(flatten)]
        report: EvalReport,
    },
    /// The end.
    Done {
        /// When.
        time: f64,
        /// Steps done.
        step: u64,
        /// The model of the last step on the validation split.
        validation: EvalReport,
        /// The same on the test split.
        test: EvalReport,
        /// Where the time went, since the last start.
        seconds: Seconds,
    },
}

/// Where the time of a run went, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Reading or fetching data.
    pub data: f64,
    /// Making the engine ready.
    pub set_up: f64,
    /// Training steps.
    pub training: f64,
    /// The evaluation at the end.
    pub evaluation: f64,
    /// Reports, evaluations on the way, and saving.
    pub reports: f64,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3)
}

/// The run that `folder` is, or whose last checkpoint it is; none if it is neither.
pub fn run_of(folder: &Path) -> Option<PathBuf> {
    let is_run = |folder: &Path| Settings::load(folder).is_ok();
    if is_run(folder) {
        return Some(folder.to_owned());
    }
    let above = folder.parent().filter(|_| folder.ends_with(LAST))?;
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    is_run(above).then(|| above.to_owned())
}

/// Makes sure that a new run can begin in `folder`: it is not there, or empty.
///
/// # Errors
///
/// [`Error::Usage`] that says what is there.
pub fn check_new(folder: &Path) -> Result<()> {
    let flag = format!("--run {}", folder.display());
    if folder.symlink_metadata().is_err() {
        return Ok(());
    }
    if !folder.is_dir() {
        return Err(Error::usage(flag, "this is not a folder", "choose a new or an empty folder"));
    }
    if run_of(folder).is_some() {
        let remedy = format!("go on with --resume {}, or choose a new folder", folder.display());
        return Err(Error::usage(flag, "there is a run in this folder already", remedy));
    }
    let mut entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "look into the folder", e, ELSEWHERE))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::usage(flag, "the folder holds other files", "choose a new or an empty folder")),
    }
}

/// A run's folder that is written to.
pub struct RunFolder {
    folder: PathBuf,
    metrics: File,
    events: EventFile,
}

impl RunFolder {
    /// Begins a run in `folder`, or goes on with the one that is there, after `step`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn begin(folder: &Path, settings: &Settings, environment: &Environment, step: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder", e, ELSEWHERE))?;
        write_json(folder, ENVIRONMENT_FILE, environment)?;
        let time = now();
        let metrics = folder.join(METRICS_FILE);
        let opened = open_lines(&metrics).map_err(|e| Error::io(&metrics, "write", e, ELSEWHERE))?;
        let (path, events) = create_events(folder, time);
        let events = events.map_err(|e| Error::io(path, "write", e, ELSEWHERE))?;
        // Last, for with it the folder is a run.
        write_json(folder, CONFIG_FILE, &ConfigFile { run_format: FORMAT, settings: settings.clone() })?;
        let mut run = Self { folder: folder.to_owned(), metrics: opened, events };
        let (version, device) = (environment.version.clone(), environment.device.clone());
        run.record(&Row::Start { time, step, version, device })?;
        Ok(run)
    }

    /// Appends a row to the numbers, here and for TensorBoard.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn record(&mut self, row: &Row) -> Result<()> {
        let line = serde_json::to_string(row).expect("numbers and text can be written") + "\n";
        let written = self.metrics.write_all(line.as_bytes());
        written.map_err(|e| Error::io(self.folder.join(METRICS_FILE), "write", e, ELSEWHERE))?;
        let written = match row {
            Row::Start { .. } => Ok(()),
            Row::Step { time, report: StepReport { step, loss, accuracy, learning_rate, .. } } => {
                let values = [("loss/train", *loss), ("accuracy/train", *accuracy), ("learning_rate", *learning_rate)];
                self.events.scalars(*step, *time, &values)
            }
            Row::Eval { time, step, report } => self.events.scalars(*step, *time, &scalars("validation", report)),
            Row::Done { time, step, test, .. } => self.events.scalars(*step, *time, &scalars("test", test)),
        };
        written.map_err(|e| Error::io(&self.folder, "write the event file in", e, ELSEWHERE))
    }

    /// Writes what was found on the test split.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn findings(&self, findings: &Findings) -> Result<()> {
        let text = serde_json::to_string(findings).expect("numbers and text can be written") + "\n";
        write_whole(&self.folder.join(EVALUATION_FILE), text.as_bytes(), ELSEWHERE)
    }
}

fn scalars(split: &str, report: &EvalReport) -> [(&'static str, f64); 2] {
    match split {
        "validation" => [("loss/validation", report.loss), ("accuracy/validation", report.accuracy)],
        _ => [("loss/test", report.loss), ("accuracy/test", report.accuracy)],
    }
}

/// The folder of the last checkpoint, and where the best one lies after `step`, in a run's `folder`.
pub fn checkpoints(folder: &Path, step: u64) -> (PathBuf, Keep) {
    let best = folder.join(BEST);
    let loss = || {
        let kept = Checkpoint::load(&best).ok()?.state.step;
        // One of later steps, which a killed run has not come back to, has nothing to say about this one.
        Run::load(folder).ok()?.evaluations().find(|(at, _)| *at == kept && kept <= step).map(|(_, report)| report.loss)
    };
    let lowest_loss = loss().unwrap_or(f64::INFINITY);
    (folder.join(LAST), Keep { folder: best, lowest_loss })
}

/// A new event file; two starts within a second have two files.
fn create_events(folder: &Path, time: f64) -> (PathBuf, io::Result<EventFile>) {
    let mut number = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{:010}.fused-lstm.{number}", time as u64));
        match EventFile::create(&path, time) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            created => return (path, created),
        }
    }
}

/// Opens a file of lines to append to. What a killed program has left of a line is cut off.
fn open_lines(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let bytes = fs::read(path)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        file.set_len(whole as u64)?;
    }
    Ok(file)
}

fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("settings and numbers can be written") + "\n";
    write_whole(&folder.join(name), text.as_bytes(), ELSEWHERE)
}

impl Settings {
    /// Reads `config.json` of a run's folder.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] that says what is there instead.
    pub fn load(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let found = if folder.exists() { "this is not a folder" } else { "there is no such folder" };
            return Err(Error::data(folder, found, REMEDY));
        }
        let path = folder.join(CONFIG_FILE);
        let not_a_run = || Error::data(folder, "this is not the folder of a run", REMEDY);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not_a_run()),
            text => text.map_err(|e| Error::io(&path, "read", e, REMEDY))?,
        };
        #[derive(Deserialize)]
        struct Form {
            run_format: Option<u32>,
        }
        match serde_json::from_slice(&text) {
            Ok(Form { run_format: None }) => return Err(not_a_run()),
            Ok(Form { run_format: Some(format) }) if format != FORMAT => {
                let found = format!("form {format} is not the form {FORMAT} that this program reads");
                return Err(Error::data(&path, found, REMEDY));
            }
            _ => {}
        }
        let ConfigFile { settings, .. } = parse(&path, &text)?;
        Ok(settings)
    }
}

/// A run's folder as it was read.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where it is.
    pub folder: PathBuf,
    /// What decided it.
    pub settings: Settings,
    /// What it ran on.
    pub environment: Environment,
    /// Its numbers, those left out that a later start has replaced.
    pub rows: Vec<Row>,
    /// What was found on the test split; none of a run that has not come to its end.
    pub findings: Option<Findings>,
}

impl Run {
    /// Reads the run in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] that names the file, and the line, that cannot be read.
    pub fn load(folder: &Path) -> Result<Self> {
        let settings = Settings::load(folder)?;
        let read = |name: &str| {
            let path = folder.join(name);
            let text = fs::read(&path).map_err(|e| Error::data(&path, format!("it cannot be read ({e})"), REMEDY))?;
            Ok((path, text))
        };
        let (path, text) = read(ENVIRONMENT_FILE)?;
        let environment = parse(&path, &text)?;
        let (path, text) = read(METRICS_FILE)?;
        let rows = effective(parse_rows(&path, &text)?);
        let findings = match folder.join(EVALUATION_FILE).exists() {
            true => read(EVALUATION_FILE).and_then(|(path, text)| parse(&path, &text)).map(Some)?,
            false => None,
        };
        Ok(Self { folder: folder.to_owned(), settings, environment, rows, findings })
    }

    /// The folder's own name.
    pub fn name(&self) -> String {
        let full = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
    }

    /// Reports on batches.
    pub fn steps(&self) -> impl Iterator<Item = &StepReport> {
        self.rows.iter().filter_map(|row| match row {
            Row::Step { report, .. } => Some(report),
            _ => None,
        })
    }

    /// Evaluations of the validation split, with the steps done before each.
    pub fn evaluations(&self) -> impl Iterator<Item = (u64, &EvalReport)> {
        self.rows.iter().filter_map(|row| match row {
            Row::Eval { step, report, .. } => Some((*step, report)),
            _ => None,
        })
    }

    /// The evaluation with the lowest loss; of equal ones the first.
    pub fn best(&self) -> Option<(u64, &EvalReport)> {
        let known = self.evaluations().filter(|(_, report)| report.loss.is_finite());
        known.reduce(|best, next| if next.1.loss < best.1.loss { next } else { best })
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        let of = |row: &Row| match row {
            Row::Start { step, .. } | Row::Eval { step, .. } | Row::Done { step, .. } => *step,
            Row::Step { report, .. } => report.step,
        };
        self.rows.iter().map(of).max().unwrap_or(0)
    }

    /// The end's qualities on the validation and the test split, and where the time went; none before the end.
    pub fn end(&self) -> Option<(&EvalReport, &EvalReport, &Seconds)> {
        self.rows.iter().rev().find_map(|row| match row {
            Row::Done { validation, test, seconds, .. } => Some((validation, test, seconds)),
            _ => None,
        })
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| Error::data(path, format!("it is broken ({e})"), REMEDY))
}

fn parse_rows(path: &Path, text: &[u8]) -> Result<Vec<Row>> {
    let mut lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
    // After the last line's end there is nothing, or what a killed program has left of a line.
    lines.pop();
    let row = |(at, line): (usize, &&[u8])| {
        serde_json::from_slice(line).map_err(|e| {
            let found = format!("line {} is broken ({e})", at + 1);
            Error::data(path, found, "repair the line or take it out")
        })
    };
    lines.iter().enumerate().map(row).collect()
}

/// The rows that no later start has replaced.
fn effective(all: Vec<Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for row in all {
        if let Row::Start { step: start, .. } = row {
            rows.retain(|before| match before {
                Row::Start { .. } => true,
                Row::Step { report, .. } => report.step <= start,
                Row::Eval { step, .. } => *step <= start,
                Row::Done { .. } => false,
            });
        }
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(step: u64) -> Row {
        Row::Start { time: 1.0, step, version: "0".into(), device: "cpu".into() }
    }

    fn eval(step: u64, accuracy: f64) -> Row {
        Row::Eval { time: 2.0, step, report: EvalReport { accuracy, loss: 0.5 } }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let report = StepReport {
            step: 20,
            loss: 0.1 + 0.2,
            accuracy: 1.0 / 3.0,
            learning_rate: 1e-3,
            ms_per_step: 7.5,
            samples_per_s: 1e4,
        };
        let rows = [start(0), Row::Step { time: 1.25, report }, eval(20, 0.75)];
        let lost = r#"{"event":"eval","time":1.0,"step":1,"accuracy":0.5,"loss":null}"#.to_owned() + "\n";
        let [Row::Eval { report, .. }] = parse_rows(Path::new("m"), lost.as_bytes()).unwrap()[..] else { panic!() };
        assert!(report.loss.is_nan(), "what JSON says of a loss that is not finite");
        let text: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
        assert_eq!(parse_rows(Path::new("m"), text.as_bytes()).unwrap(), rows);
        let cut = &text[..text.len() - 2];
        assert_eq!(parse_rows(Path::new("m"), cut.as_bytes()).unwrap(), rows[..2], "half a line counts for nothing");
    }

    #[test]
    fn a_start_replaces_what_comes_after_its_step() {
        let rows = vec![start(0), eval(10, 0.5), eval(20, 0.6), eval(30, 0.7), start(20), eval(30, 0.8)];
        let kept = effective(rows.clone());
        assert_eq!(kept, [&rows[..3], &rows[4..]].concat());
    }

    #[test]
    fn lines_are_appended_to_whole_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        fs::write(&path, "one\ntwo\nthr").unwrap();
        open_lines(&path).unwrap().write_all(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }
}
