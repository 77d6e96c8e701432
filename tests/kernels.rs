//! The CUDA kernels, compiled for every architecture with no GPU.
//!
//! Needs NVRTC (see `fused_lstm::cuda::find`). Where there is none, the tests that compile say that they are skipped, and
//! fail if `REQUIRE_NVRTC` is set.

mod support;

use flate2::{Compression, write::GzEncoder};
use fused_lstm::cuda::kernels::Kernels;
use fused_lstm::cuda::nvrtc::{Nvrtc, Target};
use fused_lstm::cuda::resources::Resources;
use fused_lstm::cuda::sequence_variant::SequenceVariant;
use fused_lstm::cuda::sources;
use fused_lstm::cuda::tf32_variant::Tf32Variant;
use fused_lstm::cuda::{
    device::Limits,
    find, kept,
    kept_variants::{self, KeptVariants},
    variant::{Division, Variant},
};
use fused_lstm::shape::Dims;
use fused_lstm::{Error, Result};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use support::{Folder, Run, nvrtc, program, run};

/// Every family of GPUs from Turing on.
const ARCHITECTURES: [&str; 7] = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];

/// Registers of a multiprocessor: a block must not need more.
const REGISTERS: u32 = 64 * 1024;

/// Shared memory that a block may have without asking for more, on every GPU.
const SHARED: u32 = 48 * 1024;

/// The kernels for each of [`ARCHITECTURES`]; compiled once, for it takes a second each.
fn compiled(nvrtc: &Nvrtc) -> &'static [Kernels] {
    static COMPILED: OnceLock<Vec<Kernels>> = OnceLock::new();
    COMPILED.get_or_init(|| ARCHITECTURES.map(|arch| Kernels::compile(nvrtc, arch).unwrap()).into())
}

/// The log of a compiler that rejects `source`.
fn log_of(nvrtc: &Nvrtc, source: &str, target: &Target) -> String {
    match nvrtc.compile(source, "kernels.cu", target) {
        Err(Error::Failed(log)) => log,
        other => panic!("{:?}", other.map(|compiled| compiled.log)),
    }
}

// ---- with NVRTC ----

fn check_resources(kernel: &Resources, architecture: &str) {
    let Resources { registers, threads, shared, .. } = *kernel;
    assert!(registers > 0 && threads > 0, "not read: {kernel:?}");
    assert_eq!([kernel.spill_stores, kernel.spill_loads, kernel.stack], [0; 3], "{architecture}: {kernel:?}");
    // A warp gets its registers in portions of 256.
    let of_block = threads.div_ceil(32) * (registers * 32).next_multiple_of(256);
    assert!(of_block <= REGISTERS, "{architecture}: {kernel:?}");
    assert!(shared <= SHARED, "{architecture}: {kernel:?}");
}

#[test]
fn every_kernel_keeps_to_the_resources_of_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut names = sources::names();
    names.sort();
    for (architecture, kernels) in ARCHITECTURES.into_iter().zip(compiled(&nvrtc)) {
        let compiled: Vec<_> = kernels.resources.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(compiled, names, "{architecture}");
        assert!(kernels.cubin.starts_with(b"\x7fELF"), "{architecture}");
        for kernel in &kernels.resources {
            check_resources(kernel, architecture);
            let occupancy = kernels.occupancy(kernel).expect("the limits of these architectures are known");
            assert!(occupancy.blocks >= 2, "{architecture}: {kernel:?} {occupancy:?}");
        }
    }
}

/// Families of GPUs that have the persistent kernels' instructions, and the shared memory that a block can have there.
const AMPERE_ON: [(&str, u32); 6] =
    [("sm_80", 163), ("sm_86", 99), ("sm_89", 99), ("sm_90", 227), ("sm_100", 227), ("sm_120", 99)];

/// A division of the work that the persistent kernels are held to their limits for, of a model of that many hidden units and
/// inputs.
type Model = (usize, usize, Division);

