package releasing

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// RequestName is where the host says what a second person would have to sign.
const RequestName = "override-request.json"

// overrideAge is how long an override counts: it is for a release at hand.
const overrideAge = 24 * time.Hour

// ask writes what a second person may sign so that the blocked zones go out, and returns where.
func ask(w *home.Writer, v verdict) (string, error) {
	if len(v.blocked) == 0 || len(v.blocked) > release.MaxOverridden {
		return "", nil
	}
	request, err := release.Override{Mesh: w.View().Manifest.Mesh, Zones: v.blocked}.Encode()
	if err != nil {
		return "", err
	}
	return w.Path(RequestName), depot.WriteFile(w.Path(), RequestName, request, 0o644)
}

// verifyOverride says why an override does not count here and now.
func verifyOverride(w *home.Writer, o *release.Override) error {
	if o == nil {
		return nil
	}
	key, err := w.Keys().Override()
	if err != nil {
		return err
	}
	if err := o.Verify(key, w.View().Manifest.Mesh); err != nil {
		return fmt.Errorf("the override does not count: %w", err)
	}
	if age := w.Now().Sub(o.At); age > overrideAge || age < -time.Hour {
		return hint.Errorf("have it signed again", "the override does not count: it was signed at %s, and counts for %v", o.At.Format(time.RFC3339), overrideAge)
	}
	return nil
}

// SignOverride signs a request with the key in a file, as who for the reason why.
func SignOverride(ctx context.Context, request, keyFile, who, why string, now time.Time) (release.Override, error) {
	data, err := readSmall(request)
	if err != nil {
		return release.Override{}, err
	}
	o, err := release.ParseOverride(data)
	if err != nil {
		return o, fmt.Errorf("%s: %w", request, err)
	}
	key, err := keys.Read(keyFile)
	if err != nil {
		return o, fmt.Errorf("%s: %w", keyFile, err)
	}
	signer, err := key.Signer(ctx)
	if err != nil {
		return o, err
	}
	return o.Sign(signer, who, why, now)
}

// ReadOverride reads a signed override. Whether it counts is for Make to say.
func ReadOverride(file string) (*release.Override, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	o, err := release.ParseOverride(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &o, nil
}

func readSmall(file string) ([]byte, error) {
	data, err := depot.ReadFile(filepath.Dir(file), filepath.Base(file), release.MaxOverrideBytes)
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("%s is empty", file)
	}
	return data, err
}
