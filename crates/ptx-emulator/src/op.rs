//! The instruction forms after decoding: what the executor runs, with register slots in place of names.
//!
//! There are three banks of registers. `R` slots hold 32 bits per lane (and 8 and 16 bits, zero-extended), `D` slots
//! 64 bits per lane, `P` slots one bit per lane, so that a predicate is a mask of the warp. Constants and special
//! registers are slots too, filled before the first instruction.

use crate::exec::Until;
use crate::mma::MmaShape;
use crate::narrow::{Format, Narrow};

/// A slot of 32 bits per lane.
pub(crate) type R = u16;
/// A slot of 64 bits per lane.
pub(crate) type D = u16;
/// A slot of one bit per lane.
pub(crate) type P = u16;

/// A slot of the 32-bit or of the 64-bit bank.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    R(R),
    D(D),
}

/// A scalar type of PTX, as far as a conversion or comparison cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F32,
    F64,
}

/// How a result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

/// A conversion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convert {
    pub to: Type,
    pub from: Type,
    pub round: Rounding,
    /// From float to the nearest whole number of the same type (`cvt.rni.f32.f32`).
    pub whole: bool,
    pub saturate: bool,
    pub ftz: bool,
}

/// One source, 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Un32 {
    Not,
    Not16,
    NegInt,
    Neg16,
    NegFloat,
    AbsInt,
    Abs16,
    AbsFloat,
    Sqrt,
    Reciprocal,
    RsqrtApprox,
    Exp2Approx,
    Log2Approx,
    TanhApprox,
    SinApprox,
    CosApprox,
    PopCount,
    LeadingZeros,
    ReverseBits,
}

/// Two sources, 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bin32 {
    AddInt,
    SubInt,
    MulLow,
    MulHighSigned,
    MulHighUnsigned,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    Shl,
    ShrSigned,
    ShrUnsigned,
    Add16,
    Sub16,
    MulLow16,
    DivSigned16,
    RemSigned16,
    MinSigned16,
    MaxSigned16,
    Shl16,
    ShrSigned16,
    ShrUnsigned16,
    AddFloat,
    SubFloat,
    MulFloat,
    DivFloat,
    MinFloat,
    /// NaN if either source is.
    MinFloatOrNan,
    MaxFloat,
    CopySign,
}

/// Two sources, 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bin64 {
    AddInt,
    SubInt,
    MulLow,
    MulHighSigned,
    MulHighUnsigned,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    AddFloat,
    SubFloat,
    MulFloat,
    DivFloat,
    MinFloat,
    MaxFloat,
}

/// One source, 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Un64 {
    Not,
    ReverseBits,
    NegInt,
    AbsInt,
    NegFloat,
    AbsFloat,
    Sqrt,
    Reciprocal,
}

/// A shift of 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shift {
    Left,
    RightSigned,
    RightUnsigned,
}

/// Three sources, 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tern32 {
    MadLow,
    MadHighSigned,
    MadHighUnsigned,
    ExtractSigned,
    ExtractUnsigned,
    Permute,
    FunnelLeftWrap,
    FunnelRightWrap,
    FunnelLeftClamp,
    FunnelRightClamp,
    MadLow16,
    /// `dp4a`
    DotBytes {
        a_signed: bool,
        b_signed: bool,
    },
    /// `lop3` with its table.
    Logic3(u8),
}

/// How two values are compared. The `..Or` forms of floats are true when a source is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    EqOr,
    NeOr,
    LtOr,
    LeOr,
    GtOr,
    GeOr,
    BothNumbers,
    AnyNan,
}

/// Logic of two predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// A predicate source, possibly negated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pred {
    pub slot: P,
    pub negate: bool,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    /// Shared memory of any block of the cluster.
    Cluster,
    Local,
    /// The address itself says which of the others.
    Generic,
}

/// An address: a slot plus a fixed offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub base: Slot,
    pub offset: i32,
}

/// A load or store of one to four elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub space: Space,
    /// Bytes of an element.
    pub size: u8,
    /// A loaded element smaller than its register is extended by its sign.
    pub signed: bool,
    pub count: u8,
    pub slots: [Slot; 4],
    pub address: Address,
}

/// What an atomic does with the old value and its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    AddFloat,
    AddDouble,
    /// Two values of 16 bits.
    AddPair(Format),
    MinSigned,
    MinUnsigned,
    MaxSigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exchange,
    CompareExchange,
}

