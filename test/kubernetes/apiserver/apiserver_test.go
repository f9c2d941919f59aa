package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	failed "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/disruption"
	"k8s.io/kubernetes/pkg/controller/job"
)

const member = "anycast.node-restriction.kubernetes.io/member"

// TestAPIServer follows docs/deploy/kubernetes.md as far as an API server goes.
func TestAPIServer(t *testing.T) {
	top, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	c := startCluster(t)
	c.connect()
	for _, name := range []string{"worker-1", "worker-2"} {
		node, err := c.api.CoreV1().Nodes().Create(t.Context(), &core.Node{ObjectMeta: meta.ObjectMeta{Name: name}}, meta.CreateOptions{})
		c.must(err)
		node.Spec.Taints = nil // as the controller of nodes does when the kubelet says that it is ready
		_, err = c.api.CoreV1().Nodes().Update(t.Context(), node, meta.UpdateOptions{})
		c.must(err)
	}
	c.must(os.Symlink(filepath.Join(top, "deploy"), c.path("deploy")))
	c.write("bundle.tar", "what a bundle is, the API server does not know")
	page, err := os.ReadFile(filepath.Join(top, "docs/deploy/kubernetes.md"))
	c.must(err)
	commands := blocks(string(page))
	if len(commands) != 4 {
		t.Fatalf("the page has %d blocks of commands to be run, not 4: %q", len(commands), commands)
	}

	c.give(commands[0]) // the distribution host
	c.give(commands[1]) // nodes, of which none has a label
	c.everyRendering()
	c.podSecurity()
	c.eventually("no node is a member", func() error { return c.runsOn() })
	c.labels()
	c.give(commands[2]) // a bundle, a label, a Job
	c.eventually("worker-1 is a member", func() error { return c.runsOn("worker-1") })
	c.secrets()
	c.give(commands[3])
	if out, err := c.kubectl("worker-1", "-n", "mesh", "get", "secret", "bundle-tyo1"); err == nil {
		t.Errorf("the Secret is still there: %s", out)
	}
	c.update()
}

// blocks are the commands of a page, but for those that it says are not run.
func blocks(page string) (all []string) {
	for _, m := range regexp.MustCompile("(?ms)(^<!-- not run: [^\n]*\n)?^```sh\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		if m[1] == "" {
			all = append(all, m[2])
		}
	}
	return all
}

// give gives commands to a shell, in a directory that has deploy/ and a bundle.
func (c *cluster) give(commands string) {
	c.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir, cmd.Env = c.dir, c.env("admin")
	out, err := cmd.CombinedOutput()
	c.Logf("%s%s", commands, out)
	if err != nil {
		c.Fatalf("%v:\n%s\n%s", err, commands, out)
	}
	if strings.Contains(strings.ToLower(string(out)), "warning") {
		c.Errorf("the API server warns:\n%s", out)
	}
}

// connect makes a client of the cluster, and starts the controllers of DaemonSets, Jobs and PodDisruptionBudgets.
func (c *cluster) connect() {
	c.Helper()
	var err error
	c.api, err = client.NewForConfig(&rest.Config{Host: c.server, BearerToken: "admin", TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	c.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	i := informers.NewSharedInformerFactory(c.api, 0)
	sets, err := daemon.NewDaemonSetsController(ctx, i.Apps().V1().DaemonSets(), i.Apps().V1().ControllerRevisions(), i.Core().V1().Pods(),
		i.Core().V1().Nodes(), c.api, flowcontrol.NewBackOff(time.Second, time.Minute))
	c.must(err)
	jobs, err := job.NewController(ctx, c.api, i.Core().V1().Pods(), i.Batch().V1().Jobs(), nil, nil)
	c.must(err)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.api.Discovery()))
	scales := scale.New(c.api.CoreV1().RESTClient(), mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(c.api.Discovery()))
	budgets := disruption.NewDisruptionController(ctx, i.Core().V1().Pods(), i.Policy().V1().PodDisruptionBudgets(), i.Core().V1().ReplicationControllers(),
		i.Apps().V1().ReplicaSets(), i.Apps().V1().Deployments(), i.Apps().V1().StatefulSets(), c.api, mapper, scales, c.api.Discovery())
	i.Start(ctx.Done())
	var running sync.WaitGroup
	running.Go(func() { sets.Run(ctx, 1) })
	running.Go(func() { jobs.Run(ctx, 1) })
	running.Go(func() { budgets.Run(ctx, 1) })
	c.Cleanup(func() { cancel(); running.Wait() })
}

