//! Vectors of f32 behind one trait, and the choice among them at run time.
//!
//! A value of a [`Simd`] type is the proof that the processor has its instructions: only [`Isa`] makes one, after asking
//! the processor. So everything built on the trait is safe code; the intrinsics stay in this file.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::precision::Precision;

/// Two neighbours along k of a factor of a product, rounded to bf16: the first in the lower half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pair(pub u32);

impl Pair {
    /// Both rounded to the nearest, of two equally near ones to the even one.
    #[inline(always)]
    pub fn new(first: f32, second: f32) -> Self {
        Self(bf16_bits(first) | bf16_bits(second) << 16)
    }
}

/// The nearest bf16, of two equally near ones the even one; NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// The nearest bf16.
pub fn round_to_bf16(x: f32) -> f32 {
    f32::from_bits(bf16_bits(x) << 16)
}

/// A processor's vector instructions for f32.
pub trait Simd: Copy + Send + Sync {
    /// Numbers in a vector, L.
    const LANES: usize;
    /// Most rows of a tile that is four vectors wide, so that it stays in registers.
    const WIDE_ROWS: usize;
    /// Most rows of a tile that is at most two vectors wide.
    const NARROW_ROWS: usize;
    /// True if the products of the LSTM are to be made of [`Pair`]s; only then may these be asked for.
    const PAIRS: bool = false;
    /// A vector.
    type V: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// The first L numbers of `from`, which must have as many.
    fn load(self, from: &[f32]) -> Self::V;
    /// Writes the first L numbers of `to`, which must have as many.
    fn store(self, to: &mut [f32], v: Self::V);
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the processor can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a · b`, rounded once where the processor can.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `x` held between `low` and `high`; NaN stays NaN.
    fn clamp(self, x: Self::V, low: f32, high: f32) -> Self::V;
    /// The bits of each lane moved up by 23 places: the lowest eight become a float's exponent.
    fn low_bits_to_exponent(self, x: Self::V) -> Self::V;

    /// A vector whose lanes all are `pair`.
    #[inline(always)]
    fn splat_pair(self, _pair: Pair) -> Self::V {
        unreachable!("these instructions have no pairs")
    }
    /// `c + a0 · b0 + a1 · b1` of lanes that hold pairs.
    #[inline(always)]
    fn dot(self, _a: Self::V, _b: Self::V, _c: Self::V) -> Self::V {
        unreachable!("these instructions have no pairs")
    }
    /// Writes L pairs of a lane of `first` and the same lane of `second`, rounded.
    #[inline(always)]
    fn store_pairs(self, _to: &mut [Pair], _first: Self::V, _second: Self::V) {
        unreachable!("these instructions have no pairs")
    }
    /// Writes L/2 pairs of neighbouring lanes of `v`, rounded.
    #[inline(always)]
    fn store_rounded(self, _to: &mut [Pair], _v: Self::V) {
        unreachable!("these instructions have no pairs")
    }

    /// Runs `kernel` as a function of its own in the code of these instructions: compiled once, however often it is
    /// called, where code that is only inlined is repeated in every caller.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// L numbers from an address.
    ///
    /// # Safety
    ///
    /// L numbers must be readable there.
    unsafe fn load_at(self, from: *const f32) -> Self::V;
}

/// A piece of work that is compiled once for each kind of vector. `run` must be `#[inline(always)]`, and so must all
/// that it calls with the vectors: only then does it become code of the chosen instructions.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// The work.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Instructions that the program can use; the best that the processor has by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Vectors of 16.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Vectors of 16, and products of numbers rounded to bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    /// Vectors of 8 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Vectors of 8 as the `wide` crate makes them from what every processor of the target has.
    Portable,
}

