//! What the engines read: each string that one of them matches on is provoked here, by a call as that engine makes it.
//!
//! The strings are those in the sources of containerd with go-runc, Docker, Podman with conmon, CRI-O, conmon-rs, BuildKit
//! and Buildah. How they are matched, in lower case or not, in the log or on stderr, is done here as it is done there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bundle::{Bundle, set};
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Container, Output};
use crate::{ensure, tests};

tests![
    containerd_reads_the_last_error_of_the_log,
    containerd_finds_that_a_stopped_container_is_not_running,
    containerd_finds_that_a_missing_container_does_not_exist,
    containerd_creates_starts_execs_and_deletes_with_its_flags,
    containerd_sends_flags_with_one_dash,
    containerd_reads_the_list_as_json,
    containerd_reads_recursive_read_only_and_user_namespaces_from_features,
    docker_reads_name_version_and_commit,
    docker_tells_126_from_127_by_the_message,
    podman_reads_the_whole_log_as_one_object,
    podman_tells_permission_from_not_found_by_the_message,
    podman_asks_the_help_of_checkpoint,
    podman_probes_restore_for_a_flag_that_needs_an_argument,
    podman_finds_attr_exec_in_a_refused_label,
    conmon_judges_exec_by_the_pid_file,
    conmon_rs_creates_and_execs_with_equals_signs,
    cri_o_wants_nothing_on_stderr_of_features,
    cri_o_parses_the_time_of_creation,
    cri_o_finds_its_words_in_the_right_case,
    cri_o_kills_by_name_and_execs_in_the_foreground,
    buildkit_shares_one_log_and_gets_the_status_of_the_program,
    buildah_polls_the_state_and_knows_four_statuses,
    messages_are_runcs_to_the_letter,
    a_frozen_cgroup_is_told_in_runcs_words,
    an_init_killed_for_lack_of_memory_is_told_in_runcs_words,
    resume_of_what_is_not_paused_is_told_in_runcs_words,
];

/// The global flags of an engine that keeps a log, and that log.
struct Logged<'c> {
    case: &'c Case<'c>,
    path: PathBuf,
}

impl<'c> Logged<'c> {
    fn new(case: &'c Case<'c>) -> Logged<'c> {
        Logged { case, path: case.dir.join(format!("log-{}.json", case.next())) }
    }

    fn run(&self, words: &[&str]) -> Outcome<Output> {
        let globals = ["--log", &self.path.to_string_lossy(), "--log-format", "json"];
        self.case.runtime_with(&globals, words).go()
    }

    fn text(&self) -> Outcome<String> {
        Ok(fs::read_to_string(&self.path)?)
    }

    /// go-runc: the message of the last object with the level `error`; each has a time that Go can parse.
    fn last_error(&self) -> Outcome<String> {
        let mut message = String::new();
        for entry in serde_json::Deserializer::from_str(&self.text()?).into_iter::<Value>() {
            let entry = entry.map_err(|error| format!("the log is no sequence of JSON objects: {error}"))?;
            ensure!(is_rfc3339(text_of(&entry, "time")), "{entry}");
            if text_of(&entry, "level") == "error" {
                message = text_of(&entry, "msg").trim().to_owned();
            }
        }
        ensure!(!message.is_empty(), "no error in {:?}", self.text()?);
        Ok(message)
    }
}

fn text_of<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// As Go's time.RFC3339 and, with a fraction, time.RFC3339Nano take it; in UTC.
fn is_rfc3339(text: &str) -> bool {
    let digits: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let (time, fraction) = digits.trim_end_matches('Z').split_once('.').unwrap_or((digits.trim_end_matches('Z'), "0"));
    time == "0000-00-00T00:00:00" && fraction.chars().all(|c| c == '0') && text.ends_with('Z')
}

/// Whether the runtime has a command, or a flag of a command, yet.
fn has(case: &Case, command: &str, flag: &str) -> Outcome<bool> {
    let output = case.program(&case.machine.runtime).args(&[command, "--help"]).go()?;
    Ok(output.status == 0 && output.stdout.split([' ', '\n', ',', '=']).any(|word| flag.is_empty() || word == flag))
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_string_lossy().into_owned()
}

