//! Variables of a module, in global and constant memory.
//!
//! They live in a [`Memory`] from the module's first launch (or first look-up) with it on, so that a launch finds what an
//! earlier one left. Constant memory is global memory here: an address says alone where it points.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decode::{self, Operand};
use crate::memory::Memory;
use crate::parse::{Module, Variable};
use crate::report::Error;

/// A declaration as it stands in the text.
#[derive(Clone, Debug)]
pub(crate) struct Declaration<'a> {
    pub variable: Variable<'a>,
    /// Numbers, floats, and names of other variables; what is left out is zero.
    pub values: Vec<Operand<'a>>,
    pub line: u32,
}

/// A module's variables, and the number by which a memory knows them again.
#[derive(Clone, Debug)]
pub(crate) struct Globals {
    id: u64,
    list: Vec<Global>,
}

#[derive(Clone, Debug)]
struct Global {
    name: String,
    bytes: Vec<u8>,
    /// Addresses among the bytes: at which of them, of which variable, how far from its start.
    links: Vec<(usize, usize, i64)>,
}

impl Globals {
    /// Makes the first values of the declared variables.
    pub fn new(declarations: &[Declaration<'_>], numbers: &HashMap<&str, usize>) -> Result<Globals, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let list =
            declarations.iter().map(|declaration| Global::new(declaration, numbers)).collect::<Result<_, _>>()?;
        Ok(Globals { id: NEXT.fetch_add(1, Ordering::Relaxed), list })
    }

    /// The addresses of all variables, which are made where this memory does not have them yet.
    pub fn place(&self, memory: &mut Memory) -> Vec<u64> {
        if self.list.is_empty() {
            return Vec::new();
        }
        if let Some(addresses) = memory.modules.get(&self.id) {
            return addresses.clone();
        }
        let addresses: Vec<u64> =
            self.list.iter().map(|global| memory.alloc(&global.name, global.bytes.len())).collect();
        for (global, address) in self.list.iter().zip(&addresses) {
            let mut bytes = global.bytes.clone();
            for (at, variable, offset) in &global.links {
                let target = addresses[*variable].wrapping_add(*offset as u64);
                bytes[*at..*at + 8].copy_from_slice(&target.to_le_bytes());
            }
            // The buffer was made for exactly these bytes.
            let _ = memory.write(*address, &bytes);
        }
        memory.modules.insert(self.id, addresses.clone());
        addresses
    }
}

impl Global {
    fn new(declaration: &Declaration<'_>, numbers: &HashMap<&str, usize>) -> Result<Global, Error> {
        let Declaration { variable, values, line } = declaration;
        let error = |what: String| Err(Error::Parse { line: *line, message: format!("{}: {what}", variable.name) });
        let element = variable.element as usize;
        // An array without a size is as long as its values.
        let size = variable.size.map_or(values.len() * element, |size| size as usize);
        if values.len() * element > size {
            return error(format!("{} values for {size} bytes", values.len()));
        }
        let mut global = Global { name: variable.name.to_string(), bytes: vec![0; size], links: Vec::new() };
        for (i, value) in values.iter().enumerate() {
            let at = i * element;
            if let Some(bits) = decode::number(value) {
                global.bytes[at..at + element].copy_from_slice(&bits.to_le_bytes()[..element]);
                continue;
            }
            match value {
                Operand::Word { word, offset, negative: false } if element == 8 && numbers.contains_key(word) => {
                    global.links.push((at, numbers[word], *offset));
                }
                other => return error(format!("{other:?} is no value that the emulator knows")),
            }
        }
        Ok(global)
    }
}

impl Module {
    /// The address of one of the module's variables (`__device__` or `__constant__`) in a memory, for the host to read or
    /// to set before a launch.
    pub fn variable(&self, name: &str, memory: &mut Memory) -> Option<u64> {
        let number = self.globals.list.iter().position(|global| global.name == name)?;
        self.globals.place(memory).get(number).copied()
    }
}
