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
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
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
	Release                   release.Release
	Current                   bool // it is current already, not staged
	Replaced                  uint64
	Added, Changed, Withdrawn []string
	Held                      []history.Held    // zones that stay as they were, or away, because of findings
	Override                  *release.Override // by whose word it is as it is; nil: nobody's
	Request                   string            // file that a second person may sign so that they go all the same; "" if that cannot be
	Changes                   []history.ZoneChange
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
	v, more, err := judgeRelease(candidates, m, policy, o)
	if found = append(found, more...); err != nil {
		return nil, found, err
	}
	request, err := ask(w, v)
	if err != nil || v.stop {
		return nil, found, cmp.Or[error](err, &BlockedError{request})
	}
	made := &Made{Held: v.held, Request: request}
	if made.Release, err = v.release(w.State().Highest + 1); err != nil {
		return nil, found, err
	}
	made.overridden(v, o.Override)
	for _, c := range candidates {
		if z := made.Release.Zone(c.zone.Origin); z != nil && z.Same(&c.zone) {
			sources[c.nth-1].Content = z.Content()
		}
	}
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
		if z := made.Release.Zone(c.zone.Origin); z != nil && z.Same(&c.zone) && (c.change.Added > 0 || c.change.Removed > 0) {
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
func judgeRelease(candidates []candidate, m release.Manifest, policy *zonecheck.Config, o Options) (verdict, []zone.Finding, error) {
	v := decide(candidates, m.Latest(), o.Override)
	if v.stop && !o.Keep { // what would be in it otherwise is not known
		return v, nil, nil
	}
	if o.Keep {
		v.base = m.Latest()
	}
	v.gone = o.Withdraw
	hold := o.Unattended && policy.Policy.Hold == zonecheck.HoldZone
	found, err := v.withdraw(m, policy, o.Override, hold)
	if err != nil {
		return v, found, err
	}
	made, err := v.whole(0)
	if err != nil || zone.HasErrors(found) || !o.Unattended || made.Len() > 0 {
		return v, found, err
	}
	return v, v.keepLast(m.Latest(), hold), nil
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
func build(ctx context.Context, w *home.Writer, sources []Source, policy *zonecheck.Config, lately *Lately, took *laps) (list []candidate, found []zone.Finding, err error) {
	files := map[string]string{}
	defer lately.checks(nil)
	for at := 0; at < len(sources); {
		some := make([]building, alike(sources[at:]))
		for i := range some {
			some[i].candidate = candidate{source: sources[at+i], nth: at + i + 1, of: len(sources)}
		}
		at += len(some)
		took.together(len(some), func(i int, took *laps) { some[i].read(ctx, took) })
		for i := range some {
			some[i].named(policy, files)
		}
		judge := func(i int, took *laps) { some[i].judge(ctx, w, lately, took) }
		if slices.ContainsFunc(some, func(b building) bool { return len(b.policy.Command) > 0 }) { // it may take all of the machine
			for i := range some {
				judge(i, took)
			}
		} else {
			took.together(len(some), judge)
		}
		if ctx.Err() != nil { // what was found then is not the zones' fault
			return nil, nil, context.Cause(ctx)
		}
		for i := range some {
			if b := &some[i]; b.err != nil {
				return nil, found, fmt.Errorf("%s: %w", b.source.File, b.err)
			}
			list, found = append(list, some[i].candidate), append(found, some[i].findings...)
		}
	}
	return list, found, nil
}

const (
	// zonesAtOnce is how many small zones are read, stored and checked at a time: a disk, or a bucket, takes many together.
	zonesAtOnce = 32
	// smallFile is how many octets the file of a small zone has at the most.
	smallFile = 64 << 10
)

// alike is how many of the first zone files are built at a time: small ones, or one.
func alike(sources []Source) (n int) {
	for n < min(zonesAtOnce, len(sources)) && sources[n].small() {
		n++
	}
	return max(n, 1)
}

// small reports whether the zone in a file is a small one that is to be read.
func (s *Source) small() bool {
	if s.Zone != nil {
		return false
	}
	info, err := os.Stat(s.File)
	return err == nil && info.Mode().IsRegular() && info.Size() <= smallFile
}

// building is a candidate in the making.
type building struct {
	candidate
	made     *zone.Zone // nil if the file makes none, or it is not to be judged
	findings []zone.Finding
	err      error
}

// read reads the zone.
func (b *building) read(ctx context.Context, took *laps) {
	b.made, b.findings = Load(ctx, b.source)
	took.lap("read")
}

// named says which zone it is. Others that were named before have files.
func (b *building) named(policy *zonecheck.Config, files map[string]string) {
	s := b.source
	if b.zone.Origin = originOf(s, b.findings); b.made != nil {
		b.zone.Origin = b.made.Origin()
	}
	b.policy = policy.For(b.zone.Origin)
	if other, twice := files[b.zone.Origin]; twice && b.zone.Origin != "" {
		s.Origin, b.policy.Hold = b.zone.Origin, zonecheck.HoldRelease // which of the two would be held?
		b.made, b.findings, b.rules = nil, append(b.findings, s.finding("zone-twice", "%s has this zone too", other)), []string{"zone-twice"}
	} else if b.made == nil {
		b.rules = []string{"unreadable"}
	}
	files[b.zone.Origin] = s.File
}

// judge stores the zone and judges it.
func (b *building) judge(ctx context.Context, w *home.Writer, lately *Lately, took *laps) {
	if b.made == nil {
		return
	}
	var judged []zone.Finding
	if judged, b.err = storeAndJudge(ctx, w, &b.candidate, b.made, lately, took); b.err == nil {
		b.findings = b.take(append(b.policy.Apply(b.findings), judged...))
	}
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

// storeAndJudge stores what a zone is released by, and checks it. Its text is stored beside the checks, if it is needed: what is large, and is
// in a release already or differs from one by a pack, is known by its root.
func storeAndJudge(ctx context.Context, w *home.Writer, c *candidate, z *zone.Zone, lately *Lately, took *laps) ([]zone.Finding, error) {
	m := w.View().Manifest
	c.zone = release.Zone{Origin: z.Origin(), Serial: z.Serial(), SHA256: c.source.Text}
	if m.Format >= release.ManifestFormat {
		c.zone.Root = z.Root()
	}
	s := &storing{ctx: ctx, w: w, c: c, z: z}
	large := c.zone.Root != (release.Digest{}) && z.ImageSize() >= receive.LargeImage
	was := m.Current.Zone(c.zone.Origin)
	known := large && c.isIn(m)
	if !known && !(large && was != nil && was.Root != (release.Digest{})) {
		s.begin()
	}
	if c.source.Zone == nil { // its text tells whether it is the one that is answered
		if err := s.end(took); err != nil {
			return nil, err
		}
	}
	old, noOld := answered(ctx, w, z, &c.zone, lately)
	took.lap("zones before read")
	var difference *zone.Delta
	c.change, difference = changeOf(old, z)
	took.lap("compared")
	var l *lead
	var noLead error
	if !known && c.zone.Root != (release.Digest{}) {
		if l, noLead = leadTo(w, old, z, difference); l != nil {
			took.lap("delta made")
		}
	}
	based := false
	if large && l != nil {
		var base release.Zone
		if base, based = l.base(w, lately); based {
			c.zone.SHA256, c.zone.Length, c.zone.Blob, c.zone.BaseRoot = base.SHA256, base.Length, base.Blob, base.Root
		}
	}
	if !known && !based {
		s.begin()
	}
	found := judge(ctx, w, c, old, z, noOld, lately)
	took.lap("checked")
	if err := s.end(took); err != nil {
		return nil, err
	}
	if known {
		return found, nil
	}
	err := noLead
	switch {
	case c.zone.Blob.Length < minDeltaBlob:
		c.zone.Root = release.Digest{}
	case l != nil:
		most := release.MaxPacks
		if large {
			most = mostNamed(m.Latest().Len())
		}
		if err = l.name(&c.zone, most, large, w.Repository().PutBlob); err != nil && based {
			return nil, err
		}
	case was != nil && was.Root == c.zone.Root:
		c.zone.Packs = was.Packs
	}
	var noDelta error
	c.zone.Deltas, noDelta = deltas(w, c.zone, difference)
	took.lap("delta made")
	return append(found, c.withoutDelta(errors.Join(err, noDelta))...), nil
}

// isIn takes over how a zone is had from the release that has it already, if one does.
func (c *candidate) isIn(m release.Manifest) bool {
	for r := range m.Releases() {
		if has := r.Zone(c.zone.Origin); has != nil && has.Root == c.zone.Root && has.Serial == c.zone.Serial {
			c.zone = *has
			return true
		}
	}
	return false
}

// withoutDelta warns that there is no shorter way to a zone. It is a convenience: without, nodes take the whole zone.
func (c *candidate) withoutDelta(err error) []zone.Finding {
	if err == nil {
		return nil
	}
	return []zone.Finding{{File: c.source.File, Zone: c.zone.Origin, Owner: c.zone.Origin, Rule: "delta", Severity: zone.Warning,
		Detail: fmt.Sprintf("nodes take the whole zone, since there is no delta: %v", err)}}
}

// storing stores the text of a zone, beside what goes on.
type storing struct {
	ctx    context.Context
	w      *home.Writer
	c      *candidate
	z      *zone.Zone
	begun  bool
	ended  bool
	run    errgroup.Group
	stored depot.Content
}

// begin begins with it, once.
func (s *storing) begin() {
	if s.begun {
		return
	}
	s.begun = true
	source := s.c.source
	s.run.Go(func() (err error) {
		s.stored, err = store(s.ctx, s.w, source, s.z)
		return err
	})
}

// end waits for it, and has the candidate name the text. Nothing happens if it was not begun.
func (s *storing) end(took *laps) error {
	if !s.begun || s.ended {
		return nil
	}
	if err := s.run.Wait(); err != nil {
		return err
	}
	s.ended = true
	took.lap("stored")
	s.c.zone.SHA256, s.c.zone.Length, s.c.zone.Blob = s.stored.SHA256, s.stored.Length, s.stored.Blob
	return nil
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

// compare sorts the zones into added, changed and withdrawn against the release before, and reports whether all are the same.
func (m *Made) compare(before *release.Release) (same bool) {
	for z := range m.Release.Beside(before) {
		switch old := before.Zone(z.Origin); {
		case old == nil:
			m.Added = append(m.Added, z.Origin)
		case !old.Same(z):
			m.Changed = append(m.Changed, z.Origin)
		}
	}
	if before != nil {
		for old := range before.Beside(&m.Release) {
			if m.Release.Zone(old.Origin) == nil {
				m.Withdrawn = append(m.Withdrawn, old.Origin)
			}
		}
	}
	return len(m.Added)+len(m.Changed)+len(m.Withdrawn) == 0
}

// Same are the zones that the release before has too.
func (m *Made) Same() (same []string) {
	for z := range m.Release.All() {
		_, added := slices.BinarySearch(m.Added, z.Origin)
		_, changed := slices.BinarySearch(m.Changed, z.Origin)
		if !added && !changed {
			same = append(same, z.Origin)
		}
	}
	return same
}
