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
	t.Parallel()
	w := newWorld(t)
	testenv.Need(t, "podman", "runc")
	d := newDeployed(w, "tyo", "osa")
	k := kubelet{newPodman(w)}
	k.buildImage()
	d.found()
	d.start("dist", "serve", d.bin+"/meshctl", "--home", d.path("home"), "serve", "--listen", "198.51.100.1:8444", "--renew", "1m")

	// Without a bundle the pod does not get further than its first container, which says why.
	set := readPod(t, "base/daemonset.yaml", "")
	if out, err := k.once("tyo", set, set.InitContainers[0]); err == nil || !strings.Contains(out, "no bundle of a member") {
		t.Fatalf("without a bundle: %v: %s", err, out)
	}
	for _, node := range d.nodes {
		k.enrol(d, node)
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

	k.deletePod(d, "tyo", set)
	d.run("dist", "ip", "link", "set", "eth0", "down")
	k.startPod("tyo", set)
	d.awaitWays("tyo", "osa")
	d.awaitAnswer("tyo", 1)
	k.awaitReady("tyo", set)
}

// TestPodOfAnIGP runs the pod of overlays/igp: its sidecar brings the address up, with that one privilege, and down before it is stopped.
func TestPodOfAnIGP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	testenv.Need(t, "podman", "runc")
	d := newDeployed(w, "tyo")
	k := kubelet{newPodman(w)}
	k.buildImage()
	d.found()
	template := d.path("home", "templates", "sidecar.yaml")
	w.write("home/templates/sidecar.yaml", readFile(template)+"igp: {interface: anycast0, lifetime: 5s}\n")
	d.meshctl("member", "update", "tyo")
	w.mustRun("tyo", "ip", "link", "add", "anycast0", "type", "bridge")
	w.mustRun("tyo", "ip", "link", "set", "anycast0", "up")
	d.start("dist", "serve", d.bin+"/meshctl", "--home", d.path("home"), "serve", "--listen", "198.51.100.1:8444", "--renew", "1m")

	spec := patched(t, "base/daemonset.yaml", "overlays/igp/daemonset.yaml")
	k.enrol(d, "tyo")
	k.startPod("tyo", spec)
	d.release()
	d.schedule()
	k.awaitReady("tyo", spec)
	up := func() (bool, string) {
		out := w.mustRun("tyo", "ip", "addr", "show", "dev", "anycast0")
		return strings.Contains(out, shared4), out
	}
	w.eventually(30*time.Second, "the address is up", up)
	if got, want := w.privileges(k.pid("tyo-anycast-sidecar")), root(only(0, groupMesh, capNetAdmin)); got != want {
		t.Errorf("anycast-sidecar has %+v, not %+v", got, want)
	}
	k.run(append([]string{"exec", "tyo-anycast-sidecar"}, spec.Containers[1].Lifecycle.PreStop.Exec.Command...)...)
	if is, out := up(); is {
		t.Errorf("the hook has returned, and the address is there:\n%s", out)
	}
	d.awaitAnswer("tyo", 1)
}

// patched is the pod of a manifest with what a patch has for its containers, by their names, as a strategic merge has it.
func patched(t *testing.T, name, patch string) podSpec {
	t.Helper()
	spec := readPod(t, name, "")
	readPod(t, patch, "") // which is as strict
	var lists struct {
		InitContainers []yaml.Node `yaml:"initContainers"`
		Containers     []yaml.Node
	}
	template := podNode(t, patch, "")
	if err := template.Decode(&lists); err != nil {
		t.Fatal(err)
	}
	for _, n := range append(lists.InitContainers, lists.Containers...) {
		var named containerSpec
		err := n.Decode(&named)
		found := false
		for _, all := range [][]containerSpec{spec.InitContainers, spec.Containers} {
			for i := range all {
				if all[i].Name == named.Name {
					found, err = true, errors.Join(err, n.Decode(&all[i]))
				}
			}
		}
		if err != nil || !found {
			t.Fatalf("%s: container %q: %v", patch, named.Name, err)
		}
	}
	return spec
}

