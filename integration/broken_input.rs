//! Broken and odd input: a bad one is refused with one line and leaves nothing, a valid one runs, however odd; nothing
//! hangs or panics.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Seen};
use crate::harness::{Case, Outcome, Stop, skip};
use crate::runtime::Output;
use crate::{ensure, tests};

tests![
    a_config_that_is_a_fifo_is_refused,
    a_config_that_is_no_file_is_refused,
    a_config_that_is_no_json_is_refused,
    a_config_cut_anywhere_is_refused,
    a_config_nested_100_000_levels_deep_is_refused,
    a_config_of_16_mib_is_read_or_refused,
    a_config_of_wrong_types_is_refused,
    numbers_out_of_range_are_refused,
    a_missing_rootfs_is_refused,
    a_rootfs_that_is_a_file_is_refused,
    a_symlinked_rootfs_runs_or_is_refused,
    a_bundle_that_is_a_file_is_refused,
    a_pid_file_that_can_not_be_written_is_an_error,
    a_log_that_can_not_be_written_is_an_error,
    output_that_can_not_be_written_is_an_error,
    a_caller_who_is_not_root_gets_a_clear_error,
    closed_standard_fds_are_no_problem,
    valid_odd_configs_run,
    odd_white_space_and_escapes_are_json,
    without_proc_a_container_runs,
    bad_ids_are_refused_by_every_command,
    an_id_of_255_bytes_is_refused_or_runs;
    serial:
    a_full_disk_under_the_state_is_an_error,
    few_fds_are_an_error_or_the_same_sandbox,
];

/// Tries every row of a table and tells which ones failed, not only the first.
fn each<T>(rows: impl IntoIterator<Item = T>, mut attempt: impl FnMut(T) -> Outcome) -> Outcome {
    let mut failures = Vec::new();
    for row in rows {
        match attempt(row) {
            Ok(()) => {}
            Err(Stop::Fail(message)) => failures.push(message.chars().take(400).collect::<String>()),
            Err(skip @ Stop::Skip(_)) => return Err(skip),
        }
    }
    ensure!(failures.is_empty(), "{} of the table: {}", failures.len(), failures.join(" || "));
    Ok(())
}

/// A run that must not take long.
fn soon(case: &Case, bundle: &Bundle) -> Outcome<Output> {
    case.runtime(&bundle.run_arguments()).timeout(Duration::from_secs(8)).go()
}

fn refused(case: &Case, bundle: &Bundle, what: &str) -> Outcome {
    let result = soon(case, bundle).and_then(|output| output.fails(1, ""));
    result.map(drop).map_err(|stop| crate::bundle::within(stop, what))
}

fn with_config(case: &Case, bytes: &[u8]) -> Outcome<Bundle> {
    let bundle = case.bundle()?;
    fs::write(bundle.dir.join("config.json"), bytes)?;
    Ok(bundle)
}

fn a_config_that_is_a_fifo_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    nix::unistd::mkfifo(&bundle.dir.join("config.json"), Mode::from_bits_truncate(0o600))?;
    refused(case, &bundle, "a FIFO")
}

fn a_config_that_is_no_file_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let config = bundle.dir.join("config.json");
    fs::create_dir(&config)?;
    refused(case, &bundle, "a directory")?;
    fs::remove_dir(&config)?;
    symlink("/no/such/file", &config)?;
    refused(case, &bundle, "a dangling link")?;
    fs::remove_file(&config)?;
    symlink("config.json", &config)?;
    refused(case, &bundle, "a link to itself")
}

