//! The sanitizer's memory of who touched what, and the order in which it happened.
//!
//! Every warp has a vector clock: an entry for each warp of its block, saying up to which of that warp's clock ticks
//! everything is known to have happened before. Barriers join the clocks of the warps that meet there. An access is a
//! race when an earlier one to the same place, one of the two a write, is not in the accessing warp's past. Blocks are
//! not ordered at all, but by an atomic that a fence precedes.
//!
//! Within a warp, two lanes are ordered only by a warp barrier or a barrier of the block, each of which moves the warp's
//! own clock on. (A warp barrier of some of its lanes counts as one of them all.)

use std::collections::HashMap;

/// The lane number that stands for "several lanes".
pub(crate) const MANY: u32 = 0xff;

/// Who accesses, and when: block, warp, lane, and the warp's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The block's number, never 0 for a block that ran.
    pub block: u32,
    pub clock: u32,
    pub warp: u16,
    pub lane: u16,
}

/// What is known of a place in memory.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: Stamp,
    read: Stamp,
    /// Index + 1 of the readers' list, once there was need of one.
    list: u32,
    /// Several warps of the block of `read` have read since the last write: the list says which.
    several: bool,
    /// The last write was an atomic one.
    atomic: bool,
    /// Blocks beside that of `read` have read in this launch.
    many_blocks: bool,
}

/// The accessing side: its stamp and its clock.
pub(crate) struct Observer<'a> {
    pub stamp: Stamp,
    pub clock: &'a [u32],
    /// The first block of this launch: older ones are in the past.
    pub launch: u32,
    pub order: &'a BlockOrder,
}

/// Which parts of other blocks' work a block has learnt of through atomics: for a pair (from, to) the clock that was
/// released.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockOrder {
    edges: HashMap<(u32, u32), Vec<u32>>,
    /// What was released at each address, by which block.
    released: HashMap<u64, Vec<(u32, Vec<u32>)>>,
}

impl BlockOrder {
    /// An atomic of `block` at an address: it learns of what others released there, and releases its own fenced past.
    pub fn atomic(&mut self, address: u64, block: u32, fenced: &[u32]) {
        let here = self.released.entry(address).or_default();
        for (from, clock) in here.iter().filter(|entry| entry.0 != block) {
            join(self.edges.entry((*from, block)).or_default(), clock);
        }
        if fenced.iter().all(|tick| *tick == 0) {
            return;
        }
        match here.iter_mut().find(|entry| entry.0 == block) {
            Some(entry) => join(&mut entry.1, fenced),
            None => here.push((block, fenced.to_vec())),
        }
    }

    fn knows(&self, stamp: Stamp, block: u32) -> bool {
        let edge = self.edges.get(&(stamp.block, block));
        edge.and_then(|clock| clock.get(usize::from(stamp.warp))).is_some_and(|tick| *tick >= stamp.clock)
    }
}

/// The later of two clocks, entry by entry.
pub(crate) fn join(into: &mut Vec<u32>, other: &[u32]) {
    if into.len() < other.len() {
        into.resize(other.len(), 0);
    }
    for (mine, theirs) in into.iter_mut().zip(other) {
        *mine = (*mine).max(*theirs);
    }
}

impl Observer<'_> {
    /// Whether an earlier access is in this one's past. Two accesses of the same lane are.
    fn ordered(&self, earlier: Stamp) -> bool {
        if earlier.block < self.launch {
            return true;
        }
        if earlier.block != self.stamp.block {
            return self.order.knows(earlier, self.stamp.block);
        }
        if earlier.warp != self.stamp.warp {
            return earlier.clock <= self.clock[usize::from(earlier.warp)];
        }
        earlier.clock < self.stamp.clock || (earlier.lane == self.stamp.lane && u32::from(earlier.lane) != MANY)
    }
}

/// What kind of access it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    Atomic,
}

/// The cells of a buffer or of shared memory.
///
/// A cell stands for four bytes until the first access to fewer of them, and then for one.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    cells: Vec<Cell>,
    bytes: usize,
    /// Bytes of a cell, as a power of two.
    shift: u32,
    /// Lists of the last read of each warp: `width` stamps each.
    lists: Vec<Stamp>,
    width: usize,
}

impl Shadow {
    pub fn new(bytes: usize) -> Shadow {
        Shadow { cells: Vec::new(), bytes, shift: 2, lists: Vec::new(), width: 0 }
    }

