//! `linux.intelRdt` (config-linux.md:739-785). This machine has no Intel RDT, so that the tests bring a resctrl of their
//! own (`resctrl.rs`), mounted at /sys/fs/resctrl in a mount namespace of their own.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::harness::{Case, Outcome, Stop, skip};
use crate::kill_points::{Command, Subject, kill_at_every_point};
use crate::resctrl::Resctrl;
use crate::runtime::Container;
use crate::{ensure, tests};

tests![
    without_resctrl_intel_rdt_is_refused,
    schemata_that_can_not_be_are_refused,
    without_clos_id_a_group_is_made_and_removed,
    a_group_named_after_the_container_that_existed_stays,
    a_named_group_is_made_and_stays,
    a_named_group_that_exists_is_used,
    a_named_group_with_other_schemata_is_refused,
    a_named_group_without_schemata_must_exist,
    the_default_group_is_used_by_its_name,
    schemata_are_written_last,
    monitoring_makes_a_group_for_the_container,
    a_monitoring_group_that_exists_is_an_error,
    a_failing_create_removes_what_it_made,
    too_many_groups_are_an_error,
    a_refused_schema_says_why,
    exec_is_in_the_groups_of_the_container,
    without_intel_rdt_resctrl_is_left_alone,
    update_changes_the_schemata_or_nothing,
    update_without_a_class_of_service_is_refused;
    serial: a_killed_create_leaves_no_group_after_delete_force,
];

const RESCTRL: &str = "/sys/fs/resctrl";

/// Runs a test in a thread with a mount namespace of its own, in which resctrl is mounted.
fn with_resctrl(case: &Case, test: impl Fn(&Resctrl) -> Outcome + Sync) -> Outcome {
    if !case.machine.is_corten() {
        return skip("the peers look for a mount of type resctrl, which this kernel does not have");
    }
    if Path::new(RESCTRL).join("info").exists() {
        return skip("the machine has a resctrl, which the tests must not change");
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            mount_resctrl(&case.dir)?;
            test(&Resctrl::mount(Path::new(RESCTRL))?)
        });
        thread.join().unwrap_or_else(|_| Err(Stop::Fail("the test panicked".to_owned())))
    })
}

/// A /sys/fs with the cgroups of this view and a place for resctrl, for this thread and what it starts.
fn mount_resctrl(dir: &Path) -> Outcome {
    let (none, kept) = (None::<&str>, dir.join("cgroup"));
    fs::create_dir(&kept)?;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount(Some("/sys/fs/cgroup"), &kept, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    mount(Some("tmpfs"), "/sys/fs", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for name in ["cgroup", "resctrl"] {
        fs::create_dir(Path::new("/sys/fs").join(name))?;
    }
    mount(Some(&kept), "/sys/fs/cgroup", none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    umount2(&kept, MntFlags::MNT_DETACH)?;
    Ok(())
}

fn configured(case: &Case, rdt: Value) -> Outcome<Bundle> {
    Ok(case.bundle()?.with("/linux/intelRdt", rdt).probe(&["--hold"]))
}

/// What a file of resctrl holds.
fn holds(path: &str) -> Outcome<String> {
    let path = Path::new(RESCTRL).join(path.trim_start_matches('/'));
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn exists(path: &str) -> bool {
    Path::new(RESCTRL).join(path).exists()
}

/// The process of a container is in a group.
fn is_in(container: &Container<'_>, group: &str) -> Outcome {
    let tasks = holds(&format!("{group}/tasks"))?;
    ensure!(
        tasks.lines().any(|task| task == container.pid.to_string()),
        "{group} has {tasks:?}, not {}",
        container.pid
    );
    Ok(())
}

/// Everything that was done to resctrl but for the pids.
fn changes(resctrl: &Resctrl) -> Vec<String> {
    resctrl.journal().into_iter().filter(|entry| !entry.contains("/tasks < ")).collect()
}

fn without_resctrl_intel_rdt_is_refused(case: &Case) -> Outcome {
    if Path::new(RESCTRL).join("info").exists() {
        return skip("the machine has a resctrl");
    }
    let bundle = case.bundle()?.with("/linux/intelRdt", json!({"closID": "x", "l3CacheSchema": "L3:0=f"}));
    let text = if case.machine.is_corten() { "/linux/intelRdt" } else { "" };
    bundle.run(case)?.fails(1, text)?;
    bundle.without("/linux/intelRdt").run(case)?.succeeds().map(drop)
}

fn schemata_that_can_not_be_are_refused(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        for (rdt, field) in [
            (json!({"memBwSchema": "L3:0=f"}), "memBwSchema"),
            (json!({"memBwSchema": "MB:0=10\nMB:1=10"}), "memBwSchema"),
            (json!({"schemata": ["L3:0=f\nMB:0=10"]}), "schemata/0"),
            (json!({"closID": ".."}), "closID"),
            (json!({"closID": "a/b"}), "closID"),
            (json!({"closID": "info"}), "closID"),
        ] {
            configured(case, rdt)?.run(case)?.fails(1, &format!("/linux/intelRdt/{field}"))?;
        }
        ensure!(resctrl.journal().is_empty(), "resctrl was changed");
        Ok(())
    })
}

fn without_clos_id_a_group_is_made_and_removed(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let rdt = json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=20"});
        let container = case.create(&configured(case, rdt)?)?;
        let id = &container.id;
        is_in(&container, id)?;
        let schemata = holds(&format!("{id}/schemata"))?;
        ensure!(schemata.contains("L3:0=f;1=7ff") && schemata.contains("MB:0=100;1=20"), "{schemata}");
        container.start()?;
        container.end()?;
        let expected = [
            format!("mkdir /{id}"),
            format!("/{id}/schemata < L3:0=f"),
            format!("/{id}/schemata < MB:1=20"),
            format!("rmdir /{id}"),
        ];
        let done = changes(resctrl);
        ensure!(done == expected, "{done:?}");
        // Nothing to write is no reason not to make the group.
        let container = case.create(&configured(case, json!({}))?)?;
        is_in(&container, &container.id)?;
        case.delete_force(&container.id)?;
        let expected = [format!("mkdir /{}", container.id), format!("rmdir /{}", container.id)];
        let done = changes(resctrl);
        ensure!(done == expected, "{done:?}");
        Ok(())
    })
}

