package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// insideCommand is how this program calls itself as the first process of a sandbox.
	insideCommand = "--inside"
	// statusBroken is its exit status when the sandbox could not be made. No test ends so.
	statusBroken = 125
)

// inside makes the sandbox around itself, runs the test and returns its exit status.
func inside(words []string) int {
	var spec sandboxSpec
	if os.Getpid() != 1 || len(words) != 1 || json.Unmarshal([]byte(words[0]), &spec) != nil {
		fmt.Fprintln(os.Stderr, "this is for the first process of a sandbox")
		return statusBroken
	}
	for _, step := range []struct {
		what string
		do   func(sandboxSpec) error
	}{
		{"make all mounts private", makeMountsPrivate},
		{"enter the cgroups", enterBoxes},
		{"protect the machine's files", protectFiles},
		{"mount what is the sandbox's own", mountOwn},
		{"mount the cgroups", mountCgroups},
	} {
		if err := step.do(spec); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", step.what, err)
			return statusBroken
		}
	}
	if spec.Test == "" {
		if err := serve(spec); err != nil {
			fmt.Fprintf(os.Stderr, "run configurations: %v\n", err)
			return statusBroken
		}
		return 0
	}
	status, err := runAndReap(spec)
	if err != nil {
		fmt.Fprintf(os.Stderr, "run the test: %v\n", err)
		return statusBroken
	}
	return status
}

func makeMountsPrivate(sandboxSpec) error {
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// enterBoxes makes the boxes the roots of a cgroup namespace. The namespace belongs to this thread, from which the test is
// started.
func enterBoxes(spec sandboxSpec) error {
	for _, box := range spec.Boxes {
		if err := os.WriteFile(filepath.Join(box, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// protectFiles makes every file system read-only but those of the kernel: a runtime that goes astray must not change the
// machine.
func protectFiles(sandboxSpec) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		if top := "/" + strings.SplitN(mount.point+"/", "/", 3)[1]; top == "/proc" || top == "/sys" || top == "/dev" {
			continue
		}
		err := unix.MountSetattr(unix.AT_FDCWD, mount.point, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		// What is hidden below another mount can not be found, neither by a runtime.
		if hidden := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL); err != nil && !hidden {
			return fmt.Errorf("%s: %w", mount.point, err)
		}
	}
	return nil
}

// mountOwn: the processes of the sandbox, and a place for bundles and for what runtimes write down.
func mountOwn(spec sandboxSpec) error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	// With it the harness's own mount of cgroup2 disappears, which a runtime must not find.
	if err := unix.Unmount(spec.Work, unix.MNT_DETACH); err != nil {
		return err
	}
	for _, directory := range append([]string{spec.Work}, hiddenDirectories...) {
		// A bundle may have device nodes and set-user-id programs in it.
		if err := unix.Mount("tmpfs", directory, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("%s: %w", directory, err)
		}
	}
	return nil
}

// mountCgroups replaces the machine's cgroup mounts by others of the same layout, which begin at the boxes.
func mountCgroups(spec sandboxSpec) error {
	links := cgroupLinks()
	if err := unix.Unmount(cgroupRoot, unix.MNT_DETACH); err != nil {
		return err
	}
	if spec.Hierarchies[0].Name == "." {
		return mountOneCgroup2()
	}
	if err := unix.Mount("tmpfs", cgroupRoot, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, hierarchy := range spec.Hierarchies {
		at := filepath.Join(cgroupRoot, hierarchy.Name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", at, hierarchy.Type, 0, hierarchy.Options); err != nil {
			return fmt.Errorf("%s (%s): %w", at, hierarchy.Options, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(cgroupRoot, name)); err != nil {
			return err
		}
	}
	return nil
}

// cgroupLinks are the links such as cpu -> cpu,cpuacct.
func cgroupLinks() map[string]string {
	links := make(map[string]string)
	entries, _ := os.ReadDir(cgroupRoot)
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(cgroupRoot, entry.Name())); err == nil {
			links[entry.Name()] = target
		}
	}
	return links
}

// mountOneCgroup2 moves this process to a leaf, too, for controllers can be enabled only in a cgroup without processes.
func mountOneCgroup2() error {
	if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""); err != nil {
		return err
	}
	leaf := filepath.Join(cgroupRoot, "harness")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0)
}

// runAndReap runs the test and is the parent of all orphans, among them every container's init: they are reaped as soon as
// they end, for runtimes ask whether a process is still there.
func runAndReap(spec sandboxSpec) (int, error) {
	command := exec.Command(filepath.Join(spec.Directory, spec.Test))
	command.Dir = spec.Directory
	command.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + spec.Work, "RUNTIME=" + spec.Runtime,
	}
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Start(); err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case pid == command.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == command.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}
