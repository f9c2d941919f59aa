// Package publish puts what release.Publish made into a directory, for tests that play the distribution host. Real ones
// publish by the state that they share (cmd/meshctl/internal/home). Only tests import it.
package publish

import (
	"path"
	"path/filepath"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Files puts files into a repository in the order given, each durably before the next.
func Files(repo *depot.Dir, files []release.File) error {
	for _, f := range files {
		if err := depot.WriteFile(filepath.Join(repo.Path(), path.Dir(f.Name)), path.Base(f.Name), f.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
