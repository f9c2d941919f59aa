package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Codes of why a session is down. They are the same words in status, log and metrics; their number is fixed.
const (
	Connecting           = "connecting"            // nothing has come of it yet
	Waiting              = "waiting"               // the router is to connect, and has not
	Refused              = "connection-refused"    // nothing listens at the router, or it does not know this node
	NoAnswer             = "no-answer"             // no SYN-ACK came: a filter, a wrong password (RFC 2385), GTSM, or the router is down
	Unreachable          = "unreachable"           // there is no way to the router
	NoSource             = "no-source"             // this end's address is not there
	Failed               = "connection-failed"     // anything else that the kernel says
	Closed               = "connection-closed"     // by the router, without a word
	NotificationSent     = "notification-sent"     // and which (RFC 4271 4.5)
	NotificationReceived = "notification-received" // and which
	WrongAS              = "wrong-as"              // the router says that it is of another AS than configured
	HoldTimerExpired     = "hold-timer-expired"    // nothing was heard of the router for the hold time
	HoldTimeZero         = "hold-time-zero"        // the router wants neither side to notice that the other one has gone
	PrefixLimit          = "prefix-limit"          // the router sent more prefixes than it may
	BFDDown              = "bfd-down"              // BFD (RFC 5880) says that the router is gone
)

// Troubles lists every code above, for whoever counts or documents them.
var Troubles = []string{Connecting, Waiting, Refused, NoAnswer, Unreachable, NoSource, Failed, Closed, NotificationSent, NotificationReceived,
	WrongAS, HoldTimerExpired, HoldTimeZero, PrefixLimit, BFDDown}

// Log lines about one neighbour in one window, at most: a session that comes and goes must not fill the disk.
const (
	maxLines   = 6
	lineWindow = time.Minute
)

// troubles knows of each neighbour why its session is down. GoBGP tells nobody but its log, so that is what is
// listened to; a test has each story told by the real GoBGP.
type troubles struct {
	log     *slog.Logger
	refused func(netip.Addr) // the router answers with a NOTIFICATION that GoBGP does not tell; must return at once
	limited func(netip.Addr) // the router sent more prefixes than it may; must return at once

	abandoned atomic.Bool // nothing is heard nor said any more

	mu     sync.Mutex
	of     map[netip.Addr]*trouble
	silent bool // this side closes all sessions: that they end is no news
}

// trouble is one neighbour's.
type trouble struct {
	now    status.Reason // empty while the session is up
	asked  bool          // the router was asked for it
	paused bool          // by this side, so now says why, whatever else is heard

	said  status.Reason // that was logged last
	since time.Time     // of the window
	lines int
	Notifications
}

// Notifications counts NOTIFICATION messages since the start.
type Notifications struct{ Sent, Received uint64 }

func newTroubles(neighbors []Neighbor, log *slog.Logger) *troubles {
	t := &troubles{log: log, of: map[netip.Addr]*trouble{}}
	for _, n := range neighbors {
		t.begin(n)
	}
	return t
}

// begin makes a neighbour known of which nothing is known yet.
func (t *troubles) begin(n Neighbor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := status.Reason{Code: Connecting, Detail: "the first try is under way"}
	if n.Passive {
		now = status.Reason{Code: Waiting, Detail: "the router has not connected yet; a wrong password (TCP MD5) on either side looks the same"}
	}
	t.of[n.Address] = &trouble{now: now}
}

// down keeps why a session is down, and logs it when that has changed.
func (t *troubles) down(n netip.Addr, code, format string, args ...any) {
	t.set(n, status.Reason{Code: code, Detail: fmt.Sprintf(format, args...)}, false)
}

// set is down; asked is whether the router itself was asked why. Such words stand until another code comes.
func (t *troubles) set(n netip.Addr, why status.Reason, asked bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.of[n]
	if one == nil || one.paused || one.asked && !asked && one.now.Code == why.Code {
		return
	}
	one.now, one.asked = why, asked
	t.tell(n, one)
}

// tell logs the trouble of a neighbour if that is news. mu is held.
func (t *troubles) tell(n netip.Addr, one *trouble) {
	now := time.Now()
	if now.Sub(one.since) > lineWindow {
		one.since, one.lines = now, 0
	}
	if t.silent || one.now == one.said || one.lines >= maxLines {
		return
	}
	one.said = one.now
	one.lines++
	t.log.Warn("the BGP session is down", "neighbor", n.String(), "code", one.now.Code, "why", one.now.Detail)
}

// end says no more of sessions that end.
func (t *troubles) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent = true
}

// up says that a session is established.
func (t *troubles) up(n netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[n]; one != nil && !one.paused {
		one.now, one.said, one.asked = status.Reason{}, status.Reason{}, false
		t.log.Info("the BGP session is up", "neighbor", n.String())
	}
}

// pause keeps why this side took a session down, until resume.
func (t *troubles) pause(n netip.Addr, code, format string, args ...any) {
	t.down(n, code, format, args...)
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[n]; one != nil {
		one.paused = true
	}
}

func (t *troubles) paused(n netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[n] != nil && t.of[n].paused
}

func (t *troubles) resume(n netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[n]; one != nil {
		one.paused = false
	}
}

// why is the trouble of a neighbour now, and how many NOTIFICATIONs there were.
func (t *troubles) why(n netip.Addr) (status.Reason, Notifications) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[n]; one != nil {
		return one.now, one.Notifications
	}
	return status.Reason{}, Notifications{}
}

// listener is GoBGP's log. What it says of a neighbour's session becomes a trouble, the rest goes on to the log.
type listener struct {
	slog.Handler
	t        *troubles
	neighbor netip.Addr // of whom the records are; zero: of nobody in particular
}

