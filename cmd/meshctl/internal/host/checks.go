package host

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// ConfigName is the configuration in a home. It may be absent.
const ConfigName = "meshctl.yaml"

const maxConfigBytes = 16 << 20

// Checks reads how zones are judged from a configuration.
func Checks(file string) (*zonecheck.Config, error) {
	data, err := fields.ReadFile(file, maxConfigBytes)
	if err != nil {
		return nil, err
	}
	return zonecheck.ParseConfig(file, data, "sources", "releases", "serve")
}

// checks is how this home's zones are judged.
func (h *Host) checks() (*zonecheck.Config, error) {
	c, err := Checks(h.path(ConfigName))
	if errors.Is(err, fs.ErrNotExist) {
		return zonecheck.DefaultConfig(), nil
	}
	return c, err
}

// Check judges a zone that is to replace old at now, which may be nil, by the policy's rules and by its command
// (SYNC-B). lease is how long a node may answer from it once it has it.
func Check(ctx context.Context, old, z *zone.Zone, p zonecheck.Policy, now time.Time, lease time.Duration) []zone.Finding {
	return checkWith(ctx, &zonecheck.Memo{}, old, z, p, now, lease)
}

func checkWith(ctx context.Context, memo *zonecheck.Memo, old, z *zone.Zone, p zonecheck.Policy, now time.Time, lease time.Duration) []zone.Finding {
	found := memo.Check(old, z, p, now, lease)
	if len(p.Command) > 0 {
		if err := runCommand(ctx, z, p); err != nil {
			found = append(found, zone.Finding{Zone: z.Origin(), Owner: z.Origin(), Rule: "command", Severity: zone.Error,
				Detail: fmt.Sprintf("%s: %v", p.Command[0], err)})
		}
	}
	return found
}

const maxCommandOutput = 2000 // octets of its standard error that are kept

// runCommand has the policy's command read a zone. Nothing of this process's environment but PATH reaches it, and it is
// killed at the end of its time, with what it started.
func runCommand(ctx context.Context, z *zone.Zone, p zonecheck.Policy) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	text, in := io.Pipe()
	defer text.Close() // ends the writer, should the command not have read everything
	go func() { in.CloseWithError(zonefile.Write(in, z)) }()
	said := &firstOctets{left: maxCommandOutput}
	cmd := exec.CommandContext(ctx, p.Command[0], p.Command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ZONE=" + z.Origin(), fmt.Sprintf("SERIAL=%d", z.Serial())}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = text, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("it took more than %v%s", p.Timeout, said)
	case err != nil:
		return fmt.Errorf("%w%s", err, said)
	}
	return nil
}

// firstOctets keeps the beginning of what is written.
type firstOctets struct {
	kept bytes.Buffer
	left int
}

func (f *firstOctets) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.left -= n
	f.kept.Write(b[:n])
	return len(b), nil
}

// String is ": " and what was kept, on one line, or nothing.
func (f *firstOctets) String() string {
	text := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(f.kept.String(), "?"), unicode.IsControl), "; ")
	if text == "" {
		return ""
	}
	return ": " + text
}

// candidate is a zone file on its way into a release.
type candidate struct {
	source  Source
	nth, of int          // it is the nth of so many
	zone    release.Zone // zero if the file makes no zone
	policy  zonecheck.Policy
	rules   []string // of the errors against it; empty: it is fine
	change  ZoneChange
}

