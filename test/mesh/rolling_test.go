package mesh_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestRollingUpgrade: "meshctl member drain --all --for upgrade" sees three nodes through, each to programs of another version, by a
// command and by hand. A real router tells whose route is there: never fewer than two, and that of a node which is being upgraded
// never. It stops at what does not come back, drains none when too few would remain, and Ctrl-C takes a drain back.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	binary := testenv.Need(t, "bird", "birdc")[0]
	m, _ := newServedMesh(t, "1h", "10m", "tyo", "osa", "fra")
	r := m.startRouter(binary)
	for _, node := range m.nodes {
		m.restartSidecar(node, leaves)
	}
	r.await(m.nodes...)
	m.bins = map[string]string{}
	next := m.nextVersion("coredns", "anycast-sidecar")

	// Each command says that it runs, and waits until the test has done what it would do, or is gone.
	command := "touch " + m.path("asked") + "-$MEMBER && while [ -e " + m.path("asked") + "-$MEMBER ] && [ ! -e " + m.path("done") + "-$MEMBER ]; do sleep 0.1; done"
	roll := m.memberDrain("--all", "--for", "upgrade", "--wait", "1s", "--run", command)
	for _, node := range slices.Sorted(slices.Values(m.nodes)) {
		m.eventually(60*time.Second, node+" is to be upgraded", func() (bool, string) {
			_, err := os.Stat(m.path("asked-" + node))
			return err == nil, readFile(roll.Log)
		})
		r.await(slices.DeleteFunc(slices.Clone(m.nodes), func(one string) bool { return one == node })...)
		m.upgrade(node, next)
		m.write("done-"+node, "")
	}
	m.ends(roll, true, "tyo: in service again")
	r.await(m.nodes...)
	for _, node := range m.nodes {
		s := m.sidecarStatus(node)
		if n, _ := m.status(node); s.Software != "anycast-sidecar next" || n.Software != "next" || s.Drain != nil {
			t.Errorf("%s: %s, %s, drained %v", node, s.Software, n.Software, s.Drain)
		}
		if n := r.withdrawals(node); n != 2 {
			t.Errorf("%s was withdrawn %d times, not once in each family", node, n)
		}
	}

	hand := m.memberDrain("osa", "--for", "upgrade", "--wait", "0s")
	m.says(hand, "change it now")
	r.await("tyo", "fra")
	m.upgrade("osa", "")
	m.ends(hand, true, "osa: in service again")
	r.await(m.nodes...)

	m.ends(m.memberDrain("tyo", "--for", "restart", "--remain", "3", "--run", "true"), false, "only fra, osa would remain in service")
	m.ends(m.memberDrain("tyo", "osa", "--for", "restart", "--wait", "0s", "--run", "exit 3"), false, "exit status 3; it stays drained",
		"meshctl member undrain tyo; then go on with: meshctl member drain osa --for restart")
	r.await("osa", "fra")
	m.meshctl("member", "undrain", "tyo")
	r.await(m.nodes...)

	stopped := m.memberDrain("tyo", "--wait", "10m")
	m.says(stopped, "waiting until its routes are gone")
	stopped.Signal(syscall.SIGINT)
	m.ends(stopped, false, "interrupted; it is brought back into service")
	m.await("tyo", "tyo is not drained", func(status.Node) bool { return m.sidecarStatus("tyo").Drain == nil })
	r.await(m.nodes...)
}

// memberDrain starts the command.
func (m *mesh) memberDrain(args ...string) *lab.Process {
	m.t.Helper()
	m.drains++
	return m.start("dist", fmt.Sprintf("drain-%d", m.drains), append([]string{m.program("dist", "meshctl"), "--home", m.path("home"), "member", "drain"}, args...)...)
}

// says waits until a program that runs has said something.
func (m *mesh) says(p *lab.Process, want string) {
	m.t.Helper()
	m.eventually(60*time.Second, p.Name+" says "+want, func() (bool, string) {
		log := readFile(p.Log)
		return strings.Contains(log, want), log
	})
}

// ends waits until a program has ended, well or not, with these words.
func (m *mesh) ends(p *lab.Process, well bool, want ...string) {
	m.t.Helper()
	m.eventually(90*time.Second, p.Name+" ends", func() (bool, string) { return !p.Alive(), readFile(p.Log) })
	log := readFile(p.Log)
	if err := p.Wait(); (err == nil) != well {
		m.fatalf("%s: %v\n%s", p.Name, err, log)
	}
	for _, words := range want {
		if !strings.Contains(log, words) {
			m.errorf("%s does not say %q:\n%s", p.Name, words, log)
		}
	}
}

// nextVersion builds programs as those of another version, and returns their directory.
func (m *mesh) nextVersion(programs ...string) (dir string) {
	dir = m.path("next")
	for _, name := range programs {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "-ldflags", "-X main.version=next -X github.com/coredns-anycast/coredns-anycast/plugin/meshsync.Version=next",
			"./"+binaries.Commands[name])
		cmd.Dir = testenv.Top(m.t)
		if out, err := cmd.CombinedOutput(); err != nil {
			m.fatalf("building %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

// upgrade restarts both programs of a node from another directory.
func (m *mesh) upgrade(node, dir string) {
	m.side[node].Stop()
	m.coredn[node].Stop()
	m.bins[node] = dir
	m.startSidecar(node)
	m.startCoreDNS(node)
}
