package docs

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// shell is a bash that is given blocks of commands, one after the other, as somebody would paste them.
type shell struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	output chan string // lines
}

func startShell(t *testing.T, argv ...string) *shell {
	t.Helper()
	s := &shell{t: t, cmd: exec.Command(argv[0], argv[1:]...), output: make(chan string, 1000)}
	reader, writer := io.Pipe()
	s.cmd.Stdout, s.cmd.Stderr = writer, writer
	s.cmd.WaitDelay = time.Second
	var err error
	s.in, err = s.cmd.StdinPipe()
	lab.Must(t, err)
	lab.Must(t, s.cmd.Start())
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		writer.Close()
	})
	go func() {
		defer close(s.output)
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			s.output <- lines.Text()
		}
	}()
	return s
}

const (
	patience = 3 * time.Minute
	endMark  = "=== end of block"
)

// give has the shell run commands, and returns what they print, the first of them that failed, and its status.
func (s *shell) give(commands string) (printed, failed string, code int) {
	s.t.Helper()
	fmt.Fprintf(s.in, "failed= code=0; trap 'code=$?; [ -n \"$failed\" ] || failed=$BASH_COMMAND' ERR\n. /dev/fd/9 9<<'=== block'\n%s\n=== block\ntrap - ERR; echo; echo \"%s $code $failed\"\n", strings.TrimRight(commands, "\n"), endMark)
	var all strings.Builder
	for over := time.After(patience); ; {
		select {
		case line, more := <-s.output:
			if !more {
				s.t.Fatalf("the shell ended in the middle of\n%s\n%s", commands, all.String())
			}
			if rest, found := strings.CutPrefix(line, endMark+" "); found {
				status, failed, _ := strings.Cut(rest, " ")
				code, _ := strconv.Atoi(status)
				return strings.TrimSuffix(all.String(), "\n"), failed, code
			}
			all.WriteString(line + "\n")
		case <-over:
			s.t.Fatalf("no end after %v of\n%s\n%s", patience, commands, all.String())
		}
	}
}

// must gives commands that are none of a page's.
func (s *shell) must(commands string) string {
	s.t.Helper()
	printed, failed, code := s.give(commands)
	if failed != "" {
		s.t.Fatalf("exit status %d of %s\n%s", code, failed, printed)
	}
	return printed
}

// inner is the process of a shell that was started by unshare --fork, seen from here.
func (s *shell) inner() string {
	s.t.Helper()
	return strings.TrimSpace(lab.Read(s.t, fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", s.cmd.Process.Pid)))
}
