package mesh_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

const systemdDir = "../../deploy/systemd/"

// TestUnits has systemd judge the units: nothing in them that it does not know, and an exposure that is that of a service
// which has been thought about.
func TestUnits(t *testing.T) {
	testenv.Need(t, "systemd-analyze")
	root := t.TempDir()
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
	}
	units, bin := filepath.Join(root, "etc/systemd/system"), filepath.Join(root, "usr/local/bin")
	run("mkdir", "-p", units+"/igp.service.d", bin, root+"/usr/lib/systemd/system")
	run("sh", "-c", "cp -a /lib/systemd/system/*.target /lib/systemd/system/*.slice "+root+"/usr/lib/systemd/system/")
	run("sh", "-c", "cp "+systemdDir+"*.service "+units)
	run("cp", systemdDir+"anycast-sidecar.service", units+"/igp.service")
	run("cp", systemdDir+"igp.conf", units+"/igp.service.d")
	for _, program := range []string{"coredns", "anycast-sidecar", "meshctl"} {
		run("cp", "/bin/true", filepath.Join(bin, program))
	}
	for unit, exposure := range map[string]string{"coredns": "1.7", "anycast-sidecar": "1.8", "igp": "2.1", "meshctl-serve": "1.5"} {
		out, err := exec.Command("systemd-analyze", "verify", "--root="+root, unit+".service").CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
		limit := strings.Replace(exposure, ".", "", 1)
		out, err = exec.Command("systemd-analyze", "--no-pager", "security", "--offline=true", "--root="+root, "--threshold="+limit, unit+".service").CombinedOutput()
		if err != nil {
			t.Errorf("%s is exposed more than %s: %v\n%s", unit, exposure, err, out)
		}
		if text := readFile(filepath.Join(units, unit+".service")); !strings.Contains(text, "\nMemoryMax=") || !strings.Contains(text, "\nLimitCORE=0\n") {
			t.Errorf("%s: its memory has no bound, or its core dumps would hold keys", unit)
		}
	}
}

// hardened is a mesh whose every process runs as its systemd unit says.
type hardened struct {
	*deployed
	sandboxes *sandboxes
	running   map[string]*sandboxed // HOST/PROGRAM
	told      chan string           // what a sidecar tells systemd
}

// TestHardening runs a mesh with every process under the restrictions that it is shipped with: it announces, answers,
// switches, drains and comes back; each process has the privileges of its unit and no others, and what a process that was
// taken over would try fails.
func TestHardening(t *testing.T) {
	w := newWorld(t)
	testenv.Need(t, "runc", "systemd-analyze", "systemd-sysusers", "systemd-tmpfiles")
	h := &hardened{newDeployed(w, "tyo", "osa"), newSandboxes(w), map[string]*sandboxed{}, make(chan string, 1000)}
	h.startHost()
	for _, node := range h.nodes {
		h.install(node)
		h.startProgram(node, "anycast-sidecar")
		h.startProgram(node, "coredns")
	}
	h.put(1)
	h.awaitWays("tyo", "osa")
	h.awaitAnswer("router", 1)
	h.put(2)
	for _, node := range h.nodes {
		h.awaitAnswer(node, 2)
	}
	t.Run("privileges", func(t *testing.T) { h.testPrivileges(t) })
	t.Run("systemd is told", func(t *testing.T) { h.testNotify() })
	t.Run("drain", func(t *testing.T) { h.testDrain() })
	t.Run("intruder", func(t *testing.T) { h.testIntruder(t) })
	t.Run("kernel's clock", func(t *testing.T) { h.testKernelClock(t) })
	t.Run("IGP", func(t *testing.T) { h.testIGP(t) })
}

// root makes a host's file system: the programs and the users of the shipped sysusers.d, nothing else.
func (h *hardened) root(host string) string {
	h.t.Helper()
	root := h.path(host, "root")
	for dir, mode := range map[string]os.FileMode{"usr/local/bin": 0o777, "etc": 0o777, "tmp": 0o777 | os.ModeSticky, "var/tmp": 0o777 | os.ModeSticky} {
		dir = filepath.Join(root, dir) // open to all, so that nothing but the unit is in the way
		h.must(errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode)))
	}
	for _, program := range []string{"coredns", "anycast-sidecar", "meshctl", "intruder"} {
		h.must(os.Link(filepath.Join(h.bin, program), filepath.Join(root, "usr/local/bin", program)))
	}
	h.systemd("systemd-sysusers", "--root="+root, "sysusers.conf")
	return root
}

