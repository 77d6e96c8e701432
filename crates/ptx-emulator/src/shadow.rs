//! What the sanitizer keeps of each place in memory: who wrote it last, and who has read it since.
//!
//! An access is a race when an earlier one to the same place, one of the two a write, is not in its past. Nearly always
//! that is settled for a whole warp's access by comparing numbers (see [`crate::order`]), in loops that the compiler makes
//! vector instructions of; only where that fails, place after place is looked at.

use crate::order::{FLAG, History, MANY, Order, SEGMENT, Stamp};

/// What kind of access it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    Atomic,
}

/// Neighbouring lanes that access evenly spaced places, or several lanes that access one place together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Byte where it starts, bytes of each lane, and from one lane to the next, which is no less.
    pub start: usize,
    pub bytes: usize,
    pub step: usize,
    /// The first lane, and how many places there are.
    pub first: u32,
    pub count: u32,
    /// The lanes.
    pub mask: u32,
}

/// Why an access is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clash {
    Unwritten { lane: u32 },
    Race { lane: u32, earlier: Stamp, touch: Touch },
}

/// A run on cells: the stamps that it leaves.
#[derive(Clone, Copy)]
struct Marks {
    start: usize,
    end: usize,
    /// The first lane's stamp, and how many cells each lane has.
    stamp: Stamp,
    per_lane: usize,
    run: Run,
}

impl Run {
    /// One lane.
    pub fn single(lane: u32, start: usize, bytes: usize) -> Run {
        Run { start, bytes, step: bytes, first: lane, count: 1, mask: 1 << lane }
    }

    /// Bytes from the start of its first place to the end of its last one.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.step * (self.count as usize - 1) + self.bytes
    }

    /// There are gaps between its places.
    #[inline(always)]
    pub fn is_spaced(&self) -> bool {
        self.step != self.bytes
    }

    /// One lane after the other.
    pub fn singles(self) -> impl Iterator<Item = Run> {
        (0..self.count).map(move |n| Run::single(self.first + n, self.start + n as usize * self.step, self.bytes))
    }
}

/// Whether it is one of the most frequent accesses, which loops of a fixed length do.
#[inline(always)]
fn is_usual(run: &Run, touch: Touch, shift: u32, who: &Order) -> bool {
    touch != Touch::Atomic && run.bytes == 4 && shift == WORD && !who.exact
}

/// `COUNT` cells from an index on.
#[inline(always)]
fn words_at<const COUNT: usize>(cells: &mut [Stamp], at: usize) -> Option<&mut [Stamp; COUNT]> {
    cells.get_mut(at..).and_then(|cells| cells.first_chunk_mut())
}

/// Whether something holds of all cells, each with the stamp of the lane that now accesses it.
#[inline(always)]
fn all<const COUNT: usize>(cells: &[Stamp; COUNT], stamp: Stamp, fine: impl Fn(Stamp, Stamp) -> bool) -> bool {
    let mut wrong = 0;
    for (n, cell) in cells.iter().enumerate() {
        wrong |= u32::from(!fine(*cell, stamp.wrapping_add(n as u32)));
    }
    wrong == 0
}

/// Leaves each lane's stamp.
#[inline(always)]
fn note<const COUNT: usize>(cells: &mut [Stamp; COUNT], stamp: Stamp) {
    for (n, cell) in cells.iter_mut().enumerate() {
        *cell = stamp.wrapping_add(n as u32);
    }
}

/// Visits each cell of a spaced run: its index and its stamp.
#[inline(always)]
fn for_spaced(run: &Run, shift: u32, stamp: Stamp, mut visit: impl FnMut(usize, Stamp)) {
    let (step, per_lane) = (run.step >> shift, run.bytes >> shift);
    let (mut cell, mut stamp) = (run.start >> shift, stamp + run.first);
    if per_lane == 1 {
        for _ in 0..run.count {
            visit(cell, stamp);
            cell += step;
            stamp += 1;
        }
        return;
    }
    for _ in 0..run.count {
        (0..per_lane).for_each(|n| visit(cell + n, stamp));
        cell += step;
        stamp += 1;
    }
}

