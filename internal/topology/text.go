package topology

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// TextStyle is how a picture is written for a terminal.
type TextStyle struct {
	// Color is for ANSI escapes, UTF8 for lines and marks beyond ASCII.
	Color, UTF8 bool
	// Width is where lines are cut, in columns; 0 cuts none.
	Width int
}

const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	cyan   = "36"
)

// span is a piece of a line in one colour.
type span struct{ code, text string }

type textWriter struct {
	TextStyle
	w                       *bufio.Writer
	branch, last, pipe, gap string
}

// Text writes the picture as a tree.
func (m *Map) Text(w io.Writer, style TextStyle) error {
	t := &textWriter{style, bufio.NewWriter(w), "|- ", "`- ", "|  ", "   "}
	if style.UTF8 {
		t.branch, t.last, t.pipe = "├─ ", "└─ ", "│  "
	}
	t.line("", span{bold, "LAN"})
	for i := range m.Hosts {
		h := &m.Hosts[i]
		in := ""
		if h.Name != "" {
			code := bold
			if h.Silent {
				code = yellow
			}
			in = t.node("", i == len(m.Hosts)-1, span{code, h.title()})
		}
		t.parents(in, h.Parents)
	}
	return t.w.Flush()
}

func (t *textWriter) parents(in string, parents []Parent) {
	for i := range parents {
		p := &parents[i]
		about := p.MAC
		if p.Isolated {
			about = "isolated"
		}
		below := t.node(in, i == len(parents)-1, span{cyan, p.Name}, span{dim, about})
		for j := range p.VLANs {
			v := &p.VLANs[j]
			made := v.Link
			if v.Made {
				made += ", made by lanyard"
			}
			inside := t.node(below, j == len(p.VLANs)-1, span{blue, v.title()}, span{dim, made})
			for k := range v.Networks {
				n := &v.Networks[k]
				t.network(t.node(inside, k == len(v.Networks)-1, span{bold, n.title()}, span{"", n.about()}), n)
			}
		}
	}
}

// network writes what is on a network, in columns.
func (t *textWriter) network(in string, n *Network) {
	if n.Problem != "" {
		t.node(in, len(n.Endpoints) == 0, span{red, "! " + n.Problem})
	}
	rows := make([][]string, len(n.Endpoints))
	var widths [3]int
	for i := range n.Endpoints {
		e := &n.Endpoints[i]
		rows[i] = []string{e.title(), strings.Join(e.addresses(), " "), e.MAC}
		for c, text := range rows[i] {
			widths[c] = max(widths[c], utf8.RuneCountInString(clean(text)))
		}
	}
	for i := range n.Endpoints {
		e := &n.Endpoints[i]
		mark, code := t.mark(e)
		spans := []span{{code, mark + " " + pad(rows[i][0], widths[0])}, {"", pad(rows[i][1], widths[1])}, {dim, pad(rows[i][2], widths[2])}, {code, e.State}}
		if e.Problem != "" {
			spans = append(spans, span{red, "! " + e.Problem})
		}
		t.node(in, i == len(n.Endpoints)-1, spans...)
	}
}

// mark is the sign of an endpoint's state, and its colour.
func (t *textWriter) mark(e *Endpoint) (mark, code string) {
	marks := [3]string{"*", "o", "x"}
	if t.UTF8 {
		marks = [3]string{"●", "○", "×"}
	}
	switch {
	case e.Problem != "":
		return marks[0], red
	case e.State == "joined":
		return marks[0], green
	case e.State == "left":
		return marks[2], dim
	}
	return marks[1], yellow
}

// node writes a line below in, and is what comes before the lines below it.
func (t *textWriter) node(in string, last bool, spans ...span) string {
	if last {
		t.line(in+t.last, spans...)
		return in + t.gap
	}
	t.line(in+t.branch, spans...)
	return in + t.pipe
}

// line writes spans with two spaces between them, cut where the terminal ends.
func (t *textWriter) line(in string, spans ...span) {
	left := t.Width - utf8.RuneCountInString(in)
	var b strings.Builder
	b.WriteString(in)
	for i, s := range spans {
		text := clean(s.text)
		if i == len(spans)-1 {
			text = strings.TrimRight(text, " ")
		}
		if text == "" {
			continue
		}
		if i > 0 {
			text = "  " + text
		}
		over := t.Width > 0 && utf8.RuneCountInString(strings.TrimRight(text, " ")) > left
		if over {
			text = cut(text, left, t.UTF8)
		}
		left -= utf8.RuneCountInString(text)
		if t.Color && s.code != "" && text != "" {
			text = "\x1b[" + s.code + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
		if over {
			break
		}
	}
	fmt.Fprintln(t.w, strings.TrimRight(b.String(), " "))
}

// clean makes a foreign name one that a terminal and any picture show as it is: what is not
// to be seen, such as an escape or a change of direction, is shown as U+FFFD.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// cut shortens text to so many characters, with a sign at the end that there was more.
func cut(text string, most int, utf bool) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	sign := "..."
	if utf {
		sign = "…"
	}
	keep := most - utf8.RuneCountInString(sign)
	if keep <= 0 {
		return ""
	}
	return strings.TrimRight(string([]rune(text)[:keep]), " ") + sign
}

// pad fills text up to a width in characters.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(clean(text))))
}

// Summary says how much there is, in a line.
func (m *Map) Summary() string {
	networks, endpoints := m.Count()
	text := plural(networks, "network") + ", " + plural(endpoints, "container")
	if len(m.Hosts) > 1 {
		text = plural(len(m.Hosts), "host") + ", " + text
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// tagColor is one of the colours of VLANs: the same tag has the same in all pictures.
func tagColor(tags []lan.Tag) int {
	sum := 0
	for _, t := range tags {
		sum = sum*31 + int(t.ID)
	}
	if len(tags) == 0 {
		return 0
	}
	return 1 + (sum/100+sum)%(colors-1)
}

// colors is how many colours there are; the first is the untagged wire's.
const colors = 8
