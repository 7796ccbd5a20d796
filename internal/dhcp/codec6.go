package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

const (
	// maxDUID is the length of the longest DUID (RFC 8415 section 11.1: 128 bytes and
	// the type).
	maxDUID = 130
	// maxReply is the longest message that is read. It is the size of what many options
	// could fill, and no server sends.
	maxReply = 8 << 10
	// maxOptions and maxNested are how many options a message, and an option in it,
	// may have.
	maxOptions, maxNested = 256, 64
	// noEnterprise is the enterprise number of our vendor class, which has to have one.
	// 0 is reserved: nobody's. We have none of our own, and a class that an operator
	// chose is not another vendor's. dnsmasq takes 0 where a rule has no number, so
	// that a rule for DHCPv4's vendor class is one for DHCPv6's.
	noEnterprise = 0
)

// message6 is a message of a client's.
type message6 struct {
	kind   dhcpv6.MessageType
	client *Client
	server []byte     // the DUID of the server that it is for; nil: any
	addr   netip.Addr // in the IA; the zero Addr leaves it to the server
	rapid  bool       // asks for a REPLY to a SOLICIT
}

// checkClient refuses a client that no message can be from.
func checkClient(c *Client) error {
	switch {
	case len(c.DUID) < 3 || len(c.DUID) > maxDUID:
		return fmt.Errorf("DUID %x: want 3 to %d bytes", c.DUID, maxDUID)
	case c.FQDN != "" && !lan.IsDomain(strings.TrimSuffix(c.FQDN, ".")):
		return fmt.Errorf("name %q: no domain name", c.FQDN)
	case len(c.VendorClass) > 1024:
		return errors.New("vendor class is too long")
	}
	n := 0
	for _, u := range c.UserClass {
		if n += 2 + len(u); n > 1024 {
			return errors.New("user classes are too long")
		}
	}
	return nil
}

// encode is the message with a transaction identifier, elapsed after the exchange
// began.
func (m *message6) encode(xid dhcpv6.TransactionID, elapsed time.Duration) []byte {
	c := m.client
	out := &dhcpv6.Message{MessageType: m.kind, TransactionID: xid}
	add := func(o dhcpv6.Option) { out.AddOption(o) }
	// As they are: a DUID is opaque to all but who made it.
	add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: c.DUID})
	if m.server != nil {
		add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: m.server})
	}
	add(dhcpv6.OptElapsedTime(min(elapsed, 0xffff*10*time.Millisecond))) // section 21.9: no more than that
	ia := &dhcpv6.OptIANA{}
	binary.BigEndian.PutUint32(ia.IaId[:], c.IAID)
	if m.addr.IsValid() {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.IP(m.addr.AsSlice())}) // lifetimes 0: as the server likes
	}
	add(ia)
	if m.kind == dhcpv6.MessageTypeRelease || m.kind == dhcpv6.MessageTypeDecline {
		return out.ToBytes()
	}
	if m.rapid {
		add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	}
	// SOL_MAX_RT must be asked for (section 18.2.1). We have no use for it: no SOLICIT
	// is so long after another.
	add(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList,
		dhcpv6.OptionSNTPServerList, dhcpv6.OptionNTPServer, dhcpv6.OptionSolMaxRT))
	if c.FQDN != "" {
		add(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN, OptionData: fqdn6(c.FQDN)})
	}
	if c.VendorClass != "" {
		add(&dhcpv6.OptVendorClass{EnterpriseNumber: noEnterprise, Data: [][]byte{[]byte(c.VendorClass)}})
	}
	if len(c.UserClass) > 0 {
		var classes [][]byte
		for _, u := range c.UserClass {
			classes = append(classes, []byte(u))
		}
		add(&dhcpv6.OptUserClass{UserClasses: classes})
	}
	return out.ToBytes()
}

// fqdn6 is option 39 (RFC 4704 section 4): the server is to make the AAAA record (S). A
// name without a dot is not the whole one, and has no root label at its end.
func fqdn6(name string) []byte {
	const s = 1
	data := []byte{s}
	whole := strings.Contains(name, ".")
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		data = append(append(data, byte(len(label))), label...)
	}
	if whole {
		data = append(data, 0)
	}
	return data
}

// answer6 is a message of a server's, taken apart and not yet checked.
type answer6 struct {
	from    netip.Addr // without a zone
	kind    dhcpv6.MessageType
	xid     dhcpv6.TransactionID
	options options6
}

// ia6 is an IA_NA option.
type ia6 struct {
	id, t1, t2 uint32
	options    options6
}

// iaAddr6 is an IA Address option.
type iaAddr6 struct {
	addr             netip.Addr
	preferred, valid uint32
	options          options6
}

// options6 are options whose contents are not looked at: one that is broken does not
// break the others.
type options6 dhcpv6.Options

var (
	errShort = errors.New("too short")
	errMany  = errors.New("too many options")
)

func parseOptions6(data []byte, most int) (options6, error) {
	var options dhcpv6.Options
	err := options.FromBytesWithParser(data, func(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
		if most--; most < 0 {
			return nil, errMany
		}
		return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: data}, nil
	})
	return options6(options), err
}

