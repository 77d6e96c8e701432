//! NVIDIA's run-time compiler, opened when it is needed. It compiles for any architecture with no GPU and no driver.

#![allow(unsafe_code)]

use super::find::{self, Search};
use crate::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

type Program = *mut c_void;
type Status = c_int;

const SUCCESS: Status = 0;
const BUILTIN_OPERATION_FAILURE: Status = 7;

/// What to do where there is no NVRTC.
pub(super) const REMEDY: &str = "install it with `pip install nvidia-cuda-nvrtc==13.0.88` or a CUDA toolkit of version 12 or 13, or \
                      name its folder in FUSED_LSTM_NVRTC";

/// Declares the functions that are used of the library, and reads their addresses.
macro_rules! functions {
    ($($field:ident: $name:literal, fn($($argument:ty),*) -> $result:ty;)*) => {
        #[derive(Clone, Copy)]
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: these are NVRTC's functions with the types that its documentation gives them, unchanged since
                // version 11.2, the first that makes cubins. Whoever gets the addresses never unloads the library.
                unsafe { Ok(Self { $($field: *library.get($name)?,)* }) }
            }
        }
    };
}

functions! {
    version: b"nvrtcVersion\0", fn(*mut c_int, *mut c_int) -> Status;
    error_string: b"nvrtcGetErrorString\0", fn(Status) -> *const c_char;
    number_of_architectures: b"nvrtcGetNumSupportedArchs\0", fn(*mut c_int) -> Status;
    architectures: b"nvrtcGetSupportedArchs\0", fn(*mut c_int) -> Status;
    create: b"nvrtcCreateProgram\0",
        fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Status;
    destroy: b"nvrtcDestroyProgram\0", fn(*mut Program) -> Status;
    compile: b"nvrtcCompileProgram\0", fn(Program, c_int, *const *const c_char) -> Status;
    log_size: b"nvrtcGetProgramLogSize\0", fn(Program, *mut usize) -> Status;
    log: b"nvrtcGetProgramLog\0", fn(Program, *mut c_char) -> Status;
    ptx_size: b"nvrtcGetPTXSize\0", fn(Program, *mut usize) -> Status;
    ptx: b"nvrtcGetPTX\0", fn(Program, *mut c_char) -> Status;
    cubin_size: b"nvrtcGetCUBINSize\0", fn(Program, *mut usize) -> Status;
    cubin: b"nvrtcGetCUBIN\0", fn(Program, *mut c_char) -> Status;
}

/// What to compile for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code of one architecture, by its name: `sm_90`.
    Cubin(String),
    /// PTX, which a driver translates for that architecture or any newer one: `compute_90`.
    Ptx(String),
}

impl Target {
    /// The architecture as the compiler is told it.
    pub fn architecture(&self) -> &str {
        match self {
            Self::Cubin(architecture) | Self::Ptx(architecture) => architecture,
        }
    }

    /// Every option of the compiler.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture={}", self.architecture())];
        options.extend(["--std=c++17", "-lineinfo"].map(String::from));
        if matches!(self, Self::Cubin(_)) {
            options.push("--ptxas-options=-v".into());
        }
        options
    }
}

/// What the compiler made.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// A cubin, or the text of PTX without its final NUL.
    pub code: Vec<u8>,
    /// What the compiler said; for a cubin the resources of each kernel are in it.
    pub log: String,
}

/// The compiler's library, open.
pub struct Nvrtc {
    functions: Functions,
    /// The library's file.
    path: PathBuf,
    version: (u32, u32),
}

impl Nvrtc {
    /// Finds the library, as [`find::search`] does, and opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] that lists the places looked at, where there is none that can be used.
    pub fn open() -> Result<Self> {
        Self::open_first(&find::search())
    }

