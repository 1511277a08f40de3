//! systemd makes the cgroups: the unit of a container, its properties beside config.json, what is said on the bus, and that
//! nothing of it stays. All but the tests with a false systemd need a machine that a systemd has booted.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Container, Invocation, Output};
use crate::{ensure, tests};

tests![
    a_scope_is_where_the_path_says,
    without_a_path_the_scope_is_named_after_the_container,
    a_name_with_the_suffix_makes_a_slice,
    a_failed_create_leaves_no_slice,
    what_systemd_would_refuse_is_refused_before,
    limits_are_properties_and_files,
    an_update_changes_properties_and_files,
    an_update_that_is_refused_changes_neither,
    annotations_are_properties,
    annotations_that_make_no_sense_are_refused,
    what_only_systemd_refuses_is_one_line,
    a_container_is_born_in_its_scope_and_exec_enters_it,
    a_paused_container_can_be_deleted,
    a_container_in_an_existing_pid_namespace_is_in_its_scope,
    a_stopped_unit_is_a_stopped_container,
    a_unit_that_has_failed_makes_room,
    a_unit_that_is_active_is_left_alone,
    device_rules_survive_a_reload_of_systemd,
    processes_without_a_pid_namespace_go_with_the_scope,
    create_and_delete_are_one_call_each,
    the_bus_does_as_well_as_the_private_socket,
    exec_from_another_cgroup_is_attached_by_systemd,
    without_a_manager_there_is_no_cgroup,
    limits_without_a_manager_are_refused,
    no_systemd_is_an_error,
    a_systemd_that_talks_nonsense_is_an_error,
    a_systemd_in_another_pid_namespace_gets_no_pids;
    serial: a_systemd_that_hangs_is_an_error, a_killed_create_leaves_no_unit, a_killed_delete_can_be_repeated
];

/// Skips where no systemd answers the caller.
fn needs_systemd(case: &Case) -> Outcome {
    let socket = match case.machine.invoker.is_rootless() {
        true => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default()).join("systemd/private"),
        false => PathBuf::from("/run/systemd/private"),
    };
    if socket.exists() { Ok(()) } else { skip(format!("no systemd listens on {}", socket.display())) }
}

/// The same for what only corten does, or does in this way.
fn needs_corten_and_systemd(case: &Case) -> Outcome {
    only_corten(case)?;
    needs_systemd(case)
}

fn only_corten(case: &Case) -> Outcome {
    if case.machine.is_corten() { Ok(()) } else { skip("this is about how corten talks to systemd") }
}

fn needs_root(case: &Case) -> Outcome {
    if case.machine.invoker.is_rootless() { skip("needs root") } else { Ok(()) }
}

/// The runtime with systemd as the manager.
fn with_systemd<'c>(case: &'c Case, arguments: &[&str]) -> Invocation<'c> {
    // With `--systemd` the harness gives the flag by itself.
    let globals: &[&str] = if case.machine.invoker.systemd { &[] } else { &["--systemd-cgroup"] };
    case.runtime_with(globals, arguments)
}

fn systemctl(case: &Case, arguments: &[&str]) -> Outcome<Output> {
    let user: &[&str] = if case.machine.invoker.is_rootless() { &["--user"] } else { &[] };
    case.program(Path::new("/usr/bin/systemctl")).args(user).args(arguments).go()
}

/// A property of a unit, as `systemctl show` has it.
fn shown(case: &Case, unit: &str, property: &str) -> Outcome<String> {
    let output = systemctl(case, &["show", "--value", "--property", property, unit])?.succeeds()?;
    Ok(output.stdout.trim().to_owned())
}

fn shows(case: &Case, unit: &str, expected: &[(&str, &str)]) -> Outcome {
    for (property, value) in expected {
        let found = shown(case, unit, property)?;
        ensure!(found == *value, "{unit}: {property} is {found:?}, not {value:?}");
    }
    Ok(())
}

fn unit_is_gone(case: &Case, unit: &str) -> Outcome {
    // To systemd there is every slice that one may think of.
    let load = if unit.ends_with(".slice") { "loaded" } else { "not-found" };
    shows(case, unit, &[("LoadState", load), ("ActiveState", "inactive"), ("ControlGroup", "")])
}

const SLICE: &str = "corten-test.slice";

/// A bundle whose process stays, in a scope that [`scope`] names.
fn bundle(case: &Case) -> Outcome<Bundle> {
    let bundle = case.bundle()?.args(&["sleep", "1000"]);
    let path = format!("{SLICE}:ct:{}", bundle.id);
    Ok(bundle.with("/linux/cgroupsPath", json!(path)))
}

fn scope(bundle: &Bundle) -> String {
    format!("ct-{}.scope", bundle.id)
}

fn run(case: &Case, bundle: &Bundle) -> Outcome<Output> {
    bundle.write()?;
    with_systemd(case, &["run", "--detach", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]).go()
}

