/* Chapter 8: networks whose memory grows like L^s, on data whose information grows like L^β: what was recorded. */
"use strict";

Widgets.just_enough = (host) => {
  const { chart, legend, slider, choice, move, element, number, decades } = Figure;
  const KINDS = { "sub-volume": [Math.log(3) / Math.log(4), "β = 0.79"], "square-root": [0.5, "β = 0.5"], logarithmic: [0, "β = 0, a logarithm"] };
  const COLORS = { 64: "var(--purple)", 256: "var(--green)", 1024: "var(--blue)", 4096: "var(--vermillion)" };
  const all = (key) => [...new Set(JUST_ENOUGH_RUNS.map((run) => run[key]))].sort((a, b) => a - b);
  const data = choice({ label: "Data: information ~ L^β", options: Object.entries(KINDS).map(([kind, [, words]]) => [kind, words]), value: "sub-volume" });
  const length = slider({ label: "Length L", steps: all("length"), value: 1024 });
  const exponent = slider({ label: "s, how the memory grows", steps: all("s"), value: 0.5, say: String });

  move(host, "Move it: how much memory is just enough?", [data, length, exponent], (width) => {
    const [kind, L, s] = [data.value(), length.value(), exponent.value()];
    const runs = JUST_ENOUGH_RUNS.filter((run) => run.kind === kind), alike = runs.filter((run) => run.length === L);
    const chosen = alike.find((run) => run.s === s), full = alike.find((run) => run.s === 1);
    const half = width > 560 ? Math.floor(width / 2) - 8 : width;
    const curves = (x) => [...new Set(runs.map((run) => run.length))].flatMap((n) => {
      const points = runs.filter((run) => run.length === n).map((run) => [run[x], run.kl]);
      return [{ points, color: COLORS[n], wide: n === L, dash: n === L ? null : "5 4", name: `L = ${n.toLocaleString("en")}` }, { points, color: COLORS[n], dots: 3 }];
    }).concat(chosen ? [{ points: [[chosen[x], chosen.kl]], color: COLORS[L], dots: 7 }] : []);
    const y = { ...decades(runs.map((run) => run.kl)), label: "divergence (nats)" };
    const words = chosen ? [element("b", {}, `${number(chosen.kl)} nats per number`), ` from the truth, with ${number(chosen.dim_z)} numbers kept after half of the sequence: ${
      plainShare(chosen.dim_z / full.dim_z)} of full attention's.`]
      : [alike.length ? `No network was trained with this s; for this length there are s = ${alike.map((run) => run.s).join(", ")}.`
        : `No network was trained on these data at this length; there are L = ${[...new Set(runs.map((run) => run.length))].join(" and ")}.`];
    return [words,
      chart({ width: half, x: { from: -0.03, to: 1.03, label: "s; dashed: s = β" }, y, curves: curves("s"), lines: [{ x: KINDS[kind][0], dash: "7 5" }], alt: "Divergence against the exponent of the memory, by length." }),
      chart({ width: half, x: { ...decades(runs.map((run) => run.dim_z)), label: "numbers kept after L/2" }, y, curves: curves("dim_z"), alt: "Divergence against how many numbers are kept, by length." }),
      legend(curves("s"))];
  });

  function plainShare(share) { return share < 0.1 ? `${(100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%`; }
};
