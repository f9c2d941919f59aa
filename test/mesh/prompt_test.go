package mesh_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestAChangeIsAnsweredPromptly saves a zone file of which nine records changed, and prints when each of three nodes answers from it, with
// the way that it took: what "meshctl init" and "meshctl serve" do by default. Mirrors look at the repository once an hour, so none of
// it waits for a look. Then the file is saved every three seconds, and the nodes keep up.
func TestAChangeIsAnsweredPromptly(t *testing.T) {
	t.Parallel()
	p := newPrompt(t)
	p.save(1)
	for _, node := range p.nodes {
		p.answers(node, 1)
	}
	for _, node := range p.nodes {
		p.eventually(60*time.Second, node+" has a request held", func() (bool, string) {
			var said struct{ Sidecar status.Sidecar }
			err := socket.Read(context.Background(), p.path(node, "sidecar.sock"), &said)
			held := err == nil && said.Sidecar.Mirror != nil && len(said.Sidecar.Mirror.Repositories) == 1 && said.Sidecar.Mirror.Repositories[0].Held
			return held, fmt.Sprint(said.Sidecar.Mirror, err)
		})
	}
	for n := 2; n <= 3; n++ {
		saved := p.save(n)
		var took []string
		for _, node := range p.nodes {
			took = append(took, fmt.Sprintf("%s %.2f s", node, p.answers(node, n).Sub(saved).Seconds()))
		}
		p.recorded(n)
		t.Logf("nine records, file saved to answered: %s\n%s", strings.Join(took, ", "), p.meshctl("history", "--last", "1", "--timing"))
	}
	p.keepsUp(3)
}

// keepsUp saves the file every three seconds after version n, until a release was made and switched to meanwhile, and then waits for the last one.
func (p *prompt) keepsUp(n int) {
	p.t.Helper()
	made := func() int { return strings.Count(p.meshctl("history", "--last", "1000", "--json"), `"switchover"`) }
	before, first := made(), n
	var saved time.Time
	for n < first+5 || made() == before {
		if n > first+40 {
			p.fatalf("none was made while the file was saved %d times", n-first)
		}
		n++
		saved = p.save(n)
		time.Sleep(3 * time.Second)
	}
	for _, node := range p.nodes {
		p.t.Logf("saved every 3 s: %s answers from the last %.2f s after it was saved", node, p.answers(node, n).Sub(saved).Seconds())
	}
	p.recorded(n)
}

// prompt is a mesh that receives one zone file, as it is by default but for how often mirrors look.
type prompt struct{ *mesh }

func newPrompt(t *testing.T) *prompt {
	p := &prompt{meshOf(newWorld(t), "tyo", "osa", "fra")}
	p.machines()
	p.startTime()
	p.must(os.MkdirAll(p.path("zones"), 0o755))
	p.init()
	p.start("dist", "serve", p.bin+"/meshctl", "--home", p.path("home"), "serve", "--listen", "198.51.100.1:8443", "--zones", p.path("zones"))
	for _, node := range p.nodes {
		p.configure(node)
		p.write(node+"/sidecar.yaml", strings.Replace(readFile(p.path(node, "sidecar.yaml")), "interval: 1s", "interval: 1h", 1))
		p.startClock(node)
		p.startSidecar(node)
		p.startCoreDNS(node)
	}
	return p
}

// save puts version n of the zone in place, and returns when. Nine records change from one to the next.
func (p *prompt) save(n int) time.Time {
	p.t.Helper()
	text := zoneText(uint64(n))
	for i := range 7 {
		text += fmt.Sprintf("host%d A 203.0.113.%d\n", i, n)
	}
	from := p.write("saved", text)
	at := time.Now()
	p.must(os.Rename(from, p.path("zones", "example.org.zone")))
	return at
}

// answers waits until a node answers from version n, or one after it, and returns when it did.
func (p *prompt) answers(node string, n int) time.Time {
	p.t.Helper()
	p.eventually(60*time.Second, fmt.Sprintf("%s answers from version %d", node, n), func() (bool, string) {
		r := p.ask(node, "udp", shared4, "release.example.org.", dns.TypeTXT)
		if r == nil {
			return false, "no answer"
		}
		return releaseOf(r).Release == uint64(n), r.String()
	})
	return time.Now()
}

// recorded waits until the switchover to version n is on record.
func (p *prompt) recorded(n int) {
	p.t.Helper()
	p.eventually(60*time.Second, "it is on record", func() (bool, string) {
		out := p.meshctl("history", "--last", "1", "--json")
		return strings.Contains(out, `"compiled"`) && strings.Contains(out, fmt.Sprintf(`"to": %d`, n)), out
	})
}
