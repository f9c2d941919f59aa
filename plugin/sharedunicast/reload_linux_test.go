package sharedunicast

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// load asks a server without pause, over UDP and TCP, until stop is called, which fails the test for a lost query.
func load(t *testing.T, server string) (stop func()) {
	t.Helper()
	var wg sync.WaitGroup
	var asked atomic.Int64
	var lost sync.Map
	done := make(chan struct{})
	for i := range 8 {
		network := []string{"udp", "tcp"}[i%2]
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				m, err := ask(network, server, "www.example.org.", dns.TypeA)
				if asked.Add(1); err != nil || len(m.Answer) != 1 {
					lost.Store(fmt.Sprintf("%s: %v %v", network, m, err), nil)
				}
			}
		})
	}
	return func() {
		t.Helper()
		close(done)
		wg.Wait()
		if asked.Load() < 50 {
			t.Errorf("only %d queries asked", asked.Load())
		}
		lost.Range(func(what, _ any) bool { t.Errorf("of %d queries lost: %v", asked.Load(), what); return true })
	}
}

func TestReloadLosesNoQuery(t *testing.T) {
	for how, backend := range map[string]string{"loops": "testwire", "goroutines": "file " + zoneFile(t)} {
		t.Run(how, func(t *testing.T) { reloadUnderLoad(t, backend) })
	}
}

func reloadUnderLoad(t *testing.T, backend string) {
	port := freePort(t)
	corefile := func(sockets int) string {
		return fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n multisocket %d\n %s\n}", port, sockets, backend)
	}
	reload := start(t, corefile(1))
	stop := load(t, "127.0.53.1:"+port)
	// One socket becomes three on the way: the first was not opened to be joined by others.
	for _, sockets := range []int{1, 1, 3, 3} {
		time.Sleep(200 * time.Millisecond)
		if err := reload(corefile(sockets)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	if n := len(kernelSockets(t, port)); n != 2*3 {
		t.Errorf("%d sockets, want 3 for UDP and 3 for TCP", n)
	}
}

// A client that has connected, but not asked yet, is answered across a reload; so is one that asks again.
func TestReloadAnswersOpenConnections(t *testing.T) {
	for how, backend := range map[string]string{"loops": "testwire", "goroutines": "file " + zoneFile(t)} {
		t.Run(how, func(t *testing.T) { askAcrossReload(t, backend) })
	}
}

func askAcrossReload(t *testing.T, backend string) {
	port := freePort(t)
	corefile := fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n %s\n}", port, backend)
	reload := start(t, corefile)
	for _, used := range []bool{false, true} {
		err := errors.New("not asked")
		for try := 0; try < 10 && err != nil; try++ { // a machine with other work may take the whole drainTime before the question is put
			err = askDuringReload(t, "127.0.53.1:"+port, used, func() error { return reload(corefile) })
		}
		if err != nil {
			t.Errorf("used before: %v: %v", used, err)
		}
	}
}

// askDuringReload asks by a connection that was made, or also used, before a reload that is under way.
func askDuringReload(t *testing.T, server string, used bool, reload func() error) error {
	conn, err := dns.Dial("tcp", server)
	lab.Must(t, err)
	defer conn.Close()
	ask := func() error {
		if err := conn.WriteMsg(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(lab.Patience))
		_, err := conn.ReadMsg()
		return err
	}
	if used {
		lab.Must(t, ask())
	} else {
		time.Sleep(50 * time.Millisecond) // let it be accepted
	}
	reloaded := make(chan error)
	go func() { reloaded <- reload() }()
	time.Sleep(drainTime / 5)
	err = ask()
	lab.Must(t, <-reloaded)
	return err
}

