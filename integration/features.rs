//! `features` tells the truth: what it claims is tested, and what is tested is claimed. Where a claim is a list, the tests
//! here go through the list itself, or compare it with what the tests of that list go through.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::bundle::{set, within};
use crate::harness::{Case, Outcome, skip};
use crate::properties::all_tests;
use crate::{ensure, hooks, mount_options, seccomp, tests, time_namespace};

tests![
    the_oldest_and_the_newest_version_run,
    what_is_claimed_has_a_test_and_the_reverse,
    only_properties_of_the_specification_are_told,
    the_claimed_hooks_are_those_that_are_tested,
    the_claimed_mount_options_are_those_that_are_tested,
    every_claimed_mount_option_is_no_data_of_a_file_system,
    the_claimed_namespaces_are_those_that_are_tested,
    every_claimed_capability_is_given,
    every_claimed_action_acts,
    the_claimed_operators_are_those_that_are_tested,
    every_claimed_architecture_is_accepted,
    every_claimed_flag_is_accepted,
    every_claimed_memory_policy_is_set,
    the_versions_are_those_of_the_program,
];

fn features(case: &Case) -> Outcome<Value> {
    let output = case.run(&["features"])?.succeeds()?;
    Ok(serde_json::from_str(&output.stdout).map_err(|error| format!("{error}: {output}"))?)
}

/// The list of texts at a JSON pointer.
fn list(features: &Value, pointer: &str) -> Vec<String> {
    let list = features.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// What is claimed and what is tested have to be the same.
fn same<'t>(claimed: &[String], tested: impl IntoIterator<Item = &'t str>) -> Outcome {
    let claimed: BTreeSet<&str> = claimed.iter().map(String::as_str).collect();
    let tested: BTreeSet<&str> = tested.into_iter().collect();
    let untested: Vec<_> = claimed.difference(&tested).collect();
    let unclaimed: Vec<_> = tested.difference(&claimed).collect();
    ensure!(untested.is_empty() && unclaimed.is_empty(), "not tested: {untested:?}, not claimed: {unclaimed:?}");
    Ok(())
}

fn the_oldest_and_the_newest_version_run(case: &Case) -> Outcome {
    let features = features(case)?;
    let version = |pointer: &str| features.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (oldest, newest) = (version("/ociVersionMin"), version("/ociVersionMax"));
    for version in [&oldest, &newest] {
        case.bundle()?.with("/ociVersion", json!(version)).see(case).map_err(|stop| within(stop, version))?;
    }
    let number = |version: &str| -> Vec<u32> { version.split(['.', '-']).map_while(|n| n.parse().ok()).collect() };
    ensure!(number(&oldest) <= number(&newest), "{oldest} is newer than {newest}");
    if !case.machine.is_corten() {
        return Ok(());
    }
    ensure!(oldest == "1.0.0" && newest == "1.3.0", "the versions are {oldest} to {newest}");
    // And what is not claimed is refused.
    for version in ["0.9.9", "1.4.0", "2.0.0"] {
        case.bundle()?.with("/ociVersion", json!(version)).run(case)?.fails(1, "ociVersion")?;
    }
    Ok(())
}

/// Claims that are true or false, with a test of each that is true.
const CLAIMS: [(&str, &str); 14] = [
    ("/linux/cgroup/v1", "cgroups::every_hierarchy_has_the_process"),
    ("/linux/cgroup/v2", "cgroups::every_hierarchy_has_the_process"),
    ("/linux/cgroup/systemd", "systemd::a_scope_is_where_the_path_says"),
    ("/linux/cgroup/systemdUser", "systemd::exec_from_another_cgroup_is_attached_by_systemd"),
    ("/linux/cgroup/rdma", "cgroups::rdma_limits_are_written"),
    ("/linux/seccomp/enabled", "seccomp::errno_is_returned"),
    ("/linux/apparmor/enabled", "lsm::the_apparmor_profile_confines_init"),
    ("/linux/selinux/enabled", "lsm::the_selinux_label_is_that_of_init_and_its_keyring"),
    ("/linux/intelRdt/enabled", "rdt::without_clos_id_a_group_is_made_and_removed"),
    ("/linux/intelRdt/schemata", "rdt::schemata_are_written_last"),
    ("/linux/intelRdt/monitoring", "rdt::monitoring_makes_a_group_for_the_container"),
    ("/linux/mountExtensions/idmap/enabled", "idmaps::mappings_of_a_bind_translate_both_ways"),
    ("/linux/netDevices/enabled", "netdev::a_device_is_moved_with_its_permanent_global_addresses"),
    // Not a bool, but a claim as well: annotations that change what a container may do.
    ("/potentiallyUnsafeConfigAnnotations", "hooks::output_goes_where_the_annotations_say"),
];