/// Which lane a shuffle reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Index,
    Up,
    Down,
    Butterfly,
}

/// What a vote gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Any,
    All,
    Uniform,
    Ballot(R),
}

/// The operations behind [`Op::Rare`].
#[derive(Clone, Debug)]
pub(crate) enum Rare {
    /// A comparison whose result is a number: `one` where it holds, else 0.
    Set {
        compare: Comparison,
        d: R,
        one: u32,
    },
    /// `popc` or `clz` of 64 bits.
    Count64 {
        leading: bool,
        d: R,
        a: D,
    },
    /// `bfind`: the highest bit that is not the sign, or how far it is below the top.
    FindBit {
        signed: bool,
        from_top: bool,
        d: R,
        a: Slot,
    },
    /// Some bits of `a`, extended by their sign or by zeros.
    Extract64 {
        signed: bool,
        d: D,
        a: D,
        position: R,
        length: R,
    },
    /// The low bits of `a` put into `b`.
    Insert64 {
        d: D,
        a: D,
        b: D,
        position: R,
        length: R,
    },
    /// What the lanes of a mask have in common, or together.
    Reduce {
        how: Atomic,
        d: R,
        a: R,
        mask: R,
    },
    Match {
        d: R,
        a: Slot,
        mask: R,
    },
    /// Four values of 16 bits into one of 64.
    Pack64 {
        d: D,
        quarters: [R; 4],
    },
    /// The reverse; a quarter without a target is dropped.
    Unpack64 {
        quarters: [Option<R>; 4],
        a: D,
    },
    /// A product of matrix fragments.
    Mma(Mma),
    /// Matrices of 8 x 8 values of 16 bits, from shared memory to fragments.
    LoadMatrix {
        slots: [R; 4],
        count: u32,
        transpose: bool,
        address: Address,
    },
    /// A copy from global to shared memory that goes on beside the thread.
    CopyAsync(CopyAsync),
    /// A fence, and then an atomic, which releases what came before.
    Release(Op),
    /// A barrier of the block that tells how many of its threads say yes.
    BarrierTally {
        d: Tally,
        id: R,
        count: Option<R>,
        source: Pred,
        aligned: bool,
    },
    /// A warp arrives at the barrier of its cluster, and waits there.
    ClusterArrive {
        relaxed: bool,
    },
    ClusterWait,
    /// An address of shared memory made that of the same place in another block.
    MapAddress {
        d: Slot,
        a: Slot,
        rank: R,
    },
    /// The reverse: which block an address is in.
    RankOf {
        d: R,
        a: Slot,
    },
    Mbarrier {
        op: Mbarrier,
        space: Space,
        address: Address,
    },
    /// `st.async`, which counts its bytes for an mbarrier.
    StoreAsync {
        access: Access,
        barrier: Address,
    },
    /// What a thread has started so far becomes a group.
    CloseGroup,
    WaitForCopies(Until),
    /// `griddepcontrol.wait`
    WaitForLaunches,
    /// The bug that the program itself reports, with what it is.
    Trap(String),
    /// A clock, which counts the launch's instructions.
    Clock {
        d: Slot,
    },
    /// A matrix of 8 x 8 values of 16 bits, transposed within the warp.
    MoveMatrix {
        d: R,
        a: R,
    },
}

/// Operands of a comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison {
    pub how: Compare,
    pub ty: Type,
    pub ftz: bool,
    pub a: Slot,
    pub b: Slot,
    pub with: Option<(Logic, Pred)>,
}

/// What a barrier tells of its threads' predicates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tally {
    Count(R),
    All(P),
    Any(P),
}

/// What is done with an mbarrier.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mbarrier {
    Init {
        count: R,
    },
    Invalidate,
    /// Arrivals (one when absent), after announcing bytes; the state tells the phase.
    Arrive {
        count: Option<R>,
        bytes: Option<R>,
        relaxed: bool,
        state: Option<D>,
    },
    /// Announces bytes.
    Expect {
        bytes: R,
    },
    /// Whether a phase is over.
    Test {
        d: P,
        phase: Phase,
        relaxed: bool,
    },
}

/// Which phase a test means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// That of an arrival.
    State(D),
    /// The last one with a parity.
    Parity(R),
}

/// `cp.async`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: usize,
    /// How many bytes come from the source, where that is not all; the rest are zeros.
    pub copied: Option<R>,
}

