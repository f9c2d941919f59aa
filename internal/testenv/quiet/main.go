// Command quiet reads `go test -json` and prints what a person needs of it: a line for each package, everything that a
// failed test wrote, and why a test was skipped. build.sh pipes the tests through it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // in place of Package while it is built
	Test       string
	Output     string
}

func main() {
	in := bufio.NewReader(os.Stdin)
	wrote := map[string][]string{} // by package and test
	for {
		line, err := in.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			handle(e, wrote)
		} else {
			os.Stdout.Write(line) // of the go command itself
		}
		if err != nil {
			return
		}
	}
}

func handle(e event, wrote map[string][]string) {
	key := e.Package + e.ImportPath + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if !strings.HasPrefix(e.Output, "=== ") {
			wrote[key] = append(wrote[key], e.Output)
		}
	case "build-fail", "fail", "skip":
		fmt.Print(strings.Join(wrote[key], ""))
		delete(wrote, key)
	case "pass":
		if e.Test == "" {
			fmt.Print(last(wrote[key]))
		}
		delete(wrote, key)
	}
}

// last is the line with which a package ends: "ok", its name and its time.
func last(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "ok") {
			return lines[i]
		}
	}
	return ""
}
