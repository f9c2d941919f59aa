package mesh_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestPods runs the nodes of a mesh as the pods of deploy/kubernetes, by their own text: podman is told what a kubelet would make of each
// line. A bundle is put into its place by the Job, the pod is ready when it is in service, and when it is deleted its route goes before
// its answers; the next pod answers from what the first one left on the host's disk. What an API server thinks of them is test/kubernetes's.
func TestPods(t *testing.T) {
	w := newWorld(t)
	testenv.Need(t, "podman", "runc")
	d := newDeployed(w, "tyo", "osa")
	k := kubelet{newPodman(w), d}
	k.buildImage()
	d.found()
	d.start("dist", "serve", d.bin+"/meshctl", "--home", d.path("home"), "serve", "--listen", "198.51.100.1:8444", "--renew", "1m")

	// Without a bundle the pod does not get further than its first container, which says why.
	set := readPod(t, "base/daemonset.yaml", "")
	if out, err := k.once("tyo", set, set.InitContainers[0]); err == nil || !strings.Contains(out, "no bundle of a member") {
		t.Fatalf("without a bundle: %v: %s", err, out)
	}
	for _, node := range d.nodes {
		k.enrol(node)
		k.startPod(node, set)
	}
	d.release()
	d.schedule()
	d.awaitWays("tyo", "osa")
	d.awaitAnswer("router", 1)
	for _, node := range d.nodes {
		k.awaitReady(node, set)
		if got, want := w.privileges(k.pid(node+"-coredns")), root(only(0, groupMesh, capNetBindService)); got != want {
			t.Errorf("coredns of %s has %+v, not %+v", node, got, want)
		}
		if got, want := w.privileges(k.pid(node+"-anycast-sidecar")), only(userSidecar, groupMesh, 0); got != want {
			t.Errorf("anycast-sidecar of %s has %+v, not %+v", node, got, want)
		}
	}

	k.deletePod("tyo", set)
	d.run("dist", "ip", "link", "set", "eth0", "down")
	k.startPod("tyo", set)
	d.awaitWays("tyo", "osa")
	d.awaitAnswer("tyo", 1)
	k.awaitReady("tyo", set)
}

// root are the privileges of a process that is root: a capability is in force without being inherited.
func root(p privileges) privileges {
	p.inheritable, p.ambient = 0, 0
	return p
}

