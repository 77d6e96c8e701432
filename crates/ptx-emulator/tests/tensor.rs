//! `mma`, `ldmatrix` and `movmatrix`: where every element lies, what is computed, and who must take part.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Report, Shape};

/// Each lane reads four words of `a`, two of `b`, four of `c`, and leaves four in `out`.
const HEAD: &str = ".version 9.0 .target sm_90 .address_size 64
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 out) {
.reg .pred %p<4>; .reg .b32 %a<4>; .reg .b32 %b<2>; .reg .f32 %c<4>; .reg .b32 %r<10>; .reg .b64 %rd<8>; .reg .b32 %lane;
.shared .align 16 .b8 s[1024];
mov.u32 %lane, %tid.x; mul.wide.u32 %rd4, %lane, 16; mul.wide.u32 %rd5, %lane, 8;
ld.param.u64 %rd0, [a]; ld.param.u64 %rd1, [b]; ld.param.u64 %rd2, [c]; ld.param.u64 %rd3, [out];
add.s64 %rd0, %rd0, %rd4; add.s64 %rd2, %rd2, %rd4; add.s64 %rd3, %rd3, %rd4; add.s64 %rd1, %rd1, %rd5;
ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%rd0]; ld.global.v2.u32 {%b0, %b1}, [%rd1];
ld.global.v4.f32 {%c0, %c1, %c2, %c3}, [%rd2]; setp.lt.u32 %p1, %lane, 16;
";

type Words<const N: usize> = [[u32; N]; 32];

fn launch(body: &str, a: &Words<4>, b: &Words<2>, c: &Words<4>, threads: u32) -> Result<Words<4>, Error> {
    let module = Module::parse(&format!("{HEAD}{body}\nst.global.v4.b32 [%rd3], {{%c0, %c1, %c2, %c3}}; ret; }}"))?;
    let mut memory = Memory::new();
    let mut fill = |name: &str, words: &[u32]| {
        let numbers: Vec<f32> = words.iter().map(|word| f32::from_bits(*word)).collect();
        memory.alloc_f32(name, &numbers)
    };
    let buffers = [fill("a", a.as_flattened()), fill("b", b.as_flattened()), fill("c", c.as_flattened())];
    let out = memory.alloc("out", 512);
    let shape = Shape { grid: [1, 1, 1], block: [threads, 1, 1], ..Shape::default() };
    let args = [Arg::U64(buffers[0]), Arg::U64(buffers[1]), Arg::U64(buffers[2]), Arg::U64(out)];
    module.launch("k", &shape, &args, &mut memory, &Options::default())?;
    let words = memory.read(out, 512)?;
    let word = |i: usize| u32::from_le_bytes(words[4 * i..4 * i + 4].try_into().unwrap());
    Ok(std::array::from_fn(|lane| std::array::from_fn(|i| word(4 * lane + i))))
}

/// A shape as the manual tells it: for element i of a lane's fragment, its row and column (or k) in the matrix.
struct Layout {
    name: &'static str,
    depth: usize,
    /// Elements in a lane's fragments of a and b.
    elements: [usize; 2],
    a: fn(usize, usize) -> (usize, usize),
    b: fn(usize, usize) -> (usize, usize),
    /// The bits of a small whole number.
    encode: fn(i32) -> u32,
    bits: u32,
}

/// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", figures and formulas for .f16 and .bf16.
fn a16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    let column = if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 };
    (row, column)
}

fn b16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 }, group)
}

/// "Matrix Fragments for mma.m16n8k8", .f16 and .bf16.
fn a8(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 2 + (i & 1))
}

fn b8(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i, lane >> 2)
}

/// The same section, .tf32.
fn a8_tf32(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
}

fn b8_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane % 4 } else { lane % 4 + 4 }, lane >> 2)
}

/// "Matrix Fragments for mma.m16n8k4", .tf32.
fn a4_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4)
}

fn b4_tf32(lane: usize, _: usize) -> (usize, usize) {
    (lane % 4, lane >> 2)
}

