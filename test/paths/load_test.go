package paths

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// loaded is a node of real processes.
type loaded struct {
	*mesh
	programs string
	port     int
	coredns  *lab.Process
	sidecar  *lab.Process
	reloads  int
}

func newLoaded(t *testing.T) *loaded {
	l := &loaded{mesh: newMesh(t), programs: testenv.Build(t, "cmd/coredns", "sidecar"), port: port(t)}
	l.current(1, l.numbered(1))
	write(t, l.dir, "sidecar.yaml", fmt.Sprintf("node: tyo1\nshared: [127.0.0.1]\nsocket: unix://%[1]s/clock.sock\ncontrol: unix://%[1]s/control.sock\nstate: %[1]s/sidecar\n"+
		"meshsync: unix://%[1]s/s.sock\ndrain: {wait: 100ms, stop: 100ms}\nclock: {source: assumed, bound: 1ms}\nprobe: {interval: 200ms, port: %[2]d, zones: [example.org]}\n", l.dir, l.port))
	l.startSidecar()
	l.configure("on")
	l.coredns = lab.Start(t, lab.Command{Argv: []string{filepath.Join(l.programs, "coredns"), "-conf", l.path("Corefile")}, Log: l.path("coredns.log")})
	l.awaitAnswer(1)
	return l
}

// numbered is a zone that tells its release.
func (l *loaded) numbered(n uint64) release.Zone {
	return l.zone("example.org.", zoneText("example.org.")+fmt.Sprintf("which 60 IN TXT \"%d\"\n", n))
}

// configure writes a Corefile. Each has another name of the node, by which it is known which one is in use.
func (l *loaded) configure(path string) {
	l.reloads++
	text := fmt.Sprintf(".:%d {\n sharedunicast 127.0.0.1 {\n fastpath %s\n }\n errors\n nsid corefile-%d\n meshsync %s {\n repository %s\n root %s\n clock sidecar unix://%s\n status unix://%s\n node tyo1\n }\n}\n",
		l.port, path, l.reloads, l.path("node"), l.path("repository"), l.path("root.json"), l.path("clock.sock"), l.path("s.sock"))
	lab.Must(l.t, os.WriteFile(l.path("Corefile"), []byte(text), 0o644))
}

// awaitAnswer waits until the node answers from a release, with the Corefile that was written last.
func (l *loaded) awaitAnswer(n uint64) {
	l.t.Helper()
	want := hex.EncodeToString(fmt.Appendf(nil, "corefile-%d", l.reloads))
	lab.Eventually(l.t, func() error {
		q := new(dns.Msg).SetQuestion("which.example.org.", dns.TypeTXT).SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
		r, err := dns.Exchange(q, fmt.Sprintf("127.0.0.1:%d", l.port))
		if err != nil || len(r.Answer) == 0 || r.IsEdns0() == nil || len(r.IsEdns0().Option) == 0 {
			return fmt.Errorf("%v: %v", err, r)
		}
		if nsid := r.IsEdns0().Option[0].(*dns.EDNS0_NSID); nsid.Nsid != want || r.Answer[0].(*dns.TXT).Txt[0] != fmt.Sprint(n) {
			return fmt.Errorf("it answers %v", r)
		}
		return nil
	})
}

func (l *loaded) startSidecar() {
	l.sidecar = lab.Start(l.t, lab.Command{Argv: []string{filepath.Join(l.programs, "sidecar"), "run", l.path("sidecar.yaml")}, Log: l.path("sidecar.log")})
	l.order("status") // it takes orders
}

// order gives the sidecar an order, as soon as it takes any.
func (l *loaded) order(what string) {
	l.t.Helper()
	lab.Eventually(l.t, func() error {
		if out, err := exec.Command(filepath.Join(l.programs, "sidecar"), what, l.path("sidecar.yaml")).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", what, err, out)
		}
		return nil
	})
}

// reload has CoreDNS load the Corefile anew.
func (l *loaded) reload(path string, n uint64) {
	l.t.Helper()
	l.configure(path)
	l.coredns.Signal(syscall.SIGUSR1)
	l.awaitAnswer(n)
}

