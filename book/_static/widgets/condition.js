/* What a model keeps of half a text, and what the text asks for: the chart of chapter 5 and of the calculator. */
"use strict";

const Condition = (() => {
  const { chart, legend, number, decades } = Figure;
  const lengths = Array.from({ length: 161 }, (_, i) => Math.round(10 ** (1 + i / 20)));

  /* The chart and its legend, for a model {name, memories}, a law {amplitude, beta}, and L, M, C. */
  function figure({ model, law, L, M, C }, width, height) {
    const kept = lengths.map((l) => [l, HistoryState.dim(model.memories, Math.floor(l / 2))]);
    const needed = lengths.map((l) => [l, HistoryState.required(l, law, C, M)]);
    const first = HistoryState.reach(model.memories, law, C, M);
    const curves = [
      { points: needed, color: "var(--vermillion)", dash: "7 5", wide: true, name: "needed" },
      { points: kept, color: "var(--blue)", wide: true, name: `kept by ${model.name}` }];
    if (first <= 1e9) curves.push({ points: [[first, HistoryState.required(first, law, C, M)]], dots: 6, color: "var(--vermillion)", name: "first too small" });
    const y = decades([...kept, ...needed].map(([, scalars]) => scalars).filter((scalars) => scalars >= 1).concat(100, 10_000));
    return [chart({ width, height, x: { from: 10, to: 1e9, base: 10, label: "length L (tokens; dotted: chosen)" }, y: { ...y, label: "scalars after L/2 tokens" }, curves, lines: [{ x: L }],
      alt: `Scalars that ${model.name} keeps, and scalars needed, against the length: ${summary({ model, law, L, M, C })}` }), legend(curves)];
  }

  /* The answer in a sentence or two. */
  function summary({ model, law, L, M, C }) {
    const kept = HistoryState.dim(model.memories, Math.floor(L / 2)), needed = HistoryState.required(L, law, C, M);
    const meets = HistoryState.satisfies(model.memories, law.beta);
    return `${model.name} keeps ${kept >= needed ? "enough" : "too little"} at ${L.toLocaleString("en")} tokens: ${number(kept)} scalars, where ${number(needed)} are needed. It ${
      meets ? "meets" : "does not meet"} the L²M condition.`;
  }

  return { figure, summary };
})();

Widgets.condition = (host) => {
  const { slider, choice, move, number, element } = Figure;
  const quarters = Array.from({ length: 25 }, (_, i) => Number((10 ** (3 + i / 4)).toPrecision(2))); // of decades
  const model = choice({ label: "Model", options: HISTORY_STATE_MODELS.map(({ name }, i) => [i, name]), value: HISTORY_STATE_MODELS.findIndex(({ name }) => name === "Mamba 2.8B") });
  const beta = slider({ label: "Exponent β", max: 1, step: 0.01, value: 0.76, say: (v) => v.toFixed(2) });
  const nats = slider({ label: "C, nats per scalar", steps: [0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.5, 1, 2, 5, 11.09], value: 0.06 });
  const length = slider({ label: "Length L, tokens", steps: quarters, value: 1e6 });

  move(host, "Move it: what is kept, and what is needed", [model, beta, nats, length], (width) => {
    const what = { model: HISTORY_STATE_MODELS[model.value()], law: { amplitude: 2.27, beta: beta.value() }, L: length.value(), M: 50_000, C: nats.value() };
    const first = HistoryState.reach(what.model.memories, what.law, what.C, what.M);
    const address = new URLSearchParams({ model: what.model.name, length: what.L, amplitude: 2.27, beta: what.law.beta, nats: what.C });
    return [[element("b", {}, Condition.summary(what)), ` ${first === Infinity ? "Its state is never too small." : `Its state is first too small at ${number(first)} tokens.`} The law is 2.27 L^β; `,
      element("a", { href: `calculator.html#${address}` }, "all settings are in the calculator"), "."],
    ...Condition.figure(what, width)];
  });
};
