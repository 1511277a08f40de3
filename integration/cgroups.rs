//! Cgroups from outside: where the container is, which limits are written, and that all of it goes away again.
//!
//! The limits are those of the hierarchy that the view shows; a controller that is not there is a reason to skip.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bundle::{Check, property};
use crate::harness::{Case, Outcome, skip};
use crate::leftovers::cgroup_directories_named;
use crate::runtime::Container;
use crate::{ensure, tests};

tests![
    memory_limit_is_written,
    memory_reservation_is_written,
    memory_swap_is_written,
    cpu_shares_are_written,
    cpu_quota_and_period_are_written,
    cpuset_is_written,
    cpuset_mems_are_written,
    memory_swappiness_is_written,
    memory_oom_killer_can_be_disabled,
    memory_is_accounted_with_its_children,
    memory_kernel_tcp_is_written,
    memory_kernel_is_ignored_with_a_warning,
    swap_without_a_limit_is_refused,
    a_cpuset_above_that_nobody_has_filled_is_filled,
    cpu_burst_is_written,
    cpu_idle_is_written,
    cpu_realtime_is_written,
    cpu_realtime_of_parents_that_are_made_is_given,
    block_io_weight_is_written,
    block_io_device_weight_is_written,
    block_io_leaf_weight_needs_cfq,
    block_io_throttles_are_written,
    a_throttle_of_a_missing_device_says_so,
    hugepage_limit_is_written,
    a_hugepage_size_of_another_form_is_refused,
    network_class_and_priorities_are_written,
    rdma_limits_are_written,
    a_unified_file_is_written,
    a_unified_file_that_nobody_has_is_an_error,
    a_unified_path_is_refused,
    hierarchies_may_be_mounted_elsewhere,
    pids_limit_is_written,
    pids_limit_minus_one_is_no_limit,
    pids_limit_zero_is_a_limit,
    pids_limit_holds,
    cgroups_path_is_where_the_process_is,
    every_hierarchy_has_the_process,
    a_relative_cgroups_path_is_the_same_place_each_time,
    a_cgroups_path_with_dots_stays_below_the_root,
    the_cgroup_is_gone_after_delete,
    subgroups_are_removed_too,
    a_cgroup_that_existed_stays,
    a_cgroup_with_processes_is_refused,
    delete_force_ends_every_process_of_the_cgroup,
    kill_ends_every_process_without_a_pid_namespace,
    true_runs_in_192_kib,
    a_limit_of_a_missing_controller_is_an_error,
    the_cgroup_mount_shows_the_containers_own_groups,
    a_readonly_cgroup_mount_is_readonly,
    a_cgroup_mount_without_cgroup_namespace_leaves_the_hosts_options,
];

/// The directory of the container's cgroup that holds a controller's files.
fn group(case: &Case, pid: i32, controller: &str) -> Result<PathBuf, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
    let mut found = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        match (case.machine.cgroup2, controllers) {
            (true, "") => Some(PathBuf::from("/sys/fs/cgroup").join(path)),
            (false, list) if list.split(',').any(|name| name == controller) => {
                Some(PathBuf::from("/sys/fs/cgroup").join(controller).join(path))
            }
            _ => None,
        }
    });
    found.next().ok_or_else(|| format!("{pid} is in no {controller} cgroup: {text}"))
}

/// What a cgroup file of the container holds: the name on v1, or that on v2.
pub fn limit(case: &Case, container: &Container, controller: &str, v1: &str, v2: &str) -> Result<String, String> {
    let file = group(case, container.pid, controller)?.join(if case.machine.cgroup2 { v2 } else { v1 });
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim().to_owned())
}

pub fn need(case: &Case, controller: &str) -> Outcome {
    if case.has_controller(controller) { Ok(()) } else { skip(format!("this view has no {controller} controller")) }
}

