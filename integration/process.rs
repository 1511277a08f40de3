//! The `process` object: what the program finds when it begins. Every property is tested by [`property`].

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{Check, Seen, property};
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    args_are_the_arguments,
    the_program_is_looked_up_in_the_path_of_the_container,
    env_is_the_environment_and_nothing_else,
    of_duplicate_variables_the_last_wins,
    home_comes_from_the_passwd_of_the_container,
    cwd_is_the_working_directory,
    a_relative_cwd_is_refused,
    empty_args_are_refused,
    user_sets_all_ids,
    additional_gids_are_exactly_the_groups,
    umask_is_set,
    umask_is_0022_by_default_whatever_the_caller_has,
    bounding_capabilities_are_set,
    effective_and_permitted_capabilities_are_set,
    inheritable_capabilities_are_set,
    ambient_capabilities_are_set,
    capabilities_survive_the_change_of_user_only_if_ambient,
    empty_capabilities_are_none,
    an_unknown_capability_is_a_warning,
    no_new_privileges_is_set,
    no_new_privileges_false_is_not_set,
    oom_score_adj_is_set,
    without_oom_score_adj_the_callers_stays,
    every_rlimit_is_set,
    a_duplicate_rlimit_is_refused,
    an_unknown_rlimit_is_refused,
    a_soft_limit_above_the_hard_one_is_refused,
    the_process_leads_a_session,
    the_session_keyring_is_its_own,
    no_new_keyring_keeps_the_callers,
    standard_fds_are_the_only_ones,
    exec_of_a_process_has_the_capabilities_of_the_container,
    exec_sets_the_umask_and_groups,
    exec_sets_rlimits_and_oom_score_adj,
    few_descriptors_do_not_keep_the_program_from_running,
    a_script_without_interpreter_says_so,
    hostname_env_and_annotations_may_be_any_unicode,
];

fn has_env(seen: &Seen, entry: &str) -> Check {
    let env = seen.get("/env");
    ensure!(env.as_array().is_some_and(|all| all.contains(&json!(entry))), "{entry} is not in {env}");
    Ok(())
}

fn args_are_the_arguments(case: &Case) -> Outcome {
    let args = json!(["/probe", "", "two words", "line\nbreak", "\u{fc}"]);
    property(case, "/process/args", args.clone()).instead_of(json!(["/probe"])).holds(|seen| seen.is("/args", &args))
}

fn the_program_is_looked_up_in_the_path_of_the_container(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/env", json!(["PATH=/nosuch:/other"])).args(&["probe"]);
    fs::create_dir(bundle.rootfs().join("other"))?;
    fs::rename(bundle.rootfs().join("probe"), bundle.rootfs().join("other/probe"))?;
    bundle.see(case)?.is("/args", &json!(["probe"]))?;
    // The PATH of the caller has a `true`, the container's has none.
    let bundle = case.bundle()?.with("/process/env", json!(["PATH=/nosuch"])).args(&["true"]);
    bundle.run(case)?.fails(1, "executable file not found").map(drop)
}

fn env_is_the_environment_and_nothing_else(case: &Case) -> Outcome {
    let env = json!(["PATH=/bin", "HOME=/somewhere", "A=1", "EMPTY=", "EQUALS=a=b", "SPACE= x "]);
    property(case, "/process/env", env.clone()).holds(|seen| seen.is("/env", &env))
}

fn of_duplicate_variables_the_last_wins(case: &Case) -> Outcome {
    property(case, "/process/env", json!(["A=1", "HOME=/", "A=2"])).instead_of(json!(["HOME=/", "A=1"])).holds(|seen| {
        let env = seen.get("/env").as_array().cloned().unwrap_or_default();
        let entries = env.iter().filter(|entry| entry.as_str().is_some_and(|text| text.starts_with("A=")));
        ensure!(entries.collect::<Vec<_>>() == [&json!("A=2")], "{env:?}");
        Ok(())
    })
}

fn home_comes_from_the_passwd_of_the_container(case: &Case) -> Outcome {
    for (uid, home) in [(0, "HOME=/root"), (1000, "HOME=/home/user"), (4242, "HOME=/")] {
        has_env(&case.bundle()?.with("/process/user/uid", json!(uid)).see(case)?, home)?;
    }
    let bundle = case.bundle()?.with("/process/env", json!(["HOME=/mine"]));
    has_env(&bundle.see(case)?, "HOME=/mine").map_err(Into::into)
}

fn cwd_is_the_working_directory(case: &Case) -> Outcome {
    property(case, "/process/cwd", json!("/etc")).instead_of(json!("/")).holds(|seen| seen.is("/cwd", &json!("/etc")))
}

