package topology

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

//go:embed picture.css
var pictureStyle string

// The measures of an SVG, in its pixels. The picture goes from left to right: the LAN, a
// column of parents, one of VLANs, and one of networks, each a card with a row for each container.
const (
	edge      = 24
	lanWidth  = 44
	hostX     = edge + lanWidth + 28
	hostPad   = 16
	boxHeight = 48
	parentW   = 156
	vlanW     = 140
	cardW     = 580
	column    = 34 // between two columns
	cardHead  = 52
	rowHeight = 24
	warnLine  = 18
	cardFoot  = 10
	between   = 18 // between two cards
)

type svgWriter struct {
	w *bufio.Writer
	// body is drawn on top of what is written at once.
	body strings.Builder
	x0   int // of the parents
	y    int
}

// SVG writes the picture as a file of its own: light or dark as its reader wishes, without
// scripts or anything from elsewhere.
func (m *Map) SVG(w io.Writer) error {
	s := &svgWriter{w: bufio.NewWriter(w), x0: hostX, y: edge}
	named := len(m.Hosts) > 0 && m.Hosts[0].Name != ""
	if named {
		s.x0 += hostPad
	}
	for i := range m.Hosts {
		s.host(&m.Hosts[i], named)
	}
	if _, n := m.Count(); n == 0 && s.y == edge {
		s.text("empty", s.x0, edge+30, "No networks yet.")
		s.y += boxHeight
	}
	right := s.x0 + parentW + vlanW + cardW + 2*column + edge
	if named {
		right += hostPad
	}
	bottom := s.y - between + edge
	fmt.Fprintf(s.w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="t d">`+"\n",
		right, bottom, right, bottom)
	fmt.Fprintf(s.w, "<title id=\"t\">LAN of lanyard: %s</title>\n<desc id=\"d\">%s</desc>\n", markup(m.Summary()), markup(m.describe()))
	fmt.Fprintf(s.w, "<style>%s</style>\n<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", pictureStyle, right, bottom)
	fmt.Fprintf(s.w, `<rect class="lan" x="%d" y="%d" width="%d" height="%d" rx="10"/>`+"\n", edge, edge, lanWidth, bottom-2*edge)
	fmt.Fprintf(s.w, `<text class="lanname" transform="translate(%d %d) rotate(-90)">LAN</text>`+"\n", edge+lanWidth/2+5, (bottom)/2+16)
	fmt.Fprintf(s.w, "%s</svg>\n", s.body.String())
	return s.w.Flush()
}

// describe is the picture in words, for those who do not see it.
func (m *Map) describe() string {
	var words []string
	m.each(func(h *Host, p *Parent, v *VLAN, n *Network) {
		text := fmt.Sprintf("network %s on %s, %s: %s", n.title(), p.Name, v.title(), plural(len(n.Endpoints), "container"))
		if h.Name != "" {
			text = "host " + h.title() + ", " + text
		}
		words = append(words, text)
	})
	return strings.Join(words, "; ")
}

func (s *svgWriter) host(h *Host, named bool) {
	top := s.y
	frame := s.body.Len()
	if named {
		s.y += 40
	}
	for i := range h.Parents {
		s.parent(&h.Parents[i])
	}
	if len(h.Parents) == 0 {
		s.text("empty", s.x0, s.y+14, "no networks")
		s.y += rowHeight + between
	}
	if !named {
		return
	}
	drawn := s.body.String()
	s.body.Reset()
	s.body.WriteString(drawn[:frame])
	class := "host"
	if h.Silent {
		class = "host silent"
	}
	fmt.Fprintf(&s.body, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="14"/>`+"\n",
		class, hostX, top, parentW+vlanW+cardW+2*column+2*hostPad, s.y-top)
	s.text("hostname", hostX+hostPad, top+26, fit(h.title(), 70))
	s.body.WriteString(drawn[frame:])
	s.y += between + between
}

func (s *svgWriter) parent(p *Parent) {
	top := s.y
	x := s.x0 + parentW + column
	for i := range p.VLANs {
		s.wire(s.x0+parentW, top+boxHeight/2, x, s.y+boxHeight/2, 0)
		s.vlan(&p.VLANs[i], x)
	}
	class, about := "parent", p.MAC
	if p.Isolated {
		class, about = "parent isolated", "isolated"
	} else {
		s.wire(edge+lanWidth, top+boxHeight/2, s.x0, top+boxHeight/2, 0)
	}
	s.box(class, s.x0, top, parentW, fit(p.Name, 18), about)
}

