//! Mount options: every one of the table in config.md set and cleared, on the mount and below it; propagation; remount;
//! and the names that mean something to mount(8) only.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::bundle::{Check, Seen, property, within};
use crate::harness::{Case, Outcome, skip};
use crate::mounts::{Mounted, bind, has, propagates, tmpfs, volume};
use crate::{ensure, tests};

tests![
    every_flag_is_set_on_a_bind,
    every_flag_of_a_bind_is_cleared,
    every_flag_is_set_below_a_bind,
    every_flag_below_a_bind_is_cleared,
    a_flag_that_is_not_recursive_leaves_what_is_below,
    access_times_of_a_bind_are_set_and_cleared,
    access_times_below_a_bind_are_set_and_cleared,
    flags_of_the_file_system_are_set_and_cleared,
    a_file_system_on_a_read_only_device_is_mounted_read_only,
    names_that_only_mount_knows_are_no_error,
    acl_is_no_error_on_any_file_system,
    the_rest_goes_to_the_file_system,
    every_propagation_is_set,
    recursive_propagation_reaches_what_is_below,
    shared_reaches_the_host_and_private_does_not,
    a_bind_remount_changes_the_flags,
    a_remount_takes_away_flags_that_are_not_given,
    a_remount_keeps_access_times_that_are_not_given,
    a_remount_changes_the_file_system,
    a_remount_of_nothing_is_an_error,
    a_remount_of_a_missing_directory_is_an_error,
    mkdir_makes_the_destination_with_the_mode,
    mkdir_without_a_mode_makes_the_usual_one,
    mkdir_with_a_bad_mode_is_refused,
    a_missing_source_with_nofail_is_left_out,
    a_missing_device_with_nofail_is_left_out,
    features_lists_the_options_of_the_specification,
    every_option_of_the_specification_is_accepted,
];

/// The option, its opposite, what the probe can find of it.
const FLAGS: [(&str, &str, &str); 6] = [
    ("ro", "rw", "ro"),
    ("nosuid", "suid", "nosuid"),
    ("nodev", "dev", "nodev"),
    ("noexec", "exec", "noexec"),
    ("nodiratime", "diratime", "nodiratime"),
    ("nosymfollow", "symfollow", "nosymfollow"),
];

/// MS_NOSYMFOLLOW, which nix does not know.
const NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

const ALL: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NODIRATIME)
    .union(NOSYMFOLLOW);

fn lacks(seen: &Seen, destination: &str, option: &str) -> Check {
    let mount = seen.mount(destination)?;
    ensure!(!has(mount, "options", option), "{destination} is {option}: {mount}");
    Ok(())
}

/// Remounts a mount of the test's own with flags of the mount alone.
fn remount(path: &Path, flags: MsFlags) -> Outcome {
    let none = None::<&str>;
    Ok(mount(none, path, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, none)?)
}

fn every_flag_is_set_on_a_bind(case: &Case) -> Outcome {
    // On a mount of its own, for that of the directory may have some of them.
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume)?;
    for (option, opposite, shown) in FLAGS {
        for others in [&[][..], &[opposite]] {
            let mut options = vec!["bind"];
            options.extend(others);
            let without = json!(options);
            options.push(option);
            property(case, "/mounts/1/options", json!(options))
                .instead_of(without)
                .given("/mounts/1", bind(&volume, "/mnt", &[]))
                .holds(|seen| seen.mounted_with("/mnt", &[shown]))
                .map_err(|stop| within(stop, option))?;
        }
    }
    Ok(())
}

