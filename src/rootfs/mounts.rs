//! `mounts`: each entry becomes a detached mount with all its attributes, and only then is attached.

use super::filesystem::{self, FileSystem};
use super::options::Options;
use super::path::{self, Kind};
use super::sources::{Opened, Sources};
use super::{Rootfs, Tree, copy_up};
use crate::cgroups;
use crate::error::{Context, Error, Result};
use crate::log;
use crate::plan;
use crate::sys::mount_flags::{MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY};
use crate::sys::{self, MountAttr};
use crate::userns::Mappings;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One entry of `mounts`.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Position in the configuration, for messages.
    index: usize,
    /// Absolute and clean; where in the container.
    pub destination: PathBuf,
    pub source: Source,
    pub options: Options,
    pub idmap: Option<Idmap>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the host.
    Bind(PathBuf),
    /// A file or directory below the rootfs, given by its path there; seen as it is when its turn comes.
    BindInRoot(PathBuf),
    /// A file system: its type and what to call its source.
    FileSystem { fstype: CString, source: CString },
    /// The container's cgroups.
    Cgroup,
    /// What is mounted at the destination already.
    Remount,
}

/// Which ids a mount shows for which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idmap {
    pub recursive: bool,
    /// None: those of the container's user namespace.
    pub mappings: Option<Mappings>,
}

/// Files of procfs that lxcfs replaces by views of the container; nothing else is mounted below /proc (rule R5).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

impl Mount {
    /// Checks one entry.
    pub fn new(index: usize, mount: &oci_spec::runtime::Mount, place: &Place<'_>) -> Result<Mount> {
        let bad = |field: &str, why: &str| Error::new(format!("{}/{index}{field}: {why}", place.whence));
        plan::check_path(mount.destination(), &format!("{}/{index}/destination", place.whence))?;
        let destination = destination(mount).map_err(|why| bad("/destination", why))?;
        if mount.destination().is_relative() {
            let relative = mount.destination().display();
            log::warning(&format!(
                "mount destination {relative} is not absolute, which is deprecated (config.md: mounts)"
            ));
        }
        let list = mount.options().as_deref().unwrap_or_default();
        let mut options = Options::parse(list).map_err(|why| bad("/options", &why))?;
        let fstype = mount.typ().as_deref().unwrap_or_default();
        plan::check_path(Path::new(fstype), &format!("{}/{index}/type", place.whence))?;
        if fstype == "bind" {
            options.bind = options.bind.or(Some(true));
        }
        let text = |text: &str, field| CString::new(text).map_err(|_| bad(field, "contains a NUL character"));
        let given = mount.source().as_deref().unwrap_or(Path::new(""));
        plan::check_path(given, &format!("{}/{index}/source", place.whence))?;
        let source = if options.remount {
            Source::Remount
        } else if options.bind.is_some() {
            if given.as_os_str().is_empty() {
                return Err(bad("/source", "a bind mount needs a source"));
            }
            if let Some(name) = options.of_file_system() {
                return Err(bad("/options", &format!("{name:?} is no option of a bind mount")));
            }
            let absolute = path::clean(&place.bundle.join(given));
            match absolute.strip_prefix(place.rootfs) {
                Ok(below) => Source::BindInRoot(Path::new("/").join(below)),
                Err(_) => Source::Bind(place.bundle.join(given)),
            }
        } else {
            match fstype {
                "" => return Err(bad("/type", "is required unless the mount is a bind mount")),
                "cgroup" | "cgroup2" => Source::Cgroup,
                fstype => Source::FileSystem {
                    fstype: text(fstype, "/type")?,
                    source: text(given.to_str().ok_or_else(|| bad("/source", "is not UTF-8"))?, "/source")?,
                },
            }
        };
        let idmap = idmap(index, mount, &options, place)?;
        let changes_host = source == Source::Remount && options.bind.is_none();
        if destination == Path::new("/") && (source == Source::Cgroup || changes_host) {
            return Err(bad(
                "/destination",
                "cannot be the root itself: cgroups are no root, and a remount needs bind",
            ));
        }
        if idmap.is_some() && matches!(source, Source::Cgroup | Source::Remount) {
            return Err(bad("/options", "this mount cannot be id-mapped"));
        }
        if options.copy_up && !matches!(&source, Source::FileSystem { fstype, .. } if fstype.as_c_str() == c"tmpfs") {
            return Err(bad("/options", "tmpcopyup is for a tmpfs"));
        }
        let mount = Mount { index, destination, source, options, idmap };
        let is_whole = matches!(mount.source, Source::Bind(_)) || mount.is_type(c"proc");
        let may_be_there = mount.source == Source::Remount || is_whole && mount.destination == Path::new("/proc");
        if mount.destination.starts_with("/proc") && !may_be_there && !is_proc_file(&mount.destination) {
            return Err(bad("/destination", "nothing may be mounted on or below /proc but proc itself"));
        }
        Ok(mount)
    }

