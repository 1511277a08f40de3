//! File systems: fsopen(2), their options, fsmount(2); and changing one that is mounted already, fspick(2).

use super::Tree;
use super::options::Options;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::namespaces;
use crate::sys::{FsContext, MountAttr, mount_flags};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// fsconfig(2) takes no longer string, its end included.
const MAX_VALUE: usize = 256;

const LAYERS_HINT: &str = "more than 255 bytes of layers need Linux 6.7, a single layer as long Linux 6.13";

/// What a mount of a new file system is made of.
pub struct FileSystem<'a> {
    pub fstype: &'a CStr,
    pub source: &'a CStr,
    /// Options of the file system: a key with or without a value.
    pub data: &'a [(String, Option<String>)],
    /// Attributes of the mount.
    pub attributes: u64,
}

/// Adds what the file system itself wrote about its refusal.
fn explain(context: &FsContext, errno: Errno, call: String) -> Error {
    let error = Error::from(errno).context(call);
    match context.message() {
        Some(message) => error.hint(message),
        None => error,
    }
}

impl FileSystem<'_> {
    /// The detached mount.
    pub fn mount(&self, tree: &Tree<'_>) -> Result<OwnedFd> {
        let context = self.configure()?;
        let mount = self.make(&context)?;
        tree.done(context.into_fd());
        Ok(mount)
    }

    /// The same where no root file system is being built yet.
    pub fn mount_alone(&self) -> Result<OwnedFd> {
        self.make(&self.configure()?)
    }

    /// The same for a procfs of another PID namespace than this process's own. Kernels before 6.17 make it only for a
    /// process that is in there.
    pub fn mount_of(&self, pidns: BorrowedFd<'_>) -> Result<OwnedFd> {
        let context = self.configure()?;
        match context.set_fd(c"pidns", pidns) {
            Ok(()) => self.make(&context),
            Err(Errno::EINVAL) => namespaces::made_within(pidns, || self.mount_alone()),
            Err(errno) => Err(explain(&context, errno, "fsconfig(pidns)".to_string())),
        }
    }

    fn make(&self, context: &FsContext) -> Result<OwnedFd> {
        context.mount(self.attributes).map_err(|errno| {
            let error = explain(context, errno, "fsmount".to_string());
            // Older kernels do not refuse the layers before.
            let is_long = |(_, value): &(String, Option<String>)| value.as_ref().is_some_and(|v| v.len() >= MAX_VALUE);
            let by_layers = self.fstype == c"overlay" && errno == Errno::EINVAL && self.data.iter().any(is_long);
            if by_layers { error.hint(LAYERS_HINT) } else { error }
        })
    }

    fn configure(&self) -> Result<FsContext> {
        let name = self.fstype.to_string_lossy();
        let context = FsContext::open(self.fstype).map_err(|errno| {
            let error = Error::from(errno).context(format!("fsopen({name})"));
            if errno == Errno::ENODEV { error.hint("the kernel does not have this file system") } else { error }
        })?;
        if !self.source.is_empty() {
            context
                .set_string(c"source", self.source)
                .map_err(|errno| explain(&context, errno, format!("fsconfig(source={:?})", self.source)))?;
        }
        let is_overlay = self.fstype == c"overlay";
        for (key, value) in self.data {
            match value {
                Some(value) if is_overlay && value.len() >= MAX_VALUE => set_layers(&context, key, value)?,
                value => set(&context, key, value.as_deref())?,
            }
        }
        Ok(context)
    }
}

fn set(context: &FsContext, key: &str, value: Option<&str>) -> Result<()> {
    let c_key = CString::new(key)?;
    let (set, call) = match value {
        Some(value) => (context.set_string(&c_key, &CString::new(value)?), format!("fsconfig({key}={value})")),
        None => (context.set_flag(&c_key), format!("fsconfig({key})")),
    };
    match set {
        // What every file system that has it does anyway, and others do not know (mount(8)).
        Err(Errno::EINVAL) if key == "acl" => Ok(()),
        Err(errno) if value.is_some_and(|value| value.len() >= MAX_VALUE) => {
            Err(explain(context, errno, call).hint("the kernel takes values of 255 bytes at most"))
        }
        other => other.map_err(|errno| explain(context, errno, call)),
    }
}

