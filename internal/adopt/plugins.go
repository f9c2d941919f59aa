package adopt

// carried are the plugins that nodes can have as well, with the same words.
var carried = map[string]string{
	"acl":         "it must let in the shared address, from which anycast-sidecar's probe asks; if it does not, put allow net ADDRESS first in it, in HOME/templates/Corefile",
	"bufsize":     "",
	"cancel":      "",
	"chaos":       "it answers for the version and the authors; meshsync answers for the node's name",
	"debug":       "",
	"dnstap":      "property dnstap of sharedunicast does the same at less cost",
	"errors":      "",
	"loadbalance": "",
	"log":         "",
	"metadata":    "",
	"multisocket": "",
	"shed":        "",
	"timeouts":    "",
}

// elsewhere are the plugins whose work something else of a mesh does.
var elsewhere = map[string]string{
	"bind":       "nodes answer on the addresses that meshctl init --shared names, by sharedunicast; the old server keeps its own until it is taken out",
	"health":     "anycast-sidecar asks the DNS service itself, and shows what it found: anycast-sidecar status, and its metrics",
	"nsid":       "each node has its own name there (ADMIN-1)",
	"pprof":      "put it into HOME/templates/Corefile with an address of the node, if you need it there",
	"prometheus": "nodes have it on loopback; anycast-sidecar shows it over mutual TLS",
	"ready":      "anycast-sidecar asks the DNS service itself; put it into HOME/templates/Corefile with {{.AdminAddress}}, if something asks for it",
	"reload":     "nodes have it, with its default",
	"root":       "zone files have absolute paths here",
}

// absent are the plugins that do what a mesh does not do, and why.
var absent = map[string]string{
	"any":          "its answer to a query for ANY is not authoritative; nodes answer such a query themselves",
	"autopath":     "it answers for names of other zones",
	"azure":        "nodes answer from zone files and transfers: have the zone written to a file, or transferred",
	"cache":        "a cached answer outlives a switchover; nodes answer from memory anyway",
	"clouddns":     "nodes answer from zone files and transfers: have the zone written to a file, or transferred",
	"dns64":        "it makes up answers from what a resolver says",
	"dnssec":       "nodes hold no keys: have a signer sign the zone, and take it in by transfer or as a file",
	"dynupdate":    "an update would change the zone on one node only: update a hidden primary, and take the zone in by transfer",
	"erratic":      "it delays, drops and truncates answers",
	"etcd":         "nodes answer from zone files and transfers: have the zone written to a file, or transferred",
	"forward":      "a resolver has no place on a shared address: leave it on a server of its own",
	"geoip":        "all nodes give the same answers",
	"grpc":         "a proxy has no place on a shared address: leave it on a server of its own",
	"grpc_server":  "nodes answer over UDP, TCP and TLS",
	"header":       "it changes the flags by which an authoritative answer is known",
	"hosts":        "it answers from no zone: put the names into one",
	"https":        "nodes answer over UDP, TCP and TLS",
	"https3":       "nodes answer over UDP, TCP and TLS",
	"k8s_external": "nodes answer from zone files and transfers: leave it on a server of its own",
	"kubernetes":   "nodes answer from zone files and transfers: leave it on a server of its own",
	"local":        "it answers for names of localhost without authority",
	"loop":         "it watches for loops of forwarders, which nodes are not",
	"minimal":      "it takes the NSEC records out of answers by a wildcard, which validators then refuse; nodes' answers are short anyway",
	"nomad":        "nodes answer from zone files and transfers: leave it on a server of its own",
	"on":           "nodes start no programs: use the units of systemd",
	"proxyproto":   "clients speak to nodes themselves",
	"quic":         "nodes answer over UDP, TCP and TLS",
	"rewrite":      "it changes names and data of answers, whose signatures are wrong after that",
	"route53":      "nodes answer from zone files and transfers: have the zone written to a file, or transferred",
	"sign":         "nothing here signs: have a signer sign the zone, and take it in by transfer or as a file",
	"siit":         "it makes up answers from what a resolver says",
	"template":     "it answers from no zone: put the names into one; wildcards and $GENERATE are known",
	"trace":        "nodes have metrics and dnstap",
	"whoami":       "it answers for every name, whatever the zone says",
}

// transports are those of server blocks' keys that nodes do not have as such.
var transports = map[string]string{
	"tls":    "its block answers from no zone",
	"https":  absent["https"],
	"https3": absent["https3"],
	"quic":   absent["quic"],
	"grpc":   absent["grpc_server"],
	"unix":   "nodes answer on the shared address",
}
