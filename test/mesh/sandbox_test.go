package mesh_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// A sandbox runs a process under the restrictions of a systemd unit where there is no systemd: the unit's file is read, what
// it says is put into the terms of the OCI runtime specification, and runc applies it. A directive that is not known here
// fails the test: what a unit says is either applied or said to be none of a sandbox's business.

// unit is the section [Service] of a unit with its drop-ins: the values of each directive, in order.
type unit map[string][]string

func readUnit(t *testing.T, files ...string) unit {
	t.Helper()
	u := unit{}
	for _, file := range files {
		section := ""
		for line := range strings.Lines(readFile(file)) {
			line = strings.TrimSpace(line)
			key, value, ok := strings.Cut(line, "=")
			switch {
			case line == "", strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, "["):
				section = line
			case !ok:
				t.Fatalf("%s: %q is no directive", file, line)
			case section == "[Service]" && value == "":
				u[key] = []string{} // starts anew
			case section == "[Service]":
				u[key] = append(u[key], value)
			}
		}
	}
	return u
}

// words are all words of a directive that may be given several times.
func (u unit) words(key string) []string { return strings.Fields(strings.Join(u[key], " ")) }

// spec is what runc reads (OCI runtime specification 1.0.2), as far as it is used here.
type spec struct {
	Version string     `json:"ociVersion"`
	Process ociProcess `json:"process"`
	Root    struct {
		Path     string `json:"path"`
		Readonly bool   `json:"readonly"`
	} `json:"root"`
	Hostname string  `json:"hostname"`
	Mounts   []mount `json:"mounts"`
	Linux    struct {
		Namespaces    []namespace `json:"namespaces"`
		ReadonlyPaths []string    `json:"readonlyPaths"`
		MaskedPaths   []string    `json:"maskedPaths"`
		Seccomp       seccomp     `json:"seccomp"`
	} `json:"linux"`
}

type ociProcess struct {
	User struct {
		UID   int `json:"uid"`
		GID   int `json:"gid"`
		Umask int `json:"umask"`
	} `json:"user"`
	Args            []string            `json:"args"`
	Env             []string            `json:"env"`
	Cwd             string              `json:"cwd"`
	Capabilities    map[string][]string `json:"capabilities"`
	Rlimits         []rlimit            `json:"rlimits"`
	NoNewPrivileges bool                `json:"noNewPrivileges"`
}

type rlimit struct {
	Type string `json:"type"`
	Hard uint64 `json:"hard"`
	Soft uint64 `json:"soft"`
}

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

type namespace struct {
	Type string `json:"type"`
	Path string `json:"path,omitempty"`
}

type seccomp struct {
	DefaultAction string   `json:"defaultAction"` // with EPERM
	Architectures []string `json:"architectures"`
	Syscalls      []rule   `json:"syscalls"`
}

type rule struct {
	Names  []string   `json:"names"`
	Action string     `json:"action"`
	Errno  uint       `json:"errnoRet,omitempty"`
	Args   []argument `json:"args,omitempty"`
}

// argument is a condition: where Op is masked, that the argument and Value make Two.
type argument struct {
	Index uint   `json:"index"`
	Value uint64 `json:"value"`
	Two   uint64 `json:"valueTwo,omitempty"`
	Op    string `json:"op"`
}

const (
	allowed = "SCMP_ACT_ALLOW"
	denied  = "SCMP_ACT_ERRNO"
	equal   = "SCMP_CMP_EQ"
	masked  = "SCMP_CMP_MASKED_EQ"
)

// sandboxed makes the specification of a unit's process: root is its whole world, netns the path of its network.
func (u unit) sandboxed(t *testing.T, root, netns string) spec {
	t.Helper()
	s := spec{Version: "1.0.2", Hostname: "node"}
	s.Root.Path = root
	s.Process.Args = strings.Fields(u["ExecStart"][0])
	s.Process.Cwd = "/"
	s.Process.Env = []string{"PATH=/usr/local/bin"}
	s.Process.Capabilities = map[string][]string{}
	s.Linux.Namespaces = []namespace{{"mount", ""}, {"network", netns}}
	s.Mounts = []mount{{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}}}
	s.Linux.Seccomp = seccomp{DefaultAction: denied, Architectures: []string{architecture()}}
	for _, key := range slices.Sorted(maps.Keys(u)) {
		apply := directives[key]
		if apply == nil {
			t.Fatalf("directive %s of the unit is not known to the sandbox", key)
		}
		apply(t, u, &s)
	}
	s.Linux.Seccomp.Syscalls = u.filter(t)
	return s
}

