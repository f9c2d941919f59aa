package unattended

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestMembersAreToldWhoRemains: a member learns which members are announced and good by their own word of now; a stranger does
// not, and what was heard of a member is not remembered (FAIL-4).
func TestMembersAreToldWhoRemains(t *testing.T) {
	dir := hometest.New(t, time.Now, "fra", "osa", "tyo")
	var bad atomic.Pointer[string]
	bad.Store(new(string))
	ask := func(_ context.Context, members []release.Member) map[string]switchover.Answer {
		answers := map[string]switchover.Answer{}
		for _, m := range members {
			answers[m.Name] = switchover.Answer{Confirmation: status.Confirmation{Node: m.Name, Remains: m.Name != *bad.Load()}}
		}
		answers["fra"] = switchover.Answer{Err: errors.New("no route to host"), Confirmation: status.Confirmation{Remains: true}}
		return answers
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	hometest.Check(t, err)
	server := &Server{Home: home.At(dir, time.Now), Log: (&served{log: &logBuffer{}}).logger(), Ask: ask}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- server.Run(ctx, listener) }()
	t.Cleanup(func() { cancel(); <-ended })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: hometest.TLS(t, hometest.Bundle(dir, "tyo"))}}
	said := func() string {
		response, err := client.Get("https://" + listener.Addr().String() + RemainingPath)
		hometest.Check(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		hometest.Check(t, err)
		return string(text)
	}
	for who, want := range map[string]string{
		"":    `{"version":1,"members":["osa","tyo"]}`,
		"tyo": `{"version":1,"members":["osa"]}`,
		"osa": `{"version":1,"members":["tyo"]}`,
	} {
		bad.Store(&who)
		if got := said(); got != want+"\n" {
			t.Errorf("%q is bad: %s, want %s", who, got, want)
		}
	}
}

// TestARollCallBeginsAfterWhoeverWaitsForIt: whoever asks during a call waits for the next one, since members may have gone bad
// after they were asked; and all who wait share one.
func TestARollCallBeginsAfterWhoeverWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		goOn := make(chan struct{})
		r := &roll{ctx: t.Context(), members: func() []release.Member { return nil }, ask: func(context.Context, []release.Member) map[string]switchover.Answer {
			calls++
			good := calls == 1
			<-goOn
			return map[string]switchover.Answer{"tyo": {Confirmation: status.Confirmation{Remains: good}}}
		}}
		heard := make(chan int, 51)
		wait := func() { m, _ := r.remaining(t.Context()); heard <- len(m) }
		go wait()
		synctest.Wait()
		for range 50 {
			go wait()
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := r.remaining(gone); err == nil {
			t.Error("whoever has gone got an answer")
		}
		synctest.Wait()
		goOn <- struct{}{}
		if n := <-heard; n != 1 {
			t.Errorf("the first heard of %d members", n)
		}
		goOn <- struct{}{}
		for range 50 {
			if n := <-heard; n != 0 {
				t.Fatal("whoever asked during a call got what members had said before")
			}
		}
		synctest.Wait()
		if calls != 2 || r.calling {
			t.Errorf("%d calls, want 2; still calling: %v", calls, r.calling)
		}
	})
}
