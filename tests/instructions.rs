//! The emulator against real GPUs, instruction form by instruction form (`tests/instructions/forms.cu`): where there is a
//! GPU, now; everywhere, against what GPUs gave before, kept in `tests/instructions/gpu-*.txt`. This closes the hole that
//! kernel and emulator could share one misunderstanding.
//!
//! With NVRTC, `cargo test --test instructions -- --ignored renew` makes the forms' PTX afresh. On a GPU, with
//! `INSTRUCTIONS_OUT` naming a folder, the results are left there, to be kept.

mod support;

use fused_lstm::cuda::device::{Arg, Buffer, Device, Launch};
use fused_lstm::cuda::driver::Driver;
use fused_lstm::cuda::emulated::Emulated;
use fused_lstm::cuda::nvrtc::{Nvrtc, Target};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SOURCE: &str = include_str!("instructions/forms.cu");
const PTX: &str = include_str!("instructions/forms.compute_80.ptx");
const RENEW: &str = "cargo test --test instructions -- --ignored renew";

/// Values of 32 bits that are troublesome as floats or as whole numbers.
const VALUES: [u32; 40] = [
    0x0000_0000, // 0
    0x8000_0000, // -0, and the least whole number
    0x0000_0001, // the least float, and 1
    0x8000_0001,
    0x007f_ffff, // the largest subnormal
    0x807f_ffff,
    0x0080_0000, // the least normal
    0x8080_0000,
    0x7f7f_ffff, // the largest
    0xff7f_ffff,
    0x7f80_0000, // infinity
    0xff80_0000,
    0x7fc0_0000, // NaN
    0x7f80_0001, // a signalling NaN
    0xffff_ffff, // NaN, and -1
    0x7fff_ffff, // NaN, and the largest whole number
    0x3f80_0000, // 1
    0xbf80_0000,
    0x3f80_0001, // the float after 1
    0x3f7f_ffff, // the float before 1
    0x3f00_0000, // 0.5
    0x3fc0_0000, // 1.5
    0x4020_0000, // 2.5
    0xc020_0000,
    0x3f80_8000, // a tie of bf16
    0x3f81_8000,
    0x3f80_1000, // a tie of tf32 and of f16
    0x3f80_3000,
    0x4049_0fdb, // pi
    0xc2ae_ac50, // -87.33…: e to it is the least normal
    0x42b1_7218, // 88.72…: e to it is the largest
    0x4f00_0000, // 2^31
    0xcf00_0000,
    0x4f80_0000, // 2^32
    0x477f_e000, // the largest f16
    0x3380_0000, // 2^-24, the least f16
    0x1234_5678,
    0x9abc_def0,
    0x0000_001f,
    0x0000_0020,
];

/// All pairs, and a third value with each; filled up to whole warps.
fn inputs() -> [Vec<u32>; 3] {
    let n = VALUES.len();
    let pairs = (n * n).next_multiple_of(32);
    let value = |at: usize| VALUES[at % n];
    [
        (0..pairs).map(|at| value(at / n)).collect(),
        (0..pairs).map(value).collect(),
        (0..pairs).map(|at| value(at * 7 + at / n * 3 + 5)).collect(),
    ]
}

/// Names of the forms, in the order of the PTX.
fn forms() -> Vec<&'static str> {
    let entries = PTX.split(".visible .entry ").skip(1);
    entries.filter_map(|entry| entry.split('(').next()).collect()
}

const BLOCK: u32 = 256;

#[allow(unsafe_code)]
fn results<D: Device>(device: &D) -> BTreeMap<&'static str, Vec<u32>> {
    let inputs = inputs();
    let n = inputs[0].len();
    let inputs = inputs.map(|values| Buffer::from_slice(device, "input", &values).unwrap());
    let run = |kernel: &'static str| {
        let out = Buffer::<D, u32>::new(device, "output", n).unwrap();
        let mut args: Vec<Arg> = inputs.iter().map(|input| Arg::Address(input.all().address())).collect();
        args.extend([Arg::Address(out.all().address()), Arg::I32(n as i32)]);
        let grid = [(n as u32).div_ceil(BLOCK), 1, 1];
        let launch =
            Launch { kernel, grid, block: [BLOCK, 1, 1], cluster: [1; 3], shared: 0, dependent: false, args: &args };
        // SAFETY: every form reads n values of each input and writes n results, as the head of its file says.
        unsafe { device.launch(&launch) }.unwrap_or_else(|error| panic!("{kernel}: {error}"));
        (kernel, out.download(device, n).unwrap())
    };
    forms().into_iter().map(run).collect()
}

fn emulated() -> BTreeMap<&'static str, Vec<u32>> {
    results(&Emulated::new(PTX, Default::default()).unwrap())
}

/// Whether two results of a form may be of one instruction: the same bits, or as near as the manual of PTX says.
fn agree(form: &str, a: u32, b: u32) -> bool {
    let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
    match form {
        _ if a == b => true,
        _ if form.starts_with("exact_") => false,
        _ if x.is_nan() || y.is_nan() => x.is_nan() && y.is_nan(),
        _ if x.is_infinite() || y.is_infinite() => false,
        // Absolute near 1, where the logarithm is near 0: 2^-22.6. The hyperbolic tangent: 2^-11.
        "near_lg2_approx_f32" => (x - y).abs() <= 2f64.powi(-21) * x.abs().max(1.0),
        "near_tanh_approx_f32" => (x - y).abs() <= 2f64.powi(-10) * x.abs().max(1e-30),
        // Two units in the last place; subnormal results may be zero.
        _ => (x - y).abs() <= 2f64.powi(-21) * x.abs() + f64::from(f32::MIN_POSITIVE),
    }
}