// everyRendering: the API server takes each overlay, validated strictly, defaulted and admitted, and has nothing to say about it.
func (c *cluster) everyRendering() {
	c.Helper()
	own := c.path("own")
	c.must(errors.Join(os.CopyFS(own, os.DirFS(c.path("deploy/kubernetes"))), os.Mkdir(filepath.Join(own, "ca"), 0o755),
		os.WriteFile(filepath.Join(own, "ca/kustomization.yaml"), []byte("resources: [../overlays/distribution-host]\ncomponents: [../components/ca]\n"), 0o644)))
	for _, overlay := range []string{"overlays/bgp", "overlays/igp", "overlays/distribution-host", "ca", "enrol"} {
		out, err := c.kubectl("admin", "apply", "--dry-run=server", "--validate=strict", "-k", filepath.Join(own, overlay))
		if err != nil || strings.Contains(strings.ToLower(out), "warning") {
			c.Errorf("%s: %v\n%s", overlay, err, out)
		}
	}
}

// podSecurity: the namespace of the distribution host takes its pod, and would take no node.
func (c *cluster) podSecurity() {
	c.Helper()
	const namespace = "mesh-distribution"
	_, err := c.api.CoreV1().ServiceAccounts(namespace).Create(c.Context(), &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "default"}}, meta.CreateOptions{})
	c.must(err)
	host, err := c.api.AppsV1().StatefulSets(namespace).Get(c.Context(), "distribution-host", meta.GetOptions{})
	c.must(err)
	pod := core.Pod{ObjectMeta: meta.ObjectMeta{Name: "distribution-host-0"}, Spec: host.Spec.Template.Spec}
	pod.Spec.Volumes = append(slices.Clone(pod.Spec.Volumes), core.Volume{Name: "home", VolumeSource: core.VolumeSource{
		PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "home-distribution-host-0"}}})
	if _, err := c.api.CoreV1().Pods(namespace).Create(c.Context(), &pod, meta.CreateOptions{}); err != nil {
		c.Errorf("the distribution host's pod: %v", err)
	}
	set, err := c.api.AppsV1().DaemonSets("mesh").Get(c.Context(), "node", meta.GetOptions{})
	c.must(err)
	pod = core.Pod{ObjectMeta: meta.ObjectMeta{Name: "node"}, Spec: set.Spec.Template.Spec}
	pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount = "default", "default"
	if _, err := c.api.CoreV1().Pods(namespace).Create(c.Context(), &pod, meta.CreateOptions{}); err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest": host namespaces`) {
		c.Errorf("a node's pod in the namespace of the distribution host: %v", err)
	}
}