    /// A directory of the runtime's own, shown read-only.
    pub fn of_runtime(index: usize, source: PathBuf, destination: &str) -> Mount {
        use crate::sys::mount_flags::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID};
        let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let attr = MountAttr { set, ..MountAttr::default() };
        let options = Options { bind: Some(false), attr, ..Options::default() };
        Mount { index, destination: PathBuf::from(destination), source: Source::Bind(source), options, idmap: None }
    }

    /// Whether it must be a whole procfs: the one bind mount that may lie on /proc (rule R5). Containers in the host's PID
    /// namespace and a user namespace have it, for they may not make one.
    pub fn must_be_proc(&self) -> bool {
        self.is_bind() && self.destination == Path::new("/proc")
    }

    /// Whether it shows a part of another file tree.
    pub fn is_bind(&self) -> bool {
        matches!(self.source, Source::Bind(_) | Source::BindInRoot(_))
    }

    /// Whether it is of a file system of this type.
    pub fn is_type(&self, name: &std::ffi::CStr) -> bool {
        matches!(&self.source, Source::FileSystem { fstype, .. } if fstype.as_c_str() == name)
    }

    /// Makes the detached mount, if the parent has not opened it.
    pub fn make(&self, tree: &Tree<'_>, sources: &Sources) -> Result<OwnedFd> {
        let root = tree.root();
        match &self.source {
            Source::FileSystem { fstype, source } => {
                let made = self.make_file_system(tree, fstype, source);
                match (made, &sources.sys) {
                    // A network namespace that belongs to somebody else shows its devices to him only.
                    (Err(error), Some(sys)) if self.is_type(c"sysfs") && error.errno() == Some(Errno::EPERM) => {
                        let copy = sys.try_clone().context(|| "dup")?;
                        sys::mount_setattr(copy.as_fd(), true, self.options.attr).context(|| "mount_setattr")?;
                        Ok(copy)
                    }
                    (made, _) => made,
                }
            }
            Source::BindInRoot(path) => {
                let source = path::open_in_root(root, path, OFlag::O_PATH)
                    .context(|| format!("open {} in the rootfs", path.display()))?;
                path::clone_at(source.as_fd(), self.options.bind == Some(true))
                    .context(|| format!("open_tree(clone) {} in the rootfs", path.display()))
            }
            Source::Bind(_) | Source::Cgroup | Source::Remount => Err(Error::new("its source was not opened")),
        }
    }

    fn make_file_system(&self, tree: &Tree<'_>, fstype: &CString, source: &CString) -> Result<OwnedFd> {
        let is_tmpfs = self.is_type(c"tmpfs");
        let mut data = std::borrow::Cow::from(&self.options.data);
        if is_tmpfs && let Some(mode) = self.mode_of_target(tree.root())? {
            data.to_mut().push(("mode".to_string(), Some(format!("{mode:o}"))));
        }
        // What is to be copied must be written first.
        let later = if self.options.copy_up { MOUNT_ATTR_RDONLY } else { 0 };
        let attributes = self.options.attr.set & !later;
        let label = tree.label.filter(|_| self.takes_label());
        let of_mqueue = label.filter(|_| self.is_type(c"mqueue"));
        if let Some(label) = label.filter(|_| of_mqueue.is_none()) {
            data.to_mut().push(context_option(label));
        }
        let mount = FileSystem { fstype, source, data: &data, attributes }.mount(tree)?;
        if let Some(label) = of_mqueue {
            set_label(mount.as_fd(), label).context(|| format!("label it {label:?}"))?;
        }
        if self.options.copy_up {
            self.copy_up(tree.root(), mount.as_fd())?;
        }
        let left = MountAttr { set: self.options.attr.set & later, ..MountAttr::default() };
        if left.set != 0 {
            sys::mount_setattr(mount.as_fd(), false, left).context(|| "mount_setattr")?;
        }
        Ok(mount)
    }

    /// The device or image that holds its file system, if it has one.
    pub fn device(&self) -> Option<&Path> {
        match &self.source {
            Source::FileSystem { source, .. } if source.as_bytes().starts_with(b"/") && !self.is_type(c"tmpfs") => {
                Some(Path::new(OsStr::from_bytes(source.as_bytes())))
            }
            _ => None,
        }
    }

    /// The file system of a device.
    pub fn make_of_device(&self, label: Option<&CStr>) -> Result<OwnedFd> {
        let Source::FileSystem { fstype, source } = &self.source else {
            return Err(Error::new("it is no file system"));
        };
        let mut data = self.options.data.clone();
        // A device that cannot be written is refused unless the whole file system is read-only.
        if self.options.attr.set & MOUNT_ATTR_RDONLY != 0 {
            data.push(("ro".to_string(), None));
        }
        if let Some(label) = label.filter(|_| self.takes_label()) {
            data.push(context_option(label));
        }
        FileSystem { fstype, source, data: &data, attributes: self.options.attr.set }.mount_alone()
    }

    /// The procfs of an existing PID namespace.
    pub fn make_proc_of(&self, pidns: BorrowedFd<'_>) -> Result<OwnedFd> {
        let Source::FileSystem { fstype, source } = &self.source else {
            return Err(Error::new("it is no file system"));
        };
        FileSystem { fstype, source, data: &self.options.data, attributes: self.options.attr.set }.mount_of(pidns)
    }

    fn copy_up(&self, root: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        match path::open_in_root(root, &self.destination, flags) {
            Ok(from) => {
                let given = |key: &str| self.options.data.iter().any(|(given, _)| given == key);
                let keep = copy_up::Keep { owner: given("uid") || given("gid"), mode: given("mode") };
                copy_up::copy(from, mount, keep)
            }
            // Nothing is hidden, so there is nothing to copy.
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::from(errno).context("open the directory to copy: openat2")),
        }
    }

    /// A tmpfs that is not told otherwise looks like the directory which it hides.
    fn mode_of_target(&self, root: BorrowedFd<'_>) -> Result<Option<u32>> {
        if self.options.data.iter().any(|(key, _)| key == "mode") {
            return Ok(None);
        }
        match path::open_in_root(root, &self.destination, OFlag::O_PATH) {
            Ok(target) => Ok(Some(fstat(&target).context(|| "fstat")?.st_mode & 0o7777)),
            // It will be made as an ordinary directory.
            Err(Errno::ENOENT) => Ok(Some(0o755)),
            Err(errno) => Err(Error::from(errno).context("openat2")),
        }
    }

    /// Translates the ids of a mount that is still detached.
    pub fn set_idmap(&self, mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> Result<()> {
        let recursive = self.idmap.as_ref().is_some_and(|idmap| idmap.recursive);
        let userns_fd = userns.as_raw_fd() as u64;
        let attr = MountAttr { set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() };
        sys::mount_setattr(mount, recursive, attr).map_err(|errno| {
            let error = Error::from(errno).context("mount_setattr(idmap)");
            if errno == Errno::EINVAL { error.hint("its file system may not support id-mapped mounts") } else { error }
        })
    }

    /// Whether a file system that is made gets the mount label. The kernel's own have labels by its policy, and the
    /// configuration may have given another.
    fn takes_label(&self) -> bool {
        !self.is_kernels() && !self.options.data.iter().any(|(key, _)| key == "context")
    }

    /// Attributes and propagation of a mount that is still detached. A fresh file system has its attributes already.
    pub(super) fn set_attributes(&self, mount: BorrowedFd<'_>, with_attr: bool) -> Result<()> {
        let options = &self.options;
        if with_attr && options.attr != MountAttr::default() {
            sys::mount_setattr(mount, false, options.attr).context(|| "mount_setattr")?;
        }
        if options.recursive_attr != MountAttr::default() {
            sys::mount_setattr(mount, true, options.recursive_attr).context(|| "mount_setattr(recursive)")?;
        }
        // A copy of a shared mount of the host is its peer, and would carry mounts of the container to the host: unless
        // the configuration wants that, it only receives.
        let own = &options.propagation;
        if self.is_bind() && !own.iter().any(|p| p.kind == libc::MS_SHARED || p.kind == libc::MS_PRIVATE && p.recursive)
        {
            let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
            sys::mount_setattr(mount, true, slave).context(|| "mount_setattr(recursive, slave)")?;
        }
        for propagation in own.iter().filter(|p| p.kind != libc::MS_UNBINDABLE) {
            let attr = MountAttr { propagation: propagation.kind, ..MountAttr::default() };
            sys::mount_setattr(mount, propagation.recursive, attr).context(|| "mount_setattr(propagation)")?;
        }
        Ok(())
    }

    /// Whether the kernel's own files appear in it, which the image must have no say in (rule R5).
    fn is_kernels(&self) -> bool {
        self.is_type(c"proc") || self.is_type(c"sysfs")
    }

    /// Attaches the mount, making its target if that is missing.
    fn attach(&self, tree: &mut Tree<'_>, mount: BorrowedFd<'_>) -> Result<()> {
        if self.options.destination_nofollow {
            let (directory, name) = path::parent_of(tree.root(), &self.destination)?;
            let name = CString::new(name.as_os_str().as_encoded_bytes())?;
            tree.forget();
            let mut attached = sys::move_mount(mount, directory.as_fd(), &name);
            if attached == Err(Errno::ENOENT) {
                tree.done(self.make_target(tree.root(), path::kind_of(mount)?)?);
                attached = sys::move_mount(mount, directory.as_fd(), &name);
            }
            return attached.context(|| "move_mount");
        }
        let mode = self.options.make_mode.unwrap_or(0o755);
        let spot = match tree.spot(&self.destination) {
            // A file would be mounted on a link, which is to be followed.
            Some(_) if self.is_bind() && path::kind_of(mount)? == Kind::File => None,
            spot => spot,
        };
        if let Some((directory, name)) = spot {
            let mut attached = sys::move_mount(mount, directory, &name);
            if attached == Err(Errno::ENOENT) {
                let made = mkdirat(directory, name.as_c_str(), Mode::from_bits_truncate(mode));
                // A dangling link exists for mkdir, and not for a look-up.
                attached = made.and_then(|()| sys::move_mount(mount, directory, &name));
            }
            match attached {
                Ok(()) => return Ok(()),
                // A link, or a file and a directory: the long way decides.
                Err(Errno::ENOENT | Errno::EEXIST | Errno::EINVAL) => {}
                Err(errno) => return Err(Error::from(errno).context("move_mount")),
            }
        }
        let (target, is_plain) = self.open_target(tree.root(), mount)?;
        if !is_plain {
            // Only the kernel knows what is hidden now.
            tree.forget();
        }
        sys::move_mount(mount, target.as_fd(), c"").map_err(|errno| {
            let error = Error::from(errno).context("move_mount");
            match errno {
                Errno::EINVAL => error.hint("a file cannot be mounted on a directory, nor the reverse"),
                // The target is there, for it is open.
                Errno::ENOENT => error.hint("the source was deleted, and the kernel mounts nothing that was"),
                _ => error,
            }
        })?;
        tree.done(target);
        Ok(())
    }

    fn make_target(&self, root: BorrowedFd<'_>, kind: Kind) -> Result<OwnedFd> {
        let target = path::make(root, &self.destination, kind)?;
        if let Some(mode) = self.options.make_mode {
            path::set_mode(target.as_fd(), mode)?;
        }
        Ok(target)
    }

    /// Opens the target, making it if it is missing, and tells whether it was reached without following a link.
    fn open_target(&self, root: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<(OwnedFd, bool)> {
        // Most targets are reached without a link, and then the path says where they are.
        let flags = if self.is_kernels() { OFlag::O_PATH | OFlag::O_DIRECTORY } else { OFlag::O_PATH };
        let target = match path::open_without_links(root, &self.destination, flags) {
            Ok(target) => return Ok((target, true)),
            // A link would let the image choose where the kernel's files appear.
            Err(errno @ (Errno::ELOOP | Errno::ENOTDIR)) if self.is_kernels() => {
                return Err(Error::from(errno).hint("it must be mounted on ordinary directory"));
            }
            Err(Errno::ENOENT) => self.make_target(root, path::kind_of(mount)?)?,
            Err(Errno::ELOOP) => path::open_or_make(root, &self.destination, || path::kind_of(mount))?,
            Err(errno) => return Err(Error::from(errno).context("openat2")),
        };
        if !is_proc_file(&self.destination) && !self.is_type(c"proc") {
            let statfs = fstatfs(&target).context(|| "fstatfs")?;
            if statfs.filesystem_type() == PROC_SUPER_MAGIC {
                return Err(Error::new("the target lies on procfs, where nothing else may be mounted"));
            }
        }
        Ok((target, false))
    }
}

/// The place in the container: absolute and clean.
pub fn destination(mount: &oci_spec::runtime::Mount) -> std::result::Result<PathBuf, &'static str> {
    let given = mount.destination().as_os_str();
    let destination = path::clean(mount.destination());
    match () {
        () if given.is_empty() => Err("must not be empty"),
        () => Ok(destination),
    }
}

