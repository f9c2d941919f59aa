package receive

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// Coming is a zone that is being transferred, or a file that is being read.
type Coming struct {
	What     string // the zone, or the file
	Records  int    // that came so far
	Expected int    // as many as the zone had; 0: it was not here before, or differences come, of which that says nothing
	Began    time.Time
}

// coming is what a refresh or a reader tells of it.
type coming struct {
	what        string
	expected    int
	began       time.Time
	records     atomic.Int64
	differences atomic.Bool
}

// tell says how far it is.
func (c *coming) tell(records int, differences bool) {
	c.differences.Store(differences)
	c.records.Store(int64(records))
}

// comes begins to keep how far something is, until it came.
func (r *Receiver) comes(what string, expected int) *coming {
	c := &coming{what: what, expected: expected, began: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.coming[c] = true
	return c
}

func (r *Receiver) came(c *coming) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.coming, c)
}

// Coming is all of which records have come and that is not done yet, in order of their names.
func (r *Receiver) Coming() []Coming {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Coming
	for c := range r.coming {
		now := Coming{What: c.what, Records: int(c.records.Load()), Expected: c.expected, Began: c.began}
		if c.differences.Load() {
			now.Expected = 0
		}
		if now.Records > 0 {
			list = append(list, now)
		}
	}
	slices.SortFunc(list, func(a, b Coming) int { return cmp.Compare(a.What, b.What) })
	return list
}