fn a_group_named_after_the_container_that_existed_stays(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let bundle = configured(case, json!({}))?;
        fs::create_dir(Path::new(RESCTRL).join(&bundle.id))?;
        resctrl.journal();
        let container = case.create(&bundle)?;
        is_in(&container, &container.id)?;
        case.delete_force(&container.id)?;
        ensure!(exists(&container.id) && changes(resctrl).is_empty(), "it was removed");
        Ok(())
    })
}

fn a_named_group_is_made_and_stays(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let container = case.create(&configured(case, json!({"closID": "gold", "l3CacheSchema": "L3:0=f"}))?)?;
        is_in(&container, "gold")?;
        case.delete_force(&container.id)?;
        let done = changes(resctrl);
        ensure!(done == ["mkdir /gold", "/gold/schemata < L3:0=f"] && exists("gold"), "{done:?}");
        Ok(())
    })
}

fn a_named_group_that_exists_is_used(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        fs::create_dir(Path::new(RESCTRL).join("gold"))?;
        for rdt in [
            json!({"closID": "gold"}),
            // What is there already, written otherwise.
            json!({"closID": "gold", "l3CacheSchema": "L3:1=07FF", "memBwSchema": "MB:0=100;1=100"}),
            json!({"closID": "gold", "schemata": ["L3:0=3"]}),
        ] {
            let container = case.create(&configured(case, rdt)?)?;
            is_in(&container, "gold")?;
            case.delete_force(&container.id)?;
        }
        let done = changes(resctrl);
        ensure!(!done.iter().any(|entry| entry.contains("rmdir")) && exists("gold"), "{done:?}");
        ensure!(holds("gold/schemata")?.contains("L3:0=3;"), "the schemata were not written");
        Ok(())
    })
}

fn a_named_group_with_other_schemata_is_refused(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        fs::create_dir(Path::new(RESCTRL).join("gold"))?;
        resctrl.journal();
        for (field, schema) in [("l3CacheSchema", "L3:0=f"), ("memBwSchema", "MB:1=20"), ("l3CacheSchema", "L2:0=f")] {
            let bundle = configured(case, json!({"closID": "gold", field: schema}))?;
            bundle.run(case)?.fails(1, &format!("/linux/intelRdt/{field}"))?;
        }
        ensure!(resctrl.journal().is_empty(), "resctrl was changed");
        Ok(())
    })
}

fn a_named_group_without_schemata_must_exist(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        configured(case, json!({"closID": "gold"}))?.run(case)?.fails(1, "/linux/intelRdt/closID")?;
        ensure!(resctrl.journal().is_empty(), "resctrl was changed");
        Ok(())
    })
}

