//! Flags that runc does not have: those of crun that callers use, with crun's meaning, and what else the log can do; and
//! the scripts for shells.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::harness::{Case, Outcome, skip};
use crate::runtime::{Container, Invocation, Output};
use crate::{ensure, tests};

tests![
    log_level_decides_what_is_logged,
    an_unknown_log_level_is_refused,
    a_log_may_be_called_file,
    the_journal_gets_priority_name_and_message,
    syslog_gets_a_line_with_priority_and_name,
    a_missing_journal_or_syslog_is_an_error,
    the_log_names_the_errno_in_json,
    cgroup_manager_is_cgroupfs,
    config_takes_another_file,
    config_is_relative_to_the_caller,
    a_missing_config_is_named,
    kill_regex_is_for_all_that_match,
    delete_regex_is_for_all_that_match,
    delete_regex_goes_on_after_a_failure,
    a_wrong_regex_is_refused,
    mounts_are_added_and_removed,
    mounts_are_added_as_a_whole_or_not,
    mounts_that_cannot_be_added_are_refused,
    a_link_leads_no_mount_astray,
    mounts_in_a_user_namespace_belong_to_its_root,
    completions_are_scripts_that_know_the_commands,
];

fn only_with_these_flags(case: &Case) -> Outcome {
    if case.machine.name == "runc" { skip("runc has no such flags") } else { Ok(()) }
}

/// A bundle whose container causes a warning: a capability that nobody knows.
fn with_a_warning(case: &Case) -> Outcome<Bundle> {
    let bundle = case.bundle()?.args(&["true"]).with("/process/capabilities", json!({"bounding": ["CAP_NOSUCH"]}));
    bundle.write()?;
    Ok(bundle)
}

fn log_level_decides_what_is_logged(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    if !case.machine.is_corten() {
        return skip("other warnings");
    }
    let bundle = with_a_warning(case)?;
    for (globals, warnings, debug) in [
        (&["--log-level", "error"][..], false, false),
        (&["--log-level", "warning"], true, false),
        (&["--log-level=debug"], true, true),
        (&["--log-level", "error", "--debug"], true, true),
        (&[], true, false),
    ] {
        let output = case.runtime_with(globals, &bundle.run_arguments()).go()?.succeeds()?;
        ensure!(output.stderr.contains("level=warning") == warnings, "{globals:?}: {output}");
        ensure!(output.stderr.contains("level=debug") == debug, "{globals:?}: {output}");
        let mut lines = output.stderr.lines().filter(|line| line.contains("level=debug"));
        let told = |line: &str| line.contains(" func=\"corten::") && line.contains("()\" file=\"src/");
        ensure!(lines.all(told), "a line does not say where: {output}");
    }
    let output = case.runtime_with(&["--log-level", "error"], &["state", "nosuch"]).go()?;
    output.fails(1, "level=error msg=\"container does not exist\"").map(drop)
}

fn an_unknown_log_level_is_refused(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    case.runtime_with(&["--log-level", "loud"], &["list"]).go()?.fails(1, "loud").map(drop)
}

fn a_log_may_be_called_file(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let path = case.dir.join("a:b.log");
    let output = case.runtime_with(&[&format!("--log=file:{}", path.display())], &["state", "nosuch"]).go()?;
    output.ends_with(1)?;
    ensure!(fs::read_to_string(&path)?.contains("nosuch") || fs::read_to_string(&path)?.contains("exist"), "no log");
    Ok(())
}

/// The runtime with `/run` and `/dev` of its own, in which there are the sockets of the journal and of syslog if they
/// are given. Nothing of that is seen outside.
fn with_daemons<'c>(case: &'c Case, journal: &str, syslog: &str) -> Invocation<'c> {
    let script = r#"
        set -e
        runtime=$1 dir=$2 journal=$3 syslog=$4; shift 4
        mount -t tmpfs none /run
        mount -t tmpfs none "$dir"
        touch "$dir/null" && mount --bind /dev/null "$dir/null"
        if [ "$syslog" ]; then touch "$dir/log"; mount --bind "$syslog" "$dir/log"; fi
        mount --rbind "$dir" /dev
        if [ "$journal" ]; then
            mkdir -p /run/systemd/journal; touch /run/systemd/journal/socket
            mount --bind "$journal" /run/systemd/journal/socket
        fi
        exec $as "$runtime" "$@""#;
    let dir = case.dir.join("dev");
    let _ = fs::create_dir(&dir);
    // What is below /run, as the state of an ordinary user is, is covered.
    let root = case.dir.join("root");
    let _ = fs::create_dir(&root);
    let invocation = case.boxed(&[], script).args(&[&case.machine.runtime]);
    invocation.args(&[&dir]).args(&[journal, syslog, "--root"]).args(&[root])
}

