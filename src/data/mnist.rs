//! The four files of MNIST, or of a data set in its form, as a [`Dataset`].
//!
//! Fashion-MNIST, KMNIST and others come under the same names; the images may have any size.

use std::fs;
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use super::idx::{self, Images};
use super::{BYTE_SCALE, Dataset, Sequences, Values};
use crate::{Error, Result};

/// Number of classes: the digits 0 to 9.
pub const CLASSES: usize = 10;

/// One in so many training images is held back for validation: 5,000 of 60,000.
const VALIDATION_SHARE: usize = 12;

/// Loads the data set in the folder `dir`.
///
/// Each of the four files may lie there as `train-images-idx3-ubyte` or `train-images.idx3-ubyte`, plain or with `.gz`
/// at the end; where there are several, the first of `-` with gz, `-` plain, `.` with gz, `.` plain is taken: gz first,
/// for it has a checksum.
///
/// Of n training images the first n/12 (at least 1) become [`Dataset::validation`], the rest [`Dataset::train`]. Every
/// row of an image is a time step: `x [N,T,I]`, T rows of I pixels, scaled to 0..1.
///
/// # Errors
///
/// [`Error::Data`] if a file is missing or broken (see [`idx`]), if there are fewer than 2 training images, or if the
/// test images have another shape than the training images.
pub fn load(dir: &Path) -> Result<Dataset> {
    check_folder(dir)?;
    let train_files = find_pair(dir, "train")?;
    let test_files = find_pair(dir, "t10k")?;
    let (train, test) = thread::scope(|scope| {
        let test = scope.spawn(|| read(&test_files));
        let train = read(&train_files);
        (train, test.join().unwrap_or_else(|cause| panic::resume_unwind(cause)))
    });
    let ((train, train_labels), (test, test_labels)) = (train?, test?);
    if (train.t, train.i) != (test.t, test.i) {
        let found = format!(
            "holds images of {} x {}, but {} holds images of {} x {}",
            test.t,
            test.i,
            train_files.images.display(),
            train.t,
            train.i
        );
        return Err(Error::data(&test_files.images, found, "take all four files from the same data set"));
    }
    if train.n < 2 {
        let found = "holds one image, too few for training and validation";
        return Err(Error::data(&train_files.images, found, "give at least 2 training images"));
    }
    let (t, i) = (train.t, train.i);
    let (validation, train) = split(train, train_labels);
    let test = sequences(t, i, test.bytes, test_labels);
    let description = format!(
        "images from {}: {} to train, {} to validate, {} to test, {t} x {i} pixels, {CLASSES} classes",
        from_home(dir),
        train.len(),
        validation.len(),
        test.len()
    );
    Ok(Dataset { description, name: "mnist", classes: CLASSES, train, validation, test, own: None })
}

/// A folder as the user knows it: `~` for the home folder.
fn from_home(dir: &Path) -> String {
    let within = std::env::home_dir().and_then(|home| Some(dir.strip_prefix(home).ok()?.to_owned()));
    within.map_or_else(|| dir.display().to_string(), |within| Path::new("~").join(within).display().to_string())
}

/// An image file and its label file.
struct Pair {
    images: PathBuf,
    labels: PathBuf,
}

fn read(pair: &Pair) -> Result<(Images, Vec<u32>)> {
    idx::read_pair(&pair.images, &pair.labels, CLASSES)
}

/// Splits training images into validation, the first of them, and training.
fn split(images: Images, mut labels: Vec<u32>) -> (Sequences, Sequences) {
    let Images { n, t, i, mut bytes } = images;
    let held_back = (n / VALIDATION_SHARE).max(1);
    // Draining the small part moves the large one down in place: at no time are there two copies of it.
    let validation_bytes = bytes.drain(..held_back * t * i).collect();
    let validation_labels = labels.drain(..held_back).collect();
    (sequences(t, i, validation_bytes, validation_labels), sequences(t, i, bytes, labels))
}

fn sequences(t: usize, i: usize, bytes: Vec<u8>, labels: Vec<u32>) -> Sequences {
    Sequences::new(t, i, Values::U8 { bytes, scale: BYTE_SCALE }, labels)
}

fn check_folder(dir: &Path) -> Result<()> {
    const REMEDY: &str = "name the folder that holds the four MNIST files";
    match fs::metadata(dir) {
        Ok(about) if about.is_dir() => Ok(()),
        Ok(_) => Err(Error::data(dir, "is not a folder", REMEDY)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::data(dir, "does not exist", REMEDY)),
        Err(error) => Err(Error::data(dir, format!("cannot be looked into ({error})"), REMEDY)),
    }
}

/// The files of the part `train` or `t10k`.
fn find_pair(dir: &Path, part: &str) -> Result<Pair> {
    Ok(Pair {
        images: find(dir, &format!("{part}-images"), "idx3-ubyte")?,
        labels: find(dir, &format!("{part}-labels"), "idx1-ubyte")?,
    })
}

/// The first name under which the file is there.
fn find(dir: &Path, stem: &str, ending: &str) -> Result<PathBuf> {
    let names = ["-", "."].map(|joint| format!("{stem}{joint}{ending}"));
    let names = names.iter().flat_map(|name| [format!("{name}.gz"), name.clone()]).collect::<Vec<_>>();
    let mut passed_over = None;
    for path in names.iter().map(|name| dir.join(name)) {
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Some archives unpack into a folder with the name of the file, beside the file under its other name.
            Ok(about) if about.is_dir() => passed_over = passed_over.or(Some(path)),
            // Whatever else is wrong with it, the reader says it better.
            _ => return Ok(path),
        }
    }
    passed_over.ok_or_else(|| {
        let found = format!("has none of {}", names.join(", "));
        Error::data(dir, found, "put the file there, or name the folder that holds the four MNIST files")
    })
}
