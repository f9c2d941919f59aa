package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// S3 is a real S3 server, versitygw, on loopback. Its objects are plain files.
type S3 struct {
	Address string // HOST:PORT, without TLS
	Bucket  string // the one it has
	Dir     string // the bucket's objects, by key

	t       testing.TB
	command func() *exec.Cmd
	running *exec.Cmd
}

// StartS3 starts a server with an empty bucket, which ends with t, and puts its credentials into the environment. It is built
// from test/s3server, a module of its own.
func StartS3(t testing.TB) *S3 {
	t.Helper()
	build := exec.Command("go", "tool", "-n", "versitygw")
	build.Dir = filepath.Join(Top(t), "test", "s3server")
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		Missing(t, "versitygw cannot be built: %v", err)
	}
	top := t.TempDir()
	s := &S3{Address: fmt.Sprintf("127.0.0.1:%d", Port(t)), Bucket: "mesh-bucket", t: t}
	s.Dir = filepath.Join(top, s.Bucket)
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
	t.Setenv("AWS_REGION", "us-east-1")
	s.command = func() *exec.Cmd {
		cmd := exec.Command(strings.TrimSpace(string(out)), "--port", s.Address, "--quiet", "--keep-alive", "posix", top)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=test", "ROOT_SECRET_KEY=test-secret")
		return cmd
	}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Start starts it again after Stop, with what it had.
func (s *S3) Start() {
	s.t.Helper()
	s.running = s.command()
	if err := s.running.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("versitygw does not listen: %v", err)
		}
	}
}

// Stop kills it.
func (s *S3) Stop() {
	if s.running == nil {
		return
	}
	s.running.Process.Signal(syscall.SIGKILL)
	s.running.Wait()
	s.running = nil
}

// URL names the bucket, or a prefix in it, as package bucket reads it.
func (s *S3) URL(prefix string) string { return S3URL(s.Bucket, prefix, s.Address) }

// S3URL names a bucket that is reached at another address, a proxy's.
func S3URL(bucket, prefix, address string) string {
	return "s3://" + bucket + "/" + prefix + "?endpoint=http://" + address
}
