/* What the pages do in the browser: a switch for the code, formulas that stay whole, boxes that scroll by key, and
   figures to move. */
"use strict";

(() => {
  const root = document.documentElement;

  // --- The switch that hides all code; the browser remembers it ---------------------------------
  const isHidden = () => root.classList.contains("hide-code");
  function addSwitch() {
    const place = document.querySelector(".article-header-buttons");
    if (!place || !document.querySelector(".cell_input")) return;
    const button = document.createElement("button");
    button.className = "btn btn-sm nav-link pst-navbar-icon hide-code-button";
    button.innerHTML = '<i class="fa-solid fa-code" aria-hidden="true"></i>';
    button.setAttribute("aria-label", "Hide the code");
    const show = () => {
      button.title = isHidden() ? "Show the code" : "Hide the code";
      button.setAttribute("aria-pressed", isHidden());
    };
    button.addEventListener("click", () => {
      root.classList.toggle("hide-code");
      localStorage.setItem("hide-code", isHidden() ? "yes" : "");
      show();
      fit();
    });
    show();
    place.prepend(button);
  }

  // --- A full stop after a formula stays on the formula's line ----------------------------------
  function keepTogether() {
    for (const formula of document.querySelectorAll("span.math")) {
      const next = formula.nextSibling;
      const stop = next?.nodeType === Node.TEXT_NODE && next.data.match(/^[.,;:?!)\]’”]+/);
      if (!stop) continue;
      next.data = next.data.slice(stop[0].length);
      const whole = document.createElement("span");
      whole.className = "unbroken";
      formula.replaceWith(whole);
      whole.append(formula, stop[0]);
    }
  }

  // --- What is wider than the page scrolls in its own box, which the keyboard can reach ---------
  function boxTables() {
    for (const table of document.querySelectorAll("article table")) {
      if (table.closest(".pst-scrollable-table-container, form")) continue;
      const box = document.createElement("div");
      box.className = "table-box";
      table.replaceWith(box);
      box.append(table);
    }
  }
  const INLINE = "span.unbroken, :not(.unbroken) > span.math";
  const BOXES = `${INLINE}, div.math, article pre, .cell_output .output, .pst-scrollable-table-container, .table-box`;
  const BLOCKS = "p, li, dt, dd, td, th, figcaption, div";
  function fit() {
    for (const box of document.querySelectorAll(BOXES)) {
      box.classList.remove("scrolls");
      const wide = box.matches(INLINE)
        ? box.getBoundingClientRect().width > box.closest(BLOCKS).clientWidth
        : box.scrollWidth > box.clientWidth;
      box.classList.toggle("scrolls", wide);
      if (wide) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  // --- Figures to move, where a page has a place for one: <div data-widget="law"></div> -----------
  const here = new URL("./", document.currentScript.src);
  const WIDGETS = { law: ["scaling", "data"], santa_fe: ["scaling"], condition: ["../history_state", "../history_state_models"], just_enough: ["data"] };
  function addWidgets() {
    const hosts = [...document.querySelectorAll("[data-widget]")].filter(({ dataset }) => dataset.widget in WIDGETS);
    if (!hosts.length) return;
    const names = hosts.map(({ dataset }) => dataset.widget);
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("widgets/widgets.css", here) });
    document.head.append(link);
    const files = new Set(["figure", ...names.flatMap((name) => WIDGETS[name]), ...names]);
    const scripts = [...files].map((name) => Object.assign(document.createElement("script"), { src: new URL(`widgets/${name}.js`, here), async: false }));
    scripts.at(-1).addEventListener("load", () => hosts.forEach((host) => Widgets[host.dataset.widget](host)));
    document.head.append(...scripts);
  }

  addWidgets();
  if (localStorage.getItem("hide-code")) root.classList.add("hide-code");
  addEventListener("load", async () => {
    addSwitch();
    boxTables();
    keepTogether();
    // A list has items: docutils gives the entries of the bibliography another role.
    for (const entry of document.querySelectorAll(".citation-list > .citation")) entry.setAttribute("role", "listitem");
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
    fit();
    addEventListener("resize", fit);
    document.fonts.addEventListener("loadingdone", fit); // a font that came late changes widths
    root.dataset.ready = "yes"; // for whoever waits for the finished page: tests and the printer
  });
})();
