//! Everything that stays within a warp's registers.
//!
//! The frequent operations work on all 32 lanes at once, in loops that the compiler makes vector instructions of, and
//! then take over the results of the lanes that run. That is why no operation may fail, whatever an idle lane holds.

use crate::exec::{ALL, Found, LANES, Warp, blend, find, lanes};
use crate::narrow;
use crate::op::*;
use crate::report::Kind;
use crate::value;

/// A result for each lane.
#[inline(always)]
fn each<T: Copy + Default>(value: impl Fn(usize) -> T) -> [T; LANES] {
    let mut out = [T::default(); LANES];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = value(lane);
    }
    out
}

/// The lanes for which something holds.
#[inline(always)]
fn mask_of(holds: impl Fn(usize) -> bool) -> u32 {
    (0..LANES).fold(0, |mask, lane| mask | if holds(lane) { 1 << lane } else { 0 })
}

impl Warp {
    #[inline(always)]
    fn map1(&mut self, d: R, a: R, mask: u32, f: impl Fn(u32) -> u32) {
        let a = &self.r[a as usize];
        let new = each(|lane| f(a[lane]));
        blend(&mut self.r[d as usize], &new, mask);
    }

    #[inline(always)]
    fn map2(&mut self, d: R, a: R, b: R, mask: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (&self.r[a as usize], &self.r[b as usize]);
        let new = each(|lane| f(a[lane], b[lane]));
        blend(&mut self.r[d as usize], &new, mask);
    }

    #[inline(always)]
    fn map3(&mut self, d: R, a: R, b: R, c: R, mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (&self.r[a as usize], &self.r[b as usize], &self.r[c as usize]);
        let new = each(|lane| f(a[lane], b[lane], c[lane]));
        blend(&mut self.r[d as usize], &new, mask);
    }

    #[inline(always)]
    fn wide2(&mut self, d: D, a: D, b: D, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (&self.d[a as usize], &self.d[b as usize]);
        let new = each(|lane| f(a[lane], b[lane]));
        blend(&mut self.d[d as usize], &new, mask);
    }
}