func (h *hardened) systemd(argv ...string) {
	h.t.Helper()
	cmd := exec.Command(argv[0], argv[1:len(argv)-1]...)
	path, err := filepath.Abs(systemdDir + argv[len(argv)-1])
	h.must(err)
	cmd.Args = append(cmd.Args, path)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// startHost makes the mesh on the distribution host, which takes zones from a directory, and starts it.
func (h *hardened) startHost() {
	h.t.Helper()
	root := h.root("dist")
	home := filepath.Join(root, "srv/mesh")
	h.must(errors.Join(os.MkdirAll(home+"/zones", 0o755), os.Chmod(home, 0o700), os.Symlink(home, h.path("home"))))
	h.found()
	h.write("home/meshctl.yaml", "releases: {every: 1s}\nserve: {listen: \"198.51.100.1:8444\"}\nsources: {directories: [{path: /srv/mesh/zones}]}\n")
	uid, gid := id(h.t, root+"/etc/passwd", "meshctl"), id(h.t, root+"/etc/group", "meshctl")
	h.must(filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	}))
	h.startProgram("dist", "meshctl-serve")
}

// put has the distribution host take a newer zone.
func (h *hardened) put(number uint64) {
	h.t.Helper()
	h.must(os.Rename(h.write("zone", zoneText(number)), h.path("home", "zones", "example.org.zone")))
}

// install does on a node what docs/deploy/systemd.md says: the bundle, users and directories.
func (h *hardened) install(node string) {
	h.t.Helper()
	root := h.root(node)
	h.unpack(node, root+"/etc/mesh")
	h.systemd("systemd-tmpfiles", "--root="+root, "--create", "tmpfiles.conf")
	h.listen(node)
	for _, socket := range []string{"meshsync.sock", "sidecar.sock"} {
		h.must(os.Symlink(filepath.Join(root, "run/mesh", socket), h.path(node, socket)))
	}
}

// listen plays systemd's ear on a node.
func (h *hardened) listen(node string) {
	h.t.Helper()
	path := h.path(node, "root") + notifySocket
	h.must(os.MkdirAll(filepath.Dir(path), 0o755))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	h.must(errors.Join(err, os.Chmod(path, 0o777)))
	h.top.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			h.told <- node + " " + string(b[:n])
		}
	}()
}

// testNotify: the sidecar says that it is ready, and then that it goes on. So systemd starts what comes after it, and ends it
// when it hangs.
func (h *hardened) testNotify() {
	told := map[string]bool{}
	h.eventually(60*time.Second, "both sidecars are ready and go on", func() (bool, string) {
		for len(h.told) > 0 {
			told[<-h.told] = true
		}
		all := true
		for _, node := range h.nodes {
			all = all && told[node+" READY=1"] && told[node+" WATCHDOG=1"]
		}
		return all, fmt.Sprint(told)
	})
}

// unit is the unit of a program, and its drop-ins.
func (h *hardened) unit(program string, dropIns ...string) unit {
	files := []string{systemdDir + program + ".service"}
	for _, d := range dropIns {
		files = append(files, systemdDir+d)
	}
	return readUnit(h.t, files...)
}

func (h *hardened) specOf(host, program string, dropIns ...string) spec {
	return h.unit(program, dropIns...).sandboxed(h.t, h.path(host, "root"), filepath.Join(lab.NetnsDir, h.places[host].Netns))
}

func (h *hardened) startProgram(host, program string, dropIns ...string) *sandboxed {
	h.t.Helper()
	p := h.sandboxes.start(host, program, h.specOf(host, program, dropIns...))
	h.running[host+"/"+program] = p
	return p
}

func (h *hardened) user(host, name string) int  { return id(h.t, h.path(host, "root/etc/passwd"), name) }
func (h *hardened) group(host, name string) int { return id(h.t, h.path(host, "root/etc/group"), name) }

func (h *hardened) testPrivileges(t *testing.T) {
	mesh := h.group("tyo", "mesh")
	want := map[string]privileges{
		"dist/meshctl-serve":  only(h.user("dist", "meshctl"), h.group("dist", "meshctl"), 0),
		"tyo/coredns":         only(h.user("tyo", "coredns"), mesh, capNetBindService),
		"tyo/anycast-sidecar": only(h.user("tyo", "anycast-sidecar"), mesh, 0),
	}
	for name, want := range want {
		if got := h.privileges(h.running[name].pid); got != want {
			t.Errorf("%s has %+v, not %+v", name, got, want)
		}
		limits := strings.Join(strings.Fields(readFile(fmt.Sprintf("/proc/%d/limits", h.running[name].pid))), " ")
		if !strings.Contains(limits, "Max core file size 0 0 ") {
			t.Errorf("%s may dump its memory: %s", name, limits)
		}
	}
}

