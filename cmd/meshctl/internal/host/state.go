package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

const stateFormat = 1

// maxStateBytes bounds state.json and an entry of the journal's head: some promises and numbers.
const maxStateBytes = 1 << 20

// State is what the distribution host must not forget, beside what it published: one JSON object.
//
//	{"format":1,"highest":8,"lease_seconds":86400,"promises":[
//	  {"number":8,"switchover":"2026-11-22T10:00:00Z","expires":"2026-11-23T10:00:00Z"}]}
type State struct {
	Format       int       `json:"format"`
	Highest      uint64    `json:"highest"`       // highest release number ever published: never used again
	LeaseSeconds int64     `json:"lease_seconds"` // length of a lease
	Promises     []Promise `json:"promises"`      // leases that may still be alive somewhere, by what they name
}

// Promise is the latest end of all leases that were signed under one schedule. It is durable before the lease leaves.
type Promise struct {
	Number     uint64    `json:"number"`              // the next release that they name; 0 for none
	Switchover time.Time `json:"switchover,omitzero"` // its switchover; zero for none
	Expires    time.Time `json:"expires"`
}

// keepPromises is how long after its end a promise is still remembered, in case this host's clock was ahead.
const keepPromises = 24 * time.Hour

// promise notes that a lease was signed under the schedule of m.
func (s State) promise(m release.Manifest, expires, now time.Time) State {
	made := Promise{Expires: expires}
	if m.Next != nil {
		made.Number, made.Switchover = m.Next.Number, m.Next.Switchover
	}
	kept := slices.DeleteFunc(slices.Clone(s.Promises), func(p Promise) bool {
		if p.Number == made.Number && p.Switchover.Equal(made.Switchover) {
			made.Expires = latest(made.Expires, p.Expires)
			return true
		}
		return p.Expires.Before(now.Add(-keepPromises))
	})
	s.Promises = append(kept, made)
	return s
}

// LatestWithout is E*: the latest end of any lease ever signed that does not name number and switchover. A switchover
// not chosen yet, zero, is named by none.
func (s State) LatestWithout(number uint64, switchover time.Time) time.Time {
	var end time.Time
	for _, p := range s.Promises {
		if switchover.IsZero() || p.Number != number || !p.Switchover.Equal(switchover) {
			end = latest(end, p.Expires)
		}
	}
	return end
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Lease is the length of a lease.
func (s State) Lease() time.Duration { return time.Duration(s.LeaseSeconds) * time.Second }

func readState(home string) (State, error) {
	data, err := depot.ReadFile(filepath.Join(home, stateDir), stateName, maxStateBytes)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := decodeStrict(data, &s); err != nil {
		return State{}, fmt.Errorf("%s: %w", stateName, err)
	}
	if s.Format != stateFormat {
		return State{}, fmt.Errorf("%s: format %d, this version reads %d", stateName, s.Format, stateFormat)
	}
	return s, nil
}

func (h *Host) writeState(s State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return depot.WriteFile(h.path(stateDir), stateName, append(data, '\n'), 0o600)
}

func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("something follows the JSON value")
	}
	return nil
}
