//! Named tensors in safetensors files: reading with every length checked, writing in a fixed order.

use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

/// Numbers of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 32-bit signed integers.
    I32(Vec<i32>),
}

/// A tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// As many numbers as the product of the sizes.
    pub numbers: Numbers,
}

impl Tensor {
    /// A tensor of floats.
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), numbers: Numbers::F32(values) }
    }

    /// A tensor of integers.
    pub fn i32(shape: &[usize], values: Vec<i32>) -> Self {
        Self { shape: shape.to_vec(), numbers: Numbers::I32(values) }
    }

    fn dtype(&self) -> Dtype {
        match self.numbers {
            Numbers::F32(_) => Dtype::F32,
            Numbers::I32(_) => Dtype::I32,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.numbers {
            Numbers::F32(values) => bytemuck::cast_slice(values),
            Numbers::I32(values) => bytemuck::cast_slice(values),
        }
    }
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorFile {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Free text by name.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Reads a file that holds at most `max_bytes`; the error says what was found, for the caller to say where and what
    /// to do.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is too long, is no safetensors file, or holds another type than f32 and i32.
    pub fn read(path: &Path, max_bytes: u64) -> Result<Self, String> {
        Self::parse(&read_limited(std::fs::File::open(path), max_bytes)?)
    }

    /// The tensors in a file's bytes, or what was found instead.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let broken = |e: safetensors::SafeTensorError| format!("not a whole safetensors file ({e})");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let views = SafeTensors::deserialize(bytes).map_err(broken)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in views.iter() {
            let numbers = match view.dtype() {
                Dtype::F32 => Numbers::F32(view.data().chunks_exact(4).map(|b| f32::from_le_bytes(four(b))).collect()),
                Dtype::I32 => Numbers::I32(view.data().chunks_exact(4).map(|b| i32::from_le_bytes(four(b))).collect()),
                other => return Err(format!("tensor {name:?} is of type {other}, not F32 or I32")),
            };
            tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), numbers });
        }
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { tensors, metadata })
    }

    /// The file's bytes; the same tensors always give the same ones (but for the order of more than one metadata entry).
    pub fn to_bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype(), tensor.shape.clone(), tensor.bytes());
            (name, view.expect("a tensor holds as many numbers as its shape says"))
        });
        let metadata =
            (!self.metadata.is_empty()).then(|| self.metadata.clone().into_iter().collect::<HashMap<_, _>>());
        safetensors::serialize(views, metadata).expect("a map from names to tensors can be written")
    }

    /// Writes the file at `path`, under another name first, so that there is never half of one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; `flag` is the one that named the place.
    pub fn write(&self, path: &Path, flag: &str) -> Result<()> {
        write_whole(path, &self.to_bytes(), &format!("choose another place with {flag}"))
    }

    /// The floats of tensor `name`, whose shape must be `shape`.
    ///
    /// # Errors
    ///
    /// What was found instead.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<&[f32], String> {
        let tensor = self.tensors.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        match &tensor.numbers {
            Numbers::F32(values) if tensor.shape == shape => Ok(values),
            _ => Err(format!("tensor {name} is {:?} of {:?}, not {shape:?} of F32", tensor.shape, tensor.dtype())),
        }
    }

    /// The shape of tensor `name`, which must have `N` dimensions.
    ///
    /// # Errors
    ///
    /// What was found instead.
    pub fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let tensor = self.tensors.get(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        tensor
            .shape
            .as_slice()
            .try_into()
            .map_err(|_| format!("tensor {name} is {:?}: not {N} dimensions", tensor.shape))
    }
}

fn four(bytes: &[u8]) -> [u8; 4] {
    bytes.try_into().expect("chunks of four bytes")
}

/// All bytes of a file that may have `max_bytes`, or what was found instead.
pub(crate) fn read_limited(file: io::Result<std::fs::File>, max_bytes: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = file.and_then(|file| file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes));
    read.map_err(|e| describe(&e))?;
    match bytes.len() as u64 > max_bytes {
        true => Err(format!("longer than the {max_bytes} bytes that it may have")),
        false => Ok(bytes),
    }
}

/// What went wrong with a file, in the user's words.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission to read it is denied".into(),
        io::ErrorKind::IsADirectory => "it is a folder, not a file".into(),
        _ => format!("it cannot be read ({error})"),
    }
}

/// Writes `bytes` to `path`, under another name first, so that there is never half of the file.
///
/// # Errors
///
/// [`Error::Io`], naming `path`, with this remedy.
pub fn write_whole(path: &Path, bytes: &[u8], remedy: &str) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    synced(part, bytes).and_then(|()| std::fs::rename(part, path)).map_err(|e| {
        let _ = std::fs::remove_file(part);
        Error::io(path, "write", e, remedy)
    })
}

/// Writes `bytes` to `path` and waits until they are on disk.
///
/// # Errors
///
/// [`Error::Io`], naming `path`.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    synced(path, bytes).map_err(|e| Error::io(path, "write", e, "free some space or choose another folder"))
}

fn synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}
