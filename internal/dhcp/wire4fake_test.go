package dhcp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// fake4 is a server that says what a test has it say.
type fake4 struct {
	t    testing.TB
	port *packet.Socket
	mac  net.HardwareAddr

	mu   sync.Mutex // guards what follows
	seen []*dhcpv4.DHCPv4
}

// newFake4 answers each message of a client with the frames that a script makes of it,
// which has the whole frame too.
func newFake4(t testing.TB, h *kerneltest.Host, link string, script func(f *fake4, m *dhcpv4.DHCPv4) [][]byte) *fake4 {
	t.Helper()
	port, err := packet.Open(link4(t, h, link), unix.ETH_P_IP, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	f := &fake4{t: t, port: port}
	if f.mac, err = port.MAC(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxFrame)
		for {
			n, err := port.Read(buf)
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("fake server: %v", err)
				}
				return
			}
			if m := request4(buf[:n]); m != nil {
				f.mu.Lock()
				f.seen = append(f.seen, m)
				f.mu.Unlock()
				for _, frame := range script(f, m) {
					f.send(frame)
				}
			}
		}
	}()
	t.Cleanup(func() {
		port.Stop()
		<-done
		port.Close()
	})
	return f
}

// send sends a frame, again if a queue is full.
func (f *fake4) send(frame []byte) {
	for {
		err := f.port.Send(frame)
		if !lost(err) {
			if err != nil {
				f.t.Errorf("fake server: %v", err)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// count is how many messages of a kind came.
func (f *fake4) count(kind dhcpv4.MessageType) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, m := range f.seen {
		if m.MessageType() == kind {
			n++
		}
	}
	return n
}

// request4 is the client's message in a frame, nil if there is none.
func request4(b []byte) *dhcpv4.DHCPv4 {
	if len(b) < ethLen4+ipLen4+udpLen4 || b[offProto] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(b[ethLen4+ipLen4+2:]) != serverPort4 {
		return nil
	}
	m, err := dhcpv4.FromBytes(b[ethLen4+ipLen4+udpLen4:])
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest {
		return nil
	}
	return m
}

func number4(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// reply answers a message, in order.
func (f *fake4) reply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, change ...func(*dhcpv4.DHCPv4)) []byte {
	return f.frame(f.message(m, kind, change...).ToBytes())
}

const fakeAddr = "10.9.0.1"

func (f *fake4) message(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, change ...func(*dhcpv4.DHCPv4)) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: m.HWType, TransactionID: m.TransactionID, ClientHWAddr: m.ClientHWAddr, YourIPAddr: net.IP{10, 9, 0, 50},
		Options: dhcpv4.Options{optKind: {byte(kind)}, optServer: {10, 9, 0, 1}},
	}
	if kind == dhcpv4.MessageTypeNak {
		r.YourIPAddr = nil
	} else {
		r.Options[optLife], r.Options[optMask] = number4(3600), []byte{255, 255, 255, 0}
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func (f *fake4) frame(body []byte) []byte {
	b, err := frame4(f.mac, everyMAC, netip.AddrPortFrom(addr4(fakeAddr), serverPort4), netip.AddrPortFrom(everyone4, clientPort4), body)
	if err != nil {
		f.t.Error(err)
	}
	return b
}

// good answers all in order.
func (f *fake4) good(m *dhcpv4.DHCPv4) []byte {
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return f.reply(m, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		return f.reply(m, dhcpv4.MessageTypeAck)
	}
	return nil
}

func goodOnly(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
	if b := f.good(m); b != nil {
		return [][]byte{b}
	}
	return nil
}

// withOption sets an option of a reply; nil takes it away.
func withOption(code uint8, value []byte) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) {
		if m.Options[code] = value; value == nil {
			delete(m.Options, code)
		}
	}
}

func withAddr(s string) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.YourIPAddr = addr4(s).AsSlice() }
}
