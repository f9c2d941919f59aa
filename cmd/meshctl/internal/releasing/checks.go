package releasing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// checks is how zones are judged, by a configuration, or else by the home's.
func checks(w *home.Writer, file string) (*zonecheck.Config, error) {
	load := config.Load
	if own := w.Path(home.ConfigName); file == "" || file == own {
		file, load = own, config.LoadIfThere
	}
	c, err := load(file)
	if err != nil {
		return nil, err
	}
	return c.Checks, nil
}

// Check judges a zone that is to replace old at now, which may be nil, by the policy's rules and by its command
// (SYNC-B). lease is how long a node may answer from it once it has it. When ctx ends, so does the check, and what it found
// counts for nothing.
func Check(ctx context.Context, old, z *zone.Zone, p zonecheck.Policy, now time.Time, lease time.Duration) []zone.Finding {
	return checkWith(ctx, &zonecheck.Memo{}, old, z, p, now, lease)
}

func checkWith(ctx context.Context, memo *zonecheck.Memo, old, z *zone.Zone, p zonecheck.Policy, now time.Time, lease time.Duration) []zone.Finding {
	memo.StopIf(func() bool { return ctx.Err() != nil })
	found := memo.Check(old, z, p, now, lease)
	if len(p.Command) > 0 {
		if err := runCommand(ctx, z, p); err != nil {
			found = append(found, p.Apply([]zone.Finding{{Zone: z.Origin(), Owner: z.Origin(), Rule: "command", Severity: zone.Error,
				Detail: fmt.Sprintf("%s: %v", p.Command[0], err)}})...)
		}
	}
	return found
}

const maxCommandOutput = 2000 // octets of its standard error that are kept

// runCommand has the policy's command read a zone. Nothing of this process's environment but PATH reaches it, and it is
// killed at the end of its time, with what it started.
func runCommand(ctx context.Context, z *zone.Zone, p zonecheck.Policy) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	text, in := io.Pipe()
	defer text.Close() // ends the writer, should the command not have read everything
	go func() { in.CloseWithError(zonefile.Write(in, z)) }()
	said := &firstOctets{left: maxCommandOutput}
	cmd := exec.CommandContext(ctx, p.Command[0], p.Command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ZONE=" + z.Origin(), fmt.Sprintf("SERIAL=%d", z.Serial())}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = text, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("it took more than %v%s", p.Timeout, said)
	case err != nil:
		return fmt.Errorf("%w%s", err, said)
	}
	return nil
}

// firstOctets keeps the beginning of what is written.
type firstOctets struct {
	kept bytes.Buffer
	left int
}

func (f *firstOctets) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.left -= n
	f.kept.Write(b[:n])
	return len(b), nil
}

// String is ": " and what was kept, on one line, or nothing.
func (f *firstOctets) String() string {
	text := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(f.kept.String(), "?"), unicode.IsControl), "; ")
	if text == "" {
		return ""
	}
	return ": " + text
}
