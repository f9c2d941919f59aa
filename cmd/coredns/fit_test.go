package main

import (
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/directives"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// fit is what a plugin is tried with, in a block with sharedunicast and file. PORT and what is in capitals else are put in.
type fit struct {
	text    string // the directive and its arguments
	refused string // the pattern of the error at start; empty: it starts, and answers are those of file alone
	may     string // "refuse" or "drop": instead of an answer it may do that; a filter takes away and alters nothing
	instead bool   // instead of file
}

// fits has every plugin of this program, so that who adds one must say what it makes of answers (HOST-2, HOST-3, SYNC-H).
var fits = map[string]fit{
	"root":          {text: "root DIR"},
	"metadata":      {text: "metadata"},
	"cancel":        {text: "cancel"},
	"timeouts":      {text: "timeouts {\n read 5s\n}"},
	"multisocket":   {text: "multisocket 2"},
	"reload":        {text: "reload 1h"},
	"nsid":          {text: "nsid tyo1"},
	"bufsize":       {text: "bufsize 1232"},
	"bind":          {text: "bind 127.0.0.1", refused: "bind cannot be in a server block with sharedunicast"},
	"debug":         {text: "debug"},
	"ready":         {text: "ready 127.0.0.1:PORT"},
	"health":        {text: "health 127.0.0.1:PORT"},
	"pprof":         {text: "pprof 127.0.0.1:PORT"},
	"shed":          {text: "shed"},
	"sharedunicast": {},
	"prometheus":    {text: "prometheus 127.0.0.1:PORT"},
	"errors":        {text: "errors"},
	"log":           {text: "log example.org {\n class error\n}"},
	"dnstap":        {text: "dnstap unix:///DIR/nobody.sock full"},
	"local":         {text: "local", refused: "local cannot be .* localhost"},
	"any":           {text: "any", refused: "any cannot be .* not authoritative"},
	"chaos":         {text: "chaos version admin@example.org"},
	"loadbalance":   {text: "loadbalance"},
	"tsig":          {text: "tsig {\n secret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n require A\n}", may: "refuse"},
	"acl":           {text: "acl {\n filter type A\n block type MX\n drop type ANY\n}", may: "refuse or drop"},
	"header":        {text: "header {\n response set aa\n}", refused: "header cannot be .* flags"},
	"tls":           {text: "tls CERT KEY"},
	"minimal":       {text: "minimal", refused: "minimal cannot be .* NSEC"},
	"transfer":      {text: "transfer {\n to *\n}", refused: "transfer cannot be .* administrative"},
	"meshsync":      {text: "meshsync DIR/mesh {\n root ROOT\n clock assume 1ms\n}", may: "refuse or drop", instead: true},
	"file":          {text: "file DIR/db.example.org", instead: true},
	"auto":          {text: "auto {\n directory DIR\n}", instead: true},
	"secondary":     {text: "secondary {\n transfer from 127.0.0.1:PORT\n}", may: "refuse", instead: true},
	"whoami":        {text: "whoami", refused: "whoami cannot be .* every name"},
	"view":          {text: "view some {\n expr type() != 'A'\n}", may: "refuse"},
}

// fitZone looks signed; nobody here verifies a signature.
const fitZone = `$ORIGIN example.org.
$TTL 300
@       SOA ns hostmaster 7 3600 600 86400 60
@       RRSIG SOA 13 2 300 20370101000000 20260101000000 1 example.org. AAAA
@       NS ns
@       NSEC ns.example.org. NS SOA RRSIG NSEC
@       RRSIG NSEC 13 2 60 20370101000000 20260101000000 1 example.org. AAAA
ns      A 192.0.2.53
ns      NSEC sub.example.org. A RRSIG NSEC
sub     NS ns.sub
ns.sub  A 192.0.2.81
sub     NSEC *.wild.example.org. NS RRSIG NSEC
*.wild  A 192.0.2.82
*.wild  RRSIG A 13 3 300 20370101000000 20260101000000 1 example.org. AAAA
*.wild  NSEC www.example.org. A RRSIG NSEC
*.wild  RRSIG NSEC 13 3 60 20370101000000 20260101000000 1 example.org. AAAA
www     A 192.0.2.80
www     A 192.0.2.79
www     MX 10 www
www     RRSIG A 13 3 300 20370101000000 20260101000000 1 example.org. AAAA
www     NSEC example.org. A MX RRSIG NSEC
`

var fitQuestions = []string{"example.org. SOA", "www.example.org. A", "www.example.org. MX", "www.example.org. AAAA", "www.example.org. ANY",
	"any.wild.example.org. A", "nowhere.example.org. A", "x.sub.example.org. A", "localhost.example.org. A", "localhost. A",
	"example.net. A", ". NS"}

// Each plugin that this program has is refused beside sharedunicast if it breaks what that promises. With any other, answers
// are the very same as without.
func TestEveryPluginFits(t *testing.T) {
	caddy.Quiet, dnsserver.Quiet = true, true
	lab.Must(t, dnsserver.SetDirectives(directives.Shipped))
	dir := t.TempDir()
	lab.Must(t, os.WriteFile(filepath.Join(dir, "db.example.org"), []byte(fitZone), 0o644))
	lab.Must(t, os.MkdirAll(filepath.Join(dir, "mesh"), 0o755))
	root := filepath.Join(dir, "root.json")
	makeRoot(t, root)
	own := testca.New(t).Identity("tyo1", time.Hour)
	put := strings.NewReplacer("/DIR", dir, "DIR", dir, "ROOT", root, "CERT", own.Certificate, "KEY", own.Key)
	base := answers(t, put, fit{})
	for _, name := range directives.Shipped {
		t.Run(name, func(t *testing.T) {
			f, known := fits[name]
			if !known {
				t.Fatal("what does this plugin make of answers? Put it into the table")
			}
			compareFits(t, base, answers(t, put, f), f)
		})
	}
}

// makeRoot writes the first root of a mesh.
func makeRoot(t *testing.T, file string) {
	t.Helper()
	keys, err := release.GenerateKeys(rand.Reader)
	lab.Must(t, err)
	in := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	files, _, err := release.Init(release.Manifest{Format: release.ManifestFormat, Mesh: "x", EpsilonMS: 100}, keys.Signers(),
		release.Expiries{Root: in, Targets: in, Snapshot: in, Timestamp: in})
	lab.Must(t, err)
	for _, f := range files {
		if strings.HasSuffix(f.Name, "1.root.json") {
			lab.Must(t, os.WriteFile(file, f.Data, 0o644))
		}
	}
}

func compareFits(t *testing.T, base, got map[string]string, f fit) {
	t.Helper()
	for _, q := range slices.Sorted(maps.Keys(base)) {
		switch {
		case f.refused != "" || got[q] == base[q]:
		case strings.Contains(f.may, "refuse") && regexp.MustCompile(`^(REFUSED|SERVFAIL|NOTAUTH)[a-z ]*$`).MatchString(got[q]):
		case strings.Contains(f.may, "drop") && got[q] == "":
		default:
			t.Errorf("%s\n%s\nwithout the plugin:\n%s", q, got[q], base[q])
		}
	}
}

// answers starts CoreDNS with a plugin and asks all there is to ask.
func answers(t *testing.T, put *strings.Replacer, f fit) map[string]string {
	port := testenv.Port(t)
	backend := "file DIR/db.example.org"
	if f.instead {
		backend = ""
	}
	text := fmt.Sprintf("example.org:%d {\n sharedunicast 127.0.53.77\n%s\n%s\n}\n", port, backend, f.text)
	text = strings.ReplaceAll(put.Replace(text), "PORT", fmt.Sprint(testenv.Port(t)))
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(text), Filepath: "Corefile", ServerTypeName: "dns"})
	if f.refused != "" {
		if err == nil {
			t.Error("it starts")
			instance.Stop()
		} else if !regexp.MustCompile(f.refused).MatchString(err.Error()) {
			t.Errorf("refused: %v", err)
		}
		return nil
	}
	lab.Must(t, err)
	defer func() { instance.ShutdownCallbacks(); instance.Stop() }()
	all := map[string]string{}
	for _, q := range fitQuestions {
		name, kind, _ := strings.Cut(q, " ")
		for _, network := range []string{"udp", "tcp"} {
			m := new(dns.Msg).SetQuestion(name, dns.StringToType[kind]).SetEdns0(1232, true)
			all[q+" "+network] = exchange(t, m, network, fmt.Sprintf("127.0.53.77:%d", port), f.may)
		}
	}
	return all
}