// judge checks a zone against the one that is answered now, and says how they differ: nil if that is not worth having.
func (h *Host) judge(c *candidate, z *zone.Zone, lately *Lately, took *laps) ([]zone.Finding, *zone.Delta) {
	old, err := h.answered(z, c.zone, lately)
	took.lap("zones before read")
	var difference *zone.Delta
	c.change, difference = changeOf(old, z)
	took.lap("compared")
	if c.policy.DNSSEC != zonecheck.Ignore {
		c.zone.SignedUntil = signaturesEnd(z, h.clock())
	}
	memo := lately.memo(z)
	lately.checks(&checking{z.Origin(), z.Len(), c.nth, c.of, memo, time.Now()})
	found := checkWith(context.Background(), memo, old, z, c.policy, h.clock(), h.state.Lease())
	took.lap("checked")
	if err != nil { // no reason to be stuck with it, nor to let anything replace it
		found = append(found, zone.Finding{Zone: z.Origin(), Owner: z.Origin(), Rule: "previous", Severity: zone.Error,
			Detail: fmt.Sprintf("the zone that is answered now cannot be read to compare with: %v", err)})
	}
	for i := range found {
		found[i].File = cmp.Or(found[i].File, c.source.File)
		if found[i].Severity == zone.Error {
			c.rules = append(c.rules, found[i].Rule)
		}
	}
	slices.Sort(c.rules)
	c.rules = slices.Compact(c.rules)
	return found, difference
}

// addDeltas stores the ways to a zone's text. They are a convenience: without, nodes take the whole zone.
func (h *Host) addDeltas(c *candidate, difference *zone.Delta) []zone.Finding {
	var err error
	if c.zone.Deltas, err = h.deltas(c.zone, difference); err == nil {
		return nil
	}
	return []zone.Finding{{File: c.source.File, Zone: c.zone.Origin, Owner: c.zone.Origin, Rule: "delta", Severity: zone.Warning,
		Detail: fmt.Sprintf("nodes take the whole zone, since there is no delta: %v", err)}}
}

// signaturesEnd is when the first signature of a zone ends; zero if it has none. Its 32 bits are read as the instant that is
// closest to now (RFC 4034 3.1.5).
func signaturesEnd(z *zone.Zone, now time.Time) time.Time {
	var first time.Time
	for set := range z.RRsets() {
		for rdata := range set.Sigs.All() {
			if len(rdata) < 12 {
				continue
			}
			ends := now.Add(time.Duration(int32(binary.BigEndian.Uint32(rdata[8:])-uint32(now.Unix()))) * time.Second)
			if first.IsZero() || ends.Before(first) {
				first = ends
			}
		}
	}
	return first.UTC().Truncate(time.Second)
}

// answered is the zone that is answered now where z is to be: z itself if it is the same, nil if none is.
func (h *Host) answered(z *zone.Zone, as release.Zone, lately *Lately) (*zone.Zone, error) {
	was := find(h.view.Manifest.Current, as.Origin)
	switch {
	case was == nil:
		return nil, nil
	case was.SHA256 == as.SHA256:
		return z, nil
	}
	if old := lately.zone(was.SHA256); old != nil {
		return old, nil
	}
	r, err := depot.OpenBlob(h.repo, *was)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	old, found := zonefile.Parse(r, zonefile.Options{Origin: as.Origin, File: as.Origin})
	if old == nil {
		return nil, fmt.Errorf("%v", found[0])
	}
	return old, nil
}

// verdict is what becomes of the candidates.
type verdict struct {
	zones      []release.Zone
	held       []Held               // zones whose last good data stays
	overridden []release.Overridden // zones that go out by a second person's word
	blocked    []release.Overridden // zones that could, with one
	stop       bool                 // nothing is released
}

// Held is a zone that is held back.
type Held struct {
	Origin string `json:"origin"`
	Serial uint32 `json:"serial"` // that stays in the release
	Absent bool   `json:"absent"` // there was none: the zone is not in the release
}

