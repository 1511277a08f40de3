//! User namespaces made by root: mappings, what belongs to them, and everything that works differently inside.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bundle::{
    Bundle, Check, MAPPED_ROOT as ROOT, Property, Seen, enter_user_namespace, give_away, mappings, property, set,
};
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Container, Output};
use crate::terminal::Socket;
use crate::{ensure, tests};

tests![
    ids_are_mapped_as_configured,
    the_process_is_its_mapped_user_on_the_host,
    every_new_namespace_belongs_to_the_user_namespace,
    new_namespaces_belong_to_a_joined_user_namespace,
    sysctl_files_of_its_namespaces_belong_to_its_root,
    a_user_namespace_without_mappings_is_refused,
    mappings_without_a_user_namespace_are_refused,
    mappings_of_one_kind_only_are_refused,
    odd_mappings_are_refused,
    an_id_that_is_not_mapped_is_refused,
    an_id_that_is_not_mapped_in_a_joined_namespace_is_refused,
    a_user_namespace_is_joined,
    a_user_namespace_is_joined_without_a_new_pid_namespace,
    a_user_namespace_is_joined_with_namespaces_that_it_owns,
    a_user_namespace_is_joined_with_namespaces_that_the_host_owns,
    a_user_namespace_is_joined_with_a_pid_namespace_of_the_host,
    a_new_user_namespace_goes_with_joined_namespaces_of_the_host,
    every_combination_with_pid_and_network_namespaces_is_entered,
    groups_are_set_as_configured,
    capabilities_count_inside,
    a_source_that_only_root_can_reach_is_bound,
    a_rootfs_that_only_root_can_reach_is_the_root,
    a_rootfs_that_only_another_user_can_reach_is_the_root,
    the_default_devices_can_be_used,
    a_device_has_its_mode_and_owner,
    a_device_may_have_another_path_than_on_the_host,
    a_fifo_has_its_mode_and_owner,
    an_existing_device_that_matches_is_taken,
    an_existing_file_that_is_another_device_is_refused,
    runtime_hooks_see_the_host_and_container_hooks_the_container,
    a_terminal_belongs_to_the_user,
    exec_has_a_terminal_of_the_container,
    a_user_namespace_without_a_mount_namespace_is_refused,
    a_joined_mount_namespace_that_the_container_may_not_change_is_an_error,
    exec_is_in_all_namespaces_and_has_the_capabilities,
    exec_as_a_user_that_is_not_mapped_is_refused,
    a_sysctl_of_the_network_is_set_inside,
    a_sysctl_of_the_user_namespace_is_set,
    a_sysctl_is_set_without_a_pid_namespace,
    sys_is_there_with_the_network_of_the_host,
    sys_is_there_with_a_network_that_the_host_owns,
    cgroups_are_shown_with_a_cgroup_namespace,
    cgroups_are_shown_without_a_cgroup_namespace,
    cgroups_are_shown_in_a_cgroup_namespace_that_the_host_owns,
    a_writable_cgroup_belongs_to_the_user,
    masked_and_read_only_paths_hold,
    nothing_of_the_host_is_in_mountinfo,
    seccomp_without_no_new_privileges_is_loaded,
    a_read_only_root_gets_its_working_directory,
    no_pivot_works_in_a_user_namespace,
];

fn namespace(kind: &str) -> Value {
    json!({"type": kind})
}

fn joined(kind: &str, path: &str) -> Value {
    json!({"type": kind, "path": path})
}

/// A test of the user namespace itself.
fn userns<'p>(case: &'p Case<'p>, ranges: &[(u32, u32, u32)]) -> Property<'p> {
    property(case, "/linux/namespaces/-", namespace("user"))
        .along("/linux/uidMappings", mappings(ranges))
        .along("/linux/gidMappings", mappings(ranges))
        .prepared(|bundle| give_away(&bundle.rootfs(), ROOT))
}

/// A test of another property, with a user namespace in both runs.
fn inside<'p>(case: &'p Case<'p>, pointer: &'p str, value: Value) -> Property<'p> {
    property(case, pointer, value).prepared(enter_user_namespace)
}

/// A text of numbers, as the kernel lines them up.
fn numbers(text: &str) -> Vec<Vec<u32>> {
    text.lines().map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect()).collect()
}

fn ids_are_mapped_as_configured(case: &Case) -> Outcome {
    let (uid_map, gid_map) = ("/proc/self/uid_map", "/proc/self/gid_map");
    let one = [(0, ROOT, 1)];
    let range = [(0, ROOT, 65536)];
    let several = [(0, ROOT, 1000), (1000, 300_000, 500), (65534, 5, 1)];
    for ranges in [&one[..], &range, &several] {
        let expected: Vec<Vec<u32>> =
            ranges.iter().map(|(inside, outside, size)| vec![*inside, *outside, *size]).collect();
        userns(case, ranges).probe(&["--read", uid_map, "--read", gid_map]).holds(|seen| {
            for file in [uid_map, gid_map] {
                ensure!(numbers(seen.text(file)?) == expected, "{file} holds {:?}", seen.text(file)?);
            }
            Ok(())
        })?;
    }
    // The two lists need not be the same.
    userns(case, &[(0, ROOT, 10)])
        .along("/linux/gidMappings", mappings(&[(0, 200_000, 20)]))
        .probe(&["--read", gid_map])
        .holds(|seen| match numbers(seen.text(gid_map)?) == [[0, 200_000, 20]] {
            true => Ok(()),
            false => Err(format!("{gid_map} holds {:?}", seen.text(gid_map)?)),
        })
}

