package meshsync

import (
	"github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Transfer implements transfer.Transferer: it hands out a zone of the release that is answered from, whole and of one
// release whatever switches meanwhile (XFER-1). Who may have it is plugin transfer's business.
func (m *Meshsync) Transfer(name string, serial uint32) (<-chan []dns.RR, error) {
	zones := m.zones()
	if zones == nil {
		return nil, transfer.ErrNotAuthoritative // the query then comes to ServeDNS, which is silent
	}
	z := zones.Get(name)
	if z == nil {
		return nil, transfer.ErrNotAuthoritative
	}
	records := make(chan []dns.RR)
	go func() {
		defer close(records)
		sendZone(z, serial, records)
	}()
	return records, nil
}

// sendZone sends all records, the SOA first and once more last; or the SOA alone to who has this serial or a later one
// (RFC 1995 2; 0 stands for AXFR).
func sendZone(z *zone.Zone, serial uint32, records chan<- []dns.RR) {
	const batch = 100
	upToDate := serial != 0 && int32(serial-z.Serial()) >= 0 // RFC 1982 3.2
	var soa dns.RR
	var rrs []dns.RR
	for rr := range z.Records() {
		if soa == nil {
			soa = rr
		}
		rrs = append(rrs, rr)
		if upToDate {
			break
		}
		if len(rrs) == batch {
			records <- rrs
			rrs = nil
		}
	}
	if !upToDate {
		rrs = append(rrs, soa)
	}
	records <- rrs
}
