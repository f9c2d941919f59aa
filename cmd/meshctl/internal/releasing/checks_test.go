package releasing_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// releases makes a release of zone files, and returns what it may have been blocked by.
func releases(t testing.TB, meshDir string, o releasing.Options, sources ...releasing.Source) (*releasing.Made, []zone.Finding, *releasing.BlockedError) {
	t.Helper()
	h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
	defer h.Close()
	made, found, err := releasing.Make(t.Context(), h, sources, o)
	var blocked *releasing.BlockedError
	if err != nil && !errors.As(err, &blocked) {
		t.Fatal(err)
	}
	return made, found, blocked
}

// TestOneBadZoneHoldsItself by default: the others go out, and what is held may be signed for. With nothing else to release it is
// refused, and said so.
func TestOneBadZoneHoldsItself(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 100), hometest.NamesZone(t, "b.", 1, 100))
	less := hometest.NamesZone(t, "a.", 2, 60)
	made, found, blocked := releases(t, meshDir, releasing.Options{Keep: true}, less)
	if made != nil || blocked == nil || blocked.Request == "" || !hometest.HasError(found, "change-removed") {
		t.Fatalf("alone: made %v, blocked %v: %v", made, blocked, found)
	}
	made, _, blocked = releases(t, meshDir, releasing.Options{Keep: true}, less, hometest.NamesZone(t, "b.", 2, 101))
	if blocked != nil || !slices.Equal(made.Held, []history.Held{{Origin: "a.", Serial: 1}}) || !slices.Equal(made.Changed, []string{"b."}) || made.Request == "" {
		t.Fatalf("made %+v, blocked %v", made, blocked)
	}
	signed, err := releasing.SignOverride(t.Context(), made.Request, filepath.Join(meshDir, keys.Dir, keys.Override+".pem"), "Jane Doe", "why", hometest.Start)
	hometest.Check(t, err)
	if made, _, _ = releases(t, meshDir, releasing.Options{Keep: true, Override: &signed}, less); made == nil || !slices.Equal(made.Changed, []string{"a."}) {
		t.Errorf("by a second person's word: %+v", made)
	}
}

// TestZonesThatGoAtOnceTakeASecondPerson: an order to withdraw more of them than the policy allows is refused as a whole, whatever
// the policy says of zones with errors; with a second person's word for just these zones it is done, and on record.
func TestZonesThatGoAtOnceTakeASecondPerson(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	var zones []releasing.Source
	for _, origin := range []string{"a.", "b.", "c.", "d."} {
		zones = append(zones, hometest.NamesZone(t, origin, 1, 10))
	}
	releases(t, meshDir, releasing.Options{Now: true}, zones...)
	orders := map[string]releasing.Options{"by name": {Keep: true, Withdraw: []string{"a.", "b."}}, "those not named": {}}
	for name, o := range orders {
		made, found, blocked := releases(t, meshDir, o, zones[2], hometest.NamesZone(t, "d.", 2, 11))
		if made != nil || blocked == nil || blocked.Request == "" || !hometest.HasError(found, "zone-withdrawn") {
			t.Fatalf("%s: made %v, blocked %v: %v", name, made, blocked, found)
		}
		if detail := found[len(found)-1].Detail; !strings.Contains(detail, `2 of 4 zones withdrawn; the policy allows 10 % (a default; "checks: withdrawn" in `+filepath.Join(meshDir, home.ConfigName)) {
			t.Errorf("%s: %q", name, detail)
		}
	}
	// One after the other they do not go either: what counts is what is answered now.
	releases(t, meshDir, releasing.Options{Keep: true, Withdraw: []string{"a."}})
	_, _, blocked := releases(t, meshDir, releasing.Options{Keep: true, Withdraw: []string{"b."}})
	if blocked == nil || blocked.Request == "" {
		t.Fatal("two zones went by two releases, neither of which was ever current")
	}
	signed, err := releasing.SignOverride(t.Context(), blocked.Request, filepath.Join(meshDir, keys.Dir, keys.Override+".pem"), "Jane Doe", "they left", hometest.Start)
	hometest.Check(t, err)
	if made, _, _ := releases(t, meshDir, releasing.Options{Keep: true, Override: &signed, Withdraw: []string{"c.", "d."}}); made != nil {
		t.Errorf("a zone that was not signed for: %+v", made.Withdrawn)
	}
	made, _, _ := releases(t, meshDir, releasing.Options{Keep: true, Override: &signed, Withdraw: []string{"b."}})
	if made == nil || len(made.Release.Zones) != 2 {
		t.Fatalf("%+v", made)
	}
	records, err := history.Last(t.Context(), home.At(meshDir, time.Now), 1)
	hometest.Check(t, err)
	if len(records) != 1 || records[0].Override == nil || records[0].Override.Who != "Jane Doe" {
		t.Errorf("the record: %+v", records)
	}
	hometest.NewNode(t, meshDir).Verify()
}

