//! Tokens to a module: declarations, kernels, statements. What an opcode means is known by `decode` alone.

use std::collections::HashMap;

use crate::decode::{self, Operand, Statement};
use crate::lexer::{Token, tokens};
use crate::link::Linker;
use crate::names::{Names, Registers, Symbol};
use crate::op::{Instruction, Place};
use crate::report::Error;
use crate::variable::{Declaration, Globals};

/// A parsed PTX text: its kernels.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) files: HashMap<u32, String>,
    pub(crate) globals: Globals,
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
    /// The blocks of a cluster, where the kernel prescribes them.
    pub cluster: Option<[u32; 3]>,
}

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub offset: u32,
    pub size: u32,
}

impl Module {
    /// Parses a PTX text and decodes the instructions of all its kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Parse`] for a text that is not PTX, [`Error::UnknownOpcode`] for an instruction that is not known.
    pub fn parse(ptx: &str) -> Result<Module, Error> {
        Parser { tokens: tokens(ptx), at: 0, files: HashMap::new() }.module()
    }

    /// The names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|kernel| kernel.name.as_str())
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// A variable's declaration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub align: u32,
    /// `None` for an array whose size the launch gives.
    pub size: Option<u32>,
    /// Bytes of an element.
    pub element: u32,
}

/// A function that kernels call.
#[derive(Clone, Debug)]
pub(crate) struct Function<'a> {
    /// Names of what it gives back, and of what it takes.
    pub results: Vec<&'a str>,
    pub params: Vec<&'a str>,
    /// Absent where it is declared only.
    pub body: Option<Body<'a>>,
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    files: HashMap<u32, String>,
}

