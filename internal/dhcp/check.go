package dhcp

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// How much of what a server says is taken.
const (
	maxRoutes4 = 128
	maxServers = 16 // of a kind: DNS, NTP
	maxSearch  = 32
	maxText    = 200 // characters
	maxNotes   = 16
)

// minRenew is how soon a lease is renewed at the earliest, unless half of it is over
// sooner: a server must not have us send all the time.
const minRenew = 30 * time.Second

// check4 makes a lease of an offer or acknowledgement, or says why it cannot be taken.
func check4(r *reply4, a *Ask) (*lan.Lease, string) {
	if why := serverRefused(r.server, a); why != "" {
		return nil, why
	}
	if why := notHost(r.yiaddr); why != "" {
		return nil, why
	}
	if a.Only && r.yiaddr != a.Addr {
		return nil, fmt.Sprintf("only %s will do", a.Addr)
	}
	bits, why := length4(r, a)
	if why != "" {
		return nil, why
	}
	l := &lan.Lease{Addr: netip.PrefixFrom(r.yiaddr, bits), Server: r.server, Via: r.via.String()}
	if why := atEdge(l.Addr); why != "" {
		return nil, why
	}
	if a.Subnet.IsValid() && !a.Subnet.Contains(r.yiaddr) {
		return nil, fmt.Sprintf("outside of %s", a.Subnet)
	}
	if why := times4(r, l); why != "" {
		return nil, why
	}
	n := notes{lease: l}
	n.routing(r)
	if mtu, ok := r.number(optMTU, 2); ok && mtu >= 576 {
		l.MTU = int(mtu)
	} else if ok {
		n.add("MTU %d is too small", mtu)
	}
	l.DNS = n.servers("DNS server", r.options[optDNS])
	l.NTP = n.servers("NTP server", r.options[optNTP])
	l.Domain = n.name("domain", r.options[optDomain])
	l.Hostname = n.name("host name", r.options[optHostname])
	n.search(r.options[optSearch])
	return l, ""
}

// serverRefused says why no lease is taken from a server.
func serverRefused(id netip.Addr, a *Ask) string {
	switch {
	case !id.IsValid():
		return "no server identifier"
	case !isUnicast(id):
		return fmt.Sprintf("server identifier %s is no host's", id)
	case slices.Contains(a.Deny, id):
		return "server is denied"
	case len(a.Servers) > 0 && !slices.Contains(a.Servers, id):
		return "server is not one of those that are allowed"
	}
	return ""
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	reserved4   = netip.MustParsePrefix("240.0.0.0/4")
	loopback4   = netip.MustParsePrefix("127.0.0.0/8")
	multicast4  = netip.MustParsePrefix("224.0.0.0/4")
)

// notHost says why a client cannot have an address.
func notHost(addr netip.Addr) string {
	switch {
	case addr.IsUnspecified():
		return "no address"
	case addr.IsLoopback():
		return "loopback address"
	case addr.IsMulticast():
		return "multicast address"
	case addr.IsLinkLocalUnicast():
		return "link-local address"
	case addr == everyone4:
		return "broadcast address"
	case thisNetwork.Contains(addr), reserved4.Contains(addr):
		return "reserved address"
	}
	return ""
}

// isUnicast reports whether some host may have an address: servers and routers are on
// link-local ones in some clouds.
func isUnicast(addr netip.Addr) bool {
	why := notHost(addr)
	return addr.Is4() && (why == "" || addr.IsLinkLocalUnicast())
}

// atEdge says whether an address is its subnet's own or its broadcast address. Subnets
// of two and one have neither (RFC 3021).
func atEdge(p netip.Prefix) string {
	if p.Bits() > 30 {
		return ""
	}
	host := uint32(math.MaxUint32) >> p.Bits()
	switch binary.BigEndian.Uint32(p.Addr().AsSlice()) & host {
	case 0:
		return fmt.Sprintf("network address of %s", p.Masked())
	case host:
		return fmt.Sprintf("broadcast address of %s", p.Masked())
	}
	return ""
}

// length4 is the length of the subnet's prefix.
func length4(r *reply4, a *Ask) (bits int, why string) {
	b, ok := r.options[optMask]
	if !ok && a.Subnet.IsValid() {
		return a.Subnet.Bits(), ""
	}
	if !ok {
		return 0, "no subnet mask"
	}
	if len(b) != 4 {
		return 0, "malformed subnet mask"
	}
	mask := binary.BigEndian.Uint32(b)
	// The bits of the hosts are a power of two less one.
	if host := ^mask; mask == 0 || host&(host+1) != 0 {
		return 0, fmt.Sprintf("subnet mask %s", netip.AddrFrom4([4]byte(b)))
	}
	for ; mask != 0; mask <<= 1 {
		bits++
	}
	return bits, ""
}

