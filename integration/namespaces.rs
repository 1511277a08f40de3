//! Namespaces: created, joined by path, inherited, and what belongs to one: hostname, domainname, sysctl.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::bundle::{Seen, property};
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    each_listed_namespace_is_new,
    a_namespace_that_is_not_listed_is_inherited,
    a_listed_path_is_joined,
    a_joined_pid_namespace_shows_its_processes,
    a_path_of_another_type_is_refused,
    a_missing_path_is_refused,
    a_relative_path_is_refused,
    a_duplicate_namespace_is_refused,
    an_unknown_namespace_is_refused,
    hostname_is_set,
    domainname_is_set,
    a_sysctl_is_the_later_word_on_the_domainname,
    a_hostname_without_uts_namespace_is_refused,
    sysctl_of_the_network_is_set,
    sysctl_of_ipc_is_set,
    sysctl_with_slashes_is_set,
    sysctl_without_its_namespace_is_refused,
    sysctl_that_is_not_namespaced_is_refused,
    sysctl_outside_proc_sys_is_refused,
    loopback_is_up_in_a_new_network_namespace,
    the_host_keeps_its_hostname,
    without_a_mount_namespace_the_mounts_are_the_containers_alone,
    a_readonly_root_without_a_mount_namespace_is_readonly,
    rootfs_propagation_without_a_mount_namespace_is_refused,
    cgroup_namespace_begins_at_the_cgroup_of_the_container,
];

/// The type in config.json and the name in /proc/self/ns.
const KINDS: [(&str, &str); 4] = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")];

fn own(name: &str) -> Outcome<u64> {
    Ok(fs::metadata(format!("/proc/self/ns/{name}"))?.ino())
}

fn namespace(kind: &str) -> Value {
    json!({"type": kind})
}

fn each_listed_namespace_is_new(case: &Case) -> Outcome {
    for (kind, name) in KINDS {
        let own = own(name)?;
        property(case, "/linux/namespaces/-", namespace(kind)).holds(|seen| {
            let inode = seen.get(&format!("/namespaces/{name}"));
            ensure!(inode.is_u64() && inode != &json!(own), "the {kind} namespace is {inode}, ours {own}");
            Ok(())
        })?;
    }
    let pid = property(case, "/linux/namespaces", json!([namespace("mount"), namespace("pid")]));
    let own = own("pid")?;
    // Without a pid namespace /proc may not be mounted afresh by every runtime, so the check asks for the pid too.
    pid.instead_of(json!([namespace("mount")])).holds(|seen| {
        seen.is("/process/pid", &json!(1))?;
        ensure!(seen.get("/namespaces/pid") != &json!(own), "the pid namespace is ours");
        Ok(())
    })
}

fn a_namespace_that_is_not_listed_is_inherited(case: &Case) -> Outcome {
    let seen = case.bundle()?.see(case)?;
    for (kind, name) in KINDS {
        // runc and crun unshare the cgroup namespace only when it is listed, like the others.
        seen.is(&format!("/namespaces/{name}"), &json!(own(name)?)).map_err(|why| format!("{kind}: {why}"))?;
    }
    Ok(())
}

fn a_listed_path_is_joined(case: &Case) -> Outcome {
    let mut holder = case.bundle()?.probe(&["--hold"]);
    for (kind, _) in KINDS {
        holder = holder.with("/linux/namespaces/-", namespace(kind));
    }
    let holder = case.run_detached(&holder)?;
    holder.prints("\n")?;
    for (kind, name) in KINDS {
        let path = format!("/proc/{}/ns/{name}", holder.pid);
        let inode = fs::metadata(&path)?.ino();
        property(case, "/linux/namespaces/2", json!({"type": kind, "path": path}))
            .instead_of(namespace(kind))
            .given("/linux/namespaces/-", namespace(kind))
            .holds(|seen| seen.is(&format!("/namespaces/{name}"), &json!(inode)))?;
    }
    holder.end()
}

fn a_joined_pid_namespace_shows_its_processes(case: &Case) -> Outcome {
    let holder = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    holder.prints("\n")?;
    let path = format!("/proc/{}/ns/pid", holder.pid);
    property(case, "/linux/namespaces/0", json!({"type": "pid", "path": path})).instead_of(namespace("pid")).holds(
        |seen| {
            // The holder and the probe, and nobody of the host.
            let processes = seen.get("/processes").as_array().cloned().unwrap_or_default();
            ensure!(processes.contains(&json!(1)) && processes.len() == 2, "the processes are {processes:?}");
            ensure!(seen.get("/process/pid") != &json!(1), "it is the first process");
            Ok(())
        },
    )?;
    holder.end()
}

