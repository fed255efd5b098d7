package socket

import "time"

// KeepAliveIdle is the time without traffic after which the kernel sends the first keep-alive probe (RFC 9293 section
// 3.8.4). The number of further probes and the time between two probes are the kernel's defaults.
const KeepAliveIdle = 30 * time.Second
