package zone_test

import (
	"bytes"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// TestNeighbours: what is found from any name or hash on, forwards and backwards, is what going through all of the zone shows, also in
// zones that Apply made.
func TestNeighbours(t *testing.T) {
	zones := 0
	for seed := range histories() {
		p := newPast(uint64(seed))
		var z *zone.Zone
		for range 3 {
			p.step()
			next, _ := zone.New("example.", p.records(t))
			if next != nil && z != nil {
				if made, _ := zone.ApplyInPlace(z, zone.Difference(z, next, 1<<30)); made != nil {
					next = made
				}
			}
			if next != nil {
				z = next
			}
		}
		if z == nil {
			continue
		}
		zones++
		p.Shuffle(len(p.names), func(i, j int) { p.names[i], p.names[j] = p.names[j], p.names[i] })
		compareNeighbours(t, fmt.Sprintf("seed %d", seed), z, append(p.names[:12:12], "", "no.", "no.a.", "zz.ns.", "b.a.x.y.b."))
	}
	if zones < histories()/2 {
		t.Errorf("%d zones", zones)
	}
}

func compareNeighbours(t *testing.T, what string, z *zone.Zone, names []string) {
	t.Helper()
	var all []zone.Owner
	var hashes []zone.RRset
	for s := range z.RRsets() {
		if s.Type == dns.TypeNSEC3 {
			hashes = append(hashes, s)
			continue
		}
		if len(all) == 0 || !bytes.Equal(all[len(all)-1].Name, s.Owner) {
			all = append(all, zone.Owner{Name: s.Owner})
		}
		all[len(all)-1].Sets = append(all[len(all)-1].Sets, s)
	}
	var cut []byte
	for i := range all {
		o := &all[i]
		key := zone.AppendKey(nil, o.Name)
		o.Occluded = cut != nil && bytes.HasPrefix(key, cut)
		o.Cut = !o.Occluded && i > 0 && slices.ContainsFunc(o.Sets, func(s zone.RRset) bool { return s.Type == dns.TypeNS && len(s.Data) > 0 })
		if o.Cut {
			cut = key
		}
	}
	open := slices.DeleteFunc(slices.Clone(all), func(o zone.Owner) bool { return o.Occluded })
	for _, name := range names {
		wire := pack(t, name+"example.")
		key := zone.AppendKey(nil, zone.Canonical(dns.TypeNS, wire))
		before := func(o zone.Owner) bool { return bytes.Compare(zone.AppendKey(nil, o.Name), key) < 0 }
		after := func(o zone.Owner) bool { return !before(o) }
		for _, c := range []struct {
			what string
			got  []zone.Owner
			want []zone.Owner
		}{
			{"from", slices.Collect(z.OwnersFrom(wire, true)), slices.DeleteFunc(slices.Clone(all), before)},
			{"open from", slices.Collect(z.OwnersFrom(wire, false)), slices.DeleteFunc(slices.Clone(open), before)},
			{"before", slices.Collect(z.OwnersBefore(wire)), reversed(slices.DeleteFunc(slices.Clone(open), after))},
		} {
			if got, want := fmt.Sprint(c.got), fmt.Sprint(c.want); got != want {
				t.Fatalf("%s: %s %s:\n%s\nnot\n%s", what, c.what, name, got, want)
			}
		}
		want := zone.Owner{Name: zone.Canonical(dns.TypeNS, wire)}
		for _, o := range all {
			if bytes.Equal(o.Name, want.Name) {
				want = o
			} else if o.Cut && len(wire) > len(o.Name) && bytes.HasPrefix(key, zone.AppendKey(nil, o.Name)) {
				want.Occluded = true
			}
		}
		if got := z.Owner(wire); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s: %s: %v, not %v", what, name, got, want)
		}
		hash := zone.Hash(wire, "\xab")
		compareHashes(t, what, z, hash[:], hashes)
	}
	for i := 0; i < len(hashes); i += 1 + len(hashes)/10 {
		s := hashes[i]
		hash, err := base32.HexEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(string(s.Owner[1:33])))
		if err != nil {
			t.Fatal(err)
		}
		compareHashes(t, what, z, hash, hashes)
	}
	compareExpiring(t, what, z)
}

func reversed[T any](list []T) []T {
	slices.Reverse(list)
	return list
}

func compareHashes(t *testing.T, what string, z *zone.Zone, hash []byte, all []zone.RRset) {
	t.Helper()
	label := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(hash))
	at, exact := slices.BinarySearchFunc(all, label, func(s zone.RRset, l string) int { return strings.Compare(string(s.Owner[1:33]), l) })
	forwards := append(slices.Clone(all[at:]), all[:at]...)
	backwards := reversed(slices.Clone(forwards))
	if exact && len(all) > 0 { // it comes last both ways
		backwards = reversed(append(slices.Clone(all[at:]), all[:at]...))
	}
	var from, before []zone.RRset
	for h, s := range z.NSEC3From(hash) {
		from = append(from, s)
		if want := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h)); want != string(s.Owner[1:33]) {
			t.Fatalf("%s: hash %s of %s", what, want, s.Owner)
		}
	}
	for _, s := range z.NSEC3Before(hash) {
		before = append(before, s)
	}
	if fmt.Sprint(from) != fmt.Sprint(forwards) || fmt.Sprint(before) != fmt.Sprint(backwards) {
		t.Fatalf("%s: %s: %d from, %d before, of %d, or in another order", what, label, len(from), len(before), len(all))
	}
}

func compareExpiring(t *testing.T, what string, z *zone.Zone) {
	t.Helper()
	times := []uint32{0, 1, 500, 5000, 50_000, 99_001, 1 << 30}
	for _, at := range times {
		var want, got []string
		for s := range z.RRsets() {
			for sig := range s.Sigs.All() {
				if e := uint32(sig[8])<<24 | uint32(sig[9])<<16 | uint32(sig[10])<<8 | uint32(sig[11]); int32(e-at) < 0 {
					want = append(want, string(s.Owner))
				}
			}
		}
		for name := range z.ExpiringBefore(at) {
			got = append(got, string(name))
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(slices.Compact(got), slices.Compact(want)) {
			t.Fatalf("%s: before %d: %q, not %q", what, at, got, want)
		}
	}
}
