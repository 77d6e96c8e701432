//! Checkpoints: a folder with `model.safetensors` (parameters), `state.safetensors` (the optimizer's state and the place
//! in the data order) and `config.json`.
//!
//! A new checkpoint is written to a folder `.saving-…` within, synced, and renamed to `.saved`: from this moment it is the
//! checkpoint, for whoever reads looks for each file there first. Then its files move to their places, over the old ones.
//! The first checkpoint of a folder that is not there yet is written beside it and becomes it. So whenever the program is
//! killed, the folder holds the old checkpoint or the new one, whole.

use crate::config::Config;
use crate::engine::State;
use crate::error::{Error, Result};
use crate::shape::ParamLayout;
use crate::tensor_file::{Tensor, TensorFile, read_limited, write_synced};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MODEL_FILE: &str = "model.safetensors";
const STATE_FILE: &str = "state.safetensors";
const CONFIG_FILE: &str = "config.json";
const FILES: [&str; 3] = [MODEL_FILE, STATE_FILE, CONFIG_FILE];

/// Version of the files' form; a later one may not be readable by this program.
const FORMAT: u32 = 2;
/// The form of checkpoints of the tutorial's model, which programs of before can read too.
const FIRST_FORMAT: u32 = 1;
/// Largest `config.json`: it may hold the mean and the deviation of very many inputs.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Largest header of a tensor file.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// The one metadata entry of the tensor files. (Only one, for more would be written in random order.)
pub(crate) const METADATA: &str = "fused-lstm";

/// The new checkpoint within the folder, once it is whole.
const SAVED: &str = ".saved";
/// What the names of folders begin with that are not yet a whole checkpoint.
const SAVING: &str = ".saving-";

const REMEDY: &str = "give a folder that --save wrote";
const ELSEWHERE: &str = "choose another folder with --save";

/// What `config.json` holds, for [`parse_config`].
#[derive(Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    /// Version of the files' form.
    format: u32,
    #[serde(flatten)]
    config: Config,
}

impl ConfigFile {
    pub(crate) fn new(config: &Config) -> Self {
        let format = if config.is_first_form() { FIRST_FORMAT } else { FORMAT };
        Self { format, config: config.clone() }
    }
}

/// What `state.safetensors` says beside its tensors.
#[derive(Serialize, Deserialize)]
struct Progress {
    step: u64,
    seed: u64,
    /// Place in the data order: sequences taken so far, over all epochs.
    sequences_seen: u64,
    /// The parameters of this step, so that no other `model.safetensors` is taken for theirs.
    parameters_sha256: String,
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
    /// Makes sure that [`Checkpoint::save`] can write to `folder`, before hours of training: it can be written to, and it
    /// is empty, a checkpoint, or not there yet. Finishes and clears away what a killed run has left there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Usage`] with the remedy.
    pub fn prepare(folder: &Path) -> Result<()> {
        check_own(folder)?;
        let staging = Staging::new(folder)?;
        // A folder can let its owner make folders in it and yet be full.
        write_synced(&staging.path.join(CONFIG_FILE), b"{}")?;
        finish(folder)?;
        staging.clear_leftovers();
        Ok(())
    }

    /// Writes the checkpoint to `folder`, in place of the one that may be there. Other files in it stay.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; what was there before is then still there.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let staging = Staging::new(folder)?;
        self.write(&staging.path)?;
        staging.commit()
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
                parameters_sha256: sha256(parameters),
            }),
        };
        let config = serde_json::to_vec_pretty(&ConfigFile::new(&self.config)).expect("a configuration can be written");
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
        // A run may save between the reading of two files; then the second look finds three that belong together.
        Self::load_once(folder).or_else(|_| Self::load_once(folder))
    }

    fn load_once(folder: &Path) -> Result<Self> {
        let (config, parameters) = Self::load_model(folder)?;
        let layout = config.model.layout();
        let (path, bytes) = read(folder, STATE_FILE, max_bytes(2 * layout.len()))?;
        let fail = |found: String| Error::checkpoint(&path, found, REMEDY);
        let file = TensorFile::parse(&bytes).map_err(fail)?;
        let progress = file.metadata.get(METADATA).and_then(|text| serde_json::from_str::<Progress>(text).ok());
        let progress = progress.ok_or_else(|| fail(format!("metadata {METADATA} does not tell the step")))?;
        let seen = u128::from(progress.step) * config.batch_size as u128;
        if progress.seed != config.seed || u128::from(progress.sequences_seen) != seen {
            return Err(fail(format!("it does not belong to the {CONFIG_FILE} beside it")));
        }
        if progress.parameters_sha256 != sha256(&parameters) {
            return Err(fail(format!("it does not belong to the {MODEL_FILE} beside it")));
        }
        let m = flat(&file, layout, "m.").map_err(fail)?;
        let v = flat(&file, layout, "v.").map_err(fail)?;
        Ok(Self { config, state: State { parameters, m, v, step: progress.step } })
    }

    /// Reads what inference needs of the checkpoint in `folder`: the configuration and the flat parameters.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::load`].
    pub fn load_model(folder: &Path) -> Result<(Config, Vec<f32>)> {
        let config = load_config(folder)?;
        let layout = config.model.layout();
        let (path, bytes) = read(folder, MODEL_FILE, max_bytes(layout.len()))?;
        let parameters = TensorFile::parse(&bytes).and_then(|file| flat(&file, layout, ""));
        Ok((config, parameters.map_err(|found| Error::checkpoint(&path, found, REMEDY))?))
    }
}

