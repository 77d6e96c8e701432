//! What a warp's registers hold when it starts.

use super::Shape;
use crate::exec::{LANES, Warp};
use crate::parse::Kernel;

/// The coordinates of the n-th block or thread of an extent, counted along x first.
pub(super) fn unfold(n: u32, [x, y, _]: [u32; 3]) -> [u32; 3] {
    [n % x, n / x % y, n / x / y]
}

/// A warp as it is at the start of its block.
pub(super) fn reset(warp: &mut Warp, kernel: &Kernel, shape: &Shape, at: [u32; 3], threads: u32) {
    let start = (warp.index * LANES) as u32;
    let count = (threads - start).min(LANES as u32);
    warp.alive = u32::MAX >> (LANES as u32 - count);
    warp.unwaited = if shape.dependent { warp.alive } else { 0 };
    (warp.pc, warp.blocked, warp.asleep) = ([0; LANES], 0, 0);
    (warp.sent, warp.arrived, warp.asking) = (0, None, false);
    warp.waits.clear();
    warp.tallies.clear();
    warp.local.fill(0xff);
    warp.local_written.fill(false);
    // Registers start as nonsense, so that none is zero by accident.
    warp.r.fill([u32::MAX; LANES]);
    warp.d.fill([u64::MAX; LANES]);
    warp.p.fill(0xaaaa_aaaa);
    let bank = &kernel.registers;
    bank.constants32.iter().for_each(|(slot, value)| warp.r[*slot as usize] = [*value; LANES]);
    bank.constants64.iter().for_each(|(slot, value)| warp.d[*slot as usize] = [*value; LANES]);
    bank.constants_pred.iter().for_each(|(slot, value)| warp.p[*slot as usize] = if *value { u32::MAX } else { 0 });
    for (slot, name) in &bank.special {
        warp.r[*slot as usize] = std::array::from_fn(|lane| special(name, shape, at, start, lane as u32));
    }
}

/// Fills the slots that hold addresses of the module's variables.
pub(super) fn set_addresses(warp: &mut Warp, kernel: &Kernel, globals: &[u64]) {
    for (slot, variable, offset) in &kernel.registers.addresses {
        warp.d[*slot as usize] = [globals[*variable].wrapping_add(*offset as u64); LANES];
    }
}

/// The value of a special register in a lane.
fn special(name: &str, shape: &Shape, at: [u32; 3], start: u32, lane: u32) -> u32 {
    let thread = start + lane;
    let tid = unfold(thread, shape.block);
    let axis = match name.as_bytes().last() {
        Some(b'y') => 1,
        Some(b'z') => 2,
        _ => 0,
    };
    match name.split('.').next().unwrap_or(name) {
        "%tid" => tid[axis],
        "%ntid" => shape.block[axis],
        "%clusterid" => at[axis] / shape.cluster[axis],
        "%nclusterid" => shape.grid[axis] / shape.cluster[axis],
        "%cluster_ctaid" => at[axis] % shape.cluster[axis],
        "%cluster_nctaid" => shape.cluster[axis],
        "%cluster_ctarank" => {
            let [x, y, z] = std::array::from_fn(|axis| at[axis] % shape.cluster[axis]);
            x + shape.cluster[0] * (y + shape.cluster[1] * z)
        }
        "%cluster_nctarank" => shape.cluster.iter().product(),
        "%ctaid" => at[axis],
        "%nctaid" => shape.grid[axis],
        "%laneid" => lane,
        "%warpid" => start / LANES as u32,
        "%lanemask_eq" => 1 << lane,
        "%lanemask_lt" => (1 << lane) - 1,
        "%lanemask_le" => u32::MAX >> (31 - lane),
        "%lanemask_gt" => !(u32::MAX >> (31 - lane)),
        _ => !((1 << lane) - 1),
    }
}
