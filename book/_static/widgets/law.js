/* Chapter 3: how the exponent of the law hangs on the lengths that are fitted, and on the first two tokens of Y. */
"use strict";

Widgets.law = (host) => {
  const { chart, legend, slider, move, element } = Figure;
  const lengths = Array.from({ length: 12 }, (_, i) => 2 ** (i + 2));
  const shortest = slider({ label: "Shortest length fitted", steps: lengths.slice(0, -2), value: 4 });
  const longest = slider({ label: "Longest length fitted", steps: lengths.slice(2), value: 2048 });
  const weight = slider({ label: "Weight of the 2-gram entropy", max: 1, step: 0.05, value: 0.8, say: (w) => w.toFixed(2) });

  move(host, "Move it: the law hangs on where one looks", [shortest, longest, weight], (width) => {
    const [low, high, w] = [shortest, longest, weight].map((field) => field.value());
    const rows = LAW_CURVES[high > 2048 ? 400 : 1000], used = rows.filter(({ length }) => length >= low && length <= high);
    const x = used.map(({ length }) => length);
    const fit = (at) => Scaling.fitPowerLaw(x, used.map((row) => Scaling.corrected(row, at)[0]));
    const laws = { direct: fit(w), vclub: Scaling.fitPowerLaw(x, used.map((row) => row.vclub)) };
    const beta = (law) => (law ? law.beta.toFixed(2) : "undetermined");

    const points = {
      direct: rows.map((row) => [row.length, Scaling.corrected(row, w)[0], 1.96 * Scaling.corrected(row, w)[1]]),
      vclub: rows.map((row) => [row.length, row.vclub, 1.96 * Math.sqrt(row.vclub_variance)]),
    };
    const looks = { direct: { color: "var(--blue)", name: "direct, corrected" }, vclub: { color: "var(--vermillion)", name: "vCLUB" } };
    const line = ({ amplitude, beta: b }, ends) => ends.map((L) => [L, amplitude * L ** b]);
    const curves = [{ points: line({ amplitude: 2.27, beta: 0.76 }, [4, 8192]), color: "var(--grey)", dash: "7 5", name: "the paper, direct" }];
    for (const [name, look] of Object.entries(looks)) {
      const fitted = ([L]) => L >= low && L <= high;
      curves.push({ points: points[name].filter(fitted), dots: 4, ...look },
        { points: points[name].filter((p) => !fitted(p)), dots: 4, open: true, color: look.color });
      if (laws[name]) curves.push({ points: line(laws[name], [low, high]), color: look.color, wide: true },
        { points: line(laws[name], [4, 8192]), color: look.color, dash: "2 4" });
    }
    const half = width > 560 ? Math.floor(width / 2) - 8 : width;
    const bent = Array.from({ length: 41 }, (_, i) => [i / 40, fit(i / 40)?.beta ?? NaN]).filter(([, b]) => Number.isFinite(b));
    const exponents = [{ points: bent, color: "var(--blue)", wide: true },
      { points: laws.direct ? [[w, laws.direct.beta]] : [], color: "var(--blue)", dots: 6 }];
    const lines = [{ y: 0.76, color: "var(--grey)", dash: "7 5" }, { x: w }, ...(laws.vclub ? [{ y: laws.vclub.beta, color: "var(--vermillion)", dash: "none" }] : [])];

    const direct = laws.direct ? [element("b", {}, `β = ${beta(laws.direct)}`), " (direct, corrected)"]
      : ["no law (direct, corrected: with this weight its shortest value is not positive)"];
    const words = x.length < 3 ? ["A law needs three lengths: make the range longer."]
      : [`From L = ${low} to ${high.toLocaleString("en")}, in ${high > 2048 ? "400 longer" : "1,000"} windows: `, ...direct, ` and ${beta(laws.vclub)} (vCLUB). The paper has 0.76 and 0.71.`];
    return [words,
      chart({ width: half, x: { from: 3.4, to: 9600, base: 2, label: "length L (tokens)" }, y: { from: 0.7, to: 3000, base: 10, label: "nats" }, curves,
        alt: `Bipartite mutual information against length, with the fitted laws: β = ${beta(laws.direct)} and ${beta(laws.vclub)}.` }),
      chart({ width: half, x: { from: 0, to: 1, label: "weight of the 2-gram entropy" }, y: { from: 0.2, to: 1.1, label: "exponent β" }, curves: exponents, lines,
        alt: "The exponent of the direct estimate against the weight of the correction." }),
      legend(curves)];
  });
};
