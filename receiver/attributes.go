// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"strconv"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Every attribute name that leaves this receiver.
const (
	attrClientAddress      = "client.address"
	attrClientPort         = "client.port"
	attrDestinationAddress = "destination.address"
	attrDestinationPort    = "destination.port"
	attrInterfaceName      = "network.interface.name"
	attrIODirection        = "network.io.direction"
	attrMetricOverflow     = "otel.metric.overflow"
	attrNamespaceName      = "network.namespace.name"
	attrServerAddress      = "server.address"
	attrServerPort         = "server.port"
	attrSourceAddress      = "source.address"
	attrSourcePort         = "source.port"
	attrTransport          = "network.transport"
	attrType               = "network.type"

	attrDestinationCIDR    = "destination.cidr"
	attrSourceCIDR         = "source.cidr"
	attrFlowEnd            = "flow.end"
	attrFlowEndReason      = "flow.end_reason"
	attrFlowIOBytes        = "flow.io.bytes"
	attrFlowIOPackets      = "flow.io.packets"
	attrFlowReverseBytes   = "flow.reverse.io.bytes"
	attrFlowReversePackets = "flow.reverse.io.packets"
	attrFlowStart          = "flow.start"
	attrFlowTCPFlags       = "flow.tcp_flags"

	attrFlowCommunityID                  = "flow.community_id"
	attrFlowConnectionStart              = "flow.connection.start"
	attrFlowICMPCode                     = "flow.icmp.code"
	attrFlowICMPType                     = "flow.icmp.type"
	attrFlowInitiatorMethod              = "flow.initiator.method"
	attrFlowLaterFragments               = "flow.later_fragments"
	attrFlowReverseDirection             = "flow.reverse.io.direction"
	attrFlowReverseInterface             = "flow.reverse.interface.name"
	attrFlowReverseTCPFlags              = "flow.reverse.tcp_flags"
	attrFlowReverseTunnelID              = "flow.reverse.tunnel.id"
	attrFlowReverseVLANID                = "flow.reverse.vlan.id"
	attrPacketARPOperation               = "packet.arp.operation"
	attrPacketARPSenderAddress           = "packet.arp.sender.address"
	attrPacketARPSenderMAC               = "packet.arp.sender.mac"
	attrPacketARPTargetAddress           = "packet.arp.target.address"
	attrPacketARPTargetMAC               = "packet.arp.target.mac"
	attrPacketCaptured                   = "packet.captured_length"
	attrPacketData                       = "packet.data"
	attrPacketEthernetDestination        = "packet.ethernet.destination"
	attrPacketEthernetSource             = "packet.ethernet.source"
	attrPacketEtherType                  = "packet.ethertype"
	attrPacketICMPCode                   = "packet.icmp.code"
	attrPacketICMPDestination            = "packet.icmp.destination.address"
	attrPacketICMPID                     = "packet.icmp.id"
	attrPacketICMPLinkLayer              = "packet.icmp.link_layer_address"
	attrPacketICMPMTU                    = "packet.icmp.mtu"
	attrPacketICMPSequence               = "packet.icmp.sequence"
	attrPacketICMPTarget                 = "packet.icmp.target.address"
	attrPacketICMPType                   = "packet.icmp.type"
	attrPacketIGMPType                   = "packet.igmp.type"
	attrPacketInnerDestinationAddress    = "packet.inner.destination.address"
	attrPacketInnerDestinationPort       = "packet.inner.destination.port"
	attrPacketInnerSourceAddress         = "packet.inner.source.address"
	attrPacketInnerSourcePort            = "packet.inner.source.port"
	attrPacketInnerTransport             = "packet.inner.transport"
	attrPacketDontFragment               = "packet.ip.dont_fragment"
	attrPacketDSCP                       = "packet.ip.dscp"
	attrPacketECN                        = "packet.ip.ecn"
	attrPacketIPExtensions               = "packet.ip.extensions"
	attrPacketFlowLabel                  = "packet.ip.flow_label"
	attrPacketFragmentMore               = "packet.ip.fragment.more"
	attrPacketFragmentOffset             = "packet.ip.fragment.offset"
	attrPacketIPID                       = "packet.ip.id"
	attrPacketIPOptions                  = "packet.ip.options"
	attrPacketTTL                        = "packet.ip.ttl"
	attrPacketLedgerEntry                = "packet.ledger_entry"
	attrPacketLength                     = "packet.length"
	attrPacketMPLSLabels                 = "packet.mpls.labels"
	attrPacketMulticastGroups            = "packet.multicast.groups"
	attrPacketPayloadLength              = "packet.payload_length"
	attrPacketQuotedDestinationAddress   = "packet.quoted.destination.address"
	attrPacketQuotedDestinationPort      = "packet.quoted.destination.port"
	attrPacketQuotedSourceAddress        = "packet.quoted.source.address"
	attrPacketQuotedSourcePort           = "packet.quoted.source.port"
	attrPacketQuotedTransport            = "packet.quoted.transport"
	attrPacketFirstNumber                = "packet.sampling.first_number"
	attrPacketFlowOneIn                  = "packet.sampling.flow_one_in"
	attrPacketFlowPool                   = "packet.sampling.flow_pool"
	attrPacketOneIn                      = "packet.sampling.one_in"
	attrPacketPool                       = "packet.sampling.pool"
	attrPacketReasons                    = "packet.sampling.reasons"
	attrPacketSCTPChunks                 = "packet.sctp.chunks"
	attrPacketSCTPTag                    = "packet.sctp.verification_tag"
	attrPacketSegments                   = "packet.segments"
	attrPacketTCPAcknowledge             = "packet.tcp.acknowledgement"
	attrPacketTCPFlags                   = "packet.tcp.flags"
	attrPacketTCPMSS                     = "packet.tcp.mss"
	attrPacketTCPSACK                    = "packet.tcp.sack_blocks"
	attrPacketTCPSACKPermitted           = "packet.tcp.sack_permitted"
	attrPacketTCPSequence                = "packet.tcp.sequence"
	attrPacketTCPTimestamp               = "packet.tcp.timestamp"
	attrPacketTCPTimestampEcho           = "packet.tcp.timestamp_echo"
	attrPacketTCPUrgent                  = "packet.tcp.urgent"
	attrPacketTCPWindow                  = "packet.tcp.window"
	attrPacketTCPWindowScale             = "packet.tcp.window_scale"
	attrPacketTunnelID                   = "packet.tunnel.id"
	attrPacketTunnelType                 = "packet.tunnel.type"
	attrPacketVLANIDs                    = "packet.vlan.ids"
	attrPacketVLANPriority               = "packet.vlan.priority"
	attrVLANID                           = "network.vlan.id"
	attrFlowEthernetDestination          = "flow.ethernet.destination"
	attrFlowEthernetSource               = "flow.ethernet.source"
	attrFlowICMPErrorTimeExceeded        = "flow.icmp_errors.time_exceeded"
	attrFlowICMPErrorTooBig              = "flow.icmp_errors.too_big"
	attrFlowICMPErrorUnreachable         = "flow.icmp_errors.unreachable"
	attrFlowIPCEPackets                  = "flow.ip.ce_packets"
	attrFlowIPDSCP                       = "flow.ip.dscp"
	attrFlowIPDSCPVaries                 = "flow.ip.dscp_varies"
	attrFlowIPLabel                      = "flow.ip.flow_label"
	attrFlowIPTTLMax                     = "flow.ip.ttl.max"
	attrFlowIPTTLMin                     = "flow.ip.ttl.min"
	attrFlowReverseICMPErrorTimeExceeded = "flow.reverse.icmp_errors.time_exceeded"
	attrFlowReverseICMPErrorTooBig       = "flow.reverse.icmp_errors.too_big"
	attrFlowReverseICMPErrorUnreachable  = "flow.reverse.icmp_errors.unreachable"
	attrFlowReverseIPCEPackets           = "flow.reverse.ip.ce_packets"
	attrFlowReverseIPDSCP                = "flow.reverse.ip.dscp"
	attrFlowReverseIPDSCPVaries          = "flow.reverse.ip.dscp_varies"
	attrFlowReverseIPLabel               = "flow.reverse.ip.flow_label"
	attrFlowReverseIPTTLMax              = "flow.reverse.ip.ttl.max"
	attrFlowReverseIPTTLMin              = "flow.reverse.ip.ttl.min"
	attrTunnelDestinationAddress         = "network.tunnel.destination.address"
	attrTunnelID                         = "network.tunnel.id"
	attrTunnelSourceAddress              = "network.tunnel.source.address"
	attrTunnelType                       = "network.tunnel.type"
	attrProtocolName                     = "network.protocol.name"
	attrProtocolVersion                  = "network.protocol.version"
	attrErrorType                        = "error.type"
	attrDNSQuestionName                  = "dns.question.name"
	attrDNSAnswers                       = "dns.answers"
	attrTLSProtocolName                  = "tls.protocol.name"
	attrTLSProtocolVersion               = "tls.protocol.version"
	attrTLSCipher                        = "tls.cipher"
	attrTLSResumed                       = "tls.resumed"
	attrTLSNextProtocol                  = "tls.next_protocol"
	attrTLSJA3                           = "tls.client.ja3"
	attrHTTPMethod                       = "http.request.method"
	attrHTTPStatus                       = "http.response.status_code"
	attrHTTPRequestSize                  = "http.request.body.size"
	attrHTTPResponseSize                 = "http.response.body.size"
	attrHTTPRequestContentType           = "http.request.header.content-type"
	attrHTTPResponseContentType          = "http.response.header.content-type"
	attrURLPath                          = "url.path"
	attrUserAgent                        = "user_agent.original"
	attrRPCSystem                        = "rpc.system.name"
	attrMessageType                      = "packet.message.type"
	attrMessageResponseTime              = "packet.message.response_time"
	attrMessageCut                       = "packet.message.cut"
	attrDNSID                            = "packet.dns.id"
	attrDNSQuestionType                  = "packet.dns.question.type"
	attrDNSQuestionClass                 = "packet.dns.question.class"
	attrDNSResponseCode                  = "packet.dns.response_code"
	attrDNSTruncated                     = "packet.dns.truncated"
	attrDNSAnswerCount                   = "packet.dns.answer_count"
	attrTLSALPN                          = "packet.tls.alpn"
	attrTLSVersions                      = "packet.tls.versions"
	attrTLSJA4                           = "packet.tls.client.ja4"
	attrTLSRetryRequest                  = "packet.tls.retry_request"
	attrHTTPAuthScheme                   = "packet.http.authorization.scheme"
	attrHTTPAPIKey                       = "packet.http.api_key"
	attrHTTPTraceState                   = "packet.http.tracestate"
	attrFlowServerName                   = "flow.server.name"
)

