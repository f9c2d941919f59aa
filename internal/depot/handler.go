package depot

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// known is every path that a repository has.
var known = regexp.MustCompile(`^(metadata/(timestamp|[1-9][0-9]{0,18}\.(root|snapshot|targets))\.json|` +
	`targets/[0-9a-f]{64}\.(mesh|zones)\.json|blobs/sha256/[0-9a-f]{64})$`)

// Handler serves a repository: GET and HEAD of the files it has, ranges included, nothing else; the timestamp has an entity tag, and nodes of trees
// are packed for who takes that. Who may ask is the server's concern.
func Handler(repo Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		if !known.MatchString(name) {
			http.NotFound(w, r)
			return
		}
		serveFile(w, r, repo, name)
	})
}

// Metadata serves what of a depot is of use to another node: metadata and manifests, but no zones, of which those that were made
// of a delta lie under names of their own.
func (d *Dir) Metadata() http.Handler {
	all := Handler(d)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(strings.TrimPrefix(r.URL.Path, "/"), blobDir) {
			http.NotFound(w, r)
			return
		}
		all.ServeHTTP(w, r)
	})
}

// Handler serves the directory.
func (d *Dir) Handler() http.Handler { return Handler(d) }

func serveFile(w http.ResponseWriter, r *http.Request, repo Store, name string) {
	f, err := repo.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, "the repository cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, "the repository cannot be read", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", ContentType(name))
	content := f.(io.ReadSeeker)
	if name == release.TimestampName {
		data, err := io.ReadAll(io.LimitReader(f, release.MaxBytes(name)))
		if err != nil {
			http.Error(w, "the repository cannot be read", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", TimestampTag(data))
		content = bytes.NewReader(data)
	}
	if release.IsNode(name) && r.Header.Get("Range") == "" {
		data, err := io.ReadAll(io.LimitReader(f, release.MaxNodeBytes+1))
		if err != nil {
			http.Error(w, "the repository cannot be read", http.StatusInternalServerError)
			return
		}
		var short []byte
		if takesPacked(r) {
			short = packed(data)
		}
		content = bytes.NewReader(sendable(w, r, data, short))
	}
	http.ServeContent(w, r, "", info.ModTime(), content)
}

// ContentType is what a web server says of a file.
func ContentType(name string) string {
	if strings.HasSuffix(name, ".json") {
		return "application/json"
	}
	return "application/zstd"
}

var _ Store = (*Dir)(nil)
