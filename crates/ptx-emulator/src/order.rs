//! Who ran before whom.
//!
//! A warp's work is cut into segments: a new one begins whenever the warp meets others (a barrier, a fence, an atomic that
//! it learns from). Segments are numbered as they begin, over all launches of a memory's life. An access is noted as a
//! [`Stamp`]: its segment's number and its lane, packed into 32 bits. So the usual question, "is that access in my past?",
//! is a comparison of numbers: everything below the launch's first segment is past, and everything of this block below the
//! warp's `floor`, which a barrier of the whole block raises. Only what is left is asked of the vector clocks: every warp
//! has one, an entry for each warp of its block saying up to which of that warp's ticks everything is in its past, and the
//! same for warps of other blocks that it has learnt of through atomics.
//!
//! Within a warp, two lanes are ordered by a warp barrier that has both in its mask, and by barriers of the block.
//!
//! Three things are taken less strictly than PTX says, so that some bugs are not seen (a right kernel is never refused for
//! them): what a warp learns by an atomic or by a barrier that only some of its lanes meet, all its lanes know; of several
//! unordered atomics to one place, only the last is compared with what follows; and a relaxed atomic without a fence after
//! it still learns.

use std::collections::HashMap;

/// Segment (shifted by `LANE_BITS`), lane, and a flag above both.
pub(crate) type Stamp = u32;

const LANE_BITS: u32 = 6;
/// The number of stamps from one segment to the next.
pub(crate) const SEGMENT: Stamp = 1 << LANE_BITS;
/// The lane number that stands for all lanes of the segment's mask.
pub(crate) const MANY: u32 = SEGMENT - 1;
/// Of a write: it was an atomic. Of a read: the number is that of a set of readers.
pub(crate) const FLAG: Stamp = 1 << 31;
/// No launch goes on once its segments have reached this number, a million of them below the last one.
const LAST: Stamp = FLAG - (1 << 26);
/// A launch that would start above this makes all memory forget its stamps first.
pub(crate) const HALF: Stamp = FLAG / 2;

/// A stretch of a warp's work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Segment {
    /// Number of the block.
    pub block: u32,
    pub warp: u32,
    /// The warp's own clock during the segment.
    pub clock: u32,
    /// The lanes that `MANY` stands for.
    pub lanes: u32,
    /// For a set of readers: the set without its newest member, and that member.
    older: Stamp,
    newest: Stamp,
}

/// The segments of a launch, and the sets of readers, which are numbered with them.
#[derive(Debug, Default)]
pub(crate) struct History {
    first: Stamp,
    /// The first segment of the launches that may still run when this one starts.
    overlap: Stamp,
    entries: Vec<Segment>,
    /// The last unions of readers that were made: neighbouring places mostly have the same readers.
    unions: Vec<[Stamp; 3]>,
}

const UNIONS: usize = 256;

impl History {
    /// A history that starts with this segment, of a launch that those from `overlap` on may overlap.
    pub fn new(first: Stamp, overlap: Stamp) -> History {
        History { first, overlap, entries: Vec::new(), unions: vec![[0; 3]; UNIONS] }
    }

    /// The number that the next segment will have.
    pub fn next(&self) -> Stamp {
        self.first + self.entries.len() as u32 * SEGMENT
    }

    /// The numbers are nearly used up. There are enough left for the steps until this is asked again.
    pub fn exhausted(&self) -> bool {
        self.next() >= LAST
    }

    fn push(&mut self, segment: Segment) -> Stamp {
        self.entries.push(segment);
        self.next() - SEGMENT
    }

    /// Whether a stamp is that of an earlier launch.
    pub fn is_earlier(&self, stamp: Stamp) -> bool {
        stamp & !FLAG < self.first
    }

    /// What is known of a stamp's segment.
    pub fn segment(&self, stamp: Stamp) -> Segment {
        let index = ((stamp & !FLAG).wrapping_sub(self.first) / SEGMENT) as usize;
        self.entries.get(index).copied().unwrap_or_default()
    }