/// The accumulators of all of them.
fn c(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 2 + (i & 1))
}

fn bf16(value: i32) -> u32 {
    (value as f32).to_bits() >> 16
}

fn tf32(value: i32) -> u32 {
    // The lower 13 bits are noise, which must count for nothing.
    (value as f32).to_bits() | 0x1abc
}

/// Whole numbers up to 16 and their negatives in f16.
fn f16(value: i32) -> u32 {
    let bits = (value as f32).to_bits();
    if value == 0 { 0 } else { (bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 0x3ff) }
}

const LAYOUTS: [Layout; 6] = [
    Layout {
        name: "m16n8k16.row.col.f32.bf16.bf16",
        depth: 16,
        elements: [8, 4],
        a: a16,
        b: b16,
        encode: bf16,
        bits: 16,
    },
    Layout { name: "m16n8k16.row.col.f32.f16.f16", depth: 16, elements: [8, 4], a: a16, b: b16, encode: f16, bits: 16 },
    Layout { name: "m16n8k8.row.col.f32.bf16.bf16", depth: 8, elements: [4, 2], a: a8, b: b8, encode: bf16, bits: 16 },
    Layout { name: "m16n8k8.row.col.f32.f16.f16", depth: 8, elements: [4, 2], a: a8, b: b8, encode: f16, bits: 16 },
    Layout {
        name: "m16n8k8.row.col.f32.tf32.tf32",
        depth: 8,
        elements: [4, 2],
        a: a8_tf32,
        b: b8_tf32,
        encode: tf32,
        bits: 32,
    },
    Layout {
        name: "m16n8k4.row.col.f32.tf32.tf32",
        depth: 4,
        elements: [2, 1],
        a: a4_tf32,
        b: b4_tf32,
        encode: tf32,
        bits: 32,
    },
];

impl Layout {
    fn instruction(&self) -> String {
        let registers = |count: usize, name: &str| {
            let all: Vec<String> = (0..count * self.bits as usize / 32).map(|i| format!("%{name}{i}")).collect();
            format!("{{{}}}", all.join(", "))
        };
        let [a, b] = [registers(self.elements[0], "a"), registers(self.elements[1], "b")];
        format!("mma.sync.aligned.{}.f32 {{%c0, %c1, %c2, %c3}}, {a}, {b}, {{%c0, %c1, %c2, %c3}};", self.name)
    }

    fn pack<const N: usize>(&self, count: usize, element: impl Fn(usize, usize) -> i32) -> Words<N> {
        let mut words = [[0; N]; 32];
        for (lane, words) in words.iter_mut().enumerate() {
            for i in 0..count {
                let at = i * self.bits as usize;
                words[at / 32] |= (self.encode)(element(lane, i)) << (at % 32);
            }
        }
        words
    }
}

#[test]
fn products_of_every_shape_are_those_of_the_matrices() {
    // Small whole numbers that differ from place to place, so that a swapped pair shows.
    let left = |row: usize, k: usize| ((row * 7 + k * 5) % 11) as i32 - 5;
    let right = |k: usize, column: usize| ((k * 3 + column * 8) % 13) as i32 - 6;
    let start = |row: usize, column: usize| (row * 8 + column) as i32;
    for layout in LAYOUTS {
        let a = layout.pack(layout.elements[0], |lane, i| {
            let (row, k) = (layout.a)(lane, i);
            left(row, k)
        });
        let b = layout.pack(layout.elements[1], |lane, i| {
            let (k, column) = (layout.b)(lane, i);
            right(k, column)
        });
        let place = |lane, i| {
            let (row, column) = c(lane, i);
            (start(row, column) as f32).to_bits()
        };
        let given = std::array::from_fn(|lane| std::array::from_fn(|i| place(lane, i)));
        let got = launch(&layout.instruction(), &a, &b, &given, 32).unwrap();
        for (lane, got) in got.iter().enumerate() {
            for (i, got) in got.iter().enumerate() {
                let (row, column) = c(lane, i);
                let sum: i32 = (0..layout.depth).map(|k| left(row, k) * right(k, column)).sum();
                let expected = start(row, column) + sum;
                assert_eq!(f32::from_bits(*got), expected as f32, "{} row {row} column {column}", layout.name);
            }
        }
    }
}