/// The four uids, or gids, of a process as the host sees them.
fn ids_of(pid: i32, field: &str) -> Result<Vec<u32>, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    Ok(line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn the_process_is_its_mapped_user_on_the_host(case: &Case) -> Outcome {
    userns(case, &[(0, ROOT, 65536)]).given("/process/user", json!({"uid": 5, "gid": 7})).holds_outside(|container| {
        let (uids, gids) = (ids_of(container.pid, "Uid:")?, ids_of(container.pid, "Gid:")?);
        ensure!(uids == [ROOT + 5; 4] && gids == [ROOT + 7; 4], "uids {uids:?}, gids {gids:?}");
        Ok(())
    })
}

const OTHERS: [(&str, &str); 7] = [
    ("mount", "mnt"),
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

/// Whether these namespaces belong to the user namespace of the process.
fn all_belong(seen: &Seen, kinds: &[(&str, &str)]) -> Check {
    let own = seen.get("/namespaces/user");
    for (kind, name) in kinds {
        let owner = seen.get(&format!("/owners/{name}"));
        ensure!(own.is_u64() && owner == own, "the {kind} namespace belongs to {owner}, we are in {own}");
    }
    Ok(())
}

fn every_new_namespace_belongs_to_the_user_namespace(case: &Case) -> Outcome {
    let all = json!(OTHERS.iter().map(|(kind, _)| namespace(kind)).collect::<Vec<_>>());
    userns(case, &[(0, ROOT, 65536)]).given("/linux/namespaces", all).holds(|seen| {
        let host = fs::metadata("/proc/self/ns/user").map_err(|error| error.to_string())?.ino();
        ensure!(seen.get("/namespaces/user") != &json!(host), "it is the user namespace of the host");
        all_belong(seen, &OTHERS)
    })
}

/// A container that has all namespaces and does nothing.
fn holder<'c>(case: &'c Case<'c>, with_userns: bool) -> Outcome<Container<'c>> {
    let mut bundle = case.bundle()?.probe(&["--hold"]);
    for (kind, _) in OTHERS.iter().filter(|(kind, _)| !matches!(*kind, "mount" | "pid")) {
        bundle = bundle.with("/linux/namespaces/-", namespace(kind));
    }
    let bundle = if with_userns { bundle.in_user_namespace()? } else { bundle };
    let container = case.run_detached(&bundle)?;
    container.prints("\n")?;
    Ok(container)
}

fn path_of(container: &Container, name: &str) -> String {
    format!("/proc/{}/ns/{name}", container.pid)
}

fn inode(path: &str) -> Outcome<u64> {
    Ok(fs::metadata(path)?.ino())
}

fn new_namespaces_belong_to_a_joined_user_namespace(case: &Case) -> Outcome {
    let holder = holder(case, true)?;
    let path = path_of(&holder, "user");
    let all = json!(OTHERS.iter().map(|(kind, _)| namespace(kind)).collect::<Vec<_>>());
    property(case, "/linux/namespaces/-", joined("user", &path))
        .given("/linux/namespaces", all)
        .prepared(|bundle| give_away(&bundle.rootfs(), ROOT))
        .holds(|seen| {
            let expected = fs::metadata(&path).map_err(|error| error.to_string())?.ino();
            seen.is("/namespaces/user", &json!(expected))?;
            all_belong(seen, &OTHERS)
        })?;
    holder.end()
}

fn sysctl_files_of_its_namespaces_belong_to_its_root(case: &Case) -> Outcome {
    let files = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmni"];
    let options = ["--stat", files[0], "--stat", files[1], "--write", files[0], "--write", files[1]];
    let list = json!(["mount", "pid", "network", "ipc"].map(namespace));
    let caps = json!({"effective": ["CAP_NET_ADMIN"], "permitted": ["CAP_NET_ADMIN"], "bounding": ["CAP_NET_ADMIN"]});
    let property = userns(case, &[(0, ROOT, 65536)]).given("/linux/namespaces", list);
    property.given("/process/capabilities", caps).probe(&options).holds(|seen| {
        let own = fs::metadata("/proc/self/ns/user").map_err(|error| error.to_string())?.ino();
        ensure!(seen.get("/namespaces/user") != &json!(own), "it is the user namespace of the host");
        for file in files {
            let stat = seen.answer("stat", file);
            ensure!(stat.get("uid") == Some(&json!(0)) && stat.get("gid") == Some(&json!(0)), "{file} is {stat}");
            seen.answers("write", file, &json!("ok"))?;
        }
        Ok(())
    })
}

fn a_user_namespace_without_mappings_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/namespaces/-", namespace("user")).refused("Mappings")
}

fn mappings_without_a_user_namespace_are_refused(case: &Case) -> Outcome {
    property(case, "/linux/uidMappings", mappings(&[(0, ROOT, 1)]))
        .along("/linux/gidMappings", mappings(&[(0, ROOT, 1)]))
        .refused("Mappings")
}

fn mappings_of_one_kind_only_are_refused(case: &Case) -> Outcome {
    for kind in ["/linux/uidMappings", "/linux/gidMappings"] {
        property(case, "/linux/namespaces/-", namespace("user")).along(kind, mappings(&[(0, ROOT, 1)])).refused("")?;
    }
    Ok(())
}

fn odd_mappings_are_refused(case: &Case) -> Outcome {
    for ranges in [
        &[(0, ROOT, 0)][..],
        &[(0, ROOT, 10), (5, 300_000, 10)],
        &[(0, ROOT, 10), (10, ROOT + 5, 10)],
        &[(0, u32::MAX, 2)],
        &[(u32::MAX, ROOT, 2)],
    ] {
        userns(case, ranges).refused("").map_err(|stop| crate::bundle::within(stop, &format!("{ranges:?}")))?;
    }
    // 340 lines are what the kernel takes, and a page of text.
    let many: Vec<_> = (0..341).map(|number| (number, number + 1000, 1)).collect();
    userns(case, &many).refused("")?;
    let long: Vec<_> = (0..340).map(|number| (number, 4_000_000_000 + 2 * number, 1)).collect();
    userns(case, &long).refused("")?;
    let map = "/proc/self/uid_map";
    let bundle = |bundle: &mut Bundle| give_away(&bundle.rootfs(), 1000);
    userns(case, &many[..340]).prepared(bundle).probe(&["--read", map]).holds(|seen| {
        let lines = seen.text(map)?.lines().count();
        ensure!(lines == 340, "{map} has {lines} lines");
        Ok(())
    })
}

fn an_id_that_is_not_mapped_is_refused(case: &Case) -> Outcome {
    for (user, field) in [
        (json!({"uid": 70000, "gid": 0}), "uid"),
        (json!({"uid": 0, "gid": 70000}), "gid"),
        (json!({"uid": 0, "gid": 0, "additionalGids": [5, 70000]}), "additionalGids"),
    ] {
        let output = case.bundle()?.in_user_namespace()?.with("/process/user", user).run(case)?.fails(1, "")?;
        if case.machine.is_corten() {
            let pointer = format!("/process/user/{field}: 70000 is not mapped");
            ensure!(output.stderr.contains(&pointer), "stderr should contain {pointer:?}: {output}");
        }
    }
    case.bundle()?.in_user_namespace()?.with("/process/user", json!({"uid": 65535, "gid": 65535})).see(case).map(drop)
}

fn an_id_that_is_not_mapped_in_a_joined_namespace_is_refused(case: &Case) -> Outcome {
    let holder = holder(case, true)?;
    property(case, "/process/user", json!({"uid": 70000, "gid": 0}))
        .instead_of(json!({"uid": 7000, "gid": 0}))
        .prepared(|bundle| give_away(&bundle.rootfs(), ROOT))
        .given("/linux/namespaces/-", joined("user", &path_of(&holder, "user")))
        .refused("70000")?;
    holder.end()
}

fn a_user_namespace_is_joined(case: &Case) -> Outcome {
    let holder = holder(case, true)?;
    let path = path_of(&holder, "user");
    let expected = inode(&path)?;
    property(case, "/linux/namespaces/-", joined("user", &path))
        .prepared(|bundle| give_away(&bundle.rootfs(), ROOT))
        .given("/process/user", json!({"uid": 3, "gid": 4}))
        .probe(&["--read", "/proc/self/uid_map"])
        .holds(|seen| {
            seen.is("/namespaces/user", &json!(expected))?;
            seen.is("/ids/euid", &json!(3))?;
            let map = numbers(seen.text("/proc/self/uid_map")?);
            ensure!(map == [[0, ROOT, 65536]], "the map is {map:?}");
            Ok(())
        })?;
    holder.end()
}

fn a_user_namespace_is_joined_without_a_new_pid_namespace(case: &Case) -> Outcome {
    let holder = holder(case, true)?;
    let path = path_of(&holder, "user");
    let expected = inode(&path)?;
    // The kernel lets nobody in there mount a /proc of a PID namespace that the host owns.
    property(case, "/linux/namespaces/-", joined("user", &path))
        .prepared(|bundle| give_away(&bundle.rootfs(), ROOT))
        .given("/linux/namespaces", json!([namespace("mount")]))
        .given("/mounts", json!([]))
        .holds_outside(|container| {
            let found = fs::metadata(path_of(container, "user")).map_err(|error| error.to_string())?.ino();
            ensure!(found == expected, "it is in the user namespace {found}, not {expected}");
            let own = fs::metadata("/proc/self/ns/pid").map_err(|error| error.to_string())?.ino();
            let pid = fs::metadata(path_of(container, "pid")).map_err(|error| error.to_string())?.ino();
            ensure!(pid == own, "it is in another PID namespace");
            Ok(())
        })?;
    holder.end()
}

/// Joins namespaces of a container, besides a user namespace, and finds them all.
fn all_are_joined(case: &Case, userns: Option<&str>, of: &Container, kinds: &[&str]) -> Outcome {
    let names: Vec<_> = OTHERS.iter().filter(|(kind, _)| kinds.contains(kind)).collect();
    let mut list: Vec<Value> = names.iter().map(|(kind, name)| joined(kind, &path_of(of, name))).collect();
    for kind in ["mount", "pid"] {
        if !kinds.contains(&kind) {
            list.push(namespace(kind));
        }
    }
    let mut bundle = case.bundle()?.with("/linux/namespaces", json!(list)).owned_by(ROOT)?;
    bundle = match userns {
        Some(path) => bundle.with("/linux/namespaces/-", joined("user", path)),
        None => bundle.in_user_namespace()?,
    };
    let container = case.create(&bundle)?;
    let mut expected: Vec<(&str, u64)> = Vec::new();
    for (_, name) in &names {
        expected.push((name, inode(&path_of(of, name))?));
    }
    if let Some(path) = userns {
        expected.push(("user", inode(path)?));
    }
    let found: Vec<(&str, u64)> =
        expected.iter().map(|(name, _)| Ok((*name, inode(&path_of(&container, name))?))).collect::<Outcome<_>>()?;
    case.delete_force(&container.id)?;
    ensure!(found == expected, "the namespaces are {found:?}, not {expected:?}");
    // It also runs to its end.
    let id = case.id();
    bundle.id = id;
    bundle.run(case)?.succeeds().map(drop)
}

fn a_user_namespace_is_joined_with_namespaces_that_it_owns(case: &Case) -> Outcome {
    let holder = holder(case, true)?;
    let path = path_of(&holder, "user");
    for kinds in
        [&["network", "ipc", "uts"][..], &["pid"], &["cgroup", "time"], &["pid", "network", "ipc", "uts", "time"]]
    {
        all_are_joined(case, Some(&path), &holder, kinds)
            .map_err(|stop| crate::bundle::within(stop, &kinds.join(",")))?;
    }
    holder.end()
}

fn a_user_namespace_is_joined_with_namespaces_that_the_host_owns(case: &Case) -> Outcome {
    let (users, hosts) = (holder(case, true)?, holder(case, false)?);
    let path = path_of(&users, "user");
    for kinds in [&["network"][..], &["ipc", "uts"], &["cgroup", "time"]] {
        all_are_joined(case, Some(&path), &hosts, kinds)
            .map_err(|stop| crate::bundle::within(stop, &kinds.join(",")))?;
    }
    users.end()?;
    hosts.end()
}

fn a_user_namespace_is_joined_with_a_pid_namespace_of_the_host(case: &Case) -> Outcome {
    let (users, hosts) = (holder(case, true)?, holder(case, false)?);
    let list = json!([namespace("mount"), joined("pid", &path_of(&hosts, "pid"))]);
    let (expected, userns) = (inode(&path_of(&hosts, "pid"))?, path_of(&users, "user"));
    let bundle = case.bundle()?.with("/linux/namespaces", list);
    let bundle = bundle.with("/linux/namespaces/-", joined("user", &userns)).owned_by(ROOT)?;
    let container = case.create(&bundle)?;
    let found = (inode(&path_of(&container, "pid"))?, inode(&path_of(&container, "user"))?);
    case.delete_force(&container.id)?;
    ensure!(found == (expected, inode(&userns)?), "the namespaces are {found:?}");
    users.end()?;
    hosts.end()
}

fn a_new_user_namespace_goes_with_joined_namespaces_of_the_host(case: &Case) -> Outcome {
    let holder = holder(case, false)?;
    for kinds in [&["network"][..], &["ipc", "uts"], &["cgroup", "time"], &["pid"], &["pid", "network", "ipc", "uts"]] {
        all_are_joined(case, None, &holder, kinds).map_err(|stop| crate::bundle::within(stop, &kinds.join(",")))?;
    }
    holder.end()
}

/// Where a namespace comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Inherited,
    New,
    /// Of a container without a user namespace.
    Host,
    /// Of the container whose user namespace is joined, too.
    Pod,
}

