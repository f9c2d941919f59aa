package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// drainTimeout is how long a member may take to take an order, or to say how it is.
const drainTimeout = 15 * time.Second

// Drain takes a member out of service in the name of the operator that the order names, or brings it back where undrain is set,
// and returns how that goes.
func Drain(ctx context.Context, own *identity.Identity, m release.Member, o status.DrainOrder, undrain bool) (d status.Drained, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return d, err
	}
	method := http.MethodPut
	if undrain {
		method, body = http.MethodDelete, nil
	}
	return d, say(ctx, own, m, method, "/v1/drain?"+url.Values{"who": {o.Who}}.Encode(), body, &d)
}

// Look returns what the sidecar of a member says of itself and of the DNS server beside it, which may be away.
func Look(ctx context.Context, own *identity.Identity, m release.Member) (s status.Sidecar, err error) {
	return s, say(ctx, own, m, http.MethodGet, "/v1/status", nil, &s)
}

// say sends a request to a member's administrative plane, and reads the document that answers it.
func say(ctx context.Context, own *identity.Identity, m release.Member, method, path string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, m.Admin+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := own.Transport(&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if c := response.TLS.PeerCertificates[0]; c.Subject.CommonName != m.Name || !m.Has(identity.PinOf(c)) {
		return fmt.Errorf("%s has the certificate of %q, or one that was revoked", m.Admin, c.Subject.CommonName)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, status.MaxBytes+1))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s refused: %.1000s", m.Name, strings.TrimSpace(string(data)))
	}
	return status.Decode(data, into)
}