impl Marks {
    #[inline(always)]
    fn new(run: &Run, shift: u32, who: &mut Order, history: &mut History) -> Marks {
        let one = run.count == 1;
        let stamp = if one { who.stamp_of(history, run.mask) } else { who.stamp | run.first };
        let (start, end) = (run.start >> shift, ((run.start + run.length() - 1) >> shift) + 1);
        Marks { start, end, stamp, per_lane: (run.bytes >> shift).max(1), run: *run }
    }

    /// The stamp of the n-th cell.
    #[inline(always)]
    fn at(&self, n: usize) -> Stamp {
        if self.run.count == 1 { self.stamp } else { self.stamp + (n / self.per_lane) as u32 }
    }

    /// The lanes of the n-th cell, and the one that a report names.
    fn lanes(&self, n: usize) -> (u32, u32) {
        if self.run.count == 1 {
            return (self.run.mask, self.run.mask.trailing_zeros());
        }
        let lane = self.run.first + (n / self.per_lane) as u32;
        (1 << lane, lane)
    }
}

/// The smallest and the largest of some stamps.
#[inline(always)]
fn extent(stamps: &[Stamp]) -> (Stamp, Stamp) {
    stamps.iter().fold((Stamp::MAX, 0), |(low, high), stamp| (low.min(*stamp), high.max(*stamp)))
}

/// Writes each lane's stamp, unless flagged.
#[inline(always)]
fn mark(cells: &mut [Stamp], marks: &Marks, flag: Stamp) {
    if marks.per_lane == 1 && marks.run.count > 1 {
        for (n, cell) in cells.iter_mut().enumerate() {
            *cell = flag | marks.stamp.wrapping_add(n as u32);
        }
    } else {
        for (n, cell) in cells.iter_mut().enumerate() {
            *cell = flag | marks.at(n);
        }
    }
}

/// The race of a write or read with an earlier write, if it is one.
#[inline(never)]
fn check_write(earlier: Stamp, touch: Touch, lanes: (u32, u32), who: &Order, history: &History) -> Result<(), Clash> {
    let atomic = earlier & FLAG != 0;
    if (atomic && touch == Touch::Atomic) || who.ordered(history, earlier, lanes.0) {
        return Ok(());
    }
    Err(Clash::Race { lane: lanes.1, earlier, touch: if atomic { Touch::Atomic } else { Touch::Write } })
}

/// Bytes of a cell, as a power of two: four until the first access to fewer of them.
const WORD: u32 = 2;

/// The stamp of a write that goes on beside its thread: above all others, so that no barrier brings it into the past.
pub(crate) const IN_FLIGHT: Stamp = FLAG - SEGMENT;

/// The shadow of a block's shared memory. What is below the block's first stamp was left by an earlier block.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedShadow {
    shift: u32,
    write: Vec<Stamp>,
    /// For each warp its last read of each cell: all warps read what one has written, so there is little to save here.
    reads: Vec<Stamp>,
    /// Rows of `reads`. In a cluster there is one more than the block has warps: what warps of other blocks read.
    rows: usize,
    /// The number of the block's first warp in its cluster.
    first: u32,
    /// For `1 << PAGE` bytes each the last read of any warp: mostly a barrier came after it, and settles all reads there.
    pages: Vec<Stamp>,
}

/// Bytes of a page, as a power of two.
const PAGE: u32 = 9;

impl SharedShadow {
    pub fn new(bytes: usize, warps: usize) -> SharedShadow {
        let cells = bytes.div_ceil(1 << WORD);
        let pages = (bytes >> PAGE) + 1;
        let (write, reads, pages) = (vec![0; cells], vec![0; cells * warps], vec![0; pages]);
        SharedShadow { shift: WORD, write, reads, rows: warps, first: 0, pages }
    }