fn a_relative_cwd_is_refused(case: &Case) -> Outcome {
    property(case, "/process/cwd", json!("etc")).instead_of(json!("/etc")).refused("wd")
}

fn empty_args_are_refused(case: &Case) -> Outcome {
    property(case, "/process/args", json!([])).instead_of(json!(["/probe"])).refused("args")
}

fn user_sets_all_ids(case: &Case) -> Outcome {
    property(case, "/process/user", json!({"uid": 1000, "gid": 2000})).instead_of(json!({"uid": 0, "gid": 0})).holds(
        |seen| {
            for (name, id) in [("uid", 1000), ("euid", 1000), ("suid", 1000), ("gid", 2000), ("egid", 2000)] {
                seen.is(&format!("/ids/{name}"), &json!(id))?;
            }
            seen.is("/ids/sgid", &json!(2000))
        },
    )
}

fn additional_gids_are_exactly_the_groups(case: &Case) -> Outcome {
    property(case, "/process/user/additionalGids", json!([5, 4_000_000_000_u32]))
        .holds(|seen| seen.is("/ids/groups", &json!([5, 4_000_000_000_u32])))
}

fn umask_is_set(case: &Case) -> Outcome {
    property(case, "/process/user/umask", json!(0o137)).holds(|seen| seen.is("/umask", &json!(0o137)))
}

fn umask_is_0022_by_default_whatever_the_caller_has(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    bundle.write()?;
    let invocation = case.runtime(&bundle.run_arguments()).before_exec(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        Ok(())
    });
    invocation.go()?.succeeds()?.seen()?.is("/umask", &json!(0o022)).map_err(Into::into)
}

fn bounding_capabilities_are_set(case: &Case) -> Outcome {
    let set = json!(["CAP_CHOWN", "CAP_KILL"]);
    property(case, "/process/capabilities/bounding", set.clone()).holds(|seen| seen.is("/capabilities/bounding", &set))
}

fn effective_and_permitted_capabilities_are_set(case: &Case) -> Outcome {
    // A process of uid 0 gains permitted and effective capabilities by execve, up to its bounding set, so that the sets
    // are tested with the ambient set of another user.
    let set = json!(["CAP_NET_BIND_SERVICE"]);
    property(case, "/process/capabilities", json!({"bounding": set, "effective": set, "permitted": set}))
        .given("/process/noNewPrivileges", json!(true))
        .holds(|seen| {
            seen.is("/capabilities/effective", &set)?;
            seen.is("/capabilities/permitted", &set)?;
            seen.is("/capabilities/inheritable", &json!([]))
        })
}

fn inheritable_capabilities_are_set(case: &Case) -> Outcome {
    let set = json!(["CAP_KILL"]);
    property(case, "/process/capabilities/inheritable", set.clone())
        .given("/process/capabilities", json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]}))
        .holds(|seen| seen.is("/capabilities/inheritable", &set))
}

fn ambient_capabilities_are_set(case: &Case) -> Outcome {
    let set = json!(["CAP_KILL", "CAP_NET_RAW"]);
    property(case, "/process/capabilities/ambient", set.clone())
        .given("/process/user", json!({"uid": 1000, "gid": 1000}))
        .given(
            "/process/capabilities",
            json!({"bounding": set, "permitted": set, "inheritable": set, "effective": set}),
        )
        .holds(|seen| {
            seen.is("/capabilities/ambient", &set)?;
            seen.is("/capabilities/effective", &set)
        })
}

fn capabilities_survive_the_change_of_user_only_if_ambient(case: &Case) -> Outcome {
    let set = json!(["CAP_KILL"]);
    let bundle = case.bundle()?.with("/process/user", json!({"uid": 1000, "gid": 1000}));
    let bundle = bundle.with("/process/capabilities", json!({"bounding": set, "permitted": set, "effective": set}));
    let seen = bundle.see(case)?;
    for name in ["effective", "permitted", "inheritable", "ambient"] {
        seen.is(&format!("/capabilities/{name}"), &json!([]))?;
    }
    Ok(seen.is("/capabilities/bounding", &set)?)
}

fn empty_capabilities_are_none(case: &Case) -> Outcome {
    let seen = case.bundle()?.with("/process/capabilities", json!({})).see(case)?;
    for name in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        seen.is(&format!("/capabilities/{name}"), &json!([]))?;
    }
    Ok(())
}

fn an_unknown_capability_is_a_warning(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/capabilities/bounding", json!(["CAP_NOSUCH", "CAP_KILL"]));
    let output = bundle.run(case)?.succeeds()?;
    ensure!(output.stderr.contains("level=warning") && output.stderr.contains("CAP_NOSUCH"), "{output}");
    Ok(output.seen()?.is("/capabilities/bounding", &json!(["CAP_KILL"]))?)
}

