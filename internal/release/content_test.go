package release

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// packsFrom are packs from zones whose roots begin with these octets.
func packsFrom(roots ...byte) (packs []Pack) {
	for _, r := range roots {
		packs = append(packs, Pack{Digest{r}, int64(r), Blob{Digest{r, 1}, int64(r)}})
	}
	return packs
}

func TestAListOfPacksIsReadAsItWasWritten(t *testing.T) {
	for _, n := range []int{1, 2, MaxEarlier} {
		packs := make([]Pack, n)
		for i := range packs {
			packs[i] = Pack{DigestOf([]byte{byte(i), byte(i >> 8)}), int64(i + 1), Blob{DigestOf([]byte{byte(i)}), int64(2*i + 1)}}
		}
		got, err := ParseEarlier(EncodeEarlier(packs))
		if err != nil || !slices.Equal(got, packs) {
			t.Fatalf("%d packs: %d, %v", n, len(got), err)
		}
	}
	good := EncodeEarlier(packsFrom(1, 2))
	for name, data := range map[string][]byte{
		"nothing": nil, "no packs": good[:earlierHead], "cut": good[:len(good)-1], "more": append(slices.Clone(good), 0),
		"another format": append([]byte("ANYLIST\x02"), good[earlierHead:]...), "an empty pack": EncodeEarlier([]Pack{{}}),
		"a pack that bursts": EncodeEarlier([]Pack{{Digest{1}, MaxPackBytes + 1, Blob{Length: 1}}}), "too many": EncodeEarlier(make([]Pack, MaxEarlier+1)),
	} {
		if _, err := ParseEarlier(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAChainLeadsFromTheBase, or anything before it, to the zone, and is refused where it does not.
func TestAChainLeadsFromTheBase(t *testing.T) {
	z := Zone{Root: Digest{9}, BaseRoot: Digest{3}, Packs: packsFrom(5, 6), Blob: Blob{Length: 100}}
	chain, err := z.Chain(packsFrom(1, 3, 4))
	if err != nil || !slices.Equal(chain, packsFrom(1, 3, 4, 5, 6)) || !slices.Equal(z.Since(chain), packsFrom(3, 4, 5, 6)) {
		t.Fatal(chain, err)
	}
	for want, earlier := range map[string][]Pack{
		"no pack from the base": packsFrom(1, 2), "two packs from": packsFrom(3, 5), "from the zone itself": packsFrom(3, 9), "less than": packsFrom(3, 100),
	} {
		if _, err := z.Chain(earlier); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	z.BaseRoot = Digest{}
	if chain, err := z.Chain(nil); err != nil || len(chain) != 2 || z.Since(chain) != nil {
		t.Error(chain, err)
	}
}

func TestZonesAreTheSameByTheirRoots(t *testing.T) {
	a := Zone{Origin: "example.", Serial: 7, SHA256: Digest{1}, Root: Digest{2}}
	old := Zone{SHA256: Digest{1}}
	packed := Zone{Origin: "example.", SHA256: Digest{9}, Root: Digest{2}, BaseRoot: Digest{3}}
	other := Zone{SHA256: Digest{1}, Root: Digest{4}, BaseRoot: Digest{5}}
	for _, test := range []struct {
		a, b Zone
		same bool
	}{{a, a, true}, {a, packed, true}, {a, old, true}, {packed, other, false}, {old, other, false}, {old, packed, false}, {a, other, false}, {old, old, true}} {
		if test.a.Same(&test.b) != test.same || test.b.Same(&test.a) != test.same {
			t.Errorf("%+v and %+v: want %v", test.a, test.b, test.same)
		}
	}
	if a.Content() != a.Root || old.Content() != old.SHA256 {
		t.Error("content")
	}
	if b := packed.Base(); b.Root != packed.BaseRoot || b.SHA256 != packed.SHA256 || !b.Whole() || b.Serial != 0 {
		t.Errorf("%+v", b)
	}
	if b := a.Base(); b.Root != a.Root || b.Serial != a.Serial {
		t.Errorf("%+v", b)
	}
	if data, _ := json.Marshal(old); bytes.Contains(data, []byte("root")) || bytes.Contains(data, []byte("earlier")) {
		t.Errorf("%s", data)
	}
}

// FuzzEarlier: what is read is what would be written, and nothing else.
func FuzzEarlier(f *testing.F) {
	f.Add(EncodeEarlier(packsFrom(1, 2, 3)))
	f.Add([]byte("ANYLIST\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		packs, err := ParseEarlier(data)
		if err == nil && !bytes.Equal(EncodeEarlier(packs), data) {
			t.Fatal("read otherwise than it is written")
		}
	})
}