/// Runs an operation that touches nothing but registers.
#[inline(always)]
pub(crate) fn compute<const FUSED: bool>(warp: &mut Warp, op: &Op, active: u32) {
    match *op {
        Op::Mov32 { d, a } => warp.map1(d, a, active, |a| a),
        Op::Mov64 { d, a } => warp.wide2(d, a, a, active, |a, _| a),
        Op::MovPred { d, a } => warp.set_pred(d, active, warp.pred(a)),
        Op::Bin32 { op, ftz: false, d, a, b } => binary(warp, op, d, a, b, active),
        Op::Bin64 { op, d, a, b } => binary64(warp, op, d, a, b, active),
        Op::Shift64 { op, d, a, b } => shift64(warp, op, d, a, b, active),
        Op::Tern32 { op: Tern32::MadLow, d, a, b, c } => {
            warp.map3(d, a, b, c, active, |a, b, c| a.wrapping_mul(b).wrapping_add(c));
        }
        Op::Fma32 { ftz: false, saturate: false, d, a, b, c } => {
            warp.map3(d, a, b, c, active, value::fma::<FUSED>);
        }
        Op::MulWide { signed, d, a, b } => {
            let (a, b) = (&warp.r[a as usize], &warp.r[b as usize]);
            let new =
                if signed { each(|lane| mul_signed(a[lane], b[lane])) } else { each(|lane| mul(a[lane], b[lane])) };
            blend(&mut warp.d[d as usize], &new, active);
        }
        Op::MadWide { signed, d, a, b, c } => {
            let (a, b, c) = (&warp.r[a as usize], &warp.r[b as usize], &warp.d[c as usize]);
            let new = if signed {
                each(|lane| mul_signed(a[lane], b[lane]).wrapping_add(c[lane]))
            } else {
                each(|lane| mul(a[lane], b[lane]).wrapping_add(c[lane]))
            };
            blend(&mut warp.d[d as usize], &new, active);
        }
        Op::Window { d: Slot::D(d), a: Slot::D(a), add } => warp.wide2(d, a, a, active, |a, _| a.wrapping_add(add)),
        Op::Convert { how: Convert { to: Type::S64, from: Type::S32, .. }, d: Slot::D(d), a: Slot::R(a) } => {
            let a = &warp.r[a as usize];
            let new = each(|lane| i64::from(a[lane] as i32) as u64);
            blend(&mut warp.d[d as usize], &new, active);
        }
        Op::Convert { how: Convert { to: Type::U64, from: Type::U32, .. }, d: Slot::D(d), a: Slot::R(a) } => {
            let a = &warp.r[a as usize];
            let new = each(|lane| u64::from(a[lane]));
            blend(&mut warp.d[d as usize], &new, active);
        }
        Op::Compare { .. } => compare(warp, op, active),
        Op::Select32 { d, a, b, p } => {
            let chosen = warp.pred(p);
            let (a, b) = (&warp.r[a as usize], &warp.r[b as usize]);
            let new = each(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
            blend(&mut warp.r[d as usize], &new, active);
        }
        Op::Select64 { d, a, b, p } => {
            let chosen = warp.pred(p);
            let (a, b) = (&warp.d[a as usize], &warp.d[b as usize]);
            let new = each(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
            blend(&mut warp.d[d as usize], &new, active);
        }
        Op::PredLogic { op, d, a, b } => warp.set_pred(d, active, logic(op, warp.pred(a), warp.pred(b))),
        _ => rare(warp, op, active),
    }
}

/// What is less frequent, or takes so long that its dispatch does not matter.
#[inline(never)]
fn rare(warp: &mut Warp, op: &Op, active: u32) {
    match *op {
        Op::Un32 { op, ftz, d, a } => {
            let a = warp.r[a as usize];
            lanes(active).for_each(|lane| warp.r[d as usize][lane] = value::un32(op, ftz, a[lane]));
        }
        Op::Un64 { op, d, a } => warp.wide2(d, a, a, active, |a, _| value::un64(op, a)),
        Op::Bin32 { op, d, a, b, .. } => {
            warp.map2(d, a, b, active, |a, b| value::flush(value::bin32(op, value::flush(a), value::flush(b))))
        }
        Op::Tern32 { op, d, a, b, c } => warp.map3(d, a, b, c, active, |a, b, c| value::tern32(op, a, b, c)),
        Op::MadLow64 { d, a, b, c } => {
            let (a, b, c) = (&warp.d[a as usize], &warp.d[b as usize], &warp.d[c as usize]);
            let new = each(|lane| a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]));
            blend(&mut warp.d[d as usize], &new, active);
        }
        Op::Fma32 { ftz, saturate, d, a, b, c } => warp.map3(d, a, b, c, active, |a, b, c| {
            let flush = |bits| if ftz { value::flush(bits) } else { bits };
            let result = flush(value::fma::<false>(flush(a), flush(b), flush(c)));
            if saturate { value::saturate(result) } else { result }
        }),
        Op::Directed { round, d, a, b, c } => {
            warp.map3(d, a, b, c, active, |a, b, c| value::fma_directed(round, a, b, c));
        }
        Op::Fma64 { d, a, b, c } => {
            let [a, b, c] = [a, b, c].map(|slot| warp.d[slot as usize].map(f64::from_bits));
            lanes(active).for_each(|lane| warp.d[d as usize][lane] = a[lane].mul_add(b[lane], c[lane]).to_bits());
        }
        Op::MulWide16 { signed, d, a, b } => warp.map2(d, a, b, active, |a, b| {
            if signed { (i32::from(a as i16) * i32::from(b as i16)) as u32 } else { (a & 0xffff) * (b & 0xffff) }
        }),
        Op::InsertBits { d, a, b, position, length } => {
            let [a, b, position, length] = [a, b, position, length].map(|slot| warp.r[slot as usize]);
            let new = each(|lane| value::insert(a[lane], b[lane], position[lane], length[lane]));
            blend(&mut warp.r[d as usize], &new, active);
        }
        Op::Window { d, a, add } => {
            lanes(active).for_each(|lane| warp.set(d, lane, warp.get(a, lane).wrapping_add(add)));
        }
        Op::Narrow { op, d, a, b, c } => warp.map3(d, a, b, c, active, |a, b, c| narrow::apply(op, a, b, c)),
        Op::Convert { how, d, a } => {
            lanes(active).for_each(|lane| warp.set(d, lane, value::convert(how, warp.get(a, lane))));
        }
        Op::Pack { .. } | Op::Unpack { .. } | Op::Pack16 { .. } | Op::Unpack16 { .. } => pack(warp, op, active),
        Op::Vote { .. } => vote(warp, op, active),
        Op::ActiveMask { d } => lanes(active).for_each(|lane| warp.r[d as usize][lane] = active),
        // Control and memory are done before; a no-op does nothing.
        _ => {}
    }
}

