//! Finds what a test has left: processes, cgroups, files below `--root`, mounts. Everything of a test carries its tag.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::Case;

/// How long the kernel may take to end a process that has been killed, times the patience.
const GRACE: Duration = Duration::from_millis(500);

/// The mounts of the harness, a line each, less the numbers that the kernel hands out anew.
pub struct Mountinfo(BTreeSet<String>);

impl Mountinfo {
    /// The mounts as they are now.
    pub fn read() -> Mountinfo {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Mountinfo(text.lines().map(str::to_owned).collect())
    }

    /// Takes what a test has changed for what was there before, so that only that test fails.
    pub fn accept(&mut self) {
        let of_tests = |line: &String| line.contains("corten-it-");
        let now = Mountinfo::read().0.into_iter().filter(|line| !of_tests(line));
        self.0 = now.chain(std::mem::take(&mut self.0).into_iter().filter(of_tests)).collect();
    }
}

/// Mounts that are there and were not, or were there and are not, whoever did it.
pub fn strayed_mounts(before: &Mountinfo) -> Vec<String> {
    let now = Mountinfo::read();
    let appeared = now.0.difference(&before.0).map(|line| format!("mount appeared: {line}"));
    appeared.chain(before.0.difference(&now.0).map(|line| format!("mount vanished or changed: {line}"))).collect()
}

/// Everything that is left of a test, in words. After a failure nobody deletes, so nothing is waited for.
pub fn find(case: &Case, before: &Mountinfo, wait: bool) -> Vec<String> {
    let end = Instant::now() + case.patience(GRACE);
    loop {
        let left = look(case, before);
        if left.is_empty() || !wait || Instant::now() > end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn look(case: &Case, before: &Mountinfo) -> Vec<String> {
    let mut left: Vec<String> =
        processes(&case.tag).iter().map(|(pid, command)| format!("process {pid} ({command})")).collect();
    left.extend(cgroup_directories_named(&case.tag).iter().map(|path| format!("cgroup {}", path.display())));
    // A name that begins with a dot is no container's (ids do not): a runtime may keep a cache there.
    let entries = fs::read_dir(case.root()).into_iter().flatten().flatten().map(|entry| entry.path());
    left.extend(entries.filter(|path| !has_leading_dot(path)).map(|path| format!("{} in --root", path.display())));
    // Other tests run at the same time and may mount in directories of their own, which carry another tag.
    let mounts = strayed_mounts(before);
    left.extend(mounts.into_iter().filter(|line| line.contains(&case.tag) || !line.contains("corten-it-")));
    left
}

fn has_leading_dot(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Processes of a test: by their cgroup, environment, arguments or by where their output goes.
fn processes(tag: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let dir = entry.path();
        let files = ["cgroup", "environ", "cmdline"];
        let by_file = files
            .iter()
            .any(|file| fs::read(dir.join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(tag)));
        let links = ["fd/1", "fd/2", "cwd"];
        let by_link = links
            .iter()
            .any(|link| fs::read_link(dir.join(link)).is_ok_and(|target| target.to_string_lossy().contains(tag)));
        if (by_file || by_link) && Pid::from_raw(pid) != nix::unistd::getpid() {
            let command = fs::read_to_string(dir.join("comm")).unwrap_or_default();
            // The kernel starts it, where systemd manages v1, to tell of a cgroup that has become empty.
            if command.trim() == "systemd-cgroups" {
                continue;
            }
            found.push((pid, command.trim().to_owned()));
        }
    }
    found
}

/// Cgroups, in every hierarchy, whose name contains a text; the deepest first, so that they can be removed in order.
pub fn cgroup_directories_named(text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.to_string_lossy().contains(text) {
                    found.push(path.clone());
                }
                pending.push(path);
            }
        }
    }
    found.sort();
    found.reverse();
    found
}

/// Ends what a failed test has left. Only what carries the test's own tag is touched.
pub fn remove(case: &Case) {
    for dir in cgroup_directories_named(&case.tag) {
        // Only files that are there: the directory could lie in a tmpfs, where writing would make them.
        for (file, text) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let _ = OpenOptions::new().write(true).open(dir.join(file)).and_then(|mut f| f.write_all(text.as_bytes()));
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes(&case.tag);
        for (pid, _) in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if left.is_empty() || Instant::now() > end {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for dir in cgroup_directories_named(&case.tag) {
        let _ = fs::remove_dir(dir);
    }
}

/// Removes a directory of the suite, never through a mount: mounts below it are detached first, and if one stays the
/// directory stays.
pub fn remove_directory(dir: &Path) {
    let below = |text: &str| -> Vec<PathBuf> {
        let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(dir)).collect()
    };
    let read = || fs::read_to_string("/proc/self/mountinfo");
    let Ok(text) = read() else { return };
    for point in below(&text).iter().rev() {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    if read().is_ok_and(|text| below(&text).is_empty()) {
        let _ = fs::remove_dir_all(dir);
    }
}
