//! Every instruction form against values worked out by hand.

mod common;

use common::{HEAD, check, d, f, l, run, s};
use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Shape};

#[test]
fn whole_numbers_of_32_bits() {
    for (op, a, b, expected) in [
        ("add.s32", 5, -7, -2),
        ("add.u32", -1, 2, 1),
        ("sub.s32", 5, 7, -2),
        ("sub.u32", 0, 1, -1),
        ("mul.lo.s32", -3, 7, -21),
        ("mul.lo.u32", 65536, 65537, 65536),
        ("mul.hi.s32", -1, 1, -1),
        ("mul.hi.u32", -1, 2, 1),
        ("div.s32", -7, 2, -3),
        ("div.u32", -2, 2, 0x7fff_ffff),
        ("rem.s32", -7, 2, -1),
        ("rem.u32", -1, 16, 15),
        ("min.s32", -1, 1, -1),
        ("max.s32", -1, 1, 1),
        ("min.u32", -1, 1, 1),
        ("max.u32", -1, 1, -1),
        ("and.b32", 12, 10, 8),
        ("or.b32", 12, 10, 14),
        ("xor.b32", 12, 10, 6),
        ("shl.b32", 3, 4, 48),
        ("shl.b32", 3, 32, 0),
        ("shr.s32", -16, 2, -4),
        ("shr.s32", -16, 40, -1),
        ("shr.u32", -16, 28, 15),
        ("shr.b32", -16, 28, 15),
    ] {
        check(&format!("{op} %r4, %r1, %r2"), &[s(a), s(b)], s(expected));
    }
    for (op, a, expected) in [
        ("neg.s32", 5, -5),
        ("abs.s32", -5, 5),
        ("not.b32", 0, -1),
        ("popc.b32", 0xff, 8),
        ("clz.b32", 1, 31),
        ("brev.b32", 1, i32::MIN),
        ("mov.u32", 9, 9),
        ("mov.s32", -9, -9),
        ("mov.b32", 9, 9),
    ] {
        check(&format!("{op} %r4, %r1"), &[s(a)], s(expected));
    }
}

#[test]
fn whole_numbers_with_three_sources() {
    for (op, a, b, c, expected) in [
        ("mad.lo.s32", -3, 7, 1, -20),
        ("mad.lo.u32", 3, 7, 1, 22),
        ("mad.hi.s32", -1, 1, 5, 4),
        ("mad.hi.u32", -1, 2, 5, 6),
        ("bfe.u32", 0xabcd, 4, 8, 0xbc),
        ("bfe.s32", 0xabcd, 4, 8, -68),
        ("bfe.u32", -1, 0, 32, -1),
        ("bfe.s32", 0xabcd, 4, 0, 0),
        ("prmt.b32", 0x3322_1100, 0x7766_5544, 0x7410, 0x7744_1100),
        ("prmt.b32", 0x0000_0080, 0, 0x8888, -1),
        ("shf.l.wrap.b32", i32::MIN, 1, 1, 3),
        ("shf.r.wrap.b32", 2, 1, 1, i32::MIN | 1),
    ] {
        check(&format!("{op} %r4, %r1, %r2, %r3"), &[s(a), s(b), s(c)], s(expected));
    }
    check("bfi.b32 %r4, %r1, %r2, 4, 8", &[0xff, 0], 0xff0);
    check("bfi.b32 %r4, %r1, %r2, 0, 32", &[7, 9], 7);
    check("lop3.b32 %r4, %r1, %r2, %r3, 0x96", &[12, 10, 1], 12 ^ 10 ^ 1);
    check("lop3.b32 %r4, %r1, %r2, %r3, 0xe8", &[12, 10, 9], (12 & 10) | (12 & 9) | (10 & 9));
}

