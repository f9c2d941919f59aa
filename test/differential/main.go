// Command differential compares our answers with those of NSD, Knot, BIND and PowerDNS over random zones, unsigned and
// signed in three ways, and random questions:
//
//	go run ./test/differential                              # 100,000 questions over 500 zones of each flavour
//	go run ./test/differential -seed 7 -flavours optout -zones 100 -queries 20000
//
// Zones come in batches, of which all servers have the zones at once. Ours is the zone engine, called directly, with zones
// that zone.Apply made of earlier versions step by step (-steps), and for a share of the questions the real coredns (-wire),
// which reads the files. Responses are compared section by section, see normal. Where we differ
// from the majority of the others, one of the deviations must say why, with its RFC section. If none does, the zones and
// the question are made as small as they can be (-shrink), printed with everybody's answer, and the command fails.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

func main() {
	o := options{seed: 2026, zones: 500, queries: 100_000, batch: 50, wire: 0.1, steps: 3, shrink: 3}
	names := flag.String("flavours", strings.Join(zonegen.Flavours, ","), "how zones are signed")
	flag.Var(number.Uint64(&o.seed, 0, math.MaxUint64), "seed", "of the random zones and questions")
	flag.Var(number.Int(&o.zones, 1, 1_000_000), "zones", "zones of each flavour")
	flag.Var(number.Int(&o.queries, 1, 1_000_000_000), "queries", "questions of each flavour")
	flag.Var(number.Int(&o.batch, 1, 10_000), "batch", "zones that the servers have at one time")
	flag.Var(number.Float(&o.wire, 0, 1), "wire", "share of the questions that are put to the real coredns")
	flag.Var(number.Int(&o.steps, 0, 1000), "steps", "in how many steps a zone is made of an earlier version, 0 for one built at once")
	flag.Var(number.Int(&o.shrink, 0, 1000), "shrink", "how many unexplained deviations of a flavour are made small")
	flag.StringVar(&o.bin, "bin", "bin", "directory of coredns and meshctl")
	flag.Parse()
	o.flavours = strings.Split(*names, ",")
	if abs, err := filepath.Abs(o.bin); err == nil { // servers run in directories of their own
		o.bin = abs
	}
	failed, err := run(o, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}
