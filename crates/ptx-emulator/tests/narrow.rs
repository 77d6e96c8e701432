//! Values of 16 bits, tf32, and the rarer whole-number forms, against values worked out by hand.

mod common;

use common::{check, f, l, run, s};
use ptx_emulator::{Error, Kind};

// f16: 1 sign, 5 exponent (bias 15), 10 fraction bits. 1.0 = 0x3c00, 2.0 = 0x4000, 65504 = 0x7bff, 2^-24 = 0x0001.
// bf16: the upper half of an f32. 1.0 = 0x3f80, 3.0 = 0x4040.

#[test]
fn f32_to_16_bits_and_back() {
    for (value, expected) in [
        (1.0, 0x3c00),
        (-2.0, 0xc000),
        (65504.0, 0x7bff),
        // The middle between 65504 and 65536 rounds to the even one, which is infinity; just below it does not.
        (65520.0, 0x7c00),
        (65519.0, 0x7bff),
        (1e10, 0x7c00),
        (f32::NEG_INFINITY, 0xfc00),
        // 1 + 2^-11 lies between 1 and 1 + 2^-10, 1 + 3 * 2^-11 between 1 + 2^-10 and 1 + 2^-9.
        (1.0 + 2f32.powi(-11), 0x3c00),
        (1.0 + 3.0 * 2f32.powi(-11), 0x3c02),
        (1.0 + 2f32.powi(-11) + 2f32.powi(-20), 0x3c01),
        // Subnormal numbers are multiples of 2^-24; 2^-25 is a tie.
        (2f32.powi(-24), 0x0001),
        (2f32.powi(-25), 0x0000),
        (3.0 * 2f32.powi(-25), 0x0002),
        (2f32.powi(-14), 0x0400),
        (2f32.powi(-14) - 2f32.powi(-26), 0x0400),
        (-0.0, 0x8000),
        (f32::NAN, 0x7fff),
    ] {
        check("cvt.rn.f16.f32 %h3, %f1", &[f(value)], expected);
    }
    check("cvt.rz.f16.f32 %h3, %f1", &[f(65535.0)], 0x7bff);
    check("cvt.rz.f16.f32 %h3, %f1", &[f(-1.0 - 2f32.powi(-11) - 2f32.powi(-12))], 0xbc00);
    check("cvt.rn.relu.f16.f32 %h3, %f1", &[f(-3.0)], 0);
    for (bits, expected) in [
        (0x3c00, f(1.0)),
        (0xc000, f(-2.0)),
        (0x0001, f(2f32.powi(-24))),
        (0x03ff, f(1023.0 * 2f32.powi(-24))),
        (0x7bff, f(65504.0)),
        (0xfc00, f(f32::NEG_INFINITY)),
        (0x8000, f(-0.0)),
        (0x7e00, 0x7fff_ffff),
    ] {
        check("cvt.f32.f16 %f4, %h1", &[bits], expected);
    }
    for (value, expected) in [
        (1.0, 0x3f80),
        (-3.0, 0xc040),
        // Fractions of 7 bits: 1 + 2^-8 is a tie with the even 1, 1 + 3 * 2^-8 one with the even 1 + 2^-6.
        (1.0 + 2f32.powi(-8), 0x3f80),
        (1.0 + 3.0 * 2f32.powi(-8), 0x3f82),
        (1.0 + 2f32.powi(-8) + 2f32.powi(-20), 0x3f81),
        (f32::MAX, 0x7f80),
        (f32::NAN, 0x7fff),
        // The least subnormal of bf16 is 2^-133.
        (2f32.powi(-133), 0x0001),
        (2f32.powi(-134), 0x0000),
    ] {
        check("cvt.rn.bf16.f32 %h3, %f1", &[f(value)], expected);
    }
    check("cvt.rz.bf16.f32 %h3, %f1", &[f(f32::MAX)], 0x7f7f);
    check("cvt.f32.bf16 %f4, %h1", &[0xc040], f(-3.0));
    check("cvt.f32.bf16 %f4, %h1", &[0x0001], f(2f32.powi(-133)));
}

