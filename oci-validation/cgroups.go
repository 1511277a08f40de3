package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is a hierarchy of cgroups, as a sandbox gets to see it.
type hierarchy struct {
	// From is where it is mounted here.
	From string
	// Name is where a sandbox mounts it below /sys/fs/cgroup; "." for the one hierarchy of v2.
	Name string
	// Type is cgroup or cgroup2.
	Type string
	// Options for mount(2): the controllers of v1, or the name.
	Options string
}

// hostHierarchies are those of the machine.
func hostHierarchies() ([]hierarchy, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for _, mount := range mounts {
		name, err := filepath.Rel(cgroupRoot, mount.point)
		if err != nil || strings.HasPrefix(name, "..") || !strings.HasPrefix(mount.fsType, "cgroup") {
			continue
		}
		found = append(found, hierarchy{mount.point, name, mount.fsType, v1Options(mount.superOptions)})
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroups are mounted below " + cgroupRoot)
	}
	return found, nil
}

// v1Options takes from the options of a superblock those that say which hierarchy it is.
func v1Options(options string) string {
	var wanted []string
	for _, option := range strings.Split(options, ",") {
		name, _, _ := strings.Cut(option, "=")
		switch name {
		case "rw", "ro", "xattr", "clone_children", "release_agent", "nsdelegate", "memory_recursiveprot",
			"memory_localevents", "memory_hugetlb_accounting", "favordynmods", "noprefix", "cpuset_v2_mode", "pids_localevents":
		case "name":
			wanted = append(wanted, "none", option)
		default:
			wanted = append(wanted, option)
		}
	}
	return strings.Join(wanted, ",")
}

// v2Hierarchy mounts the cgroup2 of the machine, which there is also where only v1 is in use.
func v2Hierarchy(at string) (hierarchy, error) {
	if err := os.Mkdir(at, 0o755); err != nil {
		return hierarchy{}, err
	}
	if err := unix.Mount("none", at, "cgroup2", 0, ""); err != nil {
		return hierarchy{}, fmt.Errorf("mount a cgroup2: %w", err)
	}
	return hierarchy{at, ".", "cgroup2", ""}, nil
}

// box is a cgroup of our own in each hierarchy. For a sandbox they are the roots: what a runtime makes lies in them, and
// what it kills or removes cannot be anybody else's. (A runtime on the real root of v2 has killed the whole machine.)
type box struct {
	hierarchies []hierarchy
	name        string
}

func makeBox(hierarchies []hierarchy, name string) (*box, error) {
	b := &box{hierarchies, name}
	for _, directory := range b.directories() {
		if err := os.Mkdir(directory, 0o755); err != nil {
			b.remove()
			return nil, err
		}
		// A new cpuset of v1 has no processor and no memory, and takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			own := filepath.Join(directory, file)
			if text, err := os.ReadFile(own); err != nil || strings.TrimSpace(string(text)) != "" {
				continue
			}
			if text, err := os.ReadFile(filepath.Join(filepath.Dir(directory), file)); err == nil {
				// An error shows itself when a process is to enter.
				_ = os.WriteFile(own, text, 0)
			}
		}
	}
	return b, nil
}

func (b *box) directories() []string {
	var all []string
	for _, hierarchy := range b.hierarchies {
		all = append(all, filepath.Join(hierarchy.From, b.name))
	}
	return all
}

// thaw lets frozen processes run, for a frozen process of v1 cannot be killed.
func (b *box) thaw() {
	for _, top := range b.directories() {
		_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Name() == "freezer.state" {
				_ = os.WriteFile(path, []byte("THAWED"), 0)
			} else if err == nil && entry.Name() == "cgroup.freeze" {
				_ = os.WriteFile(path, []byte("0"), 0)
			}
			return nil
		})
	}
}

// remove removes the box with all below it. The last process has ended, but the kernel may take a moment to notice.
func (b *box) remove() error {
	var err error
	for range 200 {
		err = nil
		for _, top := range b.directories() {
			err = errors.Join(err, removeTree(top))
		}
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("a cgroup can not be removed: %w", err)
}

// removeTree removes a cgroup and those below it, the deepest first; their files are the kernel's.
func removeTree(directory string) error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(directory, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(directory)
}

// mountPoint is a line of mountinfo.
type mountPoint struct{ point, fsType, superOptions string }

func readMounts() ([]mountPoint, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var mounts []mountPoint
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		left, right, _ := strings.Cut(line, " - ")
		mount, super := strings.Fields(left), strings.Fields(right)
		if len(mount) < 5 || len(super) < 3 {
			return nil, fmt.Errorf("/proc/self/mountinfo: %q", line)
		}
		mounts = append(mounts, mountPoint{unescape.Replace(mount[4]), super[0], super[2]})
	}
	return mounts, nil
}
