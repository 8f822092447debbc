// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestFlowsGetTheirPod runs agent and gateway as their manifests say, each as a container, on a node with one pod: the left end
// of a pair is the node, the right one the pod. A fake API server knows the pod, and refuses what the cluster role does not
// allow. Only the addresses of services differ, and what the gateway sends is written to a file.
func TestFlowsGetTheirPod(t *testing.T) {
	t.Parallel() // it mostly waits
	testenv.Privileged(t)
	c := manifests(t)
	node, pod := testenv.Pair(t, testenv.PairConfig{})
	secrets := certificates(t)
	server := serveAPI(t, node.NetNS, get[*rbacv1.ClusterRole](t, c, "ClusterRole", "/otlp-gateway").Rules,
		podNamed("web-7d4b9c6f5d-x2x4z", pod.V4.String(), pod.V6.String()), secrets)
	gateway := runGateway(t, node.NetNS, gatewayWorkload(t, c), server, secrets["otlp-gateway-tls"])
	node.Run(testenv.Tool(t, "ip"), "route", "add", "default", "dev", node.Name) // an uplink, too
	agent := runAgent(t, node.NetNS, agentWorkload(t, c), secrets["otlp-agent-tls"])
	assert.Equal(t, http.StatusOK, probe(t, node, 13133))

	incoming := testenv.Transfer(node, pod, false, 1000).Server
	outgoing := testenv.Transfer(pod, node, false, 1000).Server
	second := testenv.Transfer(pod, node, true, 1000).Server
	node.Do(func() { multicast(t) })
	told := awaitFlows(t, gateway, incoming.Port(), outgoing.Port(), second.Port(), multicastPort)
	for name, port := range map[string]uint16{
		"to the pod, which is the destination": incoming.Port(),
		"from the pod, which is the source":    outgoing.Port(),
	} {
		delete(told[port], "host.name")
		assert.Equal(t, map[string]any{
			"k8s.pod.ip": pod.V4.String(), "k8s.pod.name": "web-7d4b9c6f5d-x2x4z", "k8s.pod.uid": "11111111-2222-3333-4444-555555555555",
			"k8s.namespace.name": "shop", "k8s.deployment.name": "web", "k8s.node.name": "node-1",
		}, told[port], name)
	}
	for name, port := range map[string]uint16{
		"the processor knows the first address of a pod": second.Port(),
		"no pod has the address of a group":              multicastPort,
	} {
		assert.Equal(t, []string{"host.name"}, slices.Collect(maps.Keys(told[port])), name)
	}

	assert.Equal(t, map[string]bool{"node-1 node-1": true}, instances(gateway.read()), "host.name and service.instance.id of own telemetry")

	endQuietly(t, agent, gateway)
	assert.Regexp(t, ledgerLine, agent.log.String())
	assert.ElementsMatch(t, server.allowed(), server.used(), "the cluster role allows what is asked for, and no more")
	assert.Empty(t, server.refused())
}

// runGateway starts the gateway with the account of server, and waits until it is ready.
func runGateway(t *testing.T, ns *testenv.NetNS, w workload, server *apiServer, tls string) *collector {
	t.Helper()
	out := t.TempDir()
	require.NoError(t, os.Chown(out, imageUser, imageUser))
	gateway := runWorkload(t, ns, w, t.TempDir(), "/otelcol", tls, func(s *specs.Spec) {
		bind(s, fullBinary(t), "/otelcol", "ro")
		bind(s, out, "/out", "rw")
		bind(s, server.account, "/var/run/secrets/kubernetes.io/serviceaccount", "ro")
		s.Process.Env = append(s.Process.Env, "KUBERNETES_SERVICE_HOST=127.0.0.1", fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", server.port))
	}, `yaml:exporters::file: {path: /out/otlp.jsonl, flush_interval: 100ms}`,
		`yaml:service::pipelines::logs::exporters: [file]`, `yaml:service::pipelines::metrics::exporters: [file]`,
		`yaml:extensions::health_check::endpoint: 127.0.0.1:13134`) // the agent's is 13133, and here they share a namespace
	gateway.output = filepath.Join(out, "otlp.jsonl")
	gateway.awaitReady()
	return gateway
}

// runAgent starts the agent from its image, which finds the gateway's service at the loopback, and waits until it is ready.
func runAgent(t *testing.T, ns *testenv.NetNS, w workload, tls string) *collector {
	t.Helper()
	root, image := unpack(t, agentImage(t))
	const interval = "interval: 60000" // of its own account; a list in a second configuration would replace all of it
	require.Equal(t, 1, strings.Count(w.config, interval))
	w.config = strings.Replace(w.config, interval, "interval: 1000", 1)
	agent := runWorkload(t, ns, w, root, image.Config.Entrypoint[0], tls, func(s *specs.Spec) {
		hosts := filepath.Join(t.TempDir(), "hosts")
		require.NoError(t, os.WriteFile(hosts, []byte("127.0.0.1 localhost otlp-gateway.ebpfpackets-gateway.svc\n"), 0o644))
		bind(s, hosts, "/etc/hosts", "ro")
	}, `yaml:receivers::ebpfpackets/pods::flows::idle_timeout: 1s`, `yaml:receivers::ebpfpackets/node::collection_interval: 1s`)
	agent.awaitReady()
	return agent
}

// awaitFlows waits for records of flows to these ports and no others, and for metrics, and returns the resource of each.
func awaitFlows(t *testing.T, gateway *collector, ports ...uint16) map[uint16]map[string]any {
	t.Helper()
	gateway.awaitOutput(func(o *otlpcheck.Output) bool {
		return len(resourcesOfFlows(o)) >= len(ports) && o.Total("network.flow.io", nil) > 0 &&
			o.Total("otelcol_ebpfpackets_receiver_ledger_packets", nil) > 0
	})
	told := resourcesOfFlows(gateway.read())
	require.ElementsMatch(t, ports, slices.Collect(maps.Keys(told)))
	return told
}

// endQuietly ends collectors one after the other; none may have logged an error.
func endQuietly(t *testing.T, collectors ...*collector) {
	t.Helper()
	for _, c := range collectors {
		c.terminate()
	}
	for _, c := range collectors {
		assert.NotRegexp(t, `\terror\t`, c.log.String())
	}
}

const multicastPort = 9999

// multicast sends one datagram to a group, as a host does that looks for others.
func multicast(t *testing.T) {
	t.Helper()
	c, err := net.Dial("udp", fmt.Sprintf("[ff02::fb%%left0]:%d", multicastPort))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("anyone?"))
	require.NoError(t, err)
}

