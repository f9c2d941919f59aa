package depot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// newsToken is the preference for an answer that brings all that is new, with the version of the newest root that the asker has. Its parameter is the
// SHA-256 of the manifest that the asker has: with most timestamps nothing is new but the lease, and the manifest of a large mesh is large.
const (
	newsToken     = "news"
	manifestParam = "manifest"
)

// What a request for the timestamp is answered with at the most, so that it stays small beside what else is served: larger files are fetched as ever.
const (
	maxNews      = 1 << 20 // octets of all files
	maxNewsRoots = 16
)

// News is what a timestamp names, down to the manifest unless the asker has that, beside itself, and the roots that the asker does not have: all that a look
// at the repository asks for, one after the other, in the answer to a request that was held. Nothing of it is trusted before it was verified (LookWith).
//
//	{"root":2,"files":[{"name":"metadata/timestamp.json","data":"eyJz…"},{"name":"metadata/7.snapshot.json","data":"eyJz…"}]}
type News struct {
	Root  int64          `json:"root"` // version of the newest root that there is
	Files []release.File `json:"files"`
}

// newsOf is what is new in a repository to who has its roots up to one.
func newsOf(repo Store, root int64) (n News, err error) {
	n.Root = root
	if n.Files, err = release.Named(repo); err != nil {
		return n, err
	}
	for {
		data, _, err := repo.Read(release.RootName(n.Root+1), release.MaxBytes(release.RootName(n.Root+1)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return n, err
		}
		if n.Root++; n.Root-root > maxNewsRoots {
			return n, errTooMuchNews
		}
		n.Files = append(n.Files, release.File{Name: release.RootName(n.Root), Data: data})
	}
	return n, nil
}

// encode is the answer that brings n, but for a file of the name without.
func (n News) encode(without string) ([]byte, error) {
	n.Files = slices.DeleteFunc(slices.Clone(n.Files), func(f release.File) bool { return f.Name == without })
	octets := 0
	for _, f := range n.Files {
		octets += len(f.Data)
	}
	if octets > maxNews {
		return nil, errTooMuchNews
	}
	return json.Marshal(n)
}

var errTooMuchNews = errors.New("it is more than an answer brings")

// PreferNews makes a request that is held (PreferWait) one whose answer may bring what is new to who has the mesh's roots up to one, and a manifest in the
// Memory that it looks with.
func PreferNews(r *http.Request, root int64, manifest release.Digest) {
	r.Header.Set(preferHeader, fmt.Sprintf("%s, %s=%d; %s=%s", r.Header.Get(preferHeader), newsToken, root, manifestParam, manifest))
	askPacked(r, true)
}

// manifestOf is the name of the manifest that the sender of a request has; "" if it does not say so.
func manifestOf(r *http.Request) string {
	var d release.Digest
	if d.UnmarshalText([]byte(parameter(r.Header.Values(preferHeader), newsToken, manifestParam))) != nil {
		return ""
	}
	return release.ManifestName(d)
}

// ReadNews reads an answer to the end. It gives nil where that has just what the request named, as that of a static server.
func ReadNews(r *http.Response) (*News, error) {
	_, brings := preference(r.Header.Values(appliedHeader), newsToken)
	if !brings || r.StatusCode != http.StatusOK {
		_, err := io.Copy(io.Discard, io.LimitReader(r.Body, release.MaxBytes(release.TimestampName)+1))
		return nil, err
	}
	data, err := readContent(r, 2*maxNews)
	if err != nil {
		return nil, err
	}
	return parseNews(data)
}

// parseNews reads what encode wrote. Files other than those of a look, or longer than they may be, are refused.
func parseNews(data []byte) (*News, error) {
	if len(data) > 2*maxNews {
		return nil, errTooMuchNews
	}
	n := new(News)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(n); err != nil {
		return nil, fmt.Errorf("news: %w", err)
	}
	if d.More() {
		return nil, errors.New("news: something follows the JSON value")
	}
	if n.Root < 1 {
		return nil, fmt.Errorf("news: a root of version %d", n.Root)
	}
	seen := map[string]bool{}
	for _, f := range n.Files {
		if !known.MatchString(f.Name) || strings.HasPrefix(f.Name, blobDir) || release.IsNode(f.Name) {
			return nil, fmt.Errorf("news: %.100q is no file of a look", f.Name)
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("news: %s is there twice", f.Name)
		}
		seen[f.Name] = true
		if int64(len(f.Data)) > release.MaxBytes(f.Name) {
			return nil, fmt.Errorf("news: %s has %d octets, more than %d", f.Name, len(f.Data), release.MaxBytes(f.Name))
		}
	}
	return n, nil
}

// file is what is known of a file by the news, if anything is: its content, or that it is not there.
func (n *News) file(name string) (data []byte, err error, told bool) {
	if n == nil {
		return nil, nil, false
	}
	for _, f := range n.Files {
		if f.Name == name {
			return f.Data, nil, true
		}
	}
	if name == release.RootName(n.Root+1) {
		return nil, fs.ErrNotExist, true
	}
	return nil, nil, false
}

// told is news as they were sent last, which are the same for most who ask.
type told struct {
	root     int64
	tag      string // of the timestamp in it, or of that of which it cannot be told
	manifest string // name
	all      body
	rest     body  // all but the manifest
	err      error // why nothing is known
}

// body is what is sent, as it is and packed, or why nothing can be.
type body struct {
	data, packed []byte
	err          error
}

// body is what is told of n but for a file.
func (n News) body(without string) (b body) {
	if b.data, b.err = n.encode(without); b.err == nil {
		b.packed = packed(b.data)
	}
	return b
}

// tell answers with what is new, if that is known and not too much, and there is another timestamp than the request names.
func (h *Holder) tell(w http.ResponseWriter, r *http.Request, root int64) bool {
	if root < 1 {
		return false
	}
	n, err := h.news(r.Context(), root)
	if err != nil || n.tag == r.Header.Get("If-None-Match") {
		return false
	}
	b := n.all
	if manifestOf(r) == n.manifest {
		b = n.rest
	}
	if b.err != nil {
		return false
	}
	w.Header().Set(appliedHeader, fmt.Sprintf("%s, %s=%d", w.Header().Get(appliedHeader), newsToken, root))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(sendable(w, r, b.data, b.packed))
	return true
}

// tellWithin is how long an answer waits for another one to have read what is new.
const tellWithin = time.Second

// news are those of now for who has roots up to one. They are read once, also where that fails: who is not told looks, and a repository that is slow, or
// in which too much is new, is not to be read for each who asks.
func (h *Holder) news(ctx context.Context, root int64) (told, error) {
	late := time.NewTimer(tellWithin)
	defer late.Stop()
	select {
	case h.telling <- struct{}{}:
		defer func() { <-h.telling }()
	case <-late.C:
		return told{}, errNotRead
	case <-ctx.Done():
		return told{}, context.Cause(ctx)
	}
	now, _ := h.current()
	if h.told.tag == now && h.told.root == root && now != "" {
		return h.told, h.told.err
	}
	n, err := newsOf(h.repo, root)
	if h.told = (told{root: root, tag: now, err: err}); err != nil {
		return h.told, err
	}
	h.told.tag, h.told.manifest = TimestampTag(n.Files[0].Data), n.Files[3].Name // as release.Named has them
	h.told.all, h.told.rest = n.body(""), n.body(h.told.manifest)
	return h.told, nil
}

var errNotRead = errors.New("the repository is still being read")
