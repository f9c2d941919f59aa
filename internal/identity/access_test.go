package identity

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestAccessList(t *testing.T) {
	list := AccessList{netip.MustParsePrefix("127.0.0.2/31"), netip.MustParsePrefix("2001:db8::/32")}
	for address, want := range map[string]bool{"127.0.0.2": true, "::ffff:127.0.0.3": true, "127.0.0.1": false, "127.0.0.4": false,
		"2001:db8::1": true, "2001:db9::1": false, "fe80::1%lo": false} {
		if got := list.Allows(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if !(AccessList)(nil).Allows(netip.MustParseAddr("192.0.2.1")) {
		t.Error("an empty list refuses")
	}
}

// Who is not in the list gets no octet and is named, however many there are; who is gets through between them.
func TestAccessListListener(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var log bytes.Buffer
	l := AccessList{netip.MustParsePrefix("127.0.0.2/32")}.Listener(plain, slog.New(slog.NewTextHandler(&log, nil)))
	connect := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	var strangers []net.Conn
	for range 20 {
		strangers = append(strangers, connect("127.0.0.1"))
	}
	friend := connect("127.0.0.2")
	accepted, err := l.Accept()
	if err != nil || accepted.RemoteAddr().String() != friend.LocalAddr().String() {
		t.Fatalf("accepted %v, %v", accepted, err)
	}
	for _, c := range strangers {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("a stranger got %d octets, %v", n, err)
		}
		c.Close()
	}
	if lines := strings.Count(log.String(), "access list"); lines != 1 || !strings.Contains(log.String(), strangers[0].LocalAddr().String()) {
		t.Errorf("%d lines: %s", lines, log.String())
	}
	accepted.Close()
	if _, err := io.ReadAll(friend); err != nil {
		t.Error(err)
	}
	friend.Close()
}
