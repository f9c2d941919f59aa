package socket

import (
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestListenErrorsSayWhatToDo: which address is not here, who holds a port, and what a low port takes.
func TestListenErrorsSayWhatToDo(t *testing.T) {
	held, err := ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for at, want := range map[string]string{
		"192.0.2.77:8443":     "no interface of this machine has 192.0.2.77: correct the address, or, if it is to be here: ip addr add 192.0.2.77/32 dev lo",
		"[2001:db8::77]:8443": "ip addr add 2001:db8::77/128 dev lo",
		held.Addr().String():  "another process holds it, see ss -lnp 'sport = :",
	} {
		if l, err := ListenTCP(netip.MustParseAddrPort(at)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %s", at, l, err, want)
		}
	}
	refused := &os.SyscallError{Syscall: "bind", Err: syscall.EACCES}
	if err := Explain(refused, netip.MustParseAddrPort("192.0.2.53:53")); !strings.Contains(err.Error(), "permission denied: port 53 takes root, or CAP_NET_BIND_SERVICE") {
		t.Error(err)
	}
	if err := Explain(refused, netip.MustParseAddrPort("192.0.2.53:5300")); err != error(refused) {
		t.Error(err)
	}
}
