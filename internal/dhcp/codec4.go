package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Where things are in a frame with a DHCPv4 message.
const (
	macLen4  = 6
	ethLen4  = 2*macLen4 + 2
	ipLen4   = 20 // without options, as we send it
	udpLen4  = 8
	offProto = ethLen4 + 9
	offFrag  = ethLen4 + 6

	serverPort4, clientPort4 = 67, 68

	// In the message: RFC 2131 section 2.
	offXID    = 4
	offYiaddr = 16
	offChaddr = 28
	offSname  = 44
	offFile   = 108
	offCookie = 236
)

const (
	// maxFrame is how much of a frame we read: more than Ethernet without jumbo frames has.
	maxFrame = 2048
	// maxMessage4 is what we tell servers to keep to (option 57). Whether that is to
	// count the headers of IP and UDP is read either way; so it fits into 1500 bytes.
	maxMessage4 = 1472
)

var (
	everyMAC  = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	everyone4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// key4 tells exchanges apart. A server copies both from what it answers.
type key4 struct {
	xid [4]byte
	mac [macLen4]byte
}

// answer4 is a server's message as the readers pass it on, looked at no further than
// where it goes.
type answer4 struct {
	key  key4
	from netip.Addr    // IP source
	via  [macLen4]byte // Ethernet source
	body []byte        // shares the frame's bytes
	// astray is where it came if not on the wire: "on VLAN 20, not VLAN 100".
	astray string
}

// filter4 lets what DHCPv4 servers send to clients pass, if it has no VLAN tag.
//
// A frame with a VLAN tag belongs to another wire, but a socket for ETH_P_ALL gets it
// with the tag beside it (the kernel takes it off before the taps look), and so does a
// macvlan link if no VLAN link takes it first. A tag with id 0 holds only a priority.
func filter4() []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 4},
		bpf.LoadExtension{Num: bpf.ExtVLANTag},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfff},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, anyVLAN4()...)
}

// anyVLAN4 lets pass what servers send to clients, whatever its tag: whole IPv4 packets to
// UDP port 68 with a BOOTREPLY.
func anyVLAN4() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 2 * macLen4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 10},
		bpf.LoadAbsolute{Off: offProto, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 8},
		bpf.LoadAbsolute{Off: offFrag, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 6}, // more fragments, or an offset
		bpf.LoadMemShift{Off: ethLen4},                              // the IP header's length
		bpf.LoadIndirect{Off: ethLen4 + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort4, SkipTrue: 3},
		bpf.LoadIndirect{Off: ethLen4 + udpLen4, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(dhcpv4.OpcodeBootReply), SkipTrue: 1},

		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	}
}

// parse4 finds a server's message in a frame, which may be longer than what is in it.
//
// UDP's checksum is not looked at: where the server is on this machine the checksum is
// left to hardware that the frame never comes to (packet(7), TP_STATUS_CSUMNOTREADY),
// and on a wire Ethernet's own has been looked at.
func parse4(b []byte) (answer4, bool) {
	if len(b) < ethLen4+ipLen4+udpLen4+offCookie || binary.BigEndian.Uint16(b[2*macLen4:]) != unix.ETH_P_IP {
		return answer4{}, false
	}
	a := answer4{via: [macLen4]byte(b[macLen4:])}
	ip := b[ethLen4:]
	head, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || head < ipLen4 || total > len(ip) || total < head+udpLen4+offCookie ||
		binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 || ip[9] != unix.IPPROTO_UDP || sum(0, ip[:head]) != 0 {
		return answer4{}, false
	}
	a.from = netip.AddrFrom4([4]byte(ip[12:]))
	udp := ip[head:total]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != clientPort4 || length > len(udp) || length < udpLen4+offCookie {
		return answer4{}, false
	}
	a.body = udp[udpLen4:length]
	a.key = key4{xid: [4]byte(a.body[offXID:]), mac: [macLen4]byte(a.body[offChaddr:])}
	// Whatever the sender is, no station has a group's MAC.
	return a, a.body[0] == byte(dhcpv4.OpcodeBootReply) && a.via[0]&1 == 0
}

// reply4 is a server's message with its options.
type reply4 struct {
	kind    dhcpv4.MessageType
	from    netip.Addr // IP source
	via     net.HardwareAddr
	yiaddr  netip.Addr
	server  netip.Addr // its identifier; the zero Addr where it has none, or not one of four bytes
	options dhcpv4.Options
}

// decode4 reads a message. Options come from the fields file and sname too, if option 52
// says so (RFC 2131 section 4.1), in the order of RFC 3396 section 5.
func decode4(a answer4) (*reply4, error) {
	m, err := dhcpv4.FromBytes(a.body)
	if err != nil {
		return nil, err
	}
	if over := m.Options[optOverload]; len(over) == 1 {
		if over[0]&1 != 0 {
			err = errors.Join(err, m.Options.FromBytes(a.body[offFile:offCookie]))
		}
		if over[0]&2 != 0 {
			err = errors.Join(err, m.Options.FromBytes(a.body[offSname:offFile]))
		}
		if err != nil {
			return nil, fmt.Errorf("options in other fields: %w", err)
		}
	}
	r := &reply4{
		kind: m.MessageType(), from: a.from, via: net.HardwareAddr(a.via[:]), options: m.Options,
		yiaddr: netip.AddrFrom4([4]byte(a.body[offYiaddr:])),
	}
	r.server, _ = r.addr(optServer)
	return r, nil
}