fn every_flag_of_a_bind_is_cleared(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let mounted = Mounted::tmpfs(&volume)?;
    remount(&mounted.0, ALL)?;
    for (_, option, shown) in FLAGS {
        property(case, "/mounts/1/options", json!(["bind", option]))
            .instead_of(json!(["bind"]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .holds(|seen| lacks(seen, "/mnt", shown))
            .map_err(|stop| within(stop, option))?;
    }
    // The source keeps them.
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let own = text.lines().find(|line| line.contains(&*volume.to_string_lossy())).unwrap_or_default();
    ensure!(own.contains("ro,nosuid,nodev,noexec"), "the source has changed: {own}");
    Ok(())
}

/// Two mounts of the test's own, one in the other.
fn nested(case: &Case) -> Outcome<(std::path::PathBuf, Mounted, Mounted)> {
    let volume = volume(case, "volume")?;
    let outer = Mounted::tmpfs(&volume)?;
    let inner = Mounted::tmpfs(&volume.join("sub"))?;
    Ok((volume, inner, outer))
}

fn every_flag_is_set_below_a_bind(case: &Case) -> Outcome {
    let (volume, _inner, _outer) = nested(case)?;
    for (option, _, shown) in FLAGS {
        property(case, "/mounts/1/options", json!(["rbind", format!("r{option}")]))
            .instead_of(json!(["rbind", option]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .holds(|seen| {
                seen.mounted_with("/mnt", &[shown])?;
                seen.mounted_with("/mnt/sub", &[shown])
            })
            .map_err(|stop| within(stop, &format!("r{option}")))?;
    }
    Ok(())
}

fn every_flag_below_a_bind_is_cleared(case: &Case) -> Outcome {
    let (volume, inner, outer) = nested(case)?;
    remount(&inner.0, ALL)?;
    remount(&outer.0, ALL)?;
    for (_, option, shown) in FLAGS {
        property(case, "/mounts/1/options", json!(["rbind", format!("r{option}")]))
            .instead_of(json!(["rbind"]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .holds(|seen| {
                lacks(seen, "/mnt", shown)?;
                lacks(seen, "/mnt/sub", shown)
            })
            .map_err(|stop| within(stop, &format!("r{option}")))?;
    }
    Ok(())
}

fn a_flag_that_is_not_recursive_leaves_what_is_below(case: &Case) -> Outcome {
    let (volume, _inner, _outer) = nested(case)?;
    for (option, _, shown) in FLAGS {
        let options = ["rbind", option];
        let seen = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &options)).see(case)?;
        seen.mounted_with("/mnt", &[shown])?;
        lacks(&seen, "/mnt/sub", shown)?;
    }
    Ok(())
}

/// The mode of access times as mountinfo shows it; strictatime is the absence of the others.
fn access_time(seen: &Seen, destination: &str) -> Result<&'static str, String> {
    let mount = seen.mount(destination)?;
    Ok(["noatime", "relatime"].into_iter().find(|mode| has(mount, "options", mode)).unwrap_or("strictatime"))
}

/// What an option makes of a mount that is noatime.
const ACCESS_TIMES: [(&str, &str); 7] = [
    ("atime", "relatime"),
    ("relatime", "relatime"),
    ("norelatime", "relatime"),
    ("strictatime", "strictatime"),
    ("nostrictatime", "relatime"),
    ("noatime", "noatime"),
    ("nodiratime", "noatime"),
];

fn access_times_of_a_bind_are_set_and_cleared(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let mounted = Mounted::tmpfs(&volume)?;
    for (flags, now) in [(MsFlags::MS_NOATIME, "noatime"), (MsFlags::MS_STRICTATIME, "strictatime")] {
        remount(&mounted.0, flags)?;
        for (option, expected) in ACCESS_TIMES {
            let expected = if option == "nodiratime" { now } else { expected };
            let seen = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["bind", option])).see(case)?;
            let found = access_time(&seen, "/mnt")?;
            ensure!(found == expected, "{option} on a {now} mount is {found}, not {expected}");
        }
        let seen = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["bind"])).see(case)?;
        ensure!(access_time(&seen, "/mnt")? == now, "a bind without options changes access times");
    }
    Ok(())
}

