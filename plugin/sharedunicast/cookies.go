package sharedunicast

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// jar has the secrets of DNS Cookies, made of the keys in a file. A seed there has another secret each day; keys are rolled over by a
// change of the file on each node, one after the other, without a reload.
type jar struct {
	file    string
	secrets atomic.Pointer[query.Secrets] // that are good now
	keys    query.Keys                    // only the goroutine that follows the file has these
	content []byte                        // as it was read last
	stop    chan struct{}
	stopped sync.Once
}

// lookEvery is how often the file and the day are looked at.
const lookEvery = time.Second

// openJar reads the file, and looks at it from then on.
func openJar(file string) (*jar, error) {
	j := &jar{file: file, stop: make(chan struct{})}
	if err := j.read(); err != nil {
		return nil, err
	}
	j.turn(time.Now())
	go j.follow()
	return j, nil
}

// read reads the file. Secrets that are no longer good must be taken out of it, so what is wrong with it changes nothing.
func (j *jar) read() error {
	b, err := os.ReadFile(j.file)
	if err != nil {
		return fmt.Errorf("cookies: %w", err)
	}
	if bytes.Equal(b, j.content) && j.content != nil {
		return nil
	}
	keys, err := query.ReadKeys(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("cookies: %s: %w", j.file, err)
	}
	if j.content != nil {
		logger.Infof("cookies: %s has changed: %d secrets or seeds", j.file, len(keys))
	}
	j.content, j.keys = b, keys
	return nil
}

// turn has the secrets of the time used.
func (j *jar) turn(now time.Time) {
	secrets := j.keys.Secrets(uint32(now.Unix()))
	if old := j.secrets.Load(); old == nil || !slices.Equal(*old, secrets) {
		j.secrets.Store(&secrets)
	}
}

func (j *jar) follow() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-j.stop:
			return
		case <-tick.C:
		}
		err := j.read()
		j.turn(time.Now())
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			logger.Errorf("%v: the secrets read before stay", err)
		}
	}
}

// close ends looking at the file.
func (j *jar) close() { j.stopped.Do(func() { close(j.stop) }) }
