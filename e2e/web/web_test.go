//go:build lab

package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/internal/serve"
	"github.com/lanyard-net/lanyard/internal/topology"
	"github.com/lanyard-net/lanyard/internal/web"
)

var chromium *browser

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) (code int) {
	ctx, ready := machine.Interruptible()
	if err := machine.PrepareBrowser(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "lanyard-web")
	if err == nil {
		chromium, err = startBrowser(machine.Browser, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	end := func() error { return errors.Join(chromium.Close(), os.RemoveAll(dir)) }
	defer func() {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	ready(end)
	return m.Run()
}

// daemon serves the page as the daemon does, and can be stopped and started again on its port.
type daemon struct {
	t     *testing.T
	site  *site
	token string
	addr  string
	stop  func()
}

func startDaemon(t *testing.T, s *site, token string) *daemon {
	d := &daemon{t: t, site: s, token: token, addr: "127.0.0.1:0"}
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	log := slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	page, err := web.New(web.Config{API: d.site.api(ctx.Done(), log), Token: d.token, Log: log})
	if err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- (&serve.HTTP{Name: "page", Listener: l, Handler: page, Log: log, Idle: time.Minute}).Run(ctx)
	}()
	d.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			d.t.Error(err)
		}
	}
}

// user is somebody at the browser. Each step fails the test where it is not seen in time.
type user struct {
	t *testing.T
	b *tab
	d *daemon
}

func newUser(t *testing.T, d *daemon) *user {
	b, err := chromium.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t, b, d}
	u.window(1440, 900, false)
	u.light("light")
	return u
}

func (u *user) try(do func(ctx context.Context) error) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	if err := do(ctx); err != nil {
		u.t.Fatal(err)
	}
}

func (u *user) window(width, height int, phone bool) {
	u.t.Helper()
	u.try(func(ctx context.Context) error { return u.b.size(ctx, width, height, phone) })
}

func (u *user) light(scheme string) {
	u.t.Helper()
	u.try(func(ctx context.Context) error { return u.b.prefer(ctx, scheme) })
}

func (u *user) open(path string) {
	u.t.Helper()
	u.try(func(ctx context.Context) error {
		return u.b.call(ctx, "Page.navigate", map[string]any{"url": "http://" + u.d.addr + path}, nil)
	})
}

func (u *user) press(keys ...string) {
	u.t.Helper()
	u.try(func(ctx context.Context) error { return u.b.press(ctx, keys...) })
}

func (u *user) types(text string) {
	u.t.Helper()
	u.try(func(ctx context.Context) error {
		return u.b.call(ctx, "Input.insertText", map[string]any{"text": text}, nil)
	})
}

func (u *user) until(script string) {
	u.t.Helper()
	u.try(func(ctx context.Context) error { return u.b.until(ctx, script) })
}

// sees waits until texts are on the page, and not those with a "!" before.
func (u *user) sees(texts ...string) {
	u.t.Helper()
	for _, text := range texts {
		quoted, _ := json.Marshal(strings.TrimPrefix(text, "!"))
		script := "document.body.innerText.includes(" + string(quoted) + ")"
		if strings.HasPrefix(text, "!") {
			script = "!" + script
		}
		u.until(script)
	}
}

func (u *user) clicks(selector string) {
	u.t.Helper()
	u.until(fmt.Sprintf("document.querySelector(%q)?.offsetParent", selector))
	u.try(func(ctx context.Context) error {
		return u.b.eval(ctx, fmt.Sprintf("document.querySelector(%q).click()", selector), nil)
	})
}

func (u *user) value(script string, into any) {
	u.t.Helper()
	u.try(func(ctx context.Context) error { return u.b.eval(ctx, script, into) })
}

// picture takes a screenshot into the folder LANYARD_PICTURES, if it is set.
func (u *user) picture(name string) {
	u.t.Helper()
	if dir := os.Getenv("LANYARD_PICTURES"); dir != "" {
		u.try(func(ctx context.Context) error { return u.b.screenshot(ctx, filepath.Join(dir, name+".png")) })
	}
}