// TestAZoneThatLostNamesHoldsBackTheRelease where that is wanted, and nothing of it is published.
func TestAZoneThatLostNamesHoldsBackTheRelease(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.Configure(t, meshDir, "checks: {on_error: hold-release}\n")
	releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 100), hometest.NamesZone(t, "b.", 1, 100))
	made, found, blocked := releases(t, meshDir, releasing.Options{}, hometest.NamesZone(t, "a.", 2, 60), hometest.NamesZone(t, "b.", 2, 101))
	if made != nil || blocked == nil || !hometest.HasError(found, "change-removed") {
		t.Fatalf("made %v, blocked %v: %v", made, blocked, found)
	}
	if m := hometest.NewNode(t, meshDir).Verify().Manifest; m.Next != nil || m.Current.Number != 1 {
		t.Errorf("published: %+v", m)
	}
	for _, f := range found {
		if f.File == "" || f.Zone == "" {
			t.Errorf("without its place: %v", f)
		}
	}
}

// TestHoldZone: by policy a zone with an error keeps its last good data, whether a check, the parser or a new zone has it,
// and the others go out.
func TestHoldZone(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.Configure(t, meshDir, "checks: {on_error: hold-zone, rules: {soa-expire: error}}\n")
	releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 100), hometest.NamesZone(t, "b.", 1, 100), hometest.NamesZone(t, "c.", 1, 100))
	torn := hometest.NamesZone(t, "b.", 2, 100)
	text, err := os.ReadFile(torn.File)
	hometest.Check(t, err)
	hometest.Check(t, os.WriteFile(torn.File, text[:len(text)-3], 0o600))
	unsigned := hometest.NamesZone(t, "d.", 1, 10)
	hometest.Check(t, os.WriteFile(unsigned.File, []byte(strings.Replace(mustRead(t, unsigned.File), "3600 1209600", "3600 7200", 1)), 0o600))
	made, found, blocked := releases(t, meshDir, releasing.Options{}, hometest.NamesZone(t, "a.", 2, 60), torn, hometest.NamesZone(t, "c.", 2, 101), unsigned)
	if blocked != nil {
		t.Fatalf("blocked: %v", found)
	}
	want := []history.Held{{Origin: "a.", Serial: 1}, {Origin: "b.", Serial: 1}, {Origin: "d.", Absent: true}}
	if !slices.Equal(made.Held, want) {
		t.Errorf("held %+v, want %+v", made.Held, want)
	}
	m := hometest.NewNode(t, meshDir).Verify().Manifest
	var serials []string
	for _, z := range m.Next.Zones {
		serials = append(serials, fmt.Sprint(z.Origin, z.Serial))
	}
	if !slices.Equal(serials, []string{"a.1", "b.1", "c.2"}) {
		t.Errorf("the release has %v", serials)
	}
	if m.Next.Zones[0].SHA256 != m.Current.Zones[0].SHA256 {
		t.Error("the zone held back is not what it was")
	}
	// A file of which not even the origin is known cannot be held back: all is.
	hometest.Check(t, os.WriteFile(torn.File, []byte("n A 192.0.2.1\n"), 0o600))
	if made, _, blocked := releases(t, meshDir, releasing.Options{}, hometest.NamesZone(t, "c.", 3, 101), torn); made != nil || blocked == nil || blocked.Request != "" {
		t.Errorf("made %v, blocked %+v", made, blocked)
	}
}