/// Runs it in the background.
fn start<'c>(case: &'c Case, bundle: &Bundle) -> Outcome<Container<'c>> {
    let output = run(case, bundle)?.succeeds()?;
    let pid = case.state(&bundle.id)?.get("pid").and_then(Value::as_i64).unwrap_or_default();
    Ok(Container::adopt(case, &bundle.id, pid as i32, output))
}

/// Creating it fails with this text, and nothing is left but what was there.
fn refused(case: &Case, bundle: &Bundle, text: &str) -> Outcome {
    run(case, bundle)?.fails(1, text)?;
    ensure!(!case.root().join(&bundle.id).exists(), "the state of {} is left", bundle.id);
    Ok(())
}

/// The path of a process's cgroup, in the hierarchy of systemd.
fn cgroup_of(pid: &str) -> Outcome<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let found = text.lines().find_map(|line| line.split_once("name=systemd:").or_else(|| line.split_once("0::")));
    Ok(found.map(|(_, path)| path.to_owned()).unwrap_or_default())
}

/// The lowest directory of the hierarchy that has a file of the container's cgroup.
fn file_of(case: &Case, container: &Container, file: &str) -> Outcome<String> {
    let hierarchy = if case.machine.cgroup2 { "" } else { file.split('.').next().unwrap_or_default() };
    let path = Path::new("/sys/fs/cgroup").join(hierarchy);
    let path = path.join(cgroup_of(&container.pid.to_string())?.trim_start_matches('/')).join(file);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn a_scope_is_where_the_path_says(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?;
    let unit = scope(&bundle);
    let container = start(case, &bundle)?;
    let description = match case.machine.is_corten() {
        true => format!("corten container {}", bundle.id),
        false => shown(case, &unit, "Description")?,
    };
    shows(
        case,
        &unit,
        &[
            ("ActiveState", "active"),
            ("Slice", SLICE),
            ("Delegate", "yes"),
            ("Transient", "yes"),
            ("Description", &description),
            ("CPUAccounting", "yes"),
            ("MemoryAccounting", "yes"),
            ("TasksAccounting", "yes"),
            ("DefaultDependencies", "no"),
        ],
    )?;
    let cgroup = cgroup_of(&container.pid.to_string())?;
    ensure!(cgroup == shown(case, &unit, "ControlGroup")?, "the container is in {cgroup}");
    ensure!(cgroup.ends_with(&format!("/corten.slice/{SLICE}/{unit}")), "the container is in {cgroup}");
    container.end()?;
    unit_is_gone(case, &unit)
}

fn without_a_path_the_scope_is_named_after_the_container(case: &Case) -> Outcome {
    needs_systemd(case)?;
    if !matches!(case.machine.name.as_str(), "corten" | "runc") {
        return skip("the prefix is runc's");
    }
    let bundle = bundle(case)?.without("/linux/cgroupsPath");
    let unit = format!("runc-{}.scope", bundle.id);
    let container = start(case, &bundle)?;
    let slice = if case.machine.invoker.is_rootless() { "user.slice" } else { "system.slice" };
    shows(case, &unit, &[("ActiveState", "active"), ("Slice", slice)])?;
    container.end()?;
    unit_is_gone(case, &unit)
}

/// A name for a slice: dashes would make slices of their own of its parts.
fn slice_name(bundle: &Bundle) -> String {
    format!("corten_{}.slice", bundle.id.replace('-', "_"))
}

fn a_name_with_the_suffix_makes_a_slice(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    let bundle = bundle(case)?.with("/linux/resources/pids/limit", json!(50));
    let unit = slice_name(&bundle);
    let bundle = bundle.with("/linux/cgroupsPath", json!(format!(":ignored:{unit}")));
    let container = start(case, &bundle)?;
    shows(case, &unit, &[("ActiveState", "active"), ("TasksMax", "50")])?;
    let cgroup = cgroup_of(&container.pid.to_string())?;
    ensure!(cgroup.ends_with(&format!("/{unit}")), "the container is in {cgroup}");
    let second = container.exec(&["cat", "/proc/self/cgroup"])?.succeeds()?;
    ensure!(!second.stdout.is_empty(), "{second}");
    container.end()?;
    unit_is_gone(case, &unit)
}

fn a_failed_create_leaves_no_slice(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    let bundle = bundle(case)?.args(&["/no/such/program"]);
    let unit = slice_name(&bundle);
    let bundle = bundle.with("/linux/cgroupsPath", json!(format!("::{unit}")));
    refused(case, &bundle, "no such file or directory")?;
    unit_is_gone(case, &unit)?;
    // The same with a scope.
    let bundle = self::bundle(case)?.args(&["/no/such/program"]);
    refused(case, &bundle, "no such file or directory")?;
    unit_is_gone(case, &scope(&bundle))
}

fn what_systemd_would_refuse_is_refused_before(case: &Case) -> Outcome {
    only_corten(case)?;
    for (path, text) in [
        ("corten-test.slice", "expected cgroupsPath to be of format \\\"slice:prefix:name\\\" for systemd cgroups"),
        ("a:b:c", "config.json: /linux/cgroupsPath: invalid slice name: a"),
        ("a--b.slice:p:n", "invalid slice name"),
        ("../../a.slice:p:n", "invalid slice name"),
        (":p:../../n", "invalid unit name: p-../../n.scope"),
        (":p:a b", "invalid unit name"),
        ("::-.slice", "invalid unit name"),
        (&format!(":p:{}", "x".repeat(300)), "invalid unit name"),
    ] {
        let bundle = bundle(case)?.with("/linux/cgroupsPath", json!(path));
        refused(case, &bundle, text)?;
    }
    Ok(())
}

/// Names of files or properties, and what they are to be.
type Expected = Vec<(&'static str, &'static str)>;

/// A bundle with limits, the files that they are in, and the properties.
fn limits(case: &Case, bundle: Bundle) -> (Bundle, Expected, Expected) {
    let (mut bundle, mut files, mut properties) = (bundle, Vec::new(), Vec::new());
    let v2 = case.machine.cgroup2;
    if case.has_controller("memory") {
        let memory = json!({"limit": 67_108_864, "reservation": 33_554_432});
        bundle = bundle.with("/linux/resources/memory", memory);
        if v2 {
            files.extend([("memory.max", "67108864"), ("memory.low", "33554432")]);
            properties.extend([("MemoryMax", "67108864"), ("MemoryLow", "33554432")]);
        } else {
            files.push(("memory.limit_in_bytes", "67108864"));
            properties.push(("MemoryLimit", "67108864"));
        }
    }
    if case.has_controller("cpu") {
        let cpu = json!({"shares": 512, "quota": 25_000, "period": 50_000});
        bundle = bundle.with("/linux/resources/cpu", cpu);
        if v2 {
            files.extend([("cpu.weight", "59"), ("cpu.max", "25000 50000")]);
            properties.push(("CPUWeight", "59"));
        } else {
            files.extend([("cpu.shares", "512"), ("cpu.cfs_quota_us", "25000")]);
            properties.push(("CPUShares", "512"));
        }
        properties.extend([("CPUQuotaPerSecUSec", "500ms"), ("CPUQuotaPeriodUSec", "50ms")]);
    }
    if case.has_controller("pids") {
        bundle = bundle.with("/linux/resources/pids/limit", json!(77));
        files.push(("pids.max", "77"));
        properties.push(("TasksMax", "77"));
    }
    if case.has_controller("cpuset") {
        bundle = bundle.with("/linux/resources/cpu/cpus", json!("0")).with("/linux/resources/cpu/mems", json!("0"));
        files.extend([("cpuset.cpus", "0"), ("cpuset.mems", "0")]);
        properties.extend([("AllowedCPUs", "0"), ("AllowedMemoryNodes", "0")]);
    }
    if v2 && case.has_controller("memory") {
        bundle = bundle.with("/linux/resources/unified", json!({"memory.high": "50331648", "memory.oom.group": "1"}));
        files.extend([("memory.high", "50331648"), ("memory.oom.group", "1")]);
        properties.extend([("MemoryHigh", "50331648"), ("OOMPolicy", "kill")]);
    }
    (bundle, files, properties)
}

fn files_hold(case: &Case, container: &Container, files: &[(&str, &str)]) -> Outcome {
    for (file, expected) in files {
        let found = file_of(case, container, file)?;
        ensure!(found == *expected, "{file} holds {found:?}, not {expected:?}");
    }
    Ok(())
}

fn limits_are_properties_and_files(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    let (bundle, files, properties) = limits(case, bundle(case)?);
    let container = start(case, &bundle)?;
    shows(case, &scope(&bundle), &properties)?;
    files_hold(case, &container, &files)?;
    systemctl(case, &["daemon-reload"])?.succeeds()?;
    shows(case, &scope(&bundle), &properties)?;
    files_hold(case, &container, &files)?;
    container.end()
}

fn an_update_changes_properties_and_files(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    for controller in ["memory", "cpu", "pids"] {
        if !case.has_controller(controller) {
            return skip(format!("there is no controller {controller}"));
        }
    }
    let (bundle, _, _) = limits(case, bundle(case)?);
    let container = start(case, &bundle)?;
    let unit = scope(&bundle);
    let flags =
        ["update", "--memory", "100663296", "--cpu-quota", "10000", "--cpu-share", "1024", "--pids-limit", "-1"];
    case.run(&[&flags[..], &[&bundle.id]].concat())?.succeeds()?;
    let (files, properties): (&[_], &[_]) = match case.machine.cgroup2 {
        true => (
            &[("memory.max", "100663296"), ("cpu.max", "10000 50000"), ("cpu.weight", "100"), ("pids.max", "max")],
            &[("MemoryMax", "100663296"), ("CPUWeight", "100")],
        ),
        false => (
            &[("memory.limit_in_bytes", "100663296"), ("cpu.cfs_quota_us", "10000"), ("cpu.shares", "1024")],
            &[("MemoryLimit", "100663296"), ("CPUShares", "1024")],
        ),
    };
    let both = [
        ("CPUQuotaPerSecUSec", "200ms"),
        ("CPUQuotaPeriodUSec", "50ms"),
        ("TasksMax", "infinity"),
        ("Delegate", "yes"),
    ];
    for _ in 0..2 {
        files_hold(case, &container, files)?;
        shows(case, &unit, properties)?;
        shows(case, &unit, &both)?;
        systemctl(case, &["daemon-reload"])?.succeeds()?;
    }
    case.run(&["update", "--cpu-period", "100000", &bundle.id])?.succeeds()?;
    shows(case, &unit, &[("CPUQuotaPerSecUSec", "100ms"), ("CPUQuotaPeriodUSec", "100ms")])?;
    container.end()
}

fn an_update_that_is_refused_changes_neither(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    let (bundle, files, properties) = limits(case, bundle(case)?);
    let container = start(case, &bundle)?;
    // The kernel wants a millisecond at least.
    let flags = ["update", "--pids-limit", "99", "--cpu-quota", "1", &bundle.id];
    case.run(&flags)?.fails(1, "invalid argument")?;
    shows(case, &scope(&bundle), &properties)?;
    files_hold(case, &container, &files)?;
    container.end()
}

fn annotations_are_properties(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?.with(
        "/annotations",
        json!({
            "org.systemd.property.TimeoutStopUSec": "uint64 12000000",
            "org.systemd.property.RuntimeMaxSec": "3600",
            "org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.After": "['basic.target']",
        }),
    );
    let container = start(case, &bundle)?;
    shows(case, &scope(&bundle), &[("TimeoutStopUSec", "12s"), ("RuntimeMaxUSec", "1h"), ("CollectMode", "inactive")])?;
    let after = shown(case, &scope(&bundle), "After")?;
    ensure!(after.contains("basic.target"), "After is {after}");
    container.end()?;
    unit_is_gone(case, &scope(&bundle))
}

fn annotations_that_make_no_sense_are_refused(case: &Case) -> Outcome {
    only_corten(case)?;
    for (name, value) in [
        ("TimeoutStopUSec", "12s"),
        ("TimeoutStopSec", "'12'"),
        ("TimeoutStopSec", "-1"),
        ("CollectMode", "inactive"),
        ("Collect Mode", "'inactive'"),
        ("", "1"),
        ("PIDs", "[uint32 1]"),
        ("Slice", "'system.slice'"),
        ("After", "[]"),
        ("After", "['a', 1]"),
    ] {
        let name = format!("org.systemd.property.{name}");
        let bundle = bundle(case)?.with("/annotations", json!({ &name: value }));
        refused(case, &bundle, &format!("config.json: /annotations/{name}: "))?;
        // Without systemd they mean nothing.
        if !case.machine.invoker.systemd {
            bundle.again(case).without("/linux/cgroupsPath").args(&["true"]).run(case)?.succeeds()?;
        }
    }
    Ok(())
}

fn what_only_systemd_refuses_is_one_line(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    for (name, value) in [("NoSuchThing", "1"), ("TimeoutStopUSec", "'x'"), ("CollectMode", "'never'")] {
        let name = format!("org.systemd.property.{name}");
        let bundle = bundle(case)?.with("/annotations", json!({ &name: value }));
        refused(case, &bundle, &format!("start the unit {}: ", scope(&bundle)))?;
        unit_is_gone(case, &scope(&bundle))?;
    }
    Ok(())
}

fn a_container_is_born_in_its_scope_and_exec_enters_it(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?
        .with("/linux/namespaces/-", json!({"type": "cgroup"}))
        .with("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    let container = start(case, &bundle)?;
    for arguments in [&["cat", "/proc/1/cgroup"], &["cat", "/proc/self/cgroup"]] {
        let seen = container.exec(arguments)?.succeeds()?.stdout;
        let outside: Vec<&str> = seen.lines().filter(|line| !line.ends_with(":/")).collect();
        ensure!(outside.is_empty(), "its cgroup namespace begins elsewhere: {outside:?}");
    }
    let ps = case.run(&["ps", "--format", "json", &bundle.id])?.succeeds()?;
    ensure!(ps.stdout.contains(&container.pid.to_string()), "{ps}");
    case.run(&["events", "--stats", &bundle.id])?.succeeds()?;
    container.end()
}

fn a_paused_container_can_be_deleted(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?;
    let container = start(case, &bundle)?;
    case.run(&["pause", &bundle.id])?.succeeds()?;
    ensure!(case.status(&bundle.id)? == "paused", "it is not paused");
    case.run(&["resume", &bundle.id])?.succeeds()?;
    ensure!(case.status(&bundle.id)? == "running", "it does not run again");
    case.run(&["pause", &bundle.id])?.succeeds()?;
    case.delete_force(&bundle.id)?;
    container.wait()?;
    unit_is_gone(case, &scope(&bundle))
}

fn a_container_in_an_existing_pid_namespace_is_in_its_scope(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let first = start(case, &bundle(case)?)?;
    let namespaces = |kind: &str| match kind {
        "pid" => json!({"type": "pid", "path": format!("/proc/{}/ns/pid", first.pid)}),
        kind => json!({ "type": kind }),
    };
    let second = bundle(case)?.with("/linux/namespaces", json!(["mount", "pid"].map(namespaces)));
    if case.machine.invoker.is_rootless() {
        first.end()?;
        return skip("needs root: the user namespace of the first container owns its PID namespace");
    }
    let container = start(case, &second)?;
    let cgroup = cgroup_of(&container.pid.to_string())?;
    ensure!(cgroup.ends_with(&scope(&second)), "the container is in {cgroup}");
    case.delete_force(&second.id)?;
    container.wait()?;
    unit_is_gone(case, &scope(&second))?;
    first.end()
}

fn a_stopped_unit_is_a_stopped_container(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?.shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
    let container = start(case, &bundle)?;
    container.prints("ready")?;
    systemctl(case, &["stop", &scope(&bundle)])?.succeeds()?;
    ensure!(container.wait()? == 0, "it did not end by itself");
    ensure!(case.status(&bundle.id)? == "stopped", "it is {}", case.status(&bundle.id)?);
    container.delete()?;
    unit_is_gone(case, &scope(&bundle))
}

/// Runs a command in a scope of somebody else's, beside us.
fn foreign_scope(case: &Case, unit: &str, options: &[&str], script: &str) -> Outcome<std::process::Child> {
    let user: &[&str] = if case.machine.invoker.is_rootless() { &["--user"] } else { &[] };
    let mut command = std::process::Command::new("systemd-run");
    if let Some(user) = case.machine.invoker.user {
        // Its processes are to be ones that the user's systemd may move.
        command.uid(user).gid(user);
    }
    let child = command
        .args(user)
        .args(["--scope", "--quiet", &format!("--unit={unit}"), &format!("--slice={SLICE}")])
        .args(options)
        .args(["sh", "-c", script])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let end = Instant::now() + case.patience(Duration::from_secs(10));
    while shown(case, unit, "ActiveState")? == "inactive" && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

fn a_unit_that_has_failed_makes_room(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?;
    let unit = scope(&bundle);
    foreign_scope(case, &unit, &["--property=RuntimeMaxSec=1"], "exec sleep 1000")?;
    let end = Instant::now() + case.patience(Duration::from_secs(10));
    while shown(case, &unit, "ActiveState")? != "failed" {
        ensure!(Instant::now() < end, "the unit is {}", shown(case, &unit, "ActiveState")?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let container = start(case, &bundle)?;
    shows(case, &unit, &[("ActiveState", "active")])?;
    container.end()?;
    unit_is_gone(case, &unit)
}

fn a_unit_that_is_active_is_left_alone(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    // Also without a PID namespace, where the processes of a container are killed with its cgroup.
    let bundle = bundle(case)?.with("/linux/namespaces", json!([{"type": "mount"}]));
    let unit = scope(&bundle);
    foreign_scope(case, &unit, &[], "exec sleep 1000")?;
    refused(case, &bundle, "container's cgroup is not empty")?;
    shows(case, &unit, &[("ActiveState", "active")])?;
    // A creator that was killed before it had started its unit.
    let record = json!({
        "version": 1, "ociVersion": "1.0.0", "id": bundle.id, "bundle": "/", "rootfs": "/", "created": "", "owner": 0,
        "cgroups": {
            "unified": case.machine.cgroup2,
            "directories": [{
                "hierarchy": if case.machine.cgroup2 { "unified" } else { "name=systemd" },
                "path": format!("/sys/fs/cgroup{}", shown(case, &unit, "ControlGroup")?),
                "made_from": format!("/sys/fs/cgroup{}", shown(case, &unit, "ControlGroup")?),
            }],
            "unit": {"name": unit, "slice": SLICE, "user": case.machine.invoker.is_rootless()},
        },
        "namespaces": 0, "endsWithInit": false, "keyring": false,
    });
    let state = case.root().join(&bundle.id);
    fs::create_dir_all(&state)?;
    fs::write(state.join("state.json"), record.to_string())?;
    case.delete_force(&bundle.id)?;
    ensure!(!state.exists(), "the state is left");
    shows(case, &unit, &[("ActiveState", "active")])?;
    systemctl(case, &["kill", "--signal=KILL", &unit])?.succeeds().map(drop)
}

fn device_rules_survive_a_reload_of_systemd(case: &Case) -> Outcome {
    needs_systemd(case)?;
    needs_root(case)?;
    // A number that no driver has: whether it may be opened shows in the error.
    let node = json!([{"path": "/dev/none", "type": "c", "major": 240, "minor": 5, "fileMode": 438}]);
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "type": "c", "major": 240, "minor": 5, "access": "rw"});
    for (rules, text) in [(json!([deny]), "not permitted"), (json!([deny, allow]), "No such device or address")] {
        let bundle = bundle(case)?.with("/linux/devices", node.clone()).with("/linux/resources/devices", rules);
        let container = start(case, &bundle)?;
        for _ in 0..2 {
            let output = container.exec(&["sh", "-c", ": </dev/none"])?;
            ensure!(output.stderr.contains(text), "{output}");
            container.exec(&["sh", "-c", ": </dev/null"])?.succeeds()?;
            systemctl(case, &["daemon-reload"])?.succeeds()?;
            systemctl(case, &["set-property", "--runtime", &scope(&bundle), "TasksMax=99"])?.succeeds()?;
        }
        container.end()?;
    }
    Ok(())
}

fn processes_without_a_pid_namespace_go_with_the_scope(case: &Case) -> Outcome {
    needs_systemd(case)?;
    let bundle = bundle(case)?
        .with("/linux/namespaces", json!([{"type": "mount"}]))
        .shell("sleep 1001 & sleep 1002 & exec sleep 1003");
    let container = start(case, &bundle)?;
    case.delete_force(&bundle.id)?;
    container.wait()?;
    unit_is_gone(case, &scope(&bundle))
}

/// Which methods the runtime has called, from strace of itself alone, without the processes that it makes.
fn calls(case: &Case, before: &str, arguments: &[&str]) -> Outcome<Vec<String>> {
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() {
        return skip("there is no strace");
    }
    let trace = case.dir.join(format!("trace-{}", case.next()));
    let script = format!("{before} exec \"$@\"");
    let invocation = case.program(Path::new("/usr/bin/unshare"));
    let namespace: &[&str] =
        if case.machine.invoker.is_rootless() { &[] } else { &["--mount", "--propagation=private"] };
    let invocation = match namespace {
        [] => case.program(Path::new("/bin/sh")).args(&["-c", &script, "sh"]),
        namespace => invocation.args(namespace).args(&["sh", "-c", &script, "sh"]),
    };
    let trace_arguments = ["-o", &trace.to_string_lossy(), "-e", "trace=sendto", "-s", "4000"].map(str::to_owned);
    let invocation = invocation.args(&[strace]).args(&trace_arguments).args(&[&case.machine.runtime]);
    invocation
        .args(&[Path::new("--root"), &case.root(), Path::new("--systemd-cgroup")])
        .args(arguments)
        .go()?
        .succeeds()?;
    const METHODS: [&str; 11] = [
        "Hello",
        "AddMatch",
        "Subscribe",
        "Get",
        "GetUnit",
        "StartTransientUnit",
        "StopUnit",
        "ResetFailedUnit",
        "SetUnitProperties",
        "AttachProcessesToUnit",
        "AUTH",
    ];
    let text = fs::read_to_string(&trace)?;
    let mut found = Vec::new();
    for line in text.lines() {
        // strace writes a name in a message as `\tName\0`, or `\1s\0\t\0\0\0Name\0`.
        let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphabetic()).collect();
        for method in METHODS {
            let count = words
                .iter()
                .filter(|word| **word == method || word.strip_prefix(['t', 'n', 'r', 'v', 'f']) == Some(method));
            found.extend(count.map(|_| method.to_owned()));
        }
    }
    Ok(found)
}

fn create_and_delete_are_one_call_each(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    needs_root(case)?;
    let (bundle, _, _) = limits(case, bundle(case)?);
    bundle.write()?;
    let made = calls(case, "", &["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?;
    ensure!(made == ["AUTH", "StartTransientUnit"], "create calls {made:?}");
    let deleted = calls(case, "", &["delete", "--force", &bundle.id])?;
    ensure!(deleted == ["AUTH", "StopUnit"], "delete calls {deleted:?}");
    unit_is_gone(case, &scope(&bundle))
}

fn the_bus_does_as_well_as_the_private_socket(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    needs_root(case)?;
    if !Path::new("/run/dbus/system_bus_socket").exists() {
        return skip("there is no system bus");
    }
    let (bundle, _, properties) = limits(case, bundle(case)?);
    bundle.write()?;
    let hide = "mount --bind /dev/null /run/systemd/private;";
    let made = calls(case, hide, &["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?;
    ensure!(made == ["AUTH", "Hello", "AddMatch", "StartTransientUnit"], "create calls {made:?}");
    shows(case, &scope(&bundle), &properties)?;
    let deleted = calls(case, hide, &["delete", "--force", &bundle.id])?;
    ensure!(deleted == ["AUTH", "Hello", "AddMatch", "StopUnit"], "delete calls {deleted:?}");
    unit_is_gone(case, &scope(&bundle))
}

fn exec_from_another_cgroup_is_attached_by_systemd(case: &Case) -> Outcome {
    needs_systemd(case)?;
    if !case.machine.invoker.is_rootless() {
        return skip("root may move anywhere");
    }
    let bundle = bundle(case)?.with("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    let container = start(case, &bundle)?;
    let names = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];
    let variables = names.iter().filter_map(|name| Some(format!("--setenv={name}={}", std::env::var(name).ok()?)));
    let user = nix::unistd::geteuid().to_string();
    // A service of the machine's own systemd: its cgroup is not the user's.
    let run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid", &user].map(str::to_owned);
    let invocation = case.program(Path::new("/usr/bin/sudo")).args(&["-n"]).args(&run);
    let invocation = invocation.args(&variables.collect::<Vec<_>>()).args(&[&case.machine.runtime]);
    let invocation = invocation.args(&[Path::new("--root"), &case.root()]);
    let output = invocation.args(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]).go()?.succeeds()?;
    ensure!(output.stdout.contains(&scope(&bundle)), "{output}");
    container.end()
}

/// Other tests in other words: crun's dialect.
fn disabled<'c>(case: &'c Case, bundle: &Bundle) -> Outcome<Invocation<'c>> {
    if !matches!(case.machine.name.as_str(), "corten" | "crun") {
        return skip("a flag of crun's");
    }
    bundle.write()?;
    Ok(case.runtime_with(&["--cgroup-manager", "disabled"], &bundle.run_arguments()))
}

fn without_a_manager_there_is_no_cgroup(case: &Case) -> Outcome {
    let bundle = case.bundle()?.args(&["cat", "/proc/self/cgroup"]).without("/linux/resources");
    let bundle = bundle.with("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    let output = disabled(case, &bundle)?.go()?.succeeds()?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let (mut seen, mut own): (Vec<_>, Vec<_>) = (output.stdout.lines().collect(), own.lines().collect());
    seen.sort_unstable();
    own.sort_unstable();
    ensure!(seen == own, "the container is in {seen:?}, we are in {own:?}");
    Ok(())
}

fn limits_without_a_manager_are_refused(case: &Case) -> Outcome {
    only_corten(case)?;
    let bundle = case.bundle()?.with("/linux/resources/pids/limit", json!(5));
    disabled(case, &bundle)?.go()?.fails(1, "config.json: /linux/resources: ").map(drop)
}

/// The runtime with another `/run`, in which a false systemd listens if there is one.
fn with_false_systemd<'c>(case: &'c Case, socket: Option<&Path>, bundle: &Bundle) -> Outcome<Invocation<'c>> {
    only_corten(case)?;
    needs_root(case)?;
    bundle.write()?;
    let script = r#"
        set -e
        runtime=$1 socket=$2; shift 2
        mount -t tmpfs none /run
        if [ "$socket" ]; then
            mkdir -p /run/systemd; touch /run/systemd/private
            mount --bind "$socket" /run/systemd/private
        fi
        exec "$runtime" "$@""#;
    let invocation = case.program(Path::new("/usr/bin/unshare")).args(&["--mount", "--propagation", "private"]);
    let invocation = invocation.args(&["sh", "-c", script, "sh"]).args(&[&case.machine.runtime]);
    let invocation = invocation.args(&[socket.unwrap_or(Path::new(""))]).args(&[Path::new("--root"), &case.root()]);
    let bundle_dir = bundle.dir.to_string_lossy().into_owned();
    Ok(invocation.args(&["--systemd-cgroup", "create", "--bundle", &bundle_dir, &bundle.id]))
}

fn no_systemd_is_an_error(case: &Case) -> Outcome {
    let bundle = bundle(case)?;
    let text = "connect to systemd: /run/systemd/private: no such file or directory; ";
    with_false_systemd(case, None, &bundle)?.go()?.fails(1, text)?;
    ensure!(!case.root().join(&bundle.id).exists(), "the state is left");
    Ok(())
}

fn a_systemd_that_talks_nonsense_is_an_error(case: &Case) -> Outcome {
    for (words, text) in [
        (&b"REJECTED\r\nREJECTED\r\n"[..], "it does not let us in: REJECTED"),
        (b"", "it has closed the connection"),
        (b"DATA\r\nOK 12\r\nnot a message at all", "no D-Bus message"),
    ] {
        let bundle = bundle(case)?;
        let path = case.dir.join(format!("systemd-{}", case.next()));
        let listener = UnixListener::bind(&path)?;
        let words = words.to_vec();
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(1).flatten() {
                let mut stream = stream;
                let _ = stream.write_all(&words);
                // Until the peer has said what it has to say; who has said something waits for what comes of it.
                let length = if words.is_empty() { 29 } else { usize::MAX };
                let _ = std::io::copy(&mut std::io::Read::take(&mut stream, length as u64), &mut std::io::sink());
            }
        });
        with_false_systemd(case, Some(&path), &bundle)?.go()?.fails(1, text)?;
        drop(server);
        // A child that waits for its GO is no longer there, and neither is anything else.
        ensure!(!case.root().join(&bundle.id).exists(), "{text}: the state is left");
    }
    Ok(())
}

