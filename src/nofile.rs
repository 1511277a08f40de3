//! The limit on open descriptors (RLIMIT_NOFILE). Every mount of a container is a descriptor before it is attached, and a
//! plan of hundreds needs more of them than most callers allow; the container gets back what the caller had.

use crate::error::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// What every caller is taken to allow. A plan that needs no more costs no system call.
const ORDINARY: u64 = 512;

/// The caller's limit, where ours is another.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    soft: rlim_t,
    hard: rlim_t,
    raised: rlim_t,
}

/// Raises the soft limit of this process, if `count` descriptors may be too many for it and the hard limit allows more.
pub fn raise(count: u64) -> Result<Option<Limit>> {
    if count <= ORDINARY {
        return Ok(None);
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context(|| "getrlimit(NOFILE)")?;
    let limit = Limit { soft, hard, raised: count.min(hard) };
    if limit.raised <= soft {
        return Ok(None);
    }
    limit.raise_again()?;
    Ok(Some(limit))
}

impl Limit {
    /// The caller's limit again; what is open stays open.
    pub fn give_back(self) -> Result<()> {
        self.set(self.soft)
    }

    /// After [`Limit::give_back`].
    pub fn raise_again(self) -> Result<()> {
        self.set(self.raised)
    }

    fn set(self, soft: rlim_t) -> Result<()> {
        setrlimit(Resource::RLIMIT_NOFILE, soft, self.hard).context(|| format!("setrlimit(NOFILE, {soft})"))
    }
}
