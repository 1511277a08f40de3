//! What CRIU needs of the host to restore a root file system: in a mount namespace of its own, so that nothing of it is ever
//! seen on the host, and nothing is left.
//!
//! CRIU wants the rootfs as a mount point, the places where something is to be mounted, and a path for each mount that is not
//! its own to make. The sources are opened and checked by descriptor, like those of a new container, have their attributes
//! from the first moment, and are attached in a tmpfs over the container's own state directory.

use super::devices::{Device, Nodes};
use super::external::{bind_key, cgroup_key, device_key};
use super::mounts::Source;
use super::path::{self, Kind};
use super::sources::{Opened, Sources};
use super::{Rootfs, attach};
use crate::cgroups::View;
use crate::error::{Context, Error, Result};
use crate::sys::{self, FsContext, MountAttr, mount_flags};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mkdirat};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory of device nodes in the workshop.
const NODES: &str = "nodes";

/// A source of the host, the key that it was saved by (that of device nodes: each has its own), and the name that it has in the workshop.
struct Piece<'a> {
    key: String,
    name: String,
    mount: BorrowedFd<'a>,
}

/// Everything that CRIU is to find when it looks for what it has saved by a key.
pub struct Workshop<'a> {
    rootfs: &'a Rootfs,
    sources: &'a Sources,
    /// Where the pieces are: a directory of the host, over which they are attached.
    place: PathBuf,
    pieces: Vec<Piece<'a>>,
}

