//! Mounts: options, binds, order, propagation, the root file system itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::bundle::{Check, Seen, property};
use crate::harness::{Case, Outcome};
use crate::{ensure, tests};

tests![
    every_flag_of_a_mount_is_set,
    of_contradicting_options_the_last_wins,
    data_of_a_file_system_is_passed,
    tmpfs_without_mode_inherits_the_directory,
    proc_data_is_passed,
    a_bind_shows_its_source,
    a_bind_is_writable_unless_ro,
    a_bind_source_is_relative_to_the_bundle,
    a_bind_of_a_file_shows_the_file,
    bind_leaves_submounts_out_and_rbind_takes_them_along,
    rro_is_recursive_and_ro_is_not,
    flags_of_a_bind_do_not_change_the_source,
    mounts_are_made_in_order,
    a_source_inside_the_rootfs_sees_earlier_mounts,
    a_missing_destination_is_made_with_mode_0755,
    a_relative_destination_is_relative_to_the_root,
    propagation_options_are_set,
    a_slave_receives_and_does_not_send,
    rootfs_propagation_is_set,
    a_root_is_a_slave_or_private,
    a_readonly_root_is_readonly,
    a_readonly_root_leaves_mounts_writable,
    a_missing_bind_source_is_refused,
    an_unknown_file_system_is_refused,
    an_unknown_option_is_refused_by_the_file_system,
    the_root_is_a_mount_of_its_own,
    the_mounts_of_the_host_are_gone,
    mounting_does_not_reach_the_host,
    a_dangling_link_in_a_destination_is_resolved_inside,
    a_failing_mount_leaves_nothing,
];

/// Unmounts what a test has mounted in its own directory.
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// A tmpfs in a directory that is made for it.
    pub fn tmpfs(dir: &Path) -> Outcome<Mounted> {
        fs::create_dir_all(dir)?;
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=16m"))?;
        Ok(Mounted(dir.to_owned()))
    }
}

impl Mounted {
    /// A namespace of a process, kept by a file that is made for it.
    pub fn namespace(pid: i32, name: &str, file: &Path) -> Outcome<Mounted> {
        fs::write(file, "")?;
        let none = None::<&str>;
        mount(Some(format!("/proc/{pid}/ns/{name}").as_str()), file, none, MsFlags::MS_BIND, none)?;
        Ok(Mounted(file.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// An entry of `mounts`: a tmpfs.
pub fn tmpfs(destination: &str) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
}

/// An entry of `mounts`: a bind.
pub fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source.to_string_lossy(), "options": options})
}

/// A directory of the test with a file in it.
pub fn volume(case: &Case, name: &str) -> Outcome<PathBuf> {
    let dir = case.dir.join(name);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("file"), "content")?;
    Ok(dir)
}

/// Whether an option is in one of the lists of a mount: `options`, or `super` for those of the file system.
pub fn has(mount: &Value, list: &str, option: &str) -> bool {
    mount.get(list).and_then(Value::as_array).is_some_and(|all| all.contains(&json!(option)))
}

/// The topmost mount at a destination has to spread like this: shared, master, unbindable.
pub fn propagates(seen: &Seen, destination: &str, kind: &str) -> Check {
    let mount = seen.mount(destination)?;
    let tags = mount.get("propagation").and_then(Value::as_array).cloned().unwrap_or_default();
    let found = tags.iter().any(|tag| tag.as_str().is_some_and(|tag| tag.split(':').next() == Some(kind)));
    ensure!(found, "{destination} is not {kind}: {mount}");
    Ok(())
}

