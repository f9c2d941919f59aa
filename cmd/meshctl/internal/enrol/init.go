// Package enrol makes a mesh, and says who is in it: members and operators, their certificates, the authority that signs these,
// and the bundles that they are given (RFC 3258 2.2 and 4.1.3; DELIV-2). It imports packages home and hint of its neighbours;
// package unattended, which renews certificates, and cmd/meshctl call it.
package enrol

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
)

// InitOptions describe a new mesh.
type InitOptions struct {
	Mesh    string        // its name
	Epsilon time.Duration // ε, the clock error that members must keep; whole milliseconds
	Lease   time.Duration // length of a lease; whole seconds
	SANs    []string      // names and addresses under which members reach this host
	Shared  []string      // the shared-unicast addresses, for the nodes' configurations
	URLs    []string      // where nodes find the repository, for the same
	Encrypt bool          // keys lie under a passphrase
	CA      string        // file: a certificate authority of the operator's own; "": one is made
	CAKey   string        // file: its key
	Bucket  string        // URL of a bucket to publish in; empty: a directory of the home
}

// Init makes a mesh in a home, which must not hold one: keys, certificates, and a repository that names no release yet. random
// yields key material.
func Init(ctx context.Context, h *home.Home, o InitOptions, random io.Reader) (*home.Writer, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	mesh := home.NewMesh{Name: o.Mesh, Epsilon: o.Epsilon, Lease: o.Lease, Encrypt: o.Encrypt, Bucket: o.Bucket}
	return h.Create(ctx, mesh, random, func(h *home.Home) error {
		for _, dir := range []string{pkiDir, nodesDir} {
			if err := os.MkdirAll(h.Path(dir), 0o700); err != nil {
				return err
			}
		}
		if err := errors.Join(makeAuthority(h, o), makeCookieSeed(h, o)); err != nil {
			return err
		}
		return writeTemplates(h, o)
	})
}
