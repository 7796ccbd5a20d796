import {text, plural, titleOf, bare} from "./util.js";
import {Picture} from "./picture.js";
import {Pools, Leases, Conflicts, Events, Details, containers, sums} from "./panels.js";

const every = {map: 2000, traffic: 2000, pools: 5000}; // ms
const patience = 15000; // ms for an answer
const $ = (id) => document.getElementById(id);

let map, poolList, wanted = "", view = "", total;
const names = new Map(); // of networks and containers, by ID
const hay = new Map(); // what a search looks at, by endpoint ID
const rateOf = new Map(), pastOf = new Map(); // by endpoint ID
const rates = (id) => rateOf.get(id);
const nameOf = (id) => (id ? names.get(id) || id.slice(0, 12) : "");

const details = new Details(rates, (id) => pastOf.get(id) || []);
const picture = new Picture($("tree"), rates, (node) => {
  if (node.kind === "endpoint") details.open(node.endpoint.id, map);
  else if (node.kind === "network" && !picture.match) picture.fold(node, !node.open);
});
const pools = new Pools(), conflicts = new Conflicts(), events = new Events(nameOf);
const leases = new Leases((id) => details.open(id, map));

// One loop asks for each thing: it waits for the answer, then for a while, and asks at once when
// somebody looks again.
const wake = new Set();
const sleep = (ms) => new Promise((done) => {
  const end = () => { clearTimeout(timer); wake.delete(end); done(); };
  const timer = setTimeout(end, ms);
  wake.add(end);
});
const wakeAll = () => [...wake].forEach((end) => end());

async function ask(path) {
  const r = await fetch(path, {signal: AbortSignal.timeout(patience)});
  if (r.status === 401) location.assign("/login");
  if (!r.ok) throw new Error(`${path}: ${r.status}`);
  return r.text();
}

let lost = 0;
function heard(ok) {
  if (ok && lost === 0 && $("live").className === "pill live") return;
  if (ok) lost = 0;
  else lost ||= Date.now();
  document.body.classList.toggle("lost", !ok);
  $("live").className = ok ? "pill live" : "pill";
  text($("live"), ok ? "Live" : "Connection lost, trying again");
}

async function loop(name, take) {
  for (let last = ""; ;) {
    if (document.hidden) {
      await new Promise((done) => document.addEventListener("visibilitychange", done, {once: true}));
    }
    try {
      const answer = await ask("/v1/" + name);
      if (answer !== last) take(JSON.parse(last = answer));
      heard(true);
    } catch {
      heard(false); // and it asks again
    }
    await sleep(lost ? 1000 : every[name]);
  }
}

function takeMap(m) {
  map = m;
  names.clear();
  hay.clear();
  for (const {network, endpoint} of containers(m)) {
    names.set(network.id, titleOf(network));
    names.set(endpoint.id, titleOf(endpoint));
    hay.set(endpoint.id, [endpoint.name || "", endpoint.id, endpoint.mac || "", ...endpoint.addresses.map((a) => bare(a.address) + " " + (a.told || "")), network.name || ""].join(" ").toLowerCase());
  }
  for (const host of m.hosts) for (const p of host.parents) for (const v of p.vlans) for (const n of v.networks) names.set(n.id, titleOf(n));
  $("problem").hidden = !m.problem;
  text($("problem"), m.problem ? "Other hosts cannot be seen: " + m.problem : "");
  document.title = m.self ? `lanyard on ${m.self}` : "lanyard";
  count("leases", leases.show(m));
  count("conflicts", conflicts.show(m));
  if (poolList) pools.show(poolList, nameOf); // by the names that are known now
  events.draw();
  details.show(m);
  search();
}

function count(tab, n) {
  text(document.querySelector(`#tab-${tab} b`), n ? n.toLocaleString("en") : "");
}

