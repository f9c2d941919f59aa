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
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

const stateFormat = 2

// maxStateBytes bounds state.json: what was published, and some promises and events.
const maxStateBytes = release.MaxMemoryBytes + 1<<20

// State is what the distribution hosts of a mesh must not forget: one JSON object, replaced as a whole, which is the one
// instant at which a publication is decided. It holds no secret.
//
//	{"format":2,"highest":8,"lease_seconds":86400,"promises":[
//	  {"number":8,"switchover":"2026-11-22T10:00:00Z","expires":"2026-11-23T10:00:00Z"}],
//	 "events":[{"at":"2026-11-22T09:00:00Z","event":"released","number":8}],
//	 "published":{"format":1,"root":"eyJz…","timestamp":"eyJz…",…}}
type State struct {
	Format       int       `json:"format"`
	Highest      uint64    `json:"highest"`       // highest release number ever published: never used again
	LeaseSeconds int64     `json:"lease_seconds"` // length of a lease
	Promises     []Promise `json:"promises"`      // leases that may still be alive somewhere, by what they name
	Events       []Event   `json:"events"`        // what was done, the latest last

	// Published is what the repository holds, or is about to: whoever sees that something of it is missing puts it there.
	Published release.Memory `json:"published"`
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
	var s State
	if err := decodeStrict(data, &s); err != nil {
		return State{}, "", fmt.Errorf("%s: %w", stateName, err)
	}
	if s.Format != stateFormat {
		return State{}, "", fmt.Errorf("%s: format %d, this version reads %d", stateName, s.Format, stateFormat)
	}
	if err := s.Published.Validate(); err != nil {
		return State{}, "", fmt.Errorf("%s: %w", stateName, err)
	}
	return s, tag, nil
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
