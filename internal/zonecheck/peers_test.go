package zonecheck

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// refusals are what other checkers have against a zone; none refuses a whole one (TestPeersTakeWhatWeTake).
func refusals(t testing.TB, text string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "example.zone", text)
	said := map[string]string{}
	for _, c := range [][]string{
		{"ldns-verify-zone", "-V3", "example.zone"},
		{"dnssec-verify", "-z", "-o", "example.", "example.zone"},
		{"kzonecheck", "-d", "on", "-o", "example.", "example.zone"},
	} {
		if out, err := try(t, dir, c[0], c[1:]...); err != nil {
			said[c[0]] = strings.TrimSpace(out)
		}
	}
	return said
}

// ours is what this project has against a zone: internal/zone, and if that takes it, Check.
func ours(text string) []zone.Finding {
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{})
	if z != nil {
		p := strict()
		p.ZONEMD = Ignore
		found = append(found, new(Memo).Check(nil, z, p, time.Now(), time.Hour)...)
	}
	return found
}

// A breakage changes a line of a signed zone; it returns the line as it was if it does not apply.
var breakages = map[string]func(r *rand.Rand, f []string) []string{
	"record lost": func(*rand.Rand, []string) []string { return nil },
	"signature lost": func(_ *rand.Rand, f []string) []string {
		if f[3] == "RRSIG" {
			return nil
		}
		return f
	},
	"signature damaged": func(r *rand.Rand, f []string) []string {
		if f[3] == "RRSIG" {
			f[12] = flip(r, f[12])
		}
		return f
	},
	"address changed": func(r *rand.Rand, f []string) []string {
		if f[3] == "A" {
			f[4] = fmt.Sprintf("198.51.100.%d", r.IntN(256))
		}
		return f
	},
	"type missing in the bitmap": func(_ *rand.Rand, f []string) []string {
		if f[3] == "NSEC" || f[3] == "NSEC3" {
			return f[:len(f)-1]
		}
		return f
	},
	"another next name": func(r *rand.Rand, f []string) []string {
		switch f[3] {
		case "NSEC":
			f[4] = "a." + f[4]
		case "NSEC3":
			f[8] = flip(r, f[8])
		}
		return f
	},
	"signature over": func(_ *rand.Rand, f []string) []string {
		if f[3] == "RRSIG" {
			f[8], f[9] = "20200201000000", "20200101000000"
		}
		return f
	},
	"labels": func(_ *rand.Rand, f []string) []string {
		if f[3] == "RRSIG" {
			n, _ := strconv.Atoi(f[6])
			f[6] = strconv.Itoa(n + 1)
		}
		return f
	},
	"signer": func(_ *rand.Rand, f []string) []string {
		if f[3] == "RRSIG" {
			f[11] = "test."
		}
		return f
	},
	"key lost": func(_ *rand.Rand, f []string) []string {
		if f[3] == "DNSKEY" {
			return nil
		}
		return f
	},
	"key damaged": func(r *rand.Rand, f []string) []string {
		if f[3] == "DNSKEY" {
			f[7] = flip(r, f[7])
		}
		return f
	},
	"delegation signer changed": func(_ *rand.Rand, f []string) []string {
		if f[3] == "DS" {
			f[4] = "1"
		}
		return f
	},
	"owner moved": func(_ *rand.Rand, f []string) []string {
		if f[0] != "example." {
			f[0] = "moved." + f[0]
		}
		return f
	},
}

// flip changes a character of a word, but for its end, where base64 has bits that mean nothing.
func flip(r *rand.Rand, word string) string {
	i := 1 + r.IntN(len(word)-5)
	c := byte('a')
	if word[i] == 'a' {
		c = 'b'
	}
	return word[:i] + string(c) + word[i+1:]
}

// breakText applies a breakage to a random line that it changes.
func breakText(r *rand.Rand, text string, how func(*rand.Rand, []string) []string) string {
	all := strings.SplitAfter(text, "\n")
	all = all[:len(all)-1] // nothing is behind the last
	for _, i := range r.Perm(len(all)) {
		f := strings.Fields(all[i])
		if f[3] == "SOA" {
			continue
		}
		changed := how(r, slices.Clone(f))
		if !slices.Equal(changed, f) {
			all[i] = strings.Join(changed, " ") + "\n"
			break
		}
	}
	return strings.Join(all, "")
}

// TestWhoeverRefusesWeRefuse breaks signed zones at random. What ldns-verify-zone, dnssec-verify or kzonecheck refuses, we
// refuse; but a delegation without its glue, which kzonecheck refuses, gets a warning here: it is the child's trouble only.
func TestWhoeverRefusesWeRefuse(t *testing.T) {
	const rounds = 3
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range breakages {
			if !yield(name) {
				return
			}
		}
	})
	alone := 0
	for _, flavour := range flavours {
		whole := lines(t, parse(t, signBIND(t, testdata(t, "plain.zone"), flavour, "ECDSAP256SHA256")))
		for who, why := range refusals(t, whole) {
			t.Fatalf("%s: %s refuses the whole zone: %s", flavour, who, why)
		}
		for _, name := range names {
			for seed := range uint64(rounds) {
				r := rand.New(rand.NewPCG(seed, uint64(len(name))))
				broken := breakText(r, whole, breakages[name])
				if broken == whole {
					continue
				}
				said := refusals(t, broken)
				found := ours(broken)
				switch refused := zone.HasErrors(found); {
				case !refused && len(said) == 1 && strings.Contains(said["kzonecheck"], "missing glue") && hasRule(found, "missing-glue"):
				case !refused && len(said) > 0:
					t.Errorf("%s, %s, seed %d: refused by %v\nhere: %v\n%s", flavour, name, seed, said, found, changed(whole, broken))
				case refused && len(said) == 0:
					alone++
					t.Logf("%s, %s, seed %d: refused here only: %v\n%s", flavour, name, seed, errorsOf(found), changed(whole, broken))
				}
			}
		}
	}
	t.Logf("%d were refused here only", alone)
}

func hasRule(found []zone.Finding, rule string) bool {
	return slices.ContainsFunc(found, func(f zone.Finding) bool { return f.Rule == rule })
}

func changed(a, b string) string {
	old := strings.Split(a, "\n")
	var diff []string
	for _, line := range strings.Split(b, "\n") {
		if !slices.Contains(old, line) {
			diff = append(diff, "+ "+line)
		}
	}
	for _, line := range old {
		if !slices.Contains(strings.Split(b, "\n"), line) {
			diff = append(diff, "- "+line)
		}
	}
	return strings.Join(diff, "\n")
}