// podSpec is of a pod what podman is told, and what it cannot be told. A field that is not here fails the test.
type podSpec struct {
	HostNetwork                   bool            `yaml:"hostNetwork"`
	TerminationGracePeriodSeconds int             `yaml:"terminationGracePeriodSeconds"`
	InitContainers                []containerSpec `yaml:"initContainers"`
	Containers                    []containerSpec `yaml:"containers"`
	Volumes                       []struct {
		Name     string
		HostPath *struct{ Path, Type string } `yaml:"hostPath"`
		EmptyDir *struct {
			Medium    any
			SizeLimit any `yaml:"sizeLimit"`
		} `yaml:"emptyDir"`
		Secret *struct {
			SecretName  string `yaml:"secretName"`
			DefaultMode any    `yaml:"defaultMode"`
		}
	}
	// podman's own seccomp profile is the runtime's default.
	SecurityContext struct {
		SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	// What a scheduler, an API server or a resolver makes of it.
	Affinity, Tolerations        any
	NodeSelector                 any `yaml:"nodeSelector"`
	PriorityClassName            any `yaml:"priorityClassName"`
	ServiceAccountName           any `yaml:"serviceAccountName"`
	AutomountServiceAccountToken any `yaml:"automountServiceAccountToken"`
	EnableServiceLinks           any `yaml:"enableServiceLinks"`
	DNSPolicy                    any `yaml:"dnsPolicy"`
	RestartPolicy                any `yaml:"restartPolicy"`
}

type containerSpec struct {
	Name, Image     string
	ImagePullPolicy string `yaml:"imagePullPolicy"`
	Command         []string
	Lifecycle       struct {
		PreStop hook `yaml:"preStop"`
	}
	ReadinessProbe struct {
		Exec             struct{ Command []string }
		PeriodSeconds    any `yaml:"periodSeconds"`
		TimeoutSeconds   any `yaml:"timeoutSeconds"`
		FailureThreshold any `yaml:"failureThreshold"`
	} `yaml:"readinessProbe"`
	Resources       any
	SecurityContext struct {
		RunAsUser                int  `yaml:"runAsUser"`
		RunAsGroup               int  `yaml:"runAsGroup"`
		RunAsNonRoot             bool `yaml:"runAsNonRoot"`
		AllowPrivilegeEscalation bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop, Add []string }
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type hook struct {
	Exec  struct{ Command []string }
	Sleep struct{ Seconds int }
}

// readPod reads the pod of a manifest, in which tyo1 is the member.
func readPod(t *testing.T, name, member string) podSpec {
	t.Helper()
	text := strings.ReplaceAll(readFile("../../deploy/kubernetes/"+name), "tyo1", member)
	var doc struct {
		APIVersion, Kind, Metadata any
		Spec                       struct {
			Template struct{ Spec yaml.Node }
			Rest     map[string]any `yaml:",inline"`
		}
		Rest map[string]any `yaml:",inline"`
	}
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	only, err := yaml.Marshal(&doc.Spec.Template.Spec)
	if err != nil {
		t.Fatal(err)
	}
	var spec podSpec
	strict := yaml.NewDecoder(bytes.NewReader(only))
	strict.KnownFields(true)
	if err := strict.Decode(&spec); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return spec
}

// kubelet is what one does with a pod, by podman.
type kubelet struct {
	*podman
	d *deployed
}

// enrol gives a member's bundle to the Job of its node, with the password of its sessions. The bundle comes as "kubectl exec" gives it.
func (k kubelet) enrol(node string) {
	k.t.Helper()
	k.write("home/members/"+node+"/bgp-secret", bgpSecret+"\n")
	k.d.meshctl("member", "renew", node)
	k.write(node+"-secret/bundle.tar", k.d.meshctl("member", "bundle", node))
	job := readPod(k.t, "enrol/job.yaml", node)
	if out, err := k.once(node, job, job.Containers[0]); err != nil {
		k.t.Fatalf("the bundle of %s: %v: %s", node, err, out)
	}
}

// startPod runs a pod's containers, one after the other those that come before.
func (k kubelet) startPod(node string, spec podSpec) {
	k.t.Helper()
	for _, c := range spec.InitContainers {
		if out, err := k.once(node, spec, c); err != nil {
			k.t.Fatalf("%s of %s: %v: %s", c.Name, node, err, out)
		}
	}
	for _, c := range spec.Containers {
		if out, err := k.container(node, spec, c, "--detach", "--restart", "always"); err != nil {
			k.t.Fatalf("%s of %s: %v: %s", c.Name, node, err, out)
		}
	}
}

// once runs a container to its end.
func (k kubelet) once(node string, spec podSpec, c containerSpec) (string, error) {
	return k.container(node, spec, c, "--rm")
}

func (k kubelet) container(node string, spec podSpec, c containerSpec, how ...string) (string, error) {
	k.t.Helper()
	s := c.SecurityContext
	network := map[bool]string{true: "host", false: "none"}[spec.HostNetwork]
	argv := append([]string{"run", "--name", node + "-" + c.Name, "--network", network, "--user", fmt.Sprintf("%d:%d", s.RunAsUser, s.RunAsGroup),
		fmt.Sprintf("--read-only=%v", s.ReadOnlyRootFilesystem), "--cap-drop", strings.Join(s.Capabilities.Drop, ",")}, how...)
	if len(s.Capabilities.Add) > 0 {
		argv = append(argv, "--cap-add", strings.Join(s.Capabilities.Add, ","))
	}
	if !s.AllowPrivilegeEscalation {
		argv = append(argv, "--security-opt", "no-new-privileges")
	}
	for _, m := range c.VolumeMounts {
		at := filepath.Join(k.volume(node, spec, m.Name), m.SubPath)
		if _, err := os.Lstat(at); errors.Is(err, os.ErrNotExist) && m.SubPath != "" {
			k.must(os.MkdirAll(at, 0o750)) // as a kubelet does, root's
		}
		argv = append(argv, "-v", at+":"+m.MountPath+map[bool]string{true: ":ro"}[m.ReadOnly])
	}
	cmd := exec.Command("podman", append(append(argv, c.Image), c.Command...)...)
	cmd.Env = k.env
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	k.d.within(node, func() { k.must(cmd.Start()) })
	err := cmd.Wait()
	return out.String(), err
}

// volume is where a volume lies, which is made as a kubelet makes it.
func (k kubelet) volume(node string, spec podSpec, name string) string {
	k.t.Helper()
	for _, v := range spec.Volumes {
		switch {
		case v.Name != name:
		case v.HostPath != nil:
			dir := k.path(node, "host", v.HostPath.Path)
			k.must(os.MkdirAll(dir, 0o755))
			return dir
		case v.Secret != nil && v.Secret.SecretName == "bundle-"+node:
			return k.path(node + "-secret")
		case v.EmptyDir != nil:
			dir := map[string]string{"run": k.path(node)}[name] // where the test looks for sockets
			if dir == "" {
				dir = k.path(node, "pod-"+name)
			}
			k.must(errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777)))
			return dir
		}
	}
	k.t.Fatalf("there is no volume %q", name)
	return ""
}

// deletePod ends a pod as a kubelet does. Its route goes while it answers.
func (k kubelet) deletePod(node string, spec podSpec) {
	k.t.Helper()
	coredns, sidecar := spec.Containers[0], spec.Containers[1]
	drain := slices.Clone(sidecar.Lifecycle.PreStop.Exec.Command)
	wait := slices.Index(drain, "30s")
	if coredns.Name != "coredns" || coredns.Lifecycle.PreStop.Sleep.Seconds < 30 || wait < 0 {
		k.t.Fatalf("the hooks are not what this test takes them for: %+v, %q", coredns.Lifecycle, drain)
	}
	drain[wait] = "1s" // for the sake of time
	k.run(append([]string{"exec", node + "-" + sidecar.Name}, drain...)...)
	k.d.awaitWays("osa")
	k.d.awaitAnswer(node, k.d.number) // which the other hook waits for
	if err := k.ready(node, sidecar); err == nil {
		k.t.Error("a drained node is ready")
	}
	for _, c := range []containerSpec{sidecar, coredns} {
		k.run("stop", "--time", "20", node+"-"+c.Name)
		k.run("rm", node+"-"+c.Name)
	}
	sockets, err := filepath.Glob(k.path(node, "*.sock"))
	k.must(errors.Join(err, os.RemoveAll(k.path(node, "pod-sidecar"))))
	for _, s := range sockets {
		k.must(os.Remove(s))
	}
}

// ready runs the readiness probe.
func (k kubelet) ready(node string, c containerSpec) error {
	cmd := exec.Command("podman", append([]string{"exec", node + "-" + c.Name}, c.ReadinessProbe.Exec.Command...)...)
	cmd.Env = k.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (k kubelet) awaitReady(node string, spec podSpec) {
	k.t.Helper()
	k.eventually(60*time.Second, "the pod of "+node+" is ready", func() (bool, string) {
		err := k.ready(node, spec.Containers[1])
		return err == nil, fmt.Sprint(err)
	})
}