/// A limit has to be found in the file of its controller: value on v1, value on v2.
fn is_written(case: &Case, resource: (&str, Value), files: [&str; 3], values: [&str; 2]) -> Outcome {
    let ([controller, v1, v2], [on_v1, on_v2]) = (files, values);
    need(case, controller)?;
    let expected = if case.machine.cgroup2 { on_v2 } else { on_v1 };
    let pointer = format!("/linux/resources{}", resource.0);
    property(case, &pointer, resource.1).holds_outside(|container| -> Check {
        let found = limit(case, container, controller, v1, v2)?;
        ensure!(found == expected, "the limit is {found}, not {expected}");
        Ok(())
    })
}

fn memory_limit_is_written(case: &Case) -> Outcome {
    let files = ["memory", "memory.limit_in_bytes", "memory.max"];
    is_written(case, ("/memory/limit", json!(100 << 20)), files, ["104857600", "104857600"])
}

fn memory_reservation_is_written(case: &Case) -> Outcome {
    let files = ["memory", "memory.soft_limit_in_bytes", "memory.low"];
    is_written(case, ("/memory/reservation", json!(50 << 20)), files, ["52428800", "52428800"])
}

fn memory_swap_is_written(case: &Case) -> Outcome {
    let memory = json!({"limit": 100 << 20, "swap": 150 << 20});
    let files = ["memory", "memory.memsw.limit_in_bytes", "memory.swap.max"];
    is_written(case, ("/memory", memory), files, ["157286400", "52428800"])
}

fn cpu_shares_are_written(case: &Case) -> Outcome {
    is_written(case, ("/cpu/shares", json!(512)), ["cpu", "cpu.shares", "cpu.weight"], ["512", "59"])
}

fn cpu_quota_and_period_are_written(case: &Case) -> Outcome {
    let cpu = json!({"quota": 30000, "period": 60000});
    is_written(case, ("/cpu", cpu.clone()), ["cpu", "cpu.cfs_quota_us", "cpu.max"], ["30000", "30000 60000"])?;
    is_written(case, ("/cpu", cpu), ["cpu", "cpu.cfs_period_us", "cpu.max"], ["60000", "30000 60000"])
}

fn cpuset_is_written(case: &Case) -> Outcome {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("there is one CPU only");
    }
    is_written(case, ("/cpu/cpus", json!("0")), ["cpuset", "cpuset.cpus", "cpuset.cpus"], ["0", "0"])
}

fn cpuset_mems_are_written(case: &Case) -> Outcome {
    need(case, "cpuset")?;
    let several = fs::read_to_string("/sys/devices/system/node/online").is_ok_and(|nodes| nodes.trim() != "0");
    if !case.machine.cgroup2 && !several {
        return skip("there is one memory node, which every cgroup of v1 has anyway");
    }
    is_written(case, ("/cpu/mems", json!("0")), ["cpuset", "cpuset.mems", "cpuset.mems"], ["0", "0"])
}

/// A limit that v2 has no form for has to be refused there, and found in its file on v1.
fn is_written_on_v1(case: &Case, resource: (&str, Value), file: &str, value: &str) -> Outcome {
    let controller = file.split('.').next().unwrap_or_default();
    if case.machine.cgroup2 {
        // On crun an unavailable memory controller is the first thing to complain about.
        return property(case, &format!("/linux/resources{}", resource.0), resource.1).refused("");
    }
    is_written(case, resource, [controller, file, ""], [value, ""])
}

fn memory_swappiness_is_written(case: &Case) -> Outcome {
    is_written_on_v1(case, ("/memory/swappiness", json!(7)), "memory.swappiness", "7")
}

fn memory_oom_killer_can_be_disabled(case: &Case) -> Outcome {
    let memory = ("/memory/disableOOMKiller", json!(true));
    if case.machine.cgroup2 {
        return is_written_on_v1(case, memory, "memory.oom_control", "");
    }
    property(case, "/linux/resources/memory/disableOOMKiller", json!(true)).holds_outside(|container| -> Check {
        let found = limit(case, container, "memory", "memory.oom_control", "")?;
        ensure!(found.starts_with("oom_kill_disable 1"), "the file holds {found}");
        Ok(())
    })
}

