package release

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// Keys are the private keys of a mesh, one for each kind of word.
type Keys struct {
	Root    ed25519.PrivateKey // who may speak: kept offline
	Release ed25519.PrivateKey // what is answered: needed when releases are made
	Lease   ed25519.PrivateKey // until when: online, renewed all day
	// Override says that a release goes out although checks speak against it (Override): a second person's.
	Override ed25519.PrivateKey
}

// Signers are what making needs of keys: Keys.Signers, or a token's. Every one must be an ed25519 signer.
type Signers struct {
	Root, Release, Lease crypto.Signer
}

// Signers are the keys themselves. A key that is not at hand stays nil, and what needs it fails.
func (k Keys) Signers() Signers {
	signer := func(key ed25519.PrivateKey) crypto.Signer {
		if key == nil {
			return nil
		}
		return key
	}
	return Signers{Root: signer(k.Root), Release: signer(k.Release), Lease: signer(k.Lease)}
}

// GenerateKeys makes four new keys of what random yields.
func GenerateKeys(random io.Reader) (Keys, error) {
	var seeds [4][ed25519.SeedSize]byte
	for i := range seeds {
		if _, err := io.ReadFull(random, seeds[i][:]); err != nil {
			return Keys{}, fmt.Errorf("generate keys: %w", err)
		}
	}
	return Keys{
		Root:     ed25519.NewKeyFromSeed(seeds[0][:]),
		Release:  ed25519.NewKeyFromSeed(seeds[1][:]),
		Lease:    ed25519.NewKeyFromSeed(seeds[2][:]),
		Override: ed25519.NewKeyFromSeed(seeds[3][:]),
	}, nil
}

// pemType is PKCS #8 (RFC 5958), what "openssl genpkey -algorithm ed25519" writes too.
const pemType = "PRIVATE KEY"

// EncodeKey writes a private key as PEM.
func EncodeKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// ParseKey reads what EncodeKey wrote.
func ParseKey(data []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return nil, errors.New("not one PEM block \"" + pemType + "\"")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T, want an ed25519 key", key)
	}
	return private, nil
}
