//! Containers of a user without privileges: the runtime is called by uid 1000, with a `--root` and a rootfs of his own.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Seen, give_away, set};
use crate::harness::{Case, Outcome, skip};
use crate::runtime::Invocation;
use crate::terminal::Socket;
use crate::{ensure, tests};

tests![
    the_config_of_spec_rootless_runs,
    the_quick_start_works,
    a_container_lives_through_all_commands,
    the_state_is_in_the_runtime_directory_of_the_user,
    root_of_a_user_namespace_has_the_state_of_its_user,
    one_id_is_mapped_and_groups_are_denied,
    further_groups_are_refused,
    another_user_than_the_mapped_one_is_refused,
    exec_is_in_all_namespaces,
    exec_as_another_user_is_refused,
    exec_before_start_is_refused_clearly,
    the_oom_score_is_adjusted,
    ranges_are_mapped_by_the_helpers,
    ranges_that_are_not_the_users_are_refused,
    a_missing_helper_is_an_error_with_a_hint,
    without_a_user_namespace_it_is_refused_clearly,
    the_default_devices_can_be_used,
    a_network_of_its_own_has_a_loopback,
    time_offsets_are_set,
    cgroups_that_can_not_be_made_are_left_out,
    the_flag_says_whether_cgroups_may_be_left_out,
    limits_that_can_not_be_set_are_an_error,
    a_delegated_cgroup_is_used,
    masks_and_read_only_paths_hold,
    seccomp_is_loaded,
    hooks_are_the_users_and_the_containers,
    a_terminal_works,
    tmpfs_options_work,
    a_bind_that_the_user_can_not_reach_is_refused,
    flags_that_the_user_may_not_take_away_are_an_error,
    nothing_of_the_host_is_in_mountinfo,
    the_runtime_can_not_be_overwritten,
    a_killed_runtime_leaves_no_process,
    a_user_namespace_of_his_own_is_joined,
    a_nested_runtime_works_as_root_of_a_user_namespace,
];

const USER: u32 = 1000;

/// Where the ids that newuidmap gives begin.
const RANGE: u32 = 200_000;

fn one_id() -> Value {
    json!([{"containerID": 0, "hostID": USER, "size": 1}])
}

/// A bundle of the user with a user namespace of one id.
fn bundle(case: &Case) -> Outcome<Bundle> {
    case.become_user(USER)?;
    if fs::read_to_string("/proc/sys/user/max_user_namespaces")?.trim() == "0" {
        return skip("users may make no user namespaces here");
    }
    let bundle = case.bundle()?.with("/linux/uidMappings", one_id()).with("/linux/gidMappings", one_id());
    let bundle = bundle.with("/linux/namespaces/-", json!({"type": "user"})).owned_by(USER)?;
    chown(&bundle.dir, Some(USER), Some(USER))?;
    Ok(bundle)
}

fn the_config_of_spec_rootless_runs(case: &Case) -> Outcome {
    let mut bundle = bundle(case)?;
    case.runtime(&["spec", "--rootless"]).cwd(&bundle.dir).go()?.succeeds()?;
    let text = fs::read_to_string(bundle.dir.join("config.json"))?;
    bundle.config = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let probe = ["--open", "/dev/null", "--list", "/sys", "--write", "/", "--read", "/proc/self/uid_map"];
    let bundle = bundle.probe(&probe).with("/process/terminal", json!(false));
    let seen = bundle.see(case)?;
    seen.answers("open", "/dev/null", &json!("ok"))?;
    seen.answers("write", "/", &json!("EROFS"))?;
    seen.is("/ids/uid", &json!(0))?;
    seen.is("/no_new_privs", &json!(1))?;
    let sys = seen.answer("list", "/sys").to_string();
    ensure!(sys.contains("kernel"), "/sys holds {sys}");
    ensure!(
        seen.text("/proc/self/uid_map")?.split_whitespace().eq(["0", "1000", "1"]),
        "{:?}",
        seen.text("/proc/self/uid_map")
    );
    // It runs again, although the first container has left files for its devices.
    bundle.see(case).map(drop)
}

fn the_quick_start_works(case: &Case) -> Outcome {
    if case.machine.name == "crun" {
        return skip("crun spec has other lines than the script changes");
    }
    if !case.machine.invoker.is_rootless() {
        case.become_user(USER)?;
    }
    let script = case.dir.join("quickstart");
    fs::write(&script, include_str!("../quickstart"))?;
    let runtime = case.machine.tmp.join("runtime").to_string_lossy().into_owned();
    let invocation = case.tool(Path::new("/bin/bash")).user(USER).args(&[&script]).env("CORTEN", &runtime);
    let output = invocation.env("TMPDIR", &case.dir.to_string_lossy()).go()?.succeeds()?;
    for row in ["exit status    42", "empty; no state, no mount, no cgroup is left", "uid=0"] {
        ensure!(output.stdout.contains(row), "{row:?} is missing: {}", output.stdout);
    }
    let is_limited = output.stdout.contains("memory limit   64 MiB") && output.stdout.contains("process limit  32");
    let is_delegated = case.machine.invoker.is_rootless();
    ensure!(is_limited == is_delegated, "it has limits: {is_limited}, delegated: {is_delegated}: {}", output.stdout);
    Ok(())
}

