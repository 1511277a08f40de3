//! The files of a cgroup: every value that corten writes into one, or reads from one, passes through here.
//!
//! A [`Setting`] is plain data, so that what becomes of a limit can be decided and tested without a kernel (`limits.rs`).

use crate::error::{Error, Result};
use crate::files;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// One value for one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name begins with the controller: `memory.max`.
    pub file: String,
    pub value: String,
    pub otherwise: Otherwise,
}

/// What to do where the kernel has no such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otherwise {
    /// The limit cannot be had: an error.
    Refuse,
    /// Nothing, for the value asks for no limit.
    Skip,
    /// Write this value into this other file.
    Use(String, String),
}

impl Setting {
    /// A value that must be written.
    pub fn must(file: impl Into<String>, value: impl ToString) -> Setting {
        Setting { file: file.into(), value: value.to_string(), otherwise: Otherwise::Refuse }
    }

    /// A value that need not be written where there is no such file.
    pub fn may(file: impl Into<String>, value: impl ToString) -> Setting {
        Setting { file: file.into(), value: value.to_string(), otherwise: Otherwise::Skip }
    }

    /// A value for the first of two files that exists; their controller is the same.
    pub fn either(first: (&str, impl ToString), second: (&str, impl ToString)) -> Setting {
        let otherwise = Otherwise::Use(second.0.to_string(), second.1.to_string());
        Setting { file: first.0.to_string(), value: first.1.to_string(), otherwise }
    }

    /// The controller that the file belongs to; `cgroup` has none.
    pub fn controller(&self) -> &str {
        controller_of(&self.file)
    }

    /// Whether there is something to do without the controller, too.
    pub fn is_optional(&self) -> bool {
        self.otherwise == Otherwise::Skip
    }

    fn write(&self, directory: BorrowedFd<'_>) -> Result<()> {
        match (write(directory, &self.file, &self.value), &self.otherwise) {
            (Err(error), Otherwise::Skip) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            (Err(error), _) if error.errno() == Some(Errno::EBUSY) && self.file == "memory.limit_in_bytes" => {
                Err(in_use(directory, &self.value).unwrap_or(error))
            }
            (Err(error), Otherwise::Use(file, value)) if error.errno() == Some(Errno::ENOENT) => {
                write(directory, file, value)
            }
            // Some files take one line a write.
            (Err(error), _) if error.errno() == Some(Errno::EINVAL) && self.value.trim_end().contains('\n') => {
                self.value.lines().try_for_each(|line| write(directory, &self.file, line))
            }
            (result, _) => result,
        }
    }

    /// What the file holds before the setting is written, as the setting that brings it back.
    pub fn previous(&self, directory: BorrowedFd<'_>) -> Result<Option<Setting>> {
        let (mut file, mut value) = (&self.file, &self.value);
        let mut text = read(directory, file)?;
        if let (None, Otherwise::Use(other, its_value)) = (&text, &self.otherwise) {
            (file, value) = (other, its_value);
            text = read(directory, file)?;
        }
        Ok(text.map(|text| Setting::must(file.clone(), former_value(file, value, &text))))
    }
}

/// The part of a file's text that a value replaces, in the form in which it is written.
fn former_value(file: &str, value: &str, text: &str) -> String {
    let key = value.split_whitespace().next().filter(|_| value.trim().contains(' '));
    let is_device = key.is_some_and(|key| key.contains(':'));
    match key {
        Some(key) if is_device || matches!(file, "rdma.max" | "net_prio.ifpriomap") => {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
            line.map_or_else(|| format!("{key} {}", no_limit(file)), str::to_string)
        }
        _ if file == "memory.oom_control" => {
            let disabled = text.lines().find_map(|line| line.strip_prefix("oom_kill_disable "));
            disabled.unwrap_or("0").to_string()
        }
        // Nothing is what a write of nothing would not write.
        _ if text.trim().is_empty() => "\n".to_string(),
        _ => text.trim_end().to_string(),
    }
}

/// What takes the limit of one device away.
fn no_limit(file: &str) -> &'static str {
    match file {
        "io.max" => "rbps=max wbps=max riops=max wiops=max",
        file if file.starts_with("blkio.throttle.") => "0",
        _ => "default",
    }
}

