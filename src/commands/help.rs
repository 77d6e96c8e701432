//! `fused-lstm completions` and `fused-lstm man`, made from the definition of the command line.

use crate::cli::Cli;
use clap::CommandFactory;
use clap_complete::Shell;
use fused_lstm::{Error, Result};
use std::path::Path;

/// Writes completions for `shell` to standard output.
pub fn completions(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fused-lstm", &mut text);
    super::output::line(String::from_utf8_lossy(&text).trim_end())
}

/// Writes the man page to standard output, or a page for each command to `folder`.
pub fn man(folder: Option<&Path>) -> Result<()> {
    let Some(folder) = folder else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut text).expect("memory can be written");
        return super::output::line(String::from_utf8_lossy(&text).trim_end());
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|e| Error::io(folder, "write", e, "choose another folder with --dir"))?;
    super::output::line(&format!("man pages are in {}", folder.display()))
}
