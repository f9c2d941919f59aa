package sharedunicast

import (
	"regexp"
	"strings"
	"testing"

	"github.com/coredns/caddy"
)

func mustMatch(t *testing.T, err error, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(err.Error()) {
		t.Errorf("error is\n\t%v\nwant one that matches\n\t%s", err, pattern)
	}
}

// Everything that the Corefile as a whole must not say (HOST-2, HOST-3). PORT is a free port, TESTZONE a zone file.
func TestCorefileIsRefused(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"bind in the same block", `
			example.org:PORT {
				sharedunicast 127.0.0.1
				bind 127.0.0.2
			}`, "Corefile:4: bind cannot be in a server block with sharedunicast"},
		{"a resolver in the same block", `
			.:PORT {
				sharedunicast 127.0.0.1
				forward . 127.0.0.9
			}`, "Corefile:4: forward cannot .* resolver"},
		{"a cache in the same block", `
			.:PORT {
				sharedunicast 127.0.0.1
				cache
			}`, "Corefile:4: cache cannot .* outlives a switchover"},
		{"transfer in the same block", `
			example.org:PORT {
				sharedunicast 127.0.0.1
				file TESTZONE
				transfer {
					to *
				}
			}`, "Corefile:5: transfer cannot .* block bound to the administrative address"},
		{"DNS over HTTPS", `
			https://example.org:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:3: .*does not serve https://"},
		{"DNS over gRPC beside plain DNS", `
			example.org:PORT grpc://example.org {
				sharedunicast 127.0.0.1
			}`, "Corefile:3: .*does not serve grpc://"},
		{"DNS over QUIC", `
			quic://example.org:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:3: .*does not serve quic://"},
		{"DNS over HTTP/3", `
			https3://example.org:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:3: .*does not serve https3://"},
		{"DNS over TLS without a certificate", `
			tls://example.org:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:3: tls:// on 127.0.0.1:[0-9]+ without a certificate"},
		{"a block on every address", `
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}
			example.net:OTHER {
				whoami
			}`, "Corefile:8: server block example.net:[0-9]+ .* administrative address 127.0.0.7: it listens on every address"},
		{"a block on every address, no administrative address given", `
			example.org:PORT {
				sharedunicast 127.0.0.1
			}
			example.net:OTHER {
				whoami
			}`, "Corefile:6: .* shared-unicast address 127.0.0.1 without sharedunicast"},
		{"a block on every IPv4 address", `
			example.net:PORT {
				bind 0.0.0.0
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:3: .* administrative address 127.0.0.7"},
		{"a block on every address of both families", `
			example.net:PORT {
				bind ::
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:3: .* administrative address 127.0.0.7"},
		{"a block on an interface with the administrative address", `
			example.net:PORT {
				bind LOOPBACK
			}
			example.org:PORT {
				sharedunicast 192.0.2.53 {
					admin 127.0.0.1
				}
			}`, "Corefile:3: .* administrative address 127.0.0.1"},
		{"a block on the administrative address", `
			example.net:PORT {
				bind 127.0.0.8 127.0.0.7
				file TESTZONE
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:3: .* administrative address 127.0.0.7: bind it to another, or make it a transfer-only block"},
		{"transfer on the administrative address without authentication", `
			example.net:PORT {
				bind 127.0.0.7
				file TESTZONE
				transfer {
					to *
				}
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:3: .* with transfer and with tsig or tls"},
		{"a transfer-only block on every address", `
			example.net:PORT {
				file TESTZONE
				tsig {
					secret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=
				}
				transfer {
					to *
				}
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:3: .* listens on every address"},
		{"a transfer-only block that also answers by itself", `
			example.net:PORT {
				bind 127.0.0.7
				file TESTZONE
				tsig {
					secret k. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=
				}
				transfer {
					to *
				}
				whoami
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:11: whoami cannot be in a transfer-only block: it answers for every name"},
		{"DNS over HTTPS on the administrative address", `
			https://example.net:PORT {
				bind 127.0.0.7
			}
			example.org:PORT {
				sharedunicast 127.0.0.1 {
					admin 127.0.0.7
				}
			}`, "Corefile:3: .* administrative address 127.0.0.7"},
		{"another port of the shared address without sharedunicast", `
			example.net:OTHER {
				bind 127.0.0.1
			}
			example.org:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:3: .* shared-unicast address 127.0.0.1 without sharedunicast"},
		{"shared here and administrative there", `
			example.org:PORT {
				sharedunicast 127.0.0.1
			}
			example.net:PORT {
				sharedunicast 127.0.0.2 {
					admin 127.0.0.1
				}
			}`, "Corefile:3: 127.0.0.1 is a shared and an administrative address"},
		{"one zone twice on a listener", `
			example.org:PORT {
				sharedunicast 127.0.0.1
			}
			example.org:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:6: example.org. is already served on 127.0.0.1"},
		{"port 0, which would be two of the kernel's choice", `
example.org:0 {
    sharedunicast 127.0.53.1
    file TESTZONE
}`, `Corefile:3: port "0" of the server block is none from 1 to 65535`},
		{"two transports on a listener", `
			example.org:PORT {
				sharedunicast 127.0.0.1
			}
			tls://example.net:PORT {
				sharedunicast 127.0.0.1
			}`, "Corefile:6: both dns:// and tls:// on 127.0.0.1"},
		{"an error in the second block", `
			example.org:PORT {
				sharedunicast 127.0.0.1
			}
			example.net:PORT {
				sharedunicast 127.0.0.2 {
					administrator 127.0.0.1
				}
			}`, "Corefile:7 .*unknown property 'administrator'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			text := strings.NewReplacer("OTHER", freePort(t), "PORT", port, "TESTZONE", zoneFile(t), "LOOPBACK", loopbackName(t)).Replace(test.text)
			before := heldSockets()
			inst, err := caddy.Start(input(text))
			if err == nil {
				inst.Stop()
				t.Fatal("was accepted")
			}
			mustMatch(t, err, test.want)
			if after := heldSockets(); after != before {
				t.Errorf("%d sockets left open", after-before)
			}
		})
	}
}

func heldSockets() int {
	sockets.Lock()
	defer sockets.Unlock()
	n := 0
	for _, held := range sockets.held {
		n += len(held)
	}
	return n
}
