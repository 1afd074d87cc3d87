/* Brings a page's anywidgets to life from the state that the notebook stored, without a kernel.
 *
 * It reads the two scripts that MyST-NB writes, of the types widget-state+json (all models) and widget-view+json (a place for one of
 * them), and calls each widget's own module as anywidget's protocol says: `render({ model, el })`. The build fails for a page that
 * holds other widgets (book/_ext/offline.py).
 */
(() => {
  "use strict";
  const TYPE = "application/vnd.jupyter.widget-";

  /** What anywidget gives to a module: the traits, and who listens to them. What is set stays in this page. */
  class Model {
    #traits;
    #listeners = new Map();
    constructor(traits) {
      this.#traits = traits;
    }
    get(name) {
      return this.#traits[name];
    }
    set(name, value) {
      const changed = typeof name === "string" ? { [name]: value } : name;
      for (const [key, next] of Object.entries(changed)) {
        if (this.#traits[key] === next) continue;
        this.#traits[key] = next;
        this.#tell(`change:${key}`, next);
      }
      this.#tell("change");
    }
    #tell(event, value) {
      for (const act of [...(this.#listeners.get(event) ?? [])]) act({}, value);
    }
    on(event, act) {
      if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
      this.#listeners.get(event).add(act);
    }
    off(event, act) {
      if (act) this.#listeners.get(event)?.delete(act);
      else this.#listeners.delete(event);
    }
    save_changes() {}
    send() {}
  }

  /** The traits of a stored model, its buffers put back where they came from. */
  function traits({ state, buffers = [] }) {
    const all = { ...state };
    for (const { path, data } of buffers) {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      const last = path[path.length - 1];
      let at = all;
      for (const key of path.slice(0, -1)) at = at[key];
      at[last] = new DataView(bytes.buffer);
    }
    return all;
  }

  /** A module from its text: the address of a blob can be imported from a page that was opened as a file too. */
  async function imported(text) {
    const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    try {
      return (await import(address)).default;
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  async function start() {
    const stored = document.querySelector(`script[type="${TYPE}state+json"]`);
    if (!stored) return;
    const { state } = JSON.parse(stored.textContent);
    const models = new Map();
    const styles = new Set();
    const shown = [...document.querySelectorAll(`script[type="${TYPE}view+json"]`)].map(async (place) => {
      const id = JSON.parse(place.textContent).model_id;
      const el = document.createElement("div");
      el.className = "gloro-mount";
      place.replaceWith(el);
      try {
        if (!models.has(id)) models.set(id, new Model(traits(state[id])));
        const model = models.get(id);
        const css = model.get("_css");
        if (css && !styles.has(css)) {
          styles.add(css);
          const sheet = document.createElement("style");
          sheet.textContent = css;
          document.head.append(sheet);
        }
        const given = await imported(model.get("_esm"));
        const widget = typeof given === "function" ? await given() : given;
        await widget.initialize?.({ model });
        await widget.render({ model, el });
      } catch (error) {
        el.textContent = `This picture could not start (${error.message}). A current browser is needed.`;
        throw error;
      }
    });
    await Promise.all(shown);
  }

  const parsed =
    document.readyState === "loading" ? new Promise((done) => document.addEventListener("DOMContentLoaded", done)) : Promise.resolve();
  const started = parsed.then(start);

  // Formulas come next: to set all of a page's holds a slow processor for seconds, and a widget only for as long as it takes to build.
  const startup = window.MathJax?.config?.startup;
  if (startup) {
    const typeset = startup.pageReady;
    startup.pageReady = () => started.then(typeset, typeset);
  }
})();