/// Where the bundle and the rootfs are, and what the container's user namespace maps, if one is made.
pub struct Place<'a> {
    /// What messages call the list (`config.json: /mounts`).
    pub whence: &'a str,
    pub bundle: &'a Path,
    pub rootfs: &'a Path,
    pub ids: Option<&'a Mappings>,
    pub has_userns: bool,
}

/// Mappings of the mount itself, or those in its option, or the container's (config.md: mounts, `idmap`).
fn idmap(
    index: usize,
    mount: &oci_spec::runtime::Mount,
    options: &Options,
    place: &Place<'_>,
) -> Result<Option<Idmap>> {
    let pointer = format!("/mounts/{index}");
    let own = Mappings::new(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref(), &pointer)?;
    let recursive = options.idmap.as_ref().is_some_and(|idmap| idmap.recursive);
    let given = options.idmap.as_ref().and_then(|idmap| idmap.mappings.as_deref());
    let mappings =
        match (own, given) {
            (Some(own), _) => Some(own),
            (None, Some(text)) => Some(Mappings::parse(text, place.ids).ok_or_else(|| {
                Error::new(format!("{}/{index}/options: {text:?} is no list of mappings", place.whence))
            })?),
            (None, None) if options.idmap.is_none() => return Ok(None),
            (None, None) if place.has_userns => None,
            (None, None) => {
                let why = "idmap needs uidMappings and gidMappings, or a user namespace";
                return Err(Error::new(format!("{}/{index}/options: {why}", place.whence)));
            }
        };
    Ok(Some(Idmap { recursive, mappings }))
}