fn a_container_lives_through_all_commands(case: &Case) -> Outcome {
    let bundle = bundle(case)?.probe(&["--hold"]);
    let container = case.create(&bundle)?;
    ensure!(case.status(&container.id)? == "created", "it is {}", case.status(&container.id)?);
    container.start()?;
    ensure!(case.status(&container.id)? == "running", "it is {}", case.status(&container.id)?);
    let list = case.run(&["list", "--quiet"])?.succeeds()?;
    ensure!(list.stdout.trim() == container.id, "{list}");
    container.exec(&["/bin/true"])?.succeeds()?;
    case.run(&["delete", &container.id])?.fails(1, "")?;
    container.kill("TERM")?;
    container.kill("KILL")?;
    container.wait()?;
    ensure!(case.status(&container.id)? == "stopped", "it is {}", case.status(&container.id)?);
    container.delete()?;
    // And one that is running.
    let bundle = bundle.again(case);
    let container = case.run_detached(&bundle)?;
    case.delete_force(&container.id)
}

fn the_state_is_in_the_runtime_directory_of_the_user(case: &Case) -> Outcome {
    if case.machine.name == "runc" || case.machine.name == "crun" {
        return skip("the name of the directory is corten's");
    }
    let bundle = bundle(case)?.probe(&["--quiet", "--hold"]);
    bundle.write()?;
    let run = case.dir.join("run");
    let invoke = |arguments: &[&str]| {
        let invocation = case.program(&case.machine.tmp.join("runtime")).user(USER);
        invocation.env("XDG_RUNTIME_DIR", &run.to_string_lossy()).args(arguments).go()
    };
    invoke(&["run", "--detach", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?.succeeds()?;
    let state = run.join("corten").join(&bundle.id);
    let (found, mode) = (state.is_dir(), fs::metadata(run.join("corten"))?.permissions().mode() & 0o7777);
    invoke(&["delete", "--force", &bundle.id])?.succeeds()?;
    ensure!(found && mode == 0o700, "{} is there: {found}, mode {mode:o}", state.display());
    ensure!(!state.exists(), "the state is left");
    Ok(())
}

fn root_of_a_user_namespace_has_the_state_of_its_user(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("the name of the directory is corten's");
    }
    // What is asked is only where it begins to write, which it does before it fails.
    let bundle = bundle(case)?.args(&["/missing"]);
    bundle.write()?;
    let run = case.dir.join("run");
    for (user, expected) in [("root", false), ("somebody", true)] {
        let invocation = case.tool(Path::new("/usr/bin/unshare")).user(USER).args(&["--user", "--map-root-user"]);
        let invocation = invocation.args(&[&case.machine.tmp.join("runtime")]).args(&bundle.run_arguments());
        let output = invocation.env("XDG_RUNTIME_DIR", &run.to_string_lossy()).env("USER", user).go()?.fails(1, "")?;
        let found = run.join("corten").is_dir();
        ensure!(found == expected, "as {user}: {} is there: {found}; {output}", run.join("corten").display());
    }
    Ok(())
}

fn one_id_is_mapped_and_groups_are_denied(case: &Case) -> Outcome {
    let files = ["/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"];
    let options: Vec<&str> = files.iter().flat_map(|file| ["--read", *file]).chain(["--make", "/made"]).collect();
    let bundle = bundle(case)?.probe(&options);
    let seen = bundle.see(case)?;
    for file in &files[..2] {
        ensure!(seen.text(file)?.split_whitespace().eq(["0", "1000", "1"]), "{file}: {:?}", seen.text(file)?);
    }
    seen.reads(files[2], "deny\n")?;
    seen.is("/ids/groups", &json!([]))?;
    let made = fs::metadata(bundle.rootfs().join("made"))?;
    ensure!((made.uid(), made.gid()) == (USER, USER), "the file belongs to {}:{}", made.uid(), made.gid());
    // What he is called inside is his own choice.
    let other = json!([{"containerID": 77, "hostID": USER, "size": 1}]);
    fs::remove_file(bundle.rootfs().join("made"))?;
    let bundle = bundle.with("/linux/uidMappings", other.clone()).with("/linux/gidMappings", other);
    let seen = bundle.with("/process/user", json!({"uid": 77, "gid": 77})).see(case)?;
    Ok(seen.is("/ids/euid", &json!(77))?)
}

fn further_groups_are_refused(case: &Case) -> Outcome {
    let refused = bundle(case)?.with("/process/user/additionalGids", json!([0])).run(case)?;
    refused.fails(1, "setgroups").map(drop)?;
    bundle(case)?.see(case).map(drop)
}

fn another_user_than_the_mapped_one_is_refused(case: &Case) -> Outcome {
    for user in [json!({"uid": 5, "gid": 0}), json!({"uid": 0, "gid": 5})] {
        bundle(case)?.with("/process/user", user).run(case)?.fails(1, "/process/user/")?;
    }
    Ok(())
}

fn exec_is_in_all_namespaces(case: &Case) -> Outcome {
    let mut bundle = bundle(case)?.probe(&["--read", "/proc/self/uid_map", "--hold"]);
    for kind in ["ipc", "uts", "network", "cgroup", "time"] {
        bundle = bundle.with("/linux/namespaces/-", json!({"type": kind}));
    }
    let caps = json!(["CAP_CHOWN", "CAP_NET_ADMIN"]);
    let bundle = bundle.with("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}));
    let container = case.run_detached(&bundle)?;
    let text = container.prints("\n")?;
    let init = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
    let seen = container.exec(&["/probe", "--read", "/proc/self/uid_map"])?.succeeds()?.seen()?;
    for fact in ["/namespaces", "/owners", "/capabilities", "/ids", "/read", "/rlimits", "/signals", "/uts"] {
        seen.is(fact, init.get(fact))?;
    }
    let processes = seen.get("/processes").as_array().map_or(0, Vec::len);
    ensure!(processes == 2, "it sees {processes} processes");
    let fds: Vec<_> =
        seen.get("/fds").as_array().into_iter().flatten().filter_map(|fd| fd.get("fd")?.as_i64()).collect();
    ensure!(fds == [0, 1, 2], "the fds are {fds:?}");
    // Its status is passed on, and it can be left alone.
    container.exec(&["/bin/sh", "-c", "exit 7"])?.ends_with(7)?;
    let file = case.dir.join("exec.pid").to_string_lossy().into_owned();
    case.run(&["exec", "--detach", "--pid-file", &file, &container.id, "/bin/sleep", "1000"])?.succeeds()?;
    let pid = fs::read_to_string(&file)?;
    let own = fs::metadata(format!("/proc/{pid}/ns/pid"))?.ino();
    ensure!(own == fs::metadata(format!("/proc/{}/ns/pid", container.pid))?.ino(), "it is in another PID namespace");
    container.end()
}

fn exec_as_another_user_is_refused(case: &Case) -> Outcome {
    let container = case.run_detached(&bundle(case)?.probe(&["--quiet", "--hold"]))?;
    for arguments in [["--user", "5"], ["--user", "0:5"], ["--additional-gids", "0"]] {
        let mut all = vec!["exec"];
        all.extend(arguments);
        all.extend([container.id.as_str(), "/probe"]);
        case.run(&all)?.fails(255, "")?;
    }
    container.end()
}

fn exec_before_start_is_refused_clearly(case: &Case) -> Outcome {
    // Its init has not executed anything yet, and lets nobody look at it who is not privileged.
    let container = case.create(&bundle(case)?)?;
    let output = container.exec(&["/bin/true"])?;
    ensure!(output.status == 255, "{output}");
    if case.machine.is_corten() {
        ensure!(output.stderr.contains("once it has been started"), "there is no hint: {output}");
    }
    case.delete_force(&container.id)
}

fn the_oom_score_is_adjusted(case: &Case) -> Outcome {
    let container = case.run_detached(&bundle(case)?.with("/process/oomScoreAdj", json!(345)).probe(&["--hold"]))?;
    let text = container.prints("\n")?;
    Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?).is("/oom_score_adj", &json!(345))?;
    container.exec(&["/probe"])?.succeeds()?.seen()?.is("/oom_score_adj", &json!(345))?;
    container.end()?;
    // Below what he has already a user cannot go.
    let output = bundle(case)?.with("/process/oomScoreAdj", json!(-900)).run(case)?.fails(1, "")?;
    ensure!(!case.machine.is_corten() || output.stderr.contains("CAP_SYS_RESOURCE"), "there is no hint: {output}");
    Ok(())
}

/// The user's runtime in a mount namespace in which /etc/subuid and /etc/subgid give him a range, and he has a name.
fn with_ranges<'c>(case: &'c Case<'c>, arguments: &[String]) -> Outcome<Invocation<'c>> {
    if !["/usr/bin/newuidmap", "/usr/bin/newgidmap"].iter().all(|program| Path::new(program).exists()) {
        return skip("there is no newuidmap");
    }
    let files = [
        ("/etc/subuid", format!("{USER}:{RANGE}:65536\n")),
        ("/etc/subgid", format!("{USER}:{RANGE}:65536\n")),
        ("/etc/passwd", format!("root:x:0:0::/root:/bin/sh\nsomebody:x:{USER}:{USER}::/:/bin/sh\n")),
    ];
    let mut binds = Vec::new();
    for (target, text) in files {
        let source = case.dir.join(Path::new(target).file_name().unwrap_or_default());
        fs::write(&source, text)?;
        if !Path::new(target).exists() {
            return skip(format!("there is no {target} to put another in the place of"));
        }
        let c_string =
            |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::from);
        binds.push((c_string(&source)?, c_string(Path::new(target))?));
    }
    let invocation = case.tool(&case.machine.tmp.join("runtime"));
    let invocation = invocation.env("XDG_RUNTIME_DIR", &case.dir.join("run").to_string_lossy());
    let invocation = invocation.args(&["--root"]).args(&[case.root()]).args(arguments);
    Ok(invocation.before_exec(move || become_user_of(&binds)))
}