fn compare(of: &str, emulated: &BTreeMap<&str, Vec<u32>>, gpu: &BTreeMap<&str, Vec<u32>>) {
    let [a, b, c] = inputs();
    let mut wrong = Vec::new();
    for (form, expected) in gpu {
        let got = emulated.get(form).unwrap_or_else(|| panic!("{form} of {of} is no form any more"));
        let bad = (0..expected.len()).find(|&at| !agree(form, got[at], expected[at]));
        wrong.extend(bad.map(|at| {
            let (got, expected) = (got[at], expected[at]);
            format!("{form} of {:#x}, {:#x}, {:#x}: {got:#x}, and {expected:#x} on {of}", a[at], b[at], c[at])
        }));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn written(results: &BTreeMap<&str, Vec<u32>>) -> String {
    let line = |(form, values): (&&str, &Vec<u32>)| {
        let values: Vec<_> = values.iter().map(|value| format!("{value:x}")).collect();
        format!("{form} {}\n", values.join(" "))
    };
    results.iter().map(line).collect()
}

fn read(text: &str) -> BTreeMap<&str, Vec<u32>> {
    let value = |word: &str| u32::from_str_radix(word, 16).expect("values are written in hexadecimal");
    let lines = text.lines().map(|line| line.split_once(' ').expect("a form, and its results"));
    lines.map(|(form, values)| (form, values.split(' ').map(value).collect())).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions")
}

#[test]
fn results_of_gpus_are_reproduced() {
    let emulated = emulated();
    assert!(emulated.len() >= 65, "{} forms", emulated.len());
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        compare(&file.file_stem().unwrap().to_string_lossy(), &emulated, &read(&text));
    }
    println!("{} forms run; results of {} GPUs are kept", emulated.len(), files.len());
}

/// What a few forms give is known without a GPU, by the manual of PTX.
#[test]
fn results_that_are_known_hold() {
    let emulated = emulated();
    let [a, b, _] = inputs();
    let of = |form: &str, x: u32, y: u32| {
        let at = (0..a.len()).find(|&at| (a[at], b[at]) == (x, y)).unwrap();
        emulated[form][at]
    };
    assert_eq!(of("exact_add_rn_f32", 0x3f80_0000, 0x3f80_0000), 0x4000_0000);
    assert_eq!(of("exact_min_f32", 0x7fc0_0000, 0x3f80_0000), 0x3f80_0000, "a NaN gives way to a number");
    assert_eq!(of("exact_add_ftz_f32", 0x0000_0001, 0x0000_0000), 0, "subnormals are zero");
    assert_eq!(of("exact_shl_b32", 0x1234_5678, 0x0000_0020), 0, "shifted by 32");
    assert_eq!(of("exact_cvt_rzi_s32_f32", 0x7fc0_0000, 0), 0, "NaN as a whole number");
    assert_eq!(of("exact_cvt_rzi_s32_f32", 0x4f00_0000, 0), 0x7fff_ffff, "too large for a whole number");
    assert_eq!(of("exact_cvt_rn_bf16x2_f32", 0x3f80_8000, 0x3f81_8000), 0x3f80_3f82, "ties to even");
    assert_eq!(of("exact_setp_gtu_f32", 0x7fc0_0000, 0x3f80_0000), 1, "unordered");
    assert_eq!(of("near_ex2_approx_f32", 0x3f80_0000, 0), 0x4000_0000);
}

#[test]
fn results_of_this_gpu_are_reproduced() {
    let driver = Driver::open(0, true).and_then(|mut driver| {
        driver.add(PTX, &forms())?;
        Ok(driver)
    });
    let driver = match driver {
        Ok(driver) => driver,
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_GPU").is_none(), "REQUIRE_GPU is set, but: {error}");
            println!("skipped: {error}");
            return;
        }
    };
    let gpu = results(&driver);
    if let Some(folder) = std::env::var_os("INSTRUCTIONS_OUT") {
        let name = format!("gpu-{}.txt", driver.gpu().architecture());
        fs::write(Path::new(&folder).join(name), written(&gpu)).unwrap();
    }
    compare(&driver.gpu().name, &emulated(), &gpu);
}

#[test]
fn what_is_written_is_read_again() {
    let results = BTreeMap::from([("exact_a", vec![0, 0xffff_ffff]), ("near_b", vec![1])]);
    assert_eq!(read(&written(&results)), results);
}

// ---- the forms' PTX ----

fn hash() -> String {
    Sha256::digest(SOURCE).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn made(nvrtc: &Nvrtc) -> String {
    let compiled = nvrtc.compile(SOURCE, "forms.cu", &Target::Ptx("compute_80".into())).unwrap();
    let text = String::from_utf8(compiled.code).unwrap();
    // Line information names the folder that it was made in, and nobody needs it here.
    let kept = text.lines().filter(|line| !line.trim_start().starts_with(".loc") && !line.contains(".file"));
    let kept: Vec<_> = kept.take_while(|line| !line.contains(".section")).collect();
    format!("// Made of forms.cu, SHA-256 {}, with `{RENEW}`.\n{}\n", hash(), kept.join("\n"))
}

#[test]
fn the_kept_ptx_is_of_the_forms() {
    assert!(PTX.lines().next().unwrap().contains(&hash()), "the forms have changed: {RENEW}");
    if let Ok(nvrtc) = Nvrtc::open()
        && nvrtc.version() == (13, 0)
    {
        assert!(made(&nvrtc) == PTX, "made afresh it is another: {RENEW}");
    }
}

#[test]
#[ignore = "writes to the source tree"]
fn renew() {
    let nvrtc = Nvrtc::open().unwrap();
    fs::write(folder().join("forms.compute_80.ptx"), made(&nvrtc)).unwrap();
}
