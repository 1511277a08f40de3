//! The system calls of `crate::scheduling`.

use super::{SysResult, call};
use nix::unistd::Pid;

/// What [`sched_setattr`] sets (sched_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// SCHED_*
    pub policy: u32,
    /// SCHED_FLAG_*
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as the two that follow.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// `sched_setattr(0, attr, 0)`: of the calling thread.
pub fn sched_setattr(attr: &SchedAttr) -> SysResult<()> {
    /// `struct sched_attr` with the clamps of utilisation (SCHED_ATTR_SIZE_VER1), which its flags may name.
    #[repr(C)]
    struct Raw {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        times: [u64; 3],
        clamps: [u32; 2],
    }
    const _: () = assert!(size_of::<Raw>() == 56);
    let SchedAttr { policy, flags, nice, priority, runtime, deadline, period } = *attr;
    let times = [runtime, deadline, period];
    let raw = Raw { size: size_of::<Raw>() as u32, policy, flags, nice, priority, times, clamps: [0; 2] };
    // SAFETY: `raw` outlives the call and has the size that it says.
    unsafe { call(libc::SYS_sched_setattr, [0, &raw const raw as u64, 0, 0, 0, 0]).map(drop) }
}

/// `sched_setaffinity(pid, length, mask)`; pid 0 is the calling thread. The kernel takes out CPUs that do not exist and
/// those outside the process's cpuset.
pub fn sched_setaffinity(pid: Pid, mask: &[u64]) -> SysResult<()> {
    let length = size_of_val(mask) as u64;
    // SAFETY: pointer and length belong to one slice.
    unsafe { call(libc::SYS_sched_setaffinity, [pid.as_raw() as u64, length, mask.as_ptr() as u64, 0, 0, 0]).map(drop) }
}

/// `ioprio_set(IOPRIO_WHO_PROCESS, 0, value)`: of the calling thread; the class is in the bits from 13 on.
pub fn ioprio_set(value: u32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_ioprio_set, [1, 0, u64::from(value), 0, 0, 0]).map(drop) }
}

/// `set_mempolicy(mode, nodes, maxnode)`, one bit a node. The kernel reads one bit less than `maxnode` says.
pub fn set_mempolicy(mode: u32, nodes: &[u64]) -> SysResult<()> {
    let (pointer, bits) = match nodes.len() as u64 * 64 {
        0 => (0, 0),
        bits => (nodes.as_ptr() as u64, bits + 1),
    };
    // SAFETY: the kernel reads as many bits as the slice has; without nodes the pointer is null, which it allows.
    unsafe { call(libc::SYS_set_mempolicy, [u64::from(mode), pointer, bits, 0, 0, 0]).map(drop) }
}

/// `personality(persona)`
pub fn personality(persona: u32) -> SysResult<()> {
    // SAFETY: no pointers.
    unsafe { call(libc::SYS_personality, [u64::from(persona), 0, 0, 0, 0, 0]).map(drop) }
}
