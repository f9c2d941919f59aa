package release

import (
	"bytes"
	"sort"
	"testing"
	"testing/fstest"
	"time"
)

// FuzzVerify changes files of a signed repository: cuts, overwrites, swaps. Whatever comes of it, Verify must not
// panic, and what it accepts is a manifest that was signed, under versions that do not go back.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	first := w.clone()
	proposed := testProposed(2, testNow.Add(time.Hour))
	proposed.Zones = manyZones(inlineZones+20, 2) // a tree
	w.publish(testManifest(testRelease(1, testNow), proposed))
	second := w.clone()
	signed := map[Digest]bool{}
	for _, repo := range []fstest.MapFS{first, second} {
		for name, file := range repo {
			if kindOf(name) == manifestTarget {
				signed[DigestOf(file.Data)] = true
			}
		}
	}
	names := make([]string, 0, len(second))
	for name := range second {
		names = append(names, name)
	}
	sort.Strings(names)

	f.Add(byte(0), byte(0), uint16(0), []byte{})
	f.Add(byte(1), byte(1), uint16(30), []byte(`"version":7`))
	f.Add(byte(2), byte(2), uint16(9), []byte("null"))
	f.Add(byte(6), byte(3), uint16(1), []byte("{}"))
	f.Fuzz(func(t *testing.T, which, how byte, at uint16, with []byte) {
		w := &world{t: t, repo: second}
		repo := w.clone()
		file := repo[names[int(which)%len(names)]]
		offset := int(at) % (len(file.Data) + 1)
		switch how % 5 {
		case 0:
			file.Data = file.Data[:offset]
		case 1:
			copy(file.Data[offset:], with)
		case 2:
			file.Data = append(bytes.Clone(file.Data[:offset]), append(bytes.Clone(with), file.Data[offset:]...)...)
		case 3:
			file.Data = with
		case 4:
			repo[RootName(2)] = &fstest.MapFile{Data: with}
		}
		node, err := NewMemory(second[RootName(1)].Data)
		if err != nil {
			t.Fatal(err)
		}
		_, node, err = Verify(first, node)
		if err != nil {
			t.Fatal(err)
		}
		view, mem, err := Verify(repo, node)
		if err != nil {
			if _, ok := RuleOf(err); !ok {
				t.Fatalf("not an *Error: %v", err)
			}
			return
		}
		data, err := view.Manifest.Encode()
		if err != nil || !signed[DigestOf(data)] {
			t.Fatalf("accepted what was not signed: %v %s", err, data)
		}
		if view.Versions.Timestamp < 1 || view.Versions.Timestamp > 2 || !bytes.Equal(mem.Root, node.Root) {
			t.Fatalf("accepted versions %+v", view.Versions)
		}
	})
}

// FuzzParseManifest: what is accepted is valid, and encodes to the very bytes that were read.
func FuzzParseManifest(f *testing.F) {
	for _, m := range []Manifest{testManifest(nil, nil), testManifest(testRelease(7, testNow), testRelease(8, time.Time{}))} {
		data, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data, nil)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %q, encodes to %q (%v)", data, again, err)
		}
	})
}

// FuzzParseMemory: a memory of any bytes never panics, neither read nor restored.
func FuzzParseMemory(f *testing.F) {
	w := newWorld(f)
	w.mustVerify()
	data, err := w.node.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseMemory(data); err == nil {
			_, _, _ = Restore(m, nil)
		}
	})
}
