package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/netns"
)

// Looking into a container costs a few milliseconds, pinging from it up to a second.
const (
	maxInside = 64 // containers that are looked into, of a network
	atOnce    = 16
)

// checkNetworks judges pools, leases and what containers have.
func (s *sight) checkNetworks(ctx context.Context) (list []Finding) {
	ours := map[string]*network{}
	for _, n := range s.nets {
		ours[n.id] = n
	}
	list = append(list, s.checkPools(ours)...)
	list = append(list, s.checkConflicts()...)
	list = append(list, s.checkLeases(ours)...)
	var mu sync.Mutex // guards list
	var work errgroup.Group
	work.SetLimit(atOnce)
	for _, n := range s.nets {
		looked, pinged := 0, false
		for _, e := range n.endpoints {
			if !e.running || e.sandbox == "" {
				continue
			}
			if looked++; looked > maxInside {
				mu.Lock()
				list = append(list, found("container-link", n.String(), Note, "%d of %d containers were looked into", maxInside, len(n.endpoints)))
				mu.Unlock()
				break
			}
			// One container speaks for the network; which one is the same each time.
			ping := !pinged
			pinged = true
			work.Go(func() error {
				got := s.checkContainer(ctx, e, ping)
				mu.Lock()
				defer mu.Unlock()
				list = append(list, got...)
				return nil
			})
		}
	}
	work.Wait()
	slices.SortStableFunc(list, func(a, b Finding) int { return strings.Compare(a.Subject, b.Subject) })
	return list
}

// A pool is nearly full where a tenth is left, and less than so many.
const nearlyFull = 16

// checkPools judges how many addresses are left.
func (s *sight) checkPools(ours map[string]*network) (list []Finding) {
	for _, p := range s.Daemon.Pools {
		i := slices.IndexFunc(p.Networks, func(id string) bool { return ours[id] != nil })
		if i < 0 || !p.First.IsValid() {
			continue
		}
		left := p.Free
		f := found("pool", ours[p.Networks[i]].String(), OK, "%d of %s's %d addresses are free", left, p.Subnet, p.Size)
		f = f.with("%d used, %d reserved, %d kept for containers that may come back, %d in use by others", p.Used, p.Reserved, p.Resting, p.Conflicting)
		switch {
		case left == 0:
			f.Verdict, f.What = Failure, fmt.Sprintf("no address of %s is free", p.Subnet)
		case left < nearlyFull && left < p.Size/10:
			f.Verdict, f.What = Warning, fmt.Sprintf("only %d of %s's %d addresses are free", left, p.Subnet, p.Size)
		}
		if f.Verdict > OK {
			f = f.try("lanyard pool inspect %s", ours[p.Networks[i]].name).try("a larger --ip-range or subnet: the network has to be created anew for it")
		}
		list = append(list, f)
	}
	return list
}

// checkConflicts tells of addresses that the daemon has heard others use.
func (s *sight) checkConflicts() (list []Finding) {
	for _, n := range s.nets {
		var taken []string
		for _, a := range s.Daemon.Conflicts {
			switch {
			case !control.InNetwork(s.Daemon.Pools, n.id, &a):
				// It is another network's, or none's any more.
			case a.Rival != "":
				list = append(list, found("conflict", n.String(), Failure, "the address %s of container %s is used by %s too", a.Address, orUnknown(a.Container), a.Rival).with("on %s", a.Wire))
			case a.State == ipam.StateConflict:
				taken = append(taken, fmt.Sprintf("%s by %s, since %s", a.Address, orUnknown(a.MAC), a.Since.Format(time.RFC3339)))
			}
		}
		if len(taken) > 0 {
			f := found("conflict", n.String(), Note, "%s of what it gives out are used by others, and left out", count(len(taken), "address"))
			f.Evidence = taken[:min(len(taken), 8)]
			list = append(list, f)
		}
	}
	return list
}

func orUnknown(s string) string {
	if s == "" {
		return "somebody"
	}
	return s
}

