/* The calculator page: the form, the address, the answer. What it computes is in history_state.js. */
"use strict";

(() => {
  const { element, number, superscript } = Figure;
  const $ = (id) => document.getElementById(`lc-${id}`);
  if (!$("form")) return;

  // The arithmetic must be that of the library before anything is shown.
  const differs = HISTORY_STATE_MODELS.find(({ memories, dims }) => dims.some(([L, scalars]) => HistoryState.dim(memories, L) !== scalars));
  if (differs) throw new Error(`The calculator and the library disagree about ${differs.name}.`);

  const OWN = "your own";
  const ROWS = [ // label, slots, layers, scalars, further cells
    ["Full attention", "tokens", 4, 2048],
    ["Attention with a window", "window", 0, 2048, { window: [4096, 2, 1e9, true, "tokens"] }],
    ["Power attention, about c L^s slots", "power", 0, 2048, { s: [0.8, 0, 1, false, ""], c: [1, 0.01, 1000, false, ""] }],
    ["Recurrence, one state", "state", 28, 131072],
    ["Recurrence, log-linear (a state per level)", "levels", 0, 131072],
  ];
  const BITS = [[32, "float32"], [16, "bfloat16"], [8, "8 bits"], [4, "4 bits"]];
  const TRAINED = 0.06, MEASURED = "trained", THEOREM = "theorem", OTHER = "another";

  // --- Fields: by name in the address, what each takes ---------------------------------------------
  const NUMBERS = { // default, least, most, whole, unit
    length: [1e6, 2, 1e9, true, "tokens"],
    amplitude: [2.27, 0.001, 1000, false, "nats"],
    beta: [0.76, 0, 1, false, ""],
    vocabulary: [50_000, 1, 1e7, true, "tokens"],
    nats: [TRAINED, 0.0001, 100, false, "nats"],
  };
  const CHOICES = { model: "Mamba 2.8B", bits: 16 };
  for (const [label, slots, layers, scalars, further] of ROWS) {
    const row = element("fieldset", { class: "row" }, element("legend", {}, label));
    const cells = { layers: [layers, 0, 10_000, true, "layers"], scalars: [scalars, 1, 1e9, true, "scalars"], ...further };
    for (const [cell, about] of Object.entries(cells)) {
      const name = `${slots}-${cell}`;
      NUMBERS[name] = about;
      row.append(element("p", { class: "field" }, element("label", { for: `lc-${name}` }, cell), element("input", { id: `lc-${name}` })));
    }
    $("rows").append(row);
  }
  const [GENERAL, ROW] = [["length", "amplitude", "beta", "vocabulary", "nats"], Object.keys(NUMBERS).filter((name) => name.includes("-"))];
  for (const name of [...Object.keys(NUMBERS), "model", "bits"]) {
    const reason = element("span", { class: "reason", id: `lc-${name}-reason` });
    $(name).after(reason);
    $(name).setAttribute("aria-describedby", reason.id);
    if (name in NUMBERS) for (const [key, value] of [["type", "text"], ["inputmode", "decimal"], ["autocomplete", "off"]]) $(name).setAttribute(key, value);
  }

  function options(select, some) {
    select.append(...some.map(([value, words]) => element("option", { value }, words)));
  }
  const families = [...new Set(HISTORY_STATE_MODELS.map(({ family }) => family))];
  $("model").append(...families.map((family) => {
    const group = element("optgroup", { label: family });
    options(group, HISTORY_STATE_MODELS.filter((model) => model.family === family).map(({ name }) => [name, name]));
    return group;
  }), element("option", { value: OWN }, "Describe a model"));
  options($("law"), [...INFORMATION_LAWS.map(([label, amplitude, beta], i) => [i, `${label}: ${amplitude.toFixed(2)} L^${beta.toFixed(2)}`]), [OTHER, "another law"]]);
  options($("bits"), BITS.map(([bits, words]) => [bits, `${words}${words.includes("bits") ? "" : `, ${bits} bits`}`]));
  options($("capacity"), [[MEASURED, `${TRAINED} nats, as seen in training`], [THEOREM, "all that its bits can (theorem)"], [OTHER, "another value"]]);

  /* What a field holds: a number, or why it is refused. */
  function read(name) {
    const [, least, most, whole, unit] = NUMBERS[name];
    const text = $(name).value.trim(), plain = text.replace(/[\s,_']/g, "");
    const x = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
    const words = (v) => v.toLocaleString("en", { maximumFractionDigits: 6 });
    if (text === "") return [NaN, `A number is missing: from ${words(least)} to ${words(most)}.`];
    if (Number.isNaN(x)) return [NaN, `“${text}” is no number: write it like 1000, 0.5 or 1e6.`];
    if (whole && !Number.isInteger(x)) return [NaN, `A whole number of ${unit}, not ${text}.`];
    if (x < least) return [NaN, `At least ${words(least)}, not ${text}.`];
    if (x > most) return [NaN, `At most ${words(most)}, not ${text}.`];
    return [x, ""];
  }
  function refuse(name, why) {
    $(`${name}-reason`).textContent = why;
    if (why) $(name).setAttribute("aria-invalid", "true");
    else $(name).removeAttribute("aria-invalid");
  }

  // --- The answer ----------------------------------------------------------------------------------
  let unknown = ""; // a model that the address asked for
  function answer() {
    const own = $("model").value === OWN, values = {};
    $("own").hidden = !own;
    refuse("model", unknown);
    const refused = [];
    for (const name of [...GENERAL, ...(own ? ROW : [])]) {
      const [value, why] = read(name);
      values[name] = value;
      refuse(name, why);
      if (why) refused.push(name);
    }
    if (own && !refused.length && !ROWS.some(([, slots]) => values[`${slots}-layers`])) {
      refuse("tokens-layers", "A model has a layer of some kind.");
      refused.push("tokens-layers");
    }
    if (refused.length) {
      const label = (name) => [$(name).closest(".row")?.querySelector("legend").textContent, $(name).labels[0].textContent].filter(Boolean).join(", ");
      const names = refused.map((name) => element("a", { href: `#lc-${name}` }, label(name)));
      $("answer").className = "no";
      $("answer").replaceChildren(element("p", { class: "verdict" }, "No answer: please correct ", ...names.flatMap((a, i) => (i ? [", ", a] : [a])), "."));
      $("answer").querySelectorAll("a").forEach((a, i) => a.addEventListener("click", (event) => { event.preventDefault(); $(refused[i]).focus(); }));
      $("figure").hidden = $("details").hidden = true;
      return;
    }
    const known = HISTORY_STATE_MODELS.find(({ name }) => name === $("model").value);
    const sizes = { window: values["window-window"] - 1, power: [values["power-s"], values["power-c"], 2, 1] }; // base 2, no window
    const model = known ?? { name: "Your model", memories: ROWS.map(([label, slots]) => [label, values[`${slots}-scalars`], slots,
      sizes[slots] ?? 0, values[`${slots}-layers`]]).filter((memory) => memory[4] > 0) };
    $("source").replaceChildren(...(known ? [`${model.memories.map(describe).join("; ")}. Source: `, element("a", { href: model.source.split(" ")[0] }, model.source.replace("https://huggingface.co/", "")),
      model.read_in ? `, as quoted by ${model.read_in}.` : "."] : []));
    show({ model, law: { amplitude: values.amplitude, beta: values.beta }, L: values.length, M: values.vocabulary, C: values.nats });
  }

  function describe([what, width, slots, size, layers]) {
    const kept = { tokens: " for each token", window: ` for each of the last ${number(size)} tokens`, state: "", levels: " for each level", blocks: ` for each ${size} tokens` }[slots];
    return `${what}: ${layers} layers × ${number(width)}${kept}`;
  }

  function bytes(scalars) {
    const size = scalars * Number($("bits").value) / 8, units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    const i = Math.min(Math.max(Math.floor(Math.log10(Math.max(size, 1)) / 3), 0), units.length - 1);
    return `${number(Number((size / 1000 ** i).toPrecision(3)))} ${units[i]}`;
  }

  function show(what) {
    const { model, law, L, M, C } = what;
    const { dim, growth, satisfies, information, required, reach } = HistoryState;
    const kept = dim(model.memories, Math.floor(L / 2)), needed = required(L, law, C, M);
    const grows = growth(model.memories), meets = satisfies(model.memories, law.beta), enough = kept >= needed;
    const first = reach(model.memories, law, C, M), stored = $("bits").selectedOptions[0].textContent.split(",")[0];
    $("answer").className = enough ? "yes" : "no";
    $("answer").replaceChildren(
      element("p", { class: "verdict" }, `${model.name}: ${enough ? "enough" : "too little"} for ${number(L)} tokens`),
      element("p", {}, `${number(kept)} scalars kept (${bytes(kept)} at ${stored}), ${number(needed)} needed (${bytes(needed)})`));
    const growing = { power: `like L^${grows.exponent}, to ${number(grows.rate)} × L^${grows.exponent} scalars at most`, linear: `like L, by ${number(grows.rate)} scalars per token`, logarithmic: `like log L, by ${number(grows.rate)} scalars per doubling`,
      bounded: `to ${number(grows.rate)} scalars at most` }[grows.law];
    const rows = [
      ["Information between the halves", `${number(information(L, law))} nats`],
      ["Kept for each that is needed", needed > 0 ? `${number(Number((kept / needed).toPrecision(3)))}` : "nothing is needed"],
      ["The state grows", growing],
      ["L²M condition, single model", meets ? "met" : "not met"],
      ["L²M condition, series of models", meets ? "met by the single model" : `met if the state grows like L^${law.beta}`],
      ["The state is first too small at", Number.isNaN(first) ? "not looked for: blocks that merge let it fall again" : first === Infinity ? `no length up to 10${superscript(18)} tokens` : `${number(first)} tokens`],
    ];
    $("details").replaceChildren(...rows.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]));
    $("figure").hidden = $("details").hidden = false;
    $("figure").replaceChildren(...Condition.figure(what, Math.max(280, $("figure").clientWidth)));
  }

  // --- Fields that set each other --------------------------------------------------------------------
  const set = (name, x) => { $(name).value = String(x); };
  function followers(changed) {
    const law = INFORMATION_LAWS[$("law").value];
    if (changed === "law" && law) [set("amplitude", law[1]), set("beta", law[2])];
    if (changed === "slider") set("length", Math.round(10 ** $("slider").value));
    if (changed === "capacity" && $("capacity").value === MEASURED) set("nats", TRAINED);
    if (["capacity", "bits"].includes(changed) && $("capacity").value === THEOREM) set("nats", $("bits").value * Math.LN2);
    if (changed === "model") unknown = "";
    const [[length], [nats]] = [read("length"), read("nats")];
    if (changed !== "slider" && length) $("slider").value = Math.log10(length);
    $("slider").setAttribute("aria-valuetext", `${$("length").value} tokens`);
    if (changed !== "law") $("law").value = INFORMATION_LAWS.findIndex(([, a, b]) => a === read("amplitude")[0] && b === read("beta")[0]);
    if ($("law").selectedIndex < 0) $("law").value = OTHER;
    if (changed !== "capacity") $("capacity").value = nats === TRAINED ? MEASURED : nats === $("bits").value * Math.LN2 ? THEOREM : OTHER;
  }

  // --- The address holds what differs from the defaults ------------------------------------------------
  function address() {
    const found = new URLSearchParams();
    for (const [name, value] of Object.entries(CHOICES)) if ($(name).value !== String(value)) found.set(name, $(name).value);
    for (const name of [...GENERAL, ...($("model").value === OWN ? ROW : [])]) {
      const [value, why] = read(name);
      if (value !== NUMBERS[name][0]) found.set(name, why ? $(name).value : value);
    }
    return found.size ? `#${found}` : location.pathname + location.search;
  }
  function fromAddress() {
    if (location.hash && !location.hash.includes("=")) return; // a place on the page
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(NUMBERS)) set(name, asked.get(name) ?? NUMBERS[name][0]);
    for (const [name, value] of Object.entries(CHOICES)) {
      $(name).value = asked.get(name) ?? value;
      if ($(name).selectedIndex < 0) $(name).value = value;
    }
    unknown = (asked.get("model") ?? $("model").value) === $("model").value ? "" : `There is no model “${asked.get("model")}” here: choose one.`;
    followers("");
    answer();
  }

  $("form").addEventListener("submit", (event) => event.preventDefault());
  $("form").addEventListener("input", ({ target }) => {
    followers(target.id.slice(3));
    answer();
  });
  $("form").addEventListener("change", () => {
    if (!(location.pathname + location.search + location.hash).endsWith(address())) history.pushState(null, "", address());
  });
  addEventListener("popstate", fromAddress);
  $("form").closest(".calculator").hidden = false;
  fromAddress();
  let width = $("figure").clientWidth;
  new ResizeObserver(() => {
    if ($("figure").clientWidth !== width) answer();
    width = $("figure").clientWidth;
  }).observe($("figure"));
})();
