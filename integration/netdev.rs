//! `linux.netDevices`: network devices of the runtime's network namespace become the container's.
//!
//! Each test has a network namespace of its own, in which it makes its devices; the machine's network is never touched.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Bundle, Check, Property, Seen, property};
use crate::harness::{Case, Outcome, skip};
use crate::runtime::Container;
use crate::{ensure, tests};

tests![
    a_device_is_moved_with_its_permanent_global_addresses,
    a_device_is_no_longer_where_it_was,
    a_device_keeps_its_attributes,
    a_device_is_up_in_the_container,
    a_device_gets_another_name,
    a_label_follows_the_name,
    two_devices_may_swap_their_names,
    an_alternative_name_finds_a_device,
    a_template_gets_a_number,
    a_template_leaves_names_to_others,
    a_template_goes_past_a_taken_name,
    a_taken_name_is_refused_before_anything_is_moved,
    a_missing_device_is_refused_before_anything_is_moved,
    one_device_by_two_names_is_refused,
    a_device_without_a_network_namespace_is_refused,
    the_network_namespace_of_the_runtime_is_refused,
    two_devices_of_one_name_are_refused,
    names_that_no_device_can_have_are_refused,
    a_device_that_can_not_be_moved_is_an_error_and_the_others_are_back,
    a_name_that_is_refused_after_the_move_is_an_error_and_the_device_is_back,
    an_error_of_create_leaves_the_devices_as_they_were,
    an_error_of_run_leaves_the_devices_as_they_were,
    a_device_stays_in_a_joined_namespace,
    a_device_is_not_moved_back,
    a_virtual_device_is_gone_when_poststop_hooks_run,
    a_namespace_may_belong_to_another_user_namespace,
    a_container_with_a_user_namespace_gets_devices_and_gives_them_back_after_an_error,
    a_user_without_rights_moves_no_devices,
    hooks_of_create_find_the_devices_in_place,
    a_sysctl_of_a_moved_device_is_set,
];

/// A network namespace of this test's own. Whatever its thread starts is in there, too.
struct Network<'c> {
    case: &'c Case<'c>,
    own: File,
}

impl Network<'_> {
    fn new<'c>(case: &'c Case<'c>) -> Outcome<Network<'c>> {
        if !case.machine.is_corten() {
            let features = case.run(&["features"])?.stdout;
            let features: Value = serde_json::from_str(&features).unwrap_or_default();
            if features.pointer("/linux/netDevices/enabled") != Some(&json!(true)) {
                return skip(format!("{} {} has no netDevices", case.machine.name, case.machine.version));
            }
        }
        let own = File::open("/proc/thread-self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let network = Network { case, own };
        match network.ip("link add probe type veth") {
            Ok(_) => network.ip("link del probe")?,
            Err(_) => return skip("the kernel has no veth devices"),
        };
        Ok(network)
    }

    /// iproute2 with arguments.
    fn ip(&self, arguments: &str) -> Outcome<String> {
        let output = self.case.program(Path::new("ip")).args(&arguments.split(' ').collect::<Vec<_>>()).go()?;
        Ok(output.succeeds()?.stdout)
    }

    /// The same in the network namespace of a process.
    fn ip_in(&self, pid: i32, arguments: &str) -> Outcome<String> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        let enter = move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?);
        let invocation = self.case.program(Path::new("ip")).before_exec(enter);
        let output = invocation.args(&arguments.split(' ').collect::<Vec<_>>()).go()?;
        Ok(output.succeeds()?.stdout)
    }

    /// Makes a veth device, whose other end gets a name from the kernel, unless it is there.
    fn veth(&self, name: &str) -> Outcome {
        let devices = self.devices()?;
        if devices.get(name).is_none() {
            self.ip(&format!("link add name {name} type veth"))?;
        }
        Ok(())
    }

    /// A device with addresses that are to be kept and some that are not.
    fn veth_with_addresses(&self, name: &str) -> Outcome {
        if self.devices()?.get(name).is_some() {
            return Ok(());
        }
        self.veth(name)?;
        for address in [
            "192.0.2.1/24 broadcast 192.0.2.255",
            "192.0.2.2/24",
            "198.51.100.1 peer 198.51.100.2/32",
            "169.254.1.1/16 scope link",
            "203.0.113.1/24 valid_lft 1000 preferred_lft 500",
            "2001:db8::1/64",
            "2001:db8::2/64",
            "2001:db8:1::1/64 valid_lft 1000 preferred_lft 500",
            "fe80::1/64 scope link",
        ] {
            self.ip(&format!("addr add {address} dev {name}"))?;
        }
        Ok(())
    }

    /// Everything that should be as before after an error, by name.
    fn devices(&self) -> Outcome<Value> {
        devices(&self.ip("-j -d addr show")?)
    }

    /// The same for the namespace of a process.
    fn devices_of(&self, pid: i32) -> Outcome<Value> {
        devices(&self.ip_in(pid, "-j -d addr show")?)
    }

    /// A container whose network namespace others can join.
    fn holder(&self) -> Outcome<Container<'_>> {
        let bundle = self.case.bundle()?.probe(&["--hold"]).with("/linux/namespaces/-", json!({"type": "network"}));
        let holder = self.case.run_detached(&bundle)?;
        holder.prints("\n")?;
        Ok(holder)
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // The thread goes on with other tests.
        let _ = setns(&self.own, CloneFlags::CLONE_NEWNET);
    }
}

