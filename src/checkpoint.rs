//! Checkpoints: a folder with `model.safetensors` (parameters), `state.safetensors` (the optimizer's state and the place
//! in the data order) and `config.json`.
//!
//! A new checkpoint is written beside the old one, synced, and put in its place by renaming: whenever the program is
//! killed, the folder holds the old checkpoint or the new one, whole.

use crate::engine::{Model, State};
use crate::error::{Error, Result};
use crate::init::Init;
use crate::optimizer::Adam;
use crate::shape::ParamLayout;
use crate::tensor_file::{Tensor, TensorFile, describe, write_synced};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const MODEL_FILE: &str = "model.safetensors";
const STATE_FILE: &str = "state.safetensors";
const CONFIG_FILE: &str = "config.json";
const FILES: [&str; 3] = [MODEL_FILE, STATE_FILE, CONFIG_FILE];

/// Version of the files' form; a later one may not be readable by this program.
const FORMAT: u32 = 1;
/// Largest `config.json`, and largest header of a tensor file.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// The one metadata entry of the tensor files. (Only one, for more would be written in random order.)
const METADATA: &str = "fused-lstm";

const REMEDY: &str = "give a folder that --save wrote";

/// How a model was trained; with it and a [`State`], training goes on as if it had never stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Version of the files' form.
    format: u32,
    /// Sizes and forget bias.
    pub model: Model,
    /// The optimizer.
    pub adam: Adam,
    /// How the parameters started.
    pub init: Init,
    /// Seed of the initial parameters and of the data order.
    pub seed: u64,
    /// Sequences in a batch.
    pub batch_size: usize,
    /// Name of the data set, as in `--data`.
    pub data: String,
    /// Sequences in its training split.
    pub train_sequences: usize,
}

impl Config {
    /// A configuration of the form that this program writes.
    pub fn new(
        model: Model,
        adam: Adam,
        init: Init,
        seed: u64,
        batch_size: usize,
        data: &str,
        train_sequences: usize,
    ) -> Self {
        Self { format: FORMAT, model, adam, init, seed, batch_size, data: data.to_owned(), train_sequences }
    }
}

/// What `state.safetensors` says beside its tensors.
#[derive(Serialize, Deserialize)]
struct Progress {
    step: u64,
    seed: u64,
    /// Place in the data order: sequences taken so far, over all epochs.
    sequences_seen: u64,
}

/// What `model.safetensors` says beside its tensors.
#[derive(Serialize)]
struct About {
    gate_order: &'static str,
    forget_bias: f32,
}

/// Everything that a checkpoint holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// How the model was trained.
    pub config: Config,
    /// What training changed.
    pub state: State,
}

impl Checkpoint {
    /// Makes sure that [`Checkpoint::save`] can write to `folder`, before hours of training: its parent is there and
    /// writable, and it is empty, a checkpoint, or not there yet.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Usage`] with the remedy.
    pub fn prepare(folder: &Path) -> Result<()> {
        let beside = Beside::new(folder)?;
        if let Some(parent) = beside.parent() {
            fs::create_dir_all(parent)
                .map_err(|e| Error::io(parent, "create the folder", e, "choose another with --save"))?;
        }
        match fs::read_dir(folder) {
            Ok(mut entries) => {
                if entries.next().is_some() && !folder.join(CONFIG_FILE).exists() {
                    return Err(Error::usage(
                        format!("--save {}", folder.display()),
                        "the folder holds other files and no checkpoint",
                        "choose a new or an empty folder",
                    ));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(folder, "use the folder", e, "choose another with --save")),
        }
        beside.recover();
        beside.start()?;
        // A folder can let its owner make folders in it and yet be full.
        write_synced(&beside.new.join(CONFIG_FILE), b"{}")?;
        beside.discard_new();
        Ok(())
    }

    /// Writes the checkpoint to `folder`, in place of the one that may be there. Other files in it stay.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; what was there before is then still there.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let beside = Beside::new(folder)?;
        beside.start()?;
        let written = self.write(&beside.new).and_then(|()| beside.swap());
        if written.is_err() {
            beside.discard_new();
        }
        written
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let State { parameters, m, v, step } = &self.state;
        let layout = self.config.model.layout();
        let model = TensorFile {
            tensors: tensors(layout, &[("", parameters)]),
            metadata: metadata(&About { gate_order: "i,f,g,o", forget_bias: self.config.model.forget_bias }),
        };
        let state = TensorFile {
            tensors: tensors(layout, &[("m.", m), ("v.", v)]),
            metadata: metadata(&Progress {
                step: *step,
                seed: self.config.seed,
                sequences_seen: step * self.config.batch_size as u64,
            }),
        };
        let config = serde_json::to_vec_pretty(&self.config).expect("a configuration can be written");
        write_synced(&folder.join(MODEL_FILE), &model.to_bytes())?;
        write_synced(&folder.join(STATE_FILE), &state.to_bytes())?;
        write_synced(&folder.join(CONFIG_FILE), &config)?;
        sync_folder(folder)
    }

