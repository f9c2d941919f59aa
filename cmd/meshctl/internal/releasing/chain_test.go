package releasing

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// chains is a host that makes releases of one large zone, of which only the sizes matter.
type chains struct {
	t       *testing.T
	zone    release.Zone
	packs   []release.Pack // all that were ever made
	files   map[release.Digest][]byte
	written int64 // octets of lists
	texts   int
}

func (c *chains) put(write func(io.Writer) error) (depot.Content, error) {
	var b writerTo
	if err := write(&b); err != nil {
		return depot.Content{}, err
	}
	name := release.DigestOf(b)
	c.files[name], c.written = b, c.written+int64(len(b))
	return depot.Content{Blob: release.Blob{SHA256: name, Length: int64(len(b))}}, nil
}

type writerTo []byte

func (w *writerTo) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }

func (c *chains) earlier() []release.Pack {
	if c.zone.Earlier == (release.Blob{}) {
		return nil
	}
	packs, err := release.ParseEarlier(c.files[c.zone.Earlier.SHA256])
	if err != nil {
		c.t.Fatal(err)
	}
	return packs
}

// release makes a release of a zone with a root, whose text has so many octets, by a pack of so many.
func (c *chains) release(root release.Digest, text, octets int64, beside bool, most int) {
	pack := release.Pack{From: c.zone.Root, Length: octets, Blob: release.Blob{SHA256: release.DigestOf(fmt.Append(nil, len(c.packs))), Length: octets}}
	c.packs = append(c.packs, pack)
	l := newLead(c.zone, c.earlier(), pack, root)
	next := release.Zone{Origin: "example.", Root: root, Length: text, SHA256: root, Blob: release.Blob{SHA256: root, Length: text}}
	base := c.zone.Base()
	if due, over := l.isDue(base); !over && (beside || !due) {
		next.SHA256, next.Length, next.Blob, next.BaseRoot = base.SHA256, base.Length, base.Blob, base.Root
	} else {
		c.texts++
	}
	if err := l.name(&next, most, true, c.put); err != nil {
		c.t.Fatal(err)
	}
	c.zone = next
}

// TestTheWayToALargeZone over thousands of releases: each manifest has a way from a base, and a joiner fetches no more than twice the text; who
// is up to a thousand releases behind has the packs, as long as they weigh less than that; and what is written for it is small.
func TestTheWayToALargeZone(t *testing.T) {
	noise := rand.New(rand.NewPCG(3, 5))
	for octets, releases := range map[int64]int{300: 4400, 5_000: 1500, 40_000: 1500} {
		t.Run(fmt.Sprint(octets), func(t *testing.T) {
			const text = 10_000_000
			c := &chains{t: t, files: map[release.Digest][]byte{}}
			c.zone = release.Zone{Origin: "example.", Root: release.Digest{1}, Length: text, Blob: release.Blob{Length: text}}
			for n := range releases {
				c.release(release.DigestOf(fmt.Append(nil, "zone", n)), text, 1+noise.Int64N(2*octets), false, 32)
				if n%10 > 0 {
					continue
				}
				chain, err := c.zone.Chain(c.earlier())
				if err != nil || len(c.zone.Packs) > release.MaxPacks {
					t.Fatalf("release %d: %d packs, %v", n, len(c.zone.Packs), err)
				}
				if joins := c.zone.Blob.Length + sum(c.zone.Since(chain)); joins > 2*text || len(c.zone.Since(chain)) > mostPacks() {
					t.Fatalf("release %d: a joiner takes %d octets, %d packs", n, joins, len(c.zone.Since(chain)))
				}
				for _, k := range []int{1, 30, 500, 1000} {
					if behind := c.packs[max(0, len(c.packs)-k):]; sum(behind) < text/2 && !slices.Equal(chain[max(0, len(chain)-len(behind)):], behind) {
						t.Fatalf("release %d: who is %d releases behind finds %d packs", n, len(behind), len(chain))
					}
				}
			}
			if most := int64(releases/duePacks + 1 + 2*releases*int(octets)/text + 1); int64(c.texts) > most {
				t.Errorf("%d texts are written, want %d at the most", c.texts, most)
			}
			if each := c.written / int64(releases); each > 50_000 {
				t.Errorf("%d octets of lists are written for a release", each)
			}
		})
	}
}

func sum(packs []release.Pack) (n int64) {
	for _, p := range packs {
		n += p.Blob.Length
	}
	return n
}

// TestTheWayToAZoneThatComesBackOrShrinks is one all the same: in no circle, with no pack as large as a text, however few are named.
func TestTheWayToAZoneThatComesBackOrShrinks(t *testing.T) {
	for seed := range uint64(200) {
		noise := rand.New(rand.NewPCG(seed, 7))
		c := &chains{t: t, files: map[release.Digest][]byte{}}
		c.zone = release.Zone{Origin: "example.", Root: release.Digest{1}, Length: 5000, Blob: release.Blob{Length: 5000}}
		for n := range 60 {
			root := release.Digest{byte(1 + noise.IntN(40))}
			if root == c.zone.Root {
				continue
			}
			c.release(root, 1000+noise.Int64N(5000), 1+noise.Int64N(c.zone.Blob.Length/2), noise.IntN(2) == 0, 1+noise.IntN(8))
			if _, err := c.zone.Chain(c.earlier()); err != nil {
				t.Fatalf("seed %d, release %d: %v", seed, n, err)
			}
		}
	}
}
