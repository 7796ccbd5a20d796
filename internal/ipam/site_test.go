package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

var ctx = context.Background()

// site is a Docker host on whose wire is the machine of a DHCP server: manager and engine
// as the daemon has them, asked as Docker asks.
type site struct {
	*ipam.Manager
	engine *engine.Engine
	t      testing.TB
	// host has eth1, and far the other end of its wire, lan0.
	host, far *kerneltest.Host
	server    *dhcpserver.Server
	conf      dhcpserver.Config
	dir       string
	log       *kerneltest.Log
	end       func()
	pools     map[string][]string // of networks
	boxes     int
	// opts are those of containers that start.
	opts lan.EndpointOptions
	// late is how long Docker takes to set a container's link up.
	late time.Duration
}

// newSite has a server of a kind, with an address of both families and pools of a hundred,
// whose leases are of an hour.
func newSite(t testing.TB, kind dhcpserver.Kind, change func(*dhcpserver.Config)) *site {
	t.Helper()
	s := &site{t: t, host: kerneltest.New(t), far: kerneltest.New(t), dir: t.TempDir(), pools: map[string][]string{}}
	s.host.IP("link add eth1 type veth peer name lan0 netns %s", s.far.Path())
	s.host.IP("link set eth1 up")
	s.far.IP("link set lo up")
	s.conf = dhcpserver.Config{
		Kind: kind, Link: "lan0", Addrs: []netip.Prefix{prefix("10.9.0.1/24"), prefix("fd00:9::1/64")}, NoPing: true, Authoritative: true,
		V4: &dhcpserver.Pool{Subnet: prefix("10.9.0.0/24"), From: addr("10.9.0.100"), To: addr("10.9.0.199")},
		V6: &dhcpserver.Pool{Subnet: prefix("fd00:9::/64"), From: addr("fd00:9::100"), To: addr("fd00:9::1ff")},
	}
	if change != nil {
		change(&s.conf)
	}
	var err error
	s.server, err = dhcpserver.Start(ctx, dhcpserver.Nsenter(s.far.Path()), filepath.Join(s.dir, "server"), s.conf)
	s.must(err)
	s.start()
	t.Cleanup(func() {
		if t.Failed() {
			var said strings.Builder
			for line := range strings.Lines(s.server.Log(ctx)) {
				if !strings.Contains(line, " HOSTS_") && !strings.Contains(line, " DHCPSRV_") && !strings.Contains(line, "RECLAMATION") {
					said.WriteString(line)
				}
			}
			t.Logf("the daemon said:\n%s\nthe server said:\n%s", s.log, said.String())
		}
		s.end()
		s.must(s.server.Close(ctx))
	})
	return s
}