fn access_times_below_a_bind_are_set_and_cleared(case: &Case) -> Outcome {
    let (volume, inner, outer) = nested(case)?;
    remount(&inner.0, MsFlags::MS_NOATIME)?;
    remount(&outer.0, MsFlags::MS_NOATIME)?;
    for (option, expected) in ACCESS_TIMES {
        let option = format!("r{option}");
        let seen = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["rbind", &option])).see(case)?;
        for place in ["/mnt", "/mnt/sub"] {
            let found = access_time(&seen, place)?;
            ensure!(found == expected, "{option} makes {place} {found}, not {expected}");
        }
    }
    Ok(())
}

/// Flags of the whole file system, and their opposites.
const OF_FILE_SYSTEM: [(&str, &str); 2] = [("sync", "async"), ("lazytime", "nolazytime")];

/// Options whose effect, if any, cannot be seen.
const ACCEPTED: [&str; 7] = ["mand", "nomand", "iversion", "noiversion", "silent", "loud", "defaults"];

/// Options that other tests are about.
pub const ELSEWHERE: [(&str, &str); 7] = [
    ("dirsync", "mounts::every_flag_of_a_mount_is_set"),
    ("bind", "mounts::a_bind_shows_its_source"),
    ("rbind", "mounts::bind_leaves_submounts_out_and_rbind_takes_them_along"),
    ("remount", "mount_options::a_remount_changes_the_file_system"),
    ("idmap", "idmaps::mappings_of_a_bind_translate_both_ways"),
    ("ridmap", "idmaps::ridmap_reaches_what_is_below_and_idmap_does_not"),
    ("tmpcopyup", "mount_sources::tmpcopyup_copies_everything_as_it_is"),
];

/// All options that tests are about.
pub fn tested() -> std::collections::BTreeSet<String> {
    let flags = FLAGS.iter().flat_map(|(option, opposite, _)| [*option, *opposite]);
    let flags = flags.chain(ACCESS_TIMES.iter().map(|(option, _)| *option));
    let with_recursive = flags.flat_map(|option| [option.to_owned(), format!("r{option}")]);
    let others = OF_FILE_SYSTEM.iter().flat_map(|(option, opposite)| [*option, *opposite]);
    let others = others.chain(ACCEPTED).chain(PROPAGATIONS).chain(ELSEWHERE.map(|(option, _)| option));
    with_recursive.chain(others.map(str::to_owned)).collect()
}

fn flags_of_the_file_system_are_set_and_cleared(case: &Case) -> Outcome {
    for (option, opposite) in OF_FILE_SYSTEM {
        property(case, "/mounts/1/options", json!([opposite, option]))
            .instead_of(json!([option, opposite]))
            .given("/mounts/1", tmpfs("/mnt"))
            .holds(|seen| {
                let mount = seen.mount("/mnt")?;
                ensure!(has(mount, "super", option), "{opposite},{option}: {mount}");
                Ok(())
            })?;
    }
    // What newer kernels show no more, or what has no effect of its own, must at least be no error.
    for option in ACCEPTED {
        let options = [option];
        let mut mount = tmpfs("/mnt");
        mount["options"] = json!(options);
        case.bundle()?.with("/mounts/-", mount).see(case)?.mount("/mnt")?;
        let volume = volume(case, "volume")?;
        let all: Vec<&str> = options.iter().copied().chain(["bind"]).collect();
        case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &all)).see(case)?.mount("/mnt")?;
    }
    Ok(())
}

/// An ext4 file system in a file, attached to a loop device.
pub struct Loop(pub String);

