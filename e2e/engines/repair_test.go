//go:build lab

package engines

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/chaos"
)

// The state file is overwritten under running containers: they keep their traffic, what was
// lost comes back from Docker, and no address is given twice.
func TestStateFileDamaged(t *testing.T) {
	onEach(t, func(u *user) {
		const lanNet = "docker network create -d lanyard -o parent=eth1 "
		for name, create := range map[string]string{
			"docker":  lanNet + "--subnet 10.1.0.0/24 docker",
			"lanyard": lanNet + "--ipam-driver lanyard --subnet 10.2.0.0/24 lanyard",
			"options": lanNet + "--ipam-driver null -o subnet=10.3.0.0/24 options",
		} {
			u.sh(create + " && " + run + "--name c-" + name + " --restart always --network " + name + " busybox:lab")
		}
		names := []string{"docker", "lanyard", "options"}
		addrs := map[string]string{}
		for _, n := range names {
			addrs[n] = u.addr("c-"+n, n)
			u.sh(run + "--name peer-" + n + " --network " + n + " busybox:lab")
		}
		reach := func(when string) {
			u.t.Helper()
			for _, n := range names {
				u.eventually(when+": "+n, u.wants("docker exec peer-"+n+" ping -c1 -W2 "+addrs[n], "1 packets received"))
			}
		}
		u.mustDo(u.KillLanyard())
		u.sh("dd if=/dev/urandom of=/var/lib/lanyard/lanyard.db bs=4096 count=4 conv=notrunc 2>/dev/null")
		reach("while lanyard is away")
		u.mustDo(u.StartLanyard(ctx))
		u.eventually("all is taken in again", func() string {
			if out := u.sh("lanyard endpoint ls"); strings.Count(out, "joined") != 6 {
				return out
			}
			return ""
		})
		reach("after the damage")
		u.says("lanyard repair --dry-run 2>&1", "Nothing to repair", "lanyard.db.damaged-")
		u.says("grep 'state file was damaged' "+u.LanyardLog(), "lanyard.db.damaged-")
		for _, n := range names {
			u.fails(run + "--rm --network " + n + " --ip " + addrs[n] + " busybox:lab")
			u.sh("docker restart -t0 c-" + n)
		}
		time.Sleep(time.Second)
		for _, n := range names {
			addrs[n] = u.addr("c-"+n, n)
		}
		reach("after docker restart")
		// With Docker, which asks for networks that lanyard does not know.
		u.mustDo(u.KillLanyard())
		u.mustDo(u.StopDockerd())
		u.sh("echo nothing > /var/lib/lanyard/lanyard.db")
		u.mustDo(u.StartLanyard(ctx))
		u.mustDo(u.StartDockerd(ctx))
		for _, n := range names {
			u.within(60*time.Second, "c-"+n+" runs", u.wants(running+"c-"+n, "true"))
			u.sh("docker start peer-" + n)
			addrs[n] = u.addr("c-"+n, n)
		}
		reach("after a damage that Docker met")
		u.sh("docker rm -f $(docker ps -aq) && docker network rm docker lanyard options")
		u.says("lanyard repair 2>&1", "Nothing to repair")
		u.sh("rm -f /var/lib/lanyard/lanyard.db.damaged-*")
		u.mustDo(u.KillLanyard())
		u.mustDo(u.StartLanyard(ctx))
	})
}

// The disk of the state is full: what needs room is refused with the reason and leaves
// nothing, what runs goes on, what ends ends, and with room again all is as Docker has it.
func TestDiskFull(t *testing.T) {
	onNewest(t, func(u *user) {
		u.mustDo(u.StopLanyard())
		u.sh("mount -t tmpfs -o size=1m lanyard-full /var/lib/lanyard")
		u.mustDo(u.StartLanyard(ctx))
		u.t.Cleanup(func() {
			u.mustDo(u.StopLanyard())
			u.sh("umount /var/lib/lanyard")
			u.mustDo(u.StartLanyard(ctx))
		})
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.1.0.0/24 -o parent=eth1 lan")
		u.sh(run + "--name c1 --restart always --network lan busybox:lab && " + run + "--name c2 --network lan busybox:lab")
		addr := u.addr("c2", "lan")
		u.sh("dd if=/dev/zero of=/var/lib/lanyard/full bs=4096 2>/dev/null || true")
		var aux strings.Builder
		for i := range 250 {
			fmt.Fprintf(&aux, " --aux-address a%d=10.%%[1]d.0.%d", i, i+2)
		}
		var out string
		var err error
		i := 2
		for ; i < 40 && err == nil; i++ {
			start := time.Now()
			out, err = u.try(fmt.Sprintf("docker network create -d lanyard --subnet 10.%[1]d.0.0/16 -o parent=eth1 n%[1]d"+aux.String(), i))
			if took := time.Since(start); took > 10*time.Second {
				u.t.Errorf("docker network create took %s", took)
			}
		}
		if err == nil || !strings.Contains(out, "no space left on device") || !strings.Contains(out, "/var/lib/lanyard") {
			u.t.Fatalf("on a full disk: %v: %s", err, out)
		}
		u.t.Logf("refused after %d networks: %s", i-2, out)
		u.says("docker exec c1 ping -c1 -W2 "+addr, "1 packets received")
		u.says("docker ps", "c1", "c2")
		u.says("lanyard endpoint ls", "c1", "c2")
		// Whatever of these has no room says so, and Docker goes on.
		for _, script := range []string{"docker restart -t0 c1", "docker rm -f c2", run + "--name c3 --network lan busybox:lab"} {
			if out, err := u.try(script); err != nil && !strings.Contains(out, "no space left on device") {
				u.t.Errorf("%s: %v: %s", script, err, out)
			}
		}
		u.sh("rm /var/lib/lanyard/full")
		u.within(60*time.Second, "c1 runs", func() string {
			if out, err := u.try("docker start c1 && docker exec c1 true"); err != nil {
				return out
			}
			return ""
		})
		u.sh("docker rm -f c3; " + run + "--name c4 --network lan busybox:lab")
		u.mustDo(u.KillLanyard())
		u.mustDo(u.StartLanyard(ctx))
		u.says("docker exec c1 ping -c1 -W2 "+u.addr("c4", "lan"), "1 packets received")
		u.sh("lanyard repair")
		u.eventually("all is well", func() string {
			v, err := chaos.Look(ctx, u.Sh)
			if err != nil {
				return err.Error()
			}
			return strings.Join(append(v.Problems(), chaos.Twice(v)...), "\n")
		})
		u.sh("docker rm -f $(docker ps -aq); docker network rm $(docker network ls -q --filter driver=lanyard)")
	})
}
