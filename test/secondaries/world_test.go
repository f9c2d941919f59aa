// Package secondaries_test runs real name servers as secondaries of a real node. The whole test runs in a network
// namespace of its own, in which nothing but loopback exists.
package secondaries_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// inside is set in the process that runs in the namespace.
const inside = "SECONDARIES_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // the tests say what they lack
	}
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// again runs this program in a network namespace that ends with it.
func again() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		fmt.Fprintln(os.Stderr, "a network namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, s := range secondaries { // BIND listens on addresses that an interface has, not on all of 127/8
		addr, err := netlink.ParseAddr(s.addr + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(lo)
}

// start runs a program until it is killed or the test ends.
func start(t *testing.T, name string, argv ...string) *lab.Process {
	t.Helper()
	p := lab.Start(t, lab.Command{Name: name, Argv: argv, Log: filepath.Join(t.TempDir(), "log")})
	t.Cleanup(p.Stop)
	return p
}
