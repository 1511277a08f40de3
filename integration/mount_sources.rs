//! What is mounted: files of every kind, links, things that are gone, a tmpfs that begins with a copy, overlays of many
//! layers, very many mounts, and cgroups as each layout shows them.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::bundle::{Bundle, Seen, property, within};
use crate::harness::{Case, Outcome, skip};
use crate::mounts::{bind, tmpfs, volume};
use crate::{ensure, tests};

tests![
    a_socket_a_fifo_and_a_device_are_bound,
    a_source_that_is_a_link_is_followed,
    a_link_is_bound_itself_with_src_nofollow,
    a_link_at_the_destination_is_covered_with_dest_nofollow,
    a_missing_destination_with_dest_nofollow_is_made,
    a_link_is_copied_with_copy_symlink,
    copy_symlink_mounts_what_is_no_link,
    a_copied_link_does_not_replace_another,
    a_file_that_was_deleted_is_bound_by_its_descriptor,
    a_directory_is_bound_by_its_descriptor,
    a_source_below_the_rootfs_is_taken_in_order,
    a_file_below_the_rootfs_is_bound,
    a_file_on_a_directory_is_refused,
    a_whole_procfs_may_be_bound_on_proc,
    tmpcopyup_copies_everything_as_it_is,
    tmpcopyup_of_a_directory_is_a_copy,
    tmpcopyup_may_be_read_only,
    tmpcopyup_of_nothing_is_an_empty_tmpfs,
    tmpcopyup_keeps_the_mode_that_is_given,
    tmpcopyup_is_for_a_tmpfs_only,
    tmpcopyup_works_in_a_user_namespace,
    tmpcopyup_sees_earlier_mounts,
    an_overlay_with_many_layers_is_mounted,
    an_overlay_with_long_layers_is_mounted,
    an_overlay_with_colons_in_its_layers_is_mounted,
    a_relative_destination_with_dots_stays_in_the_root,
    a_mount_on_the_root_becomes_the_root,
    an_overlay_on_the_root_becomes_the_root,
    a_remount_of_the_root_changes_nothing_of_the_host,
    cgroups_are_mounted_read_only_or_not,
    cgroups_are_mounted_in_a_cgroup_namespace,
    no_pivot_hides_the_file_systems_of_the_host,
    a_limit_on_descriptors_reaches_the_container_unchanged;
    serial: a_thousand_mounts_are_made,
];

fn node<'s>(seen: &'s Seen, path: &str) -> &'s Value {
    seen.answer("stat", path)
}

fn a_socket_a_fifo_and_a_device_are_bound(case: &Case) -> Outcome {
    let dir = case.dir.join("sources");
    fs::create_dir(&dir)?;
    let _listener = std::os::unix::net::UnixListener::bind(dir.join("socket"))?;
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    for (source, kind) in [(dir.join("socket"), "s"), (dir.join("fifo"), "p"), (PathBuf::from("/dev/null"), "c")] {
        // The destination is made, and one that is there is used.
        for destination in ["/run/new/it", "/etc/passwd"] {
            property(case, "/mounts/-", bind(&source, destination, &["bind"]))
                .probe(&["--stat", destination])
                .holds(|seen| {
                    ensure!(node(seen, destination).get("type") == Some(&json!(kind)), "{}", node(seen, destination));
                    Ok(())
                })
                .map_err(|stop| within(stop, kind))?;
        }
    }
    Ok(())
}

/// A directory with a file and a link to it.
fn linked(case: &Case) -> Outcome<PathBuf> {
    let dir = volume(case, "volume")?;
    symlink("file", dir.join("link"))?;
    Ok(dir)
}

fn a_source_that_is_a_link_is_followed(case: &Case) -> Outcome {
    let dir = linked(case)?;
    property(case, "/mounts/-", bind(&dir.join("link"), "/it", &["bind"]))
        .probe(&["--read", "/it", "--stat", "/it"])
        .holds(|seen| {
            seen.reads("/it", "content")?;
            ensure!(node(seen, "/it").get("type") == Some(&json!("f")), "{}", node(seen, "/it"));
            Ok(())
        })
}

