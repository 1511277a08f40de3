//! Devices: the nodes that every container gets, those of `linux.devices`, and what the devices cgroup allows.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::{Bundle, property};
use crate::harness::{Case, Outcome, skip};
use crate::{ensure, tests};

tests![
    the_default_devices_are_there,
    the_default_links_are_there,
    a_character_device_is_made,
    an_unbuffered_device_is_a_character_device,
    a_block_device_is_made,
    a_fifo_is_made,
    a_device_in_a_missing_directory_is_made,
    a_file_that_does_not_match_is_an_error,
    a_device_that_matches_is_taken,
    an_unknown_device_type_is_refused,
    a_device_number_out_of_range_is_refused,
    a_denied_device_can_not_be_opened,
    an_allowed_device_can_be_opened,
    device_rules_apply_in_order,
    device_rules_hold_for_exec,
    a_rule_for_all_types_is_one_for_everything,
    a_privileged_container_may_use_everything,
    device_rules_mean_the_same_on_v1_and_v2,
];

/// A bundle with a tmpfs on /dev, where nodes do not stay in the rootfs.
fn with_dev(bundle: Bundle) -> Bundle {
    bundle.with("/mounts/-", json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}))
}

fn dev_mount() -> Value {
    json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"})
}

fn the_default_devices_are_there(case: &Case) -> Outcome {
    let seen = with_dev(case.bundle()?).see(case)?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let node = seen.answer("dev", &format!("/dev/{name}"));
        for (field, value) in [("type", json!("c")), ("major", json!(major)), ("minor", json!(minor))] {
            ensure!(node.get(field) == Some(&value), "/dev/{name} is {node}");
        }
        ensure!(node.get("mode") == Some(&json!(0o666)), "/dev/{name} is {node}");
        ensure!(node.get("uid") == Some(&json!(0)) && node.get("gid") == Some(&json!(0)), "/dev/{name} is {node}");
    }
    Ok(())
}

fn the_default_links_are_there(case: &Case) -> Outcome {
    let seen = with_dev(case.bundle()?).see(case)?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        let node = seen.answer("dev", &format!("/dev/{name}"));
        ensure!(node.get("target") == Some(&json!(target)), "/dev/{name} is {node}");
    }
    Ok(())
}

/// A device of `linux.devices` and what the probe must find.
fn is_made(case: &Case, device: &Value, expected: &[(&str, Value)]) -> Outcome {
    let path = device.get("path").and_then(Value::as_str).unwrap_or_default();
    property(case, "/linux/devices", json!([device])).given("/mounts/-", dev_mount()).holds(|seen| {
        let node = seen.answer("dev", path);
        for (field, value) in expected {
            ensure!(node.get(field) == Some(value), "{path} should have {field} {value}: {node}");
        }
        Ok(())
    })
}

fn a_character_device_is_made(case: &Case) -> Outcome {
    let device = json!({"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o640,
        "uid": 5, "gid": 6});
    let expected = [("type", json!("c")), ("major", json!(10)), ("minor", json!(229)), ("mode", json!(0o640))];
    is_made(case, &device, &expected)?;
    is_made(case, &device, &[("uid", json!(5)), ("gid", json!(6))])
}

fn an_unbuffered_device_is_a_character_device(case: &Case) -> Outcome {
    let device = json!({"type": "u", "path": "/dev/raw", "major": 10, "minor": 229});
    is_made(case, &device, &[("type", json!("c")), ("major", json!(10)), ("minor", json!(229))])
}

fn a_block_device_is_made(case: &Case) -> Outcome {
    let device = json!({"type": "b", "path": "/dev/loop77", "major": 7, "minor": 77});
    is_made(case, &device, &[("type", json!("b")), ("major", json!(7)), ("minor", json!(77))])
}

fn a_fifo_is_made(case: &Case) -> Outcome {
    let device = json!({"type": "p", "path": "/dev/fifo", "fileMode": 0o622});
    is_made(case, &device, &[("type", json!("p")), ("mode", json!(0o622))])
}

fn a_device_in_a_missing_directory_is_made(case: &Case) -> Outcome {
    let device = json!({"type": "c", "path": "/dev/a/b/null", "major": 1, "minor": 3});
    is_made(case, &device, &[("type", json!("c"))])
}

fn a_file_that_does_not_match_is_an_error(case: &Case) -> Outcome {
    let device = json!([{"type": "c", "path": "/dev/mine", "major": 10, "minor": 229}]);
    property(case, "/linux/devices", device)
        .prepared(|bundle| Ok(fs::write(bundle.rootfs().join("dev/mine"), "a file")?))
        .refused("/dev/mine")
}

