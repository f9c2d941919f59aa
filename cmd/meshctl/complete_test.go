package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// bashCompletion is Debian's; the script that meshctl prints needs it, as those of most commands do.
const bashCompletion = "/usr/share/bash-completion/bash_completion"

// complete has a real bash complete a command line, as Tab at its end does.
const complete = `source "$1" && source <(meshctl completion bash) || exit 9
COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9 COMP_KEY=9
read -ra COMP_WORDS <<<"$2"
[[ $2 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }
__start_meshctl meshctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"`

// TestBashCompletes commands, flags and, from what is published, the names of members and zones; and nothing where there is
// no mesh.
func TestBashCompletes(t *testing.T) {
	testenv.Need(t, "bash")
	if _, err := os.Stat(bashCompletion); err != nil {
		testenv.Missing(t, "no %s (Debian package bash-completion)", bashCompletion)
	}
	dir := t.TempDir()
	home, bin := filepath.Join(dir, "home"), filepath.Join(dir, "bin")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(bin, 0o755))
	build := exec.Command("go", "build", "-o", bin+"/meshctl", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	zone := filepath.Join(dir, "zone")
	must(os.WriteFile(zone, []byte("$ORIGIN example.org.\n$TTL 60\n@ SOA ns h 1 3600 900 1209600 300\n@ NS ns\n@ NS ns.elsewhere.net.\nns A 192.0.2.1\n"), 0o600))
	environment := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "MESHCTL_HOME="+home)
	for _, args := range [][]string{{"init"}, {"member", "add", "tyo1", "--admin", "192.0.2.1:1"}, {"member", "add", "tyo2", "--admin", "192.0.2.2:1"},
		{"member", "add", "fra", "--admin", "192.0.2.3:1"}, {"release", zone}} {
		cmd := exec.Command(bin+"/meshctl", args...)
		cmd.Env = environment
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	completes := func(environment []string, line string) []string {
		t.Helper()
		cmd := exec.Command("bash", "--norc", "-c", complete, "bash", bashCompletion, line)
		cmd.Env, cmd.Dir = environment, dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", line, err, out)
		}
		var all []string
		for _, word := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			if word, _, _ = strings.Cut(strings.TrimSpace(word), " "); word != "" { // a description may follow
				all = append(all, word)
			}
		}
		slices.Sort(all)
		return all
	}
	for line, want := range map[string][]string{
		"meshctl hist":                   {"history"},
		"meshctl member re":              {"remove", "renew"},
		"meshctl history --tim":          {"--timing"},
		"meshctl member remove ":         {"fra", "tyo1", "tyo2"},
		"meshctl member remove t":        {"tyo1", "tyo2"},
		"meshctl member remove fra ":     nil,
		"meshctl member renew tyo1 t":    {"tyo2"},
		"meshctl which-node --zone ":     {"example.org"},
		"meshctl receive --reset exam":   {"example.org"},
		"meshctl keys rotate r":          {"release", "root"},
		"meshctl member remove nobody-i": nil,
	} {
		if got := completes(environment, line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if got := completes(append(environment, "MESHCTL_HOME=/nonexistent"), "meshctl member remove "); got != nil {
		t.Errorf("without a mesh: %q", got)
	}
}