#[test]
fn pairs_have_the_first_source_above() {
    check("cvt.rn.bf16x2.f32 %r4, %f1, %f2", &[f(3.0), f(1.0)], 0x4040_3f80);
    check("cvt.rn.f16x2.f32 %r4, %f1, %f2", &[f(1.0), f(-2.0)], 0x3c00_c000);
    check("cvt.rz.f16x2.f32 %r4, %f1, %f2", &[f(1e9), f(-1e9)], 0x7bff_fbff);
    check("cvt.rn.relu.bf16x2.f32 %r4, %f1, %f2", &[f(-3.0), f(1.0)], 0x0000_3f80);
}

#[test]
fn tf32_keeps_ten_bits_of_the_fraction() {
    let step = 2f32.powi(-10);
    check("cvt.rna.tf32.f32 %r4, %f1", &[f(1.0 + step)], f(1.0 + step));
    // A tie goes away from zero.
    check("cvt.rna.tf32.f32 %r4, %f1", &[f(1.0 + step / 2.0)], f(1.0 + step));
    check("cvt.rna.tf32.f32 %r4, %f1", &[f(-1.0 - step / 2.0)], f(-1.0 - step));
    check("cvt.rna.tf32.f32 %r4, %f1", &[f(1.0 + step / 2.0 - f32::EPSILON)], f(1.0));
    check("cvt.rn.tf32.f32 %r4, %f1", &[f(1.0 + step / 2.0)], f(1.0));
    check("cvt.rz.tf32.f32 %r4, %f1", &[f(2.0 - f32::EPSILON)], f(2.0 - step));
    check("cvt.rna.tf32.f32 %r4, %f1", &[f(f32::INFINITY)], f(f32::INFINITY));
}

#[test]
fn arithmetic_of_16_bits_rounds_once() {
    // 1.5 + 2.25 = 3.75 = 0x4380; 1.5 = 0x3e00, 2.25 = 0x4080.
    check("add.f16 %h3, %h1, %h2", &[0x3e00, 0x4080], 0x4380);
    check("sub.f16 %h3, %h1, %h2", &[0x3e00, 0x4080], 0xba00);
    check("mul.rn.f16 %h3, %h1, %h2", &[0x3e00, 0x4080], 0x42c0);
    check("add.rn.f16 %h3, %h1, %h2", &[0x7bff, 0x7bff], 0x7c00);
    check("mul.f16 %h3, %h1, %h2", &[0x0001, 0x3800], 0x0000);
    check("mul.f16 %h3, %h1, %h2", &[0x0003, 0x3800], 0x0002);
    check("min.f16 %h3, %h1, %h2", &[0x0000, 0x8000], 0x8000);
    check("max.f16 %h3, %h1, %h2", &[0x7e00, 0x3c00], 0x3c00);
    check("neg.f16 %h3, %h1", &[0x3c00], 0xbc00);
    check("abs.bf16 %h3, %h1", &[0xbf80], 0x3f80);
    let fma = |c: u32| format!("mov.b16 %h3, {c}; fma.rn.f16 %h4, %h1, %h2, %h3;");
    // (1 + 2^-10)^2 - 1 = 2^-9 + 2^-20. The product alone would be rounded to 1 + 2^-9. Steps are 2^-19 there, and the tie
    // goes to the even 2^-9 = 0x1800.
    assert_eq!(run(&fma(0xbc00), "%h4", &[0x3c01, 0x3c01], 1).unwrap()[0], 0x1800);
    // (1 + 3 * 2^-10)(1 + 2^-10) - 1 = 2^-8 + 3 * 2^-20: steps of 2^-18, so three quarters of one, which go up.
    assert_eq!(run(&fma(0xbc00), "%h4", &[0x3c03, 0x3c01], 1).unwrap()[0], 0x1c01);
    // bf16 pairs: (3 * 1 + 1, 1 * 2 - 2) = (4, 0).
    check("fma.rn.bf16x2 %r4, %r1, %r2, %r3", &[0x4040_3f80, 0x3f80_4000, 0x3f80_c000], 0x4080_0000);
    check("add.bf16x2 %r4, %r1, %r2", &[0x4040_3f80, 0x3f80_3f80], 0x4080_4000);
    check("mul.bf16x2 %r4, %r1, %r2", &[0x4040_3f80, 0x4000_bf80], 0x40c0_bf80);
    check("fma.rn.f16x2 %r4, %r1, %r2, %r3", &[0x3c00_4000, 0x4000_4000, 0x3c00_bc00], 0x4200_4200);
    // 3 * 87 = 261 is a tie between 260 = 0x4382 and 262 = 0x4383. The least subnormal, 2^-133, decides it, though an f64
    // cannot hold the sum.
    let fma = |c: u32| format!("mov.b16 %h3, {c}; fma.rn.bf16 %h4, %h1, %h2, %h3;");
    for (c, expected) in [(0x0000, 0x4382), (0x0001, 0x4383), (0x8001, 0x4382)] {
        assert_eq!(run(&fma(c), "%h4", &[0x4040, 0x42ae], 1).unwrap()[0], expected);
    }
}

