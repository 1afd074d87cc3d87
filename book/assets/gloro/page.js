/* What the theme leaves to do: print a dark page as a light one, and let the keyboard scroll what is wider than its place. */
(() => {
  "use strict";
  const root = document.documentElement;

  let theme = null;
  window.addEventListener("beforeprint", () => {
    if (root.dataset.theme !== "dark") return;
    theme = root.dataset.theme;
    root.dataset.theme = "light";
  });
  window.addEventListener("afterprint", () => {
    if (theme) root.dataset.theme = theme;
    theme = null;
  });

  /** Boxes that scroll sideways are stops for the Tab key, with a name, as long as they do. */
  const BOXES = "article pre, article div.math, article .output, article .pst-scrollable-table-container, article .table-wrapper";
  const NAMES = { PRE: "Code or text, wider than the page", DIV: "Wider than the page" };
  const mark = () => {
    for (const box of document.querySelectorAll(BOXES)) {
      const wide = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
      if (wide) {
        if (!box.hasAttribute("tabindex")) box.dataset.gloroStop = "";
        box.tabIndex = 0;
        if (!box.hasAttribute("aria-label")) {
          box.setAttribute("role", "region");
          box.setAttribute("aria-label", NAMES[box.tagName]);
        }
      } else if ("gloroStop" in box.dataset) {
        delete box.dataset.gloroStop;
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  };
  let due = 0;
  const later = () => {
    clearTimeout(due);
    due = setTimeout(mark, 150);
  };
  window.addEventListener("load", () => {
    mark();
    window.MathJax?.startup?.promise?.then(later);
    const article = document.querySelector("article");
    if (article) new ResizeObserver(later).observe(article);
  });
})();