func mustRead(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	hometest.Check(t, err)
	return string(data)
}

// TestOverride: only the second key's word lets a blocked release go, only for the content and the rules that it is about,
// only for a day; and it is in the manifest.
func TestOverride(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 100))
	less := hometest.NamesZone(t, "a.", 2, 60)
	_, _, blocked := releases(t, meshDir, releasing.Options{}, less)
	if blocked == nil || blocked.Request == "" {
		t.Fatal("nothing to sign")
	}
	key := filepath.Join(meshDir, keys.Dir, keys.Override+".pem")
	signed, err := releasing.SignOverride(t.Context(), blocked.Request, key, "Jane Doe", "the registrar left", hometest.Start)
	hometest.Check(t, err)
	unsigned, err := releasing.ReadOverride(blocked.Request)
	hometest.Check(t, err)
	other, err := releasing.SignOverride(t.Context(), blocked.Request, filepath.Join(hometest.New(t, hometest.At(hometest.Start)), keys.Dir, keys.Override+".pem"), "Joe", "because", hometest.Start)
	hometest.Check(t, err)
	byReleaseKey, err := releasing.SignOverride(t.Context(), blocked.Request, filepath.Join(meshDir, keys.Dir, "release.pem"), "Joe", "because", hometest.Start)
	hometest.Check(t, err)
	late, err := releasing.SignOverride(t.Context(), blocked.Request, key, "Jane Doe", "the registrar left", hometest.Start.Add(-25*time.Hour))
	hometest.Check(t, err)
	early, err := releasing.SignOverride(t.Context(), blocked.Request, key, "Jane Doe", "the registrar left", hometest.Start.Add(2*time.Hour))
	hometest.Check(t, err)
	for name, o := range map[string]*release.Override{"not signed": unsigned, "another mesh's key": &other, "the operator's own key": &byReleaseKey,
		"too old": &late, "in the future": &early} {
		h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
		if made, _, err := releasing.Make(t.Context(), h, []releasing.Source{less}, releasing.Options{Override: o}); made != nil || err == nil || !strings.Contains(err.Error(), "override does not count") {
			t.Errorf("%s: made %v, %v", name, made, err)
		}
		h.Close()
	}
	// Other content, or another rule broken, is still blocked.
	if made, _, _ := releases(t, meshDir, releasing.Options{Override: &signed}, hometest.NamesZone(t, "a.", 2, 59)); made != nil {
		t.Error("other content went through")
	}
	hometest.Configure(t, meshDir, "checks: {dnssec: require}\n")
	if made, _, _ := releases(t, meshDir, releasing.Options{Override: &signed}, less); made != nil {
		t.Error("another error went through")
	}
	hometest.Check(t, os.Remove(filepath.Join(meshDir, home.ConfigName)))

	made, found, blocked := releases(t, meshDir, releasing.Options{Override: &signed}, less)
	if blocked != nil || !hometest.HasError(found, "change-removed") {
		t.Fatalf("blocked %v: %v", blocked, found)
	}
	o := hometest.NewNode(t, meshDir).Verify().Manifest.Next.Override
	if o == nil || o.Who != "Jane Doe" || o.Why != "the registrar left" || made.Release.Override == nil {
		t.Fatalf("the manifest has the override %+v", o)
	}
	h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
	defer h.Close()
	public, err := h.Keys().Override()
	hometest.Check(t, err)
	hometest.Check(t, o.Verify(public, "jp"))
	last := h.State().Events[len(h.State().Events)-1]
	if last.Detail != "overridden a. change-removed" {
		t.Errorf("the record has %+v", last)
	}
}

