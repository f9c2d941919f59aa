// Package releasing takes zone files to a release (RFC 3258 2.3 b and c; SYNC-B, SYNC-C): it reads, stores and checks them, says
// which go out and which are held back, takes a second person's word, makes deltas, and publishes the release, staged. What
// is wrong with a zone is decided by internal/zonecheck. It imports packages config, home, history, keys and hint of its neighbours;
// package unattended and cmd/meshctl call it.
package releasing

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Options say what a release is made of, beside the zone files.
type Options struct {
	Keep bool // zones of the latest release that no file names stay in it
	Now  bool // it becomes current at once: only where nothing is answered yet, or nobody answers

	Withdraw []string // origins that are not in it, though Keep would keep them
	By       string   // who makes it, for the record; "meshctl release" if empty

	// Unattended: none is made, and Made.Release has no number, if it had just the zones of the latest; and what is withdrawn beyond
	// the limit stays, where zones hold themselves. Who gave the order is told instead.
	Unattended bool

	Config string // file that says how zones are judged; the home's, if empty

	Received []history.Receipt // how the zones came, for the record
	Lately   *Lately           // what is known of them from before; nil: nothing

	Override *release.Override // a second person's word for zones that checks speak against; nil: none
}

// Made is a release that was published, and what changed in it against the one before.
type Made struct {
	Release                         release.Release
	Current                         bool // it is current already, not staged
	Replaced                        uint64
	Added, Changed, Same, Withdrawn []string
	Held                            []history.Held    // zones that stay as they were, or away, because of findings
	Override                        *release.Override // by whose word it is as it is; nil: nobody's
	Request                         string            // file that a second person may sign so that they go all the same; "" if that cannot be
	Changes                         []history.ZoneChange
}

// BlockedError says that nothing was published because of findings, and where there is what a second person may sign so
// that it is all the same; "" if that cannot be.
type BlockedError struct{ Request string }

func (e *BlockedError) Error() string { return "nothing was published" }

// Make checks the zone files, makes a release of them and publishes it, staged (SYNC-B, SYNC-C). Findings come back
// whatever the error is, which is a *BlockedError when they kept the release back.
func Make(ctx context.Context, w *home.Writer, sources []Source, o Options) (*Made, []zone.Finding, error) {
	if err := errors.Join(mayStage(w, o.Now), verifyOverride(w, o.Override)); err != nil {
		return nil, nil, err
	}
	policy, err := checks(w, o.Config)
	if err != nil {
		return nil, nil, err
	}
	began := w.Now()
	took := &laps{clock: w.Now, last: began}
	candidates, found, err := build(ctx, w, sources, policy, o.Lately, took)
	if err != nil {
		return nil, found, err
	}
	m := w.View().Manifest
	v, more := judgeRelease(candidates, m, policy, o)
	found = append(found, more...)
	request, err := ask(w, v)
	if err != nil || v.stop {
		return nil, found, cmp.Or[error](err, &BlockedError{request})
	}
	boundRoots(v.zones, maxRoots)
	bound(v.zones)
	made := &Made{Release: release.Release{Number: w.State().Highest + 1, Zones: v.zones}, Held: v.held, Request: request}
	made.overridden(v, o.Override)
	switch same := made.compare(m.Latest()); {
	case same && o.Unattended:
		made.Release.Number = 0
		return made, found, nil
	case same && len(v.held) > 0:
		return nil, found, &BlockedError{request}
	}
	if m.Next != nil {
		made.Replaced = m.Next.Number
	}
	built := w.Now()
	took.last = built
	for _, c := range candidates {
		if z := made.Release.Zone(c.zone.Origin); z != nil && z.SHA256 == c.zone.SHA256 && (c.change.Added > 0 || c.change.Removed > 0) {
			made.Changes = append(made.Changes, c.change)
		}
	}
	if err := made.publish(ctx, w, o.Now, v.String()); err != nil {
		return made, found, err
	}
	err = history.Remember(ctx, w, made.Release.Number, func(r *history.Record) {
		*r = made.record(o, built)
		took.lap("signed and published")
		r.Timing, r.Began, r.Published = took.steps, began.UTC(), took.last.UTC()
	})
	if err != nil {
		err = fmt.Errorf("release %d is published, but its record could not be written: %v", made.Release.Number, err) // no turn was lost
	}
	return made, found, err
}