// TestDistributionHostsPod runs the distribution host of deploy/kubernetes in the same way: the first start makes the mesh, zones come from
// the ConfigMap, the next start goes on with what is there, and members' bundles come through a pipe.
func TestDistributionHostsPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	testenv.Need(t, "podman", "runc")
	k := kubelet{newPodman(w)}
	k.buildImage()
	w.host("dist")
	const overlay = "overlays/distribution-host/"
	spec := readPod(t, overlay+"statefulset.yaml", "")
	zone := readFile("../../deploy/kubernetes/" + overlay + "zones/example.org.zone")
	k.configMap("dist", "meshctl", map[string]string{"meshctl.yaml": readFile("../../deploy/kubernetes/" + overlay + "meshctl.yaml")})
	k.configMap("dist", "zones", map[string]string{"example.org.zone": zone})

	k.startPod("dist", spec)
	k.awaitHistory("release 1, ")
	if got, want := w.privileges(k.pid("dist-meshctl")), only(userSidecar, userSidecar, 0); got != want {
		t.Errorf("meshctl has %+v, not %+v", got, want)
	}
	k.run("exec", "dist-meshctl", "meshctl", "member", "add", "tyo1", "--admin", "198.51.100.7:8443")
	bundle := w.write("bundle.tar", k.run("exec", "dist-meshctl", "meshctl", "member", "bundle", "tyo1"))
	if files := w.mustRun("dist", "tar", "-xOf", bundle, "sidecar.yaml"); !strings.Contains(files, `urls: ["https://distribution-host.mesh-distribution.svc:8444/"]`) {
		t.Errorf("a member is configured by\n%s", files)
	}

	k.run("rm", "--force", "--time", "20", "dist-meshctl")
	k.startPod("dist", spec)
	k.configMap("dist", "zones", map[string]string{"example.org.zone": strings.Replace(zone, "2026020401", "2026020402", 1)})
	k.awaitHistory("release 2, ")
}

// awaitHistory waits until the distribution host has made a release.
func (k kubelet) awaitHistory(release string) {
	k.t.Helper()
	k.eventually(60*time.Second, release+"is made", func() (bool, string) {
		cmd := exec.Command("podman", "exec", "dist-meshctl", "meshctl", "history")
		cmd.Env = k.env
		out, err := cmd.CombinedOutput()
		return err == nil && strings.HasPrefix(string(out), release), string(out)
	})
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
		ConfigMap *struct{ Name string } `yaml:"configMap"`
	}
	// podman's own seccomp profile is the runtime's default.
	SecurityContext struct {
		SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
		RunAsUser      int                   `yaml:"runAsUser"`
		RunAsGroup     int                   `yaml:"runAsGroup"`
		RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
		FSGroup        int                   `yaml:"fsGroup"`
		OnMismatch     string                `yaml:"fsGroupChangePolicy"`
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
		TCPSocket        struct{ Port int } `yaml:"tcpSocket"`
		PeriodSeconds    any                `yaml:"periodSeconds"`
		TimeoutSeconds   any                `yaml:"timeoutSeconds"`
		FailureThreshold any                `yaml:"failureThreshold"`
	} `yaml:"readinessProbe"`
	Env              []struct{ Name, Value string }
	Ports, Resources any
	SecurityContext  struct {
		RunAsUser                *int `yaml:"runAsUser"` // or the pod's
		RunAsGroup               *int `yaml:"runAsGroup"`
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

// podNode is the pod of a manifest, in which tyo1 is the member.
func podNode(t *testing.T, name, member string) yaml.Node {
	t.Helper()
	var doc struct {
		Spec struct {
			Template struct{ Spec yaml.Node }
		}
	}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(readFile("../../deploy/kubernetes/"+name), "tyo1", member)), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Spec.Template.Spec
}

// readPod reads the pod of a manifest strictly.
func readPod(t *testing.T, name, member string) (spec podSpec) {
	t.Helper()
	template := podNode(t, name, member)
	text, err := yaml.Marshal(&template)
	if err != nil {
		t.Fatal(err)
	}
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	if err := strict.Decode(&spec); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return spec
}

// kubelet is what one does with a pod, by podman.
type kubelet struct{ *podman }

