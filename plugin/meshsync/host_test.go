package meshsync

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// warning is the detail of a node's warning of a code; empty if there is none.
func warning(s *status.Node, code string) string {
	for _, r := range s.Warnings {
		if r.Code == code {
			return r.Detail
		}
	}
	return ""
}

// TestARefusedCorefileIsAWarning runs CoreDNS as it is shipped, and breaks its Corefile: the node answers on, and says until the
// Corefile is right again that, and why, it would not start again. CoreDNS itself tells a Corefile that is none from one that fails.
func TestARefusedCorefileIsAWarning(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	must(t, mkdir(dir))
	path, shown, port := filepath.Join(dir, "Corefile"), filepath.Join(dir, "m.sock"), testenv.Port(t)
	good := fmt.Sprintf("example.org:%d {\n bind 127.0.0.1\n reload 2s 1s\n meshsync %s {\n repository %s\n root %s\n clock assume 1ms\n status unix://%s\n}\n}\n",
		port, dir, h.repo.Path(), h.root, shown)
	put := func(text string) { must(t, os.WriteFile(path, []byte(text), 0o640)) }
	put(good)
	var log strings.Builder
	cmd := exec.Command(filepath.Join(testenv.Build(t, "cmd/coredns"), "coredns"), "-conf", path)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if n := strings.Count(log.String(), "WARNING] plugin/meshsync: "+status.CorefileRefused); n != 3 || t.Failed() {
			t.Errorf("%d warnings of three Corefiles in the log:\n%s", n, log.String())
		}
	})
	says := func(words string) {
		t.Helper()
		var said status.Node
		lab.Eventually(t, func() error {
			said = status.Node{}
			if err := socket.Read(context.Background(), shown, &said); err != nil {
				return err
			}
			if got := warning(&said, status.CorefileRefused); (got == "") != (words == "") || !strings.Contains(got, words) || said.Serving != 1 {
				return fmt.Errorf("serving %d, warning %q, want %q", said.Serving, got, words)
			}
			return nil
		})
	}
	says("")
	put(strings.Replace(good, "clock assume", "nonsense\n clock assume", 1))
	says(path + `:7 - Error during parsing: unknown property "nonsense"`)
	put(good)
	says("")
	put("import nowhere.conf\n" + good) // what plugin reload does not even try
	says("nowhere.conf")
	put("# as before\n" + good) // and so this is no reload
	says("")
	put(strings.Replace(good, "assume 1ms", "assume 1", 1))
	says("clock")
	put(strings.Replace(good, "assume 1ms", "assume 2ms", 1))
	says("")
}

// TestAStateDirectoryThatIsReadOnlyIsAWarning or full, while nothing needs to be written there.
func TestAStateDirectoryThatIsReadOnlyIsAWarning(t *testing.T) {
	dir, h := nodeDir(t)
	disk := smallDisk(t)
	h.current(1, h.zones(1))
	conf := newConfig(dir, h)
	conf.dir, conf.tend = disk, 50*time.Millisecond
	n := startNode(t, conf)
	n.becomes(1)
	says := func(words string) {
		t.Helper()
		n.waits("a warning of "+words, func(s *status.Node) bool {
			got := warning(s, status.StateUnwritable)
			return s.Serving == 1 && (got == "") == (words == "") && strings.Contains(got, words)
		})
	}
	says("")
	state := filepath.Join(disk, "state")
	again := readOnly(t, state)
	says(state + ": read-only file system")
	again()
	says("")
	fill(t, filepath.Join(disk, "full"))
	says("no space left on device")
	must(t, os.Remove(filepath.Join(disk, "full")))
	says("")
	if left, _ := filepath.Glob(filepath.Join(state, ".tmp-*")); len(left) > 1 {
		t.Errorf("left behind: %v", left)
	}
}
