//! Sigmoid and tanh on vectors.
//!
//! Both rest on `e^y - 1` for `y = n ln 2 + r`: a polynomial in the small `r`, then a power of two by its exponent bits.
//! The test below measures their errors: 2.4 units in the last place for the sigmoid, 2.5 for tanh.

use super::simd::Simd;

/// `e^r - 1 = r + r² · q(r)` for |r| <= ln 2 / 2; a minimax fit (Remez' exchange) of relative error 2^-26.
const Q: [f32; 5] = [0.499_999_97, 0.166_665_43, 0.041_667_2, 0.008_366_547_5, 0.001_388_251_7];

/// 1.5 · 2^23 + 127: added to a small number, it leaves the nearest integer plus the exponent's bias in the lowest bits.
const ROUND: f32 = 12_583_039.0;
/// ln 2 in two parts (Cody and Waite); the first has few enough bits that `n · LN2_HIGH` is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `(2^n, e^r - 1)` of `y = n ln 2 + r`, for |y| <= 87.
#[inline(always)]
fn split_exp<S: Simd>(s: S, y: S::V) -> (S::V, S::V) {
    let rounded = s.fma(y, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(rounded, s.splat(ROUND));
    let r = s.fnma(n, s.splat(LN2_LOW), s.fnma(n, s.splat(LN2_HIGH), y));
    let mut q = s.splat(Q[4]);
    q = s.fma(q, r, s.splat(Q[3]));
    q = s.fma(q, r, s.splat(Q[2]));
    q = s.fma(q, r, s.splat(Q[1]));
    q = s.fma(q, r, s.splat(Q[0]));
    (s.low_bits_to_exponent(rounded), s.fma(s.mul(r, r), q, r))
}

/// `1 / (1 + e^-x)`; inputs beyond -87 and 87 count as these, NaN stays NaN.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.clamp(x, -87.0, 87.0);
    let (power, rest) = split_exp(s, s.sub(s.splat(0.0), x));
    let one = s.splat(1.0);
    s.div(one, s.add(one, s.fma(power, rest, power)))
}

/// `tanh(x)`; NaN stays NaN. It is `d / (d + 2)` with `d = e^2x - 1`, which keeps its accuracy near zero.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // From 9.02 on tanh rounds to 1.
    let x = s.clamp(x, -10.0, 10.0);
    let (power, rest) = split_exp(s, s.add(x, x));
    let d = s.fma(power, rest, s.sub(power, s.splat(1.0)));
    s.div(d, s.add(d, s.splat(2.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Isa, Kernel};

    /// Largest errors allowed, in units in the last place.
    const SIGMOID_ULP: f64 = 2.5;
    const TANH_ULP: f64 = 3.0;

    struct Both<'a>(&'a mut [f32], &'a mut [f32]);

    impl Kernel for Both<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for (a, b) in self.0.chunks_exact_mut(S::LANES).zip(self.1.chunks_exact_mut(S::LANES)) {
                let x = s.load(a);
                s.store(a, sigmoid(s, x));
                s.store(b, tanh(s, x));
            }
        }
    }

    fn ulps(got: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        let spacing =
            f64::from(rounded.abs().max(f32::MIN_POSITIVE).next_up()) - f64::from(rounded.abs().max(f32::MIN_POSITIVE));
        (f64::from(got) - exact).abs() / spacing
    }

    /// Every 97th f32 of either sign with |x| <= 87: 22 million numbers, all exponents.
    #[test]
    fn errors_are_a_few_ulps() {
        for isa in Isa::available() {
            let (mut worst_sigmoid, mut worst_tanh) = (0.0f64, 0.0f64);
            let all: Vec<f32> = (0..=87f32.to_bits())
                .step_by(97)
                .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
                .collect();
            for xs in all.chunks_exact(4096) {
                let (mut a, mut b) = (xs.to_vec(), xs.to_vec());
                isa.run(Both(&mut a, &mut b));
                for ((&x, a), b) in xs.iter().zip(a).zip(b) {
                    let x = f64::from(x);
                    worst_sigmoid = worst_sigmoid.max(ulps(a, 1.0 / (1.0 + (-x).exp())));
                    worst_tanh = worst_tanh.max(ulps(b, x.tanh()));
                }
            }
            println!("{}: sigmoid {worst_sigmoid:.2} ulp, tanh {worst_tanh:.2} ulp", isa.name());
            assert!(worst_sigmoid <= SIGMOID_ULP && worst_tanh <= TANH_ULP, "{isa:?} {worst_sigmoid} {worst_tanh}");
        }
    }

    #[test]
    fn extremes_saturate_and_nan_stays() {
        for isa in Isa::available() {
            let xs = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, 1e30, -1e30, 88.0, -104.0];
            let mut a: Vec<f32> = xs.iter().copied().cycle().take(16).collect();
            let mut b = a.clone();
            isa.run(Both(&mut a, &mut b));
            assert_eq!((a[0], a[3], a[4], b[0], b[1], b[3]), (1.0, 0.5, 1.0, 1.0, -1.0, 0.0));
            assert!(a[1] >= 0.0 && a[1] < 1e-37 && a[2].is_nan() && b[2].is_nan());
        }
    }
}
