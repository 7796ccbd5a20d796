package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// printJSON prints v as people and programs can read it.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable prints rows in columns, the first row being the heads.
func printTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// or is s, or a dash for nothing.
func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// shorten cuts an id as docker does, unless all of it is wanted.
func shorten(id string, whole bool) string {
	if whole {
		return id
	}
	return lan.Short(id)
}

// ago is when t is, seen from now: "5m ago" or "in 4m", and a dash for no time.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + rough(-d)
	}
	return rough(d) + " ago"
}

// rough is a time to about one unit.
func rough(d time.Duration) string {
	switch minutes := d.Round(time.Minute); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case minutes < time.Hour:
		return fmt.Sprintf("%dm", minutes/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d.Round(time.Hour)/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// duration is a time as it is typed: 10m and not 10m0s.
func duration(d time.Duration) string {
	s := d.String()
	for _, none := range [][2]string{{"m0s", "m"}, {"h0m", "h"}} {
		if rest, ok := strings.CutSuffix(s, none[0]); ok {
			s = rest + none[1]
		}
	}
	return s
}

// counted is a number of things: "1 network", "3 networks".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// terminalWidth is how many characters a line of a terminal has; false where w is none.
func terminalWidth(w io.Writer) (columns int, ok bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}

// utf8Locale reports whether the terminal shows UTF-8, as far as the environment says.
func utf8Locale() bool {
	for _, key := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(key); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// explain adds what to do next to an error of the control socket.
func explain(err error) error {
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return fmt.Errorf("%w; try: systemctl start lanyard, or sudo lanyard daemon", err)
	case errors.Is(err, control.ErrDenied):
		return fmt.Errorf("%w: only root may ask the daemon; try: the same with sudo", err)
	case errors.Is(err, control.ErrStopped):
		return fmt.Errorf("%w; try: the same again when it is back", err)
	}
	return err
}