#[test]
fn whole_numbers_of_64_bits() {
    for (op, a, b, expected) in [
        ("add.s64", 1 << 40, -1, (1 << 40) - 1),
        ("add.u64", 1, 2, 3),
        ("sub.s64", 1, 2, -1),
        ("sub.u64", 3, 2, 1),
        ("mul.lo.s64", -3, 7, -21),
        ("mul.lo.u64", 3, 7, 21),
        ("mul.hi.s64", -1, 1, -1),
        ("mul.hi.u64", -1, 2, 1),
        ("div.s64", -7, 2, -3),
        ("div.u64", 7, 2, 3),
        ("rem.s64", -7, 2, -1),
        ("rem.u64", -1, 16, 15),
        ("min.s64", -1, 1, -1),
        ("max.s64", -1, 1, 1),
        ("min.u64", -1, 1, 1),
        ("max.u64", -1, 1, -1),
        ("and.b64", 12, 10, 8),
        ("or.b64", 12, 10, 14),
        ("xor.b64", 12, 10, 6),
    ] {
        check(&format!("{op} %rd4, %rd1, %rd2"), &[l(a), l(b)], l(expected));
    }
    check("shl.b64 %rd4, %rd1, %r2", &[3, 40], 3 << 40);
    check("shr.u64 %rd4, %rd1, %r2", &[l(-1), 60], 15);
    check("shr.b64 %rd4, %rd1, %r2", &[l(-1), 64], 0);
    check("shr.s64 %rd4, %rd1, %r2", &[l(-16), 2], l(-4));
    check("neg.s64 %rd4, %rd1", &[5], l(-5));
    check("abs.s64 %rd4, %rd1", &[l(-5)], 5);
    check("not.b64 %rd4, %rd1", &[0], l(-1));
    check("mov.u64 %rd4, -2", &[], l(-2));
    check("mad.lo.s64 %rd4, %rd1, %rd2, %rd3", &[l(-3), 7, 1], l(-20));
    check("mul.wide.s32 %rd4, %r1, %r2", &[s(-3), 1 << 30], l(-3 << 30));
    check("mul.wide.u32 %rd4, %r1, %r2", &[s(-1), 2], 0x1_ffff_fffe);
    check("mad.wide.s32 %rd4, %r1, %r2, %rd3", &[s(-3), 4, 10], l(-2));
    check("mad.wide.u32 %rd4, %r1, %r2, %rd3", &[s(-1), 1, 1], 1 << 32);
}

#[test]
fn whole_numbers_of_16_bits() {
    for (op, a, b, expected) in [
        ("add.s16", 0xffff, 2, 1),
        ("add.u16", 1, 2, 3),
        ("sub.s16", 1, 2, 0xffff),
        ("sub.u16", 3, 2, 1),
        ("mul.lo.s16", 0x100, 0x101, 0x100),
        ("mul.lo.u16", 3, 5, 15),
        ("and.b16", 12, 10, 8),
        ("or.b16", 12, 10, 14),
        ("xor.b16", 12, 10, 6),
        ("min.u16", 0xffff, 1, 1),
        ("max.u16", 0xffff, 1, 0xffff),
    ] {
        check(&format!("{op} %h3, %h1, %h2"), &[a, b], expected);
    }
    check("shl.b16 %h3, %h1, %r2", &[0x8001, 1], 2);
    check("shr.u16 %h3, %h1, %r2", &[0x8000, 15], 1);
    check("shr.b16 %h3, %h1, %r2", &[0x8000, 15], 1);
    check("shr.s16 %h3, %h1, %r2", &[0x8000, 15], 0xffff);
    check("not.b16 %h3, %h1", &[0], 0xffff);
    check("mov.u16 %h3, -1", &[], 0xffff);
    check("mul.wide.s16 %r4, %h1, %h2", &[0xffff, 3], s(-3));
    check("mul.wide.u16 %r4, %h1, %h2", &[0xffff, 3], 0x2_fffd);
}

#[test]
fn floats_rounded_to_nearest() {
    let (tiny, nan) = (f32::from_bits(1), 0x7fff_ffff);
    for (op, a, b, expected) in [
        ("add.f32", 1.5, 2.25, f(3.75)),
        ("add.rn.f32", 1.0, 2f32.powi(-24), f(1.0)),
        ("add.f32", f32::INFINITY, f32::NEG_INFINITY, nan),
        ("add.ftz.f32", tiny, 0.0, 0),
        ("sub.f32", 1.0, 3.0, f(-2.0)),
        ("sub.rn.f32", 1.0, 1.0, 0),
        ("mul.f32", 3.0, -0.5, f(-1.5)),
        ("mul.rn.f32", tiny, 1.0, 1),
        ("mul.ftz.f32", tiny, -1.0, f(-0.0)),
        ("div.rn.f32", 1.0, 3.0, 0x3eaa_aaab),
        ("div.approx.f32", 1.0, 4.0, f(0.25)),
        ("div.full.f32", 1.0, 4.0, f(0.25)),
        ("min.f32", 0.0, -0.0, f(-0.0)),
        ("max.f32", -0.0, 0.0, 0),
        ("min.f32", f32::NAN, 1.0, f(1.0)),
        ("max.f32", 1.0, f32::NAN, f(1.0)),
        ("max.f32", f32::NAN, f32::NAN, nan),
        ("copysign.f32", -1.0, 3.0, f(-3.0)),
    ] {
        check(&format!("{op} %f4, %f1, %f2"), &[f(a), f(b)], expected);
    }
    for (op, a, expected) in [
        ("neg.f32", 2.0, f(-2.0)),
        ("abs.f32", -2.0, f(2.0)),
        ("abs.ftz.f32", -tiny, 0),
        ("sqrt.rn.f32", 2.0, 0x3fb5_04f3),
        ("sqrt.rn.f32", -1.0, nan),
        ("rcp.rn.f32", 3.0, 0x3eaa_aaab),
        ("rcp.approx.ftz.f32", 4.0, f(0.25)),
        ("rsqrt.approx.f32", 4.0, f(0.5)),
        ("ex2.approx.ftz.f32", 3.0, f(8.0)),
        ("ex2.approx.f32", -1.0, f(0.5)),
        ("lg2.approx.f32", 8.0, f(3.0)),
        ("lg2.approx.ftz.f32", 0.0, f(f32::NEG_INFINITY)),
        ("tanh.approx.f32", 100.0, f(1.0)),
        ("sin.approx.f32", 0.0, 0),
        ("cos.approx.f32", 0.0, f(1.0)),
        ("mov.f32", 1.5, f(1.5)),
    ] {
        check(&format!("{op} %f4, %f1"), &[f(a)], expected);
    }
    check("mov.f32 %f4, 0f3F800000", &[], f(1.0));
}

