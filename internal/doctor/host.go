package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/netns"
)

const onHost = "host"

// checkHost judges what is the host's.
func (s *sight) checkHost(ctx context.Context) (list []Finding) {
	list = append(list, s.checkKernel()...)
	list = append(list, s.checkDocker()...)
	list = append(list, s.checkDaemon()...)
	list = append(list, s.checkSocket(ctx)...)
	list = append(list, s.checkUnits(ctx)...)
	list = append(list, s.checkStore()...)
	list = append(list, s.checkCluster()...)
	list = append(list, s.checkClock()...)
	list = append(list, s.checkBridgeFilter()...)
	return append(list, s.checkLeftovers()...)
}

// kinds of links, and the module that each is in.
var kinds = []struct{ module, text string }{{"macvlan", "macvlan"}, {"ipvlan", "ipvlan"}, {"8021q", "802.1Q"}}

// checkKernel makes a link of each kind in a namespace of its own, as Docker would have it made: the kernel loads the
// module for it.
func (s *sight) checkKernel() []Finding {
	release := s.text("proc/sys/kernel/osrelease")
	lacks, err := tryKinds()
	if err != nil {
		f := found("kernel-modules", onHost, Note, "not tried: %v", err)
		if errors.Is(err, unix.EPERM) {
			f.What = "not tried: only root may make links"
		}
		return []Finding{f}
	}
	var works, missing, load []string
	needed := false
	for _, k := range kinds {
		if lacks[k.module] == nil {
			works = append(works, k.text)
			continue
		}
		missing, load = append(missing, k.text), append(load, "modprobe "+k.module)
		needed = needed || slices.ContainsFunc(s.nets, func(n *network) bool {
			return string(n.kind) == k.module || k.module == "8021q" && strings.Contains(n.spec.String(), ".")
		})
	}
	if len(missing) == 0 {
		return []Finding{found("kernel-modules", onHost, OK, "Linux %s makes %s links (tried)", release, strings.Join(works, ", "))}
	}
	f := found("kernel-modules", onHost, Note, "Linux %s has no %s", release, strings.Join(missing, ", "))
	switch {
	case needed:
		f.Verdict = Failure
		f.What += ", which networks here need"
	case lacks["macvlan"] != nil:
		f.Verdict = Warning
	default:
		f.What += "; no network here needs it"
		return []Finding{f}
	}
	for _, k := range kinds {
		if err := lacks[k.module]; err != nil {
			f = f.with("a link of the kind %s was asked for: %v", k.text, err)
		}
	}
	if s.modulesGone(release) {
		return []Finding{f.because("The kernel was upgraded since the last boot: the modules of the running one, %s, are gone.", release).try("reboot")}
	}
	return []Finding{f.try("%s", packageFor(s.text("etc/os-release"), release)).try("%s", strings.Join(load, ", "))}
}

// tryKinds makes a link of each kind in a new namespace, and says which the kernel refuses. An error means that it could
// not be tried.
func tryKinds() (lacks map[string]error, err error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	lacks = map[string]error{}
	return lacks, ns.Do(func() error {
		base := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "base"}, PeerName: "peer"}
		if err := netlink.LinkAdd(base); err != nil {
			if err = netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "base"}}); err != nil {
				return err
			}
		}
		on, err := netlink.LinkByName("base")
		if err != nil {
			return err
		}
		attrs := func(name string) netlink.LinkAttrs {
			a := netlink.NewLinkAttrs()
			a.Name, a.ParentIndex = name, on.Attrs().Index
			return a
		}
		for module, l := range map[string]netlink.Link{
			"8021q":   &netlink.Vlan{LinkAttrs: attrs("v"), VlanId: 2, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q},
			"macvlan": &netlink.Macvlan{LinkAttrs: attrs("m"), Mode: netlink.MACVLAN_MODE_BRIDGE},
			"ipvlan":  &netlink.IPVlan{LinkAttrs: attrs("i"), Mode: netlink.IPVLAN_MODE_L2},
		} {
			if err := netlink.LinkAdd(l); err != nil {
				lacks[module] = err
			} else if err := netlink.LinkDel(l); err != nil { // macvlan and ipvlan do not share a parent
				return err
			}
		}
		return nil
	})
}

// modulesGone reports whether the running kernel's modules are not there, while those of others are.
func (s *sight) modulesGone(release string) bool {
	all, err := os.ReadDir(s.path("lib/modules"))
	return err == nil && len(all) > 0 && !s.exists("lib/modules", release)
}

