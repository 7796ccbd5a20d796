// Package dhcpserver runs the DHCP servers that tests lease addresses from: dnsmasq
// and Kea, for DHCP and DHCPv6, and a relay agent for those behind a router. They are
// the real programs of Debian 12, with configuration of their own; none of them is a
// service of the machine.
//
// A server runs in a place: a namespace of this machine, a Docker host of package
// dockerd, or a guest of package uml. A place is known by its Runner, and by a folder
// there for all that the server keeps. What a Server starts outlives the test that
// does not Close it.
package dhcpserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Kind is the program of a server.
type Kind string

const (
	// Dnsmasq gives leases of 2 minutes at least; see Config.Renew. Before it offers
	// an address it pings it for 3 s, unless NoPing, one client after the other. It
	// answers to the hardware address in the message (chaddr) or, if asked to, by
	// broadcast; requests with ciaddr by way of its kernel, which asks for ciaddr by
	// ARP.
	Dnsmasq Kind = "dnsmasq"
	// Kea gives leases of any length. It pings nothing, and has no rapid commit in
	// IPv4. It answers to the Ethernet source of what it received, whatever chaddr
	// is: broadcasts too, which are ones in the IP header alone.
	Kea Kind = "kea"
)

// Config is what a server gives, and to whom. Kind, Link and a pool are required.
type Config struct {
	Kind Kind
	// Link is the server's interface, which must exist. Start sets it up and gives
	// it Addrs, one of which must be in the subnet of each pool that is no relay's.
	Link   string
	Addrs  []netip.Prefix
	V4, V6 *Pool

	// LeaseTime is an hour for 0. Renew and Rebind are options 58 and 59, and T1 and T2
	// of DHCPv6 for Kea; for 0 the server's own: half and 7/8 of the lease's time from
	// dnsmasq, none from Kea.
	LeaseTime, Renew, Rebind time.Duration
	// Authoritative servers refuse requests for leases that they do not know.
	Authoritative bool
	NoPing        bool // for dnsmasq
	RapidCommit   bool

	Reservations []Reservation

	// Options; those of both families are sorted by their addresses.
	Routers []netip.Addr // IPv4; none are given for none
	DNS     []netip.Addr
	NTP     []netip.Addr // IPv4
	Routes  []Route      // IPv4, option 121
	MTU     int
	Domain  string
	Search  []string

	// RA makes dnsmasq a router that says that addresses are to be had by DHCPv6.
	// Kea has nothing of the kind.
	RA bool

	// Lines are more lines for dnsmasq.conf; Members more members of Kea's objects
	// Dhcp4 and Dhcp6, over those of this package.
	Lines   []string
	Members map[string]any
}

// Pool is the addresses that a server gives to whom has no reservation.
type Pool struct {
	Subnet   netip.Prefix
	From, To netip.Addr
}

// Reservation is an address of a client's own. It is in the subnet of a pool, not
// necessarily in its range.
type Reservation struct {
	// MAC or ClientID names the client; ClientID is hexadecimal: option 61 in IPv4,
	// the DUID in IPv6.
	MAC, ClientID string
	Addr          netip.Addr
	Host          string // may be ""
}

// Route is a route that clients are told of.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Server is a server in its place. Its methods must not be called at the same time,
// but for Leases and Log.
type Server struct {
	c    Config
	run  Runner
	dir  string
	jobs []job
}

// job is a process of a server.
type job struct {
	name    string // of its files
	program string
	args    string
	ready   string // what it logs when it serves; a regular expression of grep
}

// Start starts a server in a place, and waits until it serves. dir is a folder there
// that is made; leases that are in it are kept.
func Start(ctx context.Context, run Runner, dir string, c Config) (*Server, error) {
	s := &Server{run: run, dir: dir}
	err := s.configure(ctx, c)
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// configure checks a configuration and writes its files.
func (s *Server) configure(ctx context.Context, c Config) error {
	if c.LeaseTime == 0 {
		c.LeaseTime = time.Hour
	}
	files, jobs, err := c.files(s.dir)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Kind, err)
	}
	s.c, s.jobs = c, jobs
	script := "set -e\nmkdir -p " + s.dir + "\n"
	for name, text := range files {
		script += fmt.Sprintf("cat >%s <<'END-OF-FILE'\n%s\nEND-OF-FILE\n", path.Join(s.dir, name), strings.TrimSpace(text))
	}
	script += "ip link set " + c.Link + " up\n"
	for _, a := range c.Addrs {
		nodad := ""
		if a.Addr().Is6() {
			nodad = " nodad"
		}
		script += fmt.Sprintf("ip addr replace %s dev %s%s\n", a, c.Link, nodad)
	}
	if c.V6 != nil {
		// A server cannot send from an address that is not known to be the only one.
		script += fmt.Sprintf("for i in $(seq 100); do [ -n \"$(ip -6 addr show dev %[1]s scope link tentative)\" ] || break; sleep 0.05; done\n", c.Link)
	}
	if out, err := s.run(ctx, script); err != nil {
		return fmt.Errorf("configure %s: %w: %s", c.Kind, err, out)
	}
	return nil
}