fn memory_is_accounted_with_its_children(case: &Case) -> Outcome {
    let pointer = "/linux/resources/memory/useHierarchy";
    if case.machine.cgroup2 {
        // There it always is, so that only the contrary has to be refused.
        return property(case, pointer, json!(false)).instead_of(json!(true)).refused("ierarchy");
    }
    need(case, "memory")?;
    for (asked, expected) in [(true, "1"), (false, "0")] {
        let bundle = case.bundle()?.with(pointer, json!(asked));
        bundle.write()?;
        let output = case.runtime(&["create", "--bundle"]).args(&[&bundle.dir]).args(&[&bundle.id]).go()?;
        if output.status != 0 && !asked {
            // From Linux 5.11 on nothing else is possible on v1 either.
            return output.fails(1, "use_hierarchy").map(drop);
        }
        output.succeeds()?;
        let pid = case.state(&bundle.id)?.get("pid").and_then(Value::as_i64).unwrap_or(0) as i32;
        let file = group(case, pid, "memory")?.join("memory.use_hierarchy");
        let found = fs::read_to_string(&file)?;
        case.delete_force(&bundle.id)?;
        ensure!(found.trim() == expected, "useHierarchy {asked} makes it {found}");
    }
    Ok(())
}

fn memory_kernel_tcp_is_written(case: &Case) -> Outcome {
    let memory = ("/memory/kernelTCP", json!(50 << 20));
    is_written_on_v1(case, memory, "memory.kmem.tcp.limit_in_bytes", "52428800")
}

fn memory_kernel_is_ignored_with_a_warning(case: &Case) -> Outcome {
    let output = case.bundle()?.with("/linux/resources/memory/kernel", json!(50 << 20)).run(case)?.succeeds()?;
    ensure!(output.stderr.contains("level=warning"), "no warning: {output}");
    Ok(())
}

fn swap_without_a_limit_is_refused(case: &Case) -> Outcome {
    // Both count swap together with memory, of which there is no limit; v2 has to be told the difference.
    property(case, "/linux/resources/memory/swap", json!(1 << 30)).refused("memory")
}

fn a_cpuset_above_that_nobody_has_filled_is_filled(case: &Case) -> Outcome {
    let above = PathBuf::from(format!("/sys/fs/cgroup/cpuset/{}-above", case.tag));
    if case.machine.cgroup2 || !above.parent().is_some_and(std::path::Path::exists) {
        return skip("only a cpuset of v1 begins empty");
    }
    fs::create_dir(&above)?;
    let path = format!("/{}-above/container", case.tag);
    let ended =
        case.create(&case.bundle()?.with("/linux/cgroupsPath", json!(path))).and_then(|container| container.end());
    // The peers leave it in the other hierarchies, too.
    for above in cgroup_directories_named(&format!("{}-above", case.tag)) {
        fs::remove_dir(&above)?;
    }
    ended
}

fn cpu_burst_is_written(case: &Case) -> Outcome {
    let cpu = json!({"quota": 30000, "period": 60000, "burst": 20000});
    is_written(case, ("/cpu", cpu), ["cpu", "cpu.cfs_burst_us", "cpu.max.burst"], ["20000", "20000"])
}

fn cpu_idle_is_written(case: &Case) -> Outcome {
    let cpu = json!({"idle": 1, "shares": 512});
    is_written(case, ("/cpu", cpu), ["cpu", "cpu.idle", "cpu.idle"], ["1", "1"])
}

