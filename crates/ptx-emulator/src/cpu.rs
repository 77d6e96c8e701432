//! Runs the executor's loop with the widest vector instructions that the processor has.
//!
//! The loop is compiled twice. The one for AVX2 and FMA is several times as fast, mostly because without them a fused
//! product-sum is a call into the C library for each lane. Both give the same bits.

use crate::exec::{Machine, Stop, Warp};
use crate::report::Finding;

/// Runs a warp for so many steps, or until it must wait.
pub(crate) fn run(machine: &mut Machine<'_>, warp: &mut Warp, slice: u64) -> Result<Stop, Finding> {
    #[cfg(target_arch = "x86_64")]
    if has_wide() {
        // SAFETY: the only demand of `run_wide` is that the processor has these features, which `has_wide` asks.
        #[allow(unsafe_code)]
        return unsafe { run_wide(machine, warp, slice) };
    }
    machine.run::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }>(warp, slice)
}

#[cfg(target_arch = "x86_64")]
fn has_wide() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,popcnt")]
fn run_wide(machine: &mut Machine<'_>, warp: &mut Warp, slice: u64) -> Result<Stop, Finding> {
    machine.run::<true>(warp, slice)
}
