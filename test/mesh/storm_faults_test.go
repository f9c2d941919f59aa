package mesh_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// stormFault is one thing that goes wrong.
type stormFault struct {
	what         string
	nodes        []string // that it touches
	strike, lift func()
}

// draw chooses the next fault, of a kind that was not there since all kinds were. It depends on the seed and on nothing else.
func (s *storm) draw() stormFault {
	i := s.random.IntN(len(s.nodes))
	node, other := s.nodes[i], s.nodes[(i+1+s.random.IntN(len(s.nodes)-1))%len(s.nodes)]
	kinds := []func() stormFault{
		func() stormFault { return s.kill("coredns of "+node, node, s.coredn, s.startCoreDNS) },
		func() stormFault { return s.kill("the sidecar of "+node, node, s.side, s.startSidecar) },
		func() stormFault { return stormFault{"serve is killed", nil, func() { s.serve.Kill() }, s.startServe} },
		func() stormFault { return s.powerCut(node) },
		func() stormFault { return stands("coredns of "+node, s.coredn[node], node) },
		func() stormFault { return stands("the sidecar of "+node, s.side[node], node) },
		func() stormFault { return stands("serve", s.serve) },
		func() stormFault { return s.cut(node, "dist", node) },
		func() stormFault { return s.cut(node, other, node, other) },
		func() stormFault { return s.full(node) },
		func() stormFault { return s.readOnly(node) },
		func() stormFault { return s.damage(node) },
		func() stormFault { return s.wrongClock(node) },
	}
	if len(s.kinds) == 0 {
		s.kinds = s.random.Perm(len(kinds))
	}
	kind := s.kinds[0]
	s.kinds = s.kinds[1:]
	return kinds[kind]()
}

func (s *storm) kill(what, node string, of map[string]*lab.Process, start func(node string)) stormFault {
	return stormFault{what + " is killed", []string{node}, func() { of[node].Kill() }, func() { start(node) }}
}

// powerCut ends all that runs on a node but its clock.
func (s *storm) powerCut(node string) stormFault {
	return stormFault{node + " loses power", []string{node}, func() { s.coredn[node].Kill(); s.side[node].Kill() }, func() { s.startEnded(node) }}
}

// startEnded does what the supervisor of a node does.
func (s *storm) startEnded(node string) {
	if !s.side[node].Alive() {
		s.startSidecar(node)
	}
	if !s.coredn[node].Alive() {
		s.startCoreDNS(node)
	}
}

func stands(what string, p *lab.Process, touches ...string) stormFault {
	return stormFault{what + " stands still", touches, func() { p.Signal(syscall.SIGSTOP) }, func() { p.Signal(syscall.SIGCONT) }}
}

// cut lets packets between two hosts get lost: both ways, or one way only.
func (s *storm) cut(at, other string, touches ...string) stormFault {
	const table = "add table inet cut; "
	out := "add chain inet cut out { type filter hook output priority 0; }; add rule inet cut out ip daddr " + s.admin(other) + " drop; "
	in := "add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in ip saddr " + s.admin(other) + " drop; "
	way := s.random.IntN(3)
	return stormFault{fmt.Sprintf("nothing gets from %s", []string{at + " to " + other, other + " to " + at, at + " to " + other + " and back"}[way]), touches,
		func() { s.mustRun(at, "nft", table+[]string{out, in, out + in}[way]) },
		func() { s.mustRun(at, "nft", "delete table inet cut") }}
}

// disks are the directories in which a node keeps what it must not lose, each on a disk of its own.
func (m *mesh) disks(node string) []string {
	return []string{m.path(node, "mesh"), m.path(node, "sidecar")}
}

func (m *mesh) mountDisks(node string) {
	m.must(m.places[node].OwnMounts())
	for _, dir := range m.disks(node) {
		m.mountDisk(node, dir)
	}
}

