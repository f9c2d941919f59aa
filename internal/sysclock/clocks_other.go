//go:build !linux

package sysclock

import (
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

var start = time.Now()

// Off Linux there is no portable clock that counts suspend; Go's monotonic one does for unit tests and meshctl.
func wall() instant.Wall { return instant.Wall(time.Now().UnixNano()) }
func mono() instant.Mono { return instant.Mono(time.Since(start)) + 1 }

// awake is not told apart: what the machine slept through is not known.
func awake() instant.Mono { return mono() }
