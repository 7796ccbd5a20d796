package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// mapFormats are what lanyard map can write.
var mapFormats = []string{"text", "svg", "mermaid", "dot", "json"}

func newMap(g *globals) *cobra.Command {
	var format, file, host string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "map [NETWORK|CONTAINER|ADDRESS...]",
		Short: "Draw parents, VLANs, networks and containers",
		Long: "Draw what is where: the LAN, the parents on it, their VLANs, the networks on these, and the\n" +
			"containers with their addresses, MAC addresses and states; of all hosts where hosts share\n" +
			"addresses. With arguments only what they name is drawn, and what that is on: networks with all\n" +
			"their containers, and containers by name, id, address or MAC address.\n\n" +
			"In the terminal it is a tree. A picture for a page or a report is made with\n\n" +
			"--format svg       a file of its own, for browsers and pages, light and dark\n" +
			"--format mermaid   a flowchart for Markdown; Mermaid draws 500 lines at most\n" +
			"--format dot       for Graphviz\n" +
			"--format json      for programs; --json is the same\n\n" +
			"A container is joined while it is on the network, created before Docker has connected it, and left\n" +
			"after. What other hosts have is seen some seconds later; a silent host's is what it showed last.\n" +
			"Colours are for terminals alone, and for none where NO_COLOR is set.",
		Example: "  lanyard map\n  lanyard map lan\n  lanyard map 192.168.11.20\n" +
			"  lanyard map --format svg -o lan.svg\n  lanyard map --format dot | dot -Tpdf -o lan.pdf",
		RunE: func(cmd *cobra.Command, words []string) error {
			if asJSON {
				if cmd.Flags().Changed("format") && format != "json" {
					return &usageError{"--json is --format json, and there is --format " + format, cmd}
				}
				format = "json"
			}
			if !slices.Contains(mapFormats, format) {
				return &usageError{fmt.Sprintf("--format %q: it is %s", format, strings.Join(mapFormats, ", ")), cmd}
			}
			m, err := g.client(cmd).Map(cmd.Context())
			if err != nil {
				return explain(err)
			}
			if m.Problem != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: this host's alone, since the others cannot be seen: %s\n", m.Problem)
			}
			switch {
			case host == "":
			case m.Self == "":
				return lan.Refusef(lan.ErrInvalid, "--host: this host shares no addresses with others; leave it out")
			case !m.Host(host):
				return lan.Refusef(lan.ErrNotFound, "no host %q is known; try: lanyard host ls", host)
			}
			if err := m.Only(words); err != nil {
				return err
			}
			if file == "" {
				return writeMap(cmd.OutOrStdout(), m, format)
			}
			var b bytes.Buffer
			if err := writeMap(&b, m, format); err != nil {
				return err
			}
			return os.WriteFile(file, b.Bytes(), 0o644)
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return completeMap(g, cmd), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "text", strings.Join(mapFormats[:4], ", ")+" or json")
	f.StringVarP(&file, "output", "o", "", "write to this file")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	hostFlag(g, cmd, &host)
	complete(cmd, "format", func(*cobra.Command) []cobra.Completion { return mapFormats })
	return cmd
}

// writeMap writes the picture in a format.
func writeMap(w io.Writer, m *topology.Map, format string) error {
	switch format {
	case "svg":
		return m.SVG(w)
	case "mermaid":
		return m.Mermaid(w)
	case "dot":
		return m.Dot(w)
	case "json":
		return printJSON(w, m)
	}
	if networks, _ := m.Count(); networks == 0 && len(m.Hosts) < 2 {
		_, err := fmt.Fprintln(w, "No networks yet; try: docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1 lan")
		return err
	}
	style := topology.TextStyle{UTF8: utf8Locale()}
	if width, ok := terminalWidth(w); ok {
		style.Width = width
		style.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return m.Text(w, style)
}

// completeMap offers the names of networks and containers.
func completeMap(g *globals, cmd *cobra.Command) (words []cobra.Completion) {
	m, err := g.client(cmd).Map(cmd.Context())
	if err != nil {
		return nil
	}
	for _, h := range m.Hosts {
		for _, p := range h.Parents {
			for _, v := range p.VLANs {
				for _, n := range v.Networks {
					if n.Name != "" {
						words = append(words, cobra.CompletionWithDesc(n.Name, "network on "+p.Name))
					}
					for _, e := range n.Endpoints {
						if e.Name != "" {
							words = append(words, cobra.CompletionWithDesc(e.Name, "container on "+n.Name))
						}
					}
				}
			}
		}
	}
	return words
}
