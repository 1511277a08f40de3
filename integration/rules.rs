//! Rules of the specification that belong to no other topic: versions, annotations, duplicate and missing properties, and that
//! an operation with an error leaves everything as it was.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{property, within};
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    a_version_that_is_no_semver_or_not_supported_is_refused,
    versions_that_are_supported_run,
    an_annotation_without_a_key_is_refused,
    a_key_that_stands_twice_is_refused,
    what_is_for_other_platforms_is_ignored,
    a_required_property_that_is_missing_is_refused,
    a_capability_that_can_not_be_granted_is_a_warning,
    exec_does_not_look_at_config_json,
    an_operation_that_fails_leaves_the_state_as_before,
];

/// config.md:17: SemVer v2.0.0; config.md:759: what is not supported is an error.
fn a_version_that_is_no_semver_or_not_supported_is_refused(case: &Case) -> Outcome {
    let no_semver =
        ["", "1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.00.0", "1.0.0-", "1.0.0+", "1.0.0 ", "1.0.-1", "x"];
    for version in no_semver.into_iter().chain(["1.4.0", "2.0.0", "0.9.0", "1.99.0"]) {
        let refused = property(case, "/ociVersion", json!(version)).instead_of(json!("1.0.2"));
        refused.refused("").map_err(|stop| within(stop, &format!("{version:?}")))?;
    }
    Ok(())
}

fn versions_that_are_supported_run(case: &Case) -> Outcome {
    for version in ["1.0.0", "1.0.0-rc5", "1.0.2-dev", "1.1.0", "1.1.0+dev", "1.2.1"] {
        let bundle = case.bundle()?.with("/ociVersion", json!(version));
        bundle.see(case).map_err(|stop| within(stop, version))?;
    }
    Ok(())
}

/// config.md:724
fn an_annotation_without_a_key_is_refused(case: &Case) -> Outcome {
    property(case, "/annotations", json!({"": "x"})).refused(if case.machine.is_corten() { "/annotations" } else { "" })
}

/// Go takes the last of them, others the first, so that a check before us could have seen another value.
fn a_key_that_stands_twice_is_refused(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/annotations", json!({"key": "x"})).with("/process/noNewPrivileges", json!(true));
    let text = bundle.config.to_string();
    for (once, twice) in [
        ("\"noNewPrivileges\":true", "\"noNewPrivileges\":true,\"noNewPrivileges\":false"),
        ("\"key\":\"x\"", "\"key\":\"x\",\"key\":\"y\""),
    ] {
        ensure!(text.contains(once), "{text} lacks {once}");
        fs::write(bundle.dir.join("config.json"), text.replace(once, twice))?;
        case.run(&bundle.run_arguments())?.fails(1, "duplicate").map_err(|stop| within(stop, twice))?;
    }
    Ok(())
}

/// config.md:754: unknown properties are ignored, and those for other platforms mean nothing here.
fn what_is_for_other_platforms_is_ignored(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/windows", json!({"layerFolders": ["C:\\layer"], "devices": 1}));
    let bundle = bundle.with("/vm", json!({"kernel": {"path": "/vmlinuz"}})).with("/zos", json!([]));
    bundle.with("/solaris", json!({"limitpriv": "x"})).with("/freebsd", json!({"jail": {}})).see(case).map(drop)
}

/// What a runtime puts in for a missing number is not what anybody asked for: a host id of 0, or no process at all.
fn a_required_property_that_is_missing_is_refused(case: &Case) -> Outcome {
    for (pointer, value, missing) in [
        ("/linux/resources/pids", json!({}), "limit"),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "hard": 1}]), "soft"),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 0}]), "hard"),
        ("/linux/resources/devices", json!([{"access": "rwm"}]), "allow"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "minor": 3}]), "major"),
        ("/process/consoleSize", json!({"height": 24}), "width"),
        ("/process/user", json!({"uid": 0}), "gid"),
    ] {
        let property = property(case, pointer, value).instead_of(match pointer {
            "/process/user" => json!({"uid": 0, "gid": 0}),
            _ => Value::Null,
        });
        property.refused(if case.machine.is_corten() { missing } else { "" }).map_err(|stop| within(stop, pointer))?;
    }
    let ids = json!([{"containerID": 0, "size": 10}]);
    let bundle = case.bundle()?.with("/linux/namespaces/-", json!({"type": "user"}));
    let bundle = bundle.with("/linux/uidMappings", ids.clone()).with("/linux/gidMappings", ids);
    bundle.run(case)?.fails(1, if case.machine.is_corten() { "hostID" } else { "" }).map(drop)
}

