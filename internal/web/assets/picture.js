import {h, text, set, rate, plural, titleOf, bare} from "./util.js";
import {layout} from "./layout.js";

// Picture shows the map in a scrolling element. What is not seen is not in the page, so it is as
// quick with thousands of containers as with three.
export class Picture {
  // chosen(node) is called when the user opens a node, rates(id) are an endpoint's rates.
  constructor(scroller, rates, chosen) {
    Object.assign(this, {scroller, rates, chosen});
    this.closed = new Set();
    this.drawn = new Map();
    this.news = 0; // counts what makes all rows old
    this.active = "";
    this.plan = {nodes: [], shapes: [], height: 0};
    this.lan = h("div", {class: "lan", "aria-hidden": "true"}, h("span", {}, "LAN"));
    this.space = h("div", {class: "space", role: "presentation"}, this.lan);
    this.note = h("p", {class: "empty", hidden: ""});
    scroller.append(this.note, this.space);
    scroller.addEventListener("scroll", () => this.draw(), {passive: true});
    scroller.addEventListener("keydown", (e) => this.key(e));
    scroller.addEventListener("click", (e) => this.click(e));
    new ResizeObserver(() => this.arrange()).observe(scroller);
  }

  show(map, match) {
    this.map = map;
    this.match = match;
    this.arrange();
  }

  // refresh shows rates that have changed.
  refresh() {
    this.news++;
    this.draw();
  }

  arrange() {
    const width = this.scroller.clientWidth;
    if (!this.map || width === 0) return;
    this.plan = layout(this.map, width, this.closed, this.match);
    const {nodes, height, bar, narrow} = this.plan;
    this.index = new Map(nodes.map((n, i) => [n.key, i]));
    this.scroller.classList.toggle("narrow", narrow);
    this.space.style.height = height + "px";
    this.lan.style.left = bar.x + "px";
    this.lan.style.width = bar.w + "px";
    this.space.hidden = nodes.length === 0;
    this.note.hidden = nodes.length > 0;
    text(this.note, this.match ? "Nothing is called so." : "No networks yet.");
    if (!this.index.has(this.active)) this.active = nodes.length > 0 ? nodes[0].key : "";
    this.draw();
  }

  draw() {
    const top = this.scroller.scrollTop - 120, bottom = top + this.scroller.clientHeight + 240;
    const seen = new Map();
    const see = (item, index) => {
      if (item.y <= bottom && item.y + Math.max(item.h, 1) >= top) seen.set(item.key, {item, index});
    };
    for (const s of this.plan.shapes) see(s);
    const {nodes} = this.plan;
    let low = 0, high = nodes.length; // nodes are in the order of y
    while (low < high) {
      const middle = (low + high) >> 1;
      if (nodes[middle].y < top - 200) low = middle + 1;
      else high = middle;
    }
    for (let i = low; i < nodes.length && nodes[i].y <= bottom; i++) see(nodes[i], i);
    // Rows that went out of sight serve for those that came.
    const spare = [];
    for (const [key, e] of this.drawn) {
      if (seen.has(key)) continue;
      this.drawn.delete(key);
      if (e.classList.contains("endpoint")) spare.push(e);
      else e.remove();
    }
    for (const {item, index} of seen.values()) {
      let e = this.drawn.get(item.key);
      if (!e) {
        e = (item.kind === "endpoint" && spare.pop()) || makers[item.kind](item);
        this.drawn.set(item.key, e);
        if (!e.parentNode) this.space.append(e);
      }
      place(e, item);
      if (index === undefined) continue;
      if (e.item !== item || e.news !== this.news) {
        fillers[item.kind](e, item, this);
        e.item = item;
        e.news = this.news;
      }
      set(e, "aria-selected", item.key === this.active);
      e.classList.toggle("active", item.key === this.active);
      e.id = "node" + index;
    }
    for (const e of spare) e.remove();
    const at = this.index?.get(this.active);
    set(this.scroller, "aria-activedescendant", seen.has(this.active) ? "node" + at : undefined);
  }

  // go makes a node the active one, and brings it into view.
  go(key) {
    const node = this.plan.nodes[this.index.get(key)];
    if (!node) return;
    this.active = key;
    const s = this.scroller;
    if (node.y < s.scrollTop + 8) s.scrollTop = node.y - 8;
    else if (node.y + node.h > s.scrollTop + s.clientHeight - 8) s.scrollTop = node.y + node.h - s.clientHeight + 8;
    this.draw();
  }

  fold(node, open) {
    if (open) this.closed.delete(node.key);
    else this.closed.add(node.key);
    this.arrange();
  }

