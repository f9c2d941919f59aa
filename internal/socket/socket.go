// Package socket hands one status document to whoever connects to a unix socket: the caller connects, reads JSON to
// the end of the stream, and that is all. The plugin meshsync and the sidecar serve with it and read each other with
// it. Nothing is ever read from a client, so nothing can be injected.
package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// timeout bounds one exchange on either side: a reader that hangs must not hold a writer, nor the reverse.
const timeout = 2 * time.Second

// Server answers on one unix socket until closed.
type Server struct {
	listener net.Listener
	running  sync.WaitGroup
	closing  chan struct{}
}

// Path takes the path out of "unix:///run/mesh/x.sock", the form of the configurations.
func Path(url string) (string, error) {
	path, ok := strings.CutPrefix(url, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("%q is not a unix socket: write unix:///absolute/path", url)
	}
	if len(path) > maxPath {
		return "", fmt.Errorf("%q: a unix socket's path has at most %d bytes", path, maxPath)
	}
	return path, nil
}

// Brief is the path of the socket beside that at path on which the same is said in brief: without what is long and seldom another. Whoever
// finds nobody there, since the server is of a version before, reads the whole.
func Brief(path string) string { return path + ".brief" }

// maxPath is what the kernel takes (unix(7)).
const maxPath = 107

// shortly calls do with a path of the socket that the kernel takes, however long path is: on Linux by way of its directory.
func shortly(path string, do func(path string) error) error {
	if len(path) <= maxPath {
		return do(path)
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%q: a unix socket's path has at most %d bytes: %w", path, maxPath, syscall.EINVAL)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// listener removes the socket when it is closed, by its whole path.
type listener struct {
	*net.UnixListener
	path string
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		err = os.Remove(l.path)
	}
	return err
}

// Listen listens at path, for those whom perm lets write to it. A socket left behind by a process that died is replaced;
// one that answers is not, and that is an error.
func Listen(path string, perm fs.FileMode) (net.Listener, error) {
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l := &listener{path: path}
	err := shortly(path, func(short string) (err error) {
		l.UnixListener, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, perm); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve listens at path and gives every client the document that current returns.
func Serve(path string, current func() any) (*Server, error) {
	l, err := Listen(path, 0o660)
	if err != nil {
		return nil, err
	}
	s := &Server{listener: l, closing: make(chan struct{})}
	s.running.Go(func() { s.accept(current) })
	return s, nil
}

// Close stops answering and removes the socket. It waits for no reader.
func (s *Server) Close() error {
	close(s.closing)
	err := s.listener.Close()
	s.running.Wait()
	return err
}

// clients is how many are answered at once. A flood of them waits; it costs no memory.
const clients = 16

func (s *Server) accept(current func() any) {
	slots := make(chan struct{}, clients)
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: the next one may fit
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-s.closing:
			conn.Close()
			return
		}
		s.running.Go(func() {
			s.answer(conn, current)
			<-slots
		})
	}
}

// answer hands the document to one client, who may be slow, or never read.
func (s *Server) answer(conn net.Conn, current func() any) {
	answered := make(chan struct{})
	s.running.Go(func() {
		select {
		case <-s.closing:
		case <-answered:
		}
		conn.Close()
	})
	conn.SetDeadline(time.Now().Add(timeout))
	json.NewEncoder(conn).Encode(current())
	close(answered)
}

// clearStale removes a socket that nobody answers on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if conn, err := dial(ctx, path); err == nil {
		conn.Close()
		return fmt.Errorf("%s: another process answers on it", path)
	}
	return os.Remove(path)
}

func dial(ctx context.Context, path string) (conn net.Conn, err error) {
	err = shortly(path, func(short string) error {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", short)
		return err
	})
	return conn, err
}

// Read fetches the document served at path into v, a pointer to one of status's types.
func Read(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dial(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(conn, status.MaxBytes+1))
	if ctx.Err() != nil {
		err = ctx.Err() // rather than the deadline that it set
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return status.Decode(data, v)
}
