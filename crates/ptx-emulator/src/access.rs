//! Loads, stores and atomics: what a warp's addresses have in common is found out once, and then bounds, alignment and
//! shadow are checked for whole runs of lanes.

use crate::decode::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::exec::{ALL, Found, LANES, Machine, Warp, blend, find, lanes};
use crate::memory::locate;
use crate::op::*;
use crate::order::{FLAG, MANY, SEGMENT, Stamp};
use crate::registers::Pattern;
use crate::report::{Finding, Kind};
use crate::shadow::{Clash, IN_FLIGHT, Run, Touch};
use crate::value;

/// The first half of the lanes.
const LOW_HALF: u32 = 0xffff;

/// The lanes' addresses, and how many bytes each accesses there.
struct Aim {
    addresses: [u64; LANES],
    bytes: usize,
}

/// What is asked of the lanes' addresses while they are still in their register.
struct Form {
    /// What is added to the register.
    offset: u64,
    bytes: usize,
    reads: bool,
}

/// A run before it is known to lie in a memory: its first address, and how far it is from lane to lane.
#[derive(Clone, Copy)]
struct Stretch {
    address: u64,
    step: u64,
    first: u32,
    count: u32,
    mask: u32,
}

/// Where a checked run lies: the memory and the byte of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub space: Space,
    /// Number of the buffer.
    pub number: usize,
    pub start: usize,
}

/// The lanes' addresses.
#[inline(always)]
pub(crate) fn addresses(warp: &Warp, address: Address) -> [u64; LANES] {
    let mut addresses = [0; LANES];
    let offset = address.offset;
    match address.base {
        // Addresses of 32 bits are those of shared memory and stay in 32 bits.
        Slot::R(r) => {
            let base = &warp.r[r as usize];
            (0..LANES).for_each(|lane| addresses[lane] = u64::from(base[lane].wrapping_add(offset as u32)));
        }
        Slot::D(d) => {
            let base = &warp.d[d as usize];
            (0..LANES).for_each(|lane| addresses[lane] = base[lane].wrapping_add(i64::from(offset) as u64));
        }
    }
    addresses
}

impl Aim {
    #[inline(always)]
    fn new(warp: &Warp, access: &Access) -> Aim {
        Aim { addresses: addresses(warp, access.address), bytes: access.size as usize * access.count as usize }
    }
}

impl Form {
    #[inline(always)]
    fn new(access: &Access, reads: bool) -> Form {
        let offset = i64::from(access.address.offset) as u64;
        Form { offset, bytes: access.size as usize * access.count as usize, reads }
    }

    /// The one or two stretches that do for a usual access.
    #[inline(always)]
    fn usual(&self, warp: &mut Warp, access: &Access, active: u32) -> [Option<Stretch>; 2] {
        let Slot::D(d) = access.address.base else { return [None; 2] };
        match warp.d.pattern(d as usize) {
            Pattern::Even(start, step) => [self.even(start, step, active), None],
            Pattern::Halves([low, high]) if active == ALL => {
                let low = self.even(low.0, low.1, LOW_HALF);
                let high = self.even(high.0.wrapping_sub(high.1 << 4), high.1, !LOW_HALF);
                if high.is_some() && low.is_some() { [low, high] } else { [None; 2] }
            }
            _ => [None; 2],
        }
    }

    /// The stretch of some lanes where lane 0 would have the address `start`, before the offset.
    #[inline(always)]
    fn even(&self, start: u64, step: u64, mask: u32) -> Option<Stretch> {
        let (first, lanes) = (mask.trailing_zeros(), mask.count_ones());
        let address = start.wrapping_add(self.offset);
        if lanes == 1 || (step == 0 && self.reads) {
            let address = address.wrapping_add(step.wrapping_mul(u64::from(first)));
            return Some(Stretch { address, step: self.bytes as u64, first, count: 1, mask });
        }
        if !is_spacing(step, self.bytes) || mask >> first != ALL >> (LANES as u32 - lanes) {
            return None;
        }
        let address = address.wrapping_add(step.wrapping_mul(u64::from(first)));
        Some(Stretch { address, step, first, count: lanes, mask })
    }
}

