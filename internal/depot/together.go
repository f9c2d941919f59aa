package depot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// A Holder gives small blobs many at a time to who asks for them by POST, so that a hundred thousand zones do not take as many round trips. The request
// has the digests in hexadecimal, each in a line. The answer has for each, in that order, its length in decimal, the end of the line, and its octets; or
// "-" and the end of the line where it is not there, or not small. That it does so, it says by togetherHeader with each blob that was asked for by itself.
// Static servers and buckets do not. What comes so is compared with its digest, as everything is, and what does not is asked for by itself.
const (
	togetherPath   = "v1/blobs"
	togetherHeader = "Blobs-Together"
	maxTogether    = 256 // blobs of a request
	readAhead      = 8   // blobs that are read at a time

	endAfter = time.Second // how long the end of an answer is waited for, without which the connection is not used again
)

// together answers a request for blobs.
func (h *Holder) together(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTogether*(2*int64(len(release.Digest{}))+1)))
	var digests []release.Digest
	if err == nil {
		digests, err = parseDigests(data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	repo := h.repo
	if d, ok := repo.(*Dir); ok {
		if near, away, err := d.near(); err == nil {
			defer away()
			repo = near
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	for some := range slices.Chunk(digests, readAhead) {
		blobs := make([][]byte, len(some))
		var all sync.WaitGroup
		for i, d := range some {
			all.Go(func() { blobs[i] = readSmall(repo, release.BlobName(d)) })
		}
		all.Wait()
		for _, b := range blobs {
			head := "-\n"
			if b != nil {
				head = strconv.Itoa(len(b)) + "\n"
			}
			_, err := io.WriteString(w, head)
			if err == nil {
				_, err = w.Write(b)
			}
			if err != nil { // nobody takes the rest
				return
			}
		}
	}
}

// parseDigests reads the lines of a request for blobs.
func parseDigests(data []byte) (all []release.Digest, _ error) {
	for line := range bytes.Lines(data) {
		var d release.Digest
		if err := d.UnmarshalText(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return nil, fmt.Errorf("no digest: %.70q", line)
		}
		if all = append(all, d); len(all) > maxTogether {
			return nil, fmt.Errorf("more than %d digests", maxTogether)
		}
	}
	return all, nil
}

// readSmall is a small file of a repository; nil if it is not there, or no small one.
func readSmall(repo Store, name string) []byte {
	f, err := repo.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 || info.Size() > smallBytes {
		return nil
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil
	}
	return data
}

// offer is that of a server to give blobs many at a time.
type offer struct {
	made bool
	from time.Time // before that it is not taken up, since it came to nothing
}

// offering reports whether a server is to be asked for blobs many at a time.
func (k *Known) offering(url string) bool {
	o := k.offers[url]
	return o.made && !time.Now().Before(o.from)
}

// offered notes that a server has said that it gives blobs many at a time.
func (k *Known) offered(url string) { k.offer(url, offer{true, k.offers[url].from}) }

// An offer that came to nothing is not taken up for so many times as long as that took, and no shorter than a while: what is between here and a server may
// let through that it is made, and swallow each request that takes it up.
const (
	refusedShare = 100
	refusedLeast = time.Minute
)

// refused notes that the offer of a server came to nothing, which took so long. It counts when it is made again, and then after a while.
func (k *Known) refused(url string, took time.Duration) {
	k.offer(url, offer{from: time.Now().Add(max(refusedShare*took, refusedLeast))})
}

func (k *Known) offer(url string, o offer) {
	if k.offers == nil {
		k.offers = map[string]offer{}
	}
	k.offers[url] = o
}

// inOne asks for the small ones among some blobs many at a time, if the server gives them so. It reports which are there then. An error is one of time; whatever
// else is wrong, they are asked for by themselves.
func (g *getter) inOne(ctx context.Context, wanted []release.Blob, bounds Bounds, moves func(i int, came int64)) (there []bool, err error) {
	there = make([]bool, len(wanted))
	for at := 0; at < len(wanted) && g.Known.offering(g.URL); {
		var some []int
		bytes := int64(0)
		for ; at < len(wanted) && len(some) < maxTogether && bytes < togetherBytes; at++ {
			if n := wanted[at].Length; n > 0 && n <= smallBytes {
				some, bytes = append(some, at), bytes+n
			}
		}
		if len(some) < 2 {
			continue
		}
		if bounds.over() && (g.some || bounds.crowd.any()) {
			return there, ErrUnfinished
		}
		began := time.Now()
		came, err := g.askTogether(ctx, wanted, some, there, bounds, moves)
		if ctx.Err() != nil {
			return there, context.Cause(ctx)
		}
		slow := errors.Is(err, ErrUnfinished) || errors.Is(err, errSlow)
		if !came || err != nil && !slow { // what comes too slowly for all stays if it comes by itself
			g.Known.refused(g.URL, time.Since(began))
		}
		if slow {
			return there, err
		}
	}
	return there, nil
}

// askTogether asks for some of the wanted blobs in one request, and notes which are there then. It reports whether any is.
func (g *getter) askTogether(ctx context.Context, wanted []release.Blob, some []int, there []bool, bounds Bounds, moves func(i int, came int64)) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var lines strings.Builder
	for _, i := range some {
		lines.WriteString(wanted[i].SHA256.String() + "\n")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url(g.URL, togetherPath), strings.NewReader(lines.String()))
	if err != nil {
		return false, err
	}
	request.Header["Idempotency-Key"] = nil // the client may send it again, where a connection that was kept turns out to be closed
	request.Header.Set("Content-Type", "text/plain")
	askPacked(request, false) // they are packed
	stall := time.AfterFunc(stallAfter, func() { cancel(errStalled) })
	defer stall.Stop()
	response, err := g.Client.Do(request)
	if err != nil {
		return false, cause(ctx, err)
	}
	defer func() {
		stall.Reset(endAfter)
		Finish(response)
	}()
	if response.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the server said %s", response.Status)
	}
	bounds.crowd.begin()
	defer bounds.crowd.end()
	in := bufio.NewReaderSize(&paced{ctx: ctx, lively: &lively{response.Body, stall}, Bounds: bounds, length: math.MaxInt64}, 1<<15)
	var all errgroup.Group
	all.SetLimit(syncsAtOnce)
	var any atomic.Bool
	for _, i := range some {
		data, wrong := readOne(in, wanted[i])
		if err = wrong; err != nil {
			break
		}
		if data == nil {
			continue
		}
		all.Go(func() error {
			if g.dir.place(wanted[i], data) == nil { // else it is asked for by itself, which says why
				there[i] = true
				any.Store(true)
				if moves != nil {
					moves(i, wanted[i].Length)
				}
			}
			return nil
		})
	}
	_ = all.Wait()
	if err != nil {
		err = cause(ctx, err)
	}
	return any.Load(), err
}

// readOne reads the next blob of an answer: nil if it is not there, or is another one.
func readOne(in *bufio.Reader, b release.Blob) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if string(line) == "-\n" {
		return nil, nil
	}
	if n, err := strconv.ParseUint(string(line[:len(line)-1]), 10, 31); err != nil || int64(n) != b.Length {
		return nil, fmt.Errorf("it sends %.20q octets of a blob that has %d", line, b.Length)
	}
	data := make([]byte, b.Length)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, err
	}
	if release.DigestOf(data) != b.SHA256 {
		return nil, nil
	}
	return data, nil
}

// place puts a blob that is as it was signed in its place: it is on disk then, and its name is when the directory is synced.
func (d *Dir) place(b release.Blob, data []byte) error {
	root, name := d.at(release.BlobName(b.SHA256))
	written, err := writeTemp(root, path.Dir(name), data, 0o644)
	if err != nil {
		return err
	}
	step("rename")
	if err := root.Rename(written, name); err != nil {
		root.Remove(written)
		return err
	}
	d.removePart(partName(b)) // that came before
	return nil
}
