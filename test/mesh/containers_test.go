package mesh_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Users of the containers of docs/deploy/containers.md, and the group that they share.
const userCoreDNS, userSidecar, groupMesh = 65531, 65532, 65530

// TestContainers runs the nodes of a mesh as containers, by the commands of docs/deploy/containers.md, of the image that "./build.sh image"
// makes: they announce, answer, switch, and come back when they are killed, with no privilege that they do not need.
func TestContainers(t *testing.T) {
	w := newWorld(t)
	testenv.Need(t, "podman", "runc")
	d := newDeployed(w, "tyo", "osa", "fra")
	p := newPodman(w)
	p.buildImage()
	d.found()
	d.start("dist", "serve", d.bin+"/meshctl", "--home", d.path("home"), "serve", "--listen", "198.51.100.1:8444", "--renew", "1m")
	for _, node := range d.nodes {
		p.startNode(d, node)
	}
	d.release()
	d.schedule()
	d.awaitWays("tyo", "osa", "fra")
	d.awaitAnswer("router", 1)

	for _, node := range d.nodes {
		if got, want := w.privileges(p.pid(node+"-coredns")), only(userCoreDNS, groupMesh, capNetBindService); got != want {
			t.Errorf("coredns of %s has %+v, not %+v", node, got, want)
		}
		if got, want := w.privileges(p.pid(node+"-anycast-sidecar")), only(userSidecar, groupMesh, 0); got != want {
			t.Errorf("anycast-sidecar of %s has %+v, not %+v", node, got, want)
		}
	}

	d.release()
	d.schedule()
	for _, node := range d.nodes {
		d.awaitAnswer(node, 2)
	}
	d.awaitAnswer("router", 2)

	p.run("exec", "tyo-anycast-sidecar", "anycast-sidecar", "drain", "/etc/mesh/sidecar.yaml")
	d.awaitWays("osa", "fra")
	p.run("exec", "tyo-anycast-sidecar", "anycast-sidecar", "undrain", "/etc/mesh/sidecar.yaml")
	d.awaitWays("tyo", "osa", "fra")

	// A sidecar that is killed is restarted; until it has probed the service anew, its route is gone and others answer.
	first := p.pid("osa-anycast-sidecar")
	w.kill(first, syscall.SIGKILL)
	d.awaitWays("tyo", "fra")
	d.awaitAnswer("router", 2)
	d.awaitWays("tyo", "osa", "fra")
	if again := p.pid("osa-anycast-sidecar"); again == first {
		t.Errorf("the sidecar was not restarted: still process %d", again)
	}

	// A CoreDNS that is killed is restarted, and answers from what it has on disk, though the distribution host is gone.
	d.run("dist", "ip", "link", "set", "eth0", "down")
	first = p.pid("fra-coredns")
	w.kill(first, syscall.SIGKILL)
	w.eventually(60*time.Second, "coredns of fra is restarted", func() (bool, string) {
		pid := p.pid("fra-coredns")
		return pid != 0 && pid != first, fmt.Sprint(pid)
	})
	d.awaitServing("fra", 2)
	d.awaitAnswer("fra", 2)
	d.awaitWays("tyo", "osa", "fra")

	// A container that is stopped as an operator stops it withdraws first, and ends well.
	p.run("stop", "-t", "20", "tyo-anycast-sidecar")
	d.awaitWays("osa", "fra")
	if code := p.run("inspect", "-f", "{{.State.ExitCode}}", "tyo-anycast-sidecar"); code != "0" {
		t.Errorf("the sidecar ended with status %s", code)
	}
}

// podman runs containers whose storage goes with the test.
type podman struct {
	*world
	env []string
}