/// Mounts files over others in a new mount namespace, then gives up being root.
#[allow(unsafe_code, reason = "between fork and exec only plain system calls are made")]
fn become_user_of(binds: &[(std::ffi::CString, std::ffi::CString)]) -> io::Result<()> {
    // SAFETY: every pointer is null or a string that ends in NUL and outlives its call.
    unsafe {
        let mut failed = libc::unshare(libc::CLONE_NEWNS);
        for (source, target) in binds {
            failed |= libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null());
        }
        failed |= libc::setgroups(0, std::ptr::null());
        failed |= libc::setresgid(USER, USER, USER);
        failed |= libc::setresuid(USER, USER, USER);
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn ranges(first: u32, size: u32) -> Value {
    json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": first, "size": size}])
}

fn ranges_are_mapped_by_the_helpers(case: &Case) -> Outcome {
    let files = ["/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"];
    let options: Vec<&str> = files.iter().flat_map(|file| ["--read", *file]).chain(["--make", "/tmp/made"]).collect();
    let bundle = bundle(case)?.with("/linux/uidMappings", ranges(RANGE, 65536)).probe(&options);
    let bundle = bundle.with("/linux/gidMappings", ranges(RANGE, 65536));
    let bundle = bundle.with("/process/user", json!({"uid": 5, "gid": 6, "additionalGids": [7]}));
    fs::set_permissions(bundle.rootfs().join("tmp"), fs::Permissions::from_mode(0o1777))?;
    bundle.write()?;
    let seen = with_ranges(case, &bundle.run_arguments())?.go()?.succeeds()?.seen()?;
    for file in &files[..2] {
        let expected = format!("0 {USER} 1 1 {RANGE} 65536");
        ensure!(seen.text(file)?.split_whitespace().eq(expected.split(' ')), "{file}: {:?}", seen.text(file)?);
    }
    seen.reads(files[2], "allow\n")?;
    seen.is("/ids/euid", &json!(5))?;
    seen.is("/ids/groups", &json!([7]))?;
    let made = fs::metadata(bundle.rootfs().join("tmp/made"))?;
    ensure!((made.uid(), made.gid()) == (RANGE + 4, RANGE + 5), "the file belongs to {}:{}", made.uid(), made.gid());
    fs::remove_file(bundle.rootfs().join("tmp/made"))?;
    // A running one, and exec in it.
    let bundle = bundle.again(case).probe(&["--quiet", "--hold"]);
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    with_ranges(case, &arguments)?.go()?.succeeds()?;
    let seen = case.run(&["exec", "--user", "9:9", &bundle.id, "/probe"])?.succeeds()?.seen()?;
    seen.is("/ids/euid", &json!(9))?;
    case.delete_force(&bundle.id)
}

fn ranges_that_are_not_the_users_are_refused(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/linux/uidMappings", ranges(0, 10)).with("/linux/gidMappings", ranges(0, 10));
    bundle.write()?;
    let output = with_ranges(case, &bundle.run_arguments())?.go()?.fails(1, "newuidmap")?;
    ensure!(!case.machine.is_corten() || output.stderr.contains("/etc/subuid"), "there is no hint: {output}");
    Ok(())
}

fn a_missing_helper_is_an_error_with_a_hint(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/linux/uidMappings", ranges(RANGE, 10));
    let bundle = bundle.with("/linux/gidMappings", ranges(RANGE, 10));
    bundle.write()?;
    let output = with_ranges(case, &bundle.run_arguments())?.env("PATH", "/nonexistent").go()?.fails(1, "newuidmap")?;
    ensure!(!case.machine.is_corten() || output.stderr.contains("package uidmap"), "there is no hint: {output}");
    Ok(())
}

fn without_a_user_namespace_it_is_refused_clearly(case: &Case) -> Outcome {
    let bundle =
        bundle(case)?.without("/linux/uidMappings").without("/linux/gidMappings").without("/linux/namespaces/2");
    for arguments in [&["run"][..], &["create"]] {
        let mut all: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        all.extend_from_slice(&bundle.run_arguments()[1..]);
        bundle.write()?;
        let output = case.run(&all)?.fails(1, "user namespace")?;
        ensure!(!case.machine.is_corten() || output.stderr.contains("spec --rootless"), "there is no hint: {output}");
    }
    Ok(())
}

fn the_default_devices_can_be_used(case: &Case) -> Outcome {
    let names = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let options: Vec<&str> = names.iter().flat_map(|name| ["--open", *name]).collect();
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    for bundle in [bundle(case)?, bundle(case)?.with("/mounts/-", dev)] {
        let seen = bundle.probe(&options).see(case)?;
        for name in names {
            seen.answers("open", name, &json!("ok"))?;
        }
    }
    // Others can not be had, and nothing else is taken for them.
    let other = |major: u32| json!([{"type": "c", "path": "/dev/null", "major": major, "minor": 3}]);
    bundle(case)?.with("/linux/devices", other(1)).see(case)?;
    bundle(case)?.with("/linux/devices", other(10)).run(case)?.fails(1, "/dev/null").map(drop)
}

fn a_network_of_its_own_has_a_loopback(case: &Case) -> Outcome {
    let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]});
    let file = "/sys/class/net/lo/flags";
    let bundle = bundle(case)?.with("/linux/namespaces/-", json!({"type": "network"})).with("/mounts/-", sys);
    let seen = bundle.probe(&["--read", file]).see(case)?;
    ensure!(seen.text(file)?.trim() == "0x9", "the flags of lo are {}", seen.text(file)?);
    Ok(())
}

