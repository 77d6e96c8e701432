//! A stand-in for NVIDIA's driver, libcuda: just the calls that the program makes, on memory of this process.
//!
//! `tests/driver.rs` compiles it and puts it where the program finds it instead of a driver. Kernels are not run: what they
//! would write stays zero. Everything else is held to the driver's rules (a context is current, memory is there and large
//! enough, nothing but launches while a stream records), and each call is written down, a line each, in the file that
//! STUB_CUDA_LOG names: the call, what it was about, and ` = ` its result if that is not 0.
//!
//! STUB_CUDA sets what kind of driver this is: words such as `version=11030` (see [`Settings`]), or `CALL@N=CODE`, by
//! which the Nth and all later of these calls give that error.

#![allow(non_snake_case, clippy::missing_safety_doc, reason = "the names and the contracts are NVIDIA's")]
#![allow(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, reason = "all of it is one foreign interface")]
// SAFETY of every `unsafe fn` here: the caller gives what the driver's documentation asks for, so pointers that a call
// writes through are valid, and what it reads from is as long as it says. Device addresses are numbers that are looked up
// in a table, never pointers.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};

type Handle = *mut c_void;
type Outcome = Result<String, c_int>;

const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NOT_INITIALIZED: c_int = 3;
const NO_DEVICE: c_int = 100;
const INVALID_DEVICE: c_int = 101;
const INVALID_CONTEXT: c_int = 201;
const INVALID_HANDLE: c_int = 400;
const NOT_FOUND: c_int = 500;
const ILLEGAL_ADDRESS: c_int = 700;
const LAUNCH_FAILED: c_int = 719;
const STREAM_CAPTURE_UNSUPPORTED: c_int = 900;

/// Errors after which a context can do nothing any more.
const LASTING: [c_int; 2] = [ILLEGAL_ADDRESS, LAUNCH_FAILED];

