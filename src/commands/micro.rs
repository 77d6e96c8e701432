//! `fused-lstm bench micro`: latencies and rates of a GPU.

use super::device;
use crate::cli::BenchArgs;
use fused_lstm::Result;

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    let ordinal = device::gpu_alone(
        &args.device,
        "bench micro measures the parts of a GPU",
        "`fused-lstm bench step` times the CPU engine",
    )?;
    on_gpu(args, ordinal)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &BenchArgs, ordinal: usize) -> Result<()> {
    Err(device::without_cuda(ordinal))
}

#[cfg(feature = "cuda")]
use with_cuda::on_gpu;

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::{BenchArgs, Result};
    use crate::commands::device;
    use crate::commands::output::line;
    use crate::commands::profile::room;
    use fused_lstm::cuda::device::Device as _;
    use fused_lstm::cuda::micro::{self, Effort, Machine, Micro, Row};
    use fused_lstm::cuda::nvrtc::Nvrtc;
    use serde_json::json;

    /// Some thousand steps of a chain, tens of milliseconds of a whole GPU: seconds in all.
    const EFFORT: Effort =
        Effort { rounds: 64, timed_rounds: 4096, nodes: [100, 1100], turns: 5, copied: 0, product: 0 };

    pub fn on_gpu(args: &BenchArgs, ordinal: usize) -> Result<()> {
        let mut driver = device::open_gpu(ordinal, &args.device)?;
        let (major, minor) = driver.gpu().capability;
        let machine =
            Machine { architecture: 10 * major + minor, multiprocessors: driver.gpu().multiprocessors.max(1) };
        let ptx = micro::ptx(&Nvrtc::open()?, machine.architecture)?;
        driver.add(&ptx, &micro::kernels(machine.architecture))?;
        let (copied, product) = room(driver.free_bytes()?);
        let micro = micro::measure(&*driver, &machine, &Effort { copied, product, ..EFFORT })?;
        if args.json { json(&driver.name(), &micro) } else { text(&driver.name(), &micro) }
    }

    fn json(device: &str, micro: &Micro) -> Result<()> {
        let result = json!({
            "peer": "fused-lstm-micro",
            "version": env!("CARGO_PKG_VERSION"),
            "device": device,
            "rows": micro.rows,
            "left_out": micro.left_out,
        });
        line(&result.to_string())
    }

    fn text(device: &str, micro: &Micro) -> Result<()> {
        line(&format!("micro: {device}\n"))?;
        let width = micro.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
        line(&format!("{:width$}  {:>12}  {:18}  decides", "what", "value", "unit"))?;
        let mut before = "";
        for row in &micro.rows {
            let Row { name, unit, .. } = row;
            let value = row.value.map_or_else(|| "none".into(), |value| format!("{value:.3}"));
            // Once for all rows that answer one question.
            let decides = if row.decides == before { "\"" } else { row.decides };
            line(&format!("{name:width$}  {value:>12}  {unit:18}  {decides}"))?;
            before = row.decides;
        }
        for text in &micro.left_out {
            line(&format!("left out: {text}"))?;
        }
        line(
            "\nCycles are of one multiprocessor's clock, the fastest of some turns. A part is a quarter of a multiprocessor. An \
             instruction's cycles count from one to the next in a part: warps and chains share them.",
        )
    }
}