// times4 reads how long a lease is and when it is to be renewed; RFC 2131 section 4.4.5
// says when if the server does not, or says nonsense.
//
// What is sooner than minRenew is such.
func times4(r *reply4, l *lan.Lease) string {
	life, ok := r.number(optLife, 4)
	if !ok || life == 0 {
		return "no lease time"
	}
	l.Life = seconds(life)
	if l.Renew, l.Rebind = l.Life/2, l.Life/8*7; l.Life == lan.Infinite {
		l.Renew, l.Rebind = lan.Infinite, lan.Infinite
	}
	renew, rebind := l.Renew, l.Rebind
	if n, ok := r.number(optRenew, 4); ok {
		renew = seconds(n)
	}
	if n, ok := r.number(optRebind, 4); ok {
		rebind = seconds(n)
	}
	if min(minRenew, l.Life/2) <= renew && renew < rebind && rebind < l.Life {
		l.Renew, l.Rebind = renew, rebind
	}
	return ""
}

// seconds is a time as servers say it (RFC 2131 section 3.3, RFC 8415 section 7.7).
func seconds(n uint32) time.Duration {
	if n == math.MaxUint32 {
		return lan.Infinite
	}
	return time.Duration(n) * time.Second
}

// notes fills in a lease, and notes what of it was not taken.
type notes struct{ lease *lan.Lease }

func (n notes) add(format string, args ...any) {
	switch l := n.lease; {
	case len(l.Notes) < maxNotes:
		l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
	case len(l.Notes) == maxNotes:
		l.Notes = append(l.Notes, "and more")
	}
}

// routing takes the routes of option 121, which if it is there is instead of option 3
// (RFC 3442), or else the first router.
func (n notes) routing(r *reply4) {
	if b, ok := r.options[optRoutes]; ok {
		routes, ok := parseRoutes(b)
		if ok {
			n.routes(routes)
			return
		}
		n.add("malformed classless routes")
	}
	routers := n.addrs("router", r.options[optRouter])
	for _, router := range routers {
		switch why := n.notRouter(router); {
		case why != "":
			n.add("router %s %s", router, why)
		case n.lease.Gateway.IsValid():
			n.add("router %s: there is one already", router)
		default:
			n.lease.Gateway = router
		}
	}
}

// notRouter says why an address cannot be a next hop. A subnet of one has nobody else in
// it: then the route to the router is ours to make.
func (n notes) notRouter(addr netip.Addr) string {
	own := n.lease.Addr
	switch {
	case !isUnicast(addr):
		return "is no host"
	case addr == own.Addr():
		return "is the client itself"
	case own.Bits() == 32:
		return ""
	case !own.Contains(addr):
		return "is not in the subnet"
	case atEdge(netip.PrefixFrom(addr, own.Bits())) != "":
		return "is no host"
	}
	return ""
}

// parseRoutes reads the value of option 121 (RFC 3442): the length of a destination, as
// many of its bytes as matter, and the next hop.
func parseRoutes(b []byte) ([]lan.Route, bool) {
	var routes []lan.Route
	for len(b) > 0 {
		bits := int(b[0])
		size := (bits + 7) / 8
		if bits > 32 || len(b) < 1+size+4 {
			return nil, false
		}
		var dst [4]byte
		copy(dst[:], b[1:1+size])
		r := lan.Route{Dst: netip.PrefixFrom(netip.AddrFrom4(dst), bits).Masked()}
		if hop := netip.AddrFrom4([4]byte(b[1+size:])); !hop.IsUnspecified() {
			r.NextHop = hop
		}
		routes = append(routes, r)
		b = b[1+size+4:]
	}
	return routes, len(routes) > 0
}

// routes takes those that are on the link first, as others may need them.
func (n notes) routes(all []lan.Route) {
	l := n.lease
	slices.SortStableFunc(all, func(a, b lan.Route) int { return flag(a.NextHop.IsValid()) - flag(b.NextHop.IsValid()) })
	onLink := func(hop netip.Addr) bool {
		return slices.ContainsFunc(l.Routes, func(r lan.Route) bool { return !r.NextHop.IsValid() && r.Dst.Contains(hop) })
	}
	taken := map[netip.Prefix]bool{}
	for _, r := range all {
		why := notDestination(r.Dst)
		isDefault := r.Dst.Bits() == 0
		hop := r.NextHop
		switch {
		case why != "":
		case taken[r.Dst]:
			why = "is there already"
		case isDefault && !hop.IsValid():
			why = "has no router"
		case !hop.IsValid():
		case !isUnicast(hop) || hop == l.Addr.Addr():
			why = "has a next hop that is none"
		case !isDefault && l.Addr.Bits() == 32 && hop != l.Gateway && !onLink(hop):
			why = "has a next hop that is not on the link"
		case n.notRouter(hop) != "" && !onLink(hop):
			why = "has a next hop that is not on the link"
		}
		switch {
		case why != "":
			n.add("route to %s by %s %s", r.Dst, hopText(hop), why)
			continue
		case isDefault:
			l.Gateway = hop
		case len(l.Routes) == maxRoutes4:
			n.add("more than %d routes", maxRoutes4)
			return
		default:
			l.Routes = append(l.Routes, r)
		}
		taken[r.Dst] = true
	}
}

