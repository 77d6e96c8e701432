//! Atomics of every width, what they order, and barriers that count.

mod common;

use common::{d, f, l, run, s};
use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Shape};

/// An atomic on a place that holds `old`: what it gives, and what it leaves.
#[track_caller]
fn atomic(space: &str, op: &str, [old, operand, swap]: [u64; 3], new: u64) {
    let wide = op.ends_with("64");
    let (store, address, registers) = match (space, wide) {
        ("shared", false) => ("st.shared.u32 [8], %r1;", "[8]", ["%r4", "%r2", "%r3", "%r5"]),
        ("shared", true) => ("st.shared.u64 [8], %rd1;", "[8]", ["%rd4", "%rd2", "%rd3", "%rd5"]),
        (_, false) => ("st.global.u32 [%at], %r1;", "[%at]", ["%r4", "%r2", "%r3", "%r5"]),
        (_, true) => ("st.global.u64 [%at], %rd1;", "[%at]", ["%rd4", "%rd2", "%rd3", "%rd5"]),
    };
    let [got, a, b, left] = registers;
    // f64 operands are in registers of their own kind.
    let (got, a) = if op.ends_with("f64") { ("%d4", "%d2") } else { (got, a) };
    let swap_operand = if op.starts_with("cas") { format!(", {b}") } else { String::new() };
    let bits = if wide { 64 } else { 32 };
    let load = format!("ld.{space}.b{bits} {left}, {address};");
    let inputs = [old, operand, swap];
    let atom = format!("{store} atom.{space}.{op} {got}, {address}, {a}{swap_operand}; {load}");
    assert_eq!(run(&atom, got, &inputs, 1).unwrap()[0], old, "atom.{space}.{op} gives");
    assert_eq!(run(&atom, left, &inputs, 1).unwrap()[0], new, "atom.{space}.{op} leaves");
    if !op.starts_with("cas") && !op.starts_with("exch") {
        let red = format!("{store} red.{space}.{op} {address}, {a}; {load}");
        assert_eq!(run(&red, left, &inputs, 1).unwrap()[0], new, "red.{space}.{op}");
    }
}

#[test]
fn every_operation_in_global_and_shared_memory() {
    for space in ["global", "shared"] {
        for (op, old, operand, new) in [
            ("add.u32", s(-1), 2, 1),
            ("add.s32", 5, s(-6), s(-1)),
            ("add.f32", f(1.0), f(0.5), f(1.5)),
            ("min.s32", s(-1), 1, s(-1)),
            ("min.u32", s(-1), 1, 1),
            ("max.s32", s(-1), 1, 1),
            ("max.u32", s(-1), 1, s(-1)),
            ("and.b32", 12, 10, 8),
            ("or.b32", 12, 10, 14),
            ("xor.b32", 12, 10, 6),
            ("inc.u32", 4, 5, 5),
            ("inc.u32", 5, 5, 0),
            ("dec.u32", 3, 5, 2),
            ("dec.u32", 9, 5, 5),
            ("exch.b32", 5, 6, 6),
            // (1, 2) + (0.5, -2) in f16, (1, 3) + (1, 1) in bf16.
            ("add.noftz.f16x2", 0x3c00_4000, 0x3800_c000, 0x3e00_0000),
            ("add.noftz.bf16x2", 0x3f80_4040, 0x3f80_3f80, 0x4000_4080),
            ("add.u64", l(-1), 2, 1),
            ("add.f64", d(1.0), d(0.5), d(1.5)),
            ("min.s64", l(-1), 1, l(-1)),
            ("min.u64", l(-1), 1, 1),
            ("max.s64", l(-1), 1, 1),
            ("max.u64", l(-1), 1, l(-1)),
            ("and.b64", 12 << 40, 10 << 40, 8 << 40),
            ("or.b64", 12 << 40, 10 << 40, 14 << 40),
            ("xor.b64", 12 << 40, 10 << 40, 6 << 40),
            ("exch.b64", 5, 6 << 40, 6 << 40),
        ] {
            atomic(space, op, [old, operand, 0], new);
        }
        for op in ["cas.b32", "cas.b64"] {
            atomic(space, op, [5, 5, 9], 9);
            atomic(space, op, [5, 6, 9], 5);
        }
    }
}

#[test]
fn all_lanes_take_their_turn() {
    let start = |value: &str| format!("setp.eq.s32 %p1, %lane, 0; @%p1 st.shared.b32 [0], {value}; bar.sync 0;");
    let least = format!(
        "{} sub.s32 %r5, 40, %lane; red.shared.min.s32 [0], %r5; bar.sync 0; ld.shared.u32 %r4, [0];",
        start("100")
    );
    assert_eq!(run(&least, "%r4", &[], 64).unwrap(), vec![s(-23); 64]);
    let sum = format!(
        "{} cvt.rn.f32.u32 %f5, %lane; red.shared.add.f32 [0], %f5; bar.sync 0; ld.shared.f32 %f4, [0];",
        start("0")
    );
    assert_eq!(run(&sum, "%f4", &[], 64).unwrap(), vec![f(2016.0); 64]);
}

