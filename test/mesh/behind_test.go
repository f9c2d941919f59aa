package mesh_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestANodeManyReleasesBehind comes to the newest release by packs alone, of which a file lists those that the manifest has no room for; and so
// does a node that joins, after the text that they begin with. The mesh has no members while the releases are made, so that each is current
// at once; the node that is behind has the depot of the second one.
func TestANodeManyReleasesBehind(t *testing.T) {
	t.Parallel()
	m := meshOf(newWorld(t), "tyo", "osa")
	m.machines()
	m.startTime()
	m.meshctl("init", "--mesh", "test", "--san", "198.51.100.1")
	const newest = release.MaxPacks + 2
	var wide strings.Builder
	for i := range 300 { // some kilobytes each: a zone is large from a mebibyte on
		fmt.Fprintf(&wide, "wide%d TXT", i)
		for j := range 80 {
			sum := sha256.Sum256(fmt.Append(nil, i, j))
			fmt.Fprintf(&wide, " %s", base64.RawStdEncoding.EncodeToString(sum[:]))
		}
		wide.WriteString("\n")
	}
	for m.number < newest {
		m.number++
		m.meshctl("release", "--now", m.write("example.org.zone", zoneText(m.number)+wide.String()))
		if m.number == 2 {
			copyTree(m, m.path("home", "repository"), m.path("tyo", "mesh", "repository"), nil)
		}
	}
	for _, node := range m.nodes {
		m.meshctl("member", "add", node, "--admin", m.admin(node)+":8443")
	}
	m.startHost()
	for _, node := range m.nodes {
		m.startNode(node)
	}
	for _, node := range m.nodes {
		m.awaitServing(node, newest)
		if r := m.ask(node, "udp", shared4, "release.example.org.", dns.TypeTXT); r == nil || releaseOf(r).Release != newest {
			t.Errorf("%s answers %v", node, r)
		}
		if r := m.ask(node, "tcp", shared4, "wide299.example.org.", dns.TypeTXT); r == nil || len(r.Answer) != 1 || len(r.Answer[0].(*dns.TXT).Txt) != 80 {
			t.Errorf("%s answers %v", node, r)
		}
	}
	z := m.released("osa")
	if z.BaseRoot == (release.Digest{}) || z.Earlier == (release.Blob{}) || len(z.Packs) >= newest-2 {
		t.Fatalf("who is at release 2 finds its way without a list of packs: %+v", z)
	}
	behind, joins := m.mirrored("tyo"), m.mirrored("osa")
	if behind.Deltas != 1 || behind.Wholes+behind.DeltasFailed > 0 || behind.ZoneBytes > z.Blob.Length/4 {
		t.Errorf("the node that is behind has it of packs %d times, whole %d times, by %d octets of %d; %d packs failed", behind.Deltas, behind.Wholes, behind.ZoneBytes, z.Blob.Length, behind.DeltasFailed)
	}
	if joins.Wholes != 1 || joins.Deltas+joins.DeltasFailed > 0 || joins.ZoneBytes <= z.Blob.Length || joins.ZoneBytes > z.Blob.Length*5/4 {
		t.Errorf("the node that joins has it whole %d times, of packs %d times, by %d octets of %d; %d packs failed", joins.Wholes, joins.Deltas, joins.ZoneBytes, z.Blob.Length, joins.DeltasFailed)
	}
	for _, node := range m.nodes { // the text, a pack for each release since, the list
		if blobs, _ := filepath.Glob(m.path(node, "mesh", "repository", "blobs", "sha256", "[0-9a-f]*")); len(blobs) != 1+newest-1+1 {
			t.Errorf("%s: %q", node, blobs)
		}
	}
}

// released is the zone of the newest release, as a node's depot has it.
func (m *mesh) released(node string) (z release.Zone) {
	m.t.Helper()
	files, _ := filepath.Glob(m.path(node, "mesh", "repository", "targets", "*mesh.json"))
	for _, file := range files {
		var manifest struct {
			Current struct {
				Number uint64         `json:"number"`
				Zones  []release.Zone `json:"zones"`
			} `json:"current"`
		}
		m.must(json.Unmarshal([]byte(readFile(file)), &manifest))
		if manifest.Current.Number == m.number && len(manifest.Current.Zones) == 1 {
			z = manifest.Current.Zones[0]
		}
	}
	return z
}

// mirrored is how a node's mirror goes, once it has had a zone.
func (m *mesh) mirrored(node string) (is status.Mirroring) {
	m.t.Helper()
	m.eventually(30*time.Second, node+" says how it has the zone", func() (bool, string) {
		var said struct{ Sidecar status.Sidecar }
		err := socket.Read(context.Background(), m.path(node, "sidecar.sock"), &said)
		if err == nil && said.Sidecar.Mirror != nil {
			is = *said.Sidecar.Mirror
		}
		return is.Deltas+is.Wholes > 0, fmt.Sprint(is, err)
	})
	return is
}
