package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

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

// explain adds what to do next to an error of the control socket.
func explain(err error) error {
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return fmt.Errorf("%w; try: systemctl start lanyard, or sudo lanyard daemon", err)
	case errors.Is(err, control.ErrDenied):
		return fmt.Errorf("%w: only root may ask the daemon; try: the same with sudo", err)
	}
	return err
}