impl Loop {
    /// The device is read-only if that is asked for.
    pub fn ext4(case: &Case, read_only: bool) -> Outcome<Loop> {
        let image = case.dir.join(format!("image-{}", case.next()));
        fs::File::create(&image)?.set_len(8 << 20)?;
        let image = image.to_string_lossy().into_owned();
        let run = |program: &str, arguments: &[&str]| -> Outcome<String> {
            let path = ["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists());
            let Some(path) = path else { return skip(format!("there is no {program}")) };
            let output = case.program(&path).args(arguments).go()?;
            match output.status {
                0 => Ok(output.stdout.trim().to_owned()),
                _ => skip(format!("{program} does not work here: {}", output.stderr.trim())),
            }
        };
        run("mkfs.ext4", &["-q", "-F", &image])?;
        let mut arguments = vec!["--find", "--show"];
        if read_only {
            arguments.push("--read-only");
        }
        arguments.push(&image);
        Ok(Loop(run("losetup", &arguments)?))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn ext4(device: &str, options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "ext4", "source": device, "options": options})
}

fn a_file_system_on_a_read_only_device_is_mounted_read_only(case: &Case) -> Outcome {
    let device = Loop::ext4(case, true)?;
    let seen = case.bundle()?.with("/mounts/-", ext4(&device.0, &["ro"])).probe(&["--list", "/mnt"]).see(case)?;
    let mount = seen.mount("/mnt")?;
    ensure!(has(mount, "super", "ro") && has(mount, "options", "ro"), "{mount}");
    ensure!(seen.answer("list", "/mnt").to_string().contains("lost+found"), "{}", seen.answer("list", "/mnt"));
    case.bundle()?.with("/mounts/-", ext4(&device.0, &["rw"])).run(case)?.fails(1, "/mnt").map(drop)
}

fn names_that_only_mount_knows_are_no_error(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    for option in [
        "_netdev",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "group",
        "owner",
        "nofail",
        "x-systemd.automount",
        "x-anything=value",
        "X-anything",
        "comment=text",
        "",
    ] {
        let mut mount = tmpfs("/mnt");
        mount["options"] = json!(["nosuid", option]);
        case.bundle()?.with("/mounts/-", mount).see(case)?.mounted_with("/mnt", &["nosuid"])?;
        let mount = bind(&volume, "/mnt", &["bind", option]);
        case.bundle()?.with("/mounts/-", mount).see(case)?.mount("/mnt").map_err(|why| format!("{option}: {why}"))?;
    }
    Ok(())
}

fn acl_is_no_error_on_any_file_system(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["bind", "acl"])).see(case)?.mount("/mnt")?;
    let mut mount = tmpfs("/mnt");
    mount["options"] = json!(["acl"]);
    case.bundle()?.with("/mounts/-", mount).see(case)?.mount("/mnt")?;
    let device = Loop::ext4(case, false)?;
    case.bundle()?.with("/mounts/-", ext4(&device.0, &["acl"])).see(case)?.mount("/mnt").map(drop)?;
    Ok(())
}

fn the_rest_goes_to_the_file_system(case: &Case) -> Outcome {
    property(case, "/mounts/1/options", json!(["nr_inodes=77", "size=128k", "noswap"]))
        .instead_of(json!(["size=64k"]))
        .given("/mounts/1", tmpfs("/mnt"))
        .holds(|seen| {
            let mount = seen.mount("/mnt")?;
            let all = ["nr_inodes=77", "size=128k", "noswap"].iter().all(|option| has(mount, "super", option));
            ensure!(all, "{mount}");
            Ok(())
        })?;
    // A bind mount has no file system of its own to take any.
    let volume = volume(case, "volume")?;
    for option in ["nosuchoption", "size=64k", "mode=755"] {
        property(case, "/mounts/1/options", json!(["bind", option]))
            .instead_of(json!(["bind"]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .refused("")
            .map_err(|stop| within(stop, option))?;
    }
    for option in ["nosuchoption", "nosuchoption=1", "size=x"] {
        let mut mount = tmpfs("/mnt");
        mount["options"] = json!([option]);
        case.bundle()?.with("/mounts/-", mount).run(case)?.fails(1, "/mnt").map_err(|stop| within(stop, option))?;
    }
    Ok(())
}

/// The tag in mountinfo for an option of propagation; none for private.
fn tag(option: &str) -> Option<&'static str> {
    match option.strip_prefix('r').unwrap_or(option) {
        "shared" => Some("shared"),
        "slave" => Some("master"),
        "unbindable" => Some("unbindable"),
        _ => None,
    }
}

fn spreads(seen: &Seen, destination: &str, option: &str) -> Check {
    match tag(option) {
        Some(tag) => propagates(seen, destination, tag),
        None => {
            let mount = seen.mount(destination)?;
            let tags = mount.get("propagation").cloned().unwrap_or_default();
            ensure!(tags == json!([]), "{destination} is not private: {mount}");
            Ok(())
        }
    }
}

const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

fn make_shared(path: &Path) -> Outcome {
    Ok(mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)?)
}

