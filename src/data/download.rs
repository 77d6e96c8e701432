//! Verified download of the MNIST files.
//!
//! A file is written only after its length and checksums are those expected, under another name first and then renamed:
//! under its own name there is never anything but a whole, good file. Several programs may fetch into one folder at
//! once; what a killed one left behind is removed by the next that fetches.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcetera::BaseStrategy;
use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use ureq::Agent;

use crate::progress::Progress;
use crate::{Error, Result};

/// The environment variable that names the cache folder.
pub const CACHE_VARIABLE: &str = "FUSED_LSTM_CACHE";

const MIRRORS: [&str; 2] =
    ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"];

/// Name, bytes and SHA-256 as fetched, bytes and SHA-256 of what is inside.
const FILES: [(&str, u64, &str, u64, &str); 4] = [
    (
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
];

const FETCH_REMEDY: &str = "check the network, or fetch the file by hand and name its folder with --data-dir, or use \
                            --data synthetic";
const WRITE_REMEDY: &str = "name another folder with FUSED_LSTM_CACHE, or one that holds the files with --data-dir, or \
                            use --data synthetic";

/// End of the names of files that are being written.
const TEMPORARY: &str = ".part";

/// A gz file as it has to arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Name at the mirror and in the folder.
    pub name: String,
    /// Length in bytes.
    pub gz_bytes: u64,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub gz_sha256: String,
    /// Length in bytes of what is inside.
    pub bytes: u64,
    /// SHA-256 of what is inside, in lower-case hexadecimal.
    pub sha256: String,
}

/// What to fetch, from where, and how long to wait; [`Default`] is MNIST.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// Addresses under which the files lie, tried in this order for each file.
    pub mirrors: Vec<String>,
    /// The files to fetch.
    pub files: Vec<RemoteFile>,
    /// Longest time to find a host, and again to connect to it.
    pub connect_timeout: Duration,
    /// Longest time without a single byte, before or within an answer.
    pub stall_timeout: Duration,
    /// Longest time for one file from one mirror, all in all.
    pub total_timeout: Duration,
    /// Whether to follow the environment variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub use_proxy: bool,
}

impl Default for Fetcher {
    fn default() -> Self {
        let files = FILES.map(|(name, gz_bytes, gz_sha256, bytes, sha256)| RemoteFile {
            name: name.to_owned(),
            gz_bytes,
            gz_sha256: gz_sha256.to_owned(),
            bytes,
            sha256: sha256.to_owned(),
        });
        Self {
            mirrors: MIRRORS.map(str::to_owned).to_vec(),
            files: files.to_vec(),
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(15),
            total_timeout: Duration::from_secs(300),
            use_proxy: true,
        }
    }
}

impl Fetcher {
    /// Sees to it that all files lie in the folder `dir`, which is made if need be.
    ///
    /// Files that are there and good stay; nothing is written then, so the folder may be read-only. `progress` counts the
    /// bytes of each file that is fetched; each failure of a mirror, and each present file that is not good, is a note.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] if no mirror gives a file as expected; the files fetched before stay. [`Error::Io`] if the folder
    /// cannot be written.
    pub fn fetch(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        let missing = self.files.iter().filter(|file| !is_present(dir, file, progress)).collect::<Vec<_>>();
        if missing.is_empty() {
            return Ok(());
        }
        self.prepare(dir)?;
        let agent = self.agent();
        for file in missing {
            progress.begin(&format!("fetching {}", file.name), file.gz_bytes);
            let fetched = self.try_mirrors(&agent, file, progress);
            progress.end();
            let path = dir.join(&file.name);
            let gz = fetched.map_err(|found| Error::data(&path, found, FETCH_REMEDY))?;
            store(dir, file, &gz).map_err(|error| Error::io(&path, "write", error, WRITE_REMEDY))?;
        }
        Ok(())
    }

