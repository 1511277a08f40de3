"""What the engine drivers share: a sandbox for each runtime, steps with a verdict, and the sum of both.

A driver is a program that hands its class to `main`. Its scenario is played in a sandbox on Debian's runc, where each step has
to pass (which proves the scenario), and then on the runtime under test, the only thing that differs. The runtime is called
through a wrapper that notes each call, and all other runtimes in PATH are decoys that note theirs.

The sandbox has mount, PID, network, IPC, UTS and cgroup namespaces of its own, with a /run, /sys and /dev/shm of its own, and
layers over /etc, /var and /root that take up what is written there. With the first process of the sandbox everything ends; what
outlives it are its cgroups, which are looked through and removed from outside.

    DRIVER [--engines DIR] [RUNTIME]   RUNTIME: corten's release build, unless given
                                       DIR: engines from its bin before those of the machine, and the newest runc
    KEEP=1                             keeps the working directory: the daemons' logs, the calls, each config.json
    ONLY=TEXT                          of the steps that stand alone only those with TEXT in their names

The last line sums up: N passed, N failed, N skipped. The exit status is 0 only if nothing failed.
"""

import argparse
import fcntl
import glob
import json
import os
import platform
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
import urllib.request

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
PACKAGES = os.path.join(CHECKOUT, '.engines')
REFERENCE = '/usr/sbin/runc'
# A container's program that stops by itself, with status 5, when it is asked to, and shows that it goes on.
TICKING = ('sh', '-c', 'trap "exit 5" TERM; i=0; while :; do i=$((i + 1)); echo $i >/tmp/new; mv /tmp/new /tmp/ticks; sleep 0.05; done')
# One that will not, and one that stops by a signal of its own and tells of another.
STUBBORN = ('sh', '-c', 'trap "" TERM; while :; do sleep 0.1; done')
LISTENING = ('sh', '-c', 'trap "exit 6" USR1; trap "echo hup" HUP; echo ready; while :; do sleep 0.1; done')
# One for a terminal: tells its name, each new size, and ends with 4 at Ctrl-C.
WATCHING = ('sh', '-c', 'tty; trap "stty size" WINCH; trap "echo interrupted; exit 4" INT; echo ready; while :; do sleep 0.1; done')
# What is process 1, and how many zombies there are after an orphan's end.
ORPHAN = ('sh', '-c', 'cat /proc/1/comm; (sleep 0.1 & ); sleep 0.5; grep -l "Z (zombie)" /proc/[0-9]*/status | wc -l')
# A tmpfs at /scratch: its mode, one mount with noexec, and that 64 KiB are all it has.
SCRATCH = ('sh', '-c', 'touch /scratch/x && stat -c %a /scratch; grep -c "^tmpfs /scratch tmpfs .*noexec.* 0 0" /proc/mounts; '
           'dd if=/dev/zero of=/scratch/big bs=1k count=100 2>/dev/null || echo full')
SHM_SIZE = 'df -k /dev/shm | tail -n 1 | tr -s " " | cut -d " " -f 2'
# In a user namespace: who one is, who that is outside, and the owners of a new file and of one of the image.
MAPPED = ('sh', '-c', 'id -u; awk "{ print \\$2 }" /proc/self/uid_map; touch /data/x; stat -c %u /data/x /data/owned')
# A seccomp profile whose effect can't come from another one.
NO_MKDIR = json.dumps({
    'defaultAction': 'SCMP_ACT_ALLOW', 'architectures': ['SCMP_ARCH_X86_64'],
    'syscalls': [{'names': ['mkdir', 'mkdirat'], 'action': 'SCMP_ACT_ERRNO', 'errnoRet': 28}]})
# Far more than any of them takes, for machines that have other things to do.
STEP_SECONDS = 180
PASS_SECONDS = 900


class Failure(Exception):
    """A step does not hold; the text says why, over as many lines as it takes."""


class NotHere(Exception):
    """A step that can not be tried on this machine, and the reason."""


def check(condition, message):
    """The one way to say that a step does not hold."""
    if not condition:
        raise Failure(message)


def same(got, wanted, what='output'):
    check(got == wanted, f'{what}: expected {wanted!r}, got {got!r}')


def contains(text, pattern, what='output'):
    check(re.search(pattern, text, re.MULTILINE), f'{what}: expected to find {pattern!r} in {text!r}')


