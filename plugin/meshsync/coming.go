package meshsync

import (
	"iter"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Where no members are named, a distribution host makes a release current at once: there is no switchover that the node could prepare
// for, and from when it learns of the release until that is compiled, and its floor durable, it would have to be silent. So it learns
// of it when both are done. That is no more than to hear of it a little later: the view before is a lease, and holds to its end.

// coming is a verified view that the node is to learn of when it can answer from its current release.
type coming struct {
	view  *release.View // nil: there is none
	floor *release.View // the one whose release is being written as the floor, ahead of being learnt of; nil: none is
}

// taken says that the node has learnt of a view. One that came while the floor was written for another stays.
func (c *coming) taken(v *release.View) {
	if v != c.floor || v == c.view {
		c.view = nil
	}
	c.floor = nil
}

// currentOf is the number of the release that a view makes current; 0 for no view.
func currentOf(v *release.View) uint64 {
	if v == nil {
		return 0
	}
	return ref(v.Manifest.Current).Number
}

// awaits reports whether a node that answers from a release had better learn of a view later. Members are bound to the instant of a
// switchover, so they never wait; nor does who has a switchover to make, or must refuse the view.
func (f *follower) awaits(v *release.View, serving uint64) bool {
	if f.view == nil || serving == 0 || currentOf(v) <= serving {
		return false
	}
	if was := f.view.Manifest; len(was.Members) > 0 || was.Next != nil && !was.Next.Switchover.IsZero() || len(v.Manifest.Members) > 0 {
		return false
	}
	return mesh.NewNode(f.durable).Learn(meshView(*v, f.config.node)) == nil
}

// failed says that a release could not be made ready. If it is the one that comes, the node waits no longer: who could not switch ceases
// to answer until that is resolved (SYNC-F).
func (f *follower) failed(number uint64) {
	if v := f.coming.view; v != nil && currentOf(v) == number {
		f.take(placeRepository, v)
	}
}

// decideWithComing decides anew, and learns of the view that is coming if that is not to wait any longer: the node is silent by what it
// knows, since its lease has ended, say, or answers from the release already. What is coming is wanted like what is next.
func (f *follower) decideWithComing() mesh.Decision {
	d := f.decide()
	if v := f.coming.view; v != nil && !f.awaits(v, d.Serve) {
		f.take(placeRepository, v)
		f.coming.view = nil
		d = f.decide()
	}
	for _, v := range []*release.View{f.coming.view, f.coming.floor} {
		n := currentOf(v)
		if n == 0 || slices.Contains(d.Keep, n) {
			continue
		}
		d.Keep = append(d.Keep, n)
		if f.compiled[n] == nil {
			d.Stage = append(d.Stage, n)
		}
	}
	return d
}

// toWrite is what to write by a decision, or else the floor by which the release that is coming can be answered from in the moment in which
// it is learnt of, once that is ready and its time has come by this clock; nil if there is neither.
func (f *follower) toWrite(d mesh.Decision) *mesh.Durable {
	v := f.coming.view
	if d.Persist != nil || v == nil || f.compiled[currentOf(v)] == nil || f.clocks.now().Wall < instant.WallOf(v.Manifest.Current.Switchover) {
		return d.Persist
	}
	f.coming.floor = v
	ahead := f.durable
	ahead.Floor = max(ahead.Floor, currentOf(v))
	return &ahead
}

// releases are those of the views that the node has learnt of, or is to learn of.
func (f *follower) releases() iter.Seq[*release.Release] {
	return func(yield func(*release.Release) bool) {
		for _, v := range []*release.View{f.view, f.coming.view, f.coming.floor} {
			if v == nil {
				continue
			}
			for r := range v.Manifest.Releases() {
				if !yield(r) {
					return
				}
			}
		}
	}
}
