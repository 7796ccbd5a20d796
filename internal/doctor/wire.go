package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// listenAll asks all wires, those of a base by one socket, and waits for what comes.
func (s *sight) listenAll(ctx context.Context) {
	bases := map[int][]*question{}
	for _, w := range s.wires {
		if w.err != nil || !w.base().Up || !w.base().Carrier || len(w.base().MAC) != 6 || s.wireless(w.base().Name) && len(w.nets) == 0 {
			continue
		}
		bases[w.base().Index] = append(bases[w.base().Index], s.questionFor(w))
	}
	var all sync.WaitGroup
	for index, questions := range bases {
		all.Go(func() {
			err := listen(ctx, packet.Link{NS: s.NS, Index: index}, questions, s.Listen)
			for _, q := range questions {
				if q.heard == nil {
					q.heard = &heard{}
				}
				q.heard.err = err
				q.w.heard = q.heard
			}
		})
	}
	all.Wait()
}

// questionFor is what a wire is to be asked.
func (s *sight) questionFor(w *wire) *question {
	q := &question{w: w, dhcp: true, routers: true}
	add := func(list *[]netip.Addr, a netip.Addr) {
		if a.IsValid() && !a.IsUnspecified() && len(*list) < maxAsk && !slices.Contains(*list, a) {
			*list = append(*list, a)
		}
	}
	for _, n := range w.nets {
		for _, sub := range n.subnets {
			if n.asksGateway() {
				add(&q.gateways, sub.gateway)
			}
		}
		for _, e := range n.endpoints {
			for _, a := range e.addrs {
				if e.running {
					add(&q.addrs, a.Addr())
				}
			}
		}
	}
	if len(w.nets) == 0 {
		// A parent that has no network yet: the host's own gateway there will do, if it has one.
		for _, g := range s.hostGateways(w) {
			add(&q.gateways, g)
		}
	}
	return q
}

// asksGateway reports whether a network's gateway is one that is to answer on the wire.
func (n *network) asksGateway() bool { return !n.internal && !n.l3() }

// checkWire judges what was heard of a wire.
func (s *sight) checkWire(w *wire) (list []Finding) {
	h := w.heard
	if h == nil {
		return nil // checkParent has said why
	}
	if h.err != nil {
		f := found("wire", w.text, Note, "was not listened to: %v", h.err)
		if errors.Is(h.err, os.ErrPermission) {
			f.What = "was not listened to: only root may"
		}
		return []Finding{f}
	}
	list = append(list, s.checkHeard(w)...)
	list = append(list, s.checkGateways(w)...)
	list = append(list, s.checkDuplicates(w)...)
	list = append(list, s.checkDHCP(w)...)
	return append(list, s.checkRouters(w)...)
}

// silent reports whether nothing of a wire was heard.
func (w *wire) silent() bool { return w.heard.frames[lan.TagIDs(w.tags)] == 0 }

// tagsHeard says what came, by tag.
func (w *wire) tagsHeard() string {
	var parts []string
	for _, tags := range slices.Sorted(maps.Keys(w.heard.frames)) {
		n := count(w.heard.frames[tags], "frame")
		if tags == "" {
			parts = append(parts, n+" without a tag")
		} else {
			parts = append(parts, n+" with tag "+tags)
		}
	}
	if len(parts) == 0 {
		return "nothing at all"
	}
	return some(parts)
}