/// What is gathered while the body of a kernel or function is read. Variables come with their scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body<'a> {
    pub names: Names<'a>,
    pub shared: Vec<(usize, Variable<'a>)>,
    /// Local variables, and the parameters of calls, which are kept in local memory.
    pub local: Vec<(usize, Variable<'a>)>,
    pub statements: Vec<Statement<'a>>,
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
        let (mut kernels, mut functions) = (Vec::new(), HashMap::new());
        let (mut shared, mut globals) = (Vec::new(), Vec::new());
        while self.peek().is_some() {
            match self.word()? {
                ".version" | ".target" | ".address_size" => drop(self.rest_of_line()),
                ".file" => self.file(),
                ".visible" | ".weak" | ".extern" | ".common" => {}
                ".entry" => kernels.push(self.kernel()?),
                ".func" => self.function(&mut functions)?,
                ".shared" => {
                    let variable = self.variable()?;
                    self.expect(';')?;
                    shared.push(variable);
                }
                ".global" | ".const" => globals.push(self.global()?),
                ".section" => {
                    self.skip_past('{')?;
                    self.skip_past('}')?;
                }
                ".pragma" => self.skip_past(';')?,
                other => return self.error(format!("{other} is not supported outside a kernel")),
            }
        }
        let numbers =
            globals.iter().enumerate().map(|(number, global): (_, &Declaration<'_>)| (global.variable.name, number));
        let numbers = numbers.collect();
        let first_values = Globals::new(&globals, &numbers)?;
        let linker = Linker { functions: &functions, shared: &shared, globals: &numbers };
        let kernels = kernels.into_iter().map(|(kernel, body)| linker.link(kernel, body)).collect::<Result<_, _>>()?;
        Ok(Module { kernels, files: self.files, globals: first_values })
    }

    fn file(&mut self) {
        if let [Token::Word(number), Token::Text(name), ..] = self.rest_of_line()[..] {
            self.files.insert(number.parse().unwrap_or(0), name.to_string());
        }
    }

    /// After `.shared` and the like: alignment, type, name, dimensions.
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
        if !align.is_power_of_two() {
            return self.error(format!("an alignment of {align} is not a power of two"));
        }
        Ok(Variable { name, align: align.max(bytes), size, element: bytes })
    }

    /// After `.func`: results, name, parameters, directives, and the body or a semicolon.
    fn function(&mut self, functions: &mut HashMap<&'a str, Function<'a>>) -> Result<(), Error> {
        let results = if self.accept('(') { self.params()? } else { Vec::new() };
        let name = self.word()?;
        let params = if self.accept('(') { self.params()? } else { Vec::new() };
        let mut body = None;
        loop {
            if self.accept(';') {
                break;
            } else if self.accept('{') {
                body = Some(self.body()?);
                break;
            }
            match self.next()? {
                Token::Word(_) | Token::Mark(',') => {}
                other => return self.error(format!("{other:?} is not expected before a function's body")),
            }
        }
        let names = |params: Vec<(&'a str, Param)>| params.into_iter().map(|(name, _)| name).collect();
        let function = Function { results: names(results), params: names(params), body };
        // A declaration may come before or after the definition.
        if function.body.is_some() || !functions.contains_key(name) {
            functions.insert(name, function);
        }
        Ok(())
    }

    fn kernel(&mut self) -> Result<(Kernel, Body<'a>), Error> {
        let mut kernel = Kernel { name: self.word()?.to_string(), ..Kernel::default() };
        let params = if self.accept('(') { self.params()? } else { Vec::new() };
        while !self.accept('{') {
            match self.next()? {
                Token::Word(".maxntid" | ".reqntid") => kernel.max_threads = Some(self.extents()?.iter().product()),
                Token::Word(".reqnctapercluster") => kernel.cluster = Some(self.extents()?),
                Token::Word(_) | Token::Mark(',') => {}
                other => return self.error(format!("{other:?} is not expected before a kernel's body")),
            }
        }
        let mut body = self.body()?;
        for (name, param) in params {
            body.names.scopes[0].symbols.insert(name, Symbol::Parameter(param.offset));
            kernel.params.push(param);
        }
        Ok((kernel, body))
    }

    /// One to three numbers, the missing ones 1.
    fn extents(&mut self) -> Result<[u32; 3], Error> {
        let mut extents = [self.number()?, 1, 1];
        for extent in &mut extents[1..] {
            if self.accept(',') {
                *extent = self.number()?;
            }
        }
        if extents.iter().try_fold(1u32, |product, extent| product.checked_mul(*extent)).is_none() {
            return self.error(format!("{extents:?} is too large"));
        }
        Ok(extents)
    }

    fn params(&mut self) -> Result<Vec<(&'a str, Param)>, Error> {
        let mut params: Vec<(&'a str, Param)> = Vec::new();
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
            let end = params.last().map_or(0, |(_, p)| p.offset + p.size);
            params.push((word, Param { name: word.to_string(), offset: end.next_multiple_of(align), size }));
            self.accept(',');
        }
        Ok(params)
    }

    /// The statements up to the brace that closes the body. Each brace within opens a scope of names.
    fn body(&mut self) -> Result<Body<'a>, Error> {
        let mut body = Body::default();
        let (mut depth, mut place) = (1, (0, 0));
        while depth > 0 {
            if self.accept('{') {
                depth += 1;
                body.names.open_scope();
            } else if self.accept('}') {
                depth -= 1;
                body.names.close_scope();
            } else if self.accept('@') {
                let negate = self.accept('!');
                let guard = Some((self.word()?, negate));
                let opcode = self.word()?;
                self.statement(&mut body, guard, opcode, place)?;
            } else {
                let (word, scope) = (self.word()?, body.names.scope);
                match word {
                    ".reg" => self.registers(&mut body.names)?,
                    ".shared" => body.shared.push((scope, self.declared()?)),
                    ".local" | ".param" => body.local.push((scope, self.declared()?)),
                    ".loc" => self.location(&mut place)?,
                    ".file" => self.file(),
                    ".pragma" => self.skip_past(';')?,
                    _ if self.accept(':') => {
                        let at = body.statements.len();
                        body.names.here().labels.insert(word, at);
                    }
                    _ if word.starts_with('.') => return self.error(format!("{word} is not supported in a kernel")),
                    _ => self.statement(&mut body, None, word, place)?,
                }
            }
        }
        Ok(body)
    }

    fn declared(&mut self) -> Result<Variable<'a>, Error> {
        let variable = self.variable()?;
        self.expect(';')?;
        Ok(variable)
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
                    names.here().registers.insert(format!("{name}{i}"), register);
                }
            } else {
                let register = names.new_register(ty);
                names.here().registers.insert(name.to_string(), register);
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
        let scope = body.names.scope;
        body.statements.push(Statement { guard, opcode, operands, line, place, scope });
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand<'a>, Error> {
        for (open, close) in [('{', '}'), ('(', ')')] {
            if self.accept(open) {
                let mut parts = Vec::new();
                while !self.accept(close) {
                    parts.push(self.operand()?);
                    self.accept(',');
                }
                return Ok(Operand::Vector(parts));
            }
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

    /// After `.global` or `.const`: a declaration, and what the variable holds at first.
    fn global(&mut self) -> Result<Declaration<'a>, Error> {
        let line = self.line();
        let variable = self.variable()?;
        let mut values = Vec::new();
        if self.accept('=') {
            self.initialiser(&mut values)?;
        }
        self.expect(';')?;
        Ok(Declaration { variable, values, line })
    }

    /// A value, or values in braces, which may nest.
    fn initialiser(&mut self, values: &mut Vec<Operand<'a>>) -> Result<(), Error> {
        if !self.accept('{') {
            let value = self.operand()?;
            // `generic(name)`: the address of a variable.
            let generic = matches!(value, Operand::Word { word: "generic", .. }) && self.accept('(');
            values.push(if generic { self.operand()? } else { value });
            if generic {
                self.expect(')')?;
            }
            return Ok(());
        }
        while !self.accept('}') {
            self.initialiser(values)?;
            self.accept(',');
        }
        Ok(())
    }
}