    /// Reads the checkpoint in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] that names the file and what is wrong with it.
    pub fn load(folder: &Path) -> Result<Self> {
        let (folder, config) = Self::load_config(folder)?;
        let parameters = load_parameters(&folder, &config)?;
        let path = folder.join(STATE_FILE);
        let fail = |found: String| Error::checkpoint(&path, found, REMEDY);
        let layout = config.model.layout();
        let file = TensorFile::read(&path, max_bytes(2 * layout.len())).map_err(fail)?;
        let progress = file.metadata.get(METADATA).and_then(|text| serde_json::from_str::<Progress>(text).ok());
        let progress = progress.ok_or_else(|| fail(format!("metadata {METADATA} does not tell the step")))?;
        let seen = u128::from(progress.step) * config.batch_size as u128;
        if progress.seed != config.seed || u128::from(progress.sequences_seen) != seen {
            return Err(fail("it does not belong to the config.json beside it".into()));
        }
        let state = State {
            parameters,
            m: flat(&file, layout, "m.").map_err(fail)?,
            v: flat(&file, layout, "v.").map_err(fail)?,
            step: progress.step,
        };
        Ok(Self { config, state })
    }

    /// Reads what inference needs of the checkpoint in `folder`: the configuration and the flat parameters.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::load`].
    pub fn load_model(folder: &Path) -> Result<(Config, Vec<f32>)> {
        let (folder, config) = Self::load_config(folder)?;
        let parameters = load_parameters(&folder, &config)?;
        Ok((config, parameters))
    }

    fn load_config(folder: &Path) -> Result<(PathBuf, Config)> {
        let folder = Beside::new(folder)?.whole();
        if !folder.is_dir() {
            return Err(Error::checkpoint(&folder, "there is no such folder", REMEDY));
        }
        let path = folder.join(CONFIG_FILE);
        let fail = |found: String| Error::checkpoint(&path, found, REMEDY);
        let mut text = String::new();
        let file = fs::File::open(&path).map_err(|e| fail(describe(&e)))?;
        file.take(MAX_TEXT_BYTES).read_to_string(&mut text).map_err(|e| fail(describe(&e)))?;
        let config: Config = serde_json::from_str(&text).map_err(|e| fail(format!("not a configuration ({e})")))?;
        if config.format != FORMAT {
            let found = format!("form {} is not the form {FORMAT} that this program reads", config.format);
            return Err(fail(found));
        }
        config.model.dims.check().and_then(|()| config.adam.check()).map_err(|e| fail(e.to_string()))?;
        if config.batch_size == 0 || config.train_sequences == 0 || !config.model.forget_bias.is_finite() {
            return Err(fail("a size is zero or the forget bias is no number".into()));
        }
        Ok((folder, config))
    }
}

fn load_parameters(folder: &Path, config: &Config) -> Result<Vec<f32>> {
    let path = folder.join(MODEL_FILE);
    let layout = config.model.layout();
    let file = TensorFile::read(&path, max_bytes(layout.len()));
    file.and_then(|file| flat(&file, layout, "")).map_err(|found| Error::checkpoint(&path, found, REMEDY))
}

fn max_bytes(numbers: usize) -> u64 {
    numbers as u64 * 4 + MAX_TEXT_BYTES
}

fn tensors(layout: ParamLayout, flats: &[(&str, &[f32])]) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for (prefix, flat) in flats {
        let shapes = layout.shapes().into_array();
        let views = layout.view(flat).into_array();
        for ((name, shape), values) in ParamLayout::NAMES.into_array().iter().zip(shapes).zip(views) {
            tensors.insert(format!("{prefix}{name}"), Tensor::f32(&shape, values.to_vec()));
        }
    }
    tensors
}