// decide says of each candidate whether it goes out, is held back, or holds back all.
func decide(candidates []candidate, before *release.Release, o *release.Override) verdict {
	var v verdict
	for _, c := range candidates {
		last := find(before, c.zone.Origin)
		bad := release.Overridden{Origin: c.zone.Origin, SHA256: c.zone.SHA256, Rules: c.rules}
		whole := c.zone.Length > 0
		switch {
		case len(c.rules) == 0:
			v.zones = append(v.zones, c.zone)
		case whole && o.Covers(bad.Origin, bad.SHA256, bad.Rules):
			v.zones, v.overridden = append(v.zones, c.zone), append(v.overridden, bad)
		case c.policy.Hold == zonecheck.HoldZone && bad.Origin != "" && last != nil:
			v.zones, v.held = append(v.zones, *last), append(v.held, Held{Origin: bad.Origin, Serial: last.Serial})
		case c.policy.Hold == zonecheck.HoldZone && bad.Origin != "":
			v.held = append(v.held, Held{Origin: bad.Origin, Absent: true})
		default:
			v.stop = true
			if whole {
				v.blocked = append(v.blocked, bad)
			}
		}
	}
	slices.SortFunc(v.zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	byOrigin := func(a, b release.Overridden) int { return strings.Compare(a.Origin, b.Origin) }
	slices.SortFunc(v.blocked, byOrigin)
	slices.SortFunc(v.overridden, byOrigin)
	return v
}

// String says for the record what is unusual.
func (v verdict) String() string {
	var parts []string
	for _, o := range v.overridden {
		parts = append(parts, "overridden "+o.Origin+" "+strings.Join(o.Rules, " "))
	}
	for _, held := range v.held {
		parts = append(parts, "held "+held.Origin)
	}
	return strings.Join(parts, "; ")
}

// RequestName is where the host says what a second person would have to sign.
const RequestName = "override-request.json"

// overrideAge is how long an override counts: it is for a release at hand.
const overrideAge = 24 * time.Hour

// ask writes what a second person may sign so that the blocked zones go out, and returns where.
func (h *Host) ask(v verdict) (string, error) {
	if len(v.blocked) == 0 || len(v.blocked) > release.MaxOverridden {
		return "", nil
	}
	request, err := release.Override{Mesh: h.view.Manifest.Mesh, Zones: v.blocked}.Encode()
	if err != nil {
		return "", err
	}
	return h.path(RequestName), depot.WriteFile(h.home, RequestName, request, 0o644)
}

// verifyOverride says why an override does not count here and now.
func (h *Host) verifyOverride(o *release.Override) error {
	if o == nil {
		return nil
	}
	key, err := h.overrideKey()
	if err != nil {
		return err
	}
	if err := o.Verify(key, h.view.Manifest.Mesh); err != nil {
		return fmt.Errorf("the override does not count: %w", err)
	}
	if age := h.clock().Sub(o.At); age > overrideAge || age < -time.Hour {
		return hint("have it signed again", "the override does not count: it was signed at %s, and counts for %v", o.At.Format(time.RFC3339), overrideAge)
	}
	return nil
}

// overridePublic is the public half of the key that overrides are signed with, in HOME/keys.
const overridePublic = secondKey + ".pub"

// overrideKey is the public half of the key that overrides are signed with.
func (h *Host) overrideKey() (ed25519.PublicKey, error) {
	data, err := depot.ReadFile(h.path(keysDir), overridePublic, maxPEMBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint("put there what this printed for a second person: meshctl keys new --home . override", "no override key: %s", h.path(keysDir, overridePublic))
	}
	if err != nil {
		return nil, err
	}
	key, err := ParsePublic(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(keysDir, overridePublic), err)
	}
	return key, nil
}

// SignOverride signs a request with the key in a file, as who for the reason why.
func SignOverride(request, keyFile, who, why string, now time.Time) (release.Override, error) {
	data, err := readSmall(request)
	if err != nil {
		return release.Override{}, err
	}
	o, err := release.ParseOverride(data)
	if err != nil {
		return o, fmt.Errorf("%s: %w", request, err)
	}
	key, err := readKey(filepath.Dir(keyFile), filepath.Base(keyFile))
	if err != nil {
		return o, fmt.Errorf("%s: %w", keyFile, err)
	}
	signer, err := key.open()
	if err != nil {
		return o, err
	}
	return o.Sign(signer, who, why, now)
}

// ReadOverride reads a signed override. Whether it counts is for Release to say.
func ReadOverride(file string) (*release.Override, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	o, err := release.ParseOverride(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &o, nil
}

func readSmall(file string) ([]byte, error) {
	return depot.ReadFile(filepath.Dir(file), filepath.Base(file), release.MaxOverrideBytes)
}
