package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// One container has to be over in this time.
const containerTimeout = 15 * time.Second

// reply is what came of one configuration.
type reply struct {
	Status         int // negative: ended by that signal
	TimedOut       bool
	Stdout, Stderr string
	// Left is what was there afterwards and not before: processes, mounts, cgroups, records.
	Left []string
}

// worker runs containers one after the other in a sandbox of its own. If one leaves something, the next gets a new sandbox.
type worker struct {
	ctx     context.Context
	run     *corpusRun
	command *exec.Cmd
	box     *box
	input   io.WriteCloser
	output  *bufio.Reader
	errors  *strings.Builder
	has     map[string]bool // what the machine has of what a place may need
}

func (w *worker) ask(text string) (reply, error) {
	var answer reply
	if w.command == nil {
		if err := w.start(); err != nil {
			return answer, err
		}
	}
	// A runtime that freezes the whole sandbox, which crun does, stops its inner side, too.
	unanswered := time.AfterFunc(3*containerTimeout, w.end)
	defer unanswered.Stop()
	cancelled := context.AfterFunc(w.ctx, w.end)
	defer cancelled()
	question, _ := json.Marshal(text)
	if _, err := w.input.Write(append(question, '\n')); err != nil {
		return answer, w.broken(err)
	}
	line, err := w.output.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err != nil {
		return answer, w.broken(err)
	}
	if answer.TimedOut || len(answer.Left) > 0 {
		w.stop()
	}
	return answer, nil
}

func (w *worker) broken(err error) error {
	w.stop()
	return fmt.Errorf("%w: %s", err, lastWords(w.errors.String()))
}

func (w *worker) start() error {
	m := w.run.machine
	box, err := makeBox(m.hierarchies(w.run.suite), fmt.Sprintf("%s-%d", filepath.Base(m.work), m.sandboxes.Add(1)))
	if err != nil {
		return err
	}
	w.box, w.errors = box, &strings.Builder{}
	spec, err := json.Marshal(sandboxSpec{
		Boxes: box.directories(), Hierarchies: box.hierarchies, Work: m.work, Runtime: w.run.suite.subject.path, Probe: w.run.probe,
	})
	if err != nil {
		return err
	}
	command := exec.Command("/proc/self/exe", insideCommand, string(spec))
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	command.Stderr = w.errors
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespacesFor(""), Pdeathsig: syscall.SIGKILL}
	if w.input, err = command.StdinPipe(); err != nil {
		return err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return errors.Join(err, box.remove())
	}
	w.command, w.output = command, bufio.NewReaderSize(output, 1<<20)
	line, err := w.output.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &w.has)
	}
	if err != nil {
		return w.broken(err)
	}
	return nil
}

// end ends every process of the sandbox.
func (w *worker) end() {
	w.box.thaw()
	_ = w.command.Process.Kill()
}

func (w *worker) stop() {
	if w.command == nil {
		return
	}
	w.end()
	_ = w.command.Wait()
	w.command = nil
	if err := w.box.remove(); err != nil {
		w.run.machine.lock.Lock()
		w.run.machine.notRemoved = append(w.run.machine.notRemoved, err.Error())
		w.run.machine.lock.Unlock()
	}
}

// serve is the inner side: it answers one configuration after the other.
func serve(spec sandboxSpec) error {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	if err := out.Encode(abilities()); err != nil {
		return err
	}
	place := &workplace{spec: spec, directory: filepath.Join(spec.Work, "configs")}
	if err := place.make(); err != nil {
		return err
	}
	before := place.look()
	in := json.NewDecoder(os.Stdin)
	for {
		var text string
		if err := in.Decode(&text); err != nil {
			return nil
		}
		answer, err := place.try(text)
		if err != nil {
			return err
		}
		answer.Left = append(answer.Left, place.changes(before)...)
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// workplace is the directory of the bundle, the records and the output.
type workplace struct {
	spec      sandboxSpec
	directory string
}

func (p *workplace) make() error {
	if err := os.Mkdir(p.directory, 0o755); err != nil {
		return err
	}
	probe, err := os.ReadFile(p.spec.Probe)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.directory, "probe"), probe, 0o755)
}

