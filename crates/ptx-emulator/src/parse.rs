//! Tokens to a module: declarations, kernels, statements. What an opcode means is known by `decode` alone.

use std::collections::HashMap;

use crate::decode::{self, Operand, Statement};
use crate::lexer::{Token, tokens};
use crate::op::{D, Instruction, Op, P, Place, R, Slot};
use crate::report::Error;

/// A parsed PTX text: its kernels.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) files: HashMap<u32, String>,
}

/// A kernel, ready to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub code: Vec<Instruction>,
    /// For each instruction of `code` where it stands.
    pub places: Vec<Place>,
    /// The full opcodes that reports name.
    pub opcodes: Vec<String>,
    pub registers: Registers,
    /// Bytes of shared memory that are declared with their size.
    pub shared: u32,
    /// Bytes of local memory per thread.
    pub local: u32,
    /// The most threads that a block may have.
    pub max_threads: Option<u32>,
}

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub offset: u32,
    pub size: u32,
}

/// How many slots each bank has, and what is in them at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    pub r: u32,
    pub d: u32,
    pub p: u32,
    pub constants32: Vec<(R, u32)>,
    pub constants64: Vec<(D, u64)>,
    pub constants_pred: Vec<(P, bool)>,
    /// Slots of special registers, by name.
    pub special: Vec<(R, String)>,
}

/// A register of any bank.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Register {
    R(R),
    D(D),
    P(P),
}

/// The names that a kernel's operands may use.
#[derive(Default)]
pub(crate) struct Names<'a> {
    pub registers: HashMap<String, Register>,
    /// Shared and local variables: their offset.
    pub variables: HashMap<&'a str, u64>,
    pub bank: Registers,
}

impl Module {
    /// Parses a PTX text and decodes the instructions of all its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Parse`] for a text that is not PTX, [`Error::UnknownOpcode`] for an instruction that is not known.
    pub fn parse(ptx: &str) -> Result<Module, Error> {
        Parser { tokens: tokens(ptx), at: 0, files: HashMap::new(), shared: Vec::new() }.module()
    }

    /// The names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|kernel| kernel.name.as_str())
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// A variable's declaration, of shared or local memory.
#[derive(Clone, Copy)]
struct Variable<'a> {
    name: &'a str,
    align: u32,
    /// `None` for an array whose size the launch gives.
    size: Option<u32>,
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    files: HashMap<u32, String>,
    /// Shared variables of the module, outside every kernel.
    shared: Vec<Variable<'a>>,
}

