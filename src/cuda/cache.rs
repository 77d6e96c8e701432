//! Compiled kernels on disk, so that only the first start compiles.
//!
//! One file for each entry, in the folder `kernels` of the program's cache folder. Its name is made of all that the
//! machine code depends on; its content tells again what it is and its own hash, so whatever is broken, cut short or not
//! ours is no entry, and is written anew. A file is written under another name and then renamed: whoever reads beside it
//! finds a whole entry or none. It is not synced to the disk, for a hash tells of a crash as well as of anything else.
//!
//! Small texts lie beside the entries, under names of their own, for whoever can tell by their content whether they are whole.

use super::nvrtc::Target;
use crate::data::download;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The form of an entry. It stands in every key, so a program with another form finds none of these.
const FORM: &str = "fused-lstm kernels, form 1";

/// So many entries stay, the newest ones, and as many texts: some for each model, kind of GPU and release of this program, with room
/// for trials.
const MOST_ENTRIES: usize = 64;

/// Nothing larger is read.
const MOST_BYTES: u64 = 256 << 20;
const MOST_TEXT: u64 = 1 << 20;

/// A file that is being written for longer than this was left by a program that died.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// Ends of the names of an entry, of a text, and of a file that becomes one of them.
const ENTRY: &str = ".cubin";
const TEXT: &str = ".json";
const PART: &str = ".part";

const REMEDY: &str = "name another folder with FUSED_LSTM_CACHE";

/// What an entry is kept under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    architecture: String,
    hash: String,
}

impl Key {
    /// The key of what the compiler with that identity ([`super::find::Search::identity`]) makes of `source`.
    pub fn new(source: &str, target: &Target, compiler: &str) -> Self {
        let options = target.options().join("\n");
        let mut hasher = Sha256::new();
        for part in [FORM, target.architecture(), &options, compiler, source] {
            // With its length, so that nothing can move from one part to the next.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self { architecture: target.architecture().into(), hash: hex(hasher) }
    }

    /// Name of the entry's file.
    pub fn file_name(&self) -> String {
        format!("{}-{}{ENTRY}", self.architecture, self.hash)
    }
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// What made it: `NVRTC 13.0`. One line.
    pub compiler: String,
}

impl Entry {
    /// The file's content: form, key, compiler and hash in a line each, then the machine code.
    fn to_bytes(&self, key: &Key) -> Vec<u8> {
        let head = format!("{FORM}\n{}\n{}\n{}\n", key.hash, self.compiler, self.hash());
        [head.as_bytes(), &self.cubin].concat()
    }

    fn parse(bytes: &[u8], key: &Key) -> Option<Self> {
        let mut parts = bytes.splitn(5, |&byte| byte == b'\n');
        let mut line = || std::str::from_utf8(parts.next()?).ok();
        let (form, of, compiler, hash) = (line()?, line()?, line()?, line()?);
        let entry = Self { cubin: parts.next()?.to_vec(), compiler: compiler.into() };
        (form == FORM && of == key.hash && hash == entry.hash()).then_some(entry)
    }

