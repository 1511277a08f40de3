//! Id-mapped mounts: which ids a mount shows for which, and what is written through it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bundle::{
    Check, MAPPED_ROOT as ROOT, Property, Seen, enter_user_namespace, give_away, mappings, property, within,
};
use crate::harness::{Case, Outcome, skip};
use crate::mount_options::Loop;
use crate::mounts::{Mounted, bind, tmpfs};
use crate::{ensure, tests};

tests![
    mappings_of_a_bind_translate_both_ways,
    mappings_of_a_mount_need_no_option,
    several_ranges_are_translated,
    ids_that_are_not_mapped_are_nobodys,
    mappings_may_be_in_the_option,
    mappings_in_the_option_may_be_relative_to_the_container,
    idmap_without_mappings_takes_those_of_the_container,
    idmap_without_mappings_takes_those_of_a_joined_user_namespace,
    explicit_mappings_win_in_a_user_namespace,
    ridmap_reaches_what_is_below_and_idmap_does_not,
    a_tmpfs_is_mapped,
    a_tmpfs_with_a_copy_is_mapped,
    an_overlay_is_mapped,
    an_ext4_file_system_is_mapped,
    an_ext4_file_system_is_mapped_in_a_user_namespace,
    other_attributes_go_with_a_mapping,
    the_source_keeps_its_owners,
    idmap_without_mappings_and_user_namespace_is_refused,
    mappings_of_one_kind_only_are_refused,
    a_bad_list_of_mappings_is_refused,
    a_file_system_that_has_no_mappings_is_an_error,
    a_remount_or_cgroups_can_not_be_mapped,
];

/// A tmpfs has mappings from Linux 6.3 on.
pub fn needs_mapped_tmpfs() -> Outcome {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < (6, 3) => skip("this kernel maps no tmpfs"),
        _ => Ok(()),
    }
}

/// A directory with a file of root, one of 5:6 and one of 70000.
fn owned(case: &Case, name: &str) -> Outcome<PathBuf> {
    let dir = case.dir.join(name);
    fs::create_dir_all(&dir)?;
    if nix::sys::statfs::statfs(&dir)?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        needs_mapped_tmpfs()?;
    }
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    for (name, uid, gid) in [("root", 0, 0), ("five", 5, 6), ("far", 70000, 70000)] {
        fs::write(dir.join(name), name)?;
        chown(dir.join(name), Some(uid), Some(gid))?;
    }
    Ok(dir)
}

fn owner(seen: &Seen, group: &str, path: &str) -> (Value, Value) {
    let stat = seen.answer(group, path);
    let field = |name: &str| stat.get(name).cloned().unwrap_or_else(|| stat.clone());
    (field("uid"), field("gid"))
}

fn belongs(seen: &Seen, path: &str, uid: u32, gid: u32) -> Check {
    let found = owner(seen, "stat", path);
    ensure!(found == (json!(uid), json!(gid)), "{path} belongs to {found:?}, not {uid}:{gid}");
    Ok(())
}

const STATS: [&str; 6] = ["--stat", "/mnt/root", "--stat", "/mnt/five", "--stat", "/mnt/far"];

/// A test of `idmap` on a bind of a directory, which is there in both runs, with mappings that come and go with it.
fn mapped<'p>(case: &'p Case<'p>, dir: &Path, ranges: &[(u32, u32, u32)]) -> Property<'p> {
    property(case, "/mounts/1/options", json!(["bind", "idmap"]))
        .instead_of(json!(["bind"]))
        .along("/mounts/1/uidMappings", mappings(ranges))
        .along("/mounts/1/gidMappings", mappings(ranges))
        .given("/mounts/1", bind(dir, "/mnt", &[]))
        .probe(&STATS)
}

fn mappings_of_a_bind_translate_both_ways(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    mapped(case, &dir, &[(0, 1000, 10)])
        .given("/process/user", json!({"uid": 1003, "gid": 1004}))
        .prepared(|_| {
            let _ = fs::remove_file(dir.join("new"));
            Ok(())
        })
        .probe(&["--make", "/mnt/new"])
        .holds(|seen| {
            belongs(seen, "/mnt/root", 1000, 1000)?;
            belongs(seen, "/mnt/five", 1005, 1006)?;
            let made = owner(seen, "make", "/mnt/new");
            ensure!(made == (json!(1003), json!(1004)), "what is made belongs to {made:?}");
            let found = fs::metadata(dir.join("new")).map_err(|error| error.to_string())?;
            ensure!((found.uid(), found.gid()) == (3, 4), "on the host it belongs to {}:{}", found.uid(), found.gid());
            Ok(())
        })
}

