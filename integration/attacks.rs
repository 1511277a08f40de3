//! Known attacks on container runtimes, tried for real. The image and the program in the container are hostile; what is
//! checked is that nothing on the host was read, written or left.
//!
//! The "host" of an attack is a directory of the test with a canary in it, never a real directory of the machine.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Seen, enter_user_namespace, set, within};
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Invocation, Output};
use crate::{ensure, tests};

tests![
    dev_as_a_link_makes_nothing_on_the_host,
    proc_and_sys_as_links_are_refused,
    nothing_but_proc_is_mounted_on_proc,
    a_link_in_a_destination_is_resolved_inside,
    a_link_as_the_destination_is_resolved_inside,
    links_of_var_run_style_work,
    a_destination_swapped_for_a_link_stays_inside,
    cwd_by_an_inherited_fd_is_refused,
    exec_cwd_by_an_inherited_fd_is_refused,
    a_missing_cwd_by_an_inherited_fd_is_not_made,
    passwd_by_an_inherited_fd_is_not_read,
    mounts_on_the_hosts_sys_stay_in_the_container,
    the_hosts_mount_namespace_is_not_joined,
    ignored_ends_of_children_of_the_caller_are_noticed,
    inherited_fds_do_not_reach_the_container,
    a_link_for_dev_null_does_not_unmask,
    a_link_for_dev_null_gets_no_output,
    passwd_and_group_as_fifos_do_not_hang,
    passwd_is_read_inside,
    a_huge_passwd_is_no_problem,
    a_numeric_user_is_never_a_name,
    odd_values_of_exec_user_are_refused,
    groups_of_the_caller_are_dropped,
    groups_of_the_caller_stay_only_if_an_annotation_says_so,
    the_environment_of_the_caller_stays_outside,
    a_variable_without_value_imports_nothing,
    signals_of_the_caller_are_reset,
    the_runtime_can_not_be_overwritten,
    exec_does_not_expose_the_host_to_the_container,
    a_reused_pid_is_not_killed,
    the_state_is_private,
    exec_cgroup_can_not_leave_the_container,
    a_fake_fd_directory_does_not_keep_the_root_writable,
    exec_adds_no_inheritable_capability,
    the_pid_file_does_not_follow_a_link,
    links_for_dev_proc_and_sys_make_nothing_on_the_host_in_a_user_namespace,
    a_device_is_not_mounted_on_what_the_image_has_put_there,
    devices_swapped_for_links_stay_inside,
    a_tree_swapped_while_it_is_copied_shows_nothing_of_the_host,
    a_copy_up_of_endless_directories_is_an_error,
    a_copy_up_is_memory_of_the_container,
    a_link_is_not_copied_to_the_host,
    a_link_for_dev_console_is_not_followed,
    a_terminal_from_a_fake_devpts_is_refused,
    a_terminal_of_exec_from_a_fake_devpts_is_refused;
    serial: core_pattern_and_friends_are_untouched,
];

/// A directory that plays the host, with a canary in it.
fn host(case: &Case) -> Outcome<PathBuf> {
    let dir = case.dir.join("host");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("canary"), "of the host")?;
    Ok(dir)
}

/// The host has to hold its canary and nothing else.
fn untouched(host: &Path) -> Outcome {
    let mut names: Vec<_> = fs::read_dir(host)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    ensure!(names == ["canary"], "on the host there are {names:?}");
    ensure!(fs::read_to_string(host.join("canary"))? == "of the host", "the canary has changed");
    Ok(())
}

fn tmpfs(destination: &str) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
}

/// The facts, if the container ran; an error is a fine answer to an attack, a hang is not.
fn seen_if_it_ran(output: &Output) -> Outcome<Option<Seen>> {
    ensure!(!output.stderr.contains("panicked"), "{output}");
    if output.status == 0 { output.seen().map(Some) } else { Ok(None) }
}

fn dev_as_a_link_makes_nothing_on_the_host(case: &Case) -> Outcome {
    // runc 1.1.5 and crun 1.8.1 made nodes and links in the host's directory (CVE-2026-41579, CVE-2026-47766).
    let host = host(case)?;
    for readonly in [false, true] {
        let bundle = case.bundle()?.with("/root/readonly", json!(readonly));
        fs::remove_dir(bundle.rootfs().join("dev"))?;
        symlink(&host, bundle.rootfs().join("dev"))?;
        seen_if_it_ran(&bundle.run(case)?)?;
        untouched(&host)?;
    }
    Ok(())
}

fn proc_and_sys_as_links_are_refused(case: &Case) -> Outcome {
    let host = host(case)?;
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        for target in [host.as_path(), Path::new("tmp"), Path::new("/tmp")] {
            let bundle = case.bundle()?;
            let mount = json!({"destination": format!("/{name}"), "type": kind, "source": kind});
            let bundle = bundle.with("/mounts", json!([mount]));
            fs::remove_dir(bundle.rootfs().join(name))?;
            symlink(target, bundle.rootfs().join(name))?;
            bundle.run(case)?.fails(1, name)?;
            untouched(&host)?;
        }
    }
    Ok(())
}

fn nothing_but_proc_is_mounted_on_proc(case: &Case) -> Outcome {
    let host = host(case)?;
    for destination in
        ["/proc", "/proc/self/attr", "/proc/sys", "/proc/self", "/proc/sys/kernel", "/proc/../proc/sys", "/p/sys", "/p"]
    {
        let mount = json!({"destination": destination, "type": "bind", "source": host, "options": ["bind"]});
        let bundle = case.bundle()?.with("/mounts/-", mount);
        symlink("/proc", bundle.rootfs().join("p"))?;
        bundle.run(case)?.fails(1, "").map_err(|stop| within(stop, destination))?;
    }
    Ok(())
}

