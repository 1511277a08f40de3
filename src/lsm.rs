//! AppArmor and SELinux: under which profile or label a process runs, its keyring is made and its mounts appear.
//!
//! A configuration that asks for a profile or a label which the kernel cannot give is refused: the process would run
//! unconfined. The labels are written to /proc/PID/attr by way of a private procfs, which is opened before anything of
//! the container is mounted (rule R4, CVE-2025-52881), and read back, so that a write which went elsewhere or was
//! swallowed is noticed. Without a label nothing of this costs a system call.

use crate::error::{Context, Error, Result};
use crate::files;
use crate::log;
use crate::procfs::Procfs;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statfs::{SELINUX_MAGIC, statfs};
use oci_spec::runtime::Process;
use std::ffi::CString;
use std::path::Path;

/// The longest value that the kernel takes from one write to a file in attr (proc(5)): a page, less `exec `.
const MAX_LABEL: usize = 4000;

/// `process.apparmorProfile` and `process.selinuxLabel`.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// Checks the labels of a process and that the kernel knows what they are; `whence` begins the messages.
    pub fn new(process: &Process, whence: &str) -> Result<Labels> {
        let given = |label: &Option<String>, field: &str| match label.as_deref().filter(|label| !label.is_empty()) {
            Some(label) => check(label, &format!("{whence}{field}")).map(|()| Some(label.to_string())),
            None => Ok(None),
        };
        let apparmor = given(process.apparmor_profile(), "/apparmorProfile")?;
        if apparmor.is_some() && !apparmor_is_enabled() {
            return Err(Error::new(format!("{whence}/apparmorProfile: AppArmor is not enabled in this kernel")));
        }
        let selinux = given(process.selinux_label(), "/selinuxLabel")?;
        if selinux.is_some() && !selinux_is_enabled() {
            return Err(Error::new(format!("{whence}/selinuxLabel: SELinux is not enabled in this kernel")));
        }
        Ok(Labels { apparmor, selinux })
    }

    /// The same in the words of CRIU.
    pub fn for_criu(&self) -> Option<String> {
        let apparmor = self.apparmor.as_ref().map(|profile| format!("apparmor:{profile}"));
        apparmor.or_else(|| self.selinux.as_ref().map(|label| format!("selinux:{label}")))
    }

    /// The handle for [`Labels::set`], if there are any: a procfs of the caller's PID namespace.
    pub fn open(&self) -> Result<Option<Procfs>> {
        match self.apparmor.is_some() || self.selinux.is_some() {
            true => Procfs::open(false).map(Some),
            false => Ok(None),
        }
    }

    /// Sets what the calling process becomes with its next execve, and with `keyring` the label of the keys that it makes
    /// until then. Children of a further clone inherit both.
    pub fn set(&self, procfs: &Procfs, keyring: bool) -> Result<()> {
        if let Some(label) = &self.selinux {
            if keyring {
                write(procfs, "keycreate", label, label)
                    .context(|| format!("set the SELinux label {label:?} of the keyring"))?;
            }
            let found = write(procfs, "exec", label, label).context(|| format!("set the SELinux label {label:?}"))?;
            if !same_context(&found, label) {
                return Err(Error::new(format!("set the SELinux label {label:?}: the kernel has {found:?}")));
            }
        }
        if let Some(profile) = &self.apparmor {
            let what = || format!("apply the AppArmor profile {profile:?}");
            let found = write(procfs, "apparmor/exec", &format!("exec {profile}"), profile).context(what)?;
            if !same_profile(&found, profile) {
                return Err(Error::new(format!("{}: the kernel has {found:?}", what())));
            }
        }
        Ok(())
    }
}

/// Writes an attribute of the calling process and returns what it then is.
fn write(procfs: &Procfs, attribute: &str, value: &str, label: &str) -> Result<String> {
    // By number, not by the link `self`, for no link is followed in there.
    let path = format!("{}/attr/{attribute}", nix::unistd::getpid());
    procfs.write(&path, OFlag::O_WRONLY, value.as_bytes()).map_err(|error| match error.errno() {
        Some(Errno::ENOENT) => error.hint(format!("the profile {label:?} is not loaded")),
        Some(Errno::EINVAL) => error.hint("the policy of this machine does not know it"),
        _ => error,
    })?;
    let fd = procfs.open_file(&path, OFlag::O_RDONLY)?;
    let bytes = files::read(fd, MAX_LABEL, MAX_LABEL * 2).context(|| format!("read /proc/{path}"))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\0', '\n']).to_string())
}

/// Whether the kernel's `NAME (MODE)` is a profile. One of a namespace, and a stack of several, it spells as it likes.
fn same_profile(found: &str, profile: &str) -> bool {
    let name = found.rsplit_once(" (").map_or(found, |(name, _)| name);
    name == profile || !name.is_empty() && (profile.starts_with(':') || profile.contains("//"))
}

/// Whether two SELinux contexts are the same user, role and type. Of the level that follows there are several spellings.
fn same_context(found: &str, label: &str) -> bool {
    found.split(':').take(3).eq(label.split(':').take(3))
}

fn check(label: &str, pointer: &str) -> Result<()> {
    if label.contains(['\0', '\n']) {
        return Err(Error::new(format!("{pointer}: contains a NUL character or a line break")));
    }
    if label.len() > MAX_LABEL {
        return Err(Error::new(format!("{pointer}: {} bytes are more than {MAX_LABEL}", label.len())));
    }
    Ok(())
}

/// `linux.mountLabel`, if the kernel has a use for it.
pub fn mount_label(label: Option<&str>) -> Result<Option<CString>> {
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    check(label, "config.json: /linux/mountLabel")?;
    if !selinux_is_enabled() {
        // No process is confined by the label of a file there, so nothing is lost.
        log::warning("config.json: /linux/mountLabel: ignored, for SELinux is not enabled in this kernel");
        return Ok(None);
    }
    Ok(Some(CString::new(label)?))
}

fn apparmor_is_enabled() -> bool {
    let parameter = Path::new("/sys/module/apparmor/parameters/enabled");
    files::read_text(parameter).is_ok_and(|text| text.starts_with('Y'))
}

fn selinux_is_enabled() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|fs| fs.filesystem_type() == SELINUX_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_kernel_answers_is_compared() {
        assert!(same_profile("cri-containerd.apparmor.d (enforce)", "cri-containerd.apparmor.d"));
        assert!(same_profile("a (b) (complain)", "a (b)"));
        assert!(same_profile("unconfined", "unconfined"));
        assert!(same_profile("docker//&x (enforce)", "x//&docker"));
        assert!(!same_profile("", "x") && !same_profile("", ":ns:x") && !same_profile("y (enforce)", "x"));
        assert!(same_context("system_u:system_r:container_t:s0:c1,c2", "system_u:system_r:container_t:s0:c2,c1"));
        assert!(!same_context("system_u:system_r:init_t:s0", "system_u:system_r:container_t:s0"));
        assert!(!same_context("", "system_u:system_r:container_t:s0"));
    }

    #[test]
    fn labels_are_one_line() {
        let process = |label: &str| {
            let value = json!({"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "apparmorProfile": label});
            Labels::new(&serde_json::from_value(value).unwrap(), "config.json: /process")
        };
        for bad in ["a\nb".to_string(), "a\0b".to_string(), "x".repeat(5000)] {
            let message = process(&bad).unwrap_err().to_string();
            assert!(message.starts_with("config.json: /process/apparmorProfile: "), "{message}");
        }
        assert!(process("").unwrap().open().unwrap().is_none());
    }
}