// resourcesOfFlows returns the resource of each flow record, by the port of its destination.
func resourcesOfFlows(o *otlpcheck.Output) map[uint16]map[string]any {
	found := map[uint16]map[string]any{}
	for _, ld := range o.Logs {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, r := range sl.LogRecords().All() {
					if port, ok := r.Attributes().Get("destination.port"); ok && r.EventName() == otlpcheck.EventFlow {
						found[uint16(port.Int())] = rl.Resource().Attributes().AsRaw()
					}
				}
			}
		}
	}
	return found
}

// instances returns how the collectors are called whose own account is in o.
func instances(o *otlpcheck.Output) map[string]bool {
	found := map[string]bool{}
	for _, md := range o.Metrics {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if strings.HasPrefix(m.Name(), "otelcol_ebpfpackets_receiver_") {
						resource := rm.Resource().Attributes().AsRaw()
						found[fmt.Sprint(resource["host.name"], " ", resource["service.instance.id"])] = true
					}
				}
			}
		}
	}
	return found
}

// runWorkload starts the only container of a pod as containerd would: its user, privileges, arguments, environment and mounts
// are those of the manifest. Overrides are configurations that follow it.
func runWorkload(t *testing.T, ns *testenv.NetNS, w workload, root, program, tls string, also func(*specs.Spec), overrides ...string) *collector {
	t.Helper()
	container := w.template.Spec.Containers[0]
	security := container.SecurityContext
	var capabilities []string
	for _, name := range security.Capabilities.Add {
		capabilities = append(capabilities, "CAP_"+string(name))
	}
	s := containerSpec(t, root, capabilities)
	asKubernetes(s)
	s.Process.NoNewPrivileges = !*security.AllowPrivilegeEscalation
	s.Root.Readonly = *security.ReadOnlyRootFilesystem
	pod := w.template.Spec.SecurityContext
	s.Process.User = specs.User{UID: uint32(*pod.RunAsUser), GID: uint32(*pod.RunAsGroup), AdditionalGids: []uint32{uint32(*pod.FSGroup)}}
	s.Process.Args = append([]string{program}, container.Args...)
	for _, o := range overrides {
		s.Process.Args = append(s.Process.Args, "--config="+o)
	}
	s.Process.Env = environment(w)

	config := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(config, "config.yaml"), []byte(w.config), 0o644))
	for _, m := range container.VolumeMounts {
		bind(s, map[string]string{"config": config, "tls": tls}[m.Name], m.MountPath, "ro")
	}
	also(s)
	return contain(t, ns, s)
}

