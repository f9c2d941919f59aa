package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

func (c *cli) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Which keys speak for the mesh: list, rotate, and ceremonies for the root",
		Long: `Which keys speak for the mesh. The root key says who may speak and is kept offline; the release key signs what is answered;
the lease key, online, signs until when. docs/operate/keys.md says where each lies and what its theft means.

A key lies in HOME/keys: ROLE.pem, ROLE-anything.pem, or ROLE.command, which has two lines, "ed25519 PUBLICKEY" in
hexadecimal and a command that signs its standard input, for a key in a token or a service.

Nodes follow new keys by themselves. rotate does all in one step where enough root keys are at hand. Where several people
must sign, draft writes what they sign, each uses sign where his key is, and publish puts it in force.`,
		Args: usage.Commands,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("keys: list, new, rotate, draft, sign or publish?")
		},
	}
	cmd.AddCommand(c.keysListCommand(), c.keysNewCommand(), c.keysRotateCommand(), c.keysDraftCommand(), c.keysSignCommand(), c.keysPublishCommand())
	return cmd
}

// keyJSON is a key that the root names.
type keyJSON struct {
	Role string `json:"role"`
	ID   string `json:"id"`
	File string `json:"file,omitempty"` // where its private half is at hand
	How  string `json:"how,omitempty"`
}

func (c *cli) keysListCommand() *cobra.Command {
	return c.withJSON(&cobra.Command{
		Use:   "list",
		Short: "The keys that the root in force names, and which are at hand",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			root, err := c.home().Root(cmd.Context())
			if err != nil {
				return err
			}
			t, err := release.TrustOf(root)
			if err != nil {
				return err
			}
			facts := struct {
				Version   int64     `json:"version"`
				Expires   time.Time `json:"expires"`
				Threshold int       `json:"threshold"`
				Numbers   uint64    `json:"numbers_from,omitempty"`
				Keys      []keyJSON `json:"keys"`
			}{Version: t.Version, Expires: t.Expires, Threshold: t.Threshold, Numbers: t.NumbersFrom}
			if facts.Keys, err = keysOf(c.home().Keys(), t); err != nil {
				return err
			}
			return c.print(facts, func() {
				c.say("root %d, until %s, replaced by %d of %d root keys", t.Version, secondOf(t.Expires), t.Threshold, len(t.Root))
				if t.NumbersFrom > 0 {
					c.say("release numbers begin at %d", t.NumbersFrom)
				}
				w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
				for _, k := range facts.Keys {
					where := "not here"
					if k.File != "" {
						where = k.How + ", " + k.File
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", k.Role, k.ID[:16], where)
				}
				w.Flush()
			})
		}),
	})
}

func keysOf(ring keys.Ring, t release.Trust) (all []keyJSON, err error) {
	for _, role := range []struct {
		name string
		keys []ed25519.PublicKey
	}{{"root", t.Root}, {"release", []ed25519.PublicKey{t.Release}}, {"lease", []ed25519.PublicKey{t.Lease}}} {
		here, err := ring.Of(role.name)
		if err != nil {
			return nil, err
		}
		for _, public := range role.keys {
			k := keyJSON{Role: role.name, ID: release.KeyID(public)}
			for _, h := range here {
				if h.Public.Equal(public) {
					k.File, k.How = h.File, h.How
				}
			}
			all = append(all, k)
		}
	}
	return all, nil
}

func (c *cli) keysNewCommand() *cobra.Command {
	var encrypt bool
	cmd := &cobra.Command{
		ValidArgs: []string{"root", "release", "lease", "override"},

		Use:   "new root|release|lease|override",
		Short: "Make a key that nothing trusts yet, and print its public half",
		Args:  usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			k, err := c.home().Keys().New(cmd.Context(), args[0], encrypt, rand.Reader)
			if err != nil {
				return err
			}
			public, err := keys.PublicPEM(k.Public)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.log, "%s, %s\n%s\n", filepath.Join(c.dir, "keys", k.File), k.How, newKeyLine(k.Public))
			_, err = c.out.Write(public)
			return err
		}),
	}
	cmd.Flags().BoolVar(&encrypt, "encrypt", false, "keep it under a passphrase")
	return cmd
}

