package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// Where a member finds, on another's administrative plane, what that one holds of a switchover, and its verified metadata.
const (
	PromisePath    = "/v1/promise"
	RepositoryPath = "/v1/repository/"
)

const (
	membersEvery   = 250 * time.Millisecond // between two rounds of questions to other members, while there is need
	membersTimeout = time.Second            // for one of them to say what it holds
	membersAtOnce  = 32                     // asked at a time
	membersIdle    = 10 * time.Second       // a connection is kept after a question; others close theirs much later
)

// membersCalm is the time between two looks whether there is need, while no event has begun that may lead to it. A test makes it longer.
var membersCalm = 5 * time.Second

// members is what is known of the other members.
type members struct {
	mu       sync.Mutex
	verified release.Manifest       // the newest
	lease    int64                  // the version of its lease
	held     map[string]status.Held // what the others said last, while there is need to ask
	behind   []string               // members with a newer lease than this node's, to mirror from
	reached  instant.Mono           // when a repository or a member was last reached
	missed   time.Time              // since when no repository is reached; zero: one is
	quiet    times                  // of the last rounds that brought nothing
	newly    times                  // of the last rounds that brought metadata, and nothing but metadata
	wake     chan struct{}          // that there is a member to mirror from
	attend   chan struct{}          // that the others may have to be asked soon
}

// AskMembers asks the other members what they hold of the switchover, and mirrors newer metadata from them, until ctx ends:
// while asks reports that this node wants to know, while a switchover that is not committed is close, and while no
// repository is reached.
func (m *Mirror) AskMembers(ctx context.Context, asks func() bool) {
	transport := newTransport()
	transport.MaxIdleConnsPerHost, transport.IdleConnTimeout = 1, membersIdle
	client := newClient(m.cfg.Identity.Transport(transport))
	defer client.CloseIdleConnections()
	for wait := membersEvery; ; {
		select {
		case <-ctx.Done():
			return
		case <-m.members.attend:
		case <-time.After(wait):
		}
		if others := m.toAsk(time.Now(), asks()); len(others) > 0 {
			m.askRound(ctx, client, others)
		}
		wait = m.untilAsked(asks())
	}
}

// untilAsked is how long the others need not be asked, unless attend says that something has begun: a switchover that is to come, or a repository
// that is not reached. While either lasts, or meshsync asks, there may be need at any time.
func (m *Mirror) untilAsked(asks bool) time.Duration {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	if asks || m.near() || !m.members.missed.IsZero() {
		return membersEvery
	}
	return membersCalm
}

// near reports whether a switchover is known that is to come. The lock is held.
func (m *Mirror) near() bool {
	next := m.members.verified.Next
	return next != nil && !next.Switchover.IsZero()
}

// begun has AskMembers look at once, and as often as there may be need from then on. The lock is held.
func (m *Mirror) begun() {
	select {
	case m.members.attend <- struct{}{}:
	default:
	}
}

// toAsk are the members to ask now; none while there is no need to.
func (m *Mirror) toAsk(now time.Time, asks bool) (others []release.Member) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	next := m.members.verified.Next
	undecided := next != nil && !next.Switchover.IsZero() && !next.Committed && !now.Before(next.Decide)
	lost := !m.members.missed.IsZero() && now.Sub(m.members.missed) >= 2*m.every()
	if !asks && !(undecided && m.members.verified.Format != release.OldFormat) && !lost {
		m.members.held = nil
		return nil
	}
	for _, member := range m.members.verified.Members {
		if member.Name != m.cfg.Node {
			others = append(others, member)
		}
	}
	return others
}

