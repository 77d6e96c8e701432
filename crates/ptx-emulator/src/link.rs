//! Bodies to kernels: lays out the variables, puts functions in the place of their calls, has the statements decoded.
//!
//! A function is decoded anew at each of its calls, with registers and local memory of its own there. So nothing is needed
//! at run time, and what may not be done with a stack (recursion) is refused.

use std::collections::HashMap;

use crate::decode::{self, Operand, Statement};
use crate::names::{Names, Symbol};
use crate::op::{Instruction, Op, Place, Pred, R, Rare};
use crate::parse::{Body, Function, Kernel, Variable};
use crate::report::Error;

/// What all kernels of a module share.
pub(crate) struct Linker<'m, 'a> {
    pub functions: &'m HashMap<&'a str, Function<'a>>,
    /// Shared variables outside every kernel.
    pub shared: &'m [Variable<'a>],
    /// Variables of the module, by name.
    pub globals: &'m HashMap<&'a str, usize>,
}

/// A call's parts.
struct Call<'s, 'a> {
    function: &'a str,
    results: &'s [Operand<'a>],
    arguments: &'s [Operand<'a>],
}

impl<'a> Linker<'_, 'a> {
    /// The kernel, ready to run. Its parameters' names are in the body's outermost scope already.
    pub fn link(&self, mut kernel: Kernel, body: Body<'a>) -> Result<Kernel, Error> {
        let shared: Vec<_> = self.shared.iter().map(|variable| (0, *variable)).chain(body.shared.clone()).collect();
        let mut names = body.names.clone();
        kernel.shared = lay_out(0, &shared, &mut names);
        self.decode(&mut kernel, &body, &mut names, &mut Vec::new())?;
        // Falling off the end is an exit: no program counter ever points outside the code.
        let (file, line) = kernel.places.last().map_or((0, 0), |last| (last.file, last.line));
        kernel.opcodes.push("ret".to_string());
        let name = kernel.opcodes.len() as u32 - 1;
        kernel.code.push(Instruction { op: Op::Exit, guard: None });
        kernel.places.push(Place { line, file, name });
        let bank = &names.bank;
        if bank.r.max(bank.d).max(bank.p) > u32::from(R::MAX) {
            let message = format!("{} has too many registers", kernel.name);
            return Err(Error::Parse { line: body.statements.last().map_or(0, |last| last.line), message });
        }
        kernel.registers = names.bank;
        Ok(kernel)
    }

    /// Appends a body's instructions to the kernel. `within` are the functions that it is called from.
    fn decode(
        &self,
        kernel: &mut Kernel,
        body: &Body<'a>,
        names: &mut Names<'a>,
        within: &mut Vec<&'a str>,
    ) -> Result<(), Error> {
        kernel.local = lay_out(kernel.local, &body.local, names);
        for (name, number) in self.globals {
            names.scopes[0].symbols.entry(name).or_insert(Symbol::Global(*number));
        }
        let mut position = kernel.code.len() as u32;
        names.positions.clear();
        for statement in &body.statements {
            names.positions.push(position);
            position += self.length(statement, within)?;
        }
        names.positions.push(position);
        if !within.is_empty() {
            names.end = Some(position);
        }
        for statement in &body.statements {
            names.scope = statement.scope;
            let guard = statement.guard.map(|(name, negate)| names.pred(name, negate, statement)).transpose()?;
            match self.call(statement)? {
                Some(call) => self.expand(kernel, statement, &call, guard, names, within)?,
                None => {
                    let op = decode::decode(statement, names)?;
                    push(kernel, statement, op, guard);
                }
            }
        }
        Ok(())
    }

    /// The function of a call, when it has a body.
    fn function(&self, statement: &Statement<'_>, name: &str) -> Result<&Function<'a>, Error> {
        self.functions.get(name).ok_or_else(|| Error::Parse {
            line: statement.line,
            message: format!("{} calls {name}, which is no function of the module", statement.opcode),
        })
    }

    /// How many instructions a statement becomes.
    fn length(&self, statement: &Statement<'a>, within: &mut Vec<&'a str>) -> Result<u32, Error> {
        let Some(call) = self.call(statement)? else { return Ok(1) };
        let error = |message: String| Err(Error::Parse { line: statement.line, message });
        if within.contains(&call.function) {
            return error(format!("{} calls itself, which is not supported", call.function));
        }
        let mut length = 1;
        if let Some(body) = &self.function(statement, call.function)?.body {
            within.push(call.function);
            for statement in &body.statements {
                length += self.length(statement, within)?;
            }
            within.pop();
        }
        Ok(length)
    }

    /// `call (results), function, (arguments);`, of which all but the function may be absent.
    fn call<'s>(&self, statement: &'s Statement<'a>) -> Result<Option<Call<'s, 'a>>, Error> {
        if !matches!(statement.opcode, "call" | "call.uni") {
            return Ok(None);
        }
        let (results, rest) = match &statement.operands[..] {
            [Operand::Vector(results), rest @ ..] => (&results[..], rest),
            rest => (&[][..], rest),
        };
        let (function, arguments) = match rest {
            [Operand::Word { word, .. }] => (*word, &[][..]),
            [Operand::Word { word, .. }, Operand::Vector(arguments)] => (*word, &arguments[..]),
            _ => {
                let message = format!("{}: only calls of a function by its name are supported", statement.opcode);
                return Err(Error::Parse { line: statement.line, message });
            }
        };
        Ok(Some(Call { function, results, arguments }))
    }

    /// Puts a function's instructions in the place of a call. First comes a branch around them for lanes that do not call.
    fn expand(
        &self,
        kernel: &mut Kernel,
        statement: &Statement<'a>,
        call: &Call<'_, 'a>,
        guard: Option<Pred>,
        names: &mut Names<'a>,
        within: &mut Vec<&'a str>,
    ) -> Result<(), Error> {
        let function = self.function(statement, call.function)?;
        let Some(body) = &function.body else {
            push(kernel, statement, Op::Rare(Box::new(Rare::Trap(format!("calls {}", call.function)))), guard);
            return Ok(());
        };
        if !body.shared.is_empty() {
            let message = format!("{} has shared memory of its own, which is not supported", call.function);
            return Err(Error::Parse { line: statement.line, message });
        }
        let mut inner = body.names.clone();
        for variable in self.shared {
            let place = names.scopes[0].symbols.get(variable.name).copied();
            place.map(|place| inner.scopes[0].symbols.insert(variable.name, place));
        }
        let formal = function.results.iter().zip(call.results).chain(function.params.iter().zip(call.arguments));
        for (param, actual) in formal {
            let symbol = match actual {
                Operand::Word { word, .. } => names.symbol(word),
                _ => None,
            };
            let Some(symbol) = symbol else {
                let message = format!("{}: an argument is no .param variable", statement.opcode);
                return Err(Error::Parse { line: statement.line, message });
            };
            inner.scopes[0].symbols.insert(param, symbol);
        }
        if (function.results.len(), function.params.len()) != (call.results.len(), call.arguments.len()) {
            let message = format!("{} has another number of parameters than its call", call.function);
            return Err(Error::Parse { line: statement.line, message });
        }
        let end = names.positions.iter().copied().find(|position| *position > kernel.code.len() as u32);
        let around = Op::Branch(end.unwrap_or(0));
        match guard {
            Some(guard) => push(kernel, statement, around, Some(Pred { negate: !guard.negate, ..guard })),
            None => push(kernel, statement, Op::Nop, None),
        }
        let mut inner = inner.instance(names);
        within.push(call.function);
        self.decode(kernel, body, &mut inner, within)?;
        within.pop();
        names.bank = inner.bank;
        Ok(())
    }
}

