// Package browser drives a headless Chromium for tests, by the DevTools protocol over a pair of pipes: so there is no port, no
// driver, and no library. Only tests import it; it may import testenv.
package browser

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Browser is a running Chromium with a profile of its own.
type Browser struct {
	t    testing.TB
	in   io.Writer // to the browser
	mu   sync.Mutex
	last int
	open map[int]chan reply
	said map[string][]string // what the console of each session said, errors and refusals alone
	end  chan struct{}       // closed when the browser has ended
}

// reply is a message of the browser.
type reply struct {
	ID      int             `json:"id"`
	Session string          `json:"sessionId"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// patience is how long the browser may take for anything, on a machine that does much else.
const patience = 2 * time.Minute

// Start starts a Chromium that ends with the test. Without one the test is skipped, or fails under CI.
func Start(t testing.TB) *Browser {
	t.Helper()
	command := testenv.Need(t, "chromium")[0]
	toRead, toWrite, err := os.Pipe()
	check(t, err)
	fromRead, fromWrite, err := os.Pipe()
	check(t, err)
	cmd := exec.Command(command, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--hide-scrollbars", "--force-color-profile=srgb", "--font-render-hinting=none", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{toRead, fromWrite}
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	check(t, cmd.Start())
	toRead.Close()
	fromWrite.Close()
	b := &Browser{t: t, in: toWrite, open: map[int]chan reply{}, said: map[string][]string{}, end: make(chan struct{})}
	go b.read(fromRead)
	t.Cleanup(func() {
		b.send("", "Browser.close", nil)
		select {
		case <-b.end:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
		}
		cmd.Wait()
		toWrite.Close()
		if t.Failed() {
			t.Logf("chromium said: %s", said.Bytes()[max(0, said.Len()-4000):])
		}
	})
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read hands out what the browser says: messages that end with a NUL.
func (b *Browser) read(from io.Reader) {
	defer close(b.end)
	for r := bufio.NewReaderSize(from, 1<<20); ; {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m reply
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if m.ID != 0 {
			if c := b.open[m.ID]; c != nil {
				c <- m
				delete(b.open, m.ID)
			}
		} else {
			b.hear(m)
		}
		b.mu.Unlock()
	}
}

// hear keeps what the console of a page says, if it is an error: a script's, or a refusal by the page's policy.
func (b *Browser) hear(m reply) {
	var p struct {
		Entry struct {
			Level, Text, URL string
		}
		ExceptionDetails struct{ Text string }
	}
	if json.Unmarshal(m.Params, &p) != nil {
		return
	}
	switch {
	case m.Method == "Log.entryAdded" && p.Entry.Level == "error":
		b.said[m.Session] = append(b.said[m.Session], p.Entry.Text+" "+p.Entry.URL)
	case m.Method == "Runtime.exceptionThrown":
		b.said[m.Session] = append(b.said[m.Session], string(m.Params))
	}
}

// send gives an order, and returns where its answer comes.
func (b *Browser) send(session, method string, params any) chan reply {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	c := make(chan reply, 1)
	b.open[b.last] = c
	text, err := json.Marshal(map[string]any{"id": b.last, "method": method, "params": params, "sessionId": session})
	if session == "" {
		text, err = json.Marshal(map[string]any{"id": b.last, "method": method, "params": params})
	}
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	if err != nil {
		b.t.Logf("to chromium: %v", err)
	}
	return c
}

// call gives an order and waits for its answer.
func (b *Browser) call(session, method string, params, into any) error {
	select {
	case m := <-b.send(session, method, params):
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if into == nil {
			return nil
		}
		return json.Unmarshal(m.Result, into)
	case <-b.end:
		return fmt.Errorf("%s: chromium has ended", method)
	case <-time.After(patience):
		return fmt.Errorf("%s: no answer", method)
	}
}

// Look is how a page is looked at.
type Look struct {
	Width, Height int
	Dark          bool
	NoScript      bool
}

// Page is a tab.
type Page struct {
	b       *Browser
	t       testing.TB
	session string
	look    Look
}

// Open opens an address in a new tab, and waits until it is loaded.
func (b *Browser) Open(t testing.TB, url string, l Look) *Page {
	t.Helper()
	var target struct{ TargetID, SessionID string }
	check(t, b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target))
	check(t, b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target))
	p := &Page{b: b, t: t, session: target.SessionID, look: l}
	scheme := map[bool]string{true: "dark", false: "light"}[l.Dark]
	p.must("Page.enable", nil)
	p.must("Runtime.enable", nil)
	p.must("Log.enable", nil)
	p.must("Emulation.setDeviceMetricsOverride", map[string]any{"width": l.Width, "height": l.Height, "deviceScaleFactor": 1, "mobile": l.Width < 600})
	p.must("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}}})
	p.must("Emulation.setScriptExecutionDisabled", map[string]any{"value": l.NoScript})
	p.Go(url)
	t.Cleanup(func() { b.call("", "Target.closeTarget", map[string]any{"targetId": target.TargetID}, nil) })
	return p
}

// Go has the tab go to an address, and waits until it is loaded.
func (p *Page) Go(url string) {
	p.t.Helper()
	var gone struct{ ErrorText string }
	check(p.t, p.b.call(p.session, "Page.navigate", map[string]any{"url": url}, &gone))
	if gone.ErrorText != "" {
		p.t.Fatalf("%s: %s", url, gone.ErrorText)
	}
	p.WaitFor("the page to be loaded", `document.readyState === "complete" && location.href !== "about:blank"`)
}

func (p *Page) must(method string, params any) {
	p.t.Helper()
	if params == nil {
		params = map[string]any{}
	}
	check(p.t, p.b.call(p.session, method, params, nil))
}

// Eval is the value of an expression in the page; a promise is waited for.
func (p *Page) Eval(expression string, into any) {
	p.t.Helper()
	check(p.t, p.eval(expression, into))
}

func (p *Page) eval(expression string, into any) error {
	var got struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.b.call(p.session, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &got)
	if err != nil {
		return err
	}
	if e := got.ExceptionDetails; e != nil {
		return fmt.Errorf("%.200s: %s %s", expression, e.Text, e.Exception.Description)
	}
	if into == nil || got.Result.Value == nil {
		return nil
	}
	return json.Unmarshal(got.Result.Value, into)
}

// WaitFor waits until an expression is true in the page. One that fails while a page is replaced by another is tried again.
func (p *Page) WaitFor(what, expression string) {
	p.t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var ok bool
		if err = p.eval(expression, &ok); err == nil && ok {
			return
		}
	}
	p.t.Fatalf("still waiting for %s: %v", what, err)
}

// Text is what an element shows.
func (p *Page) Text(selector string) (text string) {
	p.t.Helper()
	p.Eval(fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector), &text)
	return strings.Join(strings.Fields(text), " ")
}

// Key presses a key, named as in KeyboardEvent.key.
func (p *Page) Key(key string) {
	p.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13}
	text := map[string]string{"Enter": "\r"}[key]
	p.must("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": codes[key], "text": text})
	p.must("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": codes[key]})
}

// Screenshot is what the tab shows, as PNG: height units of it from the top, or the whole page for 0.
func (p *Page) Screenshot(height int) []byte {
	p.t.Helper()
	if height == 0 {
		p.Eval("document.documentElement.scrollHeight", &height)
	}
	var shot struct{ Data string }
	check(p.t, p.b.call(p.session, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true,
		"clip": map[string]any{"x": 0, "y": 0, "width": p.look.Width, "height": height, "scale": 1}}, &shot))
	data, err := base64.StdEncoding.DecodeString(shot.Data)
	check(p.t, err)
	return data
}

// Errors are what the console said that is an error: a script's, or what the policy of the page refused.
func (p *Page) Errors() []string {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	return p.b.said[p.session]
}