func hopText(hop netip.Addr) string {
	if !hop.IsValid() {
		return "the link"
	}
	return hop.String()
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// notDestination says why there can be no route to a subnet. Halves of everything, as
// VPNs route, are none of the reserved ones.
func notDestination(dst netip.Prefix) string {
	for _, bad := range []netip.Prefix{thisNetwork, loopback4, multicast4, reserved4} {
		if dst.Bits() >= bad.Bits() && bad.Contains(dst.Addr()) {
			return "goes to no host"
		}
	}
	return ""
}

// addrs is an option that is a list of addresses.
func (n notes) addrs(what string, b []byte) []netip.Addr {
	if len(b)%4 != 0 {
		n.add("malformed %s", what)
		return nil
	}
	var all []netip.Addr
	for ; len(b) >= 4; b = b[4:] {
		all = append(all, netip.AddrFrom4([4]byte(b)))
	}
	return all
}

// servers is an option that is a list of servers' addresses.
func (n notes) servers(what string, b []byte) []netip.Addr {
	var taken []netip.Addr
	for _, addr := range n.addrs(what, b) {
		switch {
		case !isUnicast(addr):
			n.add("%s %s is no host", what, addr)
		case slices.Contains(taken, addr):
		case len(taken) == maxServers:
			n.add("more than %d of: %s", maxServers, what)
			return taken
		default:
			taken = append(taken, addr)
		}
	}
	return taken
}

// name is an option that is one DNS name. Some servers end it with a NUL.
func (n notes) name(what string, b []byte) string {
	name := strings.TrimSuffix(strings.TrimRight(string(b), "\x00"), ".")
	if name == "" || isName(name) {
		return name
	}
	n.add("%s %q is no name", what, cleaned(name))
	return ""
}

// search takes the names of option 119.
func (n notes) search(b []byte) {
	names, ok := parseSearch(b)
	if !ok {
		n.add("malformed search list")
		return
	}
	for _, name := range names {
		if !isName(name) {
			n.add("search domain %q is no name", cleaned(name))
		} else if !slices.Contains(n.lease.Search, name) {
			n.lease.Search = append(n.lease.Search, name)
		}
	}
}

// parseSearch reads names as they are in DNS, with pointers to where the rest of a name
// is (RFC 3397, RFC 1035 section 4.1.4). Names beyond maxSearch are left out.
func parseSearch(b []byte) ([]string, bool) {
	var names []string
	for at := 0; at < len(b) && len(names) < maxSearch; {
		name, next, ok := nameAt(b, at)
		if !ok {
			return nil, false
		}
		if name != "" {
			names = append(names, name)
		}
		at = next
	}
	return names, true
}

// nameAt reads the name at a place, and says where the next one is. A pointer has to go
// backwards, further with each, so there is an end to it.
func nameAt(b []byte, at int) (name string, next int, ok bool) {
	var labels []string
	size, start, jumped := 0, at, false
	for at < len(b) {
		n := int(b[at])
		switch {
		case n == 0:
			if !jumped {
				next = at + 1
			}
			return strings.Join(labels, "."), next, true
		case n < 64:
			size += n + 1
			if at+1+n > len(b) || size > 254 {
				return "", 0, false
			}
			labels = append(labels, string(b[at+1:at+1+n]))
			at += 1 + n
		case n >= 0xc0 && at+1 < len(b):
			if !jumped {
				next, jumped = at+2, true
			}
			at = (n&0x3f)<<8 | int(b[at+1])
			if at >= start {
				return "", 0, false
			}
			start = at
		default:
			return "", 0, false
		}
	}
	return "", 0, false
}

// isName reports whether s is a DNS name as hosts have it (RFC 1123), or with underscores.
func isName(s string) bool { return lan.IsDomain(strings.ReplaceAll(s, "_", "x")) }

// cleaned is foreign text as it may be shown: printable ASCII, and not much of it.
func cleaned(s string) string {
	s = strings.TrimFunc(s, func(c rune) bool { return c <= ' ' })
	var b strings.Builder
	for _, c := range []byte(s[:min(len(s), maxText)]) {
		if c < ' ' || c > '~' {
			c = '?'
		}
		b.WriteByte(c)
	}
	return b.String()
}
