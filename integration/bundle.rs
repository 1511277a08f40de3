//! Bundles, and the two forms in which a property of config.json is tested so that the test is able to fail.
//!
//! A bundle starts from `bundles/minimal.json` or from `bundles/docker-like.json`, what Docker writes for an ordinary
//! container (its seccomp profile is our own: every call that the kernel headers know, less those that Docker's
//! documentation lists as blocked without capabilities).
//!
//! [`Property`] runs a bundle with the property, where the check must hold, and then without it, where it must not.
//! A check that holds in both has shown nothing, so the test fails.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ensure;
use crate::harness::{Case, Outcome, Stop};
use crate::invoker::Invoker;
use crate::runtime::{Container, Output};

/// What a check of facts returns: why it does not hold.
pub type Check = Result<(), String>;

/// The commands of busybox that the tests use.
const APPLETS: &[&str] =
    &["sh", "true", "false", "sleep", "cat", "echo", "ls", "kill", "id", "touch", "readlink", "stat", "env", "mount"];

/// A bundle directory and the configuration to be written into it.
pub struct Bundle {
    /// The id of its container.
    pub id: String,
    /// The bundle.
    pub dir: PathBuf,
    /// What becomes config.json, for root and with cgroups as files.
    pub config: Value,
    /// Who calls the runtime with it.
    invoker: Invoker,
}

impl Bundle {
    /// The root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The same for another container.
    #[must_use]
    pub fn again(self, case: &Case) -> Bundle {
        Bundle { id: case.id(), ..self }
    }

    /// The same bundle for a container with this id.
    pub fn named(&self, id: &str) -> Bundle {
        let Bundle { dir, config, invoker, .. } = self;
        Bundle { id: id.to_owned(), dir: dir.clone(), config: config.clone(), invoker: invoker.clone() }
    }

    /// Sets a property by its JSON pointer; `/-` at the end appends to an array.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Bundle {
        set(&mut self.config, pointer, value);
        self
    }

    /// Removes a property.
    #[must_use]
    pub fn without(mut self, pointer: &str) -> Bundle {
        remove(&mut self.config, pointer);
        self
    }

    /// Sets the arguments of the process.
    #[must_use]
    pub fn args(self, arguments: &[&str]) -> Bundle {
        self.with("/process/args", json!(arguments))
    }

    /// Lets the process be the probe with options.
    #[must_use]
    pub fn probe(self, options: &[&str]) -> Bundle {
        let mut arguments = vec!["/probe"];
        arguments.extend_from_slice(options);
        self.args(&arguments)
    }

    /// Lets the process be a shell with a script.
    #[must_use]
    pub fn shell(self, script: &str) -> Bundle {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Puts it into a user namespace of 65536 ids, to whose root the root file system belongs.
    pub fn in_user_namespace(mut self) -> Outcome<Bundle> {
        enter_user_namespace(&mut self)?;
        Ok(self)
    }

    /// Gives the directories of the root file system, and the files that no other test shares, to a user of the host.
    pub fn owned_by(self, id: u32) -> Outcome<Bundle> {
        give_away(&self.rootfs(), id)?;
        Ok(self)
    }

    /// What becomes config.json, for the caller of the runtime.
    pub fn text(&self) -> String {
        self.invoker.adapt(&self.config).to_string()
    }

    /// Writes config.json.
    pub fn write(&self) -> Outcome {
        Ok(fs::write(self.dir.join("config.json"), self.text())?)
    }

    /// The arguments of `run` for this bundle.
    pub fn run_arguments(&self) -> [String; 4] {
        ["run".to_owned(), "--bundle".to_owned(), self.dir.to_string_lossy().into_owned(), self.id.clone()]
    }

    /// Runs the container in the foreground.
    pub fn run(&self, case: &Case) -> Outcome<Output> {
        self.write()?;
        case.run(&self.run_arguments())
    }

    /// Runs the probe in the foreground and returns what it saw.
    pub fn see(&self, case: &Case) -> Outcome<Seen> {
        self.run(case)?.succeeds()?.seen()
    }
}

