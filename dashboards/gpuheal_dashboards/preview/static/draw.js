"use strict";
// How values and panels are drawn. Texts of the data are only ever put in as text, never as markup.
const PALETTE = ["#73bf69", "#5794f2", "#ff9830", "#b877d9", "#f2cc0c", "#fa6400", "#56d9fe", "#ff7383", "#8ab8ff", "#96d98d", "#ffa6b0", "#ca95e5"];

function make(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") Object.assign(made.style, value); else made.setAttribute(name, value);
  }
  made.append(...inside.filter((one) => one !== null && one !== undefined));
  return made;
}

function stamp(seconds, withDay) {
  const text = new Date(seconds * 1000).toISOString();
  return withDay ? text.slice(0, 16).replace("T", " ") : text.slice(11, 16);
}

function span(seconds, decimals) {
  const size = Math.abs(seconds);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (size >= length) return (seconds / length).toFixed(decimals ?? 1) + " " + unit;
  }
  return size < 1 && size > 0 ? (seconds * 1000).toFixed(0) + " ms" : seconds.toFixed(seconds % 1 ? decimals ?? 1 : 0) + " s";
}

function number(value, decimals) {
  if (decimals !== null && decimals !== undefined) return value.toFixed(Number.isInteger(value) && decimals < 2 ? 0 : decimals);
  const size = Math.abs(value);
  for (const [unit, scale] of [["G", 1e9], ["M", 1e6], ["k", 1e4]]) {
    if (size >= scale) return (value / (unit === "k" ? 1e3 : scale)).toFixed(1) + unit;
  }
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

function format(value, unit, decimals) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  if (unit === "percentunit") return (value * 100).toFixed(value ? decimals ?? 1 : 0) + "%";
  if (unit === "percent") return number(value, 0) + "%";
  if (unit === "celsius") return number(value, decimals) + " °C";
  if (unit === "watt") return number(value, decimals) + " W";
  if (unit === "s") return span(value, decimals);
  if (unit === "dateTimeAsIso") return stamp(value / 1000, true);
  return number(value, decimals);
}

function stepped(steps, value) {
  let color = "";
  for (const [from, one] of steps || []) if (from === null || value >= from) color = one;
  return color;
}

function pale(color) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return r * 0.299 + g * 0.587 + b * 0.114 > 150;
}

function dimmed(color) {
  const back = [24, 27, 31];
  return "#" + [1, 3, 5].map((at, index) => Math.round(parseInt(color.slice(at, at + 2), 16) * 0.65 + back[index] * 0.35).toString(16).padStart(2, "0")).join("");
}

function hashed(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return PALETTE[sum % PALETTE.length];
}

function shade(panel, line, index) {
  const own = panel.colors[line.name];
  return { name: (own && own.text) || line.name, color: (own && own.color) || PALETTE[index % PALETTE.length] };
}

function nothing(text, problem) {
  return make("div", { class: "none" + (problem ? " problem" : "") }, text);
}

function drawStat(panel) {
  if (!panel.lines.length) return nothing(panel.nothing);
  const row = make("div", { class: "stats" });
  for (const line of panel.lines) {
    const own = panel.colors[line.name] || {};
    const mapped = panel.texts[String(line.value)] || {};
    const color = mapped.color || own.color || stepped(panel.steps, line.value) || "#3274d9";
    const name = own.text || line.name;
    const value = panel.named ? name : mapped.text || format(line.value, panel.unit, panel.decimals);
    const cell = make("div", { class: "stat" + (pale(color) ? " dark" : ""), title: name + ": " + line.value, style: { background: color } });
    if (panel.lines.length > 1 && line.value === 0 && own.color) cell.classList.add("zero");
    if (!panel.named && name) cell.append(make("div", { class: "name" }, name));
    cell.append(make("div", { class: "value" + (value.length > 9 ? " long" : "") }, value));
    row.append(cell);
  }
  return row;
}