// judgeRelease says which zones are in the release, and what it finds against the withdrawal of others.
func judgeRelease(candidates []candidate, m release.Manifest, policy *zonecheck.Config, o Options) (verdict, []zone.Finding) {
	v := decide(candidates, m.Latest(), o.Override)
	if v.stop && !o.Keep { // what would be in it otherwise is not known
		return v, nil
	}
	if o.Keep {
		v.zones = keepOthers(v.zones, m.Latest())
	}
	v.zones = slices.DeleteFunc(v.zones, func(z release.Zone) bool { return slices.Contains(o.Withdraw, z.Origin) })
	hold := o.Unattended && policy.Policy.Hold == zonecheck.HoldZone
	if found := v.withdraw(m, policy, o.Override, hold); zone.HasErrors(found) || !o.Unattended || len(v.zones) > 0 {
		return v, found
	}
	return v, v.keepLast(m.Latest(), hold)
}

// overridden notes by whose word the release is as it is. It is in the manifest too, for all to see, but where it lets zones go: what
// a manifest's override names must be in the release.
func (m *Made) overridden(v verdict, o *release.Override) {
	if len(v.overridden) == 0 {
		return
	}
	m.Override = o
	if !slices.ContainsFunc(o.Zones, func(z release.Overridden) bool { return slices.Contains(z.Rules, zonecheck.WithdrawnRule) }) {
		m.Release.Override = o
	}
}

// mayStage refuses at once what the protocol would refuse when all is built.
func mayStage(w *home.Writer, now bool) error {
	_, err := w.Host().Stage(w.Instant(), w.State().Highest+1, 0, now)
	return home.Refused(err)
}

// publish publishes the release, staged; or current, where nobody answers, or nothing is answered yet and now is set.
func (m *Made) publish(ctx context.Context, w *home.Writer, now bool, detail string) error {
	next, err := w.Host().Stage(w.Instant(), m.Release.Number, home.SignedFirst(&m.Release), now)
	if err != nil {
		return home.Refused(err)
	}
	m.Current = next.Current.Number == m.Release.Number
	if m.Current {
		m.Release.Switchover = next.Current.At.Time()
	}
	change := func(manifest *release.Manifest) { manifest.Next = &m.Release }
	return w.Carry(ctx, next, time.Time{}, change,
		home.Event{Event: "released", Number: m.Release.Number, Switchover: m.Release.Switchover, Detail: detail})
}

// record is what is remembered of a release.
func (m *Made) record(o Options, at time.Time) history.Record {
	by := cmp.Or(o.By, "meshctl release")
	if name, err := os.Hostname(); err == nil {
		by += " on " + name
	}
	return history.Record{Number: m.Release.Number, Made: at.UTC().Truncate(time.Microsecond), By: by, Zones: append([]history.ZoneChange{}, m.Changes...),
		Withdrawn: m.Withdrawn, Held: m.Held, Override: m.Override, Switchover: m.Release.Switchover,
		Received: o.Received[:min(len(o.Received), history.MaxReceipts)]}
}

// build reads, stores and checks the zones. What is stored and not published after all is collected with a later
// publication.
func build(ctx context.Context, w *home.Writer, sources []Source, policy *zonecheck.Config, lately *Lately, took *laps) ([]candidate, []zone.Finding, error) {
	var list []candidate
	var found []zone.Finding
	files := map[string]string{}
	defer lately.checks(nil)
	for i, s := range sources {
		z, findings := Load(ctx, s)
		took.lap("read")
		c := candidate{source: s, nth: i + 1, of: len(sources), zone: release.Zone{Origin: originOf(s, findings)}}
		if z != nil {
			c.zone.Origin = z.Origin()
		}
		other, twice := files[c.zone.Origin]
		switch c.policy = policy.For(c.zone.Origin); {
		case twice && c.zone.Origin != "":
			s.Origin, c.policy.Hold = c.zone.Origin, zonecheck.HoldRelease // which of the two would be held?
			findings = append(findings, s.finding("zone-twice", "%s has this zone too", other))
			c.rules = []string{"zone-twice"}
		case z == nil:
			c.rules = []string{"unreadable"}
		default:
			judged, err := storeAndJudge(ctx, w, &c, z, lately, took)
			if err != nil {
				return nil, found, fmt.Errorf("%s: %w", s.File, err)
			}
			findings = c.take(append(c.policy.Apply(findings), judged...))
			sources[i].Text = c.zone.SHA256
		}
		if ctx.Err() != nil { // what was found then is not the zones' fault
			return nil, nil, context.Cause(ctx)
		}
		files[c.zone.Origin] = s.File
		list, found = append(list, c), append(found, findings...)
	}
	return list, found, nil
}

