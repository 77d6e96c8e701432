//! The `fused-lstm` program.

fn main() {}