// packageFor says which package of a distribution has the modules.
func packageFor(osRelease, kernel string) string {
	id := " "
	for line := range strings.Lines(osRelease) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && (key == "ID" || key == "ID_LIKE") {
			id += strings.Trim(value, `"'`) + " "
		}
	}
	is := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(id, " "+w+" ") })
	}
	switch {
	case strings.Contains(kernel, "raspi"):
		return "apt install linux-modules-extra-raspi"
	case is("raspbian"), strings.Contains(kernel, "+rpt"):
		return "apt install --reinstall linux-image-" + kernel + ", and reboot"
	case is("ubuntu"):
		return "apt install linux-modules-extra-" + kernel
	case is("debian"):
		return "apt install the kernel linux-image-" + strings.TrimPrefix(archOf(kernel), "cloud-") + " (not the -cloud one), and reboot"
	case is("fedora", "rhel", "centos"):
		return "dnf install kernel-modules-" + kernel + " kernel-modules-extra-" + kernel
	case is("alpine"):
		return "apk add linux-lts (linux-virt has fewer modules), and reboot"
	case is("arch"):
		return "pacman -S linux, and reboot: the modules of a kernel go with its upgrade"
	case is("suse", "opensuse", "sles"):
		return "zypper install kernel-default (kernel-default-base has fewer modules), and reboot"
	case is("openwrt"):
		return "opkg install kmod-macvlan"
	}
	return "a kernel with CONFIG_MACVLAN, CONFIG_IPVLAN and CONFIG_VLAN_8021Q (zgrep -E 'MACVLAN|IPVLAN|VLAN_8021Q' /proc/config.gz)"
}

// archOf is the last part of a Debian kernel's release: amd64, cloud-amd64, arm64.
func archOf(kernel string) string {
	_, arch, ok := strings.Cut(kernel, "-")
	if _, rest, more := strings.Cut(arch, "-"); ok && more {
		return rest
	}
	return "amd64"
}

// checkDocker judges the engine.
func (s *sight) checkDocker() []Finding {
	e := s.Engine
	if e.Err != nil {
		f := found("docker", onHost, Failure, "Docker does not answer at %s", e.Where).with("%v", e.Err)
		if errors.Is(e.Err, os.ErrPermission) {
			return []Finding{f.because("Docker's socket is for root and the group docker.").try("sudo lanyard doctor")}
		}
		return []Finding{f.because("dockerd does not run, or listens elsewhere (DOCKER_HOST). What only Docker knows is not looked at.").try("systemctl status docker")}
	}
	f := found("docker", onHost, OK, "Docker %s answers at %s", e.Version, e.Where)
	major, rest, _ := strings.Cut(e.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	switch {
	case strings.Contains(e.System, "Docker Desktop"):
		f.Verdict, f.What = Failure, "Docker "+e.Version+" is Docker Desktop's"
		f = f.because("Docker Desktop runs its containers in a virtual machine that has none of this computer's ports: nothing on the LAN can be reached by macvlan or ipvlan.").
			try("install the engine itself, on Linux: docker context use default")
	case e.Rootless:
		f.Verdict, f.What = Failure, "Docker "+e.Version+" is rootless"
		f = f.because("A rootless engine has a network namespace of its own without the host's ports: macvlan and ipvlan cannot use them.").
			try("dockerd as root, for containers on the LAN")
	case err != nil:
		f = f.with("version %q is not a number", e.Version)
	case a < 20 || a == 20 && b < 10:
		f.Verdict = Warning
		f = f.because("lanyard was never run with an engine older than 20.10.").try("upgrade Docker")
	case e.Partial != nil:
		f.Verdict = Note
		f = f.with("it did not say all that it was asked: %v", e.Partial)
	case a >= 29:
		f = f.with("lanyard is tested with 20.10 and 28.5, and with a pre-release of 29 (docs/engines.md)")
	}
	if e.Plugin {
		f.What += "; lanyard is its managed plugin"
	}
	return []Finding{f}
}

// checkDaemon judges lanyard's daemon.
func (s *sight) checkDaemon() []Finding {
	d := s.Daemon
	if d.Err != nil {
		f := found("daemon", onHost, Failure, "%v", d.Err)
		if errors.Is(d.Err, os.ErrPermission) || errors.Is(d.Err, control.ErrDenied) {
			return []Finding{f.because("Only root may ask the daemon.").try("sudo lanyard doctor")}
		}
		return []Finding{f.because("lanyard does not run. Containers on its networks go on, and none can be started.").try("systemctl start lanyard").try("journalctl -u lanyard -n 50")}
	}
	f := found("daemon", onHost, OK, "lanyard %s runs, with %s and %s", d.Version.Version, count(len(d.Networks), "network"), count(len(d.Endpoints), "container"))
	if c := s.Client; c.Version != d.Version.Version && c.Version != "" {
		f.Verdict = Warning
		f.What = fmt.Sprintf("the daemon is lanyard %s, this command is %s", d.Version.Version, c.Version)
		f = f.because("lanyard was upgraded and not started again.").try("systemctl restart lanyard: running containers do not notice")
	}
	return []Finding{f}
}

// checkSocket asks on the plugin's socket what Docker asks first.
func (s *sight) checkSocket(ctx context.Context) []Finding {
	if s.PluginSocket == "" || s.Engine.Plugin {
		return nil
	}
	f := found("plugin-socket", onHost, OK, "answers at %s", s.PluginSocket)
	start := time.Now()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.PluginSocket)
	}
	c := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 3 * time.Second}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lanyard/Plugin.Activate", http.NoBody)
	if err != nil {
		return nil
	}
	w, err := c.Do(r)
	switch {
	case errors.Is(err, unix.EACCES):
		f.Verdict, f.What = Note, "not asked: only root may"
	case errors.Is(err, unix.ENOENT):
		f.Verdict, f.What = Failure, s.PluginSocket+" is not there"
	case errors.Is(err, unix.ECONNREFUSED):
		f.Verdict, f.What = Failure, "nobody listens on "+s.PluginSocket
		f = f.because("The file was left behind by a daemon that was killed; Docker gets \"connection refused\".")
	case err != nil:
		f.Verdict, f.What = Failure, fmt.Sprintf("no answer at %s: %v", s.PluginSocket, err)
	default:
		defer w.Body.Close()
		b, err := io.ReadAll(io.LimitReader(w.Body, 4096))
		if err != nil || w.StatusCode != http.StatusOK || !bytes.Contains(b, []byte("NetworkDriver")) {
			f.Verdict, f.What = Failure, "what answers at "+s.PluginSocket+" is no network driver"
			f = f.with("%s: %.200q", w.Status, b)
			break
		}
		f = f.with("Plugin.Activate answered in %s: %s", time.Since(start).Round(time.Millisecond), bytes.TrimSpace(b))
	}
	return []Finding{f}
}

