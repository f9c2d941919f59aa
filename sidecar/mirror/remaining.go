package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

const remainingPath = "v1/remaining"

// Remaining asks all distribution hosts at once which members remain, announced and good, and returns those that any of them
// has seen: each may be cut off from others. It fails if none answers before ctx ends.
func (m *Mirror) Remaining(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	var members []string
	var faults []error
	answered := false
	var open sync.WaitGroup
	for _, url := range m.cfg.URLs {
		if m.cfg.CA[url] != "" {
			continue // a bucket or a CDN knows nobody
		}
		open.Go(func() {
			said, err := m.remaining(ctx, url)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", url, err))
				return
			}
			answered = true
			members = append(members, said...)
		})
	}
	open.Wait()
	if !answered {
		return nil, errors.Join(append(faults, errNoHost)...)
	}
	slices.Sort(members)
	return slices.Compact(members), nil
}

var errNoHost = errors.New("no distribution host answers")

func (m *Mirror) remaining(ctx context.Context, url string) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/"+remainingPath, nil)
	if err != nil {
		return nil, err
	}
	request.Close = true // a connection that is kept would show the certificate of then
	response, err := m.hosts.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.TLS != nil { // what it says is not signed
		c := response.TLS.PeerCertificates[0]
		if role := identity.RoleOf(c); role == identity.Host {
			if why := m.Refuses(role, c.Subject.CommonName, identity.PinOf(c)); why != "" {
				return nil, fmt.Errorf("the server is %q: %s", c.Subject.CommonName, why)
			}
		}
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server said %s", response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, status.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	var said status.Remaining
	err = status.Decode(data, &said)
	return said.Members, err
}
