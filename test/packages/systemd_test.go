package packages_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// booted is a system of which systemd is process 1, in namespaces: this machine's files, as they are, and nothing that it runs.
type booted struct {
	*testing.T
	pid string // of systemd, as this machine has it
}

// namespaces are those that boot.sh runs in.
var namespaces = []string{"unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--kill-child"}

// boot starts systemd. Where namespaces or mounts are forbidden that cannot be tried, and the test says why.
func boot(t *testing.T, packages ...string) *booted {
	t.Helper()
	testenv.Need(t, "unshare", "nsenter", "systemctl", "runuser", "ip", "chronyd")
	script, err := filepath.Abs("testdata/boot.sh")
	lab.Must(t, err)
	dir := func() string {
		dir := t.TempDir()
		lab.Must(t, os.Mkdir(filepath.Join(dir, "given"), 0o755))
		return dir
	}
	probe := append(append([]string{}, namespaces...), script, dir(), "/bin/true")
	if said, err := exec.Command(probe[0], probe[1:]...).CombinedOutput(); err != nil {
		t.Skipf("this machine lets no system be booted in namespaces: %v\n%s", err, said)
	}
	home := dir()
	for _, name := range packages {
		lab.Run(t, "", "cp", name, filepath.Join(home, "given"))
	}
	p := lab.Start(t, lab.Command{Name: "systemd", Log: filepath.Join(home, "log"),
		Argv: append(append([]string{}, namespaces...), script, home, "/lib/systemd/systemd", "--system", "--show-status=no")})
	b := &booted{T: t}
	said := ""
	for late := time.Now().Add(90 * time.Second); time.Now().Before(late) && p.Alive(); time.Sleep(100 * time.Millisecond) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid(), p.Pid()))
		b.pid = strings.TrimSpace(string(data))
		if name, _ := os.ReadFile("/proc/" + b.pid + "/comm"); b.pid == "" || string(name) != "systemd\n" {
			continue
		}
		if said, _ = b.try("systemctl is-system-running"); strings.HasPrefix(said, "running") || strings.HasPrefix(said, "degraded") {
			return b
		}
	}
	// Nothing of ours has run yet.
	t.Skipf("systemd does not get up in namespaces of this machine: %s\n%s", said, lab.Tail(p.Log, 20))
	return nil
}

// try gives a command to a shell of the system, and returns what it says.
func (b *booted) try(command string) (string, error) {
	cmd := exec.Command("nsenter", "--target", b.pid, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "bash", "-c", command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
	said, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(said)), err
}

func (b *booted) must(command string) string {
	b.Helper()
	said, err := b.try(command)
	if err != nil {
		journal, _ := b.try("journalctl --no-pager -n 40 -u coredns -u anycast-sidecar -u meshctl-serve")
		b.Fatalf("%s: %v\n%s\n%s", command, err, said, journal)
	}
	return said
}

// await gives a command until it says what is wanted.
func (b *booted) await(command, want string) {
	b.Helper()
	lab.Within(b, 90*time.Second, command+" says "+want, func() (bool, string) {
		said, _ := b.try(command)
		return strings.Contains(said, want), said
	})
}

// show is a property of a unit.
func (b *booted) show(unit, property string) string {
	b.Helper()
	return b.must("systemctl show --value -p " + property + " " + unit)
}

// meshOfOne installs the packages and makes a mesh: a distribution host and a node on one machine, with a time server of their own.
const meshOfOne = `set -e
ip link set lo up
for a in 192.0.2.53 198.51.100.1 198.51.100.7 198.51.100.2; do ip address add $a/32 dev lo; done
dpkg --force-depends --install /srv/given/*_1.0.0_*.deb
mkdir -p /srv/clock
printf 'local stratum 1\nallow all\ncmdport 0\nbindaddress 198.51.100.2\npidfile /srv/clock/server.pid\n' >/srv/clock/server.conf
printf 'server 198.51.100.2 iburst minpoll 0 maxpoll 0\nport 0\nbindcmdaddress 127.0.0.1\nbindcmdaddress /\npidfile /srv/clock/client.pid\n' >/srv/clock/client.conf
systemd-run --quiet --unit clock-server chronyd -x -U -d -u root -f /srv/clock/server.conf
systemd-run --quiet --unit clock chronyd -x -U -d -u root -f /srv/clock/client.conf
export MESHCTL_HOME=/srv/mesh
meshctl init --mesh example --san 198.51.100.1 --shared 192.0.2.53 --url https://198.51.100.1:8444/
meshctl member add tyo1 --admin 198.51.100.7:8443
printf 'releases: {every: 1s}\nserve: {listen: "198.51.100.1:8444"}\n' >/srv/mesh/meshctl.yaml
chown -R meshctl: /srv/mesh
tar -C /etc/mesh -xf /srv/mesh/members/tyo1.tar
systemd-tmpfiles --create
systemctl enable --now meshctl-serve coredns anycast-sidecar
printf '$ORIGIN example.org.\n$TTL 60\n@ SOA ns1 hostmaster 1 3600 900 1209600 300\n@ NS ns1\n@ NS ns.elsewhere.example.\nns1 A 192.0.2.53\n' >/tmp/example.org.zone
chmod 644 /tmp/example.org.zone
cd /tmp && runuser -u meshctl -- meshctl --home /srv/mesh release --now /tmp/example.org.zone
`