// mountDisk puts a small disk in the place of a directory of a node, which has mounts of its own.
func (m *mesh) mountDisk(node, dir string) {
	m.must(os.MkdirAll(dir, 0o755))
	m.must(m.places[node].Do(func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m") }))
}

// full fills the node's disks to the last octet.
func (s *storm) full(node string) stormFault {
	return stormFault{"the disks of " + node + " are full", []string{node},
		func() { s.fill(node, s.disks(node)...) }, func() { s.clear(node, s.disks(node)...) }}
}

const filler = "filler"

// fill leaves no room in directories of a node.
func (m *mesh) fill(node string, dirs ...string) {
	for _, dir := range dirs {
		m.must(m.places[node].Do(func() error { return fill(filepath.Join(dir, filler)) }))
	}
}

// clear makes room again.
func (m *mesh) clear(node string, dirs ...string) {
	for _, dir := range dirs {
		m.must(m.places[node].Do(func() error { return os.Remove(filepath.Join(dir, filler)) }))
	}
}

func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return err
		}
	}
	return nil
}

// remount changes how the disks of a node are mounted.
func (m *mesh) remount(node string, flags uintptr, dirs ...string) {
	for _, dir := range dirs {
		m.must(m.places[node].Do(func() error { return unix.Mount("", dir, "", unix.MS_REMOUNT|flags, "") }))
	}
}

// readOnly is a node that restarts and finds its disks read-only: the kernel makes none so that has a file open for writing.
func (s *storm) readOnly(node string) stormFault {
	return stormFault{node + " restarts with read-only disks", []string{node}, func() {
		s.coredn[node].Kill()
		s.side[node].Kill()
		s.remount(node, unix.MS_RDONLY, s.disks(node)...)
		s.startEnded(node)
	}, func() {
		s.remount(node, 0, s.disks(node)...)
		s.startEnded(node)
	}}
}

// damage changes files of the node's copy of the repository, and of what the mirror remembers there of what it verified.
func (s *storm) damage(node string) stormFault {
	choices := []uint64{s.random.Uint64(), s.random.Uint64(), s.random.Uint64()}
	how := s.random.IntN(3)
	return stormFault{fmt.Sprintf("files of %s are %s", node, []string{"changed", "cut off", "empty"}[how]), []string{node}, func() {
		s.must(s.places[node].Do(func() error {
			files, err := filesBelow(s.path(node, "mesh", "repository"))
			for _, c := range choices {
				if err == nil && len(files) > 0 {
					file := files[c%uint64(len(files))]
					err = spoil(file, how)
					s.say("  %s", strings.TrimPrefix(file, s.dir))
				}
			}
			return err
		}))
	}, func() {}}
}

// spoil changes an octet of a file, takes its second half away, or all of it.
func spoil(file string, how int) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is replaced right now
	}
	if err != nil {
		return err
	}
	switch {
	case how == 0 && len(data) > 0:
		data[len(data)/2] ^= 1
	case how == 1:
		data = data[:len(data)/2]
	default:
		data = nil
	}
	return os.WriteFile(file, data, 0o644)
}

func filesBelow(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, path)
		}
		return err
	})
	slices.Sort(files)
	return files, err
}

// wrongClock lets a node's chronyd find that its clock is off, by less than what the mesh allows or by more.
func (s *storm) wrongClock(node string) stormFault {
	offset := float64(20+s.random.IntN(300)) / 1000
	if s.random.IntN(2) == 0 {
		offset = -offset
	}
	return stormFault{fmt.Sprintf("chronyd of %s finds its clock off by %v s", node, offset), []string{node}, func() {
		s.chrony[node].Kill()
		s.chrony[node] = s.chronyd(node, "chronyd", fmt.Sprintf("server 198.51.100.2 iburst minpoll 0 maxpoll 0 offset %v\nbindcmdaddress 127.0.0.1\n", offset))
	}, func() {
		s.chrony[node].Kill()
		s.startClock(node)
	}}
}