// checkHeard judges whether the wire is there.
func (s *sight) checkHeard(w *wire) []Finding {
	base, tag, ever := w.base().Name, lan.TagIDs(w.tags), uint64(0)
	if w.made {
		ever = w.layers[0].Received
	}
	code := "wire"
	if tag != "" {
		code = "vlan"
	}
	on := fmt.Sprintf("heard on %s in %s: %s", base, s.Listen, w.tagsHeard())
	switch {
	case !w.silent() && tag == "":
		return []Finding{found(code, w.text, OK, "%s heard", count(w.heard.frames[tag], "frame"))}
	case !w.silent():
		return []Finding{found(code, w.text, OK, "the VLAN is on the trunk: %s with its tag heard", count(w.heard.frames[tag], "frame"))}
	case tag == "" && ever == 0:
		return []Finding{found(code, w.text, Warning, "nothing was heard, nor since the link is there").with("%s", on).with("sent: %s", strings.Join(w.heard.sent, "; "))}
	case tag == "":
		return []Finding{found(code, w.text, Note, "nothing was heard in %s; %s since the link is there", s.Listen, count(int(ever), "frame"))}
	}
	f := found(code, w.text, Failure, "nothing with tag %s was heard, nor an answer", tag).with("%s", on).with("sent with tag %s: %s", tag, strings.Join(w.heard.sent, "; "))
	for _, a := range w.heard.astray {
		f = f.with("%s", a)
	}
	id := w.tags[len(w.tags)-1].ID
	switch {
	case len(w.heard.astray) > 0:
		f = f.because("The answers come back with another tag than they were asked with, or without one: the switch port carries VLAN %d untagged, or this is the port's native VLAN.", id).
			try("on the switch: let the port carry VLAN %d tagged; or use %s itself as the parent, without a tag", id, base)
	case ever > 0:
		f.Verdict = Warning
		f = f.with("%s has taken %s since it was made", w.layers[0].Name, count(int(ever), "frame"))
	case len(w.heard.frames) == 0:
		f = f.because("Nothing at all is heard on %s, so this is not about one VLAN: nobody else is there, or frames do not come through.", base).
			try("check cable and switch port")
	}
	if f.Try == nil {
		f = f.try("on the switch: let the port of %s carry VLAN %d tagged (trunk, allowed VLANs)", base, id)
		if v := s.hypervisor(); v != nil && v.vlan != "" {
			f = f.try("in %s: %s", v.name, v.vlan)
		}
		f = f.try("lanyard doctor %s", w.parentName())
	}
	return []Finding{f}
}

// checkGateways judges who answers for the gateways, and whether a new MAC address is answered.
func (s *sight) checkGateways(w *wire) (list []Finding) {
	h := w.heard
	newMAC := Note // nobody answered either
	var evidence []string
	for _, g := range h.gateways {
		own, fresh := h.toOwn[g], h.toFresh[g]
		if len(own) > 0 && g.Is4() {
			evidence = append(evidence, fmt.Sprintf("%s answered %s", g, h.own))
		}
		if len(fresh) > 0 {
			evidence = append(evidence, fmt.Sprintf("%s answered %s, which is new", g, h.fresh))
			newMAC = OK
		} else if len(own) > 0 && g.Is4() {
			evidence = append(evidence, fmt.Sprintf("%s did not answer %s, which is new", g, h.fresh))
			if newMAC != OK {
				newMAC = Failure
			}
		}
		switch both := union(own, fresh); {
		case len(both) > 1:
			f := found("duplicate", w.text, Failure, "%d devices answer for the gateway's address %s", len(both), g)
			list = append(list, f.with("%s is %s", g, macTexts(both)))
		case len(both) == 1:
			list = append(list, found("gateway", w.text, OK, "the gateway %s answers, from %s", g, both[0]))
		case w.silent():
			// What hears nothing gets no answer; that is told already.
		default:
			list = append(list, found("gateway", w.text, Failure, "the gateway %s does not answer", g).
				with("asked thrice who has %s, in %s; no reply", g, s.Listen).with("heard on the wire: %s", w.tagsHeard()))
		}
	}
	if newMAC == Note || len(evidence) == 0 {
		if len(h.offers) == 0 {
			return list
		}
		evidence, newMAC = []string{"a DHCP server's offer came, which " + h.fresh.String() + " had asked for"}, OK
	}
	f := found("new-mac", w.text, newMAC, "an answer to a MAC address that the LAN did not know comes back")
	if newMAC == Failure {
		f.What = "answers come back to this host's MAC address and to no other"
		f = s.blame(w, f)
		if !w.has(func(n *network) bool { return n.kind == lan.Macvlan }) && len(w.nets) > 0 {
			f.Verdict = Note // ipvlan links have the host's
			f.What += "; ipvlan, which all networks here are, does without"
		}
	}
	f.Evidence = evidence
	return append(list, f)
}