// checkLeases judges whether leases are renewed.
func (s *sight) checkLeases(ours map[string]*network) (list []Finding) {
	good := 0
	for _, l := range s.Daemon.Leases {
		if n := ours[l.Network]; n == nil {
			continue
		}
		subject := "lease " + l.ID
		if l.Address.IsValid() {
			subject += ", " + l.Address.String()
		}
		f := found("lease", subject, Warning, "%s", l.Problem)
		switch {
		case l.State == ipam.LeaseLost:
			f.Verdict, f.What = Failure, "was taken back or ended, and the container runs without an address"
			if l.Problem != "" {
				f = f.with("%s", l.Problem)
			}
		case l.State == ipam.LeaseFallback:
			f.What = "no DHCP server gave an address, so the container has one of dhcp_fallback"
		case l.Problem == "":
			if l.State == ipam.LeaseBound || l.State == ipam.LeaseRenewing || l.State == ipam.LeaseRebinding {
				good++
			}
			continue
		}
		if !l.EndsAt.IsZero() {
			f = f.with("ends at %s", l.EndsAt.Format(time.RFC3339))
		}
		list = append(list, f.try("lanyard lease inspect %s", l.ID).try("lanyard lease renew %s", l.ID))
	}
	if good > 0 && len(list) == 0 {
		list = append(list, found("lease", onHost, OK, "%s of containers, with nothing wrong", count(good, "lease")))
	}
	return list
}

// checkContainer looks into a container, and has it ping its gateway and the host.
func (s *sight) checkContainer(ctx context.Context, e *endpoint, ping bool) (list []Finding) {
	ns, err := netns.Open(e.sandbox)
	if err != nil {
		f := found("container-link", e.String(), Failure, "its network namespace is gone").with("%v", err)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			f = found("container-link", e.String(), Note, "not looked into: only root may")
		}
		return []Finding{f.try("docker ps, and docker restart %s if it is to run", e.container)}
	}
	defer ns.Close()
	var l netlink.Link
	var have []netlink.Addr
	var routes []netlink.Route
	err = ns.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, x := range links {
			addrs, err := netlink.AddrList(x, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			if e.is(x, addrs) {
				l, have = x, addrs
			}
		}
		routes, err = netlink.RouteList(nil, netlink.FAMILY_V4)
		return err
	})
	switch {
	case err != nil:
		return []Finding{found("container-link", e.String(), Note, "not looked into: %v", err)}
	case l == nil:
		return []Finding{found("container-link", e.String(), Failure, "its link is not in the container").
			with("no macvlan or ipvlan link with MAC address %s or %s in %s", orUnknown(e.mac), prefixTexts(e.addrs), e.sandbox).
			try("lanyard repair").try("docker restart %s", e.container)}
	}
	name := l.Attrs().Name
	if l.Attrs().Flags&net.FlagUp == 0 {
		list = append(list, found("container-link", e.String(), Failure, "its link %s is down", name).try("docker restart %s", e.container))
	}
	for _, p := range e.addrs {
		i := slices.IndexFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(net.IP(p.Addr().AsSlice())) })
		switch {
		case i < 0:
			list = append(list, found("container-link", e.String(), Failure, "its address %s is not on %s", p.Addr(), name).with("%s has %s", name, addrList(have)).try("docker restart %s", e.container))
		case have[i].Flags&unix.IFA_F_DADFAILED != 0:
			list = append(list, found("duplicate", e.String(), Failure, "the kernel found its address %s in use by another device, and does not use it", p.Addr()))
		}
	}
	if len(list) > 0 {
		return list
	}
	with := prefixTexts(e.addrs)
	own := slices.DeleteFunc(slices.Clone(have), func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
	if len(e.addrs) == 0 && len(own) > 0 {
		with = addrList(own) + ", which the container has made itself"
	}
	list = append(list, found("container-link", e.String(), OK, "%s is up, with %s", name, with))
	list = append(list, s.checkRoute(e, l, routes)...)
	if ping {
		for _, g := range e.gateways() {
			list = append(list, s.checkReach(ctx, e, ns, l, g)...)
		}
	}
	if e.net.hostAccess && ping {
		list = append(list, s.checkHostAccess(ctx, e, ns, l)...)
	}
	return list
}

// is reports whether a link in the container is the endpoint's.
func (e *endpoint) is(l netlink.Link, addrs []netlink.Addr) bool {
	if t := l.Type(); t != "macvlan" && t != "ipvlan" {
		return false
	}
	if e.mac != "" && l.Type() == "macvlan" {
		return l.Attrs().HardwareAddr.String() == e.mac
	}
	if e.record != nil && (l.Attrs().Alias == e.record.LinkName() || e.record.Link != "" && l.Attrs().Name == e.record.Link) {
		return true
	}
	return slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool {
		return slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(net.IP(p.Addr().AsSlice())) })
	})
}

func prefixTexts(list []netip.Prefix) string {
	var texts []string
	for _, p := range list {
		texts = append(texts, p.String())
	}
	if len(texts) == 0 {
		return "no address"
	}
	return some(texts)
}

