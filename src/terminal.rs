//! Terminals (config.md: process): the pair of pseudo-terminals is made by the child, from the container's own devpts; one
//! side becomes its stdio and /dev/console, the other goes to who asked for it, over a socket.
//!
//! In the foreground that is corten itself, which passes bytes and the size of the window between the two terminals.

use crate::error::{Context, Error, Result};
use crate::files;
use crate::rootfs::{Tree, path};
use crate::sys::{self, tty};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::pty::Winsize;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Uid, fchown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// DEVPTS_SUPER_MAGIC of linux/magic.h
const DEVPTS: FsType = FsType(0x1cd1);

/// The container's side of a pair.
pub struct Terminal {
    peer: OwnedFd,
}

/// The size of `consoleSize`: characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub height: u16,
    pub width: u16,
}

impl Terminal {
    /// Makes a pair in the devpts of a root file system and sends its master to `console`, named as programs name it.
    pub fn make(dev_pts: BorrowedFd<'_>, size: Option<Size>, console: &Destination) -> Result<Terminal> {
        Self::make_unnamed(dev_pts, size, console).context(|| "make the terminal")
    }

    fn make_unnamed(dev_pts: BorrowedFd<'_>, size: Option<Size>, console: &Destination) -> Result<Terminal> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let master = openat(dev_pts, "ptmx", flags, Mode::empty()).context(|| "open ptmx")?;
        // Whatever is mounted there: this must be the kernel's (rule R3, CVE-2025-52565).
        let stat = fstat(&master).context(|| "fstat ptmx")?;
        let is_ptmx = fstatfs(&master).context(|| "fstatfs ptmx")?.filesystem_type() == DEVPTS
            && stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits()
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2);
        if !is_ptmx {
            return Err(Error::new("/dev/pts/ptmx of the container is not the one of a devpts"));
        }
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty())).context(|| "fcntl(F_SETFL)")?;
        tty::unlock(master.as_fd()).context(|| "ioctl(TIOCSPTLCK)")?;
        let peer = tty::peer(master.as_fd()).context(|| "ioctl(TIOCGPTPEER)")?;
        if let Some(Size { height, width }) = size {
            let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
            tty::set_window_size(master.as_fd(), &size).context(|| "ioctl(TIOCSWINSZ)")?;
        }
        if console.is_foreground {
            // The user's own terminal makes a carriage return of each newline, and one is enough.
            let mut attributes = tcgetattr(&peer).context(|| "tcgetattr")?;
            attributes.output_flags.remove(OutputFlags::ONLCR);
            tcsetattr(&peer, SetArg::TCSANOW, &attributes).context(|| "tcsetattr")?;
        }
        let name = format!("/dev/pts/{}", tty::number(master.as_fd()).context(|| "ioctl(TIOCGPTN)")?);
        sys::send_with_fd(console.socket.as_fd(), name.as_bytes(), master.as_fd())
            .context(|| "send it to the console socket")?;
        Ok(Terminal { peer })
    }

    /// Shows it as /dev/console (config-linux.md: default devices). In a /dev that is not the container's own no file is made
    /// for it.
    pub fn attach_as_console(&self, tree: &Tree<'_>, own_dev: bool) -> Result<()> {
        let what = || "mount the terminal at /dev/console";
        let opened;
        let dev = match tree.mount_at(Path::new("/dev")) {
            Some(dev) => dev,
            None => {
                opened =
                    path::open_or_make(tree.root(), Path::new("/dev"), || Ok(path::Kind::Directory)).context(what)?;
                opened.as_fd()
            }
        };
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
        if own_dev {
            match openat(dev, "console", flags, Mode::from_bits_truncate(0o600)) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::from(errno).context("make the file").context(what())),
            }
        }
        // What is there may be anything but a link, which would lead the mount elsewhere (CVE-2026-88264).
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let target = match openat(dev, "console", flags, Mode::empty()) {
            Err(Errno::ENOENT) if !own_dev => return Ok(()),
            other => other.context(|| "open the file").context(what)?,
        };
        let kind = fstat(&target).context(|| "fstat").context(what)?.st_mode & SFlag::S_IFMT.bits();
        if kind == SFlag::S_IFLNK.bits() {
            return Err(Error::from(Errno::ELOOP).hint("it is a symlink").context(what()));
        }
        let mount = path::clone_at(self.peer.as_fd(), false).context(|| "open_tree(clone)").context(what)?;
        sys::move_mount(mount.as_fd(), target.as_fd(), c"").context(|| "move_mount").context(what)
    }

    /// Makes it stdin, stdout, stderr and the controlling terminal, and gives it to the user.
    pub fn enter(&self, uid: u32) -> Result<()> {
        let what = || "enter the terminal";
        tty::become_stdio(self.peer.as_fd()).context(|| "dup2").context(what)?;
        tty::make_controlling(self.peer.as_fd()).context(|| "ioctl(TIOCSCTTY)").context(what)?;
        match fchown(&self.peer, Some(Uid::from_raw(uid)), None) {
            // Who may not give it away, or a user that is not mapped, finds it open all the same: it is his stdin.
            Ok(()) | Err(Errno::EPERM | Errno::EROFS | Errno::EINVAL) => Ok(()),
            Err(errno) => Err(Error::from(errno).context("fchown").context(what())),
        }
    }
}

