package mesh_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestFindings tells, with the real programs, what once went wrong with the protocol or ended badly: one story after the other, in
// one mesh of three nodes, which clients ask all the time. At the end of each, all nodes answer from the newest release, or the
// release that is staged is proposed anew in the next. No answer is of a release that it is not the time of, and no node is silent
// that the story does not touch. internal/mesh/findings_test.go tells the same ones to the deciders, in their simulated time, and
// those that a machine cannot be made to tell:
//
//   - The host's clock is behind when it cancels, or two years behind at its start; a node's clock steps at the instant: a process
//     has no wall clock of its own (a time namespace has none, and libfaketime does nothing to Go), and this one's is not to be
//     set. A node's chronyd is told here that its clock is off, so that the sample which the node goes by is that of a wrong clock.
//   - A virtual machine that is frozen across the instant, and thaws with the clocks of then: here the processes of a node stand
//     still across it, and their clocks go on.
func TestFindings(t *testing.T) {
	t.Parallel()
	f := newFindings(t)
	defer f.watch()()
	for _, story := range []struct {
		name string
		tell func(f *findings)
	}{
		{"a lead that cannot work is refused", leadRefused},
		{"a node restarts on read-only disks", readOnlyDisks},
		{"two sidecars stand still while one holds the promise", sidecarsStand},
		{"a promise that cannot be written is not given, and the link of one that has promised goes bad", linkGoesBad},
		{"the host stands still between proposal and commit", hostStands},
		{"cancel, and the host loses power", cancelAndPowerCut},
		{"cancel and a new release, with a slow link", cancelAndRelease},
		{"the host loses power between its writes", hostDies},
		{"one is killed as it promises, another stands still across the instant", killedAndFrozen},
		{"one member is dead, and a clock goes wrong before the instant", deadMember},
		{"the host is restored from a backup", restored},
	} {
		if !t.Run(story.name, f.sub(func(*testing.T) {
			f.say("── %s", story.name)
			story.tell(f)
		})) {
			break
		}
	}
	f.judge()
}

// findings is the mesh of these stories.
type findings struct {
	*judged
	random *rand.Rand
}

func newFindings(t *testing.T) *findings {
	testenv.Need(t, "chronyd", "nft")
	seed := uint64(time.Now().UnixNano())
	t.Cleanup(func() { t.Logf("drawn by %d", seed) })
	m := meshOf(newWorld(t), "tyo", "osa", "fra")
	f := &findings{judged: newJudged(m), random: rand.New(rand.NewPCG(seed, 0))}
	m.machines()
	m.startTime()
	m.init("--lease", "1h")
	m.world.write("home/meshctl.yaml", "serve: {listen: '198.51.100.1:8443', access: [198.51.100.0/24], renew: 1m}\n")
	f.startServe()
	for _, node := range m.nodes {
		m.configure(node)
		m.must(m.places[node].OwnMounts())
		m.must(m.places[node].Do(func() error { return unix.Mount(m.path(node, "mesh"), m.path(node, "mesh"), "", unix.MS_BIND, "") }))
		m.mountDisk(node, f.state(node))
		m.startClock(node)
		m.startSidecar(node)
		m.startCoreDNS(node)
	}
	m.firstRelease()
	f.ask()
	return f
}

// startServe starts the distribution host, which makes no proposals by itself: that is what the commands of the stories do.
func (f *findings) startServe() {
	f.serve = f.start("dist", "serve", f.bin+"/meshctl", "--home", f.path("home"), "serve")
}

// state is where a node keeps what it promises.
func (f *findings) state(node string) string { return f.path(node, "mesh", "state") }

// ── what the stories are made of

// stage makes a release, and waits until these nodes have it ready.
func (f *findings) stage(nodes ...string) {
	f.t.Helper()
	f.release()
	for _, node := range nodes {
		f.awaitStaged(node, f.number)
	}
}

// order gives the order to switch, and leaves it at that.
func (f *findings) order(how ...string) *lab.Process {
	return f.start("dist", "schedule", append([]string{f.bin + "/meshctl", "--home", f.path("home"), "schedule", "--wait", "60s"}, how...)...)
}