def until(seconds, condition, message):
    """Waits for the condition, and gives back what it gave."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < end, f'{message} (waited for {seconds} s)')
        time.sleep(0.05)


class Result:
    """How a program ended: `status` as a shell has it, `out` and `err` as text."""

    def __init__(self, argv, status, out, err):
        self.argv, self.status, self.out, self.err = argv, status, out, err

    def __str__(self):
        lines = [shlex.join(self.argv)[:2000], f'status {self.status}']
        for name, text in (('stdout', self.out), ('stderr', self.err)):
            lines += [f'{name}: {line[:400]}' for line in text.splitlines()[-15:]]
        return '\n'.join(lines)


def run(*argv, status=0, stdin='', timeout=30):
    """Runs a program to its end. `status` is what it has to end with; None if anything is welcome."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, errors='replace', timeout=timeout, check=False)
        result = Result(argv, done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout, done.stderr)
    except subprocess.TimeoutExpired as late:
        out, err = ((text or b'').decode(errors='replace') for text in (late.stdout, late.stderr))
        raise Failure(f'did not end within {timeout} s\n{Result(argv, "none", out, err)}') from None
    if status is not None:
        check(result.status == status, f'expected status {status}\n{result}')
    return result


def together(number, work):
    """work(0) to work(number - 1) at once; their results in order. The first failure is raised."""
    results, failures = [None] * number, []

    def one(index):
        try:
            results[index] = work(index)
        except Exception as failure:  # told by the thread that waits
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


class Terminal:
    """A program on a terminal of its own, as a user in front of it has."""

    def __init__(self, argv, rows=33, columns=77):
        self.argv, self.shown = argv, ''
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                self.fd = 0
                self.resize(rows, columns)
                os.execvp(argv[0], argv)
            finally:
                os._exit(127)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def resize_until_told(self, rows, columns):
        """Changes the size until the program tells the new one: a client does not listen from its beginning."""
        for _ in range(15):
            self.resize(rows + 1, columns)
            self.resize(rows, columns)
            if self._shows(f'{rows} {columns}', 1):
                return
        self.wait_for(f'{rows} {columns}', 1)

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait_for(self, pattern, seconds=15):
        """Reads until the pattern has been shown."""
        if not self._shows(pattern, seconds):
            self.close()
            raise Failure(f'{shlex.join(self.argv)}\nexpected {pattern!r} on the terminal, which shows {self.shown!r}')

    def _shows(self, pattern, seconds):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.shown, re.MULTILINE):
            if time.monotonic() > end or not self._read(end):
                return False
        return True

    def end(self, seconds=15):
        """Waits for the end, and gives the status and all that was shown."""
        end = time.monotonic() + seconds
        while self._read(end):
            if time.monotonic() > end:
                break
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                code = os.waitstatus_to_exitcode(status)
                return Result(self.argv, code if code >= 0 else 128 - code, self.shown.replace('\r', ''), '')
            time.sleep(0.02)
        self.close()
        raise Failure(f'{shlex.join(self.argv)}\ndoes not end; the terminal shows {self.shown!r}')

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)

    def _read(self, end):
        """False at the end of the output. A terminal whose other side is closed gives EIO."""
        if not select.select([self.fd], [], [], max(0, min(0.2, end - time.monotonic())))[0]:
            return True
        try:
            text = os.read(self.fd, 65536)
        except OSError:
            return False
        self.shown += text.decode(errors='replace')
        return bool(text)


# ------------------------------------------------------------------------------------------------------------------ steps

STEPS = []


def step(fact, needed=False):
    """Marks a function as a step, which may return a note. What is `needed` by later steps is always done."""

    def mark(function):
        STEPS.append((fact, function, needed))
        return function

    return mark


