//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// story is what is told: a world, a zone, and how far it has come.
type story struct {
	t     *terminal
	w     *world
	zone  *storyZone
	dist  *distribution
	loads []*load // the client's, one for each family, then one at each of the other sites
	cache *cache  // between the distribution host and osa
	began time.Time
	// loaded ends with the last step, and the loads with it.
	loaded context.Context
}

// tell tells the whole story, and takes everything away at its end. Its error is nil if every step showed what it
// should; a story without an end the reader may break off.
func tell(ctx context.Context, o options) (err error) {
	s := &story{t: newTerminal(os.Stdout), began: time.Now()}
	if s.zone, err = readZone(o.zone); err != nil {
		return err
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chdir(dir); err != nil { // so that commands and what they say are short
		return err
	}
	s.w, err = s.makeWorld(o, dir)
	defer func() { err = errors.Join(err, s.w.close()) }()
	if err != nil {
		return err
	}
	if failure := s.steps(ctx); failure != nil && ctx.Err() == nil {
		s.t.fail(failure)
		s.showLogs()
		return errors.New("a step did not show what it should")
	}
	if !o.once && ctx.Err() == nil {
		s.stay(ctx)
	}
	if ctx.Err() == nil {
		return nil
	}
	s.t.end("Ended; everything that was made is being removed.")
	if o.once {
		return errors.New("interrupted before the end of the story")
	}
	return nil
}

// makeWorld makes namespaces, or takes loopback where the machine has none to give, as in many containers.
func (s *story) makeWorld(o options, dir string) (*world, error) {
	if o.loopback {
		return newWorld(false, o.bin, dir)
	}
	w, err := newWorld(true, o.bin, dir)
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return w, err
	}
	s.t.say("No network namespaces for this root (%v), so on loopback:", err)
	return newWorld(false, o.bin, dir)
}

// steps are the chapters in order.
func (s *story) steps(ctx context.Context) error {
	s.opening()
	loaded, end := context.WithCancel(ctx)
	defer end()
	s.loaded = loaded
	for _, step := range []struct {
		title string
		show  func(context.Context) error
	}{
		{"Keys are made; the distribution host and the routers start", s.makeMesh},
		{"The zone is checked, signed, and published as release 1", s.firstRelease},
		{"Three nodes start, confirm release 1, and answer from it", s.startNodes},
		{"A client asks the shared address", s.clientAsks},
		{"Release 2, and a switchover under load", s.switchover},
		{"tyo dies", s.nodeDies},
		{"tyo comes back", s.nodeReturns},
		{"Release 3 is damaged on its way to osa", s.damagedRelease},
		{"The way to osa is right again", s.recovery},
	} {
		s.t.begin(step.title)
		if err := step.show(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	s.t.end(fmt.Sprintf("That was the story: %d steps in %.0f seconds, each as it should be.", s.t.step, time.Since(s.began).Seconds()))
	return nil
}

func (s *story) opening() {
	if s.w.kernel {
		s.t.title("Three nodes, one address: an anycast DNS mesh on this machine",
			"real processes in network namespaces "+s.w.hosts["tyo"].place.Netns+" and so on; nothing leaves this machine")
	} else {
		s.t.title("Three nodes, one address: an anycast DNS mesh on this machine, on loopback", strings.Join([]string{
			"Without network namespaces (root has them) this leaves out: IPv6; one address at three nodes, so each has",
			"a stand-in of its own; routes in a kernel, so the client looks up in the routers' tables which stand-in to ask.",
			"The rest is real: BGP from the sidecars through three routers, TLS, signatures, switchover, silence."}, "\n  "))
	}
	if s.zone.unsigned {
		s.t.say("The zone is signed; signatures do not survive a new serial, so the story is told with an unsigned copy.")
	}
	s.t.picture(`
client             dist               the client's nearest node is tyo,
  │                 │                 then osa, then fra
r-tyo ─── BGP ─── r-osa ─── BGP ─── r-fra
  │                 │                 │
 tyo               osa               fra     all announce ` + s.announcedWords())
}

func (s *story) announcedWords() string { return joined(s.w.announced, " and ") }

// stay leaves the mesh to the reader until Ctrl-C.
func (s *story) stay(ctx context.Context) {
	s.t.begin("It is yours until Ctrl-C; from another terminal:")
	for i := range s.w.announced {
		for _, site := range siteNames {
			if to, ok := s.w.server(site, i); ok {
				s.t.command(s.from(site), "dig @"+to.Addr().String(), s.portWord(to), s.zone.origin, "SOA +nsid")
			}
		}
	}
	s.t.command(s.inside("dist"), s.w.binary("meshctl"), "--home", s.dist.home, "status")
	osa := s.site("osa")
	s.t.command("kill -9", fmt.Sprint(osa.coredns.Pid()), fmt.Sprint(osa.sidecar.Pid()), "  # osa")
	<-ctx.Done()
}

// from is how a command is given where the queries of a site begin: at the client, or at the site's router.
func (s *story) from(site string) string {
	if site == "tyo" {
		return s.inside("client")
	}
	return s.inside(routerName(site))
}

// inside is how a command is given at a host.
func (s *story) inside(host string) string {
	if !s.w.kernel {
		return ""
	}
	return "sudo ip netns exec " + s.w.hosts[host].place.Netns
}

// portWord is dig's option for a port that is not the usual one.
func (s *story) portWord(a netip.AddrPort) string {
	if a.Port() == 53 {
		return ""
	}
	return fmt.Sprintf("-p %d", a.Port())
}

// showLogs shows what the processes wrote last.
func (s *story) showLogs() {
	shown := map[string]bool{}
	for _, p := range s.w.processes {
		if !shown[p.Log] { // one that was started again has the same
			s.t.log(p, 8)
		}
		shown[p.Log] = true
	}
}

// site is the node of a name.
func (s *story) site(name string) *node {
	return s.w.nodes[slices.Index(siteNames, name)]
}
