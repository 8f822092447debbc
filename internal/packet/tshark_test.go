// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
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
	"ieee8021ad.id", "ieee8021ad.svid", "ieee8021ad.cvid", "vlan.id",
	"ip.src", "ip.dst", "ip.dsfield", "ip.ttl", "ip.proto", "ip.frag_offset",
	"ipv6.src", "ipv6.dst", "ipv6.tclass", "ipv6.hlim", "ipv6.fraghdr.offset",
	"tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.window_size_value",
	"udp.srcport", "udp.dstport", "sctp.srcport", "sctp.dstport",
	"icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code",
	"mpls.label", "pppoe.payload_length", "ip.len", "ipv6.plen",
	"frame.cap_len", "frame.protocols", "ip.hdr_len", "tcp.hdr_len", "ah.length",
	"ipv6.hopopts.len_oct", "ipv6.routing.len_oct", "ipv6.dstopts.len_oct", "shim6.len_oct",
	"geneve.option.length", "gre.flags.checksum", "gre.flags.key", "gre.flags.sequence_number",
	"_ws.malformed", "_ws.unreassembled",
}

// Our own words, for what tshark has several fields for, or none.
const (
	outermostVLAN = "outermost tag"
	labels        = "number of labels"
	headerLength  = "length of headers"
	later         = "later fragment"
	notRead       = "not read"
	carriesPacket = "carries a packet"
)

// TestTsharkAgrees asks about every frame of the corpus and of the captures. In a tunnel there are two packets to ask about.
func TestTsharkAgrees(t *testing.T) {
	withTshark(t, tsharkAgrees)
}

// withTshark calls agrees for the file at path and all its frames: of the corpus, without and with link header, and of each
// capture; again for the packets inside of tunnels.
func withTshark(t *testing.T, agrees func(t *testing.T, path string, all []frames.Frame)) {
	t.Helper()
	testenv.Tool(t, "tshark")
	for _, l3 := range []bool{false, true} {
		all := slices.DeleteFunc(corpus(), func(f frames.Frame) bool { return f.L3 != l3 })
		path := filepath.Join(t.TempDir(), "corpus.pcap")
		require.NoError(t, frames.WritePcap(path, all))
		t.Run(fmt.Sprintf("corpus, without link header %t", l3), func(t *testing.T) { outsideAndInside(t, path, all, agrees) })
	}
	files, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			outsideAndInside(t, path, capture(t, path), agrees)
		})
	}
}

// outsideAndInside calls agrees twice: for the packets that a device sees, and for those that tunnels carry.
func outsideAndInside(t *testing.T, path string, all []frames.Frame, agrees func(t *testing.T, path string, all []frames.Frame)) {
	for _, inside := range []bool{false, true} {
		for i := range all {
			all[i].Inside = inside
		}
		agrees(t, path, all)
	}
}

