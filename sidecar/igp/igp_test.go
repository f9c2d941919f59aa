package igp

import (
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var (
	shared4 = netip.MustParseAddr("192.0.2.53")
	shared6 = netip.MustParseAddr("2001:db8:53::53")
	config  = Config{Interface: "anycast0", Addresses: []netip.Addr{shared4, shared6}, Lifetime: 60 * time.Second}
)

// namespace puts the test, on a thread of its own, into a network namespace with the addresses on lo and an interface for
// the IGP: a bridge without ports, since not every kernel has dummy.
func namespace(t *testing.T) {
	t.Helper()
	testenv.Root(t)
	testenv.Need(t, "ip")
	runtime.LockOSThread() // and never unlocked: the thread ends with the test, and the namespace with the thread
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	for _, l := range []string{"link set lo up", "addr add 192.0.2.53/32 dev lo", "addr add 2001:db8:53::53/128 dev lo nodad",
		"link add anycast0 type bridge", "link set anycast0 up", "addr add 203.0.113.1/24 dev anycast0",
		"addr add 203.0.113.2/32 dev anycast0 valid_lft 3600 preferred_lft 0", "addr add 2001:db8:1::1/64 dev anycast0 nodad"} {
		ip(t, l)
	}
}

func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput() // the child starts on this thread, in its namespace
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// there lists the addresses of the interface that are not link-local.
func there(t *testing.T, link string) []string {
	t.Helper()
	var all []string
	for _, l := range strings.Split(ip(t, "-br addr show dev "+link), " ") {
		if strings.Contains(l, "/") && !strings.HasPrefix(l, "fe80") {
			all = append(all, strings.TrimSpace(l))
		}
	}
	slices.Sort(all)
	return all
}

var (
	others = []string{"2001:db8:1::1/64", "203.0.113.1/24", "203.0.113.2/32"}
	withUs = []string{"192.0.2.53/32", "2001:db8:1::1/64", "2001:db8:53::53/128", "203.0.113.1/24", "203.0.113.2/32"}
)

func want(t *testing.T, addresses []string) {
	t.Helper()
	if got := there(t, "anycast0"); !slices.Equal(got, addresses) {
		t.Errorf("the interface has %q, want %q", got, addresses)
	}
	if got, want := there(t, "lo"), []string{"127.0.0.1/8", "192.0.2.53/32", "2001:db8:53::53/128", "::1/128"}; !slices.Equal(got, want) {
		t.Errorf("lo has %q, want %q", got, want)
	}
}

func start(t *testing.T) *Announcer {
	t.Helper()
	a, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func set(t *testing.T, a *Announcer, announce bool) {
	t.Helper()
	if err := a.Set(announce); err != nil {
		t.Fatal(err)
	}
}

// The addresses come and go as told, whoever changes them meanwhile, and nothing else does (ROUTE-2).
func TestSet(t *testing.T) {
	namespace(t)
	a := start(t)
	want(t, others)
	for range 2 {
		set(t, a, true)
		want(t, withUs)
	}
	for _, l := range strings.Split(ip(t, "-o addr show dev anycast0"), "\n") {
		if !strings.Contains(l, "53") {
			continue
		}
		if !strings.Contains(l, "deprecated") || !strings.Contains(l, "noprefixroute") || strings.Contains(l, "tentative") || strings.Contains(l, "valid_lft forever") {
			t.Errorf("an address is as %s", l)
		}
	}
	if got := a.Announced(); !slices.Equal(got, config.Addresses) {
		t.Errorf("announced %v", got)
	}
	ip(t, "addr flush dev anycast0 to 192.0.2.53/32")
	set(t, a, true)
	want(t, withUs)
	refuses := func(why string) {
		t.Helper()
		if err := a.Set(true); err == nil || !strings.Contains(err.Error(), why) || len(a.Announced()) != 0 {
			t.Errorf("error %v, and announced are %v; want %q", err, a.Announced(), why)
		}
	}
	ip(t, "link set anycast0 down")
	refuses("anycast0 is down")
	ip(t, "link del anycast0")
	refuses("anycast0 is not there")
	set(t, a, false) // nothing of it is left to take down
	ip(t, "link add anycast0 type bridge")
	refuses("anycast0 is down")
	ip(t, "link set anycast0 up")
	set(t, a, true)
	want(t, []string{"192.0.2.53/32", "2001:db8:53::53/128"})
	set(t, a, false)
	set(t, a, false)
	want(t, nil)
}

// What a killed process left is taken away at the next start, also when it is of an earlier configuration.
func TestLeftovers(t *testing.T) {
	namespace(t)
	link := 0
	all, err := addresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, held := range all {
		if held.prefix.Addr() == netip.MustParseAddr("203.0.113.1") {
			link = held.link
		}
	}
	for _, p := range []string{"192.0.2.53/32", "192.0.2.99/32", "2001:db8:53::99/128"} {
		if err := change(unix.RTM_NEWADDR, unix.NLM_F_CREATE, link, netip.MustParsePrefix(p), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, "addr add 2001:db8:53::53/128 dev anycast0 nodad valid_lft 3600 preferred_lft 0") // as an older kernel shows ours
	start(t)
	want(t, others)
}

// Nobody renews them, and the kernel takes them down.
func TestDeadManSwitch(t *testing.T) {
	namespace(t)
	c := config
	c.Lifetime = time.Second
	a, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	set(t, a, true)
	want(t, withUs)
	for deadline := time.Now().Add(20 * time.Second); len(there(t, "anycast0")) > len(others); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the addresses stay")
		}
	}
	want(t, others)
}

// An address that no decision could take down, and one that the DNS server would lose, start nothing and are let alone.
func TestRefuses(t *testing.T) {
	for _, c := range []struct{ name, setup, want string }{
		{"for good", "addr add 192.0.2.53/32 dev anycast0", "192.0.2.53 is on anycast0 by somebody else's hand"},
		{"wider", "addr add 192.0.2.53/24 dev anycast0 valid_lft 3600 preferred_lft 0", "ip addr del 192.0.2.53/24 dev anycast0"},
		{"not on lo", "addr del 2001:db8:53::53/128 dev lo", "2001:db8:53::53 is on no interface but anycast0"},
		{"down", "link set anycast0 down", "anycast0 is down"},
		{"absent", "link del anycast0", "interface anycast0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			namespace(t)
			ip(t, c.setup)
			before := there(t, "lo")
			if _, err := Start(config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if after := there(t, "lo"); !slices.Equal(before, after) {
				t.Errorf("lo had %q, has %q", before, after)
			}
		})
	}
	t.Run("later", func(t *testing.T) {
		namespace(t)
		a := start(t)
		ip(t, "addr add 192.0.2.53/32 dev anycast0")
		for _, announce := range []bool{true, false} {
			if err := a.Set(announce); err == nil || !strings.Contains(err.Error(), "somebody else's hand") {
				t.Errorf("announce %v: error %v", announce, err)
			}
		}
		if !strings.Contains(ip(t, "-o addr show dev anycast0 to 192.0.2.53/32"), "valid_lft forever") {
			t.Error("the address of somebody else was changed")
		}
	})
}
