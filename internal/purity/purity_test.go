package purity

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

const module = "github.com/coredns-anycast/coredns-anycast/"

// host has the packages of the distribution host.
const host = "cmd/meshctl/internal"

// pure are the packages that decide. The same code runs in a table test, in a simulation of a thousand nodes, and in the
// processes; so whatever it knows comes in as an argument.
var pure = []string{"internal/zone", "internal/rdata", "internal/release", "internal/mesh", "internal/gate", "internal/refresh", "internal/remedy", "internal/status", "internal/instant", "internal/query", "internal/rssac"}

// importRule forbids imports. A path stands for itself and all below it; those with module's prefix are this project's.
type importRule struct {
	in      []string // packages that it holds for, with all below them; empty: the whole project
	except  []string // packages that it does not hold for, with all below them
	tests   bool     // it holds for tests too
	forbids []string
	allows  []string // paths below a forbidden one that are fine
	why     string
}

var importRules = []importRule{
	{in: pure, forbids: []string{"os", "io/ioutil", "path/filepath"},
		why: "a decider has no disk: take an fs.FS, a reader or bytes (names in a repository are of package path)"},
	{in: pure, forbids: []string{"net"}, allows: []string{"net/netip"},
		why: "a decider has no network: take what was received, give what is to be sent"},
	{in: pure, forbids: []string{"syscall", "golang.org/x/sys", "unsafe", "runtime"},
		why: "a decider does not depend on the machine"},
	{in: pure, forbids: []string{"sync"},
		why: "a decider has one caller at a time, who does the locking"},
	{in: pure, forbids: []string{"context"},
		why: "a decider never waits, so there is nothing to cancel"},
	{in: pure, forbids: []string{"log"},
		why: "a decider says what it has to say in its result: whoever carries it out logs it"},
	{in: pure, forbids: []string{"math/rand", "crypto/rand"},
		why: "a decider replays: random bytes are an argument"},
	{in: pure, forbids: []string{"github.com/coredns/coredns", "github.com/coredns/caddy", "github.com/fsnotify/fsnotify",
		"github.com/prometheus/client_golang", "github.com/vishvananda/netlink"},
		why: "a decider knows nothing of the process around it"},
	{in: pure, forbids: []string{module + "internal/depot", module + "internal/socket", module + "internal/sysclock", module + "plugin",
		module + "sidecar", module + "cmd"},
		why: "a decider calls nobody who acts"},
	{in: []string{"plugin"}, tests: true, forbids: []string{module + "sidecar"},
		why: "CoreDNS must work without the sidecar: they talk by internal/status over a socket"},
	{in: []string{"sidecar"}, tests: true, forbids: []string{module + "plugin", "github.com/coredns/coredns"},
		why: "the sidecar must outlive CoreDNS: they talk by internal/status over a socket"},
	{in: []string{"internal"}, tests: true, forbids: []string{module + "plugin", module + "sidecar", module + "cmd"},
		why: "what is below does not know what is above"},
	{except: []string{"sidecar/bgp", "cmd/demo"}, forbids: []string{"github.com/osrg/gobgp"},
		why: "one place knows how routes are announced (cmd/demo plays the routers)"},
	{except: []string{"internal/release"}, forbids: []string{"github.com/theupdateframework/go-tuf", "github.com/sigstore/sigstore"},
		why: "one place knows how trust is established"},
	{except: []string{"internal/bucket"}, tests: true, forbids: []string{"github.com/minio"},
		why: "one place knows S3"},
	{except: []string{"cmd/meshctl"}, forbids: []string{module + "internal/bucket"},
		why: "nodes read static files over HTTPS: they need no S3 client"},
	{except: []string{"test", "internal/testca", "internal/testenv", "internal/primarytest", "cmd/meshctl/internal/hometest"},
		forbids: []string{module + "internal/corefiles", module + "internal/testenv", module + "internal/testca", module + "internal/rdatatest", module + "internal/primarytest", module + "cmd/meshctl/internal/hometest"},
		why:     "only tests need a test's environment"},
	{in: []string{host + "/hint"}, forbids: []string{strings.TrimSuffix(module, "/")},
		why: "hints are below everything"},
	{in: []string{host + "/config"}, forbids: []string{module + host},
		why: "one reading of the configuration is for all who need a part of it"},
	{in: []string{host + "/keys"}, forbids: []string{module + host}, allows: []string{module + host + "/hint"},
		why: "keys may be where nothing else of a mesh is"},
	{in: []string{host + "/home"}, forbids: []string{module + host}, allows: []string{module + host + "/hint", module + host + "/keys"},
		why: "what is published is below those who publish"},
	{in: []string{host + "/history"}, forbids: []string{module + host}, allows: []string{module + host + "/home"},
		why: "the record of releases takes no part in making them"},
	{in: []string{host + "/enrol", host + "/releasing", host + "/switchover"}, forbids: []string{module + host},
		allows: []string{module + host + "/hint", module + host + "/keys", module + host + "/home", module + host + "/history", module + host + "/config"},
		why:    "who is in the mesh, what it answers and when it moves are changed for reasons of their own"},
	{in: []string{host}, except: []string{host + "/page"}, forbids: []string{module + host + "/page"},
		why: "what is shown is above those who do it"},
	{except: []string{"test", "cmd/demo", "cmd/meshctl/internal/hometest", "internal/primarytest"}, forbids: []string{module + "internal/lab"},
		why: "what runs other people's programs, and namespaces for them, is for tests and the demo"},
	{in: []string{"internal/lab"}, forbids: []string{"testing"},
		why: "the demo has it, and is no test"},
}

