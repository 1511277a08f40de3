//! Network devices: loopback, and those that `linux.netDevices` moves into the container.
//!
//! The parent moves them, with one socket in its own network namespace and one in the container's, which it enters just
//! long enough to open that. Both sockets keep their namespace alive, so that a container which dies half-made cannot take
//! its devices with it before they are moved back.

mod rtnetlink;

use crate::error::{Context, Error, Result};
use crate::namespaces::{Namespaces, Visit};
use crate::{files, log, sys};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxNetDevice;
use rtnetlink::{Address, Link, Socket};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Brings `lo` up (netdevice(7)). A new network namespace has no other device, and it is down.
pub fn loopback_up() -> Result<()> {
    let what = || "bring the loopback device up";
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context(|| "socket")
        .context(what)?;
    sys::set_interface_up(socket.as_fd(), c"lo").context(|| "ioctl(SIOCSIFFLAGS)").context(what)
}

/// The same in the network namespace of another process.
pub fn loopback_up_in(process: Pid) -> Result<()> {
    let path = format!("/proc/{process}/ns/net");
    let namespace = files::open(Path::new(&path), OFlag::O_RDONLY).context(|| format!("open {path}"))?;
    let visit = Visit::prepare(CloneFlags::CLONE_NEWNET)?;
    sys::setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).context(|| "enter the network namespace: setns")?;
    let done = loopback_up();
    visit.leave()?;
    done
}

/// A network device that is moved into the container (config-linux.md: network devices).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What it is called in the runtime's network namespace.
    pub host: CString,
    /// What it is called in the container's; None: the same. With `%d` at the end the kernel chooses a number.
    pub name: Option<CString>,
}

impl Device {
    fn is_template(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.to_bytes().ends_with(b"%d"))
    }
}

/// Checks the devices and puts them into the order in which they are moved: names first, so that no template takes one
/// that is given to another device, else by their names on the host, so that two runs do the same.
pub fn plan(devices: Option<&HashMap<String, LinuxNetDevice>>, namespaces: &Namespaces) -> Result<Vec<Device>> {
    let mut result: Vec<Device> = Vec::new();
    for (host, device) in devices.into_iter().flatten() {
        let pointer = format!("config.json: /linux/netDevices/{}", host.replace('~', "~0").replace('/', "~1"));
        if !namespaces.has(CloneFlags::CLONE_NEWNET) {
            return Err(Error::new(format!("{pointer}: needs a private network namespace")));
        }
        let name = device.name().as_deref().filter(|name| !name.is_empty());
        let name = name.map(|name| device_name(name, true).context(|| format!("{pointer}/name"))).transpose()?;
        result.push(Device { host: device_name(host, false).context(|| pointer)?, name });
    }
    result.sort_by(|a, b| (a.is_template(), &a.host).cmp(&(b.is_template(), &b.host)));
    for (index, device) in result.iter().enumerate().filter(|(_, device)| !device.is_template()) {
        let name = device.name.as_ref().unwrap_or(&device.host);
        if result.iter().take(index).any(|other| other.name.as_ref().unwrap_or(&other.host) == name) {
            return Err(Error::new(format!("config.json: /linux/netDevices: two devices are to be called {name:?}")));
        }
    }
    Ok(result)
}

/// A name that the kernel takes (net/core/dev.c: dev_valid_name); it would find out too late, when the device has moved.
fn device_name(name: &str, template: bool) -> Result<CString> {
    let bad = |why: &str| Err(Error::new(format!("{name:?} is no name of a network device: {why}")));
    // The kernel reads bytes, and takes one of them for Latin-1's no-break space.
    let refused = |byte: u8| matches!(byte, b'/' | b':' | b' ' | b'\t'..=b'\r' | 0xa0);
    let fixed = if template { name.strip_suffix("%d").unwrap_or(name) } else { name };
    match name {
        "" | "." | ".." => bad("it is empty, . or .."),
        name if name.len() >= libc::IFNAMSIZ => bad("it is longer than 15 bytes"),
        name if name.bytes().any(refused) => bad("it has a slash, a colon or white space in it"),
        _ if template && fixed.contains('%') => bad("% has no meaning but in %d at the end"),
        name => Ok(CString::new(name)?),
    }
}

