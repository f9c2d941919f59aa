package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// manage makes this test the service manager: a real datagram socket.
func manage(t *testing.T, usec string) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", usec)
	return conn
}

// told is the next datagram; "" if none comes in time.
func told(conn *net.UnixConn, within time.Duration) string {
	data := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(within))
	n, err := conn.Read(data)
	if err != nil {
		return ""
	}
	return string(data[:n])
}

// hang makes the control loop hang for real, until the function returned is called: it carries out an order that does not
// end.
func (n *node) hang() (release func()) {
	begun, end := make(chan struct{}), make(chan struct{})
	n.s.orders <- order{do: func() { close(begun); <-end }, done: make(chan struct{})}
	<-begun
	return func() { close(end) }
}

// The service manager is told of the control loop's rounds and of nothing else: a loop that hangs is silent, though the
// process and its timers run on.
func TestServiceManagerIsToldOfRounds(t *testing.T) {
	conn := manage(t, "400000")
	n := newNode(t, "stop-dns")
	n.runs()
	if first := told(conn, 10*time.Second); first != "READY=1" {
		t.Fatalf("first %q", first)
	}
	if !n.s.status().Announced { // READY means that the first round is over
		t.Error("ready before the first decision")
	}
	for range 3 {
		if next := told(conn, 10*time.Second); next != "WATCHDOG=1" {
			t.Fatalf("then %q", next)
		}
	}
	release := n.hang()
	for told(conn, 50*time.Millisecond) != "" { // sent before
	}
	if said := told(conn, time.Second); said != "" {
		t.Errorf("a loop that hangs says %q", said)
	}
	release()
	if next := told(conn, 10*time.Second); next != "WATCHDOG=1" {
		t.Errorf("a loop that goes on says %q", next)
	}
}

// A manager that does not read, or is not there, holds nothing up; another process's watchdog is none of ours.
func TestServiceManagerThatHangs(t *testing.T) {
	manage(t, "1000")
	n := newNode(t, "stop-dns")
	end := n.runs()
	n.until("the route", announced)
	for before := n.s.watchdog.rounds.Load(); n.s.watchdog.rounds.Load() < before+300; time.Sleep(time.Millisecond) { // more than a socket holds
		n.s.tell(func() {})
	}
	end()
	t.Setenv("WATCHDOG_PID", "1")
	if m := findManager(slog.New(slog.DiscardHandler)); m.conn == nil || m.watchdog != 0 {
		t.Errorf("%+v", m)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nothing"))
	n.restart(func() {})
	n.until("the route", announced)
	os.Unsetenv("NOTIFY_SOCKET")
	if m := findManager(slog.New(slog.DiscardHandler)); m.conn != nil {
		t.Errorf("%+v", m)
	}
}

// A control loop that hangs is seen.
func TestWatchdog(t *testing.T) {
	n := newNode(t, "stop-dns")
	n.runs()
	n.until("the route", announced)
	release := n.hang()
	defer release()
	hung := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go n.s.watchdog.watch(ctx, func() time.Duration { return 100 * time.Millisecond }, func() { close(hung) })
	select {
	case <-hung:
	case <-ctx.Done():
		t.Error("nobody has seen that the control loop hangs")
	}
}

// TestLooksOfAWatchdog: a loop that hangs is found in the time that it may be silent and an eighth, and also where every other look comes
// late; a process that was stopped is not taken for one that hangs, however near to it its loop was.
func TestLooksOfAWatchdog(t *testing.T) {
	const most = 800 * time.Millisecond
	var s silence
	now := time.Duration(0)
	look := func(late time.Duration, rounds uint64) bool { // the last round was at 0
		due := now + s.wait(now, 0, most)
		now = due + late
		return s.look(due, now, 0, most, rounds)
	}
	for !look(0, 0) {
	}
	if now < most || now > most*9/8 {
		t.Errorf("a loop that hangs is found after %v", now)
	}

	s, now = silence{}, 0
	for range watchdogLooks / 2 {
		if look(0, 0) {
			t.Fatalf("found after %v", now)
		}
	}
	if look(time.Hour, 0) {
		t.Error("a process that was stopped for an hour is ended when it goes on")
	}
	if left := s.wait(now, 0, most); left < most/2 {
		t.Errorf("its loop has %v to go on", left)
	}
	if look(0, 1) || s.looks > 0 {
		t.Error("a loop that has gone on is nearer to its end than at first")
	}

	s, now = silence{}, 0
	for i := 1; !look(time.Duration(i%2)*most/4, 0); i++ {
		if i > 20 {
			t.Fatalf("a loop that hangs is not found in %v, where every other look comes late", now)
		}
	}
}
