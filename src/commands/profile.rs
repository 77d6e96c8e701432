//! `fused-lstm profile`: where the time of a training iteration on a GPU goes, kernel by kernel.

use super::device;
use crate::cli::ProfileArgs;
use fused_lstm::Result;

/// Runs the command.
pub fn run(args: &ProfileArgs) -> Result<()> {
    let ordinal = device::gpu_alone(
        &args.device,
        "profile times the kernels of a GPU",
        "`fused-lstm bench step` and `cargo bench` time the CPU engine",
    )?;
    on_gpu(args, ordinal)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &ProfileArgs, ordinal: usize) -> Result<()> {
    Err(device::without_cuda(ordinal))
}

#[cfg(feature = "cuda")]
pub use with_cuda::room;

#[cfg(feature = "cuda")]
use with_cuda::on_gpu;

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::{ProfileArgs, Result};
    use crate::commands::bench;
    use crate::commands::device;
    use crate::commands::output::{line, thousands};
    use fused_lstm::cuda::device::Device as _;
    use fused_lstm::cuda::profile::{self, Ceilings, Job, Profile, REPLAYED_AT_ONCE, Row};
    use fused_lstm::cuda::profiled::Profiled;
    use fused_lstm::cuda::tune::Effort;
    use fused_lstm::precision::Precision;
    use serde_json::json;
    use std::time::Duration;

    /// About how long each of the two measurements of an iteration takes.
    const EACH: Duration = Duration::from_secs(1);
    /// Numbers that are copied to see the bandwidth, 256 MiB, far more than a cache holds; less where there is less memory.
    const COPIED: usize = 64 << 20;
    /// Rows, columns and summands of the product that shows the arithmetic; less where there is less memory, but not so few
    /// that the device would have nothing to do.
    const PRODUCT: usize = 4096;
    const SMALLEST_PRODUCT: usize = 256;
    /// Of the memory that is free, so much is taken for the copy's source, as much for its target, and for the three matrices.
    const SHARE: usize = 8;

    pub fn on_gpu(args: &ProfileArgs, ordinal: usize) -> Result<()> {
        let (precision, activations) = device::gpu_numbers(&args.device)?;
        let (model, data) = bench::prepare(&args.sizes)?;
        let driver = device::open_gpu(ordinal, &args.device)?;
        let (copied, product) = room(driver.free_bytes()?);
        let ceilings = profile::ceilings(&*driver, copied, product)?;
        let name = driver.name();
        let job = Job { model, data, batch: args.sizes.batch_size, precision, activations, each: EACH };
        let tuning = device::tuning(&args.device, Effort::Always);
        let profile = profile::profile(Profiled::running_ahead(*driver)?, &job, Some(tuning))?;
        if args.json { json(args, &name, &ceilings, &profile) } else { text(args, &name, &ceilings, &profile) }
    }

    /// Numbers to copy and size of the product, for a device with so many free bytes.
    pub fn room(free: Option<u64>) -> (usize, usize) {
        let free = free.and_then(|free| usize::try_from(free).ok()).unwrap_or(usize::MAX);
        let numbers = free / SHARE / size_of::<f32>();
        let mut product = PRODUCT;
        while product > SMALLEST_PRODUCT && 3 * product * product > numbers {
            product /= 2;
        }
        (COPIED.min(numbers).max(1), product)
    }

    /// What a row comes to in a second, beside the ceilings.
    struct Rates {
        bytes: Option<f64>,
        operations: Option<f64>,
    }

    impl Rates {
        fn of(row: &Row) -> Self {
            let rate = |count: Option<u64>| Some(count? as f64 / (row.milliseconds / 1e3)).filter(|r| r.is_finite());
            Self { bytes: rate(row.bytes), operations: rate(row.operations) }
        }
    }

    fn json(args: &ProfileArgs, device: &str, ceilings: &Ceilings, profile: &Profile) -> Result<()> {
        let row = |row: &Row| {
            let rates = Rates::of(row);
            json!({
                "kernel": row.kernel,
                "launches": row.launches,
                "ms": row.milliseconds,
                "share": row.milliseconds / profile.launches_milliseconds,
                "bytes": row.bytes,
                "operations": row.operations,
                "share_of_copy_bandwidth": rates.bytes.map(|rate| rate / ceilings.bytes_per_second),
                "share_of_product_rate": rates.operations.map(|rate| rate / ceilings.operations_per_second),
            })
        };
        let sizes = &args.sizes;
        let result = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "device": device,
            "dtype": if profile.precision == Precision::F32 { "fp32".into() } else { profile.precision.to_string() },
            "plan": profile.plan,
            "B": sizes.batch_size, "T": sizes.steps_per_sequence, "I": sizes.inputs, "H": sizes.hidden,
            "kernels": profile.rows.iter().map(row).collect::<Vec<_>>(),
            "launches_ms": profile.launches_milliseconds,
            "replayed_ms": profile.replayed_milliseconds,
            "iterations_of_a_replay": profile.iterations_of_a_replay,
            "iterations": profile.iterations,
            "ceilings": ceilings,
        });
        line(&result.to_string())
    }

    fn text(args: &ProfileArgs, device: &str, ceilings: &Ceilings, profile: &Profile) -> Result<()> {
        let sizes = &args.sizes;
        let (t, i, h) = (sizes.steps_per_sequence, sizes.inputs, sizes.hidden);
        line(&format!("profile: B {}, T {t}, I {i}, H {h}, {}; {device}", sizes.batch_size, profile.precision))?;
        line(&format!("kernels: {}\n", profile.plan))?;
        line(
            "kernel                      launches         us   share         bytes  of copy     operations  of product",
        )?;
        for row in &profile.rows {
            line(&table_row(row, ceilings, profile))?;
        }
        let (launches, replayed) = (profile.launches_milliseconds * 1e3, profile.replayed_milliseconds * 1e3);
        line(&format!(
            "\niteration   {launches:.1} us launch by launch (median of {}); {replayed:.1} us replayed, up to {} in one \
             graph and {REPLAYED_AT_ONCE} in a call",
            profile.iterations, profile.iterations_of_a_replay
        ))?;
        line(&format!(
            "ceilings    copy: {:.1} GB/s read and written, of {} bytes by sum_parts; product: {:.1} GFLOP/s, of {} x {} \
             by product_nn",
            ceilings.bytes_per_second / 1e9,
            thousands(ceilings.copied_bytes),
            ceilings.operations_per_second / 1e9,
            ceilings.product,
            ceilings.product
        ))?;
        if profile.precision != Precision::F32 {
            line(&format!(
                "            products of the kernels in {} go through tensor cores, which that of f32 does not measure",
                profile.precision
            ))?;
        }
        line(
            "\nBytes are what must be read and written once; data that lies in the cache can be faster than the copy, which \
             goes through memory. Time is measured launch by launch, so gaps in a graph are not in it.",
        )
    }

    fn table_row(row: &Row, ceilings: &Ceilings, profile: &Profile) -> String {
        let rates = Rates::of(row);
        let count = |count: Option<u64>| count.map_or("-".into(), thousands);
        let share = |rate: Option<f64>, of: f64| rate.map_or("-".into(), |rate| format!("{:.1} %", 100.0 * rate / of));
        format!(
            "{:<28}{:>8}{:>11.1}{:>8}{:>14}{:>9}{:>15}{:>12}",
            row.kernel,
            row.launches,
            row.milliseconds * 1e3,
            share(Some(row.milliseconds), profile.launches_milliseconds),
            count(row.bytes),
            share(rates.bytes, ceilings.bytes_per_second),
            count(row.operations),
            share(rates.operations, ceilings.operations_per_second),
        )
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn ceilings_are_measured_within_the_memory_that_is_free() {
            assert_eq!(room(None), (COPIED, PRODUCT));
            assert_eq!(room(Some(80 << 30)), (COPIED, PRODUCT));
            // An eighth of 64 MB is 2 million numbers: three matrices of 512 rows, and not of 1024.
            assert_eq!(room(Some(64_000_000)), (2_000_000, 512));
            assert_eq!(room(Some(0)), (1, SMALLEST_PRODUCT));
        }

        #[test]
        fn a_row_tells_shares_of_the_iteration_and_of_the_ceilings() {
            let row = Row {
                kernel: "lstm_backward_step",
                launches: 28,
                milliseconds: 0.25,
                bytes: Some(50_000_000),
                operations: Some(1_500_000_000),
            };
            let ceilings =
                Ceilings { bytes_per_second: 1e12, copied_bytes: 1 << 28, operations_per_second: 24e12, product: 4096 };
            let unknown = Row { bytes: None, operations: None, ..row.clone() };
            let profile = Profile {
                precision: Precision::F32,
                plan: String::new(),
                rows: vec![row.clone()],
                launches_milliseconds: 1.0,
                replayed_milliseconds: 1.2,
                iterations_of_a_replay: 16,
                iterations: 9,
            };
            let told = |row| table_row(row, &ceilings, &profile).split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(told(&row), "lstm_backward_step 28 250.0 25.0 % 50,000,000 20.0 % 1,500,000,000 25.0 %");
            assert_eq!(told(&unknown), "lstm_backward_step 28 250.0 25.0 % - - - -");
        }
    }
}