    /// Opens the first usable library that a search found.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] that lists the places looked at.
    pub fn open_first(search: &Search) -> Result<Self> {
        let mut failures = String::new();
        for library in &search.libraries {
            match Self::open_file(library) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(found) => failures += &format!("; {found}"),
            }
        }
        let places: Vec<_> = search.places.iter().map(|place| place.display().to_string()).collect();
        Err(device_error(format!("no usable library libnvrtc.so in {}{failures}", places.join(", "))))
    }

    fn open_file(path: &Path) -> Result<Self, String> {
        let folder = path.parent().unwrap_or(Path::new("."));
        // NVRTC asks for this second library by name when it compiles; once open, it is found wherever it lies.
        let builtins = find::libraries(folder, "libnvrtc-builtins.so");
        builtins.iter().for_each(|file| drop(open_for_good(file)));
        let library = open_for_good(path)?;
        let told = |e: libloading::Error| format!("{}: {e}", path.display());
        let functions = Functions::of(library).map_err(told)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the function writes two ints, which outlive the call.
        let status = unsafe { (functions.version)(&mut major, &mut minor) };
        match (status, u32::try_from(major), u32::try_from(minor)) {
            (SUCCESS, Ok(major), Ok(minor)) => {
                Ok(Self { functions, path: path.to_path_buf(), version: (major, minor) })
            }
            _ => Err(format!("{}: it does not tell its version", path.display())),
        }
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's version, `(13, 0)` for CUDA 13.0.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The architectures that it compiles for, rising: 75 stands for `sm_75`.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if the library does not tell.
    pub fn architectures(&self) -> Result<Vec<u32>> {
        let mut count = 0;
        // SAFETY: the function writes one int.
        self.check("count its architectures", unsafe { (self.functions.number_of_architectures)(&mut count) })?;
        let mut architectures: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the function writes as many ints as it has just said, and the vector has that many.
        self.check("list its architectures", unsafe { (self.functions.architectures)(architectures.as_mut_ptr()) })?;
        Ok(architectures.into_iter().filter_map(|a| u32::try_from(a).ok()).collect())
    }

    /// Compiles `source`; `name` stands in messages for text before its first `#line` mark.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the compiler's log if `source` is wrong; [`Error::Device`] if the library itself fails.
    pub fn compile(&self, source: &str, name: &str, target: &Target) -> Result<Compiled> {
        let program = Open::new(self, source, name)?;
        let options: Vec<CString> =
            target.options().into_iter().map(|option| c_string(&option)).collect::<Result<_>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program is open; the pointers are to as many NUL-terminated strings as is said, which outlive the call.
        let status = unsafe { (self.functions.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        let log = text(program.bytes("read its log", self.functions.log_size, self.functions.log)?);
        match status {
            SUCCESS => {}
            BUILTIN_OPERATION_FAILURE => {
                return Err(device_error(format!("{} cannot compile: {}", self.path.display(), one_line(&log))));
            }
            _ => return Err(self.rejected(target, status, &log)),
        }
        let functions = &self.functions;
        let code = match target {
            Target::Cubin(_) => program.bytes("give the cubin", functions.cubin_size, functions.cubin)?,
            Target::Ptx(_) => text(program.bytes("give the PTX", functions.ptx_size, functions.ptx)?).into_bytes(),
        };
        Ok(Compiled { code, log })
    }

    fn rejected(&self, target: &Target, status: Status, log: &str) -> Error {
        let (major, minor) = self.version;
        let reason = self.describe(status);
        let architecture = target.architecture();
        Error::Failed(format!(
            "NVRTC {major}.{minor} cannot compile for {architecture} ({reason}):\n{}",
            log.trim_end()
        ))
    }

    fn check(&self, action: &str, status: Status) -> Result<()> {
        match status {
            SUCCESS => Ok(()),
            _ => Err(device_error(format!("{} cannot {action}: {}", self.path.display(), self.describe(status)))),
        }
    }

    fn describe(&self, status: Status) -> String {
        // SAFETY: the function takes any number and gives a NUL-terminated string that lives as long as the library.
        unsafe { CStr::from_ptr((self.functions.error_string)(status)) }.to_string_lossy().into_owned()
    }
}

/// Opens a library that stays open as long as the process: addresses taken from it never dangle.
fn open_for_good(path: &Path) -> Result<&'static Library, String> {
    // SAFETY: opening runs the library's initialisers. It is NVIDIA's, or what the user put in its place; its own needs are
    // those of any program that links it.
    let library = unsafe { Library::new(path) }.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Box::leak(Box::new(library)))
}

/// A program that the library holds; destroyed when dropped.
struct Open<'a> {
    nvrtc: &'a Nvrtc,
    handle: Program,
}

impl<'a> Open<'a> {
    fn new(nvrtc: &'a Nvrtc, source: &str, name: &str) -> Result<Self> {
        let (source, name) = (c_string(source)?, c_string(name)?);
        let mut handle = ptr::null_mut();
        // SAFETY: both strings end in NUL and outlive the call, which copies them; there are no headers, so their arrays are
        // not read; the handle is written.
        let status = unsafe {
            (nvrtc.functions.create)(&mut handle, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null())
        };
        nvrtc.check("take a program", status)?;
        Ok(Self { nvrtc, handle })
    }

    /// Bytes that the library gives after their number.
    fn bytes(
        &self,
        action: &str,
        size_of: unsafe extern "C" fn(Program, *mut usize) -> Status,
        read: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program is open, the size is written.
        self.nvrtc.check(action, unsafe { size_of(self.handle, &mut size) })?;
        let mut bytes = vec![0u8; size];
        if size > 0 {
            // SAFETY: the function writes as many bytes as it has just said, and the vector has that many.
            self.nvrtc.check(action, unsafe { read(self.handle, bytes.as_mut_ptr().cast()) })?;
        }
        Ok(bytes)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // SAFETY: the program is open and nobody uses it after this. There is nobody to tell of a failure.
        unsafe { (self.nvrtc.functions.destroy)(&mut self.handle) };
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Failed("a text for the CUDA compiler has a NUL character in it".into()))
}

/// Text that may end in NUL.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

fn device_error(found: String) -> Error {
    Error::Device { device: "NVRTC, the CUDA compiler".into(), found, remedy: REMEDY.into() }
}