/// The one datagram that came.
fn received(socket: &UnixDatagram) -> Outcome<String> {
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn the_journal_gets_priority_name_and_message(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let path = case.dir.join("journal");
    let socket = UnixDatagram::bind(&path)?;
    let output =
        with_daemons(case, &path.to_string_lossy(), "").args(&["--log=journald:abc", "state", "nosuch"]).go()?;
    output.ends_with(1)?;
    let entry = received(&socket)?;
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    ensure!(field("PRIORITY") == Some("3"), "{entry}");
    ensure!(field("MESSAGE").is_some_and(|message| message.contains("does not exist")), "{entry}");
    let name = if case.machine.is_corten() { "abc" } else { "crun" };
    ensure!(field("SYSLOG_IDENTIFIER") == Some(name), "{entry}");
    Ok(())
}

fn syslog_gets_a_line_with_priority_and_name(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let path = case.dir.join("log-socket");
    let socket = UnixDatagram::bind(&path)?;
    let words = ["--log=syslog:abc", "state", "nosuch"];
    let output = with_daemons(case, "", &path.to_string_lossy()).args(&words).go()?.ends_with(1)?;
    let line = received(&socket)?;
    // Facility user, severity error.
    ensure!(line.starts_with("<11>") && line.contains(" abc") && line.contains("does not exist"), "{line}: {output}");
    Ok(())
}

fn a_missing_journal_or_syslog_is_an_error(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    if !case.machine.is_corten() {
        return skip("crun says nothing");
    }
    for (log, path) in [("journald:x", "/run/systemd/journal/socket"), ("syslog:x", "/dev/log")] {
        let output = with_daemons(case, "", "").args(&["--log", log, "list"]).go()?;
        output.fails(1, &format!("connect {path}: no such file or directory"))?;
    }
    Ok(())
}

fn the_log_names_the_errno_in_json(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("others have no such key");
    }
    let log = case.dir.join("log").to_string_lossy().into_owned();
    let globals = ["--log", &log, "--log-format", "json"];
    case.runtime_with(&globals, &["create", "--bundle", "/nosuch", &case.id()]).go()?.ends_with(1)?;
    case.runtime_with(&globals, &["state", "nosuch"]).go()?.ends_with(1)?;
    let text = fs::read_to_string(&log)?;
    let entries: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(entries.len() == 2, "{text}");
    ensure!(entries[0].get("errno") == Some(&json!("ENOENT")) && entries[1].get("errno").is_none(), "{text}");
    let sorted = entries.iter().all(|entry| entry.as_object().is_some_and(|entry| entry.keys().is_sorted()));
    ensure!(sorted, "the keys are not in order: {text}");
    Ok(())
}

fn cgroup_manager_is_cgroupfs(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let bundle = case.bundle()?.args(&["true"]);
    bundle.write()?;
    case.runtime_with(&["--cgroup-manager", "cgroupfs"], &bundle.run_arguments()).go()?.succeeds()?;
    case.runtime_with(&["--cgroup-manager", "nosuch"], &bundle.run_arguments()).go()?.fails(1, "").map(drop)
}

fn config_takes_another_file(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let bundle = case.bundle()?.args(&["sh", "-c", "exit 3"]);
    let file = case.dir.join("other.json");
    fs::write(&file, bundle.text())?;
    let dir = bundle.dir.to_string_lossy().into_owned();
    let file = file.to_string_lossy().into_owned();
    case.run(&["run", "--config", &file, "--bundle", &dir, &bundle.id])?.ends_with(3)?;
    case.run(&["create", "-f", &file, "-b", &dir, &bundle.id])?.succeeds()?;
    // The root file system is still the bundle's.
    let state = case.state(&bundle.id)?;
    ensure!(state.get("bundle") == Some(&json!(dir)), "{state}");
    case.delete_force(&bundle.id)
}

fn config_is_relative_to_the_caller(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let bundle = case.bundle()?.args(&["sh", "-c", "exit 3"]);
    fs::write(case.dir.join("other.json"), bundle.text())?;
    let words = ["run", "-f", "other.json", "-b", &bundle.dir.to_string_lossy(), &bundle.id];
    case.runtime(&words).cwd(&case.dir).go()?.ends_with(3)?;
    case.runtime(&words).cwd(&bundle.dir).go()?.fails(1, "other.json").map(drop)
}