class Stage:
    """One pass of a scenario inside its sandbox: the runtime behind its wrapper, the steps and their counts."""

    # What a driver says of itself: its name, programs it needs, and (in `prepare`) images (see images.py).
    name = ''
    programs = ()
    # Whether it is played on runc only: not a test, but a way to learn what engines ask for.
    reference_only = False

    def __init__(self, label, runtime, work):
        self.label, self.runtime, self.work = label, runtime, work
        self.dir = os.path.join(work, label)
        self.wrapper = os.path.join(self.dir, 'bin', os.path.basename(runtime))
        self.calls = os.path.join(self.dir, 'calls')
        self.decoy_calls = os.path.join(self.dir, 'decoy-calls')
        self.counts = {'passed': 0, 'failed': 0, 'skipped': 0}
        self.daemons = []
        self.silent = False  # whether a container of this step has said nothing, as far as the engine's client tells

    def play(self):
        """All steps in their order. After a failed one, `tidy` removes what it left."""
        self.write_wrapper()
        self.mounts = mounts()
        only = os.environ.get('ONLY', '')
        steps = [(fact, function) for fact, function, needed in STEPS if needed or only in fact]
        if not self.reference_only:
            steps.append(('what ran is the runtime under test, and no other', Stage.really_ran))
            steps.append(('no container, process, mount, cgroup or network device is left', Stage.nothing_is_left))
        for fact, function in steps:
            began = time.monotonic()
            self.silent = False
            verdict, reason = self.try_step(function)
            if verdict == 'failed' and self.silent:
                self.tidy()
                print(f'again {self.label}: {fact}: {reason}', flush=True)
                verdict, reason = self.try_step(function)
            self.counts[verdict] += 1
            self.tell(fact, verdict, reason, time.monotonic() - began)
            if verdict == 'failed':
                self.tidy()
                if function is STEPS[0][1]:
                    break  # without its daemon the rest would only fail slowly
        for daemon in self.daemons:
            daemon.stop()

    def try_step(self, function):
        """Its verdict, with the reason."""
        signal.alarm(STEP_SECONDS)
        try:
            return 'passed', function(self) or ''
        except NotHere as why:
            return 'skipped', str(why)
        except Failure as why:
            return 'failed', str(why)
        except Exception:  # a driver's own mistake fails its step, and not all that follow
            return 'failed', traceback.format_exc()
        finally:
            signal.alarm(0)

    def tell(self, fact, verdict, reason, seconds):
        if verdict == 'skipped':
            print(f'skip {self.label}: {fact}: {reason}', flush=True)
            return
        took = f' ({seconds:.1f} s)' if os.environ.get('KEEP') else ''
        print(f'{"ok  " if verdict == "passed" else "FAIL"} {self.label}: {fact}{took}', flush=True)
        for line in reason.splitlines():
            print(f'       {line}', flush=True)

    def tidy(self):
        """Removes the containers of a step that has failed. What they are, the driver knows."""

    def write_wrapper(self):
        """The runtime as the engine sees it: named as it is, each call noted, each config.json kept."""
        os.makedirs(os.path.join(self.dir, 'bin'))
        os.makedirs(os.path.join(self.dir, 'decoys'))
        os.makedirs(os.path.join(self.dir, 'configs'))
        program(self.wrapper, f"""#!/bin/bash
printf -v call '%q ' "$@"
echo "$call" >>'{self.calls}'
for ((i = 1; i < $#; i++)); do
  bundle=$((i + 1))
  if [[ ${{!i}} == --bundle ]]; then cp "${{!bundle}}/config.json" '{self.dir}/configs/'"${{!#}}.json"; fi
done
exec '{self.runtime}' "$@"
""")
        for decoy in ('runc', 'crun', 'youki', 'corten'):
            program(f'{self.dir}/decoys/{decoy}', f'#!/bin/sh\necho "{decoy} $*" >>"{self.decoy_calls}"\nexit 1\n')
        os.environ['PATH'] = f'{self.dir}/decoys:{os.environ["PATH"]}'

    # Engines ask each runtime that they know of for its features or version: that runs no container.
    harmless = re.compile(r'^\S+ (features|-+version|-v)?\s*$')

    def really_ran(self):
        calls = lines(self.calls)
        for command in ('create', 'start', 'delete') + ('kill', 'exec') * (not os.environ.get('ONLY')):
            check(any(re.search(rf'(^|\s){command}\s', call) for call in calls), f'{command} was never called')
        others = [call for call in lines(self.decoy_calls) if not self.harmless.match(call)]
        check(not others, 'called instead: ' + '; '.join(others[:5]))
        return f'{len(calls)} calls'

    def nothing_is_left(self):
        """After all containers have been removed: then the daemons are stopped, and only we may be there."""
        self.remove_all()
        for daemon in reversed(self.daemons):
            daemon.stop()
        self.daemons = []
        problems = []
        try:
            until(10, lambda: not other_processes(), 'processes')
        except Failure:
            problems += [f'process: {text}' for text in other_processes()]
        problems += [f'mount: {point}' for point in mounts() - self.mounts if not self.may_stay(point)]
        problems += [f'cgroup: {path}' for path in cgroups() if not self.may_stay(path)]
        problems += [f'network device: {name}' for name in os.listdir('/sys/class/net') if name.startswith('veth')]
        problems += [f'state of the runtime: {path}' for path in self.states()]
        check(not problems, '\n'.join(problems))

    def remove_all(self):
        """Removes what the scenario still has."""

    def may_stay(self, path):
        """Mount points and cgroups that the engine itself leaves, with every runtime."""
        del path
        return False

    def states(self):
        """Paths of states of containers, which have to be gone."""
        return []


