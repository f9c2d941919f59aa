package release

import (
	"bytes"
	"testing"
	"time"
)

// TestWhatWasReadBeforeIsNotAnotherManifest: whoever changes a view's releases changes nobody else's, and a manifest that was
// read before is not taken for another.
func TestWhatWasReadBeforeIsNotAnotherManifest(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(1, testNow), nil))
	view, mem, err := Verify(w.repo, w.node)
	if err != nil || mem.chain == nil {
		t.Fatalf("%v, and the manifest is brought along: %v", err, mem.chain != nil)
	}
	view.Manifest.Current.Switchover, view.Manifest.Current.Number = time.Time{}, 9
	again, mem, err := Restore(mem, nil)
	if err != nil || again.Manifest.Current.Number != 1 || again.Manifest.Current.Switchover.IsZero() {
		t.Fatalf("a change to a view is in the next one: %v, %v", again, err)
	}
	w.publish(testManifest(testRelease(1, testNow), testRelease(2, time.Time{})))
	view, next, err := Verify(w.repo, mem)
	if err != nil || view.Manifest.Next == nil || len(next.Known) != 2 {
		t.Fatalf("a new manifest was taken for the one before: %v, %v", view, err)
	}
	next.Manifest = bytes.Replace(next.Manifest, []byte(`"number":1`), []byte(`"number":7`), 1)
	if rule, _ := RuleOf(third(Restore(next, nil))); rule != Mismatch {
		t.Fatalf("other octets were believed, since the manifest was read before: %q", rule)
	}
}

// TestAnUnchangedRepositoryIsVerifiedOnce: files that are the same to the octet under the same root are read and not judged again. One
// other octet in any of them is judged, and so is all of it under another root.
func TestAnUnchangedRepositoryIsVerifiedOnce(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(1, testNow), nil))
	_, mem, err := Verify(w.repo, w.node)
	if err != nil {
		t.Fatal(err)
	}
	view, next, err := Verify(w.repo, mem)
	if err != nil || next.chain != mem.chain || view.Manifest.Current.Number != 1 {
		t.Fatalf("what had not changed was verified anew: %v, %v", err, view)
	}
	for _, f := range mem.Files(view.Versions)[1:] { // the root is not looked at again
		name, file := f.Name, w.repo[f.Name]
		for _, at := range []int{0, len(file.Data) / 2, len(file.Data) - 2} {
			kept := file.Data
			file.Data = bytes.Clone(kept)
			file.Data[at] ^= 1
			if _, _, err := Verify(w.repo, mem); err == nil && !bytes.Equal(file.Data, kept) {
				t.Errorf("%s with another octet at %d of %d was believed", name, at, len(kept))
			}
			file.Data = kept
		}
		file.Data = append(file.Data, ' ')
		if _, after, err := Verify(w.repo, mem); err == nil && after.chain == mem.chain {
			t.Errorf("%s with one octet more is the same", name)
		}
		file.Data = file.Data[:len(file.Data)-1]
	}
	other := mem
	other.Root = append(bytes.Clone(mem.Root), '\n')
	if _, after, err := Verify(w.repo, other); err == nil && after.chain == mem.chain {
		t.Error("under a root of other octets it was not verified anew")
	}
}

// TestARootIsJudgedOnce: who reads its memory again, or a newer timestamp, does not judge the signatures of a root that it has judged, which is
// known by its octets: one other octet is another root.
func TestARootIsJudgedOnce(t *testing.T) {
	w := newWorld(t)
	w.publish(testManifest(testRelease(1, testNow), nil))
	_, mem, err := Verify(w.repo, w.node)
	if err != nil {
		t.Fatal(err)
	}
	judged := *mem.chain.root
	judged.data = []byte("octets that would be refused")
	c := *mem.chain
	c.root, mem.chain, mem.Root = &judged, &c, bytes.Clone(judged.data)
	if _, _, err := Restore(mem, nil); err != nil {
		t.Errorf("to read the memory again: %v", err)
	}
	if trust, err := mem.Trust(); err != nil || trust.Version != 1 {
		t.Errorf("to ask what it says: %v, %v", trust, err)
	}
	w.publish(testManifest(testRelease(1, testNow), testRelease(2, time.Time{})))
	if view, _, err := Verify(w.repo, mem); err != nil || view.Manifest.Next == nil {
		t.Errorf("to look again: %v, %v", err, view)
	}
	mem.Root[0]++
	if _, _, err := Restore(mem, nil); err == nil {
		t.Error("other octets were taken for the root that was judged")
	}
}