// one is the contents of the first option of a kind.
func (o options6) one(code dhcpv6.OptionCode) ([]byte, bool) {
	if opt, ok := dhcpv6.Options(o).GetOne(code).(*dhcpv6.OptionGeneric); ok {
		return opt.OptionData, true
	}
	return nil, false
}

// all are the contents of all options of a kind.
func (o options6) all(code dhcpv6.OptionCode) [][]byte {
	var all [][]byte
	for _, opt := range o {
		if g, ok := opt.(*dhcpv6.OptionGeneric); ok && g.OptionCode == code {
			all = append(all, g.OptionData)
		}
	}
	return all
}

// xid6 is the transaction identifier of a message; false for what is none, or a relay's.
func xid6(data []byte) (xid dhcpv6.TransactionID, ok bool) {
	if len(data) < dhcpv6.MessageHeaderSize {
		return xid, false
	}
	kind := dhcpv6.MessageType(data[0])
	copy(xid[:], data[1:4])
	return xid, kind == dhcpv6.MessageTypeAdvertise || kind == dhcpv6.MessageTypeReply
}

// What comes before a DHCPv6 message in an Ethernet frame without a tag.
const (
	ethLen6 = 14
	ipLen6  = 40
	udpLen6 = 8
)

// anyVLAN6 lets pass what servers send to clients, whatever its tag: IPv6 packets to UDP
// port 546, with no header between and not in fragments.
func anyVLAN6() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: ethLen6 + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ethLen6 + ipLen6 + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort6, SkipTrue: 1},

		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	}
}

// unwrap6 finds a message in a frame that anyVLAN6 let pass.
func unwrap6(b []byte) (d datagram6, ok bool) {
	if len(b) < ethLen6+ipLen6+udpLen6 {
		return d, false
	}
	udp := b[ethLen6+ipLen6:]
	length := int(binary.BigEndian.Uint16(udp[4:])) // with the header
	if length < udpLen6 || length > len(udp) {
		return d, false
	}
	return datagram6{from: netip.AddrFrom16([16]byte(b[ethLen6+8:])), data: udp[udpLen6:length]}, true
}

func parse6(from netip.Addr, data []byte) (*answer6, error) {
	xid, ok := xid6(data)
	if !ok {
		return nil, errors.New("no message to a client")
	}
	options, err := parseOptions6(data[dhcpv6.MessageHeaderSize:], maxOptions)
	if err != nil {
		return nil, err
	}
	return &answer6{from: from, kind: dhcpv6.MessageType(data[0]), xid: xid, options: options}, nil
}

func parseIA6(data []byte) (*ia6, error) {
	if len(data) < 12 {
		return nil, errShort
	}
	options, err := parseOptions6(data[12:], maxNested)
	if err != nil {
		return nil, err
	}
	u := binary.BigEndian.Uint32
	return &ia6{id: u(data), t1: u(data[4:]), t2: u(data[8:]), options: options}, nil
}

func parseIAAddr6(data []byte) (*iaAddr6, error) {
	if len(data) < 24 {
		return nil, errShort
	}
	options, err := parseOptions6(data[24:], maxNested)
	if err != nil {
		return nil, err
	}
	u := binary.BigEndian.Uint32
	return &iaAddr6{addr: netip.AddrFrom16([16]byte(data[:16])), preferred: u(data[16:]), valid: u(data[20:]), options: options}, nil
}

// status6 is a Status Code option (section 21.13); none is success.
type status6 struct {
	code    uint16
	message string // the server's words, cleaned
}

const (
	noAddrsAvail = 2
	noBinding    = 3
	notOnLink    = 4
)

func (o options6) status() status6 {
	data, ok := o.one(dhcpv6.OptionStatusCode)
	if !ok || len(data) < 2 {
		return status6{}
	}
	return status6{code: binary.BigEndian.Uint16(data), message: clean6(data[2:])}
}

func (s status6) ok() bool { return s.code == 0 }

// nak reports whether an address is not the client's.
func (s status6) nak() bool { return s.code == noBinding || s.code == notOnLink }

func (s status6) String() string {
	text := fmt.Sprintf("status %d", s.code)
	if names := [...]string{"Success", "UnspecFail", "NoAddrsAvail", "NoBinding", "NotOnLink", "UseMulticast"}; int(s.code) < len(names) {
		text = names[s.code]
	}
	if s.message != "" {
		text += fmt.Sprintf(" (%q)", s.message)
	}
	return text
}

// clean6 is a server's text as printable ASCII, and not long.
func clean6(text []byte) string {
	const most = 200
	text = text[:min(len(text), most)]
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.TrimRight(string(text), "\x00")))
}

// names6 are domain names as RFC 8415 section 10 has them, which is without compression.
// What comes after one that is broken is lost.
func names6(data []byte) (names []string, err error) {
	for len(data) > 0 && len(names) < maxSearch {
		var labels []string
		for {
			if len(data) == 0 {
				return names, errShort
			}
			n := int(data[0])
			if data = data[1:]; n == 0 {
				break
			}
			if n > 63 || n > len(data) {
				return names, errors.New("broken label")
			}
			labels = append(labels, string(data[:n]))
			data = data[n:]
		}
		name := strings.Join(labels, ".")
		if !lan.IsDomain(name) {
			return names, fmt.Errorf("%q is no domain name", clean6([]byte(name)))
		}
		names = append(names, name)
	}
	return names, nil
}
