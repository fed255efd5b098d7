// The event stream of the gateway. All pages with the same key share one, because over HTTP/1.1 a browser has at most
// six connections to a host: six pages with a stream each would leave none for requests.

const types =
  "breaker,plugin_log,plugin_fault,plugin_quarantine,activation,policy,reload,ban,exhaustion,views,status,totals";

// Times in ms.
const opening = 4000, // maximum time until the first event; if it takes longer, a proxy buffers the stream
  silence = 25000, // maximum time without data; the gateway sends a heartbeat after 15 s
  fresh = 16000, // a connection whose latest data is younger is not restarted
  pause = 2000, // time until the next connection
  absence = 180000; // time without a ping after which a page is removed; a hidden page sends one ping a minute

const keep = 500; // events, for pages that are opened later

const streams = new Map(); // by key

// serve passes the stream to the page at the other end of a port. The page sends { key } to get the stream with this
// key, { key, ping } at intervals, { restart } to connect again, and { leave } when it is closed. It gets the messages
// of Stream, and { alive } as the answer to a ping.
export function serve(port) {
  let stream;
  port.onmessage = ({ data }) => {
    if (data.restart) return stream?.restart();
    if (data.ping && stream?.answer(port)) return;
    stream?.remove(port);
    stream = undefined;
    if (data.leave) return;
    stream = streams.get(data.key) || new Stream(data.key);
    stream.add(port);
  };
}

// Stream reads the events with a key while it has pages, and connects again when the connection has ended. The pages get
// { event } with its id, type and data; { date } of a response; { problem }, the reason why there are no events; and
// { refused } with the key if the gateway does not accept it. Then the stream has ended.
class Stream {
  pages = new Map(); // the time of the latest message, by port
  events = []; // the latest events, without those of the state
  state = new Map(); // the latest event of the types views, status and totals; of views, the one that names all
  open = false; // the first event of the connection has arrived
  problem = "";
  latest = 0; // time of the latest data, or when the connection began
  last = "0"; // id of the last event; with "0", the response begins with the oldest event that is kept

  constructor(key) {
    this.key = key;
    streams.set(key, this);
    this.run();
  }

  add(page) {
    this.pages.set(page, performance.now());
    const events = this.open ? [...this.events, ...this.state.values()] : this.events;
    for (const event of events) page.postMessage({ event });
    if (!this.open && this.problem) page.postMessage({ problem: this.problem });
  }

  remove(page) {
    this.pages.delete(page);
    if (!this.pages.size) this.end();
  }

  // answer answers a ping. It returns false if the page does not get the stream.
  answer(page) {
    if (!this.pages.has(page)) return false;
    this.pages.set(page, performance.now());
    page.postMessage({ alive: true });
    return true;
  }

  // removeAbsent removes the pages that have crashed.
  removeAbsent() {
    for (const [page, time] of this.pages) if (performance.now() - time > absence) this.remove(page);
  }

  restart() {
    if (performance.now() - this.latest > fresh) this.connection?.abort();
  }

  end() {
    this.ended = true;
    if (streams.get(this.key) === this) streams.delete(this.key);
    this.connection?.abort();
  }

  tell(message) {
    for (const page of this.pages.keys()) page.postMessage(message);
  }

  report(problem) {
    this.open = false;
    this.problem = problem;
    this.tell({ problem });
  }

  async run() {
    while (!this.ended) {
      const problem = await this.read().catch(() => "the event stream has ended");
      if (this.ended) return;
      this.report(problem);
      await new Promise(next => setTimeout(next, pause));
    }
  }

  // read reads events until the connection ends, and returns the reason.
  async read() {
    if (!self.TextDecoderStream) return "this browser cannot read the event stream";
    const abort = (this.connection = new AbortController());
    this.latest = performance.now();
    const timer = setInterval(() => {
      this.removeAbsent();
      const quiet = performance.now() - this.latest;
      if (this.open && quiet > silence) abort.abort();
      if (!this.open && quiet > opening) this.report("a proxy holds the event stream back");
    }, 1000);
    try {
      const headers = { "Last-Event-ID": this.last };
      if (this.key) headers.Authorization = "Bearer " + this.key;
      const response = await fetch("api/v1/events?type=" + types, { headers, signal: abort.signal });
      this.tell({ date: response.headers.get("Date") });
      if (response.status === 401) {
        this.tell({ refused: this.key });
        this.end();
        return "";
      }
      if (!response.ok) return (await response.json().catch(() => ({}))).message || "the event stream has status " + response.status;
      this.state.clear();
      for await (const event of eventsOf(response.body, () => (this.latest = performance.now()))) this.pass(event);
      return "the event stream has ended";
    } finally {
      clearInterval(timer);
      abort.abort();
    }
  }

  pass(event) {
    if (event.id) this.last = event.id;
    if (!event.data) return;
    if (!["views", "status", "totals"].includes(event.type)) {
      this.events.push(event);
      if (this.events.length > keep) this.events.shift();
    } else if (event.type !== "views" || !this.state.has("views")) this.state.set(event.type, event);
    if (event.type === "views") this.open = true;
    this.tell({ event });
  }
}

// eventsOf yields the events of a stream: id, type and data (the parsed JSON). The function alive is called whenever
// data arrives.
async function* eventsOf(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = {};
      for (const line of part.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      yield { id: fields.id, type: fields.event, data: fields.data && JSON.parse(fields.data) };
    }
  }
}
