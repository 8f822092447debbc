#!/usr/bin/env bash
# Makes the captures of this directory anew, all but linux.pcap, as root: tools that are not ours talk through network
# namespaces, tcpdump listens at the left one. Needs iproute2, iputils-ping, dnsutils, tcpdump, tshark, iperf3,
# nmap, tcpreplay, python3-scapy; dnsmasq-base, openssl and curl for conversations.
#
#   left 192.0.2.1, 2001:db8::1 -- router .2, ::2; 198.51.100.2, 2001:db8:1::2 -- right 198.51.100.1, 2001:db8:1::1
set -euo pipefail
cd "$(dirname "$0")"

left=capture-left router=capture-router right=capture-right
log=$(mktemp)
work=$(mktemp -d)
trap 'for ns in $left $router $right; do
	ip netns pids $ns 2>/dev/null | xargs -r kill
	ip netns del $ns 2>/dev/null || true
done; rm -rf "$log" "$work"' EXIT

in_left() { ip netns exec $left "$@"; }
in_router() { ip netns exec $router "$@"; }
in_right() { ip netns exec $right "$@"; }

# address NAMESPACE DEVICE IPv4 IPv6: without segmentation offload, so that what is captured is what crosses a wire.
address() {
	ip -n "$1" link set "$2" up gso_max_segs 1
	ip -n "$1" address add "$3/24" dev "$2"
	ip -n "$1" address add "$4/64" dev "$2" nodad
}

network() {
	for ns in $left $router $right; do
		ip netns add "$ns"
		ip -n "$ns" link set lo up
	done
	ip -n $left link add eth0 address 02:00:00:00:00:0a type veth peer name eth0 netns $router address 02:00:00:00:00:0b
	ip -n $right link add eth0 address 02:00:00:00:00:0c type veth peer name eth1 netns $router address 02:00:00:00:00:0d
	address $left eth0 192.0.2.1 2001:db8::1
	address $router eth0 192.0.2.2 2001:db8::2
	address $router eth1 198.51.100.2 2001:db8:1::2
	address $right eth0 198.51.100.1 2001:db8:1::1
	in_router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
		net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
	ip -n $left route add default via 192.0.2.2
	ip -n $left route add default via 2001:db8::2
	ip -n $right route add default via 198.51.100.2
	ip -n $right route add default via 2001:db8:1::2
	sleep 3 # until the first multicast reports are over
}

# capture FILE FILTER FUNCTION: what the function causes at left.
capture() {
	ip netns exec $left tcpdump -Z root -n -i eth0 -s 0 -U --immediate-mode -w "$1" "$2" 2>"$log" &
	local tcpdump=$!
	until grep -q 'listening on' "$log"; do sleep 0.1; done
	"$3" >/dev/null 2>&1 || true # many are refused: that is what they are for
	sleep 1
	kill -TERM $tcpdump
	wait $tcpdump
	echo "$1: $(tail -n 3 "$log" | head -n 1)"
}

server() {
	in_router timeout 10 iperf3 --server --one-off &
	sleep 0.5
}

tcp() {
	for to in 192.0.2.2 2001:db8::2; do
		server
		in_left iperf3 --client $to --length 200 --blockcount 3
		wait %%
	done
}

fragments() {
	in_left ping -c 1 -s 4000 192.0.2.2
	in_left ping -c 1 -s 4000 2001:db8::2
	for to in 192.0.2.2 2001:db8::2; do
		server
		in_left iperf3 --client $to --udp --length 4000 --blockcount 1
		wait %%
	done
}

# VXLAN over IPv4 and IPv6, segment routing: inserted into the packet, and around IPv6 and IPv4.
tunnels() {
	for v in 4 6; do
		local ends=(192.0.2.1 192.0.2.2)
		if [ $v = 6 ]; then ends=(2001:db8::1 2001:db8::2); fi
		ip -n $left link add vx$v type vxlan id 7$v local "${ends[0]}" remote "${ends[1]}" dstport 4789
		ip -n $router link add vx$v type vxlan id 7$v local "${ends[1]}" remote "${ends[0]}" dstport 4789
		ip -n $left address add 203.0.113.1$v/31 dev vx$v
		ip -n $router address add 203.0.113.$((10 + (v ^ 1)))/31 dev vx$v
		ip -n $left link set vx$v up
		ip -n $router link set vx$v up
		in_left ping -c 1 203.0.113.$((10 + (v ^ 1)))
		ip -n $left link del vx$v
		ip -n $router link del vx$v
	done
	ip -n $left route add 2001:db8:a::/64 encap seg6 mode inline segs 2001:db8::2 dev eth0
	ip -n $left route add 2001:db8:b::/64 encap seg6 mode encap segs 2001:db8::2 dev eth0
	ip -n $left route add 203.0.113.128/25 encap seg6 mode encap segs 2001:db8::2 dev eth0
	in_left ping -c 1 -W 1 2001:db8:a::1
	in_left ping -c 1 -W 1 2001:db8:b::1
	in_left ping -c 1 -W 1 203.0.113.129
}

