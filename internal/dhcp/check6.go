package dhcp

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// How much of a reply is looked at.
const (
	maxIAs   = 8
	maxAddrs = 32
)

// refusal6 is why an answer is not taken.
type refusal6 struct {
	reason string
	whole  bool // it is about the whole answer, not about an address in it
	// nak is set where the server says that the address is not the client's.
	nak     bool
	full    bool   // it has no address for the client
	message string // the server's words
}

func refuse6(format string, args ...any) *refusal6 {
	return &refusal6{reason: fmt.Sprintf(format, args...)}
}

// of is the refusal as a sentence on an answer.
func (r *refusal6) of(a *answer6) string {
	switch {
	case r.whole:
		return fmt.Sprintf("server %s: %s", a.from, r.reason)
	case a.kind == dhcpv6.MessageTypeAdvertise:
		return fmt.Sprintf("server %s advertises %s", a.from, r.reason)
	}
	return fmt.Sprintf("server %s grants %s", a.from, r.reason)
}

func (s status6) refusal() *refusal6 {
	r := &refusal6{reason: "no address: " + s.String(), nak: s.nak(), full: s.code == noAddrsAvail, message: s.message}
	if r.message == "" {
		r.message = s.String()
	}
	return r
}

// identity checks who an answer is from and to: RFC 8415 section 16.3 and 16.10.
func (a *answer6) identity(ask *Ask) (server []byte, _ *refusal6) {
	client, ok := a.options.one(dhcpv6.OptionClientID)
	server, is := a.options.one(dhcpv6.OptionServerID)
	from := a.from
	refuse6 := func(format string, args ...any) *refusal6 {
		return &refusal6{reason: fmt.Sprintf(format, args...), whole: true}
	}
	switch {
	case !ok:
		return nil, refuse6("it has no client identifier")
	case !bytes.Equal(client, ask.DUID):
		return nil, refuse6("it is for another client")
	case !is:
		return nil, refuse6("it has no server identifier")
	case len(server) < 3 || len(server) > maxDUID:
		return nil, refuse6("its server identifier has %d bytes", len(server))
	case from.IsUnspecified() || from.IsMulticast() || from.IsLoopback():
		return nil, refuse6("no server has this address")
	case len(ask.Servers) > 0 && !has6(ask.Servers, from):
		return nil, refuse6("not one of the network's servers")
	case has6(ask.Deny, from):
		return nil, refuse6("the server is denied")
	}
	return server, nil
}

func has6(servers []netip.Addr, addr netip.Addr) bool {
	return slices.ContainsFunc(servers, func(s netip.Addr) bool { return s.WithZone("") == addr })
}

// preference is the Preference option (section 21.8).
func (a *answer6) preference() int {
	if p, ok := a.options.one(dhcpv6.OptionPreference); ok && len(p) == 1 {
		return int(p[0])
	}
	return 0
}

// lease turns an answer into a lease, or says why not. Of several addresses it takes the
// one that is wanted, if that is one of them, and else one that may be used for new
// connections rather than one that may not.
func (a *answer6) lease(ask *Ask, want netip.Addr) (*lan.Lease, *refusal6) {
	server, no := a.identity(ask)
	if no != nil {
		return nil, no
	}
	if s := a.options.status(); !s.ok() {
		return nil, s.refusal()
	}
	l, no := a.bound(ask, want)
	if no != nil {
		return nil, no
	}
	l.Server, l.ServerID = a.from, bytes.Clone(server)
	a.configure(l)
	if ask.Refuse != nil {
		if why := ask.Refuse(l); why != "" {
			return nil, refuse6("%s: %s", l.Addr.Addr(), why)
		}
	}
	return l, nil
}

