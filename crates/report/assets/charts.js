/* Draws a figure: a panel's description and its numbers become an ECharts option. Nothing here touches the page.
   The description is written by crates/report/src/figure.rs; the numbers are the CSV text that the reader can save. */
"use strict";
const Charts = (() => {
  // Okabe–Ito and Tol hues, shifted for contrast on either ground; dash and mark tell series apart without colour.
  const palettes = {
    light: {
      ink: "#1d2430", soft: "#5b6472", rule: "#d9dee6", ground: "#ffffff",
      chosen: "#0063a8", rejected: "#c94f00", margin: "#00805e", plain: "#4a5364",
      ideal: "#2a8f5b", both_fall: "#8b2f62", both_rise: "#d9bd57", other: "#b4bac4",
      runs: ["#0063a8", "#c94f00", "#00805e", "#a8487f", "#8a6d00", "#3d8fc9", "#5b6472", "#6a4fb0"],
    },
    dark: {
      ink: "#e8ebf0", soft: "#a5adba", rule: "#39414e", ground: "#171b22",
      chosen: "#5cb3f0", rejected: "#f58f4a", margin: "#3ecfa4", plain: "#c3cad6",
      ideal: "#3fae78", both_fall: "#c2608f", both_rise: "#e6cf78", other: "#6b7482",
      runs: ["#5cb3f0", "#f58f4a", "#3ecfa4", "#e08fc0", "#d8bd4a", "#9ad0f5", "#a5adba", "#b09cf0"],
    },
  };
  const marks = { chosen: "circle", rejected: "triangle", margin: "diamond" };
  const runMarks = ["circle", "triangle", "diamond", "rect", "pin", "arrow", "roundRect", "emptyCircle"];
  // More points than this go to a canvas: one SVG element a point would make the page slow.
  const svgLimit = 2000;

  /* RFC 4180 text → { header: [...], rows: [[...]] }, all cells as text. */
  function parseCsv(text) {
    const lines = [];
    let row = [], cell = "", quoted = false;
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (quoted) {
        if (c !== '"') cell += c;
        else if (text[i + 1] === '"') { cell += '"'; i++; }
        else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") { row.push(cell); cell = ""; }
      else if (c === "\n") { row.push(cell); lines.push(row); row = []; cell = ""; }
      else cell += c;
    }
    const [header, ...rows] = lines;
    return { header, rows };
  }

  /* [x, y] of the rows that belong to the series. Empty cells are left out, `nan` stays as a gap. */
  function points(table, series, named) {
    const at = (name) => table.header.indexOf(name);
    const x = at(series.x), y = at(series.y);
    const labels = Object.entries(series.rows).map(([name, value]) => [at(name), value]);
    const out = [];
    for (const row of table.rows) {
      if (!labels.every(([index, value]) => row[index] === value)) continue;
      if (row[x] === "" || row[y] === "") continue;
      out.push([named ? row[x] : Number(row[x]), row[y] === "nan" ? NaN : Number(row[y])]);
    }
    return out;
  }

  /* Centred mean over `width` rows, fewer at both ends, gaps left out. */
  function movingMean(data, width) {
    const half = Math.floor(width / 2);
    return data.map(([x], i) => {
      const near = data.slice(Math.max(0, i - half), i + half + 1).map((p) => p[1]).filter(Number.isFinite);
      return [x, near.length ? near.reduce((a, b) => a + b, 0) / near.length : NaN];
    });
  }

  function colour(role, palette) {
    return typeof role === "object" ? palette.runs[role.run % palette.runs.length] : palette[role];
  }

  function mark(role) {
    return typeof role === "object" ? runMarks[role.run % runMarks.length] : marks[role] || "rect";
  }

  /* Four significant digits, with a real minus sign. */
  function number(value, percent) {
    if (!Number.isFinite(value)) return "not finite";
    if (percent) return `${trimmed(100 * value, 3)} %`.replace("-", "−");
    return trimmed(value, 4).replaceAll("-", "−");
  }

  function trimmed(value, digits) {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 2).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(digits)));
  }

  function lineSeries(panel, series, table, palette) {
    const ink = colour(series.role, palette);
    const stacked = panel.kind === "stack";
    let data = points(table, series);
    const raw = data;
    const smooth = series.smooth > 1 && data.length > series.smooth;
    if (smooth) data = movingMean(data, series.smooth);
    const few = data.length <= 40;
    const main = {
      type: "line", name: series.name, data, color: ink, animation: false,
      symbol: mark(series.role), symbolSize: few ? 6 : 4, showSymbol: !stacked && (few || series.dash === "dashed" && data.length <= 80),
      lineStyle: { width: stacked ? 1 : 2, type: series.dash === "dashed" ? [6, 4] : "solid" },
      emphasis: { disabled: true },
    };
    if (stacked) {
      Object.assign(main, { stack: "all", areaStyle: { opacity: 0.9 }, showSymbol: data.length === 1, lineStyle: { width: 0.5, color: palette.ground } });
      return [main];
    }
    if (!smooth) return [main];
    // The mean leads the eye; the tooltip tells the recorded value.
    Object.assign(main, { showSymbol: false, tooltip: { show: false } });
    const faint = { ...main, data: raw, lineStyle: { width: 1, opacity: raw.length > 300 ? 0.18 : 0.35, type: main.lineStyle.type }, tooltip: { show: true }, z: 1 };
    return [faint, main];
  }

  function scatterSeries(series, table, palette) {
    const data = points(table, series).filter((p) => p.every(Number.isFinite));
    return {
      type: "scatter", name: series.name, data, color: colour(series.role, palette), symbol: mark(series.role),
      symbolSize: data.length > 500 ? 4 : 7, itemStyle: { opacity: data.length > 200 ? 0.45 : 0.75 }, animation: false,
    };
  }

  /* The stretch of y = x that both axes show; without overlap there is none. */
  function diagonal(all, palette) {
    const range = (k) => all.map((p) => p[k]).reduce(([lo, hi], v) => [Math.min(lo, v), Math.max(hi, v)], [0, 0]);
    const [x, y] = [range(0), range(1)];
    const lo = Math.max(x[0], y[0]), hi = Math.min(x[1], y[1]);
    return {
      type: "line", name: "prediction = reality", data: [[lo, lo], [hi, hi]], symbol: "none", silent: true, animation: false,
      lineStyle: { type: [4, 4], width: 1.5, color: palette.soft }, color: palette.soft, tooltip: { show: false }, z: 1,
    };
  }

  function barSeries(panel, series, table, palette) {
    return {
      type: "bar", name: series.name, data: points(table, series, true).map(([name, value]) => [value, name]), barMaxWidth: 18, animation: false,
      color: colour(series.role, palette), encode: { x: 0, y: 1 },
      label: { show: true, position: "right", color: palette.soft, formatter: (p) => number(p.value[0], panel.percent) },
    };
  }

  function drawn(panel, table, palette) {
    if (panel.kind === "scatter") {
      const clouds = panel.series.map((series) => scatterSeries(series, table, palette));
      const all = clouds.flatMap((cloud) => cloud.data);
      return panel.guide && all.length ? [...clouds, diagonal(all, palette)] : clouds;
    }
    if (panel.kind === "bars") return panel.series.map((series) => barSeries(panel, series, table, palette));
    const lines = panel.series.flatMap((series) => lineSeries(panel, series, table, palette));
    if (panel.guide && lines.length) {
      lines[0].markLine = { silent: true, symbol: "none", label: { show: false }, animation: false, data: [{ yAxis: 0 }], lineStyle: { color: palette.soft, type: "solid", width: 1 } };
    }
    return lines;
  }

  function axes(panel, table, palette) {
    const common = {
      axisLine: { show: true, lineStyle: { color: palette.rule } }, axisTick: { show: false },
      axisLabel: { color: palette.soft, hideOverlap: true }, splitLine: { show: true, lineStyle: { color: palette.rule, opacity: 0.6 } },
      nameTextStyle: { color: palette.soft }, nameLocation: "middle",
    };
    const label = (value) => number(value, panel.percent);
    const value = { ...common, type: "value", axisLabel: { ...common.axisLabel, formatter: label } };
    // A single step still needs a stretch of axis around it.
    const from = (seen) => (seen.min === seen.max ? seen.min - 1 : seen.min);
    const to = (seen) => (seen.min === seen.max ? seen.max + 1 : seen.max);
    const steps = { ...common, type: "value", scale: true, splitLine: { show: false }, name: panel.x_label, nameGap: 26, minInterval: 1 };
    switch (panel.kind) {
      case "bars": {
        const names = [...new Set(panel.series.flatMap((series) => points(table, series, true).map((p) => p[0])))];
        const wide = { ...common, type: "category", data: names, inverse: true, splitLine: { show: false }, axisLabel: { color: palette.ink, width: 110, overflow: "truncate" } };
        return { x: { ...value, name: panel.x_label, nameGap: 26, splitNumber: 3 }, y: wide };
      }
      case "scatter":
        return { x: { ...value, scale: true, name: panel.x_label, nameGap: 26, splitNumber: 4 }, y: { ...value, scale: true } };
      case "stack":
        return { x: { ...steps, min: from, max: to }, y: { ...value, min: 0, max: 1 } };
      default:
        return { x: { ...steps, min: from, max: to }, y: panel.percent ? { ...value, min: 0, max: 1 } : { ...value, scale: !panel.guide } };
    }
  }

  /* Lines that the legend of a saved drawing (720 wide) takes, from the length of its names. */
  function legendRows(panel) {
    const width = panel.series.reduce((sum, series) => sum + 46 + 7 * series.name.length, 0);
    return Math.ceil(width / 690);
  }

  /* The option for one panel. `standalone` adds title and legend, which the page otherwise writes in HTML. */
  function option(panel, table, theme, standalone) {
    const palette = palettes[theme];
    const { x, y } = axes(panel, table, palette);
    const series = drawn(panel, table, palette);
    const flat = panel.kind === "lines" || panel.kind === "stack";
    return {
      animation: false, backgroundColor: standalone ? palette.ground : "transparent",
      textStyle: { fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", color: palette.ink },
      title: standalone ? { text: panel.title, subtext: panel.y_label, left: 12, top: 6, textStyle: { fontSize: 15, color: palette.ink }, subtextStyle: { color: palette.soft } } : undefined,
      legend: { show: Boolean(standalone), top: 50, left: 8, textStyle: { color: palette.ink }, data: [...new Set(panel.series.map((one) => one.name))] },
      grid: { left: 6, right: 20, top: standalone ? 56 + 24 * legendRows(panel) : 12, bottom: 6, outerBoundsMode: "same", outerBoundsContain: "all" },
      xAxis: x, yAxis: y, series,
      tooltip: {
        show: !standalone, trigger: flat ? "axis" : "item", confine: true, transitionDuration: 0,
        backgroundColor: palette.ground, borderColor: palette.rule, textStyle: { color: palette.ink, fontSize: 13 },
        axisPointer: { type: "line", label: { show: false }, lineStyle: { color: palette.soft } },
        formatter: (hit) => tooltip(panel, Array.isArray(hit) ? hit : [hit]),
      },
    };
  }

  function tooltip(panel, hits) {
    const escape = echarts.format.encodeHTML;
    const [first] = hits;
    if (panel.kind === "scatter") {
      return `${first.marker}${escape(first.seriesName)}<br>${escape(panel.x_label)}: <b>${number(first.value[0])}</b><br>${escape(panel.y_label)}: <b>${number(first.value[1])}</b>`;
    }
    if (panel.kind === "bars") return `${first.marker}${escape(first.seriesName)}, ${escape(String(first.value[1]))}: <b>${number(first.value[0], panel.percent)}</b>`;
    const lines = hits.map((hit) => `${hit.marker}${escape(hit.seriesName)}: <b>${number(hit.value[1], panel.percent)}</b>`);
    return [`step ${first.value[0]}`, ...lines].join("<br>");
  }

  function renderer(panel, table) {
    return panel.kind === "scatter" && table.rows.length * panel.series.length > svgLimit ? "canvas" : "svg";
  }

  return { palettes, parseCsv, points, number, colour, option, renderer };
})();
