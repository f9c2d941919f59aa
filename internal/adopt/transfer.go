package adopt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// transfer reads transfer [ZONES...]. Nodes give zones to those only who have a TSIG key (XFER-1).
func (r *corefile) transfer(b *serverBlock, d directive) {
	rule := TransferRule{Zones: r.origins(b, d, d.args)}
	var notify []string
	for _, p := range d.props {
		switch p.name {
		case "to":
			for _, word := range p.words {
				if word != "*" {
					if _, err := endpoint(word); err != nil {
						r.fail(p.file, p.at, "transfer: %v", err)
						continue
					}
					notify = append(notify, word)
				}
				rule.To = append(rule.To, word)
			}
		case "source":
			r.say(b, p, p.name, Changed, "nodes ask from their administrative address")
		default:
			r.fail(p.file, p.at, "transfer: unknown property %q", p.name)
		}
	}
	if len(rule.To) == 0 {
		r.fail(d.file, d.at, "transfer: wants to ADDRESS...")
		return
	}
	keys := r.secrets(b, false)
	if len(keys) == 0 {
		r.say(b, d.line, d.name, Refused, "nodes give zones only to who has a TSIG key (XFER-1): give the block tsig with a secret, and its secondaries too")
		return
	}
	if r.plan.Transfer == nil {
		r.plan.Transfer = &Transfer{}
	}
	t := r.plan.Transfer
	t.Rules = append(t.Rules, rule)
	for _, k := range keys {
		if i := slices.IndexFunc(t.Keys, func(o Key) bool { return o.Name == k.Name }); i < 0 {
			t.Keys = append(t.Keys, k)
		} else if t.Keys[i] != k {
			r.fail(d.file, d.at, "transfer: key %s has another secret in another block", k.Name)
		}
	}
	for _, a := range notify {
		if !slices.Contains(t.Notify, a) {
			t.Notify = append(t.Notify, a)
		}
	}
	r.say(b, d.line, d.name, Changed, "from the nodes' administrative addresses, signed with %s", names(keys))
}

func names(keys []Key) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.Name)
	}
	return strings.Join(all, " ")
}

// tsig says what becomes of tsig [ZONES...].
func (r *corefile) tsig(b *serverBlock, d directive) {
	keys := r.secrets(b, true)
	for _, p := range d.props {
		switch p.name {
		case "secret", "secrets":
		case "require", "require_opcode":
			if other := slices.DeleteFunc(slices.Clone(p.words), func(w string) bool { return w == "AXFR" || w == "IXFR" || w == "none" }); len(other) > 0 {
				r.say(b, p, p.name, Absent, "nodes answer queries whether they are signed or not: %s", strings.Join(other, " "))
				continue
			}
			r.say(b, p, p.name, Changed, "transfers must be signed")
		default:
			r.fail(p.file, p.at, "tsig: unknown property %q", p.name)
		}
	}
	if !slices.ContainsFunc(b.directives, func(o directive) bool { return o.name == "transfer" }) {
		r.say(b, d.line, d.name, Refused, "nothing is transferred from its block")
		return
	}
	if len(keys) > 0 {
		r.say(b, d.line, d.name, Changed, "%s, in HOME/templates/transfer.key", names(keys))
	}
}

// secrets are the keys of a block's tsig. Only if it is to say what is wrong with them does it.
func (r *corefile) secrets(b *serverBlock, say bool) (keys []Key) {
	fail := func(p line, err error) {
		if say {
			r.fail(p.file, p.at, "tsig: %v", err)
		}
	}
	for _, d := range b.directives {
		if d.name != "tsig" {
			continue
		}
		for _, p := range d.props {
			switch {
			case p.name == "secret" && len(p.words) == 2:
				k, err := keyOf(p.words[0], "", p.words[1])
				if err != nil {
					fail(p, err)
					continue
				}
				keys = append(keys, k)
			case p.name == "secrets" && len(p.words) == 1:
				path := r.path("", p.words[0])
				data, err := fields.ReadFile(path, maxBytes)
				if err == nil {
					var more []Key
					more, err = keysOf(path, data)
					keys = append(keys, more...)
				}
				if err != nil && say {
					r.say(b, p, p.name, Refused, "%v", err)
				}
			case p.name == "secret" || p.name == "secrets":
				fail(p, fmt.Errorf("want secret NAME BASE64, or secrets FILE"))
			}
		}
	}
	return keys
}

// keyOf is a key as a plan has it. An error does not show the secret.
func keyOf(name, algorithm, secret string) (Key, error) {
	if _, err := fields.ZoneName(name); err != nil {
		return Key{}, fmt.Errorf("key %w", err)
	}
	if b, err := base64.StdEncoding.DecodeString(secret); err != nil || len(b) == 0 {
		return Key{}, fmt.Errorf("key %s: a secret is base64", name)
	}
	algorithm = strings.ToLower(strings.TrimSuffix(algorithm, "."))
	if algorithm == "" {
		algorithm = "hmac-sha256"
	}
	return Key{dns.CanonicalName(name), algorithm, secret}, nil
}

// keysOf reads the keys of a file as plugin tsig does, which are written as in named.conf.
func keysOf(path string, data []byte) (keys []Key, err error) {
	statements, err := parseBraces(path, data, nil)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, s := range statements {
		if s.word(0) != "key" {
			faults = append(faults, fmt.Errorf("%s:%d: want key NAME { … }", path, s.line))
			continue
		}
		k, err := s.key()
		if err != nil {
			faults = append(faults, fmt.Errorf("%s:%d: %w", path, s.line, err))
			continue
		}
		keys = append(keys, k)
	}
	return keys, errors.Join(faults...)
}

// text is a key as plugin tsig reads it from a file.
func (k Key) text() string {
	return fmt.Sprintf("key %q {\n    algorithm %s;\n    secret %q;\n};\n", k.Name, k.Algorithm, k.Secret)
}

// Secrets is the file of the keys by which others transfer zones from the nodes. It is for its owner only.
func (t *Transfer) Secrets() []byte {
	var b bytes.Buffer
	for _, k := range t.Keys {
		b.WriteString(k.text())
	}
	return b.Bytes()
}
