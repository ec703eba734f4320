/* What figures to move are made of: elements, numbers as words, axes, sliders. Shared with the calculator. */
"use strict";

const Widgets = {}; // by name: what fills the place of one
const Figure = (() => {
  // --- Elements -----------------------------------------------------------------------------------
  function fill(made, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // --- Numbers as words ---------------------------------------------------------------------------
  const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  const superscript = (n) => [...String(n)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
  /* Whole numbers as they are, others to three digits; beyond a thousand million, powers of ten. */
  function number(x) {
    if (x >= 1e9 || (x > 0 && x < 1e-3)) {
      const [digits, power] = x.toExponential(2).split("e");
      return `${Number(digits)} × 10${superscript(Number(power))}`;
    }
    return Number.isInteger(x) || x >= 1000 ? Math.round(x).toLocaleString("en") : plain.format(x);
  }

  // --- Axes ---------------------------------------------------------------------------------------
  /* Where an axis has its ticks, and their labels: powers of `base` (and 2 and 5 between them where there are few),
     or round steps where `base` is missing. */
  function ticks({ from, to, base }, most) {
    if (!base) {
      const rough = (to - from) / most, unit = 10 ** Math.floor(Math.log10(rough));
      const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough);
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      return Array.from({ length: Math.floor(to / step + 1e-9) - Math.ceil(from / step - 1e-9) + 1 },
        (_, i) => (Math.ceil(from / step - 1e-9) + i) * step).map((at) => [at, at.toFixed(digits)]);
    }
    const power = (x) => Math.log(x) / Math.log(base);
    const [low, high] = [Math.ceil(power(from) - 1e-9), Math.floor(power(to) + 1e-9)];
    const step = Math.max(1, Math.ceil((high - low + 1) / most)), found = [];
    for (let p = Math.ceil(low / step) * step; p <= high; p += step) found.push(base ** p);
    if (base === 10 && found.length < 3) {
      for (let p = low - 1; p <= high; p++) for (const m of [1, 2, 5]) found.push(m * 10 ** p);
    }
    const kept = [...new Set(found)].filter((x) => x >= from * 0.999 && x <= to * 1.001).sort((a, b) => a - b);
    const isPower = (x) => Math.abs(Math.log10(x) - Math.round(Math.log10(x))) < 1e-9;
    const label = (x) => (isPower(x) && (x >= 1e4 || x < 1e-2)
      ? `10${superscript(Math.round(Math.log10(x)))}` : Number(x.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 }));
    return kept.map((x) => [x, label(x)]);
  }

  /* Round limits for values on a logarithmic axis. */
  function decades(values) {
    const some = values.filter((v) => v > 0 && Number.isFinite(v)).map(Math.log10);
    return { from: 10 ** Math.floor(Math.min(...some)), to: 10 ** Math.ceil(Math.max(...some)), base: 10 };
  }

  let made = 0; // clip paths need names
  /* A chart as SVG, `width` pixels wide. `x` and `y` are {from, to, base or none, label}; `curves` are
     {points: [[x, y, error?]…], color, dash, dots, open, name}: a line, or dots with bars; `lines` are
     {x or y, dash, color}. What it shows is said in `alt`. */
  function chart({ width, height = Math.max(240, Math.round(0.62 * width)), x, y, curves, lines = [], alt }) {
    const box = { left: 58, right: width - 12, top: 12, bottom: height - 46 };
    const scale = ({ from, to, base }, start, end) => {
      const f = base ? Math.log : (v) => v;
      return (v) => start + (f(v) - f(from)) / (f(to) - f(from)) * (end - start);
    };
    const X = scale(x, box.left, box.right), Y = scale(y, box.bottom, box.top);
    const inside = ([a, b]) => (!x.base || a > 0) && (!y.base || b > 0);
    const clip = `figure-clip-${made++}`;
    const drawn = [], grid = [];
    for (const [at, label] of ticks(x, Math.max(2, Math.floor((box.right - box.left) / 60)))) {
      grid.push(svg("line", { x1: X(at), x2: X(at), y1: box.top, y2: box.bottom, class: "grid" }),
        svg("text", { x: X(at), y: box.bottom + 18, "text-anchor": "middle" }, label));
    }
    for (const [at, label] of ticks(y, Math.max(2, Math.floor((box.bottom - box.top) / 36)))) {
      grid.push(svg("line", { x1: box.left, x2: box.right, y1: Y(at), y2: Y(at), class: "grid" }),
        svg("text", { x: box.left - 7, y: Y(at) + 4, "text-anchor": "end" }, label));
    }
    for (const line of lines) {
      const at = line.x === undefined ? { x1: box.left, x2: box.right, y1: Y(line.y), y2: Y(line.y) }
        : { x1: X(line.x), x2: X(line.x), y1: box.top, y2: box.bottom };
      drawn.push(svg("line", { ...at, class: "stroke", style: `--color: ${line.color ?? "currentColor"}`, "stroke-dasharray": line.dash ?? "2 4" }));
    }
    for (const curve of curves) {
      const points = curve.points.filter(inside), style = `--color: ${curve.color}`;
      if (!curve.dots) {
        const d = points.map(([a, b], i) => `${i ? "L" : "M"}${X(a).toFixed(1)} ${Y(b).toFixed(1)}`).join("");
        drawn.push(svg("path", { d, class: "stroke", style, "stroke-width": curve.wide ? 3 : null, "stroke-dasharray": curve.dash ?? "none" }));
      } else for (const [a, b, error = 0] of points) {
        const low = Math.max(b - error, y.from), high = Math.min(b + error, y.to);
        if (error) drawn.push(svg("line", { x1: X(a), x2: X(a), y1: Y(low), y2: Y(high), class: "stroke", style }));
        drawn.push(svg("circle", { cx: X(a), cy: Y(b), r: curve.dots, class: curve.open ? "open" : "dot", style }));
      }
    }
    const middle = (box.top + box.bottom) / 2;
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": alt },
      svg("clipPath", { id: clip }, svg("rect", { x: box.left - 4, y: box.top - 4, width: box.right - box.left + 8, height: box.bottom - box.top + 8 })),
      ...grid, svg("g", { "clip-path": `url(#${clip})` }, ...drawn),
      svg("text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, x.label),
      svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, y.label));
  }

  /* What the curves with a name are, as a list with a piece of each. */
  const legend = (curves) => element("ul", { class: "legend" }, ...curves.filter((c) => c.name).map((c) => element("li", {},
    svg("svg", { width: 28, height: 12, "aria-hidden": "true" }, c.dots
      ? svg("circle", { cx: 14, cy: 6, r: 4, class: c.open ? "open" : "dot", style: `--color: ${c.color}` })
      : svg("path", { d: "M1 6H27", class: "stroke", style: `--color: ${c.color}`, "stroke-width": c.wide ? 3 : null, "stroke-dasharray": c.dash ?? "none" })),
    ` ${c.name}`)));

  // --- Fields -------------------------------------------------------------------------------------
  /* A slider over `steps`, a list of values, or from `min` to `max`: {node, value(), set(v)}; `say` words a value. */
  function slider({ label, steps, min = 0, max = steps.length - 1, step = 1, value, say = number }) {
    const input = element("input", { type: "range", min, max, step, "aria-label": label });
    const output = element("output");
    const read = () => (steps ? steps[input.valueAsNumber] : input.valueAsNumber);
    const show = () => {
      output.textContent = say(read());
      input.setAttribute("aria-valuetext", output.textContent);
    };
    const set = (v) => { input.value = steps ? steps.indexOf(v) : v; show(); };
    input.addEventListener("input", show);
    set(value);
    return { node: element("label", { class: "slider" }, element("span", {}, label), input, output), value: read, set };
  }

  /* A choice among `options`, [value, words] each. */
  function choice({ label, options, value }) {
    const input = element("select", { "aria-label": label }, ...options.map(([v, words]) => element("option", { value: v }, words)));
    input.value = value;
    return { node: element("label", { class: "slider" }, element("span", {}, label), input), value: () => input.value, set: (v) => { input.value = v; } };
  }

  // --- The whole ----------------------------------------------------------------------------------
  /* Put a figure to move into `host`: a title, its fields, and what `draw(width)` returns, nodes, drawn again whenever
     a field or the width changes. What is said in words, `said(text)`, is read to who cannot see it. */
  function move(host, title, fields, draw) {
    const picture = element("div", { class: "picture" }), said = element("p", { class: "said", role: "status" });
    const form = element("form", { class: "fields" }, ...fields.map((field) => field.node));
    host.classList.add("l2m-widget");
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", title);
    host.replaceChildren(element("p", { class: "title" }, title), form, said, picture);
    let waiting = 0;
    const again = () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => {
        const [words, ...nodes] = draw(Math.max(260, picture.clientWidth));
        said.replaceChildren(...words);
        picture.replaceChildren(...nodes);
      });
    };
    form.addEventListener("input", again);
    form.addEventListener("submit", (event) => event.preventDefault());
    new ResizeObserver(again).observe(host);
  }

  return { element, svg, number, superscript, decades, ticks, chart, legend, slider, choice, move };
})();

if (typeof module !== "undefined") module.exports = Figure;
