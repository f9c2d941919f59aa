package host

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

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// namesZone writes a zone with so many names below its origin.
func namesZone(t testing.TB, origin string, serial, names int) Source {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns.example.net.\n@ NS ns2.example.net.\n", origin, serial)
	for i := range names {
		fmt.Fprintf(&b, "n%d A 192.0.2.%d\n", i, i%256)
	}
	file := filepath.Join(t.TempDir(), strings.TrimSuffix(origin, ".")+".zone")
	check(t, os.WriteFile(file, []byte(b.String()), 0o600))
	return Source{File: file}
}

func configure(t testing.TB, home, checks string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(home, ConfigName), []byte(checks), 0o600))
}

// releases makes a release of zone files, and returns what it may have been blocked by.
func releases(t testing.TB, home string, o ReleaseOptions, sources ...Source) (*Made, []zone.Finding, *BlockedError) {
	t.Helper()
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	made, found, err := h.Release(sources, o)
	var blocked *BlockedError
	if err != nil && !errors.As(err, &blocked) {
		t.Fatal(err)
	}
	return made, found, blocked
}

func hasRule(found []zone.Finding, rule string) bool {
	return slices.ContainsFunc(found, func(f zone.Finding) bool { return f.Rule == rule && f.Severity == zone.Error })
}