// Enabled implements slog.Handler: why a connection fails is said for debugging only.
func (l *listener) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler. GoBGP gives each neighbour's log its address.
func (l *listener) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := &listener{l.Handler.WithAttrs(attrs), l.t, l.neighbor}
	for _, a := range attrs {
		if address, err := netip.ParseAddr(a.Value.String()); err == nil && a.Key == "Key" {
			next.neighbor = address
		}
	}
	return next
}

// WithGroup implements slog.Handler.
func (l *listener) WithGroup(name string) slog.Handler {
	return &listener{l.Handler.WithGroup(name), l.t, l.neighbor}
}

// Handle implements slog.Handler.
func (l *listener) Handle(ctx context.Context, r slog.Record) error {
	if l.t.abandoned.Load() {
		return nil
	}
	if l.neighbor.IsValid() && l.t.hear(l.neighbor, r) || !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// hear reports whether a record of GoBGP's is one that tells of the session, and needs no other line.
func (t *troubles) hear(n netip.Addr, r slog.Record) bool {
	words := map[string]slog.Value{}
	r.Attrs(func(a slog.Attr) bool { words[a.Key] = a.Value; return true })
	switch r.Message {
	case "failed to connect":
		code, detail := connectTrouble(words["Error"].String())
		t.down(n, code, "%s", detail)
	case "sent notification", "received notification":
		t.notified(n, r.Message == "received notification", uint8(words["Code"].Int64()), uint8(words["Subcode"].Int64()), text(words["Communicated-Reason"]))
	case "outgoing connection IO error", "Peer Down":
		t.broke(n, text(words["reason"])+text(words["Reason"]))
	case "state changed":
		if text(words["old"]) == packet.BGP_FSM_OPENCONFIRM.String() && text(words["reason"]) == "invalid-msg" {
			t.rejected(n)
		}
		t.broke(n, text(words["reason"]))
	case "Peer Up":
		t.up(n)
	case "prefix limit reached":
		if !t.paused(n) {
			t.pause(n, PrefixLimit, "the router sent more prefixes than it may (max_prefixes); it needs to send none")
			t.limited(n)
		}
	case "hold timer expired", "starting outgoing connection manager", "Administrative shutdown(Prefix limit reached)", "Administrative shutdown",
		"Administrative start", "previous setting admin state request is still remaining": // a line for each prefix above the limit
	default:
		return false
	}
	return true
}

func text(v slog.Value) string {
	if v.Kind() == slog.KindString {
		return v.String()
	}
	return ""
}

// connectTrouble makes a code of what the kernel said of a connection. GoBGP gives it as words.
func connectTrouble(err string) (code, detail string) {
	switch {
	case strings.HasSuffix(err, "connection refused"):
		return Refused, "the router refuses the connection: no BGP listens there, or it does not know this address"
	case strings.HasSuffix(err, "i/o timeout"), strings.HasSuffix(err, "connection timed out"):
		return NoAnswer, "the router does not answer the connection (no SYN-ACK): it is down, a filter is between, the password (TCP MD5) is not the same " +
			"on both sides, or one side demands a TTL (GTSM) that the other does not send"
	case strings.HasSuffix(err, "no route to host"), strings.HasSuffix(err, "network is unreachable"), strings.HasSuffix(err, "host is down"):
		return Unreachable, "there is no way to the router: " + lastWords(err)
	case strings.HasSuffix(err, "cannot assign requested address"):
		return NoSource, "the session's source address is not on this machine"
	case strings.HasSuffix(err, "connection reset by peer"):
		return Refused, "the router resets the connection: " + lastWords(err)
	}
	return Failed, err
}

// lastWords is what the kernel says, of an error that repeats the addresses before it.
func lastWords(err string) string { return strings.TrimSpace(err[strings.LastIndex(err, ":")+1:]) }

// notified takes a NOTIFICATION that was sent or received.
func (t *troubles) notified(n netip.Addr, received bool, code, subcode uint8, communicated string) {
	t.count(n, received)
	name := notificationName(code, subcode)
	if communicated != "" {
		name += fmt.Sprintf(", with the words %.128q", communicated)
	}
	switch {
	case received:
		t.down(n, NotificationReceived, "the router ended the session: %s", name)
	case code == 4:
		t.down(n, HoldTimerExpired, "nothing was heard of the router for the hold time: %s", name)
	case code == 2 && subcode == 2:
		t.down(n, WrongAS, "the router is of another AS than configured: %s", name)
		t.refused(n)
	case code == 5: // GoBGP's answer to a NOTIFICATION instead of an OPEN, of which it does not say more
		t.rejected(n)
	case code == 6 && communicated == "BFD is down", code == 6 && subcode == 10:
		t.down(n, BFDDown, "BFD says that the router is gone: %s", name)
	default:
		t.down(n, NotificationSent, "this side ended the session: %s", name)
	}
}

// rejected takes a message that came where OPEN or KEEPALIVE was due.
func (t *troubles) rejected(n netip.Addr) {
	t.down(n, NotificationReceived, "the router answered this side's OPEN with another message, a NOTIFICATION most likely")
	t.refused(n)
}

func (t *troubles) count(n netip.Addr, received bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[n]; one != nil && received {
		one.Received++
	} else if one != nil {
		one.Sent++
	}
}

// broke takes GoBGP's reason of a change of state. Most are told of elsewhere, with more words.
func (t *troubles) broke(n netip.Addr, reason string) {
	switch reason {
	case "read-failed", "write-failed", "graceful-restart":
		t.down(n, Closed, "the router closed the connection, or it broke: %s", reason)
	}
}