// bound finds the client's address in an answer.
func (a *answer6) bound(ask *Ask, want netip.Addr) (best *lan.Lease, no *refusal6) {
	no = refuse6("no address")
	var ended *refusal6 // that an address has ended counts more than what is said after
	better := func(l *lan.Lease) bool {
		switch {
		case best == nil:
			return true
		case best.Addr.Addr() == want:
			return false
		}
		return l.Addr.Addr() == want || best.Preferred == 0 && l.Preferred > 0
	}
	addrs := 0
	ias := a.options.all(dhcpv6.OptionIANA)
	for _, data := range ias[:min(len(ias), maxIAs)] {
		ia, err := parseIA6(data)
		switch {
		case err != nil:
			no = refuse6("a broken IA_NA: %v", err)
			continue
		case ia.id != ask.IAID:
			no = refuse6("no address for this client's IAID")
			continue
		case ia.t1 > ia.t2 && ia.t2 > 0: // section 21.4
			no = refuse6("no address: T1 (%d s) is after T2 (%d s)", ia.t1, ia.t2)
			continue
		}
		if s := ia.options.status(); !s.ok() {
			no = s.refusal()
			continue
		}
		for _, data := range ia.options.all(dhcpv6.OptionIAAddr) {
			if addrs++; addrs > maxAddrs {
				break
			}
			l, why := ia.lease(ask, data)
			if why != nil {
				if no = why; no.nak {
					ended = no
				}
				continue
			}
			if better(l) {
				best = l
			}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case ended != nil:
		return nil, ended
	}
	return nil, no
}

// lease is what an IA says of an address.
func (ia *ia6) lease(ask *Ask, data []byte) (*lan.Lease, *refusal6) {
	a, err := parseIAAddr6(data)
	if err != nil {
		return nil, refuse6("a broken IA address: %v", err)
	}
	if why := unusable6(a.addr); why != "" {
		return nil, refuse6("%s: %s", a.addr, why)
	}
	s := a.options.status()
	switch {
	case !s.ok():
		no := s.refusal()
		no.reason = fmt.Sprintf("%s: %s", a.addr, s)
		return nil, no
	case a.valid == 0:
		no := refuse6("%s: it is valid for 0 s", a.addr)
		// On another address than the one we have it says nothing.
		no.nak, no.message = a.addr == ask.Addr, "the address has ended"
		return nil, no
	case a.preferred > a.valid: // section 21.6
		return nil, refuse6("%s: it is preferred for longer (%d s) than valid (%d s)", a.addr, a.preferred, a.valid)
	case ask.Only && a.addr != ask.Addr:
		return nil, refuse6("%s: not the address that was asked for", a.addr)
	case ask.Subnet.IsValid() && !ask.Subnet.Contains(a.addr):
		return nil, refuse6("%s: outside of %s", a.addr, ask.Subnet)
	}
	bits := 128
	if ask.Subnet.IsValid() {
		bits = ask.Subnet.Bits()
		if a.addr == ask.Subnet.Masked().Addr() && bits < 127 { // RFC 4291 section 2.6.1
			return nil, refuse6("%s: the address of all routers of %s", a.addr, ask.Subnet)
		}
	}
	l := &lan.Lease{Addr: netip.PrefixFrom(a.addr, bits), Life: seconds(a.valid), Preferred: seconds(a.preferred)}
	l.Renew, l.Rebind = ia.times(l)
	return l, nil
}

// times are T1 and T2. Where the server leaves them to the client they are what section
// 21.4 proposes; where they are of no use because the lease ends before, the same of its
// life.
func (ia *ia6) times(l *lan.Lease) (t1, t2 time.Duration) {
	t1, t2 = seconds(ia.t1), seconds(ia.t2)
	base := l.Preferred
	if base == 0 { // deprecated
		base = l.Life
	}
	if t1 == 0 {
		t1 = part6(base, 5)
	}
	if t2 == 0 {
		t2 = part6(base, 8)
	}
	if t1 >= l.Life {
		t1 = part6(l.Life, 5)
	}
	if t2 >= l.Life {
		t2 = part6(l.Life, 8)
	}
	t1 = max(t1, min(minRenew, part6(l.Life, 5)))
	return t1, max(t1, t2)
}

// part6 is n tenths of d, which may be 136 years: eight times that is no Duration.
func part6(d time.Duration, n int64) time.Duration {
	if d == lan.Infinite {
		return d
	}
	return d / 10 * time.Duration(n)
}

// unusable6 says why no container can have an address, "" if it can.
func unusable6(a netip.Addr) string {
	switch {
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.Is4In6(), a.As16()[0] == 0:
		return "no host can have it" // ::/8 is reserved (RFC 4291 section 2.4)
	case a.IsLinkLocalUnicast():
		return "it is link-local"
	}
	return ""
}

// configure takes what a server says besides the address.
func (a *answer6) configure(l *lan.Lease) {
	l.DNS = servers6(l, "DNS", a.options.all(dhcpv6.OptionDNSRecursiveNameServer)...)
	var ntp [][]byte
	for _, data := range a.options.all(dhcpv6.OptionNTPServer) {
		sub, err := parseOptions6(data, maxNested)
		if err != nil {
			note6(l, "NTP servers: %v", err)
			continue
		}
		const address = 1 // RFC 5908 section 4.1; multicast groups and names are left
		ntp = append(ntp, sub.all(address)...)
	}
	if len(ntp) == 0 {
		ntp = a.options.all(dhcpv6.OptionSNTPServerList)
	}
	l.NTP = servers6(l, "NTP", ntp...)
	for _, data := range a.options.all(dhcpv6.OptionDomainSearchList) {
		names, err := names6(data)
		if err != nil {
			note6(l, "search list: %v", err)
		}
		for _, name := range names {
			if len(l.Search) < maxSearch && !slices.Contains(l.Search, name) {
				l.Search = append(l.Search, name)
			}
		}
	}
}

// servers6 are the addresses of an option's instances.
func servers6(l *lan.Lease, kind string, lists ...[]byte) (servers []netip.Addr) {
	for _, data := range lists {
		if len(data)%16 != 0 {
			note6(l, "%s servers: %d bytes are no addresses", kind, len(data))
			continue
		}
		for addr := range slices.Chunk(data, 16) {
			a := netip.AddrFrom16([16]byte(addr))
			switch {
			case unusable6(a) != "":
				// A link-local one too: a container would have to know on which link.
				note6(l, "%s server %s: %s", kind, a, unusable6(a))
			case slices.Contains(servers, a):
			case len(servers) == maxServers:
				note6(l, "more than %d %s servers", maxServers, kind)
				return servers
			default:
				servers = append(servers, a)
			}
		}
	}
	return servers
}

func note6(l *lan.Lease, format string, args ...any) {
	if len(l.Notes) < maxNotes {
		l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
	}
}
