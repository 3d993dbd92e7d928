/** The chart: paid and held tickets over time, as two areas, one on the other. */

import { serviceTime } from "./api.js";
import { element } from "./dom.js";
import { formatDate, formatRecent, formatShort } from "./times.js";
import { formatNumber } from "./words.js";

const HEIGHT = 240;
const MARGIN = { top: 14, right: 8, bottom: 26, left: 8 };
// A pause after the last change is shown up to this part of the whole.
const PAUSE = 0.25;
const SHORTEST_SPAN = 30_000;
const ROWS = 8;

export class Chart {
  #points = [];
  #svg = svg("svg", { role: "img", height: HEIGHT });
  #reading = element("p", { class: "muted reading" });
  #rows = element("tbody");

  constructor(place, signal) {
    const head = ["Time", "Paid", "Held"].map((text) => element("th", { scope: "col" }, text));
    place.append(
      element("div", { class: "chart" }, this.#svg), this.#reading,
      element("details", { class: "figures" }, element("summary", {}, "Figures"),
        element("table", {}, element("thead", {}, element("tr", {}, ...head)), this.#rows)));
    const observer = new ResizeObserver(() => this.draw());
    observer.observe(this.#svg.parentNode);
    signal.addEventListener("abort", () => observer.disconnect());
    this.#svg.addEventListener("pointermove", (event) => this.#read(event.offsetX));
    this.#svg.addEventListener("pointerleave", () => this.#read(null));
  }

  update(points) {
    this.#points = points;
    this.draw();
  }

  draw() {
    const points = this.#points;
    const width = this.#svg.parentNode.clientWidth;
    if (!width || !points.length) return;
    const first = points[0].time;
    const last = points.at(-1).time;
    const span = Math.max(SHORTEST_SPAN, last - first);
    // With a point for the present, so that the chart grows while nothing is sold, too.
    const end = Math.max(first + SHORTEST_SPAN, Math.min(serviceTime(), last + span * PAUSE));
    const most = Math.max(...points.map((point) => point.paid + point.held));
    const total = points.at(-1).total;
    const top = most * 2 >= total ? Math.max(total, most) : niceAbove(most);
    const x = (time) => MARGIN.left + (time - first) / (end - first) * (width - MARGIN.left - MARGIN.right);
    const y = (tickets) => HEIGHT - MARGIN.bottom - tickets / top * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.#scale = { x, first, end, width };
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.setAttribute("width", width);
    const shown = onePerColumn(points, x);
    this.#svg.replaceChildren(
      ...[0, top / 2, top].map((tickets) => svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tickets), y2: y(tickets) })),
      svg("path", { class: "held", d: area(shown, x, y, end, (point) => point.paid + point.held) }),
      svg("path", { class: "paid", d: area(shown, x, y, end, (point) => point.paid) }),
      label(MARGIN.left, y(top) - 4, formatNumber(Math.round(top)), "start"),
      ...(top >= 2 ? [label(MARGIN.left, y(top / 2) - 4, formatNumber(Math.round(top / 2)), "start")] : []),
      ...times(first, end, x, width),
      this.#line);
    const now = points.at(-1);
    this.#svg.setAttribute("aria-label", `Since ${formatDate(first)}: ${formatNumber(now.paid)} paid and ${formatNumber(now.held)} held of ${formatNumber(total)}`);
    this.#fillRows(points);
    if (!this.#reading.textContent) this.#read(null);
  }

  #scale = null;
  #line = svg("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });

  /** Shows the counts at a place of the chart; with null, how to get them. */
  #read(offset) {
    if (!this.#scale || !this.#points.length) return;
    this.#line.setAttribute("visibility", offset === null ? "hidden" : "visible");
    if (offset === null) {
      this.#reading.replaceChildren(
        element("span", { class: "key" }, element("i", { class: "paid" }), "paid"),
        element("span", { class: "key" }, element("i", { class: "held" }), "held"));
      return;
    }
    const { first, end, width } = this.#scale;
    const time = first + (offset - MARGIN.left) / (width - MARGIN.left - MARGIN.right) * (end - first);
    const point = this.#points.findLast((candidate) => candidate.time <= time) ?? this.#points[0];
    this.#line.setAttribute("x1", offset);
    this.#line.setAttribute("x2", offset);
    this.#reading.textContent = `${formatRecent(time)}: ${formatNumber(point.paid)} paid, ${formatNumber(point.held)} held`;
  }

  #fillRows(points) {
    const step = Math.max(1, Math.ceil(points.length / ROWS));
    const chosen = points.filter((_, index) => (points.length - 1 - index) % step === 0);
    this.#rows.replaceChildren(...chosen.map((point) => element("tr", {},
      element("td", {}, formatRecent(point.time)), element("td", {}, formatNumber(point.paid)), element("td", {}, formatNumber(point.held)))));
  }
}

function svg(name, attributes, ...content) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...content);
  return node;
}

function label(x, y, text, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, text);
}

function times(first, end, x, width) {
  const steps = width > 560 ? 4 : 2;
  return Array.from({ length: steps + 1 }, (_, index) => {
    const time = first + index / steps * (end - first);
    const anchor = index === 0 ? "start" : index === steps ? "end" : "middle";
    return label(x(time), HEIGHT - 8, formatShort(time, end - first), anchor);
  });
}

/** Returns the last point of each column of pixels. */
function onePerColumn(points, x) {
  return points.filter((point, index) => {
    const next = points[index + 1];
    return !index || !next || Math.floor(x(point.time)) !== Math.floor(x(next.time));
  });
}

/** Returns the path of an area with steps: a count stays until it changes. */
function area(points, x, y, end, tickets) {
  const round = (number) => Math.round(number * 10) / 10;
  let path = `M${round(x(points[0].time))} ${round(y(0))}`;
  for (const point of points) path += `H${round(x(point.time))}V${round(y(tickets(point)))}`;
  return `${path}H${round(x(end))}V${round(y(0))}Z`;
}

/** Returns a round number above the highest count. */
function niceAbove(number) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, number)));
  return [1, 2, 4, 5, 10, 20].map((factor) => factor * power).find((candidate) => candidate > number);
}
