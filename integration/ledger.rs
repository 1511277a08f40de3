//! The ledger: each line of the specification that says MUST or SHOULD has tests that show it, or a reason from a closed list why it
//! binds no runtime on Linux. Here are the checks of the ledger, its page in docs/, and tests of lines that belong to no
//! one topic.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bundle::{MAPPED_ROOT, set, within};
use crate::harness::{Case, Outcome, differences_of, skip};
use crate::leftovers::cgroup_directories_named;
use crate::mounts::tmpfs;
use crate::properties::{PEERS, all_tests, is_up_to_date, lines, short};
use crate::{ensure, hooks, tests};

tests![
    every_line_has_tests_that_exist_or_a_reason,
    what_other_runtimes_break_is_a_known_difference,
    the_page_of_the_ledger_is_up_to_date,
    the_state_fits_the_schema,
    operations_without_an_id_are_errors,
    a_refused_create_makes_no_container,
    required_properties_are_required,
    at_least_one_of_two_is_required,
    an_empty_annotation_key_is_refused,
    unknown_annotations_are_ignored_and_told,
    poststop_hooks_follow_a_failing_hook_of_start,
    hooks_of_every_kind_are_checked,
    hook_paths_resolve_where_the_spec_says,
    a_user_namespace_leaves_the_owners_of_the_rootfs,
    without_a_list_of_files_to_delegate_it_is_that_of_the_specification,
    a_cgroup_without_a_namespace_of_its_own_is_not_given_away,
    features_do_not_depend_on_the_machine,
];

const LEDGER: &str = include_str!("ledger.tsv");
const ELSEWHERE: &str = include_str!("elsewhere.tsv");

/// Why a line has no test. Nothing else is a reason.
const REASONS: [(&str, &str); 4] = [
    ("not-observable", "it says how something should come about, which leaves no trace"),
    ("other-platform", "it is about another platform than Linux"),
    ("binds-the-caller", "it binds whoever writes the configuration, and a runtime need not check it"),
    ("not-offered", "it is about something optional that corten does not offer"),
];

/// One line of the ledger.
struct Line {
    place: &'static str,
    level: &'static str,
    text: &'static str,
    /// The tests that show it, or one reason.
    shown: Vec<&'static str>,
    /// Who breaks it, and the test that tells: `runc`, `runc-1.1`, `crun`.
    broken: Vec<(&'static str, &'static str)>,
}

impl Line {
    fn reason(&self) -> Option<&'static str> {
        REASONS.iter().map(|(name, _)| *name).find(|name| self.shown == [*name])
    }

    fn is_must(&self) -> bool {
        self.level.split('|').any(|level| level == "MUST" || level == "MUST NOT")
    }

    /// The test by which a runtime of a version is known to break it.
    fn broken_by(&self, name: &str, version: &str) -> Option<&'static str> {
        let full = format!("{name}-{version}");
        let mut found =
            self.broken.iter().filter(|(who, _)| *who == name || full.starts_with(who) && who.contains('-'));
        found.next().map(|(_, test)| *test)
    }
}

fn ledger() -> Vec<Line> {
    let words = |text: &'static str| text.split(' ').filter(|word| !word.is_empty());
    let line = |columns: Vec<&'static str>| {
        let column = |index: usize| columns.get(index).copied().unwrap_or_default();
        let broken = words(column(4)).map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
        let (place, level, text) = (column(0), column(1), column(2));
        Line { place, level, text, shown: words(column(3)).collect(), broken }
    };
    lines(LEDGER).map(line).collect()
}