// checkUnits judges whether systemd starts lanyard, and before Docker.
func (s *sight) checkUnits(ctx context.Context) []Finding {
	if !s.exists("run/systemd/system") || s.Engine.Plugin {
		return nil
	}
	show := func(unit string, property ...string) map[string]string {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "systemctl", "show", unit, "-p", strings.Join(property, ",")).Output()
		if err != nil {
			return nil
		}
		values := map[string]string{}
		for line := range strings.Lines(string(out)) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				values[key] = value
			}
		}
		return values
	}
	f := found("start-order", onHost, OK, "systemd starts lanyard's socket and daemon before Docker")
	for _, unit := range []string{"lanyard.socket", "lanyard.service"} {
		u := show(unit, "LoadState", "UnitFileState", "ActiveState", "Before")
		switch {
		case u == nil || u["LoadState"] == "not-found":
			return []Finding{found("start-order", onHost, Warning, "systemd has no %s", unit).
				because("lanyard is not started by systemd; whatever starts it has to do so before Docker starts.").try("make install, or install the package")}
		case u["UnitFileState"] == "disabled" || u["UnitFileState"] == "masked":
			f.Verdict, f.What = Warning, unit+" is "+u["UnitFileState"]+": lanyard does not start at the next boot"
		case u["ActiveState"] != "active" && unit == "lanyard.socket":
			f.Verdict, f.What = Warning, unit+" is "+u["ActiveState"]
		case u["Before"] != "" && !slices.Contains(strings.Fields(u["Before"]), "docker.service") && f.Verdict == OK:
			f.Verdict, f.What = Warning, unit+" is not ordered before docker.service"
			f = f.with("Before=%s", u["Before"]).try("systemctl cat %s, and put Before=docker.service back", unit)
		}
	}
	return []Finding{f}
}

// Room that the state file's file system has to have, in bytes: a container needs some kilobytes.
const (
	roomLow  = 64 << 20
	roomNone = 1 << 20
)

