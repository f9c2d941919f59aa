package enrol

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/coredns/caddy/caddyfile"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/directives"
)

// Doubts are the plugins in the Corefile of a member's bundle by which this project's coredns would not start, each with the line and the
// reason: the template is an operator's to change, and another coredns may have other plugins. What is wrong with the file in other ways
// only the node finds, whose files it may import. There are none where the bundle has no Corefile.
func Doubts(h place, member string) (all []string) {
	text, err := depot.ReadFile(h.Path(nodesDir, member), corefileName, maxFactsBytes)
	if err != nil {
		return nil
	}
	blocks, err := caddyfile.Parse(corefileName, bytes.NewReader(text), nil)
	if err != nil {
		return nil
	}
	for _, b := range blocks {
		for _, name := range slices.Sorted(maps.Keys(b.Tokens)) {
			if why := directives.Refuses(directives.This, directives.Shipped, name, len(b.Tokens["sharedunicast"]) > 0); why != "" {
				all = append(all, fmt.Sprintf("line %d: %s", b.Tokens[name][0].Line, why))
			}
		}
	}
	return all
}
