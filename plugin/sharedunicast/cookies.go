package sharedunicast

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// jar has the secrets of DNS Cookies from a file, which is looked at again now and then: secrets are rolled over by a change
// of the file on each node, one after the other, without a reload.
type jar struct {
	file    string
	secrets atomic.Pointer[query.Secrets]
	content []byte // as it was read last
	stop    chan struct{}
	stopped sync.Once
}

// lookEvery is how often the file is looked at.
const lookEvery = 5 * time.Second

// openJar reads the file, and looks at it from then on.
func openJar(file string) (*jar, error) {
	j := &jar{file: file, stop: make(chan struct{})}
	if err := j.read(); err != nil {
		return nil, err
	}
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
	secrets, err := query.ReadSecrets(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("cookies: %s: %w", j.file, err)
	}
	j.content = b
	if j.secrets.Swap(&secrets) != nil {
		logger.Infof("cookies: %s has changed: %d secrets", j.file, len(secrets))
	}
	return nil
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
		switch err := j.read(); {
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
