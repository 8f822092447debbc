// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"math"
	"math/bits"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// enumerators reads one enum of contract.h: its names in order, and their values.
func enumerators(t *testing.T, name string) (names []string, values map[string]int) {
	t.Helper()
	text, err := os.ReadFile("../../bpf/contract.h")
	require.NoError(t, err)
	body := regexp.MustCompile(`(?s)enum ` + name + ` \{(.*?)\n\};`).FindSubmatch(text)
	require.NotNil(t, body, "contract.h has no enum %s", name)
	values = map[string]int{}
	for line := range strings.Lines(string(body[1])) {
		m := regexp.MustCompile(`^\s*([A-Z0-9_]+)(?: = (\w+))?,`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		value := len(names)
		if m[2] != "" {
			v, err := strconv.ParseInt(m[2], 0, 64)
			require.NoError(t, err)
			value = int(v)
		}
		names, values[m[1]] = append(names, m[1]), value
	}
	return names, values
}

func TestReasonsAreInSyncWithContract(t *testing.T) {
	names, _ := enumerators(t, "reason")
	require.Len(t, names, int(flow.ReasonCount)+1, "enum reason is not in sync with internal/flow/reason.go")
	for i, name := range names[:flow.ReasonCount] {
		word := strings.ToLower(strings.TrimPrefix(name, "REASON_"))
		entry := flow.Reason(i).Entry()
		if entry == "not_ip" {
			require.Contains(t, []string{"arp", "llc", "ethertype"}, word)
			continue
		}
		require.Equal(t, word, strings.TrimPrefix(entry, "unparsed_"), "enum reason is not in sync with internal/flow/reason.go")
	}
}

func TestBitsAreInSyncWithContract(t *testing.T) {
	for enum, want := range map[string]map[string]int{
		"key_bits": {
			"KEY_VLAN_ID": keyVLANID, "KEY_TAGGED": keyTagged, "KEY_LATER_FRAGMENT": keyLaterFragment,
			"KEY_IPV6": keyIPv6, "KEY_EGRESS": keyEgress, "KEY_EGRESS_SHIFT": bits.TrailingZeros(keyEgress),
		},
		"fact_bits": {
			"FACT_LABEL": factLabel, "FACT_SYN": int(flow.HandshakeSYN) << factHandshakeShift,
			"FACT_SYN_ACK": int(flow.HandshakeSYNACK) << factHandshakeShift, "FACT_DSCP_VARIES": factDSCPVaries,
			"FACT_MACS": factMACs, "FACT_DSCP_SHIFT": factDSCPShift,
		},
		"netns_bits": {
			"KEY_NETNS": keyNetNS, "KEY_QUOTED": keyQuoted, "KEY_QUOTED_SHIFT": keyQuotedShift, "KEY_TUNNELLED": keyTunnelled,
		},
		"quoted": {
			"QUOTED_UNREACHABLE": int(flow.ICMPUnreachable), "QUOTED_TOO_BIG": int(flow.ICMPTooBig),
			"QUOTED_TIME_EXCEEDED": int(flow.ICMPTimeExceeded),
		},
		"tunnel_kind": {
			"TUNNEL_VXLAN": int(flow.TunnelVXLAN), "TUNNEL_GENEVE": int(flow.TunnelGeneve), "TUNNEL_GRE": int(flow.TunnelGRE),
			"TUNNEL_IP": int(flow.TunnelIP),
		},
		"index_bits": {"INDEX_NUMBER": indexNumber, "INDEX_USED": indexUsed, "INDEX_TAG": math.MaxUint32 &^ (indexNumber | indexUsed)},
		"outer_bits": {"OUTER_IPV6": outerIPv6, "OUTER_ID": outerID},
		"filter_bits": {
			"FILTER_SKIP": filterSkip, "FILTER_PORT": filterPort, "FILTER_PROTOCOL": filterProtocol,
			"FILTER_IPV4": filterIPv4, "FILTER_IPV6": filterIPv6,
		},
		"sample_bits": {"SAMPLE_EGRESS": sampleEgress, "SAMPLE_L3": sampleL3, "SAMPLE_TAGGED": sampleTagged, "SAMPLE_NOT_IP": sampleNotIP},
		"sample_kind": {
			"KIND_RANDOM": int(packet.KindRandom), "KIND_FLOW": int(packet.KindFlow), "KIND_FIRST": int(packet.KindFirst),
			"KIND_PROTOCOL": int(packet.KindProtocol), "KIND_COUNT": int(packet.KindCount),
		},
		"protocol_bits": {"PROTOCOL_DNS": int(ProtocolDNS), "PROTOCOL_TLS": int(ProtocolTLS), "PROTOCOL_HTTP": int(ProtocolHTTP)},
	} {
		_, got := enumerators(t, enum)
		require.Equal(t, want, got, "enum %s is not in sync with contract.h", enum)
	}
}

const reasonsMax = 32

func TestDefinesAreInSyncWithContract(t *testing.T) {
	contract, err := os.ReadFile("../../bpf/contract.h")
	require.NoError(t, err)
	config, err := os.ReadFile("../../bpf/config.h")
	require.NoError(t, err)
	for name, want := range map[string]int{
		"STOPPED": stopped, "BYTES_BITS": bytesBits, "DEFAULT_SLOTS": DefaultSlots, "HASH_WORDS": len(bpfRegionHeader{}.HashKeys),
		"SKIPS": len(bpfSampler{}.Skips), "REASONS_MAX": reasonsMax, "CLASS_SLOTS": len(bpfRegion{}.Classes) - 2*reasonsMax,
		"MAX_CPUS": maxCPUs, "FILTERS_MAX": MaxFilters, "INDEX_PER_SLOT": indexPerSlot, "SNAP_MAX": len(bpfSampleScratch{}.Data),
		"MESSAGE_SNAP": MessageSnap, "FOLLOWS": follows, "PROBE_MAX": probeMax,
	} {
		m := regexp.MustCompile(`#define ` + name + `\s+(\d+)`).FindStringSubmatch(string(contract) + string(config))
		require.NotNil(t, m, "no #define %s", name)
		require.Equal(t, strconv.Itoa(want), m[1], "%s is not in sync with bpf/", name)
	}
}

func TestSharedStructsHaveTheirSizes(t *testing.T) {
	require.EqualValues(t, 64, unsafe.Sizeof(bpfSlot{}))
	require.EqualValues(t, 32, unsafe.Sizeof(bpfCold{}))
	require.EqualValues(t, 40, unsafe.Sizeof(bpfOuter{}))
	require.EqualValues(t, 320, unsafe.Sizeof(bpfRegionHeader{}))
	require.EqualValues(t, 64, unsafe.Offsetof(bpfRegionHeader{}.HashKeys), "user space and programs write different lines")
	require.EqualValues(t, 64, unsafe.Offsetof(bpfSampler{}.Allowed), "user space and programs write different lines")
	require.EqualValues(t, 64, unsafe.Offsetof(bpfControl{}.Late), "the active buffer has a line of its own")
	require.EqualValues(t, regionSize(DefaultSlots, true), unsafe.Sizeof(bpfRegion{}))
	require.LessOrEqual(t, regionSize(MaxSlots, false), maxRegionSize, "5.10 refuses larger map values")
	require.Len(t, bpfSampler{}.Used, int(packet.KindCount))
	_, numbers := enumerators(t, "number_bits")
	require.LessOrEqual(t, MaxSlots-1, numbers["NUMBER"])
	require.Equal(t, indexNumber, numbers["NUMBER"])
	require.LessOrEqual(t, indexPerSlot*MaxSlots-1, math.MaxUint16, "struct cold .position")
	require.LessOrEqual(t, MaxSnapLength, len(bpfSampleScratch{}.Data))
}