// Addresses are the administrative addresses of the mesh's members, as its manifest has them: they may connect to each other
// (DELIV-2).
func (m *Mirror) Addresses() (all identity.AccessList) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	for _, member := range m.members.verified.Members {
		if u, err := url.Parse(member.Admin); err == nil {
			if a, err := netip.ParseAddr(u.Hostname()); err == nil {
				all = append(all, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return all
}

// askRound asks all of them at once, and takes in what they say.
func (m *Mirror) askRound(ctx context.Context, client *http.Client, others []release.Member) {
	m.members.mu.Lock()
	lease := m.members.lease
	m.members.mu.Unlock()
	var open sync.WaitGroup
	slots := make(chan struct{}, membersAtOnce)
	for _, member := range others {
		slots <- struct{}{}
		open.Go(func() {
			defer func() { <-slots }()
			if held, err := askMember(ctx, client, member, lease); err == nil {
				m.heard(member.Name, held)
			}
		})
	}
	open.Wait()
}

// heard takes in what a member said.
func (m *Mirror) heard(name string, held status.Held) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	if m.members.held == nil {
		m.members.held = map[string]status.Held{}
	}
	m.members.held[name] = held
	m.members.reached = sysclock.Now().Mono
	m.isAhead(name, held.Lease)
}

// Asked says that a member which has that lease has asked what this node holds. If its lease is newer, this node's repository is
// stale, or a link to it: the metadata is taken from the one that asks.
func (m *Mirror) Asked(name string, lease int64) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	m.isAhead(name, lease)
}

// isAhead has metadata taken from a member whose lease is newer than this node's. The lock is held.
func (m *Mirror) isAhead(name string, lease int64) {
	if lease <= m.members.lease || slices.Contains(m.members.behind, name) {
		return
	}
	m.members.behind = append(m.members.behind, name)
	select {
	case m.members.wake <- struct{}{}:
	default:
	}
}

// askMember asks a member what it holds, and tells it the lease that this node has.
func askMember(ctx context.Context, client *http.Client, member release.Member, lease int64) (held status.Held, err error) {
	ctx, cancel := context.WithTimeout(ctx, membersTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s%s?lease=%d", member.Admin, PromisePath, lease), nil)
	if err != nil {
		return held, err
	}
	response, err := client.Do(request)
	if err != nil {
		return held, err
	}
	defer depot.Finish(response)
	certificate := response.TLS.PeerCertificates[0]
	if !isMember(member, certificate.Subject.CommonName, identity.PinOf(certificate)) {
		response.Body.Close() // unread, which ends the connection: a new one may be with another certificate
		return held, fmt.Errorf("%s has the certificate of %q", member.Admin, certificate.Subject.CommonName)
	}
	if response.StatusCode != http.StatusOK {
		return held, fmt.Errorf("%s said %s", member.Admin, response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxHeld))
	if err != nil {
		return held, err
	}
	if err := status.Decode(data, &held); err != nil {
		return held, err
	}
	if held.Node != member.Name {
		return held, fmt.Errorf("%s calls itself %q", member.Admin, held.Node)
	}
	return held, nil
}

const maxHeld = 4096 // octets

func isMember(m release.Member, name string, key release.Digest) bool {
	return m.Name == name && m.Has(key)
}

// IsMember reports whether a certificate of that name and key is a member's, by the newest manifest.
func (m *Mirror) IsMember(name string, key release.Digest) bool {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	return slices.ContainsFunc(m.members.verified.Members, func(member release.Member) bool { return isMember(member, name, key) })
}

// Members is how many members there are, by the newest manifest.
func (m *Mirror) Members() int {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	return len(m.members.verified.Members)
}

// Held is what other members said that they hold of the switchover, and when somebody was last reached: for meshsync.
func (m *Mirror) Held() (all []status.Held, reached instant.Mono) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	for _, held := range m.members.held {
		all = append(all, held)
	}
	slices.SortFunc(all, func(a, b status.Held) int { return cmp.Compare(a.Node, b.Node) })
	return all, m.members.reached
}

// ahead are the members that were found to have newer metadata, each once.
func (m *Mirror) ahead() (all []release.Member) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	for _, member := range m.members.verified.Members {
		if slices.Contains(m.members.behind, member.Name) {
			all = append(all, member)
		}
	}
	m.members.behind = nil
	return all
}