// fill makes the bundle anew.
func (p *workplace) fill(text string) error {
	bundle := filepath.Join(p.directory, "b")
	if err := os.RemoveAll(bundle); err != nil {
		return err
	}
	root := filepath.Join(bundle, "rootfs")
	for _, name := range []string{"bin", "dev", "etc", "mnt", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(p.directory, "probe"), filepath.Join(root, "probe")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), []byte(text), 0o644)
}

func (p *workplace) try(text string) (reply, error) {
	var answer reply
	if err := p.fill(text); err != nil {
		return answer, err
	}
	// Files and not pipes, which somebody who was left could keep open.
	files := make([]*os.File, 2)
	for i, name := range []string{"stdout", "stderr"} {
		file, err := os.Create(filepath.Join(p.directory, name))
		if err != nil {
			return answer, err
		}
		defer file.Close()
		files[i] = file
	}
	command := exec.Command(p.spec.Runtime, "--root", filepath.Join(p.directory, "state"), "run", "--bundle", filepath.Join(p.directory, "b"), "c")
	command.Dir = "/"
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	command.Stdout, command.Stderr = files[0], files[1]
	if err := command.Start(); err != nil {
		return answer, err
	}
	timer := time.AfterFunc(containerTimeout, func() {
		answer.TimedOut = true
		_ = command.Process.Kill()
	})
	_ = command.Wait()
	timer.Stop()
	answer.Status = command.ProcessState.ExitCode()
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		answer.Status = -int(status.Signal())
	}
	for i, to := range []*string{&answer.Stdout, &answer.Stderr} {
		content, err := os.ReadFile(files[i].Name())
		if err != nil {
			return answer, err
		}
		*to = string(content)
	}
	answer.Left = reapOrphans()
	return answer, nil
}

// reapOrphans waits for what the runtime has left; what does not end soon is named and killed.
func reapOrphans() []string {
	for range 100 {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if pid == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	var left []string
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if name := entry.Name(); name[0] >= '1' && name[0] <= '9' && name != "1" {
			command, _ := os.ReadFile(filepath.Join("/proc", name, "comm"))
			left = append(left, fmt.Sprintf("the process %s (%s)", name, strings.TrimSpace(string(command))))
		}
	}
	return left
}

// look lists what a container must not change, and what it may not leave.
func (p *workplace) look() map[string]bool {
	found := make(map[string]bool)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		found["the mount "+line] = true
	}
	for _, file := range []string{"hostname", "domainname", "msgmax"} {
		text, _ := os.ReadFile("/proc/sys/kernel/" + file)
		found[fmt.Sprintf("kernel.%s as %s", file, strings.TrimSpace(string(text)))] = true
	}
	_ = filepath.WalkDir(cgroupRoot, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			found["the cgroup "+path] = true
		}
		return nil
	})
	entries, _ := os.ReadDir(filepath.Join(p.directory, "state"))
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			found["the record "+entry.Name()] = true
		}
	}
	return found
}

func (p *workplace) changes(before map[string]bool) []string {
	var changed []string
	after := p.look()
	for what := range after {
		if !before[what] {
			changed = append(changed, what)
		}
	}
	for what := range before {
		if !after[what] {
			changed = append(changed, "not "+what)
		}
	}
	slices.Sort(changed)
	return changed
}

