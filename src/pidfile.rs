//! `--pid-file`: the pid in decimal, without a newline, appearing in one step.

use crate::error::{Context, Error, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes a file of another name and renames it, so that nobody reads half a number and no link is followed.
pub fn write(path: &Path, pid: Pid) -> Result<()> {
    let what = || format!("write the pid file {}", path.display());
    let temporary = temporary(path).context(what)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = open(&temporary, flags, Mode::from_bits_truncate(0o644)).context(|| "open").context(what)?;
    let written = File::from(fd).write_all(pid.to_string().as_bytes()).context(|| "write");
    let result = written.and_then(|()| std::fs::rename(&temporary, path).context(|| "rename")).context(what);
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Removes the file of a container that did not come to be, if it is still the one that was written.
pub fn remove(path: &Path, pid: Pid) {
    if std::fs::read_to_string(path).is_ok_and(|text| text == pid.to_string()) {
        let _ = std::fs::remove_file(path);
    }
}

fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::new("it is no path of a file"))?;
    Ok(path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id())))
}
