//! What this process has been given by its caller: asked of the kernel once, in one read.

use crate::error::{Context, Error, Result};
use crate::files;
use crate::signals::Inherited;
use crate::sys;
use nix::errno::Errno;
use std::path::Path;

const CAP_SETGID: u64 = 1 << 6;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// The runtime's own privileges and signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its real user.
    pub uid: u32,
    /// What would reach the container, for it stays over execve (rule R15).
    pub signals: Inherited,
    /// Its permitted capabilities, one bit each.
    pub permitted: u64,
    /// Whether it may mount in its own mount namespace: without CAP_SYS_ADMIN a container needs a user namespace.
    pub may_mount: bool,
    /// Whether it is in another user namespace than the first: then there are things that even root cannot do, such as
    /// making device nodes.
    pub is_nested: bool,
}

impl Caller {
    /// Reads /proc/self/status (proc(5)) and the name of the user namespace.
    pub fn look() -> Result<Caller> {
        let path = "/proc/self/status";
        let status = files::read_text(Path::new(path))?;
        let number = |name: &str, radix| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.strip_prefix(':'));
            value
                .and_then(|value| u64::from_str_radix(value.split_whitespace().next()?, radix).ok())
                .ok_or_else(|| Error::new(format!("{path} has no line {name}")))
        };
        let mask = |name: &str| number(name, 16);
        let ignored = mask("SigIgn")?;
        if ignored & 1 << (libc::SIGCHLD - 1) != 0 {
            // The kernel would reap our children before we could ask how they ended.
            sys::default_signal(libc::SIGCHLD);
        }
        Ok(Caller {
            uid: number("Uid", 10)? as u32,
            signals: Inherited { ignored, blocked: mask("SigBlk")? },
            permitted: mask("CapPrm")?,
            may_mount: mask("CapEff")? & CAP_SYS_ADMIN != 0,
            is_nested: Caller::is_in_userns()?,
        })
    }

    /// Whether this process is in another user namespace than the first.
    pub fn is_in_userns() -> Result<bool> {
        let user = "/proc/self/ns/user";
        // The number of the first user namespace is fixed: PROC_USER_INIT_INO of linux/proc_ns.h.
        let namespace = nix::fcntl::readlink(user).context(|| format!("readlink {user}"))?;
        Ok(namespace != "user:[4026531837]")
    }

    /// Whether it is its user namespace, and nothing else, that decides if this process may change its groups.
    pub fn has_groups_of_userns(&self) -> bool {
        self.is_nested && self.permitted & CAP_SETGID != 0
    }

    /// Whether this error of making a cgroup is one that a user without rights there has to live with; `wish` is what
    /// `--rootless` says of it.
    pub fn may_do_without_cgroup(&self, error: &Error, wish: Option<bool>) -> bool {
        let refused = matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS));
        refused && wish.unwrap_or(self.is_nested || !self.may_mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let caller = Caller::look().unwrap();
        assert_eq!(caller.signals.ignored & 1 << (libc::SIGKILL - 1), 0);
        assert_eq!(caller.uid, nix::unistd::getuid().as_raw());
    }
}
