/* The history state of a model and the L²M condition, as in l2m/history_state.py; no page needed.
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

  /* The law of growth: {law, exponent, rate}, rate in scalars a token, a doubling, or at most. */
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

  /* The first length at which the state after L/2 tokens is too small; Infinity if none below 10^18. */
  function reach(memories, law, C, M) {
    const short = (L) => dim(memories, Math.floor(L / 2)) < required(L, law, C, M);
    let low = 2;
    for (let decade = 0.5; decade <= 18; decade += 0.005) {
      const high = Math.round(10 ** decade);
      if (!short(high)) { low = high; continue; }
      let [fits, fails] = [low, high];
      while (fails - fits > 1 && fails - fits > 1e-9 * fails) {
        const middle = Math.floor((fits + fails) / 2);
        if (short(middle)) fails = middle; else fits = middle;
      }
      return fails;
    }
    return Infinity;
  }

  return { dim, growth, satisfies, information, required, reach };
})();

if (typeof module !== "undefined") module.exports = HistoryState;