#[test]
fn a_fused_sum_is_rounded_once() {
    // (1 + 2^-23)^2 = 1 + 2^-22 + 2^-46: the last part is seen only when 1 + 2^-22 is taken away before rounding.
    let (a, c) = (1.0 + f32::EPSILON, -(1.0 + 2.0 * f32::EPSILON));
    check("fma.rn.f32 %f4, %f1, %f1, %f3", &[f(a), 0, f(c)], f(2f32.powi(-46)));
    // 1 + 2^-24 + 2^-60 lies just above the middle; in f64 it falls onto it.
    let (x, y) = (2f32.powi(-30), 2f32.powi(-30));
    let middle = f(1.0 + f32::EPSILON);
    check("fma.rn.f32 %f4, %f1, %f2, %f3", &[f(x), f(y), middle], middle);
    let third = f(2f32.powi(-24) * (1.0 + 2.0 * f32::EPSILON));
    check("fma.rn.f32 %f4, %f1, %f2, %f3", &[third, f(1.0), f(1.0)], middle);
    check("fma.rn.ftz.f32 %f4, %f1, %f2, %f3", &[1, f(1.0), 0], 0);
    check("fma.rn.sat.f32 %f4, %f1, %f2, %f3", &[f(2.0), f(1.0), f(1.0)], f(1.0));
    check("mad.rn.f32 %f4, %f1, %f2, %f3", &[f(2.0), f(3.0), f(1.0)], f(7.0));
    check("fma.rn.f64 %d4, %d1, %d2, %d3", &[d(2.0), d(3.0), d(1.0)], d(7.0));
}

#[test]
fn directed_rounding_goes_its_way() {
    let (one, above, small) = (f(1.0), f(1.0 + f32::EPSILON), f(2f32.powi(-40)));
    let below = f(1.0 - f32::EPSILON / 2.0);
    let negative = |bits: u64| bits | 1 << 31;
    for (op, a, b, expected) in [
        ("add.rm.f32", one, small, one),
        ("add.rp.f32", one, small, above),
        ("add.rz.f32", one, small, one),
        ("add.rz.f32", one, negative(small), below),
        ("add.rm.f32", one, negative(small), below),
        ("add.rp.f32", one, negative(small), one),
        ("add.rm.f32", one, negative(one), f(-0.0)),
        ("mul.rz.f32", above, above, f(1.0 + 2.0 * f32::EPSILON)),
        ("mul.rp.f32", above, above, f(1.0 + 3.0 * f32::EPSILON)),
        ("mul.rm.f32", above, negative(above), f(-1.0 - 3.0 * f32::EPSILON)),
        ("mul.rz.f32", f(f32::MAX), f(2.0), f(f32::MAX)),
        ("mul.rm.f32", f(-0.0), one, f(-0.0)),
    ] {
        check(&format!("{op} %f4, %f1, %f2"), &[a, b], expected);
    }
    check("fma.rm.f32 %f4, %f1, %f2, %f3", &[one, one, negative(small)], below);
    check("fma.rz.f32 %f4, %f1, %f2, %f3", &[negative(one), one, small], negative(below));
    check("fma.rp.f32 %f4, %f1, %f2, %f3", &[one, one, small], above);
}

#[test]
fn floats_of_64_bits() {
    for (op, a, b, expected) in [
        ("add.f64", 1.5, 2.0, 3.5),
        ("add.rn.f64", 1.5, 2.0, 3.5),
        ("sub.f64", 1.5, 2.0, -0.5),
        ("sub.rn.f64", 1.5, 2.0, -0.5),
        ("mul.f64", 1.5, 2.0, 3.0),
        ("mul.rn.f64", 1.5, 2.0, 3.0),
        ("div.rn.f64", 3.0, 2.0, 1.5),
        ("min.f64", 3.0, 2.0, 2.0),
        ("max.f64", 3.0, 2.0, 3.0),
    ] {
        check(&format!("{op} %d4, %d1, %d2"), &[d(a), d(b)], d(expected));
    }
    for (op, a, expected) in [
        ("neg.f64", 2.0, -2.0),
        ("abs.f64", -2.0, 2.0),
        ("sqrt.rn.f64", 9.0, 3.0),
        ("rcp.rn.f64", 4.0, 0.25),
        ("mov.f64", 4.5, 4.5),
    ] {
        check(&format!("{op} %d4, %d1"), &[d(a)], d(expected));
    }
}

