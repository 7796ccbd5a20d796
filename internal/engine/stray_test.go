package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/store"
)

// A process that the engine has forgotten keeps a container's namespace: the link in it goes,
// and the container can have its MAC address and address again.
func TestStrayLink(t *testing.T) {
	for _, kind := range accessKinds {
		t.Run(kind.name, func(t *testing.T) {
			if kind.name == "ipvlan" {
				kerneltest.Need(t, kind.name)
			}
			b := newBench(t)
			b.create("net1", "parent=eth1", kind.option)
			path := filepath.Join(t.TempDir(), "sandbox")
			p := netip.MustParsePrefix("192.168.0.5/16")
			// into lets an endpoint into a namespace, to which the path leads.
			into := func(id, mac string) (*kerneltest.Host, string) {
				t.Helper()
				h := kerneltest.New(t)
				os.Remove(path)
				if err := os.Symlink(h.Path(), path); err != nil {
					t.Fatal(err)
				}
				given, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net1", EndpointID: id, IPv4: p, MAC: mac})
				if err != nil {
					t.Fatal(err)
				}
				a, err := b.Join(ctx, "net1", id, path)
				if err != nil {
					t.Fatal(err)
				}
				b.host.IP("link set %s netns %s", a.SrcName, h.Path())
				h.IP("link set %s name eth0", a.SrcName)
				h.IP("addr add %s dev eth0", p)
				h.IP("link set eth0 up")
				if mac == "" {
					mac = given.MAC
				}
				return h, mac
			}
			ends := func(id string) {
				t.Helper()
				if err := b.Leave(ctx, "net1", id); err != nil {
					t.Fatal(err)
				}
				if err := b.DeleteEndpoint(ctx, "net1", id); err != nil {
					t.Fatal(err)
				}
			}
			has := func(h *kerneltest.Host) bool {
				_, err := h.TryIP("link show eth0")
				return err == nil
			}
			first, mac := into("ep1", "")
			if kind.name == "ipvlan" {
				mac = ""
			}
			// The engine is killed, and has another namespace at that path when it starts.
			os.Remove(path)
			ends("ep1")
			within(t, 5*time.Second, "the link is gone", func() bool { return !has(first) })

			// One that stands again at once is left alone.
			second, _ := into("ep2", mac)
			os.Remove(path)
			ends("ep2")
			if kind.name == "macvlan" {
				third, _ := into("ep3", mac)
				if has(second) {
					t.Error("the stray is there, and another has its MAC address")
				}
				time.Sleep(2 * strayRest)
				if !has(third) {
					t.Error("the link of a container that stands was removed")
				}
				// lanyard is killed, too.
				os.Remove(path)
				if err := b.Leave(ctx, "net1", "ep3"); err != nil {
					t.Fatal(err)
				}
				b.trash.wait()
				b.put(b.endpoints["ep3"].rec)
				b.restart()
				within(t, 5*time.Second, "the link of a container that ended meanwhile is gone", func() bool { return !has(third) })
			}
		})
	}
}

// Without having seen its container's end lanyard leaves a link alone, until Docker says which
// containers it has.
func TestStrayLinkIsRepaired(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	c := b.run("net1", "ep1", "192.168.0.5/16")
	c.IP("link set eth0 up")
	rec := b.endpoints["ep1"].rec
	b.mu.Lock()
	delete(b.endpoints, "ep1")
	b.mu.Unlock()
	if err := b.db.Write(store.DeleteEndpoint("ep1")); err != nil {
		t.Fatal(err)
	}
	view := &DockerView{Networks: []DockerNetwork{{Name: "n", NetworkRequest: request("net1", "parent=eth1")}}}
	view.Endpoints = []DockerEndpoint{{NetworkID: "other", EndpointID: "x", Sandbox: c.Path()}}
	view.Incomplete = true
	mentions := func() bool {
		for _, s := range b.Repair(ctx, view, true) {
			if s.Do == RemoveLink && strings.Contains(s.What, rec.MAC) {
				return true
			}
		}
		return false
	}
	if mentions() {
		t.Error("it is to be removed, and Docker has not said all")
	}
	view.Incomplete, view.Endpoints = false, nil
	if !mentions() {
		t.Error("it is in no container, and is left")
	}
	b.Repair(ctx, view, false)
	if out, err := c.TryIP("link show eth0"); err == nil {
		t.Errorf("it is still there: %s", out)
	}
}