// codeRule forbids a construct in the pure packages.
type codeRule struct {
	what string
	is   func(n ast.Node, timeName func(*ast.Ident) bool) bool
	why  string
}

// clockReaders are the functions of package time that read the clock or wait for it. Its types and constants are fine.
var clockReaders = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "NewTimer", "NewTicker", "Tick", "Local", "LoadLocation"}

var codeRules = []codeRule{
	{"go statement", func(n ast.Node, _ func(*ast.Ident) bool) bool { _, ok := n.(*ast.GoStmt); return ok },
		"a decider has no goroutine of its own"},
	{"channel", isChannel,
		"a decider never waits: effects go out as values"},
	{"clock", func(n ast.Node, timeName func(*ast.Ident) bool) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok || !slices.Contains(clockReaders, s.Sel.Name) {
			return false
		}
		x, ok := s.X.(*ast.Ident)
		return ok && timeName(x)
	}, "a decider has no clock of its own: time is an argument"},
	{"dot import", func(n ast.Node, _ func(*ast.Ident) bool) bool {
		i, ok := n.(*ast.ImportSpec)
		return ok && i.Name != nil && i.Name.Name == "."
	}, "it hides where a name comes from, from this test too"},
	{"print", func(n ast.Node, _ func(*ast.Ident) bool) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return false
		}
		f, ok := c.Fun.(*ast.Ident)
		return ok && f.Obj == nil && (f.Name == "print" || f.Name == "println")
	}, "a decider says what it has to say in its result"},
}

func isChannel(n ast.Node, _ func(*ast.Ident) bool) bool {
	switch n := n.(type) {
	case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
		return true
	case *ast.UnaryExpr:
		return n.Op == token.ARROW
	}
	return false
}

// finding is a place where a rule is broken.
type finding struct {
	place token.Position
	rule  string // its reason, which is unlike any other's
	what  string
}

func (f finding) String() string { return fmt.Sprintf("%s: %s: %s", f.place, f.what, f.rule) }

// check reads a file as one of the package that lies at dir below the top of the project.
func check(t *testing.T, file, dir string) []finding {
	t.Helper()
	positions := token.NewFileSet()
	parsed, err := parser.ParseFile(positions, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	test := strings.HasSuffix(file, "_test.go")
	var found []finding
	for _, i := range parsed.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		for _, r := range importRules {
			if (!test || r.tests) && r.holdsFor(dir) && r.breaks(name) {
				found = append(found, finding{positions.Position(i.Pos()), r.why, "import of " + name})
			}
		}
	}
	if test || !below(dir, pure) {
		return found
	}
	timeName := timeNames(parsed)
	ast.Inspect(parsed, func(n ast.Node) bool {
		for _, r := range codeRules {
			if n != nil && r.is(n, timeName) {
				found = append(found, finding{positions.Position(n.Pos()), r.why, r.what})
			}
		}
		return true
	})
	return found
}