// lostAfter is after how long without an answer a query is lost.
const lostAfter = 6 * time.Second

// dnsperf asks as fast as the node answers, with 200 questions under way, which the kernel's buffers hold.
func (l *loaded) dnsperf() *lab.Process {
	data := "www.example.org A\nnothing.example.org A\nwhich.example.org TXT\nx.sub.example.org AAAA\n"
	lab.Must(l.t, os.WriteFile(l.path("data"), []byte(data), 0o644))
	return lab.Start(l.t, lab.Command{Argv: []string{"dnsperf", "-s", "127.0.0.1", "-p", strconv.Itoa(l.port), "-d", l.path("data"), "-q", "200", "-c", "8", "-t", fmt.Sprint(lostAfter.Seconds()), "-l", "600"}, Log: l.path("dnsperf.log")})
}

// byTCP asks by TCP as well, by a connection for each query and one after the other, until what it returns is called, which says how many
// were answered. The test fails for one that was not.
func (l *loaded) byTCP() (stop func() int) {
	var asking sync.WaitGroup
	var answered atomic.Int64
	var lost sync.Map
	done := make(chan struct{})
	for range 4 {
		asking.Go(func() {
			client := dns.Client{Net: "tcp", Timeout: lostAfter}
			for {
				select {
				case <-done:
					return
				default:
				}
				r, _, err := client.Exchange(new(dns.Msg).SetQuestion("which.example.org.", dns.TypeTXT), fmt.Sprintf("127.0.0.1:%d", l.port))
				if err != nil || len(r.Answer) != 1 {
					lost.Store(fmt.Sprintf("%v, %v", err, r), nil)
				}
				answered.Add(1)
			}
		})
	}
	return func() int {
		l.t.Helper()
		close(done)
		asking.Wait()
		lost.Range(func(what, _ any) bool { l.t.Errorf("by TCP: %v", what); return true })
		return int(answered.Load())
	}
}

// Under as many queries as a node can answer, by UDP and TCP, none is lost by a switchover, a reload, a change between the loop and the chain, a
// drain, or the end of the sidecar, which is killed; not even by a switchover while it is away.
func TestNothingIsLostUnderFullLoad(t *testing.T) {
	testenv.Need(t, "dnsperf")
	l := newLoaded(t)
	asking, stopTCP := l.dnsperf(), l.byTCP()
	n := uint64(1)
	switchOver := func() {
		t.Helper()
		n++
		l.switchOver(n, l.numbered(n))
		l.awaitAnswer(n)
	}
	switchOver()
	l.reload("on", n)
	l.reload("off", n)
	switchOver()
	l.reload("on", n)
	l.order("drain")
	l.reload("off", n)
	l.order("undrain")
	l.reload("on", n)
	l.sidecar.Kill()
	switchOver()
	l.startSidecar()
	switchOver()

	time.Sleep(lostAfter + time.Second) // what was lost by then is counted as that, and not as interrupted
	lab.Must(t, asking.End(t, syscall.SIGINT))
	if n := stopTCP(); n < 100 {
		t.Errorf("%d queries by TCP", n)
	}
	out, err := os.ReadFile(asking.Log)
	lab.Must(t, err)
	number := func(what string) int {
		m := regexp.MustCompile(what + `: +(\d+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("dnsperf says nothing of %s:\n%s", what, out)
		}
		i, _ := strconv.Atoi(string(m[1]))
		return i
	}
	t.Logf("%s", out)
	if lost, completed := number("Queries lost"), number("Queries completed"); lost > 0 || completed < 10000 {
		t.Errorf("%d queries were lost, %d answered", lost, completed)
	}
	codes := regexp.MustCompile(`Response codes: +(.*)`).FindSubmatch(out)
	if codes == nil || !regexp.MustCompile(`^NOERROR \d+ \([\d.]+%\), NXDOMAIN \d+ \([\d.]+%\)$`).Match(codes[1]) {
		t.Errorf("response codes: %s", codes)
	}
}