let before;
function takeTraffic(t) {
  const now = new Map(t.items.map((i) => [i.endpoint, i]));
  if (before && before.taken !== t.taken) {
    const seconds = (Date.parse(t.taken) - Date.parse(before.taken)) / 1000;
    rateOf.clear();
    total = {rx: 0, tx: 0};
    for (const [id, i] of now) {
      const was = before.items.get(id);
      // A link that was made again counts from 0.
      if (!was || i.rx_bytes < was.rx_bytes || i.tx_bytes < was.tx_bytes || seconds <= 0) continue;
      const r = {rx: (i.rx_bytes - was.rx_bytes) / seconds, tx: (i.tx_bytes - was.tx_bytes) / seconds};
      rateOf.set(id, r);
      total.rx += r.rx;
      total.tx += r.tx;
      const past = pastOf.get(id) || [];
      past.push(r);
      if (past.length > 60) past.shift();
      pastOf.set(id, past);
    }
    for (const id of pastOf.keys()) if (!now.has(id)) pastOf.delete(id);
  }
  if (!before || before.taken !== t.taken) before = {taken: t.taken, items: now};
  picture.refresh();
  details.traffic();
  summary();
}

function summary() {
  if (map) sums($("sums"), map, leases.list.items.length, conflicts.list.items.length, total);
}

// follow reads events as they come, and asks for the map when something has happened.
async function follow() {
  let last = 0, soon;
  for (;;) {
    try {
      const r = await fetch(`/v1/events?follow=true&after=${last}`);
      if (!r.ok) throw new Error(r.status);
      const lines = r.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const {value, done} = await lines.read();
        if (done) break;
        const all = (rest + value).split("\n");
        rest = all.pop();
        for (const line of all) {
          const e = JSON.parse(line);
          last = e.seq;
          events.add(e);
        }
        if (all.length) {
          count("events", events.draw());
          clearTimeout(soon);
          soon = setTimeout(wakeAll, 300); // once for many
        }
      }
    } catch {
      // The loops say that the connection is lost.
    }
    // A daemon that was started anew counts from 1.
    last = 0;
    await sleep(2000);
    events.clear();
  }
}

function search() {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const match = words.length ? (e) => words.every((w) => hay.get(e.id).includes(w)) : undefined;
  if (!map) return;
  picture.show(map, match);
  let n = 0;
  if (match) for (const {endpoint} of containers(map)) if (match(endpoint)) n++;
  text($("found"), match ? plural(n, "container") : "");
  summary();
}

$("search").addEventListener("input", (e) => {
  wanted = e.target.value;
  $("tree").scrollTop = 0;
  if (wide.matches === false && wanted) open("picture");
  search();
});
document.addEventListener("keydown", (e) => {
  const typing = e.target.matches("input");
  if (e.key === "/" && !typing) {
    e.preventDefault();
    $("search").select();
  } else if (e.key === "Escape" && details.id) {
    details.open("");
  } else if (e.key === "Escape" && typing) {
    e.target.value = wanted = "";
    search();
    $("tree").focus();
  } else if ((e.key === "ArrowDown" || e.key === "Enter") && typing) {
    e.preventDefault();
    const first = picture.plan.nodes.find((n) => n.kind === "endpoint");
    $("tree").focus();
    if (first) picture.go(first.key);
  }
});

// On a wide page the picture is always there, beside one of the other views.
const wide = matchMedia("(min-width: 1000px)");
const tabs = [...document.querySelectorAll("[role=tab]")];
function open(name) {
  view = name;
  document.body.dataset.view = name;
  for (const t of tabs) {
    const on = t.dataset.view === name;
    t.setAttribute("aria-selected", on);
    t.tabIndex = on ? 0 : -1;
    $(t.dataset.view).classList.toggle("open", on);
  }
  summary();
}
for (const t of tabs) t.addEventListener("click", () => open(t.dataset.view));
document.querySelector("nav").addEventListener("keydown", (e) => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[e.key];
  if (!step) return;
  const some = tabs.filter((t) => t.offsetParent !== null);
  const to = some[(some.findIndex((t) => t.dataset.view === view) + step + some.length) % some.length];
  open(to.dataset.view);
  to.focus();
});
const widths = () => open(wide.matches ? (view === "picture" || !view ? "pools" : view) : view || "picture");
wide.addEventListener("change", widths);
open(wide.matches ? "pools" : "picture");

// Light or dark as the system has it, until somebody chooses.
const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
}
theme(localStorage.getItem("theme"));
$("theme").addEventListener("click", () => {
  const is = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  const next = is === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  theme(next);
});

setInterval(() => leases.tick(), 1000);
loop("map", takeMap);
loop("traffic", takeTraffic);
loop("pools", (list) => {
  poolList = list;
  pools.show(list, nameOf);
  count("pools", list.length);
});
follow();
