//! Writes corten's man pages, one for the program and one for each command, from the definition of the command line:
//! `cargo run --example man DIR`. It is no part of the program, which would be larger with it.

// Of these files only the definition is used.
#![allow(dead_code, unused_imports)]

#[path = "../src/cli.rs"]
mod cli;
#[path = "../src/error.rs"]
mod error;

use clap::CommandFactory;
use clap_mangen::Man;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: man DIR"))?;
    let mut corten = cli::Arguments::command().version(env!("CARGO_PKG_VERSION"));
    corten.build();
    write(&corten, Path::new(&directory))
}

/// Section 8 is that of programs for administrators.
fn write(command: &clap::Command, directory: &Path) -> std::io::Result<()> {
    Man::new(command.clone()).section("8").generate_to(directory)?;
    command.get_subcommands().try_for_each(|command| write(command, directory))
}