fn a_config_that_is_no_json_is_refused(case: &Case) -> Outcome {
    let valid = case.bundle()?.config.to_string();
    let rows = [
        ("nothing", Vec::new()),
        ("white space", b" \n\t ".to_vec()),
        ("null", b"null".to_vec()),
        ("true", b"true".to_vec()),
        ("a number", b"1".to_vec()),
        ("a string", b"\"text\"".to_vec()),
        ("an array", b"[]".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("a byte order mark", [b"\xef\xbb\xbf", valid.as_bytes()].concat()),
        ("UTF-16", valid.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a NUL first", [b"\0", valid.as_bytes()].concat()),
        ("NULs only", vec![0; 4096]),
        ("rubbish after the object", [valid.as_bytes(), b"x"].concat()),
        ("invalid UTF-8", valid.bytes().map(|byte| if byte == b'b' { 0xff } else { byte }).collect()),
        ("an ELF file", fs::read(case.machine.tmp.join("probe"))?.into_iter().take(10_000).collect()),
    ];
    each(rows, |(what, bytes)| refused(case, &with_config(case, &bytes)?, what))
}

fn a_config_cut_anywhere_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let text = bundle.config.to_string();
    for length in (1..text.len()).step_by(text.len() / 20) {
        fs::write(bundle.dir.join("config.json"), text.get(..length).unwrap_or_default())?;
        refused(case, &bundle, &format!("{length} of {} bytes", text.len()))?;
    }
    Ok(())
}

fn a_config_nested_100_000_levels_deep_is_refused(case: &Case) -> Outcome {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        refused(case, &with_config(case, nested.as_bytes())?, open)?;
        let inside = case.bundle()?.config.to_string().replacen('{', &format!("{{\"x\":{nested},"), 1);
        // An unknown property is to be ignored, so that running is right too.
        let output = soon(case, &with_config(case, inside.as_bytes())?)?;
        ensure!(output.status == 0 || output.is_one_line().is_ok(), "{output}");
    }
    Ok(())
}

fn a_config_of_16_mib_is_read_or_refused(case: &Case) -> Outcome {
    let valid = case.bundle()?.config.to_string();
    let padded = valid.clone() + &" ".repeat(16 << 20);
    let annotated = case.bundle()?.with("/annotations", json!({"big": "x".repeat(16 << 20)})).config.to_string();
    for text in [padded, annotated] {
        let output = soon(case, &with_config(case, text.as_bytes())?)?;
        ensure!(output.status == 0 || output.status == 1 && output.is_one_line().is_ok(), "{output}");
    }
    Ok(())
}

fn a_config_of_wrong_types_is_refused(case: &Case) -> Outcome {
    let rows = [
        ("/ociVersion", json!(1)),
        ("/ociVersion", json!("")),
        ("/ociVersion", json!("2.0.0")),
        ("/ociVersion", json!("nonsense")),
        ("/process", json!([])),
        ("/process/args", json!("/probe")),
        ("/process/args", json!([1])),
        ("/process/env", json!({"A": "B"})),
        ("/process/cwd", json!(null)),
        ("/process/cwd", json!("")),
        ("/process/user", json!("root")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(1.5)),
        ("/process/terminal", json!("yes")),
        ("/process/noNewPrivileges", json!(1)),
        ("/process/args", json!(["/pro\u{0}be"])),
        ("/process/env", json!(["A=\u{0}"])),
        ("/root", json!("rootfs")),
        ("/root/path", json!(1)),
        ("/root/path", json!("")),
        ("/root/readonly", json!("no")),
        ("/mounts", json!({})),
        ("/mounts/0/destination", json!("")),
        ("/mounts/0/destination", json!(null)),
        ("/mounts/0/options", json!("ro")),
        ("/linux", json!([])),
        ("/linux/namespaces", json!({})),
        ("/linux/namespaces/0", json!("pid")),
        ("/linux/namespaces/0/type", json!("")),
        ("/linux/resources", json!([])),
        ("/linux/maskedPaths", json!("/proc")),
        ("/hooks", json!([])),
        ("/annotations", json!([])),
        ("/annotations", json!({"k": 1})),
        ("/hostname", json!({})),
    ];
    each(rows, |(pointer, value)| {
        let bundle = case.bundle()?.with(pointer, value.clone());
        bundle.write()?;
        refused(case, &bundle, &format!("{pointer} = {value}"))
    })
}

