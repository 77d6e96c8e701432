//! The CUDA path: the kernels' text, their compilation when the program runs, and the engine that drives them.
//!
//! | module | what |
//! | --- | --- |
//! | [`sources`] | the embedded text of `kernels/`, and its hash |
//! | [`tiles`] | sizes of blocks and tiles, out of that text |
//! | [`find`] | where NVRTC may lie |
//! | [`nvrtc`] | the library, opened when it is needed; compiling |
//! | [`program`] | what the device runs: from the cache, compiled, or kept |
//! | [`cache`] | compiled kernels on disk |
//! | [`kernels`] | all kernels, compiled for one architecture |
//! | [`kept`] | the kernels' PTX that is kept in the repository |
//! | [`resources`] | registers, shared memory, spills and occupancy of each kernel |
//! | [`device`] | the seam: memory, launches, recorded launches |
//! | [`driver`] | a real GPU behind it, through NVIDIA's driver |
//! | `emulated` | the emulator behind it (feature `emulator`) |
//! | [`estimate`] | how much memory something takes |
//! | [`gather`], [`linear`], [`lstm`], [`layers`], [`softmax_xent`], [`adam`] | the launchers, one file for each file of kernels |
//! | [`weights`], [`forward`], [`backward`] | buffers, and the launches of a batch |
//! | [`stack`] | the same for models beyond the tutorial's |
//! | [`variant`], [`persistent`], [`inference`] | the persistent kernels: sizes they are compiled for, buffers and launches |
//! | [`sequence_variant`], [`sequence`] | the sequence kernels: how they share out the work, weights and launches |
//! | [`tf32_variant`] | the same kernels with their products in TF32: how they share out the work |
//! | [`specialized`] | one of these units, as a device loads it |
//! | [`plan`] | which kernels train a model, and why |
//! | [`tune`] | which of the plans with the same bits is the fastest: timed once, then kept |
//! | [`engine`] | the engine: data, recorded iterations, results |
//! | [`side_by_side`] | trainings of one size at the same time, in the same launches |
//! | [`cost`] | bytes and operations of a launch, out of its arguments |
//! | [`micro`] | latencies and rates of a GPU, by kernels of their own |
//! | [`profiled`], [`profile`] | a device that times every launch; where the time of an iteration goes |
//!
//! Nothing of NVIDIA's is needed to build this, and a library that is missing is an [`crate::Error::Device`].

pub mod adam;
pub mod backward;
pub mod cache;
pub mod cost;
pub mod device;
pub mod driver;
#[cfg(feature = "emulator")]
pub mod emulated;
pub mod engine;
pub mod estimate;
pub mod find;
pub mod forward;
pub mod gather;
pub mod inference;
pub mod kept;
#[cfg(feature = "emulator")]
pub mod kept_variants;
pub mod kernels;
pub mod layers;
pub mod linear;
pub mod lstm;
pub mod micro;
pub mod nvrtc;
pub mod persistent;
pub mod plan;
pub mod profile;
pub mod profiled;
pub mod program;
pub mod resources;
pub mod sequence;
pub mod sequence_variant;
pub mod side_by_side;
pub mod softmax_xent;
pub mod sources;
pub mod specialized;
pub mod stack;
pub mod tf32_variant;
pub mod tiles;
pub mod tune;
pub mod variant;
pub mod weights;

pub use engine::CudaEngine;