#[test]
fn a_product_is_rounded_once() {
    // Row 0 of a is (2^12, 1, -2^12, 0, ...), column 0 of b is (2^12, 2^-12, 2^12, 0, ...): 2^24 + 2^-12 - 2^24 + 0.
    let layout = &LAYOUTS[0];
    let power = |exponent: i32| 2f32.powi(exponent).to_bits() >> 16;
    let mut a = [[0; 4]; 32];
    let mut b = [[0; 2]; 32];
    a[0][0] = power(12) | power(0) << 16;
    a[1][0] = power(12) | 0x8000;
    b[0][0] = power(12) | power(-12) << 16;
    b[1][0] = power(12);
    let got = launch(&layout.instruction(), &a, &b, &[[0; 4]; 32], 32).unwrap();
    assert_eq!(got[0], [2f32.powi(-12).to_bits(), 0, 0, 0]);
}

/// Puts the words `a` of the first 8 lanes, 128 bytes, into shared memory: row r of 8 values is `a[2 * r]` on.
const FILL: &str = "mul.wide.u32 %rd6, %lane, 16; mov.u64 %rd7, s; add.s64 %rd6, %rd6, %rd7;
    st.shared.v4.u32 [%rd6], {%a0, %a1, %a2, %a3}; bar.warp.sync -1; cvt.u32.u64 %r1, %rd6;";

/// Every 16-bit value is its number: row * 8 + column, 64 of them in each of the four matrices.
fn counted() -> Words<4> {
    std::array::from_fn(|lane| {
        std::array::from_fn(|i| (lane * 8 + 2 * i) as u32 | ((lane * 8 + 2 * i + 1) as u32) << 16)
    })
}

const MOVE_OUT: &str = "mov.b32 %c0, %r4; mov.b32 %c1, %r5; mov.b32 %c2, %r6; mov.b32 %c3, %r7;";
const CLEAR: &str = "mov.u32 %r4, 0; mov.u32 %r5, 0; mov.u32 %r6, 0; mov.u32 %r7, 0;";

#[test]
fn rows_of_shared_memory_become_fragments() {
    // PTX ISA, "ldmatrix": thread 0 gets elements 0 and 1 of row 0, thread 3 elements 6 and 7, thread 4 the first of row 1.
    // Transposed, thread 0 gets elements 0 of rows 0 and 1, thread 4 elements 1 of them.
    for (count, registers) in [(1, "{%r4}"), (2, "{%r4, %r5}"), (4, "{%r4, %r5, %r6, %r7}")] {
        for transpose in ["", ".trans"] {
            let body = format!(
                "{FILL}{CLEAR} ldmatrix.sync.aligned.m8n8.x{count}{transpose}.shared.b16 {registers}, [%r1]; {MOVE_OUT}"
            );
            let got = launch(&body, &counted(), &[[0; 2]; 32], &[[0; 4]; 32], 32).unwrap();
            for (lane, got) in got.iter().enumerate() {
                let expected: [u32; 4] = std::array::from_fn(|matrix| {
                    let first = matrix * 64;
                    let (line, place) = (lane / 4, lane % 4 * 2);
                    let [low, high] = match transpose {
                        "" => [line * 8 + place, line * 8 + place + 1],
                        _ => [place * 8 + line, (place + 1) * 8 + line],
                    };
                    if matrix < count { (first + low) as u32 | ((first + high) as u32) << 16 } else { 0 }
                });
                assert_eq!(*got, expected, "x{count}{transpose} lane {lane}");
            }
        }
    }
    let got = launch(
        &format!("{FILL}{CLEAR} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r1]; movmatrix.sync.aligned.m8n8.trans.b16 %r4, %r4; {MOVE_OUT}"),
        &counted(),
        &[[0; 2]; 32],
        &[[0; 4]; 32],
        32,
    )
    .unwrap();
    // Lane 5 has column 1, from row 2 on.
    assert_eq!([got[0][0], got[5][0]], [8 << 16, 17 | 25 << 16]);
}

