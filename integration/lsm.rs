//! AppArmor profiles and SELinux labels. Where the kernel has the module, what a process ends up with is looked at from
//! inside; where it has not, a configuration that asks for it has to be refused.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Bundle, Check, Seen, property};
use crate::harness::{Case, Outcome, skip};
use crate::{ensure, tests};

tests![
    without_apparmor_a_profile_is_refused,
    without_selinux_a_process_label_is_refused,
    without_selinux_a_mount_label_is_ignored_with_a_warning,
    empty_labels_are_none,
    labels_of_several_lines_are_refused,
    the_apparmor_profile_confines_init,
    the_apparmor_profile_unconfined_confines_nothing,
    the_apparmor_profile_confines_exec,
    the_apparmor_profile_confines_a_process_in_an_existing_pid_namespace,
    an_apparmor_profile_that_is_not_loaded_is_an_error,
    the_apparmor_profile_is_set_whatever_is_mounted_on_proc,
    the_selinux_label_is_that_of_init_and_its_keyring,
    the_selinux_label_is_that_of_exec,
    a_selinux_label_that_the_policy_does_not_know_is_an_error,
    the_mount_label_is_that_of_file_systems;
    serial:
    the_installed_profile_lets_a_user_make_containers,
];

const APPARMOR: &str = "/process/apparmorProfile";
const SELINUX: &str = "/process/selinuxLabel";
const MOUNT_LABEL: &str = "/linux/mountLabel";
/// Where a process sees its profile.
const CURRENT_PROFILE: &str = "/proc/self/attr/apparmor/current";
/// Where a process sees its label.
const CURRENT_LABEL: &str = "/proc/self/attr/current";

/// The labels of a container as policies for containers have them.
const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:container_file_t:s0:c1,c2";

fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Part of the message of corten; others have words of their own.
fn of_corten<'t>(case: &Case, text: &'t str) -> &'t str {
    if case.machine.is_corten() { text } else { "" }
}

