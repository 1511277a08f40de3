//! Limits in force: a payload tries to have more, and the figure that it gets is measured, not read from the limit's file.
//!
//! Each figure is measured with the limit, where it has to fit, and without, where it must not: else the test has shown
//! nothing. The payloads are busybox's: dd allocates its block, a loop uses a CPU, a shell starts processes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::harness::{Case, Outcome, skip};
use crate::runtime::Container;
use crate::{ensure, tests};

tests![
    memory_beyond_the_limit_cannot_be_had,
    an_init_that_exceeds_its_memory_is_killed,
    a_memory_limit_too_small_for_init_is_told,
    an_oom_kill_is_told_by_run_exec_and_state,
    exec_shares_the_memory_limit,
    swap_beyond_the_limit_cannot_be_had,
    processes_beyond_the_limit_cannot_be_started,
    writing_is_as_slow_as_the_limit;
    serial:
    cpu_time_is_not_more_than_the_quota,
    cpu_time_is_shared_by_weight,
    a_process_stays_on_its_cpus,
];

const MIB: i64 = 1 << 20;

fn need(case: &Case, controller: &str) -> Outcome {
    if case.has_controller(controller) { Ok(()) } else { skip(format!("this view has no {controller} controller")) }
}

/// A bundle whose /dev works wherever the rootfs lies: shells want /dev/null.
fn base(case: &Case) -> Outcome<Bundle> {
    Ok(case.bundle()?.with("/mounts/-", json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"})))
}

/// Measures with the limit and without it. `fits` has to hold for the first figure only.
fn in_force<T: std::fmt::Debug>(
    case: &Case,
    resource: (&str, &Value),
    measure: impl Fn(Bundle) -> Outcome<T>,
    fits: impl Fn(&T) -> bool,
) -> Outcome {
    let (name, value) = resource;
    let limited = measure(base(case)?.with(&format!("/linux/resources{name}"), value.clone()))?;
    ensure!(fits(&limited), "with {name} = {value} the payload got {limited:?}");
    let free = measure(base(case)?)?;
    ensure!(!fits(&free), "this test cannot fail: without {name} the payload got {free:?}, with it {limited:?}");
    if std::env::var_os("CORTEN_IT_VERBOSE").is_some() {
        println!("{name} = {value}: {limited:?}, without: {free:?}");
    }
    Ok(())
}

/// What a script prints: a word a line.
fn printed(case: &Case, bundle: Bundle, script: &str) -> Outcome<Vec<String>> {
    let output = bundle.shell(script).run(case)?;
    ensure!(!output.stdout.is_empty(), "the payload printed nothing: {output}");
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

/// A script that allocates blocks of some MiB, one after the other, and prints those that could be had. The shell is
/// small, so it is dd that the kernel kills. The blocks are not empty: a kernel gives pages of zeros back (Linux 6.12).
fn allocating(sizes: &[u32]) -> String {
    let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
    let allocate = "while /bin/cat /bin/busybox; do :; done | \
        /bin/busybox dd of=/dev/null bs=${m}M count=1 iflag=fullblock 2>/dev/null && echo $m";
    format!("for m in {}; do {allocate}; done", sizes.join(" "))
}

fn memory_beyond_the_limit_cannot_be_had(case: &Case) -> Outcome {
    need(case, "memory")?;
    let memory = json!({"limit": 64 * MIB, "swap": 64 * MIB});
    let script = allocating(&[16, 56, 72, 128]);
    in_force(case, ("/memory", &memory), |bundle| printed(case, bundle, &script), |sizes| sizes[..] == ["16", "56"])
}

fn an_init_that_exceeds_its_memory_is_killed(case: &Case) -> Outcome {
    need(case, "memory")?;
    let memory = json!({"limit": 32 * MIB, "swap": 32 * MIB});
    let measure = |bundle: Bundle| {
        let arguments = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
        let container = case.run_detached(&bundle.args(&arguments))?;
        let status = container.wait()?;
        let state = case.status(&container.id)?;
        container.delete()?;
        Ok((status, state))
    };
    in_force(case, ("/memory", &memory), measure, |(status, state)| *status == 137 && state == "stopped")
}

fn a_memory_limit_too_small_for_init_is_told(case: &Case) -> Outcome {
    need(case, "memory")?;
    not_on_user_mode_linux()?;
    let output = base(case)?.with("/linux/resources/memory", json!({"limit": 64 << 10, "swap": 64 << 10})).run(case)?;
    // Killed by the kernel in execve, which is the program's death, or before, which the runtime has to explain.
    if output.status == 137 || !case.machine.is_corten() && output.status != 0 {
        Ok(())
    } else {
        output.fails(1, "OOM-killed").map(drop)
    }
}

fn an_oom_kill_is_told_by_run_exec_and_state(case: &Case) -> Outcome {
    need(case, "memory")?;
    let told = |output: &crate::runtime::Output| match case.machine.is_corten() {
        true => output.stderr.contains("it was OOM-killed (memory limit too low?)"),
        false => true,
    };
    let bundle = base(case)?.with("/linux/resources/memory", json!({"limit": 32 * MIB, "swap": 32 * MIB}));
    let greedy = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    let bundle = bundle.args(&greedy);
    let output = bundle.run(case)?;
    ensure!(output.status == 137 && told(&output), "run: {output}");
    let container = case.run_detached(&bundle.again(case).args(&["/bin/sleep", "1000"]))?;
    let output = container.exec(&greedy)?;
    ensure!(output.status == 137 && told(&output), "exec: {output}");
    container.kill("KILL")?;
    container.wait()?;
    let state = case.state(&container.id)?;
    ensure!(!case.machine.is_corten() || state["oomKills"] == json!(1), "the state is {state}");
    container.delete()?;
    // Whoever is killed for another reason is not told of.
    let container = case.run_detached(&base(case)?.args(&["/bin/sleep", "1000"]))?;
    let output = container.exec(&["/bin/sh", "-c", "kill -KILL $$; sleep 100"])?;
    ensure!(output.status == 137 && output.stderr.is_empty(), "killed by itself: {output}");
    container.kill("KILL")?;
    container.wait()?;
    let state = case.state(&container.id)?;
    ensure!(state["oomKills"].is_null(), "the state is {state}");
    container.delete()
}

/// There an OOM kill during execve is a panic of the kernel.
pub fn not_on_user_mode_linux() -> Outcome {
    let uml = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"));
    if uml { skip("a memory limit below 1 MiB may be a panic of User-mode Linux") } else { Ok(()) }
}

fn exec_shares_the_memory_limit(case: &Case) -> Outcome {
    need(case, "memory")?;
    let memory = json!({"limit": 64 * MIB, "swap": 64 * MIB});
    let measure = |bundle: Bundle| {
        let container = case.run_detached(&bundle.args(&["/bin/sleep", "1000"]))?;
        let output = container.exec(&["/bin/sh", "-c", &allocating(&[16, 56, 72, 128])])?;
        container.end()?;
        Ok(output.stdout)
    };
    in_force(case, ("/memory", &memory), measure, |sizes| sizes == "16\n56\n")
}

fn swap_beyond_the_limit_cannot_be_had(case: &Case) -> Outcome {
    need(case, "memory")?;
    let free = fs::read_to_string("/proc/meminfo")?;
    let free =
        free.lines().find_map(|line| line.strip_prefix("SwapFree:")?.split_whitespace().next()?.parse::<i64>().ok());
    if free.unwrap_or(0) < 200 << 10 {
        return skip("the machine has less than 200 MiB of swap");
    }
    let script = allocating(&[24, 56, 80, 120]);
    // 32 MiB of memory and 32 of swap; without the second figure there may be more swap.
    let limits = |swap: i64| json!({"limit": 32 * MIB, "swap": swap * MIB});
    for (swap, expected) in [(32, &["24"][..]), (64, &["24", "56"]), (96, &["24", "56", "80"])] {
        // A kernel that cannot swap out as fast as it is asked for memory kills too early, so less is tried again.
        let mut sizes = Vec::new();
        for _ in 0..3 {
            sizes = printed(case, base(case)?.with("/linux/resources/memory", limits(swap)), &script)?;
            if sizes.len() >= expected.len() {
                break;
            }
        }
        ensure!(sizes == expected, "with 32 MiB, with swap {swap} MiB: the payload got {sizes:?}");
    }
    Ok(())
}

fn processes_beyond_the_limit_cannot_be_started(case: &Case) -> Outcome {
    need(case, "pids")?;
    // The shell ends at the first fork that fails, and with it the PID namespace.
    let script = "n=1; while [ $n -lt 30 ]; do sleep 100 & n=$((n + 1)); echo $n; done";
    let count = |bundle| Ok(printed(case, bundle, script)?.last().cloned().unwrap_or_default());
    in_force(case, ("/pids/limit", &json!(7)), count, |most| most == "7")
}

/// The disk below a directory of the tests, as numbers of its device.
fn disk_below(dir: &Path) -> Outcome<(u64, u64)> {
    let device = fs::metadata(dir)?.dev();
    let node = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    // What is limited is the whole disk.
    let disk = if node.join("partition").exists() { node.join("../dev") } else { node.join("dev") };
    let Ok(number) = fs::read_to_string(disk) else { return skip("/var/tmp does not lie on a disk of its own") };
    let parts = number.trim().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.ok_or_else(|| format!("the disk is {number:?}").into())
}

fn writing_is_as_slow_as_the_limit(case: &Case) -> Outcome {
    need(case, if case.machine.cgroup2 { "io" } else { "blkio" })?;
    let (major, minor) = disk_below(Path::new("/var/tmp"))?;
    let dir = Path::new("/var/tmp").join(format!("corten-it-{}", case.tag));
    fs::create_dir(&dir)?;
    // 4 MiB at one a second, past the page cache.
    let script = "/bin/busybox dd if=/dev/zero of=/data/file bs=256k count=16 oflag=direct 2>/dev/null && echo written";
    let measure = |bundle: Bundle| {
        let bind =
            json!({"destination": "/data", "source": dir.to_string_lossy(), "type": "bind", "options": ["bind"]});
        let begin = Instant::now();
        let words = printed(case, bundle.with("/mounts/-", bind), script)?;
        ensure!(words == ["written"], "dd says {words:?}");
        Ok(begin.elapsed())
    };
    let limit = json!([{"major": major, "minor": minor, "rate": MIB}]);
    let slow = |time: &Duration| (3.0..60.0).contains(&time.as_secs_f64());
    let result = in_force(case, ("/blockIO/throttleWriteBpsDevice", &limit), measure, slow);
    fs::remove_dir_all(&dir)?;
    result
}

/// The CPU time that a process has used, and the CPU that it was last on (proc(5): utime, stime, processor).
fn cpu_time(pid: i32) -> Outcome<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    // What follows the name begins with a space: the third field has the index 1. A tick is 10 ms.
    Ok((Duration::from_millis((fields[12] + fields[13]) * 10), fields[37]))
}

/// A container that uses what it gets of a CPU.
fn burning<'c>(case: &'c Case, bundle: Bundle) -> Outcome<Container<'c>> {
    let container = case.run_detached(&bundle.shell("echo up; while :; do :; done"))?;
    container.prints("up")?;
    Ok(container)
}

