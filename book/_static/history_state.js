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
  };

  /* Scalars kept after L tokens. */
  function dim(memories, L) {
    return memories.reduce(
      (sum, [, width, slots, size, layers]) => sum + layers * width * SLOTS[slots](L, size), 0);
  }

  /* The law of growth: {law, exponent, rate}, rate in scalars per token, per doubling, or at most. */
  function growth(memories) {
    const rate = { tokens: 0, levels: 0, bounded: 0 };
    for (const [, width, slots, size, layers] of memories) {
      const scalars = layers * width;
      if (slots === "tokens") rate.tokens += scalars;
      else if (slots === "blocks") rate.tokens += scalars / size;
      else if (slots === "levels") rate.levels += scalars;
      else rate.bounded += slots === "window" ? scalars * size : scalars;
    }
    if (rate.tokens) return { law: "linear", exponent: 1, rate: rate.tokens };
    if (rate.levels) return { law: "logarithmic", exponent: 0, rate: rate.levels };
    return { law: "bounded", exponent: 0, rate: rate.bounded };
  }

  /* Whether one model for all lengths can meet dim(z) ≿ L^β (Theorem 5.4). */
  const satisfies = (memories, beta) => growth(memories).exponent >= beta;

  /* I_BP(L/2; L) in nats, by the law A·L^β. */
  const information = (L, { amplitude, beta }) => amplitude * L ** beta;

  /* Scalars needed to carry it, C nats each, the last token carrying log M (Theorem 5.2). */
  const required = (L, law, C, M) => Math.max(information(L, law) - Math.log(M), 0) / C;

  const LONGEST = 1e18; // tokens: `reach` looks no further

  /* The first length whose information the state after half of it cannot carry; Infinity if none up to LONGEST.
     Solved, not searched on a grid: see reach in l2m/memory/l2m_condition.py. */
  function reach(memories, law, C, M) {
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