fn every_combination_with_pid_and_network_namespaces_is_entered(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("others refuse several");
    }
    let (pod, host) = (holder(case, true)?, holder(case, false)?);
    let mut sources = Vec::new();
    for user in [From::Inherited, From::New, From::Pod] {
        for pid in [From::Inherited, From::New, From::Host, From::Pod] {
            for network in [From::Inherited, From::New, From::Host, From::Pod] {
                let of_pod = [pid, network].contains(&From::Pod);
                if user == From::Pod || !of_pod {
                    sources.push([("user", "user", user), ("pid", "pid", pid), ("network", "net", network)]);
                }
            }
        }
    }
    for combination in sources {
        let mut list = vec![namespace("mount"), namespace("ipc")];
        let mut expected = Vec::new();
        for (kind, name, from) in combination {
            let of = if from == From::Pod { &pod } else { &host };
            match from {
                From::Inherited => expected.push((name, Some(inode(&format!("/proc/self/ns/{name}"))?))),
                From::New => {
                    list.push(namespace(kind));
                    expected.push((name, None));
                }
                From::Host | From::Pod => {
                    list.push(joined(kind, &path_of(of, name)));
                    expected.push((name, Some(inode(&path_of(of, name))?)));
                }
            }
        }
        let mut bundle = case.bundle()?.with("/linux/namespaces", json!(list)).with("/mounts", json!([]));
        let user = combination[0].2;
        if user == From::New {
            let ids = mappings(&[(0, ROOT, 65536)]);
            bundle = bundle.with("/linux/uidMappings", ids.clone()).with("/linux/gidMappings", ids);
        }
        if user != From::Inherited {
            bundle = bundle.owned_by(ROOT)?;
        }
        let container =
            case.create(&bundle).map_err(|stop| crate::bundle::within(stop, &format!("{combination:?}")))?;
        let hosts = |name: &str| inode(&format!("/proc/self/ns/{name}"));
        for (name, wanted) in &expected {
            let found = inode(&path_of(&container, name))?;
            let is_right = wanted.map_or(found != hosts(name)?, |wanted| wanted == found);
            ensure!(is_right, "{combination:?}: the {name} namespace is {found}");
        }
        container.start()?;
        container.wait()?;
        container.delete()?;
    }
    pod.end()?;
    host.end()
}