#[test]
fn conversions() {
    check("cvt.rn.f32.s32 %f4, %r1", &[s(-3)], f(-3.0));
    check("cvt.rn.f32.u32 %f4, %r1", &[s(-1)], f(4_294_967_296.0));
    check("cvt.rn.f32.u16 %f4, %h1", &[255], f(255.0));
    check("cvt.rn.f32.s64 %f4, %rd1", &[l(-7)], f(-7.0));
    check("cvt.rn.f64.s32 %d4, %r1", &[s(-3)], d(-3.0));
    check("cvt.f64.f32 %d4, %f1", &[f(1.5)], d(1.5));
    check("cvt.rn.f32.f64 %f4, %d1", &[d(1.0 / 3.0)], 0x3eaa_aaab);
    check("cvt.rzi.s32.f32 %r4, %f1", &[f(-2.7)], s(-2));
    check("cvt.rni.s32.f32 %r4, %f1", &[f(2.5)], 2);
    check("cvt.rmi.s32.f32 %r4, %f1", &[f(-2.1)], s(-3));
    check("cvt.rpi.s32.f32 %r4, %f1", &[f(2.1)], 3);
    check("cvt.rzi.s32.f32 %r4, %f1", &[f(1e20)], s(i32::MAX));
    check("cvt.rzi.u32.f32 %r4, %f1", &[f(-1.0)], 0);
    check("cvt.rzi.s32.f32 %r4, %f1", &[f(f32::NAN)], 0);
    check("cvt.rzi.s64.f64 %rd4, %d1", &[d(-2.7)], l(-2));
    check("cvt.rni.f32.f32 %f4, %f1", &[f(3.5)], f(4.0));
    check("cvt.rmi.f32.f32 %f4, %f1", &[f(-0.5)], f(-1.0));
    check("cvt.rzi.f32.f32 %f4, %f1", &[f(-0.5)], f(-0.0));
    check("cvt.sat.f32.f32 %f4, %f1", &[f(1.5)], f(1.0));
    check("cvt.sat.f32.f32 %f4, %f1", &[f(-1.5)], 0);
    check("cvt.ftz.f32.f32 %f4, %f1", &[1], 0);
    check("cvt.s64.s32 %rd4, %r1", &[s(-3)], l(-3));
    check("cvt.s64.s32 %rd4, %rd1", &[0x1_ffff_fffd], l(-3));
    check("cvt.u64.u32 %rd4, %r1", &[s(-1)], 0xffff_ffff);
    check("cvt.u32.u64 %r4, %rd1", &[0x1_0000_0005], 5);
    check("cvt.u64.u16 %rd4, %h1", &[0xfffe], 0xfffe);
    check("cvt.u32.u16 %r4, %h1", &[0xfffe], 0xfffe);
    check("cvt.s32.s16 %r4, %h1", &[0xfffe], s(-2));
    check("cvt.u16.u32 %h3, %r1", &[0x1_2345], 0x2345);
    check("cvt.s32.s8 %r4, %r1", &[0x80], s(-128));
    check("cvt.u32.u8 %r4, %r1", &[0x1ff], 0xff);
    check("cvt.sat.u8.s32 %r4, %r1", &[300], 255);
}

#[test]
fn comparisons() {
    for (how, less, equal, greater) in
        [("lt", 1, 0, 0), ("le", 1, 1, 0), ("gt", 0, 0, 1), ("ge", 0, 1, 1), ("eq", 0, 1, 0), ("ne", 1, 0, 1)]
    {
        for (a, expected) in [(-2, less), (-1, equal), (3, greater)] {
            check(&format!("setp.{how}.s32 %p1, %r1, %r2"), &[s(a), s(-1)], expected);
            check(&format!("setp.{how}.s64 %p1, %rd1, %rd2"), &[l(a.into()), l(-1)], expected);
            check(&format!("setp.{how}.s16 %p1, %h1, %h2"), &[s(a), s(-1)], expected);
            check(&format!("setp.{how}.f32 %p1, %f1, %f2"), &[f(a as f32), f(-1.0)], expected);
            check(&format!("setp.{how}.f64 %p1, %d1, %d2"), &[d(a.into()), d(-1.0)], expected);
            check(&format!("setp.{how}u.f32 %p1, %f1, %f2"), &[f(a as f32), f(-1.0)], expected);
        }
        for (a, expected) in [(1, less), (2, equal), (l(-1), greater)] {
            check(&format!("setp.{how}.u32 %p1, %r1, %r2"), &[a, 2], expected);
            check(&format!("setp.{how}.u64 %p1, %rd1, %rd2"), &[a, 2], expected);
            check(&format!("setp.{how}.u16 %p1, %h1, %h2"), &[a, 2], expected);
        }
        check(&format!("setp.{how}.f32 %p1, %f1, %f2"), &[f(f32::NAN), f(0.0)], 0);
        check(&format!("setp.{how}u.f32 %p1, %f1, %f2"), &[f(f32::NAN), f(0.0)], 1);
    }
    check("setp.eq.b32 %p1, %r1, %r2", &[2, 2], 1);
    check("setp.eq.b64 %p1, %rd1, %rd2", &[2, 2], 1);
    check("setp.lo.u32 %p1, %r1, %r2", &[1, s(-1)], 1);
    check("setp.ls.u32 %p1, %r1, %r2", &[1, 1], 1);
    check("setp.hi.u32 %p1, %r1, %r2", &[s(-1), 1], 1);
    check("setp.hs.u32 %p1, %r1, %r2", &[1, 1], 1);
    check("setp.num.f32 %p1, %f1, %f2", &[f(1.0), f(f32::NAN)], 0);
    check("setp.nan.f32 %p1, %f1, %f2", &[f(1.0), f(f32::NAN)], 1);
    check("setp.eq.ftz.f32 %p1, %f1, %f2", &[1, 0], 1);
}

