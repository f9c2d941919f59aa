package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// stallAfter is how long a server may send nothing before a download is given up. The part that came stays.
const stallAfter = 30 * time.Second

// partPrefix marks the part of a blob that came so far.
const partPrefix = ".part-"

// fetch downloads a blob from base, the URL of a repository. A download that was cut off goes on where it
// stopped, unless that was for want of room. No more than the blob's length is taken; the file gets its name only after its digest was checked, and is
// on disk then; its name is when the directory is synced. came is called once no more comes.
func (d *Dir) fetch(ctx context.Context, client *http.Client, base string, b release.Blob, bounds Bounds, came func()) error {
	name, part := release.BlobName(b.SHA256), partName(b)
	p, err := d.fetchPart(ctx, client, url(base, name), part, b, bounds)
	came()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		d.removePart(part) // or it would take the room that the next lease needs
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	if err := d.checkPart(p, b); err != nil {
		d.removePart(part)
		if p.resumed { // the part that lay here may have been the wrong one
			return d.fetch(ctx, client, base, b, bounds, came)
		}
		return err
	}
	step("rename")
	root, from := d.at(part)
	_, to := d.at(name)
	if err := root.Rename(from, to); err != nil {
		d.removePart(part)
		return err
	}
	return nil
}

func (d *Dir) removePart(part string) {
	root, name := d.at(part)
	root.Remove(name)
}

func partName(b release.Blob) string { return path.Join(blobDir, partPrefix+b.SHA256.String()) }

// partSize is how much of a blob came so far.
func (d *Dir) partSize(b release.Blob) int64 {
	info, err := d.lstat(partName(b))
	if err != nil {
		return 0
	}
	return min(info.Size(), b.Length)
}

func url(base, name string) string { return strings.TrimSuffix(base, "/") + "/" + name }

// part is a blob that comes, in a file of its own.
type part struct {
	file    *os.File
	seen    *meter // what was written; nil: something was here before
	resumed bool   // something was
}

// Write implements io.Writer.
func (p *part) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	if p.seen != nil {
		p.seen.Write(b[:n])
	}
	return n, err
}

// restart empties it.
func (p *part) restart() error {
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	p.seen = newMeter()
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

// fetchPart appends to a part what is missing of a blob, and syncs it. It is closed then.
func (d *Dir) fetchPart(ctx context.Context, client *http.Client, from, name string, b release.Blob, bounds Bounds) (*part, error) {
	p, have, err := d.openPart(name, b.Length)
	if err != nil {
		return nil, err
	}
	defer p.file.Close()
	if have < b.Length {
		if err := download(ctx, client, from, p, have, b.Length, bounds); err != nil {
			return nil, err
		}
	}
	step("sync")
	return p, p.file.Sync()
}

// openPart opens the part for appending, and says how much of it there is. What cannot be a part is removed first.
func (d *Dir) openPart(name string, length int64) (*part, int64, error) {
	root, name := d.at(name)
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err == nil { // as nearly always
		return &part{file: f, seen: newMeter()}, 0, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, 0, err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() || info.Size() > length {
		if err := root.Remove(name); err != nil {
			return nil, 0, err
		}
	}
	if f, err = root.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, 0, err
	}
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
	}
	return &part{file: f, resumed: have > 0}, have, err
}

// download asks for the bytes from have on, and writes what comes to f.
func download(ctx context.Context, client *http.Client, from string, f *part, have, length int64, bounds Bounds) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	askPacked(request, false) // it is packed
	if have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	stall := time.AfterFunc(stallAfter, func() { cancel(errStalled) })
	defer stall.Stop()
	response, err := client.Do(request)
	if err != nil {
		return cause(ctx, err)
	}
	defer response.Body.Close()
	if have, err = startOf(response, f, have); err != nil {
		return err
	}
	if response.Header.Get(togetherHeader) != "" && bounds.offered != nil {
		bounds.offered()
	}
	if bounds.crowd == nil {
		bounds.crowd = new(crowd)
	}
	bounds.crowd.begin()
	defer bounds.crowd.end()
	n, err := io.Copy(f, io.LimitReader(&paced{ctx: ctx, lively: &lively{response.Body, stall}, Bounds: bounds, have: have, length: length}, length-have))
	if err != nil {
		return cause(ctx, err)
	}
	if have+n != length {
		return fmt.Errorf("%w: %d of %d bytes came", io.ErrUnexpectedEOF, have+n, length)
	}
	return nil
}

var errStalled = fmt.Errorf("nothing came for %v", stallAfter)

func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil {
		return why
	}
	return err
}