// directives are what each directive of a unit means to a sandbox. Those of which the filter is made are in filter.
var directives = map[string]func(*testing.T, unit, *spec){
	"CapabilityBoundingSet": func(_ *testing.T, u unit, s *spec) {
		s.Process.Capabilities["bounding"] = u.words("CapabilityBoundingSet")
	},
	"AmbientCapabilities": func(_ *testing.T, u unit, s *spec) {
		for _, set := range []string{"ambient", "inheritable", "permitted", "effective"} { // of a user who is not root
			s.Process.Capabilities[set] = u.words("AmbientCapabilities")
		}
	},
	"NoNewPrivileges": yes(func(s *spec) { s.Process.NoNewPrivileges = true }),
	"LimitNOFILE": func(t *testing.T, u unit, s *spec) {
		n, err := strconv.ParseUint(u["LimitNOFILE"][0], 10, 64)
		var own syscall.Rlimit
		if err != nil || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own) != nil {
			t.Fatal(u["LimitNOFILE"], err)
		}
		n = min(n, own.Max) // only CAP_SYS_RESOURCE gives more
		s.Process.Rlimits = append(s.Process.Rlimits, rlimit{"RLIMIT_NOFILE", n, n})
	},
	"LimitCORE": func(t *testing.T, u unit, s *spec) {
		n, err := strconv.ParseUint(u["LimitCORE"][0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s.Process.Rlimits = append(s.Process.Rlimits, rlimit{"RLIMIT_CORE", n, n})
	},
	"UMask": func(t *testing.T, u unit, s *spec) {
		mask, err := strconv.ParseUint(u["UMask"][0], 8, 12)
		if err != nil {
			t.Fatal(err)
		}
		s.Process.User.Umask = int(mask)
	},
	"User": func(t *testing.T, u unit, s *spec) {
		s.Process.User.UID = id(t, s.Root.Path+"/etc/passwd", u["User"][0])
	},
	"Group": func(t *testing.T, u unit, s *spec) {
		s.Process.User.GID = id(t, s.Root.Path+"/etc/group", u["Group"][0])
	},

	"ProtectSystem": func(t *testing.T, u unit, s *spec) {
		if u["ProtectSystem"][0] != "strict" {
			t.Fatal("only ProtectSystem=strict is known")
		}
		s.Root.Readonly = true
	},
	"ReadWritePaths": func(_ *testing.T, u unit, s *spec) {
		for _, path := range u.words("ReadWritePaths") {
			s.Mounts = append(s.Mounts, mount{path, "bind", s.Root.Path + path, []string{"rbind", "rw"}})
		}
	},
	"PrivateTmp": yes(func(s *spec) {
		for _, dir := range []string{"/tmp", "/var/tmp"} {
			s.Mounts = append(s.Mounts, mount{dir, "tmpfs", "tmpfs", []string{"nosuid", "nodev", "mode=1777"}})
		}
	}),
	"PrivateDevices": yes(func(s *spec) { // to which runc adds null, zero, full, random, urandom and tty
		s.Mounts = append(s.Mounts, mount{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "noexec", "mode=755", "size=64k"}})
	}),
	"ProtectProc": func(_ *testing.T, u unit, s *spec) {
		s.Mounts[0].Options = append(s.Mounts[0].Options, "hidepid="+u["ProtectProc"][0])
	},
	"ProtectKernelTunables": yes(func(s *spec) {
		s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
	}),
	"ProtectKernelLogs":    yes(func(s *spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/kmsg") }),
	"ProtectHostname":      yes(func(s *spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, namespace{"uts", ""}) }),
	"ProtectHome":          yes(nil), // there are no homes,
	"ProtectControlGroups": yes(nil), // and no control groups, in the sandbox's world;
	"MemoryMax":            nothing,  // what is one of them systemd judges
	"CPUWeight":            nothing,  // as this
	"KeyringMode":          nothing,  // a key ring of its own, which nobody here can use: @keyring

	// The filter's, and of these the ones that take more than it: ProtectClock= takes a device and capabilities,
	// ProtectKernelModules= a capability, and none of them is there.
	"SystemCallFilter": nothing, "SystemCallErrorNumber": nothing, "SystemCallArchitectures": nothing,
	"RestrictAddressFamilies": nothing, "RestrictNamespaces": nothing, "RestrictRealtime": nothing, "RestrictSUIDSGID": nothing,
	"MemoryDenyWriteExecute": nothing, "LockPersonality": nothing, "ProtectClock": nothing, "ProtectKernelModules": nothing,

	"ExecReload": nothing, // a command of another process

	// How a process and systemd talk; the test plays systemd.
	"Type": func(_ *testing.T, u unit, s *spec) {
		if u["Type"][0] == "notify" {
			s.Process.Env = append(s.Process.Env, "NOTIFY_SOCKET="+notifySocket)
		}
	},
	"WatchdogSec": func(t *testing.T, u unit, s *spec) {
		seconds, err := strconv.Atoi(u["WatchdogSec"][0])
		if err != nil {
			t.Fatal(err)
		}
		s.Process.Env = append(s.Process.Env, fmt.Sprintf("WATCHDOG_USEC=%d", seconds*1_000_000))
	},
	"NotifyAccess": nothing,

	// What makes a process start, end and start again, and what is done when it has ended: the test plays that.
	"ExecStart": nothing, "Restart": nothing, "RestartSec": nothing, "RestartKillSignal": nothing, "TimeoutStopSec": nothing,
	"OOMScoreAdjust": nothing, "RemoveIPC": nothing,
}

// notifySocket is where systemd is told how a process is.
const notifySocket = "/run/systemd/notify"

func nothing(*testing.T, unit, *spec) {}

// yes is for directives that are on or off.
func yes(apply func(*spec)) func(*testing.T, unit, *spec) {
	return func(_ *testing.T, _ unit, s *spec) {
		if apply != nil {
			apply(s)
		}
	}
}

// id looks a name up in a file like passwd or group.
func id(t *testing.T, file, name string) int {
	t.Helper()
	for line := range strings.Lines(readFile(file)) {
		if fields := strings.Split(line, ":"); fields[0] == name {
			n, err := strconv.Atoi(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s knows no %s", file, name)
	return 0
}

// filter makes the rules of SystemCallFilter= and of the directives that look at arguments of system calls.
func (u unit) filter(t *testing.T) []rule {
	t.Helper()
	calls := u.calls(t)
	var rules []rule
	// only lets calls pass if one of the conditions holds.
	only := func(names []string, conditions ...argument) {
		var left []string
		for _, name := range names {
			if calls[name] {
				left = append(left, name)
				delete(calls, name)
			}
		}
		for _, c := range conditions {
			if len(left) > 0 {
				rules = append(rules, rule{left, allowed, 0, []argument{c}})
			}
		}
	}
	for directive, restrict := range restrictions {
		if len(u[directive]) > 0 {
			restrict(u, only)
		}
	}
	if len(u["RestrictNamespaces"]) > 0 { // its flags are in memory, where no filter looks: say that there is no such call
		delete(calls, "clone3")
		rules = append(rules, rule{[]string{"clone3"}, denied, uint(syscall.ENOSYS), nil})
	}
	return append(rules, rule{slices.Sorted(maps.Keys(calls)), allowed, 0, nil})
}

const (
	newNamespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID |
		syscall.CLONE_NEWNET | 0x02000000 | 0x80 // and those of control groups and of time
	suidSGID = syscall.S_ISUID | syscall.S_ISGID
)

// restrictions are the directives that let a system call pass under conditions, or not at all.
var restrictions = map[string]func(u unit, only func([]string, ...argument)){
	"RestrictAddressFamilies": func(u unit, only func([]string, ...argument)) {
		numbers := map[string]uint64{"AF_UNIX": syscall.AF_UNIX, "AF_INET": syscall.AF_INET, "AF_INET6": syscall.AF_INET6, "AF_NETLINK": syscall.AF_NETLINK}
		var families []argument
		for _, name := range u.words("RestrictAddressFamilies") {
			families = append(families, argument{0, numbers[name], 0, equal})
		}
		only([]string{"socket", "socketpair"}, families...)
	},
	"RestrictNamespaces": func(_ unit, only func([]string, ...argument)) {
		only([]string{"unshare", "setns"})
		only([]string{"clone"}, argument{0, newNamespaces, 0, masked})
	},
	"RestrictRealtime": func(_ unit, only func([]string, ...argument)) {
		only([]string{"sched_setscheduler"}, argument{1, 0, 0, equal}, argument{1, 3, 0, equal}, argument{1, 5, 0, equal}) // OTHER, BATCH, IDLE
	},
	"RestrictSUIDSGID": func(_ unit, only func([]string, ...argument)) {
		only([]string{"chmod", "fchmod", "mkdir", "mknod"}, argument{1, suidSGID, 0, masked})
		only([]string{"fchmodat", "fchmodat2", "mkdirat", "mknodat"}, argument{2, suidSGID, 0, masked})
		only([]string{"openat2"})
	},
	"MemoryDenyWriteExecute": func(_ unit, only func([]string, ...argument)) {
		const write, execute = syscall.PROT_WRITE, syscall.PROT_EXEC
		only([]string{"mmap"}, argument{2, write | execute, 0, masked}, argument{2, write | execute, write, masked}, argument{2, write | execute, execute, masked})
		only([]string{"mprotect", "pkey_mprotect"}, argument{2, execute, 0, masked})
		only([]string{"shmat"}, argument{2, 0o100000, 0, masked}) // SHM_EXEC
	},
	"LockPersonality": func(_ unit, only func([]string, ...argument)) {
		only([]string{"personality"}, argument{0, 0, 0, equal}, argument{0, 0xffffffff, 0, equal})
	},
}

// calls are the system calls that pass: a group of SystemCallFilter= is what systemd says it is.
func (u unit) calls(t *testing.T) map[string]bool {
	t.Helper()
	calls := map[string]bool{}
	add := func(name string, pass bool) {
		for _, call := range callsOf(t, name) {
			if pass {
				calls[call] = true
			} else {
				delete(calls, call)
			}
		}
	}
	add("@default", true) // these always pass
	for _, line := range u["SystemCallFilter"] {
		line, without := strings.CutPrefix(line, "~")
		for _, name := range strings.Fields(line) {
			add(name, !without)
		}
	}
	for directive, name := range map[string]string{"ProtectClock": "@clock", "ProtectKernelModules": "@module", "ProtectKernelLogs": "syslog",
		"PrivateDevices": "@raw-io", "ProtectHostname": "sethostname"} {
		if len(u[directive]) > 0 {
			add(name, false)
		}
	}
	return calls
}

var groups sync.Map

// callsOf are the system calls of a group, or the one call of that name.
func callsOf(t *testing.T, name string) []string {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	if known, ok := groups.Load(name); ok {
		return known.([]string)
	}
	out, err := exec.Command("systemd-analyze", "--no-pager", "syscall-filter", name).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", name, err)
	}
	var calls []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" && line != name && !strings.HasPrefix(line, "#") {
			calls = append(calls, callsOf(t, line)...)
		}
	}
	groups.Store(name, calls)
	return calls
}

// sandboxes are those of one test. They end with it, even if it is killed: a process of its own waits for that.
type sandboxes struct {
	*world
	state string // runc's
}

func newSandboxes(w *world) *sandboxes {
	w.t.Helper()
	b := &sandboxes{w, w.path("runc")}
	sweeper := exec.Command("sh", "-c", `cat >/dev/null; for c in $(runc --root "$0" list -q); do runc --root "$0" delete -f "$c"; done`, b.state)
	sweeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := sweeper.StdinPipe() // closed with this process, if not before
	w.must(err)
	w.must(sweeper.Start())
	w.top.Cleanup(func() {
		alive.Close()
		if err := sweeper.Wait(); err != nil {
			w.top.Errorf("sandboxes were left: %v", err)
		}
	})
	return b
}

// sandboxed is a process in a sandbox.
type sandboxed struct {
	*lab.Process // runc, which ends with it
	sandboxes    *sandboxes
	pid          int
}

// start runs a process on a host; its output is in a log as that of any process.
func (b *sandboxes) start(host, name string, s spec) *sandboxed {
	b.t.Helper()
	bundle, err := os.MkdirTemp(b.dir, "bundle-")
	b.must(err)
	config, err := json.Marshal(s)
	b.must(err)
	b.must(os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600))
	pidFile := filepath.Join(bundle, "pid")
	p := b.world.start(host, name, "runc", "--root", b.state, "run", "--no-new-keyring", "--bundle", bundle, "--pid-file", pidFile, filepath.Base(bundle))
	c := &sandboxed{p, b, 0}
	b.eventually(20*time.Second, name+" runs in its sandbox", func() (bool, string) {
		c.pid, err = strconv.Atoi(readFile(pidFile))
		return err == nil || !p.Alive(), lab.Tail(p.Log, 5)
	})
	return c
}

// end sends a signal and waits for the end.
func (c *sandboxed) end(sig syscall.Signal) {
	c.sandboxes.t.Helper()
	c.sandboxes.world.kill(c.pid, sig)
	<-c.Ended()
}

// architecture is what the system's filter calls that of this machine (SystemCallArchitectures=native).
func architecture() string {
	return map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[runtime.GOARCH]
}