#[test]
fn predicates() {
    let with =
        |logic: &str, source: &str| format!("setp.eq.s32 %p2, %r1, 1; setp.eq.{logic}.s32 %p1, %r2, 1, {source};");
    for (a, b, and, or, xor) in [(0, 0, 0, 0, 0), (0, 1, 0, 1, 1), (1, 0, 0, 1, 1), (1, 1, 1, 1, 0)] {
        let value = |body: &str| run(body, "%p1", &[a, b], 1).unwrap()[0];
        assert_eq!([value(&with("and", "%p2")), value(&with("or", "%p2")), value(&with("xor", "%p2"))], [and, or, xor]);
        assert_eq!(value(&with("and", "!%p2")), u64::from(b == 1 && a == 0));
        for (op, expected) in [("and", and), ("or", or), ("xor", xor)] {
            let body = format!("setp.eq.s32 %p2, %r1, 1; setp.eq.s32 %p3, %r2, 1; {op}.pred %p1, %p2, %p3;");
            assert_eq!(value(&body), expected, "{op}");
        }
        assert_eq!(value("setp.eq.s32 %p2, %r1, 1; not.pred %p1, %p2;"), 1 - a);
        assert_eq!(value("setp.eq.s32 %p2, %r1, 1; mov.pred %p1, %p2;"), a);
        assert_eq!(value("setp.eq.s32 %p2|%p1, %r1, 1;"), 1 - a);
    }
    for (op, r, x, y) in [("b32", "%r4", "%r2", "%r3"), ("f32", "%f4", "%f2", "%f3"), ("b64", "%rd4", "%rd2", "%rd3")] {
        let body = format!("setp.ne.s32 %p1, %r1, 0; selp.{op} {r}, {x}, {y}, %p1;");
        assert_eq!(run(&body, r, &[1, 5, 6], 1).unwrap()[0], 5);
        assert_eq!(run(&body, r, &[0, 5, 6], 1).unwrap()[0], 6);
    }
    let guarded = "mov.u32 %r4, 1; setp.eq.s32 %p1, %r1, 0; @%p1 mov.u32 %r4, 2; @!%p1 mov.u32 %r5, 3;";
    assert_eq!(run(guarded, "%r4", &[0], 1).unwrap()[0], 2);
    assert_eq!(run(guarded, "%r4", &[1], 1).unwrap()[0], 1);
}

#[test]
fn packing_moves() {
    check("mov.b64 %rd4, {%r1, %r2}", &[1, 2], 2 << 32 | 1);
    check("mov.b32 %r4, {%h1, %h2}", &[1, 2], 2 << 16 | 1);
    assert_eq!(run("mov.b64 {%r4, %r5}, %rd1;", "%r5", &[7 << 32], 1).unwrap()[0], 7);
    assert_eq!(run("mov.b64 {%r4, _}, %rd1;", "%r4", &[7 << 32 | 5], 1).unwrap()[0], 5);
    assert_eq!(run("mov.b32 {%h3, %h4}, %r1;", "%h4", &[7 << 16 | 5], 1).unwrap()[0], 7);
}

