package zone

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/miekg/dns"
)

// packed is three zones, each made of the one before by a pack, and the packs.
func packed(t testing.TB) (zones []*Zone, packs []*Pack) {
	t.Helper()
	noise := rand.New(rand.NewPCG(1, 1))
	for serial := range uint32(3) {
		b := NewBuilder()
		must := func(text string) {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			b.Add(rr, "", 0)
		}
		must(fmt.Sprintf("example. 60 IN SOA ns.example. host.example. %d 1 1 1 60", serial+1))
		must("example. 60 IN NS ns.example.")
		must("ns.example. 60 IN A 192.0.2.1")
		for i := range 60 {
			must(fmt.Sprintf("n%d.example. 60 IN TXT %d", i, noise.IntN(2)))
		}
		z, found := b.Build("example.")
		if z == nil {
			t.Fatal(found)
		}
		zones = append(zones, z)
	}
	for i := 1; i < len(zones); i++ {
		packs = append(packs, PackOf(zones[i-1], zones[i], Difference(zones[i-1], zones[i], 1<<20)))
	}
	return zones, packs
}

// TestAPackMakesTheZoneThatItSays, from the zone that it says, and from no other.
func TestAPackMakesTheZoneThatItSays(t *testing.T) {
	zones, packs := packed(t)
	z := zones[0]
	for i, p := range packs {
		read, err := ParsePack(p.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := zones[2-2*i].Follow(read); !errors.Is(err, ErrPack) {
			t.Errorf("pack %d is applied to another zone: %v", i, err)
		}
		if z, err = z.Follow(read); err != nil || z.Root() != zones[i+1].Root() {
			t.Fatal(i, err)
		}
	}
	wrong := *packs[0]
	wrong.To[0] ^= 1
	if _, err := zones[0].Follow(&wrong); !errors.Is(err, ErrPack) {
		t.Errorf("another root: %v", err)
	}
	wrong = *packs[0]
	wrong.Delta.Added = wrong.Delta.Added[:len(wrong.Delta.Added)-1]
	if _, err := zones[0].Follow(&wrong); !errors.Is(err, ErrPack) {
		t.Errorf("a record that ends early: %v", err)
	}
}

// TestTheRootIsPartOfTheFormat: hosts sign it and nodes of other versions compare it. Who changes it changes the format of manifests.
func TestTheRootIsPartOfTheFormat(t *testing.T) {
	zones, _ := packed(t)
	for i, want := range []string{
		"667a8951268050238c778c94e1cbfd8446d2bb02e1d4dd4b89e6187b46f6dbe0",
		"b3c61fe768ca85539ac43d293c0dd57977e90a40ba2d670b990aeff95289cac8",
		"5c831bcc369f081e696a30539afaf23c31bd3883d6c694b0217ce0cad68529a8",
	} {
		if got := fmt.Sprintf("%x", zones[i].Root()); got != want {
			t.Errorf("zone %d: root %s", i, got)
		}
	}
	b := NewBuilder()
	apex, ns := dns.HashName("example.", dns.SHA1, 0, ""), dns.HashName("ns.example.", dns.SHA1, 0, "")
	for _, text := range []string{
		"example. 60 IN SOA ns.example. host.example. 1 1 1 1 60", "example. 60 IN NS ns.example.", "ns.example. 60 IN A 192.0.2.1",
		"example. 0 IN NSEC3PARAM 1 0 0 -",
		apex + ".example. 60 IN NSEC3 1 0 0 - " + ns + " NS SOA NSEC3PARAM", ns + ".example. 60 IN NSEC3 1 0 0 - " + apex + " A",
	} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		b.Add(rr, "", 0)
	}
	z, found := b.Build("example.")
	if z == nil {
		t.Fatal(found)
	}
	if got := fmt.Sprintf("%x", z.Root()); got != "ae8bd32a8cb66b7a2cf71fcf142cea1ec54e51df1758f5ef93dd5bd7c769cabd" {
		t.Errorf("with NSEC3: root %s", got)
	}
}

// TestADamagedPackMakesNoOtherZone, whichever octet it is.
func TestADamagedPackMakesNoOtherZone(t *testing.T) {
	zones, packs := packed(t)
	good := packs[0].Append(nil)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		p, err := ParsePack(bad)
		if err != nil {
			if !errors.Is(err, ErrPack) {
				t.Fatal(err)
			}
			continue
		}
		if z, err := zones[0].Follow(p); err == nil && z.Root() != zones[1].Root() {
			t.Fatalf("octet %d: another zone", i)
		}
	}
	for n := range len(good) {
		if _, err := ParsePack(good[:n]); !errors.Is(err, ErrPack) {
			t.Fatalf("the first %d octets: %v", n, err)
		}
	}
}

// FuzzPack: whatever the octets are, reading and applying them ends, and makes the zone of the root that they say or none.
func FuzzPack(f *testing.F) {
	zones, packs := packed(f)
	for _, p := range packs {
		f.Add(p.Append(nil))
	}
	f.Add([]byte("ANYPACK\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePack(b)
		if err != nil {
			return
		}
		if again := p.Append(nil); !bytes.Equal(again, b) {
			t.Fatal("not written as it was read")
		}
		if z, err := zones[0].Follow(p); err == nil && z.Root() != p.To {
			t.Fatal("another root")
		}
	})
}