/// What is gathered while a kernel's body is read.
#[derive(Default)]
struct Body<'a> {
    names: Names<'a>,
    shared: Vec<Variable<'a>>,
    local: Vec<Variable<'a>>,
    labels: HashMap<&'a str, u32>,
    statements: Vec<Statement<'a>>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.0)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(0, |t| t.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::Parse { line: self.line(), message: message.into() })
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        let Some(token) = self.peek() else { return self.error("the text ends in the middle of something") };
        self.at += 1;
        Ok(token)
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            other => self.error(format!("a name is expected, not {other:?}")),
        }
    }

    fn number(&mut self) -> Result<u32, Error> {
        let word = self.word()?;
        word.parse().or_else(|_| self.error(format!("a number is expected, not {word}")))
    }

    fn accept(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), Error> {
        if self.accept(mark) { Ok(()) } else { self.error(format!("'{mark}' is expected, not {:?}", self.peek())) }
    }

    fn skip_past(&mut self, mark: char) -> Result<(), Error> {
        while self.next()? != Token::Mark(mark) {}
        Ok(())
    }

    /// Directives that end with their line: `.loc`, `.file`, `.version`.
    fn rest_of_line(&mut self) -> Vec<Token<'a>> {
        let line = self.tokens[self.at - 1].1;
        let rest = self.tokens[self.at..].iter().take_while(|t| t.1 == line).map(|t| t.0).collect::<Vec<_>>();
        self.at += rest.len();
        rest
    }

    fn module(mut self) -> Result<Module, Error> {
        let mut kernels = Vec::new();
        while self.peek().is_some() {
            match self.word()? {
                ".version" | ".target" | ".address_size" => drop(self.rest_of_line()),
                ".file" => self.file(),
                ".visible" | ".weak" | ".extern" | ".common" => {}
                ".entry" => kernels.push(self.kernel()?),
                ".shared" => {
                    let variable = self.variable()?;
                    self.shared.push(variable);
                }
                ".section" => {
                    self.skip_past('{')?;
                    self.skip_past('}')?;
                }
                // A kernel that uses such a variable is refused where it names it.
                ".pragma" | ".global" => self.skip_past(';')?,
                other => return self.error(format!("{other} is not supported outside a kernel")),
            }
        }
        Ok(Module { kernels, files: self.files })
    }

    fn file(&mut self) {
        if let [Token::Word(number), Token::Text(name), ..] = self.rest_of_line()[..] {
            self.files.insert(number.parse().unwrap_or(0), name.to_string());
        }
    }

    /// After `.shared` or `.local`: alignment, type, name, dimensions.
    fn variable(&mut self) -> Result<Variable<'a>, Error> {
        let mut align = 1;
        let mut word = self.word()?;
        if word == ".align" {
            align = self.number()?;
            word = self.word()?;
        }
        let Some(bytes) = decode::type_size(word.trim_start_matches('.')) else {
            return self.error(format!("{word} is not a type"));
        };
        let name = self.word()?;
        let mut size = Some(bytes);
        while self.accept('[') {
            if self.accept(']') {
                size = None;
                continue;
            }
            let extent = self.number()?;
            size = match size.map(|s| s.checked_mul(extent)) {
                Some(None) => return self.error(format!("{name} is too large")),
                product => product.flatten(),
            };
            self.expect(']')?;
        }
        self.expect(';')?;
        if !align.is_power_of_two() {
            return self.error(format!("an alignment of {align} is not a power of two"));
        }
        Ok(Variable { name, align: align.max(bytes), size })
    }

    fn kernel(&mut self) -> Result<Kernel, Error> {
        let mut kernel = Kernel { name: self.word()?.to_string(), ..Kernel::default() };
        if self.accept('(') {
            kernel.params = self.params()?;
        }
        while !self.accept('{') {
            match self.next()? {
                Token::Word(".maxntid" | ".reqntid") => kernel.max_threads = Some(self.thread_limit()?),
                Token::Word(_) | Token::Mark(',') => {}
                other => return self.error(format!("{other:?} is not expected before a kernel's body")),
            }
        }
        let mut body = Body::default();
        self.body(&mut body)?;
        self.finish(kernel, body)
    }

    fn thread_limit(&mut self) -> Result<u32, Error> {
        let mut limit = self.number()?;
        while self.accept(',') {
            limit = limit.saturating_mul(self.number()?);
        }
        Ok(limit)
    }

    fn params(&mut self) -> Result<Vec<Param>, Error> {
        let mut params: Vec<Param> = Vec::new();
        while !self.accept(')') {
            let (mut align, mut size) = (0, 0);
            let mut word = self.word()?;
            while word.starts_with('.') {
                match word {
                    ".param" | ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                    ".align" => align = self.number()?,
                    other => match decode::type_size(&other[1..]) {
                        Some(bytes) => size = bytes,
                        None => return self.error(format!("{other} is not a parameter's type")),
                    },
                }
                word = self.word()?;
            }
            // `.align` after `.ptr` speaks of what is pointed to, and does no harm to a parameter of 8 bytes.
            let align = if size == 8 { 8 } else { align.max(size).max(1) };
            if self.accept('[') {
                size *= self.number()?;
                self.expect(']')?;
            }
            let end = params.last().map_or(0, |p| p.offset + p.size);
            params.push(Param { name: word.to_string(), offset: end.next_multiple_of(align), size });
            self.accept(',');
        }
        Ok(params)
    }

    /// The statements up to the brace that closes the kernel. Inner braces only bound the names of inline assembly.
    fn body(&mut self, body: &mut Body<'a>) -> Result<(), Error> {
        let (mut depth, mut place) = (1, (0, 0));
        while depth > 0 {
            if self.accept('{') {
                depth += 1;
            } else if self.accept('}') {
                depth -= 1;
            } else if self.accept('@') {
                let negate = self.accept('!');
                let guard = Some((self.word()?, negate));
                let opcode = self.word()?;
                self.statement(body, guard, opcode, place)?;
            } else {
                let word = self.word()?;
                match word {
                    ".reg" => self.registers(&mut body.names)?,
                    ".shared" => body.shared.push(self.variable()?),
                    ".local" => body.local.push(self.variable()?),
                    ".loc" => self.location(&mut place)?,
                    ".file" => self.file(),
                    ".pragma" => self.skip_past(';')?,
                    _ if self.accept(':') => drop(body.labels.insert(word, body.statements.len() as u32)),
                    _ if word.starts_with('.') => return self.error(format!("{word} is not supported in a kernel")),
                    _ => self.statement(body, None, word, place)?,
                }
            }
        }
        Ok(())
    }

    /// `.loc file line column`, and of inlined code the innermost place. Line 0 means "as before".
    fn location(&mut self, place: &mut (u32, u32)) -> Result<(), Error> {
        let (file, line) = (self.number()?, self.number()?);
        self.rest_of_line();
        if line > 0 {
            *place = (file, line);
        }
        Ok(())
    }

    fn registers(&mut self, names: &mut Names<'a>) -> Result<(), Error> {
        let ty = self.word()?;
        loop {
            let name = self.word()?;
            if self.accept('<') {
                let count = self.number()?;
                self.expect('>')?;
                for i in 0..count {
                    let register = names.new_register(ty);
                    names.registers.insert(format!("{name}{i}"), register);
                }
            } else {
                let register = names.new_register(ty);
                names.registers.insert(name.to_string(), register);
            }
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')
    }

    fn statement(
        &mut self,
        body: &mut Body<'a>,
        guard: Option<(&'a str, bool)>,
        opcode: &'a str,
        place: (u32, u32),
    ) -> Result<(), Error> {
        let line = self.tokens[self.at - 1].1;
        let mut operands = Vec::new();
        while !self.accept(';') {
            operands.push(self.operand()?);
            if self.accept('|') {
                operands.push(Operand::Second(self.word()?));
            }
            self.accept(',');
        }
        body.statements.push(Statement { guard, opcode, operands, line, place });
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand<'a>, Error> {
        if self.accept('{') {
            let mut parts = Vec::new();
            while !self.accept('}') {
                parts.push(self.operand()?);
                self.accept(',');
            }
            return Ok(Operand::Vector(parts));
        }
        if self.accept('[') {
            let base = self.word()?;
            let mut offset = 0;
            while !self.accept(']') {
                let mut negative = false;
                while let Some(Token::Mark(sign @ ('+' | '-'))) = self.peek() {
                    self.at += 1;
                    negative |= sign == '-';
                }
                let Some(number) = decode::integer(self.word()?, negative) else {
                    return self.error("an offset is expected");
                };
                offset += number as i64;
            }
            return Ok(Operand::Address(base, offset));
        }
        if self.accept('!') {
            return Ok(Operand::Not(self.word()?));
        }
        let negative = self.accept('-');
        let word = self.word()?;
        let mut offset = 0;
        if self.accept('+') {
            offset = i64::from(self.number()?);
        }
        Ok(Operand::Word { word, negative, offset })
    }

    /// Lays out the variables, then decodes the statements, then resolves the labels.
    fn finish(&self, mut kernel: Kernel, mut body: Body<'a>) -> Result<Kernel, Error> {
        let shared: Vec<_> = self.shared.iter().chain(&body.shared).copied().collect();
        kernel.shared = lay_out(&shared, &mut body.names.variables);
        kernel.local = lay_out(&body.local, &mut body.names.variables);
        let params = kernel.params.iter().map(|param| (param.name.clone(), param.offset)).collect();
        let mut opcodes: HashMap<&str, u32> = HashMap::new();
        let mut code = Vec::with_capacity(body.statements.len() + 1);
        for statement in &body.statements {
            let op = decode::decode(statement, &mut body.names, &params, &body.labels)?;
            let guard = statement.guard.map(|(name, negate)| body.names.pred(name, negate, statement)).transpose()?;
            let fresh = opcodes.len() as u32;
            let name = *opcodes.entry(statement.opcode).or_insert_with(|| {
                kernel.opcodes.push(statement.opcode.to_string());
                fresh
            });
            let (file, line) = if statement.place.1 > 0 { statement.place } else { (0, statement.line) };
            code.push(Instruction { op, guard });
            kernel.places.push(Place { line, file, name });
        }
        let bank = &body.names.bank;
        if bank.r.max(bank.d).max(bank.p) > u32::from(R::MAX) {
            return self.error(format!("{} has too many registers", kernel.name));
        }
        // Falling off the end is an exit: no program counter ever points outside the code.
        kernel.opcodes.push("ret".to_string());
        let name = kernel.opcodes.len() as u32 - 1;
        let (file, line) = kernel.places.last().map_or((0, 0), |last| (last.file, last.line));
        code.push(Instruction { op: Op::Exit, guard: None });
        kernel.places.push(Place { line, file, name });
        kernel.code = code;
        kernel.registers = body.names.bank;
        Ok(kernel)
    }
}

/// Gives every variable its offset; arrays without a size start after all others. The sum of the sizes comes back.
fn lay_out<'a>(variables: &[Variable<'a>], offsets: &mut HashMap<&'a str, u64>) -> u32 {
    let mut end = 0u32;
    for variable in variables {
        if let Some(size) = variable.size {
            let at = end.next_multiple_of(variable.align);
            offsets.insert(variable.name, u64::from(at));
            end = at + size;
        }
    }
    let open = || variables.iter().filter(|v| v.size.is_none());
    if let Some(align) = open().map(|v| v.align).max() {
        end = end.next_multiple_of(align);
    }
    for variable in open() {
        offsets.insert(variable.name, u64::from(end));
    }
    end
}