#[test]
fn loads_and_stores_of_every_space_and_width() {
    let shared = ".shared .align 16 .b8 buffer[64];";
    let local = ".local .align 16 .b8 buffer[64];";
    for (space, declaration) in [("shared", shared), ("local", local)] {
        for (width, value, expected) in [
            ("u8", 0x1ff, 0xff),
            ("s8", 0x80, s(-128)),
            ("u16", 0x1_fffe, 0xfffe),
            ("s16", 0xfffe, s(-2)),
            ("u32", 7, 7),
            ("s32", s(-7), s(-7)),
            ("b32", 9, 9),
        ] {
            let body = format!(
                "{declaration} mov.u64 %rd4, buffer; st.{space}.{width} [%rd4+8], %r1; ld.{space}.{width} %r4, [buffer+8];"
            );
            assert_eq!(run(&body, "%r4", &[value], 1).unwrap()[0], expected, "{space} {width}");
        }
        let wide = format!("{declaration} st.{space}.u64 [buffer+8], %rd1; ld.{space}.b64 %rd4, [buffer+8];");
        assert_eq!(run(&wide, "%rd4", &[1 << 40], 1).unwrap()[0], 1 << 40);
        let vectors = format!(
            "{declaration} st.{space}.v4.f32 [buffer+16], {{%f1, %f2, %f3, %f1}}; ld.{space}.v2.f32 {{%f4, %f5}}, [buffer+24];
             add.f32 %f6, %f4, %f5;"
        );
        assert_eq!(run(&vectors, "%f6", &[f(1.0), f(2.0), f(3.0)], 1).unwrap()[0], f(4.0));
        let generic = format!(
            "{declaration} mov.u64 %rd4, buffer; cvta.{space}.u64 %rd5, %rd4; st.u32 [%rd5], %r1; cvta.to.{space}.u64 %rd6, %rd5;
             ld.{space}.u32 %r4, [%rd6];"
        );
        assert_eq!(run(&generic, "%r4", &[5], 1).unwrap()[0], 5);
    }
    // A signed byte in a register of 16 bits is one of 16 bits.
    let byte = "st.shared.u8 [0], %r1; ld.shared.s8 %h3, [0]; setp.eq.u16 %p1, %h3, %h2;";
    assert_eq!(run(byte, "%p1", &[0x80, 0xff80], 1).unwrap()[0], 1);
    let global = "cvta.to.global.u64 %rd4, %at; st.global.v2.u32 [%rd4], {%r1, %r2}; ld.global.nc.u32 %r4, [%rd4+4];
        ld.volatile.global.u32 %r5, [%rd4]; ld.u32 %r6, [%at]; add.s32 %r4, %r4, %r5; add.s32 %r4, %r4, %r6;";
    assert_eq!(run(global, "%r4", &[5, 6], 1).unwrap()[0], 16);
    let narrow = "st.shared.u32 [%r1], %r2; ld.shared.u32 %r4, [%r1];";
    assert_eq!(run(narrow, "%r4", &[16, 6], 1).unwrap()[0], 6);
}

