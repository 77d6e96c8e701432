//! The CUDA path, as far as it needs no GPU: the kernels' text, and their compilation by NVRTC when the program runs.
//!
//! | module | what |
//! | --- | --- |
//! | [`sources`] | the embedded text of `kernels/`, and its hash |
//! | [`find`] | where NVRTC may lie |
//! | [`nvrtc`] | the library, opened when it is needed; compiling |
//! | [`program`] | what the device runs: from the cache, compiled, or kept |
//! | [`cache`] | compiled kernels on disk |
//! | [`kernels`] | all kernels, compiled for one architecture |
//! | [`kept`] | the kernels' PTX that is kept in the repository |
//! | [`resources`] | registers, shared memory, spills and occupancy of each kernel |
//!
//! Nothing of NVIDIA's is needed to build this, and a library that is missing is an [`crate::Error::Device`].

pub mod cache;
pub mod find;
pub mod kept;
pub mod kernels;
pub mod nvrtc;
pub mod program;
pub mod resources;
pub mod sources;
