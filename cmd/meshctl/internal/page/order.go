package page

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
)

// Orders that an operator gives.
const (
	Schedule = "schedule"
	Cancel   = "cancel"
	Pause    = "pause"
	Resume   = "resume"
	Drain    = "drain"
	Undrain  = "undrain"
)

// Order is one of them.
type Order struct {
	Kind   string
	Member string        // of Drain and Undrain
	Who    string        // gives it: the name in the certificate
	Why    string        // for the record, of Pause and Drain
	Lead   time.Duration // of Schedule: from the proposal to the switchover; 0: as short as is safe
}

// Bounds of a form, in octets, and of a lead.
const (
	maxForm = 4 << 10
	maxWhy  = 200
	maxLead = 7 * 24 * time.Hour
)

// confirmation is what an order's own page says before it is given.
type confirmation struct {
	Title        string
	Consequences []string
	Warning      string
	Button       string
	Kind, Member string
	AsksWhy      bool
	AsksLead     bool
	Token        string
	Mesh         string
	Reader       Reader
}

// outcome is what is said after it.
type outcome struct {
	Title, Said, Hint, Mesh string
	Reader                  Reader
}

// confirmationOf names the consequence of an order; ok is false if there is none to give.
func confirmationOf(d Document, kind, member string) (c confirmation, ok bool) {
	s := d.Status
	c = confirmation{Kind: kind, Member: member, Mesh: s.Mesh, Reader: d.Reader}
	switch kind {
	case Schedule:
		if s.Next == nil || !s.Next.Switchover.IsZero() {
			return c, false
		}
		c.scheduling(d)
	case Cancel:
		if s.Next == nil || s.Next.Switchover.IsZero() || s.Next.Committed {
			return c, false
		}
		c.Title, c.Button = fmt.Sprintf("Cancel the switchover to release %d?", s.Next.Number), "Cancel the switchover"
		c.Consequences = []string{fmt.Sprintf("The switchover at %s is withdrawn, if it is not committed by then. No member makes it.", fullTime(s.Next.Switchover)),
			"Publication is paused: no release is made and no other switchover proposed until it is resumed."}
	case Pause:
		c.Title, c.Button, c.AsksWhy = "Pause publication?", "Pause publication", true
		c.Consequences = []string{"No distribution host makes a release or proposes a switchover until publication is resumed.",
			"Changes of zones do not reach clients meanwhile.", "Leases are renewed as before, and a switchover that is committed is made."}
	case Resume:
		c.Title, c.Button = "Resume publication?", "Resume publication"
		c.Consequences = []string{"Releases are made and switchovers proposed again, at once if one is staged and members are ready."}
	case Drain, Undrain:
		return c, c.draining(d)
	default:
		return c, false
	}
	return c, true
}

func (c *confirmation) scheduling(d Document) {
	s := d.Status
	c.Title, c.Button, c.AsksLead = fmt.Sprintf("Switch to release %d?", s.Next.Number), "Propose the switchover", true
	from := "All members begin to answer from it at one instant."
	if s.Current != nil {
		from = fmt.Sprintf("All members go from release %d to release %d at one instant.", s.Current.Number, s.Next.Number)
	}
	c.Consequences = []string{from, "It can be cancelled until it is committed, shortly before that. Then only another release undoes it."}
	if s.Paused != "" {
		c.Consequences = append(c.Consequences, "The pause ends: "+s.Paused)
	}
	var lacking []string
	for _, m := range s.Members {
		if m.Confirmation == nil || m.Confirmation.Confirms.Staged < s.Next.Number {
			lacking = append(lacking, m.Name)
		}
	}
	if len(lacking) > 0 {
		c.Warning = countWords(len(lacking), len(s.Members), lacking) + " not ready: nothing is proposed unless that changes within half a minute"
	}
}

// draining says what becomes of a member's clients; it reports false for one that is not there.
func (c *confirmation) draining(d Document) bool {
	found, others := false, 0
	for _, m := range membersOf(d.Status).Tiles {
		switch {
		case m.Name == c.Member:
			found = true
		case m.State == stateGood || m.State == stateNoted:
			others++
		}
	}
	if !found {
		return false
	}
	if c.Kind == Undrain {
		c.Title, c.Button = "Bring "+c.Member+" back?", "Bring it back"
		c.Consequences = []string{c.Member + " announces its routes again as soon as its service is good.", "Clients that are nearest to it come back to it."}
		return true
	}
	c.Title, c.Button, c.AsksWhy = "Drain "+c.Member+"?", "Drain "+c.Member, true
	c.Consequences = []string{c.Member + " announces its routes as the worst of ways, and withdraws them after the wait that it is configured with.",
		fmt.Sprintf("Its clients go to other members: %d of %d others are in service.", others, len(d.Status.Members)-1),
		"It stays out of service, over restarts too, until it is brought back."}
	if others == 0 {
		c.Warning = "No other member is in service: clients will reach nobody"
	}
	return true
}

