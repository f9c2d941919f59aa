package zonefile

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// A large text is read in chunks of whole lines, several at a time. Each is read as if it stood alone: without origin,
// owner or TTL from before, and without directives. If all of it can be read so, as in canonical text, its records are
// taken over in their turn. If not, or if an entry of the chunk before reaches into it, it is read again as text, in its
// turn. So the outcome is always that of reading line by line.
const (
	chunkSize = 1 << 20
	maxChunks = 8 // read at a time: taking over is a tenth of the work
)

// chunk is a piece of the text.
type chunk struct {
	text  []byte
	ready chan bool // whether it could be read alone; then there are:
	p     parser    // its records
	f     file      // and its last owner
	lines int
}

// chunks reads a text ahead. Read gives it as it is, take the chunks that could be read alone.
type chunks struct {
	free    chan *chunk
	ordered chan *chunk
	err     error // why the text ended, once ordered is closed
	end     chan struct{}
	running sync.WaitGroup

	next  *chunk // the first one that is not done with
	alone bool   // it was read alone
	rest  []byte // what is left of it when it is read as text
}

// newChunks begins to read, so many chunks of so many octets at a time. close must be called.
func newChunks(r io.Reader, size, readers int, opts Options) *chunks {
	bound := readers + 2 // chunks in all, so that to send one never waits
	c := &chunks{free: make(chan *chunk, bound), ordered: make(chan *chunk, bound), end: make(chan struct{})}
	for range bound {
		c.free <- &chunk{ready: make(chan bool, 1)}
	}
	work := make(chan *chunk, bound)
	c.running.Go(func() {
		defer close(c.ordered)
		defer close(work)
		c.cut(r, size, work)
	})
	for range readers {
		c.running.Go(func() {
			for k := range work {
				k.ready <- k.readAlone(opts)
			}
		})
	}
	return c
}

// close ends reading, whatever is left, and waits for that.
func (c *chunks) close() {
	close(c.end)
	c.running.Wait()
}

// cut cuts the text at ends of lines, or where there is none for a whole chunk, anywhere.
func (c *chunks) cut(r io.Reader, size int, work chan<- *chunk) {
	var left []byte
	for c.err == nil {
		var k *chunk
		select {
		case <-c.end:
			return
		case k = <-c.free:
		}
		if k.text == nil {
			k.text = make([]byte, size)
		}
		k.text = k.text[:size]
		n := copy(k.text, left)
		read, err := io.ReadFull(r, k.text[n:])
		k.text, left = k.text[:n+read], nil
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		c.err = err
		if end := bytes.LastIndexByte(k.text, '\n') + 1; err == nil && end > 0 {
			left = bytes.Clone(k.text[end:])
			k.text = k.text[:end]
		}
		if len(k.text) > 0 {
			work <- k
			c.ordered <- k
		}
	}
}

// readAlone reads a chunk without knowing what came before. False says that this cannot be done.
func (k *chunk) readAlone(opts Options) bool {
	if !bytes.HasSuffix(k.text, []byte{'\n'}) {
		return false
	}
	if k.p.b == nil {
		k.p.b = zone.NewBuilder()
	}
	k.p.b.Reset()
	k.p = parser{opts: opts, b: k.p.b, alone: true}
	k.f = file{}
	s := newScanner(bytes.NewReader(k.text), opts.MaxEntry)
	defer s.close()
	for {
		e, err := s.next(&k.p, &k.f)
		if err == io.EOF {
			k.lines = s.line
			return !k.p.b.HasFindings()
		}
		if err != nil || e != nil && k.p.entry(&k.f, e) != nil {
			return false
		}
	}
}

// take returns the next chunk if it was read alone, and if nothing of it was read as text.
func (c *chunks) take() *chunk {
	if !c.advance() || !c.alone || len(c.rest) < len(c.next.text) {
		return nil
	}
	return c.next
}

// Read gives the text of what was not taken.
func (c *chunks) Read(p []byte) (int, error) {
	if !c.advance() {
		return 0, c.err
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.done()
	}
	return n, nil
}

// advance makes sure that there is a next chunk, unless the text has ended.
func (c *chunks) advance() bool {
	if c.next != nil {
		return true
	}
	k, more := <-c.ordered
	if more {
		c.next, c.alone, c.rest = k, <-k.ready, k.text
	}
	return more
}

// done gives the next chunk back.
func (c *chunks) done() {
	c.free <- c.next
	c.next, c.rest = nil, nil
}

// takeOver adds what a chunk that was read alone has, if there is room. Otherwise the limit is found by reading it again.
func (p *parser) takeOver(k *chunk, f *file, s *scanner) bool {
	if p.b.Len()+k.p.b.Len() > p.opts.MaxRecords || p.b.Full(k.p.b) {
		return false
	}
	p.b.Append(k.p.b, f.name, s.line)
	s.line += k.lines
	s.octets += int64(len(k.text))
	if k.p.b.Len() > 0 {
		f.origin, f.owner = cmp.Or(f.origin, k.p.soa), k.f.owner
		p.follow(*k.p.lastTTL)
	}
	return true
}