fn every_flag_of_a_mount_is_set(case: &Case) -> Outcome {
    // What mountinfo calls the flag is not always what the option is called.
    for (option, shown) in [
        ("ro", "ro"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("nosymfollow", "nosymfollow"),
    ] {
        property(case, "/mounts/1/options", json!([option]))
            .given("/mounts/1", tmpfs("/mnt"))
            .holds(|seen| seen.mounted_with("/mnt", &[shown]))
            .map_err(|stop| crate::bundle::within(stop, option))?;
    }
    // strictatime is the absence of relatime and noatime.
    property(case, "/mounts/1/options", json!(["strictatime"])).given("/mounts/1", tmpfs("/mnt")).holds(|seen| {
        let mount = seen.mount("/mnt")?;
        ensure!(!has(mount, "options", "relatime") && !has(mount, "options", "noatime"), "{mount}");
        Ok(())
    })?;
    // These are flags of the whole file system.
    for option in ["sync", "dirsync", "lazytime"] {
        property(case, "/mounts/1/options", json!([option])).given("/mounts/1", tmpfs("/mnt")).holds(|seen| {
            let mount = seen.mount("/mnt")?;
            ensure!(has(mount, "super", option), "{option}: {mount}");
            Ok(())
        })?;
    }
    Ok(())
}

fn of_contradicting_options_the_last_wins(case: &Case) -> Outcome {
    for (first, last) in [("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec"), ("ro", "rw"), ("noatime", "atime")]
    {
        property(case, "/mounts/1/options", json!([first, last]))
            .instead_of(json!([last, first]))
            .given("/mounts/1", tmpfs("/mnt"))
            .holds(|seen| {
                let mount = seen.mount("/mnt")?;
                ensure!(!has(mount, "options", first), "{first},{last}: {mount}");
                Ok(())
            })?;
    }
    Ok(())
}

fn data_of_a_file_system_is_passed(case: &Case) -> Outcome {
    property(case, "/mounts/1/options", json!(["nosuid", "size=64k", "mode=1770", "uid=5"]))
        .given("/mounts/1", tmpfs("/mnt"))
        .probe(&["--stat", "/mnt"])
        .holds(|seen| {
            let mount = seen.mount("/mnt")?;
            ensure!(has(mount, "super", "size=64k"), "{mount}");
            let stat = seen.answer("stat", "/mnt");
            ensure!(stat.get("mode") == Some(&json!(0o1770)) && stat.get("uid") == Some(&json!(5)), "{stat}");
            Ok(())
        })
}

fn tmpfs_without_mode_inherits_the_directory(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/mounts/-", tmpfs("/mnt")).probe(&["--stat", "/mnt"]);
    fs::create_dir(bundle.rootfs().join("mnt"))?;
    fs::set_permissions(bundle.rootfs().join("mnt"), fs::Permissions::from_mode(0o1751))?;
    let seen = bundle.see(case)?;
    let stat = seen.answer("stat", "/mnt");
    ensure!(stat.get("mode") == Some(&json!(0o1751)), "{stat}");
    Ok(())
}

fn proc_data_is_passed(case: &Case) -> Outcome {
    property(case, "/mounts/0/options", json!(["hidepid=2"])).holds(|seen| {
        let mount = seen.mount("/proc")?;
        let hidden = has(mount, "super", "hidepid=2") || has(mount, "super", "hidepid=invisible");
        ensure!(hidden, "{mount}");
        Ok(())
    })
}

fn a_bind_shows_its_source(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    property(case, "/mounts/-", bind(&volume, "/mnt", &["bind"]))
        .probe(&["--read", "/mnt/file"])
        .holds(|seen| seen.reads("/mnt/file", "content"))
}

fn a_bind_is_writable_unless_ro(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    property(case, "/mounts/1/options", json!(["bind", "ro"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&volume, "/mnt", &[]))
        .probe(&["--write", "/mnt", "--write", "/mnt/file"])
        .holds(|seen| {
            seen.answers("write", "/mnt", &json!("EROFS"))?;
            seen.answers("write", "/mnt/file", &json!("EROFS"))?;
            seen.mounted_with("/mnt", &["ro"])
        })
}

fn a_bind_source_is_relative_to_the_bundle(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/mounts/-", bind(Path::new("data"), "/mnt", &["bind"]));
    let bundle = bundle.probe(&["--read", "/mnt/file"]);
    fs::create_dir(bundle.dir.join("data"))?;
    fs::write(bundle.dir.join("data/file"), "in the bundle")?;
    ensure!(bundle.see(case)?.text("/mnt/file")? == "in the bundle", "another file");
    Ok(())
}

fn a_bind_of_a_file_shows_the_file(case: &Case) -> Outcome {
    let file = volume(case, "volume")?.join("file");
    property(case, "/mounts/-", bind(&file, "/etc/new/file", &["rbind", "rprivate"]))
        .probe(&["--read", "/etc/new/file"])
        .holds(|seen| seen.reads("/etc/new/file", "content"))
}

fn bind_leaves_submounts_out_and_rbind_takes_them_along(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume.join("sub"))?;
    fs::write(volume.join("sub/deep"), "deep")?;
    property(case, "/mounts/1/options", json!(["rbind"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&volume, "/mnt", &[]))
        .probe(&["--read", "/mnt/sub/deep"])
        .holds(|seen| seen.text("/mnt/sub/deep").map(drop))
}

fn rro_is_recursive_and_ro_is_not(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume.join("sub"))?;
    property(case, "/mounts/1/options", json!(["rbind", "rro"]))
        .instead_of(json!(["rbind", "ro"]))
        .given("/mounts/1", bind(&volume, "/mnt", &[]))
        .probe(&["--write", "/mnt/sub", "--write", "/mnt"])
        .holds(|seen| {
            seen.answers("write", "/mnt", &json!("EROFS"))?;
            seen.answers("write", "/mnt/sub", &json!("EROFS"))
        })
}

fn flags_of_a_bind_do_not_change_the_source(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume)?;
    let before = fs::read_to_string("/proc/self/mountinfo")?;
    case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["bind", "ro", "noexec", "nosuid"])).see(case)?;
    let own = |text: &str| text.lines().filter(|line| line.contains(&case.tag)).map(str::to_owned).collect::<Vec<_>>();
    ensure!(own(&before) == own(&fs::read_to_string("/proc/self/mountinfo")?), "the source mount has changed");
    Ok(())
}