fn time_offsets_are_set(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/linux/namespaces/-", json!({"type": "time"}));
    let seen = bundle.with("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000}})).see(case)?;
    let found = seen.get("/clocks/boottime").as_f64().unwrap_or(0.0);
    let is_late = found > 1_000_000.0;
    ensure!(is_late, "the clock shows {found}");
    Ok(())
}

fn cgroups_that_can_not_be_made_are_left_out(case: &Case) -> Outcome {
    let bundle =
        bundle(case)?.with("/linux/cgroupsPath", json!(format!("/corten-test/{}", case.tag))).probe(&["--hold"]);
    bundle.write()?;
    let log = case.dir.join("log").to_string_lossy().into_owned();
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    let output = case.runtime_with(&["--debug", "--log", &log], &arguments).go()?.succeeds()?;
    ensure!(output.stderr.is_empty(), "it says {:?}", output.stderr);
    let text = fs::read_to_string(&log)?;
    ensure!(!case.machine.is_corten() || text.contains("has no cgroup of its own"), "the log holds {text:?}");
    case.run(&["exec", &bundle.id, "/bin/true"])?.succeeds()?;
    ensure!(case.status(&bundle.id)? == "running", "it is {}", case.status(&bundle.id)?);
    case.delete_force(&bundle.id)
}

fn the_flag_says_whether_cgroups_may_be_left_out(case: &Case) -> Outcome {
    if case.machine.name == "crun" {
        return skip("crun has no such flag");
    }
    let bundle =
        bundle(case)?.with("/linux/cgroupsPath", json!(format!("/corten-test/{}", case.tag))).probe(&["--quiet"]);
    bundle.write()?;
    let arguments = bundle.run_arguments();
    for word in ["true", "auto", "TRUE", "1"] {
        case.runtime_with(&["--rootless", word], &arguments).go()?.succeeds()?;
    }
    case.runtime_with(&["--rootless", "false"], &arguments).go()?.fails(1, "permission denied")?;
    case.runtime_with(&["--rootless", "maybe"], &arguments).go()?.fails(1, "invalid syntax")?;
    ensure!(fs::read_dir(case.root())?.next().is_none(), "something is left");
    Ok(())
}

fn limits_that_can_not_be_set_are_an_error(case: &Case) -> Outcome {
    for (pointer, value) in [
        ("/linux/resources/pids/limit", json!(10)),
        ("/linux/resources/memory/limit", json!(100 << 20)),
        ("/linux/resources/unified", json!({"pids.max": "10"})),
    ] {
        let bundle = bundle(case)?.with(pointer, value);
        bundle.run(case)?.fails(1, "")?;
        ensure!(fs::read_dir(case.root())?.next().is_none(), "{pointer}: something is left");
    }
    // Engines write a resources object with nothing in it, or with what every container has anyway.
    let devices = json!([{"allow": false, "access": "rwm"}]);
    bundle(case)?.with("/linux/resources", json!({})).see(case)?;
    bundle(case)?.with("/linux/resources/devices", devices).see(case).map(drop)
}

/// A cgroup of v2 that belongs to the user, as systemd gives one to each; the caller starts in a leaf of it.
struct Delegated(PathBuf);

impl Delegated {
    fn new(case: &Case) -> Outcome<Delegated> {
        let dir = Path::new("/sys/fs/cgroup").join(format!("{}-user", case.tag));
        let delegated = Delegated(dir);
        for dir in [delegated.0.clone(), delegated.0.join("session")] {
            fs::create_dir(&dir)?;
            for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                chown(dir.join(name), Some(USER), Some(USER))?;
            }
        }
        Ok(delegated)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for dir in [self.0.join("session"), self.0.clone()] {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn a_delegated_cgroup_is_used(case: &Case) -> Outcome {
    if !case.machine.cgroup2 {
        return skip("a cgroup of v1 is not delegated");
    }
    let bundle = bundle(case)?.with("/linux/cgroupsPath", json!(format!("{}-container", case.tag))).probe(&["--hold"]);
    let bundle = bundle.with("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]));
    let bundle = bundle.with("/linux/resources/unified", json!({"cgroup.max.depth": "7"}));
    bundle.write()?;
    let delegated = Delegated::new(case)?;
    let file = std::ffi::CString::new(delegated.0.join("session/cgroup.procs").as_os_str().as_encoded_bytes())
        .map_err(io::Error::from)?;
    let invoke = |arguments: &[String]| {
        let invocation = case.program(&case.machine.tmp.join("runtime"));
        let invocation = invocation.env("XDG_RUNTIME_DIR", &case.dir.join("run").to_string_lossy());
        let (file, arguments) = (file.clone(), arguments.to_vec());
        invocation
            .args(&["--root"])
            .args(&[case.root()])
            .args(&arguments)
            .before_exec(move || enter_as_user(&file))
            .go()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.insert(1, "--detach".to_owned());
    invoke(&arguments)?.succeeds()?;
    let own = delegated.0.join(format!("{}-container", case.tag));
    let processes = fs::read_to_string(own.join("cgroup.procs"));
    let depth = fs::read_to_string(own.join("cgroup.max.depth"));
    invoke(&words(&["exec", &bundle.id, "/bin/true"]))?.succeeds()?;
    invoke(&words(&["delete", "--force", &bundle.id]))?.succeeds()?;
    ensure!(processes.as_ref().is_ok_and(|list| list.lines().count() == 1), "its processes are {processes:?}");
    ensure!(depth.as_ref().is_ok_and(|depth| depth.trim() == "7"), "the limit is {depth:?}");
    ensure!(!own.exists(), "the cgroup is left");
    Ok(())
}

/// Enters a cgroup, then gives up being root.
#[allow(unsafe_code, reason = "between fork and exec only plain system calls are made")]
fn enter_as_user(procs: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the path is a string that ends in NUL, and the buffer has the length given.
    unsafe {
        let fd = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let mut failed = if libc::write(fd, c"0".as_ptr().cast(), 1) == 1 { 0 } else { -1 };
        libc::close(fd);
        failed |= libc::setgroups(0, std::ptr::null());
        failed |= libc::setresgid(USER, USER, USER);
        failed |= libc::setresuid(USER, USER, USER);
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn masks_and_read_only_paths_hold(case: &Case) -> Outcome {
    let bundle = bundle(case)?.with("/linux/maskedPaths", json!(["/proc/version", "/proc/fs", "/etc/passwd"]));
    let bundle = bundle.with("/linux/readonlyPaths", json!(["/var", "/proc/sys"]));
    let options = ["--read", "/proc/version", "--read", "/etc/passwd", "--list", "/proc/fs", "--write", "/var"];
    let seen = bundle.probe(&options).see(case)?;
    seen.reads("/proc/version", "")?;
    seen.reads("/etc/passwd", "")?;
    seen.answers("list", "/proc/fs", &json!({"names": []}))?;
    Ok(seen.answers("write", "/var", &json!("EROFS"))?)
}

fn seccomp_is_loaded(case: &Case) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    let call = format!("{},0,0", libc::SYS_mkdirat);
    for no_new_privileges in [true, false] {
        let bundle = bundle(case)?.with("/linux/seccomp", profile.clone()).probe(&["--syscall", &call]);
        let seen = bundle.with("/process/noNewPrivileges", json!(no_new_privileges)).see(case)?;
        seen.answers("syscall", &call, &json!("EOPNOTSUPP"))?;
    }
    Ok(())
}

fn hooks_are_the_users_and_the_containers(case: &Case) -> Outcome {
    let mut bundle = bundle(case)?.probe(&["--quiet", "--hold"]);
    let program = case.machine.tmp.join("probe");
    for kind in ["createRuntime", "createContainer", "poststop"] {
        let args = json!(["probe", "--stdin", "--out", case.dir.join(kind)]);
        set(&mut bundle.config, &format!("/hooks/{kind}"), json!([{"path": program, "args": args}]));
    }
    let container = case.run_detached(&bundle)?;
    let userns = fs::metadata(format!("/proc/{}/ns/user", container.pid))?.ino();
    container.end()?;
    let host = fs::metadata("/proc/self/ns/user")?.ino();
    for (kind, namespace, uid) in
        [("createRuntime", host, USER), ("createContainer", userns, 0), ("poststop", host, USER)]
    {
        let text = fs::read_to_string(case.dir.join(kind)).map_err(|error| format!("{kind}: {error}"))?;
        let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
        seen.is("/namespaces/user", &json!(namespace)).map_err(|why| format!("{kind}: {why}"))?;
        seen.is("/ids/euid", &json!(uid)).map_err(|why| format!("{kind}: {why}"))?;
    }
    Ok(())
}

fn a_terminal_works(case: &Case) -> Outcome {
    let bundle = bundle(case)?;
    let socket = Socket::in_directory(&case.dir.join("console"))?;
    give_away(&case.dir.join("console"), USER)?;
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]});
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]});
    let bundle = bundle.with("/mounts/-", dev).with("/mounts/-", pts).with("/process/terminal", json!(true));
    let bundle =
        bundle.shell("stat -L -c '%n %u' /dev/pts/0 /dev/console; readlink /proc/self/fd/0; : >/dev/tty && echo tty");
    bundle.write()?;
    let mut arguments: Vec<String> = bundle.run_arguments().to_vec();
    let path = socket.path.to_string_lossy().into_owned();
    arguments.splice(1..1, ["--detach".to_owned(), "--console-socket".to_owned(), path]);
    case.run(&arguments)?.succeeds()?;
    let (terminal, _) = socket.receives()?;
    let mut text = Vec::new();
    // The last reader of a pseudo-terminal is told EIO.
    let _ = io::Read::read_to_end(&mut fs::File::from(terminal), &mut text);
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    case.delete_force(&bundle.id)?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines == ["/dev/pts/0 0", "/dev/console 0", "/dev/pts/0", "tty"], "the terminal shows {text:?}");
    Ok(())
}

