// h makes an element: h("div", {class: "a"}, "text", child).
export function h(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== false) e.setAttribute(key, value);
  }
  e.append(...children.filter((c) => c !== undefined && c !== ""));
  return e;
}

// text sets an element's text where it is another one.
export function text(e, value) {
  if (e.textContent !== value) e.textContent = value;
}

// set sets an attribute where it is another one; undefined removes it.
export function set(e, key, value) {
  if (value === undefined) {
    if (e.hasAttribute(key)) e.removeAttribute(key);
  } else if (e.getAttribute(key) !== String(value)) {
    e.setAttribute(key, value);
  }
}

export function plural(n, what) {
  return `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
}

// rate is a rate of bytes a second.
export function rate(n) {
  for (const unit of ["B/s", "kB/s", "MB/s", "GB/s"]) {
    if (n < 999.5 || unit === "GB/s") return `${n < 9.95 && unit !== "B/s" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
}

// span is a time in seconds, to about one unit.
export function span(s) {
  s = Math.round(s);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

export const short = (id) => id.slice(0, 12);
export const bare = (address) => address.split("/")[0];
export const titleOf = (x) => x.name || short(x.id);
export const tagsOf = (v) => (v.tags ? "VLAN " + v.tags.map((t) => t.id).join(".") : "untagged");

// wire is a wire as people say it: "eth1, VLAN 100".
export const wire = (text) => (text || "").replaceAll("802.1Q:", "");
