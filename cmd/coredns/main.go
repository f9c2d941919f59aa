// CoreDNS's own listeners would be of MPTCP, on which socket options such as IP_MTU_DISCOVER fail.
//go:debug multipathtcp=0

// Command coredns is CoreDNS for a node of an anycast mesh: an authoritative server with the plugins that such a node
// needs, those that users of CoreDNS serve their zones by, and no resolver or proxy. Its command line is that of CoreDNS. For a CoreDNS with other plugins see the section
// "Building" of plugin/sharedunicast/README.md.
package main

import (
	"log"
	"os"
	"runtime/debug"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	"github.com/coredns-anycast/coredns-anycast/internal/directives"
	_ "github.com/coredns-anycast/coredns-anycast/plugin/meshsync"
	_ "github.com/coredns-anycast/coredns-anycast/plugin/sharedunicast"
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/auto"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dnstap"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/pprof"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/secondary"
	_ "github.com/coredns/coredns/plugin/shed"
	_ "github.com/coredns/coredns/plugin/timeouts"
	_ "github.com/coredns/coredns/plugin/tls"
	_ "github.com/coredns/coredns/plugin/transfer"
	_ "github.com/coredns/coredns/plugin/tsig"
	_ "github.com/coredns/coredns/plugin/view"
	_ "github.com/coredns/coredns/plugin/whoami"
)

// version is set with -ldflags "-X main.version=…". The commit is -X github.com/coredns/coredns/coremain.GitCommit=….
var version = "dev"

// gcPercent is what the heap may grow by before it is collected. Zones make up most of it and have no pointers: collecting
// more often than by Go's default of 100 costs little, and half the zones' size in memory is saved.
const gcPercent = 50

func main() {
	if err := dnsserver.SetDirectives(directives.Shipped); err != nil {
		log.Fatal(err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	caddy.AppName = "coredns-anycast"
	caddy.AppVersion = version + " (CoreDNS " + coremain.CoreVersion + ")"
	coremain.Run()
}