fn a_path_of_another_type_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/namespaces/-", json!({"type": "network", "path": "/proc/self/ns/uts"})).refused("")
}

fn a_missing_path_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/namespaces/-", json!({"type": "network", "path": "/no/such/ns"})).refused("/no/such/ns")
}

fn a_relative_path_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/namespaces/-", json!({"type": "network", "path": "ns/net"})).refused("")
}

fn a_duplicate_namespace_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/namespaces/-", namespace("pid")).refused("")
}

fn an_unknown_namespace_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/namespaces/-", namespace("nosuch")).refused("nosuch")
}

fn hostname_is_set(case: &Case) -> Outcome {
    property(case, "/hostname", json!("a-name"))
        .given("/linux/namespaces/-", namespace("uts"))
        .holds(|seen| seen.is("/uts/hostname", &json!("a-name")))
}

fn domainname_is_set(case: &Case) -> Outcome {
    property(case, "/domainname", json!("example.com"))
        .given("/linux/namespaces/-", namespace("uts"))
        .holds(|seen| seen.is("/uts/domainname", &json!("example.com")))
}

fn a_sysctl_is_the_later_word_on_the_domainname(case: &Case) -> Outcome {
    property(case, "/linux/sysctl", json!({"kernel.domainname": "later.example"}))
        .given("/linux/namespaces/-", namespace("uts"))
        .given("/domainname", json!("earlier.example"))
        .holds(|seen| seen.is("/uts/domainname", &json!("later.example")))
}

fn a_hostname_without_uts_namespace_is_refused(case: &Case) -> Outcome {
    property(case, "/hostname", json!("a-name")).refused("hostname")
}

fn sysctl_of_the_network_is_set(case: &Case) -> Outcome {
    let file = "/proc/sys/net/ipv4/ping_group_range";
    property(case, "/linux/sysctl", json!({"net.ipv4.ping_group_range": "5 6"}))
        .given("/linux/namespaces/-", namespace("network"))
        .probe(&["--read", file])
        .holds(|seen| seen.reads(file, "5\t6\n"))
}

fn sysctl_of_ipc_is_set(case: &Case) -> Outcome {
    let file = "/proc/sys/kernel/shmmni";
    property(case, "/linux/sysctl", json!({"kernel.shmmni": "1234"}))
        .given("/linux/namespaces/-", namespace("ipc"))
        .probe(&["--read", file])
        .holds(|seen| seen.reads(file, "1234\n"))
}

fn sysctl_with_slashes_is_set(case: &Case) -> Outcome {
    let file = "/proc/sys/net/ipv4/conf/lo/rp_filter";
    property(case, "/linux/sysctl", json!({"net/ipv4/conf/lo/rp_filter": "2"}))
        .given("/linux/namespaces/-", namespace("network"))
        .probe(&["--read", file])
        .holds(|seen| seen.reads(file, "2\n"))
}

fn sysctl_without_its_namespace_is_refused(case: &Case) -> Outcome {
    let before = fs::read_to_string("/proc/sys/kernel/shmmni")?;
    property(case, "/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).refused("net.ipv4.ip_forward")?;
    property(case, "/linux/sysctl", json!({"kernel.shmmni": "1234"})).refused("kernel.shmmni")?;
    ensure!(fs::read_to_string("/proc/sys/kernel/shmmni")? == before, "the sysctl of the host has changed");
    Ok(())
}

fn sysctl_that_is_not_namespaced_is_refused(case: &Case) -> Outcome {
    let before = fs::read_to_string("/proc/sys/vm/swappiness")?;
    property(case, "/linux/sysctl", json!({"vm.swappiness": before.trim()})).refused("vm.swappiness")
}

fn sysctl_outside_proc_sys_is_refused(case: &Case) -> Outcome {
    for key in ["net.ipv4/../../kernel/core_pattern", "net/../kernel/core_pattern", "net...", "net/", "../net/x", ""] {
        let sysctl = Value::Object([(key.to_owned(), json!("x"))].into_iter().collect());
        property(case, "/linux/sysctl", sysctl)
            .given("/linux/namespaces/-", namespace("network"))
            .refused("")
            .map_err(|stop| crate::bundle::within(stop, key))?;
    }
    Ok(())
}

fn loopback_is_up_in_a_new_network_namespace(case: &Case) -> Outcome {
    let file = "/sys/class/net/lo/flags";
    let bundle = case.bundle()?.with("/linux/namespaces/-", namespace("network"));
    let bundle = bundle.with("/mounts/-", json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"}));
    let seen = bundle.probe(&["--read", file]).see(case)?;
    ensure!(seen.text(file)?.trim() == "0x9", "the flags of lo are {}", seen.text(file)?);
    Ok(())
}

fn the_host_keeps_its_hostname(case: &Case) -> Outcome {
    let before = nix::unistd::gethostname()?;
    let bundle = case.bundle()?.with("/linux/namespaces/-", namespace("uts")).with("/hostname", json!("other"));
    bundle.see(case)?;
    ensure!(nix::unistd::gethostname()? == before, "the host's name has changed");
    Ok(())
}

fn cgroup_namespace_begins_at_the_cgroup_of_the_container(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-ns", case.tag);
    property(case, "/linux/namespaces/-", namespace("cgroup")).given("/linux/cgroupsPath", json!(path)).holds(|seen| {
        let text = seen.get("/cgroup").as_str().unwrap_or_default();
        // Hierarchies that the view does not show keep the place of the caller, which is not below ours.
        ensure!(!text.contains("corten-test"), "the cgroups are {text}");
        let roots = text.lines().filter(|line| line.ends_with(":/")).count();
        ensure!(roots > 0, "no cgroup is the root: {text}");
        Ok(())
    })
}

/// The mounts of this mount namespace at or below a path.
fn mounts_below(path: &std::path::Path) -> Outcome<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let below =
        text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| std::path::Path::new(at).starts_with(path));
    Ok(below.map(str::to_owned).collect())
}