func TestIdleConnectionsDelayReloadNoLongerThanDrainTime(t *testing.T) {
	port := freePort(t)
	var addresses string
	for i := range 6 {
		addresses += fmt.Sprintf(" 127.0.53.%d", i+1)
	}
	corefile := fmt.Sprintf("example.org:%s {\n sharedunicast %s\n file %s\n}", port, addresses, zoneFile(t))
	reload := start(t, corefile)
	lab.Quick(t, "a reload", 4*drainTime, func() time.Duration {
		for _, address := range strings.Fields(addresses) {
			conn, err := net.Dial("tcp", address+":"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
		before := time.Now()
		if err := reload(corefile); err != nil {
			t.Fatal(err)
		}
		return time.Since(before)
	})
}

// Whatever is wrong with the new Corefile, and however late that is found, the old one goes on, and nothing leaks.
func TestFailedReloadChangesNothing(t *testing.T) {
	port, other := freePort(t), freePort(t)
	block := fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n", port, zoneFile(t))
	holder, err := net.Listen("tcp", "127.0.53.9:"+other)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()

	for _, tc := range []struct{ name, corefile string }{
		{"a directive of ours", block + "}\nexample.net:" + port + " {\n sharedunicast nonsense\n}"},
		{"a wildcard block", block + "}\nexample.net:" + other + " {\n testanswer\n}"},
		{"an address that is held", strings.Replace(block, "127.0.53.1", "127.0.53.1 127.0.53.8", 1) + "}\nexample.net:" + other + " {\n sharedunicast 127.0.53.9\n}"},
		{"another plugin's start", strings.Replace(block, "127.0.53.1", "127.0.53.1 127.0.53.8", 1) + "testfail\n}"},
		{"a listener of the core", block + "}\nexample.net:" + other + " {\n bind 127.0.53.9\n testanswer\n}"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reload := start(t, block+"}")
			stop := load(t, "127.0.53.1:"+port)
			defer stop()
			time.Sleep(300 * time.Millisecond)
			held, before := heldSockets(), len(kernelSockets(t, port))
			for range 3 {
				if err := reload(tc.corefile); err == nil {
					t.Fatal("the reload succeeded")
				}
				if n := heldSockets(); n != held {
					t.Errorf("%d descriptors held, %d before", n, held)
				}
				if n := len(kernelSockets(t, port)); n != before {
					t.Errorf("%d sockets on the port, %d before", n, before)
				}
			}
			time.Sleep(300 * time.Millisecond)
			if err := reload(block + "}"); err != nil {
				t.Errorf("a good reload after the failed ones: %v", err)
			}
		})
	}
}

// Only the instance that runs is told of a failed reload; it need not be one with sharedunicast.
func TestFailedReloadFromOtherCorefileLeaksNothing(t *testing.T) {
	port, other := freePort(t), freePort(t)
	reload := start(t, fmt.Sprintf("example.org:%s {\n bind 127.0.53.1\n testanswer\n}", other))
	if err := reload(fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n testanswer\n testfail\n}", port)); err == nil {
		t.Fatal("the reload succeeded")
	}
	if n := len(kernelSockets(t, port)); n != 0 {
		t.Errorf("%d sockets left open", n)
	}
}

func TestReloadClosesAddressesNoLongerGiven(t *testing.T) {
	port := freePort(t)
	corefile := "example.org:" + port + " {\n sharedunicast 127.0.53.1 %s\n testanswer\n}"
	reload := start(t, fmt.Sprintf(corefile, "127.0.53.2"))
	if err := reload(fmt.Sprintf(corefile, "127.0.53.3")); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(kernelSockets(t, port))
	for address, want := range map[string]bool{"127.0.53.1": true, "127.0.53.2": false, "127.0.53.3": true} {
		if strings.Contains(got, address+":") != want {
			t.Errorf("listening on %s: %v, want %v, of %s", address, !want, want, got)
		}
	}
}

// process runs CoreDNS as a process of its own: this test binary, see childEnv. prefix is a command that runs another.
func process(t *testing.T, corefile string, prefix ...string) *lab.Process {
	t.Helper()
	return processAt(t, nil, corefile, prefix...)
}

// processAt is process in a namespace; at is its Place.Do.
func processAt(t *testing.T, at func(func() error) error, corefile string, prefix ...string) *lab.Process {
	t.Helper()
	p := lab.Start(t, lab.Command{Name: "CoreDNS", Argv: append(prefix, os.Args[0], "-conf", corefile), Env: []string{childEnv + "=1"},
		Log: filepath.Join(t.TempDir(), "log"), At: at})
	lab.WaitFor(t, "CoreDNS says that it has started, or ends", func() bool { return !p.Alive() || strings.Contains(lab.Read(t, p.Log), "\nCoreDNS-") })
	if !p.Alive() {
		t.Fatalf("CoreDNS ended:\n%s", lab.Read(t, p.Log))
	}
	return p
}

func writeCorefile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Corefile")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// The ways in which a reload comes about in real life.
func TestReloadOfProcessLosesNoQuery(t *testing.T) {
	for how, reloads := range map[string]int{"SIGUSR1": 10, "reload plugin": 2} {
		t.Run(how, func(t *testing.T) {
			port := freePort(t)
			nsid := func(n int) string {
				return fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n reload 2s 1s\n nsid id%d\n}", port, zoneFile(t), n)
			}
			corefile := writeCorefile(t, nsid(0))
			cmd := process(t, corefile)
			server := "127.0.53.1:" + port
			stop := load(t, server)
			for n := 1; n <= reloads; n++ {
				if err := os.WriteFile(corefile, []byte(nsid(n)), 0o644); err != nil {
					t.Fatal(err)
				}
				if how == "SIGUSR1" {
					cmd.Signal(syscall.SIGUSR1)
				}
				waitForNSID(t, server, fmt.Sprintf("%x", fmt.Sprintf("id%d", n)))
			}
			stop()
		})
	}
}

// waitForNSID waits until each of many answers in a row is from the new instance: old and new read from one socket.
func waitForNSID(t *testing.T, server, want string) {
	t.Helper()
	inARow := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
		answer, err := exchange("udp", server, m)
		if err != nil {
			t.Fatal(err)
		}
		inARow++
		if !strings.Contains(answer.String(), want) && !strings.Contains(strings.ReplaceAll(answer.String(), " ", ""), want) {
			inARow = 0
			time.Sleep(20 * time.Millisecond)
		}
		if inARow == 50 {
			return
		}
	}
	t.Fatalf("the reload to NSID %s did not come", want)
}
