//! User namespaces: the id mappings, who writes them, and becoming somebody in a namespace that has them
//! (user_namespaces(7)).

use crate::error::{Context, Error, Result};
use crate::files;
use crate::sync::{self, Message};
use crate::sys::{self, Cloned};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, getegid, geteuid};
use oci_spec::runtime::LinuxIdMapping;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// The kernel takes no more lines.
const MAX_LINES: usize = 340;

/// One line of uid_map or gid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    inside: u32,
    outside: u32,
    size: u32,
}

/// The mappings of one user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    pub uid: Vec<Mapping>,
    pub gid: Vec<Mapping>,
}

/// Checks one list: every range within 32 bits, none empty, none overlapping another on either side.
fn check(list: Option<&Vec<LinuxIdMapping>>, pointer: &str) -> Result<Vec<Mapping>> {
    let bad = |why: &str| Err(Error::new(format!("config.json: {pointer}: {why}")));
    let mut result: Vec<Mapping> = Vec::new();
    for (index, given) in list.into_iter().flatten().enumerate() {
        let new = Mapping { inside: given.container_id(), outside: given.host_id(), size: given.size() };
        let fits = |first: u32| first.checked_add(new.size).is_some();
        if new.size == 0 {
            return bad(&format!("{index}: size must not be 0"));
        }
        if !fits(new.inside) || !fits(new.outside) {
            return bad(&format!("{index}: the range ends above the highest id"));
        }
        let overlap = |a: u32, size: u32, b: u32, other: u32| a < b + other && b < a + size;
        if result.iter().any(|known| {
            overlap(known.inside, known.size, new.inside, new.size)
                || overlap(known.outside, known.size, new.outside, new.size)
        }) {
            return bad(&format!("{index}: the range overlaps an earlier one"));
        }
        result.push(new);
    }
    let lines = result.len();
    if lines > MAX_LINES {
        return bad(&format!("{lines} ranges are more than {MAX_LINES}"));
    }
    // Few ranges fit whatever their numbers are.
    if lines > 100 && text(&result).len() >= page_size() {
        return bad(&format!("{lines} ranges with these numbers are more than the kernel takes: a page of text"));
    }
    Ok(result)
}

fn page_size() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

impl Mappings {
    /// Checks both lists; None if there is neither. `pointer` is where the objects `uidMappings` and `gidMappings` are.
    pub fn new(
        uid: Option<&Vec<LinuxIdMapping>>,
        gid: Option<&Vec<LinuxIdMapping>>,
        pointer: &str,
    ) -> Result<Option<Mappings>> {
        let uid = check(uid, &format!("{pointer}/uidMappings"))?;
        let gid = check(gid, &format!("{pointer}/gidMappings"))?;
        match (uid.is_empty(), gid.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(Mappings { uid, gid })),
            (uid_missing, _) => {
                let missing = if uid_missing { "uidMappings" } else { "gidMappings" };
                Err(Error::new(format!("config.json: {pointer}/{missing}: is required beside the other")))
            }
        }
    }

    /// The text of crun's `idmap=`: `uids=0-1000-10#10-5000-1;gids=...`, each range inside-outside-size; with `@` in front
    /// the outside counts within `container`.
    pub fn parse(text: &str, container: Option<&Mappings>) -> Option<Mappings> {
        let mut mappings = Mappings { uid: Vec::new(), gid: Vec::new() };
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (name, ranges) = part.split_once('=')?;
            let (list, within): (_, fn(&Mappings) -> &[Mapping]) = match name {
                "uids" => (&mut mappings.uid, |ids| &ids.uid),
                "gids" => (&mut mappings.gid, |ids| &ids.gid),
                _ => return None,
            };
            for range in ranges.split('#').filter(|range| !range.is_empty()) {
                let (range, relative) = range.strip_prefix('@').map_or((range, false), |range| (range, true));
                let mut numbers = range.split('-').map(|number| number.parse::<u32>().ok());
                let (inside, outside, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
                let outside = if relative { to_outside(within(container?), outside)? } else { outside };
                list.push(Mapping { inside, outside, size });
            }
        }
        let complete = !mappings.uid.is_empty() && !mappings.gid.is_empty();
        complete.then_some(mappings)
    }
}

