package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Chromium is asked by its DevTools protocol, over a pair of pipes: JSON messages with a zero byte
// after each. It opens no port.

// browser is a headless Chromium.
type browser struct {
	cmd   *exec.Cmd
	to    *os.File
	ended chan struct{} // is closed when the browser says no more

	mu      sync.Mutex // guards the rest, and what is said in tabs
	last    int
	waiting map[int]chan message
	tabs    map[string]*tab // by session
}

// tab is a page of a browser, with cookies and storage of its own.
type tab struct {
	*browser
	session string
	// said are the page's errors and warnings, and asked the addresses that it asked for.
	said, asked []string
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
	SessionID string `json:"sessionId,omitempty"`
}

// startBrowser starts Chromium with its files in dir. The caller closes it.
func startBrowser(path, dir string) (*browser, error) {
	theirIn, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	from, theirOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	b := &browser{to: to, ended: make(chan struct{}), waiting: map[int]chan message{}, tabs: map[string]*tab{}}
	b.cmd = exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+dir, "about:blank")
	b.cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	b.cmd.Env = append(os.Environ(), "HOME="+dir)
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	theirIn.Close()
	theirOut.Close()
	go b.listen(from)
	return b, nil
}

// open opens a tab.
func (b *browser) open(ctx context.Context) (*tab, error) {
	var room struct {
		BrowserContextID string `json:"browserContextId"`
	}
	var target struct {
		TargetID string `json:"targetId"`
	}
	var session struct {
		SessionID string `json:"sessionId"`
	}
	whole := &tab{browser: b}
	err := whole.call(ctx, "Target.createBrowserContext", nil, &room)
	if err == nil {
		err = whole.call(ctx, "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": room.BrowserContextID}, &target)
	}
	if err == nil {
		err = whole.call(ctx, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	}
	if err != nil {
		return nil, err
	}
	t := &tab{browser: b, session: session.SessionID}
	b.mu.Lock()
	b.tabs[t.session] = t
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		if err := t.call(ctx, domain+".enable", nil, nil); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Close ends the browser and waits for that.
func (b *browser) Close() error {
	err := syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
	_ = b.cmd.Wait() // it was killed
	<-b.ended
	return errors.Join(err, b.to.Close())
}

// listen takes what the browser says until it ends.
func (b *browser) listen(from *os.File) {
	defer close(b.ended)
	defer from.Close()
	for r := bufio.NewReader(from); ; {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if err := json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m); err != nil {
			continue
		}
		b.mu.Lock()
		if answer := b.waiting[m.ID]; answer != nil {
			delete(b.waiting, m.ID)
			answer <- m
		}
		if t := b.tabs[m.SessionID]; t != nil {
			t.note(m)
		}
		b.mu.Unlock()
	}
}

// note keeps what a person would see in the console, and what the page asks for.
func (b *tab) note(m message) {
	var p struct {
		Type    string
		Args    []struct{ Value any }
		Entry   struct{ Level, Text, URL string }
		Request struct{ URL string }

		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	if m.Method == "" || json.Unmarshal(m.Params, &p) != nil {
		return
	}
	switch m.Method {
	case "Runtime.consoleAPICalled":
		b.said = append(b.said, fmt.Sprint(p.Type, " ", p.Args))
	case "Runtime.exceptionThrown":
		b.said = append(b.said, p.ExceptionDetails.Text+" "+p.ExceptionDetails.Exception.Description)
	case "Log.entryAdded":
		b.said = append(b.said, p.Entry.Level+": "+p.Entry.Text+" "+p.Entry.URL)
	case "Network.requestWillBeSent":
		b.asked = append(b.asked, p.Request.URL)
	}
}

// took returns what was said and asked since it was last called.
func (b *tab) took() (said, asked []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	said, asked, b.said, b.asked = b.said, b.asked, nil, nil
	return said, asked
}

func (b *tab) call(ctx context.Context, method string, params, into any) error {
	if params == nil {
		params = struct{}{}
	}
	p, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer := make(chan message, 1)
	b.mu.Lock()
	b.last++
	m := message{ID: b.last, Method: method, Params: p, SessionID: b.session}
	b.waiting[m.ID] = answer
	b.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	case <-b.ended:
		return fmt.Errorf("%s: the browser has ended", method)
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if into == nil {
			return nil
		}
		return json.Unmarshal(m.Result, into)
	}
}

// eval runs JavaScript in the page, and waits for a promise.
func (b *tab) eval(ctx context.Context, script string, into any) error {
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := b.call(ctx, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true, "awaitPromise": true}, &r)
	switch {
	case err != nil:
		return err
	case r.ExceptionDetails != nil:
		return fmt.Errorf("%s: %s", script, r.ExceptionDetails.Exception.Description)
	case into == nil || len(r.Result.Value) == 0:
		return nil
	}
	return json.Unmarshal(r.Result.Value, into)
}

// until waits until JavaScript is true in the page, which is asked for it in each of its frames.
func (b *tab) until(ctx context.Context, script string) error {
	for {
		var yes bool
		err := b.eval(ctx, "(async () => { const look = () => { try { return "+script+" } catch { return false } }; for (let i = 0; i < 50; i++) { if (look()) return true; await new Promise((f) => setTimeout(f, 20)); } return false })()", &yes)
		switch {
		case ctx.Err() != nil:
			var text string
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = b.eval(last, "document.body.innerText", &text)
			return fmt.Errorf("never true: %s; the page says\n%s", script, text)
		case err == nil && yes:
			return nil
		case err != nil && !strings.Contains(err.Error(), "context") && !strings.Contains(err.Error(), "navigated"):
			return err // else the page was left meanwhile
		}
	}
}

// keys are those that have a name and no character.
var keys = map[string]int{"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36}

// press presses keys, one after the other: named ones and characters.
func (b *tab) press(ctx context.Context, names ...string) error {
	for _, name := range names {
		down := map[string]any{"type": "keyDown", "key": name, "code": name, "windowsVirtualKeyCode": keys[name]}
		if keys[name] == 0 {
			down["text"] = name
		}
		if name == "Enter" {
			down["text"] = "\r"
		}
		for _, kind := range []string{"keyDown", "keyUp"} {
			down["type"] = kind
			if err := b.call(ctx, "Input.dispatchKeyEvent", down, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// size makes the window as large as a desktop's or a phone's, in pixels.
func (b *tab) size(ctx context.Context, width, height int, phone bool) error {
	scale := 1
	if phone {
		scale = 2
	}
	return b.call(ctx, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}, nil)
}

// prefer makes the system light or dark.
func (b *tab) prefer(ctx context.Context, scheme string) error {
	return b.call(ctx, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// screenshot writes what is seen to a PNG file.
func (b *tab) screenshot(ctx context.Context, path string) error {
	var r struct{ Data string }
	if err := b.call(ctx, "Page.captureScreenshot", map[string]any{"format": "png"}, &r); err != nil {
		return err
	}
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		return err
	}
	return os.WriteFile(path, png, 0o644)
}