// checkStore judges the state.
func (s *sight) checkStore() (list []Finding) {
	for _, n := range s.Daemon.Notes {
		list = append(list, found("store", onHost, Warning, "%s", n).try("lanyard repair --dry-run"))
	}
	if s.StateDir == "" {
		return list
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.StateDir, &fs); err != nil {
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) {
			list = append(list, found("store", onHost, Failure, "%s: %v", s.StateDir, err))
		}
		return list
	}
	free := fs.Bavail * uint64(fs.Bsize)
	f := found("store", onHost, OK, "%d MB are left for the state in %s", free>>20, s.StateDir)
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		f.Verdict, f.What = Failure, s.StateDir+" is on a file system that is read-only"
		f = f.try("findmnt -T %s; mount -o remount,rw", s.StateDir)
	case free < roomNone:
		f.Verdict, f.What = Failure, "the file system of "+s.StateDir+" is full"
	case free < roomLow:
		f.Verdict = Warning
	case fs.Files > 0 && fs.Ffree == 0:
		f.Verdict, f.What = Failure, "the file system of "+s.StateDir+" has no inodes left"
		f = f.try("df -i %s", s.StateDir)
	}
	return append(list, f)
}

// checkCluster judges etcd, and the other hosts.
func (s *sight) checkCluster() (list []Finding) {
	h := s.Daemon.Hosts
	if h == nil {
		return nil
	}
	if h.Problem != "" {
		f := found("etcd", onHost, Failure, "etcd does not answer: %s", h.Problem).with("members: %s", h.Etcd)
		if !h.Since.IsZero() {
			f = f.with("since %s", h.Since.Format(time.RFC3339))
		}
		return []Finding{f.try("etcdctl --endpoints=%s endpoint health", h.Etcd)}
	}
	list = append(list, found("etcd", onHost, OK, "etcd answers, for %s", count(len(h.Hosts), "host")))
	for _, o := range h.Hosts {
		if !o.Alive && !o.Self {
			f := found("etcd", "host "+o.Name, Warning, "is silent, and keeps its %s", count(o.Addresses, "address")).
				because("Nothing was heard of the host for half a minute or more: it is down, or it does not reach etcd. Its addresses are kept for it.").
				try("lanyard host ls").try("lanyard host forget %s, if it is gone for good", o.Name)
			if !o.Silent.IsZero() {
				f = f.with("silent since %s", o.Silent.Format(time.RFC3339))
			}
			list = append(list, f)
		}
	}
	return list
}

// checkClock judges whether something sets the clock.
func (s *sight) checkClock() []Finding {
	synchronised, err := s.Clock()
	if err != nil {
		return nil
	}
	f := found("clock", onHost, OK, "is synchronised")
	if !synchronised {
		f.Verdict, f.What = Note, "is not synchronised"
		if s.Daemon.Hosts != nil {
			f.Verdict, f.What = Warning, "is not synchronised, and other hosts share addresses with this one"
		}
	}
	return []Finding{f}
}

// clockSynchronised asks the kernel, which whoever sets the clock tells.
func clockSynchronised() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, err
	}
	return t.Status&unix.STA_UNSYNC == 0, nil
}

// checkBridgeFilter judges whether a firewall sees the frames of a bridge that is a parent.
func (s *sight) checkBridgeFilter() []Finding {
	var bridges []string
	for _, w := range s.wires {
		if w.err == nil && w.base().Kind == "bridge" {
			bridges = append(bridges, w.base().Name)
		}
	}
	if len(bridges) == 0 {
		return nil
	}
	value := ""
	s.inside(func() error {
		value = s.text("proc/sys/net/bridge/bridge-nf-call-iptables")
		return nil
	})
	f := found("bridge-filter", onHost, OK, "frames of %s do not pass iptables", some(bridges)).with("bridge-nf-call-iptables=%s", value)
	switch value {
	case "1":
		f.Verdict, f.What = Warning, fmt.Sprintf("frames of %s pass iptables", some(bridges))
	case "":
		f.Evidence = []string{"br_netfilter is not loaded"}
	}
	return []Finding{f}
}

// checkLeftovers judges what lanyard repair would do.
func (s *sight) checkLeftovers() []Finding {
	if s.Daemon.Err != nil {
		return nil
	}
	if err := s.Daemon.RepairErr; err != nil {
		return []Finding{found("leftovers", onHost, Note, "not compared: %v", err)}
	}
	if len(s.Daemon.Steps) == 0 {
		return []Finding{found("leftovers", onHost, OK, "Docker, lanyard and the kernel have the same")}
	}
	f := found("leftovers", onHost, Warning, "Docker, lanyard and the kernel do not have the same")
	for i, step := range s.Daemon.Steps {
		if i == 8 {
			f = f.with("and %d more", len(s.Daemon.Steps)-i)
			break
		}
		f = f.with("%s %s: %s", step.Do, step.What, step.Why)
	}
	return []Finding{f}
}