/// A path whose first directory the runtime has to make, below a root that has realtime to give away.
fn realtime(case: &Case, path: &str) -> Outcome {
    if !case.machine.cgroup2 && !PathBuf::from("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        return skip("the kernel has no realtime group scheduling");
    }
    let cpu = ("/cpu", json!({"realtimePeriod": 500_000, "realtimeRuntime": 10_000}));
    if case.machine.cgroup2 {
        return is_written_on_v1(case, cpu, "cpu.rt_runtime_us", "");
    }
    property(case, "/linux/resources/cpu", cpu.1).given("/linux/cgroupsPath", json!(path)).holds_outside(
        |container| -> Check {
            for (file, expected) in [("cpu.rt_period_us", "500000"), ("cpu.rt_runtime_us", "10000")] {
                let found = limit(case, container, "cpu", file, "")?;
                ensure!(found == expected, "{file} is {found}, not {expected}");
            }
            Ok(())
        },
    )
}

fn cpu_realtime_is_written(case: &Case) -> Outcome {
    realtime(case, &format!("/{}-rt", case.tag))
}

fn cpu_realtime_of_parents_that_are_made_is_given(case: &Case) -> Outcome {
    realtime(case, &format!("/{}-rt/one/two", case.tag))
}

/// A block device of the machine by its number, if `wanted` says so of its I/O scheduler.
fn block_device(wanted: impl Fn(&str) -> bool) -> Option<String> {
    let devices = fs::read_dir("/sys/block").ok()?.flatten();
    let mut numbers = devices.filter_map(|device| {
        let scheduler = fs::read_to_string(device.path().join("queue/scheduler")).unwrap_or_default();
        let number = fs::read_to_string(device.path().join("dev")).ok()?;
        wanted(&scheduler).then(|| number.trim().to_owned())
    });
    numbers.next()
}

/// `major` and `minor` of a device's number, and further properties.
fn device_entry(number: &str, mut more: Value) -> Value {
    let (major, minor) = number.split_once(':').unwrap_or_default();
    for (name, text) in [("major", major), ("minor", minor)] {
        crate::bundle::set(&mut more, &format!("/{name}"), json!(text.parse::<i64>().unwrap_or(-1)));
    }
    more
}

/// The first of some files that a container's cgroup has, with what it holds.
fn first_of(case: &Case, container: &Container, controller: &str, files: &[&str]) -> Result<String, String> {
    let directory = group(case, container.pid, controller)?;
    let found = files.iter().find_map(|file| fs::read_to_string(directory.join(file)).ok());
    found.ok_or_else(|| format!("none of {files:?} is in {}", directory.display()))
}

const IO: [&str; 2] = ["blkio", "io"];

fn io_controller(case: &Case) -> &'static str {
    IO[usize::from(case.machine.cgroup2)]
}

/// The files with weights, where the kernel has them.
fn weight_files(case: &Case, suffix: &str) -> Outcome<Vec<String>> {
    need(case, io_controller(case))?;
    let files = match case.machine.cgroup2 {
        true => vec!["io.bfq.weight".to_owned(), "io.weight".to_owned()],
        false => ["blkio.weight", "blkio.bfq.weight"].map(|file| format!("{file}{suffix}")).to_vec(),
    };
    let base = if case.machine.cgroup2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/blkio" };
    // The root of the hierarchy has none of them, and on v2 a runtime that needs the controller enables it.
    if case.machine.cgroup2 {
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+io")?;
    }
    let trial = PathBuf::from(base).join(format!("{}-trial", case.tag));
    fs::create_dir(&trial)?;
    let there = files.iter().any(|file| trial.join(file).exists());
    fs::remove_dir(&trial)?;
    if there { Ok(files) } else { skip("the kernel has no I/O scheduler with weights") }
}

fn block_io_weight_is_written(case: &Case) -> Outcome {
    let files = weight_files(case, "")?;
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    property(case, "/linux/resources/blockIO/weight", json!(500)).holds_outside(|container| -> Check {
        let found = first_of(case, container, io_controller(case), &files)?;
        ensure!(["500", "default 500", "default 4950"].contains(&found.trim()), "the weight is {found}");
        Ok(())
    })
}

