//! Arrays as NumPy (`.npy`, `.npz`) and safetensors store them, and what they say as sequences and labels.

use super::bytes::Bytes;
use super::mapped::Mapped;
use super::raw::{Labels, Raw};
use super::zip;
use crate::data::{BYTE_SCALE, Values};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
const SHAPES: &str = "give x as [sequences, steps, inputs] and y as the class of each sequence";
const STEPS: &str = "give the number of steps of each sequence, padding left out";
const SAVE_AGAIN: &str = "save it again with numpy.save or numpy.savez";

/// What an array's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
    /// The upper half of a 32-bit float.
    Brain,
    /// Text of 4-byte characters.
    Wide,
    /// Text of bytes.
    Narrow,
}

/// An array, row-major.
pub struct Array {
    shape: Vec<usize>,
    kind: Kind,
    /// Bytes of an element.
    size: usize,
    big_endian: bool,
    bytes: Bytes,
}

impl Array {
    /// Reads the content of an `.npy` file; the error says what was found.
    pub fn from_npy(bytes: Bytes) -> Result<Self, String> {
        if !bytes.starts_with(MAGIC) {
            return Err("does not begin as an .npy file does".into());
        }
        let early = || "ends within its header".to_owned();
        let (length, start) = match bytes.get(6).ok_or_else(early)? {
            1 => (usize::from(u16::from_le_bytes(chunk(&bytes, 8).ok_or_else(early)?)), 10),
            2 | 3 => (u32::from_le_bytes(chunk(&bytes, 8).ok_or_else(early)?) as usize, 12),
            version => return Err(format!("is of version {version} of the .npy form; 1 to 3 are known")),
        };
        let header = bytes.get(start..).and_then(|rest| rest.get(..length)).ok_or_else(early)?;
        let header = str::from_utf8(header).map_err(|_| "its header is not text".to_owned())?;
        let (kind, size, big_endian) = parse_descr(header)?;
        let fortran = match value(header, "fortran_order")? {
            rest if rest.starts_with("True") => true,
            rest if rest.starts_with("False") => false,
            _ => return Err("its header does not tell fortran_order".into()),
        };
        let shape = parse_shape(header)?;
        let payload = bytes.after(start + length);
        let needed = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
        if needed != Some(payload.len()) {
            let needed = needed.map_or("more than can be".into(), |n| n.to_string());
            return Err(format!("holds {} bytes of numbers; its shape {shape:?} needs {needed}", payload.len()));
        }
        if fortran && payload.is_mapped() {
            return Err(
                "is in column-major order, and too large to be put into rows; save numpy.ascontiguousarray of it"
                    .into(),
            );
        }
        let bytes = if fortran { Bytes::Owned(from_fortran(&payload, &shape, size)) } else { payload };
        Ok(Self { shape, kind, size, big_endian, bytes })
    }

    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Bool => return "bool".into(),
            Kind::Signed => "int",
            Kind::Unsigned => "uint",
            Kind::Float => "float",
            Kind::Brain => "bfloat",
            Kind::Wide | Kind::Narrow => return "text".into(),
        };
        format!("{kind}{}", self.size * 8)
    }

    /// Whether its numbers are bytes, which a model sees multiplied by 1/255.
    pub fn is_bytes(&self) -> bool {
        (self.kind, self.size) == (Kind::Unsigned, 1)
    }

    /// `count` of its bytes.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub fn bytes(&self, from: usize, count: usize) -> &[u8] {
        &self.bytes[from..from + count]
    }

    /// `count` of its numbers. It must be one of numbers.
    pub fn numbers(&self, from: usize, count: usize) -> Vec<f32> {
        let elements = self.elements(from, count);
        match (self.kind, self.size) {
            (Kind::Float, 2) => elements.map(|[a, b, ..]| half(u16::from_le_bytes([a, b]))).collect(),
            (Kind::Brain, _) => elements.map(|[a, b, ..]| f32::from_le_bytes([0, 0, a, b])).collect(),
            (Kind::Float, 4) => elements.map(|[a, b, c, d, ..]| f32::from_le_bytes([a, b, c, d])).collect(),
            (Kind::Float, _) => elements.map(|bytes| f64::from_le_bytes(bytes) as f32).collect(),
            _ => self.integers(from, count).map(|v| v as f32).collect(),
        }
    }

    /// The bytes of `count` elements, each in little-endian order.
    fn elements(&self, from: usize, count: usize) -> impl Iterator<Item = [u8; 8]> {
        self.bytes[from * self.size..(from + count) * self.size].chunks_exact(self.size).map(|element| {
            let mut bytes = [0; 8];
            bytes[..self.size].copy_from_slice(element);
            if self.big_endian {
                bytes[..self.size].reverse();
            }
            bytes
        })
    }

    /// `count` integers, of an array of integers.
    fn integers(&self, from: usize, count: usize) -> impl Iterator<Item = i128> {
        let (unused, signed) = (64 - 8 * self.size.min(8) as u32, self.kind == Kind::Signed);
        self.elements(from, count).map(move |bytes| {
            if signed {
                (i64::from_le_bytes(bytes) << unused >> unused).into()
            } else {
                u64::from_le_bytes(bytes).into()
            }
        })
    }

    /// `x [N,T,I]` (or `[N,T]` of one input): T, I and the values.
    fn into_x(self) -> Result<(usize, usize, usize, Values), String> {
        let (n, t, i) = match *self.shape {
            [n, t] => (n, t, 1),
            [n, t, i] => (n, t, i),
            _ => return Err(format!("has the shape {:?}, not [sequences, steps, inputs]", self.shape)),
        };
        if n == 0 || t == 0 || i == 0 {
            return Err(format!("has the shape {:?}: there is nothing in it", self.shape));
        }
        if u32::try_from(n).is_err() {
            return Err(format!("has {n} sequences, more than can be counted in 32 bits"));
        }
        let values = match self.kind {
            Kind::Bool | Kind::Wide | Kind::Narrow => {
                return Err(format!("is of type {}; uint8, float16, float32 and float64 are good", self.name()));
            }
            _ if self.bytes.is_mapped() => Values::Mapped(Mapped::new(self, (n, t, i))),
            Kind::Unsigned if self.size == 1 => match self.bytes {
                Bytes::Owned(bytes) => Values::U8 { bytes, scale: BYTE_SCALE },
                Bytes::Mapped { .. } => unreachable!("that was asked for above"),
            },
            _ => Values::F32(self.numbers(0, n * t * i)),
        };
        Ok((n, t, i, values))
    }

    /// `y [N]`: a label for each sequence.
    fn labels(&self) -> Result<Labels, String> {
        if !matches!(*self.shape, [_] | [_, 1]) {
            return Err(format!("has the shape {:?}, not one class for each sequence", self.shape));
        }
        let mut labels = Labels::default();
        match self.kind {
            Kind::Bool | Kind::Signed | Kind::Unsigned => {
                for integer in self.integers(0, self.shape[0]) {
                    labels.push(&integer.to_string());
                }
            }
            Kind::Wide | Kind::Narrow => {
                for (at, element) in self.bytes.chunks_exact(self.size).enumerate() {
                    let text = self.text(element).ok_or_else(|| format!("label {at} (counted from 0) is not text"))?;
                    labels.push_checked(&text).map_err(|found| format!("label {at} (counted from 0) {found}"))?;
                }
            }
            Kind::Float | Kind::Brain => return Err(format!("is of type {}; integers or text are good", self.name())),
        }
        Ok(labels)
    }

    /// `lengths [N]`: the steps of each of `n` sequences, of at most `t`.
    fn lengths(&self, n: usize, t: usize) -> Result<Vec<u32>, String> {
        if self.shape != [n] && self.shape != [n, 1] {
            return Err(format!("has the shape {:?}, not one length for each of {n} sequences", self.shape));
        }
        if !matches!(self.kind, Kind::Signed | Kind::Unsigned) {
            return Err(format!("is of type {}; integers are good", self.name()));
        }
        let length = |(sequence, length): (usize, i128)| match usize::try_from(length) {
            Ok(length) if (1..=t).contains(&length) => Ok(length as u32),
            _ => Err(format!("is {length} for sequence {sequence} (counted from 0); 1 to {t} are good")),
        };
        self.integers(0, n).enumerate().map(length).collect()
    }

    /// An element of text, without the zeros at its end.
    fn text(&self, element: &[u8]) -> Option<String> {
        let text: String = match self.kind {
            Kind::Narrow => str::from_utf8(element).ok()?.to_owned(),
            _ => {
                let order = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
                element.as_chunks::<4>().0.iter().map(|&c| char::from_u32(order(c))).collect::<Option<_>>()?
            }
        };
        Some(text.trim_end_matches('\0').to_owned())
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// What follows a key of the header, which is a Python dictionary.
fn value<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let at = [format!("'{key}':"), format!("\"{key}\":")].iter().find_map(|k| Some(header.find(k)? + k.len()));
    at.map(|at| header[at..].trim_start()).ok_or_else(|| format!("its header has no {key}"))
}

