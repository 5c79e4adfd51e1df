// Small charts as SVG, with a table of the same figures for those who do not see them.

import { h, newId, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [300, 90];

/** Return a line of counts without axes. */
export function sparkline(counts, [width, height] = [80, 16]) {
  const most = Math.max(1, ...counts);
  const points = counts.map((count, at) => `${((at * width) / Math.max(1, counts.length - 1)).toFixed(1)},${(height - 1 - (count / most) * (height - 2)).toFixed(1)}`);
  const line = svg("polyline", { points: points.join(" "), class: "line one" });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "spark", "aria-hidden": "true" }, line);
}

/** Return a round number at or above `value`, by which an axis ends. */
export function axisEnd(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((end) => end >= value * 0.999999);
}

/** A chart of the last `length` points, `seconds` apart; of as many minutes as there are points for. */
export class Chart {
  #points = [];

  /** `series`: rows of `{name, of(point)}`; `format(value)` says a value in words; `end`: the axis ends no lower. */
  constructor(title, series, { format, length, seconds, end = 0 }) {
    Object.assign(this, { title, series, format, length, seconds, end });
    const id = newId("chart");
    this.top = svg("text", { x: 2, y: 10, class: "axis" });
    this.lines = series.map((_, at) => svg("polyline", { class: `line ${["one", "two", "three", "four"][at]}`, points: "" }));
    const grid = [1, HEIGHT / 2, HEIGHT - 1].map((y) => svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y, class: "grid" }));
    const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...grid, ...this.lines);
    this.scale = h("span", { class: "scale" });
    this.time = h("span", { class: "scale time" });
    this.legend = series.map(({ name }, at) => {
      const value = h("b", {}, "–");
      return { value, item: h("li", { class: ["one", "two", "three", "four"][at] }, h("span", { class: "swatch" }), `${name} `, value) };
    });
    this.body = h("tbody", {});
    const table = h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Seconds ago"), ...series.map(({ name }) => h("th", { scope: "col" }, name)))), this.body);
    this.details = h("details", { ontoggle: () => this.#fillTable() }, h("summary", {}, "Table"), h("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": `${title}, table` }, table));
    this.element = h(
      "figure",
      { class: "chart", "aria-labelledby": id },
      h("figcaption", { id }, title),
      h("div", { class: "drawing" }, drawing, this.scale, this.time),
      h("ul", { class: "legend" }, ...this.legend.map(({ item }) => item)),
      this.details,
    );
  }

  clear() {
    this.#points = [];
    this.#paint();
  }

  add(point) {
    this.#points.push(point);
    if (this.#points.length > this.length) this.#points.shift();
    this.#paint();
  }

  #paint() {
    const all = this.series.map(({ of }) => this.#points.map(of));
    const values = all.flat().filter((value) => value !== null);
    const most = axisEnd(Math.max(this.end, ...values) * 1.2); // so that no line runs behind the words above
    this.scale.textContent = this.format(most);
    const minutes = Math.max(1, Math.ceil(((this.#points.length - 1) * this.seconds) / 60));
    const width = Math.min(this.length, (minutes * 60) / this.seconds + 1);
    this.time.textContent = minutes === 1 ? "last minute" : `last ${minutes} min`;
    all.forEach((values, at) => {
      const start = width - values.length;
      const points = values.flatMap((value, place) => {
        if (value === null) return [];
        const x = ((start + place) * WIDTH) / (width - 1);
        return [`${x.toFixed(1)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 2)).toFixed(1)}`];
      });
      this.lines[at].setAttribute("points", points.join(" "));
      const last = values.at(-1);
      this.legend[at].value.textContent = last === undefined || last === null ? "–" : this.format(last);
    });
    if (this.details.open) this.#fillTable();
  }

  #fillTable() {
    if (!this.details.open) return;
    const rows = this.#points.map((point, at) => {
      const ago = (this.#points.length - 1 - at) * this.seconds;
      return h("tr", {}, h("th", { scope: "row" }, String(ago)), ...this.series.map(({ of }) => h("td", {}, of(point) === null ? "–" : this.format(of(point)))));
    });
    this.body.replaceChildren(...rows.reverse());
  }
}
