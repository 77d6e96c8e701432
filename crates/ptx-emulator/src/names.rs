//! The names that a kernel's operands may use, and the slots that stand for them.

use std::collections::HashMap;

use crate::op::{D, P, R, Slot};

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
    /// Slots of addresses in the module's variables: the variable's number, and how far from its start.
    pub addresses: Vec<(D, usize, i64)>,
}

/// A register of any bank.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Register {
    R(R),
    D(D),
    P(P),
}

/// What a name that is no register stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    /// A shared or local variable, or a parameter handed to or got from a function: its offset.
    Offset(u64),
    /// A parameter of the kernel: its offset.
    Parameter(u32),
    /// A variable of the module: its number.
    Global(usize),
}

/// What is declared between two braces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope<'a> {
    /// The scope around it; the outermost is its own.
    pub parent: usize,
    pub registers: HashMap<String, Register>,
    pub symbols: HashMap<&'a str, Symbol>,
    /// Labels: the number of the statement that follows.
    pub labels: HashMap<&'a str, usize>,
}

/// The names of a kernel or function.
#[derive(Clone, Debug)]
pub(crate) struct Names<'a> {
    /// The first one is the body's own; each brace within opens another.
    pub scopes: Vec<Scope<'a>>,
    /// The scope of the statement that is read or decoded.
    pub scope: usize,
    pub bank: Registers,
    /// Of each statement, the number of its first instruction.
    pub positions: Vec<u32>,
    /// In a function, the number of the instruction after its last one: where `ret` goes.
    pub end: Option<u32>,
}

impl Default for Names<'_> {
    fn default() -> Self {
        Names { scopes: vec![Scope::default()], scope: 0, bank: Registers::default(), positions: Vec::new(), end: None }
    }
}

impl<'a> Names<'a> {
    /// Declarations from here on belong to a new scope within the present one.
    pub fn open_scope(&mut self) {
        self.scopes.push(Scope { parent: self.scope, ..Scope::default() });
        self.scope = self.scopes.len() - 1;
    }

    /// Back to the scope around the present one.
    pub fn close_scope(&mut self) {
        self.scope = self.scopes[self.scope].parent;
    }

    pub fn here(&mut self) -> &mut Scope<'a> {
        &mut self.scopes[self.scope]
    }

    /// The first that is found, from the present scope outwards.
    fn find<T>(&self, look: impl Fn(&Scope<'a>) -> Option<T>) -> Option<T> {
        let mut at = self.scope;
        loop {
            let scope = &self.scopes[at];
            if let Some(found) = look(scope) {
                return Some(found);
            }
            if scope.parent == at {
                return None;
            }
            at = scope.parent;
        }
    }

    pub fn register(&self, name: &str) -> Option<Register> {
        self.find(|scope| scope.registers.get(name).copied())
    }

    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        self.find(|scope| scope.symbols.get(name).copied())
    }

    /// The number of the instruction at a label.
    pub fn label(&self, name: &str) -> Option<u32> {
        let statement = self.find(|scope| scope.labels.get(name).copied())?;
        self.positions.get(statement).copied()
    }

    pub fn new_register(&mut self, ty: &str) -> Register {
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

    /// A place in a variable of the module, whose address only the launch knows.
    pub fn global_address(&mut self, variable: usize, offset: i64) -> D {
        if let Some(&(slot, ..)) = self.bank.addresses.iter().find(|a| (a.1, a.2) == (variable, offset)) {
            return slot;
        }
        let slot = self.new_d();
        self.bank.addresses.push((slot, variable, offset));
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

    /// A copy of a function's names whose registers lie behind those of `caller`, from which the bank is taken: it must be
    /// given back when the function is decoded.
    pub fn instance(&self, caller: &mut Names<'_>) -> Names<'a> {
        let mut copy = self.clone();
        copy.scope = 0;
        let mut bank = std::mem::take(&mut caller.bank);
        for register in copy.scopes.iter_mut().flat_map(|scope| scope.registers.values_mut()) {
            match register {
                Register::R(slot) => *slot += bank.r as R,
                Register::D(slot) => *slot += bank.d as D,
                Register::P(slot) => *slot += bank.p as P,
            }
        }
        bank.r += self.bank.r;
        bank.d += self.bank.d;
        bank.p += self.bank.p;
        copy.bank = bank;
        copy
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
