package meshsync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

// secondary is a server outside the mesh that is told of zones with a new serial (RFC 1996, XFER-1).
type secondary struct {
	addr        netip.AddrPort
	source      netip.Addr // the administrative address; the system's choice if it is not valid
	key, secret string     // of TSIG; none if empty
	zones       string     // of the server block, with spaces between
}

// Bounds of what a secondary is sent: some thousand NOTIFY messages a second while it answers, and a handful if not.
const (
	notifyBatch   = 16 // messages under way at once
	notifyPace    = 16 * time.Millisecond
	notifyTimeout = time.Second     // for a response
	notifyTries   = 5               // batches without any response after which the rest is given up
	notifyBackoff = 2 * time.Second // pause after the first of them, twice that after the next, and so on
)

// audience are the secondaries that are told of new releases, each by a goroutine of its own.
type audience struct {
	ctx     context.Context
	running *sync.WaitGroup

	sync.Mutex
	told map[secondary]*listener
}

// listener is what leads to a secondary's goroutine.
type listener struct {
	releases chan []*leaf // the newest one only
	leave    context.CancelFunc
}

func (a *audience) init(ctx context.Context, running *sync.WaitGroup) {
	a.ctx, a.running, a.told = ctx, running, map[secondary]*listener{}
}

// set makes the audience consist of these. Who stays in it misses nothing.
func (a *audience) set(wanted []secondary) {
	a.Lock()
	defer a.Unlock()
	for s, l := range a.told {
		if !slices.Contains(wanted, s) {
			l.leave()
			delete(a.told, s)
		}
	}
	for _, s := range wanted {
		if a.told[s] != nil {
			continue
		}
		ctx, leave := context.WithCancel(a.ctx)
		l := &listener{releases: make(chan []*leaf, 1), leave: leave}
		a.told[s] = l
		a.running.Go(func() { s.follow(ctx, l.releases, notifyBackoff) })
	}
}

// activated has everybody told of a release. It waits for nobody.
func (a *audience) activated(c *compiled) {
	a.Lock()
	defer a.Unlock()
	if len(a.told) == 0 {
		return
	}
	zones := c.leaves()
	for _, l := range a.told {
		select {
		case <-l.releases: // an older one that was not yet looked at
		default:
		}
		l.releases <- zones
	}
}

// leaves are those of a release: of what was signed, without the zones that were made, which nobody is to keep here.
func (c *compiled) leaves() []*leaf {
	all := make([]*leaf, len(c.parts))
	for i, p := range c.parts {
		all[i] = p.leaf
	}
	return all
}

// follow tells a secondary of each release's zones that are new to it, at first of all.
func (s secondary) follow(ctx context.Context, releases <-chan []*leaf, backoff time.Duration) {
	var known []*leaf
	var queue []string
	failures, refusals := 0, 0
	for {
		var due <-chan time.Time
		if len(queue) > 0 {
			due = time.After(pause(failures, backoff))
		}
		select {
		case <-ctx.Done():
			return
		case zones := <-releases:
			queue, known, failures = s.changed(queue, known, zones), zones, 0
		case <-due:
			n := min(len(queue), notifyBatch)
			left, refused, err := s.notify(ctx, queue[:n])
			queue, refusals = append(queue[n:], left...), refusals+refused
			if len(left) < n {
				failures = 0
			} else if failures++; failures == notifyTries {
				notifies.WithLabelValues("unanswered").Add(float64(len(queue)))
				log.Warningf("secondary %s does not answer, and was not told of %d zones: %v", s.addr, len(queue), err)
				queue = nil
			}
			if len(queue) == 0 && refusals > 0 {
				log.Warningf("secondary %s refuses NOTIFY of %d zones", s.addr, refusals)
				refusals = 0
			}
		}
	}
}

func pause(failures int, backoff time.Duration) time.Duration {
	if failures == 0 {
		return notifyPace
	}
	return backoff << (failures - 1)
}

// changed adds to a queue the zones that are the secondary's business and have another serial than among those known.
func (s secondary) changed(queue []string, known, zones []*leaf) []string {
	served := plugin.Zones(strings.Fields(s.zones))
	serials := map[string]uint32{}
	for _, l := range onlyIn(known, zones) {
		for i := range l.signed {
			serials[l.signed[i].Origin] = l.signed[i].Serial
		}
	}
	queued := make(map[string]bool, len(queue))
	for _, origin := range queue {
		queued[origin] = true
	}
	for _, l := range onlyIn(zones, known) {
		for i := range l.signed {
			z := &l.signed[i]
			if serial, ok := serials[z.Origin]; (!ok || serial != z.Serial) && !queued[z.Origin] && served.Matches(z.Origin) != "" {
				queue = append(queue, z.Origin)
			}
		}
	}
	return queue
}

// notify tells the secondary of zones, all at once. It returns those for which there was no response, with the reason of
// one, and how many of the others it would not hear of.
func (s secondary) notify(ctx context.Context, zones []string) (unanswered []string, refused int, reason error) {
	errs := make([]error, len(zones))
	var done sync.WaitGroup
	for i, origin := range zones {
		done.Go(func() { errs[i] = s.notifyOne(ctx, origin) })
	}
	done.Wait()
	for i, err := range errs {
		switch {
		case err == nil:
			notifies.WithLabelValues("acknowledged").Inc()
		case errors.Is(err, errRefused):
			notifies.WithLabelValues("refused").Inc()
			refused++
			log.Debugf("secondary %s, NOTIFY of %s: %v", s.addr, zones[i], err)
		default:
			unanswered, reason = append(unanswered, zones[i]), err
		}
	}
	return unanswered, refused, reason
}

var errRefused = errors.New("refused")

func (s secondary) notifyOne(ctx context.Context, origin string) error {
	m := new(dns.Msg).SetNotify(origin)
	c := &dns.Client{Timeout: notifyTimeout}
	if s.source.IsValid() {
		c.Dialer = &net.Dialer{Timeout: notifyTimeout, LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.source, 0))}
	}
	if s.key != "" {
		c.TsigSecret = map[string]string{s.key: s.secret}
		m.SetTsig(s.key, dns.HmacSHA256, 300, time.Now().Unix())
	}
	response, _, err := c.ExchangeContext(ctx, m, s.addr.String())
	if response != nil && response.Rcode != dns.RcodeSuccess { // a refusal is often not signed, which is an error too
		return fmt.Errorf("%w: %s", errRefused, dns.RcodeToString[response.Rcode])
	}
	return err
}
