//! linux.sysctl: only keys that belong to a namespace which the container does not share (rule R28), written through a
//! procfs of our own in which nothing else is mounted.

use crate::error::{Context, Error, Result};
use crate::namespaces::Namespaces;
use crate::procfs::Procfs;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use std::collections::HashMap;

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// As in the configuration, for messages.
    pub key: String,
    /// Below /proc: `sys/net/ipv4/ip_forward`.
    pub path: String,
    pub value: String,
}

/// The kernel takes a page at most.
const MAX_VALUE: usize = 4096;

/// The parameters of System V IPC, which belong to the ipc namespace.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Checks the keys and orders them by name, so that two runs do the same.
pub fn plan(sysctls: Option<&HashMap<String, String>>, namespaces: &Namespaces, hostname: bool) -> Result<Vec<Sysctl>> {
    let mut result = Vec::new();
    for (key, value) in sysctls.into_iter().flatten() {
        let bad = |why: &str| Error::new(format!("config.json: /linux/sysctl/{}: {why}", key.replace('/', "~1")));
        let path = path_of(key).ok_or_else(|| bad("is no sysctl name"))?;
        let needs = |kind: CloneFlags| match namespaces.has(kind) {
            true => Ok(()),
            false => Err(bad(&format!("needs a private {} namespace", crate::namespaces::name(kind)))),
        };
        match path.as_str() {
            path if path.starts_with("net/") => needs(CloneFlags::CLONE_NEWNET)?,
            path if path.starts_with("user/") => needs(CloneFlags::CLONE_NEWUSER)?,
            path if IPC.contains(&path) || path.starts_with("fs/mqueue/") => needs(CloneFlags::CLONE_NEWIPC)?,
            // Beside /domainname it is the later word, as it is with runc.
            "kernel/domainname" => needs(CloneFlags::CLONE_NEWUTS)?,
            "kernel/hostname" if hostname => return Err(bad("conflicts with /hostname")),
            "kernel/hostname" => return Err(bad("is set by /hostname")),
            _ => return Err(bad("is not in a separate kernel namespace")),
        }
        if value.contains('\0') {
            return Err(bad("the value contains a NUL character"));
        }
        if value.len() >= MAX_VALUE {
            return Err(bad(&format!("a value of {} bytes is too long", value.len())));
        }
        result.push(Sysctl { key: key.clone(), path: format!("sys/{path}"), value: value.clone() });
    }
    result.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(result)
}

/// The path below /proc/sys, by the rule of sysctl(8): the first separator decides; with dots, a slash within a
/// component stands for a dot (`net.ipv4.conf.eth0/100.forwarding`).
fn path_of(key: &str) -> Option<String> {
    let path = match key.find(['.', '/']) {
        Some(first) if key[first..].starts_with('.') => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_string(),
    };
    let fine = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    (path.contains('/') && path.split('/').all(fine)).then_some(path)
}

/// Writes them, in the container's namespaces.
pub fn apply(sysctls: &[Sysctl], procfs: &Procfs) -> Result<()> {
    for sysctl in sysctls {
        procfs
            .write(&sysctl.path, OFlag::O_WRONLY, sysctl.value.as_bytes())
            .context(|| format!("set sysctl {} to {:?}", sysctl.key, sysctl.value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_sysctl_8() {
        for (key, path) in [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net/ipv4/conf/eth0.100/forwarding", Some("net/ipv4/conf/eth0.100/forwarding")),
            ("net.ipv4.conf.eth0/100.forwarding", Some("net/ipv4/conf/eth0.100/forwarding")),
            ("net.ipv4....kernel.core_pattern", None),
            ("net/../kernel/core_pattern", None),
            ("net", None),
            ("", None),
        ] {
            assert_eq!(path_of(key).as_deref(), path, "{key}");
        }
    }

    #[test]
    fn only_private_namespaces_may_be_changed() {
        let none = Namespaces::new(&[]).unwrap();
        let list: Vec<_> =
            serde_json::from_str(r#"[{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"user"}]"#).unwrap();
        let all = Namespaces::new(&list).unwrap();
        let check =
            |key: &str, namespaces| plan(Some(&HashMap::from([(key.to_string(), "1".to_string())])), namespaces, false);
        for key in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "kernel.domainname", "user.max_x"] {
            assert!(check(key, &all).is_ok() && check(key, &none).is_err(), "{key}");
        }
        for key in ["kernel.core_pattern", "vm.swappiness", "kernel.hostname", "fs.mqueue", "net"] {
            assert!(check(key, &all).is_err(), "{key}");
        }
    }
}
