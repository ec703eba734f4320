/* The calculator page: reads the form, asks HistoryState, writes the answer and the figure. */
"use strict";

(() => {
  const $ = (id) => document.getElementById(`lc-${id}`);
  const form = document.getElementById("l2m-calculator");
  if (!form) return;

  const LAWS = [...INFORMATION_LAWS.map(([label, amplitude, beta]) =>
    [`${label}: ${amplitude} · L^${beta}`, amplitude, beta]), ["Another law", null, null]];
  const OWN_ROWS = [ // label, slots, layers, scalars, window
    ["Full attention", "tokens", 4, 2048, null],
    ["Attention with a window", "window", 0, 2048, 4096],
    ["Recurrence, one state", "state", 28, 131072, null],
    ["Recurrence, log-linear (a state a level)", "levels", 0, 131072, null],
  ];

  // --- Numbers as words ---------------------------------------------------------------------
  const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  const superscript = (n) => [...String(n)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
  function number(x) {
    if (x === Infinity) return "no length up to 10¹⁸";
    if (Math.abs(x) < 1e6) return plain.format(x);
    const power = Math.floor(Math.log10(x));
    return `${plain.format(x / 10 ** power)} × 10${superscript(power)}`;
  }
  const whole = (x) => x.toLocaleString("en");
  function bytes(x) {
    const units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    const i = Math.min(Math.max(Math.floor(Math.log10(Math.max(x, 1)) / 3), 0), units.length - 1);
    return `${plain.format(x / 1000 ** i)} ${units[i]}`;
  }

  // --- The form -----------------------------------------------------------------------------
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  const families = new Map();
  HISTORY_STATE_MODELS.forEach((model, i) => {
    if (!families.has(model.family)) families.set(model.family, element("optgroup", { label: model.family }));
    families.get(model.family).append(element("option", { value: i }, model.name));
  });
  $("model").append(...families.values(), element("optgroup", { label: "your own" },
    element("option", { value: "own" }, "Describe a model")));
  $("model").value = String(HISTORY_STATE_MODELS.findIndex((model) => model.name === "Mamba 2.8B"));
  LAWS.forEach(([label], i) => $("law").append(element("option", { value: i }, label)));
  OWN_ROWS.forEach(([label, slots, layers, scalars, window]) => {
    const cell = (name, value, min, title) => element("td", value === null ? {} : { "data-label": title }, value === null ? "" : element("input", {
      id: `lc-${slots}-${name}`, type: "number", min, max: 1e12, step: 1, value, "aria-label": `${label}: ${title}` }));
    $("rows").append(element("tr", {}, element("th", { scope: "row" }, label), cell("layers", layers, 0, "layers"), cell("scalars", scalars, 1, "scalars per layer"), cell("window", window, 2, "window")));
  });

  const value = (id) => ($(id).checkValidity() ? $(id).valueAsNumber : NaN);

  function ownMemories() {
    return OWN_ROWS.map(([label, slots, , , window]) => [label, value(`${slots}-scalars`), slots,
      window === null ? 0 : value("window-window") - 1, value(`${slots}-layers`)]).filter((m) => m[4] !== 0);
  }

  // --- The answer ---------------------------------------------------------------------------
  function answer() {
    const own = $("model").value === "own";
    const model = own ? { name: "Your model", memories: ownMemories() } : HISTORY_STATE_MODELS[$("model").value];
    $("own").hidden = !own;
    $("source").textContent = own ? "" : `${model.memories.map(describe).join("; ")}. Source: ${model.source}`;
    const law = { amplitude: value("amplitude"), beta: value("beta") };
    const [L, M, C] = [value("length"), value("vocabulary"), value("nats")];
    if (![L, M, C, law.amplitude, law.beta, ...model.memories.flatMap((m) => [m[1], m[3], m[4]])].every(Number.isFinite)) {
      const wrong = [...form.querySelectorAll("input:invalid")].map((input) =>
        `${input.labels[0]?.textContent ?? input.getAttribute("aria-label")}: ${input.validationMessage}`);
      $("output").replaceChildren(element("p", { class: "no" }, ["Please correct:", ...wrong].join(" ")));
      $("figure").hidden = true;
      return;
    }
    show(model, law, L, M, C);
  }

  function describe([what, width, slots, size, layers]) {
    const kept = { tokens: "one a token", window: `the last ${whole(size)}`, state: "one",
      levels: "one a level", blocks: `one for ${size} tokens` }[slots];
    return `${layers} × ${whole(width)} ${what}, ${kept}`;
  }

  function show(model, law, L, M, C) {
    const { dim, growth, satisfies, information, required, reach } = HistoryState;
    const kept = dim(model.memories, Math.floor(L / 2));
    const needed = required(L, law, C, M);
    const grows = growth(model.memories);
    const meets = satisfies(model.memories, law.beta);
    const enough = kept >= needed;
    const growing = { linear: `like L, ${number(grows.rate)} scalars a token`,
      logarithmic: `like log L, ${number(grows.rate)} scalars a doubling`,
      bounded: `no further than ${number(grows.rate)} scalars` }[grows.law];
    const rows = [
      ["History state after L/2 tokens", `${number(kept)} scalars, ${bytes(kept * Number($("dtype").value))}`],
      ["Information between the halves", `${number(information(L, law))} nats`],
      ["Scalars needed to carry it", number(needed)],
      ["The state grows", growing],
      ["L²M condition, single model", meets ? "met" : "not met"],
      ["L²M condition, series of models", meets ? "met by the single model" : `met if the state grows like L^${law.beta}`],
      ["The state is first too small at", `${number(reach(model.memories, law, C, M))}${
        Number.isFinite(reach(model.memories, law, C, M)) ? " tokens" : ""}`],
    ];
    const verdict = `${model.name} keeps ${enough ? "enough" : "too little"} at ${whole(L)} tokens: ${
      number(kept)} scalars, where ${number(needed)} are needed. It ${meets ? "meets" : "does not meet"} the L²M condition as a single model.`;
    $("output").replaceChildren(element("p", { class: enough ? "yes" : "no" }, verdict),
      element("dl", {}, ...rows.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)])));
    draw(model, law, L, M, C);
  }

  // --- The figure: kept and needed scalars against the length, both logarithmic ----------------
  function draw(model, law, L, M, C) {
    const svg = (tag, attributes, ...children) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, of] of Object.entries(attributes)) made.setAttribute(key, of);
      made.append(...children);
      return made;
    };
    const lengths = Array.from({ length: 161 }, (_, i) => Math.round(10 ** (1 + i / 20)));
    const curve = (f) => lengths.map((l) => [l, f(l)]).filter(([, y]) => y >= 1);
    const kept = curve((l) => HistoryState.dim(model.memories, Math.floor(l / 2)));
    const needed = curve((l) => HistoryState.required(l, law, C, M));
    const powers = [...kept, ...needed].map(([, y]) => Math.log10(y));
    const [bottom, top] = [Math.floor(Math.min(...powers, 2)), Math.ceil(Math.max(...powers, 4))];
    const x = (l) => 60 + (Math.log10(l) - 1) * (560 / 8);
    const y = (s) => 320 - (Math.log10(s) - bottom) * (300 / (top - bottom));
    const path = (points) => points.map(([l, s], i) => `${i ? "L" : "M"}${x(l).toFixed(1)} ${y(s).toFixed(1)}`).join("");
    const line = (points, color, dash) => svg("path", { d: path(points), fill: "none", stroke: color, "stroke-width": 3, "stroke-dasharray": dash });
    const text = (at, top_, content, anchor = "middle") => svg("text", { x: at, y: top_, "text-anchor": anchor }, content);
    const step = Math.ceil((top - bottom) / 6);
    const grid = [];
    for (let p = 1; p <= 9; p += 2) grid.push(text(x(10 ** p), 342, `10${superscript(p)}`));
    for (let p = bottom; p <= top; p += step) grid.push(text(52, y(10 ** p) + 5, `10${superscript(p)}`, "end"),
      svg("line", { x1: 60, x2: 620, y1: y(10 ** p), y2: y(10 ** p), stroke: "currentColor", opacity: 0.2 }));
    const picture = svg("svg", { viewBox: "0 0 640 372", role: "img", "aria-labelledby": "lc-figure-caption" }, ...grid,
      svg("line", { x1: x(L), x2: x(L), y1: 20, y2: 320, stroke: "currentColor", "stroke-dasharray": "2 4" }),
      line(needed, "#d55e00", "9 6"), line(kept, "#0072b2", "none"), text(340, 366, "length L (tokens)"));
    const caption = `Scalars kept by ${model.name} after L/2 tokens (blue line), and scalars needed to carry the information between the halves of L tokens (orange, dashed). Dotted: the length chosen.`;
    $("figure").replaceChildren(picture, element("figcaption", { id: "lc-figure-caption" }, caption));
    $("figure").hidden = false;
  }

  // --- Events: the fields that set each other ---------------------------------------------------
  function setLaw() {
    const [, amplitude, beta] = LAWS[$("law").value];
    if (amplitude !== null) [$("amplitude").value, $("beta").value] = [amplitude, beta];
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    if (target === $("law")) setLaw();
    if (target === $("amplitude") || target === $("beta")) $("law").value = LAWS.length - 1;
    if (target === $("slider")) $("length").value = Math.round(10 ** $("slider").value);
    if (target === $("length") && value("length")) $("slider").value = Math.log10(value("length"));
    if (target === $("capacity") && $("capacity").value !== "own") $("nats").value = Number(Number($("capacity").value).toPrecision(6));
    if (target === $("nats")) $("capacity").value = "own";
    answer();
  });

  // The arithmetic must be that of the library before anything is shown.
  const differs = HISTORY_STATE_MODELS.find(({ memories, dims }) => dims.some(([L, scalars]) => HistoryState.dim(memories, L) !== scalars));
  if (differs) throw new Error(`The calculator and the library disagree about ${differs.name}.`);
  setLaw();
  form.hidden = $("output").hidden = false;
  answer();
})();
