//! The command line: argv -> [`Arguments`]. Flags, defaults, messages and exit statuses are runc's.
//!
//! clap has the definition, from which the help, the completions and the man pages come, too; `words` sorts the words by
//! the rules that runc's callers know.

// The path is spelled out for the program that writes the man pages, which takes this file as a module of its own.
#[path = "cli/interval.rs"]
mod interval;
#[path = "cli/words.rs"]
mod words;

use crate::error::{Error, Result};
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::error::Error as _;
use std::ffi::OsString;
use std::path::PathBuf;
use words::Words;

/// A fast OCI container runtime, a drop-in for runc.
///
/// corten creates and runs containers from OCI bundles: a directory with a config.json and a root file system.
#[derive(Parser, Debug)]
#[command(name = "corten", disable_version_flag = true, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags before the command.
#[derive(clap::Args, Debug, Clone)]
pub struct Global {
    /// Directory for the state of containers; should be on tmpfs [default: /run/corten or $XDG_RUNTIME_DIR/corten]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append the log to this file (or file:PATH, journald:NAME, syslog:NAME) instead of writing it to stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Format of the log: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log what happens, too: --log-level debug
    #[arg(long)]
    pub debug: bool,
    /// How grave a line must be to be logged: error, warning or debug [default: warning]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Who manages the cgroups: cgroupfs, which is the runtime itself [default: cgroupfs]
    #[arg(long, value_name = "MANAGER")]
    pub cgroup_manager: Option<String>,
    /// Print the version
    #[arg(short, long)]
    pub version: bool,
}

/// What to do. Deferred: the flags of a command are put together only if it is called, for that takes time. What is said
/// here of a command is its help's first line; a doc comment on the struct of its flags would take that place.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum Command {
    /// Create a container; `start` then runs the user's program
    Create(CreateArgs),
    /// Run the user's program of a created container
    Start(IdArg),
    /// Create a container, start it and wait for its end
    Run(RunArgs),
    /// Run another process in a container
    Exec(ExecArgs),
    /// Print the state of a container as JSON
    State(IdArg),
    /// Send a signal to the init process of a container (default: SIGTERM)
    Kill(KillArgs),
    /// Delete a stopped container and everything that was made for it
    Delete(DeleteArgs),
    /// List the containers of this state directory
    List(ListArgs),
    /// Stop the processes of a container until `resume`
    Pause(IdArg),
    /// Let the processes of a paused container go on
    Resume(IdArg),
    /// List the processes of a container
    Ps(PsArgs),
    /// Change the limits of a container
    Update(Box<UpdateArgs>),
    /// Print what a container uses, and when it runs out of memory
    Events(EventsArgs),
    /// Write a config.json to start from
    Spec(SpecArgs),
    /// Print what this runtime supports as JSON
    Features,
    /// Print a script that completes corten's command line in a shell
    Completion(CompletionArgs),
}

// What `create` and `run` share.
#[derive(clap::Args, Debug, Clone)]
pub struct CreateArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Take the configuration from this file instead of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the pid of the container's init to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Send the master of the container's terminal to this unix socket
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the container's init to this unix socket
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// Put the root file system on top of the host's instead of pivoting, where / is a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Don't adopt and reap the container's orphans while waiting; nothing waits in create
    #[arg(long)]
    pub no_subreaper: bool,
    /// Pass N more descriptors, 3 and up, to the container
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = words::number)]
    pub preserve_fds: u32,
}

// `run`
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Return as soon as the program runs
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the state and the cgroup when the container ends
    #[arg(long)]
    pub keep: bool,
}

// Commands that take just an id.
#[derive(clap::Args, Debug)]
pub struct IdArg {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

// `exec`
#[derive(clap::Args, Debug)]
pub struct ExecArgs {
    /// File with the process as JSON (config.json's `process`)
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Numeric user and group
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// A supplementary group; may be given several times
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Give the process a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Send the master of the terminal to this unix socket
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the process to this unix socket
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// Return as soon as the process runs
    #[arg(short, long)]
    pub detach: bool,
    /// Write the pid of the process to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "NAME")]
    pub apparmor: Option<String>,
    /// Let the process gain no privileges by execve
    #[arg(long)]
    pub no_new_privs: bool,
    /// A capability in addition to the container's; may be given several times
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass N more descriptors, 3 and up, to the process
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = words::number)]
    pub preserve_fds: u32,
    /// Run it in a cgroup below the container's: [CONTROLLER[,CONTROLLER]:]PATH; may be given several times
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<String>,
    /// Also in a container that is paused
    #[arg(long)]
    pub ignore_paused: bool,
    /// Name of the container, then the program and its arguments
    #[arg(value_names = ["CONTAINER-ID", "COMMAND"], trailing_var_arg = true, required = true)]
    pub words: Vec<OsString>,
}

