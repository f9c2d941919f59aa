package main

import (
	"errors"
	"slices"
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

// apart calls f while a node and the bystander, started anew, have processor 0 for themselves, and all else that was started has processor 1,
// this process too. This process, which is the clients, comes before the others there: their machines are not those of a primary or of other
// nodes either.
func (m *large) apart(node string, f func() error) error {
	serial, err := m.serial()
	if err != nil {
		return err
	}
	m.stop(node)
	m.stop(bystander)
	if err := onCPU(0, func() error { return errors.Join(m.startNode(node), m.startBystander()) }); err != nil {
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
	if err := m.place(&other, node, bystander); err != nil {
		return err
	}
	return errors.Join(onCPU(1, func() error {
		schedule := func(policy, priority uint32) {
			// Where it is forbidden, the log says how many questions were late.
			_ = eachThread("self", func(id int) error { return realTime(id, policy, priority) })
		}
		schedule(unix.SCHED_RR, 1)
		defer schedule(unix.SCHED_NORMAL, 0)
		return f()
	}), m.place(&both))
}

// realTime has a thread of this process scheduled so, and none that it starts: programs are to be as they are everywhere.
func realTime(thread int, policy, priority uint32) error {
	return unix.SchedSetAttr(thread, &unix.SchedAttr{Policy: policy, Priority: priority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0)
}

// place gives all processes that were started some processors, but those of some hosts.
func (m *large) place(to *unix.CPUSet, but ...string) error {
	placed := map[int]bool{} // by group
	for name, p := range m.running {
		host, _, _ := strings.Cut(name, "/")
		placed[p.Pid()] = !slices.Contains(but, host)
	}
	var failed error
	err := eachProcess(func(pid string, group int, _ time.Duration) {
		if placed[group] {
			failed = errors.Join(failed, pinThreads(pid, to))
		}
	})
	return errors.Join(err, failed)
}
