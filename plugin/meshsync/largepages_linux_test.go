package meshsync

import (
	"bytes"
	"os"
	"testing"
)

func TestALargeImageIsInLargePages(t *testing.T) {
	const size = 32 << 20
	b := bytes.Repeat([]byte("image"), size/5)
	before := largePages(t)
	if err := inLargePages(b); err != nil {
		t.Skipf("the kernel has no large pages: %v", err)
	}
	if got := largePages(t) - before; got < size/2 {
		t.Errorf("%d octets of %d", got, size)
	}
	if !bytes.Equal(b, bytes.Repeat([]byte("image"), size/5)) {
		t.Error("it is not what it was")
	}
	for _, n := range []int{0, 1, largePage - 1, largePage} { // too small to have a whole one, or just
		if err := inLargePages(b[:n]); err != nil {
			t.Errorf("%d octets: %v", n, err)
		}
	}
}

// largePages is the memory of this process that is in large pages, in octets.
func largePages(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("AnonHugePages:"))
	kib := 0
	for _, c := range bytes.TrimLeft(rest, " ") {
		if c < '0' || c > '9' {
			break
		}
		kib = 10*kib + int(c-'0')
	}
	return kib << 10
}