    /// Before a launch of so many warps per block. Cells are made at the first launch that checks.
    pub fn start_launch(&mut self, warps: usize) {
        if self.cells.is_empty() {
            self.cells = vec![Cell::default(); self.bytes.div_ceil(1 << self.shift)];
        }
        if self.width != warps {
            self.width = warps;
            self.cells.iter_mut().for_each(|cell| (cell.list, cell.several) = (0, false));
            self.lists.clear();
        }
    }

    fn split(&mut self) {
        self.cells = self.cells.iter().flat_map(|cell| [Cell { list: 0, several: false, ..*cell }; 4]).collect();
        self.cells.truncate(self.bytes);
        self.shift = 0;
    }

    /// Whether some byte was not written by the block: for shared memory, which starts afresh with every block.
    pub fn unwritten(&self, offset: usize, size: usize, block: u32) -> bool {
        let end = (offset + size - 1) >> self.shift;
        self.cells[offset >> self.shift..=end].iter().any(|cell| cell.write.block != block)
    }

    /// Notes an access, and gives the earlier one that it races with.
    pub fn touch(
        &mut self,
        offset: usize,
        size: usize,
        touch: Touch,
        who: &Observer<'_>,
    ) -> Result<(), (Stamp, Touch)> {
        if size < 4 && self.shift == 2 {
            self.split();
        }
        for index in offset >> self.shift..=(offset + size - 1) >> self.shift {
            match touch {
                Touch::Read => self.read(index, who)?,
                _ => self.write(index, touch == Touch::Atomic, who)?,
            }
        }
        Ok(())
    }

    #[inline]
    fn read(&mut self, index: usize, who: &Observer<'_>) -> Result<(), (Stamp, Touch)> {
        let me = who.stamp;
        let cell = &mut self.cells[index];
        if cell.read == me {
            return Ok(());
        }
        if !who.ordered(cell.write) {
            return Err((cell.write, if cell.atomic { Touch::Atomic } else { Touch::Write }));
        }
        if cell.read.block != me.block {
            // The first read of this block: what other blocks of this launch read is kept as a mark only.
            cell.many_blocks = cell.read.block >= who.launch && !who.order.knows(cell.read, me.block);
            cell.read = me;
            cell.several = false;
        } else if !cell.several && cell.read.warp == me.warp {
            cell.read = merge(cell.read, me);
        } else {
            self.add_reader(index, me);
        }
        Ok(())
    }

    /// A second warp of the block reads: from now on every warp's last read is kept.
    fn add_reader(&mut self, index: usize, me: Stamp) {
        let cell = &mut self.cells[index];
        if cell.list == 0 {
            cell.list = self.lists.len() as u32 + 1;
            self.lists.resize(self.lists.len() + self.width, Stamp::default());
        }
        let start = cell.list as usize - 1;
        let list = &mut self.lists[start..start + self.width];
        if !cell.several {
            cell.several = true;
            list.fill(Stamp::default());
            list[usize::from(cell.read.warp)] = cell.read;
        }
        let entry = &mut list[usize::from(me.warp)];
        *entry = if entry.block == me.block { merge(*entry, me) } else { me };
        cell.read = *entry;
    }

    #[inline]
    fn write(&mut self, index: usize, atomic: bool, who: &Observer<'_>) -> Result<(), (Stamp, Touch)> {
        let cell = &mut self.cells[index];
        let both_atomic = atomic && cell.atomic;
        if !both_atomic && !who.ordered(cell.write) {
            return Err((cell.write, if cell.atomic { Touch::Atomic } else { Touch::Write }));
        }
        if !who.ordered(cell.read) {
            return Err((cell.read, Touch::Read));
        }
        if cell.many_blocks && cell.read.block == who.stamp.block {
            return Err((Stamp { block: 0, ..cell.read }, Touch::Read));
        }
        if cell.several && cell.read.block == who.stamp.block {
            let start = cell.list as usize - 1;
            let unordered = |stamp: &&Stamp| stamp.block == who.stamp.block && !who.ordered(**stamp);
            if let Some(reader) = self.lists[start..start + self.width].iter().find(unordered) {
                return Err((*reader, Touch::Read));
            }
            cell.several = false;
            cell.read = Stamp::default();
        }
        cell.write = who.stamp;
        cell.atomic = atomic;
        Ok(())
    }
}

/// Two reads of one warp: the later clock, and several lanes when they are of one clock.
fn merge(earlier: Stamp, later: Stamp) -> Stamp {
    let same_lane = earlier.clock != later.clock || earlier.lane == later.lane;
    Stamp { lane: if same_lane { later.lane } else { MANY as u16 }, ..later }
}
