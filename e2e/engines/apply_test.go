//go:build lab

package engines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Networks that are defined once: made, made again when somebody removes one, made anew when the definition changes and no
// container is on it, left alone when they are somebody's, and removed.
func TestNetworkApply(t *testing.T) {
	onEach(t, func(u *user) {
		store := u.etcd("127.0.0.1")
		u.mustDo(u.StopLanyard())
		u.mustDo(u.StartLanyard(ctx, "--store", store, "--host-name", "one"))
		u.t.Cleanup(func() {
			u.mustDo(u.StopLanyard())
			u.sh("lanyard store migrate --to local --store " + store + " --host-name one")
			u.mustDo(u.StartLanyard(ctx))
		})
		u.eventually("etcd is reached", u.wants("lanyard host ls", "one *", "alive"))
		u.says("lanyard network diff", "No networks are defined")
		file := filepath.Join(u.t.TempDir(), "networks.yaml")
		write := func(text string) {
			u.t.Helper()
			u.mustDo(os.WriteFile(file, []byte(text), 0o644))
		}
		apply := "lanyard network apply -f " + file
		const two = `
networks:
  plain:
    parent: [nosuch0, {route: 10.66.0.9}]
    ipam: {config: [{subnet: 10.1.0.0/24, gateway: 10.1.0.1}]}
    labels: {team: infra}
  other:
    parent: eth1
    driver_opts: {macvlan_mode: private}
    attachable: true
    ipam: {config: [{subnet: 10.2.0.0/24, aux_addresses: {a: 10.2.0.9}}, {subnet: 'fd00:2::/64'}]}
`
		write(two)
		u.says(apply+" --dry-run", "plain: would be defined")
		u.fails(apply+" --timeout 4s", "plain on one is waiting", "parent nosuch0 is not on this host", "no route to 10.66.0.9", "not all is as it is defined")
		u.says("docker network inspect other", `"macvlan_mode": "private"`, `"fd00:2::/64"`, `"Attachable": true`)
		u.sh("ip addr add 10.66.0.1/24 dev eth1")
		u.t.Cleanup(func() { u.sh("ip addr flush dev eth1") })
		u.eventually("plain is made when its parent is there", u.wants("lanyard network diff", "plain", "ready"))
		u.says(apply, "plain: as it was", "ready")
		u.says("docker network inspect plain", `"parent": "eth1"`, `"team": "infra"`)
		u.says("lanyard network ls", "HOST", "one", "plain", "other")
		u.says("lanyard network diff -f "+file, "ready")

		// Somebody removes it.
		id := u.sh("docker network inspect -f '{{.Id}}' plain")
		u.sh("docker network rm plain")
		u.eventually("plain is made again", func() string {
			now, err := u.try("docker network inspect -f '{{.Id}}' plain")
			if err != nil || now == id {
				return now
			}
			return ""
		})

		// It changes, under a container.
		u.sh(run + "--name c1 --network plain busybox:lab")
		write(strings.Replace(two, "gateway: 10.1.0.1", "gateway: 10.1.0.2", 1))
		u.fails("lanyard network diff -f "+file, "plain: would be changed", "gateway: 10.1.0.1, is to be 10.1.0.2")
		u.fails(apply, "plain on one is outdated", "(c1)", "gateway: 10.1.0.1, is to be 10.1.0.2")
		u.says("docker exec c1 ip route", "via 10.1.0.1")
		u.sh("docker stop -t0 c1; sleep 6")
		u.fails("lanyard network diff", "outdated") // c1 would not find its network any more
		u.sh("docker rm c1")
		u.eventually("plain is made anew", u.wants("lanyard network diff", "plain", "ready"))
		u.says("docker network inspect plain", `"10.1.0.2"`)

		// A network made by hand, which is as it is defined, and one that is not.
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.3.0.0/24 -o parent=eth1 mine && docker network create -d lanyard --ipam-driver lanyard --subnet 10.4.0.0/24 -o parent=eth1 yours")
		u.says("lanyard network create --subnet 10.3.0.0/24 -o parent=eth1 mine", "mine: defined", "ready")
		u.fails("lanyard network create --subnet 10.3.0.0/24 -o parent=eth1 mine", "mine is defined already")
		u.fails("lanyard network create --subnet 10.4.0.0/24 --parent eth1 --internal yours", "yours on one is foreign", "docker network rm yours", "internal: not there, is to be true")
		u.says("lanyard network export mine", "networks:", "mine:", "parent:", "eth1", "10.3.0.0/24")

		// While lanyard is away a definition goes, and its network's container stays.
		u.sh(run + "--name c2 --network other busybox:lab")
		u.fails("lanyard network rm --timeout 4s other yours mine", "other on one is removing", "(c2)")
		u.says("docker network ls", "mine", "yours") // made by hand
		u.sh("docker rm -f c2")
		u.eventually("other goes with its last container", func() string {
			out, err := u.try("docker network inspect -f '{{.Name}}' other")
			if err == nil {
				return out
			}
			return ""
		})
		u.sh("docker network rm mine yours")

		// One for another host.
		write("networks: {far: {hosts: 'two*', parent: eth1, ipam: {config: [{subnet: 10.5.0.0/24}]}}}")
		u.says(apply+" --prune", "far: defined", "plain: no more defined")
		u.fails("docker network inspect far", "far")
		u.fails("docker network inspect plain", "plain")
		u.says("lanyard network rm far", "far: no more defined")
		u.says("lanyard network diff", "No networks are defined")
	})
}
