import {h, text, set, span, rate, plural, titleOf, short, bare, tagsOf, wire} from "./util.js";
import {List} from "./list.js";

const scroller = (id) => document.querySelector(`#${id} .scroll`);

// Pools are bars of how much of a pool is what.
export class Pools {
  constructor() { this.rows = new Map(); }

  show(pools, nameOf) {
    const into = scroller("pools");
    const seen = new Set();
    for (const p of pools) {
      seen.add(p.id);
      let row = this.rows.get(p.id);
      if (!row) {
        row = h("article", {class: "pool"}, h("h3"), h("p", {class: "about"}), h("div", {class: "bar", role: "img"}), h("p", {class: "legend"}));
        this.rows.set(p.id, row);
      }
      into.append(row);
      fillPool(row, p, nameOf);
    }
    for (const [id, row] of this.rows) {
      if (!seen.has(id)) { row.remove(); this.rows.delete(id); }
    }
    if (pools.length === 0) into.replaceChildren(h("p", {class: "empty"}, "No pools: lanyard gives out no addresses here."));
    else into.querySelector(":scope > .empty")?.remove();
  }
}

const parts = ["used", "reserved", "resting", "conflicting", "held"];

function fillPool(row, p, nameOf) {
  const [title, about, bar, legend] = row.children;
  const dhcp = p.source === "dhcp";
  text(title, dhcp && p.subnet.endsWith("/0") ? "DHCP" : p.subnet);
  text(about, [wire(p.wire), p.networks.map(nameOf).join(", "), p.gateway && "gateway " + p.gateway].filter(Boolean).join(" · "));
  const size = dhcp ? Math.max(1, p.used + p.resting) : p.size;
  const words = parts.filter((k) => p[k] > 0).map((k) => `${p[k].toLocaleString("en")} ${k}`);
  if (!dhcp) words.push(`${p.free.toLocaleString("en")} free`);
  if (!bar.firstChild) bar.append(...parts.map((k) => h("i", {class: k})));
  parts.forEach((k, i) => {
    const share = (p[k] || 0) / size;
    bar.children[i].style.width = share > 0 ? `max(3px, ${100 * share}%)` : "0";
  });
  bar.classList.toggle("full", !dhcp && p.free / size < 0.1);
  set(bar, "aria-label", words.join(", "));
  text(legend, words.join(", "));
}

// Leases are those of DHCP servers, the one that ends first at the top.
export class Leases {
  constructor(open) {
    this.list = new List(scroller("leases"), 62,
      () => h("button", {type: "button", class: "lease"}, h("b"), h("span", {class: "mono"}), h("span", {class: "left"}), h("span", {class: "about"}), h("div", {class: "bar"}, h("i"))),
      fillLease, "No leases of DHCP servers.");
    scroller("leases").addEventListener("click", (e) => {
      const row = e.target.closest(".lease");
      if (row) open(row.key);
    });
  }

  show(map) {
    const leases = [];
    for (const {host, network, endpoint} of containers(map)) {
      for (const a of endpoint.addresses) {
        if (a.lease) leases.push({key: endpoint.id + a.address, endpoint, network, host, address: a, lease: a.lease});
      }
    }
    leases.sort((a, b) => (a.lease.ends || "9").localeCompare(b.lease.ends || "9"));
    this.list.show(leases);
    return leases.length;
  }

  // tick counts the time down.
  tick() { this.list.draw(); }
}

function fillLease(row, {endpoint, network, host, address, lease}) {
  const [name, mono, left, about, bar] = row.children;
  row.key = endpoint.id;
  text(name, titleOf(endpoint));
  text(mono, bare(address.address));
  const ends = Date.parse(lease.ends), granted = Date.parse(lease.granted), now = Date.now();
  text(left, ends ? (ends > now ? span((ends - now) / 1000) : "ended") : "");
  text(about, [lease.state, lease.server && "server " + lease.server, titleOf(network), host.name, lease.problem].filter(Boolean).join(" · "));
  const share = ends && granted && ends > granted ? Math.max(0, Math.min(1, (ends - now) / (ends - granted))) : 0;
  bar.firstChild.style.width = 100 * share + "%";
  bar.classList.toggle("full", share < 0.2 || lease.state === "lost" || lease.state === "rebinding");
}

// Conflicts are addresses that others use, too.
export class Conflicts {
  constructor() {
    this.list = new List(scroller("conflicts"), 62, () => h("div", {class: "conflict"}, h("b", {class: "mono"}), h("span"), h("span", {class: "about"})), (row, {c, host}) => {
      const [address, who, about] = row.children;
      text(address, c.address);
      text(who, c.container ? `${c.container}, and ${c.mac || "another device"}` : `${c.mac || "a device"}, no container`);
      text(about, [wire(c.wire), host.name, c.since && "since " + new Date(c.since).toLocaleString()].filter(Boolean).join(" · "));
    }, "No conflicts: no device uses an address of a pool.");
  }

  show(map) {
    const all = map.hosts.flatMap((host) => (host.conflicts || []).map((c) => ({key: host.name + c.wire + c.address, c, host})));
    this.list.show(all);
    return all.length;
  }
}

const keep = 4096; // as many as the daemon remembers

