//! What engines write into config.json runs as they wrote it: `bundles/engines/*.json`, made by `integration/engines/record`.
//!
//! Docker 20.10 and 28, Podman 4.3, containerd 1.6 and 2.1 by ctr and by the CRI (`newest-`: the newer of each). Only the
//! placeholders for what belonged to the machine are replaced, with what belongs to the test; and limits of controllers
//! that this view does not have are left out.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle::{Bundle, MAPPED_ROOT, remove};
use crate::harness::{Case, Outcome, skip};
use crate::{ensure, terminal, tests};

/// Names a test for each file.
macro_rules! files {
    ($($name:ident: $file:literal),* $(,)?) => {
        tests![$($name),*];
        $(
            fn $name(case: &Case) -> Outcome {
                runs(case, include_str!(concat!("bundles/engines/", $file, ".json")))
            }
        )*
    };
}

files! {
    docker_runs: "docker",
    docker_with_limits_runs: "docker-limits",
    docker_with_a_terminal_and_an_init_runs: "docker-terminal",
    docker_with_less_rights_runs: "docker-security",
    docker_with_the_hosts_namespaces_runs: "docker-host",
    docker_with_userns_remap_runs: "docker-userns",
    newest_docker_runs: "newest-docker",
    newest_docker_with_limits_runs: "newest-docker-limits",
    newest_docker_with_userns_remap_runs: "newest-docker-userns",
    podman_runs: "podman",
    podman_with_a_terminal_and_an_init_runs: "podman-terminal",
    podman_in_a_pod_runs: "podman-pod",
    podman_with_a_read_only_root_runs: "podman-read-only",
    podman_for_systemd_runs: "podman-systemd",
    podman_with_userns_auto_runs: "podman-userns",
    ctr_runs: "ctr",
    ctr_with_seccomp_and_a_limit_runs: "ctr-seccomp",
    ctr_with_a_user_namespace_runs: "ctr-userns",
    newest_ctr_runs: "newest-ctr",
    newest_ctr_with_a_user_namespace_runs: "newest-ctr-userns",
    cri_runs_a_sandbox: "cri-sandbox",
    cri_runs_in_a_pod: "cri",
    cri_runs_in_a_pod_with_limits: "cri-limits",
    cri_runs_in_a_pods_pid_namespace: "cri-shared-pids",
    newest_cri_runs_a_sandbox: "newest-cri-sandbox",
    newest_cri_runs_in_a_pod: "newest-cri",
    newest_cri_runs_in_a_pod_with_limits: "newest-cri-limits",
    newest_cri_runs_in_a_user_namespace: "newest-cri-userns",
}

/// Stands for an engine's own init: runs what follows `--`.
const INIT: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";

fn runs(case: &Case, text: &str) -> Outcome {
    if case.machine.cgroup2 && text.contains("\"/sys/fs/cgroup/systemd\"") {
        return skip("the engine wrote it for cgroup v1");
    }
    let mut bundle = case.bundle_from(text)?;
    if case.machine.invoker.is_rootless() {
        take_ids_of_the_user(&mut bundle.config);
    }
    let pod = Pod::of(case, &bundle.config)?;
    fill_in(case, &mut bundle, &pod)?;
    let user = bundle.config.pointer("/process/user/uid").and_then(Value::as_u64).unwrap_or_default();
    if bundle.config.pointer("/process/terminal") == Some(&json!(true)) {
        return terminal::shows(case, &bundle, &format!("hello from {user}"));
    }
    let output = bundle.run(case)?.succeeds()?;
    ensure!(output.stdout == format!("hello from {user}\n"), "it said {:?}, stderr {:?}", output.stdout, output.stderr);
    Ok(())
}

