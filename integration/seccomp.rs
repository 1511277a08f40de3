//! Seccomp: every action, operator and flag, the order of privileges, and that exec is confined like init.
//!
//! The probe makes the calls in a child, so that a lethal action is seen as a signal. The call that is filtered is
//! `sched_rr_get_interval` (148): nothing between the filter and execve needs it.

use serde_json::{Value, json};

use crate::bundle::{Check, Seen, property};
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    errno_is_returned,
    errno_defaults_to_eperm,
    kill_process_kills,
    kill_thread_kills,
    trap_sends_sigsys,
    trace_without_tracer_is_enosys,
    log_allows,
    the_default_action_applies_to_what_is_not_listed,
    operators_compare_arguments,
    conditions_of_one_rule_are_all_needed,
    several_rules_are_alternatives,
    a_newer_call_is_enosys,
    the_filter_is_there_with_and_without_no_new_privileges,
    the_filter_is_loaded_for_a_user_without_capabilities,
    the_filter_covers_exec,
    flags_are_accepted,
    an_unknown_call_is_ignored,
    an_unknown_action_is_refused,
    an_unknown_operator_is_refused,
    an_unknown_architecture_is_refused,
    empty_names_are_refused,
    errno_with_an_action_that_has_none_is_refused,
    several_architectures_are_accepted,
    a_filter_that_kills_everything_does_not_hang,
];

/// The call under test.
const CALL: &str = "148";

/// A profile that allows everything but the call under test.
pub fn profile(action: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["sched_rr_get_interval"], "action": action}]})
}

fn returns(seen: &Seen, call: &str, expected: &str) -> Check {
    seen.answers("syscall", call, &json!(expected))
}

fn acts(case: &Case, profile: Value, expected: &str) -> Outcome {
    property(case, "/linux/seccomp", profile).probe(&["--syscall", CALL]).holds(|seen| {
        seen.is("/seccomp/mode", &json!(2))?;
        returns(seen, CALL, expected)
    })
}

fn errno_is_returned(case: &Case) -> Outcome {
    let mut profile = profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/syscalls/0/errnoRet", json!(99));
    acts(case, profile, "EADDRNOTAVAIL")
}

fn errno_defaults_to_eperm(case: &Case) -> Outcome {
    acts(case, profile("SCMP_ACT_ERRNO"), "EPERM")
}

fn kill_process_kills(case: &Case) -> Outcome {
    acts(case, profile("SCMP_ACT_KILL_PROCESS"), "signal 31")
}

fn kill_thread_kills(case: &Case) -> Outcome {
    acts(case, profile("SCMP_ACT_KILL_THREAD"), "signal 31")?;
    acts(case, profile("SCMP_ACT_KILL"), "signal 31")
}

fn trap_sends_sigsys(case: &Case) -> Outcome {
    acts(case, profile("SCMP_ACT_TRAP"), "signal 31")
}

fn trace_without_tracer_is_enosys(case: &Case) -> Outcome {
    acts(case, profile("SCMP_ACT_TRACE"), "ENOSYS")
}

fn log_allows(case: &Case) -> Outcome {
    // A call with arguments that the kernel refuses shows that it was made.
    property(case, "/linux/seccomp", profile("SCMP_ACT_LOG"))
        .instead_of(profile("SCMP_ACT_ERRNO"))
        .probe(&["--syscall", "148,-1"])
        .holds(|seen| returns(seen, "148,-1", "EINVAL"))
}

fn the_default_action_applies_to_what_is_not_listed(case: &Case) -> Outcome {
    // The docker-like profile does not list acct (163).
    property(case, "/linux/seccomp/defaultErrnoRet", json!(95))
        .of_docker_like()
        .probe(&["--syscall", "163"])
        .holds(|seen| returns(seen, "163", "EOPNOTSUPP"))
}

/// A profile that refuses the call under test when its first argument fulfils a condition.
fn conditional(args: &Value) -> Value {
    let mut profile = profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/syscalls/0/errnoRet", json!(99));
    crate::bundle::set(&mut profile, "/syscalls/0/args", args.clone());
    profile
}

