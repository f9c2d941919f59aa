package sharedunicast

import (
	"fmt"
	"net"
	"os"
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
			if n := most(); n > descriptors*3/4 {
				t.Errorf("%d of %d descriptors were taken", n, descriptors)
			}
		})
	}
}

// mostOpen looks how many descriptors a process has, until the function returned is called, which says how many that were at the most.
func mostOpen(t *testing.T, p *lab.Process) func() int {
	stop, most := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
			if err != nil {
				t.Error(err)
			}
			n = max(n, len(open))
			select {
			case <-stop:
				most <- n
				return
			default:
			}
		}
	}()
	return func() int {
		close(stop)
		return <-most
	}
}
