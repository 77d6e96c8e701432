//! Keras: `Dense` (or none), `LSTM` or `Bidirectional(LSTM)` layers, `Dense`; tensors by the path of each variable.

use super::{Found, Names};
use crate::model::Model;
use crate::shape::{Cell, Linear, Tensors};
use std::collections::BTreeSet;

const KERNEL: &str = "kernel";
const RECURRENT: &str = "recurrent_kernel";
const BIAS: &str = "bias";
const FORWARD: &str = "forward_";
const BACKWARD: &str = "backward_";

fn cell(layer: &str) -> Cell<Names> {
    let name = |what: &str| vec![format!("{layer}/{what}")];
    Cell { w_x: name(KERNEL), w_h: name(RECURRENT), b: name(BIAS) }
}

pub fn names(model: &Model) -> Tensors<Names> {
    let linear = |name: &str| Linear { w: vec![format!("{name}/{KERNEL}")], b: vec![format!("{name}/{BIAS}")] };
    let input = model.layout().names().input.map(|_| linear("input"));
    let cells = (0..model.layers).flat_map(|layer| {
        let number = if layer == 0 { String::new() } else { format!("_{layer}") };
        match model.bidirectional {
            false => vec![cell(&format!("lstm{number}/lstm_cell"))],
            true => [FORWARD, BACKWARD]
                .map(|way| cell(&format!("bidirectional{number}/{way}lstm{number}/lstm_cell")))
                .into(),
        }
    });
    Tensors { input, cells: cells.collect(), output: linear("output") }
}

/// What layers are put in order by: `lstm_10` comes after `lstm_9`, and both after `lstm`.
fn place(layer: &str) -> Vec<(&str, u64)> {
    let part = |part| match str::rsplit_once(part, '_') {
        Some((name, number)) => number.parse().map_or((part, 0), |number| (name, number)),
        None => (part, 0),
    };
    layer.split('/').map(part).collect()
}

/// The layer of a variable with this last part of its path.
fn layer<'a>(name: &'a str, variable: &str) -> Option<&'a str> {
    name.strip_suffix(variable)?.strip_suffix('/')
}

pub fn find(names: &BTreeSet<&str>) -> Result<Found, String> {
    let mut layers: Vec<&str> = names.iter().filter_map(|name| layer(name, RECURRENT)).collect();
    layers.sort_by_key(|layer| place(layer));
    let (backward, forward): (Vec<&str>, Vec<&str>) = layers.iter().partition(|layer| layer.contains(BACKWARD));
    if forward.is_empty() {
        return Err(format!("there is no LSTM: no tensor's name ends with /{RECURRENT}"));
    }
    let directions = if backward.is_empty() { 1 } else { 2 };
    let mut cells = Vec::new();
    for layer in forward {
        cells.push(cell(layer));
        if directions == 2 {
            let other = layer.replace(FORWARD, BACKWARD);
            if other == layer || !backward.contains(&other.as_str()) {
                return Err(format!("{layer} reads in one direction and {} does not", backward[0]));
            }
            cells.push(cell(&other));
        }
    }
    if backward.len() * 2 != layers.len() && directions == 2 {
        return Err(format!("not every one of {} has a layer that reads forward", backward.join(", ")));
    }
    let has = |name: &String| names.contains(name.as_str());
    // A layer of `use_bias=False` has none.
    cells.iter_mut().for_each(|cell| cell.b.retain(has));
    let known: BTreeSet<&str> =
        cells.iter().flat_map(|Cell { w_x, w_h, b }| w_x.iter().chain(w_h).chain(b)).map(String::as_str).collect();
    let mut linears = Vec::new();
    for &name in names.difference(&known) {
        let weights = layer(name, BIAS).map(|layer| format!("{layer}/{KERNEL}"));
        match layer(name, KERNEL) {
            Some(layer) => {
                let mut b = vec![format!("{layer}/{BIAS}")];
                b.retain(has);
                linears.push(Linear { w: vec![name.to_owned()], b });
            }
            None if weights.is_some_and(|weights| has(&weights)) => {}
            None => return Err(format!("tensor {name} belongs to no layer that can be read")),
        }
    }
    Ok(Found { cells, directions, linears })
}
