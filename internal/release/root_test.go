package release

import (
	"crypto"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"
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
