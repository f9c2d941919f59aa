// Package directives knows which directives a Corefile of a node may have: those of the plugins that cmd/coredns has, and of these
// which are refused on a shared-unicast address. It has names and reasons only and imports nothing, so that the sidecar, which never
// links CoreDNS, judges a Corefile by the same tables as CoreDNS. cmd/coredns, plugin/sharedunicast, sidecar/corefile and, for bundles,
// cmd/meshctl/internal/enrol call it.
package directives

// Shipped are the plugins of cmd/coredns in the order in which a query passes them, which is that of CoreDNS's plugin.cfg.
var Shipped = []string{
	"root",
	"metadata",
	"cancel",
	"timeouts",
	"multisocket",
	"reload",
	"nsid",
	"bufsize",
	"bind",
	"debug",
	"ready",
	"health",
	"pprof",
	"shed",
	"sharedunicast", // before all that answers, and before prometheus, like shed
	"prometheus",
	"errors",
	"log",
	"dnstap",
	"local",
	"any",
	"chaos",
	"loadbalance",
	"tsig",
	"acl",
	"header",
	"tls",
	"minimal",
	"transfer",
	"meshsync", // just before file
	"file",
	"auto",
	"secondary",
	"whoami",
	"view",
}

// Unfit names the directives that can be neither in a server block with sharedunicast nor in a transfer-only block, since
// what they answer, or make of an answer, is not what the zone says; and why. A test walks all plugins of cmd/coredns.
var Unfit = map[string]string{
	"forward":   "a resolver has no place on such an address",
	"grpc":      "a proxy has no place on such an address",
	"proxy":     "a proxy has no place on such an address",
	"fanout":    "a proxy has no place on such an address",
	"alternate": "a proxy has no place on such an address",
	"unbound":   "a resolver has no place on such an address",
	"recursor":  "a resolver has no place on such an address",
	"autopath":  "it answers for names of other zones",
	"dns64":     "it makes up answers from what a resolver says",
	"siit":      "it makes up answers from what a resolver says",
	"cache":     "a cached answer outlives a switchover",
	"dynupdate": "an update would change the zone on one node of the mesh only",
	"minimal":   "it takes the NSEC records out of answers by a wildcard, which validators then refuse, and cuts transfers short",
	"any":       "its answer to a query for ANY is not authoritative, so it would leave as REFUSED",
	"whoami":    "it answers for every name, whatever the zone says",
	"local":     "it answers for names that begin or end in localhost without authority, so they would leave as REFUSED",
	"header":    "it changes the flags by which an authoritative answer is known",
	"erratic":   "it delays, drops and truncates answers",
	"rewrite":   "it changes names and data of answers, whose signatures are wrong after that",
}

// UnfitShared names the directives that cannot be in a server block with sharedunicast, and why.
var UnfitShared = map[string]string{
	"transfer":   "zone transfer is refused on a shared-unicast address; put it into a block bound to the administrative address",
	"bind":       "the shared addresses are what the block listens on",
	"proxyproto": "it has no effect on the sockets of a shared-unicast address",
}