fn controller_of(file: &str) -> &str {
    file.split('.').next().unwrap_or_default()
}

/// Writes the settings of one cgroup. Those of one controller may depend on each other and on what is there already (a
/// quota is not less than the burst), so that one which is refused as invalid is tried again after the others. If all
/// of them together are legal, there is an order in which each is, and this finds it: each that is accepted keeps what
/// is there legal.
pub fn write_all<'a>(directory: BorrowedFd<'_>, settings: impl IntoIterator<Item = &'a Setting>) -> Result<()> {
    let mut waiting: Vec<&Setting> = settings.into_iter().collect();
    loop {
        let mut refused = Vec::new();
        let mut first_error = None;
        for setting in &waiting {
            match setting.write(directory) {
                Err(error) if error.errno() == Some(Errno::EINVAL) => {
                    refused.push(*setting);
                    first_error.get_or_insert(error);
                }
                result => result?,
            }
        }
        match first_error {
            None => return Ok(()),
            Some(error) if refused.len() == waiting.len() => return Err(error),
            Some(_) => waiting = refused,
        }
    }
}

/// Brings back what [`Setting::previous`] has kept, in as many rounds as it takes; an error names what could not be.
pub fn restore(directory: BorrowedFd<'_>, settings: &[Setting]) -> Result<()> {
    for _ in settings {
        settings.iter().for_each(|setting| drop(setting.write(directory)));
    }
    for setting in settings {
        // What the kernel refuses but has anyway is no loss: an idle cgroup shows a weight and takes none.
        if setting.previous(directory)?.as_ref() != Some(setting) {
            return Err(Error::new(format!("{} is not {:?} again", setting.file, setting.value)));
        }
    }
    Ok(())
}

/// runc's words for a limit below what cannot be reclaimed.
fn in_use(directory: BorrowedFd<'_>, limit: &str) -> Option<Error> {
    let usage = read(directory, "memory.usage_in_bytes").ok()??;
    let peak = read(directory, "memory.max_usage_in_bytes").ok()??;
    let (usage, peak) = (usage.trim(), peak.trim());
    let text = format!("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})");
    Some(Error::with_errno(text, Errno::EBUSY))
}