// enrol gives a member's bundle to the Job of its node, with the password of its sessions, as docs/deploy/kubernetes.md says.
func (k kubelet) enrol(d *deployed, node string) {
	k.t.Helper()
	k.write(node+"-secret/bundle.tar", d.meshctl("member", "bundle", node))
	k.write("bgp-secret", bgpSecret+"\n")
	k.mustRun("dist", "tar", "-C", k.path(), "-rf", k.path(node+"-secret", "bundle.tar"), "bgp-secret")
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
	s, user, group := c.SecurityContext, spec.SecurityContext.RunAsUser, spec.SecurityContext.RunAsGroup
	if s.RunAsUser != nil {
		user, group = *s.RunAsUser, *s.RunAsGroup
	}
	network := map[bool]string{true: "host", false: "none"}[spec.HostNetwork]
	argv := append([]string{"run", "--name", node + "-" + c.Name, "--network", network, "--user", fmt.Sprintf("%d:%d", user, group),
		fmt.Sprintf("--read-only=%v", s.ReadOnlyRootFilesystem), "--cap-drop", strings.Join(s.Capabilities.Drop, ",")}, how...)
	if len(s.Capabilities.Add) > 0 {
		argv = append(argv, "--cap-add", strings.Join(s.Capabilities.Add, ","))
	}
	if !s.AllowPrivilegeEscalation {
		argv = append(argv, "--security-opt", "no-new-privileges")
	}
	if spec.SecurityContext.FSGroup != 0 {
		argv = append(argv, "--group-add", fmt.Sprint(spec.SecurityContext.FSGroup))
	}
	for _, e := range c.Env {
		argv = append(argv, "--env", e.Name+"="+e.Value)
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
	k.within(node, func() { k.must(cmd.Start()) })
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
		case v.ConfigMap != nil:
			return k.path(node + "-" + v.ConfigMap.Name)
		case v.EmptyDir != nil:
			dir := map[string]string{"run": k.path(node)}[name] // where the test looks for sockets
			if dir == "" {
				dir = k.path(node, "pod-"+name)
			}
			k.must(errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777)))
			return dir
		}
	}
	if group := spec.SecurityContext.FSGroup; group != 0 && name == "home" { // by a claim
		dir := k.path(node, "claim-"+name)
		k.must(errors.Join(os.MkdirAll(dir, 0o755), os.Chown(dir, 0, group), os.Chmod(dir, 0o775|os.ModeSetgid)))
		return dir
	}
	k.t.Fatalf("there is no volume %q", name)
	return ""
}

// configMap makes what a kubelet makes of a ConfigMap: links to links, which one rename changes all at once.
func (k kubelet) configMap(node, name string, files map[string]string) {
	k.t.Helper()
	dir := k.path(node + "-" + name)
	version, err := os.ReadDir(dir)
	if !errors.Is(err, os.ErrNotExist) {
		k.must(err)
	}
	now := fmt.Sprintf("..%d", len(version))
	for file, text := range files {
		k.write(filepath.Join(node+"-"+name, now, file), text)
		if err := os.Symlink("..data/"+file, filepath.Join(dir, file)); !errors.Is(err, os.ErrExist) {
			k.must(err)
		}
	}
	k.must(errors.Join(os.Symlink(now, filepath.Join(dir, "..tmp")), os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data"))))
}

// deletePod ends a pod as a kubelet does. Its route goes while it answers.
func (k kubelet) deletePod(d *deployed, node string, spec podSpec) {
	k.t.Helper()
	coredns, sidecar := spec.Containers[0], spec.Containers[1]
	drain := slices.Clone(sidecar.Lifecycle.PreStop.Exec.Command)
	wait := slices.Index(drain, "30s")
	if coredns.Name != "coredns" || coredns.Lifecycle.PreStop.Sleep.Seconds < 30 || wait < 0 {
		k.t.Fatalf("the hooks are not what this test takes them for: %+v, %q", coredns.Lifecycle, drain)
	}
	drain[wait] = "1s" // for the sake of time
	k.run(append([]string{"exec", node + "-" + sidecar.Name}, drain...)...)
	d.awaitWays("osa")
	d.awaitAnswer(node, d.number) // which the other hook waits for
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