fn without_apparmor_a_profile_is_refused(case: &Case) -> Outcome {
    if has_apparmor() {
        return skip("AppArmor is enabled");
    }
    let text = of_corten(case, "/process/apparmorProfile: AppArmor is not enabled");
    property(case, APPARMOR, json!("unconfined")).refused(text)?;
    let container = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let file = case.dir.join("process.json");
    let process = json!({"args": ["/probe"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "apparmorProfile": "x"});
    fs::write(&file, process.to_string())?;
    let output = case.run(&["exec", "--process", &file.to_string_lossy(), &container.id])?;
    output.fails(255, of_corten(case, "/apparmorProfile: AppArmor is not enabled"))?;
    container.end()
}

fn without_selinux_a_process_label_is_refused(case: &Case) -> Outcome {
    if has_selinux() {
        return skip("SELinux is enabled");
    }
    property(case, SELINUX, json!(PROCESS)).refused(of_corten(case, "/process/selinuxLabel: SELinux is not enabled"))
}

fn without_selinux_a_mount_label_is_ignored_with_a_warning(case: &Case) -> Outcome {
    if has_selinux() {
        return skip("SELinux is enabled");
    }
    let bundle = case.docker_like()?.with(MOUNT_LABEL, json!(FILES)).probe(&[]);
    let output = bundle.run(case)?.succeeds()?;
    ensure!(output.stderr.contains("level=warning") && output.stderr.contains(MOUNT_LABEL), "{output}");
    Ok(())
}

fn empty_labels_are_none(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with(APPARMOR, json!("")).with(SELINUX, json!("")).with(MOUNT_LABEL, json!(""));
    let output = bundle.run(case)?.succeeds()?;
    ensure!(output.stderr.is_empty(), "{output}");
    Ok(())
}

fn labels_of_several_lines_are_refused(case: &Case) -> Outcome {
    for pointer in [APPARMOR, SELINUX, MOUNT_LABEL] {
        property(case, pointer, json!("a\nb")).refused(of_corten(case, pointer))?;
    }
    Ok(())
}

/// A profile by its text; it is unloaded in the end.
struct Loaded(String);

impl Loaded {
    fn new(text: String) -> Outcome<Loaded> {
        parse("--replace", &text)?;
        Ok(Loaded(text))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = parse("--remove", &self.0);
    }
}

/// Gives a profile to apparmor_parser. The reaper of the harness takes the status.
fn parse(option: &str, profile: &str) -> Outcome {
    let mut child = Command::new("apparmor_parser").args([option, "--skip-cache"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(profile.as_bytes())?;
    }
    let _ = child.wait();
    Ok(())
}

/// The kernels that let a user make user namespaces only with a profile that says so are not at hand; a profile that does not
/// say so stands for them.
fn the_installed_profile_lets_a_user_make_containers(case: &Case) -> Outcome {
    let mediated = fs::read_to_string("/sys/kernel/security/apparmor/features/namespaces/mask").unwrap_or_default();
    if !mediated.contains("userns_create") {
        return skip("the kernel's AppArmor does not mediate user namespaces");
    }
    if !Path::new("/etc/apparmor.d/abi/4.0").exists() || !case.machine.is_corten() {
        return skip("the profile is corten's, for AppArmor 4");
    }
    case.become_user(1000)?;
    let bundle = || -> Outcome<Bundle> {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let bundle = case.bundle()?.with("/linux/uidMappings", ids.clone()).with("/linux/gidMappings", ids);
        let bundle = bundle.with("/linux/namespaces/-", json!({"type": "user"})).owned_by(1000)?;
        std::os::unix::fs::chown(&bundle.dir, Some(1000), Some(1000))?;
        Ok(bundle.probe(&["--read", CURRENT_PROFILE]))
    };
    let binary = case.machine.tmp.join("runtime").to_string_lossy().into_owned();
    let rules = "file, capability, network, mount, umount, signal, ptrace, unix, pivot_root,";
    let silent =
        Loaded::new(format!("abi <abi/4.0>,\nprofile corten {binary} flags=(attach_disconnected) {{ {rules} }}"))?;
    bundle()?.run(case)?.fails(1, "")?;
    drop(silent);
    let _installed = Loaded::new(include_str!("../packaging/apparmor").replace("@BINARY@", &binary))?;
    Ok(bundle()?.see(case)?.reads(CURRENT_PROFILE, "corten (unconfined)\n")?)
}

/// A profile that allows everything but to read one file; it is unloaded in the end.
struct Profile(String);

impl Profile {
    fn load(case: &Case, name: &str) -> Outcome<Profile> {
        if !has_apparmor() {
            return skip("the kernel has no AppArmor");
        }
        let profile = Profile(format!("corten-{}-{name}", case.tag));
        profile.parse("--replace")?;
        Ok(profile)
    }

    fn parse(&self, option: &str) -> Outcome {
        let rules = "file, capability, network, mount, umount, signal, ptrace, unix, pivot_root, deny /secret r,";
        let mut child = Command::new("apparmor_parser").args([option, "--skip-cache"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            writeln!(stdin, "profile {} flags=(attach_disconnected) {{ {rules} }}", self.0)?;
        }
        // The reaper of the harness takes the status, so success is seen by what the kernel lists.
        let _ = child.wait();
        let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles")?.contains(&self.0);
        ensure!(loaded == (option == "--replace"), "apparmor_parser {option} has not worked");
        Ok(())
    }

    /// The one who looks has this profile, which forbids to read a file.
    fn confines(&self, seen: &Seen) -> Check {
        seen.reads(CURRENT_PROFILE, &format!("{} (enforce)\n", self.0))?;
        seen.answers("read", "/secret", &json!({"errno": "EACCES"}))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = self.parse("--remove");
    }
}

const LOOK: [&str; 4] = ["--read", CURRENT_PROFILE, "--read", "/secret"];

fn with_secret(bundle: &Bundle) -> Outcome {
    Ok(fs::write(bundle.rootfs().join("secret"), "x")?)
}

fn the_apparmor_profile_confines_init(case: &Case) -> Outcome {
    let profile = Profile::load(case, "init")?;
    let confined = || property(case, APPARMOR, json!(profile.0)).probe(&LOOK).prepared(|bundle| with_secret(bundle));
    confined().holds(|seen| profile.confines(seen))?;
    confined().given("/process/noNewPrivileges", json!(true)).holds(|seen| profile.confines(seen))?;
    confined().of_docker_like().holds(|seen| profile.confines(seen))
}

fn the_apparmor_profile_unconfined_confines_nothing(case: &Case) -> Outcome {
    let profile = Profile::load(case, "other")?;
    property(case, APPARMOR, json!("unconfined"))
        .instead_of(json!(profile.0))
        .probe(&LOOK)
        .prepared(|bundle| with_secret(bundle))
        .holds(|seen| seen.reads(CURRENT_PROFILE, "unconfined\n"))
}

fn the_apparmor_profile_confines_exec(case: &Case) -> Outcome {
    let (of_init, of_exec) = (Profile::load(case, "init")?, Profile::load(case, "exec")?);
    let bundle = case.docker_like()?.with(APPARMOR, json!(of_init.0)).probe(&["--hold"]);
    with_secret(&bundle)?;
    let container = case.run_detached(&bundle)?;
    let look: Vec<&str> = ["/probe"].into_iter().chain(LOOK).collect();
    of_init.confines(&container.exec(&look)?.succeeds()?.seen()?)?;
    let file = case.dir.join("process.json");
    let process = |profile: Value| {
        json!({"args": look, "cwd": "/", "user": {"uid": 1000, "gid": 1000}, "apparmorProfile": profile}).to_string()
    };
    let arguments = ["exec".to_owned(), "--process".to_owned(), file.display().to_string(), container.id.clone()];
    fs::write(&file, process(json!(of_exec.0)))?;
    of_exec.confines(&case.run(&arguments)?.succeeds()?.seen()?)?;
    fs::write(&file, process(json!("corten-nosuch")))?;
    case.run(&arguments)?.fails(255, of_corten(case, "\"corten-nosuch\\\" is not loaded"))?;
    container.end()
}

fn the_apparmor_profile_confines_a_process_in_an_existing_pid_namespace(case: &Case) -> Outcome {
    let profile = Profile::load(case, "joined")?;
    let holder = case.run_detached(&case.bundle()?.probe(&["--hold"]))?;
    let path = format!("/proc/{}/ns/pid", holder.pid);
    property(case, APPARMOR, json!(profile.0))
        .probe(&LOOK)
        .prepared(|bundle| {
            let namespaces = bundle.config.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
            for namespace in namespaces.into_iter().flatten().filter(|namespace| namespace["type"] == "pid") {
                namespace["path"] = json!(path);
            }
            with_secret(bundle)
        })
        .holds(|seen| profile.confines(seen))?;
    holder.end()
}

fn an_apparmor_profile_that_is_not_loaded_is_an_error(case: &Case) -> Outcome {
    if !has_apparmor() {
        return skip("the kernel has no AppArmor");
    }
    property(case, APPARMOR, json!("corten-nosuch")).refused(of_corten(case, "\\\"corten-nosuch\\\" is not loaded"))
}

/// CVE-2025-52881: who can mount on the container's /proc must not catch what is written there. A hook that runs in the
/// container's mount namespace does what another container could do by way of a shared mount.
fn the_apparmor_profile_is_set_whatever_is_mounted_on_proc(case: &Case) -> Outcome {
    let profile = Profile::load(case, "overmounted")?;
    let bundle = case.bundle()?;
    let attr = bundle.rootfs().join("proc/1/attr");
    let script = format!(
        "set -e; mount -t tmpfs none {0}; mkdir {0}/apparmor; : >{0}/exec; : >{0}/apparmor/exec; : >{0}/current",
        attr.display()
    );
    let hook =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]);
    let bundle = bundle.with("/hooks/createContainer", hook).with(APPARMOR, json!(profile.0));
    with_secret(&bundle)?;
    let seen = bundle.probe(&["--read", "/secret", "--list", "/proc/1/attr"]).see(case)?;
    ensure!(seen.answer("list", "/proc/1/attr")["names"] == json!(["apparmor", "current", "exec"]), "not overmounted");
    Ok(seen.answers("read", "/secret", &json!({"errno": "EACCES"}))?)
}

/// The machine has a policy that knows the labels of containers.
fn needs_selinux() -> Outcome {
    if !has_selinux() {
        return skip("the kernel has no SELinux");
    }
    for label in [PROCESS, FILES] {
        if fs::write("/sys/fs/selinux/context", label).is_err() {
            return skip(format!("the policy of this machine does not know {label} (selinux.cil does)"));
        }
    }
    Ok(())
}

/// Gives everything in the rootfs a label that the container may read and execute.
fn relabel(path: &Path) -> Outcome {
    let file = fs::File::open(path)?;
    // SAFETY: both strings end in NUL, and the length is that of the second.
    let set = unsafe {
        libc::fsetxattr(file.as_raw_fd(), c"security.selinux".as_ptr(), FILES.as_ptr().cast(), FILES.len(), 0)
    };
    ensure!(set == 0, "label {}: {}", path.display(), std::io::Error::last_os_error());
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !entry.file_type()?.is_symlink() {
                relabel(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn has_label(seen: &Seen) -> Check {
    let label = seen.text(CURRENT_LABEL)?.trim_end_matches(['\0', '\n']);
    ensure!(label == PROCESS, "the label is {label:?}");
    Ok(())
}

fn the_selinux_label_is_that_of_init_and_its_keyring(case: &Case) -> Outcome {
    needs_selinux()?;
    property(case, SELINUX, json!(PROCESS))
        .probe(&["--read", CURRENT_LABEL])
        .prepared(|bundle| relabel(&bundle.rootfs()))
        .holds(|seen| {
            has_label(seen)?;
            seen.is("/session_keyring/label", &json!(PROCESS))
        })
}

fn the_selinux_label_is_that_of_exec(case: &Case) -> Outcome {
    needs_selinux()?;
    let bundle = case.docker_like()?.with(SELINUX, json!(PROCESS)).probe(&["--hold"]);
    relabel(&bundle.rootfs())?;
    let container = case.run_detached(&bundle)?;
    has_label(&container.exec(&["/probe", "--read", CURRENT_LABEL])?.succeeds()?.seen()?)?;
    container.end()
}

fn a_selinux_label_that_the_policy_does_not_know_is_an_error(case: &Case) -> Outcome {
    needs_selinux()?;
    property(case, SELINUX, json!("a:b:c:s0")).refused(of_corten(case, "the policy of this machine does not know it"))
}

fn the_mount_label_is_that_of_file_systems(case: &Case) -> Outcome {
    needs_selinux()?;
    property(case, MOUNT_LABEL, json!(FILES))
        .of_docker_like()
        .prepared(|bundle| relabel(&bundle.rootfs()))
        .probe(&["--label", "/dev/shm", "--label", "/dev/pts", "--label", "/dev/mqueue"])
        .holds(|seen| {
            for path in ["/dev/shm", "/dev/pts", "/dev/mqueue"] {
                seen.answers("label", path, &json!(FILES))?;
            }
            // Every tmpfs, also the one of the masks, but for the one that holds the cgroups of v1.
            for mount in seen.get("/mounts").as_array().into_iter().flatten() {
                let (fstype, options) = (mount["fstype"].as_str(), mount["super"].to_string());
                let labelled = matches!(fstype, Some("tmpfs" | "devpts")) && mount["destination"] != "/sys/fs/cgroup";
                let bound = mount["root"] != "/";
                ensure!(bound || options.contains("context=") == labelled, "{mount}");
            }
            Ok(())
        })
}
