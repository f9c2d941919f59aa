package query

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The examples of RFC 9018, appendix A.
func TestRFC9018Examples(t *testing.T) {
	secrets := func(s ...string) Secrets {
		all, err := ReadKeys(strings.NewReader(strings.Join(s, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		return all.Secrets(0)
	}
	const first, second, third = "e5e973e5a6b2a43f48e7dc849e37bfcf", "445536bcd2513298075a5d379663c962", "dd3bdf9344b678b185a6f5cb60fca715"
	for _, c := range []struct {
		name, sent string
		secrets    Secrets
		client     string
		now        uint32
		state      CookieState
		want       string
	}{
		{"A.1, learning a new server cookie", "2464c4abcf10c957", secrets(first), "198.51.100.100", 1559731985, CookieBad,
			"2464c4abcf10c957010000005cf79f111f8130c3eee29480"},
		{"A.2, the same client learning a renewed one", "2464c4abcf10c957010000005cf79f111f8130c3eee29480", secrets(first), "198.51.100.100", 1559734385, CookieOld,
			"2464c4abcf10c957010000005cf7a871d4a564a1442aca77"},
		{"A.3, another client, and reserved octets that are not zero", "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", secrets(first), "203.0.113.203", 1559729985, CookieOld, ""},
		{"A.4, IPv6 query with rolled over secret", "22681ab97d52c298010000005cf7c57926556bd0934c72f8", secrets(second, third), "2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961, CookieOld,
			"22681ab97d52c298010000005cf7c609a6bb79d16625507a"},
	} {
		q := Query{Cookie: unhex(t, c.sent)}
		client := netip.MustParseAddr(c.client)
		if state := q.CheckCookie(c.secrets, client, c.now); state != c.state {
			t.Errorf("%s: state %v, want %v", c.name, state, c.state)
		}
		if c.want == "" {
			continue
		}
		if got := q.AppendCookie(nil, c.state, c.secrets, client, c.now); hex.EncodeToString(got) != "000a0018"+c.want {
			t.Errorf("%s: %x, want %s", c.name, got, c.want)
		}
	}
}

// A cookie that was just made is good, and as long as it is not old it is given again; it is not for another client, not with
// another secret, not too late, and not if it is of a clock that is far ahead.
func TestCookieIsGood(t *testing.T) {
	secrets, other := Secrets{{1}, {2}}, Secrets{{3}}
	client := netip.MustParseAddr("192.0.2.1")
	const now = 1 << 31
	q := Query{Cookie: []byte("clientco")}
	if q.CheckCookie(secrets, client, now) != CookieBad {
		t.Error("a client's cookie alone is good")
	}
	q.Cookie = q.AppendCookie(nil, CookieBad, secrets, client, now)[4:]
	for _, c := range []struct {
		name    string
		secrets Secrets
		client  string
		now     uint32
		want    CookieState
	}{
		{"at once", secrets, "192.0.2.1", now, CookieGood},
		{"after the secret was moved back", Secrets{{4}, {1}}, "192.0.2.1", now, CookieOld},
		{"59 minutes later", secrets, "192.0.2.1", now + 59*60, CookieOld},
		{"61 minutes later", secrets, "192.0.2.1", now + 61*60, CookieBad},
		{"at a node whose clock is 4 minutes behind", secrets, "192.0.2.1", now - 4*60, CookieGood},
		{"at one that is 6 minutes behind", secrets, "192.0.2.1", now - 6*60, CookieBad},
		{"from another client", secrets, "192.0.2.2", now, CookieBad},
		{"with another secret", other, "192.0.2.1", now, CookieBad},
	} {
		if got := q.CheckCookie(c.secrets, netip.MustParseAddr(c.client), c.now); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if again := q.AppendCookie(nil, CookieGood, secrets, client, now+60)[4:]; string(again) != string(q.Cookie) {
		t.Errorf("%x was given after %x", again, q.Cookie)
	}
}

func TestSecretsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "no secret",
		"# nothing":             "no secret",
		"\nabc":                 "line 2: neither a seed of 64 hexadecimal digits nor a secret of 32",
		strings.Repeat("0", 30): "line 1: neither",
		strings.Repeat("x", 32): "line 1: neither",
		strings.Repeat("00112233445566778899aabbccddeeff\n", 5): "5 secrets: there may be 4",
	} {
		if all, err := ReadKeys(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %s", text, all, err, want)
		}
	}
}

// RFC 7873 5.2.2: a COOKIE option that is neither 8 octets long nor 16 to 40 is a format error.
func TestLengthOfCookies(t *testing.T) {
	for n := range 50 {
		m := ask("example.org.", dns.TypeA).SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: make([]byte, n)}}
		want := Malformed
		if n == 8 || n >= 16 && n <= 40 {
			want = Plain
		}
		var q Query
		if got := q.Parse(packed(t, m)); got != want {
			t.Errorf("%d octets: verdict %d, want %d", n, got, want)
		}
	}
}

// Of a seed each day has a secret of its own. Whenever a cookie is made, every other node takes it as long as it is good, though
// their clocks are not the same, and the seed is rolled over meanwhile.
func TestSecretsOfEachDay(t *testing.T) {
	seed, next := Key(strings.Repeat("s", seedLen)), Key(strings.Repeat("n", seedLen))
	client := netip.MustParseAddr("2001:db8::1")
	const midnight = 20_000 * day
	for made := uint32(midnight - 2*cookieAge); made < midnight+2*cookieAge; made += 97 {
		for skew := -cookieFuture; skew <= cookieFuture; skew += cookieFuture / 2 {
			for age := 0; age < cookieAge-cookieFuture; age += 149 {
				at := made + uint32(age+skew) // by the other node's clock
				if age+skew < -cookieFuture || age+skew > cookieAge {
					continue
				}
				for _, keys := range [][2]Keys{{{seed}, {seed}}, {{seed, next}, {seed}}, {{seed, next}, {next, seed}}, {{next, seed}, {seed, next}}, {{next, seed}, {next}}} {
					q := Query{Cookie: []byte("client's")}
					q.Cookie = q.AppendCookie(nil, CookieBad, keys[0].Secrets(made), client, made)[4:]
					if q.CheckCookie(keys[1].Secrets(at), client, at) == CookieBad {
						t.Fatalf("a cookie made %d s after midnight is not good %d s after it, with %d and %d keys", int(made)-midnight, int(at)-midnight, len(keys[0]), len(keys[1]))
					}
				}
			}
		}
	}
	if n := len((Keys{seed, next}).Secrets(midnight + day/2)); n != 2 {
		t.Errorf("at noon %d secrets are good, want 2", n)
	}
	if a, b := seed.on(1), seed.on(2); a == b || a == next.on(1) || string(a[:]) == string(seed[:16]) {
		t.Error("two days, or two seeds, have the same secret")
	}
	q := Query{Cookie: []byte("client's")}
	q.Cookie = q.AppendCookie(nil, CookieBad, Keys{seed}.Secrets(midnight-60), client, midnight-60)[4:]
	if state := q.CheckCookie(Keys{seed}.Secrets(midnight+60), client, midnight+60); state != CookieOld {
		t.Errorf("a cookie of the day before: %d, want one that is renewed", state)
	}
}
