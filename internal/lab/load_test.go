package lab_test

import (
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

func TestWrongTellsAnswersThatNoCorrectMeshGives(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	ms := func(n int) time.Time { return at.Add(time.Duration(n) * time.Millisecond) }
	bound := 2 * time.Millisecond
	one, two := lab.Reply{Answer: true, Release: 1}, lab.Reply{Answer: true, Release: 2}
	for _, c := range []struct {
		name          string
		sample        lab.Sample
		wrong, failed bool
	}{
		{"the old one before", lab.Sample{Sent: ms(-20), Got: ms(-19), Reply: one}, false, false},
		{"the old one, under way at the instant", lab.Sample{Sent: ms(-1), Got: ms(9), Reply: one}, false, false},
		{"the old one, within the bound", lab.Sample{Sent: ms(1), Got: ms(9), Reply: one}, false, false},
		{"the old one after", lab.Sample{Sent: ms(3), Got: ms(4), Reply: one}, true, false},
		{"the new one after", lab.Sample{Sent: ms(3), Got: ms(4), Reply: two}, false, false},
		{"the new one, within the bound", lab.Sample{Sent: ms(-9), Got: ms(-1), Reply: two}, false, false},
		{"the new one before", lab.Sample{Sent: ms(-9), Got: ms(-3), Reply: two}, true, false},
		{"another one", lab.Sample{Sent: ms(-9), Got: ms(-8), Reply: lab.Reply{Answer: true, Release: 3}}, true, false},
		{"an error", lab.Sample{Sent: ms(-9), Got: ms(-8), Reply: lab.Reply{Rcode: dns.RcodeServerFailure}}, false, true},
		{"nothing in it", lab.Sample{Sent: ms(-9), Got: ms(-8)}, false, true},
		{"none", lab.Sample{Sent: ms(3)}, false, true},
	} {
		all := []lab.Sample{c.sample}
		if got := lab.Wrong(all, 1, 2, at, bound); (len(got) == 1) != c.wrong {
			t.Errorf("%s: %v", c.name, got)
		}
		if got := lab.Lost(all); (got == 1) != c.failed {
			t.Errorf("%s: %d lost", c.name, got)
		}
		if got := lab.Errors(all); (len(got) == 1) != (c.sample.Rcode != 0) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// echo answers the queries that are not to be dropped, by their number and id.
func echo(t *testing.T, drop func(n int, id uint16) bool) net.Conn {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	lab.Must(t, err)
	t.Cleanup(func() { server.Close() })
	go func() {
		buffer := make([]byte, 512)
		for n := 1; ; n++ {
			size, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buffer[:size]) != nil || drop(n, q.Id) {
				continue
			}
			answer, _ := new(dns.Msg).SetReply(q).Pack()
			server.WriteTo(answer, from)
		}
	}()
	client, err := net.Dial("udp", server.LocalAddr().String())
	lab.Must(t, err)
	return client
}

func steady(t *testing.T, conn net.Conn, again time.Duration) *lab.Load {
	t.Helper()
	l := &lab.Load{Conn: conn, Send: func(query []byte) { conn.Write(query) }, Every: 2 * time.Millisecond, Patience: time.Second, Again: again,
		Question: func(i int) *dns.Msg { return new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA) },
		Read:     func(m *dns.Msg) lab.Reply { return lab.Reply{Answer: true, Release: uint64(m.Id)} }}
	from := time.Now()
	l.Start()
	lab.WaitFor(t, "100 questions", func() bool { return len(l.Since(from)) >= 100 })
	return l
}

func TestLoadCountsWhatIsNotAnswered(t *testing.T) {
	from := time.Now()
	l := steady(t, echo(t, func(n int, _ uint16) bool { return n%3 == 0 }), 0)
	window := l.Between(from, time.Now())
	if n, want := lab.Lost(window), len(window)/3; n < want-1 || n > want+1 {
		t.Errorf("%d of %d lost, want a third", n, len(window))
	}
	all := l.End()
	if n, want := lab.Lost(all), len(all)/3; len(all) < 100 || n < want-1 || n > want+1 {
		t.Errorf("%d of %d lost, want a third", n, len(all))
	}
	for i, s := range all {
		if s.Answered() && s.Release != uint64(i) {
			t.Errorf("question %d has the answer to %d", i, s.Release)
		}
	}
}

// A question that is put again is one question.
func TestLoadAsksAgain(t *testing.T) {
	put := map[uint16]int{}
	l := steady(t, echo(t, func(_ int, id uint16) bool { put[id]++; return put[id] < 3 }), 20*time.Millisecond)
	lab.WaitFor(t, "an answer to a question that was put three times", func() bool { return lab.Lost(l.Since(time.Time{})) < len(l.Since(time.Time{})) })
	for i, s := range l.End() {
		if s.Answered() && (s.Release != uint64(i) || s.Got.Sub(s.Sent) < 20*time.Millisecond) {
			t.Errorf("question %d: %+v", i, s)
		}
	}
}
