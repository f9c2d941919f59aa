package main

import (
	"archive/tar"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
)

// The users of a node's two containers, and the group that they share, as in docs/deploy/containers.md. No process is of a user
// with the group's number.
const (
	userCoreDNS = 65531
	userSidecar = 65532
	groupMesh   = 65530
)

const (
	maxBundleFiles     = 64
	maxBundleFileBytes = 1 << 20
)

// owned is whose a file or directory is, and its mode.
type owned struct {
	user int
	mode fs.FileMode
}

// needed are the files of a bundle without which the two containers do not start.
var needed = []string{"Corefile", "sidecar.yaml", "root.json", "node.crt", "node.key", "cookies.key"}

// places are where a node keeps what it was given, what it writes, and its sockets, and the users of its two containers.
type places struct {
	etc, lib, run    string
	coredns, sidecar int
}

// owner is whose a file of a bundle is. What is not named here is root's, for both to read.
func (p places) owner(file string) owned {
	switch file {
	case "node.key", "bgp-secret":
		return owned{p.sidecar, 0o400}
	case "node.crt": // which it renews
		return owned{p.sidecar, 0o644}
	case "cookies.key":
		return owned{p.coredns, 0o400}
	}
	return owned{0, 0o640}
}

func prepareCommand() *cobra.Command {
	p := places{}
	var bundle, member string
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Make a node's directories for its two containers, and put a bundle into them; for root",
		Long: fmt.Sprintf(`Make a node's directories for its two containers, and put a bundle into them; for root, before the containers start.

Each of the two gets the directories that it writes, and no other; the node's key is the sidecar's alone. Their group is %d. It may
be run any number of times.

With --bundle the files of a bundle ("meshctl member bundle") are put into their place, after they were found to be those of the
member NAME. Without it a bundle must be there already.`, groupMesh),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (bundle == "") != (member == "") {
				return fmt.Errorf("%w: --bundle and --member stand together: the member that the bundle has to be of", errUsage)
			}
			var files map[string][]byte
			if bundle != "" {
				var err error
				if files, err = readBundle(bundle, member); err != nil {
					return fmt.Errorf("%s: %w", bundle, err)
				}
			}
			if err := p.prepare(files); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, %s and %s are prepared\n", p.etc, p.lib, p.run)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&bundle, "bundle", "", "tar `FILE` of a member's bundle to be put into its place")
	f.StringVar(&member, "member", "", "with --bundle: `NAME` of the member that it has to be of")
	f.StringVar(&p.etc, "etc", "/etc/mesh", "directory of the bundle")
	f.StringVar(&p.lib, "lib", "/var/lib/mesh", "directory of depot and state")
	f.StringVar(&p.run, "run", "/run/mesh", "directory of the sockets")
	p.coredns, p.sidecar = userCoreDNS, userSidecar
	f.Var(number.Int(&p.coredns, 0, 1<<31-1), "coredns", "user of CoreDNS")
	f.Var(number.Int(&p.sidecar, 0, 1<<31-1), "sidecar", "user of the sidecar")
	return cmd
}

// readBundle reads the files of a bundle, which must be whole and that of the member.
func readBundle(name, member string) (map[string][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("no tar file: %w", err)
		}
		_, twice := files[h.Name]
		switch {
		case h.Typeflag != tar.TypeReg || h.Name != filepath.Base(h.Name) || strings.HasPrefix(h.Name, "."):
			return nil, fmt.Errorf("%q: a bundle has plain files and no directories", h.Name)
		case twice:
			return nil, fmt.Errorf("%q is in it twice", h.Name)
		case h.Size > maxBundleFileBytes || len(files) == maxBundleFiles:
			return nil, fmt.Errorf("%q: a bundle has at most %d files of at most %d octets", h.Name, maxBundleFiles, maxBundleFileBytes)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	return files, checkBundle(files, member)
}

func checkBundle(files map[string][]byte, member string) error {
	var errs []error
	for _, name := range needed {
		if _, found := files[name]; !found {
			errs = append(errs, fmt.Errorf("%s is missing", name))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	pair, err := tls.X509KeyPair(files["node.crt"], files["node.key"])
	if err != nil {
		return err
	}
	if is := pair.Leaf.Subject.CommonName; is != member {
		return fmt.Errorf("it is the bundle of %q, and not of %q", is, member)
	}
	return nil
}

// prepare makes the directories, and puts files into p.etc, or if there are none gives those that are there to their owners.
func (p places) prepare(files map[string][]byte) error {
	for _, d := range []struct {
		name string
		owned
	}{
		{p.run, owned{groupMesh, 0o770 | fs.ModeSticky}}, // sticky and nobody's, so that each replaces only what is its own
		{p.etc, owned{0, 0o775 | fs.ModeSticky}},
		{p.lib, owned{0, 0o755}},
		{filepath.Join(p.lib, "repository"), owned{p.sidecar, 0o750}},
		{filepath.Join(p.lib, "sidecar"), owned{p.sidecar, 0o700}},
		{filepath.Join(p.lib, "state"), owned{p.coredns, 0o750}},
		{filepath.Join(p.lib, "cache"), owned{p.coredns, 0o750}},
	} {
		if err := os.MkdirAll(d.name, 0o700); err != nil {
			return err
		}
		if err := give(d.name, syscall.O_DIRECTORY, d.owned); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := depot.WriteFile(p.etc, name, files[name], 0o600); err != nil {
			return err
		}
	}
	return p.giveBundle()
}

// giveBundle gives each file of the bundle that lies in p.etc to its owner.
func (p places) giveBundle() error {
	entries, err := os.ReadDir(p.etc)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := give(filepath.Join(p.etc, e.Name()), 0, p.owner(e.Name())); err != nil {
			return err
		}
	}
	for _, name := range needed {
		if _, err := os.Stat(filepath.Join(p.etc, name)); err != nil {
			return fmt.Errorf("%w: there is no bundle of a member here; \"meshctl member add\" makes one, and --bundle puts it here", err)
		}
	}
	return nil
}

// give gives a file or directory to its owner. It follows no symbolic link, which a user of the directory could have put there for root.
func give(name string, flag int, to owned) error {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flag, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(f.Chown(to.user, groupMesh), f.Chmod(to.mode))
}