fn mounts_are_made_in_order(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let inner = bind(&volume, "/mnt/inner", &["bind"]);
    let proc = json!({"destination": "/proc", "type": "proc", "source": "proc"});
    property(case, "/mounts", json!([proc, tmpfs("/mnt"), inner]))
        .instead_of(json!([proc, inner, tmpfs("/mnt")]))
        .probe(&["--read", "/mnt/inner/file"])
        .holds(|seen| seen.text("/mnt/inner/file").map(drop))
}

fn a_source_inside_the_rootfs_sees_earlier_mounts(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let bundle = case.bundle()?;
    let inside = bundle.rootfs().join("first");
    let bundle = bundle.with("/mounts/-", bind(&volume, "/first", &["bind"]));
    let bundle = bundle.with("/mounts/-", bind(&inside, "/second", &["bind"])).probe(&["--read", "/second/file"]);
    fs::create_dir(&inside)?;
    ensure!(bundle.see(case)?.text("/second/file")? == "content", "another content");
    Ok(())
}

fn a_missing_destination_is_made_with_mode_0755(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/mounts/-", tmpfs("/a/b/c"));
    bundle.write()?;
    let invocation = case.runtime(&bundle.run_arguments()).before_exec(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        Ok(())
    });
    invocation.go()?.succeeds()?.seen()?.mount("/a/b/c")?;
    for dir in ["a", "a/b", "a/b/c"] {
        let mode = fs::metadata(bundle.rootfs().join(dir))?.permissions().mode() & 0o7777;
        ensure!(mode == 0o755, "/{dir} was made with mode {mode:o}");
    }
    Ok(())
}

fn a_relative_destination_is_relative_to_the_root(case: &Case) -> Outcome {
    property(case, "/mounts/-", tmpfs("mnt")).holds(|seen| seen.mount("/mnt").map(drop))
}

fn propagation_options_are_set(case: &Case) -> Outcome {
    for (option, shown) in [("shared", "shared"), ("rshared", "shared"), ("unbindable", "unbindable")] {
        property(case, "/mounts/1/options", json!([option]))
            .given("/mounts/1", tmpfs("/mnt"))
            .holds(|seen| propagates(seen, "/mnt", shown))?;
    }
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume)?;
    mount(None::<&str>, &volume, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    for option in ["slave", "rslave"] {
        property(case, "/mounts/1/options", json!(["rbind", option]))
            .instead_of(json!(["rbind", "rprivate"]))
            .given("/mounts/1", bind(&volume, "/mnt", &[]))
            .holds(|seen| propagates(seen, "/mnt", "master"))?;
    }
    Ok(())
}