    /// Makes the folder, tidies it and tries to write into it, so that a fault there shows before the download.
    fn prepare(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|error| Error::io(dir, "create the folder", error, WRITE_REMEDY))?;
        self.remove_left_over(dir);
        let probe = self.files.first().map_or("probe", |file| &file.name);
        Temporary::create(dir, probe)
            .map_err(|error| Error::io(dir, "write into the folder", error, WRITE_REMEDY))
            .map(drop)
    }

    /// Removes the temporary files of programs that no longer live; their locks died with them.
    fn remove_left_over(&self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(TEMPORARY)) else { continue };
            if !self.files.iter().any(|file| name.starts_with(&temporary_prefix(&file.name))) {
                continue;
            }
            // Whatever fails here, an old file that stays does no harm. The lock is held while the file is removed.
            let path = entry.path();
            if let Ok(file) = File::options().write(true).open(&path)
                && file.try_lock().is_ok()
            {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn agent(&self) -> Agent {
        let config = Agent::config_builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            // The files are gz already, and their checksums are those of the gz.
            .accept_encoding("identity")
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            // For each read from the socket, so it finds a stall anywhere in the answer.
            .timeout_per_read(Some(self.stall_timeout))
            .timeout_per_write(Some(self.stall_timeout))
            .timeout_global(Some(self.total_timeout));
        if self.use_proxy { config.build().new_agent() } else { config.proxy(None).build().new_agent() }
    }

    /// The verified bytes of `file`, or what went wrong at each mirror.
    fn try_mirrors(&self, agent: &Agent, file: &RemoteFile, progress: &dyn Progress) -> Result<Vec<u8>, String> {
        let mut failures = Vec::new();
        for mirror in &self.mirrors {
            let address = format!("{}/{}", mirror.trim_end_matches('/'), file.name);
            match self.download(agent, &address, file, progress).and_then(|gz| verify(&gz, file).map(|()| gz)) {
                Ok(gz) => return Ok(gz),
                Err(failure) => {
                    progress.note(&format!("{address}: {failure}"));
                    failures.push(format!("{mirror}: {failure}"));
                }
            }
        }
        if failures.is_empty() {
            return Err("is missing, and there is no mirror to fetch it from".to_owned());
        }
        Err(format!("cannot be fetched ({})", failures.join(", ")))
    }

    /// The bytes at `address`, as many as expected.
    fn download(
        &self,
        agent: &Agent,
        address: &str,
        file: &RemoteFile,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, String> {
        progress.update(0);
        let body = agent.get(address).call().map_err(|error| self.words(error))?.into_body();
        let expected = file.gz_bytes;
        if let Some(length) = body.content_length().filter(|&length| length != expected) {
            return Err(format!("has {length} bytes instead of {expected}"));
        }
        // Nothing is read past the first byte too many.
        let mut reader = body.into_reader().take(expected + 1);
        let mut bytes = Vec::with_capacity(expected as usize + 1);
        let mut chunk = vec![0; 64 << 10];
        loop {
            let count = reader.read(&mut chunk).map_err(|error| self.words(ureq::Error::from(error)))?;
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..count]);
            progress.update(bytes.len() as u64);
        }
        match bytes.len() as u64 {
            length if length > expected => Err(format!("sends more than {expected} bytes")),
            length if length < expected => Err(format!("sends {length} bytes instead of {expected}")),
            _ => Ok(bytes),
        }
    }

    /// A failure of the network in a few words.
    fn words(&self, error: ureq::Error) -> String {
        use ureq::Timeout;
        match error {
            ureq::Error::StatusCode(code) => format!("HTTP status {code}"),
            ureq::Error::HostNotFound => "host not found".to_owned(),
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                format!("no connection within {:?}", self.connect_timeout)
            }
            ureq::Error::Timeout(Timeout::Global) => format!("not done within {:?}", self.total_timeout),
            ureq::Error::Timeout(_) => format!("no bytes for {:?}", self.stall_timeout),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused".to_owned()
            }
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "connection closed before the end".to_owned()
            }
            // Some other library's text: kept to one line.
            other => other.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

