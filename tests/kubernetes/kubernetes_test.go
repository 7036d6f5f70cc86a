// Package kubernetes checks the example for Kubernetes against the types of its API. It is a module of its own, so that
// these are no dependencies of the product.
package kubernetes

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// An example is what the file has.
type example struct {
	services map[string]*core.Service
	config   *core.ConfigMap
	budget   *policy.PodDisruptionBudget
	network  *networking.NetworkPolicy
	set      *apps.StatefulSet
}

// decode takes no field that the API does not have, and none twice.
func decode(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apps.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var all []runtime.Object
	for i, document := range bytes.Split(text, []byte("\n---\n")) {
		object, _, err := decoder.Decode(document, nil, nil)
		if i == 0 && runtime.IsMissingKind(err) {
			continue // the comment at the top
		}
		if err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		all = append(all, object)
	}
	return all
}

func read(t *testing.T) example {
	t.Helper()
	text, err := os.ReadFile("../../docs/kubernetes/rabbitmq.yaml")
	if err != nil {
		t.Fatal(err)
	}
	e := example{services: map[string]*core.Service{}}
	for _, object := range decode(t, text) {
		switch o := object.(type) {
		case *core.Service:
			e.services[o.Name] = o
		case *core.ConfigMap:
			e.config = o
		case *policy.PodDisruptionBudget:
			e.budget = o
		case *networking.NetworkPolicy:
			e.network = o
		case *apps.StatefulSet:
			e.set = o
		default:
			t.Errorf("no rule knows %T", o)
		}
	}
	if e.config == nil || e.budget == nil || e.network == nil || e.set == nil || len(e.services) != 2 {
		t.Fatalf("something is missing: %+v", e)
	}
	return e
}

// What names something else names what is there.
func TestNamesMeet(t *testing.T) {
	e := read(t)
	labels := e.set.Spec.Template.Labels
	selects := func(who string, selector map[string]string) {
		if len(selector) == 0 || !maps.Equal(selector, labels) {
			t.Errorf("%s selects %v, and the pods are %v", who, selector, labels)
		}
	}
	selector := func(who string, s *meta.LabelSelector) {
		if s == nil || len(s.MatchExpressions) > 0 {
			t.Errorf("%s selects %v", who, s)
			return
		}
		selects(who, s.MatchLabels)
	}
	pod := e.set.Spec.Template.Spec
	node := pod.Containers[0]
	ports, numbers := map[string]bool{}, map[string]int32{}
	for _, p := range node.Ports {
		ports[p.Name], numbers[p.Name] = true, p.ContainerPort
	}
	port := func(who string, p intstr.IntOrString) {
		if p.Type != intstr.String || !ports[p.StrVal] {
			t.Errorf("%s: the container has no port %s", who, p.String())
		}
	}
	for name, s := range e.services {
		selects("service "+name, s.Spec.Selector)
		for _, p := range s.Spec.Ports {
			port("service "+name, p.TargetPort)
		}
	}
	selector("the StatefulSet", e.set.Spec.Selector)
	selector("the budget", e.budget.Spec.Selector)
	selector("the network policy", &e.network.Spec.PodSelector)
	selector("the affinity", pod.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector)
	selector("the spread", pod.TopologySpreadConstraints[0].LabelSelector)
	for _, rule := range e.network.Spec.Ingress {
		page := slices.ContainsFunc(rule.Ports, func(p networking.NetworkPolicyPort) bool { return p.Port.StrVal == "page" })
		for _, from := range rule.From {
			if page && len(rule.Ports) == 1 && from.NamespaceSelector == nil && from.IPBlock == nil {
				continue // for the namespace
			}
			selector("the network policy", from.PodSelector)
		}
		for _, p := range rule.Ports {
			port("the network policy", *p.Port)
			if slices.Contains([]string{"epmd", "nodes"}, p.Port.StrVal) || p.Port.StrVal == "page" && len(rule.From) == 0 {
				t.Errorf("%s is open to everybody", p.Port.StrVal)
			}
		}
	}
	for _, v := range node.Env {
		if v.Name == "RMQ_ADMIN" && v.Value != fmt.Sprintf(":%d", numbers["page"]) {
			t.Errorf("the page is at %s, and port page is %d", v.Value, numbers["page"])
		}
	}
	port("the readiness probe", node.ReadinessProbe.HTTPGet.Port)
	if governing := e.services[e.set.Spec.ServiceName]; governing == nil || governing.Spec.ClusterIP != core.ClusterIPNone || !governing.Spec.PublishNotReadyAddresses {
		t.Errorf("service %s is not headless, or hides nodes that boot", e.set.Spec.ServiceName)
	}
	for _, name := range []string{e.set.Name, e.set.Spec.ServiceName, e.config.Name} {
		if why := validation.IsDNS1123Label(name); len(why) > 0 {
			t.Errorf("%s: %v", name, why)
		}
	}
}