fn stopped<'c>(case: &'c Case) -> Outcome<Container<'c>> {
    let container = case.run_detached(&case.bundle()?.args(&["true"]))?;
    container.wait()?;
    Ok(container)
}

fn running<'c>(case: &'c Case) -> Outcome<Container<'c>> {
    case.run_detached(&case.bundle()?.args(&["sleep", "1000"]))
}

fn containerd_reads_the_last_error_of_the_log(case: &Case) -> Outcome {
    let bundle = case.bundle()?.args(&["nosuchbin"]);
    bundle.write()?;
    let log = Logged::new(case);
    let pid_file = path(&bundle.dir, "init.pid");
    let dir = bundle.dir.to_string_lossy().into_owned();
    log.run(&["create", "--bundle", &dir, "--pid-file", &pid_file, &bundle.id])?.ends_with(1)?;
    let expected = format!("{} create failed: unable to start container process: ", case.machine.name);
    let message = log.last_error()?;
    ensure!(message.starts_with(&expected), "{message}");
    // The next invocation appends to the same file.
    log.run(&["start", &bundle.id])?.ends_with(1)?;
    ensure!(log.last_error()? == "container does not exist", "{}", log.text()?);
    log.run(&["state"])?.ends_with(1)?;
    ensure!(log.last_error()?.ends_with("requires exactly 1 argument(s)"), "{}", log.text()?);
    Ok(())
}

fn containerd_finds_that_a_stopped_container_is_not_running(case: &Case) -> Outcome {
    let container = stopped(case)?;
    let log = Logged::new(case);
    log.run(&["kill", &container.id, "9"])?.ends_with(1)?;
    let message = log.last_error()?.to_lowercase();
    let gone = ["os: process already finished", "container not running", "no such process"];
    ensure!(gone.iter().any(|text| message.contains(text)), "{message}");
    ensure!(!message.contains("does not exist"), "{message}");
    log.run(&["kill", "--all", &container.id, "9"])?.succeeds()?;
    container.delete()
}

fn containerd_finds_that_a_missing_container_does_not_exist(case: &Case) -> Outcome {
    let id = case.id();
    for words in [&["state", &id][..], &["start", &id], &["kill", &id, "9"], &["delete", &id]] {
        let log = Logged::new(case);
        log.run(words)?.ends_with(1)?;
        ensure!(log.last_error()?.to_lowercase().contains("does not exist"), "{words:?}: {}", log.text()?);
    }
    let log = Logged::new(case);
    log.run(&["delete", "--force", &id])?.succeeds()?;
    ensure!(log.text()?.is_empty(), "{}", log.text()?);
    Ok(())
}

