package depot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// holding is a server that holds requests, of a directory with a timestamp.
type holding struct {
	t      *testing.T
	dir    *Dir
	holder *Holder
	url    string
	end    context.CancelFunc
}

func newHolding(t *testing.T) *holding {
	dir, err := Create(t.TempDir())
	check(t, err)
	ctx, end := context.WithCancel(context.Background())
	h := &holding{t: t, dir: dir, end: end, holder: NewHolder(ctx, dir, 5*time.Millisecond)}
	h.put("1")
	s := httptest.NewUnstartedServer(h.holder)
	s.Config.ReadTimeout = 100 * time.Millisecond // as a server has it that nobody is to keep waiting
	s.Start()
	h.url = s.URL
	t.Cleanup(func() { end(); s.Close(); dir.Close() })
	return h
}

func (h *holding) put(content string) {
	h.t.Helper()
	check(h.t, replace(h.dir.root, release.TimestampName, []byte(content), 0o644))
}

// answer is what came of a request.
type answer struct {
	code int
	body string
	tag  string
	held bool
	err  error
}

// get asks for the timestamp, as who has known and waits.
func (h *holding) get(known string, wait time.Duration) answer {
	request, err := http.NewRequest(http.MethodGet, h.url+"/"+release.TimestampName, nil)
	check(h.t, err)
	PreferWait(request, known, wait)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(body), response.Header.Get("ETag"), Waits(response), err}
}

func (h *holding) begin(known string, wait time.Duration) <-chan answer {
	came := make(chan answer, 1)
	go func() { came <- h.get(known, wait) }()
	return came
}

func (h *holding) await(n int) {
	h.t.Helper()
	lab.WaitFor(h.t, fmt.Sprintf("%d requests are held", n), func() bool { held, _ := h.holder.Counts(); return held == n })
}

// TestATimestampIsWaitedFor: who has the timestamp is answered when there is another one, who has none or an older one at once, and
// nobody waits for longer than was asked for. The server's time for reading a request does not end the wait.
func TestATimestampIsWaitedFor(t *testing.T) {
	h := newHolding(t)
	first := h.get("", time.Minute)
	if first.code != 200 || first.body != "1" || first.tag != TimestampTag([]byte("1")) || !first.held {
		t.Fatalf("got %+v", first)
	}
	if a := h.get(first.tag, time.Second); a.code != http.StatusNotModified || !a.held {
		t.Fatalf("after a second: %+v", a)
	}
	waiting := h.begin(first.tag, time.Minute)
	h.await(1)
	time.Sleep(300 * time.Millisecond) // three times what the server has for reading
	select {
	case a := <-waiting:
		t.Fatalf("answered before there is anything new: %+v", a)
	default:
	}
	h.put("2")
	if a := <-waiting; a.code != 200 || a.body != "2" || a.err != nil {
		t.Fatalf("got %+v", a)
	}
	if a := h.get(first.tag, time.Minute); a.code != 200 || a.body != "2" {
		t.Fatalf("an older one: %+v", a)
	}
	h.await(0)
	h.put("3") // while nobody looks at the directory
	if a := <-h.begin(TimestampTag([]byte("2")), time.Minute); a.code != 200 || a.body != "3" {
		t.Fatalf("got %+v", a)
	}
	waiting = h.begin(TimestampTag([]byte("3")), time.Minute)
	h.await(1)
	h.end()
	if a := <-waiting; a.code != http.StatusNotModified {
		t.Fatalf("at the end: %+v", a)
	}
	if a := h.get(TimestampTag([]byte("3")), time.Minute); a.code != http.StatusNotModified || a.held {
		t.Fatalf("after the end: %+v", a)
	}
}

// TestHeldRequestsAreBounded: of too many the rest is answered at once, and told that it was not held; those that have gone leave
// their places.
func TestHeldRequestsAreBounded(t *testing.T) {
	h := newHolding(t)
	tag := TimestampTag([]byte("1"))
	var waiting []<-chan answer
	for range heldOfOne {
		waiting = append(waiting, h.begin(tag, time.Minute))
	}
	h.await(heldOfOne)
	if a := h.get(tag, time.Minute); a.code != http.StatusNotModified || a.held {
		t.Fatalf("one too many: %+v", a)
	}
	if _, refused := h.holder.Counts(); refused != 1 {
		t.Errorf("%d were refused", refused)
	}
	h.put("2")
	for _, w := range waiting {
		if a := <-w; a.code != 200 || a.body != "2" {
			t.Errorf("got %+v", a)
		}
	}
	h.await(0)
	if a := h.get(tag, time.Minute); !a.held {
		t.Fatalf("there are places again: %+v", a)
	}
}

// TestWaitIsRead: of the header fields Prefer and Preference-Applied (RFC 7240 2 and 3), the preference "wait" counts.
func TestWaitIsRead(t *testing.T) {
	for line, want := range map[string]time.Duration{"wait=10": 10 * time.Second, `respond-async, Wait = "7"; x=y`: 7 * time.Second, "wait=0": 0,
		"": -1, "wait": -1, "wait=-1": -1, "wait=x": -1, "wait=99999999999999999999": -1, "respond-async": -1} {
		got, asked := waitOf([]string{"handling=lenient", line})
		if !asked {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}
