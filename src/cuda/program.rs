//! What the device runs: all kernels in one piece, for its architecture.
//!
//! Machine code comes from the cache, else from NVRTC, which takes a second and is then kept in the cache. Where there is
//! no NVRTC, or one too old for the GPU, the PTX in the program does, which the driver translates.

use super::cache::{Cache, Entry, Key};
use super::find::{self, Search};
use super::nvrtc::{self, Nvrtc, Target};
use super::specialized::Specialized;
use super::{kept, kernels, sources};
use crate::{Error, Result};
use std::time::Instant;

/// The oldest architecture that the kept PTX can be translated for.
const OLDEST: u32 = 75;

/// CUDA version of the first driver that knows the kept PTX's version, and that driver.
const OLDEST_CUDA: (u32, u32) = (11, 2);
const OLDEST_DRIVER: u32 = 460;

/// All kernels as the driver takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// Machine code of one architecture.
    Cubin(Vec<u8>),
    /// Text that the driver translates, without a final NUL.
    Ptx(String),
}

/// Where the code came from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Origin {
    /// An earlier start compiled it.
    Cache,
    /// NVRTC has just compiled it.
    Compiled {
        /// Seconds that it took, with the opening of NVRTC.
        seconds: f64,
    },
    /// It is kept in the program, as PTX.
    Kept,
}

/// All kernels, for one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// What the driver takes.
    pub code: Code,
    /// Where it came from.
    pub origin: Origin,
    /// What made it: `NVRTC 13.0`.
    pub compiler: String,
    /// What the user should know, a line each: that the kept kernels are used and why, that the cache cannot be written.
    pub notes: Vec<String>,
}

/// Where a program may come from; [`Program::load`] looks in this machine's usual places.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The kernels' text.
    pub source: &'a str,
    /// Where NVRTC may lie.
    pub search: &'a Search,
    /// What earlier starts compiled; none to neither read nor keep any.
    pub cache: Option<&'a Cache>,
}

impl Program {
    /// The kernels for an architecture, such as `sm_90`. Needs no GPU. With `use_cache` false they are compiled anew and
    /// nothing is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the compiler's log if it rejects the kernels; [`Error::Device`] for an architecture that is
    /// too old, or where neither NVRTC nor the kept kernels can be used; [`Error::Usage`] for what is no architecture.
    pub fn load(architecture: &str, use_cache: bool) -> Result<Self> {
        Self::with_places(sources::KERNELS, use_cache, |places| Self::load_from(places, architecture))
    }

    /// Kernels that are compiled for one model, as machine code for an architecture. There is no kept PTX of them.
    ///
    /// # Errors
    ///
    /// As [`Program::load`]; [`Error::Device`] where NVRTC cannot be used.
    pub fn load_specialized(kernels: &Specialized, architecture: &str, use_cache: bool) -> Result<Self> {
        let missing = |reason: String| Error::Device {
            device: format!("the {} kernels", kernels.name()),
            found: format!("they are compiled for each model, and there is {reason}"),
            remedy: nvrtc::REMEDY.into(),
        };
        Self::with_places(&kernels.source(), use_cache, |places| match Self::compiled_from(places, architecture)? {
            Made::Program(program) => Ok(program),
            Made::Nothing(reason) => Err(missing(reason)),
        })
    }

    /// Gives this machine's usual places to `load`.
    fn with_places(source: &str, use_cache: bool, load: impl FnOnce(&Places) -> Result<Self>) -> Result<Self> {
        // A user without a cache folder has no cache; compiling still works.
        let cache = use_cache.then(Cache::of_user).transpose();
        let note = cache.as_ref().err().map(not_kept);
        let cache = cache.ok().flatten();
        let search = find::search();
        let mut program = load(&Places { source, search: &search, cache: cache.as_ref() })?;
        program.notes.extend(note);
        Ok(program)
    }

    /// The same from other places.
    ///
    /// # Errors
    ///
    /// As [`Program::load`].
    pub fn load_from(places: &Places, architecture: &str) -> Result<Self> {
        match Self::compiled_from(places, architecture)? {
            Made::Program(program) => Ok(program),
            Made::Nothing(reason) => Self::kept(number(architecture)?, &reason),
        }
    }

