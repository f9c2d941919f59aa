package switchover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Answer is a member's word, or why there is none.
type Answer struct {
	Confirmation status.Confirmation
	Err          error
}

// Ask collects the confirmations of members: every one gets an entry.
type Ask func(ctx context.Context, members []release.Member) map[string]Answer

const (
	AskTimeout = 2 * time.Second // one member, connection included
	askAtOnce  = 64              // members asked at a time
	maxHeader  = 64 << 10        // octets of the header of an answer, of which an error may have any
)

// Asker asks members at /v1/confirmations of their administrative plane (SYNC-D).
func Asker(own *identity.Identity) Ask {
	client := &http.Client{
		Timeout:   AskTimeout,
		Transport: own.Transport(&http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxHeader}),
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects, which an administrative plane never does")
		},
	}
	t := &turns{one: func(ctx context.Context, m release.Member) (status.Confirmation, error) {
		c, err := askOne(ctx, client, m)
		return c, brief(err)
	}, last: map[string]turn{}}
	return t.ask
}

// brief is an error, or of one whose words are too long, as a member may choose some of them, what is to be told of it.
func brief(err error) error {
	if unwell := new(UnwellError); err == nil || errors.As(err, &unwell) || len(err.Error()) <= status.MaxText {
		return err
	}
	return errors.New(status.Cut(err.Error()))
}

// turns asks members, askAtOnce at a time. Any number of goroutines may use it.
type turns struct {
	one func(ctx context.Context, m release.Member) (status.Confirmation, error)

	guard sync.Mutex
	last  map[string]turn // by member
}

// turn is when a member was asked last.
type turn struct {
	at   time.Time
	mute bool // it gave no answer
}

func (t turn) compare(other turn) int {
	switch {
	case t.mute == other.mute:
		return t.at.Compare(other.at)
	case t.mute:
		return 1
	}
	return -1
}

// order has those first who answered last, and of these and the others those who have waited longest. If as many hang as are asked at a time,
// the others must not wait for them in each round: no switchover would be committed, since a round of questions is short then.
func (t *turns) order(members []release.Member) []release.Member {
	t.guard.Lock()
	defer t.guard.Unlock()
	all := slices.Clone(members)
	slices.SortStableFunc(all, func(a, b release.Member) int { return t.last[a.Name].compare(t.last[b.Name]) })
	return all
}

func (t *turns) ask(ctx context.Context, members []release.Member) map[string]Answer {
	answers := make(map[string]Answer, len(members))
	var open sync.WaitGroup
	slots := make(chan struct{}, askAtOnce)
	for _, m := range t.order(members) {
		slots <- struct{}{}
		began, asked, err := time.Now(), ctx.Err() == nil, context.Cause(ctx)
		open.Go(func() {
			defer func() { <-slots }()
			var c status.Confirmation
			if asked {
				c, err = t.one(ctx, m)
			}
			t.guard.Lock()
			defer t.guard.Unlock()
			answers[m.Name] = Answer{c, err}
			if asked {
				t.last[m.Name] = turn{began, err != nil}
			}
		})
	}
	open.Wait()
	return answers
}

// UnwellError is a member's word that it has none of its DNS server, with what it says all the same: how its route is, and why.
type UnwellError struct{ Said status.Confirmation }

func (e *UnwellError) Error() string {
	why := "it has no word of its DNS server"
	for _, r := range e.Said.Why {
		if r.Code == gate.ProbeDead || r.Code == gate.MeshsyncUnknown {
			why += "; " + r.String()
		}
	}
	return why
}

// refusal is what a member said in place of a confirmation.
func refusal(m release.Member, code string, data []byte) error {
	var said status.Confirmation
	if status.Decode(data, &said) == nil && said.Node == m.Name {
		bounded(&said)
		return &UnwellError{said}
	}
	return fmt.Errorf("%s said %s: %.200s", m.Admin, code, bytes.TrimSpace(data))
}

func askOne(ctx context.Context, client *http.Client, m release.Member) (status.Confirmation, error) {
	var c status.Confirmation
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Admin+"/v1/confirmations", nil)
	if err != nil {
		return c, err
	}
	response, err := client.Do(request)
	if err != nil {
		return c, err
	}
	defer response.Body.Close()
	// A certificate outlives a membership, and an address may have been another member's.
	certificate := response.TLS.PeerCertificates[0]
	if owner := certificate.Subject.CommonName; owner != m.Name {
		return c, fmt.Errorf("%s has the certificate of %q", m.Admin, owner)
	}
	if !m.Has(identity.PinOf(certificate)) {
		return c, fmt.Errorf("%s has a certificate of %s that was revoked", m.Admin, m.Name)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxWord+1))
	if err != nil {
		return c, err
	}
	if len(data) > maxWord {
		return c, fmt.Errorf("%s says more than %d octets", m.Admin, maxWord)
	}
	if response.StatusCode != http.StatusOK {
		return c, refusal(m, response.Status, data)
	}
	if err := status.Decode(data, &c); err != nil {
		return c, err
	}
	if c.Node != m.Name {
		return c, fmt.Errorf("%s calls itself %.100q", m.Admin, c.Node)
	}
	bounded(&c)
	return c, nil
}

// Alarms are what the protocol calls for, as a host would find that has just begun: for who is not the one that drives it.
func Alarms(state mesh.State, p mesh.Policy, answers map[string]Answer, began, ended instant.Instant) []status.Reason {
	h := mesh.NewHost(p)
	h.Read(state)
	h.Asked(words(answers), began, ended)
	return h.Decide(ended).Alarms
}
