package xfr

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// typed are records of every type with random RDATA, each at an owner of its own.
type typed struct {
	owners []string
	types  []uint16
	data   [][]byte
}

func everyType(seed uint64, each int, except ...uint16) (list typed) {
	r := rand.New(rand.NewPCG(7, seed))
	for _, typ := range rdatatest.Types() {
		for i := range each {
			if typ == dns.TypeSOA || slices.Contains(except, typ) {
				continue
			}
			owner := fmt.Sprintf("x%d-%d", typ, i)
			if typ == dns.TypeNSEC3 {
				owner = strings.Repeat("0", 31) + strconv.Itoa(i)
			}
			list.owners = append(list.owners, owner+".example.org.")
			list.types = append(list.types, typ)
			list.data = append(list.data, rdatatest.Random(r, typ))
		}
	}
	return list
}

const typedHead = "example.org. 300 IN SOA ns.test. mail.test. 1 3600 900 1209600 300\nexample.org. 300 IN NS ns.test.\n"

// text is a zone of them in the generic form.
func (l *typed) text() string {
	var b strings.Builder
	b.WriteString(typedHead)
	for i, typ := range l.types {
		fmt.Fprintf(&b, "%s 300 IN TYPE%d \\# %d %X\n", l.owners[i], typ, len(l.data[i]), l.data[i])
	}
	return b.String()
}

// in demands that a zone have all of them. Servers may fold the names that canonical form folds.
func (l *typed) in(t *testing.T, how string, z *zone.Zone) {
	t.Helper()
	have := map[string]string{}
	for r := range z.WireRecords() {
		have[zone.NameString(r.Owner)+" "+rdata.TypeString(r.Type)] = hex.EncodeToString(bytes.ToLower(r.Data))
	}
	for i, typ := range l.types {
		key := l.owners[i] + " " + rdata.TypeString(typ)
		if got, want := have[key], hex.EncodeToString(bytes.ToLower(l.data[i])); got != want {
			t.Errorf("%s: %s is %s, want %s", how, key, got, want)
		}
	}
}

// exactly demands that records in a message be one of them, octet by octet.
func (l *typed) exactly(t *testing.T, how string, i int, message []byte) {
	t.Helper()
	at, err := skipQuestions(message)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	err = answers(message, at, func(r *resource) error {
		found = found || r.typ == l.types[i] && bytes.Equal(r.data, l.data[i])
		return nil
	})
	if !found || err != nil {
		t.Errorf("%s: %s %s %x is not in %x, %v", how, l.owners[i], rdata.TypeString(l.types[i]), l.data[i], message, err)
	}
}

// transferMessage is an answer to AXFR of records in wire format.
func (l *typed) transferMessage(t *testing.T) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR)
	m.Id, m.Response, m.Authoritative = 1, true, true
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	add := func(owner string, typ uint16, data []byte) {
		raw, err = rdata.AppendName(raw, owner, ".")
		raw = binary.BigEndian.AppendUint16(raw, typ)
		raw = append(raw, 0, dns.ClassINET, 0, 0, 1, 44)
		raw = append(binary.BigEndian.AppendUint16(raw, uint16(len(data))), data...)
		count++
	}
	soa, _ := hex.DecodeString("00" + "00" + "00000001" + "00000e10" + "00000384" + "00127500" + "0000012c")
	add("example.org.", dns.TypeSOA, soa)
	add("example.org.", dns.TypeNS, []byte("\x02ns\x04test\x00"))
	for i, typ := range l.types {
		add(l.owners[i], typ, l.data[i])
	}
	add("example.org.", dns.TypeSOA, soa)
	binary.BigEndian.PutUint16(raw[6:], uint16(count))
	return raw
}