fn block_io_device_weight_is_written(case: &Case) -> Outcome {
    let files = weight_files(case, "_device")?;
    let Some(number) = block_device(|scheduler| scheduler.contains("[bfq]")) else {
        return skip("no block device has the scheduler BFQ");
    };
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let devices = json!([device_entry(&number, json!({"weight": 500}))]);
    property(case, "/linux/resources/blockIO/weightDevice", devices).holds_outside(|container| -> Check {
        let found = first_of(case, container, io_controller(case), &files)?;
        ensure!(found.lines().any(|line| line.starts_with(&format!("{number} "))), "the weights are {found}");
        Ok(())
    })
}

fn block_io_leaf_weight_needs_cfq(case: &Case) -> Outcome {
    need(case, io_controller(case))?;
    property(case, "/linux/resources/blockIO/leafWeight", json!(500)).refused("leaf")
}

fn block_io_throttles_are_written(case: &Case) -> Outcome {
    need(case, io_controller(case))?;
    let Some(number) = block_device(|_| true) else { return skip("the machine has no block device") };
    for (name, file, key) in [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
    ] {
        let pointer = format!("/linux/resources/blockIO/{name}");
        let devices = json!([device_entry(&number, json!({"rate": 123_456}))]);
        property(case, &pointer, devices).holds_outside(|container| -> Check {
            let found = first_of(case, container, io_controller(case), &[file, "io.max"])?;
            let line = found.lines().find(|line| line.starts_with(&format!("{number} "))).unwrap_or_default();
            let expected = if case.machine.cgroup2 { format!("{key}=123456") } else { "123456".to_owned() };
            ensure!(line.contains(&expected), "{name} is {found}");
            Ok(())
        })?;
    }
    Ok(())
}

fn a_throttle_of_a_missing_device_says_so(case: &Case) -> Outcome {
    need(case, io_controller(case))?;
    let devices = json!([{"major": 4000, "minor": 7, "rate": 1}]);
    property(case, "/linux/resources/blockIO/throttleReadBpsDevice", devices).refused("4000:7")
}

fn hugepage_limit_is_written(case: &Case) -> Outcome {
    need(case, "hugetlb")?;
    if !PathBuf::from("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        return skip("the machine has no huge pages of 2MB");
    }
    let limits = ("/hugepageLimits", json!([{"pageSize": "2MB", "limit": 4 << 20}]));
    let files = ["hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"];
    is_written(case, limits.clone(), files, ["4194304", "4194304"])?;
    let files = ["hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.rsvd.max"];
    is_written(case, limits, files, ["4194304", "4194304"])
}

fn a_hugepage_size_of_another_form_is_refused(case: &Case) -> Outcome {
    for size in ["2mb", "../2MB", "3MB"] {
        let limits = json!([{"pageSize": size, "limit": 4 << 20}]);
        property(case, "/linux/resources/hugepageLimits", limits).refused("huge")?;
    }
    Ok(())
}

fn network_class_and_priorities_are_written(case: &Case) -> Outcome {
    if !case.machine.cgroup2 {
        need(case, "net_cls")?;
    }
    let priorities = json!([{"name": "lo", "priority": 3}]);
    if case.machine.cgroup2 {
        property(case, "/linux/resources/network/classID", json!(1_048_577)).refused("network")?;
        return property(case, "/linux/resources/network/priorities", priorities).refused("network");
    }
    is_written_on_v1(case, ("/network/classID", json!(1_048_577)), "net_cls.classid", "1048577")?;
    property(case, "/linux/resources/network/priorities", priorities).holds_outside(|container| -> Check {
        let found = limit(case, container, "net_prio", "net_prio.ifpriomap", "")?;
        ensure!(found.lines().any(|line| line == "lo 3"), "the priorities are {found}");
        Ok(())
    })
}

fn rdma_limits_are_written(case: &Case) -> Outcome {
    need(case, "rdma")?;
    let Some(device) = fs::read_dir("/sys/class/infiniband").ok().and_then(|mut list| list.next()?.ok()) else {
        return skip("the machine has no RDMA device");
    };
    let device = device.file_name().to_string_lossy().into_owned();
    let limits = json!({device.clone(): {"hcaHandles": 3, "hcaObjects": 10_000}});
    property(case, "/linux/resources/rdma", limits).holds_outside(|container| -> Check {
        let found = limit(case, container, "rdma", "rdma.max", "rdma.max")?;
        ensure!(found.contains(&format!("{device} hca_handle=3 hca_object=10000")), "the limits are {found}");
        Ok(())
    })
}

