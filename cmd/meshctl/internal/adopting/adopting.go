// Package adopting writes into a home what a mesh takes over of another server's configuration: zone files, secrets, the nodes'
// Corefile and meshctl.yaml. It may be repeated, and replaces nothing that somebody wrote. What there is to take over is said
// by internal/adopt. cmd/meshctl calls it.
package adopting

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/adopt"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// Written is a file that was written, or is as it would be.
type Written struct {
	File string `json:"file"`
	Says string `json:"says"` // what is in it
}

const (
	zonesDir     = "zonefiles"
	keysDir      = "tsig"
	templatesDir = "templates"
	templateName = "Corefile"
	keptTemplate = "Corefile.before-adopt" // the template that the nodes' Corefile was made of
	transferKey  = "transfer.key"
	maxBytes     = 16 << 20
)

// Write writes what a plan makes. Of several files meshctl.yaml is the last: until it is there, nothing has changed.
func Write(h *home.Home, p *adopt.Plan) (done []Written, err error) {
	at, err := places(h)
	if err != nil {
		return nil, err
	}
	text, err := configuration(h, p, at)
	if err != nil {
		return nil, err
	}
	w := &writer{}
	nodes, base, err := template(h, p)
	if err != nil {
		return nil, err
	}
	w.zones(p, at.Zones)
	for _, k := range p.Keys {
		w.mine(filepath.Join(at.Keys, k.KeyFile()), []byte(k.Secret+"\n"), p.File)
		w.write(at.Keys, k.KeyFile(), []byte(k.Secret+"\n"), 0o600, "the secret of TSIG key "+k.Name)
	}
	if p.Transfer != nil && nodes != "" {
		w.write(h.Path(templatesDir), transferKey, p.Transfer.Secrets(), 0o600, "TSIG keys for transfers from the nodes")
	}
	if nodes != base {
		w.write(h.Path(templatesDir), keptTemplate, []byte(base), 0o644, "the template as it was before")
		w.write(h.Path(templatesDir), templateName, []byte(nodes), 0o644, "what Corefiles of nodes are made of")
	}
	w.write(h.Path(), home.ConfigName, text, 0o644, "where zones come from")
	return w.done, w.err
}

// places are those in a home. They are absolute, since meshctl.yaml names them.
func places(h *home.Home) (adopt.Places, error) {
	dir, err := filepath.Abs(h.Path())
	return adopt.Places{Zones: filepath.Join(dir, zonesDir), Keys: filepath.Join(dir, keysDir)}, err
}

// configuration is meshctl.yaml with the plan's sources. One that is there keeps what it says.
func configuration(h *home.Home, p *adopt.Plan, at adopt.Places) ([]byte, error) {
	file := h.Path(home.ConfigName)
	sources := fmt.Sprintf("# What \"meshctl adopt %s\" took over. sources.example.yaml shows every key.\n", filepath.Base(p.File)) + p.Sources(at)
	before, err := fields.ReadFile(file, maxBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		before = nil
		if a := listen(h); a != "" {
			sources += fmt.Sprintf("serve:\n  listen: %q\n", a)
		}
	case err != nil:
		return nil, err
	case bytes.Contains(before, []byte(sources)):
		return before, nil
	default:
		now, err := config.Parse(file, before)
		if err != nil {
			return nil, err
		}
		if now.Sources != nil {
			return nil, hint.Errorf("take that section out, or adopt into another home and bring both together by hand", "%s has a section \"sources\" already", file)
		}
	}
	text := before
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	text = append(text, sources...)
	_, err = config.Parse(file, text)
	return text, err
}

// listen is where the distribution host serves, as far as the nodes' URLs say it.
func listen(h *home.Home) string {
	for _, text := range enrol.Served(h) {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		if a, err := fields.Endpoint(u.Hostname() + ":" + cmp.Or(u.Port(), "443")); err == nil {
			return a.String()
		}
		if a, err := fields.Endpoint("[" + u.Hostname() + "]:" + cmp.Or(u.Port(), "443")); err == nil {
			return a.String()
		}
	}
	return ""
}

// template is the nodes' Corefile, and what it is made of. A mesh without templates has nodes that are configured elsewhere.
func template(h *home.Home, p *adopt.Plan) (made, base string, err error) {
	now, err := fields.ReadFile(h.Path(templatesDir, templateName), maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	base = string(now)
	if kept, err := fields.ReadFile(h.Path(templatesDir, keptTemplate), maxBytes); err == nil {
		if made, err := p.Corefile(string(kept)); err == nil && made == base {
			return made, string(kept), nil
		}
	}
	if made, err = p.Corefile(base); err != nil {
		return "", "", hint.Errorf("take the lines of the report that are \"kept\" into it by hand, and move it away for the time of this command",
			"%s: %w", h.Path(templatesDir, templateName), err)
	}
	return made, base, nil
}

// writer writes files until one fails.
type writer struct {
	done []Written
	err  error
}

// write writes a file, durably.
func (w *writer) write(dir, name string, data []byte, mode fs.FileMode, says string) {
	if w.err != nil {
		return
	}
	if there, err := os.Stat(filepath.Join(dir, name)); err == nil { // who may not read it now may not read it then
		mode &= there.Mode().Perm()
	}
	if w.err = os.MkdirAll(dir, mode|mode>>2&0o111); w.err == nil { // who may read files may look for them
		w.err = depot.WriteFile(dir, name, data, mode)
	}
	w.done = append(w.done, Written{filepath.Join(dir, name), says})
}

// mine makes sure that a file is not there, or is as it would be written. One that differs is somebody's work.
func (w *writer) mine(path string, text []byte, from string) {
	if w.err != nil {
		return
	}
	if there, err := os.ReadFile(path); err == nil && !bytes.Equal(there, text) {
		w.err = hint.Errorf("remove it to have it written anew", "%s is there, and is not what %s says", path, from)
	}
}

// zones copies zone files. A copy that differs by now is somebody's work.
func (w *writer) zones(p *adopt.Plan, dir string) {
	for _, z := range p.Zones {
		if z.File == "" || w.err != nil {
			continue
		}
		name, text, why, err := z.Copy()
		if err != nil {
			w.err = err
			return
		}
		if there, err := os.ReadFile(filepath.Join(dir, name)); err == nil && !bytes.Equal(there, text) {
			w.err = hint.Errorf("remove it to copy it anew, or take the zone out of "+p.File, "%s is there, and differs from %s", filepath.Join(dir, name), z.File)
			return
		}
		w.write(dir, name, text, 0o644, strings.TrimSuffix("zone "+z.Name+", "+why, ", "))
	}
}