/// Writes one value to a file of a cgroup. ENOENT and its kin get a hint at what the kernel lacks.
pub fn write(directory: BorrowedFd<'_>, file: &str, value: &str) -> Result<()> {
    let what = || format!("write {value:?} to {file} of the container's cgroup");
    let result = files::open_at(directory, Path::new(file), OFlag::O_WRONLY, 0)
        .and_then(|fd| nix::unistd::write(&fd, value.as_bytes()));
    match result {
        Ok(_) => Ok(()),
        Err(errno) => {
            let error = Error::from(errno).context(what());
            Err(match hint(file, value, errno) {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
    }
}

/// Reads a file of a cgroup; None if the kernel has no such file.
pub fn read(directory: BorrowedFd<'_>, file: &str) -> Result<Option<String>> {
    let what = || format!("read {file} of the container's cgroup");
    let fd = match files::open_at(directory, Path::new(file), OFlag::O_RDONLY, 0) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(None),
        Err(errno) => return Err(Error::from(errno).context(what())),
    };
    match files::read(fd, 4095, 16 << 20) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // Files that exist for every cgroup, and a kernel that was told not to fill them (PSI, swap).
        Err(Errno::EOPNOTSUPP | Errno::ENODEV) => Ok(None),
        Err(errno) => Err(Error::from(errno).context(what())),
    }
}

/// What the famous errnos of cgroup files mean.
fn hint(file: &str, value: &str, errno: Errno) -> Option<String> {
    let device = || value.split_whitespace().next().filter(|key| key.contains(':'));
    match errno {
        Errno::ENOENT => Some(what_is_missing(file)),
        Errno::ENODEV => device().map(|device| format!("there is no block device {device}")),
        Errno::EOPNOTSUPP => {
            device().map(|device| format!("the I/O scheduler of {device} is another than {file} belongs to"))
        }
        Errno::EINVAL if file == "memory.use_hierarchy" => {
            Some("from Linux 5.11 on the cgroups below always share the limits".to_string())
        }
        Errno::EBUSY if file.starts_with("memory.") => Some("more than that is in use".to_string()),
        Errno::EINVAL if file.starts_with("cpu.rt_") => {
            Some("the cgroup above, or this one, does not have that much realtime to give away".to_string())
        }
        Errno::EINVAL if file == "cpu.shares" || file == "cpu.weight" => {
            Some("an idle cgroup has no weight".to_string())
        }
        Errno::EINVAL if file == "memory.limit_in_bytes" || file == "memory.memsw.limit_in_bytes" => {
            Some("memory and swap together must not be limited to less than memory".to_string())
        }
        _ => None,
    }
}

/// What of the kernel a file belongs to that is not there.
fn what_is_missing(file: &str) -> String {
    let controller = controller_of(file);
    match file {
        "blkio.weight" | "blkio.weight_device" | "blkio.bfq.weight" | "blkio.bfq.weight_device" => {
            "the kernel has no I/O scheduler with weights on cgroup v1: BFQ or CFQ".to_string()
        }
        "blkio.leaf_weight" | "blkio.leaf_weight_device" => {
            "the kernel has no CFQ scheduler, which alone knew leaf weights".to_string()
        }
        "io.weight" | "io.bfq.weight" => {
            "the kernel has neither the I/O scheduler BFQ nor the io.cost controller".to_string()
        }
        "memory.memsw.limit_in_bytes" | "memory.swap.max" => "the kernel does not account swap".to_string(),
        "cpu.rt_runtime_us" | "cpu.rt_period_us" => "the kernel has no realtime group scheduling".to_string(),
        _ if file.starts_with("hugetlb.") => {
            let size = file.split('.').nth(1).unwrap_or_default();
            format!("the kernel has no huge pages of {size}, or no hugetlb controller")
        }
        _ if file.starts_with("blkio.throttle.") || file == "io.max" => {
            "the kernel cannot throttle block devices".to_string()
        }
        _ => format!("is the controller {controller} there?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_brought_back() {
        let same = [
            ("memory.max", "100", "max\n", "max"),
            ("cpu.max", "1 2", "max 100000\n", "max 100000"),
            ("cpuset.cpus", "0", "\n", "\n"),
            ("io.weight", "default 5", "default 100\n8:0 200\n", "default 100\n8:0 200"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", "0"),
            ("io.max", "8:0 rbps=5", "8:16 rbps=1\n", "8:0 rbps=max wbps=max riops=max wiops=max"),
            (
                "io.max",
                "8:0 rbps=5",
                "8:0 rbps=1 wbps=max riops=max wiops=max\n",
                "8:0 rbps=1 wbps=max riops=max wiops=max",
            ),
            ("blkio.throttle.read_bps_device", "8:0 5", "", "8:0 0"),
            ("blkio.bfq.weight_device", "8:0 50", "8:16 7\n", "8:0 default"),
            ("net_prio.ifpriomap", "lo 5", "lo 0\neth0 3\n", "lo 0"),
            (
                "rdma.max",
                "mlx hca_handle=2",
                "mlx hca_handle=max hca_object=max\n",
                "mlx hca_handle=max hca_object=max",
            ),
        ];
        for (file, value, text, expected) in same {
            assert_eq!(former_value(file, value, text), expected, "{file}");
        }
    }

    #[test]
    fn a_missing_file_says_what_is_missing() {
        for (file, text) in [
            ("blkio.leaf_weight", "CFQ"),
            ("blkio.bfq.weight", "BFQ"),
            ("hugetlb.2MB.max", "2MB"),
            ("memory.max", "controller memory"),
            ("cpu.rt_runtime_us", "realtime"),
        ] {
            assert!(hint(file, "1", Errno::ENOENT).unwrap().contains(text), "{file}");
        }
        assert!(hint("io.max", "8:0 rbps=1", Errno::ENODEV).unwrap().contains("8:0"));
    }
}