// abilities are what a machine, or this view of its cgroups, may lack. They are those that places need.
func abilities() map[string]bool {
	exists := func(paths ...string) bool {
		return slices.ContainsFunc(paths, func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		})
	}
	v1 := func(file string) bool { return exists(filepath.Join(cgroupRoot, file)) }
	controllers, _ := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	v2 := func(name string) bool { return slices.Contains(strings.Fields(string(controllers)), name) }
	_, policy, _ := unix.Syscall6(unix.SYS_SET_MEMPOLICY, 0, 0, 0, 0, 0, 0)
	blocks := v1("blkio/blkio.throttle.read_bps_device") || v2("io")
	has := map[string]bool{
		"AppArmor":                                   exists("/sys/kernel/security/apparmor/profiles"),
		"SELinux":                                    exists("/sys/fs/selinux/enforce"),
		"resctrl":                                    exists("/sys/fs/resctrl/schemata"),
		"memory policies":                            policy == 0,
		"real-time scheduling":                       hasCapability(23) && !v1("cpu/cpu.rt_runtime_us"),
		"deadline scheduling":                        hasCapability(23),
		"a network device":                           exists("/sys/class/net/corpus0"),
		"a seccomp agent":                            false,
		"an RDMA device":                             exists("/sys/class/infiniband/mlx5_0"),
		"limits of swap":                             v1("memory/memory.memsw.limit_in_bytes") || exists(filepath.Join(cgroupRoot, "memory.swap.max")),
		"cgroup v2 with memory":                      v2("memory"),
		"the controller pids":                        v1("pids/cgroup.procs") || v2("pids"),
		"the controller memory":                      v1("memory/cgroup.procs") || v2("memory"),
		"the controller memory of v1":                v1("memory/cgroup.procs"),
		"the controller cpu":                         v1("cpu/cgroup.procs") || v2("cpu"),
		"the controller cpuset":                      v1("cpuset/cgroup.procs") || v2("cpuset"),
		"real-time groups of v1":                     v1("cpu/cpu.rt_runtime_us"),
		"the controller of block devices":            blocks,
		"the block device 254:0 and its controller":  blocks && exists("/sys/dev/block/254:0"),
		"weights of block devices":                   v1("blkio/blkio.bfq.weight") || v1("io.weight") || v1("io.bfq.weight"),
		"leaf weights of block devices":              v1("blkio/blkio.leaf_weight"),
		"the controller hugetlb":                     v1("hugetlb/cgroup.procs") || v2("hugetlb"),
		"the controllers net_cls and net_prio of v1": v1("net_cls/cgroup.procs") && v1("net_prio/cgroup.procs"),
	}
	return has
}

// isMachines: whether a decision is about what some machines, or one view of their cgroups, may lack.
func (c *corpus) isMachines(d *decision) bool {
	for _, p := range c.properties {
		if s, ok := c.of(p); ok && fitsProperty(d.pattern, p) && len(s.needs) > 0 {
			return true
		}
	}
	return false
}

var changing = []string{"namespaces", "owners", "clocks", "session_keyring", "processes"}

// facts are what the probe saw, without what is another in every container.
func facts(text string) (map[string]any, error) {
	var found map[string]any
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return nil, fmt.Errorf("the probe did not say what it sees: %w: %s", err, short(text))
	}
	for _, name := range changing {
		delete(found, name)
	}
	drop := func(value any, names ...string) {
		if object, ok := value.(map[string]any); ok {
			for _, name := range names {
				delete(object, name)
			}
		}
	}
	// Whether it is the first one says enough.
	if process, ok := found["process"].(map[string]any); ok {
		for _, name := range []string{"pid", "ppid", "pgid", "sid"} {
			process[name] = process[name] == 1.0
		}
	}
	for _, mount := range list(found["mounts"]) {
		drop(mount, "id", "parent", "device")
	}
	if nodes, ok := found["dev"].(map[string]any); ok {
		for _, node := range nodes {
			drop(node, "dev", "ino", "size")
		}
	}
	return found, nil
}

// namesPointer: the message has this pointer, and not only a longer one that begins so.
func namesPointer(message, pointer string) bool {
	return pointer != "" && regexp.MustCompile(regexp.QuoteMeta(pointer)+`($|[^A-Za-z0-9_~/-])`).MatchString(message)
}

// namesParent: it has the pointer of what holds the property and, unless that is a list or a map, the property's name.
func namesParent(message, pointer string) bool {
	at := strings.LastIndex(pointer, "/")
	if at < 0 {
		return false
	}
	parent, name := pointer[:at], unescape(pointer[at+1:])
	if isIndex(pointer) {
		// Or that of the object which has the list.
		return namesPointer(message, parent) || namesPointer(message, parent[:strings.LastIndex(parent, "/")])
	}
	if parent == "" {
		return strings.Contains(message, "`"+name+"`") || strings.Contains(message, name)
	}
	return namesPointer(message, parent) && strings.Contains(strings.SplitN(message, parent, 2)[1], name)
}