const fn divided(h: usize, i: usize, tiles: usize, cluster: usize) -> Model {
    (h, i, Division { tiles, cluster })
}

/// Few and many warps, of one group of units and of two, weights in shared memory; several tiles to a block, clusters.
const MODELS: [Model; 9] = [
    divided(16, 7, 1, 1),
    divided(112, 28, 1, 1),
    divided(128, 28, 1, 1),
    divided(192, 28, 1, 1),
    divided(128, 28, 8, 1),
    divided(128, 28, 1, 4),
    divided(256, 28, 2, 2),
    divided(256, 28, 1, 4),
    divided(512, 28, 1, 8),
];

/// A model on each of [`AMPERE_ON`], where it fits.
type OfModel = Vec<Option<(Variant, Kernels)>>;

/// The variants of [`MODELS`] that fit on each of [`AMPERE_ON`], compiled; once, for it takes two seconds each.
fn compiled_variants(nvrtc: &Nvrtc) -> &'static [OfModel] {
    static COMPILED: OnceLock<Vec<OfModel>> = OnceLock::new();
    let of = |(h, i, division): Model, (architecture, kilobytes): (&str, u32)| {
        let dims = Dims { t: 28, i, p: h, h, k: 10 };
        let number: u32 = architecture.trim_start_matches("sm_").parse().expect("their numbers");
        let limits = Limits { capability: (number / 10, number % 10), shared: kilobytes * 1024, multiprocessors: 100 };
        let variant = Variant::new(dims, division, &limits).ok()?;
        Some((variant, Kernels::compile_specialized(nvrtc, &variant.into(), architecture).unwrap()))
    };
    COMPILED.get_or_init(|| {
        MODELS.into_iter().map(|model| AMPERE_ON.into_iter().map(|gpu| of(model, gpu)).collect()).collect()
    })
}

#[test]
fn the_persistent_kernels_keep_to_the_resources_of_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut names = sources::persistent_names();
    names.sort();
    for ((h, i, division), of_model) in MODELS.into_iter().zip(compiled_variants(&nvrtc)) {
        for ((architecture, kilobytes), made) in AMPERE_ON.into_iter().zip(of_model) {
            let Some((variant, kernels)) = made else {
                let large = h > 128 || division != Division::ONE;
                assert!(large, "{h} hidden units and {i} inputs do not fit on {architecture}");
                continue;
            };
            let compiled: Vec<_> = kernels.resources.iter().map(|kernel| kernel.name.as_str()).collect();
            assert_eq!(compiled, names, "{architecture}");
            for kernel in &kernels.resources {
                check_resources(kernel, &format!("{architecture}, {variant:?}"));
            }
            assert!(variant.shared_bytes(10) <= kilobytes as usize * 1024, "{architecture} {variant:?}");
            for instruction in ["\tred.", "atom.global.add.f32", "atom.add.f32", "div.approx", "div.full"] {
                assert!(!kernels.ptx.contains(instruction), "{instruction}");
            }
        }
        assert!(of_model.iter().any(Option::is_some), "{h} hidden units and {i} inputs fit nowhere");
    }
}

/// Families of GPUs, their compute capability and the shared memory that a block can have there.
const TURING_ON: [(&str, (u32, u32), u32); 7] = [
    ("sm_75", (7, 5), 64),
    ("sm_80", (8, 0), 163),
    ("sm_86", (8, 6), 99),
    ("sm_89", (8, 9), 99),
    ("sm_90", (9, 0), 227),
    ("sm_100", (10, 0), 227),
    ("sm_120", (12, 0), 99),
];

/// Hidden units and sequences of a batch that the sequence kernels are held to their limits for: all weights in registers, one row
/// to a block, many of them, and clusters.
const BATCHES: [(usize, usize); 6] = [(60, 16), (128, 128), (128, 200), (128, 4096), (192, 128), (256, 128)];

