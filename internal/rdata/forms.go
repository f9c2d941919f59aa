package rdata

import "github.com/miekg/dns"

// forms has the fields of every type that has a text form.
var forms = map[uint16][]field{
	dns.TypeA:     {ipv4},
	dns.TypeNS:    {name},
	dns.TypeMD:    {name},
	dns.TypeMF:    {name},
	dns.TypeCNAME: {name},
	dns.TypeSOA:   {name, name, u32, ttl, ttl, ttl, ttl},
	dns.TypeMB:    {name},
	dns.TypeMG:    {name},
	dns.TypeMR:    {name},
	typeWKS:       {ipv4, services},
	dns.TypePTR:   {name},
	dns.TypeHINFO: {text, text},
	dns.TypeMINFO: {name, name},
	dns.TypeMX:    {u16, name},
	dns.TypeTXT:   {texts},
	dns.TypeRP:    {name, name},
	dns.TypeAFSDB: {u16, name},
	dns.TypeX25:   {text},
	dns.TypeISDN:  {text, mayText},
	dns.TypeRT:    {u16, name},
	typeNSAP:      {nsap},

	dns.TypeNSAPPTR: {name},
	dns.TypeSIG:     {covered, algorithm, u8, u32, instant, instant, u16, name, base64Data},
	dns.TypeKEY:     {flags, protocol, algorithm, mayBase64},
	dns.TypePX:      {u16, name, name},
	dns.TypeGPOS:    {text, text, text},
	dns.TypeAAAA:    {ipv6},
	dns.TypeLOC:     {location},
	dns.TypeNXT:     {name, oldTypes},
	dns.TypeEID:     {hexData},
	dns.TypeNIMLOC:  {hexData},
	dns.TypeSRV:     {u16, u16, u16, name},
	dns.TypeATMA:    {atma},
	dns.TypeNAPTR:   {u16, u16, text, text, text, name},
	dns.TypeKX:      {u16, name},
	dns.TypeCERT:    {certificate, u16, algorithm, base64Data},
	typeA6:          {a6},
	dns.TypeDNAME:   {name},
	typeSINK:        {u8, u8, u8, mayBase64},
	dns.TypeAPL:     {prefixes},
	dns.TypeDS:      {u16, algorithm, digest, hexData},
	dns.TypeSSHFP:   {u8, u8, hexData},

	dns.TypeIPSECKEY:   {u8, ipsecGateway},
	dns.TypeRRSIG:      {covered, algorithm, u8, u32, instant, instant, u16, name, base64Data},
	dns.TypeNSEC:       {name, types},
	dns.TypeDNSKEY:     {flags, protocol, algorithm, base64Data},
	dns.TypeDHCID:      {base64Data},
	dns.TypeNSEC3:      {hash, u8, u16, salt, hashed, types},
	dns.TypeNSEC3PARAM: {hash, u8, u16, salt},
	dns.TypeTLSA:       {u8, u8, u8, hexData},
	dns.TypeSMIMEA:     {u8, u8, u8, hexData},
	dns.TypeHIP:        {hip},
	dns.TypeNINFO:      {texts},
	dns.TypeRKEY:       {flags, protocol, algorithm, base64Data},
	dns.TypeTALINK:     {name, name},
	dns.TypeCDS:        {u16, algorithm, digest, hexData},
	dns.TypeCDNSKEY:    {flags, protocol, algorithm, base64Data},
	dns.TypeOPENPGPKEY: {base64Data},
	dns.TypeCSYNC:      {u32, u16, types},
	dns.TypeZONEMD:     {u32, u8, u8, hexData},
	dns.TypeSVCB:       {u16, name, serviceParams},
	dns.TypeHTTPS:      {u16, name, serviceParams},
	typeDSYNC:          {covered, scheme, u16, name},
	typeHHIT:           {base64Data},
	typeBRID:           {base64Data},

	dns.TypeSPF:      {texts},
	dns.TypeUINFO:    {text},
	dns.TypeUID:      {u32},
	dns.TypeGID:      {u32},
	dns.TypeNID:      {u16, groups},
	dns.TypeL32:      {u16, ipv4},
	dns.TypeL64:      {u16, groups},
	dns.TypeLP:       {u16, name},
	dns.TypeEUI48:    {eui48},
	dns.TypeEUI64:    {eui64},
	dns.TypeURI:      {u16, u16, longText},
	dns.TypeCAA:      {u8, tag, longText},
	dns.TypeAVC:      {texts},
	typeDOA:          {u32, u32, u8, text, dashBase64},
	dns.TypeAMTRELAY: {u8, relay},
	dns.TypeRESINFO:  {texts},
	typeWALLET:       {texts},
	typeCLA:          {texts},
	typeIPN:          {u64},
	dns.TypeTA:       {u16, algorithm, digest, hexData},
	dns.TypeDLV:      {u16, algorithm, digest, hexData},
}

// plainlyGood tells of the types that a large zone is made of that the fields have nothing against it. False says nothing.
func plainlyGood(typ uint16, rdata []byte) bool {
	switch typ {
	case dns.TypeA:
		return len(rdata) == 4
	case dns.TypeAAAA:
		return len(rdata) == 16
	case dns.TypeNS, dns.TypeCNAME:
		n := NameLen(rdata, 0)
		return n > 0 && n == len(rdata)
	case dns.TypeRRSIG:
		n := NameLen(rdata, 18)
		return n > 0 && 18+n < len(rdata)
	case dns.TypeDS:
		return len(rdata) > 4
	}
	return false
}
