package zonegen

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
)

// rareTypes are the types whose RDATA is made at random, written in the generic form (RFC 3597 5) and compared octet by octet.
// The others have a place in zones that hangs on their meaning, or are refused by BIND: MD and MF.
var rareTypes = slices.DeleteFunc(rdatatest.Types(), func(typ uint16) bool {
	switch typ {
	case dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeSOA, dns.TypeDNAME, dns.TypeDS, dns.TypeRRSIG, dns.TypeNSEC,
		dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeDNSKEY, dns.TypeCDNSKEY, dns.TypeCDS, dns.TypeZONEMD, dns.TypeSIG, dns.TypeKEY, dns.TypeNXT,
		dns.TypePTR, dns.TypeMX, dns.TypeAFSDB, dns.TypeSRV, // PowerDNS 4.7 does not read these in the generic form
		dns.TypeNSAPPTR: // whose names BIND folds before it signs them, and RFC 4034 6.2 does not
		return true
	}
	return false
})

// IsRare says whether a type is one of those.
func IsRare(typ uint16) bool { return slices.Contains(rareTypes, typ) }

// restore puts the records of rare types back into a signed zone as they were, since BIND's signer writes them in forms that
// not all others read, and their types where records list types. Lines have the form "owner TTL IN type RDATA".
func restore(signed []byte, lines []string) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(signed) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			b.Write(line)
			continue
		}
		switch typ, _ := rdata.TypeOf(string(f[3])); {
		case IsRare(typ):
			continue
		case typ == dns.TypeRRSIG || typ == dns.TypeNSEC || typ == dns.TypeNSEC3:
			from, to := 4, 5 // of an RRSIG record the type covered
			if typ == dns.TypeNSEC {
				from, to = 5, len(f)
			} else if typ == dns.TypeNSEC3 {
				from, to = 9, len(f)
			}
			for i := from; i < to; i++ {
				if listed, ok := rdata.TypeOf(string(f[i])); ok && IsRare(listed) {
					f[i] = fmt.Appendf(nil, "TYPE%d", listed)
				}
			}
			b.Write(bytes.Join(f, []byte(" ")))
			b.WriteByte('\n')
		default:
			b.Write(line)
		}
	}
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 3 {
			if typ, _ := rdata.TypeOf(f[3]); IsRare(typ) {
				b.WriteString(line + "\n")
			}
		}
	}
	return b.Bytes()
}
