package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/control"
)

// Set by the linker (-X main.version=1.2.3 -X main.commit=...); without them the
// build information has the word.
var version, commit string

// thisVersion is what this binary is.
func thisVersion() control.Version {
	v := control.Version{Version: version, Commit: commit, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if v.Commit == "" {
		dirty := ""
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				v.Commit = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "-dirty"
			}
		}
		if v.Commit != "" {
			v.Commit += dirty
		}
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	if v.Version == "" || v.Version == "(devel)" {
		v.Version = "devel"
	}
	return v
}

func newVersion(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say which versions of this binary and of the daemon run",
		Long:    "Say which version this binary is, and which one the daemon is if it answers.",
		Example: "  lanyard version\n  lanyard version --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			mine := thisVersion()
			daemon, err := g.client(cmd).Version(cmd.Context())
			out := cmd.OutOrStdout()
			if asJSON {
				answer := struct {
					Client control.Version  `json:"client"`
					Daemon *control.Version `json:"daemon"` // null if it does not answer
				}{Client: mine}
				if err == nil {
					answer.Daemon = &daemon
				}
				return printJSON(out, answer)
			}
			fmt.Fprintf(out, "lanyard: %s\n", describe(mine))
			switch {
			case err == nil:
				fmt.Fprintf(out, "daemon:  %s\n", describe(daemon))
			case errors.Is(err, control.ErrNotRunning):
				fmt.Fprintln(out, "daemon:  not running")
			default:
				fmt.Fprintf(out, "daemon:  does not answer: %v\n", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func describe(v control.Version) string {
	if v.Commit == "" {
		return fmt.Sprintf("%s (%s)", v.Version, v.Go)
	}
	return fmt.Sprintf("%s (commit %.12s, %s)", v.Version, v.Commit, v.Go)
}