/// The operators: value, valueTwo, an argument that fulfils the condition and one that does not.
pub const OPERATORS: [(&str, u32, u32, u32, u32); 7] = [
    ("SCMP_CMP_EQ", 5, 0, 5, 6),
    ("SCMP_CMP_NE", 5, 0, 6, 5),
    ("SCMP_CMP_LT", 5, 0, 4, 5),
    ("SCMP_CMP_LE", 5, 0, 5, 6),
    ("SCMP_CMP_GT", 5, 0, 6, 5),
    ("SCMP_CMP_GE", 5, 0, 5, 4),
    ("SCMP_CMP_MASKED_EQ", 6, 4, 5, 7),
];

fn operators_compare_arguments(case: &Case) -> Outcome {
    for (operator, value, value_two, hit, miss) in OPERATORS {
        let args = json!([{"index": 2, "value": value, "valueTwo": value_two, "op": operator}]);
        let hit = format!("148,-1,0,{hit}");
        let miss = format!("148,-1,0,{miss}");
        property(case, "/linux/seccomp", conditional(&args)).probe(&["--syscall", &hit, "--syscall", &miss]).holds(
            |seen| {
                returns(seen, &hit, "EADDRNOTAVAIL").map_err(|why| format!("{operator}: {why}"))?;
                returns(seen, &miss, "EINVAL").map_err(|why| format!("{operator}: {why}"))
            },
        )?;
    }
    Ok(())
}

fn conditions_of_one_rule_are_all_needed(case: &Case) -> Outcome {
    let args = json!([{"index": 2, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 3, "value": 6, "op": "SCMP_CMP_EQ"}]);
    property(case, "/linux/seccomp", conditional(&args))
        .probe(&["--syscall", "148,-1,0,5,6", "--syscall", "148,-1,0,5,7"])
        .holds(|seen| {
            returns(seen, "148,-1,0,5,6", "EADDRNOTAVAIL")?;
            returns(seen, "148,-1,0,5,7", "EINVAL")
        })
}

fn several_rules_are_alternatives(case: &Case) -> Outcome {
    let rule = |value: u32| {
        json!({"names": ["sched_rr_get_interval"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99,
            "args": [{"index": 2, "value": value, "op": "SCMP_CMP_EQ"}]})
    };
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(5), rule(6)]});
    property(case, "/linux/seccomp", profile)
        .probe(&["--syscall", "148,-1,0,5", "--syscall", "148,-1,0,6", "--syscall", "148,-1,0,7"])
        .holds(|seen| {
            returns(seen, "148,-1,0,5", "EADDRNOTAVAIL")?;
            returns(seen, "148,-1,0,6", "EADDRNOTAVAIL")?;
            returns(seen, "148,-1,0,7", "EINVAL")
        })
}

fn a_newer_call_is_enosys(case: &Case) -> Outcome {
    // A call that the profile's author could not know is answered as by an older kernel, not refused.
    let seen = case.docker_like()?.probe(&["--syscall", "999", "--syscall", "163"]).see(case)?;
    returns(&seen, "999", "ENOSYS")?;
    Ok(returns(&seen, "163", "EPERM")?)
}

fn the_filter_is_there_with_and_without_no_new_privileges(case: &Case) -> Outcome {
    for value in [json!(true), json!(false)] {
        let bundle = case.bundle()?.with("/process/noNewPrivileges", value).probe(&["--syscall", CALL]);
        let seen = bundle.with("/linux/seccomp", profile("SCMP_ACT_ERRNO")).see(case)?;
        seen.is("/seccomp/mode", &json!(2))?;
        returns(&seen, CALL, "EPERM")?;
    }
    Ok(())
}

