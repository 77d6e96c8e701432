//! Variables of the module, functions, scopes of names, and what stops a kernel.

mod common;

use common::run;
use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Shape};

/// Compiled by NVRTC 13.0 (`--gpu-architecture=compute_80 -lineinfo`) from the source beside it.
const MODULE: &str = include_str!("fixtures/module.ptx");

fn shape(threads: u32, dynamic_shared: u32) -> Shape {
    Shape { grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared, ..Shape::default() }
}

fn word(memory: &mut Memory, address: u64) -> u32 {
    u32::from_le_bytes(memory.read(address, 4).unwrap().try_into().unwrap())
}

#[test]
fn variables_and_functions_of_a_compiled_module() {
    let module = Module::parse(MODULE).unwrap();
    let mut memory = Memory::new();
    let offset = module.variable("offset", &mut memory).unwrap();
    memory.write(offset, &7u32.to_le_bytes()).unwrap();
    let inputs: Vec<f32> = (0..32).map(|i| i as f32 * 0.5 - 3.0).collect();
    let x = memory.alloc_f32("x", &inputs);
    let out = memory.alloc("out", 128);
    let digits = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3];
    let expected: Vec<f32> = (0..32)
        .map(|t: usize| {
            let weighted: f32 = (0..4).map(|i| [1.0, 2.0, 4.0, 8.0][i] * inputs[(t & 16) + i]).sum();
            match t.checked_sub(2) {
                Some(i) => weighted + digits[i % 10] as f32 + weighted * i as f32 + 7.0,
                None => -1.0 + 7.0,
            }
        })
        .collect();
    let history = module.variable("history", &mut memory).unwrap();
    let calls = module.variable("calls", &mut memory).unwrap();
    for round in 1..3 {
        let args = [Arg::U64(x), Arg::U64(out)];
        module.launch("variables", &shape(32, 128), &args, &mut memory, &Options::default()).unwrap();
        assert_eq!(memory.read_f32(out, 32).unwrap(), expected);
        // The second launch finds what the first one left.
        let summed: Vec<f32> = expected[..8].iter().map(|value| value * round as f32).collect();
        assert_eq!(memory.read_f32(history, 8).unwrap(), summed);
        assert_eq!(word(&mut memory, calls), [30, 300][round - 1]);
    }
    // Another memory has its own.
    let mut other = Memory::new();
    let calls = module.variable("calls", &mut other).unwrap();
    assert_eq!(word(&mut other, calls), 3);
    assert_eq!(module.variable("nope", &mut other), None);
}