#[test]
fn comparisons_with_a_number_as_their_result() {
    check("set.lt.u32.s32 %r4, %r1, %r2", &[s(-1), 0], s(-1));
    check("set.lt.u32.u32 %r4, %r1, %r2", &[s(-1), 0], 0);
    check("set.eq.s32.f32 %r4, %f1, %f2", &[f(1.0), f(1.0)], s(-1));
    check("set.gt.f32.f32 %f4, %f1, %f2", &[f(2.0), f(1.0)], f(1.0));
    check("set.gt.f32.f32 %f4, %f1, %f2", &[f(f32::NAN), f(1.0)], 0);
    check("set.gtu.f32.f32 %f4, %f1, %f2", &[f(f32::NAN), f(1.0)], f(1.0));
    check("set.ne.f32.s32 %f4, %r1, %r2", &[1, 2], f(1.0));
    check("set.eq.ftz.u32.f32 %r4, %f1, %f2", &[1, 0], s(-1));
    check("set.eq.u32.f32 %r4, %f1, %f2", &[1, 0], 0);
    for (third, expected) in [(0, 0), (1, s(-1))] {
        let body = "setp.ne.s32 %p1, %r3, 0; set.le.and.u32.s32 %r4, %r1, %r2, %p1;";
        assert_eq!(run(body, "%r4", &[1, 2, third], 1).unwrap()[0], expected);
    }
}

#[test]
fn whole_numbers_that_are_seldom_met() {
    check("shf.l.clamp.b32 %r4, %r1, %r2, %r3", &[s(i32::MIN), 1, 40], s(i32::MIN));
    check("shf.l.clamp.b32 %r4, %r1, %r2, %r3", &[s(i32::MIN), 1, 1], 3);
    check("shf.r.clamp.b32 %r4, %r1, %r2, %r3", &[2, 7, 32], 7);
    check("dp4a.s32.s32 %r4, %r1, %r2, %r3", &[0xff02_0304, 0x0201_0101, 10], 10 + 4 + 3 + 2 - 2);
    check("dp4a.u32.s32 %r4, %r1, %r2, %r3", &[0xff00_0001, 0xff00_0002, 0], s(2 - 255));
    check("mad.lo.s16 %h3, %h1, %h2, 5", &[0xffff, 3], 2);
    check("min.s16 %h3, %h1, %h2", &[0xffff, 1], 0xffff);
    check("max.s16 %h3, %h1, %h2", &[0xffff, 1], 1);
    check("div.s16 %h3, %h1, %h2", &[0xfff9, 2], 0xfffd);
    check("rem.s16 %h3, %h1, %h2", &[0xfff9, 2], 0xffff);
    check("div.u16 %h3, %h1, %h2", &[0xfff9, 2], 0x7ffc);
    check("rem.u16 %h3, %h1, %h2", &[0xfff9, 16], 9);
    check("neg.s16 %h3, %h1", &[1], 0xffff);
    check("abs.s16 %h3, %h1", &[0xfffe], 2);
    check("popc.b64 %r4, %rd1", &[0xff00_0000_0000_0001], 9);
    check("clz.b64 %r4, %rd1", &[1 << 40], 23);
    check("brev.b64 %rd4, %rd1", &[1], l(i64::MIN));
    for (op, a, expected) in [
        ("bfind.u32", 0x100, 8),
        ("bfind.u32", 0, -1),
        ("bfind.s32", -1, -1),
        ("bfind.s32", -5, 2),
        ("bfind.u32", -5, 31),
        ("bfind.shiftamt.u32", 0x100, 23),
        ("bfind.shiftamt.s32", -5, 29),
    ] {
        check(&format!("{op} %r4, %r1"), &[s(a)], s(expected));
    }
    check("bfind.u64 %r4, %rd1", &[1 << 40], 40);
    check("bfind.shiftamt.s64 %r4, %rd1", &[l(-5)], 61);
    check("bfe.u64 %rd4, %rd1, 36, 8", &[0xabc << 32], 0xab);
    check("bfe.s64 %rd4, %rd1, 36, 8", &[0xabc << 32], l(0xab - 0x100));
    check("bfe.s64 %rd4, %rd1, 60, 8", &[9 << 60], l(9 - 16));
    check("bfe.u64 %rd4, %rd1, 60, 8", &[9 << 60], 9);
    check("bfe.u64 %rd4, %rd1, 0, 64", &[l(-2)], l(-2));
    check("bfe.s64 %rd4, %rd1, 8, 0", &[l(-2)], 0);
    check("bfi.b64 %rd4, %rd1, %rd2, 36, 8", &[0x1ab, l(-1)], 0xffff_fabf_ffff_ffff);
    check("bfi.b64 %rd4, %rd1, %rd2, 0, 64", &[7, 9], 7);
    check("bfi.b64 %rd4, %rd1, %rd2, 64, 8", &[7, 9], 9);
    check("mov.b64 %rd4, {%h1, %h2, %h2, %h1}", &[1, 2], 0x0001_0002_0002_0001);
    assert_eq!(run("mov.b64 {%h3, _, %h4, %h5}, %rd1;", "%h4", &[0x0004_0003_0002_0001], 1).unwrap()[0], 3);
}