fn a_slave_receives_and_does_not_send(case: &Case) -> Outcome {
    let volume = volume(case, "volume")?;
    let _mounted = Mounted::tmpfs(&volume)?;
    mount(None::<&str>, &volume, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    fs::create_dir(volume.join("sub"))?;
    let bundle = case.bundle()?.with("/mounts/-", bind(&volume, "/mnt", &["rbind", "rslave"]));
    let container = case.run_detached(&bundle.probe(&["--quiet", "--hold"]))?;
    let inner = Mounted::tmpfs(&volume.join("sub"))?;
    let seen = container.exec(&["/probe"])?.succeeds()?.seen()?;
    seen.mount("/mnt/sub")?;
    drop(inner);
    container.end()
}

fn rootfs_propagation_is_set(case: &Case) -> Outcome {
    property(case, "/linux/rootfsPropagation", json!("shared")).holds(|seen| propagates(seen, "/", "shared"))?;
    property(case, "/linux/rootfsPropagation", json!("unbindable"))
        .holds(|seen| propagates(seen, "/", "unbindable"))?;
    property(case, "/linux/rootfsPropagation", json!("nosuch")).refused("nosuch")
}

fn a_root_is_a_slave_or_private(case: &Case) -> Outcome {
    // Below a mount that the host shares, so that there is something to receive from.
    let holder = case.dir.join("holder");
    let _mounted = Mounted::tmpfs(&holder)?;
    mount(None::<&str>, &holder, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    case.make_rootfs(&holder.join("rootfs"))?;
    let path = json!(holder.join("rootfs").to_string_lossy());
    property(case, "/linux/rootfsPropagation", json!("slave"))
        .instead_of(json!("private"))
        .given("/root/path", path.clone())
        .holds(|seen| propagates(seen, "/", "master"))?;
    property(case, "/linux/rootfsPropagation", json!("private"))
        .instead_of(json!("slave"))
        .given("/root/path", path)
        .holds(|seen| {
            let tags = seen.mount("/")?.get("propagation").cloned().unwrap_or_default();
            ensure!(tags == json!([]), "the root is {tags}");
            Ok(())
        })
}

fn a_readonly_root_is_readonly(case: &Case) -> Outcome {
    property(case, "/root/readonly", json!(true)).probe(&["--write", "/", "--write", "/etc/passwd"]).holds(|seen| {
        seen.answers("write", "/", &json!("EROFS"))?;
        seen.answers("write", "/etc/passwd", &json!("EROFS"))?;
        seen.mounted_with("/", &["ro"])
    })
}

fn a_readonly_root_leaves_mounts_writable(case: &Case) -> Outcome {
    property(case, "/mounts/-", tmpfs("/tmp"))
        .given("/root/readonly", json!(true))
        .probe(&["--write", "/tmp"])
        .holds(|seen| seen.answers("write", "/tmp", &json!("ok")))
}

fn a_missing_bind_source_is_refused(case: &Case) -> Outcome {
    property(case, "/mounts/-", bind(Path::new("/no/such/source"), "/mnt", &["bind"])).refused("/no/such/source")
}

fn an_unknown_file_system_is_refused(case: &Case) -> Outcome {
    let mount = json!({"destination": "/mnt", "type": "nosuchfs", "source": "none"});
    property(case, "/mounts/-", mount).refused("/mnt")
}

fn an_unknown_option_is_refused_by_the_file_system(case: &Case) -> Outcome {
    property(case, "/mounts/1/options", json!(["nosuchoption=1"])).given("/mounts/1", tmpfs("/mnt")).refused("/mnt")
}

fn the_root_is_a_mount_of_its_own(case: &Case) -> Outcome {
    let bundle = case.bundle()?;
    let seen = bundle.see(case)?;
    let root = seen.mount("/")?.get("root").and_then(Value::as_str).unwrap_or_default().to_owned();
    // The file system that the rootfs lies on may be mounted anywhere above the bundle.
    let own = bundle.rootfs().strip_prefix(&case.dir).map(PathBuf::from).unwrap_or_default();
    let fits = Path::new(&root).ends_with(own) && bundle.rootfs().ends_with(root.trim_start_matches('/'));
    ensure!(fits, "root is {root}");
    Ok(())
}

fn the_mounts_of_the_host_are_gone(case: &Case) -> Outcome {
    let seen = case.bundle()?.see(case)?;
    let mounts = seen.get("/mounts").as_array().cloned().unwrap_or_default();
    let destinations: Vec<_> = mounts.iter().filter_map(|mount| mount.get("destination")?.as_str()).collect();
    ensure!(destinations == ["/", "/proc"], "the mounts are {destinations:?}");
    Ok(())
}

fn mounting_does_not_reach_the_host(case: &Case) -> Outcome {
    // The mount that holds the rootfs is shared, as systemd makes the root of the host.
    let holder = case.dir.join("holder");
    let _mounted = Mounted::tmpfs(&holder)?;
    mount(None::<&str>, &holder, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    case.make_rootfs(&holder.join("rootfs"))?;
    let bundle = case.bundle()?.shell("echo up; exec sleep 1000").with("/mounts/-", tmpfs("/inner"));
    let bundle = bundle.with("/root/path", json!(holder.join("rootfs").to_string_lossy()));
    let before = own_mounts(case)?;
    let container = case.run_detached(&bundle)?;
    container.prints("up")?;
    let during = own_mounts(case)?;
    container.end()?;
    ensure!(before == during, "mounts of the container are visible on the host: {during:?}");
    ensure!(before == own_mounts(case)?, "mounts of the host have changed");
    Ok(())
}

fn own_mounts(case: &Case) -> Outcome<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter(|line| line.contains(&case.tag)).map(str::to_owned).collect())
}

fn a_dangling_link_in_a_destination_is_resolved_inside(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/mounts/-", tmpfs("/link/sub"));
    symlink("/target", bundle.rootfs().join("link"))?;
    bundle.see(case)?.mount("/target/sub")?;
    ensure!(!Path::new("/target").exists(), "a directory was made on the host");
    Ok(())
}

fn a_failing_mount_leaves_nothing(case: &Case) -> Outcome {
    let bundle = case.docker_like()?;
    let bundle = bundle.with("/mounts/-", json!({"destination": "/mnt", "type": "nosuchfs", "source": "none"}));
    bundle.run(case)?.fails(1, "/mnt")?;
    case.run(&["state", &bundle.id])?.fails(1, "does not exist").map(drop)
}
