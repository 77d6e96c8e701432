//! Kernels compiled by NVRTC 13.0 (`--gpu-architecture=compute_75 -lineinfo`), their sources beside them in `fixtures`.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Shape};

const MATMUL: &str = include_str!("fixtures/matmul.ptx");
const SOFTMAX: &str = include_str!("fixtures/softmax.ptx");

/// Numbers between -1 and 1 that look random.
fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn matmul(ptx: &str, [m, k, n]: [usize; 3], seed: u64) -> Result<Vec<f32>, Error> {
    let mut memory = Memory::new();
    let a = memory.alloc_f32("a", &numbers(m * k, 1));
    let b = memory.alloc_f32("b", &numbers(k * n, 2));
    let c = memory.alloc("c", m * n * 4);
    let shape =
        Shape { grid: [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1], block: [16, 16, 1], ..Shape::default() };
    let size = |n: usize| Arg::S32(n as i32);
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), size(m), size(k), size(n)];
    Module::parse(ptx)?.launch("matmul", &shape, &args, &mut memory, &Options { seed, ..Options::default() })?;
    assert!(memory.is_written(c, m * n * 4)?);
    memory.read_f32(c, m * n)
}

#[test]
fn a_tiled_product_has_the_bits_of_the_loop_under_every_schedule() {
    for [m, k, n] in [[1, 1, 1], [16, 16, 16], [33, 17, 20], [5, 40, 31]] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let mut expected = vec![0f32; m * n];
        for (i, sum) in expected.iter_mut().enumerate() {
            for j in 0..k {
                *sum = a[i / n * k + j].mul_add(b[j * n + i % n], *sum);
            }
        }
        for seed in [0, 1, 2] {
            assert_eq!(bits(&matmul(MATMUL, [m, k, n], seed).unwrap()), bits(&expected), "{m} {k} {n}, seed {seed}");
        }
    }
}

/// The n-th barrier taken out of the product.
fn without_barrier(number: usize) -> String {
    let (at, _) = MATMUL.match_indices("bar.sync").nth(number).unwrap();
    format!("{}// {}", &MATMUL[..at], &MATMUL[at..])
}

#[test]
fn each_missing_barrier_of_the_product_is_reported_with_its_source_line() {
    // Without the first barrier a warp reads what another has not yet written, or has written unordered with it.
    for (number, kinds) in [(0, &[Kind::Race, Kind::Uninitialised][..]), (1, &[Kind::Race])] {
        for seed in [0, 1] {
            match matmul(&without_barrier(number), [16, 40, 16], seed) {
                Err(Error::Kernel(report)) => {
                    assert!(kinds.contains(&report.kind), "{report}");
                    assert_eq!(report.file.as_deref(), Some("matmul.cu"), "{report}");
                    assert!((10..=13).contains(&report.line), "{report}");
                }
                other => panic!("barrier {number}, seed {seed}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_grid_that_is_too_small_leaves_outputs_unwritten() {
    let mut memory = Memory::new();
    let a = memory.alloc_f32("a", &numbers(17 * 4, 1));
    let b = memory.alloc_f32("b", &numbers(4 * 4, 2));
    let c = memory.alloc("c", 17 * 4 * 4);
    let shape = Shape { grid: [1, 1, 1], block: [16, 16, 1], ..Shape::default() };
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), Arg::S32(17), Arg::S32(4), Arg::S32(4)];
    Module::parse(MATMUL).unwrap().launch("matmul", &shape, &args, &mut memory, &Options::default()).unwrap();
    assert!(!memory.is_written(c, 17 * 4 * 4).unwrap());
}

#[test]
fn a_row_too_many_is_out_of_bounds() {
    let mut memory = Memory::new();
    let a = memory.alloc_f32("a", &numbers(4 * 4, 1));
    let b = memory.alloc_f32("b", &numbers(4 * 4, 2));
    let c = memory.alloc("c", 5 * 4 * 4);
    let shape = Shape { grid: [1, 1, 1], block: [16, 16, 1], ..Shape::default() };
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), Arg::S32(5), Arg::S32(4), Arg::S32(4)];
    let module = Module::parse(MATMUL).unwrap();
    match module.launch("matmul", &shape, &args, &mut memory, &Options::default()) {
        Err(Error::Kernel(report)) => {
            assert_eq!((report.kind, report.line, report.thread), (Kind::OutOfBounds, 10, [0, 4, 0]), "{report}");
            assert!(report.detail.contains("of a,"), "{report}");
        }
        other => panic!("{other:?}"),
    }
}

fn softmax(rows: usize, classes: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut memory = Memory::new();
    let z = memory.alloc_f32("z", &numbers(rows * classes, 3));
    let labels: Vec<u8> = (0..rows).map(|row| (row % classes) as u8).collect();
    let label = memory.alloc("label", rows);
    memory.write(label, &labels).unwrap();
    let p = memory.alloc("p", rows * classes * 4);
    let loss = memory.alloc("loss", rows * 4);
    let shape = Shape { grid: [rows.div_ceil(4) as u32, 1, 1], block: [128, 1, 1], ..Shape::default() };
    let sizes = [Arg::S32(rows as i32), Arg::S32(classes as i32)];
    let args = [Arg::U64(z), Arg::U64(label), Arg::U64(p), Arg::U64(loss), sizes[0], sizes[1]];
    let options = Options { seed, ..Options::default() };
    Module::parse(SOFTMAX).unwrap().launch("softmax", &shape, &args, &mut memory, &options).unwrap();
    (memory.read_f32(p, rows * classes).unwrap(), memory.read_f32(loss, rows).unwrap())
}

#[test]
fn softmax_by_shuffles_agrees_with_the_loop_in_f64() {
    for (rows, classes) in [(1, 1), (7, 10), (4, 33), (9, 100)] {
        let (p, loss) = softmax(rows, classes, 0);
        let z = numbers(rows * classes, 3);
        for row in 0..rows {
            let z: Vec<f64> = z[row * classes..][..classes].iter().map(|z| f64::from(*z)).collect();
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            for (i, z) in z.iter().enumerate() {
                let error = (f64::from(p[row * classes + i]) - z.exp() / sum).abs();
                // Measured: 2.6e-8.
                assert!(error < 3e-7, "{rows} x {classes}: {error}");
            }
            let error = (f64::from(loss[row]) - (sum.ln() - z[row % classes])).abs();
            // Measured: 3.7e-7.
            assert!(error < 4e-6, "{rows} x {classes}: loss {error}");
        }
        let again = softmax(rows, classes, 77);
        assert_eq!((bits(&p), bits(&loss)), (bits(&again.0), bits(&again.1)));
    }
}
