package mesh_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestAStolenReleaseKey: whoever has the keys that are online, and the address of the distribution host, has nodes take his content
// under release numbers as high as they let him. What docs/operate/keys.md says undoes it: two keys, and numbers that begin above his.
// Nodes that saw all of it, one that saw none, and one that is new answer from the mesh's own zones again, and go on together; what
// the thief signs then is worth nothing.
func TestAStolenReleaseKey(t *testing.T) {
	t.Parallel()
	m := newMesh(newWorld(t), "tyo", "osa")
	seen := m.number
	m.side["osa"].Stop() // it sees none of it
	m.dist.Stop()
	thief := m.steal()
	for range 3 {
		thief.raises()
		m.awaitServing("tyo", thief.number)
	}
	if answer := m.answer("tyo"); answer != "666" {
		t.Errorf("the thief's content is not what is answered: %s", answer)
	}
	thief.server.Close()

	// The mesh's own host is back, which knows of nothing.
	m.startHost()
	highest := m.verified("tyo")
	if highest != seen+3*release.MaxStep {
		t.Errorf("meshctl status says that the highest release of a member is %d", highest)
	}
	if out, err := m.run("dist", m.program("dist", "meshctl"), "--home", m.path("home"), "keys", "rotate", "release", "--numbers-from", fmt.Sprint(seen)); err == nil {
		t.Errorf("a number that was used: %s", out)
	}
	from := highest + 1e15
	out := m.meshctl("keys", "rotate", "release", "--numbers-from", fmt.Sprint(from))
	if !strings.Contains(out, fmt.Sprintf("release numbers begin at %d", from)) {
		t.Error(out)
	}
	m.meshctl("keys", "rotate", "lease")
	m.startSidecar("osa")
	for _, node := range []string{"tyo", "osa"} {
		m.awaitServing(node, from)
		if answer := m.answer(node); answer != fmt.Sprint(seen) {
			t.Errorf("%s answers from release %s", node, answer)
		}
	}
	m.host("fra")
	m.admins["fra"] = "198.51.100.9"
	m.connect("fra", "fra", m.admin("fra")+"/24")
	m.address("fra", "lo", shared4+"/32")
	m.address("fra", "lo", shared6+"/128")
	m.meshctl("member", "add", "fra", "--admin", m.admin("fra")+":8443")
	m.startNode("fra")
	m.awaitServing("fra", from)

	// All go on, and together.
	m.nodes = append(m.nodes, "fra")
	m.release()
	m.number = from + 1
	m.schedule()
	for _, node := range m.nodes {
		m.awaitServing(node, from+1)
		if answer := m.answer(node); answer != fmt.Sprint(seen+1) {
			t.Errorf("%s answers from release %s", node, answer)
		}
	}
	m.eventually(60*time.Second, "all is well", func() (bool, string) {
		out, _ := m.run("dist", m.program("dist", "meshctl"), "--home", m.path("home"), "status")
		return !strings.Contains(out, "ALARM"), out
	})

	// The thief is back, with more, and there is nobody else.
	m.dist.Stop()
	thief.serve()
	thief.raises()
	for _, node := range m.nodes {
		m.eventually(60*time.Second, node+" refuses what the thief signs", func() (bool, string) {
			return strings.Contains(readFile(m.side[node].Log), "timestamp.json: signature"), lab.Tail(m.side[node].Log, 5)
		})
		if n, _ := m.status(node); n.Serving != from+1 {
			t.Errorf("%s answers from release %d", node, n.Serving)
		}
	}
}

// answer is the release that a node's answer says that it is of.
func (m *mesh) answer(node string) string {
	m.t.Helper()
	r := m.ask(node, "udp", shared4, "release.example.org.", 16)
	if r == nil || len(r.Answer) != 1 {
		return fmt.Sprint(r)
	}
	text := r.Answer[0].String()
	return strings.Trim(text[strings.LastIndexByte(text, '\t')+1:], `"`)
}

