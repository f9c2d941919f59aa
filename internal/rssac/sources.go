package rssac

import (
	"math"
	"math/bits"
)

// precision is how many bits of a hash choose a register: with 14 the standard error is 0.8 %, and the registers take 16 KiB.
const precision = 14

// mostRank is the largest rank that a hash can have.
const mostRank = 64 - precision + 1

// Sources estimates how many different clients there were, in a fixed room: HyperLogLog (Flajolet and others, 2007). What two have
// seen can be merged, since the hash is the same everywhere.
type Sources [1 << precision]uint8

// add adds a client by its hash.
func (s *Sources) add(hash uint64) {
	rank := uint8(bits.LeadingZeros64(hash<<precision|1<<(precision-1)) + 1)
	if r := &s[hash>>(64-precision)]; *r < rank {
		*r = rank
	}
}

func (s *Sources) merge(o *Sources) {
	for i, rank := range o {
		s[i] = max(s[i], rank)
	}
}

// read takes registers, and reports whether they can be.
func (s *Sources) read(b []byte) bool {
	if len(b) != len(s) {
		return false
	}
	for i, rank := range b {
		if rank > mostRank {
			return false
		}
		s[i] = rank
	}
	return true
}

// Estimate is how many were added, without correction tables, from none to all that there can be: algorithm 6 of Ertl, "New
// cardinality estimation algorithms for HyperLogLog sketches" (2017).
func (s *Sources) Estimate() uint64 {
	var count [mostRank + 1]float64
	for _, rank := range s {
		count[rank]++
	}
	m := float64(len(s))
	z := m * tau(1-count[mostRank]/m)
	for rank := mostRank - 1; rank > 0; rank-- {
		z = (z + count[rank]) / 2
	}
	z += m * sigma(count[0]/m)
	return uint64(math.Round(m * m / (2 * math.Ln2) / z))
}

// sigma corrects for registers that nothing fell into.
func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	z, y := x, 1.0
	for before := -1.0; z != before; y *= 2 {
		x *= x
		before = z
		z += x * y
	}
	return z
}

// tau corrects for registers that can become no larger.
func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	z, y := 1-x, 1.0
	for before := -1.0; z != before; {
		x = math.Sqrt(x)
		before = z
		y /= 2
		z -= (1 - x) * (1 - x) * y
	}
	return z / 3
}

// hash mixes a word into a hash (the finaliser of SplitMix64). It is no secret: who knows it can make up addresses that are counted
// for more or fewer than they are, and so can who sends from many.
func hash(before, word uint64) uint64 {
	h := (before ^ word) + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