/// The id outside for one inside.
pub fn to_outside(list: &[Mapping], id: u32) -> Option<u32> {
    list.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside).filter(|offset| *offset < range.size)?;
        range.outside.checked_add(offset)
    })
}

fn text(list: &[Mapping]) -> String {
    list.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.size)).collect()
}

/// Reads uid_map or gid_map of a process as this process sees it.
pub fn read(pid: Pid, file: &str) -> Result<Vec<Mapping>> {
    let text = files::read_list(Path::new(&format!("/proc/{pid}/{file}")))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u32>().ok());
            Some(Mapping { inside: numbers.next()??, outside: numbers.next()??, size: numbers.next()?? })
        })
        .collect())
}

/// Writes the mappings of a process that is alone in a new user namespace.
///
/// Without privileges the kernel only lets one map himself, and only after groups can no longer be dropped; for more there
/// are the set-uid programs newuidmap and newgidmap, which know what the user was given (subuid(5)).
pub fn write(pid: Pid, mappings: &Mappings, privileged: bool) -> Result<()> {
    let what = || "map the ids of the user namespace";
    let put = |file: &str, value: &str| files::write_value(Path::new(&format!("/proc/{pid}/{file}")), value);
    let only_own = |list: &[Mapping], own: u32| matches!(list, [Mapping { outside, size: 1, .. }] if *outside == own);
    if privileged {
        put("uid_map", &text(&mappings.uid)).context(what)?;
        return put("gid_map", &text(&mappings.gid)).context(what);
    }
    match only_own(&mappings.uid, geteuid().as_raw()) {
        true => put("uid_map", &text(&mappings.uid)).context(what)?,
        false => by_helper("newuidmap", pid, &mappings.uid).context(what)?,
    }
    if only_own(&mappings.gid, getegid().as_raw()) {
        put("setgroups", "deny").context(what)?;
        return put("gid_map", &text(&mappings.gid)).context(what);
    }
    by_helper("newgidmap", pid, &mappings.gid).context(what)
}

fn by_helper(program: &str, pid: Pid, list: &[Mapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string()).stdin(Stdio::null());
    for range in list {
        command.args([range.inside, range.outside, range.size].map(|number| number.to_string()));
    }
    let output = command.output().map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let error = Error::from(error).context(format!("run {program}"));
        if missing { error.hint("mapping more than one's own id needs the package uidmap") } else { error }
    })?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(output.stderr.get(..output.stderr.len().min(512)).unwrap_or_default());
            Err(Error::new(format!("{program}: {}", said.trim().replace('\n', "; ")))
                .hint("what may be mapped is in /etc/subuid and /etc/subgid"))
        }
    }
}

/// A user namespace with these mappings, which lives as long as the descriptor: what an id-mapped mount is described by.
pub fn namespace(mappings: &Mappings) -> Result<OwnedFd> {
    with_helper(CloneFlags::CLONE_NEWUSER, None, |pid| {
        write(pid, mappings, true)?;
        let path = format!("/proc/{pid}/ns/user");
        files::open(Path::new(&path), OFlag::O_RDONLY).context(|| format!("open {path}"))
    })
    .context(|| "make a user namespace for an id-mapped mount")
}

/// The mappings of an existing user namespace, as this process sees them.
pub fn mappings_of(namespace: BorrowedFd<'_>) -> Result<Mappings> {
    with_helper(CloneFlags::empty(), Some(namespace), |pid| {
        Ok(Mappings { uid: read(pid, "uid_map")?, gid: read(pid, "gid_map")? })
    })
    .context(|| "read the mappings of the user namespace")
}