fn groups_are_set_as_configured(case: &Case) -> Outcome {
    inside(case, "/process/user/additionalGids", json!([5, 65535])).probe(&["--read", "/proc/self/setgroups"]).holds(
        |seen| {
            seen.reads("/proc/self/setgroups", "allow\n")?;
            seen.is("/ids/groups", &json!([5, 65535]))
        },
    )
}

fn capabilities_count_inside(case: &Case) -> Outcome {
    // Mounting is what CAP_SYS_ADMIN in one's own user namespace allows.
    let all = json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]);
    let sets = json!({"bounding": all, "effective": all, "permitted": all});
    let bundle =
        case.bundle()?.in_user_namespace()?.shell("mount -t tmpfs none /tmp && echo x >/tmp/file && cat /tmp/file");
    let output = bundle.with("/process/capabilities", sets).run(case)?.succeeds()?;
    ensure!(output.stdout == "x\n", "{output}");
    let bundle = case.bundle()?.in_user_namespace()?.shell("mount -t tmpfs none /tmp");
    ensure!(bundle.run(case)?.status != 0, "it can mount without CAP_SYS_ADMIN");
    // Whatever the runtime has itself, inside there is everything.
    let every = json!(["CAP_SYS_RESOURCE", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_TIME"]);
    let sets = json!({"bounding": every, "effective": every, "permitted": every});
    inside(case, "/process/capabilities", sets).holds(|seen| {
        let found = seen.get("/capabilities/effective").to_string();
        ensure!(found.contains("CAP_SYS_RESOURCE") && found.contains("CAP_SYS_BOOT"), "effective is {found}");
        Ok(())
    })
}

/// A directory that only one user of the host can enter.
fn private(case: &Case, name: &str, owner: u32) -> Outcome<PathBuf> {
    let dir = case.dir.join(name);
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    chown(&dir, Some(owner), Some(owner))?;
    Ok(dir)
}

fn a_source_that_only_root_can_reach_is_bound(case: &Case) -> Outcome {
    let volume = private(case, "private", 0)?.join("deep/volume");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("file"), "content")?;
    let mount = json!({"destination": "/mnt", "source": volume, "type": "bind", "options": ["bind"]});
    let single = json!({"destination": "/etc/file", "source": volume.join("file"), "options": ["bind", "ro"]});
    inside(case, "/mounts/-", mount)
        .probe(&["--read", "/mnt/file"])
        .holds(|seen| seen.reads("/mnt/file", "content"))?;
    inside(case, "/mounts/-", single).probe(&["--read", "/etc/file"]).holds(|seen| seen.reads("/etc/file", "content"))
}

/// A container whose rootfs lies in a directory that only one user can enter.
fn has_private_rootfs(case: &Case, owner: u32) -> Outcome {
    let rootfs = private(case, "private", owner)?.join("rootfs");
    case.make_rootfs(&rootfs)?;
    give_away(&rootfs, ROOT)?;
    let bundle =
        case.bundle()?.in_user_namespace()?.with("/root/path", json!(rootfs)).probe(&["--make", "/made", "--hold"]);
    let container = case.run_detached(&bundle)?;
    let text = container.prints("\n")?;
    let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    ensure!(seen.answer("make", "/made").get("uid") == Some(&json!(0)), "{}", seen.answer("make", "/made"));
    ensure!(fs::metadata(rootfs.join("made"))?.uid() == ROOT, "the file has another owner on the host");
    mounts_are(&seen, &["/", "/proc"])?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    mounts_are(&seen, &["/", "/proc"])?;
    container.end()
}

fn a_rootfs_that_only_root_can_reach_is_the_root(case: &Case) -> Outcome {
    has_private_rootfs(case, 0)
}

fn a_rootfs_that_only_another_user_can_reach_is_the_root(case: &Case) -> Outcome {
    has_private_rootfs(case, 5555)
}

/// The mount points, less those of devices, have to be these.
fn mounts_are(seen: &Seen, expected: &[&str]) -> Outcome {
    let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
    let mut found: Vec<_> = mounts.iter().filter_map(|mount| mount.get("destination")?.as_str()).collect();
    found.retain(|destination| {
        !["null", "zero", "full", "random", "urandom", "tty", "console"]
            .iter()
            .any(|device| *destination == format!("/dev/{device}"))
    });
    found.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    ensure!(found == expected, "the mounts are {found:?}, not {expected:?}");
    Ok(())
}

fn dev_mount() -> Value {
    json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]})
}

fn the_default_devices_can_be_used(case: &Case) -> Outcome {
    let names = ["null", "zero", "full", "random", "urandom"].map(|name| format!("/dev/{name}"));
    let mut options: Vec<&str> = vec!["--stat", "/dev/tty"];
    for name in &names {
        options.extend(["--open", name.as_str()]);
    }
    let user = json!({"uid": 1000, "gid": 1000});
    for bundle in [case.bundle()?.with("/mounts/-", dev_mount()), case.bundle()?] {
        let seen = bundle.in_user_namespace()?.with("/process/user", user.clone()).probe(&options).see(case)?;
        for (name, numbers) in names.iter().zip([(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)]) {
            seen.answers("open", name, &json!("ok"))?;
            let node = seen.answer("dev", name);
            ensure!(
                (node.get("major"), node.get("minor")) == (Some(&json!(numbers.0)), Some(&json!(numbers.1))),
                "{node}"
            );
        }
        let tty = seen.answer("stat", "/dev/tty");
        ensure!((tty.get("major"), tty.get("minor")) == (Some(&json!(5)), Some(&json!(0))), "/dev/tty is {tty}");
    }
    Ok(())
}

