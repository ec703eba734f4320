/* Laws and sources by the arithmetic of l2m.information.scaling and l2m.sources.santa_fe; no page needed. */
"use strict";

const Scaling = (() => {
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

  /* A·x^b by least squares on log y: {amplitude, beta}; null if it is not determined. */
  function fitPowerLaw(x, y) {
    if (x.length < 3 || !y.every((v) => v > 0 && Number.isFinite(v))) return null;
    const [X, Y] = [x.map(Math.log), y.map(Math.log)];
    const [mx, my] = [mean(X), mean(Y)];
    const beta = mean(X.map((v, i) => (v - mx) * (Y[i] - my))) / mean(X.map((v) => (v - mx) ** 2));
    return { amplitude: Math.exp(my - beta * mx), beta };
  }

  /* The direct estimate with so much weight on the entropy of 2-grams: from {mi, shift, variance, covariance,
     shift_variance} by length, its [mean, standard error]; nats. */
  const corrected = ({ mi, shift, variance, covariance, shift_variance }, weight) =>
    [mi + weight * shift, Math.sqrt(variance + 2 * weight * covariance + weight ** 2 * shift_variance)];

  /* The slope d log y / d log x between the last two points. */
  const lastSlope = (x, y) => Math.log(y.at(-1) / y.at(-2)) / Math.log(x.at(-1) / x.at(-2));

  /* What a fair bit says of another that differs from it with such a probability: nats. */
  function bitInformation(change) {
    const same = 1 - change;
    return Math.LN2 + (change > 0 ? change * Math.log(change) : 0) + (same > 0 ? same * Math.log(same) : 0);
  }

  /* A Santa Fe source: K facts, p_k ∝ k^(−1/β), flipping with μ_k = p_k^γ / 2, γ = (2 − β)/α. */
  function santaFe(facts, beta, decay) {
    const weight = Float64Array.from({ length: facts }, (_, k) => (k + 1) ** (-1 / beta));
    const total = weight.reduce((sum, w) => sum + w, 0);
    const probability = weight.map((w) => w / total);
    return { probability, stays: probability.map((p) => Math.log1p(-(p ** ((2 - beta) / decay)))) };
  }

  /* Probability that a value differs so many tokens later. */
  const change = (stays, gap) => -Math.expm1(gap * stays) / 2;

  /* I_TP(d) in nats, by distance. */
  const twoPoint = ({ probability, stays }, distances) => distances.map((d) =>
    probability.reduce((sum, p, k) => sum + p * p * bitInformation(change(stays[k], d)), 0));

  /* I_BP(L/2; L) in nats, for even lengths: over gaps between the last telling in X and the first in Y. What a gap
     tells is smooth in its logarithm: it is summed over facts for some gaps, and interpolated by cubics between. */
  function bipartite({ probability, stays }, lengths) {
    const longest = Math.max(...lengths), gaps = [];
    for (let gap = 1; gap < longest; gap = gap < 64 ? gap + 1 : Math.ceil(gap * 1.05)) gaps.push(gap);
    if (gaps.at(-1) < longest - 1) gaps.push(longest - 1);
    const nodes = gaps.map(Math.log), values = gaps.map((gap) => Math.log(probability.reduce((sum, p, k) =>
      sum + p * p * Math.exp((gap - 1) * Math.log1p(-p)) * bitInformation(change(stays[k], gap)), 0)));
    const byGap = new Float64Array(longest);
    for (let gap = 1, left = 0; gap < longest; gap++) {
      while (left < gaps.length - 2 && gaps[left + 1] <= gap) left++;
      const first = Math.max(0, Math.min(left - 1, gaps.length - 4));
      byGap[gap] = Math.exp(cubic(nodes.slice(first, first + 4), values.slice(first, first + 4), Math.log(gap)));
    }
    return lengths.map((L) => byGap.slice(0, L).reduce((sum, g, gap) => sum + Math.min(gap, L - gap, L / 2) * g, 0));
  }

  /* The polynomial through a few points, at x (Lagrange). */
  const cubic = (xs, ys, x) => ys.reduce((sum, y, i) =>
    sum + y * xs.reduce((product, other, j) => (j === i ? product : product * (x - other) / (xs[i] - other)), 1), 0);

  return { fitPowerLaw, corrected, lastSlope, santaFe, twoPoint, bipartite };
})();

if (typeof module !== "undefined") module.exports = Scaling;
