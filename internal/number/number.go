// Package number has the numbers of command lines, each within bounds: what is outside is wrong usage, said before anything is
// done. All programs of the project take theirs with it, by package flag or pflag; it imports nothing of the project.
package number

import (
	"fmt"
	"strconv"
	"time"
)

// Value is a flag that takes a number within bounds.
type Value[T int | uint64 | float64 | time.Duration] struct {
	into        *T
	least, most T
	parse       func(string) (T, error)
	kind        string
}

// Int is a flag whose whole number goes into v; what is there now is the default.
func Int(v *int, least, most int) *Value[int] {
	return &Value[int]{v, least, most, strconv.Atoi, "int"}
}

// Uint64 is Int for numbers that are not negative.
func Uint64(v *uint64, least, most uint64) *Value[uint64] {
	return &Value[uint64]{v, least, most, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }, "uint"}
}

// Float is Int for a fraction.
func Float(v *float64, least, most float64) *Value[float64] {
	return &Value[float64]{v, least, most, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }, "float"}
}

// Duration is Int for a length of time such as 1h30m.
func Duration(v *time.Duration, least, most time.Duration) *Value[time.Duration] {
	return &Value[time.Duration]{v, least, most, time.ParseDuration, "duration"}
}

// Set takes a number from a command line.
func (v *Value[T]) Set(text string) error {
	n, err := v.parse(text)
	if err != nil || !(n >= v.least && n <= v.most) { // a NaN is in no bounds
		return fmt.Errorf("want %s", v.bounds())
	}
	*v.into = n
	return nil
}

func (v *Value[T]) bounds() string { return fmt.Sprintf("%v to %v", v.least, v.most) }

// String is the number, as it is now. A zero flag has none: package flag asks one what its default would be.
func (v *Value[T]) String() string {
	if v.into == nil {
		return ""
	}
	if *v.into == 0 {
		return "0" // of a duration as well: help says no such default, where the words say what nothing means
	}
	return fmt.Sprint(*v.into)
}

// Type is what help calls the number.
func (v *Value[T]) Type() string { return v.kind }
