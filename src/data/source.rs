//! Which data set to use: what the user named, else what is at hand, else what can be fetched, else synthetic digits.

use super::download::{Fetcher, mnist_dir};
use super::{Dataset, mnist, own, synthetic};
use crate::error::{Error, Result};
use crate::progress::Progress;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A data set as `--data` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// MNIST from the data folder or the cache, else fetched, else synthetic digits.
    #[default]
    Auto,
    /// MNIST from the data folder or the cache, else fetched.
    Mnist,
    /// The built-in synthetic digits.
    Synthetic,
    /// MNIST's four files, or others of their form, in a folder; or a file or folder of [`own`] data.
    Folder(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "mnist" => Self::Mnist,
            "synthetic" => Self::Synthetic,
            folder => Self::Folder(folder.into()),
        })
    }
}

/// Loads `source`. `folder` is where MNIST's files are, if the user said so; with `offline` nothing is fetched.
///
/// # Errors
///
/// [`Error::Data`] if what was asked for is missing or broken and cannot be fetched; [`Error::Usage`] if two folders
/// were named, or one beside synthetic digits.
pub fn load(source: &Source, folder: Option<&Path>, offline: bool, progress: &dyn Progress) -> Result<Dataset> {
    match (source, folder) {
        (Source::Synthetic | Source::Folder(_), Some(folder)) => Err(Error::usage(
            format!("--data-dir {}", folder.display()),
            "--data names other data",
            "leave one of the two out",
        )),
        (Source::Auto | Source::Mnist, Some(folder)) => mnist::load(folder),
        (Source::Folder(path), None) if own::is_own(path) => own::load(path, &own::Options::default(), None),
        (Source::Folder(folder), None) if !folder.exists() => Err(Error::data(
            format!("--data {}", folder.display()),
            "there is no such file or folder",
            "give auto, mnist, synthetic, a folder with MNIST's four files, or a file of your own",
        )),
        (Source::Folder(folder), None) => mnist::load(folder),
        (Source::Synthetic, None) => Ok(synthetic::digits(0, synthetic::TRAIN, synthetic::VALIDATION, synthetic::TEST)),
        (Source::Mnist, None) => cached_or_fetched(offline, progress),
        (Source::Auto, None) => match cached_or_fetched(offline, progress) {
            Err(error @ (Error::Data { .. } | Error::Io { .. })) => {
                progress.note(&format!(
                    "note: {}: using built-in synthetic digits, whose accuracy is not comparable with MNIST's",
                    cause(&error, offline)
                ));
                Ok(synthetic::digits(0, synthetic::TRAIN, synthetic::VALIDATION, synthetic::TEST))
            }
            done => done,
        },
    }
}

/// Why there is no MNIST, without what to do about it.
fn cause(error: &Error, offline: bool) -> String {
    match error {
        // Why each mirror failed has been told already.
        Error::Data { .. } if !offline => "MNIST cannot be fetched".into(),
        Error::Data { place, found, .. } => format!("no MNIST ({place}: {found})"),
        other => format!("no MNIST ({other})"),
    }
}

fn cached_or_fetched(offline: bool, progress: &dyn Progress) -> Result<Dataset> {
    let folder = mnist_dir()?;
    match mnist::load(&folder) {
        Err(Error::Data { place, found, .. }) if offline => Err(Error::data(
            place,
            found,
            "get it with `fused-lstm data fetch`, name the files' folder with --data-dir, or use --data synthetic",
        )),
        Err(Error::Data { .. }) => {
            Fetcher::default().fetch(&folder, progress)?;
            mnist::load(&folder)
        }
        done => done,
    }
}
