// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// Of a DNS message; RFC 1035 4.1.
const (
	dnsHeaderLen   = 12
	dnsReservedBit = 1 << 6     // Z: must be zero, as those of LLMNR (RFC 4795 2.1.1)
	dnsResponseBit = 1 << 15    // QR
	dnsMostBytes   = 1<<16 - 1  // over TCP, and more than UDP carries
	dnsUnicastBit  = 1 << 15    // RFC 6762 5.4; no class of DNS that is assigned has it
	dnsNameMost    = 255        // bytes with lengths and the root; RFC 1035 2.3.4
	dnsQuestionMin = 1 + 2 + 2  // bytes: the root's name, type, class
	dnsRecordMin   = 1 + 10     // bytes: the root's name, type, class, time to live, length of no data
	dnsOpcodes     = 0b01110101 // bit n: opcode n is assigned and in use; RFC 6895 2.2, RFC 8490 5.4
	dnsMost        = 8 << 10    // bytes over TCP that are waited for: 9 packets, which the kernel copies at most, may hold no more
)

// readDNS reads a message behind its length; RFC 1035 4.2.2.
func readDNS(b []byte, m *Message) (int, error) {
	if len(b) < 2 {
		return 0, errMore
	}
	length := int(binary.BigEndian.Uint16(b))
	if length < dnsHeaderLen {
		return 0, fmt.Errorf("%w: %d bytes hold no header of DNS", errMalformed, length)
	}
	n := 2 + length
	if len(b) < n {
		if len(b) >= 2+dnsHeaderLen { // what is no DNS is not worth waiting for
			if err := checkDNSHeader(b[2:]); err != nil {
				return 0, err
			}
		}
		return 0, errMore
	}
	d := new(DNS)
	if err := parseDNS(b[2:n], d); err != nil {
		return 0, err
	}
	m.DNS = d
	return n, nil
}

// parseDNS reads a message, or what was captured of it. Header and first question must be there; of the records behind, those
// are told that are: a message may be cut by its sender (the TC bit) or by the capture. AnswerCount is the header's. Everything
// but the variant, which the port says, is written.
func parseDNS(b []byte, d *DNS) error {
	if err := checkDNSHeader(b); err != nil {
		return err
	}
	var p dnsmessage.Parser
	header, err := p.Start(b)
	if err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	*d = DNS{
		Variant:     d.Variant,
		Response:    header.Response,
		Truncated:   header.Truncated,
		ID:          header.ID,
		AnswerCount: int(binary.BigEndian.Uint16(b[6:])),
	}
	if header.Response {
		d.ResponseCode = uint16(header.RCode)
	}
	if questions := binary.BigEndian.Uint16(b[4:]); questions > 0 {
		if err := d.readQuestion(b[dnsHeaderLen:]); err != nil {
			return err
		}
	}
	if d.Response {
		d.readRecords(&p)
	}
	return nil
}

// checkDNSHeader tells DNS from what else may come from or to its port.
func checkDNSHeader(b []byte) error {
	if len(b) < dnsHeaderLen {
		return fmt.Errorf("%w: %d bytes hold no header of DNS", errMalformed, len(b))
	}
	flags := binary.BigEndian.Uint16(b[2:])
	count := func(section int) int { return int(binary.BigEndian.Uint16(b[4+2*section:])) }
	switch opcode := flags >> 11 & 0xf; {
	case dnsOpcodes>>opcode&1 == 0:
		return fmt.Errorf("%w: DNS has no opcode %d", errMalformed, opcode)
	case flags&dnsReservedBit != 0:
		return fmt.Errorf("%w: reserved bit of a DNS header", errMalformed)
	case flags&dnsResponseBit == 0 && flags&0xf != 0:
		return fmt.Errorf("%w: DNS query with response code %d", errMalformed, flags&0xf)
	case dnsHeaderLen+dnsQuestionMin*count(0)+dnsRecordMin*(count(1)+count(2)+count(3)) > dnsMostBytes:
		return fmt.Errorf("%w: more records than a DNS message can hold", errMalformed)
	}
	return nil
}

