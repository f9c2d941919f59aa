package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// member is the label of a node that is a member of the mesh. A kubelet cannot change what has this prefix (NodeRestriction).
const member = "anycast.node-restriction.kubernetes.io/member"

func daemonSet(t *testing.T, overlay string) *apps.DaemonSet {
	t.Helper()
	return decode(t, kustomize(t, overlay))["DaemonSet/mesh/node"].(*apps.DaemonSet)
}

// TestANodeIsLeftAlone: nothing restarts a node that is silent on purpose, and an update takes one node after the other.
func TestANodeIsLeftAlone(t *testing.T) {
	for _, overlay := range []string{"overlays/bgp", "overlays/igp"} {
		set := daemonSet(t, overlay)
		pod := set.Spec.Template.Spec
		for _, c := range pod.Containers {
			if c.LivenessProbe != nil || c.StartupProbe != nil {
				t.Errorf("%s: a probe restarts %s", overlay, c.Name)
			}
		}
		sidecar := container(t, pod, "anycast-sidecar")
		if got := strings.Join(sidecar.ReadinessProbe.Exec.Command, " "); got != "anycast-sidecar status --ready /etc/mesh/sidecar.yaml" {
			t.Errorf("%s: the sidecar is ready by %q", overlay, got)
		}
		update := set.Spec.UpdateStrategy
		if update.Type != apps.RollingUpdateDaemonSetStrategyType || update.RollingUpdate.MaxUnavailable.String() != "1" || update.RollingUpdate.MaxSurge.String() != "0" || set.Spec.MinReadySeconds < 10 {
			t.Errorf("%s: several nodes may be updated at once: %+v", overlay, update)
		}
		if where := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms; len(where) != 1 || where[0].MatchExpressions[0].Key != member || where[0].MatchExpressions[0].Operator != core.NodeSelectorOpExists {
			t.Errorf("%s: it runs on nodes by %+v", overlay, where)
		}
	}
}

// TestDNSOutlivesTheRoute: what stops a pod withdraws first. The sidecar drains for its wait, and CoreDNS answers until that is over.
func TestDNSOutlivesTheRoute(t *testing.T) {
	for overlay, drain := range map[string]int64{"overlays/bgp": 30, "overlays/igp": 0} {
		pod := daemonSet(t, overlay).Spec.Template.Spec
		command := strings.Join(container(t, pod, "anycast-sidecar").Lifecycle.PreStop.Exec.Command, " ")
		if want := fmt.Sprintf("anycast-sidecar drain /etc/mesh/sidecar.yaml --wait %ds --why pod stops", drain); command != want {
			t.Errorf("%s: the sidecar's hook is %q, not %q", overlay, command, want)
		}
		answers := container(t, pod, "coredns").Lifecycle.PreStop.Sleep.Seconds
		if answers < drain+10 || *pod.TerminationGracePeriodSeconds < answers+10 {
			t.Errorf("%s: drained for %d s, answered for %d s, killed after %d s", overlay, drain, answers, *pod.TerminationGracePeriodSeconds)
		}
	}
}

// privilege is what a container may do and see.
type privilege struct {
	user  int64
	group int64
	may   string
	sees  string
}