fn the_default_group_is_used_by_its_name(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let container = case.create(&configured(case, json!({"closID": "/", "enableMonitoring": true}))?)?;
        is_in(&container, "")?;
        is_in(&container, &format!("mon_groups/{}", container.id))?;
        case.delete_force(&container.id)?;
        ensure!(!exists(&format!("mon_groups/{}", container.id)), "the group is left");
        let done = changes(resctrl);
        ensure!(done.len() == 2, "{done:?}");
        Ok(())
    })
}

fn schemata_are_written_last(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let rdt = json!({
            "schemata": ["L3:0=3", "MB:1=30"], "memBwSchema": "MB:0=10", "l3CacheSchema": "L3:1=f", "closID": "gold",
        });
        let container = case.create(&configured(case, rdt)?)?;
        case.delete_force(&container.id)?;
        let writes: Vec<String> = changes(resctrl).into_iter().filter(|entry| entry.contains('<')).collect();
        let expected = ["L3:1=f", "MB:0=10", "L3:0=3\nMB:1=30"].map(|text| format!("/gold/schemata < {text}"));
        ensure!(writes == expected, "{writes:?}");
        Ok(())
    })
}

fn monitoring_makes_a_group_for_the_container(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        fs::create_dir(Path::new(RESCTRL).join("gold"))?;
        for rdt in [json!({"closID": "gold", "enableMonitoring": true}), json!({"enableMonitoring": true})] {
            resctrl.journal();
            let container = case.create(&configured(case, rdt.clone())?)?;
            let clos = rdt.get("closID").and_then(Value::as_str).unwrap_or(&container.id);
            let group = format!("{clos}/mon_groups/{}", container.id);
            is_in(&container, clos)?;
            is_in(&container, &group)?;
            case.delete_force(&container.id)?;
            ensure!(!exists(&group) && !exists(&container.id), "left: {group}");
            let done = changes(resctrl);
            ensure!(done.contains(&format!("rmdir /{group}")), "{done:?}");
        }
        let container = case.create(&configured(case, json!({"closID": "gold", "enableMonitoring": false}))?)?;
        ensure!(!exists(&format!("gold/mon_groups/{}", container.id)), "it is measured without being asked for");
        case.delete_force(&container.id)
    })
}

fn a_monitoring_group_that_exists_is_an_error(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let bundle = configured(case, json!({"closID": "/", "enableMonitoring": true}))?;
        fs::create_dir(Path::new(RESCTRL).join("mon_groups").join(&bundle.id))?;
        resctrl.journal();
        bundle.run(case)?.fails(1, "enableMonitoring")?;
        ensure!(resctrl.journal().is_empty(), "resctrl was changed");
        Ok(())
    })
}

fn a_failing_create_removes_what_it_made(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        for rdt in [
            json!({"enableMonitoring": true}),
            json!({"closID": "gold", "l3CacheSchema": "L3:0=f", "enableMonitoring": true}),
        ] {
            let bundle = configured(case, rdt)?.args(&["/nosuch"]);
            bundle.run(case)?.fails(1, "no such file")?;
            let done = changes(resctrl);
            ensure!(done.iter().any(|entry| entry.starts_with("mkdir")), "nothing was made: {done:?}");
            ensure!(!exists(&bundle.id) && !exists("gold"), "left: {done:?}");
        }
        // Others may have come to use a class that has a name.
        let bundle = configured(case, json!({"closID": "gold", "l3CacheSchema": "L3:0=f"}))?.args(&["/nosuch"]);
        let hook = format!("echo {} > {RESCTRL}/gold/tasks", std::process::id());
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", hook]}]);
        bundle.with("/hooks/createRuntime", hook).run(case)?.fails(1, "no such file")?;
        ensure!(exists("gold"), "another's processes have lost their class");
        Ok(())
    })
}

fn too_many_groups_are_an_error(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        for name in ["a", "b", "c"] {
            fs::create_dir(Path::new(RESCTRL).join(name))?;
        }
        resctrl.journal();
        configured(case, json!({}))?.run(case)?.fails(1, "Out of CLOSIDs")?;
        ensure!(resctrl.journal().is_empty(), "resctrl was changed");
        Ok(())
    })
}

