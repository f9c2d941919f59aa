// Package packages_test makes a release as "./build.sh dist" does, and has dpkg install, upgrade, remove and purge its packages in
// a directory that is a system's root to it, and in namespaces where systemd is process 1. It needs root and dpkg, and nothing of this
// machine's system changes.
package packages_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// dist makes a release of version 1.0.0 in a directory, from a tree, under another umask and time zone each time.
func dist(t *testing.T, tree, out, umask, zone string, architectures ...string) {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-c", "umask " + umask + ` && exec ./build.sh dist "$@"`, "dist"}, architectures...)...)
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), "DIST="+out, "VERSION=v1.0.0", "SOURCE_DATE_EPOCH=1780000000", "TZ="+zone)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build.sh dist: %v\n%s", err, said)
	}
}

// copyTree copies what dist reads to another place: the sources, without bin, dist and history.
func copyTree(t *testing.T) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "elsewhere")
	lab.Must(t, os.Mkdir(tree, 0o755))
	lab.Run(t, testenv.Top(t), "bash", "-c", `tar -c --exclude=./bin --exclude=./dist --exclude=./.git . | tar -x -C "$1"`, "copy", tree)
	return tree
}

func TestRelease(t *testing.T) {
	testenv.Root(t)
	testenv.Need(t, "dpkg", "dpkg-deb", "systemd-sysusers", "systemd-tmpfiles", "groff")
	out := filepath.Join(t.TempDir(), "dist")
	architectures := []string{runtime.GOARCH}
	if os.Getenv("FULL") != "" {
		architectures = []string{"amd64", "arm64"}
	}
	dist(t, testenv.Top(t), out, "022", "UTC", architectures...)
	sums := lab.Read(t, filepath.Join(out, "SHA256SUMS"))
	t.Logf("\n%s", sums)
	t.Run("two builds are bit-equal", func(t *testing.T) {
		again := filepath.Join(t.TempDir(), "dist")
		dist(t, copyTree(t), again, "077", "Asia/Tokyo", architectures...)
		if other := lab.Read(t, filepath.Join(again, "SHA256SUMS")); other != sums {
			t.Errorf("they differ:\n%s\n%s", sums, other)
		}
	})
	t.Run("the programs are small", func(t *testing.T) { testSizes(t, out) })
	t.Run("checksums and SBOM", func(t *testing.T) { testFiles(t, out) })
	t.Run("installed, upgraded, removed, purged", func(t *testing.T) { testLife(t, out) })
	t.Run("systemd as process 1", func(t *testing.T) { testSystemd(t, out) })
}

// maxPrograms is what the three programs of an architecture may have together: 60 MiB.
const maxPrograms = 60 << 20

func testSizes(t *testing.T, out string) {
	archives, err := filepath.Glob(filepath.Join(out, "*.tar.gz"))
	lab.Must(t, err)
	for _, file := range archives {
		dir := t.TempDir()
		lab.Run(t, dir, "tar", "-xf", file, "--strip-components=1")
		var sizes []string
		var all int64
		for _, name := range []string{"coredns", "anycast-sidecar", "meshctl"} {
			info, err := os.Stat(filepath.Join(dir, "bin", name))
			lab.Must(t, err)
			sizes, all = append(sizes, fmt.Sprintf("%s %d", name, info.Size())), all+info.Size()
		}
		t.Logf("%s: %s; together %.2f MiB", filepath.Base(file), strings.Join(sizes, ", "), float64(all)/(1<<20))
		if all > maxPrograms {
			t.Errorf("%d octets, at most %d: docs/measurements.md says what is large", all, maxPrograms)
		}
	}
	if len(archives) == 0 {
		t.Error("no archive")
	}
}

