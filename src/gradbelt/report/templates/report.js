"use strict";
(() => {
  const { figures, lang, modebar, copied } = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const phone = matchMedia("(max-width: 640px)");

  // "var(--name)" anywhere in a figure becomes what the style sheet says now; long arrays hold numbers only
  const paint = (value, style) => {
    if (typeof value === "string") {
      return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) {
      const numbers = typeof value[0] !== "string" && typeof value[0] !== "object" && typeof value.at(-1) === "number";
      return numbers ? value : value.map((item) => paint(item, style));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, paint(item, style)]));
    }
    return value;
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const figure of figures) {
      const target = document.getElementById(figure.id);
      if (!target) continue;
      const data = figure.data.map(({ z, names, ...trace }) => {
        const painted = paint(trace, style);
        if (z) painted.z = z;
        if (names) painted.text = z.map((row, i) => Array(row.length).fill(names[i]));
        return painted;
      });
      const layout = paint(figure.layout, style);
      layout.dragmode = phone.matches ? false : "zoom"; // a finger scrolls the page
      if (phone.matches) {
        layout.font.size = 11;
        layout.margin = { ...layout.margin, l: 4, r: 4 };
        for (const [path, value] of Object.entries(figure.narrow ?? {})) {
          const [axis, key] = path.split(".");
          layout[axis][key] = value;
        }
      }
      Plotly.react(target, data, layout, {
        displaylogo: false,
        responsive: true,
        displayModeBar: phone.matches ? false : "hover",
        modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
        locale: lang,
        locales: { [lang]: { dictionary: modebar } },
      });
    }
  };

  draw();
  dark.addEventListener("change", draw);
  phone.addEventListener("change", draw);

  for (const button of document.querySelectorAll("button[data-copy]")) {
    const text = button.textContent;
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = copied;
      setTimeout(() => { button.textContent = text; }, 1500);
    });
  }
})();