fn numbers_out_of_range_are_refused(case: &Case) -> Outcome {
    let device = json!([{"allow": true, "type": "c", "major": -5, "access": "rwm"}]);
    let rows = [
        ("/process/user/uid", json!(1_u64 << 32)),
        ("/process/user/uid", json!(1_u64 << 63)),
        ("/process/user/uid", json!(-1)),
        ("/process/user/gid", json!(1_u64 << 32)),
        ("/process/user/gid", json!(-1)),
        ("/process/user/additionalGids", json!([1_u64 << 32])),
        ("/process/user/umask", json!(-1)),
        ("/process/oomScoreAdj", json!(1001)),
        ("/process/oomScoreAdj", json!(-1001)),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}])),
        ("/linux/resources/devices", device),
        ("/linux/resources/memory", json!({"limit": "1G"})),
        ("/linux/resources/pids", json!({"limit": 1.5})),
    ];
    each(rows, |(pointer, value)| {
        let bundle = case.bundle()?.with(pointer, value.clone());
        bundle.write()?;
        refused(case, &bundle, &format!("{pointer} = {value}"))
    })
}

fn a_missing_rootfs_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/root/path", json!("nosuch"));
    bundle.run(case)?.fails(1, "nosuch")?;
    if case.machine.name == "crun" {
        // It would take the root of the host.
        return Err("crun accepts a config without root".into());
    }
    bundle.without("/root").run(case)?.fails(1, "root").map(drop)
}

fn a_rootfs_that_is_a_file_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/root/path", json!("file"));
    fs::write(bundle.dir.join("file"), "")?;
    bundle.run(case)?.fails(1, "file").map(drop)
}

fn a_symlinked_rootfs_runs_or_is_refused(case: &Case) -> Outcome {
    // runc refuses it, crun resolves it.
    let bundle = case.bundle()?.with("/root/path", json!("link"));
    symlink("rootfs", bundle.dir.join("link"))?;
    let output = bundle.run(case)?;
    if output.status == 0 { output.seen().map(drop) } else { output.fails(1, "").map(drop) }
}

fn a_bundle_that_is_a_file_is_refused(case: &Case) -> Outcome {
    let file = case.dir.join("file");
    fs::write(&file, "")?;
    case.runtime(&["run", "--bundle"]).args(&[&file]).args(&[&case.id()]).go()?.fails(1, "not a directory").map(drop)
}

fn a_pid_file_that_can_not_be_written_is_an_error(case: &Case) -> Outcome {
    for path in ["/no/such/directory/pid", "/", "/proc/1/status"] {
        let bundle = case.docker_like()?;
        bundle.write()?;
        let arguments = ["create", "--pid-file", path, "--bundle"];
        let output = case.runtime(&arguments).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
        output.fails(1, "").map_err(|stop| crate::bundle::within(stop, path))?;
        case.run(&["state", &bundle.id])?.fails(1, "does not exist")?;
    }
    Ok(())
}

fn a_log_that_can_not_be_written_is_an_error(case: &Case) -> Outcome {
    case.runtime_with(&["--log", "/no/such/directory/log"], &["list"])
        .go()?
        .fails(1, "/no/such/directory/log")
        .map(drop)
}

fn output_that_can_not_be_written_is_an_error(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    for command in ["state", "list", "features"] {
        let shell = format!("exec \"$@\" {command} {} >/dev/full", if command == "state" { &container.id } else { "" });
        let invocation = case.program(Path::new("/bin/sh")).args(&["-c", &shell, "sh"]).args(&[&case.machine.runtime]);
        let output = invocation.args(&["--root"]).args(&[&case.root()]).go()?;
        ensure!(output.status == 1, "{command}: {output}");
    }
    case.delete_force(&container.id)
}