/// A batch on each of [`TURING_ON`], where it fits.
type OfBatch = Vec<Option<(SequenceVariant, Kernels)>>;

/// The variants of [`BATCHES`] that fit on each of [`TURING_ON`], compiled; once, for it takes two seconds each.
fn compiled_sequences(nvrtc: &Nvrtc) -> &'static [OfBatch] {
    static COMPILED: OnceLock<Vec<OfBatch>> = OnceLock::new();
    let of = |(h, batch): (usize, usize), (architecture, capability, kilobytes): (&str, (u32, u32), u32)| {
        let dims = Dims { t: 28, i: 28, p: h, h, k: 10 };
        let limits = Limits { capability, shared: kilobytes * 1024, multiprocessors: 100 };
        let variant = SequenceVariant::new(dims, batch, &limits).ok()?;
        Some((variant, Kernels::compile_specialized(nvrtc, &variant.into(), architecture).unwrap()))
    };
    COMPILED.get_or_init(|| {
        BATCHES.into_iter().map(|batch| TURING_ON.into_iter().map(|gpu| of(batch, gpu)).collect()).collect()
    })
}

#[test]
fn the_sequence_kernels_keep_to_the_resources_of_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut names = sources::sequence_names();
    names.sort();
    for ((h, batch), of_batch) in BATCHES.into_iter().zip(compiled_sequences(&nvrtc)) {
        for ((architecture, capability, kilobytes), made) in TURING_ON.into_iter().zip(of_batch) {
            let Some((variant, kernels)) = made else {
                let fits = h <= 128 || capability >= (9, 0) && kilobytes > 200;
                assert!(!fits, "{h} hidden units and {batch} sequences do not fit on {architecture}");
                continue;
            };
            let compiled: Vec<_> = kernels.resources.iter().map(|kernel| kernel.name.as_str()).collect();
            assert_eq!(compiled, names, "{architecture}");
            for kernel in &kernels.resources {
                check_resources(kernel, &format!("{architecture}, {variant:?}"));
            }
            let shared = variant.shared_bytes_forward(true).max(variant.shared_bytes_forward(false));
            assert!(shared.max(variant.backward_bytes()) <= kilobytes as usize * 1024, "{architecture} {variant:?}");
            for instruction in ["\tatom.", "\tred.", "tanh.approx", "div.approx", "div.full"] {
                assert!(!kernels.ptx.contains(instruction), "{instruction}");
            }
            assert_eq!(kernels.ptx.contains("barrier.cluster"), variant.cluster > 1, "{variant:?}");
        }
        assert!(of_batch.iter().any(Option::is_some), "{h} hidden units and {batch} sequences fit nowhere");
    }
}

/// Hidden units and sequences of a batch that the TF32 kernels are held to their limits for: all weights in registers, blocks and
/// clusters, warps of one group and of two, and the most units that fit.
const TF32_BATCHES: [(usize, usize); 7] =
    [(16, 16), (60, 16), (112, 128), (128, 128), (128, 4096), (192, 128), (256, 128)];

/// A batch on each of [`TURING_ON`], where it fits.
type OfTf32Batch = Vec<Option<(Tf32Variant, Kernels)>>;

/// The variants of [`TF32_BATCHES`] that fit on each of [`TURING_ON`], compiled; once.
fn compiled_tf32(nvrtc: &Nvrtc) -> &'static [OfTf32Batch] {
    static COMPILED: OnceLock<Vec<OfTf32Batch>> = OnceLock::new();
    let of = |(h, batch): (usize, usize), (architecture, capability, kilobytes): (&str, (u32, u32), u32)| {
        let dims = Dims { t: 28, i: 28, p: h, h, k: 10 };
        let limits = Limits { capability, shared: kilobytes * 1024, multiprocessors: 100 };
        let variant = Tf32Variant::new(dims, batch, &limits).ok()?;
        Some((variant, Kernels::compile_specialized(nvrtc, &variant.into(), architecture).unwrap()))
    };
    COMPILED.get_or_init(|| {
        TF32_BATCHES.into_iter().map(|batch| TURING_ON.into_iter().map(|gpu| of(batch, gpu)).collect()).collect()
    })
}