impl Case<'_> {
    /// A bundle with the smallest configuration that runs the probe.
    pub fn bundle(&self) -> Outcome<Bundle> {
        self.bundle_from(include_str!("bundles/minimal.json"))
    }

    /// The docker-like bundle. Limits of controllers that this view does not have are left out.
    pub fn docker_like(&self) -> Outcome<Bundle> {
        let mut bundle = self.bundle_from(include_str!("bundles/docker-like.json"))?;
        set(&mut bundle.config, "/linux/cgroupsPath", json!(format!("/corten-test/{}", bundle.id)));
        for (file, text) in [("resolv.conf", "nameserver 192.0.2.1\n"), ("hostname", "docker-like\n"), ("hosts", "")] {
            fs::write(bundle.dir.join(file), text)?;
        }
        for controller in ["memory", "cpu", "pids"] {
            if !self.has_controller(controller) {
                remove(&mut bundle.config, &format!("/linux/resources/{controller}"));
            }
        }
        Ok(bundle)
    }

    /// Whether limits of a controller can be set in this view.
    pub fn has_controller(&self, controller: &str) -> bool {
        if self.machine.cgroup2 {
            let file = self.machine.invoker.cgroup2().join("cgroup.controllers");
            let controllers = fs::read_to_string(file).unwrap_or_default();
            return controllers.split_whitespace().any(|name| name == controller);
        }
        Path::new("/sys/fs/cgroup").join(controller).is_dir()
    }

    /// A bundle with this configuration.
    pub fn bundle_from(&self, text: &str) -> Outcome<Bundle> {
        let config = serde_json::from_str(text).map_err(|error| format!("the base is no JSON: {error}"))?;
        let id = self.id();
        let dir = self.dir.join(format!("bundle-{id}"));
        // A test that becomes a user by itself says everything in its config.json, too.
        let invoker = match self.user.load(std::sync::atomic::Ordering::Relaxed) {
            0 => self.machine.invoker.clone(),
            _ => Invoker::look(false, None).map_err(Stop::Fail)?,
        };
        let bundle = Bundle { id, dir, config, invoker };
        self.make_rootfs(&bundle.rootfs())?;
        Ok(bundle)
    }

    /// Makes a root file system with the probe, busybox, and the directories that every image has.
    pub fn make_rootfs(&self, rootfs: &Path) -> Outcome {
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "var", "root"] {
            fs::create_dir_all(rootfs.join(dir))?;
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        self.place(&self.machine.tmp.join("probe"), &rootfs.join("probe"))?;
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")?;
        self.place(&self.machine.tmp.join("busybox"), &rootfs.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        Ok(())
    }

    /// Links a file, or copies it to another file system.
    fn place(&self, from: &Path, to: &Path) -> Outcome {
        Ok(fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))?)
    }
}

/// Where root of [`Bundle::in_user_namespace`] is on the host.
pub const MAPPED_ROOT: u32 = 100_000;

/// Mappings as config.json has them, from the first id inside, the first id outside and the number of each range.
pub fn mappings(ranges: &[(u32, u32, u32)]) -> Value {
    let range =
        |(inside, outside, size): &(u32, u32, u32)| json!({"containerID": inside, "hostID": outside, "size": size});
    ranges.iter().map(range).collect()
}

/// See [`Bundle::in_user_namespace`].
pub fn enter_user_namespace(bundle: &mut Bundle) -> Outcome {
    let ids = mappings(&[(0, MAPPED_ROOT, 65536)]);
    set(&mut bundle.config, "/linux/uidMappings", ids.clone());
    set(&mut bundle.config, "/linux/gidMappings", ids);
    set(&mut bundle.config, "/linux/namespaces/-", json!({"type": "user"}));
    give_away(&bundle.rootfs(), MAPPED_ROOT)
}

/// Gives a tree to a user of the host, but for files that other tests share by hard links.
pub fn give_away(path: &Path, id: u32) -> Outcome {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() || found.nlink() == 1 {
        std::os::unix::fs::lchown(path, Some(id), Some(id))?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path(), id)?;
        }
    }
    Ok(())
}