/// config.md:288: also one that the kernel would not let the process have, for it is not in the set that it has to be in.
fn a_capability_that_can_not_be_granted_is_a_warning(case: &Case) -> Outcome {
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_CHOWN", "CAP_FOWNER"], "ambient": ["CAP_CHOWN", "CAP_KILL"],
    });
    // What root is given by execve is another matter.
    let bundle = case.bundle()?.with("/process/capabilities", sets).with("/process/user/uid", json!(1000));
    let output = bundle.run(case)?.succeeds()?;
    for name in ["CAP_KILL", "CAP_FOWNER"] {
        ensure!(output.stderr.contains(name), "nothing is said of {name}: {output}");
    }
    let seen = output.seen()?;
    for set in ["effective", "permitted", "inheritable", "ambient"] {
        seen.is(&format!("/capabilities/{set}"), &json!(["CAP_CHOWN"]))?;
    }
    Ok(())
}

/// runtime.md:50, and what an exec takes from the configuration is that of the container as it was created.
fn exec_does_not_look_at_config_json(case: &Case) -> Outcome {
    let bundle =
        case.bundle()?.probe(&["--hold"]).with("/process/env", json!(["A=before"])).with("/process/cwd", json!("/etc"));
    let container = case.run_detached(&bundle)?;
    let bundle = bundle.with("/process/env", json!(["A=after"])).with("/process/cwd", json!("/tmp"));
    bundle.with("/process/user/uid", json!(1000)).write()?;
    let check = |text: &str| -> Outcome {
        let seen = container.exec(&["/probe"]).map_err(|stop| within(stop, text))?.succeeds()?.seen()?;
        seen.is("/cwd", &json!("/etc"))?;
        seen.is("/ids/uid", &json!(0))?;
        let env = seen.get("/env").as_array().cloned().unwrap_or_default();
        ensure!(env.contains(&json!("A=before")), "{text}: the environment is {env:?}");
        Ok(())
    };
    check("changed")?;
    let file = std::path::Path::new(&bundle_of(case, &container.id)?).join("config.json");
    fs::write(&file, "{")?;
    check("broken")?;
    fs::remove_file(&file)?;
    check("removed")?;
    container.end()
}

/// runtime.md:85: as if the operation were never attempted.
fn an_operation_that_fails_leaves_the_state_as_before(case: &Case) -> Outcome {
    let created = case.create(&case.bundle()?.probe(&["--hold"]))?;
    let running = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let stopped = case.run_detached(&case.bundle()?.probe(&["--quiet"]))?;
    ensure!(stopped.wait()? == 0, "the program failed");
    let bundle = bundle_of(case, &running.id)?;
    let attempts: [(&str, Vec<&str>); 12] = [
        (&created.id, vec!["create", "--bundle", &bundle, &created.id]),
        (&created.id, vec!["delete", &created.id]),
        (&created.id, vec!["kill", &created.id, "NOSUCH"]),
        (&created.id, vec!["pause", &created.id, "more"]),
        (&running.id, vec!["create", "--bundle", &bundle, &running.id]),
        (&running.id, vec!["start", &running.id]),
        (&running.id, vec!["delete", &running.id]),
        (&running.id, vec!["kill", &running.id, "4711"]),
        (&running.id, vec!["exec", &running.id, "/nosuch"]),
        (&running.id, vec!["update", "--memory", "nonsense", &running.id]),
        (&stopped.id, vec!["start", &stopped.id]),
        (&stopped.id, vec!["kill", &stopped.id, "KILL"]),
    ];
    for (id, arguments) in attempts {
        let before = case.state(id)?;
        let output = case.run(&arguments)?;
        ensure!(output.status != 0, "{arguments:?} succeeds");
        let after = case.state(id).map_err(|stop| within(stop, &format!("after {arguments:?}")))?;
        ensure!(before == after, "{arguments:?} changes {before} to {after}");
    }
    created.start()?;
    [created, running].iter().try_for_each(crate::runtime::Container::end)?;
    stopped.delete()
}

fn bundle_of(case: &Case, id: &str) -> Outcome<String> {
    Ok(case.state(id)?.get("bundle").and_then(Value::as_str).ok_or("no bundle")?.to_owned())
}