fn a_link_in_a_destination_is_resolved_inside(case: &Case) -> Outcome {
    let host = host(case)?;
    let up = format!("{}{}", "../".repeat(20), host.strip_prefix("/").unwrap_or(&host).display());
    for target in [host.to_string_lossy().into_owned(), up] {
        let bundle = case.bundle()?.with("/mounts/-", tmpfs("/link/sub"));
        symlink(&target, bundle.rootfs().join("link"))?;
        seen_if_it_ran(&bundle.run(case)?)?;
        untouched(&host)?;
    }
    Ok(())
}

fn a_link_as_the_destination_is_resolved_inside(case: &Case) -> Outcome {
    let host = host(case)?;
    let mounts = || fs::read_to_string("/proc/self/mountinfo");
    let before = mounts()?.lines().count();
    for (link, mount) in [
        (host.clone(), tmpfs("/link")),
        (host.join("new"), tmpfs("/link")),
        (
            host.join("canary"),
            json!({"destination": "/link", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}),
        ),
        (
            host.join("new"),
            json!({"destination": "/link", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}),
        ),
    ] {
        let bundle = case.bundle()?.with("/mounts/-", mount);
        symlink(&link, bundle.rootfs().join("link"))?;
        seen_if_it_ran(&bundle.run(case)?)?;
        untouched(&host)?;
    }
    ensure!(mounts()?.lines().filter(|line| line.contains(&case.tag)).count() == 0, "something is mounted ({before})");
    Ok(())
}

fn links_of_var_run_style_work(case: &Case) -> Outcome {
    // Images have /var/run -> /run and the like; refusing every link would break them.
    for (target, expected) in [("/run", "/run/sub"), ("../run", "/run/sub")] {
        let bundle = case.bundle()?.with("/mounts/-", tmpfs("/var/run/sub"));
        symlink(target, bundle.rootfs().join("var/run"))?;
        bundle.see(case)?.mount(expected).map_err(|why| format!("{target}: {why}"))?;
    }
    Ok(())
}

/// Exchanges two names atomically; nix has no wrapper for it with musl.
#[allow(unsafe_code, reason = "a system call without a safe wrapper")]
fn exchange(one: &CStr, other: &CStr) {
    // SAFETY: both are strings that end in NUL, and the kernel only reads them.
    unsafe {
        let cwd = libc::AT_FDCWD;
        libc::syscall(libc::SYS_renameat2, cwd, one.as_ptr(), cwd, other.as_ptr(), libc::RENAME_EXCHANGE);
    }
}

/// Swaps two names as fast as it can until told to stop, as another container with a shared volume would.
fn swapping(one: &Path, other: &Path, action: impl FnOnce() -> Outcome) -> Outcome {
    let stop = AtomicBool::new(false);
    let name = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(std::io::Error::from);
    let (one, other) = (name(one)?, name(other)?);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                exchange(&one, &other);
            }
        });
        let outcome = action();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

fn a_destination_swapped_for_a_link_stays_inside(case: &Case) -> Outcome {
    // CVE-2021-30465 and CVE-2024-45310: a directory between the check and the mount becomes a link to the host.
    let host = host(case)?;
    let bundle = case.bundle()?.probe(&["--quiet"]);
    let rootfs = bundle.rootfs();
    fs::create_dir(rootfs.join("a"))?;
    symlink(format!("{}{}", "../".repeat(20), host.strip_prefix("/").unwrap_or(&host).display()), rootfs.join("b"))?;
    let mount = json!({"destination": "/a/new", "type": "bind", "source": "/etc/hostname", "options": ["bind"]});
    let bundle = bundle.with("/mounts/-", tmpfs("/a/dir/sub")).with("/mounts/-", mount);
    bundle.write()?;
    swapping(&rootfs.join("a"), &rootfs.join("b"), || {
        for _ in 0..40 {
            seen_if_it_ran_quietly(&case.run(&bundle.run_arguments())?)?;
            untouched(&host)?;
        }
        Ok(())
    })
}

fn seen_if_it_ran_quietly(output: &Output) -> Outcome {
    ensure!(!output.stderr.contains("panicked") && output.status <= 1, "{output}");
    Ok(())
}

