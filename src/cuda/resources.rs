//! What each kernel takes of a multiprocessor, as the compiler tells it.

use serde::Serialize;

/// What one kernel takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// The kernel.
    pub name: String,
    /// Threads of its largest block, from its launch bounds.
    pub threads: u32,
    /// Registers of each thread.
    pub registers: u32,
    /// Static shared memory of a block, in bytes.
    pub shared: u32,
    /// Stack of each thread, in bytes.
    pub stack: u32,
    /// Bytes that each thread writes to memory for want of registers.
    pub spill_stores: u32,
    /// Bytes that each thread reads back.
    pub spill_loads: u32,
}

/// Reads the resources out of the compiler's `log` (made with `--ptxas-options=-v`), and the threads out of the `ptx` of
/// the same kernels.
pub fn table(log: &str, ptx: &str) -> Vec<Resources> {
    let mut table: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some(name) = line.split_once("Compiling entry function '").and_then(|(_, rest)| rest.split('\'').next())
        {
            table.push(Resources { name: name.into(), threads: threads(ptx, name), ..Resources::default() });
        } else if let Some(kernel) = table.last_mut() {
            read_line(line, kernel);
        }
    }
    table.sort_by(|a, b| a.name.cmp(&b.name));
    table
}

fn read_line(line: &str, kernel: &mut Resources) {
    let fields = [
        (" bytes stack frame", &mut kernel.stack),
        (" bytes spill stores", &mut kernel.spill_stores),
        (" bytes spill loads", &mut kernel.spill_loads),
        (" registers", &mut kernel.registers),
        (" bytes smem", &mut kernel.shared),
    ];
    for (unit, field) in fields {
        *field = number_before(line, unit).unwrap_or(*field);
    }
}

/// `32` of `Used 32 registers, …` for the unit ` registers`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    line.split_once(unit)?.0.rsplit(' ').next()?.parse().ok()
}

/// The number after `.maxntid` of a kernel in `ptx`; 0 if it is not there.
fn threads(ptx: &str, kernel: &str) -> u32 {
    let entry = ptx.split_once(&format!(".entry {kernel}(")).map_or("", |(_, rest)| rest);
    let before_body = entry.split('{').next().unwrap_or_default();
    let sizes = before_body.split_once(".maxntid").map_or("", |(_, rest)| rest.lines().next().unwrap_or_default());
    // One number, or one for each dimension of the block.
    sizes.split(',').map_while(|size| size.trim().parse::<u32>().ok()).reduce(|a, b| a * b).unwrap_or(0)
}

/// Limits of a multiprocessor, from the table "Technical Specifications per Compute Capability" of the CUDA C++
/// Programming Guide.
struct Limits {
    warps: u32,
    blocks: u32,
    /// Bytes of shared memory, with what the system takes of it for each block.
    shared: u32,
    shared_of_system: u32,
}

/// Registers of a multiprocessor.
const REGISTERS: u32 = 64 * 1024;
/// Registers are given to a warp in portions of so many.
const REGISTER_PORTION: u32 = 256;
/// A multiprocessor has so many parts, each with its own warps and registers.
const PARTS: u32 = 4;
/// Shared memory is given to a block in portions of so many bytes.
const SHARED_PORTION: u32 = 256;
const WARP: u32 = 32;

fn limits(architecture: u32) -> Option<Limits> {
    let (warps, blocks, kilobytes) = match architecture {
        75 => (32, 16, 64),
        80 => (64, 32, 164),
        86 => (48, 16, 100),
        87 => (48, 16, 164),
        89 => (48, 24, 100),
        90 | 100 | 103 => (64, 32, 228),
        120 | 121 => (48, 24, 100),
        _ => return None,
    };
    let shared_of_system = if architecture < 80 { 0 } else { 1024 };
    Some(Limits { warps, blocks, shared: kilobytes * 1024, shared_of_system })
}

/// How full a kernel can make a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// Blocks on a multiprocessor at once.
    pub blocks: u32,
    /// Warps of those blocks, as a share of the most there can be.
    pub share: f64,
}

/// Occupancy on an architecture (90 for `sm_90`), with no dynamic shared memory; none where its limits are not known here.
pub fn occupancy(kernel: &Resources, architecture: u32) -> Option<Occupancy> {
    let limits = limits(architecture)?;
    let warps = kernel.threads.div_ceil(WARP).max(1);
    let of_warp = (kernel.registers.max(1) * WARP).next_multiple_of(REGISTER_PORTION);
    let by_registers = REGISTERS / PARTS / of_warp * PARTS / warps;
    let shared = (kernel.shared + limits.shared_of_system).next_multiple_of(SHARED_PORTION);
    let by_shared = limits.shared.checked_div(shared).unwrap_or(u32::MAX);
    let blocks = (limits.warps / warps).min(limits.blocks).min(by_registers).min(by_shared);
    Some(Occupancy { blocks, share: f64::from(blocks * warps) / f64::from(limits.warps) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 112 bytes gmem
ptxas info    : Compiling entry function 'two' for 'sm_75'
ptxas info    : Function properties for two
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 61 registers, used 1 barriers, 19072 bytes smem, 432 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Compiling entry function 'one' for 'sm_75'
ptxas info    : Function properties for one
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
";
    const PTX: &str = ".visible .entry one(\n.param .u64 p\n)\n.maxntid 1, 1, 1\n{\nret;\n}\n\
                       .visible .entry two(\n.param .u64 p\n)\n.maxntid 256\n{\nret;\n}\n";

    #[test]
    fn the_log_is_read() {
        let table = table(LOG, PTX);
        let one = Resources { name: "one".into(), threads: 1, registers: 8, ..Resources::default() };
        let two = Resources {
            name: "two".into(),
            threads: 256,
            registers: 61,
            shared: 19072,
            stack: 8,
            spill_stores: 4,
            spill_loads: 12,
        };
        assert_eq!(table, [one, two]);
    }

    #[test]
    fn occupancy_is_held_down_by_registers_shared_memory_warps_or_blocks() {
        let of = |threads, registers, shared, architecture| {
            let kernel = Resources { threads, registers, shared, ..Resources::default() };
            occupancy(&kernel, architecture).map(|o| (o.blocks, o.share))
        };
        assert_eq!(of(256, 32, 0, 90), Some((8, 1.0)), "all warps");
        assert_eq!(of(256, 255, 0, 90), Some((1, 0.125)), "registers: 8 warps of 8,192");
        assert_eq!(of(128, 32, 47 * 1024, 90), Some((4, 0.25)), "shared memory: 48 KB with the system's, of 228");
        assert_eq!(of(32, 16, 0, 75), Some((16, 0.5)), "blocks");
        assert_eq!(of(256, 32, 0, 61), None, "limits not known");
    }
}