/// Replaces the placeholders, and makes what they stand for.
fn fill_in(case: &Case, bundle: &mut Bundle, pod: &Pod) -> Outcome {
    let text =
        bundle.config.to_string().replace("@CONTAINER", &bundle.id).replace("@PID", &format!("/proc/{}", pod.pid));
    bundle.config = serde_json::from_str(&text).map_err(|error| format!("no JSON any more: {error}"))?;
    let (dir, id) = (bundle.dir.clone(), bundle.id.clone());
    // Inside a user namespace its root makes the mount points.
    let root = bundle.config.pointer("/linux/uidMappings/0/hostID").and_then(Value::as_u64);
    let root = root.map_or(case.machine.invoker.user.unwrap_or_default(), |id| u32::try_from(id).unwrap_or_default());
    give_directories(&bundle.rootfs(), root)?;

    let program = bundle.config.pointer("/process/args/0").cloned().unwrap_or_default();
    for (index, mount) in bundle.config["mounts"].as_array_mut().into_iter().flatten().enumerate() {
        let source = dir.join(format!("source-{index}"));
        match mount["source"].as_str() {
            Some("@FILE") if mount["destination"] == program => executable(&source, INIT)?,
            Some("@FILE") => fs::write(&source, "")?,
            Some("@DIRECTORY") => fs::create_dir(&source)?,
            _ => continue,
        }
        mount["source"] = json!(source);
    }
    for hooks in bundle.config["hooks"].as_object_mut().into_iter().flat_map(|hooks| hooks.values_mut()) {
        for hook in hooks.as_array_mut().into_iter().flatten() {
            let path = dir.join("hook");
            executable(&path, "#!/bin/sh\ngrep -q '\"ociVersion\"'\n")?;
            hook["path"] = json!(path);
        }
    }
    if bundle.config["hooks"].is_null() {
        remove(&mut bundle.config, "/hooks"); // indexing has made it
    }
    bundle.config["root"]["path"] = json!(dir.join("rootfs"));
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/corten-test/{id}"));
    for controller in ["memory", "cpu", "pids", "blockIO"] {
        if !case.has_controller(if controller == "blockIO" { "blkio" } else { controller }) {
            remove(&mut bundle.config, &format!("/linux/resources/{controller}"));
        }
    }
    Ok(())
}

/// An ordinary user has other ids than root has given to the engine: his subordinate ones.
fn take_ids_of_the_user(config: &mut Value) {
    // An engine of his leaves this one out: it names more groups than he has.
    remove(config, "/linux/sysctl/net.ipv4.ping_group_range");
    for kind in ["/linux/uidMappings", "/linux/gidMappings"] {
        let Some(list) = config.pointer_mut(kind).and_then(Value::as_array_mut) else { continue };
        let first = list.iter().filter_map(|one| one.get("hostID")?.as_u64()).min().unwrap_or_default();
        for one in list {
            one["hostID"] = json!(one["hostID"].as_u64().unwrap_or_default() - first + u64::from(MAPPED_ROOT));
        }
    }
}

fn executable(path: &Path, text: &str) -> Outcome {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Gives the directories of a tree to a user. The files are links to what all tests share.
fn give_directories(dir: &Path, user: u32) -> Outcome {
    chown(dir, Some(user), Some(user))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_directories(&entry.path(), user)?;
        }
    }
    Ok(())
}

/// The namespaces that a container joins, held by a process as a pod's first container holds them.
struct Pod {
    /// A process in all of them; meaningless if nothing is joined.
    pid: u32,
    holder: Option<Child>,
}

impl Pod {
    /// Makes those that the configuration names; an ordinary user's are in a user namespace of his.
    fn of(case: &Case, config: &Value) -> Outcome<Pod> {
        let namespaces = config.pointer("/linux/namespaces").and_then(Value::as_array).into_iter().flatten();
        let joined: Vec<&str> =
            namespaces.filter(|one| one.get("path").is_some()).filter_map(|one| one.get("type")?.as_str()).collect();
        if joined.is_empty() {
            return Ok(Pod { pid: 0, holder: None });
        }
        let mut command = Command::new("unshare");
        let user = case.machine.invoker.user;
        if let Some(user) = user {
            let ids = format!("0:{MAPPED_ROOT}:65536");
            match joined.contains(&"user") {
                true => command.args(["--map-users", &ids, "--map-groups", &ids]),
                false => command.args(["--map-root-user", "--map-auto"]),
            };
            command.uid(user).gid(user);
        }
        let holder = command
            .args(joined.iter().map(|kind| if *kind == "network" { "--net".to_owned() } else { format!("--{kind}") }))
            .args(["--fork", "--kill-child", "sleep", "60"])
            .stdin(Stdio::null())
            .spawn()?;
        let mut pod = Pod { pid: 0, holder: Some(holder) };
        pod.pid = pod.first_process()?;
        for kind in ["uid", "gid"] {
            let is_joined = joined.contains(&"user") && user.is_none();
            if let Some(map) = config.pointer(&format!("/linux/{kind}Mappings/0")).filter(|_| is_joined) {
                let line = format!("{} {} {}", map["containerID"], map["hostID"], map["size"]);
                fs::write(format!("/proc/{}/{kind}_map", pod.pid), line)?;
            }
        }
        Ok(pod)
    }

    /// The child of `unshare`, once it has executed its program: others help with mappings.
    fn first_process(&self) -> Outcome<u32> {
        let parent = self.holder.as_ref().map_or(0, Child::id);
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            let sleeps =
                |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
            if let Some(Ok(pid)) = children.split_whitespace().find(sleeps).map(str::parse) {
                return Ok(pid);
            }
            sleep(Duration::from_millis(5));
        }
        Err("the test itself failed: unshare has no child".into())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            drop(holder.kill());
            drop(holder.wait());
        }
    }
}
