package sharedunicast

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// Connections that nobody uses, more than the process has descriptors for, keep neither a client from its answer nor the
// rest of the node from its files, at no moment: they have all come when the process gets to them.
func TestCrowdOfConnections(t *testing.T) {
	for how, backend := range map[string]string{"loops": "testwire", "goroutines": "file " + zoneFile(t)} {
		t.Run(how, func(t *testing.T) {
			port := freePort(t)
			corefile := writeCorefile(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n %s\n}", port, backend))
			const descriptors = 200
			cmd := process(t, corefile, "sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, descriptors), "sh")
			cmd.Signal(syscall.SIGSTOP)
			for range 2 * descriptors {
				conn, err := net.DialTimeout("tcp", "127.0.53.1:"+port, 10*time.Second)
				lab.Must(t, err)
				defer conn.Close()
				conn.Write([]byte{0}) // or the kernel would keep it for a while
			}
			most := mostOpen(t, cmd)
			cmd.Signal(syscall.SIGCONT)
			mustAsk(t, "tcp", "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
			n, err := most()
			lab.Must(t, err)
			if n > descriptors*3/4 {
				t.Errorf("%d of %d descriptors were taken", n, descriptors)
			}
		})
	}
}

// mostOpen looks how many descriptors a process has, until the function returned is called, which says how many that were at the most, or
// until the test ends.
func mostOpen(t *testing.T, p *lab.Process) func() (int, error) {
	ctx, stop := context.WithCancel(context.Background())
	var most int
	var failed error
	var looking sync.WaitGroup
	looking.Go(func() {
		for failed == nil && ctx.Err() == nil {
			var open []os.DirEntry
			open, failed = os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
			most = max(most, len(open))
		}
	})
	end := func() (int, error) {
		stop()
		looking.Wait()
		return most, failed
	}
	t.Cleanup(func() { end() })
	return end
}