function drawBars(panel) {
  if (!panel.lines.length) return nothing(panel.nothing);
  const most = panel.highest ?? Math.max(...panel.lines.map((line) => line.value), 0.000001);
  const box = make("div", {});
  panel.lines.forEach((line, index) => {
    const own = panel.colors[line.name] || {};
    const color = own.color || stepped(panel.steps, line.value) || PALETTE[index % PALETTE.length];
    const width = Math.max(0, Math.min(100, (line.value / most) * 100)) + "%";
    box.append(make("div", { class: "bar" }, make("span", {}, own.text || line.name),
      make("span", {}, make("i", { style: { width, background: color } })), make("span", {}, format(line.value, panel.unit, panel.decimals))));
  });
  return box;
}

function drawTable(panel) {
  if (!panel.rows.length) return nothing(panel.nothing);
  const numeric = new Set(panel.columns.filter((c) => panel.rows.some((r) => typeof r[c.title] === "number") && c.unit !== "dateTimeAsIso" && !Object.keys(c.texts).length).map((c) => c.title));
  const head = make("tr", {}, ...panel.columns.map((c) => make("th", numeric.has(c.title) ? { class: "number" } : {}, c.title)));
  const body = panel.rows.map((row) => make("tr", {}, ...panel.columns.map((column) => {
    const value = row[column.title];
    const mapped = column.texts[String(value)] || {};
    const text = mapped.text || format(value, column.unit, column.decimals);
    const color = mapped.color || (typeof value === "number" ? stepped(column.steps, value) : "");
    const cell = make("td", { class: (numeric.has(column.title) ? "number" : "") + (text.length > 48 ? " wrap" : "") });
    if (column.gauge && typeof value === "number") cell.append(make("span", { class: "meter" }, make("i", { style: { width: Math.min(100, value * 100) + "%" } })));
    if (column.runbook) cell.append(make("a", { href: column.runbook.replace(/\{(\w+)\}/g, (_all, title) => encodeURIComponent(row[title])), rel: "noreferrer" }, text));
    else if (mapped.color) cell.append(make("span", { class: "pill" + (pale(color) ? " dark" : ""), style: { background: color } }, text));
    else cell.append(color ? make("b", { style: { color } }, text) : text);
    return cell;
  })));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function ticks(start, end, count) {
  const row = make("div", { class: "ticks" });
  for (let index = 0; index <= count; index += 1) {
    row.append(make("span", { style: { left: (index / count) * 100 + "%" } }, stamp(start + ((end - start) * index) / count, end - start > 172800)));
  }
  return row;
}

function drawStates(panel, marks, start, end) {
  const lines = panel.lines.filter((line) => line.values.some((value) => value !== null));
  if (!lines.length) return nothing(panel.nothing);
  const box = make("div", { class: "timeline" });
  const step = panel.times.length > 1 ? panel.times[1] - panel.times[0] : end - start;
  const place = (at) => Math.max(0, Math.min(100, ((at - start) / (end - start)) * 100));
  for (const line of lines) {
    const track = make("div", { class: "track" });
    for (let from = 0; from < line.values.length; from += 1) {
      const value = line.values[from];
      if (value === null) continue;
      let to = from;
      while (to + 1 < line.values.length && line.values[to + 1] === value) to += 1;
      const mapped = panel.texts[String(value)] || { text: String(value), color: hashed(String(value)) };
      const [left, right] = [place(panel.times[from]), place(Math.min(end, panel.times[to] + step))];
      const title = `${line.name}: ${mapped.text}, ${stamp(panel.times[from], true)} to ${stamp(Math.min(end, panel.times[to] + step), true)} UTC`;
      const run = make("i", { class: pale(mapped.color) ? "dark" : "", title, style: { left: left + "%", width: Math.max(0.2, right - left) + "%", background: mapped.color } });
      if (right - left > 5) run.append(mapped.text);
      track.append(run);
      from = to;
    }
    for (const [at, text, color] of marks) track.append(make("u", { title: text, style: { left: place(at) + "%", background: color } }));
    box.append(make("div", { class: "label", title: line.name }, line.name), track);
  }
  box.append(make("div", {}), ticks(start, end, 6));
  return box;
}
