//go:build lab

package engines

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/chaos"
	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// TestDHCPSoak lets containers come, go and restart on leases of 10 s, while lanyard is
// killed, the server is away, forgets its leases and moves its pool: no two containers
// ever have one address, and at the end everybody has one that the server knows.
// LANYARD_SOAK is how often a container starts (20), each time a lease's life.
func TestDHCPSoak(t *testing.T) {
	lives := int(chaos.Number(t, "LANYARD_SOAK", 20))
	onNewest(t, func(u *user) { (&soak{user: u}).run(lives) })
}

type soak struct {
	*user
	server  *dhcpserver.Server
	running [12]bool
	starts  int
	moved   bool
}

func (s *soak) config(c *dhcpserver.Config) {
	c.Kind, c.LeaseTime, c.Renew, c.Rebind = dhcpserver.Kea, 10*time.Second, 3*time.Second, 6*time.Second
	if s.moved {
		c.V4.From, c.V4.To = netip.MustParseAddr("10.77.1.100"), netip.MustParseAddr("10.77.1.199")
	}
}

func (s *soak) run(lives int) {
	seed := uint64(time.Now().UnixNano())
	s.t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx := context.Background()
	s.server = s.leasing(s.config)
	s.sh(fromDHCP + "-o dhcp_timeout=8s n0 && " + fromDHCP + "-o release=stop -o dhcp_timeout=8s n1")
	faults := 0
	for fault := time.Now().Add(8 * time.Second); s.starts < lives || faults < 3; {
		i := random.IntN(len(s.running))
		name := fmt.Sprintf("s%d", i)
		switch n := random.IntN(6); {
		case !s.running[i]:
			s.tried(i, true, fmt.Sprintf("docker rm -f %s >/dev/null 2>&1; "+run+"--name %[1]s --network n%d busybox:lab", name, random.IntN(2)))
		case n == 0:
			s.tried(i, false, "docker rm -f "+name)
		case n <= 2:
			s.tried(i, true, "docker restart -t0 "+name)
		case n == 3:
			s.tried(i, true, "docker kill "+name+" && docker start "+name)
		default:
			time.Sleep(200 * time.Millisecond)
		}
		s.noneTwice()
		if time.Now().Before(fault) {
			continue
		}
		fault = time.Now().Add(8 * time.Second)
		faults++
		switch random.IntN(4) {
		case 0:
			s.mustDo(s.KillLanyard())
			s.mustDo(s.StartLanyard(ctx))
		case 1:
			s.mustDo(s.server.Kill(ctx))
			time.Sleep(time.Duration(random.IntN(12)) * time.Second)
			s.mustDo(s.server.Start(ctx))
		case 2:
			s.mustDo(s.server.Forget(ctx))
		case 3:
			s.moved = !s.moved
			s.mustDo(s.server.Reconfigure(ctx, siteConfig(s.config)))
		}
	}
	s.within(60*time.Second, "everybody has a lease that the server knows", func() string {
		leases, err := s.server.Leases(ctx)
		if err != nil {
			return err.Error()
		}
		table := s.sh("lanyard lease ls --state bound")
		for name, addr := range s.addresses() {
			if addr == "" {
				return name + " has no address"
			}
			if !strings.Contains(table, addr+" ") {
				return fmt.Sprintf("%s has %s, which is no lease that is bound:\n%s", name, addr, table)
			}
			mac := s.mac(name)
			if !slices.ContainsFunc(leases, func(l dhcpserver.Lease) bool { return l.Addr.String() == addr && l.MAC == mac }) {
				return fmt.Sprintf("%s has %s at %s, which the server does not know: %+v", name, addr, mac, leases)
			}
		}
		return ""
	})
	s.t.Logf("%d starts of containers, %d faults; the last events: %s", s.starts, faults, s.sh(`lanyard events --json | grep -o '"lease-[a-z]*"' | sort | uniq -c | tr '\n' ' '`))
	s.sh("docker rm -f $(docker ps -aq) && docker network rm n0 n1")
	s.within(30*time.Second, "the server has all addresses back, or they run out", func() string {
		// A server that had forgotten its leases offers addresses that are in use, and
		// keeps those that were declined for a day.
		all, err := s.server.Leases(ctx)
		if all = slices.DeleteFunc(all, func(l dhcpserver.Lease) bool { return l.Declined }); err != nil || len(all) > 0 {
			return fmt.Sprint(all, err)
		}
		return ""
	})
}

// tried runs a script that may fail where no server answers.
func (s *soak) tried(i int, runs bool, script string) {
	s.t.Helper()
	out, err := s.try(script)
	s.running[i] = runs && err == nil
	switch {
	case err != nil && !strings.Contains(out, "no lease within"):
		s.t.Errorf("%s: %v\n%s", script, err, out)
	case s.running[i]:
		s.starts++
	}
}

// addresses are what the links of the running containers have, by container; "" is none.
func (s *soak) addresses() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(s.sh(`docker ps -q | xargs -r docker inspect -f '{{.Name}} {{.State.Pid}}' | while read name pid; do
	echo $name $(nsenter -t $pid -n ip -4 -o addr show dev eth0 2>/dev/null | sed 's/.*inet \([^/]*\).*/\1/')
done`)) {
		f := strings.Fields(line)
		if len(f) > 0 {
			all[strings.TrimPrefix(f[0], "/")] = strings.Join(f[1:], " ")
		}
	}
	return all
}

func (s *soak) noneTwice() {
	s.t.Helper()
	whose := map[string]string{}
	for name, addrs := range s.addresses() {
		for addr := range strings.FieldsSeq(addrs) {
			if other := whose[addr]; other != "" {
				s.t.Errorf("%s and %s have %s", name, other, addr)
			}
			whose[addr] = name
		}
	}
}