  key(e) {
    const {nodes} = this.plan;
    const at = this.index?.get(this.active);
    if (at === undefined || e.ctrlKey || e.metaKey || e.altKey) return;
    const node = nodes[at];
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / 40));
    const to = (i) => this.go(nodes[Math.max(0, Math.min(nodes.length - 1, i))].key);
    switch (e.key) {
      case "ArrowDown": to(at + 1); break;
      case "ArrowUp": to(at - 1); break;
      case "PageDown": to(at + page); break;
      case "PageUp": to(at - page); break;
      case "Home": to(0); break;
      case "End": to(nodes.length - 1); break;
      case "ArrowRight":
        if (node.kind === "network" && !node.open) this.fold(node, true);
        else if (nodes[at + 1]?.level > node.level) to(at + 1);
        break;
      case "ArrowLeft":
        if (node.kind === "network" && node.open && !this.match) this.fold(node, false);
        else for (let i = at - 1; i >= 0; i--) if (nodes[i].level < node.level) { to(i); break; }
        break;
      case "Enter": case " ": this.chosen(node); break;
      default: return;
    }
    e.preventDefault();
  }

  click(e) {
    const row = e.target.closest("[role=treeitem]");
    const node = row && this.plan.nodes[Number(row.id.slice(4))];
    if (!node) return;
    this.active = node.key;
    if (e.target.closest(".fold") && !this.match) this.fold(node, !node.open);
    else this.chosen(node);
    this.draw();
  }
}

function place(e, {x, y, w, h: height}) {
  const at = `${x},${y},${w},${height}`;
  if (e.at === at) return;
  e.at = at;
  e.style.transform = `translate(${x}px,${y}px)`;
  e.style.width = w + "px";
  e.style.height = height + "px";
}

const item = (kind, level, ...children) => h("div", {class: "node " + kind, role: "treeitem", "aria-level": level}, ...children);
const makers = {
  frame: (s) => h("div", {class: "frame" + (s.silent ? " silent" : "")}),
  card: (s) => h("div", {class: "card c" + s.color}),
  // Out to the right, down, and to the right again.
  wire: (s) => h("div", {class: `wire c${s.color} ${s.h > 0 ? "elbow" : ""}`}, h("i"), h("i")),
  host: () => item("host", 1, h("b"), h("span")),
  parent: () => item("parent", 2, h("b"), h("span", {class: "mono"})),
  vlan: () => item("vlan", 3, h("b"), h("span", {class: "mono"})),
  network: () => item("network", 4, h("span", {class: "fold", "aria-hidden": "true"}), h("b"), h("span", {class: "count"}), h("span", {class: "about"}), h("span", {class: "rate"}), h("p", {class: "warn"})),
  endpoint: () => item("endpoint", 5, h("i", {class: "dot"}), h("b"), h("span", {class: "mono address"}), h("span", {class: "mono mac"}), h("span", {class: "rate"}), h("p", {class: "warn"})),
};

const fillers = {
  host(e, {host}) {
    text(e.children[0], host.name);
    text(e.children[1], host.silent ? "silent: this is what it showed last" : "");
  },
  parent(e, {parent}) {
    e.classList.toggle("isolated", parent.isolated === true);
    text(e.children[0], parent.name);
    text(e.children[1], parent.isolated ? "isolated" : parent.mac || "");
  },
  vlan(e, {vlan, name}) {
    e.className = "node vlan c" + vlan.color;
    text(e.children[0], name);
    text(e.children[1], vlan.link || "");
  },
  network(e, {network: n, open, count, problem}, picture) {
    set(e, "aria-expanded", open);
    text(e.children[1], titleOf(n));
    text(e.children[2], count === n.endpoints.length ? plural(count, "container") : `${count} of ${plural(n.endpoints.length, "container")}`);
    text(e.children[3], [`${n.kind} ${n.mode}`, ...n.subnets, ...(n.gateways || []).map((g) => "gateway " + g)].join(", "));
    let rx = 0, tx = 0, any = false;
    for (const x of n.endpoints) {
      const r = picture.rates(x.id);
      if (r) { rx += r.rx; tx += r.tx; any = true; }
    }
    rates(e.children[4], any && {rx, tx});
    text(e.children[5], problem || "");
  },
  endpoint(e, {endpoint: x}, picture) {
    const problem = x.problem || "";
    e.firstChild.className = "dot " + (problem ? "bad" : x.state);
    text(e.children[1], titleOf(x));
    text(e.children[2], x.addresses.map((a) => bare(a.address) + (a.from ? ` (${a.from})` : "")).join(" "));
    text(e.children[3], x.mac || "");
    rates(e.children[4], picture.rates(x.id));
    text(e.children[5], problem);
    set(e, "aria-label", [titleOf(x), ...x.addresses.map((a) => bare(a.address)), x.mac || "", x.state, problem].filter(Boolean).join(", "));
  },
};

function rates(e, r) {
  const busy = Boolean(r) && r.rx + r.tx > 0;
  text(e, busy ? `↓ ${rate(r.rx)}  ↑ ${rate(r.tx)}` : r ? "idle" : "");
  e.classList.toggle("busy", busy);
}
