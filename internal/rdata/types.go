package rdata

import (
	"maps"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Types that the dns package has no name for, or that are named often here.
const (
	typeNULL   = dns.TypeNULL
	typeAPL    = dns.TypeAPL
	typeWKS    = 11
	typeNSAP   = 22
	typeA6     = 38
	typeSINK   = 40
	typeDSYNC  = 66 // RFC 9859
	typeHHIT   = 67 // RFC 9886
	typeBRID   = 68 // RFC 9886
	typeDOA    = 259
	typeWALLET = 262
	typeCLA    = 263
	typeIPN    = 264
)

// typesByName are the mnemonics of IANA's registry.
var typesByName = func() map[string]uint16 {
	all := maps.Clone(dns.StringToType)
	delete(all, "None")
	delete(all, "Reserved")
	maps.Copy(all, map[string]uint16{"WKS": typeWKS, "NSAP": typeNSAP, "A6": typeA6, "SINK": typeSINK, "DSYNC": typeDSYNC, "HHIT": typeHHIT,
		"BRID": typeBRID, "DOA": typeDOA, "WALLET": typeWALLET, "CLA": typeCLA, "IPN": typeIPN})
	return all
}()

var namesByType = func() map[uint16]string {
	all := make(map[uint16]string, len(typesByName))
	for name, typ := range typesByName {
		all[typ] = name
	}
	return all
}()

// TypeOf reads a type's mnemonic in upper case, or its generic form, TYPE and a number (RFC 3597 5).
func TypeOf(word string) (typ uint16, ok bool) {
	if typ, ok := typesByName[word]; ok {
		return typ, true
	}
	digits, ok := strings.CutPrefix(word, "TYPE")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), err == nil
}

// TypeString is a type's mnemonic, or its generic form if it has none.
func TypeString(typ uint16) string {
	if name, ok := namesByType[typ]; ok {
		return name
	}
	return "TYPE" + strconv.Itoa(int(typ))
}

// algorithms are those of DNSSEC by the mnemonics of RFC 4034 A.1, IANA's registry and, where BIND has its own, by that.
var algorithms = map[string]uint64{"RSAMD5": 1, "DH": 2, "DSA": 3, "ECC": 4, "RSASHA1": 5, "DSA-NSEC3-SHA1": 6, "NSEC3DSA": 6,
	"RSASHA1-NSEC3-SHA1": 7, "NSEC3RSASHA1": 7, "RSASHA256": 8, "RSASHA512": 10, "ECC-GOST": 12, "ECCGOST": 12, "ECDSAP256SHA256": 13,
	"ECDSAP384SHA384": 14, "ED25519": 15, "ED448": 16, "SM2SM3": 17, "ECC-GOST12": 23, "INDIRECT": 252, "PRIVATEDNS": 253, "PRIVATEOID": 254}

// digests are the digest types of DS records, as BIND reads them.
var digests = map[string]uint64{"SHA-1": 1, "SHA1": 1, "SHA-256": 2, "SHA256": 2, "GOST": 3, "SHA-384": 4, "SHA384": 4}

// hashes are the hash algorithms of NSEC3 records, as BIND reads them.
var hashes = map[string]uint64{"SHA-1": 1}

// certificates are the types of CERT records (RFC 4398 2.1).
var certificates = map[string]uint64{"PKIX": 1, "SPKI": 2, "PGP": 3, "IPKIX": 4, "ISPKI": 5, "IPGP": 6, "ACPKIX": 7, "IACPKIX": 8, "URI": 253, "OID": 254}

// keyProtocols are those of KEY records (RFC 2535 7.1).
var keyProtocols = map[string]uint64{"NONE": 0, "TLS": 1, "EMAIL": 2, "DNSSEC": 3, "IPSEC": 4, "ALL": 255}

// keyFlags are those of KEY records (RFC 2535 7.1), and KSK and REVOKE, as BIND reads them.
var keyFlags = map[string]uint64{"NOCONF": 0x4000, "NOAUTH": 0x8000, "NOKEY": 0xc000, "FLAG2": 0x2000, "EXTEND": 0x1000, "FLAG4": 0x0800,
	"FLAG5": 0x0400, "USER": 0, "ZONE": 0x0100, "HOST": 0x0200, "NTYP3": 0x0300, "FLAG8": 0x0080, "FLAG9": 0x0040, "FLAG10": 0x0020, "FLAG11": 0x0010,
	"SIG0": 0, "SIG1": 1, "SIG2": 2, "SIG3": 3, "SIG4": 4, "SIG5": 5, "SIG6": 6, "SIG7": 7, "SIG8": 8, "SIG9": 9, "SIG10": 10, "SIG11": 11, "SIG12": 12,
	"SIG13": 13, "SIG14": 14, "SIG15": 15, "KSK": 1, "REVOKE": 0x80}

// schemes are those of DSYNC records (RFC 9859 2.2).
var schemes = map[string]uint64{"NOTIFY": 1}