// startOf is the offset that the response's body starts at; f is cut to it.
func startOf(response *http.Response, f *part, have int64) (int64, error) {
	switch response.StatusCode {
	case http.StatusPartialContent:
		if !strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)) {
			return 0, fmt.Errorf("the server sent another range: %q", response.Header.Get("Content-Range"))
		}
		return have, nil
	case http.StatusOK:
		if have == 0 {
			return 0, nil
		}
		return 0, f.restart()
	}
	return 0, fmt.Errorf("the server said %s", response.Status)
}

// lively puts off the stall with each byte that comes.
type lively struct {
	io.Reader
	stall *time.Timer
}

func (l *lively) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if n > 0 {
		l.stall.Reset(stallAfter)
	}
	return n, err
}

// Pace bounds how many bytes a second all downloads take that share it. Its zero value is of no use: see NewPace.
type Pace struct {
	perSecond int64
	mu        sync.Mutex
	next      time.Time // when what was taken so far is paid for
}

// NewPace is of so many bytes a second, above 0.
func NewPace(perSecond int64) *Pace { return &Pace{perSecond: perSecond} }

// wait waits as long as n bytes take.
func (p *Pace) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(int64(n) * int64(time.Second) / p.perSecond))
	until := p.next
	p.mu.Unlock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Bounds are those of a download: its pace, nil for none, and until when it may take what comes, zero for no end. moved is
// told how many bytes of the file are there, as they come; nil for nobody. crowd is what it shares with others that are under way from the same
// server; nil: there are none. offered is called where the server says that it gives blobs many at a time; nil: nobody wants to know.
type Bounds struct {
	pace    *Pace
	until   time.Time
	moved   func(bytes int64)
	crowd   *crowd
	offered func()
}

// over reports whether no more may be taken.
func (b *Bounds) over() bool { return !b.until.IsZero() && time.Now().After(b.until) }

// crowd is one download, or several at once from one server, which share the line. Its zero value is one of which nothing has come.
type crowd struct {
	mu    sync.Mutex
	came  int64         // bytes
	under int           // files that have begun to come, and are not whole
	since time.Time     // then: when the first of them began
	took  time.Duration // how long such were under way before that
}

// begin says that a file begins to come. What goes before it, a question and its way there and back, says nothing of the line: of many small files
// from far away it is nearly all the time.
func (c *crowd) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under++; c.under == 1 {
		c.since = time.Now()
	}
}

// end says that no more comes of it.
func (c *crowd) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under--; c.under == 0 {
		c.took += time.Since(c.since)
	}
}

func (c *crowd) add(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.came += int64(bytes)
}

// any reports whether something has come.
func (c *crowd) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.came > 0
}

// slow reports whether less than slowest came for a second or longer in which files were under way.
func (c *crowd) slow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := c.took
	if c.under > 0 {
		took += time.Since(c.since)
	}
	return took >= time.Second && c.came < int64(slowest*took.Seconds())
}

// paced reads within bounds, at a pace in pieces of a tenth of a second at the most.
type paced struct {
	ctx context.Context
	*lively
	Bounds
	have, length int64 // bytes of the file, that are here and in all
}

// slowest is how many bytes a second a server must send to be waited for beyond a budget. One that sends less, by mistake or
// by malice, is given up, so that the next one is asked; what came of it stays.
const slowest = 1000

var errSlow = fmt.Errorf("it sends less than %d bytes a second", slowest)

// slow reports whether that is so, and not our own doing.
func (p *paced) slow() bool {
	return p.crowd.slow() && (p.pace == nil || p.pace.perSecond >= 2*slowest)
}

func (p *paced) Read(b []byte) (int, error) {
	if p.pace != nil {
		b = b[:min(int64(len(b)), max(p.pace.perSecond/10, 1))]
	}
	n, err := p.lively.Read(b)
	p.crowd.add(n)
	if p.have += int64(n); p.moved != nil {
		p.moved(p.have)
	}
	if n > 0 && p.pace != nil {
		if waited := p.pace.wait(p.ctx, n); waited != nil {
			return n, waited
		}
		p.stall.Reset(stallAfter) // it was not the server that kept still
	}
	if n > 0 && err == nil && p.have < p.length && p.over() {
		if err = ErrUnfinished; p.slow() {
			err = errSlow
		}
	}
	return n, err
}

// checkPart compares what came with what was signed: as it was written, or as it is read where something was there before.
func (d *Dir) checkPart(p *part, b release.Blob) error {
	if p.seen != nil {
		return p.seen.is(b)
	}
	root, name := d.at(partName(b))
	f, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkPacked(f, b)
}
