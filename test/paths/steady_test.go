package paths

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// While releases follow one another, the Corefile is reloaded, paths change and metrics are scraped, no query is lost, and
// nobody who has seen a release sees an earlier one (SYNC-G, SYNC-H).
func TestNothingIsLostWhateverChanges(t *testing.T) {
	m := newMesh(t)
	zone := func(n uint64) release.Zone {
		return m.zone("example.org.", zoneText("example.org.")+fmt.Sprintf("which 60 IN TXT \"%d\"\n", n))
	}
	m.current(1, zone(1))
	p, scrape := port(t), port(t)
	corefile := func(path string) string {
		return fmt.Sprintf(".:%d {\n sharedunicast 127.0.0.1 {\n fastpath %s\n rrl 100000\n }\n prometheus 127.0.0.1:%d\n errors\n %s }\n", p, path, scrape, m.block())
	}
	reload := start(t, corefile("on"))
	address := fmt.Sprintf("127.0.0.1:%d", p)
	lab.Eventually(t, func() error { return hasSOA(address) })

	var asking sync.WaitGroup
	var asked, latest atomic.Uint64
	var failed sync.Map
	done := make(chan struct{})
	for i := range 6 {
		client := dns.Client{Net: []string{"udp", "udp", "tcp"}[i%3], Timeout: 10 * time.Second}
		asking.Go(func() {
			for seen := uint64(0); ; asked.Add(1) {
				select {
				case <-done:
					return
				default:
				}
				r, _, err := client.Exchange(new(dns.Msg).SetQuestion("which.example.org.", dns.TypeTXT), address)
				if err != nil || len(r.Answer) != 1 {
					failed.Store(fmt.Sprintf("%s: %v, %v", client.Net, r, err), nil)
					continue
				}
				var n uint64
				fmt.Sscan(r.Answer[0].(*dns.TXT).Txt[0], &n)
				if n < seen {
					failed.Store(fmt.Sprintf("%s: release %d after %d", client.Net, n, seen), nil)
				}
				seen = n
				latest.Store(max(n, latest.Load()))
			}
		})
	}
	for n := uint64(2); n <= 5; n++ {
		m.switchOver(n, zone(n))
		lab.Must(t, reload(corefile([]string{"on", "off"}[n%2])))
		if _, err := prometheus.DefaultGatherer.Gather(); err != nil {
			t.Error(err)
		}
		lab.Eventually(t, func() error {
			if latest.Load() < n {
				return fmt.Errorf("release %d is not answered from", n)
			}
			return nil
		})
	}
	close(done)
	asking.Wait()
	failed.Range(func(what, _ any) bool { t.Errorf("of %d: %v", asked.Load(), what); return true })
}
