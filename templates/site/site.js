"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const up = document.body.dataset.up;
  const HASH = /^[a-z2-7]{1,32}$/;
  /** What people filter by; the names stand in addresses. */
  const KINDS = ["system", "compiler", "target"];

  /** An element with properties and children; text only ever becomes text. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
    for (const child of children) if (child !== null) element.append(child);
    return element;
  }
  async function read(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  }
  function sizeText(bytes) {
    if (bytes === null) return "";
    let [size, unit] = [bytes, "bytes"];
    for (const larger of ["kB", "MB", "GB", "TB"]) {
      if (size.toFixed(1) < 1000) break;
      [size, unit] = [size / 1000, larger];
    }
    return unit === "bytes" ? `${size} ${unit}` : `${size.toFixed(1)} ${unit}`;
  }
  const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
  const whole = (file) => `${up}packages/${file}.html`;
  /** A text with the part that was searched for marked. */
  function marked(text, part) {
    const at = part ? text.toLowerCase().indexOf(part) : -1;
    if (at < 0) return [text];
    const end = at + part.length;
    return [text.slice(0, at), make("mark", {}, text.slice(at, end)), text.slice(end)];
  }
  /** Wait until the fingers rest. */
  function rested(action) {
    let timer = 0;
    return () => {
      clearTimeout(timer);
      timer = setTimeout(action, 90);
    };
  }

  // ---- every page: copy a command, and reach the search with "/" --------------------------------
  function armCopies(root) {
    for (const button of root.querySelectorAll(".copy")) {
      button.classList.remove("hidden");
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(button.dataset.copy);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(button.previousElementSibling);
          button.textContent = "Selected";
        }
        setTimeout(() => (button.textContent = "Copy"), 1600);
      });
    }
  }
  function command(text, label) {
    const button = make("button", { type: "button", class: "copy", "data-copy": text, "aria-label": `Copy: ${label}` }, "Copy");
    const words = text.split(" ").flatMap((word, number) => [number ? " " : "", make("span", {}, word)]);
    return make("div", { class: "command" }, make("code", {}, ...words), button);
  }
  function armSearch(input) {
    byId("tools").classList.remove("hidden");
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest("input, select, textarea");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        input.focus();
        input.select();
      }
    });
  }

  // ---- the list of packages ----------------------------------------------------------------------
  function packagesPage() {
    const SHOWN = 150;
    const search = byId("search");
    const table = byId("packages");
    const first = table.tBodies[0];
    const rest = byId("rest");
    const restWas = rest.classList.contains("hidden");
    const filters = [...KINDS, "order"].map(byId);
    const ORDERS = {
      new: (a, b) => b.day - a.day,
      large: (a, b) => (b.size ?? -1) - (a.size ?? -1),
      many: (a, b) => b.binaries - a.binaries,
    };
    const shards = Number(document.body.dataset.shards);
    let all = null;
    let shown = SHOWN;

    async function load() {
      const parts = [...Array(shards).keys()].map((number) => read(`${up}data/${number.toString(16)}.json`));
      const found = [];
      for (const part of await Promise.all(parts)) {
        for (const [name, file, versions, about, numbers] of part.packages) {
          const kinds = [];
          for (let i = 0; i < numbers.length; i += 7) {
            const [system, compiler, target, binaries, version, size, day] = numbers.slice(i, i + 7);
            kinds.push({
              system: part.systems[system], compiler: part.compilers[compiler] || "none", target: part.targets[target],
              binaries, version, size, day,
            });
          }
          found.push({ name, file: file || name, versions, about, kinds, text: about.toLowerCase() });
        }
      }
      return found.sort((a, b) => (a.name < b.name ? -1 : 1));
    }
    const loaded = () => (all ??= load().catch((error) => { all = null; throw error; }));

    /** A package as far as its binaries fit; null if none does. */
    function fitting(one, fits) {
      const kinds = one.kinds.filter(fits);
      if (!kinds.length) return null;
      const known = (values) => values.filter((value) => value !== null);
      const sizes = known(kinds.map((kind) => kind.size));
      return {
        ...one,
        newest: one.versions[Math.min(...kinds.map((kind) => kind.version))],
        more: kinds.length === one.kinds.length ? one.versions.length - 1 : 0,
        binaries: kinds.reduce((sum, kind) => sum + kind.binaries, 0),
        size: sizes.length ? sizes.reduce((sum, size) => sum + size, 0) : null,
        day: Math.max(-1, ...known(kinds.map((kind) => kind.day))),
      };
    }
    /** Names before descriptions, and what begins with the text before what only has it. */
    function rank(one, text) {
      if (!text) return 0;
      const name = one.name.toLowerCase();
      if (name === text) return 0;
      if (name.startsWith(text)) return 1;
      if (name.includes(text)) return 2;
      return one.text.includes(text) ? 3 : -1;
    }
    function row(one, text, query) {
      const name = make("th", { scope: "row" }, make("a", { href: whole(one.file) + query }, ...marked(one.name, text)));
      if (one.about) name.append(make("span", { class: "about" }, ...marked(one.about, text)));
      const version = make("td", { class: "version" }, one.newest);
      if (one.more) version.append(" ", make("span", { class: "soft" }, `+${one.more}`));
      return make(
        "tr", {}, name, version,
        make("td", { class: "number", "data-label": one.binaries === 1 ? "binary" : "binaries" }, one.binaries.toLocaleString("en")),
        make("td", { class: "number size" }, sizeText(one.size)),
        make("td", { class: "date" }, one.day < 0 ? "" : new Date(one.day * 864e5).toISOString().slice(0, 10)),
      );
    }
    async function withHash(prefix) {
      const names = (await read(`${up}api/v1/hashes/${prefix[0]}.json`)).packages;
      return Object.keys(names).filter((hash) => hash.startsWith(prefix)).map((hash) => [hash, names[hash]]);
    }
    function hashRow([hash, name], files, prefix) {
      const link = make("a", { href: `${whole(files.get(name) ?? name)}#${hash}` }, `${name}/`, ...marked(hash, prefix));
      return make("tr", {}, make("th", { scope: "row" }, link), make("td", { class: "version" }),
        make("td"), make("td"), make("td"));
    }

    let turn = 0;
    async function update() {
      const mine = ++turn;
      const typed = search.value.trim().toLowerCase();
      const text = typed.replace(/^\//, "");
      const wanted = filters.map((filter) => filter?.value ?? "");
      remember(typed, wanted);
      const idle = !typed && !wanted.some(Boolean);
      byId("clear").classList.toggle("hidden", idle);
      if (idle && shown === SHOWN) {
        table.tBodies[0].replaceWith(first);
        byId("found").textContent = "";
        byId("none").classList.add("hidden");
        rest.classList.toggle("hidden", restWas);
        return;
      }
      let packages;
      let hashes = [];
      try {
        packages = await loaded();
        const hashed = HASH.test(text) && (typed.startsWith("/") ? text : text.length > 4);
        if (hashed && !wanted.slice(0, 3).some(Boolean)) hashes = await withHash(text);
      } catch {
        byId("found").textContent = "The data cannot be read. Is this page opened from a web server?";
        return;
      }
      if (mine !== turn) return; // somebody typed on
      const chosen = KINDS.map((kind, number) => [kind, wanted[number]]).filter(([, value]) => value);
      const fits = (one) => chosen.every(([kind, value]) => one[kind] === value);
      const query = chosen.length ? `?${new URLSearchParams(chosen)}` : "";
      const ranked = typed.startsWith("/") ? [] : packages
        .map((one) => [rank(one, text), fitting(one, fits)])
        .filter(([place, one]) => place >= 0 && one)
        .sort(([a], [b]) => a - b)
        .map(([, one]) => one);
      if (wanted[3]) ranked.sort(ORDERS[wanted[3]]);
      const files = new Map(packages.map((one) => [one.name, one.file]));
      const rows = [...ranked.map((one) => () => row(one, text, query)), ...hashes.map((one) => () => hashRow(one, files, text))];
      const body = make("tbody");
      body.append(...rows.slice(0, shown).map((build) => build()));
      table.tBodies[0].replaceWith(body);
      byId("none").classList.toggle("hidden", rows.length > 0);
      const parts = [count(ranked.length, "package", "packages")];
      if (hashes.length) parts.push(count(hashes.length, "binary", "binaries"));
      byId("found").textContent = (ranked.length ? parts : parts.slice(hashes.length ? 1 : 0)).join(", ");
      rest.classList.toggle("hidden", rows.length <= shown);
      if (rows.length > shown) rest.replaceChildren(`${shown} of ${rows.length.toLocaleString("en")} are shown. `, more);
    }
    const more = byId("more");
    more.classList.remove("hidden");
    more.addEventListener("click", () => { shown += 2 * SHOWN; update(); });

    /** The search stands in the address, so that it can be sent to somebody. */
    function remember(text, wanted) {
      const query = new URLSearchParams();
      if (text) query.set("q", text);
      filters.forEach((filter, number) => { if (wanted[number]) query.set(filter.id, wanted[number]); });
      const asked = query.toString();
      if (asked !== location.search.slice(1)) history.replaceState(null, "", (asked ? `?${asked}` : location.pathname) + location.hash);
    }
    function reset() {
      search.value = "";
      for (const filter of filters) if (filter) filter.value = "";
      shown = SHOWN;
      update();
    }
    armSearch(search);
    search.addEventListener("input", rested(() => { shown = SHOWN; update(); }));
    search.addEventListener("focus", () => loaded().catch(() => {}), { once: true });
    search.addEventListener("keydown", (event) => { if (event.key === "Escape") reset(); });
    byId("clear").addEventListener("click", () => { reset(); search.focus(); });
    for (const filter of filters) filter?.addEventListener("change", () => { shown = SHOWN; update(); });
    const asked = new URLSearchParams(location.search);
    search.value = asked.get("q") ?? "";
    for (const filter of filters) if (filter && asked.get(filter.id)) filter.value = asked.get(filter.id);
    if (asked.toString()) {
      update().then(() => {
        const head = byId("all");
        if (head.getBoundingClientRect().top > innerHeight / 2) head.scrollIntoView();
      });
    }
  }

  // ---- one package -------------------------------------------------------------------------------
  function packagePage() {
    const { name, document: path } = document.body.dataset;
    const rows = [...byId("rows").tBodies[0].rows];
    let asked = null;
    const loaded = () => (asked ??= read(path)
      .then((found) => new Map(found.binaries.map((one) => [one.hash, one])))
      .catch((error) => { asked = null; throw error; }));
    const FILES = /^[a-z0-9_][a-z0-9_-]{0,99}$/;

    function valueText(value) {
      return Array.isArray(value) ? value.join(", ") : value === true ? "yes" : value === false ? "no" : String(value);
    }
    function other(one, there, types) {
      const text = `${one.name}${one.version ? `@${one.version}` : ""}`;
      const label = there ? make("a", { href: `${link(one.name)}#${one.hash}` }, text) : make("span", {}, text);
      return make("li", {}, label, make("span", { class: "soft" }, ` /${one.hash.slice(0, 7)}${types ? ` · ${types.join(", ")}` : " "}${there ? "" : " · not on this mirror"}`));
    }
    /** The links of this page know files of unusual names. */
    const known = new Map([...document.querySelectorAll(".columns .links a")].map((a) => [a.textContent, a.getAttribute("href")]));
    const link = (other) => known.get(other) ?? (other === name ? "" : FILES.test(other) ? `${other}.html` : "");
    function group(title, items, empty) {
      const body = items.length ? make("ul", { class: "edges" }, ...items) : make("p", { class: "small" }, empty);
      return make("div", {}, make("h3", {}, title), body);
    }
    function pairs(entries) {
      return make("dl", {}, ...entries.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]));
    }
    function details(one) {
      const variants = Object.entries(one.variants).map(([key, value]) => [key, valueText(value)]);
      const about = [
        ["Hash", make("code", {}, one.hash)],
        ["SHA-256", make("code", {}, one.sha256)],
        ["Size", one.size_bytes === null ? "not known" : `${one.size_bytes.toLocaleString("en")} bytes`],
        ["Added", one.added ?? "not known"],
        ["Signature", !one.signed ? "none" : one.layout === "oci" ? "there is one, which Spack does not look at" : "there is one; Spack checks it"],
        ["Namespace", one.namespace || "none"],
      ];
      const used = one.dependents.map((user) => other(user, true, null));
      const MOST = 40;
      const rest = used.splice(MOST);
      const needed = group("Needed by", used, "Nothing on this mirror.");
      if (rest.length) {
        const button = make("button", { type: "button" }, `${rest.length.toLocaleString("en")} more`);
        button.addEventListener("click", () => { needed.querySelector("ul").append(...rest); button.remove(); });
        needed.append(button);
      }
      return [
        command(`spack install --cache-only ${name}/${one.hash.slice(0, 10)}`, "install this binary"),
        make("div", { class: "pair" },
          group("Depends on", one.dependencies.map((edge) => other(edge, edge.binary, edge.types)), "Nothing."),
          needed,
          make("div", {}, make("h3", {}, "Variants"), variants.length ? pairs(variants) : make("p", { class: "small" }, "None.")),
          make("div", {}, make("h3", {}, "Binary"), pairs(about))),
        make("p", { class: "small" }, make("a", { href: `${up}${one.spec.replace(/^(\.\.\/)+/, "")}` }, "Metadata as JSON")),
      ];
    }
    async function toggle(row, open = !row.classList.contains("open")) {
      const handle = row.querySelector(".hash");
      if (open === row.classList.contains("open")) return;
      row.classList.toggle("open", open);
      handle.setAttribute("aria-expanded", String(open));
      if (!open) {
        row.nextElementSibling.remove();
        return;
      }
      const cell = make("td", { colspan: row.cells.length }, make("p", { class: "small" }, "Loading"));
      const detail = make("tr", { class: "detail" }, cell);
      row.after(detail);
      try {
        const one = (await loaded()).get(row.id);
        cell.replaceChildren(...details(one));
        armCopies(cell);
      } catch {
        cell.replaceChildren(make("p", { class: "problem" }, "The details cannot be read. Is this page opened from a web server?"));
      }
    }
    function look() {
      const row = byId(location.hash.slice(1));
      if (row && rows.includes(row)) {
        row.classList.remove("hidden");
        toggle(row, true);
        row.scrollIntoView({ block: "start" });
      }
    }
    for (const row of rows) {
      const handle = row.querySelector(".hash");
      handle.setAttribute("aria-expanded", "false");
      handle.setAttribute("aria-label", `Details of ${row.id.slice(0, 7)}`);
      handle.addEventListener("click", (event) => {
        event.preventDefault();
        const open = !row.classList.contains("open");
        history.replaceState(null, "", location.pathname + location.search + (open ? `#${row.id}` : ""));
        toggle(row, open);
      });
      row.addEventListener("click", (event) => {
        if (!event.target.closest("a") && getSelection().isCollapsed) handle.click();
      });
    }
    addEventListener("hashchange", look);
    look();

    const filter = byId("filter");
    if (!filter) return;
    const about = rows.map((row) => ({
      row,
      text: `${row.textContent} ${row.id}`.toLowerCase(),
      system: row.cells[2].firstChild.data.trim(),
      compiler: row.cells[3].textContent || "none",
      target: row.querySelector(".target").textContent,
    }));
    const MANY = 5;
    const choices = new Map();
    const query = new URLSearchParams(location.search);
    for (const [kind, label] of [["system", "Platform"], ["compiler", "Compiler"], ["target", "Target"]]) {
      const values = [...new Set(about.map((one) => one[kind]))].sort();
      if (values.length < 2) continue;
      const options = values.map((value) => make("option", {}, value));
      const select = make("select", { id: kind }, make("option", { value: "" }, "all"), ...options);
      if (values.includes(query.get(kind))) select.value = query.get(kind);
      byId("clear").before(make("label", { class: "choice" }, make("span", {}, label), select));
      choices.set(kind, select);
    }
    function sift() {
      const words = filter.value.toLowerCase().replace("/", " ").split(/\s+/).filter(Boolean);
      const wanted = [...choices].map(([kind, select]) => [kind, select.value]).filter(([, value]) => value);
      let left = 0;
      for (const one of about) {
        const fits = words.every((word) => one.text.includes(word)) && wanted.every(([kind, value]) => one[kind] === value);
        if (!fits) toggle(one.row, false);
        one.row.classList.toggle("hidden", !fits);
        left += fits;
      }
      const idle = !words.length && !wanted.length;
      const asked = new URLSearchParams(wanted).toString();
      history.replaceState(null, "", (asked ? `?${asked}` : location.pathname) + location.hash);
      byId("clear").classList.toggle("hidden", idle);
      byId("found").textContent = idle ? "" : `${left.toLocaleString("en")} of ${count(rows.length, "binary", "binaries")}`;
      byId("none").classList.toggle("hidden", left > 0);
    }
    function reset() {
      filter.value = "";
      for (const select of choices.values()) select.value = "";
      sift();
    }
    const wanted = [...choices.values()].some((select) => select.value);
    if (rows.length > MANY || wanted) armSearch(filter);
    if (wanted) {
      sift();
      const head = byId("binaries");
      if (head.getBoundingClientRect().top > innerHeight) head.scrollIntoView();
    }
    filter.addEventListener("input", rested(sift));
    filter.addEventListener("keydown", (event) => { if (event.key === "Escape") reset(); });
    for (const select of choices.values()) select.addEventListener("change", sift);
    byId("clear").addEventListener("click", reset);
  }

  armCopies(document);
  if (document.body.dataset.page === "index") packagesPage();
  if (document.body.dataset.page === "package") packagePage();
})();