fn a_link_is_bound_itself_with_src_nofollow(case: &Case) -> Outcome {
    let dir = linked(case)?;
    property(case, "/mounts/1/options", json!(["bind", "src-nofollow"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&dir.join("link"), "/it", &[]))
        .probe(&["--stat", "/it"])
        .holds(|seen| {
            let stat = node(seen, "/it");
            ensure!(stat.get("type") == Some(&json!("l")) && stat.get("target") == Some(&json!("file")), "{stat}");
            Ok(())
        })
}

fn a_link_at_the_destination_is_covered_with_dest_nofollow(case: &Case) -> Outcome {
    let dir = volume(case, "volume")?;
    property(case, "/mounts/1/options", json!(["bind", "dest-nofollow"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&dir.join("file"), "/it", &[]))
        .prepared(|bundle| {
            fs::write(bundle.rootfs().join("target"), "target")?;
            Ok(symlink("target", bundle.rootfs().join("it"))?)
        })
        .probe(&["--read", "/target", "--read", "/it"])
        .holds(|seen| {
            seen.reads("/target", "target")?;
            seen.reads("/it", "content")
        })
}

fn a_missing_destination_with_dest_nofollow_is_made(case: &Case) -> Outcome {
    let dir = volume(case, "volume")?;
    property(case, "/mounts/-", bind(&dir.join("file"), "/a/b/it", &["bind", "dest-nofollow"]))
        .probe(&["--read", "/a/b/it"])
        .holds(|seen| seen.reads("/a/b/it", "content"))?;
    property(case, "/mounts/-", bind(&dir, "/a/b/it", &["bind", "dest-nofollow"]))
        .probe(&["--read", "/a/b/it/file"])
        .holds(|seen| seen.reads("/a/b/it/file", "content"))
}

fn a_link_is_copied_with_copy_symlink(case: &Case) -> Outcome {
    let dir = linked(case)?;
    let mount = bind(&dir.join("link"), "/a/b/it", &["bind", "copy-symlink"]);
    let bundle = case.bundle()?.with("/mounts/-", mount).probe(&["--stat", "/a/b/it"]);
    // It is there already the second time.
    for _ in 0..2 {
        let seen = bundle.see(case)?;
        ensure!(node(&seen, "/a/b/it").get("target") == Some(&json!("file")), "{}", node(&seen, "/a/b/it"));
        ensure!(seen.mount("/a/b/it").is_err(), "something is mounted");
    }
    Ok(())
}

fn copy_symlink_mounts_what_is_no_link(case: &Case) -> Outcome {
    let dir = volume(case, "volume")?;
    property(case, "/mounts/-", bind(&dir.join("file"), "/it", &["bind", "copy-symlink", "ro"]))
        .probe(&["--read", "/it"])
        .holds(|seen| {
            seen.reads("/it", "content")?;
            seen.mounted_with("/it", &["ro"])
        })
}

fn a_copied_link_does_not_replace_another(case: &Case) -> Outcome {
    let dir = linked(case)?;
    let bundle = case.bundle()?.with("/mounts/-", bind(&dir.join("link"), "/it", &["bind", "copy-symlink"]));
    symlink("elsewhere", bundle.rootfs().join("it"))?;
    bundle.run(case)?.fails(1, "/it")?;
    ensure!(fs::read_link(bundle.rootfs().join("it"))? == Path::new("elsewhere"), "the link was replaced");
    Ok(())
}

fn a_file_that_was_deleted_is_bound_by_its_descriptor(case: &Case) -> Outcome {
    let path = case.dir.join("deleted");
    fs::write(&path, "of a deleted file")?;
    let file = fs::File::open(&path)?;
    fs::remove_file(&path)?;
    let source = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mount = bind(Path::new(&source), "/it", &["bind"]);
    let output = case.bundle()?.with("/mounts/-", mount).probe(&["--read", "/it"]).run(case)?;
    if output.status != 0 && output.stderr.to_lowercase().contains("no such file") {
        let output = output.fails(1, "")?;
        ensure!(!case.machine.is_corten() || output.stderr.contains("was deleted"), "{output}");
        return skip("this kernel mounts nothing that has been deleted");
    }
    Ok(output.succeeds()?.seen()?.reads("/it", "of a deleted file")?)
}

fn a_directory_is_bound_by_its_descriptor(case: &Case) -> Outcome {
    let dir = fs::File::open(volume(case, "volume")?)?;
    let source = format!("/proc/{}/fd/{}", std::process::id(), dir.as_raw_fd());
    property(case, "/mounts/-", bind(Path::new(&source), "/mnt", &["rbind"]))
        .probe(&["--read", "/mnt/file"])
        .holds(|seen| seen.reads("/mnt/file", "content"))
}

fn a_source_below_the_rootfs_is_taken_in_order(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let below = |bundle: &Bundle| bind(&bundle.rootfs().join("first"), "/second", &["rbind"]);
    for order in [[0, 1], [1, 0]] {
        let bundle = case.bundle()?;
        fs::create_dir(bundle.rootfs().join("first"))?;
        let mounts = [bind(&volume, "/first", &["bind"]), below(&bundle)];
        let bundle = order.iter().fold(bundle, |bundle, at| bundle.with("/mounts/-", mounts[*at].clone()));
        let seen = bundle.probe(&["--read", "/second/file"]).see(case)?;
        let found = seen.text("/second/file").ok();
        let expected = (order[0] == 0).then_some("content");
        ensure!(found == expected, "in the order {order:?} it holds {found:?}");
    }
    Ok(())
}

fn a_file_below_the_rootfs_is_bound(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let source = bundle.rootfs().join("etc/passwd");
    let seen =
        bundle.with("/mounts/-", bind(&source, "/copy", &["bind", "ro"])).probe(&["--read", "/copy"]).see(case)?;
    ensure!(seen.text("/copy")?.starts_with("root:"), "it holds {:?}", seen.text("/copy")?);
    Ok(seen.mounted_with("/copy", &["ro"])?)
}

fn a_file_on_a_directory_is_refused(case: &Case) -> Outcome {
    let dir = volume(case, "volume")?;
    property(case, "/mounts/-", bind(&dir.join("file"), "/tmp", &["bind"])).refused("/tmp")?;
    property(case, "/mounts/-", bind(&dir, "/etc/passwd", &["bind"])).refused("/etc/passwd")
}

fn a_whole_procfs_may_be_bound_on_proc(case: &Case) -> Outcome {
    let whole = bind(Path::new("/proc"), "/proc", &["rbind", "nosuid", "nodev", "noexec"]);
    let own = std::process::id();
    property(case, "/mounts", json!([whole])).given("/linux/namespaces", json!([{"type": "mount"}])).holds(|seen| {
        let processes = seen.get("/processes").as_array().cloned().unwrap_or_default();
        ensure!(processes.contains(&json!(own)), "the processes are {processes:?}");
        seen.mounted_with("/proc", &["nosuid", "nodev", "noexec"])
    })?;
    for source in ["/proc/self", "/proc/sys", "/tmp", "/sys"] {
        let mount = bind(Path::new(source), "/proc", &["bind"]);
        case.bundle()?.with("/mounts", json!([mount])).run(case)?.fails(1, "/proc")?;
    }
    Ok(())
}

/// A directory with one of everything; its owner is 5:6.
fn fill(dir: &Path) -> Outcome {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    fs::create_dir_all(dir.join("nested/deep/deeper"))?;
    fs::write(dir.join("nested/deep/deeper/file"), "deep")?;
    fs::write(dir.join("plain"), "plain")?;
    fs::write(dir.join("large"), "x".repeat(300_000))?;
    fs::write(dir.join("program"), "#!/bin/sh\n")?;
    symlink("plain", dir.join("link"))?;
    symlink("/no/such/target", dir.join("dangling"))?;
    nix::unistd::mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o600))?;
    mknod(&dir.join("device"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3))?;
    drop(std::os::unix::net::UnixListener::bind(dir.join("socket"))?);
    fs::create_dir(dir.join("sticky"))?;
    for (name, owner, mode) in [
        ("plain", (5, 6), 0o640),
        ("program", (5, 6), 0o6755),
        ("fifo", (7, 8), 0o622),
        ("nested", (5, 6), 0o2770),
        ("sticky", (0, 0), 0o1777),
        ("nested/deep/deeper/file", (9, 9), 0o400),
        ("device", (0, 0), 0o604),
    ] {
        chown(dir.join(name), Some(owner.0), Some(owner.1))?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode))?;
    }
    std::os::unix::fs::lchown(dir.join("link"), Some(5), Some(5))?;
    chown(dir, Some(5), Some(6))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o1751))?;
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000));
    Ok(fs::File::options().write(true).open(dir.join("plain"))?.set_times(times)?)
}