#[test]
fn the_tf32_kernels_keep_to_the_resources_of_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut names = sources::tf32_names();
    names.sort();
    for ((h, batch), of_batch) in TF32_BATCHES.into_iter().zip(compiled_tf32(&nvrtc)) {
        for ((architecture, capability, kilobytes), made) in TURING_ON.into_iter().zip(of_batch) {
            let Some((variant, kernels)) = made else {
                let fits = capability >= (8, 0) && (h <= 112 || h <= 128 && kilobytes > 100);
                assert!(!fits, "{h} hidden units and {batch} sequences do not fit on {architecture}");
                continue;
            };
            assert!(capability >= (8, 0), "{architecture} has no TF32");
            let compiled: Vec<_> = kernels.resources.iter().map(|kernel| kernel.name.as_str()).collect();
            assert_eq!(compiled, names, "{architecture}");
            for kernel in &kernels.resources {
                check_resources(kernel, &format!("{architecture}, {variant:?}"));
            }
            let shared = variant.forward_bytes().max(variant.backward_bytes());
            assert!(shared <= kilobytes as usize * 1024, "{architecture} {variant:?}");
            for instruction in ["\tatom.", "\tred.", "tanh.approx", "div.approx", "div.full"] {
                assert!(!kernels.ptx.contains(instruction), "{instruction}");
            }
            assert_eq!(kernels.ptx.contains("barrier.cluster"), variant.cluster > 1, "{variant:?}");
        }
        assert!(of_batch.iter().any(Option::is_some), "{h} hidden units and {batch} sequences fit nowhere");
    }
}

#[test]
fn ptx_has_no_float_atomics_and_no_fast_math() {
    let Some(nvrtc) = nvrtc() else { return };
    let ptx = Kernels::compile(&nvrtc, "sm_75").unwrap().ptx;
    for instruction in ["\tatom.", "\tred.", "tanh.approx", "div.approx", "div.full", "sqrt.approx"] {
        assert!(!ptx.contains(instruction), "{instruction}");
    }
    for instruction in ["fma.rn.f32", "div.rn.f32", "sqrt.rn.f32", "bar.sync", "shfl.sync"] {
        assert!(ptx.contains(instruction), "{instruction}");
    }
}

#[test]
fn a_mistake_is_told_with_our_file_and_line() {
    let Some(nvrtc) = nvrtc() else { return };
    for (file, line_above) in [
        ("kernels/adam.cu", "constexpr int ADAM_THREADS = 256;\n"),
        ("kernels/lstm.cu", "constexpr int GATES = 4;\n"),
        ("kernels/softmax_xent.cu", "constexpr int METRICS_THREADS = 256;\n"),
    ] {
        let own = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let before = own.split_once(line_above).expect("the line stands in the file").0;
        let line = before.matches('\n').count() + 2;
        let planted = sources::KERNELS.replacen(line_above, &format!("{line_above}int planted = ;\n"), 1);
        for target in [Target::Cubin("sm_90".into()), Target::Ptx("compute_75".into())] {
            let log = log_of(&nvrtc, &planted, &target);
            assert!(log.contains(&format!("{file}({line}): error")), "{file} {line}: {log}");
            assert!(log.contains(target.architecture()), "{log}");
        }
    }
}

#[test]
fn too_much_shared_memory_is_told() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "#line 1 \"kernels/big.cu\"\nextern \"C\" __global__ void big(float* out) {\n  \
                  __shared__ float tile[16384];\n  tile[threadIdx.x] = 1.0f;\n  __syncthreads();\n  \
                  out[threadIdx.x] = tile[threadIdx.x ^ 1];\n}\n";
    let log = log_of(&nvrtc, source, &Target::Cubin("sm_90".into()));
    assert!(log.contains("too much shared data"), "{log}");
}

