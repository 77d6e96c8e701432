//! `fused-lstm report`: a run, or several, on one page that needs nothing else.

mod chart;
mod comparison;
mod page;
mod samples;
mod settings;

use super::output::line;
use crate::cli::ReportArgs;
use fused_lstm::run::{REPORT_FILE, Run};
use fused_lstm::tensor_file::write_whole;
use fused_lstm::{Error, Result};
use std::path::{Path, PathBuf};

/// Where the comparison of several runs is written unless the user says otherwise.
const COMPARISON_FILE: &str = "comparison.html";
const REMEDY: &str = "choose another place with --out";

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<()> {
    let runs = args.runs.iter().map(|folder| Run::load(folder)).collect::<Result<Vec<_>>>()?;
    let place = match (&args.out, runs.as_slice()) {
        (Some(file), _) if file.is_dir() => {
            return Err(Error::usage(format!("--out {}", file.display()), "that is a folder", "name a file"));
        }
        (Some(file), _) => file.clone(),
        (None, [run]) => run.folder.join(REPORT_FILE),
        (None, _) => COMPARISON_FILE.into(),
    };
    let page = match runs.as_slice() {
        [run] => page::of(run),
        several => comparison::of(several),
    };
    write_whole(&place, page.into_string().as_bytes(), REMEDY)?;
    line(&format!("report      {}", place.display()))
}

/// Writes the report of the run in `folder` there, and gives its place.
pub fn of_run(folder: &Path) -> Result<PathBuf> {
    let place = folder.join(REPORT_FILE);
    let page = page::of(&Run::load(folder)?);
    write_whole(&place, page.into_string().as_bytes(), REMEDY)?;
    Ok(place)
}
