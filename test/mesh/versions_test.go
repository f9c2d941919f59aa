package mesh_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// versionBefore is the commit that CHANGELOG.md calls the version before.
const versionBefore = "b99954f"

// TestVersions runs this version and the version before in one mesh, in both orders, while clients ask every node all the time.
// No answer is of a release that it is not the time of (I1, I2), and nobody is silent who is not being upgraded (I4, I5).
//
//   - Nodes first, as docs/operate/upgrade.md has it: the host of the version before makes a switchover after each, and then the
//     new one does.
//   - The host first: it makes no switchover and says which members keep it from that, until all are upgraded.
func TestVersions(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	old := buildVersionBefore(t)
	t.Run("nodes first", func(t *testing.T) {
		t.Parallel()
		v := newUpgrades(t, old)
		defer v.watch()()
		for _, node := range v.nodes {
			v.upgrade(node)
			v.switches("--in", "10s")
		}
		v.upgradeHost()
		v.switches()
		v.switches()
		v.judge()
	})
	t.Run("the host first", func(t *testing.T) {
		t.Parallel()
		v := newUpgrades(t, old)
		defer v.watch()()
		v.switches("--in", "10s")
		v.upgradeHost()
		v.meshctl("lease") // in the format before
		for _, node := range v.nodes {
			v.awaitFresh(node)
		}
		v.release()
		for i, node := range v.nodes {
			v.refuses(v.nodes[i:])
			v.upgrade(node)
		}
		v.schedule()
		v.switches()
		v.judge()
	})
}

// buildVersionBefore builds the programs of the version before from the repository's history, and returns their directory.
func buildVersionBefore(t *testing.T) string {
	t.Helper()
	top := testenv.Top(t)
	if _, err := os.Stat(filepath.Join(top, ".git")); err != nil {
		t.Skip("these sources have no history, of which the version before is built: clone them")
	}
	testenv.Need(t, "git", "tar")
	git := func(args ...string) ([]byte, error) {
		cmd := exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...) // whoever owns the clone
		cmd.Dir = top
		return cmd.CombinedOutput()
	}
	if out, err := git("cat-file", "-e", versionBefore+"^{commit}"); err != nil {
		t.Skipf("the history here does not go back to the version before, commit %s: clone it whole, without --depth: %v\n%s", versionBefore, err, out)
	}
	source, bin := t.TempDir(), t.TempDir()
	if out, err := git("archive", "--output", filepath.Join(source, "before.tar"), versionBefore); err != nil {
		t.Fatalf("the version before: %v\n%s", err, out)
	}
	run := func(argv ...string) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building the version before: %v\n%s", err, out)
		}
	}
	run("tar", "xf", "before.tar")
	for name, dir := range map[string]string{"coredns": "./cmd/coredns", "meshctl": "./cmd/meshctl", "anycast-sidecar": "./sidecar"} {
		run("go", "build", "-o", filepath.Join(bin, name), dir)
	}
	lab.Must(t, os.Chmod(bin, 0o755))
	return bin
}

// upgrades is a mesh that begins with all programs of the version before.
type upgrades struct{ *judged }

func newUpgrades(t *testing.T, old string) *upgrades {
	m := meshOf(newWorld(t), "tyo", "osa", "fra")
	m.bins = map[string]string{"dist": old}
	for _, node := range m.nodes {
		m.bins[node] = old
	}
	m.machines()
	m.startTime()
	m.init()
	v := &upgrades{newJudged(m)}
	v.startHost()
	for _, node := range m.nodes {
		m.startNode(node)
	}
	m.firstRelease()
	v.ask()
	return v
}

func (v *upgrades) startHost() {
	v.serve = v.start("dist", "serve", v.program("dist", "meshctl"), "--home", v.path("home"), "serve", "--listen", "198.51.100.1:8443", "--renew", "1m")
}

// switches makes a release, and switches to it.
func (v *upgrades) switches(how ...string) {
	v.t.Helper()
	v.release()
	for _, node := range v.nodes {
		v.awaitStaged(node, v.number)
	}
	v.say("switches to %d", v.number)
	v.meshctl(append([]string{"schedule"}, how...)...)
	for _, node := range v.nodes {
		v.awaitServing(node, v.number)
	}
}

// upgrade ends both programs of a node, and starts those of this version.
func (v *upgrades) upgrade(node string) {
	v.t.Helper()
	v.say("%s is upgraded", node)
	t := v.touches(node)
	v.coredn[node].Kill()
	v.side[node].Kill()
	delete(v.bins, node)
	ended := time.Now()
	v.startSidecar(node)
	v.startCoreDNS(node)
	v.awaitAnswers(node, 1, ended)
	t.ends()
}

// upgradeHost does the same to the distribution host, which touches no node.
func (v *upgrades) upgradeHost() {
	v.t.Helper()
	v.say("the host is upgraded")
	v.serve.Kill()
	delete(v.bins, "dist")
	v.startHost()
}

// refuses sees that no switchover is proposed, and that all members of the version before are named.
func (v *upgrades) refuses(old []string) {
	v.t.Helper()
	v.eventually(60*time.Second, fmt.Sprintf("a switchover is refused for %v, and for nothing else", old), func() (bool, string) {
		said, err := v.run("dist", v.program("dist", "meshctl"), "--home", v.path("home"), "schedule", "--wait", "0s")
		return err != nil && strings.Count(said, "old-format") == len(old) && strings.Count(said, "\n  ") == len(old) &&
			!strings.Contains(said, "unreachable"), fmt.Sprint(said, err)
	})
}
