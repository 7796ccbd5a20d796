//go:build lab

package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pinged has the LAN node ping the container while do runs, and checks that no ping was lost.
func (o *operator) pinged(do func()) {
	o.t.Helper()
	script := "rm -f /tmp/pinged; busybox ping -i 0.2 " + webAddr + ` >/tmp/pings 2>&1 & pinger=$!
until [ -e /tmp/pinged ]; do sleep 0.1; done
kill -INT $pinger; wait $pinger; cat /tmp/pings`
	said := make(chan string)
	go func() {
		r, err := o.lan.Run(ctx, script)
		said <- fmt.Sprint(r.Out(), err)
	}()
	o.eventually("the first ping is answered", func() string {
		r, err := o.lan.Run(ctx, "grep 'bytes from' /tmp/pings")
		if err != nil || r.Code != 0 {
			return fmt.Sprint("no answer ", r.Out(), err)
		}
		return ""
	})
	do()
	if _, err := o.lan.Must(ctx, "touch /tmp/pinged"); err != nil {
		o.t.Fatal(err)
	}
	if out := <-said; !strings.Contains(out, " 0% packet loss") {
		o.t.Errorf("pings were lost:\n%s", out)
	}
}

// runs checks which version the daemon is, and that it was started since it had this pid.
func (o *operator) runs(version, pid string) {
	o.t.Helper()
	o.says("lanyard version", "lanyard: "+version+" ", "daemon:  "+version+" ")
	if o.sh("systemctl show -P MainPID lanyard.service") == pid {
		o.t.Errorf("lanyard was not restarted")
	}
}

// written are the paths with lanyard's name that were written on the host since it was made, whoever
// wrote them, but for those below a prefix. Devices of the layer are what was removed again.
func (o *operator) written(but ...string) string {
	o.t.Helper()
	script := "cd /mnt/mnt/disk/upper && find . -name '*lanyard*' ! -type c ! -path './var/lib/lanyard-lab*' ! -path './var/cache/man/*'"
	for _, path := range but {
		script += " ! -path '." + path + "*'"
	}
	return o.sh("%s", script+"; ls -d /run/lanyard /run/docker/plugins/lanyard.sock 2>/dev/null; true")
}

func TestUpgrade(t *testing.T) {
	o := operate(t)
	// The file that the package brought sets nothing; what is set in it stays.
	if out := o.says("lanyard daemon --check", "default"); strings.Contains(out, "config.yaml") {
		t.Errorf("the configuration file as it came sets something:\n%s", out)
	}
	o.sh("sed -i 's/^#log-level: .*/log-level: debug/' /etc/lanyard/config.yaml")
	mac, pid := o.mac(), o.sh("systemctl show -P MainPID lanyard.service")
	since := o.sh("systemctl show -P ActiveEnterTimestampMonotonic lanyard.socket")
	o.runs(versions[0], "")
	o.pinged(func() { o.sh("dpkg -i %s", deb(versions[1])) })
	o.runs(versions[1], pid)
	o.says("lanyard daemon --check", "debug", "/etc/lanyard/config.yaml")
	if now := o.sh("systemctl show -P ActiveEnterTimestampMonotonic lanyard.socket"); now != since {
		t.Error("the socket was away: what Docker asked meanwhile has failed")
	}
	o.onLAN(web, webAddr, mac)
	o.says("docker run --rm --network lan busybox:lab ping -c1 -W2 "+webAddr, "1 packets received")
}

// With a container left on a network: it goes on, and a package that comes back takes it over.
func TestRemove(t *testing.T) {
	o := operate(t)
	mac := o.mac()
	o.pinged(func() {
		o.says("dpkg --remove lanyard 2>&1", "networks of lanyard's in Docker: 1")
		o.active("lanyard.socket lanyard.service", "inactive inactive")
		o.says("docker ps", web)
		o.says("ls /var/lib/lanyard /etc/lanyard", "lanyard.db", "config.yaml")
		o.sh("dpkg -i %s", deb(versions[1]))
		o.active("lanyard.socket lanyard.service", "active active")
		o.says("lanyard endpoint ls", web, webAddr, mac)
	})
	o.sh("docker restart %s", web)
	o.onLAN(web, webAddr, mac)
	// A lanyard that is not the unit's, as Docker's plugin is not.
	o.sh("systemctl disable --now lanyard.socket lanyard.service && systemd-run --quiet --unit=other -p Type=notify lanyard daemon")
	o.says("dpkg -i "+deb(versions[1])+" 2>&1", "a lanyard runs already, and not by its unit", "systemctl enable --now lanyard.socket lanyard.service")
	o.active("lanyard.socket lanyard.service other.service", "inactive inactive active")
	o.sh("systemctl stop other.service && systemctl enable --now lanyard.socket lanyard.service")
}

func TestPurge(t *testing.T) {
	o := operate(t)
	o.sh("docker rm -f %s && docker network rm lan", web)
	o.noLinks()
	o.sh("systemctl stop lanyard.socket lanyard.service && systemd-run --quiet --unit=other -p Type=notify lanyard daemon")
	o.says("sh /var/lib/dpkg/info/lanyard.postrm purge 2>&1; ls /var/lib/lanyard", "/var/lib/lanyard is kept", "lanyard.db")
	o.sh("systemctl stop other.service && systemctl start lanyard.socket lanyard.service")
	if out := o.sh("dpkg --purge lanyard 2>&1"); strings.Contains(out, "warning") || strings.Contains(out, "networks of lanyard's") {
		t.Error(out)
	}
	if out := o.written(); out != "" {
		t.Errorf("left:\n%s", out)
	}
}

