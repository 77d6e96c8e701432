//! The operations behind `Op::Rare`.

use super::{ALL, Arrival, Asked, Flow, Found, LANES, Machine, Warp, find, lanes};
use crate::access::addresses;
use crate::compute::logic;
use crate::mma;
use crate::op::{Address, Comparison, Mma, Op, R, Rare, Slot, Space};
use crate::report::Kind;
use crate::value;

impl Machine<'_> {
    /// Runs a rare operation in the lanes `active`; `mask` are all lanes at this instruction.
    #[inline(never)]
    pub(super) fn rare(&mut self, warp: &mut Warp, op: &Rare, active: u32, mask: u32) -> Found<Flow> {
        if let Rare::ClusterArrive { .. } | Rare::ClusterWait = op
            && !self.gathered(warp, warp.alive, active, mask, Kind::DivergentBarrier)?
        {
            return Ok(Flow::Block);
        }
        if let Rare::Mma(_) | Rare::LoadMatrix { .. } | Rare::MoveMatrix { .. } = op
            && !self.gathered(warp, ALL, active, mask, Kind::DivergentWarp)?
        {
            return Ok(Flow::Block);
        }
        match op {
            Rare::Set { compare, d, one } => set(warp, compare, *d, *one, active),
            Rare::Count64 { leading, d, a } => lanes(active).for_each(|lane| {
                let value = warp.d[*a as usize][lane];
                warp.r[*d as usize][lane] = if *leading { value.leading_zeros() } else { value.count_ones() };
            }),
            Rare::FindBit { signed, from_top, d, a } => lanes(active).for_each(|lane| {
                let bits = if matches!(a, Slot::R(_)) { 32 } else { 64 };
                warp.r[*d as usize][lane] = value::find_bit(*signed, *from_top, bits, warp.get(*a, lane));
            }),
            Rare::Extract64 { signed, d, a, position, length } => lanes(active).for_each(|lane| {
                let (position, length) = (warp.r[*position as usize][lane], warp.r[*length as usize][lane]);
                warp.d[*d as usize][lane] = value::extract64(*signed, warp.d[*a as usize][lane], position, length);
            }),
            Rare::Insert64 { d, a, b, position, length } => lanes(active).for_each(|lane| {
                let (position, length) = (warp.r[*position as usize][lane], warp.r[*length as usize][lane]);
                let (a, b) = (warp.d[*a as usize][lane], warp.d[*b as usize][lane]);
                warp.d[*d as usize][lane] = value::insert64(a, b, position, length);
            }),
            Rare::Reduce { mask: slot, .. } | Rare::Match { mask: slot, .. }
                if !self.gathered_by_mask(warp, *slot, active, mask)? =>
            {
                return Ok(Flow::Block);
            }
            Rare::Reduce { how, d, a, mask } => {
                let (values, masks) = (warp.r[*a as usize], warp.r[*mask as usize]);
                let join = |x: u32, y: u32| value::atomic(*how, 4, x.into(), y.into(), 0) as u32;
                for lane in lanes(active) {
                    let all = lanes(masks[lane]).map(|other| values[other]);
                    warp.r[*d as usize][lane] = all.reduce(join).unwrap_or(0);
                }
            }
            Rare::Match { d, a, mask } => {
                let masks = warp.r[*mask as usize];
                let values: [u64; LANES] = std::array::from_fn(|lane| warp.get(*a, lane));
                for lane in lanes(active) {
                    let same = lanes(masks[lane]).filter(|other| values[*other] == values[lane]);
                    warp.r[*d as usize][lane] = same.fold(0, |mask, other| mask | 1 << other);
                }
            }
            Rare::Pack64 { d, quarters } => lanes(active).for_each(|lane| {
                let part = |i: usize| u64::from(warp.r[quarters[i] as usize][lane] & 0xffff) << (16 * i);
                warp.d[*d as usize][lane] = (0..4).fold(0, |value, i| value | part(i));
            }),
            Rare::Unpack64 { quarters, a } => lanes(active).for_each(|lane| {
                let value = warp.d[*a as usize][lane];
                for (i, quarter) in quarters.iter().enumerate() {
                    quarter.iter().for_each(|slot| warp.r[*slot as usize][lane] = (value >> (16 * i)) as u32 & 0xffff);
                }
            }),
            Rare::Mma(product) => multiply(warp, product),
            Rare::LoadMatrix { slots, count, transpose, address } => {
                self.load_matrix(warp, &slots[..*count as usize], *transpose, *address)?;
            }
            Rare::Release(atomic) => {
                warp.order.fence(&mut self.history);
                if let Op::Atomic { op, access, operand, swap, wants_old } = atomic {
                    self.atomic(warp, *op, access, *operand, *swap, *wants_old, active)?;
                }
            }
            Rare::BarrierTally { d, id, count, source, aligned } => {
                if *aligned && !self.gathered(warp, warp.alive, active, mask, Kind::DivergentBarrier)? {
                    return Ok(Flow::Block);
                }
                let lane = active.trailing_zeros() as usize;
                let id = warp.r[*id as usize][lane];
                let count = count.map(|count| warp.r[count as usize][lane]);
                warp.tallies.push(Asked { id, lanes: active, ayes: warp.pred(*source) & active, tally: *d });
                return Ok(Flow::Barrier(Arrival { id, count, wait: true, aligned: *aligned, lanes: active }));
            }
            Rare::ClusterArrive { relaxed } => self.cluster_arrive(warp, *relaxed, active)?,
            Rare::ClusterWait => return self.cluster_wait(warp, active),
            Rare::MapAddress { d, a, rank } => self.map_address(warp, (*d, *a, *rank), active)?,
            Rare::RankOf { d, a } => self.rank_of(warp, *d, *a, active),
            Rare::Mbarrier { op, space, address } => return self.mbarrier(warp, op, (*space, *address), active),
            Rare::StoreAsync { access, barrier } => self.store_async(warp, access, *barrier, active)?,
            Rare::CopyAsync(copy) => self.start_copies(warp, copy, active)?,
            Rare::CloseGroup => self.close_group(warp, active),
            Rare::WaitForCopies(until) => self.wait_for_copies(warp, *until, active)?,
            Rare::WaitForLaunches => {
                warp.unwaited &= !active;
                if warp.unwaited & warp.alive == 0 {
                    warp.order.wait_for_launches(&self.history);
                }
            }
            Rare::Trap(what) => return find(Kind::Trap, active.trailing_zeros() as usize, what.clone()),
            Rare::Clock { d } => lanes(active).for_each(|lane| warp.set(*d, lane, self.steps)),
            Rare::MoveMatrix { d, a } => warp.r[*d as usize] = mma::transposed(&warp.r[*a as usize]),
        }
        Ok(Flow::Next)
    }

    /// Lane `8 * i + j` has the address of row j of matrix i. What is read goes to all lanes, so that it counts as read by
    /// all of them, though a report names the lane that gave the address.
    fn load_matrix(&mut self, warp: &mut Warp, slots: &[R], transpose: bool, address: Address) -> Found<()> {
        let addresses = addresses(warp, address);
        let mut found = [[0; LANES]; 4];
        for (matrix, fragment) in found[..slots.len()].iter_mut().enumerate() {
            let mut rows = [[0; 8]; 8];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = matrix * 8 + row;
                let bytes = self.read_for_all(warp, lane, (Space::Shared, addresses[lane]), 16)?;
                for (value, pair) in values.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = u16::from_le_bytes([pair[0], pair[1]]);
                }
            }
            *fragment = mma::fragment(&rows, transpose);
        }
        for (slot, fragment) in slots.iter().zip(found) {
            warp.r[*slot as usize] = fragment;
        }
        Ok(())
    }
}

fn set(warp: &mut Warp, compare: &Comparison, d: R, one: u32, active: u32) {
    let Comparison { how, ty, ftz, a, b, with } = *compare;
    let holds = lanes(active)
        .filter(|lane| value::compare(how, ty, ftz, warp.get(a, *lane), warp.get(b, *lane)))
        .fold(0u32, |mask, lane| mask | 1 << lane);
    let holds = with.map_or(holds, |(op, pred)| logic(op, holds, warp.pred(pred)));
    for lane in lanes(active) {
        warp.r[d as usize][lane] = if holds >> lane & 1 == 1 { one } else { 0 };
    }
}

fn multiply(warp: &mut Warp, product: &Mma) {
    let Mma { shape, d, a, b, c } = *product;
    let (a, b) = (a.map(|slot| warp.r[slot as usize]), b.map(|slot| warp.r[slot as usize]));
    let c = c.map(|slot| warp.r[slot as usize]);
    let result = shape.product(&a[..shape.a_registers()], &b[..shape.b_registers()], &c);
    for (slot, lanes) in d.iter().zip(result) {
        warp.r[*slot as usize] = lanes;
    }
}
