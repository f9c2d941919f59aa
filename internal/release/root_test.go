package release

import (
	"crypto"
	"crypto/ed25519"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// change drafts the root that follows the host's, with what a test changes of it, and signs it.
func (w *world) change(change func(*Trust), by ...crypto.Signer) []byte {
	w.t.Helper()
	trust, err := TrustOf(w.host.Root)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&trust)
	draft, err := DraftRoot(w.host.Root, trust)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, key := range by {
		if draft, err = SignRoot(draft, key); err != nil {
			w.t.Fatal(err)
		}
	}
	return draft
}

func public(key crypto.Signer) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// Each role's key is replaced without touching nodes: they follow the roots, go on where they were, and do not take the
// word of the key that was replaced any more.
func TestEveryRoleIsRotated(t *testing.T) {
	fresh := testKeys(t, 9)
	for name, c := range map[string]struct {
		change func(*Trust)
		keys   func(old Keys) Keys // those that are good afterwards
		also   crypto.Signer       // signs the new root beside the old root key
		files  string
	}{
		"lease": {func(n *Trust) { n.Lease = public(fresh.Lease) },
			func(k Keys) Keys { k.Lease = fresh.Lease; return k }, nil, "2.root.json timestamp.json"},
		"release": {func(n *Trust) { n.Release = public(fresh.Release) },
			func(k Keys) Keys { k.Release = fresh.Release; return k }, nil, "2.root.json mesh.json 2.targets.json 2.snapshot.json timestamp.json"},
		"root": {func(n *Trust) { n.Root = []ed25519.PublicKey{public(fresh.Root)} },
			func(k Keys) Keys { k.Root = fresh.Root; return k }, fresh.Root, "2.root.json timestamp.json"},
		"expiry": {func(n *Trust) { n.Expires = testNow.AddDate(9, 0, 0) }, func(k Keys) Keys { return k }, nil, "2.root.json timestamp.json"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustVerify()
			old := w.keys
			signers := []crypto.Signer{old.Root}
			if c.also != nil {
				signers = append(signers, c.also)
			}
			root := w.change(c.change, signers...)
			w.keys = c.keys(old)
			files, mem, err := Rotate(w.host, root, w.keys.Signers(), testEnds(24*time.Hour))
			w.put(files, mem, err)
			var names []string
			for _, f := range files {
				base := f.Name[strings.LastIndexByte(f.Name, '/')+1:]
				if strings.HasSuffix(base, ".mesh.json") {
					base = "mesh.json"
				}
				names = append(names, base)
			}
			if got := strings.Join(names, " "); got != c.files {
				t.Errorf("files %s, want %s", got, c.files)
			}
			if v := w.mustVerify(); v.Manifest.Current.Number != 1 || v.Versions.Root != 2 {
				t.Errorf("after it: %v, root %d", v, v.Versions.Root)
			}
			w.publish(testManifest(testRelease(1, testNow), testRelease(2, time.Time{})))
			w.mustVerify()
			if name == "lease" || name == "release" {
				before := w.node
				repo := w.clone()
				w.keys = old
				if _, _, err := Publish(w.host, testManifest(testRelease(3, testNow), nil), old.Signers(), testEnds(time.Hour)); err == nil {
					t.Error("the replaced key still makes what nodes accept")
				}
				w.repo, w.node = repo, before
			}
		})
	}
}

// A new root needs the word of as many keys as the old one says, and of as many as it says itself.
func TestThresholdOfRootKeys(t *testing.T) {
	w := newWorld(t)
	w.mustVerify()
	second, third := testKeys(t, 7).Root, testKeys(t, 8).Root
	three := func(n *Trust) {
		n.Root, n.Threshold = append(n.Root, public(second), public(third)), 2
	}
	if err := Lacks(w.host.Root, w.change(three, w.keys.Root)); err == nil {
		t.Error("a root of which two keys must sign was good with one")
	}
	root := w.change(three, w.keys.Root, third)
	if err := Lacks(w.host.Root, root); err != nil {
		t.Fatal(err)
	}
	files, mem, err := Rotate(w.host, root, w.keys.Signers(), testEnds(24*time.Hour))
	w.put(files, mem, err)
	w.mustVerify()

	// From now on one key alone changes nothing, whichever it is, twice neither.
	longer := func(n *Trust) { n.Expires = testNow.AddDate(8, 0, 0) }
	for _, by := range [][]crypto.Signer{{w.keys.Root}, {second}, {second, second}, {testKeys(t, 6).Root, second}} {
		draft := w.change(longer, by...)
		if _, _, err := Rotate(w.host, draft, w.keys.Signers(), testEnds(24*time.Hour)); err == nil {
			t.Errorf("signed by %d keys: taken", len(by))
		}
	}
	files, mem, err = Rotate(w.host, w.change(longer, second, third), w.keys.Signers(), testEnds(24*time.Hour))
	w.put(files, mem, err)
	if v := w.mustVerify(); v.Versions.Root != 3 || !v.Expires.Root.Equal(testNow.AddDate(8, 0, 0)) {
		t.Errorf("root %d until %v", v.Versions.Root, v.Expires.Root)
	}
}

