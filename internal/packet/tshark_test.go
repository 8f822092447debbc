// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// tsharkFields are asked for every frame; of a field that occurs more than once, the first, outermost, counts.
var tsharkFields = []string{
	"ieee8021ad.id", "vlan.id",
	"ip.src", "ip.dst", "ip.dsfield", "ip.ttl", "ip.proto", "ip.frag_offset",
	"ipv6.src", "ipv6.dst", "ipv6.tclass", "ipv6.hlim", "ipv6.fraghdr.offset",
	"tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.window_size_value",
	"udp.srcport", "udp.dstport", "sctp.srcport", "sctp.dstport",
	"icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code",
	"mpls.label", "pppoe.payload_length", "ip.len", "ipv6.plen",
	"frame.cap_len", "frame.protocols", "ip.hdr_len", "tcp.hdr_len", "ah.length",
	"ipv6.hopopts.len_oct", "ipv6.routing.len_oct", "ipv6.dstopts.len_oct", "shim6.len_oct",
	"_ws.malformed", "_ws.unreassembled",
}

// Our own words: tshark has one name for the id of a tag of each kind, and one layer for a stack of labels.
const (
	outermostVLAN = "(outermost tag)"
	labels        = "(number of labels)"
)

// tsharkStops says in which frames tshark finds no transport header where both our parsers do, and why.
var tsharkStops = map[string]string{
	"padding past the total length is read as a header": "believes the total length",
	"a HIP header":                             "reads it as the last header",
	"a mobility header":                        "reads it as the last header",
	"eight extension headers, the most":        "reads the HIP header as the last",
	"a TCP data offset below 5 is taken for 5": "reads no further than the bad offset",
}

// TestTsharkAgrees asks about accounted frames only, for the reason given at TestGopacketAgrees.
func TestTsharkAgrees(t *testing.T) {
	testenv.Tool(t, "tshark")
	for _, l3 := range []bool{false, true} {
		t.Run(fmt.Sprintf("corpus, without link header %t", l3), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "corpus.pcap")
			require.NoError(t, frames.WritePcap(path, accounted(l3)))
			tsharkAgrees(t, path, accounted(l3))
		})
	}
	files, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			all, err := frames.ReadPcap(path)
			require.NoError(t, err)
			tsharkAgrees(t, path, all)
		})
	}
}

func accounted(l3 bool) []frames.Frame {
	var chosen []frames.Frame
	for _, f := range frames.All {
		if f.Want.Reason == flow.ReasonAccounted && f.L3 == l3 {
			chosen = append(chosen, f)
		}
	}
	return chosen
}

// tsharkAgrees compares what Decode and tshark say of all, the frames of the file at path.
func tsharkAgrees(t *testing.T, path string, all []frames.Frame) {
	rows := tshark(t, path)
	require.Len(t, rows, len(all))
	compared := 0
	for i, f := range all {
		s := f.Sample()
		var p packet.Packet
		packet.Decode(&s, &p)
		assert.Equal(t, fmt.Sprint(len(f.Data)), rows[i]["frame.cap_len"], f.Name)
		if p.Reason != flow.ReasonAccounted {
			tsharkStopsToo(t, rows[i], &f, p.Reason)
			continue
		}
		compared++
		want := tsharkWords(&p)
		if why, stops := tsharkStops[f.Name]; stops {
			assert.False(t, hasAll(rows[i], tsharkTransport(&p)), "%s: tshark goes on, although it %s", f.Name, why)
		} else {
			maps.Copy(want, tsharkTransport(&p))
			assert.Equal(t, p.HeaderLen, tsharkHeaderLen(rows[i], hasTransport(&p)), "%s: %s", f.Name, rows[i]["frame.protocols"])
		}
		for field, word := range want {
			assert.Equal(t, word, rows[i][field], "%s: %s", f.Name, field)
		}
		offset := rows[i]["ip.frag_offset"] + rows[i]["ipv6.fraghdr.offset"] // one of them, or neither
		assert.Equal(t, p.Key.LaterFragment, offset != "" && offset != "0", "%s: offset %q", f.Name, offset)
	}
	assert.NotZero(t, compared)
}

// tsharkStopsToo wants what tshark says of a frame that is not accounted: no addresses if the IP header is not whole, else
// that something is missing behind it. Of half a header it tells what is there, which is how a tiny fragment gets past it.
func tsharkStopsToo(t *testing.T, row map[string]string, f *frames.Frame, reason flow.Reason) {
	switch reason {
	case flow.ReasonShortTransport, flow.ReasonShortIPv6Extension:
		assert.NotEmpty(t, row["_ws.malformed"]+row["_ws.unreassembled"], "%s: %s", f.Name, reason.Entry())
	default:
		assert.Empty(t, row["ip.src"]+row["ipv6.src"], "%s: %s", f.Name, reason.Entry())
	}
}