// newPodman prepares it. Whatever it runs ends with the test, even if the test is killed: a process of its own waits for
// that. A container that is about to be restarted is not removed at once.
func newPodman(w *world) *podman {
	w.t.Helper()
	dir := w.path("podman")
	storage := w.write("podman/storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", dir+"/graph", dir+"/run"))
	config := w.write("podman/containers.conf", fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = %q
`, dir+"/tmp"))
	p := &podman{world: w, env: append(os.Environ(), "CONTAINERS_STORAGE_CONF="+storage, "CONTAINERS_CONF="+config)}
	sweeper := exec.Command("sh", "-c", "cat >/dev/null; for i in $(seq 20); do podman rm --all --force --time 0 && exit; sleep 0.5; done; exit 1")
	sweeper.Env = p.env
	var said bytes.Buffer
	sweeper.Stdout, sweeper.Stderr = io.Discard, &said
	sweeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := sweeper.StdinPipe() // closed with this process, if not before
	w.must(err)
	w.must(sweeper.Start())
	w.top.Cleanup(func() {
		if w.top.Failed() {
			for _, name := range strings.Fields(p.run("ps", "-a", "--format", "{{.Names}}")) {
				w.top.Logf("── log of %s\n%s", name, p.run("logs", "--tail", "40", name))
			}
		}
		alive.Close()
		if err := sweeper.Wait(); err != nil {
			w.top.Errorf("containers were left: %v\n%s", err, said.String())
		}
		// A container's monitor cleans up after it in a process of its own, which may still write to the storage that goes next.
		lab.Within(w.top, 30*time.Second, "no process has the storage", func() (bool, string) {
			left := commandsWith(dir + "/")
			return left == "", left
		})
	})
	return p
}

// commandsWith returns the command lines of all processes that have a word in them.
func commandsWith(word string) string {
	var found []string
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		text, _ := os.ReadFile(name) // a process may have ended since
		if line := strings.ReplaceAll(string(text), "\x00", " "); strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "\n")
}

// run runs podman and returns what it printed.
func (p *podman) run(args ...string) string {
	p.t.Helper()
	cmd := exec.Command("podman", args...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Errorf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// building is held by who makes the programs in bin, or an image of them.
var building sync.Mutex

func (p *podman) buildImage() {
	p.t.Helper()
	building.Lock()
	defer building.Unlock()
	cmd := exec.Command("./build.sh", "image")
	cmd.Dir, cmd.Env = testenv.Top(p.t), p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("./build.sh image: %v\n%s", err, out)
	}
}

// startNode installs a node's bundle and gives the commands of docs/deploy/containers.md for its two containers.
func (p *podman) startNode(d *deployed, node string) {
	p.t.Helper()
	etc, lib, run := d.path(node, "etc"), d.path(node, "lib"), d.path(node)
	d.unpack(node, etc)
	d.must(errors.Join(os.MkdirAll(lib, 0o755), os.Lchown(filepath.Join(etc, "bgp-secret"), userSidecar, groupMesh)))
	here := strings.NewReplacer(" /etc/mesh", " "+etc, " /var/lib/mesh", " "+lib, " /run/mesh", " "+run)
	prepare := append(documentCommands(p.t, "install -d "), documentCommands(p.t, "chown ")...)
	if len(prepare) != 7 {
		p.t.Fatalf("docs/deploy/containers.md has %d commands that prepare for containers, not 7", len(prepare))
	}
	for _, command := range prepare {
		if out, err := exec.Command("sh", "-c", here.Replace(command)).CombinedOutput(); err != nil {
			p.t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	commands := documentCommands(p.t, "podman run ")
	if len(commands) != 2 {
		p.t.Fatalf("docs/deploy/containers.md has %d commands that run containers, not 2", len(commands))
	}
	places := strings.NewReplacer("-v /etc/mesh:", "-v "+etc+":", "-v /var/lib/mesh", "-v "+lib, "-v /run/mesh:", "-v "+run+":", "--name ", "--name "+node+"-")
	for _, command := range commands {
		cmd := exec.Command("sh", "-c", places.Replace(command))
		cmd.Env = p.env
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = io.Discard, &out
		d.within(node, func() { d.must(cmd.Start()) })
		if err := cmd.Wait(); err != nil {
			p.t.Fatalf("%s: %v\n%s", cmd.Args[2], err, out.String())
		}
	}
}

// documentCommands are the commands of docs/deploy/containers.md that begin so, each on one line.
func documentCommands(t *testing.T, begin string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(strings.ReplaceAll(readFile("../../docs/deploy/containers.md"), "\\\n", "")) {
		if strings.HasPrefix(line, begin) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// pid is the container's process; 0 while it has none.
func (p *podman) pid(container string) int {
	p.t.Helper()
	pid, err := strconv.Atoi(p.run("inspect", "-f", "{{.State.Pid}}", container))
	p.must(err)
	return pid
}
