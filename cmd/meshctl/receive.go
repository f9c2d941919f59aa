package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/remedy"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// receivedJSON is what a round of receipt gave, as --json prints it.
type receivedJSON struct {
	Received []updateJSON     `json:"received"`
	Zones    []receive.Status `json:"zones"`
	Faults   []faultJSON      `json:"faults"`
	Unfit    []receive.Unfit  `json:"unfit,omitempty"`   // files that are not taken for their names
	Ordered  []receive.Fate   `json:"ordered,omitempty"` // zones that were ordered to be withdrawn

	beside bool // it was done by a running serve
}

type updateJSON struct {
	Zone     string  `json:"zone"`
	Serial   uint32  `json:"serial"`
	How      string  `json:"how"`
	From     string  `json:"from"`
	File     string  `json:"file"`
	SHA256   string  `json:"sha256"`
	Records  int     `json:"records"`
	Octets   int64   `json:"octets"`
	Seconds  float64 `json:"seconds"`
	BeganNew bool    `json:"began_anew,omitempty"`
}

type faultJSON struct {
	receive.Fault
	Error string `json:"error"`
}

func (c *cli) receiveCommand() *cobra.Command {
	var file, zones string
	var o receiveOptions
	limit := time.Hour
	cmd := c.withJSON(&cobra.Command{
		Use:   "receive [--withdraw [ZONE...]]",
		Short: "Take zones in from primaries, catalogs and directories, as the configuration says",
		Long: `Take zones in from primaries (AXFR and IXFR over TCP or TLS), the members of catalog zones, and directories of zone files,
as the section "sources" of the configuration says; sources.example.yaml shows all of it. What came is in HOME/zones as
canonical zone files: meshctl release HOME/zones/*.zone makes a release of them.

With --withdraw, zones that are gone from their sources are withdrawn, though "deleted: keep" or a limit keeps them: those that are named,
or all. This works beside "meshctl serve" as well, which is given an order: it looks at the sources once more, withdraws what is gone, and
this command says what became of each zone, also where the checks keep it in the releases. An order that serve has not taken when the command
ends holds for an hour. The last zone of a mesh is in the release all the same: meshctl release --withdraw ZONE is the second step.

Status 1 if something could not be received, or withdrawn; what was, counts all the same, and what was there before stays.`,
		RunE: c.runs(func(cmd *cobra.Command, zoneNames []string) error {
			var err error
			if o.Zones, err = withdrawn(zoneNames, o.Withdraw); err != nil {
				return err
			}
			if o.Withdraw && !cmd.Flags().Changed("timeout") {
				o.wait = orderWait
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			for i, name := range o.Reset {
				o.Reset[i] = dns.CanonicalName(name)
			}
			return c.receive(ctx, cmp.Or(file, c.home().Path(home.ConfigName)), zones, o)
		}),
	})
	cmd.Flags().StringVar(&file, "config", "", "configuration (default HOME/meshctl.yaml)")
	cmd.Flags().StringVar(&zones, "zones", "", "take in the *.zone files of this directory, and nothing else, as \"meshctl serve --zones\" does")
	cmd.Flags().BoolVar(&o.Withdraw, "withdraw", false, "withdraw the zones that are gone from their sources, however many, or those of them that are named")
	cmd.Flags().StringSliceVar(&o.Reset, "reset", nil, "zones to receive anew, whatever their serial")
	completeFlag(cmd, "reset", c.zones())
	cmd.Flags().Var(number.Duration(&limit, time.Second, 24*time.Hour), "timeout", "give up after this long")
	return cmd
}

// sourcesOf are those of a directory, if it is named, or else of a configuration.
func sourcesOf(file, zones string) (*receive.Config, error) {
	if zones != "" {
		return receive.FromDirectory(zones)
	}
	config, err := config.Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &hint.Error{Err: err, Hint: "it is to have the section \"sources\", which sources.example.yaml shows; or name a directory with --zones"}
	}
	if err != nil {
		return nil, err
	}
	if config.Sources == nil {
		return nil, hint.Errorf("sources.example.yaml shows it; or name a directory with --zones", "%s has no section \"sources\": there is nothing to receive", file)
	}
	return config.Sources, nil
}

// receiveOptions are what an operator says beside the configuration.
type receiveOptions struct {
	receive.RefreshOptions
	Zones []string      // that are withdrawn; none: all that are gone
	wait  time.Duration // for a running serve; 0: as long as for sources
}

const (
	orderWait  = time.Minute // for a running serve to say what became of an order
	orderHolds = time.Hour   // from when it was given
)

