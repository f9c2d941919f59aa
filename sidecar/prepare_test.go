package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// prepared is the places of a node, and the bundles of two members.
type prepared struct {
	*testing.T
	dir string
}

func newPrepared(t *testing.T) prepared {
	t.Helper()
	testenv.Root(t)
	p := prepared{t, t.TempDir()}
	meshctl := filepath.Join(testenv.Build(t, "cmd/meshctl"), "meshctl")
	run := func(args ...string) []byte {
		cmd := exec.Command(meshctl, append(args, "--home", p.at("home"))...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		lab.Must(t, err)
		return out
	}
	run("init", "--mesh", "example", "--shared", "192.0.2.53", "--url", "https://198.51.100.1:8444/")
	for i, name := range []string{"tyo1", "fra1"} {
		run("member", "add", name, "--admin", fmt.Sprintf("198.51.100.%d:8443", 7+i))
		lab.Write(t, p.at(name+".tar"), string(run("member", "bundle", name)))
	}
	return p
}

func (p prepared) at(name string) string { return filepath.Join(p.dir, name) }

func (p prepared) prepare(args ...string) (code int, said string) {
	code, _, said = commandLine(append([]string{"prepare", "--etc", p.at("etc"), "--lib", p.at("lib"), "--run", p.at("run")}, args...)...)
	return code, said
}

// owner is whose a file is, of which group, and its mode.
func (p prepared) owner(name string) string {
	p.Helper()
	info, err := os.Lstat(p.at(name))
	lab.Must(p, err)
	is := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d %v", is.Uid, is.Gid, info.Mode())
}

// TestPrepare: each of a node's two users gets what it writes, the key is the sidecar's alone, and it may be done again.
func TestPrepare(t *testing.T) {
	p := newPrepared(t)
	if code, said := p.prepare(); code != exitRefused || !strings.Contains(said, "no bundle of a member") {
		t.Errorf("status %d without a bundle: %s", code, said)
	}
	for _, args := range [][]string{{"--bundle", p.at("tyo1.tar"), "--member", "tyo1"}, nil, {"--bundle", p.at("tyo1.tar"), "--member", "tyo1"}} {
		lab.Must(t, os.RemoveAll(p.at("run"))) // as after a reboot
		if code, said := p.prepare(args...); code != exitDone {
			t.Fatalf("status %d: %s", code, said)
		}
		for name, want := range map[string]string{
			"run": "65530:65530 dtrwxrwx---", "etc": "0:65530 dtrwxrwxr-x", "lib": "0:65530 drwxr-xr-x", "lib/repository": "65532:65530 drwxr-x---",
			"lib/sidecar": "65532:65530 drwx------", "lib/state": "65531:65530 drwxr-x---", "lib/cache": "65531:65530 drwxr-x---",
			"etc/node.key": "65532:65530 -r--------", "etc/node.crt": "65532:65530 -rw-r--r--", "etc/cookies.key": "65531:65530 -r--------",
			"etc/Corefile": "0:65530 -rw-r-----", "etc/root.json": "0:65530 -rw-r-----",
		} {
			if got := p.owner(name); got != want {
				t.Errorf("%q: %s is %s, not %s", args, name, got, want)
			}
		}
	}
	lab.Write(t, p.at("etc/bgp-secret"), "secret\n") // unpacked by hand
	if code, said := p.prepare(); code != exitDone || p.owner("etc/bgp-secret") != "65532:65530 -r--------" {
		t.Errorf("status %d: %s; bgp-secret is %s", code, said, p.owner("etc/bgp-secret"))
	}
	if code, said := p.prepare("--coredns", "0"); code != exitDone || p.owner("lib/state") != "0:65530 drwxr-x---" || p.owner("etc/cookies.key") != "0:65530 -r--------" || p.owner("etc/node.key") != "65532:65530 -r--------" {
		t.Errorf("with another user for CoreDNS: status %d: %s; state is %s", code, said, p.owner("lib/state"))
	}
}

// TestPrepareRefuses: what is no bundle of the member is refused as a whole, and a link is not followed.
func TestPrepareRefuses(t *testing.T) {
	p := newPrepared(t)
	made := func(name string, entries ...tar.Header) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			lab.Must(t, w.WriteHeader(&h))
			_, err := w.Write(make([]byte, h.Size))
			lab.Must(t, err)
		}
		lab.Must(t, w.Close())
		return lab.Write(t, p.at(name), b.String())
	}
	many := make([]tar.Header, maxBundleFiles+1)
	for i := range many {
		many[i] = tar.Header{Name: fmt.Sprint(i)}
	}
	for _, c := range []struct{ bundle, member, says string }{
		{p.at("tyo1.tar"), "fra1", `it is the bundle of "tyo1", and not of "fra1"`},
		{made("empty.tar"), "tyo1", "Corefile is missing\nsidecar.yaml is missing\nroot.json is missing\nnode.crt is missing\nnode.key is missing\ncookies.key is missing"},
		{lab.Write(t, p.at("text.tar"), strings.Repeat("no tar\n", 100)), "tyo1", "no tar file"},
		{made("up.tar", tar.Header{Name: "../passwd"}), "tyo1", "plain files and no directories"},
		{made("hidden.tar", tar.Header{Name: "..data"}), "tyo1", "plain files and no directories"},
		{made("link.tar", tar.Header{Name: "node.key", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), "tyo1", "plain files and no directories"},
		{made("twice.tar", tar.Header{Name: "a"}, tar.Header{Name: "a"}), "tyo1", "twice"},
		{made("large.tar", tar.Header{Name: "a", Size: maxBundleFileBytes + 1}), "tyo1", "at most"},
		{made("many.tar", many...), "tyo1", "at most"},
		{p.at("none.tar"), "tyo1", "no such file"},
	} {
		if code, said := p.prepare("--bundle", c.bundle, "--member", c.member); code != exitRefused || !strings.Contains(said, c.says) {
			t.Errorf("%s for %s: status %d: %s", c.bundle, c.member, code, said)
		}
	}
	if _, err := os.Lstat(p.at("etc")); err == nil {
		t.Error("something was made for a bundle that was refused")
	}
	if code, said := p.prepare("--bundle", p.at("tyo1.tar")); code != exitUsage || !strings.Contains(said, "--member") {
		t.Errorf("status %d without --member: %s", code, said)
	}

	lab.Write(t, p.at("secret"), "of root\n")
	lab.Must(t, os.Mkdir(p.at("lib"), 0o755))
	lab.Must(t, os.Symlink(p.dir, p.at("lib/state")))
	if code, said := p.prepare("--bundle", p.at("tyo1.tar"), "--member", "tyo1"); code != exitRefused || !strings.Contains(said, "lib/state") {
		t.Errorf("status %d, though a directory is a link: %s", code, said)
	}
	lab.Must(t, os.Remove(p.at("lib/state")))
	lab.Must(t, os.MkdirAll(p.at("etc"), 0o755))
	lab.Must(t, os.Symlink(p.at("secret"), p.at("etc/node.key")))
	if code, said := p.prepare("--bundle", p.at("tyo1.tar"), "--member", "tyo1"); code != exitDone {
		t.Errorf("status %d: %s", code, said)
	}
	if info, err := os.Lstat(p.at("etc/node.key")); err != nil || info.Mode().Type() != fs.FileMode(0) || lab.Read(t, p.at("secret")) != "of root\n" || p.owner("secret") != "0:0 -rw-r--r--" {
		t.Errorf("a link in the place of a file was followed: %v %v; %s", info, err, p.owner("secret"))
	}
}
