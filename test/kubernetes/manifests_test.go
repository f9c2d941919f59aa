package kubernetes

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const manifests = "../../deploy/kubernetes"

// rendering is one way in which the manifests are deployed, by kustomize and by Helm.
type rendering struct {
	name   string
	from   string // directory below deploy/kubernetes, or a kustomization of one's own
	values string
}

var renderings = []rendering{
	{"bgp", "overlays/bgp", ""},
	{"igp", "overlays/igp", "node: {announce: igp}"},
	{"enrol", "enrol", "node: {enabled: false}\nenrol: [tyo1]"},
	{"distribution-host", "overlays/distribution-host", "node: {enabled: false}\ndistributionHost: {enabled: true, zones: {example.org.zone: ZONE}}"},
	{"own CA", "resources: [../overlays/distribution-host]\ncomponents: [../components/ca]",
		"node: {enabled: false}\ndistributionHost: {enabled: true, zones: {example.org.zone: ZONE}, ca: {secret: mesh-ca}}"},
	{"cert-manager", "resources: [../overlays/distribution-host]\ncomponents: [../components/cert-manager]",
		"node: {enabled: false}\ndistributionHost: {enabled: true, zones: {example.org.zone: ZONE}, ca: {certManager: true}}"},
}

// TestKustomizeAndHelmRenderTheSame: object by object, and each is what the API's types know, down to the last field.
func TestKustomizeAndHelmRenderTheSame(t *testing.T) {
	for _, r := range renderings {
		t.Run(r.name, func(t *testing.T) {
			one, other := decode(t, kustomize(t, r.from)), decode(t, helm(t, r.values))
			if len(one) == 0 {
				t.Fatal("nothing is rendered")
			}
			for key, object := range one {
				if !reflect.DeepEqual(object, other[key]) {
					t.Errorf("%s: kustomize has\n%s\nand Helm\n%s", key, text(t, object), text(t, other[key]))
				}
			}
			for key := range other {
				if one[key] == nil {
					t.Errorf("only Helm renders %s", key)
				}
			}
		})
	}
}

// TestStrictness: the decoder that judges the manifests refuses what the API's types do not have.
func TestStrictness(t *testing.T) {
	good := string(kustomize(t, "overlays/bgp"))
	for old, new := range map[string]string{
		"maxUnavailable: 1":    "maxUnavaliable: 1",
		"minReadySeconds: 30":  "minReadySeconds: soon",
		"kind: NetworkPolicy":  "kind: NetworkPolice",
		"hostNetwork: true":    "hostnetwork: true",
		"  minAvailable: 1\n":  "  minAvailable: 1\n  minAvailable: 1\n",
		"seccompProfile:\n   ": "seccomp:\n   ",
	} {
		if strings.Count(good, old) == 0 {
			t.Errorf("no %q in what is rendered", old)
		}
		if _, err := decoded([]byte(strings.Replace(good, old, new, 1))); err == nil {
			t.Errorf("%q is taken", new)
		}
	}
}

// TestTheChartRefuses: a word that the chart does not know is an error and not something else.
func TestTheChartRefuses(t *testing.T) {
	if out, err := template(t, "node: {announce: rip}"); err == nil || !strings.Contains(err.Error(), "bgp or igp") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// kustomize renders a directory of the manifests, or a kustomization that stands beside them.
func kustomize(t *testing.T, from string) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kubernetes")
	must(t, os.CopyFS(dir, os.DirFS(manifests)))
	if strings.Contains(from, ":") {
		must(t, os.Mkdir(filepath.Join(dir, "own"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "own/kustomization.yaml"), []byte(from), 0o644))
		from = "own"
	}
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, from))
	must(t, err)
	out, err := made.AsYaml()
	must(t, err)
	return out
}

// helm renders the chart; ZONE in values is the zone of the overlay.
func helm(t *testing.T, values string) []byte {
	t.Helper()
	zone, err := os.ReadFile(filepath.Join(manifests, "overlays/distribution-host/zones/example.org.zone"))
	must(t, err)
	out, err := template(t, strings.Replace(values, "ZONE", fmt.Sprintf("%q", zone), 1))
	must(t, err)
	return out
}

func template(t *testing.T, values string) ([]byte, error) {
	t.Helper()
	chart, err := loader.Load(filepath.Join(manifests, "chart"))
	must(t, err)
	var given map[string]any
	must(t, yaml.Unmarshal([]byte(values), &given))
	all, err := chartutil.ToRenderValues(chart, given, chartutil.ReleaseOptions{Name: "mesh", Namespace: "default", IsInstall: true}, nil)
	must(t, err)
	files, err := engine.Render(chart, all)
	var out bytes.Buffer
	for _, file := range files {
		fmt.Fprintf(&out, "---\n%s\n", file)
	}
	return out.Bytes(), err
}

// types are all that the manifests may use.
func types() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apps.AddToScheme, batch.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme, certmanager.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}

// decode are the objects of a file, by kind, namespace and name.
func decode(t *testing.T, file []byte) map[string]runtime.Object {
	t.Helper()
	all, err := decoded(file)
	if err != nil {
		t.Fatalf("%v, in\n%s", err, file)
	}
	return all
}

func decoded(file []byte) (map[string]runtime.Object, error) {
	s := types()
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{Yaml: true, Strict: true})
	found := map[string]runtime.Object{}
	for r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file))); ; {
		one, err := r.Read()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if empty(one) {
			continue
		}
		object, kind, err := strict.Decode(one, nil, nil)
		if err != nil {
			return nil, err
		}
		named := object.(meta.Object)
		key := strings.Join([]string{kind.Kind, named.GetNamespace(), named.GetName()}, "/")
		if found[key] != nil {
			return nil, fmt.Errorf("%s stands there twice", key)
		}
		found[key] = object
	}
}

// empty reports whether a document has nothing but comments.
func empty(document []byte) bool {
	return !slices.ContainsFunc(strings.Split(string(document), "\n"), func(line string) bool {
		line = strings.TrimSpace(line)
		return line != "" && line != "---" && !strings.HasPrefix(line, "#")
	})
}

func text(t *testing.T, object runtime.Object) []byte {
	t.Helper()
	out, err := yaml.Marshal(object)
	must(t, err)
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