// clean fails the test if the page complained, or asked for something elsewhere.
func (u *user) clean() {
	u.t.Helper()
	said, asked := u.b.took()
	if len(said) > 0 {
		u.t.Errorf("the console says %q", said)
	}
	if len(asked) == 0 {
		u.t.Error("nothing was asked for")
	}
	for _, url := range asked {
		if !strings.HasPrefix(url, "http://"+u.d.addr+"/") {
			u.t.Errorf("the page asked for %s", url)
		}
	}
}

func TestPage(t *testing.T) {
	s := newSite()
	u := newUser(t, startDaemon(t, s, ""))
	u.open("/")

	// All that there is, on both hosts.
	u.sees("Live", "node1", "node2", "eth0", "untagged", "VLAN 100", "macvlan200", "ipvlan l2", "homeassistant", "172.20.0.40 (dhcp)",
		"192.168.11.6 fd00:1::5", "02:42:c0:a8:00:03", "192.168.11.4 is used by 52:54:00:ab:cd:99, too", "gateway 192.168.0.1")
	u.until(`document.querySelector("#sums").innerText.replace(/\s+/g, " ").includes("Hosts 2 Containers 14 Networks 5 Leases 3 Conflicts 2")`)
	u.until(`/↓ \d/.test(document.querySelector(".endpoint .rate").textContent)`)
	u.picture("page")

	// Pools as bars: the one that is nearly full is marked.
	u.sees("eth1, VLAN 100 · macvlan100 · gateway 192.168.0.1", "96 used, 12 reserved, 22 resting, 2 conflicting, 122 free")
	var share float64
	u.value(`(() => { const b = [...document.querySelectorAll(".pool")][1].querySelector(".bar"); return b.querySelector(".used").offsetWidth / b.offsetWidth })()`, &share)
	if share < 0.36 || share > 0.39 {
		t.Errorf("96 of 254 used are %.2f of the bar", share)
	}
	u.until(`document.querySelectorAll(".bar.full").length === 1 && document.querySelector(".bar.full").closest(".pool").innerText.startsWith("10.30.0.0/24")`)

	// Leases with the time left, which goes down; conflicts; events.
	u.clicks("#tab-leases")
	u.sees("server 172.20.0.1")
	u.until(`/^\d+ min \d+ s$/.test(document.querySelector(".lease .left").textContent)`)
	u.value(`window.was = document.querySelector(".lease .left").textContent`, nil)
	u.until(`document.querySelector(".lease .left").textContent !== window.was`)
	u.clicks("#tab-conflicts")
	u.sees("192.168.11.77", "00:1b:a9:44:10:7e, no container", "db, and 52:54:00:ab:cd:99")
	u.clicks("#tab-events")
	u.sees("lease-renewed", "parent eth1 has no carrier")
	u.clean()

	// What comes is seen without a reload, and what goes goes.
	s.add(s.networks[2].ID, `<img src=x onerror="document.title='owned'">`, "192.168.11.9/16")
	s.happen("lease-lost", "172.20.0.49", s.endpoints[2].ID, "no server gives it an address")
	u.sees(`<img src=x onerror="document.title='owned'">`, "192.168.11.9", "lease-lost")
	u.until(`document.title === "lanyard on node1" && document.querySelectorAll("main img").length === 0`)
	s.mu.Lock()
	s.endpoints = s.endpoints[:len(s.endpoints)-1]
	s.mu.Unlock()
	u.sees("!192.168.11.9", "!silent")
	s.mu.Lock()
	s.other.Silent = true
	s.mu.Unlock()
	u.sees("silent: this is what it showed last")

	// Search, by all that one may know.
	for _, x := range [][2]string{{"homeass", "homeassistant"}, {"02:42:C0:A8:00:0a", "ntp"}, {"fd00:1::5", "mail"}, {"10.30.0.20", "frigate"}, {"cameras", "frigate"}} {
		u.press("/")
		u.types(x[0])
		u.until(`document.querySelectorAll(".endpoint").length === 1`)
		u.until(fmt.Sprintf(`document.querySelector(".endpoint b").textContent === %q && document.getElementById("found").textContent === "1 container"`, x[1]))
		u.press("Escape")
		u.until(`document.querySelectorAll(".endpoint").length > 8`)
	}
	u.press("/")
	u.types("nobody")
	u.sees("Nothing is called so.", "0 containers")
	u.press("Escape")

	// By keyboard alone: from the search to a container, its details, and away.
	u.press("/")
	u.types("printserver")
	u.until(`document.querySelectorAll(".endpoint").length === 1`)
	u.press("ArrowDown")
	u.until(`document.getElementById(document.activeElement.getAttribute("aria-activedescendant")).innerText.includes("printserver")`)
	u.press("Enter")
	u.until(`/server 172.20.0.1, ends/.test(document.querySelector("#details").innerText)`)
	u.picture("details")
	u.press("Escape")
	u.until(`document.querySelector("#details").hidden`)
	u.press("/", "Escape", "Home", "ArrowDown", "ArrowDown", "ArrowDown")
	u.until(`document.querySelector("#tree .active b").textContent === "office"`)
	u.press("ArrowLeft")
	u.until(`!document.getElementById("tree").innerText.includes("grafana")`)
	u.press("ArrowRight")
	u.until(`document.getElementById("tree").innerText.includes("grafana")`)
	u.press("End")
	u.until(`document.querySelector("#tree .active b").textContent === "api-2"`)
	u.clean()

	// The daemon is started anew, on its own port.
	u.d.stop()
	u.sees("Connection lost, trying again")
	u.picture("lost")
	s.restart()
	s.happen("host-forgotten", "", "", "node7 was silent for 72h")
	u.d.start()
	u.sees("Live", "!Connection lost", "host-forgotten", "!lease-renewed")
	u.b.took() // what it said meanwhile is that nobody answers

	// Dark, as the system has it, and by the button, which is remembered.
	u.light("dark")
	u.until(`getComputedStyle(document.body).backgroundColor === "rgb(17, 22, 29)"`)
	u.clicks("#tab-pools")
	u.press("Tab")
	u.value(`document.getElementById("tree").scrollTop = 0; document.activeElement.blur()`, nil)
	u.picture("dark")
	u.clicks("#theme")
	u.until(`getComputedStyle(document.body).backgroundColor === "rgb(246, 247, 249)"`)
	u.open("/")
	u.sees("Live")
	u.until(`getComputedStyle(document.body).backgroundColor === "rgb(246, 247, 249)"`)
	u.clicks("#theme")

	// A phone: each view fits its width.
	u.window(390, 844, true)
	for _, view := range []string{"pools", "leases", "conflicts", "events", "picture"} {
		u.clicks("#tab-" + view)
		u.until(fmt.Sprintf(`document.querySelector("#%s").offsetParent`, view))
		u.until(`document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll(".scroll")].every((s) => s.scrollWidth <= s.clientWidth)`)
	}
	u.sees("VLAN 100", "homeassistant", "172.20.0.40")
	u.picture("phone")
	u.clicks(".endpoint")
	u.until(`document.querySelector("#details").offsetHeight > 100 && document.querySelector("#details").getBoundingClientRect().bottom <= innerHeight`)
	u.picture("phone-details")
	u.clean()
}

