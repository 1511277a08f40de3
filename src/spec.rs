//! `spec`: a config.json to start from, the one that runc writes.

use crate::cli::SpecArgs;
use crate::error::{Context, Error, Result};
use crate::json;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;

/// The template, in the order of the specification.
const TEMPLATE: &str = include_str!("spec.json");

/// `corten spec`
pub fn spec(args: &SpecArgs) -> Result<()> {
    let mut spec: Value = serde_json::from_str(TEMPLATE)?;
    let unified = statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if let Some(namespaces) = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut).filter(|_| unified) {
        namespaces.push(json!({"type": "cgroup"}));
    }
    if args.rootless {
        make_rootless(&mut spec);
    }
    let text = json::indented(&spec, b"\t")?;
    let path = args.bundle.join("config.json");
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new("File config.json exists. Remove it first"));
        }
        other => other.context(|| format!("create {}", path.display()))?,
    };
    file.write_all(&text).context(|| format!("write {}", path.display()))
}

/// What an ordinary user may not do is left out: a user namespace with his own id as root's, no network of his own, the
/// host's /sys, no group of a terminal, no limits.
fn make_rootless(spec: &mut Value) {
    let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    for mount in spec.pointer_mut("/mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        if mount["destination"] == "/sys" {
            mount["type"] = json!("none");
            mount["source"] = json!("/sys");
            mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
        }
        if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            options.retain(|option| option != "gid=5");
        }
    }
    let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) else {
        return;
    };
    linux.shift_remove("resources");
    linux.shift_insert(0, "uidMappings".to_string(), mapping(geteuid().as_raw()));
    linux.shift_insert(1, "gidMappings".to_string(), mapping(getegid().as_raw()));
    if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
}
