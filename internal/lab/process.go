package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is a program and how it is to be run.
type Command struct {
	Name string   // in messages; empty: the program's
	Argv []string // the program, and its arguments
	Dir  string   // where it runs; empty: in the directory of this process
	Env  []string // beside the environment of this process
	Log  string   // the file to which what it writes is appended
	In   io.Reader
	Out  io.Writer // takes its standard output; nil: Log does
	// At runs the start where the program is to run: Place.Do. nil: here.
	At func(start func() error) error
}

// Process is a program that runs, or has ended. It leads a group of processes of its own, so that Ctrl-C is for whoever
// started it, and what it forks can be ended with it. It is killed when this process ends, however that ends.
type Process struct {
	Name  string
	Log   string // the file that has what it writes
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
	err   error         // of its end
}

// StopTime is how long Stop waits for a process to end by itself.
const StopTime = 10 * time.Second

func (c Command) cmd() *exec.Cmd {
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Stdin = c.Dir, c.In
	if len(c.Env) > 0 {
		cmd.Env = append(os.Environ(), c.Env...)
	}
	cmd.SysProcAttr = ownGroup()
	return cmd
}

func (c Command) start(cmd *exec.Cmd) error {
	at := c.At
	if at == nil {
		at = lasting
	}
	if err := at(cmd.Start); err != nil {
		return fmt.Errorf("starting %s: %w", c.name(), err)
	}
	return nil
}

func (c Command) name() string {
	if c.Name == "" {
		return filepath.Base(c.Argv[0])
	}
	return c.Name
}

// Start starts the program. Whoever does must end it, by Stop or Kill.
func (c Command) Start() (*Process, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	p := &Process{Name: c.name(), Log: c.Log, cmd: c.cmd(), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if c.Out != nil {
		p.cmd.Stdout = c.Out
	}
	if err := c.start(p.cmd); err != nil {
		return nil, err
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	return p, nil
}

// Start starts a program that is killed, with what it forked, at the end of the test, which shows the end of its log if it
// failed. What must end by itself is told to before that: t.Cleanup(p.Stop).
func Start(t T, c Command) *Process {
	t.Helper()
	p, err := c.Start()
	Must(t, err)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("── last of %s's log\n%s", p.Name, Tail(p.Log, 40))
		}
	})
	return p
}

// Run runs the program to its end, at the latest that of ctx, and returns what it said. An error says that too: it is what
// the program has to say about it.
func (c Command) Run(ctx context.Context) (string, error) {
	cmd := c.cmd()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.start(cmd); err != nil {
		return "", err
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
	text := out.String()
	if err != nil {
		return text, fmt.Errorf("%s: %w\n%s", c.name(), err, strings.TrimRight(text, "\n"))
	}
	return text, nil
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Alive reports whether the process has not ended.
func (p *Process) Alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Wait waits for the process's end, and is the error of an end that is no good one.
func (p *Process) Wait() error {
	<-p.ended
	return p.err
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process, unless it has ended.
func (p *Process) Signal(sig syscall.Signal) { p.cmd.Process.Signal(sig) }

// SignalAll sends a signal to the process and to what it forked, unless it has ended.
func (p *Process) SignalAll(sig syscall.Signal) {
	if p.Alive() {
		syscall.Kill(-p.Pid(), sig)
	}
}

// Kill kills the process and what it forked, and waits for its end. It says no goodbye, as when a machine loses power.
func (p *Process) Kill() {
	p.SignalAll(syscall.SIGKILL)
	<-p.ended
}

// Stop asks the process to end, and kills it when it has not after StopTime.
func (p *Process) Stop() {
	if p.Signal(syscall.SIGTERM); !p.endsSoon() {
		p.Kill()
	}
}

// End sends a signal that must end the process within StopTime, and returns how it ended. What it forked it ends by itself, or
// is killed with it: NSD, told to end in all its processes at once, may wait for one for ever.
func (p *Process) End(t T, sig syscall.Signal) error {
	t.Helper()
	if sig == syscall.SIGKILL {
		p.SignalAll(sig)
	} else {
		p.Signal(sig)
	}
	if !p.endsSoon() {
		t.Fatalf("%s does not end on %v", p.Name, sig)
	}
	return p.err
}

func (p *Process) endsSoon() bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(StopTime):
		return false
	}
}

// Buffer is one that a process writes to while it is read.
type Buffer struct {
	guard sync.Mutex
	b     bytes.Buffer
}

func (l *Buffer) Write(p []byte) (int, error) {
	l.guard.Lock()
	defer l.guard.Unlock()
	return l.b.Write(p)
}

func (l *Buffer) String() string {
	l.guard.Lock()
	defer l.guard.Unlock()
	return l.b.String()
}