/// What `ip -j -d addr show` printed, by name, less what changes by itself.
fn devices(text: &str) -> Outcome<Value> {
    let list: Vec<Value> =
        serde_json::from_str(text).map_err(|error| format!("ip printed no JSON: {error}: {text}"))?;
    let mut devices = serde_json::Map::new();
    for mut device in list {
        let name = device["ifname"].as_str().unwrap_or_default().to_owned();
        let Some(object) = device.as_object_mut() else { continue };
        for changing in ["operstate", "link_netnsid", "link_index", "link", "flags"] {
            let value = object.remove(changing);
            if let ("flags", Some(Value::Array(flags))) = (changing, value) {
                object.insert("up".to_owned(), json!(flags.contains(&json!("UP"))));
            }
        }
        for address in object.get_mut("addr_info").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(address) = address.as_object_mut() else { continue };
            for changing in ["tentative", "valid_life_time", "preferred_life_time"] {
                address.remove(changing);
            }
        }
        devices.insert(name, device);
    }
    Ok(Value::Object(devices))
}

/// `netDevices` in a container with a new network namespace, for the probe.
fn moving<'p>(network: &'p Network<'p>, value: Value) -> Property<'p> {
    property(network.case, "/linux/netDevices", value)
        .given("/linux/namespaces/-", json!({"type": "network"}))
        .given("/ociVersion", json!("1.3.0"))
        .probe(&["--network"])
}

/// The same as a bundle.
fn bundle(case: &Case, value: Value) -> Outcome<Bundle> {
    let bundle = case.bundle()?.with("/linux/namespaces/-", json!({"type": "network"}));
    Ok(bundle.with("/ociVersion", json!("1.3.0")).with("/linux/netDevices", value))
}

/// What a container joins instead.
fn joined(pid: i32) -> Value {
    json!({"type": "network", "path": format!("/proc/{pid}/ns/net")})
}

/// The device has to be in the container.
fn has(seen: &Seen, name: &str) -> Check {
    ensure!(seen.get("/network").get(name).is_some(), "there is no {name}: {}", seen.get("/network"));
    Ok(())
}

fn a_device_is_moved_with_its_permanent_global_addresses(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    moving(&network, json!({"v0": {}})).prepared(|_| network.veth_with_addresses("v0")).holds(|seen| {
        let found = seen.get("/network/v0/addresses");
        let mut sorted: Vec<_> = found.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        sorted.sort_unstable();
        let expected = ["192.0.2.1/24", "192.0.2.2/24", "198.51.100.1/32", "2001:db8::1/64", "2001:db8::2/64"];
        ensure!(sorted == expected, "the addresses are {found}");
        Ok(())
    })
}

fn a_device_is_no_longer_where_it_was(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    moving(&network, json!({"v0": {}})).prepared(|_| network.veth("v0")).holds_outside(|container| {
        let devices = network.devices().map_err(|stop| format!("{stop:?}"))?;
        ensure!(devices.get("v0").is_none(), "{} has not moved: {devices}", container.id);
        Ok(())
    })
}

