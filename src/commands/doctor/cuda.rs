//! The checks of what a GPU needs.

use super::{Check, Status, self_test};
use crate::commands::output::thousands;
use fused_lstm::cuda::cache::Cache;
use fused_lstm::cuda::driver::{self, Driver, Gpu};
use fused_lstm::cuda::nvrtc::{Nvrtc, Target};
use fused_lstm::cuda::plan::{Family, Plan};
use fused_lstm::cuda::program::Origin;
use fused_lstm::cuda::tune::{Effort, Tuning};
use fused_lstm::cuda::{CudaEngine, find, kept};
use fused_lstm::engine::Model;
use fused_lstm::precision::Precision;
use fused_lstm::shape::Dims;
use fused_lstm::{Error, Result};
use std::time::Instant;

/// A kernel that compiles in no time: whether the library works is the question.
const SMALL: &str = "extern \"C\" __global__ void small(float* x) { x[threadIdx.x] = 1.0f; }\n";

/// The tutorial's model and batch.
const TUTORIAL: Dims = Dims { t: 28, i: 28, p: 128, h: 128, k: 10 };
const BATCH: usize = 128;

/// Does all checks, in the order in which a start needs what they check.
pub fn checks(tell: &mut dyn FnMut(Check) -> Result<()>) -> Result<()> {
    tell(nvrtc())?;
    tell(cache())?;
    tell(kept_kernels())?;
    let gpus = driver(tell)?;
    for gpu in &gpus {
        open(gpu, tell)?;
    }
    #[cfg(feature = "emulator")]
    tell(emulated())?;
    Ok(())
}

/// The compiler, by compiling.
fn nvrtc() -> Check {
    let search = find::search();
    // Where there is none, the kernels kept in the program do; one that is there and broken was meant to be used.
    let status = if search.libraries.is_empty() { Status::Warn } else { Status::Fail };
    let started = Instant::now();
    let compiled = Nvrtc::open_first(&search).and_then(|nvrtc| {
        let opened = started.elapsed().as_secs_f64();
        nvrtc.compile(SMALL, "small.cu", &Target::Cubin("sm_90".into()))?;
        Ok((nvrtc, opened))
    });
    match compiled {
        Err(Error::Device { found, remedy, .. }) if status == Status::Warn => {
            Check::warn("nvrtc", format!("{found}: kernels are translated by the driver"), remedy)
        }
        Err(error) => Check::of("nvrtc", status, error),
        Ok((nvrtc, opened)) => {
            let (major, minor) = nvrtc.version();
            let took = started.elapsed().as_secs_f64() - opened;
            let path = nvrtc.path().display();
            Check::pass(
                "nvrtc",
                format!("{major}.{minor} from {path}, opened in {opened:.2} s, a kernel in {took:.2} s"),
            )
        }
    }
}

/// The folder that keeps what was compiled.
fn cache() -> Check {
    let kept = Cache::of_user().and_then(|cache| {
        cache.check_writable()?;
        Ok(cache)
    });
    match kept {
        Err(error) => {
            let check = Check::of("cache", Status::Warn, error);
            Check { found: format!("{}: every start compiles anew", check.found), ..check }
        }
        Ok(cache) => {
            let (entries, bytes) = cache.entries();
            let plural = if entries == 1 { "y" } else { "ies" };
            let bytes = thousands(bytes);
            Check::pass(
                "cache",
                format!("{}, {entries} entr{plural} of {bytes} bytes in all", cache.folder().display()),
            )
        }
    }
}

/// The kernels for machines with no NVRTC.
fn kept_kernels() -> Check {
    let compiler = kept::compiler(kept::ptx()).unwrap_or("of an unknown release");
    let what = format!("PTX {} for {} and newer, made by NVRTC {compiler}", kept::ISA, kept::ARCHITECTURE);
    if kept::is_current() {
        return Check::pass("kept kernels", format!("{what}, of this program's sources"));
    }
    let found = format!("{what}, but of other sources than this program's");
    Check::fail("kept kernels", found, format!("with NVRTC, renew them with `{}`", kept::RENEW))
}