// blame says who drops frames of MAC addresses other than the host's.
func (s *sight) blame(w *wire, f Finding) Finding {
	switch v := s.hypervisor(); {
	case s.wireless(w.base().Name):
		return f.because("%s is Wi-Fi: an access point takes frames only from the MAC address that joined it.", w.base().Name)
	case v != nil:
		f = f.because("This is a virtual machine of %s, whose virtual switch drops frames of MAC addresses that are not the virtual machine's.", v.name)
		for _, t := range v.mac {
			f = f.try("%s", t)
		}
		return f.try("or use -o ipvlan_mode=l2, whose containers share the host's MAC address")
	}
	return f.because("The switch passes frames for one MAC address on this port only (port security, 802.1X, a limit on MAC addresses).").
		try("on the switch: allow more MAC addresses on the port of %s (switchport port-security maximum, 802.1X multi-auth)", w.base().Name).
		try("or use -o ipvlan_mode=l2, whose containers share the host's MAC address")
}

func union(a, b []net.HardwareAddr) []net.HardwareAddr {
	all := slices.Clone(a)
	for _, m := range b {
		if !slices.ContainsFunc(all, func(o net.HardwareAddr) bool { return slices.Equal(o, m) }) {
			all = append(all, m)
		}
	}
	return all
}

func macTexts(macs []net.HardwareAddr) string {
	var list []string
	for _, m := range macs {
		list = append(list, m.String())
	}
	slices.Sort(list)
	return some(list)
}

// checkDuplicates judges who else answers for addresses of containers.
func (s *sight) checkDuplicates(w *wire) (list []Finding) {
	asked := 0
	for _, n := range w.nets {
		for _, e := range n.endpoints {
			for _, p := range e.addrs {
				a := p.Addr()
				if !e.running {
					continue
				}
				asked++
				others := slices.DeleteFunc(slices.Clone(w.heard.toOwn[a]), func(m net.HardwareAddr) bool { return m.String() == e.mac || slices.Equal(m, w.heard.own) })
				if len(others) == 0 {
					continue
				}
				f := found("duplicate", e.String(), Failure, "another device has its address %s", a).with("%s is %s too", a, macTexts(others))
				if slices.ContainsFunc(slices.Collect(maps.Values(w.heard.toFresh)), func(g []net.HardwareAddr) bool { return len(g) > 0 && slices.Equal(g[0], others[0]) }) {
					f = f.because("The gateway answers for the container's address: it has it itself, or answers for all (proxy ARP).").try("turn proxy ARP off on the router, or take another address")
				}
				list = append(list, f)
			}
		}
	}
	if len(list) == 0 && asked > 0 {
		what := count(asked, "container's address")
		if asked > 1 {
			what = fmt.Sprintf("%d containers' addresses", asked)
		}
		if asked > maxAsk {
			what = fmt.Sprintf("%d of %s", maxAsk, what)
		}
		list = append(list, found("duplicate", w.text, OK, "nobody else answers for %s", what))
	}
	return list
}