impl Isa {
    /// What this processor has for f32, the best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                found.push(Self::Avx512(Avx512(())));
            }
            if avx2 {
                found.push(Self::Avx2(Avx2(())));
            }
        }
        found.push(Self::Portable);
        found
    }

    /// What this processor has for products in bf16.
    pub fn bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if matches!(Self::best(), Self::Avx512(_)) && is_x86_feature_detected!("avx512bf16") {
            return Some(Self::Avx512Bf16(Avx512Bf16(())));
        }
        None
    }

    /// The best that this processor has for products of this precision.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if it has none.
    pub fn with(precision: Precision) -> Result<Self> {
        let refused = |found: &str, remedy: &str| Error::Device {
            device: format!("--precision {precision}"),
            found: found.into(),
            remedy: remedy.into(),
        };
        match precision {
            Precision::F32 => Ok(Self::best()),
            Precision::Tf32 => {
                Err(refused("only GPUs have it, and the device is the processor", "use --precision f32 or bf16"))
            }
            Precision::Bf16 => {
                Self::bf16().ok_or_else(|| refused("this processor has no AVX512-BF16", "use --precision f32"))
            }
        }
    }

    /// The precision of the products.
    pub fn precision(self) -> Precision {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(_) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// The best that this processor has for f32.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(_) => "AVX-512 BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "AVX2",
            Self::Portable => "portable vectors",
        }
    }

    /// Numbers in a vector.
    pub fn lanes(self) -> usize {
        struct Lanes;
        impl Kernel for Lanes {
            type Output = usize;
            fn run<S: Simd>(self, _: S) -> usize {
                S::LANES
            }
        }
        self.run(Lanes)
    }

    /// Runs `kernel` in the code made for these instructions.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(s) => s.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(s) => s.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.call(kernel),
            Self::Portable => Portable.call(kernel),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512, Avx512Bf16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Pair, Simd};
    use std::arch::x86_64::*;

    /// Proof of AVX-512F.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Avx512(pub(super) ());

    /// Proof of AVX-512F and AVX512-BF16.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Avx512Bf16(pub(super) ());

    /// Proof of AVX2 and FMA.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Avx2(pub(super) ());

    /// One implementation of [`Simd`] from a row of intrinsics. Every call's safety is the same: the token proves the
    /// instructions, and `load` and `store` check the length before they use the address.
    macro_rules! simd {
        ($token:ident, $features:literal, $vector:ty, $lanes:literal, $wide:literal, $narrow:literal, $set1:ident, $loadu:ident,
         $storeu:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $fmadd:ident, $fnmadd:ident, $sqrt:ident,
         $max:ident, $min:ident, $to_int:ident, $slli:ident, $to_float:ident, {$($more:item)*}) => {
            // SAFETY (of every block below): the token proves that the processor has the instructions.
            #[allow(clippy::undocumented_unsafe_blocks)]
            impl Simd for $token {
                const LANES: usize = $lanes;
                const WIDE_ROWS: usize = $wide;
                const NARROW_ROWS: usize = $narrow;
                type V = $vector;
                $($more)*

                #[inline(always)]
                fn splat(self, x: f32) -> $vector {
                    unsafe { $set1(x) }
                }
                #[inline(always)]
                fn load(self, from: &[f32]) -> $vector {
                    let from = &from[..$lanes];
                    unsafe { $loadu(from.as_ptr()) }
                }
                #[inline(always)]
                fn store(self, to: &mut [f32], v: $vector) {
                    let to = &mut to[..$lanes];
                    unsafe { $storeu(to.as_mut_ptr(), v) }
                }
                #[inline(always)]
                fn add(self, a: $vector, b: $vector) -> $vector {
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                fn sub(self, a: $vector, b: $vector) -> $vector {
                    unsafe { $sub(a, b) }
                }
                #[inline(always)]
                fn mul(self, a: $vector, b: $vector) -> $vector {
                    unsafe { $mul(a, b) }
                }
                #[inline(always)]
                fn div(self, a: $vector, b: $vector) -> $vector {
                    unsafe { $div(a, b) }
                }
                #[inline(always)]
                fn fma(self, a: $vector, b: $vector, c: $vector) -> $vector {
                    unsafe { $fmadd(a, b, c) }
                }
                #[inline(always)]
                fn fnma(self, a: $vector, b: $vector, c: $vector) -> $vector {
                    unsafe { $fnmadd(a, b, c) }
                }
                #[inline(always)]
                fn sqrt(self, a: $vector) -> $vector {
                    unsafe { $sqrt(a) }
                }
                #[inline(always)]
                fn clamp(self, x: $vector, low: f32, high: f32) -> $vector {
                    // Where one operand is NaN these give the second.
                    unsafe { $min($set1(high), $max($set1(low), x)) }
                }
                #[inline(always)]
                fn low_bits_to_exponent(self, x: $vector) -> $vector {
                    unsafe { $to_float($slli::<23>($to_int(x))) }
                }
                #[inline]
                fn call<K: Kernel>(self, kernel: K) -> K::Output {
                    #[target_feature(enable = $features)]
                    #[inline(never)]
                    fn outlined<K: Kernel>(s: $token, kernel: K) -> K::Output {
                        kernel.run(s)
                    }
                    unsafe { outlined(self, kernel) }
                }
                #[inline(always)]
                unsafe fn load_at(self, from: *const f32) -> $vector {
                    unsafe { $loadu(from) }
                }
            }
        };
    }

    macro_rules! avx512 {
        ($token:ident, $features:literal, $more:tt) => {
            // 32 registers: 6 x 4 or 12 x 2 sums, with the row of B and one number of A beside them.
            simd!(
                $token,
                $features,
                __m512,
                16,
                6,
                12,
                _mm512_set1_ps,
                _mm512_loadu_ps,
                _mm512_storeu_ps,
                _mm512_add_ps,
                _mm512_sub_ps,
                _mm512_mul_ps,
                _mm512_div_ps,
                _mm512_fmadd_ps,
                _mm512_fnmadd_ps,
                _mm512_sqrt_ps,
                _mm512_max_ps,
                _mm512_min_ps,
                _mm512_castps_si512,
                _mm512_slli_epi32,
                _mm512_castsi512_ps,
                $more
            );
        };
    }

    avx512!(Avx512, "avx512f,avx2,fma", {});
    // The same, with the dot products of AVX512-BF16.
    avx512!(Avx512Bf16, "avx512f,avx512bf16,avx2,fma", {
        const PAIRS: bool = true;

        #[inline(always)]
        fn splat_pair(self, pair: Pair) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(pair.0 as i32)) }
        }
        #[inline(always)]
        fn dot(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // The vectors' types differ, their bits do not.
            unsafe {
                _mm512_dpbf16_ps(
                    c,
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                )
            }
        }
        #[inline(always)]
        fn store_pairs(self, to: &mut [Pair], first: __m512, second: __m512) {
            let to = &mut to[..16];
            unsafe {
                let first = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(first));
                let second = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(second));
                let second = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(second));
                let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(first), second);
                _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
            }
        }
        #[inline(always)]
        fn store_rounded(self, to: &mut [Pair], v: __m512) {
            let to = &mut to[..8];
            unsafe {
                let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded);
            }
        }
    });
    // 16 registers: 3 x 4 or 6 x 2 sums.
    simd!(
        Avx2,
        "avx2,fma",
        __m256,
        8,
        3,
        6,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_fnmadd_ps,
        _mm256_sqrt_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        _mm256_castps_si256,
        _mm256_slli_epi32,
        _mm256_castsi256_ps,
        {}
    );
}

