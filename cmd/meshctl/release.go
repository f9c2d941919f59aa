package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
)

const sourceHelp = `A zone's origin is said as NAME=FILE or in $ORIGIN, or is the owner of its SOA, or else comes from the name of the file: db.NAME,
NAME.zone or NAME. $INCLUDE reaches files beside the zone file and below.`

// madeJSON is a release as --json prints it.
type madeJSON struct {
	Number    uint64         `json:"number"`
	Current   bool           `json:"current"`
	Replaced  uint64         `json:"replaced,omitempty"`
	Zones     int            `json:"zones"`
	Added     []string       `json:"added"`
	Changed   []string       `json:"changed"`
	Same      []string       `json:"same"`
	Withdrawn []string       `json:"withdrawn"`
	Held      []history.Held `json:"held"`
	Override  *overrideJSON  `json:"override,omitempty"`
	Request   string         `json:"override_request,omitempty"` // file to sign, so that what is held goes too
	Findings  []findingJSON  `json:"findings"`
}

// overrideJSON is who had a release go out although checks had errors against it.
type overrideJSON struct {
	Who string `json:"who"`
	Why string `json:"why"`
}

func (c *cli) releaseCommand() *cobra.Command {
	var o releasing.Options
	var override string
	var only bool
	cmd := c.withJSON(&cobra.Command{
		Use:   "release ZONEFILE...",
		Short: "Check zone files, sign them and publish them as the next release",
		Long: `Check zone files, sign them and publish them as the next release, staged: members take it and have it ready, and answer
from it after the switchover that "meshctl schedule" proposes. A release is the zones of the files named, and the others of the
release before: --withdraw NAME leaves one of those out, and --only leaves them all out.

Zones are checked as "meshctl check" does it, by the section "checks" of HOME/meshctl.yaml, against what is answered now.
If one has an error, its last good data stays and the others go out; or, where the policy says hold-release, nothing does. No more
zones are withdrawn at once than "checks: withdrawn" allows, and none that is still received; a zone of a file that a source
delivers as well is a warning. With --override, zones go out, or are withdrawn, in spite of that by
a second person's word: see "meshctl override".

` + sourceHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && len(o.Withdraw) == 0 {
				return errors.New("wants zone files, or --withdraw NAME")
			}
			return nil
		},
		RunE: c.runs(func(cmd *cobra.Command, args []string) (err error) {
			o.Keep = !only
			if err := c.namesOf(cmd.Context(), o.Withdraw); err != nil {
				return err
			}
			if override != "" {
				if o.Override, err = releasing.ReadOverride(override); err != nil {
					return err
				}
			}
			if err := c.settle(cmd.Context()); err != nil {
				return err
			}
			return c.ordering(cmd.Context(), func(w *home.Writer) error { return c.release(cmd.Context(), w, sources(args), o) })
		}),
	})
	cmd.Flags().StringVar(&override, "override", "", "file that \"meshctl override\" wrote")
	cmd.Flags().StringSliceVar(&o.Withdraw, "withdraw", nil, "names of zones of the release before that are in it no more")
	cmd.Flags().BoolVar(&only, "only", false, "no zone is in it but those of the files: all others are withdrawn")
	cmd.Flags().BoolVar(&o.Now, "now", false, "make it current at once: for a mesh that answers from nothing yet, or has no members")
	return cmd
}

// namesOf makes origins of what was written as names of zones, each of which the latest release must have and no source.
func (c *cli) namesOf(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	view, err := c.home().View(ctx)
	if err != nil {
		return err
	}
	for i, name := range names {
		names[i] = strings.ToLower(strings.TrimSuffix(name, ".")) + "."
		if view.Manifest.Latest().Zone(names[i]) == nil {
			return fmt.Errorf("--withdraw %s: the release before has no such zone", name)
		}
		if section, from, ok := receive.Follows(c.home().ReceivedDir(), names[i]); ok {
			return hint.Errorf("take it out there: docs/operate/sources.md says how", "--withdraw %s: it is received of %s, last from %s, so meshctl serve would release it again", name, section, from)
		}
	}
	return nil
}

