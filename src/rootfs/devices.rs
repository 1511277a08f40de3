//! `linux.devices`, the devices that every container has, and the links in /dev.

use super::{Tree, path};
use crate::error::{Context, Error, Result};
use crate::plan;
use crate::sys::{self, FsContext, mount_flags};
use crate::userns::{Mapping, Mappings, to_outside};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, major, makedev, minor, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
        if !device.path().is_absolute() {
            return Err(bad("path", "must be an absolute path"));
        }
        plan::check_path(device.path(), &format!("config.json: /linux/devices/{index}/path"))?;
        // 12 bits of major and 20 of minor number is what the kernel has (linux/kdev_t.h).
        let number = |value: i64, bits: u32, field: &str| match u64::try_from(value) {
            Ok(value) if value < 1 << bits => Ok(value),
            _ if kind == SFlag::S_IFIFO => Ok(0),
            _ => Err(bad(field, "is out of range")),
        };
        // Podman writes the whole st_mode there; the type is given beside it.
        let mode = device.file_mode().unwrap_or(0o666) & !SFlag::S_IFMT.bits();
        if mode > 0o7777 {
            return Err(bad("fileMode", "must be between 0 and 4095 (07777)"));
        }
        // To chown it would mean that the owner stays.
        let owner = |id: Option<u32>, field: &str| match id.unwrap_or(0) {
            u32::MAX => Err(bad(field, "4294967295 is no user or group id")),
            id => Ok(id),
        };
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
            uid: owner(device.uid(), "uid")?,
            gid: owner(device.gid(), "gid")?,
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

/// Devices for a container that cannot make nodes: each is a mount of a node that the parent has made or found.
pub struct Nodes {
    /// A tmpfs of the host's with the nodes, named by their position in the list; detached.
    made: Option<OwnedFd>,
    /// Detached mounts of the host's own nodes, where even the parent could not make them.
    found: Vec<Option<OwnedFd>>,
}

impl Nodes {
    /// The tmpfs with the nodes, if they were made.
    pub fn made(&self) -> Option<BorrowedFd<'_>> {
        self.made.as_ref().map(AsFd::as_fd)
    }

    /// Every descriptor in it.
    pub fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        self.made.into_iter().chain(self.found.into_iter().flatten())
    }
}

/// Prepares the nodes in the host's mount namespace. With the right to make nodes they are made with the mode and owner
/// of the configuration, on a tmpfs that nobody else sees; without, the host's are taken, as they are.
pub fn prepare(devices: &[Device], ids: Option<&Mappings>) -> Result<Nodes> {
    let directory = node_directory().context(|| "prepare the devices")?;
    for (position, device) in devices.iter().enumerate().filter(|(_, device)| device.kind != SFlag::S_IFIFO) {
        match make_outside(directory.as_fd(), position, device, ids) {
            Err(error) if error.errno() == Some(Errno::EPERM) => return find_all(devices),
            other => other.context(|| format!("prepare device {}", device.path.display()))?,
        }
    }
    Ok(Nodes { made: Some(directory), found: Vec::new() })
}

fn find_all(devices: &[Device]) -> Result<Nodes> {
    let mut found = Vec::with_capacity(devices.len());
    for device in devices {
        found.push(match device.kind {
            SFlag::S_IFIFO => None,
            _ => Some(find_outside(device).context(|| format!("prepare device {}", device.path.display()))?),
        });
    }
    Ok(Nodes { made: None, found })
}

fn node_directory() -> Result<OwnedFd> {
    let context = FsContext::open(c"tmpfs").context(|| "fsopen(tmpfs)")?;
    context.set_string(c"mode", c"755").context(|| "fsconfig(mode=755)")?;
    context.mount(mount_flags::MOUNT_ATTR_NOSUID | mount_flags::MOUNT_ATTR_NOEXEC).context(|| "fsmount(tmpfs)")
}

fn make_outside(directory: BorrowedFd<'_>, position: usize, device: &Device, ids: Option<&Mappings>) -> Result<()> {
    let name = position.to_string();
    let mode = Mode::from_bits_truncate(device.mode);
    let number = makedev(device.major, device.minor);
    mknodat(directory, name.as_str(), device.kind, mode, number).context(|| "mknodat")?;
    // The parent's umask may have taken something away.
    fchmodat(directory, name.as_str(), mode, FchmodatFlags::FollowSymlink).context(|| "fchmodat")?;
    let outside = |list: fn(&Mappings) -> &[Mapping], id| match ids {
        Some(ids) => to_outside(list(ids), id),
        None => Some(id),
    };
    let uid = outside(|ids| &ids.uid, device.uid).map(Uid::from_raw);
    let gid = outside(|ids| &ids.gid, device.gid).map(Gid::from_raw);
    fchownat(directory, name.as_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "fchownat")
}

/// The host's node of the same name, which must be this device.
fn find_outside(device: &Device) -> Result<OwnedFd> {
    let path = CString::new(device.path.as_os_str().as_encoded_bytes())?;
    let node = sys::open_tree_clone(AT_FDCWD, &path, 0)
        .map_err(|errno| Error::from(errno).context("open_tree(clone) of the host's").hint("it cannot be made here"))?;
    let stat = fstat(&node).context(|| "fstat")?;
    match is_device(&stat, device) {
        true => Ok(node),
        false => Err(Error::new("the host's file of this name is another device, and none can be made here")),
    }
}

