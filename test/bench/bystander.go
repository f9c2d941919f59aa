package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// bystander is the host of a server that follows nothing, asked beside a node as the node is: what becomes of its answers is the others' doing.
const bystander = "bystander"

// prepareBystander makes a repository of its own for the bystander, which has the large zone as it is now, for good.
func (m *large) prepareBystander() error {
	manifest, err := m.manifest()
	if err != nil {
		return err
	}
	z := manifest.Latest().Zone(origin)
	if z == nil {
		return errors.New("the zone is in no release")
	}
	if err := os.MkdirAll(m.path(bystander), 0o755); err != nil {
		return err
	}
	own, err := newMesh(m.path(bystander))
	if err != nil {
		return err
	}
	own.address = shared
	if err := os.CopyFS(own.path("repository/blobs"), os.DirFS(m.path("home", "repository", "blobs"))); err != nil {
		return err
	}
	if err := errors.Join(own.forget(), own.current([]release.Zone{*z})); err != nil {
		return err
	}
	_, err = own.corefile(53, options{plugins: fmt.Sprintf("nsid %s\n    prometheus 127.0.0.1:9153", bystander)})
	m.bystanderHas = z.Serial
	return err
}

// startBystander starts it, and returns when it answers.
func (m *large) startBystander() error {
	if err := m.start(bystander, "coredns", filepath.Join(m.b.bin, "coredns"), "-conf", m.path(bystander, "Corefile")); err != nil {
		return err
	}
	_, err := m.answered(patience(m.b.names), atNode(bystander), origin, m.bystanderHas)
	return err
}