fn a_unified_file_is_written(case: &Case) -> Outcome {
    if !case.machine.cgroup2 {
        return property(case, "/linux/resources/unified", json!({"cgroup.max.depth": "5"})).refused("unified");
    }
    // One of no controller, and one whose controller has to be enabled on the way.
    property(case, "/linux/resources/unified", json!({"cgroup.max.depth": "5\n"})).holds_outside(|container| {
        let found = limit(case, container, "", "", "cgroup.max.depth")?;
        ensure!(found == "5", "the file holds {found}");
        Ok(())
    })?;
    need(case, "hugetlb")?;
    let unified = json!({"hugetlb.2MB.max": "6291456"});
    property(case, "/linux/resources/unified", unified).holds_outside(|container| {
        let found = limit(case, container, "hugetlb", "", "hugetlb.2MB.max")?;
        ensure!(found == "6291456", "the file holds {found}");
        Ok(())
    })
}

fn a_unified_file_that_nobody_has_is_an_error(case: &Case) -> Outcome {
    property(case, "/linux/resources/unified", json!({"nonsense.max": "5"})).refused("")?;
    if !case.machine.cgroup2 {
        return Ok(());
    }
    let output = case.bundle()?.with("/linux/resources/unified", json!({"nonsense.max": "5"})).run(case)?;
    output.fails(1, "nonsense")?;
    property(case, "/linux/resources/unified", json!({"cgroup.nonsense": "5"})).refused("cgroup.nonsense")
}

fn a_unified_path_is_refused(case: &Case) -> Outcome {
    property(case, "/linux/resources/unified", json!({"../cgroup.max.depth": "5"})).refused("cgroup")
}

fn hierarchies_may_be_mounted_elsewhere(case: &Case) -> Outcome {
    if case.machine.cgroup2 {
        return skip("cgroup2 is at /sys/fs/cgroup everywhere");
    }
    let elsewhere = case.dir.join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let bundle = case.bundle()?.with("/linux/resources/pids/limit", json!(77)).probe(&["--read", "/sys/pids/pids.max"]);
    let mount = json!({"destination": "/sys", "type": "cgroup", "source": "cgroup", "options": ["ro"]});
    let bundle = bundle.with("/mounts/-", mount);
    bundle.write()?;
    let mount = format!("mount -t cgroup -o pids none '{}'", elsewhere.display());
    let script = format!("umount /sys/fs/cgroup/pids && {mount} && exec \"$@\"");
    let output = case.scripted(&[], &script, &bundle.run_arguments()).go()?.succeeds()?;
    Ok(output.seen()?.reads("/sys/pids/pids.max", "77\n")?)
}

fn pids_limit_is_written(case: &Case) -> Outcome {
    is_written(case, ("/pids/limit", json!(77)), ["pids", "pids.max", "pids.max"], ["77", "77"])
}

fn pids_limit_minus_one_is_no_limit(case: &Case) -> Outcome {
    need(case, "pids")?;
    let alternative = json!({"limit": 5});
    let minus_one = property(case, "/linux/resources/pids", json!({"limit": -1})).instead_of(alternative);
    minus_one.holds_outside(|container| {
        let found = limit(case, container, "pids", "pids.max", "pids.max")?;
        ensure!(found == "max", "the limit is {found}");
        Ok(())
    })
}

fn pids_limit_zero_is_a_limit(case: &Case) -> Outcome {
    is_written(case, ("/pids/limit", json!(0)), ["pids", "pids.max", "pids.max"], ["0", "0"])
}