// followMembers takes newer metadata from members that have it. It is signed, so they need not be trusted for it (DELIV-3).
func (m *Mirror) followMembers(ctx context.Context, dir *depot.Dir) error {
	var faults []error
	for _, member := range m.ahead() {
		changed, err := m.followMember(ctx, dir, member)
		if err != nil {
			faults = append(faults, fmt.Errorf("member %s: %w", member.Name, err))
			continue
		}
		if changed {
			m.log.Info("newer metadata came from a member", "member", member.Name)
		}
	}
	return errors.Join(faults...)
}

func (m *Mirror) followMember(ctx context.Context, dir *depot.Dir, member release.Member) (bool, error) {
	memory, err := m.remembered()
	if err != nil {
		return false, err
	}
	from := depot.Source{Client: m.client, URL: member.Admin + strings.TrimSuffix(RepositoryPath, "/"), Metadata: true, Known: &m.depot}
	view, memory, changed, err := depot.Look(ctx, from.Client, from.URL, memory, dir).Take(ctx, from, dir, memory)
	return changed, errors.Join(err, m.keep(view, memory))
}

// learnt keeps who is a member, and how the newest switchover stands.
func (m *Mirror) learnt(v release.View) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	m.members.verified, m.members.lease = v.Manifest, v.Versions.Timestamp
	if m.near() {
		m.begun()
	}
}

// round is how a round over the repositories went.
type round struct {
	took  time.Duration
	good  bool // one of them was
	news  bool // something came
	zones bool // zones came, or were read through, which says nothing of how long metadata takes
}

// rounded takes in how a round went.
func (m *Mirror) rounded(r round) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	if !r.good {
		if m.members.missed.IsZero() {
			m.members.missed = time.Now()
			m.begun()
		}
		return
	}
	m.members.missed, m.members.reached = time.Time{}, sysclock.Now().Mono
	switch {
	case r.zones:
	case r.news:
		m.members.newly.add(r.took)
	default:
		m.members.quiet.add(r.took)
	}
}

// times are how long rounds took, the last one at the end.
type times []time.Duration

const (
	keptTimes = 128
	// A round that takes hung or longer tells of a server, a line or a machine that stood still. It counts when hungMost of the last hungOf
	// did. Rounds that always count must not make leads so long that a switchover under way and the next one take more than the minute in
	// which a mesh is as it should be once all is healed (I6): a lead has twice what the slowest member needs to hear, which is the interval and one
	// and a half rounds, and some seconds.
	hung             = 2 * time.Second
	hungMost, hungOf = 3, 16
)

func (t *times) add(took time.Duration) {
	*t = append((*t)[max(0, len(*t)+1-keptTimes):], took)
}

// usual is the 99th percentile, but for a round now and then that hung: who waits for it waits in vain, and one that comes too late is
// no harm, since the switchover is proposed again.
func (t times) usual() time.Duration {
	hangs := func(took time.Duration) bool { return took >= hung }
	lately, often := t[max(0, len(t)-hungOf):], 0
	for _, took := range lately {
		if hangs(took) {
			often++
		}
	}
	all := slices.Clone(t)
	if often < hungMost {
		all = slices.DeleteFunc(all, hangs)
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[(len(all)*99+99)/100-1]
}

// Hears is the longest that this node may take to hear of what is published, by its last rounds, with half as much again to spare: the
// interval between looks, or, where a request is held, the time until a host answers it. Where one was lost, as when a host is started again, it
// is the time until the next one is made. One that is too short for a request that is lost once more costs a proposal, which is made again.
func (m *Mirror) Hears() time.Duration {
	wait := min(m.soonest()+2*spread*time.Duration(m.Members()), m.every()+m.every()/10)
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	took := max(m.members.quiet.usual(), m.members.newly.usual())
	return wait + took + took/2
}
