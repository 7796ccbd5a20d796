// Package machine brings to a machine what the lab needs: packages, two Docker
// Engines that are unpacked and never installed, and the modules of the guests'
// kernel. It starts no service, those of the packages included, and touches no Docker
// that is there.
package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Cache is the folder of all that is downloaded or unpacked.
const Cache = "/var/cache/lanyard-lab"

// aptPackage is a Debian package, and a file that tells that it is there.
type aptPackage struct{ name, file string }

// packages are what the lab runs.
var packages = []aptPackage{
	{"user-mode-linux", "/usr/bin/linux.uml"},
	{"kmod", "/sbin/depmod"},
	{"iproute2", "/sbin/ip"},
	{"iptables", "/usr/sbin/iptables-legacy"},
	{"e2fsprogs", "/sbin/mkfs.ext4"},
	{"tini", "/usr/bin/tini"},
	{"busybox-static", "/bin/busybox"},
	{"util-linux", "/usr/bin/nsenter"},
	{"procps", "/sbin/sysctl"},
	{"tcpdump", "/usr/bin/tcpdump"},
	{"radvd", "/usr/sbin/radvd"},
	{"dnsmasq-base", "/usr/sbin/dnsmasq"},
	{"kea-dhcp4-server", "/usr/sbin/kea-dhcp4"},
	{"kea-dhcp6-server", "/usr/sbin/kea-dhcp6"},
	{"isc-dhcp-relay", "/usr/sbin/dhcrelay"},
	{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt"},
	{"libdevmapper1.02.1", "/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1"},
	{"libseccomp2", "/lib/x86_64-linux-gnu/libseccomp.so.2"},
	{"etcd-server", "/usr/bin/etcd"},
	{"iperf3", "/usr/bin/iperf3"},
	{"fping", "/usr/bin/fping"},
	{"prometheus", "/usr/bin/promtool"},
	{"systemd", "/lib/systemd/systemd"}, // for guests, as the rest
	{"udev", "/lib/systemd/systemd-udevd"},
	{"dbus", "/usr/bin/dbus-daemon"},
	{"rpm", "/usr/bin/rpm"},
}

// services are the packages that come with a service, and its name.
var services = map[string]string{
	"radvd": "radvd", "kea-dhcp4-server": "kea-dhcp4-server", "kea-dhcp6-server": "kea-dhcp6-server", "isc-dhcp-relay": "isc-dhcp-relay", "etcd-server": "etcd", "prometheus": "prometheus",
}

// Engine is a Docker Engine that is unpacked in the cache.
type Engine struct {
	Name  string // 20.10, 28.5: the line of versions
	suite string // Debian's
	debs  []string
	built string // its version, for one that is built from source and has no debs
	// Path lists the folders of its programs.
	Path []string
}

// Engines are the oldest and the newest engine that lanyard is tested with. sid
// moves: Version says what it has now.
func Engines() []Engine {
	old, sid := root("bookworm"), root("sid")
	return []Engine{
		{
			Name: "20.10", suite: "bookworm", debs: []string{"docker.io", "containerd", "runc"},
			Path: []string{old + "/usr/bin", old + "/usr/sbin"},
		},
		{
			// sid's runc needs a newer libc than Debian 12 has.
			Name: "28.5", suite: "sid", debs: []string{"docker.io", "docker-cli", "containerd", "docker-compose"},
			Path: []string{sid + "/usr/bin", sid + "/usr/sbin", old + "/usr/sbin"},
		},
	}
}

// Chosen are the engines of a comma-separated list of names; all of Engines for "".
func Chosen(names string) ([]Engine, error) {
	if names == "" {
		return Engines(), nil
	}
	var chosen []Engine
	for name := range strings.SplitSeq(names, ",") {
		e, err := EngineNamed(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, e)
	}
	return chosen, nil
}

// EngineNamed is the engine of that name.
func EngineNamed(name string) (Engine, error) {
	for _, e := range append(Engines(), engine29()) {
		if e.Name == name {
			return e, nil
		}
	}
	return Engine{}, fmt.Errorf("no engine %q: there are 20.10, 28.5 and 29", name)
}

// Version is the engine's own, such as "28.5.2+dfsg4".
func (e Engine) Version() string {
	if e.built != "" {
		return e.built
	}
	out, err := exec.Command(filepath.Join(root(e.suite), "usr/sbin/dockerd"), "--version").Output()
	if err != nil {
		return "not there"
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(string(out), "Docker version "), ",")
	return version
}

// Compose is the compose plugin, which serves both engines.
func Compose() string { return root("sid") + "/usr/libexec/docker/cli-plugins/docker-compose" }

// NetworkManager brings NetworkManager, and is the folder that it is unpacked in, with its
// libraries: installed on a machine it would take the machine's links over.
func NetworkManager(ctx context.Context) (string, error) {
	unlock, err := lock("lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	to := filepath.Join(Cache, "network-manager")
	if _, err := os.Stat(filepath.Join(to, "usr/sbin/NetworkManager")); err == nil {
		return to, nil
	}
	return to, fetch(ctx, "bookworm", []string{
		"network-manager", "libnm0", "libndp0", "libmm-glib0", "libbluetooth3", "libteamdctl0", "libnewt0.52", "libslang2",
		"libglib2.0-0", "libcurl3-gnutls", "libjansson4", "libpsl5", "libreadline8",
	}, to)
}

func root(suite string) string { return filepath.Join(Cache, "engines", suite) }

// Prepare brings what is missing. say is told of each step that takes time. It may
// run in several processes at once: they wait for each other.
func Prepare(ctx context.Context, say func(format string, args ...any)) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it makes namespaces, taps and mounts; try: sudo")
	}
	unlock, err := lock("lock")
	if err != nil {
		return err
	}
	defer unlock()
	if err := installPackages(ctx, packages, say); err != nil {
		return err
	}
	for _, e := range Engines() {
		if err := e.unpack(ctx, say); err != nil {
			return fmt.Errorf("engine %s: %w", e.Name, err)
		}
	}
	return prepareKernels(ctx, say)
}

