package socket

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// large is a document that no socket's buffer takes.
func large() any {
	return status.Node{Version: status.Version, Node: strings.Repeat("x", 4<<20)}
}

func small() any { return status.Node{Version: status.Version, Node: "tyo"} }

func start(t *testing.T, current func() any) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	s, err := Serve(path, current)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

func TestReadGetsWhatIsServed(t *testing.T) {
	for _, current := range []func() any{small, large} {
		s, path := start(t, current)
		var got status.Node
		if err := Read(t.Context(), path, &got); err != nil {
			t.Fatal(err)
		}
		if want := current().(status.Node); got.Node != want.Node {
			t.Errorf("got %d bytes, want %d", len(got.Node), len(want.Node))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	}
}

func TestManyReadersAtOnce(t *testing.T) {
	s, path := start(t, small)
	defer s.Close()
	var wait sync.WaitGroup
	for range 20 * clients {
		wait.Go(func() {
			var got status.Node
			if err := Read(t.Context(), path, &got); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// Readers that never read keep nobody from closing, and others only until their time is over.
func TestHangingReaders(t *testing.T) {
	lab.Quick(t, "closing", timeout/2, func() time.Duration {
		s, path := start(t, large)
		for range 3 * clients {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		began := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		return time.Since(began)
	})
}

func TestReadFromAServerThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Run("until the context ends", func(t *testing.T) {
		lab.Quick(t, "it", timeout/2, func() time.Duration {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			began := time.Now()
			err := Read(ctx, path, &status.Node{})
			took := time.Since(began)
			if took <= timeout/2 && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			return took
		})
	})
	t.Run("until its time is over", func(t *testing.T) {
		if err := Read(t.Context(), path, &status.Node{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// What another server says is bounded, and must be of a version that is spoken.
func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		said any
		want string
	}{
		"another version": {map[string]int{"version": 2}, "version 2"},
		"no version":      {map[string]int{}, "no version"},
		"no object":       {7, "JSON"},
		"too much":        {status.Node{Version: 1, Node: strings.Repeat("x", status.MaxBytes)}, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			s, path := start(t, func() any { return c.said })
			defer s.Close()
			if err := Read(t.Context(), path, &status.Node{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if err := Read(t.Context(), filepath.Join(t.TempDir(), "none"), &status.Node{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// Only a socket that nobody answers on is replaced.
func TestServeInThePlaceOf(t *testing.T) {
	s, path := start(t, small)
	if _, err := Serve(path, small); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a live socket: %v", err)
	}
	s.listener.(*listener).UnixListener.Close() // as a process does that dies
	s.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	again, err := Serve(path, small)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Serve(file, small); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
	if data, _ := os.ReadFile(file); string(data) != "precious" {
		t.Error("the file was removed")
	}
	if _, err := Serve(filepath.Join(t.TempDir(), "no", "dir"), small); err == nil {
		t.Error("a directory that is not there")
	}
}

func TestPath(t *testing.T) {
	for url, want := range map[string]string{
		"unix:///run/x.sock": "/run/x.sock",
		"unix://run/x.sock":  "", "/run/x.sock": "", "": "", "tcp://127.0.0.1:1": "", "unix://": "",
		"unix:///" + strings.Repeat("x", 107): "",
	} {
		got, err := Path(url)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", url, got, err)
		}
	}
}

// A home may lie deeper than the kernel takes as a socket's path: who serves there is found all the same, a second one is
// refused, and one that died is replaced.
func TestAPathThatIsTooLongForTheKernel(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	if _, err := Path("unix://" + path); err == nil {
		t.Fatal("it is not too long")
	}
	s, err := Serve(path, small)
	if err != nil {
		t.Fatal(err)
	}
	var got status.Node
	if err := Read(t.Context(), path, &got); err != nil || got.Node != "tyo" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Serve(path, small); err == nil || !strings.Contains(err.Error(), "another process answers on it") {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := Read(t.Context(), path, &got); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody serves: %v", err)
	}
	if err := Read(t.Context(), filepath.Join(dir, "absent", "s.sock"), &got); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	left, err := Listen(path, 0o600) // by a process that dies
	if err != nil {
		t.Fatal(err)
	}
	left.(*listener).UnixListener.Close()
	if s, err = Serve(path, small); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
