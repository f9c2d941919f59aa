package rdata

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// RDATA whose later parts hang on the earlier ones.
var (
	services     = field{read: readServices, skip: skipServices}
	nsap         = field{read: readNSAP, skip: skipSome}
	atma         = field{read: readATMA, skip: skipSome}
	a6           = field{read: readA6, skip: skipA6}
	prefixes     = field{read: readPrefixes, skip: skipPrefixes}
	hip          = field{read: readHIP, skip: skipHIP}
	ipsecGateway = field{read: readIPSECGateway, skip: skipIPSECGateway}
	relay        = field{read: readRelay, skip: skipRelay}
)

// readServices reads the protocol and the ports of WKS (RFC 1035 3.4.2), as numbers or words of /etc/protocols and
// /etc/services.
func readServices(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	protocol, known := ipProtocols[strings.ToLower(w)]
	if !known {
		n, err := strconv.ParseUint(w, 10, 8)
		if err != nil {
			return fmt.Errorf("%s is no IP protocol", w)
		}
		protocol = byte(n)
	}
	var ports []byte
	for len(r.tokens) > 0 {
		w, err := r.word()
		if err != nil {
			return err
		}
		port, known := ipServices[strings.ToLower(w)]
		if !known {
			n, err := strconv.ParseUint(w, 10, 16)
			if err != nil {
				return fmt.Errorf("%s is no port, nor a service that is known here", w)
			}
			port = uint16(n)
		}
		if need := int(port)/8 + 1 - len(ports); need > 0 {
			ports = append(ports, make([]byte, need)...)
		}
		ports[port/8] |= 0x80 >> (port % 8)
	}
	r.out = append(append(r.out, protocol), ports...)
	return nil
}

func skipServices(rdata []byte, at int) (int, error) {
	if at >= len(rdata) || len(rdata)-at-1 > 1<<13 {
		return 0, errors.New("no protocol, or more ports than there are (RFC 1035 3.4.2)")
	}
	return len(rdata), nil
}

// readNSAP reads 0x and hexadecimal digits, with dots between them wherever that helps to read them (RFC 1706 6).
func readNSAP(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	digits, ok := strings.CutPrefix(strings.ToLower(w), "0x")
	octets, err := hex.DecodeString(strings.ReplaceAll(digits, ".", ""))
	if !ok || err != nil || len(octets) == 0 {
		return fmt.Errorf("%s is not 0x and hexadecimal digits (RFC 1706 6)", w)
	}
	r.out = append(r.out, octets...)
	return nil
}

// readATMA reads an ATM address: + and digits (E.164), or an NSAP address in hexadecimal, with dots wherever they help.
func readATMA(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	plain := strings.ReplaceAll(w, ".", "")
	if digits, ok := strings.CutPrefix(plain, "+"); ok {
		if digits == "" || strings.Trim(digits, "0123456789") != "" {
			return fmt.Errorf("%s is not + and digits", w)
		}
		r.out = append(append(r.out, 1), digits...)
		return nil
	}
	octets, err := hex.DecodeString(plain)
	if err != nil || len(octets) == 0 {
		return fmt.Errorf("%s is neither + and digits nor in hexadecimal", w)
	}
	r.out = append(append(r.out, 0), octets...)
	return nil
}

// readA6 reads the length of the prefix, the suffix unless that has no bits, and the prefix's name unless that has none (RFC
// 2874 3.2).
func readA6(r *reader) error {
	w, err := r.word()
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(w, 10, 8)
	if err != nil || n > 128 {
		return fmt.Errorf("%s is no length of a prefix, from 0 to 128 (RFC 2874 3.1.1)", w)
	}
	r.out = append(r.out, byte(n))
	if n < 128 {
		w, err := r.word()
		if err != nil {
			return err
		}
		a, err := netip.ParseAddr(w)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return fmt.Errorf("%s is no IPv6 address", w)
		}
		full := a.As16()
		full[n/8] &= 0xff >> (n % 8)
		r.out = append(r.out, full[n/8:]...)
	}
	if n == 0 {
		return nil
	}
	return readName(r)
}

func skipA6(rdata []byte, at int) (int, error) {
	if at >= len(rdata) || rdata[at] > 128 {
		return 0, errors.New("no length of a prefix, from 0 to 128 (RFC 2874 3.1.1)")
	}
	n := int(rdata[at])
	at, err := octets(1+16-n/8)(rdata, at)
	if err != nil || n == 0 {
		return at, err
	}
	return skipName(rdata, at)
}