/// What part of a CPU the payload gets, in percent.
fn percent_of_a_cpu(case: &Case, bundle: Bundle) -> Outcome<u128> {
    let container = burning(case, bundle)?;
    // The beginning is left out: there is no quota before its first period is over.
    std::thread::sleep(Duration::from_millis(500));
    let (begin, (before, _)) = (Instant::now(), cpu_time(container.pid)?);
    std::thread::sleep(Duration::from_secs(3));
    let (after, _) = cpu_time(container.pid)?;
    let percent = (after - before).as_micros() * 100 / begin.elapsed().as_micros();
    container.end()?;
    Ok(percent)
}

fn cpu_time_is_not_more_than_the_quota(case: &Case) -> Outcome {
    need(case, "cpu")?;
    let quota = json!({"quota": 5_000, "period": 100_000});
    in_force(case, ("/cpu", &quota), |bundle| percent_of_a_cpu(case, bundle), |percent| (1..=8).contains(percent))
}

fn cpu_time_is_shared_by_weight(case: &Case) -> Outcome {
    need(case, "cpu")?;
    // Against a container with few shares, both on one CPU. On v2 the weights are 198 and 35.
    let measure = |bundle: Bundle| {
        let light = burning(case, base(case)?.with("/linux/resources/cpu/shares", json!(256)))?;
        let heavy = burning(case, bundle)?;
        let mut first = CpuSet::new();
        first.set(0)?;
        for container in [&light, &heavy] {
            sched_setaffinity(Pid::from_raw(container.pid), &first)?;
        }
        let before = [cpu_time(light.pid)?.0, cpu_time(heavy.pid)?.0];
        std::thread::sleep(Duration::from_secs(4));
        let [light_time, heavy_time] = [cpu_time(light.pid)?.0 - before[0], cpu_time(heavy.pid)?.0 - before[1]];
        light.end()?;
        heavy.end()?;
        Ok((heavy_time.as_millis(), light_time.as_millis()))
    };
    // The other has 256 when nothing is said: 1024 would be 4 times as much, 4096 is 16 times, on v2 9.
    in_force(case, ("/cpu/shares", &json!(4096)), measure, |(heavy, light)| *heavy > 6 * light)
}

fn a_process_stays_on_its_cpus(case: &Case) -> Outcome {
    need(case, "cpuset")?;
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("there is one CPU only");
    }
    // Two loops would use more than one CPU if they could; a runtime that lets them will not be lucky twice.
    for cpu in [0, 1] {
        let bundle = base(case)?.with("/linux/resources/cpu/cpus", json!(cpu.to_string()));
        let container = case.run_detached(&bundle.shell("while :; do :; done & echo up; while :; do :; done"))?;
        container.prints("up")?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(10));
            seen.insert(cpu_time(container.pid)?.1);
        }
        container.end()?;
        ensure!(seen.iter().eq(&[cpu]), "the payload was on the CPUs {seen:?}, not only on {cpu}");
    }
    Ok(())
}