// checkDHCP judges the offers.
func (s *sight) checkDHCP(w *wire) (list []Finding) {
	offers := w.heard.offers
	text := func(o dhcp.Offer) string {
		t := fmt.Sprintf("%s (%s) offers %s", o.Server, o.Via, o.Addr)
		if o.Bits > 0 {
			t += fmt.Sprintf("/%d", o.Bits)
		}
		if o.Router.IsValid() {
			t += ", router " + o.Router.String()
		}
		return t
	}
	wanted := w.has(func(n *network) bool { return n.dhcp })
	switch {
	case len(offers) == 0 && wanted && !w.silent():
		f := found("dhcp", w.text, Failure, "no DHCP server answers, and %s is to have its addresses from one", names(wantsDHCP(w.nets))).
			with("2 DHCPDISCOVER in %s, no offer", s.Listen).
			because("There is no DHCP server on this wire, or none that has an address left for a MAC address that it does not know; or frames of new MAC addresses are dropped on the way.")
		list = append(list, f.try("start the server, or a relay, on this VLAN").try("lanyard lease ls, for containers that have a lease already"))
	case len(offers) == 1 || len(offers) > 1 && sameServer(offers):
		list = append(list, found("dhcp", w.text, OK, "one DHCP server answers").with("%s", text(offers[0])))
	case len(offers) > 1:
		f := found("dhcp", w.text, Warning, "%d DHCP servers answer", len(offers))
		if !wanted {
			f.Verdict = Note
		}
		for _, o := range offers {
			f = f.with("%s", text(o))
		}
		list = append(list, f)
	}
	for _, n := range w.nets {
		for _, sub := range n.subnets {
			for _, o := range offers {
				if !n.dhcp && sub.gives.IsValid() && sub.gives.Contains(o.Addr) {
					list = append(list, found("dhcp-pool", n.String(), Warning, "DHCP server %s gives out addresses of what the network gives out, %s", o.Server, sub.gives).with("%s", text(o)))
				}
			}
		}
	}
	return list
}

func wantsDHCP(nets []*network) (list []*network) {
	for _, n := range nets {
		if n.dhcp {
			list = append(list, n)
		}
	}
	return list
}

// sameServer reports whether all offers are of one server, which several relays may have passed on.
func sameServer(offers []dhcp.Offer) bool {
	for _, o := range offers {
		if o.Server != offers[0].Server {
			return false
		}
	}
	return true
}

// checkRouters judges the routers' advertisements.
func (s *sight) checkRouters(w *wire) (list []Finding) {
	routers := w.heard.routers
	var evidence []string
	var prefixes []netip.Prefix
	slaac := false
	for _, r := range routers {
		var told []string
		for _, p := range r.prefixes {
			told = append(told, p.String())
			prefixes = append(prefixes, p)
		}
		slaac = slaac || r.slaac
		t := fmt.Sprintf("%s (%s) advertises %s", r.from, r.via, cmp.Or(some(told), "no prefix"))
		if r.managed {
			t += ", addresses by DHCPv6"
		}
		if r.lifetime == 0 {
			t += ", and is no default router"
		}
		evidence = append(evidence, t)
	}
	for _, n := range w.nets {
		f := found("router", n.String(), OK, "%s", routersText(len(routers)))
		f.Evidence = evidence
		own := slices.ContainsFunc(n.subnets, func(sub subnet) bool { return sub.pool.Addr().Is6() && sub.pool.Bits() > 0 })
		fits := !own || len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
			return slices.ContainsFunc(n.subnets, func(sub subnet) bool { return sub.pool.Overlaps(p) })
		})
		switch {
		case n.ipv6 == lan.IPv6SLAAC && len(routers) == 0 && !w.silent():
			f.Verdict, f.What = Failure, "no router advertises itself, and containers are to make their IPv6 addresses of advertisements"
			f.Evidence = []string{fmt.Sprintf("2 router solicitations in %s, no advertisement", s.Listen)}
		case n.ipv6 == lan.IPv6SLAAC && len(routers) > 0 && !slaac:
			f.Verdict, f.What = Failure, "no router advertises a prefix that containers may make addresses of (autonomous flag)"
		case !fits:
			f.Verdict, f.What = Warning, "routers advertise other prefixes than the network's IPv6 subnet"
		case len(routers) == 0:
			continue
		}
		list = append(list, f)
	}
	if len(w.nets) == 0 && len(routers) > 0 {
		f := found("router", w.text, OK, "%s", routersText(len(routers)))
		f.Evidence = evidence
		list = append(list, f)
	}
	return list
}

func routersText(n int) string {
	if n == 1 {
		return "one IPv6 router advertises itself"
	}
	return fmt.Sprintf("%d IPv6 routers advertise themselves", n)
}