impl<'a> Names<'a> {
    fn new_register(&mut self, ty: &str) -> Register {
        match ty {
            ".pred" => Register::P(self.new_p()),
            ".b64" | ".u64" | ".s64" | ".f64" => Register::D(self.new_d()),
            _ => Register::R(self.new_r()),
        }
    }

    pub fn new_r(&mut self) -> R {
        self.bank.r += 1;
        (self.bank.r - 1) as R
    }

    pub fn new_d(&mut self) -> D {
        self.bank.d += 1;
        (self.bank.d - 1) as D
    }

    pub fn new_p(&mut self) -> P {
        self.bank.p += 1;
        (self.bank.p - 1) as P
    }

    /// The constant in a slot of 32 bits; equal constants share one.
    pub fn constant32(&mut self, value: u32) -> R {
        if let Some(&(slot, _)) = self.bank.constants32.iter().find(|c| c.1 == value) {
            return slot;
        }
        let slot = self.new_r();
        self.bank.constants32.push((slot, value));
        slot
    }

    /// The constant in a slot of 64 bits; equal constants share one.
    pub fn constant64(&mut self, value: u64) -> D {
        if let Some(&(slot, _)) = self.bank.constants64.iter().find(|c| c.1 == value) {
            return slot;
        }
        let slot = self.new_d();
        self.bank.constants64.push((slot, value));
        slot
    }

    /// The slot of a special register.
    pub fn special(&mut self, name: &str) -> R {
        if let Some((slot, _)) = self.bank.special.iter().find(|s| s.1 == name) {
            return *slot;
        }
        let slot = self.new_r();
        self.bank.special.push((slot, name.to_string()));
        slot
    }
}

impl Register {
    pub fn slot(self) -> Option<Slot> {
        match self {
            Register::R(r) => Some(Slot::R(r)),
            Register::D(d) => Some(Slot::D(d)),
            Register::P(_) => None,
        }
    }
}
