//! `mounts add|remove`, which is crun's: mounts for a container that lives, from JSON as config.json's `mounts` has it.
//!
//! The sources are opened here, as detached mounts of the host; then this process joins the container's mount and user
//! namespace and attaches them by the machinery of `create`. It goes into no other namespace, so nobody in the container
//! sees it, and it is not dumpable. The payload may move directories and links about meanwhile: each target is looked up
//! once, below the container's root, and what is removed must be reached without any link, lest a link lead us to a mask
//! (rules R1, R5).

use crate::cli::MountsArgs;
use crate::error::{Context, Error, Result};
use crate::rootfs::Tree;
use crate::rootfs::mounts::{self, Mount, Place, Source};
use crate::rootfs::path;
use crate::rootfs::sources::{Opened, Restrictions, Sources};
use crate::state::{Container, InitProcess, Lock, Record, Status};
use crate::{files, json, sys, update, userns};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `corten mounts add|remove ID FILE`: all of the list or, if one fails to be added, none.
pub fn mounts(root: &Path, args: &MountsArgs) -> Result<()> {
    let [action, id, file] = args.words.as_slice() else {
        return Err(Error::new("mounts takes add or remove, a container id and a file"));
    };
    let act = match action.as_str() {
        "add" => add,
        "remove" => remove,
        other => return Err(Error::new(format!("unknown command {other}: mounts knows add and remove"))),
    };
    let container = Container::find(root, id)?;
    let list: Vec<oci_spec::runtime::Mount> = json::parse(&update::read_json(Path::new(file))?, file)?;
    container.lock(Lock::Shared)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    let init = match (status, init) {
        (Status::Created | Status::Running | Status::Paused, Some(init)) => init,
        _ => return Err(Error::new("container not running")),
    };
    if !record.namespaces().contains(CloneFlags::CLONE_NEWNS) {
        return Err(Error::new("the container has no mount namespace of its own"));
    }
    act(&Target::open(&record, init)?, &list, file)
}

/// The container that is changed.
struct Target<'a> {
    record: &'a Record,
    init: OwnedFd,
    userns: Option<OwnedFd>,
    /// The host's `/proc/self/fd`: the one way to unmount what a descriptor is open for, wherever it lies by now.
    descriptors: OwnedFd,
}

impl Target<'_> {
    fn open(record: &Record, init: InitProcess) -> Result<Target<'_>> {
        let userns = match record.namespaces().contains(CloneFlags::CLONE_NEWUSER) {
            true => {
                let path = format!("/proc/{}/ns/user", init.pid);
                Some(files::open(Path::new(&path), OFlag::O_RDONLY).context(|| format!("open {path}"))?)
            }
            false => None,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let descriptors = files::open(Path::new("/proc/self/fd"), flags).context(|| "open /proc/self/fd")?;
        // After the namespace was opened by the pid: it is still the same process.
        let init = init.pidfd()?.ok_or_else(|| Error::new("container not running"))?;
        Ok(Target { record, init, userns, descriptors })
    }

    /// Joins the container's mount namespace, as its root; the descriptor is that namespace's root directory.
    fn enter(&self) -> Result<OwnedFd> {
        nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        let kinds = self.record.namespaces() & (CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER);
        sys::setns(self.init.as_fd(), kinds).context(|| format!("join the container: setns(pidfd, {kinds:?})"))?;
        if self.userns.is_some() {
            let (uid, gid) = self.record.process.as_ref().map_or((0, 0), |p| (p.user().uid(), p.user().gid()));
            userns::become_root(uid, gid)?;
            nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")?;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        files::open(Path::new("/"), flags).context(|| "open the container's root")
    }

    /// Unmounts the mount whose root is open.
    fn unmount(&self, mount: BorrowedFd<'_>) -> nix::Result<()> {
        nix::unistd::fchdir(&self.descriptors)?;
        umount2(mount.as_raw_fd().to_string().as_str(), MntFlags::MNT_DETACH)
    }
}

