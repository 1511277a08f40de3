//! Network devices. A new network namespace has one, loopback, and it is down.

use crate::error::{Context, Result};
use crate::sys;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsFd;

/// Brings `lo` up (netdevice(7)).
pub fn loopback_up() -> Result<()> {
    let what = || "bring the loopback device up";
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context(|| "socket")
        .context(what)?;
    sys::set_interface_up(socket.as_fd(), c"lo").context(|| "ioctl(SIOCSIFFLAGS)").context(what)
}
