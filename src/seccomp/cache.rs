//! Compiled profiles, kept for the next container: compiling one takes milliseconds, reading it back microseconds.
//!
//! A file holds the whole key beside the program, so a profile can only ever get its own program back; the name is just
//! where to look. The directory must belong to this user alone. On any doubt there is no cache: the profile is compiled.

use crate::error::Result;
use crate::files;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, getpid, getuid, unlinkat};
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
    let mut key = format!("{} {library:?} {} optimize=2 ", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    key.push_str(option_env!("CORTEN_COMMIT").unwrap_or_default());
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

/// The directory, if it is there (or can be made) and nobody else can write to it.
fn directory(make: bool) -> Option<OwnedFd> {
    let user = getuid();
    let base = match user.is_root() {
        true => PathBuf::from("/var/cache"),
        false => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
    };
    let path = base.join("corten");
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = match files::open(&path, flags) {
        Err(Errno::ENOENT) if make => {
            nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o700)).ok()?;
            files::open(&path, flags).ok()?
        }
        other => other.ok()?,
    };
    let stat = fstat(&fd).ok()?;
    (stat.st_uid == user.as_raw() && stat.st_mode & 0o077 == 0).then_some(fd)
}

/// The program of a profile that was compiled before.
pub fn load(key: &[u8]) -> Option<Vec<u8>> {
    let directory = directory(false)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    let file = openat2(&directory, name(key).as_str(), how).ok()?;
    let bytes = files::read(file, key.len() + 32 * 1024, MAX_SIZE).ok()?;
    let program = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = program.split_first_chunk::<8>()?;
    let (stored_key, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (checksum, program) = rest.split_first_chunk::<8>()?;
    let whole = stored_key == key && u64::from_le_bytes(*checksum) == hash(program);
    (whole && !program.is_empty() && program.len() % 8 == 0).then(|| program.to_vec())
}

/// Keeps a program. What goes wrong here is of no consequence.
pub fn store(key: &[u8], program: &[u8]) {
    let Some(directory) = directory(true) else { return };
    let mut bytes = MAGIC.to_vec();
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend(key);
    bytes.extend(hash(program).to_le_bytes());
    bytes.extend(program);
    prune(&directory);
    let temporary = format!("{}.{}", name(key), getpid());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(file) = openat(&directory, temporary.as_str(), flags, Mode::from_bits_truncate(0o600)) else { return };
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