    /// Machine code from the cache or the compiler; else why there is none.
    fn compiled_from(places: &Places, architecture: &str) -> Result<Made> {
        let number = number(architecture)?;
        if places.search.libraries.is_empty() {
            let nowhere = match &places.search.places[..] {
                // The user named it.
                [place] => format!("no NVRTC in {}", place.display()),
                _ => "no NVRTC found".into(),
            };
            return Ok(Made::Nothing(format!("{nowhere} ({})", nvrtc::REMEDY)));
        }
        let target = Target::Cubin(architecture.into());
        let key = Key::new(places.source, &target, &places.search.identity());
        if let Some(Entry { cubin, compiler }) = places.cache.and_then(|cache| cache.get(&key)) {
            let code = Code::Cubin(cubin);
            return Ok(Made::Program(Self { code, origin: Origin::Cache, compiler, notes: Vec::new() }));
        }
        let started = Instant::now();
        match compile(places, number, &target)? {
            Outcome::Compiled(entry) => {
                let origin = Origin::Compiled { seconds: started.elapsed().as_secs_f64() };
                let failed = places.cache.and_then(|cache| cache.put(&key, &entry).err());
                let notes = failed.iter().map(not_kept).collect();
                let code = Code::Cubin(entry.cubin);
                Ok(Made::Program(Self { code, origin, compiler: entry.compiler, notes }))
            }
            Outcome::Unable(reason) => Ok(Made::Nothing(reason)),
        }
    }

    /// The kept PTX for architecture `number` (90 for `sm_90`), where nothing else can be had for that `reason`: also for
    /// a driver that takes no machine code of this NVRTC.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] for an architecture older than the kernels are for, and if the kept PTX is not of the kernels in
    /// this program.
    pub fn kept(number: u32, reason: &str) -> Result<Self> {
        if number < OLDEST {
            return Err(Error::Device {
                device: format!("sm_{number}"),
                found: format!("{reason}; the kernels kept in the program are for sm_{OLDEST} and newer"),
                remedy: "use a newer GPU or the CPU".into(),
            });
        }
        if !kept::is_current() {
            return Err(Error::Device {
                device: "the kernels kept in the program".into(),
                found: format!("they are not of its sources, and there is {reason}"),
                remedy: format!("with NVRTC, renew them with `{}`", kept::RENEW),
            });
        }
        let compiler = kept::compiler(kept::ptx()).unwrap_or("of an unknown release");
        Ok(Self {
            code: Code::Ptx(kept::ptx().into()),
            origin: Origin::Kept,
            compiler: format!("NVRTC {compiler}"),
            notes: vec![format!("{reason}: the kernels kept in the program are used, which the driver translates")],
        })
    }

    /// What to tell the user of a driver that does not take this program: `error` is what it said, `driver` the version
    /// of CUDA that it is for, (12, 4) for 12.4, where it tells.
    pub fn rejected(&self, driver: Option<(u32, u32)>, error: &str) -> Error {
        let named = driver.map_or_else(String::new, |(major, minor)| format!(", for CUDA {major}.{minor},"));
        let (what, remedy) = match &self.code {
            Code::Ptx(_) => (format!("the kernels as PTX {} ({})", kept::ISA, self.compiler), remedy_for_ptx(driver)),
            Code::Cubin(_) => (format!("the machine code of {}", self.compiler), self.remedy_for_cubin(driver)),
        };
        Error::Device {
            device: "cuda".into(),
            found: format!("the NVIDIA driver{named} does not take {what}: {error}"),
            remedy,
        }
    }

    fn remedy_for_cubin(&self, driver: Option<(u32, u32)>) -> String {
        let major = |version: &str| version.split('.').next()?.parse::<u32>().ok();
        let of_compiler = self.compiler.strip_prefix("NVRTC ").and_then(major);
        match of_compiler.zip(driver) {
            Some((compiler, (driver, _))) if compiler > driver => format!(
                "update the driver to one for CUDA {compiler}, or install NVRTC of CUDA {driver} and name its folder in {}",
                find::VARIABLE
            ),
            _ => "compile the kernels anew with --no-cache; if that does not help, update the driver".into(),
        }
    }
}

fn remedy_for_ptx(driver: Option<(u32, u32)>) -> String {
    match driver.filter(|&driver| driver < OLDEST_CUDA) {
        Some(_) => format!("update the driver to {OLDEST_DRIVER} or newer"),
        None => format!("update the driver, or have NVRTC make machine code: {}", nvrtc::REMEDY),
    }
}

fn number(architecture: &str) -> Result<u32> {
    kernels::number(architecture)
        .ok_or_else(|| Error::usage(architecture, "this is no architecture of a GPU", "give one such as sm_90"))
}

/// Machine code, or why there is none.
enum Made {
    Program(Program),
    Nothing(String),
}