// What nobody could use, or what would give away what the roles are apart for, is not even drafted.
func TestDraftsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	trust, err := TrustOf(w.host.Root)
	if err != nil {
		t.Fatal(err)
	}
	if !trust.Root[0].Equal(public(w.keys.Root)) || !trust.Release.Equal(public(w.keys.Release)) || !trust.Lease.Equal(public(w.keys.Lease)) {
		t.Fatal("the root names other keys")
	}
	for name, change := range map[string]func(*Trust){
		"no key":                  func(n *Trust) { n.Root = nil },
		"threshold 0":             func(n *Trust) { n.Threshold = 0 },
		"threshold above keys":    func(n *Trust) { n.Threshold = 2 },
		"a key twice":             func(n *Trust) { n.Root, n.Threshold = append(n.Root, n.Root[0]), 2 },
		"root key signs content":  func(n *Trust) { n.Release = n.Root[0] },
		"root key signs leases":   func(n *Trust) { n.Lease = n.Root[0] },
		"lease key signs content": func(n *Trust) { n.Release = n.Lease },
		"numbers from too far":    func(n *Trust) { n.NumbersFrom = MaxNumbersFrom + 1 },
	} {
		changed := trust
		changed.Root = append([]ed25519.PublicKey(nil), trust.Root...)
		change(&changed)
		if _, err := DraftRoot(w.host.Root, changed); err == nil {
			t.Errorf("%s: drafted", name)
		}
	}
	if _, err := SignRoot([]byte("{}"), w.keys.Root); err == nil {
		t.Error("something that is no root was signed")
	}
}

// TestWhereNumbersBegin is said by the root, and never lowered. Who does not know the field takes the root all the same.
func TestWhereNumbersBegin(t *testing.T) {
	w := newWorld(t)
	old := w.host
	begin := func(text any) []byte { // a root that says so, signed, by whatever program
		md, err := metadata.Root().FromBytes(w.change(func(*Trust) {}))
		if err != nil {
			t.Fatal(err)
		}
		md.Signed.UnrecognizedFields = map[string]any{"numbers_from": text, "of-a-later-version": "x"}
		return must(sign(md, w.keys.Root))(t)
	}
	for _, wrong := range []any{"", "0", "-1", "07", " 7", "9223372036854775809", "18446744073709551616", 7, nil, "7e3"} {
		if err := Lacks(old.Root, begin(wrong)); !isRule(err, Format) {
			t.Errorf("numbers from %v: %v", wrong, err)
		}
	}
	root := begin("9007199254740993") // no float64 is that
	files, mem, err := Rotate(w.host, root, w.keys.Signers(), testEnds(time.Hour))
	w.put(files, mem, err)
	if trust := must(TrustOf(w.host.Root))(t); trust.NumbersFrom != 9007199254740993 {
		t.Errorf("%+v", trust)
	}
	if v := w.mustVerify(); v.Manifest.Current.Number != 9007199254740993 || v.Manifest.Next != nil {
		t.Errorf("%+v", v.Manifest)
	}
	again := w.change(func(n *Trust) { n.Expires = n.Expires.AddDate(1, 0, 0) }, w.keys.Root)
	if trust := must(TrustOf(again))(t); trust.NumbersFrom != 9007199254740993 {
		t.Errorf("a root that changes something else: %+v", trust)
	}
	if _, err := DraftRoot(w.host.Root, func() Trust { n := must(TrustOf(w.host.Root))(t); n.NumbersFrom--; return n }()); err == nil {
		t.Error("a root that lowers it was drafted")
	}
	for _, lower := range []any{"1", "9007199254740992"} {
		if err := Lacks(w.host.Root, begin(lower)); !isRule(err, Rollback) {
			t.Errorf("lowered to %v: %v", lower, err)
		}
	}
	if md, err := metadata.Root().FromBytes(root); err != nil || md.VerifyDelegate(metadata.ROOT, md) != nil {
		t.Error("who does not know the field does not take the root")
	}
}

// TestRenumbering: what is answered from goes on under the first number, and what is staged under the next one, without a switchover
// that members had promised for another number. One that is committed, and so made, is what is answered from.
func TestRenumbering(t *testing.T) {
	committed := testProposed(3, testNow.Add(time.Hour))
	committed.Committed = true
	for name, c := range map[string]struct {
		current, next *Release
		serials       [2]uint32
	}{
		"nothing is staged":     {testRelease(2, testNow), nil, [2]uint32{2, 0}},
		"one is staged":         {testRelease(2, testNow), testRelease(3, time.Time{}), [2]uint32{2, 3}},
		"one is proposed":       {testRelease(2, testNow), testProposed(3, testNow.Add(time.Hour)), [2]uint32{2, 3}},
		"one is committed":      {testRelease(2, testNow), committed, [2]uint32{3, 0}},
		"nothing is answered":   {nil, testRelease(3, time.Time{}), [2]uint32{0, 3}},
		"nothing was released":  {nil, nil, [2]uint32{0, 0}},
		"numbers are above it":  {testRelease(1<<40, testNow), nil, [2]uint32{}},
		"the first is above it": {testRelease(1<<40, testNow), testRelease(1<<40+1, time.Time{}), [2]uint32{}},
	} {
		m := testManifest(c.current, c.next)
		got, changed := m.renumbered(100)
		if _, err := got.Encode(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if above := m.Newest() == 0 || m.Newest() >= 100; above {
			if changed || !reflect.DeepEqual(got, m) {
				t.Errorf("%s: it is renumbered", name)
			}
			continue
		}
		number := uint64(100)
		for i, r := range []*Release{got.Current, got.Next} {
			switch {
			case (r != nil) != (c.serials[i] != 0):
				t.Errorf("%s: %+v", name, got)
			case r == nil:
			case r.Number != number || r.Zones[0].Serial != c.serials[i] || r.Committed || i == 1 && !r.Switchover.IsZero() || i == 0 && r.Switchover.IsZero():
				t.Errorf("%s: %+v", name, r)
			default:
				number++
			}
		}
	}
}