/// A loop for each of these operations, chosen before the loop and not in it; one for all the others together.
macro_rules! loops {
    ($warp:ident.$map:ident($d:ident, $a:ident, $b:ident, $active:ident), $value:path, $op:ident in $kind:ident:
     $($name:ident)*) => {
        match $op {
            $($kind::$name => $warp.$map($d, $a, $b, $active, |a, b| $value($kind::$name, a, b)),)*
            other => $warp.$map($d, $a, $b, $active, |a, b| $value(other, a, b)),
        }
    };
}

#[inline(always)]
fn binary(warp: &mut Warp, op: Bin32, d: R, a: R, b: R, active: u32) {
    loops!(warp.map2(d, a, b, active), value::bin32, op in Bin32:
        AddInt SubInt MulLow MinSigned MaxSigned MinUnsigned MaxUnsigned And Or Xor Shl ShrSigned ShrUnsigned
        AddFloat SubFloat MulFloat DivFloat MaxFloat MinFloat MinFloatOrNan);
}

#[inline(always)]
fn binary64(warp: &mut Warp, op: Bin64, d: D, a: D, b: D, active: u32) {
    loops!(warp.wide2(d, a, b, active), value::bin64, op in Bin64: AddInt SubInt MulLow And Or Xor);
}

#[inline(always)]
fn shift64(warp: &mut Warp, op: Shift, d: D, a: D, b: R, active: u32) {
    let (a, b) = (&warp.d[a as usize], &warp.r[b as usize]);
    let new = match op {
        Shift::Left => each(|lane| value::shift64(Shift::Left, a[lane], b[lane])),
        Shift::RightSigned => each(|lane| value::shift64(Shift::RightSigned, a[lane], b[lane])),
        Shift::RightUnsigned => each(|lane| value::shift64(Shift::RightUnsigned, a[lane], b[lane])),
    };
    blend(&mut warp.d[d as usize], &new, active);
}

fn mul(a: u32, b: u32) -> u64 {
    u64::from(a) * u64::from(b)
}

fn mul_signed(a: u32, b: u32) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

