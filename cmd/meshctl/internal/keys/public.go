package keys

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
)

// PublicPEM is a public key as openssl writes it.
func PublicPEM(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParsePublic reads what PublicPEM writes, for a key that someone else keeps.
func ParsePublic(data []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New(`no PEM block "PUBLIC KEY"`)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a %T, want an ed25519 key", key)
	}
	return public, nil
}

// overridePublic is the public half of the key that overrides are signed with, in HOME/keys.
const overridePublic = Override + ".pub"

// Override is the public half of the key that overrides are signed with.
func (r Ring) Override() (ed25519.PublicKey, error) {
	data, err := depot.ReadFile(r.dir, overridePublic, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.Errorf("put there what this printed for a second person: meshctl keys new --home . override", "no override key: %s", filepath.Join(r.dir, overridePublic))
	}
	if err != nil {
		return nil, err
	}
	key, err := ParsePublic(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(Dir, overridePublic), err)
	}
	return key, nil
}