/// Does something with a process that is in a new user namespace, or in an existing one, and nothing else.
fn with_helper<T>(flags: CloneFlags, join: Option<BorrowedFd<'_>>, action: impl FnOnce(Pid) -> Result<T>) -> Result<T> {
    let (ours, theirs) = sync::pair()?;
    let pid = match sys::clone(flags, None).context(|| "clone3")? {
        Cloned::Child => {
            sys::close_inherited(ours.as_fd());
            let joined = join.map_or(Ok(()), |namespace| sys::setns(namespace, CloneFlags::CLONE_NEWUSER));
            let said = match joined {
                Ok(()) => theirs.send(&Message::Ready),
                Err(errno) => theirs.send(&Message::Error(Error::from(errno).context("setns"))),
            };
            // It ends when the parent lets go of it, or dies.
            let _ = said.and_then(|()| theirs.receive());
            sys::exit(0)
        }
        Cloned::Parent(pid, _) => pid,
    };
    drop(theirs);
    let done = ours.expect(&Message::Ready).and_then(|()| action(pid));
    drop(ours);
    let _ = nix::sys::wait::waitpid(pid, None);
    done
}

/// Becomes a user of the namespace that this process has entered: its root, or, if that is not mapped, `uid` and `gid`.
/// All capabilities in it stay.
pub fn become_root(uid: u32, gid: u32) -> Result<()> {
    let what = || "become root in the user namespace";
    let or_else = |result: nix::Result<()>, other: &dyn Fn() -> nix::Result<()>| match result {
        Err(Errno::EINVAL) => other(),
        result => result,
    };
    or_else(sys::set_gid(0), &|| sys::set_gid(gid)).context(|| "setresgid").context(what)?;
    or_else(sys::set_uid(0), &|| sys::set_uid(uid)).context(|| "setresuid").context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(uid: &str, gid: &str) -> Result<Option<Mappings>> {
        let list = |text: &str| serde_json::from_str::<Vec<LinuxIdMapping>>(text).unwrap();
        Mappings::new(Some(&list(uid)), Some(&list(gid)), "/linux")
    }

    const ONE: &str = r#"[{"containerID": 0, "hostID": 1000, "size": 1}]"#;

    #[test]
    fn ranges_must_be_plausible() {
        let two = |a: u32, b: u32| {
            format!(
                r#"[{{"containerID": 0, "hostID": {a}, "size": 10}}, {{"containerID": 10, "hostID": {b}, "size": 10}}]"#
            )
        };
        assert!(mappings(&two(100, 200), ONE).unwrap().is_some());
        assert!(mappings(&two(100, 105), ONE).unwrap_err().to_string().contains("/linux/uidMappings: 1: "));
        assert!(mappings(r#"[{"containerID": 0, "hostID": 4294967295, "size": 2}]"#, ONE).is_err());
        assert!(mappings(r#"[{"containerID": 0, "hostID": 1, "size": 0}]"#, ONE).is_err());
        assert!(mappings("[]", ONE).unwrap_err().to_string().contains("uidMappings: is required"));
        assert_eq!(mappings("[]", "[]").unwrap(), None);
    }

    #[test]
    fn an_id_is_translated_by_its_range() {
        let list = mappings(r#"[{"containerID": 5, "hostID": 100, "size": 2}]"#, ONE).unwrap().unwrap().uid;
        assert_eq!((to_outside(&list, 6), to_outside(&list, 7), to_outside(&list, 4)), (Some(101), None, None));
        assert_eq!(text(&list), "5 100 2\n");
    }

    #[test]
    fn an_option_may_hold_mappings() {
        let container = mappings(r#"[{"containerID": 0, "hostID": 5000, "size": 100}]"#, ONE).unwrap().unwrap();
        let parsed = Mappings::parse("uids=0-1-10#@20-7-1;gids=0-2-3", Some(&container)).unwrap();
        assert_eq!((text(&parsed.uid).as_str(), text(&parsed.gid).as_str()), ("0 1 10\n20 5007 1\n", "0 2 3\n"));
        assert!(Mappings::parse("uids=0-1", None).is_none() && Mappings::parse("uids=0-1-1", None).is_none());
    }
}
