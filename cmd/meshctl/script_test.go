package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets scripts run meshctl, and a stand-in for coredns that "meshctl try" starts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"meshctl": main,
		"coredns": standIn,
	})
}

// TestScripts runs testdata/*.txtar: each tells a piece of an operator's day.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("MESHCTL_HOME", filepath.Join(env.WorkDir, "mesh"))
			env.Setenv("TMPDIR", filepath.Join(env.WorkDir, "tmp"))
			return os.Mkdir(filepath.Join(env.WorkDir, "tmp"), 0o700)
		},
	})
}

// standIn prints the Corefile that it is given, and what lies beside it, and waits for a signal to end.
func standIn() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if len(os.Args) != 3 || os.Args[1] != "-conf" {
		fmt.Fprintln(os.Stderr, "wrong arguments", os.Args)
		os.Exit(3)
	}
	dir := filepath.Dir(os.Args[2])
	corefile, err := os.Open(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	for lines := bufio.NewScanner(corefile); lines.Scan(); {
		fmt.Println(strings.ReplaceAll(lines.Text(), dir, "DIR"))
	}
	for _, file := range []string{"root.json", "repository/metadata/timestamp.json"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	if os.Getenv("STAND_IN_FAILS") != "" {
		os.Exit(3)
	}
	syscall.Kill(os.Getppid(), syscall.SIGINT) // Ctrl-C for meshctl, which must hand it on
	fmt.Println("ended by", <-signals)
}