func (c *cli) keysRotateCommand() *cobra.Command {
	var encrypt bool
	var from uint64
	cmd := c.withJSON(&cobra.Command{
		ValidArgs: []string{"root", "release", "lease"},

		Use:   "rotate root|release|lease",
		Short: "Replace a key by a new one; the old one's word is worth nothing from then on",
		Long: `Replace a key by a new one; the old one's word is worth nothing from then on.

Whoever stole the release key may have had nodes take higher release numbers than this host knows of. --numbers-from has the numbers of
this mesh begin above them: the release in force goes on under that number, with the same zones, and nodes take it whatever lower number
they have seen. docs/operate/keys.md has the whole way.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			return c.writing(cmd.Context(), func(w *home.Writer) error {
				k, err := w.RotateKey(cmd.Context(), args[0], from, encrypt, rand.Reader)
				if err != nil {
					return err
				}
				facts := struct {
					Role    string `json:"role"`
					ID      string `json:"id"`
					File    string `json:"file"`
					Numbers uint64 `json:"numbers_from,omitempty"`
				}{args[0], release.KeyID(k.Public), k.File, from}
				return c.print(facts, func() {
					c.say("%s key %s is in force: %s, %s", args[0], facts.ID[:16], k.File, k.How)
					if from > 0 {
						c.say("release numbers begin at %d: what is answered from goes on under that number", from)
					}
					old := "it"
					if files := c.otherKeys(args[0], k.File); len(files) > 0 {
						old = strings.Join(files, " and ")
					}
					c.say("nodes follow by themselves; the old key is of no use any more: destroy %s", old)
				})
			})
		}),
	})
	cmd.Flags().BoolVar(&encrypt, "encrypt", false, "keep the new key under a passphrase")
	cmd.Flags().Var(numbersFlag(&from), "numbers-from", "release numbers begin there, above all that nodes have seen (default: as before)")
	return cmd
}

// otherKeys are the files of a role's keys in the home but for one, which has replaced them.
func (c *cli) otherKeys(role, file string) (others []string) {
	for _, pattern := range []string{role + ".*", role + "-*"} {
		found, _ := filepath.Glob(c.home().Path(keys.Dir, pattern))
		for _, other := range found {
			if filepath.Base(other) != file {
				others = append(others, other)
			}
		}
	}
	return others
}

func (c *cli) keysDraftCommand() *cobra.Command {
	var change keys.RootChange
	var add []string
	var newRelease, newLease, out string
	var years int
	cmd := c.withJSON(&cobra.Command{
		Use:   "draft --out FILE",
		Short: "Draft the root that follows, for others to sign; print what it changes, and its digest",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			for _, file := range add {
				key, err := publicKey(file)
				if err != nil {
					return err
				}
				change.Add = append(change.Add, key)
			}
			var err error
			if change.Release, err = publicKey(newRelease); err != nil {
				return err
			}
			if change.Lease, err = publicKey(newLease); err != nil {
				return err
			}
			return c.writing(cmd.Context(), func(w *home.Writer) error {
				if change.NumbersFrom > 0 {
					if err := w.Unused(change.NumbersFrom); err != nil {
						return err
					}
				}
				if years > 0 {
					change.Expires = c.clock().AddDate(years, 0, 0)
				}
				draft, err := change.Draft(w.Root(), c.clock())
				if err != nil {
					return err
				}
				if err := writeDraft(out, draft, w.Root()); err != nil {
					return err
				}
				d, err := draftOf(c.home().Keys(), w.Root(), draft)
				if err != nil {
					return err
				}
				return c.print(d, func() { sayDraft(c.out, d) })
			})
		}),
	})
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "file to write")
	f.StringSliceVar(&add, "add", nil, "public key file of a root key that is added")
	f.StringSliceVar(&change.Drop, "drop", nil, "beginning of the id of a root key that goes")
	f.Var(number.Int(&change.Threshold, 0, 100), "threshold", "how many root keys must sign the next root (default: as now)")
	f.StringVar(&newRelease, "release", "", "public key file of a new release key")
	f.StringVar(&newLease, "lease", "", "public key file of a new lease key")
	f.Var(number.Int(&years, 0, 100), "years", "how long the root's word lasts (default 10)")
	f.Var(numbersFlag(&change.NumbersFrom), "numbers-from", "release numbers begin there, above all that nodes have seen (default: as before)")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// numbersFlag takes where release numbers begin.
func numbersFlag(v *uint64) *number.Value[uint64] { return number.Uint64(v, 1, release.MaxNumbersFrom) }

// publicKey reads a public key file; no name is no key.
func publicKey(file string) (ed25519.PublicKey, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := keys.ParsePublic(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

func (c *cli) keysSignCommand() *cobra.Command {
	var expect, root string
	cmd := c.withJSON(&cobra.Command{
		Use:   "sign FILE",
		Short: "Show what a draft changes, and sign it with the root keys in HOME/keys; needs nothing else of the mesh",
		Long: `Show what a draft of a root says: its keys by role, how that differs from the root in force, and the digest of what is signed. It is
signed when the first digits of the digest are typed, as who drafted it tells them; a program says --expect DIGEST.

The root in force is that of the mesh in HOME, or of the file that "keys draft" leaves beside the draft.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			draft, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			before, err := c.rootBefore(cmd.Context(), root, args[0])
			if err != nil {
				return err
			}
			d, err := draftOf(c.home().Keys(), before, draft)
			if err != nil {
				return err
			}
			if !c.json {
				sayDraft(c.out, d)
			}
			if err := c.agreed(cmd.Context(), d, expect); err != nil {
				return err
			}
			signed, files, err := c.home().Keys().SignDraft(cmd.Context(), draft)
			if err != nil {
				return err
			}
			if err := writeDraft(args[0], signed, before); err != nil {
				return err
			}
			d.Signed = files
			return c.print(d, func() {
				for _, file := range files {
					c.say("signed with %s", file)
				}
			})
		}),
	})
	cmd.Flags().StringVar(&expect, "expect", "", "digest of the draft that is to be signed, as agreed on: nothing is asked")
	cmd.Flags().StringVar(&root, "root", "", "file with the root in force (default: the mesh's in HOME, or that beside the draft)")
	return cmd
}

func (c *cli) keysPublishCommand() *cobra.Command {
	return c.withJSON(&cobra.Command{
		Use:   "publish FILE",
		Short: "Put a root in force that enough root keys have signed",
		Args:  usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			draft, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			return c.writing(cmd.Context(), func(w *home.Writer) error {
				if err := w.PublishRoot(cmd.Context(), draft); err != nil {
					return err
				}
				t, err := w.Trust()
				if err != nil {
					return err
				}
				facts := struct {
					Version int64 `json:"version"`
				}{t.Version}
				return c.print(facts, func() { c.say("root %d is in force; nodes follow by themselves", t.Version) })
			})
		}),
	})
}