fn no_new_privileges_is_set(case: &Case) -> Outcome {
    property(case, "/process/noNewPrivileges", json!(true)).holds(|seen| seen.is("/no_new_privs", &json!(1)))
}

fn no_new_privileges_false_is_not_set(case: &Case) -> Outcome {
    property(case, "/process/noNewPrivileges", json!(false))
        .instead_of(json!(true))
        .holds(|seen| seen.is("/no_new_privs", &json!(0)))
}

fn oom_score_adj_is_set(case: &Case) -> Outcome {
    property(case, "/process/oomScoreAdj", json!(123)).holds(|seen| seen.is("/oom_score_adj", &json!(123)))
}

fn without_oom_score_adj_the_callers_stays(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    bundle.write()?;
    let invocation = case.runtime(&bundle.run_arguments());
    let invocation = invocation.before_exec(|| fs::write("/proc/self/oom_score_adj", "77"));
    invocation.go()?.succeeds()?.seen()?.is("/oom_score_adj", &json!(77)).map_err(Into::into)
}

fn every_rlimit_is_set(case: &Case) -> Outcome {
    // Low enough for a machine that may not raise a limit, high enough for a program to begin.
    let limits = [
        ("RLIMIT_AS", 1 << 34),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_CPU", 1000),
        ("RLIMIT_DATA", 1 << 33),
        ("RLIMIT_FSIZE", 1 << 32),
        ("RLIMIT_LOCKS", 100),
        ("RLIMIT_MEMLOCK", 65536),
        ("RLIMIT_MSGQUEUE", 4096),
        ("RLIMIT_NICE", 0),
        ("RLIMIT_NOFILE", 123),
        ("RLIMIT_NPROC", 4000),
        ("RLIMIT_RSS", 1 << 32),
        ("RLIMIT_RTPRIO", 0),
        ("RLIMIT_RTTIME", 1_000_000),
        ("RLIMIT_SIGPENDING", 50),
        ("RLIMIT_STACK", 1 << 22),
    ];
    let before = case.bundle()?.see(case)?;
    for (name, hard) in limits {
        let soft: u64 = hard / 2;
        let pointer = format!("/rlimits/{name}");
        let expected = json!({"soft": soft, "hard": hard});
        let limit = json!([{"type": name, "soft": soft, "hard": hard}]);
        if before.get(&pointer) == &expected {
            // RLIMIT_NICE and RLIMIT_RTPRIO are 0 already where root lacks CAP_SYS_RESOURCE and may set nothing else.
            case.bundle()?.with("/process/rlimits", limit).see(case)?.is(&pointer, &expected)?;
        } else {
            property(case, "/process/rlimits", limit).holds(|seen| seen.is(&pointer, &expected))?;
        }
    }
    Ok(())
}

fn a_duplicate_rlimit_is_refused(case: &Case) -> Outcome {
    let limit = json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0});
    property(case, "/process/rlimits", json!([limit, limit])).instead_of(json!([limit])).refused("RLIMIT_CORE")
}

fn an_unknown_rlimit_is_refused(case: &Case) -> Outcome {
    let limit = json!([{"type": "RLIMIT_NOSUCH", "soft": 0, "hard": 0}]);
    property(case, "/process/rlimits", limit).refused("RLIMIT_NOSUCH")
}