    /// The shadow of a block whose warps are numbered from `first` on in its cluster.
    pub fn in_cluster(mut self, first: u32) -> SharedShadow {
        (self.first, self.rows) = (first, self.rows + 1);
        self.reads.resize(self.write.len() * self.rows, 0);
        self
    }

    /// Checks and notes an access by a warp of another block.
    #[inline(never)]
    pub fn touch_from_outside(
        &mut self,
        run: &Run,
        touch: Touch,
        who: &mut Order,
        history: &mut History,
    ) -> Result<(), Clash> {
        if run.bytes < 4 && self.shift == WORD {
            self.split();
        }
        let marks = Marks::new(run, self.shift, who, history);
        if touch != Touch::Read {
            return self.write(&marks, touch, who, history);
        }
        self.check_writes(&marks, touch, who, history)?;
        self.note_page(run, who.stamp);
        let row = &mut self.reads[(self.rows - 1) * self.write.len()..][marks.start..marks.end];
        keep_readers(row, &marks, who, history)
    }

    fn split(&mut self) {
        let bytes = |cells: &[Stamp]| cells.iter().flat_map(|cell| [*cell; 4]).collect();
        (self.shift, self.write, self.reads) = (0, bytes(&self.write), bytes(&self.reads));
    }

    /// Makes a write's stamp that of some bytes, which have been checked: four or more, or all accesses are to bytes.
    pub fn set(&mut self, start: usize, bytes: usize, stamp: Stamp) {
        if let Some(cells) = self.write.get_mut(start >> self.shift..=(start + bytes - 1) >> self.shift) {
            cells.fill(stamp);
        }
    }

    /// Checks and notes an access that lies within the memory.
    #[inline(always)]
    pub fn touch(&mut self, run: &Run, touch: Touch, who: &mut Order, history: &mut History) -> Result<(), Clash> {
        if run.bytes < 4 && self.shift == WORD {
            self.split();
        }
        if run.is_spaced() {
            return self.touch_spaced(run, touch, who, history);
        }
        if is_usual(run, touch, self.shift, who) {
            let settled = match run.count {
                1 => self.touch_words::<1>(run, touch, who.stamp_of(history, run.mask), who),
                16 => self.touch_words::<16>(run, touch, who.stamp | run.first, who),
                32 => self.touch_words::<32>(run, touch, who.stamp, who),
                _ => false,
            };
            if settled {
                return Ok(());
            }
        }
        let marks = Marks::new(run, self.shift, who, history);
        match touch {
            Touch::Read => self.read(&marks, who, history),
            _ => self.write(&marks, touch, who, history),
        }
    }

    /// The usual case in one go, and else one lane after the other.
    #[inline(never)]
    fn touch_spaced(&mut self, run: &Run, touch: Touch, who: &mut Order, history: &mut History) -> Result<(), Clash> {
        let since = if touch == Touch::Write { 0 } else { who.block_start };
        let mut fine = match touch {
            Touch::Read => !who.exact,
            _ => touch == Touch::Write && self.reads_settled(run, who),
        };
        for_spaced(run, self.shift, who.stamp, |cell, mine| {
            let write = self.write[cell];
            fine &= ((write >= since) & (write < who.floor)) | (write == mine);
        });
        if !fine {
            return run.singles().try_for_each(|run| self.touch(&run, touch, who, history));
        }
        if touch == Touch::Read {
            self.note_page(run, who.stamp);
            let row = &mut self.reads[(who.warp - self.first) as usize * self.write.len()..];
            for_spaced(run, self.shift, who.stamp, |cell, stamp| row[cell] = later_read(row[cell], stamp, who));
        } else {
            for_spaced(run, self.shift, who.stamp, |cell, stamp| self.write[cell] = stamp);
        }
        Ok(())
    }

