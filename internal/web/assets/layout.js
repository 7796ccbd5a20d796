import {titleOf, tagsOf} from "./util.js";

// layout says where everything is, for a picture of a width in pixels. It returns
//   nodes: what can be chosen, in the order of the tree, with key, kind, level, x, y, w, h
//   shapes: what is behind them: frames, cards and wires
//   height: of it all
// match(endpoint, network) leaves only some containers; closed has the keys of networks that are
// not to be unfolded.
export function layout(map, width, closed, match) {
  const narrow = width < 900;
  const g = narrow
    ? {bar: 6, edge: 8, box: 44, row: 52, head: 60, gap: 12, between: 14}
    : {bar: 36, edge: 20, box: 50, row: 32, head: 58, gap: 26, between: 18};
  const nodes = [], shapes = [];
  let y = g.edge;
  const named = map.hosts.some((host) => host.name);
  const x0 = g.edge + g.bar + (narrow ? 10 : 26) + (named && !narrow ? 14 : 0);
  const right = width - g.edge - (named && !narrow ? 14 : 0);
  const parentW = narrow ? right - x0 : 146, vlanW = narrow ? right - x0 - 14 : 126;
  const vlanX = narrow ? x0 + 14 : x0 + parentW + g.gap;
  const cardX = narrow ? x0 : vlanX + vlanW + g.gap;
  const cardW = right - cardX;

  function wire(key, x1, y1, x2, y2, color) {
    shapes.push({key: "w" + key, kind: "wire", x: x1, y: y1, w: x2 - x1, h: y2 - y1, color});
  }

  function network(n, on, vlan, top) {
    const some = match ? n.endpoints.filter((e) => match(e, n)) : n.endpoints;
    if (match && some.length === 0) return false;
    const open = match !== undefined || !closed.has(on + n.id);
    const start = y;
    nodes.push({key: on + n.id, kind: "network", level: 4, x: cardX, y, w: cardW, h: g.head, network: n, open, count: some.length, vlan, problem: n.problem});
    y += g.head;
    if (n.problem) y += 22;
    if (open) {
      for (const e of some) {
        const h = g.row + (e.problem ? 20 : 0);
        nodes.push({key: on + n.id + e.id, kind: "endpoint", level: 5, x: cardX, y, w: cardW, h, endpoint: e, network: n, up: on + n.id, vlan});
        y += h;
      }
      if (some.length > 0) y += 8;
    }
    shapes.push({key: "c" + on + n.id, kind: "card", x: cardX, y: start, w: cardW, h: y - start, color: vlan.color});
    if (!narrow) wire(on + n.id, vlanX + vlanW, top + g.box / 2, cardX, start + g.box / 2, vlan.color);
    y += g.between;
    return true;
  }

  // Each level puts its own node before what is below it, and takes it back where nothing is.
  function inside(node, below) {
    const at = nodes.length, was = shapes.length, top = y;
    nodes.push({...node, y});
    if (narrow) y += node.h + 8;
    if (!below(top)) {
      nodes.length = at;
      shapes.length = was;
      y = top;
      return false;
    }
    return true;
  }

  for (const host of map.hosts) {
    const top = y;
    const before = nodes.length, behind = shapes.length;
    const hk = "h" + (host.name || "") + "/";
    if (named) {
      nodes.push({key: hk, kind: "host", level: 1, x: x0, y, w: right - x0, h: 34, host});
      y += 40;
    }
    let any = false;
    for (const p of host.parents) {
      const pk = hk + p.name + "/";
      any = inside({key: pk, kind: "parent", level: 2, x: x0, w: parentW, h: g.box, parent: p}, (ptop) => {
        let some = false;
        for (const v of p.vlans) {
          const vk = pk + tagsOf(v) + "/";
          some = inside({key: vk, kind: "vlan", level: 3, x: vlanX, w: vlanW, h: narrow ? 34 : g.box, vlan: v, name: tagsOf(v)}, (vtop) => {
            let drawn = false;
            const order = [...v.networks].sort((a, b) => titleOf(a).localeCompare(titleOf(b)));
            for (const n of order) drawn = network(n, vk, v, vtop) || drawn;
            if (drawn && !narrow) wire(vk, x0 + parentW, ptop + g.box / 2, vlanX, vtop + g.box / 2, 0);
            return drawn;
          }) || some;
        }
        if (some && !p.isolated) wire(pk, g.edge + g.bar, ptop + g.box / 2, x0, ptop + g.box / 2, 0);
        return some;
      }) || any;
    }
    if (named && !any && match) {
      nodes.length = before;
      shapes.length = behind;
      y = top;
    } else if (named) {
      if (!any) y += 4;
      if (!narrow) shapes.push({key: "f" + hk, kind: "frame", x: x0 - 14, y: top, w: right - x0 + 28, h: y - top - 2, silent: host.silent});
      y += g.between;
    }
  }
  return {nodes, shapes, height: y + g.edge, narrow, bar: {x: g.edge, w: g.bar}};
}