fn cwd_by_an_inherited_fd_is_refused(case: &Case) -> Outcome {
    // CVE-2024-21626: a directory of the host is open in the runtime, and cwd leads to it by number.
    let host = host(case)?;
    for number in 3..=20 {
        let bundle = case.bundle()?.with("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let bundle = bundle.probe(&["--list", "."]);
        bundle.write()?;
        let output = case.runtime(&bundle.run_arguments()).inheriting(&host, number..=number)?.go()?;
        no_canary(&output, number)?;
    }
    Ok(())
}

fn no_canary(output: &Output, number: i32) -> Outcome {
    ensure!(!output.stdout.contains("canary"), "fd {number} led to the host: {output}");
    if output.status == 0 {
        // What it may be instead is a directory of the container.
        let seen = output.seen()?;
        ensure!(seen.get("/cwd").as_str().is_some_and(|cwd| cwd.starts_with('/')), "fd {number}: {}", seen.get("/cwd"));
    }
    Ok(())
}

fn exec_cwd_by_an_inherited_fd_is_refused(case: &Case) -> Outcome {
    let host = host(case)?;
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet", "--hold"]))?;
    for number in 3..=20 {
        let cwd = format!("/proc/self/fd/{number}");
        let invocation = case.runtime(&["exec", "--cwd", &cwd, &container.id, "/probe", "--list", "."]);
        no_canary(&invocation.inheriting(&host, number..=number)?.go()?, number)?;
    }
    container.end()
}

fn a_missing_cwd_by_an_inherited_fd_is_not_made(case: &Case) -> Outcome {
    let host = host(case)?;
    for (number, readonly) in (3..=20).flat_map(|number| [(number, true), (number, false)]) {
        let bundle = case.bundle()?.with("/process/cwd", json!(format!("/proc/self/fd/{number}/made/deep")));
        let bundle = bundle.with("/root/readonly", json!(readonly)).probe(&["--quiet"]);
        bundle.write()?;
        case.runtime(&bundle.run_arguments()).inheriting(&host, number..=number)?.go()?;
        untouched(&host).map_err(|stop| within(stop, &format!("fd {number}, readonly {readonly}")))?;
    }
    Ok(())
}

fn passwd_by_an_inherited_fd_is_not_read(case: &Case) -> Outcome {
    let host = host(case)?;
    fs::write(host.join("canary"), "root:x:0:0:root:/of-the-host:/bin/sh\n")?;
    for number in 3..=20 {
        let bundle = case.bundle()?.probe(&[]);
        fs::remove_file(bundle.rootfs().join("etc/passwd"))?;
        symlink(format!("/proc/self/fd/{number}/canary"), bundle.rootfs().join("etc/passwd"))?;
        bundle.write()?;
        let output = case.runtime(&bundle.run_arguments()).inheriting(&host, number..=number)?.go()?;
        ensure!(!output.stdout.contains("of-the-host"), "fd {number} led to the host: {output}");
    }
    Ok(())
}

fn mounts_on_the_hosts_sys_stay_in_the_container(case: &Case) -> Outcome {
    // In a user namespace that does not own its network a sysfs can only be the host's. systemd makes all of / shared.
    let mut bundle =
        case.bundle()?.with("/mounts/-", json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"}));
    bundle = bundle.with("/linux/maskedPaths", json!(["/sys/firmware"]));
    bundle = bundle.with("/linux/readonlyPaths", json!(["/sys/kernel"])).probe(&["--quiet"]);
    let namespaces = bundle.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    if let Some(namespaces) = namespaces {
        namespaces.retain(|namespace| namespace.get("type") != Some(&json!("network")));
    }
    enter_user_namespace(&mut bundle)?;
    bundle.write()?;
    let script = r#"
        mount --make-rshared /
        cat /proc/self/mountinfo >before
        $as "$@"; status=$?
        cat /proc/self/mountinfo >after
        diff before after >&2 && exit $status"#;
    case.scripted(&[], script, &bundle.run_arguments()).go()?.succeeds().map(drop)
}

fn the_hosts_mount_namespace_is_not_joined(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("others change the root of every process in it");
    }
    for path in ["/proc/self/ns/mnt", "/proc/1/ns/mnt"] {
        let mut bundle = case.bundle()?.probe(&["--quiet"]);
        for namespace in
            bundle.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if namespace.get("type") == Some(&json!("mount")) {
                *namespace = json!({"type": "mount", "path": path});
            }
        }
        bundle.write()?;
        let script = r#"mount -t proc proc /proc && $as "$@""#;
        let invocation = case.scripted(&["--pid", "--fork"], script, &bundle.run_arguments());
        // That of root's process an ordinary user may not even look at.
        let is_closed = case.machine.invoker.is_rootless() && path.starts_with("/proc/1/");
        let words = if is_closed { "permission denied" } else { "is the host's own mount namespace" };
        invocation.go()?.fails(1, words)?;
    }
    Ok(())
}

fn ignored_ends_of_children_of_the_caller_are_noticed(case: &Case) -> Outcome {
    let ignoring =
        |invocation: Invocation<'_>| invocation.ignoring(Signal::SIGCHLD).timeout(Duration::from_secs(10)).go();
    let mut bundle = case.bundle()?.probe(&["--exit", "7"]);
    set(&mut bundle.config, "/hooks/prestart", json!([{"path": "/bin/true"}]));
    bundle.write()?;
    let output = ignoring(case.runtime(&bundle.run_arguments()))?;
    output.ends_with(7)?;
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet", "--hold"]))?;
    ignoring(case.runtime(&["exec", &container.id, "/probe", "--exit", "6"]))?.ends_with(6)?;
    container.end()
}

fn only_standard_fds(seen: &Seen) -> Outcome {
    let fds = seen.get("/fds").as_array().cloned().unwrap_or_default();
    let numbers: Vec<_> = fds.iter().filter_map(|fd| fd.get("fd")?.as_i64()).collect();
    ensure!(numbers == [0, 1, 2], "the fds are {fds:?}");
    Ok(())
}

/// The facts that a container in the background prints, as soon as they are there.
pub fn facts_of(output: &Output) -> Outcome<Seen> {
    for _ in 0..1000 {
        let text = fs::read_to_string(&output.stdout_path)?;
        if text.ends_with('\n') {
            return Ok(Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("the container of {output} prints nothing").into())
}

fn inherited_fds_do_not_reach_the_container(case: &Case) -> Outcome {
    let host = host(case)?;
    let bundle = case.bundle()?.probe(&["--hold"]);
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    let output = case.runtime(&arguments).inheriting(&host, 3..=30)?.go()?.succeeds()?;
    only_standard_fds(&facts_of(&output)?)?;
    let invocation = case.runtime(&["exec", &bundle.id, "/probe"]).inheriting(&host, 3..=30)?;
    only_standard_fds(&invocation.go()?.succeeds()?.seen()?)?;
    case.delete_force(&bundle.id)
}

fn a_link_for_dev_null_does_not_unmask(case: &Case) -> Outcome {
    // CVE-2025-31133: the mask is a bind of the container's own /dev/null, which the image has made a link.
    let volume = case.dir.join("volume");
    fs::create_dir(&volume)?;
    symlink("/secret", volume.join("null"))?;
    let mount = json!({"destination": "/dev", "type": "bind", "source": volume, "options": ["bind"]});
    let bundle = case.bundle()?.with("/mounts/-", mount).with("/linux/maskedPaths", json!(["/proc/version"]));
    fs::write(bundle.rootfs().join("secret"), "another file")?;
    let output = bundle.probe(&["--read", "/proc/version"]).run(case)?;
    if let Some(seen) = seen_if_it_ran(&output)? {
        ensure!(seen.text("/proc/version")?.is_empty(), "the mask shows {:?}", seen.text("/proc/version")?);
    }
    Ok(())
}

fn a_link_for_dev_null_gets_no_output(case: &Case) -> Outcome {
    // CVE-2026-88265: stdio that is /dev/null was opened again inside the container, by name.
    let volume = case.dir.join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("victim"), "")?;
    symlink("/dev/victim", volume.join("null"))?;
    let mount = json!({"destination": "/dev", "type": "bind", "source": volume, "options": ["bind"]});
    let bundle = case.bundle()?.with("/mounts/-", mount).with("/process/user", json!({"uid": 1000, "gid": 1000}));
    let bundle = bundle.shell("echo into the file; echo there too >&2");
    bundle.write()?;
    let shell = "exec \"$@\" >/dev/null 2>/dev/null </dev/null";
    let invocation = case.program(Path::new("/bin/sh")).args(&["-c", shell, "sh"]).args(&[&case.machine.runtime]);
    invocation.args(&["--root"]).args(&[&case.root()]).args(&bundle.run_arguments()).go()?;
    let victim = fs::metadata(volume.join("victim"))?;
    ensure!(victim.len() == 0 && victim.uid() == 0, "the file has {} bytes, owner {}", victim.len(), victim.uid());
    Ok(())
}

fn passwd_and_group_as_fifos_do_not_hang(case: &Case) -> Outcome {
    for file in ["passwd", "group"] {
        let bundle = case.bundle()?.probe(&["--quiet", "--hold"]);
        let path = bundle.rootfs().join("etc").join(file);
        fs::remove_file(&path)?;
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o666))?;
        bundle.write()?;
        let mut arguments = bundle.run_arguments().to_vec();
        arguments.insert(1, "--detach".to_owned());
        let output = case.runtime(&arguments).timeout(Duration::from_secs(6)).go()?;
        if output.status != 0 {
            output.fails(1, "")?;
            continue;
        }
        for user in ["user", "0", "1000:extra"] {
            let command = ["exec", "--user", user, &bundle.id, "/probe", "--quiet"];
            let output = case.runtime(&command).timeout(Duration::from_secs(6)).go()?;
            ensure!(output.status == 0 || output.status == 255, "{file}: {output}");
        }
        case.delete_force(&bundle.id)?;
    }
    Ok(())
}

