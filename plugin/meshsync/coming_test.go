package meshsync

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// answered asks over UDP until it is stopped: every query must be answered, and none from an earlier release than one before.
func answered(t *testing.T, addr string) (stop func() (asked int)) {
	t.Helper()
	var all sync.WaitGroup
	var lock sync.Mutex
	over, asked := make(chan struct{}), 0
	for range 4 {
		all.Go(func() {
			c := dns.Client{Timeout: 5 * time.Second}
			for last := uint64(0); ; {
				select {
				case <-over:
					return
				default:
				}
				m, _, err := c.Exchange(question("which.example.org.", dns.TypeTXT), addr)
				if err != nil || len(m.Answer) != 1 {
					t.Errorf("after release %d: %v %v", last, err, m)
					continue
				}
				var now uint64
				if _, err := fmt.Sscan(m.Answer[0].(*dns.TXT).Txt[0], &now); err != nil || now < last {
					t.Errorf("release %d after %d: %v", now, last, err)
				}
				last = now
				lock.Lock()
				asked++
				lock.Unlock()
			}
		})
	}
	return func() int { close(over); all.Wait(); return asked }
}

// Where there are no members, a release is current at once. No query is lost by that, the new data follows, and a secondary gets
// what changed (XFER-1).
func TestReleaseNowLosesNoQuery(t *testing.T) {
	dir, h := nodeDir(t)
	r := rand.New(rand.NewPCG(18, 10))
	now := func(number int) {
		h.currentAt(uint64(number), []release.Zone{h.blob("example.org.", versionText(r, uint32(number), number))}, time.Now())
	}
	now(1)
	serve(t, transferCorefile(dir, h, ""), func(addr string) {
		lab.Eventually(t, func() error { return expect(addr, "1") })
		whole, err := ask(t, addr, axfr("example.org."))
		must(t, err)
		stop := answered(t, addr)
		for number := 2; number <= 6; number++ {
			before := contentOf(whole)
			now(number)
			lab.Eventually(t, func() error { return expect(addr, fmt.Sprint(number)) })
			whole, err = ask(t, addr, axfr("example.org."))
			must(t, err)
			changes, err := ask(t, addr, ixfr("example.org.", uint32(number-1)))
			must(t, err)
			secondary := maps.Clone(before)
			secondary.apply(t, uint32(number-1), changes)
			secondary.same(t, contentOf(whole))
		}
		if asked := stop(); asked < 100 {
			t.Errorf("only %d queries were answered", asked)
		}
	})
}

// currentAt makes a release the current one since an instant.
func (h *host) currentAt(number uint64, zones []release.Zone, at time.Time) {
	h.t.Helper()
	h.manifest.Current = &release.Release{Number: number, Zones: zones, Switchover: at.UTC().Truncate(time.Microsecond)}
	h.publish()
}

// A release that cannot be taken silences a node that is no member as well, until it is resolved (SYNC-F).
func TestWhatComesAndCannotBeTaken(t *testing.T) {
	h, n := answeringNode(t)
	h.current(2, []release.Zone{h.pack("example.org.", 2, []byte("example.org. 60 IN A 192.0.2.1\n"))})
	n.silentFor(mesh.NotReady)
	n.waits("refused", func(s *status.Node) bool { return len(s.Refused) == 1 && s.Refused[0].Number == 2 })
	h.current(3, h.zones(3))
	n.becomes(3)
	n.sound()
}

// While a release comes, the node answers from the one before under the lease that it had, and not beyond its end.
func TestWhatComesIsLearntOfAtTheEndOfTheLease(t *testing.T) {
	dir, h := nodeDir(t)
	h.lease = 5 * time.Second
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	ends := h.leaseEnd()
	h.lease = time.Hour
	h.currentAt(2, h.zones(2), time.Now().Add(time.Hour))
	n.keeps(1, time.Until(ends.Add(-time.Second)))
	n.silentFor(mesh.BeforeSwitchover)
	if now := time.Now(); now.Before(ends.Add(-10 * time.Millisecond)) {
		t.Errorf("silent %v before the end of the lease", ends.Sub(now))
	}
	h.current(3, h.zones(3))
	n.becomes(3)
}

// A release whose instant is ahead by this node's clock is answered from at the instant, and the one before until then.
func TestWhatComesWaitsForItsInstant(t *testing.T) {
	h, n := answeringNode(t)
	at := time.Now().Add(time.Second)
	h.currentAt(2, h.zones(2), at)
	n.keepsUntil(1, 2)
	if now := time.Now(); now.Before(at) {
		t.Errorf("release 2 is answered from %v before its instant", at.Sub(now))
	}
	h.renew(30 * time.Minute) // that came meanwhile, or comes later
	h.current(3, h.zones(3))
	h.current(4, h.zones(4))
	n.keepsNoSilence(4)
	n.waits("the newest lease", func(s *status.Node) bool { return s.Depot.Lease == h.version() && s.Floor == 4 })
	n.sound()
}

// keepsUntil waits until a release is answered from, and sees to it that the one before is until then.
func (n *node) keepsUntil(before, number uint64) {
	n.t.Helper()
	lab.Eventually(n.t, func() error {
		if got := n.which(); got == before {
			return fmt.Errorf("still %d: %+v", got, *n.status())
		} else if got != number {
			n.t.Fatalf("answers from %d: %+v", got, *n.status())
		}
		return nil
	})
}

// keepsNoSilence waits until a release is answered from, and sees to it that some release is until then.
func (n *node) keepsNoSilence(number uint64) {
	n.t.Helper()
	lab.Eventually(n.t, func() error {
		switch got := n.which(); got {
		case number:
			return nil
		case 0:
			n.t.Fatalf("silent: %+v", *n.status())
		default:
			return fmt.Errorf("still %d: %+v", got, *n.status())
		}
		return nil
	})
}

// The floor of what comes is on disk before the first answer from it (SYNC-G); while it cannot be written, the node is silent (SYNC-F).
func TestFloorOfWhatComes(t *testing.T) {
	h, n := answeringNode(t)
	promise := filepath.Join(n.config.dir, "state", promiseFile)
	must(t, os.Remove(promise))
	must(t, mkdir(promise)) // a file cannot be renamed over it
	h.current(2, h.zones(2))
	n.silentFor(mesh.NotDurable)
	n.faulty(notDurable)
	must(t, os.Remove(promise))
	n.becomes(2)
	if got := string(readFile(t, promise)); got != "{\"floor\":2}\n" {
		t.Errorf("%q is on disk", got)
	}
	n.sound()
	if n = n.restart(); n.status().Serving == 1 {
		t.Error("back to release 1")
	}
	n.becomes(2)
}

// A member that hears of a release when that is current does not go on with the one before: others answer from the new one by now.
func TestAMemberDoesNotWaitForWhatComes(t *testing.T) {
	dir, h := nodeDir(t)
	h.manifest.Members = []release.Member{{Name: "tyo", Admin: "https://192.0.2.2:8443"}}
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	h.current(2, []release.Zone{h.pack("example.org.", 2, []byte("example.org. 60 IN A 192.0.2.1\n"))})
	n.silentFor(mesh.NotReady)
	h.current(3, h.zones(3))
	n.becomes(3)
}