/// The option by which a file system takes its SELinux context.
pub fn context_option(label: &CStr) -> (String, Option<String>) {
    ("context".to_string(), Some(label.to_string_lossy().into_owned()))
}

/// mqueue takes no context as an option; its root is labelled like a file, and what is made in it gets that label, too.
fn set_label(mount: BorrowedFd<'_>, label: &CStr) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::openat(mount, ".", flags, Mode::empty()).context(|| "open its root")?;
    Ok(sys::set_xattr(root.as_fd(), c"security.selinux", label)?)
}

/// Whether it is one of the files of procfs that may be mounted upon.
pub fn is_proc_file(destination: &Path) -> bool {
    PROC_FILES.iter().any(|file| destination == Path::new(file))
}

impl std::fmt::Display for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match &self.source {
            Source::Bind(path) => path.display().to_string(),
            Source::BindInRoot(path) => format!("{} of the rootfs", path.display()),
            Source::FileSystem { fstype, .. } => fstype.to_string_lossy().into_owned(),
            Source::Cgroup => "cgroup".to_string(),
            Source::Remount => "what is mounted".to_string(),
        };
        write!(f, "mount {source:?} at {} (/mounts/{})", self.destination.display(), self.index)
    }
}

/// The first mount that waits until this process is in its cgroups: those are seen right only from inside them, and what is
/// copied into a tmpfs is memory of the container.
fn first_late(rootfs: &Rootfs) -> usize {
    let is_late = |mount: &Mount| mount.source == Source::Cgroup || mount.options.copy_up;
    rootfs.mounts.iter().position(is_late).unwrap_or(rootfs.mounts.len())
}

