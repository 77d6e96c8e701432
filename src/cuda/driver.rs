//! A real GPU, through NVIDIA's driver. The library is looked for when it is needed: a machine without one gets an error.

#![allow(unsafe_code)]

use super::device::{Arg, Device, Launch, Limits};
use super::program::{Code, Origin, Program};
use super::sources;
use super::specialized::Specialized;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
    result,
};
use cudarc::nvrtc::Ptx;
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;

/// The oldest driver whose calls are all used here know, as `cuDriverGetVersion` counts: CUDA 11.4.
const OLDEST_DRIVER: i32 = 11_040;
/// The oldest driver that records dependent launches, likewise: CUDA 12.3.
const OLDEST_WITH_DEPENDENT_LAUNCHES: u32 = 12_030;
/// The oldest GPUs that NVRTC 13 compiles for: Turing.
const OLDEST_CAPABILITY: (u32, u32) = (7, 5);

/// The driver's library, as NVIDIA installs it.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Dynamic shared memory that a block may have without asking for more, in bytes.
const UNASKED_SHARED: u32 = 48 * 1024;

/// What to do where no GPU can be used.
const NO_GPU: &str = "use --device cpu, or install NVIDIA's driver";
const KNOWS_NO_GPU: &str = "the driver is there, but it knows no GPU";

/// Every call of the driver that is made here: one that is not there must be told before, for cudarc panics at it. The
/// youngest, `cuGraphInstantiateWithFlags`, came with CUDA 11.4.
pub const CALLS: [&str; 41] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphGetNodes",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// A GPU that the driver knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its number: N of `cuda:N`.
    pub ordinal: usize,
    /// As NVIDIA calls it.
    pub name: String,
    /// Compute capability: (9, 0) of `sm_90`.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes.
    pub memory: u64,
}

impl Gpu {
    /// `sm_90`
    pub fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }

    /// Whether the kernels can be compiled for it.
    pub fn is_new_enough(&self) -> bool {
        self.capability >= OLDEST_CAPABILITY
    }
}

/// Whether the driver's library can be opened.
pub fn is_there() -> bool {
    // SAFETY: opens the library and looks for nothing in it.
    unsafe { sys::is_culib_present() }
}

/// Whether an error of [`gpus`] says that the driver works and knows no GPU.
pub fn knows_no_gpu(error: &Error) -> bool {
    matches!(error, Error::Device { found, .. } if found == KNOWS_NO_GPU)
}

/// The driver's version, as `cuDriverGetVersion` counts: 13000 of CUDA 13.0.
///
/// # Errors
///
/// [`Error::Device`] if there is no driver or it is older than anything this program can use.
pub fn version() -> Result<u32> {
    // SAFETY: opens the library and looks for nothing in it.
    if !unsafe { sys::is_culib_present() } {
        return Err(no_gpu("cuda", without_library(), NO_GPU));
    }
    let missing = CALLS.into_iter().filter(|call| !has(call)).collect::<Vec<_>>();
    if missing.iter().any(|call| ["cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"].contains(call)) {
        return Err(incomplete(missing[0]));
    }
    let mut version = 0;
    // SAFETY: the library and the call are there; the call writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| failed("cuda", "ask for the version", e))?;
    if version < OLDEST_DRIVER {
        return Err(no_gpu("cuda", format!("the driver is for CUDA {}, too old", dotted(version as u32)), newer()));
    }
    match missing.first() {
        Some(call) => Err(incomplete(call)),
        None => Ok(version as u32),
    }
}

/// Whether the driver's library, which must be there, has this call.
fn has(call: &str) -> bool {
    // SAFETY: the symbol is looked for and not used.
    unsafe { sys::culib().get::<*const ()>(call.as_bytes()) }.is_ok()
}

fn incomplete(call: &str) -> Error {
    no_gpu("cuda", format!("the driver has no {call}: it is too old, or not NVIDIA's"), newer())
}

