package main

//go:generate go test -run "^(TestDocs|TestMetricsPage)$" -update .

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lanyard-net/lanyard/internal/doctor"
	"github.com/lanyard-net/lanyard/internal/lan"
)

var update = flag.Bool("update", false, "write the generated pages anew")

// The pages that are made of the commands and of the option table are what a
// user finds in the binary. `go generate ./...` writes them.
func TestDocs(t *testing.T) {
	pages := map[string]string{
		"docs/cli.md":             cliPage(),
		"docs/options.md":         optionsPage(),
		"docs/troubleshooting.md": troublePage(),
	}
	for _, c := range commands(newRoot()) {
		pages["man/"+manName(c)+".1"] = manPage(c)
	}
	root := filepath.Join("..", "..")
	for name, want := range pages {
		path := filepath.Join(root, name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v; try: make docs", err)
		} else if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s is out of date; try: make docs (-want +got)\n%s", name, diff)
		}
	}
	there, err := filepath.Glob(filepath.Join(root, "man", "*.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if _, ok := pages["man/"+filepath.Base(path)]; !ok {
			t.Errorf("%s is the page of no command; remove it", path)
		}
	}
}

// Every command says what it is, shows an example and has a whole sentence.
func TestCommandsAreDocumented(t *testing.T) {
	for _, c := range commands(newRoot()) {
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s lacks a description or an example", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") || !strings.HasSuffix(c.Long, ".") {
			t.Errorf("%s: the short description is a title, the long one has sentences", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s is not described", c.CommandPath(), f.Name)
			}
		})
	}
}

// commands are the root and all commands below it that do something.
func commands(root *cobra.Command) []*cobra.Command {
	root.InitDefaultHelpFlag()
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			all = append(all, commands(c)[1:]...)
			continue
		}
		c.InitDefaultHelpFlag()
		all = append(all, c)
	}
	return all
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// useLine is the synopsis of a command.
func useLine(c *cobra.Command) string {
	if c.HasSubCommands() {
		return c.CommandPath() + " COMMAND [flags]"
	}
	return c.UseLine()
}

const generated = "generated from the binary; do not edit, run: make docs"

func cliPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "<!-- %s -->\n# The command line\n\n", generated)
	b.WriteString("Every command has `--help`. What lists or shows has `--json`, whose fields are added to and never renamed or removed.\n\n" +
		"Exit code 0 is success, 1 a failure, 2 a command line that cannot be meant; `lanyard doctor` ends with 3 for a warning and 4 for a failure that it found. Errors go to standard error, in one line.\n\n" +
		"| variable | meaning |\n|---|---|\n" +
		"| `" + envSocket + "` | the control socket, where `--control-socket` is not given |\n" +
		"| `DOCKER_HOST` | where to ask for the names of networks and containers; `unix://` and plain `tcp://` only |\n" +
		"| `LC_ALL`, else `LC_CTYPE`, else `LANG` | whether `pool ls`, `pool inspect` and `map` may draw with more than ASCII |\n" +
		"| `NO_COLOR` | where it is set, `map` has no colours |\n\n" +
		"`lanyard completion bash|zsh|fish|powershell` prints a completion script; networks, pools, addresses and leases complete as the daemon knows them.\n")
	for _, c := range commands(newRoot()) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```\n%s\n```\n\nFor example:\n\n```\n%s\n```\n\n", c.CommandPath(), c.Long, useLine(c), unindent(c.Example))
		fmt.Fprintf(&b, "```\n%s```\n", c.LocalFlags().FlagUsages())
	}
	return b.String()
}

func unindent(s string) string {
	return strings.ReplaceAll(strings.TrimPrefix(s, "  "), "\n  ", "\n")
}

func optionsPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "<!-- %s -->\n# Options\n\n", generated)
	b.WriteString("Names and meanings are those of Docker's built-in `macvlan` and `ipvlan` drivers; what lanyard adds stands beside them. " +
		"An option that is not in these tables is refused with the name that was probably meant; the built-in drivers ignore it.\n")
	for _, part := range []struct {
		scope lan.Scope
		text  string
	}{
		{lan.OnNetwork, "## Of a network\n\nTyped as `docker network create -d lanyard -o NAME=VALUE`. An empty value leaves the default."},
		{lan.OnEndpoint, "## Of a container on a network\n\nTyped as `docker run --network name=lan,driver-opt=NAME=VALUE`."},
	} {
		fmt.Fprintf(&b, "\n%s\n\n| option | for | values | default | meaning |\n|---|---|---|---|---|\n", part.text)
		for _, o := range lan.Options() {
			if o.Scope == part.scope {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", o.Name, o.Kinds, cell(o.Values), cell(o.Default), cell(o.Doc))
			}
		}
	}
	return b.String()
}

