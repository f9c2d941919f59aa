package sharedunicast

import (
	"slices"
	"sync"

	"github.com/coredns/caddy"
)

// Caddy calls nothing of a new instance whose start failed after our part of it, so that its sockets would stay, open and
// read by nobody. It does drop the instance from its list; that is how it is found out here.

// started are the instances whose sockets were opened, until their caddy.Instance is found gone.
var started struct {
	sync.Mutex
	instances []*instance
}

func opened(in *instance) {
	started.Lock()
	defer started.Unlock()
	started.instances = append(started.instances, in)
}

// reapAbandoned closes the sockets of instances that caddy has dropped. Those of one that it has stopped are closed.
func reapAbandoned() {
	started.Lock()
	defer started.Unlock()
	live := caddy.Instances()
	started.instances = slices.DeleteFunc(started.instances, func(in *instance) bool {
		dropped := !slices.Contains(live, in.caddy)
		if dropped {
			in.release()
		}
		return dropped
	})
}

// reapOnRestartFailed makes the instances that run now reap starting if it fails: it is theirs that caddy calls then.
func reapOnRestartFailed(starting *caddy.Instance) {
	for _, ci := range caddy.Instances() {
		if ci == starting {
			continue
		}
		ci.StorageMu.Lock()
		_, done := ci.Storage[reapKey{}]
		ci.Storage[reapKey{}] = true
		ci.StorageMu.Unlock()
		if !done {
			ci.OnRestartFailed = append(ci.OnRestartFailed, func() error { reapAbandoned(); return nil })
		}
	}
}

type reapKey struct{}