/// A device of `linux.devices` in a user namespace, and what the probe must find.
fn is_made(case: &Case, device: &Value, expected: &[(&str, Value)]) -> Outcome {
    let path = device.get("path").and_then(Value::as_str).unwrap_or_default();
    inside(case, "/linux/devices", json!([device]))
        .given("/process/user/uid", json!(5))
        .given("/mounts/-", dev_mount())
        .probe(&["--open", path])
        .holds(|seen| {
            let node = seen.answer("dev", path);
            for (field, value) in expected {
                ensure!(node.get(field) == Some(value), "{path} should have {field} {value}: {node}");
            }
            seen.answers("open", path, &json!("ok"))
        })
}

fn a_device_has_its_mode_and_owner(case: &Case) -> Outcome {
    let device =
        json!({"type": "c", "path": "/dev/zero", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 5, "gid": 6});
    let expected = [("type", json!("c")), ("mode", json!(0o640)), ("uid", json!(5)), ("gid", json!(6))];
    is_made(case, &device, &expected)
}

fn a_device_may_have_another_path_than_on_the_host(case: &Case) -> Outcome {
    let device = json!({"type": "c", "path": "/dev/a/b/nothing", "major": 1, "minor": 3, "fileMode": 0o666});
    is_made(case, &device, &[("type", json!("c")), ("major", json!(1)), ("minor", json!(3)), ("mode", json!(0o666))])
}

fn a_fifo_has_its_mode_and_owner(case: &Case) -> Outcome {
    let device = json!({"type": "p", "path": "/dev/fifo", "fileMode": 0o702, "uid": 5, "gid": 6});
    is_made(case, &device, &[("type", json!("p")), ("mode", json!(0o702)), ("uid", json!(5)), ("gid", json!(6))])
}

/// A node in the rootfs, made by the host.
fn make_node(path: &Path, major: u64, minor: u64) -> Outcome {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let _ = fs::remove_file(path);
    mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o666))?)
}

fn an_existing_device_that_matches_is_taken(case: &Case) -> Outcome {
    let bundle = case.bundle()?.in_user_namespace()?.probe(&["--open", "/dev/mine", "--open", "/dev/null"]);
    make_node(&bundle.rootfs().join("dev/mine"), 1, 5)?;
    make_node(&bundle.rootfs().join("dev/null"), 1, 3)?;
    let device = json!([{"type": "c", "path": "/dev/mine", "major": 1, "minor": 5, "fileMode": 0o666}]);
    let flags = nix::sys::statvfs::statvfs(&bundle.rootfs())?.flags();
    let seen = bundle.with("/linux/devices", device).see(case)?;
    if flags.contains(nix::sys::statvfs::FsFlags::ST_NODEV) {
        return skip("the directory for temporary files is mounted nodev");
    }
    seen.answers("open", "/dev/mine", &json!("ok"))?;
    Ok(seen.answers("open", "/dev/null", &json!("ok"))?)
}

fn an_existing_file_that_is_another_device_is_refused(case: &Case) -> Outcome {
    let device = json!([{"type": "c", "path": "/dev/mine", "major": 1, "minor": 5}]);
    inside(case, "/linux/devices", device.clone())
        .prepared(|bundle| make_node(&bundle.rootfs().join("dev/mine"), 1, 3))
        .refused("/dev/mine")?;
    inside(case, "/linux/devices", device)
        .prepared(|bundle| Ok(fs::write(bundle.rootfs().join("dev/mine"), "a file")?))
        .refused("/dev/mine")
}

fn runtime_hooks_see_the_host_and_container_hooks_the_container(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.in_user_namespace()?.probe(&["--hold"]);
    let out = case.dir.join("out");
    fs::create_dir(&out)?;
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777))?;
    let program = case.machine.tmp.join("probe");
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let file = out.join(kind);
        let hook =
            json!([{"path": program, "args": ["probe", "--stdin", "--read", "/proc/self/uid_map", "--out", file]}]);
        set(&mut bundle.config, &format!("/hooks/{kind}"), hook);
    }
    let args = json!(["probe", "--stdin", "--read", "/proc/self/uid_map", "--out", "/tmp/out"]);
    set(&mut bundle.config, "/hooks/startContainer", json!([{"path": "/probe", "args": args}]));
    let container = case.run_detached(&bundle)?;
    let userns = inode(&path_of(&container, "user"))?;
    container.end()?;
    let host = inode("/proc/self/ns/user")?;
    for (file, namespace, map) in [
        (out.join("prestart"), host, 0),
        (out.join("createRuntime"), host, 0),
        (out.join("createContainer"), userns, ROOT),
        (bundle.rootfs().join("tmp/out"), userns, ROOT),
        (out.join("poststart"), host, 0),
        (out.join("poststop"), host, 0),
    ] {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
        let told = || format!("{}: {}", file.display(), seen.get("/ids"));
        seen.is("/namespaces/user", &json!(namespace)).map_err(|why| format!("{why}: {}", told()))?;
        seen.is("/ids/euid", &json!(0)).map_err(|why| format!("{why}: {}", told()))?;
        let first = numbers(seen.text("/proc/self/uid_map")?).first().and_then(|line| line.get(1).copied());
        ensure!(first == Some(map), "{}: the map begins with {first:?}", file.display());
        let state = seen.get("/stdin").as_str().unwrap_or_default();
        ensure!(state.contains(&bundle.id), "{}: the state is {state:?}", file.display());
    }
    Ok(())
}

fn a_terminal_belongs_to_the_user(case: &Case) -> Outcome {
    let socket = Socket::in_directory(&case.dir.join("console"))?;
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]});
    let bundle = case.bundle()?.in_user_namespace()?.with("/mounts/-", dev_mount()).with("/mounts/-", pts);
    let bundle = bundle.with("/process/terminal", json!(true)).with("/process/user", json!({"uid": 7, "gid": 8}));
    let script = "stat -L -c '%n %u %g %a' /dev/pts/0 /dev/console; readlink /proc/self/fd/0; : >/dev/tty && echo tty";
    let bundle = bundle.shell(script);
    bundle.write()?;
    let mut arguments: Vec<String> = bundle.run_arguments().to_vec();
    arguments.splice(
        1..1,
        ["--detach".to_owned(), "--console-socket".to_owned(), socket.path.to_string_lossy().into_owned()],
    );
    case.run(&arguments)?.succeeds()?;
    let (terminal, _) = socket.receives()?;
    let mut text = Vec::new();
    // The last reader of a pseudo-terminal is told EIO.
    let _ = std::io::Read::read_to_end(&mut fs::File::from(terminal), &mut text);
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    case.delete_force(&bundle.id)?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(
        lines == ["/dev/pts/0 7 5 620", "/dev/console 7 5 620", "/dev/pts/0", "tty"],
        "the terminal shows {text:?}"
    );
    Ok(())
}

