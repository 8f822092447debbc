// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// icmpKey is the key of a message from src to dst with this type and code; its identifier is 0x1234.
func icmpKey(src, dst string, typ, code uint8) Key {
	k := communityKey(protoICMP, src, dst, 0, 0)
	if k.IPv6 {
		k.Proto = protoICMPv6
	}
	k.SrcPort, k.DstPort = ICMPPorts([]byte{typ, code, 0, 0, 0x12, 0x34, 0, 1}, k.IPv6)
	return k
}

func TestICMPQuestionsAndAnswersAreOneFlow(t *testing.T) {
	for _, c := range []struct {
		name             string
		v6               bool
		question, answer uint8
	}{
		{"echo", false, 8, 0},
		{"router discovery", false, 10, 9},
		{"timestamp", false, 13, 14},
		{"information", false, 15, 16},
		{"address mask", false, 17, 18},
		{"echo over IPv6", true, 128, 129},
		{"multicast listener discovery", true, 130, 131},
		{"router discovery over IPv6", true, 133, 134},
		{"neighbor discovery", true, 135, 136},
		{"node information", true, 139, 140},
		{"home agent discovery", true, 144, 145},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := "192.0.2.1", "192.0.2.2"
			if c.v6 {
				a, b = "2001:db8::1", "2001:db8::2"
			}
			question, answer := icmpKey(a, b, c.question, 0), icmpKey(b, a, c.answer, 0)
			assert.Equal(t, question.Reversed(), answer)
			typ, code := question.ICMP()
			assert.Equal(t, [2]uint8{c.question, 0}, [2]uint8{typ, code})
			typ, code = answer.ICMP()
			assert.Equal(t, [2]uint8{c.answer, 0}, [2]uint8{typ, code})
			assert.EqualValues(t, 0, question.clientByQuestion())
			assert.EqualValues(t, 1, answer.clientByQuestion())
		})
	}
}

func TestOtherICMPIsAFlowOfItsOwn(t *testing.T) {
	k := icmpKey("192.0.2.1", "192.0.2.2", 3, 4)
	assert.Equal(t, [2]uint16{0, 0x0304}, [2]uint16{k.SrcPort, k.DstPort})
	typ, code := k.ICMP()
	assert.Equal(t, [2]uint8{3, 4}, [2]uint8{typ, code})
	assert.EqualValues(t, noHalf, k.clientByQuestion())
	back := k.Reversed()
	typ, code = back.ICMP()
	assert.Equal(t, [2]uint8{3, 4}, [2]uint8{typ, code}, "the way back has the message that nobody answers")
	assert.NotEqual(t, k.Reversed(), icmpKey("192.0.2.2", "192.0.2.1", 3, 4), "one from the other side is no answer")
}

func TestPingsDifferByTheirIdentifier(t *testing.T) {
	one, _ := ICMPPorts([]byte{8, 0, 0, 0, 0, 1, 0, 1}, false)
	two, _ := ICMPPorts([]byte{8, 0, 0, 0, 0, 2, 0, 1}, false)
	assert.NotEqual(t, one, two)
	solicitation, _ := ICMPPorts([]byte{135, 0, 0, 0, 9, 9, 9, 9}, true)
	assert.Zero(t, solicitation, "these bytes are reserved")
}

func TestAnIdentifierThatLooksLikeAQuestionNamesNoClient(t *testing.T) {
	k := communityKey(protoICMP, "192.0.2.1", "192.0.2.2", 0, 0)
	k.SrcPort, k.DstPort = ICMPPorts([]byte{8, 0, 0, 0, 13, 0, 0, 1}, false)
	assert.EqualValues(t, noHalf, k.clientByQuestion())
}

func TestWhatIsNoICMPHasNoMessage(t *testing.T) {
	later := icmpKey("192.0.2.1", "192.0.2.2", 8, 0)
	later.LaterFragment = true
	behind4 := communityKey(protoICMPv6, "192.0.2.1", "192.0.2.2", 0, 128<<8)
	for _, k := range []Key{later, behind4, communityKey(17, "192.0.2.1", "192.0.2.2", 1, 8<<8)} {
		assert.False(t, k.HasICMP())
		assert.EqualValues(t, noHalf, k.clientByQuestion())
	}
}

// Vectors of the reference implementation's tests.
func TestCommunityIDOfICMP(t *testing.T) {
	for _, c := range []struct {
		key  Key
		want string
	}{
		{icmpKey("192.168.0.89", "192.168.0.1", 8, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{icmpKey("192.168.0.1", "192.168.0.89", 0, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{icmpKey("192.168.0.1", "192.168.0.89", 0, 20), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{icmpKey("192.168.0.89", "192.168.0.1", 20, 0), "1:3o2RFccXzUgjl7zDpqmY7yJi8rI="},
		{icmpKey("192.168.0.89", "192.168.0.1", 20, 1), "1:tz/fHIDUHs19NkixVVoOZywde+I="},
		{icmpKey("fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="},
		{icmpKey("fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="},
		{icmpKey("3ffe:507:0:1:260:97ff:fe07:69ea", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0), "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w="},
		{icmpKey("3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:507:0:1:260:97ff:fe07:69ea", 3, 0), "1:/OGBt9BN1ofenrmSPWYicpij2Vc="},
	} {
		id, ok := c.key.CommunityID()
		require.True(t, ok)
		assert.Equal(t, c.want, id)
	}
}
