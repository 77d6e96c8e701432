//! Strict reader of IDX files of unsigned bytes, the format of MNIST and its relatives, plain or gz.
//!
//! An IDX file is a big-endian header and then the numbers:
//!
//! | bytes | images | labels |
//! | --- | --- | --- |
//! | 0..4, magic | `00 00 08 03` | `00 00 08 01` |
//! | 4.., one `u32` each | N, T (rows), I (columns) | N |
//! | rest | N·T·I pixels, row-major | N class numbers |
//!
//! Anything else is an [`Error::Data`] of one line that names the file, what was found and what to do. Whether a file is
//! compressed is told by its first two bytes, never by its name.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::{Error, Result};

/// More data than this in one file is refused, whatever its header says: forty times MNIST.
const MAX_BYTES: u64 = 2 << 30;

/// Deflate's best ratio: 258 bytes from two bits. A gz file whose header claims more is lying.
const MAX_GZ_RATIO: u64 = 1032;

const GOOD_COPY: &str = "replace it by a good copy";

/// The images of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Number of images, N.
    pub n: usize,
    /// Rows of each image, T.
    pub t: usize,
    /// Columns of each image, I.
    pub i: usize,
    /// Pixels, `[N,T,I]`.
    pub bytes: Vec<u8>,
}

/// Reads an image file.
///
/// # Errors
///
/// [`Error::Data`] if the file is missing, cannot be read, or is not exactly what its header says.
pub fn read_images(path: &Path) -> Result<Images> {
    let ([n, t, i], bytes) = read(path)?;
    Ok(Images { n, t, i, bytes })
}

/// Reads a label file: class numbers `[N]`, each below `classes`.
///
/// # Errors
///
/// [`Error::Data`] as for [`read_images`], and for a label that is not below `classes`.
pub fn read_labels(path: &Path, classes: usize) -> Result<Vec<u32>> {
    let ([_], labels) = read(path)?;
    if let Some(at) = labels.iter().position(|&label| usize::from(label) >= classes) {
        let found = format!("label {at} (counted from 0) is {}, but there are only {classes} classes", labels[at]);
        return Err(Error::data(path, found, GOOD_COPY));
    }
    Ok(labels.into_iter().map(u32::from).collect())
}

/// Reads an image file and its label file: images, and as many class numbers `[N]`, each below `classes`.
///
/// # Errors
///
/// [`Error::Data`] as for [`read_images`] and [`read_labels`], and if the counts differ.
pub fn read_pair(images: &Path, labels: &Path, classes: usize) -> Result<(Images, Vec<u32>)> {
    // The labels are tiny: a fault in them shows before the work on the images.
    let numbers = read_labels(labels, classes)?;
    let pictures = read_images(images)?;
    if pictures.n != numbers.len() {
        let found = format!("holds {} labels, but {} holds {} images", numbers.len(), images.display(), pictures.n);
        return Err(Error::data(labels, found, "take both files from the same data set"));
    }
    Ok((pictures, numbers))
}

/// Sizes and bytes of a file with `D` dimensions: 3 for images, 1 for labels.
fn read<const D: usize>(path: &Path) -> Result<([usize; D], Vec<u8>)> {
    let mut source = Source::open(path, D)?;
    let sizes = source.header::<D>()?;
    let expected = source.check_sizes(&sizes)?;
    let bytes = source.payload(expected)?;
    source.check_end(expected)?;
    // No size is larger than their product, which is at most MAX_BYTES and so fits.
    Ok((sizes.map(|size| size as usize), bytes))
}

/// An open file that is being read.
struct Source<'a> {
    path: &'a Path,
    /// Length of the file on disk, in bytes.
    stored: u64,
    /// Length of the header, in bytes.
    header: u64,
    reader: Reader,
}

enum Reader {
    Plain(BufReader<File>),
    Gz(Box<GzDecoder<BufReader<File>>>),
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gz(reader) => reader.read(buffer),
        }
    }
}

impl<'a> Source<'a> {
    fn open(path: &'a Path, dimensions: usize) -> Result<Self> {
        // Asked before opening: opening a pipe would wait for a writer.
        let about = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if about.is_dir() {
            return Err(Error::data(path, "is a folder where a file is expected", "put the file itself there"));
        }
        if !about.is_file() {
            return Err(Error::data(path, "is not a regular file", GOOD_COPY));
        }
        if about.len() == 0 {
            return Err(Error::data(path, "is empty (0 bytes)", GOOD_COPY));
        }
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let mut plain = BufReader::with_capacity(128 << 10, file);
        let is_gz = plain.fill_buf().map_err(|error| unreadable(path, &error))?.starts_with(&[0x1f, 0x8b]);
        let reader = if is_gz { Reader::Gz(Box::new(GzDecoder::new(plain))) } else { Reader::Plain(plain) };
        Ok(Self { path, stored: about.len(), header: header_bytes(dimensions), reader })
    }

    fn broken(&self, found: impl Into<String>) -> Error {
        Error::data(self.path, found, GOOD_COPY)
    }

    /// Up to `count` bytes, less only at the end of the data; `done` bytes have been read before.
    fn take(&mut self, count: u64, mut into: Vec<u8>, done: u64) -> Result<Vec<u8>> {
        match (&mut self.reader).take(count).read_to_end(&mut into) {
            Ok(_) => Ok(into),
            Err(error) => Err(self.failed(&error, done + into.len() as u64)),
        }
    }

