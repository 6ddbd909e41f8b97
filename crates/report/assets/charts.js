/* Draws a figure: a panel's description and its numbers become an ECharts option. Nothing here touches the page.
   The description is written by crates/report/src/figure.rs; the numbers are the CSV text that the reader can save. */
"use strict";
const Charts = (() => {
  // Okabe–Ito and Tol hues, shifted for contrast on either ground; dash and mark tell series apart without colour.
  const palettes = {
    light: {
      ink: "#1d2430", soft: "#5b6472", rule: "#d9dee6", ground: "#ffffff",
      chosen: "#0063a8", rejected: "#c94f00", margin: "#00805e", plain: "#4a5364",
      ideal: "#2a8f5b", both_fall: "#8b2f62", both_rise: "#d9bd57", reversed: "#3b4a63", other: "#b4bac4",
      diverging: ["#08457e", "#3f7fb8", "#9cc3e2", "#f4f4f1", "#f3b98a", "#d06f24", "#8c3600"],
      runs: ["#0063a8", "#c94f00", "#00805e", "#a8487f", "#8a6d00", "#3d8fc9", "#5b6472", "#6a4fb0"],
    },
    dark: {
      ink: "#e8ebf0", soft: "#a5adba", rule: "#39414e", ground: "#171b22",
      chosen: "#5cb3f0", rejected: "#f58f4a", margin: "#3ecfa4", plain: "#c3cad6",
      ideal: "#3fae78", both_fall: "#c2608f", both_rise: "#e6cf78", reversed: "#93a9d1", other: "#6b7482",
      diverging: ["#8fd0ff", "#4a9ad6", "#28567c", "#1f242d", "#7d4a1e", "#d9812f", "#ffc48a"],
      runs: ["#5cb3f0", "#f58f4a", "#3ecfa4", "#e08fc0", "#d8bd4a", "#9ad0f5", "#a5adba", "#b09cf0"],
    },
  };
  const marks = { chosen: "circle", rejected: "triangle", margin: "diamond", ideal: "circle", both_fall: "triangle", both_rise: "diamond" };
  const runMarks = ["circle", "triangle", "diamond", "rect", "emptyCircle", "arrow", "roundRect", "pin"];
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

  const named = { bars: true, stackedbars: true, columns: true, stackedcolumns: true };

  /* [x, y] of the rows that belong to the series, and the pair's index where the table has one. Empty cells are left
     out, `nan` stays as a gap. */
  function points(table, series, named) {
    const at = (name) => table.header.indexOf(name);
    const x = at(series.x), y = at(series.y), index = at("index");
    const out = [];
    for (const row of rowsOf(table, series)) {
      if (row[x] === "" || row[y] === "") continue;
      const point = [named ? row[x] : Number(row[x]), row[y] === "nan" ? NaN : Number(row[y])];
      if (index >= 0) point.push(Number(row[index]));
      out.push(point);
    }
    return out;
  }

  /* The rows that have the labels of the series. */
  function rowsOf(table, series) {
    const labels = Object.entries(series.rows).map(([name, value]) => [table.header.indexOf(name), value]);
    return table.rows.filter((row) => labels.every(([index, value]) => row[index] === value));
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
    if (size === 0 || (size >= 1e-4 && size < 1e6)) return String(Number(value.toPrecision(digits)));
    const [digit, power] = value.toExponential(digits - 2).split("e");
    return `${Number(digit)}×10${[...power].map((c) => raised[c] ?? "").join("")}`;
  }
  const raised = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

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
    // One seed behind its mean: the tooltip tells the mean.
    if (series.faint) Object.assign(main, { showSymbol: false, symbol: "none", tooltip: { show: false }, z: 1, lineStyle: { ...main.lineStyle, width: 1, opacity: 0.45 } });
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

  /* The value is written beyond the bar's end, on whichever side of zero that is. */
  const barDatum = ([name, value]) => ({ value: [value, name], label: { position: value < 0 ? "left" : "right" } });

  function barSeries(panel, series, table, palette) {
    return {
      type: "bar", name: series.name, data: points(table, series, true).map(barDatum), barMaxWidth: 18, animation: false,
      color: colour(series.role, palette), encode: { x: 0, y: 1 },
      label: { show: true, color: palette.soft, formatter: (p) => number(p.value[0], panel.percent) },
    };
  }

  /* --- bars, columns, histograms --- */

  /* Names on the axis of the panel, in the order of their first appearance. */
  function names(panel, table) {
    return [...new Set(panel.series.flatMap((series) => points(table, series, true).map((p) => p[0])))];
  }

  function stackedBar(panel, series, table, palette) {
    const upright = panel.kind !== "stackedbars";
    const data = points(table, series, true).map(([name, value]) => (upright ? [name, value] : [value, name]));
    return {
      type: "bar", name: series.name, data, animation: false, color: colour(series.role, palette),
      stack: panel.kind === "columns" ? undefined : "all", barMaxWidth: upright ? 40 : 16, barGap: "0%", barCategoryGap: upright ? "28%" : "22%",
      itemStyle: panel.kind === "columns" ? {} : { borderColor: palette.ground, borderWidth: 0.5 }, emphasis: { disabled: true },
    };
  }

  function histogram(series, table, palette) {
    const data = points(table, series);
    return {
      type: "bar", name: series.name, data, animation: false, color: colour(series.role, palette), stack: "all",
      barCategoryGap: "0%", itemStyle: { borderColor: palette.ground, borderWidth: 0.5 }, emphasis: { disabled: true },
    };
  }

  /* --- the plane of pairs --- */
  const bend = (panel, v) => (panel.asinh ? Math.asinh(2 * v) : v);
  const unbend = (panel, t) => (panel.asinh ? Math.sinh(t) / 2 : t);

  /* Range of one coordinate as it is drawn, always with the condition's line at 1 inside. */
  function range(panel, table, k) {
    const all = panel.series.flatMap((series) => points(table, series).map((p) => bend(panel, p[k]))).filter(Number.isFinite);
    const lo = all.reduce((a, b) => Math.min(a, b), bend(panel, 0.9)), hi = all.reduce((a, b) => Math.max(a, b), bend(panel, 1.1));
    const pad = 0.05 * (hi - lo);
    return [lo - pad, hi + pad];
  }

  function planeTicks(panel, [lo, hi]) {
    if (!panel.asinh) return undefined;
    const sizes = [0.3, 1, 3, 10, 30, 100, 1000, 1e4, 1e5, 1e6];
    const ticks = [...sizes.map((v) => -v).reverse(), 0, ...sizes].map((v) => bend(panel, v)).filter((t) => t >= lo && t <= hi);
    return ticks;
  }

  function plane(panel, table, palette) {
    const [xs, ys] = [range(panel, table, 0), range(panel, table, 1)];
    const one = bend(panel, 1);
    const clouds = panel.series.map((series) => {
      const cloud = scatterSeries(series, table, palette);
      cloud.data = cloud.data.map(([x, y, index]) => [bend(panel, x), bend(panel, y), index, x, y]);
      return { ...cloud, z: 3, cursor: "pointer" };
    });
    const total = clouds.reduce((sum, cloud) => sum + cloud.data.length, 0);
    clouds.forEach((cloud) => Object.assign(cloud, { symbolSize: total > 1500 ? 5 : total > 100 ? 7 : 10, itemStyle: { opacity: total > 1500 ? 0.55 : 0.8 } }));
    const area = (name, role, from, to, position) => [
      { coord: from, itemStyle: { color: palette[role], opacity: 0.1 }, label: { show: true, formatter: name, position, color: palette.soft, fontSize: 13, fontStyle: "italic", distance: 8 } },
      { coord: to },
    ];
    const [left, right] = xs, [low, high] = ys;
    const areas = [
      area("ideal", "ideal", [left, low], [one, one], "insideTopLeft"),
      area("both fall", "both_fall", [one, low], [right, one], "insideBottomRight"),
      area("both rise", "both_rise", [left, one], [one, high], "insideTopLeft"),
    ];
    const ground = {
      type: "line", name: "conditions", data: [], silent: true, animation: false, z: 1, tooltip: { show: false },
      markArea: { silent: true, animation: false, data: areas },
      markLine: { silent: true, symbol: "none", animation: false, label: { show: false }, lineStyle: { color: palette.ink, width: 1.5, type: "solid" }, data: [{ xAxis: one }, { yAxis: one }] },
    };
    return [ground, bound(panel, palette, xs, ys, 1), bound(panel, palette, xs, ys, -1), ...clouds];
  }

  /* x·y = 1 where x and y have one sign; beyond it no pair can lie. */
  function bound(panel, palette, xs, ys, sign) {
    const side = [xs, ys].map(([lo, hi]) => unbend(panel, sign > 0 ? hi : lo) * sign);
    const data = [];
    if (side[0] > 0 && side[1] > 0 && side[0] * side[1] > 1) {
      const steps = 160, from = Math.log(1 / side[1]), to = Math.log(side[0]);
      for (let i = 0; i <= steps; i++) {
        const x = Math.exp(from + ((to - from) * i) / steps);
        data.push([bend(panel, sign * x), bend(panel, sign / x)]);
      }
      if (sign < 0) data.reverse();
    }
    return {
      type: "line", name: "bound", data, symbol: "none", silent: true, animation: false, z: 1, tooltip: { show: false },
      lineStyle: { color: palette.soft, width: 1, type: [3, 3] }, areaStyle: { origin: sign > 0 ? "end" : "start", color: palette.soft, opacity: 0.14 },
    };
  }

  /* --- points with their names --- */

  /* { x, y, name } of the points of a series that have a place. */
  function labelledPoints(table, series) {
    const [x, y, name] = [series.x, series.y, series.value].map((column) => table.header.indexOf(column));
    const found = rowsOf(table, series).filter((row) => row[x] !== "" && row[y] !== "").map((row) => ({ x: Number(row[x]), y: Number(row[y]), name: row[name] }));
    return found.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y));
  }

  /* Range of one coordinate as it is drawn, with room for names; with quadrants zero is inside. */
  function labelledRange(panel, table, key) {
    const all = panel.series.flatMap((series) => labelledPoints(table, series).map((point) => bend(panel, point[key])));
    const ends = panel.guide ? [...all, 0] : all;
    const lo = Math.min(...ends), hi = Math.max(...ends);
    const pad = 0.08 * (hi - lo) || 1;
    return [lo - pad, hi + pad];
  }

  function labelled(panel, table, palette, instance) {
    const [left, right] = labelledRange(panel, table, "x"), [low, high] = labelledRange(panel, table, "y");
    const middle = left + 0.6 * (right - left);
    const isLeft = (point) => bend(panel, point.x) > middle;
    const all = panel.series.map((series) => labelledPoints(table, series));
    const place = apart(instance, all.flat().map((point) => [bend(panel, point.x), bend(panel, point.y)]), (of, at) => isLeft(all[of][at]));
    const clouds = panel.series.map((series, of) => ({
      type: "scatter", name: series.name, color: colour(series.role, palette), symbol: mark(series.role), symbolSize: 10, animation: false, z: 3,
      data: all[of].map((point) => ({
        name: point.name, value: [bend(panel, point.x), bend(panel, point.y)], at: point,
        label: { position: isLeft(point) ? "left" : "right" },
      })),
      label: { show: true, formatter: (hit) => hit.name, color: palette.ink, fontSize: 12, distance: 6 },
      labelLayout: place, itemStyle: { opacity: 1 },
    }));
    return panel.guide ? [...clouds, quadrants(palette, [left, right], [low, high])] : clouds;
  }

  /* Puts each name at the first place that covers no other name and no point: its own side of the point, the other one,
     then rows above and below. Of a name's own rectangle only the width can be trusted: it is not placed yet. */
  function apart(instance, points, isLeft) {
    let taken = [], seen = new Set();
    const begin = () => {
      const places = points.map((point) => instance.convertToPixel({ seriesIndex: 0 }, point));
      taken = places.map(([x, y]) => ({ x: x - 5, y: y - 5, width: 10, height: 10 }));
      seen = new Set();
    };
    const covers = (a) => taken.some((b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height);
    return ({ seriesIndex, dataIndex, rect, labelRect: { width } }) => {
      const height = 13, y = rect.y + (rect.height - height) / 2;
      const key = `${seriesIndex} ${dataIndex}`;
      // A name that comes again begins a new layout.
      if (!taken.length || seen.has(key)) begin();
      seen.add(key);
      const sides = [rect.x + rect.width + 6, rect.x - 6 - width];
      if (isLeft(seriesIndex, dataIndex)) sides.reverse();
      const rows = [0, 1, -1, 2, -2, 3, -3, 4, -4].map((row) => y + row * height);
      const inside = (place) => place.x >= 0 && place.x + width <= instance.getWidth();
      const places = rows.flatMap((y) => sides.map((x) => ({ x, y, width, height })));
      const place = places.find((place) => inside(place) && !covers(place)) ?? places[0];
      taken.push(place);
      return { dx: place.x - sides[0], dy: place.y - y };
    };
  }

  /* Lines at zero and the cases in the corners; the ideal one is tinted. */
  function quadrants(palette, xs, ys) {
    const corner = (name, x, y, position) => {
      const label = { show: true, formatter: name, position, color: palette.soft, fontSize: 13, fontStyle: "italic", distance: 8 };
      const tint = name === "ideal" ? { color: palette.ideal, opacity: 0.12 } : { opacity: 0 };
      return [{ coord: [Math.min(x, 0), Math.min(y, 0)], itemStyle: tint, label }, { coord: [Math.max(x, 0), Math.max(y, 0)] }];
    };
    const areas = [
      corner("ideal", xs[1], ys[0], "insideBottomRight"), corner("both fall", xs[0], ys[0], "insideBottomLeft"),
      corner("both rise", xs[1], ys[1], "insideTopRight"), corner("reversed", xs[0], ys[1], "insideTopLeft"),
    ];
    return {
      type: "line", name: "quadrants", data: [], silent: true, animation: false, z: 1, tooltip: { show: false },
      markArea: { silent: true, animation: false, data: areas },
      markLine: { silent: true, symbol: "none", animation: false, label: { show: false }, lineStyle: { color: palette.soft, width: 1.5, type: "solid" }, data: [{ xAxis: 0 }, { yAxis: 0 }] },
    };
  }

  /* --- heat maps --- */

  /* Names of rows and columns, cells as [column, row, √-scaled value, value]. Parsed once for each series. */
  const matrices = new WeakMap();
  function matrix(panel, table) {
    if (matrices.has(panel)) return matrices.get(panel);
    const [series] = panel.series;
    const at = (name) => table.header.indexOf(name);
    const [label, wanted] = Object.entries(series.rows)[0];
    const rows = new Map(), columns = new Map(), cells = [];
    const place = (map, name) => { if (!map.has(name)) map.set(name, map.size); return map.get(name); };
    for (const row of table.rows) {
      if (row[at(label)] !== wanted) continue;
      const y = place(rows, row[at(series.y)]), x = place(columns, row[at(series.x)]);
      const value = Number(row[at(series.value)]);
      if (row[at(series.value)] !== "" && Number.isFinite(value)) cells.push([x, y, Math.sign(value) * Math.sqrt(Math.abs(value)), value]);
    }
    const found = { rows: [...rows.keys()], columns: [...columns.keys()], cells };
    matrices.set(panel, found);
    return found;
  }

  /* The token without its position. */
  const bare = (name) => name.replace(/^\d+ /, "");

  /* Square cells in the given width, at least as large as a label needs; the drawing may be wider than that. */
  function heatSize(panel, table, width) {
    const { rows, columns } = matrix(panel, table);
    const label = 10 + 7 * Math.min(14, Math.max(...[...rows, ...columns].map((name) => bare(name).length)));
    const cell = Math.max(13, Math.min(30, Math.floor((width - label - 14) / columns.length)));
    return { label, cell, width: Math.ceil(label + cell * columns.length + 14), height: Math.ceil(label + cell * rows.length + 6) };
  }

  function heatOption(panel, table, palette, size, standalone) {
    const { rows, columns, cells } = matrix(panel, table);
    const top = standalone ? 56 : 0;
    const axis = (data, more) => ({
      type: "category", data, axisTick: { show: false }, axisLine: { show: false }, splitLine: { show: false }, ...more,
      axisLabel: { interval: 0, color: palette.ink, fontSize: 11, formatter: bare, width: size.label - 8, overflow: "truncate", ellipsis: "…", margin: 4, ...more.axisLabel },
    });
    return {
      grid: { left: size.label, top: top + size.label, width: size.cell * columns.length, height: size.cell * rows.length, outerBoundsMode: "none" },
      xAxis: axis(columns, { position: "top", axisLabel: { rotate: -90 } }),
      yAxis: axis(rows, { inverse: true }),
      visualMap: { show: false, type: "continuous", min: -1, max: 1, dimension: 2, inRange: { color: palette.diverging } },
      series: [{
        type: "heatmap", name: panel.title, data: cells, animation: false, progressive: 0,
        itemStyle: size.cell >= 12 ? { borderColor: palette.ground, borderWidth: size.cell >= 18 ? 1 : 0.5 } : {},
        emphasis: { itemStyle: { borderColor: palette.ink, borderWidth: 2 } },
      }],
    };
  }

  function drawn(panel, table, palette, instance) {
    if (panel.kind === "plane") return plane(panel, table, palette);
    if (panel.kind === "labelled") return labelled(panel, table, palette, instance);
    if (panel.kind === "histogram") return panel.series.map((series) => histogram(series, table, palette));
    if (panel.kind !== "bars" && named[panel.kind]) return panel.series.map((series) => stackedBar(panel, series, table, palette));
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

  /* Room for the names beside lying bars: the usual one, more where they are long. */
  function nameRoom(panel, table, usual) {
    const longest = Math.max(0, ...names(panel, table).map((name) => name.length));
    return Math.max(usual, Math.min(176, 7.2 * longest));
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
        const wide = { ...common, type: "category", data: names(panel, table), inverse: true, splitLine: { show: false }, axisLabel: { color: palette.ink, width: nameRoom(panel, table, 132), overflow: "truncate", interval: 0 } };
        // Of shares the axis may reach beyond the whole, where the bars' values stand, but it names nothing there.
        const whole = panel.percent && panel.series.every((series) => points(table, series, true).every((p) => !(p[1] > 1)));
        const beside = { ...value.axisLabel, formatter: (v) => (whole && v > 1 + 1e-9 ? "" : label(v)) };
        const below = panel.series.some((series) => points(table, series, true).some((p) => p[1] < 0));
        const most = Math.max(...panel.series.flatMap((series) => points(table, series, true).map((p) => p[1])));
        if (whole && !below && most > 0.5) return { x: { ...value, axisLabel: beside, min: 0, max: 1.22, interval: 0.25, name: panel.x_label, nameGap: 26 }, y: wide };
        return { x: { ...value, axisLabel: beside, boundaryGap: [below ? "15%" : 0, 0], name: panel.x_label, nameGap: 26, splitNumber: 3 }, y: wide };
      }
      case "scatter":
        return { x: { ...value, scale: true, name: panel.x_label, nameGap: 26, splitNumber: 4 }, y: { ...value, scale: true } };
      case "stackedbars": {
        const side = { ...common, type: "category", data: names(panel, table), inverse: true, splitLine: { show: false }, axisLabel: { color: palette.ink, width: nameRoom(panel, table, 130), overflow: "truncate", interval: 0 } };
        return { x: { ...value, min: 0, max: 1, name: panel.x_label, nameGap: 26 }, y: side };
      }
      case "columns":
      case "stackedcolumns": {
        const below = { ...common, type: "category", data: names(panel, table), name: panel.x_label, nameGap: 26, splitLine: { show: false }, axisLabel: { ...common.axisLabel, formatter: plainNumber } };
        return { x: below, y: panel.kind === "stackedcolumns" && panel.percent ? { ...value, min: 0, max: 1 } : value };
      }
      case "histogram": {
        const middles = [...new Set(panel.series.flatMap((series) => points(table, series).map((p) => p[0])))].sort((a, b) => a - b);
        const half = middles.length > 1 ? (middles[1] - middles[0]) / 2 : 0.5;
        // A whole number of half bins, lest the ends show the noise of floating point.
        const end = (v) => Number((Math.round(v / half) * half).toPrecision(6)) + 0;
        return { x: { ...value, splitLine: { show: false }, name: panel.x_label, nameGap: 26, min: end(middles[0] - half), max: end(middles[middles.length - 1] + half) }, y: { ...value, minInterval: 1 } };
      }
      case "plane":
      case "labelled": {
        const side = (k, more) => {
          const [min, max] = panel.kind === "plane" ? range(panel, table, k) : labelledRange(panel, table, k ? "y" : "x");
          const ticks = planeTicks(panel, [min, max]);
          const shown = { ...common.axisLabel, formatter: (t) => number(Number(unbend(panel, t).toPrecision(3))), customValues: ticks, showMinLabel: Boolean(ticks), showMaxLabel: Boolean(ticks) };
          return { ...value, min, max, axisLabel: shown, splitLine: { show: false }, axisTick: { show: true, customValues: ticks, lineStyle: { color: palette.rule } }, ...more };
        };
        return { x: side(0, { name: panel.x_label, nameGap: 26 }), y: side(1, {}) };
      }
      case "stack":
        return { x: { ...steps, min: from, max: to }, y: { ...value, min: 0, max: 1 } };
      default:
        // Only steps are whole numbers.
        const plainSteps = panel.x_label === "optimizer step";
        const plain = (one) => number(one);
        const x = plainSteps ? { ...steps, min: from, max: to } : { ...steps, minInterval: 0, axisLabel: { ...common.axisLabel, formatter: plain } };
        if (panel.y_range) return { x, y: { ...value, min: panel.y_range[0], max: panel.y_range[1] } };
        return { x, y: panel.percent ? { ...value, min: 0, max: 1 } : { ...value, scale: !panel.guide } };
    }
  }

  /* Lines that the legend of a saved drawing (720 wide) takes, from the length of its names. */
  function legendRows(panel) {
    const width = panel.series.reduce((sum, series) => sum + 46 + 7 * series.name.length, 0);
    return Math.ceil(width / 690);
  }

  /* A number that is a name on an axis, such as 0.1; other names stay as they are. */
  function plainNumber(name) {
    return name !== "" && Number.isFinite(Number(name)) ? number(Number(name)) : name;
  }

  /* The option for one panel. `standalone` adds title and legend, which the page otherwise writes in HTML; `size` is
     that of a heat map, `instance` the chart that will draw it. */
  function option(panel, table, theme, instance, standalone, size) {
    const palette = palettes[theme];
    const heat = panel.kind === "heatmap";
    const common = frame(panel, table, palette, standalone);
    if (heat) return { ...common, ...heatOption(panel, table, palette, size || heatSize(panel, table, 700), standalone), legend: { show: false } };
    const { x, y } = axes(panel, table, palette);
    return { ...common, xAxis: x, yAxis: y, series: drawn(panel, table, palette, instance) };
  }

  /* What all panels have: ground, title, legend, margins, tooltip. */
  function frame(panel, table, palette, standalone) {
    const flat = panel.kind === "lines" || panel.kind === "stack" || panel.kind === "histogram" || (named[panel.kind] && panel.kind !== "bars");
    return {
      animation: false, backgroundColor: standalone ? palette.ground : "transparent",
      textStyle: { fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", color: palette.ink },
      title: standalone ? { text: panel.title, subtext: panel.y_label, left: 12, top: 6, textStyle: { fontSize: 15, color: palette.ink }, subtextStyle: { color: palette.soft } } : undefined,
      legend: { show: Boolean(standalone), top: 50, left: 8, textStyle: { color: palette.ink }, data: [...new Set(panel.series.map((one) => one.name))] },
      grid: { left: 6, right: 20, top: standalone ? 56 + 24 * legendRows(panel) : 12, bottom: 6, outerBoundsMode: "same", outerBoundsContain: "all" },
      tooltip: {
        show: !standalone, trigger: flat ? "axis" : "item", confine: true, transitionDuration: 0,
        backgroundColor: palette.ground, borderColor: palette.rule, textStyle: { color: palette.ink, fontSize: 13 },
        axisPointer: { type: named[panel.kind] || panel.kind === "histogram" ? "shadow" : "line", label: { show: false }, lineStyle: { color: palette.soft } },
        formatter: (hit) => tooltip(panel, Array.isArray(hit) ? hit : [hit]),
      },
    };
  }

  function tooltip(panel, hits) {
    const escape = echarts.format.encodeHTML;
    const [first] = hits;
    if (panel.kind === "heatmap") {
      const { rows, columns } = matrices.get(panel);
      const [x, y, , value] = first.value;
      return `${escape(rows[y])} × ${escape(columns[x])}: <b>${number(value)}</b>`;
    }
    if (panel.kind === "plane") {
      const [, , index, x, y] = first.value;
      return `${first.marker}${escape(first.seriesName)}<br>${escape(panel.x_label)}: <b>${number(x)}</b><br>${escape(panel.y_label)}: <b>${number(y)}</b>${about(index)}`;
    }
    if (panel.kind === "labelled") {
      const { x, y } = first.data.at;
      return `${first.marker}${escape(first.seriesName)}: ${escape(first.name)}<br>${escape(panel.x_label)}: <b>${number(x)}</b><br>${escape(panel.y_label)}: <b>${number(y)}</b>`;
    }
    if (panel.kind === "scatter") {
      return `${first.marker}${escape(first.seriesName)}<br>${escape(panel.x_label)}: <b>${number(first.value[0])}</b><br>${escape(panel.y_label)}: <b>${number(first.value[1])}</b>${about(first.value[2])}`;
    }
    if (panel.kind === "bars") return `${first.marker}${escape(first.seriesName)}, ${escape(String(first.value[1]))}: <b>${number(first.value[0], panel.percent)}</b>`;
    const lying = panel.kind === "stackedbars";
    const shown = named[panel.kind] || panel.kind === "histogram" ? hits.filter((hit) => hit.value[lying ? 0 : 1] !== 0) : hits;
    const lines = shown.map((hit) => `${hit.marker}${escape(hit.seriesName)}: <b>${number(hit.value[lying ? 0 : 1], panel.percent)}</b>`);
    return [head(panel, first), ...lines].join("<br>");
  }

  /* First line of a tooltip over an axis. */
  function head(panel, hit) {
    const escape = echarts.format.encodeHTML;
    const at = hit.value[panel.kind === "stackedbars" ? 1 : 0];
    if (panel.kind === "stackedbars") return escape(String(at));
    if (panel.x_label === "optimizer step") return `step ${at}`;
    return `${escape(panel.x_label)} ${named[panel.kind] ? escape(plainNumber(String(at))) : number(at)}`;
  }

  /* The pair behind a point, where the page has its text: `Charts.describe` is set by pairs.js. */
  function about(index) {
    if (!Number.isFinite(index)) return "";
    const text = api.describe(index);
    const escape = echarts.format.encodeHTML;
    return `<br>pair ${index}${text ? `<div style="max-width:320px;white-space:normal;overflow-wrap:anywhere">${escape(text)}</div>` : ""}`;
  }

  function renderer(panel, table) {
    if (panel.kind === "heatmap") return matrix(panel, table).cells.length > svgLimit ? "canvas" : "svg";
    return (panel.kind === "scatter" || panel.kind === "plane") && table.rows.length * panel.series.length > svgLimit ? "canvas" : "svg";
  }

  const api = { palettes, named, mark, parseCsv, points, labelledPoints, names, matrix, bare, heatSize, number, colour, option, renderer, describe: () => "" };
  return api;
})();