// tsharkHeaderLen adds up the headers that tshark sees, as far as we look: to the first transport header, if there is one
// for us, or to the first that is neither link nor IP.
func tsharkHeaderLen(row map[string]string, transport bool) (length uint32) {
	number := func(field string) uint32 {
		n, _ := strconv.ParseUint(row[field], 10, 32)
		return uint32(n)
	}
	ppp := number("pppoe.payload_length") - number("ip.len") // tells how long its protocol is: tshark has no word for that
	if row["ipv6.plen"] != "" {
		ppp -= 40 + number("ipv6.plen")
	}
	link := map[string]uint32{"eth": 14, "ethertype": 0, "ieee8021ad": 4, "vlan": 4, "raw": 0, "mpls": 4 * number(labels), "pppoes": 6, "ppp": ppp}
	ip := map[string]uint32{"ip": number("ip.hdr_len"), "ipv6": 40}
	extension := map[string]uint32{
		"ipv6.hopopts": number("ipv6.hopopts.len_oct"), "ipv6.routing": number("ipv6.routing.len_oct"), "ipv6.fraghdr": 8,
		"ipv6.dstopts": number("ipv6.dstopts.len_oct"), "ah": (number("ah.length") + 2) * 4, "shim6": number("shim6.len_oct"),
	}
	last := map[string]uint32{"tcp": number("tcp.hdr_len"), "udp": 8, "sctp": 12, "icmp": 8, "icmpv6": 8}
	version := ""
	for layer := range strings.SplitSeq(row["frame.protocols"], ":") {
		switch _, isIP := ip[layer]; {
		case version == "" && isIP:
			version = layer
			length += ip[layer]
		case version == "":
			length += link[layer]
		case version == "ipv6" && extension[layer] > 0:
			length += extension[layer]
		case transport:
			return length + last[layer]
		default:
			return length
		}
	}
	return length
}

// tsharkWords is what tshark should say of the tags and the IP header of p; "" of what should not be there.
func tsharkWords(p *packet.Packet) map[string]string {
	words := map[string]string{outermostVLAN: ""}
	if p.Key.Tagged {
		words[outermostVLAN] = fmt.Sprint(p.Key.VLAN)
	}
	octet := fmt.Sprint(p.DSCP<<2 | p.ECN)
	if p.Key.IPv6 {
		words["ipv6.src"], words["ipv6.dst"] = p.Key.Src().String(), p.Key.Dst().String()
		words["ipv6.tclass"], words["ipv6.hlim"] = octet, fmt.Sprint(p.TTL)
	} else {
		words["ip.src"], words["ip.dst"] = p.Key.Src().String(), p.Key.Dst().String()
		words["ip.dsfield"], words["ip.ttl"], words["ip.proto"] = octet, fmt.Sprint(p.TTL), fmt.Sprint(p.Key.Proto)
	}
	return words
}

// tsharkTransport is what it should say of the transport header. Of other protocols it may say more: it looks inside.
func tsharkTransport(p *packet.Packet) map[string]string {
	words := map[string]string{}
	ports := func(proto string) {
		words[proto+".srcport"], words[proto+".dstport"] = fmt.Sprint(p.Key.SrcPort), fmt.Sprint(p.Key.DstPort)
	}
	icmp := func(proto string) {
		words[proto+".type"], words[proto+".code"] = fmt.Sprint(p.ICMPType), fmt.Sprint(p.ICMPCode)
	}
	switch {
	case p.Key.LaterFragment:
		for _, field := range []string{"tcp.srcport", "udp.srcport", "sctp.srcport", "icmp.type", "icmpv6.type"} {
			words[field] = ""
		}
	case p.HasTCP:
		ports("tcp")
		words["tcp.flags"] = fmt.Sprint(p.TCPFlags)
		words["tcp.seq_raw"], words["tcp.ack_raw"] = fmt.Sprint(p.TCPSeq), fmt.Sprint(p.TCPAck)
		words["tcp.window_size_value"] = fmt.Sprint(p.TCPWindow)
	case p.HasICMP && p.Key.IPv6:
		icmp("icmpv6")
	case p.HasICMP:
		icmp("icmp")
	case p.Key.Proto == 17:
		ports("udp")
	case p.Key.Proto == 132:
		ports("sctp")
	}
	return words
}

func hasAll(row, words map[string]string) bool {
	for field, word := range words {
		if row[field] != word {
			return false
		}
	}
	return true
}

// tshark returns one row of fields for each frame of a capture file.
func tshark(t *testing.T, path string) []map[string]string {
	rows := make([]map[string]string, 0)
	for _, all := range testenv.Tshark(t, path, tsharkFields,
		"ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.relative_sequence_numbers:FALSE") {
		row := map[string]string{}
		for field, words := range all {
			row[field] = decimal(words[0])
		}
		if n := len(all["mpls.label"]); n > 0 {
			row[labels] = fmt.Sprint(n)
		}
		row[outermostVLAN] = cmp.Or(row["ieee8021ad.id"], row["vlan.id"]) // in the corpus, 802.1ad is always outside
		rows = append(rows, row)
	}
	return rows
}

// decimal writes a number in decimal digits, and leaves any other word alone.
func decimal(word string) string {
	if n, err := strconv.ParseUint(word, 0, 64); err == nil {
		return fmt.Sprint(n)
	}
	return word
}