fn a_caller_who_is_not_root_gets_a_clear_error(case: &Case) -> Outcome {
    let readable = case.program(Path::new("/bin/sh")).args(&["-c", "exec \"$0\" --version"]);
    if readable.args(&[&case.machine.runtime]).user(65534).go()?.status != 0 {
        return skip("another user may not execute the runtime where it lies");
    }
    let bundle = case.bundle()?;
    bundle.write()?;
    // Without access to --root, and with a --root of the user's own.
    case.runtime(&bundle.run_arguments()).user(65534).go()?.fails(1, "")?;
    std::os::unix::fs::chown(case.root(), Some(65534), Some(65534))?;
    case.runtime(&bundle.run_arguments()).user(65534).go()?.fails(1, "")?;
    case.runtime(&["state", "nosuch"]).user(65534).go()?.fails(1, "does not exist").map(drop)
}

fn closed_standard_fds_are_no_problem(case: &Case) -> Outcome {
    for closed in ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"] {
        let bundle = case.bundle()?.probe(&["--out", "/seen"]);
        bundle.write()?;
        let shell = format!("exec \"$@\" {closed}");
        let invocation = case.program(Path::new("/bin/sh")).args(&["-c", &shell, "sh"]).args(&[&case.machine.runtime]);
        let output = invocation.args(&["--root"]).args(&[&case.root()]).args(&bundle.run_arguments()).go()?;
        output.succeeds().map_err(|stop| crate::bundle::within(stop, closed))?;
        let text = fs::read_to_string(bundle.rootfs().join("seen"))?;
        let seen = Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?);
        // Nothing of the runtime may have taken the place of a missing standard fd.
        for fd in seen.get("/fds").as_array().into_iter().flatten() {
            let target = fd.get("target").and_then(Value::as_str).unwrap_or_default();
            let harmless = target.ends_with("/null") || target.contains("/io-");
            ensure!(harmless, "{closed}: the fds are {}", seen.get("/fds"));
        }
    }
    Ok(())
}