const announced = "anycast-sidecar status /etc/mesh/sidecar.yaml"

// testSystemd: under systemd as process 1 the units start, and are ready when they say so; what dies or hangs is started again;
// a reload keeps the process; the sidecar stops before CoreDNS does; dpkg upgrades without a restart, and without losing the floor.
func testSystemd(t *testing.T, out string) {
	var packages []string
	for name := range names {
		first := filepath.Join(out, name+"_1.0.0_"+runtime.GOARCH+".deb")
		second := filepath.Join(t.TempDir(), name+"_1.1.0_"+runtime.GOARCH+".deb")
		lab.Must(t, os.Rename(newer(t, first), second))
		packages = append(packages, first, second)
	}
	b := boot(t, packages...)
	b.must(meshOfOne)
	b.await(announced, "tyo1: announced")
	for _, unit := range []string{"meshctl-serve", "coredns", "anycast-sidecar"} {
		if state := b.show(unit, "ActiveState"); state != "active" || b.show(unit, "NRestarts") != "0" {
			t.Errorf("%s is %s, after %s restarts", unit, state, b.show(unit, "NRestarts"))
		}
	}

	for _, unit := range []string{"coredns", "anycast-sidecar"} {
		before := b.show(unit, "MainPID")
		b.must("kill -KILL " + before)
		b.await("systemctl show -p NRestarts -p SubState "+unit, "NRestarts=1\nSubState=running")
	}
	b.await(announced, "tyo1: announced")

	before := b.show("anycast-sidecar", "MainPID")
	b.must("systemctl reload anycast-sidecar")
	if now := b.show("anycast-sidecar", "MainPID"); now != before {
		t.Errorf("a reload started another process: %s, %s", before, now)
	}
	b.must("kill -STOP " + before) // it hangs, and the watchdog ends it
	b.await("systemctl show -p NRestarts -p SubState anycast-sidecar", "NRestarts=2\nSubState=running")
	if said := b.must("journalctl --no-pager -u anycast-sidecar"); !strings.Contains(said, "Watchdog timeout") {
		t.Errorf("not by the watchdog:\n%s", said)
	}
	b.await(announced, "tyo1: announced")

	pids := b.must("systemctl show --value -p MainPID coredns anycast-sidecar meshctl-serve")
	b.must("dpkg --force-depends --install /srv/given/*_1.1.0_*.deb")
	if now := b.must("systemctl show --value -p MainPID coredns anycast-sidecar meshctl-serve"); now != pids {
		t.Errorf("an upgrade restarted something: %s, %s", pids, now)
	}
	floor := b.must("cd /var/lib/mesh/state && cat *")
	b.must("anycast-sidecar drain /etc/mesh/sidecar.yaml --wait 0s --why upgrade && systemctl restart coredns anycast-sidecar && anycast-sidecar undrain /etc/mesh/sidecar.yaml")
	b.await(announced, "tyo1: announced")
	if said := b.must("journalctl --no-pager -u anycast-sidecar"); !strings.Contains(said, "ends for a restart") {
		t.Errorf("the sidecar was not told that it is restarted (RestartKillSignal=):\n%s", said)
	}
	if now := b.must("cd /var/lib/mesh/state && cat *"); now != floor || floor == "" {
		t.Errorf("the state was %q and is %q", floor, now)
	}

	// As at a shutdown: all that the target does not want is stopped together.
	b.must("printf '[Unit]\\nAllowIsolate=yes\\nRequires=sysinit.target\\n' >/run/systemd/system/nothing.target && systemctl daemon-reload && systemctl isolate nothing.target")
	b.await("systemctl show -p ActiveState coredns", "inactive")
	var sidecar, coredns int64
	fmt.Sscan(b.show("anycast-sidecar", "InactiveEnterTimestampMonotonic"), &sidecar)
	fmt.Sscan(b.show("coredns", "ActiveExitTimestampMonotonic"), &coredns)
	if sidecar == 0 || coredns < sidecar {
		t.Errorf("CoreDNS began to stop at %d µs, before the sidecar had, at %d µs: answers went before the route", coredns, sidecar)
	}
	b.must("systemctl start coredns meshctl-serve && systemctl is-active coredns meshctl-serve")
	b.must("dpkg --remove coredns-anycast anycast-sidecar meshctl")
	if said, _ := b.try("systemctl is-active coredns anycast-sidecar meshctl-serve"); strings.Contains(said+"\n", "\nactive\n") || strings.HasPrefix(said, "active") {
		t.Errorf("after the removal:\n%s", said)
	}
	if now := b.must("cd /var/lib/mesh/state && cat *"); now != floor {
		t.Errorf("after the removal the state is %q", now)
	}
}
