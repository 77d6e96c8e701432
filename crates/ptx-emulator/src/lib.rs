//! Executes PTX on the CPU, with a sanitizer.
//!
//! PTX is what the CUDA compiler makes of a kernel. This crate parses it and runs it, warp by warp, with no GPU, and
//! stops at the first bug: a race between threads of a block or of two blocks, an access out of bounds or misaligned, a
//! read of memory that nobody has written, a barrier or shuffle that not all its threads reach, a deadlock, an endless
//! loop. A report names kernel, source line (when the PTX has line information), block and thread.
//!
//! ```
//! use ptx_emulator::{Arg, Memory, Module, Options, Shape};
//!
//! let module = Module::parse(
//!     ".version 9.0
//!      .target sm_75
//!      .address_size 64
//!      .visible .entry twice(.param .u64 data) {
//!          .reg .b32 %r<2>; .reg .f32 %f<2>; .reg .b64 %rd<3>;
//!          ld.param.u64 %rd0, [data];
//!          mov.u32 %r0, %tid.x;
//!          mul.wide.u32 %rd1, %r0, 4;
//!          add.s64 %rd2, %rd0, %rd1;
//!          ld.global.f32 %f0, [%rd2];
//!          add.f32 %f1, %f0, %f0;
//!          st.global.f32 [%rd2], %f1;
//!          ret;
//!      }",
//! )?;
//! let mut memory = Memory::new();
//! let data = memory.alloc_f32("data", &[1.0, 2.0, 3.0]);
//! let shape = Shape { grid: [1, 1, 1], block: [3, 1, 1], ..Shape::default() };
//! module.launch("twice", &shape, &[Arg::U64(data)], &mut memory, &Options::default())?;
//! assert_eq!(memory.read_f32(data, 3)?, [2.0, 4.0, 6.0]);
//! # Ok::<(), ptx_emulator::Error>(())
//! ```
//!
//! With all checks a warp instruction takes some 20 ns on a processor with AVX2, and some 25% less with
//! [`Options::sanitize`] off; `examples/timing.rs` measures it.
//!
//! Blocks run one after another, in an order that the schedule's seed shuffles: a kernel that waits for another block is
//! reported as endless. Only the blocks of a cluster run side by side. `.rn` instructions are exact to the bit; `.approx`
//! ones are computed in f64 and rounded, so that they lie within the error that the PTX manual allows, and need not have
//! the bits that a GPU gives. The same holds for products on tensor cores (`mma`), whose sums are rounded once.
//!
//! A launch can be one that may start before those before it have ended ([`Shape::dependent`]). Launches still run one after
//! another, but until a warp's threads have done `griddepcontrol.wait` all that those launches touched counts as touched at the same
//! time, and to exit without it is reported: then a wait for one launch is a wait for all before it.
//!
//! What goes on beside a thread is checked as such: bytes that `cp.async` copies are nobody's until its group was waited
//! for, and those that `st.async` stores until the phase of its `mbarrier` was seen to be over. The shared memory of
//! another block of the cluster may be reached only between a barrier of the cluster that shows that it has started, and
//! one that it waits for before it exits.
//!
//! An instruction form that is not known is an error that names it, when the text is parsed.

mod access;
mod compute;
mod cpu;
mod decode;
mod exec;
mod launch;
mod lexer;
mod link;
mod memory;
mod mma;
mod names;
mod narrow;
mod op;
mod order;
mod parse;
mod registers;
mod report;
mod shadow;
mod value;
mod variable;

pub use launch::{Arg, Options, Shape, Stats};
pub use memory::Memory;
pub use parse::Module;
pub use report::{Error, Kind, Report};
