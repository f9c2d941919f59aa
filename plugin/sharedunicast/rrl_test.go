package sharedunicast

import (
	"net/netip"
	"testing"
	"time"
)

// BenchmarkLimiter is what it takes to count a response: of one prefix, whose entry the processor has at hand, and of many.
func BenchmarkLimiter(b *testing.B) {
	for _, c := range []struct {
		name string
		mask uint32
	}{{"one prefix", 0}, {"many prefixes", 1<<20 - 1}} {
		b.Run(c.name, func(b *testing.B) {
			l, now, n := newLimiter(settings{rate: mostRate, slip: 1}, "bench"), time.Now(), uint32(0)
			name := []byte("\x03www\x07example\x03org\x00")
			b.ReportAllocs()
			for b.Loop() {
				n = (n*2654435761 + 12345)
				at := n & c.mask
				now = now.Add(20 * time.Microsecond)
				l.judge(now, netip.AddrFrom4([4]byte{byte(at >> 16), byte(at >> 8), byte(at)}), kindAnswer, name)
			}
		})
	}
}
