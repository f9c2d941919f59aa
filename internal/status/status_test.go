package status

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// full has a value in every field.
func full() Node {
	ref := &Ref{Number: 2, At: 7}
	return Node{Version: Version, Node: "tyo", Mesh: "jp", Software: "1.0", ConfigDigest: "9f", At: 1,
		Serving: 1, Silent: []Reason{{"a", "b"}}, Zones: []Zone{{"example.org.", 3}}, ZonesDigest: "ab", ZonesChange: &ZonesChange{"cd", []Zone{{"example.org.", 3}}, []string{"example.net."}},
		Switched: &Switched{Number: 1, At: 2, Done: 3, Lateness: 4}, Staged: 2, Promise: Promise{2, 7, Proposed}, Asks: true, Floor: 1, LeaseExpires: 9, Compiled: &Step{Number: 2, Began: 3, Done: 4},
		Clock: ClockState{Known: true, Bound: 1, Source: "chrony", Assumed: true, Reason: "x"},
		Depot: Depot{Lease: 4, LastFault: &Fault{"f", "torn", "d", 5}, Faults: map[string]uint64{"torn": 1}}, Format: 2,
		Refused: []Refused{{3, Reason{"digest", "d"}}}, Confirms: Confirms{Staged: 2, Scheduled: ref}}
}

