/* The history state of a model and the L²M condition, as in l2m/memory; no page needed.
   A model is a list of memories [what, width, slots, size, layers]; lengths are whole tokens. */
"use strict";

const HistoryState = (() => {
  // How many slots of a memory are filled after L tokens; n is the memory's own size.
  const SLOTS = {
    tokens: (L) => L,
    window: (L, n) => Math.min(L, n),
    state: () => 1,
    levels: (L) => (L > 0 ? L.toString(2).length : 0), // ⌊log₂ L⌋ + 1
    blocks: (L, n) => Math.floor(L / n),
    power,
  };

  /* Of power attention, as Blocks.count in l2m/memory/blocks.py: a window, and blocks of base^j tokens. */
  function power(L, [s, slots, base, window]) {
    let rest = Math.max(0, window * (Math.floor((L + 1) / window) - 1)), total = L - rest;
    for (let j = 0; rest > 0; j += 1, rest = Math.floor(rest / base)) {
      total += (rest % base) * Math.min(base ** j, Math.max(1, rounded(slots * base ** (s * j))));
    }
    return total;
  }

  /* To the nearest whole number, halves to an even one, as Python rounds. */
  const rounded = (x) => (x % 2 === 0.5 ? x - 0.5 : Math.round(x));

  /* Scalars kept after L tokens. */
  function dim(memories, L) {
    return memories.reduce(
      (sum, [, width, slots, size, layers]) => sum + layers * width * SLOTS[slots](L, size), 0);
  }

  /* The law of growth: {law, exponent, rate}, rate in scalars per L^exponent, per doubling, or at most. */
  function growth(memories) {
    const terms = memories.map(growthOf), log = ({ law }) => law === "logarithmic";
    const first = [...terms].sort((a, b) => b.exponent - a.exponent || log(b) - log(a))[0];
    const alike = terms.filter(({ law, exponent }) => law === first.law && exponent === first.exponent);
    return { ...first, rate: alike.reduce((sum, { rate }) => sum + rate, 0) };
  }

  function growthOf([, width, slots, size, layers]) {
    const scalars = layers * width;
    if (slots === "power") {
      const [s, c, base] = size;
      if (s === 0) return { law: "logarithmic", exponent: 0, rate: scalars * Math.max(1, rounded(c)) * (base - 1) / Math.log2(base) };
      if (s < 1) return { law: "power", exponent: s, rate: scalars * c * (base - 1) / (base ** s - 1) };
      return { law: "linear", exponent: 1, rate: scalars * Math.min(c, 1) };
    }
    if (slots === "tokens" || slots === "blocks") return { law: "linear", exponent: 1, rate: scalars / (size || 1) };
    if (slots === "levels") return { law: "logarithmic", exponent: 0, rate: scalars };
    return { law: "bounded", exponent: 0, rate: scalars * (size || 1) };
  }

  /* Whether one model for all lengths can meet dim(z) ≿ L^β (Theorem 5.4). */
  const satisfies = (memories, beta) => growth(memories).exponent >= beta;

  /* I_BP(L/2; L) in nats, by the law A·L^β. */
  const information = (L, { amplitude, beta }) => amplitude * L ** beta;

  /* Scalars needed to carry it, C nats each, the last token carrying log M (Theorem 5.2). */
  const required = (L, law, C, M) => Math.max(information(L, law) - Math.log(M), 0) / C;

  const LONGEST = 1e18; // tokens: `reach` looks no further

  /* The first length whose information the state after half of it cannot carry; Infinity if none up to LONGEST, NaN where
     slots merge, since such a state can fall. Solved, not searched on a grid: see reach in l2m/memory/l2m_condition.py. */
  function reach(memories, law, C, M) {
    if (memories.some(([, , slots]) => slots === "power")) return NaN;
    const slope = memories.reduce((sum, [, width, slots, , layers]) => sum + (slots === "tokens" ? layers * width : 0), 0);
    const need = (L) => (information(L, law) - Math.log(M)) / C;
    const lowest = lowestSpare(law, slope * C);
    for (let n = 1; ; ) {
      const start = n, kept = dim(memories, n);
      if (kept < need(2 * n + 1)) return kept < need(2 * n) ? 2 * n : 2 * n + 1;
      const spare = (m) => kept + slope * (m - start) - need(2 * m + 1);
      let [fits, fails] = [n, Math.max(lowest, n)];
      if (spare(fails + 1) < spare(fails)) fails += 1;
      if (spare(fails) >= 0) return Infinity;
      for (let middle; (middle = Math.floor((fits + fails) / 2)) > fits && middle < fails; ) {
        if (spare(middle) < 0) fails = middle; else fits = middle;
      }
      n = fails;
    }
  }

  /* The whole m before the minimum of slope·m − A·(2m + 1)^β, at most that of LONGEST. */
  function lowestSpare({ amplitude, beta }, slope) {
    if (slope === 0 || (beta === 1 && slope < 2 * amplitude)) return beta > 0 ? LONGEST / 2 : 0;
    if (beta === 1) return 0;
    const L = (2 * amplitude * beta / slope) ** (1 / (1 - beta));
    return Math.floor(Math.min(Math.max(L - 1, 0), LONGEST) / 2);
  }

  return { dim, growth, satisfies, information, required, reach };
})();

if (typeof module !== "undefined") module.exports = HistoryState;
