package identity

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// AccessList names the administrative addresses that may connect at all, before any certificate is looked at (DELIV-2: RFC
// 3258 2.2). An empty one lets every address.
type AccessList []netip.Prefix

// Allows reports whether an address may connect.
func (a AccessList) Allows(address netip.Addr) bool {
	return len(a) == 0 || slices.ContainsFunc(a, func(p netip.Prefix) bool { return p.Contains(address.Unmap().WithZone("")) })
}

// Listener is l without the connections that the list does not allow: they are closed unread. The log names one of them a
// second, and how many more there were.
func (a AccessList) Listener(l net.Listener, log *slog.Logger) net.Listener {
	return Allowing(l, func() AccessList { return a }, log)
}

// Allowing is Listener with a list that may change.
func Allowing(l net.Listener, allowed func() AccessList, log *slog.Logger) net.Listener {
	return &listener{Listener: l, allowed: allowed, log: log}
}

type listener struct {
	net.Listener
	allowed func() AccessList
	log     *slog.Logger
	told    time.Time
	untold  int
}

// Accept implements net.Listener. http.Server calls it from one goroutine.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && l.allowed().Allows(from.Addr()) {
			return c, nil
		}
		c.Close()
		l.tell(c.RemoteAddr())
	}
}

func (l *listener) tell(from net.Addr) {
	now := time.Now()
	if now.Sub(l.told) < time.Second {
		l.untold++
		return
	}
	l.log.Warn("refused: its address is not in the access list", "remote", from.String(), "others before", l.untold)
	l.told, l.untold = now, 0
}