const NAMES: [&str; 13] = [
    "",
    "/nested",
    "/nested/deep",
    "/nested/deep/deeper/file",
    "/plain",
    "/large",
    "/program",
    "/link",
    "/dangling",
    "/fifo",
    "/device",
    "/socket",
    "/sticky",
];

fn copied_tmpfs(options: &[&str]) -> Value {
    let mut mount = tmpfs("/data");
    mount["options"] = json!(options);
    mount
}

fn tmpcopyup_copies_everything_as_it_is(case: &Case) -> Outcome {
    let paths = NAMES.map(|name| format!("/data{name}"));
    let mut probe: Vec<&str> = paths.iter().flat_map(|path| ["--stat", path.as_str()]).collect();
    probe.extend(["--read", "/data/plain", "--read", "/data/large", "--list", "/data"]);
    let caps =
        json!({"bounding": ["CAP_DAC_OVERRIDE"], "effective": ["CAP_DAC_OVERRIDE"], "permitted": ["CAP_DAC_OVERRIDE"]});
    let facts = |bundle: Bundle| bundle.with("/process/capabilities", caps.clone()).probe(&probe).see(case);
    let plain = case.bundle()?;
    fill(&plain.rootfs().join("data"))?;
    let original = facts(plain)?;
    let bundle = case.bundle()?.with("/mounts/-", copied_tmpfs(&["tmpcopyup", "nosuid"]));
    fill(&bundle.rootfs().join("data"))?;
    let copy = facts(bundle)?;
    copy.mounted_with("/data", &["nosuid"])?;
    ensure!(copy.mount("/data")?.get("fstype") == Some(&json!("tmpfs")), "{}", copy.mount("/data")?);
    for path in &paths {
        let fields = ["type", "mode", "uid", "gid", "major", "minor", "target"];
        for field in fields {
            let (found, expected) = (node(&copy, path).get(field), node(&original, path).get(field));
            ensure!(found == expected, "{field} of {path} is {found:?}, not {expected:?}");
        }
        ensure!(node(&copy, path).get("dev") != node(&original, path).get("dev"), "{path} is the original");
    }
    for group in ["read", "list"] {
        ensure!(copy.get(&format!("/{group}")) == original.get(&format!("/{group}")), "{group} differs");
    }
    Ok(())
}

