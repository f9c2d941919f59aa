package releasing

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Source is a zone file, and the origin if it was said; otherwise it is as zonefile.ReadFile finds it.
type Source struct {
	Origin, File string

	Zone *zone.Zone     // what was read from it already, nil if nothing was
	Text release.Digest // of the zone's canonical text, which the file has unless it was replaced since; zero: the file has another

	Content release.Digest // of the zone as it is in the release (release.Zone.Content), if it is. Make says it
}

// ParseSource reads FILE or NAME=FILE.
func ParseSource(arg string) Source {
	if name, file, ok := strings.Cut(arg, "="); ok {
		return Source{Origin: strings.ToLower(strings.TrimSuffix(name, ".")) + ".", File: file}
	}
	return Source{File: arg}
}

// Load reads a zone file and says everything that is wrong with it (SYNC-B). The zone is nil when one finding is an
// error, which it is too if ctx ends meanwhile. $INCLUDE reaches the files beside it and below.
func Load(ctx context.Context, s Source) (*zone.Zone, []zone.Finding) {
	if s.Zone != nil {
		return s.Zone, nil
	}
	z, found := read(ctx, s)
	for i := range found {
		found[i].File = cmp.Or(found[i].File, s.File)
	}
	return z, found
}

// read reads a zone file, which may be a pipe that nothing comes out of: it does not wait for that when ctx ends.
func read(ctx context.Context, s Source) (*zone.Zone, []zone.Finding) {
	type result struct {
		zone  *zone.Zone
		found []zone.Finding
	}
	done := make(chan result, 1)
	go func() {
		z, found, err := zonefile.ReadFile(s.File, zonefile.Options{Origin: s.Origin, Progress: until(ctx)})
		if err != nil {
			found = append(found, s.finding("unreadable", "%v", err))
		}
		done <- result{z, found}
	}()
	select {
	case r := <-done:
		return r.zone, r.found
	case <-ctx.Done():
		return nil, []zone.Finding{s.finding("unreadable", "%v", context.Cause(ctx))}
	}
}

func (s Source) finding(rule, format string, args ...any) zone.Finding {
	return zone.Finding{File: s.File, Zone: s.Origin, Rule: rule, Severity: zone.Error, Detail: fmt.Sprintf(format, args...)}
}

// until lets a zone file be read until ctx ends.
func until(ctx context.Context) func(int) bool {
	return func(int) bool { return ctx.Err() == nil }
}

// writer writes until ctx ends.
type writer struct {
	ctx context.Context
	io.Writer
}

func (w *writer) Write(b []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Writer.Write(b)
}
