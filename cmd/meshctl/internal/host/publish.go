package host

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// How long the word of each role lasts. The lease is the operator's choice.
const (
	rootYears    = 10
	releaseYears = 1
)

// WarnBefore is how long before the end of the root's or the release key's word it is time to act.
const WarnBefore = 90 * 24 * time.Hour

// ends is when what is signed at now for a lease of length d ends; the lease ends with the first role.
func ends(now time.Time, d time.Duration, root time.Time) release.Expiries {
	year := now.AddDate(releaseYears, 0, 0)
	e := release.Expiries{Root: root, Targets: year, Snapshot: year, Timestamp: now.Add(d)}
	e.Timestamp = e.Earliest()
	return e
}

// publish signs m with a new lease, and puts it in force.
func (h *Host) publish(m release.Manifest, event Event) error {
	return h.publishBefore(time.Time{}, m, event)
}

// errTooLate says that a publication was given up, since signing took until after its time.
var errTooLate = errors.New("signing took too long")

// publishBefore is publish, unless the time has come when all is signed, which takes seconds for 100,000 zones. A zero
// time never comes.
func (h *Host) publishBefore(end time.Time, m release.Manifest, event Event) error {
	keys, err := readKeys(h.home, "release", "lease")
	if err != nil {
		return err
	}
	e := ends(h.clock(), h.state.Lease(), h.view.Expires.Root)
	files, mem, err := release.Publish(h.mem, m, keys.Signers(), e)
	if err != nil {
		return err
	}
	promised := h.promised(mem, m)
	if !end.IsZero() && !h.clock().Before(end) {
		return errTooLate
	}
	if err := h.commit(promised, files); err != nil {
		return err
	}
	return h.note(event)
}

// promised is the state once the lease that mem holds has left.
func (h *Host) promised(mem release.Memory, m release.Manifest) State {
	view, err := release.Restore(mem)
	if err != nil {
		panic(fmt.Sprintf("what was verified a moment ago does not verify: %v", err))
	}
	s := h.state.promise(m, view.LeaseExpires, h.clock())
	for _, r := range []*release.Release{m.Current, m.Next} {
		if r != nil {
			s.Highest = max(s.Highest, r.Number)
		}
	}
	return s
}

// Lease renews the lease for d, or for its usual length if d is 0, and puts a switchover that has passed on record if the
// release key is at hand: an emergency lease needs the lease key only. It returns when the lease ends, which is no later
// than the word of any other role.
func (h *Host) Lease(d time.Duration) (time.Time, error) {
	if d == 0 {
		d = h.state.Lease()
	}
	if err := checkLease(d); err != nil {
		return time.Time{}, err
	}
	folded, err := h.Settle()
	if err != nil && !errors.Is(err, errKeyAway) || folded && d == h.state.Lease() {
		return h.view.LeaseExpires, err
	}
	keys, err := readKeys(h.home, "lease")
	if err != nil {
		return time.Time{}, err
	}
	until := h.view.Expires
	until.Timestamp = h.clock().Add(d)
	files, mem, err := release.Renew(h.mem, keys.Signers().Lease, until.Earliest())
	if err != nil {
		return time.Time{}, err
	}
	err = h.commit(h.promised(mem, h.view.Manifest), files)
	return h.view.LeaseExpires, err
}

// MaxLease bounds a lease: what is beyond the release key's word would be cut anyway.
const MaxLease = 365 * 24 * time.Hour

func checkLease(d time.Duration) error {
	if d < time.Second || d > MaxLease {
		return fmt.Errorf("a lease is 1s to %v, not %v", MaxLease, d)
	}
	return nil
}

// Settle makes the next release the current one once its switchover has passed by the clock of every member, and
// reports whether it did. Members have switched by themselves; this only tidies, so that another release can be next.
func (h *Host) Settle() (bool, error) {
	next := h.view.Manifest.Next
	if !Settled(h.view.Manifest, h.clock()) {
		return false, nil
	}
	m := h.view.Manifest
	m.Current, m.Next = next, nil
	err := h.publish(m, Event{Event: "settled", Number: next.Number, Switchover: next.Switchover})
	return err == nil, err
}

// Settled reports whether the next release's switchover has passed for everyone: this host and a member may each be
// wrong by ε, and a member that reads of a current release whose instant lies ahead is silent until then.
func Settled(m release.Manifest, now time.Time) bool {
	return m.Next != nil && !m.Next.Switchover.IsZero() && now.After(m.Next.Switchover.Add(2*m.Epsilon()))
}

// errKeyAway is wrapped when a private key is not where it is looked for.
var errKeyAway = errors.New("key is not there")

// readKeys reads the private keys named; the others stay nil.
func readKeys(home string, names ...string) (release.Keys, error) {
	var keys release.Keys
	for name, key := range map[string]*ed25519.PrivateKey{"root": &keys.Root, "release": &keys.Release, "lease": &keys.Lease} {
		if !slices.Contains(names, name) {
			continue
		}
		data, err := depot.ReadFile(filepath.Join(home, keysDir), name+".pem", 16<<10)
		if errors.Is(err, fs.ErrNotExist) {
			return keys, hint("put it back for this command; it may be kept offline otherwise", "%s %w: %s", name, errKeyAway, filepath.Join(home, keysDir))
		}
		if err == nil {
			*key, err = release.ParseKey(data)
		}
		if err != nil {
			return keys, fmt.Errorf("%s key: %w", name, err)
		}
	}
	return keys, nil
}

// Event is a line of events.jsonl.
type Event struct {
	At         time.Time `json:"at"`
	Event      string    `json:"event"`
	Number     uint64    `json:"number,omitempty"`
	Switchover time.Time `json:"switchover,omitzero"`
	Detail     string    `json:"detail,omitempty"`
}

// note records what was done. It comes after the deed and is not part of it: a crash in between loses the line only.
func (h *Host) note(e Event) error {
	e.At = h.clock().UTC().Truncate(time.Microsecond)
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(h.path(stateDir, eventsName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
