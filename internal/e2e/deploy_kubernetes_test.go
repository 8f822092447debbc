// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	sigsyaml "sigs.k8s.io/yaml"
)

const kubernetesExample = "../../examples/kubernetes"

// cluster is what the manifests of the example ask for, by kind and "namespace/name".
type cluster map[string]map[string]runtime.Object

// manifests decodes every manifest as the API server would that refuses unknown and repeated fields.
func manifests(t *testing.T) cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme, schedulingv1.AddToScheme,
	} {
		require.NoError(t, add(scheme))
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	files, err := filepath.Glob(kubernetesExample + "/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	c := cluster{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
		for number := 1; ; number++ {
			document := make([]byte, 1<<20)
			n, err := documents.Read(document)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			object, kind, err := decoder.Decode(document[:n], nil, nil)
			require.NoErrorf(t, err, "%s, document %d", file, number)
			c.add(t, kind.Kind, object)
		}
	}
	return c
}

func (c cluster) add(t *testing.T, kind string, object runtime.Object) {
	t.Helper()
	meta := object.(metav1.Object)
	name := meta.GetNamespace() + "/" + meta.GetName()
	if c[kind] == nil {
		c[kind] = map[string]runtime.Object{}
	}
	require.NotContains(t, c[kind], name, "two of one name")
	c[kind][name] = object
}

// get returns an object that must exist.
func get[T runtime.Object](t *testing.T, c cluster, kind, name string) T {
	t.Helper()
	require.Contains(t, c[kind], name, "%s %s exists", kind, name)
	return c[kind][name].(T)
}

// workload is a pod template with what says which pods it makes.
type workload struct {
	namespace string
	selector  *metav1.LabelSelector
	template  corev1.PodTemplateSpec
	config    string // file of the ConfigMap that its collector reads
}

func agentWorkload(t *testing.T, c cluster) workload {
	t.Helper()
	d := get[*appsv1.DaemonSet](t, c, "DaemonSet", "ebpfpackets-agent/ebpfpackets-agent")
	return workload{d.Namespace, d.Spec.Selector, d.Spec.Template, configOf(t, c, d.Namespace, d.Spec.Template.Spec)}
}

func gatewayWorkload(t *testing.T, c cluster) workload {
	t.Helper()
	d := get[*appsv1.Deployment](t, c, "Deployment", "ebpfpackets-gateway/otlp-gateway")
	return workload{d.Namespace, d.Spec.Selector, d.Spec.Template, configOf(t, c, d.Namespace, d.Spec.Template.Spec)}
}

// configOf returns the configuration that the arguments of a pod's only container point to, through a mount, to a ConfigMap.
func configOf(t *testing.T, c cluster, namespace string, spec corev1.PodSpec) string {
	t.Helper()
	require.Len(t, spec.Containers, 1)
	require.Len(t, spec.Containers[0].Args, 1)
	path, ok := strings.CutPrefix(spec.Containers[0].Args[0], "--config=")
	require.True(t, ok)
	for _, m := range spec.Containers[0].VolumeMounts {
		if m.MountPath != filepath.Dir(path) {
			continue
		}
		for _, v := range spec.Volumes {
			if v.Name == m.Name {
				require.NotNil(t, v.ConfigMap)
				data := get[*corev1.ConfigMap](t, c, "ConfigMap", namespace+"/"+v.ConfigMap.Name).Data
				require.Contains(t, data, filepath.Base(path))
				return data[filepath.Base(path)]
			}
		}
	}
	require.Failf(t, "no mount has the configuration", "%s", path)
	return ""
}

// parsed returns a value in a configuration, by the keys on the way to it.
func parsed(t *testing.T, config string, keys ...string) any {
	t.Helper()
	var value any
	require.NoError(t, sigsyaml.Unmarshal([]byte(config), &value))
	for _, k := range keys {
		m, ok := value.(map[string]any)
		require.True(t, ok && m[k] != nil, "%v: no %s", keys, k)
		value = m[k]
	}
	return value
}

