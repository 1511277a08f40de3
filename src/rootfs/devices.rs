//! `linux.devices`, the devices that every container has, and the links in /dev.

use super::{Tree, path};
use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// A node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute and clean.
    pub path: PathBuf,
    pub kind: SFlag,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// config-linux.md, "Default Devices"; console and ptmx are made elsewhere.
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links of runtime-linux.md, and those that programs have come to expect.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The default devices, unless /dev comes from somewhere else, and those of the configuration, which win.
pub fn plan(devices: &[LinuxDevice], own_dev: bool) -> Result<Vec<Device>> {
    let mut result: Vec<Device> = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let bad = |field: &str, why: &str| Error::new(format!("config.json: /linux/devices/{index}/{field}: {why}"));
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            LinuxDeviceType::A => return Err(bad("type", "must be one of c, b, u, p")),
        };
        if !device.path().is_absolute() || device.path().as_os_str().as_encoded_bytes().contains(&0) {
            return Err(bad("path", "must be an absolute path"));
        }
        // 12 bits of major and 20 of minor number is what the kernel has (linux/kdev_t.h).
        let number = |value: i64, bits: u32, field: &str| match u64::try_from(value) {
            Ok(value) if value < 1 << bits => Ok(value),
            _ if kind == SFlag::S_IFIFO => Ok(0),
            _ => Err(bad(field, "is out of range")),
        };
        let mode = device.file_mode().unwrap_or(0o666);
        if mode > 0o7777 {
            return Err(bad("fileMode", "must be between 0 and 4095 (07777)"));
        }
        let path = path::clean(device.path());
        if path.file_name().is_none() {
            return Err(bad("path", "cannot be the root itself"));
        }
        let new = Device {
            path,
            kind,
            major: number(device.major(), 12, "major")?,
            minor: number(device.minor(), 20, "minor")?,
            mode,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        };
        match result.iter_mut().find(|known| known.path == new.path) {
            Some(known) => *known = new,
            None => result.push(new),
        }
    }
    if own_dev {
        for (path, major, minor) in DEFAULT {
            if !result.iter().any(|device| device.path == Path::new(path)) {
                let path = PathBuf::from(path);
                result.push(Device { path, kind: SFlag::S_IFCHR, major, minor, mode: 0o666, uid: 0, gid: 0 });
            }
        }
    }
    Ok(result)
}

/// Makes the nodes; the caller's umask must be 0.
pub fn make(tree: &Tree<'_>, devices: &[Device]) -> Result<()> {
    for device in devices {
        make_in_tree(tree, device).context(|| format!("make device {}", device.path.display()))?;
    }
    Ok(())
}

fn make_in_tree(tree: &Tree<'_>, device: &Device) -> Result<()> {
    let name = device.path.file_name().map(PathBuf::from).unwrap_or_default();
    // Nearly all of them lie in /dev, and that is a mount of ours.
    let parent = device.path.parent().unwrap_or(Path::new("/"));
    match tree.mount_at(parent) {
        Some(directory) => make_one(directory, &name, device),
        None => make_one(path::parent_of(tree.root, &device.path)?.0.as_fd(), &name, device),
    }
}

fn make_one(directory: BorrowedFd<'_>, name: &Path, device: &Device) -> Result<()> {
    let is_fifo = device.kind == SFlag::S_IFIFO;
    let number = if is_fifo { 0 } else { makedev(device.major, device.minor) };
    match mknodat(directory, name, device.kind, Mode::from_bits_truncate(device.mode), number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            // A file that is there already must be this device (config-linux.md: devices).
            let stat = path::stat_at(directory, name).context(|| "fstatat")?;
            let same = stat.st_mode & SFlag::S_IFMT.bits() == device.kind.bits()
                && (is_fifo || (major(stat.st_rdev), minor(stat.st_rdev)) == (device.major, device.minor));
            if !same {
                return Err(Error::from(Errno::EEXIST).hint("and it is not this device"));
            }
            return Ok(());
        }
        Err(errno) => return Err(Error::from(errno).context("mknodat")),
    }
    if device.uid != 0 || device.gid != 0 {
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        let (uid, gid) = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
        fchownat(directory, name, uid, gid, flags).context(|| "fchownat")?;
    }
    Ok(())
}

/// Makes the links in /dev; one that exists stays as it is. Without a /proc there are only those that do not lead there.
pub fn make_links(tree: &Tree<'_>, has_proc: bool) -> Result<()> {
    let what = || "make the links in /dev";
    let opened;
    let dev = match tree.mount_at(Path::new("/dev")) {
        Some(dev) => dev,
        None => {
            opened = path::open_or_make(tree.root, Path::new("/dev"), || Ok(path::Kind::Directory)).context(what)?;
            opened.as_fd()
        }
    };
    for (target, name) in LINKS.iter().copied().filter(|(target, _)| has_proc || !target.starts_with("/proc")) {
        // The one link that a kernel may have nothing for.
        if name == "core" && !tree.has_kernels_file(Path::new("/proc/kcore")) {
            continue;
        }
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::from(errno).context(format!("symlinkat({name})")).context(what())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(json: &str) -> Result<Vec<Device>> {
        plan(&[serde_json::from_str(json).unwrap()], true)
    }

    #[test]
    fn a_configured_device_replaces_the_default() {
        let devices = device(r#"{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 384}"#).unwrap();
        assert_eq!(devices.len(), 6);
        assert_eq!(devices[0].mode, 0o600);
    }

    #[test]
    fn numbers_are_checked_and_those_of_a_fifo_ignored() {
        assert!(device(r#"{"path": "/dev/x", "type": "c", "major": 4096, "minor": 0}"#).is_err());
        assert!(device(r#"{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}"#).is_err());
        assert!(device(r#"{"path": "dev/x", "type": "c", "major": 1, "minor": 0}"#).is_err());
        assert_eq!(device(r#"{"path": "/dev/x", "type": "p", "major": -1, "minor": 666}"#).unwrap()[0].major, 0);
    }
}