/// Logic of masks.
pub(crate) fn logic(op: Logic, a: u32, b: u32) -> u32 {
    match op {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// The comparison of whole numbers.
#[inline(always)]
fn compare_whole<T: Ord>(how: Compare, a: impl Fn(usize) -> T, b: impl Fn(usize) -> T) -> u32 {
    match how {
        Compare::Eq => mask_of(|lane| a(lane) == b(lane)),
        Compare::Ne => mask_of(|lane| a(lane) != b(lane)),
        Compare::Lt => mask_of(|lane| a(lane) < b(lane)),
        Compare::Le => mask_of(|lane| a(lane) <= b(lane)),
        Compare::Gt => mask_of(|lane| a(lane) > b(lane)),
        _ => mask_of(|lane| a(lane) >= b(lane)),
    }
}

#[inline(always)]
fn compare(warp: &mut Warp, op: &Op, active: u32) {
    let Op::Compare { how, ty, ftz, d, other, a, b, with } = *op else { return };
    let result = match (ty, a, b) {
        (Type::S32, Slot::R(a), Slot::R(b)) => {
            let (a, b) = (&warp.r[a as usize], &warp.r[b as usize]);
            compare_whole(how, |lane| a[lane] as i32, |lane| b[lane] as i32)
        }
        (Type::U32, Slot::R(a), Slot::R(b)) => {
            let (a, b) = (&warp.r[a as usize], &warp.r[b as usize]);
            compare_whole(how, |lane| a[lane], |lane| b[lane])
        }
        (Type::S64, Slot::D(a), Slot::D(b)) => {
            let (a, b) = (&warp.d[a as usize], &warp.d[b as usize]);
            compare_whole(how, |lane| a[lane] as i64, |lane| b[lane] as i64)
        }
        _ => mask_of(|lane| value::compare(how, ty, ftz, warp.get(a, lane), warp.get(b, lane))),
    };
    let combine = |mask| with.map_or(mask, |(op, pred)| logic(op, mask, warp.pred(pred)));
    let (first, second) = (combine(result), combine(!result));
    warp.set_pred(d, active, first);
    if let Some(other) = other {
        warp.set_pred(other, active, second);
    }
}

#[inline(never)]
fn pack(warp: &mut Warp, op: &Op, active: u32) {
    for lane in lanes(active) {
        match *op {
            Op::Pack { d, low, high } => {
                let halves = (warp.r[low as usize][lane], warp.r[high as usize][lane]);
                warp.d[d as usize][lane] = u64::from(halves.0) | u64::from(halves.1) << 32;
            }
            Op::Pack16 { d, low, high } => {
                let halves = (warp.r[low as usize][lane], warp.r[high as usize][lane]);
                warp.r[d as usize][lane] = (halves.0 & 0xffff) | halves.1 << 16;
            }
            Op::Unpack { low, high, a } => {
                let value = warp.d[a as usize][lane];
                low.into_iter().for_each(|slot| warp.r[slot as usize][lane] = value as u32);
                high.into_iter().for_each(|slot| warp.r[slot as usize][lane] = (value >> 32) as u32);
            }
            Op::Unpack16 { low, high, a } => {
                let value = warp.r[a as usize][lane];
                low.into_iter().for_each(|slot| warp.r[slot as usize][lane] = value & 0xffff);
                high.into_iter().for_each(|slot| warp.r[slot as usize][lane] = value >> 16);
            }
            _ => {}
        }
    }
}

/// The source lane as the PTX manual computes it, from the distance `b` and the clamp and segment mask in `c`.
#[inline(never)]
pub(crate) fn shuffle(warp: &mut Warp, op: &Op, active: u32) -> Found<()> {
    let Op::Shuffle { how, d, valid, a, b, c, mask } = *op else { return Ok(()) };
    let [values, distances, clamps, masks] = [a, b, c, mask].map(|slot| warp.r[slot as usize]);
    let mut inside = 0u32;
    for lane in lanes(active) {
        let (me, distance) = (lane as u32, distances[lane] & 31);
        let (clamp, segment) = (clamps[lane] & 31, clamps[lane] >> 8 & 31);
        let last = (me & segment) | (clamp & !segment);
        let (source, holds) = match how {
            Shuffle::Up => (me.wrapping_sub(distance), me as i32 - distance as i32 >= last as i32),
            Shuffle::Down => (me + distance, me + distance <= last),
            Shuffle::Butterfly => (me ^ distance, me ^ distance <= last),
            Shuffle::Index => {
                let source = (me & segment) | (distance & !segment);
                (source, source <= last)
            }
        };
        let source = if holds { source } else { me };
        if masks[lane] >> source & 1 == 0 {
            return find(Kind::DivergentWarp, lane, format!("reads lane {source}, which does not take part"));
        }
        inside |= u32::from(holds) << lane;
        warp.r[d as usize][lane] = values[source as usize];
    }
    if let Some(valid) = valid {
        warp.set_pred(valid, active, inside);
    }
    Ok(())
}

#[inline(never)]
fn vote(warp: &mut Warp, op: &Op, active: u32) {
    let Op::Vote { how, d, a, mask } = *op else { return };
    let (votes, masks) = (warp.pred(a), warp.r[mask as usize]);
    for lane in lanes(active) {
        let of = masks[lane];
        let holds = match how {
            Vote::Any => votes & of != 0,
            Vote::All => votes & of == of,
            Vote::Uniform => votes & of == of || votes & of == 0,
            Vote::Ballot(d) => {
                warp.r[d as usize][lane] = votes & of;
                continue;
            }
        };
        warp.set_pred(d, 1 << lane, if holds { ALL } else { 0 });
    }
}
