//! One instruction, or a few, in a kernel around them.

// Every test file uses some of this.
#![allow(dead_code)]

use ptx_emulator::{Arg, Error, Memory, Module, Options, Shape};

/// What all bodies start from: the three inputs in registers of every kind, and the thread's number in `%lane`.
pub const HEAD: &str = ".version 9.0 .target sm_90 .address_size 64
.visible .entry k(.param .u64 out, .param .u64 a, .param .u64 b, .param .u64 c) {
.reg .pred %p<6>; .reg .b16 %h<6>; .reg .b32 %r<10>; .reg .f32 %f<10>; .reg .b64 %rd<10>; .reg .f64 %d<6>;
.reg .b64 %out; .reg .b64 %at; .reg .b32 %lane;
ld.param.u64 %out, [out];
ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c];
ld.param.b32 %r1, [a]; ld.param.b32 %r2, [b]; ld.param.b32 %r3, [c];
ld.param.f32 %f1, [a]; ld.param.f32 %f2, [b]; ld.param.f32 %f3, [c];
ld.param.f64 %d1, [a]; ld.param.f64 %d2, [b]; ld.param.f64 %d3, [c];
ld.param.u16 %h1, [a]; ld.param.u16 %h2, [b];
mov.u32 %lane, %tid.x; mul.wide.u32 %at, %lane, 8; add.s64 %at, %at, %out;
";

/// Runs a body in `threads` threads and gives what each has in `result`.
pub fn run(body: &str, result: &str, inputs: &[u64], threads: u32) -> Result<Vec<u64>, Error> {
    let store = match result.as_bytes()[1] {
        b'r' if result.starts_with("%rd") => format!("st.global.u64 [%at], {result};"),
        b'd' => format!("st.global.f64 [%at], {result};"),
        b'h' => format!("cvt.u64.u16 %rd9, {result}; st.global.u64 [%at], %rd9;"),
        b'p' => format!("selp.b64 %rd9, 1, 0, {result}; st.global.u64 [%at], %rd9;"),
        _ => format!("mov.b64 %rd9, {{{result}, 0}}; st.global.u64 [%at], %rd9;"),
    };
    let module = Module::parse(&format!("{HEAD}{body}\n{store}\nret; }}"))?;
    let mut memory = Memory::new();
    let out = memory.alloc("out", 8 * threads as usize);
    let input = |i: usize| Arg::U64(inputs.get(i).copied().unwrap_or(0));
    let shape = Shape { grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared: 64, ..Shape::default() };
    let args = [Arg::U64(out), input(0), input(1), input(2)];
    module.launch("k", &shape, &args, &mut memory, &Options::default())?;
    let bytes = memory.read(out, 8 * threads as usize)?;
    Ok(bytes.chunks_exact(8).map(|b| b.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))).collect())
}

/// Checks `opcode result, sources` for a row of inputs and results: in one lane, and in a whole warp and part of another.
#[track_caller]
pub fn check(instruction: &str, inputs: &[u64], expected: u64) {
    let result = instruction.split_whitespace().nth(1).unwrap().trim_end_matches(',').split('|').next().unwrap();
    for threads in [1, 40] {
        let got = run(&format!("{instruction};"), result, inputs, threads);
        for got in got.unwrap_or_else(|error| panic!("{instruction}: {error}")) {
            assert_eq!(got, expected, "{instruction} of {inputs:x?}: {got:#x}, not {expected:#x}");
        }
    }
}

/// The bits of a number, as an input or a result.
pub fn f(value: f32) -> u64 {
    value.to_bits().into()
}

pub fn d(value: f64) -> u64 {
    value.to_bits()
}

pub fn s(value: i32) -> u64 {
    (value as u32).into()
}

pub fn l(value: i64) -> u64 {
    value as u64
}
