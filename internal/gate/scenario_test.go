package gate

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestScenarios runs the stories in testdata/*.txt. Two commands:
//
//	gate policy=stop-dns|withdraw [rise=N] [fall=N] [delay=D] [flaps=N window=D] [min=N] [degrade] [degrade-slow]   starts a sidecar
//	run                                    one event a line, each with its time since the start
//
// Events:
//
//	probe good | slow WHY | bad WHY        a round of the probe ended; WHY is CODE:DETAIL with - for spaces
//	meshsync serving | silent WHY | unreachable WHY
//	clock known | unknown WHY
//	others N [asked D]                     N other nodes remain, by an inquiry that began now, or at D
//	others unknown WHY                     nobody could be asked
//	drain WAIT WHY | undrain | stop WAIT   the route stays for WAIT
//	wait                                   time passes
//
// Every event prints the route after it, the codes of what decided and of what is noted, and when to ask again; "ask others"
// is the gate's wish. "why" prints the last decision's reasons in full.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var g *Gate
		var now instant.Mono
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "gate":
				g, now = New(config(t, d)), 0
				return line(now, "start", g.Decide(now))
			case "run":
				var out strings.Builder
				for _, l := range strings.Split(strings.TrimSpace(d.Input), "\n") {
					now = event(t, g, l)
					out.WriteString(line(now, strings.Join(strings.Fields(l)[1:], " "), g.Decide(now)))
				}
				return out.String()
			case "why":
				var out strings.Builder
				for _, r := range g.Decide(now).Why {
					fmt.Fprintln(&out, r)
				}
				return out.String()
			}
			t.Fatalf("unknown command %q", d.Cmd)
			return ""
		})
	})
}

func config(t *testing.T, d *datadriven.TestData) Config {
	c := Config{Rise: 1, Fall: 1}
	var policy, delay, window string
	d.ScanArgs(t, "policy", &policy)
	d.MaybeScanArgs(t, "rise", &c.Rise)
	d.MaybeScanArgs(t, "fall", &c.Fall)
	if d.MaybeScanArgs(t, "delay", &delay) {
		c.ReadvertiseDelay = duration(t, delay)
	}
	d.MaybeScanArgs(t, "flaps", &c.Flaps.Most)
	if d.MaybeScanArgs(t, "window", &window) {
		c.Flaps.Window = duration(t, window)
	}
	d.MaybeScanArgs(t, "min", &c.MinAnnouncing)
	c.Degrade, c.DegradeSlow = d.HasArg("degrade"), d.HasArg("degrade-slow")
	switch policy {
	case "stop-dns":
	case "withdraw":
		c.Policy = Withdraw
	default:
		t.Fatalf("unknown policy %q", policy)
	}
	return c
}

func event(t *testing.T, g *Gate, l string) instant.Mono {
	words := strings.Fields(l)
	if len(words) < 2 {
		t.Fatalf("event %q: want TIME EVENT", l)
	}
	now := instant.Mono(duration(t, words[0]))
	var why []status.Reason
	for _, w := range words[min(3, len(words)):] {
		code, detail, _ := strings.Cut(w, ":")
		why = append(why, status.Reason{Code: code, Detail: strings.ReplaceAll(detail, "-", " ")})
	}
	if words[1] == "others" {
		answered(t, g, now, words[2:])
		return now
	}
	switch strings.Join(words[1:min(3, len(words))], " ") {
	case "probe good":
		g.Probed(now, Good, why)
	case "probe slow":
		g.Probed(now, Slow, why)
	case "probe bad":
		g.Probed(now, Bad, why)
	case "meshsync serving":
		g.Meshsync(now, Serving, why)
	case "meshsync silent":
		g.Meshsync(now, Silent, why)
	case "meshsync unreachable":
		g.Meshsync(now, Unreachable, why)
	case "clock known":
		g.Clock("")
	case "clock unknown":
		g.Clock(why[0].String())
	case "undrain":
		g.Undrain()
	case "wait":
	default:
		switch words[1] {
		case "drain":
			g.Drain(now, duration(t, words[2]), words[3])
		case "stop":
			g.Stop(now, duration(t, words[2]))
		default:
			t.Fatalf("unknown event %q", l)
		}
	}
	return now
}

func answered(t *testing.T, g *Gate, now instant.Mono, words []string) {
	asked := now
	if len(words) == 3 && words[1] == "asked" {
		asked = instant.Mono(duration(t, words[2]))
	}
	if words[0] == "unknown" {
		g.Others(now, asked, 0, strings.ReplaceAll(words[1], "-", " "))
		return
	}
	n, err := strconv.Atoi(words[0])
	if err != nil {
		t.Fatal(err)
	}
	g.Others(now, asked, n, "")
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func line(now instant.Mono, what string, d Decision) string {
	route := "no route "
	if d.Announce {
		route = "ANNOUNCED"
	}
	if d.Degraded {
		route = "DEGRADED "
	}
	if d.Draining {
		route = "DRAINING "
	}
	var codes []string
	for _, r := range d.Why {
		codes = append(codes, r.Code)
	}
	l := fmt.Sprintf("%6v  %-44s %s  %s", time.Duration(now), what, route, strings.Join(codes, ", "))
	if d.Ask {
		l += "  (ask others)"
	}
	if d.Pending {
		l += "  (pending)"
	}
	if d.Wake != 0 {
		l += fmt.Sprintf("  (ask again at %v)", time.Duration(d.Wake))
	}
	return l + "\n"
}

// A decision always says why, and every code it uses is a declared one: metrics depend on both.
func TestEveryDecisionHasDeclaredReasons(t *testing.T) {
	known := map[string]bool{}
	for _, c := range Codes {
		known[c] = true
	}
	for _, policy := range []Policy{StopDNS, Withdraw} {
		for _, script := range [][]string{
			{}, {"0s probe good"}, {"0s probe good", "1s probe bad probe-dead:x"}, {"0s probe good", "1s probe slow probe-slow:x"},
			{"0s probe good", "1s meshsync silent expired:x"}, {"0s probe good", "1s meshsync unreachable gone:x"},
			{"0s clock unknown lost:x"}, {"0s probe good", "1s probe bad probe-wrong:x", "1s others 1", "2s probe good"},
			{"0s probe good", "1s probe bad probe-hanging:x", "1s others 0"}, {"0s probe good", "1s probe bad", "1s others unknown x"},
			{"0s drain 0s work"}, {"0s stop 0s"}, {"0s probe good", "1s drain 9s work"}, {"0s probe good", "1s stop 9s"},
		} {
			g := New(Config{Policy: policy, Rise: 1, Fall: 1, ReadvertiseDelay: time.Minute, MinAnnouncing: 1})
			var now instant.Mono
			for _, l := range script {
				now = event(t, g, l)
			}
			d := g.Decide(now)
			if len(d.Why) == 0 {
				t.Errorf("%v after %q: no reason", policy, script)
			}
			for _, r := range d.Why {
				if !known[r.Code] || r.Detail == "" {
					t.Errorf("%v after %q: reason %q is undeclared or empty", policy, script, r)
				}
			}
		}
	}
}
