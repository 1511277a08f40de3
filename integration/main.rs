//! The integration suite: the real binary on real bundles, looked at from inside and from outside.
//!
//! ```text
//! cargo test --test integration [-- [--view host|v2] [--list] [--jobs N] [--patience N] [--systemd] [--setup NAME]
//!                                   [--user UID] [SUBSTRING ...]]
//! CORTEN_UNDER_TEST=/usr/sbin/runc cargo test --test integration      the same tests on another runtime
//! ```
//!
//! It needs root. Everything happens in a private mount namespace; `--view v2` replaces the machine's cgroup mounts there
//! by one cgroup2. With `--user` an ordinary user calls the runtime, and each config.json is adapted (`invoker.rs`);
//! `--systemd` passes `--systemd-cgroup`. integration/vm/suite runs it in virtual machines. Each test has a directory, a `--root` and
//! container ids of its own, and fails when it leaves anything behind. What another runtime is known to do differently is
//! listed in `known-differences.tsv`, what a set-up does not try in `not-here.tsv`.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::too_many_lines
)]

mod attacks;
mod broken_input;
mod bundle;
mod callers;
mod cgroups;
mod commands;
mod devices;
mod dialect;
mod docker_like;
mod engine_configs;
mod exec;
mod golden;
mod harness;
mod hooks;
mod idmaps;
mod invoker;
mod kill_points;
mod leftovers;
mod lifecycle;
mod limits;
mod lsm;
mod masks;
mod mount_options;
mod mount_sources;
mod mounts;
mod namespaces;
mod netdev;
mod notify;
mod process;
mod rdt;
mod recovery;
mod resctrl;
mod rootless;
mod runtime;
mod scheduling;
mod seccomp;
mod service;
mod terminal;
mod tidy;
mod time_namespace;
mod userns;

/// The table of tests: one module for each topic.
const MODULES: &[(&str, &[harness::Test])] = &[
    ("lifecycle", lifecycle::TESTS),
    ("process", process::TESTS),
    ("scheduling", scheduling::TESTS),
    ("lsm", lsm::TESTS),
    ("rdt", rdt::TESTS),
    ("mounts", mounts::TESTS),
    ("namespaces", namespaces::TESTS),
    ("netdev", netdev::TESTS),
    ("userns", userns::TESTS),
    ("time_namespace", time_namespace::TESTS),
    ("mount_options", mount_options::TESTS),
    ("mount_sources", mount_sources::TESTS),
    ("idmaps", idmaps::TESTS),
    ("rootless", rootless::TESTS),
    ("devices", devices::TESTS),
    ("cgroups", cgroups::TESTS),
    ("limits", limits::TESTS),
    ("commands", commands::TESTS),
    ("seccomp", seccomp::TESTS),
    ("notify", notify::TESTS),
    ("terminal", terminal::TESTS),
    ("service", service::TESTS),
    ("masks", masks::TESTS),
    ("exec", exec::TESTS),
    ("hooks", hooks::TESTS),
    ("docker_like", docker_like::TESTS),
    ("engine_configs", engine_configs::TESTS),
    ("broken_input", broken_input::TESTS),
    ("attacks", attacks::TESTS),
    ("recovery", recovery::TESTS),
    ("golden", golden::TESTS),
    ("callers", callers::TESTS),
    ("dialect", dialect::TESTS),
    ("tidy", tidy::TESTS),
];

fn main() -> std::process::ExitCode {
    harness::main(MODULES)
}