/// Whether lanes so far apart neither overlap nor differ in their alignment.
#[inline(always)]
fn is_spacing(step: u64, bytes: usize) -> bool {
    let bytes = bytes as u64;
    step >= bytes && step < 1 << 32 && step & (bytes - 1) == 0
}

impl Aim {
    /// Evenly spaced places of neighbouring lanes, from the lowest lane of a mask on.
    fn scan(&self, mask: u32) -> Stretch {
        let first = mask.trailing_zeros();
        let address = self.addresses[first as usize];
        let has = |lane: u32| lane < LANES as u32 && mask >> lane & 1 == 1;
        let next = if has(first + 1) { self.addresses[first as usize + 1].wrapping_sub(address) } else { 0 };
        if !is_spacing(next, self.bytes) {
            return Stretch { address, step: self.bytes as u64, first, count: 1, mask: 1 << first };
        }
        let mut count = 2;
        while has(first + count)
            && self.addresses[(first + count) as usize] == address.wrapping_add(next.wrapping_mul(u64::from(count)))
        {
            count += 1;
        }
        Stretch { address, step: next, first, count, mask: ALL >> (LANES as u32 - count) << first }
    }
}

/// A generic address says by its top bits which memory it means.
#[inline(always)]
fn space_of(space: Space, address: u64) -> (Space, u64) {
    match space {
        Space::Generic => match address & (SHARED_WINDOW | LOCAL_WINDOW) {
            SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
            LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
            _ => (Space::Global, address),
        },
        named => (named, address),
    }
}

