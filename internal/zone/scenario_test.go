package zone_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestScenarios runs the files of testdata, which say how to read them:
//
//	zone [sign=nsec|nsec3|optout]   zone text in; its findings, or "ok", out
//	query                           lines "name type [class] [do]" in; the answers out
//	msg [size=N] [edns]             one such line in; the response that fits into N octets out
//
// Zones add up until "reset". Signatures are shown as "+sig" after what they cover, and NSEC3 hashes as the names
// that they are the hashes of.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			return
		}
		w := &world{names: map[string]string{}}
		datadriven.RunTest(t, path, w.run)
	})
}

type world struct {
	zones []*zone.Zone
	names map[string]string // NSEC3 hash to name
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "reset":
		w.zones = nil
		return ""
	case "zone":
		return w.load(t, d)
	case "query":
		return w.query(t, d)
	case "msg":
		return w.msg(t, d)
	}
	t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return ""
}

func (w *world) load(t *testing.T, d *datadriven.TestData) string {
	z, found := zonefile.Parse(strings.NewReader("$TTL 300\n"+d.Input+"\n"), zonefile.Options{})
	if d.HasArg("sign") && z != nil {
		var flavour string
		d.ScanArgs(t, "sign", &flavour)
		var records []zone.Record
		for _, rr := range sign(z.Origin(), slices.Collect(z.Records()), flavour) {
			records = append(records, zone.Record{RR: rr})
		}
		var more []zone.Finding
		z, more = zone.New("", records)
		found = append(found, more...)
	}
	var out strings.Builder
	for _, f := range found {
		f.Line-- // the $TTL line
		fmt.Fprintln(&out, f)
	}
	if z != nil {
		w.zones = append(w.zones, z)
		w.learn(z)
		fmt.Fprintln(&out, "ok")
	}
	return out.String()
}

// learn computes the hashes of a zone's names and of names that proofs are about.
func (w *world) learn(z *zone.Zone) {
	for rr := range z.Records() {
		for n := rr.Header().Name; dns.IsSubDomain(z.Origin(), n); n = parent(n) {
			w.names[strings.ToLower(dns.HashName(n, dns.SHA1, 0, "AB"))] = n
			if n == "." {
				break
			}
		}
	}
}

func (w *world) lookup(t *testing.T, d *datadriven.TestData, line string) (zone.Query, zone.Answer) {
	fields := strings.Fields(line)
	q := zone.Query{Name: pack(t, fields[0]), Class: dns.ClassINET}
	for _, word := range fields[1:] {
		if typ, ok := dns.StringToType[word]; ok && q.Type == 0 {
			q.Type = typ
		} else if class, ok := dns.StringToClass[word]; ok {
			q.Class = class
		} else if word == "do" {
			q.DO = true
		} else if _, err := fmt.Sscanf(word, "TYPE%d", &q.Type); err != nil {
			t.Fatalf("%s: %s?", d.Pos, word)
		}
	}
	zones, err := zone.NewZones(w.zones...)
	if err != nil {
		t.Fatal(err)
	}
	a := zones.Lookup(q)
	samePacket(t, q, &a, dns.MaxMsgSize)
	return q, a
}

func pack(t testing.TB, name string) []byte {
	buf := make([]byte, 256)
	n, err := dns.PackDomainName(name, buf, 0, nil, false)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return buf[:n]
}

func (w *world) query(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	for line := range strings.Lines(d.Input) {
		q, a := w.lookup(t, d, line)
		req := &dns.Msg{Question: []dns.Question{{Name: strings.Fields(line)[0], Qtype: q.Type, Qclass: q.Class}}}
		fmt.Fprintf(&out, "%s\n", strings.TrimSpace(line))
		w.print(&out, a.Msg(req, dns.MaxMsgSize))
	}
	return out.String()
}

func (w *world) msg(t *testing.T, d *datadriven.TestData) string {
	size := dns.MinMsgSize
	d.MaybeScanArgs(t, "size", &size)
	q, a := w.lookup(t, d, d.Input)
	samePacket(t, q, &a, size)
	req := &dns.Msg{Question: []dns.Question{{Name: strings.Fields(d.Input)[0], Qtype: q.Type, Qclass: q.Class}}}
	req.RecursionDesired, req.CheckingDisabled, req.Id = true, true, 7
	if d.HasArg("edns") {
		req.SetEdns0(uint16(size), q.DO)
	}
	m := a.Msg(req, size)
	if opt := req.IsEdns0(); opt != nil {
		m.Extra = append(m.Extra, opt)
	}
	wire, err := m.Pack()
	if err != nil || len(wire) > size {
		t.Errorf("%s: %d octets, of %d: %v", d.Pos, len(wire), size, err)
	}
	sent := new(dns.Msg) // records may be in the generic form
	if err := sent.Unpack(wire); err != nil {
		t.Errorf("%s: %v", d.Pos, err)
	}
	var out strings.Builder
	w.print(&out, sent)
	return out.String()
}

func (w *world) print(out *strings.Builder, m *dns.Msg) {
	fmt.Fprintf(out, "  %s", dns.RcodeToString[m.Rcode])
	for _, flag := range []struct {
		set  bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.RecursionDesired, "rd"}, {m.RecursionAvailable, "ra"},
		{m.AuthenticatedData, "ad"}, {m.CheckingDisabled, "cd"}} {
		if flag.set {
			fmt.Fprintf(out, " %s", flag.name)
		}
	}
	fmt.Fprintln(out)
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for j, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			line := w.show(rr)
			if sig, ok := rr.(*dns.RRSIG); ok && j > 0 && section[j-1].Header().Rrtype != dns.TypeRRSIG {
				line = fmt.Sprintf("+sig %s %d by %s", dns.Type(sig.TypeCovered), sig.Hdr.Ttl, sig.SignerName)
			}
			fmt.Fprintf(out, "  %s %s\n", [3]string{"answer", "author", "additi"}[i], line)
		}
	}
}

func (w *world) show(rr dns.RR) string {
	line := strings.Join(strings.Fields(rr.String()), " ")
	n3, ok := rr.(*dns.NSEC3)
	if !ok {
		return line
	}
	label, _, _ := strings.Cut(rr.Header().Name, ".")
	optOut := ""
	if n3.Flags&1 != 0 {
		optOut = "opt-out "
	}
	var types []string
	for _, typ := range n3.TypeBitMap {
		types = append(types, dns.Type(typ).String())
	}
	return fmt.Sprintf("h(%s) NSEC3 %sh(%s) %s", w.names[strings.ToLower(label)], optOut, w.names[strings.ToLower(n3.NextDomain)],
		strings.Join(types, " "))
}
