package observe_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Each alert fires on its story, and none on a calm day, as promtool sees it.
func TestAlertsFireOnTheirStories(t *testing.T) {
	testenv.Need(t, "promtool")
	dir := filepath.Join(testenv.Top(t), "deploy", "prometheus")
	t.Log(lab.Run(t, dir, "promtool", "check", "rules", "alerts.yaml", "recording.yaml"))
	t.Log(lab.Run(t, dir, "promtool", "check", "config", "--syntax-only", "prometheus.example.yaml"))
	t.Log(lab.Run(t, dir, "promtool", "test", "rules", "alerts.test.yaml"))
}

// Each alert has a story in which it fires, is looked for on the calm day, and links to a section that says what to do. Those that
// meshctl has are all told by one of two.
func TestEachAlertHasAStoryAndAPage(t *testing.T) {
	dir := filepath.Join(testenv.Top(t), "deploy", "prometheus")
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Expr        string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	lab.Must(t, yaml.Unmarshal([]byte(lab.Read(t, filepath.Join(dir, "alerts.yaml"))), &rules))
	var stories struct {
		Tests []struct {
			Name   string
			Alerts []struct {
				Alertname string      `yaml:"alertname"`
				Fires     []yaml.Node `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	lab.Must(t, yaml.Unmarshal([]byte(lab.Read(t, filepath.Join(dir, "alerts.test.yaml"))), &stories))
	fires, calm := map[string]bool{}, map[string]bool{}
	for _, s := range stories.Tests {
		for _, a := range s.Alerts {
			fires[a.Alertname] = fires[a.Alertname] || len(a.Fires) > 0
			calm[a.Alertname] = calm[a.Alertname] || s.Name == "a calm day" && len(a.Fires) == 0
		}
	}
	page := lab.Read(t, filepath.Join(testenv.Top(t), "docs", "operate", "alerts.md"))
	seen := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			seen++
			if !fires[r.Alert] || !calm[r.Alert] {
				t.Errorf("%s: it fires in a story: %v; the calm day looks for it: %v", r.Alert, fires[r.Alert], calm[r.Alert])
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s has severity %q", r.Alert, s)
			}
			if link := r.Annotations["runbook_url"]; !strings.HasSuffix(link, "/docs/operate/alerts.md#"+strings.ToLower(r.Alert)) ||
				!strings.Contains(page, "\n## "+r.Alert+"\n") {
				t.Errorf("%s links to %s, which is not there", r.Alert, link)
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d alerts", seen)
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join(testenv.Top(t), "docs", "operate", link[1])); err != nil {
			t.Errorf("alerts.md: %v", err)
		}
	}
}
