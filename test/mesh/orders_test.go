package mesh_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// testOrdersByThePage: an operator pauses, resumes, proposes, cancels, proposes again, drains and undrains by the mesh page alone, as a
// browser without JavaScript does, and members do it. An observer is shown no order, and gives none.
func (m *mesh) testOrdersByThePage(operator, observer *tls.Certificate) {
	p := &orderPage{m, m.pageClient(operator)}
	if code, said := (&orderPage{m, m.pageClient(observer)}).get("/page/order?do=pause"); code != http.StatusForbidden || !strings.Contains(said, "gives no orders") {
		m.errorf("an observer's order: %d %s", code, said)
	}
	if _, said := (&orderPage{m, m.pageClient(observer)}).get("/"); strings.Contains(said, "/page/order") {
		m.errorf("an observer is shown orders")
	}
	var s struct {
		Paused string
		Next   *struct {
			Number     uint64
			Switchover time.Time
		}
	}
	look := func() {
		m.t.Helper()
		s.Paused, s.Next = "", nil
		m.must(json.Unmarshal([]byte(m.meshctl("status", "--json")), &s))
	}

	p.order("Changes of zones do not reach clients", "Publication is paused.", "do", "pause", "why", "a <b>holiday</b>")
	if look(); !strings.Contains(s.Paused, "by jane: a <b>holiday</b>") {
		m.errorf("paused: %q", s.Paused)
	}
	if _, said := p.get("/"); !strings.Contains(said, "a &lt;b&gt;holiday&lt;/b&gt;") {
		m.errorf("the page does not say why it is paused")
	}
	p.order("Releases are made", "Publication goes on.", "do", "resume")
	if look(); s.Paused != "" {
		m.errorf("paused: %q", s.Paused)
	}

	number := m.release()
	for _, node := range m.nodes {
		m.awaitStaged(node, number)
	}
	p.order("go from release", "is proposed for", "do", "schedule", "lead", "1h")
	if look(); s.Next == nil || time.Until(s.Next.Switchover) < 30*time.Minute {
		m.errorf("proposed: %+v", s.Next)
	}
	m.await("osa", "osa has promised", func(n status.Node) bool { return n.Promise.Number == number })
	p.order("Publication is paused", "is withdrawn, and publication is paused", "do", "cancel")
	if look(); s.Next == nil || !s.Next.Switchover.IsZero() || !strings.Contains(s.Paused, "by jane") {
		m.errorf("cancelled: %+v, paused: %q", s.Next, s.Paused)
	}
	p.order("go from release", "is proposed for", "do", "schedule", "lead", "")
	for _, node := range m.nodes {
		m.awaitServing(node, number)
	}

	p.order("1 of 1 others are in service", "osa is drained", "do", "drain", "member", "osa", "why", "new fans")
	if d := m.sidecarStatus("osa").Drain; d == nil || d.Who != "jane at the distribution host" || d.Why != "new fans" {
		m.errorf("osa's drain: %+v", d)
	}
	m.eventually(40*time.Second, "the page shows that it is drained", func() (bool, string) {
		_, said := p.get("/")
		return strings.Contains(said, "do=undrain&amp;member=osa") && strings.Contains(said, "new fans"), said
	})
	p.order("announces its routes again", "osa is in service again", "do", "undrain", "member", "osa")
	if d := m.sidecarStatus("osa").Drain; d != nil {
		m.errorf("osa's drain: %+v", d)
	}
}

// orderPage is the mesh page as one person's browser has it.
type orderPage struct {
	m      *mesh
	client *http.Client
}

// pageClient is a browser on the distribution host, with a certificate.
func (m *mesh) pageClient(certificate *tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(m.path("home", "pki", "ca.crt"))))
	return &http.Client{Timeout: time.Minute, Transport: m.transport("dist", &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{*certificate}})}
}

const pageURL = "https://198.51.100.1:8443"

func (p *orderPage) get(path string) (int, string) {
	p.m.t.Helper()
	response, err := p.client.Get(pageURL + path)
	p.m.must(err)
	return p.read(response)
}

func (p *orderPage) read(response *http.Response) (int, string) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	p.m.must(err)
	return response.StatusCode, string(body)
}

var hiddenInput = regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)">`)

// order goes to an order's own page, which must name the consequence, fills in the form, sends it, and must be told what came of it.
func (p *orderPage) order(consequence, outcome string, fields ...string) {
	p.m.t.Helper()
	given := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		given.Set(fields[i], fields[i+1])
	}
	code, said := p.get("/page/order?" + url.Values{"do": given["do"], "member": given["member"]}.Encode())
	if code != http.StatusOK || !strings.Contains(said, consequence) {
		p.m.fatalf("%v: %d, without %q:\n%s", given, code, consequence, said)
	}
	for _, hidden := range hiddenInput.FindAllStringSubmatch(said, -1) {
		given.Set(hidden[1], html.UnescapeString(hidden[2]))
	}
	request, err := http.NewRequest(http.MethodPost, pageURL+"/page/order", strings.NewReader(given.Encode()))
	p.m.must(err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Sec-Fetch-Site", "same-origin")
	response, err := p.client.Do(request)
	p.m.must(err)
	if code, said := p.read(response); code != http.StatusOK || !strings.Contains(said, outcome) {
		p.m.fatalf("%v: %d, without %q:\n%s", given, code, outcome, said)
	}
}