fn a_device_that_matches_is_taken(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let path = bundle.rootfs().join("dev/mine");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::sys::stat::mknod(&path, nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(10, 229))?;
    let bundle = bundle.with("/linux/devices", json!([{"type": "c", "path": "/dev/mine", "major": 10, "minor": 229}]));
    let seen = bundle.see(case)?;
    ensure!(seen.answer("dev", "/dev/mine").get("minor") == Some(&json!(229)), "{}", seen.answer("dev", "/dev/mine"));
    Ok(())
}

fn an_unknown_device_type_is_refused(case: &Case) -> Outcome {
    let device = json!([{"type": "x", "path": "/dev/mine", "major": 1, "minor": 3}]);
    property(case, "/linux/devices", device).given("/mounts/-", dev_mount()).refused("")
}

fn a_device_number_out_of_range_is_refused(case: &Case) -> Outcome {
    for (major, minor) in [(-5_i64, 1_i64), (1, -5), (1 << 40, 1), (1, 1 << 40)] {
        let device = json!([{"type": "c", "path": "/dev/mine", "major": major, "minor": minor}]);
        property(case, "/linux/devices", device).given("/mounts/-", dev_mount()).refused("")?;
    }
    Ok(())
}

/// The device that rules are tried with: not among the defaults, and opening it does nothing.
const TRIED: (&str, u32, u32) = ("/dev/fuse", 10, 229);

/// A bundle in whose /dev the tried device lies.
fn with_tried_device(bundle: &mut Bundle) -> Outcome {
    if !Path::new(TRIED.0).exists() {
        return skip("the kernel has no /dev/fuse");
    }
    crate::bundle::set(&mut bundle.config, "/mounts/-", dev_mount());
    let device = json!([{"type": "c", "path": TRIED.0, "major": TRIED.1, "minor": TRIED.2}]);
    crate::bundle::set(&mut bundle.config, "/linux/devices", device);
    Ok(())
}

fn all(allow: bool) -> Value {
    json!({"allow": allow, "access": "rwm"})
}

fn tried(allow: bool, access: &str) -> Value {
    json!({"allow": allow, "type": "c", "major": TRIED.1, "minor": TRIED.2, "access": access})
}

const RULES: &str = "/linux/resources/devices";

fn a_denied_device_can_not_be_opened(case: &Case) -> Outcome {
    property(case, RULES, json!([all(false)]))
        .instead_of(json!([all(true)]))
        .prepared(with_tried_device)
        .probe(&["--open", TRIED.0, "--open", "/dev/null"])
        .holds(|seen| {
            seen.answers("open", TRIED.0, &json!("EPERM"))?;
            // The default devices stay usable.
            seen.answers("open", "/dev/null", &json!("ok"))
        })
}

fn an_allowed_device_can_be_opened(case: &Case) -> Outcome {
    property(case, RULES, json!([all(false), tried(true, "rw")]))
        .instead_of(json!([all(false)]))
        .prepared(with_tried_device)
        .probe(&["--open", TRIED.0])
        .holds(|seen| seen.answers("open", TRIED.0, &json!("ok")))
}

fn device_rules_apply_in_order(case: &Case) -> Outcome {
    property(case, RULES, json!([all(false), tried(true, "rwm"), tried(false, "w")]))
        .instead_of(json!([all(false), tried(false, "w"), tried(true, "rwm")]))
        .prepared(with_tried_device)
        .probe(&["--open", TRIED.0, "--read", TRIED.0])
        .holds(|seen| seen.answers("open", TRIED.0, &json!("EPERM")))
}

fn device_rules_hold_for_exec(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.with(RULES, json!([all(false)])).probe(&["--hold"]);
    with_tried_device(&mut bundle)?;
    let container = case.run_detached(&bundle)?;
    let seen = container.exec(&["/probe", "--open", TRIED.0])?.succeeds()?.seen()?;
    seen.answers("open", TRIED.0, &json!("EPERM"))?;
    container.end()
}

fn a_rule_for_all_types_is_one_for_everything(case: &Case) -> Outcome {
    // To the controller of v1 numbers and access beside `a` are nothing, and what was said before is gone.
    property(case, RULES, json!([tried(true, "rwm"), {"allow": false, "type": "a", "major": 5, "access": "m"}]))
        .instead_of(json!([all(false), {"allow": true, "major": 5, "access": "m"}]))
        .prepared(with_tried_device)
        .probe(&["--open", TRIED.0])
        .holds(|seen| seen.answers("open", TRIED.0, &json!("EPERM")))
}

fn a_privileged_container_may_use_everything(case: &Case) -> Outcome {
    property(case, RULES, json!([all(true)]))
        .instead_of(json!([all(false)]))
        .prepared(with_tried_device)
        .probe(&["--open", TRIED.0])
        .holds(|seen| seen.answers("open", TRIED.0, &json!("ok")))
}