func addrList(list []netlink.Addr) string {
	var texts []string
	for _, a := range list {
		texts = append(texts, a.IPNet.String())
	}
	if len(texts) == 0 {
		return "no address"
	}
	return some(texts)
}

// gateways are those of the network that a container of it is to have: one of IPv4, one of IPv6.
func (e *endpoint) gateways() (list []netip.Addr) {
	if !e.net.asksGateway() {
		return nil
	}
	for _, p := range e.addrs {
		for _, sub := range e.net.subnets {
			if sub.gateway.IsValid() && !sub.gateway.IsUnspecified() && sub.pool.Contains(p.Addr()) {
				list = append(list, sub.gateway)
			}
		}
	}
	return list
}

// checkRoute judges where the container's IPv4 default route leads.
func (s *sight) checkRoute(e *endpoint, l netlink.Link, routes []netlink.Route) []Finding {
	i := slices.IndexFunc(e.gateways(), netip.Addr.Is4)
	if i < 0 {
		return nil
	}
	gateway := e.gateways()[i]
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && !isAll(r.Dst) })
	if len(routes) > 0 {
		r := slices.MinFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		via, _ := netip.AddrFromSlice(r.Gw)
		switch via = via.Unmap(); {
		case r.LinkIndex != l.Attrs().Index:
			return []Finding{found("default-route", e.String(), Note, "the default route leads by another network of the container, via %s", via)}
		case via != gateway:
			return []Finding{found("default-route", e.String(), Warning, "the default route leads via %s, not the network's gateway %s", via, gateway)}
		}
		return []Finding{found("default-route", e.String(), OK, "leads via %s", via)}
	}
	return []Finding{found("default-route", e.String(), Warning, "the container has no default route").with("the network's gateway is %s", gateway)}
}