#[test]
fn an_architecture_it_does_not_know_is_refused() {
    let Some(nvrtc) = nvrtc() else { return };
    let error = Kernels::compile(&nvrtc, "sm_20").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("sm_20") && error.to_string().contains("sm_90"), "{error}");
}

#[test]
fn the_command_prints_a_table_or_json_and_writes_files() {
    if nvrtc().is_none() {
        return;
    }
    let folder = Folder::new();
    let table = folder.run_plain("kernels --arch sm_80 --emit @made").succeeds();
    assert!(table.out.lines().any(|line| line.starts_with("lstm_forward_step ")), "{table:#?}");
    assert_eq!(support::names(&folder.path("made")), ["kernels.cu", "kernels.sm_80.cubin", "kernels.sm_80.ptx"]);
    assert_eq!(fs::read_to_string(folder.path("made/kernels.cu")).unwrap(), sources::KERNELS);

    let json = run(&["kernels", "--json"]).succeeds().json();
    assert_eq!((json.len(), json[0]["arch"].as_str()), (1, Some("sm_90")));
    assert_eq!(json[0]["sources_sha256"].as_str(), Some(sources::hash().as_str()));
    let kernels = json[0]["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), sources::names().len());
    assert!(kernels.iter().all(|kernel| kernel["spill_loads"] == 0 && kernel["occupancy"].as_f64() > Some(0.0)));

    fs::write(folder.path("file"), "").unwrap();
    folder.run_plain("kernels --emit @file").fails_in_one_line(1, &["file", "cannot create the folder"]);
    run(&["kernels", "--arch", "sm_20"]).fails_in_one_line(2, &["--arch sm_20", "choose one of sm_", "sm_75"]);
}

// ---- files that are kept, made by one release of NVRTC ----

const RESOURCES: &str = "kernels/RESOURCES.md";

/// The whole version of `nvrtc`, such as `13.0.88`; its own function tells two numbers of the three.
fn release(nvrtc: &Nvrtc) -> String {
    let ptx = nvrtc.compile("", "empty.cu", &Target::Ptx(kept::ARCHITECTURE.into())).unwrap();
    let ptx = String::from_utf8(ptx.code).unwrap();
    kept::compiler(&ptx).expect("the compiler signs its PTX").to_owned()
}

/// Whether `nvrtc` is the release that a kept file is of: what another one makes may differ.
fn is_release(nvrtc: &Nvrtc, kept: &str, file: &str) -> bool {
    let own = release(nvrtc);
    if own != kept {
        assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "{file} is of NVRTC {kept}, and this is {own}");
        println!("skipped: {file} is of NVRTC {kept}, and this is {own}");
    }
    own == kept
}

