// Package validate_test has validating resolvers judge our answers: zones signed by three signers, each with NSEC, NSEC3
// and NSEC3 with opt-out, are served by the real coredns, and delv and Unbound are asked for every class of answer.
package validate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// A verdict is what a validator makes of an answer.
type verdict byte

const (
	secure   verdict = 'S'
	insecure verdict = 'i'
	bogus    verdict = 'B'
	wrong    verdict = 'W' // another rcode, or no answer
)

// A class is a class of answer: a question in every zone, below its origin, and what is to come of it.
type class struct {
	what  string
	name  string
	qtype uint16
	rcode int
	proof proof
}

// A proof is what an answer stands on, where that is more than signatures and records that match names.
type proof int

const (
	plain    proof = iota
	expand         // a span says that there is no closer name than the wildcard
	span           // a span says that there is no such name
	optedOut       // a span stands in for an insecure delegation, if the signer leaves that out of the chain
	nothing        // there can be none below an insecure delegation
)

var everywhere = []form{nsec, nsec3, optOut, chains}

var classes = []class{
	{"positive", "a", dns.TypeA, dns.RcodeSuccess, plain},
	{"positive, apex", "", dns.TypeSOA, dns.RcodeSuccess, plain},
	{"positive, keys", "", dns.TypeDNSKEY, dns.RcodeSuccess, plain},
	{"positive, unknown type", "a", 65280, dns.RcodeSuccess, plain},
	{"any", "a", dns.TypeANY, dns.RcodeSuccess, plain},
	{"wildcard", "x.w", dns.TypeA, dns.RcodeSuccess, expand},
	{"wildcard, deep", "y.x.w", dns.TypeA, dns.RcodeSuccess, expand},
	{"the wildcard itself", "*.w", dns.TypeA, dns.RcodeSuccess, plain},
	{"CNAME", "cname", dns.TypeA, dns.RcodeSuccess, plain},
	{"CNAME itself", "cname", dns.TypeCNAME, dns.RcodeSuccess, plain},
	{"CNAME to NODATA", "cnamenodata", dns.TypeTXT, dns.RcodeSuccess, plain},
	{"CNAME to NXDOMAIN", "cnamenx", dns.TypeA, dns.RcodeNameError, span},
	{"CNAME to wildcard", "cnamewild", dns.TypeA, dns.RcodeSuccess, expand},
	{"wildcard CNAME", "x.cw", dns.TypeA, dns.RcodeSuccess, expand},
	{"DNAME", "x.dn", dns.TypeA, dns.RcodeSuccess, plain},
	{"DNAME itself", "dn", dns.TypeDNAME, dns.RcodeSuccess, plain},
	{"DNAME to NODATA", "x.dn", dns.TypeTXT, dns.RcodeSuccess, plain},
	{"DNAME to NXDOMAIN", "nx.dn", dns.TypeA, dns.RcodeNameError, span},
	{"NODATA", "a", dns.TypeTXT, dns.RcodeSuccess, plain},
	{"NODATA, apex", "", dns.TypeTXT, dns.RcodeSuccess, plain},
	{"NODATA, DS of no delegation", "a", dns.TypeDS, dns.RcodeSuccess, plain},
	{"NODATA, empty non-terminal", "e", dns.TypeA, dns.RcodeSuccess, plain},
	{"NODATA, empty non-terminal, deep", "ent.e", dns.TypeA, dns.RcodeSuccess, plain},
	{"NODATA, empty above insecure only", "ins", dns.TypeA, dns.RcodeSuccess, optedOut},
	{"NODATA, wildcard", "x.w", dns.TypeTXT, dns.RcodeSuccess, span},
	{"NODATA, wildcard, deep", "y.x.w", dns.TypeTXT, dns.RcodeSuccess, span},
	{"NODATA, wildcard, empty", "x.we", dns.TypeA, dns.RcodeSuccess, span},
	{"NXDOMAIN", "nx", dns.TypeA, dns.RcodeNameError, span},
	{"NXDOMAIN, deep", "q.r.s.nx", dns.TypeA, dns.RcodeNameError, span},
	{"NXDOMAIN, below a name", "q.r.a", dns.TypeA, dns.RcodeNameError, span},
	{"NXDOMAIN, below empty", "q.r.e", dns.TypeA, dns.RcodeNameError, span},
	{"NXDOMAIN, first", "0", dns.TypeA, dns.RcodeNameError, span},
	{"NXDOMAIN, last", "zzz", dns.TypeA, dns.RcodeNameError, span},
	{"NXDOMAIN, odd octets", `\000\255.a\.b`, dns.TypeA, dns.RcodeNameError, span},
	{"DS", "secure", dns.TypeDS, dns.RcodeSuccess, plain},
	{"no DS", "insecure", dns.TypeDS, dns.RcodeSuccess, optedOut},
	{"no DS, deep", "deep.ins", dns.TypeDS, dns.RcodeSuccess, optedOut},
	{"below DS", "a.secure", dns.TypeA, dns.RcodeSuccess, plain},
	{"below DS, NODATA", "a.secure", dns.TypeTXT, dns.RcodeSuccess, plain},
	{"below no DS", "a.insecure", dns.TypeA, dns.RcodeSuccess, nothing},
	{"below no DS, NXDOMAIN", "nx.insecure", dns.TypeA, dns.RcodeNameError, nothing},
	{"below no DS, deep", "a.deep.ins", dns.TypeA, dns.RcodeSuccess, nothing},
}

