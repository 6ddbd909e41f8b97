/* The table of pairs: sorted, searched and paged in memory, so that five thousand rows cost no more than one page of
   them. The data is the JSON block that crates/report/src/diagnosis/pairs_table.rs writes. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("pairs-data").textContent);
  const view = document.getElementById("pairs-view");
  const live = document.getElementById("live");
  const pageSize = 25;
  const caseNames = { ideal: "ideal", both_fall: "both fall", both_rise: "both rise", reversed: "reversed", still: "still" };
  const all = data.rows.map((row, at) => ({ index: row[0], kind: row[1], values: row[2], text: data.texts[at], rank: at }));
  const byIndex = new Map(all.map((row) => [row.index, row]));
  const open = new Set();
  const state = { key: null, up: false, words: "", kind: "", page: 0 };
  let found = all;

  function element(tag, attributes = {}, text = "") {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    return node;
  }

  /* What tells the pair from others: the prompt from where prompts differ, else the chosen completion. */
  function start(row, length) {
    if (!row.text) return "";
    const prompt = row.text.prompt.slice(data.start).trim();
    const text = (prompt || row.text.chosen).replace(/\s+/g, " ");
    return text.length > length ? `${text.slice(0, length)} …` : text;
  }

  Charts.describe = (index) => {
    const row = byIndex.get(index);
    return row ? start(row, 140) : "";
  };

  /* --- which rows, in which order --- */
  let haystack = null;
  function matches() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    // Lower-cased once, when someone first searches.
    if (words.length && !haystack) {
      haystack = all.map((row) => (row.text ? `${row.index} ${row.text.prompt}\n${row.text.chosen}\n${row.text.rejected}` : String(row.index)).toLowerCase());
    }
    return all.filter((row, at) => (!state.kind || row.kind === state.kind) && words.every((word) => haystack[at].includes(word)));
  }

  const sorters = { index: (row) => row.index, kind: (row) => Object.keys(caseNames).indexOf(row.kind), text: (row) => start(row, 60).toLowerCase() };
  function value(row) {
    const at = data.columns.findIndex((column) => column.key === state.key);
    return at >= 0 ? row.values[at] : sorters[state.key](row);
  }

  function refresh() {
    found = matches();
    if (state.key) {
      const sign = state.up ? 1 : -1;
      const keyed = found.map((row) => [value(row), row]);
      // Pairs without a value come last in either direction; equals keep the order of harm.
      keyed.sort(([a, p], [b, q]) => {
        if (a === null || b === null) return (a === null) - (b === null) || p.rank - q.rank;
        return sign * (a < b ? -1 : a > b ? 1 : 0) || p.rank - q.rank;
      });
      found = keyed.map(([, row]) => row);
    }
    state.page = Math.min(state.page, Math.max(0, Math.ceil(found.length / pageSize) - 1));
    draw();
  }

  /* --- the table --- */
  const search = element("input", { type: "search", id: "pairs-search", placeholder: "words in the text, or an index", autocomplete: "off" });
  const kinds = element("select", { id: "pairs-case" });
  const count = element("p", { class: "count", role: "status" });
  const head = element("tr");
  const body = element("tbody");
  const previous = element("button", { type: "button" }, "Previous");
  const next = element("button", { type: "button" }, "Next");
  const table = element("table", { class: "pairs" });

  function heading(key, name, title) {
    const cell = element("th", { scope: "col", "data-key": key });
    const button = element("button", { type: "button", title }, name);
    button.append(element("span", { class: "arrow", "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      // Numbers first show their largest, text its beginning.
      const firstUp = key === "index" || key === "text" || key === "kind";
      state.up = state.key === key ? !state.up : firstUp;
      state.key = key;
      state.page = 0;
      refresh();
      live.textContent = `sorted by ${name}, ${state.up ? "ascending" : "descending"}`;
    });
    cell.append(button);
    return cell;
  }

  function build() {
    const tools = element("div", { class: "tools" });
    const label = element("label", { for: "pairs-search" }, "Search");
    tools.append(label, search);
    const present = Object.keys(caseNames).filter((kind) => all.some((row) => row.kind === kind));
    if (present.length > 1) {
      kinds.append(element("option", { value: "" }, "all cases"));
      present.forEach((kind) => kinds.append(element("option", { value: kind }, caseNames[kind])));
      tools.append(element("label", { for: "pairs-case" }, "Case"), kinds);
    }
    tools.append(count);
    head.append(heading("index", "pair", "row of the data set"));
    if (data.texts.some(Boolean)) head.append(heading("text", "text", "start of the prompt"));
    if (present.length) head.append(heading("kind", "case", "what a small step on the pair alone would do"));
    data.columns.forEach((column) => head.append(heading(column.key, column.name, column.title)));
    const top = element("thead");
    top.append(head);
    table.append(top, body);
    const box = element("div", { class: "scroll pairs-scroll", role: "region", "aria-label": "Table of pairs" });
    box.append(table);
    const pager = element("div", { class: "pager" });
    pager.append(previous, next);
    view.append(tools, box, pager);
    let timer = 0;
    const look = () => { clearTimeout(timer); state.words = search.value; state.page = 0; refresh(); };
    search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 120); });
    search.addEventListener("keydown", (event) => { if (event.key === "Enter") look(); });
    kinds.addEventListener("change", () => { state.kind = kinds.value; state.page = 0; refresh(); });
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    body.addEventListener("keydown", walk);
  }

  function turn(by) {
    state.page += by;
    draw();
    table.parentNode.scrollTop = 0;
  }

  function draw() {
    const from = state.page * pageSize;
    const rows = found.slice(from, from + pageSize);
    body.replaceChildren(...rows.flatMap((row) => (open.has(row.index) ? [line(row), detail(row)] : [line(row)])));
    const to = from + rows.length;
    count.textContent = found.length ? `${from + 1}–${to} of ${found.length}${found.length < all.length ? ` found among ${all.length}` : " pairs"}` : "no pair matches";
    previous.disabled = from === 0;
    next.disabled = to >= found.length;
    for (const cell of head.children) {
      const own = cell.dataset.key === state.key;
      cell.setAttribute("aria-sort", own ? (state.up ? "ascending" : "descending") : "none");
      cell.querySelector(".arrow").textContent = own ? (state.up ? " ▲" : " ▼") : "";
    }
  }

  /* Four digits, also where they are zeros, so that a column reads evenly. */
  function cell(value) {
    const size = Math.abs(value);
    if (Number.isInteger(value) || size < 1e-3 || size >= 1e6) return Charts.number(value);
    return (size >= 1000 ? value.toFixed(0) : value.toPrecision(4)).replace("-", "−");
  }

  function line(row) {
    const node = element("tr", { tabindex: "0", "data-index": String(row.index), "aria-expanded": String(open.has(row.index)) });
    const first = element("th", { scope: "row" });
    first.append(element("span", { class: "twist", "aria-hidden": "true" }, open.has(row.index) ? "▾" : "▸"), ` ${row.index}`);
    node.append(first);
    if (data.texts.some(Boolean)) node.append(element("td", { class: "start" }, start(row, 60)));
    if (row.kind) {
      const kind = element("td", { class: "kind" });
      kind.append(element("span", { class: `key ${row.kind.replace("_", "-")}`, "aria-hidden": "true" }), caseNames[row.kind]);
      node.append(kind);
    } else if (head.querySelector("[data-key=kind]")) node.append(element("td"));
    row.values.forEach((one) => node.append(element("td", {}, one === null ? "" : cell(one))));
    node.addEventListener("click", () => toggle(row));
    return node;
  }

  function toggle(row) {
    if (!open.delete(row.index)) open.add(row.index);
    draw();
    focus(row.index);
  }

  function focus(index) {
    body.querySelector(`tr[data-index="${index}"]`)?.focus();
  }

  function walk(event) {
    const here = event.target.closest("tr[data-index]");
    if (!here || event.target !== here) return;
    const rows = [...body.querySelectorAll("tr[data-index]")];
    const at = rows.indexOf(here);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      toggle(byIndex.get(Number(here.dataset.index)));
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      rows[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    }
  }

  /* --- one pair in full --- */
  function detail(row) {
    const node = element("tr", { class: "detail" });
    const cell = element("td", { colspan: String(head.children.length) });
    const box = element("div", { class: "pair-text" });
    if (row.text) {
      if (row.text.prompt) box.append(element("p", { class: "prompt", dir: "auto" }, row.text.prompt));
      const [left, right] = difference(row.text.chosen, row.text.rejected);
      const sides = element("div", { class: "sides" });
      sides.append(side("chosen", left), side("rejected", right));
      box.append(sides);
    } else box.append(element("p", {}, "The text of this pair is not known."));
    if (data.maps.includes(row.index)) {
      box.append(element("a", { href: `#fig-tokens-${row.index}` }, "Heat map of its tokens’ gradients"));
    }
    cell.append(box);
    node.append(cell);
    return node;
  }

  function side(name, pieces) {
    const box = element("div", { class: `side ${name}` });
    const text = element("p", { class: "tokens", dir: "auto" });
    pieces.forEach(([words, own]) => text.append(own ? element("mark", {}, words) : words));
    box.append(element("h4", {}, name), text);
    return box;
  }

  /* Words of both texts, those outside their longest common subsequence marked. */
  function difference(a, b) {
    const [x, y] = [a, b].map((text) => text.match(/\s+|[^\s]+/g) || []);
    let from = 0, tail = 0;
    while (from < x.length && from < y.length && x[from] === y[from]) from++;
    while (tail < x.length - from && tail < y.length - from && x[x.length - 1 - tail] === y[y.length - 1 - tail]) tail++;
    const [p, q] = [x.slice(from, x.length - tail), y.slice(from, y.length - tail)];
    const width = q.length + 1;
    const longest = new Uint16Array((p.length + 1) * width);
    for (let i = p.length - 1; i >= 0; i--) {
      for (let j = q.length - 1; j >= 0; j--) {
        longest[i * width + j] = p[i] === q[j] ? longest[(i + 1) * width + j + 1] + 1 : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      }
    }
    const left = x.slice(0, from).map((w) => [w, false]), right = y.slice(0, from).map((w) => [w, false]);
    for (let i = 0, j = 0; i < p.length || j < q.length;) {
      if (i < p.length && j < q.length && p[i] === q[j]) { left.push([p[i++], false]); right.push([q[j++], false]); }
      else if (j >= q.length || (i < p.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) left.push([p[i++], true]);
      else right.push([q[j++], true]);
    }
    const end = x.slice(x.length - tail).map((w) => [w, false]);
    return [joined([...left, ...end]), joined([...right, ...end])];
  }

  /* Neighbours of one kind as one piece; a space alone is not worth a mark. */
  function joined(pieces) {
    const out = [];
    for (const [text, own] of pieces) {
      const last = out[out.length - 1];
      if (last && last[1] === own) last[0] += text;
      else if (last && own && !text.trim()) last[0] += text;
      else out.push([text, own]);
    }
    return out;
  }

  /* A point of a figure was chosen: show its pair, whatever the table shows now. */
  document.addEventListener("pair", (event) => {
    const row = byIndex.get(event.detail);
    if (!row) {
      live.textContent = `pair ${event.detail} is not among those in the table`;
      return;
    }
    Object.assign(state, { words: "", kind: "" });
    search.value = "";
    kinds.value = "";
    open.add(row.index);
    refresh();
    state.page = Math.floor(found.indexOf(row) / pageSize);
    draw();
    focus(row.index);
    body.querySelector(`tr[data-index="${row.index}"]`)?.scrollIntoView({ block: "center" });
  });

  build();
  refresh();
})();
