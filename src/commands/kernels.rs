//! `fused-lstm kernels`: what the compiler makes of the CUDA kernels.

use crate::cli::KernelsArgs;
use fused_lstm::{Error, Result};

/// Without the CUDA feature there are no kernels in the program.
#[cfg(not(feature = "cuda"))]
pub fn run(_: &KernelsArgs) -> Result<()> {
    Err(Error::Device {
        device: "kernels".into(),
        found: "this program was built without CUDA".into(),
        remedy: "build it with `cargo build --release --features cuda`".into(),
    })
}

#[cfg(feature = "cuda")]
pub use with_cuda::run;

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::{Error, KernelsArgs, Result};
    use crate::commands::output::{line, thousands};
    use fused_lstm::cuda::kernels::Kernels;
    use fused_lstm::cuda::nvrtc::Nvrtc;
    use fused_lstm::cuda::resources::Resources;
    use fused_lstm::cuda::sources;
    use serde::Serialize;
    use serde_json::json;
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    /// One kernel, as JSON tells it.
    #[derive(Serialize)]
    struct Row<'a> {
        #[serde(flatten)]
        resources: &'a Resources,
        /// Null where the limits of the architecture are not known.
        blocks_per_multiprocessor: Option<u32>,
        occupancy: Option<f64>,
    }

    pub fn run(args: &KernelsArgs) -> Result<()> {
        let started = Instant::now();
        let nvrtc = Nvrtc::open()?;
        let kernels = Kernels::compile(&nvrtc, &args.arch)?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(folder) = &args.emit {
            emit(folder, &args.arch, &kernels)?;
        }
        let (major, minor) = nvrtc.version();
        if args.json {
            let rows: Vec<_> = kernels.resources.iter().map(|kernel| row(&kernels, kernel)).collect();
            let result = json!({
                "arch": args.arch,
                "nvrtc": format!("{major}.{minor}"),
                "library": nvrtc.path().display().to_string(),
                "sources_sha256": sources::hash(),
                "cubin_bytes": kernels.cubin.len(),
                "seconds": (seconds * 1e3).round() / 1e3,
                "kernels": rows,
            });
            return line(&result.to_string());
        }
        table(&kernels)?;
        line(&format!(
            "\n{} kernels for {} in {seconds:.2} s, cubin and PTX; cubin of {} bytes; NVRTC {major}.{minor} from {}",
            kernels.resources.len(),
            args.arch,
            thousands(kernels.cubin.len() as u64),
            nvrtc.path().display()
        ))
    }

    fn row<'a>(kernels: &Kernels, resources: &'a Resources) -> Row<'a> {
        let occupancy = kernels.occupancy(resources);
        Row { resources, blocks_per_multiprocessor: occupancy.map(|o| o.blocks), occupancy: occupancy.map(|o| o.share) }
    }

    fn table(kernels: &Kernels) -> Result<()> {
        line("kernel               threads  registers  shared  stack  spills  blocks/SM  occupancy")?;
        for kernel in &kernels.resources {
            let occupancy = kernels.occupancy(kernel);
            let blocks = occupancy.map_or("-".into(), |o| o.blocks.to_string());
            let share = occupancy.map_or("-".into(), |o| format!("{:.0} %", o.share * 100.0));
            let Resources { name, threads, registers, shared, stack, spill_stores, spill_loads } = kernel;
            let spills = spill_stores + spill_loads;
            line(&format!(
                "{name:<21}{threads:>7}{registers:>11}{shared:>8}{stack:>7}{spills:>8}{blocks:>11}{share:>11}"
            ))?;
        }
        Ok(())
    }

    /// Writes what went into the compiler and what came out.
    fn emit(folder: &Path, architecture: &str, kernels: &Kernels) -> Result<()> {
        const REMEDY: &str = "name a folder that can be written to";
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder", e, REMEDY))?;
        let files: [(String, &[u8]); 3] = [
            ("kernels.cu".into(), sources::KERNELS.as_bytes()),
            (format!("kernels.{architecture}.ptx"), kernels.ptx.as_bytes()),
            (format!("kernels.{architecture}.cubin"), &kernels.cubin),
        ];
        for (name, bytes) in files {
            let file = folder.join(name);
            fs::write(&file, bytes).map_err(|e| Error::io(&file, "write", e, REMEDY))?;
        }
        Ok(())
    }
}