// name is what to call the server.
func (r *reply4) name() string {
	if r.server.IsValid() {
		return r.server.String()
	}
	return r.from.String()
}

// addr is an option that is one address.
func (r *reply4) addr(code uint8) (netip.Addr, bool) {
	if b := r.options[code]; len(b) == 4 {
		return netip.AddrFrom4([4]byte(b)), true
	}
	return netip.Addr{}, false
}

// number is an option that is one number of 2 or 4 bytes.
func (r *reply4) number(code uint8, size int) (uint32, bool) {
	b := r.options[code]
	switch {
	case len(b) != size:
		return 0, false
	case size == 2:
		return uint32(binary.BigEndian.Uint16(b)), true
	}
	return binary.BigEndian.Uint32(b), true
}

// The options, by RFC 2132 where nothing else is said.
const (
	optMask        = 1
	optRouter      = 3
	optDNS         = 6
	optHostname    = 12
	optDomain      = 15
	optMTU         = 26
	optNTP         = 42
	optAddr        = 50
	optLife        = 51
	optOverload    = 52
	optKind        = 53
	optServer      = 54
	optParameters  = 55
	optMessage     = 56
	optMaxMessage  = 57
	optRenew       = 58
	optRebind      = 59
	optVendorClass = 60
	optClientID    = 61
	optUserClass   = 77  // RFC 3004
	optRapid       = 80  // RFC 4039
	optFQDN        = 81  // RFC 4702
	optSearch      = 119 // RFC 3397
	optRoutes      = 121 // RFC 3442
)

// parameters are what we ask servers for. Option 121 is to come before 3 (RFC 3442).
var parameters = []byte{
	optMask, optRoutes, optRouter, optDNS, optDomain, optSearch, optMTU, optNTP, optHostname,
	optLife, optServer, optRenew, optRebind,
}

// message4 is a message from a client, with only what each kind has.
func message4(c *Client, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: c.MAC,
		Options: dhcpv4.Options{optKind: {byte(kind)}},
	}
	if len(c.ID) > 0 {
		m.Options[optClientID] = c.ID
	}
	return m
}

// ask4 is a DHCPDISCOVER or DHCPREQUEST.
func ask4(c *Client, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := message4(c, kind)
	m.Options[optParameters] = parameters
	m.Options[optMaxMessage] = binary.BigEndian.AppendUint16(nil, maxMessage4)
	// RFC 4702 section 3.1 has a client send one of the two names; but many servers look
	// at option 12 only, and those that know both prefer 81.
	if c.Hostname != "" {
		m.Options[optHostname] = []byte(c.Hostname)
	}
	if fqdn := fqdn4(c.FQDN); fqdn != nil {
		m.Options[optFQDN] = fqdn
	}
	if c.VendorClass != "" {
		m.Options[optVendorClass] = []byte(c.VendorClass)
	}
	if classes := userClass4(c.UserClass); classes != nil {
		m.Options[optUserClass] = classes
	}
	return m
}

// fqdn4 is the value of option 81 (RFC 4702 section 2): the server is to make the A
// record too (S), and the name is as on the wire of DNS (E). A name of one label is a
// partial one, which has no root at its end. It is nil for no name, or one that is none.
func fqdn4(name string) []byte {
	const flagS, flagE = 1, 4
	name = strings.TrimSuffix(name, ".")
	if !isName(name) {
		return nil
	}
	b := []byte{flagS | flagE, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		b = append(b, byte(len(label)))
		b = append(b, label...)
	}
	if strings.Contains(name, ".") {
		b = append(b, 0)
	}
	return b
}

// userClass4 is the value of option 77 (RFC 3004 section 4).
func userClass4(classes []string) []byte {
	var b []byte
	for _, c := range classes {
		if n := len(c); n > 0 && n <= 255 {
			b = append(b, byte(n))
			b = append(b, c...)
		}
	}
	return b
}

// frame4 is a whole frame with a message in UDP.
func frame4(src, dst net.HardwareAddr, from, to netip.AddrPort, body []byte) ([]byte, error) {
	if len(src) != macLen4 || len(dst) != macLen4 {
		return nil, errors.New("not an Ethernet address")
	}
	length := udpLen4 + len(body)
	if ipLen4+length > 0xffff {
		return nil, unix.EMSGSIZE
	}
	b := make([]byte, 0, ethLen4+ipLen4+length)
	b = append(b, dst...)
	b = append(b, src...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)

	b = append(b, 4<<4|ipLen4/4, 0x10) // low delay, as BOOTP clients have always had it
	b = binary.BigEndian.AppendUint16(b, uint16(ipLen4+length))
	b = append(b, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	b = append(b, from.Addr().AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	ip := b[ethLen4:]
	binary.BigEndian.PutUint16(ip[10:], sum(0, ip))

	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, 0, 0)
	b = append(b, body...)
	// The addresses count too: they are right before.
	check := sum(uint32(unix.IPPROTO_UDP+length), b[ethLen4+ipLen4-8:])
	if check == 0 {
		check = 0xffff // zero says that there is none
	}
	binary.BigEndian.PutUint16(b[ethLen4+ipLen4+6:], check)
	return b, nil
}

// sum is the Internet checksum (RFC 1071) of b, over what start has already.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return ^uint16(start)
}
