// Package good does what a decider may.
package good

import (
	"io"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Decide has values with the names of what is forbidden, and none of it.
func Decide(now time.Time, random io.Reader, repo fs.FS) (instant.Wall, status.Ref) {
	var time struct{ Now, Sleep int } // hides the package
	_ = time.Now + time.Sleep
	_ = netip.Addr{}
	_ = strings.Repeat("go", 2)
	return 0, status.Ref{}
}