    /// Notes a read or write of some words, if numbers suffice to see that it is right.
    #[inline(always)]
    fn touch_words<const COUNT: usize>(&mut self, run: &Run, touch: Touch, stamp: Stamp, who: &Order) -> bool {
        let cell = run.start >> WORD;
        let row = (who.warp - self.first) as usize * self.write.len() + cell;
        if touch == Touch::Write {
            let settled = self.reads_settled(run, who) || self.rows_settled::<COUNT>(cell, stamp, who);
            let Some(written) = words_at::<COUNT>(&mut self.write, cell).filter(|_| settled) else { return false };
            let fine = all(written, stamp, |write, mine| (write < who.floor) | (write == mine));
            if fine {
                note(written, stamp);
            }
            return fine;
        }
        let (Some(written), Some(reads)) =
            (words_at::<COUNT>(&mut self.write, cell), words_at::<COUNT>(&mut self.reads, row))
        else {
            return false;
        };
        let since = who.floor - who.block_start;
        let fine = all(written, stamp, |write, mine| (write.wrapping_sub(who.block_start) < since) | (write == mine));
        if fine {
            for (n, read) in reads.iter_mut().enumerate() {
                *read = later_read(*read, stamp.wrapping_add(n as u32), who);
            }
            self.note_page(run, who.stamp);
        }
        fine
    }

    /// Whether all warps' reads of some words are in the past, or those of the lanes that now write there.
    fn rows_settled<const COUNT: usize>(&mut self, cell: usize, stamp: Stamp, who: &Order) -> bool {
        let cells = self.write.len();
        (0..self.rows).all(|warp| {
            words_at::<COUNT>(&mut self.reads, warp * cells + cell)
                .is_some_and(|row| all(row, stamp, |read, mine| (read < who.floor) | (read == mine)))
        })
    }

    /// Whether all reads of a run's pages are in the past.
    #[inline(always)]
    fn reads_settled(&self, run: &Run, who: &Order) -> bool {
        let (first, last) = (run.start >> PAGE, (run.start + run.length() - 1) >> PAGE);
        self.pages[first..=last].iter().all(|page| *page < who.floor)
    }

    #[inline(always)]
    fn note_page(&mut self, run: &Run, stamp: Stamp) {
        let (first, last) = (run.start >> PAGE, (run.start + run.length() - 1) >> PAGE);
        let page = &mut self.pages[first];
        *page = stamp.max(*page);
        for page in &mut self.pages[first + 1..=last] {
            *page = stamp.max(*page);
        }
    }

    #[inline(always)]
    fn read(&mut self, marks: &Marks, who: &Order, history: &mut History) -> Result<(), Clash> {
        let (low, high) = extent(&self.write[marks.start..marks.end]);
        if low < who.block_start || high >= who.floor {
            self.check_writes(marks, Touch::Read, who, history)?;
        }
        self.note_page(&marks.run, who.stamp);
        let cells = self.write.len();
        let row = &mut self.reads[(who.warp - self.first) as usize * cells..][marks.start..marks.end];
        if who.exact {
            return keep_readers(row, marks, who, history);
        }
        if marks.run.count == 1 {
            row.iter_mut().for_each(|cell| *cell = later_read(*cell, marks.stamp, who));
        } else if marks.per_lane == 1 {
            for (n, cell) in row.iter_mut().enumerate() {
                *cell = later_read(*cell, marks.stamp.wrapping_add(n as u32), who);
            }
        } else {
            for (n, cell) in row.iter_mut().enumerate() {
                *cell = later_read(*cell, marks.at(n), who);
            }
        }
        Ok(())
    }