# Of a router: time exceeded, no neighbour, prohibited, no route, too big; of a host: port unreachable, reset.
errors() {
	ip -n $router route add prohibit 203.0.113.1
	ip -n $router route add prohibit 2001:db8:f::1
	ip -n $router link set eth1 mtu 1300
	for to in "-t 1 198.51.100.1" "198.51.100.99" "203.0.113.1" "203.0.113.2" "-M do -s 1400 198.51.100.1" \
		"-t 1 2001:db8:1::1" "2001:db8:1::99" "2001:db8:f::1" "2001:db8:f::2" "-M do -s 1400 2001:db8:1::1"; do
		# shellcheck disable=SC2086 # options and address
		in_left ping -c 1 -W 4 $to
	done
	for to in 198.51.100.1 2001:db8:1::1; do
		in_left iperf3 --client $to
		in_left dig +tries=1 +timeout=1 @$to example.com
	done
}

scan() { in_left nmap -n -Pn -T5 --max-retries 0 --host-timeout 20s "$@" || true; }

scans() {
	for v in -4 -6; do
		local to=198.51.100.1
		if [ $v = -6 ]; then to=2001:db8:1::1; fi
		for kind in -sS -sF -sX -sN -sA -sU -sY; do
			scan $v $kind -p 21-23,53 $to
		done
		scan $v -sO -p 0,1,2,4,6,17,41,43,44,46,47,50,51,58-60,89,103,112,132,135,139,140,255 $to
	done
	scan -sS -f -p 80 198.51.100.1 # fragments of 8 bytes
	for options in R T 'L 192.0.2.2'; do
		scan -sS --ip-options "$options" -p 80 198.51.100.1
	done
	scan -sS --badsum --data-length 40 -p 80 198.51.100.1
}

# Group membership, and what is sent to groups.
multicast() {
	for version in 1 2 3; do
		in_left sysctl -qw net.ipv4.conf.eth0.force_igmp_version=$version
		ip -n $left address add 233.252.0.$version/32 dev eth0 autojoin
		sleep 1
		ip -n $left address del 233.252.0.$version/32 dev eth0
	done
	for version in 1 2; do
		in_left sysctl -qw net.ipv6.conf.eth0.force_mld_version=$version
		ip -n $left address add ff0e::db8:0:$version/128 dev eth0 autojoin
		sleep 1
		ip -n $left address del ff0e::db8:0:$version/128 dev eth0
	done
	in_left ping -c 1 -W 1 -I eth0 224.0.0.1
	in_left ping -c 1 -W 1 -I eth0 233.252.0.9
	in_left ping -c 1 -W 1 -I eth0 ff02::1
	in_left ping -c 1 -W 1 -I eth0 ff0e::db8:0:9
}

# What conversations need at right: a resolver, with a name that has more addresses than a datagram without EDNS holds; servers of TLS with a
# certificate, a key share that clients do not offer first, and a suite that Go does not know; pages.
conversation_servers() {
	for n in {1..40}; do echo "203.0.113.$n many.example.com"; done >"$work/hosts"
	in_right dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --addn-hosts="$work/hosts" --local=/example.com/ \
		--host-record=www.example.com,203.0.113.80,2001:db8:2::80 --cname=alias.example.com,www.example.com \
		--mx-host=example.com,mail.example.com --user=root --pid-file= &
	for kind in 'ec -pkeyopt ec_paramgen_curve:P-256' rsa:2048; do
		# shellcheck disable=SC2086 # options
		openssl req -x509 -newkey $kind -nodes -subj /CN=example.com -keyout "$work/${kind::2}.key" -out "$work/${kind::2}.pem"
	done
	serve_tls() { in_right openssl s_server -quiet -key "$work/$1.key" -cert "$work/$1.pem" "${@:2}" </dev/null & }
	serve_tls ec -accept '[2001:db8:1::1]:443' -alpn h2,http/1.1
	serve_tls ec -accept 198.51.100.1:443 -groups P-384
	serve_tls rs -accept 198.51.100.3:443 -tls1_2 -cipher DHE-RSA-AES256-GCM-SHA384 -alpn http/1.1 -no_ticket
	in_right /usr/bin/python3 -c '
import http.server, socket, time
class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(0.03 if "slow" in self.path else 0)
        body = b"page\n" * (300 if self.path == "/long" else 1)
        self.send_response({"/missing": 404, "/same": 304}.get(self.path, 200))
        if self.path == "/long":
            self.send_header("X-Long", "x" * 300)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"5\r\npage\n\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and self.path != "/same":
            self.wfile.write(body)
    do_HEAD = do_POST = do_GET
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("", 80), Pages).serve_forever()' &
	sleep 2
}

# connect ADDRESS OPTION...: a handshake.
connect() { in_left timeout 1 openssl s_client -connect "$@" -servername www.example.com </dev/null; }