fn passwd_is_read_inside(case: &Case) -> Outcome {
    let host = host(case)?;
    fs::write(host.join("canary"), "root:x:0:0:root:/of-the-host:/bin/sh\n")?;
    let bundle = case.bundle()?;
    fs::remove_file(bundle.rootfs().join("etc/passwd"))?;
    symlink(host.join("canary"), bundle.rootfs().join("etc/passwd"))?;
    let env = bundle.see(case)?.get("/env").to_string();
    ensure!(!env.contains("of-the-host"), "HOME is of the host: {env}");
    Ok(())
}

fn a_huge_passwd_is_no_problem(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    // Sparse: it has 4 GiB and takes no space.
    fs::OpenOptions::new().write(true).open(bundle.rootfs().join("etc/passwd"))?.set_len(4 << 30)?;
    bundle.write()?;
    let output = case.runtime(&bundle.run_arguments()).timeout(Duration::from_secs(10)).go()?;
    ensure!(output.status == 0 || output.status == 1 && output.is_one_line().is_ok(), "{output}");
    Ok(())
}

fn a_numeric_user_is_never_a_name(case: &Case) -> Outcome {
    // CVE-2016-3697: the image has a user whose *name* is 1000 and whose id is 0.
    let bundle = case.bundle()?.with("/process/user", json!({"uid": 1000, "gid": 1000})).probe(&["--hold"]);
    fs::write(bundle.rootfs().join("etc/passwd"), "1000:x:0:0::/root:/bin/sh\n")?;
    fs::write(bundle.rootfs().join("etc/group"), "1000:x:0:\n")?;
    let container = case.run_detached(&bundle)?;
    let init = container.prints("\n")?;
    ensure!(init.contains("\"euid\":1000"), "{init}");
    for user in ["1000", "1000:1000"] {
        let seen = case.run(&["exec", "--user", user, &container.id, "/probe"])?.succeeds()?.seen()?;
        seen.is("/ids/uid", &json!(1000))?;
    }
    container.end()
}

fn odd_values_of_exec_user_are_refused(case: &Case) -> Outcome {
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet", "--hold"]))?;
    for user in [
        "",
        "-1",
        "4294967296",
        "4294967295",
        "1:-5",
        "1:",
        ":1",
        ":",
        "0x0",
        " 1",
        "1 ",
        "+1",
        "1.5",
        "1:1:1",
        "99999999999999999999",
        "1:4294967295",
        "1,2",
    ] {
        let output = case.run(&["exec", "--user", user, &container.id, "/probe"])?;
        let ids = output.seen().map(|seen| seen.get("/ids").to_string()).unwrap_or_default();
        ensure!(output.status == 255, "--user {user:?} gave status {} and {ids}", output.status);
        output.is_one_line()?;
    }
    container.end()
}

fn groups_of_the_caller_are_dropped(case: &Case) -> Outcome {
    let bundle = case.bundle()?.probe(&["--hold"]);
    bundle.write()?;
    let groups = || Ok(nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(4242)])?);
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    let output = case.runtime(&arguments).before_exec(groups).go()?.succeeds()?;
    let seen = case.runtime(&["exec", &bundle.id, "/probe"]).before_exec(groups).go()?.succeeds()?.seen()?;
    seen.is("/ids/groups", &json!([]))?;
    facts_of(&output)?.is("/ids/groups", &json!([]))?;
    case.delete_force(&bundle.id)
}

fn groups_of_the_caller_stay_only_if_an_annotation_says_so(case: &Case) -> Outcome {
    let groups = || Ok(nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(4242)])?);
    for (value, expected) in [("1", json!([4242])), ("0", json!([])), ("", json!([]))] {
        let bundle = case.bundle()?.with("/annotations", json!({"run.oci.keep_original_groups": value}));
        bundle.write()?;
        let seen = case.runtime(&bundle.run_arguments()).before_exec(groups).go()?.succeeds()?.seen()?;
        seen.is("/ids/groups", &expected).map_err(|why| format!("{value:?}: {why}"))?;
    }
    Ok(())
}

