//! The options of a mount: which are attributes, which are for the file system.
//!
//! config.md, "Linux mount options", gives the names; mount(8) and mount_setattr(2) what they mean.

use crate::sys::MountAttr;
use crate::sys::mount_flags::*;

/// How mount events spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE
    pub kind: u64,
    pub recursive: bool,
}

impl Propagation {
    /// `private`, `rprivate`, ...
    pub fn parse(text: &str) -> Option<Propagation> {
        let (name, recursive) = match text.strip_prefix('r') {
            Some(name) => (name, true),
            None => (text, false),
        };
        #[allow(clippy::useless_conversion, reason = "c_ulong is u32 on 32-bit targets")]
        let kind = match name {
            "shared" => libc::MS_SHARED,
            "slave" => libc::MS_SLAVE,
            "private" => libc::MS_PRIVATE,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        };
        Some(Propagation { kind, recursive })
    }
}

/// What the options of one mount say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// None: not a bind mount. Some(true): with the submounts.
    pub bind: Option<bool>,
    /// What is mounted there already is changed.
    pub remount: bool,
    /// `idmap` or, with the submounts, `ridmap`: ids are translated.
    pub idmap: Option<Idmap>,
    /// A tmpfs begins with what it hides.
    pub copy_up: bool,
    /// A source that is a symlink becomes a symlink, and nothing is mounted (crun).
    pub copy_symlink: bool,
    /// A symlink at the end of the source, or of the destination, is meant itself (crun).
    pub source_nofollow: bool,
    pub destination_nofollow: bool,
    /// A source that is missing is no error: mount(8).
    pub may_fail: bool,
    /// The mode of a destination that has to be made: `X-mount.mkdir` of mount(8).
    pub make_mode: Option<u32>,
    /// Attributes of this mount.
    pub attr: MountAttr,
    /// Attributes of this mount and all its submounts (`rro`, ...).
    pub recursive_attr: MountAttr,
    /// In the order given; the last of a kind wins in the kernel, too.
    pub propagation: Vec<Propagation>,
    /// Flags of the superblock and options of the file system: a key with or without a value.
    pub data: Vec<(String, Option<String>)>,
}

/// How ids are translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idmap {
    pub recursive: bool,
    /// `idmap=uids=0-1000-10;gids=...` (crun): the mappings in the option itself.
    pub mappings: Option<String>,
}

