package receive

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// TestSaysHowMuchHasCome, while a primary sends: how many records, and how many there were last time. Of differences nobody
// can say how many there will be.
func TestSaysHowMuchHasCome(t *testing.T) {
	for _, c := range []struct {
		name     string
		held     string // the zone that is here already; "": none
		begin    string // the first records after the SOA
		expected int
		records  int
	}{
		{"whole, and new here", "", "", 0, 2},
		{"differences", "4", "4", 0, 4},
		{"whole, for differences", "4", "", 3, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.held != "" {
				old := primarytest.NewFake(t, nil, func(a *primarytest.Request) {
					a.Send(true, primarytest.SOA(c.held), primarytest.Second, primarytest.Third, primarytest.SOA(c.held))
				})
				old.Serial = c.held
				round(t, following(netip.AddrPort{}, []xfr.Primary{{Address: old.At}}, "example.org."), dir, RefreshOptions{})
			}
			rest := make(chan bool)
			f := primarytest.NewFake(t, nil, func(a *primarytest.Request) {
				if c.begin == "" {
					a.Send(true, primarytest.First, primarytest.Second)
					<-rest
					a.Send(true, primarytest.Third, primarytest.First)
					return
				}
				a.Send(true, primarytest.First, primarytest.SOA(c.begin), primarytest.First, primarytest.RR("n.example.org. 300 IN A 192.0.2.2"))
				<-rest
				a.Send(true, primarytest.First)
			})
			r, told, _ := receiver(t, following(netip.AddrPort{}, []xfr.Primary{{Address: f.At}}, "example.org."), dir)
			lab.WaitFor(t, "records come", func() bool { return len(r.Coming()) > 0 })
			if got := r.Coming(); len(got) != 1 || got[0].What != "example.org." || got[0].Records != c.records || got[0].Expected != c.expected || got[0].Began.IsZero() {
				t.Errorf("%+v", got)
			}
			close(rest)
			u := told.next(t)
			for ; u.How == Kept; u = told.next(t) {
			}
			if u.Serial != 5 {
				t.Fatalf("%+v", u)
			}
			lab.WaitFor(t, "nothing comes", func() bool { return len(r.Coming()) == 0 })
		})
	}
}

// TestSaysHowMuchOfAFileWasRead.
func TestSaysHowMuchOfAFileWasRead(t *testing.T) {
	dir, zones := t.TempDir(), t.TempDir()
	path := filepath.Join(zones, "example.org.zone")
	write := func(serial uint32) {
		if err := os.WriteFile(path, []byte(primarytest.ZoneText("example.org.", serial, 200_000, 0)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	c, err := FromDirectory(zones)
	if err != nil {
		t.Fatal(err)
	}
	r, told, _ := receiver(t, c, dir)
	seen := make(chan Coming, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			for _, coming := range r.Coming() {
				if coming.Expected > 0 {
					seen <- coming
					return
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	had := told.next(t).Records
	write(2)
	select {
	case coming := <-seen:
		if coming.What != path || coming.Expected != had || coming.Records > had+1 {
			t.Errorf("%+v of %d records", coming, had)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the file is read, and nobody says so")
	}
}