fn a_systemd_that_hangs_is_an_error(case: &Case) -> Outcome {
    let bundle = bundle(case)?;
    let path = case.dir.join("systemd");
    let listener = UnixListener::bind(&path)?;
    let begun = Instant::now();
    let invocation = with_false_systemd(case, Some(&path), &bundle)?.timeout(Duration::from_secs(60));
    invocation.go()?.fails(1, "connect to systemd: /run/systemd/private: no answer in 30 s")?;
    ensure!(begun.elapsed() >= Duration::from_secs(29), "it gave up after {:?}", begun.elapsed());
    ensure!(!case.root().join(&bundle.id).exists(), "the state is left");
    drop(listener);
    Ok(())
}

fn a_systemd_in_another_pid_namespace_gets_no_pids(case: &Case) -> Outcome {
    needs_corten_and_systemd(case)?;
    needs_root(case)?;
    let bundle = bundle(case)?;
    bundle.write()?;
    let invocation = case.program(Path::new("/usr/bin/unshare")).args(&["--pid", "--fork", "--mount-proc"]);
    let invocation = invocation.args(&[&case.machine.runtime]).args(&[Path::new("--root"), &case.root()]);
    let bundle_dir = bundle.dir.to_string_lossy().into_owned();
    let invocation = invocation.args(&["--systemd-cgroup", "create", "--bundle", &bundle_dir, &bundle.id]);
    invocation.go()?.fails(1, "systemd is in another PID namespace")?;
    unit_is_gone(case, &scope(&bundle))
}

