package zonecheck

import (
	"bytes"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// warn reports what a Builder warns of where a zone is read from text, for zones that are not. Who would be warned of is asked first:
// most owners of a large zone name servers of others.
func (c *content) warn(o *owner) {
	if !c.memo.warns || o.kind == hashed || !c.mayWarn(o) {
		return
	}
	for _, f := range c.j.zone.Warnings(o.name) {
		if f.Severity == zone.Warning {
			c.s.r.put(entry{place{inHosts, string(o.key)}, o.name, f})
		}
	}
}

func (c *content) mayWarn(o *owner) bool {
	for i := range o.sets {
		set := &o.sets[i]
		switch {
		case len(set.Data) == 0, set.Type == dns.TypeDNAME:
			return true
		case set.Type != dns.TypeNS && set.Type != dns.TypeMX:
			continue
		}
		for rdata := range set.Data.All() {
			for _, host := range zone.RdataNames(nil, set.Type, rdata) {
				if inZone(host, c.d.origin) {
					return true
				}
			}
		}
	}
	return false
}

// inZone reports whether a name is at or below an origin in lower case.
func inZone(name, origin []byte) bool {
	n := countLabels(name) - countLabels(origin)
	return n >= 0 && bytes.Equal(zone.Canonical(dns.TypeNS, suffix(name, n)), origin)
}

// lost are hosts that may have lost their addresses, or become aliases: what points at them may be warned of now. What points at others
// was warned of, or needs no warning still.
type lost struct {
	was, is *zone.Zone
	exactly map[string]bool
	below   map[string]bool // names at and below which all are
}

// look takes an owner that changed.
func (l *lost) look(c zone.Change, was, is *zone.Owner) {
	addressed := func(sets []zone.RRset) bool { return has(sets, dns.TypeA) || has(sets, dns.TypeAAAA) }
	star := bytes.HasPrefix(c.Owner, []byte("\x01*"))
	if addressed(c.Was) && !addressed(c.Is) || !has(c.Was, dns.TypeCNAME) && has(c.Is, dns.TypeCNAME) {
		if l.exactly[string(c.Owner)] = true; star {
			l.below[string(suffix(c.Owner, 1))] = true // for which it stood
		}
	}
	if has(c.Was, dns.TypeDNAME) && !has(c.Is, dns.TypeDNAME) {
		l.below[string(c.Owner)] = true
	}
	if was.Cut != is.Cut { // what is below it is hidden by it, wildcards and aliases too
		for o := range l.is.OwnersFrom(c.Owner, true) {
			if below(o.Name, c.Owner) {
				l.below[string(c.Owner)] = true
			}
			break
		}
	}
	l.coveredIn(l.was, c.Owner)
	l.coveredIn(l.is, c.Owner)
}

// coveredIn looks whether a wildcard of a version stands for a name that came or went, or for the first above it that did: then what is
// below that has what the wildcard has in that version only.
func (l *lost) coveredIn(z *zone.Zone, name []byte) {
	for n := countLabels(name) - z.Labels(); n > 0; n-- { // from the origin down
		above, at := suffix(name, n), suffix(name, n-1)
		if z.Exists(at) {
			continue
		}
		if z.Exists(append([]byte("\x01*"), above...)) {
			l.below[string(at)] = true
		}
		return
	}
}

func (l *lost) any() bool { return len(l.exactly)+len(l.below) > 0 }

// has reports whether a host is one of them.
func (l *lost) has(host []byte) bool {
	if l.exactly[string(host)] {
		return true
	}
	for len(l.below) > 0 {
		if l.below[string(host)] {
			return true
		}
		if host[0] == 0 {
			return false
		}
		host = suffix(host, 1)
	}
	return false
}