// certificates runs what the README says about making them, and returns the directory of each secret.
func certificates(t *testing.T) map[string]string {
	t.Helper()
	testenv.Tool(t, "openssl")
	readme, err := os.ReadFile(kubernetesExample + "/README.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```bash\n(openssl .*?)```").FindSubmatch(readme)
	require.NotNil(t, block)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "bash", "-euc", string(block[1]))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	secrets := map[string]string{}
	for _, m := range regexp.MustCompile(`create secret generic (\S+) .*--from-file=(\S+)`).FindAllSubmatch(readme, -1) {
		from := filepath.Join(dir, string(m[2]))
		files, err := os.ReadDir(from)
		require.NoError(t, err)
		for _, f := range files { // as fsGroup and defaultMode ask for
			require.NoError(t, os.Chown(filepath.Join(from, f.Name()), 0, imageUser))
			require.NoError(t, os.Chmod(filepath.Join(from, f.Name()), 0o440))
		}
		secrets[string(m[1])] = from
	}
	require.Len(t, secrets, 2)
	return secrets
}

// probe asks a collector how it is, as the kubelet does.
func probe(t *testing.T, e *testenv.End, port int) int {
	t.Helper()
	var status int
	e.Do(func() {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		require.NoError(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
		require.NoError(t, err)
		_, err = fmt.Fscanf(conn, "HTTP/1.0 %d", &status)
		require.NoError(t, err)
	})
	return status
}

func podNamed(name string, addresses ...string) corev1.Pod {
	controller := true
	p := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "shop", UID: "11111111-2222-3333-4444-555555555555", ResourceVersion: "1",
			CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Hour)),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name[:strings.LastIndex(name, "-")], UID: "6", Controller: &controller,
			}},
			Labels: map[string]string{"pod-template-hash": "7d4b9c6f5d"},
		},
		Spec:   corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addresses[0]},
	}
	for _, a := range addresses {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

// apiServer is a Kubernetes API that has pods alone and lets nothing happen to them.
type apiServer struct {
	rules   []rbacv1.PolicyRule
	pods    []corev1.Pod
	account string // directory of the service account's token, as a pod gets it
	port    int

	mu      sync.Mutex
	granted map[string]bool // "group/resource verb" that were asked for
	denied  []string
}

const token = "the gateway's token"

// serveAPI serves in a namespace, at its loopback, until the test ends.
func serveAPI(t *testing.T, ns *testenv.NetNS, rules []rbacv1.PolicyRule, pod corev1.Pod, secrets map[string]string) *apiServer {
	t.Helper()
	tls := secrets["otlp-gateway-tls"] // its certificate is for localhost too
	s := &apiServer{rules: rules, pods: []corev1.Pod{pod}, account: t.TempDir(), granted: map[string]bool{}}
	authority, err := os.ReadFile(filepath.Join(tls, "ca.crt"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.account, "ca.crt"), authority, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(s.account, "token"), []byte(token), 0o644))
	var l net.Listener
	ns.Do(func() { l, err = net.Listen("tcp", "127.0.0.1:0") })
	require.NoError(t, err)
	s.port = l.Addr().(*net.TCPAddr).Port
	server := &http.Server{Handler: s, ReadHeaderTimeout: patience}
	go func() { _ = server.ServeTLS(l, filepath.Join(tls, "tls.crt"), filepath.Join(tls, "tls.key")) }()
	t.Cleanup(func() { server.Close() })
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	group, resource := "", strings.TrimPrefix(r.URL.Path, "/api/v1/")
	if rest, ok := strings.CutPrefix(r.URL.Path, "/apis/"); ok {
		group, rest, _ = strings.Cut(rest, "/")
		_, resource, _ = strings.Cut(rest, "/")
	}
	verb := "list"
	if r.URL.Query().Get("watch") != "" {
		verb = "watch"
	}
	if r.Header.Get("Authorization") != "Bearer "+token || !s.grant(group, resource, verb) {
		s.say(w, http.StatusForbidden, metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden})
		return
	}
	switch {
	case r.URL.Query().Get("sendInitialEvents") != "": // as a server says that wants to be asked for the list
		s.say(w, http.StatusUnprocessableEntity, metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
		return
	case verb == "watch":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	if resource == "pods" {
		list.Items = s.pods
	}
	s.say(w, http.StatusOK, list)
}

func (s *apiServer) say(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // who asked may be gone
}

// grant says whether the rules allow it, and remembers that it was asked for.
func (s *apiServer) grant(group, resource, verb string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	what := group + "/" + resource + " " + verb
	for _, rule := range s.rules {
		if slices.Contains(rule.APIGroups, group) && slices.Contains(rule.Resources, resource) && slices.Contains(rule.Verbs, verb) {
			s.granted[what] = true
			return true
		}
	}
	s.denied = append(s.denied, what)
	return false
}

// allowed lists all that the rules allow.
func (s *apiServer) allowed() (all []string) {
	for _, rule := range s.rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, group+"/"+resource+" "+verb)
				}
			}
		}
	}
	return all
}

func (s *apiServer) used() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for what := range s.granted {
		all = append(all, what)
	}
	return all
}

func (s *apiServer) refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.denied
}