fn is_device(stat: &FileStat, device: &Device) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == device.kind.bits()
        && (device.kind == SFlag::S_IFIFO || (major(stat.st_rdev), minor(stat.st_rdev)) == (device.major, device.minor))
}

/// Makes the nodes, or mounts those that were prepared; the caller's umask must be 0.
pub fn make(tree: &Tree<'_>, devices: &[Device], nodes: Option<&Nodes>) -> Result<()> {
    let prepared = nodes.and_then(|nodes| nodes.made.as_ref());
    if let Some(prepared) = prepared {
        // Only what is mounted can be copied, so for this moment it is on top of the host's root.
        sys::move_mount(prepared.as_fd(), AT_FDCWD, c"/").context(|| "attach the prepared devices: move_mount")?;
    }
    for (position, device) in devices.iter().enumerate() {
        make_in_tree(tree, position, device, nodes).context(|| format!("make device {}", device.path.display()))?;
    }
    if let Some(prepared) = prepared {
        // By the descriptor, for it must be this mount: `rootfs::pivot` takes away only what then lies on top.
        let path = format!("/proc/self/fd/{}", prepared.as_raw_fd());
        nix::mount::umount2(path.as_str(), nix::mount::MntFlags::MNT_DETACH)
            .context(|| "unmount the prepared devices")?;
    }
    Ok(())
}

fn make_in_tree(tree: &Tree<'_>, position: usize, device: &Device, nodes: Option<&Nodes>) -> Result<()> {
    let name = device.path.file_name().map(PathBuf::from).unwrap_or_default();
    // Nearly all of them lie in /dev, and that is a mount of ours.
    let parent = device.path.parent().unwrap_or(Path::new("/"));
    let opened;
    let directory = match tree.mount_at(parent) {
        Some(directory) => directory,
        None => {
            opened = path::parent_of(tree.root(), &device.path)?.0;
            opened.as_fd()
        }
    };
    match nodes.filter(|_| device.kind != SFlag::S_IFIFO) {
        Some(nodes) => mount_one(tree, directory, &name, (position, device), nodes),
        None => make_one(directory, &name, device),
    }
}

/// Mounts a prepared node on an empty file, a new one or one that an earlier container has left.
fn mount_one(
    tree: &Tree<'_>,
    directory: BorrowedFd<'_>,
    name: &Path,
    (position, device): (usize, &Device),
    nodes: &Nodes,
) -> Result<()> {
    // Open for writing, it would keep its mount from becoming read-only.
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let target = match openat(directory, name, flags, Mode::from_bits_truncate(0o600)) {
        Ok(target) => target,
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let target = openat(directory, name, flags, Mode::empty()).context(|| "open the file to mount it on")?;
            let stat = fstat(&target).context(|| "fstat")?;
            if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() || stat.st_size != 0 {
                return check_existing(&stat, device);
            }
            target
        }
        Err(errno) => return Err(Error::from(errno).context("make the file to mount it on")),
    };
    let node = match (&nodes.made, nodes.found.get(position)) {
        (Some(made), _) => {
            let name = CString::new(position.to_string())?;
            sys::open_tree_clone(made.as_fd(), &name, mount_flags::AT_SYMLINK_NOFOLLOW)
                .context(|| "open_tree(clone)")?
        }
        (None, Some(Some(found))) => found.try_clone().context(|| "dup")?,
        _ => return Err(Error::new("its node was not prepared")),
    };
    sys::move_mount(node.as_fd(), target.as_fd(), c"").context(|| "move_mount")?;
    tree.done(node);
    tree.done(target);
    Ok(())
}

/// A file that is there already must be this device (config-linux.md: devices).
fn check_existing(stat: &FileStat, device: &Device) -> Result<()> {
    match is_device(stat, device) {
        true => Ok(()),
        false => Err(Error::from(Errno::EEXIST).hint("and it is not this device")),
    }
}

fn make_one(directory: BorrowedFd<'_>, name: &Path, device: &Device) -> Result<()> {
    let number = if device.kind == SFlag::S_IFIFO { 0 } else { makedev(device.major, device.minor) };
    match mknodat(directory, name, device.kind, Mode::from_bits_truncate(device.mode), number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return check_existing(&path::stat_at(directory, name).context(|| "fstatat")?, device),
        Err(errno) => return Err(Error::from(errno).context("mknodat")),
    }
    if device.uid == 0 && device.gid == 0 {
        return Ok(());
    }
    // What has that name by now must be what was made (rule R3).
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let node = openat(directory, name, flags, Mode::empty()).context(|| "open the new node")?;
    check_existing(&fstat(&node).context(|| "fstat")?, device)?;
    let (uid, gid) = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
    fchownat(&node, "", uid, gid, AtFlags::AT_EMPTY_PATH).context(|| "fchownat")
}

/// Makes the links in /dev; one that exists stays as it is. Without a /proc there are only those that do not lead there.
pub fn make_links(tree: &Tree<'_>, has_proc: bool) -> Result<()> {
    let what = || "make the links in /dev";
    let opened;
    let dev = match tree.mount_at(Path::new("/dev")) {
        Some(dev) => dev,
        None => {
            opened = path::open_or_make(tree.root(), Path::new("/dev"), || Ok(path::Kind::Directory)).context(what)?;
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