    /// A read's stamp when, after `old`, lanes read whose stamp is `new`. Of the earlier readers all are kept that are not
    /// in its past.
    pub fn with_reader(&mut self, old: Stamp, new: Stamp, who: &Order) -> Stamp {
        if who.exact {
            return self.union(old, new, who);
        }
        if old / SEGMENT == new / SEGMENT {
            return if old == new { new } else { new | MANY };
        }
        let place = ((old / SEGMENT) ^ (new / SEGMENT).rotate_left(16)).wrapping_mul(0x9e37_79b9) as usize >> 24;
        let cached = &self.unions[place % UNIONS];
        if cached[0] != old / SEGMENT || cached[1] != new / SEGMENT {
            // A member stands for all lanes of its segment: else hardly two neighbours had the same readers.
            let result = self.union(old | MANY, new | MANY, who);
            self.unions[place % UNIONS] = [old / SEGMENT, new / SEGMENT, result];
        }
        let result = self.unions[place % UNIONS][2];
        if result & FLAG == 0 { new } else { result }
    }

    /// The earlier readers that are not in the past of the new one, and the new one.
    fn union(&mut self, old: Stamp, new: Stamp, who: &Order) -> Stamp {
        let mut rest = old;
        let mut kept = Vec::new();
        // The block's own readers stand first. Of the others' only the end of the list is looked at.
        while rest != 0 {
            let (newest, older) = self.members(rest);
            if newest < who.block_start {
                break;
            }
            if newest == new && older != 0 {
                // It is a member already; what came later is kept, too.
                return old;
            }
            if newest != new && !who.ordered(self, newest, who.lanes_of(self, new)) {
                kept.push(newest);
            }
            rest = older;
        }
        if rest & FLAG == 0 && rest < who.launch {
            rest = 0;
        }
        kept.into_iter().rev().chain([new]).fold(rest, |older, newest| match older {
            0 => newest,
            _ => FLAG | MANY | self.push(Segment { older, newest, ..Segment::default() }),
        })
    }

    /// The newest member of a read's stamp, and the stamp of the others, 0 for none.
    fn members(&self, read: Stamp) -> (Stamp, Stamp) {
        if read & FLAG == 0 {
            return (read, 0);
        }
        let set = self.segment(read);
        (set.newest, set.older)
    }

    /// The first of a read's members that is not in the past of lanes of a warp.
    pub fn unordered_reader(&self, mut read: Stamp, who: &Order, lanes: u32) -> Option<Stamp> {
        while read != 0 {
            // Who they were that read in an earlier launch is not known any more.
            let (newest, older) = if self.is_earlier(read) { (read, 0) } else { self.members(read) };
            if !who.ordered(self, newest, lanes) {
                return Some(newest);
            }
            read = older;
        }
        None
    }
}

/// For each warp of a block up to which tick its work is known, and the same for other blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    pub own: Vec<u32>,
    others: Vec<(u32, Vec<u32>)>,
}

/// The later of two clocks, entry by entry. Whether `into` has changed.
fn join_ticks(into: &mut Vec<u32>, other: &[u32]) -> bool {
    if into.len() < other.len() {
        into.resize(other.len(), 0);
    }
    let mut changed = false;
    for (mine, theirs) in into.iter_mut().zip(other) {
        changed |= *mine < *theirs;
        *mine = (*mine).max(*theirs);
    }
    changed
}

impl Clock {
    pub fn new(warps: usize) -> Clock {
        Clock { own: vec![0; warps], others: Vec::new() }
    }

    fn clear(&mut self) {
        self.own.fill(0);
        self.others.clear();
    }

    /// Learns of a warp's work up to a tick.
    pub fn note(&mut self, warp: u32, tick: u32) {
        let length = self.own.len().max(warp as usize + 1);
        self.own.resize(length, 0);
        let known = &mut self.own[warp as usize];
        *known = tick.max(*known);
    }

    /// Learns of what another warp of the block knows.
    pub fn join(&mut self, other: &Clock) {
        join_ticks(&mut self.own, &other.own);
        for (block, ticks) in &other.others {
            self.join_block(*block, ticks);
        }
    }

    fn join_block(&mut self, block: u32, ticks: &[u32]) -> bool {
        match self.others.iter_mut().find(|entry| entry.0 == block) {
            Some(entry) => join_ticks(&mut entry.1, ticks),
            None => {
                self.others.push((block, ticks.to_vec()));
                true
            }
        }
    }