/// Vectors that every processor has.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Simd for Portable {
    const LANES: usize = 8;
    const WIDE_ROWS: usize = 3;
    const NARROW_ROWS: usize = 6;
    type V = wide::f32x8;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        wide::f32x8::splat(x)
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        wide::f32x8::new(*from.first_chunk().expect("a vector's numbers"))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Self::V) {
        *to.first_chunk_mut().expect("room for a vector") = v.to_array();
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        a * b
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        a / b
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        a.mul_neg_add(b, c)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.sqrt()
    }
    #[inline(always)]
    fn clamp(self, x: Self::V, low: f32, high: f32) -> Self::V {
        x.to_array().map(|x| x.clamp(low, high)).into()
    }
    #[inline(always)]
    fn low_bits_to_exponent(self, x: Self::V) -> Self::V {
        x.to_array().map(|x| f32::from_bits(x.to_bits() << 23)).into()
    }
    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise; an array of f32 needs no more alignment than one.
        wide::f32x8::new(unsafe { *from.cast() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ops<'a> {
        a: &'a [f32],
        b: &'a [f32],
        pairs: &'a mut [Pair],
        rounded: &'a mut [Pair],
        dot: &'a mut [f32],
    }

    impl Kernel for Ops<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            if S::PAIRS {
                let (a, b) = (s.load(self.a), s.load(self.b));
                s.store_pairs(self.pairs, a, b);
                s.store_rounded(self.rounded, a);
                let x = s.splat_pair(Pair::new(3.0, -0.5));
                // SAFETY: there are as many pairs as lanes.
                let v = unsafe { s.load_at(self.pairs.as_ptr().cast()) };
                s.store(self.dot, s.dot(x, v, s.splat(0.25)));
            }
        }
    }

    /// The last f32 before and the first after the middle between two bf16, and the middle of either kind.
    #[test]
    fn numbers_are_rounded_to_the_nearest_bf16() {
        let of = |bits: u32| bf16_bits(f32::from_bits(bits));
        assert_eq!([of(0x3f80_7fff), of(0x3f80_8000), of(0x3f80_8001)], [0x3f80, 0x3f80, 0x3f81]);
        assert_eq!([of(0x3f81_8000), of(0xbf81_8000), of(0x7f7f_ffff)], [0x3f82, 0xbf82, 0x7f80]);
        assert_eq!([of(0), of(0x8000_0000), of(0x7f80_0000)], [0, 0x8000, 0x7f80]);
        assert!([0x7f80_0001, 0xffff_ffff].into_iter().all(|nan| round_to_bf16(f32::from_bits(nan)).is_nan()));
    }

    #[test]
    fn pairs_hold_the_first_in_the_lower_half() {
        let Some(isa) = Isa::bf16() else { return println!("skipped: this processor has no AVX512-BF16") };
        let a: Vec<f32> = (0..16).map(|k| 1.7f32.powi(k - 8) * if k % 3 == 0 { -1.0 } else { 1.0 }).collect();
        let b: Vec<f32> = (0..16).map(|k| [1e30, -1e-30, 0.0, f32::INFINITY][k % 4] * (k as f32 + 0.1)).collect();
        let (mut pairs, mut rounded, mut dot) = ([Pair(0); 16], [Pair(0); 8], [0.0; 16]);
        isa.run(Ops { a: &a, b: &a[..], pairs: &mut pairs, rounded: &mut rounded, dot: &mut dot });
        assert!(a.iter().zip(pairs).all(|(&a, pair)| pair == Pair::new(a, a)));
        assert!(a.chunks(2).zip(rounded).all(|(a, pair)| pair == Pair::new(a[0], a[1])));
        isa.run(Ops { a: &a, b: &b, pairs: &mut pairs, rounded: &mut rounded, dot: &mut dot });
        for k in 0..16 {
            assert_eq!(pairs[k], Pair::new(a[k], b[k]), "{k}");
            let expected = 0.25 - 0.5 * f64::from(round_to_bf16(b[k])) + 3.0 * f64::from(round_to_bf16(a[k]));
            let got = f64::from(dot[k]);
            assert!(got == expected || (got / expected - 1.0).abs() < 1e-6, "{k}: {got} {expected}");
        }
    }
}
