//! `checkpoint`: CRIU saves the processes of a container to files. Afterwards the container is gone, unless it is to run on.

use crate::cli::CheckpointArgs;
use crate::criu::{Criu, Features, Kind, Options, PageServer, Place, namespace_key, require};
use crate::error::{Context, Error, Result};
use crate::rootfs::external;
use crate::rootfs::mountinfo::{self, Mounted};
use crate::state::{Container, Lock, Record, Status};
use crate::{delete, files, namespaces, sys};
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, SFlag, stat};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::time::Duration;

/// In the image directory: what stdin, stdout and stderr of init were, as runc writes it.
pub const DESCRIPTORS: &str = "descriptors.json";

/// `corten checkpoint ID`
pub fn checkpoint(root: &Path, args: &CheckpointArgs) -> Result<()> {
    let container = Container::find(root, &args.id)?;
    container.lock(Lock::Exclusive)?;
    let record = container.record()?;
    let (status, init) = container.status(&record)?;
    let init = match (status, init) {
        (Status::Running | Status::Paused, Some(init)) => init.pid,
        _ => return Err(Error::new(format!("cannot checkpoint a container in the {status} state"))),
    };
    let page_server = args.page_server.as_deref().map(parse_page_server).transpose()?;
    let place = Place::open(&args.criu, "dump.log", true)?;
    let mut options = Options::new(&args.criu, &place, &record.annotations)?;
    options.page_server = page_server;
    if let Some(parent) = args.parent_path.as_deref().filter(|parent| !parent.as_os_str().is_empty()) {
        check_parent(parent, place.images()).context(|| "invalid --parent-path")?;
        options.parent_img = Some(parent.to_string_lossy().into_owned());
        options.track_mem = true;
    }
    let mut ready = match args.status_fd {
        -1 => None,
        fd => Some(open_status_fd(fd).context(|| format!("invalid --status-fd argument {fd}"))?),
    };
    let features =
        Features { mem_track: args.pre_dump.then_some(true), lazy_pages: args.criu.lazy_pages.then_some(true) };
    if features != Features::default() {
        require(features)?;
    }
    prepare(&mut options, args, &record, init)?;
    if !args.pre_dump {
        let streams = streams(init)?;
        options.external.extend(streams.iter().filter(|name| name.starts_with("file[")).cloned());
        write_descriptors(place.images(), &streams)?;
    }

    let kind = if args.pre_dump { Kind::PreDump } else { Kind::Dump };
    let criu = Criu::start(&container, None, &place.descriptors().collect::<Vec<_>>(), || Ok(()))?;
    let saved = criu.ask(kind, options, &place, |notification, _| {
        if notification.script == "status-ready"
            && let Some(ready) = ready.take()
        {
            nix::unistd::write(&ready, b"\0").context(|| "write to --status-fd")?;
        }
        Ok(())
    });
    criu.end(&container);
    if saved.is_ok() && !args.leave_running && !args.pre_dump {
        return delete::kill_and_remove(&container, &record);
    }
    // CRIU leaves its processes as it has found them; only where it was killed are they still frozen.
    let (now, _) = container.status(&record)?;
    match (status, now) {
        (Status::Running, Status::Paused) => record.cgroups.thaw()?,
        (Status::Paused, Status::Running) => record.cgroups.freeze()?,
        _ => {}
    }
    saved
}

/// What CRIU is told of the container.
fn prepare(options: &mut Options, args: &CheckpointArgs, record: &Record, init: Pid) -> Result<()> {
    options.pid = init.as_raw();
    options.spare_cgroups(&args.criu, &record.cgroups)?;
    options.root = record.rootfs.to_string_lossy().into_owned();
    options.leave_running = args.leave_running;
    options.tcp_skip_in_flight = args.tcp_skip_in_flight;
    options.link_remap = args.link_remap;
    options.freeze_cgroup = record.cgroups.freezer().map(|path| path.to_string_lossy().into_owned());
    for kind in [CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWPID] {
        if record.has_joined(kind) {
            let (name, path) = (namespaces::file_name(kind), namespaces::path_of(init, kind));
            let inode = stat(path.as_str()).context(|| format!("stat {path}"))?.st_ino;
            options.external.push(format!("{name}[{inode}]:{}", namespace_key(kind)));
        }
    }
    if record.namespaces().contains(CloneFlags::CLONE_NEWNS) && !args.pre_dump {
        options.external.extend(external::of_container(init, &record.binds)?);
    }
    Ok(())
}