func testFiles(t *testing.T, out string) {
	lab.Run(t, out, "sha256sum", "--check", "--strict", "SHA256SUMS")
	documents, err := filepath.Glob(filepath.Join(out, "*.cdx.json"))
	lab.Must(t, err)
	for _, file := range documents {
		var bom struct {
			BOMFormat, SpecVersion string
			Components             []struct{ Type, Name, Version, PURL string }
			Dependencies           []struct {
				Ref       string
				DependsOn []string
			}
		}
		lab.Must(t, json.Unmarshal([]byte(lab.Read(t, file)), &bom))
		found := map[string]bool{}
		for _, c := range bom.Components {
			found[c.Name] = true
			if c.Type == "library" && (c.Version == "" || !strings.HasPrefix(c.PURL, "pkg:golang/")) {
				t.Errorf("%+v", c)
			}
		}
		for _, name := range []string{"coredns", "anycast-sidecar", "meshctl", "std", "github.com/coredns/coredns", "github.com/osrg/gobgp/v4", "github.com/theupdateframework/go-tuf/v2"} {
			if !found[name] {
				t.Errorf("%s is not in %s", name, file)
			}
		}
		if bom.BOMFormat != "CycloneDX" || len(bom.Dependencies) != 3 || len(bom.Dependencies[0].DependsOn) < 10 {
			t.Errorf("%s: %s %s, %d dependencies", file, bom.BOMFormat, bom.SpecVersion, len(bom.Dependencies))
		}
	}
	if len(documents) == 0 {
		t.Error("no SBOM")
	}
}

// system is a directory that dpkg takes for a system's root.
type system struct {
	*testing.T
	root string
}

func (s system) path(name string) string { return filepath.Join(s.root, name) }

func (s system) dpkg(args ...string) string {
	s.Helper()
	return lab.Run(s, s.root, append([]string{"dpkg", "--instdir=" + s.root, "--admindir=" + s.path("var/lib/dpkg"), "--log=/dev/null",
		"--force-script-chrootless", "--force-depends"}, args...)...)
}

func (s system) has(name string) bool {
	_, err := os.Lstat(s.path(name))
	return err == nil
}

// names are the packages, and what each has that shows whether it is installed.
var names = map[string]string{"coredns-anycast": "usr/bin/coredns", "anycast-sidecar": "usr/bin/anycast-sidecar", "meshctl": "usr/bin/meshctl"}

// testLife: whatever becomes of the packages, a node keeps its depot, state, floor and key, and a distribution host its home.
func testLife(t *testing.T, out string) {
	s := system{t, t.TempDir()}
	lab.Must(t, os.Chmod(s.root, 0o755))
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"} {
		lab.Must(t, os.MkdirAll(s.path(dir), 0o755))
	}
	lab.Write(t, s.path("var/lib/dpkg/status"), "")
	var first, second []string
	for name := range names {
		deb := filepath.Join(out, name+"_1.0.0_"+runtime.GOARCH+".deb")
		first, second = append(first, deb), append(second, newer(t, deb))
	}
	s.dpkg(append([]string{"--install"}, first...)...)
	s.isInstalled()
	kept := map[string]string{"var/lib/mesh/state/promise.json": "the floor", "var/lib/mesh/repository/metadata/timestamp.json": "a depot",
		"var/lib/mesh/sidecar/drain.json": "a drain", "etc/mesh/node.key": "a key", "etc/mesh/Corefile": "a Corefile", "srv/mesh/state.json": "a home"}
	for name, text := range kept {
		lab.Write(t, s.path(name), text)
	}
	stays := func(when string) {
		t.Helper()
		for name, text := range kept {
			if data, err := os.ReadFile(s.path(name)); err != nil || string(data) != text {
				t.Errorf("%s: %s: %v", when, name, err)
			}
		}
	}
	s.dpkg(append([]string{"--install"}, second...)...)
	stays("upgraded")
	if said := s.dpkg("--status", "meshctl"); !strings.Contains(said, "Version: 1.1.0") {
		t.Errorf("upgraded:\n%s", said)
	}
	all := []string{"coredns-anycast", "anycast-sidecar", "meshctl"}
	s.dpkg(append([]string{"--remove"}, all...)...)
	stays("removed")
	said := s.dpkg(append([]string{"--purge"}, all...)...)
	stays("purged")
	for name, program := range names {
		if s.has(program) {
			t.Errorf("%s is there after a purge", program)
		}
		if !strings.Contains(said, name+": /") {
			t.Errorf("%s does not say what stays: %s", name, said)
		}
	}
}