    fn hash(&self) -> String {
        hex(Sha256::new().chain_update(&self.compiler).chain_update(b"\n").chain_update(&self.cubin))
    }
}

/// A folder with entries. It need not be there.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The entries in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The user's: `kernels` in the folder that [`download::cache_dir`] chooses.
    ///
    /// # Errors
    ///
    /// As [`download::cache_dir`].
    pub fn of_user() -> Result<Self> {
        Ok(Self::new(download::cache_dir()?.join("kernels")))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, and in it a file that it removes again: whether [`Cache::put`] could.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be made or written to.
    pub fn check_writable(&self) -> Result<()> {
        self.make()?;
        let (part, mut file) = self.part("trial").map_err(self.told("write into the folder"))?;
        // A full disk takes the name of a file, but not its content.
        let written = file.write_all(FORM.as_bytes());
        let removed = fs::remove_file(part);
        written.and(removed).map_err(self.told("write into the folder"))
    }

    /// Number of entries, and their bytes.
    pub fn entries(&self) -> (usize, u64) {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let entries = files.filter(|file| ends_with(&file.path(), ENTRY));
        let lengths = entries.map(|file| file.metadata().map_or(0, |about| about.len()));
        lengths.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length))
    }

    /// The entry under `key`, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Entry> {
        let file = File::open(self.folder.join(key.file_name())).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Entry::parse(&bytes, key)
    }

    /// Keeps `entry` under `key`, in place of what may be there, and removes the oldest entries where there are many.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be made or written to; what was there is then still there.
    pub fn put(&self, key: &Key, entry: &Entry) -> Result<()> {
        self.keep(&key.file_name(), &entry.to_bytes(key))
    }

    /// The text `name`, if it is there; whether it is whole is for the reader to see.
    pub fn text(&self, name: &str) -> Option<String> {
        let file = File::open(self.folder.join(format!("{name}{TEXT}"))).ok()?;
        let mut text = String::new();
        file.take(MOST_TEXT).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Keeps a text, in place of what may be there, and removes the oldest ones where there are many.
    ///
    /// # Errors
    ///
    /// As [`Cache::put`].
    pub fn put_text(&self, name: &str, text: &str) -> Result<()> {
        self.keep(&format!("{name}{TEXT}"), text.as_bytes())
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.make()?;
        self.write(name, bytes).map_err(self.told("write into the folder"))?;
        self.tidy();
        Ok(())
    }

    fn told(&self, action: &'static str) -> impl Fn(io::Error) -> Error {
        move |error| Error::io(&self.folder, action, error, REMEDY)
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(self.told("create the folder"))
    }

    /// A new file that is not an entry yet.
    fn part(&self, name: &str) -> io::Result<(PathBuf, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Processes of several machines may share the folder and have one number; so a name may be taken.
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let part = self.folder.join(format!("{name}-{}-{count}{PART}", process::id()));
            match File::create_new(&part) {
                Ok(file) => return Ok((part, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (part, mut file) = self.part(name.split('-').next().unwrap_or_default())?;
        let written = file.write_all(bytes).and_then(|()| fs::rename(&part, self.folder.join(name)));
        written.inspect_err(|_| drop(fs::remove_file(&part)))
    }

    /// Removes the oldest entries and texts beyond the most, and what programs left that died while they wrote. A file that
    /// cannot be removed does no harm.
    fn tidy(&self) {
        let (mut entries, mut texts) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (path, changed) = (file.path(), file.metadata().and_then(|about| about.modified()));
            let Ok(changed) = changed else { continue };
            if ends_with(&path, ENTRY) {
                entries.push((changed, path));
            } else if ends_with(&path, TEXT) {
                texts.push((changed, path));
            } else if ends_with(&path, PART) && is_older(changed, LEFT_OVER) {
                let _ = fs::remove_file(path);
            }
        }
        for mut files in [entries, texts] {
            files.sort();
            let surplus = files.len().saturating_sub(MOST_ENTRIES);
            files.iter().take(surplus).for_each(|(_, path)| drop(fs::remove_file(path)));
        }
    }
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(end))
}

fn is_older(changed: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(changed).is_ok_and(|since| since > age)
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn target() -> Target {
        Target::Cubin("sm_90".into())
    }

    fn key(source: &str) -> Key {
        Key::new(source, &target(), "compiler")
    }

    /// An entry of some length, with line ends in it.
    fn entry(fill: u8) -> Entry {
        let cubin = (0..100_000u32).map(|i| (i % 251) as u8 ^ fill).collect();
        Entry { cubin, compiler: "NVRTC 13.0".into() }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
    }

    fn set_age(path: &Path, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn an_entry_comes_back_in_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("made/when needed"));
        assert_eq!(cache.get(&key("a")), None, "no folder is no entry");
        cache.put(&key("a"), &entry(0)).unwrap();
        assert_eq!(cache.get(&key("a")), Some(entry(0)));
        assert_eq!(cache.get(&key("b")), None);
        cache.put(&key("a"), &entry(1)).unwrap();
        assert_eq!(cache.get(&key("a")), Some(entry(1)));
        assert_eq!(files(&cache.folder), [cache.folder.join(key("a").file_name())], "nothing else stays");
    }

    #[test]
    fn the_key_changes_with_everything_that_it_is_made_of() {
        let keys = [
            key("source"),
            key("source "),
            Key::new("source", &Target::Cubin("sm_90a".into()), "compiler"),
            Key::new("source", &Target::Ptx("sm_90".into()), "compiler"),
            Key::new("source", &target(), "compilers"),
            Key::new("ource", &target(), "compilers"),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|other| other.hash != one.hash), "{i}: {one:?}");
        }
        assert_eq!(key("source"), keys[0]);
        assert!(keys[0].file_name().starts_with("sm_90-") && keys[0].file_name().len() < 100, "{keys:?}");
    }

    #[test]
    fn an_entry_that_was_changed_anywhere_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        cache.put(&key("a"), &entry(0)).unwrap();
        let file = folder.path().join(key("a").file_name());
        let good = fs::read(&file).unwrap();
        let head = good.len() - entry(0).cubin.len();
        for at in (0..head).chain([head, head + 1, good.len() / 2, good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            assert_eq!(cache.get(&key("a")), None, "byte {at}");
        }
        for length in (0..=head).chain([good.len() / 2, good.len() - 1]) {
            fs::write(&file, &good[..length]).unwrap();
            assert_eq!(cache.get(&key("a")), None, "cut to {length}");
        }
        fs::write(&file, [&good[..], b"\n"].concat()).unwrap();
        assert_eq!(cache.get(&key("a")), None, "a byte too many");
        fs::write(&file, &good).unwrap();
        assert_eq!(cache.get(&key("a")), Some(entry(0)));
        fs::copy(&file, folder.path().join(key("b").file_name())).unwrap();
        assert_eq!(cache.get(&key("b")), None, "the entry of another key");
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Cache::new(&file).put(&key("a"), &entry(0)).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("FUSED_LSTM_CACHE"), "{error}");
        assert_eq!(Cache::new(&file).get(&key("a")), None);
        // Something that a rename cannot replace: nothing half-written stays.
        let cache = Cache::new(folder.path().join("cache"));
        fs::create_dir_all(cache.folder.join(key("a").file_name())).unwrap();
        assert!(cache.put(&key("a"), &entry(0)).is_err());
        assert_eq!(cache.get(&key("a")), None);
        assert_eq!(files(&cache.folder).len(), 1);
    }

    #[test]
    fn only_the_newest_entries_stay_and_no_old_parts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        for i in 0..MOST_ENTRIES as u64 {
            cache.put(&key(&i.to_string()), &entry(0)).unwrap();
            set_age(&folder.path().join(key(&i.to_string()).file_name()), 1000 - i);
        }
        for (name, age) in [("sm_90-1-1.part", 4000), ("sm_90-1-2.part", 3000), ("somebody's.txt", 9000)] {
            fs::write(folder.path().join(name), "").unwrap();
            set_age(&folder.path().join(name), age);
        }
        cache.put(&key("new"), &entry(0)).unwrap();
        assert_eq!(cache.get(&key("0")), None, "the oldest");
        assert!((1..MOST_ENTRIES).all(|i| cache.get(&key(&i.to_string())).is_some()));
        assert!(cache.get(&key("new")).is_some());
        let there = |name: &str| folder.path().join(name).exists();
        assert!(!there("sm_90-1-1.part") && there("sm_90-1-2.part") && there("somebody's.txt"));
    }

    #[test]
    fn texts_are_kept_beside_the_entries_and_only_the_newest_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("made when needed"));
        assert_eq!(cache.text("a"), None);
        cache.put(&key("a"), &entry(0)).unwrap();
        cache.put_text("a", "first").unwrap();
        cache.put_text("a", "second").unwrap();
        assert_eq!((cache.text("a").as_deref(), cache.text("b")), (Some("second"), None));
        assert_eq!((cache.entries().0, files(&cache.folder).len()), (1, 2));
        for i in 0..MOST_ENTRIES as u64 {
            set_age(&cache.folder.join("a.json"), 2000);
            cache.put_text(&i.to_string(), "text").unwrap();
        }
        assert_eq!(cache.text("a"), None, "the oldest");
        assert_eq!(files(&cache.folder).len(), MOST_ENTRIES + 1);
        assert_eq!(cache.get(&key("a")), Some(entry(0)), "it is of another kind");
        fs::write(cache.folder.join("c.json"), b"\xff").unwrap();
        assert_eq!(cache.text("c"), None, "no text");
    }

    #[test]
    fn a_reader_beside_writers_finds_whole_entries_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        cache.put(&key("a"), &entry(0)).unwrap();
        thread::scope(|scope| {
            for fill in 0..4 {
                let cache = &cache;
                scope.spawn(move || (0..50).for_each(|_| cache.put(&key("a"), &entry(fill)).unwrap()));
            }
            for _ in 0..200 {
                let found = cache.get(&key("a")).expect("there always is an entry");
                assert!((0..4).any(|fill| found == entry(fill)));
            }
        });
        assert_eq!(files(folder.path()).len(), 1);
    }
}
