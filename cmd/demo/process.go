//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that the demo started. What it writes goes to a file, of which the end is shown when a step fails.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended and been waited for
}

// stopTimeout is how long a process may take to end by itself after SIGTERM.
const stopTimeout = 8 * time.Second

// spawn starts a process in a place. out takes its standard output; nil: the log does.
func (p *place) spawn(name, log string, stdin io.Reader, out io.Writer, argv ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the child has its own
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, file, file
	if out != nil {
		cmd.Stdout = out
	}
	// A group of its own: Ctrl-C is for the demo, which then ends everything in the right order.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := p.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	pr := &process{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() { cmd.Wait(); close(pr.done) }()
	return pr, nil
}

// alive reports whether the process has not ended.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill is kill -9: no goodbye, as when the machine loses power.
func (p *process) kill() { p.cmd.Process.Kill() }

// stop asks the process to end, and insists when it does not.
func (p *process) stop() {
	p.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.kill()
		<-p.done
	}
}

// tail is the end of the process's log.
func (p *process) tail(lines int) string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// run runs a command to its end and returns what it printed. Its error holds that too: it is what the command has to
// say about its failure.
func (p *place) run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("it did not end in %v", commandTimeout))
	defer cancel()
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := p.do(cmd.Start); err != nil {
		return "", fmt.Errorf("starting %s: %w", argv[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		cmd.Process.Kill()
		<-ended
		err = context.Cause(ctx)
	}
	text := strings.TrimRight(out.String(), "\n")
	if err != nil {
		return text, fmt.Errorf("%s: %w\n%s", filepath.Base(argv[0]), err, text)
	}
	return text, nil
}

// commandTimeout bounds every command that is to end by itself.
const commandTimeout = 40 * time.Second