// TestAnOverrideThatIsNotNeededIsNotRecorded.
func TestAnOverrideThatIsNotNeededIsNotRecorded(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 100))
	_, _, blocked := releases(t, meshDir, releasing.Options{}, hometest.NamesZone(t, "a.", 2, 60))
	signed, err := releasing.SignOverride(t.Context(), blocked.Request, filepath.Join(meshDir, keys.Dir, keys.Override+".pem"), "Jane Doe", "why", hometest.Start)
	hometest.Check(t, err)
	made, _, _ := releases(t, meshDir, releasing.Options{Override: &signed}, hometest.NamesZone(t, "a.", 2, 99))
	if made == nil || made.Release.Override != nil {
		t.Errorf("%+v", made)
	}
}

// TestALostBlobBlocksAndCanBeOverridden: when what is answered now cannot be compared with, nothing replaces it but by a
// second person's word, and that does.
func TestALostBlobBlocksAndCanBeOverridden(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	made, _, _ := releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 100))
	hometest.Check(t, os.Remove(filepath.Join(meshDir, "repository", release.BlobName(made.Release.Zones[0].Blob.SHA256))))
	next := hometest.NamesZone(t, "a.", 2, 100)
	_, found, blocked := releases(t, meshDir, releasing.Options{}, next)
	if blocked == nil || !hometest.HasError(found, "previous") {
		t.Fatalf("blocked %v: %v", blocked, found)
	}
	signed, err := releasing.SignOverride(t.Context(), blocked.Request, filepath.Join(meshDir, keys.Dir, keys.Override+".pem"), "Jane Doe", "the disk broke", hometest.Start)
	hometest.Check(t, err)
	if made, found, _ := releases(t, meshDir, releasing.Options{Override: &signed}, next); made == nil {
		t.Fatal(found)
	}
}

// TestBadConfigurationBlocks: a policy that cannot be read is no reason to release without one.
func TestBadConfigurationBlocks(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.Configure(t, meshDir, "checks: {zonemd: perhaps}\n")
	h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
	defer h.Close()
	if made, _, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.NamesZone(t, "a.", 1, 1)}, releasing.Options{}); made != nil || err == nil || !strings.Contains(err.Error(), home.ConfigName+":1:18: ") {
		t.Errorf("made %v, %v", made, err)
	}
}

// TestCommand: a command of the operator's sees the zone, and its status, its words and its time count.
func TestCommand(t *testing.T) {
	s := hometest.NamesZone(t, "a.", 7, 2000)
	z, _ := releasing.Load(t.Context(), s)
	run := func(timeout time.Duration, script string) error {
		p := zonecheck.DefaultPolicy()
		p.Command, p.Timeout = []string{"/bin/sh", "-c", script}, timeout
		return releasing.RunCommand(context.Background(), z, p)
	}
	t.Setenv("SECRET", "x")
	const long = time.Minute
	for _, c := range []struct{ name, script, want string }{
		{"reads it all", `test "$(grep -c .)" = 2003`, ""},
		{"reads nothing", "true", ""},
		{"reads a line", "head -n 1 | grep -q SOA", ""},
		{"environment", `test "$ZONE $SERIAL $SECRET" = "a. 7 "`, ""},
		{"refuses", "echo no good >&2; exit 3", "exit status 3: no good"},
		{"speaks much", "yes nonsense | head -c 1000000 >&2; exit 1", "exit status 1: nonsense"},
		{"speaks in control characters", `printf 'a\033[2Jb\377' >&2; exit 1`, "exit status 1: a; [2Jb?"},
	} {
		err := run(long, c.script)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || len(err.Error()) > 2*releasing.MaxCommandOutput) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	err := run(300*time.Millisecond, "sleep 1000 & echo $! >&2; wait")
	var child int
	if err == nil {
		t.Fatal("a command that hangs is fine")
	}
	if _, bad := fmt.Sscanf(err.Error(), "it took more than 300ms: %d", &child); bad != nil {
		t.Fatalf("a command that hangs: %v", err)
	}
	for gone := time.Now().Add(10 * time.Second); syscall.Kill(child, 0) == nil && !zombie(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(gone) {
			t.Fatal("what it had started lives on")
		}
	}
	p := zonecheck.DefaultPolicy()
	p.Command = []string{"/nowhere/check"}
	found := releasing.Check(t.Context(), nil, z, p, hometest.Start, time.Hour)
	if !hometest.HasError(found, "command") {
		t.Errorf("a command that is not there: %v", found)
	}
}

