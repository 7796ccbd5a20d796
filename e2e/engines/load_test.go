//go:build lab

package engines

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/chaos"
)

// load is a host with many containers, which are restarted by many hands.
type load struct {
	*user
	networks, containers, hands int

	mu    sync.Mutex // guards took
	took  []time.Duration
	lives int
}

// sample is what lanyard takes, and how long a restart does.
type sample struct {
	rss, threads, fds int // KiB and counts
	median, slow      time.Duration
	restarts          int
}

// TestLoad keeps a host busy, and looks whether lanyard grows by it: in memory, threads or
// descriptors. LANYARD_LOAD is for how many minutes; without, it is a short and small one.
func TestLoad(t *testing.T) {
	onNewest(t, func(u *user) {
		l := &load{user: u, networks: 4, containers: 16, hands: 6}
		every, samples := 5*time.Second, 6
		if minutes := int(chaos.Number(t, "LANYARD_LOAD", 0)); minutes > 0 {
			l.networks, l.containers, l.hands = 50, 500, 24
			every, samples = time.Minute, minutes
		}
		l.run(every, samples)
	})
}

func (l *load) run(every time.Duration, samples int) {
	for n := range l.networks {
		l.sh(fmt.Sprintf("docker network create -d lanyard --ipam-driver lanyard -o parent=eth1 --subnet 10.%d.0.0/24 n%d", 100+n, n))
	}
	start := time.Now()
	var next sync.Mutex
	i := 0
	atOnce(l.hands, func(int) {
		for {
			next.Lock()
			mine := i
			i++
			next.Unlock()
			if mine >= l.containers {
				return
			}
			if out, err := l.try(fmt.Sprintf(run+"--name c%d --network n%d busybox:lab", mine, mine%l.networks)); err != nil {
				l.t.Errorf("c%d: %v: %s", mine, err, out)
			}
		}
	})
	l.t.Logf("%d containers on %d networks after %s", l.containers, l.networks, time.Since(start).Round(time.Second))
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	for h := range l.hands {
		working.Go(func() { l.hand(ctx, h) })
	}
	var all []sample
	for range samples {
		time.Sleep(every)
		s := l.sample()
		all = append(all, s)
		l.t.Logf("%4d restarts  median %5s  95th %5s  memory %6d KiB  threads %3d  descriptors %4d", s.restarts, s.median.Round(time.Millisecond), s.slow.Round(time.Millisecond), s.rss, s.threads, s.fds)
	}
	cancel()
	working.Wait()
	l.t.Logf("%d restarts in all", l.lives)
	// After what every program takes once, it takes no more.
	early, late := all[len(all)/3], all[len(all)-1]
	if late.rss > early.rss*5/4+4096 || late.threads > early.threads+8 || late.fds > early.fds+8 {
		l.t.Errorf("lanyard grew from %+v to %+v", early, late)
	}
	var docker []string
	l.within(90*time.Second, "all is well after it", func() string {
		v, err := chaos.Look(context.Background(), l.Sh)
		if err != nil {
			return err.Error()
		}
		problems := append(v.Problems(), chaos.Twice(v)...)
		docker = nil
		problems = slices.DeleteFunc(problems, func(p string) bool {
			its := strings.Contains(p, chaos.Detached)
			if its {
				docker = append(docker, p)
			}
			return its
		})
		return strings.Join(problems, "\n")
	})
	l.t.Logf("%d containers that Docker itself took off their network while they run: %v", len(docker), docker)
	for ids := l.sh("docker ps -aq"); ids != ""; ids = l.sh("docker ps -aq") {
		l.sh("docker ps -aq | head -64 | xargs -P 16 -n 4 docker rm -f >/dev/null")
	}
	l.sh("docker network ls -q --filter driver=lanyard | xargs -r docker network rm")
}

// hand restarts containers of its own until ctx ends.
func (l *load) hand(ctx context.Context, h int) {
	for ctx.Err() == nil {
		c := h + rand.IntN((l.containers-h+l.hands-1)/l.hands)*l.hands
		start := time.Now()
		out, err := l.try(fmt.Sprintf("docker restart -t0 c%d", c))
		if err != nil {
			l.t.Errorf("c%d: %v: %s", c, err, out)
			return
		}
		l.mu.Lock()
		l.took = append(l.took, time.Since(start))
		l.lives++
		l.mu.Unlock()
	}
}

func (l *load) sample() (s sample) {
	l.t.Helper()
	l.mu.Lock()
	took := l.took
	l.took = nil
	l.mu.Unlock()
	slices.Sort(took)
	if s.restarts = len(took); s.restarts > 0 {
		s.median, s.slow = took[s.restarts/2], took[s.restarts*95/100]
	}
	proc := fmt.Sprintf("/proc/%d/", l.LanyardPid())
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch f[0] {
		case "VmRSS:":
			s.rss, _ = strconv.Atoi(f[1])
		case "Threads:":
			s.threads, _ = strconv.Atoi(f[1])
		}
	}
	// Those in use for moments are no growth.
	for i := range 20 {
		fds, err := filepath.Glob(proc + "fd/*")
		if err != nil {
			l.t.Fatal(err)
		}
		if i == 0 || len(fds) < s.fds {
			s.fds = len(fds)
		}
		time.Sleep(25 * time.Millisecond)
	}
	return s
}

// lanyard is replaced by another binary under many containers, LANYARD_UPGRADE of them, and
// no packet is lost.
func TestUpgradeUnderContainers(t *testing.T) {
	onNewest(t, func(u *user) {
		count := int(chaos.Number(t, "LANYARD_UPGRADE", 24))
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.5.0.0/16 -o parent=eth1 lan && ip addr add 10.5.255.1/16 dev wire")
		u.t.Cleanup(func() { u.sh("ip addr flush dev wire") })
		atOnce(8, func(h int) {
			for i := h; i < count; i += 8 {
				if out, err := u.try(fmt.Sprintf(run+"--name c%d --network lan busybox:lab", i)); err != nil {
					u.t.Errorf("c%d: %v: %s", i, err, out)
				}
			}
		})
		addrs := strings.Fields(u.sh("docker inspect -f '{{.NetworkSettings.Networks.lan.IPAddress}}' $(docker ps -q) | tr '\\n' ' '"))
		if len(addrs) != count {
			u.t.Fatalf("%d addresses", len(addrs))
		}
		result := make(chan string, 1)
		go func() {
			out, _ := u.try("fping -q -I wire -c 200 -p 50 -t 2000 " + strings.Join(addrs, " ") + " 2>&1")
			result <- out
		}()
		for range 3 {
			time.Sleep(time.Second)
			u.mustDo(u.StopLanyard())
			time.Sleep(time.Second)
			u.mustDo(u.StartLanyard(ctx))
		}
		out := <-result
		if got := strings.Count(out, "200/200/0%"); got != count {
			u.t.Errorf("%d of %d containers answered each time:\n%s", got, count, out)
		}
		u.sh("docker ps -aq | xargs -P 8 -n 3 docker rm -f >/dev/null; docker network rm lan")
	})
}