/// Attaches the mounts in the listed order up to the first that needs the cgroups.
pub fn attach_early(tree: &mut Tree<'_>, rootfs: &Rootfs, sources: &Sources) -> Result<()> {
    attach_range(tree, rootfs, sources, 0..first_late(rootfs))
}

/// Attaches the others.
pub fn attach_late(
    tree: &mut Tree<'_>,
    rootfs: &Rootfs,
    sources: &Sources,
    cgroups: Option<&cgroups::View>,
) -> Result<()> {
    for (position, mount) in rootfs.mounts.iter().enumerate().skip(first_late(rootfs)) {
        match (&mount.source, cgroups) {
            (Source::Cgroup, Some(view)) => {
                attach_cgroup(tree, mount, view, sources).context(|| mount.to_string())?;
            }
            _ => attach_range(tree, rootfs, sources, position..position + 1)?,
        }
    }
    Ok(())
}

fn attach_range(tree: &mut Tree<'_>, rootfs: &Rootfs, sources: &Sources, range: std::ops::Range<usize>) -> Result<()> {
    for (position, mount) in rootfs.mounts.iter().enumerate().skip(range.start).take(range.len()) {
        attach_one(tree, mount, position, sources).context(|| mount.to_string())?;
    }
    Ok(())
}

/// Attaches a mount; `position` is that of its source in `sources`.
pub fn attach_one(tree: &mut Tree<'_>, mount: &Mount, position: usize, sources: &Sources) -> Result<()> {
    if mount.source == Source::Remount {
        let target = path::open_in_root(tree.root(), &mount.destination, OFlag::O_PATH).context(|| "openat2")?;
        return filesystem::remount(target.as_fd(), &mount.options);
    }
    let made = match sources.binds.get(position) {
        Some(Opened::Missing) => return Ok(()),
        Some(Opened::Link(target)) => return make_link(tree, &mount.destination, target),
        Some(Opened::Mount(opened)) if !mount.is_bind() => Some(opened.try_clone().context(|| "dup")?),
        Some(Opened::Mount(_)) => None,
        Some(Opened::Nothing) | None => match mount.make(tree, sources) {
            // The device, or what lies in the rootfs.
            Err(error) if mount.options.may_fail && error.errno() == Some(Errno::ENOENT) => return Ok(()),
            made => Some(made?),
        },
    };
    let opened = match sources.binds.get(position) {
        Some(Opened::Mount(opened)) => Some(opened),
        _ => None,
    };
    let Some(detached) = made.as_ref().or(opened).map(AsFd::as_fd) else {
        return Ok(());
    };
    if let (Some(made), Some((_, userns))) = (&made, sources.idmaps.iter().find(|(of, _)| *of == position)) {
        mount.set_idmap(made.as_fd(), userns.as_fd())?;
    }
    mount.set_attributes(detached, mount.is_bind())?;
    mount.attach(tree, detached)?;
    // An unbindable mount cannot be moved, so this comes last.
    if let Some(propagation) = mount.options.propagation.iter().find(|p| p.kind == libc::MS_UNBINDABLE) {
        let attr = MountAttr { propagation: propagation.kind, ..MountAttr::default() };
        sys::mount_setattr(detached, propagation.recursive, attr).context(|| "mount_setattr(unbindable)")?;
    }
    match made {
        made if mount.destination == Path::new("/") => {
            let opened = opened.map(OwnedFd::try_clone).transpose().context(|| "dup")?;
            made.or(opened).into_iter().for_each(|root| tree.cover(root));
        }
        Some(made) if !mount.is_bind() => tree.add(&mount.destination, made, mount.is_kernels()),
        made => {
            tree.hide(&mount.destination);
            made.into_iter().for_each(|made| tree.done(made));
        }
    }
    Ok(())
}