/// Name and text of the errors that the tests ask for.
const ERRORS: [(c_int, &CStr, &CStr); 15] = [
    (INVALID_VALUE, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (NOT_INITIALIZED, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"CUDA-capable device(s) is/are busy or unavailable"),
    (NO_DEVICE, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
    (INVALID_DEVICE, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
    (INVALID_CONTEXT, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the provided PTX was compiled with an unsupported toolchain."),
    (NOT_FOUND, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (ILLEGAL_ADDRESS, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch"),
    (LAUNCH_FAILED, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"system has unsupported display driver / cuda driver combination"),
    (STREAM_CAPTURE_UNSUPPORTED, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
];

/// What kind of driver this is.
struct Settings {
    version: c_int,
    devices: c_int,
    /// 90 for 9.0
    capability: c_int,
    /// Bytes that can still be allocated, as the driver tells it.
    free: usize,
    /// Whether memory can be allocated in the order of a stream.
    pools: c_int,
    /// What machine code and PTX are refused with; 0 to take them.
    cubin: c_int,
    ptx: c_int,
    /// Call, from which one on, and the error.
    failures: Vec<(String, u64, c_int)>,
}

impl Settings {
    fn read() -> Self {
        let mut settings = Self {
            version: 13_000,
            devices: 1,
            capability: 90,
            free: 79 << 30,
            pools: 1,
            cubin: 0,
            ptx: 0,
            failures: Vec::new(),
        };
        for word in std::env::var("STUB_CUDA").unwrap_or_default().split_whitespace() {
            let (name, value) = word.split_once('=').expect("NAME=NUMBER");
            let number = || value.parse().expect("a number");
            match name {
                "version" => settings.version = number(),
                "devices" => settings.devices = number(),
                "capability" => settings.capability = number(),
                "free" => settings.free = value.parse().expect("bytes"),
                "pools" => settings.pools = number(),
                "cubin" => settings.cubin = number(),
                "ptx" => settings.ptx = number(),
                _ => {
                    let (call, nth) = name.split_once('@').expect("CALL@N");
                    settings.failures.push((call.into(), nth.parse().expect("which call"), number()));
                }
            }
        }
        settings
    }
}

/// A kernel: its name, and the size and form of its arguments, if they are known.
struct Function {
    name: String,
    params: Option<Vec<String>>,
}

struct Driver {
    settings: Settings,
    log: Option<File>,
    calls: HashMap<&'static str, u64>,
    lasting: c_int,
    initialized: bool,
    retained: HashMap<c_int, u32>,
    memory: BTreeMap<u64, Vec<u8>>,
    next_address: u64,
    /// Every module is the last one loaded.
    ptx: Option<String>,
    functions: Vec<Function>,
    /// Addresses that the launches use which are being recorded, launch by launch.
    recording: Option<Vec<Vec<u64>>>,
    /// The same of each graph.
    graphs: Vec<Vec<Vec<u64>>>,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| {
    let log = std::env::var_os("STUB_CUDA_LOG")
        .map(|path| OpenOptions::new().create(true).append(true).open(path).expect("a place for the log"));
    Mutex::new(Driver {
        settings: Settings::read(),
        log,
        calls: HashMap::new(),
        lasting: 0,
        initialized: false,
        retained: HashMap::new(),
        memory: BTreeMap::new(),
        next_address: 0x7000_0000_0000,
        ptx: None,
        functions: Vec::new(),
        recording: None,
        graphs: Vec::new(),
    })
});

thread_local! {
    /// Device whose context is current, from 1; 0 for none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Does what the call does, unless it is to fail, and writes it down.
fn call(name: &'static str, work: impl FnOnce(&mut Driver) -> Outcome) -> c_int {
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = &mut *driver;
    let count = driver.calls.entry(name).or_default();
    *count += 1;
    let count = *count;
    let failure = driver.settings.failures.iter().find(|(call, nth, _)| call == name && count >= *nth);
    let outcome = match failure {
        Some((_, _, code)) => Err(*code),
        None if driver.lasting != 0 => Err(driver.lasting),
        None => work(driver),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, 0),
        Err(code) => (format!(" = {code}"), code),
    };
    if LASTING.contains(&code) {
        driver.lasting = code;
    }
    if let Some(log) = &mut driver.log {
        // In one piece: a process that dies leaves whole lines.
        log.write_all(format!("{name}{text}\n").as_bytes()).expect("the log can be written to");
    }
    code
}

impl Driver {
    /// The call needs a context.
    fn context(&self) -> Result<(), c_int> {
        if CURRENT.get() == 0 || self.retained.is_empty() { Err(INVALID_CONTEXT) } else { Ok(()) }
    }

    /// The call waits for the stream or goes around it, which cannot be recorded.
    fn at_once(&self) -> Result<(), c_int> {
        self.context()?;
        if self.recording.is_some() { Err(STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    fn device(&self, device: c_int) -> Result<(), c_int> {
        match device {
            _ if !self.initialized => Err(NOT_INITIALIZED),
            device if (0..self.settings.devices).contains(&device) => Ok(()),
            _ => Err(INVALID_DEVICE),
        }
    }

    /// `bytes` of memory from `address` on, which one allocation must hold.
    fn place(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], c_int> {
        let (start, memory) = self.memory.range_mut(..=address).next_back().ok_or(INVALID_VALUE)?;
        let offset = (address - start) as usize;
        memory.get_mut(offset..offset + bytes).ok_or(INVALID_VALUE)
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, c_int> {
        let in_use: usize = self.memory.values().map(Vec::len).sum();
        match bytes {
            0 => Err(INVALID_VALUE),
            _ if bytes > self.settings.free.saturating_sub(in_use) => Err(OUT_OF_MEMORY),
            _ => {
                let address = self.next_address;
                // A gap after each: whoever goes beyond the end finds nothing.
                self.next_address += (bytes as u64).next_multiple_of(512) + 512;
                self.memory.insert(address, vec![0; bytes]);
                Ok(address)
            }
        }
    }

    /// What a graph holds.
    fn graph(&self, graph: Handle) -> Result<&Vec<Vec<u64>>, c_int> {
        self.graphs.get(graph.addr().wrapping_sub(1)).ok_or(INVALID_HANDLE)
    }

    /// The form of each argument of `name`, as the PTX declares it: `.u64`, `.f32`.
    fn params(&self, name: &str) -> Result<Option<Vec<String>>, c_int> {
        let Some(ptx) = &self.ptx else { return Ok(None) };
        let (_, rest) = ptx.split_once(&format!(".entry {name}(")).ok_or(NOT_FOUND)?;
        let (list, _) = rest.split_once(')').ok_or(NOT_FOUND)?;
        let form = |param: &str| param.split_whitespace().nth(1).unwrap_or_default().to_owned();
        Ok(Some(list.split(',').filter(|param| !param.trim().is_empty()).map(form).collect()))
    }
}

fn handle(number: usize) -> Handle {
    ptr::without_provenance_mut(number)
}

const NOTHING: fn() -> Outcome = || Ok(String::new());

// ---- the driver, its devices, their contexts ----

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> c_int {
    error_text(code, text, "cuGetErrorName", |(_, name, _)| name)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> c_int {
    error_text(code, text, "cuGetErrorString", |(_, _, text)| text)
}

type ErrorText = (c_int, &'static CStr, &'static CStr);

unsafe fn error_text(
    code: c_int,
    text: *mut *const c_char,
    name: &'static str,
    which: fn(ErrorText) -> &'static CStr,
) -> c_int {
    // Works whatever happened before.
    let lasting = std::mem::take(&mut DRIVER.lock().unwrap_or_else(PoisonError::into_inner).lasting);
    let result = call(name, |_| {
        let found = ERRORS.into_iter().find(|error| error.0 == code).ok_or(INVALID_VALUE)?;
        *text = which(found).as_ptr();
        Ok(format!(" {code}"))
    });
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner).lasting = lasting;
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    call("cuDriverGetVersion", |driver| {
        *version = driver.settings.version;
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(_flags: c_uint) -> c_int {
    call("cuInit", |driver| {
        if driver.settings.devices == 0 {
            return Err(NO_DEVICE);
        }
        driver.initialized = true;
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    call("cuDeviceGetCount", |driver| {
        driver.device(0)?;
        *count = driver.settings.devices;
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    call("cuDeviceGet", |driver| {
        driver.device(ordinal)?;
        *device = ordinal;
        Ok(format!(" {ordinal}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_int {
    call("cuDeviceGetName", |driver| {
        driver.device(device)?;
        let text = format!("Stub GPU {device}\0");
        let count = text.len().min(length as usize);
        ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), count);
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    call("cuDeviceGetAttribute", |driver| {
        driver.device(device)?;
        *value = match attribute {
            16 => 132,
            75 => driver.settings.capability / 10,
            76 => driver.settings.capability % 10,
            97 => 227 * 1024,
            115 => driver.settings.pools,
            // No other is asked for so far: one that is should be added with a value that makes sense.
            _ => return Err(INVALID_VALUE),
        };
        Ok(format!(" {attribute}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    call("cuDeviceTotalMem_v2", |driver| {
        driver.device(device)?;
        *bytes = 80 << 30;
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) -> c_int {
    call("cuDevicePrimaryCtxRetain", |driver| {
        driver.device(device)?;
        *driver.retained.entry(device).or_default() += 1;
        *context = handle(device as usize + 1);
        Ok(format!(" {device}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    call("cuDevicePrimaryCtxRelease_v2", |driver| {
        let count = driver.retained.get_mut(&device).ok_or(INVALID_CONTEXT)?;
        *count -= 1;
        if *count == 0 {
            driver.retained.remove(&device);
        }
        Ok(format!(" {device}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> c_int {
    call("cuCtxGetCurrent", |_| {
        *context = handle(CURRENT.get());
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: Handle) -> c_int {
    call("cuCtxSetCurrent", |_| {
        CURRENT.set(context.addr());
        NOTHING()
    })
}

/// Like the next, only for who has each use of memory tracked by events, which the program should not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> c_int {
    call("cuCtxSynchronize", |driver| driver.at_once().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(_stream: Handle, _event: Handle, _flags: c_uint) -> c_int {
    call("cuStreamWaitEvent", |driver| driver.context().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    call("cuMemGetInfo_v2", |driver| {
        driver.context()?;
        let in_use: usize = driver.memory.values().map(Vec::len).sum();
        *free = driver.settings.free.saturating_sub(in_use);
        *total = 80 << 30;
        NOTHING()
    })
}

/// NVRTC asks for a table that is no part of the documented interface, where there is a driver, and does without it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(table: *mut *const usize, _id: *const c_void) -> c_int {
    /// Bytes of a table, itself the first entry: there is no other.
    static EMPTY: usize = size_of::<usize>();
    *table = &EMPTY;
    NOT_FOUND
}

// ---- streams and events ----

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> c_int {
    call("cuStreamCreate", |driver| {
        driver.context()?;
        *stream = handle(0x51);
        Ok(format!(" flags {flags}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(_stream: Handle) -> c_int {
    call("cuStreamDestroy_v2", |driver| driver.at_once().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(_stream: Handle) -> c_int {
    call("cuStreamSynchronize", |driver| driver.at_once().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> c_int {
    call("cuEventCreate", |driver| {
        driver.context()?;
        *event = handle(0xE1);
        Ok(format!(" flags {flags}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(_event: Handle, _stream: Handle) -> c_int {
    call("cuEventRecord", |driver| driver.context().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(_event: Handle) -> c_int {
    call("cuEventSynchronize", |driver| driver.at_once().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, _start: Handle, _end: Handle) -> c_int {
    call("cuEventElapsedTime", |driver| {
        driver.context()?;
        *ms = 0.25;
        NOTHING()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(_event: Handle) -> c_int {
    call("cuEventDestroy_v2", |driver| driver.context().and_then(|()| NOTHING()))
}

// ---- memory ----

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: Handle) -> c_int {
    call("cuMemAllocAsync", |driver| {
        driver.at_once()?;
        *address = driver.allocate(bytes)?;
        Ok(format!(" {:x} {bytes}", *address))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    call("cuMemAlloc_v2", |driver| {
        driver.at_once()?;
        *address = driver.allocate(bytes)?;
        Ok(format!(" {:x} {bytes}", *address))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: u64, _stream: Handle) -> c_int {
    call("cuMemFreeAsync", |driver| {
        driver.at_once()?;
        driver.memory.remove(&address).ok_or(INVALID_VALUE)?;
        Ok(format!(" {address:x}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    call("cuMemFree_v2", |driver| {
        driver.at_once()?;
        driver.memory.remove(&address).ok_or(INVALID_VALUE)?;
        Ok(format!(" {address:x}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(address: u64, value: u8, bytes: usize, _stream: Handle) -> c_int {
    call("cuMemsetD8Async", |driver| {
        driver.at_once()?;
        driver.place(address, bytes)?.fill(value);
        Ok(format!(" {address:x} {bytes}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, _stream: Handle) -> c_int {
    call("cuMemcpyHtoDAsync_v2", |driver| {
        driver.at_once()?;
        ptr::copy_nonoverlapping(from.cast(), driver.place(to, bytes)?.as_mut_ptr(), bytes);
        Ok(format!(" {to:x} {bytes}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, _stream: Handle) -> c_int {
    call("cuMemcpyDtoHAsync_v2", |driver| {
        driver.at_once()?;
        ptr::copy_nonoverlapping(driver.place(from, bytes)?.as_ptr(), to.cast(), bytes);
        Ok(format!(" {from:x} {bytes}"))
    })
}

// ---- kernels ----

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> c_int {
    call("cuModuleLoadData", |driver| {
        driver.at_once()?;
        let is_cubin = *image.cast::<[u8; 4]>() == *b"\x7fELF";
        let (kind, refused) =
            if is_cubin { ("cubin", driver.settings.cubin) } else { ("ptx", driver.settings.ptx) };
        if refused != 0 {
            return Err(refused);
        }
        driver.ptx = (!is_cubin).then(|| CStr::from_ptr(image.cast()).to_string_lossy().into_owned());
        *module = handle(0x31);
        Ok(format!(" {kind}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(_module: Handle) -> c_int {
    call("cuModuleUnload", |driver| driver.at_once().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut Handle, _module: Handle, name: *const c_char) -> c_int {
    call("cuModuleGetFunction", |driver| {
        driver.context()?;
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let params = driver.params(&name)?;
        let text = format!(" {name}");
        driver.functions.push(Function { name, params });
        *function = handle(driver.functions.len());
        Ok(text)
    })
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    x: c_uint,
    y: c_uint,
    z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    _stream: Handle,
    params: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    call("cuLaunchKernel", |driver| {
        driver.context()?;
        let function = driver.functions.get(function.addr().wrapping_sub(1)).ok_or(INVALID_HANDLE)?;
        let text = format!(" {} {x},{y},{z} {block_x},{block_y},{block_z} {shared}", function.name);
        let forms = function.params.clone();
        Ok(text + &launched(driver, forms, params)?)
    })
}

/// Holds the arguments of a launch to their forms, as far as these are known, and records it; the arguments for the log.
unsafe fn launched(driver: &mut Driver, forms: Option<Vec<String>>, params: *mut *mut c_void) -> Outcome {
    let (mut text, mut addresses) = (String::new(), Vec::new());
    for (index, form) in forms.iter().flatten().enumerate() {
        let param = *params.add(index);
        if form == ".u64" {
            addresses.push(*param.cast::<u64>());
            text += &format!(" address:{:x}", *param.cast::<u64>());
        } else {
            text += &format!(" {}:{:x}", &form[1..], *param.cast::<u32>());
        }
    }
    // 0 is an argument that is left out.
    addresses.retain(|address| *address != 0);
    for address in &addresses {
        driver.place(*address, 1).map_err(|_| ILLEGAL_ADDRESS)?;
    }
    if let Some(recording) = &mut driver.recording {
        recording.push(addresses);
    }
    Ok(text)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> c_int {
    call("cuFuncSetAttribute", |driver| {
        let function = driver.functions.get(function.addr().wrapping_sub(1)).ok_or(INVALID_HANDLE)?;
        Ok(format!(" {} {attribute} {value}", function.name))
    })
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: Handle,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

/// `CUlaunchAttribute`: of a cluster's size (4) three numbers count, of a dependent launch (6) the first.
#[repr(C)]
pub struct LaunchAttribute {
    id: c_uint,
    pad: [u8; 4],
    value: [c_uint; 16],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: Handle,
    params: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    call("cuLaunchKernelEx", |driver| {
        driver.context()?;
        let function = driver.functions.get(function.addr().wrapping_sub(1)).ok_or(INVALID_HANDLE)?;
        let LaunchConfig { grid: [x, y, z], block: [bx, by, bz], shared, attributes, count, .. } = &*config;
        let mut text = format!(" {} {x},{y},{z} {bx},{by},{bz} {shared}", function.name);
        for LaunchAttribute { id, value: [a, b, c, ..], .. } in std::slice::from_raw_parts(*attributes, *count as usize) {
            text += &format!(" {id}={a},{b},{c}");
        }
        let forms = function.params.clone();
        Ok(text + &launched(driver, forms, params)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(_stream: Handle, mode: c_uint) -> c_int {
    call("cuStreamBeginCapture_v2", |driver| {
        driver.at_once()?;
        driver.recording = Some(Vec::new());
        Ok(format!(" mode {mode}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(_stream: Handle, graph: *mut Handle) -> c_int {
    call("cuStreamEndCapture", |driver| {
        driver.context()?;
        let recorded = driver.recording.take().ok_or(INVALID_VALUE)?;
        let text = format!(" {} launches", recorded.len());
        driver.graphs.push(recorded);
        *graph = handle(driver.graphs.len());
        Ok(text)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> c_int {
    call("cuGraphGetNodes", |driver| {
        if !nodes.is_null() {
            return Err(INVALID_VALUE);
        }
        *count = driver.graph(graph)?.len();
        NOTHING()
    })
}

/// What can be launched has the handle of the graph that it was made of.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, flags: u64) -> c_int {
    call("cuGraphInstantiateWithFlags", |driver| {
        driver.context()?;
        driver.graph(graph)?;
        *exec = graph;
        Ok(format!(" flags {flags}"))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(_exec: Handle, _stream: Handle) -> c_int {
    call("cuGraphUpload", |driver| driver.at_once().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: Handle, _stream: Handle) -> c_int {
    call("cuGraphLaunch", |driver| {
        driver.at_once()?;
        let launches = driver.graph(exec)?.clone();
        for address in launches.iter().flatten() {
            driver.place(*address, 1).map_err(|_| ILLEGAL_ADDRESS)?;
        }
        Ok(format!(" {} launches", launches.len()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(_exec: Handle) -> c_int {
    call("cuGraphExecDestroy", |driver| driver.context().and_then(|()| NOTHING()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(_graph: Handle) -> c_int {
    call("cuGraphDestroy", |driver| driver.context().and_then(|()| NOTHING()))
}
