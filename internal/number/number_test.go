package number

import (
	"flag"
	"io"
	"testing"
	"time"
)

// TestANumberIsWithinItsBounds, and what is not changes nothing.
func TestANumberIsWithinItsBounds(t *testing.T) {
	i, u, f, d := 20, uint64(5), 0.5, time.Second
	flags := flag.NewFlagSet("test", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Var(Int(&i, 1, 1000), "int", "")
	flags.Var(Uint64(&u, 1, 9), "uint", "")
	flags.Var(Float(&f, 0, 1), "float", "")
	flags.Var(Duration(&d, time.Second, time.Hour), "duration", "")
	for name, texts := range map[string][]string{
		"int":      {"-3", "0", "1001", "99999999999999999999", "1.5", "", "x"},
		"uint":     {"-1", "0", "10", "99999999999999999999"},
		"float":    {"-0.1", "1.1", "NaN", "Inf", "1e400"},
		"duration": {"-1s", "0", "999ms", "61m", "99999999h", "5"},
	} {
		for _, text := range texts {
			if err := flags.Parse([]string{"-" + name + "=" + text}); err == nil {
				t.Errorf("-%s %q is taken", name, text)
			}
		}
	}
	if i != 20 || u != 5 || f != 0.5 || d != time.Second {
		t.Errorf("what was refused has changed something: %v %v %v %v", i, u, f, d)
	}
	if err := flags.Parse([]string{"-int=1000", "-uint=9", "-float=1", "-duration=1h"}); err != nil || i != 1000 || u != 9 || f != 1 || d != time.Hour {
		t.Errorf("%v: %v %v %v %v", err, i, u, f, d)
	}
	flags.PrintDefaults()
}
