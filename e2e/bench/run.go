package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dockerd"
)

// drivers are what is compared: lanyard first.
var drivers = [2]string{"lanyard", "macvlan"}

// run is the measuring of one engine.
type run struct {
	h *dockerd.Host
	plan
	say func(string, ...any)
	*results
}

// results are what was measured on one engine.
type results struct {
	engine      string // its version
	rows        []row
	fresh, rest int // resident kB of lanyard: just started; after all, at rest
	asked       []addressRow
	leased      []addressRow
	threads     int // of lanyard, after leases of many containers
}

// row is a line of the table.
type row struct {
	what   string
	times  [2]series // by driver
	wanted float64   // what we want the ratio to be at most; 0: nothing was set
}

// measureDrivers measures lanyard beside the built-in driver.
func (b *run) measureDrivers(ctx context.Context) (err error) {
	if b.fresh, err = b.resident(); err != nil {
		return err
	}
	// A parent each, so that no driver waits for what the other one's last link does
	// to a shared parent.
	script := "set -e\n"
	for i, d := range drivers {
		script += fmt.Sprintf("ip link add p%[1]d type veth peer name w%[1]d; ip link set p%[1]d up; ip link set w%[1]d up\n"+
			"ip link add q%[1]d type veth peer name x%[1]d; ip link set q%[1]d up; ip link set x%[1]d up\n"+
			"docker network create -d %[2]s --subnet 10.8%[1]d.0.0/16 -o parent=p%[1]d %[2]s >/dev/null\n", i, d)
	}
	if err := b.sh(ctx, script); err != nil {
		return err
	}
	for _, m := range []struct {
		what, before, timed, after string
		wanted                     float64
	}{
		{"`docker run --rm`, to its exit", "", "docker run --rm --network DRIVER busybox:lab true", "", 1.05},
		{"`docker run -d`", "", "docker run -d --name c1 --network DRIVER busybox:lab", "docker rm -f c1", 1.05},
		{"`docker network connect` and `disconnect`", "docker run -d --name c1 --network none busybox:lab && docker network disconnect none c1",
			"docker network connect DRIVER c1 && docker network disconnect DRIVER c1", "docker rm -f c1", 1.05},
		{"`docker network create` and `rm`", "", "docker network create -d DRIVER --subnet 10.90.0.0/16 -o parent=qINDEX n && docker network rm n", "", 0},
	} {
		err := b.turns(row{what: m.what, wanted: m.wanted}, b.pairs, func(i int) (time.Duration, error) {
			fill := strings.NewReplacer("DRIVER", drivers[i], "INDEX", strconv.Itoa(i)).Replace
			if err := b.sh(ctx, fill(m.before)); err != nil {
				return 0, err
			}
			start := time.Now()
			err := b.sh(ctx, fill(m.timed))
			took := time.Since(start)
			return took, errors.Join(err, b.sh(ctx, fill(m.after)))
		})
		if err != nil {
			return err
		}
	}
	err = b.turns(row{what: fmt.Sprintf("%d containers started at once", b.many), wanted: 1.0}, b.rounds, func(i int) (time.Duration, error) {
		return b.atOnce(ctx, drivers[i], b.many)
	})
	if err != nil {
		return err
	}
	// Go gives memory back over some minutes; nobody waits for that here.
	time.Sleep(5 * time.Second)
	b.rest, err = b.resident()
	return err
}

// turns measures n pairs for a row of the table, after one that does not count; who
// is first changes.
func (b *run) turns(r row, n int, measure func(driver int) (time.Duration, error)) error {
	b.say("%s", strings.ReplaceAll(r.what, "`", ""))
	for k := range 2 * (n + 1) {
		i := (k + k/2) % 2
		took, err := measure(i)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", r.what, drivers[i], err)
		}
		if k >= 2 {
			r.times[i] = append(r.times[i], took)
		}
	}
	b.rows = append(b.rows, r)
	return nil
}

// atOnce makes many containers on a driver's network, starts all at the same time,
// and says how long it took until all ran. It asks Docker's API itself: as many
// command lines would be most of the work.
func (b *run) atOnce(ctx context.Context, network string, n int) (time.Duration, error) {
	api := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", b.h.Socket())
		},
	}}
	defer api.CloseIdleConnections()
	each := func(do func(name string) error) error {
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = do(fmt.Sprintf("m%d", i)) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	body := fmt.Sprintf(`{"Image":%q,"HostConfig":{"NetworkMode":%q}}`, dockerd.Image, network)
	err := each(func(name string) error { return post(ctx, api, "/containers/create?name="+name, body) })
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = each(func(name string) error { return post(ctx, api, "/containers/"+name+"/start", "") })
	took := time.Since(start)
	return took, errors.Join(err, b.sh(ctx, "docker rm -f $(docker ps -aq)"))
}

func post(ctx context.Context, api *http.Client, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := api.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, bytes.TrimSpace(text))
	}
	return err
}

// sh runs a script in the host; "" does nothing.
func (b *run) sh(ctx context.Context, script string) error {
	if script == "" {
		return nil
	}
	if out, err := b.h.Sh(ctx, script); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

// resident is the memory of lanyard's that is in RAM, in kB (VmRSS in proc(5)).
func (b *run) resident() (int, error) { return b.status("VmRSS:") }

// status is a figure of lanyard's process.
func (b *run) status(key string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.h.LanyardPid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return strconv.Atoi(strings.Fields(value)[0])
		}
	}
	return 0, fmt.Errorf("/proc/PID/status has no %s", key)
}

// drivers is the table of one engine.
func (r *results) drivers() string {
	var b strings.Builder
	b.WriteString("| | lanyard | built-in macvlan | ratio | wanted |\n|---|---|---|---|---|\n")
	for _, row := range r.rows {
		wanted := "-"
		ratio := ratioOf(row.times[0], row.times[1])
		if row.wanted > 0 {
			wanted = fmt.Sprintf("at most %.2f: %s", row.wanted, ratio.against(row.wanted))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", row.what, row.times[0].cell(), row.times[1].cell(), ratio, wanted)
	}
	fmt.Fprintf(&b, "\nMemory of lanyard's in RAM: %.1f MB just started, %.1f MB five seconds after all this.", float64(r.fresh)/1000, float64(r.rest)/1000)
	return b.String()
}
