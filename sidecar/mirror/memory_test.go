package mirror

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// damages are what becomes of a file. Each is of a file that holds a memory.
var damages = map[string]func(t *testing.T, file string){
	"empty":        func(t *testing.T, file string) { lab.Must(t, os.WriteFile(file, nil, 0o600)) },
	"torn":         func(t *testing.T, file string) { lab.Must(t, os.Truncate(file, size(t, file)/2)) },
	"nothing said": func(t *testing.T, file string) { lab.Must(t, os.WriteFile(file, []byte("{}"), 0o600)) },
	"lost":         func(t *testing.T, file string) { lab.Must(t, os.Remove(file)) },
	"unreadable": func(t *testing.T, file string) {
		lab.Must(t, os.Remove(file))
		lab.Must(t, syscall.Mkfifo(file, 0o600))
	},
	"flipped in a signature":   func(t *testing.T, file string) { flip(t, file, `"timestamp":"`, 200) },
	"flipped in what is known": func(t *testing.T, file string) { flip(t, file, `"digest":"`, 3) },
	"flipped in a number":      func(t *testing.T, file string) { flip(t, file, `"current":`, 0) },
	"flipped in the root":      func(t *testing.T, file string) { flip(t, file, `"root":"`, 100) },
	"flipped at the end":       func(t *testing.T, file string) { flip(t, file, "}\n", 1) },
}

func size(t *testing.T, file string) int64 {
	info, err := os.Stat(file)
	lab.Must(t, err)
	return info.Size()
}

// flip changes one bit, so far behind a word.
func flip(t *testing.T, file, after string, octets int) {
	data, err := os.ReadFile(file)
	lab.Must(t, err)
	i := strings.LastIndex(string(data), after)
	if i < 0 {
		t.Fatalf("%s has no %s", file, after)
	}
	i += octets
	if after != "}\n" {
		i += len(after)
	}
	data[i] ^= 1
	lab.Must(t, os.WriteFile(file, data, 0o600))
}

// Whatever damage is done to one of the two files that hold what a mirror has verified, while it runs or while it does not, it goes
// on by itself, writes the file anew, and refuses a repository that is replayed as before (SYNC-G).
func TestOneDamagedMemoryHealsItself(t *testing.T) {
	ca := testca.New(t)
	for name, damage := range damages {
		for _, file := range []string{memoryFile, copyFile} {
			for _, restarted := range []bool{true, false} {
				t.Run(name+" "+file+map[bool]string{true: ", then started"}[restarted], func(t *testing.T) {
					h := newHost(t, ca)
					h.release(5)
					old := h.copy(ca)
					h.renew()
					h.release(6)
					m := h.mirror(ca, h.url)
					lab.Must(t, m.round(t.Context()))
					want, err := os.ReadFile(filepath.Join(m.cfg.Depot, memoryFile))
					lab.Must(t, err)
					damage(t, filepath.Join(m.cfg.Depot, file))

					m.cfg.URLs = []string{old}
					if restarted {
						m = New(m.cfg, slog.New(slog.DiscardHandler))
						m.recall()
					} else {
						m.repositories = []*repository{{url: old}}
					}
					err = m.round(t.Context())
					if rule, _ := release.RuleOf(err); rule != release.Rollback {
						t.Fatalf("a replayed repository: %v", err)
					}
					if len(m.Addresses()) != 0 || m.members.lease == 0 {
						t.Error("it does not know what was verified")
					}
					for _, f := range []string{memoryFile, copyFile} {
						got, err := os.ReadFile(filepath.Join(m.cfg.Depot, f))
						if err != nil || !bytes.HasSuffix(got, want) {
							t.Errorf("%s is not as it was: %v", f, err)
						}
					}
					m.repositories = []*repository{{url: h.url}}
					h.renew()
					lab.Must(t, m.round(t.Context()))
				})
			}
		}
	}
}

// If both files are damaged at once, the depot says what was verified; and if that is damaged as well, nothing is taken, and a
// person is told.
func TestBothMemoriesAreDamaged(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	h.release(5)
	old := h.copy(ca)
	h.release(6)
	m := h.mirror(ca, h.url)
	lab.Must(t, m.round(t.Context()))
	both := func() {
		for _, f := range []string{memoryFile, copyFile} {
			lab.Must(t, os.WriteFile(filepath.Join(m.cfg.Depot, f), []byte("{"), 0o600))
		}
		m.cfg.URLs = []string{old}
		m = New(m.cfg, slog.New(slog.DiscardHandler))
	}
	both()
	err := m.round(t.Context())
	if rule, _ := release.RuleOf(err); rule != release.Rollback {
		t.Errorf("a replayed repository: %v", err)
	}
	both()
	lab.Must(t, os.Truncate(filepath.Join(m.cfg.Depot, release.TimestampName), 10))
	for range 2 {
		err := m.round(t.Context())
		if err == nil || !strings.Contains(err.Error(), memoryFile) || !strings.Contains(err.Error(), copyFile) {
			t.Errorf("with nothing left: %v", err)
		}
	}
}

// A crash between the writes of the two files leaves the first newer: it is taken. The version before wrote no copy.
func TestTheCopyIsOlder(t *testing.T) {
	ca := testca.New(t)
	for name, spoil := range map[string]func(file string, before []byte) error{
		"by a write":  func(file string, before []byte) error { return os.WriteFile(file, before, 0o600) },
		"never there": func(file string, _ []byte) error { return os.Remove(file) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, ca)
			h.release(5)
			m := h.mirror(ca, h.url)
			lab.Must(t, m.round(t.Context()))
			file := filepath.Join(m.cfg.Depot, copyFile)
			before, err := os.ReadFile(file)
			lab.Must(t, err)
			old := h.copy(ca)
			h.renew()
			lab.Must(t, m.round(t.Context()))
			lab.Must(t, spoil(file, before))
			m.cfg.URLs = []string{old}
			m = New(m.cfg, slog.New(slog.DiscardHandler))
			err = m.round(t.Context())
			if rule, _ := release.RuleOf(err); rule != release.Rollback {
				t.Errorf("a replayed repository: %v", err)
			}
		})
	}
}