fn containerd_creates_starts_execs_and_deletes_with_its_flags(case: &Case) -> Outcome {
    let bundle = case.bundle()?.args(&["sleep", "1000"]);
    bundle.write()?;
    let (dir, id) = (bundle.dir.to_string_lossy().into_owned(), bundle.id.as_str());
    let log = Logged::new(case);
    let (init, exec) = (path(&bundle.dir, "init.pid"), path(&bundle.dir, "e1.pid"));
    log.run(&["create", "--bundle", &dir, "--pid-file", &init, "--no-new-keyring", id])?.succeeds()?;
    log.run(&["start", id])?.succeeds()?;
    let process = path(&bundle.dir, "process.json");
    let json = json!({"args": ["sleep", "500"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    fs::write(&process, json.to_string())?;
    log.run(&["exec", "--process", &process, "--detach", "--pid-file", &exec, id])?.succeeds()?;
    for file in [&init, &exec] {
        let pid = fs::read_to_string(file)?;
        ensure!(Path::new("/proc").join(&pid).exists(), "{file} holds {pid:?}");
    }
    log.run(&["kill", "--all", id, "9"])?.succeeds()?;
    log.run(&["delete", "--force", id])?.succeeds()?;
    ensure!(log.text()?.is_empty(), "{}", log.text()?);
    Ok(())
}

fn containerd_sends_flags_with_one_dash(case: &Case) -> Outcome {
    let bundle = case.bundle()?.args(&["true"]);
    bundle.write()?;
    case.run(&["run", "-no-subreaper", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?.succeeds()?;
    if has(case, "restore", "--no-subreaper")? {
        let output = case.run(&["restore", "-no-subreaper", "--bundle", "/nosuch", &bundle.id])?.ends_with(1)?;
        ensure!(!output.stderr.contains("flag provided but not defined"), "{output}");
    }
    Ok(())
}

fn containerd_reads_the_list_as_json(case: &Case) -> Outcome {
    let container = running(case)?;
    let output = case.run(&["list", "--format=json"])?.succeeds()?;
    let list: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output}"))?;
    let one = list.get(0).cloned().unwrap_or_default();
    ensure!(text_of(&one, "id") == container.id && text_of(&one, "status") == "running", "{one}");
    ensure!(one.get("pid") == Some(&json!(container.pid)) && is_rfc3339(text_of(&one, "created")), "{one}");
    container.end()
}

fn containerd_reads_recursive_read_only_and_user_namespaces_from_features(case: &Case) -> Outcome {
    let output = case.run(&["features"])?.succeeds()?;
    let features: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output}"))?;
    let lists = |pointer: &str, word: &str| {
        features.pointer(pointer).and_then(Value::as_array).is_some_and(|list| list.contains(&json!(word)))
    };
    ensure!(lists("/mountOptions", "rro"), "no rro");
    // A kubelet offers user namespaces only if both are there.
    let idmap = features.pointer("/linux/mountExtensions/idmap/enabled");
    match (lists("/linux/namespaces", "user"), idmap) {
        (true, Some(Value::Bool(true))) => Ok(()),
        (false, _) => skip("this version has no user namespaces"),
        (true, idmap) => Err(format!("user namespaces, and idmap is {idmap:?}").into()),
    }
}

fn docker_reads_name_version_and_commit(case: &Case) -> Outcome {
    let output = case.program(&case.machine.runtime).args(&["--version"]).go()?.succeeds()?;
    let first = output.stdout.lines().next().unwrap_or_default();
    let version = first.strip_prefix(&format!("{} version ", case.machine.name));
    ensure!(version.is_some_and(|version| !version.is_empty() && !version.contains(' ')), "{output}");
    let commit = output.stdout.lines().find_map(|line| line.strip_prefix("commit: "));
    ensure!(commit.is_some_and(|commit| !commit.is_empty()), "{output}");
    Ok(())
}

/// Programs that cannot be executed, by what is wrong with them.
fn unusable(case: &Case) -> Outcome<Vec<(&'static str, Bundle)>> {
    let script = case.bundle()?.args(&["/script"]);
    fs::write(script.rootfs().join("script"), "#!/nosuch/interpreter\n")?;
    fs::set_permissions(script.rootfs().join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // The kernel's answer to a filter that does not let execve through.
    let mut refused = case.bundle()?.args(&["/bin/true"]);
    let rule = json!({"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
    set(&mut refused.config, "/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    Ok(vec![
        ("a file without x bit", case.bundle()?.args(&["/etc/passwd"])),
        ("a directory", case.bundle()?.args(&["/etc"])),
        ("a name that is not in PATH", case.bundle()?.args(&["nosuchbin"])),
        ("a path that does not exist", case.bundle()?.args(&["/nosuch"])),
        ("a path below a file", case.bundle()?.args(&["/etc/passwd/x"])),
        ("a script without its interpreter", script),
        ("execve forbidden by seccomp", refused),
    ])
}

fn docker_tells_126_from_127_by_the_message(case: &Case) -> Outcome {
    let contains = |message: &str, texts: &[&str]| texts.iter().any(|text| message.contains(text));
    let status = |message: &str| match message.to_lowercase() {
        message if contains(&message, &["executable file not found", "no such file or directory"]) => 127,
        message if contains(&message, &["not a directory", "failed to run runc create/exec call"]) => 127,
        message if contains(&message, &["permission denied", "is a directory"]) => 126,
        _ => 128,
    };
    let expected = [126, 126, 127, 127, 127, 127, 128];
    let container = running(case)?;
    for ((what, bundle), expected) in unusable(case)?.into_iter().zip(expected) {
        bundle.write()?;
        let log = Logged::new(case);
        log.run(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?.ends_with(1)?;
        let message = log.last_error()?;
        ensure!(status(&message) == expected, "{what}: {} by {message:?}, not {expected}", status(&message));
        // exec in a container without that file or that filter says the same of the same program.
        let program = bundle.config.pointer("/process/args/0").and_then(Value::as_str).unwrap_or_default();
        if expected != 128 && program != "/script" {
            let log = Logged::new(case);
            log.run(&["exec", &container.id, program])?.ends_with(255)?;
            ensure!(status(&log.last_error()?) == expected, "exec of {what}: {}", log.text()?);
        }
    }
    container.end()
}

fn podman_reads_the_whole_log_as_one_object(case: &Case) -> Outcome {
    for (what, bundle) in unusable(case)? {
        bundle.write()?;
        let log = Logged::new(case);
        let pid_file = path(&bundle.dir, "pid");
        let dir = bundle.dir.to_string_lossy().into_owned();
        log.run(&["create", "--bundle", &dir, "--pid-file", &pid_file, "--preserve-fds", "0", &bundle.id])?;
        let started = log.run(&["start", &bundle.id])?;
        ensure!(started.status == 1, "{what}: {started}");
        case.delete_force(&bundle.id)?;
    }
    // conmon gives each invocation a log of its own, and what is in it has to be one object.
    for words in [&["create", "--bundle", "/nosuch", "--pid-file", "/nosuch/pid", "nosuch"][..], &["start", "nosuch"]] {
        let log = Logged::new(case);
        log.run(words)?.ends_with(1)?;
        let entry: Value = serde_json::from_str(&log.text()?).map_err(|error| format!("{error}: {:?}", log.text()))?;
        ensure!(text_of(&entry, "level") == "error" && !text_of(&entry, "msg").is_empty(), "{entry}");
        ensure!(is_rfc3339(text_of(&entry, "time")), "{entry}");
    }
    Ok(())
}

fn podman_tells_permission_from_not_found_by_the_message(case: &Case) -> Outcome {
    let contains = |message: &str, texts: &[&str]| texts.iter().any(|text| message.contains(text));
    let kind = |message: &str| match message.to_lowercase() {
        message if contains(&message, &["permission denied", "operation not permitted"]) => "permission",
        message if contains(&message, &["executable file not found in", "no such file or directory"]) => "not found",
        message if contains(&message, &["open executable"]) => "not found",
        _ => "another",
    };
    let expected = ["permission", "", "not found", "not found", "", "not found", "permission"];
    for ((what, bundle), expected) in unusable(case)?.into_iter().zip(expected).filter(|(_, kind)| !kind.is_empty()) {
        bundle.write()?;
        let log = Logged::new(case);
        log.run(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])?.ends_with(1)?;
        ensure!(kind(&log.last_error()?) == expected, "{what} is {expected}: {}", log.text()?);
    }
    Ok(())
}

fn podman_asks_the_help_of_checkpoint(case: &Case) -> Outcome {
    if !has(case, "checkpoint", "")? {
        return skip("this version has no checkpoint");
    }
    case.program(&case.machine.runtime).args(&["checkpoint", "--help"]).go()?.succeeds().map(drop)
}

fn podman_probes_restore_for_a_flag_that_needs_an_argument(case: &Case) -> Outcome {
    if !has(case, "restore", "--lsm-mount-context")? {
        return skip("this version has no restore --lsm-mount-context");
    }
    let output = case.program(&case.machine.runtime).args(&["restore", "--lsm-mount-context"]).go()?.ends_with(1)?;
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure!(text.contains("flag needs an argument") || text.contains("requires an argument"), "{output}");
    Ok(())
}

fn podman_finds_attr_exec_in_a_refused_label(case: &Case) -> Outcome {
    if !has(case, "exec", "--apparmor")? {
        return skip("this version has no AppArmor");
    }
    if Path::new("/sys/module/apparmor").exists() {
        return skip("this kernel has AppArmor, and would look for the profile elsewhere");
    }
    let container = running(case)?;
    let output = case.run(&["exec", "--apparmor", "nosuch", &container.id, "true"])?.ends_with(255)?;
    ensure!(output.stderr.contains("apparmor") || output.stderr.contains("/attr/"), "{output}");
    container.end()
}

fn conmon_judges_exec_by_the_pid_file(case: &Case) -> Outcome {
    let container = running(case)?;
    let process = path(&case.dir, "process.json");
    for (args, works) in [(json!(["sleep", "500"]), true), (json!(["/nosuch"]), false), (json!(["nosuch"]), false)] {
        let json = json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        fs::write(&process, json.to_string())?;
        let pid_file = path(&case.dir, &format!("exec-{}.pid", case.next()));
        let log = Logged::new(case);
        let output = log.run(&["exec", "--pid-file", &pid_file, "--process", &process, "--detach", &container.id])?;
        ensure!((output.status == 0) == works, "{args}: {output}");
        ensure!(Path::new(&pid_file).exists() == works, "{args}: the pid file, with status {}", output.status);
    }
    container.end()
}

fn conmon_rs_creates_and_execs_with_equals_signs(case: &Case) -> Outcome {
    let bundle = case.bundle()?.args(&["sleep", "1000"]);
    bundle.write()?;
    let (dir, id) = (bundle.dir.to_string_lossy().into_owned(), bundle.id.as_str());
    let root = format!("--root={}", case.root().display());
    let run = |words: &[&str]| case.program(&case.machine.runtime).args(&[&root]).args(words).go();
    let pid_file = format!("--pid-file={}", path(&bundle.dir, "pid"));
    run(&["create", "--bundle", &dir, &pid_file, id])?.succeeds()?;
    run(&["start", id])?.succeeds()?;
    let exec = path(&bundle.dir, "exec.pid");
    run(&["exec", "-d", &format!("--pid-file={exec}"), id, "sleep", "500"])?.succeeds()?;
    ensure!(Path::new(&exec).exists(), "no pid file of exec");
    case.delete_force(id)
}

fn cri_o_wants_nothing_on_stderr_of_features(case: &Case) -> Outcome {
    let output = case.run(&["features"])?.succeeds()?;
    ensure!(output.stderr.is_empty(), "{output}");
    let features: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output}"))?;
    for key in ["ociVersionMin", "ociVersionMax"] {
        ensure!(text_of(&features, key).starts_with("1."), "{key}: {features}");
    }
    Ok(())
}

fn cri_o_parses_the_time_of_creation(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?)?;
    let state = case.state(&container.id)?;
    ensure!(is_rfc3339(text_of(&state, "created")), "{state}");
    case.delete_force(&container.id)
}

fn cri_o_finds_its_words_in_the_right_case(case: &Case) -> Outcome {
    let container = stopped(case)?;
    for words in [&["kill", &container.id, "SIGTERM"][..], &["kill", &container.id, "SIGKILL"]] {
        let output = case.run(words)?.ends_with(1)?;
        let words = ["no such process", "container not running", "invalid process"];
        ensure!(words.iter().any(|text| output.stderr.contains(text)), "{output}");
    }
    container.delete()
}

fn cri_o_kills_by_name_and_execs_in_the_foreground(case: &Case) -> Outcome {
    let container = running(case)?;
    let process = path(&case.dir, "process.json");
    let json = json!({"args": ["sh", "-c", "echo out; echo err >&2; exit 3"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}});
    fs::write(&process, json.to_string())?;
    let output = case.run(&["exec", "--process", &process, &container.id])?.ends_with(3)?;
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output}");
    case.run(&["kill", &container.id, "SIGKILL"])?.succeeds()?;
    ensure!(container.wait()? == 137, "it lives");
    case.delete_force(&container.id)
}

fn buildkit_shares_one_log_and_gets_the_status_of_the_program(case: &Case) -> Outcome {
    let bundle = case.bundle()?.args(&["sh", "-c", "exit 7"]);
    bundle.write()?;
    let log = Logged::new(case);
    let dir = bundle.dir.to_string_lossy().into_owned();
    log.run(&["run", "--bundle", &dir, "--keep", &bundle.id])?.ends_with(7)?;
    log.run(&["delete", &bundle.id])?.succeeds()?;
    ensure!(log.text()?.is_empty(), "{}", log.text()?);
    let killed = case.bundle()?.with("/linux/namespaces", json!([{"type": "mount"}])).with("/mounts", json!([]));
    let killed = killed.args(&["sh", "-c", "kill -TERM $$"]);
    killed.write()?;
    log.run(&["run", "--bundle", &killed.dir.to_string_lossy(), &killed.id])?.ends_with(143)?;
    let missing = case.bundle()?.args(&["nosuchbin"]);
    missing.write()?;
    log.run(&["run", "--bundle", &missing.dir.to_string_lossy(), &missing.id])?.ends_with(1)?;
    log.run(&["state", &missing.id])?.ends_with(1)?;
    let errors = log.text()?.lines().filter(|line| line.contains("\"level\":\"error\"")).count();
    ensure!(errors == 2, "{}", log.text()?);
    Ok(())
}

fn buildah_polls_the_state_and_knows_four_statuses(case: &Case) -> Outcome {
    let container = case.create(&case.bundle()?.args(&["sleep", "1000"]))?;
    let mut seen = vec![case.status(&container.id)?];
    container.start()?;
    seen.push(case.status(&container.id)?);
    container.kill("9")?;
    container.wait()?;
    seen.push(case.status(&container.id)?);
    ensure!(seen == ["created", "running", "stopped"], "{seen:?}");
    container.delete()
}

fn messages_are_runcs_to_the_letter(case: &Case) -> Outcome {
    let (bundle, container, stopped) = (case.bundle()?, running(case)?, stopped(case)?);
    bundle.write()?;
    let (dir, name) = (bundle.dir.to_string_lossy().into_owned(), &case.machine.name);
    let not_found = "exec: \"nosuch\": executable file not found in $PATH";
    for (words, status, message) in [
        (&["state", "nosuch"][..], 1, "container does not exist".to_owned()),
        (&["exec", "nosuch", "true"], 255, "exec failed: container does not exist".to_owned()),
        (
            &["create", "--bundle", &dir, &container.id],
            1,
            format!("{name} create failed: container with given ID already exists"),
        ),
        (&["kill", &stopped.id, "9"], 1, "container not running".to_owned()),
        (&["create", "--bundle", &dir, "a/b"], 1, format!("{name} create failed: invalid container ID format")),
        (&["state", "a/b"], 1, "invalid container ID format".to_owned()),
        (&["start", &container.id], 1, "cannot start an already running container".to_owned()),
        (&["exec", &stopped.id, "true"], 255, "exec failed: cannot exec in a stopped container".to_owned()),
        (
            &["exec", &container.id, "nosuch"],
            255,
            format!("exec failed: unable to start container process: {not_found}"),
        ),
    ] {
        let log = Logged::new(case);
        let output = log.run(words)?.ends_with(status)?;
        ensure!(log.last_error()? == message, "{words:?}: {}", log.text()?);
        ensure!(output.stderr == format!("{message}\n"), "{output}");
    }
    container.end()?;
    stopped.delete()
}

fn a_frozen_cgroup_is_told_in_runcs_words(case: &Case) -> Outcome {
    let (base, file, text) = match case.machine.cgroup2 {
        true => ("/sys/fs/cgroup", "cgroup.freeze", "1"),
        false => ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN"),
    };
    let cgroup = Path::new(base).join(&case.tag);
    fs::create_dir(&cgroup)?;
    fs::write(cgroup.join(file), text)?;
    let bundle = case.bundle()?.with("/linux/cgroupsPath", json!(format!("/{}", case.tag)));
    let output = bundle.run(case);
    fs::remove_dir(&cgroup)?;
    output?.fails(1, "container's cgroup unexpectedly frozen").map(drop)
}

fn an_init_killed_for_lack_of_memory_is_told_in_runcs_words(case: &Case) -> Outcome {
    if !case.has_controller("memory") {
        return skip("there is no memory controller in this view");
    }
    let bundle = case.bundle()?.with("/linux/resources/memory", json!({"limit": 4096}));
    bundle.run(case)?.fails(1, "container init was OOM-killed (memory limit too low?)").map(drop)
}

fn resume_of_what_is_not_paused_is_told_in_runcs_words(case: &Case) -> Outcome {
    if !has(case, "resume", "")? {
        return skip("this version has no resume");
    }
    let container = running(case)?;
    case.run(&["resume", &container.id])?.fails(1, "container not paused")?;
    container.end()
}