fn tmpcopyup_of_a_directory_is_a_copy(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/mounts/-", copied_tmpfs(&["tmpcopyup"]));
    fs::create_dir(bundle.rootfs().join("data"))?;
    fs::write(bundle.rootfs().join("data/file"), "before")?;
    let bundle = bundle.probe(&["--put", "/data/file=after!", "--read", "/data/file", "--make", "/data/new"]);
    let seen = bundle.see(case)?;
    seen.reads("/data/file", "after!")?;
    ensure!(fs::read_to_string(bundle.rootfs().join("data/file"))? == "before", "the original was changed");
    ensure!(!bundle.rootfs().join("data/new").exists(), "a file was made in the original");
    Ok(())
}

fn tmpcopyup_may_be_read_only(case: &Case) -> Outcome {
    property(case, "/mounts/1/options", json!(["tmpcopyup", "ro"]))
        .instead_of(json!(["tmpcopyup"]))
        .given("/mounts/1", tmpfs("/etc"))
        .probe(&["--read", "/etc/passwd", "--write", "/etc", "--write", "/etc/passwd"])
        .holds(|seen| {
            ensure!(seen.text("/etc/passwd")?.starts_with("root:"), "it holds {:?}", seen.text("/etc/passwd")?);
            seen.answers("write", "/etc", &json!("EROFS"))?;
            seen.answers("write", "/etc/passwd", &json!("EROFS"))?;
            seen.mounted_with("/etc", &["ro"])
        })
}

fn tmpcopyup_of_nothing_is_an_empty_tmpfs(case: &Case) -> Outcome {
    let seen = case.bundle()?.with("/mounts/-", copied_tmpfs(&["tmpcopyup"])).probe(&["--list", "/data"]).see(case)?;
    ensure!(seen.mount("/data")?.get("fstype") == Some(&json!("tmpfs")), "{}", seen.mount("/data")?);
    Ok(seen.answers("list", "/data", &json!({"names": []}))?)
}

fn tmpcopyup_keeps_the_mode_that_is_given(case: &Case) -> Outcome {
    property(case, "/mounts/1/options", json!(["tmpcopyup", "mode=0711"]))
        .instead_of(json!(["tmpcopyup"]))
        .given("/mounts/1", tmpfs("/etc"))
        .probe(&["--stat", "/etc", "--read", "/etc/passwd"])
        .holds(|seen| {
            seen.text("/etc/passwd")?;
            ensure!(node(seen, "/etc").get("mode") == Some(&json!(0o711)), "{}", node(seen, "/etc"));
            Ok(())
        })
}

