package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
)

const (
	renewEvery      = time.Hour
	maxCertificate  = 64 << 10 // octets
	certificatePath = "v1/certificate"
)

// renew asks the distribution host for a newer certificate for this node's key, once an hour and at the start. A web
// server or a bucket that holds nothing but the repository has none: that is no fault.
func (m *Mirror) renew(ctx context.Context, url string) {
	if url == "" || !m.renewed.IsZero() && time.Since(m.renewed) < renewEvery {
		return
	}
	m.renewed = time.Now()
	taken, err := m.newCertificate(ctx, url)
	if err != nil {
		m.log.Error("this node's certificate was not renewed", "url", url, "until", m.cfg.Identity.Certificate().NotAfter, "error", err)
	}
	if taken {
		m.log.Info("this node's certificate was renewed", "url", url)
	}
}

func (m *Mirror) newCertificate(ctx context.Context, url string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/"+certificatePath, nil)
	if err != nil {
		return false, err
	}
	response, err := m.client.Do(request)
	if err != nil {
		return false, err
	}
	defer depot.Finish(response)
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusForbidden:
		return false, nil
	default:
		return false, fmt.Errorf("the server said %s", response.Status)
	}
	certificate, err := io.ReadAll(io.LimitReader(response.Body, maxCertificate))
	if err != nil {
		return false, err
	}
	return m.cfg.Identity.Renew(certificate)
}