// readQuestion reads the first question, which b begins with.
func (d *DNS) readQuestion(b []byte) error {
	name, n, err := dnsName(b)
	if err != nil {
		return err
	}
	if len(b) < n+4 {
		return fmt.Errorf("%w: cut inside of a DNS question", errMalformed)
	}
	d.HasQuestion, d.Name = true, name
	d.Type = binary.BigEndian.Uint16(b[n:])
	d.Class = binary.BigEndian.Uint16(b[n+2:]) &^ dnsUnicastBit
	return nil
}

// dnsName reads a name, n bytes of b, that has nothing before it to point back to. dnsmessage refuses labels with a dot, as
// services of multicast DNS have (RFC 6763 4.1.1), and does not escape.
func dnsName(b []byte) (name string, n int, err error) {
	var text [dnsNameMost + 1]byte // enough unless much is escaped
	out := text[:0]
	for {
		if n >= len(b) {
			return "", 0, fmt.Errorf("%w: cut inside of a DNS name", errMalformed)
		}
		length := int(b[n])
		n++
		if length == 0 {
			break
		}
		if length > 63 { // RFC 1035 2.3.4; the two bits above are those of pointers and of what never was in use
			return "", 0, fmt.Errorf("%w: label of a DNS name begins with %#x", errMalformed, length)
		}
		if n+length >= dnsNameMost {
			return "", 0, fmt.Errorf("%w: DNS name of more than %d bytes", errMalformed, dnsNameMost)
		}
		if n+length > len(b) {
			return "", 0, fmt.Errorf("%w: cut inside of a DNS name", errMalformed)
		}
		if len(out) > 0 {
			out = append(out, '.')
		}
		for _, c := range b[n : n+length] {
			if c == '.' {
				out = append(out, '\\')
			}
			out = appendPrintable(out, c)
		}
		n += length
	}
	if len(out) == 0 {
		return ".", n, nil
	}
	return string(out), n, nil
}

// readRecords reads addresses of the answer section, and behind it the extended response code, up to the first record that is
// broken or cut.
func (d *DNS) readRecords(p *dnsmessage.Parser) {
	err := p.SkipAllQuestions()
	for err == nil {
		err = d.readAnswer(p)
	}
	if !errors.Is(err, dnsmessage.ErrSectionDone) || p.SkipAllAuthorities() != nil {
		return
	}
	for {
		header, err := p.AdditionalHeader()
		if err == nil && header.Type == dnsmessage.TypeOPT {
			d.ResponseCode = uint16(header.ExtendedRCode(dnsmessage.RCode(d.ResponseCode)))
			return
		}
		if p.SkipAdditional() != nil {
			return
		}
	}
}

func (d *DNS) readAnswer(p *dnsmessage.Parser) error {
	header, err := p.AnswerHeader() // fails at names that skipping them does not mind: see dnsName
	if err != nil || header.Class&^dnsUnicastBit != dnsmessage.ClassINET || len(d.Answers) == MaxAnswers {
		return p.SkipAnswer()
	}
	switch {
	case header.Type == dnsmessage.TypeA && header.Length == 4:
		r, err := p.AResource()
		if err != nil {
			return err
		}
		d.addAnswer(netip.AddrFrom4(r.A))
		return nil
	case header.Type == dnsmessage.TypeAAAA && header.Length == 16:
		r, err := p.AAAAResource()
		if err != nil {
			return err
		}
		d.addAnswer(netip.AddrFrom16(r.AAAA))
		return nil
	}
	return p.SkipAnswer()
}

func (d *DNS) addAnswer(a netip.Addr) {
	if d.Answers == nil {
		d.Answers = make([]string, 0, min(d.AnswerCount, MaxAnswers))
	}
	d.Answers = append(d.Answers, a.String())
}