fn tmpcopyup_is_for_a_tmpfs_only(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    case.bundle()?
        .with("/mounts/-", bind(&volume, "/etc", &["bind", "tmpcopyup"]))
        .run(case)?
        .fails(1, "tmpcopyup")
        .map(drop)
}

fn tmpcopyup_works_in_a_user_namespace(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let data = bundle.rootfs().join("data");
    fs::create_dir(&data)?;
    fs::write(data.join("file"), "content")?;
    let bundle = bundle.in_user_namespace()?;
    chown(data.join("file"), Some(100_005), Some(100_006))?;
    fs::set_permissions(data.join("file"), fs::Permissions::from_mode(0o4640))?;
    let bundle = bundle.with("/mounts/-", copied_tmpfs(&["tmpcopyup"])).probe(&["--stat", "/data/file"]);
    let seen = bundle.see(case)?;
    let stat = node(&seen, "/data/file");
    let expected = (Some(&json!(5)), Some(&json!(6)), Some(&json!(0o4640)));
    ensure!((stat.get("uid"), stat.get("gid"), stat.get("mode")) == expected, "{stat}");
    Ok(())
}

fn tmpcopyup_sees_earlier_mounts(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let bundle = case.bundle()?.with("/mounts/-", bind(&volume, "/data/sub", &["bind"]));
    let bundle = bundle.with("/mounts/-", copied_tmpfs(&["tmpcopyup"])).probe(&["--read", "/data/sub/file"]);
    Ok(bundle.see(case)?.reads("/data/sub/file", "content")?)
}

/// Directories for the layers of an overlay, the first on top; each has a file of its own and one that all have.
fn layers(dir: &Path, names: impl Iterator<Item = String>) -> Outcome<Vec<PathBuf>> {
    let mut layers = Vec::new();
    for (position, name) in names.enumerate() {
        let layer = dir.join(name);
        fs::create_dir_all(&layer)?;
        fs::write(layer.join(format!("file-{position}")), position.to_string())?;
        fs::write(layer.join("shared"), position.to_string())?;
        layers.push(layer);
    }
    Ok(layers)
}

fn overlay(case: &Case, layers: &[String], dir: &Path) -> Outcome<Bundle> {
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = [
        format!("lowerdir={}", layers.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let mount = json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options});
    let last = format!("/mnt/file-{}", layers.len() - 1);
    let probe = ["--read", "/mnt/shared", "--read", "/mnt/file-0", "--read", &last, "--make", "/mnt/new"];
    Ok(case.bundle()?.with("/mounts/-", mount).probe(&probe))
}

/// All layers have to be there, in their order, and writing has to go to the upper directory.
fn is_an_overlay(case: &Case, layers: &[String], dir: &Path) -> Outcome {
    let output = overlay(case, layers, dir)?.run(case)?;
    if output.stderr.contains("need Linux 6") {
        return skip("this kernel takes no such layers");
    }
    let seen = output.succeeds()?.seen()?;
    seen.reads("/mnt/shared", "0")?;
    seen.reads("/mnt/file-0", "0")?;
    let last = layers.len() - 1;
    seen.reads(&format!("/mnt/file-{last}"), &last.to_string())?;
    ensure!(dir.join("upper/new").exists(), "what was made is not in the upper directory");
    Ok(())
}

fn texts(layers: &[PathBuf]) -> Vec<String> {
    layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect()
}

fn an_overlay_with_many_layers_is_mounted(case: &Case) -> Outcome {
    let dir = case.dir.join("overlay");
    // 255 bytes are what one value may have, and 4096 what the old call takes in all.
    for count in [2, 10, 200] {
        let layers = texts(&layers(&dir.join(count.to_string()), (0..count).map(|number| format!("layer-{number}")))?);
        is_an_overlay(case, &layers, &dir.join(format!("{count}-above")))
            .map_err(|stop| within(stop, &count.to_string()))?;
    }
    Ok(())
}

fn an_overlay_with_long_layers_is_mounted(case: &Case) -> Outcome {
    let dir = case.dir.join("overlay");
    let long = |number: usize| format!("{}/{}/{number}", "x".repeat(200), "y".repeat(200));
    let lower = texts(&layers(&dir, (0..3).map(long))?);
    is_an_overlay(case, &lower, &dir.join("above"))?;
    // The other two directories may be as long.
    is_an_overlay(case, &lower, &dir.join("z".repeat(200)).join("z".repeat(200)))
}

