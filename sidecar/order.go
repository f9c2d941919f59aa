package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

const (
	askEvery   = 100 * time.Millisecond // how often a drain is asked how it goes
	askTimeout = 15 * time.Second       // of one request; more than takeWithin
	// overdue is how much later than its wait a withdrawal may be before the command gives up.
	overdue = 15 * time.Second
)

func drainCommand() *cobra.Command {
	var o orders
	var d status.DrainOrder
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "drain {FILE | --node HOST:PORT --identity DIR}",
		Short: "Take a node out of service, and return when its route is withdrawn",
		Long: `Take a node out of service, and return when its route is withdrawn: its own sidecar, which runs with the configuration
FILE, or that of another node over mutual TLS, as an operator whose bundle ("meshctl operator add") is unpacked in DIR.

The route is announced as the worst of ways (GRACEFUL_SHUTDOWN, RFC 8326) until the wait is over, and then withdrawn. DNS
goes on, or with --silence ceases after that. The node stays out of service, also after a restart, until "undrain". Ctrl-C
ends the command and not the drain. A warning says if no other member of the mesh is in service, or if nobody could be asked. Said again, the command may shorten the wait, or change its mind about the silence.
The exit code is 0 if the route is withdrawn, durably, and 1 otherwise.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("wait") {
				d.Wait = wait.String()
			}
			d.Who = whoAmI()
			return o.with(cmd, args, func(ctx context.Context, p *plane) error { return p.drain(ctx, cmd.OutOrStdout(), d) })
		},
	}
	f := cmd.Flags()
	f.Var(number.Duration(&wait, 0, 24*time.Hour), "wait", "how long the route stays, announced as the worst of ways (default: drain.wait of the node)")
	f.BoolVar(&d.Silence, "silence", false, "meshsync ceases to answer once the route is withdrawn")
	f.StringVar(&d.Why, "why", "", "words for the status and the log")
	o.flags(cmd)
	return cmd
}

func undrainCommand() *cobra.Command {
	var o orders
	cmd := &cobra.Command{
		Use:   "undrain {FILE | --node HOST:PORT --identity DIR}",
		Short: "Bring a node back into service",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd, args, func(ctx context.Context, p *plane) error { return p.undrain(ctx, cmd.OutOrStdout()) })
		},
	}
	o.flags(cmd)
	return cmd
}

// orders says to whom an order goes.
type orders struct{ node, identity string }

func (o *orders) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.node, "node", "", "HOST:PORT of another node's administrative plane, instead of FILE")
	cmd.Flags().StringVar(&o.identity, "identity", ".", "with --node: directory with operator.crt, operator.key and ca.crt")
}

// with calls do, until Ctrl-C, for the node that flags and arguments name.
func (o *orders) with(cmd *cobra.Command, args []string, do func(context.Context, *plane) error) error {
	p, err := o.plane(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return do(ctx, p)
}

func (o *orders) plane(args []string) (*plane, error) {
	if (o.node == "") == (len(args) == 0) {
		return nil, fmt.Errorf("%w: which node? Give the FILE that the sidecar here runs with, or --node HOST:PORT", errUsage)
	}
	if o.node != "" {
		return remote(o.node, o.identity)
	}
	c, err := config.Load(args[0])
	if err != nil {
		return nil, err
	}
	if c.Control == "" {
		return nil, fmt.Errorf("%s names no control socket, so its sidecar takes no orders but signals: add control: unix:///run/mesh/control.sock", args[0])
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Control)
		if err != nil {
			err = unheard(err)
		}
		return conn, err
	}
	return &plane{"http://sidecar", &http.Client{Timeout: askTimeout, Transport: &http.Transport{DialContext: dial}}}, nil
}

func remote(node, dir string) (*plane, error) {
	if _, err := netip.ParseAddrPort(node); err != nil {
		return nil, fmt.Errorf("%w: --node: %w: want the administrative address and port, as in 198.51.100.7:8443", errUsage, err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	own, err := identity.Load(identity.Files{Certificate: at("operator.crt"), Key: at("operator.key"), CA: at("ca.crt")}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("--identity: %w", err)
	}
	return &plane{"https://" + node, &http.Client{Timeout: askTimeout, Transport: own.Transport(&http.Transport{})}}, nil
}

// plane is where a sidecar takes orders.
type plane struct {
	base   string
	client *http.Client
}

// unheard says why a socket of the sidecar gives no word.
func unheard(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: give the command as root, or as the sidecar's user", err)
	}
	return fmt.Errorf("%w (does the sidecar run?)", err)
}

// say sends a request to /v1/drain.
func (p *plane) say(ctx context.Context, method string, body any, query url.Values) (d status.Drained, err error) {
	return d, p.ask(ctx, method, "/v1/drain?"+query.Encode(), body, &d)
}

// ask sends a request and reads the document that answers it. An answer that is not 200 is an error with what it says.
func (p *plane) ask(ctx context.Context, method, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, p.base+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	response, err := p.client.Do(request)
	if failed := new(url.Error); errors.As(err, &failed) { // its words are a URL that nobody gave
		err = failed.Err
		if errors.Is(err, io.EOF) {
			err = errors.New("the node closed the connection: admin.access there may lack this address, and its log says so")
		}
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err = io.ReadAll(io.LimitReader(response.Body, status.MaxBytes+1))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the sidecar refused: %.4000s", strings.TrimSpace(string(data)))
	}
	return status.Decode(data, into)
}

// drain gives the order and waits for the withdrawal.
func (p *plane) drain(ctx context.Context, w io.Writer, o status.DrainOrder) error {
	d, err := p.say(ctx, http.MethodPut, o, nil)
	if err != nil {
		return err
	}
	warning, said := d.Warning, ""
	if d.Alone != "" {
		fmt.Fprintf(w, "%s: warning: %s\n", d.Node, d.Alone)
	}
	late := time.Now().Add(time.Duration(d.LeftSeconds*float64(time.Second)) + overdue)
	for {
		if now := progress(d); now != said {
			fmt.Fprintf(w, "%s: %s%s\n", d.Node, now, leaves(d))
			said = now
		}
		switch {
		case d.Drain == nil:
			return errors.New("not drained any more: somebody has brought the node back")
		case !d.Announced && (d.Silent || !o.Silence) && warning != "":
			return errors.New(warning)
		case !d.Announced && (d.Silent || !o.Silence):
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%s: it takes longer than it should, and goes on; see \"anycast-sidecar status\"", said)
		}
		select {
		case <-ctx.Done():
		case <-time.After(askEvery):
		}
		if d, err = p.say(ctx, http.MethodGet, nil, nil); ctx.Err() != nil {
			return errors.New(`interrupted; the drain goes on without this command, and "undrain" ends it`)
		} else if err != nil {
			return fmt.Errorf("the order was taken, and what has become of it is not known: %w", err)
		}
	}
}

// progress says how a drain goes.
func progress(d status.Drained) string {
	switch {
	case d.Drain == nil && d.Announced:
		return "in service, announced"
	case d.Drain == nil:
		return "in service, not announced: " + words(d.Why)
	case d.Announced:
		return "draining, " + d.Drain.String()
	case d.Drain.Silence && !d.Silent:
		return "route withdrawn; not silent yet"
	case d.Silent:
		return "route withdrawn, silent"
	}
	return "route withdrawn"
}

// leaves says when the route of a drain goes, if that is a while yet.
func leaves(d status.Drained) string {
	if d.Drain == nil || !d.Announced || d.LeftSeconds < 1 {
		return ""
	}
	return fmt.Sprintf("; the route goes in %.0f s", d.LeftSeconds)
}

func words(why []status.Reason) string {
	var all []string
	for _, r := range why {
		all = append(all, r.String())
	}
	return strings.Join(all, "; ")
}

func (p *plane) undrain(ctx context.Context, w io.Writer) error {
	d, err := p.say(ctx, http.MethodDelete, nil, url.Values{"who": {whoAmI()}})
	if err == nil {
		fmt.Fprintf(w, "%s: %s\n", d.Node, progress(d))
	}
	return err
}

// whoAmI is who gives an order here, behind sudo as well.
func whoAmI() string {
	if u, err := user.Current(); err == nil {
		return cmp.Or(os.Getenv("SUDO_USER"), u.Username)
	}
	return os.Getenv("SUDO_USER")
}