/// config-linux.md: what is not listed is inherited, the mount namespace, too, and config.md: mounts asks for them anyway. What
/// would be mounted in it by the paths of the host would be seen there by everybody, and outlive the container.
fn without_a_mount_namespace_the_mounts_are_the_containers_alone(case: &Case) -> Outcome {
    let tmpfs = json!({"destination": "/data", "type": "tmpfs", "source": "data", "options": ["mode=0701", "shared"]});
    let bind =
        json!({"destination": "/etc/shown", "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro"]});
    let bundle = case.bundle()?.with("/linux/namespaces", json!([namespace("pid")])).with("/mounts/-", tmpfs);
    let bundle = bundle.with("/mounts/-", bind).with("/linux/maskedPaths", json!(["/proc/meminfo", "/proc/tty"]));
    let bundle = bundle.with("/linux/readonlyPaths", json!(["/proc/sys"]));
    let looks = [
        "--stat",
        "/data",
        "--read",
        "/proc/meminfo",
        "--list",
        "/proc/tty",
        "--read",
        "/etc/shown",
        "--write",
        "/etc/shown",
    ];
    let looks = [&looks[..], &["--write", "/proc/sys/kernel/panic"]].concat();
    let bundle = bundle.probe(&[&looks[..], &["--hold"]].concat());
    let container = case.run_detached(&bundle)?;
    let text = container.prints("\n")?;
    let init = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    let exec = container.exec(&[&["/probe"], &looks[..]].concat())?.succeeds()?.seen()?;
    let hostname = fs::read_to_string("/etc/hostname")?;
    for seen in [init, exec] {
        seen.is("/namespaces/mnt", &json!(own("mnt")?))?;
        seen.is("/processes/0", &json!(1))?;
        let mode = seen.answer("stat", "/data").get("mode").cloned();
        ensure!(mode == Some(json!(0o701)), "the tmpfs has mode {mode:?}");
        seen.reads("/etc/shown", &hostname)?;
        seen.answers("write", "/etc/shown", &json!("EROFS"))?;
        seen.answers("write", "/proc/sys/kernel/panic", &json!("EROFS"))?;
        seen.reads("/proc/meminfo", "")?;
        seen.answers("list", "/proc/tty", &json!({"names": []}))?;
    }
    let found = mounts_below(&bundle.dir)?;
    ensure!(found.is_empty(), "mounted on the host while it runs: {found:?}");
    container.end()?;
    let found = mounts_below(&bundle.dir)?;
    ensure!(found.is_empty(), "left on the host: {found:?}");
    Ok(())
}

fn a_readonly_root_without_a_mount_namespace_is_readonly(case: &Case) -> Outcome {
    let root = property(case, "/root/readonly", json!(true)).given("/linux/namespaces", json!([namespace("pid")]));
    root.probe(&["--mkdir", "/new"]).holds(|seen| seen.answers("mkdir", "/new", &json!("EROFS")))
}

fn rootfs_propagation_without_a_mount_namespace_is_refused(case: &Case) -> Outcome {
    let property = property(case, "/linux/rootfsPropagation", json!("shared"));
    property.given("/linux/namespaces", json!([namespace("pid")])).refused("/linux/rootfsPropagation")
}
