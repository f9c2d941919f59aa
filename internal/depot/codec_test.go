package depot

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestWhatPacksIsUsedAgain, and what it packs then is the same as if it was new: hosts, and a host that begins anew, must come to the same blob.
func TestWhatPacksIsUsedAgain(t *testing.T) {
	noise := rand.New(rand.NewPCG(1, 2))
	words := []string{"example.", "host", "\t300\tIN\tA\t192.0.2.", "\n", "ns1", "www"}
	used := false
	for round := range 300 {
		var text []byte
		for size := 1 << noise.IntN(19); len(text) < size; {
			text = append(append(text, words[noise.IntN(len(words))]...), byte('a'+noise.IntN(26)))
		}
		for _, level := range []zstd.EncoderLevel{zstd.SpeedDefault, zstd.SpeedFastest} {
			var made, fresh bytes.Buffer
			_, err := pack(&made, level, func(w io.Writer) error { _, err := w.Write(text); return err })
			check(t, err)
			z, err := zstd.NewWriter(&fresh, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level), zstd.WithWindowSize(windowBytes))
			check(t, err)
			_, err = z.Write(text)
			check(t, err)
			check(t, z.Close())
			if !bytes.Equal(made.Bytes(), fresh.Bytes()) {
				t.Fatalf("round %d, %d octets: it is packed otherwise than by a new one", round, len(text))
			}
			u, err := unpack(&made)
			check(t, err)
			got, err := io.ReadAll(u)
			check(t, err)
			if u.Close(); !bytes.Equal(got, text) {
				t.Fatalf("round %d: it is unpacked to something else", round)
			}
			u.Close()
			if n, err := u.Read(make([]byte, 1)); n > 0 || err != zstd.ErrDecoderClosed {
				t.Fatalf("after its end: %d, %v", n, err)
			}
		}
		if z, ok := packers[zstd.SpeedDefault].Get().(*zstd.Encoder); ok {
			used = true
			packers[zstd.SpeedDefault].Put(z)
		}
	}
	if !used {
		t.Error("none was kept")
	}
	broken, err := unpack(bytes.NewReader([]byte("no zstd")))
	if err == nil {
		_, err = io.ReadAll(broken)
	}
	if err == nil {
		t.Error("what is not packed is unpacked")
	}
	broken.Close()
}

// TestWhatHasALargeWindowIsNotKept: of each that packed at a time, 16 MiB would stay.
func TestWhatHasALargeWindowIsNotKept(t *testing.T) {
	for _, size := range []int{64 << 10, 256 << 10} {
		for level, pool := range packers {
			for pool.Get() != nil || unpackers.Get() != nil {
			}
			var made bytes.Buffer
			_, err := pack(&made, level, func(w io.Writer) error { _, err := w.Write(bytes.Repeat([]byte("x"), size)); return err })
			check(t, err)
			u, err := unpack(&made)
			check(t, err)
			_, err = io.Copy(io.Discard, u)
			check(t, err)
			if u.Close(); pool.Get() != nil || unpackers.Get() != nil {
				t.Errorf("one that had %d octets is kept", size)
			}
		}
	}
}
