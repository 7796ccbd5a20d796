package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// leaseWays are how a container gets its address in this part: each is a network on a
// parent of its own, with a server there of a kind, "" for none.
var leaseWays = []struct {
	name, title, create string
	kind                dhcpserver.Kind
}{
	{"static", "static pool", "--subnet 10.60.0.0/16 -o acd=off", ""},
	{"dnsmasq", "a new lease, dnsmasq", "--ipam-opt source=dhcp -o release=stop -o acd=off", dhcpserver.Dnsmasq},
	{"kea", "a new lease, Kea", "--ipam-opt source=dhcp -o release=stop -o acd=off", dhcpserver.Kea},
	{"again", "the lease of before, dnsmasq", "--ipam-opt source=dhcp -o acd=off", dhcpserver.Dnsmasq},
	{"probed", "a new lease, dnsmasq, detection on", "--ipam-opt source=dhcp -o release=stop", dhcpserver.Dnsmasq},
}

const (
	// leaseSlower is what DHCP may cost a docker run beside the server's round trips, in
	// milliseconds.
	leaseSlower = 20
	// leasesAtOnce is how many containers are started at the same time.
	leasesAtOnce = 100
)

// measureLeases measures docker run with a static address and with DHCP.
func (b *run) measureLeases(ctx context.Context) (err error) {
	var networks []string
	for i, w := range leaseWays {
		end, serr := b.leasing(ctx, i)
		defer func() { err = errors.Join(err, end()) }()
		if serr != nil {
			return serr
		}
		networks = append(networks, w.name)
	}
	b.say("docker run, %d ways to get a lease", len(leaseWays))
	rows, err := b.dockerRun(ctx, networks, func() error { return nil })
	if err != nil {
		return err
	}
	b.say("%d containers at once, static and with new leases", leasesAtOnce)
	many := addressRow{fmt.Sprintf("%d containers started at once", leasesAtOnce), make([]series, len(leaseWays))}
	for range b.leaseRounds {
		for _, i := range rand.Perm(3) {
			took, err := b.atOnce(ctx, leaseWays[i].name, leasesAtOnce)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", many.what, leaseWays[i].name, err)
			}
			many.times[i] = append(many.times[i], took)
		}
	}
	b.leased = append(rows, many)
	b.threads, err = b.status("Threads:")
	return err
}

// leasing makes the network of a way, and its server, until end.
func (b *run) leasing(ctx context.Context, i int) (end func() error, err error) {
	var ends []func(context.Context) error
	end = func() (err error) {
		for _, e := range slices.Backward(ends) {
			err = errors.Join(err, e(context.WithoutCancel(ctx)))
		}
		return err
	}
	w := leaseWays[i]
	err = b.sh(ctx, fmt.Sprintf("set -e; ip link add k%[1]d type veth peer name l%[1]d; ip link set k%[1]d up; ip link set l%[1]d up\n"+
		"docker network create -d lanyard --ipam-driver lanyard %[2]s -o parent=k%[1]d %[3]s >/dev/null", i, w.create, w.name))
	if err != nil || w.kind == "" {
		return end, err
	}
	apart, err := dhcpserver.NewApart(ctx, b.h.Sh, fmt.Sprintf("/var/tmp/lanyard-bench-apart-%d", i), fmt.Sprintf("l%d", i))
	if err != nil {
		return end, err
	}
	ends = append(ends, apart.Close)
	at := func(last int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(60 + i), byte(last >> 8), byte(last)})
	}
	s, err := dhcpserver.Start(ctx, apart.Run, fmt.Sprintf("/var/tmp/lanyard-bench-dhcp-%d", i), dhcpserver.Config{
		Kind: w.kind, Link: dhcpserver.ApartLink, Addrs: []netip.Prefix{netip.PrefixFrom(at(1), 16)}, NoPing: true, Authoritative: true,
		V4: &dhcpserver.Pool{Subnet: netip.PrefixFrom(at(0), 16), From: at(0x100), To: at(0x7fff)}, Routers: []netip.Addr{at(1)},
	})
	if err == nil {
		ends = append(ends, s.Close)
	}
	return end, err
}

// leasesText is the chapter. One lease takes one ns without Docker, each of 50 at once
// fifty.
func leasesText(onEngines []*results, one, fifty float64, p plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`docker run` on %d networks, a parent each, with a server of its own where it asks for leases: %d rounds, in an order drawn\n"+
		"anew each time, and %d of many at once. A new lease is two round trips, the lease of before one. Differences are those of medians in milliseconds, with\n"+
		"the interval that holds 95 of 100 resampled ones. Without Docker a new lease from dnsmasq takes %.1f ms from the first message\n"+
		"to the last (`BenchmarkAcquire`), of 50 at once %.1f ms each: that is what the server and the kernel take.\n",
		len(leaseWays), p.addressRounds, p.leaseRounds, one/1e6, fifty/1e6)
	wanted := one/1e6 + leaseSlower
	for _, r := range onEngines {
		fmt.Fprintf(&b, "\n### On Docker %s\n\n|", r.engine)
		for _, w := range leaseWays {
			fmt.Fprintf(&b, " | %s", w.title)
		}
		fmt.Fprintf(&b, " | dnsmasq less static | wanted | Kea less static |\n|%s\n", strings.Repeat("---|", len(leaseWays)+4))
		for _, row := range r.leased {
			fmt.Fprintf(&b, "| %s |", row.what)
			for _, s := range row.times {
				if len(s) == 0 {
					b.WriteString(" - |")
					continue
				}
				fmt.Fprintf(&b, " %s |", s.cell())
			}
			d, most := differenceOf(row.times[1], row.times[0]), "-"
			if len(row.times[3]) > 0 {
				most = fmt.Sprintf("at most %.0f and the server's round trips, %.0f: %s", float64(leaseSlower), wanted, d.against(wanted))
			}
			fmt.Fprintf(&b, " %s | %s | %s |\n", d, most, differenceOf(row.times[2], row.times[0]))
		}
		fmt.Fprintf(&b, "\nlanyard has %d threads after all this.\n", r.threads)
	}
	return strings.TrimSpace(b.String())
}

// leases measures what needs no Docker, and writes the chapter.
func leases(ctx context.Context, onEngines []*results, p plan) (string, error) {
	rows, _, err := goBench(ctx, "dhcp", "BenchmarkAcquire$", "300x", 3)
	if err != nil {
		return "", err
	}
	one, err1 := figure(rows, "BenchmarkAcquire/1AtOnce", "ns/op")
	fifty, err2 := figure(rows, "BenchmarkAcquire/50AtOnce", "ns/op")
	return leasesText(onEngines, one, fifty, p), errors.Join(err1, err2)
}
