"use strict";
// The page: boards one below the other, graphs by uPlot.
const data = JSON.parse(document.getElementById("data").textContent);

function stacked(lines) {
  const sums = new Array(lines[0].length).fill(0);
  return lines.map((values) => values.map((value, at) => (value === null ? sums[at] || null : (sums[at] += value))));
}

function whole(lines) {
  // Things that are counted have no halves.
  const counted = lines.every((line) => line.values.every((value) => value === null || Number.isInteger(value)));
  return counted ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6, 1e7] } : {};
}

function axis(extra) {
  return Object.assign({ stroke: "#9aa0a6", grid: { stroke: "#25292e", width: 1 }, ticks: { stroke: "#2c3235", width: 1, size: 4 }, font: "11px DejaVu Sans, sans-serif" }, extra);
}

function marked(marks) {
  return { hooks: { draw: [(plot) => {
    const context = plot.ctx;
    context.save();
    for (const [at, , color] of marks) {
      const x = plot.valToPos(at, "x", true);
      context.strokeStyle = color;
      context.setLineDash([4, 4]);
      context.beginPath();
      context.moveTo(x, plot.bbox.top);
      context.lineTo(x, plot.bbox.top + plot.bbox.height);
      context.stroke();
    }
    context.restore();
  }] } };
}

function drawGraph(panel, board, body) {
  const lines = panel.lines.filter((line) => line.values.some((value) => value !== null));
  if (!lines.length) { body.append(nothing(panel.nothing)); return; }
  const dashed = panel.dashed ? new RegExp("^(?:" + panel.dashed + ")$") : null;
  const shades = lines.map((line, index) => shade(panel, line, index));
  const legend = make("div", { class: "legend" });
  const values = shades.map((one, index) => {
    const last = lines[index].values.filter((value) => value !== null).at(-1);
    const text = make("b", {}, format(lines[index].values.at(-1) ?? null, panel.unit, panel.decimals) || "–");
    legend.append(make("span", { title: one.name + ": last " + format(last, panel.unit, panel.decimals) }, make("i", { style: { background: one.color } }), one.name, text));
    return text;
  });
  const box = make("div", {});
  body.append(box, legend);
  const drawn = panel.stacked ? stacked(lines.map((line) => line.values)) : lines.map((line) => line.values);
  const order = panel.stacked ? [...drawn.keys()].reverse() : [...drawn.keys()];
  const series = order.map((index) => ({
    label: shades[index].name, stroke: shades[index].color, width: 1.5, points: { show: false }, spanGaps: false,
    dash: dashed && dashed.test(lines[index].name) ? [6, 5] : undefined,
    fill: panel.stacked ? dimmed(shades[index].color) : lines.length === 1 ? shades[index].color + "20" : undefined,
  }));
  const show = (plot) => {
    const at = plot.cursor.idx;
    values.forEach((text, index) => { text.textContent = format(lines[index].values[at ?? lines[index].values.length - 1], panel.unit, panel.decimals) || "–"; });
  };
  const size = () => ({ width: Math.max(120, body.clientWidth - 16), height: Math.max(60, body.clientHeight - legend.offsetHeight - 8) });
  const plot = new uPlot(Object.assign(size(), {
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    series: [{}, ...series], plugins: [marked(board.marks)], hooks: { setCursor: [show] },
    cursor: { sync: { key: board.uid }, points: { size: 5 }, drag: { x: true, y: false } },
    scales: { x: { range: () => [data.start, data.end] }, y: { range: (_plot, low, high) => {
      const bottom = panel.lowest ?? (low === high ? low - 1 : low - (high - low) * 0.08);
      const top = panel.highest ?? (low === high ? high + Math.max(1, Math.abs(high) * 0.1) : high + (high - low) * 0.08);
      return [Math.min(bottom, low), Math.max(top, bottom + (panel.unit === "percentunit" ? 0.01 : 1e-9))];
    } } },
    axes: [axis({ size: 26, space: 60, values: (_plot, at) => at.map((one) => stamp(one, data.end - data.start > 172800)) }),
      axis({ size: 62, ...whole(lines), values: (_plot, at) => at.map((one) => format(one, panel.unit, null)) })],
  }), [panel.times, ...order.map((index) => drawn[index])], box);
  new ResizeObserver(() => plot.setSize(size())).observe(body);
}

function drawPanel(panel, board) {
  const more = panel.columns ? panel.rows.length : panel.lines.length;
  const title = make("h3", { title: panel.description }, panel.title);
  if (panel.found > more) title.append(make("small", {}, `${more} of ${panel.found}`));
  const body = make("div", { class: "body" });
  const box = make("div", { class: "panel", id: "panel-" + panel.id, style: { gridColumn: "span " + panel.width, height: panel.height * 34 - 8 + "px" } }, title, body);
  const draw = () => {
    if (panel.problem) body.append(nothing(panel.problem, true));
    else if (panel.kind === "stat") body.append(drawStat(panel));
    else if (panel.kind === "bargauge") body.append(drawBars(panel));
    else if (panel.kind === "table") body.append(drawTable(panel));
    else if (panel.kind === "state-timeline") body.append(drawStates(panel, board.marks, data.start, data.end));
    else drawGraph(panel, board, body);
  };
  return [box, draw];
}

function drawBoard(board) {
  const section = make("section", { id: board.uid, hidden: "" }, make("h1", {}, board.title), make("p", { class: "about" }, board.description));
  const later = [];
  for (const row of board.rows) {
    const grid = make("div", { class: "grid" });
    for (const panel of row.panels) {
      const [box, draw] = drawPanel(panel, board);
      grid.append(box);
      later.push(draw);
    }
    section.append(make("h2", {}, row.title), grid);
  }
  return [section, later];
}

function drawPage() {
  const { cluster, node, gpu } = data.values;
  const chosen = `node ${node} · GPU ${gpu}` + (cluster === ".*" ? "" : ` · cluster ${cluster}`);
  const tabs = [...data.boards.map((board) => [board.uid, board.title.replace("gpuheal / ", "")]), ["all", "All"]];
  const links = tabs.map(([id, title]) => make("a", { href: "#" + id }, title));
  document.body.append(make("header", {}, make("b", {}, "gpuheal"), make("nav", {}, ...links),
    make("span", { class: "facts" }, `${stamp(data.start, true)} to ${stamp(data.end, true)} UTC · ${chosen}`)));
  const sections = data.boards.map(drawBoard);
  document.body.append(...sections.map(([section]) => section));
  let drawn = 0;
  const show = () => {
    const wanted = tabs.some(([id]) => "#" + id === location.hash) ? location.hash.slice(1) : tabs[0][0];
    links.forEach((link) => link.toggleAttribute("aria-current", link.hash === "#" + wanted));
    for (const [section, later] of sections) {
      section.hidden = wanted !== "all" && section.id !== wanted;
      // A graph needs to know how wide it is, so it is drawn when it is first seen.
      while (!section.hidden && later.length) { later.shift()(); drawn += 1; }
    }
    document.documentElement.dataset.drawn = drawn;
    window.scrollTo(0, 0);
  };
  window.addEventListener("hashchange", show);
  show();
}

window.addEventListener("error", (event) => { document.documentElement.dataset.failed = event.message; });
drawPage();
