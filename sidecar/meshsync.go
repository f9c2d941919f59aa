package main

import (
	"context"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// meshsync reads what the plugin says of itself, in brief: the list of zones, which may be 100,000, is read as a whole when it is not the one
// that is known, nor became of that by what is said to have changed. Any goroutine may use it.
type meshsync struct {
	mu     sync.Mutex
	digest string        // of zones; "": none is known
	zones  []status.Zone // not to be changed
}

// read is what the plugin with its socket at path says now. What cannot be read in brief is read as a whole: the plugin may be of a version
// before, or have gone on to another list meanwhile.
func (m *meshsync) read(ctx context.Context, path string) (*status.Node, error) {
	brief := new(status.Node)
	err := socket.Read(ctx, socket.Brief(path), brief)
	if err == nil && m.complete(brief) {
		return brief, nil
	}
	if ctx.Err() != nil && err != nil { // the whole would take no less time
		return nil, err
	}
	whole := new(status.Node)
	if err := socket.Read(ctx, path, whole); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.digest, m.zones = whole.ZonesDigest, whole.Zones
	return whole, nil
}

// complete gives what was said in brief its zones, and reports whether they are known.
func (m *meshsync) complete(brief *status.Node) bool {
	if brief.ZonesDigest == "" { // it has none, or they are there
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch change := brief.ZonesChange; {
	case m.digest == brief.ZonesDigest:
	case change != nil && m.digest != "" && m.digest == change.From:
		m.digest, m.zones = brief.ZonesDigest, change.Of(m.zones)
	default:
		return false
	}
	brief.Zones = m.zones
	return true
}

// forget has the list read at the next time.
func (m *meshsync) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.digest, m.zones = "", nil
}