/// docs/ledger.md
pub fn page() -> String {
    let ledger = ledger();
    let musts: Vec<&Line> = ledger.iter().filter(|line| line.is_must()).collect();
    let tested = |line: &&&Line| line.reason().is_none();
    let mut page = format!(
        "# The ledger of the specification\n\n\
         The runtime specification 1.3.0 has {} lines that say MUST, SHOULD, REQUIRED or RECOMMENDED in the files that concern Linux.\n\
         `integration/ledger.tsv` has each of them with the tests that show it with corten, or with one of {} reasons.\n\n\
         | | lines | with tests |\n|---|---|---|\n\
         | all | {} | {} |\n| MUST, MUST NOT | {} | {} |\n",
        ledger.len(),
        REASONS.len(),
        ledger.len(),
        ledger.iter().collect::<Vec<_>>().iter().filter(tested).count(),
        musts.len(),
        musts.iter().filter(tested).count(),
    );
    page += "\n| reason for no test | meaning | lines | of these MUST |\n|---|---|---|---|\n";
    for (reason, meaning) in REASONS {
        let with = |all: &mut dyn Iterator<Item = &Line>| all.filter(|line| line.reason() == Some(reason)).count();
        let (all, must) = (with(&mut ledger.iter()), with(&mut musts.iter().copied()));
        page += &format!("| {reason} | {meaning} | {all} | {must} |\n");
    }
    page += "\n## MUST lines that other runtimes break\n\n\
             How many MUST lines a runtime breaks in our tests, as `integration/known-differences.tsv` has it. A difference of wording or\n\
             form breaks none, nor does what a version cannot know yet. Each run of the suite on that runtime checks the list, either way:\n\
             `CORTEN_UNDER_TEST=.peers/bin/crun cargo test --test integration [-- --view v2]`. This page is printed by\n\
             `cargo test --test integration -- --ledger`.\n\n\
             | runtime | MUST lines broken |\n|---|---|\n| corten | 0 |\n";
    for (name, version) in PEERS {
        let count = musts.iter().filter(|line| line.broken_by(name, version).is_some()).count();
        page += &format!("| {name} {} | {count} |\n", short(version));
    }
    for (name, version) in PEERS {
        page += &format!("\n### {name} {}\n\n| line | text | test | difference |\n|---|---|---|---|\n", short(version));
        for line in &musts {
            let Some(test) = line.broken_by(name, version) else { continue };
            let why: Vec<&str> = differences_of(name, version, test).map(|(_, why)| why).take(1).collect();
            let text = line.text.trim_start_matches(['*', ' ']).replace('|', "\\|").replace("](", "] (");
            page += &format!("| {} | {text} | `{test}` | {} |\n", line.place, why.join("; "));
        }
    }
    page
}

/// Called with what has become of every test of a full run: a test of the ledger must not be skipped unless `elsewhere.tsv`
/// says where it runs instead.
pub fn skipped_without_leave(skipped: &BTreeSet<&str>) -> Vec<&'static str> {
    let shown = ledger().into_iter().filter(|line| line.reason().is_none()).flat_map(|line| line.shown);
    let named: BTreeSet<&str> = shown.collect();
    let has_leave = |test: &str| lines(ELSEWHERE).any(|columns| columns[0] == test);
    named.into_iter().filter(|test| skipped.contains(test) && !has_leave(test)).collect()
}

fn every_line_has_tests_that_exist_or_a_reason(_: &Case) -> Outcome {
    let (all, ledger) = (all_tests(), ledger());
    ensure!(ledger.len() == 355, "the ledger has {} lines", ledger.len());
    for line in &ledger {
        let place = line.place;
        ensure!(!line.shown.is_empty(), "{place} has neither a test nor a reason");
        if let Some(reason) = line.reason() {
            ensure!(
                reason != "not-observable" || !line.is_must(),
                "{place} says MUST, and has only the reason {reason}"
            );
            ensure!(line.broken.is_empty(), "{place}: who breaks it, without a test?");
            continue;
        }
        let missing: Vec<_> = line.shown.iter().filter(|test| !all.contains(**test)).collect();
        ensure!(missing.is_empty(), "{place}: there are no tests {missing:?}");
    }
    for columns in lines(ELSEWHERE) {
        ensure!(columns.len() == 3 && all.contains(columns[0]), "elsewhere.tsv: {columns:?}");
    }
    Ok(())
}

fn what_other_runtimes_break_is_a_known_difference(_: &Case) -> Outcome {
    for line in ledger() {
        for (who, test) in &line.broken {
            let place = line.place;
            ensure!(line.shown.contains(test), "{place}: {test} is not among its tests");
            let peer = PEERS.iter().find(|(name, version)| who == name || format!("{name}-{version}").starts_with(who));
            let Some((name, version)) = peer else { return Err(format!("{place}: who is {who}?").into()) };
            let known = differences_of(name, version, test).next();
            ensure!(known.is_some(), "{place}: {who} is not known to fail {test}");
        }
    }
    Ok(())
}

fn the_page_of_the_ledger_is_up_to_date(_: &Case) -> Outcome {
    is_up_to_date("docs/ledger.md", &page(), "--ledger")
}