fn a_refused_schema_says_why(case: &Case) -> Outcome {
    with_resctrl(case, |_| {
        let bundle = configured(case, json!({"l3CacheSchema": "L9:0=f"}))?;
        bundle.run(case)?.fails(1, "Unknown or unsupported resource name 'L9'")?;
        ensure!(!exists(&bundle.id), "the group is left");
        Ok(())
    })
}

fn exec_is_in_the_groups_of_the_container(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let container = case.run_detached(&configured(case, json!({"enableMonitoring": true}))?)?;
        resctrl.journal();
        container.exec(&["true"])?.succeeds()?;
        let done = resctrl.journal();
        let (clos, monitor) = (format!("/{}/tasks < ", container.id), format!("/mon_groups/{}/tasks < ", container.id));
        ensure!(done.len() == 2 && done[0].starts_with(&clos) && done[1].contains(&monitor), "{done:?}");
        container.end()
    })
}

fn without_intel_rdt_resctrl_is_left_alone(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        case.docker_like()?.args(&["/bin/true"]).run(case)?.succeeds()?;
        let done = resctrl.journal();
        ensure!(done.is_empty(), "{done:?}");
        Ok(())
    })
}

fn a_killed_create_leaves_no_group_after_delete_force(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let rdt = json!({"l3CacheSchema": "L3:0=f", "enableMonitoring": true});
        let bundle = case.bundle()?.with("/linux/intelRdt", rdt).args(&["/bin/true"]);
        bundle.write()?;
        let root = case.dir.join("kill-points");
        fs::create_dir(&root)?;
        let subject = Subject {
            runtime: &case.machine.runtime,
            invoker: &case.machine.invoker,
            bundle: &bundle.dir,
            root: &root,
            ends: &["/bin/true"],
            stays: &["/bin/sleep", "1000"],
            // They would share one resctrl, and all containers have the same id.
            workers: 1,
        };
        let step = if std::env::var_os("CORTEN_TEST_QUICK").is_some() { 40 } else { 5 };
        let report = kill_at_every_point(&subject, Command::Create, step)?;
        println!("Create with resctrl killed: {report}");
        ensure!(report.dirty.is_empty(), "{report}: {}", report.dirty.join("; "));
        let made = resctrl.journal().iter().filter(|entry| entry.starts_with("mkdir")).count();
        ensure!(made > 2 * report.points / 4, "only {made} groups were made at {} points", report.points);
        for (directory, files) in [("", 4), ("mon_groups", 0)] {
            let names = fs::read_dir(Path::new(RESCTRL).join(directory))?.flatten().map(|entry| entry.file_name());
            let names: Vec<_> = names.collect();
            ensure!(names.len() == files, "{RESCTRL}/{directory} holds {names:?}");
        }
        Ok(())
    })
}

fn update_changes_the_schemata_or_nothing(case: &Case) -> Outcome {
    with_resctrl(case, |_| {
        let container = case.create(&configured(case, json!({"l3CacheSchema": "L3:0=f"}))?)?;
        let file = format!("{}/schemata", container.id);
        let update = |flags: &[&str]| case.run(&[&["update", container.id.as_str()], flags].concat());
        update(&["--l3-cache-schema", "L3:0=ff", "--mem-bw-schema", "MB:1=20"])?.succeeds()?;
        let schemata = holds(&file)?;
        ensure!(schemata.contains("L3:0=ff;1=7ff") && schemata.contains("MB:0=100;1=20"), "{schemata}");
        // Neither a schema that resctrl refuses nor a limit that the kernel does leaves the other changed.
        update(&["--l3-cache-schema", "L3:0=3", "--mem-bw-schema", "nonsense"])?.ends_with(1)?;
        ensure!(holds(&file)? == schemata, "after a wrong schema it is {}", holds(&file)?);
        if !case.machine.cgroup2 {
            update(&["--l3-cache-schema", "L3:0=3", "--cpu-quota", "10"])?.fails(1, "cpu.cfs_quota_us")?;
            ensure!(holds(&file)? == schemata, "after a wrong limit it is {}", holds(&file)?);
        }
        case.delete_force(&container.id)
    })
}

fn update_without_a_class_of_service_is_refused(case: &Case) -> Outcome {
    with_resctrl(case, |resctrl| {
        let container = case.create(&case.bundle()?)?;
        let output = case.run(&["update", "--mem-bw-schema", "MB:1=20", &container.id])?;
        output.fails(1, "no class of service")?;
        ensure!(resctrl.journal().is_empty(), "resctrl was changed");
        case.delete_force(&container.id)
    })
}
