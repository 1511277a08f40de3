//! The command line: argv -> [`Arguments`]. Flags, defaults, messages and exit statuses are runc's.
//!
//! Go programs take `-flag` and `--flag` alike and callers use that (containerd sends `-no-subreaper`), so long flags
//! with one dash are rewritten before clap sees them.

use crate::error::{Error, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

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
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    pub root: Option<PathBuf>,
    /// Append the log to this file instead of writing it to stderr
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub log: Option<PathBuf>,
    /// Format of the log: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", allow_hyphen_values = true)]
    pub log_format: String,
    /// Log what happens, too
    #[arg(long)]
    pub debug: bool,
    /// Print the version
    #[arg(short, long)]
    pub version: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
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
}

/// What `create` and `run` share.
#[derive(clap::Args, Debug, Clone)]
pub struct CreateArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".", allow_hyphen_values = true)]
    pub bundle: PathBuf,
    /// Write the pid of the container's init to this file
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub pid_file: Option<PathBuf>,
    /// Stay in the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass N more descriptors, 3 and up, to the container
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true)]
    pub preserve_fds: u32,
}

/// `run`
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
    /// Don't adopt and reap the container's orphans while waiting
    #[arg(long)]
    pub no_subreaper: bool,
}

/// Commands that take just an id.
#[derive(clap::Args, Debug)]
pub struct IdArg {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
}

/// `exec`
#[derive(clap::Args, Debug)]
pub struct ExecArgs {
    /// File with the process as JSON (config.json's `process`)
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub process: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// Numeric user and group
    #[arg(short, long, value_name = "UID[:GID]", allow_hyphen_values = true)]
    pub user: Option<String>,
    /// Return as soon as the process runs
    #[arg(short, long)]
    pub detach: bool,
    /// Write the pid of the process to this file
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub pid_file: Option<PathBuf>,
    /// Pass N more descriptors, 3 and up, to the process
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true)]
    pub preserve_fds: u32,
    /// Name of the container, then the program and its arguments
    #[arg(value_names = ["CONTAINER-ID", "COMMAND"], trailing_var_arg = true, required = true)]
    pub words: Vec<OsString>,
}

/// `kill`
#[derive(clap::Args, Debug)]
pub struct KillArgs {
    /// Obsolete; accepted, and then a stopped container is no error
    #[arg(short, long, hide = true)]
    pub all: bool,
    /// Name of the container, then the signal as a number or name
    #[arg(value_names = ["CONTAINER-ID", "SIGNAL"], trailing_var_arg = true, required = true)]
    pub words: Vec<String>,
}

/// `delete`
#[derive(clap::Args, Debug)]
pub struct DeleteArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Kill the container first; no error if it does not exist
    #[arg(short, long)]
    pub force: bool,
}

/// `list`
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", allow_hyphen_values = true)]
    pub format: String,
    /// Only the ids
    #[arg(short, long)]
    pub quiet: bool,
}

/// `ps`
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

/// `update`; sizes are numbers of bytes, also like 50M
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

/// `events`
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Time between two lines of statistics, like 5s or 100ms
    #[arg(long, value_name = "TIME", default_value = "5s", allow_hyphen_values = true)]
    #[arg(value_parser = crate::events::parse_interval)]
    pub interval: i64,
    /// Print the statistics once
    #[arg(long)]
    pub stats: bool,
}

/// `spec`
#[derive(clap::Args, Debug)]
pub struct SpecArgs {
    /// Directory to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".", allow_hyphen_values = true)]
    pub bundle: PathBuf,
    /// For a user without privileges
    #[arg(long)]
    pub rootless: bool,
}

/// What came of parsing.
pub enum Parsed {
    /// Run this.
    Run(Box<Arguments>),
    /// Print this to stdout and exit with 0: help.
    Print(String),
    /// A wrong call: help for stdout, a first line for stderr, the message, and the exit status.
    Wrong { help: String, usage: Option<String>, message: String, status: i32 },
}

/// Parses the command line.
pub fn parse(args: Vec<OsString>) -> Parsed {
    let words = rewrite(args);
    let mut command = Arguments::command();
    let wrong = match command.try_get_matches_from_mut(&words) {
        Ok(matches) => match Arguments::from_arg_matches(&matches) {
            Ok(arguments) => return Parsed::Run(Box::new(arguments)),
            Err(error) => error,
        },
        Err(error) => error,
    };
    if wrong.kind() == ErrorKind::DisplayHelp {
        return Parsed::Print(wrong.to_string());
    }
    explain(&wrong, &words, &mut command)
}

/// The help of the whole program.
pub fn help() -> String {
    Arguments::command().render_help().to_string()
}