// Each mount has its volume, each volume its source, and each secret its file.
func TestVolumes(t *testing.T) {
	e := read(t)
	pod := e.set.Spec.Template.Spec
	node := pod.Containers[0]
	volumes := map[string]core.Volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
	}
	for _, claim := range e.set.Spec.VolumeClaimTemplates {
		if claim.Spec.Resources.Requests.Storage().Sign() <= 0 {
			t.Errorf("claim %s asks for no room", claim.Name)
		}
		volumes[claim.Name] = core.Volume{Name: claim.Name}
	}
	files, written := map[string]bool{}, map[string]string{}
	for _, m := range node.VolumeMounts {
		v, ok := volumes[m.Name]
		if !ok {
			t.Errorf("%s: there is no volume %s", m.MountPath, m.Name)
		}
		delete(volumes, m.Name)
		switch {
		case v.Secret != nil:
			if *v.Secret.DefaultMode&0o007 != 0 {
				t.Errorf("%s: everybody may read the secret: %04o", m.MountPath, *v.Secret.DefaultMode)
			}
			for _, item := range v.Secret.Items {
				files[path.Join(m.MountPath, strings.TrimPrefix(item.Path, m.SubPath))] = true
			}
		case v.ConfigMap != nil:
			if v.ConfigMap.Name != e.config.Name || e.config.Data[m.SubPath] == "" {
				t.Errorf("%s: config map %s has no %s", m.MountPath, v.ConfigMap.Name, m.SubPath)
			}
		case v.EmptyDir != nil:
			written[m.MountPath] = "memory or disk of the host"
		default:
			written[m.MountPath] = "a claim"
		}
		if m.ReadOnly == (written[m.MountPath] != "") && v.ConfigMap == nil {
			t.Errorf("%s: read-only is %v", m.MountPath, m.ReadOnly)
		}
	}
	for name := range volumes {
		t.Errorf("nothing mounts volume %s", name)
	}
	if written["/var/lib/rabbitmq"] != "a claim" || written["/tmp"] == "" || written["/var/log/rabbitmq"] == "" {
		t.Errorf("a read-only root file system leaves %v to write to", written)
	}
	for _, v := range node.Env {
		if strings.HasPrefix(v.Value, "/secrets/") && !files[v.Value] {
			t.Errorf("%s: there is no %s, only %v", v.Name, v.Value, files)
		}
		if v.Value == "" && v.ValueFrom == nil {
			t.Errorf("%s has no value", v.Name)
		}
	}
	if !files["/etc/rabbitmq/conf.d/30-user.conf"] {
		t.Errorf("the users' file is not among %v", files)
	}
}

// A node is stopped with care, one at a time, and has no rights beside its volume.
func TestRules(t *testing.T) {
	e := read(t)
	pod := e.set.Spec.Template.Spec
	node := pod.Containers[0]
	if one := e.budget.Spec.MaxUnavailable; one == nil || one.IntValue() != 1 || e.budget.Spec.MinAvailable != nil {
		t.Errorf("the budget is %+v", e.budget.Spec)
	}
	if e.set.Spec.PodManagementPolicy != apps.ParallelPodManagement || *e.set.Spec.Replicas != 3 {
		t.Errorf("%d pods, %s", *e.set.Spec.Replicas, e.set.Spec.PodManagementPolicy)
	}
	for _, c := range []struct {
		asked *core.Probe
		want  string
	}{{node.StartupProbe, "rmq-entrypoint healthcheck --started"}, {node.LivenessProbe, "rmq-entrypoint healthcheck"}} {
		if got := strings.Join(c.asked.Exec.Command, " "); got != c.want || c.asked.TimeoutSeconds < 10 {
			t.Errorf("%s asks for %d s, want %s", got, c.asked.TimeoutSeconds, c.want)
		}
	}
	if day := node.StartupProbe.PeriodSeconds * node.StartupProbe.FailureThreshold; day < 24*60*60 {
		t.Errorf("a node that waits is ended after %d s", day)
	}
	if ready := node.ReadinessProbe.HTTPGet; ready.Path != "/ready" || node.LivenessProbe.HTTPGet != nil {
		t.Errorf("the readiness probe asks %s", ready.Path)
	}
	if got := strings.Join(node.Lifecycle.PreStop.Exec.Command, " "); got != "rmq-entrypoint drain" || *pod.TerminationGracePeriodSeconds < 60 {
		t.Errorf("before a stop %s, within %d s", got, *pod.TerminationGracePeriodSeconds)
	}
	if *pod.EnableServiceLinks || *pod.AutomountServiceAccountToken {
		t.Error("the pod gets variables or a token that it does not need")
	}
	user, own := pod.SecurityContext, node.SecurityContext
	if !*user.RunAsNonRoot || *user.RunAsUser != 999 || *user.RunAsGroup != *user.FSGroup || user.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod runs as %+v", user)
	}
	if *own.AllowPrivilegeEscalation || !*own.ReadOnlyRootFilesystem || !slices.Equal(own.Capabilities.Drop, []core.Capability{"ALL"}) || len(own.Capabilities.Add) > 0 {
		t.Errorf("the container has %+v", own)
	}
	if node.Resources.Limits.Memory().Cmp(*node.Resources.Requests.Memory()) != 0 || node.Resources.Limits.Memory().Sign() <= 0 {
		t.Errorf("memory: %s of %s", node.Resources.Requests.Memory(), node.Resources.Limits.Memory())
	}
}