// The rpm, by Debian's rpm and with Fedora's rule that what no preset names is off.
func TestRPM(t *testing.T) {
	o := operate(t)
	o.sh("mkdir -p /etc/systemd/system-preset && echo 'disable *' >/etc/systemd/system-preset/99-default-disable.preset")
	const rpmdo = "rpm --force-debian --nodeps "
	o.sh(rpmdo+"-i %s 2>&1", rpm(versions[0]))
	o.active("lanyard.socket lanyard.service", "active active")
	o.says("systemctl is-enabled lanyard.socket lanyard.service", "enabled\nenabled")
	pid := o.sh("systemctl show -P MainPID lanyard.service")
	o.runs(versions[0], "")
	o.says("rpm -V --nodeps lanyard; man -w lanyard-daemon", "/man1/lanyard-daemon.1")
	o.sh("docker network create -d lanyard --subnet 192.168.0.0/16 --ip-range 192.168.11.0/24 --gateway 192.168.0.1 -o parent=eth1.100 lan")
	o.sh("docker run -d --stop-signal=SIGKILL --name %s --network lan --ip %s busybox:lab", web, webAddr)
	o.sh("echo 'log-level: debug' >>/etc/lanyard/config.yaml")
	o.pinged(func() {
		o.sh(rpmdo+"-U %s 2>&1", rpm(versions[1]))
		o.runs(versions[1], pid)
		o.active("lanyard.socket lanyard.service", "active active")
		o.says("lanyard daemon --check", "debug")
		o.says("rpm -e --nodeps lanyard 2>&1", "networks of lanyard's in Docker: 1", "config.yaml.rpmsave")
		o.active("lanyard.socket lanyard.service", "inactive inactive")
	})
	// As docs/install.md says, where nothing is to remain. Without lanyard Docker takes 45 s to
	// remove a container, and asks it in vain to remove a network.
	o.sh(rpmdo+"-i %s 2>&1 && docker rm -f %s && docker network rm lan && rpm -e --nodeps lanyard", rpm(versions[1]), web)
	o.noLinks()
	o.says("ls /var/lib/lanyard /etc/lanyard", "lanyard.db", "config.yaml.rpmsave")
	o.sh("rm -r /var/lib/lanyard /etc/lanyard /etc/systemd/system-preset")
	if out := o.written(); out != "" {
		t.Errorf("left:\n%s", out)
	}
}

func TestWithoutPackages(t *testing.T) {
	o := operate(t)
	o.says("make -C "+checkout+" install", "Nothing was started", "systemctl enable --now lanyard.socket lanyard.service")
	o.sh("systemctl daemon-reload && systemctl enable --now lanyard.socket lanyard.service")
	o.says("lanyard version && man -w lanyard-daemon", "daemon:  ", "/usr/local/", "/man1/lanyard-daemon.1")
	tarball := "/root/lanyard-" + versions[0] + "-linux-amd64"
	o.sh("cd %s && sha256sum --check --quiet SHA256SUMS && tar -C /root -xzf lanyard-%s-linux-amd64.tar.gz", filepath.Join(dist, versions[0]), versions[0])
	// systemctl could not stop units without their files, so the order matters.
	for _, remove := range []string{"make -C " + checkout + " uninstall", tarball + "/install.sh remove"} {
		o.fails(remove, "systemctl disable --now lanyard.socket lanyard.service")
	}
	o.active("lanyard.socket lanyard.service", "active active")
	o.sh("systemctl disable --now lanyard.socket lanyard.service")
	o.says("make -C "+checkout+" uninstall && systemctl daemon-reload", "The state was kept", "/var/lib/lanyard")
	gone := func() {
		t.Helper()
		if out := o.written("/root/", "/var/lib/lanyard"); out != "" {
			t.Errorf("left:\n%s", out)
		}
	}
	gone()
	o.says("ls /var/lib/lanyard", "lanyard.db")
	// The tarball has the same files.
	o.says(tarball+"/install.sh", "Nothing was started", "systemctl enable --now lanyard.socket lanyard.service")
	o.sh("mkdir /root/made && make -C %s install DESTDIR=/root/made && cd /root/made && find . -type f | while read -r f; do [ $f = ./usr/local/bin/lanyard ] || cmp $f /$f; done", checkout)
	o.says("lanyard version", "lanyard: "+versions[0]+" ")
	o.says(tarball+"/install.sh remove", "The state was kept", "/var/lib/lanyard")
	gone()
	o.sh("systemctl restart docker.service")
	o.says("docker run --rm --network none busybox:lab echo runs", "runs")
}

// The same sources give the same bytes in another folder, with another umask, time zone and clock of
// files.
func TestReproducible(t *testing.T) {
	dir, two := t.TempDir(), t.TempDir()
	const copied = `export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) COMMIT=$(git rev-parse HEAD)
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0" && cd "$0" && umask 077
TZ=Asia/Tokyo LC_ALL=C.UTF-8 GOFLAGS=-buildvcs=true make dist ARCHS=amd64 VERSION=` + "$1 DIST=$2"
	cmd := exec.Command("sh", "-c", copied, dir, versions[0], two)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bill, err := os.ReadFile(two + "/lanyard-" + versions[0] + ".cdx.json")
	if err != nil || !strings.Contains(string(bill), `"purl": "pkg:golang/go.etcd.io/bbolt@v`) {
		t.Errorf("the SBOM does not name bbolt: %v\n%s", err, bill)
	}
	names, err := filepath.Glob(dist + "/" + versions[0] + "/*")
	if err != nil || len(names) != 5 {
		t.Fatalf("%d files %v, want a deb, an rpm, a tarball, an SBOM and SHA256SUMS", len(names), names)
	}
	for _, one := range names {
		a, err := os.ReadFile(one)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, filepath.Base(one)))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("%s is another one, %d bytes and %d", filepath.Base(one), len(a), len(b))
		}
	}
}
