//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// distribution is the distribution host: meshctl's home, and what serves it to the nodes.
type distribution struct {
	w    *world
	t    *terminal
	home string
}

const (
	cachePort = 8445 // of the cache between the distribution host and osa, at the distribution host's address
	// lead is the time from setting a switchover to the switchover. An operator would take the default, 10 s; half of
	// it is for the nodes to confirm, and these are near.
	lead = 4 * time.Second
)

// run runs meshctl at the distribution host and shows the command as a reader would give it.
func (d *distribution) run(ctx context.Context, args ...string) (string, error) {
	d.t.command(append([]string{"meshctl"}, args...)...)
	return d.host().place.run(ctx, append([]string{d.w.binary("meshctl"), "--home", d.home}, args...)...)
}

func (d *distribution) host() *host { return d.w.hosts["dist"] }

// url is where nodes get releases, on the administrative address (DELIV-1).
func (d *distribution) url(port int) string {
	return fmt.Sprintf("https://%s:%d/", d.host().admin, port)
}

// own is who the distribution host is; identityIn is who a member is, by the directory that it was given.
func (d *distribution) own() identity {
	return identity{Certificate: d.home + "/pki/host.crt", Key: d.home + "/pki/host.key", CA: d.home + "/pki/ca.crt"}
}

func identityIn(dir string) identity {
	return identity{Certificate: dir + "/node.crt", Key: dir + "/node.key", CA: dir + "/ca.crt"}
}

// makeMesh makes keys and members, and starts what serves the repository, with the routers beside it.
func (s *story) makeMesh(ctx context.Context) error {
	if err := s.w.startRouters(); err != nil {
		return err
	}
	s.dist = &distribution{w: s.w, t: s.t, home: filepath.Join(s.w.dir, "dist")}
	d := s.dist
	if _, err := d.run(ctx, "init", "--mesh", "demo", "--san", d.host().admin.String()); err != nil {
		return err
	}
	for _, n := range s.w.nodes {
		if _, err := d.run(ctx, "member", "add", n.name, "--admin", fmt.Sprintf("%s:%d", n.admin, adminPort)); err != nil {
			return err
		}
		// An operator would carry this directory to the node by hand or by ssh.
		if err := os.CopyFS(n.dir, os.DirFS(filepath.Join(d.home, "members", n.name))); err != nil {
			return err
		}
	}
	s.t.check("DELIV-2 DELIV-3", "root, release and lease keys; a certificate for each node")
	d.t.command("meshctl serve", fmt.Sprintf("--listen %s:%d", d.host().admin, repositoryPort), "&")
	if _, err := s.w.start(d.host(), "dist-serve", nil, nil, s.w.binary("meshctl"), "--home", d.home, "serve",
		"--listen", fmt.Sprintf("%s:%d", d.host().admin, repositoryPort)); err != nil {
		return err
	}
	if err := until(ctx, 15*time.Second, "sessions between the routers", s.w.routersTalk); err != nil {
		return err
	}
	s.t.check("", "r-tyo, r-osa and r-fra have BGP sessions with each other")
	return nil
}

// release makes the zone of a release and publishes it.
func (d *distribution) release(ctx context.Context, s *story, number uint64, options ...string) error {
	file, err := s.zone.write(".", number)
	if err != nil {
		return err
	}
	said, err := d.run(ctx, append([]string{"release", file}, options...)...)
	if err != nil {
		return err
	}
	s.t.say("%s", said)
	return nil
}

// firstRelease publishes release 1. Nothing is answered yet, so it needs no switchover.
func (s *story) firstRelease(ctx context.Context) error {
	file, err := s.zone.write(".", 1)
	if err != nil {
		return err
	}
	said, err := s.dist.run(ctx, "check", file)
	if err != nil {
		return err
	}
	if said != "" {
		s.t.say("%s", said)
	}
	s.t.check("SYNC-B", "%s with serial %d is fit to be served", s.zone.origin, s.zone.serial(1))
	if err := s.dist.release(ctx, s, 1, "--now"); err != nil {
		return err
	}
	s.t.check("DELIV-3", "release 1 is signed and published")
	return nil
}

// startNodes starts the nodes, osa behind a cache, and waits until they answer from release 1.
func (s *story) startNodes(ctx context.Context) (err error) {
	osa := s.site("osa")
	s.cache, err = startCache(s.dist.host().place, fmt.Sprintf("%s:%d", s.dist.host().admin, cachePort), s.dist.url(repositoryPort),
		s.dist.own(), identityIn(osa.dir))
	if err != nil {
		return err
	}
	for _, n := range s.w.nodes {
		port := repositoryPort
		if n == osa {
			port = cachePort
		}
		if err := s.w.configure(n, identityIn(n.dir), s.dist.url(port)); err != nil {
			return err
		}
		s.t.command("anycast-sidecar run sidecar.yaml & coredns -conf Corefile &   # at " + n.name)
		if err := s.w.startNode(n); err != nil {
			return err
		}
	}
	if err := s.eachServes(ctx, 20*time.Second, 1, s.w.nodes...); err != nil {
		return err
	}
	s.t.check("SYNC-C SYNC-D DELIV-1", "tyo, osa and fra fetched release 1 over mutual TLS, verified it, and answer from it")
	for _, site := range siteNames {
		if err := s.leads(ctx, 20*time.Second, site, site); err != nil {
			return err
		}
	}
	s.t.check("ROUTE-1", "each sidecar saw its node answer, and announces %s by BGP", s.announcedWords())
	return nil
}

// schedule sets the switchover to the staged release and shows what meshctl said.
func (d *distribution) schedule(ctx context.Context, options ...string) error {
	said, err := d.run(ctx, append([]string{"schedule", "--in", lead.String()}, options...)...)
	if err == nil {
		d.t.say("%s", said)
	}
	return err
}

// refusesSchedule checks that a release which a member cannot take is not scheduled.
func (d *distribution) refusesSchedule(ctx context.Context, s *story, number uint64) error {
	said, err := d.run(ctx, "schedule", "--wait", "0s")
	if err == nil {
		return fmt.Errorf("release %d was scheduled though osa cannot take it:\n%s", number, said)
	}
	if ctx.Err() != nil {
		return err
	}
	s.t.say("%s", said)
	if !strings.Contains(said, "osa") {
		return fmt.Errorf("the refusal does not say that it is osa's:\n%s", said)
	}
	s.t.check("SYNC-D FAIL-4", "what a member cannot load is not scheduled; the operator insists:")
	return nil
}

// mirrorFault is why a node's mirror cannot follow the repository, by `anycast-sidecar status`.
func (s *story) mirrorFault(ctx context.Context, n *node) (string, error) {
	said, err := n.place.run(ctx, s.w.binary("anycast-sidecar"), "status", filepath.Join(n.dir, "sidecar.yaml"))
	if err != nil {
		return "", err
	}
	var st status.Sidecar
	if err := status.Decode([]byte(said), &st); err != nil {
		return "", err
	}
	if st.Mirror == nil || st.Mirror.LastError == "" {
		return "", fmt.Errorf("%s's mirror finds nothing wrong", n.name)
	}
	return st.Mirror.LastError, nil
}