// verified is the highest release of a member, as an operator finds it.
func (m *mesh) verified(node string) (number uint64) {
	m.t.Helper()
	m.eventually(60*time.Second, "meshctl status tells of "+node, func() (bool, string) {
		out, _ := m.run("dist", m.program("dist", "meshctl"), "--home", m.path("home"), "status")
		if line := regexp.MustCompile(node + ` +serving (\d+)`).FindStringSubmatch(out); line != nil {
			number, _ = strconv.ParseUint(line[1], 10, 64)
		}
		return number > 0, out
	})
	return number
}

// thief has the release key, the lease key and the distribution host's address.
type thief struct {
	m      *mesh
	by     release.Signers
	memory release.Memory
	repo   *depot.Dir
	number uint64
	stamp  int64 // version of what he signed last: he begins high
	server *http.Server
}

// steal copies the keys that are online and what is published, and serves it.
func (m *mesh) steal() *thief {
	m.t.Helper()
	key := func(name string) ed25519.PrivateKey {
		k, err := release.ParseKey([]byte(readFile(m.path("home", "keys", name))))
		m.must(err)
		return k
	}
	m.must(os.CopyFS(m.path("thief"), os.DirFS(m.path("home", "repository"))))
	repo, err := depot.Open(m.path("thief"))
	m.must(err)
	m.top.Cleanup(func() { repo.Close() })
	memory, err := release.NewMemory([]byte(readFile(m.path("thief", release.RootName(1)))))
	m.must(err)
	view, memory, err := release.Verify(repo, memory)
	m.must(err)
	th := &thief{m: m, by: release.Signers{Release: key("release.pem"), Lease: key("lease.pem")}, memory: memory, repo: repo, number: view.Manifest.Current.Number}
	th.serve()
	return th
}

// serve serves what the thief has, where the distribution host was.
func (th *thief) serve() {
	th.m.t.Helper()
	m := th.m
	own, err := tls.LoadX509KeyPair(m.path("home", "pki", "host.crt"), m.path("home", "pki", "host.key"))
	m.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(m.path("home", "pki", "ca.crt"))))
	var listener net.Listener
	m.within("dist", func() { listener, err = net.Listen("tcp", "198.51.100.1:8443") })
	m.must(err)
	listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	th.server = &http.Server{Handler: depot.Handler(th.repo), ErrorLog: log.New(io.Discard, "", 0)}
	go th.server.Serve(listener)
	m.top.Cleanup(func() { th.server.Close() })
}

// raises publishes another zone under the highest number that nodes take after the last.
func (th *thief) raises() {
	m := th.m
	m.t.Helper()
	z, found := zonefile.Parse(strings.NewReader(zoneText(666)), zonefile.Options{Origin: "example.org."})
	if z == nil {
		m.fatalf("%v", found)
	}
	c, err := th.repo.PutBlob(func(w io.Writer) error { return zonefile.Write(w, z) })
	m.must(err)
	view, _, err := release.Restore(th.memory, nil)
	m.must(err)
	th.number += release.MaxStep
	stolen := view.Manifest
	stolen.Next = nil
	stolen.Current = &release.Release{Number: th.number, Switchover: time.Now().UTC().Truncate(time.Microsecond),
		Zones: []release.Zone{{Origin: z.Origin(), Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}}}
	day := time.Now().AddDate(0, 0, 1)
	ends := release.Expiries{Root: view.Expires.Root, Targets: day, Snapshot: day, Timestamp: day}
	th.stamp += 1e9
	over := release.Versions{Targets: th.stamp, Snapshot: th.stamp, Timestamp: th.stamp}
	files, memory, err := release.Overtake(th.memory, over, th.by, ends)
	if err == nil {
		files, memory, err = release.Publish(memory, stolen, th.by, ends)
	}
	m.must(err)
	m.must(publish.Files(th.repo, files))
	th.memory = memory
}
