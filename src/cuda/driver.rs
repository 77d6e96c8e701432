//! A real GPU, through NVIDIA's driver. The library is looked for when it is needed: a machine without one gets an error.

#![allow(unsafe_code)]

use super::device::{Arg, Device, Launch, Limits};
use super::program::{Code, Origin, Program};
use super::sources;
use super::variant::Variant;
use crate::error::{Error, Result};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
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
/// The oldest GPUs that NVRTC 13 compiles for: Turing.
const OLDEST_CAPABILITY: (u32, u32) = (7, 5);

/// What to do where no GPU can be used.
const NO_GPU: &str = "use --device cpu, or install NVIDIA's driver";

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
}

/// The driver's version, as `cuDriverGetVersion` counts: 13000 of CUDA 13.0.
///
/// # Errors
///
/// [`Error::Device`] if there is no driver or it is older than anything this program can use.
pub fn version() -> Result<u32> {
    // SAFETY: opens the library and looks for nothing in it.
    if !unsafe { sys::is_culib_present() } {
        return Err(no_gpu("cuda", "there is no NVIDIA driver: libcuda was not found", NO_GPU));
    }
    let mut version = 0;
    // SAFETY: the library is there; the call writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| failed("cuda", "ask for the version", e))?;
    if version < OLDEST_DRIVER {
        let found = format!("the driver is for CUDA {}, too old", dotted(version as u32));
        let remedy = format!("install one for CUDA {} or newer, or use --device cpu", dotted(OLDEST_DRIVER as u32));
        return Err(no_gpu("cuda", found, remedy));
    }
    Ok(version as u32)
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
            no_gpu("cuda", "the driver is there, but it knows no GPU", "use --device cpu, or run nvidia-smi to see why")
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
    let text = |name: Result<&CStr, DriverError>| {
        name.map_or_else(|_| "an error without a name".into(), |name| name.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

/// Hands the kernels to the driver. One that is too old for machine code of this NVRTC gets the kept PTX instead.
fn load(context: &Arc<CudaContext>, gpu: &Gpu, program: Program) -> Result<(Arc<CudaModule>, Program)> {
    let image = |code: &Code| match code {
        Code::Cubin(cubin) => Ptx::from_binary(cubin.clone()),
        Code::Ptx(ptx) => Ptx::from_src(ptx.clone()),
    };
    let error = match context.load_module(image(&program.code)) {
        Ok(module) => return Ok((module, program)),
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

/// A real GPU.
pub struct Driver {
    gpu: Gpu,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
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
            return Err(no_gpu(&device, found, format!("choose one of cuda:0 to cuda:{}", gpus.len() - 1)));
        }
        let gpu = gpus.swap_remove(ordinal);
        if gpu.capability < OLDEST_CAPABILITY {
            let ((major, minor), (oldest, oldest_minor)) = (gpu.capability, OLDEST_CAPABILITY);
            let found = format!("{} has compute capability {major}.{minor}, too old", gpu.name);
            let remedy = format!("use --device cpu, or a GPU of {oldest}.{oldest_minor} or newer");
            return Err(no_gpu(&device, found, remedy));
        }
        let program = Program::load(&gpu.architecture(), use_cache)?;
        let context = CudaContext::new(ordinal).map_err(|e| failed(&device, "start the GPU", e))?;
        // SAFETY: one stream does all the work, so nothing needs events to be in order; and each event that is tracked
        // would be one more call of the driver for each argument of each launch.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|e| failed(&device, "start a stream", e))?;
        let (module, program) = load(&context, &gpu, program)?;
        let mut functions = HashMap::new();
        find_functions(&mut functions, &module, &sources::names(), &device)?;
        let Program { origin, compiler, notes, .. } = program;
        Ok(Self { gpu, context, stream, functions, use_cache, origin, compiler, notes })
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
}

impl Device for Driver {
    type Memory = CudaSlice<u8>;
    type Graph = CudaGraph;

    fn name(&self) -> String {
        format!("{}, {}, {}", named(self.gpu.ordinal), self.gpu.name, self.gpu.architecture())
    }

    fn limits(&self) -> Result<Limits> {
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared = self.context.attribute(most).map_err(|e| self.failed("ask for its shared memory", e))?;
        let Gpu { capability, multiprocessors, .. } = self.gpu;
        Ok(Limits { capability, shared: shared.max(0) as u32, multiprocessors })
    }

    fn load(&mut self, variant: &Variant) -> Result<()> {
        let program = Program::load_variant(variant, &self.gpu.architecture(), self.use_cache)?;
        let Code::Cubin(cubin) = program.code else { unreachable!("variants are compiled to machine code") };
        let module = self.context.load_module(Ptx::from_binary(cubin));
        let module = module.map_err(|e| self.failed("load the persistent kernels", e))?;
        find_functions(&mut self.functions, &module, &sources::persistent_names(), &named(self.gpu.ordinal))?;
        let shared = self.limits()?.shared as i32;
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let function = &self.functions[super::persistent::DYNAMIC_SHARED];
        function.set_attribute(most, shared).map_err(|e| self.failed("give a kernel its shared memory", e))?;
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

    fn zero(&self, memory: &mut CudaSlice<u8>, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut place = memory.slice_mut(..bytes);
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
        let mut builder = self.stream.launch_builder(function);
        for arg in launch.args {
            match arg {
                Arg::Address(value) => builder.arg(value),
                Arg::I32(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
            };
        }
        assert_eq!(launch.cluster, [1; 3], "no kernel asks for clusters yet");
        let ([x, y, z], [bx, by, bz]) = (launch.grid, launch.block);
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (bx, by, bz), shared_mem_bytes: launch.shared };
        // SAFETY: the caller's word; the arguments live until the call has copied them.
        let launched = unsafe { builder.launch(config) };
        launched.map(drop).map_err(|e| self.failed(&format!("launch {}", launch.kernel), e))
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