fn exec_has_a_terminal_of_the_container(case: &Case) -> Outcome {
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]});
    let bundle = case.bundle()?.in_user_namespace()?.with("/mounts/-", dev_mount()).with("/mounts/-", pts);
    let container = case.run_detached(&bundle.probe(&["--quiet", "--hold"]))?;
    let socket = Socket::in_directory(&case.dir.join("console"))?;
    let path = socket.path.to_string_lossy().into_owned();
    let script = "stat -L -c '%n %u %g' /dev/pts/0; readlink /proc/self/fd/1; : >/dev/tty && echo tty";
    let command =
        ["exec", "--detach", "--tty", "--user", "7:8", "--console-socket", &path, &container.id, "/bin/sh", "-c"];
    case.runtime(&command).args(&[script]).go()?.succeeds()?;
    let (terminal, _) = socket.receives()?;
    let mut text = Vec::new();
    let _ = std::io::Read::read_to_end(&mut fs::File::from(terminal), &mut text);
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    ensure!(text.lines().eq(["/dev/pts/0 7 5", "/dev/pts/0", "tty"]), "the terminal shows {text:?}");
    container.end()
}

fn a_user_namespace_without_a_mount_namespace_is_refused(case: &Case) -> Outcome {
    // Its devices could only be mounted, and on the host at that.
    let list = json!(["pid", "user"].map(namespace));
    let bundle = case.bundle()?.in_user_namespace()?.with("/linux/namespaces", list).with("/mounts", json!([]));
    bundle.run(case)?.fails(1, "")?;
    ensure!(fs::read_dir(bundle.rootfs().join("dev"))?.next().is_none(), "something was made in the rootfs");
    Ok(())
}

fn a_joined_mount_namespace_that_the_container_may_not_change_is_an_error(case: &Case) -> Outcome {
    let holder = holder(case, false)?;
    let list = json!([namespace("pid"), joined("mount", &path_of(&holder, "mnt"))]);
    let bundle = case.bundle()?.with("/linux/namespaces", list).in_user_namespace()?;
    bundle.run(case)?.fails(1, "")?;
    holder.end()
}

fn exec_is_in_all_namespaces_and_has_the_capabilities(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.probe(&["--read", "/proc/self/uid_map", "--hold"]);
    for (kind, _) in OTHERS.iter().filter(|(kind, _)| !matches!(*kind, "mount" | "pid")) {
        bundle = bundle.with("/linux/namespaces/-", namespace(kind));
    }
    let caps = json!(["CAP_CHOWN", "CAP_NET_ADMIN"]);
    let bundle = bundle.with("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}));
    let container = case.run_detached(&bundle.in_user_namespace()?)?;
    let text = container.prints("\n")?;
    let init = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    let seen = container.exec(&["/probe", "--read", "/proc/self/uid_map"])?.succeeds()?.seen()?;
    for fact in
        ["/namespaces", "/owners", "/capabilities", "/ids", "/read", "/rlimits", "/signals", "/uts", "/no_new_privs"]
    {
        seen.is(fact, init.get(fact))?;
    }
    let fds: Vec<_> =
        seen.get("/fds").as_array().into_iter().flatten().filter_map(|fd| fd.get("fd")?.as_i64()).collect();
    ensure!(fds == [0, 1, 2], "the fds are {fds:?}");
    let command = ["exec", "--user", "5:6", "--additional-gids", "9", &container.id, "/probe"];
    let seen = case.run(&command)?.succeeds()?.seen()?;
    seen.is("/ids", &json!({"uid": 5, "euid": 5, "suid": 5, "gid": 6, "egid": 6, "sgid": 6, "groups": [9]}))?;
    seen.is("/namespaces", init.get("/namespaces"))?;
    container.end()
}

fn exec_as_a_user_that_is_not_mapped_is_refused(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.in_user_namespace()?.probe(&["--quiet", "--hold"]))?;
    for user in ["70000", "0:70000"] {
        let output = case.run(&["exec", "--user", user, &container.id, "/probe"])?.ends_with(255)?;
        output.is_one_line()?;
        ensure!(!case.machine.is_corten() || output.stderr.contains("70000 is not mapped"), "{output}");
    }
    container.end()
}

fn a_sysctl_of_the_network_is_set_inside(case: &Case) -> Outcome {
    let file = "/proc/sys/net/ipv4/ping_group_range";
    inside(case, "/linux/sysctl", json!({"net.ipv4.ping_group_range": "5 6"}))
        .prepared(|bundle| {
            set(&mut bundle.config, "/linux/namespaces/-", namespace("network"));
            Ok(())
        })
        .probe(&["--read", file])
        .holds(|seen| seen.reads(file, "5\t6\n"))
}

fn a_sysctl_of_the_user_namespace_is_set(case: &Case) -> Outcome {
    let file = "/proc/sys/user/max_net_namespaces";
    let before = fs::read_to_string(file)?;
    inside(case, "/linux/sysctl", json!({"user.max_net_namespaces": "3"}))
        .probe(&["--read", file])
        .holds(|seen| seen.reads(file, "3\n"))?;
    property(case, "/linux/sysctl", json!({"user.max_net_namespaces": "3"})).refused("user.max_net_namespaces")?;
    ensure!(fs::read_to_string(file)? == before, "the host's value has changed");
    Ok(())
}

fn a_sysctl_is_set_without_a_pid_namespace(case: &Case) -> Outcome {
    let list = json!(["mount", "network", "user"].map(namespace));
    let sysctl = json!({"net.ipv4.ping_group_range": "5 6"});
    let bundle = case.bundle()?.in_user_namespace()?.with("/linux/namespaces", list).with("/mounts", json!([]));
    let container = case.create(&bundle.with("/linux/sysctl", sysctl))?;
    let netns = fs::File::open(path_of(&container, "net"))?;
    // A thread of its own, for it cannot come back.
    let found = std::thread::spawn(move || -> Result<String, String> {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
        fs::read_to_string("/proc/thread-self/net/../../../sys/net/ipv4/ping_group_range")
            .or_else(|_| fs::read_to_string("/proc/sys/net/ipv4/ping_group_range"))
            .map_err(|error| error.to_string())
    });
    let found = found.join().map_err(|_| "the thread panicked")??;
    case.delete_force(&container.id)?;
    ensure!(numbers(&found) == [[ROOT + 5, ROOT + 6]], "the range is {found:?}");
    Ok(())
}

fn sysfs() -> Value {
    json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]})
}