fn a_device_keeps_its_attributes(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    network.veth_with_addresses("v0")?;
    network.ip("link set v0 mtu 1400 address 02:00:00:00:00:01 txqueuelen 123 alias x group 7")?;
    network.ip("link property add dev v0 altname another-name")?;
    let before = network.devices()?["v0"].clone();
    let container = case.create(&bundle(case, json!({"v0": {}}))?.probe(&[]))?;
    let mut after = network.devices_of(container.pid)?["v0"].clone();
    // What the other tests look at, and what belongs to being up.
    for (key, value) in [("up", json!(false)), ("qdisc", before["qdisc"].clone())] {
        after[key] = value;
    }
    let kept = |address: &Value| address["scope"] == json!("global") && address.get("dynamic").is_none();
    let addresses = before["addr_info"].as_array().into_iter().flatten().filter(|address| kept(address));
    let mut expected = before.clone();
    expected["addr_info"] = addresses.cloned().collect();
    case.delete_force(&container.id)?;
    ensure!(after == expected, "it was {expected} and is {after}");
    Ok(())
}

fn a_device_is_up_in_the_container(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    moving(&network, json!({"v0": {}})).prepared(|_| network.veth("v0")).holds(|seen| {
        has(seen, "v0")?;
        seen.is("/network/v0/up", &json!(true))
    })
}

fn a_device_gets_another_name(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    moving(&network, json!({"v0": {"name": "eth0"}}))
        .instead_of(json!({"v0": {}}))
        .prepared(|_| network.veth_with_addresses("v0"))
        .holds(|seen| {
            ensure!(seen.get("/network/v0").is_null(), "it has its old name, too");
            let addresses = seen.get("/network/eth0/addresses").as_array().map(Vec::len);
            ensure!(addresses == Some(5), "eth0 is {}", seen.get("/network/eth0"));
            Ok(())
        })
}

fn a_label_follows_the_name(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let labelled = |_: &mut Bundle| {
        network.veth("v0")?;
        network.ip("addr replace 192.0.2.1/24 dev v0 label v0:1").map(drop)
    };
    moving(&network, json!({"v0": {"name": "container%d"}}))
        .prepared(labelled)
        .holds(|seen| seen.is("/network/container0:1/addresses", &json!(["192.0.2.1/24"])))
}

fn two_devices_may_swap_their_names(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    moving(&network, json!({"v0": {"name": "v1"}, "v1": {"name": "v0"}}))
        .instead_of(json!({"v0": {}, "v1": {}}))
        .prepared(|_| {
            network.veth("v0")?;
            network.veth("v1")?;
            network.ip("link set v0 mtu 1400").map(drop)
        })
        .holds(|seen| {
            seen.is("/network/v0/mtu", &json!(1500))?;
            seen.is("/network/v1/mtu", &json!(1400))
        })
}

fn an_alternative_name_finds_a_device(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let prepare = |_: &mut Bundle| {
        network.veth("v0")?;
        if network.ip("link show dev another").is_err() {
            network.ip("link property add dev v0 altname another")?;
        }
        Ok(())
    };
    moving(&network, json!({"another": {}})).prepared(prepare).holds(|seen| has(seen, "v0"))?;
    moving(&network, json!({"another": {"name": "eth0"}})).prepared(prepare).holds(|seen| has(seen, "eth0"))
}

fn a_template_gets_a_number(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    moving(&network, json!({"v0": {"name": "eth%d"}, "v1": {"name": "eth%d"}}))
        .prepared(|_| network.veth("v0").and_then(|()| network.veth("v1")))
        .holds(|seen| {
            has(seen, "eth0")?;
            has(seen, "eth1")?;
            seen.is("/network/eth1/up", &json!(true))
        })
}

fn a_template_leaves_names_to_others(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let bundle = bundle(case, json!({"v0": {"name": "eth%d"}, "v1": {"name": "eth0"}}))?.probe(&["--network"]);
    for name in ["v0", "v1"] {
        network.veth(name)?;
    }
    let seen = bundle.see(case)?;
    has(&seen, "eth0")?;
    Ok(has(&seen, "eth1")?)
}

fn a_template_goes_past_a_taken_name(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let holder = network.holder()?;
    // The kernel looks at the name that the device has, too, and it is taken as well.
    network.ip_in(holder.pid, "link add v0 type veth peer name eth0")?;
    network.veth("v0")?;
    let bundle = bundle(case, json!({"v0": {"name": "eth%d"}}))?.with("/linux/namespaces/2", joined(holder.pid));
    let before = network.devices_of(holder.pid)?;
    let seen = bundle.probe(&["--network"]).see(case)?;
    let network_seen = seen.get("/network").as_object().cloned().unwrap_or_default();
    let new: Vec<_> = network_seen.keys().filter(|name| before.get(name.as_str()).is_none()).collect();
    ensure!(new.len() == 1 && new[0].starts_with("eth"), "the new devices are {new:?}");
    ensure!(network_seen[new[0].as_str()]["up"] == json!(true), "{} is down", new[0]);
    holder.end()
}