fn an_overlay_with_colons_in_its_layers_is_mounted(case: &Case) -> Outcome {
    let dir = case.dir.join("overlay");
    let made = layers(&dir, (0..12).map(|number| format!("layer:{number}-{}", "x".repeat(20))))?;
    let escaped: Vec<String> = texts(&made).iter().map(|layer| layer.replace(':', "\\:")).collect();
    is_an_overlay(case, &escaped, &dir.join("above"))?;
    is_an_overlay(case, &escaped[..2], &dir.join("above-two"))
}

fn a_relative_destination_with_dots_stays_in_the_root(case: &Case) -> Outcome {
    for destination in ["mnt", "./mnt", "../../mnt", "a/../mnt", "//mnt//"] {
        let mount = tmpfs(destination);
        case.bundle()?
            .with("/mounts/-", mount)
            .see(case)?
            .mount("/mnt")
            .map_err(|why| format!("{destination}: {why}"))?;
    }
    Ok(())
}

fn proc() -> Value {
    json!({"destination": "/proc", "type": "proc", "source": "proc"})
}

fn a_mount_on_the_root_becomes_the_root(case: &Case) -> Outcome {
    let other = case.dir.join("other");
    case.make_rootfs(&other)?;
    fs::write(other.join("marker"), "of the mount")?;
    property(case, "/mounts", json!([bind(&other, "/", &["bind"]), proc()]))
        .instead_of(json!([proc()]))
        .probe(&["--read", "/marker"])
        .holds(|seen| seen.reads("/marker", "of the mount"))?;
    // What is said of the root holds for that one: devices, masks, flags, and a second mount on it.
    let bundle = case.bundle()?.with("/mounts", json!([tmpfs("/"), bind(&other, "/", &["bind", "nosuid"]), proc()]));
    let bundle = bundle.with("/root/readonly", json!(true)).with("/linux/maskedPaths", json!(["/marker"]));
    let seen = bundle.probe(&["--read", "/marker", "--write", "/"]).see(case)?;
    seen.reads("/marker", "")?;
    seen.answers("write", "/", &json!("EROFS"))?;
    seen.mounted_with("/", &["ro", "nosuid"])?;
    let null = seen.answer("dev", "/dev/null");
    ensure!(null.get("minor") == Some(&json!(3)), "/dev/null is {null}");
    fs::write(other.join("etc/passwd"), "")?;
    let bundle = case.bundle()?.with("/mounts", json!([bind(&other, "/", &["bind"]), proc()])).probe(&["--hold"]);
    let container = case.run_detached(&bundle)?;
    container.exec(&["/probe", "--read", "/marker"])?.succeeds()?.seen()?.reads("/marker", "of the mount")?;
    container.end()
}

