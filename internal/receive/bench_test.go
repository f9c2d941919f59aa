package receive

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// BenchmarkAMillionNamesAndAHundredChanged is what it costs to receive a change of a hundred names of a zone of a million by IXFR, from
// the question to what is durable: processor time in all of the process, that of the primary, which is small, included.
func BenchmarkAMillionNamesAndAHundredChanged(b *testing.B) {
	const names, changed = 1_000_000, 100
	a := func(i, variant int) dns.RR {
		return primarytest.RR(fmt.Sprintf("host-%d.example.org. 300 IN A 10.%d.%d.%d", i, variant%250, i%250, i/250%250))
	}
	serial := 1
	f := primarytest.NewFake(b, nil, func(q *primarytest.Request) {
		now := primarytest.SOA(fmt.Sprint(serial))
		if q.Query.Question[0].Qtype == dns.TypeIXFR {
			records := []dns.RR{now, primarytest.SOA(fmt.Sprint(serial - 1))}
			for i := range changed {
				records = append(records, a(i*9_973, serial-1))
			}
			records = append(records, now)
			for i := range changed {
				records = append(records, a(i*9_973, serial))
			}
			q.Send(false, append(records, now)...)
			return
		}
		records := []dns.RR{now, primarytest.Second, primarytest.Third}
		for i := range names {
			if records = append(records, a(i, 1)); len(records) == 500 {
				q.Send(false, records...)
				records = nil
			}
		}
		q.Send(false, append(records, now)...)
	})
	f.Serial = "1"
	dir := b.TempDir()
	told := make(updates, 10)
	c := following(netip.AddrPort{}, []xfr.Primary{{Address: f.At}}, "example.org.")
	r, err := New(c, Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state"), Updated: func(u Update) { told <- u }})
	if err != nil {
		b.Fatal(err)
	}
	go r.Run(b.Context())
	select {
	case <-told:
	case <-time.After(5 * time.Minute):
		b.Fatal("nothing came")
	}
	var cpu, wall time.Duration
	for b.Loop() {
		lab.WaitFor(b, "the round is over", func() bool { return !strings.Contains(fmt.Sprint(r.Zones()[0].Receiving), "true") })
		serial++
		f.Serial = fmt.Sprint(serial)
		time.Sleep(time.Second) // two rounds that NOTIFY begins are so far apart
		used, began := processor(b), time.Now()
		r.do(func(now instant.Instant) { r.set.Notified(now, "example.org.") })
		select {
		case u := <-told:
			if u.How != IXFR || int(u.Serial) != serial {
				b.Fatalf("%+v", u)
			}
		case <-time.After(time.Minute):
			b.Fatal("nothing came")
		}
		cpu, wall = cpu+processor(b)-used, wall+time.Since(began)
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(wall.Milliseconds())/float64(b.N), "wall-ms/op")
	b.ReportMetric(0, "ns/op")
}

// processor is what the process has used of it.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
