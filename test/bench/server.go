package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// server is a name server that the bench starts, as a process of one's own.
type server struct {
	name    string
	command string   // what must be installed
	pkg     string   // of Debian
	env     []string // beside the bench's own
	setup   func(dir string, port int) (args []string, err error)
}

// running is one that was started.
type running struct {
	cmd  *exec.Cmd
	port int
	dir  string
	took time.Duration // to the first right answer
}

const startTimeout = 3 * time.Minute

// start runs a server on the CPUs named and waits for its first right answer.
func (s server) start(dir, cpus string) (*running, error) {
	port, err := testenv.FreePort()
	if err != nil {
		return nil, err
	}
	args, err := s.setup(dir, port)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("taskset", append([]string{"-c", cpus, s.command}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &running{cmd: cmd, port: port, dir: dir}
	for !answers(port) {
		if time.Since(began) > startTimeout {
			r.stop()
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("%s does not answer: %s", s.name, said[max(0, len(said)-500):])
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.took = time.Since(began)
	return r, nil
}

// answers reports whether the SOA comes, authoritatively.
func answers(port int) bool {
	client := dns.Client{Timeout: 100 * time.Millisecond}
	r, _, err := client.Exchange(new(dns.Msg).SetQuestion(origin, dns.TypeSOA), fmt.Sprintf("127.0.0.1:%d", port))
	return err == nil && r.Rcode == dns.RcodeSuccess && r.Authoritative && len(r.Answer) == 1
}

func (r *running) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { r.cmd.Process.Kill() })
	r.cmd.Wait()
	timer.Stop()
}

// processes are the server's own and its children's.
func (r *running) processes() []string {
	all := []string{strconv.Itoa(r.cmd.Process.Pid)}
	for i := 0; i < len(all); i++ {
		lists, _ := filepath.Glob("/proc/" + all[i] + "/task/*/children")
		for _, list := range lists {
			children, _ := os.ReadFile(list)
			all = append(all, strings.Fields(string(children))...)
		}
	}
	return all
}

// cpu is the processor time used so far.
func (r *running) cpu() time.Duration {
	var sum time.Duration
	for _, pid := range r.processes() {
		tasks, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			if f := strings.Fields(string(b)); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

// settle waits until a server that has started does nothing more, or goes on for a minute.
func (r *running) settle() {
	for range 120 {
		before := r.cpu()
		time.Sleep(500 * time.Millisecond)
		if r.cpu()-before < 10*time.Millisecond {
			return
		}
	}
}

// memory is the proportional set size now, and the most that was resident, both in octets.
func (r *running) memory() (pss, peak float64) {
	for _, pid := range r.processes() {
		pss += kilobytes("/proc/"+pid+"/smaps_rollup", "Pss:") * 1024
		peak += kilobytes("/proc/"+pid+"/status", "VmHWM:") * 1024
	}
	return pss, peak
}

func kilobytes(file, key string) float64 {
	b, _ := os.ReadFile(file)
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == key {
			n, _ := strconv.ParseFloat(f[1], 64)
			return n
		}
	}
	return 0
}

var completed = regexp.MustCompile(`Queries completed:\s+(\d+)`)

// perQuery has dnsperf ask from the CPUs named, and returns the server's processor time for an answer in seconds.
func (r *running) perQuery(queries string, seconds int, cpus string, more ...string) (float64, error) {
	before := r.cpu()
	args := append([]string{"-c", cpus, "dnsperf", "-s", "127.0.0.1", "-p", strconv.Itoa(r.port), "-d", queries,
		"-l", strconv.Itoa(seconds), "-c", "20", "-T", "1", "-q", "200", "-e"}, more...)
	out, err := exec.Command("taskset", args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("dnsperf: %w: %s", err, out)
	}
	n := completed.FindSubmatch(out)
	if n == nil {
		return 0, errors.New("dnsperf says nothing of queries completed")
	}
	count, _ := strconv.ParseFloat(string(n[1]), 64)
	return (r.cpu() - before).Seconds() / max(count, 1), nil
}

// peers serve a zone file, each with one worker and without what slows it down.
func peers(zone, bin string) []server {
	file := func(dir, name, text string) (string, error) {
		path := filepath.Join(dir, name)
		return path, os.WriteFile(path, []byte(text), 0o644)
	}
	return []server{
		{"Knot", "knotd", "knot", nil, func(dir string, port int) ([]string, error) {
			conf, err := file(dir, "knot.conf", fmt.Sprintf(`server:
  rundir: "%[1]s"
  listen: 127.0.0.1@%[2]d
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
  user: root:root
database:
  storage: "%[1]s/db"
zone:
  - domain: %[4]s
    file: "%[3]s"
    storage: "%[1]s"
    zonefile-load: whole
    journal-content: none
    zonefile-sync: -1
`, dir, port, zone, origin))
			return []string{"-c", conf}, errors.Join(err, os.MkdirAll(filepath.Join(dir, "db"), 0o755))
		}},
		{"NSD", "nsd", "nsd", nil, func(dir string, port int) ([]string, error) {
			conf, err := file(dir, "nsd.conf", fmt.Sprintf(`server:
  server-count: 1
  ip-address: 127.0.0.1@%[2]d
  username: ""
  database: ""
  zonesdir: "%[1]s"
  pidfile: "%[1]s/pid"
  xfrdfile: "%[1]s/xfrd"
  zonelistfile: "%[1]s/zones"
  xfrdir: "%[1]s"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "%[4]s"
  zonefile: "%[3]s"
`, dir, port, zone, origin))
			return []string{"-d", "-c", conf}, err
		}},
		{"BIND", "named", "bind9", nil, func(dir string, port int) ([]string, error) {
			conf, err := file(dir, "named.conf", fmt.Sprintf(`options { directory "%[1]s"; listen-on port %[2]d { 127.0.0.1; };
listen-on-v6 { none; }; recursion no; pid-file "%[1]s/pid"; session-keyfile "%[1]s/key"; minimal-responses no; };
controls {};
zone "%[4]s" { type primary; file "%[3]s"; check-names ignore; check-integrity no; };
`, dir, port, zone, origin))
			return []string{"-g", "-n", "1", "-c", conf}, err
		}},
		{"file", filepath.Join(bin, "stock"), "", []string{"GOMAXPROCS=1"}, func(dir string, port int) ([]string, error) {
			conf, err := file(dir, "Corefile", fmt.Sprintf("%s:%d {\n bind 127.0.0.1\n file %s %s\n}\n", origin, port, zone, origin))
			return []string{"-conf", conf}, err
		}},
	}
}

// ours is a node that follows a mesh.
func ours(m *mesh, bin string, o options, env ...string) server {
	name := "ours"
	if o.name != "" {
		name += ", " + o.name
	}
	return server{name, filepath.Join(bin, "coredns"), "", env, func(_ string, port int) ([]string, error) {
		conf, err := m.corefile(port, o)
		return []string{"-conf", conf}, err
	}}
}