    /// A read that failed after `done` bytes of data.
    fn failed(&self, error: &io::Error, done: u64) -> Error {
        match (&self.reader, error.kind()) {
            (Reader::Gz(_), io::ErrorKind::UnexpectedEof) => {
                self.broken(format!("the gz data ends early, after {done} bytes of content"))
            }
            (Reader::Gz(_), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
                self.broken(format!("the gz data is corrupt after {done} bytes of content ({error})"))
            }
            _ => unreadable(self.path, error),
        }
    }

    /// Reads the header and gives its sizes.
    fn header<const D: usize>(&mut self) -> Result<[u64; D]> {
        let length = self.header;
        let head = self.take(length, Vec::new(), 0)?;
        if let Some(&magic) = head.first_chunk::<4>() {
            self.check_magic(magic, D)?;
        }
        if (head.len() as u64) < length {
            let found = format!("ends after {} bytes of its header, which has {length}", head.len());
            return Err(self.broken(found));
        }
        let mut sizes = [0; D];
        for (size, field) in sizes.iter_mut().zip(head[4..].as_chunks::<4>().0) {
            *size = u64::from(u32::from_be_bytes(*field));
        }
        Ok(sizes)
    }

    fn check_magic(&self, magic: [u8; 4], dimensions: usize) -> Result<()> {
        let expected = [0, 0, 8, dimensions as u8];
        if magic == expected {
            return Ok(());
        }
        let [wanted, code] = [expected, magic].map(u32::from_be_bytes);
        let other = match magic {
            [0, 0, 8, 3] => Some("images where labels are expected"),
            [0, 0, 8, 1] => Some("labels where images are expected"),
            _ => None,
        };
        if let Some(other) = other {
            let found = format!("holds {other} (magic number {code:#010x}, not {wanted:#010x})");
            return Err(Error::data(self.path, found, "put the file under the name of what it holds"));
        }
        let noun = noun(dimensions);
        Err(self.broken(format!("is not an IDX file of {noun} (magic number {code:#010x}, not {wanted:#010x})")))
    }

    /// Checks the sizes against each other and against the file; gives the length of the payload in bytes.
    fn check_sizes(&self, sizes: &[u64]) -> Result<u64> {
        let shape = shape(sizes);
        if sizes.contains(&0) {
            return Err(self.broken(format!("is without content: its header says {shape}")));
        }
        let product = sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
        let Some(payload) = product.filter(|&bytes| bytes <= MAX_BYTES) else {
            return Err(self.broken(format!("its header says {shape}, more than the {MAX_BYTES} bytes allowed")));
        };
        let total = self.header + payload;
        match self.reader {
            Reader::Plain(_) if self.stored != total => {
                let stored = self.stored;
                Err(self.broken(format!("has {stored} bytes, but its header ({shape}) needs {total}")))
            }
            Reader::Gz(_) if payload / MAX_GZ_RATIO > self.stored => {
                let stored = self.stored;
                let found =
                    format!("its header ({shape}) needs {total} bytes, more than {stored} bytes of gz can hold");
                Err(self.broken(found))
            }
            _ => Ok(payload),
        }
    }

    /// The pixels or labels, `expected` bytes. Memory stays at that length, however much the file holds.
    fn payload(&mut self, expected: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(expected as usize).is_err() {
            return Err(Error::data(self.path, format!("needs {expected} bytes of memory"), "free some memory"));
        }
        let bytes = self.take(expected, bytes, self.header)?;
        let found = bytes.len() as u64;
        if found < expected {
            let [found, needed] = [found, expected].map(|length| self.header + length);
            return Err(self.broken(format!("has {found} bytes, but its header needs {needed}")));
        }
        Ok(bytes)
    }

    /// Checks that nothing follows the header and `payload` bytes. This also makes gz compare its checksum.
    fn check_end(&mut self, payload: u64) -> Result<()> {
        let total = self.header + payload;
        if !self.take(1, Vec::new(), total)?.is_empty() {
            return Err(self.broken(format!("has more than the {total} bytes that its header needs")));
        }
        let Reader::Gz(decoder) = &mut self.reader else { return Ok(()) };
        let rest = decoder.get_mut().fill_buf().map(|rest| !rest.is_empty());
        if rest.map_err(|error| unreadable(self.path, &error))? {
            return Err(self.broken("has further bytes after the end of its gz data"));
        }
        Ok(())
    }
}

/// Bytes of a header: the magic number and one `u32` for each dimension.
fn header_bytes(dimensions: usize) -> u64 {
    4 + 4 * dimensions as u64
}

fn noun(dimensions: usize) -> &'static str {
    if dimensions == 1 { "labels" } else { "images" }
}

/// Sizes for the user: `60000 x 28 x 28`.
fn shape(sizes: &[u64]) -> String {
    sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
}

/// A file that the operating system does not let us read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::data(path, "does not exist", "check the name of the folder and of the file"),
        io::ErrorKind::PermissionDenied => {
            Error::data(path, "must not be read (permission denied)", "allow this user to read it")
        }
        _ => Error::data(path, format!("cannot be read ({error})"), "check the disk, or replace it by a good copy"),
    }
}
