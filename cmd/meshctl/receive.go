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
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
)

// receivedJSON is what a round of receipt gave, as --json prints it.
type receivedJSON struct {
	Received []updateJSON     `json:"received"`
	Zones    []receive.Status `json:"zones"`
	Faults   []faultJSON      `json:"faults"`
	Unfit    []receive.Unfit  `json:"unfit,omitempty"` // files that are not taken for their names
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
	var o receive.RefreshOptions
	limit := time.Hour
	cmd := c.withJSON(&cobra.Command{
		Use:   "receive",
		Short: "Take zones in from primaries, catalogs and directories, as the configuration says",
		Long: `Take zones in from primaries (AXFR and IXFR over TCP or TLS), the members of catalog zones, and directories of zone files,
as the section "sources" of the configuration says; sources.example.yaml shows all of it. What came is in HOME/zones as
canonical zone files: meshctl release HOME/zones/*.zone makes a release of them.

Status 1 if something could not be received; what was, counts all the same, and what was there before stays.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
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
	cmd.Flags().BoolVar(&o.Withdraw, "withdraw", false, "withdraw the zones that are gone from their sources, however many")
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

func (c *cli) receive(ctx context.Context, file, zones string, o receive.RefreshOptions) error {
	view, err := c.home().View(ctx)
	if err != nil {
		return err
	}
	c.warnRoot()
	sources, err := sourcesOf(file, zones)
	if err != nil {
		return err
	}
	facts := receivedJSON{Received: []updateJSON{}, Faults: []faultJSON{}}
	var r *receive.Receiver
	r, err = receive.New(sources, receive.Options{
		Zones: filepath.Join(c.dir, "zones"),
		State: filepath.Join(c.dir, "state", "received"),
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
	err = r.Refresh(ctx, o)
	if errors.As(err, new(*depot.LockedError)) {
		return &hint.Error{Err: err, Hint: "meshctl serve receives by itself, at the latest when a source's time has come; for this command, stop it first and start it again after"}
	}
	if err != nil {
		return err
	}
	facts.Zones, facts.Unfit = r.Zones(), r.Unfit()
	for place, why := range r.Faults() {
		facts.Faults = append(facts.Faults, faultJSON{place, why})
	}
	slices.SortFunc(facts.Faults, func(a, b faultJSON) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.What, b.What))
	})
	if err := c.print(facts, func() { c.sayReceived(facts) }); err != nil {
		return err
	}
	failed := func(s receive.Status) bool { return s.Error != "" }
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, name := range o.Reset {
		if !slices.ContainsFunc(facts.Zones, func(s receive.Status) bool { return s.Zone == name }) {
			return fmt.Errorf("--reset %s: no source has this zone", name)
		}
	}
	if len(facts.Faults) > 0 || slices.ContainsFunc(facts.Zones, failed) {
		return &quietError{}
	}
	return nil
}

func (c *cli) sayReceived(facts receivedJSON) {
	for _, u := range facts.Received {
		if u.How == string(receive.Withdrawn) {
			c.say("withdrawn %s: %s has it no more", u.Zone, u.From)
			continue
		}
		c.say("received %s serial %d by %s from %s: %d records, %d octets, %.2f s", u.Zone, u.Serial, u.How, u.From, u.Records, u.Octets, u.Seconds)
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
	c.say("%d zones, %d changed", len(facts.Zones), len(facts.Received))
}