fn newer() -> String {
    format!("install one for CUDA {} or newer, or use --device cpu", dotted(OLDEST_DRIVER as u32))
}

/// What is wrong where there is no library: containers often have an empty file in its place.
fn without_library() -> String {
    // SAFETY: opens the library and looks for nothing in it.
    let error = unsafe { libloading::Library::new(LIBRARY) }.err();
    // What the system says stands behind what libloading says.
    match error.as_ref().and_then(|error| std::error::Error::source(error)).map(|error| error.to_string()) {
        Some(error) if !(error.contains(LIBRARY) && error.contains("No such file")) => {
            format!("the NVIDIA driver cannot be opened: {}", error.lines().next().unwrap_or_default())
        }
        _ => "there is no NVIDIA driver: libcuda was not found".into(),
    }
}

/// (13, 0) of 13000.
pub fn pair(version: u32) -> (u32, u32) {
    (version / 1000, version % 1000 / 10)
}

/// `13.0` of 13000.
pub fn dotted(version: u32) -> String {
    let (major, minor) = pair(version);
    format!("{major}.{minor}")
}

/// All GPUs that the driver knows.
///
/// # Errors
///
/// [`Error::Device`] if there is no usable driver or no GPU.
pub fn gpus() -> Result<Vec<Gpu>> {
    version()?;
    let none = |error: DriverError| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            no_gpu("cuda", KNOWS_NO_GPU, "use --device cpu, or run nvidia-smi to see why")
        }
        _ => failed("cuda", "start the driver", error),
    };
    result::init().map_err(none)?;
    let count = result::device::get_count().map_err(none)?;
    if count == 0 {
        return Err(none(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)));
    }
    (0..count as usize).map(|ordinal| gpu(ordinal).map_err(|e| failed(&named(ordinal), "look at the GPU", e))).collect()
}

fn gpu(ordinal: usize) -> Result<Gpu, DriverError> {
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: `device` came from the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map(|value| value.max(0) as u32);
    Ok(Gpu {
        ordinal,
        name: result::device::get_name(device)?,
        capability: (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: likewise.
        memory: unsafe { result::device::total_mem(device) }? as u64,
    })
}

fn named(ordinal: usize) -> String {
    format!("cuda:{ordinal}")
}

fn no_gpu(device: &str, found: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Device { device: device.into(), found: found.into(), remedy: remedy.into() }
}

/// The driver's refusal to do something.
fn failed(device: &str, action: &str, error: DriverError) -> Error {
    let remedy = match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "give a smaller batch or model, or free the GPU's memory",
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "restart the machine: the driver's library and its kernel module have different versions"
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "wait until the other program has left the GPU, or use --device cpu",
        _ => "run `fused-lstm doctor`; --device cpu needs no GPU",
    };
    no_gpu(device, format!("cannot {action}: {}", told(error)), remedy)
}

/// What the driver said: `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
fn told(error: DriverError) -> String {
    let text = |name: Result<&CStr, DriverError>| name.map(|name| name.to_string_lossy().into_owned());
    let name = text(error.error_name()).unwrap_or_else(|_| format!("code {}", error.0 as u32));
    format!("{name} ({})", text(error.error_string()).as_deref().unwrap_or("which the driver does not explain"))
}

/// Hands the kernels to the driver. One that is too old for machine code of this NVRTC gets the kept PTX instead.
fn load(context: &Arc<CudaContext>, gpu: &Gpu, program: Program) -> Result<(Arc<CudaModule>, Program)> {
    let image = |code: &Code| match code {
        Code::Cubin(cubin) => Ptx::from_binary(cubin.clone()),
        Code::Ptx(ptx) => Ptx::from_src(ptx.clone()),
    };
    let error = match context.load_module(image(&program.code)) {
        Ok(module) => return Ok((module, program)),
        Err(error) if !is_rejection(error) => return Err(failed(&named(gpu.ordinal), "load the kernels", error)),
        Err(error) => error,
    };
    let rejected = || program.rejected(version().ok().map(pair), &told(error));
    if matches!(program.code, Code::Ptx(_)) {
        return Err(rejected());
    }
    let (major, minor) = gpu.capability;
    let reason = format!("the driver does not take the machine code of {} ({})", program.compiler, told(error));
    let kept = Program::kept(major * 10 + minor, &reason).map_err(|_| rejected())?;
    match context.load_module(image(&kept.code)) {
        Ok(module) => Ok((module, kept)),
        Err(_) => Err(rejected()),
    }
}