// promised waits until nodes hold one switchover that is yet to come, and confirm it, and returns its instant.
func (f *findings) promised(nodes ...string) (at time.Time) {
	f.t.Helper()
	for _, node := range nodes {
		f.await(node, node+" has promised a switchover", func(n status.Node) bool {
			p := n.Promise
			if p.State != status.Proposed && p.State != status.Committed || n.Confirms.Scheduled == nil || p.At.Time().Before(time.Now()) {
				return false
			}
			at = p.At.Time()
			return true
		})
	}
	f.say("%v have promised %s", nodes, at.UTC().Format("15:04:05.000"))
	return at
}

// Connections are refused here, so that a round of the mirror fails at once: what hangs again and again makes the lead longer for as long as
// rounds are looked back upon. TestStorm lets packets get lost.

// deaf keeps what the host publishes from a node, also by a request that the host holds, until heard is called. The host can still ask
// it, and so can the other members, which it asks as well.
func (f *findings) deaf(node string) (heard func()) { return f.deafTo("198.51.100.1", node) }

// deafToAll is deaf, and the node hears nothing of other members either. They can ask it.
func (f *findings) deafToAll(node string) (heard func()) { return f.deafTo("198.51.100.0/24", node) }

func (f *findings) deafTo(whom, node string) (heard func()) {
	t := f.touches(node)
	f.mustRun(node, "nft", "add table inet deaf; add chain inet deaf out { type filter hook output priority 0; }; "+
		"add rule inet deaf out ip daddr "+whom+" tcp dport 8443 reject with tcp reset; "+
		"add chain inet deaf in { type filter hook input priority 0; }; add rule inet deaf in ip saddr "+whom+" tcp sport 8443 reject with tcp reset")
	return func() {
		f.mustRun(node, "nft", "delete table inet deaf")
		f.healed(t)
	}
}

// alone cuts a node off from the host and from all members, until joined is called.
func (f *findings) alone(node string) (joined func()) {
	t := f.touches(node)
	f.mustRun(node, "nft", "add table inet alone; add chain inet alone out { type filter hook output priority 0; }; "+
		"add rule inet alone out ip daddr 198.51.100.0/24 tcp dport 8443 reject with tcp reset; "+
		"add chain inet alone in { type filter hook input priority 0; }; add rule inet alone in tcp dport 8443 reject with tcp reset; "+
		"add rule inet alone in tcp sport 8443 reject with tcp reset")
	return func() {
		f.mustRun(node, "nft", "delete table inet alone")
		f.healed(t)
	}
}

// healed waits until the nodes that something touched answer, and says that it is over.
func (f *findings) healed(t *touch) {
	since := time.Now()
	for _, node := range t.nodes {
		f.awaitAnswers(node, 1, since)
	}
	t.ends()
}

// past waits until a while after an instant.
func (f *findings) past(at time.Time) { time.Sleep(time.Until(at.Add(time.Second))) }

// dies ends processes as when a machine loses power.
func dies(all ...*lab.Process) {
	for _, p := range all {
		p.Signal(syscall.SIGKILL)
	}
	for _, p := range all {
		p.Kill()
	}
}

// switched waits until all nodes answer from the newest release, to which the switchover is ordered unless that is done.
func (f *findings) switched() {
	f.t.Helper()
	said, err := f.run("dist", f.bin+"/meshctl", "--home", f.path("home"), "schedule", "--wait", "60s")
	if err != nil && !strings.Contains(said, "no release is staged") {
		f.fatalf("%v: %s", err, said)
	}
	for _, node := range f.nodes {
		f.awaitServing(node, f.number)
	}
}

// calm has no switchover proposed until the next order. One that is committed by now, since all members heard of it before the fault came
// or from each other, is made, and another release is staged in its place. heard ends the fault.
func (f *findings) calm(heard func()) {
	f.t.Helper()
	said, err := f.run("dist", f.bin+"/meshctl", "--home", f.path("home"), "schedule", "--cancel")
	committed := err != nil && strings.Contains(said, "is committed")
	if err != nil && !committed && !strings.Contains(said, "no switchover is set") {
		f.fatalf("%v: %s", err, said)
	}
	f.meshctl("pause")
	heard()
	if committed {
		f.say("it was committed")
		f.switched()
		f.stage(f.nodes...)
	}
}

// ── the stories

