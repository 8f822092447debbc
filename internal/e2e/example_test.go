// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

const examples = "../../examples"

// example is how a collector with files of examples/, as they are, is started.
type example struct {
	files    []string // below examples/
	settings string   // what the test changes, a configuration of its own: interfaces, intervals short enough to wait for
	env      []string // what the files ask for
	host     string   // name of the host that it believes to be on; this one's if empty
	program  string
}

// start starts it in a namespace and waits until it runs.
func (e example) start(t *testing.T, ns *testenv.NetNS) *collector {
	t.Helper()
	dir := t.TempDir()
	c := &collector{t: t, program: e.program, env: e.env, output: filepath.Join(dir, "otlp.jsonl")}
	var configs, wrap []string
	for _, file := range e.files {
		configs = append(configs, filepath.Join(examples, file))
	}
	settings := filepath.Join(dir, "settings.yaml")
	require.NoError(t, os.WriteFile(settings, []byte(e.settings), 0o644))
	if e.host != "" {
		wrap = []string{testenv.Tool(t, "unshare"), "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, e.host}
	}
	c.run(ns, append(configs, settings), wrap)
	c.awaitReady()
	return c
}

// told adds up what flow records say of UDP: a test sends it, and collectors among themselves do not.
func told(out *otlpcheck.Output) (v flow.Volume) {
	for _, f := range out.Flows() {
		if f.Transport == "udp" {
			v.Add(flow.Volume{Packets: uint64(f.Packets + f.ReversePackets), Bytes: uint64(f.Bytes + f.ReverseBytes)})
		}
	}
	return v
}

// authority is a certificate authority for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a.cert.Raw, err = x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	return a
}

// issue returns a folder like TLS_DIR of the examples: the authority's certificate, and a key with a certificate for client and server.
func (a *authority) issue(addresses ...netip.Addr) (dir string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, address.AsSlice())
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(a.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	dir = a.t.TempDir()
	for name, block := range map[string]*pem.Block{
		"ca.crt": {Type: "CERTIFICATE", Bytes: a.cert.Raw}, "tls.crt": {Type: "CERTIFICATE", Bytes: cert}, "tls.key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		require.NoError(a.t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	return dir
}

// TestEveryExampleIsValid has the collector for fleets check each configuration in examples/, as it is.
func TestEveryExampleIsValid(t *testing.T) {
	isCollector := regexp.MustCompile(`(?m)^service:$`) // not a manifest of ocb, not rules of Prometheus
	checked := 0
	require.NoError(t, filepath.WalkDir(examples, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		if isCollector.Match(text) {
			validate(t, path)
			checked++
		}
		return nil
	}))
	require.GreaterOrEqual(t, checked, 2)
}

// mutualTLS returns what either side of a connection needs so that both trust each other, from a folder that an authority issued.
func mutualTLS(t *testing.T, dir string) *tls.Config {
	t.Helper()
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	return &tls.Config{
		Certificates: []tls.Certificate{own}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
}

// TestNoExampleSendsWhatReceiversRefuse reads what exporters of OTLP by gRPC send at most: without a bound, or with one of records, messages get
// larger than the 4 MiB that a receiver takes, which refuses them for good. It also reads how long they try: the default drops what waits.
func TestNoExampleSendsWhatReceiversRefuse(t *testing.T) {
	const taken = 4 << 20
	configs := map[string]string{}
	files, err := filepath.Glob(examples + "/*/*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		configs[file] = string(text)
	}
	c := manifests(t)
	configs["agent of Kubernetes"], configs["gateway of Kubernetes"] = agentWorkload(t, c).config, gatewayWorkload(t, c).config
	checked := 0
	for name, text := range configs {
		var config struct {
			Exporters map[string]struct {
				Queue struct {
					Batch struct {
						Sizer   string `json:"sizer"`
						MaxSize int    `json:"max_size"`
					} `json:"batch"`
				} `json:"sending_queue"`
				Retry struct {
					MaxElapsedTime string `json:"max_elapsed_time"`
				} `json:"retry_on_failure"`
			} `json:"exporters"`
		}
		if !strings.Contains(text, "\n  otlp_grpc:\n") {
			continue
		}
		require.NoError(t, sigsyaml.Unmarshal([]byte(text), &config), name)
		exporter := config.Exporters["otlp_grpc"]
		assert.Equal(t, "bytes", exporter.Queue.Batch.Sizer, name)
		assert.Positive(t, exporter.Queue.Batch.MaxSize, name)
		assert.Less(t, exporter.Queue.Batch.MaxSize, taken, name)
		assert.Equal(t, "0s", exporter.Retry.MaxElapsedTime, name)
		checked++
	}
	assert.Equal(t, 7, checked)
}
