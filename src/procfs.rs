//! The one private handle through which /proc is read and written (rule R4).
//!
//! A path like /proc/self/attr/exec can be redirected by whoever can mount or swap something below /proc. This handle is
//! a procfs that is attached nowhere, so nothing can be mounted on it; and look-ups in it follow no link and enter no
//! other mount all the same.

use crate::error::{Context, Result};
use crate::sys::{FsContext, mount_flags};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::os::fd::OwnedFd;

/// A procfs of this process's PID namespace.
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Mounts it, detached. `sysctl` makes /proc/sys visible, which a handle for anything else has no need of.
    pub fn open(sysctl: bool) -> Result<Procfs> {
        let what = || "open a private procfs";
        let context = FsContext::open(c"proc").context(|| "fsopen(proc)").context(what)?;
        if !sysctl {
            context.set_string(c"subset", c"pid").context(|| "fsconfig(subset=pid)").context(what)?;
        }
        let attributes =
            mount_flags::MOUNT_ATTR_NOSUID | mount_flags::MOUNT_ATTR_NODEV | mount_flags::MOUNT_ATTR_NOEXEC;
        context.mount(attributes).context(|| "fsmount").context(what).map(Procfs)
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Opens an existing file in it; it is never created.
    pub fn open_file(&self, path: &str, flags: OFlag) -> Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_XDEV
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_SYMLINKS,
        );
        openat2(&self.0, path, how).context(|| format!("open /proc/{path}"))
    }

    /// Writes a value in one write(2), as the kernel's parameters want it.
    pub fn write(&self, path: &str, flags: OFlag, value: &[u8]) -> Result<()> {
        let fd = self.open_file(path, flags)?;
        let written = nix::unistd::write(&fd, value).context(|| format!("write /proc/{path}"))?;
        match written == value.len() {
            true => Ok(()),
            false => Err(crate::error::Error::new(format!("write /proc/{path}: only {written} bytes were taken"))),
        }
    }
}