// originOf is the origin of a zone whose file has errors, as far as it is known.
func originOf(s Source, findings []zone.Finding) string {
	for _, f := range findings {
		if f.Zone != "" {
			return f.Zone
		}
	}
	return s.Origin
}

// storeAndJudge stores a zone, and checks it: at once where its digest is known before it is stored.
func storeAndJudge(ctx context.Context, w *home.Writer, c *candidate, z *zone.Zone, lately *Lately, took *laps) ([]zone.Finding, error) {
	var stored depot.Content
	var storing errgroup.Group
	storing.Go(func() (err error) {
		stored, err = store(ctx, w, c.source, z)
		return err
	})
	c.zone = release.Zone{Origin: z.Origin(), Serial: z.Serial(), SHA256: c.source.Text}
	late := "stored"
	if c.source.Zone == nil {
		if err := storing.Wait(); err != nil {
			return nil, err
		}
		took.lap(late)
		c.zone.SHA256 = stored.SHA256
	}
	found, old, difference := judge(ctx, w, c, z, lately, took)
	if err := storing.Wait(); err != nil {
		return nil, err
	}
	if c.source.Zone != nil {
		took.lap(late)
	}
	c.zone.SHA256, c.zone.Length, c.zone.Blob = stored.SHA256, stored.Length, stored.Blob
	if w.View().Manifest.Format >= release.ManifestFormat && c.zone.Blob.Length >= minDeltaBlob {
		c.zone.Root = z.Root()
	}
	found = append(found, addDeltas(w, c, old, z, difference)...)
	took.lap("delta made")
	return found, nil
}

// errOtherText says that a file has other content than what was read from it.
var errOtherText = errors.New("it has changed since it was read")

// store packs a zone's canonical text into the repository: the file that has it, or else as it is written anew.
func store(ctx context.Context, w *home.Writer, s Source, z *zone.Zone) (depot.Content, error) {
	if s.Zone != nil && s.Text != (release.Digest{}) {
		c, err := w.Repository().PutBlob(func(w io.Writer) error { return copyText(&writer{ctx, w}, s) })
		if !errors.Is(err, errOtherText) {
			return c, err
		}
	}
	return w.Repository().PutBlob(func(w io.Writer) error { return zonefile.Write(&writer{ctx, w}, z) })
}

func copyText(w io.Writer, s Source) error {
	f, err := os.Open(s.File)
	if err != nil {
		return fmt.Errorf("%w: %w", errOtherText, err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), f); err != nil {
		return err
	}
	if release.Digest(sum.Sum(nil)) != s.Text {
		return errOtherText
	}
	return nil
}

// keepOthers adds the zones of a release that are not among zones.
func keepOthers(zones []release.Zone, from *release.Release) []release.Zone {
	if from == nil {
		return zones
	}
	all := slices.Clone(zones)
	for _, z := range from.Zones {
		if (&release.Release{Zones: zones}).Zone(z.Origin) == nil {
			all = append(all, z)
		}
	}
	slices.SortFunc(all, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	return all
}

// compare sorts the zones into added, changed, same and withdrawn against the release before, and reports whether all are the same.
func (m *Made) compare(before *release.Release) (same bool) {
	for _, z := range m.Release.Zones {
		old := before.Zone(z.Origin)
		switch {
		case old == nil:
			m.Added = append(m.Added, z.Origin)
		case old.SHA256 == z.SHA256:
			m.Same = append(m.Same, z.Origin)
		default:
			m.Changed = append(m.Changed, z.Origin)
		}
	}
	if before != nil {
		for _, z := range before.Zones {
			if m.Release.Zone(z.Origin) == nil {
				m.Withdrawn = append(m.Withdrawn, z.Origin)
			}
		}
	}
	return len(m.Added)+len(m.Changed)+len(m.Withdrawn) == 0
}