/// The pointers of all that is true or false in some JSON.
fn booleans(value: &Value, pointer: &str, found: &mut Vec<(String, bool)>) {
    match value {
        Value::Bool(value) => found.push((pointer.to_owned(), *value)),
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| booleans(value, &format!("{pointer}/{key}"), found));
        }
        _ => {}
    }
}

fn what_is_claimed_has_a_test_and_the_reverse(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("the tests are those of corten's claims");
    }
    let (features, all, mut found) = (features(case)?, all_tests(), Vec::new());
    booleans(&features, "", &mut found);
    for (pointer, value) in &found {
        let claim = CLAIMS.iter().find(|(claim, _)| claim == pointer);
        ensure!(claim.is_some() == *value, "{pointer} is {value}, and its test is {claim:?}");
    }
    for (pointer, test) in CLAIMS {
        ensure!(features.pointer(pointer).is_some(), "{pointer} is tested and not claimed");
        ensure!(all.contains(test), "{pointer}: there is no test {test}");
    }
    let annotations = ["org.criu.config", "org.systemd.property.", "run.oci.hooks.", "run.oci.keep_original_groups"];
    same(&list(&features, "/potentiallyUnsafeConfigAnnotations"), annotations)
}

/// features.md and features-linux.md: the properties that there are, those of objects of their own with a slash.
const PROPERTIES: [&str; 38] = [
    "/ociVersionMin",
    "/ociVersionMax",
    "/hooks",
    "/mountOptions",
    "/annotations",
    "/potentiallyUnsafeConfigAnnotations",
    "/linux",
    "/linux/namespaces",
    "/linux/capabilities",
    "/linux/cgroup",
    "/linux/cgroup/v1",
    "/linux/cgroup/v2",
    "/linux/cgroup/systemd",
    "/linux/cgroup/systemdUser",
    "/linux/cgroup/rdma",
    "/linux/seccomp",
    "/linux/seccomp/enabled",
    "/linux/seccomp/actions",
    "/linux/seccomp/operators",
    "/linux/seccomp/archs",
    "/linux/seccomp/knownFlags",
    "/linux/seccomp/supportedFlags",
    "/linux/apparmor",
    "/linux/apparmor/enabled",
    "/linux/selinux",
    "/linux/selinux/enabled",
    "/linux/intelRdt",
    "/linux/intelRdt/enabled",
    "/linux/intelRdt/schemata",
    "/linux/intelRdt/monitoring",
    "/linux/memoryPolicy",
    "/linux/memoryPolicy/modes",
    "/linux/memoryPolicy/flags",
    "/linux/mountExtensions",
    "/linux/mountExtensions/idmap",
    "/linux/mountExtensions/idmap/enabled",
    "/linux/netDevices",
    "/linux/netDevices/enabled",
];

fn only_properties_of_the_specification_are_told(case: &Case) -> Outcome {
    fn pointers(value: &Value, pointer: &str, found: &mut Vec<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let pointer = format!("{pointer}/{key}");
            pointers(value, &pointer, found);
            found.push(pointer);
        }
    }
    let (features, mut found) = (features(case)?, Vec::new());
    pointers(&features, "", &mut found);
    let known = |pointer: &String| PROPERTIES.contains(&pointer.as_str()) || pointer.starts_with("/annotations/");
    let unknown: Vec<_> = found.iter().filter(|pointer| !known(pointer)).collect();
    ensure!(unknown.is_empty(), "the specification does not know {unknown:?}");
    let annotations = features.get("annotations").and_then(Value::as_object).cloned().unwrap_or_default();
    let texts = annotations.iter().all(|(key, value)| !key.is_empty() && value.is_string());
    ensure!(texts, "annotations are {annotations:?}");
    ensure!(!features.to_string().contains("null"), "null is not an empty value: {features}");
    Ok(())
}

fn the_claimed_hooks_are_those_that_are_tested(case: &Case) -> Outcome {
    same(&list(&features(case)?, "/hooks"), hooks::KINDS)
}