// troublePage is what doctor finds and explain knows.
func troublePage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "<!-- %s -->\n# Troubleshooting\n\n", generated)
	b.WriteString("`lanyard doctor` looks for what keeps containers from the LAN, from the kernel up to what answers on the wire, and gives each finding one of the codes below. " +
		"`lanyard explain` tells the same of a code, or of an error message.\n\n```\nlanyard doctor\nlanyard doctor eth1.100\nlanyard explain new-mac\njournalctl -u docker -n 200 | lanyard explain\n```\n\n" +
		"A finding is `ok`, a `note`, a `warning` (works, and is to be looked after) or a `failure`; the exit code is 0, 0, 3 and 4 by the worst of them.\n\n## Codes of doctor\n")
	for _, c := range doctor.Codes() {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n%s\n\n", c.Name, c.Title, text(c.Means))
		for _, d := range c.Do {
			fmt.Fprintf(&b, "- %s\n", text(d))
		}
	}
	b.WriteString("\n## Error messages\n\nAs people meet them, most of them with Docker's built-in drivers.\n")
	for _, m := range doctor.Messages() {
		fmt.Fprintf(&b, "\n### %s\n\n```\n%s\n```\n\n%s\n", m.Name, m.Example, text(m.Means))
		if m.With != "" {
			fmt.Fprintf(&b, "\nWith lanyard: %s\n", text(m.With))
		}
		b.WriteString("\n")
		for _, d := range m.Do {
			fmt.Fprintf(&b, "- %s\n", text(d))
		}
		if len(m.Codes) > 0 {
			b.WriteString("\nCodes of doctor:")
			for i, c := range m.Codes {
				if i > 0 {
					b.WriteString(",")
				}
				fmt.Fprintf(&b, " [%s](#%s)", c, c)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// text is plain text in Markdown.
func text(s string) string {
	return strings.NewReplacer("<", "&lt;", ">", "&gt;", "*", "\\*", "_", "\\_").Replace(s)
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// roff escapes text for a man page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func roffLines(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		if line == "" {
			line = ".PP"
		} else {
			line = roff(line)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func manPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" %s\n.TH %s 1 \"\" lanyard \"lanyard manual\"\n", generated, strings.ToUpper(roff(manName(c))))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(manName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(useLine(c)))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roffLines(c.Long))
	b.WriteString(".SH OPTIONS\n")
	flagsOf := func(set *pflag.FlagSet) {
		set.VisitAll(func(f *pflag.Flag) {
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + ", " + name
			}
			value := ""
			if f.Value.Type() != "bool" {
				value = " \\fI" + roff(strings.ToUpper(f.Value.Type())) + "\\fR"
			}
			text := f.Usage
			if f.DefValue != "" && f.DefValue != "false" {
				text += "; " + f.DefValue + " if not given"
			}
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR%s\n%s\n", roff(name), value, roff(text))
		})
	}
	flagsOf(c.NonInheritedFlags())
	flagsOf(c.InheritedFlags())
	fmt.Fprintf(&b, ".SH EXAMPLES\n.EX\n%s\n.EE\n", roffLines(c.Example))
	b.WriteString(".SH ENVIRONMENT\n.TP\n.B " + roff(envSocket) + "\n" + roff("the control socket, where --control-socket is not given") +
		"\n.TP\n.B DOCKER_HOST\nwhere to ask for the names of networks and containers\n")
	b.WriteString(".SH EXIT STATUS\n0 is success, 1 a failure, 2 a command line that cannot be meant.\n")
	if c.Name() == "doctor" {
		b.WriteString("3 is a warning, and 4 a failure, that was found.\n")
	}
	b.WriteString(".SH SEE ALSO\n")
	var others []string
	for _, o := range commands(c.Root()) {
		if o != c {
			others = append(others, ".BR "+roff(manName(o))+" (1)")
		}
	}
	b.WriteString(strings.Join(others, ",\n") + "\n")
	return b.String()
}