fn parse_descr(header: &str) -> Result<(Kind, usize, bool), String> {
    let rest = value(header, "descr")?;
    let quoted = rest.strip_prefix(['\'', '"']).and_then(|rest| rest.split(['\'', '"']).next());
    let descr = quoted.ok_or("is a structured array, not one of numbers")?;
    let unknown = || match descr.contains('O') {
        true => "holds Python objects, not numbers; for sequences of unequal lengths, pad x and save lengths beside it"
            .into(),
        false => format!("is of type {descr:?}, which is not read"),
    };
    let (order, code) = match descr.strip_prefix(['<', '>', '|', '=']) {
        Some(code) => (&descr[..1], code),
        None => ("=", descr),
    };
    let mut letters = code.chars();
    let letter = letters.next().ok_or_else(unknown)?;
    let size: usize = letters.as_str().parse().map_err(|_| unknown())?;
    let (kind, size) = match (letter, size) {
        ('b', 1) => (Kind::Bool, 1),
        ('i', 1 | 2 | 4 | 8) => (Kind::Signed, size),
        ('u', 1 | 2 | 4 | 8) => (Kind::Unsigned, size),
        ('f', 2 | 4 | 8) => (Kind::Float, size),
        ('U', 1..=65_536) => (Kind::Wide, size * 4),
        ('S', 1..=65_536) => (Kind::Narrow, size),
        _ => return Err(unknown()),
    };
    Ok((kind, size, order == ">"))
}