impl Machine<'_> {
    #[inline(always)]
    pub fn load(&mut self, warp: &mut Warp, access: &Access, active: u32) -> Found<()> {
        let usual = Form::new(access, true).usual(warp, access, active);
        if usual[0].is_none() {
            return self.load_scattered(warp, access, active);
        }
        for stretch in usual.iter().flatten() {
            self.load_stretch(warp, access, stretch)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn load_scattered(&mut self, warp: &mut Warp, access: &Access, active: u32) -> Found<()> {
        let (aim, mut rest) = (Aim::new(warp, access), active);
        while rest != 0 {
            let stretch = aim.scan(rest);
            rest &= !stretch.mask;
            self.load_stretch(warp, access, &stretch)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn load_stretch(&mut self, warp: &mut Warp, access: &Access, stretch: &Stretch) -> Found<()> {
        let bytes = access.size as usize * access.count as usize;
        if space_of(access.space, stretch.address).0 == Space::Local {
            return self.load_lanes(warp, access, stretch);
        }
        let Some((spot, run)) = self.whole_run(access.space, stretch, bytes) else {
            return self.load_lanes(warp, access, stretch);
        };
        self.sanitize(warp, spot, &run, Touch::Read)?;
        let data = self.bytes(spot);
        let slots = &access.slots[..access.count as usize];
        // A wider register may take a word, too: not this way.
        if access.size == 4 && slots.iter().all(|slot| matches!(slot, Slot::R(_))) {
            for (element, slot) in slots.iter().enumerate() {
                if let Slot::R(d) = *slot {
                    load_words(&mut warp.r[d as usize], &data[spot.start + 4 * element..], &run);
                }
            }
            return Ok(());
        }
        let mut at = spot.start;
        for lane in lanes(run.mask) {
            let values = read_elements(self.data(warp, spot, lane), at, access);
            set_elements(warp, lane, access, &values);
            at += if run.count == 1 { 0 } else { run.step };
        }
        Ok(())
    }

    /// Lane after lane: local memory, and what a report will name one lane of.
    #[cold]
    #[inline(never)]
    fn load_lanes(&mut self, warp: &mut Warp, access: &Access, stretch: &Stretch) -> Found<()> {
        let bytes = access.size as usize * access.count as usize;
        for (lane, address) in stretch.lanes() {
            let spot = self.check(warp, lane, (access.space, address), bytes, Touch::Read)?;
            let values = read_elements(self.data(warp, spot, lane), spot.start, access);
            set_elements(warp, lane, access, &values);
        }
        Ok(())
    }

    #[inline(always)]
    pub fn store(&mut self, warp: &mut Warp, access: &Access, active: u32) -> Found<()> {
        let usual = Form::new(access, false).usual(warp, access, active);
        if usual[0].is_none() {
            return self.store_scattered(warp, access, active);
        }
        for stretch in usual.iter().flatten() {
            self.store_stretch(warp, access, stretch)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn store_scattered(&mut self, warp: &mut Warp, access: &Access, active: u32) -> Found<()> {
        let (aim, mut rest) = (Aim::new(warp, access), active);
        while rest != 0 {
            let stretch = aim.scan(rest);
            rest &= !stretch.mask;
            self.store_stretch(warp, access, &stretch)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn store_stretch(&mut self, warp: &mut Warp, access: &Access, stretch: &Stretch) -> Found<()> {
        let bytes = access.size as usize * access.count as usize;
        if space_of(access.space, stretch.address).0 == Space::Local {
            return self.store_lanes(warp, access, stretch);
        }
        let Some((spot, run)) = self.whole_run(access.space, stretch, bytes) else {
            return self.store_lanes(warp, access, stretch);
        };
        self.sanitize(warp, spot, &run, Touch::Write)?;
        if let (4, 1, Slot::R(a)) = (access.size, access.count, access.slots[0]) {
            let values = &warp.r[a as usize][run.first as usize..(run.first + run.count) as usize];
            let end = spot.start + run.length();
            let data = match spot.space {
                Space::Shared => &mut self.shared[spot.start..end],
                _ => {
                    let buffer = &mut self.memory.buffers[spot.number];
                    mark_written(&mut buffer.written[spot.start..end], &run);
                    &mut buffer.data[spot.start..end]
                }
            };
            if run.is_spaced() {
                for (out, value) in data.chunks_mut(run.step).zip(values) {
                    out[..4].copy_from_slice(&value.to_le_bytes());
                }
            } else {
                for (out, value) in data.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *out = value.to_le_bytes();
                }
            }
            return Ok(());
        }
        for (n, lane) in lanes(run.mask).enumerate() {
            self.store_elements(warp, access, lane, Spot { start: spot.start + n * run.step, ..spot });
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn store_lanes(&mut self, warp: &mut Warp, access: &Access, stretch: &Stretch) -> Found<()> {
        let bytes = access.size as usize * access.count as usize;
        for (lane, address) in stretch.lanes() {
            let spot = self.check(warp, lane, (access.space, address), bytes, Touch::Write)?;
            self.store_elements(warp, access, lane, spot);
        }
        Ok(())
    }

    fn store_elements(&mut self, warp: &mut Warp, access: &Access, lane: usize, spot: Spot) {
        let size = access.size as usize;
        for (i, slot) in access.slots[..access.count as usize].iter().enumerate() {
            let value = warp.get(*slot, lane);
            self.put(warp, lane, Spot { start: spot.start + i * size, ..spot }, size, value);
        }
    }

    /// One lane after the other: their order is the lanes'.
    #[allow(clippy::too_many_arguments)]
    pub fn atomic(
        &mut self,
        warp: &mut Warp,
        op: Atomic,
        access: &Access,
        operand: Slot,
        swap: Slot,
        wants_old: bool,
        active: u32,
    ) -> Found<()> {
        let aim = Aim::new(warp, access);
        let size = access.size as usize;
        for lane in lanes(active) {
            let address = aim.addresses[lane];
            let spot = self.check(warp, lane, (access.space, address), size, Touch::Atomic)?;
            let old = read_elements(self.data(warp, spot, lane), spot.start, access)[0];
            let new = value::atomic(op, u32::from(access.size), old, warp.get(operand, lane), warp.get(swap, lane));
            self.put(warp, lane, spot, size, new);
            if wants_old {
                warp.set(access.slots[0], lane, old);
            }
            if self.sanitize && spot.space == Space::Global {
                let (_, address) = space_of(access.space, address);
                warp.order.atomic(&mut self.history, &mut self.released, address);
            }
        }
        Ok(())
    }

    /// The place of a run that is aligned and within one memory that all lanes share.
    #[inline(always)]
    fn whole_run(&self, space: Space, stretch: &Stretch, bytes: usize) -> Option<(Spot, Run)> {
        let (space, address) = space_of(space, stretch.address);
        let (number, offset) = if space == Space::Global { locate(address) } else { (0, address as i64) };
        let length = match space {
            Space::Global => self.memory.buffers.get(number)?.data.len(),
            Space::Shared => self.shared.len(),
            _ => return None,
        };
        let Stretch { step, first, count, mask, .. } = *stretch;
        let end = (offset as u64).checked_add(step * u64::from(count - 1) + bytes as u64)?;
        if address & (bytes as u64 - 1) != 0 || offset < 0 || end > length as u64 {
            return None;
        }
        let start = offset as usize;
        Some((Spot { space, number, start }, Run { start, bytes, step: step as usize, first, count, mask }))
    }

    /// Checks an access of one lane, and gives its place.
    pub fn check(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (space, address): (Space, u64),
        bytes: usize,
        touch: Touch,
    ) -> Found<Spot> {
        let spot = self.place(lane, (space, address), bytes)?;
        self.sanitize(warp, spot, &Run::single(lane as u32, spot.start, bytes), touch)?;
        Ok(spot)
    }

    /// The place that one lane's address means: aligned, and within a memory.
    pub fn place(&self, lane: usize, (space, address): (Space, u64), bytes: usize) -> Found<Spot> {
        let named = space;
        let (mut space, mut address) = space_of(named, address);
        if address & (bytes as u64 - 1) != 0 {
            return find(Kind::Misaligned, lane, format!("{bytes} bytes at address {address:#x}"));
        }
        let mut peer = None;
        if space == Space::Cluster || (space == Space::Shared && named == Space::Generic) {
            (peer, address) = self.cluster.split(address);
            space = if peer.is_some() { Space::Cluster } else { Space::Shared };
        }
        let (number, offset) = match peer {
            Some(rank) => (rank, address as i64),
            None if space == Space::Global => locate(address),
            None => (0, address as i64),
        };
        let length = match space {
            Space::Global => self.memory.buffers.get(number).map_or(0, |buffer| buffer.data.len()),
            Space::Shared => self.shared.len(),
            Space::Cluster => self.cluster.peers.get(number).map_or(0, |peer| peer.shared.len()),
            _ => self.kernel.local as usize,
        };
        if offset < 0 || (offset as u64).saturating_add(bytes as u64) > length as u64 {
            let whose = self.memory_name(Spot { space, number, start: 0 });
            return find(Kind::OutOfBounds, lane, format!("{bytes} bytes at {offset} of {whose}, which has {length}"));
        }
        if space == Space::Cluster && self.cluster.is_gone(number) {
            let detail = format!(
                "{bytes} bytes at {offset} of shared memory of block {number} of the cluster, which has exited"
            );
            return find(Kind::BlockAbsent, lane, detail);
        }
        Ok(Spot { space, number, start: offset as usize })
    }

    /// Reads bytes that all lanes of the warp get, from an address that one of them gives, which a report names.
    pub fn read_for_all(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (space, address): (Space, u64),
        bytes: usize,
    ) -> Found<&[u8]> {
        let spot = self.place(lane, (space, address), bytes)?;
        let run = Run { mask: ALL, ..Run::single(lane as u32, spot.start, bytes) };
        self.sanitize(warp, spot, &run, Touch::Read).map_err(|finding| Finding { lane: lane as u32, ..finding })?;
        Ok(&self.bytes(spot)[spot.start..spot.start + bytes])
    }

    /// What a report calls the memory of a spot.
    pub fn memory_name(&self, spot: Spot) -> String {
        match (spot.space, self.memory.buffers.get(spot.number)) {
            (Space::Shared, _) => "shared memory".to_string(),
            (Space::Cluster, _) => format!("shared memory of block {} of the cluster", spot.number),
            (Space::Global, Some(buffer)) => buffer.name.clone(),
            (Space::Global, None) => "no buffer".to_string(),
            _ => "local memory".to_string(),
        }
    }

    /// Checks a run against what the sanitizer knows, and notes it.
    #[inline(always)]
    pub fn sanitize(&mut self, warp: &mut Warp, spot: Spot, run: &Run, touch: Touch) -> Found<()> {
        if !self.sanitize {
            return Ok(());
        }
        let reads = touch != Touch::Write;
        let result = match spot.space {
            Space::Global => {
                let buffer = &mut self.memory.buffers[spot.number];
                let written = &buffer.written[run.start..run.start + run.length()];
                if reads && let Some(n) = first_unwritten(written, run) {
                    Err(Clash::Unwritten {
                        lane: if run.count == 1 { run.mask.trailing_zeros() } else { run.first + n },
                    })
                } else {
                    buffer.shadow.touch(run, touch, &mut warp.order, &mut self.history)
                }
            }
            Space::Shared => self.shared_shadow.touch(run, touch, &mut warp.order, &mut self.history),
            Space::Cluster => return self.sanitize_peer(warp, spot, run, touch),
            _ => {
                let start = run.first as usize * self.kernel.local as usize + run.start;
                let written = &warp.local_written[start..start + run.bytes];
                if reads && written.contains(&false) { Err(Clash::Unwritten { lane: run.first }) } else { Ok(()) }
            }
        };
        result.map_err(|clash| self.clash(warp, spot, run, touch, clash))
    }

    /// The same in the shared memory of another block.
    #[inline(never)]
    fn sanitize_peer(&mut self, warp: &mut Warp, spot: Spot, run: &Run, touch: Touch) -> Found<()> {
        self.visit(warp, spot.number, run.mask.trailing_zeros())?;
        let shadow = &mut self.cluster.peers[spot.number].shadow;
        let result = shadow.touch_from_outside(run, touch, &mut warp.order, &mut self.history);
        result.map_err(|clash| self.clash(warp, spot, run, touch, clash))
    }

    /// The words for a clash.
    #[cold]
    fn clash(&self, warp: &Warp, spot: Spot, run: &Run, touch: Touch, clash: Clash) -> Finding {
        let whose = self.memory_name(spot);
        let (Clash::Unwritten { lane } | Clash::Race { lane, .. }) = clash;
        let bytes = run.bytes;
        let at = if run.count == 1 { run.start } else { run.start + (lane - run.first) as usize * run.step };
        let (kind, detail) = match clash {
            Clash::Unwritten { .. } => (Kind::Uninitialised, format!("{bytes} bytes at {at} of {whose}")),
            Clash::Race { earlier, touch: before, .. } => {
                let (did, before, other) = (did(touch), name(before), self.describe(warp, earlier));
                (Kind::Race, format!("{did} {bytes} bytes at {at} of {whose}, unordered with a {before} by {other}"))
            }
        };
        Finding { kind, lane, detail }
    }

    fn describe(&self, warp: &Warp, earlier: Stamp) -> String {
        if earlier & !FLAG == IN_FLIGHT {
            return "a copy or store that is still under way".to_string();
        }
        if self.history.is_earlier(earlier) {
            return "an earlier launch, which was not waited for".to_string();
        }
        let segment = self.history.segment(earlier);
        if segment.block != warp.order.block {
            return format!("the {}th block that ran", segment.block - self.first_block);
        }
        let (first, block) = self.threads_of(segment.warp);
        match earlier % SEGMENT {
            MANY => format!("several of the threads {first} to {} of {block}", first + LANES as u32 - 1),
            lane => format!("thread {} of {block}", first + lane),
        }
    }

    /// The memory of a spot, which is not local.
    #[inline(always)]
    pub fn bytes(&self, spot: Spot) -> &[u8] {
        match spot.space {
            Space::Global => &self.memory.buffers[spot.number].data,
            Space::Cluster => &self.cluster.peers[spot.number].shared,
            _ => &self.shared,
        }
    }

    #[inline(always)]
    fn data<'m>(&'m self, warp: &'m Warp, spot: Spot, lane: usize) -> &'m [u8] {
        match spot.space {
            Space::Global | Space::Shared | Space::Cluster => self.bytes(spot),
            _ => &warp.local[lane * self.kernel.local as usize..],
        }
    }

    /// Writes a checked element.
    #[inline(always)]
    fn put(&mut self, warp: &mut Warp, lane: usize, spot: Spot, size: usize, value: u64) {
        let Spot { space, number, start } = spot;
        let bytes = &value.to_le_bytes()[..size];
        match space {
            Space::Global => {
                let buffer = &mut self.memory.buffers[number];
                buffer.data[start..start + size].copy_from_slice(bytes);
                buffer.written[start..start + size].fill(true);
            }
            Space::Shared => self.shared[start..start + size].copy_from_slice(bytes),
            Space::Cluster => self.cluster.peers[number].shared[start..start + size].copy_from_slice(bytes),
            _ => {
                let start = lane * self.kernel.local as usize + start;
                warp.local[start..start + size].copy_from_slice(bytes);
                warp.local_written[start..start + size].fill(true);
            }
        }
    }
}

impl Stretch {
    /// The lanes and their addresses.
    fn lanes(&self) -> impl Iterator<Item = (usize, u64)> + use<> {
        let Stretch { address, count, .. } = *self;
        let step = if count == 1 { 0 } else { self.step };
        lanes(self.mask).enumerate().map(move |(n, lane)| (lane, address.wrapping_add(n as u64 * step)))
    }
}

/// The first place of a run that has an unwritten byte.
#[inline(always)]
fn first_unwritten(written: &[bool], run: &Run) -> Option<u32> {
    if !run.is_spaced() && written.iter().fold(true, |all, written| all & written) {
        return None;
    }
    written.chunks(run.step).position(|place| place[..run.bytes].contains(&false)).map(|n| n as u32)
}

fn mark_written(written: &mut [bool], run: &Run) {
    if run.is_spaced() {
        written.chunks_mut(run.step).for_each(|place| place[..run.bytes].fill(true));
    } else {
        written.fill(true);
    }
}

/// A word for each lane of a run, whose places begin at `data`.
#[inline(always)]
fn load_words(out: &mut [u32; LANES], data: &[u8], run: &Run) {
    let lanes = run.first as usize..(run.first + run.count) as usize;
    match (run.count, run.mask) {
        (1, mask) => blend(out, &[word(data); LANES], mask),
        (32, _) if run.step == 4 => words(out, data),
        _ if run.step == 4 => words(&mut out[lanes], data),
        _ => {
            for (out, bytes) in out[lanes].iter_mut().zip(data.chunks(run.step)) {
                *out = word(bytes);
            }
        }
    }
}

/// Copies words from bytes.
#[inline(always)]
fn words(out: &mut [u32], data: &[u8]) {
    for (out, bytes) in out.iter_mut().zip(data.as_chunks::<4>().0) {
        *out = u32::from_le_bytes(*bytes);
    }
}

#[inline(always)]
fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn did(touch: Touch) -> &'static str {
    match touch {
        Touch::Read => "reads",
        Touch::Write => "writes",
        Touch::Atomic => "updates",
    }
}

fn name(touch: Touch) -> &'static str {
    match touch {
        Touch::Read => "read",
        Touch::Write => "write",
        Touch::Atomic => "atomic",
    }
}

/// The number in some bytes, extended by its sign or by zeros.
#[inline(always)]
pub(crate) fn value_of(bytes: &[u8], signed: bool) -> u64 {
    match (bytes, signed) {
        ([a], false) => u64::from(*a),
        ([a], true) => i64::from(*a as i8) as u64,
        ([a, b], false) => u64::from(u16::from_le_bytes([*a, *b])),
        ([a, b], true) => i64::from(i16::from_le_bytes([*a, *b])) as u64,
        ([a, b, c, d], false) => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        ([a, b, c, d], true) => i64::from(i32::from_le_bytes([*a, *b, *c, *d])) as u64,
        _ => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    }
}

#[inline(always)]
fn read_elements(data: &[u8], start: usize, access: &Access) -> [u64; 4] {
    let size = access.size as usize;
    let mut values = [0; 4];
    for (i, value) in values[..access.count as usize].iter_mut().enumerate() {
        let at = start + i * size;
        *value = value_of(&data[at..at + size], access.signed);
    }
    values
}

#[inline(always)]
fn set_elements(warp: &mut Warp, lane: usize, access: &Access, values: &[u64; 4]) {
    for (slot, value) in access.slots[..access.count as usize].iter().zip(values) {
        warp.set(*slot, lane, *value);
    }
}