fn valid_odd_configs_run(case: &Case) -> Outcome {
    let tmpfs = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"});
    let many: Vec<String> = (0..1000).map(|number| format!("V{number}=x")).collect();
    let long = "x".repeat(100_000);
    let mut without_user = case.bundle()?.config.get("process").cloned().unwrap_or_default();
    without_user.as_object_mut().map(|process| process.remove("user"));
    let rows = [
        ("an older version", "/ociVersion", json!("1.0.0")),
        ("a version with a suffix", "/ociVersion", json!("1.0.2-dev")),
        ("unknown properties", "/com.example.unknown", json!({"a": [1, null, {"b": 2}]})),
        ("an unknown property of process", "/process/unknown", json!(1)),
        ("an unknown property of linux", "/linux/unknown", json!([])),
        ("no environment", "/process/env", json!([])),
        ("many variables", "/process/env", json!(many)),
        ("a long variable", "/process/env", json!([format!("LONG={long}")])),
        ("many arguments", "/process/args", json!(["/probe"].iter().copied().chain(["x"; 1000]).collect::<Vec<_>>())),
        ("an empty argument", "/process/args", json!(["/probe", ""])),
        ("terminal false", "/process/terminal", json!(false)),
        ("consoleSize without terminal", "/process/consoleSize", json!({"height": 1, "width": 1})),
        ("no user", "/process", without_user),
        ("a user name", "/process/user/username", json!("ignored")),
        ("no groups", "/process/user/additionalGids", json!([])),
        ("no limits", "/process/rlimits", json!([])),
        ("no capabilities", "/process/capabilities", json!({})),
        ("empty capability sets", "/process/capabilities", json!({"bounding": [], "ambient": []})),
        ("an unlimited limit", "/process/rlimits", json!([{"type": "RLIMIT_CPU", "soft": u64::MAX, "hard": u64::MAX}])),
        ("no hooks", "/hooks", json!({})),
        ("empty lists of hooks", "/hooks", json!({"prestart": [], "poststop": []})),
        ("no annotations", "/annotations", json!({})),
        ("an empty annotation", "/annotations", json!({"k": ""})),
        ("no resources", "/linux/resources", json!({})),
        ("empty resources", "/linux/resources", json!({"memory": {}, "cpu": {}, "pids": {"limit": -1}, "devices": []})),
        ("no masked paths", "/linux/maskedPaths", json!([])),
        ("no devices", "/linux/devices", json!([])),
        ("no sysctl", "/linux/sysctl", json!({})),
        ("an empty profile", "/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})),
        ("a profile without rules", "/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []})),
        ("a mount without options", "/mounts/-", tmpfs.clone()),
        ("a mount with no options", "/mounts/-", json!({"destination": "/mnt", "type": "tmpfs", "options": []})),
        (
            "a mount with defaults",
            "/mounts/-",
            json!({"destination": "/mnt", "type": "tmpfs", "options": ["defaults"]}),
        ),
        ("a bind without type", "/mounts/-", json!({"destination": "/mnt", "source": "/tmp", "options": ["bind"]})),
        ("a destination with dots", "/mounts/-", json!({"destination": "/a/./b/../c//", "type": "tmpfs"})),
        ("a root path with a slash", "/root/path", json!("rootfs/")),
        ("a root path with dots", "/root/path", json!("./rootfs/../rootfs/.")),
        ("a path with dots for cwd", "/process/cwd", json!("/etc/../tmp/.")),
        ("an empty cgroupsPath", "/linux/cgroupsPath", json!("")),
        ("an unknown propagation is absent", "/linux/rootfsPropagation", json!("")),
    ];
    each(rows, |(what, pointer, value)| {
        let bundle = case.bundle()?.with(pointer, value);
        bundle.see(case).map(drop).map_err(|stop| crate::bundle::within(stop, what))
    })?;
    let twice = case.bundle()?.with("/mounts/-", tmpfs.clone()).with("/mounts/-", tmpfs);
    twice.see(case).map(drop)
}

fn odd_white_space_and_escapes_are_json(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let text = bundle.text();
    let text = text.replace("\"/probe\"", "\"\\u002fpro\\u0062e\"").replace("\":", "\"\r\n\t : ");
    fs::write(bundle.dir.join("config.json"), format!("\n\n  {text}\n\n"))?;
    soon(case, &bundle)?.succeeds()?.seen()?.is("/args", &json!(["/probe"])).map_err(Into::into)
}

fn without_proc_a_container_runs(case: &Case) -> Outcome {
    let seen = case.bundle()?.with("/mounts", json!([])).see(case)?;
    seen.is("/mounts", &Value::Null)?;
    seen.is("/process/pid", &json!(1))?;
    // A mask below a /proc that is not there is no error either.
    let bundle = case.docker_like()?.without("/mounts/0");
    bundle.see(case)?.is("/mounts", &Value::Null).map_err(Into::into)
}

/// Ids that no command may accept.
fn bad_ids() -> Vec<String> {
    let fixed = [
        "",
        ".",
        "..",
        "/",
        "//",
        "../",
        "../..",
        "../canary",
        "canary/..",
        "./canary",
        "/canary",
        "a/b",
        "a/../b",
        " ",
        "a b",
        "a\tb",
        "a\nb",
        "-a b",
        ".hidden",
        "...",
        "a*",
        "~",
        "$(id)",
        "\u{e4}",
    ];
    fixed.iter().map(|id| (*id).to_owned()).chain([10_000, 256].map(|length| "x".repeat(length))).collect()
}

/// Runs in a box: a new mount namespace whose root is an overlay of the host's, so that a runtime that deletes what it
/// should not deletes a copy. (The directory of the tests may be a mount of its own.) crun 1.8.1 empties the host with
/// `delete --force /`, so that only corten is tried.
fn bad_ids_are_refused_by_every_command(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("only tried with corten: other runtimes have deleted the host's root file system");
    }
    let bundle = case.bundle()?;
    bundle.write()?;
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let path = |path: &Path| quote(&path.to_string_lossy());
    let tmp = path(&case.machine.tmp);
    let boxed = case.dir.join("box");
    fs::create_dir(&boxed)?;
    let parent = case.dir.join("parent");
    fs::create_dir_all(parent.join("state/canary"))?;
    fs::create_dir_all(parent.join("canary/sub"))?;
    for file in ["canary/sub/file", "canary/state.json", "file"] {
        fs::write(parent.join(file), "canary")?;
    }
    // The script that runs inside: each command on each id, a line of results for each, then the canaries.
    let mut script = format!("cd {}\n", path(&bundle.dir));
    let root = path(&parent.join("state"));
    for id in bad_ids() {
        for command in ["state", "kill", "delete", "delete --force", "start", "exec", "run", "create", "run -d"] {
            let tail = if command == "exec" { "true" } else { "" };
            script += &format!(
                "timeout {} /runtime --root {root} {command} -- {} {tail} >out 2>err </dev/null; echo \"$? $(wc -l <err) {command} {}\"\n",
                5 * case.machine.patience,
                quote(&id),
                quote(&id.chars().take(12).collect::<String>()).replace(['\n', '"', '$', '`', '\\'], "?"),
            );
        }
    }
    script += &format!(
        "echo canaries; cd {}; find . -type f -not -path './state/.*' | sort; ls /etc/passwd\n",
        path(&parent)
    );
    fs::write(case.dir.join("inner.sh"), script)?;
    let outer = format!(
        "set -e; b={}; mount -t tmpfs none $b; mkdir $b/upper $b/work $b/root; \
         mount -t overlay -o lowerdir=/,upperdir=$b/upper,workdir=$b/work none $b/root; cp {} $b/root/runtime; \
         if [ ! -e $b/root{tmp} ]; then mkdir -p $b/upper2 $b/work2 $b/root{tmp}; \
         mount -t overlay -o lowerdir={tmp},upperdir=$b/upper2,workdir=$b/work2 none $b/root{tmp}; fi; \
         mount -t proc -o ro proc $b/root/proc; mount --rbind /sys $b/root/sys; mount -t tmpfs none $b/root/dev; \
         mknod -m 666 $b/root/dev/null c 1 3; mount -t tmpfs none $b/root/run; \
         exec chroot $b/root sh {}",
        path(&boxed),
        path(&case.machine.runtime),
        path(&case.dir.join("inner.sh")),
    );
    let invocation = case.program(Path::new("/usr/bin/unshare"));
    let invocation = invocation.args(&["--mount", "--propagation", "private", "--pid", "--fork", "sh", "-c", &outer]);
    let output = invocation.timeout(Duration::from_secs(50)).go()?.succeeds()?;
    let (results, canaries) = output.stdout.split_once("canaries\n").ok_or_else(|| format!("cut short: {output}"))?;
    ensure!(
        canaries == "./canary/state.json\n./canary/sub/file\n./file\n/etc/passwd\n",
        "the canaries beside --root are {canaries:?}"
    );
    for line in results.lines() {
        let expected = if line.contains(" exec ") { "255 1 " } else { "1 1 " };
        ensure!(line.starts_with(expected), "status, lines of stderr, command, id: {line}");
    }
    ensure!(results.lines().count() >= 9 * 24, "only {} results", results.lines().count());
    Ok(())
}

fn an_id_of_255_bytes_is_refused_or_runs(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?;
    bundle.id = format!("{}-{}", bundle.id, "x".repeat(254 - bundle.id.len()));
    let output = bundle.run(case)?;
    if output.status == 0 { output.seen().map(drop) } else { output.fails(1, "").map(drop) }
}

/// Unmounts a test's own tmpfs.
struct Tmpfs<'p>(&'p Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn a_full_disk_under_the_state_is_an_error(case: &Case) -> Outcome {
    let full = case.dir.join("full");
    fs::create_dir(&full)?;
    let bundle = case.docker_like()?.probe(&["--quiet"]);
    bundle.write()?;
    let (mut ran, mut failed) = (0, 0);
    let sizes = (2..=12).map(|inodes| format!("nr_inodes={inodes}"));
    for limit in sizes.chain((1..=12).map(|blocks| format!("nr_blocks={blocks}"))) {
        mount(Some("tmpfs"), &full, Some("tmpfs"), MsFlags::empty(), Some(limit.as_str()))?;
        let _mounted = Tmpfs(&full);
        let root = full.join("root");
        let invocation = case.program(&case.machine.runtime).args(&["--root"]).args(&[&root]);
        let output = invocation.args(&bundle.run_arguments()).go()?;
        if output.status == 0 {
            ran += 1;
        } else {
            failed += 1;
            output.fails(1, "").map_err(|stop| crate::bundle::within(stop, &limit))?;
        }
        let left: Vec<_> = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        let left: Vec<_> = left.iter().filter(|name| !name.as_encoded_bytes().starts_with(b".")).collect();
        ensure!(left.is_empty(), "{limit}: {left:?} is left in --root");
        let groups = crate::leftovers::cgroup_directories_named(&bundle.id);
        ensure!(groups.is_empty(), "{limit}: {groups:?} are left");
    }
    ensure!(ran > 0 && failed > 0, "{ran} runs succeeded and {failed} failed: the sizes are chosen badly");
    Ok(())
}

/// What must be the same in every sandbox that was made of one bundle.
fn sandbox(seen: &Seen) -> Value {
    let mut facts = seen.0.clone();
    for changing in
        ["namespaces", "owners", "clocks", "cgroup", "fds", "process", "rlimits", "session_keyring", "processes", "env"]
    {
        crate::bundle::remove(&mut facts, &format!("/{changing}"));
    }
    for mount in facts.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        // Numbers, and paths that hold the id.
        for changing in ["id", "parent", "device", "root"] {
            crate::bundle::remove(mount, &format!("/{changing}"));
        }
    }
    for (_, node) in facts.get_mut("dev").and_then(Value::as_object_mut).into_iter().flatten() {
        ["dev", "ino", "size"].iter().for_each(|field| crate::bundle::remove(node, &format!("/{field}")));
    }
    facts
}

