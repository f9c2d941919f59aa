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

// drainTimeout is how long a member may take to take an order.
const drainTimeout = 15 * time.Second

// Drain takes a member out of service in the name of the operator that the order names, or brings it back where undrain is set,
// and returns how that goes.
func Drain(ctx context.Context, own *identity.Identity, m release.Member, o status.DrainOrder, undrain bool) (status.Drained, error) {
	var d status.Drained
	body, err := json.Marshal(o)
	if err != nil {
		return d, err
	}
	method := http.MethodPut
	if undrain {
		method, body = http.MethodDelete, nil
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, m.Admin+"/v1/drain?"+url.Values{"who": {o.Who}}.Encode(), bytes.NewReader(body))
	if err != nil {
		return d, err
	}
	transport := &http.Transport{DialTLSContext: own.DialTLS, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return d, err
	}
	defer response.Body.Close()
	if c := response.TLS.PeerCertificates[0]; c.Subject.CommonName != m.Name || !m.Has(identity.PinOf(c)) {
		return d, fmt.Errorf("%s has the certificate of %q, or one that was revoked", m.Admin, c.Subject.CommonName)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, status.MaxBytes+1))
	if err != nil {
		return d, err
	}
	if response.StatusCode != http.StatusOK {
		return d, fmt.Errorf("%s refused: %.1000s", m.Name, strings.TrimSpace(string(data)))
	}
	return d, status.Decode(data, &d)
}