// tsharkAgrees compares what Decode and tshark say of all, the frames of the file at path.
func tsharkAgrees(t *testing.T, path string, all []frames.Frame) {
	t.Helper()
	rows := tshark(t, path, tsharkFields)
	require.Len(t, rows, len(all))
	compared := 0
	for i, f := range all {
		s := f.Sample()
		var p packet.Packet
		packet.Decode(&s, &p)
		assert.Equal(t, []string{fmt.Sprint(s.WireLen)}, rows[i]["frame.cap_len"], f.Name)
		want, got := tsharkWords(&p), rows[i].words(&p)
		if p.Reason == flow.ReasonAccounted {
			compared++
			want[headerLength] = fmt.Sprint(p.HeaderLen + s.WireLen - uint32(len(s.Data))) // with an offloaded tag
		}
		if f.Inside && p.Reason == flow.ReasonAccounted {
			want[carriesPacket], got[carriesPacket] = fmt.Sprint(p.Key.Tunnel.Kind != 0), fmt.Sprint(rows[i].carriesPacket())
		}
		for field, word := range want {
			same(t, nameOf(&f, &p.Key), bracketed(field)[0], got[field], word)
		}
	}
	assert.NotZero(t, compared)
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

// tsharkWords is what tshark should say of p; "" of what should not be there.
func tsharkWords(p *packet.Packet) map[string]string {
	if p.Reason != flow.ReasonAccounted {
		return map[string]string{notRead: "true"}
	}
	words := tsharkTransport(p)
	words[later] = fmt.Sprint(p.Key.LaterFragment)
	if words[outermostVLAN] = ""; p.Key.Tagged {
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

// tsharkSays is a row of fields, each with all of its values in the order of the frame.
type tsharkSays map[string][]string

// tshark returns what it says of each frame of a capture file, each on its own.
func tshark(t *testing.T, path string, fields []string) (rows []tsharkSays) {
	t.Helper()
	for _, all := range testenv.Tshark(t, path, fields, "ip.defragment:FALSE", "ipv6.defragment:FALSE",
		"tcp.desegment_tcp_streams:FALSE", "tcp.relative_sequence_numbers:FALSE") {
		row := tsharkSays(all)
		for _, words := range row {
			for i, word := range words {
				words[i] = decimal(word)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// words is what r says in our words, of the packet inside if p is in a tunnel.
func (r tsharkSays) words(p *packet.Packet) map[string]string {
	inner := r.inside(&p.Key.Tunnel)
	row := inner.firsts()
	length := r.outsideLen(&p.Key.Tunnel) + tsharkHeaderLen(row, hasTransport(p))
	row[headerLength] = fmt.Sprint(length)
	offset := row["ip.frag_offset"]
	if p.Key.IPv6 {
		offset = ""
		if slices.Contains(inner.extensions(), "44") { // and not in a quote
			offset = row["ipv6.fraghdr.offset"]
		}
	}
	row[later] = fmt.Sprint(offset != "" && offset != "0")
	row[notRead] = fmt.Sprint(reads(row, p.Reason))
	return row
}

// reads reports whether tshark finds no packet either: none with addresses if the IP header is not whole, else that something
// is missing. Of half a header it tells what is there, which is how a tiny fragment gets past it.
func reads(row map[string]string, reason flow.Reason) bool {
	missing := row["_ws.malformed"]+row["_ws.unreassembled"] != ""
	if reason == flow.ReasonShortTransport || reason == flow.ReasonShortIPv6Extension {
		return missing
	}
	return row["ip.src"]+row["ipv6.src"] == "" || reason.Short() && missing
}

// firsts is the first value of each field.
func (r tsharkSays) firsts() map[string]string {
	row := map[string]string{}
	for field, words := range r {
		if len(words) > 0 {
			row[field] = words[0]
		}
	}
	if n := len(r["mpls.label"]); n > 0 {
		row[labels] = fmt.Sprint(n)
	}
	if ids := r.tags("id"); len(ids) > 0 {
		row[outermostVLAN] = ids[0]
	}
	return row
}

// tags are the values of a field of all tags that a frame begins with. Of two 802.1ad tags in a row tshark makes one layer.
func (r tsharkSays) tags(field string) (values []string) {
	left := map[string][]string{"vlan": r["vlan."+field], "ieee8021ad": r["ieee8021ad."+field]}
	if field == "id" {
		left["ieee8021ad"] = slices.Concat(r["ieee8021ad.svid"], r["ieee8021ad.cvid"], r["ieee8021ad.id"])
	}
	for l := range strings.SplitSeq(r.protocols(), ":") {
		switch {
		case len(left[l]) > 0:
			n := 1
			if l == "ieee8021ad" {
				n += len(r["ieee8021ad.cvid"])
			}
			values, left[l] = append(values, left[l][:n]...), left[l][n:]
		case l != "eth" && l != "ethertype" && l != "vlan" && l != "ieee8021ad":
			return values
		}
	}
	return values
}

func isIP(layer string) bool { return layer == "ip" || layer == "ipv6" }

// tsharkTunnels are the layers that end where the packet inside begins. IP in IP has none.
var tsharkTunnels = map[flow.TunnelKind]string{flow.TunnelVXLAN: "vxlan", flow.TunnelGeneve: "geneve", flow.TunnelGRE: "gre"}

// within says at which layer the packet inside of a tunnel begins.
func (r tsharkSays) within(t *flow.Tunnel) (layers []string, at int) {
	layers = strings.Split(r.protocols(), ":")
	at = slices.IndexFunc(layers, isIP) + 1
	if header := tsharkTunnels[t.Kind]; header != "" {
		return layers, at + slices.Index(layers[at:], header) + 1
	}
	return layers, at + slices.IndexFunc(layers[at:], isIP)
}

// carriesPacket reports whether there is an IP header behind the first, in nothing but a tunnel.
func (r tsharkSays) carriesPacket() bool {
	layers := strings.Split(r.protocols(), ":")
	for _, layer := range layers[slices.IndexFunc(layers, isIP)+1:] {
		if isIP(layer) {
			return true
		}
		_, extension := tsharkExtensions[layer]
		if !extension && !slices.Contains([]string{"udp", "vxlan", "geneve", "gre", "eth", "ethertype", "vlan", "ieee8021ad"}, layer) {
			return false
		}
	}
	return false
}

func (r tsharkSays) protocols() string {
	if len(r["frame.protocols"]) == 0 { // of a frame without bytes
		return ""
	}
	return r["frame.protocols"][0]
}

// inside is r without the headers outside of tunnel t, if there is one.
func (r tsharkSays) inside(t *flow.Tunnel) tsharkSays {
	if t.Kind == 0 {
		return r
	}
	inner := maps.Clone(r)
	layers, at := r.within(t)
	for _, layer := range layers[:at] {
		for field := range r {
			if belongs(field, layer) && len(inner[field]) > 0 {
				inner[field] = inner[field][1:]
			}
		}
	}
	inner["frame.protocols"] = []string{strings.Join(layers[at:], ":")}
	return inner
}

// belongs reports whether a field is one of this layer, and not of an extension header, which is a layer of its own.
func belongs(field, layer string) bool {
	for extension := range tsharkExtensions {
		if strings.HasPrefix(field, extension+".") {
			return layer == extension
		}
	}
	return strings.HasPrefix(field, layer+".")
}

// outsideLen adds up the headers outside of tunnel t, if there is one.
func (r tsharkSays) outsideLen(t *flow.Tunnel) (length uint32) {
	if t.Kind == 0 {
		return 0
	}
	layers, at := r.within(t)
	outer := maps.Clone(r)
	outer["frame.protocols"] = []string{strings.Join(layers[:at], ":")}
	isUDP := t.Kind == flow.TunnelVXLAN || t.Kind == flow.TunnelGeneve
	length = tsharkHeaderLen(outer.firsts(), isUDP)
	switch t.Kind {
	case flow.TunnelVXLAN:
		length += 8
	case flow.TunnelGeneve:
		length += 8
		if options := r["geneve.option.length"]; len(options) > 0 {
			n, _ := strconv.ParseUint(options[0], 10, 32) // of all; then of each
			length += uint32(n)
		}
	case flow.TunnelGRE:
		length += 4
		for _, field := range []string{"gre.flags.checksum", "gre.flags.key", "gre.flags.sequence_number"} {
			if r.first(field, "1") {
				length += 4
			}
		}
	}
	return length
}

// decimal writes a number in decimal digits, and leaves any other word alone.
func decimal(word string) string {
	if n, err := strconv.ParseUint(word, 0, 64); err == nil {
		return fmt.Sprint(n)
	}
	return word
}