/// What stands in [`RESOURCES`].
fn resource_document(
    release: &str,
    compiled: &[Kernels],
    variants: &[OfModel],
    sequences: &[OfBatch],
    tf32: &[OfTf32Batch],
) -> String {
    let table = |title: &str, cell: &dyn Fn(&Kernels, &Resources) -> String| {
        let mut text = format!("\n## {title}\n\n| kernel | threads | {} |\n", ARCHITECTURES.join(" | "));
        text += &format!("| --- | --- |{}\n", " --- |".repeat(ARCHITECTURES.len()));
        for (row, kernel) in compiled[0].resources.iter().enumerate() {
            let cells = compiled.iter().map(|kernels| format!(" {} |", cell(kernels, &kernels.resources[row])));
            text += &format!("| `{}` | {} |{}\n", kernel.name, kernel.threads, cells.collect::<String>());
        }
        text
    };
    let occupancy = |kernels: &Kernels, kernel: &Resources| {
        let occupancy = kernels.occupancy(kernel).expect("the limits of these architectures are known");
        format!("{}, {:.0} %", occupancy.blocks, occupancy.share * 100.0)
    };
    let to_memory = |kernel: &Resources| kernel.spill_stores + kernel.spill_loads + kernel.stack;
    let spilling = compiled.iter().flat_map(|kernels| &kernels.resources).any(|kernel| to_memory(kernel) > 0);
    let spills =
        |_: &Kernels, kernel: &Resources| format!("{} + {}, {}", kernel.spill_stores, kernel.spill_loads, kernel.stack);
    format!(
        "# What the kernels take of a multiprocessor\n\n\
         As NVRTC {release} compiles them, at their largest block. `tests/kernels.rs` compares every number; renew them with\n\
         `{}`. `fused-lstm kernels --arch sm_90` prints them for one\narchitecture, of the NVRTC that is there.\n{}{}{}{}",
        kept::RENEW,
        table("Registers of a thread", &|_, kernel| kernel.registers.to_string()),
        table("Static shared memory of a block, in bytes", &|_, kernel| kernel.shared.to_string()),
        match spilling {
            true => table("Spills of a thread, bytes stored + loaded, and its stack, bytes", &spills),
            false => "\n## Spills and stack\n\nNone, in any kernel on any of these architectures.\n".into(),
        },
        table("Blocks on a multiprocessor at once, and occupancy", &occupancy),
    ) + &persistent_document(variants)
        + &sequence_document(sequences)
        + &tf32_document(tf32)
}

/// What the sequence kernels take, one block of a multiprocessor.
fn sequence_document(sequences: &[OfBatch]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = String::from(
        "\n# What the sequence kernels take\n\nNone spills, on any of these architectures. As they are chosen for 100 multiprocessors \
         and 28 steps.\n\n## How the work is shared out: blocks of a cluster × rows of a block; places of weights in shared memory of \
         all places of a thread; registers of a thread forward, backward; shared memory of a block backward, in bytes\n\n",
    );
    let names = TURING_ON.map(|(architecture, ..)| architecture.to_owned());
    text += &line(["H, B, threads".to_owned()].into_iter().chain(names).collect());
    text += &line(vec!["---".into(); 1 + TURING_ON.len()]);
    for ((h, batch), of_batch) in BATCHES.into_iter().zip(sequences) {
        let cell = |made: &Option<(SequenceVariant, Kernels)>| {
            let Some((variant, kernels)) = made else { return "does not fit".into() };
            let registers =
                |name| kernels.resources.iter().find(|kernel| kernel.name == name).expect("it is there").registers;
            let SequenceVariant { cluster, rows, backward_shared, .. } = *variant;
            let (forward, backward) = (registers("sequence_forward"), registers("sequence_backward"));
            let (places, bytes) = (variant.places(), variant.backward_bytes());
            format!("{cluster} × {rows}; {backward_shared} of {places}; {forward}, {backward}; {bytes}")
        };
        let threads = of_batch.iter().flatten().next().map_or(0, |(variant, _)| variant.threads());
        text += &line([format!("{h}, {batch}, {threads}")].into_iter().chain(of_batch.iter().map(cell)).collect());
    }
    text
}

