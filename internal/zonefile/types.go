package zonefile

import "github.com/miekg/dns"

// typesByName are mnemonics of the IANA registry that the dns package does not know. Other servers and signers write them,
// at least into the type bit maps of NSEC and NSEC3 records, whatever the zone file said itself. RDATA of these types is
// read in the generic form (RFC 3597 5).
var typesByName = map[string]uint16{
	"WKS": 11, "NSAP": 22, "A6": 38, "SINK": 40, "DSYNC": 66, "HHIT": 67, "BRID": 68, "DOA": 259, "WALLET": 262, "CLA": 263, "IPN": 264,
}

func init() {
	for name, typ := range typesByName {
		if _, known := dns.StringToType[name]; !known {
			dns.StringToType[name] = typ
		}
	}
}