/// Kills the runtime before a system call of its own, in one run after the other, and looks whether all can be removed.
fn killed(
    case: &Case,
    step: usize,
    arguments: impl Fn(&Bundle) -> Vec<String>,
    prepare: impl Fn(&Bundle) -> Outcome,
) -> Outcome {
    needs_corten_and_systemd(case)?;
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() {
        return skip("there is no strace");
    }
    let traced = |bundle: &Bundle, options: [&str; 4]| {
        bundle.write()?;
        prepare(bundle)?;
        let invocation = case.program(strace).args(&options).args(&[&case.machine.runtime]);
        let invocation = invocation.args(&[Path::new("--root"), &case.root(), Path::new("--systemd-cgroup")]);
        invocation.args(&arguments(bundle)).go()
    };
    let (bundle, trace) = (self::bundle(case)?, case.dir.join("trace"));
    traced(&bundle, ["-o", &trace.to_string_lossy(), "-e", "trace=all"])?.succeeds()?;
    case.delete_force(&bundle.id)?;
    let text = fs::read_to_string(trace)?;
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_once('(').map(|(name, _)| name)).collect();
    let mut points = 0;
    for point in (0..names.len()).step_by(step) {
        // strace counts the calls of each name.
        let (name, bundle) = (names[point], self::bundle(case)?);
        let count = names[..=point].iter().filter(|other| **other == name).count();
        let inject = format!("inject={name}:signal=KILL:when={count}");
        let output = traced(&bundle, ["-o", "/dev/null", "-e", &inject])?;
        points += usize::from(output.status != 0);
        case.delete_force(&bundle.id)?;
        let left = |what| format!("{what} is left after a kill at {inject}: {output}");
        ensure!(!case.root().join(&bundle.id).exists(), "{}", left("state"));
        // Its last process may still be on the way, and then systemd.
        let end = Instant::now() + case.patience(Duration::from_secs(5));
        while unit_is_gone(case, &scope(&bundle)).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        unit_is_gone(case, &scope(&bundle)).map_err(|_| left("a unit"))?;
    }
    ensure!(points * step * 2 > names.len(), "only {points} of {} points were hit", names.len());
    Ok(())
}

fn a_killed_create_leaves_no_unit(case: &Case) -> Outcome {
    let arguments = |bundle: &Bundle| {
        let words = ["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id];
        words.map(str::to_owned).to_vec()
    };
    killed(case, 9, arguments, |_| Ok(()))
}

fn a_killed_delete_can_be_repeated(case: &Case) -> Outcome {
    let arguments = |bundle: &Bundle| ["delete", "--force", &bundle.id].map(str::to_owned).to_vec();
    killed(case, 5, arguments, |bundle| run(case, bundle)?.succeeds().map(drop))
}
