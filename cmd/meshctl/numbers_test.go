package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// absurd are numbers that nobody means.
var absurd = []string{"-3", "-1", "0", "1", "999999999", "99999999999999999999", "-1s", "0s", "1ns", "2562047h", "99999999999h", "NaN", "1e400", ""}

// TestNoNumberOfACommandLinePanics, of any flag of any command, with and without a mesh: it is wrong usage, or it works.
func TestNoNumberOfACommandLinePanics(t *testing.T) {
	dir := t.TempDir() + "/mesh"
	if status := run([]string{"--home", dir, "init"}, io.Discard, io.Discard); status != exitDone {
		t.Fatal("no mesh could be made")
	}
	flags := 0
	for _, path := range numbersOf(t, (&cli{out: io.Discard, log: io.Discard, clock: time.Now}).command(), nil) {
		flags++
		for _, n := range absurd {
			args := append([]string{"--home", dir}, append(path, n)...)
			args[len(args)-2] += "=" + n
			trial(t, args[:len(args)-1])
		}
	}
	if flags < 12 {
		t.Errorf("only %d flags with numbers were found", flags)
	}
	for _, wrong := range [][]string{{"history", "--last=-3"}, {"history", "--last=0"}, {"status", "--every=-1s"}, {"receive", "--timeout=-1s"}, {"keys", "draft", "--out=x", "--years=-1"}} {
		var said bytes.Buffer
		if status := run(append([]string{"--home", dir}, wrong...), io.Discard, &said); status != exitUsage || !strings.Contains(said.String(), "want ") {
			t.Errorf("%v: status %d, %q", wrong, status, said.String())
		}
	}
}

// trial runs a command line until it ends, or has had time to panic.
func trial(t *testing.T, args []string) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	defer func() {
		if why := recover(); why != nil {
			t.Errorf("%v: %v", args, why)
		}
	}()
	runUntil(ctx, args, io.Discard, io.Discard)
}

// numbersOf are the commands below cmd with each of their flags that is a number.
func numbersOf(t *testing.T, cmd *cobra.Command, path []string) (all [][]string) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch f.Value.Type() {
		case "bool", "string", "stringSlice", "stringArray":
		case "int", "uint", "uint32", "float", "duration":
			all = append(all, append(append([]string{}, path...), "--"+f.Name))
		default:
			t.Errorf("%v --%s is a %s, which this test does not know", path, f.Name, f.Value.Type())
		}
	})
	for _, sub := range cmd.Commands() {
		all = append(all, numbersOf(t, sub, append(append([]string{}, path...), sub.Name()))...)
	}
	return all
}
