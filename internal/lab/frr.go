package lab

import (
	"os"
	"path/filepath"
)

// FRRDir is where Debian keeps the daemons of FRR, of which one has the name of OpenBGPD's.
const FRRDir = "/usr/lib/frr"

// frrOrder is that in which the daemons start: bgpd asks bfdd at its own start.
var frrOrder = []string{"zebra", "bfdd", "ospfd", "ospf6d", "isisd", "bgpd"}

// frrReady are the sockets to be waited for before the next daemon starts.
var frrReady = map[string]string{"zebra": "zserv.api", "bfdd": "bfdd.vty"}

// StartFRR starts zebra and those daemons of FRR that have a configuration, in a run directory of their own, which is made
// anew. They give up root: the directories above it must be open to all. start starts each where it is to run.
func StartFRR(t T, run string, conf map[string]string, start func(name string, argv ...string) *Process) (all []*Process) {
	t.Helper()
	Must(t, os.RemoveAll(run))
	Must(t, os.MkdirAll(run, 0o755))
	Must(t, os.Chmod(run, 0o777))
	for _, name := range frrOrder {
		text, ok := conf[name]
		if name == "zebra" {
			text, ok = "hostname zebra\n", true
		}
		if !ok {
			continue
		}
		argv := []string{filepath.Join(FRRDir, name), "-f", Write(t, filepath.Join(run, name+".conf"), text), "-i", filepath.Join(run, name+".pid"),
			"-z", filepath.Join(run, "zserv.api"), "--vty_socket", run, "--log", "stdout"}
		if name == "bfdd" {
			argv = append(argv, "--bfdctl", filepath.Join(run, "bfdd.sock"))
		}
		all = append(all, start(name, argv...))
		if socket := frrReady[name]; socket != "" {
			WaitFor(t, name+"'s socket", func() bool { _, err := os.Stat(filepath.Join(run, socket)); return err == nil })
		}
	}
	return all
}