fn is_sys(seen: &Seen) -> Check {
    let mount = seen.mount("/sys")?;
    ensure!(mount.get("fstype") == Some(&json!("sysfs")), "{mount}");
    seen.mounted_with("/sys", &["ro", "nosuid", "nodev", "noexec"])?;
    let names = seen.answer("list", "/sys/class/net").to_string();
    ensure!(names.contains("lo"), "the interfaces are {names}");
    Ok(())
}

fn sys_is_there_with_the_network_of_the_host(case: &Case) -> Outcome {
    inside(case, "/mounts/-", sysfs()).probe(&["--list", "/sys/class/net", "--write", "/sys/fs/cgroup"]).holds(|seen| {
        is_sys(seen)?;
        // Nothing that lies below the host's /sys may be writable where this was asked to be read-only.
        let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
        let below =
            |mount: &&Value| mount.get("destination").and_then(Value::as_str).is_some_and(|d| d.starts_with("/sys"));
        for mount in mounts.iter().filter(below) {
            let options = mount.get("options").map(Value::to_string).unwrap_or_default();
            ensure!(options.contains("\"ro\""), "{mount}");
        }
        Ok(())
    })
}

fn sys_is_there_with_a_network_that_the_host_owns(case: &Case) -> Outcome {
    let holder = holder(case, false)?;
    let network = joined("network", &path_of(&holder, "net"));
    inside(case, "/mounts/-", sysfs())
        .prepared(|bundle| {
            set(&mut bundle.config, "/linux/namespaces/-", network.clone());
            Ok(())
        })
        .probe(&["--list", "/sys/class/net"])
        .holds(is_sys)?;
    holder.end()
}

fn cgroup_mount(options: &[&str]) -> Value {
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})
}

/// The container's cgroups as it sees them, with and without the right to write.
fn cgroups_are_shown(case: &Case, with_namespace: bool) -> Outcome {
    let path = format!("/corten-test/{}-userns", case.tag);
    for read_only in [true, false] {
        let options: &[&str] =
            if read_only { &["ro", "nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev"] };
        let places: &[&str] = match case.machine.cgroup2 {
            true => &["/sys/fs/cgroup"],
            false => &["/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd"],
        };
        let mut bundle =
            case.bundle()?.in_user_namespace()?.with("/mounts/-", sysfs()).with("/mounts/-", cgroup_mount(options));
        bundle = bundle.with("/linux/cgroupsPath", json!(path)).with("/linux/namespaces/-", namespace("network"));
        if with_namespace {
            bundle = bundle.with("/linux/namespaces/-", namespace("cgroup"));
        }
        let files: Vec<String> = places.iter().map(|place| format!("{place}/cgroup.procs")).collect();
        let mut probe: Vec<&str> = files.iter().flat_map(|file| ["--read", file.as_str()]).collect();
        probe.extend(["--write", "/sys/fs/cgroup"]);
        let seen = bundle.probe(&probe).see(case)?;
        for (place, file) in places.iter().zip(&files) {
            let mount = seen.mount(place)?;
            // Its own process is in there, and it is alone.
            ensure!(seen.text(file)?.trim() == "1", "{file} holds {:?}", seen.text(file)?);
            let root = mount.get("root").and_then(Value::as_str).unwrap_or_default();
            ensure!(!with_namespace || root == "/", "{place} shows {root}");
            seen.mounted_with(place, &["nosuid", "nodev", "noexec"])?;
            if read_only {
                seen.mounted_with(place, &["ro"])?;
            }
        }
        let written = seen.answer("write", "/sys/fs/cgroup");
        ensure!(!read_only || written == "EROFS", "writing into the cgroups is {written}");
        let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
        let strange =
            mounts.iter().filter_map(|mount| mount.get("propagation")?.as_array().filter(|tags| !tags.is_empty()));
        ensure!(strange.count() == 0, "there are peers of mounts of the host: {mounts:?}");
    }
    Ok(())
}

fn cgroups_are_shown_with_a_cgroup_namespace(case: &Case) -> Outcome {
    cgroups_are_shown(case, true)
}

fn cgroups_are_shown_without_a_cgroup_namespace(case: &Case) -> Outcome {
    cgroups_are_shown(case, false)
}

fn cgroups_are_shown_in_a_cgroup_namespace_that_the_host_owns(case: &Case) -> Outcome {
    let holder = holder(case, false)?;
    let file = if case.machine.cgroup2 { "/sys/fs/cgroup/cgroup.procs" } else { "/sys/fs/cgroup/pids/cgroup.procs" };
    let bundle = case.bundle()?.with("/mounts/-", sysfs()).with("/mounts/-", cgroup_mount(&["ro"]));
    let bundle = bundle.with("/linux/namespaces/-", joined("cgroup", &path_of(&holder, "cgroup")));
    let bundle = bundle.with("/linux/namespaces/-", namespace("network")).in_user_namespace()?;
    let seen = bundle.probe(&["--read", file]).see(case)?;
    ensure!(seen.text(file)?.trim() == "1", "{file} holds {:?}", seen.text(file)?);
    holder.end()
}

fn a_writable_cgroup_belongs_to_the_user(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-owned", case.tag);
    let dir = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let owner = |name: &str| fs::metadata(dir.join(name)).map(|found| found.uid()).map_err(|error| error.to_string());
    let mounts = || -> Vec<Value> { vec![sysfs(), cgroup_mount(&["nosuid"])] };
    let is_owned = |user: u32, host: u32| {
        let proc = json!({"destination": "/proc", "type": "proc", "source": "proc"});
        property(case, "/mounts/2/options", json!(["nosuid"]))
            .instead_of(json!(["nosuid", "ro"]))
            .given("/mounts", json!([[proc].as_slice(), &mounts()].concat()))
            .given("/linux/cgroupsPath", json!(path))
            .given("/process/user", json!({"uid": user, "gid": user}))
            .prepared(move |bundle| {
                if host >= ROOT {
                    let ids = mappings(&[(0, ROOT, 65536)]);
                    set(&mut bundle.config, "/linux/uidMappings", ids.clone());
                    set(&mut bundle.config, "/linux/gidMappings", ids);
                    set(&mut bundle.config, "/linux/namespaces/-", namespace("user"));
                    give_away(&bundle.rootfs(), ROOT)?;
                }
                set(&mut bundle.config, "/linux/namespaces/-", namespace("network"));
                set(&mut bundle.config, "/linux/namespaces/-", namespace("cgroup"));
                Ok(())
            })
            .holds_outside(move |_| {
                for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                    ensure!(owner(name)? == host, "{name:?} belongs to {}, not {host}", owner(name)?);
                }
                // With these he could give himself more than he was given.
                for name in ["cgroup.max.descendants", "cgroup.freeze", "cgroup.kill"] {
                    ensure!(owner(name)? == 0, "{name:?} belongs to {}", owner(name)?);
                }
                Ok(())
            })
    };
    if !case.machine.cgroup2 {
        // Delegating a cgroup of v1 is not safe.
        let memory = Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/'));
        let bundle =
            case.bundle()?.in_user_namespace()?.with("/mounts/1", sysfs()).with("/mounts/2", cgroup_mount(&["nosuid"]));
        let bundle = bundle.with("/linux/cgroupsPath", json!(path)).with("/linux/namespaces/-", namespace("cgroup"));
        let container = case.create(&bundle.with("/linux/namespaces/-", namespace("network")))?;
        let owner = fs::metadata(memory)?.uid();
        case.delete_force(&container.id)?;
        ensure!(owner == 0, "a cgroup of v1 belongs to {owner}");
        return Ok(());
    }
    is_owned(0, ROOT)?;
    is_owned(7, ROOT + 7)?;
    is_owned(1000, 1000)?;
    // It is of use to him: he may divide it, without any capability.
    let bundle =
        case.bundle()?.in_user_namespace()?.with("/mounts/1", sysfs()).with("/mounts/2", cgroup_mount(&["nosuid"]));
    let bundle = bundle.with("/linux/cgroupsPath", json!(path)).with("/linux/namespaces/-", namespace("cgroup"));
    let bundle = bundle.with("/linux/namespaces/-", namespace("network"));
    let script = "cd /sys/fs/cgroup && /bin/busybox mkdir sub && echo 0 >sub/cgroup.procs && cat /proc/self/cgroup";
    let output = bundle.shell(script).run(case)?.succeeds()?;
    ensure!(output.stdout.lines().any(|line| line == "0::/sub"), "{output}");
    Ok(())
}

