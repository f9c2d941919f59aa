package page

import (
	"fmt"
	"time"
)

// short is a length of time in three digits or so: 412 µs, 3.2 ms, 4.1 s.
func short(d time.Duration) string {
	switch a := d.Abs(); {
	case a == 0:
		return "0"
	case a < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case a < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case a < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case a < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return span(d)
}

// span is a length of time as people say it, in its two largest units: 12 s, 5 min 3 s, 4 h 10 min, 12 d 3 h.
func span(d time.Duration) string {
	two := func(a time.Duration, aName string, b time.Duration, bName string) string {
		if rest := d % a / b; rest != 0 {
			return fmt.Sprintf("%d %s %d %s", d/a, aName, rest, bName)
		}
		return fmt.Sprintf("%d %s", d/a, aName)
	}
	switch {
	case d < 0:
		return "−" + span(d.Abs())
	case d >= 24*time.Hour:
		return two(24*time.Hour, "d", time.Hour, "h")
	case d >= time.Hour:
		return two(time.Hour, "h", time.Minute, "min")
	case d >= time.Minute:
		return two(time.Minute, "min", time.Second, "s")
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// offset is when something was, counted from a moment: +3.2 s, −120 ms.
func offset(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < 0:
		return "−" + short(-d)
	}
	return "+" + short(d)
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04:05") }

func fullTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func machineTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
