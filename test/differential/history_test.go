package main

import (
	"bytes"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// TestZonesAreMadeStepByStep makes zones of each flavour of earlier versions: most steps are made in place, and what comes of
// them has the root of the zone that was built at once, though another image.
func TestZonesAreMadeStepByStep(t *testing.T) {
	testenv.Need(t, "dnssec-keygen", "dnssec-signzone")
	for _, flavour := range zonegen.Flavours {
		var all steps
		edited := 0
		for i, source := range zonegen.Generate(7, flavour, 15) {
			z, err := source.Load(t.TempDir(), i)
			if err != nil {
				t.Fatal(err)
			}
			made, steps, err := stepByStep(z.Image, 4, 7)
			if err != nil {
				t.Fatal(err)
			}
			if made.Root() != z.Image.Root() {
				t.Errorf("%s %s: another root", flavour, z.Origin)
			}
			if !bytes.Equal(image(made), image(z.Image)) {
				edited++
			}
			if again, _, err := stepByStep(z.Image, 4, 7); err != nil || !bytes.Equal(image(made), image(again)) {
				t.Errorf("%s %s: the seed does not tell the steps: %v", flavour, z.Origin, err)
			}
			all.add(steps)
		}
		t.Logf("%s: %+v, %d in the end as edited", flavour, all, edited)
		if all.inPlace < 20 || all.anew == 0 || edited < 5 {
			t.Errorf("%s: %+v, %d in the end as edited", flavour, all, edited)
		}
	}
}

// TestEarlierVersionsHaveTheirChain asks that the chain of an earlier version that nothing changed in but the serial is the
// one that BIND made: else each last step would replace it.
func TestEarlierVersionsHaveTheirChain(t *testing.T) {
	testenv.Need(t, "dnssec-keygen", "dnssec-signzone")
	for _, flavour := range zonegen.Flavours {
		for i, source := range zonegen.Generate(8, flavour, 15) {
			z, err := source.Load(t.TempDir(), i)
			if err != nil {
				t.Fatal(err)
			}
			v := versionOf(z.Image, nil)
			v.serial--
			before := v.build()
			if before == nil {
				t.Fatalf("%s %s: the Builder refuses it", flavour, z.Origin)
			}
			if d := zone.Difference(before, z.Image, 1<<20); len(d.Added) != len(d.Removed) || d.Size() > 400 { // SOA records
				t.Errorf("%s %s: more than the SOA differs:\n%s", flavour, z.Origin, history([]*zone.Zone{before, z.Image}))
			}
		}
	}
}
