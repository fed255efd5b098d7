package socket

import "time"

// KeepAliveIdle is how long a connection is idle before the kernel sends the first keep-alive
// probe (RFC 9293 section 3.8.4). The number of probes and the time between them are the
// kernel's defaults.
const KeepAliveIdle = 30 * time.Second