fn parse_shape(header: &str) -> Result<Vec<usize>, String> {
    let broken = || "its header does not tell the shape".to_owned();
    let rest = value(header, "shape")?.strip_prefix('(').ok_or_else(broken)?;
    let inner = &rest[..rest.find(')').ok_or_else(broken)?];
    let sizes = inner.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().map_err(|_| format!("its header has {size:?} as a size"))).collect()
}

/// Elements in column-major order, put into row-major order.
fn from_fortran(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut sorted = Vec::with_capacity(bytes.len());
    for mut rest in 0..bytes.len() / size {
        // The last index changes fastest here, the first one there.
        let (mut at, mut stride) = (0, bytes.len() / size);
        for &n in shape.iter().rev() {
            stride /= n;
            at += rest % n * stride;
            rest /= n;
        }
        sorted.extend_from_slice(&bytes[at * size..(at + 1) * size]);
    }
    sorted
}

/// A 16-bit float.
pub fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // A subnormal counts in units of 2^-24.
        0 => fraction as f32 / (1 << 24) as f32,
        31 => f32::from_bits(0x7f80_0000 | fraction << 13),
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Sequences, and test sequences if the file or folder has them.
pub type Parts = (Raw, Option<Raw>);

/// An array and where it was found.
struct Found {
    file: PathBuf,
    /// Its name in the file; empty if the file holds nothing else.
    name: String,
    array: Array,
}

impl Found {
    fn fail(&self, found: String, remedy: &str) -> Error {
        fail(&self.file, &self.name, found, remedy)
    }
}

fn fail(file: &Path, name: &str, found: String, remedy: &str) -> Error {
    let found = if name.is_empty() { found } else { format!("{name} {found}") };
    Error::data(file, found, remedy)
}

fn raw(x: Found, y: Option<Found>, lengths: Option<Found>) -> Result<Raw> {
    let Found { file, name, array } = x;
    let (n, t, i, mut values) = array.into_x().map_err(|found| fail(&file, &name, found, SHAPES))?;
    let mut labels = None;
    if let Some(y) = y {
        let read = y.array.labels().map_err(|found| y.fail(found, SHAPES))?;
        if read.indices.len() != n {
            return Err(y.fail(format!("has {} labels for {n} sequences", read.indices.len()), SHAPES));
        }
        labels = Some(read);
    }
    let lengths = lengths
        .map(|lengths| lengths.array.lengths(n, t).map_err(|found| lengths.fail(found, STEPS)))
        .transpose()?
        .filter(|lengths| lengths.iter().any(|&length| (length as usize) < t));
    if let (Values::F32(values), Some(lengths)) = (&mut values, &lengths) {
        // Anything may stand there, NaN too.
        for (sequence, &length) in values.chunks_exact_mut(t * i).zip(lengths) {
            sequence[length as usize * i..].fill(0.0);
        }
    }
    Ok(Raw { file, t, i, values, lengths, labels, lines: None })
}

/// Takes arrays by name: `x` and `y`, or those with `_train` and `_test`. `lengths` may be there; without `labelled`, `y` may
/// be missing.
fn parts<F>(file: &Path, y_names: &[&str], labelled: bool, take: F) -> Result<Parts>
where
    F: Fn(&str) -> Option<Result<Found>>,
{
    let part = |ending: &str| -> Result<Option<Raw>> {
        let Some(x) = take(&format!("x{ending}")).transpose()? else { return Ok(None) };
        let y = y_names.iter().find_map(|name| take(&format!("{name}{ending}"))).transpose()?;
        if y.is_none() && labelled {
            let found = format!("has x{ending} but no {}{ending}", y_names[0]);
            return Err(Error::data(file, found, "add it: the class of each sequence"));
        }
        raw(x, y, take(&format!("lengths{ending}")).transpose()?).map(Some)
    };
    if let Some(all) = part("")? {
        return Ok((all, None));
    }
    let none = || Error::data(file, "has neither x nor x_train", format!("name the arrays x and {}", y_names[0]));
    Ok((part("_train")?.ok_or_else(none)?, part("_test")?))
}

