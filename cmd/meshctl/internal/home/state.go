package home

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Formats of the state. The older one is read, and replaced with the next publication.
const (
	stateFormat    = 3
	oldStateFormat = 2
)

// maxStateBytes bounds state.json: what was published, and some promises and events.
const maxStateBytes = release.MaxMemoryBytes + 1<<20

// State is what the distribution hosts of a mesh must not forget: one JSON object, replaced as a whole, which is the one
// instant at which a publication is decided. It holds no secret.
//
//	{"format":3,"lease_seconds":86400,"highest":8,"at_ns":1795341600000000000,
//	 "leases":[{"number":8,"at_ns":1795341610000000000,"expires_ns":1795428000000000000}],
//	 "events":[{"at":"2026-11-22T09:00:00Z","event":"released","number":8}],
//	 "published":{"format":1,"root":"eyJz…","timestamp":"eyJz…",…}}
type State struct {
	Format       int   `json:"format"`
	LeaseSeconds int64 `json:"lease_seconds"` // length of a lease
	mesh.Ledger
	Departed []release.Member `json:"departed,omitempty"` // members that were removed and may not know: see Ledger.Leaving
	Events   []Event          `json:"events"`             // what was done, the latest last
	Signed   []Signed         `json:"signed,omitempty"`   // of the releases that are published, if their zones are in files of the repository

	// Published is what the repository holds, or is about to: whoever sees that something of it is missing puts it there.
	Published release.Memory `json:"published"`
}

// Signed is when the first signatures of a release's zones end. No lease goes beyond that, also while a file is damaged that names the zone.
type Signed struct {
	Number uint64    `json:"number"`
	Zone   string    `json:"zone"`
	Ends   time.Time `json:"ends"`
}

// signedIn is what there is to be known so of a manifest's releases.
func signedIn(m release.Manifest) (all []Signed) {
	for r := range m.Releases() {
		if zone, ends := r.SignedUntil(); r.Zones == nil && !ends.IsZero() {
			all = append(all, Signed{r.Number, zone, ends})
		}
	}
	return all
}

// restored is what is published, by release.Restore. Where zones are not known, what the state knows of them counts.
func (s State) restored(nodes fs.FS) (release.View, release.Memory, error) {
	view, mem, err := release.Restore(s.Published, nodes)
	if release.OfZones(err) {
		for _, k := range s.Signed {
			view.Manifest = view.Manifest.SignedAt(k.Number, k.Zone, k.Ends)
		}
	}
	return view, mem, err
}

// Event is something that was done.
type Event struct {
	At         time.Time `json:"at"`
	Event      string    `json:"event"`
	Number     uint64    `json:"number,omitempty"`
	Switchover time.Time `json:"switchover,omitzero"`
	Detail     string    `json:"detail,omitempty"`
	Host       string    `json:"host,omitempty"` // the machine that did it
}

// keepEvents and keepDetail bound the events that are remembered, and the bytes of what each has to say.
const (
	keepEvents = 1000
	keepDetail = 512
)

// note adds an event.
func (s State) note(e Event, at time.Time) State {
	e.At = at.UTC().Truncate(time.Microsecond)
	e.Host, _ = os.Hostname()
	e.Detail = strings.ToValidUTF8(e.Detail[:min(len(e.Detail), keepDetail)], "")
	s.Events = append(slices.Clone(s.Events[max(0, len(s.Events)+1-keepEvents):]), e)
	return s
}

// Lease is the length of a lease.
func (s State) Lease() time.Duration { return time.Duration(s.LeaseSeconds) * time.Second }

func readState(home string, from storage) (State, depot.Tag, error) {
	data, tag, err := from.records.Read(stateName, maxStateBytes)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := from.repo.Tag(release.TimestampName); err == nil {
			return State{}, "", hint.Errorf("restore it, from a copy that is no older than the last publication", "%s of the mesh in %s is lost", stateName, home)
		}
		return State{}, "", noMesh(home)
	}
	if err != nil {
		return State{}, "", err
	}
	s, err := decodeState(data)
	if err != nil {
		return State{}, "", fmt.Errorf("%s: %w", stateName, err)
	}
	if err := s.Published.Validate(); err != nil {
		return State{}, "", fmt.Errorf("%s: %w", stateName, err)
	}
	return s, tag, nil
}

// decodeState reads a state of either format.
func decodeState(data []byte) (State, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return State{}, err
	}
	switch head.Format {
	case stateFormat:
		var s State
		err := decodeStrict(data, &s)
		return s, err
	case oldStateFormat:
		return decodeOldState(data)
	}
	return State{}, fmt.Errorf("format %d, this version reads %d and %d", head.Format, oldStateFormat, stateFormat)
}

// decodeOldState reads a state of the version before.
func decodeOldState(data []byte) (State, error) {
	var old struct {
		Format       int    `json:"format"`
		Highest      uint64 `json:"highest"`
		LeaseSeconds int64  `json:"lease_seconds"`
		Promises     []struct {
			Number     uint64    `json:"number"`
			Switchover time.Time `json:"switchover,omitzero"`
			Expires    time.Time `json:"expires"`
		} `json:"promises"`
		Events    []Event        `json:"events"`
		Published release.Memory `json:"published"`
	}
	if err := decodeStrict(data, &old); err != nil {
		return State{}, err
	}
	s := State{Format: stateFormat, LeaseSeconds: old.LeaseSeconds, Events: old.Events, Published: old.Published}
	s.Highest = old.Highest
	for _, p := range old.Promises {
		s.Leases = append(s.Leases, mesh.Lease{Number: p.Number, At: instant.WallOf(p.Switchover), Expires: instant.WallOf(p.Expires)})
	}
	return s, nil
}

// encode is the file.
func (s State) encode() ([]byte, error) {
	data, err := json.Marshal(s)
	if err == nil && len(data) >= maxStateBytes {
		err = fmt.Errorf("%s: %d bytes, more than %d", stateName, len(data), maxStateBytes)
	}
	return append(data, '\n'), err
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
