package clock

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// daemon is a chronyd of this test.
type daemon struct {
	*lab.Process
	command netip.AddrPort // its command port
	port    netip.AddrPort // its NTP port, if it serves
}

// chronyd starts a real one, with its command port on a free port of 127.0.0.1, until t ends.
func chronyd(t *testing.T, config string) *daemon {
	t.Helper()
	dir, command := t.TempDir(), testenv.Local(t)
	config += fmt.Sprintf("\ncmdport %d\nbindcmdaddress 127.0.0.1\nbindcmdaddress /\n", command.Port())
	argv := lab.Chronyd(t, testenv.Need(t, "chronyd")[0], dir, "chrony", config)
	return &daemon{Process: lab.Start(t, lab.Command{Argv: argv, Log: filepath.Join(dir, "log")}), command: command}
}

// serving is a chronyd that answers NTP on a port of address.
func serving(t *testing.T, address, config string) *daemon {
	port := testenv.Local(t)
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