# DNS over UDP and TCP, TLS with a retry and sessions that are taken up, HTTP with connections that are used again, and with requests
# that do not wait for their answers. Over IPv6 in segments of 300 bytes at most: hellos, heads and answers are split.
conversations() {
	for over in +notcp +tcp; do
		for to in 198.51.100.1 2001:db8:1::1; do
			in_left dig @$to $over +tries=1 www.example.com A
			in_left dig @$to $over +tries=1 alias.example.com AAAA
			in_left dig @$to $over +tries=1 +noedns many.example.com A # over UDP truncated, and asked again over TCP
			in_left dig @$to $over +tries=1 missing.example.com A
			in_left dig @$to $over +tries=1 +keepopen example.com MX www.example.org A
		done
	done
	for session in -sess_out -sess_in; do
		connect '[2001:db8:1::1]:443' -alpn h2,http/1.1 $session "$work/session"
	done
	connect 198.51.100.1:443 -groups X25519:P-384
	for session in -sess_out -sess_in; do
		connect 198.51.100.3:443 -tls1_2 -alpn http/1.1 $session "$work/session"
	done
	for to in 198.51.100.1 '[2001:db8:1::1]'; do
		in_left curl -A "$(printf 'agent/%d ' {1..30})" "http://$to/" "http://$to/slow?a=b" "http://$to/long" "http://$to/missing"
		in_left curl -u user:password -H 'Content-Type: application/json' -d '{"a": 1}' "http://$to/things" --next -I "http://$to/long" \
			--next "http://$to/same" --next "http://$to/chunked" --next "http://$to/a"
	done
	# shellcheck disable=SC2016 # the inner shell's
	in_left bash -c 'exec 3<>/dev/tcp/198.51.100.1/80
		printf "GET /%s HTTP/1.1\r\nHost: www.example.com\r\n\r\n" 1 slow 3 | cat >&3
		timeout 1 cat <&3'
}

network
capture tcp.pcap 'tcp' tcp
capture fragments.pcap 'udp or icmp or ip[6:2] & 0x1fff != 0 or ip6 proto 44' fragments
capture tunnels.pcap 'udp port 4789 or ip6 proto 43' tunnels
capture errors.pcap 'ip or ip6' errors
capture scans.pcap 'ip host 198.51.100.1 or ip6 host 2001:db8:1::1 or icmp' scans
capture multicast.pcap 'ip multicast or ip6 multicast or igmp' multicast

ip -n $right address add 198.51.100.3/24 dev eth0
ip -n $left route change default via 2001:db8::2 advmss 300
ip -n $right route change default via 2001:db8:1::2 advmss 300
conversation_servers >/dev/null 2>&1
capture messages/conversations.pcap 'tcp or udp' conversations

# Made of captures, again by tools that are not ours: tags, and a device without link header.
tag() { tcprewrite --enet-vlan=add --enet-vlan-tag="$1" --enet-vlan-pri="$2" --enet-vlan-cfi=0 --enet-vlan-proto="$3" -i "$4" -o "$5"; }
tag 100 3 802.1q tcp.pcap vlan.pcap
tag 100 0 802.1q errors.pcap "$log"
tag 200 5 802.1ad "$log" qinq.pcap
editcap -F pcap -C 14 -T rawip errors.pcap raw.pcap

# Made of tcp.pcap as well, by scapy: this kernel has neither MPLS routing nor PPP.
/usr/bin/python3 - <<'EOF'
from scapy.all import Ether, IP, PPP, PPPoE, PPPoED, PPP_LCP, Raw, rdpcap, wrpcap
from scapy.contrib.mpls import EoMCW, MPLS

def between(packet, headers):
    """packet with headers between its Ethernet and its IP header"""
    made = Ether(src=packet.src, dst=packet.dst)
    for header in headers:
        made /= header
    return made / packet.payload

def save(name, packets):
    for n, packet in enumerate(packets):
        packet.time = tcp[0].time + n / 1000
    wrpcap(name, packets, linktype=1)

tcp = rdpcap("tcp.pcap")

labels = [
    between(packet, [MPLS(label=16 + i, s=0, ttl=64) for i in range(n % 4)] + [MPLS(label=100, s=1, ttl=64)])
    for n, packet in enumerate(tcp)
]
ethernet = Ether(src=tcp[0].src, dst=tcp[0].dst)
labels += [
    ethernet / MPLS(label=200, s=1, ttl=64) / EoMCW() / tcp[0], # a pseudowire
    ethernet / MPLS(label=201, s=1, ttl=64) / tcp[0], # a pseudowire without control word
]
save("mpls.pcap", labels)

session = PPPoE(sessionid=0x17)
ppp = [
    ethernet / PPPoED(code=0x09) / Raw(bytes(4)), # who offers a session?
    ethernet / session / PPP(proto=0xC021) / PPP_LCP(code=9, id=1, data=bytes(4)),
]
for n, packet in enumerate(tcp):
    proto = 0x21 if IP in packet else 0x57
    compressed = n % 3 == 2 # the protocol field
    ppp.append(between(packet, [session, Raw(bytes([proto])) if compressed else PPP(proto=proto)]))
save("pppoe.pcap", ppp)
EOF
