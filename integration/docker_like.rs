//! The docker-like bundle, what Docker writes for an ordinary container: right from inside and from outside under run,
//! create/start/kill/delete and exec, and each of its facts depends on the property that asks for it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::bundle::{Bundle, Check, Property, Seen, docker_like_property};
use crate::harness::{Case, Outcome};
use crate::leftovers::cgroup_directories_named;
use crate::runtime::Container;
use crate::{ensure, tests};

tests![
    everything_is_right_under_run,
    everything_is_right_under_create_and_start,
    everything_is_right_in_a_user_namespace,
    everything_is_right_in_a_pod_with_a_user_namespace,
    exec_is_confined_as_init_is,
    the_whole_lifecycle_leaves_nothing,
    many_containers_at_once_do_not_disturb_each_other,
    each_mount_depends_on_its_entry,
    the_process_depends_on_its_properties,
    masks_and_readonly_paths_depend_on_their_lists,
    limits_from_outside_depend_on_their_properties,
    seccomp_blocks_what_docker_blocks,
    the_root_user_cannot_get_out_by_proc,
];

/// The options of the probe for [`check`].
const LOOK: [&str; 30] = [
    "--read",
    "/etc/resolv.conf",
    "--read",
    "/etc/hostname",
    "--read",
    "/proc/interrupts",
    "--read",
    "/proc/keys",
    "--list",
    "/sys/firmware",
    "--list",
    "/proc/scsi",
    "--write",
    "/",
    "--write",
    "/proc/sys/kernel/domainname",
    "--write",
    "/dev/shm",
    "--open",
    "/dev/null",
    "--mknod",
    "/tmp/new:c:10:229",
    "--stat",
    "/dev/shm",
    "--stat",
    "/dev/pts/ptmx",
    "--syscall",
    "163",
    "--syscall",
    "435",
];

/// Everything that a program in the docker-like bundle has to see.
fn check(seen: &Seen, own: &[(&str, u64)], rootless: bool) -> Check {
    for (name, inode) in own {
        ensure!(seen.get(&format!("/namespaces/{name}")) != &json!(inode), "the {name} namespace is the host's");
    }
    process(seen)?;
    mounts(seen)?;
    masked(seen)?;
    // In the user namespace of an ordinary user's container the kernel asks for his rights first, and nobody makes nodes.
    // Docker's device rules allow making any node, and opening only those on the list.
    let [written, made] = if rootless { ["EACCES", "EPERM"] } else { ["EROFS", "ok"] };
    seen.answers("write", "/proc/sys/kernel/domainname", &json!(written))?;
    seen.answers("mknod", "/tmp/new:c:10:229", &json!(made))?;
    calls(seen)
}

/// The same in a user namespace, where even root makes no node and the host's sysctls are not his.
fn check_in_userns(seen: &Seen) -> Check {
    process(seen)?;
    mounts(seen)?;
    masked(seen)?;
    seen.answers("write", "/proc/sys/kernel/domainname", &json!("EACCES"))?;
    seen.answers("mknod", "/tmp/new:c:10:229", &json!("EPERM"))?;
    for (_, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt"), ("pid", "pid")] {
        seen.is(&format!("/owners/{name}"), seen.get("/namespaces/user"))?;
    }
    calls(seen)
}

fn calls(seen: &Seen) -> Check {
    // acct is not in the profile; clone3 is answered as by an older kernel, so that clone is used instead.
    seen.answers("syscall", "163", &json!("EPERM"))?;
    seen.answers("syscall", "435", &json!("ENOSYS"))
}

fn process(seen: &Seen) -> Check {
    let set = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SYS_CHROOT",
        "CAP_MKNOD",
        "CAP_AUDIT_WRITE",
        "CAP_SETFCAP"
    ]);
    for name in ["bounding", "effective", "permitted"] {
        seen.is(&format!("/capabilities/{name}"), &set)?;
    }
    seen.is("/capabilities/inheritable", &json!([]))?;
    seen.is("/capabilities/ambient", &json!([]))?;
    seen.is("/no_new_privs", &json!(1))?;
    seen.is("/seccomp/mode", &json!(2))?;
    seen.is("/seccomp/filters", &json!(1))?;
    seen.is("/oom_score_adj", &json!(100))?;
    seen.is("/rlimits/RLIMIT_NOFILE", &json!({"soft": 1024, "hard": 1024}))?;
    seen.is("/uts/hostname", &json!("docker-like"))?;
    seen.is("/ids/groups", &json!([0, 10]))?;
    seen.is("/ids/uid", &json!(0))?;
    seen.is("/umask", &json!(0o022))?;
    seen.is("/signals", &json!({"blocked": [], "ignored": []}))?;
    let fds = seen.get("/fds").as_array().map(Vec::len);
    ensure!(fds == Some(3), "the fds are {}", seen.get("/fds"));
    let cgroup = seen.get("/cgroup").as_str().unwrap_or_default();
    ensure!(!cgroup.contains("corten-test"), "the cgroup namespace begins elsewhere: {cgroup}");
    Ok(())
}