// Events are what happened, the newest at the top.
export class Events {
  constructor(nameOf) {
    this.items = [];
    this.list = new List(scroller("events"), 62, () => h("div", {class: "event"}, h("time"), h("b"), h("span", {class: "about"})), (row, {e}) => {
      const [time, what, about] = row.children;
      text(time, new Date(e.time).toLocaleTimeString());
      text(what, e.what);
      row.className = "event row " + (/lost|declined|expired|unanswered|down|conflict|in-use|full|failed|silent|away/.test(e.what) ? "warned" : "");
      text(about, [e.address, e.container || nameOf(e.endpoint), nameOf(e.network), e.text || (e.server && "server " + e.server)].filter(Boolean).join(" · "));
    }, "Nothing has happened since the daemon started.");
  }

  add(e) {
    this.items.unshift({key: e.seq, e});
    this.items.length = Math.min(this.items.length, keep);
  }

  clear() { this.items = []; }
  draw() { this.list.show(this.items); return this.items.length; }
}

// containers are all of a map, with what they are on.
export function* containers(map) {
  for (const host of map.hosts) {
    for (const parent of host.parents) {
      for (const vlan of parent.vlans) {
        for (const network of vlan.networks) {
          for (const endpoint of network.endpoints) yield {host, parent, vlan, network, endpoint};
        }
      }
    }
  }
}

// Details is all about one container.
export class Details {
  constructor(rates, history) {
    Object.assign(this, {rates, history});
    this.section = document.getElementById("details");
    this.section.addEventListener("click", (e) => { if (e.target.closest(".close")) this.open(""); });
  }

  // open shows the container with an endpoint's ID, "" none.
  open(id, map) {
    this.id = id;
    this.section.hidden = id === "";
    document.body.classList.toggle("detailed", id !== "");
    if (id !== "") this.show(map);
  }

  show(map) {
    if (!this.id) return;
    let found;
    for (const c of containers(map)) if (c.endpoint.id === this.id) { found = c; break; }
    if (!found) { this.open(""); return; }
    const {host, parent, vlan, network, endpoint: e} = found;
    const rows = [
      ["State", e.state], ["Problem", e.problem],
      ...e.addresses.map((a) => ["Address", a.address + (a.from ? ` (${a.from})` : "") + (a.told ? `, Docker: ${a.told}` : "")]),
      ["MAC", e.mac], ["Network", `${titleOf(network)}, ${network.kind} ${network.mode}`],
      ["On", [host.name, parent.name, tagsOf(vlan)].filter(Boolean).join(", ")],
      ...e.addresses.filter((a) => a.lease).map((a) => ["Lease", [a.lease.state, a.lease.server && "server " + a.lease.server, a.lease.ends && "ends " + new Date(a.lease.ends).toLocaleString()].filter(Boolean).join(", ")]),
      ["Endpoint", short(e.id)], ["Since", e.created && new Date(e.created).toLocaleString()],
    ].filter(([, value]) => value);
    const same = JSON.stringify([titleOf(e), rows]);
    if (same !== this.same || !this.section.firstChild) {
      this.same = same;
      this.section.replaceChildren(
        h("h2", {}, titleOf(e)), h("button", {type: "button", class: "close", "aria-label": "Close the details"}, "×"),
        h("dl", {}, ...rows.flatMap(([k, v]) => [h("dt", {}, k), h("dd", {class: /Address|MAC|Endpoint/.test(k) ? "mono" : ""}, v)])),
        h("p", {class: "rate"}), h("canvas", {width: 640, height: 96, role: "img", "aria-label": "Traffic of the last two minutes"}));
    }
    this.traffic();
  }

  traffic() {
    const canvas = this.section.querySelector("canvas");
    if (!this.id || !canvas) return;
    const r = this.rates(this.id), past = this.history(this.id);
    text(this.section.querySelector(".rate"), r ? `Received ${rate(r.rx)}, sent ${rate(r.tx)}` : "");
    canvas.hidden = !r;
    spark(canvas, past);
  }
}

// spark draws rates over time: received above sent.
function spark(canvas, past) {
  const c = canvas.getContext("2d"), {width, height} = canvas;
  c.clearRect(0, 0, width, height);
  const top = Math.max(1000, ...past.map((p) => Math.max(p.rx, p.tx)));
  for (const [key, color] of [["rx", "--c1"], ["tx", "--c2"]]) {
    canvas.style.color = `var(${color})`;
    c.strokeStyle = getComputedStyle(canvas).color;
    c.lineWidth = 3;
    c.lineJoin = "round";
    c.beginPath();
    past.forEach((p, i) => c.lineTo(width - (past.length - 1 - i) * width / 59, height - 4 - (height - 8) * p[key] / top));
    c.stroke();
  }
}

// sums are the figures above the picture.
export function sums(into, map, leases, conflicts, total) {
  let networks = 0, all = 0;
  for (const host of map.hosts) for (const p of host.parents) for (const v of p.vlans) for (const n of v.networks) { networks++; all += n.endpoints.length; }
  const rows = [["Containers", all.toLocaleString("en")], ["Networks", networks.toLocaleString("en")]];
  if (map.self) rows.unshift(["Hosts", map.hosts.length]);
  rows.push(["Leases", leases.toLocaleString("en")], ["Conflicts", conflicts]);
  if (total) rows.push(["Received", rate(total.rx)], ["Sent", rate(total.tx)]);
  rows.forEach(([k, v], i) => {
    let div = into.children[i];
    if (!div) into.append(div = h("div", {}, h("dt"), h("dd")));
    text(div.children[0], k);
    text(div.children[1], String(v));
    div.classList.toggle("bad", k === "Conflicts" && v > 0);
  });
  while (into.children.length > rows.length) into.lastChild.remove();
  return plural(all, "container");
}
