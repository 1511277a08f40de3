//! Masked and read-only paths.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::bundle::property;
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    a_masked_file_is_empty,
    a_masked_directory_is_empty_and_readonly,
    masked_directories_share_one_file_system,
    a_masked_path_that_is_missing_is_no_error,
    a_masked_path_of_proc_is_hidden,
    a_readonly_path_is_readonly_and_readable,
    a_readonly_path_that_is_missing_is_no_error,
    a_readonly_path_covers_what_is_mounted_below,
    a_readonly_path_keeps_the_flags_of_its_mount,
    duplicate_masked_paths_are_mounted_once,
    masks_hold_for_exec,
    relative_paths_are_refused,
    a_masked_path_through_a_link_stays_inside,
];

fn with_files(bundle: &mut crate::bundle::Bundle) -> Outcome {
    for name in ["one", "two"] {
        fs::create_dir(bundle.rootfs().join(name))?;
        fs::write(bundle.rootfs().join(name).join("file"), "secret")?;
    }
    Ok(())
}

fn a_masked_file_is_empty(case: &Case) -> Outcome {
    property(case, "/linux/maskedPaths", json!(["/one/file"]))
        .prepared(with_files)
        .probe(&["--read", "/one/file"])
        .holds(|seen| seen.reads("/one/file", ""))
}

fn a_masked_directory_is_empty_and_readonly(case: &Case) -> Outcome {
    property(case, "/linux/maskedPaths", json!(["/one"]))
        .prepared(with_files)
        .probe(&["--list", "/one", "--write", "/one"])
        .holds(|seen| {
            seen.answers("list", "/one", &json!({"names": []}))?;
            seen.answers("write", "/one", &json!("EROFS"))
        })
}

fn masked_directories_share_one_file_system(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.with("/linux/maskedPaths", json!(["/one", "/two"]));
    with_files(&mut bundle)?;
    let seen = bundle.probe(&["--stat", "/one", "--stat", "/two"]).see(case)?;
    let dev = |path: &str| seen.answer("stat", path).get("dev").and_then(Value::as_u64);
    ensure!(dev("/one").is_some() && dev("/one") == dev("/two"), "{:?} and {:?}", dev("/one"), dev("/two"));
    Ok(())
}

fn a_masked_path_that_is_missing_is_no_error(case: &Case) -> Outcome {
    case.bundle()?.with("/linux/maskedPaths", json!(["/no/such/path"])).see(case).map(drop)
}

fn a_masked_path_of_proc_is_hidden(case: &Case) -> Outcome {
    property(case, "/linux/maskedPaths", json!(["/proc/version", "/proc/bus"]))
        .probe(&["--read", "/proc/version", "--list", "/proc/bus"])
        .holds(|seen| {
            ensure!(seen.text("/proc/version")?.is_empty(), "/proc/version can be read");
            seen.answers("list", "/proc/bus", &json!({"names": []}))
        })
}

fn a_readonly_path_is_readonly_and_readable(case: &Case) -> Outcome {
    property(case, "/linux/readonlyPaths", json!(["/one", "/two/file"]))
        .prepared(with_files)
        .probe(&["--write", "/one", "--write", "/one/file", "--write", "/two/file", "--read", "/one/file"])
        .holds(|seen| {
            for path in ["/one", "/one/file", "/two/file"] {
                seen.answers("write", path, &json!("EROFS"))?;
            }
            ensure!(seen.text("/one/file")? == "secret", "it cannot be read");
            Ok(())
        })
}

fn a_readonly_path_that_is_missing_is_no_error(case: &Case) -> Outcome {
    case.bundle()?.with("/linux/readonlyPaths", json!(["/no/such/path"])).see(case).map(drop)
}

fn a_readonly_path_covers_what_is_mounted_below(case: &Case) -> Outcome {
    // As /proc/sys: a write below a read-only path is refused even where another mount lies.
    let tmpfs = json!({"destination": "/one/sub", "type": "tmpfs", "source": "tmpfs"});
    let mut bundle = case.bundle()?.with("/linux/readonlyPaths", json!(["/one"])).with("/mounts/-", tmpfs);
    with_files(&mut bundle)?;
    let seen = bundle.probe(&["--write", "/one", "--list", "/one/sub"]).see(case)?;
    Ok(seen.answers("write", "/one", &json!("EROFS"))?)
}

fn a_readonly_path_keeps_the_flags_of_its_mount(case: &Case) -> Outcome {
    property(case, "/linux/readonlyPaths", json!(["/mnt/sub"]))
        .given(
            "/mounts/-",
            json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec"]}),
        )
        .given("/mounts/2", json!({"destination": "/mnt/sub/deep", "type": "tmpfs", "source": "tmpfs"}))
        .holds(|seen| seen.mounted_with("/mnt/sub", &["ro", "nosuid", "nodev", "noexec"]))
}

fn duplicate_masked_paths_are_mounted_once(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.with("/linux/maskedPaths", json!(["/one", "/one", "/two/file", "/two/file"]));
    with_files(&mut bundle)?;
    let seen = bundle.see(case)?;
    let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
    for path in ["/one", "/two/file"] {
        let count = mounts.iter().filter(|mount| mount.get("destination") == Some(&json!(path))).count();
        ensure!(count == 1, "{path} is masked {count} times");
    }
    Ok(())
}

fn masks_hold_for_exec(case: &Case) -> Outcome {
    let mut bundle = case.bundle()?.with("/linux/maskedPaths", json!(["/one/file"]));
    with_files(&mut bundle)?;
    let bundle = bundle.with("/linux/readonlyPaths", json!(["/two"])).probe(&["--hold"]);
    let container = case.run_detached(&bundle)?;
    let seen = container.exec(&["/probe", "--read", "/one/file", "--write", "/two"])?.succeeds()?.seen()?;
    ensure!(seen.text("/one/file")?.is_empty(), "it can be read");
    seen.answers("write", "/two", &json!("EROFS"))?;
    container.end()
}

fn relative_paths_are_refused(case: &Case) -> Outcome {
    for pointer in ["/linux/maskedPaths", "/linux/readonlyPaths"] {
        property(case, pointer, json!(["one/file"])).prepared(with_files).refused("one/file")?;
    }
    Ok(())
}

fn a_masked_path_through_a_link_stays_inside(case: &Case) -> Outcome {
    // The image decides what a path means, but only inside: the file of the host stays as it is.
    let host = case.dir.join("host-file");
    fs::write(&host, "of the host")?;
    let bundle = case.bundle()?.with("/linux/maskedPaths", json!(["/link"]));
    symlink(&host, bundle.rootfs().join("link"))?;
    let before = fs::read_to_string("/proc/self/mountinfo")?;
    let output = bundle.run(case)?;
    ensure!(output.status <= 1, "{output}");
    ensure!(fs::read_to_string(&host)? == "of the host", "the file of the host has changed");
    let own = |text: &str| text.lines().filter(|line| line.contains(&case.tag)).count();
    ensure!(own(&before) == own(&fs::read_to_string("/proc/self/mountinfo")?), "something was mounted on the host");
    Ok(())
}