fn a_soft_limit_above_the_hard_one_is_refused(case: &Case) -> Outcome {
    property(case, "/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}])).refused("")
}

fn the_process_leads_a_session(case: &Case) -> Outcome {
    let seen = case.bundle()?.see(case)?;
    seen.is("/process/pid", &json!(1))?;
    seen.is("/process/sid", &json!(1))?;
    Ok(seen.is("/process/pgid", &json!(1))?)
}

fn keyring(seen: &Seen) -> &str {
    seen.get("/session_keyring/description").as_str().unwrap_or_default()
}

fn the_session_keyring_is_its_own(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let seen = bundle.see(case)?;
    let expected = format!(";_ses.{}", bundle.id);
    ensure!(keyring(&seen).ends_with(&expected), "the keyring is {}", seen.get("/session_keyring"));
    Ok(())
}

fn no_new_keyring_keeps_the_callers(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    bundle.write()?;
    let output =
        case.runtime(&["run", "--no-new-keyring", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
    let seen = output.succeeds()?.seen()?;
    ensure!(!keyring(&seen).contains("_ses.ct"), "the keyring is {}", seen.get("/session_keyring"));
    Ok(())
}

fn standard_fds_are_the_only_ones(case: &Case) -> Outcome {
    let seen = case.bundle()?.see(case)?;
    let fds = seen.get("/fds").as_array().cloned().unwrap_or_default();
    let numbers: Vec<_> = fds.iter().filter_map(|fd| fd.get("fd").and_then(Value::as_i64)).collect();
    ensure!(numbers == [0, 1, 2], "the fds are {fds:?}");
    Ok(())
}

fn exec_of_a_process_has_the_capabilities_of_the_container(case: &Case) -> Outcome {
    let set = json!(["CAP_CHOWN", "CAP_NET_RAW"]);
    let bundle = case.bundle()?.with("/process/capabilities", json!({"bounding": set, "permitted": set}));
    let bundle = bundle.with("/process/noNewPrivileges", json!(true));
    let container = case.run_detached(&bundle.probe(&["--hold"]))?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    seen.is("/capabilities/bounding", &set)?;
    seen.is("/capabilities/inheritable", &json!([]))?;
    seen.is("/capabilities/ambient", &json!([]))?;
    seen.is("/no_new_privs", &json!(1))?;
    container.end()
}

fn exec_sets_the_umask_and_groups(case: &Case) -> Outcome {
    let bundle =
        case.bundle()?.with("/process/user", json!({"uid": 3, "gid": 4, "additionalGids": [5], "umask": 0o77}));
    let container = case.run_detached(&bundle.probe(&["--hold"]))?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    seen.is("/ids/uid", &json!(3))?;
    seen.is("/ids/gid", &json!(4))?;
    seen.is("/ids/groups", &json!([5]))?;
    seen.is("/umask", &json!(0o77))?;
    container.end()
}

fn exec_sets_rlimits_and_oom_score_adj(case: &Case) -> Outcome {
    let (core, score) = (json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]), json!(123));
    let limits = |seen: &Seen, core: Value, score: &Value| -> Check {
        seen.is("/rlimits/RLIMIT_CORE", &core)?;
        seen.is("/oom_score_adj", score)
    };
    let bundle = case.bundle()?.with("/process/rlimits", core).with("/process/oomScoreAdj", score.clone());
    let container = case.run_detached(&bundle.probe(&["--hold"]))?;
    limits(&container.exec(&["/probe"])?.succeeds()?.seen()?, json!({"soft": 1, "hard": 2}), &score)?;
    // A process from a file has what the file says, but not the score of a caller who protects himself.
    let file = case.dir.join("process.json");
    let rlimits = json!([{"type": "RLIMIT_CORE", "soft": 3, "hard": 4}]);
    let process = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "rlimits": rlimits});
    fs::write(&file, process.to_string())?;
    let exec = case.runtime(&["exec", "--process", &file.to_string_lossy(), &container.id]);
    let output = exec.before_exec(|| fs::write("/proc/self/oom_score_adj", "77")).go()?;
    limits(&output.succeeds()?.seen()?, json!({"soft": 3, "hard": 4}), &score)?;
    container.end()
}

fn few_descriptors_do_not_keep_the_program_from_running(case: &Case) -> Outcome {
    for limit in [3, 4, 6] {
        let rlimits = json!([{"type": "RLIMIT_NOFILE", "soft": limit, "hard": limit}]);
        let bundle = case.docker_like()?.without("/process/env").with("/process/rlimits", rlimits);
        let bundle = bundle.args(&["/bin/true"]).with("/process/user", json!({"uid": 1000, "gid": 1000}));
        bundle.run(case)?.succeeds().map_err(|stop| crate::bundle::within(stop, &format!("{limit} descriptors")))?;
    }
    // HOME is found all the same.
    let rlimits = json!([{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3}]);
    let bundle = case.bundle()?.with("/process/rlimits", rlimits).with("/process/user/uid", json!(1000));
    has_env(&bundle.see(case)?, "HOME=/home/user").map_err(Into::into)
}

fn a_script_without_interpreter_says_so(case: &Case) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let bundle = case.bundle()?.args(&["/script"]);
    let script = bundle.rootfs().join("script");
    fs::write(&script, "#!/no/such/shell\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    // runc's init reports it when nobody listens any more and ends with 255.
    let output = bundle.run(case)?;
    ensure!(output.status == 1 || output.status == 255, "{output}");
    output.is_one_line()?;
    ensure!(output.stderr.contains("/script") && output.stderr.contains("no such file or directory"), "{output}");
    Ok(())
}

fn hostname_env_and_annotations_may_be_any_unicode(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/process/env", json!(["HOME=/", "U=\u{1f980} \u{fc}\t\"\\"]));
    let bundle = bundle.with("/annotations", json!({"\u{1f980}": "\u{fc}\n\"\\"}));
    Ok(bundle.see(case)?.is("/env", &json!(["HOME=/", "U=\u{1f980} \u{fc}\t\"\\"]))?)
}
