package release

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of an override.
const (
	MaxOverridden    = 1000 // zones
	MaxRules         = 64   // of a zone
	MaxOverrideBytes = 1 << 20
	maxWho, maxWhy   = 200, 1000 // octets
)

// Override is a second person's word that zones are to be released although checks have errors against them: who said
// it, why, and of what. It stands for exactly these contents and rules, so neither other content nor another error goes
// through with it. Its encoding is canonical, as that of a Manifest is:
//
//	{"mesh":"jp","zones":[{"origin":"example.org.","sha256":"9f86…","rules":["change-removed"]}],
//	 "who":"Jane Doe","why":"the registrar left","at":"2026-11-22T10:00:00Z","signature":"6Zk…"}
//
// The signature is by the override key, which is none of the keys that nodes know: the distribution host demands it, and
// the release that went through has the Override, for whoever wants to know later.
type Override struct {
	Mesh      string       `json:"mesh"`
	Zones     []Overridden `json:"zones"` // by origin, each once, at least one
	Who       string       `json:"who,omitempty"`
	Why       string       `json:"why,omitempty"`
	At        time.Time    `json:"at,omitzero"` // when it was signed: UTC, whole microseconds
	Signature []byte       `json:"signature,omitempty"`
}

// Overridden is a zone that is released all the same.
type Overridden struct {
	Origin string   `json:"origin"`
	SHA256 Digest   `json:"sha256"` // of the zone's canonical text, as Zone has it; its root where Zone has that of another
	Rules  []string `json:"rules"`  // that are broken, in order, each once, at least one
}

// overrideContext precedes what is signed, so that the signature means nothing else.
const overrideContext = "coredns-anycast override 1\n"

// signed is what the signature is about.
func (o Override) signed() ([]byte, error) {
	o.Signature = nil
	line, err := encodeLine(o)
	return append([]byte(overrideContext), line...), err
}

// Sign is o, said by who for the reason why at an instant, and signed by the override key.
func (o Override) Sign(key crypto.Signer, who, why string, at time.Time) (Override, error) {
	o.Who, o.Why, o.At = who, why, at.UTC().Truncate(time.Microsecond)
	data, err := o.signed()
	if err != nil {
		return o, err
	}
	if o.Signature, err = key.Sign(nil, data, crypto.Hash(0)); err != nil {
		return o, err
	}
	return o, o.validate()
}

// Verify says why an override does not count: it is for another mesh, or not signed by the key.
func (o Override) Verify(key ed25519.PublicKey, mesh string) error {
	if err := o.validate(); err != nil {
		return err
	}
	if o.Mesh != mesh {
		return fmt.Errorf("it is for mesh %s, this is %s", o.Mesh, mesh)
	}
	data, err := o.signed()
	if err != nil {
		return err
	}
	if !ed25519.Verify(key, data, o.Signature) {
		return errors.New("it is not signed by the override key")
	}
	return nil
}

// Overridden is what is to be signed so that a zone goes out although it breaks rules.
func (z *Zone) Overridden(rules []string) Overridden {
	if z.Whole() {
		return Overridden{z.Origin, z.SHA256, rules}
	}
	return Overridden{z.Origin, z.Root, rules}
}

// is reports whether o is about what a zone has.
func (o *Overridden) is(z *Zone) bool {
	return o.Origin == z.Origin && (z.Whole() && o.SHA256 == z.SHA256 || z.Root != (Digest{}) && o.SHA256 == z.Root)
}

// Covers reports whether a zone, as it is, may go out although it breaks rules.
func (o *Override) Covers(z *Zone, rules []string) bool {
	return o != nil && slices.ContainsFunc(o.Zones, func(o Overridden) bool {
		return o.is(z) && !slices.ContainsFunc(rules, func(rule string) bool { return !slices.Contains(o.Rules, rule) })
	})
}

// Encode is the canonical encoding, of a request as well, which has neither who nor why nor a signature.
func (o Override) Encode() ([]byte, error) { return encodeLine(o) }

// ParseOverride reads what Encode wrote; anything else is an error. Whether it was signed is for Verify to say.
func ParseOverride(data []byte) (Override, error) {
	var o Override
	if len(data) > MaxOverrideBytes {
		return o, fmt.Errorf("more than %d bytes", MaxOverrideBytes)
	}
	if err := decodeStrict(data, &o); err != nil {
		return o, err
	}
	if err := o.validateRequest(); err != nil {
		return o, err
	}
	if canonical, err := o.Encode(); err != nil || !bytes.Equal(canonical, data) {
		return o, errors.New("not in canonical encoding")
	}
	return o, nil
}

// validate says which rule of the format a signed override breaks.
func (o Override) validate() error {
	if err := o.validateRequest(); err != nil {
		return err
	}
	if err := validText("who", o.Who, maxWho); err != nil {
		return err
	}
	if err := validText("why", o.Why, maxWhy); err != nil {
		return err
	}
	if o.At.IsZero() || !validInstant(o.At) {
		return fmt.Errorf("at %s must be UTC, whole microseconds, between 2000 and 2200", o.At)
	}
	if len(o.Signature) != ed25519.SignatureSize {
		return errors.New("it is not signed")
	}
	return nil
}

func (o Override) validateRequest() error {
	if !ValidName(o.Mesh) {
		return fmt.Errorf("mesh %q: a name is 1 to 63 lower-case letters, digits and \"-\"", o.Mesh)
	}
	if len(o.Zones) < 1 || len(o.Zones) > MaxOverridden {
		return fmt.Errorf("%d zones: 1 to %d", len(o.Zones), MaxOverridden)
	}
	for i, z := range o.Zones {
		if !validOrigin(z.Origin) || i > 0 && z.Origin <= o.Zones[i-1].Origin {
			return fmt.Errorf("zone %q: origins are lower-case, have their final dot, and are sorted, each once", z.Origin)
		}
		if len(z.Rules) < 1 || len(z.Rules) > MaxRules {
			return fmt.Errorf("zone %s: %d rules: 1 to %d", z.Origin, len(z.Rules), MaxRules)
		}
		for j, rule := range z.Rules {
			if !ValidName(rule) || j > 0 && rule <= z.Rules[j-1] {
				return fmt.Errorf("zone %s: rule %q: letters, digits and \"-\", sorted, each once", z.Origin, rule)
			}
		}
	}
	return nil
}

func validText(what, s string, most int) error {
	if s == "" || len(s) > most || strings.TrimSpace(s) != s || !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fmt.Errorf("%s: 1 to %d printable octets", what, most)
	}
	return nil
}

// validateOverride demands that an override be about zones of the release.
func (r *Release) validateOverride() error {
	if r.Override == nil {
		return nil
	}
	if err := r.Override.validate(); err != nil {
		return err
	}
	if t := r.grown(); t != nil && t.root == nil {
		return nil // it is judged with the zones
	}
	for _, o := range r.Override.Zones {
		if z := r.Zone(o.Origin); z == nil || !o.is(z) {
			return fmt.Errorf("zone %s is not in the release as it is there", o.Origin)
		}
	}
	return nil
}