fn a_missing_config_is_named(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let bundle = case.bundle()?;
    bundle.write()?;
    let words = ["create", "-f", "/nosuch/other.json", "-b", &bundle.dir.to_string_lossy(), &bundle.id];
    case.run(&words)?.fails(1, "other.json").map(drop)
}

/// Three running containers, whose ids end in one-a, one-b and two.
fn three(case: &Case) -> Outcome<[String; 3]> {
    let bundle = case.bundle()?.args(&["sleep", "1000"]);
    bundle.write()?;
    let ids = ["one-a", "one-b", "two"].map(|end| format!("{}-{end}", case.tag));
    for id in &ids {
        case.run(&["run", "--detach", "--bundle", &bundle.dir.to_string_lossy(), id])?.succeeds()?;
    }
    Ok(ids)
}

/// The status of a container soon after a signal, `none` without the container.
fn status(case: &Case, id: &str) -> Outcome<String> {
    let state = |output: Output| serde_json::from_str::<Value>(&output.stdout).unwrap_or_default();
    for _ in 0..100 {
        let state = state(case.run(&["state", id])?);
        match state.get("status").and_then(Value::as_str) {
            Some("running") => std::thread::sleep(std::time::Duration::from_millis(10)),
            Some(status) => return Ok(status.to_owned()),
            None => return Ok("none".to_owned()),
        }
    }
    Ok("running".to_owned())
}

fn kill_regex_is_for_all_that_match(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let [one_a, one_b, two] = three(case)?;
    // Not anchored: the ids begin with something else.
    case.run(&["kill", "--regex", "one-(a|b)$", "KILL"])?.succeeds()?;
    let statuses = [status(case, &one_a)?, status(case, &one_b)?, status(case, &two)?];
    ensure!(statuses == ["stopped", "stopped", "running"], "{statuses:?}");
    case.run(&["kill", "-r", "^one", "KILL"])?.succeeds()?;
    case.run(&["kill", "-r", "[[:digit:]]-two", "KILL"])?.succeeds()?;
    ensure!(status(case, &two)? == "stopped", "a class of POSIX does not match");
    case.run(&["delete", "-r", "."])?.succeeds().map(drop)
}

fn delete_regex_is_for_all_that_match(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let [one_a, one_b, two] = three(case)?;
    case.run(&["delete", "--force", "--regex", "one"])?.succeeds()?;
    let statuses = [status(case, &one_a)?, status(case, &one_b)?, status(case, &two)?];
    ensure!(statuses == ["none", "none", "running"], "{statuses:?}");
    case.run(&["delete", "-r", "nothing matches"])?.succeeds()?;
    case.run(&["delete", "-f", "-r", "tw{1}o"])?.succeeds()?;
    ensure!(status(case, &two)? == "none", "two is still there");
    Ok(())
}

fn delete_regex_goes_on_after_a_failure(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let [one_a, one_b, two] = three(case)?;
    case.run(&["kill", &one_b, "KILL"])?.succeeds()?;
    ensure!(status(case, &one_b)? == "stopped", "it lives");
    let output = case.run(&["delete", "-r", "one"])?;
    ensure!(output.stderr.contains(&one_a), "the running one is not named: {output}");
    ensure!(status(case, &one_b)? == "none", "the stopped one is still there");
    if case.machine.is_corten() {
        ensure!(output.status == 1 && output.stderr.contains("1 of 2"), "{output}");
    }
    for id in [one_a, two] {
        case.delete_force(&id)?;
    }
    Ok(())
}

fn a_wrong_regex_is_refused(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let container = case.create(&case.bundle()?)?;
    for words in [&["kill", "-r", "(", "KILL"][..], &["delete", "-r", "("]] {
        case.run(words)?.fails(1, "regular expression")?;
    }
    case.delete_force(&container.id)
}

/// Writes a list of mounts for `mounts add|remove`; the path of the file.
fn list_of_mounts(case: &Case, mounts: &Value) -> Outcome<String> {
    let file = case.dir.join(format!("mounts-{}.json", case.next()));
    fs::write(&file, mounts.to_string())?;
    Ok(file.to_string_lossy().into_owned())
}

/// What is mounted at a place of the container: its line in /proc/mounts, or nothing.
fn mounted(container: &Container<'_>, place: &str) -> Outcome<String> {
    let mounts = container.exec(&["cat", "/proc/mounts"])?.succeeds()?.stdout;
    let found = mounts.lines().find(|line| line.split(' ').nth(1) == Some(place));
    Ok(found.unwrap_or_default().to_owned())
}