// TestOctetsOfEveryTypePass: what comes in wire form, by AXFR or in a file, is in the release, in the answer and in the transfer out
// octet by octet, for every type, known or not (RFC 3597).
func TestOctetsOfEveryTypePass(t *testing.T) {
	except := []uint16{dns.TypeCNAME, dns.TypeDNAME, dns.TypeRRSIG, dns.TypeSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeNS} // below
	for seed := range uint64(3) {
		list := everyType(seed, 4, except...)
		list.owners = append(list.owners, "c.example.org.", "d.example.org.", "b.example.org.", "o.example.org.", "u.example.org.", "v.example.org.")
		list.types = append(list.types, dns.TypeCNAME, dns.TypeDNAME, dns.TypeCSYNC, dns.TypeLOC, 65333, dns.TypeAPL)
		list.data = append(list.data, []byte("\x03X\xc8.\x00"), []byte("\x01d\x00"), // the rest is what the dns package would alter
			[]byte("\x00\x00\x00\x01\x00\x03\x00\x02\x40\x00"), []byte{7, 1}, nil, []byte("\x00\x09\xff\x02ab"))

		tr := newTransfer(question{1, "example.org.", dns.TypeAXFR}, Version{}, "test", testLimits, newVerifier(nil, nil, time.Now))
		done, err := tr.message(list.transferMessage(t))
		if err != nil || !done {
			t.Fatal(done, err)
		}
		got, err := tr.finish(nil)
		if err != nil {
			t.Fatal(err)
		}
		fromFile, found := zonefile.Parse(strings.NewReader(list.text()), zonefile.Options{})
		if fromFile == nil {
			t.Fatal(found)
		}
		for how, z := range map[string]*zone.Zone{"AXFR": got.Zone, "file": fromFile} {
			var text bytes.Buffer
			if err := zonefile.Write(&text, z); err != nil {
				t.Fatal(err)
			}
			released, found := zonefile.Parse(&text, zonefile.Options{})
			if released == nil {
				t.Fatal(found)
			}
			list.passes(t, how, released)
		}
	}
}

// passes asks a zone of a release for each record, in both ways that answers are made, and transfers it.
func (l *typed) passes(t *testing.T, how string, z *zone.Zone) {
	t.Helper()
	out := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR))
	for rr := range z.Records() {
		out.Answer = append(out.Answer, rr)
	}
	transferred, err := out.Pack()
	if err != nil {
		t.Fatal(err)
	}
	zones, err := zone.NewZones(z)
	if err != nil {
		t.Fatal(err)
	}
	for i, typ := range l.types {
		l.exactly(t, how+", transferred", i, transferred)
		name, _ := rdata.AppendName(nil, l.owners[i], ".")
		query := zone.Query{Name: name, Type: typ, Class: dns.ClassINET}
		answer := zones.Lookup(query)
		req := new(dns.Msg).SetQuestion(l.owners[i], typ)
		msg, err := answer.Msg(req, dns.MaxMsgSize).Pack()
		if err != nil {
			t.Fatal(err)
		}
		l.exactly(t, how+", answered", i, msg)
		packet, _ := answer.AppendTo(nil, &zone.Request{Query: query}, dns.MaxMsgSize)
		l.exactly(t, how+", answered as a packet", i, packet)
	}
}

// obsolete are types that BIND refuses in text (RFC 1035 3.3.4).
var obsolete = []uint16{dns.TypeMD, dns.TypeMF}