/// Both namespaces have to be as before. Routes tell whether a device has been away.
fn unchanged(network: &Network, other: Option<i32>, action: impl FnOnce() -> Outcome) -> Outcome {
    let look = || -> Outcome<Value> {
        let there = other.map(|pid| network.devices_of(pid)).transpose()?;
        Ok(json!({"here": network.devices()?, "routes": network.ip("route show")?, "there": there}))
    };
    let before = look()?;
    action()?;
    let after = look()?;
    ensure!(before == after, "it was {before} and is {after}");
    Ok(())
}

/// A device with a route that is lost when it is moved.
fn routed(network: &Network, name: &str) -> Outcome {
    network.veth_with_addresses(name)?;
    network.ip(&format!("link set dev {name} up"))?;
    network.ip(&format!("route add 10.0.0.0/8 dev {name}")).map(drop)
}

fn a_taken_name_is_refused_before_anything_is_moved(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let holder = network.holder()?;
    network.ip_in(holder.pid, "link add name taken type veth")?;
    network.ip_in(holder.pid, "link property add dev taken altname another")?;
    routed(&network, "a")?;
    network.veth("b")?;
    network.veth("taken")?;
    for devices in [json!({"a": {}, "b": {"name": "taken"}}), json!({"a": {}, "taken": {}})] {
        unchanged(&network, Some(holder.pid), || {
            moving(&network, devices).given("/linux/namespaces/2", joined(holder.pid)).refused("taken")
        })?;
    }
    unchanged(&network, Some(holder.pid), || {
        let devices = json!({"a": {}, "b": {"name": "another"}});
        moving(&network, devices).given("/linux/namespaces/2", joined(holder.pid)).refused("another")
    })?;
    unchanged(&network, None, || moving(&network, json!({"a": {}, "b": {"name": "lo"}})).refused("lo"))?;
    holder.end()
}

fn a_missing_device_is_refused_before_anything_is_moved(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    unchanged(&network, None, || moving(&network, json!({"a": {}, "missing": {}})).refused("missing"))
}

fn one_device_by_two_names_is_refused(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    network.ip("link property add dev a altname another")?;
    unchanged(&network, None, || moving(&network, json!({"a": {"name": "x"}, "another": {"name": "y"}})).refused("a"))
}

fn a_device_without_a_network_namespace_is_refused(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    let uts = json!({"type": "uts"});
    unchanged(&network, None, || {
        moving(&network, json!({"a": {}})).given("/linux/namespaces/2", uts).refused("network")
    })
}

fn the_network_namespace_of_the_runtime_is_refused(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    for devices in [json!({"a": {}}), json!({"a": {"name": "b"}})] {
        let own = json!({"type": "network", "path": "/proc/self/ns/net"});
        unchanged(&network, None, || moving(&network, devices).given("/linux/namespaces/2", own).refused("network"))?;
    }
    Ok(())
}

fn two_devices_of_one_name_are_refused(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    network.veth("b")?;
    for devices in [json!({"a": {"name": "x"}, "b": {"name": "x"}}), json!({"a": {"name": "b"}, "b": {}})] {
        unchanged(&network, None, || moving(&network, devices).refused(""))?;
    }
    Ok(())
}

fn names_that_no_device_can_have_are_refused(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    let bad = [".", "..", "a/b", "a:b", "a b", "a\tb", "a%", "a%db", "%d%d", "à", "abcdefghijklmnop", "a\nb"];
    for name in bad {
        unchanged(&network, None, || moving(&network, json!({"a": {"name": name}})).refused(""))?;
        unchanged(&network, None, || moving(&network, json!({ name: {"name": "x"} })).refused(""))?;
    }
    Ok(())
}

/// Devices in each state that has to come back.
fn varied(network: &Network) -> Outcome {
    network.veth_with_addresses("a")?;
    network.veth_with_addresses("up")?;
    network.ip("addr add 192.0.2.7/24 dev a label a:7")?;
    network.ip("link set dev a mtu 1400 address 02:00:00:00:00:01 alias x")?;
    network.ip("link set dev up up")?;
    network.veth("z")
}

/// All of them with new names.
fn varied_devices() -> Value {
    json!({"a": {"name": "x"}, "up": {"name": "eth%d"}, "z": {}})
}