// With 5,000 containers the page holds no more than what is seen of them.
func TestManyContainers(t *testing.T) {
	s := newSite()
	for i := range 5000 {
		s.add(s.networks[i%4].ID, fmt.Sprintf("worker-%04d", i), fmt.Sprintf("192.168.%d.%d/16", 20+i/250, i%250+1))
	}
	u := newUser(t, startDaemon(t, s, ""))
	start := time.Now()
	u.open("/")
	u.sees("5,014", "worker-0000")
	t.Logf("the page with 5,014 containers is there after %v", time.Since(start).Round(time.Millisecond))
	u.until(`/↓ \d/.test(document.querySelector(".endpoint .rate").textContent)`)
	var m struct {
		Most                 int
		Median, P90, Longest float64
		Search, Draw         float64
	}
	u.value(`(async () => {
		const tree = document.getElementById("tree"), frames = [];
		let most = 0, last = await new Promise(requestAnimationFrame);
		for (let i = 1; i <= 60; i++) {
			tree.scrollTop = i * (tree.scrollHeight - tree.clientHeight) / 60;
			const now = await new Promise(requestAnimationFrame);
			frames.push(now - last);
			last = now;
			most = Math.max(most, document.querySelectorAll("#tree *").length);
		}
		frames.sort((a, b) => a - b);
		const input = document.getElementById("search");
		let before = performance.now();
		for (let i = 0; i < 20; i++) { tree.scrollTop = i * 5000; tree.dispatchEvent(new Event("scroll")); }
		const draw = (performance.now() - before) / 20;
		before = performance.now();
		input.value = "worker-4999";
		input.dispatchEvent(new Event("input"));
		const search = performance.now() - before;
		return {Most: most, Median: frames[30], P90: frames[54], Longest: frames[59], Search: search, Draw: draw};
	})()`, &m)
	t.Logf("frames while scrolling: median %.1f ms, 9 of 10 below %.1f ms, longest %.1f ms; of which the page takes %.1f ms; a search takes %.1f ms; %d elements at most", m.Median, m.P90, m.Longest, m.Draw, m.Search, m.Most)
	if m.Most > 1500 {
		t.Errorf("the picture had %d elements", m.Most)
	}
	u.until(`document.querySelectorAll(".endpoint").length === 1`)
	u.sees("worker-4999", "1 container")
	u.clean()
}