fn pids_limit_holds(case: &Case) -> Outcome {
    need(case, "pids")?;
    // getpid made in a child of the probe: the child is one process too many.
    property(case, "/linux/resources/pids", json!({"limit": 1}))
        .probe(&["--syscall", "39"])
        .holds(|seen| seen.answers("syscall", "39", &json!("fork: EAGAIN")))
}

fn cgroups_path_is_where_the_process_is(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-here", case.tag);
    property(case, "/linux/cgroupsPath", json!(path)).holds_outside(|container| {
        let group = group(case, container.pid, "devices")?;
        ensure!(group.to_string_lossy().ends_with(&path), "it is in {}", group.display());
        Ok(())
    })
}

fn every_hierarchy_has_the_process(case: &Case) -> Outcome {
    let path = format!("/corten-test/{}-here", case.tag);
    let container = case.create(&case.bundle()?.with("/linux/cgroupsPath", json!(path)))?;
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?;
    let outside: Vec<_> = text
        .lines()
        .filter(|line| !line.ends_with(&path))
        // What the view does not show cannot be used: v1 hierarchies under v2, cgroup2 where it is hidden from crun.
        .filter(|line| {
            if case.machine.cgroup2 {
                line.starts_with("0:")
            } else {
                !line.starts_with("0:")
            }
        })
        .collect();
    ensure!(outside.is_empty(), "outside of {path}: {outside:?}");
    case.delete_force(&container.id)
}

fn a_relative_cgroups_path_is_the_same_place_each_time(case: &Case) -> Outcome {
    let bundle = case.bundle()?.with("/linux/cgroupsPath", json!(format!("{}-relative", case.tag)));
    let mut places = Vec::new();
    for _ in 0..2 {
        let container = case.create(&bundle)?;
        places.push(fs::read_to_string(format!("/proc/{}/cgroup", container.pid))?);
        case.delete_force(&container.id)?;
    }
    ensure!(places.first() == places.get(1) && places.concat().contains("-relative"), "the places are {places:?}");
    Ok(())
}

fn a_cgroups_path_with_dots_stays_below_the_root(case: &Case) -> Outcome {
    let name = format!("{}-dots", case.tag);
    let bundle = case.bundle()?.with("/linux/cgroupsPath", json!(format!("/corten-test/../../../{name}")));
    let output = bundle.run(case)?;
    ensure!(output.status == 0 || output.status == 1 && output.stderr.contains("cgroup"), "{output}");
    // On v1 that directory is a tmpfs, in which only the hierarchies lie.
    let beside = !case.machine.cgroup2 && PathBuf::from("/sys/fs/cgroup").join(&name).exists();
    ensure!(!beside, "it was made beside the hierarchies");
    Ok(())
}

fn the_cgroup_is_gone_after_delete(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    let before = cgroup_directories_named(&container.id);
    ensure!(!before.is_empty(), "it has no cgroup");
    container.end()?;
    let after = cgroup_directories_named(&container.id);
    ensure!(after.is_empty(), "after delete there are {after:?}");
    Ok(())
}

fn subgroups_are_removed_too(case: &Case) -> Outcome {
    let container = case.run_detached(&case.docker_like()?.probe(&["--hold"]))?;
    for dir in cgroup_directories_named(&container.id) {
        fs::create_dir_all(dir.join("sub/deeper"))?;
    }
    container.end()
}

fn a_cgroup_that_existed_stays(case: &Case) -> Outcome {
    let path = format!("corten-test/{}-mine", case.tag);
    let base = if case.machine.cgroup2 { PathBuf::from("/sys/fs/cgroup") } else { "/sys/fs/cgroup/pids".into() };
    let dir = base.join(&path);
    fs::create_dir_all(&dir)?;
    let output = case.bundle()?.with("/linux/cgroupsPath", json!(format!("/{path}"))).run(case)?;
    let stays = dir.exists();
    let _ = fs::remove_dir(&dir);
    // Refusing it is allowed as well: then nothing has happened to it.
    ensure!(stays, "the container has removed a cgroup that it had not made: {output}");
    Ok(())
}