// testDrain takes a node out of service and back, by signals. Its DNS goes on.
func (h *hardened) testDrain() {
	sidecar := h.running["osa/anycast-sidecar"]
	h.kill(sidecar.pid, syscall.SIGUSR1)
	h.awaitWays("tyo")
	h.awaitAnswer("osa", 2)
	h.awaitAnswer("router", 2)
	h.kill(sidecar.pid, syscall.SIGUSR2)
	h.awaitWays("tyo", "osa")
	sidecar.end(syscall.SIGTERM)
	h.awaitWays("tyo")
	h.startProgram("osa", "anycast-sidecar")
	h.awaitWays("tyo", "osa")
}

// succeeds is what an attempt of the intruder prints that was let.
const succeeds = ""

// attempts are what comes of the intruder's attempts in any of the units.
var attempts = map[string]string{
	"write /usr/local/bin": "EROFS", "write /etc": "EROFS", "write /etc/mesh": "EROFS", "write /run/mesh": "ENOENT", "write /var/lib/mesh": "EROFS",
	"write /var/lib/mesh/repository": "EROFS", "write /var/lib/mesh/sidecar": "EROFS", "write /var/lib/mesh/state": "EROFS", "write /var/lib/mesh/cache": "EROFS",
	"write /srv/mesh": "ENOENT", "write /tmp": succeeds, "write /proc/sys": "EACCES",
	"change /etc/mesh/Corefile": "EACCES", "replace /etc/mesh/Corefile": "EROFS",
	"read /etc/mesh/node.key": "EACCES", "read /etc/mesh/Corefile": succeeds, "see other processes": "ENOENT",
	"socket AF_INET": succeeds, "socket AF_NETLINK": succeeds, "socket AF_PACKET": "EPERM", "socket AF_ALG": "EPERM", "raw socket": "EPERM",
	"bind port 53": "EACCES", "bind port 5300": succeeds, "delete an address": "EPERM",
	"be root": "EPERM", "unshare a namespace": "EPERM", "clone into a namespace": "EPERM", "mount": "EPERM", "chroot": "EPERM",
	"load a module": "EPERM", "load BPF": "EPERM", "trace": "EPERM", "read the kernel's log": "EPERM", "reboot": "EPERM", "use a key ring": "EPERM",
	"set a clock": "EPERM", "read the clock's error": "EPERM", "be of another personality": "EPERM", "be of real time": "EPERM", "step back": "EPERM",
	"memory to write and execute": "EPERM", "written memory made executable": "EPERM",
	"a file that runs as its owner": "EPERM", "a directory that gives its group": "EPERM",
}

// testIntruder runs another program in the place of each of ours.
func (h *hardened) testIntruder(t *testing.T) {
	for _, c := range []struct {
		host, unit string
		dropIns    []string
		differs    []map[string]string // from attempts
	}{
		{"tyo", "coredns", nil, []map[string]string{corednsMay}},
		{"tyo", "anycast-sidecar", nil, []map[string]string{sidecarMay}},
		{"tyo", "anycast-sidecar", []string{"igp.conf"}, []map[string]string{sidecarMay, igpMay}},
		{"dist", "meshctl-serve", nil, []map[string]string{meshctlMay}},
	} {
		s := h.specOf(c.host, c.unit, c.dropIns...)
		s.Process.Args = []string{"/usr/local/bin/intruder"}
		p := h.sandboxes.start(c.host, "intruder-"+c.unit+strings.Join(c.dropIns, ""), s)
		<-p.Ended()
		var got map[string]string
		if err := json.Unmarshal([]byte(readFile(p.Log)), &got); err != nil {
			t.Fatalf("%s: %v in %s", c.unit, err, readFile(p.Log))
		}
		want := maps.Clone(attempts)
		for _, differs := range c.differs {
			maps.Copy(want, differs)
		}
		for name, want := range want {
			if got, tried := got[name]; !tried || got != want {
				t.Errorf("%s %v: %s: %q, not %q", c.unit, c.dropIns, name, got, want)
			}
		}
	}
}

