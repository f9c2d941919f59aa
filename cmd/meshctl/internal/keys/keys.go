// Package keys has the private keys of a mesh: how they lie in HOME/keys, how they are made and opened, and how people
// draft and sign the next root with them. It imports package hint of its neighbours, and knows nothing of what is published:
// a directory with keys, on a machine without a network, is enough. Package home signs with them, and cmd/meshctl calls it
// for "meshctl keys".
//
// A private key lies in HOME/keys, in a file whose name says what it is for:
//
//	release.pem, release-2.pem…   PKCS #8 in PEM, as it is or encrypted under a passphrase
//	release.command               a command that signs, for a key that is elsewhere (a token, a service): its first line is
//	                              "ed25519" and the public key in hexadecimal, its second one the command; that gets what
//	                              is to be signed on its standard input, and writes the 64 octets of the signature
//
// Of several the one is used that the root in force names, so that a key which is replaced needs no ceremony with files.
package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"golang.org/x/term"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Kinds of keys.
const (
	Root     = "root"
	Release  = "release"
	Lease    = "lease"
	Override = "override" // a second person's, see release.Override; the host needs its public half only
)

// Kinds are all kinds of keys.
var Kinds = []string{Root, Release, Lease, Override}

// Key is a private key that is at hand, or a way to have it sign.
type Key struct {
	File   string // in HOME/keys, or a path
	Public ed25519.PublicKey
	How    string // "plain", "encrypted" or "command"
	open   func(ctx context.Context) (crypto.Signer, error)
}

// Signer opens the key: it may ask for a passphrase. What the key is to sign with is given up when ctx ends.
func (k Key) Signer(ctx context.Context) (crypto.Signer, error) { return k.open(ctx) }

// encryptedType is the PEM type of a key under a passphrase: scrypt and secretbox, as The Update Framework's tools have it.
const encryptedType = "ENCRYPTED MESH PRIVATE KEY"

const maxKeyFile = 16 << 10

// ErrAway is wrapped when a private key is not where it is looked for.
var ErrAway = errors.New("key is not there")

// Dir is the directory of the keys, below a home.
const Dir = "keys"

// Ring is the private keys of a home.
type Ring struct{ dir string }

// In is the keys in a home, which may lack everything else, or have no keys.
func In(home string) Ring { return Ring{filepath.Join(home, Dir)} }

// Of are the keys of a kind that are at hand.
func (r Ring) Of(kind string) ([]Key, error) {
	dir := r.dir
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []Key
	for _, e := range entries {
		name, ext := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name())
		if name != kind && !strings.HasPrefix(name, kind+"-") || ext != ".pem" && ext != ".command" {
			continue
		}
		k, err := readKey(dir, e.Name())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, e.Name()), err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Read reads a key that lies anywhere.
func Read(file string) (Key, error) { return readKey(filepath.Dir(file), filepath.Base(file)) }