// `kill`
#[derive(clap::Args, Debug)]
pub struct KillArgs {
    /// Obsolete; accepted, and then a stopped container is no error
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Send the signal to each container whose id matches this POSIX extended regular expression
    #[arg(short, long)]
    pub regex: bool,
    /// Name of the container, then the signal as a number or name
    #[arg(value_names = ["CONTAINER-ID", "SIGNAL"], num_args = 1..=2, trailing_var_arg = true, required = true)]
    pub words: Vec<String>,
}

// `delete`
#[derive(clap::Args, Debug)]
pub struct DeleteArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Kill the container first; no error if it does not exist
    #[arg(short, long)]
    pub force: bool,
    /// Delete each container whose id matches this POSIX extended regular expression
    #[arg(short, long)]
    pub regex: bool,
}

// `list`
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Only the ids
    #[arg(short, long)]
    pub quiet: bool,
}

// `ps`
#[derive(clap::Args, Debug)]
pub struct PsArgs {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", allow_hyphen_values = true)]
    pub format: String,
    /// Name of the container, then options for ps(1) instead of -ef
    #[arg(value_names = ["CONTAINER-ID", "PS-OPTION"], trailing_var_arg = true, required = true)]
    #[arg(allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

// `update`; sizes are numbers of bytes, also like 50M
#[derive(clap::Args, Debug, Default)]
pub struct UpdateArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Read all limits from this JSON file (config.json's `linux.resources`), or from stdin if it is -
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub resources: Option<PathBuf>,
    /// Weight of block I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    pub blkio_weight: Option<i64>,
    /// Length of the period that a quota is for, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// CPU time in a period, in microseconds; -1: unlimited
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// CPU time that may be saved up for later periods, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_burst: Option<String>,
    /// CPU shares, relative to other containers
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    pub cpu_share: Option<String>,
    /// Length of the period for realtime processes, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_rt_period: Option<String>,
    /// CPU time of realtime processes in their period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<String>,
    /// 1: run only when nobody else wants to (SCHED_IDLE); 0: as usual
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub cpu_idle: Option<String>,
    /// CPUs to run on, like 0-3,7
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_mems: Option<String>,
    /// Memory; -1: unlimited
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is kept when others need it
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1: unlimited
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Obsolete; ignored
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    /// Obsolete; ignored
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Number of processes; -1: unlimited
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Schema of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA", allow_hyphen_values = true)]
    pub l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA", allow_hyphen_values = true)]
    pub mem_bw_schema: Option<String>,
}

// `events`
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Time between two lines of statistics, like 5s or 100ms
    #[arg(long, value_name = "TIME", default_value = "5s", allow_hyphen_values = true)]
    #[arg(value_parser = interval::parse)]
    pub interval: i64,
    /// Print the statistics once
    #[arg(long)]
    pub stats: bool,
}

// `spec`
#[derive(clap::Args, Debug)]
pub struct SpecArgs {
    /// Directory to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// For a user without privileges
    #[arg(long)]
    pub rootless: bool,
}

// `completion`
#[derive(clap::Args, Debug)]
pub struct CompletionArgs {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL")]
    pub shell: String,
}

/// What came of parsing.
pub enum Parsed {
    /// Run this.
    Run(Box<Arguments>),
    /// Print this to stdout and exit with 0: help.
    Print(String),
    /// Say what is wrong.
    Wrong(Box<Wrong>),
}

/// A wrong call.
pub struct Wrong {
    /// For stdout.
    pub help: String,
    /// For stderr, before the message.
    pub usage: Option<String>,
    pub message: String,
    pub status: i32,
    /// Tells where the message is logged; None if that is what is wrong.
    pub global: Option<Global>,
}

impl Wrong {
    /// A flag that does not exist or lacks its value, or whose value makes no sense; `message` says which, in Go's words.
    fn flag(message: String, help: StyledStr) -> Box<Wrong> {
        let usage = Some(format!("Incorrect Usage: {message}\n"));
        Box::new(Wrong { help: help.to_string(), usage, message, status: 1, global: None })
    }
}