/// How lanes come to their places in a test, and the place of each.
type Places = (&'static str, fn(u32) -> u32);

/// Whole warps that load two or four words each, from places of every pattern.
#[test]
fn vectors_of_words_from_every_pattern_of_places() {
    let patterns: [Places; 5] = [
        ("shl.b32 %r4, %lane, 4;", |lane| lane * 16),
        ("and.b32 %r4, %lane, 15; shl.b32 %r4, %r4, 4;", |lane| lane % 16 * 16),
        ("shl.b32 %r4, %lane, 5;", |lane| lane * 32),
        ("mov.u32 %r4, 48;", |_| 48),
        ("xor.b32 %r4, %lane, 5; shl.b32 %r4, %r4, 4;", |lane| (lane ^ 5) * 16),
    ];
    // Word n of shared memory is 3 n + 1; 64 words for each of 32 threads' places, 32 threads fill eight each.
    let fill: String = (0..8)
        .map(|n| {
            format!(
                "mad.lo.u32 %r4, %lane, 32, {}; mad.lo.u32 %r5, %lane, 24, {}; st.shared.u32 [%r4], %r5;\n",
                4 * n,
                3 * n + 1
            )
        })
        .collect();
    let word = |at: u32| u64::from(at / 4 * 3 + 1);
    for (places, place) in patterns {
        for condition in ["", "@%p1 "] {
            let head = format!(
                ".shared .align 16 .b8 buffer[1024]; {fill} bar.sync 0; setp.lt.u32 %p1, %lane, 7; {places}
                 mov.u32 %r5, 0; mov.u32 %r6, 0; mov.u32 %r7, 0; mov.u32 %r8, 0;"
            );
            let read = |lane: u32| condition.is_empty() || lane < 7;
            let sum = "mad.lo.u32 %r9, %r6, 10, %r5; mad.lo.u32 %r9, %r7, 100, %r9; mad.lo.u32 %r9, %r8, 1000, %r9;";
            let four = format!("{head} {condition}ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r4]; {sum}");
            let of_four = |lane: u32| {
                let at = place(lane);
                word(at) + 10 * word(at + 4) + 100 * word(at + 8) + 1000 * word(at + 12)
            };
            let two = format!("{head} {condition}ld.shared.v2.u32 {{%r5, %r6}}, [%r4+8]; {sum}");
            let of_two = |lane: u32| word(place(lane) + 8) + 10 * word(place(lane) + 12);
            let wide = format!("{head} mov.u64 %rd4, 0; {condition}ld.shared.u32 %rd4, [%r4+4];");
            let of_wide = |lane: u32| word(place(lane) + 4);
            let holds = |body: &str, result: &str, value: &dyn Fn(u32) -> u64| {
                let expected: Vec<u64> = (0..32).map(|lane| if read(lane) { value(lane) } else { 0 }).collect();
                assert_eq!(run(body, result, &[], 32).unwrap(), expected, "{condition}{places} {result}");
            };
            holds(&four, "%r9", &of_four);
            holds(&two, "%r9", &of_two);
            holds(&wide, "%rd4", &of_wide);
        }
    }
}

#[test]
fn atomics() {
    for (op, old, operand, new) in [
        ("add.u32", 5, 6, 11),
        ("add.s32", 5, s(-6), s(-1)),
        ("add.f32", f(1.0), f(0.5), f(1.5)),
        ("min.s32", s(-1), 1, s(-1)),
        ("max.s32", s(-1), 1, 1),
        ("min.u32", s(-1), 1, 1),
        ("max.u32", s(-1), 1, s(-1)),
        ("and.b32", 12, 10, 8),
        ("or.b32", 12, 10, 14),
        ("xor.b32", 12, 10, 6),
        ("inc.u32", 5, 5, 0),
        ("dec.u32", 0, 5, 5),
        ("exch.b32", 5, 6, 6),
    ] {
        let body = |result| {
            format!(
                "st.shared.u32 [0], %r1; atom.shared.{op} %r4, [0], %r2; ld.shared.u32 %r5, [0]; mov.u32 %r6, {result};"
            )
        };
        assert_eq!(run(&body("%r5"), "%r6", &[old, operand], 1).unwrap()[0], new, "{op}");
        assert_eq!(run(&body("%r4"), "%r6", &[old, operand], 1).unwrap()[0], old, "{op}");
    }
    let cas = "st.global.u64 [%at], %rd1; atom.global.cas.b64 %rd4, [%at], %rd2, %rd3; ld.global.u64 %rd5, [%at];";
    assert_eq!(run(cas, "%rd5", &[5, 5, 9], 1).unwrap()[0], 9);
    assert_eq!(run(cas, "%rd5", &[5, 6, 9], 1).unwrap()[0], 5);
    // Every lane adds one to the same place; the old values are 0 to 31 in the order of the lanes.
    let all = "setp.eq.s32 %p1, %lane, 0; @%p1 st.shared.u32 [0], 0; bar.warp.sync -1; atom.shared.add.u32 %r4, [0], 1;
        red.shared.add.u32 [0], 1;";
    assert_eq!(run(all, "%r4", &[], 32).unwrap(), (0..32).collect::<Vec<u64>>());
}

#[test]
fn shuffles_votes_and_masks() {
    let lanes = |body: &str, result: &str| run(body, result, &[], 32).unwrap();
    let shuffled = |how: &str, b: u32, c: u32| lanes(&format!("shfl.sync.{how}.b32 %r4, %lane, {b}, {c}, -1;"), "%r4");
    assert_eq!(shuffled("bfly", 1, 31), (0..32).map(|lane| lane ^ 1).collect::<Vec<u64>>());
    assert_eq!(
        shuffled("down", 4, 31),
        (0..32).map(|lane| if lane < 28 { lane + 4 } else { lane }).collect::<Vec<u64>>()
    );
    assert_eq!(shuffled("up", 4, 0), (0..32).map(|lane| if lane >= 4 { lane - 4 } else { lane }).collect::<Vec<u64>>());
    assert_eq!(shuffled("idx", 7, 31), vec![7; 32]);
    // Segments of 8 lanes: c = (32 - 8) << 8 | 31.
    assert_eq!(shuffled("idx", 2, 0x181f), (0..32).map(|lane| lane / 8 * 8 + 2).collect::<Vec<u64>>());
    let valid = lanes("shfl.sync.down.b32 %r4|%p1, %lane, 4, 31, -1;", "%p1");
    assert_eq!(valid, (0..32).map(|lane| u64::from(lane < 28)).collect::<Vec<u64>>());
    let vote = |how: &str, limit: u32| {
        lanes(&format!("setp.lt.u32 %p1, %lane, {limit}; vote.sync.{how}.pred %p2, %p1, -1;"), "%p2")
    };
    assert_eq!([vote("any", 0)[0], vote("any", 1)[31]], [0, 1]);
    assert_eq!([vote("all", 31)[0], vote("all", 32)[31]], [0, 1]);
    assert_eq!([vote("uni", 31)[0], vote("uni", 0)[0], vote("uni", 32)[31]], [0, 1, 1]);
    assert_eq!(lanes("setp.lt.u32 %p1, %lane, 5; vote.sync.ballot.b32 %r4, %p1, -1;", "%r4"), vec![31; 32]);
    assert_eq!(run("activemask.b32 %r4;", "%r4", &[], 5).unwrap(), vec![31; 5]);
    assert_eq!(lanes("mov.u32 %r4, %lanemask_lt;", "%r4")[5], 31);
    assert_eq!(lanes("mov.u32 %r4, %lanemask_le;", "%r4")[5], 63);
    assert_eq!(lanes("mov.u32 %r4, %lanemask_eq;", "%r4")[5], 32);
    assert_eq!(lanes("mov.u32 %r4, %lanemask_gt;", "%r4")[30], 1 << 31);
    assert_eq!(lanes("mov.u32 %r4, %lanemask_ge;", "%r4")[31], 1 << 31);
    assert_eq!(
        run("mov.u32 %r4, %warpid; mov.u32 %r5, %laneid; mad.lo.s32 %r4, %r4, 100, %r5;", "%r4", &[], 64).unwrap()[63],
        131
    );
}

#[test]
fn branches_part_and_meet_again() {
    let body = "mov.u32 %r4, 0; and.b32 %r5, %lane, 1; setp.eq.s32 %p1, %r5, 0; @%p1 bra EVEN;
        add.s32 %r4, %r4, 10; bra.uni MEET;
        EVEN: add.s32 %r4, %r4, 20;
        MEET: shfl.sync.bfly.b32 %r4, %r4, 1, 31, -1;";
    assert_eq!(run(body, "%r4", &[], 32).unwrap(), (0..32).map(|lane| 10 + lane % 2 * 10).collect::<Vec<u64>>());
    // Each lane counts to its own number.
    let body = "mov.u32 %r4, 0; LOOP: setp.ge.u32 %p1, %r4, %lane; @%p1 bra DONE; add.s32 %r4, %r4, 1; bra LOOP; DONE:";
    assert_eq!(run(body, "%r4", &[], 40).unwrap(), (0..40).collect::<Vec<u64>>());
}

#[test]
fn barriers_and_fences_let_others_work_be_seen() {
    for barrier in
        ["bar.sync 0;", "barrier.sync 0;", "bar.sync 3, 64;", "membar.gl; fence.acq_rel.gpu; membar.cta; bar.sync 1;"]
    {
        let body = format!(
            ".shared .align 4 .b8 x[256]; mul.wide.u32 %rd4, %lane, 4; st.shared.u32 [%rd4], %lane; {barrier}
             sub.s32 %r5, 63, %lane; mul.wide.u32 %rd4, %r5, 4; ld.shared.u32 %r4, [%rd4];"
        );
        assert_eq!(run(&body, "%r4", &[], 64).unwrap(), (0..64).rev().collect::<Vec<u64>>(), "{barrier}");
    }
    // The first warp leaves its work and goes on; the second waits for it.
    let body = ".shared .align 4 .b8 x[4]; mov.u32 %r4, 0; setp.lt.u32 %p1, %lane, 32; @%p1 bra GIVE;
        bar.sync 1, 64; ld.shared.u32 %r4, [x]; bra END;
        GIVE: setp.eq.u32 %p2, %lane, 0; @%p2 st.shared.u32 [x], 9; bar.arrive 1, 64; END:";
    assert_eq!(run(body, "%r4", &[], 64).unwrap()[32..], [9; 32]);
}

#[test]
fn unknown_forms_stop_with_their_name() {
    for opcode in
        ["frobnicate.b32", "add.frob.s32", "ld.global.v8.f32", "cvt.rn.frob.f32", "setp.lt.b128", "bar.red.xor.pred"]
    {
        match run(&format!("{opcode} %r4, %r1;"), "%r4", &[], 1) {
            Err(Error::UnknownOpcode { opcode: named, line }) => assert_eq!((named.as_str(), line > 0), (opcode, true)),
            other => panic!("{opcode}: {other:?}"),
        }
    }
    for body in
        ["add.s32 %r4, %nope, 1;", "add.s32 %r4;", "bra NOWHERE;", "add.s32 %rd4, %r1, %r2;", "mov.u32 %r4, %smid;"]
    {
        assert!(matches!(run(body, "%r4", &[], 1), Err(Error::Parse { .. })), "{body}");
    }
}

#[test]
fn what_cannot_start_says_why() {
    let module = Module::parse(&format!("{HEAD} ret; }}")).unwrap();
    let mut memory = Memory::new();
    let shape = Shape { grid: [1, 1, 1], block: [1, 1, 1], ..Shape::default() };
    let mut launch = |name: &str, shape: Shape, args: &[Arg]| {
        let error = module.launch(name, &shape, args, &mut memory, &Options::default());
        assert!(matches!(error, Err(Error::Launch(_))), "{error:?}");
    };
    let args = [Arg::U64(0); 4];
    launch("nope", shape, &args);
    launch("k", shape, &args[..3]);
    launch("k", shape, &[Arg::U32(0); 4]);
    launch("k", Shape { block: [1025, 1, 1], ..shape }, &args);
    launch("k", Shape { grid: [0, 1, 1], ..shape }, &args);
    launch("k", Shape { dynamic_shared: 1 << 20, ..shape }, &args);
    assert!(matches!(run("bar.sync 16;", "%r1", &[], 32), Err(Error::Kernel(r)) if r.kind == Kind::BadOperand));
}
