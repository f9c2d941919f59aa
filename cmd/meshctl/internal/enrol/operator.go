package enrol

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// operatorFile is the name of an operator's certificate and key, without the ending.
const operatorFile = "operator"

// AddOperator makes a certificate for somebody who may look at nodes, and drain them if role is identity.Operator and not
// identity.Observer. It returns the directory of the bundle, which is also in a tar file beside it.
func AddOperator(ctx context.Context, w *home.Writer, name, role string) (string, error) {
	m := w.View().Manifest
	switch {
	case name == HostName:
		return "", hint.Errorf("choose another name", "%s is the name of the distribution host itself", name)
	case slices.ContainsFunc(m.Operators, func(o release.Operator) bool { return o.Name == name }):
		return "", hint.Errorf("for a new certificate: meshctl operator renew "+name+"; for another role: remove, then add", "%s is there already", name)
	case !release.ValidName(name):
		return "", hint.Errorf("1 to 63 lower-case letters, digits and \"-\"", "%q cannot be a name", name)
	case slices.ContainsFunc(m.Members, func(o release.Member) bool { return o.Name == name }):
		return "", hint.Errorf("choose another name", "%s is a member", name)
	}
	dir := operatorsDir + "/" + name
	if err := os.MkdirAll(w.Path(dir), 0o700); err != nil {
		return "", err
	}
	ca, err := depot.ReadFile(w.Path(pkiDir), "ca.crt", maxPEMBytes)
	if err != nil {
		return "", err
	}
	err = errors.Join(depot.WriteFile(w.Path(dir), "ca.crt", ca, 0o644), issue(w, dir, operatorFile, subject{name, role, nil}))
	if err != nil {
		return "", err
	}
	c, err := readCertificate(w.Path(dir), operatorFile+".crt")
	if err != nil {
		return "", err
	}
	if err := packBundle(w, operatorsDir, name); err != nil {
		return "", err
	}
	m.Operators = append(slices.Clone(m.Operators), release.Operator{Name: name, Keys: []release.Digest{identity.PinOf(c)}})
	slices.SortFunc(m.Operators, func(a, b release.Operator) int { return strings.Compare(a.Name, b.Name) })
	return w.Path(dir), w.Publish(ctx, m, home.Event{Event: role + " added", Detail: name})
}

// RemoveOperator revokes a certificate: a node refuses it as soon as it has the manifest that says so.
func RemoveOperator(ctx context.Context, w *home.Writer, name string) error {
	m := w.View().Manifest
	others := slices.DeleteFunc(slices.Clone(m.Operators), func(o release.Operator) bool { return o.Name == name })
	if len(others) == len(m.Operators) || name == HostName {
		return notOperator(name)
	}
	m.Operators = others // an empty list is one
	if err := w.Publish(ctx, m, home.Event{Event: "operator removed", Detail: name}); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(w.Path(operatorsDir, name)), removeFile(w.Path(operatorsDir, name+".tar")))
}

func notOperator(name string) error {
	return hint.Errorf("meshctl operator list shows all", "%s is no operator or observer", name)
}

// RenewOperator makes a certificate that begins now, for the same key and with the same role.
func RenewOperator(ctx context.Context, w *home.Writer, name string) error {
	if !slices.ContainsFunc(withoutHost(w.View().Manifest.Operators), func(o release.Operator) bool { return o.Name == name }) {
		return notOperator(name)
	}
	dir := operatorsDir + "/" + name
	old, err := readCertificate(w.Path(dir), operatorFile+".crt")
	if err != nil {
		return err
	}
	return errors.Join(reissue(w, dir, operatorFile, subject{name, identity.RoleOf(old), nil}), packBundle(w, operatorsDir, name))
}

// Operator is one as this host knows it: of one that another host made, the role and the end are not here.
type Operator struct {
	release.Operator
	Role string    `json:"role,omitempty"`
	Ends time.Time `json:"certificate_ends,omitzero"`
}

// Operators lists them.
func Operators(h *home.Home, m release.Manifest) []Operator {
	all := []Operator{}
	for _, o := range withoutHost(m.Operators) {
		one := Operator{Operator: o}
		if c, err := readCertificate(h.Path(operatorsDir, o.Name), operatorFile+".crt"); err == nil {
			one.Role, one.Ends = identity.RoleOf(c), c.NotAfter
		}
		all = append(all, one)
	}
	return all
}