// Where there is a token, nothing is seen without it.
func TestToken(t *testing.T) {
	const token = "correct-horse-battery"
	u := newUser(t, startDaemon(t, newSite(), token))
	u.open("/")
	u.sees("Token, from the file")
	u.picture("login")
	u.until(`document.activeElement.id === "token"`)
	u.types("wrong-horse-battery-")
	u.press("Enter")
	u.sees("That is not the token.")
	u.b.took() // the console says that it was refused
	u.until(`document.activeElement.id === "token"`)
	u.types(token)
	u.press("Enter")
	u.sees("Live", "grafana")
	u.until(`document.cookie === ""`) // no script may read it
	u.d.stop()
	u.sees("Connection lost")
	u.d.start()
	u.sees("Live", "!Connection lost") // and it is not asked for again
}

// What lanyard map writes is drawn by the programs that it is written for.
func TestPictures(t *testing.T) {
	s := newSite()
	drawn := func() *topology.Map {
		return topology.Build([]topology.HostInput{{Name: "node1", Networks: s.networks, Endpoints: s.endpoints, Leases: s.leases}, s.other})
	}
	dir := t.TempDir()
	write := func(dir, name string, by func(*os.File) error) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err == nil {
			err = by(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if dir := os.Getenv("LANYARD_PICTURES"); dir != "" {
		write(dir, "map.svg", func(f *os.File) error { return drawn().SVG(f) })
		write(dir, "terminal.svg", func(f *os.File) error {
			var printed strings.Builder
			err := drawn().Text(&printed, topology.TextStyle{Color: true, UTF8: true})
			_, printErr := f.WriteString(terminal("lanyard map", printed.String()))
			return errors.Join(err, printErr)
		})
	}
	s.add(s.networks[1].ID, `<script>"];&lt;\n`, "192.168.11.99/16")
	m := drawn()
	out, err := exec.Command("dot", "-Tsvg", write(dir, "map.dot", func(f *os.File) error { return m.Dot(f) })).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `&lt;script&gt;&quot;];&amp;lt;\n`) {
		t.Errorf("dot: %v\n%s", err, out)
	}
	u := newUser(t, startDaemon(t, s, ""))
	path := write(dir, "map.svg", func(f *os.File) error { return m.SVG(f) })
	u.try(func(ctx context.Context) error {
		return u.b.call(ctx, "Page.navigate", map[string]any{"url": "file://" + path}, nil)
	})
	u.until(`document.querySelector("svg")?.viewBox.baseVal.width > 900 && document.querySelectorAll("script").length === 0`)
	// No text is wider than its box, and it is there for those who do not see it.
	u.until(`[...document.querySelectorAll("text.name, text.mono:not(.end)")].every((t) => t.getBBox().width < (t.classList.contains("name") ? 168 : 240))`)
	u.until(`document.querySelector("desc").textContent.includes("host node1, network macvlan100 on eth1, VLAN 100: 6 containers")`)
	u.light("dark")
	u.until(`getComputedStyle(document.querySelector(".page")).fill === "rgb(17, 22, 29)"`)
}