// guard is what makes tokens: good for one reader, one order, and as long as this process runs.
type guard struct{ key [32]byte }

func newGuard() (g guard) {
	rand.Read(g.key[:])
	return g
}

func (g *guard) token(r *http.Request, kind, member string) string {
	pin := identity.PinOf(r.TLS.PeerCertificates[0])
	m := hmac.New(sha256.New, g.key[:])
	fmt.Fprintf(m, "%x %q %q", pin, kind, member)
	return hex.EncodeToString(m.Sum(nil))
}

// mayOrder refuses who is no operator.
func mayOrder(w http.ResponseWriter, r *http.Request) bool {
	if readerOf(r).operates() {
		return true
	}
	http.Error(w, fmt.Sprintf("%q with the role %q gives no orders", readerOf(r).Name, readerOf(r).Role), http.StatusForbidden)
	return false
}

// confirm shows an order's consequence, and the form that gives it.
func (h *Handler) confirm(w http.ResponseWriter, r *http.Request) {
	if !mayOrder(w, r) {
		return
	}
	d, _, err := h.look(readerOf(r))
	if err != nil {
		http.Error(w, "the mesh cannot be shown: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	c, ok := confirmationOf(d, r.FormValue("do"), r.FormValue("member"))
	if !ok {
		h.answer(w, http.StatusConflict, "outcome", outcome{"There is nothing to do", "The mesh has moved on, or there is no such order.", "", d.Status.Mesh, d.Reader})
		return
	}
	c.Token = h.guard.token(r, c.Kind, c.Member)
	h.answer(w, http.StatusOK, "confirm", c)
}

// order gives one: of the same origin, with the token of its form, by an operator.
func (h *Handler) order(w http.ResponseWriter, r *http.Request) {
	if !mayOrder(w, r) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	o, err := readOrder(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !hmac.Equal([]byte(r.PostFormValue("token")), []byte(h.guard.token(r, o.Kind, o.Member))) {
		http.Error(w, "the form is not of this page, or the host was started again since: go back and reload it", http.StatusForbidden)
		return
	}
	h.Log.Info("order by the page", "order", o.Kind, "member", o.Member, "who", o.Who, "why", o.Why)
	said, err := h.Do(r.Context(), o)
	out := outcome{Title: "Done", Said: said, Mesh: h.looks.forget(), Reader: readerOf(r)}
	code := http.StatusOK
	if err != nil {
		code = http.StatusConflict
		out.Title, out.Said = "Not done", err.Error()
		var hinted *hint.Error
		if errors.As(err, &hinted) {
			out.Hint = hinted.Hint
		}
	}
	h.answer(w, code, "outcome", out)
}

func readOrder(r *http.Request) (o Order, err error) {
	if err := r.ParseForm(); err != nil {
		return o, err
	}
	o = Order{Kind: r.PostFormValue("do"), Member: r.PostFormValue("member"), Who: readerOf(r).Name, Why: strings.TrimSpace(r.PostFormValue("why"))}
	if len(o.Why) > maxWhy {
		return o, fmt.Errorf("why: %d octets, at most %d", len(o.Why), maxWhy)
	}
	if lead := strings.TrimSpace(r.PostFormValue("lead")); lead != "" {
		if o.Lead, err = time.ParseDuration(lead); err != nil || o.Lead < 0 || o.Lead > maxLead {
			return o, fmt.Errorf("lead %.40q: want a length of time such as 90s or 10m, at most %v", lead, maxLead)
		}
	}
	return o, nil
}

// answer writes one of the small pages.
func (h *Handler) answer(w http.ResponseWriter, code int, name string, data any) {
	html, err := render(name, data)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprint(w, html)
}

// forget has members asked again, and returns the name of the mesh.
func (l *looks) forget() (mesh string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.read = time.Time{}, time.Time{}
	return l.status.Mesh
}
