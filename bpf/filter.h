/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which packets the user does not want as flows. They are counted all the same, under a reason of their own. */
#pragma once

#include "config.h"
#include "transport.h"

static __always_inline bool has_ports(const struct packet *p)
{
	return !(p->bits & KEY_LATER_FRAGMENT) &&
	       (p->ip_proto == IPPROTO_TCP || p->ip_proto == IPPROTO_UDP || p->ip_proto == IPPROTO_SCTP);
}

static __always_inline bool same_endpoint(const volatile struct filter *f, const __u64 *addr, __u16 port)
{
	return (addr[0] & f->mask[0]) == f->addr[0] && (addr[1] & f->mask[1]) == f->addr[1] &&
	       (!(f->bits & FILTER_PORT) || port == f->port);
}

static __always_inline bool matches(const volatile struct filter *f, const struct packet *p)
{
	if (f->bits & (p->bits & KEY_IPV6 ? FILTER_IPV4 : FILTER_IPV6))
		return false;
	if (f->bits & FILTER_PROTOCOL && p->ip_proto != f->ip_proto)
		return false;
	if (f->bits & FILTER_PORT && !has_ports(p)) // their 0 is no port
		return false;
	return same_endpoint(f, p->src_addr, p->ports >> 16) || same_endpoint(f, p->dst_addr, p->ports);
}

static __always_inline bool filtered(const struct packet *p)
{
	for (__u32 i = 0; i < FILTERS_MAX && i < filter_count; i++)
		if (matches(&filters[i], p))
			return filters[i].bits & FILTER_SKIP;
	return false;
}