// exchange is an answer in words, in which the order of records says nothing. Empty: there is none.
func exchange(t *testing.T, m *dns.Msg, network, server, may string) string {
	client := dns.Client{Net: network, Timeout: 10 * time.Second}
	if strings.Contains(may, "drop") {
		client.Timeout = 200 * time.Millisecond
	}
	answer, _, err := client.Exchange(m, server)
	if err != nil {
		if !strings.Contains(may, "drop") {
			t.Errorf("%s over %s: %v", m.Question[0].Name, network, err)
		}
		return ""
	}
	text := dns.RcodeToString[answer.Rcode]
	for flag, on := range map[string]bool{" aa": answer.Authoritative, " tc": answer.Truncated, " ra": answer.RecursionAvailable,
		" ad": answer.AuthenticatedData, " cd": answer.CheckingDisabled} {
		if on && answer.Rcode != dns.RcodeServerFailure {
			text += flag
		}
	}
	for i, section := range [][]dns.RR{answer.Answer, answer.Ns, answer.Extra} {
		var lines []string
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT && rr.Header().Rrtype != dns.TypeTSIG {
				lines = append(lines, fmt.Sprintf("\n%d %s", i, rr))
			}
		}
		slices.Sort(lines)
		text += strings.Join(lines, "")
	}
	return text
}