fn sleeping<'c>(case: &'c Case<'c>) -> Outcome<Container<'c>> {
    case.run_detached(&case.bundle()?.args(&["sleep", "1000"]))
}

fn mounts_are_added_and_removed(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let container = sleeping(case)?;
    let source = case.dir.join("added");
    fs::create_dir(&source)?;
    fs::write(source.join("file"), "of the host")?;
    let list = list_of_mounts(
        case,
        &json!([
            {"destination": "/mnt", "type": "bind", "source": source, "options": ["rbind", "ro"]},
            {"destination": "/new/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec"]},
        ]),
    )?;
    case.run(&["mounts", "add", &container.id, &list])?.succeeds()?;
    let output = container.exec(&["cat", "/mnt/file"])?.succeeds()?;
    ensure!(output.stdout == "of the host", "{output}");
    container.exec(&["touch", "/mnt/x"])?.fails(1, "Read-only").map(drop)?;
    let scratch = mounted(&container, "/new/scratch")?;
    ensure!(scratch.contains(" tmpfs ") && scratch.contains("noexec") && scratch.contains("size=64k"), "{scratch}");
    let seen_outside = fs::read_to_string("/proc/self/mountinfo")?.contains("/new/scratch");
    ensure!(!seen_outside, "it is on the host");
    case.run(&["mounts", "remove", &container.id, &list])?.succeeds()?;
    for place in ["/mnt", "/new/scratch"] {
        ensure!(mounted(&container, place)?.is_empty(), "{place} is still mounted");
    }
    // Once more, for a container whose processes stand still.
    case.run(&["pause", &container.id])?.succeeds()?;
    case.run(&["mounts", "add", &container.id, &list])?.succeeds()?;
    case.run(&["resume", &container.id])?.succeeds()?;
    ensure!(!mounted(&container, "/mnt")?.is_empty(), "it was not added to the paused container");
    container.end()
}

fn mounts_are_added_as_a_whole_or_not(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("crun leaves what came before");
    }
    let container = sleeping(case)?;
    let tmpfs = |place: &str| json!({"destination": place, "type": "tmpfs", "source": "tmpfs"});
    let bind = json!({"destination": "/mnt/file", "type": "bind", "source": "/proc/version"});
    let list = list_of_mounts(case, &json!([tmpfs("/mnt"), bind, tmpfs("/etc/passwd/below")]))?;
    case.run(&["mounts", "add", &container.id, &list])?.fails(1, "not a directory")?.is_one_line()?;
    ensure!(mounted(&container, "/mnt")?.is_empty(), "the first is still there");
    container.end()
}

fn mounts_that_cannot_be_added_are_refused(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("other words");
    }
    let container = sleeping(case)?;
    let before = container.exec(&["cat", "/proc/mounts"])?.succeeds()?.stdout;
    let cannot = "it cannot be added to a container that lives";
    for (mounts, why) in [
        (json!([{"destination": "/mnt", "type": "proc", "source": "proc"}]), cannot),
        (json!([{"destination": "/mnt", "type": "sysfs", "source": "sysfs"}]), cannot),
        (json!([{"destination": "/mnt", "type": "cgroup", "source": "cgroup"}]), cannot),
        (json!([{"destination": "/mnt", "type": "overlay", "source": "/x", "options": ["lowerdir=/a:/b"]}]), cannot),
        (json!([{"destination": "/", "type": "tmpfs", "source": "tmpfs"}]), cannot),
        (json!([{"destination": "/proc/kcore", "source": "/etc/passwd", "options": ["bind"]}]), "/proc"),
        (json!([{"destination": "/proc", "source": "/proc", "options": ["rbind"]}]), cannot),
        (json!([{"destination": "/tmp", "options": ["remount", "suid"]}]), cannot),
        (json!([{"destination": "/mnt", "type": "bind", "source": "/nosuch"}]), "no such file or directory"),
        (json!([{"destination": "/mnt", "type": "bind"}]), "/0/source: a bind mount needs a source"),
        (json!([{"type": "tmpfs"}]), "missing field `destination`"),
        (json!({"mounts": []}), "expected a sequence"),
    ] {
        let list = list_of_mounts(case, &mounts)?;
        case.run(&["mounts", "add", &container.id, &list])?.fails(1, why)?.is_one_line()?;
    }
    let list = list_of_mounts(case, &json!([{"destination": "/etc", "type": "tmpfs", "source": "tmpfs"}]))?;
    case.run(&["mounts", "remove", &container.id, &list])?.fails(1, "nothing is mounted there")?.is_one_line()?;
    case.run(&["mounts", "change", &container.id, &list])?.fails(1, "unknown command change")?.is_one_line()?;
    case.run(&["mounts", "add", "nosuch", &list])?.fails(1, "container does not exist")?.is_one_line()?;
    case.run(&["mounts", "add", &container.id, "/nosuch"])?.fails(1, "open /nosuch")?.is_one_line()?;
    case.run(&["mounts", "add", &container.id])?.fails(1, "requires exactly 3 argument(s)")?;
    ensure!(container.exec(&["cat", "/proc/mounts"])?.succeeds()?.stdout == before, "something has changed");
    container.kill("KILL")?;
    container.wait()?;
    case.run(&["mounts", "add", &container.id, &list])?.fails(1, "container not running")?.is_one_line()?;
    container.delete()
}

