//! `completion`: scripts for shells, made from the same definition as the command line itself.

use crate::cli::Arguments;
use crate::error::{Context, Error, Result};
use clap::CommandFactory;
use clap_complete::{Generator, generate, shells};
use std::io::Write;

/// `corten completion bash|zsh|fish`
pub fn completion(shell: &str) -> Result<()> {
    let text = match shell {
        "bash" => script(shells::Bash),
        "zsh" => script(shells::Zsh),
        "fish" => script(shells::Fish),
        other => return Err(Error::new(format!("no completion for {other:?}: bash, zsh or fish"))),
    };
    std::io::stdout().write_all(&text).context(|| "write to stdout")
}

fn script(shell: impl Generator) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut Arguments::command(), "corten", &mut text);
    text
}
