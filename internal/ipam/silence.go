package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// wanting is a network on which a container did not start since no server answered, and
// the family of servers.
type wanting struct {
	network string
	v6      bool
}

// listenFor is how long one look for a server lasts: a server may ping an address for 3 s
// before it offers it.
const listenFor = 5 * time.Second

// silent notes that a container did not start since no server answered.
func (m *Manager) silent(n *lan.Network, a dhcp.Ask, v6 bool) {
	a.Addr, a.Only = netip.Addr{}, false
	m.mu.Lock()
	m.silences[wanting{n.ID, v6}] = a
	m.mu.Unlock()
	if m.onSilence != nil {
		m.onSilence(n.ID)
	}
}

// Answered reports whether DHCP servers answer again on a network where a container did
// not start since they were silent: each is asked for an offer, which is not taken. It
// blocks for some seconds where they are silent still. Where nothing is known of a silence
// it is true.
//
// Where addresses are shared with other hosts, the store has to answer as well.
func (m *Manager) Answered(ctx context.Context, networkID string) bool {
	if m.cluster != nil {
		m.mu.Lock()
		shared := false
		for _, sp := range m.spaces {
			shared = shared || sp.nets[networkID] != nil && sp.segment != ""
		}
		m.mu.Unlock()
		if _, down := m.cluster.Up(); shared && down != nil {
			return false
		}
	}
	for _, v6 := range []bool{false, true} {
		key := wanting{networkID, v6}
		m.mu.Lock()
		a, is := m.silences[key]
		var w *wire
		for _, sp := range m.spaces {
			if sp.nets[networkID] != nil {
				w = sp.wire
			}
		}
		m.mu.Unlock()
		if !is {
			continue
		}
		if !w.asks(v6) || !offered(ctx, w, a, v6) {
			return false
		}
		m.mu.Lock()
		delete(m.silences, key)
		m.mu.Unlock()
	}
	return true
}

// offered reports whether a server offers a lease.
func offered(ctx context.Context, w *wire, a dhcp.Ask, v6 bool) bool {
	ctx, cancel := context.WithTimeout(ctx, listenFor)
	defer cancel()
	heard := make(chan struct{}, 1)
	a.RapidCommit = false
	a.Refuse = func(*lan.Lease) string {
		select {
		case heard <- struct{}{}:
		default:
		}
		cancel()
		return "it was only asked whether there is a server"
	}
	_, _ = w.acquire(ctx, v6, a) // it never succeeds
	return len(heard) > 0
}

// explain says what to do where no server gave a lease.
func (m *Manager) explain(err error, n *lan.Network, w *wire, v6 bool) error {
	var silence *dhcp.SilenceError
	if !errors.As(err, &silence) {
		return fmt.Errorf("DHCP on %s: %w", n.Parent, err)
	}
	family := "DHCP"
	if v6 {
		family = "DHCPv6"
	}
	here, herr := m.links.Serves(serverPort(v6), v6, w.parent)
	if herr != nil {
		m.log.Debug("not known whether this host has a DHCP server", "err", herr)
	}
	var hint string
	switch {
	case here:
		hint = "A DHCP server runs on this host, and a host and its containers do not reach each other through their parent (a rule of macvlan and ipvlan); " +
			"let it listen on another interface that is on the same wire, or run it in a container on this parent"
	case len(silence.Heard) > 0:
		hint = "If one of these is the server that you want, what it offers has to be changed, or what the network takes (--subnet, --ip, dhcp_server, dhcp_deny)"
	case v6:
		hint = "There may be no DHCPv6 server on this VLAN; for addresses from router advertisements it is: -o ipv6=slaac"
	default:
		hint = "There may be no DHCP server on this VLAN, or the switch or hypervisor lets no frames of other MAC addresses through"
	}
	return lan.Refusef(lan.ErrUnavailable, "%s on %s: %v. %s; try: %s, or -o dhcp_timeout=30s where a switch port takes long to come up",
		family, n.Parent, err, hint, watching(n, v6))
}

func serverPort(v6 bool) uint16 {
	if v6 {
		return 547
	}
	return 67
}

// watching is a command that shows what goes to and comes from DHCP servers.
func watching(n *lan.Network, v6 bool) string {
	return fmt.Sprintf("tcpdump -eni %s port %d", n.Parent, serverPort(v6))
}
