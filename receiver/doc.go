// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package receiver says in OpenTelemetry what the kernel counted: it turns drained slots into metrics, ended flows and
// sampled packets into log records, and hands them to the next consumer. It does not parse packets and does not know
// eBPF.
package receiver

//go:generate go tool -modfile=../internal/tools/go.mod mdatagen metadata.yaml

// Of an attribute of type bytes, the test that mdatagen writes compares the bytes with the pdata that holds them.
//go:generate sed -i "s/attrVal[.]Bytes()/&.AsRaw()/" internal/metadata/generated_logs_test.go
