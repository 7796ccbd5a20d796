package topology

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// graph writes nodes and the edges between them in a language for graphs.
type graph struct {
	w *bufio.Writer
	// quote makes a label of lines that may be any text, harmless in the language.
	quote func(lines ...string) string
	// node and link are formats: of an id, a label and a class, and of two ids.
	node, link string
	last       int
}

// add writes a node below another and is its id.
func (g *graph) add(parent, class string, lines ...string) string {
	g.last++
	id := fmt.Sprintf("n%d", g.last)
	fmt.Fprintf(g.w, g.node, id, g.quote(lines...), class)
	if parent != "" {
		fmt.Fprintf(g.w, g.link, parent, id)
	}
	return id
}

// all writes the whole picture.
func (g *graph) all(m *Map) {
	root := g.add("", "lan", "LAN")
	for i := range m.Hosts {
		h := &m.Hosts[i]
		top := root
		if h.Name != "" {
			top = g.add(root, "host", h.title())
		}
		for j := range h.Parents {
			p := &h.Parents[j]
			about := p.MAC
			if p.Isolated {
				about = "isolated"
			}
			parent := g.add(top, "parent", p.Name, about)
			for k := range p.VLANs {
				v := &p.VLANs[k]
				wire := g.add(parent, "vlan", v.title(), v.Link)
				for l := range v.Networks {
					n := &v.Networks[l]
					on := g.add(wire, "network", n.title(), n.about(), n.Problem)
					for e := range n.Endpoints {
						x := &n.Endpoints[e]
						class := "container"
						if x.Problem != "" {
							class = "problem"
						}
						lines := append([]string{x.title()}, x.addresses()...)
						g.add(on, class, append(lines, x.MAC, stateLine(x), x.Problem)...)
					}
				}
			}
		}
	}
}

// stateLine is the state of an endpoint that is not as it usually is.
func stateLine(e *Endpoint) string {
	if e.State == "joined" {
		return ""
	}
	return e.State
}

// Mermaid writes the picture as a flowchart for Mermaid.
func (m *Map) Mermaid(w io.Writer) error {
	g := &graph{w: bufio.NewWriter(w), quote: mermaid, node: "  %s[\"%s\"]:::%s\n", link: "  %s --- %s\n"}
	fmt.Fprintln(g.w, "flowchart LR")
	g.all(m)
	fmt.Fprint(g.w, "  classDef lan fill:#1f2a3a,stroke:#1f2a3a,color:#fff\n"+
		"  classDef host fill:#e8ecf2,stroke:#94a1b2,color:#1b2430\n"+
		"  classDef parent fill:#fff,stroke:#5f6b7a,color:#1b2430\n"+
		"  classDef vlan fill:#e7effd,stroke:#2563eb,color:#1b2430\n"+
		"  classDef network fill:#e6f4ef,stroke:#0f8a6c,color:#1b2430\n"+
		"  classDef container fill:#fff,stroke:#d9dee5,color:#1b2430\n"+
		"  classDef problem fill:#fdeceb,stroke:#b3261e,color:#1b2430\n")
	return g.w.Flush()
}

// mermaid is a label: all but letters, digits and a few harmless signs is written as a
// character's number, so that it is neither syntax of Mermaid's nor HTML.
func mermaid(lines ...string) string {
	return label(lines, "<br/>", func(b *strings.Builder, r rune) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune(" .,:/-_", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(b, "#%d;", r)
		}
	})
}

// Dot writes the picture for Graphviz.
func (m *Map) Dot(w io.Writer) error {
	g := &graph{w: bufio.NewWriter(w), quote: dot, node: "  %s [label=\"%s\" class=%s];\n", link: "  %s -- %s;\n"}
	fmt.Fprint(g.w, "graph lanyard {\n  rankdir=LR;\n  ranksep=0.6;\n"+
		"  node [shape=box style=rounded fontname=\"Helvetica\" fontsize=11];\n  edge [color=\"#5f6b7a\"];\n")
	g.all(m)
	fmt.Fprintln(g.w, "}")
	return g.w.Flush()
}

// dot is a label. Graphviz reads escapes and HTML entities in one.
func dot(lines ...string) string {
	return label(lines, `\n`, func(b *strings.Builder, r rune) {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '&':
			b.WriteString("&amp;")
		default:
			b.WriteRune(r)
		}
	})
}

// label joins the lines that have something, with each character written by put.
func label(lines []string, newline string, put func(*strings.Builder, rune)) string {
	var b strings.Builder
	for _, line := range lines {
		if line == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(newline)
		}
		for _, r := range clean(line) {
			put(&b, r)
		}
	}
	return b.String()
}
