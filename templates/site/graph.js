"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LABELS = { build: "build", reuse: "reuse from a mirror", external: "external", unaffected: "unaffected" };
  const byId = (id) => document.getElementById(id);
  const plan = JSON.parse(byId("plan").textContent);
  const specs = plan.specs;
  const stage = byId("stage");
  const svg = stage.querySelector("svg");
  const extra = svg.querySelector(".sy-extra");
  const panel = byId("panel");
  const search = byId("search");
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  /** An element with properties and children; text only ever becomes text. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else element.setAttribute(name, value);
    }
    for (const child of children) if (child !== null) element.append(child);
    return element;
  }

  // ---- the plan, linked both ways --------------------------------------------------------------
  const byHash = new Map();
  specs.forEach((spec, index) => {
    byHash.set(spec.hash, index);
    spec.waiters = [];
    spec.dependents = [];
    spec.text = `${spec.name}@${spec.version} /${spec.hash} ${spec.reason}`.toLowerCase();
  });
  specs.forEach((spec, index) => {
    for (const need of spec.needs) specs[need].waiters.push(index);
    for (const other of spec.depends) specs[other].dependents.push(index);
  });
  const isJob = (spec) => spec.level !== null;

  // ---- the picture -----------------------------------------------------------------------------
  const boxes = new Array(specs.length);
  for (const node of svg.querySelectorAll(".sy-n[data-i]")) {
    const index = Number(node.dataset.i);
    const place = node.transform.baseVal.consolidate().matrix;
    const shape = node.querySelector(".sy-box").getBBox();
    boxes[index] = { node, x: place.e, y: place.f, width: shape.width, height: shape.height };
  }
  for (const { node } of boxes) {
    node.setAttribute("role", "button");
    node.setAttribute("tabindex", "-1");
  }
  const edges = [];
  const edgesOf = specs.map(() => []);
  for (const path of svg.querySelectorAll(".sy-e")) {
    const [need, job] = path.dataset.e.split(" ").map(Number);
    const edge = { path, need, job };
    edges.push(edge);
    edgesOf[need].push(edge);
    edgesOf[job].push(edge);
  }
  const huge = specs.length > 1500;
  svg.classList.toggle("huge", huge);
  svg.removeAttribute("width");
  svg.removeAttribute("height");
  svg.setAttribute("role", "group");
  const whole = { width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height };
  const view = { x: 0, y: 0, scale: 1 };
  let drawing = 0;

  function fitScale() {
    return Math.min(stage.clientWidth / whole.width, stage.clientHeight / whole.height, 1.4);
  }

  function keepInside() {
    const least = Math.min(fitScale(), 0.5) * 0.8;
    view.scale = Math.min(4, Math.max(least, view.scale));
    for (const [axis, size, extent] of [
      ["x", stage.clientWidth, whole.width],
      ["y", stage.clientHeight, whole.height],
    ]) {
      const shown = size / view.scale;
      const inside = 0.3 * Math.min(shown, extent);
      view[axis] = Math.min(extent - inside, Math.max(inside - shown, view[axis]));
    }
  }

  function draw() {
    drawing = 0;
    const width = stage.clientWidth / view.scale;
    const height = stage.clientHeight / view.scale;
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${width} ${height}`);
    svg.classList.toggle("far", view.scale < 0.26);
  }

  function redraw() {
    keepInside();
    if (!drawing) drawing = requestAnimationFrame(draw);
  }

  function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const at = { x: view.x + x / view.scale, y: view.y + y / view.scale };
    view.scale *= factor;
    keepInside();
    view.x = at.x - x / view.scale;
    view.y = at.y - y / view.scale;
    redraw();
  }

  function fit() {
    view.scale = fitScale();
    view.x = (whole.width - stage.clientWidth / view.scale) / 2;
    view.y = (whole.height - stage.clientHeight / view.scale) / 2;
    redraw();
  }

  /** Everything if it can be read so; otherwise the beginning, around the longest chain. */
  function begin() {
    const readable = stage.clientWidth < 600 ? 0.75 : 0.62;
    if (fitScale() >= readable) {
      fit();
      return;
    }
    view.scale = Math.max(readable, Math.min(1, stage.clientWidth / whole.width));
    const first = plan.chain.length ? boxes[plan.chain[0]] : null;
    const middle = first ? first.x + first.width / 2 : whole.width / 2;
    const shown = stage.clientWidth / view.scale;
    view.x = middle < shown * 0.85 ? 0 : Math.min(whole.width - shown, middle - shown / 2);
    view.y = first && first.y > (stage.clientHeight / view.scale) * 0.6 ? first.y - 60 : 0;
    redraw();
  }

  let flight = 0;
  function reveal(index) {
    const box = boxes[index];
    const width = stage.clientWidth / view.scale;
    const height = stage.clientHeight / view.scale;
    const small = view.scale < 0.45;
    const inside =
      box.x > view.x + 10 && box.x + box.width < view.x + width - 10 &&
      box.y > view.y + 10 && box.y + box.height < view.y + height - 60;
    if (inside && !small) return;
    const from = { ...view };
    const scale = small ? 0.8 : view.scale;
    const to = {
      x: box.x + box.width / 2 - stage.clientWidth / scale / 2,
      y: box.y + box.height / 2 - stage.clientHeight / scale / 2,
      scale,
    };
    cancelAnimationFrame(flight);
    if (still.matches || huge) {
      Object.assign(view, to);
      redraw();
      return;
    }
    const start = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, (now - start) / 260));
      const eased = 1 - (1 - part) ** 3;
      for (const name of ["x", "y", "scale"]) view[name] = from[name] + (to[name] - from[name]) * eased;
      redraw();
      if (part < 1) flight = requestAnimationFrame(step);
    };
    flight = requestAnimationFrame(step);
  }

  // ---- looking at one spec ---------------------------------------------------------------------
  let kept = null; // index of the spec that was chosen
  let shown = null; // index of the spec that is looked at now
  let marked = [];

  function reach(index, direction) {
    const found = new Set();
    const pending = [...specs[index][direction]];
    while (pending.length) {
      const next = pending.pop();
      if (found.has(next)) continue;
      found.add(next);
      pending.push(...specs[next][direction]);
    }
    return found;
  }

  function mark(element, ...names) {
    element.classList.add(...names);
    marked.push([element, names]);
  }

  /** All that a spec needs and all that waits for it; in a huge graph so only once it is kept. */
  function light(index) {
    const whole = !huge || index === kept;
    for (const [element, names] of marked) element.classList.remove(...names);
    marked = [];
    extra.replaceChildren();
    svg.classList.toggle("looking", index !== null && whole);
    if (index === null) return;
    const spec = specs[index];
    mark(boxes[index].node, "on", "self");
    if (isJob(spec)) {
      const sides = whole ? [[reach(index, "needs"), "need"], [reach(index, "waiters"), "job"]] : [];
      for (const [set, side] of sides) {
        for (const other of set) {
          mark(boxes[other].node, "on");
          for (const edge of edgesOf[other]) {
            const end = edge[side === "need" ? "job" : "need"];
            if (edge[side] === other && (end === index || set.has(end))) mark(edge.path, "on");
          }
        }
      }
      for (const edge of edgesOf[index]) {
        mark(edge.path, "on", "near");
        mark(boxes[edge.need === index ? edge.job : edge.need].node, "near");
      }
    }
    const loose = isJob(spec)
      ? spec.depends.filter((other) => !isJob(specs[other])).map((other) => [other, index])
      : [...spec.depends.map((other) => [other, index]), ...spec.dependents.map((other) => [index, other])];
    for (const [from, to] of loose.slice(0, 300)) join(from, to, index);
  }

  /** A dashed line for a dependency that no job waits for. */
  function join(from, to, index) {
    const a = boxes[from];
    const b = boxes[to];
    const down = a.y <= b.y;
    const x = a.x + a.width / 2;
    const y = down ? a.y + a.height : a.y;
    const end = b.x + b.width / 2;
    const bottom = down && a.y < b.y ? b.y : b.y + b.height;
    const bend = a.y === b.y ? 24 : (bottom - y) / 2;
    const turn = a.y === b.y ? -24 : bend;
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", "sy-e loose on");
    path.setAttribute("d", `M${x} ${y}C${x} ${y + bend} ${end} ${bottom - turn} ${end} ${bottom}`);
    extra.append(path);
    mark(boxes[from === index ? to : from].node, "on", "near");
  }

  function badge(spec) {
    return make("span", { class: "badge" },
      make("span", { class: `mark ${spec.action}`, "aria-hidden": "true" }), LABELS[spec.action]);
  }

  function link(index) {
    const spec = specs[index];
    return make("a", { href: `#${spec.hash}`, title: `${spec.name}@${spec.version} /${spec.hash.slice(0, 7)}` },
      `${spec.name}@${spec.version}`);
  }

  function list(label, indices, { open = true, ordered = false } = {}) {
    const limit = 400;
    const items = indices.slice(0, limit).map((index) => make("li", {}, link(index)));
    if (indices.length > limit) items.push(make("li", {}, `and ${indices.length - limit} more`));
    const body = indices.length ? make(ordered ? "ol" : "ul", {}, ...items) : make("p", { class: "hint" }, "none");
    const details = make("details", {}, make("summary", {}, `${label} (${indices.length})`), body);
    details.open = open;
    return details;
  }

  function copyButton(text) {
    const button = make("button", { type: "button", "aria-label": "Copy the hash" }, "Copy");
    button.addEventListener("click", async () => {
      let done = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = make("textarea", { class: "sr" });
        area.value = text;
        document.body.append(area);
        area.select();
        done = document.execCommand("copy");
        area.remove();
        button.focus();
      }
      button.textContent = done ? "Copied" : "Failed";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return button;
  }

  function overview() {
    const parts = [make("p", { class: "hint" },
      "Point at a spec to see what it needs and what waits for it. Click to keep it here.")];
    if (plan.chain.length) {
      parts.push(make("p", { class: "hint" },
        `Each of these ${plan.chain.length} jobs waits for the one before. No number of runners is faster than they are.`));
      parts.push(list("Longest chain", plan.chain, { ordered: true }));
    }
    panel.replaceChildren(...parts);
  }

  function describe(index) {
    const spec = specs[index];
    const terms = [
      ["Decision", badge(spec)],
      ["Reason", spec.reason],
      ["Stage", isJob(spec) ? `${spec.level}${spec.on_chain ? ", on the longest chain" : ""}` : "no job"],
      ["Hash", make("span", { class: "hash" }, make("code", {}, spec.hash), copyButton(spec.hash))],
      ["Arch", make("code", {}, spec.arch)],
      ["Compiler", spec.compiler ? make("code", {}, spec.compiler) : "none"],
    ];
    if (spec.root) terms.push(["Root", "asked for by the stack"]);
    const body = make("dl");
    for (const [term, value] of terms) body.append(make("dt", {}, term), make("dd", {}, value));
    const heading = make("h2", {}, spec.name, make("span", { class: "version" }, ` @${spec.version}`));
    const lists = isJob(spec)
      ? [list("Waits for", spec.needs), list("Waited for by", spec.waiters),
        list("All direct dependencies", spec.depends, { open: false }),
        list("All direct dependents", spec.dependents, { open: false })]
      : [list("Direct dependencies", spec.depends), list("Direct dependents", spec.dependents)];
    panel.replaceChildren(heading, body, ...lists);
    panel.scrollTop = 0;
  }

  function look(index) {
    if (index === shown) {
      if (huge) light(index);
      return;
    }
    shown = index;
    light(index);
    if (index === null) overview();
    else describe(index);
  }

  let current = null; // the node that Tab reaches
  function tabTo(index) {
    if (current !== null) boxes[current].node.setAttribute("tabindex", "-1");
    current = index;
    boxes[index].node.setAttribute("tabindex", "0");
  }

  function keep(index, { show = true, address = true } = {}) {
    if (kept !== null) rowOf(kept).classList.remove("self");
    kept = index;
    look(index);
    if (index !== null) {
      rowOf(index).classList.add("self");
      tabTo(index);
      if (show) reveal(index);
    }
    if (!address) return;
    try {
      history.replaceState(null, "", index === null ? location.pathname + location.search : `#${specs[index].hash}`);
    } catch { /* some viewers have no history; the page works without */ }
  }

  // ---- the table -------------------------------------------------------------------------------
  const columns = [
    { label: "Package", class: "name", value: (s) => s.name },
    { label: "Version", class: "version", value: (s) => s.version },
    { label: "Decision", class: "action", value: (s) => s.action },
    { label: "Reason", class: "reason", value: (s) => s.reason },
    { label: "Stage", class: "number", value: (s) => s.level },
    { label: "Needs", class: "number", value: (s) => s.needs.length },
    { label: "Waited for by", class: "number", value: (s) => s.waiters.length },
    { label: "Arch", class: "minor mono", value: (s) => s.arch },
    { label: "Compiler", class: "minor mono", value: (s) => s.compiler },
    { label: "Hash", class: "hash mono", value: (s) => s.hash },
  ];
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const FEW = 300; // rows of a huge table until somebody asks for all
  const body = byId("rows");
  const rows = new Array(specs.length);
  let order = specs.map((_, index) => index);
  let hits = order;
  let words = [];
  let all = !huge;

  function rowOf(index) {
    if (rows[index]) return rows[index];
    const spec = specs[index];
    const row = make("tr", { "data-i": index });
    for (const column of columns) {
      const cell = make("td", { class: column.class });
      if (column.label === "Package") {
        cell.append(make("a", { href: `#${spec.hash}` }, spec.name));
      } else if (column.label === "Decision") {
        cell.append(badge(spec));
      } else if (column.label === "Hash") {
        cell.append(spec.hash.slice(0, 7));
        cell.title = spec.hash;
      } else {
        cell.textContent = column.value(spec) === null ? "–" : String(column.value(spec));
      }
      row.append(cell);
    }
    rows[index] = row;
    return row;
  }

  /** Mark a found word in a cell; its parts stay text. */
  function emphasise(element, value) {
    const lower = value.toLowerCase();
    const word = lower.length === value.length ? words.find((one) => lower.includes(one)) : undefined;
    if (word === undefined) {
      if (element.childNodes.length !== 1 || element.firstElementChild) element.textContent = value;
      return;
    }
    const at = lower.indexOf(word);
    element.replaceChildren(value.slice(0, at), make("mark", {}, value.slice(at, at + word.length)),
      value.slice(at + word.length));
  }

  /** Put the rows of all hits into the table, in the order that it is sorted by. */
  function fill() {
    const wanted = new Set(hits);
    const listed = order.filter((index) => wanted.has(index));
    const put = all ? listed : listed.slice(0, FEW);
    for (const index of put) {
      const row = rowOf(index);
      emphasise(row.children[0].firstChild, specs[index].name);
      emphasise(row.children[3], specs[index].reason);
    }
    body.replaceChildren(...put.map(rowOf));
    byId("more").classList.toggle("hidden", put.length === listed.length);
    byId("all").textContent = `Show all ${listed.length} specs`;
  }
  byId("all").addEventListener("click", () => { all = true; fill(); });

  let sorted = null;
  let falling = false;
  function sort(column) {
    falling = sorted === column ? !falling : false;
    sorted = column;
    order = specs.map((_, index) => index);
    const key = specs.map(column.value);
    order.sort((a, b) => {
      if (key[a] === null || key[b] === null) return (key[a] === null) - (key[b] === null) || a - b;
      const way = typeof key[a] === "number" ? key[a] - key[b] : compare(key[a], key[b]);
      return (falling ? -way : way) || a - b;
    });
    fill();
    for (const other of columns) {
      if (other === column) other.head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else other.head.removeAttribute("aria-sort");
    }
  }
  for (const column of columns) {
    const button = make("button", { type: "button" }, column.label);
    button.addEventListener("click", () => sort(column));
    column.head = make("th", { scope: "col", class: column.class }, button);
    byId("columns").append(column.head);
  }

  // ---- search and filters ----------------------------------------------------------------------
  const filters = [...document.querySelectorAll(".filter")];
  let turn = -1;

  function refresh() {
    words = search.value.toLowerCase().replaceAll("/", " ").split(/\s+/).filter(Boolean);
    const pressed = filters.filter((f) => f.getAttribute("aria-pressed") === "true").map((f) => f.dataset.action);
    const actions = pressed.filter((action) => action !== "chain");
    const chain = pressed.includes("chain");
    const active = words.length > 0 || pressed.length > 0;
    hits = [];
    turn = -1;
    specs.forEach((spec, index) => {
      const hit =
        words.every((word) => spec.text.includes(word)) &&
        (!actions.length || actions.includes(spec.action)) && (!chain || spec.on_chain);
      if (hit) hits.push(index);
      boxes[index].node.classList.toggle("hit", active && hit);
    });
    fill();
    svg.classList.toggle("searching", active);
    byId("none").classList.toggle("hidden", hits.length > 0);
    byId("found").textContent = active ? `${hits.length} of ${specs.length} specs` : "";
  }

  function clear() {
    search.value = "";
    for (const filter of filters) filter.setAttribute("aria-pressed", "false");
    refresh();
  }

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    if (huge) waiting = setTimeout(refresh, 150);
    else refresh();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && hits.length) {
      turn = (turn + (event.shiftKey ? hits.length - 1 : 1)) % hits.length;
      keep(hits[Math.max(turn, 0)]);
      event.preventDefault();
    }
  });
  for (const filter of filters) {
    filter.addEventListener("click", () => {
      filter.setAttribute("aria-pressed", String(filter.getAttribute("aria-pressed") !== "true"));
      refresh();
    });
  }
  byId("clear").addEventListener("click", () => { clear(); search.focus(); });

  // ---- pointer ---------------------------------------------------------------------------------
  const nodeAt = (target) => {
    const node = target instanceof Element ? target.closest(".sy-n[data-i]") : null;
    return node ? Number(node.dataset.i) : null;
  };
  const pointers = new Map();
  let moved = 0;
  let pressedOn = null;

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest(".zoom")) return;
    cancelAnimationFrame(flight);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (pointers.size === 1) {
      moved = 0;
      pressedOn = nodeAt(event.target);
    } else moved = Infinity;
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (moved < 4) return;
    if (!stage.hasPointerCapture(event.pointerId)) stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragging");
    pointers.set(event.pointerId, now);
    if (other) {
      const at = other[1];
      const frame = stage.getBoundingClientRect();
      const factor = Math.hypot(now.x - at.x, now.y - at.y) / Math.max(1, Math.hypot(before.x - at.x, before.y - at.y));
      zoom(factor, (now.x + at.x) / 2 - frame.left, (now.y + at.y) / 2 - frame.top);
    } else {
      view.x -= (now.x - before.x) / view.scale;
      view.y -= (now.y - before.y) / view.scale;
      redraw();
    }
  });
  function release(event) {
    if (!pointers.delete(event.pointerId)) return;
    if (pointers.size) return;
    stage.classList.remove("dragging");
    if (event.type === "pointerup" && moved < 4) keep(pressedOn, { show: false });
  }
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerover", (event) => {
    if (pointers.size || event.pointerType === "touch") return;
    const index = nodeAt(event.target);
    look(index === null ? kept : index);
  });
  stage.addEventListener("pointerleave", () => { if (!pointers.size) look(kept); });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const frame = stage.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 20 : 1;
    zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY * lines)) / 400),
      event.clientX - frame.left, event.clientY - frame.top);
  }, { passive: false });
  byId("zoom-in").addEventListener("click", () => zoom(1.35));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.35));
  byId("zoom-fit").addEventListener("click", fit);

  // ---- keyboard --------------------------------------------------------------------------------
  const middle = (index) => boxes[index].x + boxes[index].width / 2;

  function nearest(index, others) {
    let best = null;
    for (const other of others) {
      if (best === null || Math.abs(middle(other) - middle(index)) < Math.abs(middle(best) - middle(index))) best = other;
    }
    return best;
  }

  function beside(index, way) {
    const { y } = boxes[index];
    let best = null;
    boxes.forEach((box, other) => {
      const ahead = (middle(other) - middle(index)) * way;
      if (other !== index && box.y === y && ahead > 0 && (best === null || ahead < (middle(best) - middle(index)) * way)) best = other;
    });
    return best;
  }

  const walks = {
    ArrowUp: (index) => nearest(index, isJob(specs[index]) && specs[index].needs.length ? specs[index].needs : specs[index].depends),
    ArrowDown: (index) => nearest(index, isJob(specs[index]) ? specs[index].waiters : specs[index].dependents),
    ArrowLeft: (index) => beside(index, -1),
    ArrowRight: (index) => beside(index, 1),
  };

  stage.addEventListener("focusin", (event) => {
    const index = nodeAt(event.target);
    if (index === null || !event.target.matches(":focus-visible")) return;
    tabTo(index);
    look(index);
    reveal(index);
  });
  stage.addEventListener("focusout", (event) => {
    if (!stage.contains(event.relatedTarget)) look(kept);
  });
  stage.addEventListener("keydown", (event) => {
    const index = nodeAt(event.target);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && event.key in walks) {
      const step = 120 / view.scale;
      view.x += step * ((event.key === "ArrowRight") - (event.key === "ArrowLeft"));
      view.y += step * ((event.key === "ArrowDown") - (event.key === "ArrowUp"));
      redraw();
    } else if (index !== null && event.key in walks) {
      const next = walks[event.key](index);
      if (next !== null) boxes[next].node.focus({ preventScroll: true, focusVisible: true });
    } else if (index !== null && (event.key === "Enter" || event.key === " ")) keep(index);
    else if (event.key === "+" || event.key === "=") zoom(1.35);
    else if (event.key === "-") zoom(1 / 1.35);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && event.target !== search) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape") {
      clear();
      keep(null);
    }
  });

  // ---- links -----------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const anchor = event.target instanceof Element ? event.target.closest("a[href^='#']") : null;
    const index = anchor ? byHash.get(anchor.getAttribute("href").slice(1)) : undefined;
    if (index === undefined) return;
    event.preventDefault();
    const inside = panel.contains(anchor);
    keep(index);
    if (inside) panel.querySelector("h2").setAttribute("tabindex", "-1");
    if (inside) panel.querySelector("h2").focus({ preventScroll: true });
    else stage.scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" });
  });
  function followAddress() {
    const index = byHash.get(location.hash.slice(1));
    if (index !== undefined) keep(index, { address: false });
  }
  addEventListener("hashchange", followAddress);
  new ResizeObserver(redraw).observe(stage);

  fill();
  overview();
  if (specs.length) {
    begin();
    tabTo(plan.chain.length ? plan.chain[0] : 0);
  }
  followAddress();
})();
