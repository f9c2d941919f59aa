package sim

import (
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// clock is a machine's two clocks. They run on together, faster or slower than true time by ppm, from where they were at
// since. Only the wall clock steps.
type clock struct {
	since time.Duration // true time
	wall  instant.Wall
	mono  instant.Mono
	ppm   int64
	froze bool // the machine does not run, and neither do its clocks
}

func (c *clock) passed(now time.Duration) time.Duration {
	if c.froze {
		return 0
	}
	d := now - c.since
	return d + time.Duration(int64(d)/1000*c.ppm/1000)
}

func (c *clock) at(now time.Duration) instant.Instant {
	d := c.passed(now)
	return instant.Instant{Wall: c.wall.Add(d), Mono: c.mono.Add(d)}
}

// off is how far the wall clock is from true time.
func (c *clock) off(now time.Duration) time.Duration {
	return c.wall.Add(c.passed(now)).Sub(epoch.Add(now))
}

// reaches is the true time at which the wall clock reaches w.
func (c *clock) reaches(w instant.Wall, now time.Duration) time.Duration {
	left := w.Sub(c.wall.Add(c.passed(now)))
	if left <= 0 {
		return now
	}
	return now + left - time.Duration(int64(left)/1000*c.ppm/1000) + 2
}

// counts is the true time at which the clock that does not step reaches m.
func (c *clock) counts(m instant.Mono, now time.Duration) time.Duration {
	t := c.at(now)
	return c.reaches(t.Wall.Add(m.Sub(t.Mono)), now)
}

// set changes the clock from now on.
func (c *clock) set(now time.Duration, change func(*clock)) {
	t := c.at(now)
	c.since, c.wall, c.mono = now, t.Wall, t.Mono
	change(c)
}

// steer puts the wall clock off true time by d, as ntpd does.
func (c *clock) steer(now time.Duration, d time.Duration) {
	c.set(now, func(c *clock) { c.wall = epoch.Add(now + d) })
}
