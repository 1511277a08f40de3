//! HOME from the container's /etc/passwd, which is a hostile file (rule R26).

use crate::error::{Context, Result};
use crate::rootfs::path::open_in_root;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{SFlag, fstat};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More is not read.
const MAX_SIZE: u64 = 4 << 20;

/// The environment with HOME, if it has none or an empty one: the user's home directory, `/` if he has none.
pub fn with_home(env: &[CString], uid: u32) -> Result<Vec<CString>> {
    let mut env = env.to_vec();
    let set = |variable: &CString| variable.as_bytes().strip_prefix(b"HOME=").is_some_and(|home| !home.is_empty());
    if !env.iter().any(set) {
        let home = [b"HOME=", home_of(uid).as_deref().unwrap_or(b"/")].concat();
        let home = CString::new(home).context(|| "HOME of /etc/passwd")?;
        match env.iter_mut().find(|variable| variable.as_bytes().starts_with(b"HOME=")) {
            Some(empty) => *empty = home,
            None => env.push(home),
        }
    }
    Ok(env)
}

/// Looks a user up by number: passwd(5). We are in the container's root by now; but the file may be a link to one of /proc
/// that leads out of it.
fn home_of(uid: u32) -> Option<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = open_in_root(AT_FDCWD, Path::new("/etc/passwd"), flags).ok()?;
    if fstat(&fd).ok()?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return None;
    }
    // One that is too long is taken as far as it was allowed to go.
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_SIZE).read_to_end(&mut bytes).ok()?;
    parse(&bytes, uid)
}

fn parse(bytes: &[u8], uid: u32) -> Option<Vec<u8>> {
    bytes.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let (id, home) = (fields.get(2)?, fields.get(5)?);
        let same = std::str::from_utf8(id).ok()?.parse::<u32>().ok()? == uid;
        let is_path = home.starts_with(b"/") && home.len() < libc::PATH_MAX as usize && !home.contains(&0);
        (same && is_path).then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number_only() {
        let passwd = b"root:x:0:0::/root:/bin/sh\n1000:x:0:0::/evil:/bin/sh\nbroken\nme:x:1000:1::/home/me:\n";
        assert_eq!(parse(passwd, 0).unwrap(), b"/root");
        assert_eq!(parse(passwd, 1000).unwrap(), b"/home/me");
        assert_eq!(parse(passwd, 7), None);
    }
}