func (c *cli) release(ctx context.Context, w *home.Writer, from []releasing.Source, o releasing.Options) error {
	made, found, err := releasing.Make(ctx, w, from, o)
	var blocked *releasing.BlockedError
	if err != nil && !errors.As(err, &blocked) {
		return err
	}
	if !c.json || made == nil {
		printFindings(c.log, found)
	}
	if made == nil {
		return &hint.Error{Err: err, Hint: whatNow(blocked.Request)}
	}
	facts := madeJSON{made.Release.Number, made.Current, made.Replaced, made.Release.Len(),
		list(made.Added), list(made.Changed), list(made.Same()), list(made.Withdrawn), append([]history.Held{}, made.Held...), nil, made.Request, findingsJSON(found)}
	if by := made.Override; by != nil {
		facts.Override = &overrideJSON{by.Who, by.Why}
	}
	c.warnReceived(made, from)
	return c.print(facts, func() { c.sayMade(made) })
}

// warnReceived warns of zones that were released by hand and that a source delivers: the two do not know of each other. A file that is
// the very one that was received is fine.
func (c *cli) warnReceived(made *releasing.Made, files []releasing.Source) {
	for _, origin := range slices.Concat(made.Added, made.Changed) {
		received := filepath.Join(c.home().Path("zones"), strings.TrimSuffix(origin, ".")+".zone")
		if slices.ContainsFunc(files, func(s releasing.Source) bool { return sameFile(s.File, received) }) {
			continue
		}
		if section, from, ok := receive.Follows(c.home().ReceivedDir(), origin); ok {
			fmt.Fprintf(c.log, "warning: %s is received of %s as well, last from %s: change it there too, with a serial above %d, or meshctl serve holds the next edit there\n",
				origin, section, from, made.Release.Zone(origin).Serial)
		}
	}
}

// sameFile reports whether two names are of one file.
func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, fault := os.Stat(b)
	return err == nil && fault == nil && os.SameFile(one, other)
}

// whatNow is what can be done about zones that were not released; request is what may be signed, if anything.
func whatNow(request string) string {
	const correct = "correct the zone files, or what the configuration demands, and run this again"
	if request == "" {
		return correct
	}
	return correct + "; if it is right as it is, have a second person sign: meshctl override --who NAME --why REASON --key FILE " + request
}

func list(names []string) []string { return append([]string{}, names...) }

func (c *cli) sayMade(made *releasing.Made) {
	if made.Replaced != 0 {
		c.say("release %d is taken back: it was staged and never switched to", made.Replaced)
	}
	for _, kind := range []struct {
		what  string
		zones []string
	}{{"added", made.Added}, {"changed", made.Changed}, {"withdrawn", made.Withdrawn}} {
		for _, z := range kind.zones {
			c.say("%s %s", kind.what, z)
		}
	}
	for _, held := range made.Held {
		switch {
		case held.Withdrawn:
			c.say("HELD BACK %s: it is not withdrawn, since more zones would be than may; serial %d stays", held.Origin, held.Serial)
		case held.Absent:
			c.say("HELD BACK %s: it has errors, and there is no earlier data of it: it is not in this release", held.Origin)
		default:
			c.say("HELD BACK %s: it has errors; serial %d stays", held.Origin, held.Serial)
		}
	}
	if made.Request != "" {
		fmt.Fprintln(c.log, "hint:", whatNow(made.Request))
	}
	if by := made.Override; by != nil {
		c.say("OVERRIDDEN by %s: %s", by.Who, by.Why)
	}
	number, zones := made.Release.Number, made.Release.Len()
	if len(made.Added)+len(made.Changed)+len(made.Withdrawn)+len(made.Held) == 0 {
		c.say("no zone has changed: release %d has the same zones as the one before", number)
	}
	if made.Current {
		c.say("release %d published, %d zones, current since %s", number, zones, instantOf(made.Release.Switchover))
		return
	}
	c.say("release %d published, %d zones, staged; next: meshctl schedule", number, zones)
}