/// The driver's library, the driver and its GPUs; gives those that can be used.
fn driver(tell: &mut dyn FnMut(Check) -> Result<()>) -> Result<Vec<Gpu>> {
    match driver::version() {
        Ok(version) => {
            let library = library().map_or_else(String::new, |path| format!(", {path}"));
            tell(Check::pass("driver", format!("for CUDA {}{library}", driver::dotted(version))))?;
        }
        Err(error) => {
            // A container without a GPU may have an empty file in its place, so that is no fault either.
            let status = if driver::is_there() { Status::Fail } else { Status::Warn };
            tell(Check::of("driver", status, error))?;
            tell(Check::warn(
                "gpu",
                "none is looked for without a driver",
                "use --device cpu, which auto does by itself",
            ))?;
            return Ok(Vec::new());
        }
    }
    let gpus = match driver::gpus() {
        Ok(gpus) => gpus,
        Err(error) => {
            // A machine may have the driver, as images of machines do, and no GPU.
            let status = if driver::knows_no_gpu(&error) { Status::Warn } else { Status::Fail };
            tell(Check::of("gpu", status, error))?;
            return Ok(Vec::new());
        }
    };
    for gpu in &gpus {
        let Gpu { ordinal, name, capability: (major, minor), multiprocessors, memory } = gpu;
        let memory = *memory as f64 / f64::from(1 << 30);
        let found = format!(
            "{name}, compute capability {major}.{minor}, {multiprocessors} multiprocessors, {memory:.1} GiB of memory"
        );
        let check = if gpu.is_new_enough() {
            Check::pass(format!("gpu {ordinal}"), found)
        } else {
            Check::warn(format!("gpu {ordinal}"), format!("{found}: too old"), "use --device cpu, or a newer GPU")
        };
        tell(check)?;
    }
    Ok(gpus.into_iter().filter(Gpu::is_new_enough).collect())
}

/// The file of the driver's library, which this process has open; only where the system tells.
fn library() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    library_in(&maps).map(Into::into)
}

fn library_in(maps: &str) -> Option<&str> {
    maps.lines().find_map(|line| {
        let path = &line[line.find('/')?..];
        path.rsplit('/').next()?.starts_with("libcuda.so").then_some(path)
    })
}

/// Opens a GPU as training does, and holds it against the reference.
fn open(gpu: &Gpu, tell: &mut dyn FnMut(Check) -> Result<()>) -> Result<()> {
    let name = format!("kernels {}", gpu.ordinal);
    let driver = match Driver::open(gpu.ordinal, true) {
        Ok(driver) => driver,
        Err(error) => return tell(Check::of(name, Status::Fail, error)),
    };
    let from = match driver.origin() {
        Origin::Cache => "from the cache".into(),
        Origin::Compiled { seconds } => format!("compiled in {seconds:.2} s"),
        Origin::Kept => "kept in the program, translated by the driver".into(),
    };
    let found = format!("for {}, {from}, {}", gpu.architecture(), driver.compiler());
    tell(match driver.notes() {
        [] => Check::pass(name, found),
        notes => Check::warn(name, format!("{found} ({})", notes.join("; ")), "see the lines of nvrtc and cache"),
    })?;
    let (model, adam, data) = self_test::tiny();
    tell(self_test::of(format!("gpu {} self-test", gpu.ordinal), || CudaEngine::new(driver, model, adam, data)))?;
    [Precision::Tf32, Precision::Bf16].into_iter().try_for_each(|precision| {
        tell(chosen(format!("gpu {} {precision}", gpu.ordinal), precision, Driver::open(gpu.ordinal, true)))
    })
}

/// The kernels that `--precision` chooses for the tutorial's model, where it is not f32.
fn chosen(name: String, precision: Precision, device: Result<Driver>) -> Check {
    let plan = || {
        let (_, adam, data) = self_test::tiny();
        let model = Model::new(TUTORIAL);
        let engine = CudaEngine::with_precision(device?, model, adam, data, precision)?;
        let mut engine = engine.with_tuning(Tuning::of_user(Effort::Known, true));
        engine.choose_kernels(BATCH).cloned()
    };
    match plan() {
        Err(error) => Check::of(name, Status::Fail, error),
        Ok(Plan { family: Family::Persistent(_) | Family::Tf32(_), reason }) => Check::pass(name, reason),
        Ok(Plan { reason, .. }) => {
            Check::warn(name, reason, "train in f32, which is more accurate, or see what stands above")
        }
    }
}

/// The kernels in the emulator, which checks every access of theirs.
#[cfg(feature = "emulator")]
fn emulated() -> Check {
    use fused_lstm::cuda::emulated::Emulated;
    let (model, adam, data) = self_test::tiny();
    self_test::of("emulated GPU", || {
        CudaEngine::new(Emulated::new(kept::ptx(), Default::default())?, model, adam, data)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_library_is_found_among_the_open_files() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/libcudart.so.12\n7f02-7f03 rw-p 00000000 00:00 0 \n\
                    7f04-7f05 r-xp 00000000 08:01 13 /usr/lib/wsl/lib/libcuda.so.1\n";
        assert_eq!(library_in(maps), Some("/usr/lib/wsl/lib/libcuda.so.1"));
        assert_eq!(library_in("7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/libc.so.6\n"), None);
        assert_eq!(library_in(""), None);
    }
}