fn mounts(seen: &Seen) -> Check {
    for (destination, kind, options) in [
        ("/proc", "proc", ["nosuid", "noexec", "nodev"].as_slice()),
        ("/dev", "tmpfs", &["nosuid"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec"]),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]),
    ] {
        let mount = seen.mount(destination)?;
        ensure!(mount.get("fstype") == Some(&json!(kind)), "{destination} is no {kind}: {mount}");
        seen.mounted_with(destination, options)?;
    }
    for file in ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts"] {
        let mount = seen.mount(file)?;
        ensure!(mount.get("propagation") == Some(&json!([])), "{file} is not private: {mount}");
    }
    ensure!(seen.text("/etc/resolv.conf")? == "nameserver 192.0.2.1\n", "another resolv.conf");
    ensure!(seen.text("/etc/hostname")? == "docker-like\n", "another hostname");
    let mode = seen.answer("stat", "/dev/shm").get("mode");
    ensure!(mode == Some(&json!(0o1777)), "the mode of /dev/shm is {mode:?}");
    let ptmx = seen.answer("stat", "/dev/pts/ptmx").get("mode");
    ensure!(ptmx == Some(&json!(0o666)), "the mode of ptmx is {ptmx:?}");
    seen.answers("write", "/dev/shm", &json!("ok"))?;
    seen.answers("write", "/", &json!("ok"))?;
    seen.answers("open", "/dev/null", &json!("ok"))
}

fn masked(seen: &Seen) -> Check {
    for file in ["/proc/interrupts", "/proc/keys"] {
        ensure!(seen.text(file)?.is_empty(), "{file} is not masked");
    }
    for (path, list) in [("/sys/firmware", json!({"names": []})), ("/proc/scsi", json!({"names": []}))] {
        let found = seen.answer("list", path);
        ensure!(found == &list || found == &json!({"errno": "ENOENT"}), "{path} is not masked: {found}");
    }
    Ok(())
}

/// The inodes of this process's own namespaces, less those that the container shares.
fn own() -> Outcome<Vec<(&'static str, u64)>> {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    names.iter().map(|name| Ok((*name, fs::metadata(format!("/proc/self/ns/{name}"))?.ino()))).collect()
}

fn everything_is_right_under_run(case: &Case) -> Outcome {
    let seen = case.docker_like()?.probe(&LOOK).see(case)?;
    Ok(check(&seen, &own()?, case.machine.invoker.is_rootless())?)
}

fn everything_is_right_under_create_and_start(case: &Case) -> Outcome {
    let mut options = LOOK.to_vec();
    options.push("--hold");
    let container = case.create(&case.docker_like()?.probe(&options))?;
    ensure!(container.printed().is_empty(), "it ran before start");
    container.start()?;
    let text = container.prints("\n")?;
    let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    check(&seen, &own()?, case.machine.invoker.is_rootless())?;
    container.kill("KILL")?;
    container.wait()?;
    ensure!(case.status(&container.id)? == "stopped", "it has not stopped");
    container.delete()
}

/// The docker-like bundle as Docker writes it with userns-remap.
fn remapped(case: &Case) -> Outcome<Bundle> {
    case.docker_like()?.in_user_namespace()
}

/// What a process in a user namespace sees and init of a container prints.
fn printed(container: &Container) -> Outcome<Seen> {
    Ok(Seen(serde_json::from_str(&container.prints("\n")?).map_err(|error| error.to_string())?))
}

fn everything_is_right_in_a_user_namespace(case: &Case) -> Outcome {
    let mut options = LOOK.to_vec();
    options.push("--hold");
    let container = case.run_detached(&remapped(case)?.probe(&options))?;
    check_in_userns(&printed(&container)?)?;
    let mut command = vec!["/probe"];
    command.extend(LOOK);
    check_in_userns(&container.exec(&command)?.succeeds()?.seen()?)?;
    container.end()
}

fn everything_is_right_in_a_pod_with_a_user_namespace(case: &Case) -> Outcome {
    // As the kubelet has it: one container holds the namespaces, the others join them and have volumes with mapped ids.
    let pause = case.run_detached(&remapped(case)?.probe(&["--quiet", "--hold"]))?;
    let volume = case.dir.join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "content")?;
    let mut list = vec![json!({"type": "mount"}), json!({"type": "pid"}), json!({"type": "cgroup"})];
    for (kind, name) in [("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        list.push(json!({"type": kind, "path": format!("/proc/{}/ns/{name}", pause.pid)}));
    }
    let mount = json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "idmap"]});
    let mut options = LOOK.to_vec();
    options.extend(["--stat", "/volume/file", "--make", "/volume/new", "--hold"]);
    let bundle = remapped(case)?.with("/linux/namespaces", json!(list)).with("/mounts/-", mount).probe(&options);
    let container = case.run_detached(&bundle)?;
    let seen = printed(&container)?;
    check_in_userns(&seen)?;
    for path in
        ["stat", "make"].map(|group| seen.answer(group, if group == "stat" { "/volume/file" } else { "/volume/new" }))
    {
        ensure!(path.get("uid") == Some(&json!(0)), "the volume shows {path}");
    }
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(volume.join("new"))?);
    ensure!(owner == 0, "what was made belongs to {owner}");
    let mut command = vec!["/probe"];
    command.extend(LOOK);
    check_in_userns(&container.exec(&command)?.succeeds()?.seen()?)?;
    container.end()?;
    pause.end()
}

