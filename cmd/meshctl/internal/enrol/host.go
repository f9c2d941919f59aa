package enrol

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// nextHost is the name of this host's certificate and key, without the ending, until the manifest says that they count.
const nextHost = "host.next"

// RenewHost makes this host a certificate that begins now. It is for the same key, or with newKey for a new one; then the
// manifest has the new key as the only one of the distribution host, and nodes that have the manifest refuse the old one. A
// process that serves takes the files without a restart. If it fails, the old certificate stays in use.
func RenewHost(ctx context.Context, w *home.Writer, newKey bool) error {
	old, err := readCertificate(w.Path(pkiDir), "host.crt")
	if err != nil {
		return err
	}
	who := subject{HostName, identity.Host, sansOf(old)}
	if !newKey {
		return reissue(w, pkiDir, "host", who)
	}
	remove := func() error {
		return errors.Join(removeFile(w.Path(pkiDir, nextHost+".key")), removeFile(w.Path(pkiDir, nextHost+".crt")))
	}
	if err := issue(w, pkiDir, nextHost, who); err != nil {
		return errors.Join(err, remove())
	}
	made, err := readCertificate(w.Path(pkiDir), nextHost+".crt")
	if err == nil {
		m := w.View().Manifest
		m.Operators = append(withoutHost(m.Operators), release.Operator{Name: HostName, Keys: []release.Digest{identity.PinOf(made)}})
		slices.SortFunc(m.Operators, func(a, b release.Operator) int { return strings.Compare(a.Name, b.Name) })
		err = w.Publish(ctx, m, home.Event{Event: "distribution host's key replaced", Detail: identity.PinOf(made).String()})
	}
	if err == nil {
		err = putHost(w)
	}
	return errors.Join(err, remove())
}

// putHost puts the next certificate and its key into the place of those in use.
func putHost(w *home.Writer) error {
	key, err := depot.ReadFile(w.Path(pkiDir), nextHost+".key", maxPEMBytes)
	cert, err2 := depot.ReadFile(w.Path(pkiDir), nextHost+".crt", maxPEMBytes)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	return writeCredential(w, pkiDir, "host", credential{cert, key})
}

// withoutHost is the list without the distribution host, which stands in it once its key was replaced and is none of the people.
func withoutHost(operators []release.Operator) []release.Operator {
	return slices.DeleteFunc(slices.Clone(operators), func(o release.Operator) bool { return o.Name == HostName })
}