// files are the configuration's files by name, and the processes that read them.
func (c *Config) files(dir string) (map[string]string, []job, error) {
	if c.V4 == nil && c.V6 == nil {
		return nil, nil, errors.New("no pool")
	}
	if c.Renew != 0 && c.Renew >= c.LeaseTime || c.Rebind != 0 && c.Rebind >= c.LeaseTime {
		return nil, nil, errors.New("renewal after the lease's end")
	}
	switch c.Kind {
	case Dnsmasq:
		if c.LeaseTime < 2*time.Minute {
			return nil, nil, fmt.Errorf("leases of %s: it makes them 2 minutes; try: %s", c.LeaseTime, Kea)
		}
		return map[string]string{"dnsmasq.conf": c.dnsmasq(dir)}, []job{{
			name: "dnsmasq", program: "/usr/sbin/dnsmasq", args: "--keep-in-foreground --conf-file=" + dir + "/dnsmasq.conf", ready: `started, version`,
		}}, nil
	case Kea:
		files, jobs := map[string]string{}, []job(nil)
		for _, family := range []int{4, 6} {
			if family == 4 && c.V4 == nil || family == 6 && c.V6 == nil {
				continue
			}
			text, err := c.kea(dir, family)
			if err != nil {
				return nil, nil, err
			}
			name := fmt.Sprintf("kea%d", family)
			files[name+".conf"] = text
			jobs = append(jobs, job{
				name: name, program: fmt.Sprintf("/usr/sbin/kea-dhcp%d", family), args: fmt.Sprintf("-c %s/%s.conf", dir, name), ready: fmt.Sprintf("DHCP%d_STARTED", family),
			})
		}
		return files, jobs, nil
	}
	return nil, nil, errors.New("no such kind of server")
}

// Start starts a server that was stopped or killed, with the leases that it gave.
func (s *Server) Start(ctx context.Context) error {
	for _, j := range s.jobs {
		if err := start(ctx, s.run, s.dir, j); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends the server with SIGTERM and waits for its end. Its addresses and leases
// stay.
func (s *Server) Stop(ctx context.Context) error { return s.end(ctx, "TERM") }

// Kill ends the server with SIGKILL.
func (s *Server) Kill(ctx context.Context) error { return s.end(ctx, "KILL") }

func (s *Server) end(ctx context.Context, signal string) error {
	var errs []error
	for _, j := range s.jobs {
		errs = append(errs, end(ctx, s.run, s.dir, j, signal))
	}
	return errors.Join(errs...)
}

// Restart stops the server and starts it again, with its leases.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Forget stops the server and starts it again, without its leases: as after a
// replacement of its machine.
func (s *Server) Forget(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if out, err := s.run(ctx, "rm -f "+s.dir+"/*.leases*"); err != nil {
		return fmt.Errorf("forget leases: %w: %s", err, out)
	}
	return s.Start(ctx)
}

// Reconfigure gives the server another configuration, of the same Kind and Link, and
// restarts it with its leases, as an administrator does who moves a pool. Addresses of
// the link that c does not have are taken from it.
func (s *Server) Reconfigure(ctx context.Context, c Config) error {
	if c.Kind != s.c.Kind || c.Link != s.c.Link {
		return fmt.Errorf("reconfigure %s on %s: another kind or link", s.c.Kind, s.c.Link)
	}
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if err := s.dropAddrs(ctx, c.Addrs); err != nil {
		return err
	}
	if err := s.configure(ctx, c); err != nil {
		return err
	}
	return s.Start(ctx)
}

// dropAddrs takes the server's addresses, but for those to keep, from its link, if it
// is still there.
func (s *Server) dropAddrs(ctx context.Context, keep []netip.Prefix) error {
	if len(s.c.Addrs) == 0 {
		return nil
	}
	script := fmt.Sprintf("ip link show %s >/dev/null 2>&1 || exit 0\n", s.c.Link)
	kept := map[netip.Prefix]bool{}
	for _, a := range keep {
		kept[a] = true
	}
	for _, a := range s.c.Addrs {
		if !kept[a] {
			script += fmt.Sprintf("ip addr del %s dev %s 2>/dev/null || true\n", a, s.c.Link)
		}
	}
	if out, err := s.run(ctx, script); err != nil {
		return fmt.Errorf("addresses of %s: %w: %s", s.c.Link, err, out)
	}
	return nil
}

// Close stops the server and removes what it made: its folder, its addresses. It may
// be called twice.
func (s *Server) Close(ctx context.Context) error {
	err := s.Stop(ctx)
	if err != nil {
		err = errors.Join(err, s.Kill(ctx))
	}
	err = errors.Join(err, s.dropAddrs(ctx, nil))
	if out, rmErr := s.run(ctx, "rm -rf "+s.dir); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("remove %s: %w: %s", s.dir, rmErr, out))
	}
	return err
}

// Log is what the server printed since its first start; it names every message that
// it received and sent.
func (s *Server) Log(ctx context.Context) string {
	var script string
	for _, j := range s.jobs {
		script += "cat " + path.Join(s.dir, j.name+".log") + "\n"
	}
	out, err := s.run(ctx, script)
	if err != nil {
		return fmt.Sprintf("%s\n%v", out, err)
	}
	return out
}