fn mappings_of_a_mount_need_no_option(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    property(case, "/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .along("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1", bind(&dir, "/mnt", &["bind"]))
        .probe(&STATS)
        .holds(|seen| belongs(seen, "/mnt/five", 1005, 1006))
}

fn several_ranges_are_translated(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    mapped(case, &dir, &[(0, 1000, 1), (5, 2000, 10), (70000, 7, 1)]).holds(|seen| {
        belongs(seen, "/mnt/root", 1000, 1000)?;
        belongs(seen, "/mnt/five", 2000, 2001)?;
        belongs(seen, "/mnt/far", 7, 7)
    })
}

fn ids_that_are_not_mapped_are_nobodys(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    mapped(case, &dir, &[(0, 1000, 6)])
        .given("/process/user", json!({"uid": 3, "gid": 3}))
        .probe(&["--make", "/mnt/new-by-nobody"])
        .holds(|seen| {
            belongs(seen, "/mnt/far", 65534, 65534)?;
            // The group 6 is just outside.
            belongs(seen, "/mnt/five", 1005, 65534)?;
            // Whoever is nobody there can leave nothing.
            ensure!(
                seen.answer("make", "/mnt/new-by-nobody") == &json!({"errno": "EOVERFLOW"}),
                "{}",
                seen.get("/make")
            );
            Ok(())
        })?;
    Ok(())
}

fn mappings_may_be_in_the_option(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    property(case, "/mounts/1/options", json!(["bind", "idmap=uids=0-1000-1#5-2000-10;gids=0-3000-10"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&dir, "/mnt", &[]))
        .probe(&STATS)
        .holds(|seen| {
            belongs(seen, "/mnt/root", 1000, 3000)?;
            belongs(seen, "/mnt/five", 2000, 3006)
        })
}

fn mappings_in_the_option_may_be_relative_to_the_container(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    property(case, "/mounts/1/options", json!(["bind", "idmap=uids=@0-40-10;gids=@0-50-10"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&dir, "/mnt", &[]))
        .prepared(enter_user_namespace)
        .probe(&STATS)
        .holds(|seen| {
            // Inside it is what the option says, wherever that is on the host.
            belongs(seen, "/mnt/root", 40, 50)?;
            belongs(seen, "/mnt/five", 45, 56)
        })
}

fn idmap_without_mappings_takes_those_of_the_container(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    for option in ["idmap", "ridmap"] {
        property(case, "/mounts/1/options", json!(["rbind", option]))
            .instead_of(json!(["rbind"]))
            .given("/mounts/1", bind(&dir, "/mnt", &[]))
            .prepared(enter_user_namespace)
            .prepared(|_| {
                let _ = fs::remove_file(dir.join("new"));
                Ok(())
            })
            .probe(&STATS)
            .probe(&["--make", "/mnt/new"])
            .holds(|seen| {
                belongs(seen, "/mnt/root", 0, 0)?;
                belongs(seen, "/mnt/five", 5, 6)?;
                belongs(seen, "/mnt/far", 65534, 65534)?;
                let uid = fs::metadata(dir.join("new")).map_err(|error| error.to_string())?.uid();
                ensure!(uid == 0, "what root has made belongs to {uid} on the host");
                Ok(())
            })
            .map_err(|stop| within(stop, option))?;
    }
    Ok(())
}

fn idmap_without_mappings_takes_those_of_a_joined_user_namespace(case: &Case) -> Outcome {
    let holder = case.bundle()?.in_user_namespace()?.probe(&["--quiet", "--hold"]);
    let holder = case.run_detached(&holder)?;
    let path = format!("/proc/{}/ns/user", holder.pid);
    let dir = owned(case, "volume")?;
    property(case, "/mounts/1/options", json!(["bind", "idmap"]))
        .instead_of(json!(["bind"]))
        .given("/mounts/1", bind(&dir, "/mnt", &[]))
        .given("/linux/namespaces/-", json!({"type": "user", "path": path}))
        .prepared(|bundle| give_away(&bundle.rootfs(), ROOT))
        .probe(&STATS)
        .holds(|seen| {
            belongs(seen, "/mnt/root", 0, 0)?;
            belongs(seen, "/mnt/five", 5, 6)
        })?;
    holder.end()
}

fn explicit_mappings_win_in_a_user_namespace(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    // hostID is an id of the host, of which the container sees its own view.
    mapped(case, &dir, &[(0, ROOT + 70, 10)]).prepared(enter_user_namespace).holds(|seen| {
        belongs(seen, "/mnt/root", 70, 70)?;
        belongs(seen, "/mnt/five", 75, 76)
    })
}

fn ridmap_reaches_what_is_below_and_idmap_does_not(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    needs_mapped_tmpfs()?;
    let inner = Mounted::tmpfs(&dir.join("sub"))?;
    fs::write(inner.0.join("file"), "")?;
    chown(inner.0.join("file"), Some(5), Some(6))?;
    property(case, "/mounts/1/options", json!(["rbind", "ridmap"]))
        .instead_of(json!(["rbind", "idmap"]))
        .given("/mounts/1", bind(&dir, "/mnt", &[]))
        .given("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .probe(&["--stat", "/mnt/sub/file", "--stat", "/mnt/five"])
        .holds(|seen| {
            belongs(seen, "/mnt/five", 1005, 1006)?;
            belongs(seen, "/mnt/sub/file", 1005, 1006)
        })?;
    let bundle = case.bundle()?.with("/mounts/1", bind(&dir, "/mnt", &["rbind", "idmap"]));
    let bundle = bundle.with("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]));
    let bundle = bundle.with("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]));
    let seen = bundle.probe(&["--stat", "/mnt/sub/file", "--stat", "/mnt/five"]).see(case)?;
    belongs(&seen, "/mnt/five", 1005, 1006)?;
    Ok(belongs(&seen, "/mnt/sub/file", 5, 6)?)
}

fn a_tmpfs_is_mapped(case: &Case) -> Outcome {
    needs_mapped_tmpfs()?;
    // The root of a new tmpfs is root's, which is 1000 through the mapping.
    property(case, "/mounts/1/options", json!(["idmap", "mode=777"]))
        .instead_of(json!(["mode=777"]))
        .along("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .along("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1", tmpfs("/mnt"))
        .given("/process/user", json!({"uid": 1003, "gid": 1003}))
        .probe(&["--stat", "/mnt", "--make", "/mnt/new"])
        .holds(|seen| {
            belongs(seen, "/mnt", 1000, 1000)?;
            let made = owner(seen, "make", "/mnt/new");
            ensure!(made == (json!(1003), json!(1003)), "what is made belongs to {made:?}");
            Ok(())
        })
}

fn a_tmpfs_with_a_copy_is_mapped(case: &Case) -> Outcome {
    needs_mapped_tmpfs()?;
    property(case, "/mounts/1/options", json!(["idmap", "tmpcopyup"]))
        .instead_of(json!(["tmpcopyup"]))
        .along("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .along("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1", tmpfs("/mnt"))
        .prepared(|bundle| {
            fs::create_dir(bundle.rootfs().join("mnt"))?;
            fs::write(bundle.rootfs().join("mnt/five"), "")?;
            Ok(chown(bundle.rootfs().join("mnt/five"), Some(5), Some(6))?)
        })
        .probe(&["--stat", "/mnt/five"])
        .holds(|seen| belongs(seen, "/mnt/five", 1005, 1006))
}

fn an_overlay_is_mapped(case: &Case) -> Outcome {
    let (lower, upper, work) = (owned(case, "lower")?, case.dir.join("upper"), case.dir.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let data = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
    let data: Vec<String> = data.iter().map(|(key, dir)| format!("{key}={}", dir.display())).collect();
    let options: Vec<&str> = data.iter().map(String::as_str).chain(["idmap"]).collect();
    property(case, "/mounts/1/options", json!(options))
        .instead_of(json!(data))
        .along("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .along("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1", json!({"destination": "/mnt", "type": "overlay", "source": "overlay"}))
        .probe(&STATS)
        .holds(|seen| {
            belongs(seen, "/mnt/root", 1000, 1000)?;
            belongs(seen, "/mnt/five", 1005, 1006)
        })
        .or_else(|stop| match stop {
            // The kernel has id-mapped layers, and may not have an id-mapped overlay.
            crate::harness::Stop::Fail(why) if why.contains("id-mapped") => skip("this kernel maps no overlay"),
            other => Err(other),
        })
}

fn an_ext4_file_system_is_mapped(case: &Case) -> Outcome {
    let device = Loop::ext4(case, false)?;
    property(case, "/mounts/1/options", json!(["idmap"]))
        .instead_of(json!([]))
        .along("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .along("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1", json!({"destination": "/mnt", "type": "ext4", "source": device.0}))
        .probe(&["--stat", "/mnt/lost+found"])
        .holds(|seen| belongs(seen, "/mnt/lost+found", 1000, 1000))
}

fn an_ext4_file_system_is_mapped_in_a_user_namespace(case: &Case) -> Outcome {
    let device = Loop::ext4(case, false)?;
    property(case, "/mounts/1/options", json!(["idmap"]))
        .instead_of(json!([]))
        .given("/mounts/1", json!({"destination": "/mnt", "type": "ext4", "source": device.0}))
        .prepared(enter_user_namespace)
        .probe(&["--stat", "/mnt/lost+found", "--list", "/mnt/lost+found"])
        .holds(|seen| {
            belongs(seen, "/mnt/lost+found", 0, 0)?;
            seen.answers("list", "/mnt/lost+found", &json!({"names": []}))
        })
}

fn other_attributes_go_with_a_mapping(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    property(case, "/mounts/1/options", json!(["bind", "idmap", "ro", "nosuid", "noexec"]))
        .instead_of(json!(["bind", "idmap"]))
        .given("/mounts/1", bind(&dir, "/mnt", &[]))
        .given("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
        .given("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
        .probe(&STATS)
        .holds(|seen| {
            belongs(seen, "/mnt/five", 1005, 1006)?;
            seen.mounted_with("/mnt", &["ro", "nosuid", "noexec"])
        })
}

fn the_source_keeps_its_owners(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    let bundle = case.bundle()?.with("/mounts/1", bind(&dir, "/mnt", &["bind", "idmap"]));
    let bundle = bundle.with("/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]));
    bundle.with("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)])).see(case)?;
    let found = fs::metadata(dir.join("five"))?;
    ensure!((found.uid(), found.gid()) == (5, 6), "it belongs to {}:{}", found.uid(), found.gid());
    Ok(())
}

fn idmap_without_mappings_and_user_namespace_is_refused(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    for option in ["idmap", "ridmap"] {
        property(case, "/mounts/1/options", json!(["bind", option]))
            .instead_of(json!(["bind"]))
            .given("/mounts/1", bind(&dir, "/mnt", &[]))
            .refused("")?;
        property(case, "/mounts/1/options", json!([option]))
            .instead_of(json!([]))
            .given("/mounts/1", tmpfs("/mnt"))
            .refused("")?;
    }
    Ok(())
}

fn mappings_of_one_kind_only_are_refused(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    for kind in ["/mounts/1/uidMappings", "/mounts/1/gidMappings"] {
        property(case, kind, mappings(&[(0, 1000, 10)]))
            .given("/mounts/1", bind(&dir, "/mnt", &["bind"]))
            .refused("")?;
    }
    Ok(())
}

fn a_bad_list_of_mappings_is_refused(case: &Case) -> Outcome {
    let dir = owned(case, "volume")?;
    for list in ["", "uids=0-1-1", "uids=0-1;gids=0-1-1", "uids=a-b-c;gids=0-1-1", "x=0-1-1", "uids=0-1-0;gids=0-1-0"] {
        property(case, "/mounts/1/options", json!(["bind", format!("idmap={list}")]))
            .instead_of(json!(["bind"]))
            .given("/mounts/1", bind(&dir, "/mnt", &[]))
            .refused("/mounts/1")
            .map_err(|stop| within(stop, list))?;
    }
    Ok(())
}

fn a_file_system_that_has_no_mappings_is_an_error(case: &Case) -> Outcome {
    for mount in [
        json!({"destination": "/mnt", "type": "sysfs", "source": "sysfs", "options": ["idmap"]}),
        json!({"destination": "/mnt", "type": "bind", "source": "/sys", "options": ["bind", "idmap"]}),
    ] {
        property(case, "/mounts/1/uidMappings", mappings(&[(0, 1000, 10)]))
            .along("/mounts/1/gidMappings", mappings(&[(0, 1000, 10)]))
            .given("/mounts/1", mount)
            .prepared(|bundle| {
                bundle.config["mounts"][1]["options"] = json!(["bind"]);
                if bundle.config["mounts"][1]["type"] == "sysfs" {
                    bundle.config["mounts"][1]["options"] = json!([]);
                }
                Ok(())
            })
            .refused("/mnt")?;
    }
    Ok(())
}

fn a_remount_or_cgroups_can_not_be_mapped(case: &Case) -> Outcome {
    let ids = mappings(&[(0, 1000, 10)]);
    for mount in [
        json!({"destination": "/proc", "type": "none", "source": "none", "options": ["remount", "bind", "ro", "idmap"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "idmap"]}),
    ] {
        let bundle = case.bundle()?.with("/mounts/1", mount).with("/mounts/1/uidMappings", ids.clone());
        bundle.with("/mounts/1/gidMappings", ids.clone()).run(case)?.fails(1, "")?;
    }
    Ok(())
}