class Daemon:
    """A daemon of the engine in the background, with its output in a file."""

    def __init__(self, log, *argv):
        self.log, self.argv, self.process = log, argv, None

    def start(self):
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def ready(self, condition, seconds=30):
        """Waits until the condition holds, and fails at once if the daemon ends instead."""

        def look():
            check(self.process.poll() is None, f'{self.argv[0]} ended:\n' + '\n'.join(lines(self.log)[-15:]))
            return condition()

        until(seconds, look, f'{self.argv[0]} is not ready:\n' + '\n'.join(lines(self.log)[-5:]))

    def stop(self, number=signal.SIGTERM, seconds=15):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def program(path, text):
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    os.chmod(path, 0o755)


def lines(path):
    """The lines of a file; none if there is no such file."""
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def read(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read()


def write(path, text):
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)


def other_processes():
    """Each process of the sandbox but ourselves and its first."""
    found = []
    for path in glob.glob('/proc/[0-9]*'):
        if int(path[6:]) not in (1, os.getpid()):
            try:
                found.append(f'{path[6:]} {read(path + "/cmdline").replace(chr(0), " ")[:120]}')
            except OSError:
                pass
    return found


def mounts():
    return {line.split(' ')[4] for line in lines('/proc/self/mountinfo')}


def cgroups():
    """All cgroups below the top ones that an engine makes for itself, as paths."""
    found = []
    for hierarchy in hierarchies():
        for path, _, _ in os.walk(hierarchy, topdown=False):
            if os.path.relpath(path, hierarchy).count('/') >= 1:
                found.append(path)
    return found


def unified():
    """Whether there is only cgroup v2."""
    return os.path.exists('/sys/fs/cgroup/cgroup.controllers')


def hierarchies():
    """The mount points of all cgroup hierarchies."""
    return [line.split(' ')[1] for line in lines('/proc/mounts') if line.split(' ')[2] in ('cgroup', 'cgroup2')]


def cgroup_value(pid, controller, v1_name, v2_name):
    """What the cgroup file of a process holds."""
    if not unified() and not os.path.isdir(f'/sys/fs/cgroup/{controller}'):
        raise NotHere(f'no cgroup controller {controller}')
    for line in lines(f'/proc/{pid}/cgroup'):
        _, names, path = line.split(':', 2)
        if unified() and not names:
            return read(f'/sys/fs/cgroup{path}/{v2_name}').strip()
        if not unified() and controller in names.split(','):
            return read(f'/sys/fs/cgroup/{controller}{path}/{v1_name}').strip()
    raise Failure(f'process {pid} is in no cgroup of {controller}')


def proc_status(pid, key):
    for line in lines(f'/proc/{pid}/status'):
        if line.startswith(key + ':'):
            return line.split(':', 1)[1].strip()
    return None


def links(*kinds):
    """A container's program that tells its namespaces of these kinds."""
    return ('sh', '-c', f'for t in {" ".join(kinds)}; do readlink /proc/self/ns/$t; done')


def namespaces(pid, *kinds):
    """The same of a process, seen from here."""
    return [os.readlink(f'/proc/{pid}/ns/{kind}') for kind in kinds]


def gone(pid):
    return not os.path.exists(f'/proc/{pid}') or (proc_status(pid, 'State') or 'Z').startswith('Z')


# ----------------------------------------------------------------------------------- outside: a sandbox for each runtime