fn the_filter_is_loaded_for_a_user_without_capabilities(case: &Case) -> Outcome {
    // Without no_new_privs loading needs CAP_SYS_ADMIN, so it has to come before the capabilities are gone.
    for value in [json!(true), json!(false), Value::Null] {
        let mut bundle = case.bundle()?.with("/process/user", json!({"uid": 1000, "gid": 1000}));
        if !value.is_null() {
            bundle = bundle.with("/process/noNewPrivileges", value);
        }
        let bundle = bundle.with("/process/capabilities", json!({})).probe(&["--syscall", CALL]);
        let seen = bundle.with("/linux/seccomp", profile("SCMP_ACT_ERRNO")).see(case)?;
        returns(&seen, CALL, "EPERM")?;
        seen.is("/ids/uid", &json!(1000))?;
    }
    Ok(())
}

fn the_filter_covers_exec(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/linux/seccomp", profile("SCMP_ACT_ERRNO")).probe(&["--hold"]);
    let container = case.run_detached(&bundle)?;
    let seen = container.exec(&["/probe", "--syscall", CALL])?.succeeds()?.seen()?;
    returns(&seen, CALL, "EPERM")?;
    seen.is("/seccomp/filters", &json!(1))?;
    container.end()
}

fn flags_are_accepted(case: &Case) -> Outcome {
    for flags in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]),
    ] {
        let mut profile = profile("SCMP_ACT_ERRNO");
        crate::bundle::set(&mut profile, "/flags", flags);
        acts(case, profile, "EPERM")?;
    }
    let mut profile = profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/flags", json!(["SECCOMP_FILTER_FLAG_NOSUCH"]));
    property(case, "/linux/seccomp", profile).refused("SECCOMP_FILTER_FLAG_NOSUCH")
}

fn an_unknown_call_is_ignored(case: &Case) -> Outcome {
    let mut profile = profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/syscalls/0/names", json!(["no_such_call", "sched_rr_get_interval"]));
    acts(case, profile, "EPERM")
}

fn an_unknown_action_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/seccomp", profile("SCMP_ACT_NOSUCH")).refused("SCMP_ACT_NOSUCH")
}

fn an_unknown_operator_is_refused(case: &Case) -> Outcome {
    let args = json!([{"index": 0, "value": 5, "op": "SCMP_CMP_NOSUCH"}]);
    property(case, "/linux/seccomp", conditional(&args)).refused("SCMP_CMP_NOSUCH")?;
    let args = json!([{"index": 6, "value": 5, "op": "SCMP_CMP_EQ"}]);
    property(case, "/linux/seccomp", conditional(&args)).refused("")
}

fn an_unknown_architecture_is_refused(case: &Case) -> Outcome {
    let mut profile = profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/architectures", json!(["SCMP_ARCH_NOSUCH"]));
    property(case, "/linux/seccomp", profile).refused("SCMP_ARCH_NOSUCH")
}

fn empty_names_are_refused(case: &Case) -> Outcome {
    let mut profile = profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/syscalls/0/names", json!([]));
    property(case, "/linux/seccomp", profile).refused("names")
}

fn errno_with_an_action_that_has_none_is_refused(case: &Case) -> Outcome {
    let mut profile = profile("SCMP_ACT_KILL_PROCESS");
    crate::bundle::set(&mut profile, "/syscalls/0/errnoRet", json!(1));
    property(case, "/linux/seccomp", profile).refused("errno")?;
    let mut profile = self::profile("SCMP_ACT_ERRNO");
    crate::bundle::set(&mut profile, "/defaultErrnoRet", json!(1));
    property(case, "/linux/seccomp", profile).refused("rrno")
}

fn several_architectures_are_accepted(case: &Case) -> Outcome {
    let mut profile = profile("SCMP_ACT_ERRNO");
    let all = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"]);
    crate::bundle::set(&mut profile, "/architectures", all);
    acts(case, profile, "EPERM")
}

fn a_filter_that_kills_everything_does_not_hang(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}));
    let output = bundle.run(case)?;
    ensure!(output.status != 0, "{output}");
    ensure!(output.status >= 128 || !output.stderr.is_empty(), "it fails without a message: {output}");
    Ok(())
}