/// Parses the command line.
pub fn parse(args: &[OsString]) -> Parsed {
    let mut definition = Arguments::command();
    let mut before = match Words::sort(&definition, args.get(1..).unwrap_or_default(), true) {
        Ok(before) => before,
        Err(message) => return Parsed::Wrong(Wrong::flag(message, definition.render_help())),
    };
    let words = std::mem::take(&mut before.arguments);
    let plain: Vec<OsString> = args.first().cloned().into_iter().chain(before.plain()).collect();
    let parsed = match words.split_first() {
        _ if before.help => Ok(Parsed::Print(help())),
        Some((name, words)) if !name.is_empty() && !before.has("version") => {
            parse_command(&mut definition, &plain, &name.to_string_lossy(), words)
        }
        _ => typed(&mut definition, &plain)
            .map_err(|error| Wrong::flag(explain(&error, &before), definition.render_help())),
    };
    parsed.unwrap_or_else(|mut wrong| {
        wrong.global = Arguments::try_parse_from(plain).ok().map(|arguments| arguments.global);
        Parsed::Wrong(wrong)
    })
}

/// Parses what follows the name of a command; `before` has the program's name and the global flags, in plain form.
fn parse_command(
    definition: &mut clap::Command,
    before: &[OsString],
    name: &str,
    words: &[OsString],
) -> std::result::Result<Parsed, Box<Wrong>> {
    // `corten help COMMAND` is `corten COMMAND --help`.
    let (name, words) = match (name, words) {
        ("help" | "h", []) => return Ok(Parsed::Print(help())),
        ("help" | "h", [name, ..]) => (name.to_string_lossy().into_owned(), &["--help".into()][..]),
        _ => (name.to_string(), words),
    };
    let Some(command) = definition.find_subcommand_mut(&name) else {
        let message = format!("No help topic for '{name}'\n");
        return Err(Box::new(Wrong { help: String::new(), usage: None, message, status: 3, global: None }));
    };
    command.set_bin_name(format!("corten {name}"));
    command.build();
    let first_ends = command.get_positionals().any(clap::Arg::is_trailing_var_arg_set);
    let after =
        Words::sort(command, words, first_ends).map_err(|message| Wrong::flag(message, command.render_help()))?;
    if after.help {
        return Ok(Parsed::Print(command.render_help().to_string()));
    }
    if let Some(count) = wrong_count(command, after.arguments.len()) {
        let program = before.first().map(|program| program.display().to_string()).unwrap_or_default();
        let message = format!("{program}: {name:?} requires {count} argument(s)");
        let help = format!("Incorrect Usage.\n\n{}", command.render_help());
        return Err(Box::new(Wrong { help, usage: None, message, status: 1, global: None }));
    }
    let plain: Vec<OsString> = before.iter().cloned().chain([name.as_str().into()]).chain(after.plain()).collect();
    typed(definition, &plain).map_err(|error| {
        let help = definition.find_subcommand_mut(&name).map(clap::Command::render_help).unwrap_or_default();
        Wrong::flag(explain(&error, &after), help)
    })
}

/// Lets clap make typed arguments of the plain words, in which nothing but a value can still be wrong.
fn typed(definition: &mut clap::Command, plain: &[OsString]) -> std::result::Result<Parsed, clap::Error> {
    let matches = definition.try_get_matches_from_mut(plain)?;
    Ok(Parsed::Run(Box::new(Arguments::from_arg_matches(&matches)?)))
}

/// What runc would say of a value that makes no sense.
fn explain(wrong: &clap::Error, words: &Words) -> String {
    if let (Some(ContextValue::String(argument)), Some(ContextValue::String(value))) =
        (wrong.get(ContextKind::InvalidArg), wrong.get(ContextKind::InvalidValue))
        && let Some(flag) = words.flag_of(argument)
    {
        return format!("invalid value {value:?} for flag -{flag}: parse error");
    }
    let text = wrong.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string()
}

/// The number of arguments that a command takes, in runc's words, unless it has got as many.
fn wrong_count(command: &clap::Command, count: usize) -> Option<String> {
    let (min, max) = command.get_positionals().next().map_or((0, 0), |argument| {
        let range = argument.get_num_args().unwrap_or_default();
        (if argument.is_required_set() { range.min_values() } else { 0 }, range.max_values())
    });
    match (min, max) {
        _ if (min..=max).contains(&count) => None,
        _ if min == max => Some(format!("exactly {min}")),
        _ if count < min => Some(format!("a minimum of {min}")),
        _ => Some(format!("a maximum of {max}")),
    }
}

