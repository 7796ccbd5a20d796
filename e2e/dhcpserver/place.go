package dhcpserver

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Runner runs a shell script as root in a place, and returns what it prints. Methods
// Host.Sh of package dockerd and Node.Must of package uml are runners.
type Runner func(ctx context.Context, script string) (out string, err error)

// Nsenter is the place of a network namespace of this machine, by its path.
func Nsenter(ns string) Runner {
	return func(ctx context.Context, script string) (string, error) {
		out, err := exec.CommandContext(ctx, "nsenter", "--net="+ns, "sh", "-c", script).CombinedOutput()
		return string(out), err
	}
}

// Inside is the place of a network namespace that a command enters in another place: "ip
// netns exec far". Files and processes are those of the other place.
func Inside(place Runner, enter string) Runner {
	return func(ctx context.Context, script string) (string, error) {
		return place(ctx, enter+" sh -c "+quote(script))
	}
}

// Apart is a network namespace in a place, for a server that must be a machine of its
// own: on a Docker host of package dockerd, whose end of the wire is in the namespace
// of its parent. It has one link, a macvlan on the wire, which stays as it is.
type Apart struct {
	place Runner
	job   job
	dir   string
	pid   string
}

// ApartLink is the link in a namespace apart.
const ApartLink = "lan0"

// NewApart makes a namespace in a place, with ApartLink on one of the place's links. dir
// is a folder there that is made. Close it in any case but an error.
func NewApart(ctx context.Context, place Runner, dir, wire string) (*Apart, error) {
	a := &Apart{place: place, dir: dir, job: job{
		name: "apart", program: "/usr/bin/unshare", args: `--net sh -c 'ip link set lo up; echo ready; exec sleep 2147483647'`, ready: "ready",
	}}
	if out, err := place(ctx, "mkdir -p "+dir); err != nil {
		return nil, fmt.Errorf("namespace apart: %w: %s", err, out)
	}
	if err := start(ctx, place, dir, a.job); err != nil {
		return nil, err
	}
	out, err := place(ctx, fmt.Sprintf(`set -e
pid=$(cat %s/apart.pid)
ip link add link %s name %s netns $pid type macvlan mode bridge
nsenter -t $pid -n ip link set %[3]s up
echo $pid`, dir, wire, ApartLink))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("link apart on %s: %w: %s", wire, err, out), a.Close(context.WithoutCancel(ctx)))
	}
	a.pid = strings.TrimSpace(out)
	return a, nil
}

// Run is the namespace's Runner. Files and processes are those of the place.
func (a *Apart) Run(ctx context.Context, script string) (string, error) {
	return Inside(a.place, "nsenter -t "+a.pid+" -n")(ctx, script)
}

// Close ends the namespace. Servers in it are to be closed before.
func (a *Apart) Close(ctx context.Context) error {
	err := end(ctx, a.place, a.dir, a.job, "KILL")
	if out, rmErr := a.place(ctx, "rm -rf "+a.dir); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("remove %s: %w: %s", a.dir, rmErr, out))
	}
	return err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// alive is a shell function: whether a process is there, and not only waits to be
// reaped.
const alive = `alive() { case $(sed 's/.*) //' /proc/$1/stat 2>/dev/null) in Z* | "") return 1 ;; esac; }
`

// start starts a job in the background, unless it runs, and waits until its log says
// that it is ready.
func start(ctx context.Context, run Runner, dir string, j job) error {
	// Profiles of AppArmor, which let servers read and write in Debian's places
	// only, go by the program's path.
	out, err := run(ctx, fmt.Sprintf(alive+`cd %[1]s || exit 1
[ -s %[2]s.pid ] && alive "$(cat %[2]s.pid)" && exit 0
program=%[3]s
[ -x $program ] || { echo "no $program; try: labctl prepare"; exit 1; }
if grep -qs Y /sys/module/apparmor/parameters/enabled; then
	cp -u $program %[1]s/ && program=%[1]s/${program##*/}
fi
touch %[2]s.log
at=$(($(wc -c <%[2]s.log) + 1))
rm -f %[2]s.kea-*.pid # of one that was killed
export KEA_PIDFILE_DIR=%[1]s KEA_LOCKFILE_DIR=none
setsid $program %[4]s >>%[2]s.log 2>&1 </dev/null &
pid=$!
echo $pid >%[2]s.pid
for i in $(seq 1000); do # Kea takes 6 s in a guest
	tail -c +$at %[2]s.log | grep -q NO_SOCKETS_OPEN && break # Kea, with nothing to hear by
	tail -c +$at %[2]s.log | grep -q '%[5]s' && exit 0
	alive $pid || break
	sleep 0.05
done
tail -n 30 %[2]s.log
alive $pid && kill -KILL $pid
rm -f %[2]s.pid
exit 1`, dir, j.name, j.program, j.args, j.ready))
	if err != nil {
		return fmt.Errorf("start %s: %w: %s", j.name, err, strings.TrimSpace(out))
	}
	return nil
}

// end sends a job a signal and waits for its end.
func end(ctx context.Context, run Runner, dir string, j job, signal string) error {
	out, err := run(ctx, fmt.Sprintf(alive+`[ -s %[1]s/%[2]s.pid ] || exit 0
cd %[1]s
pid=$(cat %[2]s.pid)
kill -%[3]s $pid 2>/dev/null
for i in $(seq 400); do alive $pid || { rm -f %[2]s.pid; exit 0; }; sleep 0.05; done
echo "process $pid does not end"
exit 1`, dir, j.name, signal))
	if err != nil {
		return fmt.Errorf("end %s: %w: %s", j.name, err, strings.TrimSpace(out))
	}
	return nil
}
