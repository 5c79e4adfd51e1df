// The view of the server: what runs, how fast it answers, what it holds.

import { Chart } from "./chart.js";
import { clusterProblems, clusterText, machineRows } from "./cluster.js";
import { h } from "./dom.js";
import { compare } from "./figures.js";
import { session } from "./session.js";
import { countOf, countText, sizeText, spanText } from "./values.js";
import { rateText } from "./watching.js";

const EVERY_S = 2;
const POINTS = 150;

const latencyText = (seconds) => (seconds >= 1 ? `${seconds.toFixed(1)} s` : `${(seconds * 1000).toFixed(seconds < 0.01 ? 2 : 0)} ms`);

export class StatusView {
  #timer = 0;
  #before = null;
  #isAsking = false;

  constructor(box) {
    this.box = box;
    this.told = h("p", { class: "told", role: "status" }, "Loading …");
    this.facts = h("dl", { class: "cards" });
    this.tables = h("div", { class: "tables" });
    const options = { length: POINTS, seconds: EVERY_S };
    this.charts = [
      new Chart("Requests", [
        { name: "2xx", of: ({ requests }) => requests["2xx"] },
        { name: "4xx", of: ({ requests }) => requests["4xx"] },
        { name: "5xx", of: ({ requests }) => requests["5xx"] },
      ], { ...options, format: rateText }),
      new Chart("Latency", [
        { name: "median", of: ({ median }) => median },
        { name: "99 %", of: ({ p99 }) => p99 },
      ], { ...options, format: latencyText, end: 0.001 }),
      new Chart("Changes", [
        { name: "put", of: ({ changes }) => changes.put },
        { name: "delete", of: ({ changes }) => changes.delete },
        { name: "touch", of: ({ changes }) => changes.touch },
        { name: "expire", of: ({ changes }) => changes.expire },
      ], { ...options, format: rateText }),
      new Chart("Keys and values", [{ name: "bytes", of: ({ memory }) => memory }], { ...options, format: sizeText, end: 1024 }),
      new Chart("Feed clients", [{ name: "clients", of: ({ clients }) => clients }], { ...options, format: (count) => countText(Math.round(count)), end: 1 }),
      new Chart("Deliveries of the feed", [{ name: "events", of: ({ deliveries }) => deliveries }], { ...options, format: rateText }),
    ];
    box.append(this.told, this.facts, h("div", { class: "charts" }, ...this.charts.map(({ element }) => element)), this.tables);
    document.addEventListener("visibilitychange", () => this.#schedule());
  }

  start() {
    this.#schedule();
  }

  restart() {
    this.clear();
    this.#schedule();
  }

  /** Forget everything that was read. */
  clear() {
    this.#before = null;
    this.facts.replaceChildren();
    this.tables.replaceChildren();
    this.charts.forEach((chart) => chart.clear());
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  #schedule() {
    const isWanted = !this.box.hidden && document.visibilityState === "visible" && session.isOpen;
    if (!isWanted) return this.stop();
    if (this.#timer) return undefined;
    this.#timer = setInterval(() => this.#ask(), EVERY_S * 1000);
    return this.#ask();
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    const { kv } = session;
    try {
      const status = await kv.withOptions({ patience: 0, timeout: 5 }).status();
      if (kv === session.kv) this.#take(status);
    } catch (error) {
      if (session.isLockedBy(error)) return this.stop();
      const text = error.code === "forbidden" ? session.whyNot("admin", "") : `No answer: ${error.detail || error.message}`;
      this.#tell(text, true);
      if (error.code === "forbidden") this.stop();
    } finally {
      this.#isAsking = false;
    }
    return undefined;
  }

  #tell(text, isBad) {
    this.told.className = isBad ? "notice bad" : "told";
    if (this.told.textContent !== text) this.told.textContent = text;
  }

  #take(status) {
    if (this.#before) {
      const point = compare(this.#before, status);
      this.charts.forEach((chart) => chart.add(point));
    }
    this.#before = status;
    this.#tell(healthOf(status), healthOf(status) !== ALL_UP);
    const { memory, log } = status;
    const limit = memory.limit ? ` of ${sizeText(memory.limit)}, then ${memory.on_full}` : ", no limit";
    const rows = [
      ["Version", status.version],
      ["Up for", spanText(status.uptime_s)],
      ["Durability", DURABILITY[status.sync] ?? status.sync],
      ...(status.cluster ? [["Cluster", clusterText(status.cluster)]] : []),
      ["Keys", countText(status.shards.reduce((sum, { keys }) => sum + keys, 0))],
      ["Memory", `${sizeText(memory.used)}${limit}`],
      ["Evicted", countText(memory.evicted)],
      ["Log", `${sizeText(log.bytes)}${log.unapplied_bytes ? `, ${sizeText(log.unapplied_bytes)} to apply` : ""}`],
      ["Feed lag", countOf(status.feed.lag, "change")],
      ["Gaps", countText(status.feed.gaps)],
      ["Revision", String(status.revision)],
      ["Oldest kept", String(status.oldest)],
      ["Store", status.store],
    ];
    this.facts.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: value.length > 14 ? "small" : "" }, value))));
    this.#showTables(status);
  }

  #showTables({ shards, workers, gateways, cluster }) {
    const pid = (process) => (process.pid === undefined ? [] : [String(process.pid)]);
    const pidHead = shards[0]?.pid === undefined ? [] : ["Process"];
    this.tables.replaceChildren(
      ...(cluster ? [tableOf("Machines of the cluster", ["Machine", "State"], machineRows(cluster))] : []),
      tableOf("Shards", ["Shard", ...pidHead, "State", "Keys", "Bytes", "Waiting"], shards.map((shard) => [String(shard.index), ...pid(shard), shard.state, countText(shard.keys), sizeText(shard.bytes), countText(shard.queue)])),
      tableOf("Web workers", ["Worker", ...pidHead, "In flight", "Connections"], workers.map((worker, at) => [String(at), ...pid(worker), countText(worker.in_flight), countText(worker.connections)])),
      tableOf("Gateways of the feed", ["Gateway", ...pidHead, "Clients"], gateways.map((gateway, at) => [String(at), ...pid(gateway), countText(gateway.clients)])),
    );
  }
}

const DURABILITY = { always: "each write flushed", everysec: "flushed each second", os: "left to the system", memory: "none: in memory" };
const ALL_UP = "Everything is up.";

function healthOf({ shards, log, cluster }) {
  const down = shards.filter(({ state }) => state !== "up").map(({ index, state }) => `shard ${index} is ${state}`);
  if (log.broken) down.push("the log is broken: writes are refused");
  if (log.full) down.push("the disk is full: writes are refused");
  down.push(...clusterProblems(cluster));
  if (!down.length) return ALL_UP;
  const text = down.join(", ");
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function tableOf(title, names, rows) {
  const head = h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...others]) => h("tr", {}, h("th", { scope: "row" }, first), ...others.map((cell) => h("td", {}, cell))));
  const table = h("table", {}, h("thead", {}, head), h("tbody", {}, ...body));
  return h("section", {}, h("h2", {}, title), h("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": title }, table));
}