// TestPeersWriteEveryType: what BIND, Knot and NSD write of every type that they know, in the forms that they prefer, is read as the
// octets that they were given; and what they transfer is.
func TestPeersWriteEveryType(t *testing.T) {
	list := everyType(1, 6, obsolete...)
	t.Run("named-compilezone", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "in"), list.text())
		cmd := exec.Command(testenv.Need(t, "named-compilezone")[0], "-i", "none", "-k", "ignore", "-n", "ignore", "-M", "ignore", "-S", "ignore", "-F", "text", "-s", "full", "-o", "out", "example.org.", "in")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("BIND refuses it: %s", out)
		}
		list.read(t, "BIND", filepath.Join(dir, "out"))
	})
	zones := map[string]string{"example.org.": list.text()}
	for _, kind := range primarytest.Kinds() {
		t.Run(kind+" transfers", func(t *testing.T) {
			t.Parallel()
			got, _, _ := transferFrom(t, primarytest.NewServer(t, kind, zones), key256, nil, nil)
			list.in(t, kind, got.Zone)
		})
	}
	t.Run("knotd writes", func(t *testing.T) {
		t.Parallel()
		d := primarytest.NewServer(t, "knotd", zones)
		out := t.TempDir()
		command := exec.Command(testenv.Need(t, "knotc")[0], "-b", "-s", filepath.Join(d.Dir, "knot.sock"), "zone-flush", "-f", "+outdir", out, "example.org.")
		if said, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		list.read(t, "Knot", filepath.Join(out, "example.org.zone"))
	})
	t.Run("nsd writes", func(t *testing.T) {
		t.Parallel()
		primary := primarytest.NewServer(t, "knotd", zones)
		nsd := lab.NameServer{Kind: "nsd", Dir: t.TempDir(), Listen: []netip.AddrPort{testenv.Local(t)}, Options: "  zonefiles-write: 1\n",
			Keys: []lab.TSIG{{Name: strings.TrimSuffix(key256.Name, "."), Algorithm: strings.TrimSuffix(key256.Algorithm, "."), Secret: base64.StdEncoding.EncodeToString(key256.Secret)}},
			Zones: []lab.ServedZone{{Origin: "example.org", File: "written",
				More: fmt.Sprintf("  request-xfr: AXFR 127.0.0.1@%d %s\n", primary.Addr.Port(), strings.TrimSuffix(key256.Name, "."))}}}
		p := lab.Start(t, lab.Command{Argv: nsd.Argv(t, testenv.Need(t, "nsd")[0]), Log: filepath.Join(nsd.Dir, "log")})
		t.Cleanup(p.Stop)
		written := filepath.Join(nsd.Dir, "written")
		lab.WaitFor(t, "NSD has written the zone", func() bool { _, err := os.Stat(written); return err == nil })
		list.read(t, "NSD", written)
	})
}

// notBIND are forms that BIND 9.18 does not read: types and parameters of later RFCs, types that no program made use of, and digests of
// other lengths than their types have.
var notBIND = []string{"UID", "UINFO", "CLA", "IPN", "ZONEMD", "TA", "DS 1", "IPSECKEY 10 0", "SVCB 1 . key1=\\002h2 ohttp", "HTTPS 1 . port"}

// TestTextIsReadAsBINDReadsIt compares the octets that BIND makes of each form, and transfers, with ours.
func TestTextIsReadAsBINDReadsIt(t *testing.T) {
	var list typed
	text := strings.Replace(typedHead, "example.org. 300 IN SOA", "$ORIGIN example.org.\nexample.org. 300 IN SOA", 1)
	for form := range rdatatest.Forms {
		if slices.ContainsFunc(notBIND, func(not string) bool { return strings.HasPrefix(form, not) }) {
			continue
		}
		owner := fmt.Sprintf("x%d.example.org.", len(list.owners))
		if strings.HasPrefix(form, "NSEC3 ") {
			owner = strings.Repeat("0", 32) + ".example.org."
		}
		line := owner + " 300 IN " + form + "\n"
		z, found := zonefile.Parse(strings.NewReader("$ORIGIN example.org.\n"+typedHead+line), zonefile.Options{})
		if z == nil {
			t.Fatalf("%s: %v", line, found)
		}
		for r := range z.WireRecords() {
			if zone.NameString(r.Owner) == owner {
				list.owners, list.types, list.data = append(list.owners, owner), append(list.types, r.Type), append(list.data, r.Data)
			}
		}
		text += line
	}
	if len(list.owners) < len(rdatatest.Forms)-15 {
		t.Errorf("only %d of %d forms", len(list.owners), len(rdatatest.Forms))
	}
	got, _, _ := transferFrom(t, primarytest.NewServer(t, "named", map[string]string{"example.org.": text}), key256, nil, nil)
	list.in(t, "named", got.Zone)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// read demands that a file that a peer wrote have all of them.
func (l *typed) read(t *testing.T, who, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, found := zonefile.Parse(f, zonefile.Options{Origin: "example.org."})
	if z == nil {
		text, _ := os.ReadFile(path)
		lines := strings.Split(string(text), "\n")
		for _, f := range found {
			if f.Severity == zone.Error {
				t.Errorf("%s: %s writes %q", f, who, lines[max(0, f.Line-1)])
			}
		}
		return
	}
	l.in(t, who, z)
}