/// Addresses, names and state have to be as before; a route may be lost.
fn back(network: &Network, action: impl FnOnce() -> Outcome) -> Outcome {
    let before = network.devices()?;
    action()?;
    let after = network.devices()?;
    ensure!(before == after, "it was {before} and is {after}");
    Ok(())
}

fn a_device_that_can_not_be_moved_is_an_error_and_the_others_are_back(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    varied(&network)?;
    network.ip("link add stuck type bridge")?;
    let mut devices = varied_devices();
    devices["stuck"] = json!({});
    back(&network, || moving(&network, devices).refused("stuck"))
}

fn a_name_that_is_refused_after_the_move_is_an_error_and_the_device_is_back(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    network.veth_with_addresses("v0")?;
    // Its own alternative name keeps it from being renamed, and it has moved by then.
    network.ip("link property add dev v0 altname another")?;
    back(&network, || moving(&network, json!({"v0": {"name": "another"}})).refused("v0"))
}

fn an_error_of_create_leaves_the_devices_as_they_were(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    varied(&network)?;
    let hook = |name: &str| json!({name: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]}]});
    let changes = [
        ("/hooks", hook("createRuntime")),
        ("/hooks", hook("createContainer")),
        ("/mounts/-", json!({"destination": "/x", "type": "nosuchfs", "source": "x"})),
        ("/linux/sysctl", json!({"net.nosuch.sysctl": "1"})),
        ("/process/args", json!(["/no/such/program"])),
    ];
    for (pointer, value) in changes {
        back(&network, || {
            let bundle = bundle(case, varied_devices())?.with(pointer, value);
            bundle.write()?;
            let arguments = ["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id];
            case.run(&arguments)?.fails(1, "").map(drop)
        })?;
    }
    Ok(())
}