/// An attribute option: its name without `r`, the bits to set and those to clear.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, MOUNT_ATTR_RDONLY),
    ("nosuid", MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, MOUNT_ATTR_NOSUID),
    ("nodev", MOUNT_ATTR_NODEV, 0),
    ("dev", 0, MOUNT_ATTR_NODEV),
    ("noexec", MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, MOUNT_ATTR_NOEXEC),
    ("nodiratime", MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
    // The three modes of access time exclude each other. Turning one off leaves the kernel's default, relatime.
    ("noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    ("atime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    ("relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    ("norelatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    ("strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    ("nostrictatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
];

/// Superblock flags that the file system context knows by these names.
const SUPERBLOCK: &[&str] = &["sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"];

/// Names that have a meaning to mount(8) only, which is who is to mount when, or none any more.
const IGNORED: &[&str] = &[
    "",
    "_netdev",
    "auto",
    "defaults",
    "group",
    "iversion",
    "loud",
    "noauto",
    "nogroup",
    "noiversion",
    "noowner",
    "nouser",
    "nousers",
    "owner",
    "silent",
    "user",
    "users",
];

/// crun's recursive forms of superblock flags, which no mount call can set below a mount.
const IGNORED_RECURSIVE: &[&str] = &["rsync", "rasync", "rdirsync", "rmand", "rnomand"];

fn apply(attr: &mut MountAttr, (_, set, clear): &(&str, u64, u64)) {
    // A later option undoes an earlier one, so `ro,rw` is rw.
    attr.set = attr.set & !clear | set;
    attr.clear = attr.clear & !set | clear;
}

/// The mode behind `X-mount.mkdir`, in octal; none: the usual one.
fn make_mode(option: &str) -> Result<Option<u32>, String> {
    match option.split_once('=') {
        None => Ok(None),
        Some((_, mode)) => match u32::from_str_radix(mode, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(format!("option {option:?} has no octal mode")),
        },
    }
}

/// Enough for the layers of any overlay.
const MAX_OPTION: usize = 128 << 10;

impl Options {
    /// An option that only a file system of one's own could take. Flags of a superblock are let pass on a bind mount, as
    /// mount(2) does.
    pub fn of_file_system(&self) -> Option<&str> {
        let mut names = self.data.iter().map(|(name, _)| name.as_str());
        names.find(|name| !SUPERBLOCK.contains(name) && *name != "acl")
    }

    /// Parses the list; what nobody knows is an option of the file system (config.md: mounts).
    pub fn parse(list: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        for option in list.iter().map(String::as_str) {
            let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
            match option {
                "bind" => options.bind = options.bind.or(Some(false)),
                "rbind" => options.bind = Some(true),
                "remount" => options.remount = true,
                "tmpcopyup" => options.copy_up = true,
                "copy-symlink" => options.copy_symlink = true,
                "src-nofollow" => options.source_nofollow = true,
                "dest-nofollow" => options.destination_nofollow = true,
                "nofail" => options.may_fail = true,
                option if option.contains('\0') => return Err("an option contains a NUL character".to_string()),
                option if option.len() >= MAX_OPTION => {
                    return Err(format!("an option of {} bytes is too long", option.len()));
                }
                option if option.split('=').next() == Some("idmap") || option.split('=').next() == Some("ridmap") => {
                    let mappings = option.split_once('=').map(|(_, text)| text.to_string());
                    options.idmap = Some(Idmap { recursive: option.starts_with('r'), mappings });
                }
                option if option == "X-mount.mkdir" || option.starts_with("X-mount.mkdir=") => {
                    options.make_mode = make_mode(option)?;
                }
                option if IGNORED.contains(&option) || IGNORED_RECURSIVE.contains(&option) => {}
                option if ["x-", "X-", "comment="].iter().any(|prefix| option.starts_with(prefix)) => {}
                option if SUPERBLOCK.contains(&option) => options.data.push((option.to_string(), None)),
                option => {
                    if let Some(attribute) = find(option) {
                        apply(&mut options.attr, attribute);
                    } else if let Some(propagation) = Propagation::parse(option) {
                        options.propagation.push(propagation);
                    } else if let Some(attribute) = option.strip_prefix('r').and_then(find) {
                        apply(&mut options.recursive_attr, attribute);
                    } else {
                        let (key, value) = match option.split_once('=') {
                            // The quotes keep the commas of a SELinux label together in the string of mount(2).
                            Some((key, value)) if key.ends_with("context") => (key, Some(value.replace('"', ""))),
                            Some((key, value)) => (key, Some(value.to_string())),
                            None => (option, None),
                        };
                        options.data.push((key.to_string(), value));
                    }
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(&text.split(',').map(str::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn attributes_are_set_and_cleared_and_the_last_wins() {
        let options = parse("ro,nosuid,rw,strictatime");
        assert_eq!(options.attr.set, MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);
        // The kernel wants the whole mode of access time cleared whichever of them is set.
        assert_eq!(options.attr.clear, MOUNT_ATTR_RDONLY | MOUNT_ATTR__ATIME);
        assert_eq!(parse("rw,ro").attr.set, MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn an_r_makes_it_recursive_except_where_it_is_part_of_the_name() {
        assert_eq!(parse("rro").recursive_attr.set, MOUNT_ATTR_RDONLY);
        assert_eq!(parse("relatime").attr.clear, MOUNT_ATTR__ATIME);
        assert_eq!(parse("rrelatime").recursive_attr.clear, MOUNT_ATTR__ATIME);
        assert_eq!(parse("rbind").bind, Some(true));
        assert_eq!(parse("bind,rslave").propagation, [Propagation { kind: libc::MS_SLAVE, recursive: true }]);
    }

    #[test]
    fn the_rest_is_for_the_file_system() {
        let options = parse("mode=755,size=65536k,newinstance,sync,defaults,x-systemd.automount");
        let keys: Vec<&str> = options.data.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["mode", "size", "newinstance", "sync"]);
        assert_eq!(options.data[0].1.as_deref(), Some("755"));
        assert_eq!(parse("context=\"a:b:c:s0\"").data[0].1.as_deref(), Some("a:b:c:s0"));
    }
}
