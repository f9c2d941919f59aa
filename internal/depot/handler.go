package depot

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
)

// known is every path that a repository has.
var known = regexp.MustCompile(`^(metadata/(timestamp|[1-9][0-9]{0,18}\.(root|snapshot|targets))\.json|` +
	`targets/[0-9a-f]{64}\.mesh\.json|blobs/sha256/[0-9a-f]{64})$`)

// Handler serves the repository: GET and HEAD of the files it has, ranges included, nothing else. Who may ask is the
// server's concern.
func (d *Dir) Handler() http.Handler {
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
		d.serveFile(w, r, name)
	})
}

func (d *Dir) serveFile(w http.ResponseWriter, r *http.Request, name string) {
	f, err := openRegular(d.root, name)
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
	w.Header().Set("Content-Type", contentType(name))
	if name == "metadata/timestamp.json" {
		w.Header().Set("Cache-Control", "no-cache")
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func contentType(name string) string {
	if strings.HasSuffix(name, ".json") {
		return "application/json"
	}
	return "application/zstd"
}

var _ fs.FS = (*Dir)(nil)
var _ fs.File = (*os.File)(nil)
