package zone

import "testing"

func TestSerialArithmetic(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{1, 0, true}, {0, 1, false}, {0, 0, false}, {0, 1<<32 - 1, true}, {1<<32 - 1, 0, false}, {5 + 1<<31 - 1, 5, true}, {5 + 1<<31, 5, false}, {5, 5 + 1<<31, false}} {
		if Newer(c.a, c.b) != c.want {
			t.Errorf("%d newer than %d: want %v", c.a, c.b, c.want)
		}
	}
}