func (s *svgWriter) vlan(v *VLAN, x int) {
	top, c := s.y, v.Color
	for i := range v.Networks {
		s.wire(x+vlanW, top+boxHeight/2, x+vlanW+column, s.y+boxHeight/2, c)
		s.card(&v.Networks[i], x+vlanW+column, c)
	}
	s.box(fmt.Sprintf("vlan c%d", c), x, top, vlanW, v.title(), fit(v.Link, 18))
}

// wire draws a line that goes out to the right, down, and to the right again.
func (s *svgWriter) wire(x1, y1, x2, y2, color int) {
	class := fmt.Sprintf("wire c%d", color)
	if y1 == y2 {
		fmt.Fprintf(&s.body, `<path class="%s" d="M%d %dH%d"/>`+"\n", class, x1, y1, x2)
		return
	}
	mid := x1 + (x2-x1)/2
	fmt.Fprintf(&s.body, `<path class="%s" d="M%d %dH%dQ%d %d %d %dV%dQ%d %d %d %dH%d"/>`+"\n",
		class, x1, y1, mid-8, mid, y1, mid, y1+8, y2-8, mid, y2, mid+8, y2, x2)
}

func (s *svgWriter) box(class string, x, y, width int, title, about string) {
	fmt.Fprintf(&s.body, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="9"/>`+"\n", class, x, y, width, boxHeight)
	if about == "" {
		s.text("boxname", x+14, y+29, title)
		return
	}
	s.text("boxname", x+14, y+20, title)
	s.text("mono small", x+14, y+37, about)
}

func (s *svgWriter) card(n *Network, x, color int) {
	height := cardHead + cardFoot
	if n.Problem != "" {
		height += warnLine
	}
	for i := range n.Endpoints {
		height += rowHeight
		if n.Endpoints[i].Problem != "" {
			height += warnLine
		}
	}
	if len(n.Endpoints) == 0 {
		height += rowHeight
	}
	fmt.Fprintf(&s.body, `<rect class="card" x="%d" y="%d" width="%d" height="%d" rx="10"/>`+"\n", x, s.y, cardW, height)
	fmt.Fprintf(&s.body, `<rect class="stripe c%d" x="%d" y="%d" width="4" height="%d" rx="2"/>`+"\n", color, x, s.y+10, height-20)
	s.text("netname", x+18, s.y+22, fit(n.title(), 44))
	s.text("about", x+18, s.y+40, fit(n.about(), 84))
	fmt.Fprintf(&s.body, `<text class="about end" x="%d" y="%d">%s</text>`+"\n", x+cardW-16, s.y+22, plural(len(n.Endpoints), "container"))
	y := s.y + cardHead
	if n.Problem != "" {
		s.text("warn", x+18, y+12, fit(n.Problem, 84))
		y += warnLine
	}
	for i := range n.Endpoints {
		y += s.row(&n.Endpoints[i], x, y)
	}
	if len(n.Endpoints) == 0 {
		s.text("empty", x+18, y+15, "no containers")
	}
	s.y += height + between
}

// row draws a container, and is how high that is.
func (s *svgWriter) row(e *Endpoint, x, y int) int {
	class := e.State
	switch {
	case e.Problem != "":
		class = "bad"
	case class != "joined" && class != "left":
		class = "created"
	}
	addresses := strings.Join(e.addresses(), " ")
	fmt.Fprintf(&s.body, "<g><title>%s</title>\n", markup(strings.Join(strings.Fields(e.title()+" "+addresses+" "+e.MAC+" "+e.State+" "+e.Problem), " ")))
	fmt.Fprintf(&s.body, `<circle class="dot %s" cx="%d" cy="%d" r="4.5"/>`+"\n", class, x+22, y+rowHeight/2)
	s.text("name", x+36, y+16, fit(e.title(), 22))
	s.text("mono", x+204, y+16, fit(addresses, 31))
	fmt.Fprintf(&s.body, `<text class="mono faint end" x="%d" y="%d">%s</text></g>`+"\n", x+cardW-16, y+16, markup(e.MAC))
	if e.Problem == "" {
		return rowHeight
	}
	s.text("warn", x+36, y+rowHeight+10, fit(e.Problem, 80))
	return rowHeight + warnLine
}

func (s *svgWriter) text(class string, x, y int, text string) {
	fmt.Fprintf(&s.body, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", class, x, y, markup(text))
}

// fit cuts a text to so many characters.
func fit(text string, most int) string { return cut(clean(text), most, true) }

var markupEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")

// markup makes a text one that may stand in an element or an attribute.
func markup(text string) string {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return markupEscapes.Replace(clean(text))
}