fn every_propagation_is_set(case: &Case) -> Outcome {
    let (volume, _inner, outer) = nested(case)?;
    make_shared(&outer.0)?;
    for option in PROPAGATIONS {
        let other = if tag(option).is_none() { "rshared" } else { "rprivate" };
        property(case, "/mounts/1/options", json!(["rbind", option]))
            .instead_of(json!(["rbind", other]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .holds(|seen| spreads(seen, "/mnt", option))
            .map_err(|stop| within(stop, option))?;
        // A new file system has no master.
        if tag(option) != Some("master") {
            property(case, "/mounts/1/options", json!([option]))
                .instead_of(json!([other.strip_prefix('r').unwrap_or(other)]))
                .given("/mounts/1", tmpfs("/mnt"))
                .holds(|seen| spreads(seen, "/mnt", option))
                .map_err(|stop| within(stop, option))?;
        }
    }
    Ok(())
}

fn recursive_propagation_reaches_what_is_below(case: &Case) -> Outcome {
    let (volume, _inner, outer) = nested(case)?;
    make_shared(&outer.0)?;
    for option in ["private", "shared", "slave", "unbindable"] {
        let recursive = format!("r{option}");
        property(case, "/mounts/1/options", json!(["rbind", recursive]))
            .instead_of(json!(["rbind", if option == "slave" { "rprivate" } else { "rslave" }]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .holds(|seen| {
                spreads(seen, "/mnt", option)?;
                spreads(seen, "/mnt/sub", option)
            })
            .map_err(|stop| within(stop, &recursive))?;
    }
    // Without the r only the mount itself is meant.
    let seen = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["rbind", "private"])).see(case)?;
    spreads(&seen, "/mnt", "private")?;
    ensure!(spreads(&seen, "/mnt/sub", "private").is_err(), "private is recursive");
    Ok(())
}

fn shared_reaches_the_host_and_private_does_not(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let mounted = Mounted::tmpfs(&volume)?;
    make_shared(&mounted.0)?;
    fs::create_dir(volume.join("sub"))?;
    let caps = json!({"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]});
    for (option, arrives) in [("rshared", true), ("rslave", false), ("rprivate", false)] {
        let bundle = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["rbind", option]));
        let bundle = bundle.with("/process/capabilities", caps.clone());
        let container =
            case.run_detached(&bundle.shell("mount -t tmpfs inner /mnt/sub && echo up; exec sleep 1000"))?;
        container.prints("up")?;
        let text = fs::read_to_string("/proc/self/mountinfo")?;
        let found = text.lines().any(|line| line.contains(&*volume.join("sub").to_string_lossy()));
        container.end()?;
        let _ = nix::mount::umount2(&volume.join("sub"), nix::mount::MntFlags::MNT_DETACH);
        ensure!(found == arrives, "{option}: the mount of the container is there on the host: {found}");
    }
    Ok(())
}

fn again(options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "none", "source": "none", "options": options})
}

