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
			if b == nil {
				io.WriteString(w, "-\n")
				continue
			}
			io.WriteString(w, strconv.Itoa(len(b))+"\n")
			w.Write(b)
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
	data, err := io.ReadAll(io.LimitReader(f, smallBytes+1))
	if err != nil || len(data) == 0 || len(data) > smallBytes {
		return nil
	}
	return data
}

// offering reports whether a server has said that it gives blobs many at a time.
func (k *Known) offering(url string) bool { return k != nil && k.offers[url] }

func (k *Known) offered(url string, does bool) {
	if k == nil {
		return
	}
	if k.offers == nil {
		k.offers = map[string]bool{}
	}
	k.offers[url] = does
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
		came, err := g.askTogether(ctx, wanted, some, there, bounds, moves)
		switch {
		case ctx.Err() != nil:
			return there, context.Cause(ctx)
		case err != nil:
			g.Known.offered(g.URL, came && (errors.Is(err, ErrUnfinished) || errors.Is(err, errSlow))) // what comes too slowly for all stays if it comes by itself
		}
		if errors.Is(err, ErrUnfinished) || errors.Is(err, errSlow) {
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
	defer Finish(response)
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
