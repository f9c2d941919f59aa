package receive

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// Keys that the servers know, by algorithm.
var testKeys = map[string]*xfr.Key{}

func init() {
	for algorithm, k := range primarytest.Keys {
		testKeys[algorithm] = &xfr.Key{Name: k.Name, Algorithm: k.Algorithm, Secret: k.Secret}
	}
	key256 = testKeys[dns.HmacSHA256]
}

var key256 *xfr.Key

func primary(d *primarytest.Server, k *xfr.Key) xfr.Primary {
	return xfr.Primary{Address: d.Addr, Key: k}
}

// updates collects what a Receiver tells.
type updates chan Update

func (u updates) next(t *testing.T) Update {
	t.Helper()
	select {
	case got := <-u:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was told within 30 s")
		return Update{}
	}
}

// receiver runs a Receiver until stop.
func receiver(t *testing.T, c *Config, dir string) (r *Receiver, told updates, stop func()) {
	t.Helper()
	told = make(updates, 1000)
	r, err := New(c, Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state"), Updated: func(u Update) { told <- u }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			ended <- nil
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return r, told, stop
}
