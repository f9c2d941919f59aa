package zonecheck

import (
	"testing"
	"time"
)

// TestWhatSignersMakeIsFine: zones signed by three signers in every flavour of denial have nothing against them.
func TestWhatSignersMakeIsFine(t *testing.T) {
	for _, s := range signers {
		for _, flavour := range flavours {
			t.Run(s.name+" "+flavour, func(t *testing.T) {
				z := parse(t, s.sign(t, testdata(t, "plain.zone"), flavour, "ECDSAP256SHA256"))
				p := strict()
				if s.name != "dnssec-signzone" { // which makes no ZONEMD records
					p.ZONEMD = Require
				}
				for _, f := range new(Memo).Check(nil, z, p, time.Now(), lease) {
					t.Error(f)
				}
			})
		}
	}
}