// TestPrivileges: of each container of a node, the user, the capabilities, and what it sees of the host's disk.
func TestPrivileges(t *testing.T) {
	const (
		answers = "/run/mesh /etc/mesh/Corefile(ro) /etc/mesh/root.json(ro) /etc/mesh/cookies.key(ro) /var/lib/mesh/repository(ro) /var/lib/mesh/state /var/lib/mesh/cache"
		mirrors = "/run/mesh /etc/mesh /var/lib/mesh/repository /var/lib/mesh/sidecar"
		all     = "/run/mesh /etc/mesh /var/lib/mesh /var/lib/mesh/sidecar"
		chown   = "CHOWN DAC_OVERRIDE FOWNER"
	)
	for overlay, want := range map[string]map[string]privilege{
		"overlays/bgp": {"prepare": {0, 0, chown, all}, "coredns": {0, 65530, "NET_BIND_SERVICE", answers}, "anycast-sidecar": {65532, 65530, "", mirrors}},
		"overlays/igp": {"prepare": {0, 0, chown, all}, "coredns": {0, 65530, "NET_BIND_SERVICE", answers}, "anycast-sidecar": {0, 65530, "NET_ADMIN", mirrors}},
	} {
		pod := daemonSet(t, overlay).Spec.Template.Spec
		for _, c := range containers(pod) {
			if got := privilegeOf(c); got != want[c.Name] {
				t.Errorf("%s: %s has\n%+v, and not\n%+v", overlay, c.Name, got, want[c.Name])
			}
			confined(t, overlay, pod, c)
		}
	}
	enrol := decode(t, kustomize(t, "enrol"))["Job/mesh/enrol-tyo1"].(*batch.Job).Spec.Template.Spec
	if enrol.HostNetwork || enrol.NodeSelector[member] != "tyo1" || enrol.Volumes[0].Secret.SecretName != "bundle-tyo1" {
		t.Errorf("a bundle is put into its place by %+v", enrol)
	}
	confined(t, "enrol", enrol, enrol.Containers[0])
}

// confined wants of every container what costs nothing.
func confined(t *testing.T, where string, pod core.PodSpec, c core.Container) {
	t.Helper()
	s := c.SecurityContext
	if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) ||
		pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault || *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks {
		t.Errorf("%s: %s is not confined: %+v", where, c.Name, s)
	}
}

func privilegeOf(c core.Container) privilege {
	var may, sees []string
	for _, name := range c.SecurityContext.Capabilities.Add {
		may = append(may, string(name))
	}
	for _, m := range c.VolumeMounts {
		at := m.MountPath
		if m.ReadOnly {
			at += "(ro)"
		}
		sees = append(sees, at)
	}
	return privilege{*c.SecurityContext.RunAsUser, *c.SecurityContext.RunAsGroup, strings.Join(may, " "), strings.Join(sees, " ")}
}

// TestPodSecurity: a distribution host keeps to the strictest of the Pod Security Standards, and a node breaks them in what it must.
func TestPodSecurity(t *testing.T) {
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	must(t, err)
	for _, c := range []struct {
		from  string
		pod   func(all map[string]runtime.Object) core.PodTemplateSpec
		level api.Level
		wrong []string
	}{
		{"overlays/distribution-host", distributionHost, api.LevelRestricted, nil},
		{"resources: [../overlays/distribution-host]\ncomponents: [../components/cert-manager]", distributionHost, api.LevelRestricted, nil},
		{"overlays/bgp", node, api.LevelBaseline, []string{"host namespaces", "hostPath volumes"}},
		{"overlays/igp", node, api.LevelBaseline, []string{"host namespaces", "hostPath volumes", "non-default capabilities"}},
		{"enrol", enrol, api.LevelBaseline, []string{"hostPath volumes"}},
	} {
		pod := c.pod(decode(t, kustomize(t, c.from)))
		var wrong []string
		for _, r := range checks.EvaluatePod(api.LevelVersion{Level: c.level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec) {
			if !r.Allowed {
				wrong = append(wrong, r.ForbiddenReason)
			}
		}
		slices.Sort(wrong)
		if !slices.Equal(wrong, c.wrong) {
			t.Errorf("%s breaks %q of level %s, and not %q", c.from, wrong, c.level, c.wrong)
		}
	}
}

func distributionHost(all map[string]runtime.Object) core.PodTemplateSpec {
	return all["StatefulSet/mesh-distribution/distribution-host"].(*apps.StatefulSet).Spec.Template
}

func node(all map[string]runtime.Object) core.PodTemplateSpec {
	return all["DaemonSet/mesh/node"].(*apps.DaemonSet).Spec.Template
}

func enrol(all map[string]runtime.Object) core.PodTemplateSpec {
	return all["Job/mesh/enrol-tyo1"].(*batch.Job).Spec.Template
}

func containers(pod core.PodSpec) []core.Container {
	return append(slices.Clone(pod.InitContainers), pod.Containers...)
}

func container(t *testing.T, pod core.PodSpec, name string) core.Container {
	t.Helper()
	for _, c := range containers(pod) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no container %s", name)
	return core.Container{}
}