// withdrawn reads the names of zones to withdraw.
func withdrawn(args []string, withdraw bool) (names []string, err error) {
	if len(args) > 0 && !withdraw {
		return nil, errors.New("zones are named with --withdraw; without it, all that the sources have is received")
	}
	for _, arg := range args {
		name, wrong := fields.ZoneName(arg)
		err = errors.Join(err, wrong)
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

func (c *cli) receive(ctx context.Context, file, zones string, o receiveOptions) error {
	view, err := c.home().View(ctx)
	if err != nil {
		return err
	}
	c.warnRoot()
	sources, err := sourcesOf(file, zones)
	if err != nil {
		return err
	}
	facts := receivedJSON{Received: []updateJSON{}, Zones: []receive.Status{}, Faults: []faultJSON{}}
	var r *receive.Receiver
	r, err = receive.New(sources, receive.Options{
		Zones: filepath.Join(c.dir, "zones"),
		State: c.home().ReceivedDir(),
		Now:   c.clock,
		Log:   slog.New(slog.DiscardHandler), // all that it would say is printed below
		Updated: func(u receive.Update) {
			if u.How == receive.Withdrawn && view.Manifest.Latest().Zone(u.Origin) == nil {
				r.Forget(u.Origin)
			}
			if u.How != receive.Kept {
				facts.Received = append(facts.Received, updateJSON{u.Origin, u.Serial, string(u.How), u.Source, u.Path, u.SHA256,
					u.Records, u.Octets, u.Duration.Seconds(), u.Reset})
			}
		},
	})
	if err != nil {
		return err
	}
	err = c.refresh(ctx, r, o, &facts)
	if errors.As(err, new(*depot.LockedError)) && !facts.beside {
		return &hint.Error{Err: err, Hint: "meshctl serve receives by itself, at the latest when a source's time has come; for this command, stop it first and start it again after"}
	}
	if err != nil {
		return err
	}
	for place, why := range r.Faults() {
		facts.Faults = append(facts.Faults, faultJSON{place, why})
	}
	slices.SortFunc(facts.Faults, func(a, b faultJSON) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.What, b.What))
	})
	if err := c.print(facts, func() { c.sayReceived(facts) }); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return facts.failed(o)
}

// failed is an error if something was not as it was ordered.
func (facts receivedJSON) failed(o receiveOptions) error {
	for _, name := range o.Reset {
		if !slices.ContainsFunc(facts.Zones, func(s receive.Status) bool { return s.Zone == name }) {
			return fmt.Errorf("--reset %s: no source has this zone", name)
		}
	}
	if len(facts.Faults) > 0 || slices.ContainsFunc(facts.Zones, func(s receive.Status) bool { return s.Error != "" }) ||
		slices.ContainsFunc(facts.Ordered, func(f receive.Fate) bool { return !f.Withdrawn }) {
		return &quietError{}
	}
	return nil
}

// refresh receives once; zones are withdrawn beside a running serve, too.
func (c *cli) refresh(ctx context.Context, r *receive.Receiver, o receiveOptions, facts *receivedJSON) (err error) {
	id, until := "", c.clock().Add(orderHolds)
	if len(o.Zones) > 0 {
		o.Withdraw = false // but these
		if id, err = receive.PlaceOrder(c.home().ReceivedDir(), o.Zones, until); err != nil {
			return err
		}
	}
	err = r.Refresh(ctx, o.RefreshOptions)
	var locked *depot.LockedError
	switch {
	case errors.As(err, &locked) && (id != "" || o.Withdraw) && len(o.Reset) == 0:
		facts.beside = true
		if facts.Ordered, err = c.order(ctx, locked, id, until, o.wait); err != nil {
			return err
		}
		return c.follow(ctx, facts.Ordered)
	case err != nil:
		return err
	case id != "":
		facts.Ordered, _, err = receive.Answer(c.home().ReceivedDir(), id)
	}
	facts.Zones, facts.Unfit = r.Zones(), r.Unfit()
	return err
}

// order has a running serve withdraw zones: those of the order, or, without one, those that it says are gone.
func (c *cli) order(ctx context.Context, serve *depot.LockedError, id string, until time.Time, wait time.Duration) ([]receive.Fate, error) {
	if wait > 0 {
		limited, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		ctx = limited
	}
	if id != "" {
		return c.answer(ctx, serve, id, until)
	}
	asked := c.clock().Add(orderWait)
	id, err := receive.PlaceOrder(c.home().ReceivedDir(), nil, asked)
	if err != nil {
		return nil, err
	}
	gone, err := c.answer(ctx, serve, id, asked)
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	var names []string
	for _, f := range gone {
		names = append(names, f.Zone)
	}
	if id, err = receive.PlaceOrder(c.home().ReceivedDir(), names, until); err != nil {
		return nil, err
	}
	return c.answer(ctx, serve, id, until)
}