/// One of the two namespaces.
struct Side {
    namespace: OwnedFd,
    socket: Socket,
}

impl Side {
    /// The network namespace that this process is in.
    fn current() -> Result<Side> {
        let path = "/proc/self/ns/net";
        let namespace = files::open(Path::new(path), OFlag::O_RDONLY).context(|| format!("open {path}"))?;
        Ok(Side { namespace, socket: Socket::new()? })
    }
}

/// A device that has been moved.
struct Moved {
    before: Link,
    /// All that it had.
    addresses: Vec<Address>,
    /// Its index in the container's namespace.
    index: i32,
}

/// The devices on their way into a container, until that is created: then they are its own, and go with its network
/// namespace. Up to there everything can be moved back.
pub struct Transfer {
    here: Side,
    there: Side,
    moved: Vec<Moved>,
}

impl Transfer {
    /// Looks into the network namespace of a child. This process is in its own again when it returns.
    pub fn to(child: BorrowedFd<'_>) -> Result<Transfer> {
        let what = || "look into the container's network namespace";
        let here = Side::current().context(what)?;
        sys::setns(child, CloneFlags::CLONE_NEWNET).context(|| "setns").context(what)?;
        let there = Side::current();
        sys::setns(here.namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .context(|| "leave the container's network namespace: setns")?;
        Ok(Transfer { here, there: there.context(what)?, moved: Vec::new() })
    }

    /// Moves the devices. One that is missing, or whose name is taken, is an error before anything is moved.
    pub fn move_all(&mut self, devices: &[Device]) -> Result<()> {
        let there = self.there.socket.links()?;
        let addresses = self.here.socket.addresses()?;
        let mut found: Vec<(Link, CString)> = Vec::with_capacity(devices.len());
        for device in devices {
            let what = || format!("move the network device {:?} into the container", device.host);
            let link = self.here.socket.link_by_name(&device.host).context(what)?;
            // It may have been found by an alternative name, which goes with it and cannot become its name.
            let name = device.name.as_ref().unwrap_or(&link.name).clone();
            if there.iter().any(|other| other.occupies(&name)) {
                return Err(
                    Error::with_errno(format!("there is a device {name:?} already"), Errno::EEXIST).context(what())
                );
            }
            if found.iter().any(|(other, _)| other.index == link.index) {
                return Err(Error::new(format!("it is {:?}, which is moved already", link.name)).context(what()));
            }
            found.push((link, name));
        }

        let mut indices: Vec<i32> = there.iter().map(|link| link.index).collect();
        for (link, name) in found {
            // Devices keep their index where they can. It is chosen here because the name need not be known.
            let index = match indices.contains(&link.index) {
                false => link.index,
                true => indices.iter().max().map_or(1, |highest| highest.saturating_add(1)),
            };
            indices.push(index);
            let what = format!("move the network device {:?} into the container", link.name);
            let own = addresses.iter().filter(|address| address.index() == Some(link.index)).cloned().collect();
            self.move_one(Moved { before: link, addresses: own, index }, &name).context(|| what)?;
        }
        Ok(())
    }

    /// Moves one device and makes it work there; an error after the move leaves it noted, for `undo`.
    fn move_one(&mut self, moving: Moved, name: &CStr) -> Result<()> {
        let Moved { before, addresses, index } = &moving;
        let result = self.here.socket.move_link(before.index, self.there.namespace.as_fd(), *index, name);
        if let Err(error) = result {
            // What is not here any more has moved, only its name was refused.
            if self.here.socket.link_by_index(before.index).is_err() {
                self.moved.push(moving);
            }
            return Err(error);
        }
        let name = self.there.socket.link_by_index(*index).map(|link| link.name);
        let result = name.and_then(|name| {
            log::debug(|| format!("network device {:?} is {name:?} in the container", before.name));
            // Neither those of the link, which it makes itself, nor those that somebody has to renew.
            for address in addresses.iter().filter(|address| address.is_global_and_permanent()) {
                let address = address.relabelled(&before.name, &name);
                self.there.socket.add_address(*index, &address).context(|| "give it an address")?;
            }
            self.there.socket.set_up(*index).context(|| "set it up")
        });
        self.moved.push(moving);
        result
    }

    /// Moves back what was moved, the last device first, with its name, addresses and state. Routes by way of it are lost,
    /// as they are whenever a device goes down. An error does not keep the rest from being tried; the first is returned.
    pub fn undo(&mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(moved) = self.moved.pop() {
            let what = || format!("move the network device {:?} back", moved.before.name);
            result = result.and(self.move_back(&moved).context(what));
        }
        result
    }

    fn move_back(&self, moved: &Moved) -> Result<()> {
        let (before, socket) = (&moved.before, &self.here.socket);
        let mut result =
            self.there.socket.move_link(moved.index, self.here.namespace.as_fd(), before.index, &before.name);
        if result.is_err() && socket.link_by_index(before.index).is_err() {
            return result;
        }
        for address in &moved.addresses {
            result = result.and(socket.add_address(before.index, address).context(|| "give it an address"));
        }
        if before.up {
            result = result.and(socket.set_up(before.index).context(|| "set it up"));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(devices: serde_json::Value, namespaces: &str) -> Result<Vec<Device>> {
        let namespaces: Vec<_> = serde_json::from_str(namespaces).unwrap();
        let devices = serde_json::from_value(devices).unwrap();
        plan(Some(&devices), &Namespaces::new(&namespaces).unwrap())
    }

    #[test]
    fn names_come_before_templates() {
        let devices = serde_json::json!({"a": {"name": "eth%d"}, "c": {"name": ""}, "b": {"name": "eth0"}});
        let order: Vec<_> = check(devices, r#"[{"type":"network"}]"#).unwrap().into_iter().map(|d| d.host).collect();
        assert_eq!(order, [c"b".to_owned(), c"c".to_owned(), c"a".to_owned()]);
    }

    #[test]
    fn a_bad_name_is_refused_with_its_pointer() {
        for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{b}b", "à", "abcdefghijklmnop", "a\0"] {
            let error = check(serde_json::json!({ name: {} }), r#"[{"type":"network"}]"#).unwrap_err().to_string();
            let pointer = name.replace('/', "~1");
            assert!(error.starts_with(&format!("config.json: /linux/netDevices/{pointer}: ")), "{name:?}: {error}");
        }
        for name in [".", "a/b", "%", "a%", "%d%d", "a%db", "%s", "%%d", "abcdefghijklmn%d"] {
            let devices = serde_json::json!({"a": {"name": name}});
            let error = check(devices, r#"[{"type":"network"}]"#).unwrap_err().to_string();
            assert!(error.starts_with("config.json: /linux/netDevices/a/name: "), "{name:?}: {error}");
        }
        for name in ["a", "é", "a.1", "...", "abcdefghijklmno", "eth%d", "%d", "abcdefghijklm%d"] {
            let devices = serde_json::json!({"a": {"name": name}});
            assert!(check(devices, r#"[{"type":"network"}]"#).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_name_may_be_given_once_and_a_template_often() {
        let twice = serde_json::json!({"a": {"name": "b"}, "b": {}});
        assert!(check(twice, r#"[{"type":"network"}]"#).unwrap_err().to_string().contains("two devices"));
        let often = serde_json::json!({"a": {"name": "b%d"}, "b": {"name": "b%d"}});
        assert_eq!(check(often, r#"[{"type":"network"}]"#).unwrap().len(), 2);
    }

    #[test]
    fn without_a_network_namespace_no_device_is_moved() {
        let devices = serde_json::json!({"a": {}});
        assert!(check(devices.clone(), r#"[{"type":"uts"}]"#).unwrap_err().to_string().contains("network namespace"));
        assert!(check(devices, r#"[{"type":"network","path":"/x"}]"#).is_ok());
    }
}