fn a_bind_remount_changes_the_flags(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume)?;
    for first in [tmpfs("/mnt"), bind(&volume, "/mnt", &["bind"])] {
        for (option, _, shown) in FLAGS {
            property(case, "/mounts/2", again(&["remount", "bind", option]))
                .given("/mounts/1", first.clone())
                .holds(|seen| seen.mounted_with("/mnt", &[shown]))
                .map_err(|stop| within(stop, option))?;
        }
    }
    Ok(())
}

fn a_remount_takes_away_flags_that_are_not_given(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let options: Vec<&str> = FLAGS.iter().map(|(option, ..)| *option).chain(["bind"]).collect();
    property(case, "/mounts/2", again(&["remount", "bind", "nosuid"]))
        .given("/mounts/1", bind(&volume, "/mnt", &options))
        .holds(|seen| {
            seen.mounted_with("/mnt", &["nosuid"])?;
            FLAGS
                .iter()
                .filter(|(option, ..)| *option != "nosuid")
                .try_for_each(|(.., shown)| lacks(seen, "/mnt", shown))
        })
}

fn a_remount_keeps_access_times_that_are_not_given(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    for (options, expected) in
        [(&["remount", "bind", "ro"][..], "noatime"), (&["remount", "bind", "relatime"], "relatime")]
    {
        let bundle = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["bind", "noatime"]));
        let seen = bundle.with("/mounts/-", again(options)).see(case)?;
        let found = access_time(&seen, "/mnt")?;
        ensure!(found == expected, "{options:?} leaves {found}");
    }
    Ok(())
}

fn a_remount_changes_the_file_system(case: &Case) -> Outcome {
    property(case, "/mounts/2", again(&["remount", "size=128k"])).given("/mounts/1", tmpfs("/mnt")).holds(|seen| {
        let mount = seen.mount("/mnt")?;
        ensure!(has(mount, "super", "size=128k"), "{mount}");
        Ok(())
    })?;
    property(case, "/mounts/2", again(&["remount", "ro"]))
        .given("/mounts/1", tmpfs("/mnt"))
        .probe(&["--write", "/mnt"])
        .holds(|seen| {
            let mount = seen.mount("/mnt")?;
            ensure!(has(mount, "options", "ro"), "{mount}");
            seen.answers("write", "/mnt", &json!("EROFS"))
        })?;
    let mut read_only = tmpfs("/mnt");
    read_only["options"] = json!(["ro"]);
    property(case, "/mounts/2", again(&["remount", "rw"]))
        .given("/mounts/1", read_only)
        .probe(&["--write", "/mnt"])
        .holds(|seen| seen.answers("write", "/mnt", &json!("ok")))
}

fn a_remount_of_nothing_is_an_error(case: &Case) -> Outcome {
    for options in [&["remount", "ro"][..], &["remount", "bind", "ro"], &["remount", "size=1m"]] {
        let mut mount = again(options);
        mount["destination"] = json!("/tmp");
        case.bundle()?.with("/mounts/-", mount).run(case)?.fails(1, "/tmp")?;
    }
    Ok(())
}

fn a_remount_of_a_missing_directory_is_an_error(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/mounts/-", again(&["remount", "ro"]));
    bundle.run(case)?.fails(1, "/mnt")?;
    ensure!(!bundle.rootfs().join("mnt").exists(), "the directory was made");
    Ok(())
}

fn is_made_with(case: &Case, option: &str, mode: u32) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let volume = volume(case, "volume")?;
    for (mount, name) in [
        (bind(&volume, "/a/b", &["bind", option]), "a/b"),
        (json!({"destination": "/c", "type": "tmpfs", "source": "tmpfs", "options": [option]}), "c"),
    ] {
        let bundle = case.bundle()?.with("/mounts/-", mount);
        bundle.see(case)?;
        let found = fs::metadata(bundle.rootfs().join(name))?.permissions().mode() & 0o7777;
        ensure!(found == mode, "{option} makes /{name} with mode {found:o}");
    }
    Ok(())
}

fn mkdir_makes_the_destination_with_the_mode(case: &Case) -> Outcome {
    is_made_with(case, "X-mount.mkdir=0711", 0o711)?;
    is_made_with(case, "X-mount.mkdir=1777", 0o1777)
}