// withEach runs a test with each server, all at the same time.
func withEach(t *testing.T, test func(t *testing.T, kind dhcpserver.Kind)) {
	t.Parallel()
	for _, kind := range []dhcpserver.Kind{dhcpserver.Dnsmasq, dhcpserver.Kea} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// start is a daemon that starts on what is on disk.
func (s *site) start() {
	s.t.Helper()
	db, err := store.Open(s.dir)
	s.must(err)
	links, err := link.NewAt(s.host.NS)
	s.must(err)
	state, err := db.Load()
	s.must(err)
	s.log = &kerneltest.Log{}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	s.Manager, err = ipam.New(ipam.Config{DB: db, Links: links, Log: log}, state)
	s.must(err)
	s.engine, err = engine.New(engine.Config{DB: db, Links: links, Addresses: s.Manager, State: state, Log: log, Waits: func(string) {}})
	s.must(err)
	run, cancel := context.WithCancel(ctx)
	done := make(chan error)
	for _, task := range []func(context.Context) error{s.engine.Run, s.Manager.Run} {
		go func() { done <- task(run) }()
	}
	s.end = func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		}
		links.Close()
		if err := db.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// reconfigure is an administrator who moves a pool, or the like.
func (s *site) reconfigure(change func(*dhcpserver.Config)) {
	s.t.Helper()
	change(&s.conf)
	s.must(s.server.Reconfigure(ctx, s.conf))
}

// network is docker network create --ipam-driver lanyard --ipam-opt source=dhcp -o
// parent=eth1, of IPv4, IPv6 or both.
func (s *site) network(id string, v4, v6 bool, opts ...string) {
	s.t.Helper()
	r := lan.NetworkRequest{ID: id, Options: map[string]string{"parent": "eth1"}, WantIPv4: v4, WantIPv6: v6}
	for _, o := range opts {
		key, value, _ := strings.Cut(o, "=")
		r.Options[key] = value
	}
	for _, is6 := range []bool{false, true} {
		if is6 && !v6 || !is6 && !v4 {
			continue
		}
		g, err := s.RequestPool(ctx, lan.PoolRequest{V6: is6, Options: map[string]string{"source": "dhcp"}})
		s.must(err)
		s.pools[id] = append(s.pools[id], g.ID)
		subnet := []lan.Subnet{{Pool: g.Subnet, Leased: true}}
		if is6 {
			r.IPv6 = subnet
		} else {
			r.IPv4 = subnet
		}
	}
	s.must(s.engine.CreateNetwork(ctx, r))
}

// box is a container on one network, whose link is eth0.
type box struct {
	*kerneltest.Host
	s           *site
	network, id string
	sandbox     string         // where the namespace is mounted
	addrs       []netip.Prefix // as Docker was told
}

// run is docker run --name, of an engine that says names unless that is "".
func (s *site) run(network, name string) *box {
	s.t.Helper()
	b, err := s.tryRun(network, name)
	s.must(err)
	return b
}

func (s *site) tryRun(network, name string) (_ *box, err error) {
	s.t.Helper()
	s.boxes++
	b := &box{Host: kerneltest.New(s.t), s: s, network: network, id: fmt.Sprintf("%012x%052x", s.boxes, 0)}
	b.sandbox = filepath.Join(s.dir, "sandbox-"+b.id)
	s.must(os.WriteFile(b.sandbox, nil, 0o600))
	s.must(unix.Mount(b.Path(), b.sandbox, "", unix.MS_BIND, ""))
	s.t.Cleanup(func() { _ = unix.Unmount(b.sandbox, unix.MNT_DETACH) }) // it may have crashed
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	q := engine.EndpointRequest{NetworkID: network, EndpointID: b.id, Options: s.opts}
	for _, pool := range s.pools[network] {
		p, err := s.RequestAddress(ctx, lan.AddressRequest{PoolID: pool, Name: name})
		if err != nil {
			return nil, err
		}
		b.addrs = append(b.addrs, p)
		if p.Addr().Is4() {
			q.IPv4 = p
		} else {
			q.IPv6 = p
		}
	}
	if _, err = s.engine.AddEndpoint(ctx, q); err != nil {
		return nil, err
	}
	a, err := s.engine.Join(ctx, network, b.id, b.sandbox)
	if err != nil {
		return nil, err
	}
	s.host.IP("link set %s netns %s", a.SrcName, b.Path())
	b.IP("link set %s name eth0", a.SrcName)
	for _, p := range b.addrs {
		b.IP("addr add %s dev eth0%s", p, map[bool]string{true: " nodad"}[p.Addr().Is6()])
	}
	time.Sleep(s.late)
	b.IP("link set eth0 up")
	return b, nil
}

// release is docker's ReleaseAddress for all that it was told.
func (b *box) release() {
	b.s.t.Helper()
	for i, p := range b.addrs {
		b.s.must(b.s.ReleaseAddress(ctx, b.s.pools[b.network][i], p.Addr()))
	}
}

// stop is docker stop.
func (b *box) stop() {
	b.s.t.Helper()
	b.s.must(b.s.engine.Leave(ctx, b.network, b.id))
	b.IP("link set eth0 down")
	b.IP("link set eth0 name ly-%s", lan.Short(b.id))
	b.IP("link set ly-%s netns %s", lan.Short(b.id), b.s.host.Path())
	b.s.must(b.s.engine.DeleteEndpoint(ctx, b.network, b.id))
	b.release()
}

// crash is a container that goes with its engine: nobody says so.
func (b *box) crash() {
	b.s.t.Helper()
	b.s.must(unix.Unmount(b.sandbox, unix.MNT_DETACH))
	b.s.must(b.NS.Close())
}

// has reports whether the container has an address.
func (b *box) has(a netip.Addr) bool {
	return strings.Contains(b.IP("addr show dev eth0"), " "+a.String()+"/")
}

// lease is the one lease that the container has of a family, as operators see it.
func (b *box) lease(v6 bool) ipam.LeaseState {
	b.s.t.Helper()
	all := slices.DeleteFunc(b.s.Leases(), func(l ipam.LeaseState) bool { return l.Endpoint != b.id || (l.DUID != "") != v6 })
	if len(all) != 1 {
		b.s.t.Fatalf("%d leases of %s, want one: %+v", len(all), b.id, b.s.Leases())
	}
	return all[0]
}

// squat is a device on the LAN with an address, which it announces when it comes up. It
// returns the MAC address.
func (s *site) squat(a netip.Addr) string {
	s.t.Helper()
	dev := kerneltest.New(s.t)
	s.far.IP("link add sq0 link lan0 type macvlan mode bridge")
	s.far.IP("link set sq0 netns %s", dev.Path())
	s.must(dev.NS.Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/conf/sq0/arp_notify", []byte("1"), 0o644),
			os.WriteFile("/proc/sys/net/ipv6/conf/sq0/ndisc_notify", []byte("1"), 0o644))
	}))
	length := map[bool]string{true: "/64 nodad", false: "/24"}[a.Is6()]
	dev.IP("addr add %s%s dev sq0", a, length)
	dev.IP("link set sq0 up")
	return strings.Fields(dev.IP("-br link show sq0"))[2]
}

// told are the events of a kind so far.
func (s *site) told(what string) []ipam.Event {
	return slices.DeleteFunc(s.Events(ctx, 0, false), func(e ipam.Event) bool { return e.What != what })
}

// within waits for something that is to come.
func (s *site) within(d time.Duration, what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%s: not within %s", what, d)
		}
	}
}

// Engines before 28 make a container's namespace after they had it join: until then its
// lease is not taken for one of a container that has gone.
func TestLeaseOfAContainerThatStarts(t *testing.T) {
	withEach(t, func(t *testing.T, kind dhcpserver.Kind) {
		s := newSite(t, kind, nil)
		s.network("n1", true, false)
		pool := s.pools["n1"][0]
		p, err := s.RequestAddress(ctx, lan.AddressRequest{PoolID: pool})
		s.must(err)
		id := strings.Repeat("a", 64)
		_, err = s.engine.AddEndpoint(ctx, engine.EndpointRequest{NetworkID: "n1", EndpointID: id, IPv4: p})
		s.must(err)
		_, err = s.engine.Join(ctx, "n1", id, filepath.Join(s.dir, "not-there-yet"))
		s.must(err)
		time.Sleep(1100 * time.Millisecond) // those that have gone are looked for each second
		other := s.run("n1", "")
		if other.addrs[0] == p {
			t.Errorf("%s is given to another container while the one that has it starts", p)
		}
		other.stop()
		s.must(s.engine.Leave(ctx, "n1", id))
		s.must(s.engine.DeleteEndpoint(ctx, "n1", id))
		s.must(s.ReleaseAddress(ctx, pool, p.Addr()))
	})
}
