//! corten: a low-level OCI runtime. ARCHITECTURE.md has the tour; this file is its table of contents.

#![cfg_attr(not(test), no_main)]
// The entry point is not part of the unit tests, and so neither is what only it calls.
#![cfg_attr(test, allow(dead_code))]

mod caller;
mod capabilities;
mod cgroups;
mod checkpoint;
mod cli;
mod completion;
mod console;
mod create;
mod criu;
mod dbus;
mod delete;
mod error;
mod events;
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
mod mounts;
mod namespaces;
mod netdev;
mod nofile;
mod notify_socket;
mod passwd;
mod pause;
mod pidfile;
mod plan;
mod process;
mod procfs;
mod ps;
mod rdt;
mod restore;
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
mod terminal;
mod update;
mod userns;

use cgroups::Manager;
use cli::{Arguments, Command, Global, Parsed, Wrong};
use error::{Context, Error, Result};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The program, from its arguments to its exit status. `sys` has the entry point that calls it.
fn run(args: Vec<OsString>) -> i32 {
    let protected = if enters_container(&args) { selfexe::protect(&args) } else { Ok(()) };
    sys::ignore_sigpipe();
    let status = match cli::parse(&args) {
        Parsed::Run(arguments) => execute(*arguments, protected),
        Parsed::Print(text) => print(&text),
        Parsed::Wrong(wrong) => complain(&wrong),
    };
    // A reader that is gone is no failure of ours.
    let _ = std::io::stdout().flush();
    sys::exit(status)
}

/// Whether these may be the words of a command whose process becomes visible in a container. It is asked before they are
/// parsed, for the answer may be to start anew; a container called `run` costs one start more.
fn enters_container(args: &[OsString]) -> bool {
    args.iter().skip(1).any(|word| ["create", "run", "exec", "mounts"].iter().any(|name| word == name))
}

/// Says what is wrong with the call: help on stdout, the message in the log.
fn complain(wrong: &Wrong) -> i32 {
    if let Err(error) = wrong.global.as_ref().map_or(Ok(()), open_log) {
        log::fatal(&error.to_string(), error.errno());
        return 1;
    }
    print(&wrong.help);
    if let Some(usage) = &wrong.usage {
        let _ = writeln!(std::io::stderr(), "{usage}");
    }
    log::fatal(&wrong.message, None);
    wrong.status
}

fn execute(arguments: Arguments, protected: Result<()>) -> i32 {
    if arguments.global.version {
        return print(&version());
    }
    let Some(mut command) = arguments.command else {
        return print(&cli::help());
    };
    let (prefix, failure) = match command {
        Command::Create(_) => ("corten create failed: ", 1),
        Command::Run(_) => ("corten run failed: ", 1),
        Command::Exec(_) => ("exec failed: ", 255),
        _ => ("", 1),
    };
    if let Err(error) = open_log(&arguments.global) {
        log::fatal(&error.to_string(), error.errno());
        return 1;
    }
    if !matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
        // Of children whose end is ignored nobody is told the status. The three see what is ignored (`Caller::look`).
        sys::default_signal(libc::SIGCHLD);
    }
    let decided = protected.and_then(|()| decide_on_cgroups(&arguments.global, &mut command));
    match decided.and_then(|()| dispatch(&root(&arguments.global), &arguments.global, command)) {
        Ok(status) => status,
        Err(error) => {
            log::fatal(&format!("{prefix}{error}"), error.errno());
            failure
        }
    }
}

/// Checks the global flags, makes sure that the descriptors 0 to 2 are there, closes the others on execve, and opens the
/// log.
fn open_log(global: &Global) -> Result<()> {
    let format = log::Format::parse(global.log_format.as_deref().unwrap_or_default())?;
    let level = match (&global.log_level, global.debug) {
        (_, true) => log::Level::Debug,
        (Some(level), false) => log::Level::parse(level)?,
        (None, false) => log::Level::Warning,
    };
    files::ensure_stdio()?;
    // What the caller left open is not for hooks, nor for the container, unless he says so at the end (rule R8).
    sys::close_on_exec_from(3).context(|| "close_range(CLOEXEC)")?;
    log::open(global.log.as_deref(), format, level)
}

/// Who makes the cgroups: of the two flags the one that can say more, for callers add it to the other.
fn manager(global: &Global) -> Result<Manager> {
    match global.cgroup_manager.as_deref() {
        None if global.systemd_cgroup => Ok(Manager::Systemd),
        None | Some("cgroupfs") => Ok(Manager::Cgroupfs),
        Some("systemd") => Ok(Manager::Systemd),
        Some("disabled") => Ok(Manager::Disabled),
        Some(other) => Err(Error::new(format!("--cgroup-manager {other}: is none of cgroupfs, systemd, disabled"))),
    }
}

/// Tells the commands that make containers what `--rootless` says. No other command looks at its value.
fn decide_on_cgroups(global: &Global, command: &mut Command) -> Result<()> {
    match command {
        Command::Create(args) => args.may_lack_cgroups = global.may_lack_cgroups()?,
        Command::Run(args) => args.create.may_lack_cgroups = global.may_lack_cgroups()?,
        _ => {}
    }
    Ok(())
}

/// The directory of the state.
fn root(global: &Global) -> PathBuf {
    match (&global.root, std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty())) {
        (Some(root), _) => root.clone(),
        (None, Some(directory)) if has_runtime_directory() => PathBuf::from(directory).join("corten"),
        (None, _) => PathBuf::from("/run/corten"),
    }
}

/// Whether XDG_RUNTIME_DIR is where this user keeps state. The machine's root has one, too, when he logs in, but what he
/// makes has to be found from elsewhere; root of a user namespace, as in `podman unshare`, is the user who made it.
fn has_runtime_directory() -> bool {
    !nix::unistd::geteuid().is_root()
        || std::env::var_os("USER").is_none_or(|user| user != "root") && caller::Caller::is_in_userns().unwrap_or(false)
}

fn dispatch(root: &Path, global: &Global, command: Command) -> Result<i32> {
    let manager = manager(global)?;
    match command {
        Command::Create(args) => create::create(root, manager, &args)?,
        Command::Start(args) => start::start(root, &args.id)?,
        Command::Run(args) => return run::run(root, manager, &args),
        Command::Exec(args) => return exec::exec(root, &args),
        Command::State(args) => state::state(root, &args.id)?,
        Command::Kill(args) => kill::kill(root, &args)?,
        Command::Delete(args) => delete::delete(root, &args)?,
        Command::List(args) => list::list(root, global.root.is_some(), &args)?,
        Command::Pause(args) => pause::pause(root, &args.id)?,
        Command::Resume(args) => pause::resume(root, &args.id)?,
        Command::Ps(args) => ps::ps(root, &args)?,
        Command::Update(args) => update::update(root, &args)?,
        Command::Events(args) => events::events(root, &args)?,
        Command::Checkpoint(args) => checkpoint::checkpoint(root, &args)?,
        Command::Restore(args) => return restore::restore(root, manager, &args),
        Command::Mounts(args) => mounts::mounts(root, &args)?,
        Command::Spec(args) => spec::spec(&args)?,
        Command::Features => features::features()?,
        Command::Completion(args) => completion::completion(&args.shell)?,
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