#[test]
fn lanes_of_a_mask_together() {
    let lanes = |body: &str| run(body, "%r4", &[], 32).unwrap();
    assert_eq!(lanes("redux.sync.add.s32 %r4, %lane, -1;"), vec![496; 32]);
    assert_eq!(lanes("sub.s32 %r5, 3, %lane; redux.sync.min.s32 %r4, %r5, -1;"), vec![s(-28); 32]);
    assert_eq!(lanes("sub.s32 %r5, 3, %lane; redux.sync.min.u32 %r4, %r5, -1;"), vec![0; 32]);
    assert_eq!(lanes("sub.s32 %r5, 3, %lane; redux.sync.max.s32 %r4, %r5, -1;"), vec![3; 32]);
    assert_eq!(lanes("sub.s32 %r5, 3, %lane; redux.sync.max.u32 %r4, %r5, -1;"), vec![s(-1); 32]);
    assert_eq!(lanes("or.b32 %r5, %lane, 32; redux.sync.and.b32 %r4, %r5, -1;"), vec![32; 32]);
    assert_eq!(lanes("redux.sync.or.b32 %r4, %lane, -1;"), vec![31; 32]);
    assert_eq!(lanes("redux.sync.xor.b32 %r4, %lane, -1;"), vec![0; 32]);
    // Each half for itself.
    let halves = "mov.u32 %r5, 0xffff; setp.gt.u32 %p1, %lane, 15; @%p1 mov.u32 %r5, 0xffff0000;
        @%p1 bra HIGH; redux.sync.add.u32 %r4, %lane, %r5; bra END; HIGH: redux.sync.add.u32 %r4, %lane, %r5; END:";
    assert_eq!(lanes(halves), (0..32).map(|lane| if lane < 16 { 120 } else { 376 }).collect::<Vec<u64>>());
    let same = (0..32).map(|lane| 0x1111_1111 << (lane % 4)).collect::<Vec<u64>>();
    assert_eq!(lanes("and.b32 %r5, %lane, 3; match.any.sync.b32 %r4, %r5, -1;"), same);
    assert_eq!(lanes("and.b32 %r5, %lane, 3; mul.wide.u32 %rd4, %r5, -1; match.any.sync.b64 %r4, %rd4, -1;"), same);
    let some = "setp.lt.u32 %p1, %lane, 5; @%p1 redux.sync.add.u32 %r4, %lane, -1;";
    assert!(matches!(run(some, "%r4", &[], 32), Err(Error::Kernel(r)) if r.kind == Kind::DivergentWarp));
}