#[test]
fn a_kernel_can_stop_itself() {
    let module = Module::parse(MODULE).unwrap();
    let mut memory = Memory::new();
    let out = memory.alloc("out", 4);
    memory.write(out, &5u32.to_le_bytes()).unwrap();
    let mut launch = |limit| {
        let args = [Arg::U64(out), Arg::S32(limit)];
        module.launch("stops", &shape(1, 0), &args, &mut memory, &Options::default())
    };
    launch(5).unwrap();
    match launch(5) {
        Err(Error::Kernel(report)) => {
            assert_eq!((report.kind, report.line, report.opcode.as_str()), (Kind::Trap, 33, "trap"), "{report}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(word(&mut memory, out), 6);
}

/// Functions before a kernel that leaves what `body` has in `%r4` of each of 4 threads.
fn with_functions(functions: &str, body: &str) -> Result<Vec<u32>, Error> {
    let module = Module::parse(&format!(
        ".version 9.0 .target sm_80 .address_size 64
         {functions}
         .visible .entry k(.param .u64 out) {{
         .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
         ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
         {body} st.global.u32 [%rd1], %r4; ret; }}"
    ))?;
    let mut memory = Memory::new();
    let out = memory.alloc("out", 16);
    module.launch("k", &shape(4, 0), &[Arg::U64(out)], &mut memory, &Options::default())?;
    Ok((0..4).map(|i| word(&mut memory, out + 4 * i)).collect())
}

/// Doubles a number above 1 and leaves others, by a branch and two returns.
const TWICE: &str = ".func (.param .b32 result) twice(.param .b32 x) {
    .reg .pred %p<2>; .reg .b32 %r<4>;
    ld.param.u32 %r1, [x]; setp.gt.u32 %p1, %r1, 1; @%p1 bra LARGE; st.param.b32 [result+0], %r1; ret;
    LARGE: add.s32 %r2, %r1, %r1; st.param.b32 [result+0], %r2; ret; }";
/// x -> twice(x) + twice(x + 1)
const BOTH: &str = ".func (.param .b32 result) both(.param .b32 x) {
    .reg .b32 %r<6>;
    ld.param.u32 %r1, [x];
    { .param .b32 a; st.param.b32 [a+0], %r1; .param .b32 b; call.uni (b), twice, (a); ld.param.b32 %r2, [b+0]; }
    add.s32 %r1, %r1, 1;
    { .param .b32 a; st.param.b32 [a+0], %r1; .param .b32 b; call.uni (b), twice, (a); ld.param.b32 %r3, [b+0]; }
    add.s32 %r2, %r2, %r3; st.param.b32 [result+0], %r2; ret; }";
const CALL: &str =
    "{ .param .b32 a; st.param.b32 [a+0], %r1; .param .b32 b; call.uni (b), both, (a); ld.param.b32 %r4, [b+0]; }";

#[test]
fn functions_have_registers_labels_and_returns_of_their_own() {
    // 0 + 1, 1 + 4, 4 + 6, 6 + 8
    assert_eq!(with_functions(&format!("{TWICE}{BOTH}"), CALL).unwrap(), [1, 5, 10, 14]);
    // A function may be declared first and defined after its caller.
    let declared = format!(".func (.param .b32 result) twice(.param .b32 x); {BOTH}{TWICE}");
    assert_eq!(with_functions(&declared, CALL).unwrap(), [1, 5, 10, 14]);
    // Lanes whose guard is false do not call; their result is what was stored before.
    let guarded = "setp.gt.u32 %p1, %r1, 2; .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; st.param.b32 [b], 9;
        @%p1 call (b), twice, (a); ld.param.b32 %r4, [b];";
    assert_eq!(with_functions(TWICE, guarded).unwrap(), [9, 9, 9, 6]);
    // A result that the function did not store was never written.
    let empty = ".func (.param .b32 result) twice(.param .b32 x) { ret; }";
    match with_functions(&format!("{empty}{BOTH}"), CALL) {
        Err(Error::Kernel(report)) => assert_eq!(report.kind, Kind::Uninitialised, "{report}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_that_cannot_be_made_say_why() {
    let again = TWICE.replace("LARGE: ", "LARGE: .param .b32 y; call.uni (y), twice, (y); ");
    for (functions, body, why) in [
        (format!("{again}{BOTH}"), CALL, "calls itself"),
        (BOTH.to_string(), CALL, "calls twice, which is no function"),
        (format!("{TWICE}{BOTH}"), ".param .b32 a; call.uni (a), both;", "another number of parameters"),
        (format!("{TWICE}{BOTH}"), "call.uni (%r4), both, (%r1);", "no .param variable"),
        (String::new(), "call (%r4), %rd1, (%r1), proto;", "by its name"),
    ] {
        match with_functions(&functions, body) {
            Err(Error::Parse { message, .. }) => assert!(message.contains(why), "{message}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    // A function without a body stops the kernel when it is reached: a failed assertion calls one.
    let declared = ".extern .func __assertfail(.param .b64 message);";
    let call = "mov.u32 %r4, 1; setp.gt.u32 %p1, %r1, 2; .param .b64 a; st.param.b64 [a], %rd1; @%p1 call.uni __assertfail, (a);";
    match with_functions(declared, call) {
        Err(Error::Kernel(report)) => {
            assert_eq!((report.kind, report.thread), (Kind::Trap, [3, 0, 0]), "{report}");
            assert!(report.detail.contains("__assertfail"), "{report}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn variables_hold_their_first_values() {
    let variables = ".const .align 4 .u32 table[2][2] = {{1, 2}, {-3, 0x10}};
        .global .align 8 .u64 pointers[3] = {generic(second), second+4, 0};
        .global .align 4 .b32 second[2] = {7, 0f3F800000};
        .visible .global .u16 open[] = {5, 6};";
    for (body, expected) in [
        ("ld.const.u32 %r4, [table+8];", -3i32 as u32),
        ("ld.const.u32 %r4, [table+12];", 16),
        ("mov.u64 %rd3, table; ld.const.u32 %r4, [%rd3+4];", 2),
        ("ld.global.u64 %rd3, [pointers]; ld.u32 %r4, [%rd3];", 7),
        ("ld.global.u64 %rd3, [pointers+8]; ld.global.u32 %r4, [%rd3];", 0x3f80_0000),
        ("ld.global.u64 %rd3, [pointers+16]; cvt.u32.u64 %r4, %rd3;", 0),
        ("mov.u64 %rd3, open; ld.global.u16 %r4, [%rd3+2];", 6),
        ("mov.u64 %rd3, open+2; cvta.global.u64 %rd3, %rd3; ld.u16 %r4, [%rd3];", 6),
    ] {
        assert_eq!(with_functions(variables, body).unwrap(), [expected; 4], "{body}");
    }
    let past = with_functions(variables, "ld.global.u16 %r4, [open+4];");
    assert!(matches!(past, Err(Error::Kernel(report)) if report.kind == Kind::OutOfBounds));
    for bad in [".global .b32 x = nothing;", ".global .b8 x[2] = {1, 2, 3};", ".global .b32 x = generic(x);"] {
        assert!(matches!(with_functions(bad, ""), Err(Error::Parse { .. })), "{bad}");
    }
}

#[test]
fn braces_bound_names() {
    // The same names for other things, as inlined assembly has them.
    let body = "{ .reg .pred p; .reg .b32 x; setp.eq.u32 p, %r1, 1; selp.b32 x, 5, 6, p; mov.u32 %r4, x; }
        { .reg .b32 p; .reg .b64 x; mov.u64 x, 3; cvt.u32.u64 p, x; add.s32 %r4, %r4, p; }
        { LOOP: add.s32 %r4, %r4, 10; setp.lt.u32 %p1, %r4, 30; @%p1 bra LOOP; }
        { LOOP: add.s32 %r4, %r4, 100; setp.lt.u32 %p1, %r4, 250; @%p1 bra LOOP; }";
    // 6 + 3 = 9, 39, 339 and 5 + 3 = 8, 38, 338.
    assert_eq!(with_functions("", body).unwrap(), [339, 338, 339, 339]);
    assert!(with_functions("", "{ .reg .b32 x; } mov.u32 %r4, x;").is_err());
}

#[test]
fn clocks_go_on_and_pauses_do_nothing() {
    let body = "mov.u64 %rd4, %clock64; nanosleep.u32 100; mov.u64 %rd5, %clock64; setp.gt.u64 %p1, %rd5, %rd4;";
    assert_eq!(run(body, "%p1", &[], 1).unwrap(), [1]);
    let body =
        "mov.u32 %r4, %clock; mov.u64 %rd4, %globaltimer; brkpt; mov.u32 %r5, %clock; setp.gt.u32 %p1, %r5, %r4;";
    assert_eq!(run(body, "%p1", &[], 1).unwrap(), [1]);
    assert_eq!(run("mov.u32 %r4, 1; exit; mov.u32 %r4, 2;", "%r4", &[], 1).unwrap(), [u64::MAX]);
}