// readPrefixes reads the items of APL (RFC 3123 5): !, family, :, address, / and the length of the prefix. Bits beyond
// that stay as they are written, as BIND has it.
func readPrefixes(r *reader) error {
	for len(r.tokens) > 0 {
		w, err := r.word()
		if err != nil {
			return err
		}
		rest, negative := strings.CutPrefix(w, "!")
		family, prefix, _ := strings.Cut(rest, ":")
		address, bits, _ := strings.Cut(prefix, "/")
		a, err1 := netip.ParseAddr(address)
		n, err2 := strconv.ParseUint(bits, 10, 8)
		if err1 != nil || err2 != nil || a.Zone() != "" || int(n) > a.BitLen() || family != map[bool]string{true: "1", false: "2"}[a.Is4()] {
			return fmt.Errorf("%s is no [!]family:address/prefix of family 1 or 2 (RFC 3123 5)", w)
		}
		octets := a.AsSlice()
		for len(octets) > 0 && octets[len(octets)-1] == 0 {
			octets = octets[:len(octets)-1]
		}
		length := byte(len(octets))
		if negative {
			length |= 0x80
		}
		r.out = append(append(r.out, 0, family[0]-'0', byte(n), length), octets...)
	}
	return nil
}

// skipPrefixes takes items of any family (RFC 3123 4).
func skipPrefixes(rdata []byte, at int) (int, error) {
	for at < len(rdata) {
		if at+4 > len(rdata) {
			return 0, errEnds
		}
		if at += 4 + int(rdata[at+3]&0x7f); at > len(rdata) {
			return 0, errEnds
		}
	}
	return at, nil
}

// readHIP reads the algorithm, the HIT, the public key and any rendezvous servers (RFC 8005 6).
func readHIP(r *reader) error {
	var words [3]string
	for i := range words {
		var err error
		if words[i], err = r.word(); err != nil {
			return err
		}
	}
	algorithm, err1 := strconv.ParseUint(words[0], 10, 8)
	hit, err2 := hex.DecodeString(words[1])
	key, err3 := base64.StdEncoding.DecodeString(words[2])
	if errors.Join(err1, err2, err3) != nil || len(hit) == 0 || len(hit) > 255 || len(key) == 0 || len(key) > maxLength {
		return errors.New("want an algorithm's number, a HIT in hexadecimal and a key in base 64 (RFC 8005 6)")
	}
	r.out = append(r.out, byte(len(hit)), byte(algorithm), byte(len(key)>>8), byte(len(key)))
	r.out = append(append(r.out, hit...), key...)
	for len(r.tokens) > 0 {
		if err := readName(r); err != nil {
			return err
		}
	}
	return nil
}

func skipHIP(rdata []byte, at int) (int, error) {
	if at+4 > len(rdata) {
		return 0, errEnds
	}
	hit, key := int(rdata[at]), int(binary.BigEndian.Uint16(rdata[at+2:]))
	if hit == 0 || key == 0 {
		return 0, errors.New("no HIT, or no key (RFC 8005 5)")
	}
	at, err := octets(4+hit+key)(rdata, at)
	for err == nil && at < len(rdata) {
		at, err = skipName(rdata, at)
	}
	return at, err
}

// gateway reads what a gateway or relay is, by its type: nothing, an address or a name (RFC 4025 2.3, RFC 8777 4.2.3).
func (r *reader) gateway(kind uint64) error {
	switch kind {
	case 0:
		w, err := r.word()
		if err == nil && w != "." {
			err = fmt.Errorf("%s is not the dot that stands for none", w)
		}
		return err
	case 1:
		return r.address4()
	case 2:
		return r.address6()
	case 3:
		return readName(r)
	}
	return fmt.Errorf("type %d is no type of gateway that has a text form", kind)
}

// skipGateway skips one. Of a type that is not known, all that is left may belong to it.
func skipGateway(rdata []byte, at int, kind byte) (int, error) {
	switch kind {
	case 0:
		return at, nil
	case 1:
		return octets(4)(rdata, at)
	case 2:
		return octets(16)(rdata, at)
	case 3:
		return skipName(rdata, at)
	}
	return len(rdata), nil
}

// numbers reads numbers of so many bits each.
func (r *reader) numbers(bits ...int) (list []uint64, err error) {
	for _, b := range bits {
		w, err := r.word()
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(w, 10, b)
		if err != nil {
			return nil, notNumber(w, b, false)
		}
		list = append(list, n)
	}
	return list, nil
}

// readIPSECGateway reads the gateway's type, the algorithm, the gateway and the key, which is not there for algorithm 0
// (RFC 4025 3.1).
func readIPSECGateway(r *reader) error {
	n, err := r.numbers(8, 8)
	if err != nil {
		return err
	}
	r.out = append(r.out, byte(n[0]), byte(n[1]))
	if err := r.gateway(n[0]); err != nil {
		return err
	}
	return mayBase64.read(r)
}

