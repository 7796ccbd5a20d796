//go:build lab

package engines

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// buildPlugin is the folder of a managed plugin of a version, as make plugin makes it.
func buildPlugin(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plugin")
	if out, err := exec.Command("make", "-C", "../..", "plugin", "PLUGIN="+dir, "VERSION="+version).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// Docker itself runs lanyard, as a managed plugin: the state and the command line are those of the
// host, and containers outlive the plugin, its upgrade, and the engine.
func TestManagedPlugin(t *testing.T) {
	dir, newer := buildPlugin(t, "1.0.0"), buildPlugin(t, "1.0.1")
	onEach(t, func(u *user) {
		u.mustDo(u.StopLanyard())
		var live []string // dockerd's flags
		u.t.Cleanup(func() {
			u.sh(`ids=$(docker ps -aq); [ -z "$ids" ] || docker rm -f $ids; docker network rm lan auto; docker plugin disable -f lanyard; docker plugin rm -f lanyard`)
			if len(live) > 0 {
				u.mustDo(u.StopDockerd())
				u.mustDo(u.StartDockerd(ctx))
			}
			u.mustDo(u.StartLanyard(ctx))
		})
		install := func(dir string) string {
			return "docker plugin create lanyard " + dir + " && docker plugin set lanyard flags='--log-level debug' && docker plugin enable lanyard"
		}
		u.sh(install(dir))
		u.sh("docker network create -d lanyard:latest --ipam-driver lanyard:latest --subnet 10.1.0.0/24 -o parent=eth1 lan")
		// Sysctls of links: the shim's and the containers'.
		u.sh("docker network create -d lanyard:latest --ipam-driver null -o subnet=10.2.0.0/24 -o parent=eth1 -o host_access=true -o antispoof=true -o ipv6=slaac auto")
		u.sh(run + "--name c1 --restart always --network lan --ip 10.1.0.20 busybox:lab")
		u.sh(run + "--name c2 --network lan busybox:lab sh -c 'ping -i 0.1 10.1.0.20 >/tmp/log; sleep 1000'")
		u.sh(run + "--name c3 --network auto busybox:lab")
		had := mac(u, "c1")
		u.eventually("c3 listens to routers", u.wants("docker exec c3 cat /proc/sys/net/ipv6/conf/eth0/accept_ra", "2"))
		u.says("docker exec c2 ping -c1 -W2 c1", "1 packets received")
		stands := func(when string) {
			u.t.Helper()
			u.eventually("c1 is there "+when, u.wants("docker exec c1 ip -o -4 addr show eth0", "10.1.0.20/24"))
			if got := mac(u, "c1"); got != had {
				u.t.Errorf("%s: c1 has MAC %s, had %s", when, got, had)
			}
			u.says("docker run --rm --network lan busybox:lab ping -c1 -W2 10.1.0.20", "1 packets received")
			u.says("lanyard repair --dry-run", "Nothing to repair")
		}
		stands("at first")
		u.says("lanyard endpoint ls", "c1", "c2", "c3", "joined")

		u.fails("docker plugin disable lanyard", "in use")
		u.says("docker plugin disable lanyard 2>&1 | lanyard explain", "docker plugin disable -f")
		u.sh("docker plugin disable -f lanyard")
		u.sh("docker plugin enable lanyard")
		stands("after the plugin was disabled")
		u.says("lanyard version", "daemon:  1.0.0 ")
		endpoints := u.sh("lanyard endpoint ls")
		u.sh("docker plugin disable -f lanyard && docker plugin rm -f lanyard && " + install(newer))
		u.says("lanyard version", "daemon:  1.0.1 ")
		if now := u.sh("lanyard endpoint ls"); now != endpoints {
			u.t.Errorf("endpoints after the upgrade:\n%s\nbefore:\n%s", now, endpoints)
		}
		stands("after the plugin was upgraded")
		noneLost(u, "c2")

		// Docker that keeps containers running while it is away keeps the plugin too.
		u.mustDo(u.StopDockerd())
		live = []string{"--live-restore"}
		u.mustDo(u.StartDockerd(ctx, live...))
		stands("after a restart of Docker")
		u.sh("docker exec c3 true || docker start c2 c3; docker exec -d c2 sh -c 'killall ping; ping -i 0.1 10.1.0.20 >/tmp/log'")
		u.mustDo(u.KillDockerd())
		u.mustDo(u.StartDockerd(ctx, live...))
		stands("after Docker was killed")
		noneLost(u, "c2")
		u.says("lanyard endpoint ls", "c1", "c2", "c3", "joined")
	})
}