fn mkdir_without_a_mode_makes_the_usual_one(case: &Case) -> Outcome {
    is_made_with(case, "X-mount.mkdir", 0o755)
}

fn mkdir_with_a_bad_mode_is_refused(case: &Case) -> Outcome {
    for option in ["X-mount.mkdir=", "X-mount.mkdir=9", "X-mount.mkdir=10000", "X-mount.mkdir=-1"] {
        let mut mount = tmpfs("/mnt");
        mount["options"] = json!([option]);
        case.bundle()?.with("/mounts/-", mount).run(case)?.fails(1, "/mounts/1/options")?;
    }
    Ok(())
}

fn a_missing_source_with_nofail_is_left_out(case: &Case) -> Outcome {
    let mount = bind(Path::new("/no/such/source"), "/mnt", &["bind"]);
    let bundle = case.bundle()?.with("/mounts/-", mount.clone()).with("/mounts/1/options", json!(["bind", "nofail"]));
    let seen = bundle.see(case)?;
    ensure!(seen.mount("/mnt").is_err(), "something is mounted");
    ensure!(!bundle.rootfs().join("mnt").exists(), "the destination was made");
    case.bundle()?.with("/mounts/-", mount).run(case)?.fails(1, "/no/such/source")?;
    // What is there is mounted.
    let volume = volume(case, "volume")?;
    case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["bind", "nofail"])).see(case)?.mount("/mnt").map(drop)?;
    Ok(())
}

fn a_missing_device_with_nofail_is_left_out(case: &Case) -> Outcome {
    let seen = case.bundle()?.with("/mounts/-", ext4("/dev/no-such-device", &["nofail"])).see(case)?;
    ensure!(seen.mount("/mnt").is_err(), "something is mounted");
    case.bundle()?.with("/mounts/-", ext4("/dev/no-such-device", &[])).run(case)?.fails(1, "/mnt").map(drop)
}

/// The options of the table in config.md.
const SPECIFIED: [&str; 58] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "idmap",
];

fn every_option_of_the_specification_is_accepted(case: &Case) -> Outcome {
    let (volume, mut refused) = (volume(case, "volume")?, Vec::new());
    for option in SPECIFIED.into_iter().filter(|option| !["bind", "rbind", "remount", "idmap"].contains(option)) {
        let mut file_system = tmpfs("/mnt");
        file_system["options"] = json!([option]);
        let mounts = [("a tmpfs", file_system), ("a bind", bind(&volume, "/mnt", &["rbind", option]))];
        for (what, mount) in mounts.into_iter().filter(|(what, _)| option != "tmpcopyup" || *what == "a tmpfs") {
            if case.bundle()?.with("/mounts/-", mount).run(case)?.status != 0 {
                refused.push(format!("{option} of {what}"));
            }
        }
    }
    ensure!(refused.is_empty(), "refused: {}", refused.join(", "));
    Ok(())
}

fn features_lists_the_options_of_the_specification(case: &Case) -> Outcome {
    let output = case.run(&["features"])?.succeeds()?;
    let features: Value = serde_json::from_str(&output.stdout).map_err(|error| error.to_string())?;
    let listed = features.get("mountOptions").and_then(Value::as_array).cloned().unwrap_or_default();
    let missing: Vec<_> = SPECIFIED.iter().filter(|option| !listed.contains(&json!(option))).collect();
    ensure!(missing.is_empty(), "features does not list {missing:?}");
    ensure!(features.pointer("/linux/mountExtensions/idmap/enabled") == Some(&json!(true)), "idmap is not enabled");
    let namespaces = features.pointer("/linux/namespaces").map(Value::to_string).unwrap_or_default();
    ensure!(namespaces.contains("user") && namespaces.contains("time"), "the namespaces are {namespaces}");
    Ok(())
}
