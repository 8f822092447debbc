// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"go.opentelemetry.io/collector/confmap"

	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// FilterConfig says what becomes of packets, in the kernel. The first filter that matches decides; what none matches is
// counted. It matches if one endpoint of the packet, source or destination, has both the address and the port.
type FilterConfig struct {
	// Action is skip (the ledger's entry filtered: no flow, no metric, no sample) or count.
	Action string `mapstructure:"action"`
	// CIDR is an address with its prefix length; empty: every address. One of IPv4 never matches IPv6, nor the reverse.
	CIDR string `mapstructure:"cidr"`
	// Port of TCP, UDP or SCTP; absent: every port, and packets that have none.
	Port *int `mapstructure:"port"`
	// Protocol is an IANA keyword in lower case, as in network.transport, or a number; empty: every protocol.
	Protocol string `mapstructure:"protocol"`

	_ struct{}
}

// The values of action.
const (
	filterSkip  = "skip"
	filterCount = "count"
)

// Unmarshal also takes a protocol that YAML reads as a number.
func (c *FilterConfig) Unmarshal(conf *confmap.Conf) error {
	const key = "protocol"
	if n, ok := conf.Get(key).(int); ok {
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{key: strconv.Itoa(n)})); err != nil {
			return fmt.Errorf("read %s %d: %w", key, n, err)
		}
	}
	return conf.Unmarshal(c)
}

func (c *Config) validateFilters() error {
	_, err := c.kernelFilters()
	return err
}

// kernelFilters returns the filters as the kernel takes them.
func (c *Config) kernelFilters() ([]kernel.Filter, error) {
	if len(c.Filters) > kernel.MaxFilters {
		return nil, fmt.Errorf("filters must be at most %d, got %d", kernel.MaxFilters, len(c.Filters))
	}
	var filters []kernel.Filter
	var errs error
	for i := range c.Filters {
		f, err := c.Filters[i].kernelFilter()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("filters[%d].%w", i, err)) // it begins with the key
		}
		filters = append(filters, f)
	}
	return filters, errs
}

func (c *FilterConfig) kernelFilter() (f kernel.Filter, err error) {
	switch c.Action {
	case filterSkip, filterCount:
		f.Skip = c.Action == filterSkip
	default:
		return f, fmt.Errorf("action must be %s or %s, got %q", filterSkip, filterCount, c.Action)
	}
	if c.CIDR != "" {
		if f.Prefix, err = parsePrefix(c.CIDR); err != nil {
			return f, err
		}
	}
	if f.Protocol, err = parseProtocol(c.Protocol); err != nil {
		return f, err
	}
	if c.Port == nil {
		return f, nil
	}
	if *c.Port < 0 || *c.Port > math.MaxUint16 {
		return f, fmt.Errorf("port must be between 0 and %d, got %d", math.MaxUint16, *c.Port)
	}
	if f.Protocol != nil && !protocolHasPorts(*f.Protocol) {
		return f, fmt.Errorf("port is of tcp, udp or sctp, but protocol is %q: leave one of them out", c.Protocol)
	}
	port := uint16(*c.Port)
	f.Port = &port
	return f, nil
}

// parsePrefix reads the value of a key cidr, which the error begins with.
func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf(`cidr must be an address and a prefix length, for example "10.0.0.0/8" or "2001:db8::1/128", got %q`, text)
	case p != p.Masked():
		return p, fmt.Errorf("cidr must not have address bits behind its prefix length: %q or %q, got %q", p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), text)
	}
	return p, nil
}

// parseProtocol reads a keyword or a number; the error begins with the key. Nil means any.
func parseProtocol(text string) (*uint8, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // any protocol
	}
	if n := slices.Index(transportNames[:], text); n >= 0 {
		p := uint8(n)
		return &p, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return nil, fmt.Errorf(`protocol must be an IANA keyword in lower case, for example "tcp", or a number from 0 to 255, got %q`, text)
	}
	p := uint8(n)
	return &p, nil
}
