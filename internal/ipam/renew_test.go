package ipam_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// full makes a server give nobody an address any more, and take back those that it gave.
func full(c *dhcpserver.Config) {
	last := addr("10.9.0.50")
	c.V4 = &dhcpserver.Pool{Subnet: prefix("10.9.0.0/24"), From: last, To: last}
	c.Reservations = []dhcpserver.Reservation{{MAC: "02:00:00:00:00:99", Addr: last}}
}

// A renewal that costs the container its address is no success, whoever asks, and heals
// when there are addresses again.
func TestRenewalThatLoses(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.network("n1", true, false, "dhcp_timeout=2s")
	web := s.run("n1", "web")
	was := web.lease(false)
	before := s.conf
	s.must(s.server.Stop(ctx))
	s.reconfigure(full)
	s.must(s.server.Forget(ctx))
	got, err := s.RenewLease(ctx, was.ID)
	kerneltest.WantError(t, err, lan.ErrUnavailable, "lease "+was.ID+" was not renewed: server 10.9.0.1 refuses the address", "no other address: no lease within",
		"the container has no address until a server gives one", "try: tcpdump -eni eth1 port 67")
	if got.State != ipam.LeaseLost || web.has(was.Address) {
		t.Errorf("lease is %s; the container has its address: %v", got.State, web.has(was.Address))
	}
	if l := web.lease(false); l.State != ipam.LeaseLost || l.Problem == "" {
		t.Errorf("lease is %s, problem %q", l.State, l.Problem)
	}
	s.reconfigure(func(c *dhcpserver.Config) { *c = before })
	s.within(20*time.Second, "another address", func() bool {
		l := web.lease(false)
		return l.State == ipam.LeaseBound && web.has(l.Address) && l.Problem == ""
	})
}

// What keeps a lease from being renewed is said, with what is to come of it.
func TestRenewalThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.network("n1", true, true)
	web := s.run("n1", "web")
	v4, v6 := web.lease(false), web.lease(true)
	s.must(s.server.Stop(ctx))
	for _, l := range []ipam.LeaseState{v4, v6} {
		got, err := s.RenewLease(ctx, l.ID)
		kerneltest.WantError(t, err, lan.ErrUnavailable, "lease "+l.ID, "was not renewed: no lease within ", "keeps "+l.Address.String()+" until ", "try: tcpdump")
		if got.State != ipam.LeaseBound || got.Problem == "" {
			t.Errorf("lease %+v", got)
		}
	}
	// Its link is gone with the parent, and so is the wire.
	s.host.IP("link del eth1")
	s.within(5*time.Second, "wire is gone", func() bool { return s.Pools()[1].ACD == "off" })
	for _, tc := range []struct {
		id, want string
	}{{v4.ID, "the container's link is down, or is not there any more"}, {v6.ID, "parent eth1 "}} {
		_, err := s.RenewLease(ctx, tc.id)
		kerneltest.WantError(t, err, lan.ErrUnavailable, "was not renewed: "+tc.want, "try: ")
	}
	if _, err := s.RenewLease(ctx, "ffffffffffff"); !errors.Is(err, lan.ErrNotFound) {
		t.Error(err)
	}
}