fn load_config(folder: &Path) -> Result<Config> {
    if !folder.is_dir() {
        return Err(Error::checkpoint(folder, "there is no such folder", REMEDY));
    }
    let (path, bytes) = read(folder, CONFIG_FILE, MAX_CONFIG_BYTES)?;
    parse_config(&bytes).map_err(|found| Error::checkpoint(&path, found, REMEDY))
}

pub(crate) fn parse_config(bytes: &[u8]) -> Result<Config, String> {
    /// The part that every form has.
    #[derive(Deserialize)]
    struct Form {
        format: u32,
    }
    let broken = |e: serde_json::Error| format!("not a configuration ({e})");
    let Form { format } = serde_json::from_slice(bytes).map_err(broken)?;
    if !(FIRST_FORMAT..=FORMAT).contains(&format) {
        return Err(format!("form {format} is none of the forms {FIRST_FORMAT} to {FORMAT} that this program reads"));
    }
    let ConfigFile { config, .. } = serde_json::from_slice(bytes).map_err(broken)?;
    let Config { model, adam, batch_size, train_sequences, .. } = &config;
    model.check().and_then(|()| adam.check()).map_err(|e| match e {
        // These remedies are for flags.
        Error::Usage { argument, found, .. } => format!("{argument}: {found}"),
        other => other.to_string(),
    })?;
    let decays = [adam.beta1, adam.beta2].iter().all(|beta| (0.0..1.0).contains(beta));
    if !decays || adam.epsilon <= 0.0 {
        return Err("Adam's beta1 and beta2 are not between 0 and 1, or its epsilon is not positive".into());
    }
    if *batch_size == 0 || *train_sequences == 0 {
        return Err("a size is zero".into());
    }
    if let Some(own) = &config.own {
        own.check(model.dims.i, model.dims.k)?;
    }
    Ok(config)
}

fn max_bytes(numbers: usize) -> u64 {
    numbers as u64 * 4 + MAX_TEXT_BYTES
}

fn tensors(layout: ParamLayout, flats: &[(&str, &[f32])]) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for (prefix, flat) in flats {
        let shapes = layout.shapes().into_vec();
        let views = layout.view(flat).into_vec();
        for ((name, shape), values) in layout.names().into_vec().iter().zip(shapes).zip(views) {
            tensors.insert(format!("{prefix}{name}"), Tensor::f32(&shape, values.to_vec()));
        }
    }
    tensors
}

fn flat(file: &TensorFile, layout: ParamLayout, prefix: &str) -> Result<Vec<f32>, String> {
    // All tensors are looked at before there is room made for them: the layout comes from a file.
    let tensors = layout.names().into_vec().into_iter().zip(layout.shapes().into_vec());
    let tensors = tensors.map(|(name, shape)| file.f32(&format!("{prefix}{name}"), &shape));
    let flat = tensors.collect::<Result<Vec<_>, _>>()?.concat();
    match flat.iter().all(|v| v.is_finite()) {
        true => Ok(flat),
        false => Err("it holds numbers that are NaN or infinite".into()),
    }
}

