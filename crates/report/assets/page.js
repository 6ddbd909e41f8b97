/* Brings the page to life: theme, legends, keyboard, tables, downloads, printing. Without it the words, the key
   figures and the settings are still there. */
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const live = document.getElementById("live");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const charts = [];
  let printing = false;

  /* --- theme: auto follows the system, the button overrides it and is remembered where the browser lets us --- */
  const modes = ["auto", "light", "dark"];
  function recall() { try { return localStorage.getItem("unbraid-theme"); } catch { return null; } }
  function remember(mode) { try { localStorage.setItem("unbraid-theme", mode); } catch { /* private window: fine */ } }
  let mode = modes.includes(recall()) ? recall() : "auto";
  function theme() {
    if (printing) return "light";
    return mode === "auto" ? (dark.matches ? "dark" : "light") : mode;
  }
  const toggle = document.getElementById("theme");
  function applyTheme() {
    document.documentElement.dataset.theme = mode;
    toggle.textContent = `Theme: ${mode}`;
    charts.forEach(draw);
  }
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    mode = modes[(modes.indexOf(mode) + 1) % modes.length];
    remember(mode);
    applyTheme();
  });
  dark.addEventListener("change", applyTheme);

  /* --- charts --- */
  function element(tag, attributes = {}, text = "") {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    return node;
  }

  function draw(chart) {
    chart.instance.setOption(Charts.option(chart.panel, chart.table, theme(), chart.instance, false, chart.size), { notMerge: true });
    if (chart.ramp) chart.ramp.style.background = `linear-gradient(to right, ${Charts.palettes[theme()].diverging.join(", ")})`;
    for (const name of chart.hidden) chart.instance.dispatchAction({ type: "legendUnSelect", name });
    chart.buttons.forEach(paint);
  }

  /* The swatch shows what the line shows: colour and dash. */
  function paint({ button, series, panel }) {
    const ink = Charts.colour(series.role, Charts.palettes[theme()]);
    const swatch = button.firstChild;
    const filled = panel.kind !== "lines";
    swatch.style.borderTop = filled ? "none" : `3px ${series.dash === "dashed" ? "dashed" : "solid"} ${ink}`;
    swatch.style.background = filled ? ink : "none";
    swatch.classList.toggle("filled", filled);
    if (["scatter", "plane", "labelled"].includes(panel.kind)) swatch.classList.add(Charts.mark(series.role));
  }

  function legend(chart) {
    const box = element("div", { class: "legend", role: "group", "aria-label": `Series of ${chart.panel.title}` });
    // A single series without a meaning of its own needs no name: the heading has it.
    const [only, ...others] = chart.panel.series;
    if (!others.length && only.role === "plain") return box;
    for (const series of chart.panel.series.filter((one) => !one.faint)) {
      const button = element("button", { type: "button", "aria-pressed": "true" });
      button.append(element("span", { class: "swatch", "aria-hidden": "true" }), series.name);
      button.addEventListener("click", () => {
        const shown = chart.hidden.delete(series.name);
        if (!shown) chart.hidden.add(series.name);
        button.setAttribute("aria-pressed", String(shown));
        chart.instance.dispatchAction({ type: shown ? "legendSelect" : "legendUnSelect", name: series.name });
      });
      chart.buttons.push({ button, series, panel: chart.panel });
      box.append(button);
    }
    return box;
  }

  /* Arrow keys walk along the first series, or over the cells of a heat map, and say the values aloud. */
  function keyboard(chart, canvas) {
    const walks = { heatmap: overCells, labelled: overNames };
    const walk = (walks[chart.panel.kind] || alongSeries)(chart);
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Escape") chart.instance.dispatchAction({ type: "hideTip" });
      const stop = walk(event.key);
      if (!stop) return;
      event.preventDefault();
      chart.instance.dispatchAction({ type: "showTip", seriesIndex: stop.series, dataIndex: stop.at });
      live.textContent = stop.words;
    });
    canvas.addEventListener("blur", () => chart.instance.dispatchAction({ type: "hideTip" }));
  }

  function alongSeries(chart) {
    const { panel, table } = chart;
    const [first] = panel.series;
    const points = panel.kind === "scatter" || panel.kind === "plane";
    // What is drawn: points that are not finite are not. The plane has three drawings below its points.
    const stops = Charts.points(table, first, Charts.named[panel.kind]).filter((p) => !points || (Number.isFinite(p[0]) && Number.isFinite(p[1])));
    let at = -1;
    return (key) => {
      const jump = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: stops.length - 1 }[key];
      if (key === "Enter" && points && stops[at]?.length > 2) openPair(stops[at][2]);
      if (jump === undefined || !stops.length) return null;
      at = Math.min(Math.max(jump, 0), stops.length - 1);
      return { series: panel.kind === "plane" ? 3 : 0, at, words: spoken(chart, stops[at]) };
    };
  }

  /* Along the named points of all series. */
  function overNames({ panel, table }) {
    const stops = panel.series.flatMap((series, of) => Charts.labelledPoints(table, series).map((point, at) => ({
      series: of, at, words: `${series.name}, ${point.name}: ${panel.x_label} ${Charts.number(point.x)}, ${panel.y_label} ${Charts.number(point.y)}`,
    })));
    let at = -1;
    return (key) => {
      const jump = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: stops.length - 1 }[key];
      if (jump === undefined || !stops.length) return null;
      at = Math.min(Math.max(jump, 0), stops.length - 1);
      return stops[at];
    };
  }

  function overCells(chart) {
    const { rows, columns, cells } = Charts.matrix(chart.panel, chart.table);
    const find = new Map(cells.map((cell, at) => [cell[1] * columns.length + cell[0], at]));
    let x = -1, y = 0;
    return (key) => {
      const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key] || [0, 0];
      if (!dx && !dy) return null;
      x = Math.min(Math.max(x + dx, 0), columns.length - 1);
      y = Math.min(Math.max(y + dy, 0), rows.length - 1);
      const at = find.get(y * columns.length + x);
      const value = at === undefined ? "empty" : Charts.number(cells[at][3]);
      return { series: 0, at: at ?? 0, words: `row ${rows[y]}, column ${columns[x]}: ${value}` };
    };
  }

  function spoken(chart, [x, y, index]) {
    const { panel, table } = chart;
    if (index !== undefined) return `pair ${index}: ${panel.x_label} ${Charts.number(x)}, ${panel.y_label} ${Charts.number(y)}`;
    const values = panel.series.filter((one) => !one.faint).map((series) => {
      const hit = Charts.points(table, series, Charts.named[panel.kind]).find((p) => p[0] === x);
      return hit ? `${series.name} ${Charts.number(hit[1], panel.percent)}` : "";
    });
    return `${panel.x_label} ${typeof x === "number" ? Charts.number(x) : x}: ${values.filter(Boolean).join(", ")}`;
  }

  /* pairs.js listens. */
  function openPair(index) {
    document.dispatchEvent(new CustomEvent("pair", { detail: index }));
  }

  /* The colours of a heat map with their values; the scale is that of the square root. */
  function ramp(chart) {
    const box = element("div", { class: "ramp", role: "img", "aria-label": "Colour scale from −1 (blue) over 0 to 1 (orange)" });
    chart.ramp = element("div", { class: "ramp-colours" });
    const ticks = element("div", { class: "ramp-ticks", "aria-hidden": "true" });
    for (const tick of ["−1", "−0.25", "0", "0.25", "1"]) ticks.append(element("span", {}, tick));
    box.append(chart.ramp, ticks);
    return box;
  }

  /* Height that the panel's content asks for; 0 where the style sheet's will do. */
  function height(panel, table) {
    const count = Charts.named[panel.kind] ? Charts.names(panel, table).length : 0;
    if (panel.kind === "bars") return 70 + 26 * count * Math.max(1, panel.series.length);
    if (panel.kind === "stackedbars") return 60 + 22 * count;
    return panel.kind === "plane" || panel.kind === "labelled" ? 440 : 0;
  }

  function mount(figure, root, table, panel, alone) {
    const heat = panel.kind === "heatmap";
    const cell = element("div", { class: "panel" });
    cell.append(element("h3", {}, panel.title), element("p", { class: "unit" }, panel.y_label));
    const names = panel.series.filter((one) => !one.faint).map((series) => series.name).join(", ");
    const canvas = element("div", { class: "chart", tabindex: "0", role: "img", "aria-label": `${panel.title}: ${names}. Arrow keys read the values; the numbers follow as a table.` });
    const chart = { panel, table, canvas, alone, buttons: [], hidden: new Set() };
    root.append(cell);
    if (heat) {
      const holder = element("div", { class: "roomy" });
      holder.append(canvas);
      cell.append(ramp(chart), holder);
      chart.size = Charts.heatSize(panel, table, cell.clientWidth);
      Object.assign(canvas.style, { width: `${chart.size.width}px`, height: `${chart.size.height}px` });
    } else {
      cell.append(legend(chart), canvas);
      if (height(panel, table)) canvas.style.height = `${height(panel, table)}px`;
    }
    chart.instance = echarts.init(canvas, null, { renderer: Charts.renderer(panel, table) });
    draw(chart);
    keyboard(chart, canvas);
    chart.instance.on("click", (hit) => { if (Array.isArray(hit.value) && hit.value.length > 2 && !heat) openPair(hit.value[2]); });
    charts.push(chart);
    // A print is laid out by beforeprint: the observer would come too late and put the old size back.
    chart.observer = new ResizeObserver(() => { if (!printing) chart.instance.resize(); });
    chart.observer.observe(canvas);
  }

  function unmount(chart) {
    chart.observer.disconnect();
    chart.instance.dispose();
    charts.splice(charts.indexOf(chart), 1);
  }

  /* One panel at a time, or those of one tab: tabs for a few, a list for many. */
  function mountChoice(figure, root, table) {
    const box = root.querySelector(".panels");
    const tabOf = (panel) => panel.tab ?? panel.title;
    const titles = [...new Set(figure.panels.map(tabOf))];
    const groups = titles.map((title) => figure.panels.filter((panel) => tabOf(panel) === title));
    const many = titles.length > 6;
    root.toggleAttribute("data-grouped", groups.some((panels) => panels.length > 1));
    let current = 0;
    const show = (at) => {
      charts.filter((chart) => box.contains(chart.canvas)).forEach(unmount);
      box.replaceChildren();
      groups[at].forEach((panel) => mount(figure, box, table, panel, groups[at].length === 1));
      current = at;
    };
    if (!many) box.setAttribute("role", "tabpanel");
    if (groups.length > 1) box.before(many ? choiceList(titles, show) : tabs(titles, show));
    show(0);
    return () => groups[current];
  }

  function choiceList(titles, show) {
    const label = element("label", { class: "choice" }, "Show ");
    const list = element("select");
    titles.forEach((title, at) => list.append(element("option", { value: String(at) }, title)));
    list.addEventListener("change", () => show(Number(list.value)));
    label.append(list);
    return label;
  }

  function tabs(titles, show) {
    const row = element("div", { class: "tabs", role: "tablist" });
    const buttons = titles.map((title) => element("button", { type: "button", role: "tab" }, title));
    const select = (at) => {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-selected", String(i === at));
        button.tabIndex = i === at ? 0 : -1;
      });
      show(at);
    };
    buttons.forEach((button, at) => {
      button.addEventListener("click", () => select(at));
      button.addEventListener("keydown", (event) => {
        const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
        if (next === undefined) return;
        event.preventDefault();
        const to = (next + buttons.length) % buttons.length;
        select(to);
        buttons[to].focus();
      });
      button.setAttribute("aria-selected", String(at === 0));
      button.tabIndex = at === 0 ? 0 : -1;
      row.append(button);
    });
    return row;
  }

  /* --- numbers: table and files --- */
  function save(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = element("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function drawing(option, width, height) {
    const instance = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
    instance.setOption(option(instance));
    const text = instance.renderToSVGString();
    instance.dispose();
    return text;
  }

  /* The shown panels under each other in one drawing, on a light ground. */
  function svg(panels, table) {
    let width = 720, total = 0;
    const parts = panels.map((panel) => {
      const size = panel.kind === "heatmap" ? Charts.heatSize(panel, table, 700) : null;
      const wide = size ? Math.max(720, size.width) : 720;
      const tall = size ? size.height + 60 : Math.max(400, height(panel, table) + 80);
      const text = drawing((instance) => Charts.option(panel, table, "light", instance, true, size), wide, tall).replace("<svg ", `<svg y="${total}" `);
      width = Math.max(width, wide);
      total += tall;
      return text;
    });
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${total}" viewBox="0 0 ${width} ${total}">${parts.join("")}</svg>`;
  }

  function fillTable(box, table, name) {
    const node = element("table");
    node.append(element("caption", {}, name));
    const head = node.createTHead().insertRow();
    table.header.forEach((key) => head.append(element("th", { scope: "col" }, key)));
    const body = node.createTBody();
    for (const row of table.rows) {
      const line = body.insertRow();
      row.forEach((value) => { line.insertCell().textContent = value; });
    }
    box.replaceChildren(node);
  }

  for (const figure of figures) {
    const root = document.getElementById(`fig-${figure.id}`);
    const table = Charts.parseCsv(figure.csv);
    const name = root.querySelector("h2").textContent;
    const alone = figure.panels.length === 1;
    let shown = () => figure.panels;
    if ("tabs" in root.dataset) shown = mountChoice(figure, root, table);
    else for (const panel of figure.panels) mount(figure, root.querySelector(".panels"), table, panel, alone);
    const file = `${document.body.dataset.stem}-${figure.id}`;
    root.querySelector("[data-save=csv]").addEventListener("click", () => save(`${file}.csv`, "text/csv", figure.csv));
    root.querySelector("[data-save=svg]").addEventListener("click", () => save(`${file}.svg`, "image/svg+xml", svg(shown(), table)));
    const numbers = root.querySelector("details.numbers");
    // Filled when first opened: a hidden table of a thousand rows would cost every reader.
    numbers.addEventListener("toggle", () => {
      const box = numbers.querySelector(".scroll");
      if (numbers.open && !box.firstChild) fillTable(box, table, name);
    });
  }

  /* --- printing: light, drawn for half or whole paper width and scaled to it by the style sheet --- */
  function toPaper(chart) {
    const width = chart.alone ? 680 : 335;
    const height = ["bars", "stackedbars", "plane", "labelled"].includes(chart.panel.kind) ? chart.canvas.clientHeight : 220;
    // A canvas would be coarse on paper, and its layers would come to lie below each other; a heat map may be too wide.
    if (chart.size || !chart.canvas.querySelector("svg")) {
      const { panel, table, size, hidden } = chart;
      const shown = hidden.size ? { ...panel, series: panel.series.filter((series) => !hidden.has(series.name)) } : panel;
      chart.paper = element("div", { class: "paper" });
      chart.paper.innerHTML = drawing((instance) => Charts.option(shown, table, "light", instance, false, size), size?.width ?? width, size?.height ?? height);
      chart.canvas.after(chart.paper);
      chart.canvas.hidden = true;
      return;
    }
    chart.instance.resize({ width, height });
    chart.canvas.querySelector("svg")?.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  function toScreen(chart) {
    if (chart.paper) {
      chart.paper.remove();
      chart.paper = null;
      chart.canvas.hidden = false;
      return;
    }
    chart.canvas.querySelector("svg")?.removeAttribute("viewBox");
    chart.instance.resize({ width: "auto", height: "auto" });
  }

  function print(on) {
    printing = on;
    // Only drawing flushes at once: a resize alone would reach the paper a frame too late.
    charts.forEach((chart) => { (on ? toPaper : toScreen)(chart); draw(chart); });
  }
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));

  applyTheme();
})();
