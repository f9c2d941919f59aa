package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

func (c *cli) backupCommand() *cobra.Command {
	var o home.BackupOptions
	cmd := c.withJSON(&cobra.Command{
		Use:   "backup FILE",
		Short: "Write an archive of the home; PRIVATE KEYS ARE IN IT",
		Long: `Write an archive of the home to FILE, or with - to standard output: tar in gzip. "meshctl serve" and other commands may run
meanwhile; the archive is what one publication left.

PRIVATE KEYS ARE IN IT, and whoever has it can publish in the name of this mesh: encrypt it, and keep it as safe as the home. With
--without-keys HOME/keys/*.pem are left out, for keys that are kept elsewhere; restoring needs them then. The keys of certificates
(pki, members, operators) are in it all the same.

It has all files of the home: the state, the keys, pki, members, operators, the configuration, and the repository with the zones'
texts. These are in it although members have them too: "meshctl recover" takes from a member's copy only what is newer than the
backup, and a restored home without them could neither keep a zone in its next release nor serve a new member. A mesh in a bucket has
its state and repository there: they are not in the archive.

FILE has mode 0600, and has its name only when it is whole and on disk. It lies outside the home. One that is there is replaced with
--force only.

Restore it into an empty home, then run "meshctl recover" with copies of the members' repositories, before "meshctl serve" starts.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				return c.backupTo(cmd.Context(), cmd.OutOrStdout(), o)
			}
			made, err := c.home().Backup(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return c.print(made, func() { c.sayArchived(made) })
		}),
	})
	cmd.Flags().BoolVar(&o.WithoutKeys, "without-keys", false, "leave out the private keys in HOME/keys, which are kept elsewhere")
	cmd.Flags().BoolVar(&o.Force, "force", false, "replace FILE if it is there")
	return cmd
}

// backupTo writes the archive to standard output, and the facts where they do not disturb it.
func (c *cli) backupTo(ctx context.Context, out io.Writer, o home.BackupOptions) error {
	if err := notATerminal(out); err != nil {
		return err
	}
	if o.Force {
		return errors.New("--force is for a FILE")
	}
	made, err := c.home().Archive(ctx, out, o.WithoutKeys)
	if err != nil {
		return err
	}
	c.out = c.log
	return c.print(made, func() { c.sayArchived(made) })
}

// notATerminal is an error if out is one.
func notATerminal(out io.Writer) error {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return hint.Errorf("redirect the output", "an archive is not written to a terminal")
	}
	return nil
}

func (c *cli) sayArchived(made home.Archived) {
	type part struct {
		name  string
		files int
		bytes int64
	}
	var parts []part
	for _, f := range made.Files {
		name, _, below := strings.Cut(f.Name, "/")
		if below {
			name += "/"
		}
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			i, parts = len(parts), append(parts, part{name: name})
		}
		parts[i].files++
		parts[i].bytes += f.Bytes
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, p := range parts {
		fmt.Fprintf(w, "%s\t%d files\t%d bytes\n", p.name, p.files, p.bytes)
	}
	w.Flush()
	for _, name := range made.Links {
		c.say("%s is a symbolic link: what it leads to is NOT in the archive", name)
	}
	if made.Shared {
		c.say("the state and the repository are in the bucket, and NOT in the archive")
	}
	c.say("%d files in %s, %d bytes", len(made.Files), made.File, made.Bytes)
	if made.Keys {
		c.say("PRIVATE KEYS ARE IN IT: encrypt it, and keep it as safe as the home")
	} else {
		c.say("the private keys of %s/keys are NOT in it, those of certificates are: keep it as safe as the home", c.dir)
	}
}