/// Opens everything on the host, then attaches it in order.
fn add(target: &Target<'_>, list: &[oci_spec::runtime::Mount], file: &str) -> Result<()> {
    let record = target.record;
    let has_userns = target.userns.is_some();
    let place = Place { whence: file, bundle: &record.bundle, rootfs: &record.rootfs, ids: None, has_userns };
    let list = list.iter().enumerate().map(|(index, mount)| {
        let mount = Mount::new(index, mount, &place)?;
        match may_be_added(&mount) {
            true => Ok(mount),
            false => Err(Error::new(format!("{file}/{index}: it cannot be added to a container that lives"))
                .hint("bind mounts can, tmpfs, and file systems of devices")),
        }
    });
    let list = list.collect::<Result<Vec<_>>>()?;
    let restrictions = Restrictions {
        ids: None,
        userns: target.userns.as_ref().map(AsFd::as_fd),
        pidns: None,
        makes_nodes: true,
        shows_sys: false,
        shows_cgroup: None,
        mounts_cgroup: false,
    };
    let directory = files::open(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY).context(|| "open /")?;
    let mut sources = Sources::of_mounts(directory, &list, None, &restrictions)?;
    let root = target.enter()?;
    umask(Mode::empty());
    let mut tree = Tree::new(root.as_fd(), None);
    for (position, mount) in list.iter().enumerate() {
        let attached = make(&tree, mount, position, &mut sources)
            .and_then(|()| mounts::attach_one(&mut tree, mount, position, &sources))
            .context(|| mount.to_string());
        attached.map_err(|error| undo(target, &sources, position, error))?;
    }
    Ok(())
}

/// What would show more than the container's configuration lets it see, or reach the host's paths from inside, is made
/// with the container or not at all.
fn may_be_added(mount: &Mount) -> bool {
    if mount.destination == Path::new("/") {
        return false;
    }
    match mount.source {
        Source::Bind(_) | Source::BindInRoot(_) => !mount.must_be_proc(),
        Source::FileSystem { .. } => mount.is_type(c"tmpfs") || mount.device().is_some() && !mount.is_type(c"overlay"),
        Source::Cgroup | Source::Remount => false,
    }
}

/// Makes what could not be opened on the host, so that everything that is attached has a descriptor in `sources`.
fn make(tree: &Tree<'_>, mount: &Mount, position: usize, sources: &mut Sources) -> Result<()> {
    if !matches!(sources.binds.get(position), Some(Opened::Nothing)) {
        return Ok(());
    }
    if mount.device().is_some() {
        return Err(Error::from(Errno::ENOTBLK));
    }
    let made = match mount.make(tree, sources) {
        Err(error) if mount.options.may_fail && error.errno() == Some(Errno::ENOENT) => Opened::Missing,
        made => Opened::Mount(made?),
    };
    for (_, userns) in sources.idmaps.extract_if(.., |(of, _)| *of == position) {
        if let Opened::Mount(made) = &made {
            mount.set_idmap(made.as_fd(), userns.as_fd())?;
        }
    }
    if let Some(source) = sources.binds.get_mut(position) {
        *source = made;
    }
    Ok(())
}

/// Unmounts what was attached before the mount at `position` failed, the last first.
fn undo(target: &Target<'_>, sources: &Sources, position: usize, mut error: Error) -> Error {
    for source in sources.binds.iter().take(position).rev() {
        if let Opened::Mount(mount) = source
            && let Err(errno) = target.unmount(mount.as_fd())
        {
            error = error.hint(format!("undoing another failed: umount2: {}", Error::from(errno)));
        }
    }
    error
}

/// Unmounts each of the list, the last first; only their destinations count.
fn remove(target: &Target<'_>, list: &[oci_spec::runtime::Mount], file: &str) -> Result<()> {
    let places = list.iter().enumerate().map(|(index, mount)| {
        let bad = |why: &str| Error::new(format!("{file}/{index}/destination: {why}"));
        let place = mounts::destination(mount).map_err(bad)?;
        // There lie the masks.
        let is_kernels = ["/proc", "/sys"].iter().any(|kernels| place.starts_with(kernels));
        match () {
            () if place == Path::new("/") => Err(bad("cannot be the root itself")),
            () if is_kernels && !mounts::is_proc_file(&place) => {
                Err(bad("nothing may be removed on or below /proc and /sys"))
            }
            () => Ok(place),
        }
    });
    let places = places.collect::<Result<Vec<PathBuf>>>()?;
    let root = target.enter()?;
    for place in places.iter().rev() {
        remove_one(target, root.as_fd(), place).context(|| format!("remove the mount at {}", place.display()))?;
    }
    Ok(())
}

fn remove_one(target: &Target<'_>, root: BorrowedFd<'_>, place: &Path) -> Result<()> {
    let mount = path::open_without_links(root, place, OFlag::O_PATH).map_err(|errno| {
        let error = Error::from(errno).context("openat2");
        if errno == Errno::ELOOP { error.hint("name the place without symlinks") } else { error }
    })?;
    target.unmount(mount.as_fd()).map_err(|errno| {
        let error = Error::from(errno).context("umount2");
        if errno == Errno::EINVAL { error.hint("nothing is mounted there") } else { error }
    })
}
