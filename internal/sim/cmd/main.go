// Command sim runs histories of whole meshes, each told by its seed, and tells the story of one that goes wrong.
//
//	sim [-seeds N] [-from S] [-nodes N] [-class none|single|many|lies|mixed] [-story]
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/sim"
)

func main() {
	seeds, from, nodes, scale := uint64(1000), uint64(1), 0, 0
	flag.Var(number.Uint64(&seeds, 0, math.MaxUint64), "seeds", "how many histories")
	flag.Var(number.Uint64(&from, 0, math.MaxUint64), "from", "the first seed")
	flag.Var(number.Int(&nodes, 0, 100_000), "nodes", "how many members; 0: 1 to 7, by the seed")
	class := flag.String("class", "mixed", "none, single, many, lies or mixed")
	story := flag.Bool("story", false, "tell the story of each history")
	keep := flag.Bool("keep-going", false, "go on after a history that went wrong")
	fast := flag.Bool("fast", false, "end at the first history that goes wrong, without its story")
	flag.Var(number.Int(&scale, 0, 1_000_000), "scale", "a mesh of -nodes that makes so many switchovers")
	flag.Parse()
	classes := map[string][]sim.Class{"none": {sim.None}, "single": {sim.Single}, "many": {sim.Many}, "lies": {sim.Lies},
		"mixed": {sim.Single, sim.Many, sim.None, sim.Many, sim.Single, sim.Many, sim.Lies, sim.Many}}[*class]
	if classes == nil {
		flag.Usage()
		os.Exit(2)
	}
	began, wrong := time.Now(), 0
	var sum sim.Counts
	rules := map[string]int{}
	for i := range seeds {
		seed := from + i
		settings, plan := sim.Draw(seed, classes[seed%uint64(len(classes))], nodes)
		if scale > 0 {
			settings, plan = sim.Scale(seed, nodes, scale)
		}
		var tell func(time.Duration, string)
		if *story {
			tell = print
		}
		w, v := sim.Play(settings, plan, tell)
		sum.Add(w.Count)
		if v == nil {
			continue
		}
		wrong++
		rules[v.Rule]++
		fmt.Printf("seed %d class %v: %v\n", seed, settings.Class, v)
		if *fast {
			break
		}
		if !*keep {
			short, v := sim.Shrink(settings, plan, v)
			fmt.Printf("\nshortest history of this kind: %v\n%+v\n", v, settings)
			sim.Play(settings, short, print)
			break
		}
	}
	took := time.Since(began)
	fmt.Printf("%d histories from seed %d, class %s, nodes %d: %d wrong %v; %+v; %v, %v each\n", seeds, from, *class, nodes, wrong, rules, sum,
		took.Round(time.Millisecond), (took / time.Duration(max(seeds, 1))).Round(time.Microsecond))
	if wrong > 0 {
		os.Exit(1)
	}
}

func print(at time.Duration, line string) { fmt.Printf("%12.6f  %s\n", at.Seconds(), line) }
