//! `mounts`: each entry becomes a detached mount with all its attributes, and only then is attached.

use super::options::Options;
use super::path::{self, Kind};
use super::{Rootfs, Sources, Tree, clone_path};
use crate::cgroups;
use crate::error::{Context, Error, Result};
use crate::sys::{self, FsContext, MountAttr};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    pub fn new(index: usize, mount: &oci_spec::runtime::Mount, bundle: &Path, rootfs: &Path) -> Result<Mount> {
        let bad = |field: &str, why: &str| Error::new(format!("config.json: /mounts/{index}{field}: {why}"));
        if mount.destination().as_os_str().is_empty() {
            return Err(bad("/destination", "must not be empty"));
        }
        let destination = path::clean(mount.destination());
        if destination == Path::new("/") {
            return Err(bad("/destination", "cannot be the root itself"));
        }
        if destination.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(bad("/destination", "contains a NUL character"));
        }
        for (mappings, field) in [(mount.uid_mappings(), "/uidMappings"), (mount.gid_mappings(), "/gidMappings")] {
            if mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()) {
                return Err(bad(field, "id-mapped mounts are not supported by this version"));
            }
        }
        let list = mount.options().as_deref().unwrap_or_default();
        let mut options = Options::parse(list).map_err(|why| bad("/options", &why))?;
        let fstype = mount.typ().as_deref().unwrap_or_default();
        if fstype == "bind" {
            options.bind = options.bind.or(Some(true));
        }
        let text = |text: &str, field| CString::new(text).map_err(|_| bad(field, "contains a NUL character"));
        let given = mount.source().as_deref().unwrap_or(Path::new(""));
        let source = if options.bind.is_some() {
            if given.as_os_str().is_empty() {
                return Err(bad("/source", "a bind mount needs a source"));
            }
            let absolute = path::clean(&bundle.join(given));
            match absolute.strip_prefix(rootfs) {
                Ok(below) => Source::BindInRoot(Path::new("/").join(below)),
                Err(_) => Source::Bind(bundle.join(given)),
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
        let proc = source == Source::FileSystem { fstype: c"proc".to_owned(), source: c"proc".to_owned() }
            || matches!(&source, Source::FileSystem { fstype, .. } if fstype.as_c_str() == c"proc");
        if destination.starts_with("/proc") && !proc && !is_proc_file(&destination) {
            return Err(bad("/destination", "nothing may be mounted on or below /proc but proc itself"));
        }
        Ok(Mount { index, destination, source, options })
    }

    /// Whether it shows a part of another file tree.
    pub fn is_bind(&self) -> bool {
        matches!(self.source, Source::Bind(_) | Source::BindInRoot(_))
    }

    fn is_type(&self, name: &std::ffi::CStr) -> bool {
        matches!(&self.source, Source::FileSystem { fstype, .. } if fstype.as_c_str() == name)
    }

    /// Opens the source of a bind mount in the host's namespace, detached.
    pub fn open_source(&self) -> Result<Option<OwnedFd>> {
        match &self.source {
            Source::Bind(path) => clone_path(path, self.options.bind == Some(true))
                .context(|| format!("open_tree(clone) {}", path.display()))
                .context(|| self.to_string())
                .map(Some),
            _ => Ok(None),
        }
    }

    /// Makes the detached mount, if the parent has not opened it.
    fn make(&self, tree: &Tree<'_>) -> Result<OwnedFd> {
        let root = tree.root;
        match &self.source {
            Source::FileSystem { fstype, source } => {
                let mode = if self.is_type(c"tmpfs") { self.mode_of_target(root)? } else { None };
                self.make_file_system(tree, fstype, source, mode)
            }
            Source::BindInRoot(path) => {
                let source = path::open_in_root(root, path, OFlag::O_PATH)
                    .context(|| format!("open {} in the rootfs", path.display()))?;
                path::clone_at(source.as_fd(), self.options.bind == Some(true))
                    .context(|| format!("open_tree(clone) {} in the rootfs", path.display()))
            }
            Source::Bind(_) | Source::Cgroup => Err(Error::new("its source was not opened")),
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

    fn make_file_system(
        &self,
        tree: &Tree<'_>,
        fstype: &CString,
        source: &CString,
        mode: Option<u32>,
    ) -> Result<OwnedFd> {
        let name = fstype.to_string_lossy();
        let context = FsContext::open(fstype).map_err(|errno| {
            let error = Error::from(errno).context(format!("fsopen({name})"));
            if errno == Errno::ENODEV { error.hint("the kernel does not have this file system") } else { error }
        })?;
        let explain = |errno: Errno, call: String| {
            let error = Error::from(errno).context(call);
            match context.message() {
                Some(message) => error.hint(message),
                None => error,
            }
        };
        if !source.is_empty() {
            context
                .set_string(c"source", source)
                .map_err(|errno| explain(errno, format!("fsconfig(source={source:?})")))?;
        }
        for (key, value) in &self.options.data {
            let c_key = CString::new(key.as_str())?;
            match value {
                Some(value) => context.set_string(&c_key, &CString::new(value.as_str())?),
                None => context.set_flag(&c_key),
            }
            .map_err(|errno| match value {
                Some(value) => explain(errno, format!("fsconfig({key}={value})")),
                None => explain(errno, format!("fsconfig({key})")),
            })?;
        }
        if let Some(mode) = mode {
            let mode = CString::new(format!("{mode:o}"))?;
            context.set_string(c"mode", &mode).map_err(|errno| explain(errno, format!("fsconfig(mode={mode:?})")))?;
        }
        let label = tree.label.filter(|_| self.takes_label());
        if let Some(label) = label.filter(|_| !self.is_type(c"mqueue")) {
            let what = || format!("fsconfig(context={label:?})");
            context.set_string(c"context", label).map_err(|errno| explain(errno, what()))?;
        }
        let mount = context.mount(self.options.attr.set).map_err(|errno| explain(errno, "fsmount".to_string()))?;
        if let Some(label) = label.filter(|_| self.is_type(c"mqueue")) {
            set_label(mount.as_fd(), label).context(|| format!("label it {label:?}"))?;
        }
        tree.done(context.into_fd());
        Ok(mount)
    }

    /// Whether a file system that is made gets the mount label. The kernel's own have labels by its policy, and the
    /// configuration may have given another.
    fn takes_label(&self) -> bool {
        !self.is_kernels() && !self.options.data.iter().any(|(key, _)| key == "context")
    }

    /// Attributes and propagation of a mount that is still detached. A fresh file system has its attributes already.
    fn set_attributes(&self, mount: BorrowedFd<'_>, with_attr: bool) -> Result<()> {
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
        if let Some((directory, name)) = tree.spot(&self.destination) {
            let mut attached = sys::move_mount(mount, directory, &name);
            if attached == Err(Errno::ENOENT) && path::kind_of(mount)? == Kind::Directory {
                let made = mkdirat(directory, name.as_c_str(), Mode::from_bits_truncate(0o755));
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
        let (target, is_plain) = self.open_target(tree.root, mount)?;
        if !is_plain {
            // Only the kernel knows what is hidden now.
            tree.forget();
        }
        sys::move_mount(mount, target.as_fd(), c"").map_err(|errno| {
            let error = Error::from(errno).context("move_mount");
            let kinds = errno == Errno::EINVAL;
            if kinds { error.hint("a file cannot be mounted on a directory, nor the reverse") } else { error }
        })?;
        tree.done(target);
        Ok(())
    }

    /// Opens the target, making it if it is missing, and tells whether it was reached without following a link.
    fn open_target(&self, root: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<(OwnedFd, bool)> {
        // Most targets are reached without a link, and then the path says where they are.
        let flags = if self.is_kernels() { OFlag::O_PATH | OFlag::O_DIRECTORY } else { OFlag::O_PATH };
        let target = match path::open_without_links(root, &self.destination, flags) {
            Ok(target) => return Ok((target, true)),
            // A link would let the image choose where the kernel's files appear.
            Err(errno @ (Errno::ELOOP | Errno::ENOTDIR)) if self.is_kernels() => {
                return Err(Error::from(errno).hint("the target must be a directory and no symlink"));
            }
            Err(Errno::ENOENT) => path::make(root, &self.destination, path::kind_of(mount)?)?,
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

/// mqueue takes no context as an option; its root is labelled like a file, and what is made in it gets that label, too.
fn set_label(mount: BorrowedFd<'_>, label: &CStr) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::openat(mount, ".", flags, Mode::empty()).context(|| "open its root")?;
    Ok(sys::set_xattr(root.as_fd(), c"security.selinux", label)?)
}

fn is_proc_file(destination: &Path) -> bool {
    PROC_FILES.iter().any(|file| destination == Path::new(file))
}

impl std::fmt::Display for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match &self.source {
            Source::Bind(path) => path.display().to_string(),
            Source::BindInRoot(path) => format!("{} of the rootfs", path.display()),
            Source::FileSystem { fstype, .. } => fstype.to_string_lossy().into_owned(),
            Source::Cgroup => "cgroup".to_string(),
        };
        write!(f, "mount {source:?} at {} (/mounts/{})", self.destination.display(), self.index)
    }
}

/// Attaches every mount in the listed order up to the cgroups: those are seen right only from inside them.
pub fn attach_all(tree: &mut Tree<'_>, rootfs: &Rootfs, sources: &Sources) -> Result<()> {
    let until = rootfs.mounts.iter().position(|mount| mount.source == Source::Cgroup);
    attach_range(tree, rootfs, sources, 0..until.unwrap_or(rootfs.mounts.len()))
}

/// Attaches the cgroups and what is listed after them.
pub fn attach_cgroups(tree: &mut Tree<'_>, rootfs: &Rootfs, sources: &Sources, cgroup: &cgroups::View) -> Result<()> {
    let Some(first) = rootfs.mounts.iter().position(|mount| mount.source == Source::Cgroup) else {
        return Ok(());
    };
    for (position, mount) in rootfs.mounts.iter().enumerate().skip(first) {
        match mount.source {
            Source::Cgroup => attach_cgroup(tree, mount, cgroup).context(|| mount.to_string())?,
            _ => attach_range(tree, rootfs, sources, position..position + 1)?,
        }
    }
    Ok(())
}

fn attach_range(tree: &mut Tree<'_>, rootfs: &Rootfs, sources: &Sources, range: std::ops::Range<usize>) -> Result<()> {
    for (mount, opened) in rootfs.mounts.iter().zip(&sources.binds).skip(range.start).take(range.len()) {
        attach_one(tree, mount, opened.as_ref()).context(|| mount.to_string())?;
    }
    Ok(())
}

fn attach_one(tree: &mut Tree<'_>, mount: &Mount, opened: Option<&OwnedFd>) -> Result<()> {
    let made = match opened {
        Some(_) => None,
        None => Some(mount.make(tree)?),
    };
    let Some(detached) = opened.or(made.as_ref()).map(AsFd::as_fd) else {
        return Ok(());
    };
    mount.set_attributes(detached, mount.is_bind())?;
    mount.attach(tree, detached)?;
    // An unbindable mount cannot be moved, so this comes last.
    if let Some(propagation) = mount.options.propagation.iter().find(|p| p.kind == libc::MS_UNBINDABLE) {
        let attr = MountAttr { propagation: propagation.kind, ..MountAttr::default() };
        sys::mount_setattr(detached, propagation.recursive, attr).context(|| "mount_setattr(unbindable)")?;
    }
    match made {
        Some(made) if !mount.is_bind() => tree.add(&mount.destination, made, mount.is_kernels()),
        made => {
            tree.hide(&mount.destination);
            made.into_iter().for_each(|made| tree.done(made));
        }
    }
    Ok(())
}

/// v2: the hierarchy itself, which a cgroup namespace shows from the container's cgroup down. v1: a tmpfs with each
/// hierarchy's directory of the container bound into it.
fn attach_cgroup(tree: &mut Tree<'_>, mount: &Mount, view: &cgroups::View) -> Result<()> {
    let attributes = mount.options.attr;
    let made = match view {
        cgroups::View::Unified => {
            let context = FsContext::open(c"cgroup2").context(|| "fsopen(cgroup2)")?;
            context.set_string(c"source", c"cgroup").context(|| "fsconfig(source=cgroup)")?;
            context.mount(attributes.set).context(|| "fsmount(cgroup2)")?
        }
        cgroups::View::Legacy(_) => {
            let context = FsContext::open(c"tmpfs").context(|| "fsopen(tmpfs)")?;
            context.set_string(c"source", c"cgroup").context(|| "fsconfig(source=cgroup)")?;
            context.set_string(c"mode", c"755").context(|| "fsconfig(mode=755)")?;
            context.mount(attributes.set & !sys::mount_flags::MOUNT_ATTR_RDONLY).context(|| "fsmount(tmpfs)")?
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