fn a_link_leads_no_mount_astray(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("crun follows links");
    }
    let bundle =
        case.bundle()?.args(&["sleep", "1000"]).with("/linux/maskedPaths", json!(["/proc/version", "/secret"]));
    fs::create_dir(bundle.rootfs().join("secret"))?;
    symlink("/secret", bundle.rootfs().join("decoy"))?;
    symlink("/proc", bundle.rootfs().join("kernel"))?;
    let container = case.run_detached(&bundle)?;
    for (place, why) in [
        ("/decoy", "name the place without symlinks"),
        ("/kernel/version", "name the place without symlinks"),
        ("/proc/version", "nothing may be removed on or below /proc and /sys"),
        ("/proc", "nothing may be removed on or below /proc and /sys"),
    ] {
        let list = list_of_mounts(case, &json!([{"destination": place, "type": "tmpfs", "source": "tmpfs"}]))?;
        case.run(&["mounts", "remove", &container.id, &list])?.fails(1, why)?.is_one_line()?;
    }
    for place in ["/kernel/version", "/kernel/sys"] {
        let list = list_of_mounts(case, &json!([{"destination": place, "source": "/etc", "options": ["bind"]}]))?;
        case.run(&["mounts", "add", &container.id, &list])?.fails(1, "")?.is_one_line()?;
    }
    for place in ["/secret", "/proc/version"] {
        ensure!(!mounted(&container, place)?.is_empty(), "the mask of {place} is gone");
    }
    container.end()
}

fn mounts_in_a_user_namespace_belong_to_its_root(case: &Case) -> Outcome {
    only_with_these_flags(case)?;
    let container = case.run_detached(&case.bundle()?.args(&["sleep", "1000"]).in_user_namespace()?)?;
    let list = list_of_mounts(
        case,
        &json!([
            {"destination": "/new/scratch", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/version", "type": "bind", "source": "/proc/version", "options": ["bind", "ro"]},
        ]),
    )?;
    case.run(&["mounts", "add", &container.id, &list])?.succeeds()?;
    let output = container.exec(&["stat", "-c", "%u:%g", "/new", "/new/scratch"])?.succeeds()?;
    ensure!(output.stdout == "0:0\n0:0\n", "{output}");
    container.exec(&["touch", "/new/scratch/x"])?.succeeds()?;
    container.exec(&["cat", "/version"])?.succeeds()?;
    case.run(&["mounts", "remove", &container.id, &list])?.succeeds()?;
    ensure!(mounted(&container, "/new/scratch")?.is_empty(), "it is still mounted");
    container.end()
}

fn completions_are_scripts_that_know_the_commands(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("others have none");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = case.run(&["completion", shell])?.succeeds()?;
        for word in ["create", "exec", "delete", "no-new-keyring", "log-format"] {
            ensure!(output.stdout.contains(word), "{shell}: no {word}");
        }
        if shell == "bash" {
            let script = case.dir.join("completion.bash");
            fs::write(&script, &output.stdout)?;
            let test =
                ". \"$1\"; COMP_WORDS=(corten sta); COMP_CWORD=1; _corten corten sta corten; echo ${COMPREPLY[@]}";
            let output =
                case.program(Path::new("/bin/bash")).args(&["-c", test, "bash"]).args(&[&script]).go()?.succeeds()?;
            ensure!(output.stdout == "start state\n", "{output}");
        }
    }
    case.run(&["completion", "tcsh"])?.fails(1, "bash, zsh or fish").map(drop)
}
