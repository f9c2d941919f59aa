package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
)

const origin = "bench."

var syllables = strings.Fields("ka shi to mi na ro ku ha yo se re do pa tu wi gem lor zan bel fin")

func label(r *rand.Rand, i int) string {
	var b strings.Builder
	for range 2 + r.IntN(3) {
		b.WriteString(syllables[r.IntN(len(syllables))])
	}
	fmt.Fprintf(&b, "%x", i)
	return b.String()
}

// zoneNames are what queries are made of. Those that are secure are delegations with a DS record.
type zoneNames struct{ delegations, hosts, secure []string }

// writeZone writes a zone like that of a TLD: of 50 names one is a host with three records; of ten delegations one has
// two servers of its own with glue and one a DS record, the others share the servers of 5000 operators. Zones of
// different serials differ in one delegation of a hundred.
func writeZone(out io.Writer, names int, serial uint32) (zoneNames, error) {
	r := rand.New(rand.NewPCG(3258, 0))
	w := bufio.NewWriterSize(out, 1<<20)
	fmt.Fprintf(w, "$ORIGIN %s\n$TTL 86400\n@ IN SOA ns1.dns hostmaster %d 3600 900 1814400 900\n", origin, serial)
	for i := 1; i <= 6; i++ {
		fmt.Fprintf(w, "@ IN NS ns%d.dns\nns%d.dns IN A 203.0.113.%d\nns%d.dns IN AAAA 2001:db8:d::%x\n", i, i, i, i, i)
	}
	fmt.Fprint(w, "@ IN MX 10 mail\nmail IN A 192.0.2.25\n@ IN TXT \"bench zone\"\n*.wild IN A 192.0.2.99\nalias IN CNAME mail\n")
	var all zoneNames
	digest := make([]byte, 32)
	for i := range names {
		n := label(r, i)
		if i%50 == 0 {
			all.hosts = append(all.hosts, n)
			fmt.Fprintf(w, "%s 3600 IN A 198.51.%d.%d\n%s 3600 IN AAAA 2001:db8:%x:%x::1\n%s 3600 IN TXT \"v=spf1 -all\"\n",
				n, i>>8&255, i&255, n, i>>16, i&0xffff, n)
			continue
		}
		all.delegations = append(all.delegations, n)
		if i%10 == 1 {
			fmt.Fprintf(w, "%s IN NS ns1.%s\n%s IN NS ns2.%s\nns1.%s IN A 198.18.%d.%d\nns2.%s IN AAAA 2001:db8:beef:%x::2\n",
				n, n, n, n, n, i>>8&255, i&255, n, i&0xffff)
		} else {
			pool := r.IntN(5000)
			if i%100 == 5 {
				pool = (pool + int(serial)) % 5000
			}
			fmt.Fprintf(w, "%s IN NS a.pool%d.example.\n%s IN NS b.pool%d.example.\n", n, pool, n, pool)
		}
		if i%10 == 3 {
			all.secure = append(all.secure, n)
			for j := range digest {
				digest[j] = byte(r.Uint32())
			}
			fmt.Fprintf(w, "%s IN DS %d 13 2 %s\n", n, i&0xffff, strings.ToUpper(hex.EncodeToString(digest)))
		}
	}
	return all, w.Flush()
}

// query is a question, in 70 of 100 cases for a name at or below a delegation, in 15 for a host and in 15 for a name that
// does not exist.
func (n zoneNames) query(r *rand.Rand) (name, qtype string) {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	switch x := r.IntN(100); {
	case x < 70:
		return pick("", "www.", "mail.") + pick(n.delegations...) + "." + origin, pick("A", "AAAA", "MX")
	case x < 85:
		return pick(n.hosts...) + "." + origin, pick("A", "AAAA", "TXT")
	}
	return "no" + label(r, r.IntN(1_000_000_000)) + "." + origin, "A"
}

// writeQueries writes a query file for dnsperf.
func (n zoneNames) writeQueries(path string, count int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	r := rand.New(rand.NewPCG(1, 2))
	for range count {
		name, qtype := n.query(r)
		fmt.Fprintln(w, name, qtype)
	}
	return w.Flush()
}

// writeTorture writes a query file of names that do not exist, each asked once: a "water torture" as resolvers pass it on.
func writeTorture(path string, count int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	r := rand.New(rand.NewPCG(7, 8))
	for range count {
		fmt.Fprintf(w, "%s%x.%s A\n", label(r, r.IntN(1<<30)), r.Uint32(), origin)
	}
	return w.Flush()
}