// TestAZoneThatLostNamesHoldsBackTheRelease by default, and nothing of it is published.
func TestAZoneThatLostNamesHoldsBackTheRelease(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	releases(t, home, ReleaseOptions{Now: true}, namesZone(t, "a.", 1, 100), namesZone(t, "b.", 1, 100))
	made, found, blocked := releases(t, home, ReleaseOptions{}, namesZone(t, "a.", 2, 60), namesZone(t, "b.", 2, 101))
	if made != nil || blocked == nil || !hasRule(found, "change-removed") {
		t.Fatalf("made %v, blocked %v: %v", made, blocked, found)
	}
	if m := newNode(t, home).verify().Manifest; m.Next != nil || m.Current.Number != 1 {
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
	home := newHome(t, at(testNow), "tyo")
	configure(t, home, "checks: {on_error: hold-zone}\n")
	releases(t, home, ReleaseOptions{Now: true}, namesZone(t, "a.", 1, 100), namesZone(t, "b.", 1, 100), namesZone(t, "c.", 1, 100))
	torn := namesZone(t, "b.", 2, 100)
	text, err := os.ReadFile(torn.File)
	check(t, err)
	check(t, os.WriteFile(torn.File, text[:len(text)-3], 0o600))
	unsigned := namesZone(t, "d.", 1, 10)
	check(t, os.WriteFile(unsigned.File, []byte(strings.Replace(mustRead(t, unsigned.File), "3600 1209600", "3600 7200", 1)), 0o600))
	made, found, blocked := releases(t, home, ReleaseOptions{}, namesZone(t, "a.", 2, 60), torn, namesZone(t, "c.", 2, 101), unsigned)
	if blocked != nil {
		t.Fatalf("blocked: %v", found)
	}
	want := []Held{{Origin: "a.", Serial: 1}, {Origin: "b.", Serial: 1}, {Origin: "d.", Absent: true}}
	if !slices.Equal(made.Held, want) {
		t.Errorf("held %+v, want %+v", made.Held, want)
	}
	m := newNode(t, home).verify().Manifest
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
	check(t, os.WriteFile(torn.File, []byte("n A 192.0.2.1\n"), 0o600))
	if made, _, blocked := releases(t, home, ReleaseOptions{}, namesZone(t, "c.", 3, 101), torn); made != nil || blocked == nil || blocked.Request != "" {
		t.Errorf("made %v, blocked %+v", made, blocked)
	}
}

func mustRead(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	check(t, err)
	return string(data)
}

// TestOverride: only the second key's word lets a blocked release go, only for the content and the rules that it is about,
// only for a day; and it is in the manifest.
func TestOverride(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	releases(t, home, ReleaseOptions{Now: true}, namesZone(t, "a.", 1, 100))
	less := namesZone(t, "a.", 2, 60)
	_, _, blocked := releases(t, home, ReleaseOptions{}, less)
	if blocked == nil || blocked.Request == "" {
		t.Fatal("nothing to sign")
	}
	key := filepath.Join(home, keysDir, secondKey+".pem")
	signed, err := SignOverride(blocked.Request, key, "Jane Doe", "the registrar left", testNow)
	check(t, err)
	unsigned, err := ReadOverride(blocked.Request)
	check(t, err)
	other, err := SignOverride(blocked.Request, filepath.Join(newHome(t, at(testNow)), keysDir, secondKey+".pem"), "Joe", "because", testNow)
	check(t, err)
	byReleaseKey, err := SignOverride(blocked.Request, filepath.Join(home, keysDir, "release.pem"), "Joe", "because", testNow)
	check(t, err)
	late, err := SignOverride(blocked.Request, key, "Jane Doe", "the registrar left", testNow.Add(-25*time.Hour))
	check(t, err)
	early, err := SignOverride(blocked.Request, key, "Jane Doe", "the registrar left", testNow.Add(2*time.Hour))
	check(t, err)
	for name, o := range map[string]*release.Override{"not signed": unsigned, "another mesh's key": &other, "the operator's own key": &byReleaseKey,
		"too old": &late, "in the future": &early} {
		h, err := Open(home, at(testNow))
		check(t, err)
		if made, _, err := h.Release([]Source{less}, ReleaseOptions{Override: o}); made != nil || err == nil || !strings.Contains(err.Error(), "override does not count") {
			t.Errorf("%s: made %v, %v", name, made, err)
		}
		h.Close()
	}
	// Other content, or another rule broken, is still blocked.
	if made, _, _ := releases(t, home, ReleaseOptions{Override: &signed}, namesZone(t, "a.", 2, 59)); made != nil {
		t.Error("other content went through")
	}
	configure(t, home, "checks: {dnssec: require}\n")
	if made, _, _ := releases(t, home, ReleaseOptions{Override: &signed}, less); made != nil {
		t.Error("another error went through")
	}
	check(t, os.Remove(filepath.Join(home, ConfigName)))

	made, found, blocked := releases(t, home, ReleaseOptions{Override: &signed}, less)
	if blocked != nil || !hasRule(found, "change-removed") {
		t.Fatalf("blocked %v: %v", blocked, found)
	}
	o := newNode(t, home).verify().Manifest.Next.Override
	if o == nil || o.Who != "Jane Doe" || o.Why != "the registrar left" || made.Release.Override == nil {
		t.Fatalf("the manifest has the override %+v", o)
	}
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	public, err := h.overrideKey()
	check(t, err)
	check(t, o.Verify(public, "jp"))
	last := h.state.Events[len(h.state.Events)-1]
	if last.Detail != "overridden a. change-removed" {
		t.Errorf("the record has %+v", last)
	}
}

// TestAnOverrideThatIsNotNeededIsNotRecorded.
func TestAnOverrideThatIsNotNeededIsNotRecorded(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	releases(t, home, ReleaseOptions{Now: true}, namesZone(t, "a.", 1, 100))
	_, _, blocked := releases(t, home, ReleaseOptions{}, namesZone(t, "a.", 2, 60))
	signed, err := SignOverride(blocked.Request, filepath.Join(home, keysDir, secondKey+".pem"), "Jane Doe", "why", testNow)
	check(t, err)
	made, _, _ := releases(t, home, ReleaseOptions{Override: &signed}, namesZone(t, "a.", 2, 99))
	if made == nil || made.Release.Override != nil {
		t.Errorf("%+v", made)
	}
}

// TestALostBlobBlocksAndCanBeOverridden: when what is answered now cannot be compared with, nothing replaces it but by a
// second person's word, and that does.
func TestALostBlobBlocksAndCanBeOverridden(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	made, _, _ := releases(t, home, ReleaseOptions{Now: true}, namesZone(t, "a.", 1, 100))
	check(t, os.Remove(filepath.Join(home, repoDir, release.BlobName(made.Release.Zones[0].Blob.SHA256))))
	next := namesZone(t, "a.", 2, 100)
	_, found, blocked := releases(t, home, ReleaseOptions{}, next)
	if blocked == nil || !hasRule(found, "previous") {
		t.Fatalf("blocked %v: %v", blocked, found)
	}
	signed, err := SignOverride(blocked.Request, filepath.Join(home, keysDir, secondKey+".pem"), "Jane Doe", "the disk broke", testNow)
	check(t, err)
	if made, found, _ := releases(t, home, ReleaseOptions{Override: &signed}, next); made == nil {
		t.Fatal(found)
	}
}

// TestBadConfigurationBlocks: a policy that cannot be read is no reason to release without one.
func TestBadConfigurationBlocks(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	configure(t, home, "checks: {zonemd: perhaps}\n")
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	if made, _, err := h.Release([]Source{namesZone(t, "a.", 1, 1)}, ReleaseOptions{}); made != nil || err == nil || !strings.Contains(err.Error(), ConfigName+":1:18: ") {
		t.Errorf("made %v, %v", made, err)
	}
}

// TestCommand: a command of the operator's sees the zone, and its status, its words and its time count.
func TestCommand(t *testing.T) {
	s := namesZone(t, "a.", 7, 2000)
	z, _ := Load(s)
	run := func(timeout time.Duration, script string) error {
		p := zonecheck.DefaultPolicy()
		p.Command, p.Timeout = []string{"/bin/sh", "-c", script}, timeout
		return runCommand(context.Background(), z, p)
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
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || len(err.Error()) > 2*maxCommandOutput) {
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
	found := Check(context.Background(), nil, z, p, testNow, time.Hour)
	if !hasRule(found, "command") {
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
	home := newHome(t, at(testNow), "tyo")
	text := mustRead(t, filepath.Join("..", "..", "..", "..", "internal", "zonecheck", "testdata", "8976-a4.zone"))
	file := filepath.Join(t.TempDir(), "uri.arpa.zone")
	check(t, os.WriteFile(file, []byte(text), 0o600))
	if z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{}); z == nil {
		t.Fatal(found)
	}
	if _, found, blocked := releases(t, home, ReleaseOptions{}, Source{File: file}); blocked == nil || !hasRule(found, "rrsig-expired") {
		t.Errorf("blocked %v: %v", blocked, found)
	}
}