impl<'a> Workshop<'a> {
    /// Collects what has been opened. The attributes of each are set here, before anybody can see it.
    pub fn new(
        rootfs: &'a Rootfs,
        sources: &'a Sources,
        view: Option<&'a View>,
        place: PathBuf,
    ) -> Result<Workshop<'a>> {
        if let Some(mount) = rootfs.mounts.iter().find(|mount| mount.destination == Path::new("/")) {
            return Err(Error::new(format!("{mount}: a container with a mount on its root cannot be restored")));
        }
        let mut pieces = Vec::new();
        for (index, (mount, opened)) in rootfs.mounts.iter().zip(&sources.binds).enumerate() {
            if let (Source::Bind(_), Opened::Mount(tree)) = (&mount.source, opened) {
                mount.set_attributes(tree.as_fd(), true).context(|| mount.to_string())?;
                pieces.push(Piece { key: bind_key(&mount.destination), name: index.to_string(), mount: tree.as_fd() });
            }
        }
        if let Some(View::Legacy(shown)) = view {
            let attributes = rootfs.mounts.iter().find(|mount| mount.source == Source::Cgroup);
            let attr = attributes.map_or(MountAttr::default(), |mount| mount.options.attr);
            let attr = MountAttr { propagation: libc::MS_PRIVATE, ..attr };
            for hierarchy in shown {
                let mount = hierarchy.tree.as_fd();
                sys::mount_setattr(mount, true, attr).context(|| "mount_setattr(recursive) of a cgroup")?;
                let key = cgroup_key(&hierarchy.name);
                pieces.push(Piece { name: key.clone(), key, mount });
            }
        }
        let nodes = sources.nodes.as_ref().and_then(Nodes::made);
        if let Some(mount) = nodes {
            pieces.push(Piece { key: String::new(), name: NODES.to_string(), mount });
        }
        let null = device_key(SFlag::S_IFCHR, (1, 3));
        let has_null = |device: &Device| (device.kind, device.major, device.minor) == (SFlag::S_IFCHR, 1, 3);
        if let Some(mount) = sources.null.as_ref().filter(|_| nodes.is_none() || !rootfs.devices.iter().any(has_null)) {
            pieces.push(Piece { key: null.clone(), name: null, mount: mount.as_fd() });
        }
        Ok(Workshop { rootfs, sources, place, pieces })
    }

    /// The `external` options that say where each piece is.
    pub fn external(&self) -> Result<Vec<String>> {
        let place = self.place.to_str().ok_or_else(|| Error::new("the path of the state directory is not UTF-8"))?;
        let pieces = self.pieces.iter().filter(|piece| !piece.key.is_empty());
        let mut external: Vec<String> =
            pieces.map(|piece| format!("mnt[{}]:{place}/{}", piece.key, piece.name)).collect();
        if self.sources.nodes.as_ref().and_then(Nodes::made).is_some() {
            for (position, device) in self.rootfs.devices.iter().enumerate() {
                let key = device_key(device.kind, (device.major, device.minor));
                external.push(format!("mnt[{key}]:{place}/{NODES}/{position}"));
            }
        }
        Ok(external)
    }

    /// Builds it, in the process that becomes CRIU.
    pub fn build(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context(|| "unshare(CLONE_NEWNS)")?;
        let rootfs = self.rootfs;
        attach(rootfs, self.sources)?;
        self.attach_pieces()?;
        let clean = path::clone_at(self.sources.root.as_fd(), true).context(|| "open_tree(clone) of the rootfs")?;
        self.make_mount_points()?;
        // With what was only mounted to make what lies below it.
        umount2(&rootfs.path, MntFlags::MNT_DETACH).context(|| "unmount the rootfs")?;
        let target = CString::new(rootfs.path.as_os_str().as_encoded_bytes())?;
        sys::move_mount(clean.as_fd(), AT_FDCWD, &target)
            .context(|| format!("attach the rootfs at {}: move_mount", rootfs.path.display()))
    }

    /// Attaches the sources where CRIU is told that they are.
    fn attach_pieces(&self) -> Result<()> {
        let board = self.make_board()?;
        let place = CString::new(self.place.as_os_str().as_encoded_bytes())?;
        sys::move_mount(board.as_fd(), AT_FDCWD, &place).context(|| "attach the sources: move_mount")?;
        for piece in &self.pieces {
            let name = CString::new(piece.name.as_str())?;
            sys::move_mount(piece.mount, board.as_fd(), &name)
                .context(|| format!("attach the source {}: move_mount", piece.key))?;
        }
        Ok(())
    }

    /// Makes the places where something is to be mounted, as for a new container. What lies on a file system of the
    /// container's own is in the images.
    fn make_mount_points(&self) -> Result<()> {
        let root = self.sources.root.as_fd();
        let mut own: Vec<&Path> = Vec::new();
        for (mount, opened) in self.rootfs.mounts.iter().zip(&self.sources.binds) {
            let destination = mount.destination.as_path();
            if own.iter().any(|above| destination.starts_with(above) && destination != *above) {
                continue;
            }
            let what = || format!("make the mount point of {mount}");
            match (&mount.source, opened) {
                (Source::FileSystem { .. } | Source::Cgroup, _) => {
                    path::open_or_make(root, destination, || Ok(Kind::Directory)).context(what)?;
                    own.push(destination);
                }
                (Source::Bind(_), Opened::Mount(tree)) => {
                    let target = path::open_or_make(root, destination, || path::kind_of(tree.as_fd())).context(what)?;
                    // A copy, for the source itself is where CRIU looks for it.
                    let copy = path::clone_at(tree.as_fd(), true).context(|| "open_tree(clone)").context(what)?;
                    sys::move_mount(copy.as_fd(), target.as_fd(), c"").context(|| "move_mount").context(what)?;
                }
                (Source::BindInRoot(source), _) => {
                    let source = path::open_in_root(root, source, OFlag::O_PATH).context(what)?;
                    path::open_or_make(root, destination, || path::kind_of(source.as_fd())).context(what)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A tmpfs with a place for each piece.
    fn make_board(&self) -> Result<OwnedFd> {
        let context = FsContext::open(c"tmpfs").context(|| "fsopen(tmpfs)")?;
        context.set_string(c"mode", c"700").context(|| "fsconfig(mode)")?;
        let attributes =
            mount_flags::MOUNT_ATTR_NOSUID | mount_flags::MOUNT_ATTR_NODEV | mount_flags::MOUNT_ATTR_NOEXEC;
        let board = context.mount(attributes).context(|| "fsmount(tmpfs)")?;
        for piece in &self.pieces {
            let name = piece.name.as_str();
            let made = match path::kind_of(piece.mount)? {
                Kind::Directory => mkdirat(&board, name, Mode::from_bits_truncate(0o700)),
                Kind::File => {
                    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                    openat(&board, name, flags, Mode::from_bits_truncate(0o600)).map(drop)
                }
            };
            made.context(|| format!("make the place of {}", piece.key))?;
        }
        Ok(board)
    }
}