// lock waits until no other process holds the lock of that name.
func lock(name string) (unlock func() error, err error) {
	if err := os.MkdirAll(Cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(Cache, name))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f.Close, nil
}

// PrepareBrowser brings what the tests of pages and pictures need besides: a browser, Graphviz, and letters.
func PrepareBrowser(ctx context.Context, say func(format string, args ...any)) error {
	unlock, err := lock("lock")
	if err != nil {
		return err
	}
	defer unlock()
	return installPackages(ctx, []aptPackage{
		{"chromium", Browser}, {"graphviz", "/usr/bin/dot"}, {"fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"},
	}, say)
}

// Browser is the browser that PrepareBrowser brings.
const Browser = "/usr/bin/chromium"

func installPackages(ctx context.Context, wanted []aptPackage, say func(string, ...any)) error {
	var missing []string
	for _, p := range wanted {
		if _, err := os.Stat(p.file); err != nil {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	say("installing packages: %s", strings.Join(missing, " "))
	quiet, err := os.MkdirTemp("", "lanyard-install")
	if err != nil {
		return err
	}
	defer os.RemoveAll(quiet)
	// Packages start their services by these programs, which they look for on PATH.
	for _, name := range []string{"invoke-rc.d", "deb-systemd-invoke"} {
		if err := os.WriteFile(filepath.Join(quiet, name), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
			return err
		}
	}
	install := append([]string{"apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Path=" + quiet + ":/usr/sbin:/usr/bin:/sbin:/bin"}, missing...)
	if run(ctx, install...) != nil {
		// The lists may be old or empty.
		if err := retry(ctx, func() error { return run(ctx, "apt-get", "update", "-q") }); err != nil {
			return err
		}
		if err := retry(ctx, func() error { return run(ctx, install...) }); err != nil {
			return err
		}
	}
	// Nor are they to start with the machine.
	for _, name := range missing {
		service := services[name]
		if service == "" {
			continue
		}
		if _, err := os.Stat("/etc/init.d/" + service); err == nil {
			if err := run(ctx, "update-rc.d", service, "disable"); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpack downloads the engine's packages and unpacks them into the cache.
func (e Engine) unpack(ctx context.Context, say func(string, ...any)) error {
	to := root(e.suite)
	if _, err := os.Stat(filepath.Join(to, "usr/sbin/dockerd")); err == nil {
		return nil
	}
	say("downloading Docker %s (Debian %s; unpacked, not installed)", e.Name, e.suite)
	return fetch(ctx, e.suite, e.debs, to)
}

// fetch downloads packages of a suite, whatever the machine's own sources say, and unpacks
// them into a folder that is there whole or not at all.
func fetch(ctx context.Context, suite string, debs []string, to string) error {
	work, err := os.MkdirTemp(Cache, "unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, dir := range []string{"lists/partial", "cache/archives/partial", "deb", "root"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return err
		}
	}
	sources := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror(), suite)
	if err := os.WriteFile(filepath.Join(work, "sources.list"), []byte(sources), 0o644); err != nil {
		return err
	}
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{
			"-q", "-o", "Dir::Etc::SourceList=" + work + "/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
			"-o", "Dir::State::lists=" + work + "/lists", "-o", "Dir::Cache=" + work + "/cache",
			"-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none",
		}, args...)...)
		cmd.Dir = filepath.Join(work, "deb")
		return output(cmd)
	}
	if err := retry(ctx, func() error { return apt("update") }); err != nil {
		return err
	}
	if err := retry(ctx, func() error { return apt(append([]string{"download"}, debs...)...) }); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(work, "deb/*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range files {
		if err := run(ctx, "dpkg-deb", "-x", deb, filepath.Join(work, "root")); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "root"), to)
}

// mirror is the machine's own Debian mirror.
func mirror() string {
	for _, file := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			for field := range strings.FieldsSeq(line) {
				if strings.HasPrefix(field, "http") && strings.Contains(field, "debian") && !strings.Contains(field, "security") {
					return field
				}
			}
		}
	}
	return "http://deb.debian.org/debian"
}

func retry(ctx context.Context, do func() error) error {
	var err error
	for try := range 4 {
		if err = do(); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Duration(1<<try) * time.Second)
	}
	return err
}

func run(ctx context.Context, args ...string) error {
	return output(exec.CommandContext(ctx, args[0], args[1:]...))
}

func output(cmd *exec.Cmd) error {
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Interruptible is a context that ends when the process is interrupted or terminated. After
// ready, whatever ends it calls end, which ends what the process started, and the process
// exits with 1: go test leaves no time for anything else.
func Interruptible() (ctx context.Context, ready func(end func() error)) {
	ctx, _ = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	return ctx, func(end func() error) {
		context.AfterFunc(ctx, func() {
			fmt.Fprintln(os.Stderr, "interrupted")
			if err := end(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			os.Exit(1)
		})
	}
}
