//! The command line's definition: runc's commands, flags and defaults, and those of crun that callers use. The help, the
//! completions and the man pages come from it, too; `cli/parse.rs` is what makes [`Arguments`] of argv.

// The paths are spelled out for the program that writes the man pages, which takes this file as a module of its own.
#[path = "cli/interval.rs"]
mod interval;
#[path = "cli/parse.rs"]
mod parse;
#[path = "cli/words.rs"]
mod words;

pub use parse::{Parsed, Wrong, help, parse};
pub use words::decimal_id;

use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// A fast OCI container runtime, a drop-in for runc: it makes and runs containers from bundles, which are directories with
/// a config.json and a root file system
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
    /// Whether a container may do without cgroups that the caller has no right to make: true, false or auto, which is yes
    /// without the right to mount and in a user namespace [default: auto]
    #[arg(long, value_name = "BOOL")]
    pub rootless: Option<String>,
    /// Print the version
    #[arg(short, long)]
    pub version: bool,
}

impl Global {
    /// What `--rootless` says; None: auto. runc's message says what is wrong with it.
    pub fn may_lack_cgroups(&self) -> Result<Option<bool>> {
        match self.rootless.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("auto") => Ok(None),
            Some(word) => match words::boolean(word) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::new(format!("strconv.ParseBool: parsing {word:?}: invalid syntax"))),
            },
        }
    }
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
    /// What the global flag `--rootless` says, which only these two commands ask for.
    #[arg(skip)]
    pub may_lack_cgroups: Option<bool>,
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
    #[arg(short = 'g', long, value_name = "GID", value_parser = words::id)]
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
#[command(override_usage = "corten kill [OPTIONS] <CONTAINER-ID> [SIGNAL]")]
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
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: String,
    /// Name of the container, then options for ps(1) instead of -ef
    #[arg(value_names = ["CONTAINER-ID", "PS-OPTION"], trailing_var_arg = true, required = true)]
    pub words: Vec<OsString>,
}

// `update`; sizes are numbers of bytes, also like 50M
#[derive(clap::Args, Debug, Default)]
pub struct UpdateArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Read all limits from this JSON file (config.json's `linux.resources`), or from stdin if it is -
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight of block I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<i64>,
    /// Length of the period that a quota is for, in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_period: Option<String>,
    /// CPU time in a period, in microseconds; -1: unlimited
    #[arg(long, value_name = "TIME")]
    pub cpu_quota: Option<String>,
    /// CPU time that may be saved up for later periods, in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_burst: Option<String>,
    /// CPU shares, relative to other containers
    #[arg(long, value_name = "SHARES")]
    pub cpu_share: Option<String>,
    /// Length of the period for realtime processes, in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_rt_period: Option<String>,
    /// CPU time of realtime processes in their period, in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_rt_runtime: Option<String>,
    /// 1: run only when nobody else wants to (SCHED_IDLE); 0: as usual
    #[arg(long, value_name = "0|1")]
    pub cpu_idle: Option<String>,
    /// CPUs to run on, like 0-3,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory; -1: unlimited
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory that is kept when others need it
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1: unlimited
    #[arg(long, value_name = "SIZE")]
    pub memory_swap: Option<String>,
    /// Obsolete; ignored
    #[arg(long, hide = true)]
    pub kernel_memory: Option<String>,
    /// Obsolete; ignored
    #[arg(long, hide = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Number of processes; -1: unlimited
    #[arg(long, value_name = "NUMBER")]
    pub pids_limit: Option<i64>,
    /// Schema of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
}

// `events`
#[derive(clap::Args, Debug)]
pub struct EventsArgs {
    /// Name of the container
    #[arg(value_name = "CONTAINER-ID")]
    pub id: String,
    /// Time between two lines of statistics, like 5s or 100ms
    #[arg(long, value_name = "TIME", default_value = "5s")]
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

impl ExecArgs {
    /// The container's id and the words after it.
    pub fn split(&self) -> Result<(String, Vec<OsString>)> {
        let (id, rest) = self.words.split_first().ok_or_else(|| Error::new("exec needs a container id"))?;
        let id = id.to_str().ok_or_else(|| Error::new("invalid container ID format"))?;
        Ok((id.to_string(), rest.to_vec()))
    }
}