/// What init's standard streams are for CRIU, if they lead out of the container: a pipe, whose other end is outside, or a
/// file of the host. In their place the restored container gets what the caller of `restore` has there.
fn streams(init: Pid) -> Result<[String; 3]> {
    let mounts = mountinfo::read(&init.to_string())?;
    let mut names = look_at_streams(init, &mounts)?;
    // A shell may have a stream redirected just now, for one command. One that is always inside costs us these looks.
    for _ in 0..10 {
        if names.iter().all(|name| leads_out(name)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
        for (name, again) in names.iter_mut().zip(look_at_streams(init, &mounts)?) {
            if !leads_out(name) && leads_out(&again) {
                *name = again;
            }
        }
    }
    Ok(names)
}

/// Whether this name of a stream is one of outside.
pub fn leads_out(name: &str) -> bool {
    name.starts_with("file[") || name.starts_with("pipe:[")
}

fn look_at_streams(init: Pid, mounts: &[Mounted]) -> Result<[String; 3]> {
    let mut names = [const { String::new() }; 3];
    for (fd, name) in names.iter_mut().enumerate() {
        let path = format!("/proc/{init}/fd/{fd}");
        let Ok(target) = nix::fcntl::readlink(path.as_str()) else {
            // It has closed it.
            continue;
        };
        *name = target.to_string_lossy().into_owned();
        let found = stat(path.as_str()).context(|| format!("stat {path}"))?;
        let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        let mount = files::mount_of(&format!("/proc/{init}/fdinfo/{fd}"))?;
        let is_file = matches!(kind, SFlag::S_IFREG | SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO);
        if is_file && !name.starts_with("pipe:[") && mounts.iter().all(|known| known.id != mount) {
            *name = format!("file[{mount:x}:{:x}]", found.st_ino);
        }
    }
    Ok(names)
}

/// Writes them down for the restore, where runc looks for them, too.
fn write_descriptors(images: BorrowedFd<'_>, streams: &[String; 3]) -> Result<()> {
    let what = || format!("write {DESCRIPTORS} into the image directory");
    let json = serde_json::to_vec(streams).context(what)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(images, DESCRIPTORS, flags, Mode::from_bits_truncate(0o600)).context(|| "open").context(what)?;
    File::from(file).write_all(&json).context(what)
}

fn parse_page_server(text: &str) -> Result<PageServer> {
    let usage = || Error::new("Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(usage)?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if address.is_empty() || port.is_empty() {
        return Err(usage());
    }
    let port = port.parse::<u16>().map_err(|_| Error::new("Invalid port number"))?;
    Ok(PageServer { address: address.to_string(), port: i32::from(port) })
}

/// A directory beside this one, which is looked up again at the restore, perhaps elsewhere.
fn check_parent(parent: &Path, images: BorrowedFd<'_>) -> Result<()> {
    if parent.components().any(|component| component == Component::RootDir) {
        return Err(Error::new("it must be relative"));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    files::open_at(images, parent, flags, 0).map(drop).context(|| format!("open {}", parent.display()))
}

/// Takes over the descriptor that the caller has passed.
fn open_status_fd(number: i32) -> Result<OwnedFd> {
    if number < 0 || !sys::is_open(number) {
        return Err(Error::from(nix::Error::EBADF));
    }
    let fd = if number < 3 { sys::stdio(number).try_clone_to_owned()? } else { sys::own_fd(number) };
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).context(|| "fcntl(F_GETFL)")?);
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => Err(Error::new("not writable")),
        _ => Ok(fd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        for (text, address, port) in [("127.0.0.1:27", "127.0.0.1", 27), ("[::1]:9000", "::1", 9000)] {
            assert_eq!(parse_page_server(text).unwrap(), PageServer { address: address.into(), port });
        }
        for text in ["", "x", "x:", ":1", "x:y", "x:65536", "x:-1"] {
            assert!(parse_page_server(text).is_err(), "{text}");
        }
    }
}
