//! Compiled profiles, kept for the next container: compiling one takes milliseconds, reading it back microseconds.
//!
//! A file holds the whole key beside the program, so a profile can only ever get its own program back; the name is just
//! where to look. The directory must belong to this user alone. On any doubt there is no cache: the profile is compiled.

use super::stub;
use crate::error::Result;
use crate::files;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, getpid, unlinkat};
use oci_spec::runtime::LinuxSeccomp;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// More than this many profiles are not kept; a host has a handful.
const MAX_FILES: usize = 64;
const MAX_SIZE: usize = 4 << 20;
const MAGIC: &[u8; 8] = b"corten\0\x01";

/// Everything that decides what the program is: our version, libseccomp's, and the profile itself.
pub fn key(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    let library = libseccomp::ScmpVersion::current()?;
    let key = format!(
        "{} {library:?} {} optimize=2 stub={} ",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        stub::VERSION
    );
    let mut key = key.into_bytes();
    serde_json::to_writer(&mut key, profile)?;
    Ok(key)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn name(key: &[u8]) -> String {
    format!("{:016x}", hash(key))
}

/// Root's is where caches are; a user's goes with his session.
fn path(uid: u32) -> Option<PathBuf> {
    match uid == 0 {
        true => Some(PathBuf::from("/var/cache/corten")),
        false => Some(PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("corten-cache")),
    }
}

/// Whether it belongs to this user and nobody else can write to or read from it.
fn is_private(fd: &OwnedFd, uid: u32) -> bool {
    fstat(fd).is_ok_and(|stat| stat.st_uid == uid && stat.st_mode & 0o077 == 0)
}

/// The directory to write to, made if need be.
fn directory(uid: u32) -> Option<OwnedFd> {
    let path = path(uid)?;
    match nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(_) => return None,
    }
    files::open(&path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW).ok().filter(|fd| is_private(fd, uid))
}

/// The program of a profile that was compiled before.
pub fn load(key: &[u8], uid: u32) -> Option<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = files::open(&path(uid)?.join(name(key)), flags).ok()?;
    // Whatever the way to it, a file that only this user can have written holds what he wrote.
    if !is_private(&file, uid) {
        return None;
    }
    let bytes = files::read(file, key.len() + 32 * 1024, MAX_SIZE).ok()?;
    let program = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = program.split_first_chunk::<8>()?;
    let (stored_key, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (checksum, program) = rest.split_first_chunk::<8>()?;
    let whole = stored_key == key && u64::from_le_bytes(*checksum) == hash(program);
    (whole && !program.is_empty() && program.len() % 8 == 0).then(|| program.to_vec())
}

/// Keeps a program. What goes wrong here is of no consequence.
pub fn store(key: &[u8], program: &[u8], uid: u32) {
    let Some(directory) = directory(uid) else { return };
    let mut bytes = MAGIC.to_vec();
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend(key);
    bytes.extend(hash(program).to_le_bytes());
    bytes.extend(program);
    prune(&directory);
    let temporary = format!("{}.{}", name(key), getpid());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(file) = openat(&directory, temporary.as_str(), flags, Mode::from_bits_truncate(0o600)) else {
        return;
    };
    let written = File::from(file).write_all(&bytes).is_ok();
    if !written || renameat(&directory, temporary.as_str(), &directory, name(key).as_str()).is_err() {
        let _ = unlinkat(&directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// Empties the directory when there are too many files, which also takes what a killed process left half done.
fn prune(directory: &OwnedFd) {
    let Ok(copy) = directory.try_clone() else { return };
    let Ok(mut entries) = Dir::from_fd(copy) else { return };
    let names: Vec<_> = entries.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    if names.len() > MAX_FILES {
        for name in names.iter().filter(|name| !name.to_bytes().starts_with(b".")) {
            let _ = unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
