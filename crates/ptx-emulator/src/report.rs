//! What can go wrong: a text that cannot be read, a launch that cannot start, a bug in the kernel.

use std::fmt;

/// Why nothing ran, or why a launch stopped.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The PTX text is not understood.
    Parse {
        /// Line of the PTX text.
        line: u32,
        /// What is wrong there.
        message: String,
    },
    /// The emulator does not know this instruction.
    UnknownOpcode {
        /// The full opcode, as it stands in the text.
        opcode: String,
        /// Line of the PTX text.
        line: u32,
    },
    /// The launch cannot start: no such kernel, wrong arguments, too many threads.
    Launch(String),
    /// The host asked for memory that is not there.
    Memory(String),
    /// The kernel has a bug, or met a limit.
    Kernel(Box<Report>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parse { line, message } => write!(f, "PTX line {line}: {message}"),
            Error::UnknownOpcode { opcode, line } => write!(f, "PTX line {line}: unknown instruction {opcode}"),
            Error::Launch(message) | Error::Memory(message) => f.write_str(message),
            Error::Kernel(report) => report.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// The kind of bug that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two accesses to one place, at least one of them a write, with nothing that orders them.
    Race,
    /// An access outside every buffer, or past the end of shared or local memory.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of memory that nobody has written.
    Uninitialised,
    /// A barrier that not all of its threads reach.
    DivergentBarrier,
    /// A shuffle, vote or warp barrier that not all lanes of its mask reach, or that reads an absent lane.
    DivergentWarp,
    /// Every thread that is left waits for another.
    Deadlock,
    /// More steps than the launch may take: most likely an endless loop.
    StepLimit,
    /// An operand that the instruction does not allow.
    BadOperand,
    /// An access to the shared memory of a block of the cluster that may not have started, or may have exited.
    BlockAbsent,
    /// A thread of a dependent launch that exits without having waited for the launches before it.
    Unwaited,
    /// A `trap`, or a call of a function that is not part of the module, such as a failed assertion.
    Trap,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Race => "race",
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned access",
            Kind::Uninitialised => "read of uninitialised memory",
            Kind::DivergentBarrier => "divergent barrier",
            Kind::DivergentWarp => "divergent warp instruction",
            Kind::Deadlock => "deadlock",
            Kind::StepLimit => "step limit reached",
            Kind::BadOperand => "operand not allowed",
            Kind::BlockAbsent => "block of the cluster absent",
            Kind::Unwaited => "earlier launches not waited for",
            Kind::Trap => "trap",
        })
    }
}

/// A bug found while a kernel ran: what, where in the source, and in which thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was seen.
    pub kind: Kind,
    /// The kernel's name.
    pub kernel: String,
    /// The source file, where the PTX has line information.
    pub file: Option<String>,
    /// Line of the source file; without line information, line of the PTX text.
    pub line: u32,
    /// The full opcode of the instruction.
    pub opcode: String,
    /// The block (x, y, z).
    pub block: [u32; 3],
    /// The thread within its block (x, y, z).
    pub thread: [u32; 3],
    /// The particulars: which address, which other thread.
    pub detail: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        let file = self.file.as_deref().unwrap_or("PTX");
        write!(f, "{}: {} in {} ({file}:{})", self.kind, self.opcode, self.kernel, self.line)?;
        write!(f, ", block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}): {}", self.detail)
    }
}

/// A finding before it is known where it happened: the executor adds kernel, line, block and thread.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub kind: Kind,
    /// The lane that it is laid to.
    pub lane: u32,
    pub detail: String,
}
