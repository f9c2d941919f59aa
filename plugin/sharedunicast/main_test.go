package sharedunicast

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	_ "github.com/coredns-anycast/coredns-anycast/plugin/meshsync"
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/auto"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/shed"
	_ "github.com/coredns/coredns/plugin/timeouts"
	_ "github.com/coredns/coredns/plugin/transfer"
	_ "github.com/coredns/coredns/plugin/tsig"
	"github.com/coredns/coredns/plugin/whoami"
)

// childEnv makes the test binary a CoreDNS process with the plugins above: for what needs a process of its own.
const childEnv = "SHAREDUNICAST_TEST_COREDNS"

func TestMain(m *testing.M) {
	at := slices.Index(dnsserver.Directives, "shed") + 1
	directives := slices.Insert(slices.Clone(dnsserver.Directives), at, pluginName)
	directives = slices.Insert(directives, 0, "testlook") // the first, so that its start might come before ours
	directives = append(directives, "testsee", "testwire", "teststall", "testanswer", "meshsync")
	directives = append(directives, "testfail") // the last, so that its start is after ours
	if err := dnsserver.SetDirectives(directives); err != nil {
		panic(err)
	}
	plugin.Register("tls", setupTestTLS)
	plugin.Register("view", setupTestView)
	plugin.Register("testanswer", setupTestAnswer)
	plugin.Register("testwire", setupTestWire)
	plugin.Register("teststall", setupTestStall)
	plugin.Register("testsee", setupTestSee)
	plugin.Register("testlook", setupTestLook)
	plugin.Register("testfail", setupTestFail)
	if os.Getenv(childEnv) != "" {
		coremain.Run()
		return
	}
	caddy.Quiet, dnsserver.Quiet = true, true
	os.Exit(m.Run())
}

// setupTestTLS stands for the plugin tls, which brings an ACME client along: `tls CERT KEY [CA]`.
func setupTestTLS(c *caddy.Controller) error {
	c.Next()
	args := c.RemainingArgs()
	cert, err := tls.LoadX509KeyPair(args[0], args[1])
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	if len(args) == 3 {
		config.ClientCAs = certPool(args[2])
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	dnsserver.GetConfig(c).TLSConfig = config
	return nil
}

// testView stands for the plugin view: `view NAME PORT` is for clients that send from that port.
type testView struct {
	plugin.Handler
	name, port string
}

func setupTestView(c *caddy.Controller) error {
	c.Next()
	v := &testView{name: c.RemainingArgs()[0]}
	v.port = c.Val()
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler { v.Handler = next; return v })
	return nil
}

func (v *testView) Name() string     { return "view" }
func (v *testView) ViewName() string { return v.name }
func (v *testView) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	return plugin.NextOrFailure(v.Name(), v.Handler, ctx, w, r)
}
func (v *testView) Filter(_ context.Context, state *request.Request) bool {
	return state.Port() == v.port
}

// testAnswer is a backend that answers for every name, as whoami does, which no block of ours may have.
type testAnswer struct{ whoami.Whoami }

func (testAnswer) Name() string { return "testanswer" }

func setupTestAnswer(c *caddy.Controller) error {
	c.Next()
	dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return testAnswer{} })
	return nil
}

// setupTestSee is of a plugin that sees all responses.
func setupTestSee(c *caddy.Controller) error {
	c.Next()
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		return plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			return plugin.NextOrFailure("testsee", next, ctx, struct{ dns.ResponseWriter }{w}, r)
		})
	})
	return nil
}

// handlersAtStart is what `testlook` saw of its block's plugins when it was started.
var handlersAtStart []string

func setupTestLook(c *caddy.Controller) error {
	c.OnStartup(func() error {
		handlersAtStart = nil
		for _, h := range dnsserver.GetConfig(c).Handlers() {
			handlersAtStart = append(handlersAtStart, h.Name())
		}
		return nil
	})
	return nil
}

// setupTestFail makes the start of an instance fail after the start of all other plugins.
func setupTestFail(c *caddy.Controller) error {
	c.OnStartup(func() error { return fmt.Errorf("failing as asked") })
	return nil
}

func input(corefile string) caddy.Input {
	return caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"}
}

// start runs a Corefile in this process until the test ends. It returns a function that reloads with another.
func start(t *testing.T, corefile string) (reload func(corefile string) error) {
	t.Helper()
	inst, err := caddy.Start(input(corefile))
	if err != nil {
		t.Fatalf("starting: %v", err)
	}
	t.Cleanup(func() {
		inst.ShutdownCallbacks()
		inst.Stop()
	})
	return func(corefile string) error {
		next, err := inst.Restart(input(corefile))
		inst = next
		return err
	}
}

func freePort(t testing.TB) string { return strconv.Itoa(testenv.Port(t)) }

// zoneFile writes the zone example.org and returns its path.
func zoneFile(t testing.TB) string {
	t.Helper()
	const zone = `$ORIGIN example.org.
@        3600 IN SOA ns.example.org. admin.example.org. 7 3600 600 86400 60
@        3600 IN NS  ns
ns       3600 IN A   192.0.2.53
www      3600 IN A   192.0.2.80
large    3600 IN TXT ( "` + "%s" + `" )
sub      3600 IN NS  ns.sub
ns.sub   3600 IN A   192.0.2.81
`
	file := filepath.Join(t.TempDir(), "db.example.org")
	large := strings.Repeat(strings.Repeat("x", 250)+`" "`, 12) + "end"
	if err := os.WriteFile(file, fmt.Appendf(nil, zone, large), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// ask sends one question and returns the answer.
func ask(network, server, name string, qtype uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	return exchange(network, server, m)
}

func exchange(network, server string, m *dns.Msg) (*dns.Msg, error) {
	c := &dns.Client{Net: network, Timeout: 3 * time.Second}
	answer, _, err := c.Exchange(m, server)
	return answer, err
}

// mustAsk is ask for a question that has to be answered, with the rcode given.
func mustAsk(t *testing.T, network, server, name string, qtype uint16, rcode int) *dns.Msg {
	t.Helper()
	m, err := ask(network, server, name, qtype)
	if err != nil {
		t.Fatalf("%s %s %s over %s: %v", server, name, dns.TypeToString[qtype], network, err)
	}
	if m.Rcode != rcode {
		t.Fatalf("%s %s %s over %s: rcode %s, want %s", server, name, dns.TypeToString[qtype], network,
			dns.RcodeToString[m.Rcode], dns.RcodeToString[rcode])
	}
	return m
}

func loopbackName(t testing.TB) string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			return i.Name
		}
	}
	t.Fatal("no loopback interface")
	return ""
}
