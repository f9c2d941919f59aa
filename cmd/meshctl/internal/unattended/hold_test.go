package unattended

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// TestAMembersRequestIsHeldUntilSomethingIsPublished: by another process, as a command is. Held requests are counted, and end with the
// server at once. A stranger's is refused as any other.
func TestAMembersRequestIsHeldUntilSomethingIsPublished(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	member := &http.Client{Transport: &http.Transport{TLSClientConfig: hometest.TLS(t, hometest.Bundle(dir, "tyo"))}}
	ask := func(client *http.Client, known string) (*http.Response, []byte, error) {
		request, err := http.NewRequest(http.MethodGet, s.url+"/"+release.TimestampName, nil)
		hometest.Check(t, err)
		depot.PreferWait(request, known, time.Minute)
		response, err := client.Do(request)
		if err != nil {
			return nil, nil, err
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		return response, data, err
	}
	response, first, err := ask(member, "")
	if hometest.Check(t, err); response.StatusCode != 200 || !depot.Waits(response) {
		t.Fatalf("got %s, %v", response.Status, response.Header)
	}
	type answer struct {
		code int
		data []byte
	}
	begin := func(known []byte) <-chan answer {
		came := make(chan answer, 1)
		go func() {
			if response, data, err := ask(member, depot.TimestampTag(known)); err != nil {
				t.Error(err)
				close(came)
			} else {
				came <- answer{response.StatusCode, data}
			}
		}()
		hometest.WaitFor(t, "it is held, and counted", func() bool {
			page := httptest.NewRecorder()
			MetricsHandler(s.server, "test").ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			return strings.Contains(page.Body.String(), "meshctl_held_requests 1\n") && strings.Contains(page.Body.String(), "meshctl_held_requests_refused_total 0\n")
		})
		return came
	}
	held := begin(first)
	h := hometest.Begin(t, dir, time.Now)
	_, err = h.Renew(t.Context(), 0)
	hometest.Check(t, err)
	h.Close()
	second := <-held
	if second.code != 200 || string(second.data) == string(first) {
		t.Fatalf("got %+v", second)
	}
	held = begin(second.data)
	hometest.Check(t, s.stop())
	if last := <-held; last.code != http.StatusNotModified {
		t.Fatalf("at the end: %+v", last)
	}
}

// TestAStrangerIsNotHeld: what refuses every other request refuses this.
func TestAStrangerIsNotHeld(t *testing.T) {
	dir, elsewhere := hometest.New(t, time.Now, "tyo"), hometest.New(t, time.Now, "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	request, err := http.NewRequest(http.MethodGet, s.url+"/"+release.TimestampName, nil)
	hometest.Check(t, err)
	depot.PreferWait(request, "", time.Minute)
	config := hometest.TLS(t, hometest.Bundle(dir, "tyo"))
	config.Certificates = hometest.TLS(t, hometest.Bundle(elsewhere, "tyo")).Certificates
	response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config}}).Do(request)
	if err == nil {
		response.Body.Close()
		t.Fatalf("got %s", response.Status)
	}
	if held, _ := s.server.holder.Load().Counts(); held != 0 {
		t.Errorf("%d are held", held)
	}
}