#[track_caller]
fn caught(body: &str, threads: u32) -> Report {
    match launch(body, &counted(), &[[0; 2]; 32], &[[0; 4]; 32], threads) {
        Err(Error::Kernel(report)) => *report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_lanes_of_the_warp_take_part() {
    let product = LAYOUTS[0].instruction();
    for (body, threads) in [
        (format!("@%p1 {product}"), 32),
        (format!("@!%p1 bra END; {product} END:"), 32),
        (format!("@%p1 bra END; {product} END: bar.warp.sync -1;"), 32),
        (product.clone(), 16),
        (format!("{FILL} @%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r1];"), 32),
        ("@%p1 movmatrix.sync.aligned.m8n8.trans.b16 %r4, %a0;".to_string(), 32),
    ] {
        let report = caught(&body, threads);
        assert_eq!(report.kind, Kind::DivergentWarp, "{body}: {report}");
    }
    // Lanes that part and meet again are all there.
    let body = format!("mov.u32 %r4, 0; @%p1 bra ON; mov.u32 %r4, 1; ON: {product}");
    launch(&body, &counted(), &[[0; 2]; 32], &[[0; 4]; 32], 32).unwrap();
}

#[test]
fn rows_are_checked_like_any_load() {
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1];";
    let eight = "setp.eq.u32 %p2, %lane, 9; @%p2 add.s32 %r1, %r1, 8;";
    let report = caught(&format!("{FILL}{eight}{load}"), 32);
    assert_eq!((report.kind, report.thread), (Kind::Misaligned, [9, 0, 0]), "{report}");
    let far = "setp.eq.u32 %p2, %lane, 30; @%p2 add.s32 %r1, %r1, 1024;";
    let report = caught(&format!("{FILL}{far}{load}"), 32);
    assert_eq!((report.kind, report.thread), (Kind::OutOfBounds, [30, 0, 0]), "{report}");
    let fresh = "add.s32 %r1, %r1, 512;";
    assert_eq!(caught(&format!("{FILL}{fresh}{load}"), 32).kind, Kind::Uninitialised);
    // Every lane gets what others have stored: without a warp barrier in between that is a race.
    assert_eq!(caught(&format!("{}{load}", FILL.replace("bar.warp.sync -1;", "")), 32).kind, Kind::Race);
    // And a store after it needs one as well.
    let again = "st.shared.u32 [%r1], 0;";
    assert_eq!(caught(&format!("{FILL}{load}{again}"), 32).kind, Kind::Race);
    launch(&format!("{FILL}{load} bar.warp.sync -1; {again}"), &counted(), &[[0; 2]; 32], &[[0; 4]; 32], 32).unwrap();
}

#[test]
fn shapes_and_types_that_are_not_known_stop_with_their_name() {
    for opcode in [
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32",
        "mma.sync.aligned.m16n8k16.col.row.f32.bf16.bf16.f32",
        "ldmatrix.sync.aligned.m8n16.x1.shared.b8",
        "ldmatrix.sync.aligned.m8n8.x3.shared.b16",
        "wgmma.fence.sync.aligned",
    ] {
        match launch(&format!("{opcode} %r4;"), &counted(), &[[0; 2]; 32], &[[0; 4]; 32], 32) {
            Err(Error::UnknownOpcode { opcode: named, .. }) => assert_eq!(named, opcode),
            other => panic!("{opcode}: {other:?}"),
        }
    }
    let few = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1}, {%b0, %b1}, {%c0, %c1, %c2, %c3};";
    assert!(matches!(launch(few, &counted(), &[[0; 2]; 32], &[[0; 4]; 32], 32), Err(Error::Parse { .. })));
}
