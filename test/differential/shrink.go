package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// reproduce makes the zones of a failure as small as they can be with the difference still there, and prints them. Each
// attempt signs the zones anew and asks servers that were started anew.
func (o *options) reproduce(dir string, out io.Writer, f *failure) error {
	zones := f.zones
	fails := func(zones []zonegen.Source) (verdict, bool) {
		v, err := o.again(dir, zones, f.question)
		return v, err == nil && (v.differs || v.err != nil)
	}
	last, ok := fails(zones)
	if !ok {
		fmt.Fprintf(out, "not to be had again: %s\n", &f.verdict)
		return nil
	}
	zones = shrink(zones, func(zones []zonegen.Source) bool {
		v, bad := fails(zones)
		if bad {
			last = v
		}
		return bad
	})
	for i := range zones {
		i := i
		records := zones[i].Lines[1:]
		zones[i].Lines = append(zones[i].Lines[:1:1], shrink(records, func(lines []string) bool {
			attempt := slices.Clone(zones)
			attempt[i].Lines = append(attempt[i].Lines[:1:1], lines...)
			v, bad := fails(attempt)
			if bad {
				last = v
			}
			return bad
		})...)
	}
	fmt.Fprintf(out, "\nMINIMAL REPRODUCTION\n")
	for _, z := range zones {
		fmt.Fprintf(out, "; zone %s, %+v\n%s", z.Origin, z.Recipe, z.Text())
	}
	fmt.Fprintf(out, "%s\n", &last)
	return nil
}

// shrink leaves out as many elements as it can with the condition still holding: halves first, then smaller pieces
// (delta debugging).
func shrink[T any](all []T, holds func([]T) bool) []T {
	for size := (len(all) + 1) / 2; size > 0; {
		removed := false
		for at := 0; at < len(all); {
			without := slices.Concat(all[:at], all[min(at+size, len(all)):])
			if holds(without) {
				all, removed = without, true
			} else {
				at += size
			}
		}
		if size == 1 && !removed {
			break
		}
		if size > 1 {
			size = (size + 1) / 2
		}
	}
	return all
}

// again asks one question of servers that have just these zones.
func (o *options) again(dir string, zones []zonegen.Source, q question) (verdict, error) {
	if len(zones) == 0 || slices.ContainsFunc(zones, func(s zonegen.Source) bool { return !hasNS(s) }) {
		return verdict{}, errors.New("a zone without servers is none that all would load")
	}
	u, err := o.prepare(dir, zones)
	if err != nil {
		return verdict{}, err
	}
	defer u.stop()
	launchers := peers
	if q.wire {
		launchers = append(slices.Clone(peers), coredns(o.bin))
	}
	if err := u.start(launchers, 10*time.Second); err != nil {
		return verdict{}, err
	}
	clients := u.clients()
	defer closeAll(clients)
	return u.judge(clients, q), nil
}

// hasNS reports whether a zone has NS records at its apex.
func hasNS(s zonegen.Source) bool {
	return slices.ContainsFunc(s.Lines, func(line string) bool {
		owner, rest, _ := strings.Cut(line, " ")
		return strings.EqualFold(owner, s.Origin) && strings.Contains(rest, " IN NS ") // the origin that was loaded is in lower case
	})
}