const zoneText = `$ORIGIN %[1]s
$TTL 300
@           SOA   ns mail 1 3600 600 86400 300
@           NS    ns
ns          A     192.0.2.1
a           A     192.0.2.2
a           TYPE65280 \# 1 00
*.w         A     192.0.2.3
wd          A     192.0.2.4
x.*.we      A     192.0.2.4
cname       CNAME a
cnamenodata CNAME a
cnamenx     CNAME nx
cnamewild   CNAME z.w
*.cw        CNAME a
dn          DNAME t
x.t         A     192.0.2.5
b.ent.e     A     192.0.2.6
secure      NS    ns
insecure    NS    ns
deep.ins    NS    ns
`

const childText = `$ORIGIN %[1]s
$TTL 300
@ SOA ns mail 1 3600 600 86400 300
@ NS  ns
ns A  192.0.2.1
a A   192.0.2.2
`

// A column is a zone in one of the forms.
type column struct {
	signer string
	form   form
	zone   signed
}

func TestValidatorsAcceptEveryClassOfAnswer(t *testing.T) {
	need := []string{"delv", "unbound"}
	for _, s := range signers {
		need = append(need, s.commands...)
	}
	testenv.Need(t, need...)
	columns, files := makeZones(t)
	address := serve(t, files)
	for _, v := range []validator{newDelv(t, address, columns), newUnbound(t, address, columns)} {
		table := judge(columns, v)
		t.Logf("%s: S secure, i insecure, B bogus, W wrong rcode or none; what is not as it should be is marked *\n%s", v.name(), show(columns, table, v))
		for i, c := range classes {
			for j, col := range columns {
				if got, want := table[i][j], v.want(&c, col); got != want {
					t.Errorf("%s: %s, signed by %s, %s: %c, want %c (%s)", v.name(), c.what, col.signer, col.form, got, want, c.question(col))
				}
			}
		}
	}
}

func (c *class) qname(col column) string {
	if c.name == "" {
		return col.zone.origin
	}
	return c.name + "." + col.zone.origin
}

func (c *class) question(col column) string { return c.qname(col) + " " + dns.Type(c.qtype).String() }

// makeZones signs a zone in every form by every signer, with a signed and unsigned zones below it, and returns the files.
func makeZones(t *testing.T) (columns []column, files []string) {
	dir := t.TempDir()
	write := func(origin string, text []byte) {
		path := filepath.Join(dir, origin+"zone")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	for _, s := range signers {
		for _, f := range everywhere {
			if f == chains && s.name != "bind" {
				continue
			}
			origin := fmt.Sprintf("%s.%s.test.", f, s.name)
			child := s.sign1(t, "secure."+origin, fmt.Sprintf(childText, "secure."+origin), f)
			zone := s.sign1(t, origin, fmt.Sprintf(zoneText, origin)+child.ds.String()+"\n", f)
			columns = append(columns, column{s.name, f, zone})
			write(origin, zone.text)
			write(child.origin, child.text)
			for _, below := range []string{"insecure.", "deep.ins."} {
				write(below+origin, []byte(fmt.Sprintf(childText, below+origin)))
			}
		}
	}
	return columns, files
}

// serve starts the real coredns with zone files and returns its address.
func serve(t *testing.T, files []string) string {
	bin := testenv.Build(t, "cmd/coredns", "cmd/meshctl")
	address := fmt.Sprintf("127.0.0.1:%d", testenv.Port(t))
	start(t, filepath.Join(bin, "meshctl"), append([]string{"try", "--listen", address}, files...)...)
	await(t, address, "nsec.bind.test.")
	return address
}

// start starts a program that ends with the test.
func start(t *testing.T, path string, args ...string) {
	t.Helper()
	p := lab.Start(t, lab.Command{Argv: append([]string{path}, args...), Log: filepath.Join(t.TempDir(), "log")})
	t.Cleanup(p.Stop)
}

// await waits until an address answers for a name.
func await(t *testing.T, address, name string) {
	t.Helper()
	lab.Eventually(t, func() error {
		m, _, err := (&dns.Client{Timeout: time.Second}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeSOA), address)
		if err == nil && m.Rcode != dns.RcodeSuccess {
			err = fmt.Errorf("%s answers for %s: %v", address, name, m)
		}
		return err
	})
}

// judge asks a validator everything, several questions at a time.
func judge(columns []column, v validator) [][]verdict {
	table := make([][]verdict, len(classes))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, c := range classes {
		table[i] = make([]verdict, len(columns))
		for j, col := range columns {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				table[i][j] = v.validate(&c, col)
			})
		}
	}
	wg.Wait()
	return table
}

func show(columns []column, table [][]verdict, v validator) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-34s", "")
	for _, col := range columns {
		fmt.Fprintf(&b, " %-11s", col.signer+" "+string(col.form))
	}
	for i, c := range classes {
		fmt.Fprintf(&b, "\n%-34s", c.what)
		for j, col := range columns {
			mark := ""
			if table[i][j] != v.want(&c, col) {
				mark = "*"
			}
			fmt.Fprintf(&b, " %-11s", string(table[i][j])+mark)
		}
	}
	return b.String()
}