fn an_overlay_on_the_root_becomes_the_root(case: &Case) -> Outcome {
    let (upper, work) = (case.dir.join("upper"), case.dir.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let bundle = case.bundle()?;
    let options = [
        format!("lowerdir={}", bundle.rootfs().display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let overlay = json!({"destination": "/", "type": "overlay", "source": "overlay", "options": options});
    let bundle = bundle.with("/mounts", json!([overlay, proc()])).probe(&["--make", "/new"]);
    let seen = bundle.see(case)?;
    ensure!(seen.mount("/")?.get("fstype") == Some(&json!("overlay")), "{}", seen.mount("/")?);
    ensure!(upper.join("new").exists(), "what was made is not in the upper directory");
    ensure!(!bundle.rootfs().join("new").exists(), "what was made is in the rootfs");
    // A root in memory, which is a copy.
    let mut copy = tmpfs("/");
    copy["options"] = json!(["tmpcopyup"]);
    let bundle = case.bundle()?.with("/mounts", json!([copy, proc()])).probe(&["--make", "/new"]);
    let seen = bundle.see(case)?;
    ensure!(seen.mount("/")?.get("fstype") == Some(&json!("tmpfs")), "{}", seen.mount("/")?);
    ensure!(!bundle.rootfs().join("new").exists(), "what was made is in the rootfs");
    Ok(())
}

fn a_remount_of_the_root_changes_nothing_of_the_host(case: &Case) -> Outcome {
    let again = |options: &[&str]| json!({"destination": "/", "type": "none", "source": "none", "options": options});
    property(case, "/mounts/-", again(&["remount", "bind", "nosuid"]))
        .holds(|seen| seen.mounted_with("/", &["nosuid"]))?;
    // Without bind the file system itself would be changed, and that is the host's.
    let mut bundle = case.bundle()?;
    let holder = case.dir.join("holder");
    let _mounted = crate::mounts::Mounted::tmpfs(&holder)?;
    case.make_rootfs(&holder.join("rootfs"))?;
    bundle = bundle.with("/root/path", json!(holder.join("rootfs").to_string_lossy()));
    bundle.with("/mounts/-", again(&["remount", "ro"])).run(case)?.fails(1, "")?;
    fs::write(holder.join("file"), "")?;
    Ok(())
}

fn cgroup(options: &[&str]) -> Value {
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})
}

/// Where the hierarchies have to be in the container.
fn places(case: &Case) -> Vec<String> {
    if case.machine.cgroup2 {
        return vec!["/sys/fs/cgroup".to_owned()];
    }
    ["memory", "pids", "cpu", "devices", "freezer", "systemd"]
        .into_iter()
        // cpu may be a link to where it is mounted together with cpuacct.
        .filter_map(|name| fs::canonicalize(Path::new("/sys/fs/cgroup").join(name)).ok())
        .filter(|place| place.join("cgroup.procs").exists())
        .map(|place| place.to_string_lossy().into_owned())
        .collect()
}

fn cgroups_are_mounted(case: &Case, more: Option<Value>) -> Outcome {
    let places = places(case);
    let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"});
    let path = format!("/corten-test/{}-shown", case.tag);
    let files: Vec<String> = places.iter().map(|place| format!("{place}/cgroup.procs")).collect();
    let mut probe: Vec<&str> = files.iter().flat_map(|file| ["--read", file.as_str()]).collect();
    let dirs: Vec<String> = places.iter().map(|place| format!("{place}/new")).collect();
    probe.extend(dirs.iter().flat_map(|dir| ["--mkdir", dir.as_str()]));
    let has_namespace = more.is_some();
    property(case, "/mounts/2/options", json!(["ro", "nosuid", "noexec", "nodev"]))
        .instead_of(json!(["nosuid", "noexec", "nodev"]))
        .given("/mounts/1", sys)
        .given("/mounts/2", cgroup(&[]))
        .given("/linux/cgroupsPath", json!(path))
        .prepared(|bundle| {
            if let Some(more) = &more {
                crate::bundle::set(&mut bundle.config, "/linux/namespaces/-", more.clone());
            }
            Ok(())
        })
        .probe(&probe)
        .holds(|seen| {
            for ((place, file), dir) in places.iter().zip(&files).zip(&dirs) {
                seen.mounted_with(place, &["ro", "nosuid", "nodev", "noexec"])?;
                // Without a namespace v2 shows the whole hierarchy, where 1 is somebody else.
                if !case.machine.cgroup2 || has_namespace {
                    ensure!(seen.text(file)?.lines().any(|line| line == "1"), "{file} holds {:?}", seen.text(file)?);
                }
                seen.answers("mkdir", dir, &json!("EROFS"))?;
            }
            Ok(())
        })?;
    // And it may be written where that is asked for.
    let bundle = case.bundle()?.with("/mounts/-", cgroup(&["nosuid"])).with("/linux/cgroupsPath", json!(path));
    let bundle = bundle.with("/linux/namespaces/-", json!({"type": "cgroup"})).probe(&probe);
    let seen = bundle.see(case)?;
    for dir in &dirs {
        seen.answers("mkdir", dir, &json!("ok"))?;
    }
    Ok(())
}

fn cgroups_are_mounted_read_only_or_not(case: &Case) -> Outcome {
    cgroups_are_mounted(case, None)
}

fn cgroups_are_mounted_in_a_cgroup_namespace(case: &Case) -> Outcome {
    cgroups_are_mounted(case, Some(json!({"type": "cgroup"})))
}

fn no_pivot_hides_the_file_systems_of_the_host(case: &Case) -> Outcome {
    let sys = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]});
    let bundle = case.bundle()?.with("/mounts/-", sys).with("/linux/namespaces/-", json!({"type": "network"}));
    let bundle = bundle.probe(&["--list", "/", "--hold"]);
    bundle.write()?;
    let mut arguments = bundle.run_arguments().to_vec();
    arguments.splice(1..1, ["--no-pivot".to_owned(), "--detach".to_owned()]);
    let output = case.run(&arguments)?.succeeds()?;
    let seen = crate::attacks::facts_of(&output)?;
    let names = seen.answer("list", "/").to_string();
    ensure!(names.contains("probe") && !names.contains("\"usr\""), "the root holds {names}");
    // What mountinfo shows is below the root of the process: its own /proc and /sys, and no others.
    let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
    for fstype in ["proc", "sysfs"] {
        let count = mounts.iter().filter(|mount| mount.get("fstype") == Some(&json!(fstype))).count();
        ensure!(count == 1, "{count} mounts of {fstype}: {mounts:?}");
    }
    // From outside all of them are seen.
    let pid: i32 = case.state(&bundle.id)?.get("pid").and_then(Value::as_i64).unwrap_or(0).try_into().unwrap_or(0);
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    ensure!(text.lines().count() > 2, "{text}");
    let seen = case.run(&["exec", &bundle.id, "/probe", "--list", "/"])?.succeeds()?.seen()?;
    let names = seen.answer("list", "/").to_string();
    ensure!(names.contains("probe") && !names.contains("\"usr\""), "for exec the root holds {names}");
    case.delete_force(&bundle.id)
}

