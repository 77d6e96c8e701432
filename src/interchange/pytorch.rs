//! PyTorch: `input` (`nn.Linear`, or none), `lstm` (`nn.LSTM`), `output` (`nn.Linear`).

use super::{Found, Names};
use crate::model::Model;
use crate::shape::{Cell, Linear, Tensors};
use std::collections::BTreeSet;

/// What the name of an LSTM's first matrix ends with.
const FIRST: &str = "weight_ih_l0";

/// Of an LSTM whose tensors begin with `prefix`. Gates are biased twice.
fn cell(prefix: &str, layer: usize, backward: bool) -> Cell<Names> {
    let name = |what: &str| format!("{prefix}{what}_l{layer}{}", if backward { "_reverse" } else { "" });
    Cell { w_x: vec![name("weight_ih")], w_h: vec![name("weight_hh")], b: vec![name("bias_ih"), name("bias_hh")] }
}

fn cells(prefix: &str, layers: usize, directions: usize) -> Vec<Cell<Names>> {
    (0..layers * directions).map(|n| cell(prefix, n / directions, n % directions == 1)).collect()
}

pub fn names(model: &Model) -> Tensors<Names> {
    let linear = |name: &str| Linear { w: vec![format!("{name}.weight")], b: vec![format!("{name}.bias")] };
    let input = model.layout().names().input.map(|_| linear("input"));
    Tensors { input, cells: cells("lstm.", model.layers, model.directions()), output: linear("output") }
}

pub fn find(names: &BTreeSet<&str>) -> Result<Found, String> {
    let prefixes: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(FIRST)).collect();
    let prefix = match prefixes[..] {
        [prefix] => prefix,
        [] => return Err(format!("there is no LSTM: no tensor's name ends with {FIRST}")),
        [a, b, ..] => return Err(format!("there is more than one LSTM: {a}{FIRST} and {b}{FIRST}")),
    };
    let has = |name: &String| names.contains(name.as_str());
    let layers = (0..).find(|&layer| !has(&cell(prefix, layer, false).w_x[0])).expect("names come to an end");
    let directions = 1 + usize::from(has(&cell(prefix, 0, true).w_x[0]));
    let mut cells = cells(prefix, layers, directions);
    // An LSTM of `bias=False` has none at all.
    if !cells.iter().any(|cell| cell.b.iter().any(has)) {
        cells.iter_mut().for_each(|cell| cell.b.clear());
    }
    let known: BTreeSet<&str> =
        cells.iter().flat_map(|Cell { w_x, w_h, b }| w_x.iter().chain(w_h).chain(b)).map(String::as_str).collect();
    let mut linears = Vec::new();
    for &name in names.difference(&known) {
        if name.starts_with(prefix) && name[prefix.len()..].starts_with("weight_hr_l") {
            return Err(format!("tensor {name} is of an LSTM with proj_size, which cannot be read"));
        }
        let bias_of = |name: &str| name.strip_suffix("weight").map(|stem| format!("{stem}bias"));
        let weight_of = name.strip_suffix("bias").map(|stem| format!("{stem}weight"));
        match bias_of(name) {
            Some(bias) => {
                let b = if has(&bias) { vec![bias] } else { vec![] };
                linears.push(Linear { w: vec![name.to_owned()], b });
            }
            None if weight_of.is_some_and(|weight| has(&weight)) => {}
            None => return Err(format!("tensor {name} belongs to no layer that can be read")),
        }
    }
    Ok(Found { cells, directions, linears })
}