fn the_claimed_mount_options_are_those_that_are_tested(case: &Case) -> Outcome {
    let all = all_tests();
    for (option, test) in mount_options::ELSEWHERE {
        ensure!(all.contains(test), "{option}: there is no test {test}");
    }
    let tested = mount_options::tested();
    same(&list(&features(case)?, "/mountOptions"), tested.iter().map(String::as_str))
}

fn every_claimed_mount_option_is_no_data_of_a_file_system(case: &Case) -> Outcome {
    // A tmpfs refuses every option that it does not know; ids need a mapping, a bind its source, and a remount a mount.
    let ids = json!([{"containerID": 0, "hostID": 0, "size": 10}]);
    for option in list(&features(case)?, "/mountOptions") {
        let mut mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [option]});
        match option.as_str() {
            "idmap" | "ridmap" => {
                crate::idmaps::needs_mapped_tmpfs()?;
                set(&mut mount, "/uidMappings", ids.clone());
                set(&mut mount, "/gidMappings", ids.clone());
            }
            "bind" | "rbind" => set(&mut mount, "/source", json!("/tmp")),
            "remount" => set(&mut mount, "/destination", json!("/proc")),
            _ => {}
        }
        case.bundle()?.with("/mounts/-", mount).run(case)?.succeeds().map_err(|stop| within(stop, &option))?;
    }
    Ok(())
}

fn the_claimed_namespaces_are_those_that_are_tested(case: &Case) -> Outcome {
    same(&list(&features(case)?, "/linux/namespaces"), time_namespace::KINDS.map(|(kind, _)| kind))
}

fn every_claimed_capability_is_given(case: &Case) -> Outcome {
    let claimed = list(&features(case)?, "/linux/capabilities");
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    let known = last.trim().parse::<usize>().map_err(|_| "cap_last_cap is no number")? + 1;
    ensure!(claimed.len() >= known, "the kernel has {known} capabilities, and {} are claimed", claimed.len());
    let status = fs::read_to_string("/proc/self/status")?;
    let own = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default();
    let own = u64::from_str_radix(own.trim(), 16).map_err(|_| "CapBnd is no number")?;
    let output = case.bundle()?.with("/process/capabilities", json!({"bounding": claimed})).run(case)?.succeeds()?;
    ensure!(!output.stderr.to_lowercase().contains("unknown"), "{output}");
    let given = output.seen()?.get("/capabilities/bounding").as_array().map_or(0, Vec::len);
    ensure!(given == own.count_ones() as usize, "{given} are given, of {} that can be", own.count_ones());
    // Each is told apart from the others.
    for capability in claimed.iter().enumerate().filter(|(number, _)| own >> number & 1 == 1).map(|(_, name)| name) {
        let seen = case.bundle()?.with("/process/capabilities", json!({"bounding": [capability]})).see(case)?;
        seen.is("/capabilities/bounding", &json!([capability]))?;
    }
    Ok(())
}

/// What becomes of a call with arguments that the kernel answers with EINVAL.
const ACTIONS: [(&str, &str); 9] = [
    ("SCMP_ACT_ALLOW", "EINVAL"),
    ("SCMP_ACT_ERRNO", "EPERM"),
    ("SCMP_ACT_KILL", "signal 31"),
    ("SCMP_ACT_KILL_PROCESS", "signal 31"),
    ("SCMP_ACT_KILL_THREAD", "signal 31"),
    ("SCMP_ACT_LOG", "EINVAL"),
    ("SCMP_ACT_NOTIFY", "notify::the_agent_answers_and_is_told_who_asks"),
    ("SCMP_ACT_TRACE", "ENOSYS"),
    ("SCMP_ACT_TRAP", "signal 31"),
];

fn every_claimed_action_acts(case: &Case) -> Outcome {
    let claimed = list(&features(case)?, "/linux/seccomp/actions");
    same(&claimed, ACTIONS.map(|(action, _)| action))?;
    for (action, answer) in ACTIONS {
        if answer.contains("::") {
            ensure!(all_tests().contains(answer), "{action}: there is no test {answer}");
            continue;
        }
        let bundle = case.bundle()?.with("/linux/seccomp", seccomp::profile(action)).probe(&["--syscall", "148,-1"]);
        bundle.see(case)?.answers("syscall", "148,-1", &json!(answer)).map_err(|why| format!("{action}: {why}"))?;
    }
    Ok(())
}

fn the_claimed_operators_are_those_that_are_tested(case: &Case) -> Outcome {
    same(&list(&features(case)?, "/linux/seccomp/operators"), seccomp::OPERATORS.map(|(operator, ..)| operator))
}

