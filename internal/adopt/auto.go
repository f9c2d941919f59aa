package adopt

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// maxRegexp bounds an expression, as auto does.
const maxRegexp = 10_000

// auto reads auto [ZONES...] { directory DIR [REGEXP TEMPLATE] }.
func (r *corefile) auto(b *serverBlock, d directive) {
	origins := r.origins(b, d, d.args)
	seen := false
	for _, p := range d.props {
		if p.name == "directory" {
			seen = true
			r.directory(b, d, p, origins)
			continue
		}
		r.property(b, d, p)
	}
	if !seen {
		r.fail(d.file, d.at, "auto: wants directory DIR")
	}
}

// directory reads the line of that name, and the directory.
func (r *corefile) directory(b *serverBlock, d directive, p line, origins []string) {
	expression, template := `db\.(.*)`, "${1}"
	switch len(p.words) {
	case 1:
	case 3:
		expression, template = p.words[1], strings.ReplaceAll(p.words[2], "{", "${")
	default:
		r.fail(p.file, p.at, "auto: want directory DIR [REGEXP ORIGIN_TEMPLATE]")
		return
	}
	if len(expression) > maxRegexp {
		r.fail(p.file, p.at, "auto: the expression has more than %d octets", maxRegexp)
		return
	}
	re, err := regexp.Compile(expression)
	if err != nil || re.NumSubexp() == 0 {
		r.fail(p.file, p.at, "auto: %q is no expression with a group", expression)
		return
	}
	dir := r.path(b.root, p.words[0])
	files, err := walk(dir, re, template)
	if err != nil {
		r.say(b, p, p.name, Refused, "%v", err)
		return
	}
	f := &folder{Directory: Directory{dir, patternOf(expression, template), true}, block: b, at: p}
	f.stays = f.Pattern != ""
	for _, file := range files {
		if !slices.ContainsFunc(origins, func(o string) bool { return dns.IsSubDomain(o, file.origin) }) {
			f.stays = false
			f.others = append(f.others, file.origin)
			continue
		}
		match, _ := filepath.Match(f.Pattern, filepath.Base(file.path))
		f.stays = f.stays && match && filepath.Dir(file.path) == dir
		f.files++
		r.offer(b, line{name: d.name, file: p.file, at: p.at}, Zone{Name: file.origin, File: file.path}, f)
	}
	if all, _ := filepath.Glob(filepath.Join(dir, f.Pattern)); len(all) != f.files {
		f.stays = false
	}
	r.folders = append(r.folders, f)
}

// folder is a directory of auto, which may be taken whole, or else as the files that are in it now.
type folder struct {
	Directory
	block  *serverBlock
	at     line
	files  int      // of zones that CoreDNS answers for
	others []string // zones that it does not answer for
	stays  bool     // it can be taken whole
}

// folder says what becomes of one.
func (r *corefile) folder(f *folder) {
	switch {
	case f.files == 0:
		r.say(f.block, f.at, "directory", Refused, "no file in %s is one of a zone of this block", f.Path)
	case f.stays:
		r.say(f.block, f.at, "directory", Changed, "%s, files %s: followed as it is, and a zone whose file is deleted is withdrawn", f.Path, f.Pattern)
		if !slices.Contains(r.plan.Directories, f.Directory) {
			r.plan.Directories = append(r.plan.Directories, f.Directory)
		}
	default:
		r.say(f.block, f.at, "directory", Changed, "the zone files in %s are copied, and it is followed no more: a pattern with one * would not give the same zones", f.Path)
	}
	if len(f.others) > 0 {
		r.say(f.block, f.at, "auto", Changed, "no zone of this block, so CoreDNS does not answer for it either: %s", some(f.others))
	}
}

// found is a zone file in a directory.
type found struct{ path, origin string }

// walk finds zone files as auto does: below a directory, which may be a link, by the files' names.
func walk(dir string, re *regexp.Regexp, template string) (files []found, err error) {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	err = filepath.WalkDir(resolved, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		m := re.FindStringSubmatchIndex(e.Name())
		if e.IsDir() || m == nil {
			return nil
		}
		origin, err := fields.ZoneName(string(re.ExpandString(nil, template, e.Name(), m)))
		if err != nil || seen[origin] {
			return nil
		}
		seen[origin] = true
		if len(files) == maxZones {
			return fmt.Errorf("more than %d zone files below %s", maxZones, dir)
		}
		relative, err := filepath.Rel(resolved, path)
		files = append(files, found{filepath.Join(dir, relative), origin})
		return err
	})
	return files, err
}

// simple is an expression that a pattern with one * says as well.
var simple = regexp.MustCompile(`^\^?((?:[A-Za-z0-9_-]|\\\.)*)\(\.[*+]\)((?:[A-Za-z0-9_-]|\\\.)*)\$?$`)

// patternOf is a pattern for the files of which an expression makes zones of the same names; empty: there is none.
func patternOf(expression, template string) string {
	m := simple.FindStringSubmatch(expression)
	if m == nil || template != "${1}" && template != "$1" {
		return ""
	}
	return strings.ReplaceAll(m[1], `\.`, ".") + "*" + strings.ReplaceAll(m[2], `\.`, ".")
}