    /// Cell after cell: whether the last writes are this block's and in the past.
    #[cold]
    #[inline(never)]
    fn check_writes(&self, marks: &Marks, touch: Touch, who: &Order, history: &History) -> Result<(), Clash> {
        for (n, earlier) in self.write[marks.start..marks.end].iter().enumerate() {
            let lanes = marks.lanes(n);
            if earlier & !FLAG >= who.block_start {
                check_write(*earlier, touch, lanes, who, history)?;
            } else if touch != Touch::Write {
                return Err(Clash::Unwritten { lane: lanes.1 });
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn write(&mut self, marks: &Marks, touch: Touch, who: &Order, history: &History) -> Result<(), Clash> {
        let (low, high) = extent(&self.write[marks.start..marks.end]);
        if high >= who.floor || (touch == Touch::Atomic && low < who.block_start) {
            self.check_writes(marks, touch, who, history)?;
        }
        let unsettled = if self.reads_settled(&marks.run, who) { 0 } else { self.rows };
        for warp in 0..unsettled {
            let row = &self.reads[warp * self.write.len()..][marks.start..marks.end];
            if extent(row).1 >= who.floor {
                check_reads(row, marks, who.block_start, who, history)?;
            }
        }
        let flag = if touch == Touch::Atomic { FLAG } else { 0 };
        mark(&mut self.write[marks.start..marks.end], marks, flag);
        Ok(())
    }
}

/// What is kept of a warp's reads of a cell: the later one, and lanes that differ as "many".
#[inline(always)]
fn later_read(old: Stamp, new: Stamp, who: &Order) -> Stamp {
    let same_lane = ((old ^ new) & MANY == 0) & (new & MANY != MANY);
    let apart = (old >= who.met) & (old != new) & !same_lane;
    if apart { who.stamp | MANY } else { new }
}

#[cold]
#[inline(never)]
fn keep_readers(cells: &mut [Stamp], marks: &Marks, who: &Order, history: &mut History) -> Result<(), Clash> {
    for (n, cell) in cells.iter_mut().enumerate() {
        let old = if *cell & !FLAG < who.block_start { 0 } else { *cell };
        *cell = history.with_reader(old, marks.at(n), who);
    }
    Ok(())
}

/// Cell after cell: whether the reads since a stamp are in the past.
#[cold]
#[inline(never)]
fn check_reads(cells: &[Stamp], marks: &Marks, since: Stamp, who: &Order, history: &History) -> Result<(), Clash> {
    for (n, read) in cells.iter().enumerate().filter(|(_, read)| **read & !FLAG >= since) {
        let (lanes, lane) = marks.lanes(n);
        if let Some(earlier) = history.unordered_reader(*read, who, lanes) {
            return Err(Clash::Race { lane, earlier, touch: Touch::Read });
        }
    }
    Ok(())
}

/// The shadow of a buffer in global memory.
#[derive(Clone, Debug)]
pub(crate) struct GlobalShadow {
    bytes: usize,
    shift: u32,
    write: Vec<Stamp>,
    /// The last reader, or a set of readers of which none is in the past of the others.
    read: Vec<Stamp>,
}

impl GlobalShadow {
    pub fn new(bytes: usize) -> GlobalShadow {
        GlobalShadow { bytes, shift: WORD, write: Vec::new(), read: Vec::new() }
    }

    /// Before a launch that checks. Cells are made at the first one.
    pub fn start_launch(&mut self, forget: bool) {
        if self.write.is_empty() || forget {
            let cells = self.bytes.div_ceil(1 << self.shift);
            (self.write, self.read) = (vec![0; cells], vec![0; cells]);
        }
    }

    fn split(&mut self) {
        let bytes = |cells: &[Stamp]| cells.iter().flat_map(|cell| [*cell; 4]).collect();
        (self.shift, self.write, self.read) = (0, bytes(&self.write), bytes(&self.read));
    }

    /// Checks and notes an access that lies within the buffer.
    #[inline(always)]
    pub fn touch(&mut self, run: &Run, touch: Touch, who: &mut Order, history: &mut History) -> Result<(), Clash> {
        if run.bytes < 4 && self.shift == WORD {
            self.split();
        }
        if run.is_spaced() {
            return self.touch_spaced(run, touch, who, history);
        }
        if is_usual(run, touch, self.shift, who) {
            let settled = match run.count {
                1 => self.touch_words::<1>(run, touch, who.stamp_of(history, run.mask), who),
                16 => self.touch_words::<16>(run, touch, who.stamp | run.first, who),
                32 => self.touch_words::<32>(run, touch, who.stamp, who),
                _ => false,
            };
            if settled {
                return Ok(());
            }
        }
        let marks = Marks::new(run, self.shift, who, history);
        let writes = &mut self.write[marks.start..marks.end];
        let reads = &mut self.read[marks.start..marks.end];
        if !all_past(writes, who) {
            for (n, earlier) in writes.iter().enumerate() {
                check_write(*earlier, touch, marks.lanes(n), who, history)?;
            }
        }
        let past = all_past(reads, who);
        if touch == Touch::Read {
            note_reads(reads, &marks, past, who, history);
            return Ok(());
        }
        if !past {
            check_reads(reads, &marks, who.launch, who, history)?;
        }
        mark(writes, &marks, if touch == Touch::Atomic { FLAG } else { 0 });
        Ok(())
    }

    /// Notes a read or write of some words, if numbers suffice to see that it is right.
    #[inline(always)]
    fn touch_words<const COUNT: usize>(&mut self, run: &Run, touch: Touch, stamp: Stamp, who: &Order) -> bool {
        let cell = run.start >> WORD;
        let (Some(written), Some(reads)) =
            (words_at::<COUNT>(&mut self.write, cell), words_at::<COUNT>(&mut self.read, cell))
        else {
            return false;
        };
        let fine = |earlier: Stamp, mine: Stamp| is_past(earlier, who) | (earlier == mine);
        let settled = all(written, stamp, fine) && all(reads, stamp, fine);
        if settled {
            note(if touch == Touch::Read { reads } else { written }, stamp);
        }
        settled
    }

    /// The usual case in one go, and else one lane after the other.
    #[inline(never)]
    fn touch_spaced(&mut self, run: &Run, touch: Touch, who: &mut Order, history: &mut History) -> Result<(), Clash> {
        let mut past = !who.exact;
        for_spaced(run, self.shift, who.stamp, |cell, _| {
            past &= is_past(self.write[cell], who) & is_past(self.read[cell], who);
        });
        if !past || touch == Touch::Atomic {
            return run.singles().try_for_each(|run| self.touch(&run, touch, who, history));
        }
        let cells = if touch == Touch::Read { &mut self.read } else { &mut self.write };
        for_spaced(run, self.shift, who.stamp, |cell, stamp| cells[cell] = stamp);
        Ok(())
    }
}

/// Whether a stamp is in the past, as far as its number tells. Flagged ones are not.
#[inline(always)]
fn is_past(stamp: Stamp, who: &Order) -> bool {
    (stamp < who.launch) | ((stamp >= who.block_start) & (stamp < who.floor))
}

/// Whether all stamps are in the past, as far as their numbers tell.
#[inline(always)]
fn all_past(stamps: &[Stamp], who: &Order) -> bool {
    stamps.iter().fold(true, |all, stamp| all & is_past(*stamp, who))
}

#[inline(always)]
fn note_reads(cells: &mut [Stamp], marks: &Marks, past: bool, who: &Order, history: &mut History) {
    if past && !who.exact {
        return mark(cells, marks, 0);
    }
    keep_all_readers(cells, marks, who, history);
}

#[inline(never)]
fn keep_all_readers(cells: &mut [Stamp], marks: &Marks, who: &Order, history: &mut History) {
    for (n, cell) in cells.iter_mut().enumerate() {
        let old = if *cell & !FLAG < who.launch { 0 } else { *cell };
        let new = marks.at(n);
        *cell = if old == 0 { new } else { history.with_reader(old, new, who) };
    }
}

const _: () = assert!(SEGMENT > MANY);