fn the_environment_of_the_caller_stays_outside(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/env", json!(["ONLY=this", "HOME=/"])).probe(&["--hold"]);
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    let odd = [("SECRET", "of the host"), ("GLIBC_TUNABLES", "x=y"), ("LISTEN_PIDS", "1"), ("GOTRACEBACK", "all")];
    let with =
        |invocation| odd.iter().fold(invocation, |all: crate::runtime::Invocation, (name, value)| all.env(name, value));
    let output = with(case.runtime(&arguments)).go()?.succeeds()?;
    let seen = with(case.runtime(&["exec", &bundle.id, "/probe"])).go()?.succeeds()?.seen()?;
    seen.is("/env", &json!(["ONLY=this", "HOME=/"]))?;
    facts_of(&output)?.is("/env", &json!(["ONLY=this", "HOME=/"]))?;
    case.delete_force(&bundle.id)
}

fn a_variable_without_value_imports_nothing(case: &Case) -> Outcome {
    for entry in ["CORTEN_IT", "", "=x"] {
        let bundle = case.bundle()?.with("/process/env", json!([entry, "HOME=/"]));
        let output = bundle.run(case)?;
        ensure!(output.status <= 1 && !output.stdout.contains("CORTEN_IT=ct"), "{entry:?}: {output}");
    }
    let container = case.run_detached(&case.bundle()?.probe(&["--quiet", "--hold"]))?;
    let output = case.run(&["exec", "--env", "CORTEN_IT", &container.id, "/probe"])?;
    ensure!(!output.stdout.contains("CORTEN_IT=ct"), "{output}");
    container.end()
}

fn signals_of_the_caller_are_reset(case: &Case) -> Outcome {
    let expected = json!({"blocked": [], "ignored": []});
    let bundle = case.bundle()?.probe(&["--hold"]);
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    let output = case.runtime(&arguments).with_odd_signals().go()?.succeeds()?;
    let seen = case.runtime(&["exec", &bundle.id, "/probe"]).with_odd_signals().go()?.succeeds()?.seen()?;
    seen.is("/signals", &expected).map_err(|why| format!("exec: {why}"))?;
    facts_of(&output)?.is("/signals", &expected).map_err(|why| format!("run: {why}"))?;
    case.delete_force(&bundle.id)
}

/// All capabilities that Docker gives, which are no help in getting out.
fn docker_caps(bundle: Bundle) -> Bundle {
    let set = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]);
    bundle.with("/process/capabilities", json!({"bounding": set, "effective": set, "permitted": set}))
}