/// What the TF32 kernels take, one block of a multiprocessor.
fn tf32_document(batches: &[OfTf32Batch]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = String::from(
        "\n# What the TF32 kernels take\n\nNone spills, on any of these architectures. As they are chosen for 100 multiprocessors \
         and 28 steps.\n\n## How the work is shared out: blocks of a cluster × threads of a block; operand tiles in shared memory forward, \
         backward, of all of a warp; registers of a thread forward, backward; shared memory of a block forward, backward, in bytes\n\n",
    );
    let gpus = &TURING_ON[1..];
    text += &line(["H, B".to_owned()].into_iter().chain(gpus.iter().map(|(name, ..)| (*name).to_owned())).collect());
    text += &line(vec!["---".into(); 1 + gpus.len()]);
    for ((h, batch), of_batch) in TF32_BATCHES.into_iter().zip(batches) {
        let cell = |made: &Option<(Tf32Variant, Kernels)>| {
            let Some((variant, kernels)) = made else { return "does not fit".into() };
            let registers =
                |name| kernels.resources.iter().find(|kernel| kernel.name == name).expect("it is there").registers;
            let Tf32Variant { cluster, forward_shared, backward_shared, .. } = *variant;
            let (threads, places) = (variant.threads(), variant.places());
            let (forward, backward) = (registers("tf32_forward"), registers("tf32_backward"));
            let (forward_bytes, backward_bytes) = (variant.forward_bytes(), variant.backward_bytes());
            format!(
                "{cluster} × {threads}; {forward_shared}, {backward_shared} of {places}; {forward}, {backward}; \
                 {forward_bytes}, {backward_bytes}"
            )
        };
        text += &line([format!("{h}, {batch}")].into_iter().chain(of_batch[1..].iter().map(cell)).collect());
    }
    text
}

/// What the persistent kernels take: of their largest, which one block of a multiprocessor runs, for all models; of the others for
/// one.
fn persistent_document(variants: &[OfModel]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head = |first: &str| {
        let names = AMPERE_ON.map(|(architecture, _)| architecture.to_owned());
        line([first.to_owned()].into_iter().chain(names).collect()) + &line(vec!["---".into(); 1 + AMPERE_ON.len()])
    };
    let mut text = String::from(
        "\n# What the persistent kernels take\n\nNone spills, on any of these architectures.\n\n\
         ## `persistent_lstm`: registers of a thread; shared memory of a block of 10 classes, in bytes\n\n",
    );
    text += &head("H, I; tiles of a block; blocks of a cluster; threads");
    for ((h, i, Division { tiles, cluster }), of_model) in MODELS.into_iter().zip(variants) {
        let cell = |made: &Option<(Variant, Kernels)>| match made {
            Some((variant, kernels)) => {
                let kernel = kernels.resources.iter().find(|kernel| kernel.name == "persistent_lstm");
                format!("{}; {}", kernel.expect("it is there").registers, variant.shared_bytes(10))
            }
            None => "does not fit".into(),
        };
        let threads = of_model.iter().flatten().next().map_or(0, |(variant, _)| variant.threads());
        text += &line(
            [format!("{h}, {i}; {tiles}; {cluster}; {threads}")].into_iter().chain(of_model.iter().map(cell)).collect(),
        );
    }
    text +=
        "\n## The others, for H = 128, I = 28: registers of a thread; static shared memory of a block, in bytes\n\n";
    text += &head("kernel, threads");
    let of_model =
        &variants[MODELS.iter().position(|model| *model == divided(128, 28, 1, 1)).expect("it is among them")];
    let all: Vec<&Kernels> = of_model.iter().flatten().map(|(_, kernels)| kernels).collect();
    for (row, kernel) in all[0].resources.iter().enumerate().filter(|(_, kernel)| kernel.name != "persistent_lstm") {
        let cells = all.iter().map(|kernels| {
            let Resources { registers, shared, .. } = kernels.resources[row];
            format!("{registers}; {shared}")
        });
        text += &line([format!("`{}`, {}", kernel.name, kernel.threads)].into_iter().chain(cells).collect());
    }
    text
}

/// Lines at which two texts begin to differ.
fn difference(kept: &str, made: &str) -> String {
    let count = kept.lines().zip(made.lines()).take_while(|(kept, made)| kept == made).count();
    let line = |text: &str| text.lines().nth(count).unwrap_or("(its end)").to_owned();
    format!("line {}: kept {:?}, made {:?}", count + 1, line(kept), line(made))
}

fn check_kept(kept: &str, made: &str, file: &str) {
    assert!(kept == made, "{file} is stale, {}; renew it with\n{}", difference(kept, made), kept::RENEW);
}

