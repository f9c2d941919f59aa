package enrol

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// NewMember is a node that is to join.
type NewMember struct {
	Name     string   `json:"name"`
	Admin    string   `json:"admin"`               // HOST:PORT of its administrative plane
	At       string   `json:"at,omitempty"`        // directory in which the node keeps everything; "" for /etc/mesh, /var/lib/mesh and /run/mesh
	AS       uint32   `json:"as,omitempty"`        // its autonomous system, and
	Routers  []string `json:"routers,omitempty"`   // the addresses and
	RouterAS uint32   `json:"router_as,omitempty"` // the autonomous system of its routers; none if Routers is empty
	RouterID string   `json:"router_id,omitempty"` // its BGP identifier; "" for the administrative address
}

// AddMember takes a node into the mesh and writes the bundle that it is given: a directory, whose path it returns, and
// the same as a tar file beside it.
func AddMember(ctx context.Context, w *home.Writer, n NewMember) (string, error) {
	if n.Name == HostName {
		return "", hint.Errorf("choose another name", "%s is the name of the distribution host itself", n.Name)
	}
	m := w.View().Manifest
	if slices.ContainsFunc(m.Members, func(o release.Member) bool { return o.Name == n.Name }) {
		return "", hint.Errorf("for a new certificate: meshctl member renew "+n.Name+"; for another address: meshctl member update "+n.Name,
			"%s is a member already", n.Name)
	}
	facts, err := readFacts[meshFacts](w.Path(templatesDir), factsName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	address, err := n.check(facts.Shared, m.Members)
	if err != nil {
		return "", err
	}
	m.Members = append(slices.Clone(m.Members), release.Member{Name: n.Name, Admin: "https://" + n.Admin})
	slices.SortFunc(m.Members, func(a, b release.Member) int { return strings.Compare(a.Name, b.Name) })
	if err := m.Validate(); err != nil {
		return "", err
	}
	key, err := makeBundle(w, n, address)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(m.Members, func(o release.Member) bool { return o.Name == n.Name })
	m.Members[i].Keys = []release.Digest{key}
	next, err := w.Host().Add(w.Instant(), n.Name)
	if err != nil {
		return "", home.Refused(err)
	}
	return w.Path(nodesDir, n.Name), w.Carry(ctx, next, time.Time{}, func(now *release.Manifest) { now.Members = m.Members },
		home.Event{Event: "member added", Detail: n.Name + " " + n.Admin})
}

// RemoveMember takes a node out of the mesh and revokes its certificate: it is served no zones any more, and falls silent when it
// hears of that. Until it has said so, the next switchover waits for it as for a member that is away.
func RemoveMember(ctx context.Context, w *home.Writer, name string) error {
	m := w.View().Manifest
	others := slices.DeleteFunc(slices.Clone(m.Members), func(o release.Member) bool { return o.Name == name })
	if len(others) == len(m.Members) {
		return notMember(name)
	}
	next, err := w.Host().Strike(w.Instant(), name)
	if err != nil {
		return home.Refused(err)
	}
	change := func(now *release.Manifest) { now.Members = others }
	if err := w.Carry(ctx, next, time.Time{}, change, home.Event{Event: "member removed", Detail: name}); err != nil {
		return err
	}
	gone := m.Members[slices.IndexFunc(m.Members, func(o release.Member) bool { return o.Name == name })]
	return errors.Join(keepRemoved(w, gone, w.Now()), os.RemoveAll(w.Path(nodesDir, name)), removeFile(w.Path(nodesDir, name+".tar")), removeFile(w.Path(nodesDir, name+".json")))
}

func notMember(name string) error {
	return hint.Errorf("meshctl member list shows all", "%s is not a member", name)
}

// RenewMember gives a member a certificate that begins now. It is for the same key, and the member fetches it by itself
// from "meshctl serve"; with newKey it is for a new one, which the node must be given with the bundle, and the old key
// is taken beside it until the next renewal. A key that was revoked gets no certificate, and is not taken again.
func RenewMember(ctx context.Context, w *home.Writer, name string, newKey bool) error {
	m := w.View().Manifest
	i := slices.IndexFunc(m.Members, func(o release.Member) bool { return o.Name == name })
	if i < 0 {
		return notMember(name)
	}
	dir := nodesDir + "/" + name
	old, err := readCertificate(w.Path(dir), "node.crt")
	if err != nil {
		return fmt.Errorf("the bundle of %s: %w", name, err)
	}
	before, revoked := identity.PinOf(old), !m.Members[i].Has(identity.PinOf(old))
	if revoked && !newKey {
		return hint.Errorf("meshctl member renew --new-key "+name+", and give the node its bundle",
			"%s: the key in its bundle here was revoked, and with it any certificate for this key", name)
	}
	if revoked {
		before = m.Members[i].Keys[0] // the one that the node may have
	}
	who := subject{name, identity.Node, sansOf(old)}
	if err := addCookieSeed(w, w.Path(dir)); err != nil {
		return err
	}
	if !newKey {
		return errors.Join(reissue(w, dir, "node", who), packBundle(w, nodesDir, name))
	}
	if err := errors.Join(issue(w, dir, "node", who), packBundle(w, nodesDir, name)); err != nil {
		return err
	}
	made, err := readCertificate(w.Path(dir), "node.crt")
	if err != nil {
		return err
	}
	m.Members = slices.Clone(m.Members)
	m.Members[i].Keys = []release.Digest{identity.PinOf(made), before}
	return w.Publish(ctx, m, home.Event{Event: "member's key replaced", Detail: name})
}

// RevokedBundles are the members whose bundles in the home have a key that was revoked, as in a home that was restored from a backup
// which is older than their keys.
func RevokedBundles(h *home.Home, m release.Manifest) (names []string) {
	for _, member := range m.Members {
		if c, err := readCertificate(h.Path(nodesDir, member.Name), "node.crt"); err == nil && !member.Has(identity.PinOf(c)) {
			names = append(names, member.Name)
		}
	}
	return names
}

func sansOf(c *x509.Certificate) []string {
	sans := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		sans = append(sans, ip.String())
	}
	return sans
}

// renewFrom is the part of a certificate's life after which a new one is made: early enough for a host that is away for
// months.
func renewFrom(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// RenewDue makes new certificates for this host and for those members whose last third has begun, and returns whose.
func RenewDue(ctx context.Context, w *home.Writer) (names []string, err error) {
	own, err := readCertificate(w.Path(pkiDir), "host.crt")
	if err != nil {
		return nil, err
	}
	now := w.Now()
	var faults []error
	if now.After(renewFrom(own)) {
		faults = append(faults, reissue(w, pkiDir, "host", subject{HostName, identity.Host, sansOf(own)}))
		names = append(names, HostName)
	}
	for _, m := range w.View().Manifest.Members {
		c, err := readCertificate(w.Path(nodesDir, m.Name), "node.crt")
		if errors.Is(err, os.ErrNotExist) {
			continue // of an authority elsewhere
		}
		if err != nil || now.After(renewFrom(c)) {
			faults = append(faults, cmp.Or(err, RenewMember(ctx, w, m.Name, false)))
			names = append(names, m.Name)
		}
	}
	return names, errors.Join(faults...)
}

// CertificateEnds is when a member's certificate ends, as far as this host made it.
func CertificateEnds(h *home.Home, name string) time.Time {
	c, err := readCertificate(h.Path(nodesDir, name), "node.crt")
	if err != nil {
		return time.Time{}
	}
	return c.NotAfter
}