/// Nodes without a driver: opening one is EPERM where the rules deny it, and ENXIO where they do not.
const NODES: [(&str, u64, u64); 5] = [("c", 120, 1), ("c", 120, 2), ("c", 121, 1), ("b", 120, 1), ("b", 121, 2)];

/// One rule, `+` or `-`, type, major, minor, access: `- c 120 * rw`.
fn parsed(rule: &str) -> Value {
    let words: Vec<&str> = rule.split(' ').collect();
    let number = |word: &str| word.parse::<i64>().unwrap_or(-1);
    match words[..] {
        [verb, "a"] => all(verb == "+"),
        [verb, kind, major, minor, access] => json!({"allow": verb == "+", "type": kind, "major": number(major),
            "minor": number(minor), "access": access}),
        _ => Value::Null,
    }
}

/// A bundle with the nodes, whose probe tries to open and to make each of them.
fn trying_all_nodes(case: &Case, rules: &[&str]) -> Outcome<Bundle> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let bundle = case.bundle()?;
    let mut options = Vec::new();
    for (kind, major, minor) in NODES {
        let name = format!("/tmp/{kind}{major}-{minor}");
        let flag = if kind == "b" { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
        let path = bundle.rootfs().join(name.trim_start_matches('/'));
        mknod(&path, flag, Mode::from_bits_truncate(0o600), makedev(major, minor))?;
        options.extend(["r", "w", "rw"].map(|mode| ["--try".to_owned(), format!("{mode}:{name}")]).concat());
        options.extend(["--mknod".to_owned(), format!("/tmp/new:{kind}:{major}:{minor}")]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let capabilities = json!({"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]});
    let bundle = bundle.probe(&options).with("/process/capabilities", capabilities);
    let path = json!(format!("/corten-test/{}", bundle.id));
    let rules: Vec<Value> = rules.iter().map(|rule| parsed(rule)).collect();
    Ok(bundle.with("/linux/cgroupsPath", path).with(RULES, json!(rules)))
}

/// What the probe was denied, in order: `w:/tmp/c120-1`.
fn denied(output: &crate::runtime::Output) -> Outcome<Vec<String>> {
    let seen = output.clone().succeeds()?.seen()?;
    let answers = ["try", "mknod"].map(|group| seen.get(&format!("/{group}")).as_object().cloned().unwrap_or_default());
    let mut denied = Vec::new();
    for (argument, answer) in answers.into_iter().flatten() {
        match answer.as_str() {
            Some("EPERM") => denied.push(argument),
            Some("ok" | "ENXIO" | "ENODEV") => {}
            _ => return Err(format!("{argument} is {answer}").into()),
        }
    }
    Ok(denied)
}

fn device_rules_mean_the_same_on_v1_and_v2(case: &Case) -> Outcome {
    if case.machine.cgroup2 {
        return skip("the host view runs this on both");
    }
    let lists: [&[&str]; 14] = [
        &["- a", "+ c 120 1 r", "+ c 120 * w"],
        &["- a", "+ c 120 * rwm", "- c 120 1 w"],
        &["- a", "+ c * * rw", "- c * * w"],
        &["- a", "+ c 120 1 rw", "- c 120 1 w", "+ b 120 * r"],
        &["- a", "+ b 120 * rwm", "+ c * 1 r"],
        &["+ a", "- c 120 1 w"],
        &["+ a", "- c 120 * rw", "+ c 120 1 rw"],
        &["+ a", "- c 120 1 rw", "+ c 120 1 r"],
        &["+ a", "- b * * w", "- c * 2 r"],
        &["+ a", "- c 120 1 m", "+ c * * m"],
        &["+ a", "- c * * m"],
        &["+ a", "- c * * rwm", "- b * * rwm", "+ c 120 * rw"],
        &["+ c 120 1 rwm", "+ a", "- b 120 1 r", "- a", "+ c 121 1 r"],
        &[],
    ];
    let v2 = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let mut verdicts = std::collections::BTreeSet::new();
    for rules in lists {
        let on_v1 = denied(&trying_all_nodes(case, rules)?.run(case)?)?;
        let bundle = trying_all_nodes(case, rules)?;
        bundle.write()?;
        let on_v2 = denied(&case.scripted(&[], v2, &bundle.run_arguments()).go()?)?;
        ensure!(on_v1 == on_v2, "after {rules:?} v1 denies {on_v1:?}, v2 denies {on_v2:?}");
        verdicts.insert(on_v1);
    }
    ensure!(verdicts.len() > 8, "the lists do not differ: {verdicts:?}");
    Ok(())
}
