package acd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
)

// bytesOf is a frame written in hex, with blanks where they help.
func bytesOf(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func said(u use, ok bool) string {
	if !ok {
		return ""
	}
	s := u.String()
	if u.announces {
		s += ", to all"
	}
	if u.nonce != nil {
		s += ", nonce " + u.nonce.String()
	}
	return s
}

func TestParseARP(t *testing.T) {
	const a, b, all, eth = "02000000000a ", "02000000000b ", "ffffffffffff ", "0806 0001 0800 06 04 "
	for _, c := range []struct{ name, frame, want string }{
		{"reply", b + a + eth + "0002" + a + "0a000005" + b + "00000000", "10.0.0.5 used by 02:00:00:00:00:0a"},
		{"request", all + a + eth + "0001" + a + "0a000005" + "000000000000" + "0a000001", "10.0.0.5 used by 02:00:00:00:00:0a"},
		{"announcement", all + a + eth + "0001" + a + "0a000005" + "000000000000" + "0a000005", "10.0.0.5 used by 02:00:00:00:00:0a, to all"},
		{"announcement as reply", all + a + eth + "0002" + a + "0a000005" + a + "0a000005", "10.0.0.5 used by 02:00:00:00:00:0a, to all"},
		{"probe", all + a + eth + "0001" + a + "00000000" + "000000000000" + "0a000005", "10.0.0.5 probed for by 02:00:00:00:00:0a"},
		{"padded", b + a + eth + "0002" + a + "0a000005" + b + "00000000" + strings.Repeat("ff", 18), "10.0.0.5 used by 02:00:00:00:00:0a"},
		{"for another station", b + a + eth + "0002" + b + "0a000005" + b + "00000000", "10.0.0.5 used by 02:00:00:00:00:0b"},
		{"a cluster's group MAC", b + a + eth + "0002" + "03bf0a000005" + "0a000005" + b + "00000000", "10.0.0.5 used by 02:00:00:00:00:0a"},
		{"no MAC in it", b + a + eth + "0002" + "000000000000" + "0a000005" + b + "00000000", "10.0.0.5 used by 02:00:00:00:00:0a"},
		{"group MACs only", b + all + eth + "0002" + all + "0a000005" + b + "00000000", ""},
		{"reply from nobody", all + a + eth + "0002" + a + "00000000" + b + "0a000005", ""},
		{"probe for nothing", all + a + eth + "0001" + a + "00000000" + b + "00000000", ""},
		{"no host's address", b + a + eth + "0002" + a + "ffffffff" + b + "00000000", ""},
		{"RARP", b + a + eth + "0003" + a + "0a000005" + b + "00000000", ""},
		{"other hardware", b + a + "0806 0006 0800 06 04 0002" + a + "0a000005" + b + "00000000", ""},
		{"other protocol", b + a + "0806 0001 86dd 06 04 0002" + a + "0a000005" + b + "00000000", ""},
		{"long hardware addresses", b + a + "0806 0001 0800 08 04 0002" + a + "0a000005" + b + "00000000", ""},
		{"VLAN tag", b + a + "8100 0064" + eth + "0002" + a + "0a000005" + b + "00000000", ""},
		{"IPv4", b + a + "0800" + strings.Repeat("00", 28), ""},
		{"a byte short", b + a + eth + "0002" + a + "0a000005" + b + "000000", ""},
		{"header only", b + a + "0806", ""},
		{"nothing", "", ""},
	} {
		if got := said(parseARP(bytesOf(t, c.frame))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// icmp is a frame with an ICMPv6 message whose length and checksum are right.
func icmp(src, dst string, message string) string {
	body, err := hex.DecodeString(strings.ReplaceAll(message, " ", ""))
	if err != nil {
		panic(err)
	}
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	b := ethernet(groupMAC(d), macA, unix.ETH_P_IPV6, 0)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, unix.IPPROTO_ICMPV6, 255)
	b = append(append(b, s.AsSlice()...), d.AsSlice()...)
	return hex.EncodeToString(seal(append(b, body...)))
}

// seal sets the checksum of a frame that has one.
func seal(b []byte) []byte {
	if len(b) < offICMP+4 {
		return b
	}
	end := min(offICMP+int(binary.BigEndian.Uint16(b[ethLen+4:])), len(b))
	if end < offICMP+4 {
		return b
	}
	body := b[offICMP:end]
	binary.BigEndian.PutUint16(body[2:], 0)
	binary.BigEndian.PutUint16(body[2:], checksum(b[ethLen+8:offICMP], body))
	return b
}

func TestParseNDP(t *testing.T) {
	const (
		target = "fd000000000000000000000000000005 "
		tlla   = "0201 02000000000b "
		slla   = "0101 02000000000b "
		nonce  = "0e01 010203040506 "
		na     = "8800 0000 20000000 " + target
		ns     = "8700 0000 00000000 " + target
		node   = "ff02::1:ff00:5"
	)
	broken := func(frame string, at int) string {
		c := byte('0')
		if frame[at] == c {
			c = '1'
		}
		return frame[:at] + string(c) + frame[at+1:]
	}
	good := icmp("fd00::5", "ff02::1", na+tlla)
	for _, c := range []struct{ name, frame, want string }{
		{"answer to DAD", good, "fd00::5 used by 02:00:00:00:00:0b, to all"},
		{"answer to one", icmp("fd00::5", "fd00::1", "8800 0000 60000000 "+target+tlla), "fd00::5 used by 02:00:00:00:00:0b"},
		{"without its MAC", icmp("fd00::5", "ff02::1", na), "fd00::5 used by 02:00:00:00:00:0a, to all"},
		{"unknown option", icmp("fd00::5", "ff02::1", na+"fd01 000000000000"+tlla), "fd00::5 used by 02:00:00:00:00:0b, to all"},
		{"group MAC", icmp("fd00::5", "ff02::1", na+"0201 333300000001"), "fd00::5 used by 02:00:00:00:00:0a, to all"},
		{"padded", good + "0000", "fd00::5 used by 02:00:00:00:00:0b, to all"},
		{"DAD", icmp("::", node, ns), "fd00::5 probed for by 02:00:00:00:00:0a"},
		{"DAD with nonce", icmp("::", node, ns+nonce), "fd00::5 probed for by 02:00:00:00:00:0a, nonce 010203040506"},
		{"resolution", icmp("fd00::9", node, ns+slla), "fd00::9 used by 02:00:00:00:00:0b"},
		{"resolution without MAC", icmp("fd00::9", "fd00::5", ns), "fd00::9 used by 02:00:00:00:00:0a"},

		{"solicited, to all", icmp("fd00::5", "ff02::1", "8800 0000 60000000 "+target), ""},
		{"DAD to all", icmp("::", "ff02::1", ns), ""},
		{"DAD with a MAC", icmp("::", node, ns+slla), ""},
		{"DAD for a group", icmp("::", "ff02::1:ff00:1", "8700 0000 00000000 ff020000000000000000000000000001"), ""},
		{"for a group", icmp("fd00::5", "ff02::1", "8800 0000 20000000 ff020000000000000000000000000001"), ""},
		{"for nothing", icmp("fd00::5", "ff02::1", "8800 0000 20000000 "+strings.Repeat("00", 16)), ""},
		{"mapped IPv4", icmp("fd00::5", "ff02::1", "8800 0000 20000000 00000000000000000000ffff0a000001"), ""},
		{"resolution by mapped IPv4", icmp("::ffff:10.0.0.1", node, ns+slla), ""},
		{"option of no length", icmp("fd00::5", "ff02::1", na+"0200 02000000000b"), ""},
		{"option cut off", icmp("fd00::5", "ff02::1", na+"0202 02000000000b"), ""},
		{"too short", icmp("fd00::5", "ff02::1", "8800 0000 20000000 fd00"), ""},
		{"redirect", icmp("fd00::5", "ff02::1", "8900 0000 00000000 "+target+target), ""},
		{"code 1", icmp("fd00::5", "ff02::1", "8801 0000 20000000 "+target), ""},
		{"wrong checksum", broken(good, 2*(offICMP+3)), ""},
		{"wrong hop limit", broken(good, 2*offHops), ""},
		{"wrong version", broken(good, 2*ethLen), ""},
		{"longer than it is", broken(good, 2*(ethLen+4)), ""},
		{"cut off", good[:len(good)-2], ""},
		{"header only", good[:2*ethLen], ""},
		{"nothing", "", ""},
	} {
		if got := said(parseNDP(bytesOf(t, c.frame))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What we send reads as what it is.
func TestFramesReadBack(t *testing.T) {
	v4, v6 := netip.MustParseAddr(free4), netip.MustParseAddr(free6)
	dad, err := solicitation(macA, v6, nonceOf(bytes.Repeat([]byte{7}, 6)))
	if err != nil {
		t.Fatal(err)
	}
	na, err := advertisement(macB, v6)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		frame []byte
		want  string
	}{
		{arpRequest(macA, netip.IPv4Unspecified(), v4), "10.0.0.6 probed for by 02:00:00:00:00:0a"},
		{arpRequest(macB, v4, v4), "10.0.0.6 used by 02:00:00:00:00:0b, to all"},
		{dad, "fd00::6 probed for by 02:00:00:00:00:0a, nonce 070707070707"},
		{na, "fd00::6 used by 02:00:00:00:00:0b, to all"},
	} {
		if got := said(parse(c.frame)); got != c.want {
			t.Errorf("%x: %q, want %q", c.frame, got, c.want)
		}
	}
}

// checkUse holds what passes to what the wire counts on. It takes the frame.
func checkUse(t *testing.T, frame []byte, u use, ok bool) {
	if !ok {
		return
	}
	if !station(u.MAC) || !u.Addr.IsValid() || u.Addr.IsUnspecified() || u.Addr.Zone() != "" || u.Addr.Is4In6() || u.Probe && u.announces {
		t.Errorf("%x: %s", frame, said(u, ok))
	}
	if u.nonce != nil {
		u.nonce.Equal(nonceOf(bytes.Repeat([]byte{1}, 6)))
	}
	// It shares nothing with the reader's buffer.
	before := u.String()
	clear(frame)
	if u.String() != before {
		t.Errorf("%s became %s with the buffer", before, u)
	}
}

func FuzzARP(f *testing.F) {
	v4 := netip.MustParseAddr(free4)
	f.Add(arpRequest(macA, netip.IPv4Unspecified(), v4))
	f.Add(arpRequest(macA, v4, v4)[:41])
	f.Fuzz(func(t *testing.T, in []byte) {
		frame := bytes.Clone(in)
		u, ok := parseARP(frame)
		if ok && u.Addr.Is6() {
			t.Errorf("%x: %s", frame, u)
		}
		checkUse(t, frame, u, ok)
	})
}

// Each frame is tried as it is and with its checksum put right.
func FuzzNDP(f *testing.F) {
	v6 := netip.MustParseAddr(free6)
	for _, make := range []func() ([]byte, error){
		func() ([]byte, error) { return solicitation(macA, v6, nonceOf(bytes.Repeat([]byte{7}, 6))) },
		func() ([]byte, error) { return advertisement(macA, v6) },
	} {
		frame, err := make()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
		f.Add(append(frame, 0, 0))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, b := range [][]byte{bytes.Clone(in), seal(bytes.Clone(in))} {
			u, ok := parseNDP(b)
			if ok && u.Addr.Is4() {
				t.Errorf("%x: %s", b, u)
			}
			checkUse(t, b, u, ok)
		}
	})
}