func TestKubernetesReferences(t *testing.T) {
	c := manifests(t)
	agent, gateway := agentWorkload(t, c), gatewayWorkload(t, c)

	for kind, objects := range c {
		for name, object := range objects {
			if ns := object.(metav1.Object).GetNamespace(); ns != "" {
				assert.Contains(t, c["Namespace"], "/"+ns, "%s %s lies in a namespace that exists", kind, name)
			}
		}
	}
	for _, w := range []workload{agent, gateway} {
		spec := w.template.Spec
		selector, err := metav1.LabelSelectorAsSelector(w.selector)
		require.NoError(t, err)
		assert.True(t, selector.Matches(labels.Set(w.template.Labels)))
		assert.Contains(t, c["ServiceAccount"], w.namespace+"/"+spec.ServiceAccountName)
		if spec.PriorityClassName != "" {
			assert.Contains(t, c["PriorityClass"], "/"+spec.PriorityClassName)
		}
		mountsAreVolumes(t, spec)
		probesAskHealthCheck(t, w)
	}

	selects := func(s *metav1.LabelSelector) {
		t.Helper()
		selector, err := metav1.LabelSelectorAsSelector(s)
		require.NoError(t, err)
		assert.False(t, selector.Empty())
		assert.True(t, selector.Matches(labels.Set(gateway.template.Labels)))
	}
	for _, s := range gateway.template.Spec.TopologySpreadConstraints {
		selects(s.LabelSelector)
	}
	selects(get[*policyv1.PodDisruptionBudget](t, c, "PodDisruptionBudget", "ebpfpackets-gateway/otlp-gateway").Spec.Selector)
	network := get[*networkingv1.NetworkPolicy](t, c, "NetworkPolicy", "ebpfpackets-gateway/otlp-gateway")
	selects(&network.Spec.PodSelector)
	for _, rule := range network.Spec.Ingress {
		for _, p := range rule.Ports {
			portOf(t, gateway, p.Port.StrVal)
		}
	}

	// The agent's exporters find the service, the service the receiver.
	service := get[*corev1.Service](t, c, "Service", "ebpfpackets-gateway/otlp-gateway")
	selects(&metav1.LabelSelector{MatchLabels: service.Spec.Selector})
	require.Len(t, service.Spec.Ports, 1)
	assert.EqualValues(t, 4317, portOf(t, gateway, service.Spec.Ports[0].TargetPort.StrVal))
	assert.Equal(t, "0.0.0.0:4317", parsed(t, gateway.config, "receivers", "otlp", "protocols", "grpc", "endpoint"))
	address := fmt.Sprintf("%s.%s.svc:%d", service.Name, service.Namespace, service.Spec.Ports[0].Port)
	assert.Equal(t, address, parsed(t, agent.config, "exporters", "otlp_grpc", "endpoint"))
	reader := parsed(t, agent.config, "service", "telemetry", "metrics", "readers").([]any)[0].(map[string]any)
	assert.Equal(t, "https://"+address, reader["periodic"].(map[string]any)["exporter"].(map[string]any)["otlp"].(map[string]any)["endpoint"])

	binding := get[*rbacv1.ClusterRoleBinding](t, c, "ClusterRoleBinding", "/otlp-gateway")
	assert.Contains(t, c[binding.RoleRef.Kind], "/"+binding.RoleRef.Name)
	require.Len(t, binding.Subjects, 1)
	assert.Equal(t, gateway.namespace+"/"+gateway.template.Spec.ServiceAccountName, binding.Subjects[0].Namespace+"/"+binding.Subjects[0].Name)
}

// mountsAreVolumes checks that every volume is mounted, and that the keys in configurations lie in the mount of a secret.
func mountsAreVolumes(t *testing.T, spec corev1.PodSpec) {
	t.Helper()
	volumes, mounts := map[string]bool{}, map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
		if v.Secret != nil {
			assert.Equal(t, "tls", v.Name)
		}
	}
	for _, m := range spec.Containers[0].VolumeMounts {
		mounts[m.Name] = true
		assert.True(t, m.ReadOnly, m.Name)
		assert.Equal(t, "/"+m.Name, m.MountPath)
	}
	assert.Equal(t, volumes, mounts)
}

// portOf returns the number of a container's port.
func portOf(t *testing.T, w workload, name string) int32 {
	t.Helper()
	for _, p := range w.template.Spec.Containers[0].Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	assert.Fail(t, "no such port", name)
	return 0
}

// probesAskHealthCheck checks that both probes ask where the health_check extension listens.
func probesAskHealthCheck(t *testing.T, w workload) {
	t.Helper()
	assert.Contains(t, parsed(t, w.config, "service", "extensions"), "health_check")
	container := w.template.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
		require.NotNil(t, probe)
		host, port := probe.HTTPGet.Host, probe.HTTPGet.Port.IntVal
		if host == "" {
			host, port = "0.0.0.0", portOf(t, w, probe.HTTPGet.Port.StrVal)
		}
		assert.Equal(t, fmt.Sprintf("%s:%d", host, port), parsed(t, w.config, "extensions", "health_check", "endpoint"))
	}
}

