//! Statements to operations. Here, and nowhere else, the full opcode decides what an instruction does: an opcode of
//! which one part is not known is an error that names it.

mod asynchronous;
mod atomic;
mod barrier;
mod cluster;
mod narrow;
mod rare;
mod tensor;

use crate::names::{Names, Register, Symbol};
use crate::op::*;
use crate::report::Error;
use rare::rare;

/// An operand as it stands in the text.
#[derive(Clone, Debug)]
pub(crate) enum Operand<'a> {
    /// A register, number or variable, with an offset for variables.
    Word { word: &'a str, negative: bool, offset: i64 },
    /// `!%p1`
    Not(&'a str),
    /// The second name of `%p1|%p2`.
    Second(&'a str),
    /// `[base+offset]`
    Address(&'a str, i64),
    /// `{%r1, %r2}`
    Vector(Vec<Operand<'a>>),
}

/// An instruction before it is decoded.
#[derive(Clone, Debug)]
pub(crate) struct Statement<'a> {
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    /// Line of the PTX text.
    pub line: u32,
    /// File and line of the source; line 0 when unknown.
    pub place: (u32, u32),
    /// The scope that its names are looked up in.
    pub scope: usize,
}

/// Where generic addresses of shared memory start.
pub(crate) const SHARED_WINDOW: u64 = 1 << 60;
/// Where generic addresses of local memory start.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 60;

/// Bytes of a type's value.
pub(crate) fn type_size(ty: &str) -> Option<u32> {
    Some(match ty {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

/// A whole number: decimal, hexadecimal (`0x`), with or without the suffix `U`.
pub(crate) fn integer(word: &str, negative: bool) -> Option<u64> {
    let digits = word.strip_suffix('U').unwrap_or(word);
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

/// The bits of an operand that is a literal.
pub(crate) fn number(operand: &Operand<'_>) -> Option<u64> {
    match *operand {
        Operand::Word { word, negative, offset: 0 } => literal(word, negative),
        _ => None,
    }
}

/// The bits of a literal: a whole number, `0f3F800000` or `0d3FF0000000000000`.
fn literal(word: &str, negative: bool) -> Option<u64> {
    let float = |prefix: [&str; 2]| prefix.iter().find_map(|p| word.strip_prefix(p));
    if let Some(bits) = float(["0f", "0F"]) {
        let bits = u32::from_str_radix(bits, 16).ok()?;
        return Some(u64::from(bits ^ if negative { 1 << 31 } else { 0 }));
    }
    if let Some(bits) = float(["0d", "0D"]) {
        let bits = u64::from_str_radix(bits, 16).ok()?;
        return Some(bits ^ if negative { 1 << 63 } else { 0 });
    }
    if word == "WARP_SZ" {
        return Some(32);
    }
    integer(word, negative)
}

const SPECIAL: [&str; 28] = [
    "%clusterid.x",
    "%clusterid.y",
    "%clusterid.z",
    "%nclusterid.x",
    "%nclusterid.y",
    "%nclusterid.z",
    "%cluster_ctaid.x",
    "%cluster_ctaid.y",
    "%cluster_ctaid.z",
    "%cluster_nctaid.x",
    "%cluster_nctaid.y",
    "%cluster_nctaid.z",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
    "%laneid",
    "%warpid",
];
/// Clocks, with the bits of their type.
const CLOCKS: [(&str, &str); 5] =
    [("32", "%clock"), ("32", "%clock_hi"), ("64", "%clock64"), ("64", "%globaltimer"), ("32", "%globaltimer_lo")];
const SPECIAL_MASKS: [&str; 5] = ["%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge"];

impl Names<'_> {
    /// A predicate that guards or feeds an instruction.
    pub fn pred(&mut self, name: &str, negate: bool, statement: &Statement<'_>) -> Result<Pred, Error> {
        match self.register(name) {
            Some(Register::P(slot)) => Ok(Pred { slot, negate }),
            _ => Err(Error::Parse { line: statement.line, message: format!("{name} is not a predicate") }),
        }
    }
}

struct Decoder<'d, 'a> {
    statement: &'d Statement<'a>,
    names: &'d mut Names<'a>,
}

/// Decodes one statement.
pub(crate) fn decode<'a>(statement: &Statement<'a>, names: &mut Names<'a>) -> Result<Op, Error> {
    let parts: Vec<&str> = statement.opcode.split('.').collect();
    let mut decoder = Decoder { statement, names };
    match decoder.op(&parts)? {
        Some(op) => Ok(op),
        None => Err(Error::UnknownOpcode { opcode: statement.opcode.to_string(), line: statement.line }),
    }
}

type Decoded = Result<Option<Op>, Error>;

impl Decoder<'_, '_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        let message = format!("{}: {}", self.statement.opcode, message.into());
        Err(Error::Parse { line: self.statement.line, message })
    }

    fn missing<T>(&self, index: usize, what: &str) -> Result<T, Error> {
        self.error(format!("operand {} should be {what}", index + 1))
    }

    fn count(&self) -> usize {
        self.statement.operands.len()
    }

    /// A register that is written.
    fn target(&self, operand: Option<&Operand<'_>>) -> Option<Register> {
        match operand {
            Some(Operand::Word { word, negative: false, offset: 0 }) => self.names.register(word),
            _ => None,
        }
    }

    fn dr(&self, index: usize) -> Result<R, Error> {
        match self.target(self.statement.operands.get(index)) {
            Some(Register::R(slot)) => Ok(slot),
            _ => self.missing(index, "a register of at most 32 bits"),
        }
    }

    fn dd(&self, index: usize) -> Result<D, Error> {
        match self.target(self.statement.operands.get(index)) {
            Some(Register::D(slot)) => Ok(slot),
            _ => self.missing(index, "a register of 64 bits"),
        }
    }

    /// A predicate that is written; the underscore writes nowhere.
    fn dp(&mut self, index: usize) -> Result<P, Error> {
        match self.statement.operands.get(index) {
            Some(Operand::Word { word: "_", .. }) => Ok(self.names.new_p()),
            operand => match self.target(operand) {
                Some(Register::P(slot)) => Ok(slot),
                _ => self.missing(index, "a predicate"),
            },
        }
    }

    /// A source's bits when it is a number or the address of a variable.
    fn constant(&self, operand: &Operand<'_>) -> Option<u64> {
        let &Operand::Word { word, negative, offset } = operand else { return None };
        match self.names.symbol(word) {
            Some(Symbol::Offset(at)) => Some(at.wrapping_add(offset as u64)),
            Some(_) => None,
            None => literal(word, negative),
        }
    }

    fn source32(&mut self, operand: Option<&Operand<'_>>) -> Option<R> {
        let operand = operand?;
        if let Some(register) = self.target(Some(operand)) {
            return if let Register::R(slot) = register { Some(slot) } else { None };
        }
        if let Operand::Word { word, .. } = operand
            && (SPECIAL.contains(word) || SPECIAL_MASKS.contains(word))
        {
            return Some(self.names.special(word));
        }
        let value = self.constant(operand)?;
        Some(self.names.constant32(value as u32))
    }

    fn source64(&mut self, operand: Option<&Operand<'_>>) -> Option<D> {
        let operand = operand?;
        if let Some(register) = self.target(Some(operand)) {
            return if let Register::D(slot) = register { Some(slot) } else { None };
        }
        if let &Operand::Word { word, offset, .. } = operand
            && let Some(Symbol::Global(variable)) = self.names.symbol(word)
        {
            return Some(self.names.global_address(variable, offset));
        }
        let value = self.constant(operand)?;
        Some(self.names.constant64(value))
    }

    fn r(&mut self, index: usize) -> Result<R, Error> {
        let statement = self.statement;
        match self.source32(statement.operands.get(index)) {
            Some(slot) => Ok(slot),
            None => self.missing(index, "a value of at most 32 bits that the emulator knows"),
        }
    }

    /// A source of 16 bits: a constant is cut to them, as registers are.
    fn h(&mut self, index: usize) -> Result<R, Error> {
        if let Some(value) = self.statement.operands.get(index).and_then(|operand| self.constant(operand)) {
            return Ok(self.names.constant32(value as u32 & 0xffff));
        }
        self.r(index)
    }

    fn d(&mut self, index: usize) -> Result<D, Error> {
        let statement = self.statement;
        match self.source64(statement.operands.get(index)) {
            Some(slot) => Ok(slot),
            None => self.missing(index, "a value of 64 bits that the emulator knows"),
        }
    }

    fn p(&mut self, index: usize) -> Result<Pred, Error> {
        let statement = self.statement;
        match statement.operands.get(index) {
            Some(Operand::Not(name)) => self.names.pred(name, true, statement),
            Some(Operand::Word { word, negative: false, .. }) => match literal(word, false) {
                Some(value) => {
                    let slot = self.names.new_p();
                    self.names.bank.constants_pred.push((slot, value != 0));
                    Ok(Pred { slot, negate: false })
                }
                None => self.names.pred(word, false, statement),
            },
            _ => self.missing(index, "a predicate"),
        }
    }

    /// A source of either bank, by the type's size.
    fn source(&mut self, index: usize, ty: Type) -> Result<Slot, Error> {
        match ty {
            Type::U64 | Type::S64 | Type::F64 => Ok(Slot::D(self.d(index)?)),
            Type::U16 | Type::S16 => Ok(Slot::R(self.h(index)?)),
            _ => Ok(Slot::R(self.r(index)?)),
        }
    }

    fn any_target(&self, index: usize) -> Result<Slot, Error> {
        match self.target(self.statement.operands.get(index)).and_then(Register::slot) {
            Some(slot) => Ok(slot),
            None => self.missing(index, "a register"),
        }
    }

    fn op(&mut self, parts: &[&str]) -> Decoded {
        // Families that read their own parts come first; then everything that is one line each.
        match parts[0] {
            "st" if parts.get(1) == Some(&"async") => self.store_async(parts),
            "barrier" if parts.get(1) == Some(&"cluster") => self.cluster_barrier(parts),
            "mapa" | "getctarank" => self.cluster_address(parts),
            "mbarrier" => self.mbarrier(parts),
            "ld" | "st" if matches!(parts.get(1), Some(&("relaxed" | "acquire" | "release"))) => self.strong(parts),
            "ld" | "ldu" | "st" => self.memory(parts),
            "atom" | "red" => self.atomic(parts),
            "cvt" => self.convert(parts),
            "setp" => self.compare(parts),
            "cvta" => self.window(parts),
            "mov" => self.mov(parts),
            "bar" | "barrier" if parts.contains(&"red") => self.barrier_reduce(parts),
            "bar" | "barrier" => self.barrier(parts),
            "shfl" => self.shuffle(parts),
            "vote" => self.vote(parts),
            "bra" | "ret" | "exit" | "membar" | "fence" | "activemask" | "nanosleep" | "trap" | "brkpt"
            | "griddepcontrol" => self.control(parts),
            "mma" | "ldmatrix" | "movmatrix" => self.tensor(parts),
            "cp" if parts.get(1) == Some(&"async") => self.copy(parts),
            "set" => self.set(parts),
            "redux" | "match" => self.across(parts),
            "selp" | "and" | "or" | "xor" | "not" | "shl" | "shr" => self.bits(parts),
            _ => match parts.last() {
                Some(&"f32") => self.float32(parts),
                Some(&"f64") => self.float64(parts),
                Some(&("f16" | "f16x2" | "bf16" | "bf16x2")) => self.narrow_arithmetic(parts),
                _ => self.whole(parts),
            },
        }
    }

    fn un32(&mut self, op: Un32, ftz: bool) -> Decoded {
        Ok(Some(Op::Un32 { op, ftz, d: self.dr(0)?, a: self.r(1)? }))
    }

    fn un64(&mut self, op: Un64) -> Decoded {
        Ok(Some(Op::Un64 { op, d: self.dd(0)?, a: self.d(1)? }))
    }

    fn bin32(&mut self, op: Bin32, ftz: bool) -> Decoded {
        Ok(Some(Op::Bin32 { op, ftz, d: self.dr(0)?, a: self.r(1)?, b: self.r(2)? }))
    }

    fn bin16(&mut self, op: Bin32) -> Decoded {
        Ok(Some(Op::Bin32 { op, ftz: false, d: self.dr(0)?, a: self.h(1)?, b: self.h(2)? }))
    }

    fn bin64(&mut self, op: Bin64) -> Decoded {
        Ok(Some(Op::Bin64 { op, d: self.dd(0)?, a: self.d(1)?, b: self.d(2)? }))
    }

    fn tern32(&mut self, op: Tern32) -> Decoded {
        Ok(Some(Op::Tern32 { op, d: self.dr(0)?, a: self.r(1)?, b: self.r(2)?, c: self.r(3)? }))
    }

    fn tern16(&mut self, op: Tern32) -> Decoded {
        Ok(Some(Op::Tern32 { op, d: self.dr(0)?, a: self.h(1)?, b: self.h(2)?, c: self.h(3)? }))
    }

    fn float32(&mut self, parts: &[&str]) -> Decoded {
        let ftz = parts.contains(&"ftz");
        let plain: Vec<&str> = parts.iter().copied().filter(|part| *part != "ftz").collect();
        use Rounding::{Down, Up, Zero};
        match plain[..] {
            ["add", "f32"] | ["add", "rn", "f32"] => self.bin32(Bin32::AddFloat, ftz),
            ["sub", "f32"] | ["sub", "rn", "f32"] => self.bin32(Bin32::SubFloat, ftz),
            ["mul", "f32"] | ["mul", "rn", "f32"] => self.bin32(Bin32::MulFloat, ftz),
            ["fma", "rn", "f32"] | ["mad", "rn", "f32"] => self.fma(ftz, false),
            ["fma", "rn", "sat", "f32"] => self.fma(ftz, true),
            ["fma", mode @ ("rm" | "rp" | "rz"), "f32"] if !ftz => {
                let round = rounding(mode).unwrap_or(Zero);
                Ok(Some(Op::Directed { round, d: self.dr(0)?, a: self.r(1)?, b: self.r(2)?, c: self.r(3)? }))
            }
            ["add", mode @ ("rm" | "rp" | "rz"), "f32"] if !ftz => {
                let round = rounding(mode).unwrap_or(Zero);
                let one = self.names.constant32(1f32.to_bits());
                Ok(Some(Op::Directed { round, d: self.dr(0)?, a: self.r(1)?, b: one, c: self.r(2)? }))
            }
            ["mul", mode @ ("rm" | "rp" | "rz"), "f32"] if !ftz => {
                let round = match mode {
                    "rm" => Down,
                    "rp" => Up,
                    _ => Zero,
                };
                // A zero of this sign leaves the sign of a zero product as it is.
                let zero = self.names.constant32(if round == Down { 0 } else { 1 << 31 });
                Ok(Some(Op::Directed { round, d: self.dr(0)?, a: self.r(1)?, b: self.r(2)?, c: zero }))
            }
            ["div", "rn" | "approx" | "full", "f32"] => self.bin32(Bin32::DivFloat, ftz),
            ["min", "f32"] => self.bin32(Bin32::MinFloat, ftz),
            ["min", "NaN", "f32"] => self.bin32(Bin32::MinFloatOrNan, ftz),
            ["max", "f32"] => self.bin32(Bin32::MaxFloat, ftz),
            ["copysign", "f32"] => self.bin32(Bin32::CopySign, false),
            ["neg", "f32"] => self.un32(Un32::NegFloat, ftz),
            ["abs", "f32"] => self.un32(Un32::AbsFloat, ftz),
            ["sqrt", "rn" | "approx", "f32"] => self.un32(Un32::Sqrt, ftz),
            ["rcp", "rn" | "approx", "f32"] => self.un32(Un32::Reciprocal, ftz),
            ["rsqrt", "approx", "f32"] => self.un32(Un32::RsqrtApprox, ftz),
            ["ex2", "approx", "f32"] => self.un32(Un32::Exp2Approx, ftz),
            ["lg2", "approx", "f32"] => self.un32(Un32::Log2Approx, ftz),
            ["tanh", "approx", "f32"] if !ftz => self.un32(Un32::TanhApprox, false),
            ["sin", "approx", "f32"] => self.un32(Un32::SinApprox, ftz),
            ["cos", "approx", "f32"] => self.un32(Un32::CosApprox, ftz),
            _ => Ok(None),
        }
    }

    fn fma(&mut self, ftz: bool, saturate: bool) -> Decoded {
        Ok(Some(Op::Fma32 { ftz, saturate, d: self.dr(0)?, a: self.r(1)?, b: self.r(2)?, c: self.r(3)? }))
    }

    fn float64(&mut self, parts: &[&str]) -> Decoded {
        match parts[..] {
            ["add", "f64"] | ["add", "rn", "f64"] => self.bin64(Bin64::AddFloat),
            ["sub", "f64"] | ["sub", "rn", "f64"] => self.bin64(Bin64::SubFloat),
            ["mul", "f64"] | ["mul", "rn", "f64"] => self.bin64(Bin64::MulFloat),
            ["div", "rn", "f64"] => self.bin64(Bin64::DivFloat),
            ["min", "f64"] => self.bin64(Bin64::MinFloat),
            ["max", "f64"] => self.bin64(Bin64::MaxFloat),
            ["fma", "rn", "f64"] => Ok(Some(Op::Fma64 { d: self.dd(0)?, a: self.d(1)?, b: self.d(2)?, c: self.d(3)? })),
            ["neg", "f64"] => self.un64(Un64::NegFloat),
            ["abs", "f64"] => self.un64(Un64::AbsFloat),
            ["sqrt", "rn", "f64"] => self.un64(Un64::Sqrt),
            ["rcp", "rn", "f64"] => self.un64(Un64::Reciprocal),
            _ => Ok(None),
        }
    }

    /// Arithmetic of whole numbers.
    fn whole(&mut self, parts: &[&str]) -> Decoded {
        use {Bin32 as B, Bin64 as L};
        match parts[..] {
            ["add", "s32" | "u32"] => self.bin32(B::AddInt, false),
            ["sub", "s32" | "u32"] => self.bin32(B::SubInt, false),
            ["mul", "lo", "s32" | "u32"] => self.bin32(B::MulLow, false),
            ["mul", "hi", "s32"] => self.bin32(B::MulHighSigned, false),
            ["mul", "hi", "u32"] => self.bin32(B::MulHighUnsigned, false),
            ["div", "s32"] => self.bin32(B::DivSigned, false),
            ["div", "u32"] => self.bin32(B::DivUnsigned, false),
            ["rem", "s32"] => self.bin32(B::RemSigned, false),
            ["rem", "u32"] => self.bin32(B::RemUnsigned, false),
            ["min", "s32"] => self.bin32(B::MinSigned, false),
            ["max", "s32"] => self.bin32(B::MaxSigned, false),
            ["min", "u32"] => self.bin32(B::MinUnsigned, false),
            ["max", "u32"] => self.bin32(B::MaxUnsigned, false),
            ["min", "s16"] => self.bin16(B::MinSigned16),
            ["max", "s16"] => self.bin16(B::MaxSigned16),
            ["div", "s16"] => self.bin16(B::DivSigned16),
            ["rem", "s16"] => self.bin16(B::RemSigned16),
            ["div", "u16"] => self.bin16(B::DivUnsigned),
            ["rem", "u16"] => self.bin16(B::RemUnsigned),
            ["min", "u16"] => self.bin16(B::MinUnsigned),
            ["max", "u16"] => self.bin16(B::MaxUnsigned),
            ["add", "s16" | "u16"] => self.bin16(B::Add16),
            ["sub", "s16" | "u16"] => self.bin16(B::Sub16),
            ["mul", "lo", "s16" | "u16"] => self.bin16(B::MulLow16),
            ["add", "s64" | "u64"] => self.bin64(L::AddInt),
            ["sub", "s64" | "u64"] => self.bin64(L::SubInt),
            ["mul", "lo", "s64" | "u64"] => self.bin64(L::MulLow),
            ["mul", "hi", "s64"] => self.bin64(L::MulHighSigned),
            ["mul", "hi", "u64"] => self.bin64(L::MulHighUnsigned),
            ["div", "s64"] => self.bin64(L::DivSigned),
            ["div", "u64"] => self.bin64(L::DivUnsigned),
            ["rem", "s64"] => self.bin64(L::RemSigned),
            ["rem", "u64"] => self.bin64(L::RemUnsigned),
            ["min", "s64"] => self.bin64(L::MinSigned),
            ["max", "s64"] => self.bin64(L::MaxSigned),
            ["min", "u64"] => self.bin64(L::MinUnsigned),
            ["max", "u64"] => self.bin64(L::MaxUnsigned),
            ["neg", "s32"] => self.un32(Un32::NegInt, false),
            ["abs", "s32"] => self.un32(Un32::AbsInt, false),
            ["neg", "s16"] => self.un32(Un32::Neg16, false),
            ["abs", "s16"] => self.un32(Un32::Abs16, false),
            ["neg", "s64"] => self.un64(Un64::NegInt),
            ["abs", "s64"] => self.un64(Un64::AbsInt),
            ["popc", "b32"] => self.un32(Un32::PopCount, false),
            ["clz", "b32"] => self.un32(Un32::LeadingZeros, false),
            ["brev", "b32"] => self.un32(Un32::ReverseBits, false),
            ["brev", "b64"] => self.un64(Un64::ReverseBits),
            ["popc", "b64"] => self.count64(false),
            ["clz", "b64"] => self.count64(true),
            ["dp4a", a @ ("s32" | "u32"), b @ ("s32" | "u32")] => {
                self.tern32(Tern32::DotBytes { a_signed: a == "s32", b_signed: b == "s32" })
            }
            ["bfe", "s32"] => self.tern32(Tern32::ExtractSigned),
            ["bfe", "u32"] => self.tern32(Tern32::ExtractUnsigned),
            ["prmt", "b32"] => self.tern32(Tern32::Permute),
            ["shf", "l", "wrap", "b32"] => self.tern32(Tern32::FunnelLeftWrap),
            ["shf", "r", "wrap", "b32"] => self.tern32(Tern32::FunnelRightWrap),
            ["shf", "l", "clamp", "b32"] => self.tern32(Tern32::FunnelLeftClamp),
            ["shf", "r", "clamp", "b32"] => self.tern32(Tern32::FunnelRightClamp),
            ["bfind", ty] => self.find_bit(false, ty),
            ["bfind", "shiftamt", ty] => self.find_bit(true, ty),
            ["bfi", "b64"] => self.insert64(),
            ["bfe", ty @ ("s64" | "u64")] => self.extract64(ty == "s64"),
            ["bfi", "b32"] => {
                let (d, a, b) = (self.dr(0)?, self.r(1)?, self.r(2)?);
                Ok(Some(Op::InsertBits { d, a, b, position: self.r(3)?, length: self.r(4)? }))
            }
            ["lop3", "b32"] => {
                let Some(table) = self.statement.operands.get(4).and_then(|operand| self.constant(operand)) else {
                    return self.missing(4, "a number");
                };
                self.tern32(Tern32::Logic3(table as u8))
            }
            ["mad", "lo", "s32" | "u32"] => self.tern32(Tern32::MadLow),
            ["mad", "lo", "s16" | "u16"] => self.tern16(Tern32::MadLow16),
            ["mad", "hi", "s32"] => self.tern32(Tern32::MadHighSigned),
            ["mad", "hi", "u32"] => self.tern32(Tern32::MadHighUnsigned),
            ["mad", "lo", "s64" | "u64"] => {
                Ok(Some(Op::MadLow64 { d: self.dd(0)?, a: self.d(1)?, b: self.d(2)?, c: self.d(3)? }))
            }
            ["mul", "wide", ty @ ("s32" | "u32")] => {
                Ok(Some(Op::MulWide { signed: ty == "s32", d: self.dd(0)?, a: self.r(1)?, b: self.r(2)? }))
            }
            ["mul", "wide", ty @ ("s16" | "u16")] => {
                Ok(Some(Op::MulWide16 { signed: ty == "s16", d: self.dr(0)?, a: self.h(1)?, b: self.h(2)? }))
            }
            ["mad", "wide", ty @ ("s32" | "u32")] => {
                let (d, a, b) = (self.dd(0)?, self.r(1)?, self.r(2)?);
                Ok(Some(Op::MadWide { signed: ty == "s32", d, a, b, c: self.d(3)? }))
            }
            _ => Ok(None),
        }
    }

    /// Logic, shifts and selection.
    fn bits(&mut self, parts: &[&str]) -> Decoded {
        use {Bin32 as B, Bin64 as L};
        match parts[..] {
            ["and", "pred"] => self.pred_logic(Logic::And),
            ["or", "pred"] => self.pred_logic(Logic::Or),
            ["xor", "pred"] => self.pred_logic(Logic::Xor),
            ["not", "pred"] => {
                let a = self.p(1)?;
                Ok(Some(Op::MovPred { d: self.dp(0)?, a: Pred { negate: !a.negate, ..a } }))
            }
            ["and", "b32"] => self.bin32(B::And, false),
            ["or", "b32"] => self.bin32(B::Or, false),
            ["xor", "b32"] => self.bin32(B::Xor, false),
            ["and", "b16"] => self.bin16(B::And),
            ["or", "b16"] => self.bin16(B::Or),
            ["xor", "b16"] => self.bin16(B::Xor),
            ["and", "b64"] => self.bin64(L::And),
            ["or", "b64"] => self.bin64(L::Or),
            ["xor", "b64"] => self.bin64(L::Xor),
            ["not", "b32"] => self.un32(Un32::Not, false),
            ["not", "b16"] => self.un32(Un32::Not16, false),
            ["not", "b64"] => self.un64(Un64::Not),
            ["shl", "b32"] => self.bin32(B::Shl, false),
            ["shr", "s32"] => self.bin32(B::ShrSigned, false),
            ["shr", "u32" | "b32"] => self.bin32(B::ShrUnsigned, false),
            ["shl", "b16"] => self.bin32(B::Shl16, false),
            ["shr", "s16"] => self.bin32(B::ShrSigned16, false),
            ["shr", "u16" | "b16"] => self.bin32(B::ShrUnsigned16, false),
            ["shl", "b64"] => self.shift64(Shift::Left),
            ["shr", "s64"] => self.shift64(Shift::RightSigned),
            ["shr", "u64" | "b64"] => self.shift64(Shift::RightUnsigned),
            ["selp", "b32" | "u32" | "s32" | "f32"] => {
                Ok(Some(Op::Select32 { d: self.dr(0)?, a: self.r(1)?, b: self.r(2)?, p: self.p(3)? }))
            }
            ["selp", "b16" | "u16" | "s16"] => {
                Ok(Some(Op::Select32 { d: self.dr(0)?, a: self.h(1)?, b: self.h(2)?, p: self.p(3)? }))
            }
            ["selp", "b64" | "u64" | "s64" | "f64"] => {
                Ok(Some(Op::Select64 { d: self.dd(0)?, a: self.d(1)?, b: self.d(2)?, p: self.p(3)? }))
            }
            _ => Ok(None),
        }
    }

    fn pred_logic(&mut self, op: Logic) -> Decoded {
        Ok(Some(Op::PredLogic { op, d: self.dp(0)?, a: self.p(1)?, b: self.p(2)? }))
    }

    fn shift64(&mut self, op: Shift) -> Decoded {
        Ok(Some(Op::Shift64 { op, d: self.dd(0)?, a: self.d(1)?, b: self.r(2)? }))
    }

    fn mov(&mut self, parts: &[&str]) -> Decoded {
        let statement = self.statement;
        match (&parts[1..], &statement.operands[..]) {
            (["b64"], [_, Operand::Vector(halves)]) if halves.len() == 2 => {
                let low = self.source32(halves.first());
                let high = self.source32(halves.get(1));
                let (Some(low), Some(high)) = (low, high) else { return self.missing(1, "two registers of 32 bits") };
                Ok(Some(Op::Pack { d: self.dd(0)?, low, high }))
            }
            (["b64"], [Operand::Vector(halves), _]) if halves.len() == 2 => {
                let (low, high) = self.halves(halves)?;
                Ok(Some(Op::Unpack { low, high, a: self.d(1)? }))
            }
            (["b32"], [_, Operand::Vector(halves)]) if halves.len() == 2 => {
                let low = self.source32(halves.first());
                let high = self.source32(halves.get(1));
                let (Some(low), Some(high)) = (low, high) else { return self.missing(1, "two registers of 16 bits") };
                Ok(Some(Op::Pack16 { d: self.dr(0)?, low, high }))
            }
            (["b32"], [Operand::Vector(halves), _]) if halves.len() == 2 => {
                let (low, high) = self.halves(halves)?;
                Ok(Some(Op::Unpack16 { low, high, a: self.r(1)? }))
            }
            (["b64"], [_, Operand::Vector(quarters)]) if quarters.len() == 4 => self.pack64(quarters),
            (["b64"], [Operand::Vector(quarters), _]) if quarters.len() == 4 => self.unpack64(quarters),
            ([ty], [_, Operand::Word { word, .. }])
                if CLOCKS.contains(&(ty.trim_start_matches(['u', 's', 'b']), word)) =>
            {
                rare(Rare::Clock { d: self.any_target(0)? })
            }
            (["pred"], _) => Ok(Some(Op::MovPred { d: self.dp(0)?, a: self.p(1)? })),
            (["b64" | "u64" | "s64" | "f64"], _) => Ok(Some(Op::Mov64 { d: self.dd(0)?, a: self.d(1)? })),
            (["b32" | "u32" | "s32" | "f32"], _) => Ok(Some(Op::Mov32 { d: self.dr(0)?, a: self.r(1)? })),
            (["b16" | "u16" | "s16"], _) => Ok(Some(Op::Mov32 { d: self.dr(0)?, a: self.h(1)? })),
            _ => Ok(None),
        }
    }

    /// The two targets of an unpacking move; the underscore drops a half.
    fn halves(&self, halves: &[Operand<'_>]) -> Result<(Option<R>, Option<R>), Error> {
        let mut found = [None, None];
        for (slot, half) in found.iter_mut().zip(halves) {
            *slot = match (half, self.target(Some(half))) {
                (Operand::Word { word: "_", .. }, _) => None,
                (_, Some(Register::R(r))) => Some(r),
                _ => return self.missing(0, "two registers"),
            };
        }
        Ok((found[0], found[1]))
    }

    fn convert(&mut self, parts: &[&str]) -> Decoded {
        if let Some(narrow) = self.convert_narrow(parts)? {
            return Ok(Some(narrow));
        }
        let [_, modifiers @ .., to, from] = parts else { return Ok(None) };
        let (Some(to), Some(from)) = (numeric(to), numeric(from)) else { return Ok(None) };
        let mut how = Convert { to, from, round: Rounding::Nearest, whole: false, saturate: false, ftz: false };
        for modifier in modifiers {
            match *modifier {
                "sat" => how.saturate = true,
                "ftz" => how.ftz = true,
                "rni" | "rzi" | "rmi" | "rpi" => {
                    how.whole = true;
                    how.round = rounding(&modifier[..2]).unwrap_or(Rounding::Nearest);
                }
                "rn" | "rz" | "rm" | "rp" => how.round = rounding(modifier).unwrap_or(Rounding::Nearest),
                _ => return Ok(None),
            }
        }
        let into_float = matches!(to, Type::F32 | Type::F64);
        if into_float && !how.whole && how.round != Rounding::Nearest && from != Type::F64 {
            // Directed rounding of a whole number into a float: not needed so far.
            return Ok(None);
        }
        if into_float && !how.whole && how.round != Rounding::Nearest {
            return Ok(None);
        }
        // A whole number may stand in a wider register, whose low bits then count.
        let a = match self.any_target(1) {
            Ok(slot) if !matches!(from, Type::F32 | Type::F64 | Type::U64 | Type::S64) => slot,
            _ => self.source(1, from)?,
        };
        Ok(Some(Op::Convert { how, d: self.any_target(0)?, a }))
    }

    fn compare(&mut self, parts: &[&str]) -> Decoded {
        let ftz = parts.contains(&"ftz");
        let plain: Vec<&str> = parts[1..].iter().copied().filter(|part| *part != "ftz").collect();
        let mut at = 1;
        let mut other = None;
        if let Some(Operand::Second(name)) = self.statement.operands.get(1) {
            other = Some(self.names.pred(name, false, self.statement)?.slot);
            at = 2;
        }
        let Some(Comparison { how, ty, ftz, a, b, with }) = self.comparison(&plain, ftz, at)? else { return Ok(None) };
        let d = self.dp(0)?;
        Ok(Some(Op::Compare { how, ty, ftz, d, other, a, b, with }))
    }

    /// What `setp` and `set` share: `eq.and.s32` and the like, with the sources from operand `at` on.
    fn comparison(&mut self, parts: &[&str], ftz: bool, at: usize) -> Result<Option<Comparison>, Error> {
        let (how, logic, ty) = match *parts {
            [how, ty] => (how, None, ty),
            [how, "and", ty] => (how, Some(Logic::And), ty),
            [how, "or", ty] => (how, Some(Logic::Or), ty),
            [how, "xor", ty] => (how, Some(Logic::Xor), ty),
            _ => return Ok(None),
        };
        let Some(ty) = bits_or_numeric(ty) else { return Ok(None) };
        let Some(how) = comparison(how, ty) else { return Ok(None) };
        let (a, b) = (self.source(at, ty)?, self.source(at + 1, ty)?);
        let with = match logic {
            Some(logic) => Some((logic, self.p(at + 2)?)),
            None => None,
        };
        Ok(Some(Comparison { how, ty, ftz, a, b, with }))
    }

    fn window(&mut self, parts: &[&str]) -> Decoded {
        let (to, space, ty) = match parts[1..] {
            ["to", space, ty] => (true, space, ty),
            [space, ty] => (false, space, ty),
            _ => return Ok(None),
        };
        let start = match space {
            "global" | "const" => 0,
            "shared" | "shared::cta" | "shared::cluster" => SHARED_WINDOW,
            "local" => LOCAL_WINDOW,
            _ => return Ok(None),
        };
        if ty != "u64" {
            return Ok(None);
        }
        let add = if to { start.wrapping_neg() } else { start };
        Ok(Some(Op::Window { d: self.any_target(0)?, a: Slot::D(self.d(1)?), add }))
    }

    fn address(&mut self, index: usize) -> Result<Address, Error> {
        let Some(&Operand::Address(name, offset)) = self.statement.operands.get(index) else {
            return self.missing(index, "an address in brackets");
        };
        if let Some(base) = self.names.register(name).and_then(|register| register.slot()) {
            return match i32::try_from(offset) {
                Ok(offset) => Ok(Address { base, offset }),
                Err(_) => self.error("the offset does not fit 32 bits"),
            };
        }
        let at = match self.names.symbol(name) {
            Some(Symbol::Global(variable)) => {
                return Ok(Address { base: Slot::D(self.names.global_address(variable, offset)), offset: 0 });
            }
            Some(Symbol::Offset(at)) => Some(at),
            Some(Symbol::Parameter(_)) => None,
            None => integer(name, false),
        };
        match at {
            Some(at) => {
                let base = Slot::D(self.names.constant64(at.wrapping_add(offset as u64)));
                Ok(Address { base, offset: 0 })
            }
            None => self.error(format!("{name} is neither a register nor a variable")),
        }
    }

    /// The registers of a scalar or of `{a, b, c, d}`; sources may be numbers.
    fn elements(&mut self, index: usize, size: u8, written: bool) -> Result<([Slot; 4], u8), Error> {
        let statement = self.statement;
        let list = match statement.operands.get(index) {
            Some(Operand::Vector(list)) => &list[..],
            Some(single) => std::slice::from_ref(single),
            None => return self.missing(index, "a register"),
        };
        if list.is_empty() || list.len() > 4 {
            return self.missing(index, "one to four registers");
        }
        let mut slots = [Slot::R(0); 4];
        for (slot, operand) in slots.iter_mut().zip(list) {
            let found = match (self.target(Some(operand)).and_then(Register::slot), written, size) {
                (Some(found), ..) => Some(found),
                (None, true, _) => None,
                (None, false, 8) => self.source64(Some(operand)).map(Slot::D),
                (None, false, _) => self.source32(Some(operand)).map(Slot::R),
            };
            *slot = match found {
                Some(found) => found,
                None => return self.missing(index, "registers"),
            };
        }
        Ok((slots, list.len() as u8))
    }

    fn memory(&mut self, parts: &[&str]) -> Decoded {
        let load = parts[0] != "st";
        let [_, qualifiers @ .., ty] = parts else { return Ok(None) };
        let Some(size) = type_size(ty).filter(|size| *size <= 8).map(|size| size as u8) else { return Ok(None) };
        let (mut space, mut wanted, mut param) = (Space::Generic, 1, false);
        for qualifier in qualifiers {
            match *qualifier {
                "global" => space = Space::Global,
                "shared" | "shared::cta" => space = Space::Shared,
                "shared::cluster" => space = Space::Cluster,
                "local" => space = Space::Local,
                "const" if load => space = Space::Global,
                "param" | "param::entry" | "param::func" => param = true,
                "v2" => wanted = 2,
                "v4" => wanted = 4,
                // Caching hints change nothing that a kernel may rely on.
                "nc" | "ca" | "cg" | "cs" | "cv" | "lu" | "wb" | "wt" | "volatile" | "weak" => {}
                "L1::evict_last" | "L1::evict_first" | "L1::no_allocate" | "L1::evict_normal" => {}
                _ => return Ok(None),
            }
        }
        let (values, place) = if load { (0, 1) } else { (1, 0) };
        let (slots, count) = self.elements(values, size, load)?;
        if count != wanted {
            return self.missing(values, &format!("{wanted} registers"));
        }
        let signed = ty.starts_with('s');
        if param {
            let Some(&Operand::Address(name, offset)) = self.statement.operands.get(place) else {
                return self.missing(place, "a parameter in brackets");
            };
            match self.names.symbol(name) {
                Some(Symbol::Parameter(at)) if load => {
                    return Ok(Some(Op::LoadParam { size, signed, slots, count, offset: at + offset as u32 }));
                }
                // What is handed to a function, or comes back from it, is in local memory.
                Some(Symbol::Offset(_)) => space = Space::Local,
                _ => return self.error(format!("{name} is not a parameter")),
            }
        }
        let access = Access { space, size, signed, count, slots, address: self.address(place)? };
        Ok(Some(if load { Op::Load(access) } else { Op::Store(access) }))
    }

    fn shuffle(&mut self, parts: &[&str]) -> Decoded {
        let how = match parts[..] {
            ["shfl", "sync", "idx", "b32"] => Shuffle::Index,
            ["shfl", "sync", "up", "b32"] => Shuffle::Up,
            ["shfl", "sync", "down", "b32"] => Shuffle::Down,
            ["shfl", "sync", "bfly", "b32"] => Shuffle::Butterfly,
            _ => return Ok(None),
        };
        let (mut at, mut valid) = (1, None);
        if let Some(Operand::Second(name)) = self.statement.operands.get(1) {
            valid = Some(self.names.pred(name, false, self.statement)?.slot);
            at = 2;
        }
        let d = self.dr(0)?;
        let (a, b, c, mask) = (self.r(at)?, self.r(at + 1)?, self.r(at + 2)?, self.r(at + 3)?);
        Ok(Some(Op::Shuffle { how, d, valid, a, b, c, mask }))
    }

    fn vote(&mut self, parts: &[&str]) -> Decoded {
        let (how, d) = match parts[..] {
            ["vote", "sync", "any", "pred"] => (Vote::Any, self.dp(0)?),
            ["vote", "sync", "all", "pred"] => (Vote::All, self.dp(0)?),
            ["vote", "sync", "uni", "pred"] => (Vote::Uniform, self.dp(0)?),
            ["vote", "sync", "ballot", "b32"] => (Vote::Ballot(self.dr(0)?), 0),
            _ => return Ok(None),
        };
        Ok(Some(Op::Vote { how, d, a: self.p(1)?, mask: self.r(2)? }))
    }

    fn control(&mut self, parts: &[&str]) -> Decoded {
        match parts[..] {
            ["bra"] | ["bra", "uni"] => {
                let Some(Operand::Word { word, .. }) = self.statement.operands.first() else {
                    return self.missing(0, "a label");
                };
                match self.names.label(word) {
                    Some(target) => Ok(Some(Op::Branch(target))),
                    None => self.error(format!("there is no label {word}")),
                }
            }
            ["ret"] | ["ret", "uni"] => Ok(Some(self.names.end.map_or(Op::Exit, Op::Branch))),
            ["exit"] => Ok(Some(Op::Exit)),
            // When a launch may follow is not looked at: it may at any time.
            ["brkpt"] | ["griddepcontrol", "launch_dependents"] => Ok(Some(Op::Nop)),
            ["griddepcontrol", "wait"] => rare(Rare::WaitForLaunches),
            ["trap"] => rare(Rare::Trap("the kernel stops itself".to_string())),
            ["fence", "mbarrier_init", "release", "cluster"] => Ok(Some(Op::Nop)),
            ["fence", "proxy", "async"] | ["fence", "proxy", "async", "shared::cta" | "shared::cluster" | "global"] => {
                Ok(Some(Op::Nop))
            }
            ["fence", "acq_rel" | "sc", "cluster"] => Ok(Some(Op::Fence)),
            ["membar", "cta"] | ["fence", "acq_rel" | "sc", "cta"] | ["nanosleep", "u32"] => Ok(Some(Op::Nop)),
            ["membar", "gl" | "sys"] | ["fence", "acq_rel" | "sc", "gpu" | "sys"] => Ok(Some(Op::Fence)),
            ["activemask", "b32"] => Ok(Some(Op::ActiveMask { d: self.dr(0)? })),
            _ => Ok(None),
        }
    }
}

fn rounding(mode: &str) -> Option<Rounding> {
    Some(match mode {
        "rn" => Rounding::Nearest,
        "rz" => Rounding::Zero,
        "rm" => Rounding::Down,
        "rp" => Rounding::Up,
        _ => return None,
    })
}

fn numeric(ty: &str) -> Option<Type> {
    Some(match ty {
        "u8" => Type::U8,
        "u16" => Type::U16,
        "u32" => Type::U32,
        "u64" => Type::U64,
        "s8" => Type::S8,
        "s16" => Type::S16,
        "s32" => Type::S32,
        "s64" => Type::S64,
        "f32" => Type::F32,
        "f64" => Type::F64,
        _ => return None,
    })
}

fn bits_or_numeric(ty: &str) -> Option<Type> {
    match ty {
        "b16" => Some(Type::U16),
        "b32" => Some(Type::U32),
        "b64" => Some(Type::U64),
        "u8" | "s8" => None,
        _ => numeric(ty),
    }
}

fn comparison(how: &str, ty: Type) -> Option<Compare> {
    let float = matches!(ty, Type::F32 | Type::F64);
    Some(match how {
        "eq" => Compare::Eq,
        "ne" => Compare::Ne,
        "lt" | "lo" if how == "lt" || !float => Compare::Lt,
        "le" | "ls" if how == "le" || !float => Compare::Le,
        "gt" | "hi" if how == "gt" || !float => Compare::Gt,
        "ge" | "hs" if how == "ge" || !float => Compare::Ge,
        "equ" if float => Compare::EqOr,
        "neu" if float => Compare::NeOr,
        "ltu" if float => Compare::LtOr,
        "leu" if float => Compare::LeOr,
        "gtu" if float => Compare::GtOr,
        "geu" if float => Compare::GeOr,
        "num" if float => Compare::BothNumbers,
        "nan" if float => Compare::AnyNan,
        _ => return None,
    })
}
