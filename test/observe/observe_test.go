package observe_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// A real Prometheus scrapes a mesh by the configuration that is shipped. Every rule is evaluated without an error, every metric
// that a rule names is there, and every query of the dashboard has an answer.
func TestRulesAndDashboardAskForWhatAMeshExposes(t *testing.T) {
	testenv.Need(t, "prometheus")
	since := time.Now()
	w := newWorld(t)
	w.startPrometheus()
	w.targetsAreUp()
	before := map[string]int{}
	for name := range nodes {
		before[name] = len(w.events(name))
	}
	w.zones(2, "example.org")
	w.awaitRelease(2)
	w.isTold(before)
	w.happenings()
	w.rulesAreGood()
	d := w.dashboard()
	w.dashboardIsAnswered(d)
	if *rewrite {
		since = time.Now()
		w.startPeer()
		w.live(2)
	}
	w.logsAreJSON()
	w.dashboardIsDrawn(d, since) // last: it is skipped without a browser
}

func (w *world) targetsAreUp() {
	lab.Eventually(w, func() error {
		var data struct {
			ActiveTargets []struct{ Health, ScrapeURL, LastError string }
		}
		if err := w.api("targets", nil, &data); err != nil {
			return err
		}
		if len(data.ActiveTargets) != 5 {
			return fmt.Errorf("%d targets", len(data.ActiveTargets))
		}
		for _, target := range data.ActiveTargets {
			if target.Health != "up" {
				return fmt.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError)
			}
		}
		return nil
	})
}

// events are the lines of a node's logs that tell of releases. Warnings are of this machine: it may be too busy.
func (w *world) events(name string) (all []string) {
	for _, file := range []string{w.log("anycast-sidecar", w.path(name, "x")), w.log("coredns", w.path(name, "x"))} {
		for _, line := range strings.Split(lab.Read(w, file), "\n") {
			if strings.HasPrefix(line, "[INFO] plugin/meshsync") || strings.Contains(line, "zones have come") {
				all = append(all, line)
			}
		}
	}
	return all
}

// isTold: a release and its switchover are three lines on a node, and no more.
func (w *world) isTold(before map[string]int) {
	for name := range nodes {
		lab.Eventually(w, func() error {
			switch all := w.events(name); len(all) - before[name] {
			case 0, 1, 2:
				return fmt.Errorf("%s has not told yet: %q", name, all)
			case 3:
				return nil
			default:
				w.Fatalf("%s tells of a switchover in more than three lines:\n%s", name, strings.Join(all, "\n"))
				return nil
			}
		})
		all := strings.Join(w.events(name), "\n")
		for _, word := range []string{"zones have come", "release 2 is staged", "release 2 is active"} {
			if !strings.Contains(all, word) {
				w.Errorf("%s does not say %q:\n%s", name, word, all)
			}
		}
	}
}

// happenings has happen what is counted and does not come by itself: queries of every kind, and a repository that is refused.
func (w *world) happenings() {
	for _, last := range nodes {
		for _, network := range []string{"udp", "tcp"} {
			w.ask(last, network, "www.example.org.", dns.TypeA)
			w.ask(last, network, "nothing.example.net.", dns.TypeA)
			w.ask(last, network, "nobodys.example.", dns.TypeA)
		}
		w.ask(last, "tcp", "example.org.", dns.TypeAXFR)
		for range 200 { // beyond the limit of the second
			m, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
			lab.Must(w, err)
			lab.Must(w, send(fmt.Sprintf("127.77.1.%s:%d", last, w.dns), m))
		}
	}
	for name := range nodes {
		file := w.path(name, "repository", "timestamp.json")
		lab.Must(w, errors.Join(os.WriteFile(file+".x", []byte("{"), 0o644), os.Rename(file+".x", file)))
	}
}

// rule is a rule as Prometheus tells of it.
type rule struct{ Name, Query, Health, LastError, Type string }

func (w *world) rules() (all []rule) {
	var data struct{ Groups []struct{ Rules []rule } }
	lab.Must(w, w.api("rules", nil, &data))
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// metricName finds the metrics that a rule names: those of the programs, and those that other rules record.
var metricName = regexp.MustCompile(`\b(?:[a-z]+:)?(?:coredns|anycast|meshctl|process)_[a-z0-9_]+(?::[a-z0-9]+)?\b`)

func (w *world) rulesAreGood() {
	lab.Eventually(w, func() error {
		for _, r := range w.rules() {
			if r.Health != "ok" {
				return fmt.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
		return nil
	})
	recorded := map[string]bool{}
	named := map[string]string{}
	for _, r := range w.rules() {
		if r.Type == "recording" {
			recorded[r.Name] = true
		}
		for _, name := range metricName.FindAllString(r.Query, -1) {
			named[name] = r.Name
		}
	}
	if len(named) < 20 || len(recorded) < 5 {
		w.Fatalf("%d metrics are named by rules, %d recorded", len(named), len(recorded))
	}
	for name := range recorded {
		named[name] = "itself"
	}
	lab.Eventually(w, func() error {
		var there []string
		if err := w.api("label/__name__/values", nil, &there); err != nil {
			return err
		}
		for name, by := range named {
			if !slices.Contains(there, name) {
				return fmt.Errorf("%s, which %s names, is not there", name, by)
			}
		}
		return nil
	})
}

// dashboardIsAnswered: each query of each panel has a result.
func (w *world) dashboardIsAnswered(dashboard dashboard) {
	queries := map[string]string{dashboard.Annotations.List[0].Expr: "switchovers"}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			w.Errorf("panel %d (%s) is there twice, or too wide", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			w.Errorf("panel %s has no description, or no query", p.Title)
		}
		for _, target := range p.Targets {
			queries[target.Expr] = p.Title
		}
	}
	if len(queries) < 30 {
		w.Fatalf("%d queries", len(queries))
	}
	for query, title := range queries {
		lab.Eventually(w, func() error {
			var data struct{ Result []any }
			if err := w.api("query", url.Values{"query": {"last_over_time((" + fill.Replace(query) + ")[5m:1s])"}}, &data); err != nil {
				w.Fatalf("%s: %v", title, err)
			}
			if len(data.Result) == 0 {
				return fmt.Errorf("%s: nothing answers %s", title, query)
			}
			return nil
		})
	}
}

// logsAreJSON: each line of a log that is to be JSON is an object with the same three keys.
func (w *world) logsAreJSON() {
	for _, file := range []string{w.log("anycast-sidecar", w.path("tyo1", "x")), w.log("meshctl", w.path("zones"))} {
		lines := strings.Split(strings.TrimSpace(lab.Read(w, file)), "\n")
		for _, line := range lines {
			var event struct{ Time, Level, Msg string }
			if err := json.Unmarshal([]byte(line), &event); err != nil || event.Time == "" || event.Level == "" || event.Msg == "" {
				w.Errorf("%s: %v: %s", file, err, line)
			}
		}
		if len(lines) < 3 {
			w.Errorf("%s has %d lines", file, len(lines))
		}
	}
}