def main(driver, script):
    """The program: outside it makes the sandboxes, inside one it plays."""
    if sys.argv[1:2] == ['--inside']:
        inside(driver, *sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=f'{driver.name} drives runc, then the runtime.')
    parser.add_argument('--engines', default='', help='take engines from the bin of this directory, if they are there')
    default = f'{os.environ.get("CARGO_TARGET_DIR") or CHECKOUT + "/target"}/{platform.machine()}-unknown-linux-musl/release/corten'
    parser.add_argument('runtime', nargs='?', default=default)
    options = parser.parse_args()
    runtime = os.path.realpath(options.runtime)
    # What ./setup fetches, the packages' programs, and nothing that somebody may have put into /usr/local.
    first = f'{os.path.realpath(options.engines)}/bin:' if options.engines else ''
    os.environ['PATH'] = f'{first}{PACKAGES}/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    # New engines ask for more than the release's runc has.
    reference = f'{CHECKOUT}/.peers/bin/runc' if options.engines else REFERENCE
    complain = [f'{name} is missing (./setup test installs it)' for name in driver.programs + (reference,) if not shutil.which(name)]
    if os.geteuid() != 0:
        complain = ['please run it as root']
    elif not driver.reference_only and not os.access(runtime, os.X_OK):
        complain.append(f'no runtime to test: {runtime}')
    elif runtime.startswith(('/run/', '/dev/shm/')):
        complain.append(f'{runtime}: inside the sandbox /run and /dev/shm are others')
    if complain:
        sys.exit('\n'.join(f'{driver.name}: {text}' for text in complain))
    if unified() and 'cpu' not in read('/sys/fs/cgroup/cgroup.controllers').split():
        print('skip all: engines set limits, and this cgroup2 has no controllers\n0 passed, 0 failed, 1 skipped')
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    work = tempfile.mkdtemp(prefix=f'engines-{driver.name}.')
    os.chmod(work, 0o755)
    began = time.monotonic()
    counts = {'passed': 0, 'failed': 0, 'skipped': 0}
    try:
        driver.prepare(work)
        for path in (reference,) if driver.reference_only else (reference, runtime):
            for verdict, number in one_pass(driver, script, path, work).items():
                counts[verdict] += number
    finally:
        if os.environ.get('KEEP'):
            print(f'kept: {work}', file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f'\n{time.monotonic() - began:.0f} seconds')
    print(f'{counts["passed"]} passed, {counts["failed"]} failed, {counts["skipped"]} skipped')
    sys.exit(0 if counts['passed'] and not counts['failed'] else 1)


def one_pass(driver, script, runtime, work):
    """Plays the scenario in a new sandbox. Gives the counts."""
    label = os.path.basename(runtime)
    if os.path.exists(f'{work}/{label}'):
        label += '-again'
    version = run(runtime, '--version', status=None)
    print(f'\n== {driver.name}, {runtime} ({(version.out + version.err).splitlines()[0]})', flush=True)
    os.mkdir(f'{work}/{label}')
    own = make_cgroups(f'engines-{driver.name}-{label}-{os.getpid()}')
    sandbox = None
    try:
        # It dies with us. The first process of its PID namespace dies with the `unshare` that we wait for.
        sandbox = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL', 'unshare', '--cgroup', 'sh', '-c', 'test -z "$1" || echo 0 >"$1"; shift; exec "$@"', 'sh',
             f'{own[0]}/init/cgroup.procs' * unified(), 'unshare', '--mount', '--propagation', 'private', '--pid', '--fork',
             '--kill-child', '--mount-proc', '--net', '--ipc', '--uts', '/usr/bin/python3', script, '--inside', label, runtime, work],
            stdin=subprocess.DEVNULL, preexec_fn=lambda: [write(f'{path}/cgroup.procs', '0') for path in own])
        sandbox.wait(PASS_SECONDS)
    except subprocess.TimeoutExpired:
        print(f'FAIL {label}: ends within {PASS_SECONDS} s', flush=True)
    finally:
        if sandbox is not None:
            sandbox.kill()
            sandbox.wait()
        left = remove_cgroups(own)
    counts = {'passed': 0, 'failed': 1, 'skipped': 0}
    if os.path.exists(f'{work}/{label}/counts'):
        counts = json.loads(read(f'{work}/{label}/counts'))
    else:
        print(f'FAIL {label}: the scenario comes to its end', flush=True)
    left += [line.split(' ')[4] for line in lines('/proc/self/mountinfo') if work in line]
    counts['failed' if left else 'passed'] += 1
    print(f'{"FAIL" if left else "ok  "} {label}: nothing is left on the machine', *left, flush=True)
    return counts


def make_cgroups(name):
    """One cgroup in each hierarchy, in which all the engine's will be. A new cpuset has no cpus yet, and with v2 the sandbox is in
    a cgroup below, for only a cgroup without processes hands controllers down."""
    made = []
    for hierarchy in hierarchies():
        path = f'{hierarchy}/{name}'
        os.mkdir(path)
        made.append(path)
        if unified():
            os.mkdir(f'{path}/init')
        for file in ('cpuset.cpus', 'cpuset.mems'):
            if os.path.exists(f'{path}/{file}') and not os.path.exists(f'{path}/cgroup.type'):
                write(f'{path}/{file}', read(f'{hierarchy}/{file}'))
    return made


