package meshsync

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// exchangeRaw sends a message by TCP, and hands over the records of each message that comes until that is enough.
func exchangeRaw(t *testing.T, addr string, query []byte, take func([]sent) (enough bool)) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(15*time.Second)))
	c := &dns.Conn{Conn: conn}
	_, err = c.Write(query)
	must(t, err)
	for enough := false; !enough; {
		octets, err := c.ReadMsgHeader(nil)
		must(t, err)
		if rcode := octets[3] & 15; rcode != dns.RcodeSuccess {
			t.Fatal(dns.RcodeToString[int(rcode)])
		}
		records, err := recordsOf(octets)
		must(t, err)
		enough = take(records)
	}
}

// transferRaw is the answer to AXFR or IXFR, to the SOA that ends it.
func transferRaw(t *testing.T, addr string, q *dns.Msg, ends int) map[string]bool {
	t.Helper()
	q.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix())
	query, _, err := dns.TsigGenerate(q, transferSecret, "", false)
	must(t, err)
	got, soas := map[string]bool{}, 0
	exchangeRaw(t, addr, query, func(records []sent) bool {
		for _, r := range records {
			got[fmt.Sprintf("%s %s %x", zone.NameString(r.owner), rdata.TypeString(r.typ), r.data)] = true
			if r.typ == dns.TypeSOA {
				soas++
			}
		}
		return soas == ends
	})
	return got
}

// TestOctetsOfEveryTypeLeave: what is released of every type, known or not, is in the answer, in the transfer and in the difference
// octet by octet (RFC 3597), whatever the dns package makes of it.
func TestOctetsOfEveryTypeLeave(t *testing.T) {
	dir, h := nodeDir(t)
	r := rand.New(rand.NewPCG(9, 9))
	records := map[string]string{} // a line by owner and type
	changed := func(each int) (now map[string]bool) {
		now = map[string]bool{}
		for _, typ := range rdatatest.Types() {
			switch typ { // which would have to make sense with the rest of the zone
			case dns.TypeSOA, dns.TypeNS, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeSIG:
				continue
			}
			for i := range each {
				data, key := rdatatest.Random(r, typ), fmt.Sprintf("x%d-%d.types. %s", typ, i, rdata.TypeString(typ))
				records[key] = fmt.Sprintf("x%d-%d.types. 60 IN TYPE%d \\# %d %X\n", typ, i, typ, len(data), data)
				now[fmt.Sprintf("%s %x", key, data)] = true
			}
		}
		return now
	}
	text := func(serial uint32) string {
		lines := slices.Collect(maps.Values(records))
		return fmt.Sprintf("types. 60 IN SOA ns. host. %d 3600 600 86400 60\ntypes. 60 IN NS ns.\n", serial) + strings.Join(lines, "")
	}
	old := changed(6)
	first := text(1)
	next := changed(1) // few, so that it is worth a difference
	second := text(2)
	h.current(1, []release.Zone{h.blob("types.", first)})
	serve(t, transferCorefile(dir, h, ""), func(addr string) {
		lab.Eventually(t, func() error { return hasSerial(addr, 1) })
		whole := transferRaw(t, addr, axfr("types."), 2)
		for record := range old {
			if !whole[record] {
				t.Errorf("the transfer lacks %s", record)
			}
		}
		zones := []release.Zone{h.blob("types.", second)}
		h.stage(2, zones)
		lab.Eventually(t, func() error { return stagedAt(dir, 2) })
		h.current(2, zones)
		lab.Eventually(t, func() error { return hasSerial(addr, 2) })
		difference := transferRaw(t, addr, ixfr("types.", 1), 4)
		for record := range old {
			owner, _, _ := strings.Cut(record, " ")
			if strings.HasSuffix(owner, "-0.types.") && !difference[record] && !next[record] {
				t.Errorf("the difference lacks the removal of %s", record)
			}
		}
		for record := range next {
			if !difference[record] && !old[record] {
				t.Errorf("the difference lacks the addition of %s", record)
			}
		}
		for record := range next {
			fields := strings.Fields(record)
			typ, _ := rdata.TypeOf(fields[1])
			query, err := question(fields[0], typ).Pack()
			must(t, err)
			exchangeRaw(t, addr, query, func(records []sent) bool {
				want := strings.Join(append(fields, "")[2:3], "")
				if len(records) == 0 || records[0].typ != typ || hex.EncodeToString(records[0].data) != want {
					t.Errorf("%s is answered by %+v", record, records)
				}
				return true
			})
		}
	})
}

func question(name string, typ uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, typ) }

func hasSerial(addr string, want uint32) error {
	m, _, err := (&dns.Client{Timeout: time.Second}).Exchange(question("types.", dns.TypeSOA), addr)
	if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.SOA).Serial != want {
		return fmt.Errorf("want serial %d: %v, %v", want, m, err)
	}
	return nil
}

// sent is a resource record as a message has it, names expanded.
type sent struct {
	owner []byte // wire format
	typ   uint16
	data  []byte // RDATA
}

// recordsOf are the records of all sections of a message.
func recordsOf(message []byte) (list []sent, err error) {
	if len(message) < 12 {
		return nil, errors.New("no header")
	}
	at := 12
	for range binary.BigEndian.Uint16(message[4:]) {
		if _, at, err = rdata.ExpandName(nil, message, at); err != nil {
			return nil, err
		}
		at += 4
	}
	for i := 6; i < 12; i += 2 {
		for range binary.BigEndian.Uint16(message[i:]) {
			var r sent
			if r.owner, at, err = rdata.ExpandName(nil, message, at); err != nil || at+10 > len(message) {
				return nil, errors.New("the message ends in a record")
			}
			r.typ = binary.BigEndian.Uint16(message[at:])
			end := at + 10 + int(binary.BigEndian.Uint16(message[at+8:]))
			if r.data, err = rdata.Unpack(r.typ, message, at+10, end); err != nil {
				return nil, err
			}
			list, at = append(list, r), end
		}
	}
	return list, nil
}
