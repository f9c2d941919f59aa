package sharedunicast

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// Connections that nobody uses, more than the process has descriptors for, keep neither a client from its answer nor the
// rest of the node from its files.
func TestCrowdOfConnections(t *testing.T) {
	for how, backend := range map[string]string{"loops": "testwire", "goroutines": "file " + zoneFile(t)} {
		t.Run(how, func(t *testing.T) {
			port := freePort(t)
			corefile := writeCorefile(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n %s\n}", port, backend))
			const descriptors = 200
			cmd := process(t, corefile, "sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, descriptors), "sh")
			for range 2 * descriptors {
				conn, err := net.DialTimeout("tcp", "127.0.53.1:"+port, 10*time.Second)
				lab.Must(t, err)
				defer conn.Close()
				conn.Write([]byte{0}) // or the kernel would keep it for a while
			}
			mustAsk(t, "tcp", "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Pid()))
			if err != nil || len(open) > descriptors*3/4 {
				t.Errorf("%d of %d descriptors taken, %v", len(open), descriptors, err)
			}
		})
	}
}
