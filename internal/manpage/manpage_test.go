package manpage

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// Every command is on the page, with its options, and roff has nothing to say against it.
func TestPage(t *testing.T) {
	root := &cobra.Command{Use: "prog", Short: "Does it", Long: "It does it.\n\n.dots begin a line, \\ too\n\n    an example --x", Version: "1"}
	root.PersistentFlags().String("home", "", "`directory` of all")
	sub := &cobra.Command{Use: "member", Run: func(*cobra.Command, []string) {}}
	add := &cobra.Command{Use: `add NAME "x"`, Short: "Adds one", Run: func(*cobra.Command, []string) {}}
	add.Flags().Bool("new-key", false, "with a new key")
	sub.AddCommand(add)
	root.AddCommand(sub, Command(), &cobra.Command{Use: "secret", Hidden: true, Run: func(*cobra.Command, []string) {}})
	page := Page(root)
	for _, want := range []string{`.TH PROG 8`, `prog \- Does it`, `\&.dots begin`, `\e too`, ".nf\n    an example", `.SS "prog member add`, `\fB\-\-new\-key\fR`, `\fIdirectory\fR`, "Adds one."} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
	if strings.Contains(page, "secret") {
		t.Error("a hidden command is on the page")
	}
	groff := testenv.Need(t, "groff")[0]
	cmd := exec.Command(groff, "-man", "-ww", "-Tutf8")
	cmd.Stdin = strings.NewReader(page)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || said.Len() > 0 || !strings.Contains(string(out), ".dots begin") {
		t.Errorf("groff: %v: %s\n%s", err, said.String(), out)
	}
}