func leadRefused(f *findings) {
	f.stage(f.nodes...)
	for _, lead := range []string{"100ms", "1s"} {
		said, err := f.run("dist", f.bin+"/meshctl", "--home", f.path("home"), "schedule", "--in", lead, "--wait", "0s")
		if err == nil || !strings.Contains(said, "too-early") {
			f.errorf("a lead of %s: %v: %s", lead, err, said)
		}
	}
}

// A node that can write nothing any more, and starts again, answers on from what is there.
func readOnlyDisks(f *findings) {
	disks := []string{f.path("osa", "mesh"), f.state("osa")}
	t := f.touches("osa")
	dies(f.coredn["osa"], f.side["osa"])
	f.remount("osa", unix.MS_BIND|unix.MS_RDONLY, disks...)
	f.startSidecar("osa")
	f.startCoreDNS("osa")
	f.healed(t)
	for _, dir := range disks {
		err := f.places["osa"].Do(func() error { return os.WriteFile(filepath.Join(dir, "try"), nil, 0o600) })
		if !errors.Is(err, syscall.EROFS) {
			f.errorf("to write to %s: %v", dir, err)
		}
	}
	f.remount("osa", unix.MS_BIND, disks...)
}

// The word that the switchover is off does not come to two nodes, of which one has promised it: both sidecars stand still from
// before it until after the instant, and die with what they were to hear.
func sidecarsStand(f *findings) {
	heard := f.deaf("osa")
	order := f.order()
	at := f.promised("tyo", "fra")
	t := f.touches("tyo", "osa")
	f.side["tyo"].Signal(syscall.SIGSTOP)
	f.side["osa"].Signal(syscall.SIGSTOP)
	f.past(at)
	order.Kill()
	dies(f.side["tyo"], f.side["osa"])
	f.startSidecar("tyo")
	f.startSidecar("osa")
	f.healed(t)
	heard()
}

// A node cannot write, so it does not promise, and the switchover is withdrawn; another has promised, and hears no more of it.
func linkGoesBad(f *findings) {
	t := f.touches("osa")
	f.fill("osa", f.state("osa"))
	order := f.order()
	at := f.promised("tyo", "fra")
	joined := f.alone("fra")
	f.past(at)
	if n, ok := f.status("osa"); !ok || n.Promise.At.Time().Equal(at) {
		f.errorf("osa could not write, and holds %+v", n.Promise)
	}
	order.Kill()
	f.clear("osa", f.state("osa"))
	f.healed(t)
	joined()
}

// Who drives the switchover is so slow that the rest of it comes after the instant, and nobody else goes on with it: the members find
// out from each other that there is no commit.
func hostStands(f *findings) {
	heard := f.deaf("osa")
	order := f.order()
	at := f.promised("tyo", "fra")
	order.Signal(syscall.SIGSTOP)
	dies(f.serve)
	f.past(at)
	order.Signal(syscall.SIGCONT)
	f.startServe()
	order.Kill()
	f.calm(heard)
}

func cancelAndPowerCut(f *findings) {
	heard := f.deaf("osa")
	order := f.order()
	at := f.promised("tyo", "fra")
	cancel := f.start("dist", "cancel", f.bin+"/meshctl", "--home", f.path("home"), "schedule", "--cancel")
	after := time.Duration(f.random.IntN(300)) * time.Millisecond
	time.Sleep(after)
	dies(cancel, order, f.serve)
	f.say("the power is cut %v after the order to cancel", after)
	f.past(at)
	f.startServe()
	f.calm(heard)
}

func cancelAndRelease(f *findings) {
	osaHears := f.deafToAll("osa")
	order := f.order()
	at := f.promised("tyo", "fra")
	fraHears := f.deaf("fra")
	order.Kill()
	f.meshctl("schedule", "--cancel")
	f.release()
	osaHears()
	order = f.order()
	f.past(at)
	fraHears()
	if err := order.Wait(); err != nil {
		f.errorf("the order to switch: %v: %s", err, lab.Tail(order.Log, 10))
	}
	f.switched()
}

func hostDies(f *findings) {
	f.stage(f.nodes...)
	order := f.order()
	at := f.promised("tyo")
	after := time.Duration(f.random.IntN(3000)) * time.Millisecond
	time.Sleep(after)
	dies(order, f.serve)
	f.say("the host loses power %v after the promise", after)
	f.past(at)
	f.startServe()
	f.switched()
}

