//! /proc/PID/mountinfo (proc_pid_mountinfo(5)): what is mounted where, as that process sees it.

use crate::error::Result;
use crate::files;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number for the mount.
    pub id: u64,
    /// The device of the file system, `MAJOR:MINOR`: it tells file systems apart.
    pub device: String,
    /// What of the file system is mounted there.
    pub root: PathBuf,
    pub place: PathBuf,
    /// `ro,nosuid,relatime`: those of the mount.
    pub options: String,
    pub fstype: String,
    /// Those of the file system.
    pub super_options: String,
}

impl Mounted {
    /// Whether the mount has an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }
}

/// Reads that of a process: a pid, or `self`.
pub fn read(process: &str) -> Result<Vec<Mounted>> {
    let text = files::read_list(&Path::new("/proc").join(process).join("mountinfo"))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// id, parent, device, root, mount point, options, optional fields, "-", type, source, options of the super block
fn parse(line: &str) -> Option<Mounted> {
    let (front, back) = line.split_once(" - ")?;
    let (mut front, mut back) = (front.split(' '), back.split(' '));
    Some(Mounted {
        id: front.next()?.parse().ok()?,
        device: front.nth(1)?.to_string(),
        root: unescape(front.next()?),
        place: unescape(front.next()?),
        options: front.next()?.to_string(),
        fstype: back.next()?.to_string(),
        super_options: back.nth(1).unwrap_or_default().to_string(),
    })
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.split_at_checked(3).and_then(|(digits, rest)| Some((u8::from_str_radix(digits, 8).ok()?, rest))) {
            Some((byte, rest)) => {
                plain.push(byte);
                plain.extend(rest.as_bytes());
            }
            None => plain.extend(part.as_bytes()),
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = r"36 35 98:0 /a\040b /mnt/c\134d rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mounted = parse(line).unwrap();
        assert_eq!((mounted.id, mounted.device.as_str(), mounted.fstype.as_str()), (36, "98:0", "ext3"));
        assert_eq!((mounted.root, mounted.place), (PathBuf::from("/a b"), PathBuf::from("/mnt/c\\d")));
        assert_eq!(mounted.super_options, "rw,errors=continue");
        assert_eq!(parse("36 35 98:0 /"), None);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(read("self").unwrap().iter().any(|mounted| mounted.place == Path::new("/")));
    }
}