fn flat(file: &TensorFile, layout: ParamLayout, prefix: &str) -> Result<Vec<f32>, String> {
    let mut flat = Vec::with_capacity(layout.len());
    for (name, shape) in ParamLayout::NAMES.into_array().iter().zip(layout.shapes().into_array()) {
        flat.extend_from_slice(file.f32(&format!("{prefix}{name}"), &shape)?);
    }
    match flat.iter().all(|v| v.is_finite()) {
        true => Ok(flat),
        false => Err("it holds numbers that are NaN or infinite".into()),
    }
}

fn metadata(value: &impl Serialize) -> BTreeMap<String, String> {
    BTreeMap::from([(METADATA.to_owned(), serde_json::to_string(value).expect("a few plain values can be written"))])
}

/// The folders beside a checkpoint that it is swapped with.
struct Beside {
    folder: PathBuf,
    /// Where the next checkpoint is written.
    new: PathBuf,
    /// Where the checkpoint stands for a moment, on systems that cannot exchange two folders.
    old: PathBuf,
}

impl Beside {
    fn new(folder: &Path) -> Result<Self> {
        let absolute =
            std::path::absolute(folder).map_err(|e| Error::io(folder, "use the folder", e, "choose another folder"))?;
        let Some(name) = absolute.file_name() else {
            return Err(Error::usage(folder.display().to_string(), "this cannot be a checkpoint's folder", REMEDY));
        };
        let named = |suffix: &str| {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(suffix);
            absolute.with_file_name(hidden)
        };
        Ok(Self { new: named(".new"), old: named(".old"), folder: folder.to_owned() })
    }

    fn parent(&self) -> Option<&Path> {
        self.new.parent()
    }

    /// Where the whole checkpoint lies: in its folder but after a kill between the two renames of [`Beside::swap`].
    fn whole(&self) -> PathBuf {
        if !self.folder.exists() && self.old.is_dir() { self.old.clone() } else { self.folder.clone() }
    }

    /// Puts a checkpoint that such a kill left aside back in its place.
    fn recover(&self) {
        if self.whole() == self.old {
            // If this fails the checkpoint is still found where it is.
            let _ = fs::rename(&self.old, &self.folder);
        }
    }

    fn start(&self) -> Result<()> {
        self.discard_new();
        fs::create_dir(&self.new)
            .map_err(|e| Error::io(&self.new, "create the folder", e, "choose another with --save"))
    }

    fn discard_new(&self) {
        // What cannot be removed is in nobody's way but the next save's, which says so.
        let _ = fs::remove_dir_all(&self.new);
    }

    /// Puts the new folder in the place of the checkpoint, whose other files move along.
    fn swap(&self) -> Result<()> {
        let fail = |e| Error::io(&self.folder, "replace the checkpoint", e, "choose another folder with --save");
        let aside = match exchange(&self.new, &self.folder) {
            Ok(()) => Some(&self.new),
            Err(_) if !self.folder.exists() => {
                fs::rename(&self.new, &self.folder).map_err(fail)?;
                None
            }
            Err(_) => {
                let _ = fs::remove_dir_all(&self.old);
                fs::rename(&self.folder, &self.old).map_err(fail)?;
                fs::rename(&self.new, &self.folder).map_err(fail)?;
                Some(&self.old)
            }
        };
        if let Some(parent) = self.parent() {
            sync_folder(parent)?;
        }
        if let Some(aside) = aside {
            for entry in fs::read_dir(aside).map_err(fail)? {
                let name = entry.map_err(fail)?.file_name();
                if !FILES.iter().any(|file| name == *file) {
                    fs::rename(aside.join(&name), self.folder.join(&name)).map_err(fail)?;
                }
            }
            fs::remove_dir_all(aside).map_err(fail)?;
        }
        Ok(())
    }
}

/// Exchanges two folders in one step, where the system can.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        let _ = (a, b);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Waits until a folder's entries are on disk, where the system can open folders.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|e| Error::io(folder, "sync the folder", e, "choose another folder with --save"))?;
    }
    Ok(())
}