#[test]
fn the_kept_ptx_is_what_the_compiler_makes() {
    let Some(nvrtc) = nvrtc() else { return };
    let of = kept::compiler(kept::ptx()).expect("the kept PTX tells its compiler");
    if is_release(&nvrtc, of, kept::PATH) {
        check_kept(kept::ptx(), &kept::make(&nvrtc).unwrap(), kept::PATH);
    }
}

#[test]
fn the_document_tells_the_resources_of_every_kernel() {
    let Some(nvrtc) = nvrtc() else { return };
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RESOURCES)).unwrap();
    let of = document.split_once("As NVRTC ").and_then(|(_, rest)| rest.split(' ').next());
    let of = of.expect("the document tells its compiler");
    if is_release(&nvrtc, of, RESOURCES) {
        check_kept(
            &document,
            &resource_document(
                of,
                compiled(&nvrtc),
                compiled_variants(&nvrtc),
                compiled_sequences(&nvrtc),
                compiled_tf32(&nvrtc),
            ),
            RESOURCES,
        );
    }
}

fn check_kept_variants(kept: &KeptVariants) {
    let Some(nvrtc) = nvrtc() else { return };
    let text = kept.text().unwrap();
    let of = kept::compiler(&text).expect("the kept PTX tells its compiler");
    if is_release(&nvrtc, of, kept.path) {
        check_kept(&text, &kept.make(&nvrtc).unwrap(), kept.path);
    }
}

#[test]
fn the_kept_persistent_kernels_are_what_the_compiler_makes() {
    check_kept_variants(&kept_variants::PERSISTENT);
}

#[test]
fn the_kept_sequence_kernels_are_what_the_compiler_makes() {
    check_kept_variants(&kept_variants::SEQUENCE);
}

#[test]
fn the_kept_tf32_kernels_are_what_the_compiler_makes() {
    check_kept_variants(&kept_variants::TF32);
}

fn packed(text: &str) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap()
}

#[test]
#[ignore = "writes the kept files afresh"]
fn renew_the_kept_files() {
    let nvrtc = Nvrtc::open().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::write(root.join(kept::PATH), kept::make(&nvrtc).unwrap()).unwrap();
    for kept in kept_variants::ALL {
        fs::write(root.join(kept.path), packed(&kept.make(&nvrtc).unwrap())).unwrap();
    }
    let (of, compiled, variants) = (release(&nvrtc), compiled(&nvrtc), compiled_variants(&nvrtc));
    let (sequences, tf32) = (compiled_sequences(&nvrtc), compiled_tf32(&nvrtc));
    fs::write(root.join(RESOURCES), resource_document(&of, compiled, variants, sequences, tf32)).unwrap();
}

// ---- without NVRTC ----

fn open(place: &Path) -> Result<Nvrtc> {
    Nvrtc::open_first(&find::named(place))
}

#[test]
fn a_missing_library_is_an_error_that_lists_the_places() {
    let folder = Folder::new();
    let place = folder.path("nowhere");
    let error = open(&place).err().expect("there is no library");
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(place.to_str().unwrap()) && text.contains("pip install nvidia-cuda-nvrtc"), "{text}");
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let folder = Folder::new();
    let file = folder.path("libnvrtc.so.13");
    for content in ["", "not a library"] {
        fs::write(&file, content).unwrap();
        for place in [&file, file.parent().unwrap()] {
            let error = open(place).err().expect("that is no library");
            assert_eq!(error.exit_code(), 4);
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        }
    }
}

#[test]
fn the_command_tells_of_a_missing_library_in_one_line() {
    let folder = Folder::new();
    let place = folder.text("nowhere");
    let run = Run::new(program().arg("kernels").env("FUSED_LSTM_NVRTC", &place).output().unwrap());
    run.fails_in_one_line(4, &[&place, "pip install nvidia-cuda-nvrtc"]);
}