fn masked_and_read_only_paths_hold(case: &Case) -> Outcome {
    inside(case, "/linux/maskedPaths", json!(["/proc/version", "/proc/fs", "/etc/passwd", "/var"]))
        .probe(&["--read", "/proc/version", "--list", "/proc/fs", "--read", "/etc/passwd", "--write", "/var"])
        .holds(|seen| {
            seen.reads("/proc/version", "")?;
            seen.reads("/etc/passwd", "")?;
            seen.answers("list", "/proc/fs", &json!({"names": []}))?;
            seen.answers("write", "/var", &json!("EROFS"))
        })?;
    let file = "/proc/sys/net/ipv4/ip_forward";
    let caps = json!({"effective": ["CAP_NET_ADMIN"], "permitted": ["CAP_NET_ADMIN"], "bounding": ["CAP_NET_ADMIN"]});
    inside(case, "/linux/readonlyPaths", json!(["/proc/sys", "/var"]))
        .given("/process/capabilities", caps)
        .prepared(|bundle| {
            set(&mut bundle.config, "/linux/namespaces/-", namespace("network"));
            Ok(())
        })
        .probe(&["--write", file, "--write", "/var"])
        .holds(|seen| {
            seen.answers("write", file, &json!("EROFS"))?;
            seen.answers("write", "/var", &json!("EROFS"))
        })
}

fn nothing_of_the_host_is_in_mountinfo(case: &Case) -> Outcome {
    let volume = case.dir.join("volume");
    fs::create_dir(&volume)?;
    let bind = json!({"destination": "/mnt", "source": volume, "type": "bind", "options": ["rbind", "rslave"]});
    let device = json!([{"type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "fileMode": 0o666}]);
    let masked = json!(["/proc/version", "/proc/fs"]);
    type Change<'c> = &'c dyn Fn(Bundle) -> Bundle;
    let cases: [(Change, &[&str]); 6] = [
        (&|bundle| bundle, &[]),
        (&|bundle| bundle.with("/mounts/-", dev_mount()), &["/dev"]),
        (&|bundle| bundle.with("/mounts/-", bind.clone()), &["/mnt"]),
        (
            &|bundle| bundle.with("/mounts/-", dev_mount()).with("/linux/devices", device.clone()),
            &["/dev", "/dev/mine"],
        ),
        (&|bundle| bundle.with("/linux/maskedPaths", masked.clone()), &["/proc/version", "/proc/fs"]),
        (&|bundle| bundle.with("/root/readonly", json!(true)), &[]),
    ];
    for (change, more) in cases {
        let expected: Vec<&str> = ["/", "/proc"].iter().chain(more).copied().collect();
        for with_userns in [true, false] {
            let bundle = change(case.bundle()?);
            let bundle = if with_userns { bundle.in_user_namespace()? } else { bundle };
            let mut seen = bundle.see(case)?;
            if !with_userns && more.contains(&"/dev/mine") {
                // There it is a node and no mount.
                seen = Seen(seen.0);
                mounts_are(&seen, &["/", "/proc", "/dev"])?;
                continue;
            }
            mounts_are(&seen, &expected)?;
        }
    }
    Ok(())
}

fn seccomp_without_no_new_privileges_is_loaded(case: &Case) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    let call = format!("{},0,0", nix::libc::SYS_mkdirat);
    inside(case, "/linux/seccomp", profile)
        .probe(&["--syscall", &call])
        .holds(|seen| seen.answers("syscall", &call, &json!("EOPNOTSUPP")))
}

fn a_read_only_root_gets_its_working_directory(case: &Case) -> Outcome {
    inside(case, "/process/cwd", json!("/new/work"))
        .instead_of(json!("/"))
        .given("/root/readonly", json!(true))
        .probe(&["--stat", "/new/work"])
        .holds(|seen| {
            seen.is("/cwd", &json!("/new/work"))?;
            let stat = seen.answer("stat", "/new/work");
            ensure!(stat.get("uid") == Some(&json!(0)) && stat.get("mode") == Some(&json!(0o755)), "{stat}");
            Ok(())
        })
}

fn no_pivot_works_in_a_user_namespace(case: &Case) -> Outcome {
    let bundle =
        case.bundle()?.in_user_namespace()?.with("/mounts/-", dev_mount()).probe(&["--open", "/dev/null", "--hold"]);
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.splice(1..1, ["--no-pivot".to_owned(), "--detach".to_owned()]);
    let output: Output = case.run(&arguments)?;
    if !case.machine.is_corten() && output.status != 0 {
        return skip("this runtime does not do it");
    }
    let output = output.succeeds()?;
    for _ in 0..1000 {
        if fs::read_to_string(&output.stdout_path)?.ends_with('\n') {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let text = fs::read_to_string(&output.stdout_path)?;
    let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    seen.answers("open", "/dev/null", &json!("ok"))?;
    let seen = case.run(&["exec", &bundle.id, "/probe", "--list", "/"])?.succeeds()?.seen()?;
    let names = seen.answer("list", "/").to_string();
    ensure!(names.contains("probe") && !names.contains("usr"), "the root holds {names}");
    case.delete_force(&bundle.id)
}
