// The dashboard draws the responses of the REST API. Each module has one section of the page.
import "./api.js";
import { start } from "./live.js";
import "./head.js";
import "./summary.js";
import "./cluster.js";
import "./history.js";
import "./proxies.js";
import "./groups.js";
import "./lists.js";
import "./requests.js";
import "./events.js";
import "./target.js";
import "./audit.js";
import "./config.js";
import "./policy.js";
import "./plugins.js";

start();
