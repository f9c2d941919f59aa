package sharedunicast

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Connections that nobody uses, more than the process has descriptors for, keep neither a client from its answer nor the
// rest of the node from its files.
func TestCrowdOfConnections(t *testing.T) {
	port := freePort(t)
	corefile := filepath.Join(t.TempDir(), "Corefile")
	text := fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n file %s\n}", port, zoneFile(t))
	if err := os.WriteFile(corefile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	const descriptors = 200
	cmd := process(t, corefile, "sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, descriptors), "sh")
	for range 2 * descriptors {
		conn, err := net.DialTimeout("tcp", "127.0.53.1:"+port, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	mustAsk(t, "tcp", "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Pid()))
	if err != nil || len(open) > descriptors*3/4 {
		t.Errorf("%d of %d descriptors taken, %v", len(open), descriptors, err)
	}
}