fn an_error_of_run_leaves_the_devices_as_they_were(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    varied(&network)?;
    // It can be found and is no program, which execve alone can tell.
    let prepare = |bundle: &Bundle| -> Outcome {
        fs::write(bundle.rootfs().join("bad"), "\x7fELF")?;
        Ok(fs::set_permissions(bundle.rootfs().join("bad"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
    };
    back(&network, || {
        let bundle = bundle(case, varied_devices())?.args(&["/bad"]);
        prepare(&bundle)?;
        let output = bundle.run(case)?;
        ensure!(output.status != 0, "it ran: {output}");
        Ok(())
    })?;
    let failing = json!({"startContainer": [{"path": "/bin/false"}]});
    back(&network, || {
        let output = bundle(case, varied_devices())?.with("/hooks", failing).run(case)?;
        ensure!(output.status != 0, "it ran: {output}");
        Ok(())
    })
}

fn a_device_stays_in_a_joined_namespace(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let holder = network.holder()?;
    network.veth_with_addresses("v0")?;
    let bundle = bundle(case, json!({"v0": {"name": "eth0"}}))?.with("/linux/namespaces/2", joined(holder.pid));
    bundle.probe(&[]).run(case)?.succeeds()?;
    let left = network.devices_of(holder.pid)?;
    ensure!(left["eth0"]["up"] == json!(true), "the namespace that it was moved to has {left}");
    ensure!(network.devices()?.get("v0").is_none(), "it is back");
    holder.end()
}

fn a_device_is_not_moved_back(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    network.veth("v0")?;
    // Deleting a virtual device's namespace deletes it, and its other end.
    let container = case.create(&bundle(case, json!({"v0": {}}))?.probe(&[]))?;
    container.start()?;
    container.wait()?;
    container.delete()?;
    for _ in 0..100 {
        if network.devices()?.as_object().map(serde_json::Map::len) == Some(1) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err(format!("the namespace is still alive: {}", network.devices()?).into())
}

fn a_virtual_device_is_gone_when_poststop_hooks_run(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    network.ip("link add name v0 type veth peer name other-end")?;
    let gone = case.dir.join("gone");
    // The kernel ends a namespace in its own time, but only if nobody holds it.
    let script = format!(
        "i=0; while ip link show other-end >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 40 ] || exit 1; sleep 0.1; done; : >{}",
        gone.display()
    );
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
    let bundle = bundle(case, json!({"v0": {}}))?.with("/hooks", json!({"poststop": [hook]}));
    bundle.run(case)?.succeeds()?;
    ensure!(gone.exists(), "the runtime keeps the namespace: {}", network.devices()?);
    Ok(())
}

fn a_namespace_may_belong_to_another_user_namespace(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    network.veth_with_addresses("v0")?;
    let mut holder = Command::new("sleep");
    // SAFETY: one system call between fork and exec.
    unsafe {
        holder
            .arg("60")
            .env("CORTEN_IT", &case.tag)
            .pre_exec(|| Ok(unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?));
    }
    // When spawn returns it has executed. The reaper reaps it.
    let holder = i32::try_from(holder.spawn()?.id()).map_err(|error| error.to_string())?;
    let moved = (|| -> Outcome {
        let bundle = bundle(case, json!({"v0": {"name": "eth0"}}))?.with("/linux/namespaces/2", joined(holder));
        let seen = bundle.probe(&["--network"]).see(case)?;
        seen.is("/network/eth0/up", &json!(true))?;
        ensure!(seen.get("/network/eth0/addresses/4").is_string(), "addresses are missing: {}", seen.get("/network"));
        // And back again.
        network.veth_with_addresses("v1")?;
        let failing = json!({"createRuntime": [{"path": "/bin/false"}]});
        let bundle = self::bundle(case, json!({"v1": {"name": "eth1"}}))?.with("/linux/namespaces/2", joined(holder));
        back(&network, || bundle.with("/hooks", failing).run(case)?.fails(1, "").map(drop))
    })();
    kill(Pid::from_raw(holder), Signal::SIGKILL)?;
    moved
}

/// In a new user namespace whose root is ours.
fn in_user_namespace(bundle: Bundle) -> Bundle {
    let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    let bundle = bundle.with("/linux/namespaces/-", json!({"type": "user"}));
    bundle.with("/linux/uidMappings", ids.clone()).with("/linux/gidMappings", ids)
}

fn a_container_with_a_user_namespace_gets_devices_and_gives_them_back_after_an_error(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    network.veth_with_addresses("v0")?;
    let bundle = || -> Outcome<_> { Ok(in_user_namespace(bundle(case, json!({"v0": {"name": "eth0"}}))?)) };
    back(&network, || {
        let output = bundle()?.args(&["/no/such/program"]).run(case)?;
        ensure!(output.status != 0, "it ran: {output}");
        Ok(())
    })?;
    let seen = bundle()?.probe(&["--network"]).see(case)?;
    seen.is("/network/eth0/up", &json!(true))?;
    ensure!(seen.get("/network/eth0/addresses/4").is_string(), "addresses are missing: {}", seen.get("/network"));
    Ok(())
}

fn a_user_without_rights_moves_no_devices(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    routed(&network, "a")?;
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let bundle = in_user_namespace(bundle(case, json!({"a": {}}))?);
    let bundle = bundle.with("/linux/uidMappings", ids.clone()).with("/linux/gidMappings", ids);
    bundle.write()?;
    unchanged(&network, None, || {
        let output = case.runtime(&bundle.run_arguments()).user(1000).go()?;
        ensure!(output.status != 0, "it ran: {output}");
        if case.machine.is_corten() {
            output.fails(1, "config.json: /linux/netDevices: ")?;
        }
        Ok(())
    })
}

fn hooks_of_create_find_the_devices_in_place(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    for (kind, script) in [
        ("createRuntime", "pid=$(jq .pid) && nsenter -t $pid -n ip -br link show eth0 up | grep -q eth0"),
        ("createContainer", "ip -br link show eth0 up | grep -q eth0"),
    ] {
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        let hooks = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": [path]}]});
        network.veth("v0")?;
        let bundle = bundle(case, json!({"v0": {"name": "eth0"}}))?.with("/hooks", hooks);
        bundle.run(case)?.succeeds()?;
        let output = bundle.without("/linux/netDevices").run(case)?;
        ensure!(output.status != 0, "the hook finds the device without the property: {output}");
    }
    Ok(())
}

fn a_sysctl_of_a_moved_device_is_set(case: &Case) -> Outcome {
    let network = Network::new(case)?;
    let file = "/proc/sys/net/ipv4/conf/eth0/rp_filter";
    property(case, "/linux/sysctl", json!({"net/ipv4/conf/eth0/rp_filter": "2"}))
        .given("/linux/namespaces/-", json!({"type": "network"}))
        .given("/ociVersion", json!("1.3.0"))
        .given("/linux/netDevices", json!({"v0": {"name": "eth0"}}))
        .prepared(|_| network.veth("v0"))
        .probe(&["--read", file])
        .holds(|seen| seen.reads(file, "2\n"))
}