func skipIPSECGateway(rdata []byte, at int) (int, error) {
	if at+2 > len(rdata) {
		return 0, errEnds
	}
	if _, err := skipGateway(rdata, at+2, rdata[at]); err != nil {
		return 0, err
	}
	return len(rdata), nil
}

// readRelay reads the discovery bit, the relay's type and the relay (RFC 8777 4.3).
func readRelay(r *reader) error {
	n, err := r.numbers(1, 7)
	if err != nil {
		return err
	}
	r.out = append(r.out, byte(n[0]<<7|n[1]))
	return r.gateway(n[1])
}

func skipRelay(rdata []byte, at int) (int, error) {
	if at >= len(rdata) {
		return 0, errEnds
	}
	return skipGateway(rdata, at+1, rdata[at]&0x7f)
}

// ipProtocols are the words of /etc/protocols that NSD writes into WKS.
var ipProtocols = map[string]byte{"ip": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "st": 5, "tcp": 6, "egp": 8, "igp": 9, "pup": 12, "udp": 17,
	"hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36, "ddp": 37, "idpr-cmtp": 38, "ipv6": 41, "rsvp": 46, "gre": 47,
	"esp": 50, "ah": 51, "skip": 57, "rspf": 73, "vmtp": 81, "eigrp": 88, "ospf": 89, "ipip": 94, "etherip": 97, "encap": 98, "pim": 103,
	"ipcomp": 108, "vrrp": 112, "l2tp": 115, "isis": 124, "sctp": 132, "fc": 133, "udplite": 136}

// ipServices are the words of /etc/services below 1024 that were there when WKS was in use, and are so in today's.
var ipServices = map[string]uint16{"tcpmux": 1, "echo": 7, "discard": 9, "systat": 11, "daytime": 13, "netstat": 15, "qotd": 17, "msp": 18,
	"chargen": 19, "ftp-data": 20, "ftp": 21, "fsp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "time": 37, "rlp": 39, "nameserver": 42, "nicname": 43,
	"whois": 43, "tacacs": 49, "re-mail-ck": 50, "domain": 53, "mtp": 57, "tacacs-ds": 65, "bootps": 67, "bootpc": 68, "tftp": 69, "gopher": 70,
	"finger": 79, "http": 80, "www": 80, "link": 87, "kerberos": 88, "supdup": 95, "hostnames": 101, "iso-tsap": 102, "acr-nema": 104, "csnet-ns": 105,
	"poppassd": 106, "rtelnet": 107, "pop2": 109, "pop3": 110, "sunrpc": 111, "auth": 113, "sftp": 115, "uucp-path": 117, "nntp": 119, "ntp": 123,
	"pwdgen": 129, "loc-srv": 135, "epmap": 135, "netbios-ns": 137, "netbios-dgm": 138, "netbios-ssn": 139, "imap2": 143, "imap": 143, "snmp": 161,
	"snmp-trap": 162, "cmip-man": 163, "cmip-agent": 164, "mailq": 174, "xdmcp": 177, "nextstep": 178, "bgp": 179, "irc": 194, "smux": 199,
	"at-rtmp": 201, "at-nbp": 202, "at-echo": 204, "at-zis": 206, "qmtp": 209, "z3950": 210, "ipx": 213, "imap3": 220, "pawserv": 345, "zserv": 346,
	"fatserv": 347, "rpc2portmap": 369, "codaauth2": 370, "clearcase": 371, "ulistserv": 372, "ldap": 389, "imsp": 406, "svrloc": 427, "https": 443,
	"snpp": 444, "microsoft-ds": 445, "kpasswd": 464, "submissions": 465, "saft": 487, "isakmp": 500, "rtsp": 554, "nqs": 607, "asf-rmcp": 623,
	"qmqp": 628, "ipp": 631, "ldp": 646, "exec": 512, "biff": 512, "login": 513, "who": 513, "shell": 514, "syslog": 514, "printer": 515, "talk": 517,
	"ntalk": 518, "route": 520, "gdomap": 538, "uucp": 540, "klogin": 543, "kshell": 544, "dhcpv6-client": 546, "dhcpv6-server": 547, "afpovertcp": 548,
	"nntps": 563, "submission": 587, "ldaps": 636, "tinc": 655, "silc": 706, "kerberos-adm": 749, "domain-s": 853, "rsync": 873, "ftps-data": 989,
	"ftps": 990, "telnets": 992, "imaps": 993, "pop3s": 995}
