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
	if err != nil || mem.parsed == nil {
		t.Fatalf("%v, and the manifest is brought along: %v", err, mem.parsed != nil)
	}
	view.Manifest.Current.Switchover, view.Manifest.Current.Number = time.Time{}, 9
	again, mem, err := Restore(mem)
	if err != nil || again.Manifest.Current.Number != 1 || again.Manifest.Current.Switchover.IsZero() {
		t.Fatalf("a change to a view is in the next one: %v, %v", again, err)
	}
	w.publish(testManifest(testRelease(1, testNow), testRelease(2, time.Time{})))
	view, next, err := Verify(w.repo, mem)
	if err != nil || view.Manifest.Next == nil || len(next.Known) != 2 {
		t.Fatalf("a new manifest was taken for the one before: %v, %v", view, err)
	}
	next.Manifest = bytes.Replace(next.Manifest, []byte(`"number":1`), []byte(`"number":7`), 1)
	if rule, _ := RuleOf(third(Restore(next))); rule != Mismatch {
		t.Fatalf("other octets were believed, since the manifest was read before: %q", rule)
	}
}
