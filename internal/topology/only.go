package topology

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Host leaves only a host, and reports whether it is there.
func (m *Map) Host(name string) bool {
	m.Hosts = slices.DeleteFunc(m.Hosts, func(h Host) bool { return h.Name != name })
	return len(m.Hosts) > 0
}

// Only leaves what the words mean, and what that is on: networks, by name, id or the beginning of an
// id, with all their containers; and containers, in the same way or by an address or MAC
// address. No words leave all. A word that means nothing is lan.ErrNotFound.
func (m *Map) Only(words []string) error {
	if len(words) == 0 {
		return nil
	}
	used := make([]bool, len(words))
	m.each(func(_ *Host, _ *Parent, _ *VLAN, n *Network) {
		whole := false
		for i, w := range words {
			if named(w, n.Name, n.ID) {
				used[i], whole = true, true
			}
		}
		some := []Endpoint{}
		for _, e := range n.Endpoints {
			meant := whole
			for i, w := range words {
				if e.is(w) {
					used[i], meant = true, true
				}
			}
			if meant {
				some = append(some, e)
			}
		}
		n.Endpoints = some
		if !whole && len(some) == 0 {
			n.ID = "" // goes below
		}
	})
	for i, w := range words {
		if !used[i] {
			return lan.Refusef(lan.ErrNotFound, "%q is no network, container or address that is known; try: lanyard map", w)
		}
	}
	for h := range m.Hosts {
		parents := m.Hosts[h].Parents
		for p := range parents {
			for v := range parents[p].VLANs {
				vlan := &parents[p].VLANs[v]
				vlan.Networks = slices.DeleteFunc(vlan.Networks, func(n Network) bool { return n.ID == "" })
			}
			parents[p].VLANs = slices.DeleteFunc(parents[p].VLANs, func(v VLAN) bool { return len(v.Networks) == 0 })
		}
		m.Hosts[h].Parents = slices.DeleteFunc(parents, func(p Parent) bool { return len(p.VLANs) == 0 })
	}
	m.Hosts = slices.DeleteFunc(m.Hosts, func(h Host) bool { return len(h.Parents) == 0 })
	return nil
}

// named reports whether a word is a name, an id, or enough of one.
func named(word, name, id string) bool {
	return word != "" && (word == name || word == id || len(word) >= 4 && strings.HasPrefix(id, word))
}

// is reports whether a word means the endpoint.
func (e *Endpoint) is(word string) bool {
	if named(word, e.Name, e.ID) || e.MAC != "" && strings.EqualFold(word, e.MAC) {
		return true
	}
	addr, err := netip.ParseAddr(word)
	return err == nil && slices.ContainsFunc(e.Addresses, func(a Address) bool { return a.Address.Addr() == addr || a.Told == addr })
}