    fn knows(&self, block: u32, segment: Segment) -> bool {
        let ticks = if segment.block == block {
            &self.own
        } else {
            match self.others.iter().find(|entry| entry.0 == segment.block) {
                Some(entry) => &entry.1,
                None => return false,
            }
        };
        ticks.get(segment.warp as usize).is_some_and(|tick| *tick >= segment.clock)
    }
}

/// What was released at each address by atomics, block by block.
#[derive(Debug, Default)]
pub(crate) struct Released(HashMap<u64, Clock>);

/// A warp's part in the order of things.
#[derive(Debug)]
pub(crate) struct Order {
    pub block: u32,
    pub warp: u32,
    /// Its past, as far as it knows.
    pub past: Clock,
    /// Its past at its last fence.
    pub fenced: Clock,
    /// The running segment.
    pub stamp: Stamp,
    /// The first segments of the launch and of the block, and the first one that need not be in the past of this warp. Until it has
    /// waited for earlier launches, the first of those that may overlap this one stands for the launch's.
    ///
    /// The two last bound numbers of this block alone, because blocks run one after another. Blocks that ran side by
    /// side would have to leave `floor` at `block_start`, so that every question goes to the clocks.
    pub launch: Stamp,
    pub block_start: Stamp,
    pub floor: Stamp,
    /// The lanes that run in the block's first segment.
    lanes: u32,
    /// The first segment since all lanes met.
    pub met: Stamp,
    /// Whether some lanes of a warp may meet without the others: then the lanes of every access are kept apart, which
    /// takes more time.
    pub exact: bool,
    /// Segments of the same tick in which `MANY` stands for other lanes.
    variants: Vec<(u32, Stamp)>,
    /// For each lane up to which tick it knows of each other lane's work; `None` when all know all before this tick.
    known: Option<Box<[[u32; 32]; 32]>>,
}

impl Order {
    pub fn new(warp: usize, warps: usize, exact: bool) -> Order {
        Order {
            block: 0,
            warp: warp as u32,
            past: Clock::new(warps),
            fenced: Clock::new(warps),
            stamp: 0,
            launch: 0,
            block_start: 0,
            floor: 0,
            met: 0,
            exact,
            lanes: 0,
            variants: Vec::new(),
            known: None,
        }
    }

    /// At the start of a block.
    pub fn start(&mut self, history: &mut History, block: u32, block_start: Stamp, lanes: u32) {
        (self.block, self.lanes) = (block, lanes);
        (self.launch, self.block_start, self.floor) = (history.overlap, block_start, block_start);
        self.past.clear();
        self.fenced.clear();
        self.meet(history);
    }

    /// Earlier launches have ended.
    pub fn wait_for_launches(&mut self, history: &History) {
        self.launch = history.first;
    }

    /// The warp's own tick.
    pub fn now(&self) -> u32 {
        self.past.own[self.warp as usize]
    }

    /// Something has been learnt: what follows is another segment, of the same or of a new tick.
    fn new_stamp(&mut self, history: &mut History) {
        self.variants.clear();
        let lanes = self.lanes;
        self.stamp = history.push(Segment {
            block: self.block,
            warp: self.warp,
            clock: self.now(),
            lanes,
            ..Segment::default()
        });
    }

    fn next_segment(&mut self, history: &mut History) {
        self.past.own[self.warp as usize] += 1;
        self.new_stamp(history);
    }

    /// The stamp for several lanes at once.
    pub fn stamp_of(&mut self, history: &mut History, lanes: u32) -> Stamp {
        if lanes.is_power_of_two() {
            return self.stamp | lanes.trailing_zeros();
        }
        if lanes == self.lanes {
            return self.stamp | MANY;
        }
        if let Some(variant) = self.variants.iter().find(|variant| variant.0 == lanes) {
            return variant.1 | MANY;
        }
        let (block, warp, clock) = (self.block, self.warp, self.now());
        let stamp = history.push(Segment { block, warp, clock, lanes, ..Segment::default() });
        self.variants.push((lanes, stamp));
        stamp | MANY
    }

    /// The stamp of what goes on beside the warp, in the name of a lane: at a tick of a clock of its own.
    pub fn stamp_beside(&self, history: &mut History, (warp, clock): (u32, u32), lane: u32) -> Stamp {
        history.push(Segment { block: self.block, warp, clock, lanes: 1 << lane, ..Segment::default() }) | lane
    }

