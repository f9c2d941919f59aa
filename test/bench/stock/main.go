// Command stock is CoreDNS with its own plugin file and nothing of ours: a peer for the bench.
package main

import (
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
)

func main() { coremain.Run() }
