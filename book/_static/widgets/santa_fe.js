/* Chapter 1: a source whose two exponents, of I_TP and of I_BP, can be chosen apart. */
"use strict";

Widgets.santa_fe = (host) => {
  const { chart, legend, slider, move, element, decades } = Figure;
  const FACTS = 2000, distances = Array.from({ length: 11 }, (_, i) => 2 ** i), lengths = distances.map((d) => 2 * d);
  const known = (beta, decay) => {
    const source = Scaling.santaFe(FACTS, beta, decay);
    return { tp: Scaling.twoPoint(source, distances), bp: Scaling.bipartite(source, lengths) };
  };
  const fixed = known(0.4, 0.9);
  const growth = slider({ label: "β, how the information grows", min: 0.2, max: 0.9, step: 0.05, value: 0.8, say: (v) => v.toFixed(2) });
  const decay = slider({ label: "α, how two tokens forget", min: 0.1, max: 1.8, step: 0.1, value: 0.9, say: (v) => v.toFixed(1) });

  move(host, "Move it: two exponents of one text", [growth, decay], (width) => {
    const beta = growth.value(), most = 2 - beta, alpha = Math.min(decay.value(), most);
    const own = known(beta, alpha), half = width > 560 ? Math.floor(width / 2) - 8 : width;
    const curves = (name, x) => [
      { points: x.map((v, i) => [v, fixed[name][i]]), color: "var(--green)", dash: "7 5", name: "β = 0.4, α = 0.9, for comparison" },
      { points: x.map((v, i) => [v, own[name][i]]), color: "var(--blue)", wide: true, name: `β = ${beta.toFixed(2)}, α = ${alpha.toFixed(1)}` },
      { points: x.map((v, i) => [v, own[name][i]]), color: "var(--blue)", dots: 4 }];
    const [alphaSeen, betaSeen] = [-Scaling.lastSlope(distances, own.tp), Scaling.lastSlope(lengths, own.bp)].map((v) => v.toFixed(2));
    const capped = decay.value() > most + 1e-9 ? ` (α is at most 2 − β = ${most.toFixed(2)}, and taken as that.)` : "";
    return [["At the right end of the curves ", element("b", {}, "I", element("sub", {}, "TP"), " falls like d", element("sup", {}, `−${alphaSeen}`)), " and ",
      element("b", {}, "I", element("sub", {}, "BP"), " grows like L", element("sup", {}, betaSeen)), `.${capped} Change one exponent, and watch the other curve.`],
    chart({ width: half, x: { from: 0.9, to: 1150, base: 2, label: "distance d" }, y: { ...decades([1e-6, 1]), label: "two-point information (nats)" }, curves: curves("tp", distances),
      alt: `Two-point information against distance, falling like d to the power −${alphaSeen} at the end.` }),
    chart({ width: half, x: { from: 1.8, to: 2300, base: 2, label: "length L" }, y: { ...decades([1e-3, 100]), label: "bipartite information (nats)" }, curves: curves("bp", lengths),
      alt: `Bipartite information against length, growing like L to the power ${betaSeen} at the end.` }),
    legend(curves("tp", distances))];
  });
};