// zombie reports whether a process has ended, and only waits for whoever adopted it to notice.
func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(data), ") Z ")
}

// TestSignaturesMustOutlastTheLease of this mesh, by this host's clock.
func TestSignaturesMustOutlastTheLease(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	text := mustRead(t, filepath.Join("..", "..", "..", "..", "internal", "zonecheck", "testdata", "8976-a4.zone"))
	file := filepath.Join(t.TempDir(), "uri.arpa.zone")
	hometest.Check(t, os.WriteFile(file, []byte(text), 0o600))
	if z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{}); z == nil {
		t.Fatal(found)
	}
	if _, found, blocked := releases(t, meshDir, releasing.Options{}, releasing.Source{File: file}); blocked == nil || !hometest.HasError(found, "rrsig-expired") {
		t.Errorf("blocked %v: %v", blocked, found)
	}
}

// TestAReleaseThatIsInterruptedHoldsNothingBack: a check that is ended with the release is no fault of the zone, and a zone
// that is not judged to the end does not make the release be one with its last good data.
func TestAReleaseThatIsInterruptedHoldsNothingBack(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	releases(t, meshDir, releasing.Options{Now: true}, hometest.NamesZone(t, "a.", 1, 10), hometest.NamesZone(t, "b.", 1, 10))
	began := filepath.Join(t.TempDir(), "began")
	hometest.Configure(t, meshDir, fmt.Sprintf("checks:\n  on_error: hold-zone\n  command: [/bin/sh, -c, 'echo >%s; exec sleep 1000']\n  command_timeout: 10m\n", began))
	h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
	defer h.Close()
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	type result struct {
		made  *releasing.Made
		found []zone.Finding
		err   error
	}
	ended := make(chan result, 1)
	go func() {
		made, found, err := releasing.Make(ctx, h, []releasing.Source{hometest.NamesZone(t, "a.", 2, 10), hometest.NamesZone(t, "b.", 2, 10)}, releasing.Options{})
		ended <- result{made, found, err}
	}()
	hometest.WaitFor(t, "the command runs", func() bool { _, err := os.Stat(began); return err == nil })
	cancel(interrupted)
	select {
	case r := <-ended:
		if r.made != nil || len(r.found) > 0 || !errors.Is(r.err, interrupted) {
			t.Errorf("made %+v, found %v, %v", r.made, r.found, r.err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	if m := hometest.NewNode(t, meshDir).Verify().Manifest; m.Next != nil {
		t.Errorf("published: %+v", m.Next)
	}
}

// TestAZoneThatWasReceivedIsJudgedAsAFileIs: what reading a file finds, and a policy makes an error of, is found of a zone that is not
// read again too.
func TestAZoneThatWasReceivedIsJudgedAsAFileIs(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	z, found := zonefile.Parse(strings.NewReader("$ORIGIN a.\n$TTL 300\n@ SOA ns1 host 1 7200 3600 1209600 300\n@ NS alias\n@ NS ns.example.net.\nalias CNAME t.\nd NS ns.d\n"),
		zonefile.Options{})
	if z == nil {
		t.Fatal(found)
	}
	var text strings.Builder
	hometest.Check(t, zonefile.Write(&text, z))
	file := filepath.Join(t.TempDir(), "a.zone")
	hometest.Check(t, os.WriteFile(file, []byte(text.String()), 0o600))
	for how, s := range map[string]releasing.Source{"file": {File: file}, "received": {File: file, Zone: z, Text: release.DigestOf([]byte(text.String()))}} {
		_, found, blocked := releases(t, meshDir, releasing.Options{Now: true}, s)
		said := fmt.Sprint(found)
		if blocked == nil || !hometest.HasError(found, "ns-at-cname") || !strings.Contains(said, "missing-glue") {
			t.Errorf("%s: %v", how, found)
		}
	}
}