var corednsMay = map[string]string{"write /var/lib/mesh/sidecar": "EACCES", "write /run/mesh": succeeds, "write /var/lib/mesh/state": succeeds, "write /var/lib/mesh/cache": succeeds,
	"bind port 53": succeeds, "step back": succeeds}

var sidecarMay = map[string]string{"write /run/mesh": succeeds, "write /var/lib/mesh/repository": succeeds, "write /var/lib/mesh/sidecar": succeeds, "write /etc/mesh": succeeds,
	"replace /etc/mesh/Corefile": "EPERM", "read /etc/mesh/node.key": succeeds, "read the clock's error": succeeds}

// meshctlMay: a distribution host has nothing of a node.
var meshctlMay = map[string]string{"write /srv/mesh": succeeds, "write /etc/mesh": "ENOENT", "write /var/lib/mesh": "ENOENT",
	"write /var/lib/mesh/repository": "ENOENT", "write /var/lib/mesh/sidecar": "ENOENT", "write /var/lib/mesh/state": "ENOENT", "write /var/lib/mesh/cache": "ENOENT",
	"change /etc/mesh/Corefile": "ENOENT", "replace /etc/mesh/Corefile": "ENOENT", "read /etc/mesh/Corefile": "ENOENT", "read /etc/mesh/node.key": "ENOENT"}

// igpMay is that of sidecarMay which differs with CAP_NET_ADMIN: it may change addresses, and would be let to the kernel's
// settings of the network if these could be written.
var igpMay = map[string]string{"delete an address": "EADDRNOTAVAIL", "write /proc/sys": "EROFS"}

// testKernelClock: the kernel's error bound can be read under the hardening, whatever it is on this machine.
func (h *hardened) testKernelClock(t *testing.T) {
	h.running["osa/anycast-sidecar"].end(syscall.SIGTERM)
	config := h.path("osa", "root/etc/mesh/sidecar.yaml")
	before := readFile(config)
	h.must(os.WriteFile(config, []byte(strings.Replace(before, "source: chrony", "source: kernel", 1)), 0o644))
	h.startProgram("osa", "anycast-sidecar")
	h.eventually(20*time.Second, "the sidecar has asked the kernel", func() (bool, string) {
		s, err := h.sidecar("osa")
		if strings.Contains(s.Clock.Reason, "forbidden") {
			t.Fatal(s.Clock.Reason)
		}
		return err == nil && (s.Clock.State == "synchronised" || strings.Contains(s.Clock.Reason, "the kernel")), fmt.Sprintf("%+v %v", s.Clock, err)
	})
}

// testIGP announces by an interface: CAP_NET_ADMIN is what it takes, and without it nothing starts.
func (h *hardened) testIGP(t *testing.T) {
	h.running["tyo/anycast-sidecar"].end(syscall.SIGTERM)
	h.awaitWays()
	h.mustRun("tyo", "ip", "link", "add", "anycast0", "type", "bridge")
	h.mustRun("tyo", "ip", "link", "set", "anycast0", "up")
	config := h.path("tyo", "root/etc/mesh/sidecar.yaml")
	before, _, _ := strings.Cut(readFile(config), "\nbgp:")
	h.must(os.WriteFile(config, []byte(before+"\nigp: {interface: anycast0, lifetime: 4s}\n"), 0o644))

	p := h.startProgram("tyo", "anycast-sidecar")
	if err := p.Wait(); err == nil || !strings.Contains(lab.Tail(p.Log, 1), "CAP_NET_ADMIN") {
		t.Errorf("without CAP_NET_ADMIN: %v\n%s", err, lab.Tail(p.Log, 5))
	}

	p = h.startProgram("tyo", "anycast-sidecar", "igp.conf")
	announced := func() (bool, string) {
		out := h.mustRun("tyo", "ip", "-o", "addr", "show", "dev", "anycast0")
		return strings.Contains(out, shared4) && strings.Contains(out, shared6), out
	}
	h.eventually(60*time.Second, "the address is on the IGP's interface", announced)
	if got, want := h.privileges(p.pid), only(h.user("tyo", "anycast-sidecar"), h.group("tyo", "mesh"), capNetAdmin); got != want {
		t.Errorf("the sidecar has %+v, not %+v", got, want)
	}
	p.end(syscall.SIGTERM)
	if there, out := announced(); there {
		t.Errorf("the address is there after the end: %s", out)
	}
}
