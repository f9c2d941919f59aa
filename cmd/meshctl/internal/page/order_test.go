package page

import (
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv/browser"
)

// operated is a stage whose reader is an operator.
func operated(t *testing.T, s *story) *stage {
	s.Reader = Reader{"kim", identity.Operator}
	return newStage(t, s)
}

var tokenOf = regexp.MustCompile(`name="token" value="([0-9a-f]+)"`)

// post sends a form, with the headers that a browser adds.
func (g *stage) post(t *testing.T, form url.Values, header ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, g.URL+"/page/order", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// Each order has a page of its own that names the consequence, and there is none for what cannot be done.
func TestAnOrderNamesItsConsequence(t *testing.T) {
	staged := newStory(3).staged(0, false)
	staged.Status.Next.Switchover = time.Time{}
	for _, c := range []struct {
		query string
		story *story
		code  int
		says  string
	}{
		{"do=pause", newStory(3), 200, "Changes of zones do not reach clients meanwhile"},
		{"do=resume", newStory(3), 200, "Releases are made and switchovers proposed again"},
		{"do=drain&member=osa", newStory(3), 200, "2 of 2 others are in service"},
		{"do=drain&member=osa", newStory(3).silent(0).gone(2), 200, "No other member is in service: clients will reach nobody"},
		{"do=undrain&member=osa", newStory(3).drained(1), 200, "announces its routes again"},
		{"do=drain&member=nobody", newStory(3), 409, "nothing to do"},
		{"do=schedule", staged, 200, "All members go from release 42 to release 43 at one instant"},
		{"do=schedule", newStory(3), 409, "nothing to do"},
		{"do=cancel", newStory(3).staged(5*time.Second, false), 200, "Publication is paused"},
		{"do=cancel", newStory(3).staged(5*time.Second, true), 409, "nothing to do"},
		{"do=format", newStory(3), 409, "nothing to do"},
	} {
		response, body := operated(t, c.story).get(t, "/page/order?"+c.query)
		if response.StatusCode != c.code || !strings.Contains(plain(body), c.says) {
			t.Errorf("%s: %s %s; want %d, %q", c.query, response.Status, plain(body), c.code, c.says)
		}
	}
	lacking := newStory(3).staged(0, false).loading(2)
	lacking.Status.Next.Switchover = time.Time{}
	if _, body := operated(t, lacking).get(t, "/page/order?do=schedule"); !strings.Contains(body, "tyo is not ready") {
		t.Error("it does not say who is not ready")
	}
}

// An order is carried out for an operator, from a form of this page, and of nobody else's making.
func TestAnOrderIsOfAnOperatorAndOfThisPage(t *testing.T) {
	g := operated(t, newStory(3))
	_, body := g.get(t, "/page/order?do=drain&member=osa")
	token := tokenOf.FindStringSubmatch(body)
	if token == nil {
		t.Fatalf("no token in %s", body)
	}
	form := url.Values{"do": {Drain}, "member": {"osa"}, "why": {" new fans "}, "token": {token[1]}}
	with := func(name, value string) url.Values {
		changed := url.Values{}
		for k, v := range form {
			changed[k] = v
		}
		changed.Set(name, value)
		return changed
	}
	for what, c := range map[string]struct {
		form   url.Values
		header []string
		code   int
	}{
		"another site's form":         {form, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another site's, an old way":  {form, []string{"Origin", "https://evil.example"}, 403},
		"a form without a token":      {with("token", ""), nil, 403},
		"a token of another member's": {with("member", "tyo"), nil, 403},
		"a token of another order":    {with("do", Undrain), nil, 403},
		"a reason without end":        {with("why", strings.Repeat("x", maxWhy+1)), nil, 400},
		"a form without end":          {with("why", strings.Repeat("x", maxForm)), nil, 400},
		"a lead that is none":         {with("lead", "soon"), nil, 400},
		"a lead before now":           {with("lead", "-1m"), nil, 400},
	} {
		if code, says := g.post(t, c.form, c.header...); code != c.code {
			t.Errorf("%s: %d %s, want %d", what, code, plain(says), c.code)
		}
	}
	if len(g.orders) != 0 {
		t.Fatalf("orders were carried out: %+v", g.orders)
	}
	if code, says := g.post(t, form, "Sec-Fetch-Site", "same-origin"); code != 200 || !strings.Contains(says, "drain is done.") {
		t.Errorf("the form itself: %d %s", code, plain(says))
	}
	if len(g.orders) != 1 || g.orders[0] != (Order{Kind: Drain, Member: "osa", Who: "kim", Why: "new fans"}) {
		t.Errorf("carried out: %+v", g.orders)
	}
	g.fails = hint.Errorf("wait for it", "the switchover is committed")
	if code, says := g.post(t, form); code != 409 || !strings.Contains(says, "the switchover is committed") || !strings.Contains(says, "wait for it") {
		t.Errorf("an order that fails: %d %s", code, plain(says))
	}
	g.mu.Lock()
	g.reader, g.orders = certificate("wall", identity.Observer), nil
	g.mu.Unlock()
	if code, says := g.post(t, form); code != 403 || len(g.orders) != 0 {
		t.Errorf("of an observer: %d %s", code, plain(says))
	}
	if response, _ := g.get(t, "/page/order?do=drain&member=osa"); response.StatusCode != 403 {
		t.Errorf("an observer is asked whether: %s", response.Status)
	}
	if _, body := g.get(t, "/"); strings.Contains(body, "/page/order") {
		t.Error("an observer is offered orders")
	}
}

// By keyboard alone an operator comes from the page to an order that is given; and the page of the order is by the rules of axe.
func TestAnOrderByKeyboard(t *testing.T) {
	b := browser.Start(t)
	axe := installAxe(t)
	g := operated(t, newStory(3))
	p := b.Open(t, g.URL+"/", browser.Look{Width: largeWidth, Height: largeHeight})
	p.WaitFor("the page to be live", `document.body.classList.contains("is-live")`)
	axe.judge(t, p, "an operator's page")
	tab := func(what, selector string) {
		t.Helper()
		for range 60 {
			p.Key("Tab")
			var there bool
			if p.Eval(`document.activeElement.matches(`+"`"+selector+"`"+`)`, &there); there {
				return
			}
		}
		t.Fatalf("60 tabs do not lead to %s", what)
	}
	p.Key("Tab")
	if text := p.Text(":focus"); text != "To the content" {
		t.Errorf("the first tab leads to %q", text)
	}
	tab("drain osa", `a[href="/page/order?do=drain&member=osa"]`)
	g.tell(newStory(3).silent(2), nil) // the page changes below the fingers
	p.WaitFor("the change", `document.getElementById("verdict-title").textContent === "tyo is silent"`)
	var kept bool
	if p.Eval(`document.activeElement.matches('a[href="/page/order?do=drain&member=osa"]') && document.getElementById("said").textContent.includes("tyo is silent")`, &kept); !kept {
		t.Error("a change has taken the focus, or was not said")
	}
	p.Key("Enter")
	p.WaitFor("the order's page", `location.pathname === "/page/order" && document.readyState === "complete"`)
	if text := p.Text("main"); !strings.Contains(text, "Drain osa?") || !strings.Contains(text, "1 of 2 others are in service") {
		t.Errorf("it says %s", text)
	}
	axe.judge(t, p, "the order's page")
	tab("the reason", "#why")
	tab("the button", "button")
	p.Key("Enter")
	p.WaitFor("the outcome", `document.getElementById("outcome-title")?.textContent === "Done"`)
	axe.judge(t, p, "the outcome")
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.orders) != 1 || g.orders[0].Kind != Drain || g.orders[0].Member != "osa" || g.orders[0].Who != "kim" {
		t.Errorf("carried out: %+v", g.orders)
	}
	if errs := p.Errors(); len(errs) > 0 {
		t.Error(errs)
	}
}
