package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// probes say whether the machine has what a test needs. reasons.tsv names them.
var probes = map[string]func() bool{
	"CAP_SYS_RESOURCE":                         func() bool { return hasCapability(24) },
	"the AppArmor profile acme_secure_profile": func() bool { return contains("/sys/kernel/security/apparmor/profiles", "acme_secure_profile ") },
	"hugetlb of v1":                            func() bool { return hasV1("hugetlb") },
	"net_cls of v1":                            func() bool { return hasV1("net_cls") && hasV1("net_prio") },
}

func probeNames() []string { return slices.Sorted(maps.Keys(probes)) }

// hasCapability: whether this process could give it to a container.
func hasCapability(number uint) bool {
	status, _ := os.ReadFile("/proc/self/status")
	_, text, _ := strings.Cut(string(status), "\nCapBnd:")
	text, _, _ = strings.Cut(text, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	return err == nil && mask>>number&1 == 1
}

func contains(file, wanted string) bool {
	text, _ := os.ReadFile(file)
	return strings.Contains(string(text), wanted)
}

func hasV1(controller string) bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, controller, "cgroup.procs"))
	return err == nil
}

// hostIsV2: whether /sys/fs/cgroup is a cgroup2.
func hostIsV2() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}