def remove_cgroups(own):
    """Removes them, also if the sandbox was killed with a frozen container in it. Gives what can't be removed."""
    for top in own:
        for _ in range(50):
            for path, _, _ in os.walk(top, topdown=False):
                for file, thawed in (('freezer.state', 'THAWED'), ('cgroup.freeze', '0')):
                    try:
                        write(f'{path}/{file}', thawed)
                    except OSError:
                        pass
                try:
                    os.rmdir(path)
                except OSError:
                    pass
            if not os.path.exists(top):
                break
            time.sleep(0.1)
    return [path for path in own if os.path.exists(path)]


# ------------------------------------------------------------------------------------------------------- inside a sandbox


def inside(driver, label, runtime, work):
    reap()
    signal.signal(signal.SIGALRM, too_late)
    furnish(f'{work}/{label}')
    os.chdir(f'{work}/{label}')  # conmon writes a file where it is when memory runs out
    os.environ.update(HOME='/root', LANG='C.UTF-8', LC_ALL='C.UTF-8', TERM='linux')
    for name in list(os.environ):
        if name not in ('HOME', 'LANG', 'LC_ALL', 'TERM', 'PATH', 'KEEP', 'ONLY', 'RECORD'):
            del os.environ[name]
    stage = driver(label, runtime, work)
    stage.play()
    write(f'{work}/{label}/counts', json.dumps(stage.counts))


def reap():
    """Goes on in a child, while process 1 of the sandbox reaps what is orphaned, as daemons expect of it."""
    player = os.fork()
    if player == 0:
        return
    while True:
        ended, status = os.wait()
        if ended == player:
            os._exit(min(abs(os.waitstatus_to_exitcode(status)), 255))


def too_late(number, frame):
    del number, frame
    raise Failure(f'took longer than {STEP_SECONDS} s')


def furnish(directory):
    """Gives the sandbox what engines write to, so that nothing of the machine is touched."""
    hierarchies_here = [line.split(' ') for line in lines('/proc/mounts') if line.split(' ')[2] in ('cgroup', 'cgroup2')]
    mount('-t', 'sysfs', '-o', 'nosuid,nodev,noexec', 'sysfs', '/sys')
    if not any(point == '/sys/fs/cgroup' for _, point, *_ in hierarchies_here):
        mount('-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', '/sys/fs/cgroup')
    for _, point, kind, options, *_ in hierarchies_here:
        # Mounted anew in a cgroup namespace, a hierarchy begins at the sandbox's own cgroup.
        os.makedirs(point, exist_ok=True)
        names = [option for option in options.split(',') if option not in ('rw', 'relatime', 'nosuid', 'nodev', 'noexec')]
        wanted = ','.join((['none'] if any(name.startswith('name=') for name in names) else []) + names)
        mount('-t', kind, *(['-o', wanted] if kind == 'cgroup' else []), kind, point)
    if unified():
        for controller in read('/sys/fs/cgroup/cgroup.controllers').split():
            write('/sys/fs/cgroup/cgroup.subtree_control', f'+{controller}')
    for point, options in (('/run', 'mode=755'), ('/dev/shm', 'mode=1777')):
        mount('-t', 'tmpfs', '-o', options, 'tmpfs', point)
    for point in ('/etc', '/var', '/root'):
        layer = f'{directory}/over{point}'
        os.makedirs(f'{layer}/upper')
        os.makedirs(f'{layer}/work')
        shutil.copymode(point, f'{layer}/upper')
        mount('-t', 'overlay', '-o', f'lowerdir={point},upperdir={layer}/upper,workdir={layer}/work', 'overlay', point)
    os.makedirs('/run/lock')
    run('ip', 'link', 'set', 'lo', 'up')


def mount(*argv):
    run('mount', *argv)


def fetch(host, path):
    """What a web server answers, or how it failed."""
    try:
        with urllib.request.urlopen(f'http://{host}{path}', timeout=5) as answer:
            return answer.read().decode(errors='replace')
    except OSError as error:
        return str(error)


def criu():
    """Makes sure that CRIU works here."""
    if not shutil.which('criu'):
        raise NotHere('no criu')
    looked = run('criu', 'check', status=None)
    if looked.status != 0:
        raise NotHere('criu check: ' + (looked.out + looked.err).strip().splitlines()[0])