fn sha256(numbers: &[f32]) -> String {
    Sha256::digest(bytemuck::cast_slice::<_, u8>(numbers)).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn metadata(value: &impl Serialize) -> BTreeMap<String, String> {
    BTreeMap::from([(METADATA.to_owned(), serde_json::to_string(value).expect("a few plain values can be written"))])
}

/// Reads a file of the checkpoint in `folder`; gives its place too.
fn read(folder: &Path, name: &str, max_bytes: u64) -> Result<(PathBuf, Vec<u8>)> {
    // A file that is still in `SAVED` is newer. It may move away between two looks, so the first look opens it.
    let (saved, moved) = (folder.join(SAVED).join(name), folder.join(name));
    let (path, file) = match fs::File::open(&saved) {
        Ok(file) => (saved, Ok(file)),
        Err(_) => (moved.clone(), fs::File::open(&moved)),
    };
    match read_limited(file, max_bytes) {
        Ok(bytes) => Ok((path, bytes)),
        Err(found) => Err(Error::checkpoint(path, found, REMEDY)),
    }
}

/// Moves the files of a whole new checkpoint from [`SAVED`] to their places, as far as that is still to be done.
fn finish(folder: &Path) -> Result<()> {
    let saved = folder.join(SAVED);
    if !saved.is_dir() {
        return Ok(());
    }
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    for name in FILES {
        let place = folder.join(name);
        match fs::rename(saved.join(name), &place) {
            Err(e) if !gone(&e) => return Err(Error::io(&place, "replace", e, ELSEWHERE)),
            _ => {}
        }
    }
    sync_folder(folder)?;
    match fs::remove_dir(&saved) {
        Err(e) if !gone(&e) => Err(Error::io(&saved, "remove the folder", e, ELSEWHERE)),
        _ => Ok(()),
    }
}

/// Makes sure that there is nothing in `folder` that a checkpoint could do harm to.
fn check_own(folder: &Path) -> Result<()> {
    let refuse = |found, remedy| Err(Error::usage(format!("--save {}", folder.display()), found, remedy));
    if !folder.is_dir() {
        // A link that leads nowhere is no place either.
        let free = folder.symlink_metadata().is_err();
        return if free { Ok(()) } else { refuse("this is not a folder", ELSEWHERE) };
    }
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "look into the folder", e, ELSEWHERE))?;
    let ours = |name: OsString| name == SAVED || name.as_encoded_bytes().starts_with(SAVING.as_bytes());
    let others = entries.flatten().any(|entry| !ours(entry.file_name()));
    if others && load_config(folder).is_err() {
        return refuse("the folder holds other files and no checkpoint", "choose a new or an empty folder");
    }
    Ok(())
}

/// A folder that a checkpoint is written to, before it is one; removed when dropped.
struct Staging {
    /// The checkpoint's folder.
    folder: PathBuf,
    path: PathBuf,
    /// The folder that it lies in: `folder`, or the one above if `folder` is not there yet.
    within: PathBuf,
    /// What its name begins with; the number of the process follows, so that two runs cannot mix their files.
    prefix: OsString,
}

impl Staging {
    fn new(folder: &Path) -> Result<Self> {
        // Without a slash or a dot at its end, which no new name can have.
        let folder: PathBuf = folder.components().collect();
        let (within, prefix) = match (folder.is_dir(), folder.parent(), folder.file_name()) {
            (true, ..) => (folder.clone(), SAVING.into()),
            (false, Some(parent), Some(name)) => {
                let mut prefix = OsString::from(".");
                prefix.push(name);
                prefix.push(SAVING);
                let here = parent.as_os_str().is_empty();
                (if here { ".".into() } else { parent.to_owned() }, prefix)
            }
            _ => {
                let found = "there is no such folder, and none can be made of this name";
                return Err(Error::usage(format!("--save {}", folder.display()), found, ELSEWHERE));
            }
        };
        let mut name = prefix.clone();
        name.push(std::process::id().to_string());
        let staging = Self { folder, path: within.join(name), within, prefix };
        staging.discard();
        match fs::create_dir_all(&staging.path) {
            Ok(()) => Ok(staging),
            Err(e) => Err(Error::io(&staging.path, "create the folder", e, ELSEWHERE)),
        }
    }

    /// Makes it the checkpoint.
    fn commit(self) -> Result<()> {
        if self.within == self.folder {
            finish(&self.folder)?;
            self.rename(&self.folder.join(SAVED))?;
            finish(&self.folder)
        } else {
            self.rename(&self.folder)
        }
    }

    fn rename(&self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).map_err(|e| Error::io(to, "write", e, ELSEWHERE))?;
        sync_folder(&self.within)
    }

    /// Removes those of runs that were killed.
    fn clear_leftovers(&self) {
        for entry in fs::read_dir(&self.within).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(self.prefix.as_encoded_bytes()) {
                // One that cannot be removed is in nobody's way.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn discard(&self) {
        // One that cannot be removed is in nobody's way but the next one's, which says so.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.discard();
    }
}

/// Waits until a folder's entries are on disk, where the system can.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        match fs::File::open(folder).and_then(|folder| folder.sync_all()) {
            // Some file systems over the network cannot.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {}
            Err(e) => return Err(Error::io(folder, "sync the folder", e, ELSEWHERE)),
            Ok(()) => {}
        }
    }
    Ok(())
}