fn tmpfs_options_work(case: &Case) -> Outcome {
    let mount = json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid", "size=1m"]});
    let seen =
        bundle(case)?.with("/mounts/-", mount).probe(&["--read", "/etc/passwd", "--make", "/etc/new"]).see(case)?;
    ensure!(seen.text("/etc/passwd")?.starts_with("root:"), "it holds {:?}", seen.text("/etc/passwd")?);
    seen.mounted_with("/etc", &["nosuid"])?;
    ensure!(seen.answer("make", "/etc/new").get("uid") == Some(&json!(0)), "{}", seen.answer("make", "/etc/new"));
    Ok(())
}

fn a_bind_that_the_user_can_not_reach_is_refused(case: &Case) -> Outcome {
    let secret = case.dir.join("secret");
    fs::create_dir(&secret)?;
    fs::write(secret.join("file"), "of root")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700))?;
    chown(&secret, Some(0), Some(0))?;
    let mount = json!({"destination": "/mnt", "type": "bind", "source": secret.join("file"), "options": ["bind"]});
    let output = bundle(case)?.with("/mounts/-", mount).probe(&["--read", "/mnt"]).run(case)?;
    ensure!(!output.stdout.contains("of root"), "{output}");
    output.fails(1, "secret").map(drop)
}

fn flags_that_the_user_may_not_take_away_are_an_error(case: &Case) -> Outcome {
    let bundle = bundle(case)?;
    let dir = case.dir.join("volume");
    let _mounted = crate::mounts::Mounted::tmpfs(&dir)?;
    let none = None::<&str>;
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_RDONLY;
    nix::mount::mount(none, &dir, none, nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_BIND | flags, none)?;
    let mount = |options: &[&str]| json!({"destination": "/mnt", "type": "bind", "source": dir, "options": options});
    let bundle = bundle.with("/mounts/1", mount(&["bind"]));
    bundle.see(case)?.mounted_with("/mnt", &["nosuid", "nodev", "ro"])?;
    bundle.with("/mounts/1", mount(&["bind", "rw"])).run(case)?.fails(1, "/mnt").map(drop)
}