fn exec_is_confined_as_init_is(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    let mut command = vec!["/probe"];
    command.extend(LOOK);
    let seen = container.exec(&command)?.succeeds()?.seen()?;
    check(&seen, &own()?, case.machine.invoker.is_rootless())?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?;
    let file = case.dir.join("exec.pid");
    let invocation = case.runtime(&["exec", "--detach", "--pid-file"]).args(&[&file]);
    invocation.args(&[&container.id, "/probe", "--hold"]).go()?.succeeds()?;
    let pid = fs::read_to_string(&file)?;
    ensure!(fs::read_to_string(format!("/proc/{pid}/cgroup"))? == groups, "exec is in other cgroups than init");
    container.end()
}

fn the_whole_lifecycle_leaves_nothing(case: &Case) -> Outcome {
    let bundle = case.docker_like()?.probe(&["--quiet", "--hold"]);
    for _ in 0..2 {
        let container = case.create(&bundle)?;
        container.start()?;
        container.exec(&["true"])?.succeeds()?;
        ensure!(!cgroup_directories_named(&container.id).is_empty(), "it has no cgroup");
        container.end()?;
        let left = cgroup_directories_named(&container.id);
        ensure!(left.is_empty(), "left: {left:?}");
    }
    Ok(())
}

fn many_containers_at_once_do_not_disturb_each_other(case: &Case) -> Outcome {
    let mut containers = Vec::new();
    for _ in 0..6 {
        containers.push(case.run_detached(&case.docker_like()?.probe(&["--quiet", "--hold"]))?);
    }
    let list = case.run(&["list", "-q"])?.succeeds()?;
    ensure!(list.stdout.lines().count() == 6, "{list}");
    // Ending every second one leaves the others alone.
    for container in containers.iter().step_by(2) {
        container.end()?;
    }
    for container in containers.iter().skip(1).step_by(2) {
        ensure!(case.status(&container.id)? == "running", "{} does not run any more", container.id);
        container.exec(&["true"])?.succeeds()?;
        container.end()?;
    }
    Ok(())
}

fn each_mount_depends_on_its_entry(case: &Case) -> Outcome {
    let mounts = case.docker_like()?.config.get("mounts").cloned().unwrap_or_default();
    for (index, mount) in mounts.as_array().into_iter().flatten().enumerate() {
        let destination = mount.get("destination").and_then(Value::as_str).unwrap_or_default();
        if destination == "/proc" {
            // Without it the probe has no mountinfo, and runc does not start (broken_input.rs has a test for that).
            continue;
        }
        if destination == "/sys/fs/cgroup" && !case.machine.cgroup2 {
            docker_like_property(case, "/mounts/4")?.holds(|seen| seen.mount("/sys/fs/cgroup/devices").map(drop))?;
            continue;
        }
        let pointer = format!("/mounts/{index}");
        docker_like_property(case, &pointer)?.holds(|seen| seen.mount(destination).map(drop))?;
    }
    Ok(())
}

fn depends<'p>(case: &'p Case, pointer: &'p str) -> Outcome<Property<'p>> {
    docker_like_property(case, pointer)
}

fn the_process_depends_on_its_properties(case: &Case) -> Outcome {
    depends(case, "/process/noNewPrivileges")?.holds(|seen| seen.is("/no_new_privs", &json!(1)))?;
    depends(case, "/process/oomScoreAdj")?.holds(|seen| seen.is("/oom_score_adj", &json!(100)))?;
    depends(case, "/process/rlimits")?
        .holds(|seen| seen.is("/rlimits/RLIMIT_NOFILE", &json!({"soft": 1024, "hard": 1024})))?;
    depends(case, "/process/user/additionalGids")?.holds(|seen| seen.is("/ids/groups", &json!([0, 10])))?;
    depends(case, "/hostname")?.holds(|seen| seen.is("/uts/hostname", &json!("docker-like")))?;
    depends(case, "/linux/seccomp")?.holds(|seen| seen.is("/seccomp/mode", &json!(2)))?;
    for set in ["bounding", "effective", "permitted"] {
        // A root user gets by execve whatever is bounding, so that only this set can be seen to depend.
        if set == "bounding" {
            depends(case, "/process/capabilities")?
                .instead_of(json!({}))
                .holds(|seen| seen.is("/capabilities/bounding/13", &json!("CAP_SETFCAP")))?;
        }
    }
    Ok(())
}

