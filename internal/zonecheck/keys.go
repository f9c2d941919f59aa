package zonecheck

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/dns"
)

// key is a DNSKEY record (RFC 4034 2).
type key struct {
	rdata               []byte
	flags               uint16
	protocol, algorithm uint8
	tag                 uint16
	verify              func(data, signature []byte) bool // nil if the algorithm is not known here
}

// parseKey reads the RDATA of a DNSKEY record.
func parseKey(rdata []byte) (*key, error) {
	if len(rdata) < 5 {
		return nil, errors.New("no key in it")
	}
	k := &key{rdata: rdata, flags: binary.BigEndian.Uint16(rdata), protocol: rdata[2], algorithm: rdata[3], tag: keyTag(rdata)}
	var err error
	switch public := rdata[4:]; k.algorithm {
	case dns.RSASHA1, dns.RSASHA1NSEC3SHA1, dns.RSASHA256, dns.RSASHA512:
		k.verify, err = rsaVerifier(public, hashes[k.algorithm])
	case dns.ECDSAP256SHA256:
		k.verify, err = ecdsaVerifier(elliptic.P256(), public, crypto.SHA256)
	case dns.ECDSAP384SHA384:
		k.verify, err = ecdsaVerifier(elliptic.P384(), public, crypto.SHA384)
	case dns.ED25519:
		if len(public) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("an Ed25519 key of %d octets", len(public))
		}
		k.verify = func(data, signature []byte) bool { return ed25519.Verify(public, data, signature) }
	}
	return k, err
}

var hashes = map[uint8]crypto.Hash{dns.RSASHA1: crypto.SHA1, dns.RSASHA1NSEC3SHA1: crypto.SHA1, dns.RSASHA256: crypto.SHA256,
	dns.RSASHA512: crypto.SHA512}

// supports reports whether signatures of an algorithm can be verified here. Those that cannot are Ed448, GOST, and what
// RFC 8624 3.1 forbids to use.
func supports(algorithm uint8) bool {
	switch algorithm {
	case dns.ECDSAP256SHA256, dns.ECDSAP384SHA384, dns.ED25519:
		return true
	}
	return hashes[algorithm] != 0
}

func algorithmName(a uint8) string {
	if name, ok := dns.AlgorithmToString[a]; ok {
		return fmt.Sprintf("%d (%s)", a, name)
	}
	return fmt.Sprint(a)
}

func sum(h crypto.Hash, data []byte) []byte {
	switch h {
	case crypto.SHA1:
		s := sha1.Sum(data)
		return s[:]
	case crypto.SHA256:
		s := sha256.Sum256(data)
		return s[:]
	case crypto.SHA384:
		s := sha512.Sum384(data)
		return s[:]
	}
	s := sha512.Sum512(data)
	return s[:]
}

// rsaVerifier reads a key in the form of RFC 3110 2.
func rsaVerifier(public []byte, h crypto.Hash) (func(data, signature []byte) bool, error) {
	size, at := int(public[0]), 1
	if size == 0 {
		if len(public) < 3 {
			return nil, errors.New("an RSA key without exponent")
		}
		size, at = int(binary.BigEndian.Uint16(public[1:])), 3
	}
	if len(public) <= at+size {
		return nil, errors.New("an RSA key without modulus (RFC 3110 2)")
	}
	exponent, modulus := new(big.Int).SetBytes(public[at:at+size]), new(big.Int).SetBytes(public[at+size:])
	if !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 {
		return nil, fmt.Errorf("an RSA key with the exponent %v, of at most 2147483647 here", exponent)
	}
	if bits := modulus.BitLen(); bits < 1024 || bits > 4096 {
		return nil, fmt.Errorf("an RSA key of %d bits; 1024 to 4096 are allowed (RFC 3110 3, RFC 5702 2)", bits)
	}
	key := &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
	return func(data, signature []byte) bool { return rsa.VerifyPKCS1v15(key, h, sum(h, data), signature) == nil }, nil
}

// ecdsaVerifier reads a key in the form of RFC 6605 4.
func ecdsaVerifier(curve elliptic.Curve, public []byte, h crypto.Hash) (func(data, signature []byte) bool, error) {
	size := curve.Params().BitSize / 8
	if len(public) != 2*size {
		return nil, fmt.Errorf("an ECDSA key of %d octets instead of %d (RFC 6605 4)", len(public), 2*size)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, append([]byte{4}, public...))
	if err != nil {
		return nil, err
	}
	return func(data, signature []byte) bool {
		if len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(key, sum(h, data), r, s)
	}, nil
}

// keyTag computes a key's tag (RFC 4034 appendix B), but for algorithm 1, which is not used any more.
func keyTag(rdata []byte) uint16 {
	var tag uint32
	for i, c := range rdata {
		if i&1 == 0 {
			tag += uint32(c) << 8
		} else {
			tag += uint32(c)
		}
	}
	return uint16(tag + tag>>16)
}

// anchorOf is the algorithm of a trust anchor, and what tells the key that it stands for (RFC 4034 5.1.4). A digest type
// that is not known matches nothing.
func anchorOf(anchor dns.RR, origin []byte) (algorithm uint8, matches func(*key) bool) {
	switch a := anchor.(type) {
	case *dns.DS:
		h, known := map[uint8]crypto.Hash{dns.SHA1: crypto.SHA1, dns.SHA256: crypto.SHA256, dns.SHA384: crypto.SHA384}[a.DigestType]
		digest, err := hex.DecodeString(a.Digest)
		return a.Algorithm, func(k *key) bool {
			return known && err == nil && k.tag == a.KeyTag && k.algorithm == a.Algorithm &&
				bytes.Equal(digest, sum(h, append(bytes.Clone(origin), k.rdata...)))
		}
	case *dns.DNSKEY:
		return a.Algorithm, func(k *key) bool {
			return k.flags == a.Flags && k.algorithm == a.Algorithm && a.PublicKey == base64.StdEncoding.EncodeToString(k.rdata[4:])
		}
	}
	panic(fmt.Sprintf("a trust anchor of type %s", dns.Type(anchor.Header().Rrtype)))
}
