package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// hiddenDirectories are those of which each sandbox has an empty one of its own: runtimes keep there what they know.
var hiddenDirectories = []string{"/run", "/var/cache"}

// hiddenInSandbox returns the directory because of which a sandbox does not see this path, if there is one.
func hiddenInSandbox(path string) string {
	for _, directory := range hiddenDirectories {
		if strings.HasPrefix(path, directory+"/") {
			return directory
		}
	}
	return ""
}

// machine is what all sandboxes share.
type machine struct {
	work       string // a directory of this run; in a sandbox a tmpfs
	host       []hierarchy
	v2         []hierarchy
	sandboxes  atomic.Int64
	lock       sync.Mutex
	notRemoved []string
}

// prepareMachine refuses to begin where a mount would be seen by others.
func prepareMachine() (*machine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("please run it as root: tests make containers, cgroups and mounts")
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	parents, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err != nil || own == parents {
		return nil, errors.New("not in a mount namespace of its own: please start it with oci-validation/run")
	}
	work, err := os.MkdirTemp("", "oci-validation-")
	if err != nil {
		return nil, err
	}
	m := &machine{work: work}
	if err := os.Chmod(work, 0o755); err != nil {
		return nil, errors.Join(err, os.Remove(work))
	}
	if m.host, err = hostHierarchies(); err != nil {
		return nil, errors.Join(err, os.Remove(work))
	}
	// It needs a place that lasts as long as this mount namespace: a tmpfs on the directory of this run.
	if err := unix.Mount("tmpfs", work, "tmpfs", 0, "mode=755"); err != nil {
		return nil, errors.Join(err, os.Remove(work))
	}
	unified, err := v2Hierarchy(filepath.Join(work, "cgroup2"))
	if err != nil {
		m.cleanUp()
		return nil, err
	}
	m.v2 = []hierarchy{unified}
	return m, nil
}

func (m *machine) cleanUp() {
	err := unix.Unmount(m.work, unix.MNT_DETACH)
	if err = errors.Join(err, os.Remove(m.work)); err != nil {
		fmt.Fprintf(os.Stderr, "oci-validation: %v\n", err)
	}
}

// leftovers are the cgroups of sandboxes that could not be removed.
func (m *machine) leftovers() []string {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.notRemoved
}

// hierarchies are those that a runtime gets to see.
func (m *machine) hierarchies(s *suite) []hierarchy {
	if s.setup.view == "v2" {
		return m.v2
	}
	var shown []hierarchy
	for _, hierarchy := range m.host {
		// crun refuses a hybrid machine altogether; so it sees v1 only.
		if s.subject.name == "crun" && hierarchy.Type == "cgroup2" && len(m.host) > 1 {
			continue
		}
		shown = append(shown, hierarchy)
	}
	return shown
}

// sandboxSpec is what the first process in the sandbox has to know.
type sandboxSpec struct {
	Boxes       []string
	Hierarchies []hierarchy
	Work        string
	Directory   string
	Test        string
	Runtime     string
	// Probe is what containers execute, if there is no Test and configurations come by stdin.
	Probe string
}

// runInSandbox runs a test with a runtime in namespaces and cgroups of its own. When the first process there ends, or is
// killed because the time is up, all others end with it.
func (m *machine) runInSandbox(ctx context.Context, s *suite, test string) outcome {
	// The sandbox is killed when the thread that made it ends, so that none outlives this process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	box, err := makeBox(m.hierarchies(s), fmt.Sprintf("%s-%d", filepath.Base(m.work), m.sandboxes.Add(1)))
	if err != nil {
		return outcome{broken: err.Error()}
	}
	defer func() {
		if err := box.remove(); err != nil {
			m.lock.Lock()
			m.notRemoved = append(m.notRemoved, err.Error())
			m.lock.Unlock()
		}
	}()
	spec, err := json.Marshal(sandboxSpec{
		Boxes: box.directories(), Hierarchies: box.hierarchies, Work: m.work, Directory: s.directory(), Test: test, Runtime: s.subject.path,
	})
	if err != nil {
		return outcome{broken: err.Error()}
	}
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, "/proc/self/exe", insideCommand, string(spec))
	command.Env = []string{}
	command.Stdout, command.Stderr = &stdout, &stderr
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespacesFor(test), Pdeathsig: syscall.SIGKILL}
	command.Cancel = func() error {
		box.thaw()
		return command.Process.Kill()
	}
	return outcomeOf(ctx, command.Run(), stdout.String(), stderr.String())
}

// namespacesFor: whatever a runtime does wrongly to the namespaces that it was started in, the machine keeps its host name,
// its semaphores and its network. One test wants two network interfaces and finds them in the machine's network only.
func namespacesFor(test string) uintptr {
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if test != "linux_cgroups_network" {
		flags |= unix.CLONE_NEWNET
	}
	return uintptr(flags)
}

func outcomeOf(ctx context.Context, err error, stdout, stderr string) outcome {
	o := outcome{stdout: stdout, stderr: stderr}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		o.timedOut = true
	case errors.As(err, &exit) && exit.ExitCode() == statusBroken:
		o.broken = "the sandbox: " + lastWords(stderr)
	case errors.As(err, &exit):
		o.status = exit.ExitCode()
	case err != nil:
		o.broken = err.Error()
	}
	return o
}