/// What came of an attempt to compile.
enum Outcome {
    Compiled(Entry),
    /// NVRTC cannot, and not for a fault of the kernels.
    Unable(String),
}

fn compile(places: &Places, number: u32, target: &Target) -> Result<Outcome> {
    let made = Nvrtc::open_first(places.search).and_then(|nvrtc| compile_with(&nvrtc, places.source, number, target));
    match made {
        // A library that cannot be used is as good as none.
        Err(Error::Device { found, .. }) => Ok(Outcome::Unable(found)),
        other => other,
    }
}

fn compile_with(nvrtc: &Nvrtc, source: &str, number: u32, target: &Target) -> Result<Outcome> {
    let (major, minor) = nvrtc.version();
    let compiler = format!("NVRTC {major}.{minor}");
    if !nvrtc.architectures()?.contains(&number) {
        return Ok(Outcome::Unable(format!("{compiler} does not compile for {}", target.architecture())));
    }
    let cubin = nvrtc.compile(source, kernels::UNIT, target)?.code;
    Ok(Outcome::Compiled(Entry { cubin, compiler }))
}

fn not_kept(error: &Error) -> String {
    format!("compiled kernels are not kept for the next start: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn load(libraries: &[PathBuf], places: &[&str], architecture: &str) -> Result<Program> {
        let search = Search { libraries: libraries.to_vec(), places: places.iter().map(PathBuf::from).collect() };
        Program::load_from(&Places { source: sources::KERNELS, search: &search, cache: None }, architecture)
    }

    #[track_caller]
    fn check_kept(program: &Program, parts: &[&str]) {
        assert_eq!((program.origin, &program.code), (Origin::Kept, &Code::Ptx(kept::ptx().into())));
        assert!(program.compiler.starts_with("NVRTC 13.0."), "{}", program.compiler);
        let [note] = &program.notes[..] else { panic!("{:?}", program.notes) };
        assert!(note.lines().count() == 1 && note.contains("kept in the program"), "{note}");
        assert!(parts.iter().all(|part| note.contains(part)), "{note}");
    }

    #[test]
    fn without_nvrtc_the_kept_kernels_are_used_and_a_note_says_so() {
        check_kept(&load(&[], &["/one", "/two"], "sm_90").unwrap(), &["no NVRTC found", "pip install"]);
        check_kept(&load(&[], &["/named"], "sm_75").unwrap(), &["no NVRTC in /named"]);
        check_kept(&load(&[], &[], "sm_90a").unwrap(), &["no NVRTC found"]);
    }

    #[test]
    fn a_library_that_cannot_be_used_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libnvrtc.so.13");
        std::fs::write(&file, "not a library").unwrap();
        check_kept(&load(std::slice::from_ref(&file), &["/named"], "sm_90").unwrap(), &[file.to_str().unwrap()]);
    }

    #[test]
    fn what_is_too_old_or_no_architecture_is_an_error() {
        let error = load(&[], &[], "sm_70").unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("sm_75 and newer"), "{error}");
        for wrong in ["", "sm_", "90", "compute_90", "sm_x"] {
            assert_eq!(load(&[], &[], wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_driver_that_refuses_is_explained() {
        let kept = load(&[], &[], "sm_90").unwrap();
        let cubin = Program { code: Code::Cubin(Vec::new()), compiler: "NVRTC 13.0".into(), ..kept.clone() };
        for (program, driver, parts) in [
            (&kept, Some((11, 1)), ["CUDA 11.1, does", "PTX 7.2", "update the driver to 460"]),
            (&kept, Some((11, 2)), ["CUDA 11.2, does", "PTX 7.2", "pip install nvidia-cuda-nvrtc"]),
            (&kept, None, ["the NVIDIA driver does not take", "NVRTC 13.0.88", "pip install nvidia-cuda-nvrtc"]),
            (&cubin, Some((12, 4)), ["machine code of NVRTC 13.0: ", "one for CUDA 13", "NVRTC of CUDA 12"]),
            (&cubin, Some((13, 0)), ["machine code of NVRTC 13.0: ", "--no-cache", "update the driver"]),
            (&cubin, None, ["machine code of NVRTC 13.0: ", "--no-cache", "update the driver"]),
        ] {
            let error = program.rejected(driver, "CUDA_ERROR_SOMETHING");
            let text = error.to_string();
            assert_eq!(error.exit_code(), 4);
            assert!(parts.iter().all(|part| text.contains(part)), "{driver:?} {text}");
            assert!(text.contains("CUDA_ERROR_SOMETHING") && text.lines().count() == 1, "{text}");
        }
    }
}