fn push(kernel: &mut Kernel, statement: &Statement<'_>, op: Op, guard: Option<Pred>) {
    let known = kernel.opcodes.iter().position(|opcode| opcode == statement.opcode);
    let name = known.unwrap_or_else(|| {
        kernel.opcodes.push(statement.opcode.to_string());
        kernel.opcodes.len() - 1
    }) as u32;
    let (file, line) = if statement.place.1 > 0 { statement.place } else { (0, statement.line) };
    kernel.code.push(Instruction { op, guard });
    kernel.places.push(Place { line, file, name });
}

/// Gives every variable its offset, from `end` on; arrays without a size start after all others. The new end comes back.
fn lay_out<'a>(mut end: u32, variables: &[(usize, Variable<'a>)], names: &mut Names<'a>) -> u32 {
    let mut place = |scope: usize, name, at: u32| {
        names.scopes[scope].symbols.insert(name, Symbol::Offset(u64::from(at)));
    };
    for (scope, variable) in variables {
        if let Some(size) = variable.size {
            let at = end.next_multiple_of(variable.align);
            place(*scope, variable.name, at);
            end = at + size;
        }
    }
    let open = || variables.iter().filter(|(_, variable)| variable.size.is_none());
    if let Some(align) = open().map(|(_, variable)| variable.align).max() {
        end = end.next_multiple_of(align);
    }
    for (scope, variable) in open() {
        place(*scope, variable.name, end);
    }
    end
}