/// The folder for what can be fetched again: `$FUSED_LSTM_CACHE`, else `fused-lstm` in the platform's cache folder.
///
/// # Errors
///
/// [`Error::Data`] if the variable is not set and the user has no home folder.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os(CACHE_VARIABLE).filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    match etcetera::base_strategy::choose_native_strategy() {
        Ok(strategy) => Ok(strategy.cache_dir().join("fused-lstm")),
        Err(_) => Err(Error::data("cache folder", "this user has no home folder", "name one with FUSED_LSTM_CACHE")),
    }
}

/// The folder in [`cache_dir`] where the MNIST files lie.
///
/// # Errors
///
/// As [`cache_dir`].
pub fn mnist_dir() -> Result<PathBuf> {
    Ok(cache_dir()?.join("mnist"))
}

/// True if the file lies in `dir` as expected; a note if it is there and is not.
fn is_present(dir: &Path, file: &RemoteFile, progress: &dyn Progress) -> bool {
    let path = dir.join(&file.name);
    let Ok(about) = fs::metadata(&path) else { return false };
    // The length first: a wrong file may be large.
    let good = about.is_file()
        && about.len() == file.gz_bytes
        && fs::read(&path).is_ok_and(|gz| sha256(&gz) == file.gz_sha256);
    if !good {
        progress.note(&format!("{}: not the expected file, fetching it again", path.display()));
    }
    good
}

/// Compares length and checksums of a gz file and of what is inside.
fn verify(gz: &[u8], file: &RemoteFile) -> Result<(), String> {
    let found = sha256(gz);
    if found != file.gz_sha256 {
        return Err(format!("wrong checksum (SHA-256 {found})"));
    }
    let (length, found) =
        measure_content(gz, file.bytes + 1).map_err(|error| format!("cannot be unpacked ({error})"))?;
    if length > file.bytes {
        return Err(format!("unpacks to more than {} bytes", file.bytes));
    }
    if length < file.bytes {
        return Err(format!("unpacks to {length} bytes instead of {}", file.bytes));
    }
    if found != file.sha256 {
        return Err(format!("wrong checksum of the content (SHA-256 {found})"));
    }
    Ok(())
}

/// Length in bytes and SHA-256 of what a gz file holds, up to `most` bytes. Hashed as it comes, so that a gz bomb takes
/// neither memory nor time.
fn measure_content(gz: &[u8], most: u64) -> io::Result<(u64, String)> {
    let mut content = GzDecoder::new(gz).take(most);
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        let count = content.read(&mut chunk)?;
        if count == 0 {
            return Ok((length, hex(&hasher.finalize())));
        }
        hasher.update(&chunk[..count]);
        length += count as u64;
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts the bytes under the file's name, all of them or none.
fn store(dir: &Path, file: &RemoteFile, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = Temporary::create(dir, &file.name)?;
    temporary.file.write_all(bytes)?;
    // Else a crash of the machine could leave the new name with no content.
    temporary.file.sync_all()?;
    fs::rename(&temporary.path, dir.join(&file.name))?;
    // The folder's entry as well, where folders can be synchronised; the file is whole in any case.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    Ok(())
}

/// A new file with a name of its own, locked, and gone at the end unless it has been renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn create(dir: &Path, name: &str) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let (id, count) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = dir.join(format!("{}{id}-{count}{TEMPORARY}", temporary_prefix(name)));
            let temporary = match File::create_new(&path) {
                Ok(file) => Self { path, file },
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Another program that tidies may have taken the file for a left-over before it was locked. Where locks do
            // not exist nobody tidies.
            let taken = matches!(temporary.file.try_lock(), Err(fs::TryLockError::WouldBlock));
            if !taken && temporary.path.exists() {
                return Ok(temporary);
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Start of the names of temporary files for the file `name`.
fn temporary_prefix(name: &str) -> String {
    format!(".{name}.")
}
