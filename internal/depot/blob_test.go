package depot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

func TestBlobsComeBackAsTheyWent(t *testing.T) {
	h := newHost(t)
	z := h.zone("example.org.", 1, 3<<20)
	r, err := h.dir.OpenBlob(z)
	check(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	check(t, err)
	var want bytes.Buffer
	text("example.org.", 1, 3<<20)(&want)
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatal("other content")
	}
	if again := h.zone("example.org.", 1, 3<<20); !reflect.DeepEqual(again, z) {
		t.Fatal("the same text gave another blob")
	}
}

func TestPutBlobStoresNothingWhenWritingFails(t *testing.T) {
	d := newDir(t)
	broken := errors.New("broken")
	if _, err := d.PutBlob(func(w io.Writer) error { w.Write([]byte("half")); return broken }); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(d.Path(), blobDir)); len(entries) != 0 {
		t.Fatalf("left %v", entries)
	}
}

// TestOpenBlobRefuses damages a blob, or the announcement of it; reading must end in an error that names the rule.
func TestOpenBlobRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		rule   release.Rule
		change func(data []byte, z *release.Zone) []byte
	}{
		{"truncated", release.Length, func(b []byte, _ *release.Zone) []byte { return b[:len(b)-1] }},
		{"empty", release.Length, func(b []byte, _ *release.Zone) []byte { return nil }},
		{"longer", release.Length, func(b []byte, _ *release.Zone) []byte { return append(b, 0) }},
		{"changed", release.Mismatch, func(b []byte, _ *release.Zone) []byte { b[len(b)/2] ^= 1; return b }},
		{"text shorter than announced", release.Length, func(b []byte, z *release.Zone) []byte { z.Length++; return b }},
		{"text longer than announced", release.Oversize, func(b []byte, z *release.Zone) []byte { z.Length--; return b }},
		{"other text than announced", release.Mismatch, func(b []byte, z *release.Zone) []byte { z.SHA256[0] ^= 1; return b }},
		{"not zstd", release.Torn, func(_ []byte, z *release.Zone) []byte { return announce(z, []byte("plain text, signed")) }},
		{"zstd cut short, signed", release.Torn, func(b []byte, z *release.Zone) []byte { return announce(z, b[:len(b)/2]) }},
		{"bomb", release.Oversize, func(_ []byte, z *release.Zone) []byte { return announce(z, bomb(t)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			z := h.zone("example.org.", 1, 10_000)
			data, err := os.ReadFile(filepath.Join(h.dir.Path(), release.BlobName(z.Blob.SHA256)))
			check(t, err)
			data = test.change(data, &z)
			check(t, os.WriteFile(filepath.Join(h.dir.Path(), release.BlobName(z.Blob.SHA256)), data, 0o600))
			r, err := h.dir.OpenBlob(z)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			if rule, _ := release.RuleOf(err); rule != test.rule {
				t.Fatalf("want %s, got %v", test.rule, err)
			}
		})
	}
	h := newHost(t)
	z := h.zone("example.org.", 1, 10)
	check(t, os.Remove(filepath.Join(h.dir.Path(), release.BlobName(z.Blob.SHA256))))
	if rule, _ := release.RuleOf(second(h.dir.OpenBlob(z))); rule != release.Missing {
		t.Fatalf("missing: got %s", rule)
	}
}

func second(_ io.ReadCloser, err error) error { return err }

// announce makes z name data as its blob.
func announce(z *release.Zone, data []byte) []byte {
	z.Blob = release.Blob{SHA256: release.DigestOf(data), Length: int64(len(data))}
	return data
}

// bomb unpacks to 1 GiB.
func bomb(t *testing.T) []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	check(t, err)
	block := make([]byte, 1<<20)
	for range 1 << 10 {
		w.Write(block)
	}
	check(t, w.Close())
	return b.Bytes()
}

func TestBlobsAreStreamed(t *testing.T) {
	h := newHost(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const size = 64 << 20
	z := h.zone("example.org.", 1, size)
	r, err := h.dir.OpenBlob(z)
	check(t, err)
	_, err = io.Copy(io.Discard, r)
	check(t, err)
	r.Close()
	runtime.GC()
	runtime.ReadMemStats(&after)
	// All heap ever obtained from the system, garbage included.
	if grew := int64(after.HeapSys) - int64(before.HeapSys); grew > 3*size/2 {
		t.Fatalf("a zone of %d bytes took %d bytes of heap", z.Length, grew)
	}
}