/// Sets the value at a JSON pointer and makes the objects on the way.
pub fn set(config: &mut Value, pointer: &str, value: Value) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        *config = value;
        return;
    };
    if config.pointer(parent).is_none() {
        set(config, parent, if last == "-" { json!([]) } else { json!({}) });
    }
    match config.pointer_mut(parent) {
        Some(Value::Object(object)) => drop(object.insert(last.replace("~1", "/").replace("~0", "~"), value)),
        Some(Value::Array(array)) => match last.parse::<usize>().ok().and_then(|index| array.get_mut(index)) {
            Some(element) => *element = value,
            None => array.push(value),
        },
        _ => {}
    }
}

/// Removes what a JSON pointer leads to, if it is there.
pub fn remove(config: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return;
    };
    match config.pointer_mut(parent) {
        Some(Value::Object(object)) => drop(object.remove(&last.replace("~1", "/").replace("~0", "~"))),
        Some(Value::Array(array)) => {
            if let Some(index) = last.parse::<usize>().ok().filter(|index| *index < array.len()) {
                array.remove(index);
            }
        }
        _ => {}
    }
}

/// What the probe saw.
#[derive(Debug)]
pub struct Seen(pub Value);

impl Output {
    /// The probe's facts on stdout.
    pub fn seen(&self) -> Outcome<Seen> {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => Ok(Seen(value)),
            Err(error) => Err(format!("the probe printed no JSON ({error}): {self}").into()),
        }
    }
}

impl Seen {
    /// The fact at a JSON pointer, null if there is none.
    pub fn get(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A fact keyed by a path, such as the answer to `--read PATH`.
    pub fn answer(&self, group: &str, key: &str) -> &Value {
        self.0.get(group).and_then(|group| group.get(key)).unwrap_or(&Value::Null)
    }

    /// The fact has to be this.
    pub fn is(&self, pointer: &str, expected: &Value) -> Check {
        let found = self.get(pointer);
        if found == expected { Ok(()) } else { Err(format!("{pointer} is {found}, not {expected}")) }
    }

    /// The answer has to be this.
    pub fn answers(&self, group: &str, key: &str, expected: &Value) -> Check {
        let found = self.answer(group, key);
        if found == expected { Ok(()) } else { Err(format!("--{group} {key} is {found}, not {expected}")) }
    }

    /// The text that was read from a path.
    pub fn text(&self, path: &str) -> Result<&str, String> {
        let answer = self.answer("read", path);
        answer.get("text").and_then(Value::as_str).ok_or_else(|| format!("reading {path}: {answer}"))
    }

    /// The text that was read from a path has to be this.
    pub fn reads(&self, path: &str, expected: &str) -> Check {
        let found = self.text(path)?;
        ensure!(found == expected, "{path} holds {found:?}, not {expected:?}");
        Ok(())
    }

    /// The topmost mount at a destination.
    pub fn mount(&self, destination: &str) -> Result<&Value, String> {
        let mounts = self.get("/mounts").as_array().ok_or("no /proc, no mounts")?;
        let found = mounts.iter().rev().find(|mount| mount.get("destination") == Some(&json!(destination)));
        found.ok_or_else(|| format!("nothing is mounted on {destination}"))
    }

    /// The mount at a destination has to have these per-mount options.
    pub fn mounted_with(&self, destination: &str, options: &[&str]) -> Check {
        let mount = self.mount(destination)?;
        for option in options {
            let has = mount.get("options").and_then(Value::as_array).is_some_and(|all| all.contains(&json!(option)));
            ensure!(has, "{destination} is not mounted {option}: {mount}");
        }
        Ok(())
    }
}

type Prepare<'p> = Box<dyn Fn(&mut Bundle) -> Outcome + 'p>;

/// A property of config.json under test.
pub struct Property<'p> {
    case: &'p Case<'p>,
    docker_like: bool,
    pointer: &'p str,
    value: Value,
    alternative: Option<Value>,
    companions: Vec<(&'p str, Value)>,
    options: Vec<&'p str>,
    prepare: Vec<Prepare<'p>>,
}

/// Begins a test of the property at a JSON pointer of the minimal bundle; `/-` at the end appends to an array.
pub fn property<'p>(case: &'p Case<'p>, pointer: &'p str, value: Value) -> Property<'p> {
    Property {
        case,
        docker_like: false,
        pointer,
        value,
        alternative: None,
        companions: Vec::new(),
        options: Vec::new(),
        prepare: Vec::new(),
    }
}