func readKey(dir, name string) (Key, error) {
	data, err := depot.ReadFile(dir, name, maxKeyFile)
	if err != nil {
		return Key{}, err
	}
	if filepath.Ext(name) == ".command" {
		return commandKey(name, string(data))
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != encryptedType {
		private, err := release.ParseKey(data)
		if err != nil {
			return Key{}, err
		}
		return Key{name, private.Public().(ed25519.PublicKey), "plain", func(context.Context) (crypto.Signer, error) { return private, nil }}, nil
	}
	public, err := hex.DecodeString(block.Headers["Public"])
	if err != nil || len(public) != ed25519.PublicKeySize {
		return Key{}, errors.New("its header names no public key")
	}
	return Key{name, public, "encrypted", func(ctx context.Context) (crypto.Signer, error) { return decrypt(ctx, name, public, block.Bytes) }}, nil
}

// decrypt asks for the passphrase of a key.
func decrypt(ctx context.Context, name string, public ed25519.PublicKey, sealed []byte) (crypto.Signer, error) {
	word, err := passphrase(ctx, "passphrase of "+name+": ")
	if err != nil {
		return nil, err
	}
	data, err := encrypted.Decrypt(sealed, word)
	if err != nil {
		return nil, fmt.Errorf("%s: not under this passphrase, or damaged", name)
	}
	private, err := release.ParseKey(data)
	if err == nil && !private.Public().(ed25519.PublicKey).Equal(public) {
		err = errors.New("it is another key than its header says")
	}
	return private, err
}

// passphraseFile is the environment variable that names a file with the passphrase, for processes without a terminal.
const passphraseFile = "MESHCTL_PASSPHRASE_FILE"

// passphrase is the first line of the file that is named, or what is typed.
func passphrase(ctx context.Context, prompt string) ([]byte, error) {
	if file := os.Getenv(passphraseFile); file != "" {
		data, err := fileUntil(ctx, file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", passphraseFile, err)
		}
		line, _, _ := bytes.Cut(data, []byte("\n"))
		if len(line) == 0 {
			return nil, fmt.Errorf("%s: the first line of %s is empty", passphraseFile, file)
		}
		return line, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, hint.Errorf("name a file that holds it in $"+passphraseFile, "a key is encrypted, and there is no terminal to ask for its passphrase")
	}
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	return typed(ctx, int(os.Stdin.Fd()))
}

// fileUntil reads a file, which may be a pipe that nothing comes out of: it does not wait for that when ctx ends.
func fileUntil(ctx context.Context, file string) ([]byte, error) {
	type content struct {
		data []byte
		err  error
	}
	read := make(chan content, 1)
	go func() {
		data, err := os.ReadFile(file)
		read <- content{data, err}
	}()
	select {
	case c := <-read:
		return c.data, c.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// typed is a line from a terminal, which shows it not. When ctx ends first, the terminal is as before.
func typed(ctx context.Context, terminal int) ([]byte, error) {
	before, err := term.GetState(terminal)
	if err != nil {
		return nil, err
	}
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(terminal)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(terminal, before))
	}
}

// commandTimeout is how long a signing command may take: someone may have to touch a token.
const commandTimeout = time.Minute

// commandKey is a key that a command signs with.
func commandKey(name, text string) (Key, error) {
	first, command, _ := strings.Cut(text, "\n")
	kind, digits, _ := strings.Cut(strings.TrimSpace(first), " ")
	public, err := hex.DecodeString(strings.TrimSpace(digits))
	words := strings.Fields(command)
	if kind != "ed25519" || err != nil || len(public) != ed25519.PublicKeySize || len(words) == 0 {
		return Key{}, errors.New(`want "ed25519" and the public key in hexadecimal, then a line with the command`)
	}
	sign := func(ctx context.Context) (crypto.Signer, error) { return &commandSigner{ctx, name, public, words}, nil }
	return Key{name, public, "command", sign}, nil
}

// commandSigner is a crypto.Signer by a command.
type commandSigner struct {
	ctx    context.Context // crypto.Signer has no place for one
	name   string
	public ed25519.PublicKey
	words  []string
}

func (c *commandSigner) Public() crypto.PublicKey { return c.public }

// Sign runs the command, and takes its word only if it is a signature by the key.
func (c *commandSigner) Sign(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.words[0], c.words[1:]...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(message), os.Stderr
	cmd.WaitDelay = time.Second
	signature, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	if !ed25519.Verify(c.public, message, signature) {
		return nil, fmt.Errorf("%s: what the command wrote is no signature by its key", c.name)
	}
	return signature, nil
}

// trusted are the public keys that a root names for a kind.
func trusted(t release.Trust, kind string) []ed25519.PublicKey {
	switch kind {
	case Release:
		return []ed25519.PublicKey{t.Release}
	case Lease:
		return []ed25519.PublicKey{t.Lease}
	}
	return t.Root
}

// trustedOf are the keys at hand of those that a root names for a kind.
func (r Ring) trustedOf(t release.Trust, kind string) ([]Key, error) {
	keys, err := r.Of(kind)
	return slices.DeleteFunc(keys, func(k Key) bool {
		return !slices.ContainsFunc(trusted(t, kind), func(p ed25519.PublicKey) bool { return p.Equal(k.Public) })
	}), err
}

// Has reports whether a key of a kind that a root names is at hand.
func (r Ring) Has(t release.Trust, kind string) bool {
	keys, err := r.trustedOf(t, kind)
	return err == nil && len(keys) > 0
}

// Signers opens the keys of the kinds named that a root names; the others stay nil. ErrAway is wrapped when one is not there.
func (r Ring) Signers(ctx context.Context, t release.Trust, kinds ...string) (release.Signers, error) {
	var by release.Signers
	for kind, to := range map[string]*crypto.Signer{Root: &by.Root, Release: &by.Release, Lease: &by.Lease} {
		if !slices.Contains(kinds, kind) {
			continue
		}
		keys, err := r.trustedOf(t, kind)
		if err != nil {
			return by, err
		}
		if len(keys) == 0 {
			return by, hint.Errorf("put it back for this command; it may be kept offline otherwise", "%s %w: %s", kind, ErrAway, r.dir)
		}
		if *to, err = keys[0].open(ctx); err != nil {
			return by, err
		}
	}
	return by, nil
}

// sealer is how new keys are kept: as they are, or under a passphrase that it asks for once.
type sealer struct {
	encrypt bool
	word    []byte
}

func (s *sealer) encode(ctx context.Context, key ed25519.PrivateKey) ([]byte, error) {
	data, err := release.EncodeKey(key)
	if err != nil || !s.encrypt {
		return data, err
	}
	if s.word == nil {
		if s.word, err = newPassphrase(ctx); err != nil {
			return nil, err
		}
	}
	sealed, err := encrypted.Encrypt(data, s.word)
	if err != nil {
		return nil, err
	}
	public := hex.EncodeToString(key.Public().(ed25519.PublicKey))
	return pem.EncodeToMemory(&pem.Block{Type: encryptedType, Headers: map[string]string{"Public": public}, Bytes: sealed}), nil
}

// newPassphrase asks twice.
func newPassphrase(ctx context.Context) ([]byte, error) {
	word, err := passphrase(ctx, "passphrase for the new keys: ")
	if err != nil || os.Getenv(passphraseFile) != "" {
		return word, err
	}
	again, err := passphrase(ctx, "again: ")
	if err == nil && !bytes.Equal(word, again) {
		err = errors.New("the two passphrases differ")
	}
	if err == nil && len(word) == 0 {
		err = errors.New("an empty passphrase protects nothing")
	}
	return word, err
}

// New makes a key of a kind, beside those that are there, and returns its file's name. Nothing trusts it
// yet.
func (r Ring) New(ctx context.Context, kind string, encrypt bool, random io.Reader) (Key, error) {
	if !slices.Contains(Kinds, kind) {
		return Key{}, fmt.Errorf("%q: a key is one of %s", kind, strings.Join(Kinds, ", "))
	}
	_, private, err := ed25519.GenerateKey(random)
	if err != nil {
		return Key{}, err
	}
	data, err := (&sealer{encrypt: encrypt}).encode(ctx, private)
	if err != nil {
		return Key{}, err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return Key{}, err
	}
	name := kind + "-" + release.KeyID(private.Public().(ed25519.PublicKey))[:8] + ".pem"
	if err := depot.WriteFile(r.dir, name, data, 0o600); err != nil {
		return Key{}, err
	}
	return readKey(r.dir, name)
}