/// Runs a bundle for a caller with these limits on open files.
fn with_limit(case: &Case, bundle: &Bundle, soft: u64, hard: u64) -> Outcome<crate::runtime::Output> {
    bundle.write()?;
    let invocation = case.runtime(&bundle.run_arguments()).timeout(std::time::Duration::from_secs(40));
    invocation.before_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)).go()
}

fn has_limit(seen: &Seen, soft: u64, hard: u64) -> Outcome {
    Ok(seen.is("/rlimits/RLIMIT_NOFILE", &json!({"soft": soft, "hard": hard}))?)
}

fn a_limit_on_descriptors_reaches_the_container_unchanged(case: &Case) -> Outcome {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < 4096 {
        return skip("the limit of this machine is too low");
    }
    let bundle = case.bundle()?;
    has_limit(&with_limit(case, &bundle, 1024, 4096)?.succeeds()?.seen()?, 1024, 4096)?;
    // With the property it is what that says.
    let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    has_limit(
        &with_limit(case, &case.bundle()?.with("/process/rlimits", limit), 1024, 4096)?.succeeds()?.seen()?,
        100,
        200,
    )
}

fn a_thousand_mounts_are_made(case: &Case) -> Outcome {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < 4096 {
        return skip("the limit of this machine is too low");
    }
    let volume = volume(case, "volume")?;
    let hook_file = case.dir.join("hook.json");
    let mut bundle = case.bundle()?;
    for number in 0..1000 {
        let mount = match number % 4 {
            0 => tmpfs(&format!("/m/{number}")),
            1 => bind(&volume.join("file"), &format!("/m/{number}"), &["bind", "ro"]),
            _ => bind(&volume, &format!("/m/{number}"), &["bind"]),
        };
        bundle = bundle.with("/mounts/-", mount);
    }
    // Hooks get the caller's limit, too.
    let hook = |name: &str| {
        let file = hook_file.with_extension(name);
        json!([{"path": case.machine.tmp.join("probe"), "args": ["probe", "--stdin", "--out", file]}])
    };
    let bundle = bundle.with("/hooks/createRuntime", hook("runtime")).with("/hooks/createContainer", hook("container"));
    let seen =
        with_limit(case, &bundle.probe(&["--read", "/m/997", "--list", "/m/999"]), 1024, 4096)?.succeeds()?.seen()?;
    let count = seen.get("/mounts").as_array().map_or(0, Vec::len);
    ensure!(count == 1002, "there are {count} mounts");
    seen.reads("/m/997", "content")?;
    seen.answers("list", "/m/999", &json!({"names": ["file"]}))?;
    has_limit(&seen, 1024, 4096)?;
    for name in ["runtime", "container"] {
        let text = fs::read_to_string(hook_file.with_extension(name))?;
        has_limit(&Seen(serde_json::from_str(&text).map_err(|error| error.to_string())?), 1024, 4096)?;
    }
    if !case.machine.is_corten() {
        // They open one source after the other.
        return Ok(());
    }
    // Where the hard limit does not allow it, that is an error.
    let mut second = case.bundle()?;
    for number in 0..1000 {
        second = second.with("/mounts/-", bind(&volume, &format!("/m/{number}"), &["bind"]));
    }
    with_limit(case, &second, 512, 512)?.fails(1, "").map(drop)
}