// pods are those of the DaemonSet, by the node that each is for.
func (c *cluster) pods() (map[string]core.Pod, error) {
	all, err := c.api.CoreV1().Pods("mesh").List(c.Context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/name=anycast-node"})
	if err != nil {
		return nil, err
	}
	found := map[string]core.Pod{}
	for _, p := range all.Items {
		on := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
		if _, twice := found[on]; twice {
			return nil, fmt.Errorf("two pods on %s", on)
		}
		found[on] = p
	}
	return found, nil
}

// runsOn is an error unless the controller has looked, and there is a pod for exactly these nodes.
func (c *cluster) runsOn(nodes ...string) error {
	set, err := c.api.AppsV1().DaemonSets("mesh").Get(c.Context(), "node", meta.GetOptions{})
	if err != nil {
		return err
	}
	pods, err := c.pods()
	if err != nil {
		return err
	}
	if set.Status.ObservedGeneration != set.Generation || int(set.Status.DesiredNumberScheduled) != len(nodes) || len(pods) != len(nodes) {
		return fmt.Errorf("%+v, %d pods", set.Status, len(pods))
	}
	for _, node := range nodes {
		if _, found := pods[node]; !found {
			return fmt.Errorf("no pod on %s", node)
		}
	}
	return nil
}

// labels: no kubelet makes a member of its own node.
func (c *cluster) labels() {
	c.Helper()
	if out, err := c.kubectl("worker-2", "label", "node", "worker-2", "anycast.example/mood=good"); err != nil {
		c.Errorf("a kubelet labels its node: %v: %s", err, out)
	}
	if out, err := c.kubectl("worker-2", "label", "node", "worker-2", member+"=tyo1"); err == nil || !strings.Contains(out, "is not allowed to modify labels") {
		c.Errorf("a kubelet makes a member of its node: %v: %s", err, out)
	}
}

// secrets: the kubelet of the node with the label reads the bundle when the Job's pod is there, and no other does.
func (c *cluster) secrets() {
	c.Helper()
	reads := func(node string) (string, error) {
		return c.kubectl(node, "-n", "mesh", "get", "secret", "bundle-tyo1", "-o", "name")
	}
	for _, node := range []string{"worker-1", "worker-2"} {
		if out, err := reads(node); err == nil || !strings.Contains(out, "orbidden") {
			c.Errorf("%s reads the bundle, and has no pod that wants it: %s", node, out)
		}
	}
	var pod core.Pod
	c.eventually("the Job's pod", func() error {
		all, err := c.api.CoreV1().Pods("mesh").List(c.Context(), meta.ListOptions{LabelSelector: "app.kubernetes.io/name=anycast-enrol"})
		if err != nil || len(all.Items) != 1 {
			return fmt.Errorf("%d pods: %w", len(all.Items), err)
		}
		pod = all.Items[0]
		return nil
	})
	if pod.Spec.NodeSelector[member] != "tyo1" {
		c.Errorf("a scheduler may put the pod anywhere: %v", pod.Spec.NodeSelector)
	}
	c.bind(pod, "worker-1")
	c.eventually("worker-1 reads the bundle", func() error {
		out, err := reads("worker-1")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if out, err := reads("worker-2"); err == nil || !strings.Contains(out, "orbidden") {
		c.Errorf("worker-2 reads the bundle of worker-1: %s", out)
	}
}

// bind puts a pod on a node, as a scheduler does.
func (c *cluster) bind(pod core.Pod, node string) {
	c.Helper()
	c.must(c.api.CoreV1().Pods(pod.Namespace).Bind(c.Context(), &core.Binding{ObjectMeta: meta.ObjectMeta{Name: pod.Name},
		Target: core.ObjectReference{Kind: "Node", Name: node}}, meta.CreateOptions{}))
}

// runs tells that a pod runs on a node and has been ready for a minute, as a kubelet does.
func (c *cluster) runs(pod core.Pod, node string) {
	c.Helper()
	if pod.Spec.NodeName == "" {
		c.bind(pod, node)
	}
	got, err := c.api.CoreV1().Pods("mesh").Get(c.Context(), pod.Name, meta.GetOptions{})
	c.must(err)
	got.Status.Phase = core.PodRunning
	got.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue, LastTransitionTime: meta.NewTime(time.Now().Add(-time.Minute))}}
	_, err = c.api.CoreV1().Pods("mesh").UpdateStatus(c.Context(), got, meta.UpdateOptions{})
	c.must(err)
}

// update: of two members one is updated, and the other waits until that one has been ready for as long as it must.
func (c *cluster) update() {
	c.Helper()
	nodes := []string{"worker-1", "worker-2"}
	if out, err := c.kubectl("admin", "label", "node", "worker-2", member+"=fra1"); err != nil {
		c.Fatalf("%v: %s", err, out)
	}
	c.eventually("both are members", func() error { return c.runsOn(nodes...) })
	before, err := c.pods()
	c.must(err)
	for _, node := range nodes {
		c.runs(before[node], node)
	}
	c.eventually("both are in service", func() error { return c.available(2) })
	if out, err := c.kubectl("admin", "-n", "mesh", "set", "image", "daemonset/node", "*=coredns-anycast:next"); err != nil {
		c.Fatalf("%v: %s", err, out)
	}
	first := c.stopping(before)
	if len(first) != 1 {
		c.Fatalf("%d nodes are updated at once: %v", len(first), first)
	}
	c.end(before[first[0]])
	c.eventually("the updated pod", func() error { return c.runsOn(nodes...) })
	c.eventually("the controller has seen it", func() error { return c.available(1) })
	now, err := c.pods()
	c.must(err)
	for node, pod := range now {
		if pod.DeletionTimestamp != nil {
			c.Errorf("%s is updated before %v is in service again", node, first)
		}
	}
	c.runs(now[first[0]], first[0])
	second := c.stopping(now)
	if len(second) != 1 || second[0] == first[0] {
		c.Fatalf("then %v are updated, after %v", second, first)
	}
	c.budget(now[first[0]], now[second[0]])
}

// budget: while one of two nodes is away the other is not evicted, and when both are there, one is.
func (c *cluster) budget(here, away core.Pod) {
	c.Helper()
	evict := func() error {
		return c.api.CoreV1().Pods("mesh").EvictV1(c.Context(), &policy.Eviction{ObjectMeta: meta.ObjectMeta{Name: here.Name}})
	}
	c.eventually("one node is in service, and none may be evicted", func() error {
		b, err := c.api.PolicyV1().PodDisruptionBudgets("mesh").Get(c.Context(), "node", meta.GetOptions{})
		if err == nil && (b.Status.CurrentHealthy != 1 || b.Status.DisruptionsAllowed != 0) {
			err = fmt.Errorf("%+v", b.Status)
		}
		return err
	})
	if err := evict(); !failed.IsTooManyRequests(err) {
		c.Fatalf("the last node in service is evicted: %v", err)
	}
	node := away.Spec.NodeName
	c.end(away)
	c.eventually("the second updated pod", func() error { return c.runsOn("worker-1", "worker-2") })
	now, err := c.pods()
	c.must(err)
	c.runs(now[node], node)
	c.eventually("one of two is evicted", evict)
}

// available is an error unless so many pods are in service, by the controller.
func (c *cluster) available(n int32) error {
	set, err := c.api.AppsV1().DaemonSets("mesh").Get(c.Context(), "node", meta.GetOptions{})
	if err == nil && (set.Status.NumberAvailable != n || set.Status.ObservedGeneration != set.Generation) {
		err = fmt.Errorf("%+v", set.Status)
	}
	return err
}

// stopping are the nodes of which the pod is being stopped, once there is one.
func (c *cluster) stopping(pods map[string]core.Pod) (nodes []string) {
	c.Helper()
	c.eventually("a pod is stopped", func() error {
		now, err := c.pods()
		if err != nil {
			return err
		}
		nodes = nil
		for node, pod := range now {
			if pod.DeletionTimestamp != nil && pod.UID == pods[node].UID {
				nodes = append(nodes, node)
			}
		}
		if len(nodes) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	return nodes
}

// end removes a pod that was stopped, as a kubelet does.
func (c *cluster) end(pod core.Pod) {
	c.Helper()
	now := int64(0)
	c.must(c.api.CoreV1().Pods(pod.Namespace).Delete(c.Context(), pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now}))
}