func isAll(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// Sizes of packets that links and tunnels have, in bytes, the largest first: what is tried where a full one does not
// pass.
var sizes = []int{8950, 4000, 1500, 1496, 1492, 1480, 1472, 1450, 1420, 1400, 1360, 1280, 576}

// pingWait is how long an answer may take. The gateway is on the LAN.
const pingWait = 700 * time.Millisecond

// checkReach has the container ping a gateway, with a small and a full packet.
func (s *sight) checkReach(ctx context.Context, e *endpoint, ns *netns.NS, l netlink.Link, gateway netip.Addr) []Finding {
	from := e.from(gateway)
	rtt, err := ping(ctx, ns, l.Attrs().Name, from, gateway, 84, 2)
	if err != nil {
		f := found("reach", e.String(), Failure, "the gateway %s does not answer", gateway).with("2 ICMP echo requests from %s: %v", from, err)
		state := neighbour(ns, l, gateway)
		if state == "reachable" {
			f.Verdict = Note
			f.What = fmt.Sprintf("the gateway %s does not answer pings, but is there", gateway)
		}
		return []Finding{f.with("neighbour entry of %s: %s", gateway, state)}
	}
	mtu := l.Attrs().MTU
	list := []Finding{found("reach", e.String(), OK, "its gateway %s answers, in %s", gateway, rtt.Round(10*time.Microsecond))}
	if _, err := ping(ctx, ns, l.Attrs().Name, from, gateway, mtu, 2); err == nil {
		return append(list, found("path-mtu", e.String(), OK, "packets of %d bytes reach its gateway", mtu))
	}
	passes := make([]bool, len(sizes))
	var all sync.WaitGroup
	for i, size := range sizes {
		if size < mtu {
			all.Go(func() { _, err := ping(ctx, ns, l.Attrs().Name, from, gateway, size, 2); passes[i] = err == nil })
		}
	}
	all.Wait()
	f := found("path-mtu", e.String(), Warning, "packets of %d bytes, the link's MTU, get no answer of the gateway", mtu).with("84 bytes are answered in %s", rtt.Round(10*time.Microsecond))
	if i := slices.Index(passes, true); i >= 0 {
		f = f.with("%d bytes are answered", sizes[i]).
			try("docker network create ... -o com.docker.network.driver.mtu=%d, or raise the MTU on the way", sizes[i])
	}
	return append(list, f)
}

// from is the endpoint's address of the same family and subnet as another one.
func (e *endpoint) from(to netip.Addr) netip.Addr {
	for _, p := range e.addrs {
		if p.Addr().Is4() == to.Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// neighbour is the state of a container's neighbour entry, in words.
func neighbour(ns *netns.NS, l netlink.Link, addr netip.Addr) string {
	state := "none"
	ns.Do(func() error {
		list, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range list {
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == addr {
				switch {
				case n.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE|unix.NUD_PERMANENT) != 0:
					state = "reachable"
				case n.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) != 0:
					state = "no reply"
				}
			}
		}
		return err
	})
	return state
}

// checkHostAccess has the host ping the container, and the container the host.
func (s *sight) checkHostAccess(ctx context.Context, e *endpoint, ns *netns.NS, l netlink.Link) (list []Finding) {
	for _, p := range e.addrs {
		to := p.Addr()
		host := s.sourceFor(to)
		f := found("host-access", e.String(), OK, "host and %s reach each other", to)
		if !host.IsValid() {
			f.Verdict, f.What = Failure, fmt.Sprintf("the host has no route to %s, or no address of its family", to)
			list = append(list, f.try("ip route get %s", to).try("lanyard network inspect %s", e.net.name))
			continue
		}
		if _, err := ping(ctx, s.NS, "", host, to, 84, 2); err != nil {
			f.Verdict, f.What = Failure, fmt.Sprintf("the container does not answer the host at %s", to)
			f = f.with("2 ICMP echo requests from %s to %s: %v", host, to, err).
				because("The container drops pings, or a firewall of the host does; or what lanyard set up for it is gone.").try("ip route get %s", to).try("lanyard repair --dry-run")
		} else if _, err := ping(ctx, ns, l.Attrs().Name, to, host, 84, 2); err != nil {
			f.Verdict, f.What = Failure, fmt.Sprintf("the host does not answer the container at %s", host)
			f = f.with("2 ICMP echo requests from %s to %s: %v", to, host, err).because("The host reaches the container, so the link is there: a firewall on the host drops what comes from containers.").
				try("nft list ruleset, or iptables -S INPUT: let %s in", to)
		} else {
			f = f.with("the host is %s for it", host)
		}
		list = append(list, f)
	}
	return list
}

// sourceFor is the address that the host has towards another one; the zero Addr for none.
func (s *sight) sourceFor(to netip.Addr) (from netip.Addr) {
	s.inside(func() error {
		routes, err := netlink.RouteGet(net.IP(to.AsSlice()))
		if err == nil && len(routes) > 0 {
			from, _ = netip.AddrFromSlice(routes[0].Src)
			from = from.Unmap()
		}
		return err
	})
	return from
}

// ping sends ICMP echo requests of a size (bytes of the IP packet), which may not be fragmented, until one is answered,
// and returns how long that took. It is sent in a namespace (nil: the caller's), by a link where that is not "".
func ping(ctx context.Context, ns *netns.NS, by string, from, to netip.Addr, size, tries int) (time.Duration, error) {
	network, proto, head := "ip4:icmp", 1, 20
	var kind, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if to.Is6() {
		network, proto, head = "ip6:ipv6-icmp", 58, 40
		kind, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var conn *net.IPConn
	open := func() error {
		c, err := net.ListenIP(network, &net.IPAddr{IP: net.IP(from.AsSlice())})
		if err != nil {
			return err
		}
		conn = c
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var serr error
		err = raw.Control(func(fd uintptr) {
			if to.Is6() {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
			} else {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
			}
			if by != "" && serr == nil {
				serr = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, by)
			}
		})
		return errors.Join(err, serr)
	}
	err := error(nil)
	if ns != nil {
		err = ns.Do(open)
	} else {
		err = open()
	}
	if conn != nil {
		defer conn.Close()
	}
	if err != nil {
		return 0, err
	}
	id := int(uint16(time.Now().UnixNano())) ^ size
	buf := make([]byte, size+128)
	for seq := range tries {
		m := icmp.Message{Type: kind, Body: &icmp.Echo{ID: id & 0xffff, Seq: seq, Data: make([]byte, max(size-head-8, 0))}}
		b, err := m.Marshal(nil)
		if err != nil {
			return 0, err
		}
		start := time.Now()
		if _, err := conn.WriteTo(b, &net.IPAddr{IP: net.IP(to.AsSlice())}); err != nil {
			return 0, err
		}
		end := start.Add(pingWait)
		if d, ok := ctx.Deadline(); ok && d.Before(end) {
			end = d
		}
		conn.SetReadDeadline(end)
		for {
			n, peer, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			got, err := icmp.ParseMessage(proto, buf[:n])
			if err != nil || got.Type != reply {
				continue
			}
			if echo, ok := got.Body.(*icmp.Echo); ok && echo.ID == id&0xffff && peer.String() == to.String() {
				return time.Since(start), nil
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return 0, errors.New("no answer")
}