    /// What others know comes into this warp's past.
    pub fn learn(&mut self, history: &mut History, past: &Clock) {
        self.past.join(past);
        self.new_stamp(history);
    }

    /// All lanes of the warp have met: what each did is in the past of all.
    pub fn meet(&mut self, history: &mut History) {
        self.known = None;
        self.next_segment(history);
        self.met = self.stamp;
    }

    /// The lanes of a mask have met.
    pub fn meet_some(&mut self, history: &mut History, mask: u32) {
        if mask & self.lanes == self.lanes {
            return self.meet(history);
        }
        let now = self.now();
        let known = self.known.get_or_insert_with(|| Box::new([[now - 1; 32]; 32]));
        let mut joined = [0; 32];
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1) {
            for (other, tick) in joined.iter_mut().enumerate() {
                *tick = known[lane][other].max(*tick).max(if mask >> other & 1 == 1 { now } else { 0 });
            }
        }
        (0..32).filter(|lane| mask >> lane & 1 == 1).for_each(|lane| known[lane] = joined);
        self.next_segment(history);
    }

    /// A fence: what is past here, the next atomic releases. Lanes do not meet.
    pub fn fence(&mut self, history: &mut History) {
        self.fenced.clone_from(&self.past);
        self.tick_apart(history);
    }

    /// A new tick at which no lane learns of another one.
    pub fn tick_apart(&mut self, history: &mut History) {
        let now = self.now();
        self.known.get_or_insert_with(|| Box::new([[now - 1; 32]; 32]));
        self.next_segment(history);
    }

    /// A barrier of the block is over for these lanes. The floor is given when it has brought everything of the block
    /// into the past.
    pub fn leave_barrier(
        &mut self,
        history: &mut History,
        past: &Clock,
        fenced: &Clock,
        (floor, lanes): (Option<Stamp>, u32),
    ) {
        self.past.join(past);
        self.fenced.join(fenced);
        self.floor = floor.unwrap_or(self.floor);
        self.meet_some(history, lanes);
    }

    /// An atomic at an address: the warp learns of what others released there, and releases its own fenced past.
    pub fn atomic(&mut self, history: &mut History, released: &mut Released, address: u64) {
        let here = released.0.entry(address).or_default();
        let mut learnt = false;
        for (block, ticks) in &here.others {
            learnt |= if *block == self.block {
                join_ticks(&mut self.past.own, ticks)
            } else {
                self.past.join_block(*block, ticks)
            };
        }
        if learnt {
            self.new_stamp(history);
        }
        if self.fenced.own.iter().any(|tick| *tick > 0) {
            here.join_block(self.block, &self.fenced.own);
            for (block, ticks) in &self.fenced.others {
                here.join_block(*block, ticks);
            }
        }
    }

    /// The lanes of one of this warp's stamps.
    fn lanes_of(&self, history: &History, stamp: Stamp) -> u32 {
        match stamp & MANY {
            MANY => history.segment(stamp).lanes,
            lane => 1 << lane,
        }
    }

    /// Whether an earlier access is in the past of lanes of this warp. Two accesses of the same lane are.
    pub fn ordered(&self, history: &History, earlier: Stamp, lanes: u32) -> bool {
        let at = earlier & !FLAG;
        if at < self.launch || (self.block_start <= at && at < self.floor) {
            return true;
        }
        let segment = history.segment(at);
        if segment.block != self.block || segment.warp != self.warp {
            return self.past.knows(self.block, segment);
        }
        let lane = at & MANY;
        let theirs = if lane == MANY { segment.lanes } else { 1 << lane };
        self.lanes_ordered(segment.clock, theirs, lanes)
    }

    /// Whether what lanes of the warp did at a tick is in the past of other lanes.
    fn lanes_ordered(&self, clock: u32, theirs: u32, mine: u32) -> bool {
        let alone = theirs == mine && mine.is_power_of_two();
        match &self.known {
            _ if alone => true,
            None => clock < self.now(),
            Some(known) => {
                let set = |mask: u32| (0..32usize).filter(move |lane| mask >> lane & 1 == 1);
                set(mine).all(|me| set(theirs).all(|other| other == me || clock <= known[me][other]))
            }
        }
    }
}