// The documents are a contract between processes of different versions: their shape is written down.
func TestShape(t *testing.T) {
	sample := instant.Sample{At: instant.Instant{Wall: 1, Mono: 2}, Bound: 3, DriftPPM: 50, Source: "chrony"}
	for _, c := range []struct {
		name string
		doc  any
		want string
	}{
		{"node", full(), `{"version":1,"node":"tyo","mesh":"jp","software":"1.0","config_digest":"9f","at_ns":1,"serving":1,` +
			`"silent":[{"code":"a","detail":"b"}],"zones":[{"origin":"example.org.","serial":3}],"zones_digest":"ab","zones_change":{"from":"cd","put":[{"origin":"example.org.","serial":3}],"gone":["example.net."]},` +
			`"switched":{"number":1,"at_ns":2,"done_ns":3,"lateness_ns":4},"staged":2,` +
			`"compiled":{"number":2,"began_ns":3,"done_ns":4},"promise":{"number":2,"at_ns":7,"state":"proposed"},"asks":true,"floor":1,"lease_expires_ns":9,"clock":{"known":true,"bound_ns":1,"source":"chrony","assumed":true,"reason":"x"},` +
			`"depot":{"lease":4,"last_fault":{"file":"f","rule":"torn","detail":"d","at_ns":5},"faults":{"torn":1}},"format":2,` +
			`"refused":[{"number":3,"reason":{"code":"digest","detail":"d"}}],` +
			`"confirms":{"staged":2,"scheduled":{"number":2,"at_ns":7}}}`},
		{"node that knows nothing", Node{Version: Version}, `{"version":1,"node":"","mesh":"","software":"","config_digest":"",` +
			`"at_ns":0,"serving":0,"floor":0,"clock":{"known":false,"bound_ns":0},"depot":{"lease":0},"confirms":{}}`},
		{"clock", Clock{Version: Version, State: "holdover", Reason: "r", Sample: sample}, `{"version":1,"state":"holdover",` +
			`"reason":"r","sample":{"at":{"wall_ns":1,"mono_ns":2},"bound_ns":3,"drift_ppm":50,"source":"chrony"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := json.Marshal(c.doc)
			if err != nil {
				t.Fatal(err)
			}
			if string(data) != c.want {
				t.Errorf("got  %s\nwant %s", data, c.want)
			}
			back := reflect.New(reflect.TypeOf(c.doc))
			if err := Decode(data, back.Interface()); err != nil || !reflect.DeepEqual(back.Elem().Interface(), c.doc) {
				t.Errorf("came back as %+v, %v", back.Elem(), err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":          {"", "not JSON"},
		"torn":             {`{"version":1,"node":"t`, "not JSON"},
		"another value":    {`{"version":1} {}`, "not JSON"},
		"no version":       {`{"node":"tyo"}`, "no version"},
		"a newer version":  {`{"version":2}`, "upgrade the older one"},
		"an older version": {`{"version":0}`, "upgrade the older one"},
		"another type":     {`{"version":1,"node":7}`, "cannot unmarshal"},
		"too large":        {strings.Repeat(" ", MaxBytes+1), "at most"},
	} {
		if err := Decode([]byte(c.text), &Node{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// A newer node may say more than this one knows.
func TestDecodeTakesUnknownFields(t *testing.T) {
	var n Node
	if err := Decode([]byte(`{"version":1,"node":"tyo","mood":"good"}`), &n); err != nil || n.Node != "tyo" {
		t.Errorf("%+v, %v", n, err)
	}
}

// What the distribution host hears is what the node said.
func TestConfirmationOf(t *testing.T) {
	n := full()
	c := ConfirmationOf(n)
	want := Confirmation{Version: Version, Node: n.Node, Mesh: n.Mesh, At: n.At, Confirms: n.Confirms, Serving: n.Serving,
		Silent: n.Silent, Switched: n.Switched, Compiled: n.Compiled, Floor: n.Floor, Clock: n.Clock, Promise: n.Promise, Holds: &Ref{2, 7}, Lease: 4, Format: 2, LeaseExpires: n.LeaseExpires, Refused: n.Refused,
		LastFault: n.Depot.LastFault, Software: n.Software, ConfigDigest: n.ConfigDigest}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// The largest mesh that a manifest may name fits into a document.
func TestLargestDocumentFits(t *testing.T) {
	n := full()
	n.Zones = make([]Zone, 100_000)
	for i := range n.Zones {
		n.Zones[i] = Zone{Origin: strings.Repeat("x", 250) + ".", Serial: 1<<32 - 1}
	}
	data, err := json.Marshal(n)
	if err != nil || len(data) > MaxBytes {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := Decode(data, &Node{}); err != nil {
		t.Error(err)
	}
}

// A node that made no switch at the instant has no lateness: one of 0 would be the best there is.
func TestLate(t *testing.T) {
	at := instant.Wall(1e18)
	for _, c := range []struct {
		name   string
		s      *Switched
		number uint64
		late   time.Duration
		ok     bool
	}{
		{"in time", &Switched{Number: 2, At: at, Done: at + 42_000, Lateness: 42 * time.Microsecond}, 2, 42 * time.Microsecond, true},
		{"another release", &Switched{Number: 1, At: at, Done: at + 42_000, Lateness: 42 * time.Microsecond}, 2, 0, false},
		{"just started", &Switched{Number: 2, Done: at}, 2, 0, false},
		{"minutes later", &Switched{Number: 2, At: at, Done: at + instant.Wall(2*time.Minute)}, 2, 0, false},
		{"nothing said", nil, 2, 0, false},
	} {
		if late, ok := c.s.Late(c.number); late != c.late || ok != c.ok {
			t.Errorf("%s: %v, %v", c.name, late, ok)
		}
	}
}

// TestZonesChange: what is put and what is gone makes of a list the other one, wherever in it that is, and leaves the list as it was.
func TestZonesChange(t *testing.T) {
	list := func(zones ...string) (all []Zone) {
		for i := 0; i < len(zones); i += 2 {
			serial, err := strconv.ParseUint(zones[i+1], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, Zone{zones[i], uint32(serial)})
		}
		return all
	}
	before := list("b.", "1", "d.", "1", "f.", "1")
	for name, c := range map[string]struct {
		change ZonesChange
		want   []Zone
	}{
		"nothing":          {ZonesChange{}, before},
		"first and last":   {ZonesChange{Put: list("a.", "9", "g.", "9")}, list("a.", "9", "b.", "1", "d.", "1", "f.", "1", "g.", "9")},
		"between":          {ZonesChange{Put: list("c.", "9", "e.", "9")}, list("b.", "1", "c.", "9", "d.", "1", "e.", "9", "f.", "1")},
		"other serials":    {ZonesChange{Put: list("b.", "2", "f.", "2")}, list("b.", "2", "d.", "1", "f.", "2")},
		"gone":             {ZonesChange{Gone: []string{"b.", "f."}}, list("d.", "1")},
		"gone and put":     {ZonesChange{Put: list("a.", "9", "d.", "2"), Gone: []string{"b.", "c."}}, list("a.", "9", "d.", "2", "f.", "1")},
		"all gone":         {ZonesChange{Gone: []string{"b.", "d.", "f."}}, []Zone{}},
		"all in one place": {ZonesChange{Put: list("c.", "9", "ca.", "9", "cb.", "9")}, list("b.", "1", "c.", "9", "ca.", "9", "cb.", "9", "d.", "1", "f.", "1")},
	} {
		if got := c.change.Of(before); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if !slices.Equal(before, list("b.", "1", "d.", "1", "f.", "1")) {
			t.Fatalf("%s: the list is %v", name, before)
		}
	}
	if got := (&ZonesChange{Put: before}).Of(nil); !slices.Equal(got, before) {
		t.Errorf("of none: %v", got)
	}
}

// TestCut: a text of another program is bounded, and stays UTF-8 if it is.
func TestCut(t *testing.T) {
	for _, text := range []string{"", "x", strings.Repeat("x", MaxText), strings.Repeat("é", MaxText/2)} {
		if got := Cut(text); got != text {
			t.Errorf("of %d octets %d are left", len(text), len(got))
		}
	}
	for _, part := range []string{"x", "é", "…", "😀", "\x80", "\xff"} {
		for before := range 5 {
			text := strings.Repeat("x", before) + strings.Repeat(part, MaxText+1)
			got := Cut(text)
			if kept, cut := strings.CutSuffix(got, "…"); !cut || !strings.HasPrefix(text, kept) || len(got) > MaxText || len(got) <= MaxText-2*utf8.UTFMax || utf8.ValidString(got) != utf8.ValidString(text) {
				t.Errorf("%q after %d octets: %d octets, ending in %q", part, before, len(got), got[len(got)-8:])
			}
		}
	}
}