func killedAndFrozen(f *findings) {
	f.stage(f.nodes...)
	order := f.order()
	f.promised("tyo")
	t := f.touches("tyo")
	f.coredn["tyo"].Kill()
	f.startCoreDNS("tyo")
	f.healed(t)
	at := f.promised("osa")
	time.Sleep(time.Until(at.Add(-time.Second)))
	t = f.touches("osa")
	all := []*lab.Process{f.coredn["osa"], f.side["osa"], f.chrony["osa"]}
	for _, p := range all {
		p.Signal(syscall.SIGSTOP)
	}
	f.past(at)
	for _, p := range all {
		p.Signal(syscall.SIGCONT)
	}
	f.healed(t)
	if err := order.Wait(); err != nil {
		f.errorf("the order to switch: %v: %s", err, lab.Tail(order.Log, 10))
	}
	f.switched()
}

// One member is dead, and is gone on without after ten seconds. When it comes back, its sidecar is first: with that setting a member that
// was not waited for may answer from the release before until it hears of the new one (I2).
func deadMember(f *findings) {
	dead := f.touches("fra")
	dies(f.coredn["fra"], f.side["fra"])
	f.stage("tyo", "osa")
	order := f.order("--absent", "10s")
	at := f.promised("osa")
	f.await("osa", "osa has the commit", func(n status.Node) bool { return n.Promise.State == status.Committed || n.Serving == f.number })
	wrong := f.touches("osa")
	f.chrony["osa"].Kill()
	f.chrony["osa"] = f.chronyd("osa", "chronyd", "server 198.51.100.2 iburst minpoll 0 maxpoll 0 offset 0.3\nbindcmdaddress 127.0.0.1\n")
	f.past(at)
	f.chrony["osa"].Kill()
	f.startClock("osa")
	f.awaitServing("osa", f.number)
	f.healed(wrong)
	if order.Wait(); !strings.Contains(readFile(order.Log), fmt.Sprintf("release %d is current", f.number)) {
		f.errorf("the order to switch: %s", lab.Tail(order.Log, 10))
	}
	f.startSidecar("fra")
	f.awaitFresh("fra")
	f.startCoreDNS("fra")
	f.awaitServing("fra", f.number)
	f.healed(dead)
}

// The home is as it was a release ago. Its host publishes nothing until it has learnt from the members' depots what they verified.
func restored(f *findings) {
	f.mustRun("dist", "cp", "-a", f.path("home"), f.path("backup"))
	f.stage(f.nodes...)
	f.switched()
	dies(f.serve)
	f.must(os.Rename(f.path("home"), f.path("lost")))
	f.mustRun("dist", "cp", "-a", f.path("backup"), f.path("home"))
	f.startServe()
	f.by(heals, "serve says that its state is old", func() (bool, string) {
		return strings.Contains(readFile(f.serve.Log), "state-restored"), lab.Tail(f.serve.Log, 5)
	})
	dies(f.serve)
	recover := []string{"recover"}
	for _, node := range f.nodes {
		recover = append(recover, f.path(node, "mesh", "repository"))
	}
	f.say("%s", f.meshctl(recover...))
	f.startServe()
	f.stage(f.nodes...)
	f.switched()
}

// TestAMirrorIntervalOfEightSeconds: one member follows a static server, which holds no requests, and looks for news every eight seconds. So
// the lead is as long as it takes to hear of a proposal and of a commit all the same, and no answer is lost or wrong.
func TestAMirrorIntervalOfEightSeconds(t *testing.T) {
	t.Parallel()
	m, serve := newServedMesh(t, "1h", "1m", "tyo", "osa")
	j := newJudged(m)
	j.serve = serve
	m.write("osa/sidecar.yaml", strings.Replace(readFile(m.path("osa", "sidecar.yaml")), "interval: 1s", "interval: 8s", 1))
	m.between("osa", 9008)
	j.ask()
	defer j.watch()()
	began := time.Now()
	m.release()
	m.schedule()
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
	n, _ := m.status("tyo")
	if took := n.Switched.At.Time().Sub(began); took < 2*8*time.Second { // once for the proposal, and once for the commit
		t.Errorf("the instant was %v after the release was made, which is too short to hear of it at that interval", took)
	}
	j.judge()
}
