//go:build lab

package engines

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/chaos"
)

// Containers come and go by several hands while lanyard, Docker, both and the parent are taken
// away at random moments; after each storm Docker, lanyard and the kernel agree, no address is
// anybody's twice, nothing is left, and who is to be restarted runs. LANYARD_CHAOS is the
// number of storms, and LANYARD_SEED repeats one's choices.
func TestChaos(t *testing.T) {
	storms := int(chaos.Number(t, "LANYARD_CHAOS", 2))
	seed := chaos.Number(t, "LANYARD_SEED", uint64(time.Now().UnixNano()))
	t.Logf("seed %d", seed)
	onEach(t, func(u *user) { (&storm{user: u, random: rand.New(rand.NewPCG(seed, 1))}).run(storms, seed) })
}

type storm struct {
	*user
	random *rand.Rand
	faults map[string]int
	runs   atomic.Int64
}

// chaosNets are networks of all ways to get an address.
var chaosNets = []string{
	"-o parent=eth1 --subnet 10.1.0.0/24 n0",
	"-o parent=eth1 --ipam-driver lanyard --subnet 10.2.0.0/24 n1",
	"-o parent=eth1 --ipam-driver null -o subnet=10.3.0.0/24 n2",
	"-o parent=eth1 -o host_access=true --ipam-driver lanyard --subnet 10.4.0.0/24 n3",
}

const hands = 3

func (s *storm) run(storms int, seed uint64) {
	s.faults = map[string]int{}
	s.sh("ip addr add 10.4.0.1/24 dev eth1")
	s.t.Cleanup(func() {
		s.sh("ip link show eth1 || (" + parentComes + "); ip link set eth1 up; ip addr flush dev eth1")
	})
	for _, n := range chaosNets {
		s.sh("docker network create -d lanyard " + n)
	}
	for i := range storms {
		ctx, end := context.WithTimeout(context.Background(), 15*time.Second)
		var working sync.WaitGroup
		for h := range hands {
			hand := rand.New(rand.NewPCG(seed, uint64(100*i+h+2)))
			working.Go(func() { s.hand(ctx, h, hand) })
		}
		for ctx.Err() == nil {
			time.Sleep(time.Duration(500+s.random.IntN(3000)) * time.Millisecond)
			s.fault()
		}
		working.Wait()
		end()
		s.settle(i)
	}
	s.t.Logf("%d storms, %d commands of containers, faults: %v", storms, s.runs.Load(), s.faults)
	if out, err := s.try("docker rm -f $(docker ps -aq)"); err != nil {
		// One that Docker holds for restarting cannot be removed until it is started again.
		s.t.Log(out)
		s.mustDo(s.StopDockerd())
		s.mustDo(s.StartDockerd(context.Background()))
	}
	s.sh("ids=$(docker ps -aq); [ -z \"$ids\" ] || docker rm -f $ids >/dev/null; docker network rm n0 n1 n2 n3")
}

// hand runs, restarts, crashes and removes containers of its own until ctx ends. What fails
// while something is away is what a user would see; what it leaves is looked at later.
func (s *storm) hand(ctx context.Context, h int, random *rand.Rand) {
	for ctx.Err() == nil {
		name := fmt.Sprintf("c%d-%d", h, random.IntN(4))
		script := ""
		switch random.IntN(5) {
		case 0, 1:
			script = fmt.Sprintf("docker rm -f %s; "+run+"--name %[1]s --restart always --network n%d busybox:lab", name, random.IntN(len(chaosNets)))
		case 2:
			script = "docker restart -t0 " + name
		case 3:
			script = "pid=$(docker inspect -f '{{.State.Pid}}' " + name + ") && [ \"$pid\" -gt 1 ] && kill -9 $pid"
		case 4:
			script = "docker rm -f " + name
		}
		s.runs.Add(1)
		// Not cut off by the storm's end: that would be another fault.
		brief, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		_, _ = s.Sh(brief, script)
		cancel()
	}
}

// fault takes something away and gives it back.
func (s *storm) fault() {
	s.t.Helper()
	ctx := context.Background()
	away := time.Duration(s.random.IntN(1500)) * time.Millisecond
	what := []string{"lanyard killed", "dockerd killed", "both killed", "parent deleted", "parent down", "killed while links are made again"}[s.random.IntN(6)]
	s.faults[what]++
	switch what {
	case "lanyard killed":
		s.mustDo(s.KillLanyard())
		time.Sleep(away)
		s.mustDo(s.StartLanyard(ctx))
	case "dockerd killed":
		s.mustDo(s.KillDockerd())
		time.Sleep(away)
		s.mustDo(s.StartDockerd(ctx))
	case "both killed":
		s.mustDo(s.KillLanyard())
		s.mustDo(s.KillDockerd())
		time.Sleep(away)
		s.mustDo(s.StartLanyard(ctx))
		s.mustDo(s.StartDockerd(ctx))
	case "parent deleted":
		s.sh(parentGoes)
		time.Sleep(away)
		s.sh(parentComes + " && ip link set eth1 up && ip addr add 10.4.0.1/24 dev eth1")
	case "killed while links are made again":
		s.sh(parentGoes)
		time.Sleep(away)
		s.sh(parentComes + " && ip link set eth1 up && ip addr add 10.4.0.1/24 dev eth1")
		time.Sleep(away / 10)
		s.mustDo(s.KillLanyard())
		s.mustDo(s.StartLanyard(ctx))
	case "parent down":
		s.sh("ip link set eth1 down")
		time.Sleep(away)
		s.sh("ip link set eth1 up")
	}
}

// settle waits until all is as it must be.
func (s *storm) settle(i int) {
	s.t.Helper()
	// What Docker was killed over between two requests for an endpoint is dropped when it is
	// two minutes old, at the next look of each minute.
	s.within(200*time.Second, fmt.Sprintf("after storm %d all is well", i), func() string {
		v, err := chaos.Look(context.Background(), s.Sh)
		if err != nil {
			return err.Error()
		}
		return strings.Join(append(v.Problems(), chaos.Twice(v)...), "\n")
	})
	if s.t.Failed() {
		s.t.Fatalf("faults so far: %v", s.faults)
	}
}
