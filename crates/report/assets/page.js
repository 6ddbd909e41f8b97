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
    chart.instance.setOption(Charts.option(chart.panel, chart.table, theme()), { notMerge: true });
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
  }

  function legend(chart) {
    const box = element("div", { class: "legend", role: "group", "aria-label": `Series of ${chart.panel.title}` });
    for (const series of chart.panel.series) {
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

  /* Arrow keys walk along the first series and say the values aloud. */
  function keyboard(chart, canvas) {
    const stops = Charts.points(chart.table, chart.panel.series[0], chart.panel.kind === "bars");
    let at = -1;
    canvas.addEventListener("keydown", (event) => {
      const jump = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: stops.length - 1 }[event.key];
      if (event.key === "Escape") chart.instance.dispatchAction({ type: "hideTip" });
      if (jump === undefined || !stops.length) return;
      event.preventDefault();
      at = Math.min(Math.max(jump, 0), stops.length - 1);
      chart.instance.dispatchAction({ type: "showTip", seriesIndex: 0, dataIndex: at });
      live.textContent = spoken(chart, stops[at][0]);
    });
    canvas.addEventListener("blur", () => chart.instance.dispatchAction({ type: "hideTip" }));
  }

  function spoken(chart, x) {
    const values = chart.panel.series.map((series) => {
      const hit = Charts.points(chart.table, series, chart.panel.kind === "bars").find((p) => p[0] === x);
      return hit ? `${series.name} ${Charts.number(hit[1], chart.panel.percent)}` : "";
    });
    return `${chart.panel.x_label} ${typeof x === "number" ? Charts.number(x) : x}: ${values.filter(Boolean).join(", ")}`;
  }

  function mount(figure, root, table, panel) {
    const cell = element("div", { class: "panel" });
    cell.append(element("h3", {}, panel.title), element("p", { class: "unit" }, panel.y_label));
    const names = panel.series.map((series) => series.name).join(", ");
    const canvas = element("div", { class: "chart", tabindex: "0", role: "img", "aria-label": `${panel.title}: ${names}. Arrow keys read the values; the numbers follow as a table.` });
    if (panel.kind === "bars") canvas.style.height = `${70 + 26 * table.rows.length * Math.max(1, panel.series.length)}px`;
    const chart = { panel, table, canvas, alone: figure.panels.length === 1, buttons: [], hidden: new Set() };
    cell.append(legend(chart), canvas);
    root.append(cell);
    chart.instance = echarts.init(canvas, null, { renderer: Charts.renderer(panel, table) });
    draw(chart);
    keyboard(chart, canvas);
    charts.push(chart);
    // A print is laid out by beforeprint: the observer would come too late and put the old size back.
    new ResizeObserver(() => { if (!printing) chart.instance.resize(); }).observe(canvas);
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

  /* All panels under each other in one drawing, on a light ground. */
  function svg(figure, table) {
    const width = 720, height = 400;
    const parts = figure.panels.map((panel, i) => {
      const instance = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
      instance.setOption(Charts.option(panel, table, "light", true));
      const text = instance.renderToSVGString();
      instance.dispose();
      return text.replace("<svg ", `<svg y="${i * height}" `);
    });
    const total = height * figure.panels.length;
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
    for (const panel of figure.panels) mount(figure, root.querySelector(".panels"), table, panel);
    const file = `${document.body.dataset.stem}-${figure.id}`;
    root.querySelector("[data-save=csv]").addEventListener("click", () => save(`${file}.csv`, "text/csv", figure.csv));
    root.querySelector("[data-save=svg]").addEventListener("click", () => save(`${file}.svg`, "image/svg+xml", svg(figure, table)));
    const numbers = root.querySelector("details.numbers");
    // Filled when first opened: a hidden table of a thousand rows would cost every reader.
    numbers.addEventListener("toggle", () => {
      const box = numbers.querySelector(".scroll");
      if (numbers.open && !box.firstChild) fillTable(box, table, name);
    });
  }

  /* --- printing: light, drawn for half or whole paper width and scaled to it by the style sheet --- */
  function toPaper(chart) {
    const width = chart.alone ? 680 : 335, height = chart.panel.kind === "bars" ? chart.canvas.clientHeight : 220;
    chart.instance.resize({ width, height });
    chart.canvas.querySelector("svg")?.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  function toScreen(chart) {
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