fn few_fds_are_an_error_or_the_same_sandbox(case: &Case) -> Outcome {
    // RLIMIT_NOFILE of the bundle is above what the caller has, and may not be raised.
    let clean = case.docker_like()?.without("/process/rlimits").see(case)?;
    let (mut ran, mut failed) = (0, 0);
    for limit in 3..=64 {
        let bundle = case.docker_like()?.without("/process/rlimits");
        bundle.write()?;
        let shell = format!("ulimit -n {limit}; exec \"$@\"");
        let invocation = case.program(Path::new("/bin/sh")).args(&["-c", &shell, "sh"]).args(&[&case.machine.runtime]);
        let output = invocation.args(&["--root"]).args(&[&case.root()]).args(&bundle.run_arguments()).go()?;
        let place = format!("with {limit} fds");
        if output.status == 0 {
            ran += 1;
            let (limited, full) = (sandbox(&output.seen()?), sandbox(&clean));
            for (name, fact) in full.as_object().into_iter().flatten() {
                let found = limited.get(name);
                ensure!(found == Some(fact), "{place} {name} is {found:?}, and not {fact}");
            }
        } else {
            failed += 1;
            let refused = output.is_one_line();
            refused.map_err(|stop: Stop| crate::bundle::within(stop, &place))?;
            ensure!(output.status == 1, "{place}: {output}");
        }
        let groups = crate::leftovers::cgroup_directories_named(&bundle.id);
        ensure!(groups.is_empty(), "{place} {groups:?} are left");
    }
    ensure!(ran > 0, "none of the runs succeeded, {failed} failed");
    Ok(())
}
