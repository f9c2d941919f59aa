package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// What configurations of nodes are made of is kept, so that it can be changed: of the mesh beside the templates, of a node beside
// its bundle. A home of a version before has neither.
const (
	factsName     = "mesh.json"
	maxFactsBytes = 64 << 10
)

// meshFacts are what init was told for the configurations of nodes.
type meshFacts struct {
	Shared []string `json:"shared"`
	URLs   []string `json:"urls"`
}

func readFacts[T any](dir, file string) (facts T, err error) {
	data, err := depot.ReadFile(dir, file, maxFactsBytes)
	if err == nil {
		err = json.Unmarshal(data, &facts)
	}
	return facts, err
}

// Served are the URLs at which nodes find the repository, as far as init or set was told.
func Served(h *home.Home) []string {
	facts, err := readFacts[meshFacts](h.Path(templatesDir), factsName)
	if err != nil {
		return nil
	}
	return facts.URLs
}

func writeFacts(dir, file string, facts any) error {
	data, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		return err
	}
	return depot.WriteFile(dir, file, append(data, '\n'), 0o644)
}

// check refuses what no node could be configured by, or no member reach this host by: all of it.
func (o InitOptions) check() error {
	var errs []error
	for i, text := range o.Shared {
		if _, err := fields.Address(text); err != nil {
			errs = append(errs, fmt.Errorf("--shared: %w", err))
		} else if slices.Contains(o.Shared[:i], text) {
			errs = append(errs, fmt.Errorf("--shared: %s twice", text))
		}
	}
	for _, text := range o.URLs {
		if u, err := url.Parse(text); err != nil || u.Scheme != "https" || u.Hostname() == "" {
			errs = append(errs, fmt.Errorf("--url: %q: nodes take a repository by https only: https://HOST:PORT/ (DELIV-2)", text))
		}
	}
	for _, text := range o.SANs {
		if err := checkHost(text, o.Shared); err != nil {
			errs = append(errs, fmt.Errorf("--san: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkHost refuses what is neither an address of one machine nor a name.
func checkHost(text string, shared []string) error {
	if slices.Contains(shared, text) {
		return fmt.Errorf("%s is a shared address, at which any node may answer: give an administrative address (RFC 3258 2.1)", text)
	}
	if _, err := netip.ParseAddr(text); err == nil || strings.Trim(text, "0123456789.") == "" || strings.Contains(text, ":") {
		_, err := fields.Address(text)
		return err
	}
	_, err := fields.ZoneName(text)
	return err
}

// check refuses what no node could be configured by, in a mesh with these shared addresses and members.
func (n NewMember) check(shared []string, members []release.Member) (address string, err error) {
	address, _, err = net.SplitHostPort(n.Admin)
	if err != nil || address == "" {
		return "", hint.Errorf("for example --admin 198.51.100.7:8443", "%q is not HOST:PORT", n.Admin)
	}
	var errs []error
	if err := checkHost(address, shared); err != nil {
		errs = append(errs, fmt.Errorf("--admin: %w", err))
	}
	for _, m := range members {
		if m.Name != n.Name && m.Admin == "https://"+n.Admin {
			errs = append(errs, fmt.Errorf("--admin: %s is that of %s", n.Admin, m.Name))
		}
	}
	if len(n.Routers) == 0 && (n.AS != 0 || n.RouterAS != 0 || n.RouterID != "") {
		errs = append(errs, hint.Errorf("for example --router 198.51.100.1; or leave these flags out", "--as, --router-as and --router-id are for sessions with routers, and --router names none: nothing would be announced"))
	}
	if n.At != "" {
		if _, err := fields.Path(n.At); err != nil {
			errs = append(errs, fmt.Errorf("--at: %w: processes start anywhere", err))
		}
	}
	return address, errors.Join(errs...)
}

// CheckListen says why members would refuse what serves at an address: its certificate is for others.
func CheckListen(h *home.Home, listen netip.Addr) error {
	c, err := readCertificate(h.Path(pkiDir), "host.crt")
	if err != nil {
		return err
	}
	listen = listen.Unmap()
	sans := sansOf(c)
	named := slices.ContainsFunc(c.DNSNames, func(name string) bool { return name != "localhost" })
	if listen.IsUnspecified() || named || slices.Contains(sans, listen.String()) {
		return nil
	}
	return hint.Errorf("meshctl set --san "+listen.String()+",…", "members would refuse %s: this host's certificate is for %s", listen, strings.Join(sans, ", "))
}

// MeshChange is what is to be different from what init was told; what is nil stays.
type MeshChange struct{ Shared, URLs, SANs []string }

// Changed is what was made anew.
type Changed struct {
	Bundles []string `json:"bundles"` // of members
	Others  []string `json:"others"`  // members whose bundles were not made here, or by a version before
	Kept    []string `json:"kept"`    // templates that somebody had changed, as they were
}

// Change changes what init was told, and makes the templates, this host's certificate and all bundles anew that come of it. Nothing is
// published: nodes go by the configuration that they are given.
func Change(w *home.Writer, c MeshChange) (done Changed, err error) {
	m := w.View().Manifest
	before, err := readFacts[meshFacts](w.Path(templatesDir), factsName)
	if errors.Is(err, fs.ErrNotExist) && (c.Shared == nil) != (c.URLs == nil) {
		return done, hint.Errorf("say --shared and --url", "what this mesh has of the two is not known here")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return done, err
	}
	own, err := readCertificate(w.Path(pkiDir), "host.crt")
	if err != nil {
		return done, err
	}
	was := InitOptions{Mesh: m.Mesh, Shared: before.Shared, URLs: before.URLs, SANs: sansOf(own)}
	is := was
	for _, f := range []struct{ to, by *[]string }{{&is.Shared, &c.Shared}, {&is.URLs, &c.URLs}, {&is.SANs, &c.SANs}} {
		if *f.by != nil {
			*f.to = *f.by
		}
	}
	if err := is.check(); err != nil {
		return done, err
	}
	for _, member := range m.Members {
		n := NewMember{Name: member.Name, Admin: strings.TrimPrefix(member.Admin, "https://")}
		if _, err := n.check(is.Shared, nil); err != nil {
			return done, fmt.Errorf("member %s: %w", member.Name, err)
		}
	}
	if c.SANs != nil {
		if err := reissue(w, pkiDir, "host", subject{HostName, identity.Host, is.SANs}); err != nil {
			return done, err
		}
	}
	if len(is.Shared) > 0 && len(is.URLs) > 0 && (c.Shared != nil || c.URLs != nil || c.SANs != nil) {
		if done.Kept, err = keepTemplates(w, was); err != nil {
			return done, err
		}
		if err := writeTemplates(w, is); err != nil {
			return done, err
		}
	}
	for _, member := range m.Members {
		n, err := readFacts[NewMember](w.Path(nodesDir), member.Name+".json")
		if errors.Is(err, fs.ErrNotExist) {
			done.Others = append(done.Others, member.Name)
			continue
		}
		if err == nil {
			err = fillBundle(w, n)
		}
		if err != nil {
			return done, fmt.Errorf("the bundle of %s: %w", member.Name, err)
		}
		done.Bundles = append(done.Bundles, member.Name)
	}
	return done, nil
}

// keepTemplates keeps a copy of those templates that are not as they were made.
func keepTemplates(h place, o InitOptions) (kept []string, err error) {
	for name, made := range templates(o) {
		text, err := depot.ReadFile(h.Path(templatesDir), name, maxFactsBytes)
		if errors.Is(err, fs.ErrNotExist) || err == nil && string(text) == made {
			continue
		}
		if err == nil {
			err = depot.WriteFile(h.Path(templatesDir), name+".before", text, 0o644)
		}
		if err != nil {
			return kept, err
		}
		kept = append(kept, h.Path(templatesDir, name+".before"))
	}
	slices.Sort(kept)
	return kept, nil
}

// UpdateMember changes what member add was told of a node, and makes its bundle anew; its key stays. The member has another
// administrative address once that is published.
func UpdateMember(ctx context.Context, w *home.Writer, name string, change func(*NewMember)) (string, error) {
	m := w.View().Manifest
	i := slices.IndexFunc(m.Members, func(o release.Member) bool { return o.Name == name })
	if i < 0 {
		return "", notMember(name)
	}
	n, err := readFacts[NewMember](w.Path(nodesDir), name+".json")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	known := err == nil
	n.Name = name
	change(&n)
	if !known && n.Admin == "" {
		return "", hint.Errorf("give all of its flags again, --admin among them", "what %s was added with is not known here", name)
	}
	facts, _ := readFacts[meshFacts](w.Path(templatesDir), factsName) // without them no address is known as shared
	address, err := n.check(facts.Shared, m.Members)
	if err != nil {
		return "", err
	}
	old, err := readCertificate(w.Path(nodesDir, name), "node.crt")
	if err != nil {
		return "", fmt.Errorf("the bundle of %s: %w", name, err)
	}
	m.Members = slices.Clone(m.Members)
	moved := m.Members[i].Admin != "https://"+n.Admin
	m.Members[i].Admin = "https://" + n.Admin
	if err := m.Validate(); err != nil {
		return "", err
	}
	if err := fillBundle(w, n); err != nil {
		return "", err
	}
	if !slices.Equal(sansOf(old), []string{address}) {
		if err := errors.Join(reissue(w, nodesDir+"/"+name, "node", subject{name, identity.Node, []string{address}}), packBundle(w, nodesDir, name)); err != nil {
			return "", err
		}
	}
	if moved {
		err = w.Publish(ctx, m, home.Event{Event: "member changed", Detail: name + " " + n.Admin})
	}
	return w.Path(nodesDir, name), err
}
