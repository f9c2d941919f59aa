package mesh_test

import (
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestHostDiesBeforeCommit: the distribution host proposes a switchover and dies. The members find out from each other that none
// has heard of a commit, and all go on answering from the release before, through the instant, without a query lost. When the
// host is back it makes the switchover at another instant (I5, I6 of package mesh).
func TestHostDiesBeforeCommit(t *testing.T) {
	t.Parallel()
	m, serve := newServedMesh(t, "1h", "1m", "tyo", "osa", "fra")
	before := m.number
	m.release()
	for _, node := range m.nodes {
		m.awaitStaged(node, m.number)
	}
	at := time.Now().Add(30 * time.Second).UTC().Truncate(time.Second)
	order := m.start("dist", "schedule", m.bin+"/meshctl", "--home", m.path("home"), "schedule", "--at", at.Format(time.RFC3339))
	for _, node := range m.nodes {
		m.await(node, "the promise", func(n status.Node) bool { return n.Promise.State == status.Proposed && n.Confirms.Scheduled != nil })
	}
	loads := map[string]*lab.Load{}
	for _, node := range m.nodes {
		loads[node] = m.load(node, shared4, 10*time.Millisecond)
	}
	order.Kill()
	serve.Kill()
	for _, node := range m.nodes {
		m.await(node, "that the proposal is void", func(n status.Node) bool { return n.Promise.State == status.Void && n.Serving == before })
	}
	time.Sleep(time.Until(at.Add(2 * time.Second))) // through the instant, and what may be wrong after it
	for node, l := range loads {
		answers := l.End()
		silent := 0
		for _, a := range answers {
			switch {
			case !a.Answered():
				silent++
			case a.Release != before:
				t.Fatalf("%s answered from release %d at %v", node, a.Release, a.Got)
			}
		}
		if silent > 0 {
			t.Errorf("%s left %d of %d queries without an answer, though no fault touched it", node, silent, len(answers))
		}
	}
	m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve")
	m.meshctl("schedule", "--wait", "60s")
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
}

// TestCommitHeardFromAMember: one member's way to the distribution host is cut after it has promised and before it hears of the
// commit. It learns of the commit from the other members, and switches with them.
func TestCommitHeardFromAMember(t *testing.T) {
	t.Parallel()
	m, _ := newServedMesh(t, "1h", "1m", "tyo", "osa", "fra")
	m.release()
	for _, node := range m.nodes {
		m.awaitStaged(node, m.number)
	}
	at := time.Now().Add(30 * time.Second).UTC().Truncate(time.Second)
	order := m.start("dist", "schedule", m.bin+"/meshctl", "--home", m.path("home"), "schedule", "--at", at.Format(time.RFC3339))
	m.await("fra", "the promise", func(n status.Node) bool { return n.Promise.State == status.Proposed && n.Confirms.Scheduled != nil })
	m.mustRun("fra", "nft", "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; "+
		"add rule inet cut out ip daddr 198.51.100.1 tcp dport 8443 drop") // the repository's; the host can still ask fra
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
	for _, node := range m.nodes {
		n, _ := m.status(node)
		if n.Switched == nil || n.Switched.Number != m.number || !n.Switched.At.Time().Equal(at) {
			t.Errorf("%s: switched %+v, want at %v", node, n.Switched, at)
		}
	}
	m.mustRun("fra", "nft", "delete table inet cut")
	m.eventually(30*time.Second, "the command ends", func() (bool, string) { return !order.Alive(), lab.Tail(order.Log, 3) })
}
