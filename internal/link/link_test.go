package link

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// host is a namespace with eth1, and the links of it.
func host(t *testing.T) (*kerneltest.Host, *Links) {
	t.Helper()
	h := kerneltest.New(t)
	h.Veth("eth1", "wire")
	l, err := NewAt(h.NS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return h, l
}

func spec(name string, vlan ...uint16) lan.ParentSpec {
	return lan.ParentSpec{Name: name, VLAN: vlan}
}

// ensure looks a parent up and makes it.
func ensure(t *testing.T, l *Links, s lan.ParentSpec) *Parent {
	t.Helper()
	plan, err := l.Look(s, lan.Macvlan)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Ensure(plan)
	if err != nil {
		t.Fatal(err)
	}
	if p.Key != plan.Key || !slices.Equal(p.Tags, plan.Tags) {
		t.Errorf("%s was planned as %s %v, became %s %v", s, plan.Key, plan.Tags, p.Key, p.Tags)
	}
	return p
}

func nobody(int) bool { return false }

// The parent's MTU was lowered after the network was made.
func TestParentWithLessMTU(t *testing.T) {
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	h.IP("link set eth1 mtu 1300")
	c := Child{Name: "c", ParentIndex: p.Index, Kind: lan.Macvlan, Mode: lan.ModeBridge, MTU: 1400}
	if err := l.AddChild(c); !errors.Is(err, lan.ErrConflict) || !strings.Contains(err.Error(), "1400 is more than the parent's, which is 1300 now; try: ip link set eth1 mtu 1400") {
		t.Errorf("error %v", err)
	}
	h.IP("link set eth1 mtu 1400")
	if err := l.AddChild(c); err != nil {
		t.Error(err)
	}
}

func TestChildHasWhatWasAskedFor(t *testing.T) {
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	for _, mode := range []lan.Mode{lan.ModeBridge, lan.ModePrivate, lan.ModeVepa} {
		name := "c-" + string(mode)
		if err := l.AddChild(Child{Name: name, ParentIndex: p.Index, Kind: lan.Macvlan, Mode: mode, MAC: mac, MTU: 1400}); err != nil {
			t.Fatal(err)
		}
		out := h.IP("-d link show %s", name)
		for _, want := range []string{"macvlan mode " + string(mode), "02:00:00:00:00:07", "mtu 1400", "state DOWN"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
	mine, err := l.Mine()
	if err != nil || len(mine) != 3 {
		t.Fatalf("Mine() = %v, %v; want the three", mine, err)
	}
	// eth1 is not ours: it stays, and it is no error to leave it out.
	if err := l.DeleteAll(append(mine, "never-was", "eth1")); err != nil {
		t.Error(err)
	}
	if got := h.Links(); !slices.Equal(got, []string{"wire", "eth1"}) && !slices.Equal(got, []string{"eth1", "wire"}) {
		t.Errorf("links left: %v", got)
	}
}

func TestIpvlanChild(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	h, l := host(t)
	for _, mode := range []lan.Mode{lan.ModeL2, lan.ModeL3, lan.ModeL3S} {
		for _, flag := range []lan.Flag{lan.FlagBridge, lan.FlagPrivate, lan.FlagVepa} {
			p := ensure(t, l, spec("eth1"))
			if err := l.AddChild(Child{Name: "c", ParentIndex: p.Index, Kind: lan.Ipvlan, Mode: mode, Flag: flag, MTU: 1300}); err != nil {
				t.Fatal(err)
			}
			out := h.IP("-d link show c")
			if !strings.Contains(out, "mode "+string(mode)+" "+string(flag)) || !strings.Contains(out, "mtu 1300") {
				t.Errorf("want mode %s %s, mtu 1300:\n%s", mode, flag, out)
			}
			if err := l.Delete("c"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestChildReplacesOurLeaving(t *testing.T) {
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	c := Child{Name: "c", ParentIndex: p.Index, Kind: lan.Macvlan, Mode: lan.ModeBridge}
	for range 2 {
		if err := l.AddChild(c); err != nil {
			t.Fatal(err)
		}
	}
	h.IP("link add theirs link eth1 type macvlan mode bridge")
	c.Name = "theirs"
	if err := l.AddChild(c); err == nil {
		t.Error("replaced a link that is not ours")
	}
	if err := l.Delete("theirs"); !errors.Is(err, lan.ErrConflict) {
		t.Errorf("Delete of a link that is not ours: %v", err)
	}
	h.IP("link show theirs")
}

func TestChildErrors(t *testing.T) {
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	add := func(mode lan.Mode) error {
		return l.AddChild(Child{Name: "c", ParentIndex: p.Index, Kind: lan.Macvlan, Mode: mode})
	}
	h.IP("link add theirs link eth1 type macvlan mode bridge")
	if err := add(lan.ModePassthru); !errors.Is(err, lan.ErrConflict) || !strings.Contains(err.Error(), "passthru") {
		t.Errorf("passthru beside another link: %v", err)
	}
	h.IP("link del theirs")
	h.IP("link add br0 type bridge")
	h.IP("link set eth1 master br0")
	if err := add(lan.ModeBridge); !errors.Is(err, lan.ErrConflict) || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("child of a bridge port: %v", err)
	}
	h.IP("link del eth1")
	if err := add(lan.ModeBridge); !errors.Is(err, ErrParentGone) {
		t.Errorf("child of nothing: %v", err)
	}
}

func TestProbe(t *testing.T) {
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	made, err := l.Probe(p.Index, lan.Macvlan, lan.ModeBridge)
	if err != nil {
		t.Error(err)
	}
	if again, err := l.Probe(p.Index, lan.Macvlan, lan.ModeBridge); err != nil || again != made {
		t.Errorf("a second probe: %q, %v", again, err)
	}
	if err := l.Delete(made); err != nil {
		t.Error(err)
	}
	h.IP("link add theirs link eth1 type macvlan mode passthru")
	if _, err := l.Probe(p.Index, lan.Macvlan, lan.ModeBridge); !errors.Is(err, lan.ErrConflict) {
		t.Errorf("beside somebody's passthru: %v", err)
	}
	if got := h.Links(); len(got) != 3 {
		t.Errorf("the probe left something: %v", got)
	}
}

func TestProbeSparesTheModeOfOthers(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	h.IP("link add theirs link eth1 type ipvlan mode l3s vepa")
	if _, err := l.Probe(p.Index, lan.Ipvlan, lan.ModeL2); !errors.Is(err, lan.ErrConflict) {
		t.Errorf("beside somebody's ipvlan: %v", err)
	}
	if out := h.IP("-d link show theirs"); !strings.Contains(out, "mode l3s vepa") {
		t.Errorf("the probe changed a mode:\n%s", out)
	}
}

func TestLookRefuses(t *testing.T) {
	h, l := host(t)
	h.IP("link add br0 type bridge")
	h.IP("link add port type veth peer name port2")
	h.IP("link set port master br0")
	h.IP("link add name.5 type bridge")
	wifi := t.TempDir()
	if err := os.MkdirAll(filepath.Join(wifi, "wire", "phy80211"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.sysClass = wifi
	for _, c := range []struct {
		spec lan.ParentSpec
		kind lan.Kind
		want []string
	}{
		{spec("eth9"), lan.Macvlan, []string{"eth9", "not on this host"}},
		{spec("br1"), lan.Macvlan, []string{"did you mean br0"}},
		{spec("eth9.100"), lan.Macvlan, []string{"eth9 is not on this host"}},
		{spec("eth1.x"), lan.Macvlan, []string{`"x" is not a VLAN id`}},
		{spec("eth1.4095"), lan.Macvlan, []string{"between 1 and 4094"}},
		{spec("eth1.0"), lan.Macvlan, []string{"between 1 and 4094"}},
		{spec("eth1.1.2.3"), lan.Macvlan, []string{"at most 2"}},
		{spec("eth1.1", 2, 3), lan.Macvlan, []string{"at most 2"}},
		{spec("lo"), lan.Macvlan, []string{"loopback"}},
		{spec("port"), lan.Macvlan, []string{"port of bridge br0", "-o parent=br0"}},
		{spec("port"), lan.Ipvlan, []string{"port of bridge br0"}},
		{spec("name.5"), lan.Macvlan, []string{"bridge link without a VLAN id", "altname"}},
		{spec("wire"), lan.Macvlan, []string{"wireless", "ipvlan_mode=l2"}},
		{lan.ParentSpec{Name: "eth1", Proto: lan.Dot1AD}, lan.Macvlan, []string{"no 802.1ad VLAN"}},
	} {
		_, err := l.Look(c.spec, c.kind)
		if err == nil {
			t.Errorf("%s as %s was taken", c.spec, c.kind)
			continue
		}
		if lan.Reason(err) == nil {
			t.Errorf("%s as %s: %v: no reason", c.spec, c.kind, err)
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s as %s: %q does not say %q", c.spec, c.kind, err, want)
			}
		}
	}
	for _, c := range []struct {
		spec lan.ParentSpec
		kind lan.Kind
	}{{spec("wire"), lan.Ipvlan}, {spec("br0"), lan.Macvlan}, {spec("eth1"), lan.Macvlan}} {
		if _, err := l.Look(c.spec, c.kind); err != nil {
			t.Errorf("%s as %s: %v", c.spec, c.kind, err)
		}
	}
}

func TestSameDeviceUnderTwoNames(t *testing.T) {
	h, l := host(t)
	h.IP("link property add dev eth1 altname uplink")
	h.IP("link property add dev eth1 altname a-name-longer-than-fifteen")
	h.IP("link add mv0 link eth1 type macvlan mode bridge")
	want := ensure(t, l, spec("eth1")).Key
	for _, name := range []string{"uplink", "a-name-longer-than-fifteen", "mv0"} {
		if got := ensure(t, l, spec(name)).Key; got != want {
			t.Errorf("%s has key %q, eth1 has %q", name, got, want)
		}
	}
}

func TestSubInterfaceLivesAndDies(t *testing.T) {
	kerneltest.Need(t, "vlan")
	h, l := host(t)
	h.IP("link set eth1 down")
	p := ensure(t, l, spec("eth1.100"))
	out := h.IP("-d link show eth1.100")
	for _, want := range []string{"protocol 802.1Q id 100", "UP", "alias lanyard"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(h.IP("link show eth1"), "UP") {
		t.Error("its base is down")
	}
	if base := ensure(t, l, spec("eth1")); p.Below != base.Index || p.VLAN != 100 || base.Below != base.Index || base.VLAN != 0 {
		t.Errorf("%+v is on %+v", p, base)
	}
	if !p.Mine {
		t.Error("not marked as ours")
	}
	// The same, said otherwise, is the same link.
	for _, s := range []lan.ParentSpec{spec("eth1.100"), spec("eth1", 100), spec("eth1.0100")} {
		if q := ensure(t, l, s); q.Index != p.Index || q.Key != p.Key {
			t.Errorf("%s is %s, eth1.100 is %s", s, q.Key, p.Key)
		}
	}
	if _, err := l.Release(p.Index, func(i int) bool { return i == p.Index }); err != nil {
		t.Fatal(err)
	}
	h.IP("link show eth1.100") // still in use
	if left, err := l.Release(p.Index, nobody); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	if _, err := h.TryIP("link show eth1.100"); err == nil {
		t.Error("eth1.100 stays behind")
	}
	h.IP("link show eth1")
}

func TestExistingSubInterface(t *testing.T) {
	kerneltest.Need(t, "vlan")
	h, l := host(t)
	h.IP("link add link eth1 name eth1.100 type vlan id 100")
	h.IP("link add link eth1 name eth1.200 type vlan id 201")
	h.IP("link add link eth1 name storage type vlan id 300")
	h.IP("link add eth2 type veth peer name wire2")
	h.IP("link add link eth2 name eth1.400 type vlan id 400")
	h.IP("link add br0.5 type bridge")
	h.IP("link add link eth1 name eth1.5 type vlan id 5")
	h.IP("link set eth1.5 master br0.5")

	p := ensure(t, l, spec("eth1.100"))
	if p.Mine {
		t.Error("took somebody's sub-interface for ours")
	}
	if _, err := l.Release(p.Index, nobody); err != nil {
		t.Fatal(err)
	}
	h.IP("link show eth1.100")
	if p := ensure(t, l, spec("eth1", 300)); p.Name != "storage" {
		t.Errorf("VLAN 300 of eth1 is %s, want storage", p.Name)
	}
	ensure(t, l, spec("br0.5"))
	for name, want := range map[string]string{
		"eth1.200": "its VLAN id is 201",
		"eth1.400": "VLAN 400 on eth2, not on eth1",
	} {
		if _, err := l.Look(spec(name), lan.Macvlan); !errors.Is(err, lan.ErrConflict) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
	// The name eth1.200 is taken by VLAN 201, so VLAN 200 gets another.
	if p := ensure(t, l, spec("eth1", 200)); p.Name == "eth1.200" || p.Tags[0].ID != 200 {
		t.Errorf("VLAN 200 of eth1 is %s with %v", p.Name, p.Tags)
	}
}

func TestQinQ(t *testing.T) {
	kerneltest.Need(t, "qinq")
	h, l := host(t)
	p := ensure(t, l, spec("eth1.200.100"))
	if p.Name != "eth1.200.100" || p.Key != "eth1|802.1ad:200|802.1Q:100" {
		t.Errorf("made %s with key %s", p.Name, p.Key)
	}
	if out := h.IP("-d link show eth1.200"); !strings.Contains(out, "802.1ad id 200") {
		t.Errorf("outer tag:\n%s", out)
	}
	other := ensure(t, l, spec("eth1", 200, 101))
	if left, err := l.Release(p.Index, func(i int) bool { return slices.Contains(l.Chain(other.Index), i) }); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	h.IP("link show eth1.200") // the other one's outer tag
	if _, err := h.TryIP("link show eth1.200.100"); err == nil {
		t.Error("eth1.200.100 stays behind")
	}
	if _, err := l.Release(other.Index, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := h.TryIP("link show eth1.200"); err == nil {
		t.Error("eth1.200 stays behind")
	}
	h.IP("link add link eth1 name eth1.200 type vlan proto 802.1ad id 200")

	q := ensure(t, l, lan.ParentSpec{Name: "eth1.300.100", Proto: lan.Dot1Q})
	if q.Key != "eth1|802.1Q:300|802.1Q:100" {
		t.Errorf("with vlan_protocol=802.1q: %s", q.Key)
	}
	if _, err := l.Look(spec("eth1.300.7"), lan.Macvlan); !errors.Is(err, lan.ErrConflict) || !strings.Contains(err.Error(), "vlan_protocol=802.1q") {
		t.Errorf("on an outer tag of the other protocol: %v", err)
	}
	if q := ensure(t, l, lan.ParentSpec{Name: "eth1.300.8", Proto: lan.Dot1Q}); q.Key != "eth1|802.1Q:300|802.1Q:8" {
		t.Errorf("on an outer tag of the protocol asked for: %s", q.Key)
	}
	if q := ensure(t, l, lan.ParentSpec{Name: "eth1.200.9", Proto: lan.Dot1AD}); q.Key != "eth1|802.1ad:200|802.1Q:9" {
		t.Errorf("the outer protocol went to the inner tag: %s", q.Key)
	}
	if s := ensure(t, l, lan.ParentSpec{Name: "eth1", VLAN: []uint16{400}, Proto: lan.Dot1AD}); s.Key != "eth1|802.1ad:400" {
		t.Errorf("single 802.1ad tag: %s", s.Key)
	}
}

func TestLongNames(t *testing.T) {
	kerneltest.Need(t, "vlan")
	h, l := host(t)
	h.IP("link set eth1 down")
	h.IP("link set eth1 name enp129s0f0np0")
	p := ensure(t, l, spec("enp129s0f0np0.4000"))
	if len(p.Name) > 15 {
		t.Errorf("name %s", p.Name)
	}
	h.IP("link show enp129s0f0np0.4000") // by its altname
	if q := ensure(t, l, spec("enp129s0f0np0.4000")); q.Index != p.Index {
		t.Error("made it twice")
	}
	if _, err := l.Release(p.Index, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := h.TryIP("link show %s", p.Name); err == nil {
		t.Error("stays behind")
	}
}

func TestReleaseSparesWhatOthersUse(t *testing.T) {
	kerneltest.Need(t, "vlan")
	h, l := host(t)
	away := kerneltest.New(t)
	for what, use := range map[string]func(){
		"an address":                   func() { h.IP("addr add 10.0.0.1/24 dev eth1.100") },
		"a link on top":                func() { h.IP("link add link eth1.100 name up0 type vlan id 7") },
		"a child in another namespace": func() { h.IP("link add up0 link eth1.100 netns %s type macvlan mode private", away.Path()) },
		"a bridge": func() {
			h.IP("link add up0 type bridge")
			h.IP("link set eth1.100 master up0")
		},
	} {
		p := ensure(t, l, spec("eth1.100"))
		use()
		left, err := l.Release(p.Index, nobody)
		if err != nil || len(left) != 1 {
			t.Errorf("with %s: left %v, %v", what, left, err)
		}
		if _, err := h.TryIP("link show eth1.100"); err != nil {
			t.Errorf("with %s it was removed", what)
			continue
		}
		h.IP("link del eth1.100")
		h.TryIP("link del up0")
		away.TryIP("link del up0")
	}
}

func TestBonds(t *testing.T) {
	kerneltest.Need(t, "bond", "vlan")
	h, l := host(t)
	h.IP("link add bond0 type bond mode active-backup")
	h.IP("link set eth1 down")
	h.IP("link set eth1 master bond0")
	ensure(t, l, spec("bond0.100"))
	for _, name := range []string{"eth1", "eth1.100"} {
		if _, err := l.Look(spec(name), lan.Macvlan); err == nil || !strings.Contains(err.Error(), "member of bond bond0") || !strings.Contains(err.Error(), strings.Replace(name, "eth1", "bond0", 1)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnsureUndoesItself(t *testing.T) {
	kerneltest.Need(t, "qinq")
	h, l := host(t)
	plan, err := l.Look(spec("eth1.200.100"), lan.Macvlan)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody takes the second name between the look and the making.
	h.IP("link add eth1.200.100 type bridge")
	if _, err := l.Ensure(plan); err == nil {
		t.Fatal("made a link whose name is taken")
	}
	if _, err := h.TryIP("link show eth1.200"); err == nil {
		t.Error("the outer tag stays behind")
	}
	h.IP("link show eth1.200.100")
}

func TestDummy(t *testing.T) {
	kerneltest.Need(t, "dummy")
	h, l := host(t)
	p, err := l.EnsureDummy("dm-1", 9000)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := l.EnsureDummy("dm-1", 9000); err != nil || again.Index != p.Index {
		t.Errorf("again: %v, %v", again, err)
	}
	if out := h.IP("link show dm-1"); !strings.Contains(out, "mtu 9000") || !strings.Contains(out, "UP") {
		t.Errorf("%s", out)
	}
	h.IP("link add theirs type dummy")
	if _, err := l.EnsureDummy("theirs", 0); !errors.Is(err, lan.ErrConflict) {
		t.Errorf("somebody's dummy: %v", err)
	}
	if _, err := l.Release(p.Index, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := h.TryIP("link show dm-1"); err == nil {
		t.Error("stays behind")
	}
}

func TestServes(t *testing.T) {
	h, l := host(t)
	h.Veth("eth0", "far0")
	h.IP("addr add 10.1.0.1/24 dev eth0")
	h.IP("addr add 10.2.0.1/24 dev eth1")
	index := func(name string) int {
		k, err := l.h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return k.Attrs().Index
	}
	for _, c := range []struct {
		addr, device string
		eth0, eth1   bool
	}{
		{"", "", false, false}, {"0.0.0.0:67", "", true, true}, {"0.0.0.0:67", "eth1", false, true}, {"10.1.0.1:67", "", true, false}, {"0.0.0.0:68", "", false, false},
	} {
		err := h.NS.Do(func() error {
			if c.addr != "" {
				config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
					raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), c.device) })
					return err
				}}
				s, err := config.ListenPacket(t.Context(), "udp4", c.addr)
				if err != nil {
					return err
				}
				defer s.Close()
			}
			for name, want := range map[string]bool{"eth0": c.eth0, "eth1": c.eth1} {
				if got, err := l.Serves(67, false, index(name)); err != nil || got != want {
					t.Errorf("%q on %q: served on %s: %v, %v, want %v", c.addr, c.device, name, got, err, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
