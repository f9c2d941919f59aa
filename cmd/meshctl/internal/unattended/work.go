package unattended

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// workSocket, in a home, is where "meshctl serve" says how far it is with what takes long, and which alarms hold, to
// "meshctl status".
const workSocket = "serve.sock"

// ServeWork says it to whoever asks, until what it returns is closed.
func ServeWork(h *home.Home, work func() []status.Progress, alarms func() []status.Reason) (*socket.Server, error) {
	path, err := filepath.Abs(h.Path(workSocket))
	if err != nil {
		return nil, err
	}
	return socket.Serve(path, func() any { return status.Work{Version: status.Version, Progress: work(), Alarms: alarms()} })
}

// ReadWork is how far "meshctl serve" is with what takes long, and which alarms hold; nil if none runs on this home.
func ReadWork(ctx context.Context, h *home.Home) (*status.Work, error) {
	var w status.Work
	err := socket.Read(ctx, h.Path(workSocket), &w)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EINVAL) {
		return nil, nil // it is not there, has ended, or (but not on Linux) the path is too long for it to be there
	}
	if err != nil {
		return nil, err
	}
	return &w, nil
}

// NotServing says that no "meshctl serve" runs on this home, for which ReadWork has found none, if the home is meant for one: it was killed, and
// has left its socket, or sources are configured.
func NotServing(h *home.Home, sources bool) (status.Reason, bool) {
	if info, err := os.Lstat(h.Path(workSocket)); err == nil && info.Mode()&fs.ModeSocket != 0 {
		return status.Reason{Code: AlarmServeEnded, Detail: "no meshctl serve runs on this home: the one that ran here has ended without stopping, and left " + workSocket}, true
	}
	if sources {
		return status.Reason{Code: AlarmNoServe, Detail: "no meshctl serve runs on this home, whose meshctl.yaml has sources"}, true
	}
	return status.Reason{}, false
}

// Work is how far the cycle is with zones that are coming and with the one that is being checked.
func (c *Cycle) Work() []status.Progress {
	c.mu.Lock()
	receiver, lately := c.receiver, c.lately
	c.mu.Unlock()
	var list []status.Progress
	if receiver != nil {
		for _, z := range receiver.Coming() {
			list = append(list, progressOf("receiving", z.What, z.Records, z.Expected, z.Began))
		}
	}
	if lately == nil {
		return list
	}
	if checking := lately.Checking(); checking != nil {
		list = append(list, *checking)
	}
	return list
}

func progressOf(what, subject string, done, of int, began time.Time) status.Progress {
	return status.Progress{What: what, Subject: subject, Done: int64(done), Of: int64(of), Unit: "records",
		Began: instant.WallOf(began), Seconds: time.Since(began).Seconds()}
}
