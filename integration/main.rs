//! The integration suite: the real binary on real bundles, looked at from inside and from outside.
//!
//! ```text
//! cargo test --test integration [-- [--view host|v2] [--list] [--jobs N] [SUBSTRING ...]]
//! CORTEN_UNDER_TEST=/usr/sbin/runc cargo test --test integration      the same tests on another runtime
//! ```
//!
//! Needs root. Everything happens in a private mount namespace; `--view v2` replaces the machine's cgroup mounts there
//! by one cgroup2. Each test has a directory, a `--root` and container ids of its own, and fails when it leaves anything
//! behind. What another runtime is known to do differently is listed in `known-differences.tsv`.

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
mod cgroups;
mod devices;
mod docker_like;
mod harness;
mod hooks;
mod kill_points;
mod leftovers;
mod lifecycle;
mod lsm;
mod masks;
mod mounts;
mod namespaces;
mod process;
mod rdt;
mod recovery;
mod resctrl;
mod runtime;
mod scheduling;
mod seccomp;
mod tidy;

/// The table of tests: one module for each topic.
const MODULES: &[(&str, &[harness::Test])] = &[
    ("lifecycle", lifecycle::TESTS),
    ("process", process::TESTS),
    ("scheduling", scheduling::TESTS),
    ("lsm", lsm::TESTS),
    ("rdt", rdt::TESTS),
    ("mounts", mounts::TESTS),
    ("namespaces", namespaces::TESTS),
    ("devices", devices::TESTS),
    ("cgroups", cgroups::TESTS),
    ("seccomp", seccomp::TESTS),
    ("masks", masks::TESTS),
    ("hooks", hooks::TESTS),
    ("docker_like", docker_like::TESTS),
    ("broken_input", broken_input::TESTS),
    ("attacks", attacks::TESTS),
    ("recovery", recovery::TESTS),
    ("tidy", tidy::TESTS),
];

fn main() -> std::process::ExitCode {
    harness::main(MODULES)
}
