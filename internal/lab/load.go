package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Reply is what a client learns from a response.
type Reply struct {
	Answer  bool   // it has what was asked for
	Release uint64 // that it is from, as the question makes it say
	Node    string // that it is from, by NSID
	Rcode   int
}

// Sample is one question of a Load, and its fate.
type Sample struct {
	Sent time.Time
	Got  time.Time // of the reply; zero: there is none
	Reply
}

// Answered reports whether the question has an answer.
func (s Sample) Answered() bool { return s.Answer && !s.Got.IsZero() }

// Load is how to ask steadily over UDP. Each question is remembered.
type Load struct {
	Conn interface { // of the client
		io.ReadCloser
		SetReadDeadline(time.Time) error
	}
	Send     func(query []byte)   // what it does not send is lost, which is counted
	Question func(i int) *dns.Msg // number i, counted from 0; its id is the load's
	Read     func(response *dns.Msg) Reply
	Every    time.Duration // between two questions
	Patience time.Duration // how long an answer may take before it counts as lost
	Again    time.Duration // how long after a question without a reply it is put again, for as long as Patience; 0: never

	mu      sync.Mutex
	samples []Sample
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup
}

// Start begins to ask.
func (l *Load) Start() *Load {
	l.stop = make(chan struct{})
	l.running.Go(l.ask)
	l.running.Go(l.receive)
	return l
}

// Stop ends the asking; answers are still taken, for as long as Patience.
func (l *Load) Stop() {
	l.once.Do(func() {
		close(l.stop)
		l.Conn.SetReadDeadline(time.Now().Add(l.Patience))
	})
}

// End stops asking, waits for what may still come, and returns what became of every question.
func (l *Load) End() []Sample {
	l.Stop()
	l.running.Wait()
	l.Conn.Close()
	return l.samples
}

func (l *Load) ask() {
	ticker := time.NewTicker(l.Every)
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-ticker.C:
		}
		for _, i := range l.due(time.Now()) {
			q := l.Question(i)
			q.Id = uint16(i)
			if query, err := q.Pack(); err == nil {
				l.Send(query)
			}
		}
	}
}

// due notes the next question, and returns it with those that are to be put again.
func (l *Load) due(now time.Time) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.samples)
	l.samples = append(l.samples, Sample{Sent: now})
	due := []int{i}
	if step := int(l.Again / l.Every); step > 0 {
		for i -= step; i >= 0 && now.Sub(l.samples[i].Sent) < l.Patience; i -= step {
			if l.samples[i].Got.IsZero() {
				due = append(due, i)
			}
		}
	}
	return due
}

func (l *Load) receive() {
	buffer := make([]byte, 4096)
	for {
		n, err := l.Conn.Read(buffer)
		got := time.Now()
		if os.IsTimeout(err) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of a moment: the answer is missed, which is what is counted
		}
		r := new(dns.Msg)
		if r.Unpack(buffer[:n]) == nil {
			l.take(r, got)
		}
	}
}

// take files a reply, if it is the first one, with its question, which is the newest one of that id.
func (l *Load) take(r *dns.Msg, got time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := (len(l.samples)-1)&^0xffff | int(r.Id)
	if i >= len(l.samples) {
		i -= 0x10000
	}
	if i < 0 {
		return
	}
	if s := &l.samples[i]; s.Got.IsZero() {
		s.Got, s.Reply = got, l.Read(r)
	}
}

// Since returns the questions that were put since then, with what has become of them.
func (l *Load) Since(at time.Time) []Sample { return l.Window(at, time.Now()) }

// Window returns the questions of [from, to), with what has become of them.
func (l *Load) Window(from, to time.Time) []Sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := func(t time.Time) int {
		i, _ := slices.BinarySearchFunc(l.samples, t, func(s Sample, t time.Time) int { return s.Sent.Compare(t) })
		return i
	}
	return slices.Clone(l.samples[at(from):at(to)])
}

// Between returns the questions of [from, to), once each has its reply or has had its time.
func (l *Load) Between(from, to time.Time) []Sample {
	for {
		window := l.Window(from, to)
		if time.Since(to) > l.Patience || !slices.ContainsFunc(window, func(s Sample) bool { return s.Got.IsZero() }) {
			return window
		}
		time.Sleep(l.Every)
	}
}

// Lost counts the questions without an answer.
func Lost(samples []Sample) (n int) {
	for _, s := range samples {
		if !s.Answered() {
			n++
		}
	}
	return n
}

// Errors has a word on every reply that says that there is no answer.
func Errors(samples []Sample) (words []string) {
	for _, s := range samples {
		if !s.Got.IsZero() && s.Rcode != dns.RcodeSuccess {
			words = append(words, fmt.Sprintf("%s answered %s", s.Node, dns.RcodeToString[s.Rcode]))
		}
	}
	return words
}

// Wrong has a word on every answer that no correct mesh gives while it switches from release before to release after at
// the instant at, with clocks wrong by at most bound (SYNC-H). The server made its choice between Sent and Got.
func Wrong(samples []Sample, before, after uint64, at time.Time, bound time.Duration) (words []string) {
	for _, s := range samples {
		switch {
		case !s.Answered():
		case s.Release == before && s.Sent.After(at.Add(bound)):
			words = append(words, fmt.Sprintf("%s answered from %d to a question put %v after the switchover", s.Node, before, s.Sent.Sub(at)))
		case s.Release == after && s.Got.Before(at.Add(-bound)):
			words = append(words, fmt.Sprintf("%s answered from %d %v before the switchover", s.Node, after, at.Sub(s.Got)))
		case s.Release != before && s.Release != after:
			words = append(words, fmt.Sprintf("%s answered from %d", s.Node, s.Release))
		}
	}
	return words
}

// Around reports whether there were questions in the tenth of a second before a switchover, and in the one after.
func Around(samples []Sample, at time.Time) bool {
	const near = 100 * time.Millisecond
	within := func(from, to time.Time) bool {
		return slices.ContainsFunc(samples, func(s Sample) bool { return s.Sent.After(from) && s.Sent.Before(to) })
	}
	return within(at.Add(-near), at) && within(at, at.Add(near))
}