/// Whether the driver says that the code is not for it: another may be.
fn is_rejection(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED
            | CUresult::CUDA_ERROR_INVALID_SOURCE
    )
}

/// Looks for kernels of a module by their names.
fn find_functions(
    functions: &mut HashMap<&'static str, CudaFunction>,
    module: &Arc<CudaModule>,
    names: &[&'static str],
    device: &str,
) -> Result<()> {
    for &name in names {
        let function = module.load_function(name).map_err(|e| failed(device, &format!("find kernel {name}"), e))?;
        functions.insert(name, function);
    }
    Ok(())
}

/// Of a launch: its blocks are in clusters of so many.
fn in_clusters([x, y, z]: [u32; 3]) -> sys::CUlaunchAttribute {
    let mut value = no_value();
    value.clusterDim.x = x;
    value.clusterDim.y = y;
    value.clusterDim.z = z;
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    sys::CUlaunchAttribute { id, pad: Default::default(), value }
}

/// Of a launch: it may start before the launch before it has ended.
fn dependent() -> sys::CUlaunchAttribute {
    let mut value = no_value();
    value.programmaticStreamSerializationAllowed = 1;
    let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    sys::CUlaunchAttribute { id, pad: Default::default(), value }
}

fn no_value() -> sys::CUlaunchAttributeValue {
    // SAFETY: a union of plain numbers, of which zeros are values.
    unsafe { std::mem::zeroed() }
}

/// A real GPU.
pub struct Driver {
    gpu: Gpu,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    /// In place of the GPU's own.
    limits: Option<Limits>,
    /// Whether GPU and driver have dependent launches.
    overlaps: bool,
    use_cache: bool,
    origin: Origin,
    compiler: String,
    notes: Vec<String>,
}

impl Driver {
    /// Opens GPU number `ordinal` and loads the kernels, which `use_cache` takes from the cache if they are there.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if there is no such GPU, it is too old, or the driver fails; those of [`Program::load`].
    pub fn open(ordinal: usize, use_cache: bool) -> Result<Self> {
        let device = named(ordinal);
        let mut gpus = gpus()?;
        if ordinal >= gpus.len() {
            let found = format!("there is no such GPU: the driver knows {}", gpus.len());
            let remedy = match gpus.len() {
                1 => "choose cuda:0".into(),
                count => format!("choose one of cuda:0 to cuda:{}", count - 1),
            };
            return Err(no_gpu(&device, found, remedy));
        }
        let gpu = gpus.swap_remove(ordinal);
        if gpu.capability < OLDEST_CAPABILITY {
            let ((major, minor), (oldest, oldest_minor)) = (gpu.capability, OLDEST_CAPABILITY);
            let found = format!("{} has compute capability {major}.{minor}, too old", gpu.name);
            let remedy = format!("use --device cpu, or a GPU of {oldest}.{oldest_minor} or newer");
            return Err(no_gpu(&device, found, remedy));
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed(&device, "start the GPU", e))?;
        // SAFETY: one stream does all the work, so nothing needs events to be in order; and each event that is tracked
        // would be one more call of the driver for each argument of each launch.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|e| failed(&device, "start a stream", e))?;
        // Compiled only for a GPU that can be had.
        let program = Program::load(&gpu.architecture(), use_cache)?;
        let (module, program) = load(&context, &gpu, program)?;
        let mut functions = HashMap::new();
        find_functions(&mut functions, &module, &sources::names(), &device)?;
        let Program { origin, compiler, notes, .. } = program;
        let mut driver =
            Self { gpu, context, stream, functions, limits: None, overlaps: false, use_cache, origin, compiler, notes };
        driver.overlaps = driver.limits()?.has_dependent_launches() && version()? >= OLDEST_WITH_DEPENDENT_LAUNCHES;
        Ok(driver)
    }

    /// Adds kernels from elsewhere, such as a test's, which the driver translates.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if the driver refuses them or does not find one.
    pub fn add(&mut self, ptx: &str, names: &[&'static str]) -> Result<()> {
        let module = self.context.load_module(Ptx::from_src(ptx)).map_err(|e| self.failed("load kernels", e))?;
        find_functions(&mut self.functions, &module, names, &named(self.gpu.ordinal))
    }

    /// Makes the device say that it has other limits, none of them beyond its own: a plan then keeps to those.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = Some(limits);
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Where the kernels came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What compiled them: `NVRTC 13.0`.
    pub fn compiler(&self) -> &str {
        &self.compiler
    }

    /// What the user should know, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn failed(&self, action: &str, error: DriverError) -> Error {
        failed(&named(self.gpu.ordinal), action, error)
    }

    /// As [`Device::launch`], with what only newer drivers know: blocks in clusters, dependent launches.
    unsafe fn launch_extended(
        &self,
        function: &CudaFunction,
        launch: &Launch<'_>,
        attributes: &mut [sys::CUlaunchAttribute],
    ) -> Result<()> {
        const CALL: &str = "cuLaunchKernelEx";
        if !has(CALL) {
            return Err(incomplete(CALL));
        }
        let failed = |e| self.failed(&format!("launch {}", launch.kernel), e);
        self.context.bind_to_thread().map_err(failed)?;
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
        let config = sys::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: launch.shared,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let address = |arg: &Arg| match arg {
            Arg::Address(value) => std::ptr::from_ref(value) as *mut std::ffi::c_void,
            Arg::I32(value) => std::ptr::from_ref(value) as *mut _,
            Arg::F32(value) => std::ptr::from_ref(value) as *mut _,
        };
        let mut args: Vec<_> = launch.args.iter().map(address).collect();
        // SAFETY: the call is there; what `config` and `args` point to lives until it has copied all of it; the rest is the
        // caller's word.
        let status =
            unsafe { sys::cuLaunchKernelEx(&config, function.cu_function(), args.as_mut_ptr(), std::ptr::null_mut()) };
        status.result().map_err(failed)
    }
}

impl Device for Driver {
    type Memory = CudaSlice<u8>;
    type Graph = CudaGraph;

    fn name(&self) -> String {
        format!("{}, {}, {}", named(self.gpu.ordinal), self.gpu.name, self.gpu.architecture())
    }

    fn kind(&self) -> String {
        format!("{}, {}", self.gpu.name, self.gpu.architecture())
    }

    fn limits(&self) -> Result<Limits> {
        if let Some(limits) = self.limits {
            return Ok(limits);
        }
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared = self.context.attribute(most).map_err(|e| self.failed("ask for its shared memory", e))?;
        let Gpu { capability, multiprocessors, .. } = self.gpu;
        Ok(Limits { capability, shared: shared.max(0) as u32, multiprocessors })
    }

    fn load(&mut self, kernels: &Specialized) -> Result<()> {
        let program = Program::load_specialized(kernels, &self.gpu.architecture(), self.use_cache)?;
        let Code::Cubin(cubin) = program.code else { unreachable!("specialized kernels are compiled to machine code") };
        let module = self.context.load_module(Ptx::from_binary(cubin));
        let module = module.map_err(|e| self.failed(&format!("load the {} kernels", kernels.name()), e))?;
        find_functions(&mut self.functions, &module, &kernels.names(), &named(self.gpu.ordinal))?;
        self.notes.extend(program.notes);
        Ok(())
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let (free, _) = self.context.mem_get_info().map_err(|e| self.failed("ask for its free memory", e))?;
        Ok(Some(free as u64))
    }

    fn allocate(&self, name: &'static str, bytes: usize) -> Result<CudaSlice<u8>> {
        // SAFETY: nothing reads the memory before a copy or a kernel has written it; the emulator checks that of all kernels.
        let memory = unsafe { self.stream.alloc(bytes) };
        memory.map_err(|e| self.failed(&format!("allocate {:.1} MB for {name}", bytes as f64 / 1e6), e))
    }

    fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        use cudarc::driver::DevicePtr;
        memory.device_ptr(&self.stream).0
    }

    fn upload(&self, memory: &mut CudaSlice<u8>, offset: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut place = memory.slice_mut(offset..offset + bytes.len());
        self.stream.memcpy_htod(bytes, &mut place).map_err(|e| self.failed("copy to the GPU", e))
    }

    fn zero(&self, memory: &mut CudaSlice<u8>, offset: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut place = memory.slice_mut(offset..offset + bytes);
        self.stream.memset_zeros(&mut place).map_err(|e| self.failed("clear memory", e))
    }

    fn download(&self, memory: &CudaSlice<u8>, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.synchronize()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let place = memory.slice(offset..offset + bytes.len());
        self.stream.memcpy_dtoh(&place, bytes).map_err(|e| self.failed("copy from the GPU", e))?;
        self.synchronize()
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let function = &self.functions[launch.kernel];
        let failed = |e| self.failed(&format!("launch {}", launch.kernel), e);
        if launch.shared > UNASKED_SHARED {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, launch.shared as i32).map_err(failed)?;
        }
        let cluster = (launch.cluster != [1; 3]).then(|| in_clusters(launch.cluster));
        let dependent = (launch.dependent && self.overlaps).then(dependent);
        let mut attributes: Vec<_> = cluster.into_iter().chain(dependent).collect();
        if !attributes.is_empty() {
            // SAFETY: the caller's word.
            return unsafe { self.launch_extended(function, launch, &mut attributes) };
        }
        let mut builder = self.stream.launch_builder(function);
        for arg in launch.args {
            match arg {
                Arg::Address(value) => builder.arg(value),
                Arg::I32(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
            };
        }
        let ([x, y, z], [bx, by, bz]) = (launch.grid, launch.block);
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (bx, by, bz), shared_mem_bytes: launch.shared };
        // SAFETY: the caller's word; the arguments live until the call has copied them.
        unsafe { builder.launch(config) }.map(drop).map_err(failed)
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.failed("finish its work", e))?;
        // Errors of what was dropped meanwhile.
        self.context.check_err().map_err(|e| self.failed("finish its work", e))
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<CudaGraph> {
        // Of this thread only: another thread's calls are none of this graph's business.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(|e| self.failed("begin to record launches", e))?;
        let worked = work();
        // Ended whatever happened: a stream that goes on recording can do nothing else.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        worked?;
        let graph = graph.map_err(|e| self.failed("record launches", e))?;
        let graph = graph.ok_or_else(|| {
            no_gpu(&named(self.gpu.ordinal), "the driver recorded no launch", "run `fused-lstm doctor`")
        })?;
        graph.upload().map_err(|e| self.failed("prepare the recorded launches", e))?;
        Ok(graph)
    }

    fn launches(&self, graph: &CudaGraph) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the graph lives; with no place for the nodes the call tells their number.
        let status = unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count) };
        status.result().map_err(|e| self.failed("count the recorded launches", e))?;
        Ok(count)
    }

    fn replay(&self, graph: &CudaGraph) -> Result<()> {
        graph.launch().map_err(|e| self.failed("replay launches", e))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        let event = || self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let start = event().map_err(|e| self.failed("take the time", e))?;
        work()?;
        let end = event().map_err(|e| self.failed("take the time", e))?;
        start.elapsed_ms(&end).map_err(|e| self.failed("take the time", e))
    }
}