// releaseWait is how long a running serve may take to make a release without what was withdrawn, before that is left to "meshctl status": one
// whose switchover is near is waited for first.
const releaseWait = 10 * time.Second

// follow waits until a release of serve's is without the zones that it has withdrawn. What it keeps in its releases, since more would go than
// the checks allow, or all, or since it releases nothing at all, is not withdrawn.
func (c *cli) follow(ctx context.Context, ordered []receive.Fate) error {
	for end := time.Now().Add(releaseWait); ; {
		late := time.Now().After(end)
		view, err := c.home().View(ctx)
		if err != nil {
			return err
		}
		work, err := unattended.ReadWork(ctx, c.home())
		if err != nil {
			return err
		}
		if work == nil { // it has just ended, or the next one has not begun
			work = &status.Work{}
		}
		open := false
		for i, f := range ordered {
			if !f.Withdrawn || view.Manifest.Latest().Zone(f.Zone) == nil {
				continue
			}
			open = true
			if r, keeps := keeper(work.Alarms, f.Zone, late); keeps {
				ordered[i] = receive.Fate{Zone: f.Zone, Why: r.Detail + ". " + remedy.For(r.Code).Do}
			}
		}
		if !open || late || home.Pause(ctx, 200*time.Millisecond) != nil {
			return nil
		}
	}
}

// keeper is the alarm by which serve says that it keeps a zone in its releases. One that does not name it may be of before, and counts when it
// still holds late.
func keeper(alarms []status.Reason, origin string, late bool) (status.Reason, bool) {
	for _, r := range alarms {
		switch {
		case r.Code == unattended.AlarmStays && (late || slices.Contains(strings.FieldsFunc(r.Detail, func(c rune) bool { return c == ' ' || c == ';' }), origin)),
			r.Code == unattended.AlarmBlocked && late:
			return r, true
		}
	}
	return status.Reason{}, false
}

// answer waits for what becomes of an order.
func (c *cli) answer(ctx context.Context, serve *depot.LockedError, id string, until time.Time) ([]receive.Fate, error) {
	for {
		fates, answered, err := receive.Answer(c.home().ReceivedDir(), id)
		if err != nil || answered {
			return fates, err
		}
		if home.Pause(ctx, 100*time.Millisecond) != nil {
			return nil, hint.Errorf("meshctl status shows what is wrong with sources: a directory that cannot be read, or a file that is being written, has lost nothing",
				"the order is given, and holds until %s; what became of it was not said yet: %w", secondOf(until), serve)
		}
	}
}

func (c *cli) sayReceived(facts receivedJSON) {
	for _, u := range facts.Received {
		if u.How == string(receive.Withdrawn) {
			c.say("withdrawn %s: %s has it no more", u.Zone, u.From)
			continue
		}
		c.say("received %s serial %d by %s from %s: %d records, %d octets, %.2f s", u.Zone, u.Serial, u.How, u.From, u.Records, u.Octets, u.Seconds)
	}
	for _, f := range facts.Ordered {
		if !f.Withdrawn {
			c.say("error: %s is not withdrawn: %s", f.Zone, f.Why)
		} else if facts.beside {
			c.say("withdrawn %s by meshctl serve, which makes a release without it", f.Zone)
		}
	}
	for _, s := range facts.Zones {
		if s.Warning != "" {
			c.say("warning: %s: %s", s.Zone, s.Warning)
		}
		if s.Error != "" {
			c.say("error: %s: %s", s.Zone, s.Error)
		}
		if s.Expired {
			c.say("error: %s EXPIRED: no primary has confirmed it since %s; what is released stays released", s.Zone, secondOf(s.Contact))
		}
	}
	for _, f := range facts.Faults {
		c.say("error: %s: %s: %s", f.Source, f.What, f.Error)
	}
	for _, u := range facts.Unfit {
		c.say("warning: %s", u)
	}
	switch {
	case !facts.beside:
		c.say("%d zones, %d changed", len(facts.Zones), len(facts.Received))
	case len(facts.Ordered) == 0:
		c.say("no zone is gone from its source")
	}
}
