package apiserver

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// TestMain is the program whose name the binary was given, or runs the tests.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	case "kube-apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "etcd":
		os.Exit(etcd(os.Args[1], os.Args[2]))
	}
	os.Exit(m.Run())
}

// etcd serves a directory at an address until it is killed.
func etcd(dir, address string) int {
	client, peer := url.URL{Scheme: "http", Host: address}, url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.UnsafeNoFsync = dir, "error", true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err == nil {
		err = <-e.Err()
	}
	fmt.Fprintln(os.Stderr, "etcd:", err)
	return 1
}

// cluster is an API server with nothing behind it but etcd.
type cluster struct {
	*testing.T
	dir    string
	server string
	api    client.Interface
}

// users have a token that is their name: one who may everything, and the kubelets of two nodes.
var users = []struct{ name, user, groups string }{
	{"admin", "admin", "system:masters"},
	{"worker-1", "system:node:worker-1", "system:nodes"},
	{"worker-2", "system:node:worker-2", "system:nodes"},
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, dir: t.TempDir()}
	me, err := os.Executable()
	c.must(err)
	for _, name := range []string{"kubectl", "kube-apiserver", "etcd"} {
		c.must(os.MkdirAll(c.path("bin"), 0o755))
		c.must(os.Symlink(me, c.path("bin/"+name)))
	}
	store, address := freeAddress(t), freeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	c.server = "https://" + address
	tokens := ""
	for _, u := range users {
		tokens += fmt.Sprintf("%s,%s,%s,%q\n", u.name, u.user, u.user, u.groups)
		c.write("kubeconfig-"+u.name, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: %s}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
`, c.server, u.name))
	}
	c.write("tokens", tokens)
	c.run("openssl", "genrsa", "-out", c.path("sa.key"), "2048")
	c.start("etcd", c.path("etcd"), store)
	c.start("kube-apiserver", "--etcd-servers=http://"+store, "--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+c.path("certs"),
		"--token-auth-file="+c.path("tokens"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-key-file="+c.path("sa.key"), "--service-account-signing-key-file="+c.path("sa.key"), "--service-account-issuer=https://localhost",
		"--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none", "--storage-media-type=application/json", "-v=0")
	c.eventually("the API server is ready", func() error {
		_, err := c.kubectl("admin", "get", "--raw", "/readyz")
		return err
	})
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) write(name, text string) { c.must(os.WriteFile(c.path(name), []byte(text), 0o600)) }

// start starts a program, which ends with the test.
func (c *cluster) start(name string, args ...string) {
	c.Helper()
	log, err := os.Create(c.path(name + ".log"))
	c.must(err)
	cmd := exec.Command(c.path("bin/"+name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.must(cmd.Start())
	c.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if c.Failed() {
			text, _ := os.ReadFile(log.Name())
			c.Logf("── log of %s\n%s", name, text[max(0, len(text)-5000):])
		}
	})
}

// env is that of commands of a user.
func (c *cluster) env(user string) []string {
	return append(os.Environ(), "KUBECONFIG="+c.path("kubeconfig-"+user), "PATH="+c.path("bin")+":"+os.Getenv("PATH"), "HOME="+c.dir)
}

// kubectl runs it as a user.
func (c *cluster) kubectl(user string, args ...string) (string, error) {
	cmd := exec.Command(c.path("bin/kubectl"), args...)
	cmd.Env = c.env(user)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *cluster) run(argv ...string) {
	c.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		c.Fatalf("%s: %v\n%s", argv[0], err, out)
	}
}

func (c *cluster) eventually(what string, holds func() error) {
	c.Helper()
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	c.Fatalf("still waiting for: %s; %v", what, err)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