fn nothing_of_the_host_is_in_mountinfo(case: &Case) -> Outcome {
    let devices = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| format!("/dev/{name}"));
    let seen = bundle(case)?.see(case)?;
    let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
    let mut found: Vec<&str> = mounts.iter().filter_map(|mount| mount.get("destination")?.as_str()).collect();
    found.retain(|destination| !devices.iter().any(|device| device == destination));
    ensure!(found == ["/", "/proc"], "the mounts are {found:?}");
    Ok(())
}

fn the_runtime_can_not_be_overwritten(case: &Case) -> Outcome {
    // CVE-2019-5736, by the user's own container: he must not lose his runtime either.
    let bundle = bundle(case)?;
    let copy = case.dir.join("runtime");
    fs::copy(&case.machine.runtime, &copy)?;
    chown(&copy, Some(USER), Some(USER))?;
    let before = fs::read(&copy)?;
    let bundle = bundle.probe(&["--attack-exe", "3"]);
    let script = bundle.rootfs().join("script");
    fs::write(&script, "#!/proc/self/exe\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    bundle.write()?;
    let run = case.dir.join("run").to_string_lossy().into_owned();
    let invoke = |arguments: &[&str]| {
        let invocation = case.program(&copy).user(USER).env("XDG_RUNTIME_DIR", &run);
        invocation.args(&["--root"]).args(&[case.root()]).args(arguments).timeout(Duration::from_secs(8)).go()
    };
    let output = invoke(&["run", "--detach", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?.succeeds()?;
    for _ in 0..10 {
        invoke(&["exec", &bundle.id, "/script"])?;
        invoke(&["exec", &bundle.id, "/proc/self/exe", "--version"])?;
    }
    let seen = crate::attacks::facts_of(&output)?;
    invoke(&["delete", "--force", &bundle.id])?.succeeds()?;
    let attack = seen.answer("attack-exe", "3");
    let found = fs::metadata(&copy)?;
    let file = json!([found.dev(), found.ino()]);
    let opened = attack.get("opened").and_then(Value::as_array).is_some_and(|all| all.contains(&file));
    ensure!(!opened && fs::read(&copy)? == before, "the runtime's own file could be opened for writing: {attack}");
    Ok(())
}

fn a_killed_runtime_leaves_no_process(case: &Case) -> Outcome {
    // The hook keeps it busy, and the whole runtime is killed meanwhile.
    let bundle = bundle(case)?;
    let mark = case.dir.join("mark");
    let script = format!("cat >/dev/null; echo x >{}; sleep 3", mark.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
    let bundle = bundle.with("/hooks/createRuntime", hook).probe(&["--quiet", "--hold"]);
    bundle.write()?;
    // It takes too long, and is killed for that.
    let output = case.runtime(&bundle.run_arguments()).timeout(Duration::from_millis(1500)).go();
    ensure!(output.is_err() && mark.exists(), "the hook did not run, or not long enough");
    std::thread::sleep(Duration::from_millis(3000));
    case.delete_force(&bundle.id).or_else(|_| {
        case.run(&["state", &bundle.id])?.fails(1, "does not exist")?;
        Ok(())
    })
}

fn a_user_namespace_of_his_own_is_joined(case: &Case) -> Outcome {
    let holder = bundle(case)?.with("/linux/namespaces/-", json!({"type": "network"})).probe(&["--quiet", "--hold"]);
    let holder = case.run_detached(&holder)?;
    let path = |name: &str| format!("/proc/{}/ns/{name}", holder.pid);
    for kinds in [&["user"][..], &["user", "net"], &["user", "pid"], &["user", "net", "pid"]] {
        let mut list = vec![json!({"type": "mount"})];
        for name in kinds {
            let kind = if *name == "net" { "network" } else { name };
            list.push(json!({"type": kind, "path": path(name)}));
        }
        if !kinds.contains(&"pid") {
            list.push(json!({"type": "pid"}));
        }
        let bundle = bundle(case)?.without("/linux/uidMappings").without("/linux/gidMappings");
        let seen = bundle
            .with("/linux/namespaces", json!(list))
            .see(case)
            .map_err(|stop| crate::bundle::within(stop, &kinds.join(",")))?;
        for name in kinds {
            seen.is(&format!("/namespaces/{name}"), &json!(fs::metadata(path(name))?.ino()))?;
        }
    }
    holder.end()
}

fn a_nested_runtime_works_as_root_of_a_user_namespace(case: &Case) -> Outcome {
    // As Podman without root calls it: the caller is root in a user namespace, and has a mount namespace of his own.
    let bundle =
        bundle(case)?.without("/linux/uidMappings").without("/linux/gidMappings").without("/linux/namespaces/2");
    let plain = bundle.probe(&["--open", "/dev/null"]);
    let inner = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let nested =
        case.bundle()?.owned_by(USER)?.with("/linux/uidMappings", inner.clone()).with("/linux/gidMappings", inner);
    let nested = nested.with("/linux/namespaces/-", json!({"type": "user"})).probe(&["--open", "/dev/null"]);
    for bundle in [plain, nested] {
        bundle.write()?;
        let runtime = case.machine.tmp.join("runtime");
        let unshare = ["--user", "--map-root-user", "--mount", "--propagation", "private"];
        let invocation = case.program(Path::new("/usr/bin/unshare")).user(USER).args(&unshare);
        let root: PathBuf = case.root();
        let invocation = invocation.env("XDG_RUNTIME_DIR", &case.dir.join("run").to_string_lossy());
        let output = invocation.args(&[runtime]).args(&["--root"]).args(&[root]).args(&bundle.run_arguments()).go()?;
        let seen = output.succeeds()?.seen()?;
        seen.answers("open", "/dev/null", &json!("ok"))?;
        seen.is("/ids/euid", &json!(0))?;
        // The same in the background, with exec.
        let script = "rt=$1; root=$2; bundle=$3; id=$4\n\
            \"$rt\" --root \"$root\" run --detach --bundle \"$bundle\" $id || exit 90\n\
            \"$rt\" --root \"$root\" exec $id /probe --read /proc/self/uid_map; status=$?\n\
            \"$rt\" --root \"$root\" delete --force $id || exit 91\n\
            exit $status";
        let bundle = bundle.again(case).probe(&["--quiet", "--hold"]);
        bundle.write()?;
        let invocation = case.program(Path::new("/usr/bin/unshare")).user(USER).args(&unshare);
        let invocation = invocation.env("XDG_RUNTIME_DIR", &case.dir.join("run").to_string_lossy());
        let invocation = invocation.args(&["sh", "-c", script, "sh"]).args(&[case.machine.tmp.join("runtime")]);
        let output = invocation.args(&[case.root(), bundle.dir.clone(), PathBuf::from(&bundle.id)]).go()?;
        let seen = output.succeeds()?.seen()?;
        seen.is("/ids/euid", &json!(0))?;
        let processes = seen.get("/processes").as_array().map_or(0, Vec::len);
        ensure!(processes == 2, "exec sees {processes} processes");
    }
    Ok(())
}
