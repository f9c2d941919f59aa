package clock

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// daemon is a chronyd of this test.
type daemon struct {
	*os.Process
	command netip.AddrPort // its command port
	port    netip.AddrPort // its NTP port, if it serves
}

// chronyd starts a real one that steers nothing (-x), with its command port on a free port of 127.0.0.1, until t ends.
func chronyd(t *testing.T, config string) *daemon {
	t.Helper()
	binary := testenv.Need(t, "chronyd")[0]
	dir := t.TempDir()
	command := freePort(t)
	file := filepath.Join(dir, "chrony.conf")
	config += fmt.Sprintf("\ncmdport %d\nbindcmdaddress 127.0.0.1\nbindcmdaddress /\npidfile %s/pid\n", command.Port(), dir)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-x", "-U", "-d", "-f", file}
	if os.Geteuid() == 0 {
		args = append(args, "-u", "root") // else it would give up root, and with it the test's directory
	}
	cmd := exec.Command(binary, args...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("chronyd said:\n%s\n%s", config, data)
		}
	})
	return &daemon{Process: cmd.Process, command: command}
}

// serving is a chronyd that answers NTP on a port of address.
func serving(t *testing.T, address, config string) *daemon {
	port := freePort(t)
	d := chronyd(t, fmt.Sprintf("port %d\nbindaddress %s\nallow 127.0.0.0/8\n%s", port.Port(), address, config))
	d.port = netip.AddrPortFrom(netip.MustParseAddr(address), port.Port())
	return d
}

// of is a line of chronyd's configuration that has it follow a server.
func of(server netip.AddrPort, options ...string) string {
	return fmt.Sprintf("server %s port %d iburst minpoll 0 maxpoll 0 %s\n", server.Addr(), server.Port(), strings.Join(options, " "))
}

// falsetickers counts the servers that d takes for wrong ones.
func (d *daemon) falsetickers() int {
	out, _ := exec.Command("chronyc", "-c", "-n", "-h", "127.0.0.1", "-p", fmt.Sprint(d.command.Port()), "sources").Output()
	return strings.Count("\n"+string(out), "\n^,x,")
}

func freePort(t *testing.T) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(testenv.Port(t)))
}
