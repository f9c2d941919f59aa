package xfr

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A signature of another time is answered by one that says so and can be verified, with the time that it is here (RFC 8945
// 5.2.3); one that is wrong otherwise, without.
func TestNotifyOfAnotherTime(t *testing.T) {
	t.Parallel()
	n := &NotifyTaker{Keys: map[string]*Key{key256.Name: key256}, Now: time.Now}
	then := time.Now().Add(-time.Hour)
	wire, mac, err := key256.sign(new(dns.Msg).SetNotify("example.org."), nil, then)
	if err != nil {
		t.Fatal(err)
	}
	reply := n.Answer(wire, netip.MustParseAddr("127.0.0.1"))
	v := newVerifier(key256, mac, func() time.Time { return then })
	if _, err := v.message(reply); err == nil || !v.later || !strings.Contains(err.Error(), "says BADTIME") {
		t.Errorf("verified %v, %v", v.later, err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil || m.Rcode != dns.RcodeNotAuth {
		t.Fatal(m, err)
	}
	if now, err := strconv.ParseInt(m.IsTsig().OtherData, 16, 64); err != nil || m.IsTsig().OtherLen != 6 || now < then.Add(time.Hour).Unix() {
		t.Errorf("%v, %v", m.IsTsig(), err)
	}
	wire[len(wire)-10] ^= 1 // in the MAC's end
	if err := m.Unpack(n.Answer(wire, netip.MustParseAddr("127.0.0.1"))); err != nil || m.IsTsig().Error != dns.RcodeBadSig || m.IsTsig().MACSize != 0 {
		t.Errorf("%v, %v", m, err)
	}
}