// TestKubernetesMemory compares the sum that the page draws with the manifests: the queues' part of it is of a test in receiver/,
// the tables' is compared with docs/performance.md by one in the root package.
func TestKubernetesMemory(t *testing.T) {
	c := manifests(t)
	agent, gateway := agentWorkload(t, c), gatewayWorkload(t, c)
	text, err := os.ReadFile(kubernetesExample + "/README.md")
	require.NoError(t, err)
	page := strings.Join(strings.Fields(string(text)), " ")

	assert.EqualValues(t, 16384, parsed(t, agent.config, "receivers", "ebpfpackets/node", "flows", "max_flows"))
	assert.Contains(t, page, "16,384 at the network cards")
	const queues, pods, node, idle, maps64 = 110, 90, 34, 39, 118 // MiB
	assert.Contains(t, page, fmt.Sprintf("that is %d MiB. `memory_limiter` refuses from %d MiB", queues+pods+node+idle, refusesFrom(t, agent)))
	assert.Less(t, queues+pods+node+idle, refusesFrom(t, agent))
	assert.Contains(t, page, fmt.Sprintf("its `memory_limiter` refuses from %d MiB", refusesFrom(t, gateway)))

	container := agent.template.Spec.Containers[0]
	limit := container.Resources.Limits.Memory().Value() >> 20
	var soft int64
	for _, e := range container.Env {
		if e.Name == "GOMEMLIMIT" {
			soft, err = strconv.ParseInt(strings.TrimSuffix(e.Value, "MiB"), 10, 64)
			require.NoError(t, err)
		}
	}
	assert.Contains(t, page, fmt.Sprintf("`GOMEMLIMIT` is %d MiB", soft))
	assert.Contains(t, page, fmt.Sprintf("pod's %d MiB, too: %d MiB for both receivers with 64 CPUs", limit, maps64))
	assert.Less(t, soft+maps64, limit)
}

// refusesFrom is the memory, in MiB, from which on the memory_limiter of a pod refuses.
func refusesFrom(t *testing.T, w workload) int {
	t.Helper()
	limit := parsed(t, w.config, "processors", "memory_limiter", "limit_mib").(float64)
	return int(limit - parsed(t, w.config, "processors", "memory_limiter", "spike_limit_mib").(float64))
}

// TestKubernetesPrivileges asks the pod security standards, as the API server's admission does, and says the rest itself.
func TestKubernetesPrivileges(t *testing.T) {
	c := manifests(t)
	agent, gateway := agentWorkload(t, c), gatewayWorkload(t, c)
	assert.Empty(t, violations(t, gateway, api.LevelRestricted))
	assert.Equal(t, "restricted", get[*corev1.Namespace](t, c, "Namespace", "/"+gateway.namespace).Labels[api.EnforceLevelLabel])
	assert.Equal(t, []string{
		`host namespaces (hostNetwork=true)`,
		`non-default capabilities (container "otelcol" must not include "BPF", "NET_ADMIN", "PERFMON" in securityContext.capabilities.add)`,
		`probe or lifecycle host (container "otelcol" uses probe or lifecycle host "127.0.0.1")`,
	}, violations(t, agent, api.LevelBaseline))
	assert.Equal(t, []string{
		`host namespaces (hostNetwork=true)`,
		`probe or lifecycle host (container "otelcol" uses probe or lifecycle host "127.0.0.1")`,
		`unrestricted capabilities (container "otelcol" must not include "BPF", "NET_ADMIN", "PERFMON" in securityContext.capabilities.add)`,
	}, violations(t, agent, api.LevelRestricted))
	assert.Equal(t, "privileged", get[*corev1.Namespace](t, c, "Namespace", "/"+agent.namespace).Labels[api.EnforceLevelLabel])

	for _, w := range []workload{agent, gateway} {
		s := w.template.Spec.Containers[0].SecurityContext
		assert.True(t, *s.ReadOnlyRootFilesystem)
		assert.Equal(t, []corev1.Capability{"ALL"}, s.Capabilities.Drop)
		limits := w.template.Spec.Containers[0].Resources
		assert.False(t, limits.Limits.Memory().IsZero())
		assert.False(t, limits.Requests.Cpu().IsZero())
	}
	assert.False(t, *agent.template.Spec.AutomountServiceAccountToken)
	assert.False(t, agent.template.Spec.HostPID || agent.template.Spec.HostIPC)
}

// violations lists what a level of the pod security standards has against a pod.
func violations(t *testing.T, w workload, level api.Level) (found []string) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	at := api.LevelVersion{Level: level, Version: api.LatestVersion()}
	for _, r := range evaluator.EvaluatePod(at, &w.template.ObjectMeta, &w.template.Spec) {
		if !r.Allowed {
			found = append(found, fmt.Sprintf("%s (%s)", r.ForbiddenReason, r.ForbiddenDetail))
		}
	}
	slices.Sort(found)
	return found
}

// TestKubernetesConfigurations has the collectors of both images read what their ConfigMaps have.
func TestKubernetesConfigurations(t *testing.T) {
	c := manifests(t)
	for _, v := range []struct {
		name, binary string
		workload     workload
	}{
		{"agent", binary(t), agentWorkload(t, c)},
		{"agent with the collector for fleets", fullBinary(t), agentWorkload(t, c)},
		{"gateway", fullBinary(t), gatewayWorkload(t, c)},
	} {
		t.Run(v.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(path, []byte(v.workload.config), 0o644))
			cmd := exec.CommandContext(t.Context(), v.binary, "validate", "--config", path)
			cmd.Env = environment(v.workload)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

// environment is what a pod's container gets: what the manifest says, and a name for the node.
func environment(w workload) []string {
	all := map[string]string{}
	for _, e := range w.template.Spec.Containers[0].Env {
		all[e.Name] = e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "spec.nodeName" {
			all[e.Name] = "node-1"
		}
	}
	list := []string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, name+"="+all[name])
	}
	return list
}