/// Begins a test of a property that the docker-like bundle has.
pub fn docker_like_property<'p>(case: &'p Case<'p>, pointer: &'p str) -> Outcome<Property<'p>> {
    let value = case.docker_like()?.config.pointer(pointer).cloned();
    let value = value.ok_or_else(|| format!("the docker-like bundle has no {pointer}"))?;
    Ok(property(case, pointer, value).of_docker_like())
}

impl<'p> Property<'p> {
    /// Starts from the docker-like bundle.
    pub fn of_docker_like(mut self) -> Self {
        self.docker_like = true;
        self
    }

    /// In the second run the property has this value instead of being absent.
    pub fn instead_of(mut self, alternative: Value) -> Self {
        self.alternative = Some(alternative);
        self
    }

    /// Another property, which comes and goes with the one under test.
    pub fn along(mut self, pointer: &'p str, value: Value) -> Self {
        self.companions.push((pointer, value));
        self
    }

    /// Options for the probe.
    pub fn probe(mut self, options: &[&'p str]) -> Self {
        self.options.extend_from_slice(options);
        self
    }

    /// Another property, present in both runs.
    pub fn given(self, pointer: &'p str, value: Value) -> Self {
        self.prepared(move |bundle| {
            set(&mut bundle.config, pointer, value.clone());
            Ok(())
        })
    }

    /// Something that is done to the bundle before both runs.
    pub fn prepared(mut self, action: impl Fn(&mut Bundle) -> Outcome + 'p) -> Self {
        self.prepare.push(Box::new(action));
        self
    }

    fn bundle(&self, with: bool) -> Outcome<Bundle> {
        let base = if self.docker_like { self.case.docker_like()? } else { self.case.bundle()? };
        let mut bundle = base.probe(&self.options);
        for action in &self.prepare {
            action(&mut bundle)?;
        }
        match (with, &self.alternative) {
            (true, _) => set(&mut bundle.config, self.pointer, self.value.clone()),
            (false, Some(alternative)) => set(&mut bundle.config, self.pointer, alternative.clone()),
            (false, None) => remove(&mut bundle.config, self.pointer),
        }
        for (pointer, value) in self.companions.iter().filter(|_| with) {
            set(&mut bundle.config, pointer, value.clone());
        }
        Ok(bundle)
    }

    /// The check holds with the property and does not hold without it.
    pub fn holds(self, check: impl Fn(&Seen) -> Check) -> Outcome {
        let seen = self.bundle(true)?.see(self.case)?;
        check(&seen).map_err(|why| format!("with {} = {}: {why}", self.pointer, self.value))?;
        let seen = self.bundle(false)?.see(self.case).map_err(|stop| within(stop, "without the property"))?;
        ensure!(check(&seen).is_err(), "this test cannot fail: it holds without {} too", self.pointer);
        Ok(())
    }

    /// The same for a check that looks at a created container from outside.
    pub fn holds_outside(self, check: impl Fn(&Container) -> Check) -> Outcome {
        for with in [true, false] {
            let bundle = self.bundle(with)?;
            let container = self.case.create(&bundle)?;
            let result = check(&container);
            self.case.delete_force(&container.id)?;
            if with {
                result.map_err(|why| format!("with {} = {}: {why}", self.pointer, self.value))?;
            } else {
                ensure!(result.is_err(), "this test cannot fail: it holds without {} too", self.pointer);
            }
        }
        Ok(())
    }

    /// The property is refused: `run` fails with one line that contains a text, and works without the property.
    pub fn refused(self, text: &str) -> Outcome {
        self.bundle(true)?.run(self.case)?.fails(1, text)?;
        self.bundle(false)?.run(self.case)?.succeeds().map(drop)
    }
}

/// Adds where it happened to a failure.
pub fn within(stop: Stop, place: &str) -> Stop {
    match stop {
        Stop::Fail(message) => Stop::Fail(format!("{place}: {message}")),
        skip @ Stop::Skip(_) => skip,
    }
}