fn every_claimed_architecture_is_accepted(case: &Case) -> Outcome {
    for architecture in list(&features(case)?, "/linux/seccomp/archs") {
        let mut profile = seccomp::profile("SCMP_ACT_ERRNO");
        set(&mut profile, "/architectures/-", json!(architecture));
        let bundle = case.bundle()?.with("/linux/seccomp", profile).probe(&["--syscall", "148,-1"]);
        let seen = bundle.see(case).map_err(|stop| within(stop, &architecture))?;
        seen.answers("syscall", "148,-1", &json!("EPERM")).map_err(|why| format!("{architecture}: {why}"))?;
    }
    Ok(())
}

fn every_claimed_flag_is_accepted(case: &Case) -> Outcome {
    let features = features(case)?;
    let known = list(&features, "/linux/seccomp/knownFlags");
    ensure!(known == list(&features, "/linux/seccomp/supportedFlags"), "a flag is known and not supported");
    ensure!(!known.is_empty(), "no flags are claimed");
    for flag in known {
        if flag == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
            // It goes with a listener only.
            ensure!(all_tests().contains("notify::wait_killable_recv_is_accepted"), "{flag} is not tested");
            continue;
        }
        let mut profile = seccomp::profile("SCMP_ACT_ERRNO");
        set(&mut profile, "/flags", json!([flag]));
        let bundle = case.bundle()?.with("/linux/seccomp", profile).probe(&["--syscall", "148,-1"]);
        let seen = bundle.see(case).map_err(|stop| within(stop, &flag))?;
        seen.answers("syscall", "148,-1", &json!("EPERM")).map_err(|why| format!("{flag}: {why}"))?;
    }
    Ok(())
}

/// The modes of set_mempolicy(2), and a list of nodes that each takes.
const MODES: [(&str, u32, &str); 7] = [
    ("MPOL_DEFAULT", 0, ""),
    ("MPOL_PREFERRED", 1, "0"),
    ("MPOL_BIND", 2, "0"),
    ("MPOL_INTERLEAVE", 3, "0"),
    ("MPOL_LOCAL", 4, ""),
    ("MPOL_PREFERRED_MANY", 5, "0"),
    ("MPOL_WEIGHTED_INTERLEAVE", 6, "0"),
];

const POLICY_FLAGS: [(&str, u32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

fn every_claimed_memory_policy_is_set(case: &Case) -> Outcome {
    let features = features(case)?;
    same(&list(&features, "/linux/memoryPolicy/modes"), MODES.map(|(mode, ..)| mode))?;
    same(&list(&features, "/linux/memoryPolicy/flags"), POLICY_FLAGS.map(|(flag, _)| flag))?;
    if !case.bundle()?.see(case)?.get("/memory_policy/errno").is_null() {
        return skip("the kernel has no memory policies");
    }
    for (mode, number, nodes) in MODES {
        if number == 6 && !fs::exists("/sys/kernel/mm/mempolicy/weighted_interleave").unwrap_or(false) {
            continue;
        }
        let policy = json!({"mode": mode, "nodes": nodes});
        let seen = case.bundle()?.with("/linux/memoryPolicy", policy).see(case)?;
        seen.is("/memory_policy/mode", &json!(number)).map_err(|why| format!("{mode}: {why}"))?;
    }
    for (flag, bit) in POLICY_FLAGS {
        let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]});
        let seen = case.bundle()?.with("/linux/memoryPolicy", policy).see(case)?;
        seen.is("/memory_policy/mode", &json!(2 | bit)).map_err(|why| format!("{flag}: {why}"))?;
    }
    Ok(())
}

fn the_versions_are_those_of_the_program(case: &Case) -> Outcome {
    if !case.machine.is_corten() {
        return skip("the annotations are corten's");
    }
    let features = features(case)?;
    let version = case.program(&case.machine.runtime).args(&["--version"]).go()?.succeeds()?.stdout;
    let told = |key: &str| features["annotations"][key].as_str().unwrap_or_default().to_owned();
    let (own, library) = (told("org.corten.version"), told("io.github.seccomp.libseccomp.version"));
    let first = version.lines().next().unwrap_or_default();
    ensure!(!own.is_empty() && first.contains(&own), "{own:?} is not in {version:?}");
    ensure!(version.contains(&format!("libseccomp: {library}")), "{library:?} is not in {version:?}");
    Ok(())
}
