package main

import (
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// twoProcessors reports whether this process has processors 0 and 1.
func twoProcessors() (bool, error) {
	var has unix.CPUSet
	err := unix.SchedGetaffinity(0, &has)
	return has.IsSet(0) && has.IsSet(1), err
}

// apart calls f while a node, started anew, has processor 0 for itself, and all else that was started has processor 1, this process too. This
// process, which is the clients, comes before the others there: their machines are not those of a primary or of other nodes either.
func (m *large) apart(node string, f func() error) error {
	serial, err := m.serial()
	if err != nil {
		return err
	}
	m.stop(node)
	if err := onCPU(0, func() error { return m.startNode(node) }); err != nil {
		return err
	}
	if _, err := m.answered(patience(m.b.names), atNode(node), origin, serial); err != nil {
		return err
	}
	var both, other unix.CPUSet
	if err := unix.SchedGetaffinity(0, &both); err != nil {
		return err
	}
	other.Set(1)
	if err := m.place(node, &other); err != nil {
		return err
	}
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return err
	}
	schedule := func(as *unix.SchedAttr) {
		// Where it is forbidden, the log says how many questions were late.
		_ = eachThread("self", func(id int) error { return unix.SchedSetAttr(id, as, 0) })
	}
	return errors.Join(onCPU(1, func() error {
		schedule(&unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 1})
		defer schedule(was)
		return f()
	}), m.place("", &both))
}

// place gives all processes that were started some processors, but those of a node.
func (m *large) place(but string, to *unix.CPUSet) error {
	placed := map[int]bool{} // by group
	for name, p := range m.running {
		placed[p.Pid()] = but == "" || !strings.HasPrefix(name, but+"/")
	}
	var failed error
	err := eachProcess(func(pid string, group int, _ time.Duration) {
		if placed[group] {
			failed = errors.Join(failed, pinThreads(pid, to))
		}
	})
	return errors.Join(err, failed)
}