/// Layers of an overlay whose list is longer than a value may be: one by one (Linux 6.7), and one that is itself too long
/// as a descriptor (Linux 6.13).
fn set_layers(context: &FsContext, key: &str, value: &str) -> Result<()> {
    if key != "lowerdir" {
        return set_layer(context, key, value);
    }
    let mut key = "lowerdir+";
    for layer in split_layers(value) {
        match layer.as_str() {
            // Two colons: from here on the layers hold data only.
            "" => key = "datadir+",
            layer => set_layer(context, key, layer)?,
        }
    }
    Ok(())
}

fn set_layer(context: &FsContext, key: &str, layer: &str) -> Result<()> {
    let call = || format!("fsconfig({key}={layer})");
    let c_key = CString::new(key)?;
    let set = if layer.len() < MAX_VALUE {
        context.set_string(&c_key, &CString::new(layer)?)
    } else {
        let fd = files::open(Path::new(layer), OFlag::O_PATH | OFlag::O_DIRECTORY).context(call)?;
        context.set_fd(&c_key, fd.as_fd())
    };
    set.map_err(|errno| {
        let error = explain(context, errno, call());
        // Kernels that take no descriptor as a layer say so in three ways.
        let is_too_old = matches!(errno, Errno::EINVAL | Errno::EBADF | Errno::EOPNOTSUPP);
        if is_too_old { error.hint(LAYERS_HINT) } else { error }
    })
}

/// The layers of `lowerdir`, in which a backslash keeps a colon from separating.
fn split_layers(value: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match (c, layers.last_mut()) {
            (':', _) => layers.push(String::new()),
            ('\\', Some(layer)) => layer.extend(characters.next()),
            (c, Some(layer)) => layer.push(c),
            (_, None) => {}
        }
    }
    layers
}

/// `remount`: the mount at a place gets the flags given and no others; without `bind` the file system gets its options,
/// too.
pub fn remount(target: BorrowedFd<'_>, options: &Options) -> Result<()> {
    use mount_flags::{
        MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW,
        MOUNT_ATTR_RDONLY,
    };
    let all = MOUNT_ATTR_RDONLY
        | MOUNT_ATTR_NOSUID
        | MOUNT_ATTR_NODEV
        | MOUNT_ATTR_NOEXEC
        | MOUNT_ATTR_NODIRATIME
        | MOUNT_ATTR_NOSYMFOLLOW;
    let attr = MountAttr {
        set: options.attr.set,
        clear: options.attr.clear | all & !options.attr.set,
        ..MountAttr::default()
    };
    crate::sys::mount_setattr(target, false, attr).map_err(|errno| {
        let error = Error::from(errno).context("mount_setattr");
        if errno == Errno::EINVAL { error.hint("is anything mounted there?") } else { error }
    })?;
    if options.bind.is_some() {
        return Ok(());
    }
    let mut flags: Vec<(&str, Option<&str>)> =
        options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    if options.attr.set & MOUNT_ATTR_RDONLY != 0 {
        flags.push(("ro", None));
    } else if options.attr.clear & MOUNT_ATTR_RDONLY != 0 {
        flags.push(("rw", None));
    }
    if flags.is_empty() {
        return Ok(());
    }
    let context = FsContext::pick(target).context(|| "fspick")?;
    for (key, value) in flags {
        set(&context, key, value)?;
    }
    context.reconfigure().map_err(|errno| explain(&context, errno, "fsconfig(reconfigure)".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_separated_by_colons_that_are_not_escaped() {
        assert_eq!(split_layers(r"/a:/b\:c:/d"), ["/a", "/b:c", "/d"]);
        assert_eq!(split_layers("/a::/b"), ["/a", "", "/b"]);
    }
}