/// runc's words for what is wrong with the call; engines probe for some of them.
#[allow(clippy::too_many_lines, reason = "a flat table of messages")]
fn explain(wrong: &clap::Error, words: &[OsString], command: &mut clap::Command) -> Parsed {
    let name = subcommand_name(words, command);
    let mut help = match name.as_deref().and_then(|name| command.find_subcommand_mut(name)) {
        Some(subcommand) => subcommand.render_help().to_string(),
        None => command.render_help().to_string(),
    };
    let context = |kind| match wrong.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let flag = |text: String| text.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-').to_string();
    let usage = |text: String| (Some(format!("Incorrect Usage: {text}\n")), text);
    let (usage, message) = match wrong.kind() {
        ErrorKind::InvalidSubcommand => {
            let message = format!("No help topic for '{}'\n", context(ContextKind::InvalidSubcommand));
            return Parsed::Wrong { help: String::new(), usage: None, message, status: 3 };
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues if name.is_some() => {
            help = format!("Incorrect Usage.\n\n{help}");
            let name = name.unwrap_or_default();
            let count = if matches!(name.as_str(), "exec" | "kill" | "ps") { "a minimum of 1" } else { "exactly 1" };
            (None, format!("{}: {name:?} requires {count} argument(s)", program(words)))
        }
        ErrorKind::UnknownArgument if !context(ContextKind::InvalidArg).starts_with('-') => {
            help = format!("Incorrect Usage.\n\n{help}");
            (None, format!("{}: {:?} requires exactly 1 argument(s)", program(words), name.unwrap_or_default()))
        }
        ErrorKind::UnknownArgument => {
            usage(format!("flag provided but not defined: -{}", flag(context(ContextKind::InvalidArg))))
        }
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            usage(format!("flag needs an argument: -{}", flag(context(ContextKind::InvalidArg))))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let (value, name) = (context(ContextKind::InvalidValue), flag(context(ContextKind::InvalidArg)));
            usage(format!("invalid value {value:?} for flag -{name}: parse error"))
        }
        _ => {
            let text = wrong.to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string();
            usage(line)
        }
    };
    Parsed::Wrong { help, usage, message, status: 1 }
}

fn program(words: &[OsString]) -> String {
    words.first().map_or_else(|| "corten".to_string(), |word| word.to_string_lossy().into_owned())
}

fn subcommand_name(words: &[OsString], command: &clap::Command) -> Option<String> {
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    words.iter().skip(1).filter_map(|word| word.to_str()).find(|word| names.contains(word)).map(str::to_string)
}

/// Turns `-long` into `--long` up to `--`, and in exec, kill and ps up to the first argument that is no flag, for what
/// follows belongs to the user's program there.
fn rewrite(words: Vec<OsString>) -> Vec<OsString> {
    let mut ended = false;
    let mut stops_at_argument = false;
    let mut skip_value = false;
    let mut rewritten = Vec::with_capacity(words.len());
    for (position, word) in words.into_iter().enumerate() {
        let bytes = word.as_bytes();
        if position == 0 || ended || skip_value {
            skip_value = false;
            rewritten.push(word);
            continue;
        }
        if !bytes.starts_with(b"-") {
            ended = stops_at_argument;
            stops_at_argument |= matches!(bytes, b"exec" | b"kill" | b"ps");
            rewritten.push(word);
            continue;
        }
        ended = bytes == b"--";
        let name = bytes.split(|&byte| byte == b'=').next().unwrap_or_default();
        // A flag of one letter is a short one in both worlds, and a number is the value of a flag.
        let is_number = name.get(1).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.');
        let long = if name.len() > 2 && !name.starts_with(b"--") && !is_number {
            [b"-", bytes].concat()
        } else {
            bytes.to_vec()
        };
        // In exec, kill and ps the value of a flag must not be taken for the first argument.
        let with_value: &[&[u8]] = &[
            b"-p",
            b"--process",
            b"-process",
            b"--cwd",
            b"-cwd",
            b"-e",
            b"--env",
            b"-env",
            b"-u",
            b"--user",
            b"-user",
            b"--pid-file",
            b"-pid-file",
            b"--preserve-fds",
            b"-preserve-fds",
            b"-f",
            b"--format",
            b"-format",
        ];
        skip_value = stops_at_argument && !bytes.contains(&b'=') && with_value.contains(&name);
        rewritten.push(OsString::from_vec(long));
    }
    rewritten
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

    fn rewritten(line: &str) -> String {
        let words = rewrite(line.split(' ').map(OsString::from).collect());
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn long_flags_may_have_one_dash() {
        assert_eq!(
            rewritten("corten -root /r run -no-subreaper -b x id"),
            "corten --root /r run --no-subreaper -b x id"
        );
        assert_eq!(rewritten("corten exec -cwd /x c1 ls -all"), "corten exec --cwd /x c1 ls -all");
        assert_eq!(rewritten("corten exec c1 -- -long"), "corten exec c1 -- -long");
        assert_eq!(rewritten("corten update -memory -50M c1"), "corten update --memory -50M c1");
        assert_eq!(rewritten("corten ps -format json c1 -eo pid"), "corten ps --format json c1 -eo pid");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn after_the_id_everything_belongs_to_the_program() {
        let words = ["corten", "exec", "-e", "A=b", "c1", "sh", "-c", "--env"].map(OsString::from);
        let arguments = Arguments::try_parse_from(words).unwrap();
        let Some(Command::Exec(exec)) = arguments.command else { panic!("not exec") };
        let (id, rest) = exec.split().unwrap();
        assert_eq!((id.as_str(), rest.len()), ("c1", 3));
    }
}
