package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

// nodeAnswer is what one address said of who answers there.
type nodeAnswer struct {
	Address string        `json:"address"`
	Network string        `json:"network"`             // "udp" or "tcp"
	NSID    string        `json:"nsid,omitempty"`      // RFC 5001, of a query for SOA
	ID      string        `json:"id_server,omitempty"` // RFC 4892
	Version string        `json:"version,omitempty"`   // version.server
	Serial  *uint32       `json:"serial,omitempty"`    // of --zone
	RTT     time.Duration `json:"round_trip_ns"`       // of the first answer
	Error   string        `json:"error,omitempty"`     // why there is none
}

// whichTimeout is how long one question waits for its answer.
const whichTimeout = 2 * time.Second

func (c *cli) whichNodeCommand() *cobra.Command {
	var zone string
	cmd := c.withJSON(&cobra.Command{
		Use:   "which-node ADDRESS...",
		Short: "Ask a shared address which node answers here: NSID, CHAOS id.server, over UDP and TCP",
		Long: `Ask a shared address which node answers here, over UDP and TCP: the name server identifier (RFC 5001) and the CHAOS
names id.server and version.server (RFC 4892). With --zone, which serial it serves too. UDP and TCP answered by different
nodes mean that a router spreads packets over equal paths to different sites (RFC 3258 2.5).

Exit status 1: an address gave no answer, or two nodes answered for one.`,
		Args: usage.Some,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error { return c.whichNode(cmd.Context(), zone, args) }),
	})
	cmd.Flags().StringVar(&zone, "zone", "", "ask for this zone's SOA, and print its serial")
	completeFlag(cmd, "zone", c.zones())
	return cmd
}

func (c *cli) whichNode(ctx context.Context, zone string, addresses []string) error {
	var all []nodeAnswer
	var faults []error
	for _, address := range addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(strings.Trim(address, "[]"), "53")
		}
		var names []string
		for _, network := range []string{"udp", "tcp"} {
			a := askNode(ctx, network, address, zone)
			all = append(all, a)
			if a.Error != "" {
				faults = append(faults, fmt.Errorf("%s over %s: %s", address, network, a.Error))
			} else {
				names = append(names, a.name())
			}
		}
		if len(names) == 2 && names[0] != names[1] {
			faults = append(faults, fmt.Errorf("%s: %s answers over UDP, %s over TCP", address, names[0], names[1]))
		}
	}
	err := c.print(all, func() {
		for _, a := range all {
			if a.Error == "" {
				c.say("%s %s  %s", a.Address, a.Network, a.words())
			}
		}
	})
	return errors.Join(append(faults, err)...)
}

func (a nodeAnswer) name() string { return cmp.Or(a.ID, a.NSID, "a server without a name") }

func (a nodeAnswer) words() string {
	words := []string{a.name()}
	if a.NSID != "" && a.NSID != a.name() {
		words = append(words, "nsid "+a.NSID)
	}
	if a.Serial != nil {
		words = append(words, fmt.Sprintf("serial %d", *a.Serial))
	}
	if a.Version != "" {
		words = append(words, a.Version)
	}
	return strings.Join(append(words, a.RTT.Round(time.Microsecond).String()), ", ")
}

// askNode asks one address over one transport.
func askNode(ctx context.Context, network, address, zone string) nodeAnswer {
	a := nodeAnswer{Address: address, Network: network}
	client := &dns.Client{Net: network, Timeout: whichTimeout, UDPSize: 1232}
	soa := new(dns.Msg).SetQuestion(dns.Fqdn(cmp.Or(zone, ".")), dns.TypeSOA)
	soa.RecursionDesired = false
	soa.SetEdns0(1232, false)
	soa.IsEdns0().Option = append(soa.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
	r, rtt, err := client.ExchangeContext(ctx, soa, address)
	if failed := new(net.OpError); errors.As(err, &failed) { // it names the addresses, which are said anyway
		err = failed.Err
		if failed.Timeout() {
			err = fmt.Errorf("no answer within %v", whichTimeout)
		}
	}
	if err != nil {
		a.Error = err.Error()
		return a
	}
	a.RTT, a.NSID = rtt, nsidOf(r)
	if zone != "" {
		if a.Serial = serialOf(r, dns.Fqdn(zone)); a.Serial == nil {
			a.Error = fmt.Sprintf("%s has no answer for %s SOA: %s", cmp.Or(a.NSID, "it"), zone, dns.RcodeToString[r.Rcode])
		}
	}
	a.ID, a.Version = chaos(ctx, client, address, "id.server."), chaos(ctx, client, address, "version.server.")
	return a
}

// nsidOf is the name server identifier as text, or in hexadecimal if it is none.
func nsidOf(r *dns.Msg) string {
	opt := r.IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		n, ok := o.(*dns.EDNS0_NSID)
		if !ok {
			continue
		}
		text, err := hex.DecodeString(n.Nsid)
		if err != nil || strings.ContainsFunc(string(text), func(r rune) bool { return r < ' ' || r > '~' }) {
			return n.Nsid
		}
		return string(text)
	}
	return ""
}

func serialOf(r *dns.Msg, zone string) *uint32 {
	for _, rr := range r.Answer {
		if soa, ok := rr.(*dns.SOA); ok && strings.EqualFold(soa.Hdr.Name, zone) {
			return &soa.Serial
		}
	}
	return nil
}

// chaos is the text at a CHAOS name, "" if there is none (RFC 4892).
func chaos(ctx context.Context, client *dns.Client, address, name string) string {
	q := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
	q.RecursionDesired = false
	q.Question[0].Qclass = dns.ClassCHAOS
	r, _, err := client.ExchangeContext(ctx, q, address)
	if err != nil {
		return ""
	}
	for _, rr := range r.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			// What is printed must not steer a terminal.
			return strings.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return '?'
				}
				return r
			}, strings.Join(txt.Txt, " "))
		}
	}
	return ""
}