/// `copy-symlink`: what is a link on the host is the same link in the container.
fn make_link(tree: &Tree<'_>, destination: &Path, target: &Path) -> Result<()> {
    let (directory, name) = path::parent_of(tree.root(), destination)?;
    match nix::unistd::symlinkat(target, &directory, &name) {
        Err(Errno::EEXIST) => match nix::fcntl::readlinkat(&directory, &name) {
            Ok(there) if Path::new(&there) == target => Ok(()),
            _ => Err(Error::from(Errno::EEXIST).context("symlinkat")),
        },
        other => other.context(|| "symlinkat"),
    }
}

/// The hierarchy of v2: mounted, or what is there of it.
fn make_unified(tree: &Tree<'_>, attributes: MountAttr, sources: &Sources) -> Result<OwnedFd> {
    let (fstype, source, data) = (c"cgroup2", c"cgroup", &[]);
    let mount = || FileSystem { fstype, source, data, attributes: attributes.set }.mount(tree);
    let Some(there) = &sources.cgroup else {
        return mount();
    };
    if sources.mounts_cgroup {
        match mount() {
            Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EBUSY)) => {}
            mounted => return mounted,
        }
    }
    sys::mount_setattr(there.as_fd(), true, attributes).context(|| "mount_setattr(recursive)")?;
    there.try_clone().context(|| "dup")
}