/// The help of the whole program.
pub fn help() -> String {
    Arguments::command().render_help().to_string()
}

impl ExecArgs {
    /// The container's id and the words after it.
    pub fn split(&self) -> Result<(String, Vec<OsString>)> {
        let (id, rest) = self.words.split_first().ok_or_else(|| Error::new("exec needs a container id"))?;
        let id = id.to_str().ok_or_else(|| Error::new("invalid container ID format"))?;
        Ok((id.to_string(), rest.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Arguments {
        match parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()) {
            Parsed::Run(arguments) => *arguments,
            Parsed::Print(text) => panic!("{line}: {text}"),
            Parsed::Wrong(wrong) => panic!("{line}: {}", wrong.message),
        }
    }

    fn wrong(line: &str) -> (String, i32) {
        match parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()) {
            Parsed::Wrong(wrong) => (wrong.message, wrong.status),
            _ => panic!("{line} is accepted"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        for command in Arguments::command().get_subcommands_mut() {
            let about = command.get_about().cloned();
            command.build();
            assert_eq!(command.get_about(), about.as_ref(), "{}: its struct has a doc comment", command.get_name());
            assert!(
                command.get_positionals().count() <= 1,
                "{}: the counts of arguments are of one",
                command.get_name()
            );
            assert!(command.get_opts().all(|flag| flag.get_long().is_some()), "{}", command.get_name());
        }
    }

    #[test]
    fn flags_are_taken_as_go_takes_them() {
        let arguments =
            parsed("corten -root /r --debug=true run -no-subreaper id --bundle=x -b y -detach=false --keep=1");
        assert_eq!(arguments.global.root, Some("/r".into()));
        assert!(arguments.global.debug);
        let Some(Command::Run(run)) = arguments.command else { panic!("not run") };
        assert_eq!((run.create.id.as_str(), run.create.bundle), ("id", "y".into()));
        assert_eq!((run.create.no_subreaper, run.detach, run.keep), (true, false, true));
    }

    #[test]
    fn a_value_may_look_like_a_flag_and_an_empty_path_is_none() {
        let arguments = parsed("corten --root --debug --log= list -f --quiet");
        assert_eq!((arguments.global.root, arguments.global.log), (Some("--debug".into()), None));
        assert!(!arguments.global.debug);
        let Some(Command::List(list)) = arguments.command else { panic!("not list") };
        assert_eq!((list.format.as_str(), list.quiet), ("--quiet", false));
    }

    #[test]
    fn after_the_id_everything_belongs_to_the_program() {
        let arguments = parsed("corten exec -e A=b -env C=d c1 sh -c -- --env");
        let Some(Command::Exec(exec)) = arguments.command else { panic!("not exec") };
        assert_eq!(exec.env, ["A=b", "C=d"]);
        let (id, rest) = exec.split().unwrap();
        assert_eq!((id.as_str(), rest), ("c1", ["sh", "-c", "--", "--env"].map(OsString::from).to_vec()));
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_of_go() {
        for (line, message, status) in [
            ("corten nosuch", "No help topic for 'nosuch'\n", 3),
            ("corten help nosuch", "No help topic for 'nosuch'\n", 3),
            ("corten --root", "flag needs an argument: -root", 1),
            ("corten list ---q", "bad flag syntax: ---q", 1),
            ("corten list -=q", "bad flag syntax: -=q", 1),
            ("corten list -qf json", "flag provided but not defined: -qf", 1),
            ("corten list --quiet=maybe", "invalid boolean value \"maybe\" for -quiet: parse error", 1),
            ("corten list x", "corten: \"list\" requires exactly 0 argument(s)", 1),
            ("/x/corten state", "/x/corten: \"state\" requires exactly 1 argument(s)", 1),
            ("corten state a b", "corten: \"state\" requires exactly 1 argument(s)", 1),
            ("corten exec -d", "corten: \"exec\" requires a minimum of 1 argument(s)", 1),
            ("corten kill a KILL b", "corten: \"kill\" requires a maximum of 2 argument(s)", 1),
            ("corten exec -p", "flag needs an argument: -p", 1),
            ("corten create --preserve-fds x a", "invalid value \"x\" for flag -preserve-fds: parse error", 1),
        ] {
            assert_eq!(wrong(line), (message.to_string(), status), "{line}");
        }
    }
}
