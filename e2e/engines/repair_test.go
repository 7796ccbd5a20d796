//go:build lab

package engines

import (
	"strings"
	"testing"
	"time"
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