/// The devpts of a container that is being built: its own mount, or what the configuration has bound there.
pub fn open_dev_pts(tree: &Tree<'_>) -> Result<OwnedFd> {
    let dev_pts = Path::new("/dev/pts");
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match tree.mount_at(dev_pts) {
        Some(known) => known.try_clone_to_owned().context(|| "dup"),
        None => path::open_in_root(tree.root(), dev_pts, directory).map_err(Error::from),
    }
    .map_err(|error| {
        let missing = error.errno() == Some(Errno::ENOENT);
        let error = error.context("open /dev/pts of the container");
        if missing { error.hint("a terminal needs a mount of type devpts there") } else { error }
    })
}

/// Connects to the socket of `--console-socket`, or one like it; its path may be longer than sun_path (unix(7)).
pub fn connect_to(path: &Path) -> Result<OwnedFd> {
    let what = || format!("connect to {}", path.display());
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .context(|| "socket")
        .context(what)?;
    // Who does not accept must not keep us for ever (rule R23).
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(10)).context(|| "setsockopt(SO_SNDTIMEO)").context(what)?;
    let direct = UnixAddr::new(path);
    let connected = match (direct, path.parent(), path.file_name()) {
        (Ok(address), ..) => connect(fd.as_raw_fd(), &address),
        (Err(_), Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let parent = files::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY).context(what)?;
            let short = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
            UnixAddr::new(&short).and_then(|address| connect(fd.as_raw_fd(), &address))
        }
        (Err(errno), ..) => Err(errno),
    };
    connected.context(what)?;
    Ok(fd)
}

/// Where the child sends the master.
pub struct Destination {
    pub socket: OwnedFd,
    /// Whether it is corten itself that stands between the terminals.
    pub is_foreground: bool,
}

/// The two ends of the way on which the master travels.
pub struct Way {
    /// For the child, which sends it.
    pub theirs: Destination,
    /// In the foreground: where it arrives here.
    pub ours: Option<OwnedFd>,
    /// In the foreground: the size of the user's own terminal, if he has one.
    pub size: Option<Size>,
}

impl Way {
    /// Opens the way that the command line and the configuration ask for; runc's rules on what goes with what.
    pub fn open(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<Option<Way>> {
        match (terminal, detach, socket) {
            (true, true, None) => {
                Err(Error::new("cannot allocate tty if corten will detach without setting console socket"))
            }
            (true, true, Some(socket)) => {
                let socket = connect_to(socket).context(|| "use the console socket")?;
                let theirs = Destination { socket, is_foreground: false };
                Ok(Some(Way { theirs, ours: None, size: None }))
            }
            (_, _, Some(_)) => Err(Error::new("cannot use console socket if corten will not detach or allocate tty")),
            (true, false, None) => {
                let (ours, theirs) = crate::sync::pair()?;
                let theirs = Destination { socket: theirs.into_fd(), is_foreground: true };
                Ok(Some(Way { theirs, ours: Some(ours.into_fd()), size: size_here() }))
            }
            (false, _, None) => Ok(None),
        }
    }
}

/// The size of the first terminal among stdin, stdout and stderr.
fn size_here() -> Option<Size> {
    let sizes = (0..3).filter_map(|number| tty::window_size(sys::stdio(number)).ok());
    sizes.map(|size| Size { height: size.ws_row, width: size.ws_col }).next()
}
