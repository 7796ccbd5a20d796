//go:build lab

package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/chaos"
)

// A host loses its power while containers are started and removed on both; afterwards Docker,
// lanyard and the kernel agree on each, no address is anybody's twice on the LAN, and who is to
// be restarted runs. LANYARD_CHAOS is the number of times.
func TestPowerLossInAStorm(t *testing.T) {
	o := operate(t)
	times := int(chaos.Number(t, "LANYARD_CHAOS", 2))
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i, h := range []host{o.one, o.two} {
		h.create("lan100", fmt.Sprintf("--ipam-driver lanyard --subnet 192.168.0.0/16 --ip-range 192.168.%d.0/24 -o parent=eth1.100", 11+i))
		h.create("lan200", fmt.Sprintf("--subnet 192.168.0.0/16 --ip-range 192.168.%d.0/24 -o ipvlan_mode=l2 -o parent=eth1.200", 21+i))
	}
	commands := 0
	for n := range times {
		storm, end := context.WithCancel(ctx)
		var working sync.WaitGroup
		var mu sync.Mutex
		for i, h := range []host{o.one, o.two} {
			hand := rand.New(rand.NewPCG(seed, uint64(10*n+i+1)))
			working.Go(func() {
				for storm.Err() == nil {
					name := fmt.Sprintf("s%d", hand.IntN(3))
					script := fmt.Sprintf("docker rm -f %s; docker run -d --stop-signal=SIGKILL --name %[1]s --restart always --network %s busybox:lab", name, []string{"lan100", "lan200"}[hand.IntN(2)])
					switch hand.IntN(4) {
					case 0:
						script = "docker restart -t0 " + name
					case 1:
						script = "docker rm -f " + name
					}
					_, _ = h.Run(storm, script) // it fails where the power does
					mu.Lock()
					commands++
					mu.Unlock()
				}
			})
		}
		victim := []host{o.one, o.two}[n%2]
		time.Sleep(time.Duration(8000+random.IntN(12000)) * time.Millisecond)
		if err := victim.PowerOff(); err != nil {
			t.Error(err)
		}
		end()
		working.Wait()
		if err := victim.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		var views []*chaos.View
		for _, h := range []host{o.one, o.two} {
			var last *chaos.View
			eventually(t, fmt.Sprintf("%s: all is well after %s lost its power", h.Name, victim.Name), func() string {
				var err error
				last, err = chaos.Look(ctx, func(ctx context.Context, script string) (string, error) {
					r, err := h.Run(ctx, script)
					return r.Stdout + r.Stderr, err
				})
				if err != nil {
					return err.Error()
				}
				return strings.Join(last.Problems(), "\n")
			})
			if last != nil {
				views = append(views, last)
			}
		}
		for _, p := range chaos.Twice(views...) {
			t.Error(p)
		}
	}
	t.Logf("%d power losses, %d commands", times, commands)
}
