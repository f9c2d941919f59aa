package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/remedy"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

func statusCommand() *cobra.Command {
	var o orders
	var asJSON, ready bool
	cmd := &cobra.Command{
		Use:   "status {FILE | --node HOST:PORT --identity DIR}",
		Short: "Ask a sidecar how its node is: announced or not, why, to whom",
		Long: `Ask a sidecar how its node is: the one here, which runs with the configuration FILE, or that of another node over mutual TLS, as an
operator or observer whose bundle ("meshctl operator add") is unpacked in DIR.

With --ready the exit status is 1 unless the node is in service: its route is announced, it answers, and it is not drained. That is
for whoever goes on with the next node after this one. It is no reason to restart anything: a node may be silent on purpose.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			doc, err := o.status(ctx, args)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				e.SetEscapeHTML(false)
				err = e.Encode(doc)
			} else {
				sayStatus(cmd.OutOrStdout(), doc, time.Now())
			}
			if err == nil && ready && !inService(doc) {
				err = errors.New("the node is not in service")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the document at /v1/status")
	cmd.Flags().BoolVar(&ready, "ready", false, "exit status 1 unless the node is in service")
	o.flags(cmd)
	return cmd
}

// status is the document of the sidecar that flags and arguments name.
func (o *orders) status(ctx context.Context, args []string) (doc status.Sidecar, err error) {
	switch {
	case (o.node == "") == (len(args) == 0):
		return doc, fmt.Errorf("%w: which node? Give the FILE that the sidecar here runs with, or --node HOST:PORT", errUsage)
	case o.node != "":
		p, err := remote(o.node, o.identity)
		if err != nil {
			return doc, err
		}
		return doc, p.ask(ctx, http.MethodGet, "/v1/status", nil, &doc)
	}
	c, err := config.Load(args[0])
	if err != nil {
		return doc, err
	}
	if c.Socket == "" {
		return doc, errors.New("the configuration names no socket, so its sidecar cannot be asked: add socket: unix:///run/mesh/sidecar.sock")
	}
	var said socketDocument[status.Sidecar]
	if err := socket.Read(ctx, c.Socket, &said); err != nil {
		return doc, unheard(err)
	}
	doc = said.Sidecar
	if c.Meshsync != "" { // which the socket leaves out
		var node status.Node
		if socket.Read(ctx, c.Meshsync, &node) == nil {
			doc.Meshsync = &node
		}
	}
	return doc, nil
}

// inService reports whether clients get answers of this node: its route is there, and its service is good.
func inService(doc status.Sidecar) bool { return doc.Announced && has(doc.Why, gate.Ready) }

// statusLabel is how many columns the names of things take.
const statusLabel = 10

// sayStatus says in words what a status document holds, at the time now.
func sayStatus(w io.Writer, doc status.Sidecar, now time.Time) {
	state := map[bool]string{true: "announced", false: "not announced"}[doc.Announced]
	switch since := ago(now.Sub(doc.Since)); {
	case has(doc.Why, NotTold):
		state += ", as was decided " + since + " ago: no router has been told"
	case has(doc.Why, StillTold):
		state += ": that it is withdrawn was decided " + since + " ago"
	default:
		state += " for " + since
	}
	fmt.Fprintf(w, "%s: %s\n", doc.Node, state)
	say := func(label string, lines ...string) {
		for i, line := range lines {
			if i > 0 {
				label = ""
			}
			fmt.Fprintln(w, terminal.Wrap(fmt.Sprintf("%-*s", statusLabel, label), line, statusLabel+2))
		}
	}
	say("why", reasons(doc.Why)...)
	say("to do", toDo(allReasons(doc))...)
	say("warning", reasons(warningsOf(doc))...)
	if doc.Fault != "" {
		say("fault", "the routes are not as decided: "+doc.Fault)
	}
	if doc.Drain != nil {
		say("drain", doc.Drain.String())
	}
	say("probe", probeLines(doc.Probes)...)
	for _, s := range doc.Sessions {
		say("bgp", sessionLine(s))
	}
	if doc.IGP != nil {
		say("igp", fmt.Sprintf("%s: %s", doc.IGP.Interface, orNothing(doc.IGP.Announced)))
	}
	say("clock", clockLine(doc.Clock))
	if doc.Clock.State == clock.Holdover {
		say("", "to do: "+remedy.For(status.ClockHoldover).Do)
	}
	say("meshsync", meshsyncLines(doc.Meshsync)...)
	say("mirror", mirrorLines(doc.Mirror, now)...)
}

// allReasons are those of the route, and of meshsync's silence, which come first: they are the cause. Warnings come last.
func allReasons(doc status.Sidecar) []status.Reason {
	all := slices.Concat(doc.Why, warningsOf(doc))
	if doc.Meshsync == nil {
		return all
	}
	return slices.Concat(doc.Meshsync.Silent, all)
}

// warningsOf are those of the sidecar and of meshsync.
func warningsOf(doc status.Sidecar) []status.Reason {
	if doc.Meshsync == nil {
		return doc.Warnings
	}
	return slices.Concat(doc.Meshsync.Warnings, doc.Warnings)
}

// toDo is what to do about each reason, once; nothing about the service being good.
func toDo(all []status.Reason) (lines []string) {
	for _, r := range all {
		line := r.Code + ": " + remedy.For(r.Code).Do
		if r.Code != gate.Ready && remedy.For(r.Code).Do != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

func has(all []status.Reason, code string) bool {
	return slices.ContainsFunc(all, func(r status.Reason) bool { return r.Code == code })
}

func reasons(all []status.Reason) (lines []string) {
	for _, r := range all {
		lines = append(lines, r.String())
	}
	return lines
}

// probeLines sum the questions up by address and transport, and name what is wrong.
func probeLines(probes []status.Probe) (lines []string) {
	type target struct{ address, network string }
	good, slowest := map[target]int{}, map[target]time.Duration{}
	var targets []target
	for _, p := range probes {
		t := target{p.Address, p.Network}
		if _, seen := good[t]; !seen {
			targets, good[t] = append(targets, t), 0
		}
		if p.Up {
			good[t]++
			slowest[t] = max(slowest[t], p.Latency)
		} else {
			lines = append(lines, fmt.Sprintf("%s over %s, %s: %s", p.Address, p.Network, p.Zone, p.Reason))
		}
	}
	for _, t := range targets {
		if n := good[t]; n > 0 {
			lines = append(lines, fmt.Sprintf("%s over %s: %d good answers, the slowest after %v", t.address, t.network, n, slowest[t].Round(10*time.Microsecond)))
		}
	}
	return lines
}

func sessionLine(s status.Session) string {
	line := fmt.Sprintf("%s: %s", s.Neighbor, s.State)
	if s.BFD != "" {
		line += ", BFD " + s.BFD
	}
	if s.Down.Code != "" {
		return line + ": " + s.Down.String()
	}
	if line += ", told " + orNothing(s.Announced); s.KeptSeconds > 0 {
		line += fmt.Sprintf(", kept for %d s through a restart", s.KeptSeconds)
	}
	return line
}

func orNothing(all []string) string {
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, " ")
}

func clockLine(c status.Clock) string {
	line := c.State
	if c.State != "unknown" {
		line += fmt.Sprintf(", wrong by %v at most", c.Bound.Round(time.Microsecond))
	}
	if c.Reason != "" {
		line += ": " + c.Reason
	}
	return line
}

func meshsyncLines(n *status.Node) (lines []string) {
	switch {
	case n == nil:
		return nil // it is not asked, or the reasons say that it does not answer
	case n.Serving == 0:
		lines = []string{"silent"}
	default:
		lines = []string{fmt.Sprintf("answers from release %d, has %d ready", n.Serving, n.Confirms.Staged)}
	}
	return append(lines, reasons(n.Silent)...)
}

func mirrorLines(m *status.Mirroring, now time.Time) (lines []string) {
	if m == nil {
		return nil
	}
	switch {
	case m.LastError != "":
		lines = strings.Split(m.LastError, "\n")
	case m.LastGood.IsZero():
		lines = []string{"has not looked yet"}
	default:
		lines = []string{fmt.Sprintf("good %s ago, %s", ago(now.Sub(m.LastGood)), m.URL)}
	}
	if slices.ContainsFunc(m.Repositories, func(r status.Repository) bool { return r.Held }) {
		lines = append(lines, "hears at once what is new")
	}
	if m.Transferring != nil {
		lines = append(lines, m.Transferring.String())
	}
	for _, r := range m.Repositories {
		if len(m.Repositories) > 1 && r.Detail != "" && m.LastError == "" {
			lines = append(lines, fmt.Sprintf("%s is %s: %s", r.URL, r.State, r.Detail))
		}
	}
	return lines
}

// ago is a length of time as people say it: 3s, 12m5s, 4h10m, 12d.
func ago(d time.Duration) string {
	switch d = max(0, d); {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return d.Truncate(time.Second).String()
}