fn masks_and_readonly_paths_depend_on_their_lists(case: &Case) -> Outcome {
    depends(case, "/linux/maskedPaths")?
        .probe(&["--read", "/proc/interrupts"])
        .holds(|seen| seen.reads("/proc/interrupts", ""))?;
    let file = "/proc/sys/kernel/domainname";
    let rootless = case.machine.invoker.is_rootless();
    depends(case, "/linux/readonlyPaths")?.probe(&["--write", file]).holds(|seen| match rootless {
        // The kernel asks for his rights first.
        true => seen.mounted_with("/proc/sys", &["ro"]),
        false => seen.answers("write", file, &json!("EROFS")),
    })
}

fn limits_from_outside_depend_on_their_properties(case: &Case) -> Outcome {
    let value = |pid: i32, controller: &str, v1: &str, v2: &str| -> Result<String, String> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
        let (dir, file) = if case.machine.cgroup2 { ("", v2) } else { (controller, v1) };
        let mut lines = text.lines().filter(|line| !case.machine.cgroup2 || line.starts_with("0::"));
        let path = lines.find(|line| line.contains("corten-test")).and_then(|line| line.splitn(3, ':').nth(2));
        let path = path.ok_or_else(|| format!("it is nowhere below corten-test: {text}"))?;
        let file = format!("/sys/fs/cgroup/{dir}{path}/{file}");
        let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        Ok(text.trim().to_owned())
    };
    for (pointer, controller, v1, v2, expected) in [
        ("/linux/resources/memory", "memory", "memory.limit_in_bytes", "memory.max", ["268435456", "268435456"]),
        ("/linux/resources/cpu", "cpu", "cpu.shares", "cpu.weight", ["512", "59"]),
        ("/linux/resources/cpu", "cpu", "cpu.cfs_quota_us", "cpu.max", ["50000", "50000 100000"]),
        ("/linux/resources/pids", "pids", "pids.max", "pids.max", ["100", "100"]),
    ] {
        if !case.has_controller(controller) {
            continue;
        }
        let [on_v1, on_v2] = expected;
        let expected = if case.machine.cgroup2 { on_v2 } else { on_v1 };
        depends(case, pointer)?.holds_outside(|container| {
            let found = value(container.pid, controller, v1, v2)?;
            ensure!(found == expected, "{controller}: {found}, not {expected}");
            Ok(())
        })?;
    }
    Ok(())
}

fn seccomp_blocks_what_docker_blocks(case: &Case) -> Outcome {
    // clone with CLONE_NEWUSER, unshare, mount, keyctl, bpf, socket(AF_VSOCK), personality(ADDR_NO_RANDOMIZE | ...).
    let blocked = ["56,0x10000011", "272,0", "165", "250", "321", "41,40,1,0", "135,0x123456", "246", "175", "169"];
    let allowed = [("39", "ok:"), ("135,0xffffffff", "ok:"), ("41,1,1,0", "ok:"), ("272", "EPERM")];
    let mut options = Vec::new();
    blocked.iter().for_each(|call| options.extend(["--syscall", call]));
    allowed.iter().for_each(|(call, _)| options.extend(["--syscall", call]));
    depends(case, "/linux/seccomp")?.probe(&options).holds(|seen| {
        for call in blocked {
            seen.answers("syscall", call, &json!("EPERM"))?;
        }
        for (call, beginning) in allowed {
            let answer = seen.answer("syscall", call);
            ensure!(answer.as_str().is_some_and(|text| text.starts_with(beginning)), "{call} is {answer}");
        }
        Ok(())
    })
}

fn the_root_user_cannot_get_out_by_proc(case: &Case) -> Outcome {
    let seen = case.docker_like()?.probe(&["--write-self-exe", "--list", "/proc/1/root", "--list", "/"]).see(case)?;
    ensure!(seen.answer("list", "/proc/1/root") == seen.answer("list", "/"), "/proc/1/root is another root");
    let sysctl = "/proc/sys/kernel/core_pattern";
    let seen = case.docker_like()?.probe(&["--write", sysctl]).see(case)?;
    let refused = if case.machine.invoker.is_rootless() { "EACCES" } else { "EROFS" };
    Ok(seen.answers("write", sysctl, &json!(refused))?)
}