fn a_cgroup_with_processes_is_refused(case: &Case) -> Outcome {
    let first = case.docker_like()?.probe(&["--hold"]);
    let path = first.config.pointer("/linux/cgroupsPath").cloned().unwrap_or_default();
    let first = case.run_detached(&first)?;
    let output = case.bundle()?.with("/linux/cgroupsPath", path).run(case)?;
    output.fails(1, "cgroup")?;
    ensure!(case.status(&first.id)? == "running", "the first container was hurt");
    first.end()
}

/// A bundle without a pid namespace, whose init leaves a child in a session of its own.
fn with_a_straggler(case: &Case) -> Outcome<crate::bundle::Bundle> {
    let bundle = case.docker_like()?.shell("sleep 1000 & echo up; exec sleep 1000");
    Ok(bundle.with("/linux/namespaces", json!([{"type": "mount"}, {"type": "cgroup"}])).without("/hostname"))
}

fn delete_force_ends_every_process_of_the_cgroup(case: &Case) -> Outcome {
    let container = case.run_detached(&with_a_straggler(case)?)?;
    container.prints("up")?;
    // The init process is gone before delete: what is left is found by the cgroup only.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(container.pid), nix::sys::signal::Signal::SIGKILL)?;
    container.wait()?;
    case.delete_force(&container.id)
}

fn kill_ends_every_process_without_a_pid_namespace(case: &Case) -> Outcome {
    let container = case.run_detached(&with_a_straggler(case)?)?;
    container.prints("up")?;
    container.kill("KILL")?;
    container.wait()?;
    container.delete()
}

fn true_runs_in_192_kib(case: &Case) -> Outcome {
    need(case, "memory")?;
    crate::limits::not_on_user_mode_linux()?;
    let bundle = case.bundle()?.with("/linux/resources/memory/limit", json!(192 << 10)).args(&["/bin/true"]);
    bundle.run(case)?.succeeds().map(drop)
}

fn a_limit_of_a_missing_controller_is_an_error(case: &Case) -> Outcome {
    let limits = [
        ("memory", "/linux/resources/memory", json!({"limit": 1 << 30})),
        ("rdma", "/linux/resources/rdma", json!({"mlx5_1": {"hcaHandles": 3}})),
        ("hugetlb", "/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 0}])),
    ];
    let Some((name, pointer, limit)) = limits.into_iter().find(|(name, ..)| !case.has_controller(name)) else {
        return skip("this view has all controllers");
    };
    property(case, pointer, limit).refused(name)
}

fn the_cgroup_mount_shows_the_containers_own_groups(case: &Case) -> Outcome {
    let file = if case.machine.cgroup2 { "/sys/fs/cgroup/cgroup.procs" } else { "/sys/fs/cgroup/pids/cgroup.procs" };
    let seen = case.docker_like()?.probe(&["--read", file]).see(case)?;
    ensure!(seen.text(file)?.lines().eq(["1"]), "the processes are {:?}", seen.text(file)?);
    Ok(())
}

fn a_readonly_cgroup_mount_is_readonly(case: &Case) -> Outcome {
    let dir = if case.machine.cgroup2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    let file = format!("{dir}/cgroup.procs");
    let seen = case.docker_like()?.probe(&["--write", &file]).see(case)?;
    seen.answers("write", &file, &json!("EROFS"))?;
    Ok(seen.mounted_with(dir, &["ro", "nosuid", "nodev", "noexec"])?)
}

fn a_cgroup_mount_without_cgroup_namespace_leaves_the_hosts_options(case: &Case) -> Outcome {
    let options = || -> Outcome<Vec<String>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(mounts.lines().filter(|line| line.contains(" - cgroup2 ")).map(str::to_owned).collect())
    };
    let before = options()?;
    let bundle = case
        .bundle()?
        .with("/mounts/-", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    bundle.probe(&["--list", "/sys/fs/cgroup"]).run(case)?.succeeds()?;
    let after = options()?;
    ensure!(before == after, "the mounts were {before:?} and are {after:?}");
    Ok(())
}
