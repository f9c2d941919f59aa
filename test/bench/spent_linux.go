package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// adopt has this process take in those whose parent ends before them, so that what they spent can be read when they have ended: NSD's
// main process is another one after each reload.
func adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// groups are processes whose time is counted together, by name. Each leads a group (lab.Process), whose time is meant, with that of those
// in it that have ended.
type groups map[string][]*lab.Process

// spent is the processor time, in seconds, that they have used so far, and when that was.
func (g groups) spent() (map[string]float64, time.Time, error) {
	byGroup := map[int]time.Duration{}
	err := eachProcess(func(_ string, group int, used time.Duration) { byGroup[group] += used })
	all := map[string]float64{}
	for name, processes := range g {
		for _, p := range processes {
			all[name] += byGroup[p.Pid()].Seconds()
		}
	}
	return all, time.Now(), err
}

// memory is their proportional set size, in octets.
func (g groups) memory() (map[string]float64, error) {
	byGroup := map[int]float64{}
	err := eachProcess(func(pid string, group int, _ time.Duration) {
		byGroup[group] += kilobytes("/proc/"+pid+"/smaps_rollup", "Pss:") * 1024
	})
	all := map[string]float64{}
	for name, processes := range g {
		for _, p := range processes {
			all[name] += byGroup[p.Pid()]
		}
	}
	return all, err
}

// eachProcess calls f for each process, with its group and what it has used.
func eachProcess(f func(pid string, group int, used time.Duration)) error {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, unread := os.ReadFile(file)
		if unread != nil {
			continue // it has ended since, and was waited for
		}
		group, used, odd := usedBy(string(text))
		if odd != nil {
			return fmt.Errorf("%s: %w", file, odd)
		}
		f(filepath.Base(filepath.Dir(file)), group, used)
	}
	return err
}

// rest is how much of a processor they use when nothing happens, in a window of time.
func (g groups) rest(window time.Duration) (map[string]float64, error) {
	before, began, err := g.spent()
	if err != nil {
		return nil, err
	}
	time.Sleep(window)
	after, ended, err := g.spent()
	for name := range after {
		after[name] = (after[name] - before[name]) / ended.Sub(began).Seconds()
	}
	return after, err
}

const (
	// busy is how much of a processor a group uses, more than at rest, that has not come to rest.
	busy = 0.05
	// settleTime is how long groups may take to come to rest. What never does is measured as it is.
	settleTime = 2 * time.Minute
)

// settle waits until all are at rest, for two seconds in a row: as they were when idle, in parts of a processor, was measured.
func (g groups) settle(idle map[string]float64) error {
	quiet := 0
	for end := time.Now().Add(settleTime); quiet < 2 && time.Now().Before(end); {
		now, err := g.rest(time.Second)
		if err != nil {
			return err
		}
		quiet++
		for name := range now {
			if now[name] > 1.5*idle[name]+busy {
				quiet = 0
			}
		}
	}
	return nil
}

// tick is the unit of times in /proc/PID/stat (proc(5)).
const tick = 10 * time.Millisecond

// usedBy reads a process's group, and what it and those children that it has waited for have used: of itself by its clock, which is
// finer.
func usedBy(stat string) (group int, used time.Duration, err error) {
	id, _, _ := strings.Cut(stat, " ")
	f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // from the third field on
	if len(f) < 15 {
		return 0, 0, fmt.Errorf("%d fields in %q", len(f), stat)
	}
	numbers := map[int]int{}
	for _, i := range []int{2, 11, 12, 13, 14} { // pgrp, utime, stime, cutime, cstime
		if numbers[i], err = strconv.Atoi(f[i]); err != nil {
			return 0, 0, err
		}
	}
	pid, err := strconv.Atoi(id)
	if err != nil {
		return 0, 0, err
	}
	own := time.Duration(numbers[11]+numbers[12]) * tick
	var clock unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &clock) == nil { // clock_getcpuclockid(3)
		own = time.Duration(clock.Nano())
	}
	return numbers[2], own + time.Duration(numbers[13]+numbers[14])*tick, nil
}