// newer is the same package as a later version.
func newer(t *testing.T, deb string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x")
	lab.Run(t, "", "dpkg-deb", "--raw-extract", deb, dir)
	control := filepath.Join(dir, "DEBIAN", "control")
	lab.Write(t, control, strings.Replace(lab.Read(t, control), "Version: 1.0.0", "Version: 1.1.0", 1))
	lab.Run(t, "", "dpkg-deb", "--root-owner-group", "-Znone", "--build", dir, dir+".deb")
	return dir + ".deb"
}

var execStart = regexp.MustCompile(`(?m)^Exec(?:Start|Reload)=(\S+)`)

func (s system) isInstalled() {
	total := int64(0)
	for name, program := range names {
		info, err := os.Stat(s.path(program))
		lab.Must(s, err)
		total += info.Size()
		version := "--version"
		if name == "coredns-anycast" {
			version = "-version"
		}
		if said := lab.Run(s, "", s.path(program), version); !strings.Contains(said, "1.0.0") {
			s.Errorf("%s says it is %s", program, said)
		}
	}
	s.Logf("the three programs have %.1f MiB", float64(total)/(1<<20))
	units, err := filepath.Glob(s.path("usr/lib/systemd/system/*.service"))
	lab.Must(s, err)
	if len(units) != 3 {
		s.Errorf("units: %v", units)
	}
	for _, unit := range units {
		for _, start := range execStart.FindAllStringSubmatch(lab.Read(s, unit), -1) {
			if !s.has(start[1]) {
				s.Errorf("%s starts %s, which is not there", unit, start[1])
			}
		}
	}
	owners := s.users()
	for dir, want := range map[string]string{"etc/mesh": "root", "var/lib/mesh/state": "coredns", "var/lib/mesh/cache": "coredns",
		"var/lib/mesh/repository": "anycast-sidecar", "var/lib/mesh/sidecar": "anycast-sidecar", "srv/mesh": "meshctl"} {
		uid := strings.TrimSpace(lab.Run(s, "", "stat", "-c", "%u", s.path(dir)))
		if owners[uid] != want {
			s.Errorf("%s is owned by %s (%s), not by %s", dir, uid, owners[uid], want)
		}
	}
	s.pagesAreGood()
	for _, file := range []string{"usr/lib/sysctl.d/50-coredns-anycast.conf", "usr/share/bash-completion/completions/meshctl", "usr/share/zsh/vendor-completions/_anycast-sidecar",
		"usr/share/fish/vendor_completions.d/meshctl.fish", "usr/share/doc/meshctl/examples/alerts.yaml", "usr/share/doc/coredns-anycast/copyright"} {
		if !s.has(file) {
			s.Errorf("%s is not there", file)
		}
	}
	lab.Run(s, "", "bash", "-n", s.path("usr/share/bash-completion/completions/meshctl"))
}

// users are the names by uid, as the system has them: a name that this machine has too may have another uid here.
func (s system) users() map[string]string {
	all := map[string]string{"0": "root"}
	for _, line := range strings.Split(lab.Read(s, s.path("etc/passwd")), "\n") {
		if f := strings.Split(line, ":"); len(f) > 2 {
			all[f[2]] = f[0]
		}
	}
	return all
}

// pagesAreGood: roff has nothing to say against a manual page, and there is one for each program and plugin.
func (s system) pagesAreGood() {
	pages, err := filepath.Glob(s.path("usr/share/man/man*/*.gz"))
	lab.Must(s, err)
	if len(pages) != 4 {
		s.Errorf("pages: %v", pages)
	}
	for _, page := range pages {
		text, err := exec.Command("gzip", "-dc", page).Output()
		lab.Must(s, err)
		cmd := exec.Command("groff", "-Kutf8", "-man", "-ww", "-Tutf8")
		cmd.Stdin = strings.NewReader(string(text))
		var said strings.Builder
		cmd.Stderr = &said
		if out, err := cmd.Output(); err != nil || said.Len() > 0 || len(out) < 1000 {
			s.Errorf("%s: %v, %d octets", page, errors.Join(err, errors.New(said.String())), len(out))
		}
	}
}