func (r importRule) holdsFor(dir string) bool {
	return (len(r.in) == 0 || below(dir, r.in)) && !below(dir, r.except)
}

func (r importRule) breaks(name string) bool { return below(name, r.forbids) && !below(name, r.allows) }

// below reports whether name is one of the paths, or lies below one.
func below(name string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return name == p || strings.HasPrefix(name, p+"/") })
}

// timeNames tells identifiers that are package time in the file from others of the same name.
func timeNames(file *ast.File) func(*ast.Ident) bool {
	var names []string
	for _, i := range file.Imports {
		switch {
		case i.Path.Value != `"time"`:
		case i.Name != nil:
			names = append(names, i.Name.Name)
		default:
			names = append(names, "time")
		}
	}
	return func(x *ast.Ident) bool { return x.Obj == nil && slices.Contains(names, x.Name) }
}

// TestTheProject keeps every package of the project to the rules.
func TestTheProject(t *testing.T) {
	top := testenv.Top(t)
	read := map[string]bool{}
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, file)
		name = filepath.ToSlash(name)
		if d.IsDir() {
			if base := path.Base(name); name != "." && (base == "testdata" || base == "bin" || strings.HasPrefix(base, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		read[path.Dir(name)] = true
		for _, f := range check(t, file, path.Dir(name)) {
			t.Error(f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pure {
		if !read[p] {
			t.Errorf("%s is not there: if it was renamed, rename it here", p)
		}
	}
}

// TestEveryRuleFires reads a file that breaks everything, as one of each part of the project: a rule that never fires
// would be no rule.
func TestEveryRuleFires(t *testing.T) {
	fired := map[string][]string{}
	for _, dir := range []string{"internal/mesh", "internal/lab", "plugin/x", "sidecar/x", "cmd/x", host + "/hint", host + "/config", host + "/keys", host + "/home", host + "/history", host + "/enrol"} {
		for _, f := range check(t, "testdata/bad.go", dir) {
			fired[f.rule] = append(fired[f.rule], f.what)
		}
	}
	for _, r := range importRules {
		for _, forbidden := range r.forbids {
			if !slices.ContainsFunc(fired[r.why], func(what string) bool {
				return below(strings.TrimPrefix(what, "import of "), []string{forbidden})
			}) {
				t.Errorf("import of %s fired nothing: %s", forbidden, r.why)
			}
		}
	}
	for _, r := range codeRules {
		if !slices.Contains(fired[r.why], r.what) {
			t.Errorf("%s fired nothing: %s", r.what, r.why)
		}
	}
}

// TestExceptions reads the same file where some of it is allowed.
func TestExceptions(t *testing.T) {
	for dir, allowed := range map[string]string{
		"sidecar/bgp": "gobgp", "internal/bucket": "minio", "cmd/meshctl/x": "internal/bucket", "cmd/demo": "gobgp", "test/mesh": "internal/lab", "internal/release": "go-tuf", "internal/depot": "import of sync",
		"internal/zonefile": "clock", "plugin/meshsync": "go statement", "internal/meshes": "channel",
	} {
		for _, f := range check(t, "testdata/bad.go", dir) {
			if strings.Contains(f.what, allowed) {
				t.Errorf("in %s: %s", dir, f)
			}
		}
	}
	for _, dir := range append(pure, "plugin/meshsync", "sidecar/bgp") {
		for _, f := range check(t, "testdata/good.go", dir) {
			t.Errorf("in %s: %s", dir, f)
		}
	}
}

// TestTheClockIsFoundUnderAnyName counts the three ways in which bad.go reads it.
func TestTheClockIsFoundUnderAnyName(t *testing.T) {
	n := 0
	for _, f := range check(t, "testdata/bad.go", "internal/gate") {
		if f.what == "clock" {
			n++
		}
	}
	if n != 3 {
		t.Errorf("found %d, want time.Now, clock.Sleep and time.After", n)
	}
}