// nameKind is what a name belongs to.
type nameKind uint8

const (
	kindMetric nameKind = iota + 1
	kindEvent
	kindAttribute
)

// IANA protocol numbers of the protocols with ports.
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// transportNames holds the value of network.transport by protocol number: the IANA keyword in lower case, or the number.
var transportNames = func() (names [256]string) {
	for p := range names {
		names[p] = strconv.Itoa(p)
	}
	for p, keyword := range map[uint8]string{
		0: "hopopt", 1: "icmp", 2: "igmp", 3: "ggp", 4: "ipv4", 5: "st", protoTCP: "tcp", 7: "cbt", 8: "egp", 9: "igp",
		protoUDP: "udp", 27: "rdp", 33: "dccp", 41: "ipv6", 43: "ipv6-route", 44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp",
		51: "ah", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 88: "eigrp", 89: "ospfigp", 97: "etherip", 98: "encap",
		103: "pim", 108: "ipcomp", 112: "vrrp", 113: "pgm", 115: "l2tp", 124: "isis over ipv4", protoSCTP: "sctp", 133: "fc",
		135: "mobility header", 136: "udplite", 137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp",
		142: "rohc", 143: "ethernet",
	} {
		names[p] = keyword
	}
	return names
}()

func typeName(ipv6 bool) string {
	if ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

// directionName is the interface's view: what came in through the hook was received.
func directionName(d flow.Direction) string {
	if d == flow.DirectionEgress {
		return "transmit"
	}
	return "receive"
}

// The names of the log events.
const (
	eventFlow   = "network.flow"
	eventPacket = "network.packet"
)