/// v2: the hierarchy itself, which a cgroup namespace shows from the container's cgroup down. v1: a tmpfs with each
/// hierarchy's directory of the container bound into it.
fn attach_cgroup(tree: &mut Tree<'_>, mount: &Mount, view: &cgroups::View, sources: &Sources) -> Result<()> {
    let attributes = mount.options.attr;
    let made = match view {
        cgroups::View::Unified => make_unified(tree, attributes, sources)?,
        cgroups::View::Legacy(_) => {
            let data = &[("mode".to_string(), Some("755".to_string()))];
            let attributes = attributes.set & !MOUNT_ATTR_RDONLY;
            FileSystem { fstype: c"tmpfs", source: c"cgroup", data, attributes }.mount(tree)?
        }
    };
    mount.attach(tree, made.as_fd())?;
    if let cgroups::View::Legacy(hierarchies) = view {
        for hierarchy in hierarchies {
            let name = CString::new(hierarchy.name.as_str())?;
            mkdirat(&made, name.as_c_str(), Mode::from_bits_truncate(0o755))
                .context(|| format!("mkdir {}", hierarchy.name))?;
            sys::move_mount(hierarchy.tree.as_fd(), made.as_fd(), &name)
                .context(|| format!("attach the {} hierarchy: move_mount", hierarchy.name))?;
            for link in hierarchy.name.split(',').filter(|link| *link != hierarchy.name) {
                nix::unistd::symlinkat(hierarchy.name.as_str(), &made, link).context(|| format!("symlink {link}"))?;
            }
        }
        // One call for the tmpfs and all that is in it; copies of the host's mounts must not stay their peers.
        let attributes = MountAttr { propagation: libc::MS_PRIVATE, ..attributes };
        sys::mount_setattr(made.as_fd(), true, attributes).context(|| "mount_setattr(recursive)")?;
    }
    mount.set_attributes(made.as_fd(), false)?;
    tree.hide(&mount.destination);
    tree.done(made);
    Ok(())
}
