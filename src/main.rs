//! corten: a low-level OCI runtime. ARCHITECTURE.md has the tour; this file is its table of contents.

#![cfg_attr(not(test), no_main)]
// The entry point is not part of the unit tests, and so neither is what only it calls.
#![cfg_attr(test, allow(dead_code))]

mod capabilities;
mod cgroups;
mod cli;
mod create;
mod delete;
mod error;
mod exec;
mod features;
mod files;
mod hooks;
mod init;
mod json;
mod kill;
mod list;
mod log;
mod lsm;
mod namespaces;
mod netdev;
mod passwd;
mod pidfile;
mod plan;
mod process;
mod procfs;
mod rdt;
mod rootfs;
mod run;
mod scheduling;
mod seccomp;
mod selfexe;
mod signals;
mod spec;
mod start;
mod state;
mod sync;
mod sys;
mod sysctl;

use cli::{Arguments, Command, Global, Parsed};
use error::{Context, Error, Result};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// The program, from its arguments to its exit status. `sys` has the entry point that calls it.
fn run(args: Vec<OsString>) -> i32 {
    let protected = if enters_container(&args) { selfexe::protect(&args) } else { Ok(()) };
    sys::ignore_sigpipe();
    let status = match cli::parse(args) {
        Parsed::Run(arguments) => execute(*arguments, protected),
        Parsed::Print(text) => print(&text),
        Parsed::Wrong { help, usage, message, status } => {
            print(&help);
            if let Some(usage) = usage {
                let _ = writeln!(std::io::stderr(), "{usage}");
            }
            log::fatal(&message);
            status
        }
    };
    // A reader that is gone is no failure of ours.
    let _ = std::io::stdout().flush();
    sys::exit(status)
}

/// Whether these may be the words of a command whose process becomes visible in a container. It is asked before they are
/// parsed, for the answer may be to start anew; a container called `run` costs one start more.
fn enters_container(args: &[OsString]) -> bool {
    args.iter().skip(1).any(|word| word == "create" || word == "run" || word == "exec")
}

fn execute(arguments: Arguments, protected: Result<()>) -> i32 {
    if arguments.global.version {
        return print(&version());
    }
    let Some(command) = arguments.command else {
        return print(&cli::help());
    };
    let (prefix, failure) = match command {
        Command::Create(_) => ("corten create failed: ", 1),
        Command::Run(_) => ("corten run failed: ", 1),
        Command::Exec(_) => ("exec failed: ", 255),
        _ => ("", 1),
    };
    match prepare(&arguments.global, &command).and_then(|root| protected.and_then(|()| dispatch(&root, command))) {
        Ok(status) => status,
        Err(error) => {
            log::fatal(&format!("{prefix}{error}"));
            failure
        }
    }
}

/// Opens the log and decides where the state is.
fn prepare(global: &Global, command: &Command) -> Result<PathBuf> {
    let format = match global.log_format.as_str() {
        "text" => log::Format::Text,
        "json" => log::Format::Json,
        other => return Err(Error::new(format!("invalid log-format: {other}"))),
    };
    files::ensure_stdio()?;
    // What the caller left open is not for hooks, nor for the container, unless he says so (rule R8).
    let preserved = match command {
        Command::Create(args) => args.preserve_fds,
        Command::Run(args) => args.create.preserve_fds,
        Command::Exec(args) => args.preserve_fds,
        _ => 0,
    };
    sys::close_on_exec_from(preserved.saturating_add(3)).context(|| "close_range(CLOEXEC)")?;
    log::open(global.log.as_deref(), format, global.debug)?;
    Ok(match (&global.root, std::env::var_os("XDG_RUNTIME_DIR")) {
        (Some(root), _) => root.clone(),
        (None, Some(directory)) if !nix::unistd::geteuid().is_root() => PathBuf::from(directory).join("corten"),
        (None, _) => PathBuf::from("/run/corten"),
    })
}

fn dispatch(root: &std::path::Path, command: Command) -> Result<i32> {
    match command {
        Command::Create(args) => create::create(root, &args)?,
        Command::Start(args) => start::start(root, &args.id)?,
        Command::Run(args) => return run::run(root, &args),
        Command::Exec(args) => return exec::exec(root, &args),
        Command::State(args) => state::state(root, &args.id)?,
        Command::Kill(args) => kill::kill(root, &args.words, args.all)?,
        Command::Delete(args) => delete::delete(root, &args.id, args.force)?,
        Command::List(args) => list::list(root, &args)?,
        Command::Spec(args) => spec::spec(&args)?,
        Command::Features => features::features()?,
    }
    Ok(0)
}

fn print(text: &str) -> i32 {
    // A reader that has gone away is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

/// What Docker and go-runc read: the name with `version`, the commit, the specification.
fn version() -> String {
    format!(
        "corten version {}\ncommit: {}\nspec: 1.3.0\nlibseccomp: {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("CORTEN_COMMIT").unwrap_or("unknown"),
        features::library_version(),
    )
}
