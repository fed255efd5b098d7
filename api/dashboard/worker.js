// A SharedWorker: it reads the event stream for all pages of this browser.
import { serve } from "./stream.js";

onconnect = e => serve(e.ports[0]);
