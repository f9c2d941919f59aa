package page

import (
	"errors"
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// noon is when the meshes of these tests are looked at.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// story is a mesh that is made up.
type story struct {
	Document
	made time.Time // of the current release
}

// cities are the names of the first members; the others are numbered.
var cities = []string{"fra", "osa", "tyo", "ams", "nyc", "sjc", "sin", "gru", "jnb", "syd", "lhr", "cdg"}

// newStory is a mesh with so many members that all do well, after 20 releases.
func newStory(members int) *story {
	s := &story{made: noon.Add(-26 * time.Minute)}
	s.Reader = Reader{"noc", identity.Observer}
	s.Status = unattended.Status{Mesh: "jp", At: noon, EpsilonMS: 100, LeaseExpires: noon.Add(23*time.Hour + 12*time.Minute),
		Current: &unattended.ReleaseStatus{Number: 42, Switchover: s.made.Add(9 * time.Second), Zones: unattended.ZonesOf(&release.Release{Zones: []release.Zone{
			{Origin: "example.org.", Serial: 2026112207}, {Origin: "example.net.", Serial: 77}, {Origin: "jp.", Serial: 1764500000}}})}}
	for i := range members {
		name := fmt.Sprintf("%s%d", cities[i%len(cities)], i/len(cities)+1)
		if members <= len(cities) {
			name = cities[i]
		}
		s.Status.Members = append(s.Status.Members, unattended.MemberStatus{Name: name, Admin: fmt.Sprintf("https://[2001:db8:0:%x::53]:8443", i+1),
			Confirmation: s.good(name, i)})
	}
	for n := range 20 {
		s.History = append(s.History, s.record(uint64(42-n), n, s.made.Add(-time.Duration(n*n)*7*time.Minute)))
	}
	return s
}

func (s *story) good(name string, i int) *status.Confirmation {
	at := func(d time.Duration) instant.Wall { return instant.WallOf(s.made.Add(d)) }
	fetched := 400*time.Millisecond + time.Duration(i*37%211)*3*time.Millisecond
	loaded := fetched + 300*time.Millisecond + time.Duration(i*53%197)*5*time.Millisecond
	return &status.Confirmation{Version: status.Version, Node: name, Mesh: "jp", At: instant.WallOf(noon), Serving: 42, Floor: 42,
		Confirms: status.Confirms{Staged: 42}, Clock: status.ClockState{Known: true, Bound: 180*time.Microsecond + time.Duration(i*i%17)*41*time.Microsecond, Source: "chrony"},
		LeaseExpires: instant.WallOf(s.Status.LeaseExpires), Software: "coredns-anycast 1.4.0", ConfigDigest: "5f1d7a84db00d2fce00b31a7fc73224f", Announced: true, Remains: true,
		Why:      []status.Reason{{Code: gate.Ready, Detail: "the service is good"}},
		Sessions: []status.Session{{Neighbor: fmt.Sprintf("2001:db8:0:%x::1", i+1), State: "established", BFD: "up", Announced: []string{"192.0.2.0/24", "2001:db8:53::/48"}}},
		Mirrored: &status.Step{Number: 42, Began: at(200 * time.Millisecond), Done: at(fetched), Bytes: 48_213},
		Compiled: &status.Step{Number: 42, Began: at(fetched), Done: at(loaded)},
		Switched: &status.Switched{Number: 42, At: at(9 * time.Second), Done: at(9*time.Second + s.late(42, i)), Lateness: s.late(42, i)}}
}

// late is how late a member switches.
func (s *story) late(number uint64, i int) time.Duration {
	return time.Duration(35+(i*i*7+int(number)*13)%61+i%3*9) * time.Microsecond
}

func (s *story) record(number uint64, n int, made time.Time) history.Record {
	r := history.Record{Number: number, Made: made, By: "meshctl serve on dist1", Began: made.Add(-60 * time.Millisecond), Published: made.Add(150 * time.Millisecond),
		Scheduled: made.Add(2 * time.Second), Switchover: made.Add(9 * time.Second),
		Zones:    []history.ZoneChange{{Origin: "example.org.", From: uint32(2026112206 - n), To: uint32(2026112207 - n), Added: 4 + n%5, Removed: 2 + n%3}},
		Received: []history.Receipt{{Zone: "example.org.", How: receive.IXFR, From: "198.51.100.10:53", Octets: 812, Began: made.Add(-700 * time.Millisecond), Whole: made.Add(-640 * time.Millisecond), Kept: made.Add(-600 * time.Millisecond)}},
		Timing:   []history.Step{{Name: "read", Seconds: .008}, {Name: "checked", Seconds: .021}, {Name: "signed and published", Seconds: .15}}}
	if n%4 == 1 {
		r.Zones = append(r.Zones, history.ZoneChange{Origin: "jp.", From: uint32(1764499999 - n), To: uint32(1764500000 - n), Added: 212, Removed: 198})
		r.Switchover = r.Switchover.Add(time.Duration(n) * 700 * time.Millisecond)
	}
	for i, m := range s.Status.Members {
		c := *m.Confirmation
		shift := made.Sub(s.made)
		move := func(step *status.Step) *history.Span {
			return &history.Span{Began: step.Began.Time().Add(shift), Done: step.Done.Time().Add(shift + time.Duration(n*83%7)*90*time.Millisecond), Bytes: step.Bytes}
		}
		one := history.Result{Member: m.Name, Switched: true, Lateness: s.late(number, i), Mirrored: move(c.Mirrored), Compiled: move(c.Compiled)}
		r.Results = append(r.Results, one)
	}
	if n == 6 && len(r.Results) > 1 {
		r.Results[1] = history.Result{Member: r.Results[1].Member, Why: "it is silent: clock-unknown: no lease can be judged"}
	}
	return r
}

// member is one of the story's, by number.
func (s *story) member(i int) *unattended.MemberStatus { return &s.Status.Members[i] }

// silent has a member fall silent for want of a clock.
func (s *story) silent(i int) *story {
	c := s.member(i).Confirmation
	c.Serving, c.Silent = 0, []status.Reason{{Code: mesh.ClockUnknown, Detail: "chronyd has had no source for 25 minutes"}}
	c.Clock = status.ClockState{Reason: "no source of time is reachable"}
	c.Announced, c.Remains = false, false
	c.Why = []status.Reason{{Code: gate.MeshsyncSilent, Detail: "meshsync is silent: clock-unknown"}}
	c.Sessions[0].Announced = nil
	return s
}

// alarm adds one.
func (s *story) alarm(code, detail string) *story {
	s.Status.Alarms = append(s.Status.Alarms, unattended.AlarmOf(status.Reason{Code: code, Detail: detail}))
	return s
}

// gone has a member give no answer.
func (s *story) gone(i int) *story {
	m := s.member(i)
	m.Confirmation, m.Error = nil, fmt.Sprintf("Get %q: dial tcp: %v", m.Admin+"/v1/confirmations", errors.New("connect: no route to host"))
	return s
}

// staged stages release 43, whose switchover is proposed or committed for a moment from now.
func (s *story) staged(in time.Duration, committed bool) *story {
	s.Status.Next = &unattended.ReleaseStatus{Number: 43, Switchover: noon.Add(in), Committed: committed, Zones: s.Status.Current.Zones}
	s.made = noon.Add(-4 * time.Second)
	r := s.record(43, -1, s.made)
	r.Results, r.Switchover, r.Scheduled = nil, time.Time{}, time.Time{}
	s.History = append([]history.Record{r}, s.History...)
	for i, m := range s.Status.Members {
		c := m.Confirmation
		if c == nil {
			continue
		}
		fresh := s.good(m.Name, i)
		c.Mirrored, c.Compiled = fresh.Mirrored, fresh.Compiled
		c.Mirrored.Number, c.Compiled.Number, c.Confirms.Staged = 43, 43, 43
	}
	return s
}

// loading has a member still make the staged release ready.
func (s *story) loading(i int) *story {
	c := s.member(i).Confirmation
	c.Confirms.Staged, c.Compiled = 42, nil
	c.Compiling = &status.Compiling{Number: 43, Zones: 2, Of: 3, Records: 812_400, Octets: 31 << 20, OfAll: 48 << 20, Began: instant.WallOf(noon.Add(-2 * time.Second)), Seconds: 2}
	return s
}

// drained takes a member out of service.
func (s *story) drained(i int) *story {
	c := s.member(i).Confirmation
	c.Drained, c.Announced, c.Remains, c.Sessions[0].Announced = true, false, false, nil
	c.Why = []status.Reason{{Code: gate.Drained, Detail: "by noc since 2026-11-22T11:00:00Z: new disk"}}
	return s
}

// behind has a member answer from the release before.
func (s *story) behind(i int) *story {
	s.member(i).Confirmation.Serving = 41
	return s
}

// leaseEnded has the lease be over.
func (s *story) leaseEnded() *story {
	s.Status.LeaseExpires = noon.Add(-time.Minute)
	return s
}