fn the_runtime_can_not_be_overwritten(case: &Case) -> Outcome {
    // CVE-2019-5736. The runtime is a copy of this test, so that a success harms nobody.
    let copy = case.dir.join("runtime");
    fs::copy(&case.machine.runtime, &copy)?;
    let before = (fs::metadata(&copy)?, fs::read(&copy)?);
    // Long enough for the calls below to come while it goes on.
    let seconds = case.patience(Duration::from_secs(3)).as_secs().to_string();
    let bundle = docker_caps(case.bundle()?).probe(&["--attack-exe", &seconds]);
    let script = bundle.rootfs().join("script");
    fs::write(&script, "#!/proc/self/exe\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    bundle.write()?;
    let root = case.root();
    let own = |arguments: &[&str]| {
        let invocation = case.program(&copy).args(&["--root"]).args(&[&root]);
        invocation.args(arguments).timeout(Duration::from_secs(8)).go()
    };
    let dir = bundle.dir.to_string_lossy();
    let output = own(&["run", "--detach", "--bundle", &dir, &bundle.id])?.succeeds()?;
    for _ in 0..15 {
        own(&["exec", &bundle.id, "/script"])?;
        own(&["exec", &bundle.id, "/proc/self/exe", "--version"])?;
    }
    let seen = facts_of(&output)?;
    own(&["delete", "--force", &bundle.id])?.succeeds()?;
    let attack = seen.answer("attack-exe", &seconds);
    if attack.get("tried").and_then(Value::as_u64) <= Some(10) && !case.machine.is_corten() {
        return skip("a dynamic runtime does not execute itself in this rootfs, so that there was nothing to attack");
    }
    if attack.get("held") == Some(&json!(0)) && std::thread::available_parallelism()?.get() == 1 {
        return skip("on one CPU the attacker is never there while the runtime is");
    }
    ensure!(attack.get("tried").and_then(Value::as_u64) > Some(10), "the attack did not take place: {attack}");
    let file = json!([before.0.dev(), before.0.ino()]);
    let opened = attack.get("opened").and_then(Value::as_array).is_some_and(|all| all.contains(&file));
    ensure!(!opened, "the runtime's own file could be opened for writing: {attack}");
    ensure!(fs::read(&copy)? == before.1, "the runtime was overwritten");
    Ok(())
}

fn exec_does_not_expose_the_host_to_the_container(case: &Case) -> Outcome {
    // CVE-2016-9962: a process that joins the container still holds a directory of the host.
    let host = host(case)?;
    let canary = host.join("canary");
    let bundle = docker_caps(case.bundle()?).probe(&["--spy", &format!("3:{}", canary.display())]);
    let container = case.run_detached(&bundle)?;
    for _ in 0..30 {
        container.exec(&["/bin/true"])?;
    }
    let text = container.prints("\n")?;
    let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    let spied = seen.get("/spy").as_object().and_then(|all| all.values().next()).cloned().unwrap_or_default();
    ensure!(spied.get("looked").and_then(Value::as_u64) > Some(10), "nobody spied: {spied}");
    ensure!(spied.get("reached") == Some(&json!([])), "the host was reached: {spied}");
    container.wait()?;
    container.delete()
}

fn a_reused_pid_is_not_killed(case: &Case) -> Outcome {
    // In a pid namespace of its own, where the next pid can be chosen: the container's process ends, a stranger gets
    // its number, and neither kill nor delete may touch the stranger.
    if case.machine.name == "crun" {
        return skip("not tried: what it takes for the cgroup of the stranger could be everybody's");
    }
    if !Path::new("/proc/sys/kernel/ns_last_pid").exists() {
        return skip("the kernel has no ns_last_pid (CONFIG_CHECKPOINT_RESTORE)");
    }
    let bundle = case.bundle()?.probe(&["--quiet", "--hold"]);
    bundle.write()?;
    let script = format!(
        "rt() {{ '{}' --root '{}' \"$@\"; }}\n\
         rt run -d --pid-file $PWD/pid --bundle '{}' {id} >/dev/null || exit 90\n\
         p=$(cat pid); kill -9 $p; sleep 0.2\n\
         [ ! -e /proc/$p ] || exit 91\n\
         echo $((p - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 & \n\
         [ $! = $p ] || exit 92\n\
         rt kill {id} KILL 2>/dev/null; rt delete --force {id} || exit 93\n\
         sleep 0.1; kill -0 $p || exit 94; kill -9 $p\n",
        case.machine.runtime.display(),
        case.root().display(),
        bundle.dir.display(),
        id = bundle.id,
    );
    let arguments = ["--pid", "--fork", "--mount-proc", "sh", "-c", &script];
    let output = case.program(Path::new("/usr/bin/unshare")).args(&arguments).go()?;
    ensure!(output.status != 94, "the stranger was killed: {output}");
    if output.status == 92 {
        return skip("another process took the pid");
    }
    output.succeeds().map(drop)
}

fn the_state_is_private(case: &Case) -> Outcome {
    let root = case.dir.join("new-root");
    let bundle = case.bundle()?;
    bundle.write()?;
    let own =
        |arguments: &[&str]| case.program(&case.machine.runtime).args(&["--root"]).args(&[&root]).args(arguments).go();
    own(&["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?.succeeds()?;
    let mut open = Vec::new();
    let mode = fs::metadata(&root)?.permissions().mode();
    if mode & 0o077 != 0 {
        open.push(format!("--root has mode {mode:o}"));
    }
    let mut pending = vec![root.clone()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)?.flatten() {
            let found = entry.metadata()?;
            // Below a private directory the x bit of another one opens nothing.
            if found.permissions().mode() & 0o066 != 0 && !found.is_symlink() {
                open.push(format!("{} has mode {:o}", entry.path().display(), found.permissions().mode()));
            }
            if found.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    own(&["delete", "--force", &bundle.id])?.succeeds()?;
    ensure!(open.is_empty(), "{open:?}");
    Ok(())
}

/// Whether a flag is one that this runtime does not have.
fn not_yet(output: &Output) -> bool {
    output.status == 1 && output.stderr.contains("flag provided but not defined")
}

fn exec_cgroup_can_not_leave_the_container(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--quiet", "--hold"]))?;
    let sibling = format!("../{}-sibling", container.id);
    for path in ["..", "../..", sibling.as_str(), "a/../../b", "/.."] {
        let output = case.run(&["exec", "--cgroup", path, &container.id, "/probe"])?;
        ensure!(output.status == 255 || not_yet(&output), "--cgroup {path}: {output}");
    }
    container.end()
}

fn a_fake_fd_directory_does_not_keep_the_root_writable(case: &Case) -> Outcome {
    // CVE-2026-115521: the read-only remount went through the image's own /proc/self/fd.
    let bundle = case.bundle()?.with("/mounts", json!([])).with("/root/readonly", json!(true));
    let fake = bundle.rootfs().join("proc/self/fd");
    fs::create_dir_all(&fake)?;
    for number in 0..64 {
        symlink("/tmp", fake.join(number.to_string()))?;
    }
    let output = bundle.probe(&["--write", "/", "--write", "/tmp"]).run(case)?;
    if let Some(seen) = seen_if_it_ran(&output)? {
        seen.answers("write", "/", &json!("EROFS"))?;
        seen.answers("write", "/tmp", &json!("EROFS"))?;
    }
    Ok(())
}

fn exec_adds_no_inheritable_capability(case: &Case) -> Outcome {
    let bundle = docker_caps(case.bundle()?).with("/process/noNewPrivileges", json!(true));
    let container = case.run_detached(&bundle.probe(&["--quiet", "--hold"]))?;
    let command = ["exec", "--cap", "CAP_NET_RAW", &container.id, "/probe"];
    let output = case.run(&command)?;
    if not_yet(&output) {
        case.delete_force(&container.id)?;
        return skip("exec has no --cap yet");
    }
    let seen = output.succeeds()?.seen()?;
    seen.is("/capabilities/inheritable", &json!([]))?;
    seen.is("/capabilities/ambient", &json!([]))?;
    let effective = seen.get("/capabilities/effective").to_string();
    ensure!(effective.contains("CAP_NET_RAW") && effective.contains("CAP_CHOWN"), "effective is {effective}");
    seen.is("/no_new_privs", &json!(1))?;
    container.end()
}

fn the_pid_file_does_not_follow_a_link(case: &Case) -> Outcome {
    let host = host(case)?;
    let link = case.dir.join("pid");
    symlink(host.join("canary"), &link)?;
    let bundle = case.bundle()?.probe(&["--quiet"]);
    bundle.write()?;
    let link = link.to_string_lossy();
    let dir = bundle.dir.to_string_lossy();
    case.run(&["run", "--pid-file", &link, "--bundle", &dir, &bundle.id])?;
    untouched(&host)
}

fn core_pattern_and_friends_are_untouched(case: &Case) -> Outcome {
    let files = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward"];
    let read = || files.map(|file| fs::read_to_string(file).unwrap_or_default());
    let before = read();
    let script = "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname; do echo x >$f; done; true";
    case.docker_like()?.shell(script).run(case)?.succeeds()?;
    ensure!(read() == before, "they are {:?}", read());
    Ok(())
}

/// A directory that plays the host, in which root of the container may do what he likes if he gets there.
fn open_host(case: &Case) -> Outcome<PathBuf> {
    let host = host(case)?;
    crate::bundle::give_away(&host, 100_000)?;
    Ok(host)
}

fn links_for_dev_proc_and_sys_make_nothing_on_the_host_in_a_user_namespace(case: &Case) -> Outcome {
    let host = open_host(case)?;
    let up = PathBuf::from(format!("{}{}", "../".repeat(20), host.strip_prefix("/").unwrap_or(&host).display()));
    let device = json!([{"type": "c", "path": "/dev/deep/er/mine", "major": 1, "minor": 3, "fileMode": 0o666}]);
    for target in [&host, &up] {
        let bundle = case.bundle()?.in_user_namespace()?.with("/linux/devices", device.clone());
        fs::remove_dir(bundle.rootfs().join("dev"))?;
        symlink(target, bundle.rootfs().join("dev"))?;
        seen_if_it_ran(&bundle.run(case)?)?;
        untouched(&host)?;
        for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
            let mount = json!([{"destination": format!("/{name}"), "type": kind, "source": kind}]);
            let bundle = case.bundle()?.in_user_namespace()?.with("/mounts", mount);
            let bundle = bundle.with("/linux/namespaces/-", json!({"type": "network"}));
            fs::remove_dir(bundle.rootfs().join(name))?;
            symlink(target, bundle.rootfs().join(name))?;
            bundle.run(case)?.fails(1, name)?;
            untouched(&host)?;
        }
    }
    Ok(())
}

fn a_device_is_not_mounted_on_what_the_image_has_put_there(case: &Case) -> Outcome {
    let host = open_host(case)?;
    let link_to_host = |path: &Path| Ok(symlink(host.join("canary"), path)?);
    let link_inside = |path: &Path| Ok(symlink("/etc/passwd", path)?);
    let fifo = |path: &Path| Ok(nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o666))?);
    let directory = |path: &Path| Ok(fs::create_dir(path)?);
    let full = |path: &Path| Ok(fs::write(path, "something")?);
    let plants: [&dyn Fn(&Path) -> Outcome; 5] = [&link_to_host, &link_inside, &fifo, &directory, &full];
    for plant in plants {
        for with_userns in [true, false] {
            let bundle = case.bundle()?.probe(&["--read", "/etc/passwd"]);
            let bundle = if with_userns { bundle.in_user_namespace()? } else { bundle };
            plant(&bundle.rootfs().join("dev/null"))?;
            bundle.run(case)?.fails(1, "/dev/null")?;
            untouched(&host)?;
        }
    }
    Ok(())
}

fn devices_swapped_for_links_stay_inside(case: &Case) -> Outcome {
    if case.machine.name == "runc" && case.machine.version.starts_with("1.1") {
        return skip("it makes files by paths, and whether it loses the race is chance");
    }
    let host = open_host(case)?;
    let bundle = case.bundle()?.in_user_namespace()?.probe(&["--quiet"]);
    let dev = bundle.rootfs().join("dev");
    symlink(host.join("new"), dev.join("link"))?;
    fs::write(dev.join("null"), "")?;
    bundle.write()?;
    swapping(&dev.join("null"), &dev.join("link"), || {
        for _ in 0..30 {
            seen_if_it_ran_quietly(&case.run(&bundle.run_arguments())?)?;
            untouched(&host)?;
        }
        Ok(())
    })
}

fn a_tree_swapped_while_it_is_copied_shows_nothing_of_the_host(case: &Case) -> Outcome {
    if case.machine.name == "runc" && case.machine.version.starts_with("1.1") {
        return skip("it copies by paths, and whether it loses the race is chance");
    }
    let host = host(case)?;
    fs::set_permissions(host.join("canary"), fs::Permissions::from_mode(0o600))?;
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let script = "cat /data/file /data/sub/canary /data/sub/file 2>/dev/null; true";
    let bundle = case.bundle()?.with("/mounts/-", mount).shell(script);
    let rootfs = bundle.rootfs();
    let up = |name: &str| format!("{}{}/{name}", "../".repeat(20), host.strip_prefix("/").unwrap_or(&host).display());
    for dir in ["data/sub", "other"] {
        fs::create_dir_all(rootfs.join(dir))?;
    }
    fs::write(rootfs.join("data/file"), "a file\n")?;
    fs::write(rootfs.join("data/sub/file"), "deep\n")?;
    // Enough to read that there is time.
    for number in 0..50 {
        fs::write(rootfs.join(format!("data/filler-{number}")), "x".repeat(20_000))?;
    }
    symlink(up("canary"), rootfs.join("other/file"))?;
    symlink(up(""), rootfs.join("other/sub"))?;
    symlink(up(""), rootfs.join("other/data"))?;
    bundle.write()?;
    for name in ["data/file", "data/sub", "data"] {
        let other = rootfs.join("other").join(Path::new(name).file_name().unwrap_or_default());
        swapping(&rootfs.join(name), &other, || {
            for _ in 0..20 {
                let output = case.run(&bundle.run_arguments())?;
                seen_if_it_ran_quietly(&output)?;
                ensure!(!output.stdout.contains("of the host"), "{name}: {output}");
                untouched(&host)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn a_copy_up_of_endless_directories_is_an_error(case: &Case) -> Outcome {
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let bundle = case.bundle()?.with("/mounts/-", mount);
    fs::create_dir_all(bundle.rootfs().join("data").join("d/".repeat(200)))?;
    bundle.run(case)?.fails(1, "/data").map(drop)
}

fn a_copy_up_is_memory_of_the_container(case: &Case) -> Outcome {
    // A file of the image that takes no space becomes zeros in memory.
    if !case.has_controller("memory") {
        return skip("there is no memory controller");
    }
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let bundle = case.bundle()?.with("/mounts/-", mount).with("/linux/resources/memory/limit", json!(32 << 20));
    fs::create_dir(bundle.rootfs().join("data"))?;
    fs::File::create(bundle.rootfs().join("data/huge"))?.set_len(300 << 20)?;
    bundle.run(case)?.fails(1, "").map(drop)
}

fn a_link_is_not_copied_to_the_host(case: &Case) -> Outcome {
    let host = open_host(case)?;
    symlink("target", case.dir.join("link"))?;
    for option in ["copy-symlink", "dest-nofollow"] {
        let source = if option == "copy-symlink" { case.dir.join("link") } else { PathBuf::from("/etc/hostname") };
        let mount = json!({"destination": "/way/new", "type": "bind", "source": source, "options": ["bind", option]});
        let bundle = case.bundle()?.with("/mounts/-", mount);
        symlink(
            format!("{}{}", "../".repeat(20), host.strip_prefix("/").unwrap_or(&host).display()),
            bundle.rootfs().join("way"),
        )?;
        seen_if_it_ran(&bundle.run(case)?)?;
        untouched(&host)?;
    }
    Ok(())
}

/// Runs a bundle with a terminal in the background; what became of it, and the terminal if there is one.
fn run_with_terminal(case: &Case, bundle: &Bundle) -> Outcome<Output> {
    let socket = crate::terminal::Socket::in_directory(&case.dir.join(format!("console-{}", case.next())))?;
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    let path = socket.path.to_string_lossy().into_owned();
    arguments.splice(1..1, ["--detach".to_owned(), "--console-socket".to_owned(), path]);
    case.runtime(&arguments).timeout(Duration::from_secs(8)).go()
}

fn devpts() -> Value {
    json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]})
}

fn a_link_for_dev_console_is_not_followed(case: &Case) -> Outcome {
    // CVE-2026-88264 and CVE-2025-52565: the terminal was mounted where a link of the image led.
    let host = open_host(case)?;
    for with_userns in [true, false] {
        for target in [host.join("canary"), host.join("new"), PathBuf::from("/etc/passwd"), PathBuf::from("/etc/new")] {
            let bundle = case.bundle()?.with("/mounts/-", devpts()).with("/process/terminal", json!(true));
            let bundle = bundle.probe(&["--quiet", "--hold"]);
            fs::create_dir(bundle.rootfs().join("dev/pts"))?;
            symlink(&target, bundle.rootfs().join("dev/console"))?;
            let bundle = if with_userns { bundle.in_user_namespace()? } else { bundle };
            let output = run_with_terminal(case, &bundle)?;
            untouched(&host)?;
            ensure!(!bundle.rootfs().join("etc/new").exists(), "a file was made where the link leads");
            if output.status == 0 {
                let text = case.run(&["exec", &bundle.id, "/probe", "--stat", "/etc/passwd"])?.succeeds()?.seen()?;
                let kind = text.answer("stat", "/etc/passwd").get("type").cloned();
                case.delete_force(&bundle.id)?;
                ensure!(kind == Some(json!("f")), "the terminal lies on /etc/passwd");
            } else {
                output.fails(1, "/dev/console")?;
            }
        }
    }
    Ok(())
}

/// Puts something that is no terminal multiplexer of a devpts at a path.
fn fake_ptmx(kind: &str, path: &Path) -> Outcome {
    use nix::sys::stat::{SFlag, makedev, mknod};
    let mode = Mode::from_bits_truncate(0o666);
    match kind {
        "file" => fs::write(path, "")?,
        "fifo" => nix::unistd::mkfifo(path, mode)?,
        "link" => symlink("/dev/null", path)?,
        "null" => mknod(path, SFlag::S_IFCHR, mode, makedev(1, 3))?,
        // The right number, but on another file system: which terminals it would make, the image decides.
        _ => mknod(path, SFlag::S_IFCHR, mode, makedev(5, 2))?,
    }
    Ok(())
}

const FAKES: [&str; 5] = ["file", "fifo", "link", "null", "number"];

fn a_terminal_from_a_fake_devpts_is_refused(case: &Case) -> Outcome {
    for kind in FAKES {
        let volume = case.dir.join(format!("pts-{kind}"));
        fs::create_dir(&volume)?;
        fake_ptmx(kind, &volume.join("ptmx"))?;
        let mount = json!({"destination": "/dev/pts", "type": "bind", "source": volume, "options": ["bind"]});
        for with_userns in [true, false] {
            let bundle = case.bundle()?.with("/mounts/-", mount.clone()).with("/process/terminal", json!(true));
            let bundle = if with_userns { bundle.in_user_namespace()? } else { bundle };
            run_with_terminal(case, &bundle)?.fails(1, "").map_err(|stop| within(stop, kind))?;
        }
        // Without any mount the directory is the image's.
        let bundle = case.bundle()?.with("/process/terminal", json!(true));
        fs::create_dir(bundle.rootfs().join("dev/pts"))?;
        fake_ptmx(kind, &bundle.rootfs().join("dev/pts/ptmx"))?;
        run_with_terminal(case, &bundle)?.fails(1, "").map_err(|stop| within(stop, kind))?;
    }
    Ok(())
}

fn a_terminal_of_exec_from_a_fake_devpts_is_refused(case: &Case) -> Outcome {
    let caps = json!({"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]});
    for with_userns in [true, false] {
        // The payload hides its devpts under a directory of the image.
        let bundle = case.bundle()?.with("/mounts/-", devpts()).with("/process/capabilities", caps.clone());
        let bundle = bundle.shell("/bin/busybox mount --bind /fake /dev/pts && echo up; exec sleep 1000");
        fs::create_dir(bundle.rootfs().join("fake"))?;
        fs::create_dir(bundle.rootfs().join("dev/pts"))?;
        let bundle = if with_userns { bundle.in_user_namespace()? } else { bundle };
        let container = case.run_detached(&bundle)?;
        container.prints("up")?;
        for kind in FAKES {
            let _ = fs::remove_file(bundle.rootfs().join("fake/ptmx"));
            fake_ptmx(kind, &bundle.rootfs().join("fake/ptmx"))?;
            let socket = crate::terminal::Socket::in_directory(&case.dir.join(format!("console-{}", case.next())))?;
            let path = socket.path.to_string_lossy().into_owned();
            let arguments = ["exec", "--detach", "--tty", "--console-socket", &path, &container.id, "/bin/sleep", "9"];
            let output = case.runtime(&arguments).timeout(Duration::from_secs(6)).go()?;
            output.fails(255, "").map_err(|stop| within(stop, kind))?;
        }
        container.end()?;
    }
    Ok(())
}