fn the_state_fits_the_schema(case: &Case) -> Outcome {
    // schema/state-schema.json
    let fits = |state: &Value, status: &str| -> Outcome {
        for key in ["ociVersion", "id", "status", "bundle"] {
            ensure!(state[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is no text: {state}");
        }
        ensure!(state["status"] == status, "not {status}: {state}");
        ensure!(state["pid"].is_u64(), "pid is no number: {state}");
        let annotations = state["annotations"].as_object();
        ensure!(annotations.is_some_and(|all| all.values().all(Value::is_string)), "annotations: {state}");
        Ok(())
    };
    let container = case.create(&case.bundle()?.with("/annotations", json!({"k": "v"})).probe(&["--hold"]))?;
    fits(&case.state(&container.id)?, "created")?;
    container.start()?;
    fits(&case.state(&container.id)?, "running")?;
    container.kill("KILL")?;
    container.wait()?;
    fits(&case.state(&container.id)?, "stopped")?;
    container.delete()
}

fn operations_without_an_id_are_errors(case: &Case) -> Outcome {
    for operation in ["state", "create", "start", "kill", "delete"] {
        let output = case.run(&[operation])?;
        ensure!(output.status != 0, "{operation}: {output}");
    }
    Ok(())
}

fn a_refused_create_makes_no_container(case: &Case) -> Outcome {
    let refused = [
        ("/process/cwd", json!("relative")),
        ("/mounts/-", json!({"destination": "/mnt", "type": "nosuchfs", "source": "none"})),
        ("/process/args", json!(["/no/such/program"])),
        ("/linux/sysctl", json!({"vm.swappiness": "1"})),
    ];
    for (pointer, value) in refused {
        let bundle = case.docker_like()?.with(pointer, value);
        bundle.write()?;
        let output = case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
        ensure!(output.status != 0, "{pointer}: {output}");
        let state = case.run(&["state", &bundle.id])?;
        ensure!(state.status != 0, "{pointer}: there is a container: {state}");
        let groups = cgroup_directories_named(&bundle.id);
        ensure!(groups.is_empty(), "{pointer}: there are cgroups {groups:?}");
    }
    Ok(())
}

/// An object without one of its fields.
fn without(mut object: Value, field: &str) -> Value {
    crate::bundle::remove(&mut object, &format!("/{field}"));
    object
}

fn required_properties_are_required(case: &Case) -> Outcome {
    let mut rows: Vec<(String, Value)> = Vec::new();
    let mut row = |pointer: &str, whole: Value, wrap: &dyn Fn(Value) -> Value, fields: &[&str]| {
        fields.iter().for_each(|field| rows.push((pointer.to_owned(), wrap(without(whole.clone(), field)))));
    };
    let list = |value: Value| json!([value]);
    let itself = |value: Value| value;
    // Numbers and truth values that have a natural zero are not among these: without them it is that, as everywhere.
    row("/process/rlimits", json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0}), &list, &["type"]);
    row("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 1}), &itself, &["class"]);
    let device = json!({"type": "c", "path": "/dev/mine", "major": 1, "minor": 3});
    row("/linux/devices", device, &list, &["type", "path"]);
    let blocks = "/linux/resources/blockIO/";
    row(&format!("{blocks}weightDevice"), json!({"major": 8, "minor": 0, "weight": 10}), &list, &["major", "minor"]);
    for name in ["throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice"]
    {
        let device = json!({"major": 8, "minor": 0, "rate": 10});
        row(&format!("{blocks}{name}"), device, &list, &["major", "minor", "rate"]);
    }
    row("/linux/resources/hugepageLimits", json!({"pageSize": "2MB", "limit": 0}), &list, &["pageSize"]);
    row("/linux/resources/network/priorities", json!({"name": "lo", "priority": 1}), &list, &["name", "priority"]);
    let rule = |value: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [value]});
    let call = json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO"});
    row("/linux/seccomp", call.clone(), &rule, &["names", "action"]);
    let condition = |value: Value| rule(json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO", "args": [value]}));
    row("/linux/seccomp", json!({"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}), &condition, &["index", "value", "op"]);
    row("/linux/seccomp", rule(call), &itself, &["defaultAction"]);
    row("/linux/personality", json!({"domain": "LINUX"}), &itself, &["domain"]);
    row("/mounts/-", tmpfs("/mnt"), &itself, &["destination"]);
    row("/root", json!({"path": "rootfs"}), &itself, &["path"]);
    row("/hooks/createRuntime", json!({"path": "/bin/true"}), &list, &["path"]);
    let mut failures = Vec::new();
    for (pointer, value) in rows {
        let output = case.bundle()?.with(&pointer, value.clone()).run(case)?;
        if output.status == 0 {
            failures.push(format!("{pointer} = {value}"));
        }
    }
    // Without a user the process is root's: the specification does not call it required.
    for pointer in ["/ociVersion", "/process/cwd", "/process/args"] {
        if case.bundle()?.without(pointer).run(case)?.status == 0 {
            failures.push(format!("without {pointer}"));
        }
    }
    for field in ["hostID", "size"] {
        let mut bundle = case.bundle()?.in_user_namespace()?;
        crate::bundle::remove(&mut bundle.config, &format!("/linux/uidMappings/0/{field}"));
        if bundle.run(case)?.status == 0 {
            failures.push(format!("a mapping without {field}"));
        }
    }
    ensure!(failures.is_empty(), "accepted: {}", failures.join(", "));
    Ok(())
}

fn at_least_one_of_two_is_required(case: &Case) -> Outcome {
    for (pointer, value) in [
        ("/linux/resources/blockIO/weightDevice", json!([{"major": 8, "minor": 0}])),
        ("/linux/resources/rdma", json!({"mlx5_1": {}})),
    ] {
        let output = case.bundle()?.with(pointer, value).run(case)?;
        ensure!(output.status != 0, "{pointer}: {output}");
    }
    Ok(())
}

fn an_empty_annotation_key_is_refused(case: &Case) -> Outcome {
    case.bundle()?.with("/annotations", json!({"": "x"})).run(case)?.fails(1, "").map(drop)
}

fn unknown_annotations_are_ignored_and_told(case: &Case) -> Outcome {
    let annotations = json!({"org.opencontainers.unknown": "x", "com.example.key": "y", "no-domain": ""});
    let container = case.create(&case.bundle()?.with("/annotations", annotations.clone()))?;
    let state = case.state(&container.id)?;
    ensure!(state["annotations"] == annotations, "{state}");
    case.delete_force(&container.id)
}

/// A hook that runs a script by the shell.
fn script(text: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >/dev/null; {text}")], "env": ["PATH=/usr/bin:/bin"]}])
}

fn poststop_hooks_follow_a_failing_hook_of_start(case: &Case) -> Outcome {
    for kind in ["startContainer", "poststart"] {
        let ran = case.dir.join(format!("{kind}-over"));
        let hooks = json!({kind: script("exit 3"), "poststop": script(&format!("echo >{}", ran.display()))});
        let bundle = case.docker_like()?.with("/hooks", hooks).probe(&["--quiet", "--hold"]);
        let output = bundle.run(case)?;
        ensure!(output.status != 0, "{kind}: {output}");
        ensure!(ran.exists(), "{kind}: poststop did not run after run");
        fs::remove_file(&ran)?;
        let container = case.create(&bundle.again(case))?;
        let output = case.run(&["start", &container.id])?;
        ensure!(output.status != 0, "{kind}: {output}");
        container.wait()?;
        // Whoever has created it deletes it, unless the runtime has.
        case.delete_force(&container.id)?;
        ensure!(ran.exists(), "{kind}: poststop did not run after start");
    }
    Ok(())
}

fn hooks_of_every_kind_are_checked(case: &Case) -> Outcome {
    for kind in hooks::KINDS {
        for hook in [json!([{"path": "bin/true"}]), json!([{"path": "/bin/true", "timeout": 0}])] {
            let bundle = case.bundle()?.with(&format!("/hooks/{kind}"), hook.clone());
            let output = bundle.run(case)?;
            ensure!(output.status != 0, "{kind} = {hook}: {output}");
        }
    }
    Ok(())
}

fn hook_paths_resolve_where_the_spec_says(case: &Case) -> Outcome {
    // One path, under which host and container have different programs.
    let program = case.dir.join("program");
    let write = |path: &Path, script: &str| -> Outcome {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, script)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    };
    let mut bundle = case.bundle()?.args(&["/bin/sleep", "1000"]);
    let inside = bundle.rootfs().join(program.strip_prefix("/").unwrap_or(&program));
    write(&program, &format!("#!/bin/sh\ncat >/dev/null\necho host >>{}/$1\n", bundle.rootfs().display()))?;
    write(&inside, "#!/bin/sh\ncat >/dev/null\necho container >>/$1\n")?;
    for kind in hooks::KINDS {
        let hook = json!([{"path": program, "args": ["program", kind], "env": ["PATH=/usr/bin:/bin"]}]);
        set(&mut bundle.config, &format!("/hooks/{kind}"), hook);
    }
    case.run_detached(&bundle)?.end()?;
    for kind in hooks::KINDS {
        let expected = if kind == "startContainer" { "container\n" } else { "host\n" };
        let text = fs::read_to_string(bundle.rootfs().join(kind)).unwrap_or_default();
        ensure!(text == expected, "the program of {kind} was that of {text:?}");
    }
    Ok(())
}

fn a_user_namespace_leaves_the_owners_of_the_rootfs(case: &Case) -> Outcome {
    let bundle = case.bundle()?.in_user_namespace()?;
    let file = bundle.rootfs().join("etc/passwd");
    std::os::unix::fs::chown(&file, Some(12345), Some(54321))?;
    bundle.see(case)?;
    for (path, uid, gid) in [(file, 12345, 54321), (bundle.rootfs(), MAPPED_ROOT, MAPPED_ROOT)] {
        let found = fs::metadata(&path)?;
        ensure!((found.uid(), found.gid()) == (uid, gid), "{} belongs to {}", path.display(), found.uid());
    }
    Ok(())
}

fn without_a_list_of_files_to_delegate_it_is_that_of_the_specification(case: &Case) -> Outcome {
    if !case.machine.cgroup2 {
        return skip("a cgroup of v1 is not delegated");
    }
    let mounts = [("/proc", "proc", "proc"), ("/sys/fs/cgroup", "cgroup", "cgroup")];
    let mounts = mounts.map(|(at, kind, source)| json!({"destination": at, "type": kind, "source": source}));
    let mut bundle = case.bundle()?.in_user_namespace()?.with("/mounts", json!(mounts)).probe(&["--quiet", "--hold"]);
    for kind in ["network", "cgroup"] {
        set(&mut bundle.config, "/linux/namespaces/-", json!({"type": kind}));
    }
    let path = format!("/corten-test/{}-owned", case.tag);
    let bundle = bundle.with("/linux/cgroupsPath", json!(path));
    bundle.write()?;
    let script = "mount -t tmpfs none /sys/kernel/cgroup && exec $as \"$@\"";
    let words = ["create".as_ref(), "--bundle".as_ref(), bundle.dir.as_os_str(), bundle.id.as_ref()];
    case.scripted(&[], script, &words).go()?.succeeds()?;
    let group = cgroup_of(case, &case.state(&bundle.id)?["pid"])?;
    let owner = |name: &str| fs::metadata(group.join(name)).map(|found| found.uid());
    let named = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].map(owner);
    let others = ["cgroup.freeze", "cgroup.max.depth", "cgroup.kill"].map(owner);
    case.delete_force(&bundle.id)?;
    for owner in named {
        ensure!(owner? == MAPPED_ROOT, "a file of the list belongs to another");
    }
    for owner in others {
        ensure!(owner? == 0, "another file was given away");
    }
    Ok(())
}

/// Where a process is below the one cgroup2, or in the hierarchy of pids.
fn cgroup_of(case: &Case, pid: &Value) -> Outcome<PathBuf> {
    let (mount, name) = match case.machine.cgroup2 {
        true => ("/sys/fs/cgroup", ""),
        false => ("/sys/fs/cgroup/pids", "pids"),
    };
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(":/"));
    let (_, path) = lines.find(|(controllers, _)| *controllers == name).ok_or("it is in no such cgroup")?;
    Ok(Path::new(mount).join(path))
}

fn a_cgroup_without_a_namespace_of_its_own_is_not_given_away(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-kept", case.tag);
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
    let bundle = case.bundle()?.in_user_namespace()?.with("/mounts/-", mount).with("/linux/cgroupsPath", json!(path));
    let container = case.create(&bundle)?;
    let owner = fs::metadata(cgroup_of(case, &json!(container.pid))?)?.uid();
    case.delete_force(&container.id)?;
    ensure!(owner == 0, "it belongs to {owner}");
    Ok(())
}

fn features_do_not_depend_on_the_machine(case: &Case) -> Outcome {
    let here = case.run(&["features"])?.succeeds()?.stdout;
    let script = "mount -t tmpfs none /sys && mount -t tmpfs none /proc && exec $as \"$@\"";
    let there = case.scripted(&[], script, &["features"]).go();
    let there = there.map_err(|stop| within(stop, "without /proc and /sys"))?.succeeds()?.stdout;
    ensure!(here == there, "it was {here} and is {there}");
    Ok(())
}