/// The last of three blocks reads what all have written: the atomic must release it.
fn last_block(count: &str) -> Result<(), Error> {
    let module = Module::parse(&format!(
        ".version 9.0 .target sm_80 .address_size 64
         .visible .entry k(.param .u64 g) {{
         .reg .pred %p<3>; .reg .b32 %r<5>; .reg .b64 %rd<3>; .reg .b64 %g;
         ld.param.u64 %g, [g]; mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd1, %r1, 4; add.s64 %rd1, %rd1, %g;
         st.global.u32 [%rd1+16], %r1; {count} setp.eq.u32 %p1, %r2, 2;
         @%p1 ld.global.u32 %r3, [%g+16]; @%p1 ld.global.u32 %r3, [%g+20]; @%p1 ld.global.u32 %r3, [%g+24]; ret; }}"
    ))?;
    for seed in 0..4 {
        let mut memory = Memory::new();
        let g = memory.alloc_f32("g", &[0.0; 8]);
        let shape = Shape { grid: [3, 1, 1], ..Shape::default() };
        module.launch("k", &shape, &[Arg::U64(g)], &mut memory, &Options { seed, ..Options::default() })?;
    }
    Ok(())
}

#[test]
fn releasing_atomics_need_no_fence() {
    for order in ["acq_rel", "release"] {
        last_block(&format!("atom.{order}.gpu.global.add.u32 %r2, [%g], 1;")).unwrap();
    }
    last_block("fence.acq_rel.gpu; atom.acquire.gpu.global.add.u32 %r2, [%g], 1;").unwrap();
    for order in ["relaxed", "acquire"] {
        match last_block(&format!("atom.{order}.gpu.global.add.u32 %r2, [%g], 1;")) {
            Err(Error::Kernel(report)) => assert_eq!(report.kind, Kind::Race, "{report}"),
            other => panic!("{order}: {other:?}"),
        }
    }
}

/// One block writes and then raises a flag; whoever sees the flag reads. Blocks run in any order.
fn flag(raise: &str, look: &str) -> Result<(), Error> {
    let module = Module::parse(&format!(
        ".version 9.0 .target sm_80 .address_size 64
         .visible .entry k(.param .u64 g) {{
         .reg .pred %p<3>; .reg .b32 %r<5>; .reg .b64 %g;
         ld.param.u64 %g, [g]; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra LOOK;
         st.global.u32 [%g+16], 5; {raise} ret;
         LOOK: {look} setp.eq.u32 %p2, %r2, 1; @%p2 ld.global.u32 %r3, [%g+16]; ret; }}"
    ))?;
    for seed in 0..4 {
        let mut memory = Memory::new();
        let g = memory.alloc_f32("g", &[0.0; 8]);
        let shape = Shape { grid: [2, 1, 1], ..Shape::default() };
        module.launch("k", &shape, &[Arg::U64(g)], &mut memory, &Options { seed, ..Options::default() })?;
    }
    Ok(())
}

#[test]
fn flags_are_raised_by_releasing_stores_and_seen_by_acquiring_loads() {
    let look = "ld.acquire.gpu.global.u32 %r2, [%g];";
    flag("st.release.gpu.global.u32 [%g], 1;", look).unwrap();
    flag("fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%g], 1;", "ld.relaxed.gpu.global.u32 %r2, [%g];").unwrap();
    for (raise, look) in [
        ("st.relaxed.gpu.global.u32 [%g], 1;", look),
        ("st.global.u32 [%g], 1;", look),
        ("st.release.gpu.global.u32 [%g], 1;", "ld.global.u32 %r2, [%g];"),
    ] {
        match flag(raise, look) {
            Err(Error::Kernel(report)) => assert_eq!(report.kind, Kind::Race, "{report}"),
            other => panic!("{raise} {look}: {other:?}"),
        }
    }
    let back = "st.shared.u64 [0], %rd2; st.release.cta.shared.b64 [0], %rd1; ld.acquire.cta.shared.b64 %rd4, [0];";
    assert_eq!(run(back, "%rd4", &[1 << 40], 1).unwrap()[0], 1 << 40);
}

#[test]
fn barriers_count_the_threads_that_say_yes() {
    for (name, aligned) in
        [("bar", ""), ("bar.cta", ""), ("barrier", ".aligned"), ("barrier.cta", ".aligned"), ("barrier", "")]
    {
        for threads in [64, 50] {
            let body = |how: &str, limit: u32, count: &str| {
                format!("setp.lt.u32 %p1, %lane, {limit}; {name}.red.{how} 0, {count}%p1;")
            };
            let popc = body(&format!("popc{aligned}.u32 %r4,"), 40, "");
            assert_eq!(run(&popc, "%r4", &[], threads).unwrap(), vec![40; threads as usize], "{popc}");
            for (how, limit, expected) in [("and", threads - 1, 0), ("and", threads, 1), ("or", 0, 0), ("or", 1, 1)] {
                let body = body(&format!("{how}{aligned}.pred %p2,"), limit, "64, ");
                assert_eq!(run(&body, "%p2", &[], threads).unwrap(), vec![expected; threads as usize], "{body}");
            }
        }
    }
    // It orders memory as well, and may be told no.
    let body = ".shared .align 4 .b8 x[256]; mul.wide.u32 %rd4, %lane, 4; st.shared.u32 [%rd4], %lane; setp.lt.u32 %p1, %lane, 40;
        bar.red.popc.u32 %r5, 0, !%p1; xor.b32 %r6, %lane, 32; mul.wide.u32 %rd4, %r6, 4; ld.shared.u32 %r4, [%rd4];
        add.u32 %r4, %r4, %r5;";
    assert_eq!(run(body, "%r4", &[], 64).unwrap()[..2], [32 + 24, 33 + 24]);
    let divergent = "setp.lt.u32 %p1, %lane, 40; @%p1 bar.red.popc.u32 %r4, 0, %p1;";
    assert!(matches!(run(divergent, "%r4", &[], 64), Err(Error::Kernel(r)) if r.kind == Kind::DivergentBarrier));
}
