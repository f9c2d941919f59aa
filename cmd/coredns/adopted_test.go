package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/coredns-anycast/coredns-anycast/internal/adopt"
	"github.com/coredns-anycast/coredns-anycast/internal/corefiles"
	"github.com/coredns-anycast/coredns-anycast/internal/directives"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestAdoptedCorefilesStart: what "meshctl adopt" makes of every Corefile in CoreDNS's documentation and tests of which zones are taken
// over is one that this program starts by.
func TestAdoptedCorefilesStart(t *testing.T) {
	caddy.Quiet, dnsserver.Quiet = true, true
	lab.Must(t, dnsserver.SetDirectives(directives.Shipped))
	usual := dnsserver.Port
	t.Cleanup(func() { dnsserver.Port = usual })
	base := lab.Read(t, filepath.Join(testenv.Top(t), "cmd/meshctl/internal/enrol/Corefile.template"))
	base = fmt.Sprintf(base, "example", "127.0.53.78")
	var stopped sync.WaitGroup
	dir, started := t.TempDir(), []string{}
	makeRoot(t, filepath.Join(dir, "root.json"))
	lab.Must(t, os.WriteFile(filepath.Join(dir, "cookies.key"), []byte(strings.Repeat("0", 64)+"\n"), 0o600))
	all := corefiles.All(t, func(name string) bool { return slices.Contains(directives.Shipped, name) })
	all = append(all, corefiles.Example{From: "own", Text: ownCorefile})
	for _, e := range all {
		if e.Good { // what documents show of a plugin is tried beside a zone
			e.Text = strings.Replace(e.Text, "{\n", "{\n    file db.adopted adopted.example\n", 1)
		}
		plan, err := adopt.Corefile(corefiles.Prepare(t, dir, e.Text), "")
		if err != nil || plan.Nothing() {
			continue
		}
		text, err := plan.Corefile(base)
		lab.Must(t, err)
		if slices.Contains(started, text) {
			continue
		}
		started = append(started, text)
		if plan.Transfer != nil {
			lab.Must(t, os.WriteFile(filepath.Join(dir, "transfer.key"), plan.Transfer.Secrets(), 0o600))
		}
		port := testenv.Port(t)
		dnsserver.Port = fmt.Sprint(port)
		var filled strings.Builder
		parsed, err := template.New(e.From).Option("missingkey=error").Parse(text)
		lab.Must(t, err)
		lab.Must(t, parsed.Execute(&filled, map[string]string{"Name": "tyo1", "AdminAddress": "127.0.53.79", "Etc": dir, "State": filepath.Join(dir, "state"),
			"Run": dir, "Prometheus": net.JoinHostPort("127.0.0.1", fmt.Sprint(testenv.Port(t)))}))
		instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(filled.String()), Filepath: "Corefile", ServerTypeName: "dns"})
		if err != nil {
			t.Errorf("%s: %v\n%s\nis made of\n%s", e.From, err, filled.String(), e.Text)
			continue
		}
		instance.ShutdownCallbacks()
		stopped.Go(func() { instance.Stop() }) // half a second for connections
	}
	stopped.Wait()
	t.Logf("%d different Corefiles start", len(started))
	if len(started) < 20 {
		t.Errorf("only %d different Corefiles were started", len(started))
	}
}

// ownCorefile has what CoreDNS's examples do not have together: blocks with other directives, transfers by key, words in quotation marks.
const ownCorefile = `
example.org {
    file db.example.org
    acl {
        block type ANY net 10.0.0.0/8
    }
    log . "{remote} # {{name}} \"x\""
    errors {
        consolidate 5m ".* timeout$" warning
    }
    tsig {
        secret xfr.example. c2VjcmV0IHRoYXQgbm9ib2R5IGtub3dzIGhlcmUhISE=
        require all
    }
    transfer {
        to * 203.0.113.9
    }
}
example.net 10.0.0.0/22 {
    secondary {
        transfer from 198.51.100.21
    }
    view inside {
        expr incidr(client_ip(), '10.0.0.0/8')
    }
    loadbalance
    bufsize 1232
    multisocket 2
    chaos "a b" c
}
example.com:1053 {
    file db.example.com
}
`
