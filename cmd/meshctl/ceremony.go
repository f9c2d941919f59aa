package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// draftJSON is what a draft of a root says, and how that differs from the root in force, as --json prints it.
type draftJSON struct {
	Version   int64          `json:"version"`
	Follows   int64          `json:"follows"`
	Expires   time.Time      `json:"expires"`
	Threshold int            `json:"threshold"`
	Was       int            `json:"threshold_before"`
	Numbers   uint64         `json:"numbers_from,omitempty"`
	Began     uint64         `json:"numbers_from_before,omitempty"`
	Keys      []draftKeyJSON `json:"keys"`
	Digest    release.Digest `json:"digest"` // of what is signed
	Stranger  bool           `json:"stranger,omitempty"`
	Signed    []string       `json:"signed_with,omitempty"`
}

// draftKeyJSON is a key that a draft names, or that it names no more.
type draftKeyJSON struct {
	keyJSON
	Change string `json:"change"` // "as before", "new" or "goes"
}

// draftOf says what a draft says, beside the root before it.
func draftOf(ring keys.Ring, before, draft []byte) (d draftJSON, err error) {
	was, err := release.TrustOf(before)
	if err != nil {
		return d, err
	}
	says, err := release.DraftTrust(draft)
	if err != nil {
		return d, err
	}
	if says.Version != was.Version+1 {
		return d, hint.Errorf("make the draft anew, or give the root before it with --root", "the draft is of root %d, and root %d is in force", says.Version, was.Version)
	}
	d = draftJSON{Version: says.Version, Follows: was.Version, Expires: says.Expires, Threshold: says.Threshold, Was: was.Threshold,
		Numbers: says.NumbersFrom, Began: was.NumbersFrom, Stranger: true}
	if d.Digest, err = release.DraftDigest(draft); err != nil {
		return d, err
	}
	had, err := keysOf(ring, was)
	if err != nil {
		return d, err
	}
	has, err := keysOf(ring, says)
	if err != nil {
		return d, err
	}
	in := func(list []keyJSON, key keyJSON) bool {
		for _, k := range list {
			if k.Role == key.Role && k.ID == key.ID {
				return true
			}
		}
		return false
	}
	for _, k := range has {
		change := "new"
		if in(had, k) {
			change = "as before"
		}
		d.Keys = append(d.Keys, draftKeyJSON{k, change})
	}
	for _, k := range had {
		if !in(has, k) {
			d.Keys = append(d.Keys, draftKeyJSON{k, "goes"})
		}
		d.Stranger = d.Stranger && (k.Role != keys.Root || k.File == "")
	}
	return d, nil
}

// sayDraft shows what a draft says to who is to sign it.
func sayDraft(to io.Writer, d draftJSON) {
	fmt.Fprintf(to, "root %d, until %s, follows root %d\n", d.Version, secondOf(d.Expires), d.Follows)
	before := ""
	if d.Was != d.Threshold {
		before = fmt.Sprintf(" (CHANGED: root %d says %d)", d.Follows, d.Was)
	}
	roots := 0
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, k := range d.Keys {
		change, here := k.Change, ""
		if change != "as before" {
			change = strings.ToUpper(change)
		}
		if k.File != "" {
			here = "here: " + k.File
		}
		if k.Role == keys.Root && k.Change != "goes" {
			roots++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.Role, k.ID, change, here)
	}
	w.Flush()
	fmt.Fprintf(to, "replaced by %d of %d root keys from then on%s\n", d.Threshold, roots, before)
	switch {
	case d.Numbers != d.Began:
		fmt.Fprintf(to, "release numbers begin at %d from then on (CHANGED: root %d says %d)\n", d.Numbers, d.Follows, d.Began)
	case d.Numbers > 0:
		fmt.Fprintf(to, "release numbers begin at %d, as before\n", d.Numbers)
	}
	fmt.Fprintf(to, "digest %s\n", d.Digest)
	if d.Stranger {
		fmt.Fprintf(to, "none of the root keys here is in root %d: whether that one is in force, somebody else must know\n", d.Follows)
	}
}

// beforeOf is the file, beside a draft, with the root that it follows.
func beforeOf(draft string) string { return strings.TrimSuffix(draft, ".json") + ".before.json" }

// rootBefore is the root that a draft follows: of the file named, of the home's mesh, or of the file beside the draft.
func (c *cli) rootBefore(ctx context.Context, file, draft string) ([]byte, error) {
	if file != "" {
		return os.ReadFile(file)
	}
	if root, err := c.home().Root(ctx); err == nil {
		return root, nil
	}
	root, err := os.ReadFile(beforeOf(draft))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.Errorf("bring "+filepath.Base(beforeOf(draft))+" along, or name a file with --root", "what the draft changes is not known: the root that it follows is not here")
	}
	return root, err
}

// typedDigits are how many digits of the digest are typed.
const typedDigits = 8

// agreed has somebody say that the draft is the one that was agreed on: by its digest, typed or given as expect.
func (c *cli) agreed(ctx context.Context, d draftJSON, expect string) error {
	digest := d.Digest.String()
	if expect != "" {
		if len(expect) < 2*typedDigits || !strings.HasPrefix(digest, strings.ToLower(expect)) {
			return hint.Errorf("ask who drafted it for the digest; 16 digits of it at least", "not signed: the digest of the draft is %s, and %q is expected", digest, expect)
		}
		return nil
	}
	fmt.Fprintf(c.log, "Compare the keys and the digest with who drafted it and with who holds the keys, by another way than the file came.\n"+
		"Type the first %d digits of the digest to sign: ", typedDigits)
	word, err := readLine(ctx, os.Stdin)
	if err != nil {
		return err
	}
	if word != digest[:typedDigits] {
		return errors.New("not signed: that is not the beginning of the digest")
	}
	return nil
}

// readLine reads a short line, and nothing beyond it: what follows may be a passphrase.
func readLine(ctx context.Context, from io.Reader) (string, error) {
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() {
		var text []byte
		one := make([]byte, 1)
		for len(text) < 1000 {
			if _, err := io.ReadFull(from, one); err != nil && len(text) == 0 {
				read <- line{err: hint.Errorf("say --expect DIGEST", "nobody typed anything")}
				return
			} else if err != nil || one[0] == '\n' {
				break
			}
			text = append(text, one[0])
		}
		read <- line{text: strings.TrimSpace(string(text))}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// writeDraft writes a draft, and the root that it follows beside it.
func writeDraft(file string, draft, before []byte) error {
	write := func(file string, data []byte) error {
		return depot.WriteFile(filepath.Dir(file), filepath.Base(file), data, 0o644)
	}
	return errors.Join(write(beforeOf(file), before), write(file, draft))
}

// newKeyLine says of a new key what others compare.
func newKeyLine(k ed25519.PublicKey) string { return "id " + release.KeyID(k) }
