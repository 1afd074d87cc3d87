/* What the theme leaves to do: print a dark page as a light one, let the keyboard scroll what is
 * wider than its place, and name folds by their own words. */
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
  const BOXES = 'article pre, article div.math, article mjx-container[display="true"], article div.output, article div.pst-scrollable-table-container';
  const words = (box) => (box.matches("pre") ? "code or text" : box.matches(".math, mjx-container") ? "formula" : "output");
  const mark = () => {
    for (const box of document.querySelectorAll(BOXES)) {
      const wide = box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX);
      if (wide && !box.hasAttribute("tabindex")) {
        box.dataset.gloroStop = "";
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", `${words(box)}, wider than the page: it scrolls`);
      } else if (!wide && "gloroStop" in box.dataset) {
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
    // A fold is named by the words that it shows: its label would say something else to those who speak to their machine.
    for (const fold of document.querySelectorAll("article details > summary[aria-label]")) {
      if (fold.textContent.trim()) fold.removeAttribute("aria-label");
    }
    mark();
    window.MathJax?.startup?.promise?.then(later);
    const article = document.querySelector("article");
    if (article) new ResizeObserver(later).observe(article);
  });
})();