/// Reads an `.npz` file.
pub fn read_npz(file: &Path, labelled: bool, most: u64) -> Result<Parts> {
    let bytes = Bytes::open(file, most)?;
    let broken = |found: String| Error::data(file, found, SAVE_AGAIN);
    let entries = zip::entries(&bytes).map_err(broken)?;
    parts(file, &["y", "labels"], labelled, |name| {
        let entry = entries.iter().find(|entry| entry.name.strip_suffix(".npy") == Some(name))?;
        let array = entry.unpack(&bytes).and_then(Array::from_npy);
        let array = array.map_err(|found| broken(format!("entry {} {found}", entry.name)));
        Some(array.map(|array| Found { file: file.to_owned(), name: name.to_owned(), array }))
    })
}

fn read_npy(file: &Path, most: u64) -> Result<Found> {
    let array = Array::from_npy(Bytes::open(file, most)?).map_err(|found| Error::data(file, found, SAVE_AGAIN))?;
    Ok(Found { file: file.to_owned(), name: String::new(), array })
}

/// Reads a single `.npy` file of sequences without labels.
pub fn read_x(file: &Path, most: u64) -> Result<Parts> {
    Ok((raw(read_npy(file, most)?, None, None)?, None))
}

/// The file of an array in a folder, plain or gz.
fn npy_of(folder: &Path, name: &str) -> Option<PathBuf> {
    [".npy", ".npy.gz"].map(|ending| folder.join(format!("{name}{ending}"))).into_iter().find(|file| file.exists())
}

/// Whether a folder has `.npy` files of the names that [`read_folder`] takes.
pub fn is_npy_folder(folder: &Path) -> bool {
    ["x", "x_train"].iter().any(|name| npy_of(folder, name).is_some())
}

/// Reads a folder with `x.npy` and `y.npy`, or `x_train.npy`, `y_train.npy`, `x_test.npy`, `y_test.npy`.
pub fn read_folder(folder: &Path, labelled: bool, most: u64) -> Result<Parts> {
    parts(folder, &["y", "labels"], labelled, |name| npy_of(folder, name).map(|file| read_npy(&file, most)))
}

/// Reads a safetensors file.
pub fn read_safetensors(file: &Path, labelled: bool, most: u64) -> Result<Parts> {
    let bytes = Bytes::open(file, most)?;
    let broken = |found: String| Error::data(file, found, "save it again with safetensors");
    let tensors = SafeTensors::deserialize(&bytes);
    let tensors = tensors.map_err(|e| broken(format!("is not a whole safetensors file ({e})")))?;
    parts(file, &["labels", "y"], labelled, |name| {
        let view = tensors.tensor(name).ok()?;
        let (kind, size) = match view.dtype() {
            Dtype::BOOL => (Kind::Bool, 1),
            Dtype::U8 => (Kind::Unsigned, 1),
            Dtype::U16 => (Kind::Unsigned, 2),
            Dtype::U32 => (Kind::Unsigned, 4),
            Dtype::U64 => (Kind::Unsigned, 8),
            Dtype::I8 => (Kind::Signed, 1),
            Dtype::I16 => (Kind::Signed, 2),
            Dtype::I32 => (Kind::Signed, 4),
            Dtype::I64 => (Kind::Signed, 8),
            Dtype::F16 => (Kind::Float, 2),
            Dtype::BF16 => (Kind::Brain, 2),
            Dtype::F32 => (Kind::Float, 4),
            Dtype::F64 => (Kind::Float, 8),
            other => return Some(Err(broken(format!("tensor {name} is of type {other}, which is not read")))),
        };
        // Where the tensor's bytes lie among the file's.
        let from = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        let bytes = bytes.part(from..from + view.data().len());
        let array = Array { shape: view.shape().to_vec(), kind, size, big_endian: false, bytes };
        Some(Ok(Found { file: file.to_owned(), name: name.to_owned(), array }))
    })
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn halves() {
        let cases =
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960_464_5e-8), (0x3555, 0.333_251_95)];
        for (bits, value) in cases {
            assert_eq!(half(bits), value);
        }
        assert_eq!(half(0x03ff).to_bits(), 6.097_555e-5_f32.to_bits());
        assert!(half(0x7c00) == f32::INFINITY && half(0x7e00).is_nan() && half(0x8000).to_bits() == 1 << 31);
    }
}
