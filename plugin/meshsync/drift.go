package meshsync

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/caddy"
)

// corefileDigest is the SHA-256 of the Corefile being loaded without what must differ from node to node, so that equal
// digests mean nodes that are set up alike (DRIFT-1).
func corefileDigest(node string) string {
	instances := caddy.Instances()
	if len(instances) == 0 {
		return ""
	}
	file := instances[len(instances)-1].Caddyfile()
	if file == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(alike(string(file.Body()), node)))
	return hex.EncodeToString(sum[:])
}

// alike is a Corefile without comments, indentation, the node's name, and the administrative addresses that its blocks
// name, wherever these stand.
func alike(corefile, node string) string {
	var lines [][]string
	var own []string
	for line := range strings.Lines(corefile) {
		words := strings.Fields(line)
		if i := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' }); i >= 0 {
			words = words[:i]
		}
		if len(words) == 0 {
			continue
		}
		if words[0] == "admin" {
			own = append(own, words[1:]...)
		}
		lines = append(lines, words)
	}
	var b strings.Builder
	for _, words := range lines {
		for _, w := range words {
			switch {
			case w == node:
				w = "NODE"
			case slices.Contains(own, hostOf(w)):
				w = strings.Replace(w, hostOf(w), "ADMIN", 1)
			}
			b.WriteString(w + " ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// hostOf is the address in ADDRESS or ADDRESS:PORT, otherwise the word itself.
func hostOf(word string) string {
	if a, err := netip.ParseAddrPort(word); err == nil {
		return a.Addr().String()
	}
	return word
}