/// `mma.sync`: d = a * b + c.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mma {
    pub shape: MmaShape,
    pub d: [R; 4],
    /// The first `shape.a_registers()` count.
    pub a: [R; 4],
    /// The first `shape.b_registers()` count.
    pub b: [R; 2],
    pub c: [R; 4],
}

/// One decoded instruction.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Nop,
    Mov32 {
        d: R,
        a: R,
    },
    Mov64 {
        d: D,
        a: D,
    },
    MovPred {
        d: P,
        a: Pred,
    },
    Un32 {
        op: Un32,
        ftz: bool,
        d: R,
        a: R,
    },
    Un64 {
        op: Un64,
        d: D,
        a: D,
    },
    Bin32 {
        op: Bin32,
        ftz: bool,
        d: R,
        a: R,
        b: R,
    },
    Bin64 {
        op: Bin64,
        d: D,
        a: D,
        b: D,
    },
    Shift64 {
        op: Shift,
        d: D,
        a: D,
        b: R,
    },
    Tern32 {
        op: Tern32,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    MadLow64 {
        d: D,
        a: D,
        b: D,
        c: D,
    },
    Fma32 {
        ftz: bool,
        saturate: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// Sum, product or fused product-sum that is not rounded to nearest.
    Directed {
        round: Rounding,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Fma64 {
        d: D,
        a: D,
        b: D,
        c: D,
    },
    MulWide {
        signed: bool,
        d: D,
        a: R,
        b: R,
    },
    MadWide {
        signed: bool,
        d: D,
        a: R,
        b: R,
        c: D,
    },
    MulWide16 {
        signed: bool,
        d: R,
        a: R,
        b: R,
    },
    InsertBits {
        d: R,
        a: R,
        b: R,
        position: R,
        length: R,
    },
    /// Values of 16 bits, and tf32. Sources that the operation does not have repeat the first.
    Narrow {
        op: Narrow,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// What is seldom met, or has many operands: kept apart, so that an `Op` stays small.
    Rare(Box<Rare>),
    Convert {
        how: Convert,
        d: Slot,
        a: Slot,
    },
    Pack {
        d: D,
        low: R,
        high: R,
    },
    Unpack {
        low: Option<R>,
        high: Option<R>,
        a: D,
    },
    Pack16 {
        d: R,
        low: R,
        high: R,
    },
    Unpack16 {
        low: Option<R>,
        high: Option<R>,
        a: R,
    },
    Compare {
        how: Compare,
        ty: Type,
        ftz: bool,
        d: P,
        other: Option<P>,
        a: Slot,
        b: Slot,
        with: Option<(Logic, Pred)>,
    },
    Select32 {
        d: R,
        a: R,
        b: R,
        p: Pred,
    },
    Select64 {
        d: D,
        a: D,
        b: D,
        p: Pred,
    },
    PredLogic {
        op: Logic,
        d: P,
        a: Pred,
        b: Pred,
    },
    /// A move between an address of one space and a generic one.
    Window {
        d: Slot,
        a: Slot,
        add: u64,
    },
    LoadParam {
        size: u8,
        signed: bool,
        slots: [Slot; 4],
        count: u8,
        offset: u32,
    },
    Load(Access),
    Store(Access),
    Atomic {
        op: Atomic,
        access: Box<Access>,
        operand: Slot,
        swap: Slot,
        wants_old: bool,
    },
    Branch(u32),
    Exit,
    /// A barrier of the block: its number, its count of threads (all when absent), whether the threads wait, and
    /// whether it may only be met by whole warps.
    Barrier {
        id: R,
        count: Option<R>,
        wait: bool,
        aligned: bool,
    },
    WarpBarrier {
        mask: R,
    },
    Shuffle {
        how: Shuffle,
        d: R,
        valid: Option<P>,
        a: R,
        b: R,
        c: R,
        mask: R,
    },
    Vote {
        how: Vote,
        d: P,
        a: Pred,
        mask: R,
    },
    ActiveMask {
        d: R,
    },
    Fence,
}

/// A decoded instruction with its guard. Small, so that a loop's instructions stay in the processor's nearest cache.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub op: Op,
    /// Lanes for which this predicate is false do nothing.
    pub guard: Option<Pred>,
}

const _: () = assert!(size_of::<Instruction>() <= 40, "an instruction has grown: put what is rare in a box");

/// Where an instruction stands in the source, for reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Line of the source, or of the PTX text where there is no line information.
    pub line: u32,
    /// Number of the source file; 0 without line information.
    pub file: u32,
    /// The full opcode: an index into the kernel's names.
    pub name: u32,
}
